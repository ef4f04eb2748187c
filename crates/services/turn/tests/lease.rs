//! STUN and TURN by leases over the wire: real nodes and a real server on loopback, proofs that really verify, a clock that the test moves.

#[path = "../../../provider/tests/common/mod.rs"]
mod common;
#[path = "../../waku/tests/support/mod.rs"]
mod support;

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::{Duration, Instant};

use common::{L, S, World, slot};
use support::Source;
use tokio::net::UdpSocket;
use tributary_client::{ClientError, LeaseBuyer, LeaseHealth, LeasePlan};
use tributary_market::offer::ServiceId;
use tributary_protocol::Seconds;
use tributary_provider::lease::LeaseDesk;
use tributary_provider::service::Service;
use tributary_provider::store::OnMissing;
use tributary_provider::till::Till;
use tributary_reputation::store::Ending;
use tributary_reputation::turn::TurnEnding;
use tributary_service_turn::{
    Backend as _, Credential, Embedded, EmbeddedConfig, Grant, StunServiceConfig, Trial, TurnClient, TurnService,
    TurnServiceConfig,
};
use tributary_waku::{ClusterId, ManualClock, Node, NodeConfig, NodeHandle, NodeKey, NodeLimits, Sharding, Timestamp};

const PATIENCE: Duration = Duration::from_secs(30);
const GRACE: u64 = 10;
/// Longest silence of a call that nobody hears.
const GAP: Duration = Duration::from_millis(500);

fn loopback() -> SocketAddr {
    "127.0.0.1:0".parse().unwrap()
}

fn seconds(s: u64) -> Seconds {
    Seconds::new(s).unwrap()
}

async fn within<T>(what: &str, future: impl Future<Output = T>) -> T {
    tokio::time::timeout(PATIENCE, future).await.unwrap_or_else(|_| panic!("{what} took too long"))
}

async fn node(listen: bool) -> NodeHandle {
    let config = NodeConfig {
        listen: if listen { vec!["/ip4/127.0.0.1/tcp/0".parse().unwrap()] } else { vec![] },
        relay: listen,
        limits: NodeLimits::shared_address(),
        clock: Arc::new(ManualClock::new(Timestamp::from_secs(S as i64))),
        ..NodeConfig::new(NodeKey::generate(), ClusterId(42), Sharding::Auto { shards: 8 })
    };
    Node::spawn(config).await.unwrap()
}

/// A provider of TURN and STUN, and a buyer.
struct Shop {
    world: World,
    server: Arc<Embedded>,
    turn: TurnService,
    stun: TurnService,
    node: NodeHandle,
    buyer: NodeHandle,
    _dir: tempfile::TempDir,
}

async fn shop() -> Shop {
    let dir = tempfile::tempdir().unwrap();
    let world = World::open(&dir.path().join("nullifiers.db"), OnMissing::NewPayee, S + 5).await;
    let (node, buyer) = (node(true).await, node(false).await);
    buyer.dial_within(&node.listen_addrs().remove(0), PATIENCE).await.unwrap();
    node.wait_for_peer(buyer.peer_id(), PATIENCE).await.unwrap();
    let config =
        EmbeddedConfig { allowed_peers: vec!["127.0.0.0/8".parse().unwrap()], ..EmbeddedConfig::new(loopback()) };
    let server = Arc::new(Embedded::start(config).await.unwrap());
    let at = server.udp_addresses()[0];
    let turn = TurnServiceConfig {
        grace: seconds(GRACE),
        ..TurnServiceConfig::new("turn".parse().unwrap(), vec![format!("turn:{at}?transport=udp")])
    };
    let turn = TurnService::new(Arc::clone(&server) as _, turn).unwrap();
    let stun = StunServiceConfig {
        bindings_per_minute: 2,
        minutes: 1,
        grace: seconds(GRACE),
        ..StunServiceConfig::new("stun".parse().unwrap(), vec![format!("stun:{at}")])
    };
    let stun = TurnService::stun(Arc::clone(&server) as _, stun).unwrap();
    let mut sold = Vec::new();
    for service in [&turn, &stun] {
        let (id, free) = (service.entry().id, service.free_tier());
        let till = Till::new(id, Arc::clone(&world.checker), free, world.offer.subscribe());
        service.start(till.clone()).await.unwrap();
        sold.push((till, service.leases().unwrap()));
    }
    LeaseDesk::new(sold).unwrap().serve(&node).await.unwrap();
    Shop { world, server, turn, stun, node, buyer, _dir: dir }
}

