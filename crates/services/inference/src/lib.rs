//! AI inference, sold by the prompt: the provider's side, the buyer's side, and what they say to each other.
//!
//! A prompt is sealed to the provider's key and carries its own ticket; the answer comes back in sealed chunks to a key and a topic that are made
//! for it alone. [`InferenceService`] sells a [`backend::Backend`] behind the provider's `Service` trait, over Waku relay and over direct
//! streams; [`InferenceClient`] buys, and [`MarketModel`] makes the gateway's OpenAI surface of it. `docs/src/inference.md` specifies the bytes.

mod api;
pub mod backend;
mod client;
pub mod credit;
mod error;
mod gateway;
mod provider;
mod purse;
pub mod sale;
mod spending;
pub mod wire;

pub use api::{ChatEvent, ChatMessage, ChatRequest, ChatStream, FinishReason, Role, Usage};
pub use client::{Counter, InferenceClient, InferenceClientParts, Receipt, Timing, Transport};
pub use error::InferenceError;
pub use gateway::{Desk, InferenceMarket, MarketModel, Offered};
pub use provider::{InferenceConfig, InferenceConfigError, InferenceService};
pub use purse::CreditPurse;
pub use sale::Sale;
pub use spending::{SpendingBook, SpendingCaps};
pub use wire::FailureCode;

/// The wire messages of `proto/tributary/v1/inference.proto`, as generated.
#[allow(missing_docs, clippy::all)]
pub mod proto {
    include!(concat!(env!("OUT_DIR"), "/tributary.inference.v1.rs"));
}
