//! Subscribing at a service node, and taking its pushes.

use std::{
    collections::{HashMap, HashSet},
    fmt,
    pin::Pin,
    sync::{
        Arc, Mutex, MutexGuard, PoisonError,
        atomic::{AtomicBool, AtomicU64, Ordering},
    },
    task::{Context, Poll},
    time::Duration,
};

use async_trait::async_trait;
use futures::{Stream, StreamExt as _};
use libp2p::PeerId;
use prost::{Message as _, bytes::Bytes};
use tokio::{
    sync::{Notify, watch},
    time::{MissedTickBehavior, interval},
};
use tokio_util::sync::{CancellationToken, DropGuard};

use super::{
    FILTER_SUBSCRIBE_PROTOCOL, FilterError, FilterStatus, MAX_PUSH_BYTES, MAX_TOPICS_PER_REQUEST, request_limits,
};
use crate::{
    clock::Clock,
    message::WakuMessage,
    node::{NodeHandle, ReceivedMessage, WeakNodeHandle},
    proto::filter::v2::{
        FilterSubscribeRequest, FilterSubscribeResponse, MessagePush, filter_subscribe_request::FilterSubscribeType,
    },
    queue::Queue,
    relay::Seen,
    rpc::{StreamHandler, read_frame},
    topics::{ContentTopic, PubsubTopic},
};

/// How often a subscription is refreshed.
const PING_INTERVAL: Duration = Duration::from_secs(60);

/// How often a lost subscription is asked for again.
const RETRY_INTERVAL: Duration = Duration::from_secs(5);

/// Whether pushes can be expected.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum FilterHealth {
    /// The service node confirmed the subscription.
    Subscribed,
    /// It didn't, or was away; the subscription is asked for again every few seconds. What was published
    /// meanwhile can be had from Store.
    Lost {
        /// What it said, or what went wrong.
        reason: String,
    },
}

/// The process's subscriptions at service nodes.
#[derive(Debug)]
pub(crate) struct FilterClient {
    clock: Arc<dyn Clock>,
    open: Mutex<Open>,
    max_messages: usize,
    max_bytes: usize,
    max_open: usize,
    unexpected: AtomicU64,
}

#[derive(Debug, Default)]
struct Open {
    next: u64,
    entries: HashMap<u64, Entry>,
}

#[derive(Debug)]
struct Entry {
    peer: PeerId,
    pubsub_topic: PubsubTopic,
    content_topics: HashSet<ContentTopic>,
    queue: Arc<Queue<ReceivedMessage>>,
    seen: Seen,
    link: Arc<Link>,
}

/// What a subscription learns of its connection.
#[derive(Debug, Default)]
struct Link {
    /// The connection that the service node knew it by is gone, so the subscription may be forgotten there.
    doubtful: AtomicBool,
    /// Something has changed: look now.
    changed: Notify,
}

impl Link {
    fn doubt(&self) {
        self.doubtful.store(true, Ordering::SeqCst);
        self.changed.notify_one();
    }
}

impl FilterClient {
    pub(crate) fn new(clock: Arc<dyn Clock>, max_open: usize, max_messages: usize, max_bytes: usize) -> Self {
        Self { clock, open: Mutex::default(), max_messages, max_bytes, max_open, unexpected: AtomicU64::new(0) }
    }

    fn lock(&self) -> MutexGuard<'_, Open> {
        self.open.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Ends all subscriptions of the process.
    pub(crate) fn close(&self) {
        for entry in self.lock().entries.values() {
            entry.queue.close();
        }
    }

    /// The last connection to a peer is gone.
    pub(crate) fn disconnected(&self, peer: PeerId) {
        for entry in self.lock().entries.values().filter(|entry| entry.peer == peer) {
            entry.link.doubt();
        }
    }

    /// A peer can be asked (again).
    pub(crate) fn connected(&self, peer: PeerId) {
        for entry in self.lock().entries.values().filter(|entry| entry.peer == peer) {
            entry.link.changed.notify_one();
        }
    }

    /// Pushes that nobody asked for.
    pub(crate) fn unexpected(&self) -> u64 {
        self.unexpected.load(Ordering::Relaxed)
    }

    fn expects(&self, peer: PeerId) -> bool {
        self.lock().entries.values().any(|entry| entry.peer == peer)
    }

    fn deliver(&self, peer: PeerId, received: &ReceivedMessage) {
        let now = self.clock.monotonic();
        let mut wanted = false;
        for entry in self.lock().entries.values_mut() {
            if entry.peer == peer
                && entry.pubsub_topic == received.pubsub_topic
                && entry.content_topics.contains(&received.message.content_topic)
            {
                wanted = true;
                if entry.seen.insert(received.hash, now) {
                    entry.queue.push(received.clone(), received.message.payload.len());
                }
            }
        }
        if !wanted {
            self.unexpected.fetch_add(1, Ordering::Relaxed);
        }
    }

