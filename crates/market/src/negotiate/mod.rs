//! Negotiation: a buyer asks for a quote, a provider answers with a signed quote or a signed refusal.
//!
//! Prices, rates and payee come from the public offer and are never negotiated: a price made for one buyer would mark that buyer's
//! tickets. What is agreed is the rate class, the start, the duration and the load. The provider's side is [`provider::Negotiator`]
//! with a chain of [`policy::Policy`]; the buyer's side is [`buyer::negotiate`]. Messages travel on the libp2p protocol [`PROTOCOL`], or sealed
//! over content topics ([`crate::rpc`]).

pub mod broken;
pub mod buyer;
pub mod policy;
pub mod provider;
pub mod script;

use std::fmt;

use libp2p::PeerId;
use prost::Message as _;
use rand::RngCore;
use serde::{Deserialize, Serialize};
use sha2::{Digest as _, Sha256};
use tributary_protocol::amount::{Price, Rate};
use tributary_protocol::keys::{PaymentAddress, PoolId};
use tributary_protocol::time::{Seconds, UnixTime};

use crate::envelope::EnvelopeError;
use crate::offer::{self, MAX_LEASE_QUOTA, OfferId, RateClassId, ServiceId, VerifiedOffer};
use crate::property::{FamilyName, MAX_NEEDS, Need};
use crate::proto;
use crate::wire::{self, WireError};

/// Protocol id of direct negotiation.
pub const PROTOCOL: &str = "/tributary/quote/1";
/// Largest request, bytes.
pub const MAX_REQUEST_BYTES: usize = 8192;
/// Largest answer with its envelope, bytes.
pub const MAX_RESPONSE_BYTES: usize = 4096;
/// Requests that a buyer may make for one agreement.
pub const MAX_ROUNDS: u32 = 4;

/// For how long after its start deadline a quote binds at the most, seconds. Quotes cost nothing: without a bound anybody could hold a provider to
/// its prices for ever.
pub const MAX_BOUND: u64 = 86_400;

/// Until when a quote binds its provider: a stream that began at the deadline has run for its duration, or for a day.
#[must_use]
pub fn binds_until(start_deadline: UnixTime, duration: Seconds) -> UnixTime {
    let bound = Seconds::new(duration.get().min(MAX_BOUND)).unwrap_or(Seconds::ZERO);
    start_deadline.saturating_add(bound)
}

const MAX_COMPARED: usize = 8;
const MAX_WANTED_TOPICS: usize = 32;

/// 16 random bytes that tie an answer to its request.
#[derive(Clone, Copy, PartialEq, Eq, Hash)]
pub struct RequestId([u8; 16]);

impl RequestId {
    /// A new random id.
    pub fn random<R: RngCore>(rng: &mut R) -> Self {
        let mut id = [0; 16];
        rng.fill_bytes(&mut id);
        Self(id)
    }

    fn from_bytes(bytes: &[u8]) -> Result<Self, WireError> {
        wire::fixed("request_id", bytes).map(Self)
    }
}

impl fmt::Debug for RequestId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "RequestId({})", hex::encode(self.0))
    }
}

/// What a buyer needs of a Waku Store.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct StoreWanted {
    /// How far back messages must reach.
    pub retention: Seconds,
    /// Pubsub topic of the messages.
    pub pubsub_topic: String,
    /// Content topics of the messages.
    pub content_topics: Vec<String>,
}

/// What a buyer needs of a Waku Filter.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct FilterWanted {
    /// Pubsub topic of the messages.
    pub pubsub_topic: String,
    /// Content topics at once, 1 to [`MAX_LEASE_QUOTA`]. Which ones is nobody's business before they are subscribed to.
    pub topics: u32,
}

/// What a buyer needs of a Waku Lightpush.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct LightpushWanted {
    /// Pubsub topic of the messages.
    pub pubsub_topic: String,
    /// Largest payload, bytes.
    pub payload: u32,
}

/// What a buyer needs of a service of a family beyond Waku's.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct FamilyWanted {
    /// The family.
    pub name: FamilyName,
    /// Conditions on its properties, at most [`MAX_NEEDS`]; all must hold.
    pub needs: Vec<Need>,
}

/// What a buyer needs of a service, by family.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
#[non_exhaustive]
pub enum Wanted {
    /// Nothing beyond the service itself.
    Anything,
    /// A Waku Store.
    Store(StoreWanted),
    /// A Waku Filter.
    Filter(FilterWanted),
    /// A Waku Lightpush.
    Lightpush(LightpushWanted),
    /// A service of a family beyond Waku's.
    Family(FamilyWanted),
}

