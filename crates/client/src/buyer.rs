//! Steps 2 to 8 of a purchase.

use std::{sync::Arc, time::Duration};

use rand::{SeedableRng as _, rngs::StdRng};
use serde::{Deserialize, Serialize};
use tributary_ledger::Clock;
use tributary_market::{
    choose::{self, Candidate, Choice, Explanation, Preset, Search, Standing},
    clock::Clock as MarketClock,
    negotiate::{
        MAX_BOUND, StoreWanted, Wanted,
        broken::BrokenQuote,
        buyer::{Direct, NegotiationError, QuoteChannel, Wish, negotiate},
    },
    node::connect,
    offer::{Attributes, RateClassId, ServiceId, SignedOffer, UseUnit, VerifiedOffer},
    relay::{RelayClient, VerifiedAnnouncement},
    rpc::{CallPolicy, SealedClient},
};
use tributary_protocol::{Amount, Commitment, PaymentAddress, Price, ProviderDigest, Rate, Seconds, UnixTime};
use tributary_reputation::{
    Assessment, AssessmentId, Config as ReputationConfig, Fault, FaultKind, ProviderName, Reputation, Score,
    ServiceName, Subject, Verdict,
    store::{Ending, PageObserved, Reference, ReturnedMessage, StoreAssessor, StoreObservation},
};
use tributary_waku::{ContentTopic, NodeHandle, PeerId, PubsubTopic, StoreQueryRequest};
use tributary_wallet::{
    Intent, OpenStream, Outcome, PayerStream, StreamState, Submitter, Wallet,
    tickets::{PayingStream, TicketMaker},
};

use crate::{
    ClientError,
    discover::Directory,
    lease::{LeaseBuyer, LeasePlan, PaidFilter},
    push::PaidLightpush,
    query::{PagePrice, PaidStore},
    relay::RelaySubmitter,
    route::PATIENCE,
    store::{ClientStore, Delivery, Purchase},
    tickets::{StreamTickets, TicketSource},
};

/// What a buyer wants.
#[derive(Debug, Clone)]
pub struct Want {
    /// Content topics to be queried; their shard decides the pubsub topic.
    pub content_topics: Vec<ContentTopic>,
    /// How long messages must be kept there.
    pub retention: Seconds,
    /// How long the service is wanted.
    pub duration: Seconds,
    /// Pages in each slot.
    pub pages_per_slot: u64,
    /// Highest ticket price.
    pub max_price: Option<Price>,
    /// What matters most.
    pub preset: Preset,
    /// Providers that are left out.
    pub ignore: Vec<PeerId>,
}

