//! Choosing a provider: filters, then a score, then a draw among the near-best, with an account of every step.
//!
//! The draw keeps the choice from saying much about the chooser, and gives newcomers work. A provider that nobody knows counts as
//! average: above one known to be bad, below one known to be good. What a stranger's rating is worth can be bought, so a buyer who knows a
//! good provider itself goes to strangers for [`NEWCOMER_SHARE`] of its uses, whatever is said of them.

use std::fmt;
use std::sync::Arc;

use libp2p::PeerId;
use rand::Rng;
use serde::{Deserialize, Serialize};
use tributary_protocol::amount::{Price, Rate};
use tributary_protocol::keys::PoolId;
use tributary_protocol::time::{Seconds, UnixTime};

use crate::negotiate::Wanted;
use crate::negotiate::policy::missing_attributes;
use crate::offer::{OfferId, RateClassId, ServiceId, UseUnit, VerifiedOffer};

/// What the buyer knows of a provider for this service.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Standing {
    /// Expected quality, 0 to 1; 0.5 when nothing is known.
    pub score: f64,
    /// How much experience stands behind it (0 for a newcomer); in measurements, the older the less.
    pub weight: f64,
    /// Why it isn't dealt with, if so.
    pub suspended: Option<String>,
    /// Typical answer time.
    pub latency_ms: Option<f64>,
    /// How it failed lately, if so: it is chosen when nobody else passes.
    pub failing: Option<String>,
    /// Why others are preferred, if so, whatever its score: a stranger can be expected to do better.
    #[serde(default)]
    pub outdone: Option<String>,
    /// What the score is made of; only shown.
    pub parts: Option<StandingParts>,
}

impl Default for Standing {
    fn default() -> Self {
        Self { score: 0.5, weight: 0.0, suspended: None, latency_ms: None, failing: None, outdone: None, parts: None }
    }
}

/// What a provider's score is made of: own experience and ratings of others.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
pub struct StandingParts {
    /// What own experience alone says, 0 to 1.
    pub own: f64,
    /// How much own experience there is, in uses, faded.
    pub own_weight: f64,
    /// What ratings say, 0 to 1; 0.5 without any.
    pub network: f64,
    /// What they are worth together, in own uses.
    pub network_weight: f64,
    /// How many ratings count.
    pub ratings: u64,
    /// What their makers paid the provider, at least, base units.
    pub paid: f64,
    /// How well ratings agree with own experience, over all providers: 0 to 1.
    pub agreement: f64,
}

impl fmt::Display for StandingParts {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { own, own_weight, network, network_weight, ratings, paid, agreement } = self;
        write!(
            f,
            "own {own:.2} from {own_weight:.1} uses, ratings {network:.2} worth {network_weight:.1}: {ratings}, {paid:.0} paid, agreement {agreement:.2}"
        )
    }
}

impl Standing {
    /// Whether nothing is known.
    #[must_use]
    pub fn is_newcomer(&self) -> bool {
        self.weight <= 0.0
    }
}

/// An offer and what is known of its provider.
#[derive(Debug, Clone)]
pub struct Candidate {
    /// The offer.
    pub offer: Arc<VerifiedOffer>,
    /// The provider's standing.
    pub standing: Standing,
}

/// What matters most.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, Default)]
#[serde(rename_all = "snake_case")]
pub enum Preset {
    /// Price before all.
    Cheapest,
    /// Answer time before all.
    Fastest,
    /// Experience before all.
    #[default]
    Trusted,
    /// Saying as little as possible by the choice: a wide, even draw, and providers that take sealed requests.
    Private,
}

impl Preset {
    const fn weights(self) -> Weights {
        match self {
            Self::Cheapest => Weights { price: 0.7, reputation: 0.25, latency: 0.05 },
            Self::Fastest => Weights { price: 0.15, reputation: 0.25, latency: 0.6 },
            Self::Trusted => Weights { price: 0.2, reputation: 0.7, latency: 0.1 },
            Self::Private => Weights { price: 0.3, reputation: 0.6, latency: 0.1 },
        }
    }

    /// How far below the best score the draw still reaches.
    const fn margin(self) -> f64 {
        match self {
            Self::Cheapest => 0.05,
            Self::Fastest => 0.1,
            // A low price or a quick answer doesn't make up for what the reliability of others is worth.
            Self::Trusted => 0.15,
            Self::Private => 0.25,
        }
    }
}