/// A request for a quote.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct QuoteRequest {
    /// Ties the answer to it.
    pub request_id: RequestId,
    /// The offer that it refers to.
    pub offer_id: OfferId,
    /// A service of the offer.
    pub service: ServiceId,
    /// Needed attributes.
    pub wanted: Wanted,
    /// A rate class of the offer.
    pub rate_class: RateClassId,
    /// When the stream shall begin.
    pub start: UnixTime,
    /// How long it shall run.
    pub duration: Seconds,
    /// Tickets a slot that the buyer expects to use.
    pub load: u32,
    /// The fewest tickets a slot that make sense for it.
    pub min_load: u32,
    /// Highest ticket price that it accepts.
    pub max_ticket_price: Price,
    /// Highest rate that it accepts.
    pub max_rate: Rate,
    /// 0 for the first request, below [`MAX_ROUNDS`].
    pub round: u32,
}

impl QuoteRequest {
    /// The request's bytes.
    #[must_use]
    pub fn encode(&self) -> Vec<u8> {
        proto::QuoteRequest {
            version: 1,
            request_id: self.request_id.0.to_vec(),
            offer_id: self.offer_id.as_bytes().to_vec(),
            service: self.service.to_string(),
            wanted: match &self.wanted {
                Wanted::Anything => None,
                Wanted::Store(store) => Some(proto::quote_request::Wanted::Store(proto::StoreWanted {
                    retention: store.retention.get(),
                    pubsub_topic: store.pubsub_topic.clone(),
                    content_topics: store.content_topics.clone(),
                })),
                Wanted::Filter(filter) => Some(proto::quote_request::Wanted::Filter(proto::FilterWanted {
                    pubsub_topic: filter.pubsub_topic.clone(),
                    topics: filter.topics,
                })),
                Wanted::Lightpush(lightpush) => Some(proto::quote_request::Wanted::Lightpush(proto::LightpushWanted {
                    pubsub_topic: lightpush.pubsub_topic.clone(),
                    payload: lightpush.payload,
                })),
                Wanted::Family(family) => Some(proto::quote_request::Wanted::Family(proto::FamilyWanted {
                    name: family.name.to_string(),
                    needs: family.needs.iter().map(Need::to_proto).collect(),
                })),
            },
            rate_class: self.rate_class.0,
            start: self.start.get(),
            duration: self.duration.get(),
            load: self.load,
            min_load: self.min_load,
            max_ticket_price: wire::amount_to_bytes(self.max_ticket_price.get()),
            max_rate: wire::amount_to_bytes(self.max_rate.get()),
            round: self.round,
        }
        .encode_to_vec()
    }

    fn from_proto(request: &proto::QuoteRequest) -> Result<Self, WireError> {
        let price = wire::amount_from_bytes("max_ticket_price", &request.max_ticket_price, Price::BITS)?;
        let rate = wire::amount_from_bytes("max_rate", &request.max_rate, Rate::BITS)?;
        let load = u64::from(request.load);
        wire::in_range("load", load, 1, u64::from(u32::MAX))?;
        wire::in_range("min_load", u64::from(request.min_load), 0, load)?;
        Ok(Self {
            request_id: RequestId::from_bytes(&request.request_id)?,
            offer_id: OfferId::from_bytes(&request.offer_id)?,
            service: request.service.parse()?,
            wanted: match &request.wanted {
                None => Wanted::Anything,
                Some(proto::quote_request::Wanted::Store(store)) => Wanted::Store(StoreWanted {
                    retention: offer::seconds("store.retention", store.retention, Seconds::MAX.get())?,
                    pubsub_topic: wire::text("store.pubsub_topic", &store.pubsub_topic, 256)?,
                    content_topics: offer::topics("store.content_topics", &store.content_topics, 0, MAX_WANTED_TOPICS)?,
                }),
                Some(proto::quote_request::Wanted::Filter(filter)) => {
                    wire::in_range("filter.topics", filter.topics.into(), 1, MAX_LEASE_QUOTA.into())?;
                    Wanted::Filter(FilterWanted {
                        pubsub_topic: wire::text("filter.pubsub_topic", &filter.pubsub_topic, 256)?,
                        topics: filter.topics,
                    })
                }
                Some(proto::quote_request::Wanted::Lightpush(lightpush)) => Wanted::Lightpush(LightpushWanted {
                    pubsub_topic: wire::text("lightpush.pubsub_topic", &lightpush.pubsub_topic, 256)?,
                    payload: lightpush.payload,
                }),
                Some(proto::quote_request::Wanted::Family(family)) => {
                    wire::in_range("family.needs", family.needs.len() as u64, 0, MAX_NEEDS as u64)?;
                    Wanted::Family(FamilyWanted {
                        name: family.name.parse()?,
                        needs: family.needs.iter().map(Need::from_proto).collect::<Result<_, _>>()?,
                    })
                }
            },
            rate_class: RateClassId(request.rate_class),
            start: offer::time("start", request.start)?,
            duration: offer::seconds("duration", request.duration, Seconds::MAX.get())?,
            load: request.load,
            min_load: request.min_load,
            max_ticket_price: offer::ranged("max_ticket_price", Price::new(price))?,
            max_rate: offer::ranged("max_rate", Rate::new(rate))?,
            round: request.round,
        })
    }
}

