//! Streams to providers that failed: stopped, so that they pay no longer than they must.

use std::sync::atomic::Ordering;

use tributary_protocol::{Amount, Commitment};
use tributary_wallet::{Intent, OperationKind, Outcome, StreamState, Submitter as _};

use crate::{Buyer, ClientError};

impl Buyer {
    /// Notes that a stream shall pay no longer than it must. It is used no more, and [`Buyer::stop_left`] stops it, after a restart too.
    ///
    /// # Errors
    /// When the database fails.
    pub async fn leave(&self, stream: Commitment) -> Result<(), ClientError> {
        self.store().leave(&stream.to_be_bytes(), self.now()?.get()).await
    }

    /// Stops the streams that were left, through relayers that take at most `max_fee`, and says how many. One whose refund is no more than the relayer's
    /// fee runs out by itself. What can't be stopped now is tried again by the next call.
    ///
    /// # Errors
    /// When the database or the ledger fails.
    pub async fn stop_left(&self, max_fee: Amount) -> Result<usize, ClientError> {
        let mut stopped = 0;
        let left = self.store().left().await?;
        if left.is_empty() {
            return Ok(stopped);
        }
        self.wallet().sync().await?;
        let streams = self.wallet().payer_streams(true).await?;
        for commitment in left {
            let stream = streams.iter().find(|stream| stream.commitment.to_be_bytes() == commitment);
            let Some(stream) = stream else {
                self.store().forget_left(&commitment).await?;
                continue;
            };
            match stream.state {
                StreamState::Running | StreamState::Scheduled => {}
                // In the tree it can be stopped.
                StreamState::Queued | StreamState::Missing => continue,
                StreamState::Stopping | StreamState::Over => {
                    self.store().forget_left(&commitment).await?;
                    continue;
                }
            }
            let relayer = self.relayed(max_fee);
            let terms = match relayer.terms(OperationKind::Close).await {
                Ok(terms) => terms,
                Err(rejection) => {
                    tracing::warn!(code = rejection.code, reason = rejection.reason, "a stream could not be stopped");
                    continue;
                }
            };
            if stream.refundable <= terms.fee {
                self.store().forget_left(&commitment).await?;
                continue;
            }
            let intent = Intent::Close { stream: stream.commitment };
            let outcome = match self.wallet().prepare(intent, terms).await {
                Ok(prepared) => self.wallet().submit(&prepared, &relayer).await,
                Err(error) => Err(error),
            };
            match outcome {
                Ok(Outcome::Confirmed { .. }) => {
                    stopped += 1;
                    self.store().forget_left(&commitment).await?;
                }
                // It is looked at again: it may be on the chain, or be sent by somebody else.
                Ok(Outcome::Unknown { reason, .. }) => {
                    tracing::warn!(reason, "whether a stream was stopped is unknown");
                }
                Ok(Outcome::Rejected(rejection)) => {
                    tracing::warn!(code = rejection.code, reason = rejection.reason, "a stream could not be stopped");
                }
                Err(error) => tracing::warn!(code = error.code(), %error, "a stream could not be stopped"),
            }
        }
        Ok(stopped)
    }

    /// [`Buyer::stop_left`] in the background, one at a time.
    pub(crate) fn stop_left_meanwhile(&self, max_fee: Amount) {
        if self.sessions.stopping.swap(true, Ordering::AcqRel) {
            return;
        }
        let buyer = self.clone();
        tokio::spawn(async move {
            let done = buyer.stop_left(max_fee).await;
            buyer.sessions.stopping.store(false, Ordering::Release);
            if let Err(error) = done {
                tracing::warn!(code = error.code(), %error, "streams to providers that failed could not be stopped");
            }
        });
    }
}
