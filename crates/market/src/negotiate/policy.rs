//! A provider's policies: small judges in a chain, each of which may narrow the terms or refuse.

use std::collections::HashMap;
use std::fmt;
use std::sync::atomic::{AtomicU32, Ordering};
use std::sync::{Arc, Mutex, PoisonError};

use async_trait::async_trait;
use tributary_protocol::amount::Rate;
use tributary_protocol::slot::PoolClock;
use tributary_protocol::time::{Seconds, UnixTime};

use super::{Compared, CounterOffer, QuoteRequest, Refusal, RefusalCode, Source, StoreWanted, Wanted};
use crate::offer::{Attributes, RateClass, Service, StoreAttributes, VerifiedOffer};

/// What a policy judges.
#[derive(Debug)]
pub struct Ask<'a> {
    /// Who asks.
    pub source: Source,
    /// What is asked.
    pub request: &'a QuoteRequest,
    /// The provider's current offer.
    pub offer: &'a VerifiedOffer,
    /// The service asked for.
    pub service: &'a Service,
    /// The class asked for.
    pub class: &'a RateClass,
    /// The pool's clock.
    pub clock: &'a PoolClock,
    /// The provider's time.
    pub now: UnixTime,
}

impl Ask<'_> {
    /// Tickets a slot that a class of this offer pays for.
    #[must_use]
    pub fn tickets_per_slot(&self, class: &RateClass) -> u64 {
        class.tickets_per_slot(self.offer.ticket_price, self.clock.slot_length())
    }

    /// The request as a counter-offer to be changed.
    #[must_use]
    pub fn counter(&self) -> CounterOffer {
        CounterOffer {
            rate_class: self.class.id,
            start: self.request.start,
            duration: self.request.duration,
            load: self.request.load,
        }
    }

    /// A refusal of this policy.
    #[must_use]
    pub fn refuse(&self, policy: &str, code: RefusalCode, description: &str) -> Box<Refusal> {
        Box::new(Refusal {
            code,
            policy: policy.to_owned(),
            compared: Vec::new(),
            description: description.to_owned(),
            counter: None,
            retry_at: None,
        })
    }
}

/// The part of a quote that policies may narrow. It holds no price: those are public and the same for all.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Draft {
    /// Tickets a slot; only to be lowered.
    pub load_cap: u32,
    /// Until when the stream must have begun; only to be made earlier.
    pub start_deadline: UnixTime,
    /// Until when the quote may be acted upon; only to be made earlier.
    pub valid_until: UnixTime,
}

/// One judge of the chain.
#[async_trait]
pub trait Policy: fmt::Debug + Send + Sync + 'static {
    /// Its name, as refusals show it.
    fn name(&self) -> &'static str;

    /// Narrows the draft, or refuses.
    ///
    /// # Errors
    /// The refusal that is sent to the buyer.
    async fn judge(&self, ask: &Ask<'_>, draft: &mut Draft) -> Result<(), Box<Refusal>>;

    /// Told when every policy agreed and a quote goes out. Runs before the quote is sent.
    fn agreed(&self, _ask: &Ask<'_>, _draft: &Draft) {}
}

/// The buyer's limits cover the public prices; if only its rate limit is too low, a slower class is the counter-offer.
#[derive(Debug, Clone, Copy, Default)]
pub struct PricePolicy;

#[async_trait]
impl Policy for PricePolicy {
    fn name(&self) -> &'static str {
        "price"
    }

    async fn judge(&self, ask: &Ask<'_>, _draft: &mut Draft) -> Result<(), Box<Refusal>> {
        let (request, offer) = (ask.request, ask.offer);
        if offer.ticket_price > request.max_ticket_price {
            let mut refusal =
                ask.refuse(self.name(), RefusalCode::PriceTooHigh, "the ticket price is above the buyer's limit");
            refusal.compared = vec![Compared::new("ticket_price", request.max_ticket_price, offer.ticket_price)];
            return Err(refusal);
        }
        if ask.class.rate > request.max_rate {
            let mut refusal =
                ask.refuse(self.name(), RefusalCode::RateTooHigh, "the class's rate is above the buyer's limit");
            refusal.compared = vec![Compared::new("rate", request.max_rate, ask.class.rate)];
            refusal.counter = best_class(ask, request.max_rate).map(|class| {
                let payable = u32::try_from(ask.tickets_per_slot(class)).unwrap_or(u32::MAX);
                CounterOffer { rate_class: class.id, load: request.load.min(payable), ..ask.counter() }
            });
            return Err(refusal);
        }
        Ok(())
    }
}

