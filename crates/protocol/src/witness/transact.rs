use rand::{CryptoRng, RngCore};

use super::{CircuitInputs, ExternalAmounts, Output, Outputs, ValueInput, Witness, begin, check_external};
use crate::{
    amount::Amount,
    error::WitnessError,
    field::{Fr, Root},
    keys::{AccountKeys, PoolId},
    note::{Note, Nullifier},
    statement::{Circuit, ExternalData, ExternalTerms, Operation, Statement, TransactStatement},
};

/// A deposit, transfer, merge, withdrawal or open, as the wallet wants it.
#[derive(Clone, Debug)]
pub struct TransactRequest {
    /// The root under which the inputs are.
    pub root: Root,
    /// Notes or dummies; the first one's nullifier seeds the outputs.
    pub inputs: [ValueInput; 2],
    /// Tokens paid into the pool.
    pub amount_in: Amount,
    /// Tokens paid out of the pool, the relayer's fee included.
    pub amount_out: Amount,
    /// What to create.
    pub outputs: [Output; 2],
    /// What happens outside the pool.
    pub external: ExternalTerms,
}

impl TransactRequest {
    /// Draws fresh randomness, derives the payer secret and writes the payer's memo under `keys`.
    ///
    /// # Errors
    /// [`WitnessError::StreamInSecondOutput`] or [`WitnessError::Note`].
    pub fn build(
        &self,
        keys: &AccountKeys,
        rng: &mut (impl RngCore + CryptoRng),
    ) -> Result<TransactWitness, WitnessError> {
        let (outputs, memo) = Outputs::build(&self.outputs, self.inputs[0].nullifier(), keys, rng)?;
        Ok(TransactWitness {
            pool: keys.scope.pool,
            root: self.root,
            inputs: self.inputs.clone(),
            amount_in: self.amount_in,
            amount_out: self.amount_out,
            outputs,
            external: ExternalData { terms: self.external, memo: Some(memo) },
        })
    }
}

/// Witness of a transact.
#[derive(Clone, Debug)]
pub struct TransactWitness {
    /// The pool.
    pub pool: PoolId,
    /// The root under which the inputs are.
    pub root: Root,
    /// Notes or dummies.
    pub inputs: [ValueInput; 2],
    /// Tokens paid into the pool.
    pub amount_in: Amount,
    /// Tokens paid out of the pool, the relayer's fee included.
    pub amount_out: Amount,
    /// The new notes with their randomness.
    pub outputs: Outputs,
    /// What happens outside the pool.
    pub external: ExternalData,
}

impl TransactWitness {
    /// Both nullifiers.
    #[must_use]
    pub fn nullifiers(&self) -> [Nullifier; 2] {
        [self.inputs[0].nullifier(), self.inputs[1].nullifier()]
    }

    /// The new notes.
    #[must_use]
    pub fn notes(&self) -> [Note; 2] {
        self.outputs.notes(self.inputs[0].nullifier())
    }
}

impl Witness for TransactWitness {
    const CIRCUIT: Circuit = Circuit::Transact;
    type Statement = TransactStatement;

    fn statement(&self) -> TransactStatement {
        let nullifiers = self.nullifiers();
        TransactStatement {
            root: self.root,
            ext: self.external.hash(&self.pool, Operation::Transact),
            amount_in: self.amount_in,
            amount_out: self.amount_out,
            nullifiers,
            outputs: self.outputs.sealed(nullifiers[0]),
        }
    }

    fn validate(&self) -> Result<(), WitnessError> {
        let amounts = ExternalAmounts {
            paid_in: self.amount_in,
            paid_out: self.amount_out,
            creates: self.outputs.secrets.iter().any(|output| !output.amount.is_zero()),
        };
        check_external(&self.external, &self.pool, Operation::Transact, &amounts)?;
        self.inputs.iter().try_for_each(|input| input.validate(self.root))?;
        let [first, second] = self.nullifiers();
        if first == second {
            return Err(WitnessError::RepeatedNullifier);
        }
        self.outputs.validate()?;
        let sum = |amounts: [Amount; 3]| amounts.into_iter().map(Amount::to_u256).sum();
        let inputs = sum([self.inputs[0].amount, self.inputs[1].amount, self.amount_in]);
        let outputs = sum([self.outputs.secrets[0].amount, self.outputs.secrets[1].amount, self.amount_out]);
        if inputs == outputs { Ok(()) } else { Err(WitnessError::NotConserved { inputs, outputs }) }
    }

    fn public_inputs(statement: &TransactStatement) -> Vec<Fr> {
        Statement::public_inputs(statement).to_vec()
    }

    fn inputs_for(&self, statement: &TransactStatement) -> CircuitInputs {
        let mut inputs = begin(statement);
        inputs.scalar("root", statement.root);
        inputs.scalar("ext", statement.ext);
        inputs.scalar("amountIn", statement.amount_in.to_fr());
        inputs.scalar("amountOut", statement.amount_out.to_fr());
        ValueInput::push(&[&self.inputs[0], &self.inputs[1]], &mut inputs);
        self.outputs.push(["rate", "start", "end", "payerTag"], &mut inputs);
        inputs
    }
}
