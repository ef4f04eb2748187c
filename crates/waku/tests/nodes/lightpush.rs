//! Lightpush, versions 3 and 2, through a service node to the relay mesh.

use std::{
    sync::{Arc, Mutex},
    time::Duration,
};

use async_trait::async_trait;
use prost::Message as _;
use tributary_waku::{
    Bytes, ContentTopic, GatedPush, LIGHTPUSH_PROTOCOL, LIGHTPUSH_V2_PROTOCOL, LightPushConfig, LightPushError,
    LightPushGate, LightPushRequest, LightPushStatus, LightPushVerdict, LightPushed, ManualClock, Node, NodeConfig,
    NodeHandle, PubsubTopic, ServeLimits, ShardIndex, Sharding, Subscription, Timestamp, WakuMessage,
    lightpush_bytes_without_proof,
    proto::lightpush::{v2, v3},
};

use crate::{
    common::{NOW, PATIENCE, address, burst, clock, config, connect, message, node, shard, within},
    raw::RawPeer,
};

const LIGHT: &[u8] = &[2, 0x08, 42];

struct Net {
    light: NodeHandle,
    service: NodeHandle,
    relay: NodeHandle,
    messages: Subscription,
}

/// A light client, its service node, and a node that the service node relays to.
async fn net(clock: &Arc<ManualClock>, lightpush: LightPushConfig) -> Net {
    let service = NodeConfig { lightpush: Some(lightpush), ..config(clock) };
    let service = Node::spawn(service).await.unwrap();
    let light = Node::spawn(NodeConfig { relay: false, listen: vec![], ..config(clock) }).await.unwrap();
    let relay = node(clock).await;
    connect(&light, &service).await;
    connect(&relay, &service).await;
    service.wait_for_topic_peers(shard(), 1, PATIENCE).await.unwrap();
    let messages = relay.subscribe_all().unwrap();
    Net { light, service, relay, messages }
}

impl Net {
    async fn push(&self, message: WakuMessage) -> Result<LightPushed, LightPushError> {
        self.light.lightpush(self.service.peer_id(), &LightPushRequest::new(None, message)).await
    }

    async fn received(&mut self) -> Bytes {
        within("a message", self.messages.recv()).await.unwrap().message.payload.clone()
    }
}

fn unlimited() -> LightPushConfig {
    let limits = ServeLimits { rate_per_peer: None, rate_total: None, ..LightPushConfig::default().limits };
    LightPushConfig { limits, gate: None }
}

