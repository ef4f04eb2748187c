//! The durable set of spent nullifiers, one for each payee key.
//!
//! What it guarantees (specification, "Tickets", and the threats "after restart", "after pruning", "after the clock stepped back"):
//!
//! * A ticket's nullifiers are stored all together or not at all, and are on disk before [`NullifierStore::reserve`] returns.
//! * Of two reservations of one nullifier, however they race, exactly one succeeds.
//! * A slot at or below the *floor* is refused for ever. The floor is durable before the nullifiers it stands for are deleted.
//! * A database that was put back from a backup is recognised, and the floor rises over every slot whose nullifiers may be missing.
//! * The request that spent a ticket is remembered with what became of it, so the same request sent again is told.
//!
//! All writes go through one thread. It takes whatever waits and commits it in one transaction, so the cost of making a
//! transaction durable is shared by all tickets that arrive meanwhile.

mod witness;
mod writer;

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use parking_lot::RwLock;
use tokio::sync::{mpsc, oneshot};
use tributary_protocol::{Owner, Slot, TicketNullifier, UnixTime};

use writer::Job;

/// Tickets that can wait for the writer; beyond it a reservation waits in line.
const WRITER_QUEUE: usize = 1024;

/// SHA-256 over a ticket's one-time key and the message that the key signed: names a signed request without keeping it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct RequestDigest(pub [u8; 32]);

/// What became of a stored ticket.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum Outcome {
    /// Stored, and the service is at work on it in this very process.
    InProgress,
    /// The answer was handed over for sending.
    Served,
    /// The service failed after the ticket was stored. Spent, not served.
    Failed,
    /// The process ended between storing the ticket and handing the answer over. Spent, not served.
    Interrupted,
    /// The machine went down before it was durably known whether the answer was handed over. Spent.
    Unknown,
}

impl Outcome {
    const fn to_db(self) -> i64 {
        match self {
            Self::InProgress => 0,
            Self::Served => 1,
            Self::Failed => 2,
            Self::Interrupted => 3,
            Self::Unknown => 4,
        }
    }

    fn from_db(v: i64) -> Result<Self, StoreError> {
        Ok(match v {
            0 => Self::InProgress,
            1 => Self::Served,
            2 => Self::Failed,
            3 => Self::Interrupted,
            4 => Self::Unknown,
            other => return Err(StoreError::Corrupt { what: "outcome", found: other.to_string() }),
        })
    }
}

/// What the store remembers of a nullifier.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Spent {
    /// The request that spent it.
    pub request: RequestDigest,
    /// What became of that request.
    pub outcome: Outcome,
}

/// Why the store can't be opened or written.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum StoreError {
    /// No database at the path, and the options don't allow to make one.
    #[error(
        "no nullifier store at {path}; create one with a new payee key, or restore it and, if it is lost, say so: every slot so far is then refused"
    )]
    Missing {
        /// Where it was looked for.
        path: PathBuf,
    },
    /// The store belongs to another payee key.
    #[error(
        "the nullifier store belongs to payee {found}, not to {wanted}; one payee key has one store: use that key or another store"
    )]
    OtherPayee {
        /// The payee asked for, hexadecimal.
        wanted: String,
        /// The payee that the store belongs to, hexadecimal.
        found: String,
    },
    /// Another process holds the store.
    #[error("the nullifier store at {path} is in use by another process; stop it first")]
    Busy {
        /// The database's path.
        path: PathBuf,
    },
    /// A newer program wrote the store.
    #[error("the nullifier store has schema {found}, this program knows {known}; upgrade the program")]
    Schema {
        /// Schema found.
        found: i64,
        /// Newest schema that this program knows.
        known: i64,
    },
    /// The store holds what no program wrote.
    #[error("the nullifier store is damaged: {what} is {found}; restore it from a backup")]
    Corrupt {
        /// Which value.
        what: &'static str,
        /// The value found.
        found: String,
    },
    /// Reading or writing failed; nothing was reserved. The same ticket may be sent again.
    #[error("the nullifier store can't be written or read: {reason}; free disk space or repair the disk")]
    Io {
        /// What the database or the system said.
        reason: String,
    },
    /// The store was closed.
    #[error("the nullifier store is closed")]
    Closed,
    /// A reservation without or with too many nullifiers.
    #[error("a ticket has 1 to 4 nullifiers, not {found}")]
    Count {
        /// How many there were.
        found: usize,
    },
}

