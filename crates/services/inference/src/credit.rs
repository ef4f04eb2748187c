//! Make-good credits: what a provider owes for an answer that failed, made out to a key that the buyer used for nothing else.

use std::fmt;
use std::path::Path;

use ed25519_dalek::{Signature, Signer as _, SigningKey, VerifyingKey};
use prost::Message as _;
use sha2::{Digest as _, Sha256};
use sqlx::SqlitePool;
use sqlx::sqlite::{SqliteConnectOptions, SqliteJournalMode, SqlitePoolOptions, SqliteSynchronous};
use tributary_market::offer::ServiceId;
use tributary_market::wire::{self, WireError};
use tributary_protocol::UnixTime;
use tributary_waku::{NodeKey, PeerId, PublicKey};

use crate::proto;

const CREDIT_DOMAIN: &[u8] = b"tributary.inference.credit.v1";
const REDEEM_DOMAIN: &[u8] = b"tributary.inference.redeem.v1";
/// Bytes of an encoded credit at most.
const MAX_CREDIT_BYTES: usize = 256;
/// Bytes of a node's signature at most.
const MAX_SIGNATURE_BYTES: usize = 128;
/// Tickets that one credit is worth at most: as many as one proof holds.
const MAX_TICKETS: u64 = 4;

/// The key that a credit is made out to. Ed25519, made for one prompt.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct CreditKey([u8; 32]);

impl CreditKey {
    /// The public half of `key`.
    #[must_use]
    pub fn of(key: &SigningKey) -> Self {
        Self(key.verifying_key().to_bytes())
    }

    /// Reads it from 32 bytes.
    ///
    /// # Errors
    /// [`WireError::Length`].
    pub fn from_bytes(bytes: &[u8]) -> Result<Self, WireError> {
        wire::fixed("credit_key", bytes).map(Self)
    }

    /// Its bytes.
    #[must_use]
    pub const fn as_bytes(&self) -> &[u8; 32] {
        &self.0
    }
}

/// A credit's content.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Credit {
    /// The service that takes it.
    pub service: ServiceId,
    /// Whom it is made out to.
    pub key: CreditKey,
    /// Tickets that it is worth, 1 to 4.
    pub tickets: u32,
    /// Taken until then.
    pub expires_at: UnixTime,
}

/// A credit with its provider's signature.
#[derive(Clone, PartialEq, Eq)]
pub struct SignedCredit {
    credit: Vec<u8>,
    signature: Vec<u8>,
}

impl fmt::Debug for SignedCredit {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("SignedCredit")
    }
}

/// Why a credit isn't taken.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum CreditError {
    /// A field isn't what it must be.
    #[error(transparent)]
    Wire(#[from] WireError),
    /// The provider's signature.
    #[error("the credit isn't signed by this provider")]
    NotSigned,
    /// The buyer's signature.
    #[error("the credit's key didn't sign this prompt")]
    NotRedeemed,
    /// Of another service.
    #[error("the credit is of service {found}, this is {expected}")]
    OtherService {
        /// The credit's.
        found: ServiceId,
        /// This one.
        expected: ServiceId,
    },
    /// Too late.
    #[error("the credit was taken until {expires_at}, now is {now}")]
    Expired {
        /// Its end.
        expires_at: UnixTime,
        /// Now.
        now: UnixTime,
    },
    /// Worth less than the prompt takes.
    #[error("the credit is worth {tickets} tickets, the prompt takes {needed}")]
    TooSmall {
        /// Its worth.
        tickets: u32,
        /// What is needed.
        needed: u64,
    },
    /// Used before.
    #[error("the credit was used before")]
    Used,
    /// The store.
    #[error("the credit store can't be written or read: {reason}; free disk space or repair the disk")]
    Store {
        /// What the database said.
        reason: String,
    },
}

impl CreditError {
    /// The stable code of the error.
    #[must_use]
    pub const fn code(&self) -> &'static str {
        match self {
            Self::Wire(error) => error.code(),
            Self::NotSigned => "TRB-N101",
            Self::NotRedeemed => "TRB-N102",
            Self::OtherService { .. } => "TRB-N103",
            Self::Expired { .. } => "TRB-N104",
            Self::TooSmall { .. } => "TRB-N105",
            Self::Used => "TRB-N106",
            Self::Store { .. } => "TRB-N107",
        }
    }
}

impl From<sqlx::Error> for CreditError {
    fn from(error: sqlx::Error) -> Self {
        Self::Store { reason: error.to_string() }
    }
}

impl Credit {
    /// Signs it with the provider's node key.
    #[must_use]
    pub fn sign(&self, key: &NodeKey) -> SignedCredit {
        let credit = proto::Credit {
            version: 1,
            service: self.service.to_string(),
            key: self.key.0.to_vec(),
            tickets: self.tickets,
            expires_at: self.expires_at.get(),
        }
        .encode_to_vec();
        let signature = key.sign(&signing_bytes(&credit));
        SignedCredit { credit, signature }
    }
}

fn signing_bytes(credit: &[u8]) -> Vec<u8> {
    [CREDIT_DOMAIN, credit].concat()
}

impl SignedCredit {
    pub(crate) fn to_proto(&self) -> proto::SignedCredit {
        proto::SignedCredit { credit: self.credit.clone(), signature: self.signature.clone() }
    }

