//! What a relayer did since its start, for its operator. No transaction, account or nullifier is in it.

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Mutex, PoisonError};

use crate::store::RequestCounts;

/// State and counters of a relayer at one moment.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct RelayerSnapshot {
    /// Requests by state, as far as they are remembered.
    pub requests: RequestCounts,
    /// Requests that were not taken, or given up later, by [`RelayerError::code`](crate::RelayerError::code).
    pub rejected: BTreeMap<&'static str, u64>,
    /// Transactions whose block is deep, insertions alone included.
    pub settled: u64,
    /// Transactions that reverted on chain.
    pub reverted: u64,
    /// Of the settled ones, those that put leaves into the tree.
    pub insertions: u64,
    /// Transactions sent again at a higher price.
    pub replaced: u64,
    /// Gas of settled and reverted transactions.
    pub gas: u64,
    /// What that gas cost, in wei.
    pub gas_wei: u128,
}

/// Counters of one process.
#[derive(Debug, Default)]
pub(crate) struct Counters {
    rejected: Mutex<BTreeMap<&'static str, u64>>,
    spent: Mutex<Spent>,
    settled: AtomicU64,
    reverted: AtomicU64,
    insertions: AtomicU64,
    replaced: AtomicU64,
}

#[derive(Debug, Default, Clone, Copy)]
struct Spent {
    gas: u64,
    wei: u128,
}

impl Counters {
    pub(crate) fn rejected(&self, code: &'static str) {
        *self.rejected.lock().unwrap_or_else(PoisonError::into_inner).entry(code).or_insert(0) += 1;
    }

    pub(crate) fn replaced(&self) {
        self.replaced.fetch_add(1, Ordering::Relaxed);
    }

    pub(crate) fn settled(&self, gas: u64, price: u128, inserted: bool) {
        self.settled.fetch_add(1, Ordering::Relaxed);
        if inserted {
            self.insertions.fetch_add(1, Ordering::Relaxed);
        }
        self.spend(gas, price);
    }

    pub(crate) fn reverted(&self, gas: u64, price: u128) {
        self.reverted.fetch_add(1, Ordering::Relaxed);
        self.spend(gas, price);
    }

    fn spend(&self, gas: u64, price: u128) {
        let mut spent = self.spent.lock().unwrap_or_else(PoisonError::into_inner);
        spent.gas = spent.gas.saturating_add(gas);
        spent.wei = spent.wei.saturating_add(u128::from(gas).saturating_mul(price));
    }

    pub(crate) fn snapshot(&self, requests: RequestCounts) -> RelayerSnapshot {
        let spent = *self.spent.lock().unwrap_or_else(PoisonError::into_inner);
        let read = |counter: &AtomicU64| counter.load(Ordering::Relaxed);
        RelayerSnapshot {
            requests,
            rejected: self.rejected.lock().unwrap_or_else(PoisonError::into_inner).clone(),
            settled: read(&self.settled),
            reverted: read(&self.reverted),
            insertions: read(&self.insertions),
            replaced: read(&self.replaced),
            gas: spent.gas,
            gas_wei: spent.wei,
        }
    }
}
