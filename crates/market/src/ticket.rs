//! Tickets on the wire, and every check of them that needs neither the chain nor a database.
//!
//! A provider decodes a proof with its [`TicketVerifier`] and runs the checks in the order of this module, cheapest first:
//! [`TicketVerifier::decode`] (size, version, shape), [`TicketVerifier::check_terms`], [`TicketVerifier::check_slot`],
//! [`TicketVerifier::check_stopped_root`], [`TicketVerifier::check_root`], [`TicketVerifier::check_signature`]. Its own nullifier
//! store and the proof itself come last. Each refusal is a [`TicketRefusal`] with its own code in Waku's `EligibilityStatus`.

use std::fmt;

use ed25519_dalek::{Signature, Signer as _, SigningKey, VerifyingKey};
use prost::Message as _;
use serde::{Deserialize, Serialize};
use tributary_protocol::amount::{Amount, Price};
use tributary_protocol::error::TicketError;
use tributary_protocol::field::Root;
use tributary_protocol::keys::Owner;
use tributary_protocol::slot::{PoolClock, Slot};
use tributary_protocol::ticket::{
    MAX_COUNT, OfferTerms, ProviderDigest, TicketMessage, TicketNullifier, TicketStatement, request_signing_bytes,
};
use tributary_protocol::time::{Seconds, UnixTime};

use crate::offer::{self, OfferId};
use crate::proto;
use crate::wire::{self, WireError};

/// Largest encoded `EligibilityProof`, bytes.
pub const MAX_PROOF_BYTES: usize = 1024;
/// Length of a Groth16 proof on the wire, bytes.
pub const GROTH16_BYTES: usize = 256;
/// Most bytes of a [`proto::PaidRequest`] besides its payload.
pub const MAX_PAID_REQUEST_OVERHEAD: usize = MAX_PROOF_BYTES;

/// Why a request wasn't served, by code. The numbers stand in `EligibilityStatus.status_code`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
#[non_exhaustive]
pub enum Reason {
    /// No payment came with the request.
    PaymentRequired,
    /// The proof is larger than any valid one.
    TooLarge,
    /// The proof can't be decoded, or a field isn't what it must be.
    Malformed,
    /// The proof or the ticket is of another version.
    BadVersion,
    /// The ticket counts for none, or for more than a proof can hold.
    OverSpent,
    /// A nullifier beyond the count isn't zero.
    UnusedNullifier,
    /// A nullifier within the count is zero.
    ZeroNullifier,
    /// A nullifier comes twice in one proof.
    RepeatedNullifier,
    /// A proof with price 0 is a rating, no ticket.
    NotATicket,
    /// The slot isn't one of the pool's clock.
    WrongSlot,
    /// The slot and its carry are over, or its nullifiers are forgotten.
    StaleSlot,
    /// The slot's stopped list isn't final yet.
    SlotNotFinal,
    /// The ticket was made for another payee.
    WrongPayee,
    /// The ticket's price isn't the offer's.
    WrongPrice,
    /// The ticket's minimum isn't the offer's.
    WrongMinStreamed,
    /// The pool doesn't know the root, or this provider hasn't seen it yet.
    UnknownRoot,
    /// The root isn't as deep in the chain as the offer demands.
    ShallowRoot,
    /// The stopped root isn't that of the slot's list.
    WrongStoppedRoot,
    /// A nullifier was used before, for another request.
    Replayed,
    /// This very request was served before.
    AlreadyServed,
    /// This very request's ticket is spent, but the service wasn't given.
    SpentUnserved,
    /// The ticket's key didn't sign this request.
    BadSignature,
    /// The zero-knowledge proof doesn't verify.
    InvalidProof,
    /// The use takes more tickets than the proof holds.
    TooFewTickets,
    /// The provider can't judge tickets now; nothing is spent.
    Unavailable,
}

/// What a buyer does about a refusal.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Remedy {
    /// Nothing is spent: send the same ticket again a little later. (Never with another root: that would link them.)
    SendAgain,
    /// Make a ticket for the current slot.
    NewTicket,
    /// Read the provider's newest offer, and pay as it says.
    ReadOffer,
    /// The ticket is spent.
    Spent,
    /// The program that made the ticket is wrong.
    Report,
}

