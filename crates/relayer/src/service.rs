//! The relayer on Waku: announces its fees, signs quotes, takes sealed requests.

use std::{collections::BTreeMap, future::Future, sync::Arc, time::Duration};

use async_trait::async_trait;
use rand::{RngCore as _, rngs::OsRng};
use tributary_market::{
    clock::Clock,
    envelope::Signer,
    relay::{
        Announcement, IdempotencyKey, QUOTE_VALIDITY, RelayEndpoint, RelayError, RelayFee, RelayHandler,
        RelayOperation, RelayQuote, RelayStatus, Submission,
    },
    rpc::{SealedServer, ServerLimits},
    sealed::EncryptionSecret,
    topics::ContentTopic,
    transport::{Broadcast, Keep, TransportError},
};
use tributary_protocol::{Operation, PoolId, UnixTime};

use crate::{Engine, QuotedTerms, RelayerError, RequestState};

/// How a relayer appears on the network.
#[derive(Debug, Clone)]
pub struct ServiceConfig {
    /// The pool that it serves.
    pub pool: PoolId,
    /// Fees by operation.
    pub fees: BTreeMap<RelayOperation, RelayFee>,
    /// How long an announcement holds.
    pub announcement_lifetime: Duration,
    /// Time between two announcements; shorter than the lifetime.
    pub announce_every: Duration,
}

