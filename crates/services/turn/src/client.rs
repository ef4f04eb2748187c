//! A client of STUN and TURN by UDP: what a buyer looks at a provider's server with.

use std::collections::VecDeque;
use std::net::{Ipv4Addr, Ipv6Addr, SocketAddr};
use std::time::Duration;

use tokio::net::UdpSocket;
use tokio::time::{Instant, timeout_at};

use crate::credential::Credential;
use crate::stun::{self, Class, Key, Message, Method, Transaction, Writer, attr};

/// How long an answer is waited for until the request is sent again; each time it doubles (RFC 8489, section 6.2.1).
const FIRST_WAIT: Duration = Duration::from_millis(500);
/// Packets that wait while a request is being answered.
const MAX_WAITING: usize = 256;
/// Largest datagram that is read.
const LARGEST: usize = 4096 + 128;
/// Longest realm or nonce that is taken, bytes (RFC 8489, section 14.9).
const MAX_TEXT: usize = 763;
/// Longest words of an error answer that are kept, bytes.
const MAX_WORDS: usize = 128;
/// UDP's number among the protocols of IP.
const UDP: u8 = 17;
/// Requests that are sent for one answer: without credential, with it, and with a new nonce.
const MAX_ROUNDS: usize = 3;

/// Why a server didn't do what was asked.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum TurnClientError {
    /// The own host can't send.
    #[error("can't send to {server}: {reason}; look at this host's network")]
    Local {
        /// To whom.
        server: SocketAddr,
        /// What the system says.
        reason: String,
    },
    /// Nothing came back.
    #[error("{server} did not answer {method} within {} ms; it is down, or UDP doesn't get through", waited.as_millis())]
    NoAnswer {
        /// The server.
        server: SocketAddr,
        /// What was asked.
        method: &'static str,
        /// How long.
        waited: Duration,
    },
    /// The server refused.
    #[error("{server} refused {method}: {code} {words}; take another provider if the lease is paid")]
    Refused {
        /// The server.
        server: SocketAddr,
        /// What was asked.
        method: &'static str,
        /// The code of RFC 8489 and RFC 8656.
        code: u16,
        /// The server's words.
        words: String,
    },
    /// The answer is none.
    #[error("{server} answered {method} with {reason}; take another provider")]
    Invalid {
        /// The server.
        server: SocketAddr,
        /// What was asked.
        method: &'static str,
        /// What is wrong.
        reason: &'static str,
    },
}

impl TurnClientError {
    /// The stable code of the error.
    #[must_use]
    pub const fn code(&self) -> &'static str {
        match self {
            Self::Local { .. } => "TRB-5731",
            Self::NoAnswer { .. } => "TRB-5732",
            Self::Refused { .. } => "TRB-5733",
            Self::Invalid { .. } => "TRB-5734",
        }
    }

    /// The server's code, if it refused.
    #[must_use]
    pub const fn refusal(&self) -> Option<u16> {
        match self {
            Self::Refused { code, .. } => Some(*code),
            _ => None,
        }
    }
}

/// What a server wants to see of a credential.
#[derive(Debug)]
struct Login {
    username: String,
    key: Key,
    realm: String,
    nonce: Vec<u8>,
}

/// A socket of this host's, towards one server. Only packets of the server are read.
#[derive(Debug)]
pub struct StunClient {
    socket: UdpSocket,
    server: SocketAddr,
    patience: Duration,
    credential: Option<Credential>,
    login: Option<Login>,
    waiting: VecDeque<Vec<u8>>,
}

impl StunClient {
    /// A client of `server`, which waits for an answer for as long as `patience`. Nothing is sent yet.
    ///
    /// # Errors
    /// [`TurnClientError::Local`].
    pub async fn new(
        server: SocketAddr,
        credential: Option<Credential>,
        patience: Duration,
    ) -> Result<Self, TurnClientError> {
        let any: SocketAddr = match server {
            SocketAddr::V4(_) => (Ipv4Addr::UNSPECIFIED, 0).into(),
            SocketAddr::V6(_) => (Ipv6Addr::UNSPECIFIED, 0).into(),
        };
        let local = |error: std::io::Error| TurnClientError::Local { server, reason: error.to_string() };
        let socket = UdpSocket::bind(any).await.map_err(local)?;
        socket.connect(server).await.map_err(local)?;
        Ok(Self { socket, server, patience, credential, login: None, waiting: VecDeque::new() })
    }

