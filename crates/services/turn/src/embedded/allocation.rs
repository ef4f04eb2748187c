//! One relayed address, and the packets that come to it.

use std::collections::HashMap;
use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::{Duration, Instant};

use parking_lot::Mutex;
use rand::Rng as _;
use tokio::net::UdpSocket;
use tokio::task::AbortHandle;

use super::front::{BURST, LARGEST};
use super::{Account, EmbeddedConfig, Path};
use crate::stun::{self, INDICATION_HEADER, Transaction};

/// How long a permission lasts (RFC 8656, section 9).
const PERMISSION: Duration = Duration::from_secs(300);
/// How long a channel lasts (RFC 8656, section 12).
const CHANNEL: Duration = Duration::from_secs(600);
/// Ports that are tried for a relay.
const TRIES: usize = 32;

#[derive(Debug)]
struct Channel {
    number: u16,
    peer: SocketAddr,
    until: Instant,
}

#[derive(Debug)]
struct State {
    until: Instant,
    permissions: HashMap<IpAddr, Instant>,
    channels: Vec<Channel>,
    /// Bytes that may be relayed now.
    credit: f64,
    credited: Instant,
}

/// Why a permission or channel can't be made: the code of the answer.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Refused {
    /// 400: another peer has the channel, or the peer has another channel.
    Bound,
    /// 508: the allocation has as many as it may.
    Full,
}

/// An allocation.
#[derive(Debug)]
pub(crate) struct Allocation {
    pub(crate) account: Arc<Account>,
    /// The address that peers see.
    pub(crate) relayed: SocketAddr,
    /// The request that made it, to answer it again.
    pub(crate) made_by: Transaction,
    pub(crate) bytes: AtomicU64,
    path: Path,
    socket: UdpSocket,
    state: Mutex<State>,
    ended: AtomicBool,
    reader: Mutex<Option<AbortHandle>>,
    rate: f64,
}

/// A socket in the range of relays; the port is even where that is asked for.
fn bind(config: &EmbeddedConfig, even: bool) -> Option<UdpSocket> {
    let (first, last) = config.ports;
    for _ in 0..TRIES {
        let mut port = rand::thread_rng().gen_range(first..=last);
        if even {
            port &= !1;
        }
        if port < first {
            continue;
        }
        if let Ok(socket) = super::front::bind_udp(SocketAddr::new(config.relay_bind, port)) {
            return Some(socket);
        }
    }
    None
}

impl Allocation {
    /// A new one, not read from yet; `None` when no port is free. It counts as live for its account until it is dropped.
    pub(crate) fn new(
        config: &EmbeddedConfig,
        account: Arc<Account>,
        path: Path,
        made_by: Transaction,
        lifetime: Duration,
        even: bool,
    ) -> Option<Self> {
        let socket = bind(config, even)?;
        let relayed = SocketAddr::new(config.relay_address, socket.local_addr().ok()?.port());
        account.live.fetch_add(1, Ordering::Relaxed);
        let now = Instant::now();
        let rate = config.limits.bytes_per_second as f64;
        let state = State {
            until: now + lifetime,
            permissions: HashMap::new(),
            channels: Vec::new(),
            credit: rate / 4.0,
            credited: now,
        };
        Some(Self {
            account,
            relayed,
            made_by,
            bytes: AtomicU64::new(0),
            path,
            socket,
            state: Mutex::new(state),
            ended: AtomicBool::new(false),
            reader: Mutex::new(None),
            rate,
        })
    }

    /// Begins to relay what peers send.
    pub(crate) fn read(self: &Arc<Self>) {
        let task = tokio::spawn(Arc::clone(self).from_peers());
        *self.reader.lock() = Some(task.abort_handle());
    }

    /// Ends it for good.
    pub(crate) fn end(&self) {
        if !self.ended.swap(true, Ordering::AcqRel) {
            self.account.live.fetch_sub(1, Ordering::Relaxed);
        }
        if let Some(reader) = self.reader.lock().take() {
            reader.abort();
        }
    }

    pub(crate) fn is_over(&self, now: Instant) -> bool {
        self.state.lock().until <= now
    }

    pub(crate) fn refresh(&self, lifetime: Duration) {
        self.state.lock().until = Instant::now() + lifetime;
    }

    pub(crate) fn left(&self) -> Duration {
        self.state.lock().until.saturating_duration_since(Instant::now())
    }

