//! What a relayer must not forget: each request before it is sent, each signed transaction before it leaves.

use std::path::Path;

use alloy::primitives::{B256, Bytes, U256};
use sqlx::{Row, SqlitePool, sqlite::SqliteRow};
use tributary_ledger::open_database;

use crate::RelayerError;

const SCHEMA: &str = "
CREATE TABLE IF NOT EXISTS requests (
  id INTEGER PRIMARY KEY AUTOINCREMENT,
  key BLOB NOT NULL UNIQUE,
  call BLOB NOT NULL,
  insertion INTEGER NOT NULL,
  state TEXT NOT NULL,
  leaves_until INTEGER,
  mined_block INTEGER,
  mined_tx BLOB,
  reason_code TEXT,
  reason TEXT,
  attempts INTEGER NOT NULL DEFAULT 0,
  created INTEGER NOT NULL
) STRICT;
CREATE INDEX IF NOT EXISTS requests_state ON requests (state, id);
CREATE INDEX IF NOT EXISTS requests_created ON requests (created);
CREATE TABLE IF NOT EXISTS exclusive (
  value BLOB PRIMARY KEY,
  request INTEGER NOT NULL REFERENCES requests (id)
) STRICT, WITHOUT ROWID;
CREATE TABLE IF NOT EXISTS sent (
  nonce INTEGER NOT NULL,
  tx_hash BLOB NOT NULL,
  raw BLOB NOT NULL,
  request INTEGER REFERENCES requests (id),
  mined_block INTEGER,
  created INTEGER NOT NULL,
  PRIMARY KEY (nonce, tx_hash)
) STRICT, WITHOUT ROWID;
CREATE TABLE IF NOT EXISTS counters (name TEXT PRIMARY KEY, value INTEGER NOT NULL) STRICT, WITHOUT ROWID;
";

/// A request's idempotency key: 16 random bytes of the client's.
pub type RequestKey = [u8; 16];

/// Where a request stands.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum RequestState {
    /// Stored, not sent yet.
    Accepted,
    /// Sent.
    Pending {
        /// The newest transaction that carries it.
        transaction: B256,
    },
    /// Mined with the expected effect.
    Confirmed {
        /// Its transaction.
        transaction: B256,
        /// Its block.
        block: u64,
        /// Whether its leaves are in the tree.
        inserted: bool,
    },
    /// It will not be sent any more, and did nothing.
    Rejected {
        /// Stable code.
        code: String,
        /// In words.
        reason: String,
    },
}

/// A stored request.
#[derive(Debug, Clone)]
pub struct StoredRequest {
    /// Order of arrival.
    pub id: i64,
    /// The pool's call data.
    pub call: Bytes,
    /// Whether insertion until its leaves are in the tree is part of it.
    pub insertion: bool,
    /// Where it stands.
    pub state: RequestState,
    /// Once mined: the number of leaves that must be in the tree before it is finished.
    pub leaves_until: Option<u64>,
    /// How often it was sent and reverted.
    pub attempts: u32,
}

/// A signed transaction that may be on the chain.
#[derive(Debug, Clone)]
pub struct SentTransaction {
    /// Account nonce.
    pub nonce: u64,
    /// Hash.
    pub hash: B256,
    /// The signed transaction.
    pub raw: Bytes,
    /// The request that it carries; none for an insertion alone.
    pub request: Option<i64>,
    /// The block in which it was seen mined; it is kept until that block is deep.
    pub mined_block: Option<u64>,
    /// When it was signed, Unix seconds.
    pub signed_at: u64,
}

/// Where a call was carried out.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Done {
    /// The transaction that carried it.
    pub transaction: B256,
    /// Its block.
    pub block: u64,
    /// Leaves that must be in the tree before its own are.
    pub leaves_until: u64,
}

/// Requests by state.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct RequestCounts {
    /// Stored, not sent yet.
    pub waiting: u64,
    /// Sent, not mined yet.
    pub pending: u64,
    /// Mined; their leaves are not known to be in the tree.
    pub mined: u64,
    /// Mined, their leaves in the tree.
    pub inserted: u64,
    /// Not sent any more.
    pub rejected: u64,
}

/// The relayer's database.
#[derive(Debug, Clone)]
pub struct RelayerStore(SqlitePool);

impl RelayerStore {
    /// Opens or makes the database at `path`.
    ///
    /// # Errors
    /// When the file cannot be opened or its schema cannot be made.
    pub async fn open(path: &Path) -> Result<Self, RelayerError> {
        let pool = open_database(path).await?;
        sqlx::raw_sql(SCHEMA).execute(&pool).await?;
        Ok(Self(pool))
    }

