//! The one thread that writes the database, and its schema.

use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use parking_lot::RwLock;
use sqlx::sqlite::{SqliteConnectOptions, SqliteJournalMode, SqliteLockingMode, SqliteSynchronous};
use sqlx::{ConnectOptions, Connection, Row, SqliteConnection};
use tokio::sync::{mpsc, oneshot};
use tracing::{error, warn};

use super::witness::{Record, Witness};
use super::{Front, OnMissing, Outcome, Recovery, RequestDigest, Spent, StoreError, StoreOptions, Ticket};

/// Version of the tables.
const SCHEMA: i64 = 1;
/// Jobs committed together at most: bounds how long the first of them waits.
const BATCH: usize = 256;
/// Rows deleted between two batches of tickets.
const PRUNE_STEP: i64 = 2000;

/// What answers a job once its batch is on disk, or not.
type Completion = Box<dyn FnOnce(&Result<(), StoreErrorText>) + Send>;

pub(super) enum ReserveAnswer {
    New(Ticket),
    Spent { index: usize, spent: Spent },
    BelowFloor { floor: u64 },
}

impl ReserveAnswer {
    /// After the commit: from here on the ticket must be settled.
    fn stored(self) -> Self {
        match self {
            Self::New(mut ticket) => {
                ticket.open = true;
                Self::New(ticket)
            }
            other => other,
        }
    }
}

type Reply<T> = oneshot::Sender<Result<T, StoreError>>;

pub(super) enum Job {
    Reserve { ticket: Ticket, now: u64, reply: Reply<ReserveAnswer> },
    Settle { slot: u64, nullifiers: Vec<[u8; 32]>, outcome: Outcome, reply: Option<Reply<()>> },
    Lookup { slot: u64, nullifier: [u8; 32], reply: Reply<Option<Spent>> },
    Prune { through: Option<u64>, now: u64, reply: Reply<()> },
    Count { reply: Reply<u64> },
    Close { reply: oneshot::Sender<()> },
}

pub(super) struct Setup {
    pub(super) path: PathBuf,
    pub(super) payee: [u8; 32],
    pub(super) options: StoreOptions,
    pub(super) front: Arc<RwLock<Front>>,
    pub(super) commits: Arc<AtomicU64>,
}

pub(super) fn run(
    setup: Setup,
    inbox: mpsc::Receiver<Job>,
    ready: oneshot::Sender<Result<Option<Recovery>, StoreError>>,
) {
    let runtime = match tokio::runtime::Builder::new_current_thread().enable_time().build() {
        Ok(runtime) => runtime,
        Err(e) => {
            let _ = ready.send(Err(e.into()));
            return;
        }
    };
    runtime.block_on(async move {
        match Writer::open(setup).await {
            Ok((writer, recovery)) => {
                if ready.send(Ok(recovery)).is_ok() {
                    writer.serve(inbox).await;
                }
            }
            Err(e) => {
                let _ = ready.send(Err(e));
            }
        }
    });
}

struct Writer {
    db: SqliteConnection,
    witness: Witness,
    record: Record,
    front: Arc<RwLock<Front>>,
    commits: Arc<AtomicU64>,
    /// Slots up to here still have rows to delete.
    pruning: Option<u64>,
    full_sync: bool,
}

const TABLES: &str = "
CREATE TABLE store (
    id INTEGER PRIMARY KEY CHECK (id = 0),
    schema INTEGER NOT NULL,
    payee BLOB NOT NULL CHECK (length(payee) = 32),
    floor INTEGER,
    highest INTEGER,
    counter INTEGER NOT NULL,
    alive INTEGER NOT NULL,
    boot TEXT NOT NULL
) STRICT;
CREATE TABLE nullifiers (
    payee BLOB NOT NULL CHECK (length(payee) = 32),
    slot INTEGER NOT NULL,
    nullifier BLOB NOT NULL CHECK (length(nullifier) = 32),
    request BLOB NOT NULL CHECK (length(request) = 32),
    outcome INTEGER NOT NULL,
    PRIMARY KEY (payee, slot, nullifier)
) STRICT, WITHOUT ROWID;
";

