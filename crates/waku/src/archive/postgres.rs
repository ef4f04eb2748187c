//! The archive in a PostgreSQL database.

use std::{fmt, str::FromStr, time::Duration};

use async_trait::async_trait;
use sha2::{Digest as _, Sha256};
use sqlx::{
    PgConnection, PgPool, Postgres, QueryBuilder, Row as _,
    postgres::{PgConnectOptions, PgPoolOptions, PgRow},
};

use super::{
    Archive, ArchiveError, ArchivedMessage, Expired, Page, PageEntry, PageQuery, Retention,
    query::{Dialect, entry, page, page_statement},
};
use crate::{
    clock::Timestamp,
    message::MessageHash,
    topics::{ContentTopic, PubsubTopic},
};

/// Version of the schema, in the table `tributary_archive`.
const SCHEMA_VERSION: i32 = 1;

/// `topic` is the digest of shard and content topic: a content topic is any text of any length, also one that PostgreSQL's TEXT
/// and its index entries can't hold, and no peer may choose what can't be inserted. The message's body has it whole.
/// `tributary_archive` has one row, which counts what is there; COUNT(*) would read the table.
const SCHEMA: &str = "
CREATE TABLE tributary_message (
    id BIGINT GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
    timestamp BIGINT NOT NULL,
    hash BYTEA NOT NULL CHECK (octet_length(hash) = 32),
    topic BYTEA NOT NULL CHECK (octet_length(topic) = 32),
    pubsub_topic TEXT NOT NULL,
    body BYTEA NOT NULL
);
CREATE UNIQUE INDEX tributary_message_hash ON tributary_message (hash);
CREATE INDEX tributary_message_time ON tributary_message (timestamp, hash);
CREATE INDEX tributary_message_topic ON tributary_message (topic, timestamp, hash);
CREATE TABLE tributary_archive (
    schema_version INTEGER NOT NULL,
    messages BIGINT NOT NULL,
    bytes BIGINT NOT NULL
);
INSERT INTO tributary_archive (schema_version, messages, bytes) VALUES (1, 0, 0);
";

/// Key of the advisory lock under which the tables are made.
const SCHEMA_LOCK: i64 = 0x7472_6962_7574_6172;

/// What a message takes beside its body: the row and its entries in four indices.
const ROW_BYTES: i64 = 400;

/// Rows that one statement deletes, so that no deletion keeps the writers waiting for long.
const DELETE_BATCH: u64 = 1000;

/// Connections that read at the same time.
const READERS: u32 = 4;

/// Connections that write: one inserts, one deletes.
const WRITERS: u32 = 2;

/// Time for a connection to be had.
const CONNECT_LIMIT: Duration = Duration::from_secs(10);

/// Time for a statement that reads, in milliseconds; a node has given the query up by then.
const READ_LIMIT: &str = "30000";

/// Time for a statement that writes, in milliseconds. Long, because it may wait for another node's deletion.
const WRITE_LIMIT: &str = "120000";

/// Where a PostgreSQL database is, `postgres://user:password@host:port/database`. What is missing is taken from the environment
/// (`PGPASSWORD`, `PGPASSFILE` and so on). Shown without the password.
#[derive(Clone)]
pub struct PostgresUrl(Box<PgConnectOptions>);

impl FromStr for PostgresUrl {
    type Err = ArchiveError;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let wrong = |reason: String| ArchiveError::Url { reason };
        if !text.starts_with("postgres://") && !text.starts_with("postgresql://") {
            return Err(wrong("it must begin with postgres:// or postgresql://".to_owned()));
        }
        // The parser's own words may repeat what it couldn't parse.
        let options = PgConnectOptions::from_str(text)
            .map_err(|_| wrong("it can't be parsed; encode special characters".to_owned()))?;
        if options.get_database().is_none() {
            return Err(wrong("it names no database".to_owned()));
        }
        Ok(Self(Box::new(options)))
    }
}

impl fmt::Display for PostgresUrl {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let options = &self.0;
        let database = options.get_database().unwrap_or_default();
        match options.get_socket() {
            Some(socket) => write!(f, "postgres://{}@{}/{database}", options.get_username(), socket.display()),
            None => {
                let (user, host, port) = (options.get_username(), options.get_host(), options.get_port());
                write!(f, "postgres://{user}@{host}:{port}/{database}")
            }
        }
    }
}

