//! A local chain with the real contracts, deployed by the deploy script, and wallets with the real prover.

use std::{
    path::{Path, PathBuf},
    process::Command,
    sync::Arc,
};

use alloy::{
    network::EthereumWallet,
    node_bindings::{Anvil, AnvilInstance},
    primitives::{Address, Bytes, U256},
    providers::{DynProvider, Provider, ProviderBuilder, ext::AnvilApi},
    rpc::types::anvil::MineOptions,
    signers::local::PrivateKeySigner,
};
use tempfile::TempDir;
use tokio::sync::OnceCell;
use tributary_bindings::{DeploymentManifest, TestToken};
use tributary_ledger::{Ledger, LedgerConfig, ManualClock, PoolEvent};
use tributary_protocol::{Amount, Circuit, Mnemonic, PoolScope, Rate, UnixTime};
use tributary_prover::Prover;
use tributary_wallet::{
    DirectConfig, DirectSubmitter, Intent, OpenStream, Origin, Outcome, Password, PasswordCost, PreparedTransaction,
    SendTerms, Services, StreamState, Wallet, WalletConfig, WalletError, WalletFolder, prove_insertions,
};

pub(crate) const L: u64 = 60;
pub(crate) const NOTICE: u64 = 180;
pub(crate) const MARGIN: u64 = 30;
pub(crate) const BURN_BPS: u16 = 100;

pub(crate) fn root() -> PathBuf {
    // Crates of several depths use these tests' parts.
    let workspace = Path::new(env!("CARGO_MANIFEST_DIR")).ancestors().find(|folder| folder.join("Cargo.lock").exists());
    workspace.expect("the workspace").to_owned()
}

/// A chain with the contracts on it, to start others from.
struct Deployed {
    manifest: DeploymentManifest,
    state: Bytes,
}

fn anvil() -> AnvilInstance {
    // Not npm's wrapper: killing that leaves the chain running.
    let (system, machine) = (std::env::consts::OS, std::env::consts::ARCH);
    let system = if system == "macos" { "darwin" } else { system };
    let machine = if machine == "x86_64" { "amd64" } else { "arm64" };
    let program = root().join(format!("node_modules/@foundry-rs/anvil-{system}-{machine}/bin/anvil"));
    assert!(program.exists(), "{} is missing: run ./script/setup", program.display());
    Anvil::at(program).chain_id(31_337).spawn()
}

fn provider(anvil: &AnvilInstance, wallet: EthereumWallet) -> DynProvider {
    let client = alloy::rpc::client::RpcClient::builder().http(anvil.endpoint_url());
    client.set_poll_interval(std::time::Duration::from_millis(20));
    ProviderBuilder::new().with_simple_nonce_management().wallet(wallet).connect_client(client).erased()
}

async fn deployed() -> &'static Deployed {
    static DEPLOYED: OnceCell<Deployed> = OnceCell::const_new();
    DEPLOYED
        .get_or_init(|| async {
            let anvil = anvil();
            let dir = tempfile::tempdir().unwrap();
            let manifest = dir.path().join("manifest.json");
            let output = Command::new(root().join("script/deploy"))
                .args(["--rpc-url", &anvil.endpoint(), "--manifest", manifest.to_str().unwrap()])
                .args(["--slot-length", &L.to_string(), "--notice", &NOTICE.to_string()])
                .args(["--margin", &MARGIN.to_string(), "--burn-bps", &BURN_BPS.to_string()])
                .output()
                .unwrap();
            assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
            let provider = provider(&anvil, anvil.wallet().unwrap());
            let state = provider.anvil_dump_state().await.unwrap();
            Deployed { manifest: DeploymentManifest::read(&manifest).unwrap(), state }
        })
        .await
}

pub(crate) fn prover() -> Arc<Prover> {
    static PROVER: std::sync::OnceLock<Arc<Prover>> = std::sync::OnceLock::new();
    let load = || {
        let dir = root().join("build/circuits");
        Arc::new(Prover::load(&dir, &Circuit::ALL).unwrap_or_else(|error| panic!("{error}: run ./script/setup first")))
    };
    Arc::clone(PROVER.get_or_init(load))
}

pub(crate) fn amount(value: u128) -> Amount {
    Amount::new(value).unwrap()
}

pub(crate) fn rate(value: u128) -> Rate {
    Rate::new(value).unwrap()
}

pub(crate) fn time(value: u64) -> UnixTime {
    UnixTime::new(value).unwrap()
}

/// A chain, a ledger that follows it, and accounts with tokens.
pub(crate) struct Net {
    anvil: AnvilInstance,
    pub(crate) provider: DynProvider,
    pub(crate) manifest: DeploymentManifest,
    pub(crate) ledger: Ledger,
    pub(crate) clock: ManualClock,
    pub(crate) dir: TempDir,
}

pub(crate) const TOKENS: u64 = 1_000_000_000;

