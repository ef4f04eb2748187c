//! Multi-scalar multiplication over fixed bases.
//!
//! Pippenger's method with signed digits. In each window the points are sorted by bucket and summed up pairwise, round by
//! round, in affine coordinates: all additions of a round share their inversions, which makes an addition cost about six field
//! multiplications. A bucket that gets many points, as that of the digit 1 does in a witness full of bits, needs no special care,
//! and zero digits cost nothing.

use ark_bn254::Fr;
use ark_ec::{
    AffineRepr,
    short_weierstrass::{Affine, Projective, SWCurveConfig},
};
use ark_ff::{AdditiveGroup, BigInt, BigInteger, Field, PrimeField, Zero};
use rayon::prelude::*;
use zeroize::Zeroize;

/// An affine point; `(0, 0)`, which is on no curve here, stands for the identity.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Point<F> {
    x: F,
    y: F,
}

impl<F: Field> Point<F> {
    const IDENTITY: Self = Self { x: F::ZERO, y: F::ZERO };

    fn is_identity(&self) -> bool {
        // No point of the curve has y = 0: its order is odd.
        self.y.is_zero()
    }

    fn to_affine<P: SWCurveConfig<BaseField = F>>(self) -> Affine<P> {
        if self.is_identity() { Affine::identity() } else { Affine::new_unchecked(self.x, self.y) }
    }
}

impl<P: SWCurveConfig> From<Affine<P>> for Point<P::BaseField> {
    fn from(p: Affine<P>) -> Self {
        p.xy().map_or(Self::IDENTITY, |(x, y)| Self { x, y })
    }
}

/// A scalar as sign and magnitude, the magnitude at most (r - 1) / 2: small negative numbers stay small.
#[derive(Clone, Copy, Zeroize)]
pub(crate) struct Scalar {
    magnitude: BigInt<4>,
    negative: bool,
}

impl From<Fr> for Scalar {
    fn from(x: Fr) -> Self {
        let magnitude = x.into_bigint();
        if magnitude > Fr::MODULUS_MINUS_ONE_DIV_TWO {
            let mut rest = Fr::MODULUS;
            rest.sub_with_borrow(&magnitude);
            Self { magnitude: rest, negative: true }
        } else {
            Self { magnitude, negative: false }
        }
    }
}

/// Bits of the largest magnitude.
const MAGNITUDE_BITS: usize = 253;

impl Scalar {
    fn bits(&self, from: usize, width: usize) -> u64 {
        let (limb, shift) = (from / 64, from % 64);
        let limbs = &self.magnitude.0;
        if limb >= 4 {
            return 0;
        }
        let mut out = limbs[limb] >> shift;
        if shift + width > 64 && limb < 3 {
            out |= limbs[limb + 1] << (64 - shift);
        }
        out & ((1 << width) - 1)
    }

    /// Digit `window` in base `2^c`, in `-2^(c-1)..=2^(c-1)`, but for the last window, which lends nothing to a next one. A
    /// window in its upper half borrows from the next, and which windows do can be read off the scalar, so that no carry runs
    /// through them.
    fn digit(&self, window: usize, c: usize, last: bool) -> i64 {
        let raw = self.bits(window * c, c) as i64;
        let carry = if window == 0 { 0 } else { self.bits(window * c - 1, 1) as i64 };
        let borrow = if last { 0 } else { (raw >> (c - 1)) << c };
        let digit = raw + carry - borrow;
        if self.negative { -digit } else { digit }
    }
}

/// Pairs whose inversions are computed together: large enough to make the inversion cheap, small enough for the cache.
const BATCH: usize = 512;

/// The window width that takes the least work for `n` points, in field multiplications: about 7 an addition, 14 a bucket.
fn window_width(n: usize) -> usize {
    (4..=16).min_by_key(|c| MAGNITUDE_BITS.div_ceil(*c) * (7 * n + 14 * (1 << (c - 1)))).unwrap_or(4)
}

