//! Assessing a Waku Filter: how many of the messages came, how late, and was there silence while others received?
//!
//! What should have come is what archives of others, or the buyer's own relay, have of the subscribed topics and time. Messages that came and were not
//! asked for fail the use.

use std::collections::BTreeSet;
use std::time::Duration;

use serde::{Deserialize, Serialize};
use serde_json::json;
use tributary_protocol::time::UnixTime;

use crate::assess::{Assessment, AssessmentId, Subject, Verdict};
use crate::measure::{count, latency, listed, mean, median, noted, scored};
use crate::store::{Ending, Hash};

/// A message that was pushed.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct PushedMessage {
    /// Its hash, computed here.
    pub hash: Hash,
    /// Whether its topics were subscribed to.
    pub asked_for: bool,
    /// From the time in the message to its arrival, where the message has one that isn't later.
    pub delay: Option<Duration>,
}

/// A subscription, from its start to its end.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct FilterObservation {
    /// Names the use.
    pub id: AssessmentId,
    /// Who served.
    pub subject: Subject,
    /// When it ended.
    pub at: UnixTime,
    /// What came, in order.
    pub delivered: Vec<PushedMessage>,
    /// What should have come, by time, from elsewhere; empty when nothing is known.
    pub expected: Vec<Hash>,
    /// Slots that the buyer's lease didn't pay: what was missed in them isn't the provider's fault.
    pub unpaid_slots: u64,
    /// How it ended.
    pub ending: Ending,
}

/// Judges uses of a Filter.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct FilterAssessor {
    /// A delay within this time is as short as can be wished.
    pub good_delay: Duration,
    /// A delay of this time is worth nothing.
    pub bad_delay: Duration,
}

impl Default for FilterAssessor {
    fn default() -> Self {
        Self { good_delay: Duration::from_millis(500), bad_delay: Duration::from_secs(30) }
    }
}

/// Weights of the parts of a score.
const DELIVERED: f64 = 0.7;
const DELAY: f64 = 0.2;
const SILENCE: f64 = 0.1;
/// How much a use counts that couldn't be compared with anything.
const UNCHECKED: f64 = 0.25;
/// How much a pushed message counts that nobody asked for.
const UNASKED: f64 = 2.0;

impl FilterAssessor {
    /// Judges one subscription.
    #[must_use]
    pub fn assess(&self, observed: &FilterObservation) -> Assessment {
        let came: BTreeSet<Hash> = observed.delivered.iter().map(|message| message.hash).collect();
        let expected: BTreeSet<Hash> = observed.expected.iter().copied().collect();
        let missing: Vec<Hash> = observed.expected.iter().filter(|hash| !came.contains(*hash)).copied().collect();
        let unasked: Vec<Hash> = observed.delivered.iter().filter(|m| !m.asked_for).map(|m| m.hash).collect();
        let mut measurements = vec![
            noted("delivered", count(came.len()), "messages"),
            noted("expected", count(expected.len()), "messages"),
            noted("missing", count(missing.len()), "messages"),
            noted("unasked", count(unasked.len()), "messages"),
        ];
        // What was missed in slots that weren't paid can't be told from the rest.
        let share = (!expected.is_empty() && observed.unpaid_slots == 0)
            .then(|| 1.0 - count(missing.len()) / count(observed.expected.len()));
        if let Some(share) = share {
            measurements.push(scored("share", share, "share", share, DELIVERED));
            let silence = longest_run(observed, &came);
            let part = count(silence) / count(observed.expected.len());
            measurements.push(scored("silence", count(silence), "messages in a row", 1.0 - part, SILENCE));
        }
        if let Some(delay) = median(observed.delivered.iter().filter_map(|message| message.delay).collect()) {
            measurements.push(latency(delay, self.good_delay, self.bad_delay, DELAY));
        }
        let verdict = if !unasked.is_empty() {
            Verdict::Scored { score: 0.0, weight: UNASKED }
        } else if let Some(failure) = observed.ending.failure() {
            failure
        } else if share.is_none() && observed.delivered.is_empty() {
            // Nothing was there to be delivered, as far as is known.
            Verdict::NetworkFault { reason: "no messages are known that should have come".into() }
        } else {
            let mean = mean(&measurements);
            let weight = if share.is_some() { 1.0 } else { UNCHECKED };
            Verdict::Scored { score: share.map_or(mean, |share| mean.min(share)), weight }
        };
        Assessment {
            id: observed.id.clone(),
            subject: observed.subject.clone(),
            at: observed.at,
            measurements,
            verdict,
            evidence: json!({
                "ending": observed.ending, "missing": listed(&missing), "unasked": listed(&unasked),
                "unpaid_slots": observed.unpaid_slots,
            }),
        }
    }
}

