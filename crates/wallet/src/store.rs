//! The wallet's database: notes and streams found on chain, operations under way. Status on chain is never stored: the ledger is asked.

use std::{path::Path, str::FromStr};

use serde::{Deserialize, Serialize};
use sqlx::{Row, Sqlite, SqlitePool, Transaction, sqlite::SqliteRow};
use tributary_ledger::open_database;
use tributary_protocol::{
    Commitment, Nullifier, Owner, PayerTag, PaymentAddress, Price, Rate, Rho, StreamNote, StreamTerms, UnixTime,
    ValueNote, ticket::OfferTerms,
};

use crate::{
    WalletError,
    operation::{AttemptId, Intent, OperationId, Outcome, PreparedTransaction},
};

const SCHEMA_VERSION: i64 = 1;

const SCHEMA: &str = "
CREATE TABLE meta (key TEXT PRIMARY KEY, value BLOB NOT NULL) STRICT, WITHOUT ROWID;
CREATE TABLE value_notes (
  commitment BLOB PRIMARY KEY, nullifier BLOB NOT NULL UNIQUE, amount TEXT NOT NULL, rho BLOB NOT NULL, settled INTEGER NOT NULL DEFAULT 0
) STRICT, WITHOUT ROWID;
CREATE TABLE streams (
  commitment BLOB NOT NULL, role INTEGER NOT NULL, nf_0 BLOB,
  payee BLOB NOT NULL, payer_tag BLOB NOT NULL, rate TEXT NOT NULL, starts INTEGER NOT NULL, ends INTEGER NOT NULL, rho BLOB NOT NULL,
  settled INTEGER NOT NULL DEFAULT 0,
  PRIMARY KEY (role, commitment)
) STRICT, WITHOUT ROWID;
CREATE TABLE stream_offers (
  nf_0 BLOB PRIMARY KEY, payee TEXT, price TEXT NOT NULL, min_streamed TEXT NOT NULL
) STRICT, WITHOUT ROWID;
CREATE TABLE operations (
  id BLOB PRIMARY KEY, intent TEXT NOT NULL, inputs TEXT NOT NULL, nf_0 BLOB, created INTEGER NOT NULL, ended INTEGER NOT NULL DEFAULT 0
) STRICT, WITHOUT ROWID;
CREATE INDEX operations_open ON operations (ended);
CREATE TABLE reservations (
  commitment BLOB PRIMARY KEY, operation BLOB NOT NULL REFERENCES operations (id) ON DELETE CASCADE
) STRICT, WITHOUT ROWID;
CREATE INDEX reservations_operation ON reservations (operation);
CREATE TABLE attempts (
  id BLOB PRIMARY KEY, operation BLOB NOT NULL REFERENCES operations (id) ON DELETE CASCADE, number INTEGER NOT NULL,
  deadline INTEGER NOT NULL, prepared TEXT NOT NULL, sent INTEGER NOT NULL DEFAULT 0, dead INTEGER NOT NULL DEFAULT 0, outcome TEXT,
  UNIQUE (operation, number)
) STRICT, WITHOUT ROWID;
";

/// Whose side of a stream a row is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Role {
    Payer = 0,
    Payee = 1,
}

/// How an operation ended in the database.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Ended {
    Confirmed = 1,
    Expired = 2,
    Abandoned = 3,
}

#[derive(Clone, Debug)]
pub(crate) struct Store {
    pool: SqlitePool,
}

pub(crate) type Tx = Transaction<'static, Sqlite>;

/// A note of this wallet.
#[derive(Clone, Copy, Debug)]
pub(crate) struct NoteRow {
    pub(crate) note: ValueNote,
    pub(crate) commitment: Commitment,
    pub(crate) nullifier: Nullifier,
}

#[derive(Clone, Copy, Debug)]
pub(crate) struct StreamRow {
    pub(crate) note: StreamNote,
    pub(crate) commitment: Commitment,
    /// First nullifier of the transaction that opened it; the payer's side only.
    pub(crate) nf_0: Option<Nullifier>,
}

/// What goes into a transaction: a note, or a dummy's secret.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub(crate) enum InputRef {
    Note(Commitment),
    Dummy(String),
}

#[derive(Clone, Debug)]
pub(crate) struct OperationRow {
    pub(crate) id: OperationId,
    pub(crate) intent: Intent,
    pub(crate) inputs: Vec<InputRef>,
    pub(crate) nf_0: Option<Nullifier>,
    pub(crate) created: UnixTime,
    pub(crate) ended: i64,
}

