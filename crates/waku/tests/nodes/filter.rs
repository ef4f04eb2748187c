//! Filter v2: subscriptions at a service node, and its pushes.

use std::{
    collections::HashSet,
    sync::{Arc, Mutex},
    time::Duration,
};

use async_trait::async_trait;
use prost::Message as _;
use tributary_waku::{
    ContentTopic, FILTER_PUSH_PROTOCOL, FILTER_SUBSCRIBE_PROTOCOL, FilterConfig, FilterError, FilterGate, FilterHealth,
    FilterLimits, FilterStatus, FilterSubscription, FilterVerdict, GatedSubscribe, LightPushConfig, LightPushRequest,
    ManualClock, Multiaddr, Node, NodeConfig, NodeHandle, ServeLimits, WakuMessage,
    proto::filter::v2::{
        FilterSubscribeRequest, FilterSubscribeResponse, MessagePush, filter_subscribe_request::FilterSubscribeType,
    },
};

use crate::{
    common::{PATIENCE, address, clock, config, connect, message, node, shard, topic, within},
    raw::RawPeer,
};

const LIGHT: &[u8] = &[2, 0x08, 42];

fn unlimited() -> FilterConfig {
    let limits = ServeLimits { rate_per_peer: None, rate_total: None, ..FilterConfig::default().limits };
    FilterConfig { limits, ..FilterConfig::default() }
}

struct Net {
    light: NodeHandle,
    service: NodeHandle,
    relay: NodeHandle,
}

/// A light client, its service node, and a node that publishes to it by relay.
async fn net(clock: &Arc<ManualClock>, filter: FilterConfig) -> Net {
    let service = NodeConfig { filter: Some(filter), ..config(clock) };
    let service = Node::spawn(service).await.unwrap();
    let light = Node::spawn(NodeConfig { relay: false, listen: vec![], ..config(clock) }).await.unwrap();
    let relay = node(clock).await;
    connect(&light, &service).await;
    connect(&relay, &service).await;
    relay.wait_for_mesh(shard(), 1, PATIENCE).await.unwrap();
    Net { light, service, relay }
}

impl Net {
    async fn subscribe(&self, topics: &[&str]) -> Result<FilterSubscription, FilterError> {
        let topics = topics.iter().map(|t| ContentTopic::opaque(*t));
        self.light.filter_subscribe(self.service.peer_id(), shard(), topics).await
    }

    async fn publish(&self, topic: &str, payload: &str) {
        let message = WakuMessage { content_topic: ContentTopic::opaque(topic), ..message(payload) };
        self.relay.publish_to(shard(), message).await.unwrap();
    }

    async fn raw(&self) -> RawPeer {
        let raw =
            RawPeer::dial(&address(&self.service), FILTER_SUBSCRIBE_PROTOCOL, &[FILTER_PUSH_PROTOCOL], LIGHT).await;
        self.service.wait_for_peer(raw.peer_id, PATIENCE).await.unwrap();
        raw
    }
}

async fn payload(subscription: &mut FilterSubscription) -> String {
    let received = within("a push", subscription.recv()).await.unwrap();
    assert_eq!(received.pubsub_topic, shard());
    assert_eq!(received.hash, received.message.hash(shard()));
    String::from_utf8(received.message.payload.to_vec()).unwrap()
}

async fn ask(raw: &RawPeer, request: FilterSubscribeRequest) -> (String, u32) {
    let answer = raw.exchange(request.encode_length_delimited_to_vec()).await.unwrap();
    let answer = FilterSubscribeResponse::decode_length_delimited(answer.as_slice()).unwrap();
    assert!(answer.status_desc.is_some());
    (answer.request_id, answer.status_code)
}

fn request(kind: FilterSubscribeType, topics: &[&str]) -> FilterSubscribeRequest {
    FilterSubscribeRequest {
        request_id: "id".to_owned(),
        filter_subscribe_type: kind.into(),
        pubsub_topic: (!topics.is_empty()).then(|| shard().to_string()),
        content_topics: topics.iter().map(|t| (*t).to_owned()).collect(),
    }
}

use FilterSubscribeType::{Subscribe, SubscriberPing, Unsubscribe, UnsubscribeAll};

