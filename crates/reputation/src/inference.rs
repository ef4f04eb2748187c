//! Assessing an answer of a model: did it come whole, how soon, how fast, and is it the model's?
//!
//! Whether the declared model answers is checked by probes: a prompt that is asked with temperature 0 and a fixed seed, whose answer is known from
//! another provider of the same weights. Another answer fails the use, whatever else was right.

use std::time::Duration;

use serde::{Deserialize, Serialize};
use serde_json::json;
use tributary_protocol::time::UnixTime;

use crate::assess::{Assessment, AssessmentId, Measurement, Subject, Verdict};
use crate::measure::{brief, latency, mean, noted, number, own_fault, scored};

/// A SHA-256 of an answer's text.
pub type Digest = [u8; 32];

/// How an answer ended.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum InferenceEnding {
    /// It came to its end.
    Complete,
    /// The provider failed after it took tickets, or broke its word.
    FailedAfterPayment {
        /// What it said.
        reason: String,
        /// Whether it gave a make-good credit.
        credited: bool,
    },
    /// The provider said that it can't answer now; nothing was spent.
    Unavailable {
        /// What it said.
        reason: String,
    },
    /// It fell silent.
    NoAnswer,
    /// The buyer wanted no more of it.
    Dropped,
    /// The buyer's prompt, caps or ticket were at fault.
    BuyerError {
        /// How.
        reason: String,
    },
    /// The buyer's own network failed.
    NetworkError {
        /// How.
        reason: String,
    },
}

/// A probe's answer.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Fingerprint {
    /// What came.
    pub answer: Digest,
    /// What the declared model answers.
    pub expected: Digest,
}

/// One prompt and its answer. Neither's text is kept.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct InferenceObservation {
    /// Names the use.
    pub id: AssessmentId,
    /// Who served.
    pub subject: Subject,
    /// When.
    pub at: UnixTime,
    /// From sending the prompt to the first text.
    pub first_text: Option<Duration>,
    /// From sending the prompt to the end.
    pub whole: Duration,
    /// Tokens that came.
    pub tokens: u64,
    /// Of a probe.
    pub fingerprint: Option<Fingerprint>,
    /// How it ended.
    pub ending: InferenceEnding,
}

/// Judges answers.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct InferenceAssessor {
    /// First text within this time is as fast as can be wished.
    pub good_first: Duration,
    /// First text that takes this long is worth nothing for its speed.
    pub bad_first: Duration,
    /// Tokens a second after the first text that are as fast as can be wished. One in twenty of them is worth nothing.
    pub good_rate: f64,
}

impl Default for InferenceAssessor {
    fn default() -> Self {
        Self { good_first: Duration::from_millis(500), bad_first: Duration::from_secs(30), good_rate: 20.0 }
    }
}

/// Weights of the parts of a score.
const DELIVERED: f64 = 0.6;
const FIRST_TEXT: f64 = 0.2;
const RATE: f64 = 0.2;
/// How much a failure counts that was made good by a credit.
const CREDITED: f64 = 0.5;
/// How much another model's answer counts.
const FALSE_MODEL: f64 = 4.0;
/// Tokens below which a rate says nothing.
const FEW_TOKENS: u64 = 4;

impl InferenceAssessor {
    /// Judges one use.
    #[must_use]
    pub fn assess(&self, observed: &InferenceObservation) -> Assessment {
        let tokens = number(observed.tokens);
        let mut measurements =
            vec![noted("tokens", tokens, "tokens"), noted("whole", observed.whole.as_secs_f64() * 1000.0, "ms")];
        if observed.ending == InferenceEnding::Complete {
            let delivered = if observed.tokens > 0 { 1.0 } else { 0.0 };
            measurements.push(scored("delivered", delivered, "share", delivered, DELIVERED));
        }
        if let Some(first) = observed.first_text {
            let mut measured = latency(first, self.good_first, self.bad_first, FIRST_TEXT);
            measured.name = "first_text".into();
            measurements.push(measured);
            let seconds = observed.whole.saturating_sub(first).as_secs_f64();
            if observed.tokens >= FEW_TOKENS && seconds > 0.0 {
                let rate = (tokens - 1.0) / seconds;
                let good = self.good_rate.max(f64::MIN_POSITIVE);
                let score = 1.0 + (rate / good).ln() / 20f64.ln();
                measurements.push(scored("rate", rate, "tokens/s", score, RATE));
            }
        }
        let agrees = observed.fingerprint.map(|print| print.answer == print.expected);
        if let Some(agrees) = agrees {
            measurements.push(noted("fingerprint", if agrees { 1.0 } else { 0.0 }, "share"));
        }
        let verdict = self.verdict(observed, agrees, &measurements);
        Assessment {
            id: observed.id.clone(),
            subject: observed.subject.clone(),
            at: observed.at,
            measurements,
            verdict,
            evidence: json!({
                "ending": observed.ending,
                "answer": observed.fingerprint.map(|print| hex::encode(print.answer)),
                "expected": observed.fingerprint.map(|print| hex::encode(print.expected)),
            }),
        }
    }

