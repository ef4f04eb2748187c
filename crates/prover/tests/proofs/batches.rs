use tributary_prover::{Circuit, Fr, Proof, VerifyError, VerifyingKey};

use super::{prover, ticket_proof};

fn key() -> std::sync::Arc<VerifyingKey> {
    prover().verifying_key(Circuit::Ticket).expect("loaded")
}

/// Honest tickets, the same few again and again: what is checked is the batch, not the proving.
fn batch(n: usize) -> Vec<(Vec<Fr>, Proof)> {
    let few: Vec<_> = (0..3).map(|j| ticket_proof(1, j)).collect();
    (0..n).map(|i| few[i % few.len()].clone()).collect()
}

#[test]
fn honest_batches_of_any_size_pass() {
    let all = batch(67);
    for n in [0, 1, 2, 3, 16, 17, 64, 67] {
        assert_eq!(key().verify_batch(&all[..n]), Ok(()), "{n}");
        assert!(key().find_invalid(&all[..n]).is_empty(), "{n}");
    }
}

#[test]
fn one_bad_proof_is_refused_and_found_wherever_it_is() {
    for bad in [0, 1, 31, 62, 63] {
        let mut all = batch(64);
        all[bad].0[8] += Fr::from(1u64);
        assert_eq!(key().verify_batch(&all), Err(VerifyError::InvalidBatch { size: 64 }), "{bad}");
        assert_eq!(key().find_invalid(&all), [bad]);
    }
}

#[test]
fn all_bad_proofs_are_found() {
    let mut all = batch(20);
    for bad in [2, 3, 11, 19] {
        // Public inputs of one, proof of another.
        all[bad].1 = all[(bad + 1) % 3 + 4].1;
        if all[bad].0 == all[(bad + 1) % 3 + 4].0 {
            all[bad].0[0] += Fr::from(1u64);
        }
    }
    assert_eq!(key().find_invalid(&all), [2, 3, 11, 19]);
}

/// Errors that cancel in a plain sum don't in a random combination: two proofs' C moved by opposite amounts, and two swapped.
#[test]
fn errors_that_cancel_out_are_refused() {
    let mut all = batch(8);
    let (a, b) = (all[0].1, all[1].1);
    all[0].1 = b;
    all[1].1 = a;
    assert_eq!(key().verify_batch(&all), Err(VerifyError::InvalidBatch { size: 8 }));

    use ark_bn254::{Fq, G1Affine};
    use ark_ec::{AffineRepr, CurveGroup};
    use ark_ff::PrimeField;
    let mut all = batch(8);
    for (i, sign) in [(0, 1u64), (1, 0)] {
        let mut bytes = all[i].1.to_bytes();
        let word = |bytes: &[u8]| Fq::from_be_bytes_mod_order(bytes);
        let c = G1Affine::new(word(&bytes[192..224]), word(&bytes[224..]));
        let g = G1Affine::generator();
        let moved = if sign == 1 { c + g } else { c + -g }.into_affine();
        for (chunk, x) in bytes[192..].chunks_exact_mut(32).zip([moved.x, moved.y]) {
            chunk.copy_from_slice(&ark_ff::BigInteger::to_bytes_be(&x.into_bigint()));
        }
        all[i].1 = Proof::from_bytes(&bytes).expect("points of their groups");
    }
    assert_eq!(key().verify_batch(&all), Err(VerifyError::InvalidBatch { size: 8 }));
    assert_eq!(key().find_invalid(&all), [0, 1]);
}

#[test]
fn a_wrong_number_of_public_inputs_is_named() {
    let mut all = batch(3);
    all[1].0.pop();
    assert_eq!(key().verify_batch(&all), Err(VerifyError::PublicInputs { got: 12, expected: 13 }));
    assert_eq!(key().find_invalid(&all), [1]);
}
