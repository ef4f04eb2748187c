//! The node: its setup, its task, and the handle by which everything else uses it.

mod config;
mod connections;
mod driver;
mod subscription;

use std::{
    fmt,
    pin::pin,
    sync::{
        Arc, Weak,
        atomic::{AtomicU64, Ordering},
    },
    time::Duration,
};

use futures::{
    AsyncReadExt as _, AsyncWriteExt as _,
    future::{Either, select},
};
use libp2p::{Multiaddr, PeerId, Stream, StreamProtocol};
use prost::bytes::Bytes;
use tokio::{
    sync::{mpsc, oneshot, watch},
    time::timeout,
};
use tokio_util::sync::CancellationToken;

pub use self::{
    config::{LightPushConfig, MetadataPolicy, NodeConfig, NodeLimits, StoreConfig},
    subscription::{ReceivedMessage, Subscription},
};
use self::{
    driver::{Command, Condition},
    subscription::{Interest, Subscribers},
};
use crate::{
    archive::{Archive, ArchiveWriter},
    clock::{Clock, Timestamp},
    discovery::{Discovery, FoundBy, FoundPeer, FoundPeers},
    enr::NodeRecord,
    error::{DialError, NodeError, PublishError, RequestError},
    filter::{
        self, FILTER_PUSH_PROTOCOL, FilterClient, FilterError, FilterGate, FilterServer, FilterStats,
        FilterSubscription,
    },
    key::NodeKey,
    lightpush::{self, LightPushError, LightPushGate, LightPushRequest, LightPushService, LightPushed},
    message::{MessageHash, WakuMessage},
    metadata::PeerMetadata,
    peer_exchange::{self, PeerExchangeError},
    rpc::{
        FrameError, Handler, OpenError, OpenStream, Registry, RequestHandler, RequestLimits, ServeLimits, ServeStats,
        read_frame, write_frame,
    },
    store::{self, StoreError, StoreGate, StoreQueryRequest, StoreQueryResponse, StoreServer},
    topics::{ClusterId, ContentTopic, PubsubTopic, ShardIndex, Sharding, TopicError},
};

/// Time for a peer to agree to a stream's protocol.
const NEGOTIATION_TIMEOUT: Duration = Duration::from_secs(10);

/// A Waku node.
#[derive(Debug)]
pub struct Node(());

impl Node {
    /// Starts a node; it listens when this returns. It stops when [`NodeHandle::shutdown`] is called, or when all
    /// handles are dropped (a served handler that owns a handle keeps the node alive).
    ///
    /// # Errors
    /// [`NodeError::Config`], [`NodeError::Topic`], [`NodeError::Listen`], [`NodeError::Archive`].
    pub async fn spawn(config: NodeConfig) -> Result<NodeHandle, NodeError> {
        driver::spawn(config).await
    }
}

/// A message that was published.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Published {
    /// The shard it went to.
    pub pubsub_topic: PubsubTopic,
    /// Its deterministic hash.
    pub hash: MessageHash,
    /// Peers that relay the shard and that it was sent to.
    pub relay_peers: usize,
}

/// Counters of a node since its start.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct NodeStats {
    /// Messages relayed to the node and accepted.
    pub relay_accepted: u64,
    /// Messages relayed to the node that break the rules.
    pub relay_rejected: u64,
    /// Messages relayed to the node that were neither accepted nor held against their bearer.
    pub relay_ignored: u64,
    /// Messages that the node published by relay, its own and those of lightpush clients; messages of others that it passes on
    /// are the accepted ones.
    pub relay_published: u64,
    /// Messages that it could not publish: nobody to send them to, seen already, or queues full.
    pub relay_unpublished: u64,
    /// Messages that were not archived, because the queue was full or the database failed.
    pub archive_lost: u64,
    /// Peers that were disconnected because of their metadata.
    pub incompatible_peers: u64,
    /// Filter pushes that nobody asked for, or that were malformed.
    pub unexpected_pushes: u64,
}

#[derive(Debug, Default)]
struct Counters {
    relay_accepted: AtomicU64,
    relay_rejected: AtomicU64,
    relay_ignored: AtomicU64,
    relay_published: AtomicU64,
    relay_unpublished: AtomicU64,
    incompatible_peers: AtomicU64,
}

