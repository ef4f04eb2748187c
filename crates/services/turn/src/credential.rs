//! Credentials for a lease, as clients of TURN take them.

use std::fmt;

use hmac::{Hmac, Mac as _};
use rand::RngCore as _;
use serde::{Deserialize, Serialize};
use sha2::Sha256;
use zeroize::Zeroizing;

/// Names a lease towards the server. It is drawn at random: nothing in it tells who holds the lease, who pays for it or when it was bought.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct LeaseId([u8; 16]);

impl LeaseId {
    /// A new one.
    #[must_use]
    pub fn random() -> Self {
        let mut bytes = [0; 16];
        rand::thread_rng().fill_bytes(&mut bytes);
        Self(bytes)
    }
}

impl std::str::FromStr for LeaseId {
    type Err = ();

    /// Reads what [`fmt::Display`] writes.
    fn from_str(text: &str) -> Result<Self, ()> {
        let digits = text.as_bytes();
        if digits.len() != 32 || !digits.iter().all(|digit| matches!(digit, b'0'..=b'9' | b'a'..=b'f')) {
            return Err(());
        }
        let number = u128::from_str_radix(text, 16).map_err(|_| ())?;
        Ok(Self(number.to_be_bytes()))
    }
}

impl fmt::Display for LeaseId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.iter().try_for_each(|byte| write!(f, "{byte:02x}"))
    }
}

/// User name and password of one lease. It shows itself without the password.
#[derive(Clone, PartialEq, Eq)]
pub struct Credential {
    /// The user name.
    pub username: String,
    /// The password.
    pub password: String,
}

impl fmt::Debug for Credential {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Credential").field("username", &self.username).finish_non_exhaustive()
    }
}

/// What a backend makes passwords from.
pub(crate) struct Secret(Zeroizing<Vec<u8>>);

impl fmt::Debug for Secret {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Secret")
    }
}

impl Secret {
    /// A new one: what was made from the last one is worth nothing any more.
    pub(crate) fn random() -> Self {
        let mut bytes = Zeroizing::new(vec![0; 32]);
        rand::thread_rng().fill_bytes(&mut bytes);
        Self(bytes)
    }

    #[allow(clippy::expect_used, reason = "HMAC takes keys of any length")]
    pub(crate) fn password(&self, username: &str) -> String {
        let mut mac = Hmac::<Sha256>::new_from_slice(&self.0).expect("any length");
        mac.update(username.as_bytes());
        base64(&mac.finalize().into_bytes())
    }
}

pub(crate) fn base64(bytes: &[u8]) -> String {
    const DIGITS: &[u8; 64] = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/";
    let mut text = String::with_capacity(bytes.len().div_ceil(3) * 4);
    for chunk in bytes.chunks(3) {
        let word = chunk.iter().enumerate().fold(0_u32, |word, (n, byte)| word | u32::from(*byte) << (16 - 8 * n));
        for n in 0..4 {
            let digit = DIGITS[(word >> (18 - 6 * n)) as usize & 63];
            text.push(if n <= chunk.len() { char::from(digit) } else { '=' });
        }
    }
    text
}

/// What a lease of STUN or TURN gives to its holder: the fields of WebRTC's `RTCIceServer`, and how much of the quota is used.
#[derive(Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Grant {
    /// Version, 1.
    pub v: u8,
    /// `stun:` and `turn:` addresses, 1 to 8.
    pub urls: Vec<String>,
    /// The user name. The embedded server keeps it as long as the lease is kept up; that of a coturn changes with each renewal, which calls that are up don't mind.
    pub username: String,
    /// The password.
    pub credential: String,
    /// Its realm.
    pub realm: String,
}

impl fmt::Debug for Grant {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Grant").field("urls", &self.urls).field("username", &self.username).finish_non_exhaustive()
    }
}

/// A grant that can't be used.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("what the provider gave for the lease can't be used: {reason}; take another provider")]
pub struct GrantError {
    /// Why.
    pub reason: String,
}