impl StoreError {
    /// The stable code of the error.
    #[must_use]
    pub const fn code(&self) -> &'static str {
        match self {
            Self::Missing { .. } => "TRB-5001",
            Self::OtherPayee { .. } => "TRB-5002",
            Self::Busy { .. } => "TRB-5003",
            Self::Schema { .. } => "TRB-5004",
            Self::Corrupt { .. } => "TRB-5005",
            Self::Io { .. } => "TRB-5006",
            Self::Closed => "TRB-5007",
            Self::Count { .. } => "TRB-5008",
        }
    }
}

impl From<std::io::Error> for StoreError {
    fn from(e: std::io::Error) -> Self {
        Self::Io { reason: e.to_string() }
    }
}

impl From<sqlx::Error> for StoreError {
    fn from(e: sqlx::Error) -> Self {
        Self::Io { reason: e.to_string() }
    }
}

/// What to do when there is no database at the path.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum OnMissing {
    /// Refuse with [`StoreError::Missing`].
    #[default]
    Refuse,
    /// Make one for a payee key that has never taken a ticket.
    NewPayee,
    /// Make one for a payee key whose store was lost: every slot up to [`StoreOptions::horizon`] is refused.
    Lost,
}

/// How to open a store.
#[derive(Clone, Copy, Debug)]
pub struct StoreOptions {
    /// What to do when there is no database.
    pub on_missing: OnMissing,
    /// The present, as the checker's clock has it.
    pub now: UnixTime,
    /// Start of the highest slot of which any ticket can have been taken up to now. The floor rises to it when it can't be excluded that
    /// nullifiers are missing.
    pub horizon: UnixTime,
    /// Seconds without a sign of life after which a store counts as possibly put back from a backup together with its witness.
    pub trusted_gap: u64,
    /// Nullifiers kept in memory at most (about 150 bytes each); beyond it the database is asked.
    pub front_capacity: usize,
}

impl StoreOptions {
    /// Options with the usual gap (two slots of 60 s) and front (200,000 nullifiers).
    #[must_use]
    pub const fn new(on_missing: OnMissing, now: UnixTime, horizon: UnixTime) -> Self {
        Self { on_missing, now, horizon, trusted_gap: 120, front_capacity: 200_000 }
    }
}

/// Why the floor was raised when the store was opened.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum Recovery {
    /// The database is older than its witness: it was put back from a backup.
    RestoredDatabase,
    /// The witness is missing or damaged.
    NoWitness,
    /// There was no database.
    LostDatabase,
    /// The store gave no sign of life for longer than [`StoreOptions::trusted_gap`].
    LongGap,
}

/// A ticket to be stored.
#[derive(Clone, Debug)]
pub struct Reservation {
    /// The ticket's slot.
    pub slot: Slot,
    /// Its nullifiers, 1 to 4, the first names the ticket.
    pub nullifiers: Vec<TicketNullifier>,
    /// The signed request that spends it.
    pub request: RequestDigest,
    /// The present: the store's sign of life.
    pub now: UnixTime,
}

/// What became of a reservation.
#[derive(Debug)]
#[must_use]
pub enum Reserved {
    /// All nullifiers are on disk; the caller alone may serve.
    New(Ticket),
    /// A nullifier was there already; nothing was stored.
    Spent {
        /// The first nullifier that was there.
        nullifier: TicketNullifier,
        /// What spent it and what became of that.
        spent: Spent,
    },
    /// The slot is at or below the floor; nothing was stored.
    BelowFloor {
        /// Start of the highest slot that is refused for ever.
        floor: UnixTime,
    },
}

/// The right to serve one stored ticket once. Dropped unsettled it counts as failed; so does one whose taker went away while it was stored.
#[derive(Debug)]
pub struct Ticket {
    slot: Slot,
    first: TicketNullifier,
    nullifiers: Vec<[u8; 32]>,
    request: RequestDigest,
    shared: Arc<Shared>,
    /// Whether the nullifiers are stored and nothing is said yet of what became of them.
    open: bool,
}

impl Ticket {
    /// The ticket's first nullifier.
    #[must_use]
    pub const fn nullifier(&self) -> TicketNullifier {
        self.first
    }

    /// The ticket's slot.
    #[must_use]
    pub const fn slot(&self) -> Slot {
        self.slot
    }

    /// Nullifiers that it spent, 1 to 4.
    #[must_use]
    pub fn count(&self) -> usize {
        self.nullifiers.len()
    }

    /// Marks the ticket as served. To be awaited *before* the answer is handed over: what is then said of the ticket after a kill is true.
    ///
    /// # Errors
    /// [`StoreError::Io`] or [`StoreError::Closed`] when the mark can't be written: the answer must not be handed over.
    pub async fn served(mut self) -> Result<(), StoreError> {
        self.settle(Outcome::Served).await
    }