/// What a quote promises. Price, rate and payee stand in the offer that it names.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Terms {
    /// The offer.
    pub offer_id: OfferId,
    /// The service.
    pub service: ServiceId,
    /// The rate class.
    pub rate_class: RateClassId,
    /// How long the stream shall run.
    pub duration: Seconds,
    /// The stream must have begun by then.
    pub start_deadline: UnixTime,
    /// Tickets a slot for which the provider holds capacity.
    pub load_cap: u32,
}

impl Terms {
    /// SHA-256 of `"tributary.terms.v1"`, the offer id, the service's length (u16) and text, class (u32), duration (u64), start deadline (u64) and load
    /// cap (u32), integers big-endian.
    #[must_use]
    pub fn hash(&self) -> [u8; 32] {
        let service = self.service.as_str().as_bytes();
        let length = u16::try_from(service.len()).unwrap_or(u16::MAX);
        Sha256::new()
            .chain_update(b"tributary.terms.v1")
            .chain_update(self.offer_id.as_bytes())
            .chain_update(length.to_be_bytes())
            .chain_update(service)
            .chain_update(self.rate_class.0.to_be_bytes())
            .chain_update(self.duration.get().to_be_bytes())
            .chain_update(self.start_deadline.get().to_be_bytes())
            .chain_update(self.load_cap.to_be_bytes())
            .finalize()
            .into()
    }
}

/// A quote's content.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Quote {
    /// What is promised.
    pub terms: Terms,
    /// Who is paid, as in the offer.
    pub payee: PaymentAddress,
    /// Where, as in the offer.
    pub pool: PoolId,
    /// The ticket price, as in the offer.
    pub ticket_price: Price,
    /// The class's rate, as in the offer.
    pub rate: Rate,
    /// Until when the buyer may act upon it.
    pub valid_until: UnixTime,
    /// When it was signed. From then on it binds the provider ([`broken::BrokenQuote`]).
    pub issued_at: UnixTime,
}

impl Quote {
    fn to_proto(&self, request_id: RequestId) -> proto::Quote {
        proto::Quote {
            version: 1,
            request_id: request_id.0.to_vec(),
            terms_hash: self.terms.hash().to_vec(),
            offer_id: self.terms.offer_id.as_bytes().to_vec(),
            service: self.terms.service.to_string(),
            payee: self.payee.to_string(),
            pool: Some(offer::pool_to_proto(&self.pool)),
            ticket_price: wire::amount_to_bytes(self.ticket_price.get()),
            rate: wire::amount_to_bytes(self.rate.get()),
            rate_class: self.terms.rate_class.0,
            duration: self.terms.duration.get(),
            start_deadline: self.terms.start_deadline.get(),
            valid_until: self.valid_until.get(),
            load_cap: self.terms.load_cap,
            issued_at: self.issued_at.get(),
        }
    }
}

