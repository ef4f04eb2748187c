//! How a node is set up.

use std::{fmt, sync::Arc};

use libp2p::Multiaddr;

use crate::{
    archive::ArchiveConfig,
    clock::{Clock, SystemClock},
    discovery::DiscoveryConfig,
    error::NodeError,
    filter::FilterConfig,
    key::NodeKey,
    lightpush::{self, LightPushGate},
    limits::Rate,
    rpc::ServeLimits,
    store::{StoreGate, default_serve_limits},
    topics::{ClusterId, MAX_SHARDS_PER_CLUSTER, PubsubTopic, ShardIndex, Sharding, TopicError},
};

/// Setup of a [`crate::Node`].
#[derive(Clone)]
pub struct NodeConfig {
    /// The node's identity.
    pub key: NodeKey,
    /// Addresses to listen on, `/ip4/../tcp/..`; none for a client that only dials.
    pub listen: Vec<Multiaddr>,
    /// Addresses that others can reach the node by, if they differ from the ones it listens on.
    pub external: Vec<Multiaddr>,
    /// The network.
    pub cluster: ClusterId,
    /// How content topics map to shards.
    pub sharding: Sharding,
    /// Shards that the node relays, archives and delivers.
    pub shards: Vec<ShardIndex>,
    /// Whether the node relays. Without relay it only makes and serves requests.
    pub relay: bool,
    /// Peers that the node keeps connected to, `/ip4/../tcp/../p2p/..`. They add to those that dial it.
    pub static_peers: Vec<Multiaddr>,
    /// Finding peers by discv5 and peer exchange; `None` doesn't. It adds to `static_peers` and never replaces them.
    pub discovery: Option<DiscoveryConfig>,
    /// Where relayed messages are archived; none if they aren't.
    pub archive: Option<ArchiveConfig>,
    /// Serving Store from the archive; `None` keeps the archive to the node itself.
    pub store: Option<StoreConfig>,
    /// Publishing for peers that don't relay; `None` doesn't. Needs relay.
    pub lightpush: Option<LightPushConfig>,
    /// Pushing messages to peers that don't relay; `None` doesn't. Needs relay.
    pub filter: Option<FilterConfig>,
    /// What to do about peers of another network.
    pub metadata: MetadataPolicy,
    /// Bounds on what peers can take.
    pub limits: NodeLimits,
    /// Name and version told by identify.
    pub agent: String,
    /// Where time comes from.
    pub clock: Arc<dyn Clock>,
}

impl NodeConfig {
    /// A node that listens nowhere, relays all shards of an autosharded network (or none with static sharding), archives
    /// nothing, and serves Store if it is given an archive.
    #[must_use]
    pub fn new(key: NodeKey, cluster: ClusterId, sharding: Sharding) -> Self {
        let shards = match sharding {
            Sharding::Auto { shards } => (0..shards).map_while(|shard| ShardIndex::new(shard).ok()).collect(),
            Sharding::Static => Vec::new(),
        };
        Self {
            key,
            listen: Vec::new(),
            external: Vec::new(),
            cluster,
            sharding,
            shards,
            relay: true,
            static_peers: Vec::new(),
            discovery: None,
            archive: None,
            store: Some(StoreConfig::default()),
            lightpush: None,
            filter: None,
            metadata: MetadataPolicy::Enforce,
            limits: NodeLimits::default(),
            agent: concat!("tributary/", env!("CARGO_PKG_VERSION")).to_owned(),
            clock: Arc::new(SystemClock::default()),
        }
    }

    /// The relayed topics.
    #[must_use]
    pub fn topics(&self) -> Vec<PubsubTopic> {
        self.shards.iter().map(|shard| PubsubTopic::new(self.cluster, *shard)).collect()
    }

    /// Topics whose relaying peers are remembered: the relayed ones and, with autosharding, all of the network.
    pub(crate) fn known_topics(&self) -> Vec<PubsubTopic> {
        match self.sharding {
            Sharding::Auto { shards } => (0..shards)
                .map_while(|shard| ShardIndex::new(shard).ok())
                .map(|shard| PubsubTopic::new(self.cluster, shard))
                .collect(),
            Sharding::Static => self.topics(),
        }
    }

