//! Assessing a paid HTTP request: was it answered, how soon, whole, and with what it should be?
//!
//! What the body should be is known where the buyer has its digest, or asked a second provider. A false body fails the use, whatever else was right.

use std::time::Duration;

use serde::{Deserialize, Serialize};
use serde_json::json;
use tributary_protocol::time::UnixTime;

use crate::assess::{Assessment, AssessmentId, Measurement, Subject, Verdict};
use crate::measure::{latency, mean, noted, number, own_fault, scored};

/// A SHA-256.
pub type Digest = [u8; 32];

/// How a request ended.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum HttpEnding {
    /// The answer came to its end.
    Complete,
    /// The provider took a ticket, and its server failed or it broke its word.
    FailedAfterPayment {
        /// What it said.
        reason: String,
    },
    /// The provider said that it can't serve now; nothing was spent.
    Unavailable {
        /// What it said.
        reason: String,
    },
    /// The connection was lost, or nothing came in time.
    NoAnswer,
    /// The buyer wanted no more of it.
    Dropped,
    /// The buyer's request or ticket was at fault.
    BuyerError {
        /// How.
        reason: String,
    },
}

/// One request.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct HttpObservation {
    /// Names the use.
    pub id: AssessmentId,
    /// Who served.
    pub subject: Subject,
    /// When.
    pub at: UnixTime,
    /// The answer's status, if one came.
    pub status: Option<u16>,
    /// From asking to the answer's head and first piece.
    pub first: Option<Duration>,
    /// From asking to the end.
    pub whole: Duration,
    /// Bytes of the body that came.
    pub bytes: u64,
    /// Bytes that were promised.
    pub promised: Option<u64>,
    /// The body's digest, when it came whole.
    pub digest: Option<Digest>,
    /// What the digest must be: told by the user, or that of a second provider's answer.
    pub reference: Option<Digest>,
    /// How it ended.
    pub ending: HttpEnding,
}

/// Judges HTTP requests.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct HttpAssessor {
    /// A first piece within this time is as fast as can be wished.
    pub good_latency: Duration,
    /// A first piece that takes this long is worth nothing for its speed.
    pub bad_latency: Duration,
}

impl Default for HttpAssessor {
    fn default() -> Self {
        Self { good_latency: Duration::from_millis(200), bad_latency: Duration::from_secs(10) }
    }
}

/// Weights of the parts of a score.
const STATUS: f64 = 0.5;
const COMPLETENESS: f64 = 0.3;
const LATENCY: f64 = 0.2;
/// How much a use counts whose body couldn't be checked against anything.
const UNCHECKED: f64 = 0.5;
/// How much a false body counts.
const FALSE_BODY: f64 = 4.0;

impl HttpAssessor {
    /// Judges one use.
    #[must_use]
    pub fn assess(&self, observed: &HttpObservation) -> Assessment {
        let mut measurements = vec![
            noted("bytes", number(observed.bytes), "bytes"),
            noted("whole", observed.whole.as_secs_f64() * 1000.0, "ms"),
        ];
        if let Some(status) = observed.status {
            // Statuses below 500 answer the request, whatever the answer is.
            let good = if status < 500 { 1.0 } else { 0.0 };
            measurements.push(scored("status", f64::from(status), "status", good, STATUS));
        }
        if let Some(first) = observed.first {
            measurements.push(latency(first, self.good_latency, self.bad_latency, LATENCY));
        }
        let share = match observed.promised {
            Some(promised) if promised > 0 && observed.ending == HttpEnding::Complete => {
                Some((number(observed.bytes) / number(promised)).min(1.0))
            }
            _ => None,
        };
        if let Some(share) = share {
            measurements.push(scored("completeness", share, "share", share, COMPLETENESS));
        }
        let agrees = observed.digest.zip(observed.reference).map(|(digest, reference)| digest == reference);
        if let Some(agrees) = agrees {
            measurements.push(noted("integrity", if agrees { 1.0 } else { 0.0 }, "share"));
        }
        let verdict = self.verdict(observed, agrees, share, &measurements);
        Assessment {
            id: observed.id.clone(),
            subject: observed.subject.clone(),
            at: observed.at,
            measurements,
            verdict,
            evidence: json!({
                "ending": observed.ending,
                "status": observed.status,
                "promised": observed.promised,
                "digest": observed.digest.map(hex::encode),
                "reference": observed.reference.map(hex::encode),
            }),
        }
    }

