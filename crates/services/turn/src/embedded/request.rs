//! Requests of clients.

use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;
use std::time::{Duration, Instant};

use super::allocation::{Allocation, Refused};
use super::{Account, ClientKey, Path, Shared};
use crate::stun::{Class, Message, Method, Writer, attr};

/// How long a nonce is good.
const NONCE: Duration = Duration::from_secs(3600);
/// What lasts if the client names no lifetime (RFC 8656, section 3.2).
const DEFAULT_LIFETIME: Duration = Duration::from_secs(600);
const UDP: u8 = 17;
/// Numbers of channels: those of RFC 5766, which older clients still draw from. RFC 8656 leaves the upper ones free.
const CHANNELS: std::ops::RangeInclusive<u16> = 0x4000..=0x7FFE;

/// An answer that isn't a success: code and words.
type Problem = (u16, &'static str);

const BAD_REQUEST: Problem = (400, "Bad Request");
const UNAUTHENTICATED: Problem = (401, "Unauthenticated");
const FORBIDDEN: Problem = (403, "Forbidden");
const MISMATCH: Problem = (437, "Allocation Mismatch");
const STALE: Problem = (438, "Stale Nonce");
const FAMILY: Problem = (440, "Address Family not Supported");
const WRONG_CREDENTIALS: Problem = (441, "Wrong Credentials");
const TRANSPORT: Problem = (442, "Unsupported Transport Protocol");
const PEER_FAMILY: Problem = (443, "Peer Address Family Mismatch");
const QUOTA: Problem = (486, "Allocation Quota Reached");
const CAPACITY: Problem = (508, "Insufficient Capacity");

impl From<Refused> for Problem {
    fn from(refused: Refused) -> Self {
        match refused {
            Refused::Bound => BAD_REQUEST,
            Refused::Full => CAPACITY,
        }
    }
}

impl Shared {
    /// Handles one message of a client, which `path` leads back to.
    pub(super) fn handle(self: &Arc<Self>, key: ClientKey, bytes: &[u8], path: impl Fn() -> Path) {
        // ChannelData first: it is what a call consists of.
        if let [0x40..=0x7F, ..] = bytes {
            let [a, b, c, d, payload @ ..] = bytes else { return };
            let length = usize::from(u16::from_be_bytes([*c, *d]));
            let Some(payload) = payload.get(..length) else { return };
            if let Some(allocation) = self.allocation(&key) {
                allocation.send_on(u16::from_be_bytes([*a, *b]), payload);
            }
            return;
        }
        let Some(message) = Message::read(bytes) else { return };
        match (message.class, message.method) {
            (Class::Indication, Method::Send) => self.send(key, &message),
            (Class::Request, method) => {
                if let Some(answer) = self.answer(key, &message, method, &path) {
                    path().send(&answer);
                }
            }
            _ => {}
        }
    }

    fn send(&self, key: ClientKey, message: &Message<'_>) {
        let (Some(peer), Some(data)) = (message.address(attr::XOR_PEER_ADDRESS), message.get(attr::DATA)) else {
            return;
        };
        if !message.unknown().is_empty() || !self.may_reach(peer) {
            return;
        }
        if let Some(allocation) = self.allocation(&key) {
            allocation.send_to(peer, data);
        }
    }

    fn answer(
        self: &Arc<Self>,
        key: ClientKey,
        message: &Message<'_>,
        method: Method,
        path: &impl Fn() -> Path,
    ) -> Option<Vec<u8>> {
        let unknown = message.unknown();
        if !unknown.is_empty() {
            let list: Vec<u8> = unknown.iter().flat_map(|kind| kind.to_be_bytes()).collect();
            let answer = Writer::new(method, Class::Error, message.transaction).with_error(420, "Unknown Attribute");
            return self.to_stranger(key, answer.with(attr::UNKNOWN_ATTRIBUTES, &list));
        }
        let signed = message.get(attr::MESSAGE_INTEGRITY).is_some();
        if method == Method::Binding && !signed {
            let now = Instant::now();
            let open = self.allocation(&key).is_some() || self.bindings.lock().take(key.address.ip(), now);
            if open {
                return Some(mapped(message, key).fingerprinted().done());
            }
        }
        let account = match self.authenticate(key, message) {
            Ok(account) => account,
            Err(problem) => return self.challenge(key, message, method, problem),
        };
        let done = match method {
            Method::Binding if account.bind() => Ok(mapped(message, key)),
            Method::Binding => Err(QUOTA),
            Method::Allocate => self.allocate(key, message, &account, path),
            Method::Refresh => self.refresh(key, message, &account),
            Method::CreatePermission => self.permit(key, message, &account),
            Method::ChannelBind => self.bind(key, message, &account),
            Method::Send | Method::Data => Err(BAD_REQUEST),
        };
        let answer = done.unwrap_or_else(|(code, words)| {
            Writer::new(method, Class::Error, message.transaction).with_error(code, words)
        });
        Some(answer.signed(&account.key).done())
    }

    /// Answers to strangers are few: they could be sent in another's name.
    fn to_stranger(&self, key: ClientKey, answer: Writer) -> Option<Vec<u8>> {
        let may = self.strangers.lock().take(key.address.ip(), Instant::now());
        may.then(|| answer.fingerprinted().done())
    }

    fn challenge(&self, key: ClientKey, message: &Message<'_>, method: Method, problem: Problem) -> Option<Vec<u8>> {
        let (code, words) = problem;
        let mut answer = Writer::new(method, Class::Error, message.transaction).with_error(code, words);
        if problem == UNAUTHENTICATED || problem == STALE {
            let nonce = self.nonce(key.address, self.started.elapsed().as_secs());
            answer = answer.with(attr::REALM, self.config.realm.as_bytes()).with(attr::NONCE, nonce.as_bytes());
        }
        self.to_stranger(key, answer)
    }

    /// The nonce of an address at a time: nothing needs to be remembered of whom it was given to.
    fn nonce(&self, address: SocketAddr, seconds: u64) -> String {
        let time = format!("{seconds:010x}");
        let mac = self.nonces.password(&format!("{time} {address}"));
        format!("{time}{}", &mac[..22])
    }

    fn is_fresh(&self, nonce: &str, address: SocketAddr) -> bool {
        let Some(seconds) = nonce.get(..10).and_then(|time| u64::from_str_radix(time, 16).ok()) else { return false };
        let age = self.started.elapsed().as_secs().checked_sub(seconds);
        age.is_some_and(|age| age < NONCE.as_secs()) && self.nonce(address, seconds) == nonce
    }

    fn authenticate(&self, key: ClientKey, message: &Message<'_>) -> Result<Arc<Account>, Problem> {
        message.get(attr::MESSAGE_INTEGRITY).ok_or(UNAUTHENTICATED)?;
        let text = |kind| message.text(kind).ok_or(BAD_REQUEST);
        let (username, realm, nonce) = (text(attr::USERNAME)?, text(attr::REALM)?, text(attr::NONCE)?);
        if !self.is_fresh(nonce, key.address) {
            return Err(STALE);
        }
        let account = self.account(username).filter(|account| account.is_allowed()).ok_or(UNAUTHENTICATED)?;
        let right = realm == self.config.realm && message.is_signed_by(&account.key);
        right.then_some(account).ok_or(UNAUTHENTICATED)
    }

    fn lifetime(&self, message: &Message<'_>) -> Duration {
        let asked = message.number(attr::LIFETIME).map_or(DEFAULT_LIFETIME, |s| Duration::from_secs(s.into()));
        asked.min(self.config.limits.lifetime)
    }

    fn allocate(
        self: &Arc<Self>,
        key: ClientKey,
        message: &Message<'_>,
        account: &Arc<Account>,
        path: &impl Fn() -> Path,
    ) -> Result<Writer, Problem> {
        if let Some(known) = self.allocation(&key) {
            // The answer may have been lost.
            return if known.made_by == message.transaction {
                Ok(allocated(message, key, &known))
            } else {
                Err(MISMATCH)
            };
        }
        match message.get(attr::REQUESTED_TRANSPORT) {
            Some([UDP, ..]) => {}
            Some(_) => return Err(TRANSPORT),
            None => return Err(BAD_REQUEST),
        }
        let even = message.get(attr::EVEN_PORT);
        // No pairs of ports are kept for later.
        if message.get(attr::RESERVATION_TOKEN).is_some()
            || even.is_some_and(|value| value.first().is_some_and(|r| r & 0x80 != 0))
        {
            return Err(CAPACITY);
        }
        let family = if self.config.relay_address.is_ipv4() { 1 } else { 2 };
        if message.get(attr::REQUESTED_ADDRESS_FAMILY).map_or(1, |value| value.first().copied().unwrap_or(0)) != family
        {
            return Err(FAMILY);
        }
        if !account.may_allocate() {
            return Err(QUOTA);
        }
        let lifetime = self.lifetime(message).max(DEFAULT_LIFETIME.min(self.config.limits.lifetime));
        let mut allocations = self.allocations.write();
        if allocations.len() >= self.config.limits.allocations {
            return Err(CAPACITY);
        }
        let made =
            Allocation::new(&self.config, Arc::clone(account), path(), message.transaction, lifetime, even.is_some());
        let allocation = Arc::new(made.ok_or(CAPACITY)?);
        allocation.read();
        allocations.insert(key, Arc::clone(&allocation));
        Ok(allocated(message, key, &allocation))
    }

    /// The client's allocation, which must be its own.
    fn own(&self, key: ClientKey, account: &Arc<Account>) -> Result<Arc<Allocation>, Problem> {
        let allocation = self.allocation(&key).ok_or(MISMATCH)?;
        if Arc::ptr_eq(&allocation.account, account) { Ok(allocation) } else { Err(WRONG_CREDENTIALS) }
    }

    fn refresh(&self, key: ClientKey, message: &Message<'_>, account: &Arc<Account>) -> Result<Writer, Problem> {
        let allocation = self.own(key, account)?;
        let lifetime = self.lifetime(message);
        if lifetime.is_zero() {
            if let Some(allocation) = self.allocations.write().remove(&key) {
                allocation.end();
            }
        } else {
            allocation.refresh(lifetime);
        }
        let seconds = u32::try_from(lifetime.as_secs()).unwrap_or(u32::MAX);
        Ok(success(message).with(attr::LIFETIME, &seconds.to_be_bytes()))
    }

    /// Whether packets may go to this address: never into the provider's networks, and never to a port of the relay's own address that is no relay.
    fn may_reach(&self, peer: SocketAddr) -> bool {
        let own = peer.ip() == self.config.relay_address || peer.ip() == self.config.relay_bind;
        let (first, last) = self.config.ports;
        self.peers.allows(peer.ip()) && (!own || peer.port() == 0 || (first..=last).contains(&peer.port()))
    }

    fn check_peer(&self, peer: SocketAddr) -> Result<(), Problem> {
        if peer.is_ipv4() != self.config.relay_address.is_ipv4() {
            return Err(PEER_FAMILY);
        }
        if self.peers.allows(peer.ip()) { Ok(()) } else { Err(FORBIDDEN) }
    }

    fn permit(&self, key: ClientKey, message: &Message<'_>, account: &Arc<Account>) -> Result<Writer, Problem> {
        let allocation = self.own(key, account)?;
        let peers = message.addresses(attr::XOR_PEER_ADDRESS).filter(|peers| !peers.is_empty()).ok_or(BAD_REQUEST)?;
        peers.iter().try_for_each(|peer| self.check_peer(*peer))?;
        let peers: Vec<IpAddr> = peers.iter().map(SocketAddr::ip).collect();
        allocation.permit(&peers, self.config.limits.permissions)?;
        Ok(success(message))
    }

    fn bind(&self, key: ClientKey, message: &Message<'_>, account: &Arc<Account>) -> Result<Writer, Problem> {
        let allocation = self.own(key, account)?;
        let number = message.number(attr::CHANNEL_NUMBER).map(|word| (word >> 16) as u16);
        let number = number.filter(|number| CHANNELS.contains(number)).ok_or(BAD_REQUEST)?;
        let peer = message.address(attr::XOR_PEER_ADDRESS).ok_or(BAD_REQUEST)?;
        self.check_peer(peer)?;
        if !self.may_reach(peer) {
            return Err(FORBIDDEN);
        }
        allocation.permit(&[peer.ip()], self.config.limits.permissions)?;
        allocation.bind_channel(number, peer, self.config.limits.channels)?;
        Ok(success(message))
    }
}

fn success(message: &Message<'_>) -> Writer {
    Writer::new(message.method, Class::Success, message.transaction)
}

fn mapped(message: &Message<'_>, key: ClientKey) -> Writer {
    success(message).with_address(attr::XOR_MAPPED_ADDRESS, key.address)
}

fn allocated(message: &Message<'_>, key: ClientKey, allocation: &Allocation) -> Writer {
    let seconds = u32::try_from(allocation.left().as_secs_f64().ceil() as u64).unwrap_or(u32::MAX);
    success(message)
        .with_address(attr::XOR_RELAYED_ADDRESS, allocation.relayed)
        .with_address(attr::XOR_MAPPED_ADDRESS, key.address)
        .with(attr::LIFETIME, &seconds.to_be_bytes())
}
