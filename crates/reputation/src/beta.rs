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
//! also knows how often a provider may be expected to fail that it goes to for the first time ([`Newcomers`]): whoever fails oftener is outdone.

use serde::{Deserialize, Serialize};
use tributary_protocol::time::{Seconds, UnixTime};

/// A use that is worth less failed, as far as staying with a provider is concerned; what is slow and complete didn't.
pub const FAILED_BELOW: f64 = 0.5;
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
    /// Weight of the uses that failed: those worth less than [`FAILED_BELOW`].
    #[serde(default)]
    pub failed: f64,
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
            failed: 0.0,
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
            failed: self.failed * factor,
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
        sum.failed += if score < FAILED_BELOW { weight } else { 0.0 };
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

/// How often a buyer expects a provider to fail that it goes to for the first time: as often as its own providers did, each of which counts
/// about the same, however much it was used. What others say has no part in it.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Newcomers {
    failed: f64,
    weight: f64,
}

/// Share of a newcomer's uses that is expected to fail before there is experience. Who settles with a provider that fails one use in ten
/// never learns that others don't, so this is what a provider must reach that is worth staying with.
const EXPECTED_TO_FAIL: f64 = 0.065;
/// Uses that this expectation weighs: as many as ten providers count, so that a market of worse ones changes it in time.
const EXPECTED_WEIGHT: f64 = 50.0;
/// Uses that a provider counts at most, so that the one that is used most doesn't stand for all.
const PROVIDER_WEIGHT: f64 = 5.0;

impl Default for Newcomers {
    fn default() -> Self {
        Self { failed: EXPECTED_TO_FAIL * EXPECTED_WEIGHT, weight: EXPECTED_WEIGHT }
    }
}

impl Newcomers {
    /// What experience with these providers teaches, each as of now.
    #[must_use]
    pub fn taught_by<'a>(experiences: impl IntoIterator<Item = &'a Experience>) -> Self {
        experiences.into_iter().fold(Self::default(), |sum, own| {
            // Together `PROVIDER_WEIGHT * weight / (1 + weight)` uses.
            let counts = PROVIDER_WEIGHT / (1.0 + own.weight());
            Self { failed: sum.failed + counts * own.failed, weight: sum.weight + counts * own.weight() }
        })
    }

    /// Share of uses that is expected to fail, 0 to 1.
    #[must_use]
    pub fn failing(&self) -> f64 {
        self.failed / self.weight
    }

    /// Whether a provider failed the buyer more often than is expected of a newcomer.
    #[must_use]
    pub fn outdo(&self, own: &Experience) -> bool {
        own.failed > self.failing() * own.weight()
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
    fn who_serves_less_than_newcomers_are_expected_to_is_outdone() {
        let add = |sum: Experience, score| sum.with(score, 1.0, None, time(0), &decay());
        let uses = |good: u32, bad: u32| {
            let good = (0..good).fold(Experience::none(time(0)), |sum, _| add(sum, 1.0));
            (0..bad).fold(good, |sum, _| add(sum, 0.0))
        };
        let outdone = |all: &[Experience]| Newcomers::taught_by(all).outdo(&all[0]);
        assert!(!outdone(&[uses(0, 0)]), "who was never used isn't");
        assert!(!outdone(&[uses(1, 0)]));
        assert!(outdone(&[uses(9, 1)]), "one in ten is too many where others are expected to do better");
        assert!(!outdone(&[uses(19, 1)]));
        // Where providers fail more often than that, or are cheats, the same one is worth staying with.
        let unreliable: Vec<_> = std::iter::repeat_n(uses(17, 3), 20).collect();
        assert!(!outdone(&[&[uses(9, 1)][..], &unreliable].concat()));
        let cheats: Vec<_> = std::iter::repeat_n(uses(0, 1), 3).collect();
        assert!(!outdone(&[&[uses(9, 1)][..], &cheats].concat()));
        // However much one is used, it doesn't stand for the others.
        let used = Newcomers::taught_by(&[uses(1_000, 0)]).failing();
        assert!(Newcomers::default().failing() - used < 0.01, "{used}");
        // What is slow hasn't failed.
        let slow = (0..30).fold(Experience::none(time(0)), |sum, _| add(sum, 0.7));
        assert!(!outdone(&[slow]) && slow.bad > 8.0);
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
