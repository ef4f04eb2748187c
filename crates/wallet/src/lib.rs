//! What a payer or a payee can do: deposit, transfer, merge, withdraw, open, close, reopen, claim, restore from the seed, and make
//! tickets ahead of time.
//!
//! A wallet stores what it found on chain and what it is doing, never where a note stands on chain: that the [`Ledger`] is asked each
//! time, so a reorganisation can't leave the two apart. Every transaction is proved and written down with its inputs reserved before
//! anybody may send it; of all attempts at one operation only one can be mined, since all spend the same first nullifier.

mod balance;
mod calldata;
mod deposit;
mod error;
mod insertion;
mod operation;
mod prepare;
mod proving;
mod scan;
mod store;
mod stream;
mod submit;
pub mod tickets;
mod vault;

use std::{
    collections::{HashMap, HashSet},
    fmt,
    path::{Path, PathBuf},
    sync::{Arc, Mutex, PoisonError},
};

use sha2::{Digest, Sha256};
use tokio::sync::Mutex as AsyncMutex;
use tributary_ledger::{Clock, Ledger};
use tributary_protocol::{AccountKeys, Amount, Commitment, Mnemonic, PaymentAddress, PoolScope, Seconds, UnixTime};
use tributary_prover::Prover;

use crate::store::{Ended, OperationRow, Store, set_meta};
pub use crate::{
    balance::Balance,
    deposit::{DepositFrom, SignedPermit, approve, domain_separator, sign_permit, token_balance},
    error::WalletError,
    insertion::{ProvedInsertion, bundle_calldata, prove_insertion, prove_insertions, prove_planned},
    operation::{
        AttemptId, Intent, OpenStream, OperationId, OperationInfo, OperationKind, OperationStatus, Outcome,
        PreparedTransaction, Rejection, SendTerms,
    },
    scan::ScanReport,
    stream::{PayeeStream, PayerStream, StreamState},
    submit::{DirectConfig, DirectSubmitter, Submitter, pool_error},
    tickets::TicketMaker,
    vault::{Password, PasswordCost, Vault, VaultError},
};

/// A wallet's habits.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct WalletConfig {
    /// Account number under the seed.
    pub account: u32,
    /// Blocks that a root should be deep before it is proved under; where the inputs are younger, the newest root is used.
    pub root_depth: u64,
    /// How long a transaction may wait to be mined, where no rule says otherwise.
    pub validity: Seconds,
    /// Blocks after which a passed deadline or a mined transaction is taken for final.
    pub settle_depth: u64,
    /// Notes below this are ignored: anyone can send dust.
    pub least_note: Amount,
    /// Streams to this payee with a smaller deposit are ignored.
    pub least_stream: Amount,
    /// A claim leaves out streams that have accrued less: a lane costs gas.
    pub least_claim: Amount,
}

impl Default for WalletConfig {
    fn default() -> Self {
        let one = Amount::new(1).unwrap_or(Amount::MAX);
        Self {
            account: 0,
            root_depth: 2,
            validity: Seconds::new(600).unwrap_or(Seconds::MAX),
            settle_depth: 12,
            least_note: one,
            least_stream: one,
            least_claim: one,
        }
    }
}

/// What a wallet is connected to.
#[derive(Clone, Debug)]
pub struct Services {
    /// Follows the pool.
    pub ledger: Ledger,
    /// Makes the proofs.
    pub prover: Arc<Prover>,
    /// What time it is.
    pub clock: Arc<dyn Clock>,
}

/// One account in one pool. Clones share everything.
#[derive(Clone)]
pub struct Wallet {
    inner: Arc<Inner>,
}

struct Inner {
    keys: AccountKeys,
    store: Store,
    services: Services,
    config: WalletConfig,
    /// When a wallet without its state was made from the seed, if it was.
    restored_at: Option<UnixTime>,
    /// Choosing inputs and reserving them is one step.
    choosing: AsyncMutex<()>,
    scanning: AsyncMutex<()>,
    /// Operations whose proof this process is making.
    proving: Mutex<HashSet<OperationId>>,
}

impl fmt::Debug for Wallet {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Wallet").field("config", &self.inner.config).finish_non_exhaustive()
    }
}

/// Where a wallet's files are.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct WalletFolder(PathBuf);

