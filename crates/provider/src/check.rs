//! From the bytes of a proof of payment to a ticket that may be served: every check, cheapest first.
//!
//! 1. size, version, shape, payee ([`TicketVerifier::decode`]);
//! 2. price, minimum, nullifiers' form; enough tickets for the use;
//! 3. the slot: its clock, carry and floor; its stopped list, which must be final, and exactly that list's root;
//! 4. the root: known, and deep enough;
//! 5. nullifiers unseen (memory, then the database where memory isn't complete);
//! 6. the one-time key's signature over the request;
//! 7. the proof, in batches;
//! 8. the nullifiers, durably. Only now the ticket is spent.
//!
//! Before all of these: a peer that sent a bad proof lately, or had too many requests refused, is not listened to for a while.
//!
//! A ticket refused in 1 to 7 is not spent and may be sent again.

use std::fmt;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use parking_lot::Mutex;
use serde::Serialize;
use sha2::{Digest, Sha256};
use tokio::time::Instant;
use tributary_market::clock::Clock;
use tributary_market::ticket::{PresentedTicket, Reason, Remedy, TicketRefusal, TicketVerifier};
use tributary_protocol::ticket::{TicketNullifier, request_signing_bytes};
use tributary_protocol::{Fr, Slot, UnixTime};
use tributary_prover::{Proof, VerifyingKey};
use tributary_waku::PeerId;

use crate::batch::{BatchCounters, BatchLimits, Batcher, Overload, ProofVerifier, Verdict};
use crate::chain::ChainView;
use crate::conduct::{Conduct, ConductLimits};
use crate::store::{NullifierStore, Outcome, RequestDigest, Reservation, Reserved, Spent, StoreError, Ticket};

/// Verifies proofs of the ticket circuit.
#[derive(Debug)]
pub struct TicketProofs(Arc<VerifyingKey>);

impl TicketProofs {
    /// With the ticket circuit's verifying key.
    #[must_use]
    pub const fn new(key: Arc<VerifyingKey>) -> Self {
        Self(key)
    }
}

/// A ticket's public inputs and proof.
#[derive(Debug)]
pub struct TicketProof {
    publics: [Fr; 13],
    proof: Proof,
}

impl ProofVerifier for TicketProofs {
    type Item = TicketProof;

    fn verify_one(&self, item: &TicketProof) -> bool {
        self.0.verify(&item.publics, &item.proof).is_ok()
    }

    fn verify_all(&self, items: &[&TicketProof]) -> bool {
        let items: Vec<(&[Fr], Proof)> = items.iter().map(|i| (&i.publics[..], i.proof)).collect();
        self.0.verify_batch(&items).is_ok()
    }
}

const BAD_PROOFS: &str = "you sent bad proofs lately; wait up to a minute";

/// Counts of refusals by reason, since the start.
#[derive(Debug)]
struct Refusals([AtomicU64; Reason::ALL.len()]);

impl Refusals {
    fn new() -> Self {
        Self(std::array::from_fn(|_| AtomicU64::new(0)))
    }

    fn count(&self, reason: Reason) {
        if let Some(at) = Reason::ALL.iter().position(|r| *r == reason) {
            self.0[at].fetch_add(1, Ordering::Relaxed);
        }
    }
}

/// What the checker did since its start.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize)]
pub struct CheckCounters {
    /// Proofs of payment that were stored as spent and given to a service.
    pub taken: u64,
    /// Tickets in them.
    pub tickets: u64,
    /// Refusals by [`Reason::name`]; only those that happened.
    pub refused: std::collections::BTreeMap<&'static str, u64>,
    /// Batches of proofs verified.
    pub batches: u64,
    /// Proofs verified.
    pub proofs: u64,
    /// Batches that had to be split for a bad proof.
    pub split_batches: u64,
    /// Checks of batches, and of parts of those that were split.
    pub proof_checks: u64,
    /// Milliseconds that those checks took.
    pub proof_checks_ms: u64,
    /// Nullifiers held in memory.
    pub nullifiers_in_memory: usize,
    /// Transactions that made nullifiers durable.
    pub commits: u64,
    /// Start of the highest slot that is refused for ever.
    pub floor: Option<UnixTime>,
}

/// A request and how it pays.
#[derive(Clone, Copy, Debug)]
pub struct PaidUse<'a> {
    /// The encoded `EligibilityProof`.
    pub proof: &'a [u8],
    /// The request's bytes without its proof: what the one-time key signed.
    pub request: &'a [u8],
    /// Tickets that this use takes.
    pub tickets: u64,
    /// Who sent it, where that is known. Used for fairness only and written nowhere.
    pub peer: Option<PeerId>,
}