    /// Stores a request, or finds the one with the same key. The second value is true when it is new.
    ///
    /// # Errors
    /// [`RelayerError::IdempotencyKeyReused`], [`RelayerError::NullifierUnderWay`], [`RelayerError::Full`].
    pub async fn accept(
        &self,
        key: RequestKey,
        call: &Bytes,
        insertion: bool,
        exclusive: &[U256],
        max_waiting: u64,
        now: u64,
    ) -> Result<(StoredRequest, bool), RelayerError> {
        let mut tx = self.0.begin_with("BEGIN IMMEDIATE").await?;
        if let Some(row) =
            sqlx::query("SELECT * FROM requests WHERE key = ?").bind(&key[..]).fetch_optional(&mut *tx).await?
        {
            let known = request(&row)?;
            if known.call != *call || known.insertion != insertion {
                return Err(RelayerError::IdempotencyKeyReused);
            }
            return Ok((known, false));
        }
        let waiting: i64 = sqlx::query_scalar("SELECT count(*) FROM requests WHERE state IN ('accepted', 'pending')")
            .fetch_one(&mut *tx)
            .await?;
        let waiting = u64::try_from(waiting).unwrap_or(u64::MAX);
        if waiting >= max_waiting {
            return Err(RelayerError::Full { pending: waiting, max: max_waiting });
        }
        let id =
            sqlx::query("INSERT INTO requests (key, call, insertion, state, created) VALUES (?, ?, ?, 'accepted', ?)")
                .bind(&key[..])
                .bind(&call[..])
                .bind(insertion)
                .bind(signed(now))
                .execute(&mut *tx)
                .await?
                .last_insert_rowid();
        for value in exclusive {
            let added = sqlx::query("INSERT OR IGNORE INTO exclusive (value, request) VALUES (?, ?)")
                .bind(&value.to_be_bytes::<32>()[..])
                .bind(id)
                .execute(&mut *tx)
                .await?
                .rows_affected();
            if added == 0 {
                return Err(RelayerError::NullifierUnderWay { nullifier: format!("{value:#066x}") });
            }
        }
        tx.commit().await?;
        let request = StoredRequest {
            id,
            call: call.clone(),
            insertion,
            state: RequestState::Accepted,
            leaves_until: None,
            attempts: 0,
        };
        Ok((request, true))
    }

    /// The request under `key`.
    ///
    /// # Errors
    /// [`RelayerError::NoSuchRequest`].
    pub async fn find(&self, key: RequestKey) -> Result<StoredRequest, RelayerError> {
        let row = sqlx::query("SELECT * FROM requests WHERE key = ?").bind(&key[..]).fetch_optional(&self.0).await?;
        request(&row.ok_or(RelayerError::NoSuchRequest)?)
    }

    /// Up to `limit` requests that wait to be sent, oldest first.
    ///
    /// # Errors
    /// When the database fails.
    pub async fn accepted(&self, limit: u32) -> Result<Vec<StoredRequest>, RelayerError> {
        let rows = sqlx::query("SELECT * FROM requests WHERE state = 'accepted' ORDER BY id LIMIT ?")
            .bind(limit)
            .fetch_all(&self.0)
            .await?;
        rows.iter().map(request).collect()
    }

    /// Mined requests whose leaves are not known to be in the tree yet.
    ///
    /// # Errors
    /// When the database fails.
    pub async fn not_inserted(&self) -> Result<Vec<StoredRequest>, RelayerError> {
        let rows = sqlx::query("SELECT * FROM requests WHERE state = 'mined' AND insertion = 1 ORDER BY id LIMIT 1024")
            .fetch_all(&self.0)
            .await?;
        rows.iter().map(request).collect()
    }

    /// Writes a signed transaction down, and the request that it carries as pending: before it leaves.
    ///
    /// # Errors
    /// When the database fails.
    pub async fn sending(&self, sent: &SentTransaction) -> Result<(), RelayerError> {
        let mut tx = self.0.begin_with("BEGIN IMMEDIATE").await?;
        sqlx::query("INSERT INTO sent (nonce, tx_hash, raw, request, created) VALUES (?, ?, ?, ?, ?)")
            .bind(signed(sent.nonce))
            .bind(&sent.hash[..])
            .bind(&sent.raw[..])
            .bind(sent.request)
            .bind(signed(sent.signed_at))
            .execute(&mut *tx)
            .await?;
        if let Some(id) = sent.request {
            sqlx::query("UPDATE requests SET state = 'pending', mined_tx = ? WHERE id = ?")
                .bind(&sent.hash[..])
                .bind(id)
                .execute(&mut *tx)
                .await?;
        }
        tx.commit().await?;
        Ok(())
    }

