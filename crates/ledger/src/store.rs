//! The ledger's database.

use std::path::Path;

use alloy::primitives::{Address, B256};
use sqlx::{Row, Sqlite, SqlitePool, Transaction, sqlite::SqliteRow};

use crate::{LedgerError, source::BlockRef};

const SCHEMA_VERSION: i64 = 1;

/// `events.seq` is never used twice (AUTOINCREMENT), not even after a reorganisation took events back: whoever remembers how far
/// it read sees everything that was mined again.
const SCHEMA: &str = "
CREATE TABLE meta (key TEXT PRIMARY KEY, value BLOB NOT NULL) STRICT, WITHOUT ROWID;
CREATE TABLE headers (number INTEGER PRIMARY KEY, hash BLOB NOT NULL, parent BLOB NOT NULL, timestamp INTEGER NOT NULL) STRICT;
CREATE TABLE events (
  seq INTEGER PRIMARY KEY AUTOINCREMENT,
  block INTEGER NOT NULL, block_hash BLOB NOT NULL, timestamp INTEGER NOT NULL,
  log_index INTEGER NOT NULL, tx_hash BLOB NOT NULL,
  topic BLOB NOT NULL, data BLOB NOT NULL,
  UNIQUE (block, log_index)
) STRICT;
CREATE TABLE leaves (position INTEGER PRIMARY KEY, commitment BLOB NOT NULL, block INTEGER NOT NULL, timestamp INTEGER NOT NULL) STRICT;
CREATE INDEX leaves_commitment ON leaves (commitment);
CREATE INDEX leaves_block ON leaves (block);
CREATE TABLE nullifiers (nullifier BLOB PRIMARY KEY, block INTEGER NOT NULL, tx_hash BLOB NOT NULL) STRICT, WITHOUT ROWID;
CREATE INDEX nullifiers_block ON nullifiers (block);
CREATE TABLE roots (leaf_count INTEGER PRIMARY KEY, root BLOB NOT NULL, block INTEGER NOT NULL, timestamp INTEGER NOT NULL) STRICT;
CREATE INDEX roots_block ON roots (block);
CREATE TABLE stops (tag BLOB PRIMARY KEY, stop INTEGER NOT NULL, block INTEGER NOT NULL) STRICT, WITHOUT ROWID;
CREATE INDEX stops_block ON stops (block);
CREATE TABLE claims (tag BLOB NOT NULL, until INTEGER NOT NULL, block INTEGER NOT NULL, PRIMARY KEY (tag, until)) STRICT, WITHOUT ROWID;
CREATE INDEX claims_block ON claims (block);
";

#[derive(Clone, Debug)]
pub(crate) struct Store {
    pub(crate) pool: SqlitePool,
}

pub(crate) type Tx = Transaction<'static, Sqlite>;

