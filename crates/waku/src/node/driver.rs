//! The node's task: owns the swarm, obeys the handles, judges relayed messages.

use std::{
    collections::{HashMap, HashSet},
    net::{IpAddr, TcpListener},
    sync::{Arc, atomic::Ordering},
    time::{Duration, Instant},
};

use futures::StreamExt as _;
use libp2p::{
    Multiaddr, PeerId, StreamProtocol, Swarm, SwarmBuilder, Transport as _,
    connection_limits::{self, ConnectionLimits},
    core::{
        muxing::StreamMuxerBox,
        transport::{Boxed, ListenerId},
        upgrade::{SelectUpgrade, Version},
    },
    gossipsub::{self, MessageAcceptance, MessageId, TopicHash},
    identify,
    identity::Keypair,
    multiaddr::Protocol,
    noise, ping,
    swarm::{
        ConnectionId, NetworkBehaviour, SwarmEvent,
        behaviour::toggle::Toggle,
        dial_opts::{DialOpts, PeerCondition},
    },
    tcp, yamux,
};
use rand::{Rng as _, seq::SliceRandom as _};
use tokio::{
    sync::{mpsc, oneshot, watch},
    task::JoinHandle,
    time::{MissedTickBehavior, interval, sleep, timeout},
};
use tokio_util::sync::CancellationToken;

use super::{
    Counters, MetadataPolicy, NodeConfig, NodeHandle, Published, ReceivedMessage, Sending, Shared, Subscribers,
    WeakNodeHandle, connections::PerAddress, exchange,
};
use crate::{
    archive::{Archive, ArchiveConfig, ArchiveWriter, ArchivedMessage, Enqueued},
    clock::Clock,
    discovery::{self, Discovery, DiscoveryConfig},
    error::{DialError, NodeError, PublishError, RequestError},
    filter::{FILTER_SUBSCRIBE_PROTOCOL, FilterClient, FilterServer},
    lightpush::{LIGHTPUSH_PROTOCOL, LIGHTPUSH_V2_PROTOCOL, LightPushServer, LightPushServerV2, LightPushService},
    limits::KeyedLimiter,
    message::{MAX_MESSAGE_BYTES, MessageHash, WakuMessage},
    metadata::{self, METADATA_PROTOCOL, MetadataServer, PeerMetadata},
    peer_exchange::{PEER_EXCHANGE_PROTOCOL, PeerExchangeServer},
    ping::{PING_PROTOCOL, PingServer},
    relay,
    rpc::{self, Handler, OpenStream, Registry},
    store::{STORE_PROTOCOL, StoreServer},
    topics::{ClusterId, PubsubTopic},
};

/// Commands that may wait for the node's task.
const COMMAND_QUEUE: usize = 1024;

/// Time for the listening sockets to open.
const LISTEN_TIMEOUT: Duration = Duration::from_secs(10);

/// Streams that one connection may have open, both ways together.
const MAX_YAMUX_STREAMS: usize = 512;

/// The same with mplex, which doesn't bound by itself what a peer sends on a stream that nobody reads.
const MAX_MPLEX_STREAMS: usize = 128;

/// Frames, each of at most 1 MiB, that one mplex stream keeps unread. Then the connection is read no further, which is the
/// only way mplex has to slow a peer down; a reset would lose requests of honest peers.
const MAX_MPLEX_FRAMES: usize = 4;

/// Bytes of one websocket message, before anything is known of the peer. libp2p's messages are pieces of a byte stream, of
/// any length; deployed peers send one for each noise frame (64 KiB) or each mplex frame (1 MiB).
const MAX_WEBSOCKET_MESSAGE: usize = 2 << 20;

/// Inbound streams of one connection whose protocol isn't negotiated yet.
const MAX_NEGOTIATING_STREAMS: usize = 64;

/// How long a connection without streams and without relay is kept.
const IDLE_TIMEOUT: Duration = Duration::from_secs(10 * 60);

/// Time for all connections to close when the node stops.
const DISCONNECT_LIMIT: Duration = Duration::from_secs(1);

/// Waits, and dials, that may be open at the same time.
const MAX_WAITERS: usize = 1024;

/// First and longest pause between two tries to reach a static peer.
const RECONNECT_PAUSE: (Duration, Duration) = (Duration::from_secs(1), Duration::from_secs(60));

/// Found peers that are dialed in one second.
const MAX_FOUND_DIALS: usize = 4;

/// Records that are asked for at once.
const ASKED_PEERS: usize = 20;

/// First and longest pause between two requests for the records of others.
const ASK_PAUSE: (Duration, Duration) = (Duration::from_secs(1), Duration::from_secs(60));

pub(super) enum Command {
    Dial { address: Multiaddr, reply: oneshot::Sender<Result<PeerId, DialError>> },
    Disconnect { peer: PeerId },
    Peers { reply: oneshot::Sender<Vec<(PeerId, Option<PeerMetadata>)>> },
    TopicPeers { topic: PubsubTopic, reply: oneshot::Sender<usize> },
    Wait { condition: Condition, reply: oneshot::Sender<()> },
    Publish { topic: PubsubTopic, message: WakuMessage, reply: oneshot::Sender<Result<Published, PublishError>> },
    Open { peer: PeerId, open: OpenStream },
    ProtocolsChanged,
    Shutdown { reply: oneshot::Sender<()> },
}