    /// Shows its credential at once, instead of when it is asked for. A server may answer bindings without one.
    #[must_use]
    pub fn in_realm(mut self, realm: &str) -> Self {
        self.login = self.credential.as_ref().map(|credential| Login {
            username: credential.username.clone(),
            key: stun::key(&credential.username, realm, &credential.password),
            realm: realm.to_owned(),
            // None is known yet; the answer to this one tells it.
            nonce: b"none".to_vec(),
        });
        self
    }

    /// The server.
    #[must_use]
    pub const fn server(&self) -> SocketAddr {
        self.server
    }

    /// The socket, which is connected to the server.
    #[must_use]
    pub const fn socket(&self) -> &UdpSocket {
        &self.socket
    }

    /// The address that the server sees.
    ///
    /// # Errors
    /// [`TurnClientError`].
    pub async fn binding(&mut self) -> Result<SocketAddr, TurnClientError> {
        let answer = match self.credential {
            Some(_) => self.request(Method::Binding, |message| message).await?,
            None => self.exchange(Method::Binding, Writer::fingerprinted).await?,
        };
        self.read(Method::Binding, &answer, |message| message.address(attr::XOR_MAPPED_ADDRESS))
    }

    fn read<T>(
        &self,
        method: Method,
        answer: &[u8],
        value: impl FnOnce(&Message<'_>) -> Option<T>,
    ) -> Result<T, TurnClientError> {
        let message = Message::read(answer).ok_or_else(|| self.invalid(method, "no message"))?;
        if message.class == Class::Success {
            return value(&message).ok_or_else(|| self.invalid(method, "an answer that lacks what was asked for"));
        }
        let (code, words) = message.error().ok_or_else(|| self.invalid(method, "an error without a code"))?;
        let words = words.chars().filter(|c| !c.is_control()).take(MAX_WORDS).collect();
        Err(TurnClientError::Refused { server: self.server, method: method.name(), code, words })
    }

    const fn invalid(&self, method: Method, reason: &'static str) -> TurnClientError {
        TurnClientError::Invalid { server: self.server, method: method.name(), reason }
    }

    /// A request with the credential. The answer is a success that the server signed, or a refusal.
    async fn request(&mut self, method: Method, build: impl Fn(Writer) -> Writer) -> Result<Vec<u8>, TurnClientError> {
        for round in 1.. {
            let answer = match &self.login {
                None => self.exchange(method, &build).await?,
                Some(login) => {
                    let (user, realm) = (login.username.clone(), login.realm.clone());
                    let (nonce, key) = (login.nonce.clone(), login.key);
                    let signed = |message| {
                        build(message)
                            .with(attr::USERNAME, user.as_bytes())
                            .with(attr::REALM, realm.as_bytes())
                            .with(attr::NONCE, &nonce)
                            .signed(&key)
                    };
                    self.exchange(method, signed).await?
                }
            };
            let message = Message::read(&answer).ok_or_else(|| self.invalid(method, "no message"))?;
            if message.class == Class::Success {
                let genuine = self.login.as_ref().is_none_or(|login| message.is_signed_by(&login.key));
                return if genuine { Ok(answer) } else { Err(self.invalid(method, "an answer that isn't signed")) };
            }
            let code = message.error().map(|(code, _)| code);
            let asks = (code == Some(401) && self.login.is_none()) || code == Some(438);
            let Some(credential) = self.credential.as_ref().filter(|_| asks && round < MAX_ROUNDS) else {
                return Ok(answer);
            };
            let (realm, nonce) = (message.text(attr::REALM), message.get(attr::NONCE));
            let known = self.login.as_ref().map(|login| login.realm.clone());
            let realm = realm.map(str::to_owned).or(known).filter(|realm| realm.len() <= MAX_TEXT);
            let (Some(realm), Some(nonce)) = (realm, nonce.filter(|nonce| nonce.len() <= MAX_TEXT)) else {
                return Err(self.invalid(method, "a challenge without realm and nonce"));
            };
            let key = stun::key(&credential.username, &realm, &credential.password);
            self.login = Some(Login { username: credential.username.clone(), key, realm, nonce: nonce.to_vec() });
        }
        Err(self.invalid(method, "one challenge after the other"))
    }

    /// One transaction: sent again until its answer comes.
    async fn exchange(&mut self, method: Method, build: impl Fn(Writer) -> Writer) -> Result<Vec<u8>, TurnClientError> {
        let transaction: Transaction = rand::random();
        let request = build(Writer::new(method, Class::Request, transaction)).done();
        let begun = Instant::now();
        let deadline = begun + self.patience;
        let mut wait = FIRST_WAIT;
        loop {
            self.send_raw(&request).await?;
            let again = deadline.min(Instant::now() + wait);
            if let Ok(answer) = timeout_at(again, self.answer_to(&transaction)).await {
                return answer;
            }
            if Instant::now() >= deadline {
                let waited = begun.elapsed();
                return Err(TurnClientError::NoAnswer { server: self.server, method: method.name(), waited });
            }
            wait *= 2;
        }
    }

    async fn answer_to(&mut self, transaction: &Transaction) -> Result<Vec<u8>, TurnClientError> {
        loop {
            let packet = self.receive().await?;
            let answers = Message::read(&packet).is_some_and(|message| {
                message.transaction == *transaction && matches!(message.class, Class::Success | Class::Error)
            });
            if answers {
                return Ok(packet);
            }
            if self.waiting.len() < MAX_WAITING {
                self.waiting.push_back(packet);
            }
        }
    }

    async fn send_raw(&self, packet: &[u8]) -> Result<(), TurnClientError> {
        match self.socket.send(packet).await {
            Ok(_) => Ok(()),
            // What an earlier packet met comes back here. It may have passed since.
            Err(error) if is_away(&error) => Ok(()),
            Err(error) => Err(TurnClientError::Local { server: self.server, reason: error.to_string() }),
        }
    }

    async fn receive(&self) -> Result<Vec<u8>, TurnClientError> {
        let mut buffer = vec![0; LARGEST];
        loop {
            match self.socket.recv(&mut buffer).await {
                Ok(length) => {
                    buffer.truncate(length);
                    return Ok(buffer);
                }
                Err(error) if is_away(&error) => {}
                Err(error) => {
                    return Err(TurnClientError::Local { server: self.server, reason: error.to_string() });
                }
            }
        }
    }
}

/// Whether the system says that nobody listens there, or that there is no way to there now.
fn is_away(error: &std::io::Error) -> bool {
    use std::io::ErrorKind::{ConnectionRefused, HostUnreachable, NetworkUnreachable};
    matches!(error.kind(), ConnectionRefused | HostUnreachable | NetworkUnreachable)
}

/// An allocation at a server. It lasts as long as its lifetime unless it is refreshed.
#[derive(Debug)]
pub struct TurnClient {
    client: StunClient,
    relayed: SocketAddr,
    mapped: SocketAddr,
    lifetime: Duration,
    channels: Vec<(u16, SocketAddr)>,
}

impl TurnClient {
    /// Asks for a relayed address.
    ///
    /// # Errors
    /// [`TurnClientError`].
    pub async fn allocate(
        server: SocketAddr,
        credential: Credential,
        patience: Duration,
    ) -> Result<Self, TurnClientError> {
        let mut client = StunClient::new(server, Some(credential), patience).await?;
        let build = |message: Writer| {
            let message = message.with(attr::REQUESTED_TRANSPORT, &[UDP, 0, 0, 0]);
            if server.is_ipv6() { message.with(attr::REQUESTED_ADDRESS_FAMILY, &[2, 0, 0, 0]) } else { message }
        };
        let answer = client.request(Method::Allocate, build).await?;
        let (relayed, mapped, lifetime) = client.read(Method::Allocate, &answer, |message| {
            let (relayed, mapped) = (attr::XOR_RELAYED_ADDRESS, attr::XOR_MAPPED_ADDRESS);
            Some((message.address(relayed)?, message.address(mapped)?, message.number(attr::LIFETIME)?))
        })?;
        let lifetime = Duration::from_secs(lifetime.into());
        Ok(Self { client, relayed, mapped, lifetime, channels: Vec::new() })
    }

