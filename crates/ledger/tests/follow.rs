//! Following a chain that grows, is replaced, lags and lies. The chain is one in memory that logs what a pool would; a second ledger that reads the
//! final chain from its start is the reference.

use std::sync::{
    Arc, Mutex,
    atomic::{AtomicU64, Ordering},
};

use alloy::{
    primitives::{Address, B256, Bytes, Log as PlainLog, LogData, U256, keccak256},
    rpc::types::Log,
    sol_types::SolEvent,
};
use async_trait::async_trait;
use rand::{Rng, SeedableRng, rngs::StdRng};
use tributary_bindings::{StreamPool, TokenInfo, VerifierAddresses, VerifyingKeyHashes};
use tributary_ledger::{
    BlockRef, ChainSource, DeploymentManifest, EventSeq, Header, Ledger, LedgerConfig, LedgerError, PoolEvent,
};
use tributary_protocol::{
    Commitment, FieldElement, Fr, MerkleTree, Nullifier, RecordTag, StopEntry, StoppedList, UnixTime, field::reduce,
};

const CHAIN: u64 = 31_337;
const L: u64 = 60;
const NOTICE: u64 = 180;
const MARGIN: u64 = 30;
const GENESIS: u64 = 1_800_000_000;

fn manifest() -> DeploymentManifest {
    let a = Address::repeat_byte(7);
    let h = B256::repeat_byte(9);
    DeploymentManifest {
        version: 1,
        chain_id: CHAIN,
        pool: Address::repeat_byte(0xaa),
        token: TokenInfo { address: a, symbol: "tUSD".to_owned(), decimals: 6 },
        block: 1,
        verifiers: VerifierAddresses { transact: a, close: a, claim: a, insert: a },
        vk_hashes: VerifyingKeyHashes { transact: h, close: h, claim: h, insert: h, ticket: h },
        notice: NOTICE,
        slot_length: L,
        margin: MARGIN,
        burn_bps: 100,
        development: true,
    }
}

/// Something in the field that depends on the numbers only.
fn element(label: &str, n: u64) -> Fr {
    reduce(keccak256(format!("{label}/{n}")))
}

fn sealed() -> StreamPool::SealedMemo {
    let z = U256::ZERO;
    StreamPool::SealedMemo { ex: z, ey: z, c0: z, c1: z, c2: z }
}

#[derive(Clone, Debug)]
struct Block {
    at: BlockRef,
    logs: Vec<LogData>,
    /// The pool after this block.
    leaves: Vec<Commitment>,
    inserted: u64,
}

/// What the node gets wrong.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
enum Fault {
    #[default]
    None,
    /// `eth_getLogs` by range comes from a node that has no logs yet.
    RangeLogsLag,
    /// The next header asked for by number is answered, and then the chain is replaced from there on.
    ReplaceWhileReading(u64),
    /// The nth request from now fails.
    FailAfter(u64),
    /// More than this many blocks at once are refused.
    MostBlocks(u64),
}

#[derive(Debug, Default)]
struct Chain {
    blocks: Vec<Block>,
    fault: Fault,
    /// Makes replaced blocks differ.
    salt: u64,
}

#[derive(Clone, Debug)]
struct FakeChain {
    chain: Arc<Mutex<Chain>>,
    requests: Arc<AtomicU64>,
}

impl FakeChain {
    fn new() -> Self {
        let fake = Self { chain: Arc::default(), requests: Arc::default() };
        fake.chain.lock().unwrap().blocks.push(Block {
            at: BlockRef { number: 0, hash: keccak256("genesis"), parent: B256::ZERO, timestamp: GENESIS },
            logs: Vec::new(),
            leaves: Vec::new(),
            inserted: 0,
        });
        fake
    }

    fn fault(&self, fault: Fault) {
        self.chain.lock().unwrap().fault = fault;
    }

    fn head(&self) -> BlockRef {
        self.chain.lock().unwrap().blocks.last().unwrap().at
    }

    fn mine(&self, seconds: u64, what: &[Act]) -> BlockRef {
        self.chain.lock().unwrap().mine(seconds, what)
    }

