//! Configuration: flags over environment over one commented TOML file over defaults. Unknown keys are errors.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use figment::{
    Figment,
    error::Kind,
    providers::{Env, Format, Serialized, Toml},
};
use serde::{
    Deserialize, Deserializer, Serialize, Serializer,
    de::{self, Visitor},
};
use serde_json::Value;
#[cfg(feature = "postgres")]
use tributary_waku::PostgresUrl;

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
    /// How long a daemon may take to stop, in seconds.
    pub(crate) stop_limit: u64,
    /// What a daemon tells its operator.
    pub(crate) metrics: Metrics,
    /// The Waku network.
    pub(crate) waku: Waku,
    /// What a buyer is willing to pay.
    pub(crate) buyer: Buyer,
    /// Ratings, made and received.
    pub(crate) reputation: Reputation,
    /// How services are judged, by service id.
    pub(crate) assess: BTreeMap<String, Assess>,
    /// What other programs on the buyer's machine are given.
    pub(crate) tickets: Tickets,
    /// The buyer's local HTTP port.
    pub(crate) gateway: Gateway,
    /// What a provider sells.
    pub(crate) provider: Provider,
    /// What a relayer charges.
    pub(crate) relayer: Relayer,
}

/// What a daemon tells its operator.
#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub(crate) struct Metrics {
    /// Address of `/health`, `/ready` and `/metrics`; empty for none.
    pub(crate) listen: String,
    /// Peers that a ready daemon has at least; 0 for a node that may be alone.
    pub(crate) min_peers: usize,
    /// Age of the newest block that a ready daemon has read, in seconds, at most; 0 for any.
    pub(crate) max_behind: u64,
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
    #[serde(deserialize_with = "none_if_empty")]
    pub(crate) keystore: Option<PathBuf>,
    /// A file with the keystore's password.
    #[serde(deserialize_with = "none_if_empty")]
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
    /// The shards that this node relays in a network without autosharding; empty: the network autoshards.
    pub(crate) static_shards: Vec<u16>,
    /// Addresses to listen on.
    pub(crate) listen: Vec<String>,
    /// Peers to connect to at the start, with their `/p2p/` part. They add to discovery and never replace it.
    pub(crate) bootstrap: Vec<String>,
    /// Whether and where this node keeps messages and answers Store queries.
    pub(crate) archive: Archive,
    /// Whether this node pushes messages to peers that don't relay (Filter).
    pub(crate) filter: bool,
    /// Peers that may be subscribed by Filter at once.
    pub(crate) filter_subscribers: usize,
    /// Whether this node publishes for peers that don't relay (lightpush).
    pub(crate) lightpush: bool,
    /// Whether several nodes may share an address, and found peers are dialed at local ones.
    pub(crate) shared_address: bool,
    /// UDP address on which discv5 listens; unset runs none.
    #[serde(deserialize_with = "none_if_empty")]
    pub(crate) discv5: Option<String>,
    /// Node records (`enr:..`) to begin discovery with, by discv5 and by peer exchange.
    pub(crate) discv5_bootstrap: Vec<String>,
}

/// Where messages are kept.
#[derive(Debug, Clone)]
pub(crate) enum Archive {
    /// Nowhere.
    Off,
    /// In a SQLite file of the home folder.
    File,
    /// In a PostgreSQL database. It shows itself without its password.
    #[cfg(feature = "postgres")]
    Postgres(PostgresUrl),
}

impl Archive {
    /// Whether messages are kept at all.
    pub(crate) const fn is_on(&self) -> bool {
        !matches!(self, Self::Off)
    }
}

impl Serialize for Archive {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        match self {
            Self::Off => serializer.serialize_bool(false),
            Self::File => serializer.serialize_bool(true),
            #[cfg(feature = "postgres")]
            Self::Postgres(url) => serializer.collect_str(url),
        }
    }
}

impl<'de> Deserialize<'de> for Archive {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Written;
        impl Visitor<'_> for Written {
            type Value = Archive;

