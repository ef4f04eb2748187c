//! What strangers' ratings say of a provider, and how that is put together with the buyer's own experience.
//!
//! Everything here is pure: whoever calls has verified the ratings. A rating stands for money that was really streamed to the
//! provider. It counts by that money, in proportion up to [`NetworkConfig::cap`] and not at all below [`NetworkConfig::floor`]: a
//! weight that grows more slowly than the money would reward splitting it. Money that a provider streams to itself comes back but for
//! the burn and the fees, so no sum of ratings is proof. Therefore ratings are worth at most [`MAX_COUNTS`] uses of one's own, less
//! where they disagreed with what the buyer saw itself, and they never make a stranger one of those whom the buyer knows.

use std::fmt;

use serde::{Deserialize, Serialize};
use tributary_protocol::amount::Amount;
use tributary_protocol::time::{Seconds, UnixTime};

use crate::assess::{AssessError, Subject};
use crate::beta::{Decay, Experience, Newcomers, PRIOR};

/// What ratings are worth together, in uses of one's own, when much money stands behind them and they agree with one's own view.
pub const MAX_COUNTS: f64 = 2.0;
/// Comparisons that agree, which are assumed before there are any.
const AGREEMENT_PRIOR: f64 = 2.0;
/// How much of the long view stands beside the ratings of the last days.
const RECENT_PRIOR: f64 = 4.0;
/// Whoever is rated worse than the usual provider by more than this share of uses is avoided.
const CLEARLY_WORSE: f64 = 0.03;
/// Full ratings of the usual provider that are assumed of each before it is found to be clearly worse. One that is all bad outweighs these,
/// until there are some twenty others.
const DOUBT: f64 = 10.0;
/// A buyer leaves a provider over the ratings of others only when this much of a failure of its own confirms them.
const A_FAILURE_REMEMBERED: f64 = 0.1;
/// A provider says what is usual when it has this certainty at least.
const SPEAKS_OF_THE_USUAL: f64 = 0.8;

/// A score that was given, 0 to 1.
#[derive(Debug, Clone, Copy, PartialEq, PartialOrd, Serialize, Deserialize)]
#[serde(try_from = "f64", into = "f64")]
pub struct RatingValue(f64);

impl RatingValue {
    /// Checks the range.
    ///
    /// # Errors
    /// [`AssessError::Range`] outside 0 to 1.
    pub fn new(value: f64) -> Result<Self, AssessError> {
        if (0.0..=1.0).contains(&value) {
            Ok(Self(value))
        } else {
            Err(AssessError::Range { what: "a rating", value, min: 0.0, max: 1.0 })
        }
    }

    /// The number.
    #[must_use]
    pub const fn get(self) -> f64 {
        self.0
    }
}

impl TryFrom<f64> for RatingValue {
    type Error = AssessError;

    fn try_from(value: f64) -> Result<Self, AssessError> {
        Self::new(value)
    }
}

impl From<RatingValue> for f64 {
    fn from(value: RatingValue) -> Self {
        value.0
    }
}

/// A verified rating: somebody paid this provider at least so much, and says this of it.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct NetworkRating {
    /// Whose performance at what.
    pub subject: Subject,
    /// What it was worth.
    pub value: RatingValue,
    /// The tier: what the proof shows was streamed at least, base units.
    pub paid: Amount,
    /// End of the slot that the proof is for.
    pub at: UnixTime,
}

/// How ratings count.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct NetworkConfig {
    /// Paid less than this, a rating counts nothing.
    pub floor: Amount,
    /// Paid this or more, it counts as one full rating.
    pub cap: Amount,
    /// How fast ratings fade.
    pub decay: Decay,
    /// How fast the view of the last days fades; it can lower a score, never raise it.
    pub recent: Decay,
    /// Full ratings that weigh as much as knowing nothing.
    pub prior: f64,
}