/// A log of the pool and where it stands in the chain.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct RawEvent {
    pub(crate) block: u64,
    pub(crate) block_hash: B256,
    pub(crate) timestamp: u64,
    pub(crate) log_index: u64,
    pub(crate) tx_hash: B256,
    pub(crate) topic: B256,
    pub(crate) data: Vec<u8>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct LeafRow {
    pub(crate) position: u64,
    pub(crate) commitment: [u8; 32],
    pub(crate) block: u64,
    pub(crate) timestamp: u64,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct RootRow {
    pub(crate) leaf_count: u64,
    pub(crate) root: [u8; 32],
    pub(crate) block: u64,
    pub(crate) timestamp: u64,
}

/// SQLite integers are signed; heights, times and positions never come near the limit.
#[allow(clippy::cast_possible_wrap, reason = "see above; a height beyond 2^63 is refused by the follower")]
const fn int(value: u64) -> i64 {
    value as i64
}

fn uint(row: &SqliteRow, column: &str) -> Result<u64, LedgerError> {
    let value: i64 = row.try_get(column)?;
    u64::try_from(value).map_err(|_| LedgerError::Corrupt { what: format!("{column} is {value}") })
}

fn word(row: &SqliteRow, column: &str) -> Result<[u8; 32], LedgerError> {
    let value: &[u8] = row.try_get(column)?;
    value.try_into().map_err(|_| LedgerError::Corrupt { what: format!("{column} has {} bytes", value.len()) })
}

impl Store {
    pub(crate) async fn open(path: &Path) -> Result<Self, LedgerError> {
        let pool = crate::database::open_database(path).await?;
        let store = Self { pool };
        store.migrate().await?;
        Ok(store)
    }

    async fn migrate(&self) -> Result<(), LedgerError> {
        let mut tx = self.begin().await?;
        let version: i64 = sqlx::query_scalar("PRAGMA user_version").fetch_one(&mut *tx).await?;
        match version {
            SCHEMA_VERSION => {}
            0 => {
                sqlx::raw_sql(SCHEMA).execute(&mut *tx).await?;
                sqlx::raw_sql("PRAGMA user_version = 1").execute(&mut *tx).await?;
            }
            other => {
                return Err(LedgerError::Corrupt {
                    what: format!("schema version {other}, this program knows {SCHEMA_VERSION}"),
                });
            }
        }
        tx.commit().await?;
        Ok(())
    }

    /// A transaction that holds the write lock from its start, so that it never has to be given up half-way.
    pub(crate) async fn begin(&self) -> Result<Tx, LedgerError> {
        Ok(self.pool.begin_with("BEGIN IMMEDIATE").await?)
    }

    /// Binds the database to one pool, once; answers the database's own random id.
    pub(crate) async fn bind(&self, chain: u64, pool: Address, fresh: [u8; 16]) -> Result<[u8; 16], LedgerError> {
        let mut tx = self.begin().await?;
        let found: Option<Vec<u8>> =
            sqlx::query_scalar("SELECT value FROM meta WHERE key = 'pool'").fetch_optional(&mut *tx).await?;
        let mut expected = chain.to_be_bytes().to_vec();
        expected.extend_from_slice(pool.as_slice());
        let id = if let Some(found) = found {
            if found.len() != 28 {
                return Err(LedgerError::Corrupt { what: format!("the pool's identity has {} bytes", found.len()) });
            }
            let mut found_chain = [0; 8];
            found_chain.copy_from_slice(&found[..8]);
            if u64::from_be_bytes(found_chain) != chain {
                return Err(LedgerError::WrongChain { expected: chain, found: u64::from_be_bytes(found_chain) });
            }
            if found != expected {
                return Err(LedgerError::WrongPool { expected: pool, found: Address::from_slice(&found[8..]) });
            }
            let id: Vec<u8> = sqlx::query_scalar("SELECT value FROM meta WHERE key = 'id'").fetch_one(&mut *tx).await?;
            id.try_into().map_err(|_| LedgerError::Corrupt { what: "the database's id".to_owned() })?
        } else {
            sqlx::query("INSERT INTO meta (key, value) VALUES ('pool', ?), ('id', ?)")
                .bind(&expected)
                .bind(fresh.to_vec())
                .execute(&mut *tx)
                .await?;
            fresh
        };
        tx.commit().await?;
        Ok(id)
    }

    pub(crate) async fn headers(&self) -> Result<Vec<BlockRef>, LedgerError> {
        let rows = sqlx::query("SELECT number, hash, parent, timestamp FROM headers ORDER BY number")
            .fetch_all(&self.pool)
            .await?;
        rows.iter()
            .map(|row| {
                Ok(BlockRef {
                    number: uint(row, "number")?,
                    hash: word(row, "hash")?.into(),
                    parent: word(row, "parent")?.into(),
                    timestamp: uint(row, "timestamp")?,
                })
            })
            .collect()
    }

    /// Leaves from `from` on, at most `limit` of them.
    pub(crate) async fn leaves(&self, from: u64, limit: u64) -> Result<Vec<LeafRow>, LedgerError> {
        let rows = sqlx::query(
            "SELECT position, commitment, block, timestamp FROM leaves WHERE position >= ? ORDER BY position LIMIT ?",
        )
        .bind(int(from))
        .bind(int(limit))
        .fetch_all(&self.pool)
        .await?;
        rows.iter().map(leaf_row).collect()
    }

    /// The first leaf with that commitment.
    pub(crate) async fn leaf_of(&self, commitment: [u8; 32]) -> Result<Option<LeafRow>, LedgerError> {
        let row = sqlx::query(
            "SELECT position, commitment, block, timestamp FROM leaves WHERE commitment = ? ORDER BY position LIMIT 1",
        )
        .bind(&commitment[..])
        .fetch_optional(&self.pool)
        .await?;
        row.as_ref().map(leaf_row).transpose()
    }

    pub(crate) async fn roots(&self) -> Result<Vec<RootRow>, LedgerError> {
        let rows = sqlx::query("SELECT leaf_count, root, block, timestamp FROM roots ORDER BY leaf_count")
            .fetch_all(&self.pool)
            .await?;
        rows.iter()
            .map(|row| {
                Ok(RootRow {
                    leaf_count: uint(row, "leaf_count")?,
                    root: word(row, "root")?,
                    block: uint(row, "block")?,
                    timestamp: uint(row, "timestamp")?,
                })
            })
            .collect()
    }

    /// `(block, stop, tag)`, in the order of their blocks.
    pub(crate) async fn stops(&self) -> Result<Vec<(u64, u64, [u8; 32])>, LedgerError> {
        let rows = sqlx::query("SELECT block, stop, tag FROM stops ORDER BY block").fetch_all(&self.pool).await?;
        rows.iter().map(|row| Ok((uint(row, "block")?, uint(row, "stop")?, word(row, "tag")?))).collect()
    }

    /// The block and the transaction that spent a nullifier.
    pub(crate) async fn spent(&self, nullifier: [u8; 32]) -> Result<Option<(u64, B256)>, LedgerError> {
        let row = sqlx::query("SELECT block, tx_hash FROM nullifiers WHERE nullifier = ?")
            .bind(&nullifier[..])
            .fetch_optional(&self.pool)
            .await?;
        row.as_ref().map(|row| Ok((uint(row, "block")?, word(row, "tx_hash")?.into()))).transpose()
    }

    /// `(claimed_until, stop)` of a stream's record, each 0 if never set.
    pub(crate) async fn record(&self, tag: [u8; 32]) -> Result<(u64, u64), LedgerError> {
        let row = sqlx::query(
            "SELECT COALESCE((SELECT MAX(until) FROM claims WHERE tag = ?1), 0) AS until, \
             COALESCE((SELECT stop FROM stops WHERE tag = ?1), 0) AS stop",
        )
        .bind(&tag[..])
        .fetch_one(&self.pool)
        .await?;
        Ok((uint(&row, "until")?, uint(&row, "stop")?))
    }

    pub(crate) async fn events_after(&self, seq: u64, limit: u32) -> Result<Vec<(u64, RawEvent)>, LedgerError> {
        let rows = sqlx::query(
            "SELECT seq, block, block_hash, timestamp, log_index, tx_hash, topic, data FROM events WHERE seq > ? ORDER BY seq LIMIT ?",
        )
        .bind(int(seq))
        .bind(i64::from(limit))
        .fetch_all(&self.pool)
        .await?;
        rows.iter()
            .map(|row| {
                let event = RawEvent {
                    block: uint(row, "block")?,
                    block_hash: word(row, "block_hash")?.into(),
                    timestamp: uint(row, "timestamp")?,
                    log_index: uint(row, "log_index")?,
                    tx_hash: word(row, "tx_hash")?.into(),
                    topic: word(row, "topic")?.into(),
                    data: row.try_get("data")?,
                };
                Ok((uint(row, "seq")?, event))
            })
            .collect()
    }
}

fn leaf_row(row: &SqliteRow) -> Result<LeafRow, LedgerError> {
    Ok(LeafRow {
        position: uint(row, "position")?,
        commitment: word(row, "commitment")?,
        block: uint(row, "block")?,
        timestamp: uint(row, "timestamp")?,
    })
}

/// Writes of one transaction.
pub(crate) struct Writer<'a>(pub(crate) &'a mut Tx);