    /// The relayed address.
    #[must_use]
    pub const fn relayed(&self) -> SocketAddr {
        self.relayed
    }

    /// The client's address as the server sees it.
    #[must_use]
    pub const fn mapped(&self) -> SocketAddr {
        self.mapped
    }

    /// How long the allocation lasts without a refresh, as the server said.
    #[must_use]
    pub const fn lifetime(&self) -> Duration {
        self.lifetime
    }

    /// The socket, which is connected to the server.
    #[must_use]
    pub const fn socket(&self) -> &UdpSocket {
        self.client.socket()
    }

    /// Lets packets of this peer's address in.
    ///
    /// # Errors
    /// [`TurnClientError`].
    pub async fn permit(&mut self, peer: SocketAddr) -> Result<(), TurnClientError> {
        let build = |message: Writer| message.with_address(attr::XOR_PEER_ADDRESS, peer);
        let answer = self.client.request(Method::CreatePermission, build).await?;
        self.client.read(Method::CreatePermission, &answer, |_| Some(()))
    }

    /// Gives a peer a channel, 0x4000 to 0x4FFF.
    ///
    /// # Errors
    /// [`TurnClientError`].
    pub async fn bind_channel(&mut self, number: u16, peer: SocketAddr) -> Result<(), TurnClientError> {
        let [a, b] = number.to_be_bytes();
        let build = |message: Writer| {
            message.with(attr::CHANNEL_NUMBER, &[a, b, 0, 0]).with_address(attr::XOR_PEER_ADDRESS, peer)
        };
        let answer = self.client.request(Method::ChannelBind, build).await?;
        self.client.read(Method::ChannelBind, &answer, |_| Some(()))?;
        self.channels.retain(|(known, _)| *known != number);
        self.channels.push((number, peer));
        Ok(())
    }

