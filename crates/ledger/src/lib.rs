//! Follows a pool on chain: its events, the commitment tree, the stopped lists, nullifiers and records, through reorganisations.
//!
//! A [`Ledger`] holds public data only and needs no keys: wallets, providers and relayers share it. Everything it asks of a chain node is
//! whole ranges of the pool's events and block headers, never a leaf, a tag or a note. What it read is in SQLite, each step in
//! one transaction; the tree and the stopped lists are kept in memory and rebuilt from there at start.
//!
//! Wallets keep no position in the chain. They remember the last [`EventSeq`] that they have seen and ask the ledger about the notes that
//! they know, so that a reorganisation needs no undoing on their side.

mod clock;
mod database;
mod error;
mod event;
mod follow;
mod source;
mod store;

use std::{
    collections::{HashMap, VecDeque},
    future::Future,
    path::Path as FilePath,
    sync::{Arc, Mutex, RwLock, RwLockReadGuard, RwLockWriteGuard},
    time::Duration,
};

use alloy::{primitives::B256, providers::DynProvider};
use futures::{Stream, StreamExt};
use rand::RngCore;
use tokio::sync::{Mutex as AsyncMutex, watch};
pub use tributary_bindings::DeploymentManifest;
use tributary_protocol::{
    Commitment, MerkleTree, Nullifier, Path, PoolClock, PoolId, RecordTag, Root, Seconds, Slot, StopEntry,
    StopSchedule, StoppedList, UnixTime,
    tree::{BATCH_LEAVES, Insertion},
};

pub use crate::{
    clock::{Clock, ManualClock, SystemClock},
    database::open_database,
    error::LedgerError,
    event::{ClaimedWindow, EventRecord, EventSeq, Output, PoolEvent},
    source::{BlockRef, ChainSource, Header, RpcSource},
};
use crate::{
    follow::{Limits, Piece, Step, next_step},
    store::{LeafRow, RootRow, Store, Writer},
};

/// How a ledger follows its chain.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct LedgerConfig {
    /// Time between two looks at the head in [`Ledger::run`].
    pub poll: Duration,
    /// Most blocks of one `eth_getLogs`.
    pub log_range: u64,
    /// Blocks that a reorganisation may take back; at least this many headers are kept.
    pub reorganisation_depth: u64,
    /// Most headers that are kept, however short the chain's blocks are.
    pub max_headers: u64,
}

impl Default for LedgerConfig {
    fn default() -> Self {
        Self { poll: Duration::from_secs(1), log_range: 2_000, reorganisation_depth: 128, max_headers: 16_384 }
    }
}

/// A root that the pool knows.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct KnownRoot {
    /// The root.
    pub root: Root,
    /// Leaves in the tree under it.
    pub leaf_count: u64,
    /// Block of the insertion.
    pub block: u64,
    /// That block's timestamp.
    pub timestamp: UnixTime,
}

/// A queued leaf.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Leaf {
    /// Place in queue and tree.
    pub position: u32,
    /// The commitment.
    pub commitment: Commitment,
    /// Block in which it was queued.
    pub block: u64,
    /// That block's timestamp.
    pub timestamp: UnixTime,
}

/// Where a note was spent.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Spent {
    /// Block.
    pub block: u64,
    /// Transaction.
    pub tx_hash: B256,
}

/// What the chain knows of a stream.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct StreamRecord {
    /// Paid up to here; 0 if never claimed.
    pub claimed_until: UnixTime,
    /// When it stops, if the payer stopped it.
    pub stop: Option<UnixTime>,
}

/// What [`Ledger::sync`] did.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct SyncReport {
    /// The newest block read.
    pub head: BlockRef,
    /// Events read.
    pub events: u64,
    /// Blocks taken back because the chain was replaced.
    pub rolled_back: u64,
}

/// Follows one pool. Clones share everything.
#[derive(Clone, Debug)]
pub struct Ledger {
    inner: Arc<Inner>,
}

