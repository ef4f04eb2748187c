//! Ratings on the wire, and every check of them that needs neither the chain nor a database.
//!
//! A rating says what a provider's service was worth. The ticket circuit proves, with price 0, that its maker paid that provider at least a
//! published step (protocol section 4.5); nobody learns which stream paid. Checks come in the order of this module, cheapest first:
//! [`RatingVerifier::decode`] (size, version, form, pool, slot, age, tier), [`RatingVerifier::check_payee`], [`RatingVerifier::check_root`],
//! [`RatingVerifier::check_newer`], [`RatingVerifier::check_stopped_root`]; the proof comes last, in batches. Each refusal is a
//! [`RatingRefusal`] with a code of its own.

use std::fmt;

use libp2p::PeerId;
use prost::Message as _;
use serde::Serialize;
use sha2::{Digest as _, Sha256};
use tributary_protocol::amount::{Amount, Price};
use tributary_protocol::error::TicketError;
use tributary_protocol::field::{FieldElement as _, Root};
use tributary_protocol::keys::{Owner, PoolId};
use tributary_protocol::slot::{PoolClock, Slot};
use tributary_protocol::ticket::{MAX_COUNT, RatingTier, TicketMessage, TicketNullifier, TicketStatement};
use tributary_protocol::time::{Seconds, UnixTime};

use crate::offer::{self, ServiceId};
use crate::proto;
use crate::ticket::GROTH16_BYTES;
use crate::wire::{self, WireError};

/// Largest encoded [`proto::ProvenRating`], bytes.
pub const MAX_RATING_MESSAGE: usize = 1536;
/// Largest encoded [`proto::Rating`], bytes.
pub const MAX_RATING: usize = 512;
/// Most measurements of one rating.
pub const MAX_MEASUREMENTS: usize = 4;
/// Longest name of a measurement, bytes.
pub const MAX_MEASUREMENT_NAME: usize = 24;
/// Times of ratings are multiples of this: a finer one would tell when the service was used.
pub const HOUR: Seconds = Seconds::HOUR;
/// How old the slot of a rating may be.
pub const MAX_AGE: u64 = 180 * 86_400;
/// By how much clocks may differ, seconds.
const CLOCK_SKEW: u64 = 60;
const MAX_PEER_ID: u64 = 64;
const MESSAGE: &str = "rating";

/// What a service was worth: 0 (nothing) to 1000 (perfect).
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize)]
pub struct RatingScore(u16);

impl RatingScore {
    /// The best.
    pub const PERFECT: Self = Self(1000);

    /// Checks the range.
    ///
    /// # Errors
    /// [`WireError::Range`].
    pub fn new(score: u32) -> Result<Self, WireError> {
        let score = wire::in_range("score", score.into(), 0, Self::PERFECT.0.into())?;
        Ok(Self(u16::try_from(score).unwrap_or(u16::MAX)))
    }

    /// From a share, 0 to 1, in steps of a twentieth: what is finer would tell its maker from others. What lies outside is cut.
    #[must_use]
    #[allow(clippy::cast_possible_truncation, clippy::cast_sign_loss)] // 0 to 20.
    pub fn rounded(share: f64) -> Self {
        const STEPS: f64 = 20.0;
        Self((share.clamp(0.0, 1.0) * STEPS).round() as u16 * 50)
    }

    /// The number.
    #[must_use]
    pub const fn get(self) -> u16 {
        self.0
    }

    /// As a share, 0 to 1.
    #[must_use]
    pub fn share(self) -> f64 {
        f64::from(self.0) / f64::from(Self::PERFECT.0)
    }
}

/// A measured quantity that goes with a rating.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct RatingMeasurement {
    name: String,
    value: u64,
}

impl RatingMeasurement {
    /// Checks the name.
    ///
    /// # Errors
    /// [`WireError`].
    pub fn new(name: impl Into<String>, value: u64) -> Result<Self, WireError> {
        const FIELD: &str = "measurement";
        let name = name.into();
        wire::in_range(FIELD, name.len() as u64, 1, MAX_MEASUREMENT_NAME as u64)?;
        if !name.bytes().all(|byte| matches!(byte, b'a'..=b'z' | b'0'..=b'9' | b'_')) {
            return Err(WireError::Invalid { field: FIELD, reason: "a name has a-z, 0-9 and _ only".into() });
        }
        Ok(Self { name, value })
    }

