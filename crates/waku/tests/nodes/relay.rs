//! Relay between real nodes, and between a node and peers that break its rules.

use std::{
    collections::{HashMap, HashSet},
    time::Duration,
};

use prost::Message as _;
use tributary_waku::{
    Bytes, ClusterId, ContentTopic, MAX_MESSAGE_BYTES, MessageError, Node, NodeConfig, NodeHandle, PublishError,
    RELAY_PROTOCOL, ShardIndex, Sharding, Subscription, TopicError, WakuMessage,
};

use crate::{
    common::{NOW, PATIENCE, address, clock, config, connect, message, node, shard, topic, within},
    raw::{RawPeer, Script},
};

/// The part of gossipsub's RPC that matters here.
#[derive(Clone, PartialEq, prost::Message)]
struct Rpc {
    #[prost(message, repeated, tag = "1")]
    subscriptions: Vec<Subscribe>,
    #[prost(message, repeated, tag = "2")]
    publish: Vec<Relayed>,
    #[prost(bytes = "vec", optional, tag = "3")]
    control: Option<Vec<u8>>,
}

#[derive(Clone, PartialEq, prost::Message)]
struct Subscribe {
    #[prost(bool, optional, tag = "1")]
    subscribe: Option<bool>,
    #[prost(string, optional, tag = "2")]
    topic: Option<String>,
}

#[derive(Clone, PartialEq, prost::Message)]
struct Relayed {
    #[prost(bytes = "vec", optional, tag = "1")]
    from: Option<Vec<u8>>,
    #[prost(bytes = "vec", optional, tag = "2")]
    data: Option<Vec<u8>>,
    #[prost(bytes = "vec", optional, tag = "3")]
    seqno: Option<Vec<u8>>,
    #[prost(string, tag = "4")]
    topic: String,
    #[prost(bytes = "vec", optional, tag = "5")]
    signature: Option<Vec<u8>>,
    #[prost(bytes = "vec", optional, tag = "6")]
    key: Option<Vec<u8>>,
}

fn relayed(data: &[u8]) -> Relayed {
    Relayed { data: Some(data.to_vec()), topic: shard().to_string(), ..Relayed::default() }
}

fn subscription() -> Vec<u8> {
    let subscribe = Subscribe { subscribe: Some(true), topic: Some(shard().to_string()) };
    Rpc { subscriptions: vec![subscribe], ..Rpc::default() }.encode_length_delimited_to_vec()
}

fn publication(messages: impl IntoIterator<Item = Relayed>) -> Vec<u8> {
    messages
        .into_iter()
        .flat_map(|m| Rpc { publish: vec![m], ..Rpc::default() }.encode_length_delimited_to_vec())
        .collect()
}

/// Whole RPCs among received bytes.
fn rpcs(mut bytes: &[u8]) -> Vec<Rpc> {
    let mut all = Vec::new();
    while let Ok(rpc) = Rpc::decode_length_delimited(&mut bytes) {
        all.push(rpc);
    }
    all
}

async fn raw(node: &NodeHandle) -> RawPeer {
    let raw = RawPeer::dial(&address(node), RELAY_PROTOCOL, &[RELAY_PROTOCOL], &[2, 0x08, 42]).await;
    node.wait_for_peer(raw.peer_id, PATIENCE).await.unwrap();
    raw
}

async fn payload(subscription: &mut Subscription) -> Bytes {
    within("a message", subscription.recv()).await.unwrap().message.payload.clone()
}