#[derive(Clone, Copy, Debug)]
pub(super) enum Condition {
    Connected(PeerId),
    Disconnected(PeerId),
    TopicPeers(PubsubTopic, usize),
    Mesh(PubsubTopic, usize),
}

#[derive(NetworkBehaviour)]
pub(super) struct Behaviour {
    limits: connection_limits::Behaviour,
    per_address: PerAddress,
    identify: identify::Behaviour,
    // Before `ping`, so that inbound pings come to our server: of two handlers of one protocol the first gets the streams.
    rpc: rpc::Behaviour,
    ping: ping::Behaviour,
    relay: Toggle<relay::Behaviour>,
}

/// What is known about a connected peer.
struct Peer {
    /// Tells this session from an earlier one with the same peer.
    session: u64,
    state: PeerState,
}

enum PeerState {
    /// Its metadata was asked for.
    Asked,
    /// It belongs to this network, or the node doesn't mind.
    Ready(Option<PeerMetadata>),
    /// It is being disconnected.
    Unusable(DialError),
}

struct MetadataAnswer {
    peer: PeerId,
    session: u64,
    answer: Result<PeerMetadata, NoMetadata>,
}

enum NoMetadata {
    /// The stream ended: the peer is going, or has no room for this node.
    Closed,
    /// It answers no such requests, or answers something else.
    Wrong(String),
}

struct PendingDial {
    peer: PeerId,
    connection: ConnectionId,
    reply: oneshot::Sender<Result<PeerId, DialError>>,
}

struct StaticPeer {
    peer: PeerId,
    address: Multiaddr,
    pause: Duration,
    next_try: Instant,
}

struct Driver {
    swarm: Swarm<Behaviour>,
    me: PeerId,
    cluster: ClusterId,
    joined: HashMap<TopicHash, PubsubTopic>,
    policy: MetadataPolicy,
    own_metadata: PeerMetadata,
    clock: Arc<dyn Clock>,
    commands: mpsc::Receiver<Command>,
    answers: (mpsc::Sender<MetadataAnswer>, mpsc::Receiver<MetadataAnswer>),
    addresses: watch::Sender<Vec<Multiaddr>>,
    listening: HashSet<ListenerId>,
    registry: Arc<Registry>,
    subscribers: Arc<Subscribers>,
    archive: Option<Arc<dyn Archive>>,
    writer: Option<ArchiveWriter>,
    tasks: Vec<JoinHandle<()>>,
    counters: Arc<Counters>,
    peers: HashMap<PeerId, Peer>,
    sessions: u64,
    dials: Vec<PendingDial>,
    waiters: Vec<(Condition, oneshot::Sender<()>)>,
    static_peers: Vec<StaticPeer>,
    discovery: Option<Arc<Discovery>>,
    seen: relay::Seen,
    relay_messages: KeyedLimiter<PeerId>,
    relay_bytes: KeyedLimiter<PeerId>,
    filter_server: Option<Arc<FilterServer>>,
    filter_client: Arc<FilterClient>,
    shutdown: CancellationToken,
    stopped: CancellationToken,
}