#[derive(Clone, Debug)]
pub(crate) struct AttemptRow {
    pub(crate) id: AttemptId,
    pub(crate) deadline: UnixTime,
    pub(crate) prepared: PreparedTransaction,
    pub(crate) sent: bool,
    /// It is certain that it will never be mined.
    pub(crate) dead: bool,
    pub(crate) outcome: Option<Outcome>,
}

fn corrupt(what: impl Into<String>) -> WalletError {
    WalletError::Corrupt { what: what.into() }
}

fn word(row: &SqliteRow, column: &str) -> Result<[u8; 32], WalletError> {
    let bytes: &[u8] = row.try_get(column)?;
    bytes.try_into().map_err(|_| corrupt(format!("{column} has {} bytes", bytes.len())))
}

fn parsed<T: FromStr>(row: &SqliteRow, column: &str) -> Result<T, WalletError> {
    let text: &str = row.try_get(column)?;
    text.parse().map_err(|_| corrupt(column))
}

fn time(row: &SqliteRow, column: &str) -> Result<UnixTime, WalletError> {
    let value: i64 = row.try_get(column)?;
    u64::try_from(value).ok().and_then(|v| UnixTime::new(v).ok()).ok_or_else(|| corrupt(column))
}

fn json<T: for<'de> Deserialize<'de>>(row: &SqliteRow, column: &str) -> Result<T, WalletError> {
    let text: &str = row.try_get(column)?;
    serde_json::from_str(text).map_err(|_| corrupt(column))
}

fn to_json(value: &impl Serialize) -> Result<String, WalletError> {
    serde_json::to_string(value).map_err(|error| corrupt(error.to_string()))
}

pub(crate) fn int(time: UnixTime) -> i64 {
    i64::try_from(time.get()).unwrap_or(i64::MAX)
}

macro_rules! element {
    ($type:ty, $row:expr, $column:literal) => {
        <$type>::try_from_be_bytes(&word($row, $column)?).map_err(|_| corrupt($column))
    };
}

impl Store {
    pub(crate) async fn open(path: &Path) -> Result<Self, WalletError> {
        private_file(path)?;
        let pool = open_database(path).await?;
        let store = Self { pool };
        let mut tx = store.begin().await?;
        let version: i64 = sqlx::query_scalar("PRAGMA user_version").fetch_one(&mut *tx).await?;
        match version {
            SCHEMA_VERSION => {}
            0 => {
                sqlx::raw_sql(SCHEMA).execute(&mut *tx).await?;
                sqlx::raw_sql("PRAGMA user_version = 1").execute(&mut *tx).await?;
            }
            other => return Err(corrupt(format!("schema version {other}, this program knows {SCHEMA_VERSION}"))),
        }
        tx.commit().await?;
        Ok(store)
    }

    pub(crate) async fn begin(&self) -> Result<Tx, WalletError> {
        Ok(self.pool.begin_with("BEGIN IMMEDIATE").await?)
    }

    pub(crate) async fn meta(&self, key: &str) -> Result<Option<Vec<u8>>, WalletError> {
        Ok(sqlx::query_scalar("SELECT value FROM meta WHERE key = ?").bind(key).fetch_optional(&self.pool).await?)
    }

    pub(crate) async fn unsettled_notes(&self, owner: Owner) -> Result<Vec<NoteRow>, WalletError> {
        let rows = sqlx::query("SELECT commitment, nullifier, amount, rho FROM value_notes WHERE settled = 0")
            .fetch_all(&self.pool)
            .await?;
        rows.iter().map(|row| note_row(row, owner)).collect()
    }

    pub(crate) async fn note(&self, commitment: Commitment, owner: Owner) -> Result<Option<NoteRow>, WalletError> {
        let row = sqlx::query("SELECT commitment, nullifier, amount, rho FROM value_notes WHERE commitment = ?")
            .bind(&commitment.to_be_bytes()[..])
            .fetch_optional(&self.pool)
            .await?;
        row.map(|row| note_row(&row, owner)).transpose()
    }

    pub(crate) async fn streams(&self, role: Role, settled: bool) -> Result<Vec<StreamRow>, WalletError> {
        let rows = sqlx::query(
            "SELECT commitment, nf_0, payee, payer_tag, rate, starts, ends, rho FROM streams WHERE role = ? AND settled <= ? ORDER BY starts, commitment",
        )
        .bind(role as i64)
        .bind(i64::from(settled))
        .fetch_all(&self.pool)
        .await?;
        rows.iter().map(stream_row).collect()
    }

