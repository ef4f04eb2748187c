use std::{fmt, fs, path::Path};

use ark_bn254::{Bn254, Fq, Fq2, Fr, G1Affine, G1Projective, G2Affine};
use ark_ec::{
    AffineRepr, CurveGroup, VariableBaseMSM,
    pairing::{MillerLoopOutput, Pairing, PairingOutput},
};
use ark_ff::{AdditiveGroup, Field, PrimeField, Zero};
use rand::{RngCore, SeedableRng, rngs::StdRng};
use rayon::prelude::*;
use serde_json::Value;
use sha3::{Digest, Keccak256};

use crate::{
    ArtifactError, Error, KeyError, Proof, VerifyError,
    proof::{field_bytes, field_from_decimal, g1_json, g2_json},
};

type G2Prepared = <Bn254 as Pairing>::G2Prepared;

/// A Groth16 verifying key over BN254, checked: every point is in its group and not the identity, and delta is neither gamma
/// nor the generator of G2.
#[derive(Clone)]
pub struct VerifyingKey {
    alpha: G1Affine,
    beta: G2Affine,
    gamma: G2Affine,
    delta: G2Affine,
    ic: Vec<G1Affine>,
    prepared: Box<Prepared>,
}

#[derive(Clone)]
struct Prepared {
    /// e(alpha, beta).
    alpha_beta: PairingOutput<Bn254>,
    beta: G2Prepared,
    gamma: G2Prepared,
    delta: G2Prepared,
}

impl fmt::Debug for VerifyingKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("VerifyingKey")
            .field("public_inputs", &self.public_inputs())
            .field("hash", &crate::proof::hex(&self.hash()))
            .finish_non_exhaustive()
    }
}

impl PartialEq for VerifyingKey {
    fn eq(&self, other: &Self) -> bool {
        self.alpha == other.alpha
            && self.beta == other.beta
            && self.gamma == other.gamma
            && self.delta == other.delta
            && self.ic == other.ic
    }
}

impl Eq for VerifyingKey {}

impl VerifyingKey {
    /// Reads snarkjs' JSON form from a file.
    ///
    /// # Errors
    /// When the file can't be read, isn't such a key, or the key is refused (see [`KeyError`]).
    pub fn load(path: impl AsRef<Path>) -> Result<Self, Error> {
        let path = path.as_ref();
        let text = fs::read(path).map_err(|source| ArtifactError::Io { path: path.to_owned(), source })?;
        let key = |source| ArtifactError::Key { path: path.to_owned(), source };
        let json = serde_json::from_slice(&text).map_err(|e| key(KeyError::Format { reason: e.to_string() }))?;
        Ok(Self::from_snarkjs(&json).map_err(key)?)
    }

    /// Parses snarkjs' JSON form.
    ///
    /// # Errors
    /// See [`KeyError`]; keys that accept forged proofs are refused here.
    pub fn from_snarkjs(json: &Value) -> Result<Self, KeyError> {
        let format = |reason: &str| KeyError::Format { reason: reason.to_owned() };
        if json["protocol"] != "groth16" || json["curve"] != "bn128" {
            return Err(format("protocol must be groth16 and curve bn128"));
        }
        let ic = json["IC"].as_array().ok_or_else(|| format("no IC"))?;
        let ic = ic.iter().enumerate().map(|(i, p)| parse_g1(p, &format!("IC[{i}]"))).collect::<Result<Vec<_>, _>>()?;
        if json["nPublic"].as_u64() != ic.len().checked_sub(1).map(|n| n as u64) {
            return Err(format("nPublic is not one less than the length of IC"));
        }
        Self::new(
            parse_g1(&json["vk_alpha_1"], "vk_alpha_1")?,
            parse_g2(&json["vk_beta_2"], "vk_beta_2")?,
            parse_g2(&json["vk_gamma_2"], "vk_gamma_2")?,
            parse_g2(&json["vk_delta_2"], "vk_delta_2")?,
            ic,
        )
    }

    /// A key from its points.
    ///
    /// # Errors
    /// See [`KeyError`].
    pub fn new(
        alpha: G1Affine,
        beta: G2Affine,
        gamma: G2Affine,
        delta: G2Affine,
        ic: Vec<G1Affine>,
    ) -> Result<Self, KeyError> {
        let bad = |point: String| Err(KeyError::BadPoint { point });
        if !good_g1(&alpha) {
            return bad("vk_alpha_1".into());
        }
        for (name, p) in [("vk_beta_2", &beta), ("vk_gamma_2", &gamma), ("vk_delta_2", &delta)] {
            if !good_g2(p) {
                return bad(name.into());
            }
        }
        if ic.is_empty() {
            return Err(KeyError::Format { reason: "IC is empty".into() });
        }
        // An IC point may be the identity only if its input takes part in no constraint, and then nothing binds that input.
        if let Some(i) = ic.iter().position(|p| !good_g1(p)) {
            return bad(format!("IC[{i}]"));
        }
        if delta == gamma {
            return Err(KeyError::DeltaIsGamma);
        }
        if delta == G2Affine::generator() {
            return Err(KeyError::DeltaIsGenerator);
        }
        let prepared = Box::new(Prepared {
            alpha_beta: Bn254::pairing(alpha, beta),
            beta: beta.into(),
            gamma: gamma.into(),
            delta: delta.into(),
        });
        Ok(Self { alpha, beta, gamma, delta, ic, prepared })
    }

