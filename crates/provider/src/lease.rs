//! Leases: who bought which service for which slot, and the desk that sells them (`/tributary/lease/1`).
//!
//! Leases are in memory only. A PeerId is written nowhere, and after a restart buyers buy again; what a restart must not forget, the spent tickets,
//! is in the nullifier store before a lease is granted.

use std::collections::{BTreeMap, HashMap};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, OnceLock};

use async_trait::async_trait;
use parking_lot::Mutex;
use serde::Serialize;
use tributary_market::lease::{
    self, Lease, LeaseRefusal, LeaseRequest, LeaseResponse, LeaseTerms, LeasedSlot, MAX_LEASED_SLOTS,
};
use tributary_market::offer::{LeaseSale, ServiceId, UsePrice};
use tributary_market::ticket::TicketRefusal;
use tributary_protocol::{Seconds, Slot, UnixTime};
use tributary_waku::{Bytes, NodeError, NodeHandle, PeerId, Rate, Refusal, RequestHandler, ServeLimits};

use crate::till::{Till, Use};

/// Requests for leases that are at work at once.
const MAX_CONCURRENT: usize = 64;

/// How a service is leased.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct LeaseRules {
    /// As the offer says it.
    pub sale: LeaseSale,
    /// The price in the unit of the sale.
    pub price: UsePrice,
    /// Peers that may hold a lease at once.
    pub max_leases: usize,
}

impl LeaseRules {
    /// Tickets that a quota takes in a slot of this length; `u64::MAX` when it overflows, which no proof holds.
    #[must_use]
    pub fn tickets(&self, quota: u32, slot_length: Seconds) -> u64 {
        self.price.tickets_for(self.sale.units(quota, slot_length)).unwrap_or(u64::MAX)
    }
}

/// State of a lease book at one moment.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize)]
pub struct LeaseCounters {
    /// Purchases granted since the start, renewals included.
    pub granted: u64,
    /// Requests refused since the start.
    pub refused: u64,
    /// Peers that hold a lease.
    pub held: usize,
}

/// What a service gives to the holders of its leases.
pub trait LeaseGrants: std::fmt::Debug + Send + Sync {
    /// What `peer` gets, which holds `lease` at `now`: the same as long as the lease is kept up. At most
    /// [`MAX_GRANT_BYTES`](lease::MAX_GRANT_BYTES); more is not sent.
    fn grant(&self, peer: PeerId, lease: &Lease, now: UnixTime) -> Option<Vec<u8>>;
}

#[derive(Clone, Copy, Debug, Default)]
struct Held {
    quota: u32,
    used: u32,
}

type Slots = BTreeMap<Slot, Held>;

/// The leases of one service. At most [`LeaseRules::max_leases`] peers are in it, and those whose payment was being taken meanwhile (64 at most).
#[derive(Debug)]
pub struct LeaseBook {
    service: ServiceId,
    rules: LeaseRules,
    leases: Mutex<HashMap<PeerId, Slots>>,
    grants: OnceLock<Arc<dyn LeaseGrants>>,
    granted: AtomicU64,
    refused: AtomicU64,
}

impl LeaseBook {
    /// An empty book.
    #[must_use]
    pub fn new(service: ServiceId, rules: LeaseRules) -> Self {
        let (granted, refused) = (AtomicU64::new(0), AtomicU64::new(0));
        Self { service, rules, leases: Mutex::default(), grants: OnceLock::new(), granted, refused }
    }

    /// From now on answers carry what the service gives. Said once, before the first lease is sold; later calls change nothing.
    pub fn give(&self, grants: Arc<dyn LeaseGrants>) {
        let _ = self.grants.set(grants);
    }

    /// Who holds a lease, with it.
    #[must_use]
    pub fn holders(&self, now: UnixTime) -> Vec<(PeerId, Lease)> {
        let peers: Vec<_> = self.leases.lock().keys().copied().collect();
        peers.into_iter().filter_map(|peer| Some((peer, self.lease(&peer, now)?))).collect()
    }

    /// The service.
    #[must_use]
    pub const fn service(&self) -> &ServiceId {
        &self.service
    }

    /// How it is leased.
    #[must_use]
    pub const fn rules(&self) -> &LeaseRules {
        &self.rules
    }

    /// When a slot's lease is over.
    fn over(&self, slot: Slot) -> UnixTime {
        slot.end().saturating_add(self.rules.sale.grace)
    }

    fn in_force(&self, slot: Slot, now: UnixTime) -> bool {
        slot.start() <= now && now < self.over(slot)
    }

