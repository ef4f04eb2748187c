//! A provider that is killed while it is paid: no ticket counts twice, no message that was paid is missing from its archive, and buyers come
//! back by themselves.

#[path = "../../../provider/tests/common/mod.rs"]
mod common;
mod support;

use std::collections::HashSet;
use std::net::SocketAddr;
use std::path::Path;
use std::process::Stdio;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use common::{S, World, at};
use support::Source;
use tokio::io::{AsyncBufReadExt as _, AsyncReadExt as _, AsyncWriteExt as _, BufReader};
use tokio::net::{TcpListener, TcpStream};
use tokio::process::{Child, Command};
use tokio::sync::watch;
use tributary_client::{
    ClientError, LeaseBuyer, LeasePlan, PagePrice, PaidFilter, PaidLightpush, PaidPush, PaidStore, TicketSource,
};
use tributary_market::clock::ManualClock as MarketClock;
use tributary_market::offer::ServiceId;
use tributary_market::ticket::{Reason, Verdict};
use tributary_market::transport::TransportError;
use tributary_protocol::Seconds;
use tributary_provider::free::FreeTierLimits;
use tributary_provider::lease::LeaseDesk;
use tributary_provider::service::Service;
use tributary_provider::store::OnMissing;
use tributary_provider::till::Till;
use tributary_service_waku::{
    Closed, FilterService, FilterServiceConfig, LightpushService, LightpushServiceConfig, StoreConfig, StoreService,
};
use tributary_waku::{
    ArchiveConfig, ClusterId, ContentTopic, FilterConfig, FilterError, FilterStatus, LightPushConfig, LightPushError,
    LightPushRequest, LightPushStatus, ManualClock, MessageHash, Multiaddr, Node, NodeConfig, NodeHandle, NodeKey,
    NodeLimits, PubsubTopic, ServeLimits, Sharding, StoreConfig as NodeStoreConfig, StoreError, StoreQueryRequest,
    StoreStatus, Timestamp, WakuMessage, multiaddr,
};

const PATIENCE: Duration = Duration::from_secs(60);
const NOW: Timestamp = Timestamp::from_secs(S as i64);
const BUYERS: usize = 3;
/// Messages of each buyer.
const MESSAGES: usize = 80;
const KILLS: usize = 3;
const CHILD: &str = "TRIBUTARY_TEST_PROVIDER_CHILD";

fn shard() -> PubsubTopic {
    "/waku/2/rs/42/7".parse().unwrap()
}

fn topic() -> ContentTopic {
    "/app/1/paid/proto".parse().unwrap()
}

fn seconds(s: u64) -> Seconds {
    Seconds::new(s).unwrap()
}

fn key() -> NodeKey {
    NodeKey::from_bytes([7; 32]).unwrap()
}

async fn within<T>(what: &str, future: impl Future<Output = T>) -> T {
    tokio::time::timeout(PATIENCE, future).await.unwrap_or_else(|_| panic!("{what} took too long"))
}

fn config(key: NodeKey) -> NodeConfig {
    NodeConfig {
        limits: NodeLimits::shared_address(),
        clock: Arc::new(ManualClock::new(NOW)),
        ..NodeConfig::new(key, ClusterId(42), Sharding::Auto { shards: 8 })
    }
}

/// A node that buys: it relays nothing.
async fn light() -> NodeHandle {
    Node::spawn(NodeConfig { relay: false, ..config(NodeKey::generate()) }).await.unwrap()
}

/// A provider's node before anything is sold.
async fn closed(folder: &Path, listen: Multiaddr, neighbour: Multiaddr) -> NodeHandle {
    let closed = Arc::new(Closed);
    let limits = ServeLimits { rate_per_peer: None, ..LightPushConfig::default().limits };
    Node::spawn(NodeConfig {
        listen: vec![listen],
        static_peers: vec![neighbour],
        archive: Some(ArchiveConfig::new(folder.join("messages.db"))),
        store: Some(NodeStoreConfig { gate: Some(closed.clone()), ..NodeStoreConfig::default() }),
        filter: Some(FilterConfig { gate: Some(closed.clone()), ..FilterConfig::default() }),
        lightpush: Some(LightPushConfig { limits, gate: Some(closed) }),
        ..config(key())
    })
    .await
    .unwrap()
}

