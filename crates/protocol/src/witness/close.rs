use rand::{CryptoRng, RngCore};

use super::{CircuitInputs, ExternalAmounts, Output, Outputs, StreamInput, ValueInput, Witness, begin, check_external};
use crate::{
    amount::Amount,
    error::WitnessError,
    field::{Fr, Root},
    keys::{AccountKeys, PoolId},
    note::Note,
    statement::{Circuit, CloseStatement, ExternalData, ExternalTerms, Operation, Statement},
    time::UnixTime,
};

/// A close, or a close-and-reopen, as the wallet wants it.
#[derive(Clone, Debug)]
pub struct CloseRequest {
    /// The root under which stream and note are.
    pub root: Root,
    /// The stream to stop.
    pub stream: StreamInput,
    /// When it stops: a multiple of the slot length, see [`PoolClock::stop_times`](crate::slot::PoolClock::stop_times).
    pub stop: UnixTime,
    /// A note or a dummy; its nullifier seeds the outputs.
    pub input: ValueInput,
    /// Tokens paid out of the pool, the relayer's fee included.
    pub amount_out: Amount,
    /// What to create.
    pub outputs: [Output; 2],
    /// What happens outside the pool.
    pub external: ExternalTerms,
}

impl CloseRequest {
    /// Draws fresh randomness, derives the payer secret of a reopened stream and writes the payer's memo under `keys`.
    ///
    /// # Errors
    /// [`WitnessError::StreamInSecondOutput`] or [`WitnessError::Note`].
    pub fn build(
        &self,
        keys: &AccountKeys,
        rng: &mut (impl RngCore + CryptoRng),
    ) -> Result<CloseWitness, WitnessError> {
        let (outputs, memo) = Outputs::build(&self.outputs, self.input.nullifier(), keys, rng)?;
        Ok(CloseWitness {
            pool: keys.scope.pool,
            root: self.root,
            stream: self.stream.clone(),
            stop: self.stop,
            input: self.input.clone(),
            amount_out: self.amount_out,
            outputs,
            external: ExternalData { terms: self.external, memo: Some(memo) },
        })
    }
}

/// Witness of a close.
#[derive(Clone, Debug)]
pub struct CloseWitness {
    /// The pool.
    pub pool: PoolId,
    /// The root under which stream and note are.
    pub root: Root,
    /// The stream that stops.
    pub stream: StreamInput,
    /// When it stops.
    pub stop: UnixTime,
    /// A note or a dummy.
    pub input: ValueInput,
    /// Tokens paid out of the pool, the relayer's fee included.
    pub amount_out: Amount,
    /// The new notes with their randomness.
    pub outputs: Outputs,
    /// What happens outside the pool.
    pub external: ExternalData,
}

impl CloseWitness {
    /// What the stream gives back.
    #[must_use]
    pub fn refund(&self) -> Amount {
        self.stream.note.terms.refund(self.stop)
    }

    /// The new notes.
    #[must_use]
    pub fn notes(&self) -> [Note; 2] {
        self.outputs.notes(self.input.nullifier())
    }
}

impl Witness for CloseWitness {
    const CIRCUIT: Circuit = Circuit::Close;
    type Statement = CloseStatement;

    fn statement(&self) -> CloseStatement {
        let nullifier = self.input.nullifier();
        CloseStatement {
            root: self.root,
            ext: self.external.hash(&self.pool, Operation::Close),
            tag: self.stream.record_tag(),
            stop: self.stop,
            amount_out: self.amount_out,
            nullifier,
            outputs: self.outputs.sealed(nullifier),
        }
    }

    fn validate(&self) -> Result<(), WitnessError> {
        let amounts = ExternalAmounts {
            paid_in: Amount::ZERO,
            paid_out: self.amount_out,
            creates: self.outputs.secrets.iter().any(|output| !output.amount.is_zero()),
        };
        check_external(&self.external, &self.pool, Operation::Close, &amounts)?;
        self.stream.validate(self.root)?;
        self.input.validate(self.root)?;
        self.outputs.validate()?;
        let inputs = self.refund().to_u256() + self.input.amount.to_u256();
        let [first, second] = [0, 1].map(|j: usize| self.outputs.secrets[j].amount.to_u256());
        let outputs = first + second + self.amount_out.to_u256();
        if inputs == outputs { Ok(()) } else { Err(WitnessError::NotConserved { inputs, outputs }) }
    }

    fn public_inputs(statement: &CloseStatement) -> Vec<Fr> {
        Statement::public_inputs(statement).to_vec()
    }

    fn inputs_for(&self, statement: &CloseStatement) -> CircuitInputs {
        let mut inputs = begin(statement);
        inputs.scalar("root", statement.root);
        inputs.scalar("ext", statement.ext);
        inputs.scalar("stop", statement.stop.to_fr());
        inputs.scalar("amountOut", statement.amount_out.to_fr());
        inputs.scalar("payee", self.stream.note.terms.payee());
        self.stream.push(&mut inputs);
        ValueInput::push(&[&self.input], &mut inputs);
        self.outputs.push(["outRate", "outStart", "outEnd", "outPayerTag"], &mut inputs);
        inputs
    }
}
