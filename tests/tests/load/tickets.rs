//! Tickets under load: buyers with good ones, attackers with bad ones, one provider, by request-response over libp2p.
//!
//! The tickets' proofs are made with a key whose trapdoor the test knows, since 600 a second can't be proved on one machine. The provider
//! knows nothing of that: it computes every pairing, with a verifying key of the ticket circuit's shape, and stores every nullifier durably.

#![allow(dead_code, reason = "the test and the program that measures each use a part of it")]

#[path = "../../../crates/provider/tests/common/mod.rs"]
mod common;

use std::collections::{BTreeMap, HashSet};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use async_trait::async_trait;
use common::{L, S, World, payee, provider, slot, statement};
use parking_lot::Mutex;
use prost::Message as _;
use tokio::runtime::{Builder, Runtime};
use tributary_market::proto;
use tributary_market::ticket::{self, Reason, TicketRefusal, Verdict};
use tributary_protocol::{FieldElement as _, Fr};
use tributary_provider::check::CheckCounters;
use tributary_provider::store::OnMissing;
use tributary_provider::till::Till;
use tributary_waku::{
    Bytes, ClusterId, Multiaddr, Node, NodeConfig, NodeHandle, NodeKey, NodeLimits, PeerId, Rate, Refusal,
    RequestHandler, RequestLimits, ServeLimits, Sharding,
};

const PROTOCOL: &str = "/test/paid/1";
const PATIENCE: Duration = Duration::from_secs(30);
const MAX_REQUEST: usize = 4096;
/// The slot whose tickets are good; earlier ones are stale.
const SLOT: u64 = 5;
/// Requests a second that a peer may send, sustained.
const AT_MOST_PER_BUYER: u32 = 100;
/// And at once.
const BURST_PER_BUYER: u64 = 200;
/// Different bad requests of a kind.
const BAD: u64 = 400;

/// What attackers send.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Flood {
    /// Nothing.
    None,
    /// Cut-off requests.
    Malformed,
    /// Tickets whose one-time key didn't sign the request.
    BadSignature,
    /// Signed tickets with the proof of another statement.
    BadProof,
    /// Tickets that were spent for another request.
    Replayed,
    /// Tickets of a slot that is over.
    Stale,
    /// Tickets for another payee.
    WrongPayee,
    /// All kinds of these in turns.
    Mixed,
    /// Bad proofs of peers that come back under a new name five times a second each.
    NewNames,
}

impl Flood {
    /// The quiet, each kind, and the mixed.
    pub(crate) const ALL: [Self; 8] = [
        Self::None,
        Self::Malformed,
        Self::BadSignature,
        Self::BadProof,
        Self::Replayed,
        Self::Stale,
        Self::WrongPayee,
        Self::Mixed,
    ];

    fn name(self) -> &'static str {
        match self {
            Self::None => "none",
            Self::Malformed => "malformed",
            Self::BadSignature => "bad_signature",
            Self::BadProof => "bad_proof",
            Self::Replayed => "replayed",
            Self::Stale => "stale",
            Self::WrongPayee => "wrong_payee",
            Self::Mixed => "mixed",
            Self::NewNames => "new_names",
        }
    }
}

/// How much is sent.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Load {
    /// Length of each phase.
    pub(crate) duration: Duration,
    /// Length of the quiet phases after the first.
    pub(crate) quiet: Duration,
    /// Buyers. Each phase has half of them anew: the provider knows nothing of these.
    pub(crate) buyers: usize,
    /// Good tickets a second, of all buyers.
    pub(crate) valid_per_second: u32,
    /// Attackers.
    pub(crate) attackers: usize,
    /// Bad tickets a second, of each attacker.
    pub(crate) bad_per_attacker: u32,
    /// Requests that each buyer has under way while it is measured how many tickets are taken at most; 0 to leave that out.
    pub(crate) in_flight: usize,
}