/// Why a provider refuses, by code.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
#[non_exhaustive]
pub enum RefusalCode {
    /// The request can't be decoded.
    Malformed,
    /// The request is of another version.
    BadVersion,
    /// The offer isn't the provider's current one.
    UnknownOffer,
    /// The offer has no such service.
    UnknownService,
    /// The offer has no such rate class.
    UnknownClass,
    /// The ticket price is above what the buyer accepts.
    PriceTooHigh,
    /// The class's rate is above what the buyer accepts.
    RateTooHigh,
    /// The class doesn't allow this duration.
    Duration,
    /// The start lies in the past or too far ahead.
    Start,
    /// The provider has no capacity.
    Capacity,
    /// The service lacks a wanted attribute.
    Attributes,
    /// The class doesn't pay for this load.
    Load,
    /// This peer asked or holds too much.
    TooManyRequests,
    /// The negotiation took too many rounds.
    TooManyRounds,
    /// The provider can't sell now.
    Unavailable,
    /// A code that this version doesn't know.
    Other,
}

impl RefusalCode {
    const fn to_proto(self) -> proto::RefusalCode {
        match self {
            Self::Malformed => proto::RefusalCode::Malformed,
            Self::BadVersion => proto::RefusalCode::BadVersion,
            Self::UnknownOffer => proto::RefusalCode::UnknownOffer,
            Self::UnknownService => proto::RefusalCode::UnknownService,
            Self::UnknownClass => proto::RefusalCode::UnknownClass,
            Self::PriceTooHigh => proto::RefusalCode::PriceTooHigh,
            Self::RateTooHigh => proto::RefusalCode::RateTooHigh,
            Self::Duration => proto::RefusalCode::Duration,
            Self::Start => proto::RefusalCode::Start,
            Self::Capacity => proto::RefusalCode::Capacity,
            Self::Attributes => proto::RefusalCode::Attributes,
            Self::Load => proto::RefusalCode::Load,
            Self::TooManyRequests => proto::RefusalCode::TooManyRequests,
            Self::TooManyRounds => proto::RefusalCode::TooManyRounds,
            Self::Unavailable => proto::RefusalCode::Unavailable,
            Self::Other => proto::RefusalCode::Unspecified,
        }
    }

    fn from_proto(code: i32) -> Self {
        match proto::RefusalCode::try_from(code) {
            Ok(proto::RefusalCode::Malformed) => Self::Malformed,
            Ok(proto::RefusalCode::BadVersion) => Self::BadVersion,
            Ok(proto::RefusalCode::UnknownOffer) => Self::UnknownOffer,
            Ok(proto::RefusalCode::UnknownService) => Self::UnknownService,
            Ok(proto::RefusalCode::UnknownClass) => Self::UnknownClass,
            Ok(proto::RefusalCode::PriceTooHigh) => Self::PriceTooHigh,
            Ok(proto::RefusalCode::RateTooHigh) => Self::RateTooHigh,
            Ok(proto::RefusalCode::Duration) => Self::Duration,
            Ok(proto::RefusalCode::Start) => Self::Start,
            Ok(proto::RefusalCode::Capacity) => Self::Capacity,
            Ok(proto::RefusalCode::Attributes) => Self::Attributes,
            Ok(proto::RefusalCode::Load) => Self::Load,
            Ok(proto::RefusalCode::TooManyRequests) => Self::TooManyRequests,
            Ok(proto::RefusalCode::TooManyRounds) => Self::TooManyRounds,
            Ok(proto::RefusalCode::Unavailable) => Self::Unavailable,
            Ok(proto::RefusalCode::Unspecified) | Err(_) => Self::Other,
        }
    }

    /// Stable code among all errors of the program.
    #[must_use]
    pub const fn code(self) -> &'static str {
        match self {
            Self::Malformed => "TRB-M221",
            Self::BadVersion => "TRB-M222",
            Self::UnknownOffer => "TRB-M223",
            Self::UnknownService => "TRB-M224",
            Self::UnknownClass => "TRB-M225",
            Self::PriceTooHigh => "TRB-M226",
            Self::RateTooHigh => "TRB-M227",
            Self::Duration => "TRB-M228",
            Self::Start => "TRB-M229",
            Self::Capacity => "TRB-M230",
            Self::Attributes => "TRB-M231",
            Self::Load => "TRB-M232",
            Self::TooManyRequests => "TRB-M233",
            Self::TooManyRounds => "TRB-M234",
            Self::Unavailable => "TRB-M235",
            Self::Other => "TRB-M236",
        }
    }
}

/// Two numbers that were compared.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Compared {
    /// What they measure.
    pub name: String,
    /// What was asked.
    pub asked: String,
    /// What is possible.
    pub limit: String,
}

impl Compared {
    /// Names two numbers.
    pub fn new(name: &str, asked: impl fmt::Display, limit: impl fmt::Display) -> Self {
        Self { name: name.to_owned(), asked: asked.to_string(), limit: limit.to_string() }
    }
}

