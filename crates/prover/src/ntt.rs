//! Number-theoretic transforms over BN254's scalar field, with their twiddles computed once per circuit.

use ark_bn254::Fr;
use ark_ff::{Field, One};

use crate::setup::root_of_unity;

/// Moves evaluations on a domain of `n` points to evaluations on its coset by the root of order `2 n`.
#[derive(Debug)]
pub(crate) struct CosetShift {
    n: usize,
    /// Powers 0..n/2 of the root of order n, and of its inverse.
    forward: Vec<Fr>,
    inverse: Vec<Fr>,
    /// `g^i / n`, in bit-reversed order: the order of coefficients between the two transforms.
    shift: Vec<Fr>,
}

impl CosetShift {
    pub(crate) fn new(n: usize) -> Self {
        let powers = |root: Fr, count: usize| {
            let mut w = Fr::one();
            let mut out = Vec::with_capacity(count);
            for _ in 0..count {
                out.push(w);
                w *= root;
            }
            out
        };
        let root = root_of_unity(n);
        let one = Fr::one();
        let natural = powers(root_of_unity(2 * n), n);
        let scale = one / Fr::from(n as u64);
        let bits = n.trailing_zeros();
        let shift = (0..n)
            .map(|i| natural[if bits == 0 { 0 } else { i.reverse_bits() >> (usize::BITS - bits) }] * scale)
            .collect();
        Self { n, forward: powers(root, n / 2), inverse: powers(root.inverse().unwrap_or(one), n / 2), shift }
    }

    /// `values[i] = f(w^i)` becomes `f(g w^i)`, w the root of order n and g that of order 2n.
    pub(crate) fn apply(&self, values: &mut [Fr]) {
        assert_eq!(values.len(), self.n);
        // Decimation in frequency leaves the coefficients in bit-reversed order, decimation in time takes them so.
        let mut half = self.n / 2;
        while half > 0 {
            let stride = self.n / (2 * half);
            for block in values.chunks_exact_mut(2 * half) {
                let (low, high) = block.split_at_mut(half);
                for ((x, y), w) in low.iter_mut().zip(high).zip(self.inverse.iter().step_by(stride)) {
                    let (sum, difference) = (*x + *y, *x - *y);
                    *x = sum;
                    *y = difference * w;
                }
            }
            half /= 2;
        }
        for (x, s) in values.iter_mut().zip(&self.shift) {
            *x *= s;
        }
        let mut half = 1;
        while half < self.n {
            let stride = self.n / (2 * half);
            for block in values.chunks_exact_mut(2 * half) {
                let (low, high) = block.split_at_mut(half);
                for ((x, y), w) in low.iter_mut().zip(high).zip(self.forward.iter().step_by(stride)) {
                    let t = *y * w;
                    *y = *x - t;
                    *x += t;
                }
            }
            half *= 2;
        }
    }
}

#[cfg(test)]
mod tests {
    use ark_ff::UniformRand;

    use super::*;

    #[test]
    fn moves_a_polynomial_to_the_coset() {
        let mut rng = ark_std::test_rng();
        for n in [1usize, 2, 8, 64] {
            let coefficients: Vec<Fr> = (0..n).map(|_| Fr::rand(&mut rng)).collect();
            let at = |x: Fr| coefficients.iter().rev().fold(Fr::from(0u64), |acc, c| acc * x + c);
            let (w, g) = (root_of_unity(n), root_of_unity(2 * n));
            let mut values: Vec<Fr> = (0..n).map(|i| at(w.pow([i as u64]))).collect();
            CosetShift::new(n).apply(&mut values);
            for (i, v) in values.iter().enumerate() {
                assert_eq!(*v, at(g * w.pow([i as u64])), "point {i} of {n}");
            }
        }
    }
}
