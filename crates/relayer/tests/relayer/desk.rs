//! What the tests share: a relayer, and a wallet with money that pays it.

use std::{path::PathBuf, sync::Arc};

use alloy::{
    primitives::{Address, B256, Bytes, U256},
    providers::{DynProvider, Provider, ext::AnvilApi},
};
use tributary_ledger::ManualClock;
use tributary_protocol::Operation;
use tributary_relayer::{Engine, EngineConfig, QuotedTerms, RelayerError, RelayerStore, RequestKey, RequestState};
use tributary_wallet::{Intent, PreparedTransaction, SendTerms, Wallet};

use crate::net::{Net, amount, prover};

/// The account of the relayer.
pub(crate) const RELAYER: usize = 6;

/// What the relayer asks for, in base units: worth its gas many times over.
pub(crate) const FEE: u128 = 100_000;

/// Pays any gas price that a test chain asks, and forgets nothing.
pub(crate) const CONFIG: EngineConfig = EngineConfig {
    max_gas_price: 1_000_000_000_000,
    wei_per_base_unit: 1_000_000_000_000,
    deadline_margin: 10,
    max_waiting: 8,
    confirmations: 4,
    max_batches: 4,
    replace_after: 30,
    remember: 3_600,
    insert_after: 0,
    low_balance: U256::ZERO,
    poll: std::time::Duration::from_millis(20),
};

pub(crate) struct Desk {
    pub(crate) net: Net,
    pub(crate) payer: Wallet,
    pub(crate) payee: Wallet,
    pub(crate) engine: Engine,
    pub(crate) clock: ManualClock,
}

impl Desk {
    pub(crate) async fn open() -> Self {
        Self::with(CONFIG).await
    }

    /// A payer with two notes in the tree, and a relayer.
    pub(crate) async fn with(config: EngineConfig) -> Self {
        let net = Net::start().await;
        let (payer, payee) = (net.wallet(1).await, net.wallet(2).await);
        net.deposit(&payer, 0, 1_000_000).await;
        net.deposit(&payer, 0, 1_000_000).await;
        let clock = ManualClock::new(net.now().await);
        let engine = engine(&net, net.provider.clone(), config, clock.clone()).await;
        Self { net, payer, payee, engine, clock }
    }

    /// What the relayer's account binds a proof to.
    pub(crate) fn terms(&self) -> SendTerms {
        SendTerms { relayer: self.engine.account(), fee: amount(FEE), deadline: None }
    }

    /// A transfer to the payee that pays the relayer.
    pub(crate) async fn transfer(&self) -> PreparedTransaction {
        self.transfer_on(self.terms()).await
    }

    pub(crate) async fn transfer_on(&self, terms: SendTerms) -> PreparedTransaction {
        let intent = Intent::Transfer { to: self.payee.address(), amount: amount(1_000) };
        self.payer.prepare(intent, terms).await.unwrap()
    }

    /// What the relayer signed for.
    pub(crate) fn quote(&self, with_insertion: bool) -> QuotedTerms {
        QuotedTerms {
            operation: Operation::Transact,
            with_insertion,
            fee: FEE,
            valid_until: tributary_ledger::Clock::now(&self.clock) + 60,
        }
    }

    pub(crate) async fn submit(
        &self,
        key: u8,
        transaction: &PreparedTransaction,
        with_insertion: bool,
    ) -> Result<RequestState, RelayerError> {
        self.submit_call(key, transaction.calldata.clone(), with_insertion).await
    }

    pub(crate) async fn submit_call(
        &self,
        key: u8,
        call: Bytes,
        with_insertion: bool,
    ) -> Result<RequestState, RelayerError> {
        let quote = self.quote(with_insertion);
        self.engine.submit([key; 16], quote, Operation::Transact, with_insertion, call).await
    }

    pub(crate) async fn state(&self, key: u8) -> RequestState {
        self.engine.status([key; 16]).await.unwrap()
    }

    /// The transaction that carries a request now.
    pub(crate) async fn pending(&self, key: u8) -> B256 {
        match self.state(key).await {
            RequestState::Pending { transaction } => transaction,
            other => panic!("{other:?}"),
        }
    }

    /// Transactions of the relayer's account that are mined.
    pub(crate) async fn sent(&self) -> u64 {
        self.net.provider.get_transaction_count(self.engine.account()).await.unwrap()
    }

    /// Base units that the relayer earned.
    pub(crate) async fn earned(&self) -> u128 {
        self.net.tokens(self.engine.account()).await
    }

    /// From now on a block takes transactions only when a test mines it.
    pub(crate) async fn hold_blocks(&self) {
        self.net.provider.anvil_set_auto_mine(false).await.unwrap();
    }

    /// A turn of the relayer, and the block with what it sent.
    pub(crate) async fn turn(&self) {
        self.engine.turn().await.unwrap();
        self.mined().await;
    }

    /// Waits until blocks have all that was sent: the chain node mines beside.
    pub(crate) async fn mined(&self) {
        for sent in self.engine.store().unsettled().await.unwrap() {
            while self.net.provider.get_transaction_receipt(sent.hash).await.unwrap().is_none() {
                tokio::task::yield_now().await;
            }
        }
    }

    pub(crate) async fn mine(&self) {
        self.net.mine(1).await;
    }
}

pub(crate) fn database(net: &Net) -> PathBuf {
    net.dir.path().join("relayer.sqlite")
}

/// An engine on the database of `net`'s folder: the same one again after its process ended.
pub(crate) async fn engine(net: &Net, chain: DynProvider, config: EngineConfig, clock: ManualClock) -> Engine {
    let store = RelayerStore::open(&database(net)).await.unwrap();
    Engine::new(chain, net.signer(RELAYER), net.ledger.clone(), prover(), store, config, Arc::new(clock))
}

pub(crate) fn key(byte: u8) -> RequestKey {
    [byte; 16]
}

/// The code of a refusal.
pub(crate) fn code<T: std::fmt::Debug>(result: Result<T, RelayerError>) -> &'static str {
    result.expect_err("a refusal").code()
}

/// The address that nobody has.
pub(crate) const NOBODY: Address = Address::repeat_byte(0x11);