#[derive(Debug)]
struct Inner {
    store: Store,
    source: Arc<dyn ChainSource>,
    manifest: DeploymentManifest,
    clock: PoolClock,
    config: LedgerConfig,
    id: [u8; 16],
    /// One synchronisation at a time.
    sync: AsyncMutex<()>,
    state: RwLock<State>,
    /// Apart from `state`: handing out a list may build it.
    stops: Mutex<StopSchedule>,
    heads: watch::Sender<Option<BlockRef>>,
}

#[derive(Debug, Default)]
struct State {
    /// Ascending and connected; the last is the head.
    headers: VecDeque<BlockRef>,
    /// Every queued leaf, inserted or not.
    tree: MerkleTree,
    /// Ascending; the first is the empty tree's.
    roots: Vec<KnownRoot>,
    by_root: HashMap<Root, usize>,
    /// Stops with their blocks, in the order in which they were mined.
    stops: Vec<(u64, StopEntry)>,
}

impl Ledger {
    /// Opens (or makes) the database at `path` and checks that `provider` is on the manifest's chain. Reads nothing from the chain yet.
    ///
    /// # Errors
    /// [`LedgerError`]: wrong chain, wrong pool, a damaged database, no answer.
    pub async fn open(
        path: impl AsRef<FilePath>,
        provider: DynProvider,
        manifest: DeploymentManifest,
        config: LedgerConfig,
    ) -> Result<Self, LedgerError> {
        let source = Arc::new(RpcSource::new(provider, manifest.pool));
        Self::with_source(path, source, manifest, config).await
    }

    /// As [`Ledger::open`], from any source of blocks.
    ///
    /// # Errors
    /// As [`Ledger::open`].
    pub async fn with_source(
        path: impl AsRef<FilePath>,
        source: Arc<dyn ChainSource>,
        manifest: DeploymentManifest,
        config: LedgerConfig,
    ) -> Result<Self, LedgerError> {
        let seconds = |value| Seconds::new(value).map_err(protocol);
        let clock =
            PoolClock::new(seconds(manifest.slot_length)?, seconds(manifest.notice)?, seconds(manifest.margin)?)
                .map_err(protocol)?;
        let found = source.chain_id().await?;
        if found != manifest.chain_id {
            return Err(LedgerError::WrongChain { expected: manifest.chain_id, found });
        }
        let store = Store::open(path.as_ref()).await?;
        let mut fresh = [0; 16];
        rand::rngs::OsRng.fill_bytes(&mut fresh);
        let id = store.bind(manifest.chain_id, manifest.pool, fresh).await?;
        let (state, stops) = load(&store, &manifest).await?;
        let (heads, _) = watch::channel(state.headers.back().copied());
        let inner = Inner {
            store,
            source,
            manifest,
            clock,
            config,
            id,
            sync: AsyncMutex::new(()),
            state: RwLock::new(state),
            stops: Mutex::new(stops),
            heads,
        };
        Ok(Self { inner: Arc::new(inner) })
    }

    /// The deployment that is followed.
    #[must_use]
    pub fn manifest(&self) -> &DeploymentManifest {
        &self.inner.manifest
    }

    /// The pool's chain and address.
    #[must_use]
    pub fn pool(&self) -> PoolId {
        PoolId { chain_id: self.inner.manifest.chain_id, address: self.inner.manifest.pool }
    }

    /// The pool's clock.
    #[must_use]
    pub fn clock(&self) -> PoolClock {
        self.inner.clock
    }

    /// Random id of the database: event numbers of one database mean nothing in another.
    #[must_use]
    pub fn id(&self) -> [u8; 16] {
        self.inner.id
    }

    /// Reads on to the chain's head.
    ///
    /// # Errors
    /// [`LedgerError`]; whatever was read before the error is kept, and the next call goes on from there.
    pub async fn sync(&self) -> Result<SyncReport, LedgerError> {
        // A task of its own: a caller that gives up must not leave memory and database apart.
        let this = self.clone();
        match tokio::spawn(async move { this.sync_to_end().await }).await {
            Ok(result) => result,
            Err(error) => match error.try_into_panic() {
                Ok(panic) => std::panic::resume_unwind(panic),
                Err(_) => Err(LedgerError::Interrupted),
            },
        }
    }

