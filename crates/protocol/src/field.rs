//! The BN254 scalar field: canonical encodings, hashing into the field, domain wrappers.
//!
//! Everything that comes from a wire, a file or a chain is parsed canonically: a value at or above the order is an
//! error, never reduced. Only hash outputs are reduced ([`reduce`]).

use alloy_primitives::{B256, U256, uint};
pub use ark_bn254::Fr;
use ark_ff::{BigInt, BigInteger, PrimeField};
use rand::{CryptoRng, RngCore};

use crate::error::FieldError;

/// Order r of the BN254 scalar field.
pub const ORDER: U256 = uint!(21888242871839275222246405745257275088548364400416034343698204186575808495617_U256);

/// Encodings of a field element.
pub trait FieldElement: Sized {
    /// Parses 32 big-endian bytes.
    ///
    /// # Errors
    /// [`FieldError::NotCanonical`] when the value is not below [`ORDER`].
    fn try_from_be_bytes(bytes: &[u8; 32]) -> Result<Self, FieldError>;
    /// Converts an integer.
    ///
    /// # Errors
    /// [`FieldError::NotCanonical`] when the value is not below [`ORDER`].
    fn try_from_u256(value: U256) -> Result<Self, FieldError>;
    /// Parses a decimal string, or a hexadecimal one that begins with `0x`.
    ///
    /// # Errors
    /// [`FieldError::Malformed`] or [`FieldError::NotCanonical`].
    fn try_from_text(text: &str) -> Result<Self, FieldError>;
    /// 32 big-endian bytes.
    fn to_be_bytes(&self) -> [u8; 32];
    /// The canonical integer.
    fn to_u256(&self) -> U256;
    /// Decimal, as witness programs want it.
    fn to_decimal(&self) -> String {
        self.to_u256().to_string()
    }
    /// `0x` and 64 hexadecimal digits.
    fn to_hex(&self) -> String {
        format!("{}", B256::from(self.to_be_bytes()))
    }
    /// A uniformly random element (bias below 2^-250).
    fn random(rng: &mut (impl RngCore + CryptoRng)) -> Self;
}

impl FieldElement for Fr {
    fn try_from_be_bytes(bytes: &[u8; 32]) -> Result<Self, FieldError> {
        Self::try_from_u256(U256::from_be_bytes(*bytes))
    }

    fn try_from_u256(value: U256) -> Result<Self, FieldError> {
        Self::from_bigint(BigInt::new(value.into_limbs())).ok_or(FieldError::NotCanonical { value })
    }

    fn try_from_text(text: &str) -> Result<Self, FieldError> {
        const EXPECTED: &str = "a decimal integer, or 0x and 1 to 64 hexadecimal digits";
        let malformed = |reason| FieldError::Malformed { expected: EXPECTED, reason };
        let (digits, radix) = text.strip_prefix("0x").map_or((text, 10), |hex| (hex, 16));
        if digits.is_empty() {
            return Err(malformed("no digits"));
        }
        if digits.len() > 78 || (radix == 16 && digits.len() > 64) {
            return Err(malformed("too many digits"));
        }
        if !digits.chars().all(|c| c.is_digit(radix)) {
            return Err(malformed("a character that is no digit"));
        }
        let value = U256::from_str_radix(digits, u64::from(radix)).map_err(|_| malformed("more than 256 bits"))?;
        Self::try_from_u256(value)
    }

    fn to_be_bytes(&self) -> [u8; 32] {
        self.to_u256().to_be_bytes()
    }

    fn to_u256(&self) -> U256 {
        U256::from_limbs(self.into_bigint().0)
    }

    fn random(rng: &mut (impl RngCore + CryptoRng)) -> Self {
        let mut bytes = zeroize::Zeroizing::new([0_u8; 64]);
        rng.fill_bytes(bytes.as_mut());
        Self::from_be_bytes_mod_order(bytes.as_ref())
    }
}

/// Reduces a hash modulo the field's order. For hashes only: wire data is parsed, not reduced.
#[must_use]
pub fn reduce(hash: B256) -> Fr {
    Fr::from_be_bytes_mod_order(hash.as_slice())
}

/// The low `bits` bits of the canonical integer.
#[must_use]
pub(crate) fn low_bits(element: &Fr, bits: usize) -> U256 {
    element.to_u256() & ((U256::from(1_u8) << bits) - U256::from(1_u8))
}