    pub(crate) async fn stream(&self, role: Role, commitment: Commitment) -> Result<Option<StreamRow>, WalletError> {
        let row = sqlx::query(
            "SELECT commitment, nf_0, payee, payer_tag, rate, starts, ends, rho FROM streams WHERE role = ? AND commitment = ?",
        )
        .bind(role as i64)
        .bind(&commitment.to_be_bytes()[..])
        .fetch_optional(&self.pool)
        .await?;
        row.as_ref().map(stream_row).transpose()
    }

    /// The offer under which a stream was opened and the payee's address, as far as they are known.
    pub(crate) async fn offer(
        &self,
        nf_0: Nullifier,
        payee: Owner,
    ) -> Result<Option<(OfferTerms, Option<PaymentAddress>)>, WalletError> {
        let row = sqlx::query("SELECT payee, price, min_streamed FROM stream_offers WHERE nf_0 = ?")
            .bind(&nf_0.to_be_bytes()[..])
            .fetch_optional(&self.pool)
            .await?;
        row.map(|row| {
            let address: Option<&str> = row.try_get("payee")?;
            let address = address.map(str::parse).transpose().map_err(|_| corrupt("payee"))?;
            let price: Price = parsed(&row, "price")?;
            Ok((OfferTerms { payee, price, min_streamed: parsed(&row, "min_streamed")? }, address))
        })
        .transpose()
    }

    /// Which operation holds each reserved note or stream.
    pub(crate) async fn reservations(&self) -> Result<Vec<(Commitment, OperationId)>, WalletError> {
        let rows = sqlx::query("SELECT commitment, operation FROM reservations").fetch_all(&self.pool).await?;
        rows.iter().map(|row| Ok((element!(Commitment, row, "commitment")?, operation_id(row, "operation")?))).collect()
    }

    pub(crate) async fn open_operations(&self) -> Result<Vec<OperationRow>, WalletError> {
        let rows = sqlx::query(
            "SELECT id, intent, inputs, nf_0, created, ended FROM operations WHERE ended = 0 ORDER BY created, id",
        )
        .fetch_all(&self.pool)
        .await?;
        rows.iter().map(operation_row).collect()
    }

    pub(crate) async fn operation(&self, id: OperationId) -> Result<OperationRow, WalletError> {
        let row = sqlx::query("SELECT id, intent, inputs, nf_0, created, ended FROM operations WHERE id = ?")
            .bind(&id.as_bytes()[..])
            .fetch_optional(&self.pool)
            .await?;
        row.as_ref().map_or(Err(WalletError::UnknownOperation { operation: id }), operation_row)
    }

    pub(crate) async fn attempts(&self, operation: OperationId) -> Result<Vec<AttemptRow>, WalletError> {
        let rows = sqlx::query(
            "SELECT id, deadline, prepared, sent, dead, outcome FROM attempts WHERE operation = ? ORDER BY number",
        )
        .bind(&operation.as_bytes()[..])
        .fetch_all(&self.pool)
        .await?;
        rows.iter()
            .map(|row| {
                let id: &[u8] = row.try_get("id")?;
                let outcome: Option<&str> = row.try_get("outcome")?;
                Ok(AttemptRow {
                    id: AttemptId::from_slice(id).ok_or_else(|| corrupt("attempt id"))?,
                    deadline: time(row, "deadline")?,
                    prepared: json(row, "prepared")?,
                    sent: row.try_get::<i64, _>("sent")? != 0,
                    dead: row.try_get::<i64, _>("dead")? != 0,
                    outcome: outcome.map(serde_json::from_str).transpose().map_err(|_| corrupt("outcome"))?,
                })
            })
            .collect()
    }

    /// Marks an attempt as handed out, before it is.
    pub(crate) async fn mark_sent(&self, attempt: AttemptId) -> Result<(), WalletError> {
        sqlx::query("UPDATE attempts SET sent = 1 WHERE id = ?")
            .bind(&attempt.as_bytes()[..])
            .execute(&self.pool)
            .await?;
        Ok(())
    }

