//! Lightpush and Filter bought on a real chain: real contracts, proofs, nodes and provider; the buyer finds, chooses, agrees, opens a stream and uses it.
//!
//! Needs the circuits' artefacts and the pinned JavaScript tools: run `./script/setup` first.

#[allow(dead_code, reason = "the wallet's tests use more of it")]
#[path = "../../../crates/wallet/tests/wallet/net.rs"]
mod net;
mod session;
#[allow(dead_code, reason = "the provider's tests use more of it")]
#[path = "../../../crates/provider/tests/chain/shop.rs"]
mod shop;

mod ratings;

use std::collections::{BTreeMap, HashMap};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use alloy::primitives::Address;
use async_trait::async_trait;
use futures::FutureExt as _;
use tributary_client::{Buyer, BuyerParts, ClientStore, LeaseHealth, PaidFilter, Sought, Want, open_reputation};
use tributary_ledger::Clock;
use tributary_market::choose::Preset;
use tributary_market::node::encryption_secret;
use tributary_market::offer::{Offer, ServiceId};
use tributary_market::relay::{
    Announcement, IdempotencyKey, RelayEndpoint, RelayFee, RelayHandler, RelayOperation, RelayQuote, RelayStatus,
    Submission,
};
use tributary_market::rpc::{SealedServer, ServerLimits};
use tributary_market::ticket::{Reason, Verdict};
use tributary_market::topics::ContentTopic as MarketTopic;
use tributary_market::transport::{Broadcast, Keep};
use tributary_protocol::{Amount, Circuit, PoolId, Price, Seconds, UnixTime};
use tributary_provider::daemon::{Provider, ProviderConfig, ProviderParts};
use tributary_provider::free::FreeTierLimits;
use tributary_provider::offers::SaleTerms;
use tributary_provider::service::Registry;
use tributary_service_waku::{FilterService, FilterServiceConfig, LightpushService, LightpushServiceConfig};
use tributary_waku::{
    ClusterId, ContentTopic, FilterConfig, FilterError, FilterStatus, LightPushConfig, LightPushError,
    LightPushRequest, LightPushStatus, Node, NodeConfig, NodeHandle, NodeKey, NodeLimits, PubsubTopic, Sharding,
    WakuMessage,
};
use tributary_wallet::{DirectSubmitter, Outcome};

use crate::net::{L, MARGIN, amount, prover};
use crate::shop::Shop;

const PATIENCE: Duration = Duration::from_secs(60);
const GRACE: u64 = 10;

/// The chain's time.
#[derive(Debug)]
struct Head(tributary_ledger::Ledger);

impl Clock for Head {
    fn now(&self) -> u64 {
        self.0.head().unwrap().timestamp
    }
}

fn topics() -> Vec<ContentTopic> {
    vec!["/app/20/sometopic/someencoding".parse().unwrap()]
}

fn seconds(s: u64) -> Seconds {
    Seconds::new(s).unwrap()
}

async fn within<T>(what: &str, future: impl Future<Output = T>) -> T {
    tokio::time::timeout(PATIENCE, future).await.unwrap_or_else(|_| panic!("{what} took too long"))
}

async fn node(serves: bool) -> NodeHandle {
    Node::spawn(NodeConfig {
        listen: vec!["/ip4/127.0.0.1/tcp/0".parse().unwrap()],
        limits: NodeLimits::shared_address(),
        filter: serves.then(FilterConfig::default),
        lightpush: serves.then(LightPushConfig::default),
        ..NodeConfig::new(NodeKey::generate(), ClusterId(42), Sharding::Auto { shards: 8 })
    })
    .await
    .unwrap()
}

/// Sells Filter and Lightpush of a node; a ticket costs `price`.
async fn sell(shop: &Shop, seller: &NodeHandle, folder: &str, price: u128) -> Arc<Provider> {
    let shards: Vec<String> =
        seller.shards().iter().map(|shard| PubsubTopic::new(seller.cluster(), *shard).to_string()).collect();
    let mut services = Registry::new();
    let free = FreeTierLimits::NONE;
    let filter = FilterServiceConfig { grace: seconds(GRACE), free, ..FilterServiceConfig::new(shards.clone()) };
    services.add(Arc::new(FilterService::new(seller.clone(), filter).unwrap())).unwrap();
    let lightpush = LightpushServiceConfig { free, ..LightpushServiceConfig::new(shards) };
    services.add(Arc::new(LightpushService::new(seller.clone(), lightpush).unwrap())).unwrap();
    sell_all(shop, seller, folder, price, services).await
}

