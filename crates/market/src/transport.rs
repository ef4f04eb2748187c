//! What the marketplace needs of the network, as two small traits. [`LocalBus`] implements the first in memory; `tributary-waku`'s
//! node implements both.

use std::collections::HashMap;
use std::pin::Pin;
use std::sync::{Arc, Mutex, PoisonError};
use std::task::{Context, Poll};

use async_trait::async_trait;
use futures::Stream;
use futures::stream::BoxStream;
use libp2p::{Multiaddr, PeerId};
use tokio::sync::broadcast;

use crate::topics::ContentTopic;

/// A failure of the network, not of what was sent.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum TransportError {
    /// The node is shutting down or gone.
    #[error("the node is not running")]
    Closed,
    /// The peer can't be reached.
    #[error("{peer} can't be reached: {reason}")]
    Unreachable {
        /// The peer.
        peer: PeerId,
        /// The network's words.
        reason: String,
    },
    /// No answer came in time.
    #[error("no answer within {seconds} s")]
    Timeout {
        /// How long was waited, seconds.
        seconds: u64,
    },
    /// The message couldn't be published.
    #[error("not published on {topic}: {reason}")]
    Publish {
        /// The content topic.
        topic: ContentTopic,
        /// The network's words.
        reason: String,
    },
    /// The topic can't be subscribed to.
    #[error("not subscribed to {topic}: {reason}")]
    Subscribe {
        /// The content topic.
        topic: ContentTopic,
        /// The network's words.
        reason: String,
    },
    /// The peer answered with what isn't allowed: too large, cut off, another protocol.
    #[error("{peer} broke the protocol: {reason}")]
    Protocol {
        /// The peer.
        peer: PeerId,
        /// What it did.
        reason: String,
    },
}

impl TransportError {
    /// Stable code of the error.
    #[must_use]
    pub const fn code(&self) -> &'static str {
        match self {
            Self::Closed => "TRB-M021",
            Self::Unreachable { .. } => "TRB-M022",
            Self::Timeout { .. } => "TRB-M023",
            Self::Publish { .. } => "TRB-M024",
            Self::Protocol { .. } => "TRB-M025",
            Self::Subscribe { .. } => "TRB-M026",
        }
    }
}

/// Whether Store nodes keep a message.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Keep {
    /// For those who come later.
    Stored,
    /// Only for who listens now.
    Ephemeral,
}

/// Payloads that arrive on a topic. Dropping it ends the subscription.
pub struct Subscription(BoxStream<'static, Vec<u8>>);

impl Subscription {
    /// Wraps a stream of payloads.
    pub fn new(stream: impl Stream<Item = Vec<u8>> + Send + 'static) -> Self {
        Self(Box::pin(stream))
    }
}

impl std::fmt::Debug for Subscription {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Subscription")
    }
}

impl Stream for Subscription {
    type Item = Vec<u8>;

    fn poll_next(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Option<Vec<u8>>> {
        self.0.as_mut().poll_next(context)
    }
}

/// Publishing and receiving on content topics.
#[async_trait]
pub trait Broadcast: Send + Sync + 'static {
    /// Publishes one message.
    ///
    /// # Errors
    /// [`TransportError::Publish`] or [`TransportError::Closed`].
    async fn publish(&self, topic: &ContentTopic, payload: Vec<u8>, keep: Keep) -> Result<(), TransportError>;

    /// Receives what is published from now on. The subscription is in force when this returns. A subscriber that lags may miss
    /// messages; memory stays bounded.
    ///
    /// # Errors
    /// [`TransportError::Subscribe`] or [`TransportError::Closed`].
    async fn subscribe(&self, topic: &ContentTopic) -> Result<Subscription, TransportError>;
}

/// One request and one answer with a peer that is connected to directly.
#[async_trait]
pub trait Exchange: Send + Sync + 'static {
    /// Sends a request on a libp2p protocol and waits for the answer, dialling `addresses` where needed. Bounds its own time.
    ///
    /// # Errors
    /// [`TransportError::Unreachable`], [`TransportError::Timeout`], [`TransportError::Protocol`] or [`TransportError::Closed`].
    async fn request(
        &self,
        peer: PeerId,
        addresses: &[Multiaddr],
        protocol: &'static str,
        body: Vec<u8>,
    ) -> Result<Vec<u8>, TransportError>;
}

#[async_trait]
impl<T: Broadcast + ?Sized> Broadcast for Arc<T> {
    async fn publish(&self, topic: &ContentTopic, payload: Vec<u8>, keep: Keep) -> Result<(), TransportError> {
        (**self).publish(topic, payload, keep).await
    }

    async fn subscribe(&self, topic: &ContentTopic) -> Result<Subscription, TransportError> {
        (**self).subscribe(topic).await
    }
}

#[async_trait]
impl<T: Exchange + ?Sized> Exchange for Arc<T> {
    async fn request(
        &self,
        peer: PeerId,
        addresses: &[Multiaddr],
        protocol: &'static str,
        body: Vec<u8>,
    ) -> Result<Vec<u8>, TransportError> {
        (**self).request(peer, addresses, protocol, body).await
    }
}

/// Content topics within one process.
#[derive(Debug, Clone, Default)]
pub struct LocalBus {
    topics: Arc<Mutex<HashMap<ContentTopic, broadcast::Sender<Vec<u8>>>>>,
}

impl LocalBus {
    const BACKLOG: usize = 256;

    /// An empty bus.
    #[must_use]
    pub fn new() -> Self {
        Self::default()
    }
}

#[async_trait]
impl Broadcast for LocalBus {
    async fn publish(&self, topic: &ContentTopic, payload: Vec<u8>, _keep: Keep) -> Result<(), TransportError> {
        let mut topics = self.topics.lock().unwrap_or_else(PoisonError::into_inner);
        topics.retain(|_, sender| sender.receiver_count() > 0);
        if let Some(sender) = topics.get(topic) {
            // An error only says that the last subscriber left meanwhile.
            let _ = sender.send(payload);
        }
        Ok(())
    }

    async fn subscribe(&self, topic: &ContentTopic) -> Result<Subscription, TransportError> {
        let receiver = self
            .topics
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .entry(topic.clone())
            .or_insert_with(|| broadcast::channel(Self::BACKLOG).0)
            .subscribe();
        Ok(Subscription::new(futures::stream::unfold(receiver, |mut receiver| async move {
            loop {
                match receiver.recv().await {
                    Ok(payload) => return Some((payload, receiver)),
                    Err(broadcast::error::RecvError::Lagged(_)) => {}
                    Err(broadcast::error::RecvError::Closed) => return None,
                }
            }
        })))
    }
}
