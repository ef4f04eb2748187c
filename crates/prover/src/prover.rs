use std::{
    collections::BTreeMap,
    path::Path,
    sync::{Arc, Mutex, OnceLock, PoisonError},
};

use ark_bn254::Fr;
use rand::{CryptoRng, RngCore, SeedableRng, rngs::OsRng, rngs::StdRng};
use tributary_protocol::Circuit;
use zeroize::Zeroize;

use crate::{
    ArtifactError, Artifacts, Error, KeyError, KeyManifest, Proof, VerifyingKey, binfile, key::ProvingKey,
    manifest::sha256_hex, pipeline::Pipeline, witness::Program,
};

/// A circuit's inputs: names and values, arrays flattened in row-major order (encodings, "Circuit inputs").
pub trait Inputs {
    /// Every input once, in any order.
    fn signals(&self) -> impl Iterator<Item = (&str, &[Fr])>;
}

impl Inputs for tributary_protocol::CircuitInputs {
    fn signals(&self) -> impl Iterator<Item = (&str, &[Fr])> {
        // The closure's type shortens the names' lifetime from 'static.
        self.iter().map(|(name, values)| -> (&str, &[Fr]) { (name, values) })
    }
}

/// For inputs made by hand.
impl Inputs for BTreeMap<String, Vec<Fr>> {
    fn signals(&self) -> impl Iterator<Item = (&str, &[Fr])> {
        self.iter().map(|(name, values)| (name.as_str(), values.as_slice()))
    }
}

/// Makes proofs. Share it behind an [`Arc`]; proofs may be made from several threads at once.
#[derive(Debug)]
pub struct Prover {
    artifacts: Artifacts,
    manifest: KeyManifest,
    slots: BTreeMap<Circuit, Slot>,
}

#[derive(Debug)]
struct Slot {
    key: Arc<VerifyingKey>,
    loaded: OnceLock<Loaded>,
    /// Held while loading, so that two first proofs at once read the key once.
    loading: Mutex<()>,
}

#[derive(Debug)]
struct Loaded {
    pipeline: Pipeline,
    program: Program,
}

impl Prover {
    /// A prover for `circuits`, with artefacts from `dir` (`build/circuits`). Reads and checks the key manifest and the verifying
    /// keys; proving keys and witness programs are read when first used.
    ///
    /// # Errors
    /// When an artefact is missing, isn't the one that the manifest names, or a verifying key is refused.
    pub fn load(dir: impl AsRef<Path>, circuits: &[Circuit]) -> Result<Self, Error> {
        let artifacts = Artifacts::new(dir.as_ref());
        let manifest_path = artifacts.manifest();
        let manifest = KeyManifest::load(&manifest_path)?;
        let mut slots = BTreeMap::new();
        for &circuit in circuits {
            let path = artifacts.vkey(circuit);
            let expected = &manifest.record(&manifest_path, circuit)?.vkey_sha256;
            check_hash(&path, &binfile::read(&path)?, expected)?;
            let key = VerifyingKey::load(&path)?;
            if key.public_inputs() != circuit.public_inputs() {
                let source = KeyError::PublicInputs { got: key.public_inputs(), expected: circuit.public_inputs() };
                return Err(ArtifactError::Key { path, source }.into());
            }
            for path in [artifacts.zkey(circuit), artifacts.wasm(circuit)] {
                path.metadata().map_err(|source| ArtifactError::Io { path, source })?;
            }
            slots.insert(circuit, Slot { key: Arc::new(key), loaded: OnceLock::new(), loading: Mutex::new(()) });
        }
        Ok(Self { artifacts, manifest, slots })
    }

    /// Reads the proving key and the witness program of `circuit` now, so that the first proof is as fast as the next ones.
    ///
    /// # Errors
    /// When an artefact is missing, damaged or not the one that the manifest names.
    pub fn warm(&self, circuit: Circuit) -> Result<(), Error> {
        self.loaded(circuit).map(drop)
    }

    /// Makes the proof that `inputs` satisfy `circuit`, and checks it: a proof that leaves here verifies. Takes every core for a few
    /// hundred milliseconds; in asynchronous programs call it from a blocking thread.
    ///
    /// # Errors
    /// [`crate::WitnessError`] when the inputs don't satisfy the circuit or don't fit its inputs.
    pub fn prove(&self, circuit: Circuit, inputs: &impl Inputs) -> Result<Proof, Error> {
        let mut rng = StdRng::from_rng(OsRng).map_err(|e| Error::Randomness { reason: e.to_string() })?;
        self.prove_with(circuit, inputs, &mut rng)
    }

