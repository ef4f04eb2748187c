//! The buyer: discover, choose, negotiate, pay, use, assess.
//!
//! [`Buyer`] goes through the steps; [`Directory`] knows what is on sale; [`PaidStore`] makes queries whose pages are paid by tickets;
//! [`PaidLightpush`] publishes and [`PaidFilter`] subscribes for tickets, the latter by a [`LeaseBuyer`];
//! [`TicketDesk`] makes tickets for leases that other programs buy; [`RelaySubmitter`] sends transactions through relayers. What must outlive a
//! command is in [`ClientStore`].

mod buyer;
mod desk;
mod discover;
mod error;
mod lease;
mod push;
mod query;
mod relay;
mod route;
mod store;
mod tickets;

pub use crate::{
    buyer::{
        AgreedTerms, Buyer, BuyerParts, Load, Opened, Sought, SoughtFamily, Want, open_reputation, tickets_a_page,
        verdict_score,
    },
    desk::{BoundTickets, DeskError, DeskLimits, TicketDesk, TicketOrder, WhichSlot},
    discover::{Directory, Found},
    error::ClientError,
    lease::{KeptLease, LeaseBuyer, LeaseHealth, LeasePlan, PaidFilter},
    push::{PaidLightpush, PaidPush},
    query::{PagePrice, PaidPage, PaidStore, is_replay_refusal, unpaid},
    relay::RelaySubmitter,
    store::{ClientStore, DeliveredMessage, DeliveredPage, Delivery, Purchase, SeenMessage, StoredQuote},
    tickets::{StreamTickets, TicketSource},
};
