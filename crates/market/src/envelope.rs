//! Signed envelopes: libp2p's own (RFC 0002), one domain, one payload type for each kind of message.

use libp2p::PeerId;
use libp2p::identity::{Keypair, PublicKey};
use prost::Message as _;
use sha2::{Digest as _, Sha256};

use crate::proto;
use crate::wire::{self, WireError};

/// Domain separation string of every envelope of this version.
pub const DOMAIN: &str = "tributary.v1";

/// Kinds of signed messages, by their payload type on the wire.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum PayloadType {
    /// A provider's offer.
    Offer,
    /// A quote.
    Quote,
    /// The refusal of a quote.
    Refusal,
    /// A relayer's fee announcement.
    RelayerAnnouncement,
    /// A relayer's quote for one transaction.
    RelayQuote,
}

impl PayloadType {
    /// The bytes that stand in the envelope.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Offer => "/tributary/offer/1",
            Self::Quote => "/tributary/quote/1",
            Self::Refusal => "/tributary/refusal/1",
            Self::RelayerAnnouncement => "/tributary/relayer/1",
            Self::RelayQuote => "/tributary/relay-quote/1",
        }
    }
}

/// A node's identity: a libp2p key that signs envelopes.
pub trait Signer: Send + Sync {
    /// The public key.
    fn public_key(&self) -> PublicKey;

    /// Signs a message as libp2p keys do.
    ///
    /// # Errors
    /// [`EnvelopeError::Signing`] when the key can't sign.
    fn sign_bytes(&self, message: &[u8]) -> Result<Vec<u8>, EnvelopeError>;
}

impl Signer for Keypair {
    fn public_key(&self) -> PublicKey {
        self.public()
    }

    fn sign_bytes(&self, message: &[u8]) -> Result<Vec<u8>, EnvelopeError> {
        self.sign(message).map_err(|error| EnvelopeError::Signing { reason: error.to_string() })
    }
}

/// Why an envelope was refused.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum EnvelopeError {
    /// The envelope itself is malformed.
    #[error(transparent)]
    Wire(#[from] WireError),
    /// It holds another kind of message.
    #[error("the envelope holds {got:?}, expected {expected:?}")]
    PayloadType {
        /// The payload type that came, cut to 64 bytes.
        got: String,
        /// The payload type that was asked for.
        expected: &'static str,
    },
    /// The public key can't be read, or is of a type that isn't used here.
    #[error("the signer's public key is unusable: {reason}")]
    PublicKey {
        /// What is wrong with it.
        reason: String,
    },
    /// The signature isn't the key's over these bytes.
    #[error("the signature of {signer} doesn't verify")]
    Signature {
        /// Whose key the envelope names.
        signer: PeerId,
    },
    /// The key can't sign.
    #[error("signing failed: {reason}")]
    Signing {
        /// What the key said.
        reason: String,
    },
}

impl EnvelopeError {
    /// Stable code of the error.
    #[must_use]
    pub const fn code(&self) -> &'static str {
        match self {
            Self::Wire(error) => error.code(),
            Self::PayloadType { .. } => "TRB-M011",
            Self::PublicKey { .. } => "TRB-M012",
            Self::Signature { .. } => "TRB-M013",
            Self::Signing { .. } => "TRB-M014",
        }
    }
}

/// The payload of an envelope whose signature has been verified.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Opened {
    /// The signer's key.
    pub signer: PublicKey,
    /// The signed bytes.
    pub payload: Vec<u8>,
}

impl Opened {
    /// SHA-256 of the signed bytes: the name of what was signed. (The envelope's own bytes are no name: a signature may have several valid
    /// encodings.)
    #[must_use]
    pub fn digest(&self) -> [u8; 32] {
        Sha256::digest(&self.payload).into()
    }
}

/// Signs a payload and returns the encoded envelope.
///
/// # Errors
/// [`EnvelopeError::Signing`] when the key can't sign.
pub fn seal<S: Signer + ?Sized>(
    signer: &S,
    payload_type: PayloadType,
    payload: Vec<u8>,
) -> Result<Vec<u8>, EnvelopeError> {
    let signature = signer.sign_bytes(&signed_bytes(payload_type, &payload))?;
    Ok(proto::SignedEnvelope {
        public_key: signer.public_key().encode_protobuf(),
        payload_type: payload_type.as_str().as_bytes().to_vec(),
        payload,
        signature,
    }
    .encode_to_vec())
}

/// Opens an encoded envelope of at most `limit` bytes: its kind, its key, its signature.
///
/// # Errors
/// The first check that fails, cheapest first.
pub fn open(payload_type: PayloadType, bytes: &[u8], limit: usize) -> Result<Opened, EnvelopeError> {
    open_any(&[payload_type], bytes, limit).map(|(_, opened)| opened)
}

/// As [`open`], for an envelope of one of several kinds; says which it was. `payload_types` is not empty.
///
/// # Errors
/// As [`open`].
pub fn open_any(
    payload_types: &[PayloadType],
    bytes: &[u8],
    limit: usize,
) -> Result<(PayloadType, Opened), EnvelopeError> {
    let envelope: proto::SignedEnvelope = wire::decode("signed envelope", bytes, limit)?;
    let Some(payload_type) =
        payload_types.iter().copied().find(|known| known.as_str().as_bytes() == envelope.payload_type)
    else {
        let shown = &envelope.payload_type[..envelope.payload_type.len().min(64)];
        return Err(EnvelopeError::PayloadType {
            got: String::from_utf8_lossy(shown).chars().filter(|c| !c.is_control()).collect(),
            expected: payload_types.first().map_or("nothing", |kind| kind.as_str()),
        });
    };
    let signer = public_key(&envelope.public_key)?;
    if !signer.verify(&signed_bytes(payload_type, &envelope.payload), &envelope.signature) {
        return Err(EnvelopeError::Signature { signer: signer.to_peer_id() });
    }
    let opened = Opened { signer, payload: envelope.payload };
    Ok((payload_type, opened))
}