impl Load {
    /// 600 good tickets a second from 10 buyers, 100 bad ones from each of 20 attackers.
    pub(crate) fn full(duration: Duration) -> Self {
        Self {
            duration,
            quiet: duration.min(Duration::from_secs(20)),
            buyers: 10,
            valid_per_second: 600,
            attackers: 20,
            bad_per_attacker: 100,
            in_flight: 16,
        }
    }
}

/// One phase.
#[derive(Clone, Debug, Default)]
pub(crate) struct Phase {
    /// What attackers sent.
    pub(crate) flood: &'static str,
    /// Good tickets sent.
    pub(crate) offered: u64,
    /// Good tickets whose acceptance the buyer was told of within the phase's time.
    pub(crate) accepted: u64,
    /// Those of buyers that the provider knows from before the phase: half of what is offered.
    pub(crate) accepted_of_known: u64,
    /// Good tickets whose acceptance the buyer was told of later.
    pub(crate) accepted_late: u64,
    /// Good tickets refused for want of capacity; they aren't spent.
    pub(crate) unavailable: u64,
    /// Why, in the provider's words.
    pub(crate) why: BTreeMap<String, u64>,
    /// Good tickets refused as bad.
    pub(crate) wrongly_refused: u64,
    /// Good tickets that got no answer.
    pub(crate) unanswered: u64,
    /// Bad tickets sent.
    pub(crate) bad_sent: u64,
    /// Bad tickets refused by the checker.
    pub(crate) bad_refused: u64,
    /// Bad tickets that the limits kept from the checker, or that got no answer.
    pub(crate) bad_cut: u64,
    /// Bad tickets accepted.
    pub(crate) bad_accepted: u64,
    /// Median time to a good ticket's acceptance.
    pub(crate) p50: Duration,
    /// 99th percentile.
    pub(crate) p99: Duration,
    /// Seconds of the phase.
    pub(crate) seconds: f64,
    /// Processor time meanwhile.
    pub(crate) cpu: Cpu,
    /// Checks of proofs and batches meanwhile, and the milliseconds that they took.
    pub(crate) checks: (u64, u64),
}

impl Phase {
    /// Good tickets accepted a second.
    pub(crate) fn throughput(&self) -> f64 {
        self.accepted as f64 / self.seconds
    }
}

/// Processor time, seconds. Zero where the system doesn't tell.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Cpu {
    /// Of the threads that send the load.
    pub(crate) peers: f64,
    /// Of all others: the provider's.
    pub(crate) provider: f64,
}

impl Cpu {
    fn now() -> Self {
        // In hundredths of a second, which is what Linux counts in on every usual machine.
        let ticks = |stat: &str| -> Option<f64> {
            let fields: Vec<&str> = stat.rsplit_once(')')?.1.split_whitespace().collect();
            Some((fields.get(11)?.parse::<f64>().ok()? + fields.get(12)?.parse::<f64>().ok()?) / 100.0)
        };
        let read = |path: &std::path::Path| std::fs::read_to_string(path).ok();
        let all = read("/proc/self/stat".as_ref()).as_deref().and_then(ticks).unwrap_or(0.0);
        let threads = std::fs::read_dir("/proc/self/task").into_iter().flatten().flatten();
        let stats = threads.filter_map(|thread| read(&thread.path().join("stat")));
        // The first thread, whose number is the process's, makes the load's pace.
        let first = format!("{} (", std::process::id());
        let sends = |stat: &String| stat.contains("(peers)") || stat.starts_with(&first);
        let peers = stats.filter(sends).filter_map(|stat| ticks(&stat)).sum();
        Self { peers, provider: all - peers }
    }

    fn since(self, before: Self) -> Self {
        Self { peers: self.peers - before.peers, provider: self.provider - before.provider }
    }
}