    /// Drops the newest `depth` blocks.
    fn cut(&self, depth: usize) {
        let mut chain = self.chain.lock().unwrap();
        chain.salt += 1;
        let left = chain.blocks.len() - depth;
        assert!(left >= 1);
        chain.blocks.truncate(left);
    }

    fn request(&self) -> Result<(), LedgerError> {
        self.requests.fetch_add(1, Ordering::SeqCst);
        let mut chain = self.chain.lock().unwrap();
        if let Fault::FailAfter(n) = chain.fault {
            if n == 0 {
                return Err(LedgerError::Rpc { method: "test", reason: "as told".to_owned() });
            }
            chain.fault = Fault::FailAfter(n - 1);
        }
        Ok(())
    }
}

/// What happens in a block.
#[derive(Clone, Copy, Debug)]
enum Act {
    /// A transact with two new notes; the number makes it unique.
    Transact(u64),
    /// A stop at this time.
    Close(u64, u64),
    /// A claim of this stream until this time.
    Claim(u64, u64),
    /// As much of the queue as one batch takes.
    Insert,
}

impl Chain {
    fn mine(&mut self, seconds: u64, what: &[Act]) -> BlockRef {
        let before = self.blocks.last().unwrap().clone();
        let number = before.at.number + 1;
        let mut leaves = before.leaves.clone();
        let mut inserted = before.inserted;
        let mut logs = Vec::new();
        let pair = |n: u64| [Commitment::new(element("cm0", n)), Commitment::new(element("cm1", n))];
        for act in what {
            let position = leaves.len() as u64;
            match *act {
                Act::Transact(n) => {
                    leaves.extend(pair(n));
                    let event = StreamPool::Transacted {
                        amountIn: U256::from(n),
                        amountOut: U256::ZERO,
                        nullifiers: [element("nf0", n).to_u256(), element("nf1", n).to_u256()],
                        commitments: pair(n).map(Commitment::to_u256),
                        memos: [sealed(), sealed()],
                        payerMemo: [B256::ZERO; 4],
                        position,
                    };
                    logs.push(event.encode_log_data());
                }
                Act::Close(n, stop) => {
                    leaves.extend(pair(n));
                    let event = StreamPool::Closed {
                        tag: element("tag", n).to_u256(),
                        stop: U256::from(stop),
                        amountOut: U256::ZERO,
                        nullifier: element("nf0", n).to_u256(),
                        commitments: pair(n).map(Commitment::to_u256),
                        memos: [sealed(), sealed()],
                        payerMemo: [B256::ZERO; 4],
                        position,
                    };
                    logs.push(event.encode_log_data());
                }
                Act::Claim(n, until) => {
                    let commitment = Commitment::new(element("claim", n.wrapping_mul(1_000_003) ^ until));
                    leaves.push(commitment);
                    let empty = StreamPool::ClaimWindow { tag: U256::ZERO, from: U256::ZERO, until: U256::ZERO };
                    let mut windows: [StreamPool::ClaimWindow; 16] = std::array::from_fn(|_| empty.clone());
                    windows[0].tag = element("tag", n).to_u256();
                    windows[0].until = U256::from(until);
                    let event = StreamPool::Claimed {
                        amountOut: U256::ZERO,
                        burnBps: U256::from(100),
                        commitment: commitment.into(),
                        memo: sealed(),
                        windows,
                        position,
                    };
                    logs.push(event.encode_log_data());
                }
                Act::Insert => {
                    let end = (leaves.len() as u64).min((inserted / 64 + 1) * 64);
                    if end == inserted {
                        continue;
                    }
                    inserted = end;
                    let tree =
                        MerkleTree::from_leaves(leaves[..usize::try_from(end).unwrap()].iter().copied()).unwrap();
                    logs.push(StreamPool::Inserted { newRoot: tree.root().into(), leafCount: end }.encode_log_data());
                }
            }
        }
        let hash = keccak256(format!("{}/{number}/{}", before.at.hash, self.salt));
        let at = BlockRef { number, hash, parent: before.at.hash, timestamp: before.at.timestamp + seconds };
        self.blocks.push(Block { at, logs, leaves, inserted });
        at
    }