impl std::str::FromStr for Preset {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        match text {
            "cheapest" => Ok(Self::Cheapest),
            "fastest" => Ok(Self::Fastest),
            "trusted" => Ok(Self::Trusted),
            "private" => Ok(Self::Private),
            other => Err(format!("{other} is no preset; choose cheapest, fastest, trusted or private")),
        }
    }
}

/// How the parts of a score count; they sum to 1.
#[derive(Debug, Clone, Copy, PartialEq, Serialize)]
pub struct Weights {
    /// Weight of the price.
    pub price: f64,
    /// Weight of the reputation.
    pub reputation: f64,
    /// Weight of the answer time.
    pub latency: f64,
}

/// What the buyer looks for.
#[derive(Debug, Clone)]
pub struct Search {
    /// The service's id.
    pub service: ServiceId,
    /// Needed attributes.
    pub wanted: Wanted,
    /// The pool that the buyer's money is in.
    pub pool: PoolId,
    /// The pool's slot length.
    pub slot_length: Seconds,
    /// The unit that prices are compared by.
    pub unit: UseUnit,
    /// Units that the buyer needs in each slot.
    pub units_per_slot: u64,
    /// How long a stream shall run.
    pub duration: Seconds,
    /// Highest price of one unit, base units; no limit if absent.
    pub max_unit_price: Option<u128>,
    /// Highest ticket price; no limit if absent.
    pub max_ticket_price: Option<Price>,
    /// Highest rate; no limit if absent.
    pub max_rate: Option<Rate>,
    /// Lowest score; no limit if absent.
    pub min_score: Option<f64>,
    /// Providers that alone are considered; empty for all.
    pub only: Vec<PeerId>,
    /// Providers that aren't considered.
    pub ignore: Vec<PeerId>,
    /// What matters most.
    pub preset: Preset,
}

/// Why a candidate was left out.
#[derive(Debug, Clone, PartialEq, Serialize)]
#[serde(rename_all = "snake_case", tag = "filter")]
#[non_exhaustive]
pub enum Removed {
    /// The offer has ended.
    Expired {
        /// Its end.
        expires_at: UnixTime,
    },
    /// The offer is for another pool.
    OtherPool {
        /// The offer's pool.
        pool: PoolId,
    },
    /// The offer has no such service.
    NoService {
        /// The service looked for.
        service: ServiceId,
    },
    /// The service lacks attributes.
    Attributes {
        /// What was wanted and what is there.
        missing: Vec<String>,
    },
    /// The service isn't sold by this unit.
    NoUnit {
        /// The unit.
        unit: UseUnit,
    },
    /// One unit costs too much.
    UnitPrice {
        /// Its price, base units.
        price: u128,
        /// The limit.
        limit: u128,
    },
    /// One ticket costs too much.
    TicketPrice {
        /// Its price.
        price: Price,
        /// The limit.
        limit: Price,
    },
    /// No class is cheap enough, allows the duration, and pays for the use.
    NoClass {
        /// For each class, what speaks against it.
        classes: Vec<String>,
    },
    /// The provider is suspended.
    Suspended {
        /// Why.
        reason: String,
    },
    /// It failed lately, and there are others.
    Failing {
        /// How.
        reason: String,
    },
    /// The score is too low.
    Score {
        /// The provider's score.
        score: f64,
        /// The limit.
        limit: f64,
    },
    /// The user chose others, or left it out.
    Excluded,
}

impl fmt::Display for Removed {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Expired { expires_at } => write!(f, "expired at {expires_at}"),
            Self::OtherPool { pool } => {
                write!(f, "for pool {} on chain {}", pool.address, pool.chain_id)
            }
            Self::NoService { service } => write!(f, "doesn't sell {service}"),
            Self::Attributes { missing } => write!(f, "lacks {}", missing.join(", ")),
            Self::NoUnit { unit } => write!(f, "isn't sold by {unit:?}"),
            Self::UnitPrice { price, limit } => {
                write!(f, "a unit costs {price}, the limit is {limit}")
            }
            Self::TicketPrice { price, limit } => {
                write!(f, "a ticket costs {price}, the limit is {limit}")
            }
            Self::NoClass { classes } => write!(f, "no class fits: {}", classes.join(", ")),
            Self::Suspended { reason } => write!(f, "suspended: {reason}"),
            Self::Failing { reason } => write!(f, "failed lately, and others are there: {reason}"),
            Self::Score { score, limit } => write!(f, "score {score:.2}, the limit is {limit:.2}"),
            Self::Excluded => f.write_str("excluded by the user"),
        }
    }
}

