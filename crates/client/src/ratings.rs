//! Ratings of others: received, verified within a budget, kept, and folded into scores.
//!
//! Anybody can publish ratings, and a bad proof costs its maker nothing. So what arrives is refused by its form, its payee and its root while
//! that is cheap, waits in a queue of its source with an end, and is verified in batches from all sources in turn, as long as a budget of
//! proofs lasts that fills up slowly. A source whose proofs were bad is not listened to any more.

use std::collections::{BTreeMap, HashMap, HashSet, VecDeque};
use std::fmt;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use tributary_ledger::Ledger;
use tributary_market::offer::VerifiedOffer;
use tributary_market::rating::{MAX_AGE, PresentedRating, RatingOrder, RatingRefusal, RatingVerifier};
use tributary_protocol::{Amount, Root, TicketNullifier, UnixTime, keys::Owner, slot::Slot};
use tributary_prover::{Proof, VerifyingKey};
use tributary_reputation::network::{Agreement, NetworkConfig, NetworkExperience, NetworkScore, RatingValue, Usual};
use tributary_reputation::{Kept, Place, ProviderName, Ratings, Reputation, ServiceName, Subject, VerifiedRating};
use tributary_waku::{PeerId, Rate, TokenBucket};

use crate::ClientError;

/// Proofs that are verified at once.
pub const BATCH: usize = 64;

/// Blocks, the newest included, that a root must be deep: a reorganisation of the newest block takes no root away that something was counted by.
const ROOT_DEPTH: u64 = 2;

/// Stopped tags that cost as much as one proof when their list is built.
const STOPS_A_PROOF: usize = 64;

/// How much work ratings of others may make.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct RatingLimits {
    /// Proofs verified, the repeated ones of batches that fail included: at once, and a second. One takes about a millisecond of a core.
    pub proofs: Rate,
    /// Ratings of one source that wait.
    pub waiting: usize,
    /// Sources at once, at least 1.
    pub sources: usize,
    /// Bad proofs of one source after which it isn't listened to any more.
    pub bad_proofs: u32,
    /// Bad ratings that are recognised when they come again.
    pub remembered: usize,
}

impl Default for RatingLimits {
    fn default() -> Self {
        Self { proofs: Rate::new(20.0, 4096.0), waiting: 1024, sources: 65, bad_proofs: 64, remembered: 8192 }
    }
}

/// Where a rating came from.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum RatingSource {
    /// The topic, live. Who published on it is unknown, so it is never left.
    Live,
    /// A peer's archive.
    Archive(PeerId),
}

/// What became of ratings that were looked at.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Settled {
    /// First ones of their streams.
    pub new: usize,
    /// Ones that took the place of older ones.
    pub replaced: usize,
    /// Verified, but those that are kept weigh more.
    pub no_room: usize,
    /// Refused, by [`RatingRefusal::code`].
    pub refused: BTreeMap<&'static str, usize>,
    /// Proofs verified, the repeated ones of batches that failed included.
    pub proofs: usize,
    /// Ratings that still wait, because the budget is used up.
    pub waiting: usize,
}

#[derive(Debug, Default)]
struct Queue {
    waiting: VecDeque<PresentedRating>,
    bad_proofs: u32,
}

struct Inbox {
    queues: BTreeMap<RatingSource, Queue>,
    /// Who was served last: the turn goes on after it.
    last: Option<RatingSource>,
    /// Digests of what waits.
    known: HashSet<[u8; 32]>,
    /// Digests of what has a bad proof, and their order.
    bad: HashSet<[u8; 32]>,
    bad_order: VecDeque<[u8; 32]>,
    payees: HashSet<(PeerId, Owner)>,
    /// What counts of each stream, so that what is known costs a look and no more.
    places: HashMap<TicketNullifier, RatingOrder>,
    budget: TokenBucket,
}

/// The ratings of a pool. Clones share everything.
#[derive(Clone)]
pub struct RatingDesk {
    shared: Arc<Shared>,
}

struct Shared {
    ledger: Ledger,
    key: Arc<VerifyingKey>,
    verifier: RatingVerifier,
    store: Ratings,
    counting: NetworkConfig,
    limits: RatingLimits,
    inbox: Mutex<Inbox>,
    /// What the store holds, folded; `None` after a change.
    folded: Mutex<Option<Arc<HashMap<Subject, NetworkExperience>>>>,
    /// One at a time takes from the queues.
    settling: tokio::sync::Mutex<()>,
}