/// The sum of `scalars[wires[i]] * points[i]`.
pub(crate) fn msm<P>(points: &[Point<P::BaseField>], wires: &[u32], scalars: &[Scalar]) -> Projective<P>
where
    P: SWCurveConfig,
{
    assert_eq!(points.len(), wires.len());
    let c = window_width(points.len());
    let windows = MAGNITUDE_BITS.div_ceil(c);
    let sums: Vec<Projective<P>> =
        (0..windows).into_par_iter().map(|w| window_sum(points, wires, scalars, w, c, w + 1 == windows)).collect();
    sums.into_iter().rev().fold(Projective::zero(), |mut acc, sum| {
        for _ in 0..c {
            acc.double_in_place();
        }
        acc + sum
    })
}

fn window_sum<P: SWCurveConfig>(
    points: &[Point<P::BaseField>],
    wires: &[u32],
    scalars: &[Scalar],
    window: usize,
    c: usize,
    last: bool,
) -> Projective<P> {
    let digits: Vec<i32> = wires.iter().map(|w| scalars[*w as usize].digit(window, c, last) as i32).collect();
    let largest = digits.iter().map(|d| d.unsigned_abs()).max().unwrap_or(0) as usize;
    if largest == 0 {
        return Projective::zero();
    }
    let mut groups = Groups::by_digit(points, &digits, largest);
    groups.sum_each();
    weighted_sum(&groups)
}

/// `sum of j * bucket_j`, buckets numbered from 1. They are laid out in rows and columns, j = width * row + column, so that
/// the many additions are sums of rows and of columns, and only one running sum over rows and one over columns remain.
fn weighted_sum<P: SWCurveConfig>(buckets: &Groups<P::BaseField>) -> Projective<P> {
    let count = buckets.lens.len();
    let width = (1usize << (count.ilog2() / 2 + 1)).max(2);
    let mut rows = Groups::with_groups(count / width + 1, count);
    let mut columns = Groups::with_groups(width, count);
    let all: Vec<_> = buckets.sums().collect();
    for (j, point) in (1..).zip(&all) {
        if !point.is_identity() {
            rows.lens[j / width] += 1;
            columns.lens[j % width] += 1;
        }
    }
    for row in 0..rows.lens.len() {
        for j in (row * width).max(1)..((row + 1) * width).min(count + 1) {
            if !all[j - 1].is_identity() {
                rows.points.push(all[j - 1]);
            }
        }
    }
    for column in 0..width {
        for j in (column..=count).step_by(width).filter(|j| *j > 0) {
            if !all[j - 1].is_identity() {
                columns.points.push(all[j - 1]);
            }
        }
    }
    rows.sum_each();
    columns.sum_each();
    let mut sum: Projective<P> = running_sum(&rows);
    for _ in 0..width.trailing_zeros() {
        sum.double_in_place();
    }
    sum + running_sum::<P>(&columns)
}

/// `sum of i * group_i`, groups numbered from 0.
fn running_sum<P: SWCurveConfig>(groups: &Groups<P::BaseField>) -> Projective<P> {
    let mut running = Projective::<P>::zero();
    let mut sum = Projective::<P>::zero();
    let sums: Vec<_> = groups.sums().collect();
    for point in sums[1..].iter().rev() {
        running += point.to_affine::<P>();
        sum += running;
    }
    sum
}

/// Groups of points, one after the other.
struct Groups<F> {
    points: Vec<Point<F>>,
    lens: Vec<u32>,
}

impl<F: Field> Groups<F> {
    fn with_groups(groups: usize, points: usize) -> Self {
        Self { points: Vec::with_capacity(points), lens: vec![0; groups] }
    }

    /// Group `j - 1` gets the points with digit j, and the negatives of those with digit -j.
    fn by_digit(points: &[Point<F>], digits: &[i32], largest: usize) -> Self {
        let mut lens = vec![0u32; largest];
        for d in digits.iter().filter(|d| **d != 0) {
            lens[d.unsigned_abs() as usize - 1] += 1;
        }
        let mut next = Vec::with_capacity(largest);
        let mut total = 0;
        for len in &lens {
            next.push(total);
            total += *len;
        }
        let mut sorted = vec![Point::IDENTITY; total as usize];
        for (point, d) in points.iter().zip(digits).filter(|(_, d)| **d != 0) {
            let slot = &mut next[d.unsigned_abs() as usize - 1];
            sorted[*slot as usize] = if *d < 0 { Point { x: point.x, y: -point.y } } else { *point };
            *slot += 1;
        }
        Self { points: sorted, lens }
    }

