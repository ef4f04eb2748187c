//! Steps 2 to 8 of a purchase.

use std::{collections::BTreeMap, sync::Arc, time::Duration};

use rand::{SeedableRng as _, rngs::StdRng};
use serde::{Deserialize, Serialize};
use tributary_ledger::Clock;
use tributary_market::{
    choose::{self, Candidate, Choice, Explanation, Preset, Search, Standing, StandingParts},
    clock::Clock as MarketClock,
    negotiate::{
        FamilyWanted, FilterWanted, LightpushWanted, MAX_BOUND, StoreWanted, Wanted,
        broken::BrokenQuote,
        buyer::{Direct, NegotiationError, QuoteChannel, Wish, negotiate},
    },
    node::connect,
    offer::{Attributes, RateClassId, ServiceId, SignedOffer, UseUnit, VerifiedOffer},
    property::{FamilyName, Need},
    relay::{RelayClient, VerifiedAnnouncement},
    rpc::{CallPolicy, SealedClient},
    ticket::{Reason, Remedy},
};
use tributary_protocol::{Amount, Commitment, PaymentAddress, Price, ProviderDigest, Rate, Seconds, Slot, UnixTime};
use tributary_prover::VerifyingKey;
use tributary_reputation::{
    Agreement, Assessment, AssessmentId, Combined, Config as ReputationConfig, Fault, FaultKind, Measure,
    NetworkConfig, NetworkScore, Newcomers, ProviderName, RatingBounds, Reputation, ReputationWeights, Score,
    ServiceName, Subject, Verdict, combine,
    store::{Ending, PageObserved, Reference, ReturnedMessage, StoreAssessor, StoreObservation, assess_failure},
};
use tributary_waku::{
    ContentTopic, FilterError, LightPushError, LightPushStatus, Multiaddr, NodeHandle, PeerId, PubsubTopic,
    StoreQueryRequest,
};
use tributary_wallet::{
    Intent, OpenStream, OperationKind, Outcome, PayerStream, PreparedTransaction, Rejection, StreamState, Submitter,
    Wallet,
    tickets::{PayingStream, TicketMaker},
};

use crate::{
    ClientError,
    custom::OwnAssessor,
    discover::{Directory, Found},
    lease::{LeaseBuyer, LeasePlan, PaidFilter},
    push::PaidLightpush,
    query::{PagePrice, PaidStore},
    ratings::{RatingDesk, RatingLimits},
    relay::RelaySubmitter,
    route::PATIENCE,
    session::{Sessions, SpendingCaps},
    store::{ClientStore, Delivery, Failures, Purchase, StoredQuote},
    tickets::{StreamTickets, TicketSource},
};

/// What a buyer wants.
#[derive(Debug, Clone)]
pub struct Want {
    /// The service, and how much of it.
    pub service: Sought,
    /// Content topics that it is wanted for; their shard decides the pubsub topic. None: any will do.
    pub content_topics: Vec<ContentTopic>,
    /// How long the service is wanted.
    pub duration: Seconds,
    /// Highest ticket price.
    pub max_price: Option<Price>,
    /// What matters most.
    pub preset: Preset,
    /// Providers that are left out.
    pub ignore: Vec<PeerId>,
}

/// A service that a buyer looks for.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Sought {
    /// Waku Store, by the page.
    Store {
        /// How long messages must be kept there.
        retention: Seconds,
        /// Pages in each slot.
        pages: u64,
    },
    /// Waku Lightpush, by the message.
    Lightpush {
        /// Messages in each slot.
        messages: u64,
        /// Largest payload, bytes.
        payload: u32,
    },
    /// Waku Filter, by the slot.
    Filter {
        /// Content topics at once, at least 1.
        topics: u32,
    },
    /// A service of a family beyond Waku's.
    Family(SoughtFamily),
}

/// A service of a family beyond Waku's, and how much of it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SoughtFamily {
    /// Its id in offers.
    pub id: ServiceId,
    /// The family.
    pub family: FamilyName,
    /// Conditions on its properties.
    pub needs: Vec<Need>,
    /// The unit that it is priced by.
    pub unit: UseUnit,
    /// What a slot takes.
    pub load: Load,
    /// Whether the provider is connected to before a session begins. A service over Waku relay needs no connection, and none is made: the provider
    /// would see the buyer's address.
    pub dialled: bool,
}

/// What a slot of a service takes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Load {
    /// So many uses, each paid by itself, of so many units each.
    Uses {
        /// Uses in a slot.
        uses: u64,
        /// Units of one use.
        units: u64,
    },
    /// A lease of this quota.
    Quota(u32),
}

impl Sought {
    /// The service's usual id in offers.
    #[must_use]
    pub fn id(&self) -> ServiceId {
        match self {
            Self::Store { .. } => ServiceId::store(),
            Self::Lightpush { .. } => ServiceId::lightpush(),
            Self::Filter { .. } => ServiceId::filter(),
            Self::Family(family) => family.id.clone(),
        }
    }

    /// Whether a session connects to the provider.
    pub(crate) const fn is_dialled(&self) -> bool {
        match self {
            Self::Family(family) => family.dialled,
            _ => true,
        }
    }

    /// The unit that it is priced by.
    const fn unit(&self) -> UseUnit {
        match self {
            Self::Store { .. } => UseUnit::Page,
            Self::Lightpush { .. } => UseUnit::Message,
            Self::Filter { .. } => UseUnit::TopicMinute,
            Self::Family(family) => family.unit,
        }
    }

    /// Units in a slot of this length.
    fn units(&self, slot_length: Seconds) -> u64 {
        let minutes = slot_length.get().div_ceil(60);
        match self {
            Self::Store { pages, .. } => *pages,
            Self::Lightpush { messages, .. } => *messages,
            Self::Filter { topics } => u64::from(*topics).saturating_mul(minutes),
            Self::Family(family) => match family.load {
                Load::Uses { uses, units } => uses.saturating_mul(units),
                Load::Quota(quota) if matches!(family.unit, UseUnit::Minute | UseUnit::TopicMinute) => {
                    u64::from(quota).saturating_mul(minutes)
                }
                Load::Quota(quota) => u64::from(quota),
            },
        }
    }

    /// Tickets that it takes in each slot, as this offer sells it.
    ///
    /// # Errors
    /// [`ClientError::NotSold`].
    pub fn tickets_per_slot(&self, offer: &VerifiedOffer, slot_length: Seconds) -> Result<u32, ClientError> {
        let service = self.id();
        let price = offer
            .service(&service)
            .and_then(|sold| sold.price_of(self.unit()))
            .ok_or_else(|| ClientError::NotSold { what: format!("{service} by {:?}", self.unit()) })?;
        // A lease of a slot is one proof, whose tickets pay for all of it; pages, messages and uses are paid one by one.
        let apart = |uses: u64, units: u64| uses.saturating_mul(price.tickets_for(units).unwrap_or(u64::MAX));
        let tickets = match self {
            Self::Store { pages, .. } => apart(*pages, 1),
            Self::Lightpush { messages, .. } => apart(*messages, 1),
            Self::Filter { .. } => price.tickets_for(self.units(slot_length)).unwrap_or(u64::MAX),
            Self::Family(SoughtFamily { load: Load::Uses { uses, units }, .. }) => apart(*uses, *units),
            Self::Family(SoughtFamily { load: Load::Quota(quota), .. }) => offer
                .service(&service)
                .and_then(|sold| sold.lease_tickets(*quota, slot_length))
                .ok_or_else(|| ClientError::NotSold { what: format!("{service} by the slot") })?,
        };
        Ok(u32::try_from(tickets).unwrap_or(u32::MAX))
    }
}

