//! The embedded server: STUN binding (RFC 8489), and TURN for UDP relays (RFC 8656) whose clients come by UDP or TCP.
//!
//! A packet of a call is read into a buffer with room before it, gets its header there, and is sent from the same buffer: no copy, no allocation, and one
//! lock that only this call takes. State that a stranger can fill is bounded by [`Limits`]; what is answered to strangers, by [`OpenRate`].

mod allocation;
mod front;
mod request;

use std::collections::HashMap;
use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU32, AtomicU64, Ordering};
use std::time::{Duration, Instant};

use async_trait::async_trait;
use parking_lot::{Mutex, RwLock};
use tokio::sync::mpsc;
use tokio::task::JoinSet;
use tributary_protocol::UnixTime;

use crate::backend::{Allowance, Backend, BackendError, Session, Usage};
use crate::credential::{Credential, LeaseId, Secret};
use crate::limit::{Limiter, OpenRate};
use crate::peers::{Cidr, PeerPolicy};
use crate::stun::{self, Key};
use allocation::Allocation;

/// Bounds of the embedded server.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Limits {
    /// Allocations in all.
    pub allocations: usize,
    /// Permissions of one allocation: addresses that it may send to.
    pub permissions: usize,
    /// Channels of one allocation.
    pub channels: usize,
    /// TCP connections in all.
    pub connections: usize,
    /// TCP connections of one address (IPv6: one /64).
    pub connections_per_source: usize,
    /// Bytes a second that one allocation may relay, both directions together.
    pub bytes_per_second: u64,
    /// Longest lifetime of an allocation between two refreshes.
    pub lifetime: Duration,
}

impl Default for Limits {
    fn default() -> Self {
        Self {
            allocations: 1000,
            permissions: 32,
            channels: 32,
            connections: 1000,
            connections_per_source: 32,
            bytes_per_second: 1_250_000,
            lifetime: Duration::from_secs(600),
        }
    }
}

/// How the embedded server runs.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct EmbeddedConfig {
    /// Where it listens by UDP.
    pub udp: Vec<SocketAddr>,
    /// Where it listens by TCP.
    pub tcp: Vec<SocketAddr>,
    /// Realm of its credentials, 1 to 128 printable characters.
    pub realm: String,
    /// Address that relays are bound to.
    pub relay_bind: IpAddr,
    /// Address of the relays as peers see it: another one behind a NAT.
    pub relay_address: IpAddr,
    /// First and last port of relays.
    pub ports: (u16, u16),
    /// Networks that may be relayed to beside the public one.
    pub allowed_peers: Vec<Cidr>,
    /// Binding requests that are answered without a credential.
    pub open_binding: OpenRate,
    /// Bounds.
    pub limits: Limits,
}

impl EmbeddedConfig {
    /// A server on this address, by UDP and TCP.
    #[must_use]
    pub fn new(address: SocketAddr) -> Self {
        Self {
            udp: vec![address],
            tcp: vec![address],
            realm: "tributary".into(),
            relay_bind: address.ip(),
            relay_address: address.ip(),
            ports: (49_152, 65_535),
            allowed_peers: Vec::new(),
            open_binding: OpenRate { per_source: 10, total: 1000 },
            limits: Limits::default(),
        }
    }
}

/// One lease's account.
#[derive(Debug)]
pub(crate) struct Account {
    pub(crate) lease: LeaseId,
    pub(crate) key: Key,
    bytes: AtomicU64,
    max_bytes: AtomicU64,
    /// Whether a packet found no room since the last allowance.
    spent: AtomicBool,
    bindings: AtomicU64,
    max_bindings: AtomicU64,
    pub(crate) live: AtomicU32,
    max_live: AtomicU32,
}

impl Account {
    fn new(lease: LeaseId, key: Key) -> Self {
        let (zero, none) = (|| AtomicU64::new(0), || AtomicU32::new(0));
        Self {
            lease,
            key,
            bytes: zero(),
            max_bytes: zero(),
            spent: AtomicBool::new(false),
            bindings: zero(),
            max_bindings: zero(),
            live: none(),
            max_live: none(),
        }
    }

    fn allow(&self, allowance: Allowance) {
        self.max_bytes.store(allowance.bytes, Ordering::Relaxed);
        self.spent.store(false, Ordering::Relaxed);
        self.max_bindings.store(allowance.bindings, Ordering::Relaxed);
        self.max_live.store(allowance.allocations, Ordering::Relaxed);
    }

    /// Counts bytes; false when they are beyond what is allowed. Those aren't relayed and not counted.
    pub(crate) fn relay(&self, bytes: usize) -> bool {
        let (bytes, max) = (bytes as u64, self.max_bytes.load(Ordering::Relaxed));
        if self.bytes.fetch_add(bytes, Ordering::Relaxed).saturating_add(bytes) <= max {
            return true;
        }
        self.bytes.fetch_sub(bytes, Ordering::Relaxed);
        self.spent.store(true, Ordering::Relaxed);
        false
    }

