//! Lightpush and Filter sold over the wire: real nodes on loopback, proofs that really verify, a clock that the test moves.

#[path = "../../../provider/tests/common/mod.rs"]
mod common;
mod support;

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use common::{CARRY, L, S, World, at, nullifier, provider, slot, statement};
use support::Source;
use tributary_client::{LeaseBuyer, LeaseHealth, LeasePlan, PaidFilter, PaidLightpush, TicketSource};
use tributary_market::lease::{self, LeaseReason, LeaseRequest, LeaseResponse, LeaseTerms, LeaseVerdict};
use tributary_market::offer::{Attributes, ServiceId};
use tributary_market::ticket::{Reason, Verdict};
use tributary_market::transport::Exchange;
use tributary_protocol::{Seconds, Slot};
use tributary_provider::free::FreeTierLimits;
use tributary_provider::lease::LeaseDesk;
use tributary_provider::service::Service;
use tributary_provider::store::OnMissing;
use tributary_provider::till::Till;
use tributary_service_waku::{
    FilterService, FilterServiceConfig, FilterServiceConfigError, LightpushLease, LightpushService,
    LightpushServiceConfig, LightpushServiceConfigError,
};
use tributary_waku::{
    Bytes, ClusterId, ContentTopic, FilterConfig, FilterError, FilterStatus, FilterSubscription, LightPushConfig,
    LightPushError, LightPushRequest, LightPushStatus, ManualClock, Node, NodeConfig, NodeHandle, NodeKey, NodeLimits,
    PeerId, PubsubTopic, Sharding, Timestamp, WakuMessage, lightpush_bytes_without_proof,
};

const PATIENCE: Duration = Duration::from_secs(30);
const NOW: Timestamp = Timestamp::from_secs(S as i64);
const GRACE: u64 = 10;

fn shard() -> PubsubTopic {
    "/waku/2/rs/42/7".parse().unwrap()
}

fn topics(n: usize) -> Vec<ContentTopic> {
    (0..n).map(|n| ContentTopic::opaque(format!("/app/1/{n}/proto"))).collect()
}

fn seconds(s: u64) -> Seconds {
    Seconds::new(s).unwrap()
}

async fn within<T>(what: &str, future: impl Future<Output = T>) -> T {
    tokio::time::timeout(PATIENCE, future).await.unwrap_or_else(|_| panic!("{what} took too long"))
}

fn config(clock: &Arc<ManualClock>) -> NodeConfig {
    NodeConfig {
        listen: vec!["/ip4/127.0.0.1/tcp/0".parse().unwrap()],
        limits: NodeLimits::shared_address(),
        clock: clock.clone(),
        ..NodeConfig::new(NodeKey::generate(), ClusterId(42), Sharding::Auto { shards: 8 })
    }
}

/// A provider that sells Filter and lightpush, a buyer, a stranger (neither relays), and a relaying neighbour of the provider.
struct Shop {
    world: Arc<World>,
    filter: FilterService,
    lightpush: LightpushService,
    tills: [Till; 2],
    node: NodeHandle,
    buyer: NodeHandle,
    stranger: NodeHandle,
    relay: NodeHandle,
    published: AtomicU64,
    _dir: tempfile::TempDir,
}