/// An agreed quote, as it is kept between negotiation and opening.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct AgreedTerms {
    /// Who signed it.
    pub provider: String,
    /// The service's id.
    #[serde(default = "store_id")]
    pub service: String,
    /// Who is paid.
    pub payee: String,
    /// Base units a second.
    pub rate: u128,
    /// Its class.
    pub rate_class: u32,
    /// Base units for one ticket.
    pub ticket_price: u128,
    /// Seconds.
    pub duration: u64,
    /// The stream must start by then, Unix seconds.
    pub start_deadline: u64,
    /// Tickets a slot.
    pub load_cap: u32,
    /// Unix seconds.
    pub valid_until: u64,
}

/// For how long after its making a quote can bind its provider, seconds: up to a week until its start deadline, and [`MAX_BOUND`], and a day to spare.
const QUOTES_BIND: u64 = 8 * 86_400 + MAX_BOUND;

/// What quotes were for before they named their service.
fn store_id() -> String {
    ServiceId::store().to_string()
}

/// Relayers that are tried for one purchase, at the most.
pub(crate) const MAX_RELAYERS: usize = 3;

/// How a relayer is asked while a purchase waits: others are there if it keeps silent.
const RELAYER_CALLS: CallPolicy = CallPolicy { attempts: 3, wait: Duration::from_secs(2) };

/// How long a relayer's transaction is waited for before another relayer is tried.
const RELAYER_PATIENCE: Duration = Duration::from_secs(20);

/// Time between two looks at what discovery found.
const LOOK: Duration = Duration::from_millis(50);

/// How long discovery goes on when there is somebody to buy from: others were mostly told at the same time.
const SETTLE: Duration = Duration::from_millis(300);

/// How long a chain may take to show a transaction that somebody says is mined, and whose relayer is silent.
const SHOWN_WITHIN: Duration = Duration::from_secs(5);

/// Providers that are asked for a quote in one purchase, at the most.
const MAX_CHOICES: usize = 4;

/// A stream that was opened.
#[derive(Debug, Clone)]
pub struct Opened {
    /// Its commitment.
    pub commitment: Commitment,
    /// First second that is paid.
    pub start: UnixTime,
    /// First second that is not.
    pub end: UnixTime,
    /// Base units a second.
    pub rate: Rate,
    /// rate * (end - start).
    pub deposit: Amount,
    /// The relayer's fee.
    pub fee: Amount,
    /// How sending ended.
    pub outcome: Outcome,
    /// Time for witness and proof.
    pub proving: Duration,
    /// Time from handing it over to its block.
    pub sending: Duration,
}

/// A buyer: a wallet, a node, and what is known of the market.
#[derive(Debug, Clone)]
pub struct Buyer {
    node: NodeHandle,
    wallet: Wallet,
    tickets: TicketMaker,
    directory: Directory,
    store: ClientStore,
    reputation: Reputation,
    ratings: Option<RatingDesk>,
    weights: ReputationWeights,
    assessors: Arc<BTreeMap<String, OwnAssessor>>,
    clock: Arc<dyn Clock>,
    pub(crate) sessions: Arc<Sessions>,
}

/// How a buyer deals with ratings of others.
#[derive(Debug, Clone)]
pub struct RatingSettings {
    /// The ticket circuit's verifying key.
    pub key: Arc<VerifyingKey>,
    /// How ratings count.
    pub counting: NetworkConfig,
    /// How the user weighs them.
    pub weights: ReputationWeights,
    /// How much work they may make.
    pub limits: RatingLimits,
    /// How many are kept.
    pub bounds: RatingBounds,
}

impl RatingSettings {
    /// The usual settings, for a pool whose usual stream is worth `usual`.
    #[must_use]
    pub fn new(key: Arc<VerifyingKey>, usual: Amount) -> Self {
        Self {
            key,
            counting: NetworkConfig::for_stream(usual),
            weights: ReputationWeights::default(),
            limits: RatingLimits::default(),
            bounds: RatingBounds::default(),
        }
    }
}

/// What is known of a provider's service, and from where.
#[derive(Debug, Clone)]
pub struct Reputed {
    /// Own experience.
    pub own: Score,
    /// What ratings of others say; none without [`Buyer::with_ratings`].
    pub network: Option<NetworkScore>,
    /// Both together: what the choice goes by.
    pub combined: Combined,
    /// Failures since it worked last.
    pub failures: Option<Failures>,
}

/// What a buyer is made of.
#[derive(Debug)]
pub struct BuyerParts {
    /// The node.
    pub node: NodeHandle,
    /// The wallet.
    pub wallet: Wallet,
    /// Its tickets.
    pub tickets: TicketMaker,
    /// The database.
    pub store: ClientStore,
    /// Local reputation, opened with [`open_reputation`].
    pub reputation: Reputation,
    /// The time.
    pub clock: Arc<dyn Clock>,
}

/// A market clock and a ledger clock are one.
#[derive(Debug, Clone)]
struct Bridge(Arc<dyn Clock>);

impl MarketClock for Bridge {
    fn now(&self) -> UnixTime {
        UnixTime::new(self.0.now()).unwrap_or(UnixTime::MAX)
    }
}

/// Opens the local reputation at `path`.
///
/// # Errors
/// [`ClientError::Reputation`].
pub async fn open_reputation(path: &std::path::Path) -> Result<Reputation, ClientError> {
    Ok(Reputation::open(path, ReputationConfig::default()).await?)
}

impl Buyer {
    /// Puts a buyer together and fills its directory from what was known before.
    ///
    /// # Errors
    /// When a database fails.
    pub async fn new(parts: BuyerParts) -> Result<Self, ClientError> {
        let BuyerParts { node, wallet, tickets, store, reputation, clock } = parts;
        let market_clock: Arc<dyn MarketClock> = Arc::new(Bridge(Arc::clone(&clock)));
        let directory = Directory::open(node.clone(), store.clone(), market_clock, wallet.ledger().pool()).await?;
        let sessions = Arc::new(Sessions::default());
        let (ratings, weights) = (None, ReputationWeights::default());
        let assessors = Arc::default();
        let buyer =
            Self { node, wallet, tickets, directory, store, reputation, ratings, weights, assessors, clock, sessions };
        buyer.report_evidence().await?;
        Ok(buyer)
    }

    /// Receives ratings of others too, and chooses by them.
    ///
    /// # Errors
    /// When a database fails; [`ClientError::Assess`] for a weight out of its range.
    pub async fn with_ratings(mut self, settings: RatingSettings) -> Result<Self, ClientError> {
        let RatingSettings { key, counting, weights, limits, bounds } = settings;
        weights.check()?;
        let ledger = self.wallet.ledger().clone();
        let store = self.reputation.ratings(bounds);
        let desk = RatingDesk::open(ledger, key, store, counting, limits, self.now()?).await?;
        self.directory.watch_ratings(desk.clone()).await?;
        (self.ratings, self.weights) = (Some(desk), weights);
        Ok(self)
    }

    /// Judges services as the user would have it, by service id.
    #[must_use]
    pub fn with_assessors(mut self, assessors: BTreeMap<String, OwnAssessor>) -> Self {
        self.assessors = Arc::new(assessors);
        self
    }

    /// An assessment as the user would have it. Every assessor's goes through here before it is recorded.
    pub async fn judged(&self, assessment: Assessment) -> Assessment {
        match self.assessors.get(assessment.subject.service.as_str()) {
            Some(own) => own.judge(assessment).await,
            None => assessment,
        }
    }

    /// Ratings of others.
    ///
    /// # Errors
    /// [`ClientError::NoRatings`] without [`Buyer::with_ratings`].
    pub fn ratings(&self) -> Result<&RatingDesk, ClientError> {
        self.ratings.as_ref().ok_or(ClientError::NoRatings)
    }

