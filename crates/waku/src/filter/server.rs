//! Keeping subscriptions, and pushing to them.

use std::{
    collections::{HashMap, HashSet},
    fmt::Debug,
    future::poll_fn,
    sync::{
        Arc, Mutex, MutexGuard, PoisonError, RwLock,
        atomic::{AtomicU64, Ordering},
    },
    time::Duration,
};

use async_trait::async_trait;
use libp2p::{PeerId, Stream};
use prost::{Message as _, bytes::Bytes};
use tokio::time::timeout;

use super::{FILTER_PUSH_PROTOCOL, FilterLimits, FilterStatus, MAX_TOPICS_PER_REQUEST};
use crate::{
    clock::Clock,
    node::{ReceivedMessage, WeakNodeHandle},
    proto::filter::v2::{
        FilterSubscribeRequest, FilterSubscribeResponse, MessagePush, filter_subscribe_request::FilterSubscribeType,
    },
    queue::Queue,
    rpc::{NOT_LISTENED, Refusal, RequestHandler, write_frame},
    store::MAX_REQUEST_ID_BYTES,
    topics::{ContentTopic, PubsubTopic},
};

/// A well-formed SUBSCRIBE at the gate.
#[derive(Clone, Debug)]
pub struct GatedSubscribe {
    /// Who asks.
    pub peer: PeerId,
    /// The shard.
    pub pubsub_topic: PubsubTopic,
    /// The content topics, 1 to 100.
    pub content_topics: Vec<ContentTopic>,
    /// Pairs of shard and content topic that the peer is subscribed to in all, if this is allowed.
    pub criteria: usize,
}

/// The gate's decision.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum FilterVerdict {
    /// Subscribe the peer.
    Allow,
    /// Don't.
    Refuse {
        /// Status of the response, e.g. [`FilterStatus::PAYMENT_REQUIRED`].
        status: FilterStatus,
        /// Why, in words that the user sees.
        desc: String,
    },
}

/// Decides who may subscribe; how a provider sells Filter. To end a subscription with its lease, call
/// [`crate::NodeHandle::filter_end`].
#[async_trait]
pub trait FilterGate: Debug + Send + Sync + 'static {
    /// Whether anything of this peer is judged at the moment. Asked before a request is read, and before the node's rates are charged: peers that are
    /// refused here use up nothing of what all peers share. Must answer at once.
    fn listens_to(&self, peer: &PeerId) -> bool {
        let _ = peer;
        true
    }

    /// Judges a SUBSCRIBE, also one that repeats an earlier one.
    async fn admit(&self, subscribe: &GatedSubscribe) -> FilterVerdict;
}

/// Counters of Filter pushes since the node's start.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct FilterStats {
    /// Peers that are subscribed.
    pub subscribers: usize,
    /// Messages pushed, counted per subscriber.
    pub pushed: u64,
    /// Messages that didn't reach a subscriber: it was away, too slow, or refused the stream.
    pub lost: u64,
}

#[derive(Debug)]
pub(crate) struct FilterServer {
    node: WeakNodeHandle,
    clock: Arc<dyn Clock>,
    limits: FilterLimits,
    gate: RwLock<Option<Arc<dyn FilterGate>>>,
    subscribers: Mutex<HashMap<PeerId, Subscriber>>,
    counters: Arc<Counters>,
}

#[derive(Debug, Default)]
struct Counters {
    pushed: AtomicU64,
    lost: AtomicU64,
}

#[derive(Debug)]
struct Subscriber {
    criteria: HashSet<(PubsubTopic, ContentTopic)>,
    /// Monotonic.
    expires: Duration,
    queue: Arc<Queue<Bytes>>,
}

impl Drop for Subscriber {
    /// Ends the pushing task.
    fn drop(&mut self) {
        while self.queue.pop().is_some() {}
        self.queue.close();
    }
}

/// Status and words of a response.
type Reply = (FilterStatus, String);

fn ok() -> Reply {
    (FilterStatus::OK, "OK".to_owned())
}

