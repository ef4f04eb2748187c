//! Real nodes on loopback TCP.

mod common;
mod discovery;
mod filter;
mod lightpush;
mod peers;
mod raw;
mod relay;
mod requests;
mod store;
