//! The seed phrase on disk, encrypted under a password.

use std::{
    fs::{self, File, OpenOptions},
    io::{ErrorKind, Write},
    path::{Path, PathBuf},
};

use chacha20poly1305::{
    XChaCha20Poly1305, XNonce,
    aead::{Aead, KeyInit, Payload},
};
use rand::RngCore;
use serde::{Deserialize, Serialize};
use tributary_protocol::{Mnemonic, Seed};
use zeroize::{Zeroize, ZeroizeOnDrop, Zeroizing};

const VERSION: u32 = 1;
const SALT_BYTES: usize = 32;
const NONCE_BYTES: usize = 24;
/// A vault is a few hundred bytes; a file beyond this is none.
const MOST_BYTES: u64 = 16 * 1024;

/// What a password costs an attacker: parameters of scrypt (RFC 7914).
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct PasswordCost {
    /// Base-2 logarithm of N, 10 to 22. Memory is `2^log_n * r * 128` bytes.
    pub log_n: u8,
    /// Block size, 1 to 16.
    pub r: u32,
    /// Parallelism, 1 to 16.
    pub p: u32,
}

impl Default for PasswordCost {
    /// 128 MiB and about half a second.
    fn default() -> Self {
        Self { log_n: 17, r: 8, p: 1 }
    }
}

impl PasswordCost {
    /// For tests only: a password protects nothing at this cost.
    pub const INSECURE: Self = Self { log_n: 10, r: 8, p: 1 };

    /// A vault's file may come from elsewhere: it must not make us take gigabytes.
    fn params(self) -> Result<scrypt::Params, VaultError> {
        if !(10..=22).contains(&self.log_n) || !(1..=16).contains(&self.r) || !(1..=16).contains(&self.p) {
            return Err(VaultError::Malformed { what: "the password cost" });
        }
        scrypt::Params::new(self.log_n, self.r, self.p).map_err(|_| VaultError::Malformed { what: "the password cost" })
    }
}

/// Why a vault cannot be made or opened. No variant carries a secret.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum VaultError {
    /// The file system failed.
    #[error("the wallet's seed file {path}: {source}", path = path.display())]
    Io {
        /// The file.
        path: PathBuf,
        /// Why.
        source: std::io::Error,
    },
    /// A seed file is there already. It is never overwritten.
    #[error("there is a seed file at {path} already; open it, or choose another folder for a new wallet", path = path.display())]
    Exists {
        /// The file.
        path: PathBuf,
    },
    /// Not a seed file.
    #[error("this is not a seed file of this program: {what} is wrong; restore from the phrase instead")]
    Malformed {
        /// Which part.
        what: &'static str,
    },
    /// Written by a later version.
    #[error("the seed file has version {found}, this program knows {supported}; use a newer program")]
    Version {
        /// The file's.
        found: u32,
        /// The only one understood.
        supported: u32,
    },
    /// The password is wrong or the file was changed; the two look alike.
    #[error("the password is wrong, or the seed file was changed")]
    WrongPassword,
}

impl VaultError {
    /// Stable code of the error.
    #[must_use]
    pub const fn code(&self) -> &'static str {
        match self {
            Self::Io { .. } => "TRB-3101",
            Self::Exists { .. } => "TRB-3102",
            Self::Malformed { .. } => "TRB-3103",
            Self::Version { .. } => "TRB-3104",
            Self::WrongPassword => "TRB-3105",
        }
    }
}

/// A password. Wiped on drop, redacted in `Debug`.
#[derive(Clone, Zeroize, ZeroizeOnDrop)]
pub struct Password(String);

impl Password {
    /// Wraps a password.
    #[must_use]
    pub fn new(password: impl Into<String>) -> Self {
        Self(password.into())
    }
}

impl std::fmt::Debug for Password {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Password(redacted)")
    }
}

#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct VaultFile {
    version: u32,
    kdf: String,
    cost: PasswordCost,
    salt: String,
    cipher: String,
    nonce: String,
    ciphertext: String,
}

#[derive(Serialize, Deserialize, Zeroize, ZeroizeOnDrop)]
struct Plain {
    phrase: String,
    passphrase: String,
}

/// An opened seed file.
#[derive(Debug)]
pub struct Vault {
    mnemonic: Mnemonic,
    seed: Seed,
}