impl NetworkConfig {
    /// The usual way of counting for a pool whose usual stream is worth `usual`: floor a tenth of that, cap the whole.
    #[must_use]
    pub fn for_stream(usual: Amount) -> Self {
        const TWO_DAYS: u64 = 2 * 86_400;
        let floor = Amount::new(usual.get() / 10).unwrap_or(Amount::ZERO);
        Self {
            floor,
            cap: usual,
            decay: Decay::default(),
            recent: Decay { half_life: Seconds::new(TWO_DAYS).unwrap_or(Seconds::DAY) },
            prior: 4.0,
        }
    }

    /// What a rating counts, 0 to 1 full ratings: in proportion to what was paid up to the cap, nothing below the floor.
    #[must_use]
    #[allow(clippy::cast_precision_loss)] // A ratio of amounts needs no 53 bits.
    pub fn weight(&self, paid: Amount) -> f64 {
        if paid < self.floor || self.cap.is_zero() {
            return 0.0;
        }
        paid.get().min(self.cap.get()) as f64 / self.cap.get() as f64
    }
}

/// The ratings of one subject, folded, as of `updated_at`. Folding all of them in any order gives the same.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
pub struct NetworkExperience {
    /// Good full ratings, faded.
    pub good: f64,
    /// Bad full ratings, faded.
    pub bad: f64,
    /// Good full ratings of the last days.
    pub recent_good: f64,
    /// Bad full ratings of the last days.
    pub recent_bad: f64,
    /// Sum of ages times weights, full ratings times seconds, faded as the weights are.
    pub age_sum: f64,
    /// Money behind the ratings that count, base units, not faded.
    pub paid: f64,
    /// Ratings that count, not faded.
    pub ratings: u64,
    /// The time that the counts are faded to.
    pub updated_at: UnixTime,
}

impl NetworkExperience {
    /// No ratings.
    #[must_use]
    pub const fn none(now: UnixTime) -> Self {
        Self {
            good: 0.0,
            bad: 0.0,
            recent_good: 0.0,
            recent_bad: 0.0,
            age_sum: 0.0,
            paid: 0.0,
            ratings: 0,
            updated_at: now,
        }
    }

    /// The same as of `now`; a clock that is set back makes nothing younger.
    #[must_use]
    #[allow(clippy::cast_precision_loss)] // Seconds have 40 bits.
    pub fn at(&self, now: UnixTime, config: &NetworkConfig) -> Self {
        let elapsed = now.since(self.updated_at);
        let (slow, quick) = (config.decay.factor(elapsed), config.recent.factor(elapsed));
        Self {
            good: self.good * slow,
            bad: self.bad * slow,
            recent_good: self.recent_good * quick,
            recent_bad: self.recent_bad * quick,
            age_sum: (self.age_sum + (self.good + self.bad) * elapsed.get() as f64) * slow,
            paid: self.paid,
            ratings: self.ratings,
            updated_at: self.updated_at.max(now),
        }
    }

    /// Adds a rating.
    #[must_use]
    pub fn with(&self, value: RatingValue, paid: Amount, at: UnixTime, config: &NetworkConfig) -> Self {
        self.with_equal(1, value, paid, at, config)
    }

    /// Adds ratings that differ in nothing.
    #[must_use]
    #[allow(clippy::cast_precision_loss)] // Sums of money are shown rounded; seconds have 40 bits.
    pub fn with_equal(
        &self,
        count: u32,
        value: RatingValue,
        paid: Amount,
        at: UnixTime,
        config: &NetworkConfig,
    ) -> Self {
        let mut sum = self.at(at, config);
        let full = config.weight(paid) * f64::from(count);
        if full <= 0.0 {
            return sum;
        }
        let late = sum.updated_at.since(at);
        let (slow, quick) = (full * config.decay.factor(late), full * config.recent.factor(late));
        let good = value.get();
        sum.good += slow * good;
        sum.bad += slow * (1.0 - good);
        sum.recent_good += quick * good;
        sum.recent_bad += quick * (1.0 - good);
        sum.age_sum += slow * late.get() as f64;
        sum.paid += paid.get() as f64 * f64::from(count);
        sum.ratings += u64::from(count);
        sum
    }