/// Reads a libp2p public key from its protobuf encoding. There is one encoding of a key here: another one would let one key
/// pass for two.
///
/// # Errors
/// [`EnvelopeError::PublicKey`].
pub fn public_key(bytes: &[u8]) -> Result<PublicKey, EnvelopeError> {
    let unusable = |reason: String| EnvelopeError::PublicKey { reason };
    if bytes.len() > 64 {
        return Err(unusable(format!("{} bytes", bytes.len())));
    }
    let key = PublicKey::try_decode_protobuf(bytes).map_err(|error| unusable(error.to_string()))?;
    if key.encode_protobuf() != bytes {
        return Err(unusable("not in its canonical encoding".into()));
    }
    Ok(key)
}

fn signed_bytes(payload_type: PayloadType, payload: &[u8]) -> Vec<u8> {
    let mut bytes = Vec::with_capacity(payload.len() + 64);
    for part in [DOMAIN.as_bytes(), payload_type.as_str().as_bytes(), payload] {
        prost::encode_length_delimiter(part.len(), &mut bytes).expect("a vector grows as needed");
        bytes.extend_from_slice(part);
    }
    bytes
}

#[cfg(test)]
mod tests {
    use super::*;
    use libp2p::core::SignedEnvelope;

    const LIMIT: usize = 4096;

    #[test]
    fn agrees_with_libp2p_in_both_directions() {
        for keypair in [Keypair::generate_secp256k1(), Keypair::generate_ed25519()] {
            let ours = seal(&keypair, PayloadType::Offer, b"payload".to_vec()).unwrap();
            let theirs = SignedEnvelope::from_protobuf_encoding(&ours).unwrap();
            let (payload, key) = theirs.payload_and_signing_key(DOMAIN.into(), b"/tributary/offer/1").unwrap();
            assert_eq!(payload, b"payload");
            assert_eq!(key, &keypair.public());

            let theirs =
                SignedEnvelope::new(&keypair, DOMAIN.into(), b"/tributary/quote/1".to_vec(), b"other".to_vec())
                    .unwrap()
                    .into_protobuf_encoding();
            let opened = open(PayloadType::Quote, &theirs, LIMIT).unwrap();
            assert_eq!(opened.payload, b"other");
            assert_eq!(opened.signer, keypair.public());
        }
    }

    #[test]
    fn every_part_is_bound_by_the_signature() {
        let keypair = Keypair::generate_secp256k1();
        let bytes = seal(&keypair, PayloadType::Offer, b"payload".to_vec()).unwrap();
        let envelope = proto::SignedEnvelope::decode(bytes.as_slice()).unwrap();

        let mut other = envelope.clone();
        other.payload[0] ^= 1;
        let error = open(PayloadType::Offer, &other.encode_to_vec(), LIMIT).unwrap_err();
        assert_eq!(error.code(), "TRB-M013");

        let mut other = envelope.clone();
        other.public_key = Keypair::generate_secp256k1().public().encode_protobuf();
        let error = open(PayloadType::Offer, &other.encode_to_vec(), LIMIT).unwrap_err();
        assert_eq!(error.code(), "TRB-M013");

        // A signature made for one kind of message can't be moved to another.
        let mut other = envelope.clone();
        other.payload_type = PayloadType::Quote.as_str().into();
        let error = open(PayloadType::Quote, &other.encode_to_vec(), LIMIT).unwrap_err();
        assert_eq!(error.code(), "TRB-M013");

        let error = open(PayloadType::Quote, &bytes, LIMIT).unwrap_err();
        assert_eq!(error.code(), "TRB-M011");
    }

    #[test]
    fn malformed_envelopes_have_their_own_codes() {
        let keypair = Keypair::generate_secp256k1();
        let bytes = seal(&keypair, PayloadType::Offer, vec![1; LIMIT]).unwrap();
        assert_eq!(open(PayloadType::Offer, &bytes, LIMIT).unwrap_err().code(), "TRB-M001");
        assert_eq!(open(PayloadType::Offer, &[0xff], LIMIT).unwrap_err().code(), "TRB-M002");
        let envelope = proto::SignedEnvelope {
            public_key: vec![1, 2, 3],
            payload_type: PayloadType::Offer.as_str().into(),
            ..Default::default()
        };
        let error = open(PayloadType::Offer, &envelope.encode_to_vec(), LIMIT).unwrap_err();
        assert_eq!(error.code(), "TRB-M012");
    }

    #[test]
    fn a_key_has_one_encoding() {
        let mut bytes = Keypair::generate_secp256k1().public().encode_protobuf();
        assert!(public_key(&bytes).is_ok());
        // An unknown field that libp2p's decoder skips.
        bytes.extend_from_slice(&[0x78, 0x01]);
        assert_eq!(public_key(&bytes).unwrap_err().code(), "TRB-M012");
    }
}
