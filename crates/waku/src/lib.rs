//! Waku protocols on rust-libp2p
