use ark_ff::Zero;

use super::{CircuitInputs, Witness, begin};
use crate::{
    error::{TreeError, WitnessError},
    field::{Fr, Root},
    note::Commitment,
    poseidon::node,
    statement::{Circuit, InsertStatement, Statement},
    tree::{BATCH_HEIGHT, BATCH_LEAVES, BATCH_PATH, CAPACITY, Insertion, empty_roots},
};

/// Witness of an insertion. Nothing in it is secret.
#[derive(Clone, Debug)]
pub struct InsertWitness(pub Insertion);

impl InsertWitness {
    /// Root of the batch's subtree with its first `len` leaves.
    fn subtree(&self, len: u8) -> Fr {
        let empty = empty_roots()[0];
        let taken = self.0.leaves.iter().take(len.into()).copied().map(Commitment::to_fr);
        let mut row: Vec<Fr> = taken.chain(std::iter::repeat(empty)).take(BATCH_LEAVES).collect();
        for _ in 0..BATCH_HEIGHT {
            row = row.as_chunks().0.iter().map(node).collect();
        }
        row[0]
    }

    fn root(&self, len: u8) -> Root {
        self.0.path.root(self.subtree(len), self.0.batch_index)
    }
}

impl Witness for InsertWitness {
    const CIRCUIT: Circuit = Circuit::Insert;
    type Statement = InsertStatement;

    fn statement(&self) -> InsertStatement {
        InsertStatement {
            old_root: self.0.old_root,
            new_root: self.0.new_root,
            batch_index: self.0.batch_index,
            k: self.0.k,
            m: self.0.m,
            leaves: self.0.leaves.clone(),
        }
    }

    fn validate(&self) -> Result<(), WitnessError> {
        let Insertion { k, m, batch_index, ref leaves, .. } = self.0;
        let from = u64::from(batch_index) * BATCH_LEAVES as u64 + u64::from(k);
        if k >= m || usize::from(m) > BATCH_LEAVES || leaves.len() != usize::from(m) {
            let min = u64::from(k) + 1;
            return Err(TreeError::BadBatch { from, m: m.into(), min }.into());
        }
        if from >= CAPACITY {
            return Err(TreeError::Full { len: from, adding: u64::from(m - k) }.into());
        }
        if self.root(k) != self.0.old_root {
            return Err(WitnessError::WrongRoot { which: "old" });
        }
        if self.root(m) != self.0.new_root {
            return Err(WitnessError::WrongRoot { which: "new" });
        }
        Ok(())
    }

    fn public_inputs(statement: &InsertStatement) -> Vec<Fr> {
        Statement::public_inputs(statement).to_vec()
    }

    fn inputs_for(&self, statement: &InsertStatement) -> CircuitInputs {
        let mut inputs = begin(statement);
        inputs.scalar("oldRoot", statement.old_root);
        inputs.scalar("newRoot", statement.new_root);
        inputs.scalar("batchIndex", statement.batch_index);
        inputs.scalar("k", statement.k);
        inputs.scalar("m", statement.m);
        let mut leaves: Vec<Fr> = statement.leaves.iter().copied().map(Commitment::to_fr).collect();
        leaves.resize(BATCH_LEAVES, Fr::zero());
        inputs.array("leaf", &[BATCH_LEAVES], leaves);
        inputs.array("path", &[BATCH_PATH, 3], self.0.path.flatten());
        inputs
    }
}
