//! Artefacts that are missing, damaged, foreign, or tampered with.

use std::{fs, path::Path};

use sha2::{Digest, Sha256};
use tempfile::TempDir;
use tributary_protocol::witness::Witness;
use tributary_prover::{
    Artifacts, Circuit, Error, KeyManifest, Proof, Prover,
    setup::{Outcome, development_keys},
};

use super::{artefacts_dir, pool};

/// A copy of the ticket circuit's artefacts that a test may spoil.
pub(super) struct Copy {
    _dir: TempDir,
    pub(super) artifacts: Artifacts,
}

impl Copy {
    pub(super) fn new() -> Self {
        let dir = TempDir::new().expect("a temporary folder");
        let artifacts = Artifacts::new(dir.path().join("circuits"));
        fs::create_dir(artifacts.dir()).expect("a folder");
        let from = Artifacts::new(artefacts_dir());
        for (from, to) in [
            (from.zkey(Circuit::Ticket), artifacts.zkey(Circuit::Ticket)),
            (from.vkey(Circuit::Ticket), artifacts.vkey(Circuit::Ticket)),
            (from.wasm(Circuit::Ticket), artifacts.wasm(Circuit::Ticket)),
            (from.graph(Circuit::Ticket), artifacts.graph(Circuit::Ticket)),
            (from.manifest(), artifacts.manifest()),
        ] {
            fs::copy(&from, to).unwrap_or_else(|e| panic!("{}: {e}; run ./script/setup", from.display()));
        }
        Self { _dir: dir, artifacts }
    }

    pub(super) fn prove(&self) -> Result<Proof, Error> {
        let prover = Prover::load(self.artifacts.dir(), &[Circuit::Ticket])?;
        let prepared = pool().ticket(1, 0).prepare().expect("an honest ticket");
        let proof = prover.prove(Circuit::Ticket, &prepared.inputs)?;
        assert_eq!(prover.verifying_key(Circuit::Ticket)?.verify(&prepared.public_inputs, &proof), Ok(()));
        Ok(proof)
    }

    fn refused(&self) -> (&'static str, String) {
        let e = self.prove().expect_err("spoilt artefacts");
        (e.code(), e.to_string())
    }

    /// Makes the manifest name the files as they are now: an attacker who can write one can write the other.
    pub(super) fn approve(&self, development: bool) {
        let path = self.artifacts.manifest();
        let mut manifest = KeyManifest::load(&path).expect("a manifest");
        let record = manifest.circuits.get_mut("ticket").expect("an entry");
        record.zkey_sha256 = hash(&self.artifacts.zkey(Circuit::Ticket));
        record.vkey_sha256 = hash(&self.artifacts.vkey(Circuit::Ticket));
        record.development = development;
        fs::write(path, serde_json::to_vec(&manifest).expect("JSON")).expect("written");
    }
}

pub(super) fn hash(path: &Path) -> String {
    Sha256::digest(fs::read(path).expect("a file")).iter().map(|b| format!("{b:02x}")).collect()
}

pub(super) fn edit(path: &Path, change: impl FnOnce(&mut Vec<u8>)) {
    let mut bytes = fs::read(path).expect("a file");
    change(&mut bytes);
    fs::write(path, bytes).expect("written");
}

/// Where a section of a zkey begins.
pub(super) fn section(zkey: &[u8], id: u32) -> usize {
    let mut at = 12;
    loop {
        let found = u32::from_le_bytes(zkey[at..at + 4].try_into().expect("4 bytes"));
        let len = u64::from_le_bytes(zkey[at + 4..at + 12].try_into().expect("8 bytes")) as usize;
        at += 12;
        if found == id {
            return at;
        }
        at += len;
    }
}

#[test]
fn an_untouched_copy_proves() {
    Copy::new().prove().expect("good artefacts");
}

#[test]
fn missing_files_are_named() {
    for extension in ["zkey", "vkey.json", "wasm"] {
        let copy = Copy::new();
        fs::remove_file(copy.artifacts.dir().join(format!("ticket.{extension}"))).expect("removed");
        let (code, text) = copy.refused();
        assert_eq!(code, "TRB-P031");
        assert!(text.contains(&format!("ticket.{extension}")), "{text}");
    }
    let copy = Copy::new();
    fs::remove_file(copy.artifacts.manifest()).expect("removed");
    assert_eq!(copy.refused().0, "TRB-P031");
}

