//! Every error of this crate, each with a stable code that users see and scripts may match on.
//!
//! Codes never change their meaning and are never reused. `TRB-10xx` field, `11xx` keys and addresses, `12xx` amounts
//! and times, `13xx` notes and memos, `14xx` trees and lists, `15xx` slots, `16xx` tickets, `17xx` witnesses.

use alloy_primitives::U256;
use thiserror::Error;

/// An error with a stable code such as `TRB-1001`.
pub trait ErrorCode: std::error::Error {
    /// The stable code. It identifies the variant, never the values in it.
    fn code(&self) -> &'static str;
}

/// Bytes, text or an integer is not a canonical field element.
#[derive(Clone, Debug, PartialEq, Eq, Error)]
#[non_exhaustive]
pub enum FieldError {
    /// The value is the field's order or more. Wire data is never reduced: two encodings of one element would be two
    /// identities.
    #[error("{value:#x} is not below the field order; send the canonical value")]
    NotCanonical {
        /// The value as it was read.
        value: U256,
    },
    /// The text is no decimal or hexadecimal integer of at most 256 bits, or the byte string has the wrong length.
    #[error("not a field element ({reason}); expected {expected}")]
    Malformed {
        /// What was expected.
        expected: &'static str,
        /// What is wrong with the input.
        reason: &'static str,
    },
}

impl ErrorCode for FieldError {
    fn code(&self) -> &'static str {
        match self {
            Self::NotCanonical { .. } => "TRB-1001",
            Self::Malformed { .. } => "TRB-1002",
        }
    }
}

/// A curve point cannot be used as a viewing or ephemeral key.
#[derive(Clone, Debug, PartialEq, Eq, Error)]
#[non_exhaustive]
pub enum PointError {
    /// The coordinates do not satisfy the curve equation, or no x belongs to the compressed y.
    #[error("the point is not on BabyJubjub")]
    NotOnCurve,
    /// The point lies outside the subgroup of prime order, or is the neutral element.
    #[error("the point is not in BabyJubjub's prime subgroup (or is its neutral element)")]
    NotInSubgroup,
    /// A coordinate is not canonical.
    #[error("a coordinate is not a canonical field element: {0}")]
    Field(#[from] FieldError),
    /// A compressed point sets the sign bit although x is 0.
    #[error("the compressed point has a sign bit but x is zero")]
    NonCanonicalSign,
}

impl ErrorCode for PointError {
    fn code(&self) -> &'static str {
        match self {
            Self::NotOnCurve => "TRB-1101",
            Self::NotInSubgroup => "TRB-1102",
            Self::Field(_) => "TRB-1103",
            Self::NonCanonicalSign => "TRB-1104",
        }
    }
}

/// A secret could not be read or derived. No variant carries secret material.
#[derive(Clone, Debug, PartialEq, Eq, Error)]
#[non_exhaustive]
pub enum KeyError {
    /// The mnemonic is no valid English BIP-39 phrase.
    #[error("the mnemonic is not valid: {reason}; check the words, their order and their number")]
    Mnemonic {
        /// What is wrong, without any of the words.
        reason: &'static str,
    },
    /// A derived or supplied secret is 0 (or out of its range).
    #[error("the {what} secret is zero or out of range; use another account number")]
    InvalidSecret {
        /// Which secret.
        what: &'static str,
    },
}

impl ErrorCode for KeyError {
    fn code(&self) -> &'static str {
        match self {
            Self::Mnemonic { .. } => "TRB-1111",
            Self::InvalidSecret { .. } => "TRB-1112",
        }
    }
}