    /// The score as of `now`, with its parts.
    #[must_use]
    pub fn score(&self, now: UnixTime, agreement: Agreement, config: &NetworkConfig) -> NetworkScore {
        let current = self.at(now, config);
        let weight = current.good + current.bad;
        let long = (config.prior * 0.5 + current.good) / (config.prior + weight);
        let recent_weight = current.recent_good + current.recent_bad;
        let recent = (RECENT_PRIOR * long + current.recent_good) / (RECENT_PRIOR + recent_weight);
        NetworkScore {
            value: long.min(recent),
            long,
            recent,
            good: current.good,
            recent_good: current.recent_good,
            recent_weight,
            ratings: current.ratings,
            paid: current.paid,
            weight,
            prior: config.prior,
            age: (weight > 0.0).then(|| current.age_sum / weight),
            agreement,
        }
    }
}

/// How well ratings agreed with what the buyer saw itself, over all providers that both know.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
pub struct Agreement {
    /// 1 when they always agreed, or nothing could be compared; 0 when they were always wrong.
    pub value: f64,
    /// Comparisons, faded.
    pub compared: f64,
}

impl Default for Agreement {
    fn default() -> Self {
        Self { value: 1.0, compared: 0.0 }
    }
}

impl Agreement {
    /// Compares own experience with ratings, provider by provider. One that either doesn't know says nothing. A provider counts at most
    /// once, however much is known of it, and a difference of a half is as wrong as can be.
    #[must_use]
    pub fn between<'a>(pairs: impl IntoIterator<Item = (&'a Experience, &'a NetworkScore)>) -> Self {
        let (mut agreed, mut compared) = (0.0, 0.0);
        for (own, network) in pairs {
            let weight = own.weight().min(1.0) * network.certainty();
            let difference = (own.value() - network.value).abs();
            agreed += weight * (1.0 - 2.0 * difference).max(0.0);
            compared += weight;
        }
        Self { value: (AGREEMENT_PRIOR + agreed) / (AGREEMENT_PRIOR + compared), compared }
    }
}

/// What ratings say of a provider's service, with the parts.
#[derive(Debug, Clone, Copy, PartialEq, Serialize)]
pub struct NetworkScore {
    /// Expected quality, 0 to 1: the lower of the long and the recent view; near 0.5 when there are few ratings.
    pub value: f64,
    /// The view over weeks.
    pub long: f64,
    /// The view over days, leaning on the long one.
    pub recent: f64,
    /// Good full ratings, faded.
    pub good: f64,
    /// Good full ratings of the last days.
    pub recent_good: f64,
    /// Full ratings of the last days.
    pub recent_weight: f64,
    /// Ratings that count.
    pub ratings: u64,
    /// Money behind them, base units.
    pub paid: f64,
    /// Full ratings, faded.
    pub weight: f64,
    /// Full ratings that the prior weighs.
    pub prior: f64,
    /// Mean age of what counts, seconds; absent without ratings.
    pub age: Option<f64>,
    /// Agreement of ratings with the buyer's own view.
    pub agreement: Agreement,
}

impl fmt::Display for Outdone {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::ByNewcomers => "it failed more often than a new provider is expected to",
            Self::ByTheUsual => "ratings say that it is clearly worse than the usual provider",
        })
    }
}

impl NetworkScore {
    /// How much is known, 0 (nothing) to below 1.
    #[must_use]
    pub fn certainty(&self) -> f64 {
        self.weight / (self.prior + self.weight)
    }

    /// Share of good ratings, over weeks or over the last days, whichever is lower, where `doubt` ratings worth `usual` come first.
    fn share(&self, doubt: f64, usual: f64) -> f64 {
        let long = (doubt * usual + self.good) / (doubt + self.weight);
        let recent_doubt = RECENT_PRIOR + doubt;
        long.min((recent_doubt * long + self.recent_good) / (recent_doubt + self.recent_weight))
    }

    /// What the ratings are worth, in uses of one's own: at most [`MAX_COUNTS`].
    #[must_use]
    pub fn counts(&self) -> f64 {
        MAX_COUNTS * self.certainty() * self.agreement.value
    }
}

/// What ratings say of a service's providers as a whole, by those of whom they say enough: what three in four reach.
///
/// Praise of some doesn't move it, and whoever is run down, no more than a quarter is ever clearly worse than usual.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
pub struct Usual {
    /// Share of good ratings, over weeks or over the last days, whichever is lower; 0 to 1.
    pub share: f64,
}

