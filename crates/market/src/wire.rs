//! Field encodings shared by all messages: amounts, fixed-length bytes, bounded text.

/// A field that is not what the specification says.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum WireError {
    /// The message is larger than its kind may be.
    #[error("{message} has {size} bytes, at most {limit} are allowed")]
    TooLarge {
        /// Kind of message.
        message: &'static str,
        /// Its size in bytes.
        size: usize,
        /// The most that is allowed.
        limit: usize,
    },
    /// The bytes are no protobuf message of this kind.
    #[error("{message} can't be decoded: {reason}")]
    Undecodable {
        /// Kind of message.
        message: &'static str,
        /// The decoder's words.
        reason: String,
    },
    /// The message is of another version.
    #[error("{message} has version {got}, this program reads version {supported}")]
    Version {
        /// Kind of message.
        message: &'static str,
        /// The version that came.
        got: u32,
        /// The version read here.
        supported: u32,
    },
    /// A required field is absent.
    #[error("{field} is missing")]
    Missing {
        /// Name of the field.
        field: &'static str,
    },
    /// A field of fixed length has another length.
    #[error("{field} has {got} bytes, {expected} are required")]
    Length {
        /// Name of the field.
        field: &'static str,
        /// Its length.
        got: usize,
        /// The required length.
        expected: usize,
    },
    /// An amount is wider than its type, or not in its shortest form.
    #[error("{field} is no canonical amount of at most {bits} bits")]
    Amount {
        /// Name of the field.
        field: &'static str,
        /// Width of the type.
        bits: u32,
    },
    /// A number or a count lies outside its range.
    #[error("{field} is {got}, allowed are {min} to {max}")]
    Range {
        /// Name of the field.
        field: &'static str,
        /// The value.
        got: u64,
        /// Smallest allowed value.
        min: u64,
        /// Largest allowed value.
        max: u64,
    },
    /// A value is not one of those that the field may hold.
    #[error("{field} is invalid: {reason}")]
    Invalid {
        /// Name of the field.
        field: &'static str,
        /// What is wrong with it.
        reason: String,
    },
}

impl WireError {
    /// Stable code of the error.
    #[must_use]
    pub const fn code(&self) -> &'static str {
        match self {
            Self::TooLarge { .. } => "TRB-M001",
            Self::Undecodable { .. } => "TRB-M002",
            Self::Version { .. } => "TRB-M003",
            Self::Missing { .. } => "TRB-M004",
            Self::Length { .. } => "TRB-M005",
            Self::Amount { .. } => "TRB-M006",
            Self::Range { .. } => "TRB-M007",
            Self::Invalid { .. } => "TRB-M008",
        }
    }
}

/// Decodes a protobuf message of at most `limit` bytes.
///
/// # Errors
/// [`WireError::TooLarge`] before anything is parsed, [`WireError::Undecodable`] for what is no such message.
pub fn decode<M: prost::Message + Default>(message: &'static str, bytes: &[u8], limit: usize) -> Result<M, WireError> {
    if bytes.len() > limit {
        return Err(WireError::TooLarge { message, size: bytes.len(), limit });
    }
    M::decode(bytes).map_err(|error| WireError::Undecodable { message, reason: error.to_string() })
}

/// Checks a message's version number.
///
/// # Errors
/// [`WireError::Version`].
pub fn check_version(message: &'static str, got: u32) -> Result<(), WireError> {
    const SUPPORTED: u32 = 1;
    if got == SUPPORTED { Ok(()) } else { Err(WireError::Version { message, got, supported: SUPPORTED }) }
}

/// Writes an amount: big-endian, no leading zero byte, zero is empty.
#[must_use]
pub fn amount_to_bytes(value: u128) -> Vec<u8> {
    let bytes = value.to_be_bytes();
    let zeros = (value.leading_zeros() / 8) as usize;
    bytes[zeros..].to_vec()
}

/// Reads an amount of at most `bits` bits (`bits` <= 128).
///
/// # Errors
/// [`WireError::Amount`] when it is wider or has a leading zero byte.
pub fn amount_from_bytes(field: &'static str, bytes: &[u8], bits: u32) -> Result<u128, WireError> {
    let error = WireError::Amount { field, bits };
    if bytes.len() > 16 || bytes.first() == Some(&0) {
        return Err(error);
    }
    let value = bytes.iter().fold(0u128, |value, byte| (value << 8) | u128::from(*byte));
    if bits < 128 && value >> bits != 0 {
        return Err(error);
    }
    Ok(value)
}

/// Reads bytes of fixed length.
///
/// # Errors
/// [`WireError::Length`].
pub fn fixed<const N: usize>(field: &'static str, bytes: &[u8]) -> Result<[u8; N], WireError> {
    bytes.try_into().map_err(|_| WireError::Length { field, got: bytes.len(), expected: N })
}

/// Checks that a number lies in `min..=max`.
///
/// # Errors
/// [`WireError::Range`].
pub fn in_range(field: &'static str, got: u64, min: u64, max: u64) -> Result<u64, WireError> {
    if (min..=max).contains(&got) { Ok(got) } else { Err(WireError::Range { field, got, min, max }) }
}

/// Checks text that came from elsewhere: its length in bytes, and no control characters (it may end up on a terminal).
///
/// # Errors
/// [`WireError::Range`] for its length, [`WireError::Invalid`] for its characters.
pub fn text(field: &'static str, value: &str, max: usize) -> Result<String, WireError> {
    in_range(field, value.len() as u64, 0, max as u64)?;
    if value.chars().any(char::is_control) {
        return Err(WireError::Invalid { field, reason: "control characters".into() });
    }
    Ok(value.to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn amounts_have_one_form() {
        for value in [0, 1, 255, 256, u128::from(u64::MAX), (1 << 96) - 1, 1 << 119, u128::MAX] {
            assert_eq!(amount_from_bytes("x", &amount_to_bytes(value), 128), Ok(value));
        }
        assert!(amount_to_bytes(0).is_empty());
        let error = WireError::Amount { field: "x", bits: 96 };
        assert_eq!(amount_from_bytes("x", &[0, 1], 96), Err(error.clone()));
        assert_eq!(amount_from_bytes("x", &[0], 96), Err(error.clone()));
        assert_eq!(amount_from_bytes("x", &amount_to_bytes(1 << 96), 96), Err(error.clone()));
        assert_eq!(amount_from_bytes("x", &[1; 17], 96), Err(error));
    }

    #[test]
    fn text_is_bounded_and_printable() {
        assert_eq!(text("t", "store", 5).as_deref(), Ok("store"));
        assert_eq!(text("t", "store!", 5).unwrap_err().code(), "TRB-M007");
        assert_eq!(text("t", "a\u{1b}[2J", 64).unwrap_err().code(), "TRB-M008");
    }
}
