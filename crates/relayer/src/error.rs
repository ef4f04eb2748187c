//! What can go wrong at a relayer.

use alloy::primitives::{Address, B256, U256};

/// Why a relayer refuses or fails.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum RelayerError {
    /// The call data is none that the pool knows and a relayer sends.
    #[error(
        "the call data starts with {selector}, relayers send transact, transactWithAuthorization, close and claim: prepare one of these"
    )]
    UnknownCall {
        /// First bytes of the call data.
        selector: String,
    },
    /// The call data does not decode.
    #[error("the call data of {call} does not decode: {reason}")]
    BadCall {
        /// The function.
        call: &'static str,
        /// What the decoder says.
        reason: String,
    },
    /// The call is another operation than the request names.
    #[error("the request names {named}, the call data is {got}: ask for a quote for what you send")]
    WrongOperation {
        /// In the request.
        named: &'static str,
        /// In the call data.
        got: &'static str,
    },
    /// Tokens of the caller would be taken: the relayer would pay the deposit.
    #[error(
        "the call takes {amount_in} base units from whoever sends it: sign an EIP-3009 authorisation or send it yourself"
    )]
    TakesFromSender {
        /// Base units.
        amount_in: U256,
    },
    /// The fee goes to somebody else.
    #[error("the fee is bound to {bound}, this relayer is {expected}: prove again with the quote's account")]
    FeeBoundElsewhere {
        /// In the call data.
        bound: Address,
        /// This relayer.
        expected: Address,
    },
    /// The fee is below the quote.
    #[error("the fee is {bound}, the quote says {quoted} base units: prove again with the quoted fee")]
    FeeTooLow {
        /// In the call data.
        bound: U256,
        /// Quoted.
        quoted: U256,
    },
    /// The quote is no more valid.
    #[error("the quote was valid until {valid_until}, it is {now}: ask for a new one")]
    QuoteExpired {
        /// Unix seconds.
        valid_until: u64,
        /// Unix seconds.
        now: u64,
    },
    /// The quote is for another operation, or not for insertion.
    #[error("the quote is for {quoted}, the request for {requested}: ask for a quote for what you send")]
    QuoteForOther {
        /// What was quoted.
        quoted: String,
        /// What is requested.
        requested: String,
    },
    /// The deadline is too near.
    #[error(
        "the deadline {deadline} is less than {margin} s after {now}: prepare the transaction again with a later one"
    )]
    DeadlineTooNear {
        /// Unix seconds.
        deadline: u64,
        /// Unix seconds.
        now: u64,
        /// Seconds.
        margin: u64,
    },
    /// A transaction with the same nullifier is under way.
    #[error("a transaction with nullifier {nullifier} is under way already: ask for its status")]
    NullifierUnderWay {
        /// Hex.
        nullifier: String,
    },
    /// The same idempotency key was used for other call data.
    #[error("this idempotency key was used for another transaction: make a new one for each")]
    IdempotencyKeyReused,
    /// The pool refuses the call.
    #[error("the pool refuses the transaction: {reason}")]
    Reverts {
        /// The contract's error, decoded.
        reason: String,
    },
    /// The fee does not cover the gas.
    #[error("gas costs {cost} wei, the fee is worth {worth} wei: ask for a new quote, gas became dearer")]
    DoesNotPay {
        /// Gas times gas price, in wei.
        cost: U256,
        /// The fee in wei.
        worth: U256,
    },
    /// Gas is too dear.
    #[error("the gas price is {price} wei, this relayer pays up to {max}: try later or another relayer")]
    GasTooDear {
        /// wei.
        price: u128,
        /// wei.
        max: u128,
    },
    /// Too much work.
    #[error("{pending} transactions are waiting, the limit is {max}: try later or another relayer")]
    Full {
        /// Transactions waiting.
        pending: u64,
        /// The limit.
        max: u64,
    },
    /// Nothing is known under this key.
    #[error("no transaction is known under this idempotency key: send it")]
    NoSuchRequest,
    /// The chain does not answer, or with an error.
    #[error("the chain endpoint failed: {0}")]
    Chain(String),
    /// The database failed.
    #[error("the relayer's database failed: {0}")]
    Store(#[from] sqlx::Error),
    /// The ledger failed.
    #[error(transparent)]
    Ledger(#[from] tributary_ledger::LedgerError),
    /// A proof of insertion failed.
    #[error("the insertion could not be proved: {0}")]
    Proof(String),
    /// A transaction did not do what its receipt should show.
    #[error("transaction {transaction} is mined without the expected effect: {reason}")]
    NoEffect {
        /// Its hash.
        transaction: B256,
        /// What is missing.
        reason: String,
    },
}

impl RelayerError {
    /// A stable code for programs.
    #[must_use]
    pub const fn code(&self) -> &'static str {
        match self {
            Self::UnknownCall { .. } => "unknown_call",
            Self::BadCall { .. } => "bad_call",
            Self::WrongOperation { .. } => "wrong_operation",
            Self::TakesFromSender { .. } => "takes_from_sender",
            Self::FeeBoundElsewhere { .. } => "fee_bound_elsewhere",
            Self::FeeTooLow { .. } => "fee_too_low",
            Self::QuoteExpired { .. } => "quote_expired",
            Self::QuoteForOther { .. } => "quote_for_other",
            Self::DeadlineTooNear { .. } => "deadline_too_near",
            Self::NullifierUnderWay { .. } => "nullifier_under_way",
            Self::IdempotencyKeyReused => "idempotency_key_reused",
            Self::Reverts { .. } => "reverts",
            Self::DoesNotPay { .. } => "does_not_pay",
            Self::GasTooDear { .. } => "gas_too_dear",
            Self::Full { .. } => "full",
            Self::NoSuchRequest => "no_such_request",
            Self::Chain(_) => "chain",
            Self::Store(_) => "store",
            Self::Ledger(_) => "ledger",
            Self::Proof(_) => "proof",
            Self::NoEffect { .. } => "no_effect",
        }
    }

    /// Whether the same transaction may succeed later.
    #[must_use]
    pub const fn retry(&self) -> bool {
        matches!(
            self,
            Self::GasTooDear { .. }
                | Self::Full { .. }
                | Self::Chain(_)
                | Self::Store(_)
                | Self::Ledger(_)
                | Self::Proof(_)
        )
    }
}