pub(super) async fn spawn(config: NodeConfig) -> Result<NodeHandle, NodeError> {
    config.check()?;
    let static_peers = static_peers(&config)?;
    let shutdown = CancellationToken::new();
    let stopped = CancellationToken::new();
    let registry = Arc::new(Registry::new(config.clock.clone(), config.limits.max_streams_per_peer, shutdown.clone()));
    let mut swarm = build_swarm(&config, registry.clone())?;

    let mut tasks = Vec::new();
    let (archive, writer) = match &config.archive {
        Some(archive) => {
            let (archive, writer) = open_archive(archive, &config.clock, &shutdown, &mut tasks).await?;
            (Some(archive), Some(writer))
        }
        None => (None, None),
    };
    let store_server = match (&archive, &config.store) {
        (Some(archive), Some(store)) => {
            Some(Arc::new(StoreServer::new(archive.clone(), store.gate.clone(), store.limits.max_response_bytes)))
        }
        _ => None,
    };
    if let (Some(server), Some(store)) = (&store_server, &config.store) {
        registry.register(super::stream_protocol(STORE_PROTOCOL)?, store.limits, Handler::Requests(server.clone()));
    }
    let own_metadata = PeerMetadata {
        cluster: Some(config.cluster),
        shards: if config.relay { config.shards.clone() } else { Vec::new() },
    };
    registry.register(
        super::stream_protocol(METADATA_PROTOCOL)?,
        metadata::serve_limits(),
        Handler::Requests(Arc::new(MetadataServer { answer: own_metadata.encode() })),
    );
    registry.register(
        super::stream_protocol(PING_PROTOCOL)?,
        crate::ping::serve_limits(config.limits.max_connections),
        Handler::Streams(Arc::new(PingServer)),
    );

    let mut listening = HashSet::new();
    for address in &config.listen {
        check_free(address)?;
        let listener = swarm
            .listen_on(address.clone())
            .map_err(|e| NodeError::Listen { address: address.clone(), reason: e.to_string() })?;
        listening.insert(listener);
    }
    for address in &config.external {
        swarm.add_external_address(address.clone());
    }

    let (command_sender, commands) = mpsc::channel(COMMAND_QUEUE);
    let (address_sender, addresses) = watch::channel(Vec::new());
    let subscribers = Arc::new(Subscribers::new(
        config.limits.max_subscriptions,
        config.limits.subscription_messages,
        config.limits.subscription_bytes,
    ));
    let filter_client = Arc::new(FilterClient::new(
        config.clock.clone(),
        config.limits.max_subscriptions,
        config.limits.subscription_messages,
        config.limits.subscription_bytes,
    ));
    let counters = Arc::<Counters>::default();
    let now = config.clock.monotonic();
    let rated_peers = usize::try_from(config.limits.max_connections).unwrap_or(usize::MAX).saturating_mul(4);
    let mut driver = Driver {
        swarm,
        me: config.key.peer_id(),
        cluster: config.cluster,
        joined: config.topics().into_iter().map(|topic| (relay::topic_hash(topic), topic)).collect(),
        policy: config.metadata,
        own_metadata,
        clock: config.clock.clone(),
        commands,
        answers: mpsc::channel(256),
        addresses: address_sender,
        listening,
        registry: registry.clone(),
        subscribers: subscribers.clone(),
        archive: archive.clone(),
        writer: writer.clone(),
        tasks,
        counters: counters.clone(),
        peers: HashMap::new(),
        sessions: 0,
        dials: Vec::new(),
        waiters: Vec::new(),
        static_peers,
        discovery: None,
        seen: relay::Seen::default(),
        relay_messages: KeyedLimiter::new(Some(config.limits.relay_messages_per_peer), None, rated_peers, now),
        relay_bytes: KeyedLimiter::new(Some(config.limits.relay_bytes_per_peer), None, rated_peers, now),
        filter_server: None,
        filter_client: filter_client.clone(),
        shutdown,
        stopped: stopped.clone(),
    };
    if let Err(e) = driver.wait_for_listeners(&config.listen).await {
        driver.stop().await;
        return Err(e);
    }
    let found = match &config.discovery {
        Some(settings) => match driver.start_discovery(&config, settings, addresses.clone()).await {
            Ok(discovery) => Some(discovery),
            Err(e) => {
                driver.stop().await;
                return Err(e);
            }
        },
        None => None,
    };
    let handle = NodeHandle {
        shared: Arc::new_cyclic(|shared| {
            let node = WeakNodeHandle { shared: shared.clone() };
            if let Some(discovery) = found.clone().filter(|_| config.discovery.as_ref().is_some_and(|d| d.ask_peers)) {
                driver.tasks.push(tokio::spawn(ask_peers(node.clone(), discovery, driver.shutdown.clone())));
            }
            let (lightpush, filter_server) = services(&config, &node, &registry);
            driver.filter_server.clone_from(&filter_server);
            Shared {
                key: config.key,
                cluster: config.cluster,
                sharding: config.sharding,
                shards: config.shards,
                relay: config.relay,
                clock: config.clock,
                commands: command_sender,
                addresses,
                registry,
                subscribers,
                archive,
                writer,
                store_server,
                lightpush,
                filter_server,
                filter_client,
                discovery: found,
                counters,
                stopped,
            }
        }),
    };
    tokio::spawn(driver.run());
    Ok(handle)
}

type Services = (Option<Arc<LightPushService>>, Option<Arc<FilterServer>>);

/// Serves what publishes or pushes for others.
fn services(config: &NodeConfig, node: &WeakNodeHandle, registry: &Registry) -> Services {
    let serve = |protocol: &'static str, limits, handler| {
        registry.register(StreamProtocol::new(protocol), limits, Handler::Requests(handler));
    };
    let lightpush = config.lightpush.as_ref().map(|settings| {
        let service = Arc::new(LightPushService::new(node.clone(), settings.gate.clone()));
        serve(LIGHTPUSH_PROTOCOL, settings.limits, Arc::new(LightPushServer(service.clone())));
        serve(LIGHTPUSH_V2_PROTOCOL, settings.limits, Arc::new(LightPushServerV2(service.clone())));
        service
    });
    let filter = config.filter.as_ref().map(|settings| {
        let (clock, gate) = (config.clock.clone(), settings.gate.clone());
        let server = Arc::new(FilterServer::new(node.clone(), clock, settings.subscriptions, gate));
        serve(FILTER_SUBSCRIBE_PROTOCOL, settings.limits, server.clone());
        server
    });
    (lightpush, filter)
}

/// Asks connected peers for the records of others while the node wants more connections.
async fn ask_peers(node: WeakNodeHandle, discovery: Arc<Discovery>, shutdown: CancellationToken) {
    let mut pause = ASK_PAUSE.0;
    loop {
        tokio::select! {
            () = sleep(pause) => {}
            () = shutdown.cancelled() => return,
        }
        let Some(node) = node.upgrade() else { return };
        if !discovery.wants_peers() {
            pause = ASK_PAUSE.1;
            continue;
        }
        // A request waits for the node's task, which waits for this one when it stops.
        let ask = async {
            let peers = node.connected_peers().await;
            let peer = peers.choose(&mut rand::thread_rng()).copied()?;
            Some(node.exchange_peers(peer, ASKED_PEERS).await)
        };
        let asked = tokio::select! {
            asked = ask => asked,
            () = shutdown.cancelled() => return,
        };
        match asked {
            None => continue,
            Some(Ok(_)) => {}
            Some(Err(e)) => tracing::debug!(code = e.code(), error = %e, "a peer told no other peers"),
        }
        pause = (pause * 2).min(ASK_PAUSE.1);
    }
}