struct Shared {
    key: NodeKey,
    cluster: ClusterId,
    sharding: Sharding,
    shards: Vec<ShardIndex>,
    relay: bool,
    clock: Arc<dyn Clock>,
    commands: mpsc::Sender<Command>,
    addresses: watch::Receiver<Vec<Multiaddr>>,
    registry: Arc<Registry>,
    subscribers: Arc<Subscribers>,
    archive: Option<Arc<dyn Archive>>,
    writer: Option<ArchiveWriter>,
    store_server: Option<Arc<StoreServer>>,
    lightpush: Option<Arc<LightPushService>>,
    filter_server: Option<Arc<FilterServer>>,
    filter_client: Arc<FilterClient>,
    discovery: Option<Arc<Discovery>>,
    counters: Arc<Counters>,
    stopped: CancellationToken,
}

/// Uses a running node; clones share it.
#[derive(Clone)]
pub struct NodeHandle {
    shared: Arc<Shared>,
}

impl fmt::Debug for NodeHandle {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("NodeHandle").field("peer_id", &self.peer_id().to_string()).finish_non_exhaustive()
    }
}

impl NodeHandle {
    /// The node's identity.
    #[must_use]
    pub fn peer_id(&self) -> PeerId {
        self.shared.key.peer_id()
    }

    /// The node's key, to sign with.
    #[must_use]
    pub fn key(&self) -> &NodeKey {
        &self.shared.key
    }

    /// The network.
    #[must_use]
    pub fn cluster(&self) -> ClusterId {
        self.shared.cluster
    }

    /// How content topics map to shards.
    #[must_use]
    pub fn sharding(&self) -> Sharding {
        self.shared.sharding
    }

    /// The shards that the node relays.
    #[must_use]
    pub fn shards(&self) -> &[ShardIndex] {
        &self.shared.shards
    }

    /// The node's clock.
    #[must_use]
    pub fn clock(&self) -> &Arc<dyn Clock> {
        &self.shared.clock
    }

    /// Its wall-clock time.
    #[must_use]
    pub fn now(&self) -> Timestamp {
        self.shared.clock.now()
    }

    /// Addresses that the node listens on, each ending in its `/p2p/<peer id>`.
    #[must_use]
    pub fn listen_addrs(&self) -> Vec<Multiaddr> {
        self.shared.addresses.borrow().clone()
    }

    /// The shard that a content topic belongs to.
    ///
    /// # Errors
    /// [`TopicError::StaticSharding`] unless the network autoshards, and those of [`ContentTopic::shard`].
    pub fn pubsub_topic(&self, content_topic: &ContentTopic) -> Result<PubsubTopic, TopicError> {
        match self.shared.sharding {
            Sharding::Auto { shards } => Ok(PubsubTopic::new(self.shared.cluster, content_topic.shard(shards)?)),
            Sharding::Static => Err(TopicError::StaticSharding),
        }
    }

    /// A handle that doesn't keep the node running.
    #[must_use]
    pub fn downgrade(&self) -> WeakNodeHandle {
        WeakNodeHandle { shared: Arc::downgrade(&self.shared) }
    }

    /// Whether the node was shut down.
    #[must_use]
    pub fn is_stopped(&self) -> bool {
        self.shared.stopped.is_cancelled()
    }

    // Peers

    /// Connects to `/ip4/../tcp/../p2p/<peer id>`, and returns when the peer has said that it belongs to this network.
    /// Returns at once if it is connected already.
    ///
    /// # Errors
    /// [`DialError`].
    pub async fn dial(&self, address: &Multiaddr) -> Result<PeerId, DialError> {
        let (reply, answer) = oneshot::channel();
        self.send(Command::Dial { address: address.clone(), reply }).await.map_err(|()| DialError::Stopped)?;
        answer.await.unwrap_or(Err(DialError::Stopped))
    }

    /// [`NodeHandle::dial`] with a time limit.
    ///
    /// # Errors
    /// [`DialError`].
    pub async fn dial_within(&self, address: &Multiaddr, limit: Duration) -> Result<PeerId, DialError> {
        timeout(limit, self.dial(address)).await.unwrap_or(Err(DialError::Timeout { timeout: limit }))
    }

