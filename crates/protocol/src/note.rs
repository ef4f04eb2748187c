//! Notes and what is derived from them: commitments, nullifiers, payer secrets, record tags (protocol section 2).

use rand::{CryptoRng, RngCore};
use serde::{Deserialize, Serialize};

use crate::{
    amount::{Amount, Rate},
    error::NoteError,
    field::{FieldElement, Fr, field_newtype},
    keys::{Owner, PayerKey, SpendKey, secret_field},
    poseidon::{Tag, hash},
    time::UnixTime,
};

field_newtype! {
    /// Commitment of a note: a leaf of the pool's tree.
    Commitment
}
field_newtype! {
    /// Nullifier of a value note; publishing it spends the note.
    Nullifier
}
field_newtype! {
    /// Key of a stream's record on chain. Only payer and payee can compute it.
    RecordTag
}
field_newtype! {
    /// Hash of a stream's payer secret, part of the note.
    PayerTag
}
field_newtype! {
    /// Output seed of a note: what makes it unequal to every other note.
    Rho
}

impl Rho {
    /// Seed of output `j` (0 or 1) of the transaction whose first nullifier is `nf_0`.
    #[must_use]
    pub fn of_output(nf_0: Nullifier, j: u8, r: &Blinding) -> Self {
        Self::new(hash(Tag::Rho, &[nf_0.to_fr(), Fr::from(j), r.to_fr()]))
    }

    /// Seed of a claim's output; `tag_1`, `t0_1` are those of its first lane.
    #[must_use]
    pub fn of_claim(tag_1: RecordTag, t0_1: UnixTime, r: &Blinding) -> Self {
        Self::new(hash(Tag::RhoClaim, &[tag_1.to_fr(), t0_1.to_fr(), r.to_fr()]))
    }
}

field_newtype! {
    /// The random r of an output: fresh at each attempt, never derived. It is known to the payer only.
    Blinding
}

impl Blinding {
    /// A fresh one.
    #[must_use]
    pub fn random(rng: &mut (impl RngCore + CryptoRng)) -> Self {
        Self::new(Fr::random(rng))
    }
}

secret_field! {
    /// Payer secret `ps` of one stream. It closes the stream and makes its tickets: as good as the money.
    PayerSecret
}

impl PayerSecret {
    /// The secret of the stream that is opened in the transaction with first nullifier `nf_0` (`nf_value` in a close).
    #[must_use]
    pub fn derive(key: &PayerKey, nf_0: Nullifier) -> Self {
        Self::new(hash(Tag::PayerSecret, &[*key.expose(), nf_0.to_fr()]))
    }

    /// The payer tag in the stream's note.
    #[must_use]
    pub fn tag(&self) -> PayerTag {
        PayerTag::new(hash(Tag::PayerTag, &[*self.expose()]))
    }
}

/// A value note: `amount` belongs to `owner`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct ValueNote {
    /// Token base units; 0 for a dummy.
    pub amount: Amount,
    /// Who may spend it.
    pub owner: Owner,
    /// Its seed.
    pub rho: Rho,
}

impl ValueNote {
    /// The leaf.
    #[must_use]
    pub fn commitment(&self) -> Commitment {
        Commitment::new(hash(Tag::Value, &[self.amount.to_fr(), self.owner.to_fr(), self.rho.to_fr()]))
    }

    /// The nullifier, for the owner's spending key.
    #[must_use]
    pub fn nullifier(&self, key: &SpendKey) -> Nullifier {
        key.nullifier(self.commitment())
    }
}

/// What a stream pays: `rate` base units for each second of `start..end` to `payee`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(try_from = "UncheckedTerms")]
pub struct StreamTerms {
    payee: Owner,
    rate: Rate,
    start: UnixTime,
    end: UnixTime,
}

#[derive(Deserialize)]
struct UncheckedTerms {
    payee: Owner,
    rate: Rate,
    start: UnixTime,
    end: UnixTime,
}

impl TryFrom<UncheckedTerms> for StreamTerms {
    type Error = NoteError;
    fn try_from(terms: UncheckedTerms) -> Result<Self, NoteError> {
        Self::new(terms.payee, terms.rate, terms.start, terms.end)
    }
}

