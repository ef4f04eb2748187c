//! Stopped lists: which streams have stopped before a slot ends, as an indexed 4-ary Merkle tree (protocol section 6).
//!
//! The list of a slot holds the record tags with `stop < slot_end`. Position 0 is the leaf `(0, 2^248 - 1)`; values
//! are appended in the order of (stop, whole tag), each under the low 248 bits of its tag, and each leaf `P(12, low,
//! next)` points to the next larger value. A value is absent if a leaf has `low < value < next`.
//!
//! A later slot's list extends an earlier one's, so [`StoppedList`] is persistent: a clone costs next to nothing and
//! shares what did not change. [`StopSchedule`] keeps the entries of a chain, through reorganisations, and hands out
//! each slot's list.

use std::{
    collections::{BTreeMap, BTreeSet},
    ops::Bound,
    sync::{Arc, OnceLock},
};

use alloy_primitives::U256;
use serde::{Deserialize, Serialize};

use crate::{
    error::ListError,
    field::{FieldElement, Fr, Root, low_bits},
    note::RecordTag,
    poseidon::{Tag, hash, node},
    time::UnixTime,
    tree::{ARITY, CAPACITY, DEPTH, Path, empty_roots},
};

/// Bits of a tag that a list holds.
pub const VALUE_BITS: usize = 248;

/// A stop as the chain reports it. The derived order is the list's.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct StopEntry {
    /// When the stream stops.
    pub stop: UnixTime,
    /// Its record tag.
    pub tag: RecordTag,
}

/// The low 248 bits of a tag, as the list orders them.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
struct Value(U256);

impl Value {
    const LOWEST: Self = Self(U256::ZERO);

    fn highest() -> Self {
        Self((U256::from(1_u8) << VALUE_BITS) - U256::from(1_u8))
    }

    fn of(tag: RecordTag) -> Self {
        Self(low_bits(&tag.to_fr(), VALUE_BITS))
    }

    fn is_sentinel(self) -> bool {
        self == Self::LOWEST || self == Self::highest()
    }

    fn to_fr(self) -> Fr {
        Fr::try_from_u256(self.0).expect("248 bits are below the order")
    }
}

/// Proof that a tag is not in a list.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct AbsenceWitness {
    /// The largest value below the tag's.
    #[serde(with = "crate::field::serde_hex")]
    pub low: Fr,
    /// The smallest value above it.
    #[serde(with = "crate::field::serde_hex")]
    pub next: Fr,
    /// Position of the leaf `P(12, low, next)`.
    pub index: u32,
    /// Its path.
    pub path: Path,
}

impl AbsenceWitness {
    /// The root of the list that this is a leaf of.
    #[must_use]
    pub fn root(&self) -> Root {
        self.path.root(hash(Tag::List, &[self.low, self.next]), self.index)
    }

    /// Whether it shows that `tag` is absent from the list with this root.
    #[must_use]
    pub fn shows_absence(&self, tag: RecordTag, root: Root) -> bool {
        let value = Value::of(tag).0;
        self.low.to_u256() < value && value < self.next.to_u256() && self.root() == root
    }
}

/// The stopped list of one slot. Cloning is cheap.
#[derive(Clone, Debug)]
pub struct StoppedList {
    tree: Arc<Node>,
    /// Value -> position; the sentinel at position 0 included.
    positions: Arc<BTreeMap<Value, u32>>,
    last: Option<StopEntry>,
}

/// A node of the persistent tree. Heights are implied by the depth of recursion.
#[derive(Clone, Debug)]
enum Node {
    Empty,
    Leaf { low: Value, next: Value },
    Inner { children: [Arc<Node>; ARITY], hash: OnceLock<Fr> },
}

impl Node {
    fn hash(&self, height: usize) -> Fr {
        match self {
            Self::Empty => empty_roots()[height],
            Self::Leaf { low, next } => hash(Tag::List, &[low.to_fr(), next.to_fr()]),
            Self::Inner { children, hash } => {
                *hash.get_or_init(|| node(&std::array::from_fn(|i| children[i].hash(height - 1))))
            }
        }
    }