#[tokio::test(flavor = "multi_thread")]
async fn three_nodes_get_each_message_exactly_once() {
    let clock = clock();
    let nodes = [node(&clock).await, node(&clock).await, node(&clock).await];
    // A line: messages between the ends are relayed.
    connect(&nodes[0], &nodes[1]).await;
    connect(&nodes[2], &nodes[1]).await;
    let mut subscriptions: Vec<_> = nodes.iter().map(|n| n.subscribe([topic()]).unwrap()).collect();
    for (n, peers) in [(0, 1), (1, 2), (2, 1)] {
        nodes[n].wait_for_topic_peers(shard(), peers, PATIENCE).await.unwrap();
        nodes[n].wait_for_mesh(shard(), peers, PATIENCE).await.unwrap();
        assert_eq!(nodes[n].peers_on_topic(shard()).await, peers);
    }
    let mut hashes = HashSet::new();
    for round in 0..100 {
        for (n, node) in nodes.iter().enumerate() {
            let published = node.publish(message(format!("{n} {round}"))).await.unwrap();
            assert_eq!(published.pubsub_topic, shard());
            assert_eq!(published.relay_peers, if n == 1 { 2 } else { 1 });
            assert!(hashes.insert(published.hash));
        }
    }
    // Relay keeps no order between publishers, so the count decides; then a last round shows that nothing came twice.
    for subscription in &mut subscriptions {
        let mut seen = HashMap::new();
        while seen.len() < 300 {
            let received = within("a message", subscription.recv()).await.unwrap();
            assert_eq!(received.pubsub_topic, shard());
            assert_eq!(received.message.hash(shard()), received.hash);
            *seen.entry(received.hash).or_insert(0) += 1;
        }
        assert!(seen.values().all(|n| *n == 1));
        assert!(seen.keys().all(|hash| hashes.contains(hash)));
    }
    for node in &nodes {
        node.publish(message(format!("last of {}", node.peer_id()))).await.unwrap();
    }
    for subscription in &mut subscriptions {
        let mut last = HashSet::new();
        for _ in 0..3 {
            last.insert(payload(subscription).await);
        }
        assert_eq!(last, nodes.iter().map(|n| Bytes::from(format!("last of {}", n.peer_id()))).collect());
        assert_eq!(subscription.try_recv(), None);
        assert_eq!(subscription.dropped(), 0);
    }
    for node in &nodes {
        let stats = node.stats();
        assert_eq!((stats.relay_accepted, stats.relay_rejected, stats.relay_ignored), (202, 0, 0));
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn what_cannot_be_published() {
    let clock = clock();
    let (a, b) = (node(&clock).await, node(&clock).await);
    let mut own = a.subscribe_all().unwrap();
    assert_eq!(a.publish(message("x")).await, Err(PublishError::NoPeers { topic: shard() }));
    assert_eq!(own.try_recv(), None, "nobody got it");
    connect(&a, &b).await;
    a.wait_for_topic_peers(shard(), 1, PATIENCE).await.unwrap();
    a.publish(message("x")).await.unwrap();
    assert_eq!(a.publish(message("x")).await, Err(PublishError::Duplicate));
    // Another encoding of the same message is the same message.
    assert_eq!(a.publish(WakuMessage { version: Some(0), ..message("x") }).await, Err(PublishError::Duplicate));
    assert_eq!(payload(&mut own).await, "x");

    let foreign = "/waku/2/rs/43/7".parse().unwrap();
    assert_eq!(
        a.publish_to(foreign, message("y")).await,
        Err(PublishError::WrongCluster { topic: foreign, cluster: ClusterId(42) })
    );
    let large = a.publish(message(vec![0; MAX_MESSAGE_BYTES])).await.unwrap_err();
    assert!(matches!(large, PublishError::Invalid(MessageError::TooLarge { .. })), "{large}");
    let late = WakuMessage { timestamp: Some(NOW.saturating_add(Duration::from_secs(21))), ..message("y") };
    assert_eq!(a.publish(late).await.unwrap_err().code(), "TRB-W206");
    let opaque = WakuMessage { content_topic: ContentTopic::opaque("Test"), ..message("y") };
    assert_eq!(a.publish(opaque.clone()).await.unwrap_err().code(), "TRB-W102");
    // A static shard takes it.
    a.publish_to(shard(), opaque).await.unwrap();

    let light = Node::spawn(NodeConfig { relay: false, ..config(&clock) }).await.unwrap();
    assert_eq!(light.publish(message("y")).await, Err(PublishError::NoRelay));
    assert_eq!(light.subscribe_all().unwrap_err().code(), "TRB-W325");
    assert_eq!(light.wait_for_mesh(shard(), 1, PATIENCE).await.unwrap_err().code(), "TRB-W325");
    let fixed = NodeConfig { sharding: Sharding::Static, shards: vec![ShardIndex::new(3).unwrap()], ..config(&clock) };
    let fixed = Node::spawn(fixed).await.unwrap();
    assert_eq!(fixed.publish(message("y")).await, Err(PublishError::Topic(TopicError::StaticSharding)));
    assert_eq!(fixed.subscribe_shard(shard()).unwrap_err().code(), "TRB-W344");
    let partial = NodeConfig { shards: vec![ShardIndex::new(3).unwrap()], ..config(&clock) };
    let partial = Node::spawn(partial).await.unwrap();
    assert_eq!(partial.subscribe([topic()]).unwrap_err().code(), "TRB-W344");

    a.shutdown().await;
    assert_eq!(a.publish(message("z")).await, Err(PublishError::Stopped));
    // What was delivered before can be read still; then the subscription ends.
    assert_eq!(within("the second message", own.recv()).await.unwrap().message.payload, "y");
    assert_eq!(within("the end", own.recv()).await, None);
    assert_eq!(a.subscribe_all().unwrap_err().code(), "TRB-W310");
}

#[tokio::test(flavor = "multi_thread")]
async fn the_largest_message_is_relayed() {
    let clock = clock();
    let nodes = [node(&clock).await, node(&clock).await, node(&clock).await];
    connect(&nodes[0], &nodes[1]).await;
    connect(&nodes[2], &nodes[1]).await;
    let mut far = nodes[2].subscribe_all().unwrap();
    nodes[0].wait_for_mesh(shard(), 1, PATIENCE).await.unwrap();
    nodes[2].wait_for_mesh(shard(), 1, PATIENCE).await.unwrap();
    let overhead = message(vec![0; 100_000]).encode().len() - 100_000;
    let largest = message(vec![7; MAX_MESSAGE_BYTES - overhead]);
    assert_eq!(largest.encode().len(), MAX_MESSAGE_BYTES);
    nodes[0].publish(largest.clone()).await.unwrap();
    assert_eq!(*within("the largest message", far.recv()).await.unwrap().message, largest);
}

#[tokio::test(flavor = "multi_thread")]
async fn nobody_is_named_on_the_wire() {
    let clock = clock();
    let a = node(&clock).await;
    let raw = raw(&a).await;
    let _relay = raw.start(Script::Hang(subscription()));
    a.wait_for_topic_peers(shard(), 1, PATIENCE).await.unwrap();
    let sent = message("anonymous");
    a.publish(sent.clone()).await.unwrap();
    let seen = within(
        "the message",
        raw.received.find(|bytes| rpcs(bytes).into_iter().find_map(|rpc| rpc.publish.into_iter().next())),
    )
    .await;
    assert_eq!(seen, relayed(&sent.encode()), "from, seqno, signature and key are absent");
    let subscribed: HashSet<_> = within(
        "the subscriptions",
        raw.received.find(|bytes| {
            let topics: HashSet<_> =
                rpcs(bytes).into_iter().flat_map(|rpc| rpc.subscriptions).filter_map(|s| s.topic).collect();
            (topics.len() >= 8).then_some(topics)
        }),
    )
    .await;
    assert_eq!(subscribed, (0..8).map(|s| format!("/waku/2/rs/42/{s}")).collect());
}

#[tokio::test(flavor = "multi_thread")]
async fn messages_with_an_author_are_refused() {
    let clock = clock();
    let a = node(&clock).await;
    let mut messages = a.subscribe_all().unwrap();
    let raw = raw(&a).await;
    let named = |n: u8| relayed(&message([n]).encode());
    let named = [
        Relayed { from: Some(raw.peer_id.to_bytes()), ..named(1) },
        Relayed { seqno: Some(vec![0; 8]), ..named(2) },
        Relayed { signature: Some(vec![1; 64]), ..named(3) },
    ];
    let last = relayed(&message("last").encode());
    let _relay = raw.start(Script::Hang([subscription(), publication(named.into_iter().chain([last]))].concat()));
    // Messages of one stream come in order, so the others would have come before.
    assert_eq!(payload(&mut messages).await, "last");
    assert_eq!(messages.try_recv(), None);
}

#[tokio::test(flavor = "multi_thread")]
async fn other_encodings_of_a_message_are_delivered_once() {
    let clock = clock();
    let (a, b) = (node(&clock).await, node(&clock).await);
    connect(&a, &b).await;
    let (mut at_a, mut at_b) = (a.subscribe_all().unwrap(), b.subscribe_all().unwrap());
    a.wait_for_mesh(shard(), 1, PATIENCE).await.unwrap();
    let raw = raw(&a).await;
    let plain = message("same").encode().to_vec();
    let variants = [
        plain.clone(),
        [&plain[..], &[0x18, 0]].concat(),       // version 0, explicitly
        [&plain[..], &[0xf8, 0x01, 0]].concat(), // ephemeral false, explicitly
        [&plain[..], &[0xa0, 0x1f, 1]].concat(), // an unknown field
    ];
    let last = message("last").encode().to_vec();
    let all = variants.iter().chain([&last]).map(|data| relayed(data));
    let _relay = raw.start(Script::Hang([subscription(), publication(all)].concat()));
    for messages in [&mut at_a, &mut at_b] {
        assert_eq!(payload(messages).await, "same");
        assert_eq!(payload(messages).await, "last");
        assert_eq!(messages.try_recv(), None);
    }
    assert_eq!((a.stats().relay_accepted, a.stats().relay_ignored), (2, 3));
    assert_eq!(b.stats().relay_accepted, 2, "variants were not relayed on");
}

#[tokio::test(flavor = "multi_thread")]
async fn bearers_of_invalid_messages_are_disconnected() {
    let clock = clock();
    let a = node(&clock).await;
    let mut messages = a.subscribe_all().unwrap();
    let untimed = WakuMessage { timestamp: None, ..message("untimed") }.encode();
    let late = WakuMessage { timestamp: Some(NOW.saturating_add(Duration::from_secs(21))), ..message("late") }.encode();
    let mut long_meta = message("meta");
    long_meta.meta = Some(vec![0; 65].into());

    // Ignored: no fault of the bearer.
    let honest = raw(&a).await;
    let sent = publication([relayed(&untimed), relayed(&message("first").encode())]);
    let _relay = honest.start(Script::Hang([subscription(), sent].concat()));
    assert_eq!(payload(&mut messages).await, "first");
    assert_eq!((a.stats().relay_ignored, a.stats().relay_rejected), (1, 0));

    // Rejected, one kind after the other.
    let careless = raw(&a).await;
    let invalid = [late.to_vec(), long_meta.encode().to_vec(), vec![0xff], vec![0x12, 0], vec![0x0a, 0]];
    let sent = publication(invalid.iter().map(|d| relayed(d)).chain([relayed(&message("second").encode())]));
    let _relay = careless.start(Script::Hang([subscription(), sent].concat()));
    assert_eq!(payload(&mut messages).await, "second");
    assert_eq!((a.stats().relay_ignored, a.stats().relay_rejected), (1, 5));

    // Eleven of them are worth -12100.
    let hostile = raw(&a).await;
    let sent = publication((0..11_u8).map(|n| relayed(&[0xff, n])));
    let _relay = hostile.start(Script::Hang([subscription(), sent].concat()));
    a.wait_for_disconnect(hostile.peer_id, PATIENCE).await.unwrap();
    assert_eq!(a.stats().relay_rejected, 16);
    assert_eq!(messages.try_recv(), None);
    assert!(a.connected_peers().await.contains(&honest.peer_id));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_relay_flood_is_cut_at_its_rate() {
    let clock = clock();
    let mut setup = config(&clock);
    setup.limits.relay_messages_per_peer = crate::common::burst(5.0);
    let a = Node::spawn(setup).await.unwrap();
    let mut messages = a.subscribe_all().unwrap();
    let flood = raw(&a).await;
    let sent = publication((0..50_u8).map(|n| relayed(&message([n]).encode())));
    let _relay = flood.start(Script::Hang([subscription(), sent].concat()));
    within("the flood", async {
        while a.stats().relay_ignored < 45 {
            tokio::task::yield_now().await;
        }
    })
    .await;
    assert_eq!(a.stats().relay_accepted, 5);
    // Another peer is heard.
    let honest = raw(&a).await;
    let _relay =
        honest.start(Script::Hang([subscription(), publication([relayed(&message("heard").encode())])].concat()));
    for n in 0..5_u8 {
        assert_eq!(payload(&mut messages).await.as_ref(), [n]);
    }
    assert_eq!(payload(&mut messages).await, "heard");
}
