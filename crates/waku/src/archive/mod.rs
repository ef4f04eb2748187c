//! Where a node keeps messages for Store: SQLite or PostgreSQL, indexed for every Store query, with retention by time,
//! count and size.

#[cfg(feature = "postgres")]
mod postgres;
mod query;
mod sqlite;
mod writer;

use std::{
    fmt::{self, Debug},
    path::PathBuf,
    sync::Arc,
    time::Duration,
};

use async_trait::async_trait;

#[cfg(feature = "postgres")]
pub use self::postgres::{PostgresArchive, PostgresUrl};
pub use self::sqlite::SqliteArchive;
pub(crate) use self::writer::{ArchiveWriter, Enqueued};
use crate::{
    clock::Timestamp,
    message::{MessageHash, WakuMessage},
    topics::{ContentTopic, PubsubTopic},
};

/// What to archive and for how long.
#[derive(Clone, Debug)]
pub struct ArchiveConfig {
    /// The database.
    pub location: ArchiveLocation,
    /// What is deleted, and when.
    pub retention: Retention,
    /// Time between two looks at the retention.
    pub retention_interval: Duration,
}

impl ArchiveConfig {
    /// The archive at `location` (a path means a SQLite file) with the default retention, enforced every minute.
    #[must_use]
    pub fn new(location: impl Into<ArchiveLocation>) -> Self {
        let location = location.into();
        Self { location, retention: Retention::default(), retention_interval: Duration::from_secs(60) }
    }
}

/// Where an archive is. Shown without any password.
#[derive(Clone, Debug)]
#[non_exhaustive]
pub enum ArchiveLocation {
    /// A SQLite file; made if it isn't there.
    Sqlite(PathBuf),
    /// A database of a PostgreSQL server; the tables are made if they aren't there. Several nodes may share it.
    #[cfg(feature = "postgres")]
    Postgres(PostgresUrl),
}

impl ArchiveLocation {
    /// Opens the archive, or makes it.
    ///
    /// # Errors
    /// [`ArchiveError::Database`], [`ArchiveError::Migration`].
    pub async fn open(&self) -> Result<Arc<dyn Archive>, ArchiveError> {
        match self {
            Self::Sqlite(path) => Ok(Arc::new(SqliteArchive::open(path).await?)),
            #[cfg(feature = "postgres")]
            Self::Postgres(url) => Ok(Arc::new(PostgresArchive::open(url).await?)),
        }
    }
}

impl From<PathBuf> for ArchiveLocation {
    fn from(path: PathBuf) -> Self {
        Self::Sqlite(path)
    }
}

impl From<&PathBuf> for ArchiveLocation {
    fn from(path: &PathBuf) -> Self {
        Self::Sqlite(path.clone())
    }
}

#[cfg(feature = "postgres")]
impl From<PostgresUrl> for ArchiveLocation {
    fn from(url: PostgresUrl) -> Self {
        Self::Postgres(url)
    }
}

impl fmt::Display for ArchiveLocation {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Sqlite(path) => fmt::Display::fmt(&path.display(), f),
            #[cfg(feature = "postgres")]
            Self::Postgres(url) => fmt::Display::fmt(url, f),
        }
    }
}

/// Bounds of an archive; the oldest messages are deleted first. The default keeps two days, at most a million messages
/// and 8 GiB.
#[derive(Clone, Copy, Debug, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Retention {
    /// Messages with an older timestamp are deleted.
    pub max_age: Option<Duration>,
    /// Messages kept.
    pub max_messages: Option<u64>,
    /// Bytes in use: of a SQLite file its pages, of a PostgreSQL database what the messages and their index entries take.
    pub max_bytes: Option<u64>,
}

impl Default for Retention {
    fn default() -> Self {
        Self {
            max_age: Some(Duration::from_secs(2 * 24 * 3600)),
            max_messages: Some(1_000_000),
            max_bytes: Some(8 << 30),
        }
    }
}

/// An archived message.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ArchivedMessage {
    /// Its hash under `pubsub_topic`.
    pub hash: MessageHash,
    /// The shard it was relayed in.
    pub pubsub_topic: PubsubTopic,
    /// The message. It has a timestamp.
    pub message: Arc<WakuMessage>,
}

/// Which messages a query is about.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum Selection {
    /// By content and time.
    Content {
        /// The shard and its content topics; everything if absent.
        topics: Option<(PubsubTopic, Vec<ContentTopic>)>,
        /// From here, inclusive.
        time_start: Option<Timestamp>,
        /// To here, inclusive.
        time_end: Option<Timestamp>,
    },
    /// By hash.
    Hashes(Vec<MessageHash>),
}