impl Vault {
    /// Writes a new seed file, readable by its owner only, and makes sure it is on the disk before it returns.
    ///
    /// # Errors
    /// [`VaultError::Exists`] rather than overwrite; [`VaultError::Io`].
    pub fn create(
        path: &Path,
        mnemonic: Mnemonic,
        passphrase: &str,
        password: &Password,
        cost: PasswordCost,
    ) -> Result<Self, VaultError> {
        let mut salt = [0; SALT_BYTES];
        let mut nonce = [0; NONCE_BYTES];
        rand::rngs::OsRng.fill_bytes(&mut salt);
        rand::rngs::OsRng.fill_bytes(&mut nonce);
        let key = derive(password, &salt, cost)?;
        let plain = Plain { phrase: mnemonic.expose().to_string(), passphrase: passphrase.to_owned() };
        let plain =
            Zeroizing::new(serde_json::to_vec(&plain).map_err(|_| VaultError::Malformed { what: "the phrase" })?);
        let ciphertext = XChaCha20Poly1305::new(key.as_ref().into())
            .encrypt(XNonce::from_slice(&nonce), Payload { msg: &plain, aad: &associated(cost, &salt) })
            .map_err(|_| VaultError::Malformed { what: "the phrase" })?;
        let file = VaultFile {
            version: VERSION,
            kdf: "scrypt".to_owned(),
            cost,
            salt: hex::encode(salt),
            cipher: "xchacha20poly1305".to_owned(),
            nonce: hex::encode(nonce),
            ciphertext: hex::encode(ciphertext),
        };
        let json = serde_json::to_vec_pretty(&file).map_err(|_| VaultError::Malformed { what: "the file" })?;
        write_new(path, &json)?;
        let seed = mnemonic.seed(passphrase);
        Ok(Self { mnemonic, seed })
    }

    /// Opens a seed file.
    ///
    /// # Errors
    /// [`VaultError::WrongPassword`], [`VaultError::Malformed`], [`VaultError::Version`], [`VaultError::Io`].
    pub fn open(path: &Path, password: &Password) -> Result<Self, VaultError> {
        let io = |source| VaultError::Io { path: path.to_owned(), source };
        if fs::metadata(path).map_err(io)?.len() > MOST_BYTES {
            return Err(VaultError::Malformed { what: "its length" });
        }
        let file: VaultFile = serde_json::from_slice(&fs::read(path).map_err(io)?)
            .map_err(|_| VaultError::Malformed { what: "its JSON" })?;
        if file.version != VERSION {
            return Err(VaultError::Version { found: file.version, supported: VERSION });
        }
        if file.kdf != "scrypt" || file.cipher != "xchacha20poly1305" {
            return Err(VaultError::Malformed { what: "the cipher" });
        }
        let bytes = |text: &str, what| hex::decode(text).map_err(|_| VaultError::Malformed { what });
        let salt = bytes(&file.salt, "the salt")?;
        let nonce = bytes(&file.nonce, "the nonce")?;
        let ciphertext = bytes(&file.ciphertext, "the ciphertext")?;
        if salt.len() != SALT_BYTES || nonce.len() != NONCE_BYTES {
            return Err(VaultError::Malformed { what: "the salt or nonce" });
        }
        let key = derive(password, &salt, file.cost)?;
        let plain = XChaCha20Poly1305::new(key.as_ref().into())
            .decrypt(XNonce::from_slice(&nonce), Payload { msg: &ciphertext, aad: &associated(file.cost, &salt) })
            .map(Zeroizing::new)
            .map_err(|_| VaultError::WrongPassword)?;
        let plain: Plain = serde_json::from_slice(&plain).map_err(|_| VaultError::Malformed { what: "the phrase" })?;
        let mnemonic = Mnemonic::parse(&plain.phrase).map_err(|_| VaultError::Malformed { what: "the phrase" })?;
        let seed = mnemonic.seed(&plain.passphrase);
        Ok(Self { mnemonic, seed })
    }

    /// The phrase, to show it to its owner.
    #[must_use]
    pub const fn mnemonic(&self) -> &Mnemonic {
        &self.mnemonic
    }

    /// The seed that all keys are derived from.
    #[must_use]
    pub const fn seed(&self) -> &Seed {
        &self.seed
    }
}

fn associated(cost: PasswordCost, salt: &[u8]) -> Vec<u8> {
    let mut aad = b"tributary.vault.v1".to_vec();
    aad.push(cost.log_n);
    aad.extend_from_slice(&cost.r.to_be_bytes());
    aad.extend_from_slice(&cost.p.to_be_bytes());
    aad.extend_from_slice(salt);
    aad
}

