//! Types and functions of the payment protocol: keys, notes, statements, memos, slots, stopped lists, tickets, and the
//! witnesses of the five circuits. No I/O, no clock, no global randomness: time and randomness are arguments.
//!
//! Normative sources are the book's specification and its page "Encodings"; `vectors/*.json`, which circom, Rust and
//! Solidity all check, are written from this crate. Read [`field`] and [`poseidon`] first, then [`note`],
//! [`statement`], [`witness`].
//!
//! ```
//! # use alloy_primitives::Address;
//! # use tributary_protocol::{witness::*, *};
//! // Alice deposits 5 tokens and may prove it: two dummies in, one note and one empty note out.
//! # fn main() -> Result<(), Box<dyn std::error::Error>> {
//! let mut rng = rand::thread_rng();
//! let pool = PoolId { chain_id: 31_337, address: Address::repeat_byte(1) };
//! let alice = Mnemonic::generate(&mut rng).seed("").account(PoolScope { pool, account: 0 })?;
//! let amount = Amount::new(5_000_000)?;
//! let dummies = [Dummy::random(&mut rng), Dummy::random(&mut rng)]; // stored with the pending transaction
//! let request = TransactRequest {
//!     root: MerkleTree::new().root(),
//!     inputs: [ValueInput::dummy(&dummies[0]), ValueInput::dummy(&dummies[1])],
//!     amount_in: amount,
//!     amount_out: Amount::ZERO,
//!     outputs: [
//!         Output::Value { to: alice.address(), amount },
//!         Output::Value { to: alice.address(), amount: Amount::ZERO },
//!     ],
//!     external: ExternalTerms {
//!         recipient: Address::ZERO,
//!         relayer: Address::ZERO,
//!         fee: Amount::ZERO,
//!         deadline: UnixTime::new(1_700_000_000)?,
//!         may_drop_outputs: false,
//!     },
//! };
//! let prepared = request.build(&alice, &mut rng)?.prepare()?; // `prepared.inputs` go to the prover
//! let [output, _] = prepared.statement.outputs;
//! let note = output.memo.open(&alice.view, alice.owner(), 0, output.commitment)?;
//! assert_eq!(note.amount(), amount);
//! # Ok(())
//! # }
//! ```

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
