//! Circuits' artefacts in, Groth16 proofs over BN254 out; verification one by one and in batches; the development setup.
//!
//! A [`Prover`] is loaded once for the circuits a program needs. Each circuit's proving key and witness program is read at its
//! first proof (or by [`Prover::warm`]) and kept. Formats are those of circom and snarkjs, so keys from a public ceremony work
//! here, and proofs made here verify there.

mod artifacts;
mod binfile;
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
pub mod setup;
mod vkey;
mod witness;

pub use ark_bn254::Fr;
pub use artifacts::Artifacts;
pub use error::{ArtifactError, Error, KeyError, ProofError, VerifyError, WitnessError};
pub use manifest::{KeyManifest, KeyRecord};
pub use proof::Proof;
pub use prover::{CircuitInputs, Inputs, Prover};
pub use tributary_protocol::Circuit;
pub use vkey::VerifyingKey;