/// Names the machine's present run; a mark that was not yet forced to disk is lost exactly when this changes.
fn boot_id() -> String {
    std::fs::read_to_string("/proc/sys/kernel/random/boot_id").map(|s| s.trim().to_owned()).unwrap_or_default()
}

fn slot_to_db(slot: u64) -> i64 {
    // Slots are u40 unix seconds.
    i64::try_from(slot).unwrap_or(i64::MAX)
}

fn slot_from_db(v: Option<i64>) -> Result<Option<u64>, StoreError> {
    v.map(|v| u64::try_from(v).map_err(|_| StoreError::Corrupt { what: "slot", found: v.to_string() })).transpose()
}

fn bytes32(v: &[u8], what: &'static str) -> Result<[u8; 32], StoreError> {
    v.try_into().map_err(|_| StoreError::Corrupt { what, found: format!("{} bytes", v.len()) })
}

impl Writer {
    async fn open(setup: Setup) -> Result<(Self, Option<Recovery>), StoreError> {
        let Setup { path, payee, options, front, commits } = setup;
        let existed = path.try_exists()? && std::fs::metadata(&path)?.len() > 0;
        if !existed && options.on_missing == OnMissing::Refuse {
            return Err(StoreError::Missing { path });
        }
        let mut db = SqliteConnectOptions::new()
            .filename(&path)
            .create_if_missing(true)
            .journal_mode(SqliteJournalMode::Wal)
            .synchronous(SqliteSynchronous::Full)
            .locking_mode(SqliteLockingMode::Exclusive)
            .busy_timeout(Duration::from_secs(2))
            .connect()
            .await
            .map_err(|e| busy(e, &path))?;
        // The exclusive lock is taken by the first write and kept.
        sqlx::query("BEGIN IMMEDIATE").execute(&mut db).await.map_err(|e| busy(e, &path))?;
        let has_tables: i64 =
            sqlx::query_scalar("SELECT count(*) FROM sqlite_master WHERE name = 'store'").fetch_one(&mut db).await?;
        let (witness, seen) = Witness::open(&Witness::path_for(&path))?;
        if let Some(seen) = &seen
            && seen.payee != payee
        {
            return Err(other_payee(&payee, &seen.payee));
        }

        let boot = boot_id();
        let horizon = options.horizon.get();
        let mut recovery = None;
        let mut record;
        if has_tables == 0 {
            // The process may have been killed after the file was made: an empty database is a missing one.
            if options.on_missing == OnMissing::Refuse {
                return Err(StoreError::Missing { path });
            }
            sqlx::raw_sql(TABLES).execute(&mut db).await?;
            record = Record { payee, counter: 0, floor: None, highest: None };
            if let Some(seen) = seen {
                recovery = Some(Recovery::LostDatabase);
                record = Record { floor: seen.floor.max(seen.highest), ..seen };
            }
            if options.on_missing == OnMissing::Lost {
                recovery = Some(Recovery::LostDatabase);
                record.floor = record.floor.max(Some(horizon));
            }
            sqlx::query("INSERT INTO store (id, schema, payee, floor, highest, counter, alive, boot) VALUES (0, ?, ?, NULL, NULL, 0, ?, ?)")
                .bind(SCHEMA)
                .bind(&payee[..])
                .bind(slot_to_db(options.now.get()))
                .bind(&boot)
                .execute(&mut db)
                .await?;
        } else {
            let row = sqlx::query("SELECT schema, payee, floor, highest, counter, alive, boot FROM store WHERE id = 0")
                .fetch_one(&mut db)
                .await?;
            let schema: i64 = row.try_get(0)?;
            if schema > SCHEMA {
                return Err(StoreError::Schema { found: schema, known: SCHEMA });
            }
            let owner = bytes32(row.try_get::<&[u8], _>(1)?, "payee")?;
            if owner != payee {
                return Err(other_payee(&payee, &owner));
            }
            let counter = slot_from_db(Some(row.try_get(4)?))?.unwrap_or(0);
            let alive = slot_from_db(Some(row.try_get(5)?))?.unwrap_or(0);
            let last_boot: String = row.try_get(6)?;
            record = Record {
                payee,
                counter,
                floor: slot_from_db(row.try_get(2)?)?,
                highest: slot_from_db(row.try_get(3)?)?,
            };
            match seen {
                Some(seen) if seen.counter > counter => {
                    recovery = Some(Recovery::RestoredDatabase);
                    record.highest = record.highest.max(seen.highest);
                    record.floor = record.floor.max(seen.floor).max(record.highest);
                    record.counter = seen.counter;
                }
                Some(seen) => record.floor = record.floor.max(seen.floor),
                // Nothing was ever written but the tables themselves: killed while being created.
                None if counter == 0 => {}
                None => {
                    recovery = Some(Recovery::NoWitness);
                    record.floor = record.floor.max(record.highest).max(Some(horizon));
                }
            }
            if record.highest.is_some() && options.now.get().saturating_sub(alive) > options.trusted_gap {
                recovery = recovery.or(Some(Recovery::LongGap));
                record.floor = record.floor.max(Some(horizon));
            }
            let unfinished =
                if !boot.is_empty() && boot == last_boot { Outcome::Interrupted } else { Outcome::Unknown };
            sqlx::query("UPDATE nullifiers SET outcome = ? WHERE outcome = 0")
                .bind(unfinished.to_db())
                .execute(&mut db)
                .await?;
        }
        record.counter += 1;
        sqlx::query(
            "UPDATE store SET floor = ?, highest = ?, counter = ?, alive = max(alive, ?), boot = ?, schema = ?",
        )
        .bind(record.floor.map(slot_to_db))
        .bind(record.highest.map(slot_to_db))
        .bind(slot_to_db(record.counter))
        .bind(slot_to_db(options.now.get()))
        .bind(&boot)
        .bind(SCHEMA)
        .execute(&mut db)
        .await?;
        sqlx::query("COMMIT").execute(&mut db).await?;
        witness.write(&record)?;
        witness.sync()?;
        if let Some(why) = recovery {
            warn!(?why, floor = ?record.floor, "nullifiers may be missing: every slot up to the floor is refused for ever");
        }

        let mut writer = Self { db, witness, record, front, commits, pruning: record.floor, full_sync: true };
        writer.load().await?;
        Ok((writer, recovery))
    }

