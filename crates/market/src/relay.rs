//! Relayers: what they announce, and how a transaction reaches one without either side learning an address.
//!
//! A relayer publishes signed, expiring [`Announcement`]s. A wallet picks one ([`choose`]), asks for a signed [`RelayQuote`], binds its fee in
//! the proof's external data, and submits. Requests travel sealed ([`crate::rpc`]); a submission carries an idempotency key, so it can be sent
//! again after silence. The outcome is confirmed, rejected, or unknown; unknown is never failure: the nullifier on chain decides.

use std::collections::BTreeMap;
use std::fmt;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use alloy_primitives::{Address, B256};
use async_trait::async_trait;
use futures::StreamExt as _;
use libp2p::PeerId;
use libp2p::identity::PublicKey;
use prost::Message as _;
use rand::Rng;
use rand::seq::IteratorRandom as _;
use serde::{Deserialize, Serialize};
use tributary_protocol::amount::Amount;
use tributary_protocol::keys::PoolId;
use tributary_protocol::time::{Seconds, UnixTime};

use crate::clock::Clock;
use crate::envelope::{self, EnvelopeError, PayloadType, Signer};
use crate::offer;
use crate::proto;
use crate::rpc::{RpcError, SealedClient, SealedHandler};
use crate::sealed::EncryptionKey;
use crate::topics::ContentTopic;
use crate::transport::{Broadcast, Subscription, TransportError};
use crate::wire::{self, WireError};

/// Largest encoded announcement with its envelope, bytes.
pub const MAX_ANNOUNCEMENT_BYTES: usize = 4096;
/// Longest time from issue to expiry of an announcement, seconds.
pub const MAX_LIFETIME: u64 = 86_400;
/// Largest call data of one operation, bytes.
pub const MAX_CALL_BYTES: usize = 64 * 1024;

const MAX_QUOTE_BYTES: usize = 1024;
const MAX_REQUEST_BYTES: usize = MAX_CALL_BYTES + 4096;
const MAX_RESPONSE_BYTES: usize = 8192;

/// Why a relayer's message was refused.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum RelayError {
    /// The envelope or its signature is bad.
    #[error(transparent)]
    Envelope(#[from] EnvelopeError),
    /// A field is malformed.
    #[error(transparent)]
    Wire(#[from] WireError),
    /// The sealed call failed. After a submission the outcome isn't known.
    #[error(transparent)]
    Rpc(#[from] RpcError),
    /// Signed by another key than the one named.
    #[error("{signer} signed for relayer {relayer}")]
    ForeignKey {
        /// The relayer.
        relayer: Box<PeerId>,
        /// Who signed.
        signer: Box<PeerId>,
    },
    /// The message is over.
    #[error("the {message} ended at {expires_at}, now is {now}")]
    Expired {
        /// What it is.
        message: &'static str,
        /// Its end.
        expires_at: UnixTime,
        /// The reader's time.
        now: UnixTime,
    },
    /// The announcement comes from the future, or lives too long.
    #[error("the announcement lives from {issued_at} to {expires_at}, now is {now}; at most {limit} s are allowed")]
    Lifetime {
        /// Its issue.
        issued_at: UnixTime,
        /// Its end.
        expires_at: UnixTime,
        /// The reader's time.
        now: UnixTime,
        /// Longest lifetime, seconds.
        limit: u64,
    },
    /// The reader doesn't know the pool.
    #[error("the relayer serves pool {} on chain {}, which isn't configured here", pool.address, pool.chain_id)]
    UnknownPool {
        /// The pool.
        pool: PoolId,
    },
    /// The relayer announces no fee for this operation.
    #[error("the relayer doesn't take {operation:?}")]
    NotServed {
        /// The operation.
        operation: RelayOperation,
    },
    /// The quote is for another pool, operation or account.
    #[error("the quote's {field} isn't what was asked or announced")]
    OtherQuote {
        /// What differs.
        field: &'static str,
    },
    /// The fee is above the announced one, or above the wallet's limit.
    #[error("the relayer asks {fee}, the limit is {limit}")]
    FeeTooHigh {
        /// The quoted fee.
        fee: Amount,
        /// The lower of the announced fee and the wallet's limit.
        limit: Amount,
    },
    /// The relayer refused.
    #[error("the relayer refused: {code}: {description}")]
    Refused {
        /// The relayer's code.
        code: String,
        /// In words.
        description: String,
        /// Whether the same may be asked again later.
        retry: bool,
    },
    /// The relayer answered with another kind of message.
    #[error("the relayer answered with another kind of message than was asked for")]
    WrongAnswer,
}

impl RelayError {
    /// Stable code of the error.
    #[must_use]
    pub const fn code(&self) -> &'static str {
        match self {
            Self::Envelope(error) => error.code(),
            Self::Wire(error) => error.code(),
            Self::Rpc(error) => error.code(),
            Self::ForeignKey { .. } => "TRB-M501",
            Self::Expired { .. } => "TRB-M502",
            Self::Lifetime { .. } => "TRB-M503",
            Self::UnknownPool { .. } => "TRB-M504",
            Self::NotServed { .. } => "TRB-M505",
            Self::OtherQuote { .. } => "TRB-M506",
            Self::FeeTooHigh { .. } => "TRB-M507",
            Self::Refused { .. } => "TRB-M508",
            Self::WrongAnswer => "TRB-M509",
        }
    }
}

/// What a relayer can be asked to send.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum RelayOperation {
    /// Deposit, transfer, open, withdraw.
    Transact,
    /// Close, or close and reopen.
    Close,
    /// Claim.
    Claim,
    /// Insertion of queued leaves alone.
    Insert,
}

