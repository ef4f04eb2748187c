//! Offers: what a provider sells, to whom it must be paid, and for how much.

use std::collections::HashSet;
use std::fmt;
use std::str::FromStr;

use alloy_primitives::Address;
use libp2p::identity::PublicKey;
use libp2p::multiaddr::Protocol;
use libp2p::{Multiaddr, PeerId};
use prost::Message as _;
use serde::{Deserialize, Serialize};
use sha2::{Digest as _, Sha256};
use tributary_protocol::amount::{Amount, Price, Rate};
use tributary_protocol::error::AddressError;
use tributary_protocol::keys::{PaymentAddress, PoolId};
use tributary_protocol::time::{Seconds, UnixTime};

use crate::envelope::{self, EnvelopeError, PayloadType, Signer};
use crate::property::{FamilyName, Properties};
use crate::proto;
use crate::sealed::EncryptionKey;
use crate::wire::{self, WireError};

/// Largest encoded offer with its envelope, bytes.
pub const MAX_OFFER_BYTES: usize = 4096;
/// Longest time from issue to expiry, seconds.
pub const MAX_LIFETIME: u64 = 7 * 86_400;
/// Longest carry of a slot, seconds.
pub const MAX_SLOT_CARRY: u64 = 86_400;
/// Seconds that an offer's issue may lie in the reader's future.
pub const CLOCK_SKEW: u64 = 60;

const MAX_CLASSES: usize = 8;
const MAX_SERVICES: usize = 16;
const MAX_USES: usize = 8;
const MAX_ADDRESSES: usize = 8;
const MAX_ADDRESS_BYTES: usize = 128;
const MAX_PUBSUB_TOPICS: usize = 16;
const MAX_CONTENT_TOPICS: usize = 32;
const MAX_TOPIC_BYTES: usize = 256;
const MAX_SERVICE_ID: usize = 64;
const MAX_ROOT_DEPTH: u32 = 1024;
const MAX_PAGE_SIZE: u64 = 1000;
const MAX_PAYLOAD: u64 = 1 << 20;
/// Longest grace of a lease, seconds.
pub const MAX_LEASE_GRACE: u64 = 600;
/// Largest quota that an offer may name for a lease.
pub const MAX_LEASE_QUOTA: u32 = 1 << 20;
/// Tickets in one proof.
const MAX_TICKETS_PER_USE: u64 = 1 << 20;

/// Why an offer was refused.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum OfferError {
    /// The envelope or its signature is bad.
    #[error(transparent)]
    Envelope(#[from] EnvelopeError),
    /// A field is malformed.
    #[error(transparent)]
    Wire(#[from] WireError),
    /// The offer names another provider than the one who signed.
    #[error("the offer names provider {named}, {signer} signed it")]
    ForeignKey {
        /// Provider in the offer.
        named: Box<PeerId>,
        /// Who signed.
        signer: Box<PeerId>,
    },
    /// The payee can't be paid.
    #[error("the payee's address is invalid: {0}")]
    Payee(#[from] AddressError),
    /// The offer is over.
    #[error("the offer expired at {expires_at}, now is {now}; wait for the provider's next offer")]
    Expired {
        /// Its expiry.
        expires_at: UnixTime,
        /// The reader's time.
        now: UnixTime,
    },
    /// The offer comes from the future.
    #[error("the offer was issued at {issued_at}, now is {now}; check the clock")]
    NotYetIssued {
        /// Its issue.
        issued_at: UnixTime,
        /// The reader's time.
        now: UnixTime,
    },
    /// The offer lives too long, or ends before it begins.
    #[error("the offer lives from {issued_at} to {expires_at}; allowed are 1 to {limit} s")]
    Lifetime {
        /// Its issue.
        issued_at: UnixTime,
        /// Its expiry.
        expires_at: UnixTime,
        /// Longest lifetime, seconds.
        limit: u64,
    },
    /// The reader doesn't know the pool.
    #[error("the offer is for pool {} on chain {}, which isn't configured here", pool.address, pool.chain_id)]
    UnknownPool {
        /// The offer's pool.
        pool: PoolId,
    },
    /// Two entries of a list have the same name.
    #[error("two {field} have the id {id}")]
    Repeated {
        /// The list.
        field: &'static str,
        /// The id.
        id: String,
    },
}

impl OfferError {
    /// Stable code of the error.
    #[must_use]
    pub const fn code(&self) -> &'static str {
        match self {
            Self::Envelope(error) => error.code(),
            Self::Wire(error) => error.code(),
            Self::ForeignKey { .. } => "TRB-M101",
            Self::Payee(_) => "TRB-M102",
            Self::Expired { .. } => "TRB-M103",
            Self::NotYetIssued { .. } => "TRB-M104",
            Self::Lifetime { .. } => "TRB-M105",
            Self::UnknownPool { .. } => "TRB-M106",
            Self::Repeated { .. } => "TRB-M107",
        }
    }
}

/// Name of an offer: SHA-256 of its signed payload.
#[derive(Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct OfferId([u8; 32]);

impl OfferId {
    /// The id of these signed bytes.
    #[must_use]
    pub fn of_payload(payload: &[u8]) -> Self {
        Self(Sha256::digest(payload).into())
    }

    /// Reads an id from 32 bytes.
    ///
    /// # Errors
    /// [`WireError::Length`].
    pub fn from_bytes(bytes: &[u8]) -> Result<Self, WireError> {
        wire::fixed("offer_id", bytes).map(Self)
    }

    /// The 32 bytes.
    #[must_use]
    pub const fn as_bytes(&self) -> &[u8; 32] {
        &self.0
    }
}

impl fmt::Display for OfferId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&hex::encode(self.0))
    }
}