    async fn sync_to_end(&self) -> Result<SyncReport, LedgerError> {
        const ATTEMPTS: u32 = 8;
        let _one = self.inner.sync.lock().await;
        let mut events = 0;
        let mut rolled_back = 0;
        let mut attempts = 0;
        let mut limits = self.limits();
        loop {
            let kept: Vec<BlockRef> = self.state().headers.iter().copied().collect();
            match next_step(&*self.inner.source, self.inner.manifest.block, &kept, limits).await {
                Ok(Step::UpToDate) => break,
                Ok(Step::RollBack(ancestor)) => {
                    let depth = kept.last().map_or(0, |tip| tip.number - ancestor.number);
                    tracing::warn!(depth, "the chain was reorganised");
                    rolled_back += depth;
                    self.roll_back(Some(ancestor)).await?;
                }
                Ok(Step::StartOver) => {
                    tracing::warn!(depth = kept.len(), "the chain was reorganised from its first block on");
                    rolled_back += kept.len() as u64;
                    self.roll_back(None).await?;
                }
                Ok(Step::Extend(piece)) => {
                    attempts = 0;
                    events += piece.events.len() as u64;
                    let last = piece.headers.last().map_or(0, |b| b.number);
                    let head = piece.head;
                    self.extend(piece).await?;
                    if last >= head {
                        break;
                    }
                }
                Err(error @ LedgerError::Inconsistent { .. }) if attempts < ATTEMPTS => {
                    tracing::debug!(code = error.code(), "asking again");
                    attempts += 1;
                }
                // Nodes answer for so many blocks or logs at once and no more; each has its own limit.
                Err(LedgerError::Refused { method: "eth_getLogs", .. }) if limits.range > 1 => {
                    limits.range /= 2;
                    tracing::debug!(blocks = limits.range, "asking for fewer blocks at once");
                }
                Err(error) => return Err(error),
            }
        }
        let head = self.head().ok_or(LedgerError::Empty)?;
        Ok(SyncReport { head, events, rolled_back })
    }

    /// Synchronises at each poll until `shutdown` is done. Errors are logged by code and tried again.
    pub async fn run(&self, shutdown: impl Future<Output = ()>) {
        let mut interval = tokio::time::interval(self.inner.config.poll);
        interval.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
        let ticks = futures::stream::unfold(interval, |mut interval| async move {
            interval.tick().await;
            Some(((), interval))
        });
        self.run_with(ticks, shutdown).await;
    }

    /// As [`Ledger::run`], at each item of `ticks`.
    pub async fn run_with(&self, ticks: impl Stream<Item = ()>, shutdown: impl Future<Output = ()>) {
        let mut ticks = std::pin::pin!(ticks);
        let mut shutdown = std::pin::pin!(shutdown);
        loop {
            tokio::select! {
                biased;
                () = &mut shutdown => return,
                tick = ticks.next() => if tick.is_none() { return },
            }
            tokio::select! {
                biased;
                () = &mut shutdown => return,
                result = self.sync() => if let Err(error) = result {
                    tracing::warn!(code = error.code(), %error, "the ledger is not up to date");
                },
            }
        }
    }

    /// New heads, one value for each change.
    #[must_use]
    pub fn heads(&self) -> watch::Receiver<Option<BlockRef>> {
        self.inner.heads.subscribe()
    }

    /// The newest block read.
    #[must_use]
    pub fn head(&self) -> Option<BlockRef> {
        self.state().headers.back().copied()
    }

    /// Timestamp of the newest block read.
    ///
    /// # Errors
    /// [`LedgerError::Empty`] before the first synchronisation.
    pub fn head_time(&self) -> Result<UnixTime, LedgerError> {
        let head = self.head().ok_or(LedgerError::Empty)?;
        UnixTime::new(head.timestamp).map_err(protocol)
    }

