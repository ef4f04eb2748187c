//! Waku services sold through the provider's Service trait.
//!
//! [`StoreService`] sells the node's archive by Store v3: unpaid queries come from the free tier or are refused with 402 and the offer to
//! pay by; paid ones carry their ticket in field 30, bound to the query's exact bytes.

mod store;

pub use store::{StoreConfig, StoreConfigError, StoreService};