    /// What it measures, with its unit: `latency_ms`.
    #[must_use]
    pub fn name(&self) -> &str {
        &self.name
    }

    /// The value.
    #[must_use]
    pub const fn value(&self) -> u64 {
        self.value
    }
}

/// What a buyer says of a provider's service.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Rating {
    /// The pool that the stream is in.
    pub pool: PoolId,
    /// The provider.
    pub provider: PeerId,
    /// The service.
    pub service: ServiceId,
    /// What it was worth.
    pub score: RatingScore,
    /// At most [`MAX_MEASUREMENTS`]; they explain the score and count nothing.
    pub measurements: Vec<RatingMeasurement>,
    /// The hour in which it was made, a multiple of [`HOUR`].
    pub made_at: UnixTime,
    /// Tells ratings of one stream and hour apart; the higher one is newer.
    pub revision: u32,
}

impl Rating {
    /// The hour that `time` lies in.
    #[must_use]
    pub fn hour_of(time: UnixTime) -> UnixTime {
        Seconds::new(time.get() % HOUR.get()).map_or(time, |past| time.saturating_sub(past))
    }

    /// The bytes that the proof is bound to.
    ///
    /// # Errors
    /// [`WireError`] when a field is out of its range.
    pub fn encode(&self) -> Result<Vec<u8>, WireError> {
        let message = proto::Rating {
            version: 1,
            chain_id: self.pool.chain_id,
            pool: self.pool.address.to_vec(),
            provider: self.provider.to_bytes(),
            service: self.service.to_string(),
            score: self.score.get().into(),
            measurements: self
                .measurements
                .iter()
                .map(|measurement| proto::RatingMeasurement {
                    name: measurement.name.clone(),
                    value: measurement.value,
                })
                .collect(),
            made_at: self.made_at.get(),
            revision: self.revision,
        };
        let bytes = message.encode_to_vec();
        Self::decode(&bytes)?;
        Ok(bytes)
    }

    fn decode(bytes: &[u8]) -> Result<Self, WireError> {
        let message: proto::Rating = wire::decode(MESSAGE, bytes, MAX_RATING)?;
        wire::check_version(MESSAGE, message.version)?;
        wire::in_range("provider", message.provider.len() as u64, 1, MAX_PEER_ID)?;
        let provider = offer::ranged("provider", PeerId::from_bytes(&message.provider))?;
        wire::in_range("measurements", message.measurements.len() as u64, 0, MAX_MEASUREMENTS as u64)?;
        let made_at = offer::time("made_at", message.made_at)?;
        if Self::hour_of(made_at) != made_at {
            return Err(WireError::Invalid { field: "made_at", reason: format!("no multiple of {HOUR}") });
        }
        Ok(Self {
            pool: PoolId { chain_id: message.chain_id, address: wire::fixed::<20>("pool", &message.pool)?.into() },
            provider,
            service: message.service.parse()?,
            score: RatingScore::new(message.score)?,
            measurements: message
                .measurements
                .into_iter()
                .map(|measurement| RatingMeasurement::new(measurement.name, measurement.value))
                .collect::<Result<_, _>>()?,
            made_at,
            revision: message.revision,
        })
    }
}

/// Puts a rating's bytes and its proof together, as they are published.
#[must_use]
pub fn proven(rating: Vec<u8>, statement: &TicketStatement, proof: &[u8; GROTH16_BYTES]) -> Vec<u8> {
    proto::ProvenRating {
        version: 1,
        rating,
        root: statement.root.to_be_bytes().to_vec(),
        stopped_root: statement.stopped_root.to_be_bytes().to_vec(),
        payee: statement.payee.to_be_bytes().to_vec(),
        slot_start: statement.slot_start.get(),
        slot_end: statement.slot_end.get(),
        min_streamed: wire::amount_to_bytes(statement.min_streamed.get()),
        nullifier: statement.nullifiers[0].to_be_bytes().to_vec(),
        proof: proof.to_vec(),
    }
    .encode_to_vec()
}

/// Which of two ratings of one stream is newer: by time, revision, and, so that all verifiers agree, by hash. Whoever repeats an old one
/// can't make it newer, because all three are under the proof.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct RatingOrder {
    /// The hour in which it was made.
    pub made_at: UnixTime,
    /// Its revision.
    pub revision: u32,
    /// SHA-256 of its bytes.
    pub digest: [u8; 32],
}