    /// Closes all connections with a peer.
    pub async fn disconnect(&self, peer: PeerId) {
        let _ = self.send(Command::Disconnect { peer }).await;
    }

    /// Peers that are connected and belong to this network.
    pub async fn connected_peers(&self) -> Vec<PeerId> {
        self.ask(|reply| Command::Peers { reply }).await.unwrap_or_default().into_iter().map(|(peer, _)| peer).collect()
    }

    /// Whether a peer is connected and belongs to this network.
    pub async fn is_connected(&self, peer: PeerId) -> bool {
        self.connected_peers().await.contains(&peer)
    }

    /// Connected peers and what they said about themselves, if they did.
    pub async fn peers_metadata(&self) -> Vec<(PeerId, Option<PeerMetadata>)> {
        self.ask(|reply| Command::Peers { reply }).await.unwrap_or_default()
    }

    /// Waits until a peer is connected and known to belong to this network.
    ///
    /// # Errors
    /// [`NodeError::Timeout`], [`NodeError::Stopped`].
    pub async fn wait_for_peer(&self, peer: PeerId, limit: Duration) -> Result<(), NodeError> {
        self.wait(Condition::Connected(peer), limit, || format!("a connection with {peer}")).await
    }

    /// Waits until a peer is no longer connected.
    ///
    /// # Errors
    /// [`NodeError::Timeout`], [`NodeError::Stopped`].
    pub async fn wait_for_disconnect(&self, peer: PeerId, limit: Duration) -> Result<(), NodeError> {
        self.wait(Condition::Disconnected(peer), limit, || format!("the end of the connection with {peer}")).await
    }

    /// Connected peers that relay a shard; a message published now reaches them.
    pub async fn peers_on_topic(&self, topic: PubsubTopic) -> usize {
        self.ask(|reply| Command::TopicPeers { topic, reply }).await.unwrap_or(0)
    }

    /// Waits until at least `peers` connected peers relay a shard.
    ///
    /// # Errors
    /// [`NodeError::Timeout`], [`NodeError::NoRelay`], [`NodeError::Stopped`].
    pub async fn wait_for_topic_peers(
        &self,
        topic: PubsubTopic,
        peers: usize,
        limit: Duration,
    ) -> Result<(), NodeError> {
        self.check_relay()?;
        self.wait(Condition::TopicPeers(topic, peers), limit, || format!("{peers} peers that relay {topic}")).await
    }

    /// Waits until the node's own mesh of a shard has at least `peers` peers.
    ///
    /// # Errors
    /// [`NodeError::Timeout`], [`NodeError::NoRelay`], [`NodeError::Stopped`].
    pub async fn wait_for_mesh(&self, topic: PubsubTopic, peers: usize, limit: Duration) -> Result<(), NodeError> {
        self.check_relay()?;
        self.wait(Condition::Mesh(topic, peers), limit, || format!("{peers} peers in the mesh of {topic}")).await
    }

    // Discovery

    /// The node's own record as it is now; `None` without discovery. Its address may change while the node runs.
    #[must_use]
    pub fn record(&self) -> Option<NodeRecord> {
        self.shared.discovery.as_ref().map(|discovery| discovery.record())
    }

    /// Peers of this network that discovery knows, connected or not, in no order.
    #[must_use]
    pub fn found_peers(&self) -> Vec<FoundPeer> {
        self.shared.discovery.as_ref().map(|discovery| discovery.book().found()).unwrap_or_default()
    }

    /// Found peers as they come, those known already first.
    ///
    /// # Errors
    /// [`NodeError::NoDiscovery`].
    pub fn watch_found_peers(&self) -> Result<FoundPeers, NodeError> {
        self.shared.discovery.as_ref().map(|discovery| discovery.watch()).ok_or(NodeError::NoDiscovery)
    }

    /// Asks a connected peer for the records of at most `count` others (60 at most). With discovery, those of this
    /// network are remembered, and dialed when connections are missing.
    ///
    /// # Errors
    /// [`PeerExchangeError`].
    pub async fn exchange_peers(&self, peer: PeerId, count: usize) -> Result<Vec<NodeRecord>, PeerExchangeError> {
        let records = peer_exchange::ask(self, peer, count).await?;
        if let Some(discovery) = &self.shared.discovery {
            for record in &records {
                discovery.book().offer(record.clone(), FoundBy::PeerExchange);
            }
        }
        Ok(records)
    }

