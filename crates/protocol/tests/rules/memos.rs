use alloy_primitives::U256;
use tributary_protocol::{
    Commitment, ErrorCode, FieldElement, Fr, Note, Nullifier, PayerMemo, PayerMemoBytes, PayerSecret, PayerTag, Rho,
    SealedMemo, StreamNote, StreamTerms, ValueNote,
    error::MemoError,
    keys::MemoKey,
    memo::EphemeralSecret,
    note::Blinding,
    poseidon::{Tag, hash},
};

use crate::support::{T, amount, fr, keys, rate, rng, time};

fn value(owner: tributary_protocol::Owner) -> Note {
    Note::Value(ValueNote { amount: amount(42), owner, rho: Rho::new(fr("memos.rho")) })
}

fn stream(payee: tributary_protocol::Owner) -> Note {
    let terms = StreamTerms::new(payee, rate(10), time(T), time(T + 60)).unwrap();
    Note::Stream(StreamNote { terms, payer_tag: PayerTag::new(fr("memos.payer_tag")), rho: Rho::new(fr("memos.rho")) })
}

#[test]
fn only_the_owner_opens_and_only_the_very_note() {
    let (bob, carol) = (keys(1), keys(2));
    for note in [value(bob.owner()), stream(bob.owner())] {
        for j in [0, 1] {
            let esk = EphemeralSecret::random(&mut rng("memos.esk"));
            let memo = SealedMemo::seal(&note, &bob.view.public(), j, &esk);
            let cm = note.commitment();
            assert_eq!(memo.open(&bob.view, bob.owner(), j, cm), Ok(note));
            // Another key, another owner, another place, another commitment.
            let stranger = memo.open(&carol.view, carol.owner(), j, cm).unwrap_err();
            assert!(matches!(stranger, MemoError::Malformed { .. }), "{stranger}");
            assert_eq!(memo.open(&bob.view, carol.owner(), j, cm), Err(MemoError::CommitmentMismatch));
            assert!(matches!(memo.open(&bob.view, bob.owner(), 1 - j, cm), Err(MemoError::Malformed { .. })));
            let other = Commitment::new(fr("memos.cm"));
            assert_eq!(memo.open(&bob.view, bob.owner(), j, other), Err(MemoError::CommitmentMismatch));
            for i in 0..3 {
                let mut spoilt = memo;
                spoilt.words[i] += Fr::from(2_u8);
                assert!(spoilt.open(&bob.view, bob.owner(), j, cm).is_err(), "word {i}");
            }
            let mut off_curve = memo;
            off_curve.ephemeral_x += Fr::from(1_u8);
            let error = off_curve.open(&bob.view, bob.owner(), j, cm).unwrap_err();
            assert_eq!((error.code(), memo.elements().len()), ("TRB-1311", 5));
        }
    }
}

/// What a memo says is parsed strictly: one note has one message.
#[test]
fn words_out_of_range_are_malformed() {
    let bob = keys(1);
    let esk = EphemeralSecret::random(&mut rng("memos.strict"));
    let note = value(bob.owner());
    let cm = note.commitment();
    let sealed = SealedMemo::seal(&note, &bob.view.public(), 0, &esk);
    let shared = bob.view.public().point().mul_integer(ark_ff::PrimeField::into_bigint(esk.to_fr()));
    let with = |message: [Fr; 3]| SealedMemo {
        words: std::array::from_fn(|i| message[i] + hash(Tag::Seal, &[shared.x(), shared.y(), Fr::from(i as u64)])),
        ..sealed
    };
    let bits = |parts: &[(u8, usize)]| {
        let word = parts.iter().fold(U256::ZERO, |word, &(value, at)| word | (U256::from(value) << at));
        Fr::try_from_u256(word).unwrap()
    };
    let (rho, zero) = (fr("memos.rho"), Fr::from(0_u8));
    let open = |message| with(message).open(&bob.view, bob.owner(), 0, cm);
    assert_eq!(open([Fr::from(84_u8), rho, zero]), Ok(note));
    for (message, word) in [
        ([bits(&[(1, 121)]), rho, zero], "amount"),
        ([Fr::from(84_u8), rho, Fr::from(1_u8)], "word 2"),
        ([bits(&[(1, 0), (1, 137)]), rho, zero], "rate"),
        ([bits(&[(1, 0), (1, 1), (1, 177)]), rho, zero], "end"),
        ([bits(&[(1, 0), (1, 1), (5, 97), (5, 137)]), rho, zero], "terms"),
        ([bits(&[(1, 0), (1, 96), (1, 176)]), rho, zero], "terms"), // a deposit of 2^95 * 2^39
    ] {
        assert_eq!(open(message), Err(MemoError::Malformed { word }));
    }
    assert_eq!(MemoError::Malformed { word: "rate" }.code(), "TRB-1312");
}

