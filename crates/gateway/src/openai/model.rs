//! What answers prompts.

use std::fmt::Debug;

use async_trait::async_trait;
use futures::stream::BoxStream;
use serde::{Deserialize, Serialize};
use tributary_market::clock::Clock;

use super::{ChatError, ChatRequest};

/// A model that can be asked.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ModelInfo {
    /// Its id, as requests name it.
    pub id: String,
    /// Since when it is known, Unix seconds.
    pub created: u64,
    /// Who offers it, for a person.
    pub owned_by: String,
    /// What else is known of it, as a JSON object: context, quantisation, price and the like.
    pub details: serde_json::Map<String, serde_json::Value>,
}

/// Tokens of one answer.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct TokenUsage {
    /// Tokens of the prompt.
    pub prompt: u64,
    /// Tokens of the answer.
    pub completion: u64,
}

/// Why an answer ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum FinishReason {
    /// The model was done, or came to a stop sequence.
    Stop,
    /// The tokens that were allowed are used.
    Length,
    /// What would have come next was held back.
    ContentFilter,
}

/// A piece of an answer.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum ChatEvent {
    /// More text.
    Delta(String),
    /// What was counted. At most once.
    Usage(TokenUsage),
    /// The text is complete. Exactly once; nothing but [`Self::Usage`] may follow.
    Finish(FinishReason),
}

/// An answer as it comes. Dropping it ends the answer and what is paid for it.
pub type ChatStream = BoxStream<'static, Result<ChatEvent, ChatError>>;

/// Answers prompts.
#[async_trait]
pub trait ChatModel: Debug + Send + Sync + 'static {
    /// The models that can be asked.
    ///
    /// # Errors
    /// [`ChatError`].
    async fn models(&self) -> Result<Vec<ModelInfo>, ChatError>;

    /// Begins an answer by exactly the model that the request names.
    ///
    /// # Errors
    /// [`ChatError`]; [`ChatError::UnknownModel`] when nobody offers this model.
    async fn chat(&self, request: ChatRequest) -> Result<ChatStream, ChatError>;

    /// The time.
    fn clock(&self) -> &dyn Clock;
}
