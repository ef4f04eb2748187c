//! Keys from a BIP-39 seed, owners and payment addresses (docs: encodings, "Keys from a seed").

use std::{fmt, str::FromStr};

use alloy_primitives::{Address, U256};
use ark_ff::{BigInt, PrimeField, Zero};
use bech32::{Bech32m, Hrp, primitives::decode::CheckedHrpstring};
use hkdf::Hkdf;
use rand::{CryptoRng, RngCore};
use serde::{Deserialize, Deserializer, Serialize, Serializer};
use sha2::Sha512;
use zeroize::{Zeroize, ZeroizeOnDrop, Zeroizing};

use crate::{
    babyjub::{Point, Scalar, ViewingKey},
    error::{AddressError, KeyError},
    field::{FieldElement, Fr, field_newtype},
    note::{Commitment, Nullifier},
    poseidon::{Tag, hash},
};

/// Declares a secret field element: `Debug` redacts it, drop wipes it, no `Display`, no serde.
macro_rules! secret_field {
    ($(#[$meta:meta])* $name:ident) => {
        $(#[$meta])*
        #[derive(Clone, PartialEq, Eq, zeroize::Zeroize, zeroize::ZeroizeOnDrop)]
        pub struct $name($crate::field::Fr);

        impl $name {
            /// Wraps a secret field element.
            #[must_use]
            pub const fn new(secret: $crate::field::Fr) -> Self {
                Self(secret)
            }

            /// The secret itself; keep it out of logs, errors and arguments.
            #[must_use]
            pub const fn expose(&self) -> &$crate::field::Fr {
                &self.0
            }
        }

        impl std::fmt::Debug for $name {
            fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
                f.write_str(concat!(stringify!($name), "(redacted)"))
            }
        }
    };
}
pub(crate) use secret_field;

/// A pool on a chain: what keys, external data and manifests are bound to.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
pub struct PoolId {
    /// EIP-155 chain id.
    pub chain_id: u64,
    /// The pool contract.
    pub address: Address,
}

/// One account of a wallet in one pool.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
pub struct PoolScope {
    /// The pool.
    pub pool: PoolId,
    /// Account number; 0 is the first.
    pub account: u32,
}

/// A BIP-39 phrase (English). Wiped on drop, redacted in `Debug`.
#[derive(Clone, PartialEq, Eq)]
pub struct Mnemonic(bip39::Mnemonic);

impl Mnemonic {
    /// A fresh phrase of 24 words (256 bits).
    #[must_use]
    pub fn generate(rng: &mut (impl RngCore + CryptoRng)) -> Self {
        let mut entropy = Zeroizing::new([0_u8; 32]);
        rng.fill_bytes(entropy.as_mut());
        Self(bip39::Mnemonic::from_entropy(entropy.as_ref()).expect("32 bytes are valid entropy"))
    }

    /// Parses a phrase; extra white space is allowed.
    ///
    /// # Errors
    /// [`KeyError::Mnemonic`], which never repeats a word of the phrase.
    pub fn parse(phrase: &str) -> Result<Self, KeyError> {
        use bip39::Error as E;
        bip39::Mnemonic::parse_in(bip39::Language::English, phrase).map(Self).map_err(|error| KeyError::Mnemonic {
            reason: match error {
                E::BadWordCount(_) => "it must have 12, 15, 18, 21 or 24 words",
                E::UnknownWord(_) => "a word is not in the English BIP-39 list",
                E::InvalidChecksum => "its checksum does not match",
                _ => "it is no English BIP-39 phrase",
            },
        })
    }

    /// The words, separated by single spaces. Secret.
    #[must_use]
    pub fn expose(&self) -> Zeroizing<String> {
        Zeroizing::new(self.0.to_string())
    }

    /// The 64-byte seed; the passphrase is empty unless the user chose one.
    #[must_use]
    pub fn seed(&self, passphrase: &str) -> Seed {
        Seed(self.0.to_seed(passphrase))
    }
}

impl Drop for Mnemonic {
    fn drop(&mut self) {
        self.0.zeroize();
    }
}

impl fmt::Debug for Mnemonic {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Mnemonic(redacted)")
    }
}

/// The 64 bytes that all keys of a wallet are derived from.
#[derive(Clone, Zeroize, ZeroizeOnDrop)]
pub struct Seed([u8; 64]);

impl Seed {
    /// Wraps 64 secret bytes.
    #[must_use]
    pub const fn new(bytes: [u8; 64]) -> Self {
        Self(bytes)
    }

    /// The secret bytes.
    #[must_use]
    pub const fn expose(&self) -> &[u8; 64] {
        &self.0
    }