    /// How deep a block is buried: 1 in the head itself, 0 above it.
    #[must_use]
    pub fn depth(&self, block: u64) -> u64 {
        self.head().map_or(0, |head| (head.number + 1).saturating_sub(block))
    }

    /// Timestamp of the block that is buried `depth` deep (1 is the head); `None` when headers don't reach back that far.
    #[must_use]
    pub fn time_at_depth(&self, depth: u64) -> Option<UnixTime> {
        let state = self.state();
        let back = usize::try_from(depth.checked_sub(1)?).ok()?;
        let header = state.headers.iter().nth_back(back)?;
        UnixTime::new(header.timestamp).ok()
    }

    /// How the chain is followed.
    #[must_use]
    pub fn config(&self) -> &LedgerConfig {
        &self.inner.config
    }

    /// Leaves queued, the inserted ones included.
    #[must_use]
    pub fn queued(&self) -> u64 {
        self.state().tree.len()
    }

    /// Leaves in the pool's tree.
    #[must_use]
    pub fn inserted(&self) -> u64 {
        self.newest_root().leaf_count
    }

    /// The root after the last insertion.
    #[must_use]
    pub fn newest_root(&self) -> KnownRoot {
        newest(&self.state().roots, |_| true)
    }

    /// The newest root that is at least `depth` blocks deep (see [`Ledger::depth`]).
    #[must_use]
    pub fn root_of_depth(&self, depth: u64) -> KnownRoot {
        let state = self.state();
        let height = state.headers.back().map_or(0, |h| h.number);
        newest(&state.roots, |root| (height + 1).saturating_sub(root.block) >= depth)
    }

    /// The root that wallets prove tickets of `slot` under: after the last insertion in a block with timestamp < `slot_start - L`
    /// (protocol section 6).
    #[must_use]
    pub fn root_of_slot(&self, slot: Slot) -> KnownRoot {
        let cutoff = self.inner.clock.root_cutoff(slot);
        newest(&self.state().roots, |root| root.timestamp < cutoff)
    }

    /// What is known of a root, if it is one of the pool's.
    #[must_use]
    pub fn known_root(&self, root: Root) -> Option<KnownRoot> {
        let state = self.state();
        state.by_root.get(&root).map(|&at| state.roots[at])
    }

    /// Path of the leaf at `position` in the tree of `leaf_count` leaves.
    ///
    /// # Errors
    /// [`LedgerError::NotInTree`].
    pub fn path_at(&self, position: u32, leaf_count: u64) -> Result<Path, LedgerError> {
        self.state()
            .tree
            .path_at(position, leaf_count)
            .map_err(|_| LedgerError::NotInTree { position: position.into(), size: leaf_count })
    }

    /// The next insertion after `from` leaves, as far as the queue goes but not beyond a batch; `None` when nothing waits there.
    ///
    /// Pass [`Ledger::inserted`] for the first, then [`insertion_end`] of it for the next one of the same bundle.
    #[must_use]
    pub fn insertion(&self, from: u64) -> Option<Insertion> {
        let state = self.state();
        let batch = BATCH_LEAVES as u64;
        let waiting = state.tree.len().checked_sub(from).filter(|&n| n > 0)?;
        let k = from % batch;
        let m = (k + waiting).min(batch);
        state.tree.insertion(from, u8::try_from(m).ok()?).ok()
    }

    /// The insertions that take the tree from its end over all queued leaves and over `extra` ones, which a transaction that is about to be
    /// sent would queue next; at most `batches` of them.
    #[must_use]
    pub fn insertions_with(&self, extra: &[Commitment], batches: usize) -> Vec<Insertion> {
        let mut state = self.state_mut();
        let (from, queued) = (state.roots.last().map_or(0, |root| root.leaf_count), state.tree.len());
        if state.tree.append(extra.iter().copied()).is_err() {
            return Vec::new();
        }
        let mut out = Vec::new();
        let mut at = from;
        let end = state.tree.len();
        while at < end && out.len() < batches {
            let batch = BATCH_LEAVES as u64;
            let m = (at % batch + (end - at)).min(batch);
            let Some(insertion) = u8::try_from(m).ok().and_then(|m| state.tree.insertion(at, m).ok()) else { break };
            at = insertion_end(&insertion);
            out.push(insertion);
        }
        state.tree.truncate(queued);
        out
    }