impl WalletFolder {
    /// A folder; it is made when it isn't there.
    #[must_use]
    pub fn new(path: impl Into<PathBuf>) -> Self {
        Self(path.into())
    }

    /// The seed file.
    #[must_use]
    pub fn seed(&self) -> PathBuf {
        self.0.join("seed.json")
    }

    /// The database of one account in one pool.
    #[must_use]
    pub fn database(&self, scope: &PoolScope) -> PathBuf {
        self.0.join(format!("wallet-{}-{:#x}-{}.sqlite", scope.pool.chain_id, scope.pool.address, scope.account))
    }

    /// The ticket counters of one account in one pool.
    #[must_use]
    pub fn tickets(&self, scope: &PoolScope) -> PathBuf {
        self.0.join(format!("tickets-{}-{:#x}-{}.sqlite", scope.pool.chain_id, scope.pool.address, scope.account))
    }
}

/// How a wallet's state came about.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Origin {
    /// From a fresh seed: there is nothing on chain yet.
    New,
    /// From a seed that was used before, or whose state was lost: the chain is read from its start, and tickets of slots that may have been
    /// paid already are left out.
    Restored,
}

impl Wallet {
    /// Makes a wallet with a fresh phrase, or with one that was never used. Show the phrase to its owner ([`Vault::mnemonic`]).
    ///
    /// # Errors
    /// [`VaultError::Exists`] when the folder holds a wallet.
    pub async fn create(
        folder: &WalletFolder,
        mnemonic: Mnemonic,
        password: &Password,
        cost: PasswordCost,
        services: Services,
        config: WalletConfig,
    ) -> Result<Self, WalletError> {
        Self::make(folder, mnemonic, password, cost, services, config, Origin::New).await
    }

    /// Makes a wallet from a phrase that was used before. [`Wallet::scan`] then finds its notes, streams paid to it and streams that it
    /// pays.
    ///
    /// # Errors
    /// [`VaultError::Exists`] when the folder holds a wallet.
    pub async fn restore(
        folder: &WalletFolder,
        mnemonic: Mnemonic,
        password: &Password,
        cost: PasswordCost,
        services: Services,
        config: WalletConfig,
    ) -> Result<Self, WalletError> {
        Self::make(folder, mnemonic, password, cost, services, config, Origin::Restored).await
    }

    async fn make(
        folder: &WalletFolder,
        mnemonic: Mnemonic,
        password: &Password,
        cost: PasswordCost,
        services: Services,
        config: WalletConfig,
        origin: Origin,
    ) -> Result<Self, WalletError> {
        std::fs::create_dir_all(&folder.0)?;
        let (path, password) = (folder.seed(), password.clone());
        let vault = blocking(move || Vault::create(&path, mnemonic, "", &password, cost)).await??;
        Self::with_vault(folder, &vault, services, config, origin).await
    }

    /// Opens a wallet. When its database is gone, it is restored from the seed.
    ///
    /// # Errors
    /// [`VaultError::WrongPassword`] and others.
    pub async fn open(
        folder: &WalletFolder,
        password: &Password,
        services: Services,
        config: WalletConfig,
    ) -> Result<Self, WalletError> {
        let (path, password) = (folder.seed(), password.clone());
        let vault = blocking(move || Vault::open(&path, &password)).await??;
        Self::with_vault(folder, &vault, services, config, Origin::Restored).await
    }

    /// Opens a wallet whose seed file is open already. `origin` counts only when the account's database isn't there yet.
    ///
    /// # Errors
    /// [`WalletError`].
    pub async fn with_vault(
        folder: &WalletFolder,
        vault: &Vault,
        services: Services,
        config: WalletConfig,
        origin: Origin,
    ) -> Result<Self, WalletError> {
        let scope = PoolScope { pool: services.ledger.pool(), account: config.account };
        let keys = vault.seed().account(scope)?;
        Self::with_keys(&folder.database(&scope), keys, services, config, origin).await
    }

