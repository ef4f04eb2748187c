//! One request and one response per stream, each a varint length prefix and bytes: the form of every Waku service
//! protocol and of our own.
//!
//! The requester writes, closes its write side and reads; the responder reads one frame, answers, and closes its side
//! (some clients read to the end of the stream). Protocols are registered while the node runs. Whatever a peer
//! sends is counted before it is read: streams per peer, handlers at work, requests a second, bytes per frame.

mod behaviour;
mod framing;
mod server;

use std::{fmt::Debug, sync::Arc, time::Duration};

use async_trait::async_trait;
use libp2p::{PeerId, Stream};
use prost::bytes::Bytes;

pub(crate) use self::{
    behaviour::{Behaviour, OpenError, OpenStream, Opened},
    framing::{FrameError, read_frame, write_frame},
    server::Registry,
};
use crate::limits::Rate;

/// Bounds on one request that this node makes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct RequestLimits {
    /// Largest request that may be sent, in bytes.
    pub max_request_bytes: u64,
    /// Largest answer that is read, in bytes; a larger one is refused at its length prefix.
    pub max_response_bytes: u64,
    /// Time from opening the stream to the answer's last byte.
    pub timeout: Duration,
}

impl Default for RequestLimits {
    fn default() -> Self {
        Self { max_request_bytes: 1024 * 1024, max_response_bytes: 1024 * 1024, timeout: Duration::from_secs(20) }
    }
}

/// Bounds on what peers can ask of one protocol that this node serves.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct ServeLimits {
    /// Largest request, in bytes. A larger one is refused at its length prefix, before anything of it is read.
    pub max_request_bytes: u64,
    /// Largest answer that a handler may give, in bytes.
    pub max_response_bytes: u64,
    /// Time for the request's bytes to arrive.
    pub read_timeout: Duration,
    /// Time for the handler.
    pub handler_timeout: Duration,
    /// Time for the answer's bytes to leave.
    pub write_timeout: Duration,
    /// Requests of all peers at work at the same time.
    pub max_concurrent: usize,
    /// Requests of one peer at work at the same time.
    pub max_concurrent_per_peer: usize,
    /// Requests of one peer.
    pub rate_per_peer: Option<Rate>,
    /// Requests of all peers.
    pub rate_total: Option<Rate>,
}

impl Default for ServeLimits {
    fn default() -> Self {
        Self {
            max_request_bytes: 256 * 1024,
            max_response_bytes: 1024 * 1024,
            read_timeout: Duration::from_secs(10),
            handler_timeout: Duration::from_secs(10),
            write_timeout: Duration::from_secs(10),
            max_concurrent: 64,
            max_concurrent_per_peer: 16,
            rate_per_peer: Some(Rate::new(100.0, 200.0)),
            rate_total: Some(Rate::new(2000.0, 4000.0)),
        }
    }
}

/// What peers are told that a gate doesn't listen to.
pub(crate) const NOT_LISTENED: &str = "too many of your requests were refused lately; wait up to a minute";

/// Why a request was not given to its handler.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum Refusal {
    /// The peer, or all peers together, exceeded the rate.
    RateLimited,
    /// The handler doesn't listen to this peer at the moment: [`RequestHandler::listens_to`].
    NotListened,
    /// Too many requests are at work.
    Busy,
    /// The announced length exceeds [`ServeLimits::max_request_bytes`].
    TooLarge {
        /// Bytes announced.
        len: u64,
        /// The limit in bytes.
        max: u64,
    },
    /// The length prefix is not a varint.
    Malformed,
    /// The handler took longer than [`ServeLimits::handler_timeout`].
    HandlerTimeout,
}

/// Serves one protocol.
#[async_trait]
pub trait RequestHandler: Debug + Send + Sync + 'static {
    /// Answers one request. `None` refuses it: the stream is reset and the peer sees
    /// [`crate::RequestError::NoAnswer`].
    ///
    /// Dropped at [`ServeLimits::handler_timeout`]; what must not be interrupted belongs in a task of its own.
    async fn handle(&self, peer: PeerId, request: Bytes) -> Option<Bytes>;

    /// Whether a request of this peer is read at all. Asked before anything is counted, so that a peer to whom this says no uses up nothing of the rates
    /// that all peers share. Must answer at once.
    fn listens_to(&self, peer: &PeerId) -> bool {
        let _ = peer;
        true
    }

    /// What to answer to a request that doesn't reach [`RequestHandler::handle`], e.g. the protocol's own status 429.
    /// Without an answer the stream is reset.
    fn refuse(&self, refusal: Refusal) -> Option<Bytes> {
        let _ = refusal;
        None
    }
}

/// Serves one protocol whose streams carry something else than one request and one response.
#[async_trait]
pub(crate) trait StreamHandler: Debug + Send + Sync + 'static {
    /// Uses a stream until it, or the peer, is done with it. Admission is counted as for requests; times are the
    /// handler's own business.
    async fn stream(&self, peer: PeerId, stream: Stream);
}

/// Who serves a protocol.
#[derive(Clone, Debug)]
pub(crate) enum Handler {
    Requests(Arc<dyn RequestHandler>),
    Streams(Arc<dyn StreamHandler>),
}

/// Counters of one served protocol since it was registered.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct ServeStats {
    /// Requests answered by the handler.
    pub answered: u64,
    /// Requests that the handler refused to answer.
    pub unanswered: u64,
    /// Requests over the rate.
    pub rate_limited: u64,
    /// Requests of peers that the handler doesn't listen to.
    pub not_listened: u64,
    /// Requests over the concurrency limits.
    pub busy: u64,
    /// Requests over the size limit.
    pub too_large: u64,
    /// Streams that broke, or brought no whole request in time.
    pub broken: u64,
    /// Handlers that took too long.
    pub handler_timeouts: u64,
    /// Answers over the size limit; they were not sent.
    pub response_too_large: u64,
    /// Streams reset without an answer because the peer had far too many open.
    pub dropped: u64,
}
