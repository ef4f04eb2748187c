//! Memos: the sealed memo of every note, which the circuit proves, and the payer's own memo (protocol section 3).

use alloy_primitives::U256;
use ark_ff::{BigInt, BigInteger, PrimeField, Zero};
use chacha20poly1305::{
    XChaCha20Poly1305, XNonce,
    aead::{Aead, KeyInit},
};
use rand::{CryptoRng, RngCore};
use serde::{Deserialize, Serialize};
use zeroize::{Zeroize, ZeroizeOnDrop, Zeroizing};

use crate::{
    amount::{Amount, Rate},
    babyjub::{Point, ViewingKey},
    error::{KeyError, MemoError},
    field::{FieldElement, Fr, fits, serde_hex},
    keys::{MemoKey, Owner, ViewSecret},
    note::{Blinding, Commitment, Note, Nullifier, PayerSecret, PayerTag, Rho, StreamNote, StreamTerms, ValueNote},
    poseidon::{Tag, hash},
    time::UnixTime,
};

/// Words of a sealed memo.
pub const SEALED_WORDS: usize = 3;

/// Bits of an ephemeral secret.
pub const ESK_BITS: u32 = 250;

/// Ephemeral secret `esk` of a sealed memo: 250 bits, never 0, fresh at each attempt.
#[derive(Clone, PartialEq, Eq, Zeroize, ZeroizeOnDrop)]
pub struct EphemeralSecret(BigInt<4>);

impl EphemeralSecret {
    /// Checks the range.
    ///
    /// # Errors
    /// [`KeyError::InvalidSecret`] when the value is 0 or has more than 250 bits.
    pub fn try_new(value: BigInt<4>) -> Result<Self, KeyError> {
        if value.is_zero() || value.num_bits() > ESK_BITS {
            return Err(KeyError::InvalidSecret { what: "ephemeral" });
        }
        Ok(Self(value))
    }

    /// A fresh one.
    #[must_use]
    pub fn random(rng: &mut (impl RngCore + CryptoRng)) -> Self {
        loop {
            let mut limbs = Zeroizing::new([0_u64; 4]);
            limbs.fill_with(|| rng.next_u64());
            limbs[3] >>= 256 - ESK_BITS;
            if let Ok(secret) = Self::try_new(BigInt::new(*limbs)) {
                return secret;
            }
        }
    }

    /// The secret as a field element, as the circuit takes it.
    #[must_use]
    pub fn to_fr(&self) -> Fr {
        Fr::from_bigint(self.0).expect("250 bits are below the order")
    }

    /// `E = esk * Base8`.
    #[must_use]
    pub fn public(&self) -> Point {
        Point::BASE8.mul_integer(self.0)
    }

    fn shared(&self, to: &ViewingKey) -> Point {
        to.point().mul_integer(self.0)
    }
}

impl std::fmt::Debug for EphemeralSecret {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("EphemeralSecret(redacted)")
    }
}

/// A sealed memo as it stands in a statement: the ephemeral key E and three ciphertext words.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct SealedMemo {
    /// E.x, not checked to be on the curve: a chain may carry anything.
    #[serde(with = "serde_hex")]
    pub ephemeral_x: Fr,
    /// E.y.
    #[serde(with = "serde_hex")]
    pub ephemeral_y: Fr,
    /// The ciphertext.
    #[serde(with = "words_hex")]
    pub words: [Fr; SEALED_WORDS],
}

mod words_hex {
    use serde::{Deserialize, Deserializer, Serialize, Serializer, de::Error};

    use crate::field::{FieldElement, Fr};

    pub(super) fn serialize<S: Serializer>(words: &[Fr; 3], serializer: S) -> Result<S::Ok, S::Error> {
        words.map(|word| word.to_hex()).serialize(serializer)
    }

    pub(super) fn deserialize<'de, D: Deserializer<'de>>(deserializer: D) -> Result<[Fr; 3], D::Error> {
        let texts = <[String; 3]>::deserialize(deserializer)?;
        let mut words = [Fr::from(0_u8); 3];
        for (word, text) in words.iter_mut().zip(&texts) {
            *word = Fr::try_from_text(text).map_err(D::Error::custom)?;
        }
        Ok(words)
    }
}

impl SealedMemo {
    /// Seals `note` as output `j` (0 or 1; a claim's output is 0) to its owner's or payee's viewing key.
    #[must_use]
    pub fn seal(note: &Note, to: &ViewingKey, j: u8, esk: &EphemeralSecret) -> Self {
        let ephemeral = esk.public();
        let stream = keystream(&esk.shared(to), j);
        let message = message_words(note);
        Self {
            ephemeral_x: ephemeral.x(),
            ephemeral_y: ephemeral.y(),
            words: std::array::from_fn(|i| message[i] + stream[i]),
        }
    }

