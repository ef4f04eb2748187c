//! A libp2p peer that writes whatever bytes it is told to, and records what it is sent.

use std::{
    io,
    sync::{
        Arc, Mutex,
        atomic::{AtomicUsize, Ordering},
    },
    time::Duration,
};

use futures::{AsyncRead, AsyncReadExt as _, AsyncWrite, AsyncWriteExt as _, StreamExt as _};
use libp2p::{
    Multiaddr, PeerId, StreamProtocol, Swarm, SwarmBuilder, Transport as _,
    core::{muxing::StreamMuxerBox, transport::Boxed, upgrade::Version},
    identify,
    identity::Keypair,
    noise,
    request_response::{self, Codec, ProtocolSupport},
    swarm::{NetworkBehaviour, SwarmEvent},
    tcp, yamux,
};
use tokio::sync::{Notify, mpsc, oneshot};
use tributary_waku::METADATA_PROTOCOL;

/// What to write on a stream.
#[derive(Clone, Debug)]
pub(crate) enum Script {
    /// These bytes; then close the write side and read to the end.
    Send(Vec<u8>),
    /// These bytes; then leave the write side open and read nothing.
    Hang(Vec<u8>),
}

#[derive(Clone)]
struct Scripted {
    received: Arc<Received>,
}

/// Bytes that came on inbound streams of recorded protocols.
#[derive(Default)]
pub(crate) struct Received {
    bytes: Mutex<Vec<u8>>,
    streams: AtomicUsize,
    more: Notify,
}

impl Received {
    /// Recorded streams that were opened.
    pub(crate) fn streams(&self) -> usize {
        self.streams.load(Ordering::SeqCst)
    }

    /// Waits until `look` finds what it looks for.
    pub(crate) async fn find<T>(&self, look: impl Fn(&[u8]) -> Option<T>) -> T {
        loop {
            let more = self.more.notified();
            if let Some(found) = look(&self.bytes.lock().unwrap()) {
                return found;
            }
            more.await;
        }
    }
}

impl Codec for Scripted {
    type Protocol = StreamProtocol;
    type Request = Script;
    type Response = Vec<u8>;

    async fn read_request<T>(&mut self, protocol: &StreamProtocol, io: &mut T) -> io::Result<Script>
    where
        T: AsyncRead + Unpin + Send,
    {
        if protocol.as_ref() == METADATA_PROTOCOL {
            return Ok(Script::Send(Vec::new()));
        }
        self.received.streams.fetch_add(1, Ordering::SeqCst);
        let mut buffer = [0; 4096];
        loop {
            let n = io.read(&mut buffer).await?;
            if n == 0 {
                return Err(io::ErrorKind::UnexpectedEof.into());
            }
            self.received.bytes.lock().unwrap().extend_from_slice(&buffer[..n]);
            self.received.more.notify_waiters();
        }
    }

    async fn read_response<T>(&mut self, _: &StreamProtocol, io: &mut T) -> io::Result<Vec<u8>>
    where
        T: AsyncRead + Unpin + Send,
    {
        let mut all = Vec::new();
        io.take(64 << 20).read_to_end(&mut all).await?;
        Ok(all)
    }

    async fn write_request<T>(&mut self, _: &StreamProtocol, io: &mut T, script: Script) -> io::Result<()>
    where
        T: AsyncWrite + Unpin + Send,
    {
        let (Script::Send(bytes) | Script::Hang(bytes)) = &script;
        io.write_all(bytes).await?;
        io.flush().await?;
        match script {
            Script::Send(_) => io.close().await,
            Script::Hang(_) => std::future::pending().await,
        }
    }

    async fn write_response<T>(&mut self, _: &StreamProtocol, io: &mut T, response: Vec<u8>) -> io::Result<()>
    where
        T: AsyncWrite + Unpin + Send,
    {
        io.write_all(&response).await?;
        io.close().await
    }
}

#[derive(NetworkBehaviour)]
struct Behaviour {
    identify: identify::Behaviour,
    streams: request_response::Behaviour<Scripted>,
}

/// The only muxer that a raw peer offers.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Muxer {
    Yamux,
    Mplex,
}

fn transport(key: &Keypair, muxer: Muxer) -> Boxed<(PeerId, StreamMuxerBox)> {
    let tcp = || tcp::tokio::Transport::new(tcp::Config::default().nodelay(true));
    let upgraded = libp2p_websocket::Config::new(tcp())
        .or_transport(tcp())
        .upgrade(Version::V1Lazy)
        .authenticate(noise::Config::new(key).unwrap());
    match muxer {
        Muxer::Yamux => {
            let transport = upgraded.multiplex(yamux::Config::default());
            transport.map(|(peer, muxer), _| (peer, StreamMuxerBox::new(muxer))).boxed()
        }
        Muxer::Mplex => {
            let transport = upgraded.multiplex(libp2p_mplex::Config::new());
            transport.map(|(peer, muxer), _| (peer, StreamMuxerBox::new(muxer))).boxed()
        }
    }
}

