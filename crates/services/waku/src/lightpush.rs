//! Waku Lightpush, sold by the message and by the slot.

use std::fmt;
use std::sync::{Arc, OnceLock};

use async_trait::async_trait;
use serde::{Deserialize, Serialize};
use tributary_market::offer::{
    Attributes, LeaseSale, LightpushAttributes, MAX_LEASE_GRACE, MAX_LEASE_QUOTA, Service as OfferService, ServiceId,
    UsePrice, UseUnit,
};
use tributary_market::ticket::TicketRefusal;
use tributary_protocol::Seconds;
use tributary_provider::free::FreeTierLimits;
use tributary_provider::lease::{LeaseBook, LeaseRules};
use tributary_provider::service::{Service, ServiceError};
use tributary_provider::till::{Admission, Till, Use};
use tributary_waku::{
    GatedPush, LightPushGate, LightPushStatus, LightPushVerdict, MAX_MESSAGE_BYTES, NodeHandle, PeerId,
};

use crate::closed::Closed;
use crate::pending::PendingUses;

/// How lightpush is sold by the slot.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct LightpushLease {
    /// Messages that a peer may lease in one slot.
    pub max_messages: u32,
    /// How long what is left of a slot's messages may be used after its end, at most 10 minutes.
    pub grace: Seconds,
    /// Peers that may hold a lease at once.
    pub max_leases: usize,
}

impl Default for LightpushLease {
    fn default() -> Self {
        Self { max_messages: 1000, grace: Seconds::new(15).unwrap_or(Seconds::ZERO), max_leases: 1000 }
    }
}

/// How lightpush is sold.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct LightpushServiceConfig {
    /// Id of the service in the offer.
    pub id: ServiceId,
    /// Pubsub topics served, as the node relays them.
    pub pubsub_topics: Vec<String>,
    /// Messages that `tickets` pay for, at least 1. A message that is paid alone takes all of `tickets`; a lease makes use of larger numbers.
    pub messages: u32,
    /// Tickets for that many, 1 to 4 (a proof holds no more).
    pub tickets: u32,
    /// Largest payload, bytes.
    pub max_payload: u32,
    /// Leases; none are sold without.
    pub lease: Option<LightpushLease>,
    /// What is free.
    pub free: FreeTierLimits,
}

impl LightpushServiceConfig {
    /// The usual: a ticket a message, and leases.
    #[must_use]
    pub fn new(pubsub_topics: Vec<String>) -> Self {
        Self {
            id: ServiceId::lightpush(),
            pubsub_topics,
            messages: 1,
            tickets: 1,
            max_payload: 150 * 1024,
            lease: Some(LightpushLease::default()),
            free: FreeTierLimits::default(),
        }
    }
}

/// Why lightpush can't be sold like this.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum LightpushServiceConfigError {
    /// A number is out of range.
    #[error("{field} is {got}, possible are {min} to {max}")]
    Range {
        /// The setting.
        field: &'static str,
        /// The value.
        got: u64,
        /// The least.
        min: u64,
        /// The most.
        max: u64,
    },
}

impl LightpushServiceConfigError {
    /// The stable code of the error.
    #[must_use]
    pub const fn code(&self) -> &'static str {
        match self {
            Self::Range { .. } => "TRB-5311",
        }
    }
}

/// Sells a node's lightpush.
pub struct LightpushService {
    node: NodeHandle,
    config: LightpushServiceConfig,
    price: UsePrice,
    book: Option<Arc<LeaseBook>>,
    gate: OnceLock<Arc<Gate>>,
}

impl fmt::Debug for LightpushService {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("LightpushService").field("config", &self.config).finish_non_exhaustive()
    }
}

impl LightpushService {
    /// Prepares to sell the lightpush of `node`, which must serve it. Nothing changes before [`Service::start`].
    ///
    /// # Errors
    /// [`LightpushServiceConfigError`].
    pub fn new(node: NodeHandle, config: LightpushServiceConfig) -> Result<Self, LightpushServiceConfigError> {
        let in_range = |field, got: u64, min, max| {
            if (min..=max).contains(&got) {
                Ok(())
            } else {
                Err(LightpushServiceConfigError::Range { field, got, min, max })
            }
        };
        in_range("messages", config.messages.into(), 1, u32::MAX.into())?;
        in_range("tickets", config.tickets.into(), 1, 4)?;
        in_range("max_payload", config.max_payload.into(), 1, MAX_MESSAGE_BYTES as u64)?;
        let price = UsePrice { unit: UseUnit::Message, quantity: config.messages, tickets: config.tickets };
        let book = match &config.lease {
            Some(lease) => {
                in_range("lease.max_messages", lease.max_messages.into(), 1, MAX_LEASE_QUOTA.into())?;
                in_range("lease.grace", lease.grace.get(), 0, MAX_LEASE_GRACE)?;
                in_range("lease.max_leases", lease.max_leases as u64, 1, 1 << 20)?;
                let sale = LeaseSale { unit: UseUnit::Message, max_quota: lease.max_messages, grace: lease.grace };
                let rules = LeaseRules { sale, price, max_leases: lease.max_leases };
                Some(Arc::new(LeaseBook::new(config.id.clone(), rules)))
            }
            None => None,
        };
        Ok(Self { node, config, price, book, gate: OnceLock::new() })
    }
}

