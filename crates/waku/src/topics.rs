//! Content topics, pubsub topics and the shard a content topic maps to (23/WAKU2-TOPICS, 178/WAKU2-RELAY-SHARDING).

use std::{fmt, str::FromStr, sync::Arc};

use sha2::{Digest, Sha256};

/// Shards that a cluster can have.
pub const MAX_SHARDS_PER_CLUSTER: u16 = 1024;

/// Number of a Waku network. 0 to 15 are reserved, 1 is The Waku Network.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash, serde::Serialize, serde::Deserialize)]
#[serde(transparent)]
pub struct ClusterId(pub u16);

impl ClusterId {
    /// The network of this number.
    #[must_use]
    pub const fn new(id: u16) -> Self {
        Self(id)
    }
}

impl fmt::Display for ClusterId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

/// Index of a shard in its cluster, below [`MAX_SHARDS_PER_CLUSTER`].
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash, serde::Serialize)]
#[serde(transparent)]
pub struct ShardIndex(u16);

impl ShardIndex {
    /// # Errors
    /// [`TopicError::ShardOutOfRange`] unless `index` is below [`MAX_SHARDS_PER_CLUSTER`].
    pub const fn new(index: u16) -> Result<Self, TopicError> {
        if index < MAX_SHARDS_PER_CLUSTER { Ok(Self(index)) } else { Err(TopicError::ShardOutOfRange { index }) }
    }

    /// The number.
    #[must_use]
    pub const fn get(self) -> u16 {
        self.0
    }
}

impl fmt::Display for ShardIndex {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

/// A relay topic, `/waku/2/rs/<cluster>/<shard>`. Named pubsub topics are deprecated and not supported.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct PubsubTopic {
    /// The network.
    pub cluster: ClusterId,
    /// The shard.
    pub shard: ShardIndex,
}

impl PubsubTopic {
    /// The topic of `shard` in `cluster`.
    #[must_use]
    pub const fn new(cluster: ClusterId, shard: ShardIndex) -> Self {
        Self { cluster, shard }
    }
}

impl fmt::Display for PubsubTopic {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "/waku/2/rs/{}/{}", self.cluster, self.shard)
    }
}

impl FromStr for PubsubTopic {
    type Err = TopicError;

    fn from_str(s: &str) -> Result<Self, Self::Err> {
        let malformed = || TopicError::PubsubTopic { topic: excerpt(s) };
        let (cluster, shard) =
            s.strip_prefix("/waku/2/rs/").and_then(|rest| rest.split_once('/')).ok_or_else(malformed)?;
        // Other spellings of a number ("+1", "01") would name a topic that no other node means.
        let number = |text: &str| text.parse::<u16>().ok().filter(|n| n.to_string() == text).ok_or_else(malformed);
        Ok(Self { cluster: ClusterId(number(cluster)?), shard: ShardIndex::new(number(shard)?)? })
    }
}

/// A content topic: what a message is about.
///
/// The structured form is `/{application}/{version}/{name}/{encoding}`, optionally led by `/0` (the generation);
/// autosharding needs it. Messages in static shards may carry any text: [`ContentTopic::opaque`].
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct ContentTopic(Arc<str>);

/// The parts of a structured content topic, none of them empty.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ContentTopicParts<'a> {
    /// Application.
    pub application: &'a str,
    /// Version of the application's protocol.
    pub version: &'a str,
    /// Name of the topic in the application.
    pub name: &'a str,
    /// Encoding of the payload.
    pub encoding: &'a str,
}

impl ContentTopic {
    /// Any text, structured or not, as it stands on the wire.
    #[must_use]
    pub fn opaque(topic: impl Into<Arc<str>>) -> Self {
        Self(topic.into())
    }