/// Whether the element's canonical integer has at most `bits` bits.
#[must_use]
pub(crate) fn fits(element: &Fr, bits: u32) -> bool {
    element.into_bigint().num_bits() <= bits
}

/// Serde adapters for bare field elements: `#[serde(with = "tributary_protocol::field::serde_hex")]`.
pub mod serde_hex {
    use serde::{Deserialize, Deserializer, Serializer, de::Error};

    use super::{FieldElement, Fr};

    /// Writes `0x` and 64 hexadecimal digits.
    ///
    /// # Errors
    /// Those of the serializer.
    pub fn serialize<S: Serializer>(element: &Fr, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_str(&element.to_hex())
    }

    /// Reads decimal or `0x` hexadecimal text.
    ///
    /// # Errors
    /// Those of the deserializer, and non-canonical values.
    pub fn deserialize<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Fr, D::Error> {
        let text = String::deserialize(deserializer)?;
        Fr::try_from_text(&text).map_err(D::Error::custom)
    }
}

/// Declares a domain type around one field element, with canonical conversions, `0x` hexadecimal `Display`, `FromStr`
/// and serde.
macro_rules! field_newtype {
    ($(#[$meta:meta])* $name:ident) => {
        $(#[$meta])*
        #[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
        pub struct $name($crate::field::Fr);

        impl $name {
            /// Wraps a field element.
            #[must_use]
            pub const fn new(element: $crate::field::Fr) -> Self {
                Self(element)
            }

            /// The field element.
            #[must_use]
            pub const fn to_fr(self) -> $crate::field::Fr {
                self.0
            }

            /// Parses 32 canonical big-endian bytes.
            ///
            /// # Errors
            /// [`FieldError::NotCanonical`]($crate::error::FieldError::NotCanonical).
            pub fn try_from_be_bytes(bytes: &[u8; 32]) -> Result<Self, $crate::error::FieldError> {
                <$crate::field::Fr as $crate::field::FieldElement>::try_from_be_bytes(bytes).map(Self)
            }

            /// 32 big-endian bytes.
            #[must_use]
            pub fn to_be_bytes(self) -> [u8; 32] {
                $crate::field::FieldElement::to_be_bytes(&self.0)
            }

            /// The canonical integer.
            #[must_use]
            pub fn to_u256(self) -> alloy_primitives::U256 {
                $crate::field::FieldElement::to_u256(&self.0)
            }
        }

        impl From<$crate::field::Fr> for $name {
            fn from(element: $crate::field::Fr) -> Self {
                Self(element)
            }
        }

        impl From<$name> for $crate::field::Fr {
            fn from(value: $name) -> Self {
                value.0
            }
        }

        impl From<$name> for alloy_primitives::U256 {
            fn from(value: $name) -> Self {
                value.to_u256()
            }
        }

        impl From<$name> for alloy_primitives::B256 {
            fn from(value: $name) -> Self {
                value.to_be_bytes().into()
            }
        }

        impl TryFrom<alloy_primitives::U256> for $name {
            type Error = $crate::error::FieldError;
            fn try_from(value: alloy_primitives::U256) -> Result<Self, Self::Error> {
                <$crate::field::Fr as $crate::field::FieldElement>::try_from_u256(value).map(Self)
            }
        }

        impl TryFrom<alloy_primitives::B256> for $name {
            type Error = $crate::error::FieldError;
            fn try_from(value: alloy_primitives::B256) -> Result<Self, Self::Error> {
                Self::try_from_be_bytes(&value.0)
            }
        }

        impl std::fmt::Display for $name {
            fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
                f.write_str(&$crate::field::FieldElement::to_hex(&self.0))
            }
        }

        impl std::fmt::Debug for $name {
            fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
                write!(f, concat!(stringify!($name), "({})"), self)
            }
        }

        impl std::str::FromStr for $name {
            type Err = $crate::error::FieldError;
            fn from_str(text: &str) -> Result<Self, Self::Err> {
                <$crate::field::Fr as $crate::field::FieldElement>::try_from_text(text).map(Self)
            }
        }

        impl serde::Serialize for $name {
            fn serialize<S: serde::Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
                $crate::field::serde_hex::serialize(&self.0, serializer)
            }
        }

        impl<'de> serde::Deserialize<'de> for $name {
            fn deserialize<D: serde::Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
                $crate::field::serde_hex::deserialize(deserializer).map(Self)
            }
        }
    };
}
pub(crate) use field_newtype;

field_newtype! {
    /// Root of a commitment tree or of a stopped list.
    Root
}