    pub(crate) async fn set_outcome(
        &self,
        attempt: AttemptId,
        outcome: &Outcome,
        dead: bool,
    ) -> Result<(), WalletError> {
        sqlx::query("UPDATE attempts SET outcome = ?, dead = ? WHERE id = ?")
            .bind(to_json(outcome)?)
            .bind(i64::from(dead))
            .bind(&attempt.as_bytes()[..])
            .execute(&self.pool)
            .await?;
        Ok(())
    }

    /// Ends an operation and frees what it reserved.
    pub(crate) async fn end_operation(&self, id: OperationId, ended: Ended) -> Result<(), WalletError> {
        let mut tx = self.begin().await?;
        sqlx::query("UPDATE operations SET ended = ? WHERE id = ?")
            .bind(ended as i64)
            .bind(&id.as_bytes()[..])
            .execute(&mut *tx)
            .await?;
        sqlx::query("DELETE FROM reservations WHERE operation = ?").bind(&id.as_bytes()[..]).execute(&mut *tx).await?;
        tx.commit().await?;
        Ok(())
    }

    pub(crate) async fn settle_note(&self, commitment: Commitment) -> Result<(), WalletError> {
        sqlx::query("UPDATE value_notes SET settled = 1 WHERE commitment = ?")
            .bind(&commitment.to_be_bytes()[..])
            .execute(&self.pool)
            .await?;
        Ok(())
    }

    pub(crate) async fn settle_stream(&self, role: Role, commitment: Commitment) -> Result<(), WalletError> {
        sqlx::query("UPDATE streams SET settled = 1 WHERE role = ? AND commitment = ?")
            .bind(role as i64)
            .bind(&commitment.to_be_bytes()[..])
            .execute(&self.pool)
            .await?;
        Ok(())
    }

    /// Remembers an offer once; later calls change nothing.
    pub(crate) async fn bind_offer(
        &self,
        nf_0: Nullifier,
        offer: &OfferTerms,
        payee: Option<&PaymentAddress>,
    ) -> Result<(), WalletError> {
        let mut tx = self.begin().await?;
        insert_offer(&mut tx, nf_0, offer, payee).await?;
        tx.commit().await?;
        Ok(())
    }
}

fn note_row(row: &SqliteRow, owner: Owner) -> Result<NoteRow, WalletError> {
    Ok(NoteRow {
        note: ValueNote { amount: parsed(row, "amount")?, owner, rho: element!(Rho, row, "rho")? },
        commitment: element!(Commitment, row, "commitment")?,
        nullifier: element!(Nullifier, row, "nullifier")?,
    })
}

fn stream_row(row: &SqliteRow) -> Result<StreamRow, WalletError> {
    let rate: Rate = parsed(row, "rate")?;
    let terms = StreamTerms::new(element!(Owner, row, "payee")?, rate, time(row, "starts")?, time(row, "ends")?)
        .map_err(|_| corrupt("a stream's terms"))?;
    let nf_0: Option<&[u8]> = row.try_get("nf_0")?;
    Ok(StreamRow {
        note: StreamNote { terms, payer_tag: element!(PayerTag, row, "payer_tag")?, rho: element!(Rho, row, "rho")? },
        commitment: element!(Commitment, row, "commitment")?,
        nf_0: nf_0.map(|_| element!(Nullifier, row, "nf_0")).transpose()?,
    })
}

fn operation_id(row: &SqliteRow, column: &str) -> Result<OperationId, WalletError> {
    let id: &[u8] = row.try_get(column)?;
    OperationId::from_slice(id).ok_or_else(|| corrupt(column))
}

fn operation_row(row: &SqliteRow) -> Result<OperationRow, WalletError> {
    let nf_0: Option<&[u8]> = row.try_get("nf_0")?;
    Ok(OperationRow {
        id: operation_id(row, "id")?,
        intent: json(row, "intent")?,
        inputs: json(row, "inputs")?,
        nf_0: nf_0.map(|_| element!(Nullifier, row, "nf_0")).transpose()?,
        created: time(row, "created")?,
        ended: row.try_get("ended")?,
    })
}

pub(crate) async fn set_meta(tx: &mut Tx, key: &str, value: &[u8]) -> Result<(), WalletError> {
    sqlx::query("INSERT INTO meta (key, value) VALUES (?, ?) ON CONFLICT (key) DO UPDATE SET value = excluded.value")
        .bind(key)
        .bind(value)
        .execute(&mut **tx)
        .await?;
    Ok(())
}

