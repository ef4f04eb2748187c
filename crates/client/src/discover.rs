//! Step 1: offers and relayers, live from relay and caught up from archives.

use std::{future::Future, sync::Arc, time::Duration};

use futures::StreamExt as _;
use tributary_market::{
    book::{Collector, Equivocation, Insertion, OfferBook, OfferObserver, SharedBook},
    clock::Clock,
    offer::VerifiedOffer,
    relay::{RelayerCollector, VerifiedAnnouncement},
    topics::ContentTopic,
};
use tributary_protocol::PoolId;
use tributary_waku::{ContentTopic as WakuTopic, NodeHandle, PeerId, StoreQueryRequest, StoreStatus};

use crate::{ClientError, store::ClientStore};

/// Offers that are kept, at the most.
const MAX_OFFERS: usize = 1024;

/// Relayers that are kept, at the most.
const MAX_RELAYERS: usize = 256;

/// Pages of each topic that one archive is asked for.
const CATCH_UP_PAGES: usize = 5;

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
    /// Of the new ones, how many came from an archive.
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
        let directory = Self { node, store, clock, pool, book, offers, relayers, evidence };
        for bytes in directory.store.offers().await? {
            // Expired since; a newer one will come.
            let _ = directory.offers.take(bytes);
        }
        for bytes in directory.store.relayers().await? {
            let _ = directory.relayers.take(&bytes);
        }
        Ok(directory)
    }

    /// Listens, and asks connected peers' archives, until `done` is.
    ///
    /// # Errors
    /// When the node stopped or the database fails.
    pub async fn discover(&self, done: impl Future<Output = ()>) -> Result<Found, ClientError> {
        let mut found = Found::default();
        let mut offers = self.node.subscribe([waku(&ContentTopic::offers())])?;
        let mut relayers = self.node.subscribe([waku(&ContentTopic::relayers())])?;
        tokio::pin!(done);
        let catch_up = self.catch_up();
        tokio::pin!(catch_up);
        let mut caught_up = false;
        loop {
            tokio::select! {
                () = &mut done => break,
                payloads = &mut catch_up, if !caught_up => {
                    caught_up = true;
                    let before = found.offers + found.relayers;
                    for (is_offer, payload) in payloads {
                        self.take(is_offer, payload, &mut found).await?;
                    }
                    found.from_archive = found.offers + found.relayers - before;
                }
                Some(message) = offers.next() => self.take(true, message.message.payload.to_vec(), &mut found).await?,
                Some(message) = relayers.next() => self.take(false, message.message.payload.to_vec(), &mut found).await?,
            }
        }
        Ok(found)
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

    /// What connected peers' archives have of both topics. A peer that refuses or answers nonsense is left out.
    async fn catch_up(&self) -> Vec<(bool, Vec<u8>)> {
        let mut payloads = Vec::new();
        for peer in self.node.connected_peers().await {
            for (is_offer, topic) in [(true, ContentTopic::offers()), (false, ContentTopic::relayers())] {
                let topic = waku(&topic);
                let Ok(pubsub) = self.node.pubsub_topic(&topic) else { continue };
                let mut next = Some(StoreQueryRequest::by_topics(pubsub, [topic]));
                for _ in 0..CATCH_UP_PAGES {
                    let Some(request) = next.take() else { break };
                    let Ok(response) = self.node.store_query(peer, &request).await else { break };
                    if response.status != StoreStatus::OK {
                        break;
                    }
                    next = request.next_page(&response);
                    payloads.extend(
                        response
                            .messages
                            .into_iter()
                            .filter_map(|entry| Some((is_offer, entry.data?.1.payload.to_vec()))),
                    );
                }
            }
        }
        payloads
    }

    /// Evidence that was found since the last call.
    #[must_use]
    pub fn take_evidence(&self) -> Vec<Equivocation> {
        std::mem::take(&mut self.evidence.0.lock().unwrap_or_else(std::sync::PoisonError::into_inner))
    }
}

fn waku(topic: &ContentTopic) -> WakuTopic {
    WakuTopic::opaque(topic.as_str())
}