impl fmt::Display for Compared {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} {} against {}", self.name, self.asked, self.limit)
    }
}

/// What a provider would agree to instead, within its offer.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct CounterOffer {
    /// A class of the offer.
    pub rate_class: RateClassId,
    /// The start.
    pub start: UnixTime,
    /// The duration.
    pub duration: Seconds,
    /// Tickets a slot.
    pub load: u32,
}

/// A refusal's content.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Refusal {
    /// Why.
    pub code: RefusalCode,
    /// The policy that refused.
    pub policy: String,
    /// The numbers that were compared.
    pub compared: Vec<Compared>,
    /// In words.
    pub description: String,
    /// What would do instead.
    pub counter: Option<CounterOffer>,
    /// When asking again may help.
    pub retry_at: Option<UnixTime>,
}

impl fmt::Display for Refusal {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} ({})", self.description, self.policy)?;
        for compared in &self.compared {
            write!(f, "; {compared}")?;
        }
        Ok(())
    }
}

impl Refusal {
    fn to_proto(&self, request_id: Option<RequestId>) -> proto::Refusal {
        proto::Refusal {
            version: 1,
            request_id: request_id.map(|id| id.0.to_vec()).unwrap_or_default(),
            code: self.code.to_proto().into(),
            policy: self.policy.clone(),
            compared: self
                .compared
                .iter()
                .take(MAX_COMPARED)
                .map(|compared| proto::Compared {
                    name: compared.name.clone(),
                    asked: compared.asked.clone(),
                    limit: compared.limit.clone(),
                })
                .collect(),
            description: self.description.clone(),
            counter: self.counter.map(|counter| proto::CounterOffer {
                rate_class: counter.rate_class.0,
                start: counter.start.get(),
                duration: counter.duration.get(),
                load: counter.load,
            }),
            retry_at: self.retry_at.map_or(0, UnixTime::get),
        }
    }

    fn from_proto(refusal: &proto::Refusal) -> Result<Self, WireError> {
        wire::in_range("compared", refusal.compared.len() as u64, 0, MAX_COMPARED as u64)?;
        Ok(Self {
            code: RefusalCode::from_proto(refusal.code),
            policy: wire::text("policy", &refusal.policy, 64)?,
            compared: refusal
                .compared
                .iter()
                .map(|compared| {
                    Ok(Compared {
                        name: wire::text("compared.name", &compared.name, 64)?,
                        asked: wire::text("compared.asked", &compared.asked, 256)?,
                        limit: wire::text("compared.limit", &compared.limit, 256)?,
                    })
                })
                .collect::<Result<_, WireError>>()?,
            description: wire::text("description", &refusal.description, 512)?,
            counter: refusal
                .counter
                .as_ref()
                .map(|counter| {
                    Ok::<_, WireError>(CounterOffer {
                        rate_class: RateClassId(counter.rate_class),
                        start: offer::time("counter.start", counter.start)?,
                        duration: offer::seconds("counter.duration", counter.duration, Seconds::MAX.get())?,
                        load: counter.load,
                    })
                })
                .transpose()?,
            retry_at: match refusal.retry_at {
                0 => None,
                at => Some(offer::time("retry_at", at)?),
            },
        })
    }
}

/// Where a request came from.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Source {
    /// A connected peer.
    Peer(PeerId),
    /// A content topic: nobody knows who. All of these count as one source.
    Sealed,
}

