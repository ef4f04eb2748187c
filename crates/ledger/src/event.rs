//! The pool's events in the protocol's types.

use alloy::{
    primitives::{Address, B256, U256},
    sol_types::SolEventInterface,
};
use tributary_bindings::{
    NOT_QUEUED,
    StreamPool::{self, StreamPoolEvents},
};
use tributary_protocol::{
    Commitment, FieldElement, Fr, Nullifier, PayerMemoBytes, RecordTag, Root, SealedMemo, UnixTime,
};

use crate::{LedgerError, store::RawEvent};

/// Number of an event in the order in which this ledger read them. Never used twice: an event that a reorganisation took back and that
/// was mined again comes again with a new number.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct EventSeq(pub u64);

/// An event and where it stands.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct EventRecord {
    /// The ledger's number of it.
    pub seq: EventSeq,
    /// Block height.
    pub block: u64,
    /// Block hash.
    pub block_hash: B256,
    /// The block's timestamp.
    pub timestamp: UnixTime,
    /// The transaction that caused it.
    pub tx_hash: B256,
    /// What happened.
    pub event: PoolEvent,
}

/// A new note.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Output {
    /// Place in queue and tree; `None` if it was dropped because the tree was full.
    pub position: Option<u32>,
    /// The leaf.
    pub commitment: Commitment,
    /// The note, sealed to its owner.
    pub memo: SealedMemo,
    /// Which output of its transaction it is, 0 or 1.
    pub index: u8,
}

/// The window of one stream that a claim paid.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ClaimedWindow {
    /// The stream's record tag.
    pub tag: RecordTag,
    /// Claimed until, before.
    pub from: UnixTime,
    /// Claimed until, now.
    pub until: UnixTime,
}

/// What happened in the pool.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum PoolEvent {
    /// Two notes spent, two made.
    Transacted {
        /// Base units that entered the pool.
        amount_in: U256,
        /// Base units that left the pool, the relayer's fee included.
        amount_out: U256,
        /// What was spent.
        nullifiers: [Nullifier; 2],
        /// What was made.
        outputs: [Output; 2],
        /// The payer's memo.
        payer_memo: PayerMemoBytes,
    },
    /// A stream stopped, one note spent, two made.
    Closed {
        /// The stream's record tag.
        tag: RecordTag,
        /// When it stops.
        stop: UnixTime,
        /// Base units that left the pool, the relayer's fee included.
        amount_out: U256,
        /// What was spent.
        nullifier: Nullifier,
        /// What was made.
        outputs: [Output; 2],
        /// The payer's memo.
        payer_memo: PayerMemoBytes,
    },
    /// A payee's claim.
    Claimed {
        /// Base units that left the pool, the relayer's fee included.
        amount_out: U256,
        /// Share burnt, in basis points.
        burn_bps: U256,
        /// The payee's new note.
        output: Output,
        /// The streams it paid, unused lanes left out.
        windows: Vec<ClaimedWindow>,
    },
    /// Tokens left the pool.
    Paid {
        /// Who received `amount`.
        recipient: Address,
        /// Base units, without the fee.
        amount: U256,
        /// Who received `fee`.
        relayer: Address,
        /// Base units.
        fee: U256,
    },
    /// Leaves entered the tree.
    Inserted {
        /// The root from now on.
        root: Root,
        /// Leaves in the tree from now on.
        leaf_count: u64,
    },
    /// A bundle left out an insertion that came too late.
    InsertionSkipped,
}

impl PoolEvent {
    /// The new notes.
    #[must_use]
    pub fn outputs(&self) -> &[Output] {
        match self {
            Self::Transacted { outputs, .. } | Self::Closed { outputs, .. } => outputs,
            Self::Claimed { output, .. } => std::slice::from_ref(output),
            _ => &[],
        }
    }

    /// What was spent.
    #[must_use]
    pub fn nullifiers(&self) -> &[Nullifier] {
        match self {
            Self::Transacted { nullifiers, .. } => nullifiers,
            Self::Closed { nullifier, .. } => std::slice::from_ref(nullifier),
            _ => &[],
        }
    }
}