impl Reason {
    /// All reasons.
    pub const ALL: [Self; 25] = [
        Self::PaymentRequired,
        Self::TooLarge,
        Self::Malformed,
        Self::BadVersion,
        Self::OverSpent,
        Self::UnusedNullifier,
        Self::ZeroNullifier,
        Self::RepeatedNullifier,
        Self::NotATicket,
        Self::WrongSlot,
        Self::StaleSlot,
        Self::SlotNotFinal,
        Self::WrongPayee,
        Self::WrongPrice,
        Self::WrongMinStreamed,
        Self::UnknownRoot,
        Self::ShallowRoot,
        Self::WrongStoppedRoot,
        Self::Replayed,
        Self::AlreadyServed,
        Self::SpentUnserved,
        Self::BadSignature,
        Self::InvalidProof,
        Self::TooFewTickets,
        Self::Unavailable,
    ];

    /// The number in `EligibilityStatus.status_code`.
    #[must_use]
    pub const fn status_code(self) -> u32 {
        match self {
            Self::PaymentRequired => 402,
            Self::TooLarge => 40_201,
            Self::Malformed => 40_202,
            Self::BadVersion => 40_203,
            Self::OverSpent => 40_204,
            Self::UnusedNullifier => 40_205,
            Self::ZeroNullifier => 40_206,
            Self::RepeatedNullifier => 40_207,
            Self::NotATicket => 40_208,
            Self::WrongSlot => 40_209,
            Self::StaleSlot => 40_210,
            Self::SlotNotFinal => 40_211,
            Self::WrongPayee => 40_212,
            Self::WrongPrice => 40_213,
            Self::WrongMinStreamed => 40_214,
            Self::UnknownRoot => 40_215,
            Self::ShallowRoot => 40_216,
            Self::WrongStoppedRoot => 40_217,
            Self::Replayed => 40_218,
            Self::AlreadyServed => 40_219,
            Self::SpentUnserved => 40_220,
            Self::BadSignature => 40_221,
            Self::InvalidProof => 40_222,
            Self::TooFewTickets => 40_223,
            Self::Unavailable => 40_224,
        }
    }

    /// The reason with this number.
    #[must_use]
    pub fn from_status_code(code: u32) -> Option<Self> {
        Self::ALL.into_iter().find(|reason| reason.status_code() == code)
    }

    /// The name that begins `EligibilityStatus.status_desc`, and labels metrics.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::PaymentRequired => "payment_required",
            Self::TooLarge => "too_large",
            Self::Malformed => "malformed",
            Self::BadVersion => "bad_version",
            Self::OverSpent => "over_spent",
            Self::UnusedNullifier => "unused_nullifier",
            Self::ZeroNullifier => "zero_nullifier",
            Self::RepeatedNullifier => "repeated_nullifier",
            Self::NotATicket => "not_a_ticket",
            Self::WrongSlot => "wrong_slot",
            Self::StaleSlot => "stale_slot",
            Self::SlotNotFinal => "slot_not_final",
            Self::WrongPayee => "wrong_payee",
            Self::WrongPrice => "wrong_price",
            Self::WrongMinStreamed => "wrong_min_streamed",
            Self::UnknownRoot => "unknown_root",
            Self::ShallowRoot => "shallow_root",
            Self::WrongStoppedRoot => "wrong_stopped_root",
            Self::Replayed => "replayed",
            Self::AlreadyServed => "already_served",
            Self::SpentUnserved => "spent_unserved",
            Self::BadSignature => "bad_signature",
            Self::InvalidProof => "invalid_proof",
            Self::TooFewTickets => "too_few_tickets",
            Self::Unavailable => "unavailable",
        }
    }

    /// The reason with this name.
    #[must_use]
    pub fn from_name(name: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|reason| reason.name() == name)
    }

    /// What the buyer does about it.
    #[must_use]
    pub const fn remedy(self) -> Remedy {
        match self {
            Self::SlotNotFinal | Self::UnknownRoot | Self::ShallowRoot | Self::WrongStoppedRoot | Self::Unavailable => {
                Remedy::SendAgain
            }
            Self::StaleSlot | Self::TooFewTickets => Remedy::NewTicket,
            Self::PaymentRequired | Self::WrongPayee | Self::WrongPrice | Self::WrongMinStreamed => Remedy::ReadOffer,
            Self::Replayed | Self::AlreadyServed | Self::SpentUnserved => Remedy::Spent,
            Self::TooLarge
            | Self::Malformed
            | Self::BadVersion
            | Self::OverSpent
            | Self::UnusedNullifier
            | Self::ZeroNullifier
            | Self::RepeatedNullifier
            | Self::NotATicket
            | Self::WrongSlot
            | Self::BadSignature
            | Self::InvalidProof => Remedy::Report,
        }
    }

    /// Stable code of the refusal among all errors of the program.
    #[must_use]
    pub const fn code(self) -> &'static str {
        match self {
            Self::PaymentRequired => "TRB-M400",
            Self::TooLarge => "TRB-M401",
            Self::Malformed => "TRB-M402",
            Self::BadVersion => "TRB-M403",
            Self::OverSpent => "TRB-M404",
            Self::UnusedNullifier => "TRB-M405",
            Self::ZeroNullifier => "TRB-M406",
            Self::RepeatedNullifier => "TRB-M407",
            Self::NotATicket => "TRB-M408",
            Self::WrongSlot => "TRB-M409",
            Self::StaleSlot => "TRB-M410",
            Self::SlotNotFinal => "TRB-M411",
            Self::WrongPayee => "TRB-M412",
            Self::WrongPrice => "TRB-M413",
            Self::WrongMinStreamed => "TRB-M414",
            Self::UnknownRoot => "TRB-M415",
            Self::ShallowRoot => "TRB-M416",
            Self::WrongStoppedRoot => "TRB-M417",
            Self::Replayed => "TRB-M418",
            Self::AlreadyServed => "TRB-M419",
            Self::SpentUnserved => "TRB-M420",
            Self::BadSignature => "TRB-M421",
            Self::InvalidProof => "TRB-M422",
            Self::TooFewTickets => "TRB-M423",
            Self::Unavailable => "TRB-M424",
        }
    }
}

