//! How every database that money hangs on is opened.

use std::{path::Path, time::Duration};

use sqlx::{
    SqlitePool,
    sqlite::{SqliteConnectOptions, SqliteJournalMode, SqlitePoolOptions, SqliteSynchronous},
};

/// Opens or makes a SQLite database whose commits survive a power cut (write-ahead log, `synchronous = FULL`) and whose foreign keys hold.
/// Other processes that hold it are waited for up to 30 s.
///
/// # Errors
/// When the file can't be opened or is no database.
pub async fn open_database(path: &Path) -> Result<SqlitePool, sqlx::Error> {
    let options = SqliteConnectOptions::new()
        .filename(path)
        .create_if_missing(true)
        .journal_mode(SqliteJournalMode::Wal)
        .synchronous(SqliteSynchronous::Full)
        .busy_timeout(Duration::from_secs(30))
        .foreign_keys(true);
    SqlitePoolOptions::new().max_connections(4).connect_with(options).await
}