    /// Asks for this much more time; none ends the allocation.
    ///
    /// # Errors
    /// [`TurnClientError`].
    pub async fn refresh(&mut self, lifetime: Duration) -> Result<(), TurnClientError> {
        let seconds = u32::try_from(lifetime.as_secs()).unwrap_or(u32::MAX).to_be_bytes();
        let answer = self.client.request(Method::Refresh, |message| message.with(attr::LIFETIME, &seconds)).await?;
        let lifetime = self.client.read(Method::Refresh, &answer, |message| message.number(attr::LIFETIME))?;
        self.lifetime = Duration::from_secs(lifetime.into());
        Ok(())
    }

    /// Sends to a peer, on its channel if it has one.
    ///
    /// # Errors
    /// [`TurnClientError::Local`].
    pub async fn send(&self, peer: SocketAddr, payload: &[u8]) -> Result<(), TurnClientError> {
        self.client.send_raw(&self.packet(peer, payload)).await
    }

    /// What [`Self::send`] sends to the server.
    #[must_use]
    pub fn packet(&self, peer: SocketAddr, payload: &[u8]) -> Vec<u8> {
        match self.channels.iter().find(|(_, bound)| *bound == peer) {
            Some((number, _)) => {
                let length = u16::try_from(payload.len()).unwrap_or(u16::MAX);
                [&number.to_be_bytes()[..], &length.to_be_bytes(), payload].concat()
            }
            None => Writer::new(Method::Send, Class::Indication, rand::random())
                .with_address(attr::XOR_PEER_ADDRESS, peer)
                .with(attr::DATA, payload)
                .done(),
        }
    }

    /// The next packet of a peer.
    ///
    /// # Errors
    /// [`TurnClientError::Local`].
    pub async fn recv(&mut self) -> Result<(SocketAddr, Vec<u8>), TurnClientError> {
        loop {
            let packet = match self.client.waiting.pop_front() {
                Some(packet) => packet,
                None => self.client.receive().await?,
            };
            if let Some(data) = self.data(&packet) {
                return Ok(data);
            }
        }
    }

    fn data(&self, packet: &[u8]) -> Option<(SocketAddr, Vec<u8>)> {
        if let [a @ 0x40..=0x7F, b, c, d, payload @ ..] = packet {
            let number = u16::from_be_bytes([*a, *b]);
            let (_, peer) = self.channels.iter().find(|(bound, _)| *bound == number)?;
            return Some((*peer, payload.get(..usize::from(u16::from_be_bytes([*c, *d])))?.to_vec()));
        }
        let message = Message::read(packet)?;
        let is_data = (message.class, message.method) == (Class::Indication, Method::Data);
        let peer = message.address(attr::XOR_PEER_ADDRESS).filter(|_| is_data)?;
        Some((peer, message.get(attr::DATA)?.to_vec()))
    }
}