impl fmt::Debug for OfferId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "OfferId({self})")
    }
}

impl Serialize for OfferId {
    fn serialize<S: serde::Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

/// Id of a rate class within an offer.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(transparent)]
pub struct RateClassId(pub u32);

impl fmt::Display for RateClassId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

/// Id of a service within an offer: 1 to 64 of `a-z 0-9 - . /`. The families' own names are the usual ids: `store`.
#[derive(Debug, Clone, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize)]
#[serde(transparent)]
pub struct ServiceId(String);

impl ServiceId {
    /// The usual id of a Waku Store.
    #[must_use]
    pub fn store() -> Self {
        Self("store".into())
    }

    /// The usual id of a Waku Filter.
    #[must_use]
    pub fn filter() -> Self {
        Self("filter".into())
    }

    /// The usual id of a Waku Lightpush.
    #[must_use]
    pub fn lightpush() -> Self {
        Self("lightpush".into())
    }

    /// The id's text.
    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl FromStr for ServiceId {
    type Err = WireError;

    fn from_str(text: &str) -> Result<Self, WireError> {
        const FIELD: &str = "service.id";
        wire::in_range(FIELD, text.len() as u64, 1, MAX_SERVICE_ID as u64)?;
        let allowed = |byte| matches!(byte, b'a'..=b'z' | b'0'..=b'9' | b'-' | b'.' | b'/');
        if text.bytes().all(allowed) {
            Ok(Self(text.to_owned()))
        } else {
            Err(WireError::Invalid { field: FIELD, reason: "only a-z, 0-9, '-', '.' and '/' are allowed".into() })
        }
    }
}

impl<'de> Deserialize<'de> for ServiceId {
    fn deserialize<D: serde::Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        String::deserialize(deserializer)?.parse().map_err(serde::de::Error::custom)
    }
}

impl fmt::Display for ServiceId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

/// A rate at which streams may be opened, the same for everybody.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct RateClass {
    /// Its id in the offer.
    pub id: RateClassId,
    /// Base units a second.
    pub rate: Rate,
    /// Shortest stream.
    pub min_duration: Seconds,
    /// Longest stream, if bounded.
    pub max_duration: Option<Seconds>,
}

impl RateClass {
    /// Tickets that a stream of this class pays for in each slot.
    #[must_use]
    pub fn tickets_per_slot(&self, price: Price, slot_length: Seconds) -> u64 {
        if price.is_zero() {
            return 0;
        }
        let tickets = self.rate.times(slot_length) / alloy_primitives::U256::from(price.get());
        u64::try_from(tickets).unwrap_or(u64::MAX)
    }

    /// Whether a stream of this class may run for `duration`.
    #[must_use]
    pub fn allows(&self, duration: Seconds) -> bool {
        duration >= self.min_duration && self.max_duration.is_none_or(|max| duration <= max)
    }
}

/// What a use of a service is counted in.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
#[non_exhaustive]
pub enum UseUnit {
    /// One page of a query's answer.
    Page,
    /// One request.
    Request,
    /// One minute.
    Minute,
    /// 10^6 bytes.
    Megabyte,
    /// 1000 tokens of a prompt.
    KilotokenIn,
    /// 1000 tokens of an answer.
    KilotokenOut,
    /// One message.
    Message,
    /// One content topic for one minute.
    TopicMinute,
}

