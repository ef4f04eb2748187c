//! Sends transactions: one at a time, each written down before it leaves, followed until it is deep.

use std::{future::Future, sync::Arc, time::Duration};

use alloy::{
    network::EthereumWallet,
    primitives::{Address, Bytes, U256},
    providers::{DynProvider, Provider},
    signers::local::PrivateKeySigner,
};
use tokio::sync::{Mutex, Notify};
use tributary_ledger::{Clock, Ledger};
use tributary_protocol::{
    Commitment, Operation,
    tree::{BATCH_LEAVES, Insertion},
};
use tributary_prover::Prover;
use tributary_wallet::{ProvedInsertion, bundle_calldata, prove_planned};

use crate::{
    RelayerError, StoredRequest,
    call::{PoolCall, operation_name},
    metrics::{Counters, RelayerSnapshot},
    send::chain,
    store::{RelayerStore, RequestKey, RequestState},
};

/// How a relayer works.
#[derive(Debug, Clone, Copy)]
pub struct EngineConfig {
    /// Highest gas price that is paid, in wei.
    pub max_gas_price: u128,
    /// What one base unit of the token is worth, in wei.
    pub wei_per_base_unit: u128,
    /// Seconds that must be left of a deadline when a transaction is taken.
    pub deadline_margin: u64,
    /// Transactions that may wait.
    pub max_waiting: u64,
    /// Blocks after which a mined transaction is forgotten; reorganisations up to this depth are undone by sending again.
    pub confirmations: u64,
    /// Batches in one bundle at most.
    pub max_batches: usize,
    /// Seconds after which a transaction that no block took is sent again with a higher gas price.
    pub replace_after: u64,
    /// Seconds for which a finished request's state can be asked.
    pub remember: u64,
    /// Seconds after which waiting leaves are inserted even though nobody paid for it; 0 = only full batches.
    pub insert_after: u64,
    /// Balance below which a warning is logged, in wei.
    pub low_balance: U256,
    /// Time between two looks at the chain.
    pub poll: Duration,
}

impl Default for EngineConfig {
    fn default() -> Self {
        Self {
            max_gas_price: 200_000_000_000,
            wei_per_base_unit: 1_000_000_000,
            deadline_margin: 10,
            max_waiting: 256,
            confirmations: 12,
            max_batches: 4,
            replace_after: 30,
            remember: 7 * 86_400,
            insert_after: 600,
            low_balance: U256::from(100_000_000_000_000_000u128),
            poll: Duration::from_millis(500),
        }
    }
}

/// What a request may rely on: the terms of a quote that this relayer signed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct QuotedTerms {
    /// The operation.
    pub operation: Operation,
    /// Whether insertion is part of it.
    pub with_insertion: bool,
    /// The fee in base units.
    pub fee: u128,
    /// Unix seconds.
    pub valid_until: u64,
}

/// Times a transaction is sent again after it reverted on chain.
const MAX_ATTEMPTS: u32 = 3;

/// What an insertion of a batch adds to a bundle's gas, rounded up (contracts/snapshots, `insert_64`).
const INSERTION_GAS: u64 = 320_000;

/// Seconds after a quote's end in which its transaction is still taken: proving takes a while.
const QUOTE_GRACE: u64 = 30;

/// Sends transactions and inserts leaves. Clones share everything.
#[derive(Clone)]
pub struct Engine {
    inner: Arc<Inner>,
}

pub(crate) struct Inner {
    pub(crate) chain: DynProvider,
    pub(crate) wallet: EthereumWallet,
    pub(crate) account: Address,
    pub(crate) chain_id: u64,
    pub(crate) ledger: Ledger,
    prover: Arc<Prover>,
    pub(crate) store: RelayerStore,
    pub(crate) config: EngineConfig,
    pub(crate) clock: Arc<dyn Clock>,
    pub(crate) counters: Counters,
    wake: Notify,
    /// Nonces that are used on the chain while no receipt of ours was there: at the second look the transaction is lost.
    pub(crate) unexplained: parking_lot::Mutex<std::collections::HashSet<u64>>,
    /// One turn at a time, so that two never choose the same nonce.
    turn: Mutex<Waiting>,
}

/// Since when leaves wait that nobody paid to insert.
#[derive(Debug, Default)]
struct Waiting {
    since: Option<u64>,
}

impl std::fmt::Debug for Engine {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Engine").field("account", &self.inner.account).finish_non_exhaustive()
    }
}

impl Engine {
    /// An engine that sends from `signer`'s account. `prover` is loaded for the circuit `insert`.
    #[must_use]
    pub fn new(
        chain: DynProvider,
        signer: PrivateKeySigner,
        ledger: Ledger,
        prover: Arc<Prover>,
        store: RelayerStore,
        config: EngineConfig,
        clock: Arc<dyn Clock>,
    ) -> Self {
        let account = signer.address();
        let chain_id = ledger.pool().chain_id;
        let inner = Inner {
            chain,
            wallet: EthereumWallet::from(signer),
            account,
            chain_id,
            ledger,
            prover,
            store,
            config,
            clock,
            counters: Counters::default(),
            wake: Notify::new(),
            unexplained: parking_lot::Mutex::default(),
            turn: Mutex::default(),
        };
        Self { inner: Arc::new(inner) }
    }

