use std::collections::BTreeMap;

use ark_bn254::{Fq, Fq2, Fr, G1Affine, G2Affine};
use ark_ec::{AffineRepr, CurveGroup, PrimeGroup};
use ark_ff::{BigInteger, PrimeField, UniformRand};
use rand::{SeedableRng, rngs::StdRng};
use tributary_protocol::witness::Witness;
use tributary_prover::{Circuit, Error, KeyError, Proof, ProofError, VerifyError, VerifyingKey, WitnessError};

use super::{pool, prover, ticket_proof};

fn set(bytes: &mut [u8; 256], word: usize, value: Fq) {
    bytes[32 * word..32 * (word + 1)].copy_from_slice(&value.into_bigint().to_bytes_be());
}

#[test]
fn malformed_proofs_are_refused_each_with_its_code() {
    let good = ticket_proof(1, 0).1.to_bytes();
    let refuse = |bytes: &[u8], expected: ProofError, code: &str| {
        assert_eq!(expected.code(), code);
        assert_eq!(Proof::from_bytes(bytes), Err(expected));
    };
    refuse(&good[..255], ProofError::Length { got: 255 }, "TRB-P001");
    refuse(&[&good[..], &[0]].concat(), ProofError::Length { got: 257 }, "TRB-P001");
    refuse(&[], ProofError::Length { got: 0 }, "TRB-P001");

    // The modulus added to a coordinate is the same point written otherwise.
    for word in 0..8 {
        let mut bytes = good;
        let mut value = Fq::from_be_bytes_mod_order(&bytes[32 * word..32 * (word + 1)]).into_bigint();
        assert!(!value.add_with_carry(&Fq::MODULUS), "fits 256 bits");
        bytes[32 * word..32 * (word + 1)].copy_from_slice(&value.to_bytes_be());
        let text = value.to_bytes_be().iter().map(|b| format!("{b:02x}")).collect();
        refuse(&bytes, ProofError::NonCanonical { coordinate: word, value: text }, "TRB-P002");
    }

    for (point, words) in [('A', 0..2), ('B', 2..6), ('C', 6..8)] {
        let mut bytes = good;
        for word in words.clone() {
            set(&mut bytes, word, Fq::from(0u64));
        }
        refuse(&bytes, ProofError::Infinity { point }, "TRB-P003");
        for word in words {
            let mut bytes = good;
            let value = Fq::from_be_bytes_mod_order(&bytes[32 * word..32 * (word + 1)]);
            set(&mut bytes, word, value + Fq::from(1u64));
            refuse(&bytes, ProofError::OffCurve { point }, "TRB-P004");
        }
    }

    // The twist has a large cofactor: a random point of it is outside the subgroup.
    let mut rng = StdRng::from_seed([3; 32]);
    let outside = loop {
        let x = Fq2::rand(&mut rng);
        if let Some(p) = G2Affine::get_point_from_x_unchecked(x, true)
            && !p.is_in_correct_subgroup_assuming_on_curve()
        {
            break p;
        }
    };
    let mut bytes = good;
    for (word, value) in (2..).zip([outside.x.c1, outside.x.c0, outside.y.c1, outside.y.c0]) {
        set(&mut bytes, word, value);
    }
    refuse(&bytes, ProofError::WrongSubgroup { point: 'B' }, "TRB-P005");
}

/// A proof can be turned into another valid one; so proofs are no identities, and the nullifier is.
#[test]
fn proofs_are_malleable_as_documented() {
    let (publics, proof) = ticket_proof(1, 0);
    let mut bytes = proof.to_bytes();
    // (-A, -B, C) satisfies the same equation.
    for word in [1, 4, 5] {
        let value = Fq::from_be_bytes_mod_order(&bytes[32 * word..32 * (word + 1)]);
        set(&mut bytes, word, -value);
    }
    let other = Proof::from_bytes(&bytes).expect("points of their groups");
    assert_ne!(other, proof);
    let key = prover().verifying_key(Circuit::Ticket).expect("loaded");
    assert_eq!(key.verify(&publics, &other), Ok(()));
}

#[test]
fn the_forged_proof_fails_against_every_key() {
    for circuit in Circuit::ALL {
        let key = prover().verifying_key(circuit).expect("loaded");
        let publics: Vec<Fr> = (1..=circuit.public_inputs() as u64).map(Fr::from).collect();
        let forged = key.forge_for_equal_delta_gamma(&publics).expect("the right number");
        let parsed = Proof::from_bytes(&forged.to_bytes()).expect("well formed");
        assert_eq!(key.verify(&publics, &parsed), Err(VerifyError::Invalid), "{circuit}");
    }
}