#[async_trait]
impl Service for LightpushService {
    fn entry(&self) -> OfferService {
        OfferService {
            id: self.config.id.clone(),
            uses: vec![self.price],
            attributes: Attributes::Lightpush(LightpushAttributes {
                pubsub_topics: self.config.pubsub_topics.clone(),
                lease: self.book.as_ref().map(|book| book.rules().sale),
                max_payload: self.config.max_payload,
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
                max_payload: self.config.max_payload,
                book: self.book.clone(),
                pending: PendingUses::default(),
            })
        });
        if self.node.set_lightpush_gate(Some(Arc::clone(gate) as Arc<dyn LightPushGate>)) {
            Ok(())
        } else {
            Err(ServiceError {
                code: "TRB-5312",
                service: self.config.id.clone(),
                reason: "the node serves no lightpush; enable lightpush".to_owned(),
            })
        }
    }

    /// Refuses every message from now on: what is sold is never given away for want of its gate.
    async fn stop(&self) {
        let _ = self.node.set_lightpush_gate(Some(Arc::new(Closed)));
    }

    fn leases(&self) -> Option<Arc<LeaseBook>> {
        self.book.clone()
    }

    async fn turn(&self) {
        if let (Some(gate), Some(book)) = (self.gate.get(), &self.book) {
            book.prune(gate.till.checker().now());
        }
    }
}

/// Between the node's lightpush and the till.
#[derive(Debug)]
struct Gate {
    till: Till,
    price: UsePrice,
    max_payload: u32,
    book: Option<Arc<LeaseBook>>,
    pending: PendingUses,
}

#[async_trait]
impl LightPushGate for Gate {
    fn listens_to(&self, peer: &PeerId) -> bool {
        let checker = self.till.checker();
        // What was paid is served, whatever else its buyer asked for.
        checker.listens_to(peer) || self.book.as_ref().is_some_and(|book| book.quota(peer, checker.now()).is_some())
    }

    async fn admit(&self, push: &GatedPush) -> LightPushVerdict {
        let len = push.request.message.payload.len();
        if len > self.max_payload as usize {
            let desc = format!("the payload has {len} bytes, at most {} are published here", self.max_payload);
            return LightPushVerdict::Refuse { status: LightPushStatus::PAYLOAD_TOO_LARGE, desc };
        }
        let proof = push.eligibility_proof.as_ref().filter(|proof| !proof.is_empty());
        if proof.is_none()
            && let Some(book) = &self.book
            && book.take(&push.peer, self.till.checker().now())
        {
            return LightPushVerdict::Allow;
        }
        let tickets = self.price.tickets_for(1).unwrap_or(u64::MAX);
        let use_ = Use { peer: Some(push.peer), request: &push.signed_bytes, tickets };
        match self.till.admit(proof.map(|proof| &proof[..]), use_).await {
            Ok(Admission::Free) => LightPushVerdict::Allow,
            Ok(paid @ Admission::Paid(_)) => {
                if let Some(proof) = proof {
                    self.pending.keep(proof, paid);
                }
                LightPushVerdict::Allow
            }
            Err(refusal) => refuse(&refusal),
        }
    }

    async fn served(&self, push: &GatedPush, status: LightPushStatus) {
        let Some(proof) = &push.eligibility_proof else { return };
        self.pending.settle(&self.till, proof, status == LightPushStatus::OK).await;
    }
}

/// The response has no field for the payment's own status: its reason's name begins the description.
fn refuse(refusal: &TicketRefusal) -> LightPushVerdict {
    let status = match refusal {
        TicketRefusal::Unavailable { .. } => LightPushStatus::SERVICE_NOT_AVAILABLE,
        _ => LightPushStatus::PAYMENT_REQUIRED,
    };
    LightPushVerdict::Refuse { status, desc: refusal.status().status_desc.unwrap_or_default() }
}