impl fmt::Debug for PostgresUrl {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

/// An archive in a PostgreSQL database, version 12 or later. Several nodes may write to it.
#[derive(Debug)]
pub struct PostgresArchive {
    writers: PgPool,
    readers: PgPool,
}

/// What exceeds a retention.
#[derive(Clone, Copy, Debug)]
enum Excess {
    /// Messages older than this.
    Older(Timestamp),
    /// The oldest messages over this number.
    Messages(u64),
    /// The oldest messages over these bytes.
    Bytes(u64),
}

impl PostgresArchive {
    /// Opens the archive, or makes its tables.
    ///
    /// # Errors
    /// [`ArchiveError::Database`]; [`ArchiveError::Migration`] if a newer version of this software made the tables.
    pub async fn open(url: &PostgresUrl) -> Result<Self, ArchiveError> {
        let options = url.0.as_ref().clone().application_name("tributary");
        let writing = options.clone().options([("statement_timeout", WRITE_LIMIT)]);
        let writers = PgPoolOptions::new()
            .max_connections(WRITERS)
            .acquire_timeout(CONNECT_LIMIT)
            // What is answered for must survive the server's crash, whatever its default is.
            .after_connect(|connection, _| {
                Box::pin(async move {
                    let durable = "SELECT set_config('synchronous_commit', 'on', false)
                                   WHERE current_setting('synchronous_commit') = 'off'";
                    sqlx::query(durable).execute(connection).await.map(|_| ())
                })
            })
            .connect_with(writing)
            .await?;
        make_tables(&writers, url).await?;
        let reading = options.options([
            ("statement_timeout", READ_LIMIT),
            ("default_transaction_read_only", "on"),
            // A plan for any topic and time would not know how short a walk along the index is.
            ("plan_cache_mode", "force_custom_plan"),
        ]);
        let readers =
            PgPoolOptions::new().max_connections(READERS).acquire_timeout(CONNECT_LIMIT).connect_with(reading).await?;
        Ok(Self { writers, readers })
    }

    async fn cursor_time(&self, cursor: MessageHash) -> Result<i64, ArchiveError> {
        sqlx::query_scalar("SELECT timestamp FROM tributary_message WHERE hash = $1")
            .bind(cursor.as_bytes().as_slice())
            .fetch_optional(&self.readers)
            .await?
            .ok_or(ArchiveError::UnknownCursor { cursor })
    }

    /// Deletes what exceeds, in batches.
    async fn delete(&self, excess: Excess) -> Result<u64, ArchiveError> {
        let mut deleted = 0;
        loop {
            let mut transaction = self.writers.begin().await?;
            let (messages, bytes) = lock(&mut transaction).await?;
            let rows = match excess {
                Excess::Older(_) => DELETE_BATCH,
                Excess::Messages(max) => messages.saturating_sub(max),
                // As many rows as the excess is worth on average; then it is looked at again.
                Excess::Bytes(max) if bytes > max => {
                    let share = u128::from(messages) * u128::from(bytes - max) / u128::from(bytes);
                    u64::try_from(share).unwrap_or(messages).max(1)
                }
                Excess::Bytes(_) => 0,
            };
            let before = match excess {
                Excess::Older(before) => before.as_nanos(),
                Excess::Messages(_) | Excess::Bytes(_) => i64::MAX,
            };
            let (gone, freed): (i64, i64) = sqlx::query_as(
                "WITH gone AS (
                    DELETE FROM tributary_message WHERE id IN
                    (SELECT id FROM tributary_message WHERE timestamp < $1 ORDER BY timestamp, hash LIMIT $2)
                    RETURNING octet_length(body) AS size
                 ) SELECT COUNT(*), COALESCE(SUM(size + $3), 0)::BIGINT FROM gone",
            )
            .bind(before)
            .bind(i64::try_from(rows.min(DELETE_BATCH)).unwrap_or(i64::MAX))
            .bind(ROW_BYTES)
            .fetch_one(&mut *transaction)
            .await?;
            account(&mut transaction, -gone, -freed).await?;
            transaction.commit().await?;
            if gone == 0 {
                return Ok(deleted);
            }
            deleted += gone.unsigned_abs();
        }
    }
}

/// Makes the tables if they aren't there, and checks their version.
async fn make_tables(writers: &PgPool, url: &PostgresUrl) -> Result<(), ArchiveError> {
    let mut transaction = writers.begin().await?;
    sqlx::query("SELECT pg_advisory_xact_lock($1)").bind(SCHEMA_LOCK).execute(&mut *transaction).await?;
    let made: bool =
        sqlx::query_scalar("SELECT to_regclass('tributary_archive') IS NOT NULL").fetch_one(&mut *transaction).await?;
    if !made {
        sqlx::raw_sql(SCHEMA).execute(&mut *transaction).await?;
    }
    let version: i32 =
        sqlx::query_scalar("SELECT schema_version FROM tributary_archive").fetch_one(&mut *transaction).await?;
    if version != SCHEMA_VERSION {
        return Err(ArchiveError::Migration {
            archive: url.to_string(),
            reason: format!("its schema has version {version}, this software knows up to {SCHEMA_VERSION}"),
        });
    }
    transaction.commit().await?;
    Ok(())
}