/// Sells these services on a node; a ticket costs `price`.
async fn sell_all(shop: &Shop, seller: &NodeHandle, folder: &str, price: u128, services: Registry) -> Arc<Provider> {
    let parts = ProviderParts {
        node: seller.clone(),
        ledger: shop.net.ledger.clone(),
        ticket_key: prover().verifying_key(Circuit::Ticket).unwrap(),
        clock: shop.clock(),
        services,
        claimer: None,
    };
    let terms = SaleTerms { ticket_price: Price::new(price).unwrap(), ..shop.terms() };
    let config = ProviderConfig::new(shop.path(folder), terms);
    Arc::new(Provider::start(config, parts).await.unwrap())
}

/// A provider of both services on a chain, a buyer that knows only an address to begin with, and a node that relays.
struct Market {
    shop: Shop,
    provider: Arc<Provider>,
    seller: NodeHandle,
    buyer: Buyer,
    neighbour: NodeHandle,
}

impl Market {
    async fn new() -> Self {
        let shop = Shop::new().await;
        // Blocks since before the running slot's notice: else its stopped list isn't seen to be final.
        for _ in 0..8 {
            shop.advance(MARGIN).await;
        }
        let (seller, neighbour, client) = (node(true).await, node(false).await, node(false).await);
        for other in [&neighbour, &client] {
            other.dial_within(&seller.listen_addrs()[0], PATIENCE).await.unwrap();
        }
        let provider = sell(&shop, &seller, "provider", 100).await;
        let parts = BuyerParts {
            node: client,
            wallet: shop.payer.clone(),
            tickets: shop.maker().await,
            store: ClientStore::open(&shop.path("client.sqlite")).await.unwrap(),
            reputation: open_reputation(&shop.path("reputation.sqlite")).await.unwrap(),
            clock: Arc::new(Head(shop.net.ledger.clone())),
        };
        let buyer = Buyer::new(parts).await.unwrap();
        Self { shop, provider, seller, buyer, neighbour }
    }

    fn shard(&self) -> PubsubTopic {
        self.seller.pubsub_topic(&topics()[0]).unwrap()
    }

    /// The shard of offers and ratings.
    fn shard_of_market(&self) -> PubsubTopic {
        self.seller.pubsub_topic(&ContentTopic::opaque(MarketTopic::ratings().as_str())).unwrap()
    }

    fn want(service: Sought) -> Want {
        Want {
            service,
            content_topics: topics(),
            duration: seconds(3 * L),
            max_price: None,
            preset: Preset::Cheapest,
            ignore: Vec::new(),
        }
    }

    /// Hears offers until somebody sells it.
    async fn find(&self, want: &Want) {
        let publishing = async {
            loop {
                // The mesh may just be forming; nobody hears the offer then.
                let _ = self.provider.publisher().publish_now().await;
                tokio::time::sleep(Duration::from_millis(100)).await;
            }
        };
        tokio::select! {
            found = self.buyer.find(want, true, PATIENCE) => { found.unwrap(); }
            () = publishing => {}
        }
    }

    /// From choice to a stream whose tickets count.
    async fn buy(&self, want: &Want) {
        let told = Mutex::new(Vec::new());
        let tell = |line: &str| told.lock().unwrap().push(line.to_owned());
        let (agreed, explanation) = self.buyer.agree(want, &tell).await.unwrap();
        let (choice, terms) = agreed.unwrap_or_else(|| panic!("{explanation}"));
        assert_eq!(choice.offer.peer_id(), self.seller.peer_id());
        assert_eq!(terms.service, want.service.id().to_string());
        let opened = self.buyer.open(&self.shop.net.direct(0), true).await.unwrap();
        assert!(matches!(opened.outcome, Outcome::Confirmed { .. }));
        self.shop.net.insert().await;
        self.shop.advance(MARGIN / 2).await;
        self.shop.net.mine(2).await;
        self.buyer.wait_until_usable(opened.commitment, 1, PATIENCE).await.unwrap();
        let (_, stream, offer) = self.buyer.stream_for(None, Some(&want.service.id())).await.unwrap();
        let first = self.buyer.first_slot(&stream, &offer).unwrap();
        assert!(first.start() <= self.now(), "a hurried stream pays for the running slot");
    }

    fn now(&self) -> UnixTime {
        self.shop.net.ledger.head_time().unwrap()
    }

    fn message(&self, text: &str) -> WakuMessage {
        WakuMessage::new(topics()[0].clone(), text.as_bytes().to_vec(), self.neighbour.now())
    }