impl UseUnit {
    const fn to_proto(self) -> proto::UseUnit {
        match self {
            Self::Page => proto::UseUnit::Page,
            Self::Request => proto::UseUnit::Request,
            Self::Minute => proto::UseUnit::Minute,
            Self::Megabyte => proto::UseUnit::Megabyte,
            Self::KilotokenIn => proto::UseUnit::KilotokenIn,
            Self::KilotokenOut => proto::UseUnit::KilotokenOut,
            Self::Message => proto::UseUnit::Message,
            Self::TopicMinute => proto::UseUnit::TopicMinute,
        }
    }

    /// `None` for units that a later version may add.
    fn from_proto(unit: i32) -> Option<Self> {
        Some(match proto::UseUnit::try_from(unit).ok()? {
            proto::UseUnit::Unspecified => return None,
            proto::UseUnit::Page => Self::Page,
            proto::UseUnit::Request => Self::Request,
            proto::UseUnit::Minute => Self::Minute,
            proto::UseUnit::Megabyte => Self::Megabyte,
            proto::UseUnit::KilotokenIn => Self::KilotokenIn,
            proto::UseUnit::KilotokenOut => Self::KilotokenOut,
            proto::UseUnit::Message => Self::Message,
            proto::UseUnit::TopicMinute => Self::TopicMinute,
        })
    }
}

/// `tickets` tickets pay for `quantity` of `unit`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct UsePrice {
    /// What is counted.
    pub unit: UseUnit,
    /// How much of it, at least 1.
    pub quantity: u32,
    /// Tickets for that much, at least 1.
    pub tickets: u32,
}

impl UsePrice {
    /// Tickets for `amount` units; a begun quantity counts whole. `None` when it overflows.
    #[must_use]
    pub fn tickets_for(&self, amount: u64) -> Option<u64> {
        amount.div_ceil(u64::from(self.quantity.max(1))).checked_mul(u64::from(self.tickets))
    }
}

/// Attributes of a Waku Store.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct StoreAttributes {
    /// How long messages are kept.
    pub retention: Seconds,
    /// Pubsub topics archived, at least one.
    pub pubsub_topics: Vec<String>,
    /// Content topics archived; none means all.
    pub content_topics: Vec<String>,
    /// Messages in one page at most.
    pub page_size: u32,
}

impl StoreAttributes {
    /// Whether messages of this pubsub and content topic are archived.
    #[must_use]
    pub fn archives(&self, pubsub_topic: &str, content_topic: &str) -> bool {
        self.pubsub_topics.iter().any(|topic| topic == pubsub_topic)
            && (self.content_topics.is_empty() || self.content_topics.iter().any(|topic| topic == content_topic))
    }
}

/// How a service is sold by the slot ([`crate::lease`]).
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct LeaseSale {
    /// The unit that the price is counted in. With [`UseUnit::TopicMinute`] and [`UseUnit::Minute`] the quota counts for each minute of the slot.
    pub unit: UseUnit,
    /// Largest quota of a peer in one slot, 1 to [`MAX_LEASE_QUOTA`].
    pub max_quota: u32,
    /// How long the service goes on after the last leased slot, at most [`MAX_LEASE_GRACE`].
    pub grace: Seconds,
}

impl LeaseSale {
    /// Units that `quota` takes in a slot of this length; a begun minute counts whole.
    #[must_use]
    pub fn units(&self, quota: u32, slot_length: Seconds) -> u64 {
        match self.unit {
            UseUnit::TopicMinute | UseUnit::Minute => u64::from(quota).saturating_mul(slot_length.get().div_ceil(60)),
            _ => u64::from(quota),
        }
    }
}

/// Attributes of a Waku Filter.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct FilterAttributes {
    /// Pubsub topics served, at least one.
    pub pubsub_topics: Vec<String>,
    /// How it is sold. The quota is content topics.
    pub lease: Option<LeaseSale>,
}

/// Attributes of a Waku Lightpush.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct LightpushAttributes {
    /// Pubsub topics served, at least one.
    pub pubsub_topics: Vec<String>,
    /// How it is sold by the slot, if it is. The quota is messages.
    pub lease: Option<LeaseSale>,
    /// Largest payload, bytes.
    pub max_payload: u32,
}