impl RelayOperation {
    /// All operations.
    pub const ALL: [Self; 4] = [Self::Transact, Self::Close, Self::Claim, Self::Insert];

    const fn to_proto(self) -> proto::RelayOperation {
        match self {
            Self::Transact => proto::RelayOperation::Transact,
            Self::Close => proto::RelayOperation::Close,
            Self::Claim => proto::RelayOperation::Claim,
            Self::Insert => proto::RelayOperation::Insert,
        }
    }

    fn from_proto(operation: i32) -> Result<Self, WireError> {
        Self::ALL
            .into_iter()
            .find(|known| known.to_proto() as i32 == operation)
            .ok_or_else(|| WireError::Invalid { field: "operation", reason: format!("{operation} is unknown") })
    }
}

/// Fees for one operation, base units of the pool's token.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct RelayFee {
    /// For sending it.
    pub alone: Amount,
    /// For sending it, and inserting until its leaves are in the tree.
    pub with_insertion: Amount,
}

impl RelayFee {
    /// The fee with or without insertion.
    #[must_use]
    pub const fn of(&self, with_insertion: bool) -> Amount {
        if with_insertion { self.with_insertion } else { self.alone }
    }
}

/// What a relayer announces.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Announcement {
    /// Key that requests are sealed to.
    #[serde(serialize_with = "hex_key")]
    pub encryption_key: EncryptionKey,
    /// The pool that it serves.
    pub pool: PoolId,
    /// Account that fees are bound to.
    pub account: Address,
    /// Fees for the operations that it takes.
    pub fees: BTreeMap<RelayOperation, RelayFee>,
    /// Grows with each announcement for this pool.
    pub sequence: u64,
    /// When it was made.
    pub issued_at: UnixTime,
    /// When it ends.
    pub expires_at: UnixTime,
}

fn hex_key<S: serde::Serializer>(key: &EncryptionKey, serializer: S) -> Result<S::Ok, S::Error> {
    serializer.serialize_str(&hex::encode(key.as_bytes()))
}

/// What a reader knows when an announcement arrives.
#[derive(Debug, Clone, Copy)]
pub struct RelayContext<'a> {
    /// The reader's time.
    pub now: UnixTime,
    /// Pools that it is configured for.
    pub pools: &'a [PoolId],
}

impl Announcement {
    /// Signs the announcement and returns the encoded envelope. It is checked first as every reader will check it.
    ///
    /// # Errors
    /// What a reader would say to it, or that the key can't sign.
    pub fn sign<S: Signer + ?Sized>(&self, signer: &S) -> Result<Vec<u8>, RelayError> {
        let payload = proto::RelayerAnnouncement {
            version: 1,
            relayer: signer.public_key().encode_protobuf(),
            encryption_key: self.encryption_key.as_bytes().to_vec(),
            pool: Some(offer::pool_to_proto(&self.pool)),
            account: self.account.to_vec(),
            fees: self
                .fees
                .iter()
                .map(|(operation, fee)| proto::RelayFee {
                    operation: operation.to_proto().into(),
                    fee: wire::amount_to_bytes(fee.alone.get()),
                    fee_with_insertion: wire::amount_to_bytes(fee.with_insertion.get()),
                })
                .collect(),
            sequence: self.sequence,
            issued_at: self.issued_at.get(),
            expires_at: self.expires_at.get(),
        }
        .encode_to_vec();
        let signed = envelope::seal(signer, PayloadType::RelayerAnnouncement, payload)?;
        VerifiedAnnouncement::verify(&signed, &RelayContext { now: self.issued_at, pools: &[self.pool] })?;
        Ok(signed)
    }