    /// Leaves in each group at most one point, the group's sum.
    fn sum_each(&mut self) {
        let mut batch = Batch::new();
        while self.lens.iter().any(|len| *len > 1) {
            let (mut read, mut write) = (0, 0);
            for len in &mut self.lens {
                let n = *len as usize;
                for pair in 0..n / 2 {
                    batch.push(&mut self.points, read + 2 * pair, write + pair);
                }
                if n % 2 == 1 {
                    // Sums still in the batch go to places before this one, and come from places that this one doesn't
                    // overwrite unless the batch has read them: it keeps copies.
                    self.points[write + n / 2] = self.points[read + n - 1];
                }
                read += n;
                write += n.div_ceil(2);
                *len = len.div_ceil(2);
            }
            batch.flush(&mut self.points);
            self.points.truncate(write);
        }
    }

    /// Each group's sum, when no group has more than one point.
    fn sums(&self) -> impl Iterator<Item = Point<F>> {
        let mut points = self.points.iter();
        self.lens.iter().map(move |len| match len {
            0 => Point::IDENTITY,
            _ => points.next().copied().unwrap_or(Point::IDENTITY),
        })
    }
}

/// Additions that share an inversion.
struct Batch<F> {
    pairs: Vec<Pending<F>>,
}

#[derive(Clone, Copy)]
struct Pending<F> {
    a: Point<F>,
    b: Point<F>,
    denominator: F,
    /// Product of the denominators before this one.
    before: F,
    to: u32,
}

impl<F: Field> Batch<F> {
    fn new() -> Self {
        Self { pairs: Vec::with_capacity(BATCH) }
    }

    /// Will put `points[from] + points[from + 1]` to `points[to]`.
    #[inline]
    fn push(&mut self, points: &mut [Point<F>], from: usize, to: usize) {
        let (a, b) = (points[from], points[from + 1]);
        let denominator = b.x - a.x;
        if denominator.is_zero() || a.is_identity() || b.is_identity() {
            points[to] = add_special(&a, &b);
            return;
        }
        let before = self.pairs.last().map_or(F::ONE, |last| last.before * last.denominator);
        self.pairs.push(Pending { a, b, denominator, before, to: to as u32 });
        if self.pairs.len() == BATCH {
            self.flush(points);
        }
    }

    fn flush(&mut self, points: &mut [Point<F>]) {
        let Some(last) = self.pairs.last() else {
            return;
        };
        // None of the factors is zero.
        let Some(mut inverse) = (last.before * last.denominator).inverse() else {
            unreachable!("a product of non-zero field elements is not zero")
        };
        for p in self.pairs.iter().rev() {
            let slope = (p.b.y - p.a.y) * (inverse * p.before);
            inverse *= p.denominator;
            let x = slope.square() - p.a.x - p.b.x;
            let y = slope * (p.a.x - x) - p.a.y;
            points[p.to as usize] = Point { x, y };
        }
        self.pairs.clear();
    }
}

/// Additions for which the chord's formula doesn't hold. Rare: two wires with equal points that meet in a bucket.
#[cold]
fn add_special<F: Field>(a: &Point<F>, b: &Point<F>) -> Point<F> {
    if a.is_identity() {
        return *b;
    }
    if b.is_identity() {
        return *a;
    }
    if a.y != b.y {
        return Point::IDENTITY;
    }
    // Tangent of y^2 = x^3 + b.
    let Some(inverse) = a.y.double().inverse() else {
        return Point::IDENTITY;
    };
    let square = a.x.square();
    let slope = (square.double() + square) * inverse;
    let x = slope.square() - a.x.double();
    Point { x, y: slope * (a.x - x) - a.y }
}

