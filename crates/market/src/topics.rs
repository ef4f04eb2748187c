//! Content topics. Application and version are the same for all, so that autosharding puts all of them on one shard.

use std::fmt;

use rand::RngCore;
use sha2::{Digest as _, Sha256};

use crate::sealed::EncryptionKey;
use crate::wire::WireError;

/// A Waku content topic (23/WAKU2-TOPICS): `/application/version/name/encoding`.
#[derive(Debug, Clone, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct ContentTopic(String);

impl ContentTopic {
    /// Offers of providers.
    #[must_use]
    pub fn offers() -> Self {
        Self::named("offers")
    }

    /// Announcements of relayers.
    #[must_use]
    pub fn relayers() -> Self {
        Self::named("relayers")
    }

    /// Ratings of providers.
    #[must_use]
    pub fn ratings() -> Self {
        Self::named("ratings")
    }

    /// Sealed requests to the holder of this key.
    #[must_use]
    pub fn requests_of(key: &EncryptionKey) -> Self {
        let digest = Sha256::digest(key.as_bytes());
        Self::named(&format!("request-{}", hex::encode(&digest[..16])))
    }

    /// A topic for one reply, known to nobody but whom it is sent to.
    pub fn one_time_reply<R: RngCore>(rng: &mut R) -> Self {
        let mut name = [0; 16];
        rng.fill_bytes(&mut name);
        Self::named(&format!("reply-{}", hex::encode(name)))
    }

    /// Reads a reply topic that a requester named. Only topics of the form that [`Self::one_time_reply`] makes are taken: a
    /// requester can't make a server write anywhere else.
    ///
    /// # Errors
    /// [`WireError::Invalid`].
    pub fn parse_reply(topic: &str) -> Result<Self, WireError> {
        let name = topic.strip_prefix("/tributary/1/reply-").and_then(|rest| rest.strip_suffix("/proto"));
        match name {
            Some(name) if name.len() == 32 && name.bytes().all(|byte| matches!(byte, b'0'..=b'9' | b'a'..=b'f')) => {
                Ok(Self(topic.to_owned()))
            }
            _ => Err(WireError::Invalid { field: "reply_topic", reason: "not a one-time reply topic".into() }),
        }
    }

    /// The topic as it goes on the wire.
    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.0
    }

    fn named(name: &str) -> Self {
        Self(format!("/tributary/1/{name}/proto"))
    }
}

impl fmt::Display for ContentTopic {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_one_time_topics_are_taken_for_replies() {
        let topic = ContentTopic::one_time_reply(&mut rand::thread_rng());
        assert_eq!(ContentTopic::parse_reply(topic.as_str()), Ok(topic));
        for bad in [
            "/tributary/1/offers/proto",
            "/tributary/1/reply-00/proto",
            "/tributary/1/reply-0123456789abcdef0123456789abcdeF/proto",
            "/other/1/reply-0123456789abcdef0123456789abcdef/proto",
        ] {
            assert_eq!(ContentTopic::parse_reply(bad).unwrap_err().code(), "TRB-M008");
        }
    }
}