    fn verdict(&self, observed: &InferenceObservation, agrees: Option<bool>, measurements: &[Measurement]) -> Verdict {
        let bad = |weight| Verdict::Scored { score: 0.0, weight };
        match &observed.ending {
            InferenceEnding::Complete if agrees == Some(false) => bad(FALSE_MODEL),
            // An empty answer delivers nothing, however fast.
            InferenceEnding::Complete if observed.tokens == 0 => bad(1.0),
            InferenceEnding::Complete => Verdict::Scored { score: mean(measurements), weight: 1.0 },
            InferenceEnding::FailedAfterPayment { credited: true, .. } => bad(CREDITED),
            InferenceEnding::FailedAfterPayment { .. } => bad(2.0),
            InferenceEnding::NoAnswer => bad(1.0),
            InferenceEnding::Unavailable { .. } => bad(0.5),
            // Who says nothing for so long is hung up on.
            InferenceEnding::Dropped if observed.first_text.is_none() && observed.whole >= self.bad_first => bad(1.0),
            InferenceEnding::Dropped => own_fault("the buyer wanted no more of it"),
            InferenceEnding::BuyerError { reason } => own_fault(reason),
            InferenceEnding::NetworkError { reason } => Verdict::NetworkFault { reason: brief(reason) },
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::measure::testing;

    fn observed() -> InferenceObservation {
        InferenceObservation {
            id: testing::id(),
            subject: testing::subject("inference"),
            at: UnixTime::new(1000).unwrap(),
            first_text: Some(Duration::from_millis(300)),
            whole: Duration::from_millis(1300),
            tokens: 41,
            fingerprint: None,
            ending: InferenceEnding::Complete,
        }
    }

    fn near(observed: &InferenceObservation, score: f64, weight: f64) {
        testing::near(&InferenceAssessor::default().assess(observed), score, weight);
    }

    #[test]
    fn a_whole_fast_answer_is_perfect_and_slowness_costs_its_part() {
        near(&observed(), 1.0, 1.0);
        // One token a second.
        let slow = InferenceObservation { whole: Duration::from_millis(40_300), ..observed() };
        near(&slow, 0.8, 1.0);
        let late = InferenceObservation {
            first_text: Some(Duration::from_secs(30)),
            whole: Duration::from_secs(31),
            ..observed()
        };
        near(&late, 0.8, 1.0);
        // Two tokens tell nothing of a rate.
        near(&InferenceObservation { tokens: 2, whole: Duration::from_secs(10), ..observed() }, 1.0, 1.0);
    }

    #[test]
    fn an_empty_answer_and_another_models_answer_fail_whatever_else_was_right() {
        near(&InferenceObservation { tokens: 0, ..observed() }, 0.0, 1.0);
        let print = |answer| Some(Fingerprint { answer, expected: [1; 32] });
        near(&InferenceObservation { fingerprint: print([1; 32]), ..observed() }, 1.0, 1.0);
        near(&InferenceObservation { fingerprint: print([2; 32]), ..observed() }, 0.0, FALSE_MODEL);
    }

    #[test]
    fn whose_fault_it_was_is_told_apart() {
        let ended = |ending| InferenceObservation { ending, ..observed() };
        let reason = || "down".to_owned();
        near(&ended(InferenceEnding::FailedAfterPayment { reason: reason(), credited: false }), 0.0, 2.0);
        near(&ended(InferenceEnding::FailedAfterPayment { reason: reason(), credited: true }), 0.0, 0.5);
        near(&ended(InferenceEnding::Unavailable { reason: reason() }), 0.0, 0.5);
        near(&ended(InferenceEnding::NoAnswer), 0.0, 1.0);
        let verdict = |ending| InferenceAssessor::default().assess(&ended(ending)).verdict;
        assert!(matches!(verdict(InferenceEnding::Dropped), Verdict::BuyerFault { .. }));
        let late = InferenceObservation { whole: Duration::from_secs(30), ..ended(InferenceEnding::Dropped) };
        assert!(matches!(InferenceAssessor::default().assess(&late).verdict, Verdict::BuyerFault { .. }));
        near(&InferenceObservation { first_text: None, ..late }, 0.0, 1.0);
        assert!(matches!(verdict(InferenceEnding::BuyerError { reason: reason() }), Verdict::BuyerFault { .. }));
        assert!(matches!(verdict(InferenceEnding::NetworkError { reason: reason() }), Verdict::NetworkFault { .. }));
    }
}