/// A score and its parts, each 0 to 1.
#[derive(Debug, Clone, Copy, PartialEq, Serialize)]
pub struct Score {
    /// The weighted sum of the parts.
    pub total: f64,
    /// The low price over this one's, at most 1; a quarter of the candidates may be below the low price.
    pub price: f64,
    /// The provider's standing.
    pub reputation: f64,
    /// 1 for an answer within 100 ms, less by half with each doubling; 0.5 when unknown.
    pub latency: f64,
}

/// What came of one candidate.
#[derive(Debug, Clone, PartialEq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Judgement {
    /// A filter took it out.
    Removed(Removed),
    /// It was scored.
    Scored {
        /// The class that it would be used by.
        rate_class: RateClassId,
        /// That class's rate.
        rate: Rate,
        /// Tickets a slot that the use takes.
        tickets_per_slot: u64,
        /// Price of one unit, base units.
        unit_price: u128,
        /// The score.
        score: Score,
        /// Probability to be drawn.
        probability: f64,
    },
}

/// One line of an [`Explanation`].
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Considered {
    /// The provider.
    #[serde(serialize_with = "display")]
    pub provider: PeerId,
    /// Its offer.
    pub offer: OfferId,
    /// Its standing.
    pub standing: Standing,
    /// What came of it.
    pub judgement: Judgement,
}

/// How a choice came about: each candidate, the parts of its score, or the filter that removed it.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Explanation {
    /// What mattered most.
    pub preset: Preset,
    /// How the parts counted.
    pub weights: Weights,
    /// Every candidate, best first, then those removed.
    pub considered: Vec<Considered>,
    /// Who was drawn.
    #[serde(serialize_with = "display_option")]
    pub chosen: Option<PeerId>,
}

fn display<T: fmt::Display, S: serde::Serializer>(value: &T, serializer: S) -> Result<S::Ok, S::Error> {
    serializer.collect_str(value)
}

fn display_option<S: serde::Serializer>(value: &Option<PeerId>, serializer: S) -> Result<S::Ok, S::Error> {
    match value {
        Some(value) => serializer.collect_str(value),
        None => serializer.serialize_none(),
    }
}

impl fmt::Display for Explanation {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Weights { price, reputation, latency } = self.weights;
        writeln!(f, "preset {:?}: score = {price} price + {reputation} reputation + {latency} latency", self.preset)?;
        for line in &self.considered {
            let provider = line.provider.to_string();
            let short = provider.get(provider.len().saturating_sub(8)..).unwrap_or(&provider);
            let mark = if self.chosen == Some(line.provider) { '*' } else { ' ' };
            match &line.judgement {
                Judgement::Removed(removed) => writeln!(f, "{mark} ..{short}  removed: {removed}")?,
                Judgement::Scored { rate_class, unit_price, score, probability, .. } => writeln!(
                    f,
                    "{mark} ..{short}  score {:.3} (price {:.2}, reputation {:.2} from {:.1}, latency {:.2})  unit {unit_price}  class {rate_class}  drawn with {:.0}%",
                    score.total,
                    score.price,
                    score.reputation,
                    line.standing.weight,
                    score.latency,
                    probability * 100.0,
                )?,
            }
            if let Some(outdone) = &line.standing.outdone {
                writeln!(f, "             others are preferred: {outdone}")?;
            }
            if let Some(parts) = &line.standing.parts {
                writeln!(f, "             reputation: {parts}")?;
            }
        }
        match self.chosen {
            Some(chosen) => write!(f, "chosen: {chosen}"),
            None if self.considered.is_empty() => f.write_str("no offers are known"),
            None => f.write_str("nobody passed the filters"),
        }
    }
}

/// What was chosen.
#[derive(Debug, Clone)]
pub struct Choice {
    /// The offer.
    pub offer: Arc<VerifiedOffer>,
    /// The class to ask for.
    pub rate_class: RateClassId,
    /// Tickets a slot that the use takes.
    pub tickets_per_slot: u64,
    /// Price of one unit, base units.
    pub unit_price: u128,
}

/// Share of the draw that newcomers get together, when there are any beside the near-best.
pub const NEWCOMER_SHARE: f64 = 0.02;
/// A newcomer may cost this many times the usual low price and still be tried.
pub const NEWCOMER_MAX_PRICE: f64 = 2.0;
/// Known good is whom the buyer used itself and expects more of than of somebody unknown.
pub const KNOWN_GOOD: f64 = 0.5;
/// Of the known good, who is expected to fail twice as often as another is drawn an eighth as often.
const STEEPNESS: i32 = 3;
/// Who fails less than this share of uses is as good as can be told.
const FINEST: f64 = 0.02;

