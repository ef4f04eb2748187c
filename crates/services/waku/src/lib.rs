//! Waku services sold through the provider's Service trait.
//!
//! [`StoreService`] sells the node's archive by Store v3: unpaid queries come from the free tier or are refused with 402 and the offer to
//! pay by; paid ones carry their ticket in field 30, bound to the query's exact bytes. [`LightpushService`] sells publishing in the same way, by
//! field 22 of lightpush v3, and by lease. [`FilterService`] sells subscriptions by lease: they end with it. A node that sells begins with the gate [`Closed`].

mod closed;
mod filter;
mod lightpush;
mod pending;
mod store;

pub use closed::Closed;
pub use filter::{FilterService, FilterServiceConfig, FilterServiceConfigError};
pub use lightpush::{LightpushLease, LightpushService, LightpushServiceConfig, LightpushServiceConfigError};
pub use store::{StoreConfig, StoreConfigError, StoreService};