fn static_peers(config: &NodeConfig) -> Result<Vec<StaticPeer>, NodeError> {
    let me = config.key.peer_id();
    let mut peers = Vec::new();
    for address in &config.static_peers {
        let peer = peer_of(address).ok_or_else(|| NodeError::Config {
            setting: "static_peers",
            reason: format!("{address} doesn't end in /p2p/<peer id>"),
        })?;
        if peer != me {
            let address = address.clone();
            peers.push(StaticPeer { peer, address, pause: RECONNECT_PAUSE.0, next_try: Instant::now() });
        }
    }
    Ok(peers)
}

fn build_swarm(config: &NodeConfig, registry: Arc<Registry>) -> Result<Swarm<Behaviour>, NodeError> {
    let limits = &config.limits;
    let relay = if config.relay {
        Some(relay::behaviour(&config.topics(), &config.known_topics(), limits.relay_colocation_limit)?)
    } else {
        None
    };
    let identity = config.key.keypair();
    let connections = ConnectionLimits::default()
        .with_max_pending_incoming(Some(limits.max_pending_incoming))
        .with_max_pending_outgoing(Some(limits.max_connections))
        .with_max_established(Some(limits.max_connections))
        .with_max_established_incoming(Some(limits.max_incoming))
        .with_max_established_per_peer(Some(limits.max_connections_per_peer));
    let behaviour = Behaviour {
        limits: connection_limits::Behaviour::new(connections),
        per_address: PerAddress::new(limits.max_incoming_per_address),
        identify: identify::Behaviour::new(
            identify::Config::new("/ipfs/1.0.0".to_owned(), identity.public())
                .with_agent_version(config.agent.clone())
                .with_cache_size(0),
        ),
        rpc: rpc::Behaviour::new(registry),
        ping: ping::Behaviour::new(ping::Config::new().with_interval(Duration::from_secs(60))),
        relay: relay.into(),
    };
    let transport = |reason: String| NodeError::Config { setting: "transport", reason };
    let swarm = SwarmBuilder::with_existing_identity(identity)
        .with_tokio()
        .with_tcp(tcp::Config::default().nodelay(true), noise::Config::new, (yamux_config, mplex_config))
        .map_err(|e| transport(e.to_string()))?
        .with_other_transport(|keys| Ok(websocket_transport(keys)?))
        .map_err(|e| transport(e.to_string()))?
        .with_behaviour(|_| behaviour)
        .map_err(|e| transport(e.to_string()))?
        .with_swarm_config(|swarm| {
            swarm
                .with_idle_connection_timeout(IDLE_TIMEOUT)
                .with_max_negotiating_inbound_streams(MAX_NEGOTIATING_STREAMS)
        })
        .build();
    Ok(swarm)
}

fn yamux_config() -> yamux::Config {
    let mut config = yamux::Config::default();
    config.set_max_num_streams(MAX_YAMUX_STREAMS);
    config
}

fn mplex_config() -> libp2p_mplex::Config {
    let mut config = libp2p_mplex::Config::new();
    config
        .set_max_num_streams(MAX_MPLEX_STREAMS)
        .set_max_buffer_size(MAX_MPLEX_FRAMES)
        .set_max_buffer_behaviour(libp2p_mplex::MaxBufferBehaviour::Block);
    config
}

/// `/ws` over TCP, with the same security and muxers. TLS is for a proxy in front of the node.
fn websocket_transport(keys: &Keypair) -> Result<Boxed<(PeerId, StreamMuxerBox)>, noise::Error> {
    let tcp = tcp::tokio::Transport::new(tcp::Config::default().nodelay(true));
    let mut websocket = libp2p_websocket::Config::new(tcp);
    websocket.set_max_data_size(MAX_WEBSOCKET_MESSAGE);
    Ok(websocket
        .upgrade(Version::V1Lazy)
        .authenticate(noise::Config::new(keys)?)
        .multiplex(SelectUpgrade::new(yamux_config(), mplex_config()))
        .map(|(peer, muxer), _| (peer, StreamMuxerBox::new(muxer)))
        .boxed())
}

async fn open_archive(
    config: &ArchiveConfig,
    clock: &Arc<dyn Clock>,
    shutdown: &CancellationToken,
    tasks: &mut Vec<JoinHandle<()>>,
) -> Result<(Arc<dyn Archive>, ArchiveWriter), NodeError> {
    let archive = config.location.open().await?;
    // The writing task ends when the last handle is gone, so nobody waits for it here.
    let (writer, _) = ArchiveWriter::start(archive.clone(), shutdown.clone());
    let (config, clock, shutdown) = (config.clone(), clock.clone(), shutdown.clone());
    let expiring = archive.clone();
    tasks.push(tokio::spawn(async move {
        let mut tick = interval(config.retention_interval.max(Duration::from_millis(1)));
        tick.set_missed_tick_behavior(MissedTickBehavior::Delay);
        loop {
            tokio::select! {
                _ = tick.tick() => {}
                () = shutdown.cancelled() => return,
            }
            match expiring.expire(&config.retention, clock.now()).await {
                Ok(expired) => tracing::debug!(?expired, "retention enforced"),
                Err(e) => tracing::error!(code = e.code(), error = %e, "retention could not be enforced"),
            }
        }
    }));
    Ok((archive, writer))
}

