//! The till: every use of a service passes it, free or paid.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use serde::Serialize;
use tokio::sync::watch;
use tributary_market::offer::{OfferId, ServiceId};
use tributary_market::ticket::{PresentedTicket, TicketRefusal};
use tributary_waku::PeerId;

use crate::check::{PaidUse, TicketChecker};
use crate::free::{FreeTier, FreeTierLimits};
use crate::store::{StoreError, Ticket};

/// A use that may be served now, once.
#[derive(Debug)]
#[must_use]
pub enum Admission {
    /// From the free tier.
    Free,
    /// Paid; the ticket is spent whatever happens next.
    Paid(Ticket),
}

impl Admission {
    /// Whether a ticket was spent on it.
    #[must_use]
    pub const fn is_paid(&self) -> bool {
        matches!(self, Self::Paid(_))
    }
}

/// What passed a till since its start.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize)]
pub struct TillCounters {
    /// Uses from the free tier.
    pub free: u64,
    /// Uses paid for.
    pub paid: u64,
    /// Paid uses that were served.
    pub served: u64,
    /// Paid uses that were not.
    pub failed: u64,
    /// Uses refused for want of payment.
    pub unpaid: u64,
    /// Uses whose payment was refused.
    pub refused: u64,
}

#[derive(Debug, Default)]
struct Counts {
    free: AtomicU64,
    paid: AtomicU64,
    served: AtomicU64,
    failed: AtomicU64,
    unpaid: AtomicU64,
    refused: AtomicU64,
}

/// One service's way to admit uses. Cheap to clone.
#[derive(Clone, Debug)]
pub struct Till {
    inner: Arc<Inner>,
}

#[derive(Debug)]
struct Inner {
    service: ServiceId,
    checker: Arc<TicketChecker>,
    free: FreeTier,
    offer: watch::Receiver<Option<OfferId>>,
    counts: Counts,
}

impl Till {
    /// A till of `service`. `offer` names the offer that unpaid requests are pointed to.
    #[must_use]
    pub fn new(
        service: ServiceId,
        checker: Arc<TicketChecker>,
        free: FreeTierLimits,
        offer: watch::Receiver<Option<OfferId>>,
    ) -> Self {
        let inner = Inner { service, checker, free: FreeTier::new(free), offer, counts: Counts::default() };
        Self { inner: Arc::new(inner) }
    }

    /// The service.
    #[must_use]
    pub fn service(&self) -> &ServiceId {
        &self.inner.service
    }

    /// The checker behind the till.
    #[must_use]
    pub fn checker(&self) -> &TicketChecker {
        &self.inner.checker
    }

    /// Admits a use: with a proof of payment by its ticket, without one from the free tier of `peer`.
    ///
    /// A proof that is refused is not made good by the free tier: the buyer is told why.
    ///
    /// # Errors
    /// [`TicketRefusal`]; [`TicketRefusal::PaymentRequired`] names the current offer.
    pub async fn admit(&self, proof: Option<&[u8]>, use_: Use<'_>) -> Result<Admission, TicketRefusal> {
        let Use { peer, request, tickets } = use_;
        match proof {
            Some(proof) if !proof.is_empty() => {
                let result = self.inner.checker.take(PaidUse { proof, request, tickets, peer }).await;
                self.paid(result)
            }
            _ => self.unpaid(peer),
        }
    }

    /// As [`Self::admit`], for a ticket that is decoded already.
    ///
    /// # Errors
    /// [`TicketRefusal`].
    pub async fn admit_presented(
        &self,
        presented: &PresentedTicket,
        use_: Use<'_>,
    ) -> Result<Admission, TicketRefusal> {
        let Use { peer, request, tickets } = use_;
        let result = self.inner.checker.take_presented(presented, request, tickets, peer).await;
        self.paid(result)
    }

    /// As [`Self::admit`], for a request that carries its ticket (a `PaidRequest`) of at most `max_bytes`. Gives the payload that it pays for.
    ///
    /// # Errors
    /// [`TicketRefusal`].
    pub async fn admit_request(
        &self,
        request: &[u8],
        max_bytes: usize,
        tickets: u64,
        peer: Option<PeerId>,
    ) -> Result<(Admission, Vec<u8>), TicketRefusal> {
        match self.inner.checker.take_request(request, max_bytes, tickets, peer).await {
            Ok((ticket, payload)) => Ok((self.paid(Ok(ticket))?, payload)),
            Err(refusal) => Err(self.refused(refusal)),
        }
    }

    fn paid(&self, result: Result<Ticket, TicketRefusal>) -> Result<Admission, TicketRefusal> {
        let ticket = result.map_err(|refusal| self.refused(refusal))?;
        self.inner.counts.paid.fetch_add(1, Ordering::Relaxed);
        Ok(Admission::Paid(ticket))
    }

    fn refused(&self, refusal: TicketRefusal) -> TicketRefusal {
        if let TicketRefusal::PaymentRequired { .. } = refusal {
            self.inner.counts.unpaid.fetch_add(1, Ordering::Relaxed);
            return self.payment_required();
        }
        self.inner.counts.refused.fetch_add(1, Ordering::Relaxed);
        refusal
    }

    fn unpaid(&self, peer: Option<PeerId>) -> Result<Admission, TicketRefusal> {
        let now = self.inner.checker.now().get();
        // Who shows no PeerId can't be told apart, and so has no share of its own.
        if peer.is_some_and(|peer| self.inner.free.take(peer, now)) {
            self.inner.counts.free.fetch_add(1, Ordering::Relaxed);
            return Ok(Admission::Free);
        }
        self.inner.counts.unpaid.fetch_add(1, Ordering::Relaxed);
        let refusal = self.payment_required();
        self.inner.checker.count_refusal(&refusal);
        Err(refusal)
    }

    fn payment_required(&self) -> TicketRefusal {
        TicketRefusal::PaymentRequired { offer: *self.inner.offer.borrow() }
    }

    /// Marks an admitted use as served. Await it before the answer is handed over.
    ///
    /// # Errors
    /// [`StoreError`] when the mark can't be written: the answer must not be handed over then.
    pub async fn served(&self, admission: Admission) -> Result<(), StoreError> {
        if let Admission::Paid(ticket) = admission {
            ticket.served().await?;
            self.inner.counts.served.fetch_add(1, Ordering::Relaxed);
        }
        Ok(())
    }

    /// Marks an admitted use as not served: its ticket stays spent, and who sends the same request again is told so.
    ///
    /// # Errors
    /// [`StoreError`] when the mark can't be written; after a restart the ticket counts as spent without service all the same.
    pub async fn failed(&self, admission: Admission) -> Result<(), StoreError> {
        if let Admission::Paid(ticket) = admission {
            self.inner.counts.failed.fetch_add(1, Ordering::Relaxed);
            ticket.failed().await?;
        }
        Ok(())
    }

    /// What passed so far.
    #[must_use]
    pub fn counters(&self) -> TillCounters {
        let c = &self.inner.counts;
        let get = |a: &AtomicU64| a.load(Ordering::Relaxed);
        TillCounters {
            free: get(&c.free),
            paid: get(&c.paid),
            served: get(&c.served),
            failed: get(&c.failed),
            unpaid: get(&c.unpaid),
            refused: get(&c.refused),
        }
    }
}

/// One use of a service, as its till sees it.
#[derive(Clone, Copy, Debug)]
pub struct Use<'a> {
    /// Who asks, where that is known.
    pub peer: Option<PeerId>,
    /// The request's bytes without its proof.
    pub request: &'a [u8],
    /// Tickets that it takes.
    pub tickets: u64,
}
