//! Store requests and responses as domain types, and their wire format.

use std::fmt;

use libp2p::PeerId;
use prost::{Message as _, bytes::Bytes};

use super::{DEFAULT_PAGE_LIMIT, MAX_PAGE_LIMIT, MAX_QUERY_CONTENT_TOPICS, MAX_QUERY_HASHES, MAX_REQUEST_ID_BYTES};
use crate::{
    archive::{PageQuery, Selection},
    clock::Timestamp,
    error::RequestError,
    message::{MessageError, MessageHash, WakuMessage},
    proto::{incentivization::v1 as incentivization, store::v3 as wire},
    topics::{ContentTopic, PubsubTopic},
};

/// Stands for the id of a request that was not read.
pub(super) const UNREAD_ID: &str = "N/A";

/// A Store query. Content filter (topics, times) and message hashes exclude each other.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct StoreQueryRequest {
    /// Names the request; the response repeats it. Not empty, at most 256 bytes.
    pub request_id: String,
    /// Whether messages are wanted, or only their hashes.
    pub include_data: bool,
    /// The shard; together with content topics or not at all. Beside message hashes it is allowed and without meaning.
    pub pubsub_topic: Option<PubsubTopic>,
    /// Content topics, at most 100; together with a shard or not at all.
    pub content_topics: Vec<ContentTopic>,
    /// Earliest timestamp, inclusive.
    pub time_start: Option<Timestamp>,
    /// Latest timestamp, inclusive as in deployed nodes (the specification says exclusive).
    pub time_end: Option<Timestamp>,
    /// Messages by hash, at most 1000. With `include_data` false this asks for presence.
    pub message_hashes: Vec<MessageHash>,
    /// The message beside which the page begins, exclusive.
    pub pagination_cursor: Option<MessageHash>,
    /// To later messages, or (false) to earlier ones. Responses are in ascending order either way.
    pub pagination_forward: bool,
    /// Messages in the page: 20 if absent or 0, at most 100.
    pub pagination_limit: Option<u64>,
    /// A serialized `EligibilityProof` (field 30).
    pub eligibility_proof: Option<Bytes>,
}

impl StoreQueryRequest {
    /// A query for messages, with a fresh request id, backward from the newest, of the default page size.
    #[must_use]
    pub fn new() -> Self {
        Self {
            request_id: fresh_request_id(),
            include_data: true,
            pubsub_topic: None,
            content_topics: Vec::new(),
            time_start: None,
            time_end: None,
            message_hashes: Vec::new(),
            pagination_cursor: None,
            pagination_forward: false,
            pagination_limit: None,
            eligibility_proof: None,
        }
    }

    /// A query by content topics of one shard.
    #[must_use]
    pub fn by_topics(pubsub_topic: PubsubTopic, content_topics: impl IntoIterator<Item = ContentTopic>) -> Self {
        Self { pubsub_topic: Some(pubsub_topic), content_topics: content_topics.into_iter().collect(), ..Self::new() }
    }

    /// A query for messages by hash.
    #[must_use]
    pub fn by_hashes(hashes: impl IntoIterator<Item = MessageHash>) -> Self {
        Self { message_hashes: hashes.into_iter().collect(), ..Self::new() }
    }

    /// Which of these hashes are there?
    #[must_use]
    pub fn presence(hashes: impl IntoIterator<Item = MessageHash>) -> Self {
        Self { include_data: false, ..Self::by_hashes(hashes) }
    }

    /// The query for the page after `response`, with a fresh request id and no proof; `None` after the last page.
    #[must_use]
    pub fn next_page(&self, response: &StoreQueryResponse) -> Option<Self> {
        let cursor = response.pagination_cursor?;
        Some(Self {
            request_id: fresh_request_id(),
            pagination_cursor: Some(cursor),
            eligibility_proof: None,
            ..self.clone()
        })
    }

