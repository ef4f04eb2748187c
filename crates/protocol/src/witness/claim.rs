use alloy_primitives::U256;
use rand::{CryptoRng, RngCore};

use super::{CircuitInputs, ExternalAmounts, Witness, begin, check_external, input::lanes};
use crate::{
    amount::Amount,
    babyjub::ViewingKey,
    error::WitnessError,
    field::{FieldElement, Fr, Root},
    keys::{AccountKeys, PaymentAddress, PoolId, SpendKey},
    memo::{EphemeralSecret, SealedMemo},
    note::{Blinding, Note, Rho, StreamNote, ValueNote},
    statement::{
        CLAIM_LANES, Circuit, ClaimStatement, ClaimedWindow, ExternalData, ExternalTerms, Operation, SealedOutput,
        Statement,
    },
    time::UnixTime,
    tree::Path,
};

/// One stream of a claim.
#[derive(Clone, Debug)]
pub struct ClaimLane {
    /// The note.
    pub note: StreamNote,
    /// Position in the tree.
    pub index: u32,
    /// Its path.
    pub path: Path,
    /// The record's `claimed_until`.
    pub t0: UnixTime,
    /// Claimed up to: not in the future, not after the stop.
    pub t1: UnixTime,
}

impl ClaimLane {
    fn window(&self) -> ClaimedWindow {
        ClaimedWindow { tag: self.note.record_tag(), t0: self.t0, t1: self.t1 }
    }
}

/// A claim as the payee wants it.
#[derive(Clone, Debug)]
pub struct ClaimRequest {
    /// The root under which the streams are.
    pub root: Root,
    /// 1 to 16 streams of this payee.
    pub lanes: Vec<ClaimLane>,
    /// The pool's burn, in hundredths of a per cent.
    pub burn_bps: u16,
    /// Tokens paid out of the pool, the relayer's fee included; the rest becomes a note of the payee.
    pub amount_out: Amount,
    /// What happens outside the pool.
    pub external: ExternalTerms,
}

impl ClaimRequest {
    /// Draws fresh randomness for the output, which belongs to the payee.
    #[must_use]
    pub fn build(&self, keys: &AccountKeys, rng: &mut (impl RngCore + CryptoRng)) -> ClaimWitness {
        ClaimWitness {
            pool: keys.scope.pool,
            root: self.root,
            spend: keys.spend.clone(),
            view: keys.view.public(),
            lanes: self.lanes.clone(),
            burn_bps: self.burn_bps,
            amount_out: self.amount_out,
            blinding: Blinding::random(rng),
            ephemeral: EphemeralSecret::random(rng),
            external: ExternalData { terms: self.external, memo: None },
        }
    }
}

/// Witness of a claim.
#[derive(Clone, Debug)]
pub struct ClaimWitness {
    /// The pool.
    pub pool: PoolId,
    /// The root under which the streams are.
    pub root: Root,
    /// The payee's spending key.
    pub spend: SpendKey,
    /// The payee's viewing key.
    pub view: ViewingKey,
    /// 1 to 16 streams.
    pub lanes: Vec<ClaimLane>,
    /// The pool's burn, in hundredths of a per cent.
    pub burn_bps: u16,
    /// Tokens paid out of the pool, the relayer's fee included.
    pub amount_out: Amount,
    /// r of the output.
    pub blinding: Blinding,
    /// esk of the output.
    pub ephemeral: EphemeralSecret,
    /// What happens outside the pool.
    pub external: ExternalData,
}

/// The sums of a claim.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ClaimTotals {
    /// What all lanes pay, below 2^124.
    pub sum: U256,
    /// `floor(sum * burn_bps / 10000)`: what stays in the pool for ever.
    pub burn: U256,
    /// `sum * burn_bps mod 10000`.
    pub rem: U256,
}

impl ClaimTotals {
    const WHOLE: u16 = 10_000;

    /// What these lanes pay at this burn.
    #[must_use]
    pub fn of(lanes: &[ClaimLane], burn_bps: u16) -> Self {
        let sum: U256 = lanes.iter().map(|lane| lane.note.terms.payout(lane.t0, lane.t1).to_u256()).sum();
        let (burn, rem) = (sum * U256::from(burn_bps)).div_rem(U256::from(Self::WHOLE));
        Self { sum, burn, rem }
    }

    /// What is left for the note after the burn and `amount_out`.
    ///
    /// # Errors
    /// [`WitnessError::NotConserved`] when `amount_out` is more than that, [`WitnessError::Range`] when the note
    /// would exceed 120 bits.
    pub fn note_amount(&self, amount_out: Amount) -> Result<Amount, WitnessError> {
        let net = self.sum.saturating_sub(self.burn);
        let rest = net
            .checked_sub(amount_out.to_u256())
            .ok_or(WitnessError::NotConserved { inputs: net, outputs: amount_out.to_u256() })?;
        Ok(Amount::try_from(rest)?)
    }
}

impl ClaimWitness {
    /// The sums.
    #[must_use]
    pub fn totals(&self) -> ClaimTotals {
        ClaimTotals::of(&self.lanes, self.burn_bps)
    }

    /// The payee's address.
    #[must_use]
    pub fn payee(&self) -> PaymentAddress {
        PaymentAddress::new(self.spend.public(), self.view)
    }