/// A page of the archive, in the order of (timestamp, hash).
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PageQuery {
    /// Which messages.
    pub selection: Selection,
    /// The message beside which the page begins; it is not part of the page itself.
    pub cursor: Option<MessageHash>,
    /// Whether the page goes to later messages from its beginning, or to earlier ones.
    pub forward: bool,
    /// Messages in the page at most.
    pub limit: u32,
    /// Whether the messages themselves are wanted, or their hashes only.
    pub include_data: bool,
}

/// One entry of a page.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PageEntry {
    /// The message's hash.
    pub hash: MessageHash,
    /// The message and its shard, if they were wanted.
    pub data: Option<(PubsubTopic, Arc<WakuMessage>)>,
}

/// Entries in ascending order of (timestamp, hash), whatever the query's direction.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Page {
    /// The entries.
    pub entries: Vec<PageEntry>,
    /// Whether more messages lie beyond the page in the query's direction.
    pub more: bool,
}

/// What the retention deleted.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Expired {
    /// Messages that were too old.
    pub by_age: u64,
    /// Messages over the count.
    pub by_count: u64,
    /// Messages over the size.
    pub by_size: u64,
}

/// A durable store of messages.
#[async_trait]
pub trait Archive: Debug + Send + Sync + 'static {
    /// Keeps messages, each once. Returns how many were new; they are durable when this returns.
    ///
    /// # Errors
    /// [`ArchiveError::Database`]; then none of them was kept.
    async fn insert(&self, messages: &[ArchivedMessage]) -> Result<u64, ArchiveError>;

    /// Reads one page.
    ///
    /// # Errors
    /// [`ArchiveError::UnknownCursor`], [`ArchiveError::Database`], [`ArchiveError::Corrupt`].
    async fn page(&self, query: &PageQuery) -> Result<Page, ArchiveError>;

    /// Whether a message is there.
    ///
    /// # Errors
    /// [`ArchiveError::Database`].
    async fn contains(&self, hash: MessageHash) -> Result<bool, ArchiveError>;

    /// Messages kept.
    ///
    /// # Errors
    /// [`ArchiveError::Database`].
    async fn count(&self) -> Result<u64, ArchiveError>;

    /// Bytes in use, as [`Retention::max_bytes`] counts them.
    ///
    /// # Errors
    /// [`ArchiveError::Database`].
    async fn used_bytes(&self) -> Result<u64, ArchiveError>;

    /// Deletes what exceeds the retention at `now`.
    ///
    /// # Errors
    /// [`ArchiveError::Database`].
    async fn expire(&self, retention: &Retention, now: Timestamp) -> Result<Expired, ArchiveError>;

    /// Releases the database. Later calls fail.
    async fn close(&self);
}

/// What went wrong in an archive.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum ArchiveError {
    /// The database.
    #[error("the message archive failed: {0}")]
    Database(#[from] sqlx::Error),
    /// The database was made by another version of this software.
    #[error("the message archive {archive} can't be migrated: {reason}")]
    Migration {
        /// Where it is.
        archive: String,
        /// Why.
        reason: String,
    },
    /// A row can't be read back.
    #[error("the archived message {hash} can't be decoded")]
    Corrupt {
        /// Its hash, as far as readable.
        hash: String,
    },
    /// Not the URL of a PostgreSQL database.
    #[error("the archive's URL is no postgres://user:password@host:port/database: {reason}")]
    Url {
        /// What is wrong; nothing of the URL itself, which may hold a password.
        reason: String,
    },
    /// The cursor's message is not there (any more).
    #[error("the cursor {cursor} is not in the archive")]
    UnknownCursor {
        /// The cursor.
        cursor: MessageHash,
    },
}

impl ArchiveError {
    /// Whether the database is only away, e.g. restarting: the same may succeed soon.
    #[must_use]
    pub fn is_transient(&self) -> bool {
        match self {
            Self::Database(sqlx::Error::Io(_) | sqlx::Error::PoolTimedOut) => true,
            // PostgreSQL's classes: connection, operator intervention, too many connections, deadlock or serialization.
            Self::Database(sqlx::Error::Database(e)) => e.code().is_some_and(|code| {
                code.len() == 5 && ["08", "40", "53", "57"].iter().any(|class| code.starts_with(class))
            }),
            _ => false,
        }
    }

    /// Stable code of this error.
    #[must_use]
    pub const fn code(&self) -> &'static str {
        match self {
            Self::Database(_) => "TRB-W401",
            Self::Migration { .. } => "TRB-W402",
            Self::Corrupt { .. } => "TRB-W403",
            Self::UnknownCursor { .. } => "TRB-W404",
            Self::Url { .. } => "TRB-W405",
        }
    }
}
