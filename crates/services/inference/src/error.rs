//! What can go wrong for a buyer.

use tributary_client::ClientError;
use tributary_market::sealed::SealedError;
use tributary_market::ticket::Reason;
use tributary_market::transport::TransportError;
use tributary_market::wire::WireError;

use crate::wire::FailureCode;

/// Why a prompt got no whole answer.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum InferenceError {
    /// The prompt can't be sent like this; nothing was spent.
    #[error("{0}: change the request")]
    Request(WireError),
    /// The offer sells no inference under this id, or in a way that this version doesn't know.
    #[error("the offer sells no inference as {service}: {reason}")]
    NotSold {
        /// The service's id.
        service: String,
        /// What is missing.
        reason: String,
    },
    /// The model isn't the offer's.
    #[error("model {asked} was asked for, the offer sells {sold}: name that one, or choose another provider")]
    OtherModel {
        /// The request's.
        asked: String,
        /// The offer's.
        sold: String,
    },
    /// The prompt takes more than one proof can pay.
    #[error("the prompt counts {tokens} tokens, at most {max} can be paid at once: shorten it")]
    PromptTooLong {
        /// Metered tokens of the prompt.
        tokens: u64,
        /// The most.
        max: u64,
    },
    /// The buyer's own cap for one prompt.
    #[error(
        "{spent} tickets are spent on this prompt and {asked} more are needed, the cap is {cap}: raise it or ask for less"
    )]
    PromptCap {
        /// Tickets spent on it.
        spent: u64,
        /// Tickets needed now.
        asked: u64,
        /// The cap.
        cap: u64,
    },
    /// The buyer's own cap for one day.
    #[error(
        "{spent} tickets are spent today and {asked} more are needed, the cap is {cap}: raise it or wait until tomorrow (UTC)"
    )]
    DayCap {
        /// Tickets spent since midnight UTC.
        spent: u64,
        /// Tickets needed now.
        asked: u64,
        /// The cap.
        cap: u64,
    },
    /// The provider wants payment, or refused it.
    #[error("the provider refused: {description}")]
    Refused {
        /// Its reason.
        reason: Reason,
        /// In its words.
        description: String,
    },
    /// The provider's backend failed. What was spent on it comes back as a credit, where the provider gave one.
    #[error("the provider's backend failed ({code}): {description}; {}", if *credited { "a credit was given, ask again" } else { "no credit was given" })]
    Failed {
        /// What happened.
        code: FailureCode,
        /// In the provider's words.
        description: String,
        /// Whether a credit was given.
        credited: bool,
    },
    /// The provider fell silent. No further slice is paid.
    #[error("the provider fell silent after {tokens} tokens, {seconds} s without a sign of life: choose another one")]
    ProviderGone {
        /// Tokens that came.
        tokens: u64,
        /// How long it was waited for, seconds.
        seconds: u64,
    },
    /// The provider broke the protocol.
    #[error("the provider broke the protocol: {0}")]
    Protocol(WireError),
    /// No ticket could be had.
    #[error(transparent)]
    Client(Box<ClientError>),
    /// The network failed.
    #[error(transparent)]
    Transport(#[from] TransportError),
    /// A message couldn't be sealed.
    #[error(transparent)]
    Sealed(#[from] SealedError),
    /// What was spent can't be written down; nothing was sent.
    #[error("spending can't be written to {path}: {reason}; free disk space or repair the disk", path = path.display())]
    Book {
        /// The file.
        path: std::path::PathBuf,
        /// What the system said.
        reason: String,
    },
}

impl InferenceError {
    /// The stable code of the error.
    #[must_use]
    pub fn code(&self) -> &'static str {
        match self {
            Self::Request(_) => "TRB-N001",
            Self::NotSold { .. } => "TRB-N002",
            Self::OtherModel { .. } => "TRB-N003",
            Self::PromptTooLong { .. } => "TRB-N004",
            Self::PromptCap { .. } => "TRB-N005",
            Self::DayCap { .. } => "TRB-N006",
            Self::Refused { reason, .. } => reason.code(),
            Self::Failed { .. } => "TRB-N007",
            Self::ProviderGone { .. } => "TRB-N008",
            Self::Protocol(_) => "TRB-N009",
            Self::Client(error) => error.code(),
            Self::Transport(error) => error.code(),
            Self::Sealed(error) => error.code(),
            Self::Book { .. } => "TRB-N010",
        }
    }
}

impl From<ClientError> for InferenceError {
    fn from(error: ClientError) -> Self {
        Self::Client(Box::new(error))
    }
}