/// Attributes of a family beyond Waku's.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct FamilyAttributes {
    /// The family.
    pub name: FamilyName,
    /// How it is sold by the slot, if it is.
    pub lease: Option<LeaseSale>,
    /// What the family's specification makes of them.
    pub properties: Properties,
}

/// What a service is, by family.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
#[non_exhaustive]
pub enum Attributes {
    /// Waku Store.
    Store(StoreAttributes),
    /// Waku Filter.
    Filter(FilterAttributes),
    /// Waku Lightpush.
    Lightpush(LightpushAttributes),
    /// A family beyond Waku's.
    Family(FamilyAttributes),
    /// A family that this version doesn't know. It can't be bought with it.
    Unknown,
}

/// One service of an offer.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Service {
    /// Its id in the offer.
    pub id: ServiceId,
    /// Tickets that uses take, one entry a unit.
    pub uses: Vec<UsePrice>,
    /// What it is.
    pub attributes: Attributes,
}

impl Service {
    /// The price of a unit, if this service is counted in it.
    #[must_use]
    pub fn price_of(&self, unit: UseUnit) -> Option<UsePrice> {
        self.uses.iter().copied().find(|price| price.unit == unit)
    }

    /// How it is sold by the slot, if it is.
    #[must_use]
    pub fn lease(&self) -> Option<LeaseSale> {
        match &self.attributes {
            Attributes::Filter(filter) => filter.lease,
            Attributes::Lightpush(lightpush) => lightpush.lease,
            Attributes::Family(family) => family.lease,
            Attributes::Store(_) | Attributes::Unknown => None,
        }
    }

    /// The family that it belongs to; `None` for one that this version doesn't know.
    #[must_use]
    pub fn family(&self) -> Option<&str> {
        match &self.attributes {
            Attributes::Store(_) => Some("store"),
            Attributes::Filter(_) => Some("filter"),
            Attributes::Lightpush(_) => Some("lightpush"),
            Attributes::Family(family) => Some(family.name.as_str()),
            Attributes::Unknown => None,
        }
    }

    /// Tickets that a lease of `quota` takes in a slot of this length; `None` when none is sold.
    #[must_use]
    pub fn lease_tickets(&self, quota: u32, slot_length: Seconds) -> Option<u64> {
        let sale = self.lease()?;
        self.price_of(sale.unit)?.tickets_for(sale.units(quota, slot_length))
    }
}

/// An offer's content. One that came from elsewhere is only ever seen inside a [`VerifiedOffer`].
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Offer {
    /// The one owner that this provider is paid to in this pool.
    pub payee: PaymentAddress,
    /// The pool it is paid in.
    pub pool: PoolId,
    /// What one ticket stands for, never 0.
    pub ticket_price: Price,
    /// What a stream must have paid before its tickets count.
    pub min_streamed: Amount,
    /// Rates at which streams may be opened.
    pub rate_classes: Vec<RateClass>,
    /// How long after a slot's end its tickets are still taken.
    pub slot_carry: Seconds,
    /// Blocks on top of the block that made a root known before tickets may use it, at least 1.
    pub root_depth: u32,
    /// What is sold.
    pub services: Vec<Service>,
    /// Where the provider can be dialled, without a `/p2p` part.
    pub multiaddrs: Vec<Multiaddr>,
    /// Grows with each offer for this pool.
    pub sequence: u64,
    /// When the offer was made.
    pub issued_at: UnixTime,
    /// When it ends.
    pub expires_at: UnixTime,
    /// Key for requests over content topics.
    #[serde(serialize_with = "hex_key")]
    pub encryption_key: Option<EncryptionKey>,
}

fn hex_key<S: serde::Serializer>(key: &Option<EncryptionKey>, serializer: S) -> Result<S::Ok, S::Error> {
    match key {
        Some(key) => serializer.serialize_some(&hex::encode(key.as_bytes())),
        None => serializer.serialize_none(),
    }
}

impl Offer {
    /// Signs the offer. It is checked first as every reader will check it.
    ///
    /// # Errors
    /// What a reader would say to it, or that the key can't sign.
    pub fn sign<S: Signer + ?Sized>(&self, signer: &S) -> Result<SignedOffer, OfferError> {
        let provider = signer.public_key();
        let payload = self.to_proto(&provider).encode_to_vec();
        let signed = SignedOffer(envelope::seal(signer, PayloadType::Offer, payload)?);
        signed.verify(&OfferContext { now: self.issued_at, pools: &[self.pool] })?;
        Ok(signed)
    }