    fn header(&self, number: u64) -> Option<Header> {
        let block = self.blocks.get(usize::try_from(number).unwrap())?;
        Some(Header { block: block.at, may_have_logs: !block.logs.is_empty() })
    }

    fn logs(&self, number: u64) -> Vec<Log> {
        let Some(block) = self.blocks.get(usize::try_from(number).unwrap()) else { return Vec::new() };
        block
            .logs
            .iter()
            .enumerate()
            .map(|(i, data)| Log {
                inner: PlainLog { address: manifest().pool, data: data.clone() },
                block_hash: Some(block.at.hash),
                block_number: Some(number),
                block_timestamp: None,
                transaction_hash: Some(keccak256(format!("tx/{}/{i}", block.at.hash))),
                transaction_index: Some(i as u64),
                log_index: Some(i as u64),
                removed: false,
            })
            .collect()
    }
}

#[async_trait]
impl ChainSource for FakeChain {
    async fn chain_id(&self) -> Result<u64, LedgerError> {
        Ok(CHAIN)
    }

    async fn head(&self) -> Result<Header, LedgerError> {
        self.request()?;
        let chain = self.chain.lock().unwrap();
        Ok(chain.header(chain.blocks.len() as u64 - 1).unwrap())
    }

    async fn header(&self, number: u64) -> Result<Option<Header>, LedgerError> {
        self.request()?;
        let mut chain = self.chain.lock().unwrap();
        let header = chain.header(number);
        if let Fault::ReplaceWhileReading(blocks) = chain.fault
            && header.is_some()
        {
            chain.fault = Fault::None;
            chain.salt += 1;
            chain.blocks.truncate(usize::try_from(number).unwrap());
            for n in 0..blocks {
                chain.mine(12, &[Act::Transact(900_000 + n)]);
            }
        }
        Ok(header)
    }

    async fn logs(&self, from: u64, to: u64) -> Result<Vec<Log>, LedgerError> {
        self.request()?;
        let chain = self.chain.lock().unwrap();
        match chain.fault {
            Fault::RangeLogsLag => return Ok(Vec::new()),
            Fault::MostBlocks(most) if to - from + 1 > most => {
                let message = "block range too large".to_owned();
                return Err(LedgerError::Refused { method: "eth_getLogs", error: -32_005, message });
            }
            _ => {}
        }
        Ok((from..=to).flat_map(|n| chain.logs(n)).collect())
    }

    async fn logs_of(&self, hash: B256) -> Result<Vec<Log>, LedgerError> {
        self.request()?;
        let chain = self.chain.lock().unwrap();
        let number = chain.blocks.iter().find(|b| b.at.hash == hash).map(|b| b.at.number);
        Ok(number.map(|n| chain.logs(n)).unwrap_or_default())
    }
}

fn config() -> LedgerConfig {
    LedgerConfig { log_range: 7, reorganisation_depth: 10, ..LedgerConfig::default() }
}

async fn open(path: &std::path::Path, chain: &FakeChain, config: LedgerConfig) -> Ledger {
    Ledger::with_source(path, Arc::new(chain.clone()), manifest(), config).await.unwrap()
}

/// Everything that a ledger answers, for comparison.
async fn picture(ledger: &Ledger, n: u64) -> String {
    let mut text = format!("{:?} {} {:?}\n", ledger.head(), ledger.queued(), ledger.newest_root());
    for depth in 0..40 {
        text += &format!("{:?} ", ledger.root_of_depth(depth));
    }
    let size = ledger.inserted();
    for position in 0..u32::try_from(size).unwrap() {
        text += &format!("{:?}", ledger.path_at(position, size).unwrap().0[0]);
    }
    for i in 0..n {
        text += &format!(
            "{:?} {:?} {:?} {:?}\n",
            ledger.leaf(Commitment::new(element("cm0", i))).await.unwrap(),
            ledger.leaf(Commitment::new(element("cm1", i))).await.unwrap(),
            ledger.spent(Nullifier::new(element("nf0", i))).await.unwrap(),
            ledger.record(RecordTag::new(element("tag", i))).await.unwrap(),
        );
    }
    if let Some(latest) = ledger.latest_final_slot() {
        text += &format!("{latest:?} {:?}\n", ledger.stopped_list(latest).unwrap().root());
    }
    let events: Vec<_> = all_events(ledger).await.into_iter().map(|(_, block, event)| (block, event)).collect();
    text += &format!("{events:?}");
    text
}