    /// Marks the ticket as spent without service.
    ///
    /// # Errors
    /// [`StoreError::Io`] or [`StoreError::Closed`] when the mark can't be written; after a restart the ticket counts as interrupted.
    pub async fn failed(mut self) -> Result<(), StoreError> {
        self.settle(Outcome::Failed).await
    }

    async fn settle(&mut self, outcome: Outcome) -> Result<(), StoreError> {
        let (reply, answer) = oneshot::channel();
        let job = Job::Settle {
            slot: self.slot.start().get(),
            nullifiers: self.nullifiers.clone(),
            outcome,
            reply: Some(reply),
        };
        self.shared.jobs.send(job).await.map_err(|_| StoreError::Closed)?;
        answer.await.map_err(|_| StoreError::Closed)??;
        self.open = false;
        self.shared.front.write().settle(self.slot.start().get(), &self.nullifiers, self.request, outcome);
        Ok(())
    }
}

impl Drop for Ticket {
    fn drop(&mut self) {
        if !self.open {
            return;
        }
        // A full queue loses only the mark: the ticket stays spent and counts as interrupted after the next start.
        let job = Job::Settle {
            slot: self.slot.start().get(),
            nullifiers: self.nullifiers.clone(),
            outcome: Outcome::Failed,
            reply: None,
        };
        let _ = self.shared.jobs.try_send(job);
        self.shared.front.write().settle(self.slot.start().get(), &self.nullifiers, self.request, Outcome::Failed);
    }
}

/// The nullifiers in memory. What is here is in the database too; what is absent may be in the database when the slot is incomplete.
#[derive(Debug, Default)]
struct Front {
    slots: BTreeMap<u64, HashMap<[u8; 32], Spent>>,
    incomplete: BTreeSet<u64>,
    entries: usize,
    capacity: usize,
    floor: Option<u64>,
}

impl Front {
    fn insert(&mut self, slot: u64, nullifier: [u8; 32], spent: Spent) {
        if self.entries >= self.capacity {
            self.incomplete.insert(slot);
            return;
        }
        if self.slots.entry(slot).or_default().insert(nullifier, spent).is_none() {
            self.entries += 1;
        }
    }

    fn settle(&mut self, slot: u64, nullifiers: &[[u8; 32]], request: RequestDigest, outcome: Outcome) {
        if let Some(map) = self.slots.get_mut(&slot) {
            for nf in nullifiers {
                if let Some(spent) = map.get_mut(nf)
                    && spent.request == request
                {
                    spent.outcome = outcome;
                }
            }
        }
    }

    fn raise(&mut self, floor: u64) {
        self.floor = self.floor.max(Some(floor));
        let keep = self.slots.split_off(&(floor + 1));
        let gone: usize = self.slots.values().map(HashMap::len).sum();
        self.slots = keep;
        self.entries -= gone;
        self.incomplete = self.incomplete.split_off(&(floor + 1));
    }
}

#[derive(Debug)]
struct Shared {
    jobs: mpsc::Sender<Job>,
    front: Arc<RwLock<Front>>,
    commits: Arc<AtomicU64>,
}

/// The durable set of one payee's spent nullifiers. Cheap to clone; one process holds it at a time.
#[derive(Clone, Debug)]
pub struct NullifierStore {
    shared: Arc<Shared>,
    payee: Owner,
    recovery: Option<Recovery>,
}

impl NullifierStore {
    /// Opens the store of `payee` at `path`; a file `path.witness` lies beside it and should not be backed up.
    ///
    /// Requests that were in progress when the last process ended are marked: interrupted when only the process ended, unknown when the machine
    /// went down.
    ///
    /// # Errors
    /// [`StoreError`]: missing, of another payee, held by another process, of a newer schema, damaged, or unreadable.
    pub async fn open(path: &Path, payee: Owner, options: StoreOptions) -> Result<Self, StoreError> {
        let (jobs, inbox) = mpsc::channel(WRITER_QUEUE);
        let front = Arc::new(RwLock::new(Front { capacity: options.front_capacity, ..Front::default() }));
        let commits = Arc::new(AtomicU64::new(0));
        let (ready, opened) = oneshot::channel();
        let setup = writer::Setup {
            path: path.to_owned(),
            payee: payee.to_be_bytes(),
            options,
            front: Arc::clone(&front),
            commits: Arc::clone(&commits),
        };
        std::thread::Builder::new()
            .name("nullifier-store".to_owned())
            .spawn(move || writer::run(setup, inbox, ready))?;
        let recovery = opened.await.map_err(|_| StoreError::Closed)??;
        Ok(Self { shared: Arc::new(Shared { jobs, front, commits }), payee, recovery })
    }

    /// Why the floor was raised at opening, if it was.
    #[must_use]
    pub const fn recovery(&self) -> Option<Recovery> {
        self.recovery
    }