impl Net {
    pub(crate) async fn start() -> Self {
        let deployed = deployed().await;
        let anvil = anvil();
        let provider = provider(&anvil, anvil.wallet().unwrap());
        assert!(provider.anvil_load_state(deployed.state.clone()).await.unwrap());
        let manifest = deployed.manifest.clone();
        let token = TestToken::new(manifest.token.address, &provider);
        for account in &anvil.addresses()[..4] {
            token.mint(*account, U256::from(TOKENS)).send().await.unwrap().get_receipt().await.unwrap();
        }
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("ledger.sqlite");
        let ledger = Ledger::open(&path, provider.clone(), manifest.clone(), LedgerConfig::default()).await.unwrap();
        ledger.sync().await.unwrap();
        Self { anvil, provider, manifest, ledger, clock: ManualClock::new(0), dir }
    }

    /// The chain node's host and port.
    pub(crate) fn endpoint_host(&self) -> String {
        self.anvil.endpoint().trim_start_matches("http://").to_owned()
    }

    pub(crate) fn account(&self, n: usize) -> Address {
        self.anvil.addresses()[n]
    }

    pub(crate) fn signer(&self, n: usize) -> PrivateKeySigner {
        self.anvil.keys()[n].clone().into()
    }

    pub(crate) fn direct(&self, n: usize) -> DirectSubmitter {
        DirectSubmitter::new(self.provider.clone(), self.account(n), DirectConfig::default())
    }

    pub(crate) fn services(&self) -> Services {
        Services { ledger: self.ledger.clone(), prover: prover(), clock: Arc::new(self.clock.clone()) }
    }

    pub(crate) fn folder(&self, name: &str) -> WalletFolder {
        WalletFolder::new(self.dir.path().join(name))
    }

    pub(crate) fn mnemonic(seed: u8) -> Mnemonic {
        let mut rng = <rand::rngs::StdRng as rand::SeedableRng>::from_seed([seed; 32]);
        Mnemonic::generate(&mut rng)
    }

    /// A wallet whose seed depends on `seed` only.
    pub(crate) async fn wallet(&self, seed: u8) -> Wallet {
        let folder = self.folder(&format!("wallet-{seed}"));
        let password = Password::new("test");
        let (services, config) = (self.services(), WalletConfig::default());
        Wallet::create(&folder, Self::mnemonic(seed), &password, PasswordCost::INSECURE, services, config)
            .await
            .unwrap()
    }

    /// The same wallet after its process ended.
    pub(crate) async fn reopen(&self, seed: u8) -> Wallet {
        let folder = self.folder(&format!("wallet-{seed}"));
        Wallet::open(&folder, &Password::new("test"), self.services(), WalletConfig::default()).await.unwrap()
    }

    /// A wallet with the same seed and nothing else.
    pub(crate) async fn restored(&self, seed: u8, name: &str) -> Wallet {
        let scope = PoolScope { pool: self.ledger.pool(), account: 0 };
        let keys = Self::mnemonic(seed).seed("").account(scope).unwrap();
        let path = self.dir.path().join(format!("{name}.sqlite"));
        Wallet::with_keys(&path, keys, self.services(), WalletConfig::default(), Origin::Restored).await.unwrap()
    }

    pub(crate) async fn now(&self) -> u64 {
        self.provider.get_block(alloy::eips::BlockId::latest()).await.unwrap().unwrap().header.timestamp
    }

    /// Mines an empty block at that time.
    pub(crate) async fn mine_at(&self, at: u64) {
        self.provider.evm_mine(Some(MineOptions::Timestamp(Some(at)))).await.unwrap();
    }

    /// The next block, whatever is in it, has this timestamp.
    pub(crate) async fn provider_next_block_at(&self, at: u64) {
        self.provider.anvil_set_next_block_timestamp(at).await.unwrap();
    }

    /// Lets time pass and mines a block.
    pub(crate) async fn advance(&self, seconds: u64) {
        let at = self.now().await + seconds;
        self.provider.anvil_set_time(at).await.unwrap();
        self.mine_at(at).await;
    }

    /// Mines `n` empty blocks, a second apart.
    pub(crate) async fn mine(&self, n: u64) {
        for _ in 0..n {
            self.mine_at(self.now().await + 1).await;
        }
    }

    pub(crate) async fn sync(&self, wallets: &[&Wallet]) {
        self.ledger.sync().await.unwrap();
        for wallet in wallets {
            wallet.sync().await.unwrap();
        }
    }

    /// Drains the queue, of what others queue meanwhile too.
    pub(crate) async fn insert(&self) {
        for _ in 0..8 {
            self.ledger.sync().await.unwrap();
            let proved = prove_insertions(&self.ledger, &prover(), 8).await.unwrap();
            if proved.is_empty() {
                break;
            }
            let outcome = self.direct(3).insert(self.manifest.pool, &proved).await;
            assert!(matches!(outcome, Outcome::Confirmed { .. }), "{outcome:?}");
        }
        assert_eq!(self.ledger.inserted(), self.ledger.queued());
    }

