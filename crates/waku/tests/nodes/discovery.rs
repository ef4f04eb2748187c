//! Nodes that know one record find each other.

use std::sync::Arc;

use tributary_waku::{
    Capabilities, ClusterId, DiscoveryConfig, DiscoveryLimits, FoundBy, ManualClock, Node, NodeConfig, NodeError,
    NodeHandle, NodeRecord, PEER_EXCHANGE_PROTOCOL, PeerExchangeConfig, PeerExchangeError, PeerExchangeStatus,
    RecordContent, RecordShards, ServiceFamilies, ShardIndex, Sharding,
    proto::peer_exchange::v2::{PeerExchangeQuery, PeerExchangeResponse, PeerExchangeRpc, PeerInfo},
};

use prost::Message as _;

use crate::{
    common::{CLUSTER, PATIENCE, address, burst, clock, config, connect, message, shard, topic, unlimited, within},
    raw::RawPeer,
};

fn discovery(bootstrap: Vec<NodeRecord>) -> DiscoveryConfig {
    DiscoveryConfig {
        ask_peers: false,
        peer_exchange: Some(PeerExchangeConfig { limits: unlimited() }),
        limits: DiscoveryLimits::shared_address(),
        ..DiscoveryConfig::new(Some("127.0.0.1:0".parse().unwrap()), bootstrap)
    }
}

async fn finder(clock: &Arc<ManualClock>, bootstrap: Vec<NodeRecord>) -> NodeHandle {
    Node::spawn(NodeConfig { discovery: Some(discovery(bootstrap)), ..config(clock) }).await.unwrap()
}

fn record(node: &NodeHandle) -> NodeRecord {
    node.record().unwrap()
}