/// Checks tickets and stores what they spend. One for each payee key.
pub struct TicketChecker {
    verifier: TicketVerifier,
    chain: Arc<dyn ChainView>,
    store: NullifierStore,
    clock: Arc<dyn Clock>,
    batcher: Batcher<TicketProofs, PeerId>,
    started: Instant,
    conduct: Mutex<Conduct<PeerId>>,
    refusals: Refusals,
    taken: AtomicU64,
    tickets: AtomicU64,
}

impl fmt::Debug for TicketChecker {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("TicketChecker").field("verifier", &self.verifier).finish_non_exhaustive()
    }
}

/// Why a checker can't be made.
#[derive(Debug, thiserror::Error, PartialEq, Eq)]
#[non_exhaustive]
pub enum CheckerError {
    /// The store belongs to another payee than the offer names.
    #[error(
        "the nullifier store belongs to payee {store}, the offer names {offer}; open the store of the offer's payee"
    )]
    OtherPayee {
        /// The store's payee.
        store: String,
        /// The offer's payee.
        offer: String,
    },
    /// The verifying key isn't one of the ticket circuit.
    #[error(
        "the verifying key has {found} public inputs, the ticket circuit has {expected}; use the ticket circuit's key"
    )]
    WrongKey {
        /// Public inputs of the key.
        found: usize,
        /// Public inputs of the circuit.
        expected: usize,
    },
}

impl CheckerError {
    /// The stable code of the error.
    #[must_use]
    pub const fn code(&self) -> &'static str {
        match self {
            Self::OtherPayee { .. } => "TRB-5101",
            Self::WrongKey { .. } => "TRB-5102",
        }
    }
}

impl TicketChecker {
    /// A checker for the terms in `verifier`; must be called within a tokio runtime.
    ///
    /// # Errors
    /// [`CheckerError`] when store, key and terms don't belong together.
    pub fn new(
        verifier: TicketVerifier,
        key: Arc<VerifyingKey>,
        chain: Arc<dyn ChainView>,
        store: NullifierStore,
        clock: Arc<dyn Clock>,
        limits: BatchLimits,
    ) -> Result<Self, CheckerError> {
        if store.payee() != verifier.terms.payee {
            return Err(CheckerError::OtherPayee {
                store: store.payee().to_string(),
                offer: verifier.terms.payee.to_string(),
            });
        }
        if key.public_inputs() != 13 {
            return Err(CheckerError::WrongKey { found: key.public_inputs(), expected: 13 });
        }
        let batcher = Batcher::start(TicketProofs::new(key), limits);
        Ok(Self {
            verifier,
            chain,
            store,
            clock,
            batcher,
            started: Instant::now(),
            conduct: Mutex::new(Conduct::new(ConductLimits::default())),
            refusals: Refusals::new(),
            taken: AtomicU64::new(0),
            tickets: AtomicU64::new(0),
        })
    }

    /// The terms that tickets are checked against.
    #[must_use]
    pub const fn verifier(&self) -> &TicketVerifier {
        &self.verifier
    }

    /// The nullifier store.
    #[must_use]
    pub const fn store(&self) -> &NullifierStore {
        &self.store
    }

    /// The present, as the checker sees it.
    #[must_use]
    pub fn now(&self) -> UnixTime {
        self.clock.now()
    }

    /// Checks a proof of payment. When it returns a [`Ticket`], its nullifiers are on disk and the caller alone serves this request:
    /// it settles the ticket as served before it hands the answer over, or as failed.
    ///
    /// # Errors
    /// The first check that fails.
    pub async fn take(&self, paid: PaidUse<'_>) -> Result<Ticket, TicketRefusal> {
        let PaidUse { proof, request, tickets, peer } = paid;
        self.admissible(peer)?;
        let result = match self.verifier.decode(proof) {
            Ok(presented) => self.judge(&presented, request, tickets, peer).await,
            Err(refusal) => Err(refusal),
        };
        self.counted(result, peer)
    }

    /// A request of its own that carries its ticket (a `PaidRequest`): checks it as [`Self::take`] does, and gives the payload that it pays for.
    ///
    /// # Errors
    /// The first check that fails.
    pub async fn take_request(
        &self,
        request: &[u8],
        max_bytes: usize,
        tickets: u64,
        peer: Option<PeerId>,
    ) -> Result<(Ticket, Vec<u8>), TicketRefusal> {
        self.admissible(peer)?;
        match self.verifier.decode_paid_request(request, max_bytes) {
            Ok((presented, payload)) => {
                let result = self.judge(&presented, &payload, tickets, peer).await;
                Ok((self.counted(result, peer)?, payload))
            }
            Err(refusal) => Err(self.refused(refusal, peer)),
        }
    }