type Answer = Result<Vec<u8>, String>;

/// A connected raw peer; it lives until it is dropped.
pub(crate) struct RawPeer {
    pub(crate) peer_id: PeerId,
    pub(crate) received: Arc<Received>,
    scripts: mpsc::UnboundedSender<(Script, oneshot::Sender<Answer>)>,
}

impl RawPeer {
    /// Dials a node. Scripts run on streams of `protocol`; inbound streams of `recorded` are recorded. `metadata` is
    /// what it answers to metadata requests, with its length prefix.
    pub(crate) async fn dial(
        address: &Multiaddr,
        protocol: &'static str,
        recorded: &[&'static str],
        metadata: &[u8],
    ) -> Self {
        Self::dial_over(Muxer::Yamux, address, protocol, recorded, metadata).await
    }

    /// [`RawPeer::dial`] with only this muxer, over TCP or websocket.
    pub(crate) async fn dial_over(
        muxer: Muxer,
        address: &Multiaddr,
        protocol: &'static str,
        recorded: &[&'static str],
        metadata: &[u8],
    ) -> Self {
        let received = Arc::<Received>::default();
        let codec = Scripted { received: received.clone() };
        let supported = recorded
            .iter()
            .chain(&[METADATA_PROTOCOL])
            .map(|p| (StreamProtocol::new(p), ProtocolSupport::Inbound))
            .chain([(StreamProtocol::new(protocol), ProtocolSupport::Outbound)]);
        let settings = request_response::Config::default()
            .with_request_timeout(Duration::from_secs(60))
            .with_max_concurrent_streams(10_000);
        let streams = request_response::Behaviour::with_codec(codec, supported, settings);
        let mut swarm = SwarmBuilder::with_new_identity()
            .with_tokio()
            .with_other_transport(|key| transport(key, muxer))
            .unwrap()
            .with_behaviour(|key| Behaviour {
                identify: identify::Behaviour::new(identify::Config::new("raw".to_owned(), key.public())),
                streams,
            })
            .unwrap()
            .with_swarm_config(|c| c.with_idle_connection_timeout(Duration::from_secs(60)))
            .build();
        let peer_id = *swarm.local_peer_id();
        swarm.dial(address.clone()).unwrap();
        let node = loop {
            match swarm.select_next_some().await {
                SwarmEvent::ConnectionEstablished { peer_id, .. } => break peer_id,
                SwarmEvent::OutgoingConnectionError { error, .. } => panic!("{error}"),
                _ => {}
            }
        };
        let (scripts, requests) = mpsc::unbounded_channel();
        tokio::spawn(run(swarm, node, requests, metadata.to_vec()));
        Self { peer_id, received, scripts }
    }

    /// Starts a script on a stream of its own; the answer is what the node wrote until it closed the stream.
    pub(crate) fn start(&self, script: Script) -> oneshot::Receiver<Answer> {
        let (reply, answer) = oneshot::channel();
        self.scripts.send((script, reply)).unwrap();
        answer
    }

    /// Sends bytes, and reads all that comes back.
    pub(crate) async fn exchange(&self, bytes: Vec<u8>) -> Answer {
        self.start(Script::Send(bytes)).await.unwrap()
    }
}

async fn run(
    mut swarm: Swarm<Behaviour>,
    node: PeerId,
    mut requests: mpsc::UnboundedReceiver<(Script, oneshot::Sender<Answer>)>,
    metadata: Vec<u8>,
) {
    let mut waiting = std::collections::HashMap::new();
    loop {
        tokio::select! {
            event = swarm.select_next_some() => match event {
                SwarmEvent::Behaviour(BehaviourEvent::Streams(request_response::Event::Message { message, .. })) => {
                    match message {
                        request_response::Message::Request { channel, .. } => {
                            let _ = swarm.behaviour_mut().streams.send_response(channel, metadata.clone());
                        }
                        request_response::Message::Response { request_id, response } => {
                            if let Some(reply) = waiting.remove(&request_id) {
                                let reply: oneshot::Sender<Answer> = reply;
                                let _ = reply.send(Ok(response));
                            }
                        }
                    }
                }
                SwarmEvent::Behaviour(BehaviourEvent::Streams(request_response::Event::OutboundFailure {
                    request_id, error, ..
                })) => {
                    if let Some(reply) = waiting.remove(&request_id) {
                        let _ = reply.send(Err(error.to_string()));
                    }
                }
                _ => {}
            },
            request = requests.recv() => match request {
                Some((script, reply)) => {
                    let id = swarm.behaviour_mut().streams.send_request(&node, script);
                    waiting.insert(id, reply);
                }
                None => return,
            },
        }
    }
}
