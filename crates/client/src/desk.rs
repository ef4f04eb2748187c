//! Tickets for leases that another program buys on its own connection: a Waku client in another language, say.
//!
//! What leaves the desk is an `EligibilityProof` that is bound to one lease request: provider, slot, PeerId, service and quota. Nothing else can be
//! paid with it. The same order gets the same proof again as long as its slot lasts, so that a lost answer costs nothing.

use std::collections::BTreeMap;
use std::sync::Arc;

use tokio::sync::Mutex;
use tributary_ledger::{Clock, Ledger};
use tributary_market::lease::LeaseTerms;
use tributary_market::offer::ServiceId;
use tributary_protocol::{Slot, UnixTime};
use tributary_waku::PeerId;
use tributary_wallet::Wallet;
use tributary_wallet::tickets::TicketMaker;

use crate::ClientError;
use crate::buyer::{lease_tickets, paying, running_stream};
use crate::store::ClientStore;
use crate::tickets::{StreamTickets, TicketSource as _, pay};

/// Proofs for one lease and slot: the first, and one for each that a provider spent without serving, as in [`LeaseBuyer`](crate::LeaseBuyer).
const MAX_ATTEMPTS: u8 = 3;

/// How much a desk hands out.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct DeskLimits {
    /// Tickets for one PeerId's service in one slot.
    pub per_lease: u32,
    /// Tickets in all, as long as the desk exists.
    pub total: u64,
}

/// Which slot a lease is for. A provider leases no others.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum WhichSlot {
    /// The running one.
    Running,
    /// The one after it. Its tickets can be made once its stopped list is final.
    Next,
}

/// A lease that is to be paid.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct TicketOrder {
    /// Who leases. A stream must pay it.
    pub provider: PeerId,
    /// Whom the lease is for.
    pub peer: PeerId,
    /// The service's id in the provider's offer.
    pub service: ServiceId,
    /// How much of it, at least 1.
    pub quota: u32,
    /// For which slot.
    pub slot: WhichSlot,
    /// 0, or the number of the proofs for this lease and slot that were spent in vain: another proof is made.
    pub attempt: u8,
}

/// A proof that pays for one lease request.
#[derive(Clone, PartialEq, Eq)]
pub struct BoundTickets {
    /// The slot of lease and tickets.
    pub slot: Slot,
    /// Tickets in the proof, 1 to 4.
    pub count: u8,
    /// An encoded `EligibilityProof`, as field 5 of `LeaseBuy` takes it.
    pub eligibility_proof: Vec<u8>,
}

impl std::fmt::Debug for BoundTickets {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("BoundTickets").field("slot", &self.slot).field("count", &self.count).finish_non_exhaustive()
    }
}

/// Why no tickets were handed out.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum DeskError {
    /// The lease has all that one may have in a slot.
    #[error(
        "the lease has {handed_out} tickets in this slot and asks for {asked} more, at most {max} are given: raise tickets.max_per_lease or lease less"
    )]
    LeaseLimit {
        /// Tickets of this order.
        asked: u8,
        /// Tickets handed out for this lease and slot.
        handed_out: u32,
        /// The most.
        max: u32,
    },
    /// All tickets are handed out.
    #[error(
        "{handed_out} tickets were handed out and {asked} more are asked for, at most {max} are given: raise tickets.max_total and start again"
    )]
    TotalLimit {
        /// Tickets of this order.
        asked: u8,
        /// Tickets handed out.
        handed_out: u64,
        /// The most.
        max: u64,
    },
    /// Too many proofs for one lease and slot.
    #[error("attempt {attempt} on one slot: 0 to {} are possible, leave this slot", MAX_ATTEMPTS - 1)]
    BadAttempt {
        /// The attempt.
        attempt: u8,
    },
    /// No ticket could be made.
    #[error(transparent)]
    Client(Box<ClientError>),
}

impl<E: Into<ClientError>> From<E> for DeskError {
    fn from(error: E) -> Self {
        Self::Client(Box::new(error.into()))
    }
}

