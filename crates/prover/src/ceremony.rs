//! Keys from a ceremony: a zkey that the ecosystem's tools made takes the place of the development key.

use std::path::Path;

use ark_bn254::Fr;
use ark_ff::One;

use tributary_protocol::Circuit;

use crate::{
    ArtifactError, Artifacts, KeyError,
    binfile::{self, BinFile},
    key::ProvingKey,
    manifest::{KeyManifest, KeyRecord, sha256_hex, write_atomically},
    proof::hex,
    r1cs::{Matrix, R1cs},
    raw::{G1_LEN, G2_LEN},
    setup::CONTRIBUTION,
};

/// Who contributed to a key, in order. Names are what the contributors wrote: they prove nothing.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Transcript {
    /// The contributors' names; empty where none was given.
    pub names: Vec<String>,
}

/// Makes a ceremony's zkey the key of `circuit`: artefacts and key manifest name it from then on, as no development key.
///
/// It checks that the key is for this very constraint system, that its points are in their groups, that somebody contributed, and that
/// none of the contributions is the development setup's. It can't check that the powers of tau are the ones the ceremony began with:
/// `snarkjs zkey verify` does, and `script/ceremony enter` runs it first.
///
/// # Errors
/// [`ArtifactError`]; then nothing was changed.
pub fn enter(artifacts: &Artifacts, circuit: Circuit, zkey_path: &Path) -> Result<Transcript, ArtifactError> {
    let r1cs_path = artifacts.r1cs(circuit);
    let r1cs_data = binfile::read(&r1cs_path)?;
    let system = R1cs::parse(&r1cs_path, &r1cs_data)?;
    let data = binfile::read(zkey_path)?;
    let vkey = ProvingKey::verifying_key(zkey_path, &data)?;
    if vkey.public_inputs() != circuit.public_inputs() {
        return Err(ArtifactError::Key {
            path: zkey_path.to_owned(),
            source: KeyError::PublicInputs { got: vkey.public_inputs(), expected: circuit.public_inputs() },
        });
    }
    let key = ProvingKey::parse(zkey_path, &data, &vkey)?;
    same_system(zkey_path, &system, &key)?;
    let transcript = transcript(zkey_path, &data)?;

    let manifest_path = artifacts.manifest();
    let mut manifest = if manifest_path.exists() { KeyManifest::load(&manifest_path)? } else { KeyManifest::default() };
    let mut vkey_json = serde_json::to_vec_pretty(&vkey.to_snarkjs()).unwrap_or_default();
    vkey_json.push(b'\n');
    let record = KeyRecord {
        r1cs_sha256: sha256_hex(&r1cs_data),
        zkey_sha256: sha256_hex(&data),
        vkey_sha256: sha256_hex(&vkey_json),
        vkey_hash: format!("0x{}", hex(&vkey.hash())),
        development: false,
    };
    write_atomically(&artifacts.zkey(circuit), &data)?;
    write_atomically(&artifacts.vkey(circuit), &vkey_json)?;
    manifest.circuits.insert(circuit.name().to_owned(), record);
    manifest.store(&manifest_path)?;
    Ok(transcript)
}

/// The key's matrices are the constraint system's, with the rows of the public wires behind them.
fn same_system(path: &Path, system: &R1cs, key: &ProvingKey) -> Result<(), ArtifactError> {
    let differs = |reason: String| Err(ArtifactError::Mismatch { path: path.to_owned(), reason });
    let rows = system.constraints + system.publics + 1;
    if key.wires != system.wires || key.domain != rows.next_power_of_two() {
        return differs(format!(
            "it has {} wires in a domain of {}, the constraint system {} wires and {rows} rows",
            key.wires, key.domain, system.wires
        ));
    }
    for row in 0..key.domain {
        let public = row.checked_sub(system.constraints).filter(|wire| *wire <= system.publics);
        let expected = if row < system.constraints {
            [entries(&system.a, row), entries(&system.b, row)]
        } else {
            [public.map(|wire| vec![(wire, Fr::one())]).unwrap_or_default(), Vec::new()]
        };
        if [entries(&key.a_matrix, row), entries(&key.b_matrix, row)] != expected {
            return differs(format!("row {row} of its matrices is not the constraint system's"));
        }
    }
    Ok(())
}

/// A row's entries by wire.
fn entries(matrix: &Matrix, row: usize) -> Vec<(usize, Fr)> {
    let mut entries: Vec<_> = matrix.row(row).map(|(wire, value)| (wire, *value)).collect();
    entries.sort_by_key(|(wire, _)| *wire);
    entries
}

/// Reads the contributions, as snarkjs writes them.
fn transcript(path: &Path, data: &[u8]) -> Result<Transcript, ArtifactError> {
    /// `Name` in a contribution's parameters.
    const NAME: u8 = 1;
    /// Number of iterations of a beacon.
    const ITERATIONS: u8 = 2;
    /// A beacon's hash.
    const BEACON: u8 = 3;

    let file = BinFile::parse(path, data, b"zkey")?;
    let mut section = file.section(10)?;
    // The hash of the constraint system.
    section.take(64)?;
    let count = section.u32()?;
    let mut names = Vec::new();
    for _ in 0..count {
        // The new delta, the proof of knowledge of its factor, the hash of the transcript, the kind.
        section.take(3 * G1_LEN + G2_LEN + 64 + 4)?;
        let length = section.u32()? as usize;
        let mut parameters = section.take(length)?;
        let mut name = String::new();
        while let Some((&kind, rest)) = parameters.split_first() {
            let Some((&byte, rest)) = rest.split_first() else {
                return Err(file.bad("a contribution's parameters are cut off"));
            };
            parameters = match kind {
                NAME | BEACON => {
                    let Some((value, rest)) = rest.split_at_checked(byte.into()) else {
                        return Err(file.bad("a contribution's parameters are cut off"));
                    };
                    if kind == NAME {
                        name = String::from_utf8_lossy(value).into_owned();
                    }
                    rest
                }
                ITERATIONS => rest,
                other => return Err(file.bad(format!("a contribution has a parameter of kind {other}"))),
            };
        }
        if name == CONTRIBUTION {
            return Err(ArtifactError::Mismatch {
                path: path.to_owned(),
                reason: "it builds on the development setup, whose trapdoor is public, whoever contributed later"
                    .into(),
            });
        }
        names.push(name);
    }
    if names.is_empty() {
        return Err(ArtifactError::Mismatch {
            path: path.to_owned(),
            reason: "nobody contributed to it: anybody can forge proofs".into(),
        });
    }
    Ok(Transcript { names })
}
