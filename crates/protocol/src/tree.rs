//! The commitment tree: append-only, 4-ary, depth 16 (docs: encodings, "Hash tags").
//!
//! Queue position is tree position, so one [`MerkleTree`] holds every queued leaf, and the roots that a pool knows
//! are the tree's roots at the sizes that were inserted. A subtree that is full never changes; so any earlier root or
//! path costs at most 16 hashes: those of the nodes above the boundary.

use std::sync::LazyLock;

use alloy_primitives::keccak256;
use rayon::prelude::*;
use serde::{Deserialize, Deserializer, Serialize, Serializer};

use crate::{
    error::TreeError,
    field::{FieldElement, Fr, Root, reduce},
    note::Commitment,
    poseidon::node,
};

/// Children of a node.
pub const ARITY: usize = 4;
/// Levels between leaf and root.
pub const DEPTH: usize = 16;
/// Leaves that fit: 2^32.
pub const CAPACITY: u64 = 1 << (2 * DEPTH);
/// Leaves of an insertion batch.
pub const BATCH_LEAVES: usize = 64;
/// Height of a batch's subtree.
pub const BATCH_HEIGHT: usize = 3;
/// Nodes of a level from which on their parents are hashed on all cores.
const PARALLEL_FROM: usize = 1024;
/// Levels above a batch's subtree.
pub const BATCH_PATH: usize = DEPTH - BATCH_HEIGHT;

/// Roots of empty subtrees by height; entry 0 is the empty leaf `keccak256("tributary.empty.leaf") mod r`, entry 16
/// the empty tree's root.
#[must_use]
pub fn empty_roots() -> &'static [Fr; DEPTH + 1] {
    static ROOTS: LazyLock<[Fr; DEPTH + 1]> = LazyLock::new(|| {
        let mut roots = [reduce(keccak256("tributary.empty.leaf")); DEPTH + 1];
        for height in 1..=DEPTH {
            roots[height] = node(&[roots[height - 1]; ARITY]);
        }
        roots
    });
    &ROOTS
}

/// The siblings on the way from a node up `LEVELS` levels: for each level three, in child order, the own place left
/// out.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Path<const LEVELS: usize = DEPTH>(pub [[Fr; ARITY - 1]; LEVELS]);

impl<const LEVELS: usize> Path<LEVELS> {
    /// A path of zeros, as dummies have it.
    pub const ZERO: Self = Self([[Fr::new_unchecked(ark_ff::BigInt::new([0; 4])); ARITY - 1]; LEVELS]);

    /// The node at the top of the path of `node`, which stands at position `index` of its level.
    #[must_use]
    pub fn root(&self, bottom: Fr, index: u32) -> Root {
        Root::new(self.0.iter().enumerate().fold(bottom, |child, (level, siblings)| {
            let own = digit(index.into(), level);
            let mut children = [child; ARITY];
            for (place, sibling) in (0..ARITY).filter(|&place| place != own).zip(siblings) {
                children[place] = *sibling;
            }
            node(&children)
        }))
    }

    /// The siblings in one row, level by level.
    #[must_use]
    pub fn flatten(&self) -> Vec<Fr> {
        self.0.as_flattened().to_vec()
    }
}

impl<const LEVELS: usize> Serialize for Path<LEVELS> {
    /// A flat list of `3 * LEVELS` hexadecimal strings.
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_seq(self.0.as_flattened().iter().map(Fr::to_hex))
    }
}

impl<'de, const LEVELS: usize> Deserialize<'de> for Path<LEVELS> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        use serde::de::Error;
        let texts = Vec::<String>::deserialize(deserializer)?;
        if texts.len() != LEVELS * (ARITY - 1) {
            return Err(D::Error::invalid_length(texts.len(), &"three siblings for each level"));
        }
        let mut path = Self::ZERO;
        for (sibling, text) in path.0.as_flattened_mut().iter_mut().zip(&texts) {
            *sibling = Fr::try_from_text(text).map_err(D::Error::custom)?;
        }
        Ok(path)
    }
}

/// Place among its siblings, at a level, of what holds leaf `index`.
const fn digit(index: u64, level: usize) -> usize {
    ((index >> (2 * level)) & 3) as usize
}

