//! Leases: a service for a slot, bound to the PeerId that uses it. Protocol `/tributary/lease/1`.
//!
//! A buyer names service, slot and quota and pays with one proof of tickets of that very slot. From then on its PeerId is served without a proof in
//! each request: what unmodified Waku clients need, and Filter, whose pushes are no requests. A lease is renewed by buying the next slot before the
//! running one ends; slots in a row are one lease without a gap.

use std::fmt;

use libp2p::PeerId;
use prost::Message as _;
use tributary_protocol::slot::Slot;
use tributary_protocol::time::{Seconds, UnixTime};

use crate::offer::{self, MAX_LEASE_GRACE, OfferId, ServiceId};
use crate::proto;
use crate::ticket::{Reason, TicketRefusal, Verdict};
use crate::wire::{self, WireError};

/// Protocol id.
pub const PROTOCOL: &str = "/tributary/lease/1";
/// Largest request, bytes: a proof of 1024, and the terms.
pub const MAX_REQUEST_BYTES: usize = 2048;
/// Largest answer, bytes.
pub const MAX_RESPONSE_BYTES: usize = 2048;
/// What a service hands to the holder of a lease, bytes at most.
pub const MAX_GRANT_BYTES: usize = 1024;
/// Slots that an answer lists at most.
pub const MAX_LEASED_SLOTS: usize = 3;

const SIGNING_DOMAIN: &[u8] = b"tributary.lease.v1";
const MAX_PEER_ID: usize = 64;
const MAX_DESCRIPTION: usize = 512;

/// What a buyer asks for.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct LeaseTerms {
    /// Whom the lease is for.
    pub peer: PeerId,
    /// The service's id in the offer.
    pub service: ServiceId,
    /// Start of the slot; the tickets are of the same slot.
    pub slot_start: UnixTime,
    /// How much of the service, at least 1. What it counts is the service's: topics of Filter, messages of lightpush.
    pub quota: u32,
}

impl LeaseTerms {
    /// The request bytes that the ticket's key signs (inside of
    /// [`request_signing_bytes`](tributary_protocol::ticket::request_signing_bytes), as for every paid request):
    /// `"tributary.lease.v1" || u16 length || PeerId || u16 length || service || u64 slot_start || u32 quota`, integers big-endian.
    #[must_use]
    pub fn signing_bytes(&self) -> Vec<u8> {
        let peer = self.peer.to_bytes();
        let service = self.service.as_str().as_bytes();
        let mut bytes = SIGNING_DOMAIN.to_vec();
        for part in [peer.as_slice(), service] {
            // Both are at most 64 bytes by their types.
            bytes.extend_from_slice(&u16::try_from(part.len()).unwrap_or(u16::MAX).to_be_bytes());
            bytes.extend_from_slice(part);
        }
        bytes.extend_from_slice(&self.slot_start.get().to_be_bytes());
        bytes.extend_from_slice(&self.quota.to_be_bytes());
        bytes
    }
}

/// A request.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum LeaseRequest {
    /// Buys quota for a slot.
    Buy {
        /// What is bought.
        terms: LeaseTerms,
        /// An encoded `EligibilityProof` whose signature covers [`LeaseTerms::signing_bytes`]. Empty: not paid.
        eligibility_proof: Vec<u8>,
    },
    /// Asks what the sender has.
    Query {
        /// Of which service.
        service: ServiceId,
    },
}

impl LeaseRequest {
    /// The request's bytes.
    #[must_use]
    pub fn encode(&self) -> Vec<u8> {
        let request = match self {
            Self::Buy { terms, eligibility_proof } => proto::lease_request::Request::Buy(proto::LeaseBuy {
                peer_id: terms.peer.to_bytes(),
                service: terms.service.to_string(),
                slot_start: terms.slot_start.get(),
                quota: terms.quota,
                eligibility_proof: eligibility_proof.clone(),
            }),
            Self::Query { service } => {
                proto::lease_request::Request::Query(proto::LeaseQuery { service: service.to_string() })
            }
        };
        proto::LeaseRequest { version: 1, request: Some(request) }.encode_to_vec()
    }