    pub(crate) fn bind(&self) -> bool {
        let max = self.max_bindings.load(Ordering::Relaxed);
        self.bindings.fetch_update(Ordering::Relaxed, Ordering::Relaxed, |n| (n < max).then_some(n + 1)).is_ok()
    }

    /// Whether it may have one allocation more.
    pub(crate) fn may_allocate(&self) -> bool {
        let left = self.bytes.load(Ordering::Relaxed) < self.max_bytes.load(Ordering::Relaxed);
        left && self.live.load(Ordering::Relaxed) < self.max_live.load(Ordering::Relaxed)
    }

    fn is_spent(&self) -> bool {
        self.spent.load(Ordering::Relaxed)
            || self.bytes.load(Ordering::Relaxed) >= self.max_bytes.load(Ordering::Relaxed)
    }

    /// Whether it has anything at all.
    pub(crate) fn is_allowed(&self) -> bool {
        self.max_bytes.load(Ordering::Relaxed) > 0 || self.max_bindings.load(Ordering::Relaxed) > 0
    }
}

/// A client as the server sees it: the listener that it came by, and its address.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(crate) struct ClientKey {
    pub(crate) listener: u16,
    pub(crate) address: SocketAddr,
}

/// The way back to a client.
#[derive(Clone, Debug)]
pub(crate) enum Path {
    Udp(Arc<tokio::net::UdpSocket>, SocketAddr),
    /// Frames for the connection's writer. A full queue loses them, as a full network does.
    Tcp(mpsc::Sender<Vec<u8>>),
}

impl Path {
    pub(crate) fn send(&self, bytes: &[u8]) {
        match self {
            Self::Udp(socket, address) => {
                let _ = socket.try_send_to(bytes, *address);
            }
            Self::Tcp(queue) => {
                if let Ok(place) = queue.try_reserve() {
                    // ChannelData is padded on streams; STUN's length is a multiple of four already.
                    let mut frame = Vec::with_capacity(bytes.len().next_multiple_of(4));
                    frame.extend_from_slice(bytes);
                    frame.resize(bytes.len().next_multiple_of(4), 0);
                    place.send(frame);
                }
            }
        }
    }
}

#[derive(Debug)]
pub(crate) struct Shared {
    pub(crate) config: EmbeddedConfig,
    pub(crate) peers: PeerPolicy,
    nonces: Secret,
    started: Instant,
    /// By user name. As many as there are leases.
    accounts: RwLock<HashMap<String, Arc<Account>>>,
    names: RwLock<HashMap<LeaseId, String>>,
    /// At most [`Limits::allocations`].
    pub(crate) allocations: RwLock<HashMap<ClientKey, Arc<Allocation>>>,
    bindings: Mutex<Limiter>,
    /// Challenges and errors for strangers.
    strangers: Mutex<Limiter>,
}

impl Shared {
    pub(crate) fn account(&self, username: &str) -> Option<Arc<Account>> {
        self.accounts.read().get(username).cloned()
    }

    fn of(&self, lease: LeaseId) -> Option<Arc<Account>> {
        let names = self.names.read();
        self.account(names.get(&lease)?)
    }

    pub(crate) fn allocation(&self, key: &ClientKey) -> Option<Arc<Allocation>> {
        self.allocations.read().get(key).cloned()
    }

    /// Ends allocations. No packet is relayed after this returns, except one that is being relayed.
    pub(crate) fn end(&self, which: impl Fn(&Allocation) -> bool) {
        let ended: Vec<_> = self.allocations.write().extract_if(|_, allocation| which(allocation)).collect();
        for (_, allocation) in ended {
            allocation.end();
        }
    }
}

impl Shared {
    /// Ends allocations of accounts whose bytes are used: a packet found no room, or there is none.
    fn end_spent(&self) {
        self.end(|allocation| allocation.account.is_spent());
    }
}

/// The embedded server.
#[derive(Debug)]
pub struct Embedded {
    shared: Arc<Shared>,
    secret: Secret,
    tasks: Mutex<JoinSet<()>>,
    udp: Vec<SocketAddr>,
    tcp: Vec<SocketAddr>,
}