    /// The latest slot whose stopped list is final, if any.
    #[must_use]
    pub fn latest_final_slot(&self) -> Option<Slot> {
        let state = self.state();
        let head = state.headers.back()?.timestamp;
        let margin = self.inner.clock.margin().get();
        // Kept headers reach back further than the margin; where they don't, nothing is called final.
        let settled = state.headers.iter().rev().find(|h| h.timestamp.saturating_add(margin) <= head)?;
        self.inner.clock.latest_final_slot(UnixTime::new(settled.timestamp).ok()?).ok()
    }

    /// Whether the stopped list of `slot` can't change any more.
    #[must_use]
    pub fn is_final(&self, slot: Slot) -> bool {
        self.latest_final_slot().is_some_and(|latest| slot <= latest)
    }

    /// The stopped list of `slot`, once it is final.
    ///
    /// # Errors
    /// [`LedgerError::NotFinal`] before.
    pub fn stopped_list(&self, slot: Slot) -> Result<StoppedList, LedgerError> {
        if !self.is_final(slot) {
            let needed = self.inner.clock.boundary(slot).saturating_add(self.inner.clock.margin()).get();
            return Err(LedgerError::NotFinal {
                slot_start: slot.start().get(),
                needed,
                head: self.head().map_or(0, |h| h.timestamp),
            });
        }
        let mut stops = self.inner.stops.lock().unwrap_or_else(std::sync::PoisonError::into_inner);
        stops.list(slot.end()).map_err(protocol)
    }

    /// The first leaf with that commitment.
    ///
    /// # Errors
    /// [`LedgerError::Database`].
    pub async fn leaf(&self, commitment: Commitment) -> Result<Option<Leaf>, LedgerError> {
        let row = self.inner.store.leaf_of(commitment.to_be_bytes()).await?;
        row.map(|row| {
            Ok(Leaf {
                position: u32::try_from(row.position).map_err(protocol)?,
                commitment,
                block: row.block,
                timestamp: UnixTime::new(row.timestamp).map_err(protocol)?,
            })
        })
        .transpose()
    }

    /// Whether and where a note was spent.
    ///
    /// # Errors
    /// [`LedgerError::Database`].
    pub async fn spent(&self, nullifier: Nullifier) -> Result<Option<Spent>, LedgerError> {
        let found = self.inner.store.spent(nullifier.to_be_bytes()).await?;
        Ok(found.map(|(block, tx_hash)| Spent { block, tx_hash }))
    }

    /// The record of a stream.
    ///
    /// # Errors
    /// [`LedgerError::Database`].
    pub async fn record(&self, tag: RecordTag) -> Result<StreamRecord, LedgerError> {
        let (until, stop) = self.inner.store.record(tag.to_be_bytes()).await?;
        let time = |value| UnixTime::new(value).map_err(protocol);
        Ok(StreamRecord { claimed_until: time(until)?, stop: if stop == 0 { None } else { Some(time(stop)?) } })
    }

    /// Events numbered above `seq`, in order, at most `limit` of them. Numbers have gaps.
    ///
    /// # Errors
    /// [`LedgerError::Database`].
    pub async fn events_after(&self, seq: EventSeq, limit: u32) -> Result<Vec<EventRecord>, LedgerError> {
        let rows = self.inner.store.events_after(seq.0, limit).await?;
        rows.into_iter()
            .map(|(seq, raw)| {
                Ok(EventRecord {
                    seq: EventSeq(seq),
                    block: raw.block,
                    block_hash: raw.block_hash,
                    timestamp: UnixTime::new(raw.timestamp).map_err(protocol)?,
                    tx_hash: raw.tx_hash,
                    event: event::decode(&raw)?,
                })
            })
            .collect()
    }

