//! Waku Filter, sold by topics and minutes.

use std::collections::HashMap;
use std::fmt;
use std::sync::{Arc, OnceLock};

use async_trait::async_trait;
use parking_lot::Mutex;
use serde::{Deserialize, Serialize};
use tributary_market::offer::{
    Attributes, FilterAttributes, LeaseSale, MAX_LEASE_GRACE, MAX_LEASE_QUOTA, Service as OfferService, ServiceId,
    UsePrice, UseUnit,
};
use tributary_market::ticket::TicketRefusal;
use tributary_protocol::{Seconds, UnixTime};
use tributary_provider::free::FreeTierLimits;
use tributary_provider::lease::{LeaseBook, LeaseRules};
use tributary_provider::service::{Service, ServiceError};
use tributary_provider::till::{Till, Use};
use tributary_waku::{FilterGate, FilterStatus, FilterVerdict, GatedSubscribe, NodeHandle, PeerId, WeakNodeHandle};

use crate::closed::Closed;

/// How Filter is sold.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct FilterServiceConfig {
    /// Id of the service in the offer.
    pub id: ServiceId,
    /// Pubsub topics served, as the node relays them.
    pub pubsub_topics: Vec<String>,
    /// Topic-minutes that `tickets` pay for, at least 1.
    pub topic_minutes: u32,
    /// Tickets for that much, 1 to 4 (a proof holds no more).
    pub tickets: u32,
    /// Content topics that a peer may lease in one slot.
    pub max_topics: u32,
    /// How long a subscription goes on after its last leased slot, at most 10 minutes. In this time a buyer that missed its renewal can make good.
    pub grace: Seconds,
    /// Peers that may hold a lease at once. With `max_free` not more than the node's own bound on subscribers, or payers find no room.
    pub max_leases: usize,
    /// Free subscriptions: how many may begin.
    pub free: FreeTierLimits,
    /// Content topics of a free subscription.
    pub free_topics: u32,
    /// How long a free subscription lasts.
    pub free_time: Seconds,
    /// Free subscriptions at once.
    pub max_free: usize,
}

impl FilterServiceConfig {
    /// The usual: a ticket for 10 topics and a minute; a few free minutes for two topics.
    #[must_use]
    pub fn new(pubsub_topics: Vec<String>) -> Self {
        let seconds = |s| Seconds::new(s).unwrap_or(Seconds::ZERO);
        Self {
            id: ServiceId::filter(),
            pubsub_topics,
            topic_minutes: 10,
            tickets: 1,
            max_topics: 100,
            grace: seconds(15),
            max_leases: 75,
            free: FreeTierLimits { per_peer: 1, total: 50, window: 600 },
            free_topics: 2,
            free_time: seconds(300),
            max_free: 25,
        }
    }
}

/// Why Filter can't be sold like this.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum FilterServiceConfigError {
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
    /// More is sold than the node serves.
    #[error("{field} is {got}, the node serves at most {limit}: sell less, or raise the node's limits on Filter")]
    NodeLimit {
        /// The setting.
        field: &'static str,
        /// The value.
        got: u64,
        /// The node's bound: on subscribers, or on the topics of one.
        limit: u64,
    },
}

impl FilterServiceConfigError {
    /// The stable code of the error.
    #[must_use]
    pub const fn code(&self) -> &'static str {
        match self {
            Self::Range { .. } => "TRB-5321",
            Self::NodeLimit { .. } => "TRB-5323",
        }
    }
}

/// Sells a node's Filter.
pub struct FilterService {
    node: NodeHandle,
    config: FilterServiceConfig,
    book: Arc<LeaseBook>,
    gate: OnceLock<Arc<Gate>>,
}

impl fmt::Debug for FilterService {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("FilterService").field("config", &self.config).finish_non_exhaustive()
    }
}

impl FilterService {
    /// Prepares to sell the Filter of `node`, which must serve it. Nothing changes before [`Service::start`].
    ///
    /// # Errors
    /// [`FilterServiceConfigError`].
    pub fn new(node: NodeHandle, config: FilterServiceConfig) -> Result<Self, FilterServiceConfigError> {
        let in_range = |field, got: u64, min, max| {
            if (min..=max).contains(&got) {
                Ok(())
            } else {
                Err(FilterServiceConfigError::Range { field, got, min, max })
            }
        };
        in_range("topic_minutes", config.topic_minutes.into(), 1, u32::MAX.into())?;
        in_range("tickets", config.tickets.into(), 1, 4)?;
        in_range("max_topics", config.max_topics.into(), 1, MAX_LEASE_QUOTA.into())?;
        in_range("grace", config.grace.get(), 0, MAX_LEASE_GRACE)?;
        in_range("max_leases", config.max_leases as u64, 1, 1 << 20)?;
        if let Some(limits) = node.filter_limits() {
            let within = |field, got: u64, limit: usize| {
                let limit = limit as u64;
                if got <= limit { Ok(()) } else { Err(FilterServiceConfigError::NodeLimit { field, got, limit }) }
            };
            let peers = (config.max_leases as u64).saturating_add(config.max_free as u64);
            within("max_leases + max_free", peers, limits.max_subscribers)?;
            within("max_topics", config.max_topics.into(), limits.max_criteria)?;
            within("free_topics", config.free_topics.into(), limits.max_criteria)?;
        }
        let rules = LeaseRules {
            sale: LeaseSale { unit: UseUnit::TopicMinute, max_quota: config.max_topics, grace: config.grace },
            price: UsePrice { unit: UseUnit::TopicMinute, quantity: config.topic_minutes, tickets: config.tickets },
            max_leases: config.max_leases,
        };
        let book = Arc::new(LeaseBook::new(config.id.clone(), rules));
        Ok(Self { node, config, book, gate: OnceLock::new() })
    }