/// The transport would share a port with another process that listens on it, and get some of its connections.
fn check_free(address: &Multiaddr) -> Result<(), NodeError> {
    let mut parts = address.iter();
    let ip: IpAddr = match parts.next() {
        Some(Protocol::Ip4(ip)) => ip.into(),
        Some(Protocol::Ip6(ip)) => ip.into(),
        _ => return Ok(()),
    };
    match parts.next() {
        Some(Protocol::Tcp(port)) if port != 0 => match TcpListener::bind((ip, port)) {
            Ok(_) => Ok(()),
            Err(e) => Err(NodeError::Listen { address: address.clone(), reason: e.to_string() }),
        },
        _ => Ok(()),
    }
}

fn peer_of(address: &Multiaddr) -> Option<PeerId> {
    match address.iter().last() {
        Some(Protocol::P2p(peer)) => Some(peer),
        _ => None,
    }
}

impl Driver {
    async fn wait_for_listeners(&mut self, wanted: &[Multiaddr]) -> Result<(), NodeError> {
        let failed = |reason: String| NodeError::Listen {
            address: wanted.first().cloned().unwrap_or_else(Multiaddr::empty),
            reason,
        };
        let wait = async {
            while !self.listening.is_empty() {
                let event = self.swarm.select_next_some().await;
                if let SwarmEvent::ListenerClosed { listener_id, reason, .. } = &event
                    && self.listening.contains(listener_id)
                {
                    let reason = match reason {
                        Ok(()) => "the listener closed".to_owned(),
                        Err(e) => e.to_string(),
                    };
                    return Err(failed(reason));
                }
                self.on_event(event);
            }
            Ok(())
        };
        timeout(LISTEN_TIMEOUT, wait).await.unwrap_or_else(|_| Err(failed("the socket didn't open in time".to_owned())))
    }

    async fn start_discovery(
        &mut self,
        config: &NodeConfig,
        settings: &DiscoveryConfig,
        addresses: watch::Receiver<Vec<Multiaddr>>,
    ) -> Result<Arc<Discovery>, NodeError> {
        let (discovery, task) = discovery::start(config, settings, addresses, self.shutdown.clone()).await?;
        self.tasks.extend(task);
        if let Some(exchange) = &settings.peer_exchange {
            let server = PeerExchangeServer { book: discovery.book().clone() };
            let protocol = super::stream_protocol(PEER_EXCHANGE_PROTOCOL)?;
            self.registry.register(protocol, exchange.limits, Handler::Requests(Arc::new(server)));
        }
        self.discovery = Some(discovery.clone());
        Ok(discovery)
    }

    async fn run(mut self) {
        let mut tick = interval(Duration::from_secs(1));
        tick.set_missed_tick_behavior(MissedTickBehavior::Delay);
        // Gossipsub doesn't tell when its mesh changes, so somebody who waits for it makes us look often.
        let mut look = interval(Duration::from_millis(20));
        look.set_missed_tick_behavior(MissedTickBehavior::Delay);
        let done = loop {
            tokio::select! {
                event = self.swarm.select_next_some() => self.on_event(event),
                command = self.commands.recv() => match command {
                    Some(Command::Shutdown { reply }) => break Some(reply),
                    Some(command) => self.on_command(command),
                    None => break None,
                },
                Some(answer) = self.answers.1.recv() => self.on_metadata(answer),
                _ = tick.tick() => self.on_tick(),
                _ = look.tick(), if !self.waiters.is_empty() => {}
            }
            self.check_waiters();
        };
        self.stop().await;
        if let Some(done) = done {
            let _ = done.send(());
        }
    }

    async fn stop(mut self) {
        self.disconnect().await;
        self.shutdown.cancel();
        self.subscribers.close();
        self.filter_client.close();
        if let Some(filter) = &self.filter_server {
            filter.clear();
        }
        self.registry.clear();
        drop(self.swarm);
        for task in self.tasks {
            let _ = task.await;
        }
        if let Some(writer) = &self.writer {
            writer.flush().await;
        }
        if let Some(archive) = &self.archive {
            archive.close().await;
        }
        self.stopped.cancel();
    }

    /// Closes the connections one by one, so that what was written to them leaves.
    async fn disconnect(&mut self) {
        let peers: Vec<PeerId> = self.swarm.connected_peers().copied().collect();
        for peer in peers {
            let _ = self.swarm.disconnect_peer_id(peer);
        }
        let closed = async {
            while self.swarm.connected_peers().next().is_some() {
                let event = self.swarm.select_next_some().await;
                self.on_event(event);
            }
        };
        let _ = timeout(DISCONNECT_LIMIT, closed).await;
    }