    pub(crate) fn from_proto(signed: proto::SignedCredit) -> Result<Self, WireError> {
        wire::in_range("credit", signed.credit.len() as u64, 1, MAX_CREDIT_BYTES as u64)?;
        wire::in_range("signature", signed.signature.len() as u64, 1, MAX_SIGNATURE_BYTES as u64)?;
        Ok(Self { credit: signed.credit, signature: signed.signature })
    }

    /// Its bytes, for a file.
    #[must_use]
    pub fn encode(&self) -> Vec<u8> {
        self.to_proto().encode_to_vec()
    }

    /// Reads what [`Self::encode`] wrote.
    ///
    /// # Errors
    /// [`WireError`].
    pub fn decode(bytes: &[u8]) -> Result<Self, WireError> {
        Self::from_proto(wire::decode("credit", bytes, MAX_CREDIT_BYTES + MAX_SIGNATURE_BYTES + 16)?)
    }

    /// Reads the credit if `provider` signed it.
    ///
    /// # Errors
    /// [`CreditError::NotSigned`], [`CreditError::Wire`].
    pub fn verify(&self, provider: &PublicKey) -> Result<Credit, CreditError> {
        if !provider.verify(&signing_bytes(&self.credit), &self.signature) {
            return Err(CreditError::NotSigned);
        }
        let credit: proto::Credit = wire::decode("credit", &self.credit, MAX_CREDIT_BYTES)?;
        wire::check_version("credit", credit.version)?;
        let tickets = wire::in_range("tickets", credit.tickets.into(), 1, MAX_TICKETS)?;
        let expires_at = UnixTime::new(credit.expires_at)
            .map_err(|error| WireError::Invalid { field: "expires_at", reason: error.to_string() })?;
        Ok(Credit {
            service: credit.service.parse()?,
            key: CreditKey::from_bytes(&credit.key)?,
            tickets: u32::try_from(tickets).unwrap_or(u32::MAX),
            expires_at,
        })
    }

    fn redeem_bytes(&self, prompt: &[u8]) -> Vec<u8> {
        let digest = Sha256::digest(prompt);
        [REDEEM_DOMAIN, &(self.credit.len() as u64).to_be_bytes(), &self.credit, &digest].concat()
    }

    /// The signature that spends it on `prompt`.
    #[must_use]
    pub fn redeem(&self, key: &SigningKey, prompt: &[u8]) -> [u8; 64] {
        key.sign(&self.redeem_bytes(prompt)).to_bytes()
    }

    /// Whether the credit's key spends it on `prompt`.
    ///
    /// # Errors
    /// [`CreditError::NotRedeemed`].
    pub fn check_redemption(&self, key: &CreditKey, signature: &[u8; 64], prompt: &[u8]) -> Result<(), CreditError> {
        VerifyingKey::from_bytes(&key.0)
            .and_then(|key| key.verify_strict(&self.redeem_bytes(prompt), &Signature::from_bytes(signature)))
            .map_err(|_| CreditError::NotRedeemed)
    }
}

/// The public key of a provider whose id holds it, as those of secp256k1 and Ed25519 do.
#[must_use]
pub fn public_key_of(peer: &PeerId) -> Option<PublicKey> {
    const IDENTITY: u64 = 0;
    let hash = peer.as_ref();
    if hash.code() != IDENTITY {
        return None;
    }
    PublicKey::try_decode_protobuf(hash.digest()).ok()
}

/// Credits that were used, on disk: each is good once, also after a kill.
#[derive(Debug, Clone)]
pub struct CreditStore {
    pool: SqlitePool,
}

impl CreditStore {
    /// Opens or makes the store.
    ///
    /// # Errors
    /// [`CreditError::Store`].
    pub async fn open(path: &Path) -> Result<Self, CreditError> {
        let options = SqliteConnectOptions::new()
            .filename(path)
            .create_if_missing(true)
            .journal_mode(SqliteJournalMode::Wal)
            .synchronous(SqliteSynchronous::Full);
        let pool = SqlitePoolOptions::new().max_connections(1).connect_with(options).await?;
        sqlx::query(
            "CREATE TABLE IF NOT EXISTS used_credits (key BLOB PRIMARY KEY NOT NULL, expires_at INTEGER NOT NULL) WITHOUT ROWID",
        )
        .execute(&pool)
        .await?;
        Ok(Self { pool })
    }

    /// Marks a credit as used. When it returns, the mark is on disk.
    ///
    /// # Errors
    /// [`CreditError::Used`], [`CreditError::Store`].
    pub async fn spend(&self, credit: &Credit) -> Result<(), CreditError> {
        let expires_at = i64::try_from(credit.expires_at.get()).unwrap_or(i64::MAX);
        let done = sqlx::query("INSERT OR IGNORE INTO used_credits (key, expires_at) VALUES (?, ?)")
            .bind(&credit.key.0[..])
            .bind(expires_at)
            .execute(&self.pool)
            .await?;
        if done.rows_affected() == 1 { Ok(()) } else { Err(CreditError::Used) }
    }

    /// Forgets credits that are refused by their age. `margin` seconds later than their end, so that a clock that is set back revives none.
    ///
    /// # Errors
    /// [`CreditError::Store`].
    pub async fn prune(&self, now: UnixTime, margin: u64) -> Result<u64, CreditError> {
        let before = i64::try_from(now.get().saturating_sub(margin)).unwrap_or(i64::MAX);
        let done =
            sqlx::query("DELETE FROM used_credits WHERE expires_at < ?").bind(before).execute(&self.pool).await?;
        Ok(done.rows_affected())
    }

    /// Closes the database.
    pub async fn close(&self) {
        self.pool.close().await;
    }
}
