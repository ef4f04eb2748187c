//! What a buyer remembers between commands: offers, announcements, what it saw itself, what it bought and what was delivered.

use std::path::Path;

use serde::{Deserialize, Serialize};
use sqlx::{Row as _, SqlitePool, sqlite::SqliteRow};
use tributary_ledger::open_database;
use tributary_protocol::Amount;
use tributary_reputation::store::{Ending, StoreQuery};
use tributary_waku::{MessageHash, PeerId, StoreQueryRequest, Timestamp};

use crate::{ClientError, buyer::AgreedTerms, rate::SentRating, session::SpendingCaps, uses::UseRecord};

const SCHEMA: &str = "
CREATE TABLE IF NOT EXISTS offers (provider TEXT PRIMARY KEY, bytes BLOB NOT NULL, received INTEGER NOT NULL) STRICT;
CREATE TABLE IF NOT EXISTS relayers (relayer TEXT PRIMARY KEY, bytes BLOB NOT NULL, received INTEGER NOT NULL) STRICT;
CREATE TABLE IF NOT EXISTS evidence (id INTEGER PRIMARY KEY, provider TEXT NOT NULL, kind TEXT NOT NULL, bytes BLOB NOT NULL, at INTEGER NOT NULL) STRICT;
CREATE TABLE IF NOT EXISTS seen (
  hash BLOB PRIMARY KEY, content_topic TEXT NOT NULL, timestamp INTEGER NOT NULL, received INTEGER NOT NULL
) STRICT, WITHOUT ROWID;
CREATE INDEX IF NOT EXISTS seen_topic ON seen (content_topic, timestamp);
CREATE TABLE IF NOT EXISTS choices (id INTEGER PRIMARY KEY, provider TEXT NOT NULL, service TEXT NOT NULL, at INTEGER NOT NULL) STRICT;
CREATE TABLE IF NOT EXISTS quotes (id INTEGER PRIMARY KEY, provider TEXT NOT NULL, offer BLOB NOT NULL, quote BLOB NOT NULL, request BLOB NOT NULL,
  at INTEGER NOT NULL, opened INTEGER NOT NULL DEFAULT 0) STRICT;
CREATE TABLE IF NOT EXISTS purchases (
  commitment BLOB PRIMARY KEY, provider TEXT NOT NULL, offer BLOB NOT NULL, quote BLOB NOT NULL, at INTEGER NOT NULL
) STRICT, WITHOUT ROWID;
CREATE TABLE IF NOT EXISTS deliveries (
  id INTEGER PRIMARY KEY, provider TEXT NOT NULL, at INTEGER NOT NULL, body TEXT NOT NULL, assessed INTEGER NOT NULL DEFAULT 0
) STRICT;
CREATE TABLE IF NOT EXISTS spending (id INTEGER PRIMARY KEY, provider TEXT NOT NULL, amount BLOB NOT NULL, at INTEGER NOT NULL) STRICT;
CREATE INDEX IF NOT EXISTS spending_at ON spending (at);
CREATE TABLE IF NOT EXISTS uses (
  id INTEGER PRIMARY KEY, provider TEXT NOT NULL, service TEXT NOT NULL, at INTEGER NOT NULL, body TEXT NOT NULL,
  assessed INTEGER NOT NULL DEFAULT 0
) STRICT;
CREATE TABLE IF NOT EXISTS ratings (
  commitment BLOB PRIMARY KEY, provider TEXT NOT NULL, service TEXT NOT NULL, score INTEGER NOT NULL, made_at INTEGER NOT NULL,
  revision INTEGER NOT NULL, due INTEGER NOT NULL, sent INTEGER NOT NULL, payload BLOB NOT NULL
) STRICT, WITHOUT ROWID;
CREATE TABLE IF NOT EXISTS failures (
  provider TEXT NOT NULL, service TEXT NOT NULL, at INTEGER NOT NULL, count INTEGER NOT NULL, reason TEXT NOT NULL,
  PRIMARY KEY (provider, service)
) STRICT, WITHOUT ROWID;
CREATE TABLE IF NOT EXISTS left_streams (commitment BLOB PRIMARY KEY, at INTEGER NOT NULL) STRICT, WITHOUT ROWID;
";

/// What counts as a day of spending, seconds.
const DAY: u64 = 86_400;

