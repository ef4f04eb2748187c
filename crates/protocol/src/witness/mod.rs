//! Witnesses of the five circuits: from domain types to the inputs of a witness program.
//!
//! A *request* says what a transaction should do; building it draws the randomness and derives what follows from it.
//! A *witness* holds every secret, computes the statement natively and is checked natively ([`Witness::validate`]),
//! so that a mistake costs a typed error instead of proving time. [`Witness::inputs_unchecked`] skips the checks, for
//! tests of the circuits' own refusals.

mod claim;
mod close;
mod input;
mod inputs;
mod insert;
mod output;
mod ticket;
mod transact;

use alloy_primitives::Address;
use ark_ff::Zero;

pub use self::{
    claim::{ClaimLane, ClaimRequest, ClaimTotals, ClaimWitness},
    close::{CloseRequest, CloseWitness},
    input::{Dummy, StreamInput, ValueInput},
    inputs::CircuitInputs,
    insert::InsertWitness,
    output::{OpenedStream, Output, OutputSecrets, Outputs},
    ticket::TicketWitness,
    transact::{TransactRequest, TransactWitness},
};
use crate::{
    amount::Amount,
    error::WitnessError,
    field::Fr,
    keys::PoolId,
    statement::{Circuit, ExternalData, Operation, Statement},
};

/// Everything private and public that one proof is made from.
pub trait Witness {
    /// The circuit.
    const CIRCUIT: Circuit;
    /// What the proof states.
    type Statement;

    /// The statement that these secrets make, computed natively.
    fn statement(&self) -> Self::Statement;

    /// Checks what the circuit and the contract will check.
    ///
    /// # Errors
    /// [`WitnessError`], the first violation.
    fn validate(&self) -> Result<(), WitnessError>;

    /// The public inputs of the proof, in the verifying key's order.
    fn public_inputs(statement: &Self::Statement) -> Vec<Fr>;

    /// The witness program's inputs for the statement of this witness, unchecked.
    fn inputs_for(&self, statement: &Self::Statement) -> CircuitInputs;

    /// The witness program's inputs without any check. For tests of a circuit's refusals; everybody else uses
    /// [`Witness::prepare`].
    fn inputs_unchecked(&self) -> CircuitInputs {
        self.inputs_for(&self.statement())
    }

    /// Checks the witness and computes all that a prover needs.
    ///
    /// # Errors
    /// [`WitnessError`], the first violation.
    fn prepare(&self) -> Result<Prepared<Self::Statement>, WitnessError> {
        self.validate()?;
        let statement = self.statement();
        Ok(Prepared {
            circuit: Self::CIRCUIT,
            public_inputs: Self::public_inputs(&statement),
            inputs: self.inputs_for(&statement),
            statement,
        })
    }
}

/// A checked witness in the form that a prover takes.
#[derive(Clone, Debug)]
pub struct Prepared<S> {
    /// The circuit to prove.
    pub circuit: Circuit,
    /// The statement to publish with the proof.
    pub statement: S,
    /// The proof's public inputs.
    pub public_inputs: Vec<Fr>,
    /// The witness program's inputs; secret.
    pub inputs: CircuitInputs,
}

/// Starts an input map with `digest, alpha, value`.
fn begin(statement: &impl Statement) -> CircuitInputs {
    let [digest, alpha, value] = statement.public_inputs();
    let mut inputs = CircuitInputs::default();
    inputs.scalar("digest", digest);
    inputs.scalar("alpha", alpha);
    inputs.scalar("value", value);
    inputs
}

/// The contract's rules for external data (protocol section 5), and the wallet's that outputs which may be dropped
/// hold nothing.
fn check_external(
    external: &ExternalData,
    pool: &PoolId,
    operation: Operation,
    amounts: &ExternalAmounts,
) -> Result<(), WitnessError> {
    let terms = &external.terms;
    let refuse = |reason| Err(WitnessError::External { reason });
    let payable = |address: &Address| !address.is_zero() && *address != pool.address;
    if terms.fee > amounts.paid_out {
        return refuse("the fee exceeds what is paid out");
    }
    if terms.fee != amounts.paid_out && !payable(&terms.recipient) {
        return refuse("something is paid out, but the recipient is zero or the pool itself");
    }
    if !terms.fee.is_zero() && !payable(&terms.relayer) {
        return refuse("there is a fee, but the relayer is zero or the pool itself");
    }
    if external.memo.is_some() == (operation == Operation::Claim) {
        return refuse("transact and close carry a payer's memo of 128 bytes, a claim none");
    }
    let drops = amounts.paid_in.is_zero() && !amounts.paid_out.is_zero() && !amounts.creates;
    if terms.may_drop_outputs && !drops {
        return refuse("outputs may be dropped only by a withdrawal that leaves nothing in them");
    }
    Ok(())
}

/// What a transaction moves, as far as its external data must agree with it.
struct ExternalAmounts {
    paid_in: Amount,
    paid_out: Amount,
    /// Whether a new note holds anything.
    creates: bool,
}

fn zeros(n: usize) -> Vec<Fr> {
    vec![Fr::zero(); n]
}
