//! Publishing for others.

use std::{
    fmt::Debug,
    sync::{Arc, PoisonError, RwLock},
};

use async_trait::async_trait;
use libp2p::PeerId;
use prost::{Message as _, bytes::Bytes};

use super::{
    LightPushRequest, LightPushStatus, lightpush_bytes_without_proof,
    types::{Problem, UNREAD_ID},
};
use crate::{
    error::PublishError,
    node::WeakNodeHandle,
    proto::lightpush::{v2, v3},
    rpc::{NOT_LISTENED, Refusal, RequestHandler},
    topics::TopicError,
};

/// A well-formed push at the gate, before anything is published.
#[derive(Clone, Debug)]
pub struct GatedPush {
    /// Who asks.
    pub peer: PeerId,
    /// The request, with its proof. Its pubsub topic is set.
    pub request: LightPushRequest,
    /// Field 22: the serialized `EligibilityProof`; version 2 has none.
    pub eligibility_proof: Option<Bytes>,
    /// What a payment's signature covers: [`lightpush_bytes_without_proof`] of the request as it came.
    pub signed_bytes: Bytes,
}

/// The gate's decision.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum LightPushVerdict {
    /// Publish.
    Allow,
    /// Don't.
    Refuse {
        /// Status of the response, e.g. [`LightPushStatus::PAYMENT_REQUIRED`].
        status: LightPushStatus,
        /// Why, in words that the user sees.
        desc: String,
    },
}

/// Decides whether a message is published for a peer; how a provider sells lightpush.
#[async_trait]
pub trait LightPushGate: Debug + Send + Sync + 'static {
    /// Whether anything of this peer is judged at the moment. Asked before a request is read, and before the node's rates are charged: peers that are
    /// refused here use up nothing of what all peers share. Must answer at once.
    fn listens_to(&self, peer: &PeerId) -> bool {
        let _ = peer;
        true
    }

    /// Judges a push. Called once for each well-formed request, before publishing. What it spends must be durable
    /// when it returns.
    async fn admit(&self, push: &GatedPush) -> LightPushVerdict;

    /// Told about each allowed push when it is over.
    async fn served(&self, push: &GatedPush, status: LightPushStatus) {
        let _ = (push, status);
    }
}

/// What both versions do.
#[derive(Debug)]
pub(crate) struct LightPushService {
    node: WeakNodeHandle,
    gate: RwLock<Option<Arc<dyn LightPushGate>>>,
}

struct Outcome {
    request_id: String,
    status: LightPushStatus,
    desc: String,
    relay_peers: Option<u32>,
}

impl LightPushService {
    pub(crate) fn new(node: WeakNodeHandle, gate: Option<Arc<dyn LightPushGate>>) -> Self {
        Self { node, gate: RwLock::new(gate) }
    }

    pub(crate) fn set_gate(&self, gate: Option<Arc<dyn LightPushGate>>) {
        *self.gate.write().unwrap_or_else(PoisonError::into_inner) = gate;
    }

    fn listens_to(&self, peer: &PeerId) -> bool {
        let gate = self.gate.read().unwrap_or_else(PoisonError::into_inner);
        gate.as_ref().is_none_or(|gate| gate.listens_to(peer))
    }