    /// Transactions that were signed and are not settled, lowest nonce first.
    ///
    /// # Errors
    /// When the database fails.
    pub async fn unsettled(&self) -> Result<Vec<SentTransaction>, RelayerError> {
        let rows = sqlx::query("SELECT * FROM sent ORDER BY nonce, created LIMIT 4096").fetch_all(&self.0).await?;
        rows.iter()
            .map(|row| {
                Ok(SentTransaction {
                    nonce: unsigned(row.try_get("nonce")?),
                    hash: B256::from_slice(row.try_get::<&[u8], _>("tx_hash")?),
                    raw: Bytes::copy_from_slice(row.try_get::<&[u8], _>("raw")?),
                    request: row.try_get("request")?,
                    mined_block: row.try_get::<Option<i64>, _>("mined_block")?.map(unsigned),
                    signed_at: unsigned(row.try_get("created")?),
                })
            })
            .collect()
    }

    /// A transaction was mined and did what it should: note where its request stands. The transaction is kept until [`Self::settled`].
    ///
    /// # Errors
    /// When the database fails.
    pub async fn mined(
        &self,
        sent: &SentTransaction,
        block: u64,
        leaves_until: u64,
        inserted: bool,
    ) -> Result<(), RelayerError> {
        let mut tx = self.0.begin_with("BEGIN IMMEDIATE").await?;
        if let Some(id) = sent.request {
            sqlx::query("UPDATE requests SET state = ?, mined_tx = ?, mined_block = ?, leaves_until = ? WHERE id = ?")
                .bind(if inserted { "inserted" } else { "mined" })
                .bind(&sent.hash[..])
                .bind(signed(block))
                .bind(signed(leaves_until))
                .bind(id)
                .execute(&mut *tx)
                .await?;
        }
        sqlx::query("UPDATE sent SET mined_block = ? WHERE nonce = ? AND tx_hash = ?")
            .bind(signed(block))
            .bind(signed(sent.nonce))
            .bind(&sent.hash[..])
            .execute(&mut *tx)
            .await?;
        tx.commit().await?;
        Ok(())
    }

    /// A reorganisation took the block back: the transaction is on its way again.
    ///
    /// # Errors
    /// When the database fails.
    pub async fn taken_back(&self, sent: &SentTransaction) -> Result<(), RelayerError> {
        let mut tx = self.0.begin_with("BEGIN IMMEDIATE").await?;
        if let Some(id) = sent.request {
            sqlx::query("UPDATE requests SET state = 'pending', leaves_until = NULL, mined_block = NULL WHERE id = ?")
                .bind(id)
                .execute(&mut *tx)
                .await?;
        }
        sqlx::query("UPDATE sent SET mined_block = NULL WHERE nonce = ?")
            .bind(signed(sent.nonce))
            .execute(&mut *tx)
            .await?;
        tx.commit().await?;
        Ok(())
    }

    /// The block of a mined transaction is deep: forget the transaction.
    ///
    /// # Errors
    /// When the database fails.
    pub async fn settled(&self, sent: &SentTransaction) -> Result<(), RelayerError> {
        let mut tx = self.0.begin_with("BEGIN IMMEDIATE").await?;
        if let Some(id) = sent.request {
            sqlx::query("DELETE FROM exclusive WHERE request = ?").bind(id).execute(&mut *tx).await?;
        }
        sqlx::query("DELETE FROM sent WHERE nonce = ?").bind(signed(sent.nonce)).execute(&mut *tx).await?;
        tx.commit().await?;
        Ok(())
    }

    /// A transaction was mined and reverted: its request waits again.
    ///
    /// # Errors
    /// When the database fails.
    pub async fn reverted(&self, sent: &SentTransaction) -> Result<(), RelayerError> {
        self.again(sent, 1).await
    }

    /// A transaction can never be mined, because another one has its nonce: its request waits again.
    ///
    /// # Errors
    /// When the database fails.
    pub async fn lost(&self, sent: &SentTransaction) -> Result<(), RelayerError> {
        self.again(sent, 0).await
    }

    async fn again(&self, sent: &SentTransaction, attempts: u32) -> Result<(), RelayerError> {
        let mut tx = self.0.begin_with("BEGIN IMMEDIATE").await?;
        if let Some(id) = sent.request {
            sqlx::query("UPDATE requests SET state = 'accepted', attempts = attempts + ? WHERE id = ?")
                .bind(attempts)
                .bind(id)
                .execute(&mut *tx)
                .await?;
        }
        sqlx::query("DELETE FROM sent WHERE nonce = ?").bind(signed(sent.nonce)).execute(&mut *tx).await?;
        tx.commit().await?;
        Ok(())
    }

    /// A waiting request's call was carried out by a transaction that somebody else sent.
    ///
    /// # Errors
    /// When the database fails.
    pub async fn done(&self, id: i64, done: &Done) -> Result<(), RelayerError> {
        let mut tx = self.0.begin_with("BEGIN IMMEDIATE").await?;
        sqlx::query(
            "UPDATE requests SET state = 'mined', mined_tx = ?, mined_block = ?, leaves_until = ? WHERE id = ?",
        )
        .bind(&done.transaction[..])
        .bind(signed(done.block))
        .bind(signed(done.leaves_until))
        .bind(id)
        .execute(&mut *tx)
        .await?;
        sqlx::query("DELETE FROM exclusive WHERE request = ?").bind(id).execute(&mut *tx).await?;
        tx.commit().await?;
        Ok(())
    }