async fn all_events(ledger: &Ledger) -> Vec<(u64, u64, PoolEvent)> {
    let mut events = Vec::new();
    let mut seq = EventSeq::default();
    loop {
        let page = ledger.events_after(seq, 3).await.unwrap();
        let Some(last) = page.last() else { return events };
        seq = last.seq;
        events.extend(page.into_iter().map(|e| (e.seq.0, e.block, e.event)));
    }
}

#[tokio::test]
async fn a_ledger_that_lived_through_reorganisations_equals_one_that_did_not() {
    for seed in 0..24 {
        let mut rng = StdRng::seed_from_u64(seed);
        let dir = tempfile::tempdir().unwrap();
        let chain = FakeChain::new();
        chain.mine(12, &[]);
        let mut ledger = open(&dir.path().join("a.sqlite"), &chain, config()).await;
        let mut n = 0;
        let mut highest = 0;
        for round in 0..40 {
            // Whoever keeps ten headers can't go back further than that from the highest block seen.
            highest = highest.max(chain.head().number);
            let most = chain.head().number.saturating_sub(highest.saturating_sub(9));
            if most > 0 && rng.gen_bool(0.3) {
                let depth = rng.gen_range(1..=most);
                chain.cut(usize::try_from(depth).unwrap());
                // A replacement shows when the chain has grown past the fork.
                chain.mine(rng.gen_range(1..20), &[]);
            }
            for _ in 0..rng.gen_range(0..4) {
                let mut acts = Vec::new();
                for _ in 0..rng.gen_range(0..4) {
                    n += 1;
                    let now = chain.head().timestamp;
                    acts.push(match rng.gen_range(0..6) {
                        0 => Act::Close(n, (now / L + 6) * L),
                        1 => Act::Claim(rng.gen_range(0..=n), now),
                        2 | 3 => Act::Insert,
                        _ => Act::Transact(n),
                    });
                }
                let claims: Vec<_> = acts.iter().filter(|a| matches!(a, Act::Claim(..))).collect();
                if claims.len() > 1 {
                    continue; // one stream is claimed once until a time
                }
                chain.mine(rng.gen_range(1..20), &acts);
            }
            if rng.gen_bool(0.3) {
                chain.fault(Fault::FailAfter(rng.gen_range(0..6)));
                let _ = ledger.sync().await;
                chain.fault(Fault::None);
            }
            if rng.gen_bool(0.2) {
                drop(ledger);
                ledger = open(&dir.path().join("a.sqlite"), &chain, config()).await;
            }
            if rng.gen_bool(0.6) {
                ledger.sync().await.unwrap_or_else(|error| panic!("seed {seed}, round {round}: {error}"));
                assert_eq!(ledger.head(), Some(chain.head()), "seed {seed}, round {round}");
            }
        }
        chain.mine(12, &[Act::Insert]);
        ledger.sync().await.unwrap();
        let fresh = open(&dir.path().join("b.sqlite"), &chain, config()).await;
        fresh.sync().await.unwrap();
        assert_eq!(picture(&ledger, n).await, picture(&fresh, n).await, "seed {seed}");
        let seqs: Vec<u64> = all_events(&ledger).await.into_iter().map(|(seq, ..)| seq).collect();
        assert!(seqs.windows(2).all(|w| w[0] < w[1]));
    }
}

