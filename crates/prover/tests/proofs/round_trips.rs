use ark_ff::Zero;
use rand::{Rng, SeedableRng, rngs::StdRng};
use tributary_prover::{Fr, Proof, VerifyError};

use super::{honest, pool, prover, ticket_proof};

#[test]
fn every_circuit_proves_and_verifies() {
    for (name, circuit, publics, inputs) in honest() {
        let proof = prover().prove(circuit, &inputs).unwrap_or_else(|e| panic!("{name}: {e}"));
        let key = prover().verifying_key(circuit).expect("loaded");
        assert_eq!(key.public_inputs(), publics.len(), "{name}");
        assert_eq!(key.verify(&publics, &proof), Ok(()), "{name}");
        let parsed = Proof::from_bytes(&proof.to_bytes()).unwrap_or_else(|e| panic!("{name}: {e}"));
        assert_eq!(parsed, proof, "{name}");
    }
}

#[test]
fn every_flipped_public_input_is_refused() {
    for (name, circuit, publics, inputs) in honest() {
        if !["open", "close", "claim of one", "insert from the middle", "ticket", "rating"].contains(&name) {
            continue;
        }
        let proof = prover().prove(circuit, &inputs).unwrap_or_else(|e| panic!("{name}: {e}"));
        let key = prover().verifying_key(circuit).expect("loaded");
        for i in 0..publics.len() {
            let mut other = publics.clone();
            other[i] += Fr::from(1u64);
            assert_eq!(key.verify(&other, &proof), Err(VerifyError::Invalid), "{name}, public input {i}");
        }
    }
}

/// What the witness program computes satisfies the constraint system, and its public wires are the statement's.
#[test]
fn witnesses_satisfy_their_constraints() {
    for (name, circuit, publics, inputs) in honest() {
        let witness = prover().witness(circuit, &inputs).unwrap_or_else(|e| panic!("{name}: {e}"));
        assert_eq!(witness[1..=publics.len()], publics, "{name}");
        let path = super::artefacts_dir().join(format!("{circuit}.r1cs"));
        assert_eq!(tributary_prover::check_witness(&path, &witness).expect("an r1cs file"), None, "{name}");
        let mut spoilt = witness.clone();
        let last = spoilt.len() - 1;
        spoilt[last] += Fr::from(1u64);
        assert!(tributary_prover::check_witness(&path, &spoilt).expect("an r1cs file").is_some(), "{name}");
    }
}

#[test]
fn proofs_are_blinded_unless_the_generator_is_fixed() {
    use tributary_protocol::witness::Witness;
    let prepared = pool().ticket(1, 0).prepare().expect("an honest ticket");
    let prove = |seed| {
        let mut rng = StdRng::from_seed([seed; 32]);
        prover().prove_with(prepared.circuit, &prepared.inputs, &mut rng).expect("an honest ticket")
    };
    assert_eq!(prove(1).to_bytes(), prove(1).to_bytes());
    assert_ne!(prove(1).to_bytes(), prove(2).to_bytes());
    let (first, second) = (ticket_proof(1, 0), ticket_proof(1, 0));
    assert_eq!(first.0, second.0);
    assert_ne!(first.1, second.1);
}

#[test]
fn several_threads_prove_at_once() {
    use tributary_protocol::witness::Witness;
    let prepared = pool().ticket(2, 3).prepare().expect("an honest ticket");
    let key = prover().verifying_key(prepared.circuit).expect("loaded");
    std::thread::scope(|scope| {
        for _ in 0..3 {
            scope.spawn(|| {
                let proof = prover().prove(prepared.circuit, &prepared.inputs).expect("an honest ticket");
                assert_eq!(key.verify(&prepared.public_inputs, &proof), Ok(()));
            });
        }
    });
}

#[test]
fn random_public_inputs_are_refused() {
    let (publics, proof) = ticket_proof(1, 0);
    let key = prover().verifying_key(tributary_prover::Circuit::Ticket).expect("loaded");
    let mut rng = StdRng::from_seed([9; 32]);
    for _ in 0..20 {
        let other: Vec<Fr> = publics.iter().map(|_| Fr::from(rng.r#gen::<u128>())).collect();
        assert_eq!(key.verify(&other, &proof), Err(VerifyError::Invalid));
    }
    assert_eq!(key.verify(&vec![Fr::zero(); publics.len()], &proof), Err(VerifyError::Invalid));
    for count in [publics.len() - 1, publics.len() + 1] {
        let mut other = publics.clone();
        other.resize(count, Fr::zero());
        let expected = VerifyError::PublicInputs { got: count, expected: publics.len() };
        assert_eq!(key.verify(&other, &proof), Err(expected));
    }
}