/// Text is no payment address.
#[derive(Clone, Debug, PartialEq, Eq, Error)]
#[non_exhaustive]
pub enum AddressError {
    /// Bad characters, bad checksum or mixed case.
    #[error("the address is not valid bech32m; copy it again, whole")]
    Encoding,
    /// The human-readable part is not `trib`.
    #[error("the address begins with {found:?}; a payment address begins with \"trib\"")]
    Prefix {
        /// The prefix that was found.
        found: String,
    },
    /// The version byte is not one that this program knows.
    #[error("address version {found}; this program knows version 1, an upgrade may know more")]
    Version {
        /// The version byte that was found.
        found: u8,
    },
    /// The payload has the wrong length.
    #[error("the address holds {found} bytes; version 1 holds 65")]
    Length {
        /// Number of payload bytes that were found.
        found: usize,
    },
    /// The spending public key is not canonical.
    #[error("the spending key in the address is not valid: {0}")]
    SpendKey(#[source] FieldError),
    /// The viewing key is no usable curve point. Paying to it could lose the money or the payer's privacy.
    #[error("the viewing key in the address is not valid: {0}; do not pay to it")]
    ViewingKey(#[source] PointError),
}

impl ErrorCode for AddressError {
    fn code(&self) -> &'static str {
        match self {
            Self::Encoding => "TRB-1121",
            Self::Prefix { .. } => "TRB-1122",
            Self::Version { .. } => "TRB-1123",
            Self::Length { .. } => "TRB-1124",
            Self::SpendKey(_) => "TRB-1125",
            Self::ViewingKey(_) => "TRB-1126",
        }
    }
}

/// An amount, rate, price or time is out of its range, or arithmetic would leave it.
#[derive(Clone, Debug, PartialEq, Eq, Error)]
#[non_exhaustive]
pub enum RangeError {
    /// The value has too many bits.
    #[error("{what} {value} does not fit {bits} bits")]
    TooLarge {
        /// Which quantity.
        what: &'static str,
        /// The value.
        value: U256,
        /// Bits that it may have.
        bits: u32,
    },
    /// The value is 0 where 0 has no meaning.
    #[error("{what} must not be zero")]
    Zero {
        /// Which quantity.
        what: &'static str,
    },
    /// A sum leaves the range.
    #[error("{what}: {left} + {right} does not fit {bits} bits")]
    Overflow {
        /// Which quantity.
        what: &'static str,
        /// Left operand.
        left: u128,
        /// Right operand.
        right: u128,
        /// Bits that the result may have.
        bits: u32,
    },
    /// A difference would be negative.
    #[error("{what}: {left} - {right} is negative")]
    Underflow {
        /// Which quantity.
        what: &'static str,
        /// Left operand.
        left: u128,
        /// Right operand.
        right: u128,
    },
    /// The text is no decimal integer.
    #[error("{what} must be a decimal integer")]
    NotDecimal {
        /// Which quantity.
        what: &'static str,
    },
}

impl ErrorCode for RangeError {
    fn code(&self) -> &'static str {
        match self {
            Self::TooLarge { .. } => "TRB-1201",
            Self::Zero { .. } => "TRB-1202",
            Self::Overflow { .. } => "TRB-1203",
            Self::Underflow { .. } => "TRB-1204",
            Self::NotDecimal { .. } => "TRB-1205",
        }
    }
}

/// Stream terms that no note can have.
#[derive(Clone, Debug, PartialEq, Eq, Error)]
#[non_exhaustive]
pub enum NoteError {
    /// The stream would end before or when it starts.
    #[error("the stream starts at {start} and ends at {end}; it must end later than it starts")]
    EmptyStream {
        /// Start, unix seconds.
        start: u64,
        /// End, unix seconds.
        end: u64,
    },
    /// The deposit `rate * (end - start)` does not fit 120 bits.
    #[error("the deposit {rate} * {seconds} s does not fit 120 bits; choose a shorter stream")]
    DepositTooLarge {
        /// Rate, base units a second.
        rate: u128,
        /// Length of the stream in seconds.
        seconds: u64,
    },
}

impl ErrorCode for NoteError {
    fn code(&self) -> &'static str {
        match self {
            Self::EmptyStream { .. } => "TRB-1301",
            Self::DepositTooLarge { .. } => "TRB-1302",
        }
    }
}