fn not_found() -> Reply {
    (FilterStatus::NOT_FOUND, "peer has no subscriptions".to_owned())
}

fn bad(reason: impl Into<String>) -> Reply {
    (FilterStatus::BAD_REQUEST, reason.into())
}

impl FilterServer {
    pub(crate) fn new(
        node: WeakNodeHandle,
        clock: Arc<dyn Clock>,
        limits: FilterLimits,
        gate: Option<Arc<dyn FilterGate>>,
    ) -> Self {
        Self { node, clock, limits, gate: RwLock::new(gate), subscribers: Mutex::default(), counters: Arc::default() }
    }

    pub(crate) const fn limits(&self) -> FilterLimits {
        self.limits
    }

    pub(crate) fn set_gate(&self, gate: Option<Arc<dyn FilterGate>>) {
        *self.gate.write().unwrap_or_else(PoisonError::into_inner) = gate;
    }

    fn lock(&self) -> MutexGuard<'_, HashMap<PeerId, Subscriber>> {
        self.subscribers.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Ends a peer's subscription. False if it has none.
    pub(crate) fn end(&self, peer: &PeerId) -> bool {
        self.lock().remove(peer).is_some()
    }

    /// Subscribed peers and how many pairs of shard and content topic each has.
    pub(crate) fn subscribers(&self) -> Vec<(PeerId, usize)> {
        let now = self.clock.monotonic();
        let subscribers = self.lock();
        let live = subscribers.iter().filter(|(_, subscriber)| subscriber.expires > now);
        live.map(|(peer, subscriber)| (*peer, subscriber.criteria.len())).collect()
    }

    fn criteria_with(&self, peer: &PeerId, pubsub_topic: PubsubTopic, content_topics: &[ContentTopic]) -> usize {
        let now = self.clock.monotonic();
        let subscribers = self.lock();
        let known = subscribers.get(peer).filter(|subscriber| subscriber.expires > now).map(|s| &s.criteria);
        let wanted: HashSet<_> = content_topics.iter().map(|topic| (pubsub_topic, topic.clone())).collect();
        let new = wanted.iter().filter(|c| known.is_none_or(|known| !known.contains(c))).count();
        known.map_or(0, HashSet::len) + new
    }

    /// Ends all subscriptions.
    pub(crate) fn clear(&self) {
        self.lock().clear();
    }

    /// Ends the subscriptions whose time is over.
    pub(crate) fn expire(&self) {
        let now = self.clock.monotonic();
        self.lock().retain(|_, subscriber| subscriber.expires > now);
    }

    pub(crate) fn stats(&self) -> FilterStats {
        FilterStats {
            subscribers: self.lock().len(),
            pushed: self.counters.pushed.load(Ordering::Relaxed),
            lost: self.counters.lost.load(Ordering::Relaxed),
        }
    }

    /// Queues a message for every peer that subscribed to its topics. Never waits.
    pub(crate) fn deliver(&self, received: &ReceivedMessage) {
        let now = self.clock.monotonic();
        let criterion = (received.pubsub_topic, received.message.content_topic.clone());
        let mut frame = None;
        for subscriber in self.lock().values() {
            if subscriber.expires <= now || !subscriber.criteria.contains(&criterion) {
                continue;
            }
            let frame = frame.get_or_insert_with(|| {
                let push = MessagePush {
                    waku_message: Some(received.message.as_ref().clone().into()),
                    pubsub_topic: Some(received.pubsub_topic.to_string()),
                };
                Bytes::from(push.encode_to_vec())
            });
            let dropped = subscriber.queue.dropped();
            subscriber.queue.push(frame.clone(), frame.len());
            self.counters.lost.fetch_add(subscriber.queue.dropped() - dropped, Ordering::Relaxed);
        }
    }