/// A provider on what is in its folder, selling Store, Filter and lightpush.
struct Shop {
    node: NodeHandle,
    tills: [Till; 3],
    _services: (Arc<StoreService>, FilterService, LightpushService),
}

impl Shop {
    async fn open(folder: &Path, listen: Multiaddr, neighbour: Multiaddr, on_missing: OnMissing) -> Self {
        let world = World::open(&folder.join("nullifiers.db"), on_missing, S + 5).await;
        let node = closed(folder, listen, neighbour).await;
        let pubsub = vec![shard().to_string()];
        let store = StoreConfig { free: FreeTierLimits::NONE, ..StoreConfig::new(seconds(3600), pubsub.clone()) };
        let store = Arc::new(StoreService::new(node.clone(), store).unwrap());
        let filter = FilterServiceConfig { free: FreeTierLimits::NONE, ..FilterServiceConfig::new(pubsub.clone()) };
        let filter = FilterService::new(node.clone(), filter).unwrap();
        let lightpush = LightpushServiceConfig { free: FreeTierLimits::NONE, ..LightpushServiceConfig::new(pubsub) };
        let lightpush = LightpushService::new(node.clone(), lightpush).unwrap();
        let till = |service: &dyn Service| {
            Till::new(service.entry().id, Arc::clone(&world.checker), service.free_tier(), world.offer.subscribe())
        };
        let tills = [till(&*store), till(&filter), till(&lightpush)];
        node.wait_for_mesh(shard(), 1, PATIENCE).await.unwrap();
        LeaseDesk::new(vec![(tills[1].clone(), filter.leases().unwrap())]).unwrap().serve(&node).await.unwrap();
        store.start(tills[0].clone()).await.unwrap();
        filter.start(tills[1].clone()).await.unwrap();
        lightpush.start(tills[2].clone()).await.unwrap();
        Self { node, tills, _services: (store, filter, lightpush) }
    }
}

/// Not a test by itself: the provider that [`a_provider_killed_while_it_is_paid_loses_nothing_and_takes_nothing_twice`] kills.
#[tokio::test(flavor = "multi_thread")]
async fn child_that_is_killed() {
    let Ok(settings) = std::env::var(CHILD) else { return };
    let [folder, listen, neighbour, on_missing] = &settings.split('|').collect::<Vec<_>>()[..] else {
        panic!("{settings}")
    };
    let on_missing = if *on_missing == "new" { OnMissing::NewPayee } else { OnMissing::Refuse };
    let shop = Shop::open(Path::new(folder), listen.parse().unwrap(), neighbour.parse().unwrap(), on_missing).await;
    println!("\nlistening {}", shop.node.listen_addrs()[0]);
    std::future::pending::<()>().await;
}

/// The provider as a process.
struct Provider {
    child: Child,
    address: Multiaddr,
}

impl Provider {
    async fn start(folder: &Path, listen: &str, neighbour: &Multiaddr, on_missing: &str) -> Self {
        let mut child = Command::new(std::env::current_exe().unwrap())
            .args(["--exact", "child_that_is_killed", "--nocapture"])
            .env(CHILD, format!("{}|{listen}|{neighbour}|{on_missing}", folder.display()))
            .stdout(Stdio::piped())
            .kill_on_drop(true)
            .spawn()
            .unwrap();
        let mut lines = BufReader::new(child.stdout.take().unwrap()).lines();
        let address = within("the provider's start", async {
            while let Some(line) = lines.next_line().await.unwrap() {
                if let Some(address) = line.strip_prefix("listening ") {
                    return address.parse().unwrap();
                }
            }
            panic!("the provider ended early");
        })
        .await;
        Self { child, address }
    }
}

