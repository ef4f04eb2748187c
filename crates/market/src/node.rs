//! The network traits on a real Waku node.

use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use futures::StreamExt as _;
use libp2p::identity::PublicKey;
use libp2p::multiaddr::Protocol;
use libp2p::{Multiaddr, PeerId};
use tributary_waku::{
    Bytes, NodeError, NodeHandle, NodeKey, RequestError, RequestHandler, RequestLimits, ServeLimits, WakuMessage,
};

use crate::envelope::{EnvelopeError, Signer};
use crate::negotiate::provider::Negotiator;
use crate::negotiate::{self, Source};
use crate::sealed::EncryptionSecret;
use crate::topics::ContentTopic;
use crate::transport::{Broadcast, Exchange, Keep, Subscription, TransportError};

/// Time for a connection to a provider.
const DIAL_TIMEOUT: Duration = Duration::from_secs(5);
/// Time for the answer to a direct request.
const REQUEST_TIMEOUT: Duration = Duration::from_secs(15);
/// Largest direct request and answer, bytes.
const MAX_EXCHANGE_BYTES: u64 = 64 * 1024;

impl Signer for NodeKey {
    fn public_key(&self) -> PublicKey {
        self.public()
    }

    fn sign_bytes(&self, message: &[u8]) -> Result<Vec<u8>, EnvelopeError> {
        Ok(self.sign(message))
    }
}

/// The secret that opens what is sealed to a node: derived from its key, so it outlives restarts.
#[must_use]
pub fn encryption_secret(key: &NodeKey) -> EncryptionSecret {
    EncryptionSecret::derive(&key.to_bytes())
}

fn waku_topic(topic: &ContentTopic) -> tributary_waku::ContentTopic {
    tributary_waku::ContentTopic::opaque(topic.as_str())
}

#[async_trait]
impl Broadcast for NodeHandle {
    async fn publish(&self, topic: &ContentTopic, payload: Vec<u8>, keep: Keep) -> Result<(), TransportError> {
        let mut message = WakuMessage::new(waku_topic(topic), payload, self.now());
        message.ephemeral = (keep == Keep::Ephemeral).then_some(true);
        match NodeHandle::publish(self, message).await {
            Ok(_) => Ok(()),
            Err(tributary_waku::PublishError::Stopped) => Err(TransportError::Closed),
            Err(error) => Err(TransportError::Publish { topic: topic.clone(), reason: error.to_string() }),
        }
    }

    async fn subscribe(&self, topic: &ContentTopic) -> Result<Subscription, TransportError> {
        match NodeHandle::subscribe(self, [waku_topic(topic)]) {
            Ok(messages) => Ok(Subscription::new(messages.map(|received| received.message.payload.to_vec()))),
            Err(NodeError::Stopped) => Err(TransportError::Closed),
            Err(error) => Err(TransportError::Subscribe { topic: topic.clone(), reason: error.to_string() }),
        }
    }
}

#[async_trait]
impl Exchange for NodeHandle {
    async fn request(
        &self,
        peer: PeerId,
        addresses: &[Multiaddr],
        protocol: &'static str,
        body: Vec<u8>,
    ) -> Result<Vec<u8>, TransportError> {
        connect(self, peer, addresses).await?;
        let limits = RequestLimits {
            max_request_bytes: MAX_EXCHANGE_BYTES,
            max_response_bytes: MAX_EXCHANGE_BYTES,
            timeout: REQUEST_TIMEOUT,
        };
        NodeHandle::request(self, peer, protocol, body, limits).await.map(|answer| answer.to_vec()).map_err(|error| {
            match error {
                RequestError::Stopped => TransportError::Closed,
                RequestError::Timeout { timeout, .. } => TransportError::Timeout { seconds: timeout.as_secs() },
                RequestError::NotConnected { .. } => TransportError::Unreachable { peer, reason: error.to_string() },
                other => TransportError::Protocol { peer, reason: other.to_string() },
            }
        })
    }
}

/// Connects to a provider by one of its offer's addresses, unless it is connected.
///
/// # Errors
/// [`TransportError::Unreachable`] with the last address's failure.
pub async fn connect(node: &NodeHandle, peer: PeerId, addresses: &[Multiaddr]) -> Result<(), TransportError> {
    if node.connected_peers().await.contains(&peer) {
        return Ok(());
    }
    let mut reason = "its offer names no address".to_owned();
    for address in addresses {
        let address = address.clone().with(Protocol::P2p(peer));
        match node.dial_within(&address, DIAL_TIMEOUT).await {
            Ok(_) => return Ok(()),
            Err(error) => reason = error.to_string(),
        }
    }
    Err(TransportError::Unreachable { peer, reason })
}

/// Serves direct negotiation on a node.
///
/// # Errors
/// As [`NodeHandle::serve`].
pub async fn serve_quotes(node: &NodeHandle, negotiator: Arc<Negotiator>) -> Result<(), NodeError> {
    let limits = ServeLimits {
        max_request_bytes: negotiate::MAX_REQUEST_BYTES as u64,
        max_response_bytes: negotiate::MAX_RESPONSE_BYTES as u64,
        ..ServeLimits::default()
    };
    node.serve(negotiate::PROTOCOL, limits, Arc::new(QuoteHandler(negotiator))).await
}

struct QuoteHandler(Arc<Negotiator>);

impl fmt::Debug for QuoteHandler {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

#[async_trait]
impl RequestHandler for QuoteHandler {
    async fn handle(&self, peer: PeerId, request: Bytes) -> Option<Bytes> {
        self.0.answer(Source::Peer(peer), &request).await.map(Bytes::from)
    }
}