impl fmt::Debug for RatingDesk {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("RatingDesk").field("limits", &self.shared.limits).finish_non_exhaustive()
    }
}

impl RatingDesk {
    /// A desk for the ledger's pool. `key` is the ticket circuit's; `counting` says how ratings count.
    ///
    /// # Errors
    /// When the database fails.
    pub async fn open(
        ledger: Ledger,
        key: Arc<VerifyingKey>,
        store: Ratings,
        counting: NetworkConfig,
        limits: RatingLimits,
        now: UnixTime,
    ) -> Result<Self, ClientError> {
        let oldest = UnixTime::new(now.get().saturating_sub(MAX_AGE))?;
        store.forget_before(oldest).await?;
        let mut payees = HashSet::new();
        for (provider, payee) in store.payees().await? {
            let provider = provider.as_str().parse().map_err(|_| ClientError::Damaged { what: "a provider's id" })?;
            let payee = Owner::try_from_be_bytes(&payee).map_err(|_| ClientError::Damaged { what: "a payee" })?;
            payees.insert((provider, payee));
        }
        let mut places = HashMap::new();
        for (nullifier, place) in store.places().await? {
            let nullifier = TicketNullifier::try_from_be_bytes(&nullifier);
            places.insert(nullifier.map_err(|_| ClientError::Damaged { what: "a nullifier" })?, order_of(place));
        }
        let inbox = Inbox {
            queues: BTreeMap::new(),
            last: None,
            known: HashSet::new(),
            bad: HashSet::new(),
            bad_order: VecDeque::new(),
            payees,
            places,
            budget: TokenBucket::new(limits.proofs, Duration::from_secs(now.get())),
        };
        let verifier = RatingVerifier { pool: ledger.pool(), clock: ledger.clock() };
        let shared = Shared {
            ledger,
            key,
            verifier,
            store,
            counting,
            limits,
            inbox: Mutex::new(inbox),
            folded: Mutex::default(),
            settling: tokio::sync::Mutex::default(),
        };
        Ok(Self { shared: Arc::new(shared) })
    }

    /// The verified ratings.
    #[must_use]
    pub fn store(&self) -> &Ratings {
        &self.shared.store
    }

    /// How ratings count.
    #[must_use]
    pub fn counting(&self) -> &NetworkConfig {
        &self.shared.counting
    }

    /// Remembers the payee that a verified offer names: ratings count for providers and payees that belong together.
    ///
    /// # Errors
    /// When the database fails.
    pub async fn offer(&self, offer: &VerifiedOffer, now: UnixTime) -> Result<(), ClientError> {
        let (provider, payee) = (offer.peer_id(), offer.payee.owner());
        if lock(&self.shared.inbox).payees.contains(&(provider, payee)) {
            return Ok(());
        }
        let name = ProviderName::new(provider.to_string())?;
        self.shared.store.put_payee(&name, &payee.to_be_bytes(), now).await?;
        let mut inbox = lock(&self.shared.inbox);
        // The database is bounded; what it forgot is forgotten here at the next start.
        if inbox.payees.len() < 2 * MAX_PAYEES {
            inbox.payees.insert((provider, payee));
        }
        Ok(())
    }

    /// Puts a rating into its source's queue, if it passes what is cheap to check.
    ///
    /// # Errors
    /// [`RatingRefusal`], the first check that fails.
    pub fn take(&self, source: RatingSource, payload: &[u8], now: UnixTime) -> Result<(), RatingRefusal> {
        let Shared { verifier, limits, ledger, .. } = &*self.shared;
        let rating = verifier.decode(payload, now)?;
        let mut inbox = lock(&self.shared.inbox);
        let pair = (rating.rating().provider, rating.statement().payee);
        verifier.check_payee(&rating, inbox.payees.contains(&pair))?;
        verifier.check_root(&rating, root_is_known(ledger, rating.statement().root))?;
        verifier.check_newer(&rating, inbox.places.get(&rating.nullifier()).copied())?;
        let digest = rating.digest();
        if inbox.known.contains(&digest) {
            return Err(RatingRefusal::Known);
        }
        if inbox.bad.contains(&digest) {
            return Err(RatingRefusal::InvalidProof);
        }
        let sources = inbox.queues.len();
        if sources >= limits.sources && !inbox.queues.contains_key(&source) {
            return Err(RatingRefusal::Busy { waiting: sources, limit: limits.sources });
        }
        let queue = inbox.queues.entry(source).or_default();
        let left = source != RatingSource::Live && queue.bad_proofs >= limits.bad_proofs;
        let waiting = queue.waiting.len();
        if left || waiting >= limits.waiting {
            return Err(RatingRefusal::Busy { waiting, limit: limits.waiting });
        }
        queue.waiting.push_back(rating);
        inbox.known.insert(digest);
        Ok(())
    }

