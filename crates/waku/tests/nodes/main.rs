//! Real nodes on loopback TCP.

mod common;
mod peers;
mod raw;
mod relay;
mod requests;
mod store;