/// Messages whose hashes are remembered, at the most; the oldest are forgotten first.
const MAX_SEEN: i64 = 1_000_000;

/// Uses of Filter and Lightpush that are kept, at the most.
const MAX_USES: i64 = 1024;

/// Streams that wait to be stopped, at the most; the newest are kept.
const MAX_LEFT: i64 = 256;

/// A message that the buyer received itself.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SeenMessage {
    /// Its deterministic hash.
    pub hash: MessageHash,
    /// Its content topic.
    pub content_topic: String,
    /// Its timestamp, nanoseconds.
    pub timestamp: i64,
}

/// One page of an answer.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct DeliveredPage {
    /// From sending the request to having read its answer, microseconds.
    pub latency_us: u64,
    /// Messages in it.
    pub messages: usize,
    /// Whether the provider said that more follows.
    pub more: bool,
}

/// One message of an answer.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct DeliveredMessage {
    /// The hash that the provider named.
    pub hash: [u8; 32],
    /// The hash of what came; none when only hashes were asked for.
    pub content_hash: Option<[u8; 32]>,
    /// Pubsub topic.
    pub pubsub_topic: String,
    /// Content topic.
    pub content_topic: String,
    /// Timestamp, nanoseconds.
    pub timestamp: i64,
}

/// What a provider answered to one query.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Delivery {
    /// Random id.
    pub id: String,
    /// Peer id of who answered.
    pub provider: String,
    /// Service id.
    pub service: String,
    /// What was asked for.
    pub query: StoreQuery,
    /// When the query began, Unix seconds.
    pub at: u64,
    /// Whether the last page was reached.
    pub exhausted: bool,
    /// How it ended.
    pub ending: Ending,
    /// Its pages.
    pub pages: Vec<DeliveredPage>,
    /// Its messages.
    pub messages: Vec<DeliveredMessage>,
}

impl Delivery {
    /// A query that was not answered yet.
    #[must_use]
    pub fn begin(provider: PeerId, request: &StoreQueryRequest, at: u64) -> Self {
        Self {
            id: request.request_id.clone(),
            provider: provider.to_string(),
            service: "store".into(),
            query: StoreQuery {
                pubsub_topic: request.pubsub_topic.map(|topic| topic.to_string()),
                content_topics: request.content_topics.iter().map(ToString::to_string).collect(),
                time_start: request.time_start.map(Timestamp::as_nanos),
                time_end: request.time_end.map(Timestamp::as_nanos),
            },
            at,
            exhausted: false,
            ending: Ending::Answered,
            pages: Vec::new(),
            messages: Vec::new(),
        }
    }
}

/// What an open stream was opened for.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Purchase {
    /// The stream note's commitment.
    pub commitment: [u8; 32],
    /// Provider.
    pub provider: PeerId,
    /// The signed offer under which it was opened.
    pub offer: Vec<u8>,
    /// The signed quote.
    pub quote: Vec<u8>,
    /// Unix seconds.
    pub at: u64,
}

/// A provider's latest failures at a service, one after the other.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Failures {
    /// Peer id.
    pub provider: String,
    /// Service id.
    pub service: String,
    /// The latest, Unix seconds.
    pub at: u64,
    /// How many since it worked last.
    pub count: u32,
    /// How the latest showed.
    pub reason: String,
}

impl Failures {
    /// Until when others are preferred: five minutes after the first one, twice as long with each further one, a day at the most.
    #[must_use]
    pub fn avoided_until(&self) -> u64 {
        const FIRST: u64 = 300;
        const LONGEST: u64 = 86_400;
        let doublings = self.count.saturating_sub(1).min(20);
        self.at.saturating_add((FIRST << doublings).min(LONGEST))
    }
}

/// Providers and services whose failures are remembered, at the most; the oldest are forgotten first.
const MAX_FAILURES: i64 = 4096;

/// A quote that was agreed and perhaps not used.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct StoredQuote {
    /// Number in the database.
    pub id: i64,
    /// Who signed it.
    pub provider: PeerId,
    /// The signed offer.
    pub offer: Vec<u8>,
    /// The signed quote.
    pub quote: Vec<u8>,
    /// The request that it answers.
    pub request: Vec<u8>,
}

/// The buyer's database.
#[derive(Debug, Clone)]
pub struct ClientStore(SqlitePool);