/// Why a buyer doesn't accept an answer.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum QuoteError {
    /// The envelope or its signature is bad.
    #[error(transparent)]
    Envelope(#[from] EnvelopeError),
    /// A field is malformed.
    #[error(transparent)]
    Wire(#[from] WireError),
    /// Somebody else than the provider signed.
    #[error("{signer} signed the answer, the offer is {provider}'s")]
    ForeignSigner {
        /// Who signed.
        signer: Box<PeerId>,
        /// Whose offer it is.
        provider: Box<PeerId>,
    },
    /// The answer belongs to another request.
    #[error("the answer belongs to another request")]
    OtherRequest,
    /// The quote is for another offer.
    #[error("the quote is for offer {quoted}, asked was for {asked}")]
    OtherOffer {
        /// The quote's offer.
        quoted: OfferId,
        /// The request's.
        asked: OfferId,
    },
    /// The quote is for another service.
    #[error("the quote is for service {quoted}, asked was for {asked}")]
    OtherService {
        /// The quote's service.
        quoted: String,
        /// The request's.
        asked: ServiceId,
    },
    /// The quote names a payee that isn't the gossiped offer's: paying it would mark the buyer.
    #[error("the quote names payee {quoted}, the public offer {offered}; don't pay")]
    ForeignPayee {
        /// The quote's payee.
        quoted: String,
        /// The offer's.
        offered: Box<PaymentAddress>,
    },
    /// The quote names another pool than the offer.
    #[error("the quote is for another pool than the offer")]
    ForeignPool,
    /// The quote's ticket price isn't the offer's.
    #[error("the quote's ticket price is {quoted}, the public offer's {offered}")]
    ForeignPrice {
        /// The quote's price.
        quoted: u128,
        /// The offer's.
        offered: Price,
    },
    /// The quote's class isn't in the offer, or isn't the one asked for.
    #[error("the quote is for rate class {quoted}, asked was for {asked}")]
    OtherClass {
        /// The quote's class.
        quoted: RateClassId,
        /// The request's.
        asked: RateClassId,
    },
    /// The quote's rate isn't that of its class.
    #[error("the quote's rate is {quoted}, the public offer's {offered}")]
    ForeignRate {
        /// The quote's rate.
        quoted: u128,
        /// The class's.
        offered: Rate,
    },
    /// The terms hash doesn't bind the quote's own terms.
    #[error("the quote's terms hash doesn't bind its terms")]
    TermsHash,
    /// The quote is for another duration.
    #[error("the quote is for {quoted} s, asked was for {asked} s")]
    OtherDuration {
        /// The quote's duration.
        quoted: Seconds,
        /// The request's.
        asked: Seconds,
    },
    /// The load cap is below what makes sense for the buyer.
    #[error("the quote's load cap is {quoted}, at least {needed} tickets a slot are needed")]
    LoadCap {
        /// The quote's cap.
        quoted: u32,
        /// The request's minimum.
        needed: u32,
    },
    /// The quote is over, or ends after its offer.
    #[error("the quote is valid until {valid_until}, now is {now}, the offer ends at {offer_ends}")]
    Validity {
        /// The quote's end.
        valid_until: UnixTime,
        /// The buyer's time.
        now: UnixTime,
        /// The offer's end.
        offer_ends: UnixTime,
    },
    /// The start deadline comes before the start asked for, or before the quote arrives.
    #[error("the stream would have to begin by {deadline}, asked was {start}, now is {now}")]
    StartDeadline {
        /// The quote's deadline.
        deadline: UnixTime,
        /// The start asked for.
        start: UnixTime,
        /// The buyer's time.
        now: UnixTime,
    },
    /// The quote says that it was signed at another time: it would not be seen to be broken, or be seen to be broken when it isn't.
    #[error("the quote says that it was signed at {issued_at}, now is {now}: set the clock, or ask again")]
    IssuedAt {
        /// The quote's word.
        issued_at: UnixTime,
        /// The buyer's time.
        now: UnixTime,
    },
}

impl QuoteError {
    /// Stable code of the error.
    #[must_use]
    pub const fn code(&self) -> &'static str {
        match self {
            Self::Envelope(error) => error.code(),
            Self::Wire(error) => error.code(),
            Self::ForeignSigner { .. } => "TRB-M201",
            Self::OtherRequest => "TRB-M202",
            Self::OtherOffer { .. } => "TRB-M203",
            Self::OtherService { .. } => "TRB-M204",
            Self::ForeignPayee { .. } => "TRB-M205",
            Self::ForeignPool => "TRB-M206",
            Self::ForeignPrice { .. } => "TRB-M207",
            Self::OtherClass { .. } => "TRB-M208",
            Self::ForeignRate { .. } => "TRB-M209",
            Self::TermsHash => "TRB-M210",
            Self::OtherDuration { .. } => "TRB-M211",
            Self::LoadCap { .. } => "TRB-M212",
            Self::Validity { .. } => "TRB-M213",
            Self::StartDeadline { .. } => "TRB-M214",
            Self::IssuedAt { .. } => "TRB-M215",
        }
    }

    /// Whether the answer, signed by the provider, proves that it doesn't keep to its own offer: a hard fault for its reputation. An answer
    /// whose signature fails may come from anybody and proves nothing.
    #[must_use]
    pub const fn is_proof_of_fault(&self) -> bool {
        matches!(
            self,
            Self::ForeignPayee { .. }
                | Self::ForeignPool
                | Self::ForeignPrice { .. }
                | Self::ForeignRate { .. }
                | Self::TermsHash
        )
    }
}

