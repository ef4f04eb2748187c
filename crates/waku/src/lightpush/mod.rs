//! Lightpush (19/WAKU2-LIGHTPUSH, 176): publishing through a service node, for those that don't relay themselves.
//! Version 3 is `/vac/waku/lightpush/3.0.0`, version 2 `/vac/waku/lightpush/2.0.0-beta1`; both are served and spoken.
//!
//! Request field 22 of version 3 carries a serialized `EligibilityProof`; a [`LightPushGate`] decides with it.

mod client;
mod server;
mod types;

use std::time::Duration;

#[cfg(any(test, feature = "fuzzing"))]
pub(crate) use self::client::{decode as decode_answer, decode_v2 as decode_v2_answer};
pub(crate) use self::{
    client::push,
    server::{LightPushServer, LightPushServerV2, LightPushService},
};
pub use self::{
    server::{GatedPush, LightPushGate, LightPushVerdict},
    types::{LightPushError, LightPushRequest, LightPushStatus, LightPushed, lightpush_bytes_without_proof},
};
use crate::{
    limits::Rate,
    message::MAX_MESSAGE_BYTES,
    rpc::{RequestLimits, ServeLimits},
};

/// Protocol id of lightpush version 3.
pub const LIGHTPUSH_PROTOCOL: &str = "/vac/waku/lightpush/3.0.0";

/// Protocol id of lightpush version 2.
pub const LIGHTPUSH_V2_PROTOCOL: &str = "/vac/waku/lightpush/2.0.0-beta1";

/// A message of the largest size, with its topic and proof.
const MAX_REQUEST_BYTES: u64 = MAX_MESSAGE_BYTES as u64 + 64 * 1024;

const MAX_RESPONSE_BYTES: u64 = 64 * 1024;

pub(crate) fn default_serve_limits() -> ServeLimits {
    ServeLimits {
        max_request_bytes: MAX_REQUEST_BYTES,
        max_response_bytes: MAX_RESPONSE_BYTES,
        max_concurrent: 64,
        max_concurrent_per_peer: 16,
        rate_per_peer: Some(Rate::new(50.0, 200.0)),
        rate_total: Some(Rate::new(1000.0, 2000.0)),
        ..ServeLimits::default()
    }
}

pub(crate) fn request_limits() -> RequestLimits {
    RequestLimits {
        max_request_bytes: MAX_REQUEST_BYTES,
        max_response_bytes: MAX_RESPONSE_BYTES,
        timeout: Duration::from_secs(20),
    }
}
