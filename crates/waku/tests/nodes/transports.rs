//! TCP and websocket, yamux and mplex.

use tributary_waku::{METADATA_PROTOCOL, Multiaddr, Node, NodeConfig, NodeHandle};

use crate::{
    common::{PATIENCE, clock, config, connect, message, node, shard, within},
    raw::{Muxer, RawPeer},
};

/// A node that listens on both transports, and its addresses: TCP, websocket.
async fn listener() -> (NodeHandle, Multiaddr, Multiaddr) {
    let listen = ["/ip4/127.0.0.1/tcp/0", "/ip4/127.0.0.1/tcp/0/ws"].map(|address| address.parse().unwrap());
    let node = Node::spawn(NodeConfig { listen: listen.to_vec(), ..config(&clock()) }).await.unwrap();
    let (websocket, tcp): (Vec<_>, Vec<_>) =
        node.listen_addrs().into_iter().partition(|address| address.to_string().contains("/ws/p2p/"));
    let ([tcp], [websocket]) = (tcp.try_into().unwrap(), websocket.try_into().unwrap());
    (node, tcp, websocket)
}

#[tokio::test(flavor = "multi_thread")]
async fn nodes_relay_over_websocket() {
    let clock = clock();
    let listen = vec!["/ip4/127.0.0.1/tcp/0/ws".parse().unwrap()];
    let a = Node::spawn(NodeConfig { listen, ..config(&clock) }).await.unwrap();
    let b = node(&clock).await;
    connect(&b, &a).await;
    a.wait_for_mesh(shard(), 1, PATIENCE).await.unwrap();
    b.wait_for_mesh(shard(), 1, PATIENCE).await.unwrap();
    let mut received = a.subscribe_shard(shard()).unwrap();
    for payload in [vec![1; 10], vec![2; 140 * 1024]] {
        let sent = b.publish(message(&payload)).await.unwrap();
        let got = within("relaying", received.recv()).await.unwrap();
        assert_eq!((got.hash, &got.message.payload[..]), (sent.hash, &payload[..]));
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn both_muxers_work_on_both_transports() {
    let (node, tcp, websocket) = listener().await;
    let mut expected = vec![2 + 16 + 10, 0x08, 42];
    expected.extend((0..8).flat_map(|shard| [0x10, shard]));
    expected.extend([0x1a, 8, 0, 1, 2, 3, 4, 5, 6, 7]);
    for address in [tcp, websocket] {
        for muxer in [Muxer::Yamux, Muxer::Mplex] {
            let raw = RawPeer::dial_over(muxer, &address, METADATA_PROTOCOL, &[], &[2, 0x08, 42]).await;
            node.wait_for_peer(raw.peer_id, PATIENCE).await.unwrap();
            for _ in 0..10 {
                assert_eq!(raw.exchange(vec![2, 0x08, 42]).await, Ok(expected.clone()), "{muxer:?} over {address}");
            }
        }
    }
}
