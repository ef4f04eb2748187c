//! Lightpush requests and results as domain types, and their wire format.

use std::fmt;

use libp2p::PeerId;
use prost::{Message as _, bytes::Bytes};

use crate::{
    error::{PublishError, RequestError},
    message::{MessageError, WakuMessage},
    proto::lightpush::{v2, v3},
    store::MAX_REQUEST_ID_BYTES,
    topics::{PubsubTopic, TopicError},
};

/// Stands for the id of a request that was not read.
pub(super) const UNREAD_ID: &str = "N/A";

/// A request to publish a message.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct LightPushRequest {
    /// Names the request; the response repeats it. Not empty, at most 256 bytes.
    pub request_id: String,
    /// The shard; absent, the server takes the content topic's, if the network autoshards.
    pub pubsub_topic: Option<PubsubTopic>,
    /// The message.
    pub message: WakuMessage,
    /// A serialized `EligibilityProof` (field 22).
    pub eligibility_proof: Option<Bytes>,
}

impl LightPushRequest {
    /// A request with a fresh id.
    #[must_use]
    pub fn new(pubsub_topic: Option<PubsubTopic>, message: WakuMessage) -> Self {
        Self { request_id: hex::encode(rand::random::<[u8; 16]>()), pubsub_topic, message, eligibility_proof: None }
    }

    /// The protobuf encoding of version 3.
    #[must_use]
    pub fn encode(&self) -> Bytes {
        v3::LightPushRequest {
            request_id: self.request_id.clone(),
            pubsub_topic: self.pubsub_topic.map(|topic| topic.to_string()),
            message: Some(self.message.clone().into()),
            eligibility_proof: self.eligibility_proof.clone(),
        }
        .encode_to_vec()
        .into()
    }

    pub(crate) fn encode_v2(&self, pubsub_topic: PubsubTopic) -> Bytes {
        v2::PushRpc {
            request_id: self.request_id.clone(),
            request: Some(v2::PushRequest {
                pubsub_topic: pubsub_topic.to_string(),
                message: Some(self.message.clone().into()),
            }),
            response: None,
        }
        .encode_to_vec()
        .into()
    }

    pub(crate) fn decode(bytes: &[u8]) -> Result<Self, Problem> {
        let wire = v3::LightPushRequest::decode(bytes)
            .map_err(|_| Problem::bad_request(UNREAD_ID, "the request is not a protobuf LightPushRequest"))?;
        Self::check(wire.request_id, wire.pubsub_topic, wire.message, wire.eligibility_proof)
    }

    pub(crate) fn decode_v2(bytes: &[u8]) -> Result<Self, Problem> {
        let wire = v2::PushRpc::decode(bytes)
            .map_err(|_| Problem::bad_request(UNREAD_ID, "the request is not a protobuf PushRPC"))?;
        let Some(request) = wire.request else {
            return Err(Problem::bad_request(&wire.request_id, "the request is missing"));
        };
        // Deployed clients of version 2 leave the id out.
        let id = if wire.request_id.is_empty() { UNREAD_ID.to_owned() } else { wire.request_id };
        let topic = Some(request.pubsub_topic).filter(|topic| !topic.is_empty());
        Self::check(id, topic, request.message, None)
    }

    fn check(
        request_id: String,
        pubsub_topic: Option<String>,
        message: Option<crate::proto::message::v1::WakuMessage>,
        eligibility_proof: Option<Bytes>,
    ) -> Result<Self, Problem> {
        if request_id.is_empty() || request_id.len() > MAX_REQUEST_ID_BYTES {
            let reason = format!("request_id must have 1 to {MAX_REQUEST_ID_BYTES} bytes");
            return Err(Problem::bad_request(UNREAD_ID, reason));
        }
        let pubsub_topic = match pubsub_topic {
            Some(topic) => match topic.parse() {
                Ok(topic) => Some(topic),
                Err(e) if topic.is_empty() => {
                    let e: TopicError = e;
                    return Err(Problem::bad_request(&request_id, e.to_string()));
                }
                Err(e) => {
                    let status = LightPushStatus::UNSUPPORTED_PUBSUB_TOPIC;
                    return Err(Problem { request_id, status, reason: e.to_string() });
                }
            },
            None => None,
        };
        let Some(message) = message else {
            return Err(Problem::bad_request(&request_id, "the message is missing"));
        };
        let message = match WakuMessage::try_from(message) {
            Ok(message) => message,
            Err(e) => {
                return Err(Problem { request_id, status: LightPushStatus::of_message(&e), reason: e.to_string() });
            }
        };
        Ok(Self { request_id, pubsub_topic, message, eligibility_proof })
    }
}