impl DeskError {
    /// A stable code for programs.
    #[must_use]
    pub fn code(&self) -> &'static str {
        match self {
            Self::LeaseLimit { .. } => "TRB-L021",
            Self::TotalLimit { .. } => "TRB-L022",
            Self::BadAttempt { .. } => "TRB-L023",
            Self::Client(error) => error.code(),
        }
    }
}

/// A lease in one slot.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
struct LeaseKey {
    slot_start: UnixTime,
    provider: PeerId,
    peer: PeerId,
    service: String,
}

/// What was handed out: bounded by [`DeskLimits::total`], and of slots that are not over.
#[derive(Debug)]
struct Book {
    limits: DeskLimits,
    handed_out: u64,
    leases: BTreeMap<LeaseKey, BTreeMap<(u32, u8), BoundTickets>>,
}

impl Book {
    const fn new(limits: DeskLimits) -> Self {
        Self { limits, handed_out: 0, leases: BTreeMap::new() }
    }

    fn prune(&mut self, running: UnixTime) {
        self.leases.retain(|key, _| key.slot_start >= running);
    }

    fn find(&self, key: &LeaseKey, quota: u32, attempt: u8) -> Option<&BoundTickets> {
        self.leases.get(key)?.get(&(quota, attempt))
    }

    fn check(&self, key: &LeaseKey, attempt: u8, asked: u8) -> Result<(), DeskError> {
        if attempt >= MAX_ATTEMPTS {
            return Err(DeskError::BadAttempt { attempt });
        }
        let proofs = self.leases.get(key).into_iter().flat_map(BTreeMap::values);
        let handed_out = proofs.map(|bound| u32::from(bound.count)).sum::<u32>();
        let max = self.limits.per_lease;
        if handed_out.saturating_add(u32::from(asked)) > max {
            return Err(DeskError::LeaseLimit { asked, handed_out, max });
        }
        let DeskLimits { total: max, .. } = self.limits;
        if self.handed_out.saturating_add(u64::from(asked)) > max {
            return Err(DeskError::TotalLimit { asked, handed_out: self.handed_out, max });
        }
        Ok(())
    }

    fn put(&mut self, key: LeaseKey, quota: u32, attempt: u8, bound: BoundTickets) {
        self.handed_out = self.handed_out.saturating_add(u64::from(bound.count));
        self.leases.entry(key).or_default().insert((quota, attempt), bound);
    }
}

/// Makes tickets from the streams that a wallet pays, within limits. Secrets of the wallet stay inside.
#[derive(Debug)]
pub struct TicketDesk {
    wallet: Wallet,
    tickets: TicketMaker,
    store: ClientStore,
    clock: Arc<dyn Clock>,
    book: Mutex<Book>,
}

impl TicketDesk {
    /// A desk for the purchases in `store` that `wallet` finds on chain. Somebody must follow the wallet's ledger meanwhile.
    #[must_use]
    pub fn new(
        wallet: Wallet,
        tickets: TicketMaker,
        store: ClientStore,
        clock: Arc<dyn Clock>,
        limits: DeskLimits,
    ) -> Self {
        Self { wallet, tickets, store, clock, book: Mutex::new(Book::new(limits)) }
    }

    /// The ledger that must be followed.
    #[must_use]
    pub fn ledger(&self) -> &Ledger {
        self.wallet.ledger()
    }

    /// The time, as the desk takes it.
    ///
    /// # Errors
    /// [`ClientError::Range`].
    pub fn now(&self) -> Result<UnixTime, ClientError> {
        Ok(UnixTime::new(self.clock.now())?)
    }

    /// Tickets that were handed out.
    pub async fn handed_out(&self) -> u64 {
        self.book.lock().await.handed_out
    }