async fn shop(free: FreeTierLimits) -> Shop {
    let dir = tempfile::tempdir().unwrap();
    let world = Arc::new(World::open(&dir.path().join("nullifiers.db"), OnMissing::NewPayee, S + 5).await);
    let clock = Arc::new(ManualClock::new(NOW));
    let filter = FilterConfig::default();
    let mut limits = filter.limits;
    (limits.rate_per_peer, limits.rate_total) = (None, None);
    let node = Node::spawn(NodeConfig {
        filter: Some(FilterConfig { limits, ..filter }),
        lightpush: Some(LightPushConfig::default()),
        ..config(&clock)
    })
    .await
    .unwrap();
    let address = node.listen_addrs().remove(0);
    let light = || NodeConfig { relay: false, listen: vec![], ..config(&clock) };
    let buyer = Node::spawn(light()).await.unwrap();
    let stranger = Node::spawn(light()).await.unwrap();
    let relay = Node::spawn(config(&clock)).await.unwrap();
    for other in [&buyer, &stranger, &relay] {
        other.dial_within(&address, PATIENCE).await.unwrap();
        node.wait_for_peer(other.peer_id(), PATIENCE).await.unwrap();
    }
    relay.wait_for_mesh(shard(), 1, PATIENCE).await.unwrap();
    node.wait_for_mesh(shard(), 1, PATIENCE).await.unwrap();

    let pubsub = vec![shard().to_string()];
    let filter = FilterServiceConfig {
        grace: seconds(GRACE),
        max_topics: 20,
        max_leases: 2,
        free,
        free_time: seconds(30),
        ..FilterServiceConfig::new(pubsub.clone())
    };
    let filter = FilterService::new(node.clone(), filter).unwrap();
    let lightpush = LightpushServiceConfig {
        free,
        lease: Some(LightpushLease { max_messages: 3, grace: seconds(GRACE), max_leases: 2 }),
        max_payload: 1000,
        ..LightpushServiceConfig::new(pubsub)
    };
    let lightpush = LightpushService::new(node.clone(), lightpush).unwrap();
    let till = |service: &dyn Service| {
        let (id, free) = (service.entry().id, service.free_tier());
        Till::new(id, Arc::clone(&world.checker), free, world.offer.subscribe())
    };
    let tills = [till(&filter), till(&lightpush)];
    filter.start(tills[0].clone()).await.unwrap();
    lightpush.start(tills[1].clone()).await.unwrap();
    let sold = vec![(tills[0].clone(), filter.leases().unwrap()), (tills[1].clone(), lightpush.leases().unwrap())];
    LeaseDesk::new(sold).unwrap().serve(&node).await.unwrap();
    Shop { world, filter, lightpush, tills, node, buyer, stranger, relay, published: AtomicU64::new(0), _dir: dir }
}

impl Shop {
    fn terms(&self, quota: u32, slot: Slot) -> LeaseTerms {
        LeaseTerms { peer: self.buyer.peer_id(), service: ServiceId::filter(), slot_start: slot.start(), quota }
    }

    /// Ticket `n` of a slot for these terms.
    fn pay(&self, n: u64, slot: Slot, terms: &LeaseTerms) -> Vec<u8> {
        self.world.prepared(n, statement(n, slot)).pay(&provider(), &terms.signing_bytes())
    }

    async fn send(&self, from: &NodeHandle, request: &[u8]) -> LeaseResponse {
        let answer = Exchange::request(from, self.node.peer_id(), &[], lease::PROTOCOL, request.to_vec());
        LeaseResponse::decode(&within("a lease's answer", answer).await.unwrap()).unwrap()
    }

    async fn buy(&self, terms: LeaseTerms, eligibility_proof: Vec<u8>) -> LeaseResponse {
        self.send(&self.buyer, &LeaseRequest::Buy { terms, eligibility_proof }.encode()).await
    }

    async fn leased(&self, n: u64, quota: u32, slot: Slot) -> LeaseResponse {
        let terms = self.terms(quota, slot);
        let proof = self.pay(n, slot, &terms);
        self.buy(terms, proof).await
    }

    async fn subscribe(&self, n: usize) -> Result<FilterSubscription, FilterError> {
        self.buyer.filter_subscribe(self.node.peer_id(), shard(), topics(n)).await
    }

    /// Publishes at the neighbour and waits until the provider has pushed to `pushes` subscribers.
    async fn publish(&self) -> String {
        let n = self.published.fetch_add(1, Ordering::SeqCst).to_string();
        let message = WakuMessage::new(topics(1).remove(0), n.clone(), NOW);
        self.relay.publish_to(shard(), message).await.unwrap();
        n
    }

