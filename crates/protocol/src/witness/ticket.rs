use alloy_primitives::U256;

use super::{CircuitInputs, StreamInput, Witness};
use crate::{
    amount::{Amount, Price},
    error::{TicketError, WitnessError},
    field::{Fr, Root},
    slot::Slot,
    statement::Circuit,
    stopped::AbsenceWitness,
    ticket::{MAX_COUNT, TicketMessage, TicketNullifier, TicketStatement},
};

/// Witness of a ticket (price above 0) or a rating (price 0).
#[derive(Clone, Debug)]
pub struct TicketWitness {
    /// The stream that pays, under `root`.
    pub stream: StreamInput,
    /// A root that the pool knows, see [`PoolClock::root_cutoff`](crate::slot::PoolClock::root_cutoff).
    pub root: Root,
    /// Shows that the stream's tag is absent from the slot's list.
    pub absence: AbsenceWitness,
    /// Root of the slot's stopped list.
    pub stopped_root: Root,
    /// The slot.
    pub slot: Slot,
    /// The offer's price of one ticket; 0 for a rating.
    pub price: Price,
    /// The offer's minimum.
    pub min_streamed: Amount,
    /// Tickets of this slot that were used before, at this price.
    pub j: u32,
    /// Tickets in this proof, 1 to 4; a rating has 1.
    pub count: u8,
    /// What the proof is bound to.
    pub message: TicketMessage,
}

impl TicketWitness {
    /// How many tickets the slot's money is good for in all: `floor(rate * L / price)`; `None` for a rating.
    #[must_use]
    pub fn tickets_in_slot(&self) -> Option<U256> {
        self.slot_money().checked_div(self.price.to_u256())
    }

    fn slot_money(&self) -> U256 {
        self.stream.note.terms.rate().times(self.slot.end().since(self.slot.start()))
    }
}

impl Witness for TicketWitness {
    const CIRCUIT: Circuit = Circuit::Ticket;
    type Statement = TicketStatement;

    fn statement(&self) -> TicketStatement {
        let (secret, commitment) = (&self.stream.secret, self.stream.note.commitment());
        let mut nullifiers = [TicketNullifier::UNUSED; MAX_COUNT];
        if self.price.is_zero() {
            nullifiers[0] = TicketNullifier::of_rating(secret, commitment);
        } else {
            for (i, nullifier) in nullifiers.iter_mut().take(self.count.into()).enumerate() {
                let j = u64::from(self.j) + i as u64;
                *nullifier = TicketNullifier::derive(secret, commitment, self.slot.start(), j);
            }
        }
        TicketStatement {
            root: self.root,
            stopped_root: self.stopped_root,
            payee: self.stream.note.terms.payee(),
            price: self.price,
            slot_start: self.slot.start(),
            slot_end: self.slot.end(),
            count: self.count,
            min_streamed: self.min_streamed,
            message: self.message,
            nullifiers,
        }
    }

    fn validate(&self) -> Result<(), WitnessError> {
        let largest = if self.price.is_zero() { 1 } else { MAX_COUNT };
        if self.count == 0 || usize::from(self.count) > largest {
            return Err(TicketError::Count { found: self.count.into() }.into());
        }
        if self.price.is_zero() && self.j != 0 {
            return Err(WitnessError::RatingIndex { found: self.j });
        }
        self.stream.validate(self.root)?;
        if !self.absence.shows_absence(self.stream.record_tag(), self.stopped_root) {
            return Err(WitnessError::NotAbsent);
        }
        let terms = &self.stream.note.terms;
        if self.slot.start() < terms.start() || terms.end() < self.slot.end() {
            return Err(WitnessError::SlotNotCovered {
                start: terms.start().get(),
                end: terms.end().get(),
                slot_start: self.slot.start().get(),
                slot_end: self.slot.end().get(),
            });
        }
        let needed = (U256::from(self.j) + U256::from(self.count)) * self.price.to_u256();
        let available = self.slot_money();
        if needed > available {
            return Err(WitnessError::SlotOverspent { needed, available });
        }
        let streamed = terms.rate().times(self.slot.end().since(terms.start()));
        let needed = self.min_streamed.to_u256();
        if streamed < needed {
            return Err(WitnessError::StreamedTooLittle { streamed, needed });
        }
        Ok(())
    }

    fn public_inputs(statement: &TicketStatement) -> Vec<Fr> {
        statement.public_inputs().to_vec()
    }

    fn inputs_for(&self, statement: &TicketStatement) -> CircuitInputs {
        let mut inputs = CircuitInputs::default();
        let names =
            ["root", "stoppedRoot", "payee", "price", "slotStart", "slotEnd", "count", "minStreamed", "message"];
        let public = statement.public_inputs();
        for (name, value) in names.into_iter().zip(public) {
            inputs.scalar(name, value);
        }
        inputs.array("nf", &[MAX_COUNT], public[names.len()..].to_vec());
        self.stream.push(&mut inputs);
        inputs.scalar("low", self.absence.low);
        inputs.scalar("next", self.absence.next);
        inputs.scalar("listIndex", self.absence.index);
        inputs.array("listPath", &[16, 3], self.absence.path.flatten());
        inputs.scalar("j", self.j);
        inputs
    }
}