fn payer_memo() -> PayerMemo {
    let terms = StreamTerms::new(keys(1).owner(), rate((1 << 96) - 1), time(T), time(T + 60)).unwrap();
    PayerMemo { terms, blinding: Blinding::new(-Fr::from(1_u8)) }
}

#[test]
fn a_payer_finds_its_stream_again() {
    let alice = keys(0);
    let memo = payer_memo();
    let nf_0 = Nullifier::new(fr("memos.nf_0"));
    let secret = PayerSecret::derive(&alice.payer, nf_0);
    let note = StreamNote { terms: memo.terms, payer_tag: secret.tag(), rho: Rho::of_output(nf_0, 0, &memo.blinding) };
    let bytes = memo.encrypt(&alice.memo, &mut rng("memos.nonce"));
    let found = bytes.decrypt(&alice.memo).unwrap();
    assert_eq!(found, memo);
    let recovered = found.recover(&alice.payer, nf_0, note.commitment()).unwrap();
    assert_eq!((recovered.note, recovered.secret), (note, secret));
    // A memo copied into another transaction, or beside another output, recovers nothing.
    assert!(found.recover(&alice.payer, Nullifier::new(fr("memos.nf_1")), note.commitment()).is_none());
    assert!(found.recover(&alice.payer, nf_0, Commitment::new(fr("memos.cm"))).is_none());
    assert!(found.recover(&keys(1).payer, nf_0, note.commitment()).is_none());
}

#[test]
fn garbage_is_not_authentic() {
    let alice = keys(0);
    let bytes = payer_memo().encrypt(&alice.memo, &mut rng("memos.nonce"));
    assert_eq!(bytes.decrypt(&keys(1).memo), Err(MemoError::NotAuthentic));
    for at in [0, 23, 24, 111, 112, 127] {
        let mut spoilt = *bytes.as_bytes();
        spoilt[at] ^= 1;
        assert_eq!(PayerMemoBytes::from_slice(&spoilt).unwrap().decrypt(&alice.memo), Err(MemoError::NotAuthentic));
    }
    let filler = PayerMemoBytes::filler(&mut rng("memos.filler"));
    assert_eq!(filler.decrypt(&alice.memo), Err(MemoError::NotAuthentic));
    for length in [0, 127, 129] {
        let error = PayerMemoBytes::from_slice(&vec![0; length]).unwrap_err();
        assert_eq!((error.clone(), error.code()), (MemoError::Length { found: length }, "TRB-1316"));
    }
}

/// Content under the right key that is no stream: a damaged writer must not crash the wallet that restores.
#[test]
fn authentic_content_that_is_no_stream_is_refused() {
    use chacha20poly1305::{
        XChaCha20Poly1305, XNonce,
        aead::{Aead, KeyInit},
    };
    let key = MemoKey::new([7; 32]);
    let nonce = [9; 24];
    let seal = |plain: &[u8]| {
        let sealed = XChaCha20Poly1305::new(key.expose().into()).encrypt(XNonce::from_slice(&nonce), plain).unwrap();
        PayerMemoBytes::from_slice(&[nonce.as_slice(), &sealed].concat()).unwrap()
    };
    let mut good = [0_u8; 88];
    good[31] = 1; // payee
    good[43] = 1; // rate
    good[53] = 9; // end
    assert!(seal(&good).decrypt(&key).is_ok());
    let with = |change: &dyn Fn(&mut [u8; 88])| {
        let mut plain = good;
        change(&mut plain);
        seal(&plain).decrypt(&key)
    };
    assert_eq!(with(&|p| p[..32].fill(0xff)), Err(MemoError::PayerContent("the payee")));
    assert_eq!(with(&|p| p[43] = 0), Err(MemoError::PayerContent("the rate")));
    assert_eq!(with(&|p| p[53] = 0), Err(MemoError::PayerContent("the terms")));
    assert_eq!(with(&|p| p[54..86].fill(0xff)), Err(MemoError::PayerContent("r_0")));
    assert_eq!(with(&|p| p[87] = 1), Err(MemoError::PayerContent("its padding")));
}
