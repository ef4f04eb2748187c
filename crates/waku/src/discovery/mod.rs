//! Finding peers: discv5 under Waku's protocol identity (33/WAKU2-DISCV5), peer exchange, and configured records.
//!
//! discv5 runs beside the swarm, on a UDP socket and with the node's own key. Records of the node's network are written
//! into a bounded book, and the node dials from it while it has fewer connections than it wants.

mod book;

use std::{
    net::{IpAddr, SocketAddr},
    sync::{
        Arc, Mutex, PoisonError,
        atomic::{AtomicUsize, Ordering},
    },
    time::{Duration, Instant},
};

use discv5::{ConfigBuilder, Discv5, Event, ListenConfig, ProtocolIdentity, RateLimiterBuilder};
use futures::future::OptionFuture;
use libp2p::{Multiaddr, PeerId, multiaddr::Protocol};
use prost::bytes::Bytes;
use tokio::{
    net::UdpSocket,
    sync::{mpsc, watch},
    task::JoinHandle,
    time::{Instant as Wake, sleep_until},
};
use tokio_util::sync::CancellationToken;

pub(crate) use self::book::{Book, Wanted};
pub use self::book::{FoundBy, FoundPeer, FoundPeers};
use crate::{
    enr::{Capabilities, NodeRecord, RecordContent, RecordShards, ServiceFamilies, signing_key},
    error::NodeError,
    key::NodeKey,
    node::NodeConfig,
    peer_exchange::PeerExchangeConfig,
};

/// What Waku's discv5 packets carry instead of `discv5`.
const PROTOCOL: ProtocolIdentity = ProtocolIdentity { protocol_id: *b"d5waku", protocol_version: [0, 1] };

/// Pause after the first query, and the longest while connections are missing and while there are enough. Each pause is
/// twice the one before.
const QUERY_PAUSE: (Duration, Duration, Duration) =
    (Duration::from_secs(1), Duration::from_secs(10), Duration::from_secs(60));

/// Records that a query looks for.
const QUERY_RESULTS: usize = 16;

/// How a node finds peers.
#[derive(Clone, Debug)]
pub struct DiscoveryConfig {
    /// UDP socket of discv5; port 0 takes any. `None` runs no discv5: then there are the bootstrap records, and what
    /// other nodes tell by peer exchange.
    pub listen: Option<SocketAddr>,
    /// Records to begin with. They add to `static_peers`, and are dialed themselves if they are of this network.
    pub bootstrap: Vec<NodeRecord>,
    /// What the node's record says that it sells.
    pub sells: ServiceFamilies,
    /// Connections below which found peers are dialed.
    pub wanted_peers: usize,
    /// Whether connected peers are asked for others while connections are missing.
    pub ask_peers: bool,
    /// Telling other nodes what discv5 found; `None` doesn't.
    pub peer_exchange: Option<PeerExchangeConfig>,
    /// Bounds on what strangers can make the node remember and do.
    pub limits: DiscoveryLimits,
}

impl DiscoveryConfig {
    /// discv5 on this socket, beginning with these records.
    #[must_use]
    pub fn new(listen: Option<SocketAddr>, bootstrap: Vec<NodeRecord>) -> Self {
        Self {
            listen,
            bootstrap,
            sells: ServiceFamilies::default(),
            wanted_peers: 20,
            ask_peers: true,
            peer_exchange: Some(PeerExchangeConfig::default()),
            limits: DiscoveryLimits::default(),
        }
    }
}

/// Bounds on what strangers can make a node remember and do.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct DiscoveryLimits {
    /// Found peers that are remembered.
    pub max_found: usize,
    /// Of these, peers that share an address; `None` for any number.
    pub max_found_per_address: Option<usize>,
    /// Whether discv5 keeps few nodes of one /24 in its table: 2 in a bucket, 10 in all.
    pub subnet_limit: bool,
    /// Whether discv5 drops packets of an address that sends more than 50 unasked a second, and bans it for 5 minutes.
    pub packet_filter: bool,
    /// Whether found peers are dialed at addresses that aren't global (loopback, private, link-local).
    pub local_addresses: bool,
}

impl Default for DiscoveryLimits {
    fn default() -> Self {
        Self {
            max_found: 1000,
            max_found_per_address: Some(5),
            subnet_limit: true,
            packet_filter: true,
            local_addresses: false,
        }
    }
}

impl DiscoveryLimits {
    /// For networks whose nodes share one address or have none of their own: a machine's loopback, or one NAT.
    #[must_use]
    pub fn shared_address() -> Self {
        Self {
            max_found_per_address: None,
            subnet_limit: false,
            packet_filter: false,
            local_addresses: true,
            ..Self::default()
        }
    }
}