    pub(crate) const fn ticket_maker(&self) -> &TicketMaker {
        &self.tickets
    }

    /// What is on sale.
    #[must_use]
    pub const fn directory(&self) -> &Directory {
        &self.directory
    }

    /// The wallet.
    #[must_use]
    pub const fn wallet(&self) -> &Wallet {
        &self.wallet
    }

    /// The node.
    #[must_use]
    pub const fn node(&self) -> &NodeHandle {
        &self.node
    }

    /// The database.
    #[must_use]
    pub const fn store(&self) -> &ClientStore {
        &self.store
    }

    /// The local reputation.
    #[must_use]
    pub const fn reputation(&self) -> &Reputation {
        &self.reputation
    }

    /// Suspends providers whose contradictions were found: two offers with one number, and offers that leave a quote of this buyer's.
    ///
    /// # Errors
    /// When a database fails.
    pub async fn report_evidence(&self) -> Result<(), ClientError> {
        self.report_broken_quotes().await?;
        for proof in self.directory.take_evidence() {
            let evidence = [proof.first.as_bytes(), proof.second.as_bytes()].concat();
            let digest = alloy::primitives::keccak256(&evidence).0;
            self.reputation
                .report(&Fault {
                    provider: ProviderName::new(proof.provider.to_string())?,
                    kind: FaultKind::Equivocation,
                    at: self.now()?,
                    evidence,
                    digest,
                })
                .await?;
        }
        Ok(())
    }

    async fn report_broken_quotes(&self) -> Result<(), ClientError> {
        for quote in self.store.quotes_since(self.clock.now().saturating_sub(QUOTES_BIND)).await? {
            let Ok(offer) = self.directory.offer(quote.provider) else { continue };
            let Ok(broken) = BrokenQuote::prove(&quote.quote, offer.signed()) else { continue };
            tracing::warn!(provider = %broken.provider, breach = ?broken.breach, "a provider left its quote");
            let evidence = [broken.quote.as_slice(), broken.offer.as_bytes()].concat();
            self.reputation
                .report(&Fault {
                    provider: ProviderName::new(broken.provider.to_string())?,
                    kind: FaultKind::QuoteNotHonoured,
                    at: self.now()?,
                    // One quote is broken once, however many offers leave it.
                    digest: alloy::primitives::keccak256(&broken.quote).0,
                    evidence,
                })
                .await?;
        }
        Ok(())
    }

    /// Step 1, until somebody sells what is wanted and a relayer is known (or, with `direct`, without a relayer); at most for `limit`.
    ///
    /// # Errors
    /// When the node stopped or a database fails.
    pub async fn find(&self, want: &Want, direct: bool, limit: Duration) -> Result<Found, ClientError> {
        self.find_among(want, &[], direct, limit).await
    }

    /// [`Self::find`] of these providers alone; of any if none is named.
    pub(crate) async fn find_among(
        &self,
        want: &Want,
        only: &[PeerId],
        direct: bool,
        limit: Duration,
    ) -> Result<Found, ClientError> {
        let enough = async {
            let mut looks = tokio::time::interval(LOOK);
            let mut waited = false;
            loop {
                looks.tick().await;
                let relayed = direct || !self.directory.relayers().is_empty();
                if relayed && self.pick(want, only).await.is_ok_and(|(choice, _)| choice.is_some()) {
                    break;
                }
                waited = true;
            }
            if waited {
                tokio::time::sleep(SETTLE).await;
            }
        };
        let done = async {
            let _ = tokio::time::timeout(limit, enough).await;
        };
        let found = self.directory.discover(done).await?;
        self.report_evidence().await?;
        Ok(found)
    }

    /// Step 2: filters, scores, draws among the near-best, and remembers the choice.
    ///
    /// # Errors
    /// When a database fails.
    pub async fn choose(&self, want: &Want) -> Result<(Option<Choice>, Explanation), ClientError> {
        self.choose_among(want, &[]).await
    }

    async fn choose_among(&self, want: &Want, only: &[PeerId]) -> Result<(Option<Choice>, Explanation), ClientError> {
        let (choice, explanation) = self.pick(want, only).await?;
        if let Some(choice) = &choice {
            let service = want.service.id();
            self.store.put_choice(choice.offer.peer_id(), service.as_str(), self.clock.now()).await?;
        }
        Ok((choice, explanation))
    }

    async fn pick(&self, want: &Want, only: &[PeerId]) -> Result<(Option<Choice>, Explanation), ClientError> {
        let now = self.now()?;
        let service = want.service.id();
        let mut candidates = Vec::new();
        let yardstick = self.yardstick(&service, now).await?;
        let failures = self.store.failures(service.as_str()).await?;
        for offer in self.directory.offers() {
            let known = self.reputed_with(offer.peer_id(), &service, &yardstick, &failures, now).await?;
            candidates.push(Candidate { offer, standing: standing(&known, now) });
        }
        let slot_length = self.wallet.ledger().clock().slot_length();
        let search = Search {
            service,
            wanted: self.wanted(want)?,
            pool: self.wallet.ledger().pool(),
            slot_length,
            unit: want.service.unit(),
            units_per_slot: want.service.units(slot_length),
            duration: want.duration,
            max_unit_price: None,
            max_ticket_price: want.max_price,
            max_rate: None,
            min_score: None,
            only: only.to_vec(),
            ignore: want.ignore.clone(),
            preset: want.preset,
        };
        Ok(choose::choose(&candidates, &search, now, &mut StdRng::from_entropy()))
    }

    /// Steps 2 and 3: chooses, and agrees on a quote with whom was chosen. One that does not answer or refuses is left out, and another one
    /// is chosen, [`MAX_CHOICES`] times at most; `tell` hears of it. The explanation is the last choice's; no terms when nobody was left.
    ///
    /// # Errors
    /// The last provider's refusal when each one refused; when a database fails.
    pub async fn agree(
        &self,
        want: &Want,
        tell: &(dyn Fn(&str) + Sync),
    ) -> Result<(Option<(Choice, AgreedTerms)>, Explanation), ClientError> {
        self.agree_among(want, &[], None, tell).await
    }

    /// [`Self::agree`] with one of these providers alone, for a stream that starts then; with any if none is named, and from now.
    pub(crate) async fn agree_among(
        &self,
        want: &Want,
        only: &[PeerId],
        start: Option<UnixTime>,
        tell: &(dyn Fn(&str) + Sync),
    ) -> Result<(Option<(Choice, AgreedTerms)>, Explanation), ClientError> {
        let mut want = want.clone();
        let mut refusal = None;
        // A connection for the price alone would show the provider an address, and stay: what is relayed later would come from there.
        let sealed = !want.service.is_dialled() || want.preset == Preset::Private;
        for asked in 1.. {
            let (choice, explanation) = self.choose_among(&want, only).await?;
            let Some(choice) = choice else {
                return refusal.map_or(Ok((None, explanation)), Err);
            };
            match self.negotiate_from(&choice.offer, choice.rate_class, &want, start, sealed).await {
                Ok(terms) => return Ok((Some((choice, terms)), explanation)),
                Err(error @ (ClientError::Negotiation(_) | ClientError::Transport(_))) if asked < MAX_CHOICES => {
                    tell(&format!("no agreement with {}: {error} [{}]", choice.offer.peer_id(), error.code()));
                    want.ignore.push(choice.offer.peer_id());
                    refusal = Some(error);
                }
                Err(error) => return Err(error),
            }
        }
        Err(refusal.unwrap_or(ClientError::NoProvider))
    }

    /// What is known of a provider's service: own experience, ratings of others, failures.
    ///
    /// # Errors
    /// When a database fails.
    pub async fn reputed(&self, provider: PeerId, service: &ServiceId) -> Result<Reputed, ClientError> {
        let now = self.now()?;
        let yardstick = self.yardstick(service, now).await?;
        let failures = self.store.failures(service.as_str()).await?;
        self.reputed_with(provider, service, &yardstick, &failures, now).await
    }