impl fmt::Display for Reason {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

/// A refused ticket: the reason, and the values that were compared.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum TicketRefusal {
    /// No payment came. Names the offer to pay by.
    #[error("this service is paid for{}", OfferHint(*offer))]
    PaymentRequired {
        /// The provider's current offer.
        offer: Option<OfferId>,
    },
    /// See [`Reason::TooLarge`].
    #[error("the proof has {size} bytes, at most {limit} are taken")]
    TooLarge {
        /// Its size, bytes.
        size: usize,
        /// The limit, bytes.
        limit: usize,
    },
    /// See [`Reason::Malformed`].
    #[error("{0}")]
    Malformed(WireError),
    /// See [`Reason::BadVersion`].
    #[error("{0}")]
    BadVersion(WireError),
    /// See [`Reason::OverSpent`].
    #[error("the ticket counts for {count}; a proof holds 1 to 4")]
    OverSpent {
        /// The count that came.
        count: u64,
    },
    /// See [`Reason::UnusedNullifier`].
    #[error("nullifier {position} is beyond the count and not zero")]
    UnusedNullifier {
        /// Its place, from 1.
        position: usize,
    },
    /// See [`Reason::ZeroNullifier`].
    #[error("nullifier {position} is zero")]
    ZeroNullifier {
        /// Its place, from 1.
        position: usize,
    },
    /// See [`Reason::RepeatedNullifier`].
    #[error("nullifiers {first} and {second} are the same")]
    RepeatedNullifier {
        /// Place of the first, from 1.
        first: usize,
        /// Place of the second, from 1.
        second: usize,
    },
    /// See [`Reason::NotATicket`].
    #[error("a proof with price 0 is a rating, it pays for nothing")]
    NotATicket,
    /// See [`Reason::WrongSlot`].
    #[error("{slot_start} begins no slot of {slot_length} s")]
    WrongSlot {
        /// The ticket's slot.
        slot_start: UnixTime,
        /// The pool's slot length.
        slot_length: Seconds,
    },
    /// See [`Reason::StaleSlot`].
    #[error("tickets of slot {slot_start} were taken until {taken_until}, now is {now}")]
    StaleSlot {
        /// The ticket's slot.
        slot_start: UnixTime,
        /// Until when its tickets were taken.
        taken_until: UnixTime,
        /// The provider's time.
        now: UnixTime,
    },
    /// See [`Reason::StaleSlot`]: below the floor, whatever the clock says.
    #[error("slot {slot_start} is closed, and all up to {floor}")]
    BelowFloor {
        /// The ticket's slot.
        slot_start: UnixTime,
        /// The latest closed slot.
        floor: UnixTime,
    },
    /// See [`Reason::SlotNotFinal`].
    #[error("the stopped list of slot {slot_start} isn't final yet, now is {now}")]
    SlotNotFinal {
        /// The ticket's slot.
        slot_start: UnixTime,
        /// The provider's time.
        now: UnixTime,
    },
    /// See [`Reason::WrongPayee`].
    #[error("the ticket is for payee {found}, this provider is paid at {expected}")]
    WrongPayee {
        /// The ticket's payee.
        found: Owner,
        /// The provider's.
        expected: Owner,
    },
    /// See [`Reason::WrongPrice`].
    #[error("the ticket's price is {found}, the offer's {expected}")]
    WrongPrice {
        /// The ticket's price.
        found: Price,
        /// The offer's.
        expected: Price,
    },
    /// See [`Reason::WrongMinStreamed`].
    #[error("the ticket proves {found} streamed, the offer asks for {expected}")]
    WrongMinStreamed {
        /// The ticket's minimum.
        found: Amount,
        /// The offer's.
        expected: Amount,
    },
    /// See [`Reason::UnknownRoot`].
    #[error("root {root} isn't known here")]
    UnknownRoot {
        /// The ticket's root.
        root: Root,
    },
    /// See [`Reason::ShallowRoot`].
    #[error("the root is {depth} blocks deep, the offer asks for {needed}")]
    ShallowRoot {
        /// Blocks on top of the root's block.
        depth: u32,
        /// Blocks that the offer demands.
        needed: u32,
    },
    /// See [`Reason::WrongStoppedRoot`].
    #[error("the stopped root is {found}, the slot's list has {expected}")]
    WrongStoppedRoot {
        /// The ticket's.
        found: Root,
        /// The final list's.
        expected: Root,
    },
    /// See [`Reason::Replayed`].
    #[error("nullifier {nullifier} was used before")]
    Replayed {
        /// The nullifier.
        nullifier: TicketNullifier,
    },
    /// See [`Reason::AlreadyServed`].
    #[error("this request was served before; its ticket is spent")]
    AlreadyServed,
    /// See [`Reason::SpentUnserved`].
    #[error("this request's ticket is spent, and the service wasn't given")]
    SpentUnserved,
    /// See [`Reason::BadSignature`].
    #[error("the ticket's key didn't sign this request")]
    BadSignature,
    /// See [`Reason::InvalidProof`].
    #[error("the proof doesn't verify")]
    InvalidProof,
    /// See [`Reason::TooFewTickets`].
    #[error("the use takes {needed} tickets, the proof holds {count}")]
    TooFewTickets {
        /// Tickets in the proof.
        count: u8,
        /// Tickets that the use takes.
        needed: u64,
    },
    /// See [`Reason::Unavailable`].
    #[error("tickets can't be judged now: {reason}")]
    Unavailable {
        /// Why, without details of the machine.
        reason: &'static str,
    },
}

