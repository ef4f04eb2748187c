//! Wallets on a local chain with the real contracts and real proofs.
//!
//! Needs the circuits' artefacts (`./script/setup`) and the pinned JavaScript tools (`npm ci`).

mod crash;
mod fees;
mod life;
mod net;
mod privacy;
mod reorganise;
mod restore;
mod tickets;