    fn on_event(&mut self, event: SwarmEvent<BehaviourEvent>) {
        match event {
            SwarmEvent::Behaviour(BehaviourEvent::Relay(gossipsub::Event::Message {
                propagation_source,
                message_id,
                message,
            })) => self.on_relayed(propagation_source, &message_id, &message),
            SwarmEvent::Behaviour(BehaviourEvent::Ping(ping::Event {
                connection,
                result: Err(ping::Failure::Timeout),
                ..
            })) => {
                // TCP alone notices a vanished peer only when something is sent, and late.
                self.swarm.close_connection(connection);
            }
            SwarmEvent::NewListenAddr { listener_id, address } => {
                self.listening.remove(&listener_id);
                let address = address.with(Protocol::P2p(self.me));
                self.addresses.send_modify(|all| all.push(address));
            }
            SwarmEvent::ExpiredListenAddr { address, .. } => {
                let address = address.with(Protocol::P2p(self.me));
                self.addresses.send_modify(|all| all.retain(|known| *known != address));
            }
            SwarmEvent::ListenerClosed { addresses, reason, .. } => {
                let gone: Vec<_> = addresses.into_iter().map(|a| a.with(Protocol::P2p(self.me))).collect();
                self.addresses.send_modify(|all| all.retain(|known| !gone.contains(known)));
                if let Err(e) = reason {
                    tracing::error!(error = %e, "a listening socket closed");
                }
            }
            SwarmEvent::ConnectionEstablished { peer_id, num_established, .. } if num_established.get() == 1 => {
                self.on_connected(peer_id);
            }
            SwarmEvent::ConnectionClosed { peer_id, num_established: 0, cause, .. } => {
                self.on_disconnected(peer_id, cause.map(|e| e.to_string()));
            }
            SwarmEvent::OutgoingConnectionError { connection_id, error, .. } => {
                tracing::debug!(%error, "a dial failed");
                self.fail_dial(connection_id, &error.to_string());
            }
            SwarmEvent::IncomingConnectionError { error, .. } => {
                tracing::debug!(%error, "an incoming connection failed");
            }
            _ => {}
        }
    }

    fn on_command(&mut self, command: Command) {
        match command {
            Command::Dial { address, reply } => self.dial(address, reply),
            Command::Disconnect { peer } => {
                let _ = self.swarm.disconnect_peer_id(peer);
            }
            Command::Peers { reply } => {
                let ready = self.peers.iter().filter_map(|(peer, known)| match &known.state {
                    PeerState::Ready(metadata) => Some((*peer, metadata.clone())),
                    _ => None,
                });
                let _ = reply.send(ready.collect());
            }
            Command::TopicPeers { topic, reply } => {
                let _ = reply.send(self.topic_peers(topic));
            }
            Command::Wait { condition, reply } => {
                self.waiters.retain(|(_, reply)| !reply.is_closed());
                if self.waiters.len() < MAX_WAITERS {
                    self.waiters.push((condition, reply));
                }
            }
            Command::Publish { topic, message, reply } => {
                let published = self.publish(topic, message);
                if published.is_err() {
                    self.counters.relay_unpublished.fetch_add(1, Ordering::Relaxed);
                }
                let _ = reply.send(published);
            }
            Command::Open { peer, open } => self.swarm.behaviour_mut().rpc.open(peer, open),
            Command::ProtocolsChanged => self.swarm.behaviour_mut().rpc.protocols_changed(),
            Command::Shutdown { .. } => {}
        }
    }

    // Peers

    fn dial(&mut self, address: Multiaddr, reply: oneshot::Sender<Result<PeerId, DialError>>) {
        let Some(peer) = peer_of(&address) else {
            let _ = reply.send(Err(DialError::NoPeerId { address }));
            return;
        };
        if peer == self.me {
            let _ = reply.send(Err(DialError::OwnAddress));
            return;
        }
        if let Some(Peer { state: PeerState::Ready(_), .. }) = self.peers.get(&peer) {
            let _ = reply.send(Ok(peer));
            return;
        }
        self.dials.retain(|dial| !dial.reply.is_closed());
        if self.dials.len() >= MAX_WAITERS {
            let _ = reply.send(Err(DialError::Failed { peer, reason: "too many dials are open".to_owned() }));
            return;
        }
        // With a connection there already the dial is over when the peer's metadata is there.
        let options = DialOpts::peer_id(peer).addresses(vec![address]).condition(PeerCondition::Always).build();
        let connection = options.connection_id();
        self.dials.push(PendingDial { peer, connection, reply });
        if !self.peers.contains_key(&peer)
            && let Err(e) = self.swarm.dial(options)
        {
            self.fail_dial(connection, &e.to_string());
        }
    }

    fn fail_dial(&mut self, connection: ConnectionId, reason: &str) {
        let Some(at) = self.dials.iter().position(|dial| dial.connection == connection) else { return };
        // Another connection may have been quicker.
        if self.peers.contains_key(&self.dials[at].peer) {
            return;
        }
        let dial = self.dials.swap_remove(at);
        let _ = dial.reply.send(Err(DialError::Failed { peer: dial.peer, reason: reason.to_owned() }));
    }

    fn end_dials(&mut self, peer: PeerId, result: &Result<PeerId, DialError>) {
        for dial in self.dials.extract_if(.., |dial| dial.peer == peer) {
            let _ = dial.reply.send(result.clone());
        }
    }