    /// The key in snarkjs' JSON form.
    #[must_use]
    pub fn to_snarkjs(&self) -> Value {
        serde_json::json!({
            "protocol": "groth16",
            "curve": "bn128",
            "nPublic": self.public_inputs(),
            "vk_alpha_1": g1_json(&self.alpha),
            "vk_beta_2": g2_json(&self.beta),
            "vk_gamma_2": g2_json(&self.gamma),
            "vk_delta_2": g2_json(&self.delta),
            "IC": self.ic.iter().map(g1_json).collect::<Vec<_>>(),
        })
    }

    /// How many public inputs a proof has.
    #[must_use]
    pub fn public_inputs(&self) -> usize {
        self.ic.len() - 1
    }

    /// The verifying-key hash: keccak256 of alpha, beta, gamma, delta, IC_0.. as on the wire (encodings, "Artefacts").
    #[must_use]
    pub fn hash(&self) -> [u8; 32] {
        let mut h = Keccak256::new();
        let g1 = |h: &mut Keccak256, p: &G1Affine| {
            h.update(field_bytes(p.x));
            h.update(field_bytes(p.y));
        };
        g1(&mut h, &self.alpha);
        for p in [&self.beta, &self.gamma, &self.delta] {
            for word in [p.x.c1, p.x.c0, p.y.c1, p.y.c0] {
                h.update(field_bytes(word));
            }
        }
        for p in &self.ic {
            g1(&mut h, p);
        }
        h.finalize().into()
    }

    /// The forged proof A = alpha, B = beta, C = -vk_x that a key with delta = gamma accepts for any public inputs.
    /// For tests of deployed verifiers: every one must refuse it.
    ///
    /// # Errors
    /// When the number of public inputs is not the key's.
    pub fn forge_for_equal_delta_gamma(&self, publics: &[Fr]) -> Result<Proof, VerifyError> {
        let c = -self.vk_x(publics)?.into_affine();
        Ok(Proof { a: self.alpha, b: self.beta, c })
    }

    /// Checks one proof.
    ///
    /// # Errors
    /// [`VerifyError::Invalid`] when it doesn't verify, [`VerifyError::PublicInputs`] when their number is wrong.
    pub fn verify(&self, publics: &[Fr], proof: &Proof) -> Result<(), VerifyError> {
        let vk_x = self.vk_x(publics)?;
        let g1 = G1Projective::normalize_batch(&[-vk_x, -proof.c.into_group()]);
        let f = Bn254::multi_miller_loop(
            [proof.a, g1[0], g1[1]],
            [proof.b.into(), self.prepared.gamma.clone(), self.prepared.delta.clone()],
        );
        match Bn254::final_exponentiation(f) {
            Some(e) if e == self.prepared.alpha_beta => Ok(()),
            _ => Err(VerifyError::Invalid),
        }
    }

    /// Checks many proofs at once: a random linear combination with independent 128-bit coefficients from the system's
    /// generator, so a batch with a bad proof passes with probability at most 2^-128. An empty batch is valid.
    ///
    /// # Errors
    /// [`VerifyError::InvalidBatch`] when at least one proof is bad; [`Self::find_invalid`] tells which.
    ///
    /// # Panics
    /// When the operating system gives no randomness.
    pub fn verify_batch<P: AsRef<[Fr]> + Sync>(&self, items: &[(P, Proof)]) -> Result<(), VerifyError> {
        for (publics, _) in items {
            self.check_count(publics.as_ref())?;
        }
        match items {
            [] => Ok(()),
            [(publics, proof)] => {
                self.verify(publics.as_ref(), proof).map_err(|_| VerifyError::InvalidBatch { size: 1 })
            }
            _ => self.verify_combined(items),
        }
    }

    /// The positions of the proofs that don't verify, in rising order: halves a bad batch until single proofs remain.
    /// Costs about `2 b log2(n / b)` batch checks for `b` bad proofs.
    #[must_use]
    pub fn find_invalid<P: AsRef<[Fr]> + Sync>(&self, items: &[(P, Proof)]) -> Vec<usize> {
        let mut bad = Vec::new();
        let mut stack: Vec<_> = std::iter::once(0..items.len()).collect();
        while let Some(range) = stack.pop() {
            let part = &items[range.clone()];
            if let [(publics, proof)] = part {
                if self.verify(publics.as_ref(), proof).is_err() {
                    bad.push(range.start);
                }
            } else if self.verify_batch(part).is_err() {
                let middle = range.start + range.len() / 2;
                stack.push(middle..range.end);
                stack.push(range.start..middle);
            }
        }
        bad
    }

