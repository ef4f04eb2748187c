//! Points in time and durations, in whole seconds.

use std::fmt;

use alloy_primitives::U256;
use serde::{Deserialize, Deserializer, Serialize, de};

use crate::{error::RangeError, field::Fr};

macro_rules! bounded_u40 {
    ($(#[$meta:meta])* $name:ident, $what:literal) => {
        $(#[$meta])*
        #[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize)]
        #[serde(transparent)]
        pub struct $name(u64);

        impl $name {
            /// Width of the range in bits.
            pub const BITS: u32 = 40;
            /// Zero.
            pub const ZERO: Self = Self(0);
            /// The largest value.
            pub const MAX: Self = Self((1 << 40) - 1);

            /// Checks the range.
            ///
            /// # Errors
            /// [`RangeError::TooLarge`] when the value does not fit 40 bits.
            pub const fn new(value: u64) -> Result<Self, RangeError> {
                if value > Self::MAX.0 {
                    let value = U256::from_limbs([value, 0, 0, 0]);
                    return Err(RangeError::TooLarge { what: $what, value, bits: Self::BITS });
                }
                Ok(Self(value))
            }

            /// Whole seconds.
            #[must_use]
            pub const fn get(self) -> u64 {
                self.0
            }

            /// Whole seconds, as contracts take it.
            #[must_use]
            pub const fn to_u256(self) -> U256 {
                U256::from_limbs([self.0, 0, 0, 0])
            }

            /// Whole seconds as a field element.
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

        impl TryFrom<u64> for $name {
            type Error = RangeError;
            fn try_from(value: u64) -> Result<Self, RangeError> {
                Self::new(value)
            }
        }

        impl TryFrom<U256> for $name {
            type Error = RangeError;
            fn try_from(value: U256) -> Result<Self, RangeError> {
                u64::try_from(value)
                    .map_err(|_| RangeError::TooLarge { what: $what, value, bits: Self::BITS })
                    .and_then(Self::new)
            }
        }

        impl From<$name> for u64 {
            fn from(value: $name) -> Self {
                value.0
            }
        }

        impl From<$name> for U256 {
            fn from(value: $name) -> Self {
                value.to_u256()
            }
        }

        impl<'de> Deserialize<'de> for $name {
            fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
                Self::new(u64::deserialize(deserializer)?).map_err(de::Error::custom)
            }
        }
    };
}

bounded_u40! {
    /// Seconds since 1970-01-01T00:00:00Z, a u40. The largest value stands for "never" where a chain record is unset.
    UnixTime, "time"
}

bounded_u40! {
    /// A number of seconds, a u40.
    Seconds, "duration"
}

impl Seconds {
    /// 600 s.
    pub const TEN_MINUTES: Self = Self(600);
    /// 3,600 s.
    pub const HOUR: Self = Self(3_600);
    /// 86,400 s.
    pub const DAY: Self = Self(86_400);
}

impl UnixTime {
    /// The time `duration` later.
    ///
    /// # Errors
    /// [`RangeError::Overflow`] when it does not fit 40 bits.
    pub const fn checked_add(self, duration: Seconds) -> Result<Self, RangeError> {
        let sum = self.0 + duration.0;
        if sum > Self::MAX.0 {
            let (left, right) = (self.0 as u128, duration.0 as u128);
            return Err(RangeError::Overflow { what: "time", left, right, bits: Self::BITS });
        }
        Ok(Self(sum))
    }

    /// The time `duration` earlier.
    ///
    /// # Errors
    /// [`RangeError::Underflow`] when it would be before 1970.
    pub const fn checked_sub(self, duration: Seconds) -> Result<Self, RangeError> {
        match self.0.checked_sub(duration.0) {
            Some(difference) => Ok(Self(difference)),
            None => {
                let (left, right) = (self.0 as u128, duration.0 as u128);
                Err(RangeError::Underflow { what: "time", left, right })
            }
        }
    }

    /// The time `duration` earlier, or 1970.
    #[must_use]
    pub const fn saturating_sub(self, duration: Seconds) -> Self {
        Self(self.0.saturating_sub(duration.0))
    }

    /// The time `duration` later, or the end of the range.
    #[must_use]
    pub const fn saturating_add(self, duration: Seconds) -> Self {
        let sum = self.0 + duration.0;
        if sum > Self::MAX.0 { Self::MAX } else { Self(sum) }
    }

    /// Seconds from `earlier` to this time; 0 when `earlier` is not earlier.
    #[must_use]
    pub const fn since(self, earlier: Self) -> Seconds {
        Seconds(self.0.saturating_sub(earlier.0))
    }
}