impl ClientStore {
    /// Opens or makes the database at `path`.
    ///
    /// # Errors
    /// When the file cannot be opened.
    pub async fn open(path: &Path) -> Result<Self, ClientError> {
        let pool = open_database(path).await?;
        sqlx::raw_sql(SCHEMA).execute(&pool).await?;
        Ok(Self(pool))
    }

    /// Remembers a provider's newest signed offer.
    ///
    /// # Errors
    /// When the database fails; so do all other methods.
    pub async fn put_offer(&self, provider: PeerId, bytes: &[u8], now: u64) -> Result<(), ClientError> {
        self.put("INSERT INTO offers (provider, bytes, received) VALUES (?, ?, ?) ON CONFLICT (provider) DO UPDATE SET bytes = excluded.bytes, received = excluded.received", provider, bytes, now)
            .await
    }

    /// Remembers a relayer's newest announcement.
    ///
    /// # Errors
    /// When the database fails.
    pub async fn put_relayer(&self, relayer: PeerId, bytes: &[u8], now: u64) -> Result<(), ClientError> {
        self.put("INSERT INTO relayers (relayer, bytes, received) VALUES (?, ?, ?) ON CONFLICT (relayer) DO UPDATE SET bytes = excluded.bytes, received = excluded.received", relayer, bytes, now)
            .await
    }

    /// Keeps proof of a provider's misbehaviour.
    ///
    /// # Errors
    /// When the database fails.
    pub async fn put_evidence(&self, provider: PeerId, kind: &str, bytes: &[u8], now: u64) -> Result<(), ClientError> {
        sqlx::query("INSERT INTO evidence (provider, kind, bytes, at) VALUES (?, ?, ?, ?)")
            .bind(provider.to_string())
            .bind(kind)
            .bind(bytes)
            .bind(signed(now))
            .execute(&self.0)
            .await?;
        Ok(())
    }

    /// Signed offers, newest first, at most 1,024.
    ///
    /// # Errors
    /// When the database fails.
    pub async fn offers(&self) -> Result<Vec<Vec<u8>>, ClientError> {
        Ok(sqlx::query_scalar("SELECT bytes FROM offers ORDER BY received DESC LIMIT 1024").fetch_all(&self.0).await?)
    }

    /// Signed announcements, newest first, at most 256.
    ///
    /// # Errors
    /// When the database fails.
    pub async fn relayers(&self) -> Result<Vec<Vec<u8>>, ClientError> {
        Ok(sqlx::query_scalar("SELECT bytes FROM relayers ORDER BY received DESC LIMIT 256").fetch_all(&self.0).await?)
    }

    /// Remembers that messages were received; returns how many are new.
    ///
    /// # Errors
    /// When the database fails.
    pub async fn put_seen(&self, messages: &[SeenMessage], now: u64) -> Result<u64, ClientError> {
        let mut tx = self.0.begin_with("BEGIN IMMEDIATE").await?;
        let mut new = 0;
        for message in messages {
            new += sqlx::query(
                "INSERT OR IGNORE INTO seen (hash, content_topic, timestamp, received) VALUES (?, ?, ?, ?)",
            )
            .bind(&message.hash.as_bytes()[..])
            .bind(&message.content_topic)
            .bind(message.timestamp)
            .bind(signed(now))
            .execute(&mut *tx)
            .await?
            .rows_affected();
        }
        let count: i64 = sqlx::query_scalar("SELECT count(*) FROM seen").fetch_one(&mut *tx).await?;
        if count > MAX_SEEN {
            sqlx::query("DELETE FROM seen WHERE hash IN (SELECT hash FROM seen ORDER BY received LIMIT ?)")
                .bind(count - MAX_SEEN)
                .execute(&mut *tx)
                .await?;
        }
        tx.commit().await?;
        Ok(new)
    }

    /// Messages of a topic seen in a time range (nanoseconds, both ends inclusive).
    ///
    /// # Errors
    /// When the database fails.
    pub async fn seen(&self, content_topic: &str, from: i64, to: i64) -> Result<Vec<MessageHash>, ClientError> {
        let rows = sqlx::query("SELECT hash FROM seen WHERE content_topic = ? AND timestamp BETWEEN ? AND ? ORDER BY timestamp LIMIT 100000")
            .bind(content_topic)
            .bind(from)
            .bind(to)
            .fetch_all(&self.0)
            .await?;
        rows.iter().map(|row| Ok(hash(row.try_get("hash")?))).collect()
    }