    async fn yardstick(&self, service: &ServiceId, now: UnixTime) -> Result<Yardstick, ClientError> {
        let service = ServiceName::new(service.as_str())?;
        let own = self.reputation.scores(&service, now).await?;
        let newcomers = Newcomers::taught_by(own.iter().map(|score| &score.experience));
        let (agreement, usual) = match &self.ratings {
            Some(desk) => (desk.agreement(&self.reputation, &service, now).await?, desk.usual(&service, now).await?),
            None => (Agreement::default(), None),
        };
        Ok(Yardstick { agreement, measure: Measure { newcomers, usual } })
    }

    async fn reputed_with(
        &self,
        provider: PeerId,
        service: &ServiceId,
        yardstick: &Yardstick,
        failures: &[Failures],
        now: UnixTime,
    ) -> Result<Reputed, ClientError> {
        let subject = subject(provider, service)?;
        let own = self.reputation.score(&subject, now).await?;
        let network = match &self.ratings {
            Some(desk) => Some(desk.score(&subject, yardstick.agreement, now).await?),
            None => None,
        };
        let combined = combine(&own.experience, network.as_ref(), &self.weights, &yardstick.measure);
        let provider = provider.to_string();
        let failures = failures.iter().find(|failures| failures.provider == provider).cloned();
        Ok(Reputed { own, network, combined, failures })
    }

    /// Notes how a use of a service ended that was paid for. A failure counts in the provider's score at once, and others are preferred for a while; a
    /// use that worked ends that.
    ///
    /// # Errors
    /// When a database fails.
    pub async fn used(&self, provider: PeerId, service: &ServiceId, ending: &Ending) -> Result<(), ClientError> {
        let now = self.now()?;
        let id = AssessmentId::new(format!("use-{:032x}", rand::random::<u128>()))?;
        let Some(assessment) = assess_failure(id, subject(provider, service)?, now, ending) else {
            return self.store.forget_failures(provider, service.as_str()).await;
        };
        self.reputation.record(&assessment).await?;
        self.note_ending(provider, service, ending).await
    }

    /// Whether others are preferred from now on, or not any more.
    pub(crate) async fn note_ending(
        &self,
        provider: PeerId,
        service: &ServiceId,
        ending: &Ending,
    ) -> Result<(), ClientError> {
        match ending.failure() {
            None => self.store.forget_failures(provider, service.as_str()).await,
            Some(Verdict::Scored { .. }) => {
                let reason = ending.describe();
                tracing::info!(%provider, %service, reason, "a provider failed");
                self.store.put_failure(provider, service.as_str(), &reason, self.clock.now()).await
            }
            Some(_) => Ok(()),
        }
    }

    /// [`Buyer::used`] after an error; one that is no fault of the provider's changes nothing.
    ///
    /// # Errors
    /// When a database fails.
    pub async fn failed(&self, provider: PeerId, service: &ServiceId, error: &ClientError) -> Result<(), ClientError> {
        match self.ending_of(provider, error).await {
            Some(ending) => self.used(provider, service, &ending).await,
            None => Ok(()),
        }
    }

    /// What it says of a provider that no answer comes from it: it may be the buyer's own network that is down.
    pub async fn unanswered(&self, provider: PeerId) -> Ending {
        unanswered(&self.node, provider).await
    }

    /// How a use ended that this error ended; `None` when the error says nothing of the provider.
    pub async fn ending_of(&self, provider: PeerId, error: &ClientError) -> Option<Ending> {
        let reason = || error.to_string().chars().filter(|c| !c.is_control()).take(256).collect();
        match error {
            ClientError::Refused { reason: why, .. }
                if *why == Reason::SpentUnserved || matches!(why.remedy(), Remedy::ReadOffer | Remedy::Report) =>
            {
                Some(Ending::FailedAfterPayment { reason: reason() })
            }
            ClientError::Refused { reason: Reason::Unavailable, .. }
            | ClientError::Failed { .. }
            | ClientError::LightPush(LightPushError::NoPeersToRelay) => Some(Ending::Unavailable { reason: reason() }),
            ClientError::LightPush(LightPushError::Status { status, .. })
                if *status == LightPushStatus::INTERNAL_SERVER_ERROR
                    || *status == LightPushStatus::SERVICE_NOT_AVAILABLE =>
            {
                Some(Ending::Unavailable { reason: reason() })
            }
            ClientError::NoLease { ending, .. } => Some(ending.clone()),
            ClientError::Dial(_)
            | ClientError::Transport(_)
            | ClientError::Store(_)
            | ClientError::LightPush(LightPushError::Request(_) | LightPushError::Malformed { .. })
            | ClientError::Filter(FilterError::Request(_) | FilterError::Malformed { .. }) => {
                Some(self.unanswered(provider).await)
            }
            // What else a service node refuses, the buyer asked for.
            _ => None,
        }
    }

    /// Remembers what came of a query. One that failed is assessed at once, and others are preferred for a while; one that was answered waits for
    /// [`Buyer::assess`].
    ///
    /// # Errors
    /// When a database fails.
    pub async fn delivered(&self, delivery: &Delivery) -> Result<(), ClientError> {
        self.store.put_delivery(delivery).await?;
        let provider: PeerId =
            delivery.provider.parse().map_err(|_| ClientError::Damaged { what: "a provider's id" })?;
        if delivery.ending.failure().is_some() {
            self.assess(Some(provider)).await?;
        }
        self.note_ending(provider, &delivery.service.parse()?, &delivery.ending).await
    }

    /// Remembers that a provider did not answer a query that its stream pays for.
    ///
    /// # Errors
    /// When the database fails.
    pub async fn unreachable(&self, provider: PeerId, request: &StoreQueryRequest) -> Result<(), ClientError> {
        let mut delivery = Delivery::begin(provider, request, self.clock.now());
        delivery.ending = self.unanswered(provider).await;
        self.delivered(&delivery).await
    }

    /// A provider's score for its Store.
    ///
    /// # Errors
    /// When the database fails.
    pub async fn score(&self, provider: PeerId) -> Result<Score, ClientError> {
        Ok(self.reputation.score(&subject(provider, &ServiceId::store())?, self.now()?).await?)
    }

    pub(crate) fn wanted(&self, want: &Want) -> Result<Wanted, ClientError> {
        if let Sought::Family(SoughtFamily { family, needs, .. }) = &want.service {
            return Ok(Wanted::Family(FamilyWanted { name: family.clone(), needs: needs.clone() }));
        }
        let Some(first) = want.content_topics.first() else { return Ok(Wanted::Anything) };
        let pubsub_topic = self.node.pubsub_topic(first)?.to_string();
        Ok(match &want.service {
            Sought::Store { retention, .. } => Wanted::Store(StoreWanted {
                retention: *retention,
                pubsub_topic,
                content_topics: want.content_topics.iter().map(ToString::to_string).collect(),
            }),
            Sought::Lightpush { payload, .. } => Wanted::Lightpush(LightpushWanted { pubsub_topic, payload: *payload }),
            Sought::Filter { topics } => Wanted::Filter(FilterWanted { pubsub_topic, topics: *topics }),
            Sought::Family(_) => Wanted::Anything,
        })
    }

    /// Step 3: agrees on a quote and keeps it. `sealed` asks over Waku topics, so that the provider sees no address of the buyer's.
    ///
    /// # Errors
    /// [`ClientError::Negotiation`] with the provider's refusal.
    pub async fn negotiate(
        &self,
        offer: &VerifiedOffer,
        rate_class: RateClassId,
        want: &Want,
        sealed: bool,
    ) -> Result<AgreedTerms, ClientError> {
        self.negotiate_from(offer, rate_class, want, None, sealed).await
    }

