//! An OpenAI-compatible server over a [`ChatModel`].
//!
//! `GET /v1/models`, `GET /v1/models/{id}` and `POST /v1/chat/completions`, whole or streamed. The program's API key is the port's token. A request
//! is answered by the very model that it names or by an error, never by another model.

mod error;
mod model;
mod request;
mod surface;

pub use self::{
    error::ChatError,
    model::{ChatEvent, ChatModel, ChatStream, FinishReason, ModelInfo, TokenUsage},
    request::{ChatMessage, ChatRequest, Role},
    surface::OpenAi,
};