    /// The account that sends and that fees are bound to.
    #[must_use]
    pub fn account(&self) -> Address {
        self.inner.account
    }

    /// The database.
    #[must_use]
    pub fn store(&self) -> &RelayerStore {
        &self.inner.store
    }

    /// Takes a transaction: checks it, stores it, and has it sent. The same key with the same call gives the stored request's state.
    ///
    /// # Errors
    /// [`RelayerError`] with the reason why it is not taken; then nothing was sent.
    pub async fn submit(
        &self,
        key: RequestKey,
        quote: QuotedTerms,
        operation: Operation,
        with_insertion: bool,
        data: Bytes,
    ) -> Result<RequestState, RelayerError> {
        let taken = self.take(key, quote, operation, with_insertion, data).await;
        if let Err(error) = &taken {
            self.inner.counters.rejected(error.code());
        }
        taken
    }

    async fn take(
        &self,
        key: RequestKey,
        quote: QuotedTerms,
        operation: Operation,
        with_insertion: bool,
        data: Bytes,
    ) -> Result<RequestState, RelayerError> {
        let inner = &self.inner;
        match inner.store.find(key).await {
            Ok(known) if known.call != data || known.insertion != with_insertion => {
                return Err(RelayerError::IdempotencyKeyReused);
            }
            Ok(known) => return Ok(known.state),
            Err(RelayerError::NoSuchRequest) => {}
            Err(error) => return Err(error),
        }
        let now = inner.clock.now();
        let call = PoolCall::decode(&data)?;
        if call.operation != operation {
            return Err(RelayerError::WrongOperation {
                named: operation_name(operation),
                got: operation_name(call.operation),
            });
        }
        if (quote.operation, quote.with_insertion) != (operation, with_insertion) {
            let words = |operation, insertion| {
                format!("{}{}", operation_name(operation), if insertion { " with insertion" } else { "" })
            };
            return Err(RelayerError::QuoteForOther {
                quoted: words(quote.operation, quote.with_insertion),
                requested: words(operation, with_insertion),
            });
        }
        if now > quote.valid_until.saturating_add(QUOTE_GRACE) {
            return Err(RelayerError::QuoteExpired { valid_until: quote.valid_until, now });
        }
        let quoted = U256::from(quote.fee);
        if call.fee < quoted {
            return Err(RelayerError::FeeTooLow { bound: call.fee, quoted });
        }
        if !quoted.is_zero() && call.relayer != inner.account {
            return Err(RelayerError::FeeBoundElsewhere { bound: call.relayer, expected: inner.account });
        }
        let deadline = u64::try_from(call.deadline).unwrap_or(u64::MAX);
        if deadline < now.saturating_add(inner.config.deadline_margin) {
            return Err(RelayerError::DeadlineTooNear { deadline, now, margin: inner.config.deadline_margin });
        }
        let gas = inner.simulate(&data).await?;
        let insertion = if with_insertion { INSERTION_GAS } else { 0 };
        inner.check_pays(gas.saturating_add(insertion), call.fee).await?;
        inner.store.forget(now.saturating_sub(inner.config.remember)).await?;
        let (request, _) =
            inner.store.accept(key, &data, with_insertion, &call.exclusive, inner.config.max_waiting, now).await?;
        inner.wake.notify_one();
        Ok(request.state)
    }

    /// Where a request stands.
    ///
    /// # Errors
    /// [`RelayerError::NoSuchRequest`].
    pub async fn status(&self, key: RequestKey) -> Result<RequestState, RelayerError> {
        Ok(self.inner.store.find(key).await?.state)
    }

    /// Requests by state, and counters since the start.
    ///
    /// # Errors
    /// When the database fails.
    pub async fn snapshot(&self) -> Result<RelayerSnapshot, RelayerError> {
        Ok(self.inner.counters.snapshot(self.inner.store.counts().await?))
    }

    /// What the account has for gas, in wei.
    ///
    /// # Errors
    /// [`RelayerError::Chain`].
    pub async fn balance(&self) -> Result<U256, RelayerError> {
        self.inner.chain.get_balance(self.inner.account).await.map_err(chain)
    }

    /// The configuration.
    #[must_use]
    pub fn config(&self) -> &EngineConfig {
        &self.inner.config
    }

    /// Sends, follows and inserts until `shutdown` is done.
    pub async fn run(&self, shutdown: impl Future<Output = ()>) {
        tokio::pin!(shutdown);
        let mut poll = tokio::time::interval(self.inner.config.poll);
        poll.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
        loop {
            tokio::select! {
                () = &mut shutdown => return,
                _ = poll.tick() => {}
                () = self.inner.wake.notified() => {}
            }
            if let Err(error) = self.turn().await {
                tracing::warn!(code = error.code(), %error, "a turn failed and is tried again");
            }
        }
    }

