//! Statements of the on-chain circuits and how they become three public inputs (protocol section 4).
//!
//! A statement is a vector `x_1..x_n`. `digest` is its Poseidon sponge, `alpha` the keccak hash of tag, digest and x
//! reduced into the field, `value = sum x_i * alpha^(n - i)`. The circuit computes digest and value from its own
//! vector, the contract computes alpha and value from the calldata's; the two vectors then differ with probability at
//! most n / r.

use alloy_primitives::{Address, B256, Bytes, U256, keccak256};
use ark_ff::Zero;
use serde::{Deserialize, Serialize};

use crate::{
    amount::Amount,
    field::{FieldElement, Fr, Root, field_newtype, reduce},
    keys::PoolId,
    memo::{PayerMemoBytes, SealedMemo},
    note::{Commitment, Nullifier, RecordTag},
    poseidon::{Tag, sponge},
    time::UnixTime,
    tree::BATCH_LEAVES,
};

/// Lanes of a claim.
pub const CLAIM_LANES: usize = 16;

field_newtype! {
    /// Hash of a transaction's external data, an element of its statement.
    ExternalHash
}

/// The five circuits.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Circuit {
    /// Two value notes in, two notes out.
    Transact,
    /// One stream and one value note in, two notes out.
    Close,
    /// Sixteen streams' accrued money to one note.
    Claim,
    /// A batch of leaves into the tree.
    Insert,
    /// A ticket or rating, verified off chain.
    Ticket,
}

impl Circuit {
    /// All of them.
    pub const ALL: [Self; 5] = [Self::Transact, Self::Close, Self::Claim, Self::Insert, Self::Ticket];

    /// The name in artefact files.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::Transact => "transact",
            Self::Close => "close",
            Self::Claim => "claim",
            Self::Insert => "insert",
            Self::Ticket => "ticket",
        }
    }

    /// Number of public inputs of its proofs.
    #[must_use]
    pub const fn public_inputs(self) -> usize {
        match self {
            Self::Ticket => 13,
            _ => 3,
        }
    }
}

impl std::fmt::Display for Circuit {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(self.name())
    }
}

/// A statement that the contract checks.
pub trait Statement {
    /// The circuit's tag: it seeds the sponge and separates alpha.
    const TAG: Tag;

    /// `x_1..x_n`, in the order of the encodings page.
    fn elements(&self) -> Vec<Fr>;

    /// The sponge over the elements.
    fn digest(&self) -> Fr {
        sponge(Self::TAG, &self.elements())
    }

    /// `keccak256(abi.encodePacked(uint256(tag), digest, x_1, .., x_n))`: alpha before reduction. The nonce of a
    /// deposit by EIP-3009.
    fn binding_hash(&self) -> B256 {
        let elements = self.elements();
        binding_hash(Self::TAG, &sponge(Self::TAG, &elements), &elements)
    }

    /// The evaluation point.
    fn alpha(&self) -> Fr {
        reduce(self.binding_hash())
    }

    /// `sum x_i * alpha^(n - i)`.
    fn value(&self) -> Fr {
        evaluate(&self.elements(), self.alpha())
    }

    /// `(digest, alpha, value)`.
    fn public_inputs(&self) -> [Fr; 3] {
        let elements = self.elements();
        let digest = sponge(Self::TAG, &elements);
        let alpha = reduce(binding_hash(Self::TAG, &digest, &elements));
        [digest, alpha, evaluate(&elements, alpha)]
    }
}

fn binding_hash(tag: Tag, digest: &Fr, elements: &[Fr]) -> B256 {
    let mut packed = Vec::with_capacity(32 * (elements.len() + 2));
    packed.extend_from_slice(&U256::from(tag as u8).to_be_bytes::<32>());
    packed.extend_from_slice(&digest.to_be_bytes());
    for element in elements {
        packed.extend_from_slice(&element.to_be_bytes());
    }
    keccak256(packed)
}

/// Horner's rule.
fn evaluate(elements: &[Fr], alpha: Fr) -> Fr {
    elements.iter().fold(Fr::zero(), |value, element| value * alpha + element)
}