fn derive(password: &Password, salt: &[u8], cost: PasswordCost) -> Result<Zeroizing<[u8; 32]>, VaultError> {
    let mut key = Zeroizing::new([0; 32]);
    scrypt::scrypt(password.0.as_bytes(), salt, &cost.params()?, key.as_mut())
        .map_err(|_| VaultError::Malformed { what: "the password cost" })?;
    Ok(key)
}

/// Writes beside the final name and links it there: what is at `path` is whole or absent, and never replaced.
fn write_new(path: &Path, bytes: &[u8]) -> Result<(), VaultError> {
    let io = |source| VaultError::Io { path: path.to_owned(), source };
    let folder = path.parent().filter(|p| !p.as_os_str().is_empty()).unwrap_or(Path::new("."));
    let mut suffix = [0; 8];
    rand::rngs::OsRng.fill_bytes(&mut suffix);
    let temporary = path.with_extension(format!("new-{}", hex::encode(suffix)));
    let mut options = OpenOptions::new();
    options.write(true).create_new(true);
    #[cfg(unix)]
    std::os::unix::fs::OpenOptionsExt::mode(&mut options, 0o600);
    let written = (|| {
        let mut file = options.open(&temporary)?;
        file.write_all(bytes)?;
        file.sync_all()?;
        fs::hard_link(&temporary, path)
    })();
    let removed = fs::remove_file(&temporary);
    match written {
        Err(error) if error.kind() == ErrorKind::AlreadyExists => {
            return Err(VaultError::Exists { path: path.to_owned() });
        }
        other => other.map_err(io)?,
    }
    removed.map_err(io)?;
    File::open(folder).and_then(|f| f.sync_all()).map_err(io)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn phrase() -> Mnemonic {
        Mnemonic::parse("abandon abandon abandon abandon abandon abandon abandon abandon abandon abandon abandon about")
            .unwrap()
    }

    #[test]
    fn a_vault_opens_with_its_password_only() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("seed.json");
        let password = Password::new("correct horse");
        Vault::create(&path, phrase(), "", &password, PasswordCost::INSECURE).unwrap();
        let text = fs::read_to_string(&path).unwrap();
        assert!(!text.contains("abandon"));
        #[cfg(unix)]
        assert_eq!(std::os::unix::fs::PermissionsExt::mode(&fs::metadata(&path).unwrap().permissions()) & 0o777, 0o600);
        let opened = Vault::open(&path, &password).unwrap();
        assert_eq!(opened.mnemonic(), &phrase());
        assert_eq!(opened.seed().expose(), phrase().seed("").expose());
        assert!(matches!(Vault::open(&path, &Password::new("correct hors")), Err(VaultError::WrongPassword)));
        assert_eq!(fs::read_dir(dir.path()).unwrap().count(), 1, "no temporary file is left");
    }

    #[test]
    fn a_vault_is_never_overwritten() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("seed.json");
        let password = Password::new("a");
        Vault::create(&path, phrase(), "", &password, PasswordCost::INSECURE).unwrap();
        let before = fs::read(&path).unwrap();
        let other = Mnemonic::generate(&mut rand::rngs::OsRng);
        let refused = Vault::create(&path, other, "", &password, PasswordCost::INSECURE).unwrap_err();
        assert!(matches!(refused, VaultError::Exists { .. }), "{refused}");
        assert_eq!(fs::read(&path).unwrap(), before);
    }

    #[test]
    fn a_changed_vault_is_refused() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("seed.json");
        let password = Password::new("a");
        Vault::create(&path, phrase(), "x", &password, PasswordCost::INSECURE).unwrap();
        let good: serde_json::Value = serde_json::from_slice(&fs::read(&path).unwrap()).unwrap();
        let refuse = |change: &dyn Fn(&mut serde_json::Value)| {
            let mut bad = good.clone();
            change(&mut bad);
            fs::write(&path, serde_json::to_vec(&bad).unwrap()).unwrap();
            Vault::open(&path, &password).unwrap_err().code()
        };
        assert_eq!(refuse(&|v| v["cost"]["p"] = 2.into()), "TRB-3105");
        assert_eq!(refuse(&|v| v["cost"]["log_n"] = 40.into()), "TRB-3103");
        assert_eq!(refuse(&|v| v["version"] = 2.into()), "TRB-3104");
        assert_eq!(refuse(&|v| v["ciphertext"] = "00".into()), "TRB-3105");
        assert_eq!(refuse(&|v| v["surprise"] = 1.into()), "TRB-3103");
    }
}