    /// Remembers which provider was chosen.
    ///
    /// # Errors
    /// When the database fails.
    pub async fn put_choice(&self, provider: PeerId, service: &str, now: u64) -> Result<(), ClientError> {
        sqlx::query("INSERT INTO choices (provider, service, at) VALUES (?, ?, ?)")
            .bind(provider.to_string())
            .bind(service)
            .bind(signed(now))
            .execute(&self.0)
            .await?;
        Ok(())
    }

    /// The provider chosen last.
    ///
    /// # Errors
    /// When the database fails.
    pub async fn last_choice(&self) -> Result<Option<PeerId>, ClientError> {
        let text: Option<String> =
            sqlx::query_scalar("SELECT provider FROM choices ORDER BY id DESC LIMIT 1").fetch_optional(&self.0).await?;
        Ok(text.and_then(|text| text.parse().ok()))
    }

    /// The provider chosen last, and the service that it was chosen for.
    ///
    /// # Errors
    /// When the database fails.
    pub async fn last_choice_and_service(&self) -> Result<Option<(PeerId, String)>, ClientError> {
        let row = sqlx::query("SELECT provider, service FROM choices ORDER BY id DESC LIMIT 1")
            .fetch_optional(&self.0)
            .await?;
        let Some(row) = row else { return Ok(None) };
        Ok(Some((peer(row.try_get("provider")?)?, row.try_get("service")?)))
    }

    /// Keeps an agreed quote, before a stream is opened under it.
    ///
    /// # Errors
    /// When the database fails.
    pub async fn put_quote(
        &self,
        provider: PeerId,
        offer: &[u8],
        quote: &[u8],
        request: &[u8],
        now: u64,
    ) -> Result<i64, ClientError> {
        Ok(sqlx::query("INSERT INTO quotes (provider, offer, quote, request, at) VALUES (?, ?, ?, ?, ?)")
            .bind(provider.to_string())
            .bind(offer)
            .bind(quote)
            .bind(request)
            .bind(signed(now))
            .execute(&self.0)
            .await?
            .last_insert_rowid())
    }

    /// The newest quote that no stream was opened under.
    ///
    /// # Errors
    /// When the database fails.
    pub async fn open_quote(&self) -> Result<Option<StoredQuote>, ClientError> {
        let row = sqlx::query("SELECT * FROM quotes WHERE opened = 0 ORDER BY id DESC LIMIT 1")
            .fetch_optional(&self.0)
            .await?;
        row.as_ref().map(stored_quote).transpose()
    }

    /// The newest quotes that were kept since `since`, used or not; 256 at the most.
    ///
    /// # Errors
    /// When the database fails.
    pub async fn quotes_since(&self, since: u64) -> Result<Vec<StoredQuote>, ClientError> {
        let rows = sqlx::query("SELECT * FROM quotes WHERE at >= ? ORDER BY id DESC LIMIT 256")
            .bind(signed(since))
            .fetch_all(&self.0)
            .await?;
        rows.iter().map(stored_quote).collect()
    }

    /// Notes what a stream is opened for, before it is sent.
    ///
    /// # Errors
    /// When the database fails.
    pub async fn put_purchase(&self, purchase: &Purchase, quote: i64) -> Result<(), ClientError> {
        let mut tx = self.0.begin_with("BEGIN IMMEDIATE").await?;
        sqlx::query("INSERT OR REPLACE INTO purchases (commitment, provider, offer, quote, at) VALUES (?, ?, ?, ?, ?)")
            .bind(&purchase.commitment[..])
            .bind(purchase.provider.to_string())
            .bind(&purchase.offer)
            .bind(&purchase.quote)
            .bind(signed(purchase.at))
            .execute(&mut *tx)
            .await?;
        sqlx::query("UPDATE quotes SET opened = 1 WHERE id = ?").bind(quote).execute(&mut *tx).await?;
        tx.commit().await?;
        Ok(())
    }

