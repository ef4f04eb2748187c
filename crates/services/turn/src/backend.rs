//! What relays: the embedded server, or an operator's coturn.

use std::fmt::Debug;
use std::net::SocketAddr;

use async_trait::async_trait;
use tributary_protocol::UnixTime;

use crate::credential::{Credential, LeaseId};

/// What a lease may use.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Allowance {
    /// Bytes relayed since the credential was issued, both directions, payload, at most.
    pub bytes: u64,
    /// Allocations at once.
    pub allocations: u32,
    /// Authenticated binding requests since the credential was issued, at most.
    pub bindings: u64,
}

impl Allowance {
    /// Nothing.
    pub const NONE: Self = Self { bytes: 0, allocations: 0, bindings: 0 };
}

/// What a lease has used since its credential was issued.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Usage {
    /// Bytes relayed, both directions, payload.
    pub bytes: u64,
    /// Authenticated binding requests.
    pub bindings: u64,
}

/// A live allocation.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Session {
    /// Whose it is.
    pub lease: LeaseId,
    /// The client's address, where the backend tells it.
    pub client: Option<SocketAddr>,
    /// The relayed address, where the backend tells it.
    pub relay: Option<SocketAddr>,
    /// Bytes that it relayed.
    pub bytes: u64,
}

/// Why a backend failed.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum BackendError {
    /// The server can't listen.
    #[error("can't listen on {address}: {reason}; is another server there?")]
    Listen {
        /// Where.
        address: SocketAddr,
        /// Why.
        reason: String,
    },
    /// The operator's server doesn't do what it is asked.
    #[error("coturn's admin port {address}: {reason}; check cli-ip, cli-port and cli-password of turnserver.conf")]
    Admin {
        /// Its address.
        address: SocketAddr,
        /// Why.
        reason: String,
    },
}

impl BackendError {
    /// The stable code of the error.
    #[must_use]
    pub const fn code(&self) -> &'static str {
        match self {
            Self::Listen { .. } => "TRB-5711",
            Self::Admin { .. } => "TRB-5712",
        }
    }
}

/// A server that relays for the holders of credentials.
#[async_trait]
pub trait Backend: Debug + Send + Sync + 'static {
    /// The realm of its credentials.
    fn realm(&self) -> &str;

    /// Whether bindings can be asked for with a credential, and are counted then.
    fn counts_bindings(&self) -> bool;

    /// The credential of a lease. It gives nothing before [`Self::allow`]. It is good until `until` at least. The same lease gets the
    /// same one, or one that goes on with the same allocations.
    fn issue(&self, lease: LeaseId, until: UnixTime) -> Credential;

    /// What the lease may use from now on. Sessions that are live stay.
    fn allow(&self, lease: LeaseId, allowance: Allowance);

    /// What a lease has used.
    fn usage(&self, lease: LeaseId) -> Usage;

    /// Live allocations, as known by the last [`Self::poll`].
    fn list(&self) -> Vec<Session>;

    /// Ends the lease's live allocations and gives it nothing more, until [`Self::allow`].
    ///
    /// # Errors
    /// [`BackendError`]; the next call tries again.
    async fn cut(&self, lease: LeaseId) -> Result<(), BackendError>;

    /// [`Self::cut`], and forgets the credential.
    ///
    /// # Errors
    /// [`BackendError`]; the credential gives nothing all the same, and the next [`Self::poll`] tries again.
    async fn revoke(&self, lease: LeaseId) -> Result<(), BackendError>;

    /// Brings [`Self::usage`] and [`Self::list`] up to date, and ends what should have ended.
    ///
    /// # Errors
    /// [`BackendError`].
    async fn poll(&self) -> Result<(), BackendError>;

    /// Stops relaying.
    async fn stop(&self);
}
