//! Publishes the provider's offer, again and again, and never two different ones under one number.

use std::fmt;
use std::io;
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use tokio::sync::{Mutex, watch};
use tributary_market::clock::Clock;
use tributary_market::envelope::Signer;
use tributary_market::offer::{Offer, OfferContext, OfferError, OfferId, RateClass, Service, VerifiedOffer};
use tributary_market::sealed::EncryptionKey;
use tributary_market::ticket::TicketVerifier;
use tributary_market::topics::ContentTopic;
use tributary_market::transport::{Broadcast, Keep, TransportError};
use tributary_protocol::ticket::OfferTerms;
use tributary_protocol::{Amount, PaymentAddress, PoolClock, PoolId, Price, ProviderDigest, Seconds, UnixTime};
use tributary_waku::{Multiaddr, PeerId};

use crate::files;

/// What a provider sells by, the same for everybody. Changing it turns away the tickets of streams that were opened under the terms before.
#[derive(Clone, Debug)]
pub struct SaleTerms {
    /// The one owner that is paid in this pool.
    pub payee: PaymentAddress,
    /// The pool.
    pub pool: PoolId,
    /// What one ticket stands for.
    pub ticket_price: Price,
    /// What a stream must have paid before its tickets count.
    pub min_streamed: Amount,
    /// Rates at which streams may be opened.
    pub rate_classes: Vec<RateClass>,
    /// How long after a slot's end its tickets are still taken.
    pub slot_carry: Seconds,
    /// Blocks on top of the block that made a root known before tickets may use it, at least 1.
    pub root_depth: u32,
}

impl SaleTerms {
    /// What tickets are checked against.
    #[must_use]
    pub fn verifier(&self, clock: PoolClock, provider: PeerId) -> TicketVerifier {
        TicketVerifier {
            clock,
            provider: ProviderDigest::of_peer_id(&provider.to_bytes()),
            terms: OfferTerms { payee: self.payee.owner(), price: self.ticket_price, min_streamed: self.min_streamed },
            slot_carry: self.slot_carry,
            root_depth: self.root_depth.max(1),
        }
    }
}

/// How offers are published.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct OfferTimes {
    /// How long an offer holds; a new one is made when half of it is over.
    pub lifetime: Seconds,
    /// How often the current offer is published, for those who listen since.
    pub interval: Seconds,
}

impl Default for OfferTimes {
    fn default() -> Self {
        let seconds = |s| Seconds::new(s).unwrap_or(Seconds::MAX);
        Self { lifetime: seconds(6 * 3600), interval: seconds(60) }
    }
}

/// Why an offer can't be published.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum PublishError {
    /// The number of the last offer can't be read or written; nothing was published.
    #[error("the offer's number can't be kept at {path}: {reason}; make the folder writable", path = path.display())]
    Sequence {
        /// The file.
        path: PathBuf,
        /// What the system said.
        reason: String,
    },
    /// A reader would refuse the offer.
    #[error("the offer can't be made: {0}; correct the provider's configuration")]
    Offer(#[from] OfferError),
    /// The network didn't take it. It is published again at the next turn.
    #[error(transparent)]
    Transport(#[from] TransportError),
}

impl PublishError {
    /// The stable code of the error.
    #[must_use]
    pub const fn code(&self) -> &'static str {
        match self {
            Self::Sequence { .. } => "TRB-5401",
            Self::Offer(e) => e.code(),
            Self::Transport(e) => e.code(),
        }
    }
}

/// What goes into an offer besides the terms.
#[derive(Clone, Debug)]
pub struct OfferContent {
    /// The terms.
    pub terms: SaleTerms,
    /// What is sold.
    pub services: Vec<Service>,
    /// Where the provider can be dialled, without a `/p2p` part.
    pub addresses: Vec<Multiaddr>,
    /// Key for sealed requests.
    pub encryption_key: Option<EncryptionKey>,
}

/// Makes, numbers and publishes offers.
pub struct OfferPublisher {
    content: OfferContent,
    times: OfferTimes,
    signer: Arc<dyn Signer>,
    transport: Arc<dyn Broadcast>,
    clock: Arc<dyn Clock>,
    sequence: PathBuf,
    /// When the current offer went out last; also keeps turns apart.
    published: Mutex<Option<UnixTime>>,
    published_at: watch::Sender<Option<UnixTime>>,
    published_count: AtomicU64,
    current: watch::Sender<Option<Arc<VerifiedOffer>>>,
    id: watch::Sender<Option<OfferId>>,
}