    /// The page size that a server answers with.
    #[must_use]
    pub fn effective_limit(&self) -> u64 {
        match self.pagination_limit {
            None | Some(0) => DEFAULT_PAGE_LIMIT,
            Some(limit) => limit.min(MAX_PAGE_LIMIT),
        }
    }

    /// The protobuf encoding.
    #[must_use]
    pub fn encode(&self) -> Bytes {
        wire::StoreQueryRequest::from(self.clone()).encode_to_vec().into()
    }

    /// Decodes a request and checks its form. The error names the request id as far as it could be read.
    ///
    /// # Errors
    /// [`BadRequest`], which a server answers with status 400.
    pub(crate) fn decode(bytes: &[u8]) -> Result<Self, BadRequest> {
        let wire = wire::StoreQueryRequest::decode(bytes).map_err(|_| BadRequest {
            request_id: UNREAD_ID.to_owned(),
            reason: "the request is not a protobuf StoreQueryRequest".to_owned(),
        })?;
        let mut request_id = wire.request_id;
        let long = request_id.len() > MAX_REQUEST_ID_BYTES;
        if long {
            UNREAD_ID.clone_into(&mut request_id);
        }
        let bad = |reason: String| BadRequest { request_id: request_id.clone(), reason };
        if long {
            return Err(bad(format!("request_id is longer than {MAX_REQUEST_ID_BYTES} bytes")));
        }
        if request_id.is_empty() {
            return Err(bad("request_id is empty".to_owned()));
        }
        if wire.content_topics.len() > MAX_QUERY_CONTENT_TOPICS {
            return Err(bad(format!(
                "{} content topics, at most {MAX_QUERY_CONTENT_TOPICS} are allowed",
                wire.content_topics.len()
            )));
        }
        if wire.message_hashes.len() > MAX_QUERY_HASHES {
            return Err(bad(format!(
                "{} message hashes, at most {MAX_QUERY_HASHES} are allowed",
                wire.message_hashes.len()
            )));
        }
        let pubsub_topic = match wire.pubsub_topic {
            Some(topic) => Some(topic.parse::<PubsubTopic>().map_err(|e| bad(e.to_string()))?),
            None => None,
        };
        let hash = |bytes: &Bytes| MessageHash::try_from(bytes.as_ref());
        let message_hashes = wire
            .message_hashes
            .iter()
            .map(hash)
            .collect::<Result<Vec<_>, _>>()
            .map_err(|e| bad(format!("message_hashes: {e}")))?;
        let pagination_cursor = match &wire.pagination_cursor {
            Some(cursor) => {
                let cursor = hash(cursor).map_err(|e| bad(format!("pagination_cursor: {e}")))?;
                if *cursor.as_bytes() == [0; 32] {
                    return Err(bad("pagination_cursor is all zero".to_owned()));
                }
                Some(cursor)
            }
            None => None,
        };
        let by_content = !wire.content_topics.is_empty() || wire.time_start.is_some() || wire.time_end.is_some();
        if by_content && !message_hashes.is_empty() {
            return Err(bad("a query is by content or by message_hashes, not both".to_owned()));
        }
        // js-waku names a shard beside hashes. It says nothing new: a hash is of one shard only.
        if message_hashes.is_empty() && pubsub_topic.is_some() == wire.content_topics.is_empty() {
            return Err(bad("pubsub_topic and content_topics are set together or not at all".to_owned()));
        }
        Ok(Self {
            request_id,
            include_data: wire.include_data,
            pubsub_topic,
            content_topics: wire.content_topics.into_iter().map(ContentTopic::opaque).collect(),
            time_start: wire.time_start.map(Timestamp::from_nanos),
            time_end: wire.time_end.map(Timestamp::from_nanos),
            message_hashes,
            pagination_cursor,
            pagination_forward: wire.pagination_forward,
            pagination_limit: wire.pagination_limit,
            eligibility_proof: wire.eligibility_proof,
        })
    }