    async fn negotiate_from(
        &self,
        offer: &VerifiedOffer,
        rate_class: RateClassId,
        want: &Want,
        start: Option<UnixTime>,
        sealed: bool,
    ) -> Result<AgreedTerms, ClientError> {
        let clock = self.wallet.ledger().clock();
        let now = self.now()?;
        let start = start.unwrap_or(now);
        let class = offer
            .rate_class(rate_class)
            .ok_or_else(|| ClientError::NotSold { what: format!("rate class {}", rate_class.0) })?;
        let load = want.service.tickets_per_slot(offer, clock.slot_length())?;
        let wish = Wish {
            service: want.service.id(),
            wanted: self.wanted(want)?,
            rate_class,
            start: clock.floor(start),
            latest_start: start.saturating_add(Seconds::new(2 * clock.slot_length().get())?),
            duration: want.duration,
            min_duration: want.duration,
            max_duration: Seconds::new(want.duration.get().saturating_mul(4))?,
            load,
            min_load: 1,
            max_ticket_price: want.max_price.unwrap_or(offer.ticket_price),
            max_rate: class.rate,
            max_rounds: 4,
        };
        let sealed_channel;
        let direct_channel;
        let channel: &dyn QuoteChannel = if sealed {
            sealed_channel = self.sealed(CallPolicy::default());
            &sealed_channel
        } else {
            direct_channel = Direct(self.node.clone());
            &direct_channel
        };
        let market_clock = Bridge(Arc::clone(&self.clock));
        let mut rng = StdRng::from_entropy();
        let agreed = match negotiate(channel, offer, &wish, &market_clock, &mut rng).await {
            Ok(agreed) => agreed,
            Err(error) => {
                if let NegotiationError::Answer { error: quote, answer } = &error
                    && quote.is_proof_of_fault()
                {
                    let digest = alloy::primitives::keccak256(answer).0;
                    self.reputation
                        .report(&Fault {
                            provider: ProviderName::new(offer.peer_id().to_string())?,
                            kind: FaultKind::QuoteNotHonoured,
                            at: now,
                            evidence: answer.clone(),
                            digest,
                        })
                        .await?;
                }
                return Err(Box::new(error).into());
            }
        };
        let quote = agreed.quote();
        let terms = AgreedTerms {
            provider: offer.peer_id().to_string(),
            service: quote.terms.service.to_string(),
            payee: quote.payee.to_string(),
            rate: quote.rate.get(),
            rate_class: quote.terms.rate_class.0,
            ticket_price: quote.ticket_price.get(),
            duration: quote.terms.duration.get(),
            start_deadline: quote.terms.start_deadline.get(),
            load_cap: quote.terms.load_cap,
            valid_until: quote.valid_until.get(),
        };
        let kept = serde_json::to_vec(&terms).map_err(|_| ClientError::Damaged { what: "a quote" })?;
        self.store
            .put_quote(offer.peer_id(), offer.signed().as_bytes(), agreed.signed(), &kept, self.clock.now())
            .await?;
        Ok(terms)
    }

    /// A client for sealed requests over Waku topics.
    fn sealed(&self, policy: CallPolicy) -> SealedClient {
        SealedClient::new(Arc::new(self.node.clone()), Arc::new(Bridge(Arc::clone(&self.clock))), policy)
    }

    /// A submitter that pays relayers up to `max_fee`, insertion included.
    #[must_use]
    pub fn relayed(&self, max_fee: Amount) -> RelaySubmitter {
        let client = RelayClient::new(self.sealed(CallPolicy::default()), Arc::new(Bridge(Arc::clone(&self.clock))));
        RelaySubmitter::new(client, self.directory.clone(), max_fee, true)
    }

    /// [`Self::relayed`], and one that keeps silent is left for the next before long, if there is one. [`MAX_RELAYERS`] are tried at most.
    pub(crate) fn relayed_in_turn(&self, max_fee: Amount) -> RelaySubmitter {
        if self.directory.relayers().len() < 2 {
            return self.relayed(max_fee);
        }
        let client = RelayClient::new(self.sealed(RELAYER_CALLS), Arc::new(Bridge(Arc::clone(&self.clock))));
        RelaySubmitter::new(client, self.directory.clone(), max_fee, true).patience(RELAYER_PATIENCE)
    }

    /// Relayers that are known.
    #[must_use]
    pub fn relayers(&self) -> Vec<Arc<VerifiedAnnouncement>> {
        self.directory.relayers()
    }

    /// Step 4: opens the stream of the newest agreed quote. With `hurry` it starts so far in the past that tickets count in the running
    /// slot; what lies before now is paid too.
    ///
    /// # Errors
    /// [`ClientError`].
    pub async fn open(&self, submitter: &dyn Submitter, hurry: bool) -> Result<Opened, ClientError> {
        self.open_by(submitter, None, Start::from_hurry(hurry), None, &|_| {}).await
    }

    /// [`Self::open`] through relayers that take at most `max_fee`, insertion included. One that gives no quote, refuses or keeps silent is passed
    /// over, [`MAX_RELAYERS`] are tried at most; `tell` hears of it.
    ///
    /// # Errors
    /// [`ClientError`]; the last relayer's when each one failed.
    pub async fn open_relayed(
        &self,
        max_fee: Amount,
        hurry: bool,
        tell: &(dyn Fn(&str) + Sync),
    ) -> Result<Opened, ClientError> {
        self.open_relayed_from(max_fee, Start::from_hurry(hurry), None, tell).await
    }

    /// [`Self::open_relayed`] with a choice of the start, within caps.
    pub(crate) async fn open_relayed_from(
        &self,
        max_fee: Amount,
        start: Start,
        caps: Option<&SpendingCaps>,
        tell: &(dyn Fn(&str) + Sync),
    ) -> Result<Opened, ClientError> {
        let submitter = self.relayed_in_turn(max_fee);
        self.open_by(&submitter, Some(&submitter), start, caps, tell).await
    }

