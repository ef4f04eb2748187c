//! What a provider sells: the trait that every service family implements, and the registry.

use std::fmt::Debug;
use std::sync::Arc;

use async_trait::async_trait;
use tributary_market::offer::{self, ServiceId};

use crate::free::FreeTierLimits;
use crate::lease::LeaseBook;
use crate::till::Till;

/// Why a service can't start or stop.
#[derive(Debug, thiserror::Error)]
#[error("service {service}: {reason}")]
pub struct ServiceError {
    /// Stable code.
    pub code: &'static str,
    /// The service.
    pub service: ServiceId,
    /// What went wrong, and what to do.
    pub reason: String,
}

/// A service that is sold for tickets.
///
/// The provider gives it a [`Till`] when it starts. For every use the service asks the till, with the request's bytes and the price of the
/// use in tickets; serves only what was admitted; and settles the admission: as served *before* it hands the answer over, or as failed.
#[async_trait]
pub trait Service: Debug + Send + Sync + 'static {
    /// How the service stands in the offer: its id, its prices in tickets, its attributes.
    fn entry(&self) -> offer::Service;

    /// What it gives to those who don't pay.
    fn free_tier(&self) -> FreeTierLimits;

    /// Opens the service to the network.
    ///
    /// # Errors
    /// [`ServiceError`] when it can't be offered.
    async fn start(&self, till: Till) -> Result<(), ServiceError>;

    /// Closes the service; uses at work may finish.
    async fn stop(&self);

    /// The book that its leases are sold from; `None` for a service that is not sold by the slot.
    fn leases(&self) -> Option<Arc<LeaseBook>> {
        None
    }

    /// Does what is due: ends what isn't paid for any more. The provider calls it each second.
    async fn turn(&self) {}
}

/// The services of one provider, by their ids in the offer.
#[derive(Debug, Default)]
pub struct Registry {
    services: Vec<Arc<dyn Service>>,
}

impl Registry {
    /// Without services.
    #[must_use]
    pub fn new() -> Self {
        Self::default()
    }

    /// Adds a service.
    ///
    /// # Errors
    /// [`ServiceError`] when there is one of this id.
    pub fn add(&mut self, service: Arc<dyn Service>) -> Result<(), ServiceError> {
        let id = service.entry().id;
        if self.services.iter().any(|s| s.entry().id == id) {
            let reason = "there is a service of this id; give each its own id".to_owned();
            return Err(ServiceError { code: "TRB-5201", service: id, reason });
        }
        self.services.push(service);
        Ok(())
    }

    /// The services, in the order in which they were added.
    pub fn iter(&self) -> impl Iterator<Item = &Arc<dyn Service>> {
        self.services.iter()
    }

    /// Their entries in the offer.
    #[must_use]
    pub fn entries(&self) -> Vec<offer::Service> {
        self.services.iter().map(|s| s.entry()).collect()
    }
}