impl StreamTerms {
    /// Checks the terms.
    ///
    /// # Errors
    /// [`NoteError`] when the stream is empty or its deposit exceeds 120 bits.
    pub fn new(payee: Owner, rate: Rate, start: UnixTime, end: UnixTime) -> Result<Self, NoteError> {
        if start >= end {
            return Err(NoteError::EmptyStream { start: start.get(), end: end.get() });
        }
        let terms = Self { payee, rate, start, end };
        let length = end.since(start);
        if rate.times(length) > Amount::MAX.to_u256() {
            return Err(NoteError::DepositTooLarge { rate: rate.get(), seconds: length.get() });
        }
        Ok(terms)
    }

    /// Who is paid.
    #[must_use]
    pub const fn payee(&self) -> Owner {
        self.payee
    }

    /// Base units a second.
    #[must_use]
    pub const fn rate(&self) -> Rate {
        self.rate
    }

    /// First second that is paid.
    #[must_use]
    pub const fn start(&self) -> UnixTime {
        self.start
    }

    /// First second that is not paid any more.
    #[must_use]
    pub const fn end(&self) -> UnixTime {
        self.end
    }

    /// What the stream locks: `rate * (end - start)`.
    #[must_use]
    pub fn deposit(&self) -> Amount {
        self.streamed(self.start, self.end)
    }

    /// What a payer gets back who stops at `stop`: `rate * (end - clamp(stop, start, end))`.
    #[must_use]
    pub fn refund(&self, stop: UnixTime) -> Amount {
        self.streamed(stop.clamp(self.start, self.end), self.end)
    }

    /// What a claim of the window `t0..t1` pays: `rate * max(0, min(t1, end) - max(t0, start))`.
    #[must_use]
    pub fn payout(&self, t0: UnixTime, t1: UnixTime) -> Amount {
        self.streamed(t0.max(self.start), t1.min(self.end))
    }

    /// `rate * (to - from)` for a window within `start..end`, hence at most the deposit.
    fn streamed(&self, from: UnixTime, to: UnixTime) -> Amount {
        Amount::try_from(self.rate.times(to.since(from))).expect("a part of the deposit, which fits")
    }
}

/// A stream note.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct StreamNote {
    /// What it pays.
    pub terms: StreamTerms,
    /// Hash of the payer's secret.
    pub payer_tag: PayerTag,
    /// Its seed.
    pub rho: Rho,
}

impl StreamNote {
    /// The leaf.
    #[must_use]
    pub fn commitment(&self) -> Commitment {
        let terms = &self.terms;
        Commitment::new(hash(
            Tag::Stream,
            &[
                terms.payee.to_fr(),
                self.payer_tag.to_fr(),
                terms.rate.to_fr(),
                terms.start.to_fr(),
                terms.end.to_fr(),
                self.rho.to_fr(),
            ],
        ))
    }

    /// Key of the stream's record on chain.
    #[must_use]
    pub fn record_tag(&self) -> RecordTag {
        RecordTag::new(hash(Tag::Record, &[self.commitment().to_fr(), self.payer_tag.to_fr()]))
    }
}

/// A note of either kind.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case", tag = "kind")]
pub enum Note {
    /// Kind 0.
    Value(ValueNote),
    /// Kind 1.
    Stream(StreamNote),
}

impl Note {
    /// The leaf.
    #[must_use]
    pub fn commitment(&self) -> Commitment {
        match self {
            Self::Value(note) => note.commitment(),
            Self::Stream(note) => note.commitment(),
        }
    }

    /// Who can open its memo: the owner, or a stream's payee.
    #[must_use]
    pub const fn owner(&self) -> Owner {
        match self {
            Self::Value(note) => note.owner,
            Self::Stream(note) => note.terms.payee,
        }
    }

    /// What it holds: the amount, or a stream's deposit.
    #[must_use]
    pub fn amount(&self) -> Amount {
        match self {
            Self::Value(note) => note.amount,
            Self::Stream(note) => note.terms.deposit(),
        }
    }
}
