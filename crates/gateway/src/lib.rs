//! The buyer's local HTTP port: what is bought on the market, under addresses that ordinary programs use.
//!
//! A [`Port`] listens on loopback and lets in who has its token. What it offers is a list of [`Surface`]s, one for each family of services;
//! the port knows nothing of them. [`openai::OpenAi`] is the one that many programs know: an OpenAI-compatible server over any
//! [`openai::ChatModel`].

mod body;
pub mod openai;
mod port;
mod token;

pub use crate::{
    body::{Answer, Body, Broken, document, empty, streamed, whole},
    port::{Gate, Port, PortError, PortSettings, Surface},
    token::Token,
};