struct OfferHint(Option<OfferId>);

impl fmt::Display for OfferHint {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.0 {
            Some(offer) => write!(f, "; offer={offer}"),
            None => Ok(()),
        }
    }
}

impl TicketRefusal {
    /// The reason alone.
    #[must_use]
    pub const fn reason(&self) -> Reason {
        match self {
            Self::PaymentRequired { .. } => Reason::PaymentRequired,
            Self::TooLarge { .. } => Reason::TooLarge,
            Self::Malformed(_) => Reason::Malformed,
            Self::BadVersion(_) => Reason::BadVersion,
            Self::OverSpent { .. } => Reason::OverSpent,
            Self::UnusedNullifier { .. } => Reason::UnusedNullifier,
            Self::ZeroNullifier { .. } => Reason::ZeroNullifier,
            Self::RepeatedNullifier { .. } => Reason::RepeatedNullifier,
            Self::NotATicket => Reason::NotATicket,
            Self::WrongSlot { .. } => Reason::WrongSlot,
            Self::StaleSlot { .. } | Self::BelowFloor { .. } => Reason::StaleSlot,
            Self::SlotNotFinal { .. } => Reason::SlotNotFinal,
            Self::WrongPayee { .. } => Reason::WrongPayee,
            Self::WrongPrice { .. } => Reason::WrongPrice,
            Self::WrongMinStreamed { .. } => Reason::WrongMinStreamed,
            Self::UnknownRoot { .. } => Reason::UnknownRoot,
            Self::ShallowRoot { .. } => Reason::ShallowRoot,
            Self::WrongStoppedRoot { .. } => Reason::WrongStoppedRoot,
            Self::Replayed { .. } => Reason::Replayed,
            Self::AlreadyServed => Reason::AlreadyServed,
            Self::SpentUnserved => Reason::SpentUnserved,
            Self::BadSignature => Reason::BadSignature,
            Self::InvalidProof => Reason::InvalidProof,
            Self::TooFewTickets { .. } => Reason::TooFewTickets,
            Self::Unavailable { .. } => Reason::Unavailable,
        }
    }

