//! Connections: metadata, limits, static peers.

use std::time::Duration;

use tributary_waku::{
    ClusterId, DialError, MetadataPolicy, Multiaddr, Node, NodeConfig, NodeError, NodeLimits, PeerMetadata, ShardIndex,
    Sharding,
};

use crate::{
    common::{PATIENCE, address, clock, config, connect, node},
    raw::RawPeer,
};

#[tokio::test(flavor = "multi_thread")]
async fn peers_know_each_others_cluster_and_shards() {
    let clock = clock();
    let a = node(&clock).await;
    let light = Node::spawn(NodeConfig { relay: false, listen: vec![], ..config(&clock) }).await.unwrap();
    connect(&light, &a).await;
    let metadata = |cluster, shards: std::ops::Range<u16>| {
        Some(PeerMetadata { cluster: Some(cluster), shards: shards.map(|s| ShardIndex::new(s).unwrap()).collect() })
    };
    assert_eq!(light.peers_metadata().await, [(a.peer_id(), metadata(ClusterId(42), 0..8))]);
    assert_eq!(a.peers_metadata().await, [(light.peer_id(), metadata(ClusterId(42), 0..0))]);
    assert_eq!(a.connected_peers().await, [light.peer_id()]);
    // A second dial finds the connection.
    assert_eq!(light.dial(&address(&a)).await, Ok(a.peer_id()));
    light.disconnect(a.peer_id()).await;
    a.wait_for_disconnect(light.peer_id(), PATIENCE).await.unwrap();
    assert!(a.connected_peers().await.is_empty());
}

#[tokio::test(flavor = "multi_thread")]
async fn peers_of_other_networks_are_disconnected() {
    let clock = clock();
    let a = node(&clock).await;
    let elsewhere = NodeConfig { cluster: ClusterId(43), ..config(&clock) };
    let b = Node::spawn(elsewhere.clone()).await.unwrap();
    let error = a.dial_within(&address(&b), PATIENCE).await.unwrap_err();
    // Whoever is quicker closes the connection; each knows why by itself.
    assert!(
        matches!(&error, DialError::Incompatible { peer, .. } | DialError::Failed { peer, .. } if *peer == b.peer_id()),
        "{error}"
    );
    a.wait_for_disconnect(b.peer_id(), PATIENCE).await.unwrap();
    b.wait_for_disconnect(a.peer_id(), PATIENCE).await.unwrap();
    assert!(a.stats().incompatible_peers + b.stats().incompatible_peers >= 1);

    let tolerant = NodeConfig { metadata: MetadataPolicy::Observe, ..elsewhere };
    let c = Node::spawn(NodeConfig { metadata: MetadataPolicy::Observe, ..config(&clock) }).await.unwrap();
    let d = Node::spawn(NodeConfig { key: tributary_waku::NodeKey::generate(), ..tolerant }).await.unwrap();
    connect(&c, &d).await;
    assert_eq!(c.peers_metadata().await[0].1.as_ref().unwrap().cluster, Some(ClusterId(43)));
}

