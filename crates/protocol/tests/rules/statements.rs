use alloy_primitives::{Address, U256, keccak256};
use ark_ff::Field;
use tributary_protocol::{
    ExternalData, FieldElement, Fr, Operation, PayerMemoBytes, PoolId, Statement,
    poseidon::{Tag, sponge},
    statement::ExternalTerms,
    witness::Witness,
};

use crate::{
    support::{POOL, World, amount, fr, relayed, rng, scope, time},
    witnesses::{claim, close, insert, open},
};

fn check(statement: &impl Statement, tag: Tag) {
    let x = statement.elements();
    assert_eq!(x.len(), tag.arity());
    let digest = statement.digest();
    assert_eq!(digest, sponge(tag, &x));
    let alpha = statement.alpha();
    let n = x.len() as u64;
    let value: Fr = x.iter().zip(1..).map(|(x_i, i)| *x_i * alpha.pow([n - i])).sum();
    assert_eq!(statement.value(), value);
    assert_eq!(statement.public_inputs(), [digest, alpha, value]);
    let mut packed = U256::from(tag as u8).to_be_bytes_vec();
    for word in std::iter::once(&digest).chain(&x) {
        packed.extend(word.to_be_bytes());
    }
    assert_eq!(statement.binding_hash(), keccak256(packed));
}

#[test]
fn public_inputs_follow_from_the_elements() {
    let world = World::new();
    check(&open(&world).statement(), Tag::Transact);
    check(&close(&world).statement(), Tag::Close);
    check(&claim(&world).statement(), Tag::Claim);
    check(&insert(&world).statement(), Tag::Insert);
}

#[test]
fn every_element_changes_the_digest() {
    for tag in [Tag::Transact, Tag::Close, Tag::Claim, Tag::Insert] {
        let x: Vec<Fr> = (0..tag.arity()).map(|i| fr(&format!("statements.{i}"))).collect();
        let digest = sponge(tag, &x);
        for i in 0..x.len() {
            let mut other = x.clone();
            other[i] += Fr::from(1_u8);
            assert_ne!(sponge(tag, &other), digest, "{tag:?} element {i}");
        }
    }
    let same: Vec<Fr> = (0..18).map(Fr::from).collect();
    assert_ne!(sponge(Tag::Transact, &same), sponge(Tag::Close, &same));
}

#[test]
#[should_panic(expected = "arguments of Value")]
fn a_hash_takes_its_own_number_of_arguments() {
    let _ = tributary_protocol::poseidon::hash(Tag::Value, &[Fr::from(1_u8)]);
}

/// Everything that a relayer could change is in the hash: chain, pool, operation, and each field.
#[test]
fn external_data_binds_every_field() {
    let pool = scope(0).pool;
    let memo = PayerMemoBytes::filler(&mut rng("statements.memo"));
    let other_memo = PayerMemoBytes::filler(&mut rng("statements.other"));
    let terms = relayed(21);
    let base = ExternalData { terms, memo: Some(memo) };
    let with = |terms: ExternalTerms| ExternalData { terms, memo: Some(memo) }.hash(&pool, Operation::Transact);
    let mut hashes = vec![
        base.hash(&pool, Operation::Transact),
        base.hash(&pool, Operation::Close),
        base.hash(&pool, Operation::Claim),
        base.hash(&PoolId { chain_id: 1, ..pool }, Operation::Transact),
        base.hash(&PoolId { address: Address::ZERO, ..pool }, Operation::Transact),
        ExternalData { terms, memo: Some(other_memo) }.hash(&pool, Operation::Transact),
        ExternalData { terms, memo: None }.hash(&pool, Operation::Transact),
        with(ExternalTerms { recipient: POOL, ..terms }),
        with(ExternalTerms { relayer: POOL, ..terms }),
        with(ExternalTerms { recipient: terms.relayer, relayer: terms.recipient, ..terms }),
        with(ExternalTerms { fee: amount(22), ..terms }),
        with(ExternalTerms { deadline: time(1), ..terms }),
        with(ExternalTerms { may_drop_outputs: true, ..terms }),
    ];
    let count = hashes.len();
    hashes.sort();
    hashes.dedup();
    assert_eq!(hashes.len(), count);
}
