//! Step 1: offers and relayers, live from relay and caught up from archives.

use std::{collections::HashSet, future::Future, sync::Arc, time::Duration};

use futures::{StreamExt as _, stream::FuturesUnordered};
use tributary_market::{
    book::{Collector, Equivocation, Insertion, OfferBook, OfferObserver, SharedBook},
    clock::Clock,
    offer::VerifiedOffer,
    rating::RatingRefusal,
    relay::{RelayerCollector, VerifiedAnnouncement},
    topics::ContentTopic,
};
use tributary_protocol::PoolId;
use tributary_waku::{
    ContentTopic as WakuTopic, MAX_PAGE_LIMIT, NodeHandle, PeerId, ReceivedMessage, StoreQueryRequest, StoreStatus,
    Subscription,
};

use crate::{
    ClientError,
    ratings::{RatingDesk, RatingSource},
    store::ClientStore,
};

/// Offers that are kept, at the most.
const MAX_OFFERS: usize = 1024;

/// Relayers that are kept, at the most.
const MAX_RELAYERS: usize = 256;

/// Pages of each topic that one archive is asked for, newest first.
const CATCH_UP_PAGES: usize = 5;

/// Pages of ratings that one archive is asked for, newest first.
const RATING_PAGES: usize = 10;

/// Between two looks at ratings that wait.
const SETTLE: Duration = Duration::from_secs(1);

/// Archives that are asked in one round of discovery, at the most.
const MAX_ARCHIVES: usize = 64;

/// Time between two looks at who is connected.
const LOOK: Duration = Duration::from_millis(50);

/// What is on sale, and who relays.
#[derive(Debug, Clone)]
pub struct Directory {
    node: NodeHandle,
    store: ClientStore,
    clock: Arc<dyn Clock>,
    pool: PoolId,
    book: SharedBook,
    offers: Arc<Collector>,
    relayers: RelayerCollector,
    evidence: Arc<Evidence>,
    ratings: Option<RatingDesk>,
}

/// What is published for all.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Kind {
    Offers,
    Relayers,
    Ratings,
}

impl Kind {
    fn topic(self) -> WakuTopic {
        waku(&match self {
            Self::Offers => ContentTopic::offers(),
            Self::Relayers => ContentTopic::relayers(),
            Self::Ratings => ContentTopic::ratings(),
        })
    }

    const fn pages(self) -> usize {
        match self {
            Self::Offers | Self::Relayers => CATCH_UP_PAGES,
            Self::Ratings => RATING_PAGES,
        }
    }
}

/// What a round of discovery found.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Found {
    /// Offers that are new or newer.
    pub offers: usize,
    /// Announcements that are new or newer.
    pub relayers: usize,
    /// Messages that were refused.
    pub refused: usize,
    /// Ratings that are new or newer, verified.
    pub ratings: usize,
    /// Of the new offers and announcements, how many came from an archive.
    pub from_archive: usize,
}

/// Providers that contradicted themselves, until they are stored.
#[derive(Debug, Default)]
struct Evidence(std::sync::Mutex<Vec<Equivocation>>);

impl OfferObserver for Evidence {
    fn equivocation(&self, evidence: &Equivocation) {
        let mut found = self.0.lock().unwrap_or_else(std::sync::PoisonError::into_inner);
        if found.len() < MAX_OFFERS {
            found.push(evidence.clone());
        }
    }
}

impl Directory {
    /// A directory of the pool's offers, filled from what was known before.
    ///
    /// # Errors
    /// When the database fails.
    pub async fn open(
        node: NodeHandle,
        store: ClientStore,
        clock: Arc<dyn Clock>,
        pool: PoolId,
    ) -> Result<Self, ClientError> {
        let book = SharedBook::new(OfferBook::new(MAX_OFFERS));
        let evidence = Arc::new(Evidence::default());
        let observer: Arc<dyn OfferObserver> = Arc::clone(&evidence) as _;
        let offers = Arc::new(Collector::new(book.clone(), [pool], Arc::clone(&clock), observer));
        let relayers = RelayerCollector::new([pool], MAX_RELAYERS, Arc::clone(&clock));
        let directory = Self { node, store, clock, pool, book, offers, relayers, evidence, ratings: None };
        for bytes in directory.store.offers().await? {
            // Expired since; a newer one will come.
            let _ = directory.offers.take(bytes);
        }
        for bytes in directory.store.relayers().await? {
            let _ = directory.relayers.take(&bytes);
        }
        Ok(directory)
    }

