//! What a buyer tries of a server that it has leased: binding, allocation, and packets to itself through the relay.

use std::collections::HashSet;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::time::Duration;

use tokio::net::UdpSocket;
use tokio::time::Instant;
use tributary_reputation::turn::{Mapped, TurnEnding};

use crate::client::{StunClient, TurnClient, TurnClientError};
use crate::credential::{Credential, Grant};

/// Other servers that are asked for the buyer's address.
pub const MAX_WITNESSES: usize = 3;
/// Bytes before a packet's number: they tell the trial's own packets from others.
const TOKEN: usize = 16;
/// Largest packet that is sent, bytes.
const MAX_SIZE: usize = 1200;
/// Most packets of a trial.
const MAX_PACKETS: u32 = 1000;

/// How a server is tried. The default takes half a second, and 160 kB at most of the quota.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Trial {
    /// Packets, 1 to 1000.
    pub packets: u32,
    /// Bytes of each, 20 to 1200.
    pub size: usize,
    /// Time between two.
    pub interval: Duration,
    /// How long an answer, or the last packets, are waited for.
    pub patience: Duration,
}

impl Default for Trial {
    fn default() -> Self {
        Self { packets: 25, size: 160, interval: Duration::from_millis(20), patience: Duration::from_secs(3) }
    }
}

/// What came of a trial of STUN.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct StunTried {
    /// From asking to the answer, the challenge included.
    pub binding: Option<Duration>,
    /// The buyer's address, by the server and by others.
    pub mapped: Mapped,
    /// How it ended.
    pub ending: TurnEnding,
}

/// What came of a trial of TURN.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TurnTried {
    /// From asking for the allocation to having it.
    pub allocation: Option<Duration>,
    /// The buyer's address, by the server and by others.
    pub mapped: Mapped,
    /// Packets that were sent into the relay.
    pub sent: usize,
    /// Each that came back: how long it was on its way.
    pub round_trips: Vec<Duration>,
    /// How it ended.
    pub ending: TurnEnding,
}

impl TurnTried {
    /// Whether nothing can be said of the server: the lease's allocations were all in use, by the buyer's own calls.
    #[must_use]
    pub const fn is_occupied(&self) -> bool {
        matches!(self.ending, TurnEnding::Refused { code: 486, .. })
    }
}

fn credential(grant: &Grant) -> Credential {
    Credential { username: grant.username.clone(), password: grant.credential.clone() }
}

/// The first address of a grant that is of this scheme and reached by UDP.
async fn server(grant: &Grant, scheme: &str) -> Result<SocketAddr, TurnEnding> {
    let invalid = |reason: String| TurnEnding::Invalid { reason };
    let found = grant.urls.iter().find_map(|url| {
        let rest = url.strip_prefix(scheme)?.strip_prefix(':')?;
        match rest.split_once('?') {
            Some((host, "transport=udp")) => Some(host),
            Some(_) => None,
            None => Some(rest),
        }
    });
    let host = found.ok_or_else(|| invalid(format!("none of its addresses is one of {scheme} by UDP")))?;
    let mut addresses = tokio::net::lookup_host(host)
        .await
        .map_err(|error| invalid(format!("its address {host} leads nowhere: {error}")))?;
    addresses.next().ok_or_else(|| invalid(format!("its address {host} leads nowhere")))
}

/// Where the packets come from and go to.
enum Outside {
    /// Another socket of this host.
    Socket(UdpSocket),
    /// Another allocation, where this host's address is the relay's: a relay reaches its own address at relay ports only.
    Relay(Box<TurnClient>),
}

impl Outside {
    async fn open(
        trial: &Trial,
        grant: &Grant,
        relay: &mut TurnClient,
        server: SocketAddr,
    ) -> Result<Self, TurnEnding> {
        let (mapped, relayed) = (relay.mapped(), relay.relayed());
        if mapped.ip() == relayed.ip() {
            let other = TurnClient::allocate(server, credential(grant), trial.patience).await;
            let mut other = other.map_err(ending)?;
            other.permit(relayed).await.map_err(ending)?;
            return Ok(Self::Relay(Box::new(other)));
        }
        let any: IpAddr = match relayed {
            SocketAddr::V4(_) => Ipv4Addr::UNSPECIFIED.into(),
            SocketAddr::V6(_) => Ipv6Addr::UNSPECIFIED.into(),
        };
        UdpSocket::bind((any, 0)).await.map(Self::Socket).map_err(own)
    }