/// Messages and bytes in the archive. Until the transaction ends nobody else writes: two nodes that insert the same messages in
/// another order would wait for each other.
async fn lock(transaction: &mut PgConnection) -> Result<(u64, u64), ArchiveError> {
    let (messages, bytes): (i64, i64) =
        sqlx::query_as("SELECT messages, bytes FROM tributary_archive FOR UPDATE").fetch_one(transaction).await?;
    Ok((u64::try_from(messages).unwrap_or(0), u64::try_from(bytes).unwrap_or(0)))
}

/// Adds to the counts.
async fn account(transaction: &mut PgConnection, messages: i64, bytes: i64) -> Result<(), ArchiveError> {
    sqlx::query("UPDATE tributary_archive SET messages = messages + $1, bytes = bytes + $2")
        .bind(messages)
        .bind(bytes)
        .execute(transaction)
        .await?;
    Ok(())
}

/// Digest of a shard and a content topic. The shard's text has no zero byte, so no two pairs are hashed alike.
fn topic_digest(pubsub: PubsubTopic, content: &ContentTopic) -> Vec<u8> {
    Sha256::new().chain_update(pubsub.to_string()).chain_update([0]).chain_update(content.as_str()).finalize().to_vec()
}

impl Dialect for Postgres {
    const TABLE: &'static str = "tributary_message";

    fn push_integer(builder: &mut QueryBuilder<Self>, value: i64) {
        builder.push_bind(value);
    }

    fn push_bytes(builder: &mut QueryBuilder<Self>, value: Vec<u8>) {
        builder.push_bind(value);
    }

    fn push_topic(builder: &mut QueryBuilder<Self>, pubsub: PubsubTopic, content: &ContentTopic) {
        builder.push("topic = ").push_bind(topic_digest(pubsub, content));
    }
}

fn decode(row: &PgRow, include_data: bool) -> Result<PageEntry, ArchiveError> {
    let data = if include_data { Some((row.try_get("pubsub_topic")?, row.try_get("body")?)) } else { None };
    entry(row.try_get("hash")?, data)
}

#[async_trait]
impl Archive for PostgresArchive {
    async fn insert(&self, messages: &[ArchivedMessage]) -> Result<u64, ArchiveError> {
        let column = |of: fn(&ArchivedMessage) -> Vec<u8>| messages.iter().map(of).collect::<Vec<_>>();
        let times: Vec<i64> = messages.iter().map(|m| m.message.timestamp.map_or(0, Timestamp::as_nanos)).collect();
        let shards: Vec<String> = messages.iter().map(|m| m.pubsub_topic.to_string()).collect();
        let mut transaction = self.writers.begin().await?;
        lock(&mut transaction).await?;
        let (new, bytes): (i64, i64) = sqlx::query_as(
            "WITH new AS (
                INSERT INTO tributary_message (timestamp, hash, topic, pubsub_topic, body)
                SELECT * FROM UNNEST($1::BIGINT[], $2::BYTEA[], $3::BYTEA[], $4::TEXT[], $5::BYTEA[])
                ON CONFLICT (hash) DO NOTHING
                RETURNING octet_length(body) AS size
             ) SELECT COUNT(*), COALESCE(SUM(size + $6), 0)::BIGINT FROM new",
        )
        .bind(times)
        .bind(column(|m| m.hash.as_bytes().to_vec()))
        .bind(column(|m| topic_digest(m.pubsub_topic, &m.message.content_topic)))
        .bind(shards)
        .bind(column(|m| m.message.encode().into()))
        .bind(ROW_BYTES)
        .fetch_one(&mut *transaction)
        .await?;
        account(&mut transaction, new, bytes).await?;
        transaction.commit().await?;
        Ok(new.unsigned_abs())
    }

    async fn page(&self, query: &PageQuery) -> Result<Page, ArchiveError> {
        let cursor = match query.cursor {
            Some(cursor) => Some((self.cursor_time(cursor).await?, cursor)),
            None => None,
        };
        let rows = page_statement::<Postgres>(query, cursor).build().fetch_all(&self.readers).await?;
        page(query, rows, decode)
    }

    async fn contains(&self, hash: MessageHash) -> Result<bool, ArchiveError> {
        Ok(sqlx::query_scalar("SELECT EXISTS (SELECT 1 FROM tributary_message WHERE hash = $1)")
            .bind(hash.as_bytes().as_slice())
            .fetch_one(&self.readers)
            .await?)
    }

    async fn count(&self) -> Result<u64, ArchiveError> {
        let messages: i64 =
            sqlx::query_scalar("SELECT messages FROM tributary_archive").fetch_one(&self.readers).await?;
        Ok(u64::try_from(messages).unwrap_or(0))
    }

    async fn used_bytes(&self) -> Result<u64, ArchiveError> {
        let bytes: i64 = sqlx::query_scalar("SELECT bytes FROM tributary_archive").fetch_one(&self.readers).await?;
        Ok(u64::try_from(bytes).unwrap_or(0))
    }

    async fn expire(&self, retention: &Retention, now: Timestamp) -> Result<Expired, ArchiveError> {
        let mut expired = Expired::default();
        if let Some(age) = retention.max_age {
            expired.by_age = self.delete(Excess::Older(now.saturating_sub(age))).await?;
        }
        if let Some(max) = retention.max_messages {
            expired.by_count = self.delete(Excess::Messages(max)).await?;
        }
        if let Some(max) = retention.max_bytes {
            expired.by_size = self.delete(Excess::Bytes(max)).await?;
        }
        // The server's autovacuum makes the room usable again.
        Ok(expired)
    }

    async fn close(&self) {
        self.readers.close().await;
        self.writers.close().await;
    }
}