            fn expecting(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
                f.write_str("true, false, or the URL of a PostgreSQL database")
            }

            fn visit_bool<E: de::Error>(self, archive: bool) -> Result<Archive, E> {
                Ok(if archive { Archive::File } else { Archive::Off })
            }

            #[cfg(feature = "postgres")]
            fn visit_str<E: de::Error>(self, url: &str) -> Result<Archive, E> {
                // The error repeats nothing of what may hold a password.
                url.parse().map(Archive::Postgres).map_err(de::Error::custom)
            }

            #[cfg(not(feature = "postgres"))]
            fn visit_str<E: de::Error>(self, _: &str) -> Result<Archive, E> {
                Err(de::Error::custom("this program was built without PostgreSQL: write true or false"))
            }
        }
        deserializer.deserialize_any(Written)
    }
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

/// Ratings, made and received.
#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub(crate) struct Reputation {
    /// How much ratings of others count beside own experience, 0 to 1.
    pub(crate) network_weight: f64,
    /// What a usual stream pays in all, in token base units; unset: one token.
    #[serde(deserialize_with = "number_if_any")]
    pub(crate) usual_stream: Option<String>,
    /// A rating is published at a random time within so many seconds.
    pub(crate) rating_delay: u64,
}

/// How a service is judged.
#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub(crate) struct Assess {
    /// A program of the user's that scores; unset: none.
    #[serde(deserialize_with = "none_if_empty")]
    pub(crate) program: Option<PathBuf>,
    /// Its arguments.
    pub(crate) arguments: Vec<String>,
    /// Its time, in milliseconds.
    pub(crate) time_limit_ms: u64,
    /// Its share of the score, 0 to 1.
    pub(crate) share: f64,
    /// Weights of measurements, in place of the built-in ones.
    pub(crate) weights: BTreeMap<String, f64>,
}

impl Default for Assess {
    fn default() -> Self {
        Self { program: None, arguments: Vec::new(), time_limit_ms: 5000, share: 1.0, weights: BTreeMap::new() }
    }
}

/// What other programs on the buyer's machine are given.
#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub(crate) struct Tickets {
    /// Address of the port, on loopback.
    pub(crate) listen: String,
    /// Origins of web pages that may ask, besides programs that are no browser.
    pub(crate) origins: Vec<String>,
    /// Tickets for one PeerId's service in one slot, at most.
    pub(crate) max_per_lease: u32,
    /// Tickets that one run hands out in all, at most.
    pub(crate) max_total: u64,
}

/// The buyer's local HTTP port.
#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub(crate) struct Gateway {
    /// Address of the port, on loopback.
    pub(crate) listen: String,
    /// Origins of web pages that may ask, besides programs that are no browser.
    pub(crate) origins: Vec<String>,
    /// What one purchase may cost, fee included, in token base units.
    #[serde(deserialize_with = "number")]
    pub(crate) max_purchase: String,
    /// What all purchases of 24 hours may cost, in token base units.
    #[serde(deserialize_with = "number")]
    pub(crate) max_per_day: String,
    /// For how long a service is bought, in seconds.
    pub(crate) duration: u64,
    /// Requests in a slot that a purchase of HTTP has room for.
    pub(crate) http_requests: u64,
    /// Prompts in a slot that a purchase of inference has room for, of 1000 tokens of answer each.
    pub(crate) prompts: u64,
    /// Tickets that one prompt may cost, with all slices of its answer.
    pub(crate) prompt_tickets: u64,
    /// Tickets that prompts may cost from midnight to midnight, UTC.
    pub(crate) day_tickets: u64,
    /// Tokens of one answer at most.
    pub(crate) answer_tokens: u32,
    /// Ask over direct streams instead of Waku relay.
    pub(crate) direct: bool,
}