    pub(crate) fn page_query(&self) -> PageQuery {
        let selection = if self.message_hashes.is_empty() {
            Selection::Content {
                topics: self.pubsub_topic.map(|topic| (topic, self.content_topics.clone())),
                time_start: self.time_start,
                time_end: self.time_end,
            }
        } else {
            Selection::Hashes(self.message_hashes.clone())
        };
        PageQuery {
            selection,
            cursor: self.pagination_cursor,
            forward: self.pagination_forward,
            limit: u32::try_from(self.effective_limit()).unwrap_or(u32::MAX),
            include_data: self.include_data,
        }
    }
}

impl Default for StoreQueryRequest {
    fn default() -> Self {
        Self::new()
    }
}

/// A request that a server answers with status 400.
#[derive(Debug)]
pub(crate) struct BadRequest {
    pub(crate) request_id: String,
    pub(crate) reason: String,
}

/// The bytes of a query that a payment's signature covers: its canonical encoding with field 30 left out.
///
/// Canonical: fields in ascending order, `request_id` left out if empty, `include_data` and `pagination_forward` if
/// false, optional fields if absent, shortest varints, no unknown fields. Buyer and provider both encode anew, so
/// the form in which the request travelled doesn't matter.
#[must_use]
pub fn request_bytes_without_proof(request: &StoreQueryRequest) -> Bytes {
    StoreQueryRequest { eligibility_proof: None, ..request.clone() }.encode()
}

impl From<StoreQueryRequest> for wire::StoreQueryRequest {
    fn from(request: StoreQueryRequest) -> Self {
        let bytes = |hash: &MessageHash| Bytes::copy_from_slice(hash.as_bytes());
        Self {
            request_id: request.request_id,
            include_data: request.include_data,
            pubsub_topic: request.pubsub_topic.map(|topic| topic.to_string()),
            content_topics: request.content_topics.iter().map(|topic| topic.as_str().to_owned()).collect(),
            time_start: request.time_start.map(Timestamp::as_nanos),
            time_end: request.time_end.map(Timestamp::as_nanos),
            message_hashes: request.message_hashes.iter().map(bytes).collect(),
            eligibility_proof: request.eligibility_proof,
            pagination_cursor: request.pagination_cursor.as_ref().map(bytes),
            pagination_forward: request.pagination_forward,
            pagination_limit: request.pagination_limit,
        }
    }
}

/// Status of a Store response. Below 300 is success.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct StoreStatus(pub u32);

impl StoreStatus {
    /// Served.
    pub const OK: Self = Self(200);
    /// The server's archive failed.
    pub const BAD_RESPONSE: Self = Self(300);
    /// The request is malformed.
    pub const BAD_REQUEST: Self = Self(400);
    /// The query must be paid for.
    pub const PAYMENT_REQUIRED: Self = Self(402);
    /// Over the rate.
    pub const TOO_MANY_REQUESTS: Self = Self(429);
    /// The server can't serve now.
    pub const SERVICE_UNAVAILABLE: Self = Self(503);

    /// Whether the query was served.
    #[must_use]
    pub const fn is_success(self) -> bool {
        self.0 >= 200 && self.0 < 300
    }
}

impl fmt::Display for StoreStatus {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

/// The verdict on a payment, beside a response (175/WAKU2-INCENTIVIZATION).
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct EligibilityStatus {
    /// 200, 402, or a reason's own code.
    pub status_code: u32,
    /// The reason, or how to pay.
    pub status_desc: String,
}

impl From<EligibilityStatus> for incentivization::EligibilityStatus {
    fn from(status: EligibilityStatus) -> Self {
        Self { status_code: Some(status.status_code), status_desc: Some(status.status_desc) }
    }
}

/// One entry of a response.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct StoreEntry {
    /// The message's hash. In a response that came over the network it was recomputed from the message.
    pub hash: MessageHash,
    /// The message and its shard, if the query asked for data.
    pub data: Option<(PubsubTopic, std::sync::Arc<WakuMessage>)>,
}