    /// Counts `amount` as spent on a provider, before it is. With caps it is counted only within them.
    ///
    /// # Errors
    /// [`ClientError::PurchaseCap`], [`ClientError::DayCap`]; when the database fails.
    pub async fn reserve(
        &self,
        provider: PeerId,
        amount: Amount,
        caps: Option<&SpendingCaps>,
        now: u64,
    ) -> Result<i64, ClientError> {
        let mut tx = self.0.begin_with("BEGIN IMMEDIATE").await?;
        if let Some(caps) = caps {
            if amount > caps.purchase {
                return Err(ClientError::PurchaseCap { needed: amount.get(), cap: caps.purchase.get() });
            }
            let amounts =
                sqlx::query_scalar("SELECT amount FROM spending WHERE at > ?").bind(signed(now.saturating_sub(DAY)));
            let spent = total(&amounts.fetch_all(&mut *tx).await?)?;
            if spent.saturating_add(amount.get()) > caps.day.get() {
                return Err(ClientError::DayCap { needed: amount.get(), spent, cap: caps.day.get() });
            }
        }
        // Twice a day is kept, so that a clock that is set back a little forgets nothing.
        sqlx::query("DELETE FROM spending WHERE at < ?")
            .bind(signed(now.saturating_sub(2 * DAY)))
            .execute(&mut *tx)
            .await?;
        let id = sqlx::query("INSERT INTO spending (provider, amount, at) VALUES (?, ?, ?)")
            .bind(provider.to_string())
            .bind(&amount.get().to_be_bytes()[..])
            .bind(signed(now))
            .execute(&mut *tx)
            .await?
            .last_insert_rowid();
        tx.commit().await?;
        Ok(id)
    }

    /// What a purchase took in the end.
    ///
    /// # Errors
    /// When the database fails.
    pub async fn settle(&self, spending: i64, amount: Amount) -> Result<(), ClientError> {
        sqlx::query("UPDATE spending SET amount = ? WHERE id = ?")
            .bind(&amount.get().to_be_bytes()[..])
            .bind(spending)
            .execute(&self.0)
            .await?;
        Ok(())
    }

    /// A purchase took nothing: certainly nobody has its transaction.
    ///
    /// # Errors
    /// When the database fails.
    pub async fn release(&self, spending: i64) -> Result<(), ClientError> {
        sqlx::query("DELETE FROM spending WHERE id = ?").bind(spending).execute(&self.0).await?;
        Ok(())
    }

    /// What was spent in the 24 hours until `now`, base units. What may be on its way is counted whole.
    ///
    /// # Errors
    /// When the database fails.
    pub async fn spent_in_a_day(&self, now: u64) -> Result<u128, ClientError> {
        let amounts =
            sqlx::query_scalar("SELECT amount FROM spending WHERE at > ?").bind(signed(now.saturating_sub(DAY)));
        total(&amounts.fetch_all(&self.0).await?)
    }

    /// Notes that a stream shall be stopped.
    pub(crate) async fn leave(&self, commitment: &[u8; 32], now: u64) -> Result<(), ClientError> {
        let mut tx = self.0.begin_with("BEGIN IMMEDIATE").await?;
        sqlx::query("INSERT OR IGNORE INTO left_streams (commitment, at) VALUES (?, ?)")
            .bind(&commitment[..])
            .bind(signed(now))
            .execute(&mut *tx)
            .await?;
        sqlx::query(
            "DELETE FROM left_streams WHERE commitment IN
             (SELECT commitment FROM left_streams ORDER BY at DESC, commitment LIMIT -1 OFFSET ?)",
        )
        .bind(MAX_LEFT)
        .execute(&mut *tx)
        .await?;
        tx.commit().await?;
        Ok(())
    }

    /// Streams that wait to be stopped, those that were left first at the front.
    pub(crate) async fn left(&self) -> Result<Vec<[u8; 32]>, ClientError> {
        let rows = sqlx::query_scalar::<_, Vec<u8>>("SELECT commitment FROM left_streams ORDER BY at, commitment")
            .fetch_all(&self.0)
            .await?;
        rows.into_iter()
            .map(|bytes| bytes.try_into().map_err(|_| ClientError::Damaged { what: "a stream's commitment" }))
            .collect()
    }

    /// A stream waits no more.
    pub(crate) async fn forget_left(&self, commitment: &[u8; 32]) -> Result<(), ClientError> {
        sqlx::query("DELETE FROM left_streams WHERE commitment = ?").bind(&commitment[..]).execute(&self.0).await?;
        Ok(())
    }