/// An HTTP server of the operator's that is sold.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct HttpUpstream {
    /// Id of the service in the offer.
    pub(crate) id: String,
    /// Where it is: http://host:port/path.
    pub(crate) upstream: String,
    /// Methods that are served.
    #[serde(default = "reading")]
    pub(crate) methods: Vec<String>,
    /// Paths that are served, each with what lies below it.
    #[serde(default = "everything")]
    pub(crate) paths: Vec<String>,
    /// What it is, for a person.
    #[serde(default)]
    pub(crate) title: Option<String>,
    /// Tickets for a request and the first megabyte of its answer.
    #[serde(default = "one")]
    pub(crate) tickets_per_request: u32,
    /// Tickets for each further megabyte.
    #[serde(default = "one")]
    pub(crate) tickets_per_megabyte: u32,
}

fn reading() -> Vec<String> {
    vec!["GET".into(), "HEAD".into()]
}

fn everything() -> Vec<String> {
    vec!["/".into()]
}

const fn one() -> u32 {
    1
}

/// What a provider sells.
#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub(crate) struct Provider {
    /// What is sold: store, filter, lightpush, http, turn, stun, inference.
    pub(crate) services: Vec<String>,
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
    /// Filter: peers that may hold a lease at once.
    pub(crate) filter_leases: usize,
    /// Filter: free subscriptions at once.
    pub(crate) filter_free: usize,
    /// HTTP: the servers behind the proxy.
    pub(crate) http: Vec<HttpUpstream>,
    /// TURN: where calls are relayed, and how much a ticket pays for.
    pub(crate) turn: Turn,
    /// Inference: the model and what answers for it.
    pub(crate) inference: Inference,
    /// A program that judges requests for quotes; none if empty.
    #[serde(deserialize_with = "none_if_empty")]
    pub(crate) policy_script: Option<PathBuf>,
    /// Time for its verdict, in milliseconds.
    pub(crate) policy_script_timeout_ms: u64,
    /// How many of it run at once.
    pub(crate) policy_script_at_once: usize,
    /// Whether it is told peer ids instead of pseudonyms of a day.
    pub(crate) policy_script_sees_peers: bool,
}

/// The model that is sold.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub(crate) struct Inference {
    /// What answers: http or embedded.
    pub(crate) backend: String,
    /// http: base URL of the OpenAI-compatible server, with the version.
    pub(crate) base_url: String,
    /// http: file with the key that the server wants; none if empty.
    #[serde(deserialize_with = "none_if_empty")]
    pub(crate) api_key_file: Option<PathBuf>,
    /// http: the model's name there, if it is another one than the offer's.
    #[serde(deserialize_with = "none_if_empty")]
    pub(crate) backend_model: Option<String>,
    /// embedded: the weights, a GGUF file.
    #[serde(deserialize_with = "none_if_empty")]
    pub(crate) weights: Option<PathBuf>,
    /// embedded: the file's SHA-256, in hexadecimal digits; not checked if empty.
    #[serde(deserialize_with = "none_if_empty")]
    pub(crate) weights_sha256: Option<String>,
    /// The model's id in the offer.
    pub(crate) model: String,
    /// How its weights are quantised.
    pub(crate) quantisation: String,
    /// Tokens of prompt and answer together.
    pub(crate) context: u32,
    /// What it runs on.
    pub(crate) hardware: String,
    /// Tokens of an answer at most.
    pub(crate) max_output: u32,
    /// Tokens of an answer that one payment pays for.
    pub(crate) slice: u32,
    /// Tickets for 1000 tokens of a prompt.
    pub(crate) tickets_in: u32,
    /// Tickets for 1000 tokens of an answer.
    pub(crate) tickets_out: u32,
    /// Whether direct streams are served besides relay.
    pub(crate) direct: bool,
    /// Answers at work at once, those included that wait for the embedded model.
    pub(crate) answers: usize,
    /// embedded: answers that the model works on at once.
    pub(crate) generations: usize,
    /// Free prompts for each peer and hour, on direct streams.
    pub(crate) free_prompts: u32,
}

/// What relays.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub(crate) enum TurnBackend {
    /// The provider itself.
    Embedded,
    /// The operator's coturn.
    Coturn,
}

