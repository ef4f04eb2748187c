//! A provider on a local chain with the real contracts, real proofs and a real node.
//!
//! Needs the circuits' artefacts (`./script/setup`) and the pinned JavaScript tools (`npm ci`).

#[allow(dead_code, reason = "the wallet's tests use more of it")]
#[path = "../../../wallet/tests/wallet/net.rs"]
mod net;

mod claims;
mod shop;
mod tickets;