    /// One turn: looks at what was sent, sends what waits, inserts what is due.
    ///
    /// # Errors
    /// [`RelayerError`]; whatever was written stays, and the next turn goes on from there.
    pub async fn turn(&self) -> Result<(), RelayerError> {
        let inner = &self.inner;
        let mut waiting = inner.turn.lock().await;
        inner.ledger.sync().await?;
        inner.follow().await?;
        inner.send_next().await?;
        inner.insert_due(&mut waiting).await
    }
}

impl Inner {
    /// Sends the oldest waiting request, unless one is under way.
    async fn send_next(&self) -> Result<(), RelayerError> {
        if self.store.unsettled().await?.iter().any(|sent| sent.mined_block.is_none()) {
            return Ok(());
        }
        let Some(request) = self.store.accepted(1).await?.pop() else { return Ok(()) };
        let call = PoolCall::decode(&request.call)?;
        match self.simulate(&request.call).await {
            Ok(_) if request.attempts >= MAX_ATTEMPTS => {
                self.counters.rejected("reverts");
                return self.store.reject(request.id, "reverts", "it reverted on chain each time it was sent").await;
            }
            Ok(_) => {}
            Err(error @ RelayerError::Reverts { .. }) => {
                // Anyone may have sent the same call: the fee is the relayer's whoever sends it.
                return match self.done_already(&call).await? {
                    Some(done) => self.store.done(request.id, &done).await,
                    None => {
                        self.counters.rejected(error.code());
                        self.store.reject(request.id, error.code(), &error.to_string()).await
                    }
                };
            }
            Err(error) => return Err(error),
        }
        // A bundle fails as a whole when foreign leaves come first; after a failure the operation goes alone.
        if request.insertion
            && request.attempts == 0
            && let Some(data) = self.bundled(&request, &call).await?
        {
            return self.send(data, Some(&request)).await;
        }
        self.send(request.call.clone(), Some(&request)).await
    }

    /// The request with the insertions that bring its leaves into the tree, if that call would succeed now.
    async fn bundled(&self, request: &StoredRequest, call: &PoolCall) -> Result<Option<Bytes>, RelayerError> {
        let leaves: Option<Vec<Commitment>> =
            call.commitments.iter().map(|leaf| Commitment::try_from(*leaf).ok()).collect();
        let Some(leaves) = leaves else { return Ok(None) };
        let insertions = self.ledger.insertions_with(&leaves, self.config.max_batches);
        let data = bundle_calldata(&request.call, &self.prove(insertions).await?);
        match self.simulate(&data).await {
            Ok(_) => Ok(Some(data)),
            Err(RelayerError::Reverts { reason }) => {
                tracing::info!(reason, "a bundle would revert: sending the operation alone");
                Ok(None)
            }
            Err(error) => Err(error),
        }
    }

    /// Inserts leaves that somebody paid for, full batches, and what waits for too long.
    async fn insert_due(&self, waiting: &mut Waiting) -> Result<(), RelayerError> {
        let (inserted, queued) = (self.ledger.inserted(), self.ledger.queued());
        if inserted == queued {
            waiting.since = None;
            return Ok(());
        }
        let now = self.clock.now();
        let since = *waiting.since.get_or_insert(now);
        let batch = BATCH_LEAVES as u64;
        let full = queued / batch > inserted / batch;
        let old = self.config.insert_after > 0 && now >= since.saturating_add(self.config.insert_after);
        let paid = !self.store.not_inserted().await?.is_empty();
        if !(full || old || paid) || self.store.unsettled().await?.iter().any(|sent| sent.mined_block.is_none()) {
            return Ok(());
        }
        let insertions = self.ledger.insertions_with(&[], self.config.max_batches);
        let insertions = self.prove(insertions).await?;
        if insertions.is_empty() {
            return Ok(());
        }
        waiting.since = None;
        let data = bundle_calldata(&Bytes::new(), &insertions);
        self.simulate(&data).await?;
        self.send(data, None).await
    }

    /// Proves planned insertions, one after the other.
    async fn prove(&self, planned: Vec<Insertion>) -> Result<Vec<ProvedInsertion>, RelayerError> {
        let mut proved = Vec::with_capacity(planned.len());
        for insertion in planned {
            let insertion = prove_planned(&self.prover, insertion).await;
            proved.push(insertion.map_err(|error| RelayerError::Proof(error.to_string()))?);
        }
        Ok(proved)
    }

    async fn check_pays(&self, gas: u64, fee: U256) -> Result<(), RelayerError> {
        let price = self.chain.get_gas_price().await.map_err(chain)?;
        if price > self.config.max_gas_price {
            return Err(RelayerError::GasTooDear { price, max: self.config.max_gas_price });
        }
        let cost = U256::from(gas) * U256::from(price);
        let worth = fee.saturating_mul(U256::from(self.config.wei_per_base_unit));
        if worth < cost {
            return Err(RelayerError::DoesNotPay { cost, worth });
        }
        Ok(())
    }
}