    /// Fills the memory front with the rows above the floor, newest slots first.
    async fn load(&mut self) -> Result<(), StoreError> {
        let above = self.record.floor.map_or(-1, slot_to_db);
        let slots: Vec<i64> =
            sqlx::query_scalar("SELECT DISTINCT slot FROM nullifiers WHERE payee = ? AND slot > ? ORDER BY slot DESC")
                .bind(&self.record.payee[..])
                .bind(above)
                .fetch_all(&mut self.db)
                .await?;
        self.front.write().floor = self.record.floor;
        for slot in slots {
            let room = {
                let front = self.front.read();
                front.capacity.saturating_sub(front.entries)
            };
            let rows =
                sqlx::query("SELECT nullifier, request, outcome FROM nullifiers WHERE payee = ? AND slot = ? LIMIT ?")
                    .bind(&self.record.payee[..])
                    .bind(slot)
                    .bind(i64::try_from(room).unwrap_or(i64::MAX).saturating_add(1))
                    .fetch_all(&mut self.db)
                    .await?;
            let slot = slot_from_db(Some(slot))?.unwrap_or(0);
            let mut front = self.front.write();
            for row in rows {
                let (nullifier, spent) = (bytes32(row.try_get::<&[u8], _>(0)?, "nullifier")?, spent(&row, 1)?);
                front.insert(slot, nullifier, spent);
            }
        }
        Ok(())
    }

