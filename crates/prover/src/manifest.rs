//! `build/keys.json`: which key belongs to which constraint system, and whether it is one for development.

use std::{
    collections::BTreeMap,
    fs,
    io::Write as _,
    path::{Path, PathBuf},
};

use serde::{Deserialize, Serialize};
use sha2::{Digest, Sha256};

use tributary_protocol::Circuit;

use crate::{ArtifactError, proof::hex};

/// What `build/keys.json` says (encodings, "Artefacts").
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct KeyManifest {
    /// A warning for whoever opens the file.
    #[serde(default)]
    pub notice: String,
    /// Circuits by name.
    pub circuits: BTreeMap<String, KeyRecord>,
}

/// One circuit's entry in [`KeyManifest`].
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct KeyRecord {
    /// SHA-256 of the r1cs file, hexadecimal.
    pub r1cs_sha256: String,
    /// SHA-256 of the zkey file, hexadecimal.
    pub zkey_sha256: String,
    /// SHA-256 of the vkey.json file, hexadecimal.
    pub vkey_sha256: String,
    /// The verifying-key hash that contracts and the deployment manifest use: 0x and 64 hexadecimal digits.
    pub vkey_hash: String,
    /// True when the key's trapdoor is public: anybody can forge proofs.
    pub development: bool,
}

impl KeyManifest {
    /// Reads the manifest.
    ///
    /// # Errors
    /// When it is missing or of another form.
    pub fn load(path: &Path) -> Result<Self, ArtifactError> {
        let text = crate::binfile::read(path)?;
        serde_json::from_slice(&text)
            .map_err(|e| ArtifactError::Format { path: path.to_owned(), reason: e.to_string() })
    }

    /// The entry of `circuit`.
    ///
    /// # Errors
    /// When there is none.
    pub fn record(&self, path: &Path, circuit: Circuit) -> Result<&KeyRecord, ArtifactError> {
        self.circuits.get(circuit.name()).ok_or_else(|| ArtifactError::Mismatch {
            path: path.to_owned(),
            reason: format!("it has no entry for the {circuit} circuit"),
        })
    }

    pub(crate) fn store(&self, path: &Path) -> Result<(), ArtifactError> {
        let mut text = serde_json::to_vec_pretty(self).unwrap_or_default();
        text.push(b'\n');
        write_atomically(path, &text)
    }
}

pub(crate) fn sha256_hex(data: &[u8]) -> String {
    hex(&Sha256::digest(data))
}

/// Writes a file so that a reader, or a crash, sees either the old content or the new.
pub(crate) fn write_atomically(path: &Path, data: &[u8]) -> Result<(), ArtifactError> {
    let io = |source| ArtifactError::Io { path: path.to_owned(), source };
    let mut name = path.file_name().unwrap_or_default().to_owned();
    name.push(format!(".{}.partial", std::process::id()));
    let temporary: PathBuf = path.with_file_name(name);
    let write = || {
        let mut file = fs::File::create(&temporary)?;
        file.write_all(data)?;
        file.sync_all()?;
        fs::rename(&temporary, path)
    };
    write().map_err(|e| {
        let _ = fs::remove_file(&temporary);
        io(e)
    })
}