    fn push(&self, payload: &str) -> LightPushRequest {
        LightPushRequest::new(Some(shard()), WakuMessage::new(topics(1).remove(0), payload.to_owned(), NOW))
    }

    fn paid_push(&self, n: u64, payload: &str) -> LightPushRequest {
        let request = self.push(payload);
        let proof = self.world.pay(n, &lightpush_bytes_without_proof(&request));
        LightPushRequest { eligibility_proof: Some(Bytes::from(proof)), ..request }
    }

    async fn refused(&self, request: &LightPushRequest) -> (LightPushStatus, Reason) {
        match self.buyer.lightpush(self.node.peer_id(), request).await {
            Err(LightPushError::Status { status, desc }) => match Verdict::read_named(&desc) {
                Verdict::Refused { reason, offer, .. } => {
                    let named = if reason == Reason::PaymentRequired { *self.world.offer.borrow() } else { None };
                    assert_eq!(offer, named, "{desc}");
                    (status, reason)
                }
                other => panic!("{other:?}"),
            },
            other => panic!("not refused: {other:?}"),
        }
    }

    fn plan(&self) -> LeasePlan {
        LeasePlan {
            provider: self.node.peer_id(),
            addresses: vec![],
            service: ServiceId::filter(),
            quota: 2,
            tickets: 1,
            ahead: seconds(20),
        }
    }

    fn source(&self) -> Arc<Source> {
        Arc::new(Source::new(self.world.clock.clone(), 1000))
    }
}

fn payment(answer: &LeaseResponse) -> Reason {
    match answer.verdict() {
        LeaseVerdict::Payment { reason, .. } => reason,
        other => panic!("{other:?}"),
    }
}

fn terms_refused(answer: &LeaseResponse) -> LeaseReason {
    match answer.verdict() {
        LeaseVerdict::Terms { reason, .. } => reason,
        other => panic!("{other:?}"),
    }
}

async fn payload(subscription: &mut FilterSubscription) -> String {
    let received = within("a push", subscription.recv()).await.unwrap();
    String::from_utf8(received.message.payload.to_vec()).unwrap()
}

