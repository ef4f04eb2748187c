//! Peer exchange (34/WAKU2-PEER-EXCHANGE), `/vac/waku/peer-exchange/2.0.0-alpha1`: records of other nodes, for those
//! that don't run discv5.
//!
//! The server tells at most 60 records, only ones that discv5 found and that are of its network, drawn at random.

use std::{fmt, sync::Arc, time::Duration};

use async_trait::async_trait;
use libp2p::PeerId;
use prost::{Message as _, bytes::Bytes};

use crate::{
    discovery::Book,
    enr::{MAX_RECORD_BYTES, NodeRecord},
    error::RequestError,
    limits::Rate,
    node::NodeHandle,
    proto::peer_exchange::v2 as wire,
    rpc::{Refusal, RequestHandler, RequestLimits, ServeLimits},
};

/// Protocol id of peer exchange.
pub const PEER_EXCHANGE_PROTOCOL: &str = "/vac/waku/peer-exchange/2.0.0-alpha1";

/// Records in one answer.
pub const MAX_EXCHANGED_PEERS: usize = 60;

const MAX_REQUEST_BYTES: u64 = 1024;

/// A full answer: each record with its tags and lengths, and a description.
const MAX_RESPONSE_BYTES: u64 = (MAX_EXCHANGED_PEERS * (MAX_RECORD_BYTES + 16) + 4096) as u64;

/// How a node serves peer exchange.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct PeerExchangeConfig {
    /// Bounds on requests.
    pub limits: ServeLimits,
}

impl Default for PeerExchangeConfig {
    fn default() -> Self {
        Self {
            limits: ServeLimits {
                max_request_bytes: MAX_REQUEST_BYTES,
                max_response_bytes: MAX_RESPONSE_BYTES,
                max_concurrent: 64,
                max_concurrent_per_peer: 4,
                rate_per_peer: Some(Rate::new(0.2, 10.0)),
                rate_total: Some(Rate::new(50.0, 200.0)),
                ..ServeLimits::default()
            },
        }
    }
}

/// Outcome of a request, as deployed nodes number it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct PeerExchangeStatus(pub u32);

impl PeerExchangeStatus {
    /// Answered.
    pub const OK: Self = Self(200);
    /// The request is malformed.
    pub const BAD_REQUEST: Self = Self(400);
    /// The answer is malformed.
    pub const BAD_RESPONSE: Self = Self(401);
    /// Too many requests.
    pub const TOO_MANY_REQUESTS: Self = Self(429);
    /// The server knows no peers, or is busy.
    pub const SERVICE_UNAVAILABLE: Self = Self(503);
    /// The server couldn't be reached.
    pub const DIAL_FAILURE: Self = Self(599);
}

impl fmt::Display for PeerExchangeStatus {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

/// Why no records came.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum PeerExchangeError {
    /// No answer.
    #[error(transparent)]
    Request(#[from] RequestError),
    /// The server refused.
    #[error("{peer} answered with status {status}: {desc}")]
    Status {
        /// The server.
        peer: PeerId,
        /// Its status.
        status: PeerExchangeStatus,
        /// What it says about it.
        desc: String,
    },
    /// Not an answer.
    #[error("{peer} sent a malformed answer: {reason}; ask another node")]
    Malformed {
        /// The server.
        peer: PeerId,
        /// What is wrong.
        reason: &'static str,
    },
}

impl PeerExchangeError {
    /// Stable code of this error.
    #[must_use]
    pub const fn code(&self) -> &'static str {
        match self {
            Self::Request(e) => e.code(),
            Self::Status { .. } => "TRB-W611",
            Self::Malformed { .. } => "TRB-W612",
        }
    }
}

#[derive(Debug)]
pub(crate) struct PeerExchangeServer {
    pub(crate) book: Arc<Book>,
}