    /// Lets peers of these addresses in and out.
    pub(crate) fn permit(&self, peers: &[IpAddr], most: usize) -> Result<(), Refused> {
        let now = Instant::now();
        let mut state = self.state.lock();
        state.permissions.retain(|_, until| now < *until);
        let new = peers.iter().filter(|peer| !state.permissions.contains_key(*peer)).count();
        if state.permissions.len() + new > most {
            return Err(Refused::Full);
        }
        state.permissions.extend(peers.iter().map(|peer| (*peer, now + PERMISSION)));
        Ok(())
    }

    /// Gives a peer a channel, or refreshes it.
    pub(crate) fn bind_channel(&self, number: u16, peer: SocketAddr, most: usize) -> Result<(), Refused> {
        let now = Instant::now();
        let mut state = self.state.lock();
        state.channels.retain(|channel| now < channel.until);
        let until = now + CHANNEL;
        if let Some(channel) = state.channels.iter_mut().find(|c| c.number == number || c.peer == peer) {
            if channel.number != number || channel.peer != peer {
                return Err(Refused::Bound);
            }
            channel.until = until;
            return Ok(());
        }
        if state.channels.len() >= most {
            return Err(Refused::Full);
        }
        state.channels.push(Channel { number, peer, until });
        Ok(())
    }

    /// Takes a packet from the rate and the quota.
    fn take(&self, state: &mut State, now: Instant, bytes: usize) -> bool {
        let gained = now.saturating_duration_since(state.credited).as_secs_f64() * self.rate;
        state.credit = (state.credit + gained).min(self.rate / 4.0);
        state.credited = now;
        let size = bytes as f64;
        if state.credit < size || self.ended.load(Ordering::Acquire) || !self.account.relay(bytes) {
            return false;
        }
        state.credit -= size;
        self.bytes.fetch_add(bytes as u64, Ordering::Relaxed);
        true
    }

    /// Sends what the client put on a channel.
    pub(crate) fn send_on(&self, number: u16, payload: &[u8]) {
        let peer = {
            let now = Instant::now();
            let mut state = self.state.lock();
            let channel = state.channels.iter().find(|channel| channel.number == number && now < channel.until);
            let Some(peer) = channel.map(|channel| channel.peer) else { return };
            if state.permissions.get(&peer.ip()).is_none_or(|until| now >= *until)
                || !self.take(&mut state, now, payload.len())
            {
                return;
            }
            peer
        };
        let _ = self.socket.try_send_to(payload, peer);
    }

    /// Sends what the client sends to a peer.
    pub(crate) fn send_to(&self, peer: SocketAddr, payload: &[u8]) {
        {
            let now = Instant::now();
            let mut state = self.state.lock();
            if state.permissions.get(&peer.ip()).is_none_or(|until| now >= *until)
                || !self.take(&mut state, now, payload.len())
            {
                return;
            }
        }
        let _ = self.socket.try_send_to(payload, peer);
    }

    async fn from_peers(self: Arc<Self>) {
        let mut buffer = vec![0; INDICATION_HEADER + LARGEST + 3];
        while self.socket.readable().await.is_ok() {
            for _ in 0..BURST {
                let room = &mut buffer[INDICATION_HEADER..INDICATION_HEADER + LARGEST];
                let Ok((length, peer)) = self.socket.try_recv_from(room) else { break };
                let channel = {
                    let now = Instant::now();
                    let mut state = self.state.lock();
                    if state.permissions.get(&peer.ip()).is_none_or(|until| now >= *until)
                        || !self.take(&mut state, now, length)
                    {
                        continue;
                    }
                    let bound = state.channels.iter().find(|channel| channel.peer == peer && now < channel.until);
                    bound.map(|channel| channel.number)
                };
                let range = match channel {
                    Some(number) => {
                        let start = INDICATION_HEADER - 4;
                        buffer[start..start + 2].copy_from_slice(&number.to_be_bytes());
                        let size = u16::try_from(length).unwrap_or(u16::MAX);
                        buffer[start + 2..start + 4].copy_from_slice(&size.to_be_bytes());
                        start..INDICATION_HEADER + length
                    }
                    None => stun::data_indication(&mut buffer, length, peer, &rand::random()),
                };
                self.path.send(&buffer[range]);
            }
            tokio::task::yield_now().await;
        }
    }
}
