//! Tickets that are made without a stream.

use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use async_trait::async_trait;
use tributary_client::{ClientError, TicketSource};
use tributary_market::clock::{Clock as _, ManualClock};
use tributary_protocol::{PoolClock, ProviderDigest, Slot, UnixTime};
use tributary_wallet::tickets::MadeTicket;

use crate::common::{Trapdoor, clock as pool_clock, key, provider, statement};

/// Makes tickets with the tests' own proving key.
pub(crate) struct Source {
    trapdoor: Trapdoor,
    next: AtomicU64,
    pub(crate) clock: ManualClock,
}

impl Source {
    /// Tickets from number `first` on.
    pub(crate) fn new(clock: ManualClock, first: u64) -> Self {
        Self { trapdoor: Trapdoor::new(), next: AtomicU64::new(first), clock }
    }

    /// The number of the next new ticket.
    #[allow(dead_code, reason = "each test file uses a part of it")]
    pub(crate) fn next(&self) -> u64 {
        self.next.load(Ordering::SeqCst)
    }
}

impl std::fmt::Debug for Source {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Source")
    }
}

#[async_trait]
impl TicketSource for Source {
    fn provider(&self) -> ProviderDigest {
        provider()
    }
    fn clock(&self) -> PoolClock {
        pool_clock()
    }
    fn now(&self) -> Result<UnixTime, ClientError> {
        Ok(self.clock.now())
    }
    async fn take(&self, slot: Slot, count: u8) -> Result<MadeTicket, ClientError> {
        assert_eq!(count, 1);
        let n = self.next.fetch_add(1, Ordering::SeqCst);
        let statement = statement(n, slot);
        let proof = self.trapdoor.prove(&statement, n);
        Ok(MadeTicket { statement, proof, key: key(n), slot, young: false })
    }
    async fn next_try(&self) {
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
}
