use ark_ff::Zero;
use rand::{CryptoRng, RngCore};

use super::CircuitInputs;
use crate::{
    amount::{Amount, Rate},
    error::WitnessError,
    field::Fr,
    keys::{AccountKeys, PaymentAddress},
    memo::{EphemeralSecret, PayerMemo, PayerMemoBytes, SealedMemo},
    note::{Blinding, Note, Nullifier, PayerSecret, Rho, StreamNote, StreamTerms, ValueNote},
    statement::SealedOutput,
    time::UnixTime,
};

/// What a transaction should create.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Output {
    /// A value note.
    Value {
        /// Who gets it.
        to: PaymentAddress,
        /// How much; 0 for an output that is not needed.
        amount: Amount,
    },
    /// A stream. Output 0 only.
    Stream {
        /// Who is paid.
        payee: PaymentAddress,
        /// Base units a second.
        rate: Rate,
        /// First second that is paid.
        start: UnixTime,
        /// First second that is not paid any more.
        end: UnixTime,
    },
}

/// Where an output goes, and its randomness.
#[derive(Clone, Debug)]
pub struct OutputSecrets {
    /// Owner or payee.
    pub to: PaymentAddress,
    /// The amount; a stream's deposit.
    pub amount: Amount,
    /// r_j.
    pub blinding: Blinding,
    /// esk_j.
    pub ephemeral: EphemeralSecret,
}

/// A stream that a transaction opens.
#[derive(Clone, Debug)]
pub struct OpenedStream {
    /// Its terms.
    pub terms: StreamTerms,
    /// Its payer secret.
    pub secret: PayerSecret,
}

/// The two outputs of a transact or close.
#[derive(Clone, Debug)]
pub struct Outputs {
    /// Both outputs.
    pub secrets: [OutputSecrets; 2],
    /// Present when output 0 is a stream.
    pub stream: Option<OpenedStream>,
}

impl Outputs {
    /// Draws the randomness and derives the payer secret of the transaction with this first nullifier.
    pub(super) fn build(
        outputs: &[Output; 2],
        nf_0: Nullifier,
        keys: &AccountKeys,
        rng: &mut (impl RngCore + CryptoRng),
    ) -> Result<(Self, PayerMemoBytes), WitnessError> {
        let mut secrets = |to, amount| OutputSecrets {
            to,
            amount,
            blinding: Blinding::random(rng),
            ephemeral: EphemeralSecret::random(rng),
        };
        let Output::Value { to, amount } = outputs[1] else {
            return Err(WitnessError::StreamInSecondOutput);
        };
        let second = secrets(to, amount);
        let (first, stream) = match outputs[0] {
            Output::Value { to, amount } => (secrets(to, amount), None),
            Output::Stream { payee, rate, start, end } => {
                let terms = StreamTerms::new(payee.owner(), rate, start, end)?;
                let secret = PayerSecret::derive(&keys.payer, nf_0);
                (secrets(payee, terms.deposit()), Some(OpenedStream { terms, secret }))
            }
        };
        let memo = match &stream {
            Some(stream) => PayerMemo { terms: stream.terms, blinding: first.blinding }.encrypt(&keys.memo, rng),
            None => PayerMemoBytes::filler(rng),
        };
        Ok((Self { secrets: [first, second], stream }, memo))
    }

    /// The notes that the transaction with this first nullifier creates.
    #[must_use]
    pub fn notes(&self, nf_0: Nullifier) -> [Note; 2] {
        let value = |j: u8| {
            let output = &self.secrets[usize::from(j)];
            let rho = Rho::of_output(nf_0, j, &output.blinding);
            Note::Value(ValueNote { amount: output.amount, owner: output.to.owner(), rho })
        };
        let first = match &self.stream {
            Some(stream) => Note::Stream(StreamNote {
                terms: stream.terms,
                payer_tag: stream.secret.tag(),
                rho: Rho::of_output(nf_0, 0, &self.secrets[0].blinding),
            }),
            None => value(0),
        };
        [first, value(1)]
    }

    /// The notes as the chain sees them.
    #[must_use]
    pub fn sealed(&self, nf_0: Nullifier) -> [SealedOutput; 2] {
        let notes = self.notes(nf_0);
        [0_u8, 1].map(|j| {
            let (note, output) = (&notes[usize::from(j)], &self.secrets[usize::from(j)]);
            SealedOutput {
                commitment: note.commitment(),
                memo: SealedMemo::seal(note, &output.to.view(), j, &output.ephemeral),
            }
        })
    }

    /// Checks that a stream's payee and deposit are output 0's.
    pub(super) fn validate(&self) -> Result<(), WitnessError> {
        if let Some(stream) = &self.stream {
            if stream.terms.payee() != self.secrets[0].to.owner() {
                return Err(WitnessError::NotOwned { what: "the new stream" });
            }
            let (inputs, outputs) = (self.secrets[0].amount.to_u256(), stream.terms.deposit().to_u256());
            if inputs != outputs {
                return Err(WitnessError::NotConserved { inputs, outputs });
            }
        }
        Ok(())
    }

    /// `outIsStream .. outEsk`, then the stream's terms under the given names for rate, start, end and payer tag.
    pub(super) fn push(&self, names: [&'static str; 4], inputs: &mut CircuitInputs) {
        let both = |values: &dyn Fn(&OutputSecrets) -> Vec<Fr>| self.secrets.iter().flat_map(values).collect();
        inputs.scalar("outIsStream", self.stream.is_some());
        inputs.array("outPk", &[2], both(&|output| vec![output.to.spend().to_fr()]));
        inputs.array(
            "outV",
            &[2, 2],
            both(&|output| {
                let view = output.to.view();
                vec![view.point().x(), view.point().y()]
            }),
        );
        inputs.array("outAmount", &[2], both(&|output| vec![output.amount.to_fr()]));
        inputs.array("outR", &[2], both(&|output| vec![output.blinding.to_fr()]));
        inputs.array("outEsk", &[2], both(&|output| vec![output.ephemeral.to_fr()]));
        let terms = self.stream.as_ref().map_or([Fr::zero(); 4], |stream| {
            let terms = &stream.terms;
            [terms.rate().to_fr(), terms.start().to_fr(), terms.end().to_fr(), stream.secret.tag().to_fr()]
        });
        for (name, value) in names.into_iter().zip(terms) {
            inputs.scalar(name, value);
        }
    }
}