#[tokio::test(flavor = "multi_thread")]
async fn peers_without_a_cluster_are_disconnected() {
    let clock = clock();
    let a = node(&clock).await;
    for metadata in [&[0][..], &[2, 0x08, 43], &[1, 0x08], &[]] {
        let raw = RawPeer::dial(&address(&a), "/test/none/1", &[], metadata).await;
        a.wait_for_disconnect(raw.peer_id, PATIENCE).await.unwrap();
        let failed = a.wait_for_peer(raw.peer_id, Duration::from_millis(1)).await.unwrap_err();
        assert!(matches!(failed, NodeError::Timeout { .. }));
    }
    // Shards as deployed light clients send them: none.
    let raw = RawPeer::dial(&address(&a), "/test/none/1", &[], &[2, 0x08, 42]).await;
    a.wait_for_peer(raw.peer_id, PATIENCE).await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn metadata_on_the_wire() {
    let clock = clock();
    let a = node(&clock).await;
    let raw = RawPeer::dial(&address(&a), "/vac/waku/metadata/1.0.0", &[], &[2, 0x08, 42]).await;
    let mut expected = vec![2 + 16 + 10, 0x08, 42];
    expected.extend((0..8).flat_map(|shard| [0x10, shard]));
    expected.extend([0x1a, 8, 0, 1, 2, 3, 4, 5, 6, 7]);
    // Three times, as js-waku asks; the stream ends after the answer, which `exchange` waits for.
    for _ in 0..3 {
        assert_eq!(raw.exchange(vec![2, 0x08, 42]).await, Ok(expected.clone()));
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn connections_of_one_address_are_bounded() {
    let clock = clock();
    let limits = NodeLimits { max_incoming_per_address: Some(2), ..NodeLimits::shared_address() };
    let a = Node::spawn(NodeConfig { limits, ..config(&clock) }).await.unwrap();
    let (b, c, d) = (node(&clock).await, node(&clock).await, node(&clock).await);
    connect(&b, &a).await;
    connect(&c, &a).await;
    let error = d.dial_within(&address(&a), PATIENCE).await.unwrap_err();
    assert!(matches!(error, DialError::Failed { .. }), "{error}");
    assert_eq!(a.connected_peers().await.len(), 2);
    b.shutdown().await;
    a.wait_for_disconnect(b.peer_id(), PATIENCE).await.unwrap();
    connect(&d, &a).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn connections_are_bounded_in_all() {
    let clock = clock();
    let limits = NodeLimits { max_incoming: 1, ..NodeLimits::shared_address() };
    let a = Node::spawn(NodeConfig { limits, ..config(&clock) }).await.unwrap();
    let (b, c) = (node(&clock).await, node(&clock).await);
    connect(&b, &a).await;
    let error = c.dial_within(&address(&a), PATIENCE).await.unwrap_err();
    assert!(matches!(error, DialError::Failed { .. }), "{error}");
    // What others may not take is left for the node's own dials.
    connect(&a, &c).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn static_peers_are_found_again() {
    let clock = clock();
    let setup = config(&clock);
    let a = Node::spawn(setup.clone()).await.unwrap();
    let at = address(&a);
    let b = Node::spawn(NodeConfig { static_peers: vec![at.clone()], ..config(&clock) }).await.unwrap();
    b.wait_for_peer(a.peer_id(), PATIENCE).await.unwrap();
    a.shutdown().await;
    b.wait_for_disconnect(a.peer_id(), PATIENCE).await.unwrap();
    let port: Multiaddr = at.iter().take(2).collect();
    let a = Node::spawn(NodeConfig { listen: vec![port], ..setup }).await.unwrap();
    b.wait_for_peer(a.peer_id(), PATIENCE).await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn impossible_dials_and_settings() {
    let clock = clock();
    let a = node(&clock).await;
    let bare: Multiaddr = "/ip4/127.0.0.1/tcp/1".parse().unwrap();
    assert_eq!(a.dial(&bare).await, Err(DialError::NoPeerId { address: bare }));
    assert_eq!(a.dial(&address(&a)).await, Err(DialError::OwnAddress));
    let b = node(&clock).await;
    let gone = address(&b);
    b.shutdown().await;
    assert_eq!(a.dial_within(&gone, PATIENCE).await.unwrap_err().code(), "TRB-W333");
    // Right address, wrong identity.
    let c = node(&clock).await;
    let mut impostor: Multiaddr = address(&c).iter().take(2).collect();
    impostor.push(tributary_waku::multiaddr::Protocol::P2p(b.peer_id()));
    assert_eq!(a.dial_within(&impostor, PATIENCE).await.unwrap_err().code(), "TRB-W333");

    let taken: Multiaddr = address(&a).iter().take(2).collect();
    let error = Node::spawn(NodeConfig { listen: vec![taken], ..config(&clock) }).await.unwrap_err();
    assert_eq!(error.code(), "TRB-W342");
    let error = Node::spawn(NodeConfig { listen: vec!["/ip4/127.0.0.1/udp/1".parse().unwrap()], ..config(&clock) });
    assert_eq!(error.await.unwrap_err().code(), "TRB-W342");
    let error = Node::spawn(NodeConfig { sharding: Sharding::Auto { shards: 4 }, ..config(&clock) }).await.unwrap_err();
    assert_eq!(error.code(), "TRB-W341");
    let error = Node::spawn(NodeConfig { sharding: Sharding::Auto { shards: 0 }, ..config(&clock) }).await.unwrap_err();
    assert_eq!(error.code(), "TRB-W105");
    let error =
        Node::spawn(NodeConfig { static_peers: vec!["/ip4/127.0.0.1/tcp/1".parse().unwrap()], ..config(&clock) });
    assert_eq!(error.await.unwrap_err().code(), "TRB-W341");
}