    /// The text.
    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.0
    }

    /// Splits a structured content topic.
    ///
    /// # Errors
    /// [`TopicError::ContentTopic`] unless it has four non-empty parts, [`TopicError::Generation`] for a leading
    /// generation other than 0.
    pub fn parts(&self) -> Result<ContentTopicParts<'_>, TopicError> {
        let malformed = |reason| TopicError::ContentTopic { topic: excerpt(&self.0), reason };
        let rest = self.0.strip_prefix('/').ok_or_else(|| malformed("it must begin with '/'"))?;
        let mut fields = [""; 5];
        let mut count = 0;
        for part in rest.split('/') {
            if part.is_empty() {
                return Err(malformed("no part may be empty"));
            }
            *fields.get_mut(count).ok_or_else(|| malformed("it has more than five parts"))? = part;
            count += 1;
        }
        let parts = match count {
            4 => &fields[..4],
            5 => {
                let generation: u32 = fields[0].parse().map_err(|_| malformed("the generation must be a number"))?;
                if generation != 0 {
                    return Err(TopicError::Generation { generation });
                }
                &fields[1..]
            }
            _ => return Err(malformed("it needs application, version, name and encoding")),
        };
        Ok(ContentTopicParts { application: parts[0], version: parts[1], name: parts[2], encoding: parts[3] })
    }

    /// The shard among `shards` that this topic maps to: the last eight bytes of sha256(application || version), as
    /// a big-endian number, modulo `shards`. (The specification takes the whole hash; deployed nodes don't. They
    /// agree when `shards` is a power of two.)
    ///
    /// # Errors
    /// Those of [`ContentTopic::parts`]; [`TopicError::ShardCount`] if `shards` is not in 1..=1024.
    pub fn shard(&self, shards: u16) -> Result<ShardIndex, TopicError> {
        if shards == 0 || shards > MAX_SHARDS_PER_CLUSTER {
            return Err(TopicError::ShardCount { shards });
        }
        let index = self.hash_modulo(u64::from(shards))?;
        ShardIndex::new(u16::try_from(index).unwrap_or(u16::MAX))
    }

    fn hash_modulo(&self, modulus: u64) -> Result<u64, TopicError> {
        let parts = self.parts()?;
        let digest: [u8; 32] =
            Sha256::new().chain_update(parts.application).chain_update(parts.version).finalize().into();
        let tail = digest.last_chunk::<8>().map_or(0, |tail| u64::from_be_bytes(*tail));
        Ok(tail % modulus)
    }
}

impl FromStr for ContentTopic {
    type Err = TopicError;

    /// Accepts the structured form only.
    fn from_str(s: &str) -> Result<Self, Self::Err> {
        let topic = Self::opaque(s);
        topic.parts()?;
        Ok(topic)
    }
}

impl TryFrom<&str> for ContentTopic {
    type Error = TopicError;

    fn try_from(s: &str) -> Result<Self, Self::Error> {
        s.parse()
    }
}

impl AsRef<str> for ContentTopic {
    fn as_ref(&self) -> &str {
        &self.0
    }
}

impl fmt::Display for ContentTopic {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

/// How content topics map to shards.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Sharding {
    /// By hash over shards `0..shards` of the cluster.
    Auto {
        /// Shards of the network, 1..=1024; 8 on every known autosharded network.
        shards: u16,
    },
    /// The publisher names the shard.
    Static,
}

/// What is wrong with a topic.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum TopicError {
    /// Not `/waku/2/rs/<cluster>/<shard>`.
    #[error("pubsub topic {topic:?} is not of the form /waku/2/rs/<cluster>/<shard>")]
    PubsubTopic {
        /// Beginning of the topic.
        topic: String,
    },
    /// Not a structured content topic.
    #[error("content topic {topic:?} is not of the form /application/version/name/encoding: {reason}")]
    ContentTopic {
        /// Beginning of the topic.
        topic: String,
        /// What is wrong.
        reason: &'static str,
    },
    /// A generation other than 0.
    #[error("content topic generation {generation} is unknown, only 0 is defined")]
    Generation {
        /// The number given.
        generation: u32,
    },
    /// A shard index of 1024 or more.
    #[error("shard {index} is out of range, a cluster has at most {MAX_SHARDS_PER_CLUSTER} shards")]
    ShardOutOfRange {
        /// The index given.
        index: u16,
    },
    /// An impossible number of shards.
    #[error("{shards} shards are not in 1..={MAX_SHARDS_PER_CLUSTER}")]
    ShardCount {
        /// The count given.
        shards: u16,
    },
    /// The node doesn't map content topics to shards.
    #[error("with static sharding the pubsub topic must be given explicitly")]
    StaticSharding,
}