    async fn answer(&self, peer: PeerId, bytes: &[u8]) -> Bytes {
        let Ok(request) = FilterSubscribeRequest::decode(bytes) else {
            return encode("N/A".to_owned(), bad("the request is not a protobuf FilterSubscribeRequest"));
        };
        if request.request_id.is_empty() || request.request_id.len() > MAX_REQUEST_ID_BYTES {
            return encode("N/A".to_owned(), bad(format!("request_id must have 1 to {MAX_REQUEST_ID_BYTES} bytes")));
        }
        let id = request.request_id.clone();
        let reply = match FilterSubscribeType::try_from(request.filter_subscribe_type) {
            Ok(FilterSubscribeType::SubscriberPing) => self.ping(peer),
            Ok(FilterSubscribeType::Subscribe) => self.subscribe(peer, request).await,
            Ok(FilterSubscribeType::Unsubscribe) => self.unsubscribe(peer, request),
            Ok(FilterSubscribeType::UnsubscribeAll) => {
                if self.end(&peer) {
                    ok()
                } else {
                    not_found()
                }
            }
            Err(_) => bad("the filter_subscribe_type is unknown"),
        };
        encode(id, reply)
    }

    fn ping(&self, peer: PeerId) -> Reply {
        let now = self.clock.monotonic();
        match self.lock().get_mut(&peer) {
            Some(subscriber) if subscriber.expires > now => {
                subscriber.expires = now + self.limits.ttl;
                ok()
            }
            _ => not_found(),
        }
    }

    async fn subscribe(&self, peer: PeerId, request: FilterSubscribeRequest) -> Reply {
        let (pubsub_topic, content_topics) = match criteria(request) {
            Ok(criteria) => criteria,
            Err(reason) => return bad(reason),
        };
        let Some(node) = self.node.upgrade() else {
            return (FilterStatus::SERVICE_UNAVAILABLE, "the node is stopping".to_owned());
        };
        if pubsub_topic.cluster != node.cluster() || !node.shards().contains(&pubsub_topic.shard) {
            return bad(format!("this node doesn't relay {pubsub_topic}"));
        }
        let gate = self.gate.read().unwrap_or_else(PoisonError::into_inner).clone();
        let criteria = self.criteria_with(&peer, pubsub_topic, &content_topics);
        let subscribe = GatedSubscribe { peer, pubsub_topic, content_topics, criteria };
        if let Some(gate) = gate
            && let FilterVerdict::Refuse { status, desc } = gate.admit(&subscribe).await
        {
            return (status, desc);
        }
        let now = self.clock.monotonic();
        let mut subscribers = self.lock();
        subscribers.retain(|_, subscriber| subscriber.expires > now);
        let full = subscribers.len() >= self.limits.max_subscribers;
        let known = subscribers.get(&peer).map(|subscriber| &subscriber.criteria);
        if known.is_none() && full {
            return (FilterStatus::SERVICE_UNAVAILABLE, "the node has no room for more subscribers".to_owned());
        }
        let wanted: HashSet<_> =
            subscribe.content_topics.into_iter().map(|topic| (subscribe.pubsub_topic, topic)).collect();
        let new = wanted.iter().filter(|c| known.is_none_or(|known| !known.contains(c))).count();
        let all = known.map_or(0, HashSet::len) + new;
        if all > self.limits.max_criteria {
            let desc = format!("{all} content topics, at most {} are allowed", self.limits.max_criteria);
            return (FilterStatus::SERVICE_UNAVAILABLE, desc);
        }
        let subscriber = subscribers.entry(peer).or_insert_with(|| {
            let queue = Arc::new(Queue::new(self.limits.queue_messages, self.limits.queue_bytes));
            let pusher = Pusher {
                node: self.node.clone(),
                peer,
                queue: queue.clone(),
                timeout: self.limits.push_timeout,
                counters: self.counters.clone(),
            };
            tokio::spawn(pusher.run());
            Subscriber { criteria: HashSet::new(), expires: now, queue }
        });
        subscriber.expires = now + self.limits.ttl;
        subscriber.criteria.extend(wanted);
        ok()
    }

