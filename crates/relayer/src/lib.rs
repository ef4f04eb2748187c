//! Sends other people's pool transactions for a fee, and inserts queued leaves.
//!
//! [`Engine`] takes transactions, writes them down, simulates, sends and follows them through reorganisations and restarts; with each it
//! can insert the leaves in the same call. [`RelayerService`] puts an engine on Waku: signed announcements of fees, signed quotes,
//! sealed requests, so that it learns no buyer's network address.

mod call;
mod engine;
mod error;
mod follow;
mod metrics;
mod send;
mod service;
mod store;

pub use crate::{
    call::{PoolCall, operation_name, revert_reason},
    engine::{Engine, EngineConfig, QuotedTerms},
    error::RelayerError,
    metrics::RelayerSnapshot,
    service::{RelayerService, ServiceConfig, ServiceError},
    store::{Done, RelayerStore, RequestCounts, RequestKey, RequestState, SentTransaction, StoredRequest},
};