/// All phases.
#[derive(Debug)]
pub(crate) struct Report {
    /// Tickets accepted a second while buyers sent as many as were taken; `None` where that was left out.
    pub(crate) capacity: Option<f64>,
    /// One for each flood.
    pub(crate) phases: Vec<Phase>,
    /// Tickets whose acceptance was told more than once.
    pub(crate) accepted_twice: usize,
    /// Tickets accepted by the provider.
    pub(crate) accepted: u64,
    /// Nullifiers stored.
    pub(crate) stored: u64,
    /// The provider's counters at the end.
    pub(crate) counters: CheckCounters,
}

/// Sells an answer for a ticket.
#[derive(Debug)]
struct Shop(Till);

impl Shop {
    async fn sell(&self, peer: PeerId, request: &[u8]) -> Result<(), TicketRefusal> {
        let (admission, _payload) = self.0.admit_request(request, MAX_REQUEST, 1, Some(peer)).await?;
        let settled = self.0.served(admission).await;
        settled.map_err(|_| TicketRefusal::Unavailable { reason: "the store failed" })
    }
}

#[async_trait]
impl RequestHandler for Shop {
    async fn handle(&self, peer: PeerId, request: Bytes) -> Option<Bytes> {
        let status = match self.sell(peer, &request).await {
            Ok(()) => ticket::accepted(),
            Err(refusal) => refusal.status(),
        };
        Some(status.encode_to_vec().into())
    }

    fn refuse(&self, _: Refusal) -> Option<Bytes> {
        let reason = "too many requests; send it again";
        Some(TicketRefusal::Unavailable { reason }.status().encode_to_vec().into())
    }
}

fn config() -> NodeConfig {
    NodeConfig {
        relay: false,
        limits: NodeLimits::shared_address(),
        ..NodeConfig::new(NodeKey::generate(), ClusterId(42), Sharding::Auto { shards: 8 })
    }
}

/// Room for what the load asks for; a single peer gets no more than its share.
fn limits() -> ServeLimits {
    ServeLimits {
        max_request_bytes: MAX_REQUEST as u64,
        max_concurrent: 256,
        max_concurrent_per_peer: 32,
        rate_per_peer: Some(Rate::new(f64::from(AT_MOST_PER_BUYER), BURST_PER_BUYER as f64)),
        rate_total: Some(Rate::new(4000.0, 8000.0)),
        ..ServeLimits::default()
    }
}

/// Makes tickets on all cores: `n` is their number, and makes their nullifier.
fn tickets(world: &World, numbers: std::ops::Range<u64>) -> Vec<Bytes> {
    let next = AtomicU64::new(numbers.start);
    let made = Mutex::new(Vec::new());
    std::thread::scope(|scope| {
        for _ in 0..std::thread::available_parallelism().map_or(2, usize::from) {
            scope.spawn(|| {
                let mut own = Vec::new();
                loop {
                    let n = next.fetch_add(1, Ordering::Relaxed);
                    if n >= numbers.end {
                        break;
                    }
                    own.push((n, good(world, n, b"request")));
                }
                made.lock().extend(own);
            });
        }
    });
    let mut made = made.into_inner();
    made.sort_unstable_by_key(|(n, _)| *n);
    made.into_iter().map(|(_, bytes)| bytes).collect()
}

fn good(world: &World, n: u64, payload: &[u8]) -> Bytes {
    let ticket = world.prepared(n, statement(n, slot(SLOT)));
    ticket.pay_payload(&provider(), payload.to_vec()).encode_to_vec().into()
}