impl GrantError {
    /// The stable code of the error.
    #[must_use]
    pub const fn code(&self) -> &'static str {
        "TRB-5702"
    }
}

impl Grant {
    /// Its bytes: JSON.
    #[must_use]
    pub fn encode(&self) -> Vec<u8> {
        serde_json::to_vec(self).unwrap_or_default()
    }

    /// Reads what a provider sent.
    ///
    /// # Errors
    /// [`GrantError`] for what isn't JSON of this form, another version, or values that no ICE server has.
    pub fn decode(bytes: &[u8]) -> Result<Self, GrantError> {
        let error = |reason: String| GrantError { reason };
        let grant: Self = serde_json::from_slice(bytes).map_err(|e| error(e.to_string()))?;
        if grant.v != 1 {
            return Err(error(format!("it is of version {}, known is 1", grant.v)));
        }
        let printable = |text: &str, most: usize| {
            (1..=most).contains(&text.len()) && text.bytes().all(|byte| (0x21..0x7f).contains(&byte))
        };
        let url = |url: &String| printable(url, 128) && (url.starts_with("stun:") || url.starts_with("turn:"));
        if !(1..=8).contains(&grant.urls.len()) || !grant.urls.iter().all(url) {
            return Err(error("its addresses are no 1 to 8 of stun: and turn:".into()));
        }
        if [&grant.username, &grant.credential, &grant.realm].into_iter().any(|text| !printable(text, 128)) {
            return Err(error("user name, password or realm is empty, too long, or not printable".into()));
        }
        Ok(grant)
    }

    /// The JSON that `new RTCPeerConnection({ iceServers: [...] })` takes.
    #[must_use]
    pub fn ice_server(&self) -> serde_json::Value {
        serde_json::json!({ "urls": self.urls, "username": self.username, "credential": self.credential })
    }
}

#[cfg(test)]
mod tests {
    use super::{Grant, LeaseId, Secret, base64};

    #[test]
    fn base64_is_that_of_the_standard() {
        for (bytes, text) in
            [("", ""), ("f", "Zg=="), ("fo", "Zm8="), ("foo", "Zm9v"), ("foob", "Zm9vYg=="), ("foobar", "Zm9vYmFy")]
        {
            assert_eq!(base64(bytes.as_bytes()), text);
        }
    }

    #[test]
    fn passwords_differ_by_lease_and_by_secret_and_are_not_shown() {
        let (a, b) = (Secret::random(), Secret::random());
        let (x, y) = (LeaseId::random().to_string(), LeaseId::random().to_string());
        assert_eq!(x.len(), 32);
        assert!(
            a.password(&x) == a.password(&x) && a.password(&x) != a.password(&y) && a.password(&x) != b.password(&x)
        );
        let grant =
            Grant { v: 1, urls: vec!["turn:a".into()], username: x, credential: "hidden".into(), realm: "r".into() };
        assert!(!format!("{grant:?} {a:?}").contains("hidden"));
    }

    #[test]
    fn grants_are_read_whole_or_refused() {
        let grant = Grant {
            v: 1,
            urls: vec!["turn:127.0.0.1:3478?transport=udp".into()],
            username: "u".into(),
            credential: "c".into(),
            realm: "r".into(),
        };
        assert_eq!(Grant::decode(&grant.encode()).unwrap(), grant);
        assert_eq!(grant.ice_server()["credential"], "c");
        for bad in [
            Grant { v: 2, ..grant.clone() },
            Grant { urls: vec![], ..grant.clone() },
            Grant { urls: vec!["http://x".into()], ..grant.clone() },
            Grant { username: String::new(), ..grant.clone() },
            Grant { credential: "x".repeat(129), ..grant.clone() },
            Grant { realm: "a\nb".into(), ..grant },
        ] {
            assert_eq!(Grant::decode(&bad.encode()).unwrap_err().code(), "TRB-5702");
        }
        assert_eq!(Grant::decode(b"{}").unwrap_err().code(), "TRB-5702");
    }
}