/// An address to listen on: without the peer's name.
fn listen_at(address: &Multiaddr) -> String {
    let parts = address.iter().filter(|part| !matches!(part, multiaddr::Protocol::P2p(_)));
    parts.collect::<Multiaddr>().to_string()
}

fn query() -> StoreQueryRequest {
    StoreQueryRequest { pagination_forward: true, ..StoreQueryRequest::by_topics(shard(), [topic()]) }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_provider_killed_while_it_is_paid_loses_nothing_and_takes_nothing_twice() {
    let dir = tempfile::tempdir().unwrap();
    let listen = vec!["/ip4/127.0.0.1/tcp/0".parse().unwrap()];
    let neighbour = Node::spawn(NodeConfig { listen, ..config(NodeKey::generate()) }).await.unwrap();
    let mut relayed = neighbour.subscribe_shard(shard()).unwrap();
    let neighbour_at = neighbour.listen_addrs().remove(0);
    let mut provider = Provider::start(dir.path(), "/ip4/127.0.0.1/tcp/0", &neighbour_at, "new").await;
    let at_ = provider.address.clone();
    let peer = key().peer_id();
    let lease_clock = MarketClock::new(at(S + 5));

    // A subscriber whose lease is looked after while the provider comes and goes.
    let subscriber = light().await;
    let plan = LeasePlan {
        provider: peer,
        addresses: vec![at_.clone()],
        service: ServiceId::filter(),
        quota: 1,
        tickets: 1,
        ahead: seconds(1),
    };
    let tickets = Arc::new(Source::new(lease_clock.clone(), 1_000_000));
    let buyer = Arc::new(LeaseBuyer::new(subscriber.clone(), plan, tickets.clone()));
    let mut paid_filter = PaidFilter::open(&subscriber, buyer, shard(), [topic()]).await.unwrap();

    let done = Arc::new(AtomicUsize::new(0));
    let (progress, mut progressed) = watch::channel(0_usize);
    let mut buyers = Vec::new();
    for n in 0..BUYERS {
        let (done, progress, address) = (done.clone(), progress.clone(), at_.clone());
        buyers.push(tokio::spawn(async move {
            let node = light().await;
            node.dial_within(&address, PATIENCE).await.unwrap();
            let source = Arc::new(Source::new(MarketClock::new(at(S + 5)), 10_000 * (n as u64 + 1)));
            let tickets: Arc<dyn TicketSource> = source.clone();
            let push =
                PaidLightpush::new(node.clone(), peer, tickets.clone(), 1).returning(vec![address.clone()], PATIENCE);
            let price = PagePrice { tickets: 1, page_size: 20 };
            let store = PaidStore::new(node.clone(), peer, tickets, price).returning(vec![address], PATIENCE);
            let (mut pushed, mut pages, mut lost_pages) = (Vec::new(), 0, 0);
            for m in 0..MESSAGES {
                let message = WakuMessage::new(topic(), format!("{n}/{m}"), NOW);
                pushed.push(push.push(LightPushRequest::new(Some(shard()), message)).await.unwrap());
                progress.send_replace(done.fetch_add(1, Ordering::SeqCst) + 1);
                if m % 8 == 0 {
                    let page = store.page(query()).await.unwrap();
                    assert!(!page.response.messages.is_empty());
                    (pages, lost_pages) = (pages + 1, lost_pages + page.lost_tickets);
                }
            }
            let lost_pushes: u32 = pushed.iter().map(|push: &PaidPush| push.lost_tickets).sum();
            let used = source.next() - 10_000 * (n as u64 + 1);
            let paid = MESSAGES as u64 + pages + u64::from(lost_pages + lost_pushes);
            assert_eq!(used, paid, "each ticket bought one thing or was told to be lost");
            (node, pushed, used)
        }));
    }

    // Killed in the middle, again and again.
    let all = BUYERS * MESSAGES;
    for kill in 1..=KILLS {
        let here = all * kill / (KILLS + 1);
        within("the buyers' progress", progressed.wait_for(|done| *done >= here)).await.unwrap();
        provider.child.kill().await.unwrap();
        assert!(done.load(Ordering::SeqCst) < all, "they are still at it");
        provider = Provider::start(dir.path(), &listen_at(&at_), &neighbour_at, "known").await;
        assert_eq!(provider.address, at_);
        // Past the interval at which the lease is asked for: the provider has forgotten it.
        lease_clock.set(at(S + 5 + 16 * kill as u64));
    }
    let mut bought = Vec::new();
    for buyer in buyers {
        bought.push(within("a buyer", buyer).await.unwrap());
    }

    // Every message that was paid is in the archive, once.
    let reader = bought[0].0.clone();
    let reading = Arc::new(Source::new(MarketClock::new(at(S + 5)), 2_000_000));
    let store = PaidStore::new(reader.clone(), peer, reading, PagePrice { tickets: 1, page_size: 20 })
        .returning(vec![at_.clone()], PATIENCE);
    let (delivery, _, error) = store.query(query(), 100).await;
    assert!(error.is_none() && delivery.exhausted, "{error:?}");
    let kept: Vec<MessageHash> =
        delivery.messages.iter().map(|message| MessageHash::try_from(&message.hash[..]).unwrap()).collect();
    let distinct: HashSet<MessageHash> = kept.iter().copied().collect();
    assert_eq!(kept.len(), distinct.len());
    let paid: HashSet<MessageHash> =
        bought.iter().flat_map(|(_, pushed, _)| pushed).map(|push| push.request.message.hash(shard())).collect();
    assert_eq!(paid.len(), all);
    assert_eq!(distinct, paid);

    // And reached the network, once; but for those that a killed process had written down and not yet sent on: one of each buyer, at the most.
    let mut seen = HashSet::new();
    while seen.len() < all {
        let next = tokio::time::timeout(Duration::from_secs(3), futures::StreamExt::next(&mut relayed)).await;
        let Ok(message) = next else { break };
        assert!(seen.insert(message.unwrap().hash), "published twice");
    }
    assert!(seen.is_subset(&paid));
    assert!(all - seen.len() <= KILLS * BUYERS, "{} of {all} were relayed", seen.len());

    // Each ticket is spent: neither the same request nor another one gets anything for it.
    for (_, pushed, _) in &bought {
        // Who is refused more often in a moment isn't listened to for a while, so each few are asked about by somebody else.
        for some in pushed.chunks(30) {
            let node = light().await;
            node.dial_within(&at_, PATIENCE).await.unwrap();
            for push in some {
                assert_eq!(refusal(&node, &push.request).await, Reason::AlreadyServed);
            }
            node.shutdown().await;
        }
    }

    // The subscriber pays again, is subscribed again, and is sent what is published.
    let (mut after, mut expected) = (0, HashSet::new());
    within("a push after all", async {
        loop {
            let message = WakuMessage::new(topic(), format!("after {after}"), NOW);
            after += 1;
            expected.insert(neighbour.publish_to(shard(), message).await.unwrap().hash);
            let arrival = async { while !expected.contains(&paid_filter.recv().await.expect("the node runs").hash) {} };
            if tokio::time::timeout(Duration::from_secs(1), arrival).await.is_ok() {
                return;
            }
        }
    })
    .await;
    assert!(tickets.next() > 1_000_001, "the lease was paid again");
}

/// The reason for which a push is refused.
async fn refusal(node: &NodeHandle, request: &LightPushRequest) -> Reason {
    match node.lightpush(key().peer_id(), request).await {
        Err(LightPushError::Status { desc, .. }) => match Verdict::read_named(&desc) {
            Verdict::Refused { reason, .. } => reason,
            other => panic!("{other:?}: {desc}"),
        },
        other => panic!("not refused: {other:?}"),
    }
}

/// What a wire between a buyer and a provider does.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Cut {
    /// Passes everything on.
    Nothing,
    /// Loses what the provider sends as soon as it has served this many uses: their answers first of all.
    AnswersOnceServed(u64),
    /// Closes the connection.
    Both,
}