/// A sealed memo or payer's memo does not open. For a memo of somebody else this is the usual outcome, not a fault.
#[derive(Clone, Debug, PartialEq, Eq, Error)]
#[non_exhaustive]
pub enum MemoError {
    /// The ephemeral key is no point of the curve.
    #[error("the memo's ephemeral key is not valid: {0}")]
    Ephemeral(#[source] PointError),
    /// The decrypted words are no note: a range or the padding is wrong. The memo is for another key.
    #[error("the memo does not open with this key ({word} is out of range)")]
    Malformed {
        /// Which part does not parse.
        word: &'static str,
    },
    /// The words parse, but the note they describe has another commitment.
    #[error("the memo describes a note with another commitment")]
    CommitmentMismatch,
    /// The payer's memo is not authentic under this memo key.
    #[error("the payer's memo is not authentic under this key")]
    NotAuthentic,
    /// The payer's memo is authentic but its content is no stream (an incompatible or damaged writer).
    #[error("the payer's memo opens but holds no stream: {0}")]
    PayerContent(&'static str),
    /// A payer's memo has not exactly 128 bytes.
    #[error("a payer's memo has 128 bytes, this one {found}")]
    Length {
        /// Bytes that were found.
        found: usize,
    },
}

impl ErrorCode for MemoError {
    fn code(&self) -> &'static str {
        match self {
            Self::Ephemeral(_) => "TRB-1311",
            Self::Malformed { .. } => "TRB-1312",
            Self::CommitmentMismatch => "TRB-1313",
            Self::NotAuthentic => "TRB-1314",
            Self::PayerContent(_) => "TRB-1315",
            Self::Length { .. } => "TRB-1316",
        }
    }
}

/// A tree operation asked for something that is not there.
#[derive(Clone, Debug, PartialEq, Eq, Error)]
#[non_exhaustive]
pub enum TreeError {
    /// All 2^32 places are taken.
    #[error("the tree is full: {len} leaves, {adding} more do not fit 2^32")]
    Full {
        /// Leaves in the tree.
        len: u64,
        /// Leaves that were to be added.
        adding: u64,
    },
    /// The size asked for is larger than the tree.
    #[error("the tree has {len} leaves, a state of {size} leaves was asked for; sync first")]
    SizeBeyondEnd {
        /// Leaves in the tree.
        len: u64,
        /// The size asked for.
        size: u64,
    },
    /// There is no such leaf at that size.
    #[error("no leaf {index} in a tree of {size} leaves; sync first")]
    NoSuchLeaf {
        /// The index asked for.
        index: u64,
        /// Leaves at the size asked about.
        size: u64,
    },
    /// An insertion is empty or crosses the end of its batch of 64.
    #[error(
        "an insertion from leaf {from} to place {m} of its batch is empty or crosses the batch's end; m must be in {min}..=64"
    )]
    BadBatch {
        /// Leaves inserted so far.
        from: u64,
        /// Leaves of the batch after the insertion.
        m: u64,
        /// Smallest m that would do.
        min: u64,
    },
}

impl ErrorCode for TreeError {
    fn code(&self) -> &'static str {
        match self {
            Self::Full { .. } => "TRB-1401",
            Self::SizeBeyondEnd { .. } => "TRB-1402",
            Self::NoSuchLeaf { .. } => "TRB-1403",
            Self::BadBatch { .. } => "TRB-1404",
        }
    }
}

/// A stopped list cannot be built or queried so.
#[derive(Clone, Debug, PartialEq, Eq, Error)]
#[non_exhaustive]
pub enum ListError {
    /// Entries are not in ascending order of (stop, tag).
    #[error("stop entries must ascend by (stop, tag); one with stop {stop} came after one with stop {previous}")]
    OutOfOrder {
        /// Stop time of the entry that came too late.
        stop: u64,
        /// Stop time of the entry before it.
        previous: u64,
    },
    /// The tag is in the list (or collides with a sentinel): no proof of absence exists.
    #[error("the stream is in the stopped list at position {position}; no ticket can be made for this slot")]
    Present {
        /// Position of the tag's value in the list.
        position: u32,
    },
    /// The list holds 2^32 values.
    #[error("the stopped list is full")]
    Full,
    /// The tag's value is a sentinel (0 or 2^248 - 1), so it can never be proved absent. One random tag in 2^247 has
    /// this.
    #[error("the tag's low 248 bits equal a sentinel of the list")]
    Sentinel,
}

