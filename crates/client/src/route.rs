//! The way to a provider, and back to one that went away.

use std::time::Duration;

use rand::Rng as _;
use tributary_market::{node::connect, transport::TransportError};
use tributary_waku::{Multiaddr, NodeHandle, PeerId, RequestError};

use crate::ClientError;

/// Pauses between two tries to reach a provider that went away: the first, and the longest.
const PAUSE: (Duration, Duration) = (Duration::from_millis(200), Duration::from_secs(5));

/// For how long a provider that went away is looked for, unless told otherwise.
pub(crate) const PATIENCE: Duration = Duration::from_secs(60);

/// A provider, and where its offer says that it is.
#[derive(Debug, Clone)]
pub(crate) struct Route {
    pub(crate) node: NodeHandle,
    pub(crate) provider: PeerId,
    /// None of them: a lost connection isn't made again.
    pub(crate) addresses: Vec<Multiaddr>,
    pub(crate) patience: Duration,
}

impl Route {
    pub(crate) fn new(node: NodeHandle, provider: PeerId) -> Self {
        Self { node, provider, addresses: Vec::new(), patience: PATIENCE }
    }

    /// Whether the connection may have been lost before the answer, so that the same request is worth another try.
    pub(crate) fn is_lost(&self, error: &RequestError) -> bool {
        let lost = matches!(
            error,
            RequestError::NotConnected { .. } | RequestError::NoAnswer { .. } | RequestError::Timeout { .. }
        );
        lost && !self.addresses.is_empty()
    }

    /// Connects again after try number `attempt`, however long it takes within the patience. Pauses vary, so that the buyers of a provider that
    /// was restarted don't come back in the same instant.
    pub(crate) async fn reconnect(&self, attempt: u32) -> Result<(), ClientError> {
        let end = tokio::time::Instant::now() + self.patience;
        let mut pause = PAUSE.0;
        if attempt > 1 {
            // Either side may not have noticed yet that the connection is gone: without a pause all tries would be over before it does.
            let varied = pause.mul_f64(rand::thread_rng().gen_range(0.75..1.25));
            tokio::time::sleep(varied).await;
        }
        loop {
            let error = match connect(&self.node, self.provider, &self.addresses).await {
                Ok(()) => return Ok(()),
                Err(error @ TransportError::Closed) => return Err(error.into()),
                Err(error) => error,
            };
            let next = tokio::time::Instant::now() + pause.mul_f64(rand::thread_rng().gen_range(0.75..1.25));
            if next >= end {
                return Err(error.into());
            }
            tokio::time::sleep_until(next).await;
            pause = (pause * 2).min(PAUSE.1);
        }
    }
}
