//! Waku protocols on rust-libp2p: relay, store v3, metadata, sharding, and a request-response facility for protocols
//! of our own.
//!
//! [`Node::spawn`] starts a node and returns its [`NodeHandle`]. Each protocol is one module; request-response
//! protocols are [`RequestHandler`]s that are registered while the node runs.

mod archive;
mod clock;
#[cfg(test)]
mod decoders;
mod discovery;
mod enr;
mod error;
mod filter;
#[cfg(any(test, feature = "fuzzing"))]
#[doc(hidden)]
pub mod fuzzing;
mod key;
mod lightpush;
mod limits;
mod message;
mod metadata;
mod node;
mod peer_exchange;
mod ping;
pub mod proto;
mod queue;
mod relay;
mod rpc;
mod store;
mod topics;

pub use libp2p::{Multiaddr, PeerId, identity::PublicKey, multiaddr};
pub use prost::bytes::Bytes;

#[cfg(feature = "postgres")]
pub use crate::archive::{PostgresArchive, PostgresUrl};
pub use crate::{
    archive::{
        Archive, ArchiveConfig, ArchiveError, ArchiveLocation, ArchivedMessage, Expired, Page, PageEntry, PageQuery,
        Retention, Selection, SqliteArchive,
    },
    clock::{Clock, ManualClock, SystemClock, Timestamp},
    discovery::{DiscoveryConfig, DiscoveryLimits, FoundBy, FoundPeer, FoundPeers},
    enr::{
        Capabilities, MAX_RECORD_BYTES, MAX_RECORD_SHARDS, NodeRecord, RecordContent, RecordError, RecordShards,
        ServiceFamilies,
    },
    error::{DialError, NodeError, PublishError, RequestError},
    filter::{
        FILTER_PUSH_PROTOCOL, FILTER_SUBSCRIBE_PROTOCOL, FilterConfig, FilterError, FilterGate, FilterHealth,
        FilterLimits, FilterStats, FilterStatus, FilterSubscription, FilterVerdict, GatedSubscribe,
    },
    key::{KeyError, NodeKey},
    lightpush::{
        GatedPush, LIGHTPUSH_PROTOCOL, LIGHTPUSH_V2_PROTOCOL, LightPushError, LightPushGate, LightPushRequest,
        LightPushStatus, LightPushVerdict, LightPushed, lightpush_bytes_without_proof,
    },
    limits::{Exhausted, KeyedLimiter, Rate, TokenBucket},
    message::{MAX_MESSAGE_BYTES, MAX_META_BYTES, MAX_TIMESTAMP_SKEW, MessageError, MessageHash, WakuMessage},
    metadata::{METADATA_PROTOCOL, MalformedMetadata, PeerMetadata},
    node::{
        LightPushConfig, MetadataPolicy, Node, NodeConfig, NodeHandle, NodeLimits, NodeStats, Published,
        ReceivedMessage, StoreConfig, Subscription, WeakNodeHandle,
    },
    peer_exchange::{
        MAX_EXCHANGED_PEERS, PEER_EXCHANGE_PROTOCOL, PeerExchangeConfig, PeerExchangeError, PeerExchangeStatus,
    },
    relay::RELAY_PROTOCOL,
    rpc::{Refusal, RequestHandler, RequestLimits, ServeLimits, ServeStats},
    store::{
        DEFAULT_PAGE_LIMIT, EligibilityStatus, GatedQuery, MAX_PAGE_LIMIT, MAX_QUERY_CONTENT_TOPICS, MAX_QUERY_HASHES,
        MAX_REQUEST_ID_BYTES, STORE_PROTOCOL, StoreEntry, StoreError, StoreGate, StoreOutcome, StoreQueryRequest,
        StoreQueryResponse, StoreStatus, StoreVerdict, request_bytes_without_proof,
    },
    topics::{
        ClusterId, ContentTopic, ContentTopicParts, MAX_SHARDS_PER_CLUSTER, PubsubTopic, ShardIndex, Sharding,
        TopicError,
    },
};
