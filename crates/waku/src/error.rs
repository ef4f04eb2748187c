//! Errors of the node's own operations.

use std::{io, time::Duration};

use libp2p::{Multiaddr, PeerId};

use crate::{
    archive::ArchiveError,
    enr::RecordError,
    message::MessageError,
    topics::{PubsubTopic, TopicError},
};

/// Why a request got no answer.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum RequestError {
    /// There is no connection to the peer.
    #[error("not connected to {peer}; dial it first")]
    NotConnected {
        /// The peer.
        peer: PeerId,
    },
    /// The peer doesn't speak the protocol.
    #[error("{peer} doesn't speak {protocol}")]
    UnsupportedProtocol {
        /// The peer.
        peer: PeerId,
        /// The protocol's id.
        protocol: String,
    },
    /// No answer in time.
    #[error("{peer} didn't answer within {timeout:?}")]
    Timeout {
        /// The peer.
        peer: PeerId,
        /// The time given.
        timeout: Duration,
    },
    /// The peer closed or reset the stream without a whole answer: it refused the request, or broke down.
    #[error("{peer} closed the stream without an answer")]
    NoAnswer {
        /// The peer.
        peer: PeerId,
    },
    /// The request is larger than the limit that was given for it.
    #[error("the request has {len} bytes, at most {max} are allowed")]
    RequestTooLarge {
        /// Its size in bytes.
        len: u64,
        /// The limit in bytes.
        max: u64,
    },
    /// The peer announced an answer larger than the limit; nothing of it was read.
    #[error("{peer} announced an answer of {len} bytes, at most {max} are allowed")]
    ResponseTooLarge {
        /// The peer.
        peer: PeerId,
        /// The size announced in bytes.
        len: u64,
        /// The limit in bytes.
        max: u64,
    },
    /// The answer's length prefix is not a varint.
    #[error("{peer} sent a malformed frame")]
    MalformedFrame {
        /// The peer.
        peer: PeerId,
    },
    /// Too many requests to this peer are waiting for a stream.
    #[error("{pending} requests to {peer} are waiting for a stream already; slow down")]
    Busy {
        /// The peer.
        peer: PeerId,
        /// Waiting requests.
        pending: usize,
    },
    /// Not a protocol id.
    #[error("{protocol:?} is not a protocol id, which begins with '/'")]
    InvalidProtocol {
        /// The id given.
        protocol: String,
    },
    /// The node was shut down.
    #[error("the node was shut down")]
    Stopped,
}

impl RequestError {
    /// Stable code of this error.
    #[must_use]
    pub const fn code(&self) -> &'static str {
        match self {
            Self::NotConnected { .. } => "TRB-W301",
            Self::UnsupportedProtocol { .. } => "TRB-W302",
            Self::Timeout { .. } => "TRB-W303",
            Self::NoAnswer { .. } => "TRB-W304",
            Self::RequestTooLarge { .. } => "TRB-W305",
            Self::ResponseTooLarge { .. } => "TRB-W306",
            Self::MalformedFrame { .. } => "TRB-W307",
            Self::Busy { .. } => "TRB-W308",
            Self::InvalidProtocol { .. } => "TRB-W309",
            Self::Stopped => "TRB-W310",
        }
    }

    /// Whether the same request may succeed later or at another peer.
    #[must_use]
    pub const fn is_retryable(&self) -> bool {
        matches!(self, Self::NotConnected { .. } | Self::Timeout { .. } | Self::NoAnswer { .. } | Self::Busy { .. })
    }
}

/// Why a message was not published.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum PublishError {
    /// The message is not acceptable; no node would relay it.
    #[error("the message is not acceptable: {0}")]
    Invalid(#[from] MessageError),
    /// The message's topic maps to no shard.
    #[error("the message has no shard: {0}")]
    Topic(#[from] TopicError),
    /// The topic belongs to another network.
    #[error("{topic} is in another cluster than this node's, {cluster}")]
    WrongCluster {
        /// The topic.
        topic: PubsubTopic,
        /// The node's cluster.
        cluster: crate::topics::ClusterId,
    },
    /// Nobody to send it to.
    #[error("no connected peer relays {topic}; wait for the mesh, or dial more peers")]
    NoPeers {
        /// The topic.
        topic: PubsubTopic,
    },
    /// The same message was published or seen in the last two minutes.
    #[error("the message was seen already")]
    Duplicate,
    /// All peers' send queues are full.
    #[error("the send queues of all {peers} peers are full; try again later")]
    QueuesFull {
        /// Peers tried.
        peers: usize,
    },
    /// This node runs without relay.
    #[error("this node runs without relay; publish by lightpush")]
    NoRelay,
    /// The node was shut down.
    #[error("the node was shut down")]
    Stopped,
}

impl PublishError {
    /// Stable code of this error.
    #[must_use]
    pub const fn code(&self) -> &'static str {
        match self {
            Self::Invalid(e) => e.code(),
            Self::Topic(e) => e.code(),
            Self::WrongCluster { .. } => "TRB-W321",
            Self::NoPeers { .. } => "TRB-W322",
            Self::Duplicate => "TRB-W323",
            Self::QueuesFull { .. } => "TRB-W324",
            Self::NoRelay => "TRB-W325",
            Self::Stopped => "TRB-W310",
        }
    }
}

