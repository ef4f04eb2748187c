//! The archive in one SQLite file.

use std::{
    path::Path,
    sync::atomic::{AtomicU64, Ordering},
    time::Duration,
};

use async_trait::async_trait;
use sqlx::{
    QueryBuilder, Row as _, Sqlite, SqlitePool,
    sqlite::{
        SqliteAutoVacuum, SqliteConnectOptions, SqliteJournalMode, SqlitePoolOptions, SqliteRow, SqliteSynchronous,
    },
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

/// Version of the schema, in SQLite's `user_version`.
const SCHEMA_VERSION: i64 = 1;

const SCHEMA: &str = "
CREATE TABLE message (
    id INTEGER PRIMARY KEY,
    timestamp INTEGER NOT NULL,
    hash BLOB NOT NULL CHECK (length(hash) = 32),
    pubsub_topic TEXT NOT NULL,
    content_topic TEXT NOT NULL,
    body BLOB NOT NULL
) STRICT;
CREATE UNIQUE INDEX message_hash ON message (hash);
CREATE INDEX message_time ON message (timestamp, hash);
CREATE INDEX message_topic ON message (pubsub_topic, content_topic, timestamp, hash);
";

/// Rows that one statement deletes, so that no deletion keeps the writers waiting for long.
const DELETE_BATCH: i64 = 1000;

/// Connections that read at the same time.
const READERS: u32 = 4;

/// An archive in a SQLite file, in write-ahead mode: it survives the process being killed at any moment.
#[derive(Debug)]
pub struct SqliteArchive {
    writer: SqlitePool,
    readers: SqlitePool,
    rows: AtomicU64,
}

impl SqliteArchive {
    /// Opens the archive, or makes it.
    ///
    /// # Errors
    /// [`ArchiveError::Database`]; [`ArchiveError::Migration`] if a newer version of this software made the file.
    pub async fn open(path: &Path) -> Result<Self, ArchiveError> {
        let options = SqliteConnectOptions::new()
            .filename(path)
            .busy_timeout(Duration::from_secs(10))
            .pragma("cache_size", "-16384");
        let writing = options
            .clone()
            .create_if_missing(true)
            .journal_mode(SqliteJournalMode::Wal)
            .synchronous(SqliteSynchronous::Normal)
            .auto_vacuum(SqliteAutoVacuum::Incremental)
            .pragma("journal_size_limit", "67108864");
        let writer = SqlitePoolOptions::new().max_connections(1).connect_with(writing).await?;
        let mut transaction = writer.begin_with("BEGIN IMMEDIATE").await?;
        let version: i64 = sqlx::query_scalar("PRAGMA user_version").fetch_one(&mut *transaction).await?;
        match version {
            0 => {
                sqlx::raw_sql(SCHEMA).execute(&mut *transaction).await?;
                sqlx::query("PRAGMA user_version = 1").execute(&mut *transaction).await?;
            }
            SCHEMA_VERSION => {}
            newer => {
                return Err(ArchiveError::Migration {
                    archive: path.display().to_string(),
                    reason: format!("its schema has version {newer}, this software knows up to {SCHEMA_VERSION}"),
                });
            }
        }
        transaction.commit().await?;
        let rows: i64 = sqlx::query_scalar("SELECT COUNT(*) FROM message").fetch_one(&writer).await?;
        let readers =
            SqlitePoolOptions::new().max_connections(READERS).connect_with(options.pragma("query_only", "1")).await?;
        Ok(Self { writer, readers, rows: AtomicU64::new(u64::try_from(rows).unwrap_or(0)) })
    }

    async fn cursor_time(&self, cursor: MessageHash) -> Result<i64, ArchiveError> {
        sqlx::query_scalar("SELECT timestamp FROM message WHERE hash = ?")
            .bind(cursor.as_bytes().as_slice())
            .fetch_optional(&self.readers)
            .await?
            .ok_or(ArchiveError::UnknownCursor { cursor })
    }

    /// Deletes rows older than `before`, or the `oldest` ones, in batches.
    async fn delete(&self, before: Option<Timestamp>, oldest: Option<u64>) -> Result<u64, ArchiveError> {
        let mut deleted = 0;
        loop {
            let batch = match oldest {
                Some(oldest) => i64::try_from(oldest - deleted).unwrap_or(i64::MAX).min(DELETE_BATCH),
                None => DELETE_BATCH,
            };
            if batch == 0 {
                return Ok(deleted);
            }
            let gone = sqlx::query(
                "DELETE FROM message WHERE id IN
                 (SELECT id FROM message WHERE timestamp < ? ORDER BY timestamp, hash LIMIT ?)",
            )
            .bind(before.map_or(i64::MAX, Timestamp::as_nanos))
            .bind(batch)
            .execute(&self.writer)
            .await?
            .rows_affected();
            self.rows.fetch_sub(gone, Ordering::SeqCst);
            deleted += gone;
            if gone < batch.unsigned_abs() {
                return Ok(deleted);
            }
        }
    }
}

impl Dialect for Sqlite {
    const TABLE: &'static str = "message";

    fn push_integer(builder: &mut QueryBuilder<Self>, value: i64) {
        builder.push_bind(value);
    }

    fn push_bytes(builder: &mut QueryBuilder<Self>, value: Vec<u8>) {
        builder.push_bind(value);
    }

    fn push_topic(builder: &mut QueryBuilder<Self>, pubsub: PubsubTopic, content: &ContentTopic) {
        builder.push("pubsub_topic = ").push_bind(pubsub.to_string());
        builder.push(" AND content_topic = ").push_bind(content.as_str().to_owned());
    }
}

fn decode(row: &SqliteRow, include_data: bool) -> Result<PageEntry, ArchiveError> {
    let data = if include_data { Some((row.try_get("pubsub_topic")?, row.try_get("body")?)) } else { None };
    entry(row.try_get("hash")?, data)
}

#[async_trait]
impl Archive for SqliteArchive {
    async fn insert(&self, messages: &[ArchivedMessage]) -> Result<u64, ArchiveError> {
        let mut transaction = self.writer.begin_with("BEGIN IMMEDIATE").await?;
        let mut new = 0;
        for message in messages {
            new += sqlx::query(
                "INSERT INTO message (timestamp, hash, pubsub_topic, content_topic, body) VALUES (?, ?, ?, ?, ?)
                 ON CONFLICT (hash) DO NOTHING",
            )
            .bind(message.message.timestamp.map_or(0, Timestamp::as_nanos))
            .bind(message.hash.as_bytes().as_slice())
            .bind(message.pubsub_topic.to_string())
            .bind(message.message.content_topic.as_str())
            .bind(message.message.encode().as_ref())
            .execute(&mut *transaction)
            .await?
            .rows_affected();
        }
        transaction.commit().await?;
        self.rows.fetch_add(new, Ordering::SeqCst);
        Ok(new)
    }

    async fn page(&self, query: &PageQuery) -> Result<Page, ArchiveError> {
        let cursor = match query.cursor {
            Some(cursor) => Some((self.cursor_time(cursor).await?, cursor)),
            None => None,
        };
        let rows = page_statement::<Sqlite>(query, cursor).build().fetch_all(&self.readers).await?;
        page(query, rows, decode)
    }

    async fn contains(&self, hash: MessageHash) -> Result<bool, ArchiveError> {
        Ok(sqlx::query_scalar("SELECT EXISTS (SELECT 1 FROM message WHERE hash = ?)")
            .bind(hash.as_bytes().as_slice())
            .fetch_one(&self.readers)
            .await?)
    }

    async fn count(&self) -> Result<u64, ArchiveError> {
        Ok(self.rows.load(Ordering::SeqCst))
    }

    async fn used_bytes(&self) -> Result<u64, ArchiveError> {
        let bytes: i64 = sqlx::query_scalar(
            "SELECT (p.page_count - f.freelist_count) * s.page_size
             FROM pragma_page_count AS p, pragma_freelist_count AS f, pragma_page_size AS s",
        )
        .fetch_one(&self.writer)
        .await?;
        Ok(u64::try_from(bytes).unwrap_or(0))
    }

    async fn expire(&self, retention: &Retention, now: Timestamp) -> Result<Expired, ArchiveError> {
        let mut expired = Expired::default();
        if let Some(age) = retention.max_age {
            expired.by_age = self.delete(Some(now.saturating_sub(age)), None).await?;
        }
        if let Some(max) = retention.max_messages {
            let excess = self.rows.load(Ordering::SeqCst).saturating_sub(max);
            expired.by_count = self.delete(None, Some(excess)).await?;
        }
        if let Some(max) = retention.max_bytes {
            loop {
                let used = self.used_bytes().await?;
                let rows = self.rows.load(Ordering::SeqCst);
                if used <= max || rows == 0 {
                    break;
                }
                // As many rows as the excess is worth on average, then look again.
                let share = u128::from(rows) * u128::from(used - max) / u128::from(used);
                let batch = u64::try_from(share).unwrap_or(rows).clamp(1, DELETE_BATCH.unsigned_abs());
                let gone = self.delete(None, Some(batch)).await?;
                if gone == 0 {
                    break;
                }
                expired.by_size += gone;
            }
        }
        if expired != Expired::default() {
            // Gives pages back to the file system, a bounded number at a time.
            sqlx::query("PRAGMA incremental_vacuum(4096)").fetch_all(&self.writer).await?;
        }
        Ok(expired)
    }

    async fn close(&self) {
        self.readers.close().await;
        self.writer.close().await;
    }
}

#[cfg(test)]
mod tests {
    use sqlx::{Execute as _, Row as _};

    use super::*;
    use crate::archive::Selection;

    /// The plan of every kind of page: no table is scanned, and no walk along an index is sorted afterwards.
    #[tokio::test]
    async fn pages_walk_along_indices() {
        let dir = tempfile::tempdir().unwrap();
        let archive = SqliteArchive::open(&dir.path().join("archive.sqlite")).await.unwrap();
        let topics = |n: usize| {
            let topics = (0..n).map(|i| ContentTopic::opaque(format!("/a/1/{i}/p"))).collect();
            Some(("/waku/2/rs/1/0".parse().unwrap(), topics))
        };
        let time = Some(Timestamp::from_nanos(5));
        let selections = [
            Selection::Content { topics: None, time_start: None, time_end: None },
            Selection::Content { topics: None, time_start: time, time_end: time },
            Selection::Content { topics: topics(1), time_start: None, time_end: None },
            Selection::Content { topics: topics(100), time_start: time, time_end: time },
            Selection::Hashes(vec![MessageHash::from_bytes([1; 32]); 1000]),
        ];
        for selection in selections {
            for forward in [false, true] {
                for cursor in [None, Some((7, MessageHash::from_bytes([2; 32])))] {
                    let by_hash = matches!(selection, Selection::Hashes(_));
                    let query = PageQuery {
                        selection: selection.clone(),
                        cursor: None,
                        forward,
                        limit: 100,
                        include_data: true,
                    };
                    let mut statement = page_statement::<Sqlite>(&query, cursor);
                    let sql = format!("EXPLAIN QUERY PLAN {}", statement.sql().as_str());
                    let arguments = statement.build().take_arguments().unwrap().unwrap_or_default();
                    let plan = sqlx::query_with(sqlx::AssertSqlSafe(sql), arguments)
                        .fetch_all(&archive.readers)
                        .await
                        .unwrap();
                    let steps: Vec<String> = plan.iter().map(|row| row.get("detail")).collect();
                    let text = steps.join("\n");
                    for step in &steps {
                        let index = step.contains("USING COVERING INDEX") || step.contains("INTEGER PRIMARY KEY");
                        let of_table = step.contains(" message ") || step.contains(" m ");
                        assert!(!of_table || index || (by_hash && step.contains("INDEX message_hash")), "{text}");
                    }
                    // One sort merges the walks' winners; by hash there is one for the found rows.
                    let sorts = steps.iter().filter(|step| step.contains("TEMP B-TREE")).count();
                    assert!(sorts <= 1 + usize::from(by_hash), "{text}");
                }
            }
        }
    }
}