/// The bytes of a request that a payment's signature covers: its canonical encoding (as
/// [`crate::request_bytes_without_proof`]) with field 22 left out.
#[must_use]
pub fn lightpush_bytes_without_proof(request: &LightPushRequest) -> Bytes {
    LightPushRequest { eligibility_proof: None, ..request.clone() }.encode()
}

/// A request that can't be served.
#[derive(Debug)]
pub(crate) struct Problem {
    pub(super) request_id: String,
    pub(super) status: LightPushStatus,
    pub(super) reason: String,
}

impl Problem {
    fn bad_request(request_id: &str, reason: impl Into<String>) -> Self {
        Self { request_id: request_id.to_owned(), status: LightPushStatus::BAD_REQUEST, reason: reason.into() }
    }
}

/// Status of a lightpush response, as deployed nodes give them.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct LightPushStatus(pub u32);

impl LightPushStatus {
    /// Published.
    pub const OK: Self = Self(200);
    /// The request is malformed.
    pub const BAD_REQUEST: Self = Self(400);
    /// The push must be paid for.
    pub const PAYMENT_REQUIRED: Self = Self(402);
    /// The message is too large.
    pub const PAYLOAD_TOO_LARGE: Self = Self(413);
    /// The message would not be relayed, or was seen already.
    pub const INVALID_MESSAGE: Self = Self(420);
    /// The server doesn't relay the shard.
    pub const UNSUPPORTED_PUBSUB_TOPIC: Self = Self(421);
    /// Over the rate.
    pub const TOO_MANY_REQUESTS: Self = Self(429);
    /// The server failed.
    pub const INTERNAL_SERVER_ERROR: Self = Self(500);
    /// The server can't publish now.
    pub const SERVICE_NOT_AVAILABLE: Self = Self(503);
    /// The server has no peer that relays the shard.
    pub const NO_PEERS_TO_RELAY: Self = Self(505);

    pub(super) const fn of_message(e: &MessageError) -> Self {
        match e {
            MessageError::TooLarge { .. } => Self::PAYLOAD_TOO_LARGE,
            _ => Self::INVALID_MESSAGE,
        }
    }

    pub(super) const fn of(e: &PublishError) -> Self {
        match e {
            PublishError::Invalid(e) => Self::of_message(e),
            PublishError::Topic(_) | PublishError::Duplicate => Self::INVALID_MESSAGE,
            PublishError::WrongCluster { .. } => Self::UNSUPPORTED_PUBSUB_TOPIC,
            PublishError::NoPeers { .. } => Self::NO_PEERS_TO_RELAY,
            PublishError::QueuesFull { .. } | PublishError::NoRelay | PublishError::Stopped => {
                Self::SERVICE_NOT_AVAILABLE
            }
        }
    }
}

impl fmt::Display for LightPushStatus {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

/// A message that a service node published.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct LightPushed {
    /// Peers that the server sent it to; version 2 doesn't say.
    pub relay_peers: Option<u32>,
}

/// Why a message was not published through a service node.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum LightPushError {
    /// There was no answer.
    #[error(transparent)]
    Request(#[from] RequestError),
    /// The message is not acceptable to any node.
    #[error("the message is not acceptable: {0}")]
    Message(#[from] MessageError),
    /// Version 2 needs a pubsub topic, and the content topic maps to none.
    #[error(transparent)]
    Topic(#[from] TopicError),
    /// The server refused.
    #[error("the service node answered {status}: {desc}")]
    Status {
        /// Its status.
        status: LightPushStatus,
        /// Its words.
        desc: String,
    },
    /// A server of version 2 refused; it gives no codes.
    #[error("the service node refused: {info}")]
    Refused {
        /// Its words.
        info: String,
    },
    /// The server says that it published to nobody.
    #[error("the service node has no peer that relays the shard; use another one")]
    NoPeersToRelay,
    /// The answer breaks the protocol.
    #[error("{peer} sent a malformed answer: {reason}")]
    Malformed {
        /// The server.
        peer: PeerId,
        /// What is wrong.
        reason: &'static str,
    },
}

impl LightPushError {
    /// Stable code of this error.
    #[must_use]
    pub const fn code(&self) -> &'static str {
        match self {
            Self::Request(e) => e.code(),
            Self::Message(e) => e.code(),
            Self::Topic(e) => e.code(),
            Self::Status { .. } => "TRB-W511",
            Self::Refused { .. } => "TRB-W512",
            Self::NoPeersToRelay => "TRB-W513",
            Self::Malformed { .. } => "TRB-W514",
        }
    }
}
