//! The buyer: discover, choose, negotiate, pay, use, assess.
//!
//! [`Buyer`] goes through the steps; [`Directory`] knows what is on sale; [`PaidStore`] makes queries whose pages are paid by tickets;
//! [`RelaySubmitter`] sends transactions through relayers. What must outlive a command is in [`ClientStore`].

mod buyer;
mod discover;
mod error;
mod query;
mod relay;
mod store;

pub use crate::{
    buyer::{AgreedTerms, Buyer, BuyerParts, Opened, Want, open_reputation, tickets_a_page, verdict_score},
    discover::{Directory, Found},
    error::ClientError,
    query::{PagePrice, PaidPage, PaidStore, is_replay_refusal, unpaid},
    relay::RelaySubmitter,
    store::{ClientStore, DeliveredMessage, DeliveredPage, Delivery, Purchase, SeenMessage, StoredQuote},
};