impl fmt::Display for RatingOrder {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} revision {}", self.made_at, self.revision)
    }
}

/// Why a rating doesn't count, with the values that were compared.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum RatingRefusal {
    /// It is larger than any valid one.
    #[error("the rating has {size} bytes, at most {limit} are taken")]
    TooLarge {
        /// Its size, bytes.
        size: usize,
        /// The limit, bytes.
        limit: usize,
    },
    /// It can't be decoded, or a field isn't what it must be.
    #[error("{0}")]
    Malformed(WireError),
    /// It is of another version.
    #[error("{0}")]
    BadVersion(WireError),
    /// It is for another pool.
    #[error("the rating is for pool {} on chain {}", pool.address, pool.chain_id)]
    OtherPool {
        /// The rating's pool.
        pool: PoolId,
    },
    /// Its slot isn't one of the pool's clock.
    #[error("{slot_start} to {slot_end} is no slot of {slot_length} s")]
    WrongSlot {
        /// The rating's slot.
        slot_start: UnixTime,
        /// Its end.
        slot_end: UnixTime,
        /// The pool's slot length.
        slot_length: Seconds,
    },
    /// Its slot isn't over.
    #[error("the rating's slot ends at {slot_end}, now is {now}")]
    FutureSlot {
        /// End of its slot.
        slot_end: UnixTime,
        /// The verifier's time.
        now: UnixTime,
    },
    /// It was made later than now.
    #[error("the rating was made at {made_at}, now is {now}")]
    FutureTime {
        /// Its time.
        made_at: UnixTime,
        /// The verifier's time.
        now: UnixTime,
    },
    /// Its slot is too long ago.
    #[error("the rating's slot ended at {slot_end}, at {now} ratings count from {oldest} on")]
    TooOld {
        /// End of its slot.
        slot_end: UnixTime,
        /// The oldest end that counts.
        oldest: UnixTime,
        /// The verifier's time.
        now: UnixTime,
    },
    /// What it proves is none of the published steps.
    #[error("the rating proves {found} streamed; the steps are the powers of two")]
    NoTier {
        /// What it proves.
        found: Amount,
    },
    /// A nullifier is zero.
    #[error("the rating's nullifier is zero")]
    ZeroNullifier,
    /// No offer signed by the provider is known that names this payee.
    #[error("no offer of {provider} is known that names payee {payee}")]
    ForeignPayee {
        /// The rated provider.
        provider: Box<PeerId>,
        /// Who was paid.
        payee: Owner,
    },
    /// The pool doesn't know the root, or this verifier hasn't seen it yet.
    #[error("root {root} isn't known here")]
    UnknownRoot {
        /// The rating's root.
        root: Root,
    },
    /// The slot's stopped list isn't known to be final here.
    #[error("the stopped list of slot {slot_start} isn't final here")]
    SlotNotFinal {
        /// The rating's slot.
        slot_start: UnixTime,
    },
    /// The stopped root isn't that of the slot's list.
    #[error("the stopped root is {found}, the slot's list has {expected}")]
    WrongStoppedRoot {
        /// The rating's.
        found: Root,
        /// The final list's.
        expected: Root,
    },
    /// A newer rating of the same stream is known.
    #[error("the rating is of {found}, one of {have} is known of the same stream")]
    Superseded {
        /// When it was made.
        found: RatingOrder,
        /// When the known one was made.
        have: RatingOrder,
    },
    /// This very rating is known.
    #[error("the rating is known")]
    Known,
    /// The zero-knowledge proof doesn't verify.
    #[error("the proof doesn't verify")]
    InvalidProof,
    /// Too many ratings wait to be verified.
    #[error("{waiting} ratings wait to be verified, at most {limit} may")]
    Busy {
        /// Those that wait.
        waiting: usize,
        /// The limit.
        limit: usize,
    },
}