    // Relay

    /// Publishes a message in the shard of its content topic. The node's own subscriptions and archive get it too.
    ///
    /// # Errors
    /// [`PublishError`]; then nobody got it.
    pub async fn publish(&self, message: WakuMessage) -> Result<Published, PublishError> {
        let topic = self.pubsub_topic(&message.content_topic)?;
        self.publish_to(topic, message).await
    }

    /// Publishes a message in a shard.
    ///
    /// # Errors
    /// [`PublishError`]; then nobody got it.
    pub async fn publish_to(&self, topic: PubsubTopic, message: WakuMessage) -> Result<Published, PublishError> {
        if topic.cluster != self.shared.cluster {
            return Err(PublishError::WrongCluster { topic, cluster: self.shared.cluster });
        }
        message.validate(self.now())?;
        self.ask(|reply| Command::Publish { topic, message, reply }).await.unwrap_or(Err(PublishError::Stopped))
    }

    /// Messages of some content topics, from now on; the node relays their shards.
    ///
    /// # Errors
    /// [`NodeError::ShardNotJoined`], [`NodeError::Topic`], [`NodeError::TooManySubscriptions`],
    /// [`NodeError::NoRelay`].
    pub fn subscribe(&self, content_topics: impl IntoIterator<Item = ContentTopic>) -> Result<Subscription, NodeError> {
        let content_topics: std::collections::HashSet<_> = content_topics.into_iter().collect();
        if matches!(self.shared.sharding, Sharding::Auto { .. }) {
            for topic in &content_topics {
                self.check_joined(self.pubsub_topic(topic)?)?;
            }
        }
        self.open_subscription(Interest { pubsub_topic: None, content_topics: Some(content_topics) })
    }

    /// All messages of one shard, from now on.
    ///
    /// # Errors
    /// [`NodeError::ShardNotJoined`], [`NodeError::TooManySubscriptions`], [`NodeError::NoRelay`].
    pub fn subscribe_shard(&self, topic: PubsubTopic) -> Result<Subscription, NodeError> {
        self.check_joined(topic)?;
        self.open_subscription(Interest { pubsub_topic: Some(topic), content_topics: None })
    }

    /// All messages of all relayed shards, from now on.
    ///
    /// # Errors
    /// [`NodeError::TooManySubscriptions`], [`NodeError::NoRelay`].
    pub fn subscribe_all(&self) -> Result<Subscription, NodeError> {
        self.open_subscription(Interest::default())
    }

    fn open_subscription(&self, interest: Interest) -> Result<Subscription, NodeError> {
        self.check_relay()?;
        if self.shared.stopped.is_cancelled() {
            return Err(NodeError::Stopped);
        }
        self.shared.subscribers.add(interest)
    }

    fn check_joined(&self, topic: PubsubTopic) -> Result<(), NodeError> {
        if topic.cluster == self.shared.cluster && self.shared.shards.contains(&topic.shard) {
            Ok(())
        } else {
            Err(NodeError::ShardNotJoined { topic })
        }
    }

    fn check_relay(&self) -> Result<(), NodeError> {
        if self.shared.relay { Ok(()) } else { Err(NodeError::NoRelay) }
    }

    // Requests

    /// Sends one request over a stream of its own to a connected peer, and reads its one answer.
    ///
    /// # Errors
    /// [`RequestError`].
    pub async fn request(
        &self,
        peer: PeerId,
        protocol: &str,
        request: impl Into<Bytes>,
        limits: RequestLimits,
    ) -> Result<Bytes, RequestError> {
        let request = request.into();
        let len = request.len() as u64;
        if len > limits.max_request_bytes {
            return Err(RequestError::RequestTooLarge { len, max: limits.max_request_bytes });
        }
        let id = StreamProtocol::try_from_owned(protocol.to_owned())
            .map_err(|_| RequestError::InvalidProtocol { protocol: protocol.to_owned() })?;
        let exchange = async {
            let (reply, opened) = oneshot::channel();
            self.send(Command::Open { peer, open: OpenStream { protocol: id, reply } })
                .await
                .map_err(|()| RequestError::Stopped)?;
            exchange(peer, opened, &request, limits, Sending::UntilAnswered).await
        };
        timeout(limits.timeout, exchange).await.unwrap_or(Err(RequestError::Timeout { peer, timeout: limits.timeout }))
    }