#[tokio::test]
async fn events_mined_again_get_new_numbers() {
    let dir = tempfile::tempdir().unwrap();
    let chain = FakeChain::new();
    let ledger = open(&dir.path().join("a.sqlite"), &chain, config()).await;
    chain.mine(12, &[Act::Transact(1)]);
    chain.mine(12, &[Act::Transact(2), Act::Insert]);
    ledger.sync().await.unwrap();
    let before = all_events(&ledger).await;
    assert_eq!(before.len(), 3);
    chain.cut(1);
    chain.mine(12, &[]);
    chain.mine(12, &[Act::Transact(2)]);
    let report = ledger.sync().await.unwrap();
    assert_eq!((report.rolled_back, report.events), (1, 1));
    let after = all_events(&ledger).await;
    assert_eq!(after.len(), 2);
    assert_eq!(after[0], before[0]);
    assert!(after[1].0 > before[2].0, "{} must be a number never used before", after[1].0);
    assert_eq!(ledger.inserted(), 0);
    assert_eq!(ledger.queued(), 4);
}

#[tokio::test]
async fn a_reorganisation_below_what_is_kept_stops_with_its_own_error_and_changes_nothing() {
    let dir = tempfile::tempdir().unwrap();
    let chain = FakeChain::new();
    let ledger = open(&dir.path().join("a.sqlite"), &chain, LedgerConfig { max_headers: 10, ..config() }).await;
    for n in 0..30 {
        chain.mine(12, &[Act::Transact(n)]);
    }
    ledger.sync().await.unwrap();
    let before = picture(&ledger, 30).await;
    chain.cut(12);
    for n in 100..130 {
        chain.mine(12, &[Act::Transact(n)]);
    }
    let error = ledger.sync().await.unwrap_err();
    assert!(matches!(error, LedgerError::ReorganisationTooDeep { oldest: 21, depth: 10, .. }), "{error:?}");
    assert_eq!(error.code(), "TRB-2005");
    assert_eq!(picture(&ledger, 30).await, before);
}

#[tokio::test]
async fn a_node_that_lags_takes_nothing_back() {
    let dir = tempfile::tempdir().unwrap();
    let chain = FakeChain::new();
    let ledger = open(&dir.path().join("a.sqlite"), &chain, config()).await;
    for n in 0..5 {
        chain.mine(12, &[Act::Transact(n)]);
    }
    ledger.sync().await.unwrap();
    let before = picture(&ledger, 5).await;
    let ahead = chain.chain.lock().unwrap().blocks.split_off(4);
    let report = ledger.sync().await.unwrap();
    assert_eq!(report.rolled_back, 0);
    assert_eq!(picture(&ledger, 5).await, before);
    chain.chain.lock().unwrap().blocks.extend(ahead);
    chain.mine(12, &[Act::Insert]);
    ledger.sync().await.unwrap();
    assert_eq!(ledger.inserted(), 10);
}

#[tokio::test]
async fn logs_that_one_node_leaves_out_are_asked_for_again() {
    let dir = tempfile::tempdir().unwrap();
    let chain = FakeChain::new();
    let ledger = open(&dir.path().join("a.sqlite"), &chain, config()).await;
    chain.mine(12, &[Act::Transact(1), Act::Insert]);
    chain.fault(Fault::RangeLogsLag);
    ledger.sync().await.unwrap();
    assert_eq!((ledger.queued(), ledger.inserted()), (2, 2));
}

#[tokio::test]
async fn a_chain_replaced_while_it_is_read_is_read_again() {
    let dir = tempfile::tempdir().unwrap();
    let chain = FakeChain::new();
    let ledger = open(&dir.path().join("a.sqlite"), &chain, config()).await;
    chain.mine(12, &[Act::Transact(1)]);
    ledger.sync().await.unwrap();
    for n in 2..6 {
        chain.mine(12, &[Act::Transact(n)]);
    }
    chain.fault(Fault::ReplaceWhileReading(5));
    ledger.sync().await.unwrap();
    assert_eq!(ledger.head(), Some(chain.head()));
    let fresh = open(&dir.path().join("b.sqlite"), &chain, config()).await;
    fresh.sync().await.unwrap();
    assert_eq!(picture(&ledger, 6).await, picture(&fresh, 6).await);
    assert_eq!(ledger.spent(Nullifier::new(element("nf0", 3))).await.unwrap(), None, "its block is gone");
}

