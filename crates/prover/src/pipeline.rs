//! From a witness to a proof: Groth16 with snarkjs' quotient (A B - C on the odd points of the doubled domain).

use ark_bn254::{Fr, G1Projective, G2Projective, g1, g2};
use ark_ec::CurveGroup;
use ark_ff::UniformRand;
use rand::{CryptoRng, RngCore};
use rayon::prelude::*;
use zeroize::{Zeroize, Zeroizing};

use crate::{
    Proof,
    key::ProvingKey,
    msm::{Scalar, msm},
    ntt::CosetShift,
};

/// A proving key with what else every proof needs.
#[derive(Debug)]
pub(crate) struct Pipeline {
    pub(crate) key: ProvingKey,
    shift: CosetShift,
}

impl Pipeline {
    pub(crate) fn new(key: ProvingKey) -> Self {
        let shift = CosetShift::new(key.domain);
        Self { key, shift }
    }

    /// The proof for a witness that satisfies the constraints; for one that doesn't, a proof that doesn't verify.
    pub(crate) fn prove(&self, witness: &[Fr], rng: &mut (impl RngCore + CryptoRng)) -> Proof {
        let key = &self.key;
        assert_eq!(witness.len(), key.wires);
        let (r, s) = (Fr::rand(rng), Fr::rand(rng));
        // Wiped when dropped, as everything that the witness follows from.
        let scalars: Zeroizing<Vec<Scalar>> = Zeroizing::new(witness.par_iter().map(|w| Scalar::from(*w)).collect());
        let scalars = &scalars;
        // Listed so that the longest come first.
        let ((b_2, (a, b_1)), (h, l)) = rayon::join(
            || {
                rayon::join(
                    || msm::<g2::Config>(&key.b_2.points, &key.b_2.wires, scalars),
                    || {
                        rayon::join(
                            || msm::<g1::Config>(&key.a.points, &key.a.wires, scalars),
                            || msm::<g1::Config>(&key.b_1.points, &key.b_1.wires, scalars),
                        )
                    },
                )
            },
            || {
                rayon::join(
                    || {
                        let h = self.quotient(witness);
                        msm::<g1::Config>(&key.h.points, &key.h.wires, &h)
                    },
                    || msm::<g1::Config>(&key.l.points, &key.l.wires, scalars),
                )
            },
        );
        let a: G1Projective = a + key.alpha_1 + key.delta_1 * r;
        let b_1: G1Projective = b_1 + key.beta_1 + key.delta_1 * s;
        let b: G2Projective = b_2 + key.beta_2 + key.delta_2 * s;
        let c: G1Projective = l + h + a * s + b_1 * r - key.delta_1 * (r * s);
        let g1 = G1Projective::normalize_batch(&[a, c]);
        Proof { a: g1[0], b: b.into_affine(), c: g1[1] }
    }

    /// A B - C on the odd points of the doubled domain.
    fn quotient(&self, witness: &[Fr]) -> Zeroizing<Vec<Scalar>> {
        let key = &self.key;
        let rows = |matrix: &crate::r1cs::Matrix| -> Vec<Fr> {
            (0..key.domain).into_par_iter().with_min_len(256).map(|i| matrix.dot(i, witness)).collect()
        };
        let (mut a, mut b) = rayon::join(|| rows(&key.a_matrix), || rows(&key.b_matrix));
        // On the domain itself C is the product: that is what the constraints say.
        let mut c: Vec<Fr> = a.par_iter().zip(&b).map(|(a, b)| *a * b).collect();
        rayon::join(
            || self.shift.apply(&mut a),
            || rayon::join(|| self.shift.apply(&mut b), || self.shift.apply(&mut c)),
        );
        let h = a.par_iter().zip(&b).zip(&c).map(|((a, b), c)| Scalar::from(*a * b - c)).collect();
        for values in [&mut a, &mut b, &mut c] {
            values.zeroize();
        }
        Zeroizing::new(h)
    }
}