/// What the node, its handle and the task of discv5 share.
#[derive(Debug)]
pub(crate) struct Discovery {
    book: Arc<Book>,
    record: Mutex<NodeRecord>,
    wanted_peers: usize,
    connected: AtomicUsize,
    started: Instant,
    stopped: CancellationToken,
}

impl Discovery {
    pub(crate) fn record(&self) -> NodeRecord {
        self.record.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    fn set_record(&self, record: NodeRecord) {
        *self.record.lock().unwrap_or_else(PoisonError::into_inner) = record;
    }

    pub(crate) fn book(&self) -> &Arc<Book> {
        &self.book
    }

    pub(crate) fn watch(&self) -> FoundPeers {
        let changes = self.book.changes();
        FoundPeers { book: self.book.clone(), serial: 0, changes, stopped: self.stopped.clone() }
    }

    /// Whether the node has fewer connections than it wants.
    pub(crate) fn wants_peers(&self) -> bool {
        self.connected.load(Ordering::Relaxed) < self.wanted_peers
    }

    /// Peers to dial now, at most `max`, given who is connected.
    pub(crate) fn to_dial(
        &self,
        connected: usize,
        max: usize,
        known: impl Fn(&PeerId) -> bool,
    ) -> Vec<(PeerId, Vec<Multiaddr>)> {
        self.connected.store(connected, Ordering::Relaxed);
        let missing = self.wanted_peers.saturating_sub(connected);
        self.book.to_dial(missing.min(max), self.started.elapsed(), known)
    }
}

/// Opens the socket and starts discv5. The node listens already at `addresses`.
pub(crate) async fn start(
    node: &NodeConfig,
    config: &DiscoveryConfig,
    mut addresses: watch::Receiver<Vec<Multiaddr>>,
    shutdown: CancellationToken,
) -> Result<(Arc<Discovery>, Option<JoinHandle<()>>), NodeError> {
    let socket = match config.listen {
        Some(listen) => Some(bind(listen).await?),
        None => None,
    };
    let own = OwnRecord {
        key: node.key.clone(),
        base: base_content(node, config),
        external: node.external.clone(),
        udp: socket.as_ref().map(|(_, bound)| *bound),
        voted: None,
    };
    // A restarted node's record must be newer than all it had before.
    let seq = u64::try_from(node.clock.now().as_nanos() / 1_000_000).unwrap_or(1).max(1);
    let record = own.sign(&addresses.borrow_and_update(), seq)?;
    let wanted = Wanted {
        me: node.key.peer_id(),
        cluster: node.cluster,
        shards: node.shards.clone(),
        local_addresses: config.limits.local_addresses,
    };
    let discovery = Arc::new(Discovery {
        book: Arc::new(Book::new(wanted, config.limits.max_found, config.limits.max_found_per_address)),
        record: Mutex::new(record.clone()),
        wanted_peers: config.wanted_peers,
        connected: AtomicUsize::new(0),
        started: Instant::now(),
        stopped: shutdown.clone(),
    });
    for known in &config.bootstrap {
        discovery.book.offer(known.clone(), FoundBy::Bootstrap);
    }
    let Some((socket, bound)) = socket else { return Ok((discovery, None)) };
    let failed = |reason: String| NodeError::Listen { address: udp_address(bound), reason };
    let settings = settings(config, socket, bound.is_ipv4(), !own.knows_its_address());
    let mut service =
        Discv5::new(record.enr().clone(), signing_key(&node.key)?, settings).map_err(|e| failed(e.to_owned()))?;
    for known in config.bootstrap.iter().filter(|known| known.peer_id() != node.key.peer_id()) {
        if let Err(reason) = service.add_enr(known.enr().clone()) {
            tracing::warn!(peer = %known.peer_id(), reason, "a bootstrap record is of no use to discv5");
        }
    }
    service.start().await.map_err(|e| failed(e.to_string()))?;
    let events = service.event_stream().await.map_err(|e| failed(e.to_string()))?;
    let task = Task { service, events, addresses, own, discovery: discovery.clone(), shutdown };
    Ok((discovery, Some(tokio::spawn(task.run()))))
}

async fn bind(listen: SocketAddr) -> Result<(Arc<UdpSocket>, SocketAddr), NodeError> {
    let failed = |e: std::io::Error| NodeError::Listen { address: udp_address(listen), reason: e.to_string() };
    let socket = UdpSocket::bind(listen).await.map_err(failed)?;
    let bound = socket.local_addr().map_err(failed)?;
    Ok((Arc::new(socket), bound))
}

fn udp_address(socket: SocketAddr) -> Multiaddr {
    Multiaddr::from(socket.ip()).with(Protocol::Udp(socket.port()))
}

fn settings(config: &DiscoveryConfig, socket: Arc<UdpSocket>, v4: bool, learn_address: bool) -> discv5::Config {
    let (ipv4, ipv6) = if v4 { (Some(socket), None) } else { (None, Some(socket)) };
    let mut builder = ConfigBuilder::new(ListenConfig::FromSockets { ipv4, ipv6 });
    builder.table_filter(serves_waku).ban_duration(Some(Duration::from_secs(5 * 60)));
    if config.limits.subnet_limit {
        builder.ip_limit();
    }
    if config.limits.packet_filter {
        let second = Duration::from_secs(1);
        let rates = RateLimiterBuilder::new()
            .total_n_every(1000, second)
            .ip_n_every(50, second)
            .node_n_every(50, second)
            .build();
        builder.enable_packet_filter().filter_rate_limiter(rates.ok());
    }
    if !learn_address {
        builder.disable_enr_update();
    }
    let mut settings = builder.build();
    settings.protocol_identity = PROTOCOL;
    settings
}

/// Nodes without Waku protocols have no place in the table.
fn serves_waku(enr: &discv5::Enr) -> bool {
    matches!(enr.get_decodable::<Bytes>("waku2"), Some(Ok(bytes)) if bytes.iter().any(|bits| *bits != 0))
}

fn base_content(node: &NodeConfig, config: &DiscoveryConfig) -> RecordContent {
    let served = [
        (node.relay, Capabilities::RELAY),
        (node.archive.is_some() && node.store.is_some(), Capabilities::STORE),
        (node.filter.is_some(), Capabilities::FILTER),
        (node.lightpush.is_some(), Capabilities::LIGHTPUSH),
    ];
    let capabilities = served.into_iter().filter(|(serves, _)| *serves).map(|(_, flag)| flag);
    let shards = if node.relay { node.shards.clone() } else { Vec::new() };
    RecordContent {
        capabilities: capabilities.fold(Capabilities::default(), |all, flag| all | flag),
        shards: Some(RecordShards { cluster: node.cluster, shards }),
        sells: config.sells,
        ..RecordContent::default()
    }
}

/// How the node's own record is made.
struct OwnRecord {
    key: NodeKey,
    base: RecordContent,
    external: Vec<Multiaddr>,
    udp: Option<SocketAddr>,
    /// The UDP address that others see.
    voted: Option<SocketAddr>,
}

impl OwnRecord {
    fn knows_its_address(&self) -> bool {
        self.external.iter().any(|address| plain_tcp(address).is_some())
            || self.udp.is_some_and(|udp| !udp.ip().is_unspecified())
    }