/// The TURN server that is sold.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub(crate) struct Turn {
    /// What relays: embedded or coturn.
    pub(crate) backend: TurnBackend,
    /// coturn's admin port.
    pub(crate) coturn_admin: String,
    /// A file with the admin port's password.
    #[serde(deserialize_with = "none_if_empty")]
    pub(crate) coturn_password_file: Option<PathBuf>,
    /// A file with coturn's static-auth-secret.
    #[serde(deserialize_with = "none_if_empty")]
    pub(crate) coturn_secret_file: Option<PathBuf>,
    /// Where it listens by UDP.
    pub(crate) udp: Vec<String>,
    /// Where it listens by TCP.
    pub(crate) tcp: Vec<String>,
    /// IP address of the server and its relays as others see it; unset: that of the first UDP listener.
    #[serde(deserialize_with = "none_if_empty")]
    pub(crate) public_address: Option<String>,
    /// Realm of the credentials.
    pub(crate) realm: String,
    /// First port of relays.
    pub(crate) first_port: u16,
    /// Last port of relays.
    pub(crate) last_port: u16,
    /// Networks that may be relayed to beside the public one.
    pub(crate) allowed_peers: Vec<String>,
    /// Binding requests of one address in a second that are answered for nothing; 0: none.
    pub(crate) free_bindings: u32,
    /// Call-minutes that `tickets` pay for.
    pub(crate) call_minutes: u32,
    /// Tickets for that much.
    pub(crate) tickets: u32,
    /// Megabytes that a call may relay in a minute, both directions together.
    pub(crate) megabytes_per_minute: u64,
    /// Bytes a second that one allocation may relay.
    pub(crate) bytes_per_second: u64,
    /// Calls that one buyer may lease in a slot.
    pub(crate) max_calls: u32,
    /// Buyers at once.
    pub(crate) leases: usize,
    /// How long calls go on after the last paid slot, in seconds.
    pub(crate) grace: u64,
    /// STUN: minutes that `stun_tickets` pay for.
    pub(crate) stun_minutes: u32,
    /// STUN: tickets for that much.
    pub(crate) stun_tickets: u32,
    /// STUN: binding requests for each minute.
    pub(crate) bindings_per_minute: u64,
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
    /// After how long a transaction that no block took is sent again at a higher price, in seconds.
    pub(crate) replace_after: u64,
    /// For how long a finished request's state can be asked, in seconds.
    pub(crate) remember: u64,
    /// Blocks after which a mined transaction is forgotten.
    pub(crate) confirmations: u64,
    /// After how long waiting leaves are inserted even if nobody paid for it, in seconds; 0 = only full batches.
    pub(crate) insert_after: u64,
}

impl Default for Config {
    fn default() -> Self {
        Self {
            chain: Chain::default(),
            artifacts: PathBuf::from("build/circuits"),
            stop_limit: 20,
            metrics: Metrics::default(),
            waku: Waku::default(),
            buyer: Buyer::default(),
            reputation: Reputation::default(),
            assess: BTreeMap::new(),
            tickets: Tickets::default(),
            gateway: Gateway::default(),
            provider: Provider::default(),
            relayer: Relayer::default(),
        }
    }
}

impl Default for Metrics {
    fn default() -> Self {
        Self { listen: "127.0.0.1:0".into(), min_peers: 1, max_behind: 60 }
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
            static_shards: Vec::new(),
            listen: vec!["/ip4/127.0.0.1/tcp/0".into()],
            bootstrap: Vec::new(),
            archive: Archive::Off,
            filter: true,
            filter_subscribers: 100,
            lightpush: true,
            shared_address: true,
            discv5: None,
            discv5_bootstrap: Vec::new(),
        }
    }
}

impl Default for Buyer {
    fn default() -> Self {
        Self { max_price: None, max_relay_fee: "1000000".into(), preset: "trusted".into() }
    }
}

impl Default for Reputation {
    fn default() -> Self {
        Self { network_weight: 1.0, usual_stream: None, rating_delay: 21_600 }
    }
}