/// The fastest class within a rate limit that allows the duration and the buyer's least load.
fn best_class<'a>(ask: &'a Ask<'_>, max_rate: Rate) -> Option<&'a RateClass> {
    ask.offer
        .rate_classes
        .iter()
        .filter(|class| class.rate <= max_rate && class.allows(ask.request.duration))
        .filter(|class| ask.tickets_per_slot(class) >= u64::from(ask.request.min_load.max(1)))
        .max_by_key(|class| class.rate)
}

/// The class allows the duration; else the nearest duration is the counter-offer.
#[derive(Debug, Clone, Copy, Default)]
pub struct DurationPolicy;

#[async_trait]
impl Policy for DurationPolicy {
    fn name(&self) -> &'static str {
        "duration"
    }

    async fn judge(&self, ask: &Ask<'_>, _draft: &mut Draft) -> Result<(), Box<Refusal>> {
        let asked = ask.request.duration;
        if ask.class.allows(asked) && asked >= ask.clock.slot_length() {
            return Ok(());
        }
        let shortest = ask.class.min_duration.max(ask.clock.slot_length());
        let limit = match ask.class.max_duration {
            Some(longest) if asked > longest => longest,
            _ => shortest,
        };
        let mut refusal = ask.refuse(self.name(), RefusalCode::Duration, "the class doesn't allow this duration");
        refusal.compared = vec![Compared::new("duration", asked, limit)];
        refusal.counter = Some(CounterOffer { duration: limit, ..ask.counter() });
        Err(refusal)
    }
}

/// The start lies neither in the past nor too far ahead; the deadline leaves some time after it.
#[derive(Debug, Clone, Copy)]
pub struct StartPolicy {
    /// How far in the past a stream may begin (a buyer in a hurry pays min_streamed that way).
    pub max_past: Seconds,
    /// How far ahead it may begin.
    pub max_ahead: Seconds,
}

#[async_trait]
impl Policy for StartPolicy {
    fn name(&self) -> &'static str {
        "start"
    }

    async fn judge(&self, ask: &Ask<'_>, _draft: &mut Draft) -> Result<(), Box<Refusal>> {
        let earliest = ask.now.saturating_sub(self.max_past);
        let latest = ask.now.saturating_add(self.max_ahead);
        let start = ask.request.start;
        let limit = if start < earliest {
            earliest
        } else if start > latest {
            latest
        } else {
            return Ok(());
        };
        let mut refusal = ask.refuse(self.name(), RefusalCode::Start, "the stream would begin too early or too late");
        refusal.compared = vec![Compared::new("start", start, limit)];
        refusal.counter = Some(CounterOffer { start: limit, ..ask.counter() });
        Err(refusal)
    }
}

/// The service has the wanted attributes.
#[derive(Debug, Clone, Copy, Default)]
pub struct AttributesPolicy;

#[async_trait]
impl Policy for AttributesPolicy {
    fn name(&self) -> &'static str {
        "attributes"
    }

    async fn judge(&self, ask: &Ask<'_>, _draft: &mut Draft) -> Result<(), Box<Refusal>> {
        let missing = missing_attributes(&ask.request.wanted, &ask.service.attributes);
        if missing.is_empty() {
            return Ok(());
        }
        let mut refusal = ask.refuse(self.name(), RefusalCode::Attributes, "the service lacks what is wanted");
        refusal.compared = missing;
        Err(refusal)
    }
}