    /// Whether a peer may buy this quota, before its ticket is taken.
    ///
    /// # Errors
    /// [`LeaseRefusal::BadQuota`] or [`LeaseRefusal::Full`].
    pub fn check(&self, peer: PeerId, slot: Slot, quota: u32, now: UnixTime) -> Result<(), LeaseRefusal> {
        self.prune(now);
        let leases = self.leases.lock();
        let held = leases.get(&peer).and_then(|slots| slots.get(&slot)).map_or(0, |held| held.quota);
        let max = self.rules.sale.max_quota;
        if quota == 0 || u64::from(quota) + u64::from(held) > u64::from(max) {
            return Err(LeaseRefusal::BadQuota { asked: quota, held, max });
        }
        if leases.len() >= self.rules.max_leases && !leases.contains_key(&peer) {
            return Err(LeaseRefusal::Full { max: self.rules.max_leases });
        }
        Ok(())
    }

    /// Adds paid quota to a peer's slot. What was paid for is given, also if the book filled up since [`Self::check`].
    pub fn grant(&self, peer: PeerId, slot: Slot, quota: u32) {
        let mut leases = self.leases.lock();
        let held = leases.entry(peer).or_default().entry(slot).or_default();
        held.quota = held.quota.saturating_add(quota);
        self.granted.fetch_add(1, Ordering::Relaxed);
    }

    /// Takes granted quota back.
    fn revoke(&self, peer: PeerId, slot: Slot, quota: u32) {
        let mut leases = self.leases.lock();
        let Some(slots) = leases.get_mut(&peer) else { return };
        if let Some(held) = slots.get_mut(&slot) {
            held.quota = held.quota.saturating_sub(quota);
        }
        slots.retain(|_, held| held.quota > 0);
        if slots.is_empty() {
            leases.remove(&peer);
        }
    }

    /// The quota that a peer has now. While a slot's grace runs, the larger one of it and the slot after it. `None` without a lease in force.
    #[must_use]
    pub fn quota(&self, peer: &PeerId, now: UnixTime) -> Option<u32> {
        let leases = self.leases.lock();
        let slots = leases.get(peer)?.iter();
        slots.filter(|(slot, _)| self.in_force(**slot, now)).map(|(_, held)| held.quota).max()
    }

    /// Uses one unit of a peer's lease, of the running slot first; false when none is left.
    #[must_use]
    pub fn take(&self, peer: &PeerId, now: UnixTime) -> bool {
        let mut leases = self.leases.lock();
        let Some(slots) = leases.get_mut(peer) else { return false };
        let left = slots.iter_mut().rev().find(|(slot, held)| self.in_force(**slot, now) && held.used < held.quota);
        let Some((_, held)) = left else { return false };
        held.used += 1;
        true
    }

    /// What a peer has.
    #[must_use]
    pub fn lease(&self, peer: &PeerId, now: UnixTime) -> Option<Lease> {
        let leases = self.leases.lock();
        let slots: Vec<_> = leases.get(peer)?.iter().filter(|(slot, _)| now < self.over(**slot)).collect();
        let slots = &slots[slots.len().saturating_sub(MAX_LEASED_SLOTS)..];
        let mut last = *slots.first()?.0;
        for (slot, _) in slots {
            if slot.start() == last.end() {
                last = **slot;
            }
        }
        let leased =
            |(slot, held): &(&Slot, &Held)| LeasedSlot { start: slot.start(), quota: held.quota, used: held.used };
        Some(Lease {
            service: self.service.clone(),
            slots: slots.iter().map(leased).collect(),
            until: self.over(last),
            grace: self.rules.sale.grace,
        })
    }

    /// Forgets what is over.
    pub fn prune(&self, now: UnixTime) {
        self.leases.lock().retain(|_, slots| {
            slots.retain(|slot, _| now < self.over(*slot));
            !slots.is_empty()
        });
    }

    /// State and counters.
    #[must_use]
    pub fn counters(&self) -> LeaseCounters {
        LeaseCounters {
            granted: self.granted.load(Ordering::Relaxed),
            refused: self.refused.load(Ordering::Relaxed),
            held: self.leases.lock().len(),
        }
    }
}

/// Sells the leases of a provider's services.
#[derive(Debug)]
pub struct LeaseDesk {
    services: Vec<(Till, Arc<LeaseBook>)>,
    till: Till,
}

impl LeaseDesk {
    /// A desk for these services, each with its till; `None` without any.
    #[must_use]
    pub fn new(services: Vec<(Till, Arc<LeaseBook>)>) -> Option<Self> {
        let till = services.first()?.0.clone();
        Some(Self { services, till })
    }

    /// Answers requests on a node. Ends with [`NodeHandle::unserve`] of [`lease::PROTOCOL`].
    ///
    /// # Errors
    /// As [`NodeHandle::serve`].
    pub async fn serve(self, node: &NodeHandle) -> Result<(), NodeError> {
        let limits = ServeLimits {
            max_request_bytes: lease::MAX_REQUEST_BYTES as u64,
            max_response_bytes: lease::MAX_RESPONSE_BYTES as u64,
            max_concurrent: MAX_CONCURRENT,
            max_concurrent_per_peer: 4,
            rate_per_peer: Some(Rate::new(1.0, 20.0)),
            rate_total: Some(Rate::new(200.0, 1000.0)),
            ..ServeLimits::default()
        };
        node.serve(lease::PROTOCOL, limits, Arc::new(self)).await
    }