impl Default for Tickets {
    fn default() -> Self {
        Self { listen: "127.0.0.1:0".into(), origins: Vec::new(), max_per_lease: 12, max_total: 1_000 }
    }
}

impl Default for Gateway {
    fn default() -> Self {
        Self {
            listen: "127.0.0.1:0".into(),
            origins: Vec::new(),
            max_purchase: "20000000".into(),
            max_per_day: "100000000".into(),
            duration: 600,
            http_requests: 10,
            prompts: 4,
            prompt_tickets: 32,
            day_tickets: 1000,
            answer_tokens: 8192,
            direct: false,
        }
    }
}

impl Default for Provider {
    fn default() -> Self {
        Self {
            services: vec!["store".into()],
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
            filter_leases: 75,
            filter_free: 25,
            http: Vec::new(),
            turn: Turn::default(),
            inference: Inference::default(),
            policy_script: None,
            policy_script_timeout_ms: 2_000,
            policy_script_at_once: 4,
            policy_script_sees_peers: false,
        }
    }
}

impl Default for Inference {
    fn default() -> Self {
        Self {
            backend: "http".into(),
            base_url: "http://127.0.0.1:8000/v1".into(),
            api_key_file: None,
            backend_model: None,
            weights: None,
            weights_sha256: None,
            model: String::new(),
            quantisation: "none".into(),
            context: 8192,
            hardware: "unspecified".into(),
            max_output: 2048,
            slice: 250,
            tickets_in: 1,
            tickets_out: 4,
            direct: true,
            answers: 8,
            generations: 2,
            free_prompts: 0,
        }
    }
}