#[cfg(test)]
mod tests {
    use ark_bn254::{G1Affine, G1Projective, G2Projective, g1, g2};
    use ark_ec::{CurveGroup, VariableBaseMSM};
    use ark_ff::{One, UniformRand};
    use ark_std::rand::Rng;

    use super::*;

    fn check<P>(bases: &[Affine<P>], scalars: &[Fr])
    where
        P: SWCurveConfig<ScalarField = Fr>,
        Projective<P>: VariableBaseMSM<MulBase = Affine<P>, ScalarField = Fr>,
    {
        let expected = bases.iter().zip(scalars).fold(Projective::<P>::zero(), |acc, (p, s)| acc + *p * *s);
        let points: Vec<_> = bases.iter().map(|p| Point::from(*p)).collect();
        let wires: Vec<u32> = (0..bases.len() as u32).collect();
        let scalars: Vec<_> = scalars.iter().map(|s| Scalar::from(*s)).collect();
        assert_eq!(msm::<P>(&points, &wires, &scalars), expected);
    }

    fn edge_scalars() -> Vec<Fr> {
        let half = Fr::from_bigint(Fr::MODULUS_MINUS_ONE_DIV_TWO).unwrap();
        vec![
            Fr::zero(),
            Fr::one(),
            -Fr::one(),
            Fr::from(2u64),
            half,
            half + Fr::one(),
            half - Fr::one(),
            Fr::from(u64::MAX),
            -Fr::from(1u64 << 20),
            Fr::from(u128::MAX),
        ]
    }

    #[test]
    fn equals_the_sum_of_products() {
        let mut rng = ark_std::test_rng();
        for n in [0usize, 1, 2, 3, 17, 300, 1500] {
            let g1: Vec<_> = (0..n).map(|_| G1Projective::rand(&mut rng).into_affine()).collect();
            let edges = edge_scalars();
            let scalars: Vec<Fr> = (0..n)
                .map(|i| match i % 4 {
                    0 => edges[rng.gen_range(0..edges.len())],
                    1 => Fr::from(rng.r#gen::<bool>()),
                    _ => Fr::rand(&mut rng),
                })
                .collect();
            check::<g1::Config>(&g1, &scalars);
            let g2: Vec<_> = (0..n.min(300)).map(|_| G2Projective::rand(&mut rng).into_affine()).collect();
            check::<g2::Config>(&g2, &scalars[..g2.len()]);
        }
    }

    #[test]
    fn every_window_width_keeps_every_scalar() {
        let mut rng = ark_std::test_rng();
        let mut scalars = edge_scalars();
        scalars.extend((0..40).map(|_| Fr::rand(&mut rng)));
        for c in 4..=16 {
            let windows = MAGNITUDE_BITS.div_ceil(c);
            for s in &scalars {
                let scalar = Scalar::from(*s);
                let mut sum = Fr::zero();
                for w in (0..windows).rev() {
                    let d = scalar.digit(w, c, w + 1 == windows);
                    sum *= Fr::from(1u64 << c);
                    sum += if d < 0 { -Fr::from(d.unsigned_abs()) } else { Fr::from(d as u64) };
                }
                assert_eq!(sum, *s, "c = {c}");
            }
        }
    }

    /// Equal and opposite points under equal scalars meet in a bucket, where the chord's formula fails.
    #[test]
    fn equal_opposite_and_repeated_points() {
        let mut rng = ark_std::test_rng();
        let p = G1Projective::rand(&mut rng).into_affine();
        let q = G1Projective::rand(&mut rng).into_affine();
        let s = Fr::rand(&mut rng);
        check::<g1::Config>(&[p, p], &[s, s]);
        check::<g1::Config>(&[p, -p], &[s, s]);
        check::<g1::Config>(&[p, -p, q, q, p, -p, p], &[s; 7]);
        check::<g1::Config>(&vec![p; 1000], &vec![s; 1000]);
        check::<g1::Config>(&[G1Affine::identity(), p, G1Affine::identity()], &[s, s, s]);
        check::<g1::Config>(&vec![p; 700], &vec![Fr::one(); 700]);
    }
}