/// The most messages in a row that were missed.
fn longest_run(observed: &FilterObservation, came: &BTreeSet<Hash>) -> usize {
    let (mut run, mut longest) = (0, 0);
    for hash in &observed.expected {
        run = if came.contains(hash) { 0 } else { run + 1 };
        longest = longest.max(run);
    }
    longest
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::assess::{ProviderName, ServiceName};

    fn observed(delivered: &[u8], expected: &[u8]) -> FilterObservation {
        FilterObservation {
            id: AssessmentId::new("use-1").unwrap(),
            subject: Subject {
                provider: ProviderName::new("16Uiu2HAmProvider").unwrap(),
                service: ServiceName::new("filter").unwrap(),
            },
            at: UnixTime::new(1000).unwrap(),
            delivered: delivered
                .iter()
                .map(|byte| PushedMessage {
                    hash: [*byte; 32],
                    asked_for: true,
                    delay: Some(Duration::from_millis(100)),
                })
                .collect(),
            expected: expected.iter().map(|byte| [*byte; 32]).collect(),
            unpaid_slots: 0,
            ending: Ending::Answered,
        }
    }

    fn verdict(observed: &FilterObservation) -> (f64, f64) {
        let assessment = FilterAssessor::default().assess(observed);
        assessment.check().unwrap();
        match assessment.verdict {
            Verdict::Scored { score, weight } => (score, weight),
            other => panic!("not scored: {other:?}"),
        }
    }

    fn close(found: (f64, f64), expected: (f64, f64)) -> bool {
        (found.0 - expected.0).abs() < 1e-9 && (found.1 - expected.1).abs() < 1e-9
    }

    #[test]
    fn all_messages_in_time_are_perfect_and_what_is_missing_bounds_the_score() {
        assert!(close(verdict(&observed(&[1, 2, 3], &[1, 2, 3])), (1.0, 1.0)));
        let half = observed(&[1, 2], &[1, 2, 3, 4]);
        assert!(close(verdict(&half), (0.5, 1.0)));
        let assessment = FilterAssessor::default().assess(&half);
        assert_eq!((assessment.value("missing"), assessment.value("silence")), (Some(2.0), Some(2.0)));
        assert!(close(verdict(&observed(&[], &[1])), (0.0, 1.0)));
    }

    #[test]
    fn late_messages_cost_a_part() {
        let mut late = observed(&[1, 2], &[1, 2]);
        for message in &mut late.delivered {
            message.delay = Some(Duration::from_secs(60));
        }
        assert!(close(verdict(&late), (0.8, 1.0)));
    }

    #[test]
    fn what_nothing_is_known_of_counts_little_or_nothing() {
        assert!(close(verdict(&observed(&[1], &[])), (1.0, UNCHECKED)));
        let silent = FilterAssessor::default().assess(&observed(&[], &[])).verdict;
        assert!(matches!(silent, Verdict::NetworkFault { .. }));
        let mut unpaid = observed(&[1], &[1, 2]);
        unpaid.unpaid_slots = 1;
        assert!(close(verdict(&unpaid), (1.0, UNCHECKED)), "what came without payment is not owed");
    }

    #[test]
    fn a_message_that_nobody_asked_for_and_a_lost_subscription_fail_the_use() {
        let mut case = observed(&[1, 2], &[1, 2]);
        case.delivered[1].asked_for = false;
        assert!(close(verdict(&case), (0.0, UNASKED)));
        let mut case = observed(&[1], &[1, 2]);
        case.ending = Ending::FailedAfterPayment { reason: "lost".into() };
        assert!(close(verdict(&case), (0.0, 2.0)));
        case.ending = Ending::Unreachable { others_reachable: false };
        assert!(matches!(FilterAssessor::default().assess(&case).verdict, Verdict::NetworkFault { .. }));
    }
}