    fn verdict(
        &self,
        observed: &HttpObservation,
        agrees: Option<bool>,
        share: Option<f64>,
        measurements: &[Measurement],
    ) -> Verdict {
        match &observed.ending {
            HttpEnding::Complete if agrees == Some(false) => Verdict::Scored { score: 0.0, weight: FALSE_BODY },
            HttpEnding::Complete => {
                let mean = mean(measurements);
                // Speed doesn't make up for what is missing, nor for a server that fails.
                let failed = observed.status.is_some_and(|status| status >= 500);
                let bound = if failed { 0.0 } else { share.unwrap_or(1.0) };
                Verdict::Scored { score: mean.min(bound), weight: if agrees.is_some() { 1.0 } else { UNCHECKED } }
            }
            HttpEnding::FailedAfterPayment { .. } => Verdict::Scored { score: 0.0, weight: 2.0 },
            HttpEnding::NoAnswer => Verdict::Scored { score: 0.0, weight: 1.0 },
            // Who says nothing for so long is hung up on.
            HttpEnding::Dropped if observed.first.is_none() && observed.whole >= self.bad_latency => {
                Verdict::Scored { score: 0.0, weight: 1.0 }
            }
            HttpEnding::Unavailable { .. } => Verdict::Scored { score: 0.0, weight: 0.5 },
            HttpEnding::Dropped => own_fault("the buyer wanted no more of it"),
            HttpEnding::BuyerError { reason } => own_fault(reason),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::measure::testing;

    fn observed() -> HttpObservation {
        HttpObservation {
            id: testing::id(),
            subject: testing::subject("http-tides"),
            at: UnixTime::new(1000).unwrap(),
            status: Some(200),
            first: Some(Duration::from_millis(50)),
            whole: Duration::from_millis(80),
            bytes: 100,
            promised: Some(100),
            digest: Some([1; 32]),
            reference: Some([1; 32]),
            ending: HttpEnding::Complete,
        }
    }

    fn verdict_of(observed: &HttpObservation) -> Verdict {
        let assessment = HttpAssessor::default().assess(observed);
        assessment.check().unwrap();
        assessment.verdict
    }

    fn near(observed: &HttpObservation, score: f64, weight: f64) {
        testing::near(&HttpAssessor::default().assess(observed), score, weight);
    }

    #[test]
    fn a_whole_fast_answer_that_agrees_is_perfect_and_one_that_nothing_checks_counts_less() {
        near(&observed(), 1.0, 1.0);
        near(&HttpObservation { reference: None, ..observed() }, 1.0, UNCHECKED);
        near(&HttpObservation { status: Some(404), ..observed() }, 1.0, 1.0);
    }

    #[test]
    fn a_false_body_fails_whatever_else_was_right() {
        near(&HttpObservation { digest: Some([2; 32]), ..observed() }, 0.0, FALSE_BODY);
    }

    #[test]
    fn what_is_missing_a_failing_server_and_slowness_cost_their_part() {
        near(&HttpObservation { bytes: 50, reference: None, ..observed() }, 0.5, UNCHECKED);
        near(&HttpObservation { status: Some(503), reference: None, ..observed() }, 0.0, UNCHECKED);
        near(&HttpObservation { first: Some(Duration::from_secs(20)), ..observed() }, 0.8, 1.0);
    }

    #[test]
    fn whose_fault_it_was_is_told_apart() {
        let ended = |ending| HttpObservation { ending, digest: None, ..observed() };
        near(&ended(HttpEnding::FailedAfterPayment { reason: "down".into() }), 0.0, 2.0);
        near(&ended(HttpEnding::NoAnswer), 0.0, 1.0);
        near(&ended(HttpEnding::Unavailable { reason: "busy".into() }), 0.0, 0.5);
        let dropped = ended(HttpEnding::Dropped);
        let late = HttpObservation { whole: Duration::from_secs(10), ..dropped.clone() };
        let silent = HttpObservation { first: None, ..late.clone() };
        near(&silent, 0.0, 1.0);
        let early = HttpObservation { first: None, ..dropped.clone() };
        for own in [&dropped, &late, &early] {
            assert!(matches!(verdict_of(own), Verdict::BuyerFault { .. }), "{own:?}");
        }
        assert!(matches!(
            verdict_of(&ended(HttpEnding::BuyerError { reason: "path".into() })),
            Verdict::BuyerFault { .. }
        ));
    }
}
