//! Answers libp2p's pings.
//!
//! libp2p's own handler stops answering a peer's pings as soon as that peer refused one of ours. js-libp2p nodes do that:
//! each pings every 10 s whether it serves ping itself or not, and ends the connection when no answer comes.

use std::time::Duration;

use async_trait::async_trait;
use futures::{AsyncReadExt as _, AsyncWriteExt as _};
use libp2p::{PeerId, Stream};
use tokio::time::timeout;

use crate::{
    limits::Rate,
    rpc::{ServeLimits, StreamHandler},
};

/// Protocol id of ping.
pub(crate) const PING_PROTOCOL: &str = "/ipfs/ping/1.0.0";

/// Bytes of a ping and of its answer.
const PING_BYTES: usize = 32;

/// Time for an answer to leave.
const WRITE_TIMEOUT: Duration = Duration::from_secs(10);

/// Streams of one peer. Some peers keep one stream open for all their pings, others open one for each.
const STREAMS_PER_PEER: usize = 4;

/// Bounds for a node with at most `connections` connections. They are counted per peer: nobody's pings make the node
/// refuse those of another.
pub(crate) fn serve_limits(connections: u32) -> ServeLimits {
    let peers = usize::try_from(connections).unwrap_or(usize::MAX);
    ServeLimits {
        max_concurrent: peers.saturating_mul(STREAMS_PER_PEER),
        max_concurrent_per_peer: STREAMS_PER_PEER,
        rate_per_peer: Some(Rate::new(2.0, 30.0)),
        rate_total: None,
        ..ServeLimits::default()
    }
}

/// Sends back what comes, 32 bytes at a time.
#[derive(Debug)]
pub(crate) struct PingServer;

#[async_trait]
impl StreamHandler for PingServer {
    async fn stream(&self, _: PeerId, mut stream: Stream) {
        // A peer that only pings has no use of the connection.
        stream.ignore_for_keep_alive();
        let mut ping = [0; PING_BYTES];
        while stream.read_exact(&mut ping).await.is_ok() {
            let answer = async {
                stream.write_all(&ping).await?;
                stream.flush().await
            };
            if !matches!(timeout(WRITE_TIMEOUT, answer).await, Ok(Ok(()))) {
                return;
            }
        }
    }
}