/// A new note as the chain sees it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct SealedOutput {
    /// Its leaf.
    pub commitment: Commitment,
    /// Its memo.
    pub memo: SealedMemo,
}

/// Statement of a transact: 18 elements.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct TransactStatement {
    /// A root that the pool knows.
    pub root: Root,
    /// Hash of the external data.
    pub ext: ExternalHash,
    /// Tokens paid into the pool.
    pub amount_in: Amount,
    /// Tokens paid out of the pool, the relayer's fee included.
    pub amount_out: Amount,
    /// The spent notes' nullifiers.
    pub nullifiers: [Nullifier; 2],
    /// The new notes.
    pub outputs: [SealedOutput; 2],
}

impl Statement for TransactStatement {
    const TAG: Tag = Tag::Transact;

    fn elements(&self) -> Vec<Fr> {
        let mut x = vec![self.root.to_fr(), self.ext.to_fr(), self.amount_in.to_fr(), self.amount_out.to_fr()];
        x.extend(self.nullifiers.map(Nullifier::to_fr));
        push_outputs(&mut x, &self.outputs);
        x
    }
}

/// Statement of a close: 18 elements.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct CloseStatement {
    /// A root that the pool knows.
    pub root: Root,
    /// Hash of the external data.
    pub ext: ExternalHash,
    /// The stream's record.
    pub tag: RecordTag,
    /// When the stream stops.
    pub stop: UnixTime,
    /// Tokens paid out of the pool, the relayer's fee included.
    pub amount_out: Amount,
    /// Nullifier of the value note.
    pub nullifier: Nullifier,
    /// The new notes.
    pub outputs: [SealedOutput; 2],
}

impl Statement for CloseStatement {
    const TAG: Tag = Tag::Close;

    fn elements(&self) -> Vec<Fr> {
        let mut x = vec![
            self.root.to_fr(),
            self.ext.to_fr(),
            self.tag.to_fr(),
            self.stop.to_fr(),
            self.amount_out.to_fr(),
            self.nullifier.to_fr(),
        ];
        push_outputs(&mut x, &self.outputs);
        x
    }
}

/// `cm_0, cm_1, E_0, ct_0, E_1, ct_1`.
fn push_outputs(x: &mut Vec<Fr>, outputs: &[SealedOutput; 2]) {
    x.extend(outputs.iter().map(|output| output.commitment.to_fr()));
    x.extend(outputs.iter().flat_map(|output| output.memo.elements()));
}

/// One lane of a claim as the chain sees it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct ClaimedWindow {
    /// The stream's record.
    pub tag: RecordTag,
    /// The record's `claimed_until` before the claim.
    pub t0: UnixTime,
    /// `claimed_until` after it.
    pub t1: UnixTime,
}

/// Statement of a claim: 58 elements. Lanes beyond `lanes.len()` are 0.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct ClaimStatement {
    /// A root that the pool knows.
    pub root: Root,
    /// Hash of the external data.
    pub ext: ExternalHash,
    /// Tokens paid out of the pool, the relayer's fee included.
    pub amount_out: Amount,
    /// The pool's burn, in hundredths of a per cent.
    pub burn_bps: u16,
    /// The new note.
    pub output: SealedOutput,
    /// 1 to 16 windows.
    pub lanes: Vec<ClaimedWindow>,
}

impl Statement for ClaimStatement {
    const TAG: Tag = Tag::Claim;

    /// # Panics
    /// When there are more than 16 lanes.
    fn elements(&self) -> Vec<Fr> {
        assert!(self.lanes.len() <= CLAIM_LANES, "a claim has at most 16 lanes");
        let mut x = vec![
            self.root.to_fr(),
            self.ext.to_fr(),
            self.amount_out.to_fr(),
            Fr::from(self.burn_bps),
            self.output.commitment.to_fr(),
        ];
        x.extend(self.output.memo.elements());
        for lane in &self.lanes {
            x.extend([lane.tag.to_fr(), lane.t0.to_fr(), lane.t1.to_fr()]);
        }
        x.resize(Self::TAG.arity(), Fr::zero());
        x
    }
}