    /// Opens the memo of output `j`, whose commitment is `commitment`, with the keys of `owner`.
    ///
    /// The note is accepted only if it recomputes to the commitment, so an opened note is the note on chain.
    ///
    /// # Errors
    /// [`MemoError`]. For a note of somebody else, that is what to expect.
    pub fn open(&self, view: &ViewSecret, owner: Owner, j: u8, commitment: Commitment) -> Result<Note, MemoError> {
        let ephemeral = Point::new(self.ephemeral_x, self.ephemeral_y).map_err(MemoError::Ephemeral)?;
        let stream = keystream(&view.shared(&ephemeral), j);
        let message = std::array::from_fn(|i| self.words[i] - stream[i]);
        let note = parse_message(&message, owner)?;
        if note.commitment() == commitment { Ok(note) } else { Err(MemoError::CommitmentMismatch) }
    }

    /// The five statement elements: `E.x, E.y, ct_0, ct_1, ct_2`.
    #[must_use]
    pub const fn elements(&self) -> [Fr; 5] {
        [self.ephemeral_x, self.ephemeral_y, self.words[0], self.words[1], self.words[2]]
    }
}

fn keystream(shared: &Point, j: u8) -> [Fr; SEALED_WORDS] {
    std::array::from_fn(|i| hash(Tag::Seal, &[shared.x(), shared.y(), Fr::from(3 * u64::from(j) + i as u64)]))
}

/// Word 0 is `2 * amount`, or `1 + 2 * rate + 2^97 * start + 2^137 * end`; word 1 rho; word 2 the payer tag or 0.
fn message_words(note: &Note) -> [Fr; SEALED_WORDS] {
    match note {
        Note::Value(note) => [(note.amount.to_fr() + note.amount.to_fr()), note.rho.to_fr(), Fr::zero()],
        Note::Stream(note) => {
            let terms = &note.terms;
            let word = U256::from(1_u8)
                | (terms.rate().to_u256() << 1)
                | (terms.start().to_u256() << 97)
                | (terms.end().to_u256() << 137);
            let word = Fr::try_from_u256(word).expect("177 bits are below the order");
            [word, note.rho.to_fr(), note.payer_tag.to_fr()]
        }
    }
}

fn parse_message(message: &[Fr; SEALED_WORDS], owner: Owner) -> Result<Note, MemoError> {
    let malformed = |word| MemoError::Malformed { word };
    let [terms, rho, payer_tag] = *message;
    let rho = Rho::new(rho);
    let word = terms.to_u256();
    if !word.bit(0) {
        if !payer_tag.is_zero() {
            return Err(malformed("word 2"));
        }
        let amount = Amount::try_from(word >> 1).map_err(|_| malformed("amount"))?;
        return Ok(Note::Value(ValueNote { amount, owner, rho }));
    }
    if !fits(&terms, 177) {
        return Err(malformed("end"));
    }
    let part = |from: usize, bits: usize| (word >> from) & ((U256::from(1_u8) << bits) - U256::from(1_u8));
    let rate = Rate::try_from(part(1, 96)).map_err(|_| malformed("rate"))?;
    let start = UnixTime::try_from(part(97, 40)).map_err(|_| malformed("start"))?;
    let end = UnixTime::try_from(part(137, 40)).map_err(|_| malformed("end"))?;
    let terms = StreamTerms::new(owner, rate, start, end).map_err(|_| malformed("terms"))?;
    Ok(Note::Stream(StreamNote { terms, payer_tag: PayerTag::new(payer_tag), rho }))
}

/// Bytes of a payer's memo on the wire.
pub const PAYER_MEMO_BYTES: usize = 128;
const NONCE_BYTES: usize = 24;
const PLAIN_BYTES: usize = 88;

/// What a payer needs besides the seed to find a stream again: its terms and the r of output 0.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct PayerMemo {
    /// The stream's terms.
    pub terms: StreamTerms,
    /// r_0 of the transaction that opened it.
    pub blinding: Blinding,
}

/// An encrypted payer's memo, or random bytes of the same length. Nobody without the memo key can tell which.
#[derive(Clone, Copy, PartialEq, Eq, Hash)]
pub struct PayerMemoBytes([u8; PAYER_MEMO_BYTES]);

impl PayerMemoBytes {
    /// Random filler for transactions that open no stream.
    #[must_use]
    pub fn filler(rng: &mut (impl RngCore + CryptoRng)) -> Self {
        let mut bytes = [0; PAYER_MEMO_BYTES];
        rng.fill_bytes(&mut bytes);
        Self(bytes)
    }

