//! What can go wrong while following a pool.

use alloy::primitives::{Address, B256};

/// An error of the ledger. [`LedgerError::code`] is stable and meant for users and support.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum LedgerError {
    /// The node did not answer, or answered with an error. Trying again later is safe.
    #[error("the chain node failed at {method}: {reason}; check the RPC endpoint, then try again")]
    Rpc {
        /// The JSON-RPC method asked for.
        method: &'static str,
        /// What the transport said, without the endpoint's address.
        reason: String,
    },
    /// The node refused a request, for instance because the range of blocks was too large.
    #[error(
        "the chain node refused {method} with error {error}: {message}; choose another RPC endpoint if it stays so"
    )]
    Refused {
        /// The JSON-RPC method asked for.
        method: &'static str,
        /// The JSON-RPC error code.
        error: i64,
        /// What the node said.
        message: String,
    },
    /// The node's answers belong to different versions of the chain. The next synchronisation starts over.
    #[error("the chain node's answers contradict each other at block {number}: {what}; trying again")]
    Inconsistent {
        /// The block concerned.
        number: u64,
        /// Which answers disagree.
        what: &'static str,
    },
    /// The node is on another chain than the deployment.
    #[error(
        "the RPC endpoint is on chain {found}, the pool was deployed on chain {expected}; point it to chain {expected}"
    )]
    WrongChain {
        /// Chain id of the deployment manifest.
        expected: u64,
        /// Chain id that the node reported.
        found: u64,
    },
    /// The database holds another pool's history.
    #[error("this database follows pool {found}, not {expected}; use another database file for each pool")]
    WrongPool {
        /// Pool of the deployment manifest.
        expected: Address,
        /// Pool that the database was made for.
        found: Address,
    },
    /// The chain was replaced further back than this ledger keeps block hashes for.
    #[error(
        "the chain was reorganised below block {oldest} (hash {expected}), deeper than the {depth} blocks that can be undone; \
         make sure the RPC endpoint is on the right chain, then delete the ledger's database to follow the chain anew"
    )]
    ReorganisationTooDeep {
        /// Oldest block whose hash is kept.
        oldest: u64,
        /// The hash kept for it.
        expected: B256,
        /// How many blocks are kept.
        depth: u64,
    },
    /// An event does not fit what went before it. Events of the pool's contract never do this: the endpoint lies or left events out.
    #[error(
        "block {number}: {what} (expected {expected}, found {found}); use an RPC endpoint that serves complete logs"
    )]
    BadEvent {
        /// The block concerned.
        number: u64,
        /// What does not fit.
        what: &'static str,
        /// What must follow.
        expected: String,
        /// What the event said.
        found: String,
    },
    /// The database failed.
    #[error(
        "the ledger's database failed: {0}; check the disk, then start again (nothing is lost: each step is one transaction)"
    )]
    Database(#[from] sqlx::Error),
    /// The database holds something that this version did not write.
    #[error("the ledger's database is damaged or from another version: {what}; delete it to follow the chain anew")]
    Corrupt {
        /// What was found.
        what: String,
    },
    /// A path was asked for a place that is not in the tree of that size.
    #[error("position {position} is not in a tree of {size} leaves; wait until the leaf is inserted")]
    NotInTree {
        /// The position asked for.
        position: u64,
        /// The size of the tree asked for.
        size: u64,
    },
    /// A stopped list was asked for before the chain is far enough to know it.
    #[error(
        "the stopped list of slot {slot_start} is final once a block has timestamp {needed} or later; the head is at {head}"
    )]
    NotFinal {
        /// The slot's first second.
        slot_start: u64,
        /// Timestamp that the head must reach (a lower bound while the deciding block is unknown).
        needed: u64,
        /// Timestamp of the head.
        head: u64,
    },
    /// Nothing has been read from the chain yet.
    #[error("the ledger has not seen the chain yet; synchronise first")]
    Empty,
    /// The program is shutting down.
    #[error("synchronisation was interrupted by the program's end; start it again")]
    Interrupted,
    /// A value from the protocol crate was refused.
    #[error("a value on chain is not one of the protocol's: {0}")]
    Protocol(String),
}

impl LedgerError {
    /// Stable code of the error.
    #[must_use]
    pub const fn code(&self) -> &'static str {
        match self {
            Self::Rpc { .. } => "TRB-2001",
            Self::Inconsistent { .. } => "TRB-2002",
            Self::WrongChain { .. } => "TRB-2003",
            Self::WrongPool { .. } => "TRB-2004",
            Self::ReorganisationTooDeep { .. } => "TRB-2005",
            Self::BadEvent { .. } => "TRB-2006",
            Self::Database(_) => "TRB-2007",
            Self::Corrupt { .. } => "TRB-2008",
            Self::NotInTree { .. } => "TRB-2009",
            Self::NotFinal { .. } => "TRB-2010",
            Self::Empty => "TRB-2011",
            Self::Protocol(_) => "TRB-2012",
            Self::Interrupted => "TRB-2013",
            Self::Refused { .. } => "TRB-2014",
        }
    }

    /// Whether the same call may succeed later without anybody's doing.
    #[must_use]
    pub const fn is_transient(&self) -> bool {
        matches!(
            self,
            Self::Rpc { .. } | Self::Refused { .. } | Self::Inconsistent { .. } | Self::NotFinal { .. } | Self::Empty
        )
    }
}