    /// Verifies what waits, as long as the budget lasts, and keeps what counts.
    ///
    /// # Errors
    /// When a database fails; what was verified before is kept.
    pub async fn settle(&self, now: UnixTime) -> Result<Settled, ClientError> {
        let _one = self.shared.settling.lock().await;
        let mut settled = Settled::default();
        // Final lists don't change while this runs; a reorganisation that changes one is followed at the next call.
        let mut lists = HashMap::new();
        while let Some(batch) = self.draw() {
            let mut verifying = Vec::with_capacity(batch.len());
            for (source, rating) in batch {
                match self.check(&rating, &mut lists, now, &mut settled) {
                    Ok(()) => verifying.push((source, rating)),
                    Err(refusal) => {
                        tracing::debug!(code = refusal.code(), %refusal, "refused a rating");
                        refused(&mut settled, &refusal);
                    }
                }
            }
            let proofs = verifying.len();
            {
                let mut inbox = lock(&self.shared.inbox);
                if !spend(&mut inbox.budget, proofs, now) {
                    inbox.put_back(verifying);
                    break;
                }
            }
            settled.proofs += proofs;
            self.verify(verifying, now, &mut settled).await?;
        }
        settled.waiting = lock(&self.shared.inbox).queues.values().map(|queue| queue.waiting.len()).sum();
        Ok(settled)
    }

    /// The next batch, from all sources in turn.
    fn draw(&self) -> Option<Vec<(RatingSource, PresentedRating)>> {
        let mut inbox = lock(&self.shared.inbox);
        let inbox = &mut *inbox;
        let mut batch = Vec::new();
        while batch.len() < BATCH {
            let after = inbox.last;
            let later = inbox.queues.iter().filter(|(source, _)| after.is_none_or(|after| **source > after));
            let next = later.chain(inbox.queues.iter()).find(|(_, queue)| !queue.waiting.is_empty()).map(|(s, _)| *s);
            let Some(source) = next else { break };
            inbox.last = Some(source);
            if let Some(rating) = inbox.queues.get_mut(&source).and_then(|queue| queue.waiting.pop_front()) {
                inbox.known.remove(&rating.digest());
                batch.push((source, rating));
            }
        }
        (!batch.is_empty()).then_some(batch)
    }

    /// What may have changed since it came, and the slot's list.
    fn check(
        &self,
        rating: &PresentedRating,
        lists: &mut HashMap<Slot, Option<Root>>,
        now: UnixTime,
        settled: &mut Settled,
    ) -> Result<(), RatingRefusal> {
        let Shared { verifier, ledger, .. } = &*self.shared;
        let have = lock(&self.shared.inbox).places.get(&rating.nullifier()).copied();
        verifier.check_newer(rating, have)?;
        let slot = rating.slot();
        let list = *lists.entry(slot).or_insert_with(|| {
            let list = ledger.stopped_list(slot).ok()?;
            // The list of an old slot may have to be built from the first stop on.
            let cost = list.len() / STOPS_A_PROOF;
            spend_all(&mut lock(&self.shared.inbox).budget, cost, now);
            settled.proofs += cost;
            Some(list.root())
        });
        verifier.check_stopped_root(rating, list)
    }