#[cfg(test)]
#[path = "../../tests/support/postgres.rs"]
mod server;

#[cfg(test)]
mod tests {
    use sqlx::Execute as _;

    use super::*;
    use crate::{archive::Selection, message::WakuMessage};

    /// The plan of every kind of page in an archive of some size: the table is never read through.
    #[tokio::test]
    async fn pages_walk_along_indices() {
        let url: PostgresUrl = server::Server::shared().database().await.parse().unwrap();
        let archive = PostgresArchive::open(&url).await.unwrap();
        let pubsub: PubsubTopic = "/waku/2/rs/1/0".parse().unwrap();
        let topics: Vec<_> = (0..100).map(|i| ContentTopic::opaque(format!("/a/1/{i}/p"))).collect();
        let messages: Vec<_> = (0..20_000_u32)
            .map(|n| {
                let topic = topics[usize::try_from(n).unwrap() % 100].clone();
                let message = WakuMessage::new(topic, n.to_be_bytes().to_vec(), Timestamp::from_nanos(n.into()));
                ArchivedMessage { hash: message.hash(pubsub), pubsub_topic: pubsub, message: message.into() }
            })
            .collect();
        assert_eq!(archive.insert(&messages).await.unwrap(), 20_000);
        sqlx::query("ANALYZE").execute(&archive.writers).await.unwrap();
        let of = |n: usize| Some((pubsub, topics[..n].to_vec()));
        let (start, end) = (Some(Timestamp::from_nanos(9_000)), Some(Timestamp::from_nanos(11_000)));
        let selections = [
            Selection::Content { topics: None, time_start: None, time_end: None },
            Selection::Content { topics: None, time_start: start, time_end: end },
            Selection::Content { topics: of(1), time_start: None, time_end: None },
            Selection::Content { topics: of(10), time_start: start, time_end: end },
            Selection::Content { topics: of(100), time_start: None, time_end: None },
            Selection::Hashes(messages[..50].iter().map(|m| m.hash).collect()),
        ];
        for selection in selections {
            for forward in [false, true] {
                for cursor in [None, Some((10_000, messages[10_000].hash))] {
                    let (cursor_hash, selection) = (cursor.map(|(_, hash)| hash), selection.clone());
                    let query = PageQuery { selection, cursor: cursor_hash, forward, limit: 100, include_data: true };
                    let mut statement = page_statement::<Postgres>(&query, cursor);
                    let sql = format!("EXPLAIN {}", statement.sql().as_str());
                    let arguments = statement.build().take_arguments().unwrap().unwrap_or_default();
                    let plan: Vec<String> = sqlx::query_scalar_with(sqlx::AssertSqlSafe(sql), arguments)
                        .fetch_all(&archive.readers)
                        .await
                        .unwrap();
                    let plan = plan.join("\n");
                    assert!(!plan.contains("Seq Scan") && plan.contains("Index"), "{plan}");
                }
            }
        }
    }
}