    /// Puts a leaf at a position below `this`, a node of `height`, copying only what other lists share.
    fn put(this: &mut Arc<Self>, height: usize, position: u32, leaf: Self) {
        let node = Arc::make_mut(this);
        if height == 0 {
            *node = leaf;
            return;
        }
        if matches!(node, Self::Empty) {
            let empty = Arc::new(Self::Empty);
            *node = Self::Inner { children: std::array::from_fn(|_| Arc::clone(&empty)), hash: OnceLock::new() };
        }
        let Self::Inner { children, hash } = node else { unreachable!("leaves stand at height 0 only") };
        hash.take();
        Self::put(&mut children[digit(position, height - 1)], height - 1, position, leaf);
    }

    fn next_of(&self, height: usize, position: u32) -> Value {
        match self {
            Self::Leaf { next, .. } => *next,
            Self::Inner { children, .. } => children[digit(position, height - 1)].next_of(height - 1, position),
            Self::Empty => unreachable!("positions in the index have leaves"),
        }
    }
}

const fn digit(position: u32, level: usize) -> usize {
    ((position >> (2 * level)) & 3) as usize
}

impl Default for StoppedList {
    fn default() -> Self {
        Self::new()
    }
}

impl StoppedList {
    /// The list in which nothing has stopped: the sentinel alone.
    #[must_use]
    pub fn new() -> Self {
        let mut tree = Arc::new(Node::Empty);
        Node::put(&mut tree, DEPTH, 0, Node::Leaf { low: Value::LOWEST, next: Value::highest() });
        Self { tree, positions: Arc::new(BTreeMap::from([(Value::LOWEST, 0)])), last: None }
    }

    /// The list of these entries, which must ascend.
    ///
    /// # Errors
    /// [`ListError::OutOfOrder`], [`ListError::Full`].
    pub fn from_entries(entries: impl IntoIterator<Item = StopEntry>) -> Result<Self, ListError> {
        let mut list = Self::new();
        list.extend(entries)?;
        Ok(list)
    }

    /// Appends entries, each after all before it in the order of (stop, tag). Values that are there already or equal
    /// a sentinel are skipped.
    ///
    /// # Errors
    /// [`ListError::OutOfOrder`], [`ListError::Full`]; entries before the offending one stay.
    pub fn extend(&mut self, entries: impl IntoIterator<Item = StopEntry>) -> Result<(), ListError> {
        entries.into_iter().try_for_each(|entry| self.push(entry))
    }

    fn push(&mut self, entry: StopEntry) -> Result<(), ListError> {
        if let Some(last) = self.last.filter(|last| *last > entry) {
            return Err(ListError::OutOfOrder { stop: entry.stop.get(), previous: last.stop.get() });
        }
        let value = Value::of(entry.tag);
        if !value.is_sentinel() && !self.positions.contains_key(&value) {
            if self.positions.len() as u64 == CAPACITY {
                return Err(ListError::Full);
            }
            let position = u32::try_from(self.positions.len()).expect("below the capacity");
            let (low, low_position) = self.predecessor(value);
            let next = self.tree.next_of(DEPTH, low_position);
            Node::put(&mut self.tree, DEPTH, low_position, Node::Leaf { low, next: value });
            Node::put(&mut self.tree, DEPTH, position, Node::Leaf { low: value, next });
            Arc::make_mut(&mut self.positions).insert(value, position);
        }
        self.last = Some(entry);
        Ok(())
    }

    /// Leaves in the list, the sentinel included.
    #[must_use]
    #[expect(clippy::len_without_is_empty, reason = "a list is never empty: it holds the sentinel")]
    pub fn len(&self) -> usize {
        self.positions.len()
    }

    /// The root.
    #[must_use]
    pub fn root(&self) -> Root {
        Root::new(self.tree.hash(DEPTH))
    }

    /// Whether the tag's value is in the list.
    #[must_use]
    pub fn contains(&self, tag: RecordTag) -> bool {
        self.positions.contains_key(&Value::of(tag))
    }

