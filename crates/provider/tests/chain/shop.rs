//! What the tests share: a provider with one service, and a buyer with a stream to it.

use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use async_trait::async_trait;
use parking_lot::Mutex;
use tributary_ledger::Ledger;
use tributary_market::clock::Clock;
use tributary_market::offer::{
    self, Attributes, LeaseSale, RateClass, RateClassId, ServiceId, StoreAttributes, UsePrice, UseUnit,
};
use tributary_market::ticket::PreparedTicket;
use tributary_protocol::ticket::OfferTerms;
use tributary_protocol::{Circuit, Price, ProviderDigest, Seconds, Slot, UnixTime};
use tributary_provider::claims::Claimer;
use tributary_provider::daemon::{Provider, ProviderConfig, ProviderError, ProviderParts};
use tributary_provider::free::FreeTierLimits;
use tributary_provider::lease::{LeaseBook, LeaseRules};
use tributary_provider::offers::SaleTerms;
use tributary_provider::service::{Registry, Service, ServiceError};
use tributary_provider::till::Till;
use tributary_waku::{ClusterId, Node, NodeConfig, NodeHandle, NodeKey, NodeLimits, Sharding};
use tributary_wallet::tickets::{MadeTicket, PayingStream, TicketMaker};
use tributary_wallet::{Intent, OpenStream, Wallet};

use crate::net::{L, MARGIN, Net, amount, prover, rate};

/// The chain's time.
#[derive(Debug)]
pub(crate) struct ChainTime(pub(crate) Ledger);

impl Clock for ChainTime {
    fn now(&self) -> UnixTime {
        self.0.head_time().unwrap()
    }
}

/// Keeps its till for the test to use.
#[derive(Debug)]
pub(crate) struct Counter {
    till: Mutex<Option<Till>>,
    book: Arc<LeaseBook>,
    turns: AtomicU64,
}

/// Leases a page for a ticket.
impl Default for Counter {
    fn default() -> Self {
        let rules = LeaseRules {
            sale: LeaseSale { unit: UseUnit::Page, max_quota: 10, grace: Seconds::new(10).unwrap() },
            price: UsePrice { unit: UseUnit::Page, quantity: 1, tickets: 1 },
            max_leases: 10,
        };
        let book = Arc::new(LeaseBook::new(ServiceId::store(), rules));
        Self { till: Mutex::default(), book, turns: AtomicU64::new(0) }
    }
}

impl Counter {
    pub(crate) fn turns(&self) -> u64 {
        self.turns.load(Ordering::SeqCst)
    }

    pub(crate) fn till(&self) -> Till {
        self.till.lock().clone().expect("the service was started")
    }
}

#[async_trait]
impl Service for Counter {
    fn entry(&self) -> offer::Service {
        offer::Service {
            id: ServiceId::store(),
            uses: vec![UsePrice { unit: UseUnit::Page, quantity: 1, tickets: 1 }],
            attributes: Attributes::Store(StoreAttributes {
                retention: Seconds::new(3600).unwrap(),
                pubsub_topics: vec!["/waku/2/rs/42/7".to_owned()],
                content_topics: vec![],
                page_size: 20,
            }),
        }
    }
    fn free_tier(&self) -> FreeTierLimits {
        FreeTierLimits::NONE
    }
    async fn start(&self, till: Till) -> Result<(), ServiceError> {
        *self.till.lock() = Some(till);
        Ok(())
    }
    async fn stop(&self) {
        *self.till.lock() = None;
    }
    fn leases(&self) -> Option<Arc<LeaseBook>> {
        Some(Arc::clone(&self.book))
    }
    async fn turn(&self) {
        self.turns.fetch_add(1, Ordering::SeqCst);
    }
}

pub(crate) const PATIENCE: Duration = Duration::from_secs(30);

pub(crate) async fn node() -> NodeHandle {
    let config = NodeConfig {
        listen: vec!["/ip4/127.0.0.1/tcp/0".parse().unwrap()],
        limits: NodeLimits::shared_address(),
        ..NodeConfig::new(NodeKey::generate(), ClusterId(42), Sharding::Auto { shards: 8 })
    };
    Node::spawn(config).await.unwrap()
}