impl Usual {
    /// What is usual; `None` when there are too few ratings of anybody.
    #[must_use]
    pub fn of<'a>(scores: impl IntoIterator<Item = &'a NetworkScore>) -> Option<Self> {
        let known = scores.into_iter().filter(|score| score.certainty() >= SPEAKS_OF_THE_USUAL);
        let mut shares: Vec<f64> = known.map(|score| score.share(0.0, 0.0)).collect();
        let rank = shares.len() / 4;
        (rank < shares.len()).then(|| Self { share: *shares.select_nth_unstable_by(rank, f64::total_cmp).1 })
    }

    /// Whether ratings say that a provider is clearly worse than this, by as much as the user listens to them.
    #[must_use]
    pub fn is_clearly_better_than(&self, score: &NetworkScore, weights: &ReputationWeights) -> bool {
        weights.network * (self.share - score.share(DOUBT, self.share)) > CLEARLY_WORSE
    }
}

/// How the user weighs the parts.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
pub struct ReputationWeights {
    /// How much ratings count, 0 (not at all) to 1 (as designed).
    pub network: f64,
}

impl Default for ReputationWeights {
    fn default() -> Self {
        Self { network: 1.0 }
    }
}

impl ReputationWeights {
    /// Checks the range.
    ///
    /// # Errors
    /// [`AssessError::Range`] outside 0 to 1.
    pub fn check(&self) -> Result<(), AssessError> {
        if (0.0..=1.0).contains(&self.network) {
            Ok(())
        } else {
            Err(AssessError::Range { what: "the weight of ratings", value: self.network, min: 0.0, max: 1.0 })
        }
    }
}

/// Own experience and ratings put together: what the choice goes by. The choice tells those that the buyer knows from strangers by the
/// weight of its own experience alone.
#[derive(Debug, Clone, Copy, PartialEq, Serialize)]
pub struct Combined {
    /// Expected quality, 0 to 1.
    pub value: f64,
    /// What own experience alone says.
    pub own: f64,
    /// How much own experience there is; 0 for a stranger, whatever others say of it.
    pub own_weight: f64,
    /// What the ratings were worth beside it, in uses of one's own.
    pub network_weight: f64,
    /// Why others are to be preferred, if so.
    pub outdone: Option<Outdone>,
}

/// Why others are to be preferred to a provider, whatever its score.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Outdone {
    /// It failed the buyer more often than is expected of newcomers.
    ByNewcomers,
    /// Ratings say that it is clearly worse than the usual provider, and it failed the buyer too or the buyer never used it.
    ByTheUsual,
}

/// What providers are measured by.
#[derive(Debug, Clone, Copy, PartialEq, Default)]
pub struct Measure {
    /// What the buyer's own experience says of newcomers.
    pub newcomers: Newcomers,
    /// What ratings say of the usual provider.
    pub usual: Option<Usual>,
}