    /// Opens a wallet with keys from elsewhere.
    ///
    /// # Errors
    /// [`WalletError::WrongWallet`] when the database at `path` is not these keys'.
    pub async fn with_keys(
        path: &Path,
        keys: AccountKeys,
        services: Services,
        config: WalletConfig,
        origin: Origin,
    ) -> Result<Self, WalletError> {
        let store = Store::open(path).await?;
        let scope = keys.scope;
        if scope.pool != services.ledger.pool() {
            return Err(WalletError::WrongWallet);
        }
        let mut identity = Sha256::new();
        identity.update(b"tributary.wallet.v1");
        identity.update(scope.pool.chain_id.to_be_bytes());
        identity.update(scope.pool.address.as_slice());
        identity.update(scope.account.to_be_bytes());
        identity.update(keys.owner().to_be_bytes());
        let identity: [u8; 32] = identity.finalize().into();
        match store.meta("identity").await? {
            Some(found) if found == identity => {}
            Some(_) => return Err(WalletError::WrongWallet),
            None => {
                let restored = match origin {
                    Origin::New => 0,
                    Origin::Restored => {
                        services.clock.now().max(services.ledger.head().map_or(0, |h| h.timestamp)).max(1)
                    }
                };
                let mut tx = store.begin().await?;
                set_meta(&mut tx, "restored_at", &restored.to_be_bytes()).await?;
                set_meta(&mut tx, "identity", &identity).await?;
                tx.commit().await?;
            }
        }
        let restored = store.meta("restored_at").await?.unwrap_or_default();
        let restored: [u8; 8] =
            restored.try_into().map_err(|_| WalletError::Corrupt { what: "the time of restoring".to_owned() })?;
        let restored_at = match u64::from_be_bytes(restored) {
            0 => None,
            at => Some(UnixTime::new(at)?),
        };
        let inner = Inner {
            keys,
            store,
            services,
            config,
            restored_at,
            choosing: AsyncMutex::default(),
            scanning: AsyncMutex::default(),
            proving: Mutex::default(),
        };
        Ok(Self { inner: Arc::new(inner) })
    }

    /// Where others pay to.
    #[must_use]
    pub fn address(&self) -> PaymentAddress {
        self.inner.keys.address()
    }

    /// The account's keys. Secret.
    #[must_use]
    pub fn keys(&self) -> &AccountKeys {
        &self.inner.keys
    }

    /// The ledger that it asks.
    #[must_use]
    pub fn ledger(&self) -> &Ledger {
        &self.inner.services.ledger
    }

    /// The prover that it uses.
    #[must_use]
    pub fn prover(&self) -> &Arc<Prover> {
        &self.inner.services.prover
    }

    /// Its habits.
    #[must_use]
    pub fn config(&self) -> &WalletConfig {
        &self.inner.config
    }

    /// Opens the ticket counters beside the wallet. When they are gone although the wallet had some, slots that may have been paid already are
    /// left out, as after a restore.
    ///
    /// # Errors
    /// [`WalletError::Tickets`].
    pub async fn tickets(&self, path: &Path) -> Result<TicketMaker, WalletError> {
        let lost = self.inner.store.meta("tickets").await?.is_some() && !path.exists();
        let restored_at = if lost { Some(self.now()?) } else { self.inner.restored_at };
        let maker = TicketMaker::open(path, self.ledger().clone(), Arc::clone(self.prover()), restored_at).await?;
        let mut tx = self.inner.store.begin().await?;
        set_meta(&mut tx, "tickets", &[1]).await?;
        tx.commit().await?;
        Ok(maker)
    }

    /// When its state was last made from the seed alone, if it was: tickets of slots until then may have been used.
    #[must_use]
    pub fn restored_at(&self) -> Option<UnixTime> {
        self.inner.restored_at
    }

    /// The clock's time, or the chain's where that is ahead.
    ///
    /// # Errors
    /// [`WalletError::Range`] when the clock is beyond the year 36812.
    pub fn now(&self) -> Result<UnixTime, WalletError> {
        let head = self.ledger().head().map_or(0, |head| head.timestamp);
        Ok(UnixTime::new(self.inner.services.clock.now().max(head))?)
    }

    /// Reads the chain to its head and then everything new in it.
    ///
    /// # Errors
    /// [`WalletError`].
    pub async fn sync(&self) -> Result<ScanReport, WalletError> {
        self.ledger().sync().await?;
        let report = self.scan().await?;
        self.reconcile().await?;
        Ok(report)
    }

