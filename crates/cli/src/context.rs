//! What commands share: the home folder and what is in it, the node, the chain.

use std::{
    collections::BTreeMap,
    fs,
    io::Write as _,
    os::unix::fs::OpenOptionsExt as _,
    path::{Path, PathBuf},
    sync::Arc,
    time::Duration,
};

use alloy::{
    providers::{DynProvider, Provider as _, ProviderBuilder},
    signers::local::PrivateKeySigner,
};
use tributary_bindings::DeploymentManifest;
use tributary_client::{Buyer, BuyerParts, ClientStore, OwnAssessor, RatingSettings, open_reputation, usual_stream};
use tributary_ledger::{Ledger, LedgerConfig, SystemClock};
use tributary_market::program::Program;
use tributary_protocol::Amount;
use tributary_prover::{Circuit, Prover};
use tributary_reputation::ReputationWeights;
use tributary_service_waku::Closed;
use tributary_waku::{
    ArchiveConfig, ArchiveLocation, ClusterId, DiscoveryConfig, DiscoveryLimits, FilterConfig, FilterGate,
    FilterLimits, LightPushConfig, LightPushGate, Multiaddr, Node, NodeConfig, NodeHandle, NodeKey, NodeLimits,
    NodeRecord, Retention, ServiceFamilies, ShardIndex, Sharding, StoreConfig, StoreGate,
};
use tributary_wallet::{Origin, Password, Services, Vault, Wallet, WalletConfig, WalletFolder};

use crate::{
    args::Cli,
    config::{Archive, Assess, Config},
    daemon::{Part, Stop, Watch},
    error::CliError,
    output::Format,
};

/// Bytes that a user's assessor may write.
const MAX_VERDICT: usize = 16 * 1024;

/// Time for a peer to answer a dial.
const DIAL_LIMIT: Duration = Duration::from_secs(10);

/// Marks a wallet whose phrase was made by `init` and whose state does not exist yet.
pub(crate) const FRESH: &str = "fresh";

