//! The provider as a whole: services, offers, quotes, tickets, the care of the nullifier store.

use std::collections::BTreeMap;
use std::fmt;
use std::future::Future;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use parking_lot::Mutex;
use serde::Serialize;
use tokio::task::JoinSet;
use tributary_ledger::{Ledger, LedgerError};
use tributary_market::clock::Clock;
use tributary_market::envelope::Signer;
use tributary_market::lease as lease_protocol;
use tributary_market::negotiate;
use tributary_market::negotiate::policy::{
    AttributesPolicy, CapacityPolicy, DurationPolicy, FairnessPolicy, LoadPolicy, Policy, PricePolicy, StartPolicy,
};
use tributary_market::negotiate::provider::{Negotiator, QuoteTimes};
use tributary_market::negotiate::script::{ScriptConfig, ScriptCounters, ScriptPolicy};
use tributary_market::node::{encryption_secret, serve_quotes};
use tributary_market::offer::OfferId;
use tributary_market::rpc::{SealedHandler, SealedServer, ServerLimits};
use tributary_market::transport::{Broadcast, TransportError};
use tributary_protocol::{Seconds, UnixTime};
use tributary_prover::VerifyingKey;
use tributary_waku::{Multiaddr, NodeError, NodeHandle, multiaddr::Protocol};

use crate::batch::BatchLimits;
use crate::chain::{ChainView, LedgerView};
use crate::check::{CheckCounters, CheckerError, TicketChecker};
use crate::claims::{ClaimError, ClaimReport, Claimer, StreamSummary};
use crate::lease::{LeaseCounters, LeaseDesk};
use crate::offers::{OfferContent, OfferPublisher, OfferTimes, PublishError, SaleTerms};
use crate::promises::{PromiseError, Promises};
use crate::service::{Registry, ServiceError};
use crate::store::{NullifierStore, OnMissing, StoreError, StoreOptions};
use crate::till::{Till, TillCounters};

/// Largest time between two signs of life of the nullifier store, seconds; well below [`StoreOptions::trusted_gap`].
const CARE_INTERVAL: u64 = 20;

/// How a provider is set up.
#[derive(Clone, Debug)]
pub struct ProviderConfig {
    /// Folder of the nullifier store and the offer's number.
    pub folder: PathBuf,
    /// What to do when there is no nullifier store. [`OnMissing::NewPayee`] is safe to give always: once the provider has made an offer, a missing
    /// store counts as lost and is refused.
    pub on_missing: OnMissing,
    /// What it sells by.
    pub terms: SaleTerms,
    /// How offers are published.
    pub offers: OfferTimes,
    /// Where it can be dialled; `None` for the addresses that its node listens on.
    pub addresses: Option<Vec<Multiaddr>>,
    /// Tickets a slot that the provider can serve.
    pub capacity: u32,
    /// Tickets a slot that one source may hold in open quotes.
    pub capacity_per_source: u32,
    /// Requests for quotes of one peer, and of all sealed ones together, in a minute.
    pub quotes_per_minute: (u32, u32),
    /// How long quotes hold.
    pub quotes: QuoteTimes,
    /// How far in the past or the future a stream may start.
    pub start: StartPolicy,
    /// The operator's own policy, asked after the cheap ones.
    pub script: Option<ScriptConfig>,
    /// Bounds of the proof queue.
    pub batches: BatchLimits,
}

impl ProviderConfig {
    /// The usual bounds.
    #[must_use]
    pub fn new(folder: PathBuf, terms: SaleTerms) -> Self {
        let seconds = |s| Seconds::new(s).unwrap_or(Seconds::MAX);
        Self {
            folder,
            on_missing: OnMissing::NewPayee,
            terms,
            offers: OfferTimes::default(),
            addresses: None,
            capacity: 36_000,
            capacity_per_source: 3_600,
            quotes_per_minute: (30, 300),
            quotes: QuoteTimes { validity: seconds(300), start_grace: seconds(600) },
            start: StartPolicy { max_past: seconds(86_400), max_ahead: seconds(7 * 86_400) },
            script: None,
            batches: BatchLimits::default(),
        }
    }
}