    /// All keys of one account in one pool.
    ///
    /// # Errors
    /// [`KeyError::InvalidSecret`] when a secret comes out as 0 (probability 2^-250).
    pub fn account(&self, scope: PoolScope) -> Result<AccountKeys, KeyError> {
        let spend = SpendKey::try_new(Fr::from_be_bytes_mod_order(self.derive("spend", &scope).as_ref()))?;
        let view = ViewSecret::try_new(Scalar::from_be_bytes_mod_order(self.derive("view", &scope).as_ref()))?;
        let payer = PayerKey::new(Fr::from_be_bytes_mod_order(self.derive("payer", &scope).as_ref()));
        if payer.expose().is_zero() {
            return Err(KeyError::InvalidSecret { what: "payer" });
        }
        let mut memo = [0_u8; 32];
        memo.copy_from_slice(&self.derive("memo", &scope)[..32]);
        let address = PaymentAddress::new(spend.public(), view.public());
        Ok(AccountKeys { scope, owner: address.owner(), address, spend, view, payer, memo: MemoKey(memo) })
    }

    fn derive(&self, label: &str, scope: &PoolScope) -> Zeroizing<[u8; 64]> {
        let mut info = Vec::with_capacity(label.len() + 56);
        info.extend_from_slice(label.as_bytes());
        info.extend_from_slice(&U256::from(scope.pool.chain_id).to_be_bytes::<32>());
        info.extend_from_slice(scope.pool.address.as_slice());
        info.extend_from_slice(&scope.account.to_be_bytes());
        let mut output = Zeroizing::new([0_u8; 64]);
        Hkdf::<Sha512>::new(Some(b"tributary.v1"), &self.0)
            .expand(&info, output.as_mut())
            .expect("64 bytes are one block of HKDF-SHA512");
        output
    }
}

impl fmt::Debug for Seed {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Seed(redacted)")
    }
}

secret_field! {
    /// Spending key `sk`, never 0.
    SpendKey
}

impl SpendKey {
    /// Checks that the secret is not 0.
    ///
    /// # Errors
    /// [`KeyError::InvalidSecret`].
    pub fn try_new(secret: Fr) -> Result<Self, KeyError> {
        if secret.is_zero() { Err(KeyError::InvalidSecret { what: "spend" }) } else { Ok(Self(secret)) }
    }

    /// A fresh one (for dummy inputs).
    #[must_use]
    pub fn random(rng: &mut (impl RngCore + CryptoRng)) -> Self {
        loop {
            if let Ok(key) = Self::try_new(Fr::random(rng)) {
                return key;
            }
        }
    }

    /// `pk = H_PK(sk)`.
    #[must_use]
    pub fn public(&self) -> SpendPublicKey {
        SpendPublicKey::new(hash(Tag::SpendPublicKey, &[self.0]))
    }

    /// Nullifier of the value note with this commitment.
    #[must_use]
    pub fn nullifier(&self, commitment: Commitment) -> Nullifier {
        Nullifier::new(hash(Tag::Nullifier, &[self.0, commitment.to_fr()]))
    }
}

secret_field! {
    /// The key `k` from which the payer secrets of an account's streams are derived.
    PayerKey
}

field_newtype! {
    /// Spending public key `pk`.
    SpendPublicKey
}

field_newtype! {
    /// Owner of a note, or payee of a stream: a hash of the spending public key and the viewing key.
    Owner
}

impl Owner {
    /// `H_OWNER(pk, V.x, V.y)` of raw coordinates (a dummy's may be 0).
    #[must_use]
    pub fn derive(key: SpendPublicKey, view_x: Fr, view_y: Fr) -> Self {
        Self::new(hash(Tag::Owner, &[key.to_fr(), view_x, view_y]))
    }
}

/// Secret viewing key v, 0 < v < l.
#[derive(Clone, Zeroize, ZeroizeOnDrop)]
pub struct ViewSecret {
    v: Scalar,
    #[zeroize(skip)]
    public: ViewingKey,
}

impl ViewSecret {
    /// Checks that the secret is not 0.
    ///
    /// # Errors
    /// [`KeyError::InvalidSecret`].
    pub fn try_new(v: Scalar) -> Result<Self, KeyError> {
        if v.is_zero() {
            return Err(KeyError::InvalidSecret { what: "view" });
        }
        Ok(Self { public: ViewingKey::of_secret(&v), v })
    }

    /// The public viewing key V.
    #[must_use]
    pub const fn public(&self) -> ViewingKey {
        self.public
    }

    /// The secret scalar.
    pub fn expose(&self) -> BigInt<4> {
        self.v.into_bigint()
    }

    /// The shared point `K = v * E`.
    #[must_use]
    pub(crate) fn shared(&self, ephemeral: &Point) -> Point {
        ephemeral.mul(&self.v)
    }
}

impl fmt::Debug for ViewSecret {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("ViewSecret").field("public", &self.public).finish_non_exhaustive()
    }
}

/// Key of the payer's own memos (XChaCha20-Poly1305).
#[derive(Clone, Zeroize, ZeroizeOnDrop)]
pub struct MemoKey([u8; 32]);

