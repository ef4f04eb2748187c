//! Tickets and ratings: public inputs, nullifiers, messages and the checks that come before the proof (protocol
//! section 4.5).

use alloy_primitives::keccak256;
use ark_ff::Zero;
use serde::{Deserialize, Serialize};
use sha2::{Digest, Sha256};

use crate::{
    amount::{Amount, Price},
    error::TicketError,
    field::{Fr, Root, field_newtype, reduce},
    keys::Owner,
    note::{Commitment, PayerSecret},
    poseidon::{Tag, hash},
    slot::{PoolClock, Slot},
    time::UnixTime,
};

/// Nullifiers in a ticket's public inputs, and the largest count.
pub const MAX_COUNT: usize = 4;

field_newtype! {
    /// Nullifier of one ticket; 0 in an unused place.
    TicketNullifier
}

impl TicketNullifier {
    /// What stands in an unused place.
    pub const UNUSED: Self = Self::new(Fr::new_unchecked(ark_ff::BigInt::new([0; 4])));

    /// Nullifier of ticket `j` of a slot.
    #[must_use]
    pub fn derive(secret: &PayerSecret, commitment: Commitment, slot_start: UnixTime, j: u64) -> Self {
        Self::new(hash(Tag::Ticket, &[*secret.expose(), commitment.to_fr(), slot_start.to_fr(), Fr::from(j)]))
    }

    /// Nullifier of a stream's rating: one for its whole life.
    #[must_use]
    pub fn of_rating(secret: &PayerSecret, commitment: Commitment) -> Self {
        Self::derive(secret, commitment, UnixTime::ZERO, 0)
    }
}

/// SHA-256 of a provider's libp2p PeerId (its binary form).
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct ProviderDigest([u8; 32]);

impl ProviderDigest {
    /// Hashes the bytes of a PeerId.
    #[must_use]
    pub fn of_peer_id(peer_id: &[u8]) -> Self {
        Self(Sha256::digest(peer_id).into())
    }

    /// The digest.
    #[must_use]
    pub const fn as_bytes(&self) -> &[u8; 32] {
        &self.0
    }
}

field_newtype! {
    /// What a ticket's or rating's proof is bound to.
    TicketMessage
}

impl TicketMessage {
    /// `keccak256("tributary.ticket.v1" || key || provider || uint64 slot_start) mod r`.
    #[must_use]
    pub fn of_ticket(ephemeral_key: &[u8; 32], provider: &ProviderDigest, slot_start: UnixTime) -> Self {
        let mut packed = b"tributary.ticket.v1".to_vec();
        packed.extend_from_slice(ephemeral_key);
        packed.extend_from_slice(provider.as_bytes());
        packed.extend_from_slice(&slot_start.get().to_be_bytes());
        Self::new(reduce(keccak256(packed)))
    }

    /// `keccak256("tributary.rating.v1" || sha256(rating)) mod r`.
    #[must_use]
    pub fn of_rating(rating: &[u8]) -> Self {
        let mut packed = b"tributary.rating.v1".to_vec();
        packed.extend_from_slice(&Sha256::digest(rating));
        Self::new(reduce(keccak256(packed)))
    }
}

/// What the ticket's Ed25519 key signs for a paid request:
/// `"tributary.request.v1" || provider || nf_1 || sha256(request without its proof)`.
#[must_use]
pub fn request_signing_bytes(provider: &ProviderDigest, nf_1: TicketNullifier, request: &[u8]) -> Vec<u8> {
    let mut bytes = b"tributary.request.v1".to_vec();
    bytes.extend_from_slice(provider.as_bytes());
    bytes.extend_from_slice(&nf_1.to_be_bytes());
    bytes.extend_from_slice(&Sha256::digest(request));
    bytes
}

/// What a rating proves to have streamed, at least: a power of two of base units. Steps that are the same for all payees tell amounts apart no finer
/// than by half, and no payee can set one that marks a buyer.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct RatingTier(u8);