fn bad(error: impl std::fmt::Display) -> LedgerError {
    LedgerError::Protocol(error.to_string())
}

fn memo(memo: &StreamPool::SealedMemo) -> Result<SealedMemo, LedgerError> {
    let fr = |value: U256| Fr::try_from_u256(value).map_err(bad);
    Ok(SealedMemo {
        ephemeral_x: fr(memo.ex)?,
        ephemeral_y: fr(memo.ey)?,
        words: [fr(memo.c0)?, fr(memo.c1)?, fr(memo.c2)?],
    })
}

fn outputs(
    position: u64,
    commitments: &[U256; 2],
    memos: &[StreamPool::SealedMemo; 2],
) -> Result<[Output; 2], LedgerError> {
    let one = |index: u8| {
        let i = usize::from(index);
        Ok::<_, LedgerError>(Output {
            position: place(position, index)?,
            commitment: Commitment::try_from(commitments[i]).map_err(bad)?,
            memo: memo(&memos[i])?,
            index,
        })
    };
    Ok([one(0)?, one(1)?])
}

fn place(first: u64, index: u8) -> Result<Option<u32>, LedgerError> {
    if first == NOT_QUEUED {
        return Ok(None);
    }
    u32::try_from(first.saturating_add(u64::from(index))).map(Some).map_err(bad)
}

fn payer_memo(words: &[B256; 4]) -> Result<PayerMemoBytes, LedgerError> {
    PayerMemoBytes::from_slice(&words.map(|word| word.0).concat()).map_err(bad)
}

fn time(value: U256) -> Result<UnixTime, LedgerError> {
    UnixTime::try_from(value).map_err(bad)
}

pub(crate) fn decode(raw: &RawEvent) -> Result<PoolEvent, LedgerError> {
    let event = StreamPoolEvents::decode_raw_log(&[raw.topic], &raw.data).map_err(bad)?;
    Ok(match event {
        StreamPoolEvents::Transacted(e) => PoolEvent::Transacted {
            amount_in: e.amountIn,
            amount_out: e.amountOut,
            nullifiers: [
                Nullifier::try_from(e.nullifiers[0]).map_err(bad)?,
                Nullifier::try_from(e.nullifiers[1]).map_err(bad)?,
            ],
            outputs: outputs(e.position, &e.commitments, &e.memos)?,
            payer_memo: payer_memo(&e.payerMemo)?,
        },
        StreamPoolEvents::Closed(e) => PoolEvent::Closed {
            tag: RecordTag::try_from(e.tag).map_err(bad)?,
            stop: time(e.stop)?,
            amount_out: e.amountOut,
            nullifier: Nullifier::try_from(e.nullifier).map_err(bad)?,
            outputs: outputs(e.position, &e.commitments, &e.memos)?,
            payer_memo: payer_memo(&e.payerMemo)?,
        },
        StreamPoolEvents::Claimed(e) => PoolEvent::Claimed {
            amount_out: e.amountOut,
            burn_bps: e.burnBps,
            output: Output {
                position: place(e.position, 0)?,
                commitment: Commitment::try_from(e.commitment).map_err(bad)?,
                memo: memo(&e.memo)?,
                index: 0,
            },
            windows: e
                .windows
                .iter()
                .filter(|w| !w.tag.is_zero())
                .map(|w| {
                    Ok(ClaimedWindow {
                        tag: RecordTag::try_from(w.tag).map_err(bad)?,
                        from: time(w.from)?,
                        until: time(w.until)?,
                    })
                })
                .collect::<Result<_, LedgerError>>()?,
        },
        StreamPoolEvents::Paid(e) => {
            PoolEvent::Paid { recipient: e.recipient, amount: e.amount, relayer: e.relayer, fee: e.fee }
        }
        StreamPoolEvents::Inserted(e) => {
            PoolEvent::Inserted { root: Root::try_from(e.newRoot).map_err(bad)?, leaf_count: e.leafCount }
        }
        StreamPoolEvents::InsertionSkipped(_) => PoolEvent::InsertionSkipped,
    })
}
