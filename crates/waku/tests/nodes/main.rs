//! Real nodes on loopback.

mod common;
mod discovery;
mod filter;
mod lightpush;
mod peers;
mod raw;
mod relay;
mod requests;
mod store;
mod transports;