    fn limits(&self) -> Limits {
        let config = &self.inner.config;
        let clock = &self.inner.clock;
        Limits {
            range: config.log_range,
            depth: config.reorganisation_depth,
            seconds: clock.margin().get() + 2 * clock.slot_length().get(),
            max_headers: config.max_headers.max(config.reorganisation_depth),
        }
    }

    fn state(&self) -> RwLockReadGuard<'_, State> {
        self.inner.state.read().unwrap_or_else(std::sync::PoisonError::into_inner)
    }

    fn state_mut(&self) -> RwLockWriteGuard<'_, State> {
        self.inner.state.write().unwrap_or_else(std::sync::PoisonError::into_inner)
    }

    fn publish(&self) {
        self.inner.heads.send_replace(self.head());
    }

    async fn roll_back(&self, ancestor: Option<BlockRef>) -> Result<(), LedgerError> {
        let mut tx = self.inner.store.begin().await?;
        let ancestor = ancestor.map(|block| block.number);
        Writer(&mut tx).roll_back(ancestor).await?;
        let leaves: i64 = sqlx::query_scalar("SELECT COUNT(*) FROM leaves").fetch_one(&mut *tx).await?;
        tx.commit().await?;
        let removed = {
            let mut state = self.state_mut();
            state.undo(ancestor, u64::try_from(leaves).unwrap_or_default())
        };
        let mut stops = self.inner.stops.lock().unwrap_or_else(std::sync::PoisonError::into_inner);
        for entry in removed {
            stops.remove(&entry);
        }
        drop(stops);
        self.publish();
        Ok(())
    }

    /// Writes a piece to the database in one transaction, then shows it.
    async fn extend(&self, piece: Piece) -> Result<(), LedgerError> {
        let change = {
            let mut state = self.state_mut();
            state.check(&piece)?
        };
        let written = self.write(&piece, &change).await;
        let mut state = self.state_mut();
        match written {
            Ok(()) => {
                let stops = change.stops.clone();
                state.show(&piece, change, self.limits());
                drop(state);
                let mut schedule = self.inner.stops.lock().unwrap_or_else(std::sync::PoisonError::into_inner);
                for (_, entry) in stops {
                    schedule.insert(entry);
                }
                drop(schedule);
                self.publish();
                Ok(())
            }
            Err(error) => {
                state.tree.truncate(change.leaves_before);
                Err(error)
            }
        }
    }

    async fn write(&self, piece: &Piece, change: &Change) -> Result<(), LedgerError> {
        let mut tx = self.inner.store.begin().await?;
        let mut writer = Writer(&mut tx);
        for event in &piece.events {
            writer.event(event).await?;
        }
        for leaf in &change.leaves {
            writer.leaf(leaf).await?;
        }
        for (nullifier, block, hash) in &change.nullifiers {
            writer.nullifier(nullifier.to_be_bytes(), *block, *hash).await?;
        }
        for root in &change.roots {
            writer
                .root(&RootRow {
                    leaf_count: root.leaf_count,
                    root: root.root.to_be_bytes(),
                    block: root.block,
                    timestamp: root.timestamp.get(),
                })
                .await?;
        }
        for (block, entry) in &change.stops {
            writer.stop(entry.tag.to_be_bytes(), entry.stop.get(), *block).await?;
        }
        for (block, window) in &change.claims {
            writer.claim(window.tag.to_be_bytes(), window.until.get(), *block).await?;
        }
        if !piece.joined {
            writer.prune_headers(u64::MAX >> 1).await?;
        }
        for header in &piece.headers {
            writer.header(header).await?;
        }
        let oldest = self.state().oldest_to_keep(piece, self.limits());
        writer.prune_headers(oldest).await?;
        tx.commit().await?;
        Ok(())
    }
}

/// The number of leaves after an insertion.
#[must_use]
pub fn insertion_end(insertion: &Insertion) -> u64 {
    u64::from(insertion.batch_index) * BATCH_LEAVES as u64 + u64::from(insertion.m)
}