impl Embedded {
    /// Listens. Nobody may relay yet.
    ///
    /// # Errors
    /// [`BackendError::Listen`].
    pub async fn start(config: EmbeddedConfig) -> Result<Self, BackendError> {
        let now = Instant::now();
        let strangers = OpenRate { per_source: 20, total: 2000 };
        let shared = Arc::new(Shared {
            peers: PeerPolicy::new(config.allowed_peers.clone()),
            nonces: Secret::random(),
            started: now,
            accounts: RwLock::default(),
            names: RwLock::default(),
            allocations: RwLock::default(),
            bindings: Mutex::new(Limiter::new(config.open_binding, now)),
            strangers: Mutex::new(Limiter::new(strangers, now)),
            config,
        });
        let mut tasks = JoinSet::new();
        let (mut udp, mut tcp) = (Vec::new(), Vec::new());
        let mut listener = 0;
        for address in &shared.config.udp {
            let both = address.port() == 0 && shared.config.tcp.contains(address);
            let socket = if both { front::bind_udp_beside_tcp(*address).await? } else { front::bind_udp(*address)? };
            udp.push(socket.local_addr().unwrap_or(*address));
            tasks.spawn(front::udp(Arc::clone(&shared), Arc::new(socket), listener));
            listener += 1;
        }
        for address in &shared.config.tcp {
            // With port 0 the TCP port is the UDP one, so that one address names both.
            let wanted = match udp.iter().find(|taken| address.port() == 0 && taken.ip() == address.ip()) {
                Some(taken) => *taken,
                None => *address,
            };
            let failed = |error: std::io::Error| BackendError::Listen { address: wanted, reason: error.to_string() };
            let socket = tokio::net::TcpListener::bind(wanted).await.map_err(failed)?;
            tcp.push(socket.local_addr().unwrap_or(wanted));
            tasks.spawn(front::tcp(Arc::clone(&shared), socket, listener));
            listener += 1;
        }
        tasks.spawn(housekeeping(Arc::clone(&shared)));
        Ok(Self { shared, secret: Secret::random(), tasks: Mutex::new(tasks), udp, tcp })
    }

    /// Where it listens by UDP.
    #[must_use]
    pub fn udp_addresses(&self) -> &[SocketAddr] {
        &self.udp
    }

    /// Where it listens by TCP.
    #[must_use]
    pub fn tcp_addresses(&self) -> &[SocketAddr] {
        &self.tcp
    }
}

/// Ends what wasn't refreshed, and what has no bytes left.
async fn housekeeping(shared: Arc<Shared>) {
    let mut ticks = tokio::time::interval(Duration::from_secs(1));
    loop {
        ticks.tick().await;
        let now = Instant::now();
        shared.end(|allocation| allocation.is_over(now));
        shared.end_spent();
    }
}

#[async_trait]
impl Backend for Embedded {
    fn realm(&self) -> &str {
        &self.shared.config.realm
    }

    fn counts_bindings(&self) -> bool {
        true
    }

    fn issue(&self, lease: LeaseId, _: UnixTime) -> Credential {
        let username = lease.to_string();
        let password = self.secret.password(&username);
        let mut names = self.shared.names.write();
        names.entry(lease).or_insert_with(|| {
            let key = stun::key(&username, &self.shared.config.realm, &password);
            self.shared.accounts.write().insert(username.clone(), Arc::new(Account::new(lease, key)));
            username.clone()
        });
        Credential { username, password }
    }

    fn allow(&self, lease: LeaseId, allowance: Allowance) {
        if let Some(account) = self.shared.of(lease) {
            account.allow(allowance);
        }
    }

    fn usage(&self, lease: LeaseId) -> Usage {
        self.shared.of(lease).map_or_else(Usage::default, |account| Usage {
            bytes: account.bytes.load(Ordering::Relaxed),
            bindings: account.bindings.load(Ordering::Relaxed),
        })
    }

    fn list(&self) -> Vec<Session> {
        let allocations = self.shared.allocations.read();
        allocations
            .iter()
            .map(|(key, allocation)| Session {
                lease: allocation.account.lease,
                client: Some(key.address),
                relay: Some(allocation.relayed),
                bytes: allocation.bytes.load(Ordering::Relaxed),
            })
            .collect()
    }

    async fn cut(&self, lease: LeaseId) -> Result<(), BackendError> {
        self.allow(lease, Allowance::NONE);
        self.shared.end(|allocation| allocation.account.lease == lease);
        Ok(())
    }

    async fn revoke(&self, lease: LeaseId) -> Result<(), BackendError> {
        self.allow(lease, Allowance::NONE);
        if let Some(name) = self.shared.names.write().remove(&lease) {
            self.shared.accounts.write().remove(&name);
        }
        self.shared.end(|allocation| allocation.account.lease == lease);
        Ok(())
    }

    /// Ends allocations of those who have used what they may. The server does it each second by itself too.
    async fn poll(&self) -> Result<(), BackendError> {
        self.shared.end_spent();
        Ok(())
    }

    async fn stop(&self) {
        let mut tasks = std::mem::take(&mut *self.tasks.lock());
        tasks.shutdown().await;
        self.shared.end(|_| true);
    }
}