    /// Proves that a tag is absent.
    ///
    /// # Errors
    /// [`ListError::Present`] when it is not, [`ListError::Sentinel`] when its value is one of the two that no list
    /// can show absent.
    pub fn absence(&self, tag: RecordTag) -> Result<AbsenceWitness, ListError> {
        let value = Value::of(tag);
        if value.is_sentinel() {
            return Err(ListError::Sentinel);
        }
        if let Some(&position) = self.positions.get(&value) {
            return Err(ListError::Present { position });
        }
        let (low, index) = self.predecessor(value);
        let next = self.tree.next_of(DEPTH, index);
        Ok(AbsenceWitness { low: low.to_fr(), next: next.to_fr(), index, path: self.path(index) })
    }

    fn predecessor(&self, value: Value) -> (Value, u32) {
        let below = (Bound::Unbounded, Bound::Excluded(value));
        let (low, position) = self.positions.range(below).next_back().expect("the sentinel 0 is below every value");
        (*low, *position)
    }

    fn path(&self, position: u32) -> Path {
        let mut path = Path::ZERO;
        let mut current = &self.tree;
        for height in (0..DEPTH).rev() {
            let Node::Inner { children, .. } = &**current else { unreachable!("the position has a leaf") };
            let own = digit(position, height);
            for (place, sibling) in (0..ARITY).filter(|&place| place != own).zip(&mut path.0[height]) {
                *sibling = children[place].hash(height);
            }
            current = &children[own];
        }
        path
    }
}

/// All stops that a chain has shown, and the lists made of them.
///
/// Stops may be added and (after a reorganisation) removed in any order. Lists are built from the nearest earlier one
/// that is remembered; at most [`StopSchedule::REMEMBERED`] are.
#[derive(Clone, Debug, Default)]
pub struct StopSchedule {
    entries: BTreeSet<StopEntry>,
    /// By cutoff: the list of every entry with `stop < cutoff`.
    lists: BTreeMap<UnixTime, StoppedList>,
}

impl StopSchedule {
    /// Lists that are remembered.
    pub const REMEMBERED: usize = 64;

    /// An empty schedule.
    #[must_use]
    pub fn new() -> Self {
        Self::default()
    }

    /// Adds a stop; `false` when it was there.
    pub fn insert(&mut self, entry: StopEntry) -> bool {
        let added = self.entries.insert(entry);
        if added {
            self.forget_after(entry.stop);
        }
        added
    }

    /// Removes a stop that a reorganisation took back; `false` when it was not there.
    pub fn remove(&mut self, entry: &StopEntry) -> bool {
        let removed = self.entries.remove(entry);
        if removed {
            self.forget_after(entry.stop);
        }
        removed
    }

    /// Number of stops.
    #[must_use]
    pub fn len(&self) -> usize {
        self.entries.len()
    }

    /// Whether there is no stop.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.entries.is_empty()
    }

    /// The stops in order.
    pub fn entries(&self) -> impl Iterator<Item = &StopEntry> {
        self.entries.iter()
    }

    /// The list of the slot that ends at `slot_end`: every tag with `stop < slot_end`.
    ///
    /// # Errors
    /// [`ListError::Full`].
    pub fn list(&mut self, slot_end: UnixTime) -> Result<StoppedList, ListError> {
        if let Some(list) = self.lists.get(&slot_end) {
            return Ok(list.clone());
        }
        let nearest = self.lists.range(..slot_end).next_back();
        let (from, mut list) = nearest.map_or_else(|| (UnixTime::ZERO, StoppedList::new()), |(t, l)| (*t, l.clone()));
        let lowest = RecordTag::new(Fr::from(0_u8));
        let window = StopEntry { stop: from, tag: lowest }..StopEntry { stop: slot_end, tag: lowest };
        list.extend(self.entries.range(window).copied())?;
        self.lists.insert(slot_end, list.clone());
        if self.lists.len() > Self::REMEMBERED {
            self.lists.pop_first();
        }
        Ok(list)
    }

    /// Forgets the lists that a stop at `stop` belongs to.
    fn forget_after(&mut self, stop: UnixTime) {
        self.lists.retain(|cutoff, _| *cutoff <= stop);
    }
}