    /// Proves, sends and records in one go. After [`Outcome::Unknown`], synchronise and look at [`Wallet::operation`].
    ///
    /// # Errors
    /// [`WalletError`] before anything was sent. A submitter without terms is [`Outcome::Rejected`].
    pub async fn execute(
        &self,
        intent: Intent,
        submitter: &dyn Submitter,
    ) -> Result<(Option<PreparedTransaction>, Outcome), WalletError> {
        let terms = match submitter.terms(intent.kind()).await {
            Ok(terms) => terms,
            Err(rejection) => return Ok((None, Outcome::Rejected(rejection))),
        };
        let prepared = self.prepare(intent, terms).await?;
        let outcome = self.submit(&prepared, submitter).await?;
        Ok((Some(prepared), outcome))
    }

    /// Hands a prepared transaction to a submitter, having written down that it does, and records the outcome.
    ///
    /// # Errors
    /// [`WalletError::Database`].
    pub async fn submit(
        &self,
        prepared: &PreparedTransaction,
        submitter: &dyn Submitter,
    ) -> Result<Outcome, WalletError> {
        let before = self.inner.store.attempts(prepared.operation).await?;
        let handed_out = before.iter().any(|attempt| attempt.id == prepared.attempt && attempt.sent);
        self.inner.store.mark_sent(prepared.attempt).await?;
        let outcome = submitter.submit(prepared).await;
        let never_sent = matches!(&outcome, Outcome::Rejected(rejection) if rejection.never_sent);
        self.inner.store.set_outcome(prepared.attempt, &outcome, never_sent && !handed_out).await?;
        Ok(outcome)
    }

    /// Looks up every pending operation on chain: confirmed ones that are deep enough are closed, expired ones give their inputs back.
    /// Call it after each synchronisation and after a start.
    ///
    /// # Errors
    /// [`WalletError`].
    pub async fn reconcile(&self) -> Result<Vec<OperationInfo>, WalletError> {
        let mut infos = Vec::new();
        for row in self.inner.store.open_operations().await? {
            let info = self.info(&row).await?;
            match info.status {
                OperationStatus::Confirmed { depth, .. } if depth >= self.inner.config.settle_depth => {
                    self.inner.store.end_operation(row.id, Ended::Confirmed).await?;
                }
                OperationStatus::Expired => self.inner.store.end_operation(row.id, Ended::Expired).await?,
                OperationStatus::Preparing
                    if !self.is_proving(row.id) && self.now()?.since(row.created) > MOST_PROVING =>
                {
                    // Whoever was proving it is gone: nobody has seen anything of it.
                    self.inner.store.end_operation(row.id, Ended::Abandoned).await?;
                    continue;
                }
                _ => {}
            }
            infos.push(info);
        }
        Ok(infos)
    }

    /// Pending operations.
    ///
    /// # Errors
    /// [`WalletError`].
    pub async fn operations(&self) -> Result<Vec<OperationInfo>, WalletError> {
        let mut infos = Vec::new();
        for row in self.inner.store.open_operations().await? {
            infos.push(self.info(&row).await?);
        }
        Ok(infos)
    }

    /// One operation.
    ///
    /// # Errors
    /// [`WalletError::UnknownOperation`].
    pub async fn operation(&self, id: OperationId) -> Result<OperationInfo, WalletError> {
        let row = self.inner.store.operation(id).await?;
        self.info(&row).await
    }

    /// The transactions that were prepared for an operation, in order.
    ///
    /// # Errors
    /// [`WalletError::UnknownOperation`].
    pub async fn attempts(&self, id: OperationId) -> Result<Vec<PreparedTransaction>, WalletError> {
        self.inner.store.operation(id).await?;
        Ok(self.inner.store.attempts(id).await?.into_iter().map(|attempt| attempt.prepared).collect())
    }

    /// Gives an operation up and frees its inputs, if none of its transactions can still be mined.
    ///
    /// # Errors
    /// [`WalletError::StillPossible`], [`WalletError::AlreadyConfirmed`].
    pub async fn abandon(&self, id: OperationId) -> Result<(), WalletError> {
        let row = self.inner.store.operation(id).await?;
        let info = self.info(&row).await?;
        match info.status {
            OperationStatus::Confirmed { block, .. } => {
                return Err(WalletError::AlreadyConfirmed { operation: id, block });
            }
            OperationStatus::Expired | OperationStatus::Abandoned => return Ok(()),
            OperationStatus::Preparing | OperationStatus::Prepared | OperationStatus::Sent => {}
        }
        let attempts = self.inner.store.attempts(id).await?;
        if let Some(live) = attempts.iter().filter(|a| a.sent && !a.dead).map(|a| a.deadline).max()
            && live >= self.settled_time()
        {
            return Err(WalletError::StillPossible { operation: id, deadline: live.get() });
        }
        self.inner.store.end_operation(id, Ended::Abandoned).await
    }