    async fn push(&self, peer: PeerId, request: Result<LightPushRequest, Problem>) -> Outcome {
        let mut request = match request {
            Ok(request) => request,
            Err(Problem { request_id, status, reason }) => {
                return Outcome { request_id, status, desc: reason, relay_peers: None };
            }
        };
        let refusal =
            |request_id: String, status, desc: String| Outcome { request_id, status, desc, relay_peers: None };
        let Some(node) = self.node.upgrade() else {
            let desc = "the node is stopping".to_owned();
            return refusal(request.request_id, LightPushStatus::SERVICE_NOT_AVAILABLE, desc);
        };
        let signed_bytes = lightpush_bytes_without_proof(&request);
        let topic = match request.pubsub_topic {
            Some(topic) if topic.cluster != node.cluster() => {
                let desc = format!("{topic} is in another cluster than this node's, {}", node.cluster());
                return refusal(request.request_id, LightPushStatus::UNSUPPORTED_PUBSUB_TOPIC, desc);
            }
            Some(topic) => topic,
            None => match node.pubsub_topic(&request.message.content_topic) {
                Ok(topic) => topic,
                Err(e) => {
                    let desc = match e {
                        TopicError::StaticSharding => {
                            "the pubsub topic is missing, and this network doesn't autoshard".to_owned()
                        }
                        e => e.to_string(),
                    };
                    return refusal(request.request_id, LightPushStatus::INVALID_MESSAGE, desc);
                }
            },
        };
        if !node.shards().contains(&topic.shard) {
            let desc = format!("this node doesn't relay {topic}");
            return refusal(request.request_id, LightPushStatus::UNSUPPORTED_PUBSUB_TOPIC, desc);
        }
        if let Err(e) = request.message.validate(node.now()) {
            return refusal(request.request_id, LightPushStatus::of_message(&e), e.to_string());
        }
        if node.peers_on_topic(topic).await == 0 {
            // Before the gate: what can't be published costs nobody a ticket.
            let error = PublishError::NoPeers { topic };
            return refusal(request.request_id, LightPushStatus::of(&error), error.to_string());
        }
        request.pubsub_topic = Some(topic);
        let gate = self.gate.read().unwrap_or_else(PoisonError::into_inner).clone();
        let gated = GatedPush { peer, eligibility_proof: request.eligibility_proof.clone(), signed_bytes, request };
        if let Some(gate) = &gate
            && let LightPushVerdict::Refuse { status, desc } = gate.admit(&gated).await
        {
            return refusal(gated.request.request_id, status, desc);
        }
        let unarchived = node.stats().archive_lost;
        let published = node.publish_to(topic, gated.request.message.clone()).await;
        if published.is_ok() {
            // Who is told OK, and asks the same node's Store, finds the message: whatever happens to this process.
            node.flush_archive().await;
        }
        let outcome = match published {
            Ok(_) if node.stats().archive_lost > unarchived => {
                let desc = "it was published, but could not be archived".to_owned();
                refusal(gated.request.request_id.clone(), LightPushStatus::SERVICE_NOT_AVAILABLE, desc)
            }
            Ok(published) => Outcome {
                request_id: gated.request.request_id.clone(),
                status: LightPushStatus::OK,
                desc: "OK".to_owned(),
                relay_peers: Some(u32::try_from(published.relay_peers.max(1)).unwrap_or(u32::MAX)),
            },
            Err(e) => refusal(gated.request.request_id.clone(), LightPushStatus::of(&e), e.to_string()),
        };
        if let Some(gate) = &gate {
            gate.served(&gated, outcome.status).await;
        }
        outcome
    }
}

fn refused(refusal: Refusal) -> Outcome {
    let (status, desc) = match refusal {
        Refusal::NotListened => (LightPushStatus::TOO_MANY_REQUESTS, NOT_LISTENED.to_owned()),
        Refusal::RateLimited => (LightPushStatus::TOO_MANY_REQUESTS, "too many requests".to_owned()),
        Refusal::Busy => (LightPushStatus::TOO_MANY_REQUESTS, "too many requests at the same time".to_owned()),
        Refusal::TooLarge { len, max } => {
            (LightPushStatus::PAYLOAD_TOO_LARGE, format!("the request has {len} bytes, at most {max} are allowed"))
        }
        Refusal::Malformed => (LightPushStatus::BAD_REQUEST, "the request's length prefix is malformed".to_owned()),
        Refusal::HandlerTimeout => (LightPushStatus::SERVICE_NOT_AVAILABLE, "publishing took too long".to_owned()),
    };
    Outcome { request_id: UNREAD_ID.to_owned(), status, desc, relay_peers: None }
}

#[derive(Debug)]
pub(crate) struct LightPushServer(pub(crate) Arc<LightPushService>);

impl LightPushServer {
    fn encode(outcome: Outcome) -> Bytes {
        v3::LightPushResponse {
            request_id: outcome.request_id,
            status_code: outcome.status.0,
            status_desc: Some(outcome.desc),
            relay_peer_count: outcome.relay_peers,
        }
        .encode_to_vec()
        .into()
    }
}

#[async_trait]
impl RequestHandler for LightPushServer {
    async fn handle(&self, peer: PeerId, request: Bytes) -> Option<Bytes> {
        Some(Self::encode(self.0.push(peer, LightPushRequest::decode(&request)).await))
    }

    fn listens_to(&self, peer: &PeerId) -> bool {
        self.0.listens_to(peer)
    }

    fn refuse(&self, refusal: Refusal) -> Option<Bytes> {
        Some(Self::encode(refused(refusal)))
    }
}

#[derive(Debug)]
pub(crate) struct LightPushServerV2(pub(crate) Arc<LightPushService>);

impl LightPushServerV2 {
    fn encode(outcome: Outcome) -> Bytes {
        let info = match outcome.status {
            LightPushStatus::TOO_MANY_REQUESTS => "TOO_MANY_REQUESTS".to_owned(),
            _ => outcome.desc,
        };
        v2::PushRpc {
            request_id: outcome.request_id,
            request: None,
            response: Some(v2::PushResponse { is_success: outcome.status == LightPushStatus::OK, info }),
        }
        .encode_to_vec()
        .into()
    }
}

#[async_trait]
impl RequestHandler for LightPushServerV2 {
    async fn handle(&self, peer: PeerId, request: Bytes) -> Option<Bytes> {
        Some(Self::encode(self.0.push(peer, LightPushRequest::decode_v2(&request)).await))
    }

    fn listens_to(&self, peer: &PeerId) -> bool {
        self.0.listens_to(peer)
    }

    fn refuse(&self, refusal: Refusal) -> Option<Bytes> {
        Some(Self::encode(refused(refusal)))
    }
}