    /// Sends from account `n`, inserts the new leaves, and synchronises.
    pub(crate) async fn run(&self, wallet: &Wallet, n: usize, intent: Intent) -> PreparedTransaction {
        let prepared = wallet.prepare(intent, SendTerms::default()).await.unwrap();
        self.send(wallet, n, &prepared).await;
        prepared
    }

    pub(crate) async fn send(&self, wallet: &Wallet, n: usize, prepared: &PreparedTransaction) {
        confirmed(&wallet.submit(prepared, &self.direct(n)).await.unwrap());
        self.insert().await;
        wallet.sync().await.unwrap();
    }

    /// Approves and deposits from account `n`.
    pub(crate) async fn deposit(&self, wallet: &Wallet, n: usize, value: u128) {
        let (token, pool) = (self.manifest.token.address, self.manifest.pool);
        tributary_wallet::approve(&self.provider, token, pool, self.account(n), amount(value)).await.unwrap();
        self.run(wallet, n, Intent::Deposit { amount: amount(value) }).await;
    }

    /// A stream that starts at the running slot.
    pub(crate) async fn stream_to(&self, payee: &Wallet, per_second: u128, slots: u64) -> OpenStream {
        let start = self.now().await / L * L;
        OpenStream {
            payee: payee.address(),
            rate: rate(per_second),
            start: time(start),
            end: time(start + slots * L),
            offer: None,
        }
    }

    pub(crate) async fn tokens(&self, account: Address) -> u128 {
        let balance =
            tributary_wallet::token_balance(&self.provider, self.manifest.token.address, account).await.unwrap();
        balance.to()
    }

    pub(crate) async fn pool_tokens(&self) -> u128 {
        self.tokens(self.manifest.pool).await
    }

    /// What was burnt, from the events: of each claim the share that neither its note nor its payout has.
    pub(crate) async fn burnt(&self, payees: &[&Wallet]) -> u128 {
        let mut burnt = 0;
        for record in self.events().await {
            let PoolEvent::Claimed { windows, .. } = record else { continue };
            let mut sum = 0;
            for window in windows {
                for payee in payees {
                    let streams = payee.payee_streams(true).await.unwrap();
                    let stream = streams.iter().find(|stream| stream.tag == window.tag);
                    sum += stream.map_or(0, |stream| stream.note.terms.payout(window.from, window.until).get());
                }
            }
            burnt += sum * u128::from(BURN_BPS) / 10_000;
        }
        burnt
    }

    pub(crate) async fn events(&self) -> Vec<PoolEvent> {
        let records = self.ledger.events_after(tributary_ledger::EventSeq::default(), 10_000).await.unwrap();
        records.into_iter().map(|record| record.event).collect()
    }

    /// P1: what the pool holds is what the wallets' notes and streams are worth, and what was burnt.
    pub(crate) async fn check_books(&self, wallets: &[&Wallet]) {
        let mut notes = 0;
        let mut streams = 0;
        for wallet in wallets {
            wallet.sync().await.unwrap();
            let balance = wallet.balance().await.unwrap();
            notes += balance.available.get() + balance.queued.get() + balance.reserved.get();
            for stream in wallet.payer_streams(true).await.unwrap() {
                if stream.state == StreamState::Missing {
                    continue;
                }
                // What it holds until its end or stop, less what was claimed of that.
                let stop = stream.record.stop.unwrap_or(UnixTime::MAX);
                let terms = stream.note.terms;
                streams += terms.payout(UnixTime::ZERO, stop).get()
                    - terms.payout(UnixTime::ZERO, stream.record.claimed_until.min(stop)).get();
            }
        }
        let burnt = self.burnt(wallets).await;
        assert_eq!(
            self.pool_tokens().await,
            notes + streams + burnt,
            "notes {notes}, streams {streams}, burnt {burnt}"
        );
    }

    /// Replaces the newest `depth` blocks by more empty ones.
    pub(crate) async fn reorganise(&self, depth: u64) {
        let head = self.now().await;
        self.provider.anvil_rollback(Some(depth)).await.unwrap();
        self.provider.anvil_drop_all_transactions().await.unwrap();
        for n in 0..=depth {
            // Other timestamps than before, so other hashes.
            self.mine_at(head + 1 + n).await;
        }
    }
}

pub(crate) fn confirmed(outcome: &Outcome) {
    assert!(matches!(outcome, Outcome::Confirmed { .. }), "{outcome:?}");
}

/// The pool's error that refused a transaction.
pub(crate) fn refused_by_pool(outcome: &Outcome) -> String {
    match outcome {
        Outcome::Rejected(rejection) => {
            tributary_wallet::pool_error(rejection).unwrap_or_else(|| panic!("{rejection:?}")).to_owned()
        }
        other => panic!("{other:?}"),
    }
}

pub(crate) fn code<T>(result: Result<T, WalletError>) -> &'static str {
    match result {
        Ok(_) => "no error",
        Err(error) => error.code(),
    }
}