impl RatingRefusal {
    /// Stable code of the refusal.
    #[must_use]
    pub const fn code(&self) -> &'static str {
        match self {
            Self::TooLarge { .. } => "TRB-M461",
            Self::Malformed(_) => "TRB-M462",
            Self::BadVersion(_) => "TRB-M463",
            Self::OtherPool { .. } => "TRB-M464",
            Self::WrongSlot { .. } => "TRB-M465",
            Self::FutureSlot { .. } => "TRB-M466",
            Self::FutureTime { .. } => "TRB-M467",
            Self::TooOld { .. } => "TRB-M468",
            Self::NoTier { .. } => "TRB-M469",
            Self::ZeroNullifier => "TRB-M470",
            Self::ForeignPayee { .. } => "TRB-M471",
            Self::UnknownRoot { .. } => "TRB-M472",
            Self::SlotNotFinal { .. } => "TRB-M473",
            Self::WrongStoppedRoot { .. } => "TRB-M474",
            Self::Superseded { .. } => "TRB-M475",
            Self::Known => "TRB-M476",
            Self::InvalidProof => "TRB-M477",
            Self::Busy { .. } => "TRB-M478",
        }
    }
}

impl From<WireError> for RatingRefusal {
    fn from(error: WireError) -> Self {
        match error {
            WireError::TooLarge { size, limit, .. } => Self::TooLarge { size, limit },
            WireError::Version { .. } => Self::BadVersion(error),
            _ => Self::Malformed(error),
        }
    }
}

/// A rating that came from the network, well-formed and not yet believed.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PresentedRating {
    rating: Rating,
    order: RatingOrder,
    statement: TicketStatement,
    slot: Slot,
    tier: RatingTier,
    proof: [u8; GROTH16_BYTES],
}

impl PresentedRating {
    /// What it says.
    #[must_use]
    pub const fn rating(&self) -> &Rating {
        &self.rating
    }

    /// Its place among the ratings of its stream.
    #[must_use]
    pub const fn order(&self) -> RatingOrder {
        self.order
    }

    /// The proof's public inputs. Price, count and message are the verifier's own.
    #[must_use]
    pub const fn statement(&self) -> &TicketStatement {
        &self.statement
    }

    /// The slot that the proof is for.
    #[must_use]
    pub const fn slot(&self) -> Slot {
        self.slot
    }

    /// What was paid, at least.
    #[must_use]
    pub const fn tier(&self) -> RatingTier {
        self.tier
    }

    /// Names the stream, without saying which.
    #[must_use]
    pub const fn nullifier(&self) -> TicketNullifier {
        self.statement.nullifiers[0]
    }

    /// The Groth16 proof as on the wire.
    #[must_use]
    pub const fn proof(&self) -> &[u8; GROTH16_BYTES] {
        &self.proof
    }

    /// SHA-256 of everything that its verdict depends on. Another encoding of the same rating has the same one.
    #[must_use]
    pub fn digest(&self) -> [u8; 32] {
        let mut hash = Sha256::new();
        for input in self.statement.public_inputs() {
            hash.update(input.to_be_bytes());
        }
        hash.chain_update(self.order.digest).chain_update(self.proof).finalize().into()
    }
}

/// What ratings are checked against.
#[derive(Debug, Clone, Copy)]
pub struct RatingVerifier {
    /// The pool.
    pub pool: PoolId,
    /// Its clock.
    pub clock: PoolClock,
}