    fn on_connected(&mut self, peer: PeerId) {
        self.sessions += 1;
        let session = self.sessions;
        self.peers.insert(peer, Peer { session, state: PeerState::Asked });
        let (reply, opened) = oneshot::channel();
        let Ok(protocol) = super::stream_protocol(METADATA_PROTOCOL) else { return };
        self.swarm.behaviour_mut().rpc.open(peer, OpenStream { protocol, reply });
        let request = self.own_metadata.encode();
        let answers = self.answers.0.clone();
        tokio::spawn(async move {
            let limits = metadata::request_limits();
            // js-waku answers before it reads, and takes an empty request for a node of cluster 0 without shards, which it
            // then never uses.
            let exchange = exchange(peer, opened, &request, limits, Sending::Whole);
            let answer = match timeout(limits.timeout, exchange).await {
                Ok(Ok(bytes)) => PeerMetadata::decode(&bytes).map_err(|e| NoMetadata::Wrong(e.to_string())),
                Ok(Err(RequestError::NoAnswer { .. } | RequestError::NotConnected { .. })) => Err(NoMetadata::Closed),
                Ok(Err(e)) => Err(NoMetadata::Wrong(e.to_string())),
                Err(_) => Err(NoMetadata::Wrong(RequestError::Timeout { peer, timeout: limits.timeout }.to_string())),
            };
            let _ = answers.send(MetadataAnswer { peer, session, answer }).await;
        });
    }

    fn on_metadata(&mut self, MetadataAnswer { peer, session, answer }: MetadataAnswer) {
        let Some(known) = self.peers.get_mut(&peer).filter(|known| known.session == session) else { return };
        let incompatible = |reason| DialError::Incompatible { peer, reason };
        let problem = match &answer {
            Ok(PeerMetadata { cluster: Some(cluster), .. }) if *cluster == self.cluster => None,
            Ok(PeerMetadata { cluster: Some(cluster), .. }) => {
                Some(incompatible(format!("it is in cluster {cluster}, this node in cluster {}", self.cluster)))
            }
            Ok(PeerMetadata { cluster: None, .. }) => {
                Some(incompatible("it doesn't say which cluster it is in".to_owned()))
            }
            Err(NoMetadata::Wrong(reason)) => {
                Some(incompatible(format!("it doesn't say which cluster it is in: {reason}")))
            }
            Err(NoMetadata::Closed) => Some(DialError::Failed {
                peer,
                reason: "the peer closed the connection before it said which network it belongs to".to_owned(),
            }),
        };
        match problem {
            Some(error) if self.policy == MetadataPolicy::Enforce => {
                tracing::debug!(%error, "disconnecting an unusable peer");
                if matches!(error, DialError::Incompatible { .. }) {
                    self.counters.incompatible_peers.fetch_add(1, Ordering::Relaxed);
                }
                known.state = PeerState::Unusable(error);
                let _ = self.swarm.disconnect_peer_id(peer);
            }
            _ => {
                known.state = PeerState::Ready(answer.ok());
                if let Some(discovery) = &self.discovery {
                    discovery.book().reached(&peer);
                }
                for fixed in self.static_peers.iter_mut().filter(|fixed| fixed.peer == peer) {
                    fixed.pause = RECONNECT_PAUSE.0;
                }
                self.filter_client.connected(peer);
                self.end_dials(peer, &Ok(peer));
            }
        }
    }

    fn on_disconnected(&mut self, peer: PeerId, cause: Option<String>) {
        let error = match self.peers.remove(&peer).map(|known| known.state) {
            Some(PeerState::Unusable(error)) => error,
            _ => {
                DialError::Failed { peer, reason: cause.unwrap_or_else(|| "the peer closed the connection".to_owned()) }
            }
        };
        self.filter_client.disconnected(peer);
        self.end_dials(peer, &Err(error));
    }

    fn on_tick(&mut self) {
        self.reconnect();
        self.dial_found();
        if let Some(filter) = &self.filter_server {
            filter.expire();
        }
        let Some(relay) = self.swarm.behaviour().relay.as_ref() else { return };
        let bad: Vec<PeerId> = self
            .peers
            .keys()
            .copied()
            .filter(|peer| relay.peer_score(peer).is_some_and(|score| score < relay::GRAYLIST_THRESHOLD))
            .collect();
        for peer in bad {
            tracing::debug!(%peer, "disconnecting a peer because of its relay score");
            let _ = self.swarm.disconnect_peer_id(peer);
        }
    }

    fn reconnect(&mut self) {
        let now = Instant::now();
        for fixed in &mut self.static_peers {
            if self.peers.contains_key(&fixed.peer) || fixed.next_try > now {
                continue;
            }
            // Jitter keeps many nodes from returning to a restarted peer in the same instant.
            fixed.next_try = now + fixed.pause.mul_f64(rand::thread_rng().gen_range(0.75..1.25));
            fixed.pause = (fixed.pause * 2).min(RECONNECT_PAUSE.1);
            let options = DialOpts::peer_id(fixed.peer)
                .addresses(vec![fixed.address.clone()])
                .condition(PeerCondition::DisconnectedAndNotDialing)
                .build();
            let _ = self.swarm.dial(options);
        }
    }

    fn dial_found(&mut self) {
        let Some(discovery) = &self.discovery else { return };
        let found = discovery.to_dial(self.peers.len(), MAX_FOUND_DIALS, |peer| self.peers.contains_key(peer));
        for (peer, addresses) in found {
            let condition = PeerCondition::DisconnectedAndNotDialing;
            let _ = self.swarm.dial(DialOpts::peer_id(peer).addresses(addresses).condition(condition).build());
        }
    }