impl ErrorCode for ListError {
    fn code(&self) -> &'static str {
        match self {
            Self::OutOfOrder { .. } => "TRB-1411",
            Self::Present { .. } => "TRB-1412",
            Self::Full => "TRB-1413",
            Self::Sentinel => "TRB-1414",
        }
    }
}

/// A time does not fit the pool's clock.
#[derive(Clone, Debug, PartialEq, Eq, Error)]
#[non_exhaustive]
pub enum SlotError {
    /// The pool's parameters violate `NOTICE >= 2L + margin` or L is 0.
    #[error(
        "the pool's clock has slot length {slot_length} s, notice {notice} s, margin {margin} s; notice must be at least 2 * slot length + margin and slot length at least 1"
    )]
    BadClock {
        /// Slot length in seconds.
        slot_length: u64,
        /// Notice in seconds.
        notice: u64,
        /// Margin in seconds.
        margin: u64,
    },
    /// A time is not a multiple of the slot length.
    #[error("time {time} is not a multiple of the slot length {slot_length} s")]
    NotOnBoundary {
        /// The time, unix seconds.
        time: u64,
        /// Slot length in seconds.
        slot_length: u64,
    },
    /// Two times do not span exactly one slot.
    #[error("{start}..{end} is not one slot of {slot_length} s")]
    NotOneSlot {
        /// Start, unix seconds.
        start: u64,
        /// End, unix seconds.
        end: u64,
        /// Slot length in seconds.
        slot_length: u64,
    },
    /// A time calculation leaves the range of 40 bits.
    #[error(transparent)]
    Range(#[from] RangeError),
    /// The stream covers no full slot.
    #[error("the stream covers no full past slot, so nothing can be rated yet")]
    NoFullSlot,
    /// An open must reach the chain sooner.
    #[error("the deadline {deadline} is later than {latest}, the latest that an open may have")]
    DeadlineTooLate {
        /// Deadline of the open, unix seconds.
        deadline: u64,
        /// Latest deadline allowed, unix seconds.
        latest: u64,
    },
}

impl ErrorCode for SlotError {
    fn code(&self) -> &'static str {
        match self {
            Self::BadClock { .. } => "TRB-1501",
            Self::NotOnBoundary { .. } => "TRB-1502",
            Self::NotOneSlot { .. } => "TRB-1503",
            Self::Range(_) => "TRB-1504",
            Self::NoFullSlot => "TRB-1505",
            Self::DeadlineTooLate { .. } => "TRB-1506",
        }
    }
}