impl RatingTier {
    /// The highest tier that `streamed` base units reach; none for 0.
    #[must_use]
    pub fn reached(streamed: alloy_primitives::U256) -> Option<Self> {
        let exponent = streamed.bit_len().checked_sub(1)?;
        #[expect(clippy::cast_possible_truncation, reason = "below 120")]
        Some(Self(exponent.min(Amount::BITS as usize - 1) as u8))
    }

    /// The tier of exactly this amount.
    ///
    /// # Errors
    /// [`TicketError::NoTier`] when it isn't a power of two.
    pub fn of(amount: Amount) -> Result<Self, TicketError> {
        if !amount.get().is_power_of_two() {
            return Err(TicketError::NoTier { found: amount.get() });
        }
        #[expect(clippy::cast_possible_truncation, reason = "below 120")]
        Ok(Self(amount.get().trailing_zeros() as u8))
    }

    /// What has streamed, at least.
    #[must_use]
    pub fn amount(self) -> Amount {
        Amount::new(1 << self.0).unwrap_or(Amount::MAX)
    }
}

/// Public inputs of a ticket or rating.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct TicketStatement {
    /// A root that the pool knows.
    pub root: Root,
    /// Root of the slot's stopped list.
    pub stopped_root: Root,
    /// Who is paid.
    pub payee: Owner,
    /// Price of one ticket; 0 for a rating.
    pub price: Price,
    /// First second of the slot.
    pub slot_start: UnixTime,
    /// First second after the slot.
    pub slot_end: UnixTime,
    /// Tickets in this proof, 1 to 4.
    pub count: u8,
    /// What has streamed by the slot's end, at least.
    pub min_streamed: Amount,
    /// What the proof is bound to.
    pub message: TicketMessage,
    /// `count` nullifiers, then [`TicketNullifier::UNUSED`].
    pub nullifiers: [TicketNullifier; MAX_COUNT],
}

impl TicketStatement {
    /// The 13 public inputs, in the circuit's order.
    #[must_use]
    pub fn public_inputs(&self) -> [Fr; 13] {
        let [nf_1, nf_2, nf_3, nf_4] = self.nullifiers.map(TicketNullifier::to_fr);
        [
            self.root.to_fr(),
            self.stopped_root.to_fr(),
            self.payee.to_fr(),
            self.price.to_fr(),
            self.slot_start.to_fr(),
            self.slot_end.to_fr(),
            Fr::from(self.count),
            self.min_streamed.to_fr(),
            self.message.to_fr(),
            nf_1,
            nf_2,
            nf_3,
            nf_4,
        ]
    }

    /// The used nullifiers. At most four, whatever `count` says.
    #[must_use]
    pub fn used_nullifiers(&self) -> &[TicketNullifier] {
        &self.nullifiers[..usize::from(self.count).min(MAX_COUNT)]
    }

    /// Checks that stand on their own: the count, the nullifiers (used ones not 0 and distinct, unused ones 0), one
    /// slot of this clock.
    ///
    /// # Errors
    /// [`TicketError`].
    pub fn check_shape(&self, clock: &PoolClock) -> Result<Slot, TicketError> {
        let count = usize::from(self.count);
        if !(1..=MAX_COUNT).contains(&count) {
            return Err(TicketError::Count { found: self.count.into() });
        }
        let slot = clock.slot_of_ticket(self.slot_start, self.slot_end)?;
        for (at, nullifier) in self.nullifiers.iter().enumerate() {
            let position = at + 1;
            match (at < count, nullifier.to_fr().is_zero()) {
                (true, true) => return Err(TicketError::ZeroNullifier { position }),
                (false, false) => return Err(TicketError::UnusedNullifier { position }),
                _ => {}
            }
            if at < count
                && let Some(first) = self.nullifiers[..at].iter().position(|earlier| earlier == nullifier)
            {
                return Err(TicketError::RepeatedNullifier { first: first + 1, second: position });
            }
        }
        Ok(slot)
    }