    /// Purchases, newest first, at most 1,024.
    ///
    /// # Errors
    /// When the database fails.
    pub async fn purchases(&self) -> Result<Vec<Purchase>, ClientError> {
        let rows = sqlx::query("SELECT * FROM purchases ORDER BY at DESC LIMIT 1024").fetch_all(&self.0).await?;
        rows.iter()
            .map(|row| {
                Ok(Purchase {
                    commitment: *hash(row.try_get("commitment")?).as_bytes(),
                    provider: peer(row.try_get("provider")?)?,
                    offer: row.try_get("offer")?,
                    quote: row.try_get("quote")?,
                    at: unsigned(row.try_get("at")?),
                })
            })
            .collect()
    }

    /// Stores a delivery.
    ///
    /// # Errors
    /// When the database fails.
    pub async fn put_delivery(&self, delivery: &Delivery) -> Result<(), ClientError> {
        let body = serde_json::to_string(delivery).map_err(|_| ClientError::Damaged { what: "a delivery" })?;
        sqlx::query("INSERT INTO deliveries (provider, at, body) VALUES (?, ?, ?)")
            .bind(&delivery.provider)
            .bind(signed(delivery.at))
            .bind(body)
            .execute(&self.0)
            .await?;
        Ok(())
    }

    /// The newest delivery and its number, of `provider` if one is named.
    ///
    /// # Errors
    /// When the database fails.
    pub async fn last_delivery(&self, provider: Option<PeerId>) -> Result<Option<(i64, Delivery)>, ClientError> {
        let provider = provider.map(|peer| peer.to_string());
        let row =
            sqlx::query("SELECT id, body FROM deliveries WHERE ?1 IS NULL OR provider = ?1 ORDER BY id DESC LIMIT 1")
                .bind(&provider)
                .fetch_optional(&self.0)
                .await?;
        let Some(row) = row else { return Ok(None) };
        let body: String = row.try_get("body")?;
        let delivery = serde_json::from_str(&body).map_err(|_| ClientError::Damaged { what: "a delivery" })?;
        Ok(Some((row.try_get("id")?, delivery)))
    }

    /// Marks a delivery as assessed; false when it was already: one delivery counts once.
    ///
    /// # Errors
    /// When the database fails.
    pub async fn assessed(&self, delivery: i64) -> Result<bool, ClientError> {
        Ok(sqlx::query("UPDATE deliveries SET assessed = 1 WHERE id = ? AND assessed = 0")
            .bind(delivery)
            .execute(&self.0)
            .await?
            .rows_affected()
            == 1)
    }

    /// Keeps a use until it is assessed; the oldest are forgotten beyond 1,024. Returns its number.
    ///
    /// # Errors
    /// When the database fails.
    pub async fn put_use(
        &self,
        provider: PeerId,
        service: &str,
        record: &UseRecord,
        now: u64,
    ) -> Result<i64, ClientError> {
        let body = serde_json::to_string(record).map_err(|_| ClientError::Damaged { what: "a use" })?;
        let number = sqlx::query("INSERT INTO uses (provider, service, at, body) VALUES (?, ?, ?, ?)")
            .bind(provider.to_string())
            .bind(service)
            .bind(signed(now))
            .bind(body)
            .execute(&self.0)
            .await?
            .last_insert_rowid();
        sqlx::query("DELETE FROM uses WHERE id <= ?").bind(number.saturating_sub(MAX_USES)).execute(&self.0).await?;
        Ok(number)
    }

    /// The newest use, of `provider` and `service` if they are named: its number, its time and what it was.
    ///
    /// # Errors
    /// When the database fails.
    pub async fn last_use(
        &self,
        provider: Option<PeerId>,
        service: Option<&str>,
    ) -> Result<Option<(i64, u64, UseRecord)>, ClientError> {
        let row = sqlx::query(
            "SELECT id, at, body FROM uses WHERE (?1 IS NULL OR provider = ?1) AND (?2 IS NULL OR service = ?2)
             ORDER BY id DESC LIMIT 1",
        )
        .bind(provider.map(|peer| peer.to_string()))
        .bind(service)
        .fetch_optional(&self.0)
        .await?;
        let Some(row) = row else { return Ok(None) };
        let body: String = row.try_get("body")?;
        let record = serde_json::from_str(&body).map_err(|_| ClientError::Damaged { what: "a use" })?;
        Ok(Some((row.try_get("id")?, unsigned(row.try_get("at")?), record)))
    }