impl Writer<'_> {
    pub(crate) async fn event(&mut self, event: &RawEvent) -> Result<(), LedgerError> {
        sqlx::query("INSERT INTO events (block, block_hash, timestamp, log_index, tx_hash, topic, data) VALUES (?, ?, ?, ?, ?, ?, ?)")
            .bind(int(event.block))
            .bind(event.block_hash.as_slice())
            .bind(int(event.timestamp))
            .bind(int(event.log_index))
            .bind(event.tx_hash.as_slice())
            .bind(event.topic.as_slice())
            .bind(&event.data)
            .execute(&mut **self.0)
            .await?;
        Ok(())
    }

    pub(crate) async fn leaf(&mut self, leaf: &LeafRow) -> Result<(), LedgerError> {
        sqlx::query("INSERT INTO leaves (position, commitment, block, timestamp) VALUES (?, ?, ?, ?)")
            .bind(int(leaf.position))
            .bind(&leaf.commitment[..])
            .bind(int(leaf.block))
            .bind(int(leaf.timestamp))
            .execute(&mut **self.0)
            .await?;
        Ok(())
    }

    pub(crate) async fn nullifier(&mut self, nullifier: [u8; 32], block: u64, tx: B256) -> Result<(), LedgerError> {
        sqlx::query("INSERT INTO nullifiers (nullifier, block, tx_hash) VALUES (?, ?, ?)")
            .bind(&nullifier[..])
            .bind(int(block))
            .bind(tx.as_slice())
            .execute(&mut **self.0)
            .await?;
        Ok(())
    }

    pub(crate) async fn root(&mut self, root: &RootRow) -> Result<(), LedgerError> {
        sqlx::query("INSERT INTO roots (leaf_count, root, block, timestamp) VALUES (?, ?, ?, ?)")
            .bind(int(root.leaf_count))
            .bind(&root.root[..])
            .bind(int(root.block))
            .bind(int(root.timestamp))
            .execute(&mut **self.0)
            .await?;
        Ok(())
    }

    pub(crate) async fn stop(&mut self, tag: [u8; 32], stop: u64, block: u64) -> Result<(), LedgerError> {
        sqlx::query("INSERT INTO stops (tag, stop, block) VALUES (?, ?, ?)")
            .bind(&tag[..])
            .bind(int(stop))
            .bind(int(block))
            .execute(&mut **self.0)
            .await?;
        Ok(())
    }

    pub(crate) async fn claim(&mut self, tag: [u8; 32], until: u64, block: u64) -> Result<(), LedgerError> {
        sqlx::query("INSERT INTO claims (tag, until, block) VALUES (?, ?, ?)")
            .bind(&tag[..])
            .bind(int(until))
            .bind(int(block))
            .execute(&mut **self.0)
            .await?;
        Ok(())
    }

    pub(crate) async fn header(&mut self, block: &BlockRef) -> Result<(), LedgerError> {
        sqlx::query("INSERT INTO headers (number, hash, parent, timestamp) VALUES (?, ?, ?, ?)")
            .bind(int(block.number))
            .bind(block.hash.as_slice())
            .bind(block.parent.as_slice())
            .bind(int(block.timestamp))
            .execute(&mut **self.0)
            .await?;
        Ok(())
    }

    /// Forgets headers below `oldest`.
    pub(crate) async fn prune_headers(&mut self, oldest: u64) -> Result<(), LedgerError> {
        sqlx::query("DELETE FROM headers WHERE number < ?").bind(int(oldest)).execute(&mut **self.0).await?;
        Ok(())
    }

    /// Takes back everything after block `ancestor`, or everything.
    pub(crate) async fn roll_back(&mut self, ancestor: Option<u64>) -> Result<(), LedgerError> {
        let ancestor = ancestor.map_or(-1, int);
        for statement in [
            "DELETE FROM headers WHERE number > ?",
            "DELETE FROM events WHERE block > ?",
            "DELETE FROM leaves WHERE block > ?",
            "DELETE FROM nullifiers WHERE block > ?",
            "DELETE FROM roots WHERE block > ?",
            "DELETE FROM stops WHERE block > ?",
            "DELETE FROM claims WHERE block > ?",
        ] {
            sqlx::query(statement).bind(ancestor).execute(&mut **self.0).await?;
        }
        Ok(())
    }
}