fn served(tills: &[Till; 3]) -> u64 {
    tills.iter().map(|till| till.counters().served).sum()
}

/// A wire to a provider, its address, and what cuts it.
async fn wire(provider: SocketAddr, tills: [Till; 3]) -> (Multiaddr, watch::Sender<Cut>) {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = format!("/ip4/127.0.0.1/tcp/{}", listener.local_addr().unwrap().port()).parse().unwrap();
    let (set, cut) = watch::channel(Cut::Nothing);
    tokio::spawn(async move {
        while let Ok((buyer, _)) = listener.accept().await {
            let (mut cut, tills) = (cut.clone(), tills.clone());
            tokio::spawn(async move {
                let (mut from_buyer, mut to_buyer) = buyer.into_split();
                let Ok(provider) = TcpStream::connect(provider).await else { return };
                let (mut from_provider, mut to_provider) = provider.into_split();
                let state = cut.clone();
                let answers = async {
                    let mut bytes = vec![0; 1 << 16];
                    while let Ok(n @ 1..) = from_provider.read(&mut bytes).await {
                        let lost = match *state.borrow() {
                            Cut::AnswersOnceServed(uses) => served(&tills) >= uses,
                            cut => cut == Cut::Both,
                        };
                        if !lost && to_buyer.write_all(&bytes[..n]).await.is_err() {
                            break;
                        }
                    }
                };
                tokio::select! {
                    () = answers => {}
                    _ = tokio::io::copy(&mut from_buyer, &mut to_provider) => {}
                    _ = cut.wait_for(|cut| *cut == Cut::Both) => {}
                }
            });
        }
    });
    (address, set)
}

