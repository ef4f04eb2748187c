//! Filter v2 (12/WAKU2-FILTER): messages of chosen topics, pushed to peers that don't relay.
//!
//! A subscriber asks by `/vac/waku/filter-subscribe/2.0.0-beta1`; the server pushes over **one** stream of
//! `/vac/waku/filter-push/2.0.0-beta1` per subscriber, kept open: deployed clients accept 100 streams and never close
//! them, so a stream for each message dies after the hundredth.

mod client;
mod server;
mod types;

use std::{sync::Arc, time::Duration};

#[cfg(any(test, feature = "fuzzing"))]
pub(crate) use self::server::criteria;
pub(crate) use self::{
    client::{FilterClient, subscribe},
    server::FilterServer,
};
pub use self::{
    client::{FilterHealth, FilterSubscription},
    server::{FilterGate, FilterStats, FilterVerdict, GatedSubscribe},
    types::{FilterError, FilterStatus},
};
use crate::{
    limits::Rate,
    message::MAX_MESSAGE_BYTES,
    rpc::{RequestLimits, ServeLimits},
};

/// Protocol id of subscribing.
pub const FILTER_SUBSCRIBE_PROTOCOL: &str = "/vac/waku/filter-subscribe/2.0.0-beta1";

/// Protocol id of pushing.
pub const FILTER_PUSH_PROTOCOL: &str = "/vac/waku/filter-push/2.0.0-beta1";

/// Content topics in one request.
pub(crate) const MAX_TOPICS_PER_REQUEST: usize = 100;

/// Largest push: a message and its topic.
const MAX_PUSH_BYTES: u64 = MAX_MESSAGE_BYTES as u64 + 4 * 1024;

const MAX_RESPONSE_BYTES: u64 = 64 * 1024;

/// How a node serves Filter.
#[derive(Clone, Debug)]
pub struct FilterConfig {
    /// Bounds on requests.
    pub limits: ServeLimits,
    /// Bounds on subscriptions.
    pub subscriptions: FilterLimits,
    /// Who decides whom the node serves; `None` serves everybody.
    pub gate: Option<Arc<dyn FilterGate>>,
}

impl Default for FilterConfig {
    fn default() -> Self {
        Self {
            limits: ServeLimits {
                max_request_bytes: 64 * 1024,
                max_response_bytes: MAX_RESPONSE_BYTES,
                rate_per_peer: Some(Rate::new(0.5, 30.0)),
                rate_total: Some(Rate::new(200.0, 1000.0)),
                ..ServeLimits::default()
            },
            subscriptions: FilterLimits::default(),
            gate: None,
        }
    }
}

/// Bounds on Filter subscriptions.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct FilterLimits {
    /// Subscribed peers.
    pub max_subscribers: usize,
    /// Pairs of shard and content topic of one peer.
    pub max_criteria: usize,
    /// How long a subscription lasts after the peer's last request.
    pub ttl: Duration,
    /// Messages that wait for one peer; then the oldest are dropped.
    pub queue_messages: usize,
    /// Bytes that wait for one peer; then the oldest messages are dropped.
    pub queue_bytes: usize,
    /// Time for one message to leave.
    pub push_timeout: Duration,
}

impl Default for FilterLimits {
    fn default() -> Self {
        Self {
            max_subscribers: 100,
            max_criteria: 1000,
            ttl: Duration::from_secs(5 * 60),
            queue_messages: 1024,
            queue_bytes: 8 << 20,
            push_timeout: Duration::from_secs(20),
        }
    }
}

pub(crate) fn request_limits() -> RequestLimits {
    RequestLimits {
        max_request_bytes: 64 * 1024,
        max_response_bytes: MAX_RESPONSE_BYTES,
        timeout: Duration::from_secs(10),
    }
}

/// What a subscriber accepts of pushing peers. Some servers open a stream for each message.
pub(crate) fn push_limits() -> ServeLimits {
    ServeLimits {
        max_request_bytes: MAX_PUSH_BYTES,
        max_concurrent: 256,
        max_concurrent_per_peer: 32,
        rate_per_peer: Some(Rate::new(200.0, 1000.0)),
        rate_total: None,
        ..ServeLimits::default()
    }
}
