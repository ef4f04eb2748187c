//! What can go wrong in a wallet.

use tributary_ledger::LedgerError;
use tributary_protocol::{Amount, Commitment, ErrorCode, error as protocol};

use crate::{VaultError, operation::OperationId};

/// An error of the wallet. [`WalletError::code`] is stable and meant for users and support. No variant carries a secret.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum WalletError {
    /// The ledger failed.
    #[error(transparent)]
    Ledger(#[from] LedgerError),
    /// The seed file failed.
    #[error(transparent)]
    Vault(#[from] VaultError),
    /// The wallet's database failed.
    #[error("the wallet's database failed: {0}; check the disk, then start again (what was written is whole)")]
    Database(#[from] sqlx::Error),
    /// The ticket counters could not be opened.
    #[error(transparent)]
    Tickets(#[from] crate::tickets::TicketError),
    /// The wallet's files could not be made.
    #[error("the wallet's folder: {0}")]
    Io(#[from] std::io::Error),
    /// The database holds something that this version did not write.
    #[error("the wallet's database is damaged or from another version: {what}; move it away and restore from the seed")]
    Corrupt {
        /// What was found.
        what: String,
    },
    /// The database belongs to other keys.
    #[error("this database belongs to another wallet, pool or account; choose another folder")]
    WrongWallet,
    /// The keys could not be derived.
    #[error(transparent)]
    Key(#[from] protocol::KeyError),
    /// The witness was refused before proving.
    #[error(transparent)]
    Witness(#[from] protocol::WitnessError),
    /// The stream's terms are not possible.
    #[error(transparent)]
    Note(#[from] protocol::NoteError),
    /// A quantity is out of range.
    #[error(transparent)]
    Range(#[from] protocol::RangeError),
    /// A time does not fit the pool's clock.
    #[error(transparent)]
    Slot(#[from] protocol::SlotError),
    /// The proof could not be made.
    #[error(transparent)]
    Prover(#[from] tributary_prover::Error),
    /// The proving thread ended, or the program is shutting down.
    #[error("proving was interrupted; try again")]
    Interrupted,
    /// Too little money.
    #[error(
        "{needed} base units are needed, {available} are available ({waiting} more wait for insertion or a pending transaction)"
    )]
    InsufficientFunds {
        /// Amount and fee.
        needed: Amount,
        /// Unspent, inserted, unreserved.
        available: Amount,
        /// Not yet inserted, or reserved.
        waiting: Amount,
    },
    /// Enough money, but in too many notes.
    #[error(
        "{needed} base units are needed, but the {inputs} largest notes hold {reachable} of {available}; merge notes first"
    )]
    TooManyNotes {
        /// Amount and fee.
        needed: Amount,
        /// What the largest notes hold together.
        reachable: Amount,
        /// All notes together.
        available: Amount,
        /// Notes that one transaction can spend.
        inputs: usize,
    },
    /// There are fewer than two notes to merge.
    #[error("there is nothing to merge: {notes} notes are available, two are needed")]
    NothingToMerge {
        /// Notes available.
        notes: usize,
    },
    /// The fee is more than the transaction moves.
    #[error(
        "the fee of {fee} base units is more than the {amount} that this moves; find a cheaper relayer, or send it yourself"
    )]
    FeeTooHigh {
        /// The relayer's fee.
        fee: Amount,
        /// What there is to pay it from.
        amount: Amount,
    },
    /// The amount is 0.
    #[error("the amount is 0")]
    NothingToDo,
    /// The deadline is over, or later than the rule allows.
    #[error("the deadline {deadline} is not within {now}..={latest}")]
    Deadline {
        /// Asked for, Unix seconds.
        deadline: u64,
        /// Now, Unix seconds.
        now: u64,
        /// Latest allowed, Unix seconds.
        latest: u64,
    },
    /// No such stream of this wallet.
    #[error("this wallet has no stream {commitment} on chain; synchronise, or restore it from the seed")]
    UnknownStream {
        /// Its commitment.
        commitment: Commitment,
    },
    /// The stream was stopped before.
    #[error("the stream is stopped from {stop} on; nothing is left to close")]
    AlreadyStopped {
        /// Unix seconds.
        stop: u64,
    },
    /// The stream's note is used by another pending operation.
    #[error("operation {operation} on this note is pending; wait for it, send it again, or abandon it")]
    Busy {
        /// The operation.
        operation: OperationId,
    },
    /// A leaf is not in the tree yet.
    #[error("the note is queued, but not in the tree yet ({inserted} leaves are); wait for an insertion, or make one")]
    NotInserted {
        /// Leaves in the tree.
        inserted: u64,
    },
    /// There is nothing to claim.
    #[error("no stream has accrued {least} base units or more; wait")]
    NothingToClaim {
        /// The least that is worth a lane.
        least: Amount,
    },
    /// No such operation.
    #[error("there is no operation {operation}")]
    UnknownOperation {
        /// The operation asked for.
        operation: OperationId,
    },
    /// The operation's transaction may still be mined.
    #[error("operation {operation} may still be mined until {deadline}; wait, or send it again")]
    StillPossible {
        /// The operation.
        operation: OperationId,
        /// The last deadline of its transactions, Unix seconds.
        deadline: u64,
    },
    /// The operation is on chain already.
    #[error("operation {operation} is confirmed in block {block}")]
    AlreadyConfirmed {
        /// The operation.
        operation: OperationId,
        /// The block.
        block: u64,
    },
    /// A deposit's authorisation could not be made.
    #[error("the deposit's authorisation: {reason}")]
    Authorization {
        /// Why.
        reason: String,
    },
    /// The offer asks for more than the one that the stream was opened under. Going along would let the payee find out who drops out.
    #[error(
        "the offer now asks for price {price} and {min_streamed} streamed, the stream was opened at {opened_price} and \
         {opened_min_streamed}; close the stream instead"
    )]
    OfferRaised {
        /// Price now.
        price: u128,
        /// Minimum now.
        min_streamed: u128,
        /// Price when the stream was opened.
        opened_price: u128,
        /// Minimum when the stream was opened.
        opened_min_streamed: u128,
    },
    /// A close would give nothing back.
    #[error("the earliest stop is {stop}, the stream ends at {end} anyway; let it end")]
    NothingToRefund {
        /// End of the stream, Unix seconds.
        end: u64,
        /// The earliest stop, Unix seconds.
        stop: u64,
    },
    /// An offer or quote names another payee than the stream's.
    #[error("the offer's payee is not the stream's; do not pay, it may be marking buyers")]
    WrongPayee,
}

impl WalletError {
    /// Stable code of the error.
    #[must_use]
    pub fn code(&self) -> &'static str {
        match self {
            Self::Ledger(error) => error.code(),
            Self::Vault(error) => error.code(),
            Self::Key(error) => error.code(),
            Self::Witness(error) => error.code(),
            Self::Note(error) => error.code(),
            Self::Range(error) => error.code(),
            Self::Slot(error) => error.code(),
            Self::Prover(error) => error.code(),
            Self::Tickets(error) => error.code(),
            Self::Database(_) => "TRB-3001",
            Self::Io(_) => "TRB-3002",
            Self::Corrupt { .. } => "TRB-3003",
            Self::WrongWallet => "TRB-3004",
            Self::Interrupted => "TRB-3005",
            Self::InsufficientFunds { .. } => "TRB-3006",
            Self::TooManyNotes { .. } => "TRB-3007",
            Self::NothingToMerge { .. } => "TRB-3008",
            Self::FeeTooHigh { .. } => "TRB-3009",
            Self::NothingToDo => "TRB-3010",
            Self::Deadline { .. } => "TRB-3011",
            Self::UnknownStream { .. } => "TRB-3012",
            Self::AlreadyStopped { .. } => "TRB-3013",
            Self::Busy { .. } => "TRB-3014",
            Self::NotInserted { .. } => "TRB-3015",
            Self::NothingToClaim { .. } => "TRB-3016",
            Self::UnknownOperation { .. } => "TRB-3017",
            Self::StillPossible { .. } => "TRB-3018",
            Self::AlreadyConfirmed { .. } => "TRB-3019",
            Self::Authorization { .. } => "TRB-3020",
            Self::OfferRaised { .. } => "TRB-3021",
            Self::WrongPayee => "TRB-3022",
            Self::NothingToRefund { .. } => "TRB-3023",
        }
    }
}