/// Held while a command uses the wallet.
#[derive(Debug)]
pub(crate) struct Lock(#[expect(dead_code, reason = "the lock lives as long as its file is open")] fs::File);

/// What a node does for others.
#[derive(Debug, Clone, Copy, Default)]
pub(crate) struct Serves {
    /// Whether it is there for others at all, and so can be found.
    pub(crate) others: bool,
    /// Keeps messages and answers Store queries.
    pub(crate) archive: bool,
    /// Pushes messages to peers that don't relay.
    pub(crate) filter: bool,
    /// Publishes for peers that don't relay.
    pub(crate) lightpush: bool,
    /// What its record says that it sells.
    pub(crate) sells: ServiceFamilies,
}

/// A command's surroundings.
#[derive(Debug, Clone)]
pub(crate) struct Context {
    /// The home folder.
    pub(crate) home: PathBuf,
    /// The configuration.
    pub(crate) config: Config,
    /// How results are printed.
    pub(crate) format: Format,
    /// File with the wallet's password.
    password_file: Option<PathBuf>,
}

impl Context {
    /// Reads the configuration in the home folder.
    pub(crate) fn load(cli: &Cli) -> Result<Self, CliError> {
        if !cli.home.join(crate::config::FILE_NAME).exists() {
            return Err(CliError::NotInitialised { home: cli.home.clone() });
        }
        Self::with_config(cli, Config::load(&cli.home)?)
    }

    /// A context around a configuration.
    pub(crate) fn with_config(cli: &Cli, config: Config) -> Result<Self, CliError> {
        Ok(Self {
            home: cli.home.clone(),
            config,
            format: if cli.json { Format::Json } else { Format::Text },
            password_file: cli.password_file.clone(),
        })
    }

    /// A file in the home folder.
    pub(crate) fn file(&self, name: &str) -> PathBuf {
        self.home.join(name)
    }

    /// The deployment manifest.
    pub(crate) fn manifest(&self) -> Result<DeploymentManifest, CliError> {
        Ok(DeploymentManifest::read(&self.config.chain.manifest)?)
    }

    /// The chain's endpoint.
    pub(crate) fn chain(&self) -> Result<DynProvider, CliError> {
        let url = self.config.chain.rpc.parse().map_err(|_| CliError::BadUrl { url: self.config.chain.rpc.clone() })?;
        Ok(ProviderBuilder::new().disable_recommended_fillers().connect_http(url).erased())
    }

    /// The ledger in a file of the home folder, read up to the chain's head.
    pub(crate) async fn ledger(&self, file: &str) -> Result<Ledger, CliError> {
        let manifest = self.manifest()?;
        let config = LedgerConfig { poll: Duration::from_millis(self.config.chain.poll_ms), ..LedgerConfig::default() };
        let ledger = Ledger::open(&self.file(file), self.chain()?, manifest, config).await?;
        ledger.sync().await?;
        Ok(ledger)
    }

    /// The prover for some circuits.
    pub(crate) fn prover(&self, circuits: &[Circuit]) -> Result<Arc<Prover>, CliError> {
        Ok(Arc::new(Prover::load(&self.config.artifacts, circuits)?))
    }

    /// The account that pays gas.
    pub(crate) fn signer(&self) -> Result<PrivateKeySigner, CliError> {
        let keystore = self.config.chain.keystore.as_ref().ok_or(CliError::NoKeystore)?;
        let password = match &self.config.chain.password_file {
            Some(file) => read_secret(file)?,
            None => ask("Password of the account's keystore: ")?,
        };
        PrivateKeySigner::decrypt_keystore(keystore, password.as_bytes())
            .map_err(|error| CliError::Keystore { file: keystore.clone(), reason: error.to_string() })
    }

    /// The wallet's password.
    pub(crate) fn password(&self) -> Result<String, CliError> {
        match &self.password_file {
            Some(file) => read_secret(file),
            None => ask("Password of the wallet: "),
        }
    }

    /// One command at a time uses the wallet.
    pub(crate) fn lock(&self) -> Result<Lock, CliError> {
        self.lock_file("lock")
    }

    /// One process at a time holds this file of the home folder.
    pub(crate) fn lock_file(&self, name: &str) -> Result<Lock, CliError> {
        let file = self.file(name);
        let handle = fs::File::create(&file).map_err(|error| CliError::Write { file: file.clone(), error })?;
        handle.try_lock().map_err(|_| CliError::Busy { home: self.home.clone() })?;
        Ok(Lock(handle))
    }

    /// Opens the seed.
    pub(crate) fn vault(&self) -> Result<Vault, CliError> {
        let password = Password::new(self.password()?);
        Ok(Vault::open(&WalletFolder::new(self.home.clone()).seed(), &password)?)
    }

    /// Opens the wallet, its ledger read up to the chain's head.
    pub(crate) async fn wallet(&self, circuits: &[Circuit]) -> Result<Wallet, CliError> {
        let vault = self.vault()?;
        let ledger = self.ledger("ledger.db").await?;
        let prover = self.prover(circuits)?;
        // A phrase that `init` made was never used: nothing can have been lost with a state that never was.
        let fresh = self.file(FRESH);
        let origin = if fresh.exists() {
            fs::remove_file(&fresh).map_err(|error| CliError::Write { file: fresh.clone(), error })?;
            Origin::New
        } else {
            Origin::Restored
        };
        let services = Services { ledger, prover, clock: Arc::new(SystemClock) };
        let folder = WalletFolder::new(self.home.clone());
        let config = WalletConfig { root_depth: 1, ..WalletConfig::default() };
        let wallet = Wallet::with_vault(&folder, &vault, services, config, origin).await?;
        wallet.sync().await?;
        Ok(wallet)
    }

    /// Opens the buyer: wallet, a node under a key of its own for this command alone, and what is known of the market.
    pub(crate) async fn buyer(&self) -> Result<Buyer, CliError> {
        self.buyer_for(&[Circuit::Transact, Circuit::Close, Circuit::Ticket]).await
    }

    /// [`Self::buyer`] with other circuits.
    pub(crate) async fn buyer_for(&self, circuits: &[Circuit]) -> Result<Buyer, CliError> {
        self.config.check_market()?;
        // The node meets its peers while keys are read.
        let (node, wallet) =
            tokio::try_join!(self.node(NodeKey::generate(), Serves::default()), self.wallet(circuits))?;
        let scope = wallet.keys().scope;
        let tickets = wallet.tickets(&WalletFolder::new(self.home.clone()).tickets(&scope)).await?;
        let store = ClientStore::open(&self.file("client.db")).await?;
        let reputation = open_reputation(&self.file("reputation.db")).await?;
        let settings = self.ratings(&wallet)?;
        let parts = BuyerParts { node, wallet, tickets, store, reputation, clock: Arc::new(SystemClock) };
        Ok(Buyer::new(parts).await?.with_ratings(settings).await?.with_assessors(self.assessors()?))
    }

    /// How the user judges services.
    fn assessors(&self) -> Result<BTreeMap<String, OwnAssessor>, CliError> {
        let one = |(service, settings): (&String, &Assess)| {
            if !(0.0..=1.0).contains(&settings.share) {
                let reason = format!("assess.{service}.share is {}, allowed are 0 to 1", settings.share);
                return Err(CliError::Input { reason });
            }
            let program = settings.program.as_ref().map(|path| {
                let path = if path.is_absolute() { path.clone() } else { self.home.join(path) };
                let program = Program {
                    path,
                    arguments: settings.arguments.iter().map(Into::into).collect(),
                    time_limit: Duration::from_millis(settings.time_limit_ms),
                    max_output: MAX_VERDICT,
                };
                (program, settings.share)
            });
            Ok((service.clone(), OwnAssessor { weights: settings.weights.clone(), program }))
        };
        self.config.assess.iter().map(one).collect()
    }

    /// How ratings of others are dealt with.
    fn ratings(&self, wallet: &Wallet) -> Result<RatingSettings, CliError> {
        let settings = &self.config.reputation;
        let usual = match settings.usual_stream.as_deref() {
            Some(text) => text.parse::<u128>().ok().and_then(|units| Amount::new(units).ok()).ok_or_else(|| {
                CliError::Input { reason: "reputation.usual_stream is no number of base units".into() }
            })?,
            None => usual_stream(wallet.ledger().manifest().token.decimals)?,
        };
        let key = self.prover(&[Circuit::Ticket])?.verifying_key(Circuit::Ticket)?;
        let weights = ReputationWeights { network: settings.network_weight };
        Ok(RatingSettings { weights, ..RatingSettings::new(key, usual) })
    }

    /// The key of a node that others know by its id.
    pub(crate) fn node_key(&self) -> Result<NodeKey, CliError> {
        Ok(NodeKey::load_or_create(&self.file("node.key"))?)
    }

    /// What a daemon's operator sees of it.
    pub(crate) fn watch(&self, node: &NodeHandle, part: Part, stop: &Stop) -> Watch {
        let listens = !self.config.waku.listen.is_empty();
        Watch::new(node.clone(), part, self.config.metrics.clone(), listens, stop.clone())
    }

    /// How the node finds peers: by discv5 if it serves others, and from the records in the configuration.
    fn discovery(&self, serves: &Serves) -> Result<Option<DiscoveryConfig>, CliError> {
        let waku = &self.config.waku;
        let listen = match &waku.discv5 {
            Some(address) if serves.others => Some(address.parse().map_err(|_| CliError::Input {
                reason: format!("waku.discv5 '{address}' is no address with a port, such as 0.0.0.0:9005"),
            })?),
            _ => None,
        };
        let bootstrap = waku
            .discv5_bootstrap
            .iter()
            .map(|text| {
                text.parse::<NodeRecord>()
                    .map_err(|error| CliError::Input { reason: format!("waku.discv5_bootstrap '{text}': {error}") })
            })
            .collect::<Result<Vec<_>, _>>()?;
        if listen.is_none() && bootstrap.is_empty() {
            return Ok(None);
        }
        let mut config = DiscoveryConfig::new(listen, bootstrap);
        config.sells = serves.sells;
        if waku.shared_address {
            config.limits = DiscoveryLimits::shared_address();
        }
        Ok(Some(config))
    }

    /// Starts a node and dials the bootstrap peers.
    pub(crate) async fn node(&self, key: NodeKey, serves: Serves) -> Result<NodeHandle, CliError> {
        let node = self.spawn(key, serves).await?;
        self.dial_bootstrap(&node).await?;
        Ok(node)
    }

    /// [`Self::node`] of a daemon; `None` if it shall stop before the node runs. The bootstrap peers are dialed no longer than that.
    pub(crate) async fn daemon_node(&self, serves: Serves, stop: &Stop) -> Result<Option<NodeHandle>, CliError> {
        let key = self.node_key()?;
        let node = tokio::select! {
            node = self.spawn(key, serves) => node?,
            () = stop.requested() => return Ok(None),
        };
        tokio::select! {
            dialed = self.dial_bootstrap(&node) => dialed?,
            () = stop.requested() => {}
        }
        Ok(Some(node))
    }

    /// Where messages are kept.
    pub(crate) fn archive(&self) -> ArchiveLocation {
        match &self.config.waku.archive {
            Archive::Off | Archive::File => self.file("messages.db").into(),
            #[cfg(feature = "postgres")]
            Archive::Postgres(url) => url.clone().into(),
        }
    }

    async fn spawn(&self, key: NodeKey, serves: Serves) -> Result<NodeHandle, CliError> {
        let waku = &self.config.waku;
        let shards = waku.static_shards.iter().map(|shard| ShardIndex::new(*shard)).collect::<Result<Vec<_>, _>>()?;
        let sharding = if shards.is_empty() { Sharding::Auto { shards: waku.shards } } else { Sharding::Static };
        let mut config = NodeConfig::new(key, ClusterId::new(waku.cluster), sharding);
        if sharding == Sharding::Static {
            config.shards = shards;
        }
        config.listen = addresses(&waku.listen)?;
        config.static_peers = addresses(&waku.bootstrap)?;
        if waku.shared_address {
            config.limits = NodeLimits::shared_address();
        }
        // What is sold is closed until its service opens it.
        let sold = serves.sells != ServiceFamilies::default();
        let subscriptions = FilterLimits { max_subscribers: waku.filter_subscribers, ..FilterLimits::default() };
        config.filter = serves.filter.then(|| FilterConfig {
            subscriptions,
            gate: sold.then(|| Arc::new(Closed) as Arc<dyn FilterGate>),
            ..FilterConfig::default()
        });
        config.lightpush = serves.lightpush.then(|| LightPushConfig {
            gate: sold.then(|| Arc::new(Closed) as Arc<dyn LightPushGate>),
            ..LightPushConfig::default()
        });
        config.store =
            Some(StoreConfig { gate: sold.then(|| Arc::new(Closed) as Arc<dyn StoreGate>), ..StoreConfig::default() });
        config.discovery = self.discovery(&serves)?;
        if serves.archive {
            let mut settings = ArchiveConfig::new(self.archive());
            settings.retention = Retention {
                max_age: Some(Duration::from_secs(self.config.provider.store_retention)),
                ..Retention::default()
            };
            config.archive = Some(settings);
        } else {
            config.store = None;
        }
        Ok(Node::spawn(config).await?)
    }

    /// Dials the bootstrap peers. The node goes on trying to reach those that don't answer.
    async fn dial_bootstrap(&self, node: &NodeHandle) -> Result<(), CliError> {
        for address in addresses(&self.config.waku.bootstrap)? {
            if let Err(error) = node.dial_within(&address, DIAL_LIMIT).await {
                tracing::warn!(%error, "a bootstrap peer does not answer");
            }
        }
        Ok(())
    }
}

/// Parses addresses.
fn addresses(texts: &[String]) -> Result<Vec<Multiaddr>, CliError> {
    texts.iter().map(|text| text.parse().map_err(|_| CliError::BadAddress { address: text.clone() })).collect()
}

/// A secret from a file, without its final newline.
pub(crate) fn read_secret(file: &Path) -> Result<String, CliError> {
    let text = fs::read_to_string(file).map_err(|error| CliError::Read { file: file.to_owned(), error })?;
    Ok(text.trim_end_matches(['\n', '\r']).to_owned())
}

/// Asks on the terminal, without showing what is typed.
fn ask(prompt: &str) -> Result<String, CliError> {
    rpassword::prompt_password(prompt).map_err(|_| CliError::NoPassword)
}

/// Writes a new file that only its owner can read; an existing one is left alone.
pub(crate) fn write_new(file: &Path, content: &str, mode: u32) -> Result<(), CliError> {
    let mut handle = fs::OpenOptions::new()
        .write(true)
        .create_new(true)
        .mode(mode)
        .open(file)
        .map_err(|error| CliError::Write { file: file.to_owned(), error })?;
    handle
        .write_all(content.as_bytes())
        .and_then(|()| handle.sync_all())
        .map_err(|error| CliError::Write { file: file.to_owned(), error })
}

/// Done when the process is asked to stop.
pub(crate) async fn shutdown_signal() {
    use tokio::signal::unix::{SignalKind, signal};
    let (Ok(mut interrupt), Ok(mut terminate)) = (signal(SignalKind::interrupt()), signal(SignalKind::terminate()))
    else {
        return std::future::pending().await;
    };
    tokio::select! {
        _ = interrupt.recv() => {}
        _ = terminate.recv() => {}
    }
}