    /// The service of this id.
    #[must_use]
    pub fn service(&self, id: &ServiceId) -> Option<&Service> {
        self.services.iter().find(|service| service.id == *id)
    }

    /// The rate class of this id.
    #[must_use]
    pub fn rate_class(&self, id: RateClassId) -> Option<&RateClass> {
        self.rate_classes.iter().find(|class| class.id == id)
    }

    /// Whether the offer has ended.
    #[must_use]
    pub fn is_expired(&self, now: UnixTime) -> bool {
        self.expires_at <= now
    }

    fn to_proto(&self, provider: &PublicKey) -> proto::Offer {
        proto::Offer {
            version: 1,
            provider: provider.encode_protobuf(),
            payee: self.payee.to_string(),
            pool: Some(pool_to_proto(&self.pool)),
            ticket_price: wire::amount_to_bytes(self.ticket_price.get()),
            min_streamed: wire::amount_to_bytes(self.min_streamed.get()),
            rate_classes: self
                .rate_classes
                .iter()
                .map(|class| proto::RateClass {
                    id: class.id.0,
                    rate: wire::amount_to_bytes(class.rate.get()),
                    min_duration: class.min_duration.get(),
                    max_duration: class.max_duration.map_or(0, Seconds::get),
                })
                .collect(),
            slot_carry: u32::try_from(self.slot_carry.get()).unwrap_or(u32::MAX),
            root_depth: self.root_depth,
            services: self.services.iter().map(service_to_proto).collect(),
            multiaddrs: self.multiaddrs.iter().map(Multiaddr::to_vec).collect(),
            sequence: self.sequence,
            issued_at: self.issued_at.get(),
            expires_at: self.expires_at.get(),
            encryption_key: self.encryption_key.map(|key| key.as_bytes().to_vec()).unwrap_or_default(),
        }
    }

    fn from_proto(offer: &proto::Offer) -> Result<Self, OfferError> {
        let payee: PaymentAddress = wire::text("payee", &offer.payee, 256)?.parse()?;
        if payee.to_string() != offer.payee {
            // One owner, one text: else two offers of one payee would look different.
            return Err(OfferError::Payee(AddressError::Encoding));
        }
        let ticket_price = amount("ticket_price", &offer.ticket_price, Price::BITS)?;
        if ticket_price == 0 {
            return Err(
                WireError::Invalid { field: "ticket_price", reason: "0 is the price of a rating".into() }.into()
            );
        }
        let decoded = Self {
            payee,
            pool: pool_from_proto(offer.pool.as_ref())?,
            ticket_price: ranged("ticket_price", Price::new(ticket_price))?,
            min_streamed: ranged(
                "min_streamed",
                Amount::new(amount("min_streamed", &offer.min_streamed, Amount::BITS)?),
            )?,
            rate_classes: list("rate_classes", &offer.rate_classes, 1, MAX_CLASSES, class_from_proto)?,
            slot_carry: seconds("slot_carry", u64::from(offer.slot_carry), MAX_SLOT_CARRY)?,
            root_depth: offer.root_depth.max(1),
            services: list("services", &offer.services, 1, MAX_SERVICES, service_from_proto)?,
            multiaddrs: list("multiaddrs", &offer.multiaddrs, 0, MAX_ADDRESSES, |bytes| multiaddr(bytes))?,
            sequence: offer.sequence,
            issued_at: time("issued_at", offer.issued_at)?,
            expires_at: time("expires_at", offer.expires_at)?,
            encryption_key: if offer.encryption_key.is_empty() {
                None
            } else {
                Some(EncryptionKey::from_bytes("encryption_key", &offer.encryption_key)?)
            },
        };
        wire::in_range("root_depth", u64::from(decoded.root_depth), 1, u64::from(MAX_ROOT_DEPTH))?;
        distinct("rate_classes", decoded.rate_classes.iter().map(|class| class.id))?;
        distinct("services", decoded.services.iter().map(|service| service.id.clone()))?;
        Ok(decoded)
    }
}

/// What a reader knows when an offer arrives.
#[derive(Debug, Clone, Copy)]
pub struct OfferContext<'a> {
    /// The reader's time.
    pub now: UnixTime,
    /// Pools that it is configured for.
    pub pools: &'a [PoolId],
}

/// An offer as it travels, not yet believed.
#[derive(Clone, PartialEq, Eq)]
pub struct SignedOffer(Vec<u8>);