    /// Reads a request. The proof is measured by the ticket's own checks.
    ///
    /// # Errors
    /// [`LeaseRefusal::BadVersion`] or [`LeaseRefusal::Malformed`].
    pub fn decode(bytes: &[u8]) -> Result<Self, LeaseRefusal> {
        let request: proto::LeaseRequest = wire::decode("lease request", bytes, MAX_REQUEST_BYTES)?;
        wire::check_version("lease request", request.version)?;
        Ok(match request.request.ok_or(WireError::Missing { field: "request" })? {
            proto::lease_request::Request::Buy(buy) => Self::Buy {
                terms: LeaseTerms {
                    peer: peer_id(&buy.peer_id)?,
                    service: buy.service.parse()?,
                    slot_start: offer::time("slot_start", buy.slot_start)?,
                    quota: buy.quota,
                },
                eligibility_proof: buy.eligibility_proof,
            },
            proto::lease_request::Request::Query(query) => Self::Query { service: query.service.parse()? },
        })
    }
}

fn peer_id(bytes: &[u8]) -> Result<PeerId, WireError> {
    const FIELD: &str = "peer_id";
    wire::in_range(FIELD, bytes.len() as u64, 1, MAX_PEER_ID as u64)?;
    PeerId::from_bytes(bytes).map_err(|error| WireError::Invalid { field: FIELD, reason: error.to_string() })
}

/// Why a lease wasn't granted, beyond the reasons of tickets. The numbers stand in `EligibilityStatus.status_code`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum LeaseReason {
    /// The request can't be decoded, or a field isn't what it must be.
    Malformed,
    /// The request is of another version.
    BadVersion,
    /// The lease is for another PeerId than the one that asks.
    WrongPeer,
    /// This provider leases no such service.
    UnknownService,
    /// The quota is 0, or more than a peer may have in one slot.
    BadQuota,
    /// The slot is neither the running one nor the next, or not the ticket's.
    WrongLeaseSlot,
    /// The provider has no room for more leases.
    Full,
    /// The peer asks too often.
    TooManyRequests,
}

impl LeaseReason {
    /// All reasons.
    pub const ALL: [Self; 8] = [
        Self::Malformed,
        Self::BadVersion,
        Self::WrongPeer,
        Self::UnknownService,
        Self::BadQuota,
        Self::WrongLeaseSlot,
        Self::Full,
        Self::TooManyRequests,
    ];

    /// The number in `EligibilityStatus.status_code`.
    #[must_use]
    pub const fn status_code(self) -> u32 {
        match self {
            Self::Malformed => 40_301,
            Self::BadVersion => 40_302,
            Self::WrongPeer => 40_303,
            Self::UnknownService => 40_304,
            Self::BadQuota => 40_305,
            Self::WrongLeaseSlot => 40_306,
            Self::Full => 40_307,
            Self::TooManyRequests => 40_308,
        }
    }

    /// The reason with this number.
    #[must_use]
    pub fn from_status_code(code: u32) -> Option<Self> {
        Self::ALL.into_iter().find(|reason| reason.status_code() == code)
    }

    /// The name that begins `EligibilityStatus.status_desc`.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::Malformed => "malformed_lease_request",
            Self::BadVersion => "bad_lease_version",
            Self::WrongPeer => "wrong_peer",
            Self::UnknownService => "unknown_service",
            Self::BadQuota => "bad_quota",
            Self::WrongLeaseSlot => "wrong_lease_slot",
            Self::Full => "full",
            Self::TooManyRequests => "too_many_requests",
        }
    }

    /// Stable code of the refusal among all errors of the program.
    #[must_use]
    pub const fn code(self) -> &'static str {
        match self {
            Self::Malformed => "TRB-M451",
            Self::BadVersion => "TRB-M452",
            Self::WrongPeer => "TRB-M453",
            Self::UnknownService => "TRB-M454",
            Self::BadQuota => "TRB-M455",
            Self::WrongLeaseSlot => "TRB-M456",
            Self::Full => "TRB-M457",
            Self::TooManyRequests => "TRB-M458",
        }
    }
}