/// Bad requests of one kind, of the tickets with these numbers.
fn bad(world: &World, flood: Flood, numbers: std::ops::Range<u64>) -> Vec<Bytes> {
    let one = world.trapdoor.prove(&statement(0, slot(SLOT)), 0);
    let with_that_proof = |n: u64, slot_number: u64| {
        let ticket = tributary_market::ticket::PreparedTicket {
            statement: statement(n, slot(slot_number)),
            proof: one,
            key: common::key(n),
        };
        ticket.pay_payload(&provider(), b"request".to_vec())
    };
    let spoilt = |n: u64, spoil: fn(&mut proto::PaidRequest)| {
        let mut request = with_that_proof(n, SLOT);
        spoil(&mut request);
        request.encode_to_vec()
    };
    let make = |n: u64| match flood {
        Flood::None => Vec::new(),
        Flood::Malformed => {
            let mut bytes = with_that_proof(n, SLOT).encode_to_vec();
            bytes.truncate(bytes.len() - 1 - usize::try_from(n % 200).unwrap());
            bytes
        }
        Flood::BadSignature => spoilt(n, |request| request.signature[7] ^= 1),
        Flood::BadProof | Flood::NewNames => with_that_proof(n, SLOT).encode_to_vec(),
        Flood::Replayed => good(world, n, b"another request").to_vec(),
        Flood::Stale => with_that_proof(n, 0).encode_to_vec(),
        Flood::WrongPayee => spoilt(n, |request| {
            let other = payee().to_fr() + Fr::from(1_u8);
            request.ticket.as_mut().unwrap().payee = other.to_be_bytes().to_vec();
        }),
        Flood::Mixed => unreachable!("made of the others"),
    };
    numbers.map(|n| make(n).into()).collect()
}

/// Bad proofs of `names` peers at a time, each of which gives way to a new one after a fifth of a second.
async fn send_under_new_names(
    names: usize,
    shop: PeerId,
    address: &Multiaddr,
    duration: Duration,
    requests: &[Bytes],
    done: Arc<dyn Fn(u64, Answer, Duration) + Send + Sync>,
) -> u64 {
    let start = tokio::time::Instant::now();
    let sent = AtomicU64::new(0);
    let one = async |first: usize| {
        let mut turn = start;
        while turn < start + duration {
            tokio::time::sleep_until(turn).await;
            turn += Duration::from_millis(200);
            let node = Node::spawn(config()).await.unwrap();
            // Not let in: then again with the next name.
            if node.dial_within(address, PATIENCE).await.is_ok() {
                let some = requests.iter().cycle().skip(first).take(16);
                let asked = some.map(|request| async {
                    let n = sent.fetch_add(1, Ordering::Relaxed);
                    let begun = Instant::now();
                    let answer = ask(&node, shop, request.clone()).await;
                    done(n, answer, begun.elapsed());
                });
                futures::future::join_all(asked).await;
            }
            node.shutdown().await;
        }
    };
    futures::future::join_all((0..names).map(|n| one(n * 16))).await;
    sent.into_inner()
}

#[derive(Clone, Debug, PartialEq, Eq)]
enum Answer {
    Accepted,
    /// With the provider's words.
    Unavailable(String),
    Refused,
    Nothing,
}

async fn ask(node: &NodeHandle, shop: PeerId, request: Bytes) -> Answer {
    let limits = RequestLimits { timeout: Duration::from_secs(10), ..RequestLimits::default() };
    let Ok(answer) = node.request(shop, PROTOCOL, request, limits).await else { return Answer::Nothing };
    let Ok(status) = proto::EligibilityStatus::decode(answer.as_ref()) else { return Answer::Nothing };
    let code = status.status_code.unwrap_or_default();
    let words = status.status_desc.unwrap_or_default();
    match Verdict::read(code, &words) {
        Verdict::Accepted => Answer::Accepted,
        Verdict::Refused { reason: Reason::Unavailable, .. } => Answer::Unavailable(words),
        _ => Answer::Refused,
    }
}

/// Nodes that only ask.
struct Crowd {
    nodes: Vec<NodeHandle>,
    shop: PeerId,
}

impl Crowd {
    async fn new(count: usize, shop: PeerId, address: &Multiaddr) -> Self {
        let mut nodes = Vec::new();
        for _ in 0..count {
            let node = Node::spawn(config()).await.unwrap();
            node.dial_within(address, PATIENCE).await.unwrap();
            nodes.push(node);
        }
        Self { nodes, shop }
    }

