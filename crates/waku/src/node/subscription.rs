//! Delivery of relayed messages inside the process.

use std::{
    collections::HashSet,
    fmt,
    pin::Pin,
    sync::{Arc, Mutex, PoisonError, Weak},
    task::{Context, Poll},
};

use futures::{Stream, StreamExt as _};

use crate::{
    error::NodeError,
    message::{MessageHash, WakuMessage},
    queue::Queue,
    topics::{ContentTopic, PubsubTopic},
};

/// A message that was relayed to this node, or published by it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ReceivedMessage {
    /// Its shard.
    pub pubsub_topic: PubsubTopic,
    /// The message.
    pub message: Arc<WakuMessage>,
    /// Its hash under the shard.
    pub hash: MessageHash,
}

/// Which messages a subscription gets; an absent part means any.
#[derive(Clone, Debug, Default)]
pub(super) struct Interest {
    pub(super) pubsub_topic: Option<PubsubTopic>,
    pub(super) content_topics: Option<HashSet<ContentTopic>>,
}

impl Interest {
    fn matches(&self, message: &ReceivedMessage) -> bool {
        self.pubsub_topic.is_none_or(|topic| topic == message.pubsub_topic)
            && self.content_topics.as_ref().is_none_or(|topics| topics.contains(&message.message.content_topic))
    }
}

/// Messages of some topics, each once, in the order of their arrival. A slow reader loses the oldest:
/// [`Subscription::dropped`] counts them. Ends when the node is shut down.
pub struct Subscription {
    queue: Arc<Queue<ReceivedMessage>>,
}

impl Subscription {
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
}

impl Stream for Subscription {
    type Item = ReceivedMessage;

    fn poll_next(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Self::Item>> {
        self.queue.poll_pop(cx)
    }
}

impl fmt::Debug for Subscription {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Subscription")
            .field("waiting", &self.queue.len())
            .field("dropped", &self.queue.dropped())
            .finish()
    }
}

/// The open subscriptions of a node. A dropped [`Subscription`] leaves by itself.
pub(super) struct Subscribers {
    open: Mutex<Vec<(Interest, Weak<Queue<ReceivedMessage>>)>>,
    max_open: usize,
    max_messages: usize,
    max_bytes: usize,
}

impl Subscribers {
    pub(super) fn new(max_open: usize, max_messages: usize, max_bytes: usize) -> Self {
        Self { open: Mutex::default(), max_open, max_messages, max_bytes }
    }

    pub(super) fn add(&self, interest: Interest) -> Result<Subscription, NodeError> {
        let mut open = self.open.lock().unwrap_or_else(PoisonError::into_inner);
        open.retain(|(_, queue)| queue.strong_count() > 0);
        if open.len() >= self.max_open {
            return Err(NodeError::TooManySubscriptions { max: self.max_open });
        }
        let queue = Arc::new(Queue::new(self.max_messages, self.max_bytes));
        open.push((interest, Arc::downgrade(&queue)));
        Ok(Subscription { queue })
    }

    /// Hands a message to whom it concerns.
    pub(super) fn deliver(&self, message: &ReceivedMessage) {
        let mut open = self.open.lock().unwrap_or_else(PoisonError::into_inner);
        open.retain(|(interest, queue)| {
            let Some(queue) = queue.upgrade() else { return false };
            if interest.matches(message) {
                queue.push(message.clone(), message.message.payload.len());
            }
            true
        });
    }

    /// Ends all subscriptions; messages that wait can still be read.
    pub(super) fn close(&self) {
        let mut open = self.open.lock().unwrap_or_else(PoisonError::into_inner);
        for queue in open.drain(..).filter_map(|(_, queue)| queue.upgrade()) {
            queue.close();
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::clock::Timestamp;

    fn message(topic: &str, payload: usize, n: i64) -> ReceivedMessage {
        let pubsub_topic = "/waku/2/rs/1/0".parse().unwrap();
        let message = WakuMessage::new(ContentTopic::opaque(topic), vec![0; payload], Timestamp::from_nanos(n));
        ReceivedMessage { pubsub_topic, hash: message.hash(pubsub_topic), message: message.into() }
    }

    #[tokio::test]
    async fn slow_readers_lose_the_oldest() {
        let subscribers = Subscribers::new(10, 3, 1000);
        let mut all = subscribers.add(Interest::default()).unwrap();
        for n in 0..5 {
            subscribers.deliver(&message("a", 1, n));
        }
        assert_eq!(all.dropped(), 2);
        for n in 2..5 {
            assert_eq!(all.recv().await.unwrap().message.timestamp, Some(Timestamp::from_nanos(n)));
        }
        // Bytes count too; a single message is kept whatever its size.
        for n in 0..3 {
            subscribers.deliver(&message("a", 600, n));
        }
        assert_eq!(all.dropped(), 4);
        assert_eq!(all.recv().await.unwrap().message.timestamp, Some(Timestamp::from_nanos(2)));
        assert_eq!(all.try_recv(), None);
        subscribers.deliver(&message("a", 5000, 9));
        subscribers.close();
        assert!(all.recv().await.is_some());
        assert_eq!(all.recv().await, None);
    }

    #[tokio::test]
    async fn interests_select_and_dropped_subscriptions_make_room() {
        let subscribers = Subscribers::new(2, 10, 1000);
        let interest = |topic: &str| Interest {
            pubsub_topic: None,
            content_topics: Some(HashSet::from([ContentTopic::opaque(topic)])),
        };
        let mut a = subscribers.add(interest("a")).unwrap();
        let b = subscribers.add(interest("b")).unwrap();
        assert_eq!(subscribers.add(interest("c")).unwrap_err().code(), "TRB-W345");
        subscribers.deliver(&message("a", 1, 1));
        assert_eq!(a.try_recv().unwrap().message.content_topic.as_str(), "a");
        assert_eq!(b.queue.len(), 0);
        drop(b);
        let mut elsewhere = subscribers
            .add(Interest { pubsub_topic: Some("/waku/2/rs/1/1".parse().unwrap()), content_topics: None })
            .unwrap();
        subscribers.deliver(&message("a", 1, 2));
        assert_eq!(elsewhere.try_recv(), None);
    }
}