    /// Stable code of the error.
    #[must_use]
    pub const fn code(&self) -> &'static str {
        self.reason().code()
    }

    /// The answer on the wire: the reason's number, and `name: values`.
    #[must_use]
    pub fn status(&self) -> proto::EligibilityStatus {
        proto::EligibilityStatus {
            status_code: Some(self.reason().status_code()),
            status_desc: Some(format!("{}: {self}", self.reason())),
        }
    }
}

impl From<WireError> for TicketRefusal {
    fn from(error: WireError) -> Self {
        match error {
            WireError::TooLarge { size, limit, .. } => Self::TooLarge { size, limit },
            WireError::Version { .. } => Self::BadVersion(error),
            _ => Self::Malformed(error),
        }
    }
}

/// The answer to a request whose payment was taken.
#[must_use]
pub fn accepted() -> proto::EligibilityStatus {
    proto::EligibilityStatus { status_code: Some(200), status_desc: Some("OK".into()) }
}

/// A provider's answer about payment, as its buyer reads it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Verdict {
    /// The payment was taken.
    Accepted,
    /// It was refused, or none came.
    Refused {
        /// Why.
        reason: Reason,
        /// The offer to pay by, where the provider named one.
        offer: Option<OfferId>,
        /// The provider's words, fit for a terminal.
        description: String,
    },
    /// A code that this version doesn't know.
    Unknown {
        /// The code.
        code: u32,
        /// The provider's words, fit for a terminal.
        description: String,
    },
}

impl Verdict {
    /// Reads a status code and its description.
    #[must_use]
    pub fn read(code: u32, description: &str) -> Self {
        let description: String = description.chars().filter(|c| !c.is_control()).take(512).collect();
        if code == 200 {
            return Self::Accepted;
        }
        match Reason::from_status_code(code) {
            Some(reason) => Self::refused(reason, description),
            None => Self::Unknown { code, description },
        }
    }

    /// Reads the description of a refusal whose protocol has no field for the reason's number (lightpush, Filter): the name before the first
    /// colon tells. A name that isn't known is [`Reason::PaymentRequired`].
    #[must_use]
    pub fn read_named(description: &str) -> Self {
        let description: String = description.chars().filter(|c| !c.is_control()).take(512).collect();
        let reason = description.split_once(':').and_then(|(name, _)| Reason::from_name(name));
        Self::refused(reason.unwrap_or(Reason::PaymentRequired), description)
    }

    fn refused(reason: Reason, description: String) -> Self {
        let offer = description
            .split_once("offer=")
            .and_then(|(_, rest)| rest.get(..64))
            .and_then(|digits| hex::decode(digits).ok())
            .and_then(|bytes| OfferId::from_bytes(&bytes).ok());
        Self::Refused { reason, offer, description }
    }
}

/// A ticket that its buyer holds: proved, and bound to a one-time key.
pub struct PreparedTicket {
    /// The public inputs.
    pub statement: TicketStatement,
    /// The Groth16 proof as on the wire.
    pub proof: [u8; GROTH16_BYTES],
    /// The one-time key.
    pub key: SigningKey,
}

impl fmt::Debug for PreparedTicket {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("PreparedTicket")
            .field("slot_start", &self.statement.slot_start)
            .field("count", &self.statement.count)
            .finish_non_exhaustive()
    }
}

impl PreparedTicket {
    /// An encoded `EligibilityProof` that pays for `request`, the request's bytes without its proof.
    #[must_use]
    pub fn pay(&self, provider: &ProviderDigest, request: &[u8]) -> Vec<u8> {
        let payment = proto::PaymentProof {
            version: 1,
            proof: Some(proto::payment_proof::Proof::Ticket(proto::TicketProof {
                ticket: Some(self.to_proto()),
                signature: self.sign(provider, request),
            })),
        };
        proto::EligibilityProof { proof_of_payment: Some(payment.encode_to_vec()) }.encode_to_vec()
    }