/// What a service lacks of what is wanted; empty when it has everything.
#[must_use]
pub fn missing_attributes(wanted: &Wanted, attributes: &Attributes) -> Vec<Compared> {
    let mut missing = match (wanted, attributes) {
        (Wanted::Anything, _) => return Vec::new(),
        (Wanted::Store(wanted), Attributes::Store(store)) => missing_of_store(wanted, store),
        (Wanted::Filter(wanted), Attributes::Filter(filter)) => {
            let topics = filter.lease.map_or(0, |lease| lease.max_quota);
            let mut missing = missing_topic(&wanted.pubsub_topic, &filter.pubsub_topics);
            missing.extend((wanted.topics > topics).then(|| Compared::new("topics", wanted.topics, topics)));
            missing
        }
        (Wanted::Lightpush(wanted), Attributes::Lightpush(lightpush)) => {
            let mut missing = missing_topic(&wanted.pubsub_topic, &lightpush.pubsub_topics);
            let short = wanted.payload > lightpush.max_payload;
            missing.extend(short.then(|| Compared::new("payload", wanted.payload, lightpush.max_payload)));
            missing
        }
        (Wanted::Family(wanted), Attributes::Family(family)) if wanted.name == family.name => {
            let unmet = wanted.needs.iter().filter(|need| !need.met_by(&family.properties));
            unmet
                .map(|need| Compared::new(need.property.as_str(), need, family.properties.shown(&need.property)))
                .collect()
        }
        (Wanted::Family(wanted), _) => return vec![Compared::new("family", &wanted.name, "another")],
        (Wanted::Store(_), _) => return vec![Compared::new("family", "store", "another")],
        (Wanted::Filter(_), _) => return vec![Compared::new("family", "filter", "another")],
        (Wanted::Lightpush(_), _) => return vec![Compared::new("family", "lightpush", "another")],
    };
    for compared in &mut missing {
        // What goes on the wire is bounded, and readers check the bound.
        truncate(&mut compared.asked, 256);
        truncate(&mut compared.limit, 256);
    }
    missing
}

fn missing_topic(wanted: &str, served: &[String]) -> Vec<Compared> {
    if served.iter().any(|topic| topic == wanted) {
        return Vec::new();
    }
    vec![Compared::new("pubsub_topic", wanted, served.join(" "))]
}

fn missing_of_store(wanted: &StoreWanted, store: &StoreAttributes) -> Vec<Compared> {
    let mut missing = Vec::new();
    if wanted.retention > store.retention {
        missing.push(Compared::new("retention", wanted.retention, store.retention));
    }
    missing.extend(missing_topic(&wanted.pubsub_topic, &store.pubsub_topics));
    let unarchived = wanted
        .content_topics
        .iter()
        .filter(|topic| !store.content_topics.is_empty() && !store.content_topics.contains(topic));
    for topic in unarchived.take(4) {
        missing.push(Compared::new("content_topic", topic, "not archived"));
    }
    missing
}

fn truncate(text: &mut String, max: usize) {
    if text.len() > max {
        let end = (0..=max).rev().find(|end| text.is_char_boundary(*end)).unwrap_or(0);
        text.truncate(end);
    }
}

/// The class pays for the load; else the load that it pays for, or a faster class, is the counter-offer.
#[derive(Debug, Clone, Copy, Default)]
pub struct LoadPolicy;

