use ark_bn254::{Fq, Fq2, G1Affine, G2Affine};
use ark_ec::AffineRepr;
use ark_ff::{BigInt, BigInteger, PrimeField};

use crate::ProofError;

/// A Groth16 proof: A and C in G1, B in G2, each on its curve, in its subgroup and not the identity.
///
/// Its form on the wire is 256 bytes, eight big-endian words in EIP-197 order (encodings, "Groth16 proofs on the wire").
/// A proof is no identity of what it proves: anyone can turn it into another valid one.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Proof {
    pub(crate) a: G1Affine,
    pub(crate) b: G2Affine,
    pub(crate) c: G1Affine,
}

impl Proof {
    /// Length of the encoding in bytes.
    pub const LEN: usize = 256;

    /// The encoding: A.x, A.y, B.x.c1, B.x.c0, B.y.c1, B.y.c0, C.x, C.y, 32 bytes each.
    #[must_use]
    pub fn to_bytes(&self) -> [u8; Self::LEN] {
        let mut out = [0; Self::LEN];
        let words = self.words();
        for (slot, word) in out.chunks_exact_mut(32).zip(words) {
            slot.copy_from_slice(&field_bytes(word));
        }
        out
    }

    /// Parses [`Self::to_bytes`]' form.
    ///
    /// # Errors
    /// Refuses another length, coordinates not below the modulus, points off their curve, outside the subgroup of
    /// prime order, or at infinity; each has its own code.
    pub fn from_bytes(bytes: &[u8]) -> Result<Self, ProofError> {
        if bytes.len() != Self::LEN {
            return Err(ProofError::Length { got: bytes.len() });
        }
        let mut words = [Fq::from(0u64); 8];
        for (i, (word, chunk)) in words.iter_mut().zip(bytes.chunks_exact(32)).enumerate() {
            *word =
                field_from_bytes(chunk).ok_or_else(|| ProofError::NonCanonical { coordinate: i, value: hex(chunk) })?;
        }
        Self::from_words(&words)
    }

    pub(crate) fn words(&self) -> [Fq; 8] {
        [self.a.x, self.a.y, self.b.x.c1, self.b.x.c0, self.b.y.c1, self.b.y.c0, self.c.x, self.c.y]
    }

    /// Builds a proof from coordinates in the order of the encoding, with every check but canonicity.
    pub(crate) fn from_words(w: &[Fq; 8]) -> Result<Self, ProofError> {
        Ok(Self {
            a: check_g1(w[0], w[1], 'A')?,
            b: check_g2(Fq2::new(w[3], w[2]), Fq2::new(w[5], w[4]))?,
            c: check_g1(w[6], w[7], 'C')?,
        })
    }

    /// Parses snarkjs' JSON form.
    ///
    /// # Errors
    /// As [`Self::from_bytes`]; what isn't a number below the modulus is [`ProofError::NonCanonical`].
    pub fn from_snarkjs(json: &serde_json::Value) -> Result<Self, ProofError> {
        let (a, b, c) = (&json["pi_a"], &json["pi_b"], &json["pi_c"]);
        let places = [&a[0], &a[1], &b[0][1], &b[0][0], &b[1][1], &b[1][0], &c[0], &c[1]];
        let mut words = [Fq::from(0u64); 8];
        for (i, (word, place)) in words.iter_mut().zip(places).enumerate() {
            *word = field_from_decimal(place)
                .ok_or_else(|| ProofError::NonCanonical { coordinate: i, value: place.to_string() })?;
        }
        Self::from_words(&words)
    }

    /// The proof in snarkjs' JSON form.
    #[must_use]
    pub fn to_snarkjs(&self) -> serde_json::Value {
        serde_json::json!({
            "pi_a": g1_json(&self.a),
            "pi_b": g2_json(&self.b),
            "pi_c": g1_json(&self.c),
            "protocol": "groth16",
            "curve": "bn128",
        })
    }
}

pub(crate) fn g1_json(p: &G1Affine) -> serde_json::Value {
    serde_json::json!([p.x.to_string(), p.y.to_string(), "1"])
}

pub(crate) fn g2_json(p: &G2Affine) -> serde_json::Value {
    serde_json::json!([[p.x.c0.to_string(), p.x.c1.to_string()], [p.y.c0.to_string(), p.y.c1.to_string()], ["1", "0"]])
}

fn check_g1(x: Fq, y: Fq, point: char) -> Result<G1Affine, ProofError> {
    // EIP-197 writes the identity as (0, 0), which is on neither curve.
    if x == Fq::from(0u64) && y == Fq::from(0u64) {
        return Err(ProofError::Infinity { point });
    }
    let p = G1Affine::new_unchecked(x, y);
    if !p.is_on_curve() {
        return Err(ProofError::OffCurve { point });
    }
    Ok(p)
}

fn check_g2(x: Fq2, y: Fq2) -> Result<G2Affine, ProofError> {
    let zero = Fq2::new(Fq::from(0u64), Fq::from(0u64));
    if x == zero && y == zero {
        return Err(ProofError::Infinity { point: 'B' });
    }
    let p = G2Affine::new_unchecked(x, y);
    if !p.is_on_curve() {
        return Err(ProofError::OffCurve { point: 'B' });
    }
    if !p.is_in_correct_subgroup_assuming_on_curve() {
        return Err(ProofError::WrongSubgroup { point: 'B' });
    }
    debug_assert!(!p.is_zero());
    Ok(p)
}

pub(crate) fn field_bytes(x: Fq) -> [u8; 32] {
    let mut out = [0; 32];
    out.copy_from_slice(&x.into_bigint().to_bytes_be());
    out
}

/// 32 big-endian bytes as an element of the base field; `None` when not below the modulus.
fn field_from_bytes(bytes: &[u8]) -> Option<Fq> {
    let mut limbs = [0u64; 4];
    for (limb, chunk) in limbs.iter_mut().rev().zip(bytes.chunks_exact(8)) {
        *limb = chunk.iter().fold(0, |acc, b| acc << 8 | u64::from(*b));
    }
    Fq::from_bigint(BigInt::new(limbs))
}

/// A decimal string as an element of the base field; `None` when it is none or not below the modulus.
pub(crate) fn field_from_decimal(v: &serde_json::Value) -> Option<Fq> {
    let digits = v.as_str()?;
    if digits.is_empty() || digits.len() > 77 || !digits.bytes().all(|b| b.is_ascii_digit()) {
        return None;
    }
    let n: num_bigint::BigUint = digits.parse().ok()?;
    Fq::from_bigint(BigInt::try_from(n).ok()?)
}

pub(crate) fn hex(bytes: &[u8]) -> String {
    use std::fmt::Write as _;
    bytes.iter().fold(String::with_capacity(2 * bytes.len()), |mut s, b| {
        let _ = write!(s, "{b:02x}");
        s
    })
}
