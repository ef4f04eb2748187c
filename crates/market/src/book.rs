//! The offers that a buyer knows: bounded, the newest of each provider and pool, and proof of who contradicted itself.

use std::collections::{BTreeMap, HashSet};
use std::fmt;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use futures::StreamExt as _;
use libp2p::PeerId;
use rand::rngs::StdRng;
use rand::seq::IteratorRandom as _;
use rand::{Rng, SeedableRng as _};
use tokio::sync::watch;
use tributary_protocol::keys::PoolId;
use tributary_protocol::time::UnixTime;

use crate::clock::Clock;
use crate::offer::{OfferContext, OfferError, OfferId, SignedOffer, VerifiedOffer};
use crate::topics::ContentTopic;
use crate::transport::{Broadcast, Subscription, TransportError};

/// Two different offers that one provider signed with one sequence number for one pool. Anybody can check it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Equivocation {
    /// The provider.
    pub provider: PeerId,
    /// The pool of both.
    pub pool: PoolId,
    /// The number of both.
    pub sequence: u64,
    /// The offer that came first.
    pub first: SignedOffer,
    /// The other one.
    pub second: SignedOffer,
}

/// Why a proof of misbehaviour proves nothing.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum EvidenceError {
    /// One of the offers isn't a valid offer.
    #[error("one of the two offers is invalid: {0}")]
    Offer(#[from] OfferError),
    /// The offers don't contradict each other.
    #[error("the two offers don't contradict each other: {reason}")]
    Consistent {
        /// In what they agree or what keeps them apart.
        reason: &'static str,
    },
}

impl EvidenceError {
    /// Stable code of the error.
    #[must_use]
    pub const fn code(&self) -> &'static str {
        match self {
            Self::Offer(error) => error.code(),
            Self::Consistent { .. } => "TRB-M111",
        }
    }
}

impl Equivocation {
    /// Judges two signed offers, whatever their age.
    ///
    /// # Errors
    /// [`EvidenceError`] when they prove nothing.
    pub fn prove(first: &SignedOffer, second: &SignedOffer) -> Result<Self, EvidenceError> {
        let (a, b) = (first.verify_content()?, second.verify_content()?);
        let reason = if a.peer_id() != b.peer_id() {
            "two providers"
        } else if a.pool != b.pool {
            "two pools"
        } else if a.sequence != b.sequence {
            "two sequence numbers"
        } else if a.id() == b.id() {
            "the same offer"
        } else {
            return Ok(Self {
                provider: a.peer_id(),
                pool: a.pool,
                sequence: a.sequence,
                first: first.clone(),
                second: second.clone(),
            });
        };
        Err(EvidenceError::Consistent { reason })
    }
}

/// What became of an offer that was put into the book.
#[derive(Debug, Clone, PartialEq, Eq)]
#[must_use]
pub enum Insertion {
    /// The first offer of this provider for this pool.
    New,
    /// It replaces an older one.
    Newer {
        /// The older one's sequence number.
        replaced: u64,
        /// Whether it names another payee. A payee key made for one buyer would mark that buyer, so users are told.
        payee_changed: bool,
    },
    /// The book has this very offer.
    Known,
    /// The book has a newer one.
    Stale {
        /// The sequence number that the book has.
        have: u64,
    },
    /// It contradicts the offer in the book. None of the provider's offers is kept, and none is taken any more.
    Equivocation(Box<Equivocation>),
    /// The provider contradicted itself before.
    Distrusted,
}

#[derive(Debug)]
struct Entry {
    offer: Arc<VerifiedOffer>,
    pinned: bool,
}

/// Offers by provider and pool.
///
/// A book that is full replaces an offer drawn at random, so that nobody can keep newcomers out by being first, nor push chosen
/// others out; expired offers go first, providers that the user deals with ([`Self::pin`]) stay.
pub struct OfferBook {
    entries: BTreeMap<(PeerId, PoolId), Entry>,
    distrusted: HashSet<PeerId>,
    capacity: usize,
    rng: StdRng,
}