fn answer(records: &[NodeRecord], status: PeerExchangeStatus, desc: &str) -> Bytes {
    let response = wire::PeerExchangeResponse {
        peer_infos: records.iter().map(|record| wire::PeerInfo { enr: record.encode() }).collect(),
        status_code: Some(status.0),
        status_desc: Some(desc.to_owned()),
    };
    wire::PeerExchangeRpc { query: None, response: Some(response) }.encode_to_vec().into()
}

#[async_trait]
impl RequestHandler for PeerExchangeServer {
    async fn handle(&self, peer: PeerId, request: Bytes) -> Option<Bytes> {
        let Some(query) = wire::PeerExchangeRpc::decode(request).ok().and_then(|rpc| rpc.query) else {
            return Some(answer(&[], PeerExchangeStatus::BAD_REQUEST, "it is not a PeerExchangeRPC with a query"));
        };
        let count = usize::try_from(query.num_peers).unwrap_or(usize::MAX).min(MAX_EXCHANGED_PEERS);
        let records = self.book.sample(count, peer);
        Some(if records.is_empty() && count > 0 {
            answer(&[], PeerExchangeStatus::SERVICE_UNAVAILABLE, "no peers are known yet")
        } else {
            answer(&records, PeerExchangeStatus::OK, "OK")
        })
    }

    fn refuse(&self, refusal: Refusal) -> Option<Bytes> {
        let (status, desc) = match refusal {
            Refusal::RateLimited | Refusal::NotListened => {
                (PeerExchangeStatus::TOO_MANY_REQUESTS, "too many requests; ask less often")
            }
            Refusal::Busy | Refusal::HandlerTimeout => (PeerExchangeStatus::SERVICE_UNAVAILABLE, "busy"),
            Refusal::TooLarge { .. } => (PeerExchangeStatus::BAD_REQUEST, "the request is too large"),
            Refusal::Malformed => (PeerExchangeStatus::BAD_REQUEST, "the length prefix is malformed"),
        };
        Some(answer(&[], status, desc))
    }
}

/// Asks a connected peer for records. Ones that can't be verified are left out.
pub(crate) async fn ask(node: &NodeHandle, peer: PeerId, count: usize) -> Result<Vec<NodeRecord>, PeerExchangeError> {
    let count = count.min(MAX_EXCHANGED_PEERS);
    let query = wire::PeerExchangeQuery { num_peers: u64::try_from(count).unwrap_or(0) };
    let request = wire::PeerExchangeRpc { query: Some(query), response: None }.encode_to_vec();
    let limits = RequestLimits {
        max_request_bytes: MAX_REQUEST_BYTES,
        max_response_bytes: MAX_RESPONSE_BYTES,
        timeout: Duration::from_secs(20),
    };
    let answer = node.request(peer, PEER_EXCHANGE_PROTOCOL, request, limits).await?;
    decode(peer, &answer, count)
}

pub(crate) fn decode(peer: PeerId, answer: &[u8], count: usize) -> Result<Vec<NodeRecord>, PeerExchangeError> {
    let malformed = |reason| PeerExchangeError::Malformed { peer, reason };
    let rpc = wire::PeerExchangeRpc::decode(answer).map_err(|_| malformed("it is not a protobuf PeerExchangeRPC"))?;
    let response = rpc.response.ok_or_else(|| malformed("it has no response"))?;
    let status = match response.status_code {
        Some(status) => PeerExchangeStatus(status),
        None if response.peer_infos.is_empty() => PeerExchangeStatus::SERVICE_UNAVAILABLE,
        None => PeerExchangeStatus::OK,
    };
    if status != PeerExchangeStatus::OK {
        let desc = response.status_desc.unwrap_or_default();
        return Err(PeerExchangeError::Status { peer, status, desc });
    }
    let mut records: Vec<NodeRecord> = Vec::new();
    for info in response.peer_infos.into_iter().take(count) {
        match NodeRecord::decode(&info.enr) {
            Ok(record) if records.iter().all(|known| known.peer_id() != record.peer_id()) => records.push(record),
            Ok(_) => {}
            Err(e) => tracing::debug!(%peer, code = e.code(), error = %e, "a record told by a peer is malformed"),
        }
    }
    Ok(records)
}