    fn verify_combined<P: AsRef<[Fr]> + Sync>(&self, items: &[(P, Proof)]) -> Result<(), VerifyError> {
        // The generator behind StdRng is a CSPRNG (ChaCha12); each call has a fresh seed, so no prover can know the
        // coefficients in advance.
        let mut rng = StdRng::from_entropy();
        let coefficients: Vec<[u64; 2]> = items
            .iter()
            .map(|_| {
                loop {
                    let r = [rng.next_u64(), rng.next_u64()];
                    if r != [0, 0] {
                        break r;
                    }
                }
            })
            .collect();

        let as_field: Vec<Fr> =
            coefficients.iter().map(|[lo, hi]| Fr::from(u128::from(*hi) << 64 | u128::from(*lo))).collect();
        let mut weights = vec![Fr::ZERO; self.ic.len()];
        for ((publics, _), r) in items.iter().zip(&as_field) {
            weights[0] += r;
            for (w, x) in weights[1..].iter_mut().zip(publics.as_ref()) {
                *w += *r * x;
            }
        }

        let chunk = items.len().div_ceil(rayon::current_num_threads()).clamp(1, 16);
        let (loops, (vk_x, c)) = rayon::join(
            || {
                items
                    .par_chunks(chunk)
                    .zip(coefficients.par_chunks(chunk))
                    .map(|(items, coefficients)| {
                        let a: Vec<G1Projective> =
                            items.iter().zip(coefficients).map(|((_, proof), r)| proof.a.mul_bigint(r)).collect();
                        let a = G1Projective::normalize_batch(&a);
                        Bn254::multi_miller_loop(a, items.iter().map(|(_, proof)| proof.b)).0
                    })
                    .reduce(|| <Bn254 as Pairing>::TargetField::ONE, |x, y| x * y)
            },
            || {
                let c: Vec<G1Affine> = items.iter().map(|(_, proof)| proof.c).collect();
                let c_scalars: Vec<_> = as_field.iter().map(|r| r.into_bigint()).collect();
                let w: Vec<_> = weights.iter().map(|w| w.into_bigint()).collect();
                (G1Projective::msm_bigint(&self.ic, &w), G1Projective::msm_bigint(&c, &c_scalars))
            },
        );
        let alpha = self.alpha * weights[0];
        let g1 = G1Projective::normalize_batch(&[-alpha, -vk_x, -c]);
        let rest = Bn254::multi_miller_loop(
            g1,
            [self.prepared.beta.clone(), self.prepared.gamma.clone(), self.prepared.delta.clone()],
        );
        match Bn254::final_exponentiation(MillerLoopOutput(loops * rest.0)) {
            Some(e) if e.is_zero() => Ok(()),
            _ => Err(VerifyError::InvalidBatch { size: items.len() }),
        }
    }

    fn check_count(&self, publics: &[Fr]) -> Result<(), VerifyError> {
        if publics.len() == self.public_inputs() {
            Ok(())
        } else {
            Err(VerifyError::PublicInputs { got: publics.len(), expected: self.public_inputs() })
        }
    }

    fn vk_x(&self, publics: &[Fr]) -> Result<G1Projective, VerifyError> {
        self.check_count(publics)?;
        let scalars: Vec<_> = publics.iter().map(|x| x.into_bigint()).collect();
        Ok(self.ic[0] + G1Projective::msm_bigint(&self.ic[1..], &scalars))
    }
}

fn good_g1(p: &G1Affine) -> bool {
    !p.is_zero() && p.is_on_curve()
}

fn good_g2(p: &G2Affine) -> bool {
    !p.is_zero() && p.is_on_curve() && p.is_in_correct_subgroup_assuming_on_curve()
}

fn parse_field(v: &Value, point: &str) -> Result<Fq, KeyError> {
    field_from_decimal(v).ok_or_else(|| KeyError::Format {
        reason: format!("a coordinate of {point} is not a decimal string below the field modulus"),
    })
}

fn parse_g1(v: &Value, point: &str) -> Result<G1Affine, KeyError> {
    if v[2] != "1" {
        return Err(KeyError::BadPoint { point: point.into() });
    }
    Ok(G1Affine::new_unchecked(parse_field(&v[0], point)?, parse_field(&v[1], point)?))
}

fn parse_g2(v: &Value, point: &str) -> Result<G2Affine, KeyError> {
    if v[2][0] != "1" || v[2][1] != "0" {
        return Err(KeyError::BadPoint { point: point.into() });
    }
    let pair = |v: &Value| Ok(Fq2::new(parse_field(&v[0], point)?, parse_field(&v[1], point)?));
    Ok(G2Affine::new_unchecked(pair(&v[0])?, pair(&v[1])?))
}