fn ticket_key_json() -> serde_json::Value {
    let text = std::fs::read(super::artefacts_dir().join("ticket.vkey.json")).expect("built");
    serde_json::from_slice(&text).expect("JSON")
}

#[test]
fn keys_without_contribution_are_refused() {
    let json = ticket_key_json();
    let mut equal = json.clone();
    equal["vk_delta_2"] = json["vk_gamma_2"].clone();
    assert_eq!(VerifyingKey::from_snarkjs(&equal).unwrap_err(), KeyError::DeltaIsGamma);
    assert_eq!(KeyError::DeltaIsGamma.code(), "TRB-P011");

    // gamma elsewhere, delta still the generator.
    let generator = json["vk_gamma_2"].clone();
    let mut uncontributed = json.clone();
    uncontributed["vk_gamma_2"] = json["vk_beta_2"].clone();
    uncontributed["vk_delta_2"] = generator;
    assert_eq!(VerifyingKey::from_snarkjs(&uncontributed).unwrap_err(), KeyError::DeltaIsGenerator);
}

#[test]
fn malformed_keys_are_refused() {
    let json = ticket_key_json();
    assert!(VerifyingKey::from_snarkjs(&json).is_ok());
    let refuse = |edit: &dyn Fn(&mut serde_json::Value), code: &str| {
        let mut other = json.clone();
        edit(&mut other);
        let error = VerifyingKey::from_snarkjs(&other).unwrap_err();
        assert_eq!(error.code(), code, "{error}");
    };
    let modulus = Fq::MODULUS.to_string();
    refuse(&|j| j["vk_alpha_1"][0] = "1".into(), "TRB-P013");
    refuse(&|j| j["vk_beta_2"][0][0] = "1".into(), "TRB-P013");
    refuse(&|j| j["IC"][3][1] = "5".into(), "TRB-P013");
    refuse(&|j| j["IC"][0][2] = "0".into(), "TRB-P013");
    refuse(&|j| j["vk_alpha_1"][0] = modulus.clone().into(), "TRB-P015");
    refuse(&|j| j["vk_alpha_1"][0] = "-1".into(), "TRB-P015");
    refuse(&|j| j["vk_alpha_1"][0] = "".into(), "TRB-P015");
    refuse(&|j| j["nPublic"] = 12.into(), "TRB-P015");
    refuse(&|j| j["curve"] = "bls12381".into(), "TRB-P015");
    refuse(&|j| j["protocol"] = "plonk".into(), "TRB-P015");
    refuse(&|j| j["IC"] = serde_json::json!([]), "TRB-P015");
    refuse(&|j| j["vk_delta_2"] = serde_json::Value::Null, "TRB-P013");
}

/// With delta = gamma the forged proof would verify: the refusal above is what stands in its way. Shown with the pairing alone.
#[test]
fn the_forgery_would_work_against_a_key_with_delta_equal_gamma() {
    use ark_bn254::{Bn254, G1Projective, G2Projective};
    use ark_ec::pairing::Pairing;
    let (alpha, beta, x) = (Fr::from(11u64), Fr::from(13u64), Fr::from(17u64));
    let (g1, g2) = (G1Projective::generator(), G2Projective::generator());
    let (a, b, vk_x, gamma) = (g1 * alpha, g2 * beta, g1 * x, g2);
    let left = Bn254::pairing(a, b);
    let right = Bn254::multi_pairing([a, vk_x, -vk_x], [b, gamma, gamma]);
    assert_eq!(left, right);
    let key = VerifyingKey::new(
        a.into_affine(),
        b.into_affine(),
        gamma.into_affine(),
        gamma.into_affine(),
        vec![vk_x.into_affine(); 4],
    );
    assert_eq!(key.unwrap_err(), KeyError::DeltaIsGamma);
}