fn status(error: &FilterError) -> (FilterStatus, String) {
    match error {
        FilterError::Status { status, desc } => (*status, desc.clone()),
        other => panic!("{other:?}"),
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn an_unpaid_message_uses_the_free_tier_then_402() {
    let shop = shop(FreeTierLimits { per_peer: 2, total: 10, window: 60 }).await;
    for n in 0..2 {
        shop.buyer.lightpush(shop.node.peer_id(), &shop.push(&format!("free {n}"))).await.unwrap();
    }
    let refused = shop.refused(&shop.push("one more")).await;
    assert_eq!(refused, (LightPushStatus::PAYMENT_REQUIRED, Reason::PaymentRequired));
    let counters = shop.tills[1].counters();
    assert_eq!((counters.free, counters.unpaid, counters.paid), (2, 1, 0));
    let large = shop.push(&"x".repeat(1001));
    let error = shop.buyer.lightpush(shop.node.peer_id(), &large).await.unwrap_err();
    assert!(matches!(error, LightPushError::Status { status: LightPushStatus::PAYLOAD_TOO_LARGE, .. }), "{error}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_paid_message_reaches_a_filter_subscriber_and_its_ticket_pays_once() {
    let shop = shop(FreeTierLimits::NONE).await;
    assert_eq!(shop.leased(1, 2, slot(0)).await.verdict(), LeaseVerdict::Granted);
    let mut subscription = shop.subscribe(1).await.unwrap();

    let source: Arc<dyn TicketSource> = shop.source();
    let paid = PaidLightpush::new(shop.buyer.clone(), shop.node.peer_id(), source, 1);
    let sent = paid.push(shop.push("paid")).await.unwrap();
    assert_eq!(sent.pushed.relay_peers, Some(1));
    assert_eq!(payload(&mut subscription).await, "paid");

    // The very request again, the proof before another message, the ticket signed for another message.
    let paid = shop.paid_push(7, "second");
    shop.buyer.lightpush(shop.node.peer_id(), &paid).await.unwrap();
    assert_eq!(payload(&mut subscription).await, "second");
    assert_eq!(shop.refused(&paid).await, (LightPushStatus::PAYMENT_REQUIRED, Reason::AlreadyServed));
    let moved = LightPushRequest { eligibility_proof: paid.eligibility_proof.clone(), ..shop.push("third") };
    assert_eq!(shop.refused(&moved).await.1, Reason::BadSignature);
    assert_eq!(shop.refused(&shop.paid_push(7, "third")).await.1, Reason::Replayed);
    let counters = shop.tills[1].counters();
    assert_eq!((counters.paid, counters.served), (2, 2));
}

#[tokio::test(flavor = "multi_thread")]
async fn leased_messages_need_no_proof_until_they_are_used_up() {
    let shop = shop(FreeTierLimits::NONE).await;
    let terms = LeaseTerms { service: ServiceId::lightpush(), ..shop.terms(1, slot(0)) };
    let proof = shop.pay(1, slot(0), &terms);
    assert_eq!(shop.buy(terms, proof).await.verdict(), LeaseVerdict::Granted);
    shop.buyer.lightpush(shop.node.peer_id(), &shop.push("leased")).await.unwrap();
    assert_eq!(shop.refused(&shop.push("another")).await.1, Reason::PaymentRequired);
    let query = LeaseRequest::Query { service: ServiceId::lightpush() }.encode();
    let slots = shop.send(&shop.buyer, &query).await.lease.unwrap().slots;
    assert_eq!((slots.len(), slots[0].quota, slots[0].used), (1, 1, 1));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_subscription_without_a_lease_uses_the_free_tier_then_402() {
    let shop = shop(FreeTierLimits { per_peer: 1, total: 10, window: 600 }).await;
    let mut free = shop.subscribe(2).await.unwrap();
    // The same again, within its free time, takes nothing.
    drop(shop.subscribe(2).await.unwrap());
    assert_eq!(shop.tills[0].counters().free, 1);
    let (code, desc) = status(&shop.subscribe(3).await.unwrap_err());
    assert_eq!(code, FilterStatus::PAYMENT_REQUIRED);
    assert!(desc.contains(&format!("offer={}", shop.world.offer.borrow().unwrap())), "{desc}");
    shop.filter.turn().await;
    let n = shop.publish().await;
    assert_eq!(payload(&mut free).await, n);
    // 30 s were free.
    shop.world.go_to(S + 5 + 30);
    shop.filter.turn().await;
    assert_eq!(shop.node.filter_subscribers(), []);
    let (code, desc) = status(&shop.subscribe(1).await.unwrap_err());
    assert_eq!(code, FilterStatus::PAYMENT_REQUIRED);
    assert!(matches!(
        Verdict::read_named(&desc),
        Verdict::Refused { reason: Reason::PaymentRequired, offer: Some(_), .. }
    ));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_lease_bounds_the_topics_and_can_grow() {
    let shop = shop(FreeTierLimits::NONE).await;
    // 10 topics a ticket.
    assert_eq!(payment(&shop.leased(1, 11, slot(0)).await), Reason::TooFewTickets);
    let answer = shop.leased(1, 3, slot(0)).await;
    assert_eq!(answer.verdict(), LeaseVerdict::Granted);
    let lease = answer.lease.unwrap();
    assert_eq!((lease.slots[0].quota, lease.until.get(), lease.grace.get()), (3, S + L + GRACE, GRACE));
    assert_eq!(status(&shop.subscribe(4).await.unwrap_err()).0, FilterStatus::PAYMENT_REQUIRED);
    let _three = shop.subscribe(3).await.unwrap();
    let lease = shop.leased(2, 1, slot(0)).await.lease.unwrap();
    assert_eq!(lease.slots[0].quota, 4);
    let _four = shop.subscribe(4).await.unwrap();
    shop.filter.turn().await;
    assert_eq!(shop.node.filter_subscribers(), [(shop.buyer.peer_id(), 4)]);
}

#[tokio::test(flavor = "multi_thread")]
async fn each_refusal_has_its_code_and_spends_nothing() {
    let shop = shop(FreeTierLimits { per_peer: 5, total: 10, window: 60 }).await;
    let terms = shop.terms(2, slot(0));
    let proof = shop.pay(1, slot(0), &terms);

    // Bought for the buyer: worthless to a stranger, who can't rename it either.
    let request = LeaseRequest::Buy { terms: terms.clone(), eligibility_proof: proof.clone() }.encode();
    assert_eq!(terms_refused(&shop.send(&shop.stranger, &request).await), LeaseReason::WrongPeer);
    let stolen = LeaseTerms { peer: shop.stranger.peer_id(), ..terms.clone() };
    let request = LeaseRequest::Buy { terms: stolen, eligibility_proof: proof.clone() }.encode();
    assert_eq!(payment(&shop.send(&shop.stranger, &request).await), Reason::BadSignature);

    let unpaid = shop.buy(terms.clone(), vec![]).await;
    assert!(matches!(unpaid.verdict(), LeaseVerdict::Payment { reason: Reason::PaymentRequired, offer, .. }
        if offer == *shop.world.offer.borrow()));
    let other = LeaseTerms { service: ServiceId::store(), ..terms.clone() };
    assert_eq!(terms_refused(&shop.buy(other, proof.clone()).await), LeaseReason::UnknownService);
    for quota in [0, 21] {
        let terms = LeaseTerms { quota, ..terms.clone() };
        assert_eq!(terms_refused(&shop.buy(terms, proof.clone()).await), LeaseReason::BadQuota);
    }
    for start in [S - L, S + 1, S + 2 * L] {
        let terms = LeaseTerms { slot_start: at(start), ..terms.clone() };
        assert_eq!(terms_refused(&shop.buy(terms, proof.clone()).await), LeaseReason::WrongLeaseSlot);
    }
    // A ticket of this slot for the next one.
    let next = shop.terms(2, slot(1));
    let early = shop.pay(1, slot(0), &next);
    assert_eq!(terms_refused(&shop.buy(next, early).await), LeaseReason::WrongLeaseSlot);
    let more = LeaseTerms { quota: 3, ..terms.clone() };
    assert_eq!(payment(&shop.buy(more, proof.clone()).await), Reason::BadSignature);
    assert_eq!(payment(&shop.buy(terms.clone(), b"garbage".to_vec()).await), Reason::Malformed);
    assert_eq!(terms_refused(&shop.send(&shop.stranger, b"garbage").await), LeaseReason::Malformed);
    let request = [&[0x08, 0x02], &LeaseRequest::Query { service: ServiceId::filter() }.encode()[2..]].concat();
    assert_eq!(terms_refused(&shop.send(&shop.stranger, &request).await), LeaseReason::BadVersion);
    assert_eq!(terms_refused(&shop.send(&shop.stranger, &[0; 3000]).await), LeaseReason::Malformed);

    assert_eq!(shop.world.checker.store().stored().await.unwrap(), 0, "nothing is spent by then");
    // The same ticket is good for what it was signed for, once; who asks again is told, with the lease.
    assert_eq!(shop.buy(terms.clone(), proof.clone()).await.verdict(), LeaseVerdict::Granted);
    let again = shop.buy(terms.clone(), proof).await;
    assert_eq!(payment(&again), Reason::AlreadyServed);
    assert_eq!(again.lease.unwrap().slots[0].quota, 2);
    let replayed = LeaseTerms { quota: 1, ..terms };
    let proof = shop.pay(1, slot(0), &replayed);
    assert_eq!(payment(&shop.buy(replayed, proof).await), Reason::Replayed);
}

#[tokio::test(flavor = "multi_thread")]
async fn the_book_is_bounded_and_renewals_find_room() {
    let shop = shop(FreeTierLimits::NONE).await;
    let book = shop.filter.leases().unwrap();
    for _ in 0..2 {
        book.grant(PeerId::random(), slot(0), 1);
    }
    assert_eq!(terms_refused(&shop.leased(1, 1, slot(0)).await), LeaseReason::Full);
    assert_eq!(shop.world.checker.store().stored().await.unwrap(), 0);
    // The slot and its grace are over: there is room again.
    shop.world.go_to(S + L + GRACE);
    assert_eq!(shop.leased(2, 1, slot(1)).await.verdict(), LeaseVerdict::Granted);
    book.grant(PeerId::random(), slot(1), 1);
    assert_eq!(shop.leased(3, 1, slot(2)).await.verdict(), LeaseVerdict::Granted);
    assert_eq!((book.counters().held, book.counters().refused), (2, 1));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_flood_of_lease_requests_is_cut() {
    let shop = shop(FreeTierLimits::NONE).await;
    let terms = shop.terms(1, slot(0));
    let mut reasons = Vec::new();
    for _ in 0..40 {
        let terms = terms.clone();
        let request = LeaseRequest::Buy { terms, eligibility_proof: b"garbage".to_vec() }.encode();
        let answer = Exchange::request(&shop.buyer, shop.node.peer_id(), &[], lease::PROTOCOL, request).await.unwrap();
        reasons.push(LeaseResponse::decode(&answer).unwrap().code);
    }
    // The clock stands still: what a peer may ask at once is all it gets.
    assert_eq!(reasons.iter().filter(|code| **code == Reason::Malformed.status_code()).count(), 20);
    assert_eq!(reasons.iter().filter(|code| **code == LeaseReason::TooManyRequests.status_code()).count(), 20);
    // Others are served all the same.
    let query = LeaseRequest::Query { service: ServiceId::filter() }.encode();
    assert_eq!(shop.send(&shop.stranger, &query).await.verdict(), LeaseVerdict::Granted);
    assert_eq!(shop.filter.leases().unwrap().counters().held, 0);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_subscription_ends_with_its_lease_and_its_grace() {
    let shop = shop(FreeTierLimits::NONE).await;
    assert_eq!(shop.leased(1, 2, slot(0)).await.verdict(), LeaseVerdict::Granted);
    let mut subscription = shop.subscribe(2).await.unwrap();
    // The last second of the grace.
    shop.world.go_to(S + L + GRACE - 1);
    shop.filter.turn().await;
    let n = shop.publish().await;
    assert_eq!(payload(&mut subscription).await, n);
    shop.world.go_to(S + L + GRACE);
    shop.filter.turn().await;
    assert_eq!(shop.node.filter_subscribers(), []);
    assert_eq!(status(&shop.subscribe(1).await.unwrap_err()).0, FilterStatus::PAYMENT_REQUIRED);
    let query = LeaseRequest::Query { service: ServiceId::filter() }.encode();
    let answer = shop.send(&shop.buyer, &query).await;
    assert_eq!((answer.verdict(), answer.lease), (LeaseVerdict::Granted, None));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_lease_of_fewer_topics_ends_a_larger_subscription() {
    let shop = shop(FreeTierLimits::NONE).await;
    assert_eq!(shop.leased(1, 3, slot(0)).await.verdict(), LeaseVerdict::Granted);
    assert_eq!(shop.leased(2, 2, slot(1)).await.verdict(), LeaseVerdict::Granted);
    let _subscription = shop.subscribe(3).await.unwrap();
    shop.world.go_to(S + L + GRACE - 1);
    shop.filter.turn().await;
    assert_eq!(shop.node.filter_subscribers().len(), 1);
    shop.world.go_to(S + L + GRACE);
    shop.filter.turn().await;
    assert_eq!(shop.node.filter_subscribers(), []);
}

#[tokio::test(flavor = "multi_thread")]
async fn renewed_ahead_of_time_a_lease_has_no_gap() {
    let shop = shop(FreeTierLimits::NONE).await;
    let source = shop.source();
    let buyer = Arc::new(LeaseBuyer::new(shop.buyer.clone(), shop.plan(), source.clone()));
    let mut paid = within("a paid subscription", PaidFilter::open(&shop.buyer, Arc::clone(&buyer), shard(), topics(2)))
        .await
        .unwrap();
    let until = |n: u64| LeaseHealth::Held { until: at(S + n * L + GRACE) };
    for second in 5..3 * L {
        shop.world.go_to(S + second);
        // The node's own clock stands still: what its limits allow at once is enough for these turns only.
        if second % 20 == 0 {
            let health = buyer.turn().await.unwrap();
            // Renewed when 20 s are left.
            let slots = if second % L >= L - 20 { second / L + 2 } else { second / L + 1 };
            assert_eq!(health, until(slots), "at {second}");
        }
        shop.filter.turn().await;
        assert_eq!(shop.node.filter_subscribers().len(), 1, "at {second}");
        if second % 10 == 0 {
            let n = shop.publish().await;
            let received = within("a push", paid.recv()).await.unwrap();
            assert_eq!(received.message.payload.as_ref(), n.as_bytes());
        }
    }
    assert_eq!(*buyer.watch_missed().borrow(), 0);
    assert_eq!(shop.tills[0].counters().paid, 4, "one ticket a slot, the next one included");
    paid.close().await.unwrap();
    assert_eq!(shop.node.filter_subscribers(), []);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_missed_renewal_is_told_and_made_good() {
    let shop = shop(FreeTierLimits::NONE).await;
    let buyer = LeaseBuyer::new(shop.buyer.clone(), shop.plan(), shop.source());
    buyer.begin().await.unwrap();
    let mut subscription = shop.subscribe(2).await.unwrap();
    // The provider takes no tickets for a while; time goes by.
    let root = shop.world.chain.roots.lock().remove(&common::root(0)).unwrap();
    shop.world.go_to(S + L + 1);
    let health = buyer.turn().await.unwrap();
    assert!(
        matches!(&health, LeaseHealth::Missed { slot_start, reason } if slot_start.get() == S + L && reason.contains("unknown_root")),
        "{health:?}"
    );
    assert_eq!((*buyer.watch_missed().borrow(), buyer.watch_health().borrow().clone()), (1, health));
    // Within the grace it is made good, with the very ticket that was refused.
    shop.world.chain.roots.lock().insert(common::root(0), root);
    let health = buyer.turn().await.unwrap();
    assert_eq!(health, LeaseHealth::Held { until: at(S + 2 * L + GRACE) });
    shop.world.go_to(S + L + GRACE);
    shop.filter.turn().await;
    let n = shop.publish().await;
    assert_eq!(payload(&mut subscription).await, n);
    assert_eq!(shop.tills[0].counters().paid, 2);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_provider_that_forgot_a_lease_is_paid_again_and_takes_no_ticket_twice() {
    let shop = shop(FreeTierLimits::NONE).await;
    let source = shop.source();
    let buyer = LeaseBuyer::new(shop.buyer.clone(), shop.plan(), source.clone());
    buyer.begin().await.unwrap();
    let terms = shop.terms(2, slot(0));
    let proof = shop.pay(1000, slot(0), &terms);
    // Another desk on the same nullifiers, as after a restart: the book is empty, the tickets are spent.
    assert!(shop.node.unserve(lease::PROTOCOL).await);
    let restarted = FilterService::new(shop.node.clone(), FilterServiceConfig::new(vec![shard().to_string()])).unwrap();
    let desk = LeaseDesk::new(vec![(shop.tills[0].clone(), restarted.leases().unwrap())]).unwrap();
    desk.serve(&shop.node).await.unwrap();
    let again = shop.buy(terms, proof).await;
    assert_eq!((payment(&again), again.lease), (Reason::AlreadyServed, None));
    // The buyer learns of it when it asks, and buys the slot again with another ticket.
    shop.world.go_to(S + 5 + 15);
    assert!(matches!(buyer.turn().await.unwrap(), LeaseHealth::Held { .. }));
    assert_eq!(restarted.leases().unwrap().quota(&shop.buyer.peer_id(), at(S + 20)), Some(2));
    assert_eq!(shop.world.checker.store().stored().await.unwrap(), 2);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_stopped_service_gives_nothing_away() {
    let shop = shop(FreeTierLimits::default()).await;
    let _subscription = shop.subscribe(1).await.unwrap();
    shop.filter.stop().await;
    shop.lightpush.stop().await;
    assert_eq!(shop.node.filter_subscribers(), []);
    assert_eq!(status(&shop.subscribe(1).await.unwrap_err()).0, FilterStatus::SERVICE_UNAVAILABLE);
    for request in [shop.push("free"), shop.paid_push(1, "paid")] {
        let error = shop.buyer.lightpush(shop.node.peer_id(), &request).await.unwrap_err();
        assert!(matches!(error, LightPushError::Status { status: LightPushStatus::SERVICE_NOT_AVAILABLE, .. }));
    }
    assert_eq!(shop.world.checker.store().stored().await.unwrap(), 0);
}

#[tokio::test(flavor = "multi_thread")]
async fn the_offer_says_what_is_sold() {
    let shop = shop(FreeTierLimits::NONE).await;
    let entry = shop.filter.entry();
    assert!(matches!(&entry.attributes, Attributes::Filter(filter) if filter.pubsub_topics == [shard().to_string()]));
    // 10 topic-minutes a ticket: slots of 60 s.
    assert_eq!([1, 10, 11, 40].map(|quota| entry.lease_tickets(quota, seconds(L))), [1, 1, 2, 4].map(Some));
    assert_eq!(entry.lease_tickets(10, seconds(L + CARRY)), Some(2), "a begun minute counts whole");
    assert_eq!(shop.lightpush.entry().lease_tickets(3, seconds(L)), Some(3));
    let usual = FilterServiceConfig::new(vec![]);
    let error = FilterService::new(shop.node.clone(), FilterServiceConfig { tickets: 5, ..usual.clone() }).unwrap_err();
    assert_eq!(error, FilterServiceConfigError::Range { field: "tickets", got: 5, min: 1, max: 4 });
    // More than the node serves: 100 subscribers.
    let config = FilterServiceConfig { max_leases: 80, max_free: 21, ..usual.clone() };
    let error = FilterService::new(shop.node.clone(), config).unwrap_err();
    assert_eq!(error, FilterServiceConfigError::NodeLimit { field: "max_leases + max_free", got: 101, limit: 100 });
    let usual_push = LightpushServiceConfig::new(vec![]);
    let config = LightpushServiceConfig { messages: 0, ..usual_push.clone() };
    let error = LightpushService::new(shop.node.clone(), config).unwrap_err();
    assert!(matches!(error, LightpushServiceConfigError::Range { field: "messages", .. }));
    // A node that serves neither can't sell them.
    let service = FilterService::new(shop.buyer.clone(), usual).unwrap();
    assert_eq!(service.start(shop.tills[0].clone()).await.unwrap_err().code, "TRB-5322");
    let service = LightpushService::new(shop.buyer.clone(), usual_push).unwrap();
    assert_eq!(service.start(shop.tills[1].clone()).await.unwrap_err().code, "TRB-5312");
    // A proof of several tickets pays for a larger quota.
    let terms = shop.terms(20, slot(0));
    let mut two = statement(1, slot(0));
    two.count = 2;
    two.nullifiers[1] = nullifier(2);
    let proof = shop.world.prepared(1, two).pay(&provider(), &terms.signing_bytes());
    assert_eq!(shop.buy(terms, proof).await.lease.unwrap().slots[0].quota, 20);
}