    fn from_proto(announcement: &proto::RelayerAnnouncement) -> Result<Self, WireError> {
        let mut fees = BTreeMap::new();
        wire::in_range("fees", announcement.fees.len() as u64, 1, RelayOperation::ALL.len() as u64)?;
        for fee in &announcement.fees {
            let operation = RelayOperation::from_proto(fee.operation)?;
            let amounts = RelayFee {
                alone: amount("fee", &fee.fee)?,
                with_insertion: amount("fee_with_insertion", &fee.fee_with_insertion)?,
            };
            if fees.insert(operation, amounts).is_some() {
                return Err(WireError::Invalid { field: "fees", reason: format!("two fees for {operation:?}") });
            }
        }
        Ok(Self {
            encryption_key: EncryptionKey::from_bytes("encryption_key", &announcement.encryption_key)?,
            pool: offer::pool_from_proto(announcement.pool.as_ref())?,
            account: account(&announcement.account)?,
            fees,
            sequence: announcement.sequence,
            issued_at: offer::time("issued_at", announcement.issued_at)?,
            expires_at: offer::time("expires_at", announcement.expires_at)?,
        })
    }
}

/// An announcement whose signature and content were checked.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct VerifiedAnnouncement {
    announcement: Announcement,
    relayer: PublicKey,
    peer: PeerId,
}

impl VerifiedAnnouncement {
    /// Checks an encoded announcement: size, envelope, signature, key, fields, lifetime, pool.
    ///
    /// # Errors
    /// The first check that fails.
    pub fn verify(bytes: &[u8], context: &RelayContext<'_>) -> Result<Self, RelayError> {
        let opened = envelope::open(PayloadType::RelayerAnnouncement, bytes, MAX_ANNOUNCEMENT_BYTES)?;
        let decoded: proto::RelayerAnnouncement =
            wire::decode("relayer announcement", &opened.payload, MAX_ANNOUNCEMENT_BYTES)?;
        wire::check_version("relayer announcement", decoded.version)?;
        let named = envelope::public_key(&decoded.relayer)?;
        let peer = opened.signer.to_peer_id();
        if named != opened.signer {
            return Err(RelayError::ForeignKey { relayer: Box::new(named.to_peer_id()), signer: Box::new(peer) });
        }
        let announcement = Announcement::from_proto(&decoded)?;
        let now = context.now;
        let (issued_at, expires_at) = (announcement.issued_at, announcement.expires_at);
        let lifetime = expires_at.since(issued_at).get();
        let from_future = issued_at.since(now).get() > offer::CLOCK_SKEW;
        if lifetime == 0 || lifetime > MAX_LIFETIME || from_future {
            return Err(RelayError::Lifetime { issued_at, expires_at, now, limit: MAX_LIFETIME });
        }
        if expires_at <= now {
            return Err(RelayError::Expired { message: "announcement", expires_at, now });
        }
        if !context.pools.contains(&announcement.pool) {
            return Err(RelayError::UnknownPool { pool: announcement.pool });
        }
        Ok(Self { announcement, relayer: opened.signer, peer })
    }

    /// The relayer.
    #[must_use]
    pub const fn peer_id(&self) -> PeerId {
        self.peer
    }

    /// What it announces.
    #[must_use]
    pub const fn announcement(&self) -> &Announcement {
        &self.announcement
    }

    /// The announced fee for an operation.
    #[must_use]
    pub fn fee(&self, operation: RelayOperation, with_insertion: bool) -> Option<Amount> {
        self.announcement.fees.get(&operation).map(|fee| fee.of(with_insertion))
    }
}

impl std::ops::Deref for VerifiedAnnouncement {
    type Target = Announcement;

    fn deref(&self) -> &Announcement {
        &self.announcement
    }
}

/// Relayers that a wallet knows: the newest announcement of each, bounded.
#[derive(Debug)]
pub struct RelayerBook {
    entries: BTreeMap<(PeerId, PoolId), Arc<VerifiedAnnouncement>>,
    capacity: usize,
}

impl RelayerBook {
    /// Announcements in a usual book.
    pub const CAPACITY: usize = 256;

    /// An empty book for at most `capacity` announcements, at least one.
    #[must_use]
    pub fn new(capacity: usize) -> Self {
        Self { entries: BTreeMap::new(), capacity: capacity.max(1) }
    }

