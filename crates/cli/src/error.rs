//! What a command can fail with: a code, what happened, what to do.

use std::path::PathBuf;

use serde::Serialize;

/// A command's failure.
#[derive(Debug, thiserror::Error)]
pub(crate) enum CliError {
    /// There is no home folder yet.
    #[error("{} has no tributary.toml: run `tributary init` first, or name another folder with --home", home.display())]
    NotInitialised { home: PathBuf },
    /// `init` was run twice.
    #[error("{} exists already: nothing was changed; use another --home, or move it away", file.display())]
    Exists { file: PathBuf },
    /// Another command is at work.
    #[error("another tributary command uses the wallet in {}: wait for it to end", home.display())]
    Busy { home: PathBuf },
    /// The configuration is wrong.
    #[error("{}: {reason}", file.display())]
    Config { file: PathBuf, reason: String },
    /// A file can't be read.
    #[error("{} can't be read: {error}", file.display())]
    Read { file: PathBuf, error: std::io::Error },
    /// A file can't be written.
    #[error("{} can't be written: {error}", file.display())]
    Write { file: PathBuf, error: std::io::Error },
    /// A URL does not parse.
    #[error("'{url}' is no URL: set chain.rpc to something like http://127.0.0.1:8545")]
    BadUrl { url: String },
    /// An address does not parse.
    #[error("'{address}' is no multiaddr: write it like /ip4/127.0.0.1/tcp/60000/p2p/16Uiu2...")]
    BadAddress { address: String },
    /// There is no keystore.
    #[error("no account pays for gas: set chain.keystore to an Ethereum v3 keystore file (cast wallet new makes one)")]
    NoKeystore,
    /// The keystore does not open.
    #[error("{} can't be opened: {reason}; check chain.password_file", file.display())]
    Keystore { file: PathBuf, reason: String },
    /// There is no password.
    #[error("a password is needed and there is no terminal to ask on: use --password-file")]
    NoPassword,
    /// Signals can't be listened for.
    #[error("the daemon can't listen for signals: {error}")]
    Signals { error: std::io::Error },
    /// The HTTP port can't be opened.
    #[error("{address} can't be listened on: {error}; set metrics.listen to a free address, or leave it empty")]
    MetricsPort { address: std::net::SocketAddr, error: std::io::Error },
    /// The ticket port can't be opened.
    #[error("{address} can't be listened on: {error}; set tickets.listen to a free address")]
    TicketPort { address: std::net::SocketAddr, error: std::io::Error },
    /// The gateway's port can't be opened.
    #[error(transparent)]
    Gateway(#[from] tributary_gateway::PortError),
    /// Something the user typed.
    #[error("{reason}")]
    Input { reason: String },
    /// The chain's endpoint failed.
    #[error("the chain endpoint failed: {0}")]
    Chain(String),
    /// A check found something.
    #[error("{failed} of {checks} checks failed")]
    Unhealthy { failed: usize, checks: usize },
    /// The manifest.
    #[error(transparent)]
    Manifest(#[from] tributary_bindings::ManifestError),
    /// The buyer's steps.
    #[error(transparent)]
    Client(Box<tributary_client::ClientError>),
    /// The wallet.
    #[error(transparent)]
    Wallet(#[from] tributary_wallet::WalletError),
    /// The wallet's seed.
    #[error(transparent)]
    Vault(#[from] tributary_wallet::VaultError),
    /// The ledger.
    #[error(transparent)]
    Ledger(#[from] tributary_ledger::LedgerError),
    /// The prover.
    #[error(transparent)]
    Prover(#[from] tributary_prover::Error),
    /// The node.
    #[error(transparent)]
    Node(#[from] tributary_waku::NodeError),
    /// The node's key.
    #[error(transparent)]
    NodeKey(#[from] tributary_waku::KeyError),
    /// Publishing.
    #[error(transparent)]
    Publish(#[from] tributary_waku::PublishError),
    /// A topic.
    #[error(transparent)]
    Topic(#[from] tributary_waku::TopicError),
    /// The relayer.
    #[error(transparent)]
    Relayer(#[from] tributary_relayer::RelayerError),
    /// The relayer's service.
    #[error(transparent)]
    RelayerService(Box<tributary_relayer::ServiceError>),
    /// The provider.
    #[error(transparent)]
    Provider(Box<tributary_provider::daemon::ProviderError>),
    /// A prompt.
    #[error(transparent)]
    Inference(Box<tributary_service_inference::InferenceError>),
    /// A service can't be sold like this.
    #[error("{reason}")]
    Service { reason: String },
    /// A number out of range.
    #[error(transparent)]
    Range(#[from] tributary_protocol::RangeError),
}

impl From<tributary_client::ClientError> for CliError {
    fn from(error: tributary_client::ClientError) -> Self {
        Self::Client(Box::new(error))
    }
}

impl From<tributary_service_inference::InferenceError> for CliError {
    fn from(error: tributary_service_inference::InferenceError) -> Self {
        Self::Inference(Box::new(error))
    }
}

impl From<tributary_relayer::ServiceError> for CliError {
    fn from(error: tributary_relayer::ServiceError) -> Self {
        Self::RelayerService(Box::new(error))
    }
}

impl From<tributary_provider::daemon::ProviderError> for CliError {
    fn from(error: tributary_provider::daemon::ProviderError) -> Self {
        Self::Provider(Box::new(error))
    }
}

impl CliError {
    /// A stable code.
    pub(crate) fn code(&self) -> &'static str {
        match self {
            Self::NotInitialised { .. } => "TRB-X001",
            Self::Exists { .. } => "TRB-X002",
            Self::Config { .. } => "TRB-X003",
            Self::Busy { .. } => "TRB-X016",
            Self::Provider(error) => error.code(),
            Self::Service { .. } => "TRB-X027",
            Self::Read { .. } => "TRB-X004",
            Self::Write { .. } => "TRB-X005",
            Self::BadUrl { .. } => "TRB-X006",
            Self::BadAddress { .. } => "TRB-X007",
            Self::NoKeystore => "TRB-X008",
            Self::Keystore { .. } => "TRB-X009",
            Self::NoPassword => "TRB-X010",
            Self::Input { .. } => "TRB-X011",
            // TRB-X017: a daemon that did not stop in time (daemon/stop.rs).
            Self::Signals { .. } => "TRB-X018",
            Self::MetricsPort { .. } => "TRB-X019",
            Self::TicketPort { .. } => "TRB-X028",
            Self::Gateway(error) => error.code(),
            Self::Chain(_) => "TRB-X012",
            Self::Unhealthy { .. } => "TRB-X014",
            Self::Manifest(_) => "TRB-X020",
            Self::Client(error) => error.code(),
            Self::Inference(error) => error.code(),
            Self::Wallet(error) => error.code(),
            Self::Vault(error) => error.code(),
            Self::Ledger(error) => error.code(),
            Self::Prover(_) => "TRB-X021",
            Self::Node(_) => "TRB-X022",
            Self::NodeKey(error) => error.code(),
            Self::Publish(_) => "TRB-X023",
            Self::Topic(_) => "TRB-X024",
            Self::Relayer(error) => error.code(),
            Self::RelayerService(_) => "TRB-X025",
            Self::Range(_) => "TRB-X026",
        }
    }

    /// 2: what was typed or configured is wrong; 3: refused by somebody else; 4: not known yet; 1: everything else.
    pub(crate) fn exit_code(&self) -> u8 {
        use tributary_client::ClientError as C;
        match self {
            Self::NotInitialised { .. }
            | Self::Exists { .. }
            | Self::Config { .. }
            | Self::BadUrl { .. }
            | Self::BadAddress { .. }
            | Self::NoKeystore
            | Self::NoPassword
            | Self::MetricsPort { .. }
            | Self::TicketPort { .. }
            | Self::Gateway(_)
            | Self::Input { .. } => 2,
            Self::Client(error) => match **error {
                C::Refused { .. } | C::RelayRejected { .. } | C::NoCandidate { .. } => 3,
                C::UnknownService { .. } | C::SeveralShards { .. } => 2,
                C::RelayUnknown { .. } => 4,
                _ => 1,
            },
            _ => 1,
        }
    }

    /// The failure as one JSON document.
    pub(crate) fn json(&self) -> String {
        #[derive(Serialize)]
        struct Failure<'a> {
            error: &'a str,
            message: String,
        }
        serde_json::to_string(&Failure { error: self.code(), message: self.to_string() }).unwrap_or_default()
    }
}
