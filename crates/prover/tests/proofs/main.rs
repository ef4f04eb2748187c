//! Real circuits, real keys, real witnesses. Needs the artefacts that `./script/setup` builds.

mod artefacts;
mod batches;
mod ceremony;
mod rejections;
mod round_trips;
mod snarkjs;

use std::{
    path::{Path, PathBuf},
    sync::OnceLock,
};

use tributary_protocol::{CircuitInputs, witness::Witness};
use tributary_prover::{Circuit, Fr, Proof, Prover, sample::SamplePool};

/// The repository's root.
fn root() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../..")
}

fn artefacts_dir() -> PathBuf {
    root().join("build/circuits")
}

/// One prover for all tests: keys are read once.
fn prover() -> &'static Prover {
    static PROVER: OnceLock<Prover> = OnceLock::new();
    PROVER.get_or_init(|| {
        Prover::load(artefacts_dir(), &Circuit::ALL)
            .unwrap_or_else(|e| panic!("{e} [{}]; ./script/setup builds the artefacts", e.code()))
    })
}

fn pool() -> &'static SamplePool {
    static POOL: OnceLock<SamplePool> = OnceLock::new();
    POOL.get_or_init(SamplePool::default)
}

/// An honest witness of every circuit: name, circuit, public inputs, inputs.
fn honest() -> Vec<(&'static str, Circuit, Vec<Fr>, CircuitInputs)> {
    fn case<W: Witness>(name: &'static str, witness: &W) -> (&'static str, Circuit, Vec<Fr>, CircuitInputs) {
        let prepared = witness.prepare().unwrap_or_else(|e| panic!("{name}: {e}"));
        (name, prepared.circuit, prepared.public_inputs, prepared.inputs)
    }
    let pool = pool();
    vec![
        case("deposit", &pool.deposit()),
        case("open", &pool.open(false)),
        case("open with fee", &pool.open(true)),
        case("withdraw", &pool.withdraw()),
        case("close", &pool.close(false)),
        case("close and reopen", &pool.close(true)),
        case("claim of 16", &pool.claim(16, false, false)),
        case("claim of one", &pool.claim(1, true, true)),
        case("insert 64", &pool.insert(256, 64)),
        case("insert from the middle", &pool.insert(286, 40)),
        case("ticket", &pool.ticket(1, 0)),
        case("four tickets", &pool.ticket(4, 7)),
        case("rating", &pool.rating()),
    ]
}

/// A ticket's public inputs and proof.
fn ticket_proof(count: u8, j: u32) -> (Vec<Fr>, Proof) {
    let prepared = pool().ticket(count, j).prepare().expect("an honest ticket");
    let proof = prover().prove(Circuit::Ticket, &prepared.inputs).expect("an honest ticket");
    (prepared.public_inputs, proof)
}