    /// Puts an announcement in, unless the book has one as new. A full book gives up an announcement drawn at random. Says whether it was taken.
    pub fn insert<R: Rng>(&mut self, announcement: VerifiedAnnouncement, now: UnixTime, rng: &mut R) -> bool {
        let key = (announcement.peer, announcement.pool);
        if let Some(known) = self.entries.get(&key) {
            if known.sequence >= announcement.sequence {
                return false;
            }
        } else if self.entries.len() >= self.capacity {
            self.entries.retain(|_, known| known.expires_at > now);
            if self.entries.len() >= self.capacity
                && let Some(victim) = self.entries.keys().copied().choose(rng)
            {
                self.entries.remove(&victim);
            }
        }
        self.entries.insert(key, Arc::new(announcement));
        true
    }

    /// Announcements in force for a pool.
    pub fn live(&self, pool: PoolId, now: UnixTime) -> impl Iterator<Item = &Arc<VerifiedAnnouncement>> {
        self.entries.values().filter(move |known| known.pool == pool && known.expires_at > now)
    }
}

/// Fills a shared book from the relayers' topic.
#[derive(Clone)]
pub struct RelayerCollector {
    book: Arc<Mutex<RelayerBook>>,
    changes: tokio::sync::watch::Sender<u64>,
    pools: Vec<PoolId>,
    clock: Arc<dyn Clock>,
}

impl fmt::Debug for RelayerCollector {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("RelayerCollector").field("pools", &self.pools).finish_non_exhaustive()
    }
}

impl RelayerCollector {
    /// A collector of announcements for these pools, with an empty book.
    #[must_use]
    pub fn new(pools: impl IntoIterator<Item = PoolId>, capacity: usize, clock: Arc<dyn Clock>) -> Self {
        Self {
            book: Arc::new(Mutex::new(RelayerBook::new(capacity))),
            changes: tokio::sync::watch::Sender::new(0),
            pools: pools.into_iter().collect(),
            clock,
        }
    }

    /// Takes one message of the topic. Says whether it was news.
    ///
    /// # Errors
    /// Why the announcement was refused.
    pub fn take(&self, payload: &[u8]) -> Result<bool, RelayError> {
        let now = self.clock.now();
        let verified = VerifiedAnnouncement::verify(payload, &RelayContext { now, pools: &self.pools })?;
        let news =
            self.book.lock().unwrap_or_else(PoisonError::into_inner).insert(verified, now, &mut rand::thread_rng());
        if news {
            self.changes.send_modify(|count| *count += 1);
        }
        Ok(news)
    }

    /// Subscribes to the relayers' topic.
    ///
    /// # Errors
    /// [`TransportError::Closed`].
    pub async fn listen<T: Broadcast + ?Sized>(&self, transport: &T) -> Result<Subscription, TransportError> {
        transport.subscribe(&ContentTopic::relayers()).await
    }

    /// Takes what arrives until the transport closes.
    pub async fn run(&self, mut announcements: Subscription) {
        while let Some(payload) = announcements.next().await {
            if let Err(error) = self.take(&payload) {
                tracing::debug!(code = error.code(), %error, "refused a relayer's announcement");
            }
        }
    }

    /// Announcements in force for a pool.
    #[must_use]
    pub fn live(&self, pool: PoolId) -> Vec<Arc<VerifiedAnnouncement>> {
        let now = self.clock.now();
        self.book.lock().unwrap_or_else(PoisonError::into_inner).live(pool, now).cloned().collect()
    }

    /// Waits until `pick` finds what it looks for among the pool's relayers. Bounded by the caller.
    pub async fn wait_for<T>(
        &self,
        pool: PoolId,
        mut pick: impl FnMut(&[Arc<VerifiedAnnouncement>]) -> Option<T>,
    ) -> T {
        let mut changes = self.changes.subscribe();
        loop {
            changes.mark_unchanged();
            if let Some(found) = pick(&self.live(pool)) {
                return found;
            }
            // This value holds a sender, so the channel stays open.
            let _ = changes.changed().await;
        }
    }
}

/// Draws one relayer among those whose fee is at most a tenth above the cheapest: who chooses the very cheapest every time is known
/// by it. `None` when nobody takes the operation within the limit.
pub fn choose<'a, R: Rng>(
    relayers: impl IntoIterator<Item = &'a Arc<VerifiedAnnouncement>>,
    operation: RelayOperation,
    with_insertion: bool,
    max_fee: Amount,
    rng: &mut R,
) -> Option<Arc<VerifiedAnnouncement>> {
    let affordable: Vec<_> = relayers
        .into_iter()
        .filter_map(|relayer| Some((relayer.fee(operation, with_insertion)?, relayer)))
        .filter(|(fee, _)| *fee <= max_fee)
        .collect();
    let cheapest = affordable.iter().map(|(fee, _)| *fee).min()?.get();
    affordable
        .into_iter()
        .filter(|(fee, _)| fee.get() <= cheapest + cheapest / 10)
        .map(|(_, relayer)| Arc::clone(relayer))
        .choose(rng)
}