    fn topic_peers(&self, topic: PubsubTopic) -> usize {
        let hash = relay::topic_hash(topic);
        self.swarm
            .behaviour()
            .relay
            .as_ref()
            .map_or(0, |relay| relay.all_peers().filter(|(_, topics)| topics.contains(&&hash)).count())
    }

    fn mesh_peers(&self, topic: PubsubTopic) -> usize {
        let hash = relay::topic_hash(topic);
        self.swarm.behaviour().relay.as_ref().map_or(0, |relay| relay.mesh_peers(&hash).count())
    }

    fn check_waiters(&mut self) {
        if self.waiters.is_empty() {
            return;
        }
        let waiters = std::mem::take(&mut self.waiters);
        for (condition, reply) in waiters {
            let met = match condition {
                Condition::Connected(peer) => {
                    matches!(self.peers.get(&peer), Some(Peer { state: PeerState::Ready(_), .. }))
                }
                Condition::Disconnected(peer) => !self.peers.contains_key(&peer),
                Condition::TopicPeers(topic, peers) => self.topic_peers(topic) >= peers,
                Condition::Mesh(topic, peers) => self.mesh_peers(topic) >= peers,
            };
            if met {
                let _ = reply.send(());
            } else if !reply.is_closed() {
                self.waiters.push((condition, reply));
            }
        }
    }

    // Messages

    fn publish(&mut self, topic: PubsubTopic, message: WakuMessage) -> Result<Published, PublishError> {
        let hash = message.hash(topic);
        let relay_peers = self.topic_peers(topic);
        let relay = self.swarm.behaviour_mut().relay.as_mut().ok_or(PublishError::NoRelay)?;
        if self.seen.contains(&hash) {
            return Err(PublishError::Duplicate);
        }
        relay.publish(relay::topic_hash(topic), message.encode()).map_err(|e| match e {
            gossipsub::PublishError::Duplicate => PublishError::Duplicate,
            gossipsub::PublishError::AllQueuesFull(peers) => PublishError::QueuesFull { peers },
            gossipsub::PublishError::MessageTooLarge => {
                let len = message.encode().len();
                PublishError::Invalid(crate::message::MessageError::TooLarge { len, max: MAX_MESSAGE_BYTES })
            }
            _ => PublishError::NoPeers { topic },
        })?;
        self.counters.relay_published.fetch_add(1, Ordering::Relaxed);
        self.seen.insert(hash, self.clock.monotonic());
        self.deliver(topic, hash, message);
        Ok(Published { pubsub_topic: topic, hash, relay_peers })
    }

    fn on_relayed(&mut self, source: PeerId, id: &MessageId, message: &gossipsub::Message) {
        let verdict = self.judge(source, message);
        if let Some(relay) = self.swarm.behaviour_mut().relay.as_mut() {
            let acceptance = match &verdict {
                Ok(_) => MessageAcceptance::Accept,
                Err(MessageAcceptance::Reject) => MessageAcceptance::Reject,
                Err(_) => MessageAcceptance::Ignore,
            };
            relay.report_message_validation_result(id, &source, acceptance);
        }
        let counter = match &verdict {
            Ok(_) => &self.counters.relay_accepted,
            Err(MessageAcceptance::Reject) => &self.counters.relay_rejected,
            Err(_) => &self.counters.relay_ignored,
        };
        counter.fetch_add(1, Ordering::Relaxed);
        if let Ok((topic, hash, message)) = verdict {
            self.deliver(topic, hash, message);
        }
    }

    fn judge(
        &mut self,
        source: PeerId,
        message: &gossipsub::Message,
    ) -> Result<(PubsubTopic, MessageHash, WakuMessage), MessageAcceptance> {
        let monotonic = self.clock.monotonic();
        #[allow(clippy::cast_precision_loss)]
        let bytes = message.data.len() as f64;
        if self.relay_messages.take(&source, 1.0, monotonic).is_err()
            || self.relay_bytes.take(&source, bytes, monotonic).is_err()
        {
            return Err(MessageAcceptance::Ignore);
        }
        let topic = *self.joined.get(&message.topic).ok_or(MessageAcceptance::Ignore)?;
        let message = relay::validate(&message.data, self.clock.now()).map_err(|(acceptance, e)| {
            tracing::debug!(code = e.code(), error = %e, "a relayed message is not acceptable");
            acceptance
        })?;
        let hash = message.hash(topic);
        if self.seen.insert(hash, monotonic) { Ok((topic, hash, message)) } else { Err(MessageAcceptance::Ignore) }
    }

    /// Hands a message to the archive and to the subscriptions.
    fn deliver(&mut self, pubsub_topic: PubsubTopic, hash: MessageHash, message: WakuMessage) {
        let message = Arc::new(message);
        if let Some(writer) = self.writer.as_ref().filter(|_| !message.is_ephemeral()) {
            let archived = ArchivedMessage { hash, pubsub_topic, message: message.clone() };
            if writer.enqueue(archived) == Enqueued::QueueFull && writer.lost().is_power_of_two() {
                tracing::error!(lost = writer.lost(), "the archive is too slow; messages are not archived");
            }
        }
        let received = ReceivedMessage { pubsub_topic, message, hash };
        if let Some(filter) = &self.filter_server {
            filter.deliver(&received);
        }
        self.subscribers.deliver(&received);
    }
}