    /// Topics of `topics` that no other subscription at the peer wants.
    fn unused(&self, id: u64, peer: PeerId, pubsub_topic: PubsubTopic) -> Vec<ContentTopic> {
        let mut open = self.lock();
        let Some(entry) = open.entries.remove(&id) else { return Vec::new() };
        let others: Vec<_> =
            open.entries.values().filter(|other| other.peer == peer && other.pubsub_topic == pubsub_topic).collect();
        entry
            .content_topics
            .into_iter()
            .filter(|topic| !others.iter().any(|other| other.content_topics.contains(topic)))
            .collect()
    }
}

/// Takes pushes.
#[async_trait]
impl StreamHandler for FilterClient {
    async fn stream(&self, peer: PeerId, mut stream: libp2p::Stream) {
        // Read with a pause as long as the server likes: the stream is kept open between messages.
        while self.expects(peer) {
            let Ok(frame) = read_frame(&mut stream, MAX_PUSH_BYTES).await else { return };
            let Ok(push) = MessagePush::decode(frame) else { return };
            let topic = push.pubsub_topic.as_deref().and_then(|topic| topic.parse::<PubsubTopic>().ok());
            let message = push.waku_message.and_then(|message| WakuMessage::try_from(message).ok());
            let (Some(pubsub_topic), Some(message)) = (topic, message) else {
                self.unexpected.fetch_add(1, Ordering::Relaxed);
                continue;
            };
            let hash = message.hash(pubsub_topic);
            self.deliver(peer, &ReceivedMessage { pubsub_topic, message: Arc::new(message), hash });
        }
    }
}

/// Messages of chosen content topics from one service node, each once. Kept up by a ping each minute, and asked for
/// again when the node forgot it or was away. A slow reader loses the oldest messages.
pub struct FilterSubscription {
    id: u64,
    peer: PeerId,
    pubsub_topic: PubsubTopic,
    queue: Arc<Queue<ReceivedMessage>>,
    health: watch::Receiver<FilterHealth>,
    client: Arc<FilterClient>,
    link: Arc<Link>,
    node: WeakNodeHandle,
    _keeping: DropGuard,
}

impl FilterSubscription {
    /// The service node.
    #[must_use]
    pub const fn peer(&self) -> PeerId {
        self.peer
    }

    /// The next message; `None` after the node's shutdown.
    pub async fn recv(&mut self) -> Option<ReceivedMessage> {
        self.next().await
    }

    /// The next message, if one is there.
    pub fn try_recv(&mut self) -> Option<ReceivedMessage> {
        self.queue.pop()
    }

    /// Messages lost because they weren't read in time.
    #[must_use]
    pub fn dropped(&self) -> u64 {
        self.queue.dropped()
    }

    /// Whether pushes can be expected, as far as is known.
    #[must_use]
    pub fn health(&self) -> FilterHealth {
        self.health.borrow().clone()
    }

    /// Tells of changes of the health.
    #[must_use]
    pub fn watch_health(&self) -> watch::Receiver<FilterHealth> {
        self.health.clone()
    }

    /// Asks for the subscription again now, because what kept it from being accepted has changed, say.
    pub fn subscribe_again(&self) {
        self.link.doubt();
    }

    /// Ends the subscription, here and at the service node. (Dropping it ends it here; there it ends by itself within
    /// minutes.)
    ///
    /// # Errors
    /// [`FilterError`] of the request; the subscription is ended here anyway.
    pub async fn unsubscribe(self) -> Result<(), FilterError> {
        let topics = self.client.unused(self.id, self.peer, self.pubsub_topic);
        match self.node.upgrade() {
            Some(node) if !topics.is_empty() => {
                let kind = FilterSubscribeType::Unsubscribe;
                request(&node, self.peer, kind, Some(self.pubsub_topic), &topics).await
            }
            _ => Ok(()),
        }
    }
}

impl Drop for FilterSubscription {
    fn drop(&mut self) {
        self.client.lock().entries.remove(&self.id);
    }
}

impl Stream for FilterSubscription {
    type Item = ReceivedMessage;

    fn poll_next(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Self::Item>> {
        self.queue.poll_pop(cx)
    }
}

impl fmt::Debug for FilterSubscription {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("FilterSubscription")
            .field("pubsub_topic", &self.pubsub_topic)
            .field("waiting", &self.queue.len())
            .field("health", &self.health())
            .finish_non_exhaustive()
    }
}

