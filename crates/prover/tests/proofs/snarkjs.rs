//! Against snarkjs: its verifier takes our proofs, ours takes its proofs, and it reads our keys.

use std::{path::PathBuf, process::Command};

use serde_json::{Value, json};
use tributary_protocol::witness::Witness;
use tributary_prover::{Artifacts, Circuit, Fr, Proof, Prover, VerifyError};

use super::{artefacts::Copy, artefacts_dir, honest, pool, prover};

/// Runs the script at the crate's root; it answers with JSON.
fn snarkjs(command: &str, arguments: &[&std::path::Path]) -> Value {
    let script = PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("snarkjs.mjs");
    let out = Command::new("node").arg(script).arg(command).args(arguments).output().expect("node runs");
    assert!(out.status.success(), "{}", String::from_utf8_lossy(&out.stderr));
    serde_json::from_slice(&out.stdout).expect("JSON")
}

fn ask(command: &str, jobs: &Value) -> Value {
    let file = tempfile::NamedTempFile::new().expect("a temporary file");
    std::fs::write(file.path(), jobs.to_string()).expect("written");
    snarkjs(command, &[file.path()])
}

fn decimal(publics: &[Fr]) -> Vec<String> {
    publics.iter().map(ToString::to_string).collect()
}

#[test]
fn our_proofs_verify_in_snarkjs() {
    let artefacts = Artifacts::new(artefacts_dir());
    let mut jobs = Vec::new();
    let mut expected = Vec::new();
    for (name, circuit, publics, inputs) in honest() {
        let proof = prover().prove(circuit, &inputs).unwrap_or_else(|e| panic!("{name}: {e}"));
        let job = |publics: &[Fr]| json!({ "vkey": artefacts.vkey(circuit), "publics": decimal(publics), "proof": proof.to_snarkjs() });
        jobs.push(job(&publics));
        expected.push(json!(true));
        let mut other = publics;
        other[0] += Fr::from(1u64);
        jobs.push(job(&other));
        expected.push(json!(false));
    }
    assert_eq!(ask("verify", &Value::Array(jobs)), Value::Array(expected));
}

#[test]
fn proofs_of_snarkjs_verify_in_ours() {
    let artefacts = Artifacts::new(artefacts_dir());
    let mut cases: Vec<_> = honest();
    // One of each circuit.
    cases.dedup_by_key(|(_, circuit, ..)| *circuit);
    assert_eq!(cases.len(), 5);
    let jobs: Vec<Value> = cases
        .iter()
        .map(|(_, circuit, _, inputs)| {
            json!({
                "inputs": inputs.to_json(),
                "wasm": artefacts.wasm(*circuit),
                "zkey": artefacts.zkey(*circuit),
            })
        })
        .collect();
    let answers = ask("prove", &Value::Array(jobs));
    for (i, (name, circuit, publics, _)) in cases.iter().enumerate() {
        let answer = &answers[i];
        assert_eq!(answer["publicSignals"], json!(decimal(publics)), "{name}");
        let proof = Proof::from_snarkjs(&answer["proof"]).unwrap_or_else(|e| panic!("{name}: {e}"));
        let key = prover().verifying_key(*circuit).expect("loaded");
        assert_eq!(key.verify(publics, &proof), Ok(()), "{name}");
        let parsed = Proof::from_bytes(&proof.to_bytes()).unwrap_or_else(|e| panic!("{name}: {e}"));
        assert_eq!(key.verify(publics, &parsed), Ok(()), "{name}");
    }
}

#[test]
fn snarkjs_reads_our_keys_and_sees_what_they_are() {
    let artefacts = Artifacts::new(artefacts_dir());
    let answer = snarkjs("key", &[&artefacts.zkey(Circuit::Ticket)]);
    assert_eq!(answer[0]["nPublic"], json!(13));
    assert_eq!(answer[0]["domainSize"], json!(16384));
    let development = prover().is_development(Circuit::Ticket).expect("loaded");
    assert_eq!(answer[1], json!(development), "a development key says so in its zkey, and in the manifest");
}

/// A ceremony goes on with snarkjs: what it contributes to proves here as it is, and proofs under the old key are worth nothing.
#[test]
fn a_key_that_snarkjs_contributed_to_proves_here() {
    let copy = Copy::new();
    let old = prover().verifying_key(Circuit::Ticket).expect("loaded");
    let (zkey, vkey) = (copy.artifacts.zkey(Circuit::Ticket), copy.artifacts.vkey(Circuit::Ticket));
    snarkjs("contribute", &[&Artifacts::new(artefacts_dir()).zkey(Circuit::Ticket), &zkey, &vkey]);
    copy.approve(false);
    let ours = Prover::load(copy.artifacts.dir(), &[Circuit::Ticket]).expect("a good key");
    assert!(!ours.is_development(Circuit::Ticket).expect("loaded"));
    let new = ours.verifying_key(Circuit::Ticket).expect("loaded");
    assert_ne!(new.hash(), old.hash());
    let prepared = pool().ticket(3, 1).prepare().expect("an honest ticket");
    let proof = ours.prove(Circuit::Ticket, &prepared.inputs).expect("an honest ticket");
    assert_eq!(new.verify(&prepared.public_inputs, &proof), Ok(()));
    assert_eq!(old.verify(&prepared.public_inputs, &proof), Err(VerifyError::Invalid));
    let before = prover().prove(Circuit::Ticket, &prepared.inputs).expect("an honest ticket");
    assert_eq!(new.verify(&prepared.public_inputs, &before), Err(VerifyError::Invalid));
}
