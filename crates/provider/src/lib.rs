//! Verifies tickets, serves what they buy, and claims from the streams that pay.
//!
//! A [`check::TicketChecker`] takes a proof of payment through every check, cheapest first, and stores its nullifiers durably before
//! anything is served. Each [`service::Service`] admits its uses at a [`till::Till`]; a
//! [`lease::LeaseDesk`] sells services by the slot.
//! [`daemon::Provider`] puts it together with offers and quotes.

pub mod batch;
pub mod chain;
pub mod check;
pub mod claims;
pub mod conduct;
pub mod daemon;
mod files;
pub mod free;
pub mod lease;
mod lru;
pub mod offers;
pub mod promises;
pub mod service;
pub mod store;
pub mod till;