impl SignedOffer {
    /// Wraps bytes that arrived.
    #[must_use]
    pub const fn from_bytes(bytes: Vec<u8>) -> Self {
        Self(bytes)
    }

    /// The encoded envelope.
    #[must_use]
    pub fn as_bytes(&self) -> &[u8] {
        &self.0
    }

    /// Checks size, envelope, signature, key, fields, lifetime and pool.
    ///
    /// # Errors
    /// The first check that fails.
    pub fn verify(&self, context: &OfferContext<'_>) -> Result<VerifiedOffer, OfferError> {
        let verified = self.verify_content()?;
        let offer = &verified.offer;
        let skewed = context.now.saturating_add(SKEW);
        if offer.issued_at > skewed {
            return Err(OfferError::NotYetIssued { issued_at: offer.issued_at, now: context.now });
        }
        if offer.is_expired(context.now) {
            return Err(OfferError::Expired { expires_at: offer.expires_at, now: context.now });
        }
        if !context.pools.contains(&offer.pool) {
            return Err(OfferError::UnknownPool { pool: offer.pool });
        }
        Ok(verified)
    }

    /// [`Self::verify`] without regard to time: a stream lives on under the offer that it was opened under.
    ///
    /// # Errors
    /// The first check that fails.
    pub fn verify_whenever(&self, pools: &[PoolId]) -> Result<VerifiedOffer, OfferError> {
        let verified = self.verify_content()?;
        if pools.contains(&verified.offer.pool) {
            Ok(verified)
        } else {
            Err(OfferError::UnknownPool { pool: verified.offer.pool })
        }
    }

    /// Checks all that depends on the offer alone. Evidence is judged by this: an offer stays signed after it has expired.
    pub(crate) fn verify_content(&self) -> Result<VerifiedOffer, OfferError> {
        let opened = envelope::open(PayloadType::Offer, &self.0, MAX_OFFER_BYTES)?;
        let wire_offer: proto::Offer = wire::decode("offer", &opened.payload, MAX_OFFER_BYTES)?;
        wire::check_version("offer", wire_offer.version)?;
        let named = envelope::public_key(&wire_offer.provider)?;
        if named != opened.signer {
            return Err(OfferError::ForeignKey {
                named: Box::new(named.to_peer_id()),
                signer: Box::new(opened.signer.to_peer_id()),
            });
        }
        let offer = Offer::from_proto(&wire_offer)?;
        let lifetime = offer.expires_at.since(offer.issued_at).get();
        if lifetime == 0 || lifetime > MAX_LIFETIME {
            return Err(OfferError::Lifetime {
                issued_at: offer.issued_at,
                expires_at: offer.expires_at,
                limit: MAX_LIFETIME,
            });
        }
        Ok(VerifiedOffer {
            id: OfferId::of_payload(&opened.payload),
            peer: opened.signer.to_peer_id(),
            provider: opened.signer,
            offer,
            signed: self.clone(),
        })
    }
}

impl fmt::Debug for SignedOffer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "SignedOffer({} bytes)", self.0.len())
    }
}

const SKEW: Seconds = match Seconds::new(CLOCK_SKEW) {
    Ok(seconds) => seconds,
    Err(_) => Seconds::MAX,
};

/// An offer whose signature and content were checked. It may have expired since: see [`Offer::is_expired`].
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct VerifiedOffer {
    id: OfferId,
    peer: PeerId,
    provider: PublicKey,
    offer: Offer,
    signed: SignedOffer,
}

impl VerifiedOffer {
    /// The offer's name.
    #[must_use]
    pub const fn id(&self) -> OfferId {
        self.id
    }

    /// The provider.
    #[must_use]
    pub const fn peer_id(&self) -> PeerId {
        self.peer
    }

    /// The provider's key, which signs its quotes too.
    #[must_use]
    pub const fn provider(&self) -> &PublicKey {
        &self.provider
    }

    /// What is offered.
    #[must_use]
    pub const fn offer(&self) -> &Offer {
        &self.offer
    }

    /// The signed bytes.
    #[must_use]
    pub const fn signed(&self) -> &SignedOffer {
        &self.signed
    }
}

impl std::ops::Deref for VerifiedOffer {
    type Target = Offer;

    fn deref(&self) -> &Offer {
        &self.offer
    }
}

/// Writes a pool.
#[must_use]
pub fn pool_to_proto(pool: &PoolId) -> proto::Pool {
    proto::Pool { chain_id: pool.chain_id, contract: pool.address.to_vec() }
}

