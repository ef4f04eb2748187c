//! A Store sold by the page, over the wire: real nodes on loopback, real archive, proofs that really verify.

#[path = "../../../provider/tests/common/mod.rs"]
mod common;
mod support;

use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use common::{S, World, at, nullifier, provider, slot, statement};
use parking_lot::Mutex;
use support::Source;
use tributary_client::{ClientError, PagePrice, PaidStore};
use tributary_market::clock::ManualClock as MarketClock;
use tributary_market::offer::{Attributes, ServiceId};
use tributary_market::ticket::{Reason, Verdict};
use tributary_protocol::Seconds;
use tributary_provider::free::FreeTierLimits;
use tributary_provider::service::Service as _;
use tributary_provider::store::OnMissing;
use tributary_provider::till::Till;
use tributary_service_waku::{StoreConfig, StoreConfigError, StoreService};
use tributary_waku::{
    ArchiveConfig, ArchivedMessage, Bytes, ClusterId, ContentTopic, EligibilityStatus, GatedQuery, ManualClock,
    MessageHash, Node, NodeConfig, NodeHandle, NodeKey, NodeLimits, PubsubTopic, Sharding, StoreGate,
    StoreQueryRequest, StoreQueryResponse, StoreStatus, StoreVerdict, Timestamp, WakuMessage,
    request_bytes_without_proof,
};

const PATIENCE: Duration = Duration::from_secs(30);
const NOW: Timestamp = Timestamp::from_secs(S as i64);

struct Shop {
    world: World,
    service: StoreService,
    till: Till,
    node: NodeHandle,
    client: NodeHandle,
    _dir: tempfile::TempDir,
}

fn shard() -> PubsubTopic {
    "/waku/2/rs/42/7".parse().unwrap()
}

fn topic() -> ContentTopic {
    "/app/20/sometopic/someencoding".parse().unwrap()
}

fn config(clock: &Arc<ManualClock>) -> NodeConfig {
    NodeConfig {
        limits: NodeLimits::shared_address(),
        clock: clock.clone(),
        ..NodeConfig::new(NodeKey::generate(), ClusterId(42), Sharding::Auto { shards: 8 })
    }
}

/// A node whose archive of 45 messages is sold in pages of 20, and a client connected to it.
async fn shop(free: FreeTierLimits) -> Shop {
    let dir = tempfile::tempdir().unwrap();
    let world = World::open(&dir.path().join("nullifiers.db"), OnMissing::NewPayee, S + 5).await;
    let clock = Arc::new(ManualClock::new(NOW));
    let node = Node::spawn(NodeConfig {
        listen: vec!["/ip4/127.0.0.1/tcp/0".parse().unwrap()],
        archive: Some(ArchiveConfig::new(dir.path().join("archive.sqlite"))),
        ..config(&clock)
    })
    .await
    .unwrap();
    let messages: Vec<_> = (0..45_u32)
        .map(|n| {
            let at = NOW.saturating_add(Duration::from_millis(n.into()));
            let message = WakuMessage::new(topic(), format!("{n}"), at);
            ArchivedMessage { hash: message.hash(shard()), pubsub_topic: shard(), message: message.into() }
        })
        .collect();
    assert_eq!(node.archive().unwrap().insert(&messages).await.unwrap(), 45);
    let client = Node::spawn(NodeConfig { relay: false, ..config(&clock) }).await.unwrap();
    let address = node.listen_addrs().remove(0);
    client.dial_within(&address, PATIENCE).await.unwrap();

    let mut config = StoreConfig::new(Seconds::new(3600).unwrap(), vec![shard().to_string()]);
    config.free = free;
    let service = StoreService::new(node.clone(), config).unwrap();
    let till = Till::new(ServiceId::store(), Arc::clone(&world.checker), service.free_tier(), world.offer.subscribe());
    service.start(till.clone()).await.unwrap();
    Shop { world, service, till, node, client, _dir: dir }
}

impl Shop {
    async fn ask(&self, request: &StoreQueryRequest) -> StoreQueryResponse {
        self.client.store_query(self.node.peer_id(), request).await.unwrap()
    }

    /// The query with ticket `n` for exactly this query.
    fn paid(&self, n: u64, request: StoreQueryRequest) -> StoreQueryRequest {
        let proof = self.world.pay(n, &request_bytes_without_proof(&request));
        StoreQueryRequest { eligibility_proof: Some(Bytes::from(proof)), ..request }
    }
}

