//! Beta scores with exponential decay.
//!
//! Good and bad experience are pseudo-counts of a Beta distribution; what is known of nobody in particular is one of each. Both halve
//! with every half-life, so old experience fades and a score moves back towards the middle when nothing new comes.
//!
//! A provider that served well for a month and then turns would live on that month for many uses more. So the last uses are counted a
//! second time, each new one halving those before it; they can lower a score, and never raise it. After one failure a good provider still
//! comes before those whom nobody knows, after two it doesn't.
//!
//! A provider that fails one use in ten has a good score for ever, and whoever stays with the first good one stays with it. So a buyer
//! also knows what providers are worth that it goes to for the first time ([`Newcomers`]), and whoever serves less than that is outdone.

use serde::{Deserialize, Serialize};
use tributary_protocol::time::{Seconds, UnixTime};

/// Pseudo-counts of the prior: one good, one bad.
pub const PRIOR: f64 = 1.0;

/// How fast experience fades.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct Decay {
    /// Time after which experience counts half; at least a second.
    pub half_life: Seconds,
}

impl Default for Decay {
    fn default() -> Self {
        const TWO_WEEKS: u64 = 14 * 86_400;
        Self { half_life: Seconds::new(TWO_WEEKS).unwrap_or(Seconds::MAX) }
    }
}

impl Decay {
    /// What is left of 1 after `elapsed`.
    #[must_use]
    #[allow(clippy::cast_precision_loss)] // Seconds have 40 bits.
    pub fn factor(&self, elapsed: Seconds) -> f64 {
        let half_life = self.half_life.get().max(1) as f64;
        (-(elapsed.get() as f64) / half_life).exp2()
    }
}

/// What is known of a subject, as of `updated_at`.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
pub struct Experience {
    /// Good experience.
    pub good: f64,
    /// Bad experience.
    pub bad: f64,
    /// Weighted sum of answer times, ms.
    pub latency_sum: f64,
    /// Weight of that sum.
    pub latency_weight: f64,
    /// Good experience of the last uses.
    #[serde(default)]
    pub recent_good: f64,
    /// Bad experience of the last uses.
    #[serde(default)]
    pub recent_bad: f64,
    /// Assessments ever counted.
    pub assessments: u64,
    /// The time that the counts are decayed to.
    pub updated_at: UnixTime,
}

impl Experience {
    /// No experience.
    #[must_use]
    pub const fn none(now: UnixTime) -> Self {
        Self {
            good: 0.0,
            bad: 0.0,
            latency_sum: 0.0,
            latency_weight: 0.0,
            recent_good: 0.0,
            recent_bad: 0.0,
            assessments: 0,
            updated_at: now,
        }
    }

    /// The same as of `now`. Before `updated_at` nothing changes: a clock that is set back makes nothing younger.
    #[must_use]
    pub fn at(&self, now: UnixTime, decay: &Decay) -> Self {
        let factor = decay.factor(now.since(self.updated_at));
        Self {
            good: self.good * factor,
            bad: self.bad * factor,
            latency_sum: self.latency_sum * factor,
            latency_weight: self.latency_weight * factor,
            recent_good: self.recent_good * factor,
            recent_bad: self.recent_bad * factor,
            assessments: self.assessments,
            updated_at: self.updated_at.max(now),
        }
    }

    /// Adds an experience made at `at`. For the long view the order in which experiences are added doesn't matter: a late one comes in
    /// already faded.
    #[must_use]
    pub fn with(&self, score: f64, weight: f64, latency_ms: Option<f64>, at: UnixTime, decay: &Decay) -> Self {
        let mut sum = self.at(at, decay);
        let weight = weight * decay.factor(sum.updated_at.since(at));
        sum.good += weight * score;
        sum.bad += weight * (1.0 - score);
        let fading = (-weight).exp2();
        sum.recent_good = sum.recent_good * fading + weight * score;
        sum.recent_bad = sum.recent_bad * fading + weight * (1.0 - score);
        if let Some(latency) = latency_ms {
            sum.latency_sum += weight * latency;
            sum.latency_weight += weight;
        }
        sum.assessments += 1;
        sum
    }

    /// Expected quality: the mean of the Beta distribution, 0 to 1.
    #[must_use]
    pub fn mean(&self) -> f64 {
        (PRIOR + self.good) / (2.0 * PRIOR + self.good + self.bad)
    }

    /// What a score over the long run comes to in view of the last uses: less when these were worse.
    #[must_use]
    pub fn lowered(&self, long: f64) -> f64 {
        let recent = (long + self.recent_good) / (1.0 + self.recent_good + self.recent_bad);
        long.min(recent)
    }

    /// Expected quality at the next use, 0 to 1: the mean, or less when the last uses were worse.
    #[must_use]
    pub fn value(&self) -> f64 {
        self.lowered(self.mean())
    }

    /// How much experience there is, without the prior.
    #[must_use]
    pub fn weight(&self) -> f64 {
        self.good + self.bad
    }

    /// Mean answer time, ms.
    #[must_use]
    pub fn latency_ms(&self) -> Option<f64> {
        (self.latency_weight > 0.0).then(|| self.latency_sum / self.latency_weight)
    }
}

/// What a buyer expects of a provider that it goes to for the first time: the share of good uses that its own providers came to, each of
/// which counts the same, however much it was used. What others say has no part in it.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Newcomers {
    good: f64,
    weight: f64,
}