/// What a relayer promises for one transaction.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct RelayQuote {
    /// The relayer's own name for it.
    pub quote_id: [u8; 16],
    /// The pool.
    pub pool: PoolId,
    /// The operation.
    pub operation: RelayOperation,
    /// Whether it includes insertion.
    pub with_insertion: bool,
    /// The fee.
    pub fee: Amount,
    /// Account that the fee must be bound to.
    pub account: Address,
    /// Until when the transaction must have been submitted.
    pub valid_until: UnixTime,
}

impl RelayQuote {
    /// Signs the quote and returns the encoded envelope.
    ///
    /// # Errors
    /// That the key can't sign.
    pub fn sign<S: Signer + ?Sized>(&self, signer: &S) -> Result<Vec<u8>, RelayError> {
        let payload = proto::RelayQuote {
            version: 1,
            quote_id: self.quote_id.to_vec(),
            pool: Some(offer::pool_to_proto(&self.pool)),
            operation: self.operation.to_proto().into(),
            with_insertion: self.with_insertion,
            fee: wire::amount_to_bytes(self.fee.get()),
            account: self.account.to_vec(),
            valid_until: self.valid_until.get(),
        }
        .encode_to_vec();
        Ok(envelope::seal(signer, PayloadType::RelayQuote, payload)?)
    }

    /// Opens an encoded quote that this relayer must have signed.
    ///
    /// # Errors
    /// Envelope, signer, fields, or that it is over.
    pub fn verify(bytes: &[u8], relayer: &PublicKey, now: UnixTime) -> Result<Self, RelayError> {
        let opened = envelope::open(PayloadType::RelayQuote, bytes, MAX_QUOTE_BYTES)?;
        if opened.signer != *relayer {
            return Err(RelayError::ForeignKey {
                relayer: Box::new(relayer.to_peer_id()),
                signer: Box::new(opened.signer.to_peer_id()),
            });
        }
        let quote: proto::RelayQuote = wire::decode("relay quote", &opened.payload, MAX_QUOTE_BYTES)?;
        wire::check_version("relay quote", quote.version)?;
        let decoded = Self {
            quote_id: wire::fixed("quote_id", &quote.quote_id)?,
            pool: offer::pool_from_proto(quote.pool.as_ref())?,
            operation: RelayOperation::from_proto(quote.operation)?,
            with_insertion: quote.with_insertion,
            fee: amount("fee", &quote.fee)?,
            account: account(&quote.account)?,
            valid_until: offer::time("valid_until", quote.valid_until)?,
        };
        if decoded.valid_until <= now {
            return Err(RelayError::Expired { message: "quote", expires_at: decoded.valid_until, now });
        }
        Ok(decoded)
    }
}

/// A quote that a wallet verified against the announcement and its own limit.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct AgreedRelayQuote {
    quote: RelayQuote,
    signed: Vec<u8>,
}

impl AgreedRelayQuote {
    /// What was agreed.
    #[must_use]
    pub const fn quote(&self) -> &RelayQuote {
        &self.quote
    }

    /// The signed bytes.
    #[must_use]
    pub fn signed(&self) -> &[u8] {
        &self.signed
    }
}

/// Names one transaction to a relayer, however often it is sent.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct IdempotencyKey([u8; 16]);

impl IdempotencyKey {
    /// A new random key. Store it with the transaction before submitting.
    pub fn random<R: Rng>(rng: &mut R) -> Self {
        Self(rng.r#gen())
    }

    /// The key of these bytes.
    #[must_use]
    pub const fn from_bytes(bytes: [u8; 16]) -> Self {
        Self(bytes)
    }

    /// The key's bytes.
    #[must_use]
    pub const fn as_bytes(&self) -> &[u8; 16] {
        &self.0
    }
}

impl fmt::Display for IdempotencyKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&hex::encode(self.0))
    }
}

/// What became of a submission.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case", tag = "state")]
pub enum RelayStatus {
    /// Taken and stored, not yet sent.
    Accepted,
    /// Sent, not yet mined.
    Pending {
        /// Hash of the transaction.
        transaction: B256,
    },
    /// Mined.
    Confirmed {
        /// Hash of the transaction.
        transaction: B256,
        /// Its block.
        block_number: u64,
        /// Whether its leaves are in the tree as well.
        inserted: bool,
    },
    /// It won't be mined.
    Rejected {
        /// Stable code.
        code: String,
        /// In words.
        description: String,
        /// Whether the same transaction may be submitted again later.
        retry: bool,
    },
    /// The relayer can't tell. The nullifier on chain decides.
    Unknown {
        /// In words.
        description: String,
    },
}