fn query() -> StoreQueryRequest {
    StoreQueryRequest { pagination_forward: true, ..StoreQueryRequest::by_topics(shard(), [topic()]) }
}

fn verdict(response: &StoreQueryResponse) -> Verdict {
    let status = response.eligibility.as_ref().expect("field 30 is answered");
    Verdict::read(status.status_code, &status.status_desc)
}

fn reason(response: &StoreQueryResponse) -> Reason {
    assert!(response.messages.is_empty(), "a refusal gives nothing away");
    match verdict(response) {
        Verdict::Refused { reason, .. } => reason,
        other => panic!("not refused: {other:?}"),
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn an_unpaid_query_is_refused_and_says_how_to_pay() {
    let shop = shop(FreeTierLimits::NONE).await;
    let response = shop.ask(&query()).await;
    assert_eq!(response.status, StoreStatus::PAYMENT_REQUIRED);
    let offer = *shop.world.offer.borrow();
    // Clients that know nothing of field 30 show the description.
    assert!(response.status_desc.contains(&format!("offer={}", offer.unwrap())), "{}", response.status_desc);
    assert!(
        matches!(verdict(&response), Verdict::Refused { reason: Reason::PaymentRequired, offer: named, .. } if named == offer)
    );
    assert_eq!(reason(&response), Reason::PaymentRequired);
    assert_eq!(shop.till.counters().unpaid, 1);
}

#[tokio::test(flavor = "multi_thread")]
async fn each_page_takes_a_ticket() {
    let shop = shop(FreeTierLimits::NONE).await;
    let mut request = query();
    let mut found = Vec::new();
    for n in 0..3 {
        let response = shop.ask(&shop.paid(n, request.clone())).await;
        assert_eq!((response.status, verdict(&response)), (StoreStatus::OK, Verdict::Accepted));
        found.extend(response.messages.iter().map(|entry| entry.hash));
        match request.next_page(&response) {
            Some(next) => request = next,
            None => assert_eq!(n, 2),
        }
    }
    assert_eq!(found.len(), 45);
    let counters = shop.till.counters();
    assert_eq!((counters.paid, counters.served), (3, 3));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_ticket_pays_for_one_query_only() {
    let shop = shop(FreeTierLimits::NONE).await;
    let paid = shop.paid(1, query());
    assert_eq!(shop.ask(&paid).await.status, StoreStatus::OK);
    assert_eq!(reason(&shop.ask(&paid).await), Reason::AlreadyServed);
    // The same proof before another query.
    let moved = StoreQueryRequest { pagination_limit: Some(5), ..paid };
    assert_eq!(reason(&shop.ask(&moved).await), Reason::BadSignature);
    // The same ticket signed for another query.
    assert_eq!(reason(&shop.ask(&shop.paid(1, query())).await), Reason::Replayed);
    let garbage = StoreQueryRequest { eligibility_proof: Some(Bytes::from_static(b"garbage")), ..query() };
    assert_eq!(reason(&shop.ask(&garbage).await), Reason::Malformed);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_large_query_counts_as_several_pages() {
    let shop = shop(FreeTierLimits::NONE).await;
    let large = StoreQueryRequest { pagination_limit: Some(41), ..query() };
    assert_eq!(reason(&shop.ask(&shop.paid(1, large.clone())).await), Reason::TooFewTickets);
    let mut three = statement(1, slot(0));
    three.count = 3;
    three.nullifiers[1] = nullifier(2);
    three.nullifiers[2] = nullifier(3);
    let proof = shop.world.prepared(1, three).pay(&provider(), &request_bytes_without_proof(&large));
    let response = shop.ask(&StoreQueryRequest { eligibility_proof: Some(proof.into()), ..large }).await;
    assert_eq!((response.status, response.messages.len()), (StoreStatus::OK, 41));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_query_that_fails_spends_its_ticket_and_says_so() {
    let shop = shop(FreeTierLimits::NONE).await;
    let nowhere =
        StoreQueryRequest { pagination_cursor: Some(MessageHash::try_from(&[7; 32][..]).unwrap()), ..query() };
    let paid = shop.paid(1, nowhere);
    let response = shop.ask(&paid).await;
    assert_eq!((response.status, verdict(&response)), (StoreStatus::BAD_REQUEST, Verdict::Accepted));
    assert_eq!(reason(&shop.ask(&paid).await), Reason::SpentUnserved);
    assert_eq!(shop.till.counters().failed, 1);
}

#[tokio::test(flavor = "multi_thread")]
async fn the_free_tier_comes_first_for_those_who_do_not_pay() {
    let shop = shop(FreeTierLimits { per_peer: 2, total: 10, window: 60 }).await;
    for _ in 0..2 {
        let response = shop.ask(&query()).await;
        assert_eq!((response.status, response.eligibility, response.messages.len()), (StoreStatus::OK, None, 20));
    }
    assert_eq!(reason(&shop.ask(&query()).await), Reason::PaymentRequired);
    // Who pays isn't held to it.
    assert_eq!(shop.ask(&shop.paid(1, query())).await.status, StoreStatus::OK);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_stopped_service_gives_nothing_away() {
    let shop = shop(FreeTierLimits::default()).await;
    shop.service.stop().await;
    for request in [query(), shop.paid(1, query())] {
        let response = shop.ask(&request).await;
        assert_eq!((response.status, response.messages.len()), (StoreStatus::SERVICE_UNAVAILABLE, 0));
    }
    assert_eq!(shop.world.checker.store().stored().await.unwrap(), 0);
}

#[tokio::test(flavor = "multi_thread")]
async fn the_offer_says_what_is_sold() {
    let shop = shop(FreeTierLimits::NONE).await;
    let entry = shop.service.entry();
    assert_eq!((entry.id, entry.uses[0].tickets), (ServiceId::store(), 1));
    assert!(
        matches!(entry.attributes, Attributes::Store(store) if store.page_size == 20 && store.archives(&shard().to_string(), "/any"))
    );
    let config = |page_size, tickets_per_page| {
        let usual = StoreConfig::new(Seconds::new(60).unwrap(), vec![]);
        StoreService::new(shop.node.clone(), StoreConfig { page_size, tickets_per_page, ..usual }).map(|_| ())
    };
    assert_eq!(config(101, 1), Err(StoreConfigError::PageSize { got: 101, max: 100 }));
    assert_eq!(config(20, 5), Err(StoreConfigError::TicketsPerPage { got: 5 }));
    // A node without a Store can't sell one.
    let service = StoreService::new(shop.client.clone(), StoreConfig::new(Seconds::new(60).unwrap(), vec![])).unwrap();
    assert_eq!(service.start(shop.till.clone()).await.unwrap_err().code, "TRB-5303");
}

/// Says of each ticket that it can't be judged yet, and keeps what it sees.
#[derive(Debug, Default)]
struct Liar {
    seen: Mutex<Vec<Vec<u8>>>,
}

#[async_trait]
impl StoreGate for Liar {
    async fn admit(&self, query: &GatedQuery) -> StoreVerdict {
        self.seen.lock().push(query.eligibility_proof.as_ref().unwrap().to_vec());
        let eligibility = EligibilityStatus {
            status_code: Reason::UnknownRoot.status_code(),
            status_desc: "unknown_root: send it again".into(),
        };
        StoreVerdict::Refuse {
            status: StoreStatus::PAYMENT_REQUIRED,
            desc: String::new(),
            eligibility: Some(eligibility),
        }
    }
}

/// A ticket that is seen with two queries tells that they are of one buyer: a provider could refuse for that alone.
#[tokio::test(flavor = "multi_thread")]
async fn a_provider_that_refuses_sees_no_ticket_with_two_queries() {
    let shop = shop(FreeTierLimits::NONE).await;
    shop.service.stop().await;
    let liar = Arc::new(Liar::default());
    assert!(shop.node.set_store_gate(Some(Arc::clone(&liar) as Arc<dyn StoreGate>)));
    let tickets = Arc::new(Source::new(MarketClock::new(at(S + 5)), 500));
    let price = PagePrice { tickets: 1, page_size: 20 };
    let store = PaidStore::new(shop.client.clone(), shop.node.peer_id(), tickets, price);
    let mut of_query = Vec::new();
    for start in [NOW, NOW.saturating_add(Duration::from_millis(1))] {
        let error = store.page(StoreQueryRequest { time_start: Some(start), ..query() }).await.unwrap_err();
        assert!(matches!(error, ClientError::Refused { reason: Reason::UnknownRoot, .. }), "{error}");
        of_query.push(std::mem::take(&mut *liar.seen.lock()));
    }
    let holds = |proof: &Vec<u8>, n: u64| proof.windows(32).any(|word| word == nullifier(n).to_be_bytes());
    assert!(of_query[0].len() > 1 && of_query[0].iter().all(|proof| holds(proof, 500)), "the same ticket again");
    assert!(of_query[1].len() > 1 && of_query[1].iter().all(|proof| holds(proof, 501) && !holds(proof, 500)));
}
