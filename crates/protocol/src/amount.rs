//! Amounts, rates and prices: integers of token base units with the protocol's ranges.

use std::{fmt, str::FromStr};

use alloy_primitives::U256;
use serde::{Deserialize, Deserializer, Serialize, Serializer, de};

use crate::{error::RangeError, field::Fr, time::Seconds};

macro_rules! bounded_u128 {
    ($(#[$meta:meta])* $name:ident, $what:literal, $bits:literal, $zero:literal) => {
        $(#[$meta])*
        #[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
        pub struct $name(u128);

        impl $name {
            /// Width of the range in bits.
            pub const BITS: u32 = $bits;
            /// The largest value.
            pub const MAX: Self = Self((1 << $bits) - 1);

            /// Checks the range.
            ///
            /// # Errors
            /// [`RangeError::TooLarge`], or [`RangeError::Zero`] where 0 has no meaning.
            pub const fn new(value: u128) -> Result<Self, RangeError> {
                if value == 0 && !$zero {
                    return Err(RangeError::Zero { what: $what });
                }
                if value > Self::MAX.0 {
                    let value = U256::from_limbs([value as u64, (value >> 64) as u64, 0, 0]);
                    return Err(RangeError::TooLarge { what: $what, value, bits: $bits });
                }
                Ok(Self(value))
            }

            /// The integer.
            #[must_use]
            pub const fn get(self) -> u128 {
                self.0
            }

            /// The integer, as contracts take it.
            #[must_use]
            pub const fn to_u256(self) -> U256 {
                U256::from_limbs([self.0 as u64, (self.0 >> 64) as u64, 0, 0])
            }

            /// The integer as a field element.
            #[must_use]
            pub fn to_fr(self) -> Fr {
                Fr::from(self.0)
            }
        }

        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                self.0.fmt(f)
            }
        }

        impl FromStr for $name {
            type Err = RangeError;
            fn from_str(text: &str) -> Result<Self, RangeError> {
                if text.is_empty() || text.len() > 78 || !text.bytes().all(|b| b.is_ascii_digit()) {
                    return Err(RangeError::NotDecimal { what: $what });
                }
                let value = U256::from_str(text).map_err(|_| RangeError::NotDecimal { what: $what })?;
                Self::try_from(value)
            }
        }

        impl TryFrom<U256> for $name {
            type Error = RangeError;
            fn try_from(value: U256) -> Result<Self, RangeError> {
                u128::try_from(value)
                    .map_err(|_| RangeError::TooLarge { what: $what, value, bits: $bits })
                    .and_then(Self::new)
            }
        }

        impl TryFrom<u128> for $name {
            type Error = RangeError;
            fn try_from(value: u128) -> Result<Self, RangeError> {
                Self::new(value)
            }
        }

        impl From<$name> for U256 {
            fn from(value: $name) -> Self {
                value.to_u256()
            }
        }

        impl From<$name> for u128 {
            fn from(value: $name) -> Self {
                value.0
            }
        }

        impl Serialize for $name {
            fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
                serializer.collect_str(&self.0)
            }
        }

        impl<'de> Deserialize<'de> for $name {
            fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
                String::deserialize(deserializer)?.parse().map_err(de::Error::custom)
            }
        }
    };
}

bounded_u128! {
    /// An amount of token base units, a u120. Text and serde form: a decimal string.
    Amount, "amount", 120, true
}

bounded_u128! {
    /// A stream's rate in token base units a second, a u96, never 0. Text and serde form: a decimal string.
    Rate, "rate", 96, false
}

bounded_u128! {
    /// The price of one ticket in token base units, a u96; 0 marks a rating. Text and serde form: a decimal string.
    Price, "price", 96, true
}

impl Default for Amount {
    fn default() -> Self {
        Self::ZERO
    }
}

impl Amount {
    /// Nothing.
    pub const ZERO: Self = Self(0);

    /// Whether the amount is 0.
    #[must_use]
    pub const fn is_zero(self) -> bool {
        self.0 == 0
    }

    /// The sum.
    ///
    /// # Errors
    /// [`RangeError::Overflow`] when it does not fit 120 bits.
    pub const fn checked_add(self, other: Self) -> Result<Self, RangeError> {
        let sum = self.0 + other.0;
        if sum > Self::MAX.0 {
            return Err(RangeError::Overflow { what: "amount", left: self.0, right: other.0, bits: Self::BITS });
        }
        Ok(Self(sum))
    }

    /// The difference.
    ///
    /// # Errors
    /// [`RangeError::Underflow`] when it is negative.
    pub const fn checked_sub(self, other: Self) -> Result<Self, RangeError> {
        match self.0.checked_sub(other.0) {
            Some(difference) => Ok(Self(difference)),
            None => Err(RangeError::Underflow { what: "amount", left: self.0, right: other.0 }),
        }
    }

    /// The sum of many amounts.
    ///
    /// # Errors
    /// [`RangeError::Overflow`] when it does not fit 120 bits.
    pub fn checked_sum(amounts: impl IntoIterator<Item = Self>) -> Result<Self, RangeError> {
        amounts.into_iter().try_fold(Self::ZERO, Self::checked_add)
    }
}

impl Rate {
    /// What streams in `duration`: a 136-bit number, exact.
    #[must_use]
    pub fn times(self, duration: Seconds) -> U256 {
        U256::from(self.0) * U256::from(duration.get())
    }
}

impl Price {
    /// The price of a rating.
    pub const ZERO: Self = Self(0);

    /// Whether the price is 0, which marks a rating.
    #[must_use]
    pub const fn is_zero(self) -> bool {
        self.0 == 0
    }
}
