//! What the ticket checks need of the chain, answered from memory.

use std::collections::BTreeMap;
use std::fmt::Debug;

use parking_lot::Mutex;
use tributary_ledger::{Ledger, LedgerError};
use tributary_market::ticket::RootStanding;
use tributary_protocol::{PoolClock, Root, Slot, UnixTime};

/// The chain as the ticket checks see it. Answers must be cheap: they are asked for before anything is known of the sender.
pub trait ChainView: Debug + Send + Sync + 'static {
    /// The pool's clock.
    fn clock(&self) -> PoolClock;

    /// Timestamp of the newest block; `None` before the first one was read.
    fn head_time(&self) -> Option<UnixTime>;

    /// Whether the pool knows a root, and since how many blocks.
    fn root_standing(&self, root: Root) -> RootStanding;

    /// Root of the slot's stopped list, once it is final.
    fn final_stopped_root(&self, slot: Slot) -> Option<Root>;

    /// The latest slot whose stopped list is final: no ticket of a later one can have been taken.
    fn latest_final_slot(&self) -> Option<Slot>;
}

/// Slots whose list's root is remembered; tickets come for few at a time.
const REMEMBERED_LISTS: usize = 64;

/// A followed pool. Roots of stopped lists are computed once for each block and slot.
#[derive(Debug)]
pub struct LedgerView {
    ledger: Ledger,
    lists: Mutex<Lists>,
}

#[derive(Debug, Default)]
struct Lists {
    /// The block that the remembered roots were computed at. Final lists don't change, but a reorganisation deeper than the margin replaces them.
    head: [u8; 32],
    roots: BTreeMap<UnixTime, Root>,
}

impl LedgerView {
    /// A view of `ledger`, which somebody else keeps synchronised.
    #[must_use]
    pub fn new(ledger: Ledger) -> Self {
        Self { ledger, lists: Mutex::default() }
    }

    /// The ledger.
    #[must_use]
    pub const fn ledger(&self) -> &Ledger {
        &self.ledger
    }
}

impl ChainView for LedgerView {
    fn clock(&self) -> PoolClock {
        self.ledger.clock()
    }

    fn head_time(&self) -> Option<UnixTime> {
        self.ledger.head_time().ok()
    }

    fn root_standing(&self, root: Root) -> RootStanding {
        match self.ledger.known_root(root) {
            // The ledger counts the block itself, an offer the blocks on top of it.
            Some(known) => match self.ledger.depth(known.block).checked_sub(1) {
                Some(depth) => RootStanding::Known { depth: u32::try_from(depth).unwrap_or(u32::MAX) },
                None => RootStanding::Unknown,
            },
            None => RootStanding::Unknown,
        }
    }

    fn final_stopped_root(&self, slot: Slot) -> Option<Root> {
        let head = self.ledger.head()?.hash.0;
        {
            let lists = self.lists.lock();
            if lists.head == head
                && let Some(root) = lists.roots.get(&slot.start())
            {
                return Some(*root);
            }
        }
        match self.ledger.stopped_list(slot) {
            Ok(list) => {
                let root = list.root();
                let mut lists = self.lists.lock();
                if lists.head != head {
                    *lists = Lists { head, ..Lists::default() };
                }
                if lists.roots.len() >= REMEMBERED_LISTS {
                    lists.roots.pop_first();
                }
                lists.roots.insert(slot.start(), root);
                Some(root)
            }
            Err(LedgerError::NotFinal { .. }) => None,
            Err(error) => {
                tracing::error!(code = error.code(), %error, slot = slot.start().get(), "a stopped list can't be built");
                None
            }
        }
    }

    fn latest_final_slot(&self) -> Option<Slot> {
        self.ledger.latest_final_slot()
    }
}
