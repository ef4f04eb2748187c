//! Moving queued leaves into the tree. Anyone may do it; relayers do it for a fee, any wallet for itself.

use std::sync::Arc;

use alloy::{primitives::Bytes, sol_types::SolCall};
use tributary_bindings::StreamPool;
use tributary_ledger::{Ledger, insertion_end};
use tributary_protocol::{
    tree::{BATCH_LEAVES, Insertion},
    witness::InsertWitness,
};
use tributary_prover::Prover;

use crate::{WalletError, calldata, proving};

/// A proved insertion.
#[derive(Clone, Debug)]
pub struct ProvedInsertion {
    /// What the contract takes.
    pub args: StreamPool::InsertArgs,
    /// Leaves in the tree before.
    pub from: u64,
    /// Leaves in the tree after.
    pub to: u64,
}

impl ProvedInsertion {
    /// The call `insert` with this insertion alone.
    #[must_use]
    pub fn calldata(&self) -> Bytes {
        StreamPool::insertCall { args: self.args.clone() }.abi_encode().into()
    }
}

/// Proves the next insertion after `from` leaves (see [`Ledger::insertion`]); `None` when nothing waits there.
///
/// # Errors
/// [`WalletError`] when the proof can't be made.
pub async fn prove_insertion(
    ledger: &Ledger,
    prover: &Arc<Prover>,
    from: u64,
) -> Result<Option<ProvedInsertion>, WalletError> {
    match ledger.insertion(from) {
        Some(insertion) => prove_planned(prover, insertion).await.map(Some),
        None => Ok(None),
    }
}

/// Proves an insertion that was planned, for instance over leaves that are not queued yet (see [`Ledger::insertions_with`]).
///
/// # Errors
/// [`WalletError`] when the proof can't be made.
pub async fn prove_planned(prover: &Arc<Prover>, insertion: Insertion) -> Result<ProvedInsertion, WalletError> {
    let from = u64::from(insertion.batch_index) * BATCH_LEAVES as u64 + u64::from(insertion.k);
    let to = insertion_end(&insertion);
    let (statement, proof) = proving::prove(prover, InsertWitness(insertion)).await?;
    Ok(ProvedInsertion { args: calldata::insert(&statement, from, &proof), from, to })
}

/// Proves insertions until the queue is drained, at most `most` of them, in the order in which they must be sent.
///
/// # Errors
/// [`WalletError`] when a proof can't be made.
pub async fn prove_insertions(
    ledger: &Ledger,
    prover: &Arc<Prover>,
    most: usize,
) -> Result<Vec<ProvedInsertion>, WalletError> {
    let mut proved: Vec<ProvedInsertion> = Vec::new();
    while proved.len() < most {
        let from = proved.last().map_or_else(|| ledger.inserted(), |last| last.to);
        match prove_insertion(ledger, prover, from).await? {
            Some(insertion) => proved.push(insertion),
            None => break,
        }
    }
    Ok(proved)
}

/// The call `bundle`: one operation (or nothing) and then insertions.
#[must_use]
pub fn bundle_calldata(operation: &Bytes, insertions: &[ProvedInsertion]) -> Bytes {
    StreamPool::bundleCall {
        operation: operation.clone(),
        insertions: insertions.iter().map(|i| i.args.clone()).collect(),
    }
    .abi_encode()
    .into()
}