    /// Receives ratings of others too, for `desk`.
    ///
    /// # Errors
    /// When the database fails.
    pub(crate) async fn watch_ratings(&mut self, desk: RatingDesk) -> Result<(), ClientError> {
        for offer in self.offers() {
            desk.offer(&offer, self.clock.now()).await?;
        }
        self.ratings = Some(desk);
        Ok(())
    }

    /// Listens, and asks the archive of each peer that is connected or gets connected meanwhile, until `done` is.
    ///
    /// # Errors
    /// When the node stopped or the database fails.
    pub async fn discover(&self, done: impl Future<Output = ()>) -> Result<Found, ClientError> {
        let mut found = Found::default();
        let mut offers = self.node.subscribe([Kind::Offers.topic()])?;
        let mut relayers = self.node.subscribe([Kind::Relayers.topic()])?;
        let mut ratings = self.ratings.is_some().then(|| self.node.subscribe([Kind::Ratings.topic()])).transpose()?;
        let mut looks = tokio::time::interval(LOOK);
        looks.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
        let mut settling = tokio::time::interval(SETTLE);
        settling.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
        let mut asked = HashSet::new();
        let mut archives = FuturesUnordered::new();
        // Side by side: `done` may use the database that a message is written to, and would wait for ever, connection in hand, while one is taken.
        let (over, mut ended) = tokio::sync::oneshot::channel::<()>();
        let waiting = async {
            done.await;
            let _ = over.send(());
            Ok(())
        };
        let listening = async {
            loop {
                tokio::select! {
                    _ = &mut ended => return Ok::<_, ClientError>(()),
                    _ = looks.tick(), if asked.len() < MAX_ARCHIVES => {
                        for peer in self.node.connected_peers().await {
                            if asked.len() < MAX_ARCHIVES && asked.insert(peer) {
                                archives.push(self.archived(peer, Kind::Offers));
                                archives.push(self.archived(peer, Kind::Relayers));
                            }
                        }
                    }
                    _ = settling.tick() => self.settle(&mut found).await?,
                    Some((peer, kind, payloads)) = archives.next(), if !archives.is_empty() => {
                        let before = found.offers + found.relayers;
                        for payload in payloads {
                            match kind {
                                Kind::Ratings => self.take_rating(RatingSource::Archive(peer), &payload, &mut found),
                                _ => self.take(kind == Kind::Offers, payload, &mut found).await?,
                            }
                        }
                        found.from_archive += found.offers + found.relayers - before;
                        // A rating counts for a payee that an offer named, so offers come first.
                        if kind == Kind::Offers && self.ratings.is_some() {
                            archives.push(self.archived(peer, Kind::Ratings));
                        }
                    }
                    Some(message) = offers.next() => self.take(true, message.message.payload.to_vec(), &mut found).await?,
                    Some(message) = relayers.next() => self.take(false, message.message.payload.to_vec(), &mut found).await?,
                    Some(message) = next_of(&mut ratings) => {
                        self.take_rating(RatingSource::Live, &message.message.payload, &mut found);
                    }
                }
            }
        };
        tokio::try_join!(waiting, listening)?;
        self.settle(&mut found).await?;
        Ok(found)
    }

    fn take_rating(&self, source: RatingSource, payload: &[u8], found: &mut Found) {
        let Some(desk) = &self.ratings else { return };
        if let Err(refusal) = desk.take(source, payload, self.clock.now())
            && !matches!(refusal, RatingRefusal::Known | RatingRefusal::Superseded { .. })
        {
            found.refused += 1;
            tracing::debug!(code = refusal.code(), %refusal, "refused a rating");
        }
    }

    async fn settle(&self, found: &mut Found) -> Result<(), ClientError> {
        let Some(desk) = &self.ratings else { return Ok(()) };
        let settled = desk.settle(self.clock.now()).await?;
        found.ratings += settled.new + settled.replaced;
        found.refused += settled.refused.values().sum::<usize>();
        Ok(())
    }

    /// [`Self::discover`] until at least `offers` offers and one relayer are known, or `limit` is over.
    ///
    /// # Errors
    /// As [`Self::discover`].
    pub async fn discover_at_least(&self, offers: usize, limit: Duration) -> Result<Found, ClientError> {
        let pool = self.pool;
        let clock = Arc::clone(&self.clock);
        let enough = async {
            self.book.wait_for(|book| (book.live(clock.now()).count() >= offers).then_some(())).await;
            self.relayers.wait_for(pool, |live| (!live.is_empty()).then_some(())).await;
        };
        self.discover(async {
            let _ = tokio::time::timeout(limit, enough).await;
        })
        .await
    }