/// The first root is the empty tree's, known from the deployment on: it answers when no other does.
fn newest(roots: &[KnownRoot], fits: impl Fn(&KnownRoot) -> bool) -> KnownRoot {
    // Timestamps and heights ascend with the roots.
    let end = roots.partition_point(fits);
    roots[end.saturating_sub(1)]
}

fn protocol(error: impl std::fmt::Display) -> LedgerError {
    LedgerError::Protocol(error.to_string())
}

/// What a piece of the chain changes, checked.
#[derive(Debug)]
struct Change {
    leaves_before: u64,
    leaves: Vec<LeafRow>,
    nullifiers: Vec<(Nullifier, u64, B256)>,
    roots: Vec<KnownRoot>,
    stops: Vec<(u64, StopEntry)>,
    claims: Vec<(u64, ClaimedWindow)>,
}

impl State {
    fn new(manifest: &DeploymentManifest) -> Self {
        let tree = MerkleTree::new();
        let empty = KnownRoot { root: tree.root(), leaf_count: 0, block: manifest.block, timestamp: UnixTime::ZERO };
        Self { tree, by_root: HashMap::from([(empty.root, 0)]), roots: vec![empty], ..Self::default() }
    }

    /// Decodes a piece's events and checks that they continue what is known: positions without a gap, and each root the one that
    /// its leaves have. Appends the leaves to the tree; on an error the tree is as before.
    fn check(&mut self, piece: &Piece) -> Result<Change, LedgerError> {
        let before = self.tree.len();
        let result = self.check_events(piece);
        if result.is_err() {
            self.tree.truncate(before);
        }
        result
    }

    fn check_events(&mut self, piece: &Piece) -> Result<Change, LedgerError> {
        let mut change = Change {
            leaves_before: self.tree.len(),
            leaves: Vec::new(),
            nullifiers: Vec::new(),
            roots: Vec::new(),
            stops: Vec::new(),
            claims: Vec::new(),
        };
        let mut inserted = self.roots.last().map_or(0, |r| r.leaf_count);
        let mut waiting: Vec<Commitment> = Vec::new();
        for raw in &piece.events {
            let bad = |what, expected: String, found: String| LedgerError::BadEvent {
                number: raw.block,
                what,
                expected,
                found,
            };
            let event = event::decode(raw)?;
            for nullifier in event.nullifiers() {
                change.nullifiers.push((*nullifier, raw.block, raw.tx_hash));
            }
            for output in event.outputs() {
                let Some(position) = output.position else { continue };
                let expected = self.tree.len() + waiting.len() as u64;
                if u64::from(position) != expected {
                    return Err(bad("a leaf is not next in the queue", expected.to_string(), position.to_string()));
                }
                waiting.push(output.commitment);
                change.leaves.push(LeafRow {
                    position: position.into(),
                    commitment: output.commitment.to_be_bytes(),
                    block: raw.block,
                    timestamp: raw.timestamp,
                });
            }
            match event {
                PoolEvent::Closed { tag, stop, .. } => change.stops.push((raw.block, StopEntry { stop, tag })),
                PoolEvent::Claimed { windows, .. } => change.claims.extend(windows.into_iter().map(|w| (raw.block, w))),
                PoolEvent::Inserted { root, leaf_count } => {
                    self.tree.append(waiting.drain(..)).map_err(protocol)?;
                    if leaf_count <= inserted || leaf_count > self.tree.len() {
                        let expected = format!("{}..={}", inserted + 1, self.tree.len());
                        return Err(bad("an insertion does not continue the tree", expected, leaf_count.to_string()));
                    }
                    let expected = self.tree.root_at(leaf_count).map_err(protocol)?;
                    if root != expected {
                        return Err(bad("a root is not that of the leaves", expected.to_string(), root.to_string()));
                    }
                    inserted = leaf_count;
                    let timestamp = UnixTime::new(raw.timestamp).map_err(protocol)?;
                    change.roots.push(KnownRoot { root, leaf_count, block: raw.block, timestamp });
                }
                _ => {}
            }
        }
        self.tree.append(waiting).map_err(protocol)?;
        Ok(change)
    }