    /// Marks a use as assessed.
    ///
    /// # Errors
    /// When the database fails.
    pub async fn use_assessed(&self, number: i64) -> Result<(), ClientError> {
        sqlx::query("UPDATE uses SET assessed = 1 WHERE id = ?").bind(number).execute(&self.0).await?;
        Ok(())
    }

    /// Whether the buyer received this message itself.
    ///
    /// # Errors
    /// When the database fails.
    pub async fn has_seen(&self, hash: &[u8; 32]) -> Result<bool, ClientError> {
        let found: i64 =
            sqlx::query_scalar("SELECT count(*) FROM seen WHERE hash = ?").bind(&hash[..]).fetch_one(&self.0).await?;
        Ok(found > 0)
    }

    /// The service that a signed quote was for.
    ///
    /// # Errors
    /// When the database fails, or has no such quote.
    pub async fn service_of(&self, quote: &[u8]) -> Result<String, ClientError> {
        let request: Option<Vec<u8>> = sqlx::query_scalar("SELECT request FROM quotes WHERE quote = ?")
            .bind(quote)
            .fetch_optional(&self.0)
            .await?;
        let terms = request.and_then(|request| serde_json::from_slice::<AgreedTerms>(&request).ok());
        Ok(terms.ok_or(ClientError::Damaged { what: "a quote" })?.service)
    }

    /// Keeps a rating before it is published. It replaces the one by the same stream.
    ///
    /// # Errors
    /// When the database fails.
    pub async fn put_rating(&self, rating: &SentRating) -> Result<(), ClientError> {
        sqlx::query(
            "INSERT OR REPLACE INTO ratings (commitment, provider, service, score, made_at, revision, due, sent, payload)
             VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?)",
        )
        .bind(&rating.commitment[..])
        .bind(rating.provider.to_string())
        .bind(&rating.service)
        .bind(i64::from(rating.score))
        .bind(signed(rating.made_at))
        .bind(i64::from(rating.revision))
        .bind(signed(rating.due))
        .bind(rating.sent)
        .bind(&rating.payload)
        .execute(&self.0)
        .await?;
        Ok(())
    }

    /// The rating by a stream.
    ///
    /// # Errors
    /// When the database fails.
    pub async fn rating(&self, commitment: &[u8; 32]) -> Result<Option<SentRating>, ClientError> {
        let row = sqlx::query("SELECT * FROM ratings WHERE commitment = ?")
            .bind(&commitment[..])
            .fetch_optional(&self.0)
            .await?;
        row.as_ref().map(sent_rating).transpose()
    }

    /// All ratings that were made, the newest first, at most 1,024.
    ///
    /// # Errors
    /// When the database fails.
    pub async fn ratings(&self) -> Result<Vec<SentRating>, ClientError> {
        let rows = sqlx::query("SELECT * FROM ratings ORDER BY due DESC LIMIT 1024").fetch_all(&self.0).await?;
        rows.iter().map(sent_rating).collect()
    }

    /// Ratings that are due and not published.
    ///
    /// # Errors
    /// When the database fails.
    pub async fn due_ratings(&self, now: u64, limit: u32) -> Result<Vec<SentRating>, ClientError> {
        let rows = sqlx::query("SELECT * FROM ratings WHERE sent = 0 AND due <= ? ORDER BY due LIMIT ?")
            .bind(signed(now))
            .bind(limit)
            .fetch_all(&self.0)
            .await?;
        rows.iter().map(sent_rating).collect()
    }

    /// Notes that a rating was published.
    ///
    /// # Errors
    /// When the database fails.
    pub async fn rating_sent(&self, commitment: &[u8; 32], made_at: u64, revision: u32) -> Result<(), ClientError> {
        sqlx::query("UPDATE ratings SET sent = 1 WHERE commitment = ? AND made_at = ? AND revision = ?")
            .bind(&commitment[..])
            .bind(signed(made_at))
            .bind(i64::from(revision))
            .execute(&self.0)
            .await?;
        Ok(())
    }

    /// Notes a provider's failure at a service.
    ///
    /// # Errors
    /// When the database fails.
    pub async fn put_failure(
        &self,
        provider: PeerId,
        service: &str,
        reason: &str,
        now: u64,
    ) -> Result<(), ClientError> {
        let reason: String = reason.chars().filter(|c| !c.is_control()).take(256).collect();
        let mut tx = self.0.begin_with("BEGIN IMMEDIATE").await?;
        sqlx::query(
            "INSERT INTO failures (provider, service, at, count, reason) VALUES (?, ?, ?, 1, ?)
             ON CONFLICT (provider, service) DO UPDATE SET at = excluded.at, count = count + 1, reason = excluded.reason",
        )
        .bind(provider.to_string())
        .bind(service)
        .bind(signed(now))
        .bind(reason)
        .execute(&mut *tx)
        .await?;
        sqlx::query(
            "DELETE FROM failures WHERE (provider, service) IN
             (SELECT provider, service FROM failures ORDER BY at DESC, provider LIMIT -1 OFFSET ?)",
        )
        .bind(MAX_FAILURES)
        .execute(&mut *tx)
        .await?;
        tx.commit().await?;
        Ok(())
    }

    /// Notes that a provider's service worked: earlier failures are over.
    ///
    /// # Errors
    /// When the database fails.
    pub async fn forget_failures(&self, provider: PeerId, service: &str) -> Result<(), ClientError> {
        sqlx::query("DELETE FROM failures WHERE provider = ? AND service = ?")
            .bind(provider.to_string())
            .bind(service)
            .execute(&self.0)
            .await?;
        Ok(())
    }

    /// Failures of all providers at a service.
    ///
    /// # Errors
    /// When the database fails.
    pub async fn failures(&self, service: &str) -> Result<Vec<Failures>, ClientError> {
        let rows = sqlx::query("SELECT * FROM failures WHERE service = ? ORDER BY at DESC")
            .bind(service)
            .fetch_all(&self.0)
            .await?;
        rows.iter()
            .map(|row| {
                let count: i64 = row.try_get("count")?;
                Ok(Failures {
                    provider: row.try_get("provider")?,
                    service: row.try_get("service")?,
                    at: unsigned(row.try_get("at")?),
                    count: u32::try_from(count).unwrap_or(u32::MAX),
                    reason: row.try_get("reason")?,
                })
            })
            .collect()
    }

    async fn put(&self, sql: &'static str, peer: PeerId, bytes: &[u8], now: u64) -> Result<(), ClientError> {
        sqlx::query(sql).bind(peer.to_string()).bind(bytes).bind(signed(now)).execute(&self.0).await?;
        Ok(())
    }
}