    /// Offers in force.
    #[must_use]
    pub fn offers(&self) -> Vec<Arc<VerifiedOffer>> {
        self.book.lock().live(self.clock.now()).cloned().collect()
    }

    /// A provider's offer in force.
    ///
    /// # Errors
    /// [`ClientError::UnknownProvider`].
    pub fn offer(&self, provider: PeerId) -> Result<Arc<VerifiedOffer>, ClientError> {
        self.book
            .lock()
            .get(provider, self.pool, self.clock.now())
            .ok_or_else(|| ClientError::UnknownProvider { provider: provider.to_string() })
    }

    /// Relayers whose announcement is in force.
    #[must_use]
    pub fn relayers(&self) -> Vec<Arc<VerifiedAnnouncement>> {
        self.relayers.live(self.pool)
    }

    /// Takes no offers of a provider any more.
    pub fn distrust(&self, provider: PeerId) {
        self.book.lock().distrust(provider);
    }

    async fn take(&self, is_offer: bool, payload: Vec<u8>, found: &mut Found) -> Result<(), ClientError> {
        let now = self.clock.now().get();
        if is_offer {
            match self.offers.take(payload.clone()) {
                Ok(Insertion::New | Insertion::Newer { .. }) => {
                    found.offers += 1;
                    let provider = tributary_market::offer::SignedOffer::from_bytes(payload.clone());
                    let context = tributary_market::offer::OfferContext { now: self.clock.now(), pools: &[self.pool] };
                    if let Ok(offer) = provider.verify(&context) {
                        self.store.put_offer(offer.peer_id(), &payload, now).await?;
                        if let Some(desk) = &self.ratings {
                            desk.offer(&offer, self.clock.now()).await?;
                        }
                    }
                }
                Ok(Insertion::Equivocation(proof)) => {
                    let both = [proof.first.as_bytes(), proof.second.as_bytes()].concat();
                    self.store.put_evidence(proof.provider, "equivocation", &both, now).await?;
                }
                Ok(_) => {}
                Err(error) => {
                    found.refused += 1;
                    tracing::debug!(code = error.code(), %error, "refused an offer");
                }
            }
        } else {
            match self.relayers.take(&payload) {
                Ok(true) => {
                    found.relayers += 1;
                    let pools = [self.pool];
                    let context = tributary_market::relay::RelayContext { now: self.clock.now(), pools: &pools };
                    if let Ok(relayer) = VerifiedAnnouncement::verify(&payload, &context) {
                        self.store.put_relayer(relayer.peer_id(), &payload, now).await?;
                    }
                }
                Ok(false) => {}
                Err(error) => {
                    found.refused += 1;
                    tracing::debug!(code = error.code(), %error, "refused an announcement");
                }
            }
        }
        Ok(())
    }

    /// What a peer's archive has of a kind, each once. A peer that refuses or answers nonsense has nothing.
    async fn archived(&self, peer: PeerId, kind: Kind) -> (PeerId, Kind, HashSet<Vec<u8>>) {
        let mut payloads = HashSet::new();
        let topic = kind.topic();
        let Ok(pubsub) = self.node.pubsub_topic(&topic) else { return (peer, kind, payloads) };
        let mut next = Some(StoreQueryRequest::by_topics(pubsub, [topic]));
        for _ in 0..kind.pages() {
            let Some(mut request) = next.take() else { break };
            request.pagination_limit = Some(MAX_PAGE_LIMIT);
            let Ok(response) = self.node.store_query(peer, &request).await else { break };
            if response.status != StoreStatus::OK {
                break;
            }
            next = request.next_page(&response);
            // The same offer is published again and again.
            payloads.extend(response.messages.into_iter().filter_map(|entry| Some(entry.data?.1.payload.to_vec())));
        }
        (peer, kind, payloads)
    }

    /// Evidence that was found since the last call.
    #[must_use]
    pub fn take_evidence(&self) -> Vec<Equivocation> {
        std::mem::take(&mut self.evidence.0.lock().unwrap_or_else(std::sync::PoisonError::into_inner))
    }
}

/// The next message of a subscription, if there is one.
async fn next_of(subscription: &mut Option<Subscription>) -> Option<ReceivedMessage> {
    match subscription {
        Some(subscription) => subscription.recv().await,
        None => std::future::pending().await,
    }
}

fn waku(topic: &ContentTopic) -> WakuTopic {
    WakuTopic::opaque(topic.as_str())
}