#[async_trait]
impl Policy for LoadPolicy {
    fn name(&self) -> &'static str {
        "load"
    }

    async fn judge(&self, ask: &Ask<'_>, draft: &mut Draft) -> Result<(), Box<Refusal>> {
        let request = ask.request;
        let payable = u32::try_from(ask.tickets_per_slot(ask.class)).unwrap_or(u32::MAX);
        if payable >= request.min_load.max(1) {
            draft.load_cap = draft.load_cap.min(payable);
            return Ok(());
        }
        let mut refusal = ask.refuse(self.name(), RefusalCode::Load, "the class doesn't pay for this load");
        refusal.compared = vec![Compared::new("tickets_per_slot", request.min_load, payable)];
        refusal.counter =
            best_class(ask, request.max_rate).map(|class| CounterOffer { rate_class: class.id, ..ask.counter() });
        Err(refusal)
    }
}

/// Whether the provider can sell now: switched by its health checks.
#[derive(Debug, Clone)]
pub struct AvailabilityPolicy {
    /// True while the provider can verify tickets and serve.
    pub available: tokio::sync::watch::Receiver<bool>,
    /// When a refused buyer may ask again.
    pub retry_after: Seconds,
}

#[async_trait]
impl Policy for AvailabilityPolicy {
    fn name(&self) -> &'static str {
        "availability"
    }

    async fn judge(&self, ask: &Ask<'_>, _draft: &mut Draft) -> Result<(), Box<Refusal>> {
        if *self.available.borrow() {
            return Ok(());
        }
        let mut refusal = ask.refuse(self.name(), RefusalCode::Unavailable, "the provider can't sell at the moment");
        refusal.retry_at = Some(ask.now.saturating_add(self.retry_after));
        Err(refusal)
    }
}

/// Holds capacity for quotes until their start deadline, and for what is measured to be in use; bounds what one peer can hold.
///
/// Tickets don't say which quote they belong to, so what streams use is measured as a whole ([`Self::set_in_use`]), and a reservation
/// ends with its deadline.
#[derive(Debug)]
pub struct CapacityPolicy {
    /// Tickets a slot that the provider can serve.
    capacity: u32,
    /// Tickets a slot that one source may hold in open quotes.
    max_per_source: u32,
    in_use: AtomicU32,
    reservations: Mutex<Vec<Reservation>>,
}

#[derive(Debug, Clone, Copy)]
struct Reservation {
    source: Source,
    load: u32,
    until: UnixTime,
}

/// Open quotes at once, whatever their load.
const MAX_RESERVATIONS: usize = 4096;

impl CapacityPolicy {
    /// Capacity for `capacity` tickets a slot, of which one source may hold `max_per_source` in open quotes.
    #[must_use]
    pub fn new(capacity: u32, max_per_source: u32) -> Arc<Self> {
        Arc::new(Self { capacity, max_per_source, in_use: AtomicU32::new(0), reservations: Mutex::default() })
    }

    /// Sets how many tickets a slot running streams use.
    pub fn set_in_use(&self, tickets: u32) {
        self.in_use.store(tickets, Ordering::Relaxed);
    }

    /// Tickets a slot that no quote holds and no stream uses.
    #[must_use]
    pub fn free(&self, now: UnixTime) -> u32 {
        let mut reservations = self.reservations.lock().unwrap_or_else(PoisonError::into_inner);
        reservations.retain(|held| held.until > now);
        let held = reservations.iter().fold(0u32, |sum, held| sum.saturating_add(held.load));
        self.capacity.saturating_sub(held).saturating_sub(self.in_use.load(Ordering::Relaxed))
    }

    fn held_by(&self, source: Source) -> (u32, Option<UnixTime>, usize) {
        let reservations = self.reservations.lock().unwrap_or_else(PoisonError::into_inner);
        let own = reservations.iter().filter(|held| held.source == source);
        let load = own.clone().map(|held| held.load).fold(0, u32::saturating_add);
        (load, own.map(|held| held.until).min(), reservations.len())
    }

    fn first_release(&self) -> Option<UnixTime> {
        self.reservations.lock().unwrap_or_else(PoisonError::into_inner).iter().map(|held| held.until).min()
    }
}

