//! Relay (11/WAKU2-RELAY): gossipsub 1.1 under Waku's protocol id, without authorship, with the mesh and score
//! parameters that deployed Waku nodes use.

use std::{
    collections::{HashMap, HashSet, VecDeque},
    time::Duration,
};

use libp2p::gossipsub::{
    self, ConfigBuilder, IdentTopic, IdentityTransform, MaxCountSubscriptionFilter, MessageAcceptance,
    MessageAuthenticity, MessageId, PeerScoreParams, PeerScoreThresholds, TopicHash, TopicScoreParams, ValidationMode,
    Version, WhitelistSubscriptionFilter,
};
use sha2::{Digest, Sha256};

use crate::{
    clock::Timestamp,
    error::NodeError,
    message::{MAX_MESSAGE_BYTES, MessageError, MessageHash, WakuMessage},
    topics::{MAX_SHARDS_PER_CLUSTER, PubsubTopic},
};

/// Protocol id of relay.
pub const RELAY_PROTOCOL: &str = "/vac/waku/relay/2.0.0";

/// Below this score a peer is ignored, and disconnected.
pub(crate) const GRAYLIST_THRESHOLD: f64 = -10_000.0;

/// How long messages are remembered, so that each is seen once.
pub(crate) const SEEN_TTL: Duration = Duration::from_secs(120);

/// Messages remembered by their deterministic hash.
const MAX_SEEN: usize = 65_536;

/// Room of an RPC beside one message of the largest size: topic, framing, control messages.
const RPC_OVERHEAD: usize = 64 * 1024;

pub(crate) type Behaviour =
    gossipsub::Behaviour<IdentityTransform, MaxCountSubscriptionFilter<WhitelistSubscriptionFilter>>;

pub(crate) fn topic(topic: PubsubTopic) -> IdentTopic {
    IdentTopic::new(topic.to_string())
}

pub(crate) fn topic_hash(topic: PubsubTopic) -> TopicHash {
    TopicHash::from_raw(topic.to_string())
}

/// Makes the behaviour and joins `joined`. `known` are the topics whose subscribers are remembered.
/// `colocation_limit` is how many peers may share an address before their score suffers; `None` for any number.
pub(crate) fn behaviour(
    joined: &[PubsubTopic],
    known: &[PubsubTopic],
    colocation_limit: Option<u32>,
) -> Result<Behaviour, NodeError> {
    let wrong = |reason: String| NodeError::Config { setting: "relay", reason };
    let config = ConfigBuilder::default()
        .protocol_id(RELAY_PROTOCOL, Version::V1_1)
        .validation_mode(ValidationMode::Anonymous)
        .validate_messages()
        .message_id_fn(|message| MessageId::new(&Sha256::digest(&message.data)))
        .max_transmit_size(MAX_MESSAGE_BYTES + RPC_OVERHEAD)
        .mesh_n(6)
        .mesh_n_low(4)
        .mesh_n_high(8)
        .mesh_outbound_min(3)
        .gossip_lazy(6)
        .retain_scores(6)
        .gossip_factor(0.25)
        .heartbeat_initial_delay(Duration::from_millis(100))
        .heartbeat_interval(Duration::from_secs(1))
        .history_length(6)
        .history_gossip(3)
        .fanout_ttl(Duration::from_secs(60))
        .prune_backoff(Duration::from_secs(60))
        .unsubscribe_backoff(Duration::from_secs(5))
        .duplicate_cache_time(SEEN_TTL)
        .flood_publish(true)
        .max_publish_messages(500)
        .connection_handler_queue_len(1000)
        .build()
        .map_err(|e| wrong(e.to_string()))?;
    let filter = MaxCountSubscriptionFilter {
        filter: WhitelistSubscriptionFilter(known.iter().chain(joined).map(|t| topic_hash(*t)).collect::<HashSet<_>>()),
        max_subscribed_topics: usize::from(MAX_SHARDS_PER_CLUSTER),
        max_subscriptions_per_request: usize::from(MAX_SHARDS_PER_CLUSTER),
    };
    let mut behaviour = Behaviour::new_with_subscription_filter(MessageAuthenticity::Anonymous, config, filter)
        .map_err(|e| wrong(e.to_owned()))?;
    let topics = known.iter().chain(joined).map(|t| (topic_hash(*t), topic_score())).collect();
    behaviour.with_peer_score(score(topics, colocation_limit), thresholds()).map_err(wrong)?;
    for t in joined {
        behaviour.subscribe(&topic(*t)).map_err(|e| wrong(e.to_string()))?;
    }
    Ok(behaviour)
}

fn thresholds() -> PeerScoreThresholds {
    PeerScoreThresholds {
        gossip_threshold: -100.0,
        publish_threshold: -1000.0,
        graylist_threshold: GRAYLIST_THRESHOLD,
        accept_px_threshold: 0.0,
        opportunistic_graft_threshold: 0.0,
    }
}

fn score(topics: HashMap<TopicHash, TopicScoreParams>, colocation_limit: Option<u32>) -> PeerScoreParams {
    PeerScoreParams {
        topics,
        topic_score_cap: 0.0,
        app_specific_weight: 0.0,
        ip_colocation_factor_weight: if colocation_limit.is_some() { -50.0 } else { 0.0 },
        ip_colocation_factor_threshold: f64::from(colocation_limit.unwrap_or(5).max(1)),
        ip_colocation_factor_whitelist: HashSet::new(),
        behaviour_penalty_weight: -10.0,
        behaviour_penalty_threshold: 0.0,
        behaviour_penalty_decay: 0.986,
        decay_interval: Duration::from_secs(12),
        decay_to_zero: 0.01,
        retain_score: Duration::from_secs(10 * 60),
        slow_peer_weight: -0.2,
        slow_peer_threshold: 0.0,
        slow_peer_decay: 0.2,
    }
}