/// A provider, a buyer connected to it by a wire that can be cut, and what the buyer pays with.
struct Cuttable {
    shop: Shop,
    buyer: NodeHandle,
    address: Multiaddr,
    cut: watch::Sender<Cut>,
    tickets: Arc<Source>,
    _neighbour: NodeHandle,
    _dir: tempfile::TempDir,
}

impl Cuttable {
    async fn new() -> Self {
        let dir = tempfile::tempdir().unwrap();
        let listen = vec!["/ip4/127.0.0.1/tcp/0".parse().unwrap()];
        let neighbour = Node::spawn(NodeConfig { listen, ..config(NodeKey::generate()) }).await.unwrap();
        let (any, at_) = ("/ip4/127.0.0.1/tcp/0".parse().unwrap(), neighbour.listen_addrs().remove(0));
        let shop = Shop::open(dir.path(), any, at_, OnMissing::NewPayee).await;
        let port = shop.node.listen_addrs()[0].iter().find_map(|part| match part {
            multiaddr::Protocol::Tcp(port) => Some(port),
            _ => None,
        });
        let (address, cut) = wire(SocketAddr::from(([127, 0, 0, 1], port.unwrap())), shop.tills.clone()).await;
        let buyer = light().await;
        let dialed = address.clone().with(multiaddr::Protocol::P2p(key().peer_id()));
        buyer.dial_within(&dialed, PATIENCE).await.unwrap();
        let tickets = Arc::new(Source::new(MarketClock::new(at(S + 5)), 1));
        Self { shop, buyer, address, cut, tickets, _neighbour: neighbour, _dir: dir }
    }

    fn lightpush(&self) -> PaidLightpush {
        PaidLightpush::new(self.buyer.clone(), key().peer_id(), self.tickets.clone(), 1)
            .returning(vec![self.address.clone()], PATIENCE)
    }

