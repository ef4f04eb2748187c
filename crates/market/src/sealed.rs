//! Sealed boxes: messages encrypted to an X25519 key by a sender who has none, padded to a few sizes.
//!
//! Layout: version byte 1, the sender's ephemeral public key (32), then XChaCha20-Poly1305 of the padded plaintext. Key and
//! nonce come from HKDF-SHA256 over the Diffie-Hellman secret (salt [`SALT`]; info: ephemeral key, recipient's key, SHA-256 of
//! the context). The associated data is all that precedes the ciphertext. Padded plaintext: a u32 length, the message, zeros up
//! to the next of [`SIZES`].
//!
//! A box says nothing about who made it. A reply sealed to a key that only ever travelled inside a sealed request comes from
//! someone who could open that request; [`crate::rpc`] relies on this.

use std::collections::{HashSet, VecDeque};
use std::fmt;

use chacha20poly1305::aead::Aead as _;
use chacha20poly1305::aead::Payload;
use chacha20poly1305::{KeyInit as _, XChaCha20Poly1305};
use hkdf::Hkdf;
use rand::{CryptoRng, RngCore};
use sha2::{Digest as _, Sha256};
use x25519_dalek::{PublicKey, StaticSecret};
use zeroize::Zeroizing;

use crate::wire::{self, WireError};

/// HKDF salt of every box of this version.
pub const SALT: &[u8] = b"tributary.sealed.v1";

/// Sizes of padded plaintexts, bytes. The largest box fits a Waku message.
pub const SIZES: [usize; 8] = [1024, 2048, 4096, 8192, 16_384, 32_768, 65_536, 131_072];

/// Longest message that can be sealed, bytes.
pub const MAX_MESSAGE: usize = SIZES[SIZES.len() - 1] - LENGTH;

/// Bytes that a box adds to its padded plaintext.
pub const OVERHEAD: usize = HEADER + TAG;

const VERSION: u8 = 1;
const LENGTH: usize = 4;
const HEADER: usize = 33;
const TAG: usize = 16;
const DERIVE_INFO: &[u8] = b"node identity";

/// Why a box couldn't be made or opened.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum SealedError {
    /// The message is too long to be sealed.
    #[error("a message of {size} bytes can't be sealed, at most {limit}")]
    TooLarge {
        /// Length of the message.
        size: usize,
        /// The most that can be sealed.
        limit: usize,
    },
    /// The box has no size that a box can have.
    #[error("a box of {size} bytes is cut off or no box")]
    Size {
        /// Length of the box.
        size: usize,
    },
    /// The box is of another version.
    #[error("the box has version {got}, this program opens version 1")]
    Version {
        /// The version byte.
        got: u8,
    },
    /// The public key has small order: anybody could read what is sealed to it.
    #[error("the X25519 key is of small order")]
    WeakKey,
    /// Another key, another context, or a changed box.
    #[error("the box can't be opened with this key in this context")]
    Unopenable,
    /// The padding isn't as the specification says.
    #[error("the box's padding is malformed")]
    Padding,
}

impl SealedError {
    /// Stable code of the error.
    #[must_use]
    pub const fn code(&self) -> &'static str {
        match self {
            Self::TooLarge { .. } => "TRB-M301",
            Self::Size { .. } => "TRB-M302",
            Self::Version { .. } => "TRB-M303",
            Self::WeakKey => "TRB-M304",
            Self::Unopenable => "TRB-M305",
            Self::Padding => "TRB-M306",
        }
    }
}

/// The X25519 public key that messages are sealed to.
#[derive(Clone, Copy, PartialEq, Eq, Hash)]
pub struct EncryptionKey([u8; 32]);

impl EncryptionKey {
    /// Reads the key from 32 bytes. Keys of small order are refused when they are used.
    ///
    /// # Errors
    /// [`WireError::Length`].
    pub fn from_bytes(field: &'static str, bytes: &[u8]) -> Result<Self, WireError> {
        wire::fixed(field, bytes).map(Self)
    }

    /// The key's 32 bytes.
    #[must_use]
    pub const fn as_bytes(&self) -> &[u8; 32] {
        &self.0
    }
}

impl fmt::Debug for EncryptionKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "EncryptionKey({})", hex::encode(self.0))
    }
}