impl fmt::Debug for OfferBook {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("OfferBook")
            .field("offers", &self.entries.len())
            .field("capacity", &self.capacity)
            .field("distrusted", &self.distrusted.len())
            .finish_non_exhaustive()
    }
}

impl OfferBook {
    /// Offers in a usual book.
    pub const CAPACITY: usize = 1024;

    /// An empty book for at most `capacity` offers, at least one.
    #[must_use]
    pub fn new(capacity: usize) -> Self {
        Self::with_seed(capacity, rand::thread_rng().r#gen())
    }

    /// As [`Self::new`], with repeatable draws.
    #[must_use]
    pub fn with_seed(capacity: usize, seed: u64) -> Self {
        Self {
            entries: BTreeMap::new(),
            distrusted: HashSet::new(),
            capacity: capacity.max(1),
            rng: StdRng::seed_from_u64(seed),
        }
    }

    /// Puts a verified offer into the book.
    pub fn insert(&mut self, offer: VerifiedOffer, now: UnixTime) -> Insertion {
        let provider = offer.peer_id();
        if self.distrusted.contains(&provider) {
            return Insertion::Distrusted;
        }
        let key = (provider, offer.pool);
        if let Some(entry) = self.entries.get_mut(&key) {
            let have = entry.offer.sequence;
            if offer.id() == entry.offer.id() {
                return Insertion::Known;
            }
            if offer.sequence < have {
                return Insertion::Stale { have };
            }
            if offer.sequence > have {
                let payee_changed = offer.payee != entry.offer.payee;
                entry.offer = Arc::new(offer);
                return Insertion::Newer { replaced: have, payee_changed };
            }
            let evidence = Equivocation {
                provider,
                pool: offer.pool,
                sequence: have,
                first: entry.offer.signed().clone(),
                second: offer.signed().clone(),
            };
            self.distrust(provider);
            return Insertion::Equivocation(Box::new(evidence));
        }
        self.make_room(now);
        self.entries.insert(key, Entry { offer: Arc::new(offer), pinned: false });
        Insertion::New
    }

    /// Drops a provider's offers and takes no more of them. Persisted suspensions are put in by this at start.
    pub fn distrust(&mut self, provider: PeerId) {
        self.entries.retain(|(peer, _), _| *peer != provider);
        if self.distrusted.len() >= self.capacity
            && !self.distrusted.contains(&provider)
            && let Some(forgotten) = self.distrusted.iter().copied().choose(&mut self.rng)
        {
            self.distrusted.remove(&forgotten);
        }
        self.distrusted.insert(provider);
    }

    /// Keeps a provider's offers when room is made.
    pub fn pin(&mut self, provider: PeerId) {
        for ((peer, _), entry) in &mut self.entries {
            entry.pinned |= *peer == provider;
        }
    }

    /// Offers that are in force.
    pub fn live(&self, now: UnixTime) -> impl Iterator<Item = &Arc<VerifiedOffer>> {
        self.entries.values().map(|entry| &entry.offer).filter(move |offer| !offer.is_expired(now))
    }

    /// The offer of a provider for a pool, if in force.
    #[must_use]
    pub fn get(&self, provider: PeerId, pool: PoolId, now: UnixTime) -> Option<Arc<VerifiedOffer>> {
        self.entries.get(&(provider, pool)).map(|entry| Arc::clone(&entry.offer)).filter(|offer| !offer.is_expired(now))
    }

    /// The offer of this id, if in force.
    #[must_use]
    pub fn find(&self, id: OfferId, now: UnixTime) -> Option<Arc<VerifiedOffer>> {
        self.live(now).find(|offer| offer.id() == id).cloned()
    }

    /// Number of offers held, expired ones included.
    #[must_use]
    pub fn len(&self) -> usize {
        self.entries.len()
    }

    /// Whether the book is empty.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.entries.is_empty()
    }

    fn make_room(&mut self, now: UnixTime) {
        if self.entries.len() < self.capacity {
            return;
        }
        let candidate = |expired_only: bool, book: &mut Self| {
            book.entries
                .iter()
                .filter(|(_, entry)| if expired_only { entry.offer.is_expired(now) } else { !entry.pinned })
                .map(|(key, _)| *key)
                .choose(&mut book.rng)
        };
        let victim =
            candidate(true, self).or_else(|| candidate(false, self)).or_else(|| self.entries.keys().next().copied());
        if let Some(key) = victim {
            self.entries.remove(&key);
        }
    }
}

