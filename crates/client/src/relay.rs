//! Sending through a relayer that was found on Waku: it learns the transaction, and no network address.

use std::{
    collections::HashSet,
    sync::{Arc, Mutex, PoisonError},
    time::Duration,
};

use async_trait::async_trait;
use rand::{SeedableRng as _, rngs::StdRng};
use tributary_market::relay::{
    self, AgreedRelayQuote, IdempotencyKey, RelayClient, RelayError, RelayOperation, RelayStatus, VerifiedAnnouncement,
};
use tributary_protocol::Amount;
use tributary_waku::PeerId;
use tributary_wallet::{OperationKind, Outcome, PreparedTransaction, Rejection, SendTerms, Submitter};

use crate::discover::Directory;

/// Time between two questions about a transaction.
const STATUS_INTERVAL: Duration = Duration::from_millis(250);

/// How long relayers are listened for when none is known: each repeats its announcement, and archives keep it.
const LISTENING: Duration = Duration::from_secs(10);

/// How long a transaction is asked about before its outcome is unknown.
const PATIENCE: Duration = Duration::from_secs(60);

/// Sends through relayers, the cheapest ones in turn.
pub struct RelaySubmitter {
    client: RelayClient,
    directory: Directory,
    max_fee: Amount,
    with_insertion: bool,
    patience: Duration,
    agreed: Mutex<Option<Agreed>>,
    /// Relayers whose last answer was silence or a refusal.
    failed: Mutex<HashSet<PeerId>>,
}

#[derive(Clone)]
struct Agreed {
    relayer: Arc<VerifiedAnnouncement>,
    quote: AgreedRelayQuote,
    kind: OperationKind,
}

impl std::fmt::Debug for RelaySubmitter {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("RelaySubmitter")
            .field("max_fee", &self.max_fee)
            .field("with_insertion", &self.with_insertion)
            .finish_non_exhaustive()
    }
}

impl RelaySubmitter {
    /// Sends for at most `max_fee` a transaction, with insertion until its leaves are in the tree if `with_insertion`.
    #[must_use]
    pub fn new(client: RelayClient, directory: Directory, max_fee: Amount, with_insertion: bool) -> Self {
        Self {
            client,
            directory,
            max_fee,
            with_insertion,
            patience: PATIENCE,
            agreed: Mutex::default(),
            failed: Mutex::default(),
        }
    }

    /// Most that a relayer is paid.
    #[must_use]
    pub const fn max_fee(&self) -> Amount {
        self.max_fee
    }

    /// How long a transaction is asked about before its outcome is unknown; a minute by default.
    #[must_use]
    pub const fn patience(mut self, patience: Duration) -> Self {
        self.patience = patience;
        self
    }

    /// Whether another relayer than those that failed is known, whatever it asks for.
    #[must_use]
    pub fn others_are_left(&self) -> bool {
        let failed = self.failed();
        self.directory.relayers().iter().any(|relayer| !failed.contains(&relayer.peer_id()))
    }

    fn failed(&self) -> std::sync::MutexGuard<'_, HashSet<PeerId>> {
        self.failed.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The relayer and the fee agreed last.
    #[must_use]
    pub fn last(&self) -> Option<(Arc<VerifiedAnnouncement>, Amount)> {
        self.lock().as_ref().map(|agreed| (Arc::clone(&agreed.relayer), agreed.quote.quote().fee))
    }

