//! What answers prompts at the provider.

use std::fmt::Debug;
use std::time::Duration;

use async_trait::async_trait;
use futures::stream::BoxStream;

use crate::api::{ChatRequest, FinishReason, Usage};
use crate::wire::FailureCode;

#[cfg(feature = "embedded")]
mod embedded;
mod http;

#[cfg(feature = "embedded")]
pub use embedded::{Embedded, EmbeddedConfig, EmbeddedError, ModelInfo};
pub use http::{HttpBackend, HttpBackendConfig, HttpBackendError};

/// What a backend is asked.
#[derive(Debug, Clone, PartialEq)]
pub struct Job {
    /// The conversation, the model and how to answer.
    pub request: ChatRequest,
    /// Tokens of the answer at most.
    pub max_tokens: u32,
}

/// A piece of a backend's answer.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Piece {
    /// More text.
    Delta {
        /// The text.
        text: String,
        /// Tokens that it stands for, as far as the backend tells.
        tokens: u32,
    },
    /// The answer is complete. The last piece.
    Finished {
        /// Why.
        reason: FinishReason,
        /// What was counted; zeros where the backend doesn't say.
        usage: Usage,
    },
}

/// Why a backend gave no whole answer. What is said to buyers names no address of the operator's.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum BackendError {
    /// It can't be reached.
    #[error("the backend can't be reached")]
    Unreachable,
    /// It answered with an error.
    #[error("the backend answered with status {status}")]
    Status {
        /// HTTP status.
        status: u16,
    },
    /// It said nothing for too long.
    #[error("the backend said nothing for {} s", limit.as_secs_f32())]
    Silent {
        /// How long it was waited for.
        limit: Duration,
    },
    /// The answer ended in the middle.
    #[error("the backend's answer was cut off")]
    CutOff,
    /// The answer isn't what the protocol says.
    #[error("the backend's answer can't be read: {reason}")]
    Malformed {
        /// What is wrong with it.
        reason: &'static str,
    },
    /// It refuses the prompt.
    #[error("the prompt can't be answered: {reason}")]
    BadPrompt {
        /// Why.
        reason: String,
    },
    /// As many answers wait as may.
    #[error("{waiting} answers wait for the model already: ask again in a while")]
    Busy {
        /// Answers at work and waiting.
        waiting: usize,
    },
    /// Prompt and answer don't fit the context.
    #[error("the prompt has {tokens} tokens, the model takes at most {max} with room for an answer: shorten it")]
    TooLong {
        /// Tokens of the prompt, with those of the chat's form.
        tokens: usize,
        /// Tokens that a prompt may have.
        max: usize,
    },
    /// The engine failed.
    #[error("the model failed: {reason}")]
    Engine {
        /// What it said.
        reason: String,
    },
}

impl BackendError {
    /// The stable code of the error.
    #[must_use]
    pub const fn code(&self) -> &'static str {
        match self {
            Self::Unreachable => "TRB-N201",
            Self::Status { .. } => "TRB-N202",
            Self::Silent { .. } => "TRB-N203",
            Self::CutOff => "TRB-N204",
            Self::Malformed { .. } => "TRB-N205",
            Self::BadPrompt { .. } => "TRB-N206",
            Self::Engine { .. } => "TRB-N207",
            Self::Busy { .. } => "TRB-N208",
            Self::TooLong { .. } => "TRB-N209",
        }
    }

    /// How it is told to a buyer.
    #[must_use]
    pub const fn failure(&self) -> FailureCode {
        match self {
            Self::Silent { .. } => FailureCode::BackendSilent,
            Self::CutOff => FailureCode::CutOff,
            Self::BadPrompt { .. } | Self::TooLong { .. } => FailureCode::BadPrompt,
            _ => FailureCode::BackendFailed,
        }
    }
}

/// An answer as it is generated. Dropping it cancels the generation.
pub type Generation = BoxStream<'static, Result<Piece, BackendError>>;

/// Answers prompts.
#[async_trait]
pub trait Backend: Debug + Send + Sync + 'static {
    /// The models that it has now.
    ///
    /// # Errors
    /// [`BackendError`].
    async fn models(&self) -> Result<Vec<String>, BackendError>;

    /// Begins an answer. The backend makes no more of it than is taken, apart from what lies in its buffers.
    ///
    /// # Errors
    /// [`BackendError`].
    async fn generate(&self, job: Job) -> Result<Generation, BackendError>;
}