/// Reads a pool.
///
/// # Errors
/// [`WireError::Missing`] or [`WireError::Length`].
pub fn pool_from_proto(pool: Option<&proto::Pool>) -> Result<PoolId, WireError> {
    let pool = pool.ok_or(WireError::Missing { field: "pool" })?;
    Ok(PoolId { chain_id: pool.chain_id, address: Address::from(wire::fixed::<20>("pool.contract", &pool.contract)?) })
}

fn class_from_proto(class: &proto::RateClass) -> Result<RateClass, WireError> {
    let min_duration = seconds("min_duration", class.min_duration, Seconds::MAX.get())?;
    let max_duration = match class.max_duration {
        0 => None,
        max => Some(seconds("max_duration", max, Seconds::MAX.get())?),
    };
    if let Some(max) = max_duration {
        wire::in_range("max_duration", max.get(), min_duration.get(), Seconds::MAX.get())?;
    }
    Ok(RateClass {
        id: RateClassId(class.id),
        rate: ranged("rate", Rate::new(amount("rate", &class.rate, Rate::BITS)?))?,
        min_duration,
        max_duration,
    })
}

fn service_to_proto(service: &Service) -> proto::Service {
    proto::Service {
        id: service.id.to_string(),
        uses: service
            .uses
            .iter()
            .map(|price| proto::Use {
                unit: price.unit.to_proto().into(),
                quantity: price.quantity,
                tickets: price.tickets,
            })
            .collect(),
        attributes: match &service.attributes {
            Attributes::Store(store) => Some(proto::service::Attributes::Store(proto::Store {
                retention: store.retention.get(),
                pubsub_topics: store.pubsub_topics.clone(),
                content_topics: store.content_topics.clone(),
                page_size: store.page_size,
            })),
            Attributes::Filter(filter) => Some(proto::service::Attributes::Filter(proto::Filter {
                pubsub_topics: filter.pubsub_topics.clone(),
                lease: filter.lease.map(lease_to_proto),
            })),
            Attributes::Lightpush(lightpush) => Some(proto::service::Attributes::Lightpush(proto::Lightpush {
                pubsub_topics: lightpush.pubsub_topics.clone(),
                lease: lightpush.lease.map(lease_to_proto),
                max_payload: lightpush.max_payload,
            })),
            Attributes::Family(family) => Some(proto::service::Attributes::Family(proto::Family {
                name: family.name.to_string(),
                lease: family.lease.map(lease_to_proto),
                properties: family.properties.to_proto(),
            })),
            Attributes::Unknown => None,
        },
    }
}

fn lease_to_proto(lease: LeaseSale) -> proto::LeaseSale {
    proto::LeaseSale {
        unit: lease.unit.to_proto().into(),
        max_quota: lease.max_quota,
        grace: u32::try_from(lease.grace.get()).unwrap_or(u32::MAX),
    }
}

/// A lease in a unit that this version doesn't know can't be bought with it.
fn lease_from_proto(lease: Option<&proto::LeaseSale>) -> Result<Option<LeaseSale>, WireError> {
    let Some(lease) = lease else { return Ok(None) };
    wire::in_range("lease.max_quota", u64::from(lease.max_quota), 1, u64::from(MAX_LEASE_QUOTA))?;
    let grace = seconds("lease.grace", u64::from(lease.grace), MAX_LEASE_GRACE)?;
    Ok(UseUnit::from_proto(lease.unit).map(|unit| LeaseSale { unit, max_quota: lease.max_quota, grace }))
}