    fn sign(&self, listening: &[Multiaddr], seq: u64) -> Result<NodeRecord, NodeError> {
        let (record, left_out) = self.content(listening).sign_fitting(&self.key, seq)?;
        if left_out > 0 {
            tracing::warn!(left_out, "not all addresses fit into the node's record");
        }
        Ok(record)
    }

    fn content(&self, listening: &[Multiaddr]) -> RecordContent {
        let mut content = self.base.clone();
        let known = if self.external.is_empty() { listening } else { &self.external };
        let mut plain: Vec<SocketAddr> = known.iter().filter_map(plain_tcp).collect();
        plain.sort_by_key(|socket| rank(socket.ip()));
        for socket in plain {
            match socket {
                SocketAddr::V4(v4) if content.ip4.is_none() => {
                    (content.ip4, content.tcp4) = (Some(*v4.ip()), Some(v4.port()));
                }
                SocketAddr::V6(v6) if content.ip6.is_none() => {
                    (content.ip6, content.tcp6) = (Some(*v6.ip()), Some(v6.port()));
                }
                _ => {}
            }
        }
        match self.udp {
            Some(SocketAddr::V4(v4)) => {
                content.udp4 = Some(v4.port());
                content.ip4 = content.ip4.or_else(|| Some(*v4.ip()).filter(|ip| !ip.is_unspecified()));
            }
            Some(SocketAddr::V6(v6)) => {
                content.udp6 = Some(v6.port());
                content.ip6 = content.ip6.or_else(|| Some(*v6.ip()).filter(|ip| !ip.is_unspecified()));
            }
            None => {}
        }
        match self.voted {
            Some(SocketAddr::V4(v4)) => (content.ip4, content.udp4) = (Some(*v4.ip()), Some(v4.port())),
            Some(SocketAddr::V6(v6)) => (content.ip6, content.udp6) = (Some(*v6.ip()), Some(v6.port())),
            None => {}
        }
        for address in known.iter().filter(|address| !is_plain(address)) {
            let address: Multiaddr = address.iter().filter(|part| !matches!(part, Protocol::P2p(_))).collect();
            if !address.is_empty() && !content.multiaddrs.contains(&address) {
                content.multiaddrs.push(address);
            }
        }
        content
    }
}

/// Of several addresses the one that most others can use is told.
fn rank(ip: IpAddr) -> u8 {
    if book::is_global(ip) {
        0
    } else if ip.is_loopback() {
        2
    } else {
        1
    }
}

fn is_plain(address: &Multiaddr) -> bool {
    let mut parts = address.iter().filter(|part| !matches!(part, Protocol::P2p(_)));
    matches!(
        (parts.next(), parts.next(), parts.next()),
        (Some(Protocol::Ip4(_) | Protocol::Ip6(_)), Some(Protocol::Tcp(_)), None)
    )
}

fn plain_tcp(address: &Multiaddr) -> Option<SocketAddr> {
    let mut parts = address.iter().filter(|part| !matches!(part, Protocol::P2p(_)));
    let ip: IpAddr = match parts.next()? {
        Protocol::Ip4(ip) => ip.into(),
        Protocol::Ip6(ip) => ip.into(),
        _ => return None,
    };
    match (parts.next()?, parts.next()) {
        (Protocol::Tcp(port), None) if !ip.is_unspecified() => Some(SocketAddr::new(ip, port)),
        _ => None,
    }
}

/// Runs discv5.
struct Task {
    service: Discv5,
    events: mpsc::Receiver<Event>,
    addresses: watch::Receiver<Vec<Multiaddr>>,
    own: OwnRecord,
    discovery: Arc<Discovery>,
    shutdown: CancellationToken,
}

impl Task {
    async fn run(mut self) {
        let mut pause = QUERY_PAUSE.0;
        let mut next_query = Wake::now();
        let mut query = None;
        let shutdown = self.shutdown.clone();
        loop {
            tokio::select! {
                () = shutdown.cancelled() => break,
                event = self.events.recv() => match event {
                    Some(event) => self.on_event(event),
                    None => break,
                },
                () = sleep_until(next_query), if query.is_none() => query = Some(Box::pin(self.query())),
                found = OptionFuture::from(query.as_mut()), if query.is_some() => {
                    query = None;
                    for enr in found.and_then(Result::ok).unwrap_or_default() {
                        self.offer(enr);
                    }
                    let longest = if self.discovery.wants_peers() { QUERY_PAUSE.1 } else { QUERY_PAUSE.2 };
                    next_query = Wake::now() + pause;
                    pause = (pause * 2).min(longest);
                }
                Ok(()) = self.addresses.changed() => self.renew(),
            }
        }
        self.service.shutdown();
    }