impl fmt::Debug for OfferPublisher {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("OfferPublisher").field("times", &self.times).finish_non_exhaustive()
    }
}

impl OfferPublisher {
    /// A publisher that keeps the number of its last offer in the file `sequence`.
    #[must_use]
    pub fn new(
        content: OfferContent,
        times: OfferTimes,
        signer: Arc<dyn Signer>,
        transport: Arc<dyn Broadcast>,
        clock: Arc<dyn Clock>,
        sequence: PathBuf,
    ) -> Self {
        Self {
            content,
            times,
            signer,
            transport,
            clock,
            sequence,
            published: Mutex::new(None),
            published_at: watch::channel(None).0,
            published_count: AtomicU64::new(0),
            current: watch::channel(None).0,
            id: watch::channel(None).0,
        }
    }

    /// The current offer, as it changes.
    #[must_use]
    pub fn current(&self) -> watch::Receiver<Option<Arc<VerifiedOffer>>> {
        self.current.subscribe()
    }

    /// The current offer's name, as it changes.
    #[must_use]
    pub fn current_id(&self) -> watch::Receiver<Option<OfferId>> {
        self.id.subscribe()
    }

    /// When an offer was published last.
    #[must_use]
    pub fn published_at(&self) -> Option<UnixTime> {
        *self.published_at.borrow()
    }

    /// How often an offer was published.
    #[must_use]
    pub fn published_count(&self) -> u64 {
        self.published_count.load(Ordering::Relaxed)
    }

    /// Makes a new offer when half of the current one's time is over (or there is none), and publishes when the interval is over.
    ///
    /// # Errors
    /// [`PublishError`]; calling again tries again.
    pub async fn turn(&self) -> Result<(), PublishError> {
        let mut published = self.published.lock().await;
        let now = self.clock.now();
        let half = self.times.lifetime.get() / 2;
        let fresh = self.current.borrow().as_ref().is_some_and(|offer| {
            // A clock set back makes the offer one from the future, which readers refuse.
            now.since(offer.issued_at).get() < half.max(1) && offer.issued_at <= now
        });
        if !fresh {
            self.renew(now)?;
            *published = None;
        }
        let due = published.is_none_or(|at| now.since(at).get() >= self.times.interval.get() || at > now);
        if due {
            self.send().await?;
            *published = Some(now);
            self.published_at.send_replace(Some(now));
            self.published_count.fetch_add(1, Ordering::Relaxed);
        }
        Ok(())
    }

    /// Publishes the current offer now, making one if there is none.
    ///
    /// # Errors
    /// [`PublishError`].
    pub async fn publish_now(&self) -> Result<(), PublishError> {
        *self.published.lock().await = None;
        self.turn().await
    }

    async fn send(&self) -> Result<(), PublishError> {
        let offer = self.current.borrow().clone();
        if let Some(offer) = offer {
            self.transport.publish(&ContentTopic::offers(), offer.signed().as_bytes().to_vec(), Keep::Stored).await?;
        }
        Ok(())
    }

    fn renew(&self, now: UnixTime) -> Result<(), PublishError> {
        let failed = |e: io::Error| PublishError::Sequence { path: self.sequence.clone(), reason: e.to_string() };
        // On disk before it is used. Time as a lower bound keeps numbers rising when the file is lost or comes from a backup.
        let last = files::read_number(&self.sequence).map_err(failed)?;
        let sequence = last.map_or(0, |n| n.saturating_add(1)).max(now.get());
        files::write_number(&self.sequence, sequence).map_err(failed)?;
        let OfferContent { terms, services, addresses, encryption_key } = &self.content;
        let offer = Offer {
            payee: terms.payee,
            pool: terms.pool,
            ticket_price: terms.ticket_price,
            min_streamed: terms.min_streamed,
            rate_classes: terms.rate_classes.clone(),
            slot_carry: terms.slot_carry,
            root_depth: terms.root_depth.max(1),
            services: services.clone(),
            multiaddrs: addresses.clone(),
            sequence,
            issued_at: now,
            expires_at: now.saturating_add(self.times.lifetime),
            encryption_key: *encryption_key,
        };
        let verified = offer.sign(&*self.signer)?.verify(&OfferContext { now, pools: &[terms.pool] })?;
        tracing::info!(offer = %verified.id(), sequence, "made a new offer");
        self.id.send_replace(Some(verified.id()));
        self.current.send_replace(Some(Arc::new(verified)));
        Ok(())
    }
}