    /// The new note. Where the sums don't allow one ([`Witness::validate`] says so), one of nothing.
    #[must_use]
    pub fn note(&self) -> ValueNote {
        let amount = self.totals().note_amount(self.amount_out).unwrap_or(Amount::ZERO);
        let first = self.lanes.first().map_or_else(
            || (crate::note::RecordTag::new(Fr::from(0_u8)), UnixTime::ZERO),
            |lane| (lane.note.record_tag(), lane.t0),
        );
        ValueNote { amount, owner: self.payee().owner(), rho: Rho::of_claim(first.0, first.1, &self.blinding) }
    }
}

impl Witness for ClaimWitness {
    const CIRCUIT: Circuit = Circuit::Claim;
    type Statement = ClaimStatement;

    fn statement(&self) -> ClaimStatement {
        let note = Note::Value(self.note());
        ClaimStatement {
            root: self.root,
            ext: self.external.hash(&self.pool, Operation::Claim),
            amount_out: self.amount_out,
            burn_bps: self.burn_bps,
            output: SealedOutput {
                commitment: note.commitment(),
                memo: SealedMemo::seal(&note, &self.view, 0, &self.ephemeral),
            },
            lanes: self.lanes.iter().map(ClaimLane::window).collect(),
        }
    }

    fn validate(&self) -> Result<(), WitnessError> {
        let found = self.lanes.len();
        if found == 0 || found > CLAIM_LANES {
            return Err(WitnessError::LaneCount { found });
        }
        if self.burn_bps > ClaimTotals::WHOLE {
            return Err(WitnessError::BurnTooLarge { found: self.burn_bps.into() });
        }
        let payee = self.payee().owner();
        let mut windows: Vec<ClaimedWindow> = Vec::with_capacity(found);
        for (lane, claim) in self.lanes.iter().enumerate() {
            let (t0, t1) = (claim.t0.get(), claim.t1.get());
            if t0 >= t1 {
                return Err(WitnessError::EmptyWindow { lane, t0, t1 });
            }
            if claim.note.terms.payee() != payee {
                return Err(WitnessError::NotOwned { what: "a claimed stream" });
            }
            if claim.path.root(claim.note.commitment().to_fr(), claim.index) != self.root {
                return Err(WitnessError::NotInTree { what: "a claimed stream" });
            }
            let window = claim.window();
            if let Some(first) = windows.iter().rposition(|earlier| earlier.tag == window.tag)
                && windows[first].t1 != window.t0
            {
                return Err(WitnessError::RepeatedStream { first, second: lane });
            }
            windows.push(window);
        }
        let amounts = ExternalAmounts {
            paid_in: Amount::ZERO,
            paid_out: self.amount_out,
            creates: !self.totals().note_amount(self.amount_out)?.is_zero(),
        };
        check_external(&self.external, &self.pool, Operation::Claim, &amounts)
    }

    fn public_inputs(statement: &ClaimStatement) -> Vec<Fr> {
        Statement::public_inputs(statement).to_vec()
    }

    fn inputs_for(&self, statement: &ClaimStatement) -> CircuitInputs {
        let mut inputs = begin(statement);
        inputs.scalar("root", statement.root);
        inputs.scalar("ext", statement.ext);
        inputs.scalar("amountOut", statement.amount_out.to_fr());
        inputs.scalar("burnBps", statement.burn_bps);
        inputs.scalar("sk", *self.spend.expose());
        inputs.array("v", &[2], vec![self.view.point().x(), self.view.point().y()]);
        let mut lane = |name, value: &dyn Fn(&ClaimLane) -> Fr| {
            inputs.array(name, &[CLAIM_LANES], lanes(&self.lanes, CLAIM_LANES, 1, |lane| vec![value(lane)]));
        };
        lane("active", &|_| Fr::from(1_u8));
        lane("payerTag", &|lane| lane.note.payer_tag.to_fr());
        lane("rate", &|lane| lane.note.terms.rate().to_fr());
        lane("start", &|lane| lane.note.terms.start().to_fr());
        lane("end", &|lane| lane.note.terms.end().to_fr());
        lane("rho", &|lane| lane.note.rho.to_fr());
        lane("index", &|lane| Fr::from(lane.index));
        let paths = lanes(&self.lanes, CLAIM_LANES, 48, |lane| lane.path.flatten());
        inputs.array("path", &[CLAIM_LANES, 16, 3], paths);
        let mut lane = |name, value: &dyn Fn(&ClaimLane) -> Fr| {
            inputs.array(name, &[CLAIM_LANES], lanes(&self.lanes, CLAIM_LANES, 1, |lane| vec![value(lane)]));
        };
        lane("t0", &|lane| lane.t0.to_fr());
        lane("t1", &|lane| lane.t1.to_fr());
        let totals = self.totals();
        let small = |value: U256| Fr::try_from_u256(value).expect("below 2^140");
        inputs.scalar("burn", small(totals.burn));
        inputs.scalar("rem", small(totals.rem));
        inputs.scalar("outAmount", self.note().amount.to_fr());
        inputs.scalar("outR", self.blinding);
        inputs.scalar("outEsk", self.ephemeral.to_fr());
        inputs
    }
}