pub(crate) async fn insert_note(
    tx: &mut Tx,
    note: &ValueNote,
    commitment: Commitment,
    nullifier: Nullifier,
) -> Result<(), WalletError> {
    sqlx::query(
        "INSERT INTO value_notes (commitment, nullifier, amount, rho) VALUES (?, ?, ?, ?) ON CONFLICT DO NOTHING",
    )
    .bind(&commitment.to_be_bytes()[..])
    .bind(&nullifier.to_be_bytes()[..])
    .bind(note.amount.to_string())
    .bind(&note.rho.to_be_bytes()[..])
    .execute(&mut **tx)
    .await?;
    Ok(())
}

pub(crate) async fn insert_stream(
    tx: &mut Tx,
    role: Role,
    note: &StreamNote,
    commitment: Commitment,
    nf_0: Option<Nullifier>,
) -> Result<(), WalletError> {
    sqlx::query(
        "INSERT INTO streams (commitment, role, nf_0, payee, payer_tag, rate, starts, ends, rho) VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?) \
         ON CONFLICT DO NOTHING",
    )
    .bind(&commitment.to_be_bytes()[..])
    .bind(role as i64)
    .bind(nf_0.map(|n| n.to_be_bytes().to_vec()))
    .bind(&note.terms.payee().to_be_bytes()[..])
    .bind(&note.payer_tag.to_be_bytes()[..])
    .bind(note.terms.rate().to_string())
    .bind(int(note.terms.start()))
    .bind(int(note.terms.end()))
    .bind(&note.rho.to_be_bytes()[..])
    .execute(&mut **tx)
    .await?;
    Ok(())
}

pub(crate) async fn insert_offer(
    tx: &mut Tx,
    nf_0: Nullifier,
    offer: &OfferTerms,
    payee: Option<&PaymentAddress>,
) -> Result<(), WalletError> {
    sqlx::query(
        "INSERT INTO stream_offers (nf_0, payee, price, min_streamed) VALUES (?, ?, ?, ?) ON CONFLICT DO NOTHING",
    )
    .bind(&nf_0.to_be_bytes()[..])
    .bind(payee.map(ToString::to_string))
    .bind(offer.price.to_string())
    .bind(offer.min_streamed.to_string())
    .execute(&mut **tx)
    .await?;
    Ok(())
}

pub(crate) async fn insert_operation(
    tx: &mut Tx,
    operation: &OperationRow,
    reserved: &[Commitment],
) -> Result<(), WalletError> {
    sqlx::query("INSERT INTO operations (id, intent, inputs, nf_0, created) VALUES (?, ?, ?, ?, ?)")
        .bind(&operation.id.as_bytes()[..])
        .bind(to_json(&operation.intent)?)
        .bind(to_json(&operation.inputs)?)
        .bind(operation.nf_0.map(|n| n.to_be_bytes().to_vec()))
        .bind(int(operation.created))
        .execute(&mut **tx)
        .await?;
    for commitment in reserved {
        sqlx::query(
            // An older operation that has it is on chain: it needs it no more.
            "INSERT INTO reservations (commitment, operation) VALUES (?, ?) \
             ON CONFLICT (commitment) DO UPDATE SET operation = excluded.operation",
        )
        .bind(&commitment.to_be_bytes()[..])
        .bind(&operation.id.as_bytes()[..])
        .execute(&mut **tx)
        .await?;
    }
    Ok(())
}

/// `false` when the operation has ended meanwhile.
pub(crate) async fn insert_attempt(tx: &mut Tx, prepared: &PreparedTransaction) -> Result<bool, WalletError> {
    let done = sqlx::query(
        "INSERT INTO attempts (id, operation, number, deadline, prepared) \
         SELECT ?1, ?2, (SELECT COUNT(*) FROM attempts WHERE operation = ?2), ?3, ?4 \
         WHERE EXISTS (SELECT 1 FROM operations WHERE id = ?2 AND ended = 0)",
    )
    .bind(&prepared.attempt.as_bytes()[..])
    .bind(&prepared.operation.as_bytes()[..])
    .bind(int(prepared.external.deadline))
    .bind(to_json(prepared)?)
    .execute(&mut **tx)
    .await?;
    Ok(done.rows_affected() == 1)
}

/// The database tells who paid whom: nobody else may read it.
pub(crate) fn private_file(path: &Path) -> std::io::Result<()> {
    let mut options = std::fs::OpenOptions::new();
    options.append(true).create(true);
    #[cfg(unix)]
    std::os::unix::fs::OpenOptionsExt::mode(&mut options, 0o600);
    options.open(path)?;
    Ok(())
}
