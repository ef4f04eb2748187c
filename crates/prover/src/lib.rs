//! Circuits' artefacts in, Groth16 proofs over BN254 out; verification one by one and in batches; the development setup.
//!
//! A [`Prover`] is loaded once for the circuits a program needs. Each circuit's proving key and witness program is read at its
//! first proof (or by [`Prover::warm`]) and kept. Formats are those of circom and snarkjs, so keys from a public ceremony work
//! here, and proofs made here verify there.

mod artifacts;
mod binfile;
pub mod ceremony;
mod error;
mod key;
mod manifest;
mod msm;
mod ntt;
mod pipeline;
mod proof;
mod prover;
mod r1cs;
mod raw;
pub mod sample;
pub mod setup;
mod vkey;
mod witness;

pub use ark_bn254::Fr;
pub use artifacts::Artifacts;
pub use error::{ArtifactError, Error, KeyError, ProofError, VerifyError, WitnessError};
pub use manifest::{KeyManifest, KeyRecord};
pub use proof::Proof;
pub use prover::{Inputs, Prover};
pub use tributary_protocol::{Circuit, CircuitInputs};
pub use vkey::VerifyingKey;

use std::path::Path;

/// Holds a witness against the constraint system in an r1cs file: the number of the first constraint that it doesn't satisfy, or
/// `None` when it satisfies all. For tests and diagnosis; proving doesn't need it, since every proof is checked.
///
/// # Errors
/// When the file can't be read, or the witness has another length than the constraint system.
pub fn check_witness(r1cs: &Path, witness: &[Fr]) -> Result<Option<usize>, Error> {
    let system = r1cs::R1cs::parse(r1cs, &binfile::read(r1cs)?)?;
    if system.wires != witness.len() {
        let reason = format!("it has {} wires, the witness {} values", system.wires, witness.len());
        return Err(ArtifactError::Mismatch { path: r1cs.to_owned(), reason }.into());
    }
    Ok(system.first_unsatisfied(witness))
}

/// How many constraints an r1cs file has.
///
/// # Errors
/// When the file can't be read.
pub fn constraint_count(r1cs: &Path) -> Result<usize, Error> {
    Ok(r1cs::R1cs::parse(r1cs, &binfile::read(r1cs)?)?.constraints)
}
