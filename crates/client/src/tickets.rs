//! Where a buyer's tickets come from.

use std::fmt::Debug;
use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use tributary_market::ticket::PreparedTicket;
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

    /// Puts a ticket back that was refused without being spent. It is the next one taken.
    fn give_back(&self, ticket: MadeTicket);

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

    fn give_back(&self, ticket: MadeTicket) {
        self.tickets.give_back(&self.stream, ticket);
    }

    async fn next_try(&self) {
        let mut heads = self.ledger.heads();
        heads.mark_unchanged();
        let _ = tokio::time::timeout(TRY_WAIT, heads.changed()).await;
    }
}

/// An encoded `EligibilityProof` that pays for `request` with `ticket`.
pub(crate) fn pay(ticket: &MadeTicket, provider: &ProviderDigest, request: &[u8]) -> Vec<u8> {
    PreparedTicket { statement: ticket.statement.clone(), proof: ticket.proof, key: ticket.key.clone() }
        .pay(provider, request)
}
