use std::path::{Path, PathBuf};

use tributary_protocol::Circuit;

/// The folder that holds the circuits' artefacts, `build/circuits` in this repository.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Artifacts {
    dir: PathBuf,
}

impl Artifacts {
    /// Artefacts under `dir`. Nothing is read yet.
    #[must_use]
    pub fn new(dir: impl Into<PathBuf>) -> Self {
        Self { dir: dir.into() }
    }

    /// The folder itself.
    #[must_use]
    pub fn dir(&self) -> &Path {
        &self.dir
    }

    /// The constraint system, in circom's r1cs format.
    #[must_use]
    pub fn r1cs(&self, circuit: Circuit) -> PathBuf {
        self.file(circuit, "r1cs")
    }

    /// The witness program that circom made.
    #[must_use]
    pub fn wasm(&self, circuit: Circuit) -> PathBuf {
        self.file(circuit, "wasm")
    }

    /// The proving key, in snarkjs' zkey format.
    #[must_use]
    pub fn zkey(&self, circuit: Circuit) -> PathBuf {
        self.file(circuit, "zkey")
    }

    /// The verifying key, in snarkjs' JSON format.
    #[must_use]
    pub fn vkey(&self, circuit: Circuit) -> PathBuf {
        self.file(circuit, "vkey.json")
    }

    /// The witness program as the prover stores it once prepared.
    #[must_use]
    pub fn graph(&self, circuit: Circuit) -> PathBuf {
        self.file(circuit, "graph")
    }

    /// The key manifest, `keys.json` beside the folder.
    #[must_use]
    pub fn manifest(&self) -> PathBuf {
        self.dir
            .parent()
            .filter(|p| !p.as_os_str().is_empty())
            .map_or_else(|| self.dir.join("../keys.json"), |p| p.join("keys.json"))
    }

    fn file(&self, circuit: Circuit, extension: &str) -> PathBuf {
        self.dir.join(format!("{}.{extension}", circuit.name()))
    }
}
