//! Sending: oneself, or through somebody else.

use std::{fmt, sync::Arc, time::Duration};

use alloy::{
    network::TransactionBuilder,
    primitives::{Address, Bytes},
    providers::{DynProvider, PendingTransactionError, Provider},
    rpc::{json_rpc::ErrorPayload, types::TransactionRequest},
    sol_types::SolInterface,
    transports::TransportError,
};
use async_trait::async_trait;
use tokio::sync::Mutex;
use tributary_bindings::StreamPool::StreamPoolErrors;

use crate::{
    insertion::{ProvedInsertion, bundle_calldata},
    operation::{OperationKind, Outcome, PreparedTransaction, Rejection, SendTerms},
};

/// Sends prepared transactions: directly, or through a relayer.
#[async_trait]
pub trait Submitter: Send + Sync + fmt::Debug {
    /// What sending a transaction of this kind costs, and for whom the fee is. The proof binds both.
    ///
    /// # Errors
    /// A [`Rejection`] when nobody is there to send it.
    async fn terms(&self, kind: OperationKind) -> Result<SendTerms, Rejection>;

    /// Sends a transaction and waits for the outcome. Whatever happens to the connection, the answer is never more certain than what was seen.
    async fn submit(&self, transaction: &PreparedTransaction) -> Outcome;
}

/// How a [`DirectSubmitter`] waits.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct DirectConfig {
    /// How long it waits for a transaction to be mined before the outcome is unknown.
    pub patience: Duration,
    /// Blocks that must be on top, the transaction's own included; at least 1.
    pub confirmations: u64,
}

impl Default for DirectConfig {
    fn default() -> Self {
        Self { patience: Duration::from_secs(60), confirmations: 1 }
    }
}

/// Sends with an account of one's own, which pays the gas and shows on chain as the sender.
#[derive(Clone)]
pub struct DirectSubmitter {
    provider: DynProvider,
    sender: Address,
    config: DirectConfig,
    /// One transaction at a time gets its number.
    numbering: Arc<Mutex<()>>,
}

impl fmt::Debug for DirectSubmitter {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("DirectSubmitter").field("config", &self.config).finish_non_exhaustive()
    }
}

impl DirectSubmitter {
    /// Sends from `sender`, for whom `provider` can sign.
    #[must_use]
    pub fn new(provider: DynProvider, sender: Address, config: DirectConfig) -> Self {
        Self { provider, sender, config, numbering: Arc::default() }
    }

    /// The account that sends.
    #[must_use]
    pub const fn sender(&self) -> Address {
        self.sender
    }

    /// The provider that it sends through.
    #[must_use]
    pub const fn provider(&self) -> &DynProvider {
        &self.provider
    }

    /// Simulates and sends one call of the pool.
    pub async fn call(&self, pool: Address, calldata: Bytes) -> Outcome {
        let request = TransactionRequest::default().with_from(self.sender).with_to(pool).with_input(calldata);
        // What would be refused costs nothing, and nobody sees it.
        let gas = match self.provider.estimate_gas(request.clone()).await {
            Ok(gas) => gas,
            Err(error) => return refused(&error),
        };
        let numbering = self.numbering.lock().await;
        // Asked for each time: after a reorganisation a remembered number would leave a gap.
        let nonce = match self.provider.get_transaction_count(self.sender).pending().await {
            Ok(nonce) => nonce,
            Err(error) => return refused(&error),
        };
        let request = request.with_gas_limit(gas.saturating_add(gas / 8)).with_nonce(nonce);
        let pending = match self.provider.send_transaction(request).await {
            Ok(pending) => pending,
            Err(error) if error.as_error_resp().is_some() => return refused(&error),
            // The connection broke: the node may have it.
            Err(_) => return Outcome::Unknown { tx_hash: None, reason: "the chain node did not answer".to_owned() },
        };
        drop(numbering);
        let tx_hash = *pending.tx_hash();
        let receipt = pending
            .with_required_confirmations(self.config.confirmations.max(1))
            .with_timeout(Some(self.config.patience))
            .get_receipt()
            .await;
        match receipt {
            Ok(receipt) if receipt.status() => {
                Outcome::Confirmed { tx_hash, block: receipt.block_number.unwrap_or_default() }
            }
            Ok(_) => Outcome::Rejected(Rejection {
                code: "TRB-3202".to_owned(),
                reason: "the transaction was mined, but the pool refused it: something came first".to_owned(),
                never_sent: false,
            }),
            Err(PendingTransactionError::TxWatcher(_)) => {
                Outcome::Unknown { tx_hash: Some(tx_hash), reason: "it was sent, but not mined in time".to_owned() }
            }
            Err(_) => Outcome::Unknown {
                tx_hash: Some(tx_hash),
                reason: "it was sent, then the chain node did not answer".to_owned(),
            },
        }
    }

    /// Sends insertions alone.
    pub async fn insert(&self, pool: Address, insertions: &[ProvedInsertion]) -> Outcome {
        match insertions {
            [one] => self.call(pool, one.calldata()).await,
            many => self.call(pool, bundle_calldata(&Bytes::new(), many)).await,
        }
    }
}

#[async_trait]
impl Submitter for DirectSubmitter {
    async fn terms(&self, _: OperationKind) -> Result<SendTerms, Rejection> {
        Ok(SendTerms::default())
    }

    async fn submit(&self, transaction: &PreparedTransaction) -> Outcome {
        self.call(transaction.pool.address, transaction.calldata.clone()).await
    }
}

/// A simulation's or the mempool's refusal: nothing was sent.
fn refused(error: &TransportError) -> Outcome {
    let Some(response) = error.as_error_resp() else {
        return Outcome::Rejected(Rejection {
            code: "TRB-3203".to_owned(),
            reason: "the chain node did not answer, nothing was sent; try again".to_owned(),
            never_sent: true,
        });
    };
    Outcome::Rejected(Rejection { code: "TRB-3201".to_owned(), reason: reason(response), never_sent: true })
}

/// The pool's own error with the values it compared, or what the node said.
fn reason(response: &ErrorPayload) -> String {
    match response.as_revert_data().and_then(|data| StreamPoolErrors::abi_decode(&data).ok()) {
        Some(error) => format!("the pool refuses it: {error:?}"),
        None => format!("the chain node refuses it: {}", response.message),
    }
}

/// The pool error's name in a rejection's reason, if that is what refused it.
#[must_use]
pub fn pool_error(rejection: &Rejection) -> Option<&str> {
    let error = rejection.reason.strip_prefix("the pool refuses it: ")?;
    error.split('(').next()
}
