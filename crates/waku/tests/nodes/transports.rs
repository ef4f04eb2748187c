//! TCP and websocket, yamux and mplex.

use std::collections::HashSet;

use libp2p::{
    Transport as _,
    core::{
        Endpoint,
        transport::{DialOpts, PortUse},
        upgrade::OutboundConnectionUpgrade as _,
    },
    identity::Keypair,
    multiaddr::Protocol,
    noise,
};
use tokio::{
    io::{AsyncReadExt as _, AsyncWriteExt as _},
    net::{TcpSocket, TcpStream},
    task::JoinSet,
};
use tributary_waku::{METADATA_PROTOCOL, Multiaddr, Node, NodeConfig, NodeHandle, NodeLimits};

use crate::{
    common::{PATIENCE, clock, config, connect, message, node, shard, within},
    raw::{Muxer, RawPeer},
};

/// A node that listens on both transports, and its addresses: TCP, websocket.
async fn listener() -> (NodeHandle, Multiaddr, Multiaddr) {
    listener_with(NodeLimits::shared_address()).await
}

async fn listener_with(limits: NodeLimits) -> (NodeHandle, Multiaddr, Multiaddr) {
    let listen = ["/ip4/127.0.0.1/tcp/0", "/ip4/127.0.0.1/tcp/0/ws"].map(|address| address.parse().unwrap());
    let node = Node::spawn(NodeConfig { listen: listen.to_vec(), limits, ..config(&clock()) }).await.unwrap();
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

/// Asks a node who it is, over a connection of its own.
async fn served(address: &Multiaddr) {
    let peer = RawPeer::dial(address, METADATA_PROTOCOL, &[], &[2, 0x08, 42]).await;
    let answer = within("an answer", peer.exchange(vec![2, 0x08, 42])).await.unwrap();
    assert_eq!(answer[1..3], [0x08, 42]);
}

fn port(address: &Multiaddr) -> u16 {
    let port = address.iter().find_map(|part| match part {
        Protocol::Tcp(port) => Some(port),
        _ => None,
    });
    port.unwrap()
}

#[tokio::test(flavor = "multi_thread")]
async fn half_open_connections_of_one_address_leave_room_for_others() {
    const OPEN: usize = 200;
    let limits = NodeLimits { max_incoming_per_address: Some(5), ..NodeLimits::shared_address() };
    assert!(limits.max_pending_incoming < 200, "the flood is larger than the room for handshakes");
    let (_node, tcp, websocket) = listener_with(limits).await;
    let mut closed = JoinSet::new();
    for i in 0..OPEN {
        let socket = TcpSocket::new_v4().unwrap();
        socket.bind("127.0.0.2:0".parse().unwrap()).unwrap();
        let to = port(if i % 2 == 0 { &tcp } else { &websocket });
        let mut stream = socket.connect(([127, 0, 0, 1], to).into()).await.unwrap();
        closed.spawn(async move { stream.read_to_end(&mut Vec::new()).await });
    }
    // Five have a place and say nothing; somebody else comes all the same.
    for _ in 0..OPEN - 5 {
        let _ = within("the end of the others", closed.join_next()).await.unwrap().unwrap();
    }
    served(&tcp).await;
    served(&websocket).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_websocket_message_beyond_the_limit_ends_its_connection_alone() {
    let (_node, _, websocket) = listener().await;
    let mut flood = TcpStream::connect(("127.0.0.1", port(&websocket))).await.unwrap();
    let upgrade = "GET / HTTP/1.1\r\nHost: node\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n\
        Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\nSec-WebSocket-Version: 13\r\n\r\n";
    flood.write_all(upgrade.as_bytes()).await.unwrap();
    let mut head = [0; 12];
    flood.read_exact(&mut head).await.unwrap();
    assert_eq!(&head, b"HTTP/1.1 101");
    // A binary message of 1 TiB, masked with zeros.
    flood.write_all(&[0x82, 0xff, 0, 0, 1, 0, 0, 0, 0, 0, 0, 0, 0, 0]).await.unwrap();
    let (mut reader, mut writer) = flood.into_split();
    let sending = tokio::spawn(async move {
        let mut sent = 0;
        while writer.write_all(&[0; 1 << 16]).await.is_ok() {
            sent += 1 << 16;
        }
        sent
    });
    served(&websocket).await;
    let sent: usize = within("the end of the flood", sending).await.unwrap();
    // What the kernel's buffers take is not counted by the node.
    assert!(sent < 32 << 20, "{sent} bytes of one message were taken");
    let _ = within("the end of the connection", reader.read_to_end(&mut Vec::new())).await;
    served(&websocket).await;
}

/// A connection with noise and mplex whose frames are written by hand.
async fn frames(address: &Multiaddr) -> noise::Output<libp2p::tcp::tokio::TcpStream> {
    let mut transport = libp2p::tcp::tokio::Transport::new(libp2p::tcp::Config::default());
    let address: Multiaddr = address.iter().filter(|part| !matches!(part, Protocol::P2p(_))).collect();
    let options = DialOpts { role: Endpoint::Dialer, port_use: PortUse::New };
    let mut tcp = transport.dial(address, options).unwrap().await.unwrap();
    select_protocol(&mut tcp, "/noise").await;
    let security = noise::Config::new(&Keypair::generate_ed25519()).unwrap();
    let (_, mut secured) = security.upgrade_outbound(tcp, "/noise").await.unwrap();
    select_protocol(&mut secured, "/mplex/6.7.0").await;
    secured
}

/// multistream-select, for a node that is known to agree.
async fn select_protocol(stream: &mut (impl futures::AsyncRead + futures::AsyncWrite + Unpin), protocol: &str) {
    let line = |text: &str| [&[u8::try_from(text.len() + 1).unwrap()], text.as_bytes(), b"\n"].concat();
    let said = [line("/multistream/1.0.0"), line(protocol)].concat();
    futures::AsyncWriteExt::write_all(stream, &said).await.unwrap();
    futures::AsyncWriteExt::flush(stream).await.unwrap();
    let mut answer = vec![0; said.len()];
    futures::AsyncReadExt::read_exact(stream, &mut answer).await.unwrap();
    assert_eq!(answer, said);
}

fn varint(mut value: u64, to: &mut Vec<u8>) {
    while value >= 0x80 {
        to.push(value.to_le_bytes()[0] | 0x80);
        value >>= 7;
    }
    to.push(value.to_le_bytes()[0]);
}

#[tokio::test(flavor = "multi_thread")]
async fn an_mplex_frame_beyond_the_limit_ends_its_connection_alone() {
    let (_node, tcp, _) = listener().await;
    let mut flood = frames(&tcp).await;
    // A new stream, then 1 GiB for it.
    let mut bytes = vec![0, 0, 2];
    varint(1 << 30, &mut bytes);
    futures::AsyncWriteExt::write_all(&mut flood, &bytes).await.unwrap();
    futures::AsyncWriteExt::flush(&mut flood).await.unwrap();
    let mut answers = Vec::new();
    let _ = within("the end", futures::AsyncReadExt::read_to_end(&mut flood, &mut answers)).await;
    served(&tcp).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn too_many_mplex_streams_are_reset_and_others_are_served() {
    const STREAMS: u64 = 1000;
    let (_node, tcp, websocket) = listener().await;
    let flood = frames(&tcp).await;
    let (mut reader, mut writer) = futures::AsyncReadExt::split(flood);
    let writing = tokio::spawn(async move {
        for id in 0..STREAMS {
            let mut frame = Vec::new();
            varint(id << 3, &mut frame);
            frame.push(0);
            futures::AsyncWriteExt::write_all(&mut writer, &frame).await?;
        }
        futures::AsyncWriteExt::flush(&mut writer).await?;
        Ok::<_, std::io::Error>(writer)
    });
    served(&tcp).await;
    served(&websocket).await;
    // Of the streams none says a protocol; those beyond the limits are reset at once.
    let mut reset = HashSet::new();
    let mut bytes = Vec::new();
    while reset.len() < 872 {
        let mut chunk = [0; 4096];
        let n = within("a reset", futures::AsyncReadExt::read(&mut reader, &mut chunk)).await.unwrap();
        assert!(n > 0, "the connection ended after {} resets", reset.len());
        bytes.extend_from_slice(&chunk[..n]);
        while let Some((header, length, rest)) = frame(&bytes) {
            // The receiver of a stream resets it with flag 5.
            if header & 7 == 5 {
                reset.insert(header >> 3);
            }
            bytes = bytes.split_off(rest + length);
        }
    }
    let _open = within("writing", writing).await.unwrap().unwrap();
}

/// Header, length of the data and where it begins, if the whole frame is there.
fn frame(bytes: &[u8]) -> Option<(u64, usize, usize)> {
    let (header, rest) = unsigned_varint::decode::u64(bytes).ok()?;
    let (length, data) = unsigned_varint::decode::usize(rest).ok()?;
    (data.len() >= length).then(|| (header, length, bytes.len() - data.len()))
}

#[tokio::test(flavor = "multi_thread")]
async fn pings_of_a_peer_that_answers_none_are_answered() {
    let (_node, tcp, _) = listener().await;
    let peer = RawPeer::dial(&tcp, "/ipfs/ping/1.0.0", &[], &[2, 0x08, 42]).await;
    // The node's own first ping is refused meanwhile.
    for i in 0..20 {
        let ping = vec![i; 32];
        assert_eq!(within("an answer", peer.exchange(ping.clone())).await, Ok(ping));
    }
}
