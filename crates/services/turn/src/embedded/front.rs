//! What listens: datagrams, and the same messages framed on TCP streams (RFC 8656, sections 3.1 and 12.5).

use std::collections::HashMap;
use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;
use std::time::Duration;

use parking_lot::Mutex;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::{TcpListener, TcpStream, UdpSocket};
use tokio::sync::mpsc;
use tokio::task::JoinSet;
use tokio::time::timeout;

use super::{ClientKey, Path, Shared};
use crate::backend::BackendError;
use crate::limit::source;
use crate::stun;

/// Largest payload that is relayed, bytes.
pub(super) const LARGEST: usize = 4096;
/// Largest message of a client, bytes.
const LARGEST_MESSAGE: usize = LARGEST + 128;
/// Packets of one socket that are handled before others have their turn.
pub(super) const BURST: usize = 64;
/// Buffers of the sockets: a burst of a fast call must fit in.
const SOCKET_BUFFER: usize = 1 << 20;
/// Frames that wait for a slow TCP client.
const QUEUE: usize = 256;
/// How long a connection may be silent while it holds no allocation.
const IDLE: Duration = Duration::from_secs(15);
/// How long a write may take.
const WRITE: Duration = Duration::from_secs(15);

/// A bound socket with large buffers.
pub(super) fn bind_udp(address: SocketAddr) -> Result<UdpSocket, BackendError> {
    let bind = || {
        let socket = std::net::UdpSocket::bind(address)?;
        // The system may give less; that is no failure.
        let _ = rustix::net::sockopt::set_socket_recv_buffer_size(&socket, SOCKET_BUFFER);
        let _ = rustix::net::sockopt::set_socket_send_buffer_size(&socket, SOCKET_BUFFER);
        socket.set_nonblocking(true)?;
        UdpSocket::from_std(socket)
    };
    bind().map_err(|error| BackendError::Listen { address, reason: error.to_string() })
}

/// Ports that are tried for both.
const MAX_PORTS: u32 = 16;

/// A free UDP port whose TCP port is free too.
pub(super) async fn bind_udp_beside_tcp(address: SocketAddr) -> Result<UdpSocket, BackendError> {
    let mut taken = 0;
    loop {
        let socket = bind_udp(address)?;
        let bound = socket.local_addr().map_err(|error| BackendError::Listen { address, reason: error.to_string() })?;
        match tokio::net::TcpListener::bind(bound).await {
            Ok(_) => return Ok(socket),
            Err(error) if error.kind() == std::io::ErrorKind::AddrInUse && taken < MAX_PORTS => taken += 1,
            Err(error) => return Err(BackendError::Listen { address: bound, reason: error.to_string() }),
        }
    }
}

/// Serves datagrams until it is aborted.
pub(super) async fn udp(shared: Arc<Shared>, socket: Arc<UdpSocket>, listener: u16) {
    let mut buffer = vec![0; LARGEST_MESSAGE];
    loop {
        if let Err(error) = socket.readable().await {
            tracing::error!(%error, "the TURN server's socket failed");
            return;
        }
        for _ in 0..BURST {
            let Ok((length, address)) = socket.try_recv_from(&mut buffer) else { break };
            shared
                .handle(ClientKey { listener, address }, &buffer[..length], || Path::Udp(Arc::clone(&socket), address));
        }
        tokio::task::yield_now().await;
    }
}

/// Counts one connection of a source while it is open.
#[derive(Debug)]
struct Place {
    open: Arc<Mutex<HashMap<IpAddr, usize>>>,
    source: IpAddr,
}

impl Place {
    fn take(open: &Arc<Mutex<HashMap<IpAddr, usize>>>, ip: IpAddr, most: usize, each: usize) -> Option<Self> {
        let source = source(ip);
        let mut all = open.lock();
        let total: usize = all.values().sum();
        let held = all.get(&source).copied().unwrap_or(0);
        if total >= most || held >= each {
            return None;
        }
        all.insert(source, held + 1);
        Some(Self { open: Arc::clone(open), source })
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        let mut all = self.open.lock();
        if let Some(held) = all.get_mut(&self.source) {
            *held -= 1;
            if *held == 0 {
                all.remove(&self.source);
            }
        }
    }
}

/// Serves connections until it is aborted; then they end too.
pub(super) async fn tcp(shared: Arc<Shared>, socket: TcpListener, listener: u16) {
    let open = Arc::new(Mutex::new(HashMap::new()));
    let mut connections = JoinSet::new();
    loop {
        tokio::select! {
            accepted = socket.accept() => match accepted {
                Ok((stream, address)) => {
                    let limits = &shared.config.limits;
                    let (most, each) = (limits.connections, limits.connections_per_source);
                    if let Some(place) = Place::take(&open, address.ip(), most, each) {
                        connections.spawn(connection(Arc::clone(&shared), stream, ClientKey { listener, address }, place));
                    }
                }
                // Out of descriptors, say: trying at once would only spin.
                Err(_) => tokio::time::sleep(Duration::from_millis(100)).await,
            },
            Some(_) = connections.join_next() => {}
        }
    }
}

/// Ends the client's allocation when its connection ends, however that happens.
struct Ends {
    shared: Arc<Shared>,
    key: ClientKey,
}

impl Drop for Ends {
    fn drop(&mut self) {
        if let Some(allocation) = self.shared.allocations.write().remove(&self.key) {
            allocation.end();
        }
    }
}

async fn connection(shared: Arc<Shared>, stream: TcpStream, key: ClientKey, place: Place) {
    let _place = place;
    let _ends = Ends { shared: Arc::clone(&shared), key };
    let _ = stream.set_nodelay(true);
    let (mut reader, mut writer) = stream.into_split();
    let (queue, mut frames) = mpsc::channel::<Vec<u8>>(QUEUE);
    let writing = async move {
        while let Some(frame) = frames.recv().await {
            if !matches!(timeout(WRITE, writer.write_all(&frame)).await, Ok(Ok(()))) {
                return;
            }
        }
    };
    let reading = async {
        let mut buffer = vec![0; 4 * LARGEST_MESSAGE];
        let mut held = 0;
        loop {
            let read = reader.read(&mut buffer[held..]);
            let length = match timeout(IDLE, read).await {
                Ok(Ok(length)) if length > 0 => length,
                // Keep-alives are few while a call is up.
                Err(_) if shared.allocation(&key).is_some() => continue,
                _ => return,
            };
            held += length;
            let mut at = 0;
            while let Some((frame, whole)) = framed(&buffer[at..held]) {
                if whole > LARGEST_MESSAGE {
                    return;
                }
                if held - at < whole {
                    break;
                }
                shared.handle(key, &buffer[at..at + frame], || Path::Tcp(queue.clone()));
                at += whole;
            }
            // What is no message can't be skipped on a stream.
            if held - at >= 8 && framed(&buffer[at..held]).is_none() {
                return;
            }
            buffer.copy_within(at..held, 0);
            held -= at;
        }
    };
    tokio::select! {
        () = writing => {}
        () = reading => {}
    }
}

/// The length of the message that a stream goes on with, and that with its padding; `None` for too few bytes, and for what is no message.
fn framed(bytes: &[u8]) -> Option<(usize, usize)> {
    if bytes.len() < 4 {
        return None;
    }
    if (0x40..0x80).contains(&bytes[0]) {
        let length = 4 + usize::from(u16::from_be_bytes([bytes[2], bytes[3]]));
        return Some((length, length.next_multiple_of(4)));
    }
    let length = stun::whole_length(bytes.get(..8)?)?;
    Some((length, length))
}
