//! What can go wrong for a buyer.

use tributary_market::ticket::Reason;
use tributary_waku::PeerId;

/// Why a buyer's step failed.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum ClientError {
    /// The provider refused.
    #[error("the provider refused: {description}")]
    Refused {
        /// Its reason.
        reason: Reason,
        /// In its words.
        description: String,
    },
    /// The provider answered with an error that is not about payment.
    #[error("the provider answered with status {status}: {description}")]
    Failed {
        /// Store status.
        status: u32,
        /// In its words.
        description: String,
    },
    /// No provider is known.
    #[error("no provider is known: run `tributary discover`")]
    NoProvider,
    /// The provider named is not known.
    #[error("provider {provider} is not known: run `tributary discover`, or look at `tributary providers list`")]
    UnknownProvider {
        /// Peer id.
        provider: String,
    },
    /// No candidate passes the filters.
    #[error("none of {candidates} candidates passes: see `tributary choose --explain`")]
    NoCandidate {
        /// How many were looked at.
        candidates: usize,
    },
    /// No relayer is known.
    #[error("no relayer is known: run `tributary discover`, or send with --direct")]
    NoRelayer,
    /// All relayers are too dear.
    #[error("the cheapest relayer wants {fee} base units, the limit is {max}: raise buyer.max_relay_fee or wait")]
    RelayerTooDear {
        /// Base units.
        fee: u128,
        /// Base units.
        max: u128,
    },
    /// There is no agreed quote.
    #[error("there is no agreed quote: run `tributary quote`")]
    NoQuote,
    /// There is no stream to this provider.
    #[error("no open stream pays {provider}: run `tributary buy`")]
    NoStream {
        /// Peer id, or of what a provider.
        provider: String,
    },
    /// The offer does not sell that.
    #[error("the offer does not sell {what}: look at `tributary providers show`")]
    NotSold {
        /// What is missing.
        what: String,
    },
    /// There is no service of this name.
    #[error("'{name}' is no service: store, lightpush and filter can be bought")]
    UnknownService {
        /// What was asked for.
        name: String,
    },
    /// Content topics lie on several shards, a subscription on one.
    #[error("{first} and {other} lie on different shards, a paid subscription on one: listen to each by itself")]
    SeveralShards {
        /// A topic.
        first: String,
        /// A topic on another shard.
        other: String,
    },
    /// The quote is no more valid.
    #[error("the quote was valid until {valid_until}, it is {now}: run `tributary quote` again")]
    QuoteExpired {
        /// Unix seconds.
        valid_until: u64,
        /// Unix seconds.
        now: u64,
    },
    /// The stream's leaf did not get into the tree.
    #[error("the stream is not in the tree after {seconds} s: wait, or run `tributary insert`")]
    NotInserted {
        /// Seconds waited.
        seconds: u64,
    },
    /// There is nothing to assess.
    #[error("nothing was delivered that could be assessed: run `tributary query`")]
    NothingDelivered,
    /// There is no stream to rate a provider by.
    #[error(
        "no stream was opened to {provider} that a rating could be proved by: a rating needs a slot that was paid in full"
    )]
    NothingPaid {
        /// Peer id, or any.
        provider: String,
    },
    /// There is nothing to make a rating from.
    #[error("nothing is known of {provider}'s {service} that a score could be made from: assess it, or give --score")]
    NothingToRate {
        /// Peer id.
        provider: String,
        /// The service.
        service: String,
    },
    /// Ratings of others aren't looked after.
    #[error("this program was started without ratings of others")]
    NoRatings,
    /// A thread ended before its work.
    #[error("a calculation was interrupted")]
    Interrupted,
    /// The database holds something that it should not.
    #[error("the client's database holds {what} that does not parse: move it away and discover again")]
    Damaged {
        /// What does not parse.
        what: &'static str,
    },
    /// The relayer refused the transaction.
    #[error("the relayer refused the transaction ({code}): {description}")]
    RelayRejected {
        /// Its code.
        code: String,
        /// In its words.
        description: String,
    },
    /// Nobody knows whether the transaction was mined; its nullifier on chain will tell.
    #[error(
        "it is unknown whether the transaction was mined: {description}; `tributary wallet balance` shows it once it is"
    )]
    RelayUnknown {
        /// What is known.
        description: String,
    },
    /// The wallet failed.
    #[error(transparent)]
    Wallet(#[from] tributary_wallet::WalletError),
    /// A ticket could not be made.
    #[error(transparent)]
    Ticket(#[from] tributary_wallet::tickets::TicketError),
    /// The ledger failed.
    #[error(transparent)]
    Ledger(#[from] tributary_ledger::LedgerError),
    /// The node failed.
    #[error(transparent)]
    Node(#[from] tributary_waku::NodeError),
    /// A peer could not be reached.
    #[error(transparent)]
    Dial(#[from] tributary_waku::DialError),
    /// A message could not be published.
    #[error(transparent)]
    Publish(#[from] tributary_waku::PublishError),
    /// A query failed.
    #[error(transparent)]
    Store(#[from] tributary_waku::StoreError),
    /// A message was not published by a service node.
    #[error(transparent)]
    LightPush(#[from] tributary_waku::LightPushError),
    /// A subscription failed.
    #[error(transparent)]
    Filter(#[from] tributary_waku::FilterError),
    /// An answer is malformed.
    #[error(transparent)]
    Wire(#[from] tributary_market::wire::WireError),
    /// No lease could be bought.
    #[error("no lease was bought: {reason}")]
    NoLease {
        /// What that says of the provider.
        ending: tributary_reputation::store::Ending,
        /// What the provider or the wallet said last.
        reason: String,
    },
    /// The lease takes more tickets than a proof holds.
    #[error("a quota of {quota} takes {tickets} tickets, a proof holds 4: lease less")]
    LeaseTooLarge {
        /// The quota.
        quota: u32,
        /// Tickets that it takes.
        tickets: u64,
    },
    /// One purchase would take more than it may.
    #[error(
        "the purchase takes up to {needed} base units, one may take {cap}: raise the cap of a purchase, or want less or for a shorter time"
    )]
    PurchaseCap {
        /// Deposit and the relayer's highest fee, base units.
        needed: u128,
        /// Base units.
        cap: u128,
    },
    /// The purchases of a day would take more than they may.
    #[error(
        "the purchase takes up to {needed} base units, {spent} were spent in the last 24 hours, and {cap} may be: wait, or raise the cap of a day"
    )]
    DayCap {
        /// Deposit and the relayer's highest fee, base units.
        needed: u128,
        /// Base units.
        spent: u128,
        /// Base units.
        cap: u128,
    },
    /// Who is paid does not answer, and nothing may be bought from anybody else.
    #[error(
        "{provider}, which a stream pays, can't be reached ({reason}): wait for it, or allow a purchase from another provider"
    )]
    Away {
        /// The last provider that was tried.
        provider: PeerId,
        /// Why it isn't reached.
        reason: String,
    },
    /// A leased subscription ended before its time.
    #[error("{provider} pushes no more ({reason}): listen again, from another provider if one may be paid")]
    PushesEnded {
        /// Who was paid for them.
        provider: PeerId,
        /// What is known of the end.
        reason: String,
    },
    /// A topic is malformed.
    #[error(transparent)]
    Topic(#[from] tributary_waku::TopicError),
    /// A number is out of its range.
    #[error(transparent)]
    Range(#[from] tributary_protocol::RangeError),
    /// A time is on no slot.
    #[error(transparent)]
    Slot(#[from] tributary_protocol::SlotError),
    /// No agreement with the provider.
    #[error(transparent)]
    Negotiation(#[from] Box<tributary_market::negotiate::buyer::NegotiationError>),
    /// The provider can't be reached.
    #[error(transparent)]
    Transport(#[from] tributary_market::transport::TransportError),
    /// The local reputation failed.
    #[error(transparent)]
    Reputation(#[from] tributary_reputation::ReputationError),
    /// An assessment is out of bounds.
    #[error(transparent)]
    Assess(#[from] tributary_reputation::assess::AssessError),
    /// The database failed.
    #[error("the client's database failed: {0}")]
    Database(#[from] sqlx::Error),
}

impl ClientError {
    /// A stable code for programs.
    #[must_use]
    pub fn code(&self) -> &'static str {
        match self {
            Self::Refused { reason, .. } => reason.code(),
            Self::Failed { .. } => "TRB-C001",
            Self::NoProvider => "TRB-C002",
            Self::UnknownProvider { .. } => "TRB-C003",
            Self::NoCandidate { .. } => "TRB-C004",
            Self::NoRelayer => "TRB-C005",
            Self::RelayerTooDear { .. } => "TRB-C006",
            Self::NoQuote => "TRB-C007",
            Self::NoStream { .. } => "TRB-C008",
            Self::NotSold { .. } => "TRB-C009",
            Self::NothingDelivered => "TRB-C010",
            Self::Damaged { .. } => "TRB-C011",
            Self::RelayRejected { .. } => "TRB-C012",
            Self::RelayUnknown { .. } => "TRB-C013",
            Self::Wallet(error) => error.code(),
            Self::Ticket(error) => error.code(),
            Self::Ledger(error) => error.code(),
            Self::Node(_) => "TRB-C020",
            Self::Dial(_) => "TRB-C021",
            Self::Publish(_) => "TRB-C022",
            Self::Store(error) => error.code(),
            Self::LightPush(error) => error.code(),
            Self::Filter(error) => error.code(),
            Self::Wire(error) => error.code(),
            Self::NoLease { .. } => "TRB-C016",
            Self::LeaseTooLarge { .. } => "TRB-C017",
            Self::UnknownService { .. } => "TRB-C030",
            Self::SeveralShards { .. } => "TRB-C031",
            Self::PurchaseCap { .. } => "TRB-C040",
            Self::DayCap { .. } => "TRB-C041",
            Self::Away { .. } => "TRB-C042",
            Self::PushesEnded { .. } => "TRB-C043",
            Self::Topic(_) => "TRB-C023",
            Self::Range(_) => "TRB-C024",
            Self::Slot(_) => "TRB-C025",
            Self::QuoteExpired { .. } => "TRB-C014",
            Self::NotInserted { .. } => "TRB-C015",
            Self::NothingPaid { .. } => "TRB-C050",
            Self::NothingToRate { .. } => "TRB-C051",
            Self::NoRatings => "TRB-C052",
            Self::Interrupted => "TRB-C053",
            Self::Negotiation(error) => error.code(),
            Self::Transport(error) => error.code(),
            Self::Reputation(error) => error.code(),
            Self::Assess(error) => error.code(),
            Self::Database(_) => "TRB-C026",
        }
    }
}