    /// Everything about a ticket that needs no proof, no chain root and no nullifier store. `stopped_root` is the
    /// root of the list of the ticket's slot, which must be final.
    ///
    /// # Errors
    /// [`TicketError`], the first check that fails.
    pub fn check_ticket(&self, clock: &PoolClock, offer: &OfferTerms, stopped_root: Root) -> Result<Slot, TicketError> {
        let slot = self.check_shape(clock)?;
        if self.price.is_zero() {
            return Err(TicketError::WrongPurpose { price: 0 });
        }
        if self.price != offer.price {
            return Err(TicketError::WrongPrice { found: self.price.get(), expected: offer.price.get() });
        }
        self.check_common(offer.payee, offer.min_streamed, stopped_root)?;
        Ok(slot)
    }

    /// The same for a rating: price 0, count 1, a slot that is over.
    ///
    /// # Errors
    /// [`TicketError`], the first check that fails.
    pub fn check_rating(
        &self,
        clock: &PoolClock,
        payee: Owner,
        min_streamed: Amount,
        stopped_root: Root,
        now: UnixTime,
    ) -> Result<Slot, TicketError> {
        let slot = self.check_shape(clock)?;
        if !self.price.is_zero() {
            return Err(TicketError::WrongPurpose { price: self.price.get() });
        }
        if self.count != 1 {
            return Err(TicketError::Count { found: self.count.into() });
        }
        if slot.end() > now {
            return Err(TicketError::FutureRating { slot_end: slot.end().get(), now: now.get() });
        }
        self.check_common(payee, min_streamed, stopped_root)?;
        Ok(slot)
    }

    /// Checks that the proof is bound to this request key, provider and its own slot.
    ///
    /// # Errors
    /// [`TicketError::WrongMessage`].
    pub fn check_message(&self, ephemeral_key: &[u8; 32], provider: &ProviderDigest) -> Result<(), TicketError> {
        if self.message == TicketMessage::of_ticket(ephemeral_key, provider, self.slot_start) {
            Ok(())
        } else {
            Err(TicketError::WrongMessage)
        }
    }

    fn check_common(&self, payee: Owner, min_streamed: Amount, stopped_root: Root) -> Result<(), TicketError> {
        if self.payee != payee {
            return Err(TicketError::WrongPayee { found: self.payee.to_string(), expected: payee.to_string() });
        }
        if self.min_streamed != min_streamed {
            let (found, expected) = (self.min_streamed.get(), min_streamed.get());
            return Err(TicketError::WrongMinStreamed { found, expected });
        }
        if self.stopped_root != stopped_root {
            return Err(TicketError::WrongStoppedRoot);
        }
        Ok(())
    }
}

/// What an offer fixes for everybody.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct OfferTerms {
    /// The provider's payee.
    pub payee: Owner,
    /// Price of one ticket, not 0.
    pub price: Price,
    /// What must have streamed by the slot's end.
    pub min_streamed: Amount,
}

#[cfg(test)]
mod tests {
    use alloy_primitives::U256;

    use super::*;

    #[test]
    fn tiers_are_the_powers_of_two_and_round_down() {
        assert_eq!(RatingTier::reached(U256::ZERO), None);
        for (streamed, tier) in [(1_u128, 1), (2, 2), (3, 2), (1000, 512), (1024, 1024), (u128::MAX, 1 << 119)] {
            assert_eq!(RatingTier::reached(U256::from(streamed)).unwrap().amount().get(), tier);
            let amount = Amount::new(tier).unwrap();
            assert_eq!(RatingTier::of(amount).unwrap().amount(), amount);
        }
        for found in [0, 3, 600] {
            let refused = RatingTier::of(Amount::new(found).unwrap());
            assert!(matches!(refused, Err(TicketError::NoTier { found: value }) if value == found));
        }
    }
}
