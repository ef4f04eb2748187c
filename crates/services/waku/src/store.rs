//! Waku Store, sold by the page.

use std::fmt;
use std::sync::{Arc, OnceLock};

use async_trait::async_trait;
use serde::{Deserialize, Serialize};
use tributary_market::offer::{Attributes, Service as OfferService, ServiceId, StoreAttributes, UsePrice, UseUnit};
use tributary_market::ticket::{self, TicketRefusal};
use tributary_protocol::Seconds;
use tributary_provider::free::FreeTierLimits;
use tributary_provider::service::{Service, ServiceError};
use tributary_provider::till::{Admission, Till, Use};
use tributary_waku::{
    EligibilityStatus, GatedQuery, MAX_PAGE_LIMIT, NodeHandle, PeerId, StoreGate, StoreOutcome, StoreQueryRequest,
    StoreStatus, StoreVerdict,
};

use crate::closed::Closed;
use crate::pending::PendingUses;

/// How an archive is sold.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct StoreConfig {
    /// Id of the service in the offer.
    pub id: ServiceId,
    /// How long messages are kept, as the archive is configured.
    pub retention: Seconds,
    /// Pubsub topics archived.
    pub pubsub_topics: Vec<String>,
    /// Content topics archived; none means all.
    pub content_topics: Vec<String>,
    /// Messages that one page holds; a query for more counts as several pages. 1 to 100.
    pub page_size: u32,
    /// Tickets for one page, 1 to 4 (a proof holds no more).
    pub tickets_per_page: u32,
    /// What is free.
    pub free: FreeTierLimits,
}

/// Why an archive can't be sold like this.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum StoreConfigError {
    /// The page size is out of range.
    #[error("page_size is {got}, possible are 1 to {max}")]
    PageSize {
        /// The value.
        got: u32,
        /// Messages in a page at most.
        max: u64,
    },
    /// The price is out of range.
    #[error("tickets_per_page is {got}, possible are 1 to 4: a proof holds no more tickets")]
    TicketsPerPage {
        /// The value.
        got: u32,
    },
}

impl StoreConfigError {
    /// The stable code of the error.
    #[must_use]
    pub const fn code(&self) -> &'static str {
        match self {
            Self::PageSize { .. } => "TRB-5301",
            Self::TicketsPerPage { .. } => "TRB-5302",
        }
    }
}

impl StoreConfig {
    /// The usual: pages of 20 messages for a ticket each.
    #[must_use]
    pub fn new(retention: Seconds, pubsub_topics: Vec<String>) -> Self {
        Self {
            id: ServiceId::store(),
            retention,
            pubsub_topics,
            content_topics: Vec::new(),
            page_size: 20,
            tickets_per_page: 1,
            free: FreeTierLimits::default(),
        }
    }
}

/// Sells a node's archive.
pub struct StoreService {
    node: NodeHandle,
    config: StoreConfig,
    price: UsePrice,
    gate: OnceLock<Arc<Gate>>,
}

impl fmt::Debug for StoreService {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("StoreService").field("config", &self.config).finish_non_exhaustive()
    }
}

impl StoreService {
    /// Prepares to sell the archive of `node`, which must serve Store. Nothing changes before [`Service::start`].
    ///
    /// # Errors
    /// [`StoreConfigError`].
    pub fn new(node: NodeHandle, config: StoreConfig) -> Result<Self, StoreConfigError> {
        if config.page_size == 0 || u64::from(config.page_size) > MAX_PAGE_LIMIT {
            return Err(StoreConfigError::PageSize { got: config.page_size, max: MAX_PAGE_LIMIT });
        }
        if !(1..=4).contains(&config.tickets_per_page) {
            return Err(StoreConfigError::TicketsPerPage { got: config.tickets_per_page });
        }
        let price = UsePrice { unit: UseUnit::Page, quantity: 1, tickets: config.tickets_per_page };
        Ok(Self { node, config, price, gate: OnceLock::new() })
    }
}

#[async_trait]
impl Service for StoreService {
    fn entry(&self) -> OfferService {
        OfferService {
            id: self.config.id.clone(),
            uses: vec![self.price],
            attributes: Attributes::Store(StoreAttributes {
                retention: self.config.retention,
                pubsub_topics: self.config.pubsub_topics.clone(),
                content_topics: self.config.content_topics.clone(),
                page_size: self.config.page_size,
            }),
        }
    }

    fn free_tier(&self) -> FreeTierLimits {
        self.config.free
    }

    async fn start(&self, till: Till) -> Result<(), ServiceError> {
        let gate = self.gate.get_or_init(|| {
            Arc::new(Gate {
                till,
                price: self.price,
                page_size: self.config.page_size,
                pending: PendingUses::default(),
            })
        });
        if self.node.set_store_gate(Some(Arc::clone(gate) as Arc<dyn StoreGate>)) {
            Ok(())
        } else {
            Err(ServiceError {
                code: "TRB-5303",
                service: self.config.id.clone(),
                reason: "the node serves no Store; give it an archive and enable store".to_owned(),
            })
        }
    }

    /// Refuses every query from now on: an archive that is sold is never given away for want of its gate.
    async fn stop(&self) {
        let _ = self.node.set_store_gate(Some(Arc::new(Closed)));
    }
}

/// Between the node's Store and the till.
#[derive(Debug)]
struct Gate {
    till: Till,
    price: UsePrice,
    page_size: u32,
    pending: PendingUses,
}

impl Gate {
    /// Tickets that a query takes: by the pages that it asks for, whatever it finds.
    fn tickets(&self, request: &StoreQueryRequest) -> u64 {
        let pages = request.effective_limit().div_ceil(u64::from(self.page_size));
        self.price.tickets_for(pages).unwrap_or(u64::MAX)
    }
}

#[async_trait]
impl StoreGate for Gate {
    fn listens_to(&self, peer: &PeerId) -> bool {
        self.till.checker().listens_to(peer)
    }

    async fn admit(&self, query: &GatedQuery) -> StoreVerdict {
        let use_ = Use { peer: Some(query.peer), request: &query.signed_bytes, tickets: self.tickets(&query.request) };
        match self.till.admit(query.eligibility_proof.as_deref(), use_).await {
            Ok(Admission::Free) => StoreVerdict::Allow { eligibility: None },
            Ok(paid @ Admission::Paid(_)) => {
                if let Some(proof) = &query.eligibility_proof {
                    self.pending.keep(proof, paid);
                }
                StoreVerdict::Allow { eligibility: Some(status(ticket::accepted())) }
            }
            Err(refusal) => refuse(&refusal),
        }
    }

    async fn served(&self, query: &GatedQuery, outcome: StoreOutcome) {
        let Some(proof) = &query.eligibility_proof else { return };
        self.pending.settle(&self.till, proof, outcome.status.is_success()).await;
    }
}

fn status(status: tributary_market::proto::EligibilityStatus) -> EligibilityStatus {
    EligibilityStatus {
        status_code: status.status_code.unwrap_or_default(),
        status_desc: status.status_desc.unwrap_or_default(),
    }
}

/// Unmodified clients show the description to their user: it says how to pay.
fn refuse(refusal: &TicketRefusal) -> StoreVerdict {
    let code = match refusal {
        TicketRefusal::Unavailable { .. } => StoreStatus::SERVICE_UNAVAILABLE,
        _ => StoreStatus::PAYMENT_REQUIRED,
    };
    let eligibility = status(refusal.status());
    StoreVerdict::Refuse { status: code, desc: eligibility.status_desc.clone(), eligibility: Some(eligibility) }
}
