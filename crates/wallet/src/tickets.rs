//! Tickets made ahead of time.
//!
//! A ticket takes a few hundred milliseconds to prove and a request must not wait for that. So tickets are made before they are needed, for the
//! running slot and for the next one as soon as its stopped list is final, and a request takes one from memory.
//!
//! The number j of a ticket in its slot is written down before the ticket is proved: two tickets with one j have one nullifier, and
//! the second would be refused and would link two requests. Tickets that were made and not used are forgotten at a restart; their numbers
//! stay used.

use std::{
    collections::{BTreeMap, VecDeque},
    future::Future,
    path::Path,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
};

use ed25519_dalek::SigningKey;
use rand::rngs::OsRng;
use sqlx::SqlitePool;
use tokio::sync::{Mutex as AsyncMutex, watch};
use tributary_ledger::{KnownRoot, Ledger, LedgerError, open_database};
use tributary_protocol::{
    Commitment, ErrorCode as _, PayerSecret, Price, ProviderDigest, Slot, StreamNote, TicketStatement, UnixTime,
    slot::RatingCrowd,
    ticket::{MAX_COUNT, OfferTerms, RatingTier, TicketMessage},
    witness::{StreamInput, TicketWitness, Witness as _},
};
use tributary_prover::Prover;

use crate::store::private_file;

const SCHEMA: &str = "
CREATE TABLE IF NOT EXISTS ticket_counters (
  commitment BLOB NOT NULL,
  slot_start INTEGER NOT NULL,
  next INTEGER NOT NULL,
  PRIMARY KEY (commitment, slot_start)
) STRICT, WITHOUT ROWID;
CREATE TABLE IF NOT EXISTS ticket_meta (key TEXT PRIMARY KEY, value INTEGER NOT NULL) STRICT, WITHOUT ROWID;
";

/// Proofs that may wait in memory, at the most.
const MAX_READY: usize = 1_024;

/// Counters of slots that began this many seconds ago are forgotten; tickets of such slots are never made again.
const FORGET_AFTER: u64 = 30 * 86_400;

