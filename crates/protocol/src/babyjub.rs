//! BabyJubjub as in EIP-2494 and circomlib: twisted Edwards `a x^2 + y^2 = 1 + d x^2 y^2` over the BN254 scalar field.
//!
//! Viewing keys live here: a note is sealed to a point V, and only who knows v with `V = v * Base8` opens it.

use ark_ec::{
    AffineRepr, CurveConfig, CurveGroup,
    twisted_edwards::{Affine, MontCurveConfig, TECurveConfig},
};
use ark_ff::{BigInt, Field, Fp256, MontBackend, MontFp, PrimeField, Zero};
use serde::{Deserialize, Deserializer, Serialize, Serializer};

use crate::{
    error::PointError,
    field::{FieldElement, Fr},
};

mod scalar {
    #![allow(unexpected_cfgs, reason = "the derive asks for a feature of the crate it comes from")]

    /// Montgomery parameters of the prime subgroup's order l.
    #[derive(Debug, ark_ff::MontConfig)]
    #[modulus = "2736030358979909402780800718157159386076813972158567259200215660948447373041"]
    #[generator = "31"]
    pub struct ScalarConfig;
}
pub use scalar::ScalarConfig;

/// Scalars modulo the prime subgroup's order
/// l = 2736030358979909402780800718157159386076813972158567259200215660948447373041.
pub type Scalar = Fp256<MontBackend<ScalarConfig, 4>>;

/// The curve's parameters for `ark-ec`.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct BabyJubjub;

impl CurveConfig for BabyJubjub {
    type BaseField = Fr;
    type ScalarField = Scalar;

    const COFACTOR: &'static [u64] = &[8];
    const COFACTOR_INV: Scalar =
        MontFp!("2394026564107420727433200628387514462817212225638746351800188703329891451411");
}

impl TECurveConfig for BabyJubjub {
    const COEFF_A: Fr = MontFp!("168700");
    const COEFF_D: Fr = MontFp!("168696");
    const GENERATOR: Affine<Self> = Affine::new_unchecked(
        MontFp!("5299619240641551281634865583518297030282874472190772894086521144482721001553"),
        MontFp!("16950150798460657717958625567821834550301663161624707787222815936182638968203"),
    );

    type MontCurveConfig = Self;
}

impl MontCurveConfig for BabyJubjub {
    const COEFF_A: Fr = MontFp!("168698");
    const COEFF_B: Fr = Fr::ONE;

    type TECurveConfig = Self;
}

/// A point of the curve. It may lie outside the prime subgroup; [`ViewingKey`] may not.
///
/// Serialised as its two coordinates, x first.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Point(Affine<BabyJubjub>);

impl Point {
    /// The generator `Base8` of the prime subgroup.
    pub const BASE8: Self = Self(BabyJubjub::GENERATOR);

    /// A point from its coordinates.
    ///
    /// # Errors
    /// [`PointError::NotOnCurve`].
    pub fn new(x: Fr, y: Fr) -> Result<Self, PointError> {
        let point = Affine::new_unchecked(x, y);
        if point.is_on_curve() { Ok(Self(point)) } else { Err(PointError::NotOnCurve) }
    }

    /// The x coordinate.
    #[must_use]
    pub const fn x(&self) -> Fr {
        self.0.x
    }

    /// The y coordinate.
    #[must_use]
    pub const fn y(&self) -> Fr {
        self.0.y
    }

    /// `scalar * self`; the scalar is an integer, not reduced.
    #[must_use]
    pub fn mul_integer(&self, scalar: BigInt<4>) -> Self {
        Self(self.0.mul_bigint(scalar).into_affine())
    }

    /// `scalar * self`.
    #[must_use]
    pub fn mul(&self, scalar: &Scalar) -> Self {
        self.mul_integer(scalar.into_bigint())
    }

    /// Whether the point lies in the prime subgroup and is not its neutral element.
    #[must_use]
    pub fn is_in_prime_subgroup(&self) -> bool {
        !self.0.is_zero() && BabyJubjub::is_in_correct_subgroup_assuming_on_curve(&self.0)
    }

    /// 32 bytes: y big-endian, its top bit set when `x > (r - 1) / 2`.
    #[must_use]
    pub fn compress(&self) -> [u8; 32] {
        let mut bytes = self.0.y.to_be_bytes();
        if is_upper_half(&self.0.x) {
            bytes[0] |= 0x80;
        }
        bytes
    }

    /// The inverse of [`Point::compress`]; refuses every other encoding.
    ///
    /// # Errors
    /// [`PointError`]: y not canonical, no such point, or a sign bit although x is 0.
    pub fn decompress(bytes: &[u8; 32]) -> Result<Self, PointError> {
        let mut y_bytes = *bytes;
        let upper = y_bytes[0] & 0x80 != 0;
        y_bytes[0] &= 0x7f;
        let y = Fr::try_from_be_bytes(&y_bytes)?;
        // a x^2 + y^2 = 1 + d x^2 y^2  =>  x^2 = (1 - y^2) / (a - d y^2); the denominator is never 0 as a/d is no
        // square.
        let y2 = y.square();
        let denominator = <BabyJubjub as TECurveConfig>::COEFF_A - BabyJubjub::COEFF_D * y2;
        let x2 = (Fr::ONE - y2) * denominator.inverse().ok_or(PointError::NotOnCurve)?;
        let x = x2.sqrt().ok_or(PointError::NotOnCurve)?;
        if x.is_zero() && upper {
            return Err(PointError::NonCanonicalSign);
        }
        let x = if is_upper_half(&x) == upper { x } else { -x };
        Self::new(x, y)
    }
}

fn is_upper_half(x: &Fr) -> bool {
    x.into_bigint() > Fr::MODULUS_MINUS_ONE_DIV_TWO
}

impl Serialize for Point {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        [self.x().to_hex(), self.y().to_hex()].serialize(serializer)
    }
}

impl<'de> Deserialize<'de> for Point {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let [x, y] = <[String; 2]>::deserialize(deserializer)?;
        let parse = |text: &str| Fr::try_from_text(text).map_err(serde::de::Error::custom);
        Self::new(parse(&x)?, parse(&y)?).map_err(serde::de::Error::custom)
    }
}

/// Public viewing key V: a point of the prime subgroup, never the neutral element. Notes are sealed to it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize)]
#[serde(transparent)]
pub struct ViewingKey(Point);

impl ViewingKey {
    /// Checks a point. Sealing to any other point could reveal the note or lose it.
    ///
    /// # Errors
    /// [`PointError::NotInSubgroup`].
    pub fn new(point: Point) -> Result<Self, PointError> {
        if point.is_in_prime_subgroup() { Ok(Self(point)) } else { Err(PointError::NotInSubgroup) }
    }

    /// The key of a secret scalar that is not 0.
    pub(crate) fn of_secret(v: &Scalar) -> Self {
        debug_assert!(!v.is_zero());
        Self(Point::BASE8.mul(v))
    }

    /// The point.
    #[must_use]
    pub const fn point(&self) -> &Point {
        &self.0
    }
}

impl<'de> Deserialize<'de> for ViewingKey {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        Self::new(Point::deserialize(deserializer)?).map_err(serde::de::Error::custom)
    }
}