    /// The offer that refusals name.
    fn offer(&self) -> tributary_market::offer::OfferId {
        self.buyer.directory().offer(self.seller.peer_id()).unwrap().id()
    }

    /// A refusal that asks for payment and names the offer to pay by.
    fn asks_for_payment(&self, desc: &str) {
        match Verdict::read_named(desc) {
            Verdict::Refused { reason: Reason::PaymentRequired, offer, .. } => assert_eq!(offer, Some(self.offer())),
            other => panic!("{other:?}"),
        }
    }

    /// Somebody who sells the same for less, and isn't there. Its offer is published on the network.
    async fn absent_provider(&self) -> String {
        let gone = node(true).await;
        let offer = self.buyer.directory().offer(self.seller.peer_id()).unwrap();
        let cheap = Offer {
            ticket_price: Price::new(offer.ticket_price.get() / 2).unwrap(),
            multiaddrs: gone.listen_addrs().iter().map(plain).collect(),
            sequence: 1,
            encryption_key: None,
            ..offer.offer().clone()
        };
        let signed = cheap.sign(gone.key()).unwrap();
        let id = gone.peer_id();
        gone.shutdown().await;
        let known = async {
            while self.buyer.directory().offer(id).is_err() {
                let bytes = signed.as_bytes().to_vec();
                let _ = Broadcast::publish(&self.neighbour, &MarketTopic::offers(), bytes, Keep::Stored).await;
                self.buyer.directory().discover(tokio::time::sleep(Duration::from_millis(100))).await.unwrap();
            }
        };
        within("the absent provider's offer", known).await;
        id.to_string()
    }
}

/// An address without its `/p2p` part.
fn plain(address: &tributary_waku::Multiaddr) -> tributary_waku::Multiaddr {
    address.iter().filter(|part| !matches!(part, libp2p::multiaddr::Protocol::P2p(_))).collect()
}

#[tokio::test(flavor = "multi_thread")]
async fn a_message_is_published_for_a_ticket_of_a_real_stream_and_never_without() {
    let market = Market::new().await;
    let want = Market::want(Sought::Lightpush { messages: 2, payload: 100 });
    market.find(&want).await;
    let mut arrived = market.neighbour.subscribe(topics()).unwrap();

    let unpaid = LightPushRequest::new(Some(market.shard()), market.message("unpaid"));
    market.buyer.connect(&market.buyer.directory().offer(market.seller.peer_id()).unwrap()).await.unwrap();
    let push = async |request: &LightPushRequest| match market
        .buyer
        .node()
        .lightpush(market.seller.peer_id(), request)
        .await
    {
        Err(LightPushError::Status { status, desc }) => (status, desc),
        other => panic!("not refused: {other:?}"),
    };
    let (status, desc) = push(&unpaid).await;
    assert_eq!(status, LightPushStatus::PAYMENT_REQUIRED);
    market.asks_for_payment(&desc);

    // What it doesn't sell is not bought: a larger payload than the offer takes.
    let large = Market::want(Sought::Lightpush { messages: 2, payload: 10_000_000 });
    let (choice, explanation) = market.buyer.choose(&large).await.unwrap();
    assert!(choice.is_none());
    assert!(explanation.to_string().contains("lacks payload 10000000"), "{explanation}");

    // The cheapest is gone: it is passed over.
    let gone = market.absent_provider().await;
    let (choice, _) = market.buyer.choose(&want).await.unwrap();
    assert_eq!(choice.unwrap().offer.peer_id().to_string(), gone);
    market.buy(&want).await;

    let (paid, _) = market.buyer.paid_lightpush(None).await.unwrap();
    let request = LightPushRequest::new(Some(market.shard()), market.message("paid"));
    let pushed = within("a paid push", paid.push(request)).await.unwrap();
    assert!(pushed.pushed.relay_peers.is_some_and(|peers| peers > 0));
    let message = within("the message's way to the neighbour", arrived.recv()).await.unwrap();
    assert_eq!(&message.message.payload[..], b"paid", "the first to arrive is the paid one");

    let (status, desc) = push(&pushed.request).await;
    assert_eq!(status, LightPushStatus::PAYMENT_REQUIRED);
    assert!(matches!(Verdict::read_named(&desc), Verdict::Refused { reason: Reason::AlreadyServed, .. }), "{desc}");
}

/// What a relayer does with a transaction.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Manner {
    Refuses,
    Sends,
}

struct Relayer {
    manner: Manner,
    fee: Amount,
    account: Address,
    pool: Address,
    /// One after the other: they have one account.
    sender: tokio::sync::Mutex<DirectSubmitter>,
    done: Mutex<HashMap<IdempotencyKey, RelayStatus>>,
}

