//! What all assessors measure with.

use std::time::Duration;

use crate::assess::Measurement;
use crate::store::Hash;

/// Hashes that evidence lists of each kind.
pub(crate) const MAX_LISTED: usize = 32;

/// A quantity that is only noted.
pub(crate) fn noted(name: &str, value: f64, unit: &str) -> Measurement {
    Measurement { name: name.to_owned(), value, unit: unit.to_owned(), score: None, weight: 0.0 }
}

/// A quantity that is worth something.
pub(crate) fn scored(name: &str, value: f64, unit: &str, score: f64, weight: f64) -> Measurement {
    Measurement { score: Some(score.clamp(0.0, 1.0)), weight, ..noted(name, value, unit) }
}

/// A latency: worth 1 within `good`, 0 from `bad` on, falling with the logarithm between.
pub(crate) fn latency(measured: Duration, good: Duration, bad: Duration, weight: f64) -> Measurement {
    let good = good.as_secs_f64().max(1e-6);
    let bad = bad.as_secs_f64().max(good * 1.001);
    let position = (measured.as_secs_f64().max(1e-6) / good).ln() / (bad / good).ln();
    scored("latency", measured.as_secs_f64() * 1000.0, "ms", 1.0 - position, weight)
}

/// The weighted mean of what is worth something; a half when nothing is.
pub(crate) fn mean(measurements: &[Measurement]) -> f64 {
    let weights: f64 = measurements.iter().filter(|part| part.score.is_some()).map(|part| part.weight).sum();
    let sum: f64 = measurements.iter().filter_map(|part| Some(part.score? * part.weight)).sum();
    if weights > 0.0 { sum / weights } else { 0.5 }
}

#[allow(clippy::cast_precision_loss)] // Counts of messages stay far below 2^53.
pub(crate) fn count(number: usize) -> f64 {
    number as f64
}

pub(crate) fn median(mut latencies: Vec<Duration>) -> Option<Duration> {
    latencies.sort_unstable();
    latencies.get(latencies.len() / 2).copied()
}

pub(crate) fn listed(hashes: &[Hash]) -> Vec<String> {
    hashes.iter().take(MAX_LISTED).map(hex::encode).collect()
}