    /// Answers one request of `peer`.
    pub async fn answer(&self, peer: PeerId, request: &[u8]) -> LeaseResponse {
        let (service, result) = match LeaseRequest::decode(request) {
            Err(refusal) => (None, Err(refusal)),
            Ok(LeaseRequest::Query { service }) => {
                let found = self.find(&service).map(|_| ());
                (Some(service), found)
            }
            Ok(LeaseRequest::Buy { terms, eligibility_proof }) => {
                let result = self.buy(peer, &terms, &eligibility_proof).await;
                (Some(terms.service), result)
            }
        };
        let now = self.till.checker().now();
        let book = service.and_then(|service| self.find(&service).ok()).map(|(_, book)| book);
        if let Err(refusal) = &result {
            tracing::debug!(code = refusal.code(), "lease refused");
            if let Some(book) = book {
                book.refused.fetch_add(1, Ordering::Relaxed);
            }
        }
        let held = book.and_then(|book| Some((book, book.lease(&peer, now)?)));
        let grant = held.as_ref().and_then(|(book, lease)| book.grants.get()?.grant(peer, lease, now));
        LeaseResponse::new(result.as_ref().err(), held.map(|(_, lease)| lease), now).with_grant(grant)
    }

    fn find(&self, service: &ServiceId) -> Result<&(Till, Arc<LeaseBook>), LeaseRefusal> {
        let found = self.services.iter().find(|(_, book)| book.service() == service);
        found.ok_or_else(|| LeaseRefusal::UnknownService { service: service.clone() })
    }

    async fn buy(&self, peer: PeerId, terms: &LeaseTerms, proof: &[u8]) -> Result<(), LeaseRefusal> {
        if terms.peer != peer {
            return Err(LeaseRefusal::WrongPeer { named: Box::new(terms.peer), asking: Box::new(peer) });
        }
        let (till, book) = self.find(&terms.service)?;
        let verifier = till.checker().verifier();
        let now = till.checker().now();
        let running = verifier.clock.floor(now);
        let slot = verifier
            .clock
            .slot_at(terms.slot_start)
            .ok()
            .filter(|slot| {
                slot.start() == running || slot.start() == running.saturating_add(verifier.clock.slot_length())
            })
            .ok_or(LeaseRefusal::WrongSlot { slot_start: terms.slot_start, running, now })?;
        book.check(peer, slot, terms.quota, now)?;
        let tickets = book.rules().tickets(terms.quota, verifier.clock.slot_length());
        let request = terms.signing_bytes();
        let admission = match verifier.decode(proof) {
            Ok(ticket) if ticket.statement().slot_start != slot.start() => {
                let ticket = ticket.statement().slot_start;
                return Err(LeaseRefusal::OtherSlot { ticket, slot_start: slot.start() });
            }
            Ok(ticket) => till.admit_presented(&ticket, Use { peer: Some(peer), request: &request, tickets }).await?,
            // Refused again, counted, and with the offer's name. Without a peer there is no free tier: a lease is never free.
            Err(_) => till.admit(Some(proof), Use { peer: None, request: &request, tickets }).await?,
        };
        book.grant(peer, slot, terms.quota);
        if let Err(error) = till.served(admission).await {
            tracing::error!(code = error.code(), %error, "a lease could not be written as served; it is taken back");
            book.revoke(peer, slot, terms.quota);
            return Err(TicketRefusal::SpentUnserved.into());
        }
        Ok(())
    }
}

#[async_trait]
impl RequestHandler for LeaseDesk {
    async fn handle(&self, peer: PeerId, request: Bytes) -> Option<Bytes> {
        Some(self.answer(peer, &request).await.encode().into())
    }

    fn listens_to(&self, peer: &PeerId) -> bool {
        self.till.checker().listens_to(peer)
    }

    fn refuse(&self, refusal: Refusal) -> Option<Bytes> {
        let refusal = match refusal {
            Refusal::RateLimited | Refusal::NotListened | Refusal::Busy => LeaseRefusal::TooManyRequests,
            Refusal::TooLarge { len, .. } => LeaseRefusal::Malformed(tributary_market::wire::WireError::TooLarge {
                message: "lease request",
                size: usize::try_from(len).unwrap_or(usize::MAX),
                limit: lease::MAX_REQUEST_BYTES,
            }),
            Refusal::HandlerTimeout => {
                LeaseRefusal::Ticket(TicketRefusal::Unavailable { reason: "judging took too long; send it again" })
            }
            _ => return None,
        };
        let now = self.till.checker().now();
        Some(LeaseResponse::new(Some(&refusal), None, now).encode().into())
    }
}