/// A ticket's or rating's public inputs fail one of the cheap checks that come before the proof.
#[derive(Clone, Debug, PartialEq, Eq, Error)]
#[non_exhaustive]
pub enum TicketError {
    /// `count` is not in 1..=4.
    #[error("count {found} is not in 1..=4")]
    Count {
        /// The count that was found.
        found: u64,
    },
    /// An unused nullifier is not 0.
    #[error("nullifier {position} is unused and must be 0")]
    UnusedNullifier {
        /// 1-based position.
        position: usize,
    },
    /// A used nullifier is 0.
    #[error("nullifier {position} is used and must not be 0")]
    ZeroNullifier {
        /// 1-based position.
        position: usize,
    },
    /// One proof holds the same nullifier twice.
    #[error("nullifiers {first} and {second} are equal")]
    RepeatedNullifier {
        /// 1-based position of the first.
        first: usize,
        /// 1-based position of the second.
        second: usize,
    },
    /// The slot is not one of the pool's clock.
    #[error("slot: {0}")]
    Slot(#[from] SlotError),
    /// The ticket pays another payee.
    #[error("the ticket pays payee {found}, expected {expected}")]
    WrongPayee {
        /// Payee of the ticket.
        found: String,
        /// Payee expected.
        expected: String,
    },
    /// The ticket is for another price.
    #[error("the ticket pays {found} a unit, the offer's price is {expected}")]
    WrongPrice {
        /// Price of the ticket.
        found: u128,
        /// Price expected.
        expected: u128,
    },
    /// The ticket proves less than the offer's minimum.
    #[error("the ticket proves {found} streamed, the offer asks for {expected}")]
    WrongMinStreamed {
        /// Minimum of the ticket.
        found: u128,
        /// Minimum expected.
        expected: u128,
    },
    /// The stopped list is not the slot's.
    #[error("the stopped list's root is not that of the slot; sync and prove again")]
    WrongStoppedRoot,
    /// The message is not this key's, provider's and slot's.
    #[error("the message does not bind this key, provider and slot")]
    WrongMessage,
    /// A rating was sent where a ticket is wanted, or the other way round.
    #[error("price {price}: a rating has price 0 and count 1, a ticket a price above 0")]
    WrongPurpose {
        /// Price of the ticket.
        price: u128,
    },
    /// A rating's slot is not yet over.
    #[error("the rating's slot ends at {slot_end}, it is {now} now")]
    FutureRating {
        /// End of the slot, unix seconds.
        slot_end: u64,
        /// The verifier's time, unix seconds.
        now: u64,
    },
    /// A rating's minimum is none of the published steps.
    #[error("a rating proves {found} streamed; the steps are the powers of two")]
    NoTier {
        /// Minimum of the rating.
        found: u128,
    },
}

impl ErrorCode for TicketError {
    fn code(&self) -> &'static str {
        match self {
            Self::Count { .. } => "TRB-1601",
            Self::UnusedNullifier { .. } => "TRB-1602",
            Self::ZeroNullifier { .. } => "TRB-1603",
            Self::RepeatedNullifier { .. } => "TRB-1604",
            Self::Slot(_) => "TRB-1605",
            Self::WrongPayee { .. } => "TRB-1606",
            Self::WrongPrice { .. } => "TRB-1607",
            Self::WrongMinStreamed { .. } => "TRB-1608",
            Self::WrongStoppedRoot => "TRB-1609",
            Self::WrongMessage => "TRB-1610",
            Self::WrongPurpose { .. } => "TRB-1611",
            Self::FutureRating { .. } => "TRB-1612",
            Self::NoTier { .. } => "TRB-1613",
        }
    }
}