    /// Sends requests at a fixed rate whether or not earlier ones were answered, in turns from all nodes, and gives each answer to `done`
    /// with the number of its request and the time that it took.
    async fn send(
        &self,
        others: &[NodeHandle],
        per_second: u32,
        duration: Duration,
        request: impl Fn(u64) -> Bytes,
        done: Arc<dyn Fn(u64, Answer, Duration) + Send + Sync>,
    ) -> u64 {
        let start = tokio::time::Instant::now();
        let count = u64::from(per_second) * duration.as_secs();
        let mut tasks = tokio::task::JoinSet::new();
        for n in 0..count {
            tokio::time::sleep_until(start + Duration::from_secs_f64(n as f64 / f64::from(per_second))).await;
            let n_th = usize::try_from(n).unwrap() % (self.nodes.len() + others.len());
            let node = self.nodes.iter().chain(others).nth(n_th).unwrap();
            let (node, shop, done, bytes) = (node.clone(), self.shop, Arc::clone(&done), request(n));
            tasks.spawn(async move {
                let sent = Instant::now();
                let answer = ask(&node, shop, bytes).await;
                done(n, answer, sent.elapsed());
            });
            // What is done is let go, so that the set holds only what is on its way.
            while tasks.try_join_next().is_some() {}
        }
        while let Some(task) = tasks.join_next().await {
            task.unwrap();
        }
        count
    }
}

impl Crowd {
    /// Sends requests, each node `in_flight` at a time, and the next when one is answered. One that is refused for want of capacity is sent again: its
    /// ticket isn't spent. Returns how many were accepted in time.
    async fn send_at_most(&self, requests: Vec<Bytes>, in_flight: usize, duration: Duration) -> u64 {
        let (requests, next, accepted) =
            (Arc::new(requests), Arc::new(AtomicUsize::new(0)), Arc::new(AtomicU64::new(0)));
        let end = Instant::now() + duration;
        let mut tasks = tokio::task::JoinSet::new();
        for node in self.nodes.iter().cycle().take(self.nodes.len() * in_flight) {
            let (node, shop) = (node.clone(), self.shop);
            let (requests, next, accepted) = (Arc::clone(&requests), Arc::clone(&next), Arc::clone(&accepted));
            tasks.spawn(async move {
                let mut put_off = None;
                while Instant::now() < end {
                    let request = put_off.take().unwrap_or_else(|| {
                        let one = requests.get(next.fetch_add(1, Ordering::Relaxed));
                        // Whoever goes on without would measure the stock.
                        one.expect("the stock of tickets is as large as all buyers' rates").clone()
                    });
                    match ask(&node, shop, request.clone()).await {
                        Answer::Accepted if Instant::now() <= end => {
                            accepted.fetch_add(1, Ordering::Relaxed);
                        }
                        // Over its rate: not at once again.
                        Answer::Unavailable(_) => {
                            put_off = Some(request);
                            tokio::time::sleep(Duration::from_millis(50)).await;
                        }
                        _ => {}
                    }
                }
            });
        }
        while let Some(task) = tasks.join_next().await {
            task.unwrap();
        }
        accepted.load(Ordering::Relaxed)
    }

    async fn leave(&self) {
        for node in &self.nodes {
            node.shutdown().await;
        }
    }
}

#[derive(Default)]
struct Tally {
    accepted: AtomicU64,
    of_known: AtomicU64,
    late: AtomicU64,
    unavailable: AtomicU64,
    refused: AtomicU64,
    unanswered: AtomicU64,
    times: Mutex<Vec<Duration>>,
    why: Mutex<BTreeMap<String, u64>>,
}

fn runtime(name: &str) -> Runtime {
    Builder::new_multi_thread().worker_threads(2).thread_name(name).enable_all().build().unwrap()
}