/// The price that others are compared with: a quarter of the candidates may be cheaper. The cheapest of all would let one dumping provider
/// decide how all others compare. (Where a provider is known to be good and is cheaper than that, its price counts.)
#[must_use]
pub fn low_price(prices: &mut [u128]) -> Option<u128> {
    let rank = prices.len() / 4;
    (rank < prices.len()).then(|| *prices.select_nth_unstable(rank).1)
}

/// What a score is made of.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Parts {
    /// Price of one unit, base units.
    pub unit_price: u128,
    /// The provider's standing, 0 to 1.
    pub reputation: f64,
    /// Typical answer time, ms.
    pub latency_ms: Option<f64>,
    /// Whether it takes sealed requests.
    pub sealed: bool,
}

impl Parts {
    /// The score, where others' prices are compared with `low`.
    #[must_use]
    pub fn score(&self, preset: Preset, low: Option<u128>) -> Score {
        let weights = preset.weights();
        let price = relative_price(low, self.unit_price);
        let reputation = self.reputation.clamp(0.0, 1.0);
        let latency = self.latency_ms.map_or(0.5, latency_score);
        let mut total = weights.price * price + weights.reputation * reputation + weights.latency * latency;
        if preset == Preset::Private && !self.sealed {
            total *= 0.5;
        }
        Score { total, price, reputation, latency }
    }
}

/// One who may be drawn.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Contender {
    /// Its score.
    pub score: Score,
    /// Whether the buyer never used it.
    pub newcomer: bool,
    /// Whether a stranger can be expected to do better.
    pub outdone: bool,
}

impl Contender {
    /// Whether the buyer used it itself and would again.
    #[must_use]
    pub fn is_known_good(&self) -> bool {
        !self.newcomer && !self.outdone && self.score.reputation > KNOWN_GOOD
    }

    /// Whether it may share the trials: nobody knows it, nothing bad is said of it, and it isn't dear.
    #[must_use]
    pub fn may_be_tried(&self) -> bool {
        self.newcomer && !self.outdone && self.score.price >= 1.0 / NEWCOMER_MAX_PRICE
    }

    /// How much likelier it is drawn, of those whom the buyer knows, for being reliable.
    fn reliability(&self) -> f64 {
        (1.0 - self.score.reputation).clamp(FINEST, 1.0).powi(-STEEPNESS)
    }
}

/// The probability of each to be drawn; they sum to 1 unless there is nobody. The near-best in proportion to their scores, and newcomers
/// who aren't among them a fixed share besides, evenly. Once somebody is known to be good, the near-best are sought among the known good,
/// and the more reliable are drawn much oftener. Until then whoever is outdone gives way to those whom nobody knows.
#[must_use]
pub fn probabilities(preset: Preset, contenders: &[Contender]) -> Vec<f64> {
    let known_good = contenders.iter().any(Contender::is_known_good);
    let all_outdone = contenders.iter().all(|entry| entry.outdone);
    let eligible = |entry: &Contender| if known_good { entry.is_known_good() } else { all_outdone || !entry.outdone };
    let Some(best) = contenders.iter().filter(|entry| eligible(entry)).map(|entry| entry.score.total).reduce(f64::max)
    else {
        return Vec::new();
    };
    let margin = preset.margin();
    let near = |entry: &Contender| eligible(entry) && entry.score.total >= best - margin;
    let trial = |entry: &Contender| !near(entry) && entry.may_be_tried();
    let trials = contenders.iter().filter(|entry| trial(entry)).count();
    let near_share = if trials > 0 { 1.0 - NEWCOMER_SHARE } else { 1.0 };
    let weight = |entry: &Contender| match preset {
        Preset::Private => 1.0,
        _ if known_good => entry.score.total.max(f64::MIN_POSITIVE) * entry.reliability(),
        _ => entry.score.total.max(f64::MIN_POSITIVE),
    };
    let sum: f64 = contenders.iter().filter(|entry| near(entry)).map(weight).sum();
    contenders
        .iter()
        .map(|entry| {
            if near(entry) {
                near_share * weight(entry) / sum
            } else if trial(entry) {
                #[allow(clippy::cast_precision_loss)] // A book holds some thousand offers.
                let trials = trials as f64;
                NEWCOMER_SHARE / trials
            } else {
                0.0
            }
        })
        .collect()
}