    /// Opens a stream of its own to a connected peer.
    pub(crate) async fn open_stream(&self, peer: PeerId, protocol: &str) -> Result<Stream, RequestError> {
        let id = StreamProtocol::try_from_owned(protocol.to_owned())
            .map_err(|_| RequestError::InvalidProtocol { protocol: protocol.to_owned() })?;
        let (reply, opened) = oneshot::channel();
        self.send(Command::Open { peer, open: OpenStream { protocol: id, reply } })
            .await
            .map_err(|()| RequestError::Stopped)?;
        await_stream(peer, opened, NEGOTIATION_TIMEOUT).await
    }

    /// Serves a protocol from now on.
    ///
    /// # Errors
    /// [`NodeError::InvalidProtocol`], [`NodeError::AlreadyServed`], [`NodeError::Stopped`].
    pub async fn serve(
        &self,
        protocol: &str,
        limits: ServeLimits,
        handler: Arc<dyn RequestHandler>,
    ) -> Result<(), NodeError> {
        let id = stream_protocol(protocol)?;
        if !self.shared.registry.register(id, limits, Handler::Requests(handler)) {
            return Err(NodeError::AlreadyServed { protocol: protocol.to_owned() });
        }
        self.send(Command::ProtocolsChanged).await.map_err(|()| NodeError::Stopped)
    }

    /// Serves a protocol no longer. Requests at work are finished. Returns whether it was served.
    pub async fn unserve(&self, protocol: &str) -> bool {
        let Ok(id) = stream_protocol(protocol) else { return false };
        let served = self.shared.registry.unregister(&id);
        let _ = self.send(Command::ProtocolsChanged).await;
        served
    }

    /// Counters of a served protocol; `None` if it isn't served.
    #[must_use]
    pub fn serve_stats(&self, protocol: &str) -> Option<ServeStats> {
        self.shared.registry.stats(&stream_protocol(protocol).ok()?)
    }

    // Store

    /// Asks a connected peer's archive. A refusal is an answer too: see [`StoreQueryResponse::into_result`].
    ///
    /// # Errors
    /// [`StoreError`], except [`StoreError::Status`].
    pub async fn store_query(
        &self,
        peer: PeerId,
        request: &StoreQueryRequest,
    ) -> Result<StoreQueryResponse, StoreError> {
        self.store_query_with(peer, request, store::default_request_limits()).await
    }

    /// [`NodeHandle::store_query`] with bounds of one's own.
    ///
    /// # Errors
    /// [`StoreError`], except [`StoreError::Status`].
    pub async fn store_query_with(
        &self,
        peer: PeerId,
        request: &StoreQueryRequest,
        limits: RequestLimits,
    ) -> Result<StoreQueryResponse, StoreError> {
        store::query(self, peer, request, limits).await
    }

    /// Puts a gate before the node's Store, or takes it away. A node that sells its archive from the start gives the gate
    /// in its configuration instead. False if the node serves no Store.
    #[must_use]
    pub fn set_store_gate(&self, gate: Option<Arc<dyn StoreGate>>) -> bool {
        match &self.shared.store_server {
            Some(server) => {
                server.set_gate(gate);
                true
            }
            None => false,
        }
    }

    // Lightpush

    /// Publishes a message through a connected service node: by version 3, or by version 2 where the node speaks no
    /// other.
    ///
    /// # Errors
    /// [`LightPushError`].
    pub async fn lightpush(&self, peer: PeerId, request: &LightPushRequest) -> Result<LightPushed, LightPushError> {
        lightpush::push(self, peer, request).await
    }

    /// Puts a gate before the node's lightpush, or takes it away. False if the node serves no lightpush.
    #[must_use]
    pub fn set_lightpush_gate(&self, gate: Option<Arc<dyn LightPushGate>>) -> bool {
        match &self.shared.lightpush {
            Some(service) => {
                service.set_gate(gate);
                true
            }
            None => false,
        }
    }

