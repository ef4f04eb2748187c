//! A relayer's engine on a local chain with the real contracts and real proofs.
//!
//! Needs the circuits' artefacts and the pinned JavaScript tools: run `./script/setup` first.

#[allow(dead_code, reason = "the wallet's tests use more of it")]
#[path = "../../../wallet/tests/wallet/net.rs"]
mod net;

mod crash;
mod desk;
mod intake;
mod sending;
mod service;