/// Subscribes at a connected service node.
pub(crate) async fn subscribe(
    node: &NodeHandle,
    client: &Arc<FilterClient>,
    peer: PeerId,
    pubsub_topic: PubsubTopic,
    content_topics: HashSet<ContentTopic>,
) -> Result<FilterSubscription, FilterError> {
    if content_topics.is_empty() || content_topics.len() > MAX_TOPICS_PER_REQUEST {
        return Err(FilterError::Topics { reason: format!("{} were given", content_topics.len()) });
    }
    let queue = Arc::new(Queue::new(client.max_messages, client.max_bytes));
    let topics: Vec<_> = content_topics.iter().cloned().collect();
    let link = Arc::<Link>::default();
    let id = {
        let mut open = client.lock();
        if open.entries.len() >= client.max_open {
            return Err(crate::error::NodeError::TooManySubscriptions { max: client.max_open }.into());
        }
        let id = open.next;
        open.next += 1;
        // Before the request: the first push may be as quick as the answer.
        let (queue, link) = (queue.clone(), link.clone());
        let entry = Entry { peer, pubsub_topic, content_topics, queue, seen: Seen::default(), link };
        open.entries.insert(id, entry);
        id
    };
    let (report, health) = watch::channel(FilterHealth::Subscribed);
    let keeping = CancellationToken::new();
    let subscription = FilterSubscription {
        id,
        peer,
        pubsub_topic,
        queue,
        health,
        client: client.clone(),
        link: link.clone(),
        node: node.downgrade(),
        _keeping: keeping.clone().drop_guard(),
    };
    request(node, peer, FilterSubscribeType::Subscribe, Some(pubsub_topic), &topics).await?;
    tokio::spawn(keep(node.downgrade(), peer, pubsub_topic, topics, link, report, keeping));
    Ok(subscription)
}

/// Pings, and subscribes again where that fails.
async fn keep(
    node: WeakNodeHandle,
    peer: PeerId,
    pubsub_topic: PubsubTopic,
    topics: Vec<ContentTopic>,
    link: Arc<Link>,
    report: watch::Sender<FilterHealth>,
    stop: CancellationToken,
) {
    let mut tick = interval(RETRY_INTERVAL);
    tick.set_missed_tick_behavior(MissedTickBehavior::Delay);
    let mut confirmed = tokio::time::Instant::now();
    loop {
        tokio::select! {
            () = stop.cancelled() => return,
            _ = tick.tick() => {}
            () = link.changed.notified() => {}
        }
        let Some(node) = node.upgrade() else { return };
        if node.is_stopped() {
            return;
        }
        // Before asking: what becomes doubtful meanwhile is looked at again.
        let doubtful = link.doubtful.swap(false, Ordering::SeqCst);
        let subscribed = *report.borrow() == FilterHealth::Subscribed && !doubtful;
        if subscribed && confirmed.elapsed() < PING_INTERVAL && node.is_connected(peer).await {
            continue;
        }
        let mut result = Err(None);
        if subscribed {
            result = request(&node, peer, FilterSubscribeType::SubscriberPing, None, &[]).await.map_err(Some);
        }
        if result.is_err() {
            let kind = FilterSubscribeType::Subscribe;
            result = request(&node, peer, kind, Some(pubsub_topic), &topics).await.map_err(Some);
        }
        let health = match result {
            Ok(()) => {
                confirmed = tokio::time::Instant::now();
                FilterHealth::Subscribed
            }
            Err(e) => FilterHealth::Lost { reason: e.map_or_else(String::new, |e: FilterError| e.to_string()) },
        };
        report.send_if_modified(|known| {
            let changed = *known != health;
            *known = health;
            changed
        });
    }
}

async fn request(
    node: &NodeHandle,
    peer: PeerId,
    kind: FilterSubscribeType,
    pubsub_topic: Option<PubsubTopic>,
    content_topics: &[ContentTopic],
) -> Result<(), FilterError> {
    let request_id = hex::encode(rand::random::<[u8; 16]>());
    let request = FilterSubscribeRequest {
        request_id: request_id.clone(),
        filter_subscribe_type: kind.into(),
        pubsub_topic: pubsub_topic.map(|topic| topic.to_string()),
        content_topics: content_topics.iter().map(|topic| topic.as_str().to_owned()).collect(),
    };
    let wire = Bytes::from(request.encode_to_vec());
    let answer = node.request(peer, FILTER_SUBSCRIBE_PROTOCOL, wire, request_limits()).await?;
    let malformed = |reason| FilterError::Malformed { peer, reason };
    let response = FilterSubscribeResponse::decode(answer)
        .map_err(|_| malformed("it is not a protobuf FilterSubscribeResponse"))?;
    let status = FilterStatus(response.status_code);
    if status != FilterStatus::OK {
        return Err(FilterError::Status { status, desc: response.status_desc.unwrap_or_default() });
    }
    if response.request_id != request_id {
        return Err(malformed("it answers another request"));
    }
    Ok(())
}