    fn lock(&self) -> std::sync::MutexGuard<'_, Option<Agreed>> {
        self.agreed.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[async_trait]
impl Submitter for RelaySubmitter {
    /// Asks relayers for a signed quote until one gives it; a silent or dear one is passed over.
    async fn terms(&self, kind: OperationKind) -> Result<SendTerms, Rejection> {
        let operation = operation(kind);
        let mut known = self.directory.relayers();
        if known.is_empty() {
            if let Err(error) = self.directory.discover_at_least(0, LISTENING).await {
                tracing::warn!(code = error.code(), %error, "relayers can't be listened for");
            }
            known = self.directory.relayers();
        }
        let mut last = if known.is_empty() {
            "no relayer is known: run `tributary discover`, or send with --direct".to_owned()
        } else {
            format!("no relayer takes it for at most {} base units: raise buyer.max_relay_fee", self.max_fee.get())
        };
        // Those that failed come last: when nobody else is left they get another chance.
        let (failed, fresh): (Vec<_>, Vec<_>) = {
            let mut failed = self.failed();
            failed.retain(|peer| known.iter().any(|relayer| relayer.peer_id() == *peer));
            known.into_iter().partition(|relayer| failed.contains(&relayer.peer_id()))
        };
        let mut rng = StdRng::from_entropy();
        for mut candidates in [fresh, failed] {
            while let Some(relayer) = relay::choose(&candidates, operation, self.with_insertion, self.max_fee, &mut rng)
            {
                match self.client.quote(&relayer, operation, self.with_insertion, self.max_fee).await {
                    Ok(quote) => {
                        let fee = quote.quote().fee;
                        let account = relayer.announcement().account;
                        *self.lock() = Some(Agreed { relayer, quote, kind });
                        let relayer = if fee.is_zero() { alloy::primitives::Address::ZERO } else { account };
                        return Ok(SendTerms { relayer, fee, deadline: None });
                    }
                    Err(error) => {
                        tracing::info!(code = error.code(), %error, "a relayer gave no quote");
                        last = error.to_string();
                        self.failed().insert(relayer.peer_id());
                        candidates.retain(|other| !Arc::ptr_eq(other, &relayer));
                    }
                }
            }
        }
        Err(Rejection { code: "no_relayer".into(), reason: last, never_sent: true })
    }

    async fn submit(&self, transaction: &PreparedTransaction) -> Outcome {
        let agreed = self.lock().clone();
        let Some(agreed) = agreed
            .filter(|agreed| agreed.kind == transaction.kind && agreed.quote.quote().fee == transaction.external.fee)
        else {
            return Outcome::Rejected(Rejection {
                code: "no_quote".into(),
                reason: "the transaction is bound to another relayer's fee: prepare it again".into(),
                never_sent: true,
            });
        };
        let key = IdempotencyKey::from_bytes(*transaction.attempt.as_bytes());
        let first = self.client.submit(&agreed.relayer, &agreed.quote, key, transaction.calldata.to_vec()).await;
        let status = match first {
            Ok(status) if status.is_final() => status,
            Ok(_) | Err(RelayError::Rpc(_)) => {
                self.client.wait(&agreed.relayer, key, STATUS_INTERVAL, self.patience).await
            }
            Err(error) => RelayStatus::Unknown { description: error.to_string() },
        };
        if !matches!(status, RelayStatus::Confirmed { .. }) {
            self.failed().insert(agreed.relayer.peer_id());
        }
        match status {
            RelayStatus::Confirmed { transaction, block_number, .. } => {
                Outcome::Confirmed { tx_hash: transaction, block: block_number }
            }
            // A relayer's word: it holds the transaction and may send it all the same, until its deadline.
            RelayStatus::Rejected { code, description, .. } => {
                Outcome::Rejected(Rejection { code, reason: description, never_sent: false })
            }
            RelayStatus::Pending { transaction } => {
                Outcome::Unknown { tx_hash: Some(transaction), reason: "sent, not mined in time".into() }
            }
            RelayStatus::Accepted => {
                Outcome::Unknown { tx_hash: None, reason: "the relayer has it and has not sent it".into() }
            }
            RelayStatus::Unknown { description } => Outcome::Unknown { tx_hash: None, reason: description },
        }
    }
}

/// What a relayer is asked for: it need not know more than the call shows.
const fn operation(kind: OperationKind) -> RelayOperation {
    match kind {
        OperationKind::Close | OperationKind::Reopen => RelayOperation::Close,
        OperationKind::Claim => RelayOperation::Claim,
        _ => RelayOperation::Transact,
    }
}
