use ark_ff::Zero;
use rand::{CryptoRng, RngCore};

use super::{CircuitInputs, zeros};
use crate::{
    amount::Amount,
    error::{KeyError, WitnessError},
    field::{FieldElement, Fr, Root},
    keys::{AccountKeys, Owner, SpendKey},
    note::{Nullifier, PayerSecret, RecordTag, Rho, StreamNote, ValueNote},
    tree::Path,
};

/// A dummy input: a note of nothing under its own random key, so its nullifier is new to the chain.
///
/// A transaction without a real input must use the same dummies when it is made again: then `nf_0` is the same and
/// only one of the two can be mined (protocol section 6). So store the dummy with the pending transaction.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Dummy(SpendKey);

impl Dummy {
    /// A fresh one.
    #[must_use]
    pub fn random(rng: &mut (impl RngCore + CryptoRng)) -> Self {
        Self(SpendKey::random(rng))
    }

    /// The secret, for the wallet's store.
    #[must_use]
    pub fn to_secret_bytes(&self) -> zeroize::Zeroizing<[u8; 32]> {
        zeroize::Zeroizing::new(self.0.expose().to_be_bytes())
    }

    /// A dummy from the wallet's store.
    ///
    /// # Errors
    /// [`KeyError::InvalidSecret`].
    pub fn from_secret_bytes(bytes: &[u8; 32]) -> Result<Self, KeyError> {
        let secret = Fr::try_from_be_bytes(bytes).map_err(|_| KeyError::InvalidSecret { what: "dummy" })?;
        SpendKey::try_new(secret).map(Self)
    }
}

/// A value note that goes in, or a dummy.
#[derive(Clone, Debug)]
pub struct ValueInput {
    /// The owner's spending key.
    pub spend: SpendKey,
    /// Coordinates of the owner's viewing key; 0 for a dummy.
    pub view: [Fr; 2],
    /// The amount; 0 makes it a dummy, whose membership nobody checks.
    pub amount: Amount,
    /// The note's seed.
    pub rho: Rho,
    /// Position in the tree.
    pub index: u32,
    /// Its path.
    pub path: Path,
}

impl ValueInput {
    /// A note of this account.
    ///
    /// # Errors
    /// [`WitnessError::NotOwned`].
    pub fn spend(keys: &AccountKeys, note: &ValueNote, index: u32, path: Path) -> Result<Self, WitnessError> {
        if note.owner != keys.owner() {
            return Err(WitnessError::NotOwned { what: "the value note" });
        }
        let view = keys.view.public();
        Ok(Self {
            spend: keys.spend.clone(),
            view: [view.point().x(), view.point().y()],
            amount: note.amount,
            rho: note.rho,
            index,
            path,
        })
    }

    /// A dummy.
    #[must_use]
    pub fn dummy(dummy: &Dummy) -> Self {
        Self {
            spend: dummy.0.clone(),
            view: [Fr::zero(); 2],
            amount: Amount::ZERO,
            rho: Rho::new(Fr::zero()),
            index: 0,
            path: Path::ZERO,
        }
    }

    /// The note.
    #[must_use]
    pub fn note(&self) -> ValueNote {
        let owner = Owner::derive(self.spend.public(), self.view[0], self.view[1]);
        ValueNote { amount: self.amount, owner, rho: self.rho }
    }

    /// Its nullifier.
    #[must_use]
    pub fn nullifier(&self) -> Nullifier {
        self.note().nullifier(&self.spend)
    }

    pub(super) fn validate(&self, root: Root) -> Result<(), WitnessError> {
        let leaf = self.note().commitment().to_fr();
        if !self.amount.is_zero() && self.path.root(leaf, self.index) != root {
            return Err(WitnessError::NotInTree { what: "a value note" });
        }
        Ok(())
    }

    /// `inSk, inV, inAmount, inRho, inIndex, inPath`, with a leading extent where there are several.
    pub(super) fn push(all: &[&Self], inputs: &mut CircuitInputs) {
        let extent: &[usize] = if all.len() == 1 { &[] } else { &[all.len()] };
        let mut push = |name, inner: &[usize], values: &dyn Fn(&Self) -> Vec<Fr>| {
            inputs.array(name, &[extent, inner].concat(), all.iter().flat_map(|input| values(input)).collect());
        };
        push("inSk", &[], &|input| vec![*input.spend.expose()]);
        push("inV", &[2], &|input| input.view.to_vec());
        push("inAmount", &[], &|input| vec![input.amount.to_fr()]);
        push("inRho", &[], &|input| vec![input.rho.to_fr()]);
        push("inIndex", &[], &|input| vec![Fr::from(input.index)]);
        push("inPath", &[16, 3], &|input| input.path.flatten());
    }
}

/// A stream note whose payer secret is known.
#[derive(Clone, Debug)]
pub struct StreamInput {
    /// The note.
    pub note: StreamNote,
    /// Its payer secret.
    pub secret: PayerSecret,
    /// Position in the tree.
    pub index: u32,
    /// Its path.
    pub path: Path,
}

impl StreamInput {
    /// The stream's record.
    #[must_use]
    pub fn record_tag(&self) -> RecordTag {
        self.note.record_tag()
    }

    pub(super) fn validate(&self, root: Root) -> Result<(), WitnessError> {
        if self.secret.tag() != self.note.payer_tag {
            return Err(WitnessError::WrongPayerSecret);
        }
        if self.path.root(self.note.commitment().to_fr(), self.index) != root {
            return Err(WitnessError::NotInTree { what: "the stream" });
        }
        Ok(())
    }

    /// `ps, rate, start, end, rho, index, path`.
    pub(super) fn push(&self, inputs: &mut CircuitInputs) {
        let terms = &self.note.terms;
        inputs.scalar("ps", *self.secret.expose());
        inputs.scalar("rate", terms.rate().to_fr());
        inputs.scalar("start", terms.start().to_fr());
        inputs.scalar("end", terms.end().to_fr());
        inputs.scalar("rho", self.note.rho);
        inputs.scalar("index", self.index);
        inputs.array("path", &[16, 3], self.path.flatten());
    }
}

/// `values` of each item, padded with zeros to `lanes` items of `width` elements.
pub(super) fn lanes<T>(items: &[T], lanes: usize, width: usize, values: impl Fn(&T) -> Vec<Fr>) -> Vec<Fr> {
    let mut row: Vec<Fr> = items.iter().flat_map(values).collect();
    row.extend(zeros((lanes * width).saturating_sub(row.len())));
    row
}
