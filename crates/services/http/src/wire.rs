//! Messages on the wire.

use tributary_market::offer::ServiceId;

/// Bytes of one piece of an answer at most: what one use pays for, a megabyte.
pub const PIECE_BYTES: usize = 1_000_000;
/// What an answer has besides its body, at most.
pub(crate) const ANSWER_OVERHEAD: usize = 64 * 1024;
/// Bytes of an answer's name.
pub(crate) const NAME_BYTES: usize = 16;

/// The protocol of a service.
#[must_use]
pub fn protocol(service: &ServiceId) -> String {
    format!("/tributary/http/1/{service}")
}