#[test]
fn keys_that_the_manifest_does_not_name_are_refused() {
    for extension in ["zkey", "vkey.json"] {
        let copy = Copy::new();
        edit(&copy.artifacts.dir().join(format!("ticket.{extension}")), |bytes| {
            let middle = bytes.len() / 2;
            bytes[middle] ^= 1;
        });
        let (code, text) = copy.refused();
        assert_eq!(code, "TRB-P033", "{text}");
        assert!(text.contains("SHA-256"), "{text}");
    }
}

#[test]
fn damaged_keys_are_refused_even_where_the_manifest_names_them() {
    let spoil = |change: &dyn Fn(&mut Vec<u8>)| {
        let copy = Copy::new();
        edit(&copy.artifacts.zkey(Circuit::Ticket), |bytes| change(bytes));
        copy.approve(true);
        copy.refused()
    };
    for (what, change) in [
        ("begins with", &(|b: &mut Vec<u8>| b[0] = b'x') as &dyn Fn(&mut Vec<u8>)),
        ("version", &|b: &mut Vec<u8>| b[4] = 9),
        ("ends", &|b: &mut Vec<u8>| b.truncate(b.len() / 2)),
        ("protocol", &|b: &mut Vec<u8>| {
            let at = section(b, 1);
            b[at] = 2;
        }),
        ("curve is not BN254", &|b: &mut Vec<u8>| {
            let at = section(b, 2);
            b[at + 4] ^= 1;
        }),
        ("out of range", &|b: &mut Vec<u8>| {
            let at = section(b, 4);
            b[at + 4 + 8..at + 4 + 12].fill(0xff);
        }),
        ("off its curve", &|b: &mut Vec<u8>| {
            let at = section(b, 9);
            b[at] ^= 1;
        }),
        ("off its curve", &|b: &mut Vec<u8>| {
            let at = section(b, 7);
            let len = b[at..].iter().position(|x| *x != 0).expect("a point");
            b[at + len] ^= 1;
        }),
    ] {
        let (code, text) = spoil(change);
        assert_eq!(code, "TRB-P032", "{text}");
        assert!(text.contains(what), "{what}: {text}");
    }
}

#[test]
fn another_circuits_key_is_refused() {
    let copy = Copy::new();
    let from = Artifacts::new(artefacts_dir());
    fs::copy(from.zkey(Circuit::Close), copy.artifacts.zkey(Circuit::Ticket)).expect("copied");
    copy.approve(true);
    let (code, text) = copy.refused();
    assert_eq!(code, "TRB-P033");
    assert!(text.contains("verifying key"), "{text}");

    fs::copy(from.vkey(Circuit::Close), copy.artifacts.vkey(Circuit::Ticket)).expect("copied");
    copy.approve(true);
    let (code, text) = copy.refused();
    assert_eq!(code, "TRB-P014", "{text}");
}

/// A proving key whose points were exchanged for other good points makes no proof that leaves the prover.
#[test]
fn a_tampered_proving_key_makes_no_proof() {
    let copy = Copy::new();
    edit(&copy.artifacts.zkey(Circuit::Ticket), |bytes| {
        let at = section(bytes, 9);
        let (first, second) = (bytes[at..at + 64].to_vec(), bytes[at + 64..at + 128].to_vec());
        bytes[at..at + 64].copy_from_slice(&second);
        bytes[at + 64..at + 128].copy_from_slice(&first);
    });
    copy.approve(true);
    assert_eq!(copy.refused().0, "TRB-P053");
}

#[test]
fn a_damaged_prepared_program_is_made_anew() {
    let copy = Copy::new();
    let path = copy.artifacts.graph(Circuit::Ticket);
    let good = hash(&path);
    for change in [
        &(|b: &mut Vec<u8>| {
            let middle = b.len() / 2;
            b[middle] ^= 0x40;
        }) as &dyn Fn(&mut Vec<u8>),
        &|b: &mut Vec<u8>| b.truncate(100),
        &|b: &mut Vec<u8>| b.clear(),
    ] {
        edit(&path, |bytes| change(bytes));
        assert_ne!(hash(&path), good);
        copy.prove().expect("made anew");
        assert_eq!(hash(&path), good);
    }
    fs::remove_file(&path).expect("removed");
    copy.prove().expect("made anew");
    assert_eq!(hash(&path), good);
}

