//! Types and functions of the payment protocol: keys, notes, statements, memos, slots, stopped lists, tickets, and the
//! witnesses of the five circuits. No I/O, no clock, no global randomness: time and randomness are arguments.
//!
//! Normative sources are the book's specification and its page "Encodings"; `vectors/*.json`, which circom, Rust and Solidity all
//! check, are written from this crate. Read [`field`] and [`poseidon`] first, then [`note`], [`statement`], [`witness`].

pub mod amount;
pub mod babyjub;
pub mod error;
pub mod field;
pub mod keys;
pub mod memo;
pub mod note;
pub mod poseidon;
pub mod slot;
pub mod statement;
pub mod stopped;
pub mod ticket;
pub mod time;
pub mod tree;
pub mod witness;

pub use amount::{Amount, Price, Rate};
pub use error::{
    AddressError, ErrorCode, FieldError, KeyError, ListError, MemoError, NoteError, PointError, RangeError, SlotError,
    TicketError, TreeError, WitnessError,
};
pub use field::{FieldElement, Fr, Root};
pub use keys::{AccountKeys, Mnemonic, Owner, PaymentAddress, PoolId, PoolScope, Seed};
pub use memo::{PayerMemo, PayerMemoBytes, SealedMemo};
pub use note::{
    Commitment, Note, Nullifier, PayerSecret, PayerTag, RecordTag, Rho, StreamNote, StreamTerms, ValueNote,
};
pub use slot::{PoolClock, Slot};
pub use statement::{
    Circuit, ClaimStatement, CloseStatement, ExternalData, ExternalTerms, InsertStatement, Operation, Statement,
    TransactStatement,
};
pub use stopped::{AbsenceWitness, StopEntry, StopSchedule, StoppedList};
pub use ticket::{ProviderDigest, TicketMessage, TicketNullifier, TicketStatement};
pub use time::{Seconds, UnixTime};
pub use tree::{MerkleTree, Path};
pub use witness::CircuitInputs;