/// A Store response.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct StoreQueryResponse {
    /// The request's id.
    pub request_id: String,
    /// Whether it was served.
    pub status: StoreStatus,
    /// Why not; "OK" if it was.
    pub status_desc: String,
    /// Messages in ascending order of timestamp, whatever the direction.
    pub messages: Vec<StoreEntry>,
    /// Where the next page begins; absent after the last one.
    pub pagination_cursor: Option<MessageHash>,
    /// The verdict on the payment (field 30).
    pub eligibility: Option<EligibilityStatus>,
}

impl StoreQueryResponse {
    pub(crate) fn refusal(request_id: String, status: StoreStatus, desc: impl Into<String>) -> Self {
        Self {
            request_id,
            status,
            status_desc: desc.into(),
            messages: Vec::new(),
            pagination_cursor: None,
            eligibility: None,
        }
    }

    /// The response if the query was served.
    ///
    /// # Errors
    /// [`StoreError::Status`] with what the server says.
    pub fn into_result(self) -> Result<Self, StoreError> {
        if self.status.is_success() {
            Ok(self)
        } else {
            Err(StoreError::Status { status: self.status, desc: self.status_desc, eligibility: self.eligibility })
        }
    }

    /// The protobuf encoding.
    #[must_use]
    pub fn encode(&self) -> Bytes {
        wire::StoreQueryResponse::from(self).encode_to_vec().into()
    }

    /// Decodes the answer to `request` and checks it: its id, its size, its order, and that each message has the hash
    /// it is listed under.
    ///
    /// # Errors
    /// The variants of [`StoreError`] that name the server's fault.
    pub fn decode(bytes: &[u8], request: &StoreQueryRequest, peer: PeerId) -> Result<Self, StoreError> {
        let malformed = |reason: &'static str| StoreError::Malformed { peer, reason };
        let wire = wire::StoreQueryResponse::decode(bytes)
            .map_err(|_| malformed("it is not a protobuf StoreQueryResponse"))?;
        let status = StoreStatus(wire.status_code.ok_or_else(|| malformed("it has no status code"))?);
        // A server may refuse before it reads the request, and then doesn't know the id.
        let unread = status == StoreStatus::TOO_MANY_REQUESTS || (wire.request_id == UNREAD_ID && !status.is_success());
        if wire.request_id != request.request_id && !unread {
            return Err(malformed("it answers another request"));
        }
        if wire.messages.len() as u64 > request.effective_limit() {
            return Err(malformed("it has more messages than a page"));
        }
        let mut messages = Vec::with_capacity(wire.messages.len());
        let mut latest = None;
        for entry in wire.messages {
            let entry = decode_entry(entry, peer)?;
            if request.include_data && entry.data.is_none() {
                return Err(malformed("a message is missing from an entry"));
            }
            if let Some((_, message)) = &entry.data {
                let timestamp = message.timestamp;
                if latest.is_some_and(|latest| timestamp < latest) {
                    return Err(malformed("its messages are not in ascending order"));
                }
                latest = Some(timestamp);
            }
            messages.push(entry);
        }
        let pagination_cursor = match wire.pagination_cursor {
            Some(cursor) => {
                Some(MessageHash::try_from(cursor.as_ref()).map_err(|_| malformed("its cursor is not a hash"))?)
            }
            None => None,
        };
        Ok(Self {
            request_id: wire.request_id,
            status,
            status_desc: wire.status_desc.unwrap_or_default(),
            messages,
            pagination_cursor,
            eligibility: wire.eligibility_status.map(|status| EligibilityStatus {
                status_code: status.status_code.unwrap_or_default(),
                status_desc: status.status_desc.unwrap_or_default(),
            }),
        })
    }
}

