//! The buyer: discover, choose, negotiate, pay, use, assess.
//!
//! [`Buyer`] goes through the steps; [`Directory`] knows what is on sale; [`PaidStore`] makes queries whose pages are paid by tickets;
//! [`PaidLightpush`] publishes and [`PaidFilter`] subscribes for tickets, the latter by a [`LeaseBuyer`];
//! [`Session`] is a provider that is paid and answers, bought if need be, renewed in time, and left and paid no more when it fails;
//! [`TicketDesk`] makes tickets for leases that other programs buy; [`RelaySubmitter`] sends transactions through relayers. What must outlive a
//! command is in [`ClientStore`].

mod buyer;
mod custom;
mod desk;
mod discover;
mod error;
mod lease;
mod leave;
mod push;
mod query;
mod rate;
mod ratings;
mod relay;
mod route;
mod session;
mod store;
mod tickets;
mod uses;

pub use crate::{
    buyer::{
        AgreedTerms, Buyer, BuyerParts, Load, Opened, RatingSettings, Reputed, Sought, SoughtFamily, Want,
        open_reputation, tickets_a_page, verdict_score,
    },
    custom::OwnAssessor,
    desk::{BoundTickets, DeskError, DeskLimits, TicketDesk, TicketOrder, WhichSlot},
    discover::{Directory, Found},
    error::ClientError,
    lease::{KeptLease, LeaseBuyer, LeaseHealth, LeasePlan, PaidFilter},
    leave::LeftStreams,
    push::{PaidLightpush, PaidPush},
    query::{PagePrice, PaidPage, PaidStore, is_replay_refusal, unpaid},
    rate::{MadeRating, RateOrder, SentRating},
    ratings::{BATCH, RatingDesk, RatingLimits, RatingSource, Settled, usual_stream},
    relay::RelaySubmitter,
    session::{Failure, Session, SpendingCaps},
    store::{ClientStore, DeliveredMessage, DeliveredPage, Delivery, Failures, Purchase, SeenMessage, StoredQuote},
    tickets::{RequestTickets, StreamTickets, TicketSource},
    uses::{FilterUse, FilterWatch, UseRecord},
};