#[async_trait]
impl RelayHandler for Relayer {
    async fn quote(
        &self,
        pool: PoolId,
        operation: RelayOperation,
        with_insertion: bool,
    ) -> Result<RelayQuote, RelayStatus> {
        let (fee, account) = (self.fee, self.account);
        Ok(RelayQuote { quote_id: [1; 16], pool, operation, with_insertion, fee, account, valid_until: UnixTime::MAX })
    }

    async fn submit(&self, submission: Submission) -> RelayStatus {
        let status = match self.manner {
            Manner::Refuses => {
                RelayStatus::Rejected { code: "paused".into(), description: "not today".into(), retry: false }
            }
            Manner::Sends => match self.sender.lock().await.call(self.pool, submission.call.into()).await {
                Outcome::Confirmed { tx_hash, block } => {
                    RelayStatus::Confirmed { transaction: tx_hash, block_number: block, inserted: false }
                }
                other => panic!("{other:?}"),
            },
        };
        self.done.lock().unwrap().insert(submission.key, status.clone());
        status
    }

    async fn status(&self, key: IdempotencyKey) -> RelayStatus {
        let unknown = RelayStatus::Unknown { description: "never seen".into() };
        self.done.lock().unwrap().get(&key).cloned().unwrap_or(unknown)
    }
}

