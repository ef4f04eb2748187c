//! Real nodes on loopback.

mod common;
mod discovery;
mod filter;
mod lightpush;
mod peers;
#[path = "../support/postgres.rs"]
mod postgres;
mod raw;
mod relay;
mod requests;
mod store;
mod transports;
