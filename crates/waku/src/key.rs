//! Node keys. A Waku node is identified by a secp256k1 key, because its ENR is.

use std::{
    fmt,
    io::{self, Write as _},
    path::Path,
};

use libp2p::{
    PeerId,
    identity::{Keypair, PublicKey, secp256k1},
};
use zeroize::Zeroizing;

/// A node's secret secp256k1 key. `Debug` shows the public PeerId only.
#[derive(Clone)]
pub struct NodeKey {
    secret: secp256k1::SecretKey,
    keypair: Keypair,
}

impl NodeKey {
    /// A fresh random key.
    #[must_use]
    pub fn generate() -> Self {
        Self::from_secret(secp256k1::SecretKey::generate())
    }

    /// From the 32 secret bytes, big-endian; the given array is zeroed.
    ///
    /// # Errors
    /// [`KeyError::Invalid`] if they are zero or not below the group's order.
    pub fn from_bytes(mut bytes: [u8; 32]) -> Result<Self, KeyError> {
        let secret = secp256k1::SecretKey::try_from_bytes(&mut bytes).map_err(|_| KeyError::Invalid)?;
        Ok(Self::from_secret(secret))
    }

    fn from_secret(secret: secp256k1::SecretKey) -> Self {
        let keypair = Keypair::from(secp256k1::Keypair::from(secret.clone()));
        Self { secret, keypair }
    }

    /// The 32 secret bytes.
    #[must_use]
    pub fn to_bytes(&self) -> Zeroizing<[u8; 32]> {
        Zeroizing::new(self.secret.to_bytes())
    }

    /// Reads a key file (64 hexadecimal digits), or makes a key and writes it, readable by its owner only.
    ///
    /// # Errors
    /// [`KeyError::File`] if the file can't be read or written, [`KeyError::Invalid`] if it holds no key.
    pub fn load_or_create(path: &Path) -> Result<Self, KeyError> {
        let failed = |source| KeyError::File { path: path.display().to_string(), source };
        match std::fs::read_to_string(path) {
            Ok(text) => {
                let text = Zeroizing::new(text);
                let mut bytes = [0; 32];
                hex::decode_to_slice(text.trim(), &mut bytes).map_err(|_| KeyError::Invalid)?;
                Self::from_bytes(bytes)
            }
            Err(e) if e.kind() == io::ErrorKind::NotFound => {
                let key = Self::generate();
                let text = Zeroizing::new(hex::encode(key.to_bytes().as_slice()));
                let mut options = std::fs::OpenOptions::new();
                options.write(true).create_new(true);
                #[cfg(unix)]
                std::os::unix::fs::OpenOptionsExt::mode(&mut options, 0o600);
                let mut file = options.open(path).map_err(failed)?;
                file.write_all(text.as_bytes()).and_then(|()| file.sync_all()).map_err(failed)?;
                Ok(key)
            }
            Err(e) => Err(failed(e)),
        }
    }

    /// The public identity, `16Uiu2HA..`.
    #[must_use]
    pub fn peer_id(&self) -> PeerId {
        self.keypair.public().to_peer_id()
    }

    /// The public key; its PeerId is [`NodeKey::peer_id`].
    #[must_use]
    pub fn public(&self) -> PublicKey {
        self.keypair.public()
    }

    /// Signs a message (ECDSA over its SHA-256, DER); [`PublicKey::verify`] checks it.
    #[must_use]
    pub fn sign(&self, message: &[u8]) -> Vec<u8> {
        self.secret.sign(message)
    }

    pub(crate) fn keypair(&self) -> Keypair {
        self.keypair.clone()
    }
}

impl fmt::Debug for NodeKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("NodeKey").field("peer_id", &self.peer_id().to_string()).finish_non_exhaustive()
    }
}

/// Why there is no node key.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum KeyError {
    /// Not a secret key.
    #[error("the node key must be 64 hexadecimal digits of a valid secp256k1 secret key")]
    Invalid,
    /// The key file.
    #[error("can't use the node key file {path}: {source}")]
    File {
        /// Its path.
        path: String,
        /// The system's error.
        source: io::Error,
    },
}

impl KeyError {
    /// Stable code of this error.
    #[must_use]
    pub const fn code(&self) -> &'static str {
        match self {
            Self::Invalid => "TRB-W111",
            Self::File { .. } => "TRB-W112",
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn key_file_keeps_the_identity() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("node.key");
        let key = NodeKey::load_or_create(&path).unwrap();
        assert!(key.peer_id().to_string().starts_with("16Uiu2HA"), "{}", key.peer_id());
        assert_eq!(NodeKey::load_or_create(&path).unwrap().peer_id(), key.peer_id());
        #[cfg(unix)]
        {
            use std::os::unix::fs::PermissionsExt as _;
            assert_eq!(std::fs::metadata(&path).unwrap().permissions().mode() & 0o777, 0o600);
        }
        let text = std::fs::read_to_string(&path).unwrap();
        assert!(!format!("{key:?}").contains(&text));
        std::fs::write(&path, "zz").unwrap();
        assert_eq!(NodeKey::load_or_create(&path).unwrap_err().code(), "TRB-W111");
        assert_eq!(NodeKey::from_bytes([0; 32]).unwrap_err().code(), "TRB-W111");
    }

    #[test]
    fn signatures_verify_under_the_public_key() {
        let key = NodeKey::generate();
        let signature = key.sign(b"offer");
        assert!(key.public().verify(b"offer", &signature));
        assert!(!key.public().verify(b"other", &signature));
    }
}
