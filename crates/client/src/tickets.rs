//! Where a buyer's tickets come from.

use std::fmt::Debug;
use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use tributary_market::ticket::{PreparedTicket, Reason, Remedy};
use tributary_protocol::{PoolClock, ProviderDigest, Slot, UnixTime};
use tributary_wallet::tickets::{MadeTicket, PayingStream, TicketMaker};

use crate::ClientError;

/// Longest wait for a new block between two tries.
const TRY_WAIT: Duration = Duration::from_secs(3);

/// Gives tickets for one provider. [`StreamTickets`] takes them from a stream.
#[async_trait]
pub trait TicketSource: Debug + Send + Sync + 'static {
    /// Whom the tickets are for.
    fn provider(&self) -> ProviderDigest;

    /// The pool's clock.
    fn clock(&self) -> PoolClock;

    /// The time.
    ///
    /// # Errors
    /// [`ClientError::Range`].
    fn now(&self) -> Result<UnixTime, ClientError>;

    /// Takes a proof of `count` tickets of a slot.
    ///
    /// # Errors
    /// [`ClientError`].
    async fn take(&self, slot: Slot, count: u8) -> Result<MadeTicket, ClientError>;

    /// Makes proofs of `count` tickets of a slot until `wanted` wait, and tells how many do. Who makes each when it is taken has none.
    ///
    /// # Errors
    /// [`ClientError`]; those made before it are kept.
    async fn prepare(&self, slot: Slot, count: u8, wanted: usize) -> Result<usize, ClientError> {
        let _ = (slot, count, wanted);
        Ok(0)
    }

    /// Waits until a provider may know more than before: for the next block, or a moment.
    async fn next_try(&self);

    /// The running slot.
    ///
    /// # Errors
    /// [`ClientError::Slot`].
    fn current_slot(&self) -> Result<Slot, ClientError> {
        Ok(self.clock().slot_of(self.now()?)?)
    }
}

/// Tickets of one stream.
#[derive(Debug, Clone)]
pub struct StreamTickets {
    tickets: TicketMaker,
    ledger: tributary_ledger::Ledger,
    clock: Arc<dyn tributary_ledger::Clock>,
    stream: PayingStream,
}

impl StreamTickets {
    /// Tickets that `stream` pays for.
    #[must_use]
    pub fn new(
        tickets: TicketMaker,
        ledger: tributary_ledger::Ledger,
        clock: Arc<dyn tributary_ledger::Clock>,
        stream: PayingStream,
    ) -> Self {
        Self { tickets, ledger, clock, stream }
    }
}

#[async_trait]
impl TicketSource for StreamTickets {
    fn provider(&self) -> ProviderDigest {
        self.stream.provider
    }

    fn clock(&self) -> PoolClock {
        self.ledger.clock()
    }

    fn now(&self) -> Result<UnixTime, ClientError> {
        Ok(UnixTime::new(self.clock.now())?)
    }

    async fn take(&self, slot: Slot, count: u8) -> Result<MadeTicket, ClientError> {
        Ok(self.tickets.take(&self.stream, slot, count).await?)
    }

    async fn prepare(&self, slot: Slot, count: u8, wanted: usize) -> Result<usize, ClientError> {
        Ok(self.tickets.prepare(&self.stream, slot, count, wanted).await?)
    }

    async fn next_try(&self) {
        let mut heads = self.ledger.heads();
        heads.mark_unchanged();
        let _ = tokio::time::timeout(TRY_WAIT, heads.changed()).await;
    }
}

/// The tickets of one request. A provider that has seen a ticket sees it again with the same request or never: with another one it would link the two,
/// and a provider could refuse for that alone.
#[derive(Debug, Default)]
pub struct RequestTickets {
    unspent: Option<MadeTicket>,
}

impl RequestTickets {
    /// The ticket that was refused unspent, as it is, while its slot is the one asked for; else a new one.
    ///
    /// # Errors
    /// As [`TicketSource::take`].
    pub async fn take(&mut self, source: &dyn TicketSource, slot: Slot, count: u8) -> Result<MadeTicket, ClientError> {
        match self.again(slot, count) {
            Some(ticket) => Ok(ticket),
            None => source.take(slot, count).await,
        }
    }

    /// The ticket that was refused unspent, if there is one of this slot.
    pub fn again(&mut self, slot: Slot, count: u8) -> Option<MadeTicket> {
        self.unspent.take().filter(|ticket| ticket.slot == slot && ticket.statement.count == count)
    }

    /// Whether a ticket was refused unspent, and waits to go out again.
    #[must_use]
    pub const fn waits(&self) -> bool {
        self.unspent.is_some()
    }

    /// Whether the request may be tried again after its ticket was refused; a ticket that is not spent goes with it.
    pub fn refused(&mut self, ticket: MadeTicket, reason: Reason) -> bool {
        match reason.remedy() {
            Remedy::SendAgain => {
                self.unspent = Some(ticket);
                true
            }
            Remedy::NewTicket => true,
            Remedy::ReadOffer | Remedy::Spent | Remedy::Report => false,
        }
    }
}

/// An encoded `EligibilityProof` that pays for `request` with `ticket`.
pub(crate) fn pay(ticket: &MadeTicket, provider: &ProviderDigest, request: &[u8]) -> Vec<u8> {
    PreparedTicket { statement: ticket.statement.clone(), proof: ticket.proof, key: ticket.key.clone() }
        .pay(provider, request)
}
