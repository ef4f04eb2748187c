//! The marketplace's messages and their verification: signed offers, negotiated quotes, tickets in their envelope, relayers'
//! announcements and sealed requests, and the choice among offers.
//!
//! Nothing here touches the chain or a database. What arrives from others is decoded within fixed bounds, its signature and
//! terms are checked, and only then does it become a domain type ([`offer::VerifiedOffer`], [`negotiate::AgreedQuote`],
//! [`ticket::PresentedTicket`]). `docs/src/market.md` specifies the bytes.

pub mod book;
pub mod choose;
pub mod clock;
pub mod envelope;
pub mod lease;
pub mod negotiate;
pub mod node;
pub mod offer;
pub mod program;
pub mod property;
pub mod rating;
pub mod relay;
pub mod rpc;
pub mod sealed;
pub mod ticket;
pub mod topics;
pub mod transport;
pub mod wire;

/// The wire messages of `proto/tributary/v1`, as generated. Use the domain types of the other modules wherever a value has
/// been or must be checked.
#[allow(missing_docs, clippy::all)]
pub mod proto {
    include!(concat!(env!("OUT_DIR"), "/tributary.v1.rs"));
}