    /// The payee key that the store belongs to.
    #[must_use]
    pub const fn payee(&self) -> Owner {
        self.payee
    }

    /// Start of the highest slot that is refused for ever.
    #[must_use]
    pub fn floor(&self) -> Option<UnixTime> {
        self.shared.front.read().floor.map(time)
    }

    /// Durable commits of reservations since the store was opened: shows how many tickets shared one.
    #[must_use]
    pub fn commits(&self) -> u64 {
        self.shared.commits.load(Ordering::Relaxed)
    }

    /// Nullifiers held in memory.
    #[must_use]
    pub fn in_memory(&self) -> usize {
        self.shared.front.read().entries
    }

    /// What spent a nullifier, if anything has. Answered from memory unless memory doesn't hold all of the slot.
    ///
    /// # Errors
    /// [`StoreError::Io`] or [`StoreError::Closed`].
    pub async fn lookup(&self, slot: Slot, nullifier: &TicketNullifier) -> Result<Option<Spent>, StoreError> {
        let key = nullifier.to_be_bytes();
        {
            let front = self.shared.front.read();
            if let Some(spent) = front.slots.get(&slot.start().get()).and_then(|m| m.get(&key)) {
                return Ok(Some(*spent));
            }
            if !front.incomplete.contains(&slot.start().get()) {
                return Ok(None);
            }
        }
        let (reply, answer) = oneshot::channel();
        self.send(Job::Lookup { slot: slot.start().get(), nullifier: key, reply }).await?;
        answer.await.map_err(|_| StoreError::Closed)?
    }

    /// Stores all nullifiers of a ticket, or none. When it returns [`Reserved::New`] they are on disk.
    ///
    /// # Errors
    /// [`StoreError::Io`] when nothing could be made durable (the ticket isn't spent), [`StoreError::Closed`], [`StoreError::Count`].
    pub async fn reserve(&self, reservation: Reservation) -> Result<Reserved, StoreError> {
        let Reservation { slot, nullifiers, request, now } = reservation;
        let first = match nullifiers.first() {
            Some(first) if nullifiers.len() <= 4 => *first,
            _ => return Err(StoreError::Count { found: nullifiers.len() }),
        };
        let ticket = Ticket {
            slot,
            first,
            nullifiers: nullifiers.iter().map(|nf| nf.to_be_bytes()).collect(),
            request,
            shared: Arc::clone(&self.shared),
            open: false,
        };
        let (reply, answer) = oneshot::channel();
        self.send(Job::Reserve { ticket, now: now.get(), reply }).await?;
        Ok(match answer.await.map_err(|_| StoreError::Closed)?? {
            writer::ReserveAnswer::New(ticket) => Reserved::New(ticket),
            writer::ReserveAnswer::Spent { index, spent } => Reserved::Spent { nullifier: nullifiers[index], spent },
            writer::ReserveAnswer::BelowFloor { floor } => Reserved::BelowFloor { floor: time(floor) },
        })
    }

    /// Forgets the nullifiers of all slots up to `through`, after raising the floor to it for ever. Also the store's sign of life at `now`.
    ///
    /// Returns when the floor is durable; rows are deleted in small steps between tickets.
    ///
    /// # Errors
    /// [`StoreError::Io`] or [`StoreError::Closed`]; the floor is then where it was.
    pub async fn prune(&self, through: Option<UnixTime>, now: UnixTime) -> Result<(), StoreError> {
        let (reply, answer) = oneshot::channel();
        self.send(Job::Prune { through: through.map(UnixTime::get), now: now.get(), reply }).await?;
        answer.await.map_err(|_| StoreError::Closed)?
    }

    /// Counts the rows on disk, for statistics and tests.
    ///
    /// # Errors
    /// [`StoreError::Io`] or [`StoreError::Closed`].
    pub async fn stored(&self) -> Result<u64, StoreError> {
        let (reply, answer) = oneshot::channel();
        self.send(Job::Count { reply }).await?;
        answer.await.map_err(|_| StoreError::Closed)?
    }

    /// Finishes what waits and closes the database; every later call is [`StoreError::Closed`].
    pub async fn close(&self) {
        let (reply, answer) = oneshot::channel();
        if self.send(Job::Close { reply }).await.is_ok() {
            let _ = answer.await;
        }
    }

    async fn send(&self, job: Job) -> Result<(), StoreError> {
        self.shared.jobs.send(job).await.map_err(|_| StoreError::Closed)
    }
}

/// Times enter the store as u40 and leave it as they came.
fn time(seconds: u64) -> UnixTime {
    UnixTime::new(seconds).unwrap_or(UnixTime::MAX)
}