/// An in-memory 4-ary tree that only grows (and shrinks at its end when the chain reorganises).
#[derive(Clone, Debug)]
pub struct MerkleTree {
    /// `levels[h]` holds the nodes of height h that have a leaf below them; the last may be incomplete at every height.
    levels: Vec<Vec<Fr>>,
}

impl Default for MerkleTree {
    fn default() -> Self {
        Self::new()
    }
}

/// Everything that an insertion proof needs from the tree.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Insertion {
    /// Root before.
    pub old_root: Root,
    /// Root after.
    pub new_root: Root,
    /// Which subtree of 64 leaves.
    pub batch_index: u32,
    /// Leaves of the batch before.
    pub k: u8,
    /// Leaves of the batch after.
    pub m: u8,
    /// The batch's first `m` leaves.
    pub leaves: Vec<Commitment>,
    /// From the batch's subtree to the root.
    pub path: Path<BATCH_PATH>,
}

impl MerkleTree {
    /// An empty tree.
    #[must_use]
    pub fn new() -> Self {
        Self { levels: vec![Vec::new(); DEPTH + 1] }
    }

    /// A tree of these leaves.
    ///
    /// # Errors
    /// [`TreeError::Full`].
    pub fn from_leaves(leaves: impl IntoIterator<Item = Commitment>) -> Result<Self, TreeError> {
        let mut tree = Self::new();
        tree.append(leaves)?;
        Ok(tree)
    }

    /// Number of leaves.
    #[must_use]
    pub fn len(&self) -> u64 {
        self.levels[0].len() as u64
    }