/// A quote that its buyer verified against its request and the gossiped offer.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct AgreedQuote {
    quote: Quote,
    provider: PeerId,
    signed: Vec<u8>,
}

impl AgreedQuote {
    /// What was agreed.
    #[must_use]
    pub const fn quote(&self) -> &Quote {
        &self.quote
    }

    /// The provider.
    #[must_use]
    pub const fn provider(&self) -> PeerId {
        self.provider
    }

    /// The signed bytes: evidence, should the provider not honour it.
    #[must_use]
    pub fn signed(&self) -> &[u8] {
        &self.signed
    }
}

impl std::ops::Deref for AgreedQuote {
    type Target = Quote;

    fn deref(&self) -> &Quote {
        &self.quote
    }
}

fn verify_quote(
    quote: &proto::Quote,
    request: &QuoteRequest,
    offer: &VerifiedOffer,
    now: UnixTime,
) -> Result<Quote, QuoteError> {
    wire::check_version("quote", quote.version)?;
    if quote.request_id != request.request_id.0 {
        return Err(QuoteError::OtherRequest);
    }
    let quoted = OfferId::from_bytes(&quote.offer_id)?;
    if quoted != offer.id() || quoted != request.offer_id {
        return Err(QuoteError::OtherOffer { quoted, asked: offer.id() });
    }
    if quote.service != request.service.as_str() {
        return Err(QuoteError::OtherService {
            quoted: wire::text("service", &quote.service, 64)?,
            asked: request.service.clone(),
        });
    }
    if quote.payee != offer.payee.to_string() {
        return Err(QuoteError::ForeignPayee {
            quoted: wire::text("payee", &quote.payee, 256)?,
            offered: Box::new(offer.payee),
        });
    }
    if offer::pool_from_proto(quote.pool.as_ref())? != offer.pool {
        return Err(QuoteError::ForeignPool);
    }
    let price = wire::amount_from_bytes("ticket_price", &quote.ticket_price, 128)?;
    if price != offer.ticket_price.get() {
        return Err(QuoteError::ForeignPrice { quoted: price, offered: offer.ticket_price });
    }
    let rate_class = RateClassId(quote.rate_class);
    let class = match offer.rate_class(rate_class) {
        Some(class) if rate_class == request.rate_class => class,
        _ => {
            return Err(QuoteError::OtherClass { quoted: rate_class, asked: request.rate_class });
        }
    };
    let rate = wire::amount_from_bytes("rate", &quote.rate, 128)?;
    if rate != class.rate.get() {
        return Err(QuoteError::ForeignRate { quoted: rate, offered: class.rate });
    }
    let terms = Terms {
        offer_id: quoted,
        service: request.service.clone(),
        rate_class,
        duration: offer::seconds("duration", quote.duration, Seconds::MAX.get())?,
        start_deadline: offer::time("start_deadline", quote.start_deadline)?,
        load_cap: quote.load_cap,
    };
    if quote.terms_hash != terms.hash() {
        return Err(QuoteError::TermsHash);
    }
    if terms.duration != request.duration {
        return Err(QuoteError::OtherDuration { quoted: terms.duration, asked: request.duration });
    }
    if terms.load_cap < request.min_load {
        return Err(QuoteError::LoadCap { quoted: terms.load_cap, needed: request.min_load });
    }
    let valid_until = offer::time("valid_until", quote.valid_until)?;
    if valid_until <= now || valid_until > offer.expires_at {
        return Err(QuoteError::Validity { valid_until, now, offer_ends: offer.expires_at });
    }
    if terms.start_deadline < request.start || terms.start_deadline <= now {
        return Err(QuoteError::StartDeadline { deadline: terms.start_deadline, start: request.start, now });
    }
    let issued_at = offer::time("issued_at", quote.issued_at)?;
    if issued_at.since(now).get().max(now.since(issued_at).get()) > offer::CLOCK_SKEW {
        return Err(QuoteError::IssuedAt { issued_at, now });
    }
    Ok(Quote {
        terms,
        payee: offer.payee,
        pool: offer.pool,
        ticket_price: offer.ticket_price,
        rate: class.rate,
        valid_until,
        issued_at,
    })
}