    /// A `PaidRequest` around a payload, for services that have no envelope of their own.
    #[must_use]
    pub fn pay_payload(&self, provider: &ProviderDigest, payload: Vec<u8>) -> proto::PaidRequest {
        proto::PaidRequest { ticket: Some(self.to_proto()), signature: self.sign(provider, &payload), payload }
    }

    fn sign(&self, provider: &ProviderDigest, request: &[u8]) -> Vec<u8> {
        let nf_1 = self.statement.nullifiers[0];
        self.key.sign(&request_signing_bytes(provider, nf_1, request)).to_vec()
    }

    fn to_proto(&self) -> proto::Ticket {
        let statement = &self.statement;
        proto::Ticket {
            version: 1,
            root: statement.root.to_be_bytes().to_vec(),
            stopped_root: statement.stopped_root.to_be_bytes().to_vec(),
            price: wire::amount_to_bytes(statement.price.get()),
            slot_start: statement.slot_start.get(),
            count: u32::from(statement.count),
            min_streamed: wire::amount_to_bytes(statement.min_streamed.get()),
            nullifiers: statement.nullifiers.iter().map(|nullifier| nullifier.to_be_bytes().to_vec()).collect(),
            proof: self.proof.to_vec(),
            public_key: self.key.verifying_key().to_bytes().to_vec(),
            payee: statement.payee.to_be_bytes().to_vec(),
        }
    }
}

/// A ticket that came with a request, well-formed and not yet believed.
#[derive(Clone, PartialEq, Eq)]
pub struct PresentedTicket {
    statement: TicketStatement,
    proof: [u8; GROTH16_BYTES],
    public_key: [u8; 32],
    signature: [u8; 64],
}

impl PresentedTicket {
    /// The public inputs. Payee, slot end and message are the verifier's own; so a ticket for another provider fails in its proof at the
    /// latest.
    #[must_use]
    pub const fn statement(&self) -> &TicketStatement {
        &self.statement
    }

    /// The Groth16 proof as on the wire.
    #[must_use]
    pub const fn proof(&self) -> &[u8; GROTH16_BYTES] {
        &self.proof
    }

    /// The one-time Ed25519 key.
    #[must_use]
    pub const fn public_key(&self) -> &[u8; 32] {
        &self.public_key
    }

    /// The signature over the request.
    #[must_use]
    pub const fn signature(&self) -> &[u8; 64] {
        &self.signature
    }

    /// Tickets in this proof.
    #[must_use]
    pub const fn count(&self) -> u8 {
        self.statement.count
    }

    /// The nullifiers that are used up when the ticket is taken.
    #[must_use]
    pub fn nullifiers(&self) -> &[TicketNullifier] {
        self.statement.used_nullifiers()
    }
}

impl fmt::Debug for PresentedTicket {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("PresentedTicket")
            .field("slot_start", &self.statement.slot_start)
            .field("count", &self.statement.count)
            .finish_non_exhaustive()
    }
}

/// How well a provider knows a root.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum RootStanding {
    /// Not at all.
    Unknown,
    /// The pool knows it since a block with this many blocks on top.
    Known {
        /// Blocks on top.
        depth: u32,
    },
}

/// What a provider checks tickets against.
#[derive(Debug, Clone, Copy)]
pub struct TicketVerifier {
    /// The pool's clock.
    pub clock: PoolClock,
    /// SHA-256 of the provider's PeerId.
    pub provider: ProviderDigest,
    /// Payee, price and minimum of the public offer.
    pub terms: OfferTerms,
    /// How long after a slot's end its tickets are taken.
    pub slot_carry: Seconds,
    /// Blocks that must lie on top of a root's block.
    pub root_depth: u32,
}

impl TicketVerifier {
    /// Reads an encoded `EligibilityProof`: size, versions, lengths, canonical elements. A missing or empty one is
    /// [`TicketRefusal::PaymentRequired`] without an offer; see [`TicketRefusal::PaymentRequired`] to add it.
    ///
    /// # Errors
    /// [`TicketRefusal`] with the reasons payment_required, too_large, malformed, bad_version, over_spent, wrong_slot, wrong_payee.
    pub fn decode(&self, eligibility_proof: &[u8]) -> Result<PresentedTicket, TicketRefusal> {
        let required = TicketRefusal::PaymentRequired { offer: None };
        if eligibility_proof.is_empty() {
            return Err(required);
        }
        let envelope: proto::EligibilityProof = wire::decode("eligibility proof", eligibility_proof, MAX_PROOF_BYTES)?;
        let payment = match envelope.proof_of_payment {
            Some(payment) if !payment.is_empty() => payment,
            _ => return Err(required),
        };
        let payment: proto::PaymentProof = wire::decode("payment proof", &payment, MAX_PROOF_BYTES)?;
        wire::check_version("payment proof", payment.version)?;
        let Some(proto::payment_proof::Proof::Ticket(proof)) = payment.proof else {
            return Err(WireError::Missing { field: "proof" }.into());
        };
        let ticket = proof.ticket.ok_or(WireError::Missing { field: "ticket" })?;
        self.read(&ticket, &proof.signature)
    }