impl Shop {
    /// A buyer whose tickets are those of one stream: numbers from `first` on.
    fn stream(&self, service: &str, first: u64) -> (LeaseBuyer, Arc<Source>) {
        let source = Arc::new(Source::new(self.world.clock.clone(), first));
        let plan = LeasePlan {
            provider: self.node.peer_id(),
            addresses: self.node.listen_addrs(),
            service: service.parse::<ServiceId>().unwrap(),
            quota: 1,
            tickets: 1,
            ahead: seconds(L / 2),
        };
        (LeaseBuyer::new(self.buyer.clone(), plan, Arc::clone(&source) as _), source)
    }

    async fn go_to(&self, now: u64) {
        self.world.go_to(now);
        self.turn.turn().await;
        self.stun.turn().await;
    }
}

fn granted(buyer: &LeaseBuyer) -> Grant {
    Grant::decode(buyer.watch_grant().borrow().as_deref().unwrap()).unwrap()
}

/// A call that sends to itself every 10 ms, and knows how long it heard nothing at the most.
struct Call {
    relay: TurnClient,
    peer: UdpSocket,
    last: Instant,
    gap: Duration,
}

impl Call {
    async fn begin(server: SocketAddr, grant: &Grant) -> Self {
        let credential = Credential { username: grant.username.clone(), password: grant.credential.clone() };
        let mut relay = TurnClient::allocate(server, credential, PATIENCE).await.unwrap();
        let peer = UdpSocket::bind("127.0.0.2:0").await.unwrap();
        relay.bind_channel(0x4001, peer.local_addr().unwrap()).await.unwrap();
        Self { relay, peer, last: Instant::now(), gap: Duration::ZERO }
    }