    /// Verifies the proofs of a batch and keeps the ratings that are good.
    async fn verify(
        &self,
        batch: Vec<(RatingSource, PresentedRating)>,
        now: UnixTime,
        settled: &mut Settled,
    ) -> Result<(), ClientError> {
        if batch.is_empty() {
            return Ok(());
        }
        let key = Arc::clone(&self.shared.key);
        let checked = tokio::task::spawn_blocking(move || {
            let (bad, repeated) = find_bad(&key, &batch);
            (batch, bad, repeated)
        });
        let (batch, bad, repeated) = checked.await.map_err(|_| ClientError::Interrupted)?;
        settled.proofs += repeated;
        let mut good = Vec::new();
        {
            let mut inbox = lock(&self.shared.inbox);
            spend_all(&mut inbox.budget, repeated, now);
            for (at, (source, rating)) in batch.into_iter().enumerate() {
                if !bad.contains(&at) {
                    good.push(rating);
                    continue;
                }
                refused(settled, &RatingRefusal::InvalidProof);
                inbox.spoiled(source, rating.digest(), &self.shared.limits);
            }
        }
        let verified = good.iter().map(verified).collect::<Result<Vec<_>, _>>()?;
        let fates = self.shared.store.put(&verified).await?;
        let mut inbox = lock(&self.shared.inbox);
        if inbox.places.len() > MAX_PLACES {
            inbox.places.clear();
        }
        for (kept, rating) in fates.into_iter().zip(&good) {
            let place = inbox.places.entry(rating.nullifier()).or_insert(rating.order());
            let have = *place;
            *place = have.max(rating.order());
            match kept {
                Kept::New => settled.new += 1,
                Kept::Replaced => settled.replaced += 1,
                Kept::NoRoom => settled.no_room += 1,
                // Two of one stream in one batch.
                Kept::Older => {
                    refused(settled, &RatingRefusal::Superseded { found: rating.order(), have });
                }
            }
        }
        drop(inbox);
        *lock(&self.shared.folded) = None;
        Ok(())
    }

    /// What ratings say of providers, folded.
    ///
    /// # Errors
    /// When the database fails.
    pub async fn folded(&self, now: UnixTime) -> Result<Arc<HashMap<Subject, NetworkExperience>>, ClientError> {
        if let Some(folded) = lock(&self.shared.folded).clone() {
            return Ok(folded);
        }
        let counting = &self.shared.counting;
        let mut folded: HashMap<Subject, NetworkExperience> = HashMap::new();
        for rating in self.shared.store.all().await? {
            let sum = folded.entry(rating.subject).or_insert_with(|| NetworkExperience::none(rating.at));
            *sum = sum.with(rating.value, rating.paid, rating.at, counting);
        }
        let folded = Arc::new(folded);
        *lock(&self.shared.folded) = Some(Arc::clone(&folded));
        tracing::debug!(subjects = folded.len(), now = now.get(), "ratings folded");
        Ok(folded)
    }

    /// How well ratings of a service agree with what the buyer saw itself.
    ///
    /// # Errors
    /// When a database fails.
    pub async fn agreement(
        &self,
        own: &Reputation,
        service: &ServiceName,
        now: UnixTime,
    ) -> Result<Agreement, ClientError> {
        let folded = self.folded(now).await?;
        let own = own.scores(service, now).await?;
        let pairs: Vec<_> = own
            .iter()
            .filter_map(|score| {
                let network = folded.get(&score.subject)?.score(now, Agreement::default(), &self.shared.counting);
                Some((score.experience, network))
            })
            .collect();
        Ok(Agreement::between(pairs.iter().map(|(own, network)| (own, network))))
    }

    /// What ratings say of a service's providers as a whole; `None` when they say too little.
    ///
    /// # Errors
    /// When the database fails.
    pub async fn usual(&self, service: &ServiceName, now: UnixTime) -> Result<Option<Usual>, ClientError> {
        let folded = self.folded(now).await?;
        let of_service = folded.iter().filter(|(subject, _)| subject.service == *service);
        let scores: Vec<_> =
            of_service.map(|(_, sum)| sum.score(now, Agreement::default(), &self.shared.counting)).collect();
        Ok(Usual::of(&scores))
    }

    /// What ratings say of one provider's service.
    ///
    /// # Errors
    /// When the database fails.
    pub async fn score(
        &self,
        subject: &Subject,
        agreement: Agreement,
        now: UnixTime,
    ) -> Result<NetworkScore, ClientError> {
        let folded = self.folded(now).await?;
        let sum = folded.get(subject).copied().unwrap_or_else(|| NetworkExperience::none(now));
        Ok(sum.score(now, agreement, &self.shared.counting))
    }
}

/// As many pairs as the database keeps.
const MAX_PAYEES: usize = 16_384;

/// Places that are held in memory; beyond them the database is asked for each.
const MAX_PLACES: usize = 262_144;

