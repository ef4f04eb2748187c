//! A provider that sells a backend and a buyer, real nodes that are connected, and tickets with proofs that really verify.

#![allow(dead_code, unreachable_pub, reason = "each test file uses a part of it")]

#[path = "../../../waku/tests/support/mod.rs"]
mod support;

use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use self::support::Source;
use crate::common::{S, World, at};
use futures::StreamExt as _;
use tributary_market::clock::ManualClock as MarketClock;
use tributary_market::node::connect;
use tributary_market::offer::ServiceId;
use tributary_provider::service::Service as _;
use tributary_provider::store::OnMissing;
use tributary_provider::till::Till;
use tributary_service_inference::backend::Backend;
use tributary_service_inference::{
    ChatEvent, ChatRequest, Counter, CreditPurse, FinishReason, InferenceClient, InferenceClientParts, InferenceConfig,
    InferenceError, InferenceService, Receipt, Sale, SpendingBook, SpendingCaps, Timing, Transport, Usage,
};
use tributary_waku::{ClusterId, ManualClock, Node, NodeConfig, NodeHandle, NodeKey, NodeLimits, Sharding, Timestamp};

/// A machine that does other work takes its time over a model.
const PATIENCE: Duration = Duration::from_secs(120);

pub(crate) async fn within<T>(what: &str, future: impl Future<Output = T>) -> T {
    tokio::time::timeout(PATIENCE, future).await.unwrap_or_else(|_| panic!("{what} took too long"))
}

pub(crate) fn service_id() -> ServiceId {
    "inference-test".parse().unwrap()
}

fn config(key: NodeKey) -> NodeConfig {
    NodeConfig {
        limits: NodeLimits::shared_address(),
        clock: Arc::new(ManualClock::new(Timestamp::from_secs(S as i64))),
        listen: vec!["/ip4/127.0.0.1/tcp/0".parse().unwrap()],
        ..NodeConfig::new(key, ClusterId(42), Sharding::Auto { shards: 8 })
    }
}

pub(crate) async fn node() -> NodeHandle {
    Node::spawn(config(NodeKey::generate())).await.unwrap()
}

pub(crate) struct Shop {
    _world: World,
    pub(crate) node: NodeHandle,
    pub(crate) service: InferenceService,
    pub(crate) till: Till,
    /// How long its buyers wait.
    pub(crate) timing: Timing,
    pub(crate) folder: tempfile::TempDir,
}

impl Shop {
    /// Sells `backend`, with room for so many answers at once.
    pub(crate) async fn open(backend: Arc<dyn Backend>, sale: Sale, max_answers: usize) -> Self {
        let dir = tempfile::tempdir().unwrap();
        let world = World::open(&dir.path().join("nullifiers.db"), OnMissing::NewPayee, S + 5).await;
        let node = node().await;
        let config = InferenceConfig { max_answers, ..InferenceConfig::new(service_id(), sale, dir.path().to_owned()) };
        let clock = Arc::new(MarketClock::new(at(S + 5)));
        let service = InferenceService::new(node.clone(), config, backend, clock).unwrap();
        let till = Till::new(service_id(), Arc::clone(&world.checker), service.free_tier(), world.offer.subscribe());
        service.start(till.clone()).await.unwrap();
        let timing = Timing { silence: Duration::from_secs(1), attempts: 3, patience: Duration::from_secs(20) };
        Self { _world: world, node, service, till, timing, folder: dir }
    }
}

static BUYERS: AtomicU64 = AtomicU64::new(1);

pub(crate) struct Buyer {
    pub(crate) client: InferenceClient,
    pub(crate) tickets: Arc<Source>,
    pub(crate) folder: tempfile::TempDir,
    model: String,
}

impl Buyer {
    pub(crate) async fn of(shop: &Shop, transport: Transport, caps: SpendingCaps) -> Self {
        let node = node().await;
        connect(&node, shop.node.peer_id(), &shop.node.listen_addrs()).await.unwrap();
        Self::at(shop, node, transport, caps)
    }

    /// On a node that meets the provider's by itself.
    pub(crate) fn at(shop: &Shop, node: NodeHandle, transport: Transport, caps: SpendingCaps) -> Self {
        let first = 100_000 * BUYERS.fetch_add(1, Ordering::SeqCst);
        let tickets = Arc::new(Source::new(MarketClock::new(at(S + 5)), first));
        let folder = tempfile::tempdir().unwrap();
        let client = Self::client(shop, node, Arc::clone(&tickets), folder.path(), transport, caps);
        let model = Sale::read(&shop.service.entry()).unwrap().model;
        Self { client, tickets, folder, model }
    }

    pub(crate) fn client(
        shop: &Shop,
        node: NodeHandle,
        tickets: Arc<Source>,
        folder: &Path,
        transport: Transport,
        caps: SpendingCaps,
    ) -> InferenceClient {
        let entry = shop.service.entry();
        let counter = Counter {
            provider: shop.node.peer_id(),
            addresses: shop.node.listen_addrs(),
            service: service_id(),
            sale: Sale::read(&entry).unwrap(),
        };
        InferenceClient::new(InferenceClientParts {
            node,
            counter,
            tickets,
            caps,
            book: Arc::new(SpendingBook::open(&folder.join("spending.json")).unwrap()),
            purse: Some(Arc::new(CreditPurse::open(&folder.join("credits.json")).unwrap())),
            transport,
            timing: shop.timing,
        })
        .unwrap()
    }

    pub(crate) fn used(&self) -> u64 {
        self.tickets.next() % 100_000
    }

    /// The whole answer to a question.
    pub(crate) async fn ask(&self, question: &str) -> Result<Answer, (String, InferenceError)> {
        self.chat(ChatRequest::ask(&*self.model, question)).await
    }

    /// The whole answer to a request.
    pub(crate) async fn chat(&self, request: ChatRequest) -> Result<Answer, (String, InferenceError)> {
        within("an answer", async {
            let mut text = String::new();
            let mut stream = match self.client.chat(request).await {
                Ok(stream) => stream,
                Err(error) => return Err((text, error)),
            };
            while let Some(event) = stream.next().await {
                match event {
                    Ok(ChatEvent::Delta(more)) => text.push_str(&more),
                    Ok(ChatEvent::Finished { reason, usage, receipt }) => {
                        return Ok(Answer { text, reason, usage, receipt });
                    }
                    Err(error) => return Err((text, error)),
                }
            }
            panic!("the answer ended without an end");
        })
        .await
    }
}

#[derive(Debug)]
pub(crate) struct Answer {
    pub(crate) text: String,
    pub(crate) reason: FinishReason,
    pub(crate) usage: Usage,
    pub(crate) receipt: Receipt,
}