/// The secret half of an [`EncryptionKey`]; wiped when dropped.
#[derive(Clone)]
pub struct EncryptionSecret(StaticSecret);

impl EncryptionSecret {
    /// A new random secret.
    pub fn random<R: RngCore + CryptoRng>(rng: &mut R) -> Self {
        Self(StaticSecret::random_from_rng(rng))
    }

    /// The secret that belongs to a node's identity key: the same after every restart, and nothing more to back up.
    #[must_use]
    pub fn derive(identity: &Zeroizing<[u8; 32]>) -> Self {
        let mut secret = Zeroizing::new([0; 32]);
        Hkdf::<Sha256>::new(Some(SALT), identity.as_slice())
            .expand(DERIVE_INFO, secret.as_mut())
            .expect("32 bytes are within HKDF's bound");
        Self(StaticSecret::from(*secret))
    }

    /// The public half.
    #[must_use]
    pub fn public(&self) -> EncryptionKey {
        EncryptionKey(PublicKey::from(&self.0).to_bytes())
    }

    /// Opens a box that was sealed to this key with this context.
    ///
    /// # Errors
    /// The first check that fails; nothing is learnt of a box that isn't meant for this key.
    pub fn open(&self, context: &[u8], sealed: &[u8]) -> Result<Vec<u8>, SealedError> {
        let size = sealed.len();
        if !SIZES.iter().any(|step| step + OVERHEAD == size) {
            return Err(SealedError::Size { size });
        }
        let (header, ciphertext) = sealed.split_at(HEADER);
        if header[0] != VERSION {
            return Err(SealedError::Version { got: header[0] });
        }
        let mut ephemeral = [0; 32];
        ephemeral.copy_from_slice(&header[1..]);
        let cipher = Cipher::new(&self.0, &ephemeral, &ephemeral, self.public().as_bytes(), context)?;
        let padded = cipher
            .cipher
            .decrypt((&cipher.nonce).into(), Payload { msg: ciphertext, aad: header })
            .map_err(|_| SealedError::Unopenable)?;
        unpad(padded)
    }
}

impl fmt::Debug for EncryptionSecret {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "EncryptionSecret(of {})", hex::encode(self.public().0))
    }
}

/// Seals a message to a key. `context` names the message's purpose; the same must be given to open it.
///
/// # Errors
/// [`SealedError::TooLarge`], or [`SealedError::WeakKey`] for a key whose messages anybody could read.
pub fn seal<R: RngCore + CryptoRng>(
    recipient: &EncryptionKey,
    context: &[u8],
    message: &[u8],
    rng: &mut R,
) -> Result<Vec<u8>, SealedError> {
    let padded = pad(message)?;
    let secret = StaticSecret::random_from_rng(rng);
    let ephemeral = PublicKey::from(&secret).to_bytes();
    let cipher = Cipher::new(&secret, &recipient.0, &ephemeral, &recipient.0, context)?;
    let mut sealed = Vec::with_capacity(padded.len() + OVERHEAD);
    sealed.push(VERSION);
    sealed.extend_from_slice(&ephemeral);
    let ciphertext = cipher
        .cipher
        .encrypt((&cipher.nonce).into(), Payload { msg: &padded, aad: &sealed })
        .map_err(|_| SealedError::TooLarge { size: message.len(), limit: MAX_MESSAGE })?;
    sealed.extend_from_slice(&ciphertext);
    Ok(sealed)
}

struct Cipher {
    cipher: XChaCha20Poly1305,
    nonce: [u8; 24],
}

impl Cipher {
    fn new(
        own: &StaticSecret,
        peer: &[u8; 32],
        ephemeral: &[u8; 32],
        recipient: &[u8; 32],
        context: &[u8],
    ) -> Result<Self, SealedError> {
        let shared = own.diffie_hellman(&PublicKey::from(*peer));
        if !shared.was_contributory() {
            return Err(SealedError::WeakKey);
        }
        let mut info = Vec::with_capacity(96);
        info.extend_from_slice(ephemeral);
        info.extend_from_slice(recipient);
        info.extend_from_slice(&Sha256::digest(context));
        let mut okm = Zeroizing::new([0u8; 56]);
        Hkdf::<Sha256>::new(Some(SALT), shared.as_bytes())
            .expand(&info, okm.as_mut())
            .expect("56 bytes are within HKDF's bound");
        let mut nonce = [0; 24];
        nonce.copy_from_slice(&okm[32..]);
        let cipher = XChaCha20Poly1305::new((&okm[..32]).into());
        Ok(Self { cipher, nonce })
    }
}