    /// Reads the ticket of an encoded `PaidRequest` of at most `limit` bytes, and its payload.
    ///
    /// # Errors
    /// As [`Self::decode`].
    pub fn decode_paid_request(
        &self,
        request: &[u8],
        limit: usize,
    ) -> Result<(PresentedTicket, Vec<u8>), TicketRefusal> {
        let request: proto::PaidRequest = wire::decode("paid request", request, limit)?;
        let ticket = request.ticket.ok_or(TicketRefusal::PaymentRequired { offer: None })?;
        Ok((self.read(&ticket, &request.signature)?, request.payload))
    }

    fn read(&self, ticket: &proto::Ticket, signature: &[u8]) -> Result<PresentedTicket, TicketRefusal> {
        wire::check_version("ticket", ticket.version)?;
        let count = match u8::try_from(ticket.count) {
            Ok(count) if (1..=MAX_COUNT).contains(&usize::from(count)) => count,
            _ => {
                return Err(TicketRefusal::OverSpent { count: u64::from(ticket.count) });
            }
        };
        if ticket.nullifiers.len() != MAX_COUNT {
            return Err(WireError::Range {
                field: "nullifiers",
                got: ticket.nullifiers.len() as u64,
                min: MAX_COUNT as u64,
                max: MAX_COUNT as u64,
            }
            .into());
        }
        let mut nullifiers = [TicketNullifier::UNUSED; MAX_COUNT];
        for (place, bytes) in nullifiers.iter_mut().zip(&ticket.nullifiers) {
            *place = element("nullifiers", bytes, TicketNullifier::try_from_be_bytes)?;
        }
        let slot_start = offer::time("slot_start", ticket.slot_start)?;
        let slot = self
            .clock
            .slot_at(slot_start)
            .map_err(|_| TicketRefusal::WrongSlot { slot_start, slot_length: self.clock.slot_length() })?;
        let payee = element("payee", &ticket.payee, Owner::try_from_be_bytes)?;
        if payee != self.terms.payee {
            return Err(TicketRefusal::WrongPayee { found: payee, expected: self.terms.payee });
        }
        let public_key = wire::fixed("public_key", &ticket.public_key)?;
        let price = wire::amount_from_bytes("price", &ticket.price, Price::BITS)?;
        let min_streamed = wire::amount_from_bytes("min_streamed", &ticket.min_streamed, Amount::BITS)?;
        Ok(PresentedTicket {
            statement: TicketStatement {
                root: element("root", &ticket.root, Root::try_from_be_bytes)?,
                stopped_root: element("stopped_root", &ticket.stopped_root, Root::try_from_be_bytes)?,
                payee: self.terms.payee,
                price: offer::ranged("price", Price::new(price))?,
                slot_start: slot.start(),
                slot_end: slot.end(),
                count,
                min_streamed: offer::ranged("min_streamed", Amount::new(min_streamed))?,
                message: TicketMessage::of_ticket(&public_key, &self.provider, slot.start()),
                nullifiers,
            },
            proof: wire::fixed("proof", &ticket.proof)?,
            public_key,
            signature: wire::fixed("signature", signature)?,
        })
    }

    /// Checks nullifiers, price and minimum against the public offer, and returns the ticket's slot.
    ///
    /// # Errors
    /// [`TicketRefusal`] with the reasons unused_nullifier, zero_nullifier, repeated_nullifier, not_a_ticket, wrong_price,
    /// wrong_min_streamed.
    pub fn check_terms(&self, ticket: &PresentedTicket) -> Result<Slot, TicketRefusal> {
        let statement = &ticket.statement;
        // The list's root has its own check, which comes later.
        statement
            .check_ticket(&self.clock, &self.terms, statement.stopped_root)
            .map_err(|error| self.refusal_of(statement, error))
    }