#[tokio::test]
async fn events_that_do_not_fit_are_refused_and_leave_nothing_behind() {
    let dir = tempfile::tempdir().unwrap();
    let chain = FakeChain::new();
    let ledger = open(&dir.path().join("a.sqlite"), &chain, config()).await;
    chain.mine(12, &[Act::Transact(1)]);
    ledger.sync().await.unwrap();
    // A node that leaves out a transaction: the next one's position has a gap.
    chain.mine(12, &[Act::Transact(2), Act::Transact(3)]);
    let kept = chain.chain.lock().unwrap().blocks[2].logs.remove(0);
    let error = ledger.sync().await.unwrap_err();
    assert!(
        matches!(&error, LedgerError::BadEvent { number: 2, expected, found, .. } if expected == "2" && found == "4"),
        "{error:?}"
    );
    assert_eq!((ledger.queued(), ledger.head().unwrap().number), (2, 1));
    chain.chain.lock().unwrap().blocks[2].logs.insert(0, kept);
    ledger.sync().await.unwrap();
    assert_eq!(ledger.queued(), 6);
    // A root that is not that of the leaves.
    chain.mine(12, &[Act::Insert]);
    let good = {
        let mut chain = chain.chain.lock().unwrap();
        let bad = StreamPool::Inserted { newRoot: U256::from(5), leafCount: 6 }.encode_log_data();
        std::mem::replace(&mut chain.blocks[3].logs[0], bad)
    };
    let error = ledger.sync().await.unwrap_err();
    assert!(
        matches!(error, LedgerError::BadEvent { number: 3, what: "a root is not that of the leaves", .. }),
        "{error:?}"
    );
    assert_eq!(ledger.inserted(), 0);
    chain.chain.lock().unwrap().blocks[3].logs[0] = good;
    ledger.sync().await.unwrap();
    assert_eq!(ledger.inserted(), 6);
    // A log that is no event of the pool.
    chain.mine(12, &[]);
    chain.chain.lock().unwrap().blocks[4].logs.push(LogData::new_unchecked(vec![B256::repeat_byte(1)], Bytes::new()));
    let error = ledger.sync().await.unwrap_err();
    assert!(matches!(error, LedgerError::Protocol(_)), "{error:?}");
    assert_eq!(ledger.head().unwrap().number, 3);
}

#[tokio::test]
async fn a_database_serves_one_pool_on_one_chain() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("a.sqlite");
    let chain = FakeChain::new();
    let first = open(&path, &chain, config()).await;
    let id = first.id();
    drop(first);
    assert_eq!(open(&path, &chain, config()).await.id(), id);
    let other = DeploymentManifest { pool: Address::repeat_byte(1), ..manifest() };
    let error = Ledger::with_source(&path, Arc::new(chain.clone()), other, config()).await.unwrap_err();
    assert!(matches!(error, LedgerError::WrongPool { .. }), "{error:?}");
    let other = DeploymentManifest { chain_id: 1, ..manifest() };
    let error = Ledger::with_source(&path, Arc::new(chain.clone()), other, config()).await.unwrap_err();
    assert!(matches!(error, LedgerError::WrongChain { expected: 1, found: CHAIN }), "{error:?}");
}

#[tokio::test]
async fn a_caller_that_gives_up_leaves_nothing_half_done() {
    let dir = tempfile::tempdir().unwrap();
    let chain = FakeChain::new();
    let ledger = open(&dir.path().join("a.sqlite"), &chain, config()).await;
    for n in 0..40 {
        chain.mine(12, &[Act::Transact(n), Act::Insert]);
        let sync = ledger.sync();
        let mut sync = std::pin::pin!(sync);
        for _ in 0..(n % 7) {
            let once = futures::future::poll_fn(|cx| {
                let done = sync.as_mut().poll(cx).is_ready();
                std::task::Poll::Ready(done)
            });
            if once.await {
                break;
            }
            tokio::task::yield_now().await;
        }
    }
    ledger.sync().await.unwrap();
    assert_eq!((ledger.queued(), ledger.inserted()), (80, 80));
}