    // Filter

    /// Subscribes to content topics of one shard at a connected service node.
    ///
    /// # Errors
    /// [`FilterError`].
    pub async fn filter_subscribe(
        &self,
        peer: PeerId,
        pubsub_topic: PubsubTopic,
        content_topics: impl IntoIterator<Item = ContentTopic>,
    ) -> Result<FilterSubscription, FilterError> {
        // Pushes are taken only once somebody asked for some.
        let client = &self.shared.filter_client;
        if self.shared.registry.register(
            stream_protocol(FILTER_PUSH_PROTOCOL)?,
            filter::push_limits(),
            Handler::Streams(client.clone()),
        ) {
            self.send(Command::ProtocolsChanged).await.map_err(|()| NodeError::Stopped)?;
        }
        filter::subscribe(self, client, peer, pubsub_topic, content_topics.into_iter().collect()).await
    }

    /// Ends a peer's subscription at this node, e.g. with its lease. False if it has none.
    #[must_use]
    pub fn filter_end(&self, peer: PeerId) -> bool {
        self.shared.filter_server.as_ref().is_some_and(|server| server.end(&peer))
    }

    /// Peers that are subscribed at this node, and to how many pairs of shard and content topic each.
    #[must_use]
    pub fn filter_subscribers(&self) -> Vec<(PeerId, usize)> {
        self.shared.filter_server.as_ref().map(|server| server.subscribers()).unwrap_or_default()
    }

    /// Bounds on subscriptions at this node. `None` if it serves no Filter.
    #[must_use]
    pub fn filter_limits(&self) -> Option<crate::FilterLimits> {
        self.shared.filter_server.as_ref().map(|server| server.limits())
    }

    /// Puts a gate before the node's Filter, or takes it away. False if the node serves no Filter.
    #[must_use]
    pub fn set_filter_gate(&self, gate: Option<Arc<dyn FilterGate>>) -> bool {
        match &self.shared.filter_server {
            Some(server) => {
                server.set_gate(gate);
                true
            }
            None => false,
        }
    }

    /// Counters of the node's Filter; `None` if it serves none.
    #[must_use]
    pub fn filter_stats(&self) -> Option<FilterStats> {
        self.shared.filter_server.as_ref().map(|server| server.stats())
    }

    /// The node's own archive.
    #[must_use]
    pub fn archive(&self) -> Option<&Arc<dyn Archive>> {
        self.shared.archive.as_ref()
    }

    /// Waits until all messages received so far are in the archive.
    pub async fn flush_archive(&self) {
        if let Some(writer) = &self.shared.writer {
            writer.flush().await;
        }
    }

    // Life

    /// Counters since the start.
    #[must_use]
    pub fn stats(&self) -> NodeStats {
        let read = |counter: &AtomicU64| counter.load(Ordering::Relaxed);
        NodeStats {
            relay_accepted: read(&self.shared.counters.relay_accepted),
            relay_rejected: read(&self.shared.counters.relay_rejected),
            relay_ignored: read(&self.shared.counters.relay_ignored),
            relay_published: read(&self.shared.counters.relay_published),
            relay_unpublished: read(&self.shared.counters.relay_unpublished),
            archive_lost: self.shared.writer.as_ref().map_or(0, ArchiveWriter::lost),
            incompatible_peers: read(&self.shared.counters.incompatible_peers),
            unexpected_pushes: self.shared.filter_client.unexpected(),
        }
    }

    /// Takes no more requests of any protocol, and waits until those that were read are answered, `limit` at most. Returns how
    /// many are still at work then; a shutdown cuts them.
    pub async fn drain(&self, limit: Duration) -> usize {
        self.shared.registry.clear();
        let _ = self.send(Command::ProtocolsChanged).await;
        let _ = timeout(limit, self.shared.registry.idle()).await;
        self.shared.registry.at_work()
    }

    /// Closes all connections, ends all subscriptions, writes what waits for the archive, and closes it. Later calls
    /// of anything but this fail. Safe to call twice.
    pub async fn shutdown(&self) {
        let (reply, done) = oneshot::channel();
        if self.send(Command::Shutdown { reply }).await.is_ok() {
            let _ = done.await;
        }
        self.shared.stopped.cancelled().await;
    }