fn stored_quote(row: &SqliteRow) -> Result<StoredQuote, ClientError> {
    Ok(StoredQuote {
        id: row.try_get("id")?,
        provider: peer(row.try_get("provider")?)?,
        offer: row.try_get("offer")?,
        quote: row.try_get("quote")?,
        request: row.try_get("request")?,
    })
}

fn total(amounts: &[Vec<u8>]) -> Result<u128, ClientError> {
    amounts.iter().try_fold(0u128, |sum, amount| {
        let amount = amount.as_slice().try_into().map_err(|_| ClientError::Damaged { what: "an amount" })?;
        Ok(sum.saturating_add(u128::from_be_bytes(amount)))
    })
}

fn sent_rating(row: &SqliteRow) -> Result<SentRating, ClientError> {
    let (score, revision): (i64, i64) = (row.try_get("score")?, row.try_get("revision")?);
    Ok(SentRating {
        commitment: *hash(row.try_get("commitment")?).as_bytes(),
        provider: peer(row.try_get("provider")?)?,
        service: row.try_get("service")?,
        score: u16::try_from(score).map_err(|_| ClientError::Damaged { what: "a rating" })?,
        made_at: unsigned(row.try_get("made_at")?),
        revision: u32::try_from(revision).map_err(|_| ClientError::Damaged { what: "a rating" })?,
        due: unsigned(row.try_get("due")?),
        sent: row.try_get("sent")?,
        payload: row.try_get("payload")?,
    })
}

fn peer(text: &str) -> Result<PeerId, ClientError> {
    text.parse().map_err(|_| ClientError::Damaged { what: "a peer id" })
}

fn hash(bytes: &[u8]) -> MessageHash {
    let mut out = [0; 32];
    let length = bytes.len().min(32);
    out[..length].copy_from_slice(&bytes[..length]);
    MessageHash::from_bytes(out)
}

fn signed(value: u64) -> i64 {
    i64::try_from(value).unwrap_or(i64::MAX)
}

fn unsigned(value: i64) -> u64 {
    u64::try_from(value).unwrap_or(0)
}
