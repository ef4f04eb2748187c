//! What all assessors measure with.

use std::time::Duration;

use crate::assess::{Measurement, Verdict};
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

#[allow(clippy::cast_precision_loss)] // Bytes and tokens of one answer stay far below 2^53.
pub(crate) fn number(count: u64) -> f64 {
    count as f64
}

/// Characters of a reason at most.
const MAX_REASON: usize = 256;

/// A reason, as much of it as is kept.
pub(crate) fn brief(reason: &str) -> String {
    reason.chars().take(MAX_REASON).collect()
}

/// The buyer's own fault.
pub(crate) fn own_fault(reason: &str) -> Verdict {
    Verdict::BuyerFault { reason: brief(reason) }
}

pub(crate) fn median(mut latencies: Vec<Duration>) -> Option<Duration> {
    latencies.sort_unstable();
    latencies.get(latencies.len() / 2).copied()
}

pub(crate) fn listed(hashes: &[Hash]) -> Vec<String> {
    hashes.iter().take(MAX_LISTED).map(hex::encode).collect()
}

/// What the assessors' tests share.
#[cfg(test)]
pub(crate) mod testing {
    use crate::assess::{Assessment, AssessmentId, ProviderName, ServiceName, Subject, Verdict};

    pub(crate) fn id() -> AssessmentId {
        AssessmentId::new("use-1").unwrap()
    }

    pub(crate) fn subject(service: &str) -> Subject {
        Subject {
            provider: ProviderName::new("16Uiu2HAmProvider").unwrap(),
            service: ServiceName::new(service).unwrap(),
        }
    }

    /// An assessment within its bounds, of this score and weight.
    pub(crate) fn near(assessment: &Assessment, score: f64, weight: f64) {
        assessment.check().unwrap();
        match assessment.verdict {
            Verdict::Scored { score: s, weight: w } => {
                assert!((s - score).abs() < 1e-9 && (w - weight).abs() < 1e-12, "{s} {w}");
            }
            ref other => panic!("not scored: {other:?}"),
        }
    }
}