fn status<T: std::fmt::Debug>(result: Result<T, LightPushError>) -> u32 {
    match result.unwrap_err() {
        LightPushError::Status { status, .. } => status.0,
        other => panic!("{other}"),
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn pushed_messages_are_relayed() {
    let clock = clock();
    let mut net = net(&clock, unlimited()).await;
    assert_eq!(net.push(message("one")).await.unwrap(), LightPushed { relay_peers: Some(1) });
    assert_eq!(net.received().await, "one");
    assert_eq!(status(net.push(message("one")).await), 420, "it was seen already");
    // A static shard: any content topic.
    let opaque = WakuMessage { content_topic: ContentTopic::opaque("Test"), ..message("two") };
    assert_eq!(status(net.push(opaque.clone()).await), 420);
    let request = LightPushRequest::new(Some(shard()), opaque);
    net.light.lightpush(net.service.peer_id(), &request).await.unwrap();
    assert_eq!(net.received().await, "two");

    let wrong = ["/waku/2/rs/43/7", "/waku/2/rs/42/8"];
    for topic in wrong {
        let request = LightPushRequest::new(Some(topic.parse::<PubsubTopic>().unwrap()), message("three"));
        assert_eq!(status(net.light.lightpush(net.service.peer_id(), &request).await), 421, "{topic}");
    }
    // The client knows without asking what no node would relay.
    let late = WakuMessage { timestamp: Some(NOW.saturating_add(Duration::from_secs(21))), ..message("late") };
    assert_eq!(net.push(late).await.unwrap_err().code(), "TRB-W206");

    // A node of the older version only.
    assert!(net.service.unserve(LIGHTPUSH_PROTOCOL).await);
    assert_eq!(net.push(message("four")).await.unwrap(), LightPushed { relay_peers: None });
    assert_eq!(net.received().await, "four");
    let error = net.push(message("four")).await.unwrap_err();
    assert!(matches!(&error, LightPushError::Refused { info } if info.contains("seen")), "{error}");
    // It can carry no proof, so none is given away.
    let paid = LightPushRequest { eligibility_proof: Some("t".into()), ..LightPushRequest::new(None, message("five")) };
    assert_eq!(net.light.lightpush(net.service.peer_id(), &paid).await.unwrap_err().code(), "TRB-W302");
    assert!(net.service.unserve(LIGHTPUSH_V2_PROTOCOL).await);
    assert_eq!(net.push(message("five")).await.unwrap_err().code(), "TRB-W302");
    assert_eq!(net.messages.try_recv(), None);
}

#[tokio::test(flavor = "multi_thread")]
async fn without_relay_peers_nothing_is_published() {
    let clock = clock();
    let net = net(&clock, unlimited()).await;
    let mut own = net.service.subscribe_all().unwrap();
    net.relay.shutdown().await;
    net.service.wait_for_disconnect(net.relay.peer_id(), PATIENCE).await.unwrap();
    assert_eq!(status(net.push(message("one")).await), 505);
    assert_eq!(own.try_recv(), None);
}

#[tokio::test(flavor = "multi_thread")]
async fn requests_of_js_waku() {
    // As @waku/sdk 0.0.36 sends it, with the uuid filled in.
    let rest = "a2010f2f77616b752f322f72732f34322f37aa01330a026d30121e2f6170702f32302f736f6d65746f7069632f736f6d65656e636f64696e6718005080d488e2a1b4a8ea31f80100";
    let uuid = "0a2f1f7e-0d43-4b3c-9a54-5a4f1b0c7d11";
    let wire = [&[0x0a, 0x24][..], uuid.as_bytes(), &hex::decode(rest).unwrap()].concat();
    let decoded = v3::LightPushRequest::decode(wire.as_slice()).unwrap();
    let at = Timestamp::from_nanos(decoded.message.unwrap().timestamp.unwrap());
    let clock = Arc::new(ManualClock::new(at));
    let mut net = net(&clock, unlimited()).await;
    let js = RawPeer::dial(&address(&net.service), LIGHTPUSH_PROTOCOL, &[], LIGHT).await;
    net.service.wait_for_peer(js.peer_id, PATIENCE).await.unwrap();
    let answer = js.exchange([&[u8::try_from(wire.len()).unwrap()][..], &wire].concat()).await.unwrap();
    let answer = v3::LightPushResponse::decode_length_delimited(answer.as_slice()).unwrap();
    let expected = v3::LightPushResponse {
        request_id: uuid.to_owned(),
        status_code: 200,
        status_desc: Some("OK".to_owned()),
        relay_peer_count: Some(1),
    };
    assert_eq!(answer, expected);
    assert_eq!(net.received().await, "m0");
}

#[tokio::test(flavor = "multi_thread")]
async fn malformed_pushes_get_their_codes() {
    let clock = clock();
    let limits = ServeLimits { max_request_bytes: 100_000, ..unlimited().limits };
    let net = net(&clock, LightPushConfig { limits, gate: None }).await;
    let raw = RawPeer::dial(&address(&net.service), LIGHTPUSH_PROTOCOL, &[], LIGHT).await;
    net.service.wait_for_peer(raw.peer_id, PATIENCE).await.unwrap();
    let exchange = async |wire: Vec<u8>| {
        let answer = raw.exchange(wire).await.unwrap();
        v3::LightPushResponse::decode_length_delimited(answer.as_slice()).unwrap()
    };
    let valid = v3::LightPushRequest {
        request_id: "id".to_owned(),
        pubsub_topic: Some(shard().to_string()),
        message: Some(message("x").into()),
        eligibility_proof: None,
    };
    let with = |change: &dyn Fn(&mut tributary_waku::proto::message::v1::WakuMessage)| {
        let mut request = valid.clone();
        change(request.message.as_mut().unwrap());
        request
    };
    let cases = [
        (v3::LightPushRequest { message: None, ..valid.clone() }, 400),
        (v3::LightPushRequest { pubsub_topic: Some(String::new()), ..valid.clone() }, 400),
        (v3::LightPushRequest { pubsub_topic: Some("/waku/2/default-waku/proto".to_owned()), ..valid.clone() }, 421),
        (with(&|m| m.payload = None), 420),
        (with(&|m| m.content_topic = None), 420),
        (with(&|m| m.timestamp = None), 420),
        (with(&|m| m.timestamp = Some(0)), 420),
        (with(&|m| m.meta = Some(vec![0; 65].into())), 420),
    ];
    for (request, code) in cases {
        let answer = exchange(request.encode_length_delimited_to_vec()).await;
        assert_eq!((answer.status_code, answer.request_id.as_str()), (code, "id"), "{:?}", answer.status_desc);
        assert!(!answer.status_desc.unwrap().is_empty());
        assert_eq!(answer.relay_peer_count, None);
    }
    let nameless = v3::LightPushRequest { request_id: String::new(), ..valid.clone() };
    for wire in [nameless.encode_length_delimited_to_vec(), vec![2, 0x0a, 9]] {
        let answer = exchange(wire).await;
        assert_eq!((answer.status_code, answer.request_id.as_str()), (400, "N/A"));
    }
    let large = with(&|m| m.payload = Some(vec![0; 100_001].into()));
    assert_eq!(exchange(large.encode_length_delimited_to_vec()).await.status_code, 413);

    let raw = RawPeer::dial(&address(&net.service), LIGHTPUSH_V2_PROTOCOL, &[], LIGHT).await;
    net.service.wait_for_peer(raw.peer_id, PATIENCE).await.unwrap();
    let exchange = async |request: v2::PushRpc| {
        let answer = raw.exchange(request.encode_length_delimited_to_vec()).await.unwrap();
        let answer = v2::PushRpc::decode_length_delimited(answer.as_slice()).unwrap();
        (answer.request_id, answer.response.unwrap())
    };
    let push = v2::PushRequest { pubsub_topic: shard().to_string(), message: Some(message("v2").into()) };
    let request = v2::PushRpc { request_id: "id".to_owned(), request: Some(push), response: None };
    let (id, response) = exchange(request.clone()).await;
    assert_eq!((id.as_str(), response.is_success, response.info.as_str()), ("id", true, "OK"));
    let (_, response) = exchange(v2::PushRpc { request: None, ..request }).await;
    assert!(!response.is_success && response.info.contains("missing"));
}

#[tokio::test(flavor = "multi_thread")]
async fn pushes_over_the_rate() {
    let clock = clock();
    let limits = ServeLimits { rate_per_peer: Some(burst(1.0)), ..unlimited().limits };
    let net = net(&clock, LightPushConfig { limits, gate: None }).await;
    net.push(message("one")).await.unwrap();
    assert_eq!(status(net.push(message("two")).await), 429);
    // Version 2 counts by itself.
    assert!(net.service.unserve(LIGHTPUSH_PROTOCOL).await);
    net.push(message("two")).await.unwrap();
    let error = net.push(message("three")).await.unwrap_err();
    assert!(matches!(&error, LightPushError::Refused { info } if info == "TOO_MANY_REQUESTS"), "{error}");
}

#[tokio::test(flavor = "multi_thread")]
async fn static_shards_must_be_named() {
    let clock = clock();
    let fixed = |lightpush| NodeConfig {
        sharding: Sharding::Static,
        shards: vec![ShardIndex::new(7).unwrap()],
        lightpush,
        ..config(&clock)
    };
    let service = Node::spawn(fixed(Some(unlimited()))).await.unwrap();
    let relay = Node::spawn(fixed(None)).await.unwrap();
    let light = Node::spawn(NodeConfig { relay: false, shards: vec![], ..fixed(None) }).await.unwrap();
    connect(&relay, &service).await;
    connect(&light, &service).await;
    service.wait_for_topic_peers(shard(), 1, PATIENCE).await.unwrap();
    let push = |topic| {
        let request = LightPushRequest::new(topic, message("x"));
        let (light, peer) = (light.clone(), service.peer_id());
        async move { light.lightpush(peer, &request).await }
    };
    assert_eq!(status(push(None).await), 420);
    assert_eq!(push(Some(shard())).await.unwrap().relay_peers, Some(1));

    let error = Node::spawn(NodeConfig { relay: false, ..fixed(Some(unlimited())) }).await.unwrap_err();
    assert_eq!(error.code(), "TRB-W341");
}

#[derive(Debug, Default)]
struct Gate {
    seen: Mutex<Vec<GatedPush>>,
    served: Mutex<Vec<LightPushStatus>>,
}

#[async_trait]
impl LightPushGate for Gate {
    async fn admit(&self, push: &GatedPush) -> LightPushVerdict {
        self.seen.lock().unwrap().push(push.clone());
        if push.eligibility_proof.is_some() {
            LightPushVerdict::Allow
        } else {
            LightPushVerdict::Refuse { status: LightPushStatus::PAYMENT_REQUIRED, desc: "see offer 7".to_owned() }
        }
    }

    async fn served(&self, _: &GatedPush, status: LightPushStatus) {
        self.served.lock().unwrap().push(status);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn the_gate_decides_before_anything_is_published() {
    let clock = clock();
    let gate = Arc::new(Gate::default());
    let mut net = net(&clock, LightPushConfig { gate: Some(gate.clone()), ..unlimited() }).await;
    let error = net.push(message("x")).await.unwrap_err();
    assert!(
        matches!(&error, LightPushError::Status { status: LightPushStatus::PAYMENT_REQUIRED, desc } if desc == "see offer 7"),
        "{error}"
    );
    let paid = LightPushRequest { eligibility_proof: Some("paid".into()), ..LightPushRequest::new(None, message("x")) };
    net.light.lightpush(net.service.peer_id(), &paid).await.unwrap();
    assert_eq!(net.received().await, "x");
    let seen = gate.seen.lock().unwrap().clone();
    assert_eq!(seen.len(), 2);
    assert_eq!((seen[1].peer, seen[1].request.pubsub_topic), (net.light.peer_id(), Some(shard())));
    assert_eq!(seen[1].signed_bytes, lightpush_bytes_without_proof(&paid), "as the buyer signed it, without the shard");
    assert_eq!(*gate.served.lock().unwrap(), [LightPushStatus::OK]);
    assert!(net.service.set_lightpush_gate(None));
    net.push(message("free")).await.unwrap();
    assert_eq!(net.received().await, "free");
    assert!(!net.light.set_lightpush_gate(None));
}