    async fn open_by(
        &self,
        submitter: &dyn Submitter,
        relayed: Option<&RelaySubmitter>,
        start: Start,
        caps: Option<&SpendingCaps>,
        tell: &(dyn Fn(&str) + Sync),
    ) -> Result<Opened, ClientError> {
        let kept = self.store.open_quote().await?.ok_or(ClientError::NoQuote)?;
        let terms: AgreedTerms =
            serde_json::from_slice(&kept.request).map_err(|_| ClientError::Damaged { what: "a quote" })?;
        let offer = self.stored_offer(&kept.offer)?;
        let now = self.now()?;
        if now.get() > terms.valid_until {
            return Err(ClientError::QuoteExpired { valid_until: terms.valid_until, now: now.get() });
        }
        let clock = self.wallet.ledger().clock();
        let rate = Rate::new(terms.rate)?;
        // By the end of the slot that is to be the first, min_streamed has been paid.
        let before = Seconds::new(slots_before(&offer, rate, clock.slot_length()))?;
        let hurried = clock.floor(now).saturating_sub(before);
        // And what it pays for at the least: a slot that isn't over when its tickets count.
        let a_slot = clock.slot_length();
        let (start, least) = match start {
            Start::NextSlot => {
                let next = clock.ceil(now)?;
                (next, next.saturating_add(before).saturating_add(a_slot))
            }
            Start::Hurried => (hurried, clock.floor(now).saturating_add(a_slot).saturating_add(a_slot)),
            Start::PayingFrom(slot) => {
                let latest = clock.floor(UnixTime::new(terms.start_deadline)?);
                let start = clock.floor(slot).saturating_sub(before).min(latest).max(hurried);
                (start, start.saturating_add(before).saturating_add(a_slot))
            }
        };
        let end = clock.ceil(start.saturating_add(Seconds::new(terms.duration)?).max(least))?;
        let payee: PaymentAddress =
            terms.payee.parse().map_err(|_| ClientError::Damaged { what: "a payee's address" })?;
        let stream = OpenStream { payee, rate, start, end, offer: Some(offer_terms(&offer)) };

        let quoted = Quoted { kept, terms, stream };
        let kind = OperationKind::Open;
        let send_terms = submitter.terms(kind).await.map_err(rejected)?;
        let deposit = Amount::new(quoted.terms.rate.saturating_mul(u128::from(end.since(start).get())))?;
        let most =
            Amount::new(deposit.get().saturating_add(relayed.map_or(send_terms.fee, RelaySubmitter::max_fee).get()))?;
        let spending = self.store.reserve(quoted.kept.provider, most, caps, self.clock.now()).await?;
        let started = std::time::Instant::now();
        let prepared = match self.wallet.prepare(Intent::Open(quoted.stream), send_terms).await {
            Ok(prepared) => prepared,
            Err(error) => {
                self.store.release(spending).await?;
                return Err(error.into());
            }
        };
        let mut proving = started.elapsed();
        let sending = std::time::Instant::now();
        let mut made = vec![self.hand_over(&quoted, &prepared, send_terms.fee).await?];
        let mut outcome = self.wallet.submit(&prepared, submitter).await?;
        // Each further attempt spends the same notes, so only one of them can be mined.
        while let Some(relayed) = relayed
            && !matches!(outcome, Outcome::Confirmed { .. })
            && made.len() < MAX_RELAYERS
            && relayed.others_are_left()
        {
            tell(&format!("the relayer did not send it ({}): trying another one", describe(&outcome)));
            self.wallet.sync().await?;
            let Ok(send_terms) = relayed.terms(kind).await else { break };
            let started = std::time::Instant::now();
            let again = match self.wallet.prepare_again(prepared.operation, send_terms).await {
                Ok(again) => again,
                // The silent relayer has sent it all the same.
                Err(tributary_wallet::WalletError::AlreadyConfirmed { .. }) => break,
                Err(error) => return Err(error.into()),
            };
            proving += started.elapsed();
            made.push(self.hand_over(&quoted, &again, send_terms.fee).await?);
            outcome = self.wallet.submit(&again, relayed).await?;
        }
        let sending = sending.elapsed();
        let last = made.len() - 1;
        let mined = match &outcome {
            Outcome::Confirmed { .. } => last,
            Outcome::Rejected(rejection) if last == 0 && rejection.never_sent => {
                self.store.release(spending).await?;
                return Err(unsent(outcome));
            }
            _ => match self.shown(&made).await? {
                Some(mined) => mined,
                None => return Err(unsent(outcome)),
            },
        };
        let (commitment, fee) = made[mined];
        self.store.settle(spending, Amount::new(deposit.get().saturating_add(fee.get()))?).await?;
        Ok(Opened { commitment, start, end, rate, deposit, fee, outcome, proving, sending })
    }

    /// Writes down what a prepared stream is for, before anybody else has it.
    async fn hand_over(
        &self,
        quoted: &Quoted,
        prepared: &PreparedTransaction,
        fee: Amount,
    ) -> Result<(Commitment, Amount), ClientError> {
        let commitment = *prepared.commitments.first().ok_or(ClientError::Damaged { what: "a prepared stream" })?;
        let purchase = Purchase {
            commitment: commitment.to_be_bytes(),
            provider: quoted.kept.provider,
            offer: quoted.kept.offer.clone(),
            quote: quoted.kept.quote.clone(),
            at: self.clock.now(),
        };
        self.store.put_purchase(&purchase, quoted.kept.id).await?;
        Ok((commitment, fee))
    }

    /// Which of some streams the chain has, if it has one soon.
    async fn shown(&self, made: &[(Commitment, Amount)]) -> Result<Option<usize>, ClientError> {
        let ledger = self.wallet.ledger();
        let look = async {
            let mut heads = ledger.heads();
            loop {
                self.wallet.sync().await?;
                for (number, (commitment, _)) in made.iter().enumerate() {
                    if ledger.leaf(*commitment).await?.is_some() {
                        return Ok(Some(number));
                    }
                }
                let _ = tokio::time::timeout(Duration::from_millis(200), heads.changed()).await;
            }
        };
        tokio::time::timeout(SHOWN_WITHIN, look).await.unwrap_or(Ok(None))
    }

    /// Waits until a stream's leaf is in the tree, so deep that its provider takes tickets.
    ///
    /// # Errors
    /// [`ClientError::NotInserted`] after `limit`.
    pub async fn wait_until_usable(
        &self,
        commitment: Commitment,
        depth: u64,
        limit: Duration,
    ) -> Result<(), ClientError> {
        let ledger = self.wallet.ledger();
        let usable = async {
            let mut heads = ledger.heads();
            loop {
                self.wallet.sync().await?;
                if let Some(leaf) = ledger.leaf(commitment).await?
                    && u64::from(leaf.position) < ledger.root_of_depth(depth + 1).leaf_count
                {
                    return Ok(());
                }
                // Somebody else may follow the ledger; if nobody does, this looks again soon.
                let _ = tokio::time::timeout(Duration::from_millis(200), heads.changed()).await;
            }
        };
        tokio::time::timeout(limit, usable).await.unwrap_or(Err(ClientError::NotInserted { seconds: limit.as_secs() }))
    }

    /// The running stream that pays `provider`, or the newest one of any provider.
    ///
    /// # Errors
    /// [`ClientError::NoStream`].
    pub async fn stream(
        &self,
        provider: Option<PeerId>,
    ) -> Result<(Purchase, PayerStream, VerifiedOffer), ClientError> {
        self.stream_for(provider, None).await
    }

    /// [`Self::stream`] to a provider whose offer sells `service`.
    ///
    /// # Errors
    /// [`ClientError::NoStream`].
    pub async fn stream_for(
        &self,
        provider: Option<PeerId>,
        service: Option<&ServiceId>,
    ) -> Result<(Purchase, PayerStream, VerifiedOffer), ClientError> {
        running_stream(&self.wallet, &self.store, provider, service).await
    }

    /// What pays for queries at a provider: its running stream, under the terms of the offer it was opened under.
    ///
    /// # Errors
    /// [`ClientError::NoStream`].
    pub async fn paid_store(&self, provider: Option<PeerId>) -> Result<(PaidStore, VerifiedOffer), ClientError> {
        let (tickets, offer) = self.tickets_for(provider, Some(&ServiceId::store())).await?;
        Ok((self.store_with(tickets, &offer, offer.multiaddrs.clone())?, offer))
    }

    pub(crate) fn store_with(
        &self,
        tickets: Arc<dyn TicketSource>,
        offer: &VerifiedOffer,
        addresses: Vec<Multiaddr>,
    ) -> Result<PaidStore, ClientError> {
        let page_size = offer.service(&ServiceId::store()).and_then(|service| match &service.attributes {
            Attributes::Store(store) => Some(store.page_size),
            _ => None,
        });
        let price = PagePrice {
            tickets: u8::try_from(tickets_a_page(offer)?).unwrap_or(u8::MAX),
            page_size: page_size.ok_or_else(|| ClientError::NotSold { what: "Waku Store".into() })?,
        };
        Ok(PaidStore::new(self.node.clone(), offer.peer_id(), tickets, price).returning(addresses, PATIENCE))
    }

    /// Tickets of the running stream that pays a provider, under the terms of the offer it was opened under.
    ///
    /// # Errors
    /// [`ClientError::NoStream`].
    pub async fn stream_tickets(
        &self,
        provider: Option<PeerId>,
    ) -> Result<(Arc<dyn TicketSource>, VerifiedOffer), ClientError> {
        self.tickets_for(provider, None).await
    }