/// A witness that no circuit would accept, found before any proving time is spent.
#[derive(Clone, Debug, PartialEq, Eq, Error)]
#[non_exhaustive]
pub enum WitnessError {
    /// What goes in is not what goes out.
    #[error("inputs sum to {inputs}, outputs to {outputs} base units; they must be equal")]
    NotConserved {
        /// Sum of notes, refund and deposit that go in.
        inputs: U256,
        /// Sum of notes and withdrawal that go out.
        outputs: U256,
    },
    /// A note is not a leaf under the root.
    #[error("the path of {what} leads to another root; sync and build again")]
    NotInTree {
        /// Which note.
        what: &'static str,
    },
    /// Output 1 must be a value note.
    #[error("output 1 must be a value note; a stream goes to output 0")]
    StreamInSecondOutput,
    /// A quantity is out of range.
    #[error(transparent)]
    Range(#[from] RangeError),
    /// Stream terms are not valid.
    #[error(transparent)]
    Note(#[from] NoteError),
    /// The two inputs are one note (or one dummy twice).
    #[error("both inputs have the same nullifier; spend two different notes, or one and a dummy")]
    RepeatedNullifier,
    /// The account does not own the note.
    #[error("{what} does not belong to this account")]
    NotOwned {
        /// Which note.
        what: &'static str,
    },
    /// The payer secret is not the stream's.
    #[error("the payer secret does not belong to this stream")]
    WrongPayerSecret,
    /// More claims than lanes, or none.
    #[error("a claim takes 1..=16 streams, got {found}")]
    LaneCount {
        /// Lanes that were asked for.
        found: usize,
    },
    /// A lane's window is empty.
    #[error("lane {lane} claims {t0}..{t1}; t1 must be later than t0")]
    EmptyWindow {
        /// 0-based lane.
        lane: usize,
        /// Claimed until, unix seconds.
        t0: u64,
        /// Claimed up to, unix seconds.
        t1: u64,
    },
    /// One stream appears twice with windows that do not follow on each other.
    #[error("lanes {first} and {second} are the same stream but the second window does not begin where the first ends")]
    RepeatedStream {
        /// 0-based lane of the first.
        first: usize,
        /// 0-based lane of the second.
        second: usize,
    },
    /// `burn_bps` exceeds 10000.
    #[error("burn_bps {found} exceeds 10000")]
    BurnTooLarge {
        /// The value.
        found: u32,
    },
    /// The transaction pays nobody or the wrong one.
    #[error("external data: {reason}")]
    External {
        /// What is wrong.
        reason: &'static str,
    },
    /// A tree or batch does not fit.
    #[error(transparent)]
    Tree(#[from] TreeError),
    /// The batch's leaves do not lead from the old root to the new one.
    #[error("the batch's leaves do not lead to the {which} root")]
    WrongRoot {
        /// Old or new.
        which: &'static str,
    },
    /// The stream does not cover the slot.
    #[error("the stream {start}..{end} does not cover the slot {slot_start}..{slot_end}")]
    SlotNotCovered {
        /// Stream start, unix seconds.
        start: u64,
        /// Stream end, unix seconds.
        end: u64,
        /// Slot start, unix seconds.
        slot_start: u64,
        /// Slot end, unix seconds.
        slot_end: u64,
    },
    /// The slot's money is spent: `(j + count) * price > rate * (slot_end - slot_start)`.
    #[error("{needed} base units of tickets would be spent, the slot holds {available}; wait for the next slot")]
    SlotOverspent {
        /// `(j + count) * price`.
        needed: U256,
        /// `rate * (slot_end - slot_start)`.
        available: U256,
    },
    /// The stream has not streamed enough yet.
    #[error("{streamed} base units streamed by the slot's end, the offer asks for {needed}")]
    StreamedTooLittle {
        /// `rate * (slot_end - start)`.
        streamed: U256,
        /// The minimum.
        needed: U256,
    },
    /// A ticket's public part is wrong.
    #[error(transparent)]
    Ticket(#[from] TicketError),
    /// A rating must have j = 0.
    #[error("a rating has j = 0, this one {found}")]
    RatingIndex {
        /// The value of j.
        found: u32,
    },
    /// The stream's tag is not shown to be absent from the list.
    #[error("the absence proof does not show that the stream is missing from the stopped list")]
    NotAbsent,
    /// The stopped list has no absence proof for the stream: it has stopped.
    #[error(transparent)]
    List(#[from] ListError),
}

impl ErrorCode for WitnessError {
    fn code(&self) -> &'static str {
        match self {
            Self::NotConserved { .. } => "TRB-1701",
            Self::NotInTree { .. } => "TRB-1702",
            Self::StreamInSecondOutput => "TRB-1703",
            Self::Range(_) => "TRB-1704",
            Self::Note(_) => "TRB-1705",
            Self::RepeatedNullifier => "TRB-1706",
            Self::NotOwned { .. } => "TRB-1707",
            Self::WrongPayerSecret => "TRB-1708",
            Self::LaneCount { .. } => "TRB-1709",
            Self::EmptyWindow { .. } => "TRB-1710",
            Self::RepeatedStream { .. } => "TRB-1711",
            Self::BurnTooLarge { .. } => "TRB-1712",
            Self::External { .. } => "TRB-1713",
            Self::Tree(_) => "TRB-1714",
            Self::WrongRoot { .. } => "TRB-1715",
            Self::SlotNotCovered { .. } => "TRB-1716",
            Self::SlotOverspent { .. } => "TRB-1717",
            Self::StreamedTooLittle { .. } => "TRB-1718",
            Self::Ticket(_) => "TRB-1719",
            Self::RatingIndex { .. } => "TRB-1720",
            Self::NotAbsent => "TRB-1721",
            Self::List(_) => "TRB-1722",
        }
    }
}