impl fmt::Display for LeaseReason {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

/// A lease that wasn't granted: the reason, and the values that were compared. Nothing is spent, unless the ticket's own reason says so.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum LeaseRefusal {
    /// The payment was refused, or none came.
    #[error(transparent)]
    Ticket(#[from] TicketRefusal),
    /// See [`LeaseReason::Malformed`].
    #[error("{0}")]
    Malformed(WireError),
    /// See [`LeaseReason::BadVersion`].
    #[error("{0}")]
    BadVersion(WireError),
    /// See [`LeaseReason::WrongPeer`].
    #[error("the lease is for {named}, {asking} asks; each peer buys its own")]
    WrongPeer {
        /// Peer in the request.
        named: Box<PeerId>,
        /// Who sent it.
        asking: Box<PeerId>,
    },
    /// See [`LeaseReason::UnknownService`].
    #[error("{service} isn't leased here; read the newest offer")]
    UnknownService {
        /// The service asked for.
        service: ServiceId,
    },
    /// See [`LeaseReason::BadQuota`].
    #[error("the quota is {asked}, {held} are leased in this slot, at most {max} are possible in all")]
    BadQuota {
        /// The quota asked for.
        asked: u32,
        /// What the peer has in the slot already.
        held: u32,
        /// Largest quota of a peer in one slot.
        max: u32,
    },
    /// See [`LeaseReason::WrongLeaseSlot`].
    #[error(
        "slot {slot_start} can't be leased at {now}; the running slot began at {running}, only it and the next one can"
    )]
    WrongSlot {
        /// The slot asked for.
        slot_start: UnixTime,
        /// Start of the running slot.
        running: UnixTime,
        /// The provider's time.
        now: UnixTime,
    },
    /// See [`LeaseReason::WrongLeaseSlot`].
    #[error("the ticket is of slot {ticket}, the lease of slot {slot_start}; pay with a ticket of the leased slot")]
    OtherSlot {
        /// The ticket's slot.
        ticket: UnixTime,
        /// The lease's slot.
        slot_start: UnixTime,
    },
    /// See [`LeaseReason::Full`].
    #[error("all {max} leases are given; ask again in the next slot, or another provider")]
    Full {
        /// Leases of this service at most.
        max: usize,
    },
    /// See [`LeaseReason::TooManyRequests`].
    #[error("too many requests; ask again a little later")]
    TooManyRequests,
}

impl LeaseRefusal {
    /// The answer on the wire: the reason's number, and `name: values`.
    #[must_use]
    pub fn status(&self) -> proto::EligibilityStatus {
        let reason = match self {
            Self::Ticket(refusal) => return refusal.status(),
            Self::Malformed(_) => LeaseReason::Malformed,
            Self::BadVersion(_) => LeaseReason::BadVersion,
            Self::WrongPeer { .. } => LeaseReason::WrongPeer,
            Self::UnknownService { .. } => LeaseReason::UnknownService,
            Self::BadQuota { .. } => LeaseReason::BadQuota,
            Self::WrongSlot { .. } | Self::OtherSlot { .. } => LeaseReason::WrongLeaseSlot,
            Self::Full { .. } => LeaseReason::Full,
            Self::TooManyRequests => LeaseReason::TooManyRequests,
        };
        let mut desc = format!("{reason}: {self}");
        while desc.len() > MAX_DESCRIPTION {
            desc.pop();
        }
        proto::EligibilityStatus { status_code: Some(reason.status_code()), status_desc: Some(desc) }
    }

    /// Stable code of the error.
    #[must_use]
    pub fn code(&self) -> &'static str {
        match self {
            Self::Ticket(refusal) => refusal.code(),
            other => {
                other.status().status_code.and_then(LeaseReason::from_status_code).map_or("TRB-M451", LeaseReason::code)
            }
        }
    }
}

impl From<WireError> for LeaseRefusal {
    fn from(error: WireError) -> Self {
        match error {
            WireError::Version { .. } => Self::BadVersion(error),
            _ => Self::Malformed(error),
        }
    }
}

/// One slot of a lease.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct LeasedSlot {
    /// Its start.
    pub start: UnixTime,
    /// What was bought for it in all.
    pub quota: u32,
    /// What was used of it, where use is counted.
    pub used: u32,
}

/// What a peer has of a service.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Lease {
    /// The service.
    pub service: ServiceId,
    /// Leased slots that are not over with their grace, ascending, 1 to [`MAX_LEASED_SLOTS`].
    pub slots: Vec<LeasedSlot>,
    /// The service ends then unless it is renewed: the end of the last slot in a row, and the grace.
    pub until: UnixTime,
    /// How long the service goes on after the last leased slot.
    pub grace: Seconds,
}

impl Lease {
    /// What is leased in a slot.
    #[must_use]
    pub fn in_slot(&self, slot: Slot) -> Option<LeasedSlot> {
        self.slots.iter().copied().find(|leased| leased.start == slot.start())
    }
}

/// What a provider says about payment and terms of a lease, as its buyer reads it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum LeaseVerdict {
    /// Granted; or the answer to a query.
    Granted,
    /// The payment was refused, or none came.
    Payment {
        /// Why.
        reason: Reason,
        /// The offer to pay by, where the provider named one.
        offer: Option<OfferId>,
        /// The provider's words, fit for a terminal.
        description: String,
    },
    /// The terms were refused. Nothing is spent.
    Terms {
        /// Why.
        reason: LeaseReason,
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

/// A provider's answer.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct LeaseResponse {
    /// 200, or the number of the reason.
    pub code: u32,
    /// Words.
    pub description: String,
    /// What the peer has after the request, also when this one was refused.
    pub lease: Option<Lease>,
    /// The provider's time.
    pub now: UnixTime,
    /// What the service gives to who holds the lease, such as credentials; 1 to [`MAX_GRANT_BYTES`] bytes. A query is answered with it too, so that a lost
    /// answer loses nothing.
    pub grant: Option<Vec<u8>>,
}