    /// Checks that the slot's tickets are taken at `now`. `floor` is the latest slot whose nullifiers were forgotten.
    ///
    /// # Errors
    /// [`Reason::StaleSlot`].
    pub fn check_slot(&self, slot: Slot, now: UnixTime, floor: Option<UnixTime>) -> Result<(), TicketRefusal> {
        let slot_start = slot.start();
        if let Some(floor) = floor
            && slot_start <= floor
        {
            return Err(TicketRefusal::BelowFloor { slot_start, floor });
        }
        let taken_until = slot.end().saturating_add(self.slot_carry);
        if now >= taken_until {
            return Err(TicketRefusal::StaleSlot { slot_start, taken_until, now });
        }
        Ok(())
    }

    /// Checks the stopped root against the slot's final list; `None` while it isn't final.
    ///
    /// # Errors
    /// [`Reason::SlotNotFinal`] or [`Reason::WrongStoppedRoot`].
    pub fn check_stopped_root(
        &self,
        ticket: &PresentedTicket,
        final_list: Option<Root>,
        now: UnixTime,
    ) -> Result<(), TicketRefusal> {
        let found = ticket.statement.stopped_root;
        match final_list {
            None => Err(TicketRefusal::SlotNotFinal { slot_start: ticket.statement.slot_start, now }),
            Some(expected) if expected != found => Err(TicketRefusal::WrongStoppedRoot { found, expected }),
            Some(_) => Ok(()),
        }
    }

    /// Checks the root's standing.
    ///
    /// # Errors
    /// [`Reason::UnknownRoot`] or [`Reason::ShallowRoot`].
    pub fn check_root(&self, ticket: &PresentedTicket, standing: RootStanding) -> Result<(), TicketRefusal> {
        match standing {
            RootStanding::Unknown => Err(TicketRefusal::UnknownRoot { root: ticket.statement.root }),
            RootStanding::Known { depth } if depth < self.root_depth => {
                Err(TicketRefusal::ShallowRoot { depth, needed: self.root_depth })
            }
            RootStanding::Known { .. } => Ok(()),
        }
    }

    /// Checks that the proof holds the tickets that a use takes.
    ///
    /// # Errors
    /// [`Reason::TooFewTickets`].
    pub fn check_count(&self, ticket: &PresentedTicket, needed: u64) -> Result<(), TicketRefusal> {
        if u64::from(ticket.count()) < needed {
            return Err(TicketRefusal::TooFewTickets { count: ticket.count(), needed });
        }
        Ok(())
    }

    /// Checks the one-time key's signature over `request`, the request's bytes without its proof.
    ///
    /// # Errors
    /// [`Reason::BadSignature`], also for keys of small order and signatures with several forms.
    pub fn check_signature(&self, ticket: &PresentedTicket, request: &[u8]) -> Result<(), TicketRefusal> {
        let message = request_signing_bytes(&self.provider, ticket.statement.nullifiers[0], request);
        VerifyingKey::from_bytes(&ticket.public_key)
            .and_then(|key| key.verify_strict(&message, &Signature::from_bytes(&ticket.signature)))
            .map_err(|_| TicketRefusal::BadSignature)
    }

    fn refusal_of(&self, statement: &TicketStatement, error: TicketError) -> TicketRefusal {
        match error {
            TicketError::Count { found } => TicketRefusal::OverSpent { count: found },
            TicketError::UnusedNullifier { position } => TicketRefusal::UnusedNullifier { position },
            TicketError::ZeroNullifier { position } => TicketRefusal::ZeroNullifier { position },
            TicketError::RepeatedNullifier { first, second } => TicketRefusal::RepeatedNullifier { first, second },
            TicketError::Slot(_) => {
                TicketRefusal::WrongSlot { slot_start: statement.slot_start, slot_length: self.clock.slot_length() }
            }
            TicketError::WrongPayee { .. } => {
                TicketRefusal::WrongPayee { found: statement.payee, expected: self.terms.payee }
            }
            TicketError::WrongPrice { .. } => {
                TicketRefusal::WrongPrice { found: statement.price, expected: self.terms.price }
            }
            TicketError::WrongMinStreamed { .. } => {
                TicketRefusal::WrongMinStreamed { found: statement.min_streamed, expected: self.terms.min_streamed }
            }
            TicketError::WrongPurpose { .. } => TicketRefusal::NotATicket,
            other => TicketRefusal::Malformed(WireError::Invalid { field: "ticket", reason: other.to_string() }),
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