impl Default for Newcomers {
    fn default() -> Self {
        Self { good: EXPECTED_OF_NEWCOMERS * EXPECTED_WEIGHT, weight: EXPECTED_WEIGHT }
    }
}

/// What a buyer without experience expects of newcomers. High, so that it looks for better ones before it settles; a market full of
/// cheats teaches it otherwise with the first few.
const EXPECTED_OF_NEWCOMERS: f64 = 0.96;
/// Uses that this expectation weighs.
const EXPECTED_WEIGHT: f64 = 2.0;
/// Uses that a provider counts at most, so that the one that is used most doesn't stand for all.
const PROVIDER_WEIGHT: f64 = 5.0;

impl Newcomers {
    /// What experience with these providers teaches, each as of now.
    #[must_use]
    pub fn taught_by<'a>(experiences: impl IntoIterator<Item = &'a Experience>) -> Self {
        experiences.into_iter().fold(Self::default(), |sum, own| {
            // PROVIDER_WEIGHT * weight / (1 + weight) uses of its mean quality.
            let counts = PROVIDER_WEIGHT / (1.0 + own.weight());
            Self { good: sum.good + counts * own.good, weight: sum.weight + counts * own.weight() }
        })
    }

    /// Expected share of good uses, 0 to 1.
    #[must_use]
    pub fn value(&self) -> f64 {
        self.good / self.weight
    }

    /// Whether experience with a provider, without regard to what was last, is worse than what is expected of a newcomer.
    #[must_use]
    pub fn outdo(&self, own: &Experience) -> bool {
        own.good < self.value() * own.weight()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn time(seconds: u64) -> UnixTime {
        UnixTime::new(seconds).unwrap()
    }

    fn decay() -> Decay {
        Decay { half_life: Seconds::new(1000).unwrap() }
    }

    #[test]
    fn unknown_is_average_and_experience_moves_it() {
        let none = Experience::none(time(0));
        assert!((none.mean() - 0.5).abs() < 1e-12);
        let good = none.with(1.0, 1.0, None, time(0), &decay());
        let bad = none.with(0.0, 1.0, None, time(0), &decay());
        assert!((good.mean() - 2.0 / 3.0).abs() < 1e-12);
        assert!((bad.mean() - 1.0 / 3.0).abs() < 1e-12);
        let mut many = none;
        for _ in 0..100 {
            many = many.with(1.0, 1.0, None, time(0), &decay());
        }
        assert!(many.mean() > 0.99);
    }

    #[test]
    fn one_failure_costs_the_lead_and_two_cost_the_trust() {
        let add = |sum: Experience, score| sum.with(score, 1.0, None, time(0), &decay());
        let good = (0..30).fold(Experience::none(time(0)), |sum, _| add(sum, 1.0));
        assert!((good.value() - good.mean()).abs() < 1e-12);
        let once = add(good, 0.0);
        assert!(once.mean() > 0.9 && (0.55..0.75).contains(&once.value()), "{}", once.value());
        let twice = add(once, 0.0);
        assert!(twice.mean() > 0.9 && twice.value() < 0.5, "{}", twice.value());
        let mended = (0..4).fold(once, |sum, _| add(sum, 1.0));
        assert!(mended.value() > 0.85, "{}", mended.value());
        // Good uses of late don't make up for a bad history.
        let bad = (0..30).fold(Experience::none(time(0)), |sum, _| add(sum, 0.0));
        let praised = (0..3).fold(bad, |sum, _| add(sum, 1.0));
        assert!((praised.value() - praised.mean()).abs() < 1e-12);
    }

    #[test]
    fn experience_halves_with_each_half_life() {
        let start = Experience::none(time(0)).with(1.0, 8.0, Some(40.0), time(0), &decay());
        for (after, left) in [(0, 8.0), (1000, 4.0), (2000, 2.0), (3000, 1.0)] {
            let later = start.at(time(after), &decay());
            assert!((later.weight() - left).abs() < 1e-9, "after {after}");
            assert!((later.latency_ms().unwrap() - 40.0).abs() < 1e-9);
        }
        let forgotten = start.at(time(1_000_000), &decay());
        assert!((forgotten.mean() - 0.5).abs() < 1e-9);
    }

    #[test]
    fn a_clock_set_back_neither_strengthens_nor_weakens() {
        let start = Experience::none(time(5000)).with(1.0, 8.0, None, time(5000), &decay());
        let back = start.at(time(0), &decay());
        assert_eq!(back.weight().to_bits(), start.weight().to_bits());
        assert_eq!(back.updated_at, time(5000));
    }

    #[test]
    fn the_order_of_arrival_does_not_matter() {
        let events = [(1.0, 100), (0.0, 900), (0.5, 2500)];
        let add = |order: [usize; 3]| {
            order.iter().fold(Experience::none(time(0)), |sum, index| {
                let (score, at) = events[*index];
                sum.with(score, 1.0, None, time(at), &decay())
            })
        };
        let forward = add([0, 1, 2]).at(time(4000), &decay());
        let backward = add([2, 1, 0]).at(time(4000), &decay());
        assert!((forward.good - backward.good).abs() < 1e-12);
        assert!((forward.bad - backward.bad).abs() < 1e-12);
    }
}