    async fn send(&self, command: Command) -> Result<(), ()> {
        self.shared.commands.send(command).await.map_err(|_| ())
    }

    async fn ask<T>(&self, command: impl FnOnce(oneshot::Sender<T>) -> Command) -> Option<T> {
        let (reply, answer) = oneshot::channel();
        self.send(command(reply)).await.ok()?;
        answer.await.ok()
    }

    async fn wait(
        &self,
        condition: Condition,
        limit: Duration,
        what: impl FnOnce() -> String,
    ) -> Result<(), NodeError> {
        match timeout(limit, self.ask(|reply| Command::Wait { condition, reply })).await {
            Ok(Some(())) => Ok(()),
            Ok(None) => Err(NodeError::Stopped),
            Err(_) => Err(NodeError::Timeout { what: what(), timeout: limit }),
        }
    }
}

/// A [`NodeHandle`] that doesn't keep the node running; what the node itself owns should hold this one.
#[derive(Clone)]
pub struct WeakNodeHandle {
    shared: Weak<Shared>,
}

impl WeakNodeHandle {
    /// The handle, while there are others.
    #[must_use]
    pub fn upgrade(&self) -> Option<NodeHandle> {
        self.shared.upgrade().map(|shared| NodeHandle { shared })
    }
}

impl fmt::Debug for WeakNodeHandle {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("WeakNodeHandle").finish_non_exhaustive()
    }
}

fn stream_protocol(protocol: &str) -> Result<StreamProtocol, NodeError> {
    StreamProtocol::try_from_owned(protocol.to_owned())
        .map_err(|_| NodeError::InvalidProtocol { protocol: protocol.to_owned() })
}

/// A stream that is being opened.
async fn await_stream(
    peer: PeerId,
    opened: oneshot::Receiver<crate::rpc::Opened>,
    timeout: Duration,
) -> Result<Stream, RequestError> {
    let (error, protocol) = match opened.await {
        Ok(Ok(stream)) => return Ok(stream),
        Ok(Err(error)) => error,
        Err(_) => return Err(RequestError::NoAnswer { peer }),
    };
    Err(match error {
        OpenError::NotConnected => RequestError::NotConnected { peer },
        OpenError::Unsupported => RequestError::UnsupportedProtocol { peer, protocol: protocol.to_string() },
        OpenError::Timeout => RequestError::Timeout { peer, timeout },
        OpenError::Busy { pending } => RequestError::Busy { peer, pending },
        OpenError::Io(e) => {
            tracing::debug!(error = %e, "no stream could be opened");
            RequestError::NoAnswer { peer }
        }
    })
}

/// How much of a request is sent if its answer comes earlier.
#[derive(Clone, Copy, Debug)]
enum Sending {
    /// No more: a responder may refuse before it has read, and then never make room for the rest.
    UntilAnswered,
    /// All: the peer learns something from the request itself.
    Whole,
}

/// One request and its answer over a stream that is being opened.
async fn exchange(
    peer: PeerId,
    opened: oneshot::Receiver<crate::rpc::Opened>,
    request: &[u8],
    limits: RequestLimits,
    sending: Sending,
) -> Result<Bytes, RequestError> {
    let stream = await_stream(peer, opened, limits.timeout).await?;
    let (mut reader, mut writer) = stream.split();
    let write = pin!(async {
        if write_frame(&mut writer, request).await.is_ok() {
            let _ = writer.close().await;
        }
    });
    let read = pin!(read_frame(&mut reader, limits.max_response_bytes));
    let answer = match select(read, write).await {
        Either::Left((answer, write)) => {
            if matches!(sending, Sending::Whole) {
                write.await;
            }
            answer
        }
        Either::Right(((), read)) => read.await,
    };
    answer.map_err(|e| match e {
        FrameError::TooLarge { len, max } => RequestError::ResponseTooLarge { peer, len, max },
        FrameError::Malformed => RequestError::MalformedFrame { peer },
        FrameError::Io(e) => {
            tracing::debug!(error = %e, "a stream ended before the answer");
            RequestError::NoAnswer { peer }
        }
    })
}
