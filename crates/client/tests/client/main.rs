//! A buyer's side of relaying, on a local chain with the real contracts, real proofs and real Waku nodes.
//!
//! Needs the circuits' artefacts and the pinned JavaScript tools: run `./script/setup` first.

#[allow(dead_code, reason = "the wallet's tests use more of it")]
#[path = "../../../wallet/tests/wallet/net.rs"]
mod net;

mod quotes;
mod relay;
