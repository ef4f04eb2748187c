//! Filter's statuses and errors.

use std::fmt;

use libp2p::PeerId;

use crate::{
    error::{NodeError, RequestError},
    topics::TopicError,
};

/// Status of a Filter response.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct FilterStatus(pub u32);

impl FilterStatus {
    /// Done.
    pub const OK: Self = Self(200);
    /// The request is malformed.
    pub const BAD_REQUEST: Self = Self(400);
    /// The subscription must be paid for.
    pub const PAYMENT_REQUIRED: Self = Self(402);
    /// The peer has no subscription.
    pub const NOT_FOUND: Self = Self(404);
    /// Over the rate.
    pub const TOO_MANY_REQUESTS: Self = Self(429);
    /// The server has no room.
    pub const SERVICE_UNAVAILABLE: Self = Self(503);
}

impl fmt::Display for FilterStatus {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

/// Why a Filter request failed.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum FilterError {
    /// There was no answer.
    #[error(transparent)]
    Request(#[from] RequestError),
    /// A content topic maps to no shard.
    #[error(transparent)]
    Topic(#[from] TopicError),
    /// No content topic, more than 100, or of several shards.
    #[error("a subscription names 1 to 100 content topics of one shard: {reason}")]
    Topics {
        /// What is wrong.
        reason: String,
    },
    /// The server refused.
    #[error("the service node answered {status}: {desc}")]
    Status {
        /// Its status.
        status: FilterStatus,
        /// Its words.
        desc: String,
    },
    /// The answer breaks the protocol.
    #[error("{peer} sent a malformed answer: {reason}")]
    Malformed {
        /// The server.
        peer: PeerId,
        /// What is wrong.
        reason: &'static str,
    },
    /// The node can't take pushes.
    #[error(transparent)]
    Node(#[from] NodeError),
}

impl FilterError {
    /// Stable code of this error.
    #[must_use]
    pub const fn code(&self) -> &'static str {
        match self {
            Self::Request(e) => e.code(),
            Self::Topic(e) => e.code(),
            Self::Topics { .. } => "TRB-W521",
            Self::Status { .. } => "TRB-W522",
            Self::Malformed { .. } => "TRB-W523",
            Self::Node(e) => e.code(),
        }
    }
}