fn topic_score() -> TopicScoreParams {
    TopicScoreParams {
        topic_weight: 1.0,
        time_in_mesh_weight: 0.01,
        time_in_mesh_quantum: Duration::from_secs(1),
        time_in_mesh_cap: 10.0,
        first_message_deliveries_weight: 1.0,
        first_message_deliveries_decay: 0.5,
        first_message_deliveries_cap: 10.0,
        mesh_message_deliveries_weight: 0.0,
        mesh_message_deliveries_decay: 0.0,
        mesh_message_deliveries_cap: 0.0,
        mesh_message_deliveries_threshold: 0.0,
        mesh_message_deliveries_window: Duration::ZERO,
        mesh_message_deliveries_activation: Duration::ZERO,
        mesh_failure_penalty_weight: 0.0,
        mesh_failure_penalty_decay: 0.0,
        invalid_message_deliveries_weight: -100.0,
        invalid_message_deliveries_decay: 0.5,
    }
}

/// Judges a relayed message, as 64/WAKU2-NETWORK says: what can't be decoded or lies out of time is rejected, and
/// lowers its bearer's score. A message without a timestamp is valid to deployed nodes, so it is only ignored.
pub(crate) fn validate(data: &[u8], now: Timestamp) -> Result<WakuMessage, (MessageAcceptance, MessageError)> {
    let message = WakuMessage::decode(data).map_err(|e| (MessageAcceptance::Reject, e))?;
    match message.validate(now) {
        Ok(()) => Ok(message),
        Err(e @ MessageError::TimestampMissing) => Err((MessageAcceptance::Ignore, e)),
        Err(e) => Err((MessageAcceptance::Reject, e)),
    }
}

/// Deterministic hashes seen lately. Gossipsub tells duplicates by the bytes of a message, which anybody can vary
/// (unknown fields, explicit defaults) without changing its meaning; this tells them by their meaning.
#[derive(Debug, Default)]
pub(crate) struct Seen {
    hashes: HashSet<MessageHash>,
    order: VecDeque<(Duration, MessageHash)>,
}

impl Seen {
    /// True if the hash is new at `now` (monotonic).
    pub(crate) fn insert(&mut self, hash: MessageHash, now: Duration) -> bool {
        while let Some((at, oldest)) = self.order.front() {
            if now.saturating_sub(*at) <= SEEN_TTL && self.order.len() < MAX_SEEN {
                break;
            }
            self.hashes.remove(oldest);
            self.order.pop_front();
        }
        let new = self.hashes.insert(hash);
        if new {
            self.order.push_back((now, hash));
        }
        new
    }

    pub(crate) fn contains(&self, hash: &MessageHash) -> bool {
        self.hashes.contains(hash)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::topics::ContentTopic;

    #[test]
    fn parameters_are_valid() {
        let topic: PubsubTopic = "/waku/2/rs/1/0".parse().unwrap();
        for colocation in [None, Some(0), Some(5)] {
            behaviour(&[topic], &[topic], colocation).unwrap();
        }
    }

    #[test]
    fn verdicts() {
        let now = Timestamp::from_secs(1_700_000_000);
        let message = WakuMessage::new(ContentTopic::opaque("/a/1/n/p"), vec![1], now);
        assert_eq!(validate(&message.encode(), now).unwrap(), message);
        let (verdict, e) = validate(&[0xff], now).unwrap_err();
        assert!(matches!((verdict, e), (MessageAcceptance::Reject, MessageError::Malformed)));
        let late = now.saturating_add(Duration::from_secs(21));
        let (verdict, e) = validate(&message.encode(), late).unwrap_err();
        assert!(matches!((verdict, e), (MessageAcceptance::Reject, MessageError::TimestampSkew { .. })));
        let message = WakuMessage { timestamp: None, ..message };
        let (verdict, e) = validate(&message.encode(), now).unwrap_err();
        assert!(matches!((verdict, e), (MessageAcceptance::Ignore, MessageError::TimestampMissing)));
    }

    #[test]
    fn seen_is_bounded_in_time_and_number() {
        let mut seen = Seen::default();
        let hash = |n: u32| {
            let mut bytes = [0; 32];
            bytes[..4].copy_from_slice(&n.to_be_bytes());
            MessageHash::from_bytes(bytes)
        };
        assert!(seen.insert(hash(0), Duration::ZERO));
        assert!(!seen.insert(hash(0), SEEN_TTL));
        assert!(seen.insert(hash(0), SEEN_TTL + Duration::from_nanos(1)));
        for n in 0..2 * u32::try_from(MAX_SEEN).unwrap() {
            seen.insert(hash(n), SEEN_TTL + Duration::from_nanos(1));
            assert!(seen.order.len() <= MAX_SEEN && seen.hashes.len() == seen.order.len());
        }
        assert!(!seen.contains(&hash(0)));
        assert!(seen.contains(&hash(2 * u32::try_from(MAX_SEEN).unwrap() - 1)));
    }
}