fn service_from_proto(service: &proto::Service) -> Result<Service, WireError> {
    wire::in_range("service.uses", service.uses.len() as u64, 1, MAX_USES as u64)?;
    let mut uses = Vec::new();
    for price in &service.uses {
        wire::in_range("use.quantity", u64::from(price.quantity), 1, u64::from(u32::MAX))?;
        wire::in_range("use.tickets", u64::from(price.tickets), 1, MAX_TICKETS_PER_USE)?;
        let Some(unit) = UseUnit::from_proto(price.unit) else {
            continue;
        };
        if uses.iter().any(|known: &UsePrice| known.unit == unit) {
            return Err(WireError::Invalid { field: "service.uses", reason: format!("two prices for {unit:?}") });
        }
        uses.push(UsePrice { unit, quantity: price.quantity, tickets: price.tickets });
    }
    let attributes = match &service.attributes {
        Some(proto::service::Attributes::Store(store)) => Attributes::Store(StoreAttributes {
            retention: seconds("store.retention", store.retention, Seconds::MAX.get())?,
            pubsub_topics: topics("store.pubsub_topics", &store.pubsub_topics, 1, MAX_PUBSUB_TOPICS)?,
            content_topics: topics("store.content_topics", &store.content_topics, 0, MAX_CONTENT_TOPICS)?,
            page_size: {
                wire::in_range("store.page_size", u64::from(store.page_size), 1, MAX_PAGE_SIZE)?;
                store.page_size
            },
        }),
        Some(proto::service::Attributes::Filter(filter)) => Attributes::Filter(FilterAttributes {
            pubsub_topics: topics("filter.pubsub_topics", &filter.pubsub_topics, 1, MAX_PUBSUB_TOPICS)?,
            lease: lease_from_proto(filter.lease.as_ref())?,
        }),
        Some(proto::service::Attributes::Lightpush(lightpush)) => Attributes::Lightpush(LightpushAttributes {
            pubsub_topics: topics("lightpush.pubsub_topics", &lightpush.pubsub_topics, 1, MAX_PUBSUB_TOPICS)?,
            lease: lease_from_proto(lightpush.lease.as_ref())?,
            max_payload: {
                wire::in_range("lightpush.max_payload", u64::from(lightpush.max_payload), 1, MAX_PAYLOAD)?;
                lightpush.max_payload
            },
        }),
        Some(proto::service::Attributes::Family(family)) => Attributes::Family(FamilyAttributes {
            name: family.name.parse()?,
            lease: lease_from_proto(family.lease.as_ref())?,
            properties: Properties::from_proto(&family.properties)?,
        }),
        None => Attributes::Unknown,
    };
    Ok(Service { id: service.id.parse()?, uses, attributes })
}

pub(crate) fn topics(field: &'static str, values: &[String], min: usize, max: usize) -> Result<Vec<String>, WireError> {
    list(field, values, min, max, |value| {
        wire::in_range(field, value.len() as u64, 1, MAX_TOPIC_BYTES as u64)?;
        wire::text(field, value, MAX_TOPIC_BYTES)
    })
}

fn multiaddr(bytes: &[u8]) -> Result<Multiaddr, WireError> {
    const FIELD: &str = "multiaddrs";
    wire::in_range(FIELD, bytes.len() as u64, 1, MAX_ADDRESS_BYTES as u64)?;
    let address = Multiaddr::try_from(bytes.to_vec())
        .map_err(|error| WireError::Invalid { field: FIELD, reason: error.to_string() })?;
    if address.iter().any(|part| matches!(part, Protocol::P2p(_))) {
        return Err(WireError::Invalid { field: FIELD, reason: "an address names a peer of its own".into() });
    }
    Ok(address)
}

pub(crate) fn amount(field: &'static str, bytes: &[u8], bits: u32) -> Result<u128, WireError> {
    wire::amount_from_bytes(field, bytes, bits)
}

pub(crate) fn ranged<T, E: fmt::Display>(field: &'static str, value: Result<T, E>) -> Result<T, WireError> {
    value.map_err(|error| WireError::Invalid { field, reason: error.to_string() })
}

pub(crate) fn seconds(field: &'static str, value: u64, max: u64) -> Result<Seconds, WireError> {
    wire::in_range(field, value, 0, max)?;
    ranged(field, Seconds::new(value))
}

pub(crate) fn time(field: &'static str, value: u64) -> Result<UnixTime, WireError> {
    wire::in_range(field, value, 0, UnixTime::MAX.get())?;
    ranged(field, UnixTime::new(value))
}

fn list<T, U>(
    field: &'static str,
    values: &[T],
    min: usize,
    max: usize,
    convert: impl Fn(&T) -> Result<U, WireError>,
) -> Result<Vec<U>, WireError> {
    wire::in_range(field, values.len() as u64, min as u64, max as u64)?;
    values.iter().map(convert).collect()
}

fn distinct<T: Eq + std::hash::Hash + fmt::Display>(
    field: &'static str,
    ids: impl Iterator<Item = T>,
) -> Result<(), OfferError> {
    let mut seen = HashSet::new();
    for id in ids {
        if seen.contains(&id) {
            return Err(OfferError::Repeated { field, id: id.to_string() });
        }
        seen.insert(id);
    }
    Ok(())
}