    async fn send(&self, to: SocketAddr, packet: &[u8]) -> Result<(), TurnEnding> {
        match self {
            Self::Socket(socket) => socket.send_to(packet, to).await.map(drop).map_err(own),
            Self::Relay(relay) => relay.send(to, packet).await.map_err(ending),
        }
    }

    async fn recv(&mut self) -> Result<(SocketAddr, Vec<u8>), TurnEnding> {
        match self {
            Self::Socket(socket) => loop {
                let mut buffer = vec![0; MAX_SIZE];
                // What an earlier packet met comes back as an error.
                let Ok((length, from)) = socket.recv_from(&mut buffer).await else { continue };
                buffer.truncate(length);
                return Ok((from, buffer));
            },
            Self::Relay(relay) => relay.recv().await.map_err(ending),
        }
    }

    async fn close(self) {
        if let Self::Relay(mut relay) = self {
            let _ = relay.refresh(Duration::ZERO).await;
        }
    }
}

#[allow(clippy::needless_pass_by_value, reason = "as map_err gives it")]
fn own(error: std::io::Error) -> TurnEnding {
    TurnEnding::BuyerError { reason: error.to_string() }
}

impl Trial {
    /// Asks the leased server for the own address, with the credential, and others without one.
    pub async fn stun(&self, grant: &Grant, witnesses: &[SocketAddr]) -> StunTried {
        let (tried, elsewhere) = tokio::join!(self.bind(grant), self.ask(witnesses));
        match tried {
            Ok((address, took)) => StunTried {
                binding: Some(took),
                mapped: Mapped { here: Some(address), elsewhere },
                ending: TurnEnding::Complete,
            },
            Err(ending) => StunTried {
                binding: None,
                ending: with_others(ending, witnesses, &elsewhere),
                mapped: Mapped { here: None, elsewhere },
            },
        }
    }

    async fn bind(&self, grant: &Grant) -> Result<(SocketAddr, Duration), TurnEnding> {
        let server = server(grant, "stun").await?;
        let begun = Instant::now();
        let asked = async {
            let client = StunClient::new(server, Some(credential(grant)), self.patience).await?;
            client.in_realm(&grant.realm).binding().await
        };
        asked.await.map(|address| (address, begun.elapsed())).map_err(ending)
    }

    /// The own address as each of these servers says it, of those that answer.
    async fn ask(&self, witnesses: &[SocketAddr]) -> Vec<SocketAddr> {
        let mut asking = tokio::task::JoinSet::new();
        for witness in witnesses.iter().copied().take(MAX_WITNESSES) {
            let patience = self.patience;
            asking.spawn(async move { StunClient::new(witness, None, patience).await?.binding().await });
        }
        asking.join_all().await.into_iter().filter_map(Result::ok).collect()
    }

    /// Allocates at the leased server, and sends packets from another socket of this host to the relayed address; each one that comes out is sent back through
    /// the relay. The allocation is given back. A buyer whose address is the relay's own sends from a second allocation.
    pub async fn turn(&self, grant: &Grant, witnesses: &[SocketAddr]) -> TurnTried {
        let relaying = async {
            let mut tried = TurnTried {
                allocation: None,
                mapped: Mapped::default(),
                sent: 0,
                round_trips: Vec::new(),
                ending: TurnEnding::Complete,
            };
            if let Err(ending) = self.relay(grant, &mut tried).await {
                tried.ending = ending;
            }
            tried
        };
        let (mut tried, elsewhere) = tokio::join!(relaying, self.ask(witnesses));
        tried.ending = with_others(tried.ending, witnesses, &elsewhere);
        tried.mapped.elsewhere = elsewhere;
        tried
    }