    /// Timestamp of a block so deep that what it ruled out stays ruled out.
    fn settled_time(&self) -> UnixTime {
        self.ledger().time_at_depth(self.inner.config.settle_depth).unwrap_or(UnixTime::ZERO)
    }

    fn is_proving(&self, id: OperationId) -> bool {
        self.inner.proving.lock().unwrap_or_else(PoisonError::into_inner).contains(&id)
    }

    async fn info(&self, row: &OperationRow) -> Result<OperationInfo, WalletError> {
        let attempts = self.inner.store.attempts(row.id).await?;
        let deadline = attempts.iter().map(|attempt| attempt.deadline).max();
        let latest = attempts.last();
        let status = self.status(row, &attempts).await?;
        Ok(OperationInfo {
            id: row.id,
            intent: row.intent.clone(),
            status,
            created: row.created,
            latest: latest.map(|attempt| attempt.id),
            deadline,
            outcome: latest.and_then(|attempt| attempt.outcome.clone()),
        })
    }

    async fn status(&self, row: &OperationRow, attempts: &[store::AttemptRow]) -> Result<OperationStatus, WalletError> {
        let ledger = self.ledger();
        let confirmed = match row.nf_0 {
            Some(nf_0) => ledger.spent(nf_0).await?.map(|spent| spent.block),
            None => self.claim_block(attempts).await?,
        };
        if let Some(block) = confirmed {
            return Ok(OperationStatus::Confirmed { block, depth: ledger.depth(block) });
        }
        Ok(match row.ended {
            ended if ended == Ended::Abandoned as i64 => OperationStatus::Abandoned,
            ended if ended != 0 => OperationStatus::Expired,
            _ if attempts.is_empty() => OperationStatus::Preparing,
            _ if attempts.iter().all(|attempt| attempt.deadline < self.settled_time()) => OperationStatus::Expired,
            _ if attempts.iter().any(|attempt| attempt.sent) => OperationStatus::Sent,
            _ => OperationStatus::Prepared,
        })
    }

    /// A claim spends no note. It is on chain when its new note is (or when its windows are paid, should the note have been dropped).
    async fn claim_block(&self, attempts: &[store::AttemptRow]) -> Result<Option<u64>, WalletError> {
        for attempt in attempts {
            for commitment in &attempt.prepared.commitments {
                if let Some(leaf) = self.ledger().leaf(*commitment).await? {
                    return Ok(Some(leaf.block));
                }
            }
        }
        Ok(None)
    }

    /// What pending operations hold. One that is on chain holds nothing: what it spent is spent, and its streams are free again.
    async fn reserved(&self) -> Result<HashMap<Commitment, OperationId>, WalletError> {
        let mut reserved = HashMap::new();
        let mut confirmed: HashMap<OperationId, bool> = HashMap::new();
        for (commitment, id) in self.inner.store.reservations().await? {
            let done = match confirmed.get(&id) {
                Some(done) => *done,
                None => {
                    let done = matches!(self.operation(id).await?.status, OperationStatus::Confirmed { .. });
                    confirmed.insert(id, done);
                    done
                }
            };
            if !done {
                reserved.insert(commitment, id);
            }
        }
        Ok(reserved)
    }
}

/// How long another process may take for a proof before its operation is taken for dead.
const MOST_PROVING: Seconds = match Seconds::new(120) {
    Ok(seconds) => seconds,
    Err(_) => Seconds::MAX,
};

async fn blocking<T: Send + 'static>(work: impl FnOnce() -> T + Send + 'static) -> Result<T, WalletError> {
    match tokio::task::spawn_blocking(work).await {
        Ok(value) => Ok(value),
        Err(error) => match error.try_into_panic() {
            Ok(panic) => std::panic::resume_unwind(panic),
            Err(_) => Err(WalletError::Interrupted),
        },
    }
}
