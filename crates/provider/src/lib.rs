//! Verifies tickets, serves what they buy, and claims from the streams that pay.

pub mod batch;
pub mod free;
pub mod store;