impl Default for Turn {
    fn default() -> Self {
        Self {
            backend: TurnBackend::Embedded,
            coturn_admin: "127.0.0.1:5766".into(),
            coturn_password_file: None,
            coturn_secret_file: None,
            udp: vec!["127.0.0.1:3478".into()],
            tcp: vec!["127.0.0.1:3478".into()],
            public_address: None,
            realm: "tributary".into(),
            first_port: 49_152,
            last_port: 65_535,
            allowed_peers: Vec::new(),
            free_bindings: 10,
            call_minutes: 1,
            tickets: 1,
            megabytes_per_minute: 75,
            bytes_per_second: 1_250_000,
            max_calls: 4,
            leases: 100,
            grace: 15,
            stun_minutes: 10,
            stun_tickets: 1,
            bindings_per_minute: 600,
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
            replace_after: 30,
            remember: 604_800,
            confirmations: 12,
            insert_after: 600,
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
            .map_err(|error| CliError::Config { file, reason: explain(error) })?;
        config.artifacts = resolve(home, &config.artifacts);
        config.chain.manifest = resolve(home, &config.chain.manifest);
        config.chain.keystore = config.chain.keystore.map(|path| resolve(home, &path));
        config.chain.password_file = config.chain.password_file.map(|path| resolve(home, &path));
        let turn = &mut config.provider.turn;
        for file in [&mut turn.coturn_password_file, &mut turn.coturn_secret_file].into_iter().flatten() {
            *file = resolve(home, file);
        }
        config.provider.policy_script = config.provider.policy_script.map(|path| resolve(home, &path));
        Ok(config)
    }

    /// Whether a provider of Filter has room for everybody whom it lets in. A payer that finds none would have paid for nothing.
    ///
    /// # Errors
    /// The keys that contradict each other.
    pub(crate) fn check_filter(&self) -> Result<(), CliError> {
        let (leases, free, room) =
            (self.provider.filter_leases, self.provider.filter_free, self.waku.filter_subscribers);
        if leases.saturating_add(free) <= room {
            return Ok(());
        }
        let reason = format!(
            "provider.filter_leases = {leases} and provider.filter_free = {free} are together more than waku.filter_subscribers = {room}: \
             lower one of the first two, or raise the last"
        );
        Err(CliError::Input { reason })
    }

    /// Whether the network autoshards, as the market's topics need it.
    ///
    /// # Errors
    /// The key that says otherwise.
    pub(crate) fn check_market(&self) -> Result<(), CliError> {
        if self.waku.static_shards.is_empty() {
            return Ok(());
        }
        let reason = "waku.static_shards is set, but the market lives in networks with autosharding: leave it empty, or run a plain node";
        Err(CliError::Input { reason: reason.into() })
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
    Ok(Option::<Number>::deserialize(deserializer)?.map(String::from).filter(|text| !text.is_empty()))
}

fn numbers<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Vec<String>, D::Error> {
    Ok(Vec::<Number>::deserialize(deserializer)?.into_iter().map(Into::into).collect())
}

/// An empty text for what is not set, so that every key can stand in the sample with its default.
fn none_if_empty<'de, D: Deserializer<'de>, T: From<String>>(deserializer: D) -> Result<Option<T>, D::Error> {
    let text = Option::<String>::deserialize(deserializer)?;
    Ok(text.filter(|text| !text.is_empty()).map(T::from))
}

/// What is wrong with a configuration, in words; for an unknown key, the nearest that there is.
fn explain(error: figment::Error) -> String {
    let known = keys();
    let of = |error: figment::Error| match &error.kind {
        Kind::UnknownField(name, _) => {
            let mut path = error.path.clone();
            if path.last() != Some(name) {
                path.push(name.clone());
            }
            let written = path.join(".");
            let from = error.metadata.as_ref().map_or(String::new(), |metadata| format!(" in {}", metadata.name));
            match nearest(&written, &known) {
                Some(near) => format!("unknown key `{written}`{from}: did you mean `{near}`?"),
                None => format!("unknown key `{written}`{from}: `tributary init` writes all keys into a new file"),
            }
        }
        _ => error.to_string(),
    };
    error.into_iter().map(of).collect::<Vec<_>>().join("; ")
}

/// All keys, with their sections.
fn keys() -> Vec<String> {
    fn walk(at: &str, value: &Value, out: &mut Vec<String>) {
        match value {
            Value::Object(section) => {
                for (key, value) in section {
                    walk(&if at.is_empty() { key.clone() } else { format!("{at}.{key}") }, value, out);
                }
            }
            _ => out.push(at.to_owned()),
        }
    }
    let mut out = Vec::new();
    walk("", &serde_json::to_value(Config::default()).unwrap_or_default(), &mut out);
    out
}

/// The key that was probably meant: the same name in another section, or the most similar one.
fn nearest<'a>(written: &str, known: &'a [String]) -> Option<&'a str> {
    let name = |key: &str| key.rsplit('.').next().unwrap_or_default().to_owned();
    let elsewhere = known.iter().find(|key| name(key) == name(written));
    let similar = || {
        known
            .iter()
            .map(|key| (strsim::normalized_damerau_levenshtein(written, key), key))
            .filter(|(similarity, _)| *similarity > 0.5)
            .max_by(|(a, _), (b, _)| a.total_cmp(b))
            .map(|(_, key)| key)
    };
    elsewhere.or_else(similar).map(String::as_str)
}

/// Relative paths are meant from the folder of the file that names them.
fn resolve(home: &Path, path: &Path) -> PathBuf {
    if path.is_absolute() { path.to_owned() } else { home.join(path) }
}

#[cfg(test)]
mod tests {
    use figment::providers::{Format as _, Toml};

    use super::*;

    /// The sample with every key in force.
    fn uncommented() -> String {
        let in_force = |line: &str| match line.strip_prefix('#') {
            Some(rest) if !rest.starts_with(' ') => rest.to_owned(),
            _ => line.to_owned(),
        };
        SAMPLE.lines().map(in_force).collect::<Vec<_>>().join("\n")
    }

    #[test]
    fn the_sample_is_all_keys_with_their_defaults() {
        let sample = Figment::from(Toml::string(&uncommented()));
        for key in keys() {
            assert!(sample.find_value(&key).is_ok(), "the sample lacks {key}");
        }
        let read: Config = sample.extract().unwrap();
        assert_eq!(serde_json::to_value(read).unwrap(), serde_json::to_value(Config::default()).unwrap());
    }