fn pad(message: &[u8]) -> Result<Vec<u8>, SealedError> {
    let needed = message.len() + LENGTH;
    let too_large = SealedError::TooLarge { size: message.len(), limit: MAX_MESSAGE };
    let size = SIZES.into_iter().find(|step| *step >= needed).ok_or(too_large.clone())?;
    let length = u32::try_from(message.len()).map_err(|_| too_large)?;
    let mut padded = Vec::with_capacity(size);
    padded.extend_from_slice(&length.to_be_bytes());
    padded.extend_from_slice(message);
    padded.resize(size, 0);
    Ok(padded)
}

fn unpad(mut padded: Vec<u8>) -> Result<Vec<u8>, SealedError> {
    let mut length = [0; LENGTH];
    length.copy_from_slice(&padded[..LENGTH]);
    let end = LENGTH + u32::from_be_bytes(length) as usize;
    // The smallest size that holds the message is the only right one.
    let smallest = SIZES.into_iter().find(|step| *step >= end);
    if smallest != Some(padded.len()) || padded[end..].iter().any(|byte| *byte != 0) {
        return Err(SealedError::Padding);
    }
    padded.truncate(end);
    padded.drain(..LENGTH);
    Ok(padded)
}

/// Remembers which boxes were opened, so that a recorded box has no effect when it is sent again.
///
/// Holds at most `capacity` boxes; beyond that the oldest is forgotten. What is asked in a box must therefore also expire, and
/// must be harmless when it arrives twice.
#[derive(Debug)]
pub struct ReplayGuard {
    seen: HashSet<[u8; 32]>,
    order: VecDeque<[u8; 32]>,
    capacity: usize,
}

impl ReplayGuard {
    /// A guard that remembers `capacity` boxes, at least one.
    #[must_use]
    pub fn new(capacity: usize) -> Self {
        Self { seen: HashSet::new(), order: VecDeque::new(), capacity: capacity.max(1) }
    }