    pub(crate) fn check(&self) -> Result<(), NodeError> {
        if !self.relay && (self.lightpush.is_some() || self.filter.is_some()) {
            return Err(NodeError::Config {
                setting: "relay",
                reason: "lightpush and filter can't be served without relay".to_owned(),
            });
        }
        if let Sharding::Auto { shards } = self.sharding {
            if shards == 0 || shards > MAX_SHARDS_PER_CLUSTER {
                return Err(TopicError::ShardCount { shards }.into());
            }
            if let Some(outside) = self.shards.iter().find(|shard| shard.get() >= shards) {
                return Err(NodeError::Config {
                    setting: "shards",
                    reason: format!("shard {outside} is not among the network's {shards} shards"),
                });
            }
        }
        Ok(())
    }
}

impl fmt::Debug for NodeConfig {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("NodeConfig")
            .field("key", &self.key)
            .field("cluster", &self.cluster)
            .field("sharding", &self.sharding)
            .field("shards", &self.shards)
            .field("relay", &self.relay)
            .field("archive", &self.archive)
            .field("limits", &self.limits)
            .finish_non_exhaustive()
    }
}

/// How a node serves Store.
#[derive(Clone, Debug)]
pub struct StoreConfig {
    /// Bounds on what peers can ask.
    pub limits: ServeLimits,
    /// Who decides what is served; `None` serves everything freely.
    pub gate: Option<Arc<dyn StoreGate>>,
}

impl Default for StoreConfig {
    fn default() -> Self {
        Self { limits: default_serve_limits(), gate: None }
    }
}

/// How a node serves lightpush.
#[derive(Clone, Debug)]
pub struct LightPushConfig {
    /// Bounds on requests, for each version by itself.
    pub limits: ServeLimits,
    /// Who decides what is published; `None` publishes everything.
    pub gate: Option<Arc<dyn LightPushGate>>,
}

impl Default for LightPushConfig {
    fn default() -> Self {
        Self { limits: lightpush::default_serve_limits(), gate: None }
    }
}

/// What to do about peers of another network, or that don't say which network they are of.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum MetadataPolicy {
    /// Disconnect them, as deployed nodes do.
    #[default]
    Enforce,
    /// Keep them.
    Observe,
}

/// Bounds on what peers can take from a node.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct NodeLimits {
    /// Connections in all.
    pub max_connections: u32,
    /// Connections that others made; fewer than all, so that nobody can shut the node in.
    pub max_incoming: u32,
    /// Incoming connections whose handshake isn't over.
    pub max_pending_incoming: u32,
    /// Connections with one peer. Two, because two peers may dial each other at the same moment.
    pub max_connections_per_peer: u32,
    /// Incoming connections from one address (IPv6: one /64); `None` for any number.
    pub max_incoming_per_address: Option<u32>,
    /// Peers of one address before their relay score suffers; `None` for any number.
    pub relay_colocation_limit: Option<u32>,
    /// Inbound request streams of one peer, over all protocols, refused ones included.
    pub max_streams_per_peer: usize,
    /// Messages a second that one peer may relay to the node; further ones are ignored.
    pub relay_messages_per_peer: Rate,
    /// Bytes a second that one peer may relay to the node; further messages are ignored.
    pub relay_bytes_per_peer: Rate,
    /// Subscriptions of this process.
    pub max_subscriptions: usize,
    /// Messages that wait in one subscription; then the oldest are dropped.
    pub subscription_messages: usize,
    /// Payload bytes that wait in one subscription; then the oldest messages are dropped.
    pub subscription_bytes: usize,
}

impl Default for NodeLimits {
    fn default() -> Self {
        Self {
            max_connections: 100,
            max_incoming: 70,
            max_pending_incoming: 32,
            max_connections_per_peer: 2,
            max_incoming_per_address: Some(5),
            relay_colocation_limit: Some(5),
            max_streams_per_peer: 64,
            relay_messages_per_peer: Rate::new(1000.0, 5000.0),
            relay_bytes_per_peer: Rate::new(8e6, 64e6),
            max_subscriptions: 256,
            subscription_messages: 1024,
            subscription_bytes: 16 << 20,
        }
    }
}

impl NodeLimits {
    /// The default for networks whose nodes share one address: a machine's loopback, or one NAT.
    #[must_use]
    pub fn shared_address() -> Self {
        Self { max_incoming_per_address: None, relay_colocation_limit: None, ..Self::default() }
    }
}