    #[test]
    fn the_sample_as_it_is_changes_nothing() {
        let read: Config = Figment::from(Toml::string(SAMPLE)).extract().unwrap();
        assert_eq!(serde_json::to_value(read).unwrap(), serde_json::to_value(Config::default()).unwrap());
    }

    #[test]
    fn every_key_of_the_sample_is_explained() {
        let mut before = "";
        for line in SAMPLE.lines() {
            if line.starts_with('#') && !line.starts_with("# ") {
                assert!(before.starts_with('#'), "no comment before {line}");
            }
            before = line;
        }
    }

    #[test]
    fn an_unknown_key_is_refused_with_the_nearest_one() {
        let home = tempfile::tempdir().unwrap();
        let refused = |text: &str| {
            std::fs::write(home.path().join(FILE_NAME), text).unwrap();
            match Config::load(home.path()) {
                Err(error @ CliError::Config { .. }) => error.to_string(),
                other => panic!("not refused: {other:?}"),
            }
        };
        let typo = refused("[provider]\nticket_prise = \"1\"\n");
        assert!(typo.contains("`provider.ticket_prise`") && typo.contains("`provider.ticket_price`"), "{typo}");
        let section = refused("[provider]\nmax_gas_price = 1\n");
        assert!(section.contains("did you mean `relayer.max_gas_price`"), "{section}");
        let top = refused("artefacts = \"x\"\n");
        assert!(top.contains("`artefacts`") && top.contains("did you mean `artifacts`"), "{top}");
        let strange = refused("[waku]\nzzzzzzzzzzzz = 1\n");
        assert!(strange.contains("`waku.zzzzzzzzzzzz`") && strange.contains("tributary init"), "{strange}");
        let kind = refused("[waku]\ncluster = \"x\"\n");
        assert!(kind.contains("waku.cluster"), "{kind}");
    }

    #[test]
    fn an_archive_is_off_a_file_or_a_database_whose_password_is_not_told() {
        let home = tempfile::tempdir().unwrap();
        let read = |value: &str| {
            std::fs::write(home.path().join(FILE_NAME), format!("[waku]\narchive = {value}\n")).unwrap();
            Config::load(home.path())
        };
        assert!(matches!(read("false").unwrap().waku.archive, Archive::Off));
        assert!(matches!(read("true").unwrap().waku.archive, Archive::File));
        let database = read("\"postgres://me:hunter2@db.example:5433/messages\"").unwrap();
        assert_eq!(
            serde_json::to_value(&database.waku.archive).unwrap(),
            Value::from("postgres://me@db.example:5433/messages")
        );
        assert!(!format!("{database:?}").contains("hunter2"));
        for wrong in
            ["\"mysql://me:hunter2@h/d\"", "\"postgres://me:hunter2@[h/d\"", "\"postgres://me:hunter2@h\"", "7"]
        {
            let error = read(wrong).unwrap_err().to_string();
            assert!(error.contains("waku.archive") && !error.contains("hunter2"), "{error}");
        }
    }

    #[test]
    fn a_filter_without_room_for_its_payers_is_refused() {
        let mut config = Config::default();
        config.check_filter().unwrap();
        config.provider.filter_free += 1;
        let error = config.check_filter().unwrap_err();
        assert_eq!(error.code(), "TRB-X011");
        for word in ["provider.filter_leases = 75", "provider.filter_free = 26", "waku.filter_subscribers = 100"] {
            assert!(error.to_string().contains(word), "{error}");
        }
        config.waku.filter_subscribers = 101;
        config.check_filter().unwrap();
    }

    #[test]
    fn empty_texts_are_unset() {
        let home = tempfile::tempdir().unwrap();
        std::fs::write(
            home.path().join(FILE_NAME),
            "[chain]\nkeystore = \"\"\n[provider]\npolicy_script = \"judge\"\n",
        )
        .unwrap();
        let config = Config::load(home.path()).unwrap();
        assert_eq!(config.chain.keystore, None);
        assert_eq!(config.provider.policy_script, Some(home.path().join("judge")));
    }
}
