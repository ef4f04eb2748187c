//! Metadata, `/vac/waku/metadata/1.0.0` (66/WAKU2-METADATA): which cluster and shards a peer serves.
//!
//! Asked of every new peer. A peer of another cluster, or one that doesn't say, is disconnected.

use std::time::Duration;

use async_trait::async_trait;
use libp2p::PeerId;
use prost::{Message as _, bytes::Bytes};

use crate::{
    limits::Rate,
    proto::metadata::v1 as wire,
    rpc::{RequestHandler, RequestLimits, ServeLimits},
    topics::{ClusterId, MAX_SHARDS_PER_CLUSTER, ShardIndex},
};

/// Protocol id of metadata.
pub const METADATA_PROTOCOL: &str = "/vac/waku/metadata/1.0.0";

/// Room for all 1024 shards, written twice.
const MAX_BYTES: u64 = 8 * 1024;

/// What a peer says about itself.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PeerMetadata {
    /// Its network.
    pub cluster: Option<ClusterId>,
    /// The shards it relays, ascending; none for a light client.
    pub shards: Vec<ShardIndex>,
}

impl PeerMetadata {
    /// The request's encoding (the response's is the same).
    #[must_use]
    pub fn encode(&self) -> Bytes {
        let shards: Vec<u32> = self.shards.iter().map(|shard| u32::from(shard.get())).collect();
        wire::WakuMetadataRequest {
            cluster_id: self.cluster.map(|cluster| u32::from(cluster.0)),
            shards_unpacked: shards.clone(),
            shards,
        }
        .encode_to_vec()
        .into()
    }

    /// Reads field 3, or else field 2, packed or not. Shards out of range are left out.
    ///
    /// # Errors
    /// [`MalformedMetadata`] if the bytes are not the message, or the cluster has more than 16 bits.
    pub fn decode(bytes: &[u8]) -> Result<Self, MalformedMetadata> {
        let wire = wire::WakuMetadataResponse::decode(bytes).map_err(|_| MalformedMetadata)?;
        let cluster = match wire.cluster_id {
            Some(id) => Some(ClusterId(u16::try_from(id).map_err(|_| MalformedMetadata)?)),
            None => None,
        };
        let listed = if wire.shards.is_empty() { wire.shards_unpacked } else { wire.shards };
        let mut shards: Vec<ShardIndex> = listed
            .into_iter()
            .take(usize::from(MAX_SHARDS_PER_CLUSTER))
            .filter_map(|shard| ShardIndex::new(u16::try_from(shard).ok()?).ok())
            .collect();
        shards.sort_unstable();
        shards.dedup();
        Ok(Self { cluster, shards })
    }
}

/// Bytes that are no metadata.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("the bytes are not Waku metadata")]
pub struct MalformedMetadata;

pub(crate) fn request_limits() -> RequestLimits {
    RequestLimits { max_request_bytes: MAX_BYTES, max_response_bytes: MAX_BYTES, timeout: Duration::from_secs(10) }
}

pub(crate) fn serve_limits() -> ServeLimits {
    ServeLimits {
        max_request_bytes: MAX_BYTES,
        max_response_bytes: MAX_BYTES,
        max_concurrent: 64,
        // A js-waku client opens one stream for each protocol that it waits for.
        max_concurrent_per_peer: 8,
        rate_per_peer: Some(Rate::new(2.0, 30.0)),
        rate_total: Some(Rate::new(200.0, 400.0)),
        ..ServeLimits::default()
    }
}

/// Tells peers about this node. What they say about themselves is asked for separately, and so not read here.
#[derive(Debug)]
pub(crate) struct MetadataServer {
    pub(crate) answer: Bytes,
}

#[async_trait]
impl RequestHandler for MetadataServer {
    async fn handle(&self, _: PeerId, _: Bytes) -> Option<Bytes> {
        Some(self.answer.clone())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn metadata(cluster: u16, shards: &[u16]) -> PeerMetadata {
        PeerMetadata {
            cluster: Some(ClusterId(cluster)),
            shards: shards.iter().map(|s| ShardIndex::new(*s).unwrap()).collect(),
        }
    }

    #[test]
    fn encoding_is_byte_exact() {
        // A js-waku light client of cluster 42.
        assert_eq!(metadata(42, &[]).encode().as_ref(), [0x08, 0x2a]);
        // Field 2 unpacked (one tag each), then field 3 packed.
        assert_eq!(
            metadata(42, &[0, 7, 300]).encode().as_ref(),
            [0x08, 0x2a, 0x10, 0, 0x10, 7, 0x10, 0xac, 0x02, 0x1a, 4, 0, 7, 0xac, 0x02]
        );
        // An absent cluster is not the same as cluster 0.
        assert_eq!(metadata(0, &[]).encode().as_ref(), [0x08, 0]);
        assert!(PeerMetadata { cluster: None, shards: vec![] }.encode().is_empty());
    }

    #[test]
    fn all_deployed_encodings_are_read() {
        let expected = metadata(1, &[2, 3]);
        for wire in [
            &[0x08, 1, 0x10, 2, 0x10, 3][..],
            &[0x08, 1, 0x12, 2, 2, 3],
            &[0x08, 1, 0x1a, 2, 2, 3],
            &[0x08, 1, 0x10, 2, 0x10, 3, 0x1a, 2, 2, 3],
            &[0x1a, 2, 3, 2, 0x08, 1],
        ] {
            assert_eq!(PeerMetadata::decode(wire).unwrap(), expected, "{wire:?}");
        }
        assert_eq!(PeerMetadata::decode(&[]).unwrap(), PeerMetadata { cluster: None, shards: vec![] });
        assert_eq!(PeerMetadata::decode(&[0x08, 1, 0x10, 0x80, 0x08]).unwrap(), metadata(1, &[]), "shard 1024");
        assert!(PeerMetadata::decode(&[0x08, 0x80, 0x80, 0x04]).is_err(), "cluster 65536");
        assert!(PeerMetadata::decode(&[0x08]).is_err());
    }
}