/// Waits until a node has found another.
async fn found(node: &NodeHandle, other: &NodeHandle, by: FoundBy) {
    let mut peers = node.watch_found_peers().unwrap();
    within("finding a node", async {
        loop {
            let next = peers.next().await.unwrap();
            if next.record.peer_id() == other.peer_id() {
                assert_eq!(next.by, by);
                return;
            }
        }
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn three_nodes_find_each_other_and_relay() {
    let clock = clock();
    let a = finder(&clock, vec![]).await;
    let b = finder(&clock, vec![record(&a)]).await;
    let c = finder(&clock, vec![record(&a)]).await;
    for (one, two) in [(&a, &b), (&a, &c), (&b, &c)] {
        one.wait_for_peer(two.peer_id(), PATIENCE).await.unwrap();
        two.wait_for_peer(one.peer_id(), PATIENCE).await.unwrap();
    }
    found(&c, &b, FoundBy::Discv5).await;
    found(&a, &c, FoundBy::Discv5).await;
    assert_eq!(a.found_peers().len(), 2);
    let mut at_c = c.subscribe([topic()]).unwrap();
    b.wait_for_mesh(shard(), 1, PATIENCE).await.unwrap();
    c.wait_for_mesh(shard(), 1, PATIENCE).await.unwrap();
    b.publish(message("found")).await.unwrap();
    let received = within("the message", at_c.recv()).await.unwrap();
    assert_eq!(received.message.payload, "found");
}

#[tokio::test(flavor = "multi_thread")]
async fn nodes_find_each_other_over_ipv6() {
    let clock = clock();
    let of = async |bootstrap| {
        let discovery = DiscoveryConfig { listen: Some("[::1]:0".parse().unwrap()), ..discovery(bootstrap) };
        let listen = vec!["/ip6/::1/tcp/0".parse().unwrap()];
        Node::spawn(NodeConfig { listen, discovery: Some(discovery), ..config(&clock) }).await.unwrap()
    };
    let a = of(vec![]).await;
    let b = of(vec![record(&a)]).await;
    let c = of(vec![record(&a)]).await;
    assert!(record(&a).udp()[0].is_ipv6() && record(&a).addresses() == [address(&a)], "{:?}", record(&a));
    found(&b, &c, FoundBy::Discv5).await;
    found(&c, &b, FoundBy::Discv5).await;
    b.wait_for_peer(c.peer_id(), PATIENCE).await.unwrap();
}

/// A node behind an address that it doesn't know puts into its record what others see, once enough of them agree.
#[tokio::test(flavor = "multi_thread")]
async fn a_node_learns_its_address_from_others() {
    /// More than what discv5 takes for enough, which is 10; the first is known from the start, and asked for its vote much later.
    const VOTERS: usize = 15;
    let clock = clock();
    let first = finder(&clock, vec![]).await;
    let mut voters = Vec::new();
    for _ in 0..VOTERS {
        voters.push(finder(&clock, vec![record(&first)]).await);
    }
    for voter in &voters {
        found(&first, voter, FoundBy::Discv5).await;
    }
    let discovery = DiscoveryConfig { listen: Some("0.0.0.0:0".parse().unwrap()), ..discovery(vec![record(&first)]) };
    let node = Node::spawn(NodeConfig { listen: vec![], discovery: Some(discovery), ..config(&clock) }).await.unwrap();
    assert_eq!(record(&node).udp(), []);
    within("the votes", async {
        while record(&node).udp().is_empty() {
            tokio::time::sleep(std::time::Duration::from_millis(10)).await;
        }
    })
    .await;
    assert_eq!(record(&node).udp()[0].ip(), std::net::Ipv4Addr::LOCALHOST);
}

#[tokio::test(flavor = "multi_thread")]
async fn nodes_of_other_networks_are_not_found() {
    let clock = clock();
    let a = finder(&clock, vec![]).await;
    let elsewhere =
        NodeConfig { cluster: ClusterId(43), discovery: Some(discovery(vec![record(&a)])), ..config(&clock) };
    let stranger = Node::spawn(elsewhere).await.unwrap();
    // Another shard of the same cluster.
    let shards = vec![ShardIndex::new(1).unwrap()];
    let aside = NodeConfig { shards, discovery: Some(discovery(vec![record(&a)])), ..config(&clock) };
    let aside = Node::spawn(aside).await.unwrap();
    let shards = vec![ShardIndex::new(7).unwrap()];
    let b = NodeConfig { shards, discovery: Some(discovery(vec![record(&a)])), ..config(&clock) };
    let b = Node::spawn(b).await.unwrap();
    found(&a, &b, FoundBy::Discv5).await;
    found(&a, &aside, FoundBy::Discv5).await;
    let known = |node: &NodeHandle, other: &NodeHandle| {
        node.found_peers().iter().any(|found| found.record.peer_id() == other.peer_id())
    };
    assert!(!known(&a, &stranger) && !known(&stranger, &a), "another cluster");
    b.wait_for_peer(a.peer_id(), PATIENCE).await.unwrap();
    assert!(!known(&b, &aside) && !known(&aside, &b), "no shard in common");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_node_says_what_it_is() {
    let clock = clock();
    let settings = DiscoveryConfig { sells: ServiceFamilies::STORE | ServiceFamilies::TURN, ..discovery(vec![]) };
    let external = vec!["/dns4/node.example/tcp/443/wss".parse().unwrap(), "/ip4/1.2.3.4/tcp/30303".parse().unwrap()];
    let dir = tempfile::tempdir().unwrap();
    let a = Node::spawn(NodeConfig {
        external: external.clone(),
        discovery: Some(settings),
        archive: Some(tributary_waku::ArchiveConfig::new(dir.path().join("archive.db"))),
        ..config(&clock)
    })
    .await
    .unwrap();
    let told = record(&a);
    assert_eq!(told.peer_id(), a.peer_id());
    assert_eq!(told.capabilities(), Capabilities::RELAY | Capabilities::STORE);
    assert_eq!(told.sells(), ServiceFamilies::STORE | ServiceFamilies::TURN);
    assert_eq!(told.shards().unwrap().shards.len(), 8);
    assert_eq!(told.multiaddrs(), &external[..1]);
    assert!(told.addresses()[0].to_string().starts_with("/ip4/1.2.3.4/tcp/30303/p2p/"));
    assert!(told.udp()[0].port() != 0);

    let b = finder(&clock, vec![]).await;
    assert_eq!(record(&b).addresses(), [address(&b)]);
    let light = NodeConfig { relay: false, discovery: Some(discovery(vec![])), ..config(&clock) };
    let light = Node::spawn(light).await.unwrap();
    assert!(record(&light).capabilities().is_empty());
    let plain = Node::spawn(config(&clock)).await.unwrap();
    assert_eq!(plain.record(), None);
    assert!(matches!(plain.watch_found_peers(), Err(NodeError::NoDiscovery)));
    assert!(plain.found_peers().is_empty());

    let too_many = NodeConfig { discovery: Some(discovery(vec![])), ..config(&clock) };
    let shards: Vec<ShardIndex> = (0..65).map(|shard| ShardIndex::new(shard).unwrap()).collect();
    let too_many = NodeConfig { sharding: Sharding::Static, shards, ..too_many };
    assert_eq!(Node::spawn(too_many).await.unwrap_err().code(), "TRB-W605");
    let taken = DiscoveryConfig { listen: Some(record(&b).udp()[0]), ..discovery(vec![]) };
    let error = Node::spawn(NodeConfig { discovery: Some(taken), ..config(&clock) }).await.unwrap_err();
    assert_eq!(error.code(), "TRB-W342");

    let mut end = b.watch_found_peers().unwrap();
    b.shutdown().await;
    assert_eq!(within("the end", end.next()).await, None);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_light_client_learns_peers_by_peer_exchange() {
    let clock = clock();
    let a = finder(&clock, vec![]).await;
    let b = finder(&clock, vec![record(&a)]).await;
    let c = finder(&clock, vec![record(&a)]).await;
    found(&a, &b, FoundBy::Discv5).await;
    found(&a, &c, FoundBy::Discv5).await;
    // One record, no discv5: the rest comes from the bootstrap node, by itself.
    let settings = DiscoveryConfig { listen: None, ask_peers: true, ..discovery(vec![record(&a)]) };
    let light = NodeConfig { relay: false, listen: vec![], discovery: Some(settings), ..config(&clock) };
    let light = Node::spawn(light).await.unwrap();
    for node in [&a, &b, &c] {
        light.wait_for_peer(node.peer_id(), PATIENCE).await.unwrap();
    }
    found(&light, &b, FoundBy::PeerExchange).await;
    // Asked by hand, and without a book.
    let plain = Node::spawn(NodeConfig { relay: false, listen: vec![], ..config(&clock) }).await.unwrap();
    plain.dial_within(&address(&a), PATIENCE).await.unwrap();
    let told = plain.exchange_peers(a.peer_id(), 60).await.unwrap();
    assert_eq!(told.len(), 2);
    assert!(told.contains(&record(&b)) && told.contains(&record(&c)));
    assert_eq!(plain.exchange_peers(a.peer_id(), 1).await.unwrap().len(), 1);
    assert_eq!(plain.exchange_peers(a.peer_id(), 0).await.unwrap(), []);
    // What the client learned by peer exchange, or was configured with, it doesn't tell.
    let unsure = a.exchange_peers(light.peer_id(), 60).await.unwrap_err();
    let none = PeerExchangeStatus::SERVICE_UNAVAILABLE;
    assert!(matches!(unsure, PeerExchangeError::Status { status, .. } if status == none), "{unsure}");
}

#[tokio::test(flavor = "multi_thread")]
async fn peer_exchange_refuses_in_its_own_terms() {
    let clock = clock();
    let limits =
        tributary_waku::ServeLimits { rate_per_peer: Some(burst(3.0)), ..PeerExchangeConfig::default().limits };
    let exchange = Some(PeerExchangeConfig { limits });
    let settings = DiscoveryConfig { peer_exchange: exchange, ..discovery(vec![]) };
    let a = Node::spawn(NodeConfig { discovery: Some(settings), ..config(&clock) }).await.unwrap();
    let status = |answer: Vec<u8>| {
        let response = PeerExchangeRpc::decode_length_delimited(answer.as_slice()).unwrap().response.unwrap();
        assert!(response.peer_infos.is_empty() && response.status_desc.is_some());
        response.status_code
    };
    let raw = RawPeer::dial(&address(&a), PEER_EXCHANGE_PROTOCOL, &[], &[2, 0x08, 42]).await;
    let query = |num_peers| {
        let query = Some(PeerExchangeQuery { num_peers });
        PeerExchangeRpc { query, response: None }.encode_length_delimited_to_vec()
    };
    // Nothing was found yet.
    assert_eq!(status(raw.exchange(query(u64::MAX)).await.unwrap()), Some(503));
    assert_eq!(status(raw.exchange(vec![1, 0x0a]).await.unwrap()), Some(400));
    assert_eq!(status(raw.exchange(vec![0xff, 0xff, 0x7f]).await.unwrap()), Some(400));
    for _ in 0..20 {
        assert_eq!(status(raw.exchange(query(5)).await.unwrap()), Some(429));
    }
    let stats = a.serve_stats(PEER_EXCHANGE_PROTOCOL).unwrap();
    assert_eq!((stats.answered, stats.too_large, stats.rate_limited), (2, 1, 20));
}

#[derive(Debug)]
struct Liar(Vec<u8>);

#[async_trait::async_trait]
impl tributary_waku::RequestHandler for Liar {
    async fn handle(&self, _: tributary_waku::PeerId, _: tributary_waku::Bytes) -> Option<tributary_waku::Bytes> {
        Some(self.0.clone().into())
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn malformed_and_flooding_answers_are_bounded() {
    let clock = clock();
    let light = NodeConfig {
        relay: false,
        listen: vec![],
        discovery: Some(DiscoveryConfig {
            listen: None,
            limits: DiscoveryLimits { max_found: 10, ..DiscoveryLimits::shared_address() },
            ..discovery(vec![])
        }),
        ..config(&clock)
    };
    let light = Node::spawn(light).await.unwrap();
    let content = RecordContent {
        capabilities: Capabilities::RELAY,
        shards: Some(RecordShards { cluster: CLUSTER, shards: vec![ShardIndex::new(7).unwrap()] }),
        ..RecordContent::default()
    };
    let signed = || content.sign(&tributary_waku::NodeKey::generate(), 1).unwrap().encode();
    let answer = |enrs: Vec<tributary_waku::Bytes>, status_code| {
        let peer_infos = enrs.into_iter().map(|enr| PeerInfo { enr }).collect();
        let response = Some(PeerExchangeResponse { peer_infos, status_code, status_desc: None });
        PeerExchangeRpc { query: None, response }.encode_to_vec()
    };
    let ask = async |lie: Vec<u8>, count| {
        let server = Node::spawn(config(&clock)).await.unwrap();
        server.serve(PEER_EXCHANGE_PROTOCOL, unlimited(), Arc::new(Liar(lie))).await.unwrap();
        connect(&light, &server).await;
        light.exchange_peers(server.peer_id(), count).await
    };
    // More than were asked for, and than there is room for.
    let many: Vec<_> = (0..60).map(|_| signed()).collect();
    assert_eq!(ask(answer(many.clone(), Some(200)), 5).await.unwrap().len(), 5);
    assert_eq!(ask(answer(many.clone(), None), 1000).await.unwrap().len(), 60);
    assert_eq!(light.found_peers().len(), 10);
    // The same one again and again, broken ones, and one that is too large.
    let one = signed();
    let mut broken = one.to_vec();
    broken[10] ^= 1;
    let mixed = vec![one.clone(), one.clone(), broken.into(), vec![0; 301].into(), tributary_waku::Bytes::new()];
    assert_eq!(ask(answer(mixed, Some(200)), 60).await.unwrap(), [NodeRecord::decode(&one).unwrap()]);
    // Not answers.
    for lie in [vec![0xff; 3], vec![]] {
        assert_eq!(ask(lie, 5).await.unwrap_err().code(), "TRB-W612");
    }
    let refused = ask(answer(vec![], None), 5).await.unwrap_err();
    let status = PeerExchangeStatus::SERVICE_UNAVAILABLE;
    assert!(matches!(refused, PeerExchangeError::Status { status: s, .. } if s == status), "{refused}");
    assert_eq!(ask(answer(many, Some(429)), 5).await.unwrap_err().code(), "TRB-W611");
    // Refused at its length, before it is read.
    assert_eq!(ask(vec![0; 100_000], 60).await.unwrap_err().code(), "TRB-W306");
    assert_eq!(light.found_peers().len(), 10);
}
