//! Every decoder of bytes that come from a chain or from other users, for the test of mutated bytes and the fuzz targets in `fuzz/`.
//!
//! Encryption is taken out of the way: what is fed are the plaintexts, sealed to a key of the test, since nothing else gets that far.

use std::sync::LazyLock;

use alloy_primitives::Address;
use chacha20poly1305::aead::{Aead as _, KeyInit as _};
use chacha20poly1305::{XChaCha20Poly1305, XNonce};
use tributary_protocol::memo::EphemeralSecret;
use tributary_protocol::note::Blinding;
use tributary_protocol::{
    AccountKeys, Amount, FieldElement as _, Fr, Mnemonic, Note, PayerMemo, PayerMemoBytes, PayerTag, PaymentAddress,
    PoolId, PoolScope, Rate, Rho, SealedMemo, StreamNote, StreamTerms, UnixTime, ValueNote,
};

/// One decoder: its name, its reading of bytes (whether they were understood), and bytes that it understands.
pub type Decoder = (&'static str, fn(&[u8]) -> bool, fn() -> Vec<Vec<u8>>);

/// All of them.
pub const DECODERS: &[Decoder] = &[
    ("protocol_sealed_memo", sealed_memo, sealed_memos),
    ("protocol_payer_memo", payer_memo, payer_memos),
    ("protocol_address", address, addresses),
];

static KEYS: LazyLock<AccountKeys> = LazyLock::new(|| {
    let phrase = "abandon abandon abandon abandon abandon abandon abandon abandon abandon abandon abandon about";
    let pool = PoolId { chain_id: 31_337, address: Address::repeat_byte(1) };
    Mnemonic::parse(phrase).unwrap().seed("").account(PoolScope { pool, account: 0 }).unwrap()
});

fn word(data: &[u8], at: usize) -> Option<Fr> {
    Fr::try_from_be_bytes(data.get(at..at + 32)?.try_into().unwrap()).ok()
}

/// A memo to this account whose plaintext is zero: adding to its words sets the plaintext.
static BLANK: LazyLock<SealedMemo> = LazyLock::new(|| {
    let esk = EphemeralSecret::try_new(Fr::from(12_345_u64).into()).unwrap();
    let note = ValueNote { amount: Amount::ZERO, owner: KEYS.owner(), rho: Rho::new(Fr::from(0_u8)) };
    SealedMemo::seal(&Note::Value(note), &KEYS.address().view(), 0, &esk)
});

/// A sealed memo: three words of plaintext to a note, whose commitment is what the memo would have to recompute to.
pub fn sealed_memo(data: &[u8]) -> bool {
    let (Some(terms), Some(rho), Some(tag)) = (word(data, 0), word(data, 32), word(data, 64)) else { return false };
    let mut memo = *BLANK;
    for (word, plain) in memo.words.iter_mut().zip([terms, rho, tag]) {
        *word += plain;
    }
    let zero = tributary_protocol::Commitment::new(Fr::from(0_u8));
    // Well-formed content fails at the commitment only, which no content meets.
    let well_formed = match memo.open(&KEYS.view, KEYS.owner(), 0, zero) {
        Ok(_) => unreachable!("no note has the commitment 0"),
        Err(error) => matches!(error, tributary_protocol::MemoError::CommitmentMismatch),
    };
    // The same bytes as a memo on chain: any point, any words.
    if let (Some(x), Some(y)) = (word(data, 96), word(data, 128)) {
        let memo = SealedMemo { ephemeral_x: x, ephemeral_y: y, words: [terms, rho, tag] };
        assert!(memo.open(&KEYS.view, KEYS.owner(), 1, zero).is_err());
    }
    well_formed
}

fn terms() -> StreamTerms {
    let [start, end] = [1_700_000_040, 1_700_003_640].map(|seconds| UnixTime::new(seconds).unwrap());
    StreamTerms::new(KEYS.owner(), Rate::new(10).unwrap(), start, end).unwrap()
}

fn sealed_memos() -> Vec<Vec<u8>> {
    let esk = EphemeralSecret::try_new(Fr::from(12_345_u64).into()).unwrap();
    let rho = Rho::new(Fr::from(77_u8));
    let notes = [
        Note::Value(ValueNote { amount: Amount::new(5_000_000).unwrap(), owner: KEYS.owner(), rho }),
        Note::Stream(StreamNote { terms: terms(), payer_tag: PayerTag::new(Fr::from(8_u8)), rho }),
    ];
    notes
        .iter()
        .map(|note| {
            let sealed = SealedMemo::seal(note, &KEYS.address().view(), 0, &esk);
            let plain = sealed.words.iter().zip(&BLANK.words).map(|(sealed, blank)| *sealed - blank);
            let point = [sealed.ephemeral_x, sealed.ephemeral_y];
            plain.chain(point).flat_map(|word| word.to_be_bytes()).collect()
        })
        .collect()
}

/// A payer's memo: 88 bytes of plaintext; other lengths as the whole memo.
pub fn payer_memo(data: &[u8]) -> bool {
    let nonce = [7; 24];
    let sealed = XChaCha20Poly1305::new(KEYS.memo.expose().into()).encrypt(XNonce::from_slice(&nonce), data);
    let bytes = [&nonce[..], &sealed.unwrap()].concat();
    let Ok(memo) = PayerMemoBytes::from_slice(&bytes) else {
        if let Ok(memo) = PayerMemoBytes::from_slice(data) {
            let _ = memo.decrypt(&KEYS.memo);
        }
        return false;
    };
    let Ok(read) = memo.decrypt(&KEYS.memo) else { return false };
    let again = read.encrypt(&KEYS.memo, &mut rand::thread_rng()).decrypt(&KEYS.memo);
    assert_eq!(again.unwrap(), read);
    true
}

fn payer_memos() -> Vec<Vec<u8>> {
    let memo = PayerMemo { terms: terms(), blinding: Blinding::new(Fr::from(9_u8)) };
    let sealed = memo.encrypt(&KEYS.memo, &mut rand::thread_rng());
    let (nonce, sealed) = sealed.as_bytes().split_at(24);
    let plain = XChaCha20Poly1305::new(KEYS.memo.expose().into()).decrypt(XNonce::from_slice(nonce), sealed);
    vec![plain.unwrap()]
}

/// A payment address, as bytes and as text.
pub fn address(data: &[u8]) -> bool {
    let mut read = false;
    if let Ok(address) = PaymentAddress::from_bytes(data) {
        assert_eq!(address.to_bytes(), data);
        assert_eq!(address.to_string().parse::<PaymentAddress>().unwrap(), address);
        read = true;
    }
    if let Ok(text) = std::str::from_utf8(data)
        && let Ok(address) = text.parse::<PaymentAddress>()
    {
        assert!(address.to_string().eq_ignore_ascii_case(text), "an address has one text");
        read = true;
    }
    read
}

fn addresses() -> Vec<Vec<u8>> {
    let address = KEYS.address();
    vec![address.to_bytes().to_vec(), address.to_string().into_bytes(), address.to_string().to_uppercase().into_bytes()]
}