    /// Makes a proof that pays for this lease and nothing else, or returns the one that was made for it.
    ///
    /// # Errors
    /// [`DeskError`]; nothing was handed out then.
    pub async fn order(&self, order: &TicketOrder) -> Result<BoundTickets, DeskError> {
        // One at a time, as proving is, so that the limits hold.
        let mut book = self.book.lock().await;
        let clock = self.wallet.ledger().clock();
        let running = clock.slot_of(self.now()?)?;
        let slot = match order.slot {
            WhichSlot::Running => running,
            WhichSlot::Next => clock.next(running)?,
        };
        book.prune(running.start());
        let key = LeaseKey {
            slot_start: slot.start(),
            provider: order.provider,
            peer: order.peer,
            service: order.service.to_string(),
        };
        if let Some(bound) = book.find(&key, order.quota, order.attempt) {
            return Ok(bound.clone());
        }
        self.wallet.scan().await?;
        let (purchase, stream, offer) =
            running_stream(&self.wallet, &self.store, Some(order.provider), Some(&order.service)).await?;
        let count = lease_tickets(&offer, &order.service, order.quota, clock.slot_length())?;
        book.check(&key, order.attempt, count)?;
        let stream = paying(&purchase, &stream, &offer);
        let ledger = self.wallet.ledger().clone();
        let source = StreamTickets::new(self.tickets.clone(), ledger, Arc::clone(&self.clock), stream);
        let ticket = source.take(slot, count).await?;
        let terms = LeaseTerms {
            peer: order.peer,
            service: order.service.clone(),
            slot_start: slot.start(),
            quota: order.quota,
        };
        let eligibility_proof = pay(&ticket, &source.provider(), &terms.signing_bytes());
        let bound = BoundTickets { slot, count, eligibility_proof };
        book.put(key, order.quota, order.attempt, bound.clone());
        tracing::debug!(count, handed_out = book.handed_out, "tickets for a lease were handed out");
        Ok(bound)
    }
}

#[cfg(test)]
mod tests {
    use tributary_protocol::{PoolClock, Seconds};

    use super::*;

    fn clock() -> PoolClock {
        let seconds = |s| Seconds::new(s).unwrap();
        PoolClock::new(seconds(60), seconds(150), seconds(15)).unwrap()
    }

    fn key(peer: PeerId, slot: Slot) -> LeaseKey {
        LeaseKey { slot_start: slot.start(), provider: PeerId::random(), peer, service: "filter".into() }
    }

    fn bound(slot: Slot, count: u8) -> BoundTickets {
        BoundTickets { slot, count, eligibility_proof: vec![count] }
    }

    #[test]
    fn a_lease_and_the_desk_have_their_limits() {
        let slot = clock().slot_at(UnixTime::new(1_800_000_000).unwrap()).unwrap();
        let mut book = Book::new(DeskLimits { per_lease: 5, total: 9 });
        let mine = key(PeerId::random(), slot);
        book.check(&mine, 0, 4).unwrap();
        book.put(mine.clone(), 10, 0, bound(slot, 4));
        assert_eq!(book.find(&mine, 10, 0), Some(&bound(slot, 4)), "the same order gets the same proof");
        assert_eq!(book.find(&mine, 10, 1), None);
        assert_eq!(book.find(&mine, 9, 0), None);

        // Whatever quota or attempt it names, a lease has one limit.
        let refused = book.check(&mine, 1, 2).unwrap_err();
        assert!(matches!(refused, DeskError::LeaseLimit { asked: 2, handed_out: 4, max: 5 }), "{refused}");
        assert_eq!(refused.code(), "TRB-L021");
        book.put(mine.clone(), 1, 1, bound(slot, 1));
        assert_eq!(book.check(&mine, 2, 1).unwrap_err().code(), "TRB-L021");
        assert_eq!(book.check(&mine, 3, 1).unwrap_err().code(), "TRB-L023");

        // Other PeerIds have limits of their own, the desk's is one for all.
        let other = key(PeerId::random(), slot);
        book.check(&other, 0, 4).unwrap();
        book.put(other, 10, 0, bound(slot, 4));
        let refused = book.check(&key(PeerId::random(), slot), 0, 1).unwrap_err();
        assert!(matches!(refused, DeskError::TotalLimit { asked: 1, handed_out: 9, max: 9 }), "{refused}");
        assert_eq!(refused.code(), "TRB-L022");

        // Slots that are over are forgotten; what was handed out stays counted.
        let later = clock().next(slot).unwrap();
        book.prune(later.start());
        assert!(book.leases.is_empty());
        assert_eq!(book.check(&key(PeerId::random(), later), 0, 1).unwrap_err().code(), "TRB-L022");
    }
}