#[tokio::test]
async fn a_list_is_final_when_its_boundary_block_is_the_margin_old() {
    let dir = tempfile::tempdir().unwrap();
    let chain = FakeChain::new();
    let ledger = open(&dir.path().join("a.sqlite"), &chain, config()).await;
    let clock = ledger.clock();
    let slot = clock.slot_at(UnixTime::new(GENESIS + 600).unwrap()).unwrap();
    let boundary = slot.end().get() - NOTICE; // GENESIS + 480
    let advance = |to: u64, acts: &[Act]| chain.mine(to - chain.head().timestamp, acts);
    let is_final = async || {
        ledger.sync().await.unwrap();
        ledger.is_final(slot)
    };
    advance(GENESIS + 100, &[Act::Close(1, slot.end().get() - L)]);
    advance(boundary - 1, &[Act::Close(2, slot.end().get() - L), Act::Close(3, slot.end().get())]);
    assert!(!is_final().await);
    // No block falls on the boundary itself: B is the first one after it.
    advance(boundary + 20, &[]);
    assert!(!is_final().await);
    advance(boundary + 20 + MARGIN - 1, &[]);
    assert!(!is_final().await, "the head is {MARGIN} s after the boundary, but not after B");
    let error = ledger.stopped_list(slot).unwrap_err();
    assert!(matches!(error, LedgerError::NotFinal { slot_start, .. } if slot_start == slot.start().get()), "{error:?}");
    advance(boundary + 20 + MARGIN, &[]);
    assert!(is_final().await);
    assert!(!ledger.is_final(clock.next(slot).unwrap()));
    let entry = |n, stop| StopEntry { stop: UnixTime::new(stop).unwrap(), tag: RecordTag::new(element("tag", n)) };
    let mut entries = vec![entry(1, slot.end().get() - L), entry(2, slot.end().get() - L)];
    entries.sort();
    let expected = StoppedList::from_entries(entries).unwrap();
    assert_eq!(ledger.stopped_list(slot).unwrap().root(), expected.root(), "a stop at the slot's end is not in it");
}

#[tokio::test]
async fn nothing_is_final_before_a_block_is_the_margin_old() {
    let dir = tempfile::tempdir().unwrap();
    let chain = FakeChain::new();
    let ledger = open(&dir.path().join("a.sqlite"), &chain, config()).await;
    assert!(ledger.latest_final_slot().is_none());
    chain.mine(12, &[]);
    ledger.sync().await.unwrap();
    assert!(ledger.latest_final_slot().is_none(), "the deployment's block is all that it has seen");
    chain.mine(MARGIN, &[]);
    ledger.sync().await.unwrap();
    let first = chain.chain.lock().unwrap().blocks[1].at.timestamp;
    assert_eq!(ledger.latest_final_slot().unwrap().end().get(), (first + NOTICE) / L * L);
}

#[tokio::test]
async fn tickets_of_a_slot_use_the_last_root_before_its_cutoff() {
    let dir = tempfile::tempdir().unwrap();
    let chain = FakeChain::new();
    let ledger = open(&dir.path().join("a.sqlite"), &chain, config()).await;
    let slot = ledger.clock().slot_at(UnixTime::new(GENESIS + 600).unwrap()).unwrap();
    let cutoff = slot.start().get() - L;
    let advance = |to: u64, acts: &[Act]| chain.mine(to - chain.head().timestamp, acts);
    advance(cutoff - 100, &[Act::Transact(1), Act::Insert]);
    advance(cutoff - 1, &[Act::Transact(2), Act::Insert, Act::Transact(3), Act::Insert]);
    advance(cutoff, &[Act::Transact(4), Act::Insert]);
    ledger.sync().await.unwrap();
    assert_eq!(ledger.root_of_slot(slot).leaf_count, 6, "the last insertion of the last block before the cutoff");
    assert_eq!(ledger.newest_root().leaf_count, 8);
    assert_eq!(ledger.root_of_depth(1).leaf_count, 8);
    assert_eq!(ledger.root_of_depth(2).leaf_count, 6);
    assert_eq!(ledger.root_of_depth(3).leaf_count, 2);
    assert_eq!(ledger.root_of_depth(4).leaf_count, 0, "the empty tree's root is known from the start");
    let known = ledger.known_root(ledger.root_of_depth(2).root).unwrap();
    assert_eq!((known.block, known.timestamp.get()), (2, cutoff - 1));
    assert_eq!(ledger.known_root(tributary_protocol::Root::new(element("no", 1))), None);
    let error = ledger.path_at(6, 6).unwrap_err();
    assert!(matches!(error, LedgerError::NotInTree { position: 6, size: 6 }), "{error:?}");
}