#[test]
fn the_key_hash_is_that_of_the_points_as_on_the_wire() {
    use sha3::{Digest, Keccak256};
    let json = ticket_key_json();
    let word = |v: &serde_json::Value| {
        let n: Fq = v.as_str().expect("a string").parse().unwrap_or_else(|()| panic!("{v} is no field element"));
        n.into_bigint().to_bytes_be()
    };
    let mut h = Keccak256::new();
    let g1 = |h: &mut Keccak256, p: &serde_json::Value| {
        h.update(word(&p[0]));
        h.update(word(&p[1]));
    };
    g1(&mut h, &json["vk_alpha_1"]);
    for name in ["vk_beta_2", "vk_gamma_2", "vk_delta_2"] {
        for (i, j) in [(0, 1), (0, 0), (1, 1), (1, 0)] {
            h.update(word(&json[name][i][j]));
        }
    }
    for p in json["IC"].as_array().expect("IC") {
        g1(&mut h, p);
    }
    let expected: [u8; 32] = h.finalize().into();
    assert_eq!(prover().verifying_key(Circuit::Ticket).expect("loaded").hash(), expected);
    assert_eq!(VerifyingKey::from_snarkjs(&json).expect("a good key").to_snarkjs()["IC"], json["IC"]);
}

fn witness_error(circuit: Circuit, inputs: &tributary_protocol::CircuitInputs) -> WitnessError {
    match prover().prove(circuit, inputs) {
        Err(Error::Witness(e)) => e,
        other => panic!("{other:?}"),
    }
}

#[test]
fn inputs_that_do_not_satisfy_the_circuit_are_refused_where_they_fail() {
    let mut inputs = pool().ticket(1, 0).inputs_unchecked();
    inputs.get_mut("rate").expect("an input")[0] += Fr::from(1u64);
    let e = witness_error(Circuit::Ticket, &inputs);
    assert_eq!(e.code(), "TRB-P044");
    // Another rate is another note, which isn't in the tree.
    assert!(e.to_string().contains("template Ticket, line"), "{e}");

    let mut inputs = pool().open(false).inputs_unchecked();
    inputs.get_mut("outAmount").expect("an input")[1] = -Fr::from(1u64);
    let e = witness_error(Circuit::Transact, &inputs);
    assert_eq!(e.code(), "TRB-P044");
    assert!(e.to_string().contains("template Num2Bits"), "{e}");
}

#[test]
fn inputs_of_another_shape_are_refused_by_name() {
    let given: BTreeMap<String, Vec<Fr>> = pool()
        .ticket(1, 0)
        .inputs_unchecked()
        .iter()
        .map(|(name, values)| (name.to_owned(), values.to_vec()))
        .collect();
    let refused = |inputs: &BTreeMap<String, Vec<Fr>>| match prover().prove(Circuit::Ticket, inputs) {
        Err(Error::Witness(e)) => e,
        other => panic!("{other:?}"),
    };

    let mut inputs = given.clone();
    inputs.insert("bonus".into(), vec![Fr::from(1u64)]);
    let expected = WitnessError::UnknownInput { circuit: Circuit::Ticket, name: "bonus".into() };
    assert_eq!(refused(&inputs), expected);

    let mut inputs = given.clone();
    inputs.get_mut("path").expect("an input").pop();
    let expected = WitnessError::InputLength { circuit: Circuit::Ticket, name: "path".into(), got: 47, expected: 48 };
    assert_eq!(refused(&inputs), expected);

    let mut inputs = given.clone();
    inputs.remove("ps");
    assert!(matches!(
        refused(&inputs),
        WitnessError::MissingInputs { circuit: Circuit::Ticket, got, expected } if got + 1 == expected
    ));
}

#[test]
fn circuits_that_were_not_loaded_are_named() {
    let prover = tributary_prover::Prover::load(super::artefacts_dir(), &[Circuit::Ticket]).expect("built");
    let e = prover.prove(Circuit::Close, &pool().ticket(1, 0).inputs_unchecked()).unwrap_err();
    assert_eq!(e.code(), "TRB-P052");
    assert!(e.to_string().contains("close"), "{e}");
    let e = prover.verifying_key(Circuit::Transact).unwrap_err();
    assert_eq!(e.code(), "TRB-P052");
}

/// Points A and C outside the prime subgroup don't exist: G1 has cofactor one. So no check is missing for them.
#[test]
fn g1_has_no_points_outside_its_subgroup() {
    let mut rng = StdRng::from_seed([4; 32]);
    let mut seen = 0;
    while seen < 5 {
        if let Some(p) = G1Affine::get_point_from_x_unchecked(Fq::rand(&mut rng), true) {
            assert!(p.mul_bigint(Fr::MODULUS).into_affine().is_zero());
            seen += 1;
        }
    }
}