/// Runs one phase after the other against one provider.
pub(crate) fn run(load: &Load, floods: &[Flood]) -> Report {
    let dir = tempfile::tempdir().unwrap();
    let (at_provider, elsewhere) = (runtime("provider"), runtime("peers"));
    let world = at_provider.block_on(World::open(&dir.path().join("db"), OnMissing::NewPayee, S + SLOT * L + 5));
    let node = NodeConfig { listen: vec!["/ip4/127.0.0.1/tcp/0".parse().unwrap()], ..config() };
    let node = at_provider.block_on(Node::spawn(node)).unwrap();
    at_provider.block_on(node.serve(PROTOCOL, limits(), Arc::new(Shop(world.till.clone())))).unwrap();
    let (shop, address) = (node.peer_id(), node.listen_addrs().first().cloned().unwrap());
    let old = elsewhere.block_on(Crowd::new(load.buyers.div_ceil(2), shop, &address));

    // Tickets that are spent before any phase, for the attackers to replay.
    let (spent, first) = (1_000_000_u64, 10_000_000_u64);
    let used = tickets(&world, spent..spent + BAD);
    let told = Arc::new(Mutex::new(HashSet::new()));
    let accepted_twice = Arc::new(AtomicUsize::new(0));
    // From all buyers in turns, so that none exceeds its rate.
    for (bytes, buyer) in used.iter().zip(old.nodes.iter().cycle()) {
        let answer = elsewhere.block_on(ask(buyer, shop, bytes.clone()));
        assert!(matches!(answer, Answer::Accepted), "a ticket to be replayed was not accepted");
    }

    let capacity = (load.in_flight > 0).then(|| {
        // No buyer may have more accepted than its share of this; each request under way at the end takes one too.
        let each = u64::from(AT_MOST_PER_BUYER) * load.duration.as_secs() + BURST_PER_BUYER + load.in_flight as u64;
        let most = each * load.buyers as u64;
        let requests = tickets(&world, first..first + most);
        let crowd = elsewhere.block_on(Crowd::new(load.buyers, shop, &address));
        let accepted = elsewhere.block_on(crowd.send_at_most(requests, load.in_flight, load.duration));
        elsewhere.block_on(crowd.leave());
        accepted as f64 / load.duration.as_secs_f64()
    });

    let mut phases: Vec<Phase> = Vec::new();
    for (number, &flood) in (1_u64..).zip(floods) {
        let quiet = flood == Flood::None && !phases.is_empty();
        let duration = if quiet { load.quiet } else { load.duration };
        let count = u64::from(load.valid_per_second) * duration.as_secs();
        let base = first + number * 1_000_000;
        let valid = tickets(&world, base..base + count);
        let kinds: &[Flood] = if flood == Flood::Mixed { &Flood::ALL[1..7] } else { std::slice::from_ref(&flood) };
        // Spent nullifiers only where it is about spent ones: elsewhere they would hide the other fault.
        let first_of = |kind: Flood| if kind == Flood::Replayed { spent } else { 2 * spent };
        let numbers = |kind: Flood| first_of(kind)..first_of(kind) + BAD;
        let sets: Vec<Vec<Bytes>> = kinds.iter().map(|kind| bad(&world, *kind, numbers(*kind))).collect();
        let renamed = if flood == Flood::NewNames { load.attackers } else { 0 };
        let attackers = if flood == Flood::None { 0 } else { load.attackers - renamed };
        // Each phase has attackers of its own: what the provider remembers of earlier ones must not spare it these.
        let attackers = elsewhere.block_on(Crowd::new(attackers, shop, &address));
        let buyers = elsewhere.block_on(Crowd::new(load.buyers / 2, shop, &address));

        let (new_buyers, buyers_in_all) = (buyers.nodes.len() as u64, (buyers.nodes.len() + old.nodes.len()) as u64);
        let (good, evil) = (Arc::new(Tally::default()), Arc::new(Tally::default()));
        let (cpu, checked) = (Cpu::now(), world.checker.counters());
        let start = Instant::now();
        let end = start + duration;
        let on_good: Arc<dyn Fn(u64, Answer, Duration) + Send + Sync> = {
            let (good, told, twice) = (Arc::clone(&good), Arc::clone(&told), Arc::clone(&accepted_twice));
            Arc::new(move |n, answer, took| match answer {
                Answer::Accepted => {
                    if !told.lock().insert(base + n) {
                        twice.fetch_add(1, Ordering::Relaxed);
                    }
                    let in_time = Instant::now() <= end;
                    let counter = if in_time { &good.accepted } else { &good.late };
                    counter.fetch_add(1, Ordering::Relaxed);
                    // New buyers come first in each turn.
                    if in_time && n % buyers_in_all >= new_buyers {
                        good.of_known.fetch_add(1, Ordering::Relaxed);
                    }
                    good.times.lock().push(took);
                }
                other => {
                    if let Answer::Unavailable(words) = &other {
                        *good.why.lock().entry(words.clone()).or_default() += 1;
                    }
                    count_refusal(&good, &other);
                }
            })
        };
        let on_bad: Arc<dyn Fn(u64, Answer, Duration) + Send + Sync> = {
            let evil = Arc::clone(&evil);
            Arc::new(move |_, answer, _| match answer {
                Answer::Accepted => {
                    evil.accepted.fetch_add(1, Ordering::Relaxed);
                }
                other => count_refusal(&evil, &other),
            })
        };
        let (offered, bad_sent) = elsewhere.block_on(async {
            let offer = |n: u64| valid[usize::try_from(n).unwrap()].clone();
            let spoil = |n: u64| {
                let n = usize::try_from(n).unwrap();
                let set = &sets[n % sets.len()];
                set[n / sets.len() % set.len()].clone()
            };
            let bad_rate = load.bad_per_attacker * u32::try_from(attackers.nodes.len()).unwrap();
            let flood = async {
                match flood {
                    Flood::None => 0,
                    Flood::NewNames => send_under_new_names(renamed, shop, &address, duration, &sets[0], on_bad).await,
                    _ => attackers.send(&[], bad_rate, duration, spoil, on_bad).await,
                }
            };
            futures::join!(buyers.send(&old.nodes, load.valid_per_second, duration, offer, on_good), flood)
        });
        let cpu = Cpu::now().since(cpu);
        elsewhere.block_on(async { futures::join!(attackers.leave(), buyers.leave()) });
        let counters = world.checker.counters();
        let checks = (counters.proof_checks - checked.proof_checks, counters.proof_checks_ms - checked.proof_checks_ms);
        let get = |counter: &AtomicU64| counter.load(Ordering::Relaxed);
        let mut times = std::mem::take(&mut *good.times.lock());
        times.sort_unstable();
        let percentile = |p: usize| times.get((times.len() * p / 100).min(times.len().saturating_sub(1))).copied();
        phases.push(Phase {
            flood: flood.name(),
            offered,
            accepted: get(&good.accepted),
            accepted_of_known: get(&good.of_known),
            accepted_late: get(&good.late),
            unavailable: get(&good.unavailable),
            why: std::mem::take(&mut *good.why.lock()),
            wrongly_refused: get(&good.refused),
            unanswered: get(&good.unanswered),
            bad_sent,
            bad_refused: get(&evil.refused),
            bad_cut: get(&evil.unavailable) + get(&evil.unanswered),
            bad_accepted: get(&evil.accepted),
            p50: percentile(50).unwrap_or_default(),
            p99: percentile(99).unwrap_or_default(),
            seconds: duration.as_secs_f64(),
            cpu,
            checks,
        });
    }
    let counters = world.checker.counters();
    let stored = at_provider.block_on(world.checker.store().stored()).unwrap();
    at_provider.block_on(node.shutdown());
    Report {
        capacity,
        phases,
        accepted_twice: accepted_twice.load(Ordering::Relaxed),
        accepted: counters.taken,
        stored,
        counters,
    }
}

fn count_refusal(tally: &Tally, answer: &Answer) {
    let counter = match answer {
        Answer::Unavailable(_) => &tally.unavailable,
        Answer::Refused => &tally.refused,
        Answer::Accepted | Answer::Nothing => &tally.unanswered,
    };
    counter.fetch_add(1, Ordering::Relaxed);
}