#[async_trait]
impl Policy for Arc<CapacityPolicy> {
    fn name(&self) -> &'static str {
        "capacity"
    }

    async fn judge(&self, ask: &Ask<'_>, draft: &mut Draft) -> Result<(), Box<Refusal>> {
        let needed = ask.request.min_load.max(1);
        let free = self.free(ask.now);
        let (held, own_release, open) = self.held_by(ask.source);
        let own = self.max_per_source.saturating_sub(held);
        if own < needed {
            let mut refusal =
                ask.refuse(self.name(), RefusalCode::TooManyRequests, "this peer holds too many open quotes");
            refusal.compared = vec![Compared::new("tickets_per_slot_held", held, self.max_per_source)];
            refusal.retry_at = own_release;
            return Err(refusal);
        }
        if free < needed || open >= MAX_RESERVATIONS {
            let mut refusal =
                ask.refuse(self.name(), RefusalCode::Capacity, "the provider has no capacity left for this load");
            refusal.compared = vec![Compared::new("tickets_per_slot", needed, free)];
            refusal.retry_at = self.first_release();
            if free > 0 {
                refusal.counter = Some(CounterOffer { load: free, ..ask.counter() });
            }
            return Err(refusal);
        }
        draft.load_cap = draft.load_cap.min(free).min(own);
        Ok(())
    }

    fn agreed(&self, ask: &Ask<'_>, draft: &Draft) {
        let mut reservations = self.reservations.lock().unwrap_or_else(PoisonError::into_inner);
        if reservations.len() < MAX_RESERVATIONS {
            reservations.push(Reservation { source: ask.source, load: draft.load_cap, until: draft.start_deadline });
        }
    }
}

/// Bounds how many requests a source makes in a window of time.
#[derive(Debug)]
pub struct FairnessPolicy {
    requests: u32,
    sealed_requests: u32,
    window: Seconds,
    counts: Mutex<Counts>,
}

#[derive(Debug, Default)]
struct Counts {
    since: UnixTime,
    by_source: HashMap<Source, u32>,
}

/// Sources counted in one window; the rest share one count.
const MAX_SOURCES: usize = 4096;

impl FairnessPolicy {
    /// Allows each peer `requests` in a window, and all sealed requests together `sealed_requests`.
    #[must_use]
    pub fn new(requests: u32, sealed_requests: u32, window: Seconds) -> Self {
        Self { requests, sealed_requests, window, counts: Mutex::default() }
    }

    /// Counts a request; returns its number in this window, the limit, and the window's end.
    fn count(&self, source: Source, now: UnixTime) -> (u32, u32, UnixTime) {
        let mut counts = self.counts.lock().unwrap_or_else(PoisonError::into_inner);
        let ends = counts.since.saturating_add(self.window);
        if now >= ends || now < counts.since {
            *counts = Counts { since: now, by_source: HashMap::new() };
        }
        let known = counts.by_source.contains_key(&source) || counts.by_source.len() < MAX_SOURCES;
        let key = if known { source } else { Source::Sealed };
        let count = counts.by_source.entry(key).or_insert(0);
        *count = count.saturating_add(1);
        let limit = match key {
            Source::Peer(_) => self.requests,
            Source::Sealed => self.sealed_requests,
        };
        let number = *count;
        (number, limit, counts.since.saturating_add(self.window))
    }
}

#[async_trait]
impl Policy for FairnessPolicy {
    fn name(&self) -> &'static str {
        "fairness"
    }

    async fn judge(&self, ask: &Ask<'_>, _draft: &mut Draft) -> Result<(), Box<Refusal>> {
        let (number, limit, ends) = self.count(ask.source, ask.now);
        if number <= limit {
            return Ok(());
        }
        let mut refusal = ask.refuse(self.name(), RefusalCode::TooManyRequests, "too many requests for quotes");
        refusal.compared = vec![Compared::new("requests", number, limit)];
        refusal.retry_at = Some(ends);
        Err(refusal)
    }
}