#[tokio::test]
async fn heads_are_announced_and_the_loop_ends_when_told() {
    let dir = tempfile::tempdir().unwrap();
    let chain = FakeChain::new();
    let ledger = open(&dir.path().join("a.sqlite"), &chain, config()).await;
    let mut heads = ledger.heads();
    let (tick, ticks) = tokio::sync::mpsc::channel::<()>(1);
    let (stop, stopped) = tokio::sync::oneshot::channel::<()>();
    let ticks = futures::stream::unfold(ticks, |mut ticks| async move { ticks.recv().await.map(|()| ((), ticks)) });
    let running = {
        let ledger = ledger.clone();
        tokio::spawn(async move { ledger.run_with(ticks, async { drop(stopped.await) }).await })
    };
    for n in 0..3 {
        let mined = chain.mine(12, &[Act::Transact(n)]);
        tick.send(()).await.unwrap();
        heads.changed().await.unwrap();
        assert_eq!(*heads.borrow_and_update(), Some(mined));
    }
    stop.send(()).unwrap();
    running.await.unwrap();
}

#[tokio::test]
async fn reading_from_far_behind_asks_for_few_headers() {
    let dir = tempfile::tempdir().unwrap();
    let chain = FakeChain::new();
    for n in 0..3_000 {
        chain.mine(12, if n % 500 == 0 { &[Act::Transact(7), Act::Insert] } else { &[] });
    }
    // The same notes again and again would be refused by a pool; here only positions count.
    let config = LedgerConfig { log_range: 1_000, ..config() };
    let ledger = open(&dir.path().join("a.sqlite"), &chain, config).await;
    let error = ledger.sync().await.unwrap_err();
    assert!(matches!(error, LedgerError::Database(_)), "a nullifier spent twice can't be the pool's: {error:?}");

    let chain = FakeChain::new();
    for n in 0..3_000 {
        let acts = [Act::Transact(n), Act::Insert];
        chain.mine(12, if n % 500 == 0 { &acts } else { &[] });
    }
    let ledger = open(&dir.path().join("b.sqlite"), &chain, config).await;
    ledger.sync().await.unwrap();
    assert_eq!(ledger.inserted(), 12);
    let requests = chain.requests.load(Ordering::SeqCst);
    assert!(requests < 100, "{requests} requests for 3,000 blocks");
}

#[tokio::test]
async fn a_node_that_refuses_large_ranges_is_asked_for_smaller_ones() {
    let dir = tempfile::tempdir().unwrap();
    let chain = FakeChain::new();
    for n in 0..200 {
        chain.mine(12, if n % 10 == 0 { &[Act::Insert] } else { &[] });
        chain.mine(12, &[Act::Transact(n)]);
    }
    let config = LedgerConfig { log_range: 100, ..config() };
    chain.fault(Fault::MostBlocks(3));
    let ledger = open(&dir.path().join("a.sqlite"), &chain, config).await;
    ledger.sync().await.unwrap();
    assert_eq!((ledger.head(), ledger.queued()), (Some(chain.head()), 400));
    // A node that answers for no block at all is an error, not a loop.
    chain.fault(Fault::MostBlocks(0));
    chain.mine(12, &[]);
    let error = ledger.sync().await.unwrap_err();
    assert!(matches!(error, LedgerError::Refused { error: -32_005, .. }), "{error:?}");
    assert!(error.is_transient());
}