/// Why there is no ticket.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum TicketError {
    /// The slot's money is used up.
    #[error(
        "slot {slot_start} pays for {capacity} tickets, {used} are used: wait for the next slot, or open a stream of a higher class"
    )]
    SlotUsedUp {
        /// Start of the slot, Unix seconds.
        slot_start: u64,
        /// Tickets used.
        used: u64,
        /// Tickets that the slot pays for.
        capacity: u64,
    },
    /// The stream does not run through the slot.
    #[error(
        "the stream runs from {start} to {end}, the slot from {slot_start} to {slot_end}: wait for it to start, or open another one"
    )]
    NotRunning {
        /// Stream, Unix seconds.
        start: u64,
        /// Stream, Unix seconds.
        end: u64,
        /// Slot, Unix seconds.
        slot_start: u64,
        /// Slot, Unix seconds.
        slot_end: u64,
    },
    /// Not enough has streamed by the end of the slot.
    #[error(
        "{streamed} base units have streamed by the end of the slot, the offer wants {wanted}: wait for {slots} more slots"
    )]
    StreamedTooLittle {
        /// Base units.
        streamed: String,
        /// Base units.
        wanted: String,
        /// Slots to wait.
        slots: u64,
    },
    /// The stream's leaf is in no root that is deep enough.
    #[error(
        "the stream's leaf {position} is not in the tree ({inserted} leaves are): wait for an insertion, or insert it"
    )]
    NotInserted {
        /// Place of the leaf.
        position: u64,
        /// Leaves in the tree.
        inserted: u64,
    },
    /// The stream's commitment is not on the chain.
    #[error("the stream is not on the chain that the ledger has read: synchronise, or open it again")]
    Unknown,
    /// Tickets of this slot may have been used by a state that was lost.
    #[error(
        "the wallet was restored at {restored_at}: slots up to {until} are left out, because their tickets may be used already"
    )]
    LeftOutAfterRestore {
        /// Unix seconds.
        restored_at: u64,
        /// Unix seconds.
        until: u64,
    },
    /// More than four in one proof, or none.
    #[error("{count} tickets in one proof: 1 to 4 are possible")]
    BadCount {
        /// Wanted.
        count: u8,
    },
    /// The stream has covered no full slot yet.
    #[error(transparent)]
    Slot(#[from] tributary_protocol::error::SlotError),
    /// The ledger has no answer; tickets of a slot wait until its stopped list is final.
    #[error(transparent)]
    Ledger(#[from] LedgerError),
    /// The witness is not what the circuit wants.
    #[error(transparent)]
    Witness(#[from] tributary_protocol::WitnessError),
    /// The proof failed.
    #[error(transparent)]
    Prover(#[from] tributary_prover::Error),
    /// The database's file could not be made.
    #[error("the ticket database's file: {0}")]
    Io(#[from] std::io::Error),
    /// The database failed.
    #[error("the ticket database failed: {0}")]
    Store(#[from] sqlx::Error),
    /// The proving thread ended.
    #[error("proving was interrupted")]
    Interrupted,
}

impl TicketError {
    /// A stable code for programs.
    #[must_use]
    pub fn code(&self) -> &'static str {
        match self {
            Self::Ledger(error) => error.code(),
            Self::Witness(error) => error.code(),
            Self::Prover(error) => error.code(),
            Self::Slot(error) => error.code(),
            Self::SlotUsedUp { .. } => "TRB-3301",
            Self::NotRunning { .. } => "TRB-3302",
            Self::StreamedTooLittle { .. } => "TRB-3303",
            Self::NotInserted { .. } => "TRB-3304",
            Self::Unknown => "TRB-3305",
            Self::LeftOutAfterRestore { .. } => "TRB-3306",
            Self::BadCount { .. } => "TRB-3307",
            Self::Io(_) => "TRB-3310",
            Self::Store(_) => "TRB-3311",
            Self::Interrupted => "TRB-3312",
        }
    }
}

/// A stream of the payer's, and what its offer fixes.
#[derive(Clone)]
pub struct PayingStream {
    /// The note.
    pub note: StreamNote,
    /// What only the payer knows of it.
    pub secret: PayerSecret,
    /// The terms of the offer under which it was opened; tickets are proved at no others (protocol section 6).
    pub terms: OfferTerms,
    /// The provider whose tickets these are.
    pub provider: ProviderDigest,
    /// How many blocks must be on top of the one that made a root known, as the offer says.
    pub root_depth: u64,
}

impl std::fmt::Debug for PayingStream {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("PayingStream").field("terms", &self.terms).finish_non_exhaustive()
    }
}

/// A ticket, proved and not used.
#[derive(Clone)]
pub struct MadeTicket {
    /// The public inputs.
    pub statement: TicketStatement,
    /// The Groth16 proof as on the wire.
    pub proof: [u8; 256],
    /// The one-time key that signs the request.
    pub key: SigningKey,
    /// Its slot.
    pub slot: Slot,
    /// Whether it is proved under a newer root than the slot's usual one, as a young stream needs: that narrows the crowd.
    pub young: bool,
}

impl std::fmt::Debug for MadeTicket {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("MadeTicket")
            .field("slot", &self.slot)
            .field("count", &self.statement.count)
            .field("young", &self.young)
            .finish_non_exhaustive()
    }
}

/// Tickets that should be ready, see [`TicketMaker::run`].
#[derive(Clone, Debug)]
pub struct Demand {
    /// Who pays.
    pub stream: PayingStream,
    /// Tickets in one proof, 1 to 4.
    pub count: u8,
    /// Proofs for each slot.
    pub wanted: usize,
}

/// The proof that goes with a rating.
#[derive(Clone, Debug)]
pub struct MadeRating {
    /// The public inputs.
    pub statement: TicketStatement,
    /// The Groth16 proof as on the wire.
    pub proof: [u8; 256],
    /// Among whom the rating hides: warn when that is only [`RatingCrowd::Slot`].
    pub crowd: RatingCrowd,
}

/// Makes tickets and keeps them until they are used. Clones share everything.
#[derive(Clone, Debug)]
pub struct TicketMaker {
    inner: Arc<Inner>,
}

#[derive(Debug)]
struct Inner {
    ledger: Ledger,
    prover: Arc<Prover>,
    store: SqlitePool,
    /// Slots that begin before this time are left out.
    not_before: u64,
    restored_at: u64,
    ready: Mutex<BTreeMap<(UnixTime, Commitment, u8), VecDeque<MadeTicket>>>,
    /// One proof at a time: a proof uses every core.
    proving: AsyncMutex<()>,
}

impl TicketMaker {
    /// Opens or makes the counters at `path`. `restored_at` is the time at which a wallet without its state was made again from the
    /// seed, if it was: slots that had begun by then, and the one after, are left out for ever.
    ///
    /// # Errors
    /// [`TicketError::Store`].
    pub async fn open(
        path: &Path,
        ledger: Ledger,
        prover: Arc<Prover>,
        restored_at: Option<UnixTime>,
    ) -> Result<Self, TicketError> {
        private_file(path)?;
        let store = open_database(path).await?;
        sqlx::raw_sql(SCHEMA).execute(&store).await?;
        if let Some(at) = restored_at {
            sqlx::query(
                "INSERT INTO ticket_meta (key, value) VALUES ('restored_at', ?)
                 ON CONFLICT (key) DO UPDATE SET value = max(value, excluded.value)",
            )
            .bind(signed(at.get()))
            .execute(&store)
            .await?;
        }
        let restored_at: Option<i64> = sqlx::query_scalar("SELECT value FROM ticket_meta WHERE key = 'restored_at'")
            .fetch_optional(&store)
            .await?;
        let restored_at = restored_at.map_or(0, |at| u64::try_from(at).unwrap_or(0));
        let length = ledger.clock().slot_length().get();
        let forgotten = forget(&store, ledger.head().map_or(0, |head| head.timestamp)).await?;
        let not_before = if restored_at == 0 { 0 } else { (restored_at / length + 2) * length };
        let not_before = not_before.max(forgotten);
        let inner = Inner {
            ledger,
            prover,
            store,
            not_before,
            restored_at,
            ready: Mutex::default(),
            proving: AsyncMutex::default(),
        };
        Ok(Self { inner: Arc::new(inner) })
    }

    /// Tickets that wait for this stream and slot, in proofs of `count`.
    #[must_use]
    pub fn ready(&self, stream: &PayingStream, slot: Slot, count: u8) -> usize {
        let key = (slot.start(), stream.note.commitment(), count);
        lock(&self.inner.ready).get(&key).map_or(0, VecDeque::len)
    }

    /// Makes tickets until `wanted` proofs of `count` tickets each wait for this stream and slot, or the slot's money is used up.
    /// Returns how many wait.
    ///
    /// # Errors
    /// [`TicketError`]; tickets made before the error are kept.
    pub async fn prepare(
        &self,
        stream: &PayingStream,
        slot: Slot,
        count: u8,
        wanted: usize,
    ) -> Result<usize, TicketError> {
        while self.ready(stream, slot, count) < wanted {
            match self.make(stream, slot, count).await {
                Ok(ticket) => self.keep(stream, ticket),
                Err(TicketError::SlotUsedUp { .. }) if self.ready(stream, slot, count) > 0 => break,
                Err(error) => return Err(error),
            }
        }
        Ok(self.ready(stream, slot, count))
    }

    /// Takes a waiting ticket, or makes one when none waits.
    ///
    /// # Errors
    /// [`TicketError`].
    pub async fn take(&self, stream: &PayingStream, slot: Slot, count: u8) -> Result<MadeTicket, TicketError> {
        if let Some(ticket) = self.take_ready(stream, slot, count) {
            return Ok(ticket);
        }
        self.make(stream, slot, count).await
    }

    /// Takes a waiting ticket, if one waits.
    #[must_use]
    pub fn take_ready(&self, stream: &PayingStream, slot: Slot, count: u8) -> Option<MadeTicket> {
        let key = (slot.start(), stream.note.commitment(), count);
        lock(&self.inner.ready).get_mut(&key)?.pop_front()
    }

    fn keep(&self, stream: &PayingStream, ticket: MadeTicket) {
        let key = (ticket.slot.start(), stream.note.commitment(), ticket.statement.count);
        let mut ready = lock(&self.inner.ready);
        ready.entry(key).or_default().push_back(ticket);
        ready.retain(|_, tickets| !tickets.is_empty());
        while ready.values().map(VecDeque::len).sum::<usize>() > MAX_READY {
            ready.pop_first();
        }
    }

    /// Keeps tickets ready for what is demanded, in the running slot and in each later one as soon as its stopped list is final, until
    /// `shutdown` is done. Demands may change at any time. Errors are logged by code and tried again at the next block.
    pub async fn run(&self, mut demands: watch::Receiver<Vec<Demand>>, shutdown: impl Future<Output = ()>) {
        let mut heads = self.inner.ledger.heads();
        let mut shutdown = std::pin::pin!(shutdown);
        loop {
            let wanted = demands.borrow_and_update().clone();
            heads.mark_unchanged();
            tokio::select! {
                biased;
                () = &mut shutdown => return,
                () = self.serve(&wanted) => {}
            }
            tokio::select! {
                biased;
                () = &mut shutdown => return,
                changed = heads.changed() => if changed.is_err() { return },
                changed = demands.changed() => if changed.is_err() { return },
            }
        }
    }

    /// One round of [`TicketMaker::run`]: the nearest slot of every demand first.
    async fn serve(&self, demands: &[Demand]) {
        let clock = self.inner.ledger.clock();
        let (Ok(now), Some(last)) = (self.inner.ledger.head_time(), self.inner.ledger.latest_final_slot()) else {
            return;
        };
        let mut slot = clock.slot_of(now);
        while let Ok(current) = slot
            && current <= last
        {
            for demand in demands {
                match self.prepare(&demand.stream, current, demand.count, demand.wanted).await {
                    Ok(_) | Err(TicketError::SlotUsedUp { .. } | TicketError::NotRunning { .. }) => {}
                    Err(error) => tracing::debug!(code = error.code(), "no ticket was made"),
                }
            }
            slot = clock.next(current);
        }
        // What nobody can accept any more makes room.
        let oldest = now.saturating_sub(clock.notice());
        lock(&self.inner.ready).retain(|(start, ..), _| *start >= oldest);
    }

    /// Proves that this stream has paid the highest tier that it reached by the end of the rating's slot, for a rating of which `rating` are the
    /// bytes. There is one rating in a stream's whole life: a second one has the same nullifier.
    ///
    /// # Errors
    /// [`TicketError`].
    pub async fn rate(&self, stream: &PayingStream, rating: &[u8]) -> Result<MadeRating, TicketError> {
        let inner = &self.inner;
        let clock = inner.ledger.clock();
        let terms = &stream.note.terms;
        let record = inner.ledger.record(stream.note.record_tag()).await?;
        let until = inner.ledger.head_time()?.min(terms.end()).min(record.stop.unwrap_or(UnixTime::MAX));
        let chosen = clock.rating_slot(terms.start(), until)?;
        // A rate is never 0, nor is the time until the end of a full slot.
        let streamed = terms.rate().times(chosen.slot.end().since(terms.start()));
        let tier = RatingTier::reached(streamed).ok_or(tributary_protocol::error::SlotError::NoFullSlot)?;
        let position = self.position(stream).await?;
        let (root, _) = inner.root(stream, chosen.slot, position)?;
        let list = inner.ledger.stopped_list(chosen.slot)?;
        let witness = TicketWitness {
            stream: StreamInput {
                note: stream.note,
                secret: stream.secret.clone(),
                index: position,
                path: inner.ledger.path_at(position, root.leaf_count)?,
            },
            root: root.root,
            absence: list.absence(stream.note.record_tag()).map_err(tributary_protocol::WitnessError::from)?,
            stopped_root: list.root(),
            slot: chosen.slot,
            price: Price::ZERO,
            min_streamed: tier.amount(),
            j: 0,
            count: 1,
            message: TicketMessage::of_rating(rating),
        };
        let _one_at_a_time = inner.proving.lock().await;
        let (statement, proof) = inner.prove(witness).await?;
        Ok(MadeRating { statement, proof, crowd: chosen.crowd })
    }

    /// Makes one proof of `count` tickets now.
    async fn make(&self, stream: &PayingStream, slot: Slot, count: u8) -> Result<MadeTicket, TicketError> {
        let inner = &self.inner;
        if count == 0 || usize::from(count) > MAX_COUNT {
            return Err(TicketError::BadCount { count });
        }
        self.check(stream, slot)?;
        let position = self.position(stream).await?;
        let (root, young) = inner.root(stream, slot, position)?;
        let list = inner.ledger.stopped_list(slot)?;
        let path = inner.ledger.path_at(position, root.leaf_count)?;
        let absence = list.absence(stream.note.record_tag()).map_err(tributary_protocol::WitnessError::from)?;

        let _one_at_a_time = inner.proving.lock().await;
        let j = inner.next_number(stream, slot, count).await?;
        let key = SigningKey::generate(&mut OsRng);
        let message = TicketMessage::of_ticket(key.verifying_key().as_bytes(), &stream.provider, slot.start());
        let witness = TicketWitness {
            stream: StreamInput { note: stream.note, secret: stream.secret.clone(), index: position, path },
            root: root.root,
            absence,
            stopped_root: list.root(),
            slot,
            price: stream.terms.price,
            min_streamed: stream.terms.min_streamed,
            j,
            count,
            message,
        };
        let (statement, proof) = inner.prove(witness).await?;
        Ok(MadeTicket { statement, proof, key, slot, young })
    }

    /// What can be said without the chain.
    fn check(&self, stream: &PayingStream, slot: Slot) -> Result<(), TicketError> {
        let terms = &stream.note.terms;
        if slot.start() < terms.start() || terms.end() < slot.end() {
            return Err(TicketError::NotRunning {
                start: terms.start().get(),
                end: terms.end().get(),
                slot_start: slot.start().get(),
                slot_end: slot.end().get(),
            });
        }
        if slot.start().get() < self.inner.not_before {
            return Err(TicketError::LeftOutAfterRestore {
                restored_at: self.inner.restored_at,
                until: self.inner.not_before,
            });
        }
        let streamed = terms.rate().times(slot.end().since(terms.start()));
        let wanted = stream.terms.min_streamed.to_u256();
        if streamed < wanted {
            let each = terms.rate().times(self.inner.ledger.clock().slot_length());
            let slots = (wanted - streamed).div_ceil(each);
            return Err(TicketError::StreamedTooLittle {
                streamed: streamed.to_string(),
                wanted: wanted.to_string(),
                slots: u64::try_from(slots).unwrap_or(u64::MAX),
            });
        }
        Ok(())
    }

    /// The ledger is asked each time: a reorganisation may have moved the leaf.
    async fn position(&self, stream: &PayingStream) -> Result<u32, TicketError> {
        Ok(self.inner.ledger.leaf(stream.note.commitment()).await?.ok_or(TicketError::Unknown)?.position)
    }
}

impl Inner {
    async fn prove(&self, witness: TicketWitness) -> Result<(TicketStatement, [u8; 256]), TicketError> {
        let prover = Arc::clone(&self.prover);
        let proved = tokio::task::spawn_blocking(move || {
            let prepared = witness.prepare()?;
            let proof = prover.prove(prepared.circuit, &prepared.inputs)?;
            Ok((prepared.statement, proof.to_bytes()))
        });
        proved.await.map_err(|_| TicketError::Interrupted)?
    }

    /// The root for everybody's tickets of the slot; for a stream that is younger, the newest that is deep enough.
    fn root(&self, stream: &PayingStream, slot: Slot, position: u32) -> Result<(KnownRoot, bool), TicketError> {
        // The ledger counts the block itself, an offer the blocks on top of it.
        let depth = stream.root_depth.saturating_add(1);
        let usual = self.ledger.root_of_slot(slot);
        if u64::from(position) < usual.leaf_count && self.ledger.depth(usual.block) >= depth {
            return Ok((usual, false));
        }
        let newest = self.ledger.root_of_depth(depth);
        if u64::from(position) < newest.leaf_count {
            return Ok((newest, true));
        }
        Err(TicketError::NotInserted { position: position.into(), inserted: newest.leaf_count })
    }

    /// Takes `count` numbers of the slot, written down before anything is proved with them.
    async fn next_number(&self, stream: &PayingStream, slot: Slot, count: u8) -> Result<u32, TicketError> {
        let price = stream.terms.price.to_u256();
        let money = stream.note.terms.rate().times(slot.end().since(slot.start()));
        let capacity = money.checked_div(price).map_or(0, |tickets| u64::try_from(tickets).unwrap_or(u64::MAX));
        let commitment = stream.note.commitment().to_be_bytes();
        let mut tx = self.store.begin_with("BEGIN IMMEDIATE").await?;
        let used: i64 = sqlx::query_scalar("SELECT next FROM ticket_counters WHERE commitment = ? AND slot_start = ?")
            .bind(&commitment[..])
            .bind(signed(slot.start().get()))
            .fetch_optional(&mut *tx)
            .await?
            .unwrap_or(0);
        let used = u64::try_from(used).unwrap_or(u64::MAX);
        let next = used.saturating_add(u64::from(count));
        let exhausted = TicketError::SlotUsedUp { slot_start: slot.start().get(), used, capacity };
        if next > capacity {
            return Err(exhausted);
        }
        let Ok(j) = u32::try_from(used) else { return Err(exhausted) };
        sqlx::query(
            "INSERT INTO ticket_counters (commitment, slot_start, next) VALUES (?, ?, ?)
             ON CONFLICT (commitment, slot_start) DO UPDATE SET next = excluded.next",
        )
        .bind(&commitment[..])
        .bind(signed(slot.start().get()))
        .bind(signed(next))
        .execute(&mut *tx)
        .await?;
        tx.commit().await?;
        Ok(j)
    }
}

/// Forgets the counters of slots long past. First it writes down, for ever, that no ticket of those is made any more.
async fn forget(store: &SqlitePool, now: u64) -> Result<u64, TicketError> {
    let mut tx = store.begin_with("BEGIN IMMEDIATE").await?;
    let floor: i64 = sqlx::query_scalar(
        "INSERT INTO ticket_meta (key, value) VALUES ('forgotten', ?)
         ON CONFLICT (key) DO UPDATE SET value = max(value, excluded.value) RETURNING value",
    )
    .bind(signed(now.saturating_sub(FORGET_AFTER)))
    .fetch_one(&mut *tx)
    .await?;
    sqlx::query("DELETE FROM ticket_counters WHERE slot_start < ?").bind(floor).execute(&mut *tx).await?;
    tx.commit().await?;
    Ok(u64::try_from(floor).unwrap_or(0))
}

/// A poisoned lock holds tickets that are as good as before.
fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

fn signed(value: u64) -> i64 {
    i64::try_from(value).unwrap_or(i64::MAX)
}
