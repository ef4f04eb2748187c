//! What a wallet is asked to do, and what it makes of it.

use std::{fmt, str::FromStr};

use alloy::primitives::{Address, B256, Bytes};
use rand::RngCore;
use serde::{Deserialize, Deserializer, Serialize, Serializer, de};
use tributary_protocol::{
    Amount, Commitment, ExternalTerms, Nullifier, PaymentAddress, PoolId, Rate, RecordTag, UnixTime, ticket::OfferTerms,
};

macro_rules! random_id {
    ($(#[$meta:meta])* $name:ident) => {
        $(#[$meta])*
        #[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
        pub struct $name([u8; 16]);

        impl $name {
            pub(crate) fn random() -> Self {
                let mut id = [0; 16];
                rand::rngs::OsRng.fill_bytes(&mut id);
                Self(id)
            }

            pub(crate) fn from_slice(bytes: &[u8]) -> Option<Self> {
                bytes.try_into().ok().map(Self)
            }

            /// The id's bytes.
            #[must_use]
            pub const fn as_bytes(&self) -> &[u8; 16] {
                &self.0
            }
        }

        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str(&hex::encode(self.0))
            }
        }

        impl fmt::Debug for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                write!(f, concat!(stringify!($name), "({})"), self)
            }
        }

        impl FromStr for $name {
            type Err = hex::FromHexError;
            fn from_str(text: &str) -> Result<Self, Self::Err> {
                let mut id = [0; 16];
                hex::decode_to_slice(text, &mut id)?;
                Ok(Self(id))
            }
        }

        impl Serialize for $name {
            fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
                serializer.collect_str(self)
            }
        }

        impl<'de> Deserialize<'de> for $name {
            fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
                String::deserialize(deserializer)?.parse().map_err(de::Error::custom)
            }
        }
    };
}

random_id! {
    /// Random id of an operation, known to this wallet only.
    OperationId
}
random_id! {
    /// Random id of one attempt at an operation, known to this wallet only.
    AttemptId
}

/// What a wallet is asked to do. Amounts are token base units and don't include the relayer's fee.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "kind", rename_all = "snake_case")]
#[non_exhaustive]
pub enum Intent {
    /// Tokens into the pool. The relayer's fee, if there is one, is taken from `amount`.
    Deposit {
        /// What the depositor gives.
        amount: Amount,
    },
    /// A note to somebody.
    Transfer {
        /// To whom.
        to: PaymentAddress,
        /// How much.
        amount: Amount,
    },
    /// Two of the wallet's notes into one.
    Merge,
    /// Tokens out of the pool.
    Withdraw {
        /// To whom.
        recipient: Address,
        /// How much.
        amount: Amount,
    },
    /// A stream.
    Open(OpenStream),
    /// Stops a stream of this payer and takes back what will not have accrued.
    Close {
        /// The stream.
        stream: Commitment,
    },
    /// Stops a stream and opens another one at the stop, in one transaction: a top-up, another rate.
    Reopen {
        /// The stream that stops.
        stream: Commitment,
        /// The stream that starts then.
        payee: PaymentAddress,
        /// Base units a second.
        rate: Rate,
        /// End of the new stream, a multiple of the slot length.
        end: UnixTime,
        /// What the offer fixes, if it was opened under one.
        offer: Option<OfferTerms>,
    },
    /// What accrued on streams to this payee, at most 16 of them.
    Claim {
        /// Which.
        streams: Vec<Commitment>,
    },
}

/// A stream to open.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct OpenStream {
    /// Who is paid.
    pub payee: PaymentAddress,
    /// Base units a second: a class of the offer, as everybody's.
    pub rate: Rate,
    /// First second that is paid, a multiple of the slot length.
    pub start: UnixTime,
    /// First second that is not paid any more, a multiple of the slot length.
    pub end: UnixTime,
    /// What the offer fixes, if it was opened under one. Tickets are never made at a higher price or minimum.
    pub offer: Option<OfferTerms>,
}

impl Intent {
    /// Its kind.
    #[must_use]
    pub const fn kind(&self) -> OperationKind {
        match self {
            Self::Deposit { .. } => OperationKind::Deposit,
            Self::Transfer { .. } => OperationKind::Transfer,
            Self::Merge => OperationKind::Merge,
            Self::Withdraw { .. } => OperationKind::Withdraw,
            Self::Open(_) => OperationKind::Open,
            Self::Close { .. } => OperationKind::Close,
            Self::Reopen { .. } => OperationKind::Reopen,
            Self::Claim { .. } => OperationKind::Claim,
        }
    }
}