    /// Whether there is no leaf.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.levels[0].is_empty()
    }

    /// The leaves in order.
    #[must_use]
    pub fn leaves(&self) -> impl ExactSizeIterator<Item = Commitment> + '_ {
        self.levels[0].iter().copied().map(Commitment::new)
    }

    /// Appends leaves; each node above them is hashed once, whatever their number.
    ///
    /// # Errors
    /// [`TreeError::Full`]; nothing is appended then.
    pub fn append(&mut self, leaves: impl IntoIterator<Item = Commitment>) -> Result<(), TreeError> {
        let before = self.levels[0].len();
        self.levels[0].extend(leaves.into_iter().map(Commitment::to_fr));
        let after = self.levels[0].len();
        if after as u64 > CAPACITY {
            self.levels[0].truncate(before);
            return Err(TreeError::Full { len: before as u64, adding: (after - before) as u64 });
        }
        if after > before {
            self.rehash_from(before);
        }
        Ok(())
    }

    /// Drops every leaf from `len` on. Nothing happens when the tree is not longer.
    pub fn truncate(&mut self, len: u64) {
        if len >= self.len() {
            return;
        }
        let len = usize::try_from(len).expect("less than the length of a vector");
        let mut kept = len;
        for level in &mut self.levels {
            level.truncate(kept);
            kept = kept.div_ceil(ARITY);
        }
        if len > 0 {
            self.rehash_from(len - 1);
        }
    }

    /// The root of all leaves.
    #[must_use]
    pub fn root(&self) -> Root {
        Root::new(self.levels[DEPTH].first().copied().unwrap_or(empty_roots()[DEPTH]))
    }

    /// The root when the tree had `size` leaves.
    ///
    /// # Errors
    /// [`TreeError::SizeBeyondEnd`].
    pub fn root_at(&self, size: u64) -> Result<Root, TreeError> {
        Ok(Root::new(self.boundary(size)?[DEPTH]))
    }

    /// The path of a leaf under [`MerkleTree::root`].
    ///
    /// # Errors
    /// [`TreeError::NoSuchLeaf`].
    pub fn path(&self, index: u32) -> Result<Path, TreeError> {
        self.path_at(index, self.len())
    }

    /// The path of a leaf under [`MerkleTree::root_at`] `size`.
    ///
    /// # Errors
    /// [`TreeError::NoSuchLeaf`] or [`TreeError::SizeBeyondEnd`].
    pub fn path_at(&self, index: u32, size: u64) -> Result<Path, TreeError> {
        let index = u64::from(index);
        if index >= size {
            return Err(TreeError::NoSuchLeaf { index, size });
        }
        self.subtree_path::<DEPTH>(0, index, size)
    }

    /// What the proof needs that takes the pool from `from` inserted leaves to leaf `m` of the same batch, where
    /// `k < m <= 64`.
    ///
    /// # Errors
    /// [`TreeError`] when the batch does not allow it or the leaves are not there.
    pub fn insertion(&self, from: u64, m: u8) -> Result<Insertion, TreeError> {
        let batch = BATCH_LEAVES as u64;
        let (batch_index, k) = (from / batch, from % batch);
        if u64::from(m) <= k || u64::from(m) > batch {
            return Err(TreeError::BadBatch { from, m: m.into(), min: k + 1 });
        }
        let to = batch_index * batch + u64::from(m);
        let new_root = self.root_at(to)?;
        let first = usize::try_from(batch_index * batch).expect("within the leaves");
        Ok(Insertion {
            old_root: self.root_at(from)?,
            new_root,
            batch_index: u32::try_from(batch_index).expect("below 2^26"),
            k: u8::try_from(k).expect("below 64"),
            m,
            leaves: self.leaves().skip(first).take(m.into()).collect(),
            path: self.subtree_path(BATCH_HEIGHT, batch_index, from)?,
        })
    }

    /// Hashes every node above the leaves from `first` on.
    fn rehash_from(&mut self, first: usize) {
        let mut position = first;
        for height in 0..DEPTH {
            position /= ARITY;
            let empty = empty_roots()[height];
            let (below, above) = self.levels.split_at_mut(height + 1);
            let children = &below[height];
            let parents = &mut above[0];
            parents.truncate(position);
            let groups = &children[position * ARITY..];
            if groups.len() < PARALLEL_FROM {
                parents.extend(groups.chunks(ARITY).map(|chunk| node(&padded(chunk, empty))));
            } else {
                parents.par_extend(groups.par_chunks(ARITY).map(|chunk| node(&padded(chunk, empty))));
            }
        }
    }

    /// For each height the node that holds leaf position `size`, as it was with `size` leaves; entry 16 is the root.
    ///
    /// Nodes left of it are full, nodes right of it empty.
    fn boundary(&self, size: u64) -> Result<[Fr; DEPTH + 1], TreeError> {
        if size > self.len() {
            return Err(TreeError::SizeBeyondEnd { len: self.len(), size });
        }
        let empty = empty_roots();
        let mut nodes = *empty;
        if size == CAPACITY {
            nodes[DEPTH] = self.levels[DEPTH][0];
            return Ok(nodes);
        }
        for height in 0..DEPTH {
            let own = digit(size, height);
            let first = usize::try_from(size >> (2 * height)).expect("within a vector") - own;
            let mut children = [empty[height]; ARITY];
            children[..own].copy_from_slice(&self.levels[height][first..first + own]);
            children[own] = nodes[height];
            let untouched = own == 0 && nodes[height] == empty[height];
            nodes[height + 1] = if untouched { empty[height + 1] } else { node(&children) };
        }
        Ok(nodes)
    }

    /// Path of the node at `position` of `height`, in the tree of `size` leaves.
    fn subtree_path<const LEVELS: usize>(
        &self,
        height: usize,
        position: u64,
        size: u64,
    ) -> Result<Path<LEVELS>, TreeError> {
        let boundary = self.boundary(size)?;
        let empty = empty_roots();
        let mut path = Path::ZERO;
        for (level, siblings) in path.0.iter_mut().enumerate() {
            let height = height + level;
            let position = position >> (2 * level);
            let own = digit(position, 0);
            let first = position - own as u64;
            let edge = size >> (2 * height);
            for (place, sibling) in (0..ARITY).filter(|&place| place != own).zip(siblings) {
                let at = first + place as u64;
                *sibling = match at.cmp(&edge) {
                    std::cmp::Ordering::Less => self.levels[height][usize::try_from(at).expect("within a vector")],
                    std::cmp::Ordering::Equal => boundary[height],
                    std::cmp::Ordering::Greater => empty[height],
                };
            }
        }
        Ok(path)
    }
}

fn padded(chunk: &[Fr], empty: Fr) -> [Fr; ARITY] {
    std::array::from_fn(|i| chunk.get(i).copied().unwrap_or(empty))
}