    /// As [`Self::take`], for a ticket that is decoded already (a `PaidRequest`'s).
    ///
    /// # Errors
    /// The first check that fails.
    pub async fn take_presented(
        &self,
        presented: &PresentedTicket,
        request: &[u8],
        tickets: u64,
        peer: Option<PeerId>,
    ) -> Result<Ticket, TicketRefusal> {
        self.admissible(peer)?;
        let result = self.judge(presented, request, tickets, peer).await;
        self.counted(result, peer)
    }

    /// Whether anything of this peer is judged now: asked before its request is even decoded.
    ///
    /// # Errors
    /// [`TicketRefusal::Unavailable`] for a while after a bad proof, or too many refusals. Nothing is spent by it.
    pub fn admissible(&self, peer: Option<PeerId>) -> Result<(), TicketRefusal> {
        let Some(peer) = peer else { return Ok(()) };
        let refusal = if self.conduct.lock().pause(&peer, self.started.elapsed()).is_some() {
            TicketRefusal::Unavailable { reason: "too many of your requests were refused lately; wait up to a minute" }
        } else if let Err(overload) = self.batcher.admissible(&peer) {
            overloaded(overload)
        } else {
            return Ok(());
        };
        self.refusals.count(refusal.reason());
        Err(refusal)
    }

    /// Whether requests of this peer are judged at the moment: not for a while after too many of them were refused.
    #[must_use]
    pub fn listens_to(&self, peer: &PeerId) -> bool {
        self.conduct.lock().pause(peer, self.started.elapsed()).is_none()
    }

    fn counted(&self, result: Result<Ticket, TicketRefusal>, peer: Option<PeerId>) -> Result<Ticket, TicketRefusal> {
        let ticket = result.map_err(|refusal| self.refused(refusal, peer))?;
        self.taken.fetch_add(1, Ordering::Relaxed);
        self.tickets.fetch_add(ticket.count() as u64, Ordering::Relaxed);
        Ok(ticket)
    }

    fn refused(&self, refusal: TicketRefusal, peer: Option<PeerId>) -> TicketRefusal {
        tracing::debug!(code = refusal.code(), "ticket refused");
        self.refusals.count(refusal.reason());
        // What may be right a little later need not be the sender's fault: this provider may be behind the chain, or overloaded.
        if let Some(peer) = peer
            && refusal.reason().remedy() != Remedy::SendAgain
        {
            self.conduct.lock().refused(&peer, self.started.elapsed());
        }
        refusal
    }

    /// Counts a refusal that was made outside the checker (a request without payment).
    pub(crate) fn count_refusal(&self, refusal: &TicketRefusal) {
        self.refusals.count(refusal.reason());
    }

    async fn judge(
        &self,
        presented: &PresentedTicket,
        request: &[u8],
        needed: u64,
        peer: Option<PeerId>,
    ) -> Result<Ticket, TicketRefusal> {
        let v = &self.verifier;
        let slot = v.check_terms(presented)?;
        v.check_count(presented, needed)?;
        let now = self.clock.now();
        v.check_slot(slot, now, self.store.floor())?;
        v.check_stopped_root(presented, self.chain.final_stopped_root(slot), now)?;
        v.check_root(presented, self.chain.root_standing(presented.statement().root))?;

        let spent = self.find_spent(slot, presented.nullifiers()).await?;
        // Without room for its proof a ticket costs no more than this.
        self.batcher.room(&peer).map_err(overloaded)?;
        // Who didn't sign the request learns nothing about it, and gets no pairing computed.
        v.check_signature(presented, request)?;
        let digest = digest(v, presented, request);
        if let Some((nullifier, spent)) = spent {
            return Err(refuse_spent(nullifier, spent, digest));
        }

        let proof = Proof::from_bytes(presented.proof()).map_err(|_| TicketRefusal::InvalidProof)?;
        let item = TicketProof { publics: presented.statement().public_inputs(), proof };
        match self.batcher.verify(item, peer).await {
            Ok(Verdict::Valid) => {}
            Ok(Verdict::Invalid) => return Err(TicketRefusal::InvalidProof),
            Err(overload) => return Err(overloaded(overload)),
        }

        // Time went on while the proof waited.
        let now = self.clock.now();
        v.check_slot(slot, now, self.store.floor())?;
        let (nullifiers, now) = (presented.nullifiers().to_vec(), self.settled_now());
        let reservation = Reservation { slot, nullifiers, request: digest, now };
        match self.store.reserve(reservation).await.map_err(|e| unavailable(&e))? {
            Reserved::New(ticket) => Ok(ticket),
            Reserved::Spent { nullifier, spent } => Err(refuse_spent(nullifier, spent, digest)),
            Reserved::BelowFloor { floor } => Err(TicketRefusal::BelowFloor { slot_start: slot.start(), floor }),
        }
    }

