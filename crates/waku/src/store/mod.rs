//! Store v3, `/vac/waku/store-query/3.0.0` (13/WAKU2-STORE): queries for archived messages, served and asked.
//!
//! Request field 30 carries a serialized `EligibilityProof`, response field 30 an `EligibilityStatus`: the payment
//! beside the query. A [`StoreGate`] decides with them whether a query is served.

mod client;
mod server;
mod types;

use std::time::Duration;

pub(crate) use self::{client::query, server::StoreServer};
pub use self::{
    server::{GatedQuery, StoreGate, StoreOutcome, StoreVerdict},
    types::{
        EligibilityStatus, StoreEntry, StoreError, StoreQueryRequest, StoreQueryResponse, StoreStatus,
        request_bytes_without_proof,
    },
};
use crate::{
    limits::Rate,
    message::MAX_MESSAGE_BYTES,
    rpc::{RequestLimits, ServeLimits},
};

/// Protocol id of Store v3.
pub const STORE_PROTOCOL: &str = "/vac/waku/store-query/3.0.0";

/// Messages in a page if the request doesn't say.
pub const DEFAULT_PAGE_LIMIT: u64 = 20;

/// Messages in a page at most; a higher limit is lowered to it.
pub const MAX_PAGE_LIMIT: u64 = 100;

/// Content topics in a request at most.
pub const MAX_QUERY_CONTENT_TOPICS: usize = 100;

/// Message hashes in a request at most.
pub const MAX_QUERY_HASHES: usize = 1000;

/// Longest request id, in bytes.
pub const MAX_REQUEST_ID_BYTES: usize = 256;

/// Room for a full page of messages of the largest size.
const MAX_RESPONSE_BYTES: u64 = MAX_PAGE_LIMIT * MAX_MESSAGE_BYTES as u64 + 64 * 1024;

/// What a Store server takes unless it is configured otherwise.
#[must_use]
pub(crate) fn default_serve_limits() -> ServeLimits {
    ServeLimits {
        max_request_bytes: 128 * 1024,
        max_response_bytes: MAX_RESPONSE_BYTES,
        read_timeout: Duration::from_secs(10),
        handler_timeout: Duration::from_secs(20),
        write_timeout: Duration::from_secs(30),
        max_concurrent: 64,
        max_concurrent_per_peer: 16,
        rate_per_peer: Some(Rate::new(200.0, 400.0)),
        rate_total: Some(Rate::new(2000.0, 4000.0)),
    }
}

/// What a Store client grants a server unless it is told otherwise.
#[must_use]
pub(crate) fn default_request_limits() -> RequestLimits {
    RequestLimits {
        max_request_bytes: 128 * 1024,
        max_response_bytes: MAX_RESPONSE_BYTES,
        timeout: Duration::from_secs(20),
    }
}