impl Inbox {
    /// Back to where they were drawn from.
    fn put_back(&mut self, ratings: Vec<(RatingSource, PresentedRating)>) {
        for (source, rating) in ratings.into_iter().rev() {
            self.known.insert(rating.digest());
            self.queues.entry(source).or_default().waiting.push_front(rating);
        }
    }

    fn spoiled(&mut self, source: RatingSource, digest: [u8; 32], limits: &RatingLimits) {
        if self.bad.insert(digest) {
            self.bad_order.push_back(digest);
        }
        while self.bad_order.len() > limits.remembered {
            if let Some(oldest) = self.bad_order.pop_front() {
                self.bad.remove(&oldest);
            }
        }
        let Some(queue) = self.queues.get_mut(&source) else { return };
        queue.bad_proofs = queue.bad_proofs.saturating_add(1);
        if source != RatingSource::Live && queue.bad_proofs >= limits.bad_proofs {
            for left in std::mem::take(&mut queue.waiting) {
                self.known.remove(&left.digest());
            }
        }
    }
}

/// The positions of bad proofs in a batch, and how many proofs were verified again to find them.
fn find_bad(key: &VerifyingKey, batch: &[(RatingSource, PresentedRating)]) -> (HashSet<usize>, usize) {
    let mut bad = HashSet::new();
    let (mut items, mut positions) = (Vec::new(), Vec::new());
    for (at, (_, rating)) in batch.iter().enumerate() {
        match Proof::from_bytes(rating.proof()) {
            Ok(proof) => {
                items.push((rating.statement().public_inputs(), proof));
                positions.push(at);
            }
            // No point of the curve: nothing to verify.
            Err(_) => {
                bad.insert(at);
            }
        }
    }
    let mut repeated = 0;
    let mut parts: Vec<_> = std::iter::once(0..items.len()).collect();
    let mut first = true;
    while let Some(range) = parts.pop() {
        repeated += if first { 0 } else { range.len() };
        first = false;
        if key.verify_batch(&items[range.clone()]).is_ok() {
            continue;
        }
        if range.len() == 1 {
            bad.insert(positions[range.start]);
            continue;
        }
        let middle = range.start + range.len() / 2;
        parts.extend([middle..range.end, range.start..middle]);
    }
    (bad, repeated)
}

fn root_is_known(ledger: &Ledger, root: Root) -> bool {
    ledger.known_root(root).is_some_and(|known| ledger.depth(known.block) >= ROOT_DEPTH)
}

fn verified(rating: &PresentedRating) -> Result<VerifiedRating, ClientError> {
    let said = rating.rating();
    let order = rating.order();
    Ok(VerifiedRating {
        nullifier: rating.nullifier().to_be_bytes(),
        subject: Subject {
            provider: ProviderName::new(said.provider.to_string())?,
            service: ServiceName::new(said.service.as_str())?,
        },
        value: RatingValue::new(said.score.share())?,
        tier: rating.tier(),
        slot_end: rating.slot().end(),
        place: Place { made_at: order.made_at, revision: order.revision, digest: order.digest },
    })
}

const fn order_of(place: Place) -> RatingOrder {
    RatingOrder { made_at: place.made_at, revision: place.revision, digest: place.digest }
}

fn refused(settled: &mut Settled, refusal: &RatingRefusal) {
    *settled.refused.entry(refusal.code()).or_default() += 1;
}

#[allow(clippy::cast_precision_loss)] // Batches and lists are far below 2^53.
fn spend(budget: &mut TokenBucket, proofs: usize, now: UnixTime) -> bool {
    budget.take(proofs as f64, Duration::from_secs(now.get()))
}

/// Takes what is there for work that was done already.
fn spend_all(budget: &mut TokenBucket, proofs: usize, now: UnixTime) {
    let (mut left, mut piece) = (proofs, proofs);
    while piece > 0 {
        if piece <= left && spend(budget, piece, now) {
            left -= piece;
        } else {
            piece /= 2;
        }
    }
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

/// What is counted as a usual stream when nothing is configured: one whole token.
///
/// # Errors
/// [`ClientError::Range`] for a token with too many decimals.
pub fn usual_stream(decimals: u8) -> Result<Amount, ClientError> {
    Ok(Amount::new(10_u128.checked_pow(decimals.into()).unwrap_or(u128::MAX))?)
}
