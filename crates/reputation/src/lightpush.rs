//! Assessing a Waku Lightpush: were the messages seen again, how long did the answer take, how many peers had them?

use std::time::Duration;

use serde::{Deserialize, Serialize};
use serde_json::json;
use tributary_protocol::time::UnixTime;

use crate::assess::{Assessment, AssessmentId, Subject, Verdict};
use crate::measure::{count, latency, listed, mean, median, noted, scored};
use crate::store::{Ending, Hash};

/// A message that was handed over and confirmed.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct PushObserved {
    /// Its hash.
    pub hash: Hash,
    /// From sending it to having read the answer.
    pub latency: Duration,
    /// Peers that it was relayed to, as the provider says.
    pub relay_peers: Option<u32>,
    /// Tickets that the provider took for it and gave nothing for.
    pub lost_tickets: u32,
    /// Whether it was seen again, on relay or in an archive of somebody else; none when nobody else could be asked.
    pub seen_back: Option<bool>,
}

/// Messages that were published through a provider.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct LightpushObservation {
    /// Names the use.
    pub id: AssessmentId,
    /// Who served.
    pub subject: Subject,
    /// When.
    pub at: UnixTime,
    /// The messages that were confirmed.
    pub pushes: Vec<PushObserved>,
    /// How it ended.
    pub ending: Ending,
}

/// Judges uses of a Lightpush.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct LightpushAssessor {
    /// An answer within this time is as fast as can be wished.
    pub good_latency: Duration,
    /// An answer that takes this long is worth nothing for its speed.
    pub bad_latency: Duration,
    /// Relay peers that are enough.
    pub enough_peers: u32,
}

impl Default for LightpushAssessor {
    fn default() -> Self {
        Self { good_latency: Duration::from_millis(200), bad_latency: Duration::from_secs(10), enough_peers: 3 }
    }
}

/// Weights of the parts of a score.
const SEEN_BACK: f64 = 0.7;
const LATENCY: f64 = 0.2;
const PEERS: f64 = 0.1;
/// How much a use counts that nobody else could be asked about.
const UNCHECKED: f64 = 0.25;
/// How much a use counts whose messages were confirmed and never seen.
const SWALLOWED: f64 = 2.0;

impl LightpushAssessor {
    /// Judges one use.
    #[must_use]
    pub fn assess(&self, observed: &LightpushObservation) -> Assessment {
        let checked: Vec<_> = observed.pushes.iter().filter_map(|push| Some((push.hash, push.seen_back?))).collect();
        let unseen: Vec<Hash> = checked.iter().filter(|(_, seen)| !seen).map(|(hash, _)| *hash).collect();
        let lost: u32 = observed.pushes.iter().map(|push| push.lost_tickets).sum();
        let mut measurements = vec![
            noted("published", count(observed.pushes.len()), "messages"),
            noted("unseen", count(unseen.len()), "messages"),
            noted("lost_tickets", f64::from(lost), "tickets"),
        ];
        let share = (!checked.is_empty()).then(|| 1.0 - count(unseen.len()) / count(checked.len()));
        if let Some(share) = share {
            measurements.push(scored("seen_back", share, "share", share, SEEN_BACK));
        }
        if let Some(middle) = median(observed.pushes.iter().map(|push| push.latency).collect()) {
            measurements.push(latency(middle, self.good_latency, self.bad_latency, LATENCY));
        }
        if let Some(least) = observed.pushes.iter().filter_map(|push| push.relay_peers).min() {
            let enough = f64::from(least) / f64::from(self.enough_peers.max(1));
            measurements.push(scored("relay_peers", f64::from(least), "peers", enough, PEERS));
        }
        let verdict = if let Some(failure) = observed.ending.failure() {
            failure
        } else {
            let mean = mean(&measurements);
            let weight = match share {
                None => UNCHECKED,
                // Said to be published, and never seen: worse than a refusal.
                Some(share) if share < 0.5 => SWALLOWED,
                Some(_) => 1.0,
            };
            Verdict::Scored { score: share.map_or(mean, |share| mean.min(share)), weight }
        };
        Assessment {
            id: observed.id.clone(),
            subject: observed.subject.clone(),
            at: observed.at,
            measurements,
            verdict,
            evidence: json!({ "ending": observed.ending, "unseen": listed(&unseen) }),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::assess::{ProviderName, ServiceName};

    fn observed(seen: &[Option<bool>]) -> LightpushObservation {
        LightpushObservation {
            id: AssessmentId::new("use-1").unwrap(),
            subject: Subject {
                provider: ProviderName::new("16Uiu2HAmProvider").unwrap(),
                service: ServiceName::new("lightpush").unwrap(),
            },
            at: UnixTime::new(1000).unwrap(),
            pushes: seen
                .iter()
                .zip(0..)
                .map(|(seen_back, byte)| PushObserved {
                    hash: [byte; 32],
                    latency: Duration::from_millis(50),
                    relay_peers: Some(4),
                    lost_tickets: 0,
                    seen_back: *seen_back,
                })
                .collect(),
            ending: Ending::Answered,
        }
    }

    fn verdict(observed: &LightpushObservation) -> (f64, f64) {
        let assessment = LightpushAssessor::default().assess(observed);
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
    fn messages_that_were_seen_again_are_perfect_and_swallowed_ones_worse_than_refused() {
        assert!(close(verdict(&observed(&[Some(true), Some(true)])), (1.0, 1.0)));
        assert!(close(verdict(&observed(&[Some(true), Some(false)])), (0.5, 1.0)));
        assert!(close(verdict(&observed(&[Some(false)])), (0.0, SWALLOWED)));
    }

    #[test]
    fn what_nobody_could_be_asked_about_counts_little() {
        assert!(close(verdict(&observed(&[None, None])), (1.0, UNCHECKED)));
    }

    #[test]
    fn slowness_and_few_peers_cost_a_part() {
        let mut case = observed(&[Some(true)]);
        case.pushes[0].latency = Duration::from_secs(20);
        assert!(close(verdict(&case), (0.8, 1.0)));
        let mut case = observed(&[Some(true)]);
        case.pushes[0].relay_peers = Some(0);
        assert!(close(verdict(&case), (0.9, 1.0)));
    }

    #[test]
    fn whose_fault_it_was_is_told_apart() {
        let mut case = observed(&[]);
        case.ending = Ending::NoAnswer;
        assert!(close(verdict(&case), (0.0, 1.0)));
        case.ending = Ending::BuyerError { reason: "too large".into() };
        assert!(matches!(LightpushAssessor::default().assess(&case).verdict, Verdict::BuyerFault { .. }));
    }
}