    /// Looks around a random place of the table for nodes of this network; all Waku networks share the table.
    fn query(&self) -> impl Future<Output = Result<Vec<discv5::Enr>, discv5::QueryError>> + Send + use<> {
        let book = self.discovery.book.clone();
        let fits = move |enr: &discv5::Enr| {
            NodeRecord::from_enr(enr.clone()).is_ok_and(|record| book.wanted().admits(&record))
        };
        self.service.find_node_predicate(::enr::NodeId::random(), Box::new(fits), QUERY_RESULTS)
    }

    fn on_event(&mut self, event: Event) {
        match event {
            Event::Discovered(enr) | Event::SessionEstablished(enr, _) => self.offer(enr),
            Event::SocketUpdated(socket) => {
                self.own.voted = Some(socket);
                if let Ok(record) = NodeRecord::from_enr(self.service.local_enr()) {
                    tracing::info!(%socket, "other nodes see this node at another address; its record says so now");
                    self.discovery.set_record(record);
                }
            }
            _ => {}
        }
    }

    fn offer(&self, enr: discv5::Enr) {
        match NodeRecord::from_enr(enr) {
            Ok(record) => {
                self.discovery.book.offer(record, FoundBy::Discv5);
            }
            Err(e) => tracing::debug!(code = e.code(), error = %e, "a found record is malformed"),
        }
    }

    /// The node listens elsewhere.
    fn renew(&mut self) {
        let seq = self.service.local_enr().seq() + 1;
        let record = self.own.sign(&self.addresses.borrow_and_update(), seq);
        match record {
            Ok(record) => {
                *self.service.external_enr().write() = record.enr().clone();
                self.discovery.set_record(record);
            }
            Err(e) => tracing::error!(code = e.code(), error = %e, "the node's record can't be renewed"),
        }
    }
}