impl LeaseResponse {
    /// The answer to a request; without a refusal it was granted.
    #[must_use]
    pub fn new(refusal: Option<&LeaseRefusal>, lease: Option<Lease>, now: UnixTime) -> Self {
        let status = refusal.map_or_else(crate::ticket::accepted, LeaseRefusal::status);
        Self {
            code: status.status_code.unwrap_or_default(),
            description: status.status_desc.unwrap_or_default(),
            lease,
            now,
            grant: None,
        }
    }

    /// With what the service gives. Nothing longer than [`MAX_GRANT_BYTES`] is sent.
    #[must_use]
    pub fn with_grant(mut self, grant: Option<Vec<u8>>) -> Self {
        self.grant = grant.filter(|bytes| (1..=MAX_GRANT_BYTES).contains(&bytes.len()));
        self
    }

    /// The answer's bytes.
    #[must_use]
    pub fn encode(&self) -> Vec<u8> {
        proto::LeaseResponse {
            version: 1,
            status: Some(proto::EligibilityStatus {
                status_code: Some(self.code),
                status_desc: Some(self.description.clone()),
            }),
            lease: self.lease.as_ref().map(|lease| proto::Lease {
                service: lease.service.to_string(),
                slots: lease
                    .slots
                    .iter()
                    .map(|slot| proto::LeasedSlot { slot_start: slot.start.get(), quota: slot.quota, used: slot.used })
                    .collect(),
                until: lease.until.get(),
                grace: u32::try_from(lease.grace.get()).unwrap_or(u32::MAX),
            }),
            now: self.now.get(),
            grant: self.grant.clone().unwrap_or_default(),
        }
        .encode_to_vec()
    }

    /// Reads an answer.
    ///
    /// # Errors
    /// [`WireError`].
    pub fn decode(bytes: &[u8]) -> Result<Self, WireError> {
        let response: proto::LeaseResponse = wire::decode("lease response", bytes, MAX_RESPONSE_BYTES)?;
        wire::check_version("lease response", response.version)?;
        let status = response.status.ok_or(WireError::Missing { field: "status" })?;
        let lease = response.lease.map(|lease| {
            wire::in_range("lease.slots", lease.slots.len() as u64, 1, MAX_LEASED_SLOTS as u64)?;
            let slots = lease.slots.iter().map(|slot| {
                let start = offer::time("lease.slot_start", slot.slot_start)?;
                Ok(LeasedSlot { start, quota: slot.quota, used: slot.used })
            });
            let slots = slots.collect::<Result<Vec<_>, WireError>>()?;
            if !slots.is_sorted_by(|a, b| a.start < b.start) {
                return Err(WireError::Invalid { field: "lease.slots", reason: "not ascending".into() });
            }
            Ok(Lease {
                service: lease.service.parse()?,
                slots,
                until: offer::time("lease.until", lease.until)?,
                grace: offer::seconds("lease.grace", u64::from(lease.grace), MAX_LEASE_GRACE)?,
            })
        });
        Ok(Self {
            code: status.status_code.ok_or(WireError::Missing { field: "status_code" })?,
            description: wire::text("status_desc", &status.status_desc.unwrap_or_default(), MAX_DESCRIPTION)?,
            lease: lease.transpose()?,
            now: offer::time("now", response.now)?,
            grant: match response.grant {
                grant if grant.is_empty() => None,
                grant => {
                    wire::in_range("grant", grant.len() as u64, 1, MAX_GRANT_BYTES as u64)?;
                    Some(grant)
                }
            },
        })
    }

    /// What the code means.
    #[must_use]
    pub fn verdict(&self) -> LeaseVerdict {
        if let Some(reason) = LeaseReason::from_status_code(self.code) {
            return LeaseVerdict::Terms { reason, description: self.description.clone() };
        }
        match Verdict::read(self.code, &self.description) {
            Verdict::Accepted => LeaseVerdict::Granted,
            Verdict::Refused { reason, offer, description } => LeaseVerdict::Payment { reason, offer, description },
            Verdict::Unknown { code, description } => LeaseVerdict::Unknown { code, description },
        }
    }
}
