//! Configuration: flags over environment over one commented TOML file over defaults. Unknown keys are errors.

use std::path::{Path, PathBuf};

use figment::{
    Figment,
    providers::{Env, Format, Serialized, Toml},
};
use serde::{Deserialize, Deserializer, Serialize};

use crate::error::CliError;

/// The file that `tributary init` writes, and the reference of every key.
pub(crate) const SAMPLE: &str = include_str!("sample.toml");

/// Name of the configuration file in the home folder.
pub(crate) const FILE_NAME: &str = "tributary.toml";

/// Everything that can be configured.
#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub(crate) struct Config {
    /// The pool's chain.
    pub(crate) chain: Chain,
    /// Circuit artefacts: keys and witness programs.
    pub(crate) artifacts: PathBuf,
    /// The Waku network.
    pub(crate) waku: Waku,
    /// What a buyer is willing to pay.
    pub(crate) buyer: Buyer,
    /// What a provider sells.
    pub(crate) provider: Provider,
    /// What a relayer charges.
    pub(crate) relayer: Relayer,
}

/// The pool's chain.
#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub(crate) struct Chain {
    /// JSON-RPC endpoint.
    pub(crate) rpc: String,
    /// The deployment manifest that the deploy script wrote.
    pub(crate) manifest: PathBuf,
    /// How often the head is looked at, in milliseconds.
    pub(crate) poll_ms: u64,
    /// An Ethereum v3 keystore file: the account that pays gas. Needed by relayers, for deposits, and to send without a relayer.
    pub(crate) keystore: Option<PathBuf>,
    /// A file with the keystore's password.
    pub(crate) password_file: Option<PathBuf>,
}

/// The Waku network.
#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub(crate) struct Waku {
    /// Cluster id.
    pub(crate) cluster: u16,
    /// Shards of the cluster; content topics are spread over them.
    pub(crate) shards: u16,
    /// Addresses to listen on.
    pub(crate) listen: Vec<String>,
    /// Peers to connect to at the start, with their `/p2p/` part. They add to discovery and never replace it.
    pub(crate) bootstrap: Vec<String>,
    /// Whether this node keeps messages and answers Store queries.
    pub(crate) archive: bool,
}

/// What a buyer is willing to pay.
#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub(crate) struct Buyer {
    /// Highest ticket price, in token base units.
    #[serde(deserialize_with = "number_if_any")]
    pub(crate) max_price: Option<String>,
    /// Highest fee for one relayed transaction, in token base units.
    #[serde(deserialize_with = "number")]
    pub(crate) max_relay_fee: String,
    /// How candidates are weighed: cheapest, fastest, trusted or private.
    pub(crate) preset: String,
}

/// What a provider sells.
#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub(crate) struct Provider {
    /// Price of one ticket, in token base units.
    #[serde(deserialize_with = "number")]
    pub(crate) ticket_price: String,
    /// The rate classes, in token base units a second.
    #[serde(deserialize_with = "numbers")]
    pub(crate) rates: Vec<String>,
    /// What a stream must have paid before its tickets are taken, in token base units.
    #[serde(deserialize_with = "number")]
    pub(crate) min_streamed: String,
    /// How long after its end a slot's tickets are taken, in seconds.
    pub(crate) carry: u64,
    /// How many blocks deep a root must be.
    pub(crate) root_depth: u64,
    /// Free Store queries for each peer and hour.
    pub(crate) free_queries: u32,
    /// How long an offer is valid, in seconds.
    pub(crate) offer_ttl: u64,
    /// How often accrued money is claimed through relayers, in seconds; 0 = only on command.
    pub(crate) claim_every: u64,
    /// What a claim must bring besides its fee, in token base units.
    #[serde(deserialize_with = "number")]
    pub(crate) least_claim: String,
    /// Store: how long messages are kept, in seconds.
    pub(crate) store_retention: u64,
}