impl RelayStatus {
    /// Whether asking again can't change it.
    #[must_use]
    pub const fn is_final(&self) -> bool {
        matches!(self, Self::Confirmed { .. } | Self::Rejected { .. })
    }

    fn to_proto(&self, key: Option<IdempotencyKey>) -> proto::RelayStatus {
        use proto::relay_status::State;
        let state = match self {
            Self::Accepted => State::Accepted(proto::RelayAccepted {}),
            Self::Pending { transaction } => State::Pending(proto::RelayPending { transaction: transaction.to_vec() }),
            Self::Confirmed { transaction, block_number, inserted } => State::Confirmed(proto::RelayConfirmed {
                transaction: transaction.to_vec(),
                block_number: *block_number,
                inserted: *inserted,
            }),
            Self::Rejected { code, description, retry } => State::Rejected(proto::RelayRejected {
                code: cut(code, 64),
                description: cut(description, 512),
                retry: *retry,
            }),
            Self::Unknown { description } => State::Unknown(proto::RelayUnknown { description: cut(description, 512) }),
        };
        proto::RelayStatus { idempotency_key: key.map(|key| key.0.to_vec()).unwrap_or_default(), state: Some(state) }
    }

    fn from_proto(status: &proto::RelayStatus) -> Result<Self, WireError> {
        use proto::relay_status::State;
        let hash = |bytes: &[u8]| wire::fixed::<32>("transaction", bytes).map(B256::from);
        match status.state.as_ref().ok_or(WireError::Missing { field: "state" })? {
            State::Accepted(proto::RelayAccepted {}) => Ok(Self::Accepted),
            State::Pending(pending) => Ok(Self::Pending { transaction: hash(&pending.transaction)? }),
            State::Confirmed(confirmed) => Ok(Self::Confirmed {
                transaction: hash(&confirmed.transaction)?,
                block_number: confirmed.block_number,
                inserted: confirmed.inserted,
            }),
            State::Rejected(rejected) => Ok(Self::Rejected {
                code: wire::text("code", &rejected.code, 64)?,
                description: wire::text("description", &rejected.description, 512)?,
                retry: rejected.retry,
            }),
            State::Unknown(unknown) => {
                Ok(Self::Unknown { description: wire::text("description", &unknown.description, 512)? })
            }
        }
    }
}

fn cut(text: &str, max: usize) -> String {
    let mut cut: String = text.chars().filter(|c| !c.is_control()).collect();
    while cut.len() > max {
        cut.pop();
    }
    cut
}

/// A submission whose quote the relayer itself signed and that is still in force.
#[derive(Clone, PartialEq, Eq)]
pub struct Submission {
    /// Names the transaction.
    pub key: IdempotencyKey,
    /// The quote that it is sent under. That the call binds its fee and account is still to be checked.
    pub quote: RelayQuote,
    /// Call data of the pool.
    pub call: Vec<u8>,
}

impl fmt::Debug for Submission {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Submission")
            .field("key", &self.key)
            .field("operation", &self.quote.operation)
            .field("call_bytes", &self.call.len())
            .finish_non_exhaustive()
    }
}

/// What a relayer does with requests that are well-formed.
#[async_trait]
pub trait RelayHandler: Send + Sync + 'static {
    /// Makes a quote, or says why not ([`RelayStatus::Rejected`]).
    ///
    /// # Errors
    /// The status that is sent instead of a quote.
    async fn quote(
        &self,
        pool: PoolId,
        operation: RelayOperation,
        with_insertion: bool,
    ) -> Result<RelayQuote, RelayStatus>;

    /// Takes a submission. The same key again is the same transaction: nothing is sent twice, its present status is returned.
    async fn submit(&self, submission: Submission) -> RelayStatus;

    /// The present status of a submission; [`RelayStatus::Unknown`] for a key never seen.
    async fn status(&self, key: IdempotencyKey) -> RelayStatus;
}

/// Decodes sealed requests, checks them, and passes them to a [`RelayHandler`]. Serve it with a [`crate::rpc::SealedServer`].
pub struct RelayEndpoint {
    signer: Arc<dyn Signer>,
    clock: Arc<dyn Clock>,
    handler: Arc<dyn RelayHandler>,
}

impl fmt::Debug for RelayEndpoint {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("RelayEndpoint")
    }
}

impl RelayEndpoint {
    /// An endpoint that signs quotes with the key that signs the announcements.
    #[must_use]
    pub fn new(signer: Arc<dyn Signer>, clock: Arc<dyn Clock>, handler: Arc<dyn RelayHandler>) -> Self {
        Self { signer, clock, handler }
    }