    /// Wraps bytes from the chain.
    ///
    /// # Errors
    /// [`MemoError::Length`].
    pub fn from_slice(bytes: &[u8]) -> Result<Self, MemoError> {
        bytes.try_into().map(Self).map_err(|_| MemoError::Length { found: bytes.len() })
    }

    /// The bytes.
    #[must_use]
    pub const fn as_bytes(&self) -> &[u8; PAYER_MEMO_BYTES] {
        &self.0
    }

    /// Decrypts with the account's memo key.
    ///
    /// # Errors
    /// [`MemoError::NotAuthentic`] for everybody else's memos, [`MemoError::PayerContent`] for content that is no
    /// stream.
    pub fn decrypt(&self, key: &MemoKey) -> Result<PayerMemo, MemoError> {
        let (nonce, sealed) = self.0.split_at(NONCE_BYTES);
        let plain = XChaCha20Poly1305::new(key.expose().into())
            .decrypt(XNonce::from_slice(nonce), sealed)
            .map(Zeroizing::new)
            .map_err(|_| MemoError::NotAuthentic)?;
        PayerMemo::from_plain(&plain)
    }
}

impl std::fmt::Debug for PayerMemoBytes {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "PayerMemoBytes(0x{})", hex::encode(self.0))
    }
}

impl PayerMemo {
    /// Encrypts under the account's memo key with a fresh nonce.
    #[must_use]
    pub fn encrypt(&self, key: &MemoKey, rng: &mut (impl RngCore + CryptoRng)) -> PayerMemoBytes {
        let mut nonce = [0; NONCE_BYTES];
        rng.fill_bytes(&mut nonce);
        let plain = self.to_plain();
        let sealed = XChaCha20Poly1305::new(key.expose().into())
            .encrypt(XNonce::from_slice(&nonce), plain.as_ref())
            .expect("88 bytes are within the cipher's limit");
        let mut bytes = [0; PAYER_MEMO_BYTES];
        bytes[..NONCE_BYTES].copy_from_slice(&nonce);
        bytes[NONCE_BYTES..].copy_from_slice(&sealed);
        PayerMemoBytes(bytes)
    }

    /// The stream note that this memo and the transaction's first nullifier describe; `None` unless it recomputes to
    /// `cm_0`.
    #[must_use]
    pub fn recover(&self, payer: &crate::keys::PayerKey, nf_0: Nullifier, cm_0: Commitment) -> Option<RecoveredStream> {
        let secret = PayerSecret::derive(payer, nf_0);
        let note =
            StreamNote { terms: self.terms, payer_tag: secret.tag(), rho: Rho::of_output(nf_0, 0, &self.blinding) };
        (note.commitment() == cm_0).then_some(RecoveredStream { note, secret })
    }

    fn to_plain(self) -> Zeroizing<[u8; PLAIN_BYTES]> {
        let mut plain = Zeroizing::new([0; PLAIN_BYTES]);
        plain[..32].copy_from_slice(&self.terms.payee().to_be_bytes());
        plain[32..44].copy_from_slice(&self.terms.rate().get().to_be_bytes()[4..]);
        plain[44..49].copy_from_slice(&self.terms.start().get().to_be_bytes()[3..]);
        plain[49..54].copy_from_slice(&self.terms.end().get().to_be_bytes()[3..]);
        plain[54..86].copy_from_slice(&self.blinding.to_be_bytes());
        plain
    }

    fn from_plain(plain: &[u8]) -> Result<Self, MemoError> {
        let plain: &[u8; PLAIN_BYTES] = plain.try_into().map_err(|_| MemoError::PayerContent("its length"))?;
        let word = |from: usize| -> [u8; 32] { plain[from..from + 32].try_into().expect("32 bytes") };
        let payee = Owner::try_from_be_bytes(&word(0)).map_err(|_| MemoError::PayerContent("the payee"))?;
        let blinding = Blinding::try_from_be_bytes(&word(54)).map_err(|_| MemoError::PayerContent("r_0"))?;
        let rate =
            Rate::try_from(U256::from_be_slice(&plain[32..44])).map_err(|_| MemoError::PayerContent("the rate"))?;
        let time = |from: usize| UnixTime::try_from(U256::from_be_slice(&plain[from..from + 5])).expect("40 bits");
        let terms =
            StreamTerms::new(payee, rate, time(44), time(49)).map_err(|_| MemoError::PayerContent("the terms"))?;
        if plain[86..] != [0, 0] {
            return Err(MemoError::PayerContent("its padding"));
        }
        Ok(Self { terms, blinding })
    }
}

/// A stream found again by its payer.
#[derive(Clone, Debug)]
pub struct RecoveredStream {
    /// The note.
    pub note: StreamNote,
    /// Its payer secret.
    pub secret: PayerSecret,
}