/// Why there is no connection.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum DialError {
    /// The address doesn't name the peer.
    #[error("the address {address} must end in /p2p/<peer id>")]
    NoPeerId {
        /// The address.
        address: Multiaddr,
    },
    /// The node's own address.
    #[error("the address is this node's own")]
    OwnAddress,
    /// The peer couldn't be reached, or proved to be another.
    #[error("can't connect to {peer}: {reason}")]
    Failed {
        /// The peer.
        peer: PeerId,
        /// What the transport says.
        reason: String,
    },
    /// The peer belongs to another Waku network, or didn't say to which.
    #[error("{peer} is not usable: {reason}")]
    Incompatible {
        /// The peer.
        peer: PeerId,
        /// What its metadata lacks.
        reason: String,
    },
    /// The time is over.
    #[error("no connection within {timeout:?}")]
    Timeout {
        /// The time given.
        timeout: Duration,
    },
    /// The node was shut down.
    #[error("the node was shut down")]
    Stopped,
}

impl DialError {
    /// Stable code of this error.
    #[must_use]
    pub const fn code(&self) -> &'static str {
        match self {
            Self::NoPeerId { .. } => "TRB-W331",
            Self::OwnAddress => "TRB-W332",
            Self::Failed { .. } => "TRB-W333",
            Self::Incompatible { .. } => "TRB-W334",
            Self::Timeout { .. } => "TRB-W335",
            Self::Stopped => "TRB-W310",
        }
    }
}

/// Why a node didn't start, or couldn't do what it was asked.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum NodeError {
    /// A setting is wrong.
    #[error("the setting {setting} is wrong: {reason}")]
    Config {
        /// Which.
        setting: &'static str,
        /// Why.
        reason: String,
    },
    /// The node can't listen.
    #[error("can't listen on {address}: {reason}")]
    Listen {
        /// The address.
        address: Multiaddr,
        /// Why.
        reason: String,
    },
    /// The archive.
    #[error(transparent)]
    Archive(#[from] ArchiveError),
    /// The node's record can't be made.
    #[error(transparent)]
    Record(#[from] RecordError),
    /// The node runs without discovery.
    #[error("this node runs without discovery")]
    NoDiscovery,
    /// A protocol is served already.
    #[error("{protocol} is served already")]
    AlreadyServed {
        /// Its id.
        protocol: String,
    },
    /// Not a protocol id.
    #[error("{protocol:?} is not a protocol id, which begins with '/'")]
    InvalidProtocol {
        /// The id given.
        protocol: String,
    },
    /// The shard is not one that this node relays.
    #[error("this node doesn't relay {topic}; add the shard to its configuration")]
    ShardNotJoined {
        /// The topic.
        topic: PubsubTopic,
    },
    /// A topic.
    #[error(transparent)]
    Topic(#[from] TopicError),
    /// Too many subscriptions.
    #[error("{max} subscriptions are open already; drop one first")]
    TooManySubscriptions {
        /// The limit.
        max: usize,
    },
    /// The wait is over.
    #[error("waited {timeout:?} in vain for {what}")]
    Timeout {
        /// What for.
        what: String,
        /// The time given.
        timeout: Duration,
    },
    /// This node runs without relay.
    #[error("this node runs without relay")]
    NoRelay,
    /// The node was shut down.
    #[error("the node was shut down")]
    Stopped,
    /// The system.
    #[error("{context}: {source}")]
    Io {
        /// What was done.
        context: &'static str,
        /// The system's error.
        source: io::Error,
    },
}

impl NodeError {
    /// Stable code of this error.
    #[must_use]
    pub const fn code(&self) -> &'static str {
        match self {
            Self::Config { .. } => "TRB-W341",
            Self::Listen { .. } => "TRB-W342",
            Self::Archive(e) => e.code(),
            Self::Record(e) => e.code(),
            Self::NoDiscovery => "TRB-W348",
            Self::AlreadyServed { .. } => "TRB-W343",
            Self::InvalidProtocol { .. } => "TRB-W309",
            Self::ShardNotJoined { .. } => "TRB-W344",
            Self::Topic(e) => e.code(),
            Self::TooManySubscriptions { .. } => "TRB-W345",
            Self::Timeout { .. } => "TRB-W346",
            Self::NoRelay => "TRB-W325",
            Self::Stopped => "TRB-W310",
            Self::Io { .. } => "TRB-W347",
        }
    }
}
