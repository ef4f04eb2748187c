//! What the tests share: nodes of one network under one clock that stands still.

use std::{sync::Arc, time::Duration};

use tributary_waku::{
    ClusterId, ContentTopic, ManualClock, Multiaddr, Node, NodeConfig, NodeHandle, NodeKey, NodeLimits, PubsubTopic,
    Rate, ServeLimits, Sharding, Timestamp, WakuMessage,
};

/// Nothing here waits this long unless it fails.
pub(crate) const PATIENCE: Duration = Duration::from_secs(30);

pub(crate) const NOW: Timestamp = Timestamp::from_secs(1_700_000_000);

pub(crate) const CLUSTER: ClusterId = ClusterId(42);

pub(crate) fn clock() -> Arc<ManualClock> {
    Arc::new(ManualClock::new(NOW))
}

pub(crate) fn config(clock: &Arc<ManualClock>) -> NodeConfig {
    NodeConfig {
        listen: vec!["/ip4/127.0.0.1/tcp/0".parse().unwrap()],
        limits: NodeLimits::shared_address(),
        clock: clock.clone(),
        ..NodeConfig::new(NodeKey::generate(), CLUSTER, Sharding::Auto { shards: 8 })
    }
}

pub(crate) async fn node(clock: &Arc<ManualClock>) -> NodeHandle {
    Node::spawn(config(clock)).await.unwrap()
}

pub(crate) fn address(node: &NodeHandle) -> Multiaddr {
    node.listen_addrs().first().cloned().unwrap()
}

/// Connects `a` to `b`, known to both.
pub(crate) async fn connect(a: &NodeHandle, b: &NodeHandle) {
    a.dial_within(&address(b), PATIENCE).await.unwrap();
    b.wait_for_peer(a.peer_id(), PATIENCE).await.unwrap();
}

pub(crate) fn topic() -> ContentTopic {
    "/app/20/sometopic/someencoding".parse().unwrap()
}

/// The shard of [`topic`].
pub(crate) fn shard() -> PubsubTopic {
    "/waku/2/rs/42/7".parse().unwrap()
}

pub(crate) fn message(payload: impl AsRef<[u8]>) -> WakuMessage {
    WakuMessage::new(topic(), payload.as_ref().to_vec(), NOW)
}

/// No rates: the clock stands still, so no bucket would ever fill again.
pub(crate) fn unlimited() -> ServeLimits {
    ServeLimits { rate_per_peer: None, rate_total: None, ..ServeLimits::default() }
}

pub(crate) fn burst(n: f64) -> Rate {
    Rate::new(1.0, n)
}

pub(crate) async fn within<T>(what: &str, future: impl Future<Output = T>) -> T {
    tokio::time::timeout(PATIENCE, future).await.unwrap_or_else(|_| panic!("{what} took too long"))
}