/// Kinds of operations.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
#[non_exhaustive]
pub enum OperationKind {
    /// Tokens into the pool.
    Deposit,
    /// A note to somebody.
    Transfer,
    /// Two notes into one.
    Merge,
    /// Tokens out of the pool.
    Withdraw,
    /// A stream.
    Open,
    /// A stream stopped.
    Close,
    /// A stream stopped and another one opened.
    Reopen,
    /// What accrued.
    Claim,
}

impl fmt::Display for OperationKind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Deposit => "deposit",
            Self::Transfer => "transfer",
            Self::Merge => "merge",
            Self::Withdraw => "withdraw",
            Self::Open => "open",
            Self::Close => "close",
            Self::Reopen => "reopen",
            Self::Claim => "claim",
        })
    }
}

/// Who sends a transaction, for what, and until when.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct SendTerms {
    /// The relayer's address; zero when there is no fee.
    pub relayer: Address,
    /// Its fee in token base units, bound by the proof.
    pub fee: Amount,
    /// The last second at which the transaction may be mined; by default as late as the rules allow, at most
    /// [`WalletConfig::validity`](crate::WalletConfig::validity) from now. A close's deadline follows from its stop.
    pub deadline: Option<UnixTime>,
}

/// A transaction that is proved, written down and ready to be sent.
///
/// Anyone may send it (a deposit by approval or permit only its depositor); nobody can change it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct PreparedTransaction {
    /// This attempt.
    pub attempt: AttemptId,
    /// The operation that it is an attempt at. Of all attempts only one can be mined.
    pub operation: OperationId,
    /// The operation's kind. Relayers are not told: they see the call.
    pub kind: OperationKind,
    /// Which pool to call.
    pub pool: PoolId,
    /// The call: `transact`, `transactWithPermit`, `transactWithAuthorization`, `close` or `claim`.
    pub calldata: Bytes,
    /// Recipient, relayer, fee, deadline.
    pub external: ExternalTerms,
    /// What it spends, `nf_0` first; nothing for a claim.
    pub nullifiers: Vec<Nullifier>,
    /// The streams it stops or claims.
    pub tags: Vec<RecordTag>,
    /// The notes it makes.
    pub commitments: Vec<Commitment>,
    /// For a claim: until when the streams of `tags` are paid then.
    pub claimed_until: Vec<UnixTime>,
}

/// How sending ended.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "outcome", rename_all = "snake_case")]
pub enum Outcome {
    /// Mined, and it did what it should.
    Confirmed {
        /// Transaction.
        tx_hash: B256,
        /// Block.
        block: u64,
    },
    /// Refused.
    Rejected(Rejection),
    /// It may be mined, or not. The ledger will tell.
    Unknown {
        /// Transaction, if it is known.
        tx_hash: Option<B256>,
        /// What happened.
        reason: String,
    },
}

/// Why a transaction was refused.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Rejection {
    /// Stable code.
    pub code: String,
    /// For people.
    pub reason: String,
    /// Whether it is certain that nobody else holds the transaction, so that it can't be mined later. A relayer's word is not enough.
    pub never_sent: bool,
}

/// Where an operation stands.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "status", rename_all = "snake_case")]
pub enum OperationStatus {
    /// Its inputs are reserved, its proof is not made.
    Preparing,
    /// Proved, not handed to anybody.
    Prepared,
    /// Handed to a submitter.
    Sent,
    /// On chain.
    Confirmed {
        /// Block.
        block: u64,
        /// How deep that block is buried, 1 in the head.
        depth: u64,
    },
    /// Its deadlines have passed: it will never be mined, and its inputs are free again.
    Expired,
    /// It was given up before anybody could send it.
    Abandoned,
}

/// An operation and where it stands.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct OperationInfo {
    /// The operation.
    pub id: OperationId,
    /// What was asked for.
    pub intent: Intent,
    /// Where it stands.
    pub status: OperationStatus,
    /// When it was begun.
    pub created: UnixTime,
    /// The latest attempt, if one is proved.
    pub latest: Option<AttemptId>,
    /// The last deadline of its attempts.
    pub deadline: Option<UnixTime>,
    /// How the latest sending ended, if it did.
    pub outcome: Option<Outcome>,
}
