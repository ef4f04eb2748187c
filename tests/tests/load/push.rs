//! Lightpush to relay to Filter: a light publisher, its service node, a relay between, another service node, and its light subscriber.

#![allow(dead_code, reason = "the test and the program that measures each use a part of it")]

use std::time::{Duration, Instant};

use tributary_waku::{
    ClusterId, ContentTopic, FilterConfig, LightPushConfig, LightPushRequest, Node, NodeConfig, NodeHandle, NodeKey,
    NodeLimits, ServeLimits, Sharding, WakuMessage,
};

const PATIENCE: Duration = Duration::from_secs(30);

/// What is sent.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Load {
    /// For how long.
    pub(crate) duration: Duration,
    /// Messages a second.
    pub(crate) per_second: u32,
    /// Bytes of a payload.
    pub(crate) bytes: usize,
}

impl Load {
    /// 100 messages of 4 KiB a second for a minute.
    pub(crate) fn full() -> Self {
        Self { duration: Duration::from_secs(60), per_second: 100, bytes: 4096 }
    }
}

/// What came of it.
#[derive(Clone, Debug, Default)]
pub(crate) struct Report {
    /// Messages that the service node took.
    pub(crate) sent: usize,
    /// Messages that it didn't.
    pub(crate) refused: usize,
    /// Different messages that reached the subscriber.
    pub(crate) received: usize,
    /// Messages that reached it again.
    pub(crate) twice: usize,
    /// From before the push to the subscriber, ascending.
    pub(crate) latencies: Vec<Duration>,
}

impl Report {
    /// The latency that this share of messages stayed within.
    pub(crate) fn percentile(&self, percent: usize) -> Option<Duration> {
        let last = self.latencies.len().checked_sub(1)?;
        self.latencies.get((self.latencies.len() * percent / 100).min(last)).copied()
    }
}

fn config() -> NodeConfig {
    NodeConfig {
        listen: vec!["/ip4/127.0.0.1/tcp/0".parse().unwrap()],
        limits: NodeLimits::shared_address(),
        ..NodeConfig::new(NodeKey::generate(), ClusterId(42), Sharding::Auto { shards: 8 })
    }
}

async fn connect(a: &NodeHandle, b: &NodeHandle) {
    let address = b.listen_addrs().first().cloned().unwrap();
    a.dial_within(&address, PATIENCE).await.unwrap();
    b.wait_for_peer(a.peer_id(), PATIENCE).await.unwrap();
}

/// Sends the load and waits for its last message.
pub(crate) fn run(load: &Load) -> Report {
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build().unwrap();
    runtime.block_on(measure(*load))
}

async fn measure(load: Load) -> Report {
    let light = || NodeConfig { relay: false, listen: Vec::new(), ..config() };
    let limits = ServeLimits { rate_per_peer: None, ..LightPushConfig::default().limits };
    let lightpush = Some(LightPushConfig { limits, gate: None });
    let publisher = Node::spawn(light()).await.unwrap();
    let service = Node::spawn(NodeConfig { lightpush, ..config() }).await.unwrap();
    let relay = Node::spawn(config()).await.unwrap();
    let far = Node::spawn(NodeConfig { filter: Some(FilterConfig::default()), ..config() }).await.unwrap();
    let subscriber = Node::spawn(light()).await.unwrap();
    for (a, b) in [(&publisher, &service), (&service, &relay), (&relay, &far), (&subscriber, &far)] {
        connect(a, b).await;
    }
    let topic: ContentTopic = "/app/20/sometopic/someencoding".parse().unwrap();
    let shard = publisher.pubsub_topic(&topic).unwrap();
    for (node, peers) in [(&service, 1), (&relay, 2), (&far, 1)] {
        node.wait_for_mesh(shard, peers, PATIENCE).await.unwrap();
    }
    let mut messages = subscriber.filter_subscribe(far.peer_id(), shard, [topic.clone()]).await.unwrap();

    let count = load.per_second as usize * usize::try_from(load.duration.as_secs()).unwrap();
    let start = tokio::time::Instant::now();
    let due = move |n: usize| start + Duration::from_secs(1) * u32::try_from(n).unwrap() / load.per_second;
    let pusher = tokio::spawn(async move {
        let mut pushes = Vec::with_capacity(count);
        for n in 0..count {
            tokio::time::sleep_until(due(n)).await;
            let (publisher, topic, peer) = (publisher.clone(), topic.clone(), service.peer_id());
            pushes.push(tokio::spawn(async move {
                let mut payload = vec![0x5a; load.bytes];
                payload[..8].copy_from_slice(&(n as u64).to_be_bytes());
                let message = WakuMessage::new(topic, payload, publisher.now());
                let sent = Instant::now();
                (sent, publisher.lightpush(peer, &LightPushRequest::new(None, message)).await)
            }));
        }
        let mut sent = Vec::with_capacity(count);
        let mut refused = 0;
        for push in pushes {
            let (at, result) = push.await.unwrap();
            refused += usize::from(result.is_err());
            sent.push(at);
        }
        (sent, refused)
    });

    let mut arrivals: Vec<Option<Instant>> = vec![None; count];
    let (mut received, mut twice) = (0, 0);
    let end = due(count) + PATIENCE;
    while received < count {
        let Ok(message) = tokio::time::timeout_at(end, messages.recv()).await else { break };
        let message = message.expect("the subscriber runs");
        let now = Instant::now();
        let n = u64::from_be_bytes(message.message.payload[..8].try_into().unwrap());
        let arrival = &mut arrivals[usize::try_from(n).unwrap()];
        if arrival.replace(now).is_some() {
            twice += 1;
        } else {
            received += 1;
        }
    }
    let (sent, refused) = pusher.await.unwrap();
    let arrived = sent.iter().zip(&arrivals).filter_map(|(sent, at)| at.map(|at| at.duration_since(*sent)));
    let mut latencies: Vec<_> = arrived.collect();
    latencies.sort_unstable();
    Report { sent: sent.len() - refused, refused, received, twice, latencies }
}