fn decode_entry(entry: wire::WakuMessageKeyValue, peer: PeerId) -> Result<StoreEntry, StoreError> {
    let malformed = |reason: &'static str| StoreError::Malformed { peer, reason };
    let listed = match &entry.message_hash {
        Some(hash) => Some(MessageHash::try_from(hash.as_ref()).map_err(|_| malformed("a hash has not 32 bytes"))?),
        None => None,
    };
    match (entry.message, entry.pubsub_topic) {
        (Some(message), Some(topic)) => {
            let topic: PubsubTopic = topic.parse().map_err(|_| malformed("a message's pubsub topic is not a shard"))?;
            let message = WakuMessage::try_from(message).map_err(|source| StoreError::Message { peer, source })?;
            let hash = message.hash(topic);
            match listed {
                Some(listed) if listed != hash => {
                    Err(StoreError::HashMismatch { peer: Box::new(peer), listed, computed: hash })
                }
                _ => Ok(StoreEntry { hash, data: Some((topic, message.into())) }),
            }
        }
        (None, None) => Ok(StoreEntry { hash: listed.ok_or_else(|| malformed("an entry is empty"))?, data: None }),
        _ => Err(malformed("message and pubsub topic are not set together")),
    }
}

impl From<&StoreQueryResponse> for wire::StoreQueryResponse {
    fn from(response: &StoreQueryResponse) -> Self {
        Self {
            request_id: response.request_id.clone(),
            status_code: Some(response.status.0),
            status_desc: Some(response.status_desc.clone()),
            messages: response.messages.iter().map(Into::into).collect(),
            eligibility_status: response.eligibility.clone().map(Into::into),
            pagination_cursor: response
                .pagination_cursor
                .as_ref()
                .map(|cursor| Bytes::copy_from_slice(cursor.as_bytes())),
        }
    }
}

impl From<&StoreEntry> for wire::WakuMessageKeyValue {
    fn from(entry: &StoreEntry) -> Self {
        let (topic, message) = match &entry.data {
            Some((topic, message)) => (Some(topic.to_string()), Some(message.as_ref().clone().into())),
            None => (None, None),
        };
        Self { message_hash: Some(Bytes::copy_from_slice(entry.hash.as_bytes())), message, pubsub_topic: topic }
    }
}

/// Why a Store query brought no messages.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum StoreError {
    /// There was no answer.
    #[error(transparent)]
    Request(#[from] RequestError),
    /// The server refused.
    #[error("the store answered {status}: {desc}")]
    Status {
        /// Its status.
        status: StoreStatus,
        /// Its words.
        desc: String,
        /// Its verdict on the payment.
        eligibility: Option<EligibilityStatus>,
    },
    /// The answer breaks the protocol.
    #[error("{peer} sent a malformed answer: {reason}")]
    Malformed {
        /// The server.
        peer: PeerId,
        /// What is wrong.
        reason: &'static str,
    },
    /// A message in the answer breaks the protocol.
    #[error("{peer} sent a malformed message: {source}")]
    Message {
        /// The server.
        peer: PeerId,
        /// What is wrong.
        source: MessageError,
    },
    /// A message is not the one it is listed as.
    #[error("{peer} listed a message under the hash {listed}, its hash is {computed}")]
    HashMismatch {
        /// The server.
        peer: Box<PeerId>,
        /// The hash in the answer.
        listed: MessageHash,
        /// The message's own.
        computed: MessageHash,
    },
}

impl StoreError {
    /// Stable code of this error.
    #[must_use]
    pub const fn code(&self) -> &'static str {
        match self {
            Self::Request(e) => e.code(),
            Self::Status { .. } => "TRB-W501",
            Self::Malformed { .. } => "TRB-W502",
            Self::Message { source, .. } => source.code(),
            Self::HashMismatch { .. } => "TRB-W503",
        }
    }
}

fn fresh_request_id() -> String {
    hex::encode(rand::random::<[u8; 16]>())
}