/// Statement of an insertion: 69 elements.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct InsertStatement {
    /// Root with the batch's first `k` leaves.
    pub old_root: Root,
    /// Root with the batch's first `m` leaves.
    pub new_root: Root,
    /// Which subtree of 64 leaves.
    pub batch_index: u32,
    /// Leaves of the batch that were there, below `m`.
    pub k: u8,
    /// Leaves of the batch that are there now, 1 to 64.
    pub m: u8,
    /// `leaf_1..leaf_m`; the statement holds 0 beyond.
    pub leaves: Vec<Commitment>,
}

impl Statement for InsertStatement {
    const TAG: Tag = Tag::Insert;

    /// # Panics
    /// When there are more than 64 leaves.
    fn elements(&self) -> Vec<Fr> {
        assert!(self.leaves.len() <= BATCH_LEAVES, "a batch has at most 64 leaves");
        let mut x = vec![
            self.old_root.to_fr(),
            self.new_root.to_fr(),
            Fr::from(self.batch_index),
            Fr::from(self.k),
            Fr::from(self.m),
        ];
        x.extend(self.leaves.iter().map(|leaf| leaf.to_fr()));
        x.resize(Self::TAG.arity(), Fr::zero());
        x
    }
}

/// What the external data's hash is made for: the call that may use it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Operation {
    /// Transact.
    Transact,
    /// Close.
    Close,
    /// Claim.
    Claim,
}

impl Operation {
    /// The circuit's tag.
    #[must_use]
    pub const fn tag(self) -> Tag {
        match self {
            Self::Transact => Tag::Transact,
            Self::Close => Tag::Close,
            Self::Claim => Tag::Claim,
        }
    }
}

/// What a transaction does outside the pool, except the payer's memo.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct ExternalTerms {
    /// Who is paid `amount_out - fee`; zero when nothing is paid out.
    pub recipient: Address,
    /// Who is paid the fee; zero when there is none.
    pub relayer: Address,
    /// The relayer's fee, at most `amount_out`.
    pub fee: Amount,
    /// Last second at which the transaction may be mined.
    pub deadline: UnixTime,
    /// Whether the outputs may be dropped when the tree is full (only where nothing is paid in and something is paid
    /// out).
    pub may_drop_outputs: bool,
}

/// External data: bound into the proof by its hash, so that nobody who relays a transaction can change it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ExternalData {
    /// Recipient, relayer, fee, deadline, flag.
    pub terms: ExternalTerms,
    /// The payer's memo: exactly 128 bytes for transact and close, none for a claim.
    pub memo: Option<PayerMemoBytes>,
}

impl ExternalData {
    /// The memo as the contract takes it.
    #[must_use]
    pub fn memo_bytes(&self) -> Bytes {
        self.memo.map_or_else(Bytes::new, |memo| Bytes::copy_from_slice(memo.as_bytes()))
    }

    /// `keccak256(abi.encode(chainid, pool, operation, recipient, relayer, fee, deadline, mayDropOutputs, memo))`,
    /// reduced.
    #[must_use]
    pub fn hash(&self, pool: &PoolId, operation: Operation) -> ExternalHash {
        let memo = self.memo_bytes();
        let head = [
            U256::from(pool.chain_id),
            pool.address.into_word().into(),
            U256::from(operation.tag() as u8),
            self.terms.recipient.into_word().into(),
            self.terms.relayer.into_word().into(),
            self.terms.fee.into(),
            self.terms.deadline.into(),
            U256::from(self.terms.may_drop_outputs),
            U256::from(9 * 32), // where the memo's length stands
            U256::from(memo.len()),
        ];
        let mut encoded: Vec<u8> = head.iter().flat_map(U256::to_be_bytes::<32>).collect();
        encoded.extend_from_slice(&memo); // 0 or 128 bytes: whole words
        ExternalHash::new(reduce(keccak256(encoded)))
    }
}
