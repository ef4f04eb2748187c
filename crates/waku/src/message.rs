//! The Waku message (14/WAKU2-MESSAGE), its deterministic hash, and the checks of 64/WAKU2-NETWORK.

use std::{fmt, str::FromStr, time::Duration};

use prost::{Message as _, bytes::Bytes};
use sha2::{Digest, Sha256};

use crate::{
    clock::Timestamp,
    proto,
    topics::{ContentTopic, PubsubTopic},
};

/// Largest encoded message that relay, lightpush and store take: 150 KiB.
pub const MAX_MESSAGE_BYTES: usize = 150 * 1024;

/// Longest `meta` of a message.
pub const MAX_META_BYTES: usize = 64;

/// How far a message's timestamp may lie from the receiver's clock.
pub const MAX_TIMESTAMP_SKEW: Duration = Duration::from_secs(20);

/// A Waku message. `payload` may be empty; `timestamp` should be set by every publisher, because without it
/// implementations disagree about the hash.
#[derive(Clone, PartialEq, Eq)]
pub struct WakuMessage {
    /// The application's bytes.
    pub payload: Bytes,
    /// What the message is about.
    pub content_topic: ContentTopic,
    /// Payload version: 0 = the application's own, 1 = 26/WAKU2-PAYLOAD, 2 = Noise.
    pub version: Option<u32>,
    /// When the message was made.
    pub timestamp: Option<Timestamp>,
    /// Application data that is part of the hash, at most [`MAX_META_BYTES`].
    pub meta: Option<Bytes>,
    /// An encoded RLN proof. This node neither makes nor checks one; it carries it.
    pub rate_limit_proof: Option<Bytes>,
    /// Whether Store nodes are asked not to keep the message.
    pub ephemeral: Option<bool>,
}

impl WakuMessage {
    /// A message of version 0, to be archived, made at `timestamp`.
    #[must_use]
    pub fn new(content_topic: ContentTopic, payload: impl Into<Bytes>, timestamp: Timestamp) -> Self {
        Self {
            payload: payload.into(),
            content_topic,
            version: None,
            timestamp: Some(timestamp),
            meta: None,
            rate_limit_proof: None,
            ephemeral: None,
        }
    }

    /// Whether Store nodes are asked not to keep this message.
    #[must_use]
    pub fn is_ephemeral(&self) -> bool {
        self.ephemeral.unwrap_or(false)
    }

    /// Its deterministic hash under a pubsub topic.
    #[must_use]
    pub fn hash(&self, pubsub_topic: PubsubTopic) -> MessageHash {
        MessageHash::compute(
            &pubsub_topic.to_string(),
            &self.payload,
            self.content_topic.as_str(),
            self.meta.as_deref(),
            self.timestamp,
        )
    }

    /// The protobuf encoding.
    #[must_use]
    pub fn encode(&self) -> Bytes {
        Bytes::from(proto::message::v1::WakuMessage::from(self.clone()).encode_to_vec())
    }

    /// Decodes and checks what needs no clock.
    ///
    /// # Errors
    /// [`MessageError::TooLarge`], [`MessageError::Malformed`], [`MessageError::MissingField`],
    /// [`MessageError::MetaTooLong`].
    pub fn decode(bytes: &[u8]) -> Result<Self, MessageError> {
        if bytes.len() > MAX_MESSAGE_BYTES {
            return Err(MessageError::TooLarge { len: bytes.len(), max: MAX_MESSAGE_BYTES });
        }
        proto::message::v1::WakuMessage::decode(bytes).map_err(|_| MessageError::Malformed)?.try_into()
    }

    /// Checks a message before it is published, relayed or archived at `now`.
    ///
    /// # Errors
    /// [`MessageError::TooLarge`], [`MessageError::MetaTooLong`], [`MessageError::TimestampMissing`] and
    /// [`MessageError::TimestampSkew`].
    pub fn validate(&self, now: Timestamp) -> Result<(), MessageError> {
        let len = proto::message::v1::WakuMessage::from(self.clone()).encoded_len();
        if len > MAX_MESSAGE_BYTES {
            return Err(MessageError::TooLarge { len, max: MAX_MESSAGE_BYTES });
        }
        check_meta(self.meta.as_deref())?;
        let timestamp = self.timestamp.ok_or(MessageError::TimestampMissing)?;
        let skew = timestamp.abs_diff(now);
        if skew > MAX_TIMESTAMP_SKEW {
            return Err(MessageError::TimestampSkew { skew, max: MAX_TIMESTAMP_SKEW });
        }
        Ok(())
    }
}