    /// Whether this box is seen for the first time. A box that can't be opened needn't be asked about.
    pub fn is_new(&mut self, sealed: &[u8]) -> bool {
        let id: [u8; 32] = Sha256::digest(sealed).into();
        if !self.seen.insert(id) {
            return false;
        }
        self.order.push_back(id);
        if self.order.len() > self.capacity
            && let Some(oldest) = self.order.pop_front()
        {
            self.seen.remove(&oldest);
        }
        true
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use rand::SeedableRng as _;
    use rand::rngs::StdRng;

    fn rng() -> StdRng {
        StdRng::seed_from_u64(7)
    }

    #[test]
    fn opens_what_was_sealed_at_every_size() {
        let mut rng = rng();
        let secret = EncryptionSecret::random(&mut rng);
        for length in [0, 1, 1020, 1021, 4000, 70_000, MAX_MESSAGE] {
            let message = vec![0xa5; length];
            let sealed = seal(&secret.public(), b"request", &message, &mut rng).unwrap();
            assert!(SIZES.contains(&(sealed.len() - OVERHEAD)));
            assert_eq!(secret.open(b"request", &sealed).unwrap(), message);
        }
        assert_eq!(
            seal(&secret.public(), b"", &vec![0; MAX_MESSAGE + 1], &mut rng),
            Err(SealedError::TooLarge { size: MAX_MESSAGE + 1, limit: MAX_MESSAGE })
        );
    }

    #[test]
    fn short_messages_have_one_size_and_never_repeat() {
        let mut rng = rng();
        let key = EncryptionSecret::random(&mut rng).public();
        let a = seal(&key, b"c", b"yes", &mut rng).unwrap();
        let b = seal(&key, b"c", b"yes", &mut rng).unwrap();
        let c = seal(&key, b"c", &[0; 900], &mut rng).unwrap();
        assert_eq!((a.len(), b.len()), (c.len(), c.len()));
        assert_ne!(a, b);
    }

    #[test]
    fn the_wrong_key_or_context_opens_nothing() {
        let mut rng = rng();
        let secret = EncryptionSecret::random(&mut rng);
        let other = EncryptionSecret::random(&mut rng);
        let sealed = seal(&secret.public(), b"request", b"hello", &mut rng).unwrap();
        assert_eq!(other.open(b"request", &sealed), Err(SealedError::Unopenable));
        assert_eq!(secret.open(b"reply", &sealed), Err(SealedError::Unopenable));
    }

    #[test]
    fn a_truncated_or_extended_box_is_no_box() {
        let mut rng = rng();
        let secret = EncryptionSecret::random(&mut rng);
        let mut sealed = seal(&secret.public(), b"c", b"hello", &mut rng).unwrap();
        for length in [0, 1, 32, 33, 49, sealed.len() - 1] {
            assert_eq!(secret.open(b"c", &sealed[..length]), Err(SealedError::Size { size: length }));
        }
        sealed.push(0);
        assert_eq!(secret.open(b"c", &sealed), Err(SealedError::Size { size: sealed.len() }));
    }

    #[test]
    fn every_byte_of_a_box_is_bound() {
        let mut rng = rng();
        let secret = EncryptionSecret::random(&mut rng);
        let sealed = seal(&secret.public(), b"c", b"hello", &mut rng).unwrap();
        for index in 0..sealed.len() {
            let mut changed = sealed.clone();
            // The top bit of a coordinate is ignored by X25519; the key schedule must still bind it.
            changed[index] ^= 0x80;
            let expected = if index == 0 { SealedError::Version { got: 0x81 } } else { SealedError::Unopenable };
            assert_eq!(secret.open(b"c", &changed), Err(expected), "byte {index}");
        }
    }

    #[test]
    fn keys_of_small_order_are_refused_on_both_sides() {
        let mut rng = rng();
        let secret = EncryptionSecret::random(&mut rng);
        let mut one = [0; 32];
        one[0] = 1;
        for weak in [[0; 32], one] {
            let key = EncryptionKey(weak);
            assert_eq!(seal(&key, b"c", b"x", &mut rng), Err(SealedError::WeakKey));
            let mut sealed = seal(&secret.public(), b"c", b"x", &mut rng).unwrap();
            sealed[1..33].copy_from_slice(&weak);
            assert_eq!(secret.open(b"c", &sealed), Err(SealedError::WeakKey));
        }
    }

    #[test]
    fn padding_has_one_form() {
        let mut padded = pad(b"abc").unwrap();
        *padded.last_mut().unwrap() = 1;
        assert_eq!(unpad(padded), Err(SealedError::Padding));
        let mut padded = pad(b"abc").unwrap();
        padded.resize(2048, 0);
        assert_eq!(unpad(padded), Err(SealedError::Padding));
        let mut padded = pad(b"abc").unwrap();
        padded[..4].copy_from_slice(&u32::MAX.to_be_bytes());
        assert_eq!(unpad(padded), Err(SealedError::Padding));
    }

    #[test]
    fn a_replayed_box_is_recognised_within_the_guards_bound() {
        let mut guard = ReplayGuard::new(2);
        assert!(guard.is_new(b"a"));
        assert!(!guard.is_new(b"a"));
        assert!(guard.is_new(b"b"));
        assert!(guard.is_new(b"c"));
        assert!(!guard.is_new(b"b"));
        assert_eq!(guard.seen.len(), 2);
    }

    #[test]
    fn a_nodes_secret_is_stable_and_its_own() {
        let first = EncryptionSecret::derive(&Zeroizing::new([1; 32]));
        let again = EncryptionSecret::derive(&Zeroizing::new([1; 32]));
        let other = EncryptionSecret::derive(&Zeroizing::new([2; 32]));
        assert_eq!(first.public(), again.public());
        assert_ne!(first.public(), other.public());
    }

    #[test]
    fn debug_output_shows_no_secret() {
        let secret = EncryptionSecret::random(&mut rng());
        let shown = format!("{secret:?}");
        assert!(!shown.contains(&hex::encode(secret.0.to_bytes())));
    }
}