    fn unsubscribe(&self, peer: PeerId, request: FilterSubscribeRequest) -> Reply {
        let (pubsub_topic, content_topics) = match criteria(request) {
            Ok(criteria) => criteria,
            Err(reason) => return bad(reason),
        };
        let now = self.clock.monotonic();
        let mut subscribers = self.lock();
        let Some(subscriber) = subscribers.get_mut(&peer).filter(|subscriber| subscriber.expires > now) else {
            return not_found();
        };
        for topic in content_topics {
            subscriber.criteria.remove(&(pubsub_topic, topic));
        }
        subscriber.expires = now + self.limits.ttl;
        if subscriber.criteria.is_empty() {
            subscribers.remove(&peer);
        }
        ok()
    }
}

pub(crate) fn criteria(request: FilterSubscribeRequest) -> Result<(PubsubTopic, Vec<ContentTopic>), String> {
    let (Some(topic), false) = (request.pubsub_topic, request.content_topics.is_empty()) else {
        return Err("pubsub_topic and content_topics must both be set".to_owned());
    };
    let count = request.content_topics.len();
    if count > MAX_TOPICS_PER_REQUEST {
        return Err(format!("{count} content topics, at most {MAX_TOPICS_PER_REQUEST} are allowed in a request"));
    }
    let topic = topic.parse::<PubsubTopic>().map_err(|e| e.to_string())?;
    Ok((topic, request.content_topics.into_iter().map(ContentTopic::opaque).collect()))
}

fn encode(request_id: String, (status, desc): Reply) -> Bytes {
    FilterSubscribeResponse { request_id, status_code: status.0, status_desc: Some(desc) }.encode_to_vec().into()
}

#[async_trait]
impl RequestHandler for FilterServer {
    async fn handle(&self, peer: PeerId, request: Bytes) -> Option<Bytes> {
        Some(self.answer(peer, &request).await)
    }

    fn listens_to(&self, peer: &PeerId) -> bool {
        let gate = self.gate.read().unwrap_or_else(PoisonError::into_inner);
        gate.as_ref().is_none_or(|gate| gate.listens_to(peer))
    }

    fn refuse(&self, refusal: Refusal) -> Option<Bytes> {
        let reply = match refusal {
            Refusal::NotListened => (FilterStatus::TOO_MANY_REQUESTS, NOT_LISTENED.to_owned()),
            Refusal::RateLimited => (FilterStatus::TOO_MANY_REQUESTS, "too many requests".to_owned()),
            Refusal::Busy => (FilterStatus::TOO_MANY_REQUESTS, "too many requests at the same time".to_owned()),
            Refusal::TooLarge { len, max } => bad(format!("the request has {len} bytes, at most {max} are allowed")),
            Refusal::Malformed => bad("the request's length prefix is malformed"),
            Refusal::HandlerTimeout => (FilterStatus::SERVICE_UNAVAILABLE, "subscribing took too long".to_owned()),
        };
        Some(encode("N/A".to_owned(), reply))
    }
}

/// Pushes to one subscriber over one stream, until its queue is closed.
struct Pusher {
    node: WeakNodeHandle,
    peer: PeerId,
    queue: Arc<Queue<Bytes>>,
    timeout: Duration,
    counters: Arc<Counters>,
}

impl Pusher {
    async fn run(self) {
        let mut stream = None;
        while let Some(frame) = poll_fn(|cx| self.queue.poll_pop(cx)).await {
            // A stream that broke since the last message is replaced, once.
            let old = stream.is_some();
            let mut pushed = self.push(&mut stream, &frame).await;
            if !pushed && old {
                pushed = self.push(&mut stream, &frame).await;
            }
            let counter = if pushed { &self.counters.pushed } else { &self.counters.lost };
            counter.fetch_add(1, Ordering::Relaxed);
        }
    }

    async fn push(&self, stream: &mut Option<Stream>, frame: &[u8]) -> bool {
        let work = async {
            if stream.is_none() {
                let node = self.node.upgrade()?;
                *stream = Some(node.open_stream(self.peer, FILTER_PUSH_PROTOCOL).await.ok()?);
            }
            write_frame(stream.as_mut()?, frame).await.ok()
        };
        let pushed = matches!(timeout(self.timeout, work).await, Ok(Some(())));
        if !pushed {
            *stream = None;
        }
        pushed
    }
}