/// A book that one task fills while others read it.
#[derive(Clone, Debug)]
pub struct SharedBook {
    book: Arc<Mutex<OfferBook>>,
    changes: watch::Sender<u64>,
}

impl SharedBook {
    /// Shares a book.
    #[must_use]
    pub fn new(book: OfferBook) -> Self {
        Self { book: Arc::new(Mutex::new(book)), changes: watch::Sender::new(0) }
    }

    /// Locks the book for a short while.
    pub fn lock(&self) -> MutexGuard<'_, OfferBook> {
        self.book.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Puts a verified offer in and wakes those who wait.
    pub fn insert(&self, offer: VerifiedOffer, now: UnixTime) -> Insertion {
        let insertion = self.lock().insert(offer, now);
        if !matches!(insertion, Insertion::Known | Insertion::Stale { .. }) {
            self.changes.send_modify(|count| *count += 1);
        }
        insertion
    }

    /// Waits until `pick` finds what it looks for. Bounded by the caller.
    pub async fn wait_for<T>(&self, mut pick: impl FnMut(&OfferBook) -> Option<T>) -> T {
        let mut changes = self.changes.subscribe();
        loop {
            changes.mark_unchanged();
            if let Some(found) = pick(&self.lock()) {
                return found;
            }
            // This value holds a sender, so the channel stays open.
            let _ = changes.changed().await;
        }
    }
}

/// What a [`Collector`] reports besides filling the book.
pub trait OfferObserver: Send + Sync + 'static {
    /// A provider contradicted itself.
    fn equivocation(&self, evidence: &Equivocation);
}

impl OfferObserver for () {
    fn equivocation(&self, _evidence: &Equivocation) {}
}

/// Fills a book from the offers' topic.
pub struct Collector {
    book: SharedBook,
    pools: Vec<PoolId>,
    clock: Arc<dyn Clock>,
    observer: Arc<dyn OfferObserver>,
}

impl fmt::Debug for Collector {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Collector").field("book", &self.book).finish_non_exhaustive()
    }
}

impl Collector {
    /// A collector of offers for these pools.
    #[must_use]
    pub fn new(
        book: SharedBook,
        pools: impl IntoIterator<Item = PoolId>,
        clock: Arc<dyn Clock>,
        observer: Arc<dyn OfferObserver>,
    ) -> Self {
        Self { book, pools: pools.into_iter().collect(), clock, observer }
    }

    /// Takes one message of the topic, from relay, filter or Store alike.
    ///
    /// # Errors
    /// Why the offer was refused.
    pub fn take(&self, payload: Vec<u8>) -> Result<Insertion, OfferError> {
        let now = self.clock.now();
        let offer = SignedOffer::from_bytes(payload).verify(&OfferContext { now, pools: &self.pools })?;
        let provider = offer.peer_id();
        let insertion = self.book.insert(offer, now);
        if let Insertion::Newer { payee_changed: true, .. } = insertion {
            tracing::warn!(%provider, "a provider's newer offer names another payee");
        }
        if let Insertion::Equivocation(evidence) = &insertion {
            tracing::warn!(provider = %evidence.provider, sequence = evidence.sequence, "two different offers with one sequence number");
            self.observer.equivocation(evidence);
        }
        Ok(insertion)
    }

    /// Subscribes to the offers' topic.
    ///
    /// # Errors
    /// [`TransportError::Closed`].
    pub async fn listen<T: Broadcast + ?Sized>(&self, transport: &T) -> Result<Subscription, TransportError> {
        transport.subscribe(&ContentTopic::offers()).await
    }

    /// Takes what arrives until the transport closes.
    pub async fn run(&self, mut offers: Subscription) {
        while let Some(payload) = offers.next().await {
            if let Err(error) = self.take(payload) {
                tracing::debug!(code = error.code(), %error, "refused an offer");
            }
        }
    }
}