/// What a provider works with.
pub struct ProviderParts {
    /// Its node. Offers are signed with the node's key.
    pub node: NodeHandle,
    /// The followed pool. The caller keeps it synchronised ([`Ledger::run`]).
    pub ledger: Ledger,
    /// The ticket circuit's verifying key; it must be the one of the pool's deployment.
    pub ticket_key: Arc<VerifyingKey>,
    /// The clock.
    pub clock: Arc<dyn Clock>,
    /// What it sells.
    pub services: Registry,
    /// Finds its streams and claims from them; `None` for a provider whose payee key lives elsewhere.
    pub claimer: Option<Arc<Claimer>>,
}

impl fmt::Debug for ProviderParts {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("ProviderParts").field("services", &self.services).finish_non_exhaustive()
    }
}

/// Why a provider can't start.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum ProviderError {
    /// The nullifier store.
    #[error(transparent)]
    Store(#[from] StoreError),
    /// The checker.
    #[error(transparent)]
    Checker(#[from] CheckerError),
    /// The ledger.
    #[error(transparent)]
    Ledger(#[from] LedgerError),
    /// A service.
    #[error(transparent)]
    Service(#[from] ServiceError),
    /// The first offer.
    #[error(transparent)]
    Publish(#[from] PublishError),
    /// The node.
    #[error(transparent)]
    Node(#[from] NodeError),
    /// The network.
    #[error(transparent)]
    Transport(#[from] TransportError),
    /// The verifying key isn't the deployment's.
    #[error("the ticket key has hash {found}, the pool was deployed with {expected}; use the deployment's artefacts")]
    OtherKey {
        /// Hash of the key given.
        found: String,
        /// Hash in the deployment manifest.
        expected: String,
    },
    /// The terms name another pool than the ledger follows.
    #[error("the terms name pool {terms}, the ledger follows {ledger}")]
    OtherPool {
        /// Of the terms.
        terms: String,
        /// Of the ledger.
        ledger: String,
    },
    /// The claimer's wallet belongs to another payee than the terms name.
    #[error("the payee's wallet has the address {wallet}, the terms name {terms}; use the payee's wallet")]
    OtherWallet {
        /// Address of the wallet.
        wallet: String,
        /// Payee of the terms.
        terms: String,
    },
    /// Claiming.
    #[error(transparent)]
    Claim(#[from] ClaimError),
    /// Quotes that were given.
    #[error(transparent)]
    Promise(#[from] PromiseError),
    /// Nothing is sold.
    #[error("the provider sells no service; configure at least one")]
    NoService,
    /// The folder can't be made.
    #[error("the folder {path} can't be made: {reason}", path = path.display())]
    Folder {
        /// The folder.
        path: PathBuf,
        /// What the system said.
        reason: String,
    },
}

impl ProviderError {
    /// The stable code of the error.
    #[must_use]
    pub fn code(&self) -> &'static str {
        match self {
            Self::Claim(e) => e.code(),
            Self::Promise(e) => e.code(),
            Self::OtherWallet { .. } => "TRB-5505",
            Self::Store(e) => e.code(),
            Self::Checker(e) => e.code(),
            Self::Ledger(e) => e.code(),
            Self::Service(e) => e.code,
            Self::Publish(e) => e.code(),
            Self::Node(e) => e.code(),
            Self::Transport(e) => e.code(),
            Self::OtherKey { .. } => "TRB-5501",
            Self::OtherPool { .. } => "TRB-5502",
            Self::NoService => "TRB-5503",
            Self::Folder { .. } => "TRB-5504",
        }
    }
}

/// Counters and state of a provider at one moment.
#[derive(Clone, Debug, Serialize)]
pub struct ProviderSnapshot {
    /// Tickets.
    pub tickets: CheckCounters,
    /// Each service's till.
    pub services: BTreeMap<String, TillCounters>,
    /// Leases of each service that is sold by the slot.
    pub leases: BTreeMap<String, LeaseCounters>,
    /// Name of the current offer.
    pub offer: Option<OfferId>,
    /// Its number.
    pub offer_sequence: Option<u64>,
    /// When it was published last; never while nobody is connected who relays it.
    pub offer_published: Option<UnixTime>,
    /// How often an offer was published since the start.
    pub offers_published: u64,
    /// What the operator's script said, where there is one.
    pub script: Option<ScriptCounters>,
    /// Streams and claims, where the provider claims.
    pub streams: Option<StreamSummary>,
}

/// A running provider.
pub struct Provider {
    checker: Arc<TicketChecker>,
    publisher: Arc<OfferPublisher>,
    negotiator: Arc<Negotiator>,
    capacity: Arc<CapacityPolicy>,
    script: Option<Arc<ScriptPolicy>>,
    services: Registry,
    tills: Vec<Till>,
    clock: Arc<dyn Clock>,
    node: NodeHandle,
    cared: Mutex<Option<UnixTime>>,
    claimer: Option<Arc<Claimer>>,
    tasks: Mutex<JoinSet<()>>,
}

impl fmt::Debug for Provider {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Provider").field("services", &self.services).finish_non_exhaustive()
    }
}

impl Provider {
    /// Opens the provider's state, starts its services, answers requests for quotes, and makes its first offer. [`Self::run`] publishes it.
    ///
    /// # Errors
    /// [`ProviderError`]; services that were started are stopped again.
    pub async fn start(config: ProviderConfig, parts: ProviderParts) -> Result<Self, ProviderError> {
        let ProviderParts { node, ledger, ticket_key, clock, services, claimer } = parts;
        let entries = services.entries();
        if entries.is_empty() {
            return Err(ProviderError::NoService);
        }
        if config.terms.pool != ledger.pool() {
            let name = |p: tributary_protocol::PoolId| format!("{} on chain {}", p.address, p.chain_id);
            return Err(ProviderError::OtherPool { terms: name(config.terms.pool), ledger: name(ledger.pool()) });
        }
        let expected = ledger.manifest().vk_hashes.ticket;
        if expected.0 != ticket_key.hash() {
            let found: String = ticket_key.hash().iter().map(|b| format!("{b:02x}")).collect();
            return Err(ProviderError::OtherKey { found: format!("0x{found}"), expected: expected.to_string() });
        }
        if let Some(claimer) = &claimer
            && claimer.wallet().address() != config.terms.payee
        {
            return Err(ProviderError::OtherWallet {
                wallet: claimer.wallet().address().to_string(),
                terms: config.terms.payee.to_string(),
            });
        }
        std::fs::create_dir_all(&config.folder)
            .map_err(|e| ProviderError::Folder { path: config.folder.clone(), reason: e.to_string() })?;
        // What may have been sold until now is judged by the chain as it is now, not as it was when the last process ended.
        ledger.sync().await?;

        let chain = Arc::new(LedgerView::new(ledger));
        let now = clock.now();
        // No ticket of a later slot can have been taken: its list was not final.
        let horizon = chain.latest_final_slot().map_or(UnixTime::ZERO, |slot| slot.start());
        let sequence = config.folder.join("offer-sequence");
        let on_missing = match config.on_missing {
            // Nobody can have paid before the first offer.
            OnMissing::NewPayee if sequence.exists() => OnMissing::Refuse,
            as_configured => as_configured,
        };
        let options = StoreOptions::new(on_missing, now, horizon);
        let path = config.folder.join("nullifiers.db");
        let store = NullifierStore::open(&path, config.terms.payee.owner(), options).await?;
        let pool_clock = chain.clock();
        let verifier = config.terms.verifier(pool_clock, node.peer_id());
        let checker =
            Arc::new(TicketChecker::new(verifier, ticket_key, chain, store, Arc::clone(&clock), config.batches)?);

        let signer: Arc<dyn Signer> = Arc::new(node.key().clone());
        let transport: Arc<dyn Broadcast> = Arc::new(node.clone());
        let secret = encryption_secret(node.key());
        let sold: Vec<_> = entries.iter().map(|entry| entry.id.clone()).collect();
        let promises = Promises::open(config.folder.join("promises.json"), &config.terms, &sold, now)?;
        let content = OfferContent {
            terms: config.terms.clone(),
            services: entries,
            addresses: config.addresses.clone().unwrap_or_else(|| listen_addresses(&node)),
            encryption_key: Some(secret.public()),
        };
        let publisher = Arc::new(OfferPublisher::new(
            content,
            config.offers,
            Arc::clone(&signer),
            Arc::clone(&transport),
            Arc::clone(&clock),
            sequence,
        ));

        let capacity = CapacityPolicy::new(config.capacity, config.capacity_per_source);
        let minute = Seconds::new(60).unwrap_or(Seconds::MAX);
        let (per_peer, sealed) = config.quotes_per_minute;
        let script = config.script.map(ScriptPolicy::new);
        let mut policies: Vec<Box<dyn Policy>> = vec![
            Box::new(FairnessPolicy::new(per_peer, sealed, minute)),
            Box::new(AttributesPolicy),
            Box::new(PricePolicy),
            Box::new(DurationPolicy),
            Box::new(config.start),
            Box::new(LoadPolicy),
        ];
        if let Some(script) = &script {
            policies.push(Box::new(Arc::clone(script)));
        }
        policies.push(Box::new(promises));
        // Last: what it finds free must still be free when it is reserved, and a script takes a while.
        policies.push(Box::new(Arc::clone(&capacity)));
        let negotiator = Arc::new(Negotiator::new(signer, pool_clock, Arc::clone(&clock), config.quotes, policies));

        let tills = services
            .iter()
            .map(|s| Till::new(s.entry().id, Arc::clone(&checker), s.free_tier(), publisher.current_id()))
            .collect();
        let provider = Self {
            checker,
            publisher,
            negotiator,
            capacity,
            script,
            services,
            tills,
            clock: Arc::clone(&clock),
            node,
            cared: Mutex::new(None),
            claimer,
            tasks: Mutex::new(JoinSet::new()),
        };
        if let Err(error) = provider.open(transport, clock, secret).await {
            provider.stop().await;
            return Err(error);
        }
        Ok(provider)
    }

    async fn open(
        &self,
        transport: Arc<dyn Broadcast>,
        clock: Arc<dyn Clock>,
        secret: tributary_market::sealed::EncryptionSecret,
    ) -> Result<(), ProviderError> {
        for (service, till) in self.services.iter().zip(&self.tills) {
            service.start(till.clone()).await?;
        }
        let leased = self.services.iter().zip(&self.tills);
        let leased = leased.filter_map(|(service, till)| Some((till.clone(), service.leases()?))).collect();
        if let Some(desk) = LeaseDesk::new(leased) {
            desk.serve(&self.node).await?;
        }
        serve_quotes(&self.node, Arc::clone(&self.negotiator)).await?;
        let handler = Arc::clone(&self.negotiator) as Arc<dyn SealedHandler>;
        let sealed = Arc::new(SealedServer::new(transport, clock, secret, handler, ServerLimits::default()));
        let listening = sealed.listen().await?;
        let mut offers = self.publisher.current();
        let negotiator = Arc::clone(&self.negotiator);
        let mut tasks = self.tasks.lock();
        tasks.spawn(async move {
            if let Err(error) = listening.serve().await {
                tracing::debug!(%error, "sealed requests for quotes end");
            }
        });
        tasks.spawn(async move {
            loop {
                negotiator.set_offer(offers.borrow_and_update().clone());
                if offers.changed().await.is_err() {
                    return;
                }
            }
        });
        Ok(())
    }

    /// Does what is due: turns the services, publishes the offer, forgets slots that are over, looks for streams. Called each second by [`Self::run`]; tests call it
    /// themselves. Claims on schedule are [`Self::claim_if_due`].
    ///
    /// # Errors
    /// The first failure; the rest is done all the same, and calling again tries again.
    pub async fn turn(&self) -> Result<(), ProviderError> {
        for service in self.services.iter() {
            service.turn().await;
        }
        let care = self.care().await;
        match self.publisher.turn().await {
            // Nobody is connected yet, say. The offer stands, and the next turn publishes it.
            Err(PublishError::Transport(error)) => {
                tracing::debug!(code = error.code(), %error, "the offer was not published");
            }
            other => other?,
        }
        care
    }

    /// A round of claims, now.
    ///
    /// # Errors
    /// [`ClaimError`]; `None` when the provider doesn't claim.
    pub async fn claim_now(&self) -> Result<Option<ClaimReport>, ClaimError> {
        match &self.claimer {
            Some(claimer) => claimer.claim().await.map(Some),
            None => Ok(None),
        }
    }

    /// A round of claims, if the schedule wants one.
    ///
    /// # Errors
    /// [`ClaimError`].
    pub async fn claim_if_due(&self) -> Result<Option<ClaimReport>, ClaimError> {
        match &self.claimer {
            Some(claimer) if claimer.is_due()? => claimer.claim().await.map(Some),
            _ => Ok(None),
        }
    }

    async fn care(&self) -> Result<(), ProviderError> {
        let now = self.clock.now();
        {
            let mut cared = self.cared.lock();
            if cared.is_some_and(|at| now >= at && now.since(at).get() < CARE_INTERVAL) {
                return Ok(());
            }
            *cared = Some(now);
        }
        self.checker.prune().await?;
        if let Some(claimer) = &self.claimer {
            let seen = claimer.look().await?;
            self.capacity.set_in_use(u32::try_from(seen.tickets_per_slot).unwrap_or(u32::MAX));
        }
        Ok(())
    }

    /// Works until `shutdown` is done, then stops. Failures are logged by code and tried again.
    pub async fn run(&self, shutdown: impl Future<Output = ()>) {
        let mut ticks = tokio::time::interval(Duration::from_secs(1));
        ticks.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
        let housekeeping = async {
            loop {
                ticks.tick().await;
                if let Err(error) = self.turn().await {
                    tracing::warn!(code = error.code(), %error, "the provider's housekeeping failed");
                }
            }
        };
        // A claim takes seconds to prove and to be mined; nothing else waits for it.
        let claiming = async {
            let mut ticks = tokio::time::interval(Duration::from_secs(15));
            ticks.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
            loop {
                ticks.tick().await;
                if let Err(error) = self.claim_if_due().await {
                    tracing::warn!(code = error.code(), %error, "claiming failed; the next round tries again");
                }
            }
        };
        tokio::select! {
            () = shutdown => {}
            () = housekeeping => {}
            () = claiming => {}
        }
        self.stop().await;
    }

    /// Paid uses that are being served.
    #[must_use]
    pub fn at_work(&self) -> u64 {
        let open = |till: &Till| {
            let counters = till.counters();
            counters.paid.saturating_sub(counters.served.saturating_add(counters.failed))
        };
        self.tills.iter().map(open).sum()
    }

    /// Closes the services and the nullifier store, and answers no more requests for quotes. Safe to call twice.
    pub async fn stop(&self) {
        let _ = self.node.unserve(negotiate::PROTOCOL).await;
        let _ = self.node.unserve(lease_protocol::PROTOCOL).await;
        for service in self.services.iter() {
            service.stop().await;
        }
        self.tasks.lock().abort_all();
        self.checker.store().close().await;
    }

    /// The checker, for services outside the registry.
    #[must_use]
    pub fn checker(&self) -> &Arc<TicketChecker> {
        &self.checker
    }

    /// The publisher.
    #[must_use]
    pub fn publisher(&self) -> &Arc<OfferPublisher> {
        &self.publisher
    }

    /// The claimer, where the provider claims.
    #[must_use]
    pub const fn claimer(&self) -> Option<&Arc<Claimer>> {
        self.claimer.as_ref()
    }

    /// Counters and state.
    #[must_use]
    pub fn snapshot(&self) -> ProviderSnapshot {
        let current = self.publisher.current();
        let offer = current.borrow();
        ProviderSnapshot {
            tickets: self.checker.counters(),
            services: self.tills.iter().map(|t| (t.service().to_string(), t.counters())).collect(),
            leases: self
                .services
                .iter()
                .filter_map(|s| s.leases())
                .map(|book| (book.service().to_string(), book.counters()))
                .collect(),
            offer: offer.as_ref().map(|o| o.id()),
            offer_sequence: offer.as_ref().map(|o| o.sequence),
            offer_published: self.publisher.published_at(),
            offers_published: self.publisher.published_count(),
            script: self.script.as_ref().map(|script| script.counters()),
            streams: self.claimer.as_ref().map(|c| c.summary()),
        }
    }
}

/// The node's addresses as an offer names them: without the peer id, which the offer's key tells.
fn listen_addresses(node: &NodeHandle) -> Vec<Multiaddr> {
    node.listen_addrs()
        .into_iter()
        .map(|address| address.into_iter().filter(|part| !matches!(part, Protocol::P2p(_))).collect())
        .take(8)
        .collect()
}
