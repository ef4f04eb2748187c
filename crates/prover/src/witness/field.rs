//! circom's operators on field elements, as its language defines them: comparisons take the upper half of the field for negative
//! numbers, shifts and logic work on the 254 bits of the canonical representative.

use std::cmp::Ordering;

use ark_bn254::Fr;
use ark_ff::{BigInt, BigInteger, Field, One, PrimeField, Zero};
use num_bigint::BigUint;

/// An operator with two operands; unary ones ignore the second.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[repr(u8)]
pub(super) enum Operator {
    Add,
    Sub,
    Mul,
    Neg,
    Div,
    Inv,
    Pow,
    IntDiv,
    Mod,
    Eq,
    Neq,
    Lt,
    Leq,
    Gt,
    Geq,
    LogicAnd,
    LogicOr,
    LogicNot,
    BitAnd,
    BitOr,
    BitXor,
    BitNot,
    Shl,
    Shr,
}

impl Operator {
    pub(super) const ALL: [Self; 24] = [
        Self::Add,
        Self::Sub,
        Self::Mul,
        Self::Neg,
        Self::Div,
        Self::Inv,
        Self::Pow,
        Self::IntDiv,
        Self::Mod,
        Self::Eq,
        Self::Neq,
        Self::Lt,
        Self::Leq,
        Self::Gt,
        Self::Geq,
        Self::LogicAnd,
        Self::LogicOr,
        Self::LogicNot,
        Self::BitAnd,
        Self::BitOr,
        Self::BitXor,
        Self::BitNot,
        Self::Shl,
        Self::Shr,
    ];

    pub(super) const fn unary(self) -> bool {
        matches!(self, Self::Neg | Self::Inv | Self::LogicNot | Self::BitNot)
    }

    /// By the name of circom's run-time function.
    pub(super) fn from_name(name: &str) -> Option<Self> {
        Some(match name {
            "Fr_add" => Self::Add,
            "Fr_sub" => Self::Sub,
            "Fr_mul" => Self::Mul,
            "Fr_neg" => Self::Neg,
            "Fr_div" => Self::Div,
            "Fr_inv" => Self::Inv,
            "Fr_pow" => Self::Pow,
            "Fr_idiv" => Self::IntDiv,
            "Fr_mod" => Self::Mod,
            "Fr_eq" => Self::Eq,
            "Fr_neq" => Self::Neq,
            "Fr_lt" => Self::Lt,
            "Fr_leq" => Self::Leq,
            "Fr_gt" => Self::Gt,
            "Fr_geq" => Self::Geq,
            "Fr_land" => Self::LogicAnd,
            "Fr_lor" => Self::LogicOr,
            "Fr_lnot" => Self::LogicNot,
            "Fr_band" => Self::BitAnd,
            "Fr_bor" => Self::BitOr,
            "Fr_bxor" => Self::BitXor,
            "Fr_bnot" => Self::BitNot,
            "Fr_shl" => Self::Shl,
            "Fr_shr" => Self::Shr,
            _ => return None,
        })
    }

    /// The result; division by zero gives zero, as circom's run time does.
    pub(super) fn apply(self, a: Fr, b: Fr) -> Fr {
        match self {
            Self::Add => a + b,
            Self::Sub => a - b,
            Self::Mul => a * b,
            Self::Neg => -a,
            Self::Div => b.inverse().map_or(Fr::zero(), |i| a * i),
            Self::Inv => a.inverse().unwrap_or(Fr::zero()),
            Self::Pow => a.pow(b.into_bigint()),
            Self::IntDiv => integers(a, b, |x, y| x / y),
            Self::Mod => integers(a, b, |x, y| x % y),
            Self::Eq => Fr::from(a == b),
            Self::Neq => Fr::from(a != b),
            Self::Lt => Fr::from(compare(a, b).is_lt()),
            Self::Leq => Fr::from(compare(a, b).is_le()),
            Self::Gt => Fr::from(compare(a, b).is_gt()),
            Self::Geq => Fr::from(compare(a, b).is_ge()),
            Self::LogicAnd => Fr::from(!a.is_zero() && !b.is_zero()),
            Self::LogicOr => Fr::from(!a.is_zero() || !b.is_zero()),
            Self::LogicNot => Fr::from(a.is_zero()),
            Self::BitAnd => bitwise(a, b, |x, y| x & y),
            Self::BitOr => bitwise(a, b, |x, y| x | y),
            Self::BitXor => bitwise(a, b, |x, y| x ^ y),
            Self::BitNot => bitwise(a, a, |x, _| !x),
            Self::Shl => shift(a, b, false),
            Self::Shr => shift(a, b, true),
        }
    }
}

pub(super) fn is_negative(x: BigInt<4>) -> bool {
    x > Fr::MODULUS_MINUS_ONE_DIV_TWO
}

fn compare(a: Fr, b: Fr) -> Ordering {
    let (a, b) = (a.into_bigint(), b.into_bigint());
    match (is_negative(a), is_negative(b)) {
        (true, false) => Ordering::Less,
        (false, true) => Ordering::Greater,
        _ => a.cmp(&b),
    }
}

fn integers(a: Fr, b: Fr, f: impl Fn(BigUint, BigUint) -> BigUint) -> Fr {
    if b.is_zero() {
        return Fr::zero();
    }
    Fr::from(f(a.into_bigint().into(), b.into_bigint().into()))
}

/// 254 bits: those of the modulus.
const TOP_LIMB: u64 = (1 << 62) - 1;

fn reduce(mut x: BigInt<4>) -> Fr {
    x.0[3] &= TOP_LIMB;
    // Below 2^254, which is less than twice the modulus.
    if x >= Fr::MODULUS {
        x.sub_with_borrow(&Fr::MODULUS);
    }
    Fr::from_bigint(x).unwrap_or(Fr::zero())
}

fn bitwise(a: Fr, b: Fr, f: impl Fn(u64, u64) -> u64) -> Fr {
    let (a, b) = (a.into_bigint(), b.into_bigint());
    let mut out = BigInt::new([0; 4]);
    for (out, (a, b)) in out.0.iter_mut().zip(a.0.iter().zip(&b.0)) {
        *out = f(*a, *b);
    }
    reduce(out)
}

/// A negative distance shifts the other way.
fn shift(a: Fr, by: Fr, right: bool) -> Fr {
    let distance = by.into_bigint();
    let (distance, right) = if is_negative(distance) { ((-by).into_bigint(), !right) } else { (distance, right) };
    if distance >= BigInt::from(254u64) {
        return Fr::zero();
    }
    let n = distance.0[0] as u32;
    let a = a.into_bigint();
    reduce(if right { a >> n } else { a << n })
}

/// Bit `n` of the canonical representative.
pub(super) fn bit(a: Fr, n: u32) -> Fr {
    if n < 254 && a.into_bigint().get_bit(n as usize) { Fr::one() } else { Fr::zero() }
}

/// What circom's run time makes of a value used as an index.
pub(super) fn to_int(x: Fr) -> Option<i32> {
    let magnitude = |x: Fr| {
        let b = x.into_bigint();
        (b.0[1..] == [0, 0, 0]).then(|| i32::try_from(b.0[0]).ok()).flatten()
    };
    magnitude(x).or_else(|| magnitude(-x).map(|m| -m))
}