    /// Tickets of a stream.
    pub(crate) fn tickets_of(&self, purchase: &Purchase, stream: &PayerStream, offer: &VerifiedOffer) -> StreamTickets {
        let paying = paying(purchase, stream, offer);
        StreamTickets::new(self.tickets.clone(), self.wallet.ledger().clone(), Arc::clone(&self.clock), paying)
    }

    async fn tickets_for(
        &self,
        provider: Option<PeerId>,
        service: Option<&ServiceId>,
    ) -> Result<(Arc<dyn TicketSource>, VerifiedOffer), ClientError> {
        let (purchase, stream, offer) = self.stream_for(provider, service).await?;
        Ok((Arc::new(self.tickets_of(&purchase, &stream, &offer)), offer))
    }

    /// What pays for messages that a provider publishes.
    ///
    /// # Errors
    /// [`ClientError::NoStream`], [`ClientError::NotSold`].
    pub async fn paid_lightpush(
        &self,
        provider: Option<PeerId>,
    ) -> Result<(PaidLightpush, VerifiedOffer), ClientError> {
        let (tickets, offer) = self.tickets_for(provider, Some(&ServiceId::lightpush())).await?;
        Ok((self.lightpush_with(tickets, &offer, offer.multiaddrs.clone())?, offer))
    }

    pub(crate) fn lightpush_with(
        &self,
        tickets: Arc<dyn TicketSource>,
        offer: &VerifiedOffer,
        addresses: Vec<Multiaddr>,
    ) -> Result<PaidLightpush, ClientError> {
        let price = offer
            .service(&ServiceId::lightpush())
            .and_then(|service| service.price_of(UseUnit::Message))
            .ok_or_else(|| ClientError::NotSold { what: "Waku Lightpush by the message".into() })?;
        let count = u8::try_from(price.tickets).unwrap_or(u8::MAX);
        Ok(PaidLightpush::new(self.node.clone(), offer.peer_id(), tickets, count).returning(addresses, PATIENCE))
    }

    /// A lease of `quota` at a provider for this node, not bought yet. It is renewed when half of a slot is left.
    ///
    /// # Errors
    /// [`ClientError::NoStream`], [`ClientError::NotSold`], [`ClientError::LeaseTooLarge`].
    pub async fn lease(
        &self,
        provider: Option<PeerId>,
        service: ServiceId,
        quota: u32,
    ) -> Result<(LeaseBuyer, VerifiedOffer), ClientError> {
        let (tickets, offer) = self.tickets_for(provider, Some(&service)).await?;
        Ok((self.lease_with(tickets, &offer, offer.multiaddrs.clone(), service, quota)?, offer))
    }

    pub(crate) fn lease_with(
        &self,
        tickets: Arc<dyn TicketSource>,
        offer: &VerifiedOffer,
        addresses: Vec<Multiaddr>,
        service: ServiceId,
        quota: u32,
    ) -> Result<LeaseBuyer, ClientError> {
        let length = tickets.clock().slot_length();
        let plan = LeasePlan {
            provider: offer.peer_id(),
            addresses,
            tickets: lease_tickets(offer, &service, quota, length)?,
            service,
            quota,
            ahead: Seconds::new(length.get().div_ceil(2))?,
        };
        Ok(LeaseBuyer::new(self.node.clone(), plan, tickets))
    }

    /// A Filter subscription with its lease, kept up in the background.
    ///
    /// # Errors
    /// As [`Self::lease`], and [`ClientError::NoLease`], [`ClientError::Filter`].
    pub async fn paid_filter(
        &self,
        provider: Option<PeerId>,
        pubsub_topic: PubsubTopic,
        content_topics: Vec<ContentTopic>,
    ) -> Result<PaidFilter, ClientError> {
        let quota = u32::try_from(content_topics.len()).unwrap_or(u32::MAX);
        let (buyer, offer) = self.lease(provider, ServiceId::filter(), quota).await?;
        self.connect(&offer).await?;
        PaidFilter::open(&self.node, Arc::new(buyer), pubsub_topic, content_topics).await
    }

    /// The first slot whose tickets a stream pays for: it runs through the slot, and what its offer wants has streamed by the slot's end.
    ///
    /// # Errors
    /// [`ClientError::Slot`], [`ClientError::Range`].
    pub fn first_slot(&self, stream: &PayerStream, offer: &VerifiedOffer) -> Result<Slot, ClientError> {
        let clock = self.wallet.ledger().clock();
        let terms = &stream.note.terms;
        let before = slots_before(offer, terms.rate(), clock.slot_length());
        Ok(clock.slot_of(terms.start().saturating_add(Seconds::new(before)?))?)
    }

    /// Connects to a provider by the addresses of its offer.
    ///
    /// # Errors
    /// [`ClientError::Transport`].
    pub async fn connect(&self, offer: &VerifiedOffer) -> Result<(), ClientError> {
        Ok(connect(&self.node, offer.peer_id(), &offer.multiaddrs).await?)
    }

    /// Steps 7 and 8: judges the newest delivery against what the buyer saw itself and adds it to the local reputation. The second value
    /// is false when it was counted before.
    ///
    /// # Errors
    /// [`ClientError::NothingDelivered`].
    pub async fn assess(&self, provider: Option<PeerId>) -> Result<(Assessment, bool, Score), ClientError> {
        let (number, delivery) = self.store.last_delivery(provider).await?.ok_or(ClientError::NothingDelivered)?;
        let peer: PeerId = delivery.provider.parse().map_err(|_| ClientError::Damaged { what: "a provider's id" })?;
        let assessment = self.judged(StoreAssessor::default().assess(&self.observation(&delivery, peer).await?)).await;
        let counted = self.reputation.record(&assessment).await?;
        self.store.assessed(number).await?;
        Ok((assessment, counted, self.score(peer).await?))
    }

    async fn observation(&self, delivery: &Delivery, provider: PeerId) -> Result<StoreObservation, ClientError> {
        let (from, to) = (delivery.query.time_start.unwrap_or(i64::MIN), delivery.query.time_end.unwrap_or(i64::MAX));
        let mut reference = Reference::default();
        for topic in &delivery.query.content_topics {
            reference.seen.extend(self.store.seen(topic, from, to).await?.iter().map(|hash| *hash.as_bytes()));
        }
        Ok(StoreObservation {
            id: AssessmentId::new(delivery.id.clone())?,
            subject: subject(provider, &ServiceId::store())?,
            at: UnixTime::new(delivery.at)?,
            query: delivery.query.clone(),
            pages: delivery
                .pages
                .iter()
                .map(|page| PageObserved {
                    latency: Duration::from_micros(page.latency_us),
                    messages: page.messages,
                    more: page.more,
                })
                .collect(),
            returned: delivery
                .messages
                .iter()
                .map(|message| ReturnedMessage {
                    hash: message.hash,
                    content_hash: message.content_hash,
                    pubsub_topic: message.pubsub_topic.clone(),
                    content_topic: message.content_topic.clone(),
                    timestamp: message.timestamp,
                })
                .collect(),
            reference,
            exhausted: delivery.exhausted,
            ending: delivery.ending.clone(),
        })
    }

    pub(crate) fn stored_offer(&self, bytes: &[u8]) -> Result<VerifiedOffer, ClientError> {
        stored_offer(&self.wallet, bytes)
    }

    pub(crate) fn now(&self) -> Result<UnixTime, ClientError> {
        Ok(UnixTime::new(self.clock.now())?)
    }
}