    async fn serve(mut self, mut inbox: mpsc::Receiver<Job>) {
        let mut batch = Vec::with_capacity(BATCH);
        loop {
            if self.pruning.is_some() && inbox.is_empty() {
                if let Err(e) = self.prune_step().await {
                    error!(error = %e, "pruning stopped; it is taken up again after the next prune");
                    self.pruning = None;
                }
                // Tickets come before old rows.
                if inbox.is_empty() {
                    tokio::task::yield_now().await;
                    if self.pruning.is_some() && inbox.is_empty() && !inbox.is_closed() {
                        continue;
                    }
                }
            }
            batch.clear();
            if inbox.recv_many(&mut batch, BATCH).await == 0 {
                break;
            }
            if let Some(reply) = self.batch(&mut batch).await {
                // Everything before the close in its batch is done; what comes later finds the store closed.
                inbox.close();
                let _ = self.db.close().await;
                let _ = reply.send(());
                return;
            }
        }
        let _ = self.db.close().await;
    }

    /// Commits a batch in one transaction and answers each job after it.
    async fn batch(&mut self, batch: &mut Vec<Job>) -> Option<oneshot::Sender<()>> {
        let durable = batch.iter().any(|j| matches!(j, Job::Reserve { .. } | Job::Prune { .. }));
        let writes = durable || batch.iter().any(|j| matches!(j, Job::Settle { .. }));
        let mut close = None;
        let mut done: Vec<Completion> = Vec::with_capacity(batch.len());
        let mut stored: Vec<(u64, Vec<[u8; 32]>, RequestDigest)> = Vec::new();
        let before = self.record;

        let begun = if writes { self.begin(durable).await } else { Ok(()) };
        let mut failed = begun.err();
        for job in batch.drain(..) {
            match job {
                Job::Close { reply } => close = Some(reply),
                Job::Lookup { slot, nullifier, reply } => {
                    let _ = reply.send(self.lookup(slot, &nullifier).await);
                }
                Job::Count { reply } => {
                    let _ = reply.send(self.count().await);
                }
                Job::Reserve { ticket, now, reply } => {
                    let answer = match &failed {
                        Some(e) => Err(StoreError::Io { reason: e.to_string() }),
                        None => self.reserve(ticket, now).await,
                    };
                    match answer {
                        Ok(answer) => {
                            if let ReserveAnswer::New(ticket) = &answer {
                                stored.push((ticket.slot.start().get(), ticket.nullifiers.clone(), ticket.request));
                            }
                            done.push(Box::new(move |committed| {
                                let answer =
                                    committed.as_ref().map(|()| answer.stored()).map_err(StoreErrorText::again);
                                // A taker that went away gets its ticket dropped, which marks it as failed.
                                let _ = reply.send(answer);
                            }));
                        }
                        Err(e) => {
                            failed.get_or_insert(StoreError::Io { reason: e.to_string() });
                            let _ = reply.send(Err(e));
                        }
                    }
                }
                Job::Settle { slot, nullifiers, outcome, reply } => {
                    let result = match &failed {
                        Some(e) => Err(StoreError::Io { reason: e.to_string() }),
                        None => self.settle(slot, &nullifiers, outcome).await,
                    };
                    if let Err(e) = &result {
                        failed.get_or_insert(StoreError::Io { reason: e.to_string() });
                    }
                    done.push(Box::new(move |committed| {
                        if let Some(reply) = reply {
                            let _ =
                                reply.send(result.and(committed.as_ref().map(|_| ()).map_err(StoreErrorText::again)));
                        }
                    }));
                }
                Job::Prune { through, now, reply } => {
                    let result = match &failed {
                        Some(e) => Err(StoreError::Io { reason: e.to_string() }),
                        None => self.raise(through, now).await,
                    };
                    if let Err(e) = &result {
                        failed.get_or_insert(StoreError::Io { reason: e.to_string() });
                    }
                    done.push(Box::new(move |committed| {
                        let _ = reply.send(result.and(committed.as_ref().map(|_| ()).map_err(StoreErrorText::again)));
                    }));
                }
            }
        }
        let committed = if !writes {
            Ok(())
        } else if let Some(e) = failed {
            Err(e)
        } else {
            self.commit(durable, before).await
        };
        let committed = match committed {
            Ok(()) => {
                let mut front = self.front.write();
                for (slot, nullifiers, request) in stored {
                    for nf in nullifiers {
                        front.insert(slot, nf, Spent { request, outcome: Outcome::InProgress });
                    }
                }
                if self.record.floor > before.floor
                    && let Some(floor) = self.record.floor
                {
                    front.raise(floor);
                    self.pruning = Some(floor);
                }
                Ok(())
            }
            Err(e) => {
                self.record = before;
                let _ = sqlx::query("ROLLBACK").execute(&mut self.db).await;
                error!(error = %e, "a batch of tickets could not be stored; none of them is spent");
                Err(StoreErrorText(e.to_string()))
            }
        };
        for reply in done {
            reply(&committed);
        }
        close
    }