    async fn respond(&self, body: &[u8]) -> Result<proto::relay_response::Response, RelayError> {
        use proto::relay_request::Request;
        use proto::relay_response::Response;
        let request: proto::RelayRequest = wire::decode("relay request", body, MAX_REQUEST_BYTES)?;
        wire::check_version("relay request", request.version)?;
        match request.request.ok_or(WireError::Missing { field: "request" })? {
            Request::Quote(quote) => {
                let pool = offer::pool_from_proto(quote.pool.as_ref())?;
                let operation = RelayOperation::from_proto(quote.operation)?;
                let answer = self.handler.quote(pool, operation, quote.with_insertion);
                Ok(match answer.await {
                    Ok(quote) => Response::Quote(quote.sign(&*self.signer)?),
                    Err(status) => Response::Status(status.to_proto(None)),
                })
            }
            Request::Submit(submit) => {
                let key = IdempotencyKey(wire::fixed("idempotency_key", &submit.idempotency_key)?);
                let submission = self.check(key, submit);
                let status = match submission {
                    Ok(submission) => self.handler.submit(submission).await,
                    // A transaction taken before stays what it is when its quote has ended meanwhile.
                    Err(error @ RelayError::Expired { .. }) => match self.handler.status(key).await {
                        RelayStatus::Unknown { .. } => rejection(&error),
                        known => known,
                    },
                    Err(error) => rejection(&error),
                };
                Ok(Response::Status(status.to_proto(Some(key))))
            }
            Request::Status(query) => {
                let key = IdempotencyKey(wire::fixed("idempotency_key", &query.idempotency_key)?);
                let status = self.handler.status(key).await;
                Ok(Response::Status(status.to_proto(Some(key))))
            }
        }
    }

    fn check(&self, key: IdempotencyKey, submit: proto::RelaySubmit) -> Result<Submission, RelayError> {
        wire::in_range("call", submit.call.len() as u64, 4, MAX_CALL_BYTES as u64)?;
        let quote = RelayQuote::verify(&submit.quote, &self.signer.public_key(), self.clock.now())?;
        if quote.operation != RelayOperation::from_proto(submit.operation)? {
            return Err(RelayError::OtherQuote { field: "operation" });
        }
        if quote.with_insertion != submit.with_insertion {
            return Err(RelayError::OtherQuote { field: "with_insertion" });
        }
        Ok(Submission { key, quote, call: submit.call })
    }
}

fn rejection(error: &RelayError) -> RelayStatus {
    RelayStatus::Rejected { code: error.code().to_owned(), description: error.to_string(), retry: false }
}

#[async_trait]
impl SealedHandler for RelayEndpoint {
    async fn handle(&self, body: Vec<u8>) -> Option<Vec<u8>> {
        let response = self
            .respond(&body)
            .await
            .unwrap_or_else(|error| proto::relay_response::Response::Status(rejection(&error).to_proto(None)));
        let response = proto::RelayResponse { version: 1, response: Some(response) };
        Some(response.encode_to_vec())
    }
}

/// Asks relayers.
pub struct RelayClient {
    sealed: SealedClient,
    clock: Arc<dyn Clock>,
}

impl fmt::Debug for RelayClient {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("RelayClient").field("sealed", &self.sealed).finish_non_exhaustive()
    }
}

impl RelayClient {
    /// A client that makes sealed calls.
    #[must_use]
    pub fn new(sealed: SealedClient, clock: Arc<dyn Clock>) -> Self {
        Self { sealed, clock }
    }

    /// Asks for a quote and verifies it: signer, pool, operation, account, and a fee within the announced one and `max_fee`.
    ///
    /// # Errors
    /// [`RelayError`].
    pub async fn quote(
        &self,
        relayer: &VerifiedAnnouncement,
        operation: RelayOperation,
        with_insertion: bool,
        max_fee: Amount,
    ) -> Result<AgreedRelayQuote, RelayError> {
        let announced = relayer.fee(operation, with_insertion).ok_or(RelayError::NotServed { operation })?;
        let request = proto::relay_request::Request::Quote(proto::RelayQuoteRequest {
            pool: Some(offer::pool_to_proto(&relayer.pool)),
            operation: operation.to_proto().into(),
            with_insertion,
        });
        let signed = match self.call(relayer, request).await? {
            proto::relay_response::Response::Quote(signed) => signed,
            proto::relay_response::Response::Status(status) => {
                return Err(match RelayStatus::from_proto(&status)? {
                    RelayStatus::Rejected { code, description, retry } => {
                        RelayError::Refused { code, description, retry }
                    }
                    _ => RelayError::WrongAnswer,
                });
            }
        };
        let quote = RelayQuote::verify(&signed, &relayer.relayer, self.clock.now())?;
        let differs = if quote.pool != relayer.pool {
            Some("pool")
        } else if quote.operation != operation {
            Some("operation")
        } else if quote.with_insertion != with_insertion {
            Some("with_insertion")
        } else if quote.account != relayer.account {
            Some("account")
        } else {
            None
        };
        if let Some(field) = differs {
            return Err(RelayError::OtherQuote { field });
        }
        let limit = announced.min(max_fee);
        if quote.fee > limit {
            return Err(RelayError::FeeTooHigh { fee: quote.fee, limit });
        }
        Ok(AgreedRelayQuote { quote, signed })
    }