    async fn relay(&self, grant: &Grant, tried: &mut TurnTried) -> Result<(), TurnEnding> {
        let server = server(grant, "turn").await?;
        let begun = Instant::now();
        let mut relay = TurnClient::allocate(server, credential(grant), self.patience).await.map_err(ending)?;
        let allocated = Instant::now();
        tried.allocation = Some(allocated - begun);
        tried.mapped.here = Some(relay.mapped());
        match relay.permit(SocketAddr::new(relay.mapped().ip(), 0)).await {
            Ok(()) => {
                let mut outside = Outside::open(self, grant, &mut relay, server).await?;
                self.loop_back(&mut relay, &mut outside, tried).await?;
                outside.close().await;
            }
            // A relay's way to a buyer of its own network is rightly closed.
            Err(error) if error.refusal() == Some(403) && is_private(relay.mapped().ip()) => {}
            Err(error) => return Err(ending(error)),
        }
        // Whether it is there still.
        let kept = relay.refresh(relay.lifetime().max(Duration::from_secs(60))).await;
        match kept {
            Ok(()) => {
                let _ = relay.refresh(Duration::ZERO).await;
                Ok(())
            }
            Err(error @ TurnClientError::Local { .. }) => Err(ending(error)),
            Err(_) => {
                let after_ms = u64::try_from(allocated.elapsed().as_millis()).unwrap_or(u64::MAX);
                Err(TurnEnding::Cut { after_ms })
            }
        }
    }

    async fn loop_back(
        &self,
        relay: &mut TurnClient,
        outside: &mut Outside,
        tried: &mut TurnTried,
    ) -> Result<(), TurnEnding> {
        let relayed = relay.relayed();
        let mut packet = vec![0; self.size.clamp(TOKEN + 4, MAX_SIZE)];
        let token: [u8; TOKEN] = rand::random();
        packet[..TOKEN].copy_from_slice(&token);
        let number = |bytes: &[u8]| {
            let rest = bytes.strip_prefix(&token)?;
            Some(usize::try_from(u32::from_be_bytes(rest.get(..4)?.try_into().ok()?)).unwrap_or(usize::MAX))
        };
        let packets = self.packets.clamp(1, MAX_PACKETS);
        let mut left: Vec<Instant> = Vec::new();
        let mut back = HashSet::new();
        let mut ticks = tokio::time::interval(self.interval.max(Duration::from_millis(1)));
        let over = tokio::time::sleep(self.patience + ticks.period() * packets);
        tokio::pin!(over);
        while back.len() < packets as usize {
            tokio::select! {
                () = &mut over => break,
                _ = ticks.tick(), if left.len() < packets as usize => {
                    let count = u32::try_from(left.len()).unwrap_or(u32::MAX);
                    packet[TOKEN..TOKEN + 4].copy_from_slice(&count.to_be_bytes());
                    left.push(Instant::now());
                    outside.send(relayed, &packet).await?;
                }
                came = relay.recv() => {
                    let (peer, payload) = came.map_err(ending)?;
                    if number(&payload).is_some() {
                        relay.send(peer, &payload).await.map_err(ending)?;
                    }
                }
                came = outside.recv() => {
                    let (from, payload) = came?;
                    if from == relayed
                        && let Some(number) = number(&payload)
                        && let Some(sent) = left.get(number)
                        && back.insert(number)
                    {
                        tried.round_trips.push(sent.elapsed());
                    }
                }
            }
        }
        tried.sent = left.len();
        Ok(())
    }
}

#[allow(clippy::needless_pass_by_value, reason = "as map_err gives it")]
fn ending(error: TurnClientError) -> TurnEnding {
    match error {
        TurnClientError::Local { .. } => TurnEnding::BuyerError { reason: error.to_string() },
        TurnClientError::NoAnswer { .. } => TurnEnding::Silent { others_answer: None },
        TurnClientError::Refused { method, code, .. } => TurnEnding::Refused { what: method.to_owned(), code },
        TurnClientError::Invalid { reason, .. } => TurnEnding::Invalid { reason: reason.to_owned() },
    }
}

fn with_others(ending: TurnEnding, asked: &[SocketAddr], answered: &[SocketAddr]) -> TurnEnding {
    match ending {
        TurnEnding::Silent { .. } if !asked.is_empty() => {
            TurnEnding::Silent { others_answer: Some(!answered.is_empty()) }
        }
        other => other,
    }
}

/// Whether an address can be one of the server's own network.
fn is_private(ip: IpAddr) -> bool {
    !crate::peers::PeerPolicy::default().allows(ip)
}