    async fn begin(&mut self, durable: bool) -> Result<(), StoreError> {
        // Marks alone need not wait for the disk: they survive a killed process, and a power cut is told by the boot id.
        if durable != self.full_sync {
            let pragma = if durable { "PRAGMA synchronous = FULL" } else { "PRAGMA synchronous = NORMAL" };
            sqlx::query(pragma).execute(&mut self.db).await?;
            self.full_sync = durable;
        }
        sqlx::query("BEGIN IMMEDIATE").execute(&mut self.db).await?;
        Ok(())
    }

    async fn commit(&mut self, durable: bool, before: Record) -> Result<(), StoreError> {
        if durable {
            self.record.counter += 1;
            sqlx::query("UPDATE store SET counter = ?, floor = ?, highest = ?")
                .bind(slot_to_db(self.record.counter))
                .bind(self.record.floor.map(slot_to_db))
                .bind(self.record.highest.map(slot_to_db))
                .execute(&mut self.db)
                .await?;
            if self.record.floor != before.floor || self.record.highest != before.highest {
                // Before the database says it: a backup of the database is then always behind the witness.
                self.witness.write(&Record { counter: before.counter, ..self.record })?;
                self.witness.sync()?;
            }
        }
        sqlx::query("COMMIT").execute(&mut self.db).await?;
        if durable {
            self.commits.fetch_add(1, Ordering::Relaxed);
            if let Err(e) = self.witness.write(&self.record) {
                // The commit stands; a later write catches up.
                warn!(error = %e, "the witness beside the nullifier store can't be written");
            }
        }
        Ok(())
    }

    async fn reserve(&mut self, ticket: Ticket, now: u64) -> Result<ReserveAnswer, StoreError> {
        let (slot, nullifiers, request) = (ticket.slot.start().get(), &ticket.nullifiers, ticket.request);
        if let Some(floor) = self.record.floor
            && slot <= floor
        {
            return Ok(ReserveAnswer::BelowFloor { floor });
        }
        for (index, nf) in nullifiers.iter().enumerate() {
            let inserted = sqlx::query(
                "INSERT OR IGNORE INTO nullifiers (payee, slot, nullifier, request, outcome) VALUES (?, ?, ?, ?, 0)",
            )
            .bind(&self.record.payee[..])
            .bind(slot_to_db(slot))
            .bind(&nf[..])
            .bind(&request.0[..])
            .execute(&mut self.db)
            .await?
            .rows_affected();
            if inserted == 1 {
                continue;
            }
            let spent = self
                .lookup(slot, nf)
                .await?
                .ok_or(StoreError::Corrupt { what: "nullifier", found: "neither inserted nor present".to_owned() })?;
            // This ticket's earlier nullifiers go again; the other tickets of the batch stay.
            for earlier in &nullifiers[..index] {
                sqlx::query("DELETE FROM nullifiers WHERE payee = ? AND slot = ? AND nullifier = ?")
                    .bind(&self.record.payee[..])
                    .bind(slot_to_db(slot))
                    .bind(&earlier[..])
                    .execute(&mut self.db)
                    .await?;
            }
            return Ok(ReserveAnswer::Spent { index, spent });
        }
        self.record.highest = self.record.highest.max(Some(slot));
        self.sign_of_life(now).await?;
        Ok(ReserveAnswer::New(ticket))
    }