/// Who is drawn, by place, where `point` is even in 0 to 1.
#[must_use]
pub fn draw(probabilities: &[f64], mut point: f64) -> Option<usize> {
    let mut last = None;
    for (place, &probability) in probabilities.iter().enumerate().filter(|(_, probability)| **probability > 0.0) {
        if point < probability {
            return Some(place);
        }
        point -= probability;
        // Rounding may leave a trace of the unit interval.
        last = Some(place);
    }
    last
}

/// Who failed this buyer oftener than not isn't cheap at any price.
fn mostly_failed(standing: &Standing) -> bool {
    !standing.is_newcomer() && standing.score <= KNOWN_GOOD
}

struct Scored {
    candidate: usize,
    rate_class: RateClassId,
    rate: Rate,
    tickets_per_slot: u64,
    unit_price: u128,
    score: Score,
    probability: f64,
}

/// Chooses among candidates. The same candidates, search and generator state give the same choice.
pub fn choose<R: Rng>(
    candidates: &[Candidate],
    search: &Search,
    now: UnixTime,
    rng: &mut R,
) -> (Option<Choice>, Explanation) {
    let mut removed = Vec::new();
    let mut scored = Vec::new();
    for (index, candidate) in candidates.iter().enumerate() {
        match filter(candidate, search, now) {
            Ok(fit) => scored.push(Scored {
                candidate: index,
                rate_class: fit.rate_class,
                rate: fit.rate,
                tickets_per_slot: fit.tickets_per_slot,
                unit_price: fit.unit_price,
                score: Score { total: 0.0, price: 0.0, reputation: 0.0, latency: 0.0 },
                probability: 0.0,
            }),
            Err(reason) => removed.push((index, reason)),
        }
    }
    // Who failed lately is left to those who have nobody else.
    let failing = |entry: &Scored| candidates[entry.candidate].standing.failing.clone();
    if scored.iter().any(|entry| failing(entry).is_none()) {
        scored.retain(|entry| match failing(entry) {
            Some(reason) => {
                removed.push((entry.candidate, Removed::Failing { reason }));
                false
            }
            None => true,
        });
    }
    score(candidates, search, &mut scored);
    // Ties are broken by the provider's id, so that the order of candidates decides nothing.
    scored.sort_by(|a, b| {
        b.score
            .total
            .total_cmp(&a.score.total)
            .then_with(|| provider_of(candidates, a).cmp(&provider_of(candidates, b)))
    });
    let contenders: Vec<_> = scored
        .iter()
        .map(|entry| {
            let standing = &candidates[entry.candidate].standing;
            Contender {
                score: entry.score,
                newcomer: standing.is_newcomer(),
                outdone: standing.outdone.is_some() && (search.preset != Preset::Cheapest || mostly_failed(standing)),
            }
        })
        .collect();
    let shares = probabilities(search.preset, &contenders);
    for (entry, probability) in scored.iter_mut().zip(&shares) {
        entry.probability = *probability;
    }
    let chosen = draw(&shares, rng.r#gen()).map(|place| &scored[place]);

    let line = |index: usize, judgement| Considered {
        provider: candidates[index].offer.peer_id(),
        offer: candidates[index].offer.id(),
        standing: candidates[index].standing.clone(),
        judgement,
    };
    removed.sort_by_key(|(index, _)| candidates[*index].offer.peer_id());
    let considered = scored
        .iter()
        .map(|entry| {
            line(
                entry.candidate,
                Judgement::Scored {
                    rate_class: entry.rate_class,
                    rate: entry.rate,
                    tickets_per_slot: entry.tickets_per_slot,
                    unit_price: entry.unit_price,
                    score: entry.score,
                    probability: entry.probability,
                },
            )
        })
        .chain(removed.into_iter().map(|(index, reason)| line(index, Judgement::Removed(reason))))
        .collect();
    let choice = chosen.map(|entry| Choice {
        offer: Arc::clone(&candidates[entry.candidate].offer),
        rate_class: entry.rate_class,
        tickets_per_slot: entry.tickets_per_slot,
        unit_price: entry.unit_price,
    });
    let explanation = Explanation {
        preset: search.preset,
        weights: search.preset.weights(),
        considered,
        chosen: choice.as_ref().map(|choice| choice.offer.peer_id()),
    };
    (choice, explanation)
}

fn provider_of(candidates: &[Candidate], scored: &Scored) -> PeerId {
    candidates[scored.candidate].offer.peer_id()
}

struct Fit {
    rate_class: RateClassId,
    rate: Rate,
    tickets_per_slot: u64,
    unit_price: u128,
}

fn filter(candidate: &Candidate, search: &Search, now: UnixTime) -> Result<Fit, Removed> {
    let offer = &candidate.offer;
    let provider = offer.peer_id();
    if search.ignore.contains(&provider) || !(search.only.is_empty() || search.only.contains(&provider)) {
        return Err(Removed::Excluded);
    }
    if let Some(reason) = &candidate.standing.suspended {
        return Err(Removed::Suspended { reason: reason.clone() });
    }
    if offer.is_expired(now) {
        return Err(Removed::Expired { expires_at: offer.expires_at });
    }
    if offer.pool != search.pool {
        return Err(Removed::OtherPool { pool: offer.pool });
    }
    let Some(service) = offer.service(&search.service) else {
        return Err(Removed::NoService { service: search.service.clone() });
    };
    let missing = missing_attributes(&search.wanted, &service.attributes);
    if !missing.is_empty() {
        return Err(Removed::Attributes { missing: missing.iter().map(ToString::to_string).collect() });
    }
    let Some(price) = service.price_of(search.unit) else {
        return Err(Removed::NoUnit { unit: search.unit });
    };
    if let Some(limit) = search.max_ticket_price
        && offer.ticket_price > limit
    {
        return Err(Removed::TicketPrice { price: offer.ticket_price, limit });
    }
    // Prices have 96 bits and ticket counts 20: the product fits.
    let unit_price = (offer.ticket_price.get() * u128::from(price.tickets)).div_ceil(u128::from(price.quantity.max(1)));
    if let Some(limit) = search.max_unit_price
        && unit_price > limit
    {
        return Err(Removed::UnitPrice { price: unit_price, limit });
    }
    if let Some(limit) = search.min_score
        && !candidate.standing.is_newcomer()
        && candidate.standing.score < limit
    {
        return Err(Removed::Score { score: candidate.standing.score, limit });
    }
    let tickets_per_slot = price.tickets_for(search.units_per_slot).unwrap_or(u64::MAX).max(1);
    let mut against = Vec::new();
    let mut best: Option<(Rate, RateClassId)> = None;
    for class in &offer.rate_classes {
        let payable = class.tickets_per_slot(offer.ticket_price, search.slot_length);
        if search.max_rate.is_some_and(|limit| class.rate > limit) {
            against.push(format!("class {} costs {} a second", class.id, class.rate));
        } else if !class.allows(search.duration) {
            against.push(format!("class {} isn't for {} s", class.id, search.duration));
        } else if payable < tickets_per_slot {
            against.push(format!("class {} pays {payable} of {tickets_per_slot} tickets a slot", class.id));
        } else if best.is_none_or(|(rate, _)| class.rate < rate) {
            best = Some((class.rate, class.id));
        }
    }
    match best {
        Some((rate, rate_class)) => Ok(Fit { rate_class, rate, tickets_per_slot, unit_price }),
        None => Err(Removed::NoClass { classes: against }),
    }
}

fn score(candidates: &[Candidate], search: &Search, scored: &mut [Scored]) {
    let mut prices: Vec<_> = scored.iter().map(|entry| entry.unit_price).collect();
    // Many strangers at a high price must not make each other look cheap beside whom the buyer knows.
    let known_good = scored.iter().filter(|entry| {
        let standing = &candidates[entry.candidate].standing;
        !standing.is_newcomer() && standing.score > KNOWN_GOOD
    });
    let known = known_good.map(|entry| entry.unit_price).min();
    let low = low_price(&mut prices).map(|low| known.map_or(low, |known| low.min(known)));
    for entry in scored {
        let candidate = &candidates[entry.candidate];
        let parts = Parts {
            unit_price: entry.unit_price,
            reputation: candidate.standing.score,
            latency_ms: candidate.standing.latency_ms,
            sealed: candidate.offer.encryption_key.is_some(),
        };
        entry.score = parts.score(search.preset, low);
    }
}

#[allow(clippy::cast_precision_loss)] // A ratio of two prices needs no 53 bits.
fn relative_price(low: Option<u128>, price: u128) -> f64 {
    match low {
        Some(low) if price > 0 => (low as f64 / price as f64).min(1.0),
        _ => 1.0,
    }
}

fn latency_score(milliseconds: f64) -> f64 {
    const GOOD_MS: f64 = 100.0;
    (GOOD_MS / milliseconds.max(GOOD_MS)).clamp(0.0, 1.0)
}