impl Market {
    /// Starts a relayer and makes it known to the buyer.
    async fn relayer(&self, manner: Manner, fee: u128) -> (NodeHandle, Arc<Relayer>) {
        let node = node(false).await;
        node.dial_within(&self.seller.listen_addrs()[0], PATIENCE).await.unwrap();
        let (clock, fee) = (self.shop.clock(), amount(fee));
        let handler = Arc::new(Relayer {
            manner,
            fee,
            account: self.shop.net.account(6),
            pool: self.shop.net.manifest.pool,
            // Not the account that inserts: each counts its own nonces.
            sender: self.shop.net.direct(6).into(),
            done: Mutex::default(),
        });
        let secret = encryption_secret(node.key());
        let endpoint = RelayEndpoint::new(Arc::new(node.key().clone()), clock.clone(), handler.clone());
        let limits = ServerLimits::default();
        let server =
            SealedServer::new(Arc::new(node.clone()), clock.clone(), secret.clone(), Arc::new(endpoint), limits);
        tokio::spawn(Arc::new(server).listen().await.unwrap().serve());
        let now = clock.now();
        let fees = RelayFee { alone: fee, with_insertion: fee };
        let announcement = Announcement {
            encryption_key: secret.public(),
            pool: self.shop.net.ledger.pool(),
            account: handler.account,
            fees: BTreeMap::from([(RelayOperation::Transact, fees), (RelayOperation::Close, fees)]),
            sequence: 1,
            issued_at: now,
            expires_at: now.saturating_add(seconds(3600)),
        };
        let signed = announcement.sign(node.key()).unwrap();
        let known = self.buyer.relayers().len();
        let heard = async {
            while self.buyer.relayers().len() == known {
                let _ = Broadcast::publish(&node, &MarketTopic::relayers(), signed.clone(), Keep::Stored).await;
                self.buyer.directory().discover(tokio::time::sleep(Duration::from_millis(100))).await.unwrap();
            }
        };
        within("an announcement", heard).await;
        (node, handler)
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_relayer_that_went_away_and_one_that_refuses_are_passed_over() {
    let market = Market::new().await;
    let want = Market::want(Sought::Lightpush { messages: 1, payload: 100 });
    market.find(&want).await;
    let (gone, _) = market.relayer(Manner::Sends, 500).await;
    gone.shutdown().await;
    let (_refusing, refusing) = market.relayer(Manner::Refuses, 600).await;
    let told = Mutex::new(Vec::new());
    let tell = |line: &str| told.lock().unwrap().push(line.to_owned());
    market.buyer.agree(&want, &tell).await.unwrap().0.unwrap();
    let (_sending, sending) = market.relayer(Manner::Sends, 700).await;

    let opened = within("opening", market.buyer.open_relayed(amount(1000), true, &tell)).await.unwrap();
    assert!(matches!(opened.outcome, Outcome::Confirmed { .. }));
    assert_eq!(opened.fee, amount(700), "the first two are cheaper and failed");
    assert!(matches!(refusing.done.lock().unwrap().values().next(), Some(RelayStatus::Rejected { .. })));
    assert!(matches!(sending.done.lock().unwrap().values().next(), Some(RelayStatus::Confirmed { .. })));
    assert!(told.lock().unwrap().iter().any(|line| line.contains("not today")), "{told:?}");

    // Both attempts spend the same notes; the one that was mined is the stream that pays.
    market.shop.net.insert().await;
    market.shop.payer.sync().await.unwrap();
    let streams = market.shop.payer.payer_streams(false).await.unwrap();
    assert_eq!(streams.iter().map(|stream| stream.commitment).collect::<Vec<_>>(), [opened.commitment]);
    let (purchase, _, _) = market.buyer.stream(None).await.unwrap();
    assert_eq!(purchase.commitment, opened.commitment.to_be_bytes());
    assert_eq!(purchase.provider, market.seller.peer_id());
}

/// The next message's text.
async fn next(filter: &mut PaidFilter) -> String {
    let message = within("a push", filter.recv()).await.unwrap();
    String::from_utf8(message.message.payload.to_vec()).unwrap()
}

#[tokio::test(flavor = "multi_thread")]
async fn a_filter_delivers_while_its_lease_is_paid_and_is_cut_when_it_ends() {
    let market = Market::new().await;
    let want = Market::want(Sought::Filter { topics: 1 });
    market.find(&want).await;
    market.buyer.connect(&market.buyer.directory().offer(market.seller.peer_id()).unwrap()).await.unwrap();
    let refused = market.buyer.node().filter_subscribe(market.seller.peer_id(), market.shard(), topics()).await;
    match refused {
        Err(FilterError::Status { status, desc }) => {
            assert_eq!(status, FilterStatus::PAYMENT_REQUIRED);
            assert!(desc.contains(&format!("offer={}", market.offer())), "{desc}");
        }
        other => panic!("not refused: {other:?}"),
    }
    let crowded = Market::want(Sought::Filter { topics: 101 });
    let (choice, explanation) = market.buyer.choose(&crowded).await.unwrap();
    assert!(choice.is_none() && explanation.to_string().contains("lacks topics 101 against 100"), "{explanation}");
    market.buy(&want).await;

    let open = market.buyer.paid_filter(None, market.shard(), topics());
    let mut filter = within("a leased subscription", open).await.unwrap();
    let mut health = filter.lease().buyer().watch_health();
    let leased = |health: &LeaseHealth| match health {
        LeaseHealth::Held { until } => until.get(),
        other => panic!("{other:?}"),
    };
    let first_end = leased(&health.borrow_and_update());
    let mut heard = market.seller.subscribe(topics()).unwrap();
    market.neighbour.wait_for_mesh(market.shard(), 1, PATIENCE).await.unwrap();
    market.neighbour.publish(market.message("first slot")).await.unwrap();
    assert_eq!(next(&mut filter).await, "first slot");
    assert_eq!(within("relay", heard.recv()).await.unwrap().message.payload, "first slot");

    // The lease is renewed by itself, and the subscription lives through the end of the slot.
    let ahead = first_end - GRACE - 5 - market.now().get();
    market.shop.advance(ahead).await;
    let renewed = within(
        "a renewal",
        health.wait_for(|now| matches!(now, LeaseHealth::Held { until } if until.get() > first_end)),
    );
    let second_end = leased(&renewed.await.unwrap());
    assert_eq!(second_end, first_end + L);
    market.shop.advance(first_end + 1 - market.now().get()).await;
    market.provider.turn().await.unwrap();
    market.neighbour.publish(market.message("second slot")).await.unwrap();
    assert_eq!(next(&mut filter).await, "second slot");
    assert_eq!(within("relay", heard.recv()).await.unwrap().message.payload, "second slot");

    // The stream is over, and the grace after its last slot too: nothing is delivered any more.
    let (_, stream, _) = market.buyer.stream_for(None, Some(&ServiceId::filter())).await.unwrap();
    market.shop.advance(stream.note.terms.end().get() + GRACE + 1 - market.now().get()).await;
    within("a missed slot", health.wait_for(|now| matches!(now, LeaseHealth::Missed { .. }))).await.unwrap();
    market.provider.turn().await.unwrap();
    assert_eq!(market.seller.filter_subscribers(), []);
    market.neighbour.publish(market.message("unpaid")).await.unwrap();
    assert_eq!(within("relay", heard.recv()).await.unwrap().message.payload, "unpaid");
    assert_eq!(market.seller.filter_subscribers(), [], "a subscription asked for again is refused");
    assert!(filter.recv().now_or_never().is_none(), "nothing was pushed");
    assert!(*filter.lease().buyer().watch_missed().borrow() >= 1);
}