/// What a relayer charges.
#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub(crate) struct Relayer {
    /// Fee for a transaction that is only sent, in token base units.
    #[serde(deserialize_with = "number")]
    pub(crate) fee: String,
    /// Fee for a transaction with insertion until its leaves are in the tree, in token base units.
    #[serde(deserialize_with = "number")]
    pub(crate) fee_with_insertion: String,
    /// Highest gas price that is paid, in wei.
    pub(crate) max_gas_price: u64,
    /// Price of one token base unit in wei, for deciding what pays.
    pub(crate) wei_per_base_unit: u64,
    /// Balance below which a warning is given, in wei.
    #[serde(deserialize_with = "number")]
    pub(crate) low_balance: String,
}

impl Default for Config {
    fn default() -> Self {
        Self {
            chain: Chain::default(),
            artifacts: PathBuf::from("build/circuits"),
            waku: Waku::default(),
            buyer: Buyer::default(),
            provider: Provider::default(),
            relayer: Relayer::default(),
        }
    }
}

impl Default for Chain {
    fn default() -> Self {
        Self {
            rpc: "http://127.0.0.1:8545".into(),
            manifest: PathBuf::from("deployment.json"),
            poll_ms: 500,
            keystore: None,
            password_file: None,
        }
    }
}

impl Default for Waku {
    fn default() -> Self {
        Self {
            cluster: 42,
            shards: 8,
            listen: vec!["/ip4/127.0.0.1/tcp/0".into()],
            bootstrap: Vec::new(),
            archive: false,
        }
    }
}

impl Default for Buyer {
    fn default() -> Self {
        Self { max_price: None, max_relay_fee: "1000000".into(), preset: "trusted".into() }
    }
}

impl Default for Provider {
    fn default() -> Self {
        Self {
            ticket_price: "20000".into(),
            rates: vec!["20000".into(), "100000".into()],
            min_streamed: "1200000".into(),
            carry: 120,
            root_depth: 1,
            free_queries: 0,
            offer_ttl: 3600,
            claim_every: 86_400,
            least_claim: "1000000".into(),
            store_retention: 172_800,
        }
    }
}

impl Default for Relayer {
    fn default() -> Self {
        Self {
            fee: "400000".into(),
            fee_with_insertion: "750000".into(),
            max_gas_price: 200_000_000_000,
            wei_per_base_unit: 2_000_000_000,
            low_balance: "100000000000000000".into(),
        }
    }
}

impl Config {
    /// Reads `<home>/tributary.toml` (if it is there) and the environment (`TRIBUTARY_CHAIN__RPC` and so on) over the defaults.
    pub(crate) fn load(home: &Path) -> Result<Self, CliError> {
        let file = home.join(FILE_NAME);
        let mut config: Self = Figment::from(Serialized::defaults(Self::default()))
            .merge(Toml::file_exact(&file))
            .merge(
                Env::prefixed("TRIBUTARY_").filter(|key| key.as_str().contains("__") || key == "artifacts").split("__"),
            )
            .extract()
            .map_err(|error| CliError::Config { file, reason: error.to_string() })?;
        config.artifacts = resolve(home, &config.artifacts);
        config.chain.manifest = resolve(home, &config.chain.manifest);
        config.chain.keystore = config.chain.keystore.map(|path| resolve(home, &path));
        config.chain.password_file = config.chain.password_file.map(|path| resolve(home, &path));
        Ok(config)
    }
}

/// A number that may be too large for TOML's integers: in quotes or not, as in the environment, where quotes are easily forgotten.
#[derive(Deserialize)]
#[serde(untagged)]
enum Number {
    Text(String),
    Integer(u64),
}

impl From<Number> for String {
    fn from(number: Number) -> Self {
        match number {
            Number::Text(text) => text,
            Number::Integer(value) => value.to_string(),
        }
    }
}

fn number<'de, D: Deserializer<'de>>(deserializer: D) -> Result<String, D::Error> {
    Number::deserialize(deserializer).map(Into::into)
}

fn number_if_any<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Option<String>, D::Error> {
    Ok(Option::<Number>::deserialize(deserializer)?.map(Into::into))
}

fn numbers<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Vec<String>, D::Error> {
    Ok(Vec::<Number>::deserialize(deserializer)?.into_iter().map(Into::into).collect())
}

/// Relative paths are meant from the folder of the file that names them.
fn resolve(home: &Path, path: &Path) -> PathBuf {
    if path.is_absolute() { path.to_owned() } else { home.join(path) }
}
