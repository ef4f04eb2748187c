//! A paid HTTP reverse proxy.
//!
//! The provider's side, [`HttpService`], sells one upstream of its operator's: a ticket for a request with its answer's first megabyte, and tickets for
//! each further one. The buyer's side is [`HttpClient`], and [`HttpSurface`], which puts it on the gateway: `/http/<service id>/path`.
//! Both see [`HttpProperties`] in the offer. This crate is the example of how a service is added (docs: adding a service).

mod client;
mod fault;
mod properties;
mod rules;
mod service;
mod surface;
mod upstream;
mod wire;

/// The wire messages, generated from `proto/tributary/v1/http.proto`.
#[allow(missing_docs, unreachable_pub, clippy::all, clippy::pedantic)]
pub mod proto {
    include!(concat!(env!("OUT_DIR"), "/tributary.v1.rs"));
}

pub use crate::{
    client::{HttpAsk, HttpClient, HttpClientError, HttpHeadReceived, HttpPieces},
    fault::{HttpFault, HttpFaultKind},
    properties::{HttpProperties, family},
    rules::{MAX_BODY_BYTES, Rules},
    service::{HttpService, HttpServiceConfig, HttpServiceConfigError},
    surface::{HttpMarket, HttpSurface, SeatError},
    upstream::{Upstream, UpstreamError},
    wire::{PIECE_BYTES, protocol},
};
