//! Fields and points as raw little-endian Montgomery limbs, the form in which zkeys hold them.

use ark_bn254::{Fq, Fq2, Fr, G1Affine, G2Affine};
use ark_ec::AffineRepr;
use ark_ff::{BigInt, MontConfig, PrimeField};

pub(crate) const G1_LEN: usize = 64;
pub(crate) const G2_LEN: usize = 128;

pub(crate) fn limbs(bytes: &[u8]) -> BigInt<4> {
    let mut out = [0u64; 4];
    for (limb, chunk) in out.iter_mut().zip(bytes.chunks_exact(8)) {
        *limb = chunk.iter().rev().fold(0, |acc, b| acc << 8 | u64::from(*b));
    }
    BigInt::new(out)
}

pub(crate) fn limb_bytes(limbs: &BigInt<4>) -> [u8; 32] {
    let mut out = [0; 32];
    for (chunk, limb) in out.chunks_exact_mut(8).zip(limbs.0) {
        chunk.copy_from_slice(&limb.to_le_bytes());
    }
    out
}

/// Montgomery limbs below the modulus; `None` for anything else.
fn read_fq(bytes: &[u8]) -> Option<Fq> {
    let l = limbs(bytes);
    (l < ark_bn254::FqConfig::MODULUS).then(|| Fq::new_unchecked(l))
}

/// A field element whose limbs were multiplied by R twice, as snarkjs keeps constraint coefficients.
pub(crate) fn read_fr_double_montgomery(bytes: &[u8]) -> Option<Fr> {
    let l = limbs(bytes);
    (l < Fr::MODULUS).then(|| Fr::new_unchecked(Fr::new_unchecked(l).into_bigint()))
}

pub(crate) fn write_fr_double_montgomery(x: Fr) -> [u8; 32] {
    // The limbs of x are x R; taken as an integer and converted once more they are x R^2.
    Fr::from_bigint(x.0).map_or([0; 32], |y| limb_bytes(&y.0))
}

/// A field element as a plain little-endian integer.
pub(crate) fn read_fr_plain(bytes: &[u8]) -> Option<Fr> {
    Fr::from_bigint(limbs(bytes))
}

pub(crate) fn read_g1(bytes: &[u8]) -> Option<G1Affine> {
    let (x, y) = bytes.split_at(32);
    let (x, y) = (read_fq(x)?, read_fq(y)?);
    let zero = Fq::from(0u64);
    if x == zero && y == zero {
        return Some(G1Affine::identity());
    }
    let p = G1Affine::new_unchecked(x, y);
    p.is_on_curve().then_some(p)
}

pub(crate) fn read_g2(bytes: &[u8]) -> Option<G2Affine> {
    let mut c = [Fq::from(0u64); 4];
    for (c, chunk) in c.iter_mut().zip(bytes.chunks_exact(32)) {
        *c = read_fq(chunk)?;
    }
    if c.iter().all(|c| *c == Fq::from(0u64)) {
        return Some(G2Affine::identity());
    }
    let p = G2Affine::new_unchecked(Fq2::new(c[0], c[1]), Fq2::new(c[2], c[3]));
    p.is_on_curve().then_some(p)
}

pub(crate) fn write_g1(p: &G1Affine, out: &mut Vec<u8>) {
    if p.is_zero() {
        out.extend_from_slice(&[0; G1_LEN]);
    } else {
        out.extend_from_slice(&limb_bytes(&p.x.0));
        out.extend_from_slice(&limb_bytes(&p.y.0));
    }
}

pub(crate) fn write_g2(p: &G2Affine, out: &mut Vec<u8>) {
    if p.is_zero() {
        out.extend_from_slice(&[0; G2_LEN]);
    } else {
        for c in [p.x.c0, p.x.c1, p.y.c0, p.y.c1] {
            out.extend_from_slice(&limb_bytes(&c.0));
        }
    }
}
