//! STUN and TURN, sold by the slot.

mod backend;
mod client;
mod coturn;
mod credential;
mod embedded;
mod limit;
mod peers;
mod service;
mod stun;
mod trial;

pub use backend::{Allowance, Backend, BackendError, Session, Usage};
pub use client::{StunClient, TurnClient, TurnClientError};
pub use coturn::{Coturn, CoturnConfig};
pub use credential::{Credential, Grant, GrantError, LeaseId};
pub use embedded::{Embedded, EmbeddedConfig, Limits};
pub use limit::OpenRate;
pub use peers::{Cidr, CidrError, MAX_ALLOWED, PeerPolicy};
pub use service::{StunServiceConfig, TurnService, TurnServiceConfig, TurnServiceConfigError};
pub use trial::{MAX_WITNESSES, StunTried, Trial, TurnTried};