    async fn find_spent(
        &self,
        slot: Slot,
        nullifiers: &[TicketNullifier],
    ) -> Result<Option<(TicketNullifier, Spent)>, TicketRefusal> {
        for nullifier in nullifiers {
            if let Some(spent) = self.store.lookup(slot, nullifier).await.map_err(|e| unavailable(&e))? {
                return Ok(Some((*nullifier, spent)));
            }
        }
        Ok(None)
    }

    /// Forgets the nullifiers of slots whose carry is over, after raising the floor for ever. Goes by the earlier of the clock and the
    /// chain's newest block, so that a clock that runs ahead closes no slot that still pays.
    ///
    /// # Errors
    /// [`StoreError`] when the floor can't be made durable; nothing is forgotten then.
    pub async fn prune(&self) -> Result<(), StoreError> {
        let now = self.settled_now();
        let clock = &self.verifier.clock;
        let over = now.checked_sub(self.verifier.slot_carry).and_then(|t| t.checked_sub(clock.slot_length()));
        // A slot is over when start + L + carry <= now.
        let through = over.ok().map(|t| clock.floor(t));
        self.store.prune(through, now).await
    }

    /// The earlier of the clock and the chain's newest block: a clock that ran ahead once must leave nothing behind in the store.
    fn settled_now(&self) -> UnixTime {
        self.chain.head_time().map_or(UnixTime::ZERO, |head| head.min(self.clock.now()))
    }

    /// What the checker did so far.
    #[must_use]
    pub fn counters(&self) -> CheckCounters {
        let BatchCounters { batches, proofs, splits, checks, busy, .. } = self.batcher.counters();
        let refused = Reason::ALL
            .iter()
            .zip(&self.refusals.0)
            .map(|(reason, n)| (reason.name(), n.load(Ordering::Relaxed)))
            .filter(|(_, n)| *n > 0)
            .collect();
        CheckCounters {
            taken: self.taken.load(Ordering::Relaxed),
            tickets: self.tickets.load(Ordering::Relaxed),
            refused,
            batches,
            proofs,
            split_batches: splits,
            proof_checks: checks,
            proof_checks_ms: u64::try_from(busy.as_millis()).unwrap_or(u64::MAX),
            nullifiers_in_memory: self.store.in_memory(),
            commits: self.store.commits(),
            floor: self.store.floor(),
        }
    }
}

/// Names a signed request: the one-time key and the message that it signed.
fn digest(verifier: &TicketVerifier, presented: &PresentedTicket, request: &[u8]) -> RequestDigest {
    let mut hash = Sha256::new();
    hash.update(presented.public_key());
    hash.update(request_signing_bytes(&verifier.provider, presented.statement().nullifiers[0], request));
    RequestDigest(hash.finalize().into())
}

fn refuse_spent(nullifier: TicketNullifier, spent: Spent, request: RequestDigest) -> TicketRefusal {
    if spent.request != request {
        return TicketRefusal::Replayed { nullifier };
    }
    match spent.outcome {
        Outcome::Served => TicketRefusal::AlreadyServed,
        Outcome::Failed | Outcome::Interrupted => TicketRefusal::SpentUnserved,
        Outcome::InProgress => TicketRefusal::Unavailable {
            reason: "this very request is being served; send it again to learn how it ended",
        },
        // Nothing is claimed that isn't known.
        Outcome::Unknown => TicketRefusal::Replayed { nullifier },
    }
}

fn overloaded(overload: Overload) -> TicketRefusal {
    let reason = match overload {
        Overload::Peer { .. } => "too many of your tickets wait; send it again",
        Overload::Penalty { .. } => BAD_PROOFS,
        Overload::Queue { .. } | Overload::Stopped => "too many tickets wait; send it again",
    };
    TicketRefusal::Unavailable { reason }
}

fn unavailable(error: &StoreError) -> TicketRefusal {
    tracing::error!(code = error.code(), %error, "the nullifier store failed; no ticket is taken");
    TicketRefusal::Unavailable { reason: "the nullifier store doesn't answer" }
}