impl MemoKey {
    /// Wraps a secret key.
    #[must_use]
    pub const fn new(key: [u8; 32]) -> Self {
        Self(key)
    }

    /// The secret key.
    #[must_use]
    pub const fn expose(&self) -> &[u8; 32] {
        &self.0
    }
}

impl fmt::Debug for MemoKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("MemoKey(redacted)")
    }
}

/// All keys of one account in one pool.
#[derive(Clone, Debug)]
pub struct AccountKeys {
    /// Where the keys are good.
    pub scope: PoolScope,
    /// Spending key.
    pub spend: SpendKey,
    /// Viewing key.
    pub view: ViewSecret,
    /// Payer key.
    pub payer: PayerKey,
    /// Memo key.
    pub memo: MemoKey,
    address: PaymentAddress,
    owner: Owner,
}

impl AccountKeys {
    /// Where others pay to.
    #[must_use]
    pub const fn address(&self) -> PaymentAddress {
        self.address
    }

    /// The owner in this account's notes.
    #[must_use]
    pub const fn owner(&self) -> Owner {
        self.owner
    }
}

/// Where to pay to: the spending public key and the viewing key, in bech32m with the prefix `trib`.
#[derive(Clone, Copy, PartialEq, Eq, Hash)]
pub struct PaymentAddress {
    spend: SpendPublicKey,
    view: ViewingKey,
}

impl PaymentAddress {
    /// The human-readable part.
    pub const PREFIX: &'static str = "trib";
    /// The version byte.
    pub const VERSION: u8 = 1;
    const LENGTH: usize = 65;

    /// An address from its parts.
    #[must_use]
    pub const fn new(spend: SpendPublicKey, view: ViewingKey) -> Self {
        Self { spend, view }
    }

    /// The spending public key.
    #[must_use]
    pub const fn spend(&self) -> SpendPublicKey {
        self.spend
    }

    /// The viewing key.
    #[must_use]
    pub const fn view(&self) -> ViewingKey {
        self.view
    }

    /// The owner in notes that are paid to this address.
    #[must_use]
    pub fn owner(&self) -> Owner {
        Owner::derive(self.spend, self.view.point().x(), self.view.point().y())
    }

    /// Version byte, pk, compressed V.
    #[must_use]
    pub fn to_bytes(&self) -> [u8; 65] {
        let mut bytes = [0; Self::LENGTH];
        bytes[0] = Self::VERSION;
        bytes[1..33].copy_from_slice(&self.spend.to_be_bytes());
        bytes[33..].copy_from_slice(&self.view.point().compress());
        bytes
    }

    /// The inverse of [`PaymentAddress::to_bytes`].
    ///
    /// # Errors
    /// [`AddressError`]: version, length, or a key that must not be paid to.
    pub fn from_bytes(bytes: &[u8]) -> Result<Self, AddressError> {
        match bytes.first() {
            None => return Err(AddressError::Length { found: 0 }),
            Some(&Self::VERSION) => {}
            Some(&found) => return Err(AddressError::Version { found }),
        }
        let bytes: &[u8; Self::LENGTH] = bytes.try_into().map_err(|_| AddressError::Length { found: bytes.len() })?;
        let mut half = [0; 32];
        half.copy_from_slice(&bytes[1..33]);
        let spend = SpendPublicKey::try_from_be_bytes(&half).map_err(AddressError::SpendKey)?;
        half.copy_from_slice(&bytes[33..]);
        let view = Point::decompress(&half).and_then(ViewingKey::new).map_err(AddressError::ViewingKey)?;
        Ok(Self { spend, view })
    }
}

impl fmt::Display for PaymentAddress {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let prefix = Hrp::parse_unchecked(Self::PREFIX);
        bech32::encode_to_fmt::<Bech32m, _>(f, prefix, &self.to_bytes()).map_err(|_| fmt::Error)
    }
}

impl fmt::Debug for PaymentAddress {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "PaymentAddress({self})")
    }
}

impl FromStr for PaymentAddress {
    type Err = AddressError;
    fn from_str(text: &str) -> Result<Self, AddressError> {
        let checked = CheckedHrpstring::new::<Bech32m>(text).map_err(|_| AddressError::Encoding)?;
        let prefix = checked.hrp();
        if prefix.to_lowercase() != Self::PREFIX {
            return Err(AddressError::Prefix { found: prefix.to_lowercase() });
        }
        let address = Self::from_bytes(&checked.byte_iter().collect::<Vec<u8>>())?;
        // The decoder drops bits beyond the last whole byte; an address has one text only.
        if address.to_string().eq_ignore_ascii_case(text) { Ok(address) } else { Err(AddressError::Encoding) }
    }
}

impl Serialize for PaymentAddress {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

impl<'de> Deserialize<'de> for PaymentAddress {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        String::deserialize(deserializer)?.parse().map_err(serde::de::Error::custom)
    }
}