/// Why the service ended.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum ServiceError {
    /// The network failed.
    #[error(transparent)]
    Transport(#[from] TransportError),
    /// An announcement could not be made.
    #[error("the announcement is not one that others would take: {0}")]
    Announcement(#[from] RelayError),
    /// The engine failed.
    #[error(transparent)]
    Engine(#[from] RelayerError),
}

/// Serves an engine to the network.
pub struct RelayerService {
    engine: Engine,
    transport: Arc<dyn Broadcast>,
    signer: Arc<dyn Signer>,
    secret: EncryptionSecret,
    clock: Arc<dyn Clock>,
    config: ServiceConfig,
}

impl std::fmt::Debug for RelayerService {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("RelayerService").field("engine", &self.engine).finish_non_exhaustive()
    }
}

impl RelayerService {
    /// A service around `engine`. `signer` signs announcements and quotes, `secret` opens requests.
    #[must_use]
    pub fn new(
        engine: Engine,
        transport: Arc<dyn Broadcast>,
        signer: Arc<dyn Signer>,
        secret: EncryptionSecret,
        clock: Arc<dyn Clock>,
        config: ServiceConfig,
    ) -> Self {
        Self { engine, transport, signer, secret, clock, config }
    }

    /// Listens for requests, announces, sends and inserts until `shutdown` is done.
    ///
    /// # Errors
    /// [`ServiceError`] when the network is gone.
    pub async fn run(self, shutdown: impl Future<Output = ()>) -> Result<(), ServiceError> {
        let handler = Arc::new(Handler {
            engine: self.engine.clone(),
            clock: Arc::clone(&self.clock),
            config: self.config.clone(),
        });
        let endpoint = RelayEndpoint::new(Arc::clone(&self.signer), Arc::clone(&self.clock), handler);
        let server = Arc::new(SealedServer::new(
            Arc::clone(&self.transport),
            Arc::clone(&self.clock),
            self.secret.clone(),
            Arc::new(endpoint),
            ServerLimits::default(),
        ));
        let listening = server.listen().await?;
        let (stop, stopped) = tokio::sync::watch::channel(false);
        let engine = self.engine.clone();
        let sending = async move {
            let mut stopped = stopped;
            engine.run(async move { drop(stopped.wait_for(|stop| *stop).await) }).await;
        };
        tokio::pin!(shutdown);
        let serving = async {
            tokio::select! {
                () = &mut shutdown => Ok(()),
                result = listening.serve() => result.map_err(ServiceError::from),
                result = self.announce() => result,
            }
        };
        let stop_after = async {
            let result = serving.await;
            stop.send_replace(true);
            result
        };
        let ((), result) = tokio::join!(sending, stop_after);
        result
    }

    /// Announces at once and then again and again.
    async fn announce(&self) -> Result<(), ServiceError> {
        let mut every = tokio::time::interval(self.config.announce_every);
        every.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
        loop {
            every.tick().await;
            let signed = self.announcement().await?;
            // Nobody may be there yet; the next announcement will tell.
            if let Err(error) = self.transport.publish(&ContentTopic::relayers(), signed, Keep::Stored).await {
                tracing::debug!(%error, "an announcement was not published");
            }
        }
    }

    /// A signed announcement with a number that no other has.
    ///
    /// # Errors
    /// [`ServiceError`].
    pub async fn announcement(&self) -> Result<Vec<u8>, ServiceError> {
        let sequence = self.engine.store().next_sequence().await?;
        let now = self.clock.now();
        let announcement = Announcement {
            encryption_key: self.secret.public(),
            pool: self.config.pool,
            account: self.engine.account(),
            fees: self.config.fees.clone(),
            sequence,
            issued_at: now,
            expires_at: later(now, self.config.announcement_lifetime),
        };
        Ok(announcement.sign(self.signer.as_ref())?)
    }
}

fn later(now: UnixTime, by: Duration) -> UnixTime {
    UnixTime::new(now.get().saturating_add(by.as_secs())).unwrap_or(UnixTime::MAX)
}

struct Handler {
    engine: Engine,
    clock: Arc<dyn Clock>,
    config: ServiceConfig,
}

#[async_trait]
impl RelayHandler for Handler {
    async fn quote(
        &self,
        pool: PoolId,
        operation: RelayOperation,
        with_insertion: bool,
    ) -> Result<RelayQuote, RelayStatus> {
        if pool != self.config.pool {
            return Err(refuse(
                "wrong_pool",
                format!("this relayer serves {}, not {}", self.config.pool.address, pool.address),
            ));
        }
        let fee = self
            .config
            .fees
            .get(&operation)
            .ok_or_else(|| refuse("not_served", format!("this relayer does not send {operation:?}")))?;
        let mut quote_id = [0; 16];
        OsRng.fill_bytes(&mut quote_id);
        Ok(RelayQuote {
            quote_id,
            pool,
            operation,
            with_insertion,
            fee: fee.of(with_insertion),
            account: self.engine.account(),
            valid_until: self.clock.now().saturating_add(QUOTE_VALIDITY),
        })
    }

    async fn submit(&self, submission: Submission) -> RelayStatus {
        let operation = match submission.quote.operation {
            RelayOperation::Transact => Operation::Transact,
            RelayOperation::Close => Operation::Close,
            RelayOperation::Claim => Operation::Claim,
            RelayOperation::Insert => return refuse("not_served", "insertions are not taken from others".into()),
        };
        let quote = QuotedTerms {
            operation,
            with_insertion: submission.quote.with_insertion,
            fee: submission.quote.fee.get(),
            valid_until: submission.quote.valid_until.get(),
        };
        let key = *submission.key.as_bytes();
        let outcome = self.engine.submit(key, quote, operation, quote.with_insertion, submission.call.into()).await;
        match outcome {
            Ok(state) => status(state),
            // Whether the request was stored is not known then.
            Err(error @ (RelayerError::Store(_) | RelayerError::Chain(_))) => {
                tracing::warn!(code = error.code(), %error, "a request could not be judged");
                RelayStatus::Unknown { description: error.to_string() }
            }
            Err(error) => RelayStatus::Rejected {
                code: error.code().into(),
                description: error.to_string(),
                retry: error.retry(),
            },
        }
    }

    async fn status(&self, key: IdempotencyKey) -> RelayStatus {
        match self.engine.status(*key.as_bytes()).await {
            Ok(state) => status(state),
            Err(error) => RelayStatus::Unknown { description: error.to_string() },
        }
    }
}

fn status(state: RequestState) -> RelayStatus {
    match state {
        RequestState::Accepted => RelayStatus::Accepted,
        RequestState::Pending { transaction } => RelayStatus::Pending { transaction },
        RequestState::Confirmed { transaction, block, inserted } => {
            RelayStatus::Confirmed { transaction, block_number: block, inserted }
        }
        RequestState::Rejected { code, reason } => RelayStatus::Rejected { code, description: reason, retry: false },
    }
}

fn refuse(code: &str, description: String) -> RelayStatus {
    RelayStatus::Rejected { code: code.into(), description, retry: false }
}