impl TopicError {
    /// Stable code of this error.
    #[must_use]
    pub const fn code(&self) -> &'static str {
        match self {
            Self::PubsubTopic { .. } => "TRB-W101",
            Self::ContentTopic { .. } => "TRB-W102",
            Self::Generation { .. } => "TRB-W103",
            Self::ShardOutOfRange { .. } => "TRB-W104",
            Self::ShardCount { .. } => "TRB-W105",
            Self::StaticSharding => "TRB-W106",
        }
    }
}

/// At most 80 characters of a text that somebody else wrote.
fn excerpt(text: &str) -> String {
    text.chars().take(80).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn topic(s: &str) -> ContentTopic {
        s.parse().unwrap()
    }

    #[test]
    fn autosharding_vectors() {
        for (prefix, shard) in [
            ("myapp/1", 0),
            ("waku/2", 1),
            ("app/22", 2),
            ("toychat/2", 3),
            ("statusim/1", 4),
            ("app/27", 5),
            ("app/29", 6),
            ("toychat2/2", 6),
            ("app/20", 7),
            ("toychat/4", 7),
        ] {
            for form in [format!("/{prefix}/name/proto"), format!("/0/{prefix}/name/proto")] {
                assert_eq!(topic(&form).shard(8).unwrap().get(), shard, "{form}");
            }
        }
        for (prefix, shards, shard) in [
            ("app/20", 16, 15),
            ("app/20", 2, 1),
            ("app/20", 1, 0),
            ("toychat/2", 65536, 58355),
            ("toychat2/2", 65536, 23286),
            // Not vectors of the interoperability suite for shard 0, in spite of their name there.
            ("newsService/1.0", 8, 2),
            ("newsService/2.0", 8, 4),
            ("newsService/3.0", 8, 3),
        ] {
            assert_eq!(topic(&format!("/{prefix}/n/p")).hash_modulo(shards).unwrap(), shard, "{prefix} {shards}");
        }
    }

    #[test]
    fn content_topic_errors() {
        for bad in ["", "app/1/n/p", "/", "//1/n/p", "/app/1/n", "/app/1/n/", "/app/1//p", "/0/a/1/n/p/x", "/x/a/1/n/p"]
        {
            assert_eq!(bad.parse::<ContentTopic>().unwrap_err().code(), "TRB-W102", "{bad}");
        }
        assert_eq!("/1/app/20/n/p".parse::<ContentTopic>().unwrap_err(), TopicError::Generation { generation: 1 });
        assert_eq!(topic("/a/1/n/p").shard(0).unwrap_err(), TopicError::ShardCount { shards: 0 });
        assert_eq!(topic("/a/1/n/p").shard(1025).unwrap_err(), TopicError::ShardCount { shards: 1025 });
        assert_eq!(ContentTopic::opaque("Test").shard(8).unwrap_err().code(), "TRB-W102");
    }

    #[test]
    fn pubsub_topics() {
        let topic: PubsubTopic = "/waku/2/rs/42/7".parse().unwrap();
        assert_eq!((topic.cluster.0, topic.shard.get()), (42, 7));
        assert_eq!(topic.to_string(), "/waku/2/rs/42/7");
        for bad in [
            "/waku/2/default-waku/proto",
            "/waku/2/rs/42",
            "/waku/2/rs/42/07",
            "/waku/2/rs/+42/7",
            "/waku/2/rs/42/7/8",
            "/waku/2/rs/65536/7",
            "",
        ] {
            assert_eq!(bad.parse::<PubsubTopic>().unwrap_err().code(), "TRB-W101", "{bad}");
        }
        assert_eq!(
            "/waku/2/rs/1/1024".parse::<PubsubTopic>().unwrap_err(),
            TopicError::ShardOutOfRange { index: 1024 }
        );
    }
}