    /// Submits a transaction. Submitting again with the same key is safe, and the way to find out after silence.
    ///
    /// # Errors
    /// [`RelayError::Rpc`] with no answer leaves the outcome unknown.
    pub async fn submit(
        &self,
        relayer: &VerifiedAnnouncement,
        quote: &AgreedRelayQuote,
        key: IdempotencyKey,
        call: Vec<u8>,
    ) -> Result<RelayStatus, RelayError> {
        wire::in_range("call", call.len() as u64, 4, MAX_CALL_BYTES as u64)?;
        let request = proto::relay_request::Request::Submit(proto::RelaySubmit {
            idempotency_key: key.0.to_vec(),
            quote: quote.signed.clone(),
            operation: quote.quote.operation.to_proto().into(),
            with_insertion: quote.quote.with_insertion,
            call,
        });
        self.status_of(relayer, key, request).await
    }

    /// Asks what became of a submission.
    ///
    /// # Errors
    /// [`RelayError`].
    pub async fn status(&self, relayer: &VerifiedAnnouncement, key: IdempotencyKey) -> Result<RelayStatus, RelayError> {
        let request =
            proto::relay_request::Request::Status(proto::RelayStatusQuery { idempotency_key: key.0.to_vec() });
        self.status_of(relayer, key, request).await
    }

    /// Asks every `interval` until the submission is confirmed or rejected, or `patience` is over; returns the last status. Silence
    /// in between is waited out.
    pub async fn wait(
        &self,
        relayer: &VerifiedAnnouncement,
        key: IdempotencyKey,
        interval: Duration,
        patience: Duration,
    ) -> RelayStatus {
        let mut last = RelayStatus::Unknown { description: "the relayer hasn't answered".into() };
        // The bound covers the calls too: one call may take longer than the interval.
        let _ = tokio::time::timeout(patience, async {
            loop {
                match self.status(relayer, key).await {
                    Ok(status) => {
                        last = status;
                        if last.is_final() {
                            return;
                        }
                    }
                    Err(error) => {
                        tracing::debug!(code = error.code(), %error, "no status from the relayer");
                    }
                }
                tokio::time::sleep(interval).await;
            }
        })
        .await;
        last
    }

    async fn status_of(
        &self,
        relayer: &VerifiedAnnouncement,
        key: IdempotencyKey,
        request: proto::relay_request::Request,
    ) -> Result<RelayStatus, RelayError> {
        match self.call(relayer, request).await? {
            proto::relay_response::Response::Status(status)
                if status.idempotency_key.is_empty() || status.idempotency_key == key.0 =>
            {
                Ok(RelayStatus::from_proto(&status)?)
            }
            _ => Err(RelayError::WrongAnswer),
        }
    }

    async fn call(
        &self,
        relayer: &VerifiedAnnouncement,
        request: proto::relay_request::Request,
    ) -> Result<proto::relay_response::Response, RelayError> {
        let body = proto::RelayRequest { version: 1, request: Some(request) }.encode_to_vec();
        let answer = self.sealed.call(&relayer.encryption_key, &body).await?;
        let response: proto::RelayResponse = wire::decode("relay response", &answer, MAX_RESPONSE_BYTES)?;
        wire::check_version("relay response", response.version)?;
        Ok(response.response.ok_or(WireError::Missing { field: "response" })?)
    }
}

/// How long a relayer's quotes hold when it says nothing else.
pub const QUOTE_VALIDITY: Seconds = match Seconds::new(120) {
    Ok(seconds) => seconds,
    Err(_) => Seconds::ZERO,
};

fn amount(field: &'static str, bytes: &[u8]) -> Result<Amount, WireError> {
    let value = wire::amount_from_bytes(field, bytes, Amount::BITS)?;
    offer::ranged(field, Amount::new(value))
}

fn account(bytes: &[u8]) -> Result<Address, WireError> {
    let account = Address::from(wire::fixed::<20>("account", bytes)?);
    if account == Address::ZERO {
        return Err(WireError::Invalid { field: "account", reason: "the zero address can't take a fee".into() });
    }
    Ok(account)
}