    /// Goes on until `done`, or until nothing came for [`GAP`] twice; whether it is up still.
    async fn during<T>(&mut self, done: impl Future<Output = T>) -> Option<T> {
        tokio::pin!(done);
        let mut ticks = tokio::time::interval(Duration::from_millis(10));
        let to = self.peer.local_addr().unwrap();
        let mut buffer = [0; 100];
        loop {
            tokio::select! {
                done = &mut done => return Some(done),
                _ = ticks.tick() => {
                    self.gap = self.gap.max(self.last.elapsed());
                    if self.last.elapsed() > 2 * GAP {
                        return None;
                    }
                    self.relay.send(to, b"hello").await.unwrap();
                }
                Ok(_) = self.peer.recv_from(&mut buffer) => self.last = Instant::now(),
            }
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_call_goes_on_without_a_gap_when_another_stream_takes_over_and_is_cut_after_the_last_slots_grace() {
    let shop = shop().await;
    let server = shop.server.udp_addresses()[0];
    let (first, _) = shop.stream("turn", 1);
    within("the first lease", first.begin()).await.unwrap();
    let grant = granted(&first);
    let mut call = Call::begin(server, &grant).await;
    let relayed = call.relay.relayed();
    call.during(tokio::time::sleep(Duration::from_millis(100))).await.unwrap();

    // The first stream is at its end. The second one pays from the next slot on, which begins unpaid: the grace bridges it.
    let (second, _) = shop.stream("turn", 1_000);
    let handed_over = async {
        shop.go_to(S + L + 1).await;
        drop(first);
        within("the second stream's lease", second.begin()).await.unwrap();
        shop.go_to(S + L + GRACE + 5).await;
        tokio::time::sleep(Duration::from_millis(100)).await;
    };
    call.during(handed_over).await.expect("the call is up");
    assert!(call.gap < GAP, "nothing was heard for {:?}", call.gap);
    assert_eq!(granted(&second), grant, "the credential is the same");
    assert_eq!(shop.server.list()[0].relay, Some(relayed), "and so is the allocation");

    // No more is paid: the call is up in the grace, and cut after it.
    shop.go_to(S + 2 * L + GRACE - 1).await;
    call.during(tokio::time::sleep(Duration::from_millis(100))).await.expect("the call is up in the grace");
    shop.go_to(S + 2 * L + GRACE + 1).await;
    assert!(shop.server.list().is_empty());
    assert!(call.during(std::future::pending::<()>()).await.is_none(), "the call is cut");
    let refused = call.relay.refresh(Duration::from_secs(60)).await.unwrap_err();
    assert_eq!((refused.code(), refused.refusal()), ("TRB-5733", Some(401)), "{refused}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_provider_that_is_gone_is_a_missed_lease_and_takes_no_further_ticket() {
    let shop = shop().await;
    let (lease, tickets) = shop.stream("turn", 1);
    within("the lease", lease.begin()).await.unwrap();
    assert_eq!(tickets.next(), 2, "one slot, one ticket");
    let grant = granted(&lease);
    shop.node.shutdown().await;
    shop.server.stop().await;

    shop.world.go_to(S + L + 1);
    for _ in 0..3 {
        let health = within("a turn", lease.turn()).await.unwrap();
        assert!(
            matches!(&health, LeaseHealth::Missed { slot_start, reason } if *slot_start == slot(1).start() && !reason.is_empty()),
            "{health:?}"
        );
    }
    // The slot's one ticket waits: nobody took it.
    assert_eq!(tickets.next(), 3);
    let error = within("the end", lease.begin()).await.unwrap_err();
    assert_eq!(error.code(), "TRB-C016", "{error}");
    let ClientError::NoLease { ending, .. } = error else { panic!("{error}") };
    assert!(matches!(ending, Ending::NoAnswer | Ending::Unreachable { .. }), "{ending:?}");
    assert_eq!(tickets.next(), 3, "and no other one is made for the slot");
    let trial = Trial { patience: Duration::from_millis(600), ..Trial::default() };
    assert_eq!(trial.turn(&grant, &[]).await.ending, TurnEnding::Silent { others_answer: None });
}

#[tokio::test(flavor = "multi_thread")]
async fn bindings_are_leased_counted_and_refused_beyond_the_quota_and_after_the_lease() {
    let shop = shop().await;
    let (lease, _) = shop.stream("stun", 1);
    within("the lease", lease.begin()).await.unwrap();
    let grant = granted(&lease);
    assert!(grant.urls.iter().all(|url| url.starts_with("stun:")), "{:?}", grant.urls);
    let trial = Trial::default();
    let ask = || async { trial.stun(&grant, &[]).await };
    for _ in 0..2 {
        let tried = ask().await;
        assert_eq!(tried.ending, TurnEnding::Complete);
        assert_eq!(tried.mapped.here.unwrap().ip(), loopback().ip());
    }
    let refused = |code| TurnEnding::Refused { what: "Binding".into(), code };
    assert_eq!(ask().await.ending, refused(486), "two are paid");
    let calls = TurnClient::allocate(
        shop.server.udp_addresses()[0],
        Credential { username: grant.username.clone(), password: grant.credential.clone() },
        PATIENCE,
    );
    assert_eq!(calls.await.unwrap_err().refusal(), Some(486), "bindings are no calls");

    // The next slot has its own.
    shop.go_to(S + L + 1).await;
    within("the renewal", lease.begin()).await.unwrap();
    assert_eq!(ask().await.ending, TurnEnding::Complete);
    shop.go_to(S + 2 * L + GRACE + 1).await;
    assert_eq!(ask().await.ending, refused(401), "the lease is over");
}