/// Puts own experience and ratings together: ratings come in as up to [`MAX_COUNTS`] uses of one's own, and say besides whom to avoid.
#[must_use]
pub fn combine(
    own: &Experience,
    network: Option<&NetworkScore>,
    weights: &ReputationWeights,
    measure: &Measure,
) -> Combined {
    let counts = network.map_or(0.0, NetworkScore::counts) * weights.network.clamp(0.0, 1.0);
    let value = network.map_or(0.5, |score| score.value);
    let long = (PRIOR + own.good + counts * value) / (2.0 * PRIOR + own.weight() + counts);
    // Slander costs money, but not enough to drive a buyer from a provider that never failed it.
    let listens = own.weight() <= 0.0 || own.failed > A_FAILURE_REMEMBERED;
    let outdone = if measure.newcomers.outdo(own) {
        Some(Outdone::ByNewcomers)
    } else if listens
        && let Some((usual, score)) = measure.usual.zip(network)
        && usual.is_clearly_better_than(score, weights)
    {
        Some(Outdone::ByTheUsual)
    } else {
        None
    };
    Combined { value: own.lowered(long), own: own.value(), own_weight: own.weight(), network_weight: counts, outdone }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn time(seconds: u64) -> UnixTime {
        UnixTime::new(seconds).unwrap()
    }

    fn amount(units: u128) -> Amount {
        Amount::new(units).unwrap()
    }

    fn value(value: f64) -> RatingValue {
        RatingValue::new(value).unwrap()
    }

    fn config() -> NetworkConfig {
        NetworkConfig::for_stream(amount(1000))
    }

    fn rated(ratings: &[(f64, u128, u64)]) -> NetworkExperience {
        ratings.iter().fold(NetworkExperience::none(time(0)), |sum, &(score, paid, at)| {
            sum.with(value(score), amount(paid), time(at), &config())
        })
    }

    fn scored(ratings: &[(f64, u128, u64)], now: u64) -> NetworkScore {
        rated(ratings).score(time(now), Agreement::default(), &config())
    }

    #[test]
    fn splitting_money_over_ratings_gains_nothing() {
        let config = config();
        assert!((config.weight(amount(1000)) - 1.0).abs() < 1e-12);
        assert!((config.weight(amount(5000)) - 1.0).abs() < 1e-12);
        assert!(config.weight(amount(99)).abs() < 1e-12);
        for parts in [2, 4, 10, 11, 1000] {
            let split = f64::from(parts) * config.weight(amount(1000 / u128::try_from(parts).unwrap()));
            assert!(split <= 1.0 + 1e-12, "{parts} parts count {split}");
        }
    }

    #[test]
    fn few_ratings_stay_near_the_prior_and_tell_their_number_and_money() {
        let none = scored(&[], 0);
        assert!((none.value - 0.5).abs() < 1e-12);
        assert_eq!((none.ratings, none.age), (0, None));
        let one = scored(&[(1.0, 1000, 0)], 0);
        assert!((one.value - 0.6).abs() < 1e-12, "{}", one.value);
        let many = scored(&[(1.0, 2000, 0); 100], 100);
        assert!(many.value > 0.97);
        assert_eq!(many.ratings, 100);
        assert!((many.paid - 200_000.0).abs() < 1e-6);
        assert!((many.age.unwrap() - 100.0).abs() < 1e-6);
    }

    #[test]
    fn the_order_of_arrival_does_not_matter() {
        let ratings = [(1.0, 1000, 100), (0.0, 700, 90_000), (0.5, 300, 400_000)];
        let mut reversed = ratings;
        reversed.reverse();
        let (forward, backward) = (scored(&ratings, 500_000), scored(&reversed, 500_000));
        assert!((forward.value - backward.value).abs() < 1e-9);
        assert!((forward.age.unwrap() - backward.age.unwrap()).abs() < 1e-3);
    }

    #[test]
    fn the_last_days_lower_a_score_and_never_raise_it() {
        const DAY: u64 = 86_400;
        let mut turned: Vec<_> = (0..30).flat_map(|day| [(1.0, 1000, day * DAY); 3]).collect();
        let before = scored(&turned, 30 * DAY).value;
        turned.extend([(0.0, 1000, 30 * DAY); 6]);
        let after = scored(&turned, 30 * DAY);
        assert!(before > 0.95);
        assert!(after.long > 0.8 && after.value < 0.65, "{after:?}");

        let mut mended: Vec<_> = (0..30).flat_map(|day| [(0.0, 1000, day * DAY); 3]).collect();
        mended.extend([(1.0, 1000, 30 * DAY); 6]);
        let mended = scored(&mended, 30 * DAY);
        assert!((mended.value - mended.long).abs() < 1e-12 && mended.value < 0.2, "{mended:?}");
    }

    #[test]
    fn ratings_are_worth_two_uses_at_most_and_less_when_they_were_wrong() {
        let praised = scored(&[(1.0, 1000, 0); 1000], 0);
        assert!(praised.counts() < MAX_COUNTS);
        let none = Experience::none(time(0));
        let weights = ReputationWeights::default();
        let stranger = combine(&none, Some(&praised), &weights, &Measure::default());
        assert!(stranger.value > 0.7 && stranger.value < 0.76, "{stranger:?}");
        assert!(stranger.own_weight.abs() < 1e-12);

        let cheated = none.with(0.0, 1.0, None, time(0), &Decay::default());
        let disagreed = Agreement::between([(&cheated, &praised); 4]);
        assert!(disagreed.value < 0.4, "{disagreed:?}");
        let doubted = NetworkScore { agreement: disagreed, ..praised };
        assert!(combine(&none, Some(&doubted), &weights, &Measure::default()).value < 0.65);
        let deaf = ReputationWeights { network: 0.0 };
        assert!((combine(&none, Some(&praised), &deaf, &Measure::default()).value - 0.5).abs() < 1e-12);
        // Praise bought after it has cheated doesn't bring it back above those whom nobody knows.
        assert!(combine(&cheated, Some(&praised), &weights, &Measure::default()).value < 0.5);
    }

    #[test]
    fn a_newcomer_beats_whom_the_network_knows_as_bad() {
        let bad = scored(&[(0.1, 1000, 0); 20], 0);
        let none = Experience::none(time(0));
        let weights = ReputationWeights::default();
        assert!(
            combine(&none, Some(&bad), &weights, &Measure::default()).value
                < combine(&none, None, &weights, &Measure::default()).value
        );
    }

    #[test]
    fn whom_ratings_say_to_be_clearly_worse_is_avoided_by_strangers_and_by_whom_it_failed() {
        let good = scored(&[(0.97, 1000, 0); 100], 0);
        let worse = scored(&[(0.89, 1000, 0); 100], 0);
        let little = scored(&[(0.85, 1000, 0); 1], 0);
        let measure = Measure { usual: Usual::of([&good, &good, &good, &worse, &little]), ..Measure::default() };
        let weights = ReputationWeights::default();
        let none = Experience::none(time(0));
        let outdone = |own: &Experience, network| combine(own, Some(network), &weights, &measure).outdone;
        assert_eq!(outdone(&none, &worse), Some(Outdone::ByTheUsual));
        assert_eq!(outdone(&none, &good), None);
        assert_eq!(outdone(&none, &little), None, "one rating that is somewhat worse says nothing");
        let deaf = ReputationWeights { network: 0.0 };
        assert_eq!(combine(&none, Some(&worse), &deaf, &measure).outdone, None);

        let add = |sum: Experience, score| sum.with(score, 1.0, None, time(0), &Decay::default());
        let served = (0..30).fold(none, |sum, _| add(sum, 1.0));
        assert_eq!(outdone(&served, &worse), None, "slander drives nobody from whom it never failed");
        let failed = add(served, 0.0);
        assert_eq!(outdone(&failed, &worse), Some(Outdone::ByTheUsual));
        assert_eq!(outdone(&failed, &good), None);
    }

    #[test]
    fn praise_moves_nothing_usual_and_slander_makes_no_more_than_a_quarter_worse() {
        let honest = scored(&[(0.97, 1000, 0); 100], 0);
        let praised = scored(&[(1.0, 1000, 0); 10_000], 0);
        let slandered = scored(&[(0.97, 1000, 0), (0.0, 1000, 0)].repeat(50), 0);
        let weights = ReputationWeights::default();
        let worse = |scores: &[&NetworkScore]| {
            let usual = Usual::of(scores.iter().copied()).unwrap();
            scores.iter().filter(|score| usual.is_clearly_better_than(score, &weights)).count()
        };
        assert_eq!(worse(&[&honest, &honest, &praised, &praised]), 0);
        assert_eq!(worse(&[&honest, &honest, &praised, &slandered]), 1);
        assert_eq!(worse(&[&honest, &slandered, &praised, &slandered]), 0);
        assert_eq!(Usual::of([&scored(&[], 0)]), None);
    }

    #[test]
    fn numbers_out_of_range_are_refused() {
        for wrong in [-0.1, 1.1, f64::NAN] {
            assert!(matches!(RatingValue::new(wrong), Err(AssessError::Range { what: "a rating", .. })), "{wrong}");
            let weights = ReputationWeights { network: wrong };
            assert!(matches!(weights.check(), Err(AssessError::Range { what: "the weight of ratings", .. })));
        }
    }
}
