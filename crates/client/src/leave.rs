//! Streams to providers that failed: stopped, so that they pay no longer than they must.

use std::sync::Arc;

use tributary_market::relay::RelayOperation;
use tributary_protocol::{Amount, Commitment};
use tributary_wallet::{Intent, OperationKind, Outcome, PayerStream, StreamState, Submitter as _, WalletError};

use crate::{Buyer, ClientError, buyer::MAX_RELAYERS};

/// What became of the streams that were left.
#[derive(Debug, Default, Clone, Copy, PartialEq, Eq)]
pub struct LeftStreams {
    /// Stopped now.
    pub stopped: usize,
    /// Those that pay on: until the next try, or to their end if that costs less.
    pub paying: usize,
}

impl Buyer {
    /// Notes that a stream shall pay no longer than it must. It is used no more, and [`Buyer::stop_left`] stops it, after a restart too.
    ///
    /// # Errors
    /// When the database fails.
    pub async fn leave(&self, stream: Commitment) -> Result<(), ClientError> {
        self.store().leave(&stream.to_be_bytes(), self.now()?.get()).await
    }

    /// Stops the streams that were left, through relayers that take at most `max_fee`, and says what became of them. One whose refund is no more than the
    /// relayer's fee runs out by itself. What can't be stopped now is tried again by the next call, which goes on with what an earlier one, or an earlier run
    /// of the program, left half done. Calls at the same time wait for each other.
    ///
    /// # Errors
    /// When the database or the ledger fails.
    pub async fn stop_left(&self, max_fee: Amount) -> Result<LeftStreams, ClientError> {
        let _one = self.sessions.stopping.lock().await;
        self.stop_each(max_fee).await
    }

    /// [`Buyer::stop_left`] in the background, unless that is being done.
    pub(crate) fn stop_left_meanwhile(&self, max_fee: Amount) {
        let Ok(one) = Arc::clone(&self.sessions.stopping).try_lock_owned() else { return };
        let buyer = self.clone();
        tokio::spawn(async move {
            let done = buyer.stop_each(max_fee).await;
            drop(one);
            if let Err(error) = done {
                tracing::warn!(code = error.code(), %error, "streams to providers that failed could not be stopped");
            }
        });
    }

    async fn stop_each(&self, max_fee: Amount) -> Result<LeftStreams, ClientError> {
        let mut done = LeftStreams::default();
        let left = self.store().left().await?;
        if left.is_empty() {
            return Ok(done);
        }
        self.wallet().sync().await?;
        let streams = self.wallet().payer_streams(true).await?;
        for commitment in left {
            let stream = streams.iter().find(|stream| stream.commitment.to_be_bytes() == commitment);
            // Until it is over it is left: a stop may be undone by a reorganisation, and what runs out must not be used meanwhile.
            let Some(stream) = stream.filter(|stream| stream.state != StreamState::Over) else {
                self.store().forget_left(&commitment).await?;
                continue;
            };
            let stopped = match stream.state {
                StreamState::Stopping | StreamState::Over => continue,
                // In the tree it can be stopped.
                StreamState::Queued | StreamState::Missing => false,
                StreamState::Running | StreamState::Scheduled => {
                    self.stop(stream, max_fee).await.unwrap_or_else(|error| {
                        tracing::warn!(code = error.code(), %error, "a stream could not be stopped");
                        false
                    })
                }
            };
            if stopped {
                done.stopped += 1;
            } else {
                done.paying += 1;
            }
        }
        Ok(done)
    }

    /// Whether it is stopped then. Each further attempt spends the same stream, so only one of them can be mined.
    async fn stop(&self, stream: &PayerStream, max_fee: Amount) -> Result<bool, ClientError> {
        let intent = Intent::Close { stream: stream.commitment };
        let begun = self.wallet().operations().await?.into_iter().find(|operation| operation.intent == intent);
        let mut operation = begun.map(|operation| operation.id);
        let announced =
            self.relayers().into_iter().filter_map(|relayer| relayer.fee(RelayOperation::Close, true)).min();
        if operation.is_none() && announced.is_some_and(|fee| stream.refundable <= fee) {
            return Ok(false);
        }
        let relayers = self.relayed_in_turn(max_fee);
        for _ in 0..MAX_RELAYERS {
            let terms = match relayers.terms(OperationKind::Close).await {
                Ok(terms) => terms,
                Err(rejection) => {
                    tracing::warn!(code = rejection.code, reason = rejection.reason, "a stream could not be stopped");
                    return Ok(false);
                }
            };
            // It runs out by itself.
            if operation.is_none() && stream.refundable <= terms.fee {
                return Ok(false);
            }
            let prepared = match operation {
                Some(operation) => self.wallet().prepare_again(operation, terms).await,
                None => self.wallet().prepare(intent.clone(), terms).await,
            };
            let prepared = match prepared {
                Ok(prepared) => prepared,
                // A silent relayer has sent it all the same.
                Err(WalletError::AlreadyConfirmed { .. }) => return Ok(true),
                Err(error) => return Err(error.into()),
            };
            operation = Some(prepared.operation);
            match self.wallet().submit(&prepared, &relayers).await? {
                Outcome::Confirmed { .. } => return Ok(true),
                // It is looked at again: it may be on the chain, or be sent by somebody else.
                Outcome::Unknown { reason, .. } => tracing::warn!(reason, "whether a stream was stopped is unknown"),
                Outcome::Rejected(rejection) => {
                    tracing::warn!(code = rejection.code, reason = rejection.reason, "a stream could not be stopped");
                }
            }
            if !relayers.others_are_left() {
                break;
            }
            self.wallet().sync().await?;
        }
        Ok(false)
    }
}