pub(crate) struct Shop {
    pub(crate) net: Net,
    pub(crate) payer: Wallet,
    pub(crate) payee: Wallet,
    pub(crate) node: NodeHandle,
}

impl Shop {
    /// A payer with money, and a payee with a node.
    pub(crate) async fn new() -> Self {
        let net = Net::start().await;
        let (payer, payee) = (net.wallet(1).await, net.wallet(2).await);
        net.deposit(&payer, 0, 1_000_000).await;
        Self { net, payer, payee, node: node().await }
    }

    /// A ticket costs 100, and a stream must have paid 600.
    pub(crate) fn terms(&self) -> SaleTerms {
        let seconds = |s| Seconds::new(s).unwrap();
        let class = RateClass { id: RateClassId(1), rate: rate(10), min_duration: seconds(L), max_duration: None };
        SaleTerms {
            payee: self.payee.address(),
            pool: self.net.ledger.pool(),
            ticket_price: Price::new(100).unwrap(),
            min_streamed: amount(600),
            rate_classes: vec![class],
            slot_carry: seconds(20),
            root_depth: 1,
        }
    }

    pub(crate) fn config(&self) -> ProviderConfig {
        ProviderConfig::new(self.net.dir.path().join("provider"), self.terms())
    }

    /// Starts the provider; the counter's till is open when it returns.
    pub(crate) async fn open(&self) -> (Provider, Arc<Counter>) {
        self.open_with(self.config(), None).await.unwrap()
    }

    pub(crate) async fn open_with(
        &self,
        config: ProviderConfig,
        claimer: Option<Arc<Claimer>>,
    ) -> Result<(Provider, Arc<Counter>), ProviderError> {
        let counter = Arc::new(Counter::default());
        let mut services = Registry::new();
        services.add(Arc::clone(&counter) as Arc<dyn Service>)?;
        let parts = ProviderParts {
            node: self.node.clone(),
            ledger: self.net.ledger.clone(),
            ticket_key: prover().verifying_key(Circuit::Ticket).unwrap(),
            clock: self.clock(),
            services,
            claimer,
        };
        Ok((Provider::start(config, parts).await?, counter))
    }

    pub(crate) fn clock(&self) -> Arc<dyn Clock> {
        Arc::new(ChainTime(self.net.ledger.clone()))
    }

    pub(crate) fn digest(&self) -> ProviderDigest {
        ProviderDigest::of_peer_id(&self.node.peer_id().to_bytes())
    }

    pub(crate) fn offer(&self) -> OfferTerms {
        let terms = self.terms();
        OfferTerms { payee: terms.payee.owner(), price: terms.ticket_price, min_streamed: terms.min_streamed }
    }

    /// Opens a stream that pays 10 a second, 6 tickets a slot, since this slot's start; returns it when its tickets count.
    pub(crate) async fn stream(&self) -> PayingStream {
        let stream = OpenStream { offer: Some(self.offer()), ..self.net.stream_to(&self.payee, 10, 60).await };
        self.net.run(&self.payer, 0, Intent::Open(stream)).await;
        let commitment = self.payer.payer_streams(false).await.unwrap()[0].commitment;
        self.advance(MARGIN).await;
        self.advance(MARGIN).await;
        self.payer.paying_stream(commitment, self.offer(), self.digest(), 1).await.unwrap()
    }

    pub(crate) async fn maker(&self) -> TicketMaker {
        self.payer.tickets(&self.path("tickets.sqlite")).await.unwrap()
    }

    pub(crate) fn path(&self, name: &str) -> std::path::PathBuf {
        Path::new(self.net.dir.path()).join(name)
    }

    pub(crate) fn slot(&self) -> Slot {
        self.net.ledger.clock().slot_of(self.net.ledger.head_time().unwrap()).unwrap()
    }

    pub(crate) async fn advance(&self, seconds: u64) {
        self.net.advance(seconds).await;
        self.net.sync(&[&self.payer, &self.payee]).await;
    }
}

/// The ticket as a proof of payment for `request`.
pub(crate) fn pay(shop: &Shop, ticket: &MadeTicket, request: &[u8]) -> Vec<u8> {
    PreparedTicket { statement: ticket.statement.clone(), proof: ticket.proof, key: ticket.key.clone() }
        .pay(&shop.digest(), request)
}