    /// As [`Self::prove`], with the proof's two blinding scalars from `rng`. A generator whose output somebody can guess gives proofs
    /// that hide nothing: seeded ones are for test fixtures, which must come out the same at every run.
    ///
    /// # Errors
    /// As [`Self::prove`].
    pub fn prove_with(
        &self,
        circuit: Circuit,
        inputs: &impl Inputs,
        rng: &mut (impl RngCore + CryptoRng),
    ) -> Result<Proof, Error> {
        let slot = self.slot(circuit)?;
        let loaded = self.loaded(circuit)?;
        let mut witness = loaded.program.run(inputs.signals())?;
        let proof = loaded.pipeline.prove(&witness, rng);
        let valid = slot.key.verify(&witness[1..=circuit.public_inputs()], &proof);
        witness.zeroize();
        valid.map_err(|_| Error::SelfCheck { circuit })?;
        Ok(proof)
    }

    /// The whole witness for `inputs`: wire 0, which is 1, the public wires, the private ones. Secret; for tests and benches.
    ///
    /// # Errors
    /// As [`Self::prove`].
    pub fn witness(&self, circuit: Circuit, inputs: &impl Inputs) -> Result<Vec<Fr>, Error> {
        Ok(self.loaded(circuit)?.program.run(inputs.signals())?)
    }

    /// The verifying key of `circuit`.
    ///
    /// # Errors
    /// [`Error::NotLoaded`] when the prover wasn't loaded for it.
    pub fn verifying_key(&self, circuit: Circuit) -> Result<Arc<VerifyingKey>, Error> {
        Ok(Arc::clone(&self.slot(circuit)?.key))
    }

    /// Whether the key of `circuit` is a development key, against which anybody can forge proofs.
    ///
    /// # Errors
    /// [`Error::NotLoaded`] when the prover wasn't loaded for it.
    pub fn is_development(&self, circuit: Circuit) -> Result<bool, Error> {
        self.slot(circuit)?;
        Ok(self.manifest.record(&self.artifacts.manifest(), circuit)?.development)
    }

    fn slot(&self, circuit: Circuit) -> Result<&Slot, Error> {
        self.slots.get(&circuit).ok_or(Error::NotLoaded { circuit })
    }

    fn loaded(&self, circuit: Circuit) -> Result<&Loaded, Error> {
        let slot = self.slot(circuit)?;
        if let Some(loaded) = slot.loaded.get() {
            return Ok(loaded);
        }
        // The lock guards no data: a loader that panicked left nothing behind.
        let _guard = slot.loading.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(loaded) = slot.loaded.get() {
            return Ok(loaded);
        }
        let loaded = self.read(circuit, &slot.key)?;
        Ok(slot.loaded.get_or_init(|| loaded))
    }

    fn read(&self, circuit: Circuit, vkey: &VerifyingKey) -> Result<Loaded, Error> {
        let path = self.artifacts.zkey(circuit);
        let zkey = binfile::read(&path)?;
        let record = self.manifest.record(&self.artifacts.manifest(), circuit)?;
        check_hash(&path, &zkey, &record.zkey_sha256)?;
        let key = ProvingKey::parse(&path, &zkey, vkey)?;
        drop(zkey);
        let wasm = self.artifacts.wasm(circuit);
        let program = Program::load(circuit, &wasm, &self.artifacts.graph(circuit))?;
        if program.witness_len() != key.wires {
            return Err(ArtifactError::Mismatch {
                path: wasm,
                reason: format!(
                    "its witness has {} values, the proving key is for {}",
                    program.witness_len(),
                    key.wires
                ),
            }
            .into());
        }
        Ok(Loaded { pipeline: Pipeline::new(key), program })
    }
}

fn check_hash(path: &Path, data: &[u8], expected: &str) -> Result<(), ArtifactError> {
    let got = sha256_hex(data);
    if got == expected {
        Ok(())
    } else {
        Err(ArtifactError::Mismatch {
            path: path.to_owned(),
            reason: format!("its SHA-256 is {got}, the key manifest says {expected}"),
        })
    }
}