    /// Loses the answer to what `paid` asks, and then the connection; the next one is whole.
    async fn cutting<T>(&self, paid: impl Future<Output = T>) -> T {
        let uses = served(&self.shop.tills) + 1;
        self.cut.send_replace(Cut::AnswersOnceServed(uses));
        let cutting = async {
            within("the service", async {
                while served(&self.shop.tills) < uses {
                    tokio::task::yield_now().await;
                }
            })
            .await;
            self.cut.send_replace(Cut::Both);
            within("the end", self.buyer.wait_for_disconnect(key().peer_id(), PATIENCE)).await.unwrap();
            self.cut.send_replace(Cut::Nothing);
        };
        tokio::join!(paid, cutting).0
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_message_whose_answer_was_lost_is_known_to_be_published_and_not_paid_again() {
    let shop = Cuttable::new().await;
    let message = WakuMessage::new(topic(), "once", NOW);
    let push = LightPushRequest::new(Some(shard()), message);
    let pushed = shop.cutting(shop.lightpush().push(push)).await.unwrap();
    assert_eq!((pushed.pushed.relay_peers, pushed.lost_tickets), (None, 0));
    assert_eq!(shop.tickets.next(), 2, "one ticket was used");
    let counters = shop.shop.tills[2].counters();
    assert_eq!((counters.paid, counters.served), (1, 1));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_page_whose_answer_was_lost_is_paid_again_and_told() {
    let shop = Cuttable::new().await;
    shop.lightpush().push(LightPushRequest::new(Some(shard()), WakuMessage::new(topic(), "kept", NOW))).await.unwrap();
    let store = PaidStore::new(
        shop.buyer.clone(),
        key().peer_id(),
        shop.tickets.clone(),
        PagePrice { tickets: 1, page_size: 20 },
    )
    .returning(vec![shop.address.clone()], PATIENCE);
    let page = shop.cutting(store.page(query())).await.unwrap();
    assert_eq!((page.response.messages.len(), page.lost_tickets), (1, 1));
    assert_eq!(shop.tickets.next(), 4, "one for the message, two for the page");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_provider_that_stays_away_is_looked_for_no_longer_than_the_buyers_patience() {
    let shop = Cuttable::new().await;
    shop.shop.node.shutdown().await;
    within("the end of the connection", shop.buyer.wait_for_disconnect(key().peer_id(), PATIENCE)).await.unwrap();
    let patience = Duration::from_millis(700);
    let push = PaidLightpush::new(shop.buyer.clone(), key().peer_id(), shop.tickets.clone(), 1)
        .returning(vec![shop.address.clone()], patience);
    let request = LightPushRequest::new(Some(shard()), WakuMessage::new(topic(), "never", NOW));
    let error = within("the buyer's patience", push.push(request)).await.unwrap_err();
    assert!(matches!(error, ClientError::Transport(TransportError::Unreachable { .. })), "{error:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn nothing_is_given_away_before_a_service_is_open() {
    let dir = tempfile::tempdir().unwrap();
    let any = || "/ip4/127.0.0.1/tcp/0".parse().unwrap();
    let neighbour = Node::spawn(NodeConfig { listen: vec![any()], ..config(NodeKey::generate()) }).await.unwrap();
    let node = closed(dir.path(), any(), neighbour.listen_addrs().remove(0)).await;
    node.wait_for_mesh(shard(), 1, PATIENCE).await.unwrap();
    let buyer = light().await;
    buyer.dial_within(&node.listen_addrs().remove(0), PATIENCE).await.unwrap();

    let push = LightPushRequest::new(Some(shard()), WakuMessage::new(topic(), "free?", NOW));
    let pushed = buyer.lightpush(node.peer_id(), &push).await.unwrap_err();
    let LightPushError::Status { status: LightPushStatus::SERVICE_NOT_AVAILABLE, desc } = &pushed else {
        panic!("{pushed}")
    };
    assert_eq!(desc, "the service is closed");
    let asked = buyer.store_query(node.peer_id(), &query()).await;
    let status = match &asked {
        Ok(response) => response.status,
        Err(StoreError::Status { status, .. }) => *status,
        Err(other) => panic!("{other}"),
    };
    assert_eq!(status, StoreStatus::SERVICE_UNAVAILABLE);
    let subscribed = buyer.filter_subscribe(node.peer_id(), shard(), [topic()]).await.unwrap_err();
    assert!(
        matches!(subscribed, FilterError::Status { status: FilterStatus::SERVICE_UNAVAILABLE, .. }),
        "{subscribed}"
    );
}
