//! What a chat is: the request and the events of its answer.

use futures::stream::BoxStream;
use serde::{Deserialize, Serialize};

use crate::client::Receipt;
use crate::error::InferenceError;

/// Who speaks.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Role {
    /// Instructions to the model.
    System,
    /// The user.
    User,
    /// The model.
    Assistant,
}

impl Role {
    /// Its name on the wire.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::System => "system",
            Self::User => "user",
            Self::Assistant => "assistant",
        }
    }

    /// The role of this name.
    #[must_use]
    pub fn from_name(name: &str) -> Option<Self> {
        [Self::System, Self::User, Self::Assistant].into_iter().find(|role| role.as_str() == name)
    }
}

/// One message of a conversation.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct ChatMessage {
    /// Who said it.
    pub role: Role,
    /// What was said.
    pub content: String,
}

impl ChatMessage {
    /// The user's words.
    #[must_use]
    pub fn user(content: impl Into<String>) -> Self {
        Self { role: Role::User, content: content.into() }
    }
}

/// A prompt: the conversation so far, and how to answer.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct ChatRequest {
    /// The model; it must be the one that the offer names.
    pub model: String,
    /// The conversation so far, at least one message.
    pub messages: Vec<ChatMessage>,
    /// Tokens of the answer at most; `None` for what the offer allows.
    pub max_tokens: Option<u32>,
    /// 0 to 2, in thousandths; `None` for the backend's own.
    pub temperature_milli: Option<u32>,
    /// Share of the likeliest tokens that are drawn from, 1 to 1000 thousandths; `None` for the backend's own.
    pub top_p_milli: Option<u32>,
    /// Seed of the sampling.
    pub seed: Option<u64>,
    /// Texts at which the answer ends, at most 4 of 1 to 64 bytes.
    pub stop: Vec<String>,
}

impl ChatRequest {
    /// A single question.
    #[must_use]
    pub fn ask(model: impl Into<String>, question: impl Into<String>) -> Self {
        Self {
            model: model.into(),
            messages: vec![ChatMessage::user(question)],
            max_tokens: None,
            temperature_milli: None,
            top_p_milli: None,
            seed: None,
            stop: Vec::new(),
        }
    }
}

/// Tokens, as the provider's backend counted them.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Usage {
    /// Of the prompt; 0 when the backend didn't say.
    pub prompt_tokens: u32,
    /// Of the answer.
    pub completion_tokens: u32,
}

/// Why an answer ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum FinishReason {
    /// The model was done, or came to a stop text.
    Stop,
    /// The tokens that were allowed are used.
    Length,
    /// The backend held the rest back.
    ContentFilter,
    /// The buyer stopped it.
    Cancelled,
    /// The next slice was not paid.
    Unpaid,
}

impl FinishReason {
    const ALL: [Self; 5] = [Self::Stop, Self::Length, Self::ContentFilter, Self::Cancelled, Self::Unpaid];

    /// Its number on the wire.
    #[must_use]
    pub const fn to_wire(self) -> u32 {
        match self {
            Self::Stop => 1,
            Self::Length => 2,
            Self::ContentFilter => 3,
            Self::Cancelled => 4,
            Self::Unpaid => 5,
        }
    }

    /// The reason of this number.
    #[must_use]
    pub fn from_wire(number: u32) -> Option<Self> {
        Self::ALL.into_iter().find(|reason| reason.to_wire() == number)
    }
}

/// A piece of an answer.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum ChatEvent {
    /// More text.
    Delta(String),
    /// The answer is complete. The last event.
    Finished {
        /// Why.
        reason: FinishReason,
        /// What the backend counted.
        usage: Usage,
        /// What it cost, and how fast it came.
        receipt: Receipt,
    },
}

/// An answer as it comes. Dropping it stops the generation, and pays for no further slice.
pub type ChatStream = BoxStream<'static, Result<ChatEvent, InferenceError>>;
