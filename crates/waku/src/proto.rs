//! Wire messages, generated from `proto/waku/*.proto`.
//!
//! The domain types of this crate ([`crate::WakuMessage`], [`crate::StoreQueryRequest`], ...) convert from and
//! to these; use the generated types only to speak the wire format itself.

#![allow(missing_docs, unreachable_pub, clippy::all, clippy::pedantic)]

include!(concat!(env!("OUT_DIR"), "/waku_protocols.rs"));

pub use waku::*;