    fn end_all(&self) {
        for (peer, _) in self.node.filter_subscribers() {
            let _ = self.node.filter_end(peer);
        }
    }
}

#[async_trait]
impl Service for FilterService {
    fn entry(&self) -> OfferService {
        let rules = self.book.rules();
        OfferService {
            id: self.config.id.clone(),
            uses: vec![rules.price],
            attributes: Attributes::Filter(FilterAttributes {
                pubsub_topics: self.config.pubsub_topics.clone(),
                lease: Some(rules.sale),
            }),
        }
    }

    fn free_tier(&self) -> FreeTierLimits {
        self.config.free
    }

    async fn start(&self, till: Till) -> Result<(), ServiceError> {
        let gate = self.gate.get_or_init(|| {
            Arc::new(Gate {
                node: self.node.downgrade(),
                till,
                book: Arc::clone(&self.book),
                free_topics: self.config.free_topics,
                free_time: self.config.free_time,
                max_free: self.config.max_free,
                free: Mutex::default(),
            })
        });
        if self.node.set_filter_gate(Some(Arc::clone(gate) as Arc<dyn FilterGate>)) {
            Ok(())
        } else {
            Err(ServiceError {
                code: "TRB-5322",
                service: self.config.id.clone(),
                reason: "the node serves no Filter; enable filter".to_owned(),
            })
        }
    }

    /// Ends all subscriptions and refuses new ones: what is sold is never given away for want of its gate.
    async fn stop(&self) {
        let _ = self.node.set_filter_gate(Some(Arc::new(Closed)));
        self.end_all();
    }

    fn leases(&self) -> Option<Arc<LeaseBook>> {
        Some(Arc::clone(&self.book))
    }

    /// Ends subscriptions that are larger than what their peer has now.
    async fn turn(&self) {
        if let Some(gate) = self.gate.get() {
            gate.turn();
        }
    }
}

#[derive(Debug)]
struct Gate {
    node: WeakNodeHandle,
    till: Till,
    book: Arc<LeaseBook>,
    free_topics: u32,
    free_time: Seconds,
    max_free: usize,
    /// Free subscriptions and their ends, at most `max_free`.
    free: Mutex<HashMap<PeerId, UnixTime>>,
}

impl Gate {
    /// Content topics that a peer may be subscribed to now.
    fn allowed(&self, peer: &PeerId, now: UnixTime) -> u32 {
        let leased = self.book.quota(peer, now).unwrap_or(0);
        let free = if self.free.lock().get(peer).is_some_and(|end| now < *end) { self.free_topics } else { 0 };
        leased.max(free)
    }

    fn turn(&self) {
        let now = self.till.checker().now();
        self.book.prune(now);
        self.free.lock().retain(|_, end| now < *end);
        let Some(node) = self.node.upgrade() else { return };
        for (peer, criteria) in node.filter_subscribers() {
            if criteria > self.allowed(&peer, now) as usize && node.filter_end(peer) {
                tracing::debug!("a Filter subscription ended: not paid for any more");
            }
        }
    }

    /// Begins a free subscription, if the free tier has one.
    async fn begin_free(&self, peer: PeerId, now: UnixTime) -> Result<(), TicketRefusal> {
        let room = {
            let mut free = self.free.lock();
            free.retain(|_, end| now < *end);
            free.len() < self.max_free
        };
        // Without a peer the till has nothing free, and names the offer.
        let use_ = Use { peer: room.then_some(peer), request: &[], tickets: 1 };
        // Nothing was spent: free admissions need no settling.
        let _ = self.till.admit(None, use_).await?;
        let mut free = self.free.lock();
        if free.len() < self.max_free {
            free.insert(peer, now.saturating_add(self.free_time));
        }
        Ok(())
    }
}

#[async_trait]
impl FilterGate for Gate {
    fn listens_to(&self, peer: &PeerId) -> bool {
        let checker = self.till.checker();
        // What was paid is served, whatever else its buyer asked for.
        checker.listens_to(peer) || self.book.quota(peer, checker.now()).is_some()
    }

    async fn admit(&self, subscribe: &GatedSubscribe) -> FilterVerdict {
        let now = self.till.checker().now();
        let peer = subscribe.peer;
        let allowed = self.allowed(&peer, now);
        if subscribe.criteria <= allowed as usize {
            return FilterVerdict::Allow;
        }
        let small = allowed == 0 && subscribe.criteria <= self.free_topics as usize;
        let refusal = if small {
            match self.begin_free(peer, now).await {
                Ok(()) => return FilterVerdict::Allow,
                Err(refusal) => refusal,
            }
        } else {
            match self.till.admit(None, Use { peer: None, request: &[], tickets: 1 }).await {
                Ok(_) => return FilterVerdict::Allow,
                Err(refusal) => refusal,
            }
        };
        let desc = format!(
            "{}: {refusal}; {} topics are asked for, {allowed} are leased: buy a lease by /tributary/lease/1",
            refusal.reason(),
            subscribe.criteria
        );
        FilterVerdict::Refuse { status: FilterStatus::PAYMENT_REQUIRED, desc }
    }
}