impl fmt::Debug for WakuMessage {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("WakuMessage")
            .field("content_topic", &self.content_topic.as_str())
            .field("payload_bytes", &self.payload.len())
            .field("timestamp", &self.timestamp)
            .field("ephemeral", &self.is_ephemeral())
            .finish_non_exhaustive()
    }
}

fn check_meta(meta: Option<&[u8]>) -> Result<(), MessageError> {
    match meta {
        Some(meta) if meta.len() > MAX_META_BYTES => {
            Err(MessageError::MetaTooLong { len: meta.len(), max: MAX_META_BYTES })
        }
        _ => Ok(()),
    }
}

impl From<WakuMessage> for proto::message::v1::WakuMessage {
    fn from(message: WakuMessage) -> Self {
        Self {
            payload: Some(message.payload),
            content_topic: Some(message.content_topic.as_str().to_owned()),
            version: message.version,
            timestamp: message.timestamp.map(Timestamp::as_nanos),
            meta: message.meta,
            rate_limit_proof: message.rate_limit_proof,
            ephemeral: message.ephemeral,
        }
    }
}

impl TryFrom<proto::message::v1::WakuMessage> for WakuMessage {
    type Error = MessageError;

    fn try_from(message: proto::message::v1::WakuMessage) -> Result<Self, Self::Error> {
        check_meta(message.meta.as_deref())?;
        Ok(Self {
            payload: message.payload.ok_or(MessageError::MissingField { field: "payload" })?,
            content_topic: ContentTopic::opaque(
                message.content_topic.ok_or(MessageError::MissingField { field: "content_topic" })?,
            ),
            version: message.version,
            timestamp: message.timestamp.map(Timestamp::from_nanos),
            meta: message.meta,
            rate_limit_proof: message.rate_limit_proof,
            ephemeral: message.ephemeral,
        })
    }
}

/// Deterministic message hash: sha256(pubsub topic || payload || content topic || meta || timestamp), the timestamp
/// as eight big-endian bytes and zero if absent.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct MessageHash([u8; 32]);

impl MessageHash {
    /// Hashes a message's parts. An absent timestamp counts as zero, as in nwaku and go-waku.
    #[must_use]
    pub fn compute(
        pubsub_topic: &str,
        payload: &[u8],
        content_topic: &str,
        meta: Option<&[u8]>,
        timestamp: Option<Timestamp>,
    ) -> Self {
        let mut hasher = Sha256::new();
        hasher.update(pubsub_topic);
        hasher.update(payload);
        hasher.update(content_topic);
        hasher.update(meta.unwrap_or_default());
        hasher.update(timestamp.map_or(0, Timestamp::as_nanos).to_be_bytes());
        Self(hasher.finalize().into())
    }

    /// From its 32 bytes.
    #[must_use]
    pub const fn from_bytes(bytes: [u8; 32]) -> Self {
        Self(bytes)
    }

    /// Its 32 bytes.
    #[must_use]
    pub const fn as_bytes(&self) -> &[u8; 32] {
        &self.0
    }
}

impl TryFrom<&[u8]> for MessageHash {
    type Error = MessageError;

    fn try_from(bytes: &[u8]) -> Result<Self, Self::Error> {
        <[u8; 32]>::try_from(bytes).map(Self).map_err(|_| MessageError::HashLength { len: bytes.len() })
    }
}

impl FromStr for MessageHash {
    type Err = MessageError;

    /// Hexadecimal, with or without 0x.
    fn from_str(s: &str) -> Result<Self, Self::Err> {
        let digits = s.strip_prefix("0x").unwrap_or(s);
        let mut bytes = [0; 32];
        hex::decode_to_slice(digits, &mut bytes).map_err(|_| MessageError::HashLength { len: digits.len() / 2 })?;
        Ok(Self(bytes))
    }
}

impl fmt::Display for MessageHash {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&hex::encode(self.0))
    }
}

impl fmt::Debug for MessageHash {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "MessageHash({self})")
    }
}