    fn show(&mut self, piece: &Piece, change: Change, limits: Limits) {
        let oldest = self.oldest_to_keep(piece, limits);
        if !piece.joined {
            self.headers.clear();
        }
        self.headers.extend(&piece.headers);
        while self.headers.front().is_some_and(|h| h.number < oldest) {
            self.headers.pop_front();
        }
        for root in change.roots {
            self.by_root.insert(root.root, self.roots.len());
            self.roots.push(root);
        }
        self.stops.extend(change.stops);
    }

    /// Height below which headers are forgotten once `piece` is added.
    fn oldest_to_keep(&self, piece: &Piece, limits: Limits) -> u64 {
        let Some(head) = piece.headers.last() else { return 0 };
        let by_depth = (head.number + 1).saturating_sub(limits.depth);
        let old = self.headers.iter().filter(|_| piece.joined);
        // One header older than the window stays, so that the window is always covered.
        let by_time = old
            .chain(&piece.headers)
            .filter(|h| h.timestamp.saturating_add(limits.seconds) <= head.timestamp)
            .map(|h| h.number)
            .next_back()
            .unwrap_or(0);
        by_depth.min(by_time).max((head.number + 1).saturating_sub(limits.max_headers))
    }

    /// Forgets what came after block `ancestor`, or everything; answers the stops that are gone.
    fn undo(&mut self, ancestor: Option<u64>, leaves: u64) -> Vec<StopEntry> {
        let gone = |block: u64| ancestor.is_none_or(|ancestor| block > ancestor);
        while self.headers.back().is_some_and(|h| gone(h.number)) {
            self.headers.pop_back();
        }
        self.tree.truncate(leaves);
        while self.roots.len() > 1
            && let Some(root) = self.roots.pop_if(|root| gone(root.block))
        {
            self.by_root.remove(&root.root);
        }
        let mut stops = Vec::new();
        while let Some((_, entry)) = self.stops.pop_if(|(block, _)| gone(*block)) {
            stops.push(entry);
        }
        stops
    }
}

/// The state as the database has it.
async fn load(store: &Store, manifest: &DeploymentManifest) -> Result<(State, StopSchedule), LedgerError> {
    const CHUNK: u64 = 65_536;
    let corrupt = |what: String| LedgerError::Corrupt { what };
    let mut state = State::new(manifest);
    loop {
        let rows = store.leaves(state.tree.len(), CHUNK).await?;
        let Some(first) = rows.first() else { break };
        if first.position != state.tree.len()
            || rows.last().is_some_and(|l| l.position + 1 != first.position + rows.len() as u64)
        {
            return Err(corrupt(format!("leaves are missing after {}", state.tree.len())));
        }
        let leaves = rows
            .iter()
            .map(|row| Commitment::try_from_be_bytes(&row.commitment).map_err(protocol))
            .collect::<Result<Vec<_>, _>>()?;
        state.tree.append(leaves).map_err(protocol)?;
    }
    for row in store.roots().await? {
        let root = KnownRoot {
            root: Root::try_from_be_bytes(&row.root).map_err(protocol)?,
            leaf_count: row.leaf_count,
            block: row.block,
            timestamp: UnixTime::new(row.timestamp).map_err(protocol)?,
        };
        state.by_root.insert(root.root, state.roots.len());
        state.roots.push(root);
    }
    let newest = newest(&state.roots, |_| true);
    if state.tree.root_at(newest.leaf_count).ok() != Some(newest.root) {
        return Err(corrupt(format!("the leaves do not have the root of {} leaves", newest.leaf_count)));
    }
    state.headers = store.headers().await?.into();
    let mut schedule = StopSchedule::new();
    for (block, stop, tag) in store.stops().await? {
        let entry = StopEntry {
            stop: UnixTime::new(stop).map_err(protocol)?,
            tag: RecordTag::try_from_be_bytes(&tag).map_err(protocol)?,
        };
        schedule.insert(entry);
        state.stops.push((block, entry));
    }
    Ok((state, schedule))
}