#[tokio::test(flavor = "multi_thread")]
async fn subscribed_topics_are_pushed_and_no_others() {
    let clock = clock();
    let net = net(&clock, unlimited()).await;
    let mut ab = net.subscribe(&["/a/1/a/p", "/a/1/b/p"]).await.unwrap();
    let mut bc = net.subscribe(&["/a/1/b/p", "not structured"]).await.unwrap();
    assert_eq!(net.service.filter_stats().unwrap().subscribers, 1);
    for (n, topic) in ["/a/1/a/p", "/a/1/b/p", "not structured", "/a/1/d/p"].into_iter().enumerate() {
        net.publish(topic, &n.to_string()).await;
    }
    assert_eq!([payload(&mut ab).await, payload(&mut ab).await], ["0", "1"]);
    assert_eq!([payload(&mut bc).await, payload(&mut bc).await], ["1", "2"]);
    // What only the ended subscription wanted is unsubscribed.
    ab.unsubscribe().await.unwrap();
    for (n, topic) in ["/a/1/a/p", "/a/1/b/p"].into_iter().enumerate() {
        net.publish(topic, &format!("later {n}")).await;
    }
    assert_eq!(payload(&mut bc).await, "later 1");
    assert_eq!(bc.health(), FilterHealth::Subscribed);
    assert_eq!(net.service.filter_stats().unwrap().pushed, 4, "each once for the peer");
    bc.unsubscribe().await.unwrap();
    assert_eq!(net.service.filter_stats().unwrap().subscribers, 0);
    assert_eq!(net.light.stats().unexpected_pushes, 0);

    for topics in [vec![], vec!["t"; 0]] {
        assert_eq!(net.subscribe(&topics).await.unwrap_err().code(), "TRB-W521");
    }
    let many: Vec<String> = (0..101).map(|n| n.to_string()).collect();
    let many: Vec<&str> = many.iter().map(String::as_str).collect();
    assert_eq!(net.subscribe(&many).await.unwrap_err().code(), "TRB-W521");
    // A peer that serves no filter.
    let error = net.service.filter_subscribe(net.relay.peer_id(), shard(), [topic()]).await.unwrap_err();
    assert_eq!(error.code(), "TRB-W302");
    assert!(net.relay.filter_stats().is_none());
    net.light.shutdown().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn five_hundred_messages_come_over_one_stream() {
    let clock = clock();
    let net = net(&clock, unlimited()).await;
    let raw = net.raw().await;
    assert_eq!(ask(&raw, request(Subscribe, &["/a/1/a/p"])).await, ("id".to_owned(), 200));
    let mut client = net.subscribe(&["/a/1/a/p"]).await.unwrap();
    for n in 0..500 {
        net.publish("/a/1/a/p", &n.to_string()).await;
    }
    let mut seen = HashSet::new();
    while seen.len() < 500 {
        assert!(seen.insert(payload(&mut client).await));
    }
    let pushes = within(
        "the pushes",
        raw.received.find(|mut bytes| {
            let mut all = Vec::new();
            while let Ok(push) = MessagePush::decode_length_delimited(&mut bytes) {
                all.push(push);
            }
            (all.len() == 500).then_some(all)
        }),
    )
    .await;
    assert!(pushes.iter().all(|push| push.pubsub_topic == Some(shard().to_string())));
    let payloads: HashSet<_> = pushes
        .into_iter()
        .map(|push| String::from_utf8(push.waku_message.unwrap().payload.unwrap().to_vec()).unwrap())
        .collect();
    assert_eq!(payloads, seen);
    assert_eq!(raw.received.streams(), 1);
    let stats = net.service.filter_stats().unwrap();
    assert_eq!((stats.subscribers, stats.lost), (2, 0));
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_pushed_by_lightpush_is_filtered_too() {
    let clock = clock();
    let setup = NodeConfig { filter: Some(unlimited()), lightpush: Some(LightPushConfig::default()), ..config(&clock) };
    let service = Node::spawn(setup).await.unwrap();
    let (light, relay) =
        (Node::spawn(NodeConfig { relay: false, listen: vec![], ..config(&clock) }).await.unwrap(), node(&clock).await);
    connect(&light, &service).await;
    connect(&relay, &service).await;
    service.wait_for_topic_peers(shard(), 1, PATIENCE).await.unwrap();
    let mut pushes = light.filter_subscribe(service.peer_id(), shard(), [topic()]).await.unwrap();
    light.lightpush(service.peer_id(), &LightPushRequest::new(None, message("x"))).await.unwrap();
    assert_eq!(payload(&mut pushes).await, "x");
}

#[tokio::test(flavor = "multi_thread")]
async fn requests_get_their_codes() {
    let clock = clock();
    let subscriptions = FilterLimits { max_subscribers: 2, max_criteria: 3, ..FilterLimits::default() };
    let net = net(&clock, FilterConfig { subscriptions, ..unlimited() }).await;
    let raw = net.raw().await;
    let code = async |request| {
        let (id, code) = ask(&raw, request).await;
        assert_eq!(id, "id");
        code
    };
    assert_eq!(code(request(SubscriberPing, &[])).await, 404);
    assert_eq!(code(request(Unsubscribe, &["a"])).await, 404);
    assert_eq!(code(request(UnsubscribeAll, &[])).await, 404);
    assert_eq!(code(request(Subscribe, &[])).await, 400);
    assert_eq!(code(FilterSubscribeRequest { pubsub_topic: None, ..request(Subscribe, &["a"]) }).await, 400);
    assert_eq!(code(FilterSubscribeRequest { content_topics: vec![], ..request(Subscribe, &["a"]) }).await, 400);
    assert_eq!(code(request(Subscribe, &["a"; 101])).await, 400);
    assert_eq!(code(FilterSubscribeRequest { filter_subscribe_type: 9, ..request(Subscribe, &["a"]) }).await, 400);
    for topic in ["/waku/2/rs/43/7", "/waku/2/rs/42/8", "/waku/2/default-waku/proto"] {
        let elsewhere = FilterSubscribeRequest { pubsub_topic: Some(topic.to_owned()), ..request(Subscribe, &["a"]) };
        assert_eq!(code(elsewhere).await, 400);
    }
    assert_eq!(
        ask(&raw, FilterSubscribeRequest { request_id: String::new(), ..request(Subscribe, &["a"]) }).await,
        ("N/A".to_owned(), 400)
    );
    assert_eq!(code(request(Subscribe, &["a", "b"])).await, 200);
    assert_eq!(code(request(Subscribe, &["a", "b", "b", "c"])).await, 200);
    assert_eq!(code(request(Subscribe, &["d"])).await, 503, "three criteria at most");
    assert_eq!(code(request(Unsubscribe, &[])).await, 400);
    assert_eq!(code(request(Unsubscribe, &["a"])).await, 200);
    assert_eq!(code(request(Subscribe, &["d"])).await, 200);
    assert_eq!(code(request(SubscriberPing, &[])).await, 200);
    // A ping without its type, which is zero, as js-waku sends it.
    assert_eq!(code(FilterSubscribeRequest { filter_subscribe_type: 0, ..request(Subscribe, &[]) }).await, 200);

    let _second = net.subscribe(&["a"]).await.unwrap();
    let third = net.raw().await;
    assert_eq!(ask(&third, request(Subscribe, &["a"])).await.1, 503, "two subscribers at most");
    assert_eq!(code(request(UnsubscribeAll, &[])).await, 200);
    assert_eq!(code(request(SubscriberPing, &[])).await, 404);
    assert_eq!(ask(&third, request(Subscribe, &["a"])).await.1, 200);
}

#[tokio::test(flavor = "multi_thread")]
async fn subscriptions_end_with_their_time() {
    let clock = clock();
    let net = net(&clock, unlimited()).await;
    let raw = net.raw().await;
    assert_eq!(ask(&raw, request(Subscribe, &["a"])).await.1, 200);
    clock.advance(Duration::from_secs(299));
    assert_eq!(ask(&raw, request(SubscriberPing, &[])).await.1, 200);
    clock.advance(Duration::from_secs(299));
    assert_eq!(ask(&raw, request(Unsubscribe, &["other"])).await.1, 200);
    clock.advance(Duration::from_secs(299));
    assert_eq!(ask(&raw, request(SubscriberPing, &[])).await.1, 200);
    clock.advance(Duration::from_secs(300));
    assert_eq!(ask(&raw, request(SubscriberPing, &[])).await.1, 404);
    assert_eq!(ask(&raw, request(Subscribe, &["a"])).await.1, 200);
    assert!(net.service.filter_end(raw.peer_id));
    assert!(!net.service.filter_end(raw.peer_id));
    assert_eq!(ask(&raw, request(SubscriberPing, &[])).await.1, 404);
}

#[derive(Debug, Default)]
struct Gate(Mutex<Vec<GatedSubscribe>>);

#[async_trait]
impl FilterGate for Gate {
    async fn admit(&self, subscribe: &GatedSubscribe) -> FilterVerdict {
        self.0.lock().unwrap().push(subscribe.clone());
        FilterVerdict::Refuse { status: FilterStatus::PAYMENT_REQUIRED, desc: "see offer 7".to_owned() }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn the_gate_decides_who_subscribes() {
    let clock = clock();
    let gate = Arc::new(Gate::default());
    let net = net(&clock, FilterConfig { gate: Some(gate.clone()), ..unlimited() }).await;
    let error = net.subscribe(&["a"]).await.unwrap_err();
    assert!(
        matches!(&error, FilterError::Status { status: FilterStatus(402), desc } if desc == "see offer 7"),
        "{error}"
    );
    {
        let seen = gate.0.lock().unwrap();
        assert_eq!((seen[0].peer, seen[0].pubsub_topic), (net.light.peer_id(), shard()));
        assert_eq!(seen[0].content_topics, [ContentTopic::opaque("a")]);
    }
    assert!(net.service.set_filter_gate(None));
    net.subscribe(&["a"]).await.unwrap();
    assert!(!net.relay.set_filter_gate(None));
}

#[tokio::test(flavor = "multi_thread")]
async fn unexpected_pushes_are_dropped() {
    let clock = clock();
    let net = net(&clock, unlimited()).await;
    let listening = Node::spawn(NodeConfig { relay: false, ..config(&clock) }).await.unwrap();
    connect(&listening, &net.service).await;
    let mut pushes = listening.filter_subscribe(net.service.peer_id(), shard(), [topic()]).await.unwrap();
    // Somebody else pushes what is subscribed at the service node.
    let stranger = RawPeer::dial(&address(&listening), FILTER_PUSH_PROTOCOL, &[], LIGHT).await;
    listening.wait_for_peer(stranger.peer_id, PATIENCE).await.unwrap();
    let push = MessagePush { waku_message: Some(message("forged").into()), pubsub_topic: Some(shard().to_string()) };
    assert_eq!(stranger.exchange(push.encode_length_delimited_to_vec()).await.unwrap_or_default(), Vec::<u8>::new());
    net.publish(topic().as_str(), "real").await;
    assert_eq!(payload(&mut pushes).await, "real");
    assert_eq!(pushes.try_recv(), None);
}

#[tokio::test(flavor = "multi_thread")]
async fn subscriptions_come_back_after_the_service_node_does() {
    let clock = clock();
    let setup = NodeConfig { filter: Some(unlimited()), ..config(&clock) };
    let service = Node::spawn(setup.clone()).await.unwrap();
    let at = address(&service);
    let light = NodeConfig { relay: false, listen: vec![], static_peers: vec![at.clone()], ..config(&clock) };
    let light = Node::spawn(light).await.unwrap();
    light.wait_for_peer(service.peer_id(), PATIENCE).await.unwrap();
    let mut pushes = light.filter_subscribe(service.peer_id(), shard(), [topic()]).await.unwrap();
    let mut health = pushes.watch_health();
    service.shutdown().await;
    within("the loss", health.wait_for(|h| matches!(h, FilterHealth::Lost { .. }))).await.unwrap();
    let port: Multiaddr = at.iter().take(2).collect();
    let service = Node::spawn(NodeConfig { listen: vec![port], ..setup }).await.unwrap();
    within("the return", health.wait_for(|h| *h == FilterHealth::Subscribed)).await.unwrap();
    let relay = node(&clock).await;
    connect(&relay, &service).await;
    relay.wait_for_mesh(shard(), 1, PATIENCE).await.unwrap();
    relay.publish(message("back")).await.unwrap();
    assert_eq!(payload(&mut pushes).await, "back");
}