/// Why a message is not acceptable.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum MessageError {
    /// The encoded message is too large.
    #[error("the encoded message has {len} bytes, at most {max} are allowed")]
    TooLarge {
        /// Its size in bytes.
        len: usize,
        /// The limit in bytes.
        max: usize,
    },
    /// Not a protobuf WakuMessage.
    #[error("the bytes are not a protobuf WakuMessage")]
    Malformed,
    /// A required field is not there.
    #[error("the message lacks its field {field}")]
    MissingField {
        /// The field's name.
        field: &'static str,
    },
    /// `meta` is too long.
    #[error("meta has {len} bytes, at most {max} are allowed")]
    MetaTooLong {
        /// Its length in bytes.
        len: usize,
        /// The limit in bytes.
        max: usize,
    },
    /// No timestamp.
    #[error("the message has no timestamp; publishers must set one")]
    TimestampMissing,
    /// Made too long ago, or in the future.
    #[error("the timestamp lies {skew:?} from this node's clock, at most {max:?} are allowed; check the clocks")]
    TimestampSkew {
        /// The distance.
        skew: Duration,
        /// The limit.
        max: Duration,
    },
    /// A message hash of another length.
    #[error("a message hash has 32 bytes, not {len}")]
    HashLength {
        /// The length given in bytes.
        len: usize,
    },
}

