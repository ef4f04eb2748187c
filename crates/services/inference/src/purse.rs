//! Make-good credits that a buyer holds.

use std::fs;
use std::io::Write as _;
use std::os::unix::fs::OpenOptionsExt as _;
use std::path::{Path, PathBuf};

use ed25519_dalek::SigningKey;
use parking_lot::Mutex;
use serde::{Deserialize, Serialize};
use tributary_market::offer::ServiceId;
use tributary_protocol::UnixTime;
use tributary_waku::PeerId;
use zeroize::Zeroizing;

use crate::credit::{Credit, SignedCredit};
use crate::error::InferenceError;

/// Credits that are kept at most; the ones that end first go first.
const MAX_CREDITS: usize = 256;

#[derive(Clone, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct Held {
    provider: String,
    service: ServiceId,
    tickets: u32,
    expires_at: u64,
    credit: String,
    #[serde(with = "secret")]
    key: Zeroizing<String>,
}

mod secret {
    use serde::{Deserialize, Deserializer, Serialize, Serializer};
    use zeroize::Zeroizing;

    pub(super) fn serialize<S: Serializer>(text: &Zeroizing<String>, serializer: S) -> Result<S::Ok, S::Error> {
        text.as_str().serialize(serializer)
    }

    pub(super) fn deserialize<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Zeroizing<String>, D::Error> {
        String::deserialize(deserializer).map(Zeroizing::new)
    }
}

/// A credit with the key that spends it.
pub(crate) struct OwnCredit {
    pub(crate) signed: SignedCredit,
    pub(crate) key: SigningKey,
}

/// Credits on disk, readable by their owner only.
pub struct CreditPurse {
    path: PathBuf,
    held: Mutex<Vec<Held>>,
}

impl std::fmt::Debug for CreditPurse {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("CreditPurse").field("credits", &self.held.lock().len()).finish_non_exhaustive()
    }
}

impl CreditPurse {
    /// Opens the purse, or begins one.
    ///
    /// # Errors
    /// [`InferenceError::Book`].
    pub fn open(path: &Path) -> Result<Self, InferenceError> {
        let failed = |reason: String| InferenceError::Book { path: path.to_owned(), reason };
        let held = match fs::read(path) {
            Ok(bytes) => serde_json::from_slice(&Zeroizing::new(bytes)).map_err(|error| failed(error.to_string()))?,
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => Vec::new(),
            Err(error) => return Err(failed(error.to_string())),
        };
        Ok(Self { path: path.to_owned(), held: Mutex::new(held) })
    }

    /// Credits at a provider's service: how many, and the tickets that they are worth.
    #[must_use]
    pub fn worth(&self, provider: PeerId, service: &ServiceId) -> (usize, u64) {
        let held = self.held.lock();
        let mine = held.iter().filter(|held| held.provider == provider.to_string() && held.service == *service);
        mine.fold((0, 0), |(count, tickets), held| (count + 1, tickets + u64::from(held.tickets)))
    }

    /// Puts a credit in.
    pub(crate) fn put(
        &self,
        provider: PeerId,
        credit: &Credit,
        signed: &SignedCredit,
        key: &SigningKey,
    ) -> Result<(), InferenceError> {
        let mut held = self.held.lock();
        let mut next = held.clone();
        next.push(Held {
            provider: provider.to_string(),
            service: credit.service.clone(),
            tickets: credit.tickets,
            expires_at: credit.expires_at.get(),
            credit: hex::encode(signed.encode()),
            key: Zeroizing::new(hex::encode(key.to_bytes())),
        });
        next.sort_by_key(|held| held.expires_at);
        let surplus = next.len().saturating_sub(MAX_CREDITS);
        next.drain(..surplus);
        self.write(&next)?;
        *held = next;
        Ok(())
    }

    /// Takes the smallest credit that is worth `tickets`, for good: it is gone from the disk before it is sent.
    pub(crate) fn take(
        &self,
        provider: PeerId,
        service: &ServiceId,
        tickets: u64,
        now: UnixTime,
    ) -> Result<Option<OwnCredit>, InferenceError> {
        let mut held = self.held.lock();
        let mut next: Vec<Held> = held.iter().filter(|held| held.expires_at > now.get()).cloned().collect();
        let provider = provider.to_string();
        let fits =
            |held: &Held| held.provider == provider && held.service == *service && u64::from(held.tickets) >= tickets;
        let best = next.iter().enumerate().filter(|(_, held)| fits(held)).min_by_key(|(_, held)| held.tickets);
        let Some(at) = best.map(|(at, _)| at) else { return Ok(None) };
        let taken = next.remove(at);
        self.write(&next)?;
        *held = next;
        let credit = hex::decode(&taken.credit).ok().and_then(|bytes| SignedCredit::decode(&bytes).ok());
        let key = hex::decode(taken.key.as_str()).ok().and_then(|bytes| <[u8; 32]>::try_from(bytes).ok());
        // A damaged entry is worth nothing; a ticket pays then.
        Ok(credit.zip(key).map(|(signed, key)| OwnCredit { signed, key: SigningKey::from_bytes(&key) }))
    }

    fn write(&self, held: &[Held]) -> Result<(), InferenceError> {
        let failed =
            |error: std::io::Error| InferenceError::Book { path: self.path.clone(), reason: error.to_string() };
        let temporary = self.path.with_extension("new");
        let bytes = Zeroizing::new(serde_json::to_vec(held).map_err(|error| failed(error.into()))?);
        let mut options = fs::OpenOptions::new();
        let mut file = options.write(true).create(true).truncate(true).mode(0o600).open(&temporary).map_err(failed)?;
        file.write_all(&bytes).map_err(failed)?;
        file.sync_all().map_err(failed)?;
        fs::rename(&temporary, &self.path).map_err(failed)
    }
}