    /// Forgets requests that came before `before` and are finished: nothing of theirs is on its way.
    ///
    /// # Errors
    /// When the database fails.
    pub async fn forget(&self, before: u64) -> Result<(), RelayerError> {
        sqlx::query(
            "DELETE FROM requests WHERE created < ? AND (state IN ('rejected', 'inserted') OR state = 'mined' AND insertion = 0)
             AND id NOT IN (SELECT request FROM sent WHERE request IS NOT NULL)
             AND id NOT IN (SELECT request FROM exclusive)",
        )
        .bind(signed(before))
        .execute(&self.0)
        .await?;
        Ok(())
    }

    /// A request's leaves are in the tree.
    ///
    /// # Errors
    /// When the database fails.
    pub async fn inserted(&self, id: i64) -> Result<(), RelayerError> {
        sqlx::query("UPDATE requests SET state = 'inserted' WHERE id = ? AND state = 'mined'")
            .bind(id)
            .execute(&self.0)
            .await?;
        Ok(())
    }

    /// A request will not be sent.
    ///
    /// # Errors
    /// When the database fails.
    pub async fn reject(&self, id: i64, code: &str, reason: &str) -> Result<(), RelayerError> {
        let mut tx = self.0.begin_with("BEGIN IMMEDIATE").await?;
        sqlx::query("UPDATE requests SET state = 'rejected', reason_code = ?, reason = ? WHERE id = ?")
            .bind(code)
            .bind(reason)
            .bind(id)
            .execute(&mut *tx)
            .await?;
        sqlx::query("DELETE FROM exclusive WHERE request = ?").bind(id).execute(&mut *tx).await?;
        tx.commit().await?;
        Ok(())
    }

    /// Requests by state, as far as they are remembered.
    ///
    /// # Errors
    /// When the database fails.
    pub async fn counts(&self) -> Result<RequestCounts, RelayerError> {
        let rows = sqlx::query("SELECT state, count(*) AS n FROM requests GROUP BY state").fetch_all(&self.0).await?;
        let mut counts = RequestCounts::default();
        for row in &rows {
            let n = unsigned(row.try_get("n")?);
            match row.try_get("state")? {
                "accepted" => counts.waiting = n,
                "pending" => counts.pending = n,
                "mined" => counts.mined = n,
                "inserted" => counts.inserted = n,
                _ => counts.rejected += n,
            }
        }
        Ok(counts)
    }

    /// Closes the database; later calls fail.
    pub async fn close(&self) {
        self.0.close().await;
    }

    /// Adds one to a counter and returns the new value: a sequence number that no restart gives out twice.
    ///
    /// # Errors
    /// When the database fails.
    pub async fn next_sequence(&self) -> Result<u64, RelayerError> {
        let value: i64 = sqlx::query_scalar(
            "INSERT INTO counters (name, value) VALUES ('announcement', 1)
             ON CONFLICT (name) DO UPDATE SET value = value + 1 RETURNING value",
        )
        .fetch_one(&self.0)
        .await?;
        Ok(unsigned(value))
    }
}

fn request(row: &SqliteRow) -> Result<StoredRequest, RelayerError> {
    let hash = || -> Result<B256, RelayerError> { Ok(B256::from_slice(row.try_get::<&[u8], _>("mined_tx")?)) };
    let state: &str = row.try_get("state")?;
    let state = match state {
        "accepted" => RequestState::Accepted,
        "pending" => RequestState::Pending { transaction: hash()? },
        "mined" | "inserted" => RequestState::Confirmed {
            transaction: hash()?,
            block: unsigned(row.try_get("mined_block")?),
            inserted: state == "inserted",
        },
        _ => RequestState::Rejected { code: row.try_get("reason_code")?, reason: row.try_get("reason")? },
    };
    Ok(StoredRequest {
        id: row.try_get("id")?,
        call: Bytes::copy_from_slice(row.try_get::<&[u8], _>("call")?),
        insertion: row.try_get("insertion")?,
        state,
        leaves_until: row.try_get::<Option<i64>, _>("leaves_until")?.map(unsigned),
        attempts: row.try_get("attempts")?,
    })
}

/// `SQLite`'s integers are signed; block numbers, nonces and times fit.
fn signed(value: u64) -> i64 {
    i64::try_from(value).unwrap_or(i64::MAX)
}

fn unsigned(value: i64) -> u64 {
    u64::try_from(value).unwrap_or(0)
}