impl MessageError {
    /// Stable code of this error.
    #[must_use]
    pub const fn code(&self) -> &'static str {
        match self {
            Self::TooLarge { .. } => "TRB-W201",
            Self::Malformed => "TRB-W202",
            Self::MissingField { .. } => "TRB-W203",
            Self::MetaTooLong { .. } => "TRB-W204",
            Self::TimestampMissing => "TRB-W205",
            Self::TimestampSkew { .. } => "TRB-W206",
            Self::HashLength { .. } => "TRB-W207",
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const DEFAULT: &str = "/waku/2/default-waku/proto";
    const RS: &str = "/waku/2/rs/0/0";
    const TOPIC: &str = "/waku/2/default-content/proto";
    const T: i64 = 0x1757_89bf_a23f_8400;

    #[test]
    fn hash_vectors() {
        let payload = hex::decode("010203045445535405060708").unwrap();
        let p = payload.as_slice();
        let meta = b"super-secret".as_slice();
        let long: Vec<u8> = (0..64).collect();
        let long = long.as_slice();
        type Vector<'a> = (&'a str, &'a [u8], Option<&'a [u8]>, Option<i64>, &'a str);
        let vectors: &[Vector<'_>] = &[
            (DEFAULT, p, Some(meta), Some(T), "64cce733fed134e83da02b02c6f689814872b1a0ac97ea56b76095c3c72bfe05"),
            (DEFAULT, p, Some(long), Some(T), "7158b6498753313368b9af8f6e0a0a05104f68f972981da42a43bc53fb0c1b27"),
            (DEFAULT, p, None, Some(T), "a2554498b31f5bcdfcbf7fa58ad1c2d45f0254f3f8110a85588ec3cf10720fd8"),
            (DEFAULT, b"", Some(meta), Some(T), "483ea950cb63f9b9d6926b262bb36194d3f40a0463ce8446228350bd44e96de4"),
            (DEFAULT, b"", Some(meta), None, "58e2fc032a82c4adeb967a8b87086d0d6fb304912f120d4404e6236add8f1f56"),
            (DEFAULT, b"", Some(meta), Some(0), "58e2fc032a82c4adeb967a8b87086d0d6fb304912f120d4404e6236add8f1f56"),
            (
                DEFAULT,
                p,
                None,
                Some(123_456_789_123_456_789),
                "f0183c2e370e473ff471bbe1028d0d8a940949c02f3007a1ccd21fed356852a0",
            ),
            (
                DEFAULT,
                p,
                Some(meta),
                Some(123_456_789_123_456_789),
                "f673cd2c9c973d685b52ca74c2559e001733a3a31a49ffc7b6e8713decba5a55",
            ),
            (RS, p, None, Some(T), "cccab07fed94181c83937c8ca8340c9108492b7ede354a6d95421ad34141fd37"),
            (RS, p, Some(meta), Some(T), "b9b4852f9d8c489846e8bfc6c5ca6a1a8d460a40d28832a966e029eb39619199"),
            (RS, p, Some(long), Some(T), "653460d04f66c5b11814d235152f4f246e6f03ef80a305a825913636fbafd0ba"),
            (RS, b"", Some(meta), Some(T), "0f6448cc23b2db6c696aa6ab4b693eff4cf3549ff346fe1dbeb281697396a09f"),
        ];
        for (pubsub, payload, meta, timestamp, expected) in vectors {
            let hash = MessageHash::compute(pubsub, payload, TOPIC, *meta, timestamp.map(Timestamp::from_nanos));
            assert_eq!(hash.to_string(), *expected);
            assert_eq!(expected.parse::<MessageHash>().unwrap(), hash);
        }
        let hash = MessageHash::compute(
            "test",
            b"Hello World",
            "Test",
            None,
            Some(Timestamp::from_nanos(123_456_789_123_456_789)),
        );
        assert_eq!(hash.to_string(), "b659607f2aae18848dcaa7d51cb37e6cc6fc33402c704ff0c016337d83ad6150");

        let message = WakuMessage {
            meta: Some(Bytes::from_static(b"super-secret")),
            ..WakuMessage::new(ContentTopic::opaque(TOPIC), payload.clone(), Timestamp::from_nanos(T))
        };
        assert_eq!(
            message.hash(RS.parse().unwrap()).to_string(),
            "b9b4852f9d8c489846e8bfc6c5ca6a1a8d460a40d28832a966e029eb39619199"
        );
    }

    #[test]
    fn wire_format() {
        // A lightpush request's message as js-waku 0.0.36 writes it: version 0 and ephemeral false are explicit.
        let wire = hex::decode(
            "0a026d30121e2f6170702f32302f736f6d65746f7069632f736f6d65656e636f64696e6718005080d488e2a1b4a8ea31f80100",
        )
        .unwrap();
        let message = WakuMessage::decode(&wire).unwrap();
        assert_eq!(message.payload.as_ref(), b"m0");
        assert_eq!(message.content_topic.as_str(), "/app/20/sometopic/someencoding");
        assert_eq!(message.version, Some(0));
        assert_eq!(message.ephemeral, Some(false));
        assert_eq!(message.encode().as_ref(), wire.as_slice());

        // Empty fields are written, since other decoders require them.
        let empty = WakuMessage {
            timestamp: None,
            ..WakuMessage::new(ContentTopic::opaque(""), Bytes::new(), Timestamp::from_nanos(0))
        };
        assert_eq!(empty.encode().as_ref(), [0x0a, 0, 0x12, 0]);
    }

    #[test]
    fn decode_errors() {
        assert_eq!(WakuMessage::decode(&[0x12, 0]).unwrap_err(), MessageError::MissingField { field: "payload" });
        assert_eq!(WakuMessage::decode(&[0x0a, 0]).unwrap_err(), MessageError::MissingField { field: "content_topic" });
        assert_eq!(WakuMessage::decode(&[0x0a, 9, 1]).unwrap_err(), MessageError::Malformed);
        assert_eq!(
            WakuMessage::decode(&vec![0; MAX_MESSAGE_BYTES + 1]).unwrap_err(),
            MessageError::TooLarge { len: MAX_MESSAGE_BYTES + 1, max: MAX_MESSAGE_BYTES }
        );
        let mut message = WakuMessage::new(ContentTopic::opaque("t"), Bytes::new(), Timestamp::from_nanos(0));
        message.meta = Some(Bytes::from(vec![0; 67]));
        assert_eq!(
            WakuMessage::decode(&message.encode()).unwrap_err(),
            MessageError::MetaTooLong { len: 67, max: MAX_META_BYTES }
        );
    }

    #[test]
    fn validation() {
        let now = Timestamp::from_secs(1_700_000_000);
        let at = |timestamp| WakuMessage::new(ContentTopic::opaque("/a/1/n/p"), vec![1], timestamp);
        for timestamp in [now, now.saturating_add(MAX_TIMESTAMP_SKEW), now.saturating_sub(MAX_TIMESTAMP_SKEW)] {
            assert_eq!(at(timestamp).validate(now), Ok(()));
        }
        let beyond = MAX_TIMESTAMP_SKEW + Duration::from_nanos(1);
        for timestamp in [now.saturating_add(beyond), now.saturating_sub(beyond)] {
            assert_eq!(
                at(timestamp).validate(now),
                Err(MessageError::TimestampSkew { skew: beyond, max: MAX_TIMESTAMP_SKEW })
            );
        }
        assert_eq!(
            at(Timestamp::from_nanos(i64::MIN)).validate(Timestamp::from_nanos(i64::MAX)).unwrap_err().code(),
            "TRB-W206"
        );
        let mut message = at(now);
        message.timestamp = None;
        assert_eq!(message.validate(now), Err(MessageError::TimestampMissing));
        let mut message = at(now);
        message.payload = Bytes::from(vec![0; MAX_MESSAGE_BYTES]);
        assert_eq!(message.validate(now).unwrap_err().code(), "TRB-W201");
    }
}