impl RatingVerifier {
    /// Reads an encoded `ProvenRating` and checks all that needs no further knowledge.
    ///
    /// # Errors
    /// [`RatingRefusal`], the first check that fails.
    pub fn decode(&self, bytes: &[u8], now: UnixTime) -> Result<PresentedRating, RatingRefusal> {
        let message: proto::ProvenRating = wire::decode("proven rating", bytes, MAX_RATING_MESSAGE)?;
        wire::check_version("proven rating", message.version)?;
        let rating = Rating::decode(&message.rating)?;
        if rating.pool != self.pool {
            return Err(RatingRefusal::OtherPool { pool: rating.pool });
        }
        if rating.made_at.get() > now.get().saturating_add(CLOCK_SKEW) {
            return Err(RatingRefusal::FutureTime { made_at: rating.made_at, now });
        }
        let slot_start = offer::time("slot_start", message.slot_start)?;
        let slot_end = offer::time("slot_end", message.slot_end)?;
        let found = wire::amount_from_bytes("min_streamed", &message.min_streamed, Amount::BITS)?;
        let found = offer::ranged("min_streamed", Amount::new(found))?;
        let nullifier = element("nullifier", &message.nullifier, TicketNullifier::try_from_be_bytes)?;
        let mut nullifiers = [TicketNullifier::UNUSED; MAX_COUNT];
        nullifiers[0] = nullifier;
        let statement = TicketStatement {
            root: element("root", &message.root, Root::try_from_be_bytes)?,
            stopped_root: element("stopped_root", &message.stopped_root, Root::try_from_be_bytes)?,
            payee: element("payee", &message.payee, Owner::try_from_be_bytes)?,
            price: Price::ZERO,
            slot_start,
            slot_end,
            count: 1,
            min_streamed: found,
            message: TicketMessage::of_rating(&message.rating),
            nullifiers,
        };
        let slot_length = self.clock.slot_length();
        // The list's root has its own check, which comes later.
        let slot = statement.check_rating(&self.clock, statement.payee, found, statement.stopped_root, now).map_err(
            |error| match error {
                TicketError::FutureRating { .. } => RatingRefusal::FutureSlot { slot_end, now },
                TicketError::ZeroNullifier { .. } => RatingRefusal::ZeroNullifier,
                TicketError::Slot(_) => RatingRefusal::WrongSlot { slot_start, slot_end, slot_length },
                other => RatingRefusal::Malformed(WireError::Invalid { field: "statement", reason: other.to_string() }),
            },
        )?;
        let oldest = UnixTime::new(now.get().saturating_sub(MAX_AGE)).unwrap_or(UnixTime::ZERO);
        if slot_end < oldest {
            return Err(RatingRefusal::TooOld { slot_end, oldest, now });
        }
        let tier = RatingTier::of(found).map_err(|_| RatingRefusal::NoTier { found })?;
        let order = RatingOrder {
            made_at: rating.made_at,
            revision: rating.revision,
            digest: Sha256::digest(&message.rating).into(),
        };
        Ok(PresentedRating { rating, order, statement, slot, tier, proof: wire::fixed("proof", &message.proof)? })
    }

    /// `known`: whether an offer signed by the rated provider named the payee. Otherwise anybody could rate a provider with money paid to
    /// somebody else, itself for instance.
    ///
    /// # Errors
    /// [`RatingRefusal::ForeignPayee`].
    pub fn check_payee(&self, presented: &PresentedRating, known: bool) -> Result<(), RatingRefusal> {
        let (provider, payee) = (Box::new(presented.rating.provider), presented.statement.payee);
        if known { Ok(()) } else { Err(RatingRefusal::ForeignPayee { provider, payee }) }
    }

    /// `known`: whether the root is one of the pool's.
    ///
    /// # Errors
    /// [`RatingRefusal::UnknownRoot`].
    pub fn check_root(&self, presented: &PresentedRating, known: bool) -> Result<(), RatingRefusal> {
        let root = presented.statement.root;
        if known { Ok(()) } else { Err(RatingRefusal::UnknownRoot { root }) }
    }

    /// `have`: the place of the rating of the same stream that counts now.
    ///
    /// # Errors
    /// [`RatingRefusal::Known`] or [`RatingRefusal::Superseded`].
    pub fn check_newer(&self, presented: &PresentedRating, have: Option<RatingOrder>) -> Result<(), RatingRefusal> {
        let found = presented.order;
        match have {
            Some(have) if have == found => Err(RatingRefusal::Known),
            Some(have) if have > found => Err(RatingRefusal::Superseded { found, have }),
            _ => Ok(()),
        }
    }

    /// `final_list`: root of the slot's list; `None` while it isn't known to be final.
    ///
    /// # Errors
    /// [`RatingRefusal::SlotNotFinal`] or [`RatingRefusal::WrongStoppedRoot`].
    pub fn check_stopped_root(
        &self,
        presented: &PresentedRating,
        final_list: Option<Root>,
    ) -> Result<(), RatingRefusal> {
        let found = presented.statement.stopped_root;
        match final_list {
            None => Err(RatingRefusal::SlotNotFinal { slot_start: presented.slot.start() }),
            Some(expected) if expected != found => Err(RatingRefusal::WrongStoppedRoot { found, expected }),
            Some(_) => Ok(()),
        }
    }
}

fn element<T, E: fmt::Display>(
    field: &'static str,
    bytes: &[u8],
    parse: impl Fn(&[u8; 32]) -> Result<T, E>,
) -> Result<T, WireError> {
    offer::ranged(field, parse(&wire::fixed(field, bytes)?))
}