/// An agreed quote, as it is kept between negotiation and opening.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct AgreedTerms {
    /// Who signed it.
    pub provider: String,
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
    clock: Arc<dyn Clock>,
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
        let buyer = Self { node, wallet, tickets, directory, store, reputation, clock };
        buyer.report_evidence().await?;
        Ok(buyer)
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

    /// Step 2: filters, scores, draws among the near-best.
    ///
    /// # Errors
    /// When a database fails.
    pub async fn choose(&self, want: &Want) -> Result<(Option<Choice>, Explanation), ClientError> {
        let now = self.now()?;
        let mut candidates = Vec::new();
        for offer in self.directory.offers() {
            let score = self.score(offer.peer_id()).await?;
            let standing = Standing {
                score: score.value,
                weight: score.experience.weight(),
                suspended: score
                    .suspension
                    .as_ref()
                    .map(|suspension| format!("{} until {}", suspension.kind, suspension.until)),
                latency_ms: score.experience.latency_ms(),
            };
            candidates.push(Candidate { offer, standing });
        }
        let search = Search {
            service: ServiceId::store(),
            wanted: self.wanted(want)?,
            pool: self.wallet.ledger().pool(),
            slot_length: self.wallet.ledger().clock().slot_length(),
            unit: UseUnit::Page,
            units_per_slot: want.pages_per_slot,
            duration: want.duration,
            max_unit_price: None,
            max_ticket_price: want.max_price,
            max_rate: None,
            min_score: None,
            only: Vec::new(),
            ignore: want.ignore.clone(),
            preset: want.preset,
        };
        let (choice, explanation) = choose::choose(&candidates, &search, now, &mut StdRng::from_entropy());
        if let Some(choice) = &choice {
            self.store.put_choice(choice.offer.peer_id(), "store", self.clock.now()).await?;
        }
        Ok((choice, explanation))
    }

    /// Steps 2 and 3: chooses, and agrees on a quote with whom was chosen. One that does not answer or refuses is left out, and another one
    /// is chosen, [`MAX_CHOICES`] times at most. The explanation is the last choice's; no terms when nobody was left.
    ///
    /// # Errors
    /// The last provider's refusal when each one refused; when a database fails.
    pub async fn agree(&self, want: &Want) -> Result<(Option<(Choice, AgreedTerms)>, Explanation), ClientError> {
        let mut want = want.clone();
        let mut refusal = None;
        loop {
            let (choice, explanation) = self.choose(&want).await?;
            let Some(choice) = choice else {
                return refusal.map_or(Ok((None, explanation)), Err);
            };
            match self.negotiate(&choice.offer, choice.rate_class, &want, false).await {
                Ok(terms) => return Ok((Some((choice, terms)), explanation)),
                Err(error @ (ClientError::Negotiation(_) | ClientError::Transport(_)))
                    if want.ignore.len() + 1 < MAX_CHOICES =>
                {
                    tracing::info!(code = error.code(), %error, "no agreement: choosing another provider");
                    want.ignore.push(choice.offer.peer_id());
                    refusal = Some(error);
                }
                Err(error) => return Err(error),
            }
        }
    }

    /// Remembers that a provider did not answer a query that its stream pays for: the next assessment counts it.
    ///
    /// # Errors
    /// When the database fails.
    pub async fn unreachable(&self, provider: PeerId, request: &StoreQueryRequest) -> Result<(), ClientError> {
        let mut delivery = Delivery::begin(provider, request, self.clock.now());
        delivery.ending = Ending::NoAnswer;
        self.store.put_delivery(&delivery).await?;
        Ok(())
    }

    /// A provider's score for its Store.
    ///
    /// # Errors
    /// When the database fails.
    pub async fn score(&self, provider: PeerId) -> Result<Score, ClientError> {
        Ok(self.reputation.score(&subject(provider)?, self.now()?).await?)
    }

    fn wanted(&self, want: &Want) -> Result<Wanted, ClientError> {
        let Some(first) = want.content_topics.first() else { return Ok(Wanted::Anything) };
        Ok(Wanted::Store(StoreWanted {
            retention: want.retention,
            pubsub_topic: self.node.pubsub_topic(first)?.to_string(),
            content_topics: want.content_topics.iter().map(ToString::to_string).collect(),
        }))
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
        let clock = self.wallet.ledger().clock();
        let now = self.now()?;
        let class = offer
            .rate_class(rate_class)
            .ok_or_else(|| ClientError::NotSold { what: format!("rate class {}", rate_class.0) })?;
        let per_page = tickets_a_page(offer)?;
        let load = u32::try_from(want.pages_per_slot.saturating_mul(u64::from(per_page))).unwrap_or(u32::MAX);
        let wish = Wish {
            service: ServiceId::store(),
            wanted: self.wanted(want)?,
            rate_class,
            start: clock.floor(now),
            latest_start: now.saturating_add(Seconds::new(2 * clock.slot_length().get())?),
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
            sealed_channel = self.sealed();
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
    fn sealed(&self) -> SealedClient {
        SealedClient::new(Arc::new(self.node.clone()), Arc::new(Bridge(Arc::clone(&self.clock))), CallPolicy::default())
    }

    /// A submitter that pays relayers up to `max_fee`, insertion included.
    #[must_use]
    pub fn relayed(&self, max_fee: Amount) -> RelaySubmitter {
        let client = RelayClient::new(self.sealed(), Arc::new(Bridge(Arc::clone(&self.clock))));
        RelaySubmitter::new(client, self.directory.clone(), max_fee, true)
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
        let kept = self.store.open_quote().await?.ok_or(ClientError::NoQuote)?;
        let terms: AgreedTerms =
            serde_json::from_slice(&kept.request).map_err(|_| ClientError::Damaged { what: "a quote" })?;
        let offer = self.stored_offer(&kept.offer)?;
        let now = self.now()?;
        if now.get() > terms.valid_until {
            return Err(ClientError::QuoteExpired { valid_until: terms.valid_until, now: now.get() });
        }
        let clock = self.wallet.ledger().clock();
        let length = clock.slot_length().get();
        let rate = Rate::new(terms.rate)?;
        let start = if hurry {
            // By the end of the running slot min_streamed has been paid.
            let slots = offer.min_streamed.get().div_ceil(terms.rate.saturating_mul(u128::from(length))).max(1);
            let before = u64::try_from(slots - 1).unwrap_or(0).saturating_mul(length);
            clock.floor(now).saturating_sub(Seconds::new(before)?)
        } else {
            clock.ceil(now)?
        };
        let end = clock.ceil(start.saturating_add(Seconds::new(terms.duration)?))?;
        let payee: PaymentAddress =
            terms.payee.parse().map_err(|_| ClientError::Damaged { what: "a payee's address" })?;
        let stream = OpenStream { payee, rate, start, end, offer: Some(offer_terms(&offer)) };

        let intent = Intent::Open(stream);
        let send_terms = submitter
            .terms(intent.kind())
            .await
            .map_err(|rejection| ClientError::RelayRejected { code: rejection.code, description: rejection.reason })?;
        let started = std::time::Instant::now();
        let prepared = self.wallet.prepare(intent, send_terms).await?;
        let proving = started.elapsed();
        let commitment = *prepared.commitments.first().ok_or(ClientError::Damaged { what: "a prepared stream" })?;
        self.store
            .put_purchase(
                &Purchase {
                    commitment: commitment.to_be_bytes(),
                    provider: kept.provider,
                    offer: kept.offer.clone(),
                    quote: kept.quote.clone(),
                    at: self.clock.now(),
                },
                kept.id,
            )
            .await?;
        let started = std::time::Instant::now();
        let outcome = self.wallet.submit(&prepared, submitter).await?;
        let sending = started.elapsed();
        match &outcome {
            Outcome::Confirmed { .. } => {}
            Outcome::Rejected(rejection) => {
                return Err(ClientError::RelayRejected {
                    code: rejection.code.clone(),
                    description: rejection.reason.clone(),
                });
            }
            Outcome::Unknown { reason, .. } => return Err(ClientError::RelayUnknown { description: reason.clone() }),
        }
        let deposit = Amount::new(terms.rate.saturating_mul(u128::from(end.since(start).get())))?;
        Ok(Opened { commitment, start, end, rate, deposit, fee: send_terms.fee, outcome, proving, sending })
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
        let streams = self.wallet.payer_streams(false).await?;
        for purchase in self.store.purchases().await? {
            if provider.is_some_and(|wanted| wanted != purchase.provider) {
                continue;
            }
            let found = streams.iter().find(|stream| {
                stream.commitment.to_be_bytes() == purchase.commitment
                    && matches!(stream.state, StreamState::Running | StreamState::Queued | StreamState::Scheduled)
            });
            if let Some(stream) = found {
                let offer = self.stored_offer(&purchase.offer)?;
                return Ok((purchase, stream.clone(), offer));
            }
        }
        Err(ClientError::NoStream { provider: provider.map_or_else(|| "any".into(), |peer| peer.to_string()) })
    }

    /// What pays for queries at a provider: its running stream, under the terms of the offer it was opened under.
    ///
    /// # Errors
    /// [`ClientError::NoStream`].
    pub async fn paid_store(&self, provider: Option<PeerId>) -> Result<(PaidStore, VerifiedOffer), ClientError> {
        let (tickets, offer) = self.stream_tickets(provider).await?;
        let page_size = offer.service(&ServiceId::store()).and_then(|service| match &service.attributes {
            Attributes::Store(store) => Some(store.page_size),
            _ => None,
        });
        let price = PagePrice {
            tickets: u8::try_from(tickets_a_page(&offer)?).unwrap_or(u8::MAX),
            page_size: page_size.ok_or_else(|| ClientError::NotSold { what: "Waku Store".into() })?,
        };
        let paid = PaidStore::new(self.node.clone(), offer.peer_id(), tickets, price)
            .returning(offer.multiaddrs.clone(), PATIENCE);
        Ok((paid, offer))
    }

    /// Tickets of the running stream that pays a provider, under the terms of the offer it was opened under.
    ///
    /// # Errors
    /// [`ClientError::NoStream`].
    pub async fn stream_tickets(
        &self,
        provider: Option<PeerId>,
    ) -> Result<(Arc<dyn TicketSource>, VerifiedOffer), ClientError> {
        let (purchase, stream, offer) = self.stream(provider).await?;
        let paying = paying(&purchase, &stream, &offer);
        let clock = Arc::clone(&self.clock);
        let tickets = StreamTickets::new(self.tickets.clone(), self.wallet.ledger().clone(), clock, paying);
        Ok((Arc::new(tickets), offer))
    }

    /// What pays for messages that a provider publishes.
    ///
    /// # Errors
    /// [`ClientError::NoStream`], [`ClientError::NotSold`].
    pub async fn paid_lightpush(
        &self,
        provider: Option<PeerId>,
    ) -> Result<(PaidLightpush, VerifiedOffer), ClientError> {
        let (tickets, offer) = self.stream_tickets(provider).await?;
        let price = offer
            .service(&ServiceId::lightpush())
            .and_then(|service| service.price_of(UseUnit::Message))
            .ok_or_else(|| ClientError::NotSold { what: "Waku Lightpush by the message".into() })?;
        let count = u8::try_from(price.tickets).unwrap_or(u8::MAX);
        let paid = PaidLightpush::new(self.node.clone(), offer.peer_id(), tickets, count)
            .returning(offer.multiaddrs.clone(), PATIENCE);
        Ok((paid, offer))
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
        let (tickets, offer) = self.stream_tickets(provider).await?;
        let length = tickets.clock().slot_length();
        let count = offer
            .service(&service)
            .and_then(|sold| sold.lease_tickets(quota, length))
            .ok_or_else(|| ClientError::NotSold { what: format!("{service} by the slot") })?;
        let count = match u8::try_from(count) {
            Ok(count) if (1..=4).contains(&count) => count,
            _ => return Err(ClientError::LeaseTooLarge { quota, tickets: count }),
        };
        let plan = LeasePlan {
            provider: offer.peer_id(),
            addresses: offer.multiaddrs.clone(),
            service,
            quota,
            tickets: count,
            ahead: Seconds::new(length.get().div_ceil(2))?,
        };
        Ok((LeaseBuyer::new(self.node.clone(), plan, tickets), offer))
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
        let assessment = StoreAssessor::default().assess(&self.observation(&delivery, peer).await?);
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
            subject: subject(provider)?,
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

    fn stored_offer(&self, bytes: &[u8]) -> Result<VerifiedOffer, ClientError> {
        // It may have expired since: a stream lives on under the offer that it was opened under.
        SignedOffer::from_bytes(bytes.to_vec())
            .verify_whenever(&[self.wallet.ledger().pool()])
            .map_err(|_| ClientError::Damaged { what: "an offer" })
    }

    fn now(&self) -> Result<UnixTime, ClientError> {
        Ok(UnixTime::new(self.clock.now())?)
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

fn subject(provider: PeerId) -> Result<Subject, ClientError> {
    Ok(Subject { provider: ProviderName::new(provider.to_string())?, service: ServiceName::new("store")? })
}

fn paying(purchase: &Purchase, stream: &PayerStream, offer: &VerifiedOffer) -> PayingStream {
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