/// Somebody who rewrites the prepared program, hash and all, gets no proof and nothing run.
#[test]
fn a_tampered_prepared_program_makes_no_proof() {
    let seal = |bytes: &mut Vec<u8>| {
        let body = bytes.len() - 32;
        let hash = Sha256::digest(&bytes[..body]);
        bytes[body..].copy_from_slice(&hash);
    };
    // The last entry of the witness' table stands before the hash: another value there is another witness.
    let copy = Copy::new();
    edit(&copy.artifacts.graph(Circuit::Ticket), |bytes| {
        let at = bytes.len() - 36;
        let id = u32::from_le_bytes(bytes[at..at + 4].try_into().expect("4 bytes"));
        bytes[at..at + 4].copy_from_slice(&(id - 1).to_le_bytes());
        seal(bytes);
    });
    assert_eq!(copy.refused().0, "TRB-P053");

    // A reference outside the program: not accepted, made anew.
    let copy = Copy::new();
    let path = copy.artifacts.graph(Circuit::Ticket);
    let good = hash(&path);
    edit(&path, |bytes| {
        let at = bytes.len() - 36;
        bytes[at..at + 4].copy_from_slice(&u32::MAX.to_le_bytes());
        seal(bytes);
    });
    copy.prove().expect("made anew");
    assert_eq!(hash(&path), good);
}

#[test]
fn a_witness_program_that_is_none_is_refused() {
    let copy = Copy::new();
    fs::write(copy.artifacts.wasm(Circuit::Ticket), b"\0asm\x01\0\0\0").expect("written");
    let (code, text) = copy.refused();
    assert_eq!(code, "TRB-P032", "{text}");

    let copy = Copy::new();
    edit(&copy.artifacts.wasm(Circuit::Ticket), |bytes| bytes.truncate(bytes.len() / 2));
    let (code, text) = copy.refused();
    assert_eq!(code, "TRB-P032", "{text}");

    // Another circuit's program.
    let copy = Copy::new();
    fs::copy(Artifacts::new(artefacts_dir()).wasm(Circuit::Insert), copy.artifacts.wasm(Circuit::Ticket))
        .expect("copied");
    let (code, text) = copy.refused();
    assert_eq!(code, "TRB-P033", "{text}");
}

#[test]
fn development_keys_are_deterministic_and_made_once() {
    let dir = TempDir::new().expect("a temporary folder");
    let artifacts = Artifacts::new(dir.path().join("circuits"));
    fs::create_dir(artifacts.dir()).expect("a folder");
    let from = Artifacts::new(artefacts_dir());
    for (from, to) in [
        (from.r1cs(Circuit::Ticket), artifacts.r1cs(Circuit::Ticket)),
        (from.wasm(Circuit::Ticket), artifacts.wasm(Circuit::Ticket)),
    ] {
        fs::copy(from, to).expect("copied");
    }
    let run = || {
        let mut outcomes = Vec::new();
        development_keys(&artifacts, &[Circuit::Ticket], |_, outcome| outcomes.push(outcome)).map(|()| outcomes)
    };
    assert_eq!(run().expect("made"), [Outcome::Made]);
    let made = KeyManifest::load(&artifacts.manifest()).expect("a manifest");
    assert!(made.notice.contains("INSECURE"));
    assert!(made.circuits["ticket"].development);
    assert_eq!(run().expect("kept"), [Outcome::Unchanged]);

    // The same again from nothing.
    let first = hash(&artifacts.zkey(Circuit::Ticket));
    assert_eq!(first, made.circuits["ticket"].zkey_sha256);
    fs::remove_file(artifacts.zkey(Circuit::Ticket)).expect("removed");
    assert_eq!(run().expect("made"), [Outcome::Made]);
    assert_eq!(hash(&artifacts.zkey(Circuit::Ticket)), first);

    // A key from a ceremony is never overwritten.
    let mut ceremony = made;
    ceremony.circuits.get_mut("ticket").expect("an entry").development = false;
    fs::write(artifacts.manifest(), serde_json::to_vec(&ceremony).expect("JSON")).expect("written");
    assert_eq!(run().expect("kept"), [Outcome::Unchanged]);
    fs::copy(from.r1cs(Circuit::Insert), artifacts.r1cs(Circuit::Ticket)).expect("copied");
    assert_eq!(run().expect_err("kept").code(), "TRB-P033");
    assert_eq!(hash(&artifacts.zkey(Circuit::Ticket)), first);
}