    async fn sign_of_life(&mut self, now: u64) -> Result<(), StoreError> {
        sqlx::query("UPDATE store SET alive = ? WHERE alive < ?")
            .bind(slot_to_db(now))
            .bind(slot_to_db(now))
            .execute(&mut self.db)
            .await?;
        Ok(())
    }

    async fn settle(&mut self, slot: u64, nullifiers: &[[u8; 32]], outcome: Outcome) -> Result<(), StoreError> {
        for nf in nullifiers {
            sqlx::query(
                "UPDATE nullifiers SET outcome = ? WHERE payee = ? AND slot = ? AND nullifier = ? AND outcome = 0",
            )
            .bind(outcome.to_db())
            .bind(&self.record.payee[..])
            .bind(slot_to_db(slot))
            .bind(&nf[..])
            .execute(&mut self.db)
            .await?;
        }
        Ok(())
    }

    async fn lookup(&mut self, slot: u64, nullifier: &[u8; 32]) -> Result<Option<Spent>, StoreError> {
        let row = sqlx::query("SELECT request, outcome FROM nullifiers WHERE payee = ? AND slot = ? AND nullifier = ?")
            .bind(&self.record.payee[..])
            .bind(slot_to_db(slot))
            .bind(&nullifier[..])
            .fetch_optional(&mut self.db)
            .await?;
        row.map(|row| spent(&row, 0)).transpose()
    }

    async fn count(&mut self) -> Result<u64, StoreError> {
        let n: i64 = sqlx::query_scalar("SELECT count(*) FROM nullifiers").fetch_one(&mut self.db).await?;
        Ok(u64::try_from(n).unwrap_or(0))
    }

    async fn raise(&mut self, through: Option<u64>, now: u64) -> Result<(), StoreError> {
        self.record.floor = self.record.floor.max(through);
        self.sign_of_life(now).await
    }

    /// Deletes some rows that the floor already stands for.
    async fn prune_step(&mut self) -> Result<(), StoreError> {
        let Some(through) = self.pruning else { return Ok(()) };
        let gone = sqlx::query(
            "DELETE FROM nullifiers WHERE (payee, slot, nullifier) IN
             (SELECT payee, slot, nullifier FROM nullifiers WHERE payee = ? AND slot <= ? LIMIT ?)",
        )
        .bind(&self.record.payee[..])
        .bind(slot_to_db(through))
        .bind(PRUNE_STEP)
        .execute(&mut self.db)
        .await?
        .rows_affected();
        if gone == 0 {
            self.pruning = None;
        }
        Ok(())
    }
}

/// What to tell every job of a batch whose commit failed.
struct StoreErrorText(String);

impl StoreErrorText {
    fn again(&self) -> StoreError {
        StoreError::Io { reason: self.0.clone() }
    }
}

fn spent(row: &sqlx::sqlite::SqliteRow, at: usize) -> Result<Spent, StoreError> {
    Ok(Spent {
        request: RequestDigest(bytes32(row.try_get::<&[u8], _>(at)?, "request")?),
        outcome: Outcome::from_db(row.try_get(at + 1)?)?,
    })
}

fn other_payee(wanted: &[u8; 32], found: &[u8; 32]) -> StoreError {
    let hex = |b: &[u8; 32]| b.iter().map(|b| format!("{b:02x}")).collect();
    StoreError::OtherPayee { wanted: hex(wanted), found: hex(found) }
}

fn busy(e: sqlx::Error, path: &std::path::Path) -> StoreError {
    match &e {
        sqlx::Error::Database(d) if matches!(d.code().as_deref(), Some("5" | "261")) => {
            StoreError::Busy { path: path.to_owned() }
        }
        _ => e.into(),
    }
}