/// When a stream starts.
#[derive(Debug, Clone, Copy)]
pub(crate) enum Start {
    /// With the next slot.
    NextSlot,
    /// So far in the past that its tickets count in the running slot.
    Hurried,
    /// So that its tickets count from the slot that begins then, as far as the quote lets it.
    PayingFrom(UnixTime),
}

impl Start {
    const fn from_hurry(hurry: bool) -> Self {
        if hurry { Self::Hurried } else { Self::NextSlot }
    }
}

/// A quote that a stream is opened for.
struct Quoted {
    kept: StoredQuote,
    terms: AgreedTerms,
    stream: OpenStream,
}

/// Seconds between a stream's start and the first slot that it pays for: whole slots, in which `min_streamed` is paid.
pub(crate) fn slots_before(offer: &VerifiedOffer, rate: Rate, slot_length: Seconds) -> u64 {
    let a_slot = rate.get().saturating_mul(u128::from(slot_length.get()));
    let slots = offer.min_streamed.get().div_ceil(a_slot).max(1);
    u64::try_from(slots - 1).unwrap_or(0).saturating_mul(slot_length.get())
}

fn rejected(rejection: Rejection) -> ClientError {
    ClientError::RelayRejected { code: rejection.code, description: rejection.reason }
}

fn unsent(outcome: Outcome) -> ClientError {
    match outcome {
        Outcome::Rejected(rejection) => rejected(rejection),
        Outcome::Unknown { reason, .. } => ClientError::RelayUnknown { description: reason },
        Outcome::Confirmed { .. } => ClientError::RelayUnknown { description: "mined".into() },
    }
}

fn describe(outcome: &Outcome) -> &str {
    match outcome {
        Outcome::Rejected(rejection) => &rejection.reason,
        Outcome::Unknown { reason, .. } => reason,
        Outcome::Confirmed { .. } => "mined",
    }
}

/// What all providers of a service are measured by.
struct Yardstick {
    agreement: Agreement,
    measure: Measure,
}

/// What the choice is told of a provider.
fn standing(known: &Reputed, now: UnixTime) -> Standing {
    let Reputed { own, network, combined, failures } = known;
    Standing {
        score: combined.value,
        weight: combined.own_weight,
        suspended: own.suspension.as_ref().map(|suspension| format!("{} until {}", suspension.kind, suspension.until)),
        latency_ms: own.experience.latency_ms(),
        failing: failures
            .as_ref()
            .filter(|failures| now.get() < failures.avoided_until())
            .map(|failures| format!("{} ({} in a row)", failures.reason, failures.count)),
        outdone: combined.outdone.map(|outdone| outdone.to_string()),
        parts: network.as_ref().map(|network| StandingParts {
            own: combined.own,
            own_weight: combined.own_weight,
            network: network.value,
            network_weight: combined.network_weight,
            ratings: network.ratings,
            paid: network.paid,
            agreement: network.agreement.value,
        }),
    }
}

/// Whether an assessment says something of the provider, and how good.
#[must_use]
pub fn verdict_score(assessment: &Assessment) -> Option<f64> {
    match assessment.verdict {
        Verdict::Scored { score, .. } => Some(score),
        _ => None,
    }
}

pub(crate) fn subject(provider: PeerId, service: &ServiceId) -> Result<Subject, ClientError> {
    Ok(Subject { provider: ProviderName::new(provider.to_string())?, service: ServiceName::new(service.as_str())? })
}

pub(crate) fn stored_offer(wallet: &Wallet, bytes: &[u8]) -> Result<VerifiedOffer, ClientError> {
    // It may have expired since: a stream lives on under the offer that it was opened under.
    SignedOffer::from_bytes(bytes.to_vec())
        .verify_whenever(&[wallet.ledger().pool()])
        .map_err(|_| ClientError::Damaged { what: "an offer" })
}

/// The running stream that pays `provider`, or the newest one of any provider, whose offer sells `service`.
pub(crate) async fn running_stream(
    wallet: &Wallet,
    store: &ClientStore,
    provider: Option<PeerId>,
    service: Option<&ServiceId>,
) -> Result<(Purchase, PayerStream, VerifiedOffer), ClientError> {
    let open = running_streams(wallet, store, provider, service).await?;
    let any = || service.map_or_else(|| "any provider".into(), |service| format!("any provider of {service}"));
    open.into_iter()
        .next()
        .ok_or_else(|| ClientError::NoStream { provider: provider.map_or_else(any, |peer| peer.to_string()) })
}

/// What it says of a provider that no answer came: it may be the buyer's own network that is down.
pub(crate) async fn unanswered(node: &NodeHandle, provider: PeerId) -> Ending {
    let peers = node.connected_peers().await;
    if peers.contains(&provider) {
        return Ending::NoAnswer;
    }
    Ending::Unreachable { others_reachable: !peers.is_empty() }
}

/// All of them, newest first, but for those that were left.
pub(crate) async fn running_streams(
    wallet: &Wallet,
    store: &ClientStore,
    provider: Option<PeerId>,
    service: Option<&ServiceId>,
) -> Result<Vec<(Purchase, PayerStream, VerifiedOffer)>, ClientError> {
    let streams = wallet.payer_streams(false).await?;
    let left = store.left().await?;
    let mut open = Vec::new();
    for purchase in store.purchases().await? {
        if provider.is_some_and(|wanted| wanted != purchase.provider) || left.contains(&purchase.commitment) {
            continue;
        }
        let found = streams.iter().find(|stream| {
            stream.commitment.to_be_bytes() == purchase.commitment
                && matches!(stream.state, StreamState::Running | StreamState::Queued | StreamState::Scheduled)
        });
        if let Some(stream) = found {
            let offer = stored_offer(wallet, &purchase.offer)?;
            if service.is_none_or(|service| offer.service(service).is_some()) {
                open.push((purchase, stream.clone(), offer));
            }
        }
    }
    Ok(open)
}

/// Tickets that a lease takes in a slot of this length: 1 to 4, as many as a proof holds.
pub(crate) fn lease_tickets(
    offer: &VerifiedOffer,
    service: &ServiceId,
    quota: u32,
    slot_length: Seconds,
) -> Result<u8, ClientError> {
    let not_sold = || ClientError::NotSold { what: format!("{service} by the slot with a quota of {quota}") };
    let sold = offer.service(service).ok_or_else(not_sold)?;
    if sold.lease().is_none_or(|sale| quota > sale.max_quota) {
        return Err(not_sold());
    }
    let tickets = sold.lease_tickets(quota, slot_length).ok_or_else(not_sold)?;
    match u8::try_from(tickets) {
        Ok(tickets) if (1..=4).contains(&tickets) => Ok(tickets),
        _ => Err(ClientError::LeaseTooLarge { quota, tickets }),
    }
}

pub(crate) fn paying(purchase: &Purchase, stream: &PayerStream, offer: &VerifiedOffer) -> PayingStream {
    PayingStream {
        note: stream.note,
        secret: stream.secret.clone(),
        terms: offer_terms(offer),
        provider: ProviderDigest::of_peer_id(&purchase.provider.to_bytes()),
        root_depth: u64::from(offer.root_depth),
    }
}

fn offer_terms(offer: &VerifiedOffer) -> tributary_protocol::ticket::OfferTerms {
    tributary_protocol::ticket::OfferTerms {
        payee: offer.payee.owner(),
        price: offer.ticket_price,
        min_streamed: offer.min_streamed,
    }
}

/// Tickets that one page of the provider's Store takes.
///
/// # Errors
/// [`ClientError::NotSold`].
pub fn tickets_a_page(offer: &VerifiedOffer) -> Result<u32, ClientError> {
    offer
        .service(&ServiceId::store())
        .and_then(|service| service.price_of(UseUnit::Page))
        .map(|price| price.tickets)
        .ok_or_else(|| ClientError::NotSold { what: "Waku Store by the page".into() })
}
