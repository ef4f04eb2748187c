//! Proofs that queued leaves enter the tree.

use alloy::primitives::U256;
use tributary_bindings::StreamPool;
use tributary_protocol::{
    FieldElement as _, Statement as _,
    tree::{BATCH_LEAVES, Insertion},
    witness::{InsertWitness, Witness as _},
};
use tributary_prover::Prover;

use crate::RelayerError;

/// Proves an insertion and puts it into the form that the pool takes. Blocks for the time of one proof.
///
/// # Errors
/// [`RelayerError::Proof`].
pub fn prove(prover: &Prover, insertion: &Insertion) -> Result<StreamPool::InsertArgs, RelayerError> {
    let failed = |error: &dyn std::fmt::Display| RelayerError::Proof(error.to_string());
    let prepared = InsertWitness(insertion.clone()).prepare().map_err(|error| failed(&error))?;
    let proof = prover.prove(prepared.circuit, &prepared.inputs).map_err(|error| failed(&error))?;
    Ok(StreamPool::InsertArgs {
        proof: proof.to_bytes().into(),
        digest: prepared.statement.digest().to_u256(),
        oldRoot: insertion.old_root.into(),
        newRoot: insertion.new_root.into(),
        from: U256::from(u64::from(insertion.batch_index) * BATCH_LEAVES as u64 + u64::from(insertion.k)),
        leaves: insertion.leaves.iter().map(|&leaf| leaf.into()).collect(),
    })
}
