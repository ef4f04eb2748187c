//! Assessing a Waku Store: is the answer complete, does it hold what it shouldn't, how long did it take?
//!
//! The buyer compares the answer with what it saw itself on relay or got from another provider. A message whose content doesn't hash to its
//! name, that the query didn't ask for, or that a complete reference doesn't know, was injected, and the use fails.

use std::collections::BTreeSet;
use std::time::Duration;

use serde::{Deserialize, Serialize};
use serde_json::json;
use tributary_protocol::time::UnixTime;

use crate::assess::{Assessment, AssessmentId, Measurement, Subject, Verdict};
use crate::measure::{MAX_LISTED, count, latency, listed, mean, median, noted, own_fault, scored};

/// A message hash.
pub type Hash = [u8; 32];

/// The query that was made.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
pub struct StoreQuery {
    /// Pubsub topic, if it was named.
    pub pubsub_topic: Option<String>,
    /// Content topics; none means any.
    pub content_topics: Vec<String>,
    /// First time asked for, Unix nanoseconds.
    pub time_start: Option<i64>,
    /// Last time asked for, Unix nanoseconds.
    pub time_end: Option<i64>,
}

impl StoreQuery {
    fn asks_for(&self, message: &ReturnedMessage) -> bool {
        let content_topic = self.content_topics.is_empty() || self.content_topics.contains(&message.content_topic);
        let pubsub_topic = self.pubsub_topic.as_ref().is_none_or(|topic| *topic == message.pubsub_topic);
        let after = self.time_start.is_none_or(|start| message.timestamp >= start);
        let before = self.time_end.is_none_or(|end| message.timestamp <= end);
        content_topic && pubsub_topic && after && before
    }
}

/// A message of the answer.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ReturnedMessage {
    /// The hash that the provider named.
    pub hash: Hash,
    /// The hash of the content that came with it; `None` when only hashes were asked for.
    pub content_hash: Option<Hash>,
    /// Its pubsub topic.
    pub pubsub_topic: String,
    /// Its content topic.
    pub content_topic: String,
    /// Its time, Unix nanoseconds.
    pub timestamp: i64,
}

/// One page of the answer.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct PageObserved {
    /// From sending the request to the answer's last byte.
    pub latency: Duration,
    /// Messages in it.
    pub messages: usize,
    /// Whether the provider said that more follows.
    pub more: bool,
}

/// How the use ended.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Ending {
    /// All pages that were wanted came.
    Answered,
    /// The provider took a ticket and then refused or failed.
    FailedAfterPayment {
        /// What it said.
        reason: String,
    },
    /// The provider said that it can't serve now; nothing was spent.
    Unavailable {
        /// What it said.
        reason: String,
    },
    /// No whole answer came in time, though the provider was connected.
    NoAnswer,
    /// The provider couldn't be reached. `others_reachable`: another peer could, at the same time.
    Unreachable {
        /// Whether the buyer's own network worked.
        others_reachable: bool,
    },
    /// The buyer's request or ticket was at fault.
    BuyerError {
        /// How.
        reason: String,
    },
}

impl Ending {
    /// The verdict on a use that ended without its answer; `None` for one that was answered.
    #[must_use]
    pub fn failure(&self) -> Option<Verdict> {
        let failed = |weight| Some(Verdict::Scored { score: 0.0, weight });
        match self {
            Self::Answered => None,
            Self::FailedAfterPayment { .. } => failed(2.0),
            Self::NoAnswer => failed(1.0),
            Self::Unavailable { .. } | Self::Unreachable { others_reachable: true } => failed(0.5),
            Self::Unreachable { others_reachable: false } => {
                Some(Verdict::NetworkFault { reason: "no peer could be reached".into() })
            }
            Self::BuyerError { reason } => Some(own_fault(reason)),
        }
    }

    /// Whether it says something bad of the provider, and not of the buyer or its network.
    #[must_use]
    pub fn is_fault(&self) -> bool {
        matches!(self.failure(), Some(Verdict::Scored { .. }))
    }

    /// What happened, in words.
    #[must_use]
    pub fn describe(&self) -> String {
        match self {
            Self::Answered => "answered".into(),
            Self::FailedAfterPayment { reason } => format!("failed after payment: {reason}"),
            Self::Unavailable { reason } => format!("not available: {reason}"),
            Self::NoAnswer => "no answer".into(),
            Self::Unreachable { others_reachable: true } => "could not be reached, others could".into(),
            Self::Unreachable { others_reachable: false } => "nobody could be reached".into(),
            Self::BuyerError { reason } => format!("the buyer's own fault: {reason}"),
        }
    }
}

/// Judges a use of any service that ended without what was paid for; `None` for one that was answered, which the service's own assessor judges.
#[must_use]
pub fn assess_failure(id: AssessmentId, subject: Subject, at: UnixTime, ending: &Ending) -> Option<Assessment> {
    let verdict = ending.failure()?;
    Some(Assessment { id, subject, at, measurements: Vec::new(), verdict, evidence: json!({ "ending": ending }) })
}

/// What the buyer knows of the messages that the query asks for, from elsewhere.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Reference {
    /// Hashes of messages that match the query and that the buyer saw itself or has from another provider.
    pub seen: BTreeSet<Hash>,
    /// Whether there can be no other matching message. Only then are unknown messages injected ones.
    pub complete: bool,
}

/// One use of a Store.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct StoreObservation {
    /// Names the use.
    pub id: AssessmentId,
    /// Who served.
    pub subject: Subject,
    /// When.
    pub at: UnixTime,
    /// The query.
    pub query: StoreQuery,
    /// The pages, in the order of arrival.
    pub pages: Vec<PageObserved>,
    /// The messages of all pages.
    pub returned: Vec<ReturnedMessage>,
    /// What should have come.
    pub reference: Reference,
    /// Whether the last page was reached, so that what is missing is missing.
    pub exhausted: bool,
    /// How it ended.
    pub ending: Ending,
}

/// Judges uses of a Store.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct StoreAssessor {
    /// A page within this time is as fast as can be wished.
    pub good_latency: Duration,
    /// A page that takes this long is worth nothing for its speed.
    pub bad_latency: Duration,
}

impl Default for StoreAssessor {
    fn default() -> Self {
        Self { good_latency: Duration::from_millis(200), bad_latency: Duration::from_secs(10) }
    }
}

/// Weights of the parts of a score.
const COMPLETENESS: f64 = 0.7;
const LATENCY: f64 = 0.2;
const EMPTY_PAGES: f64 = 0.1;
/// How much a use counts whose answer couldn't be checked against anything.
const UNCHECKED: f64 = 0.25;
/// How much an injected message counts.
const INJECTION: f64 = 4.0;

impl StoreAssessor {
    /// Judges one use.
    #[must_use]
    pub fn assess(&self, observed: &StoreObservation) -> Assessment {
        let findings = Findings::of(observed);
        let mut measurements = vec![
            noted("returned", count(observed.returned.len()), "messages"),
            noted("expected", count(observed.reference.seen.len()), "messages"),
            noted("missing", count(findings.missing.len()), "messages"),
            noted("injected", count(findings.injected.len()), "messages"),
            noted("unconfirmed", count(findings.unconfirmed), "messages"),
            noted("pages", count(observed.pages.len()), "pages"),
        ];
        if let Some(completeness) = findings.completeness {
            measurements.push(scored("completeness", completeness, "share", completeness, COMPLETENESS));
        }
        if let Some(middle) = median(observed.pages.iter().map(|page| page.latency).collect()) {
            measurements.push(latency(middle, self.good_latency, self.bad_latency, LATENCY));
        }
        if !observed.pages.is_empty() {
            let share = count(findings.empty_pages) / count(observed.pages.len());
            measurements.push(scored("empty_pages", share, "share", 1.0 - share, EMPTY_PAGES));
        }
        let verdict = verdict(observed, &findings, &measurements);
        Assessment {
            id: observed.id.clone(),
            subject: observed.subject.clone(),
            at: observed.at,
            measurements,
            verdict,
            evidence: json!({
                "ending": observed.ending,
                "query": {
                    "pubsub_topic": observed.query.pubsub_topic.is_some(),
                    "content_topics": observed.query.content_topics.len(),
                    "time_start": observed.query.time_start,
                    "time_end": observed.query.time_end,
                },
                "reference_complete": observed.reference.complete,
                "exhausted": observed.exhausted,
                "missing": listed(&findings.missing),
                "injected": listed(&findings.injected),
                "latencies_ms": observed.pages.iter().take(MAX_LISTED).map(|page| page.latency.as_millis()).collect::<Vec<_>>(),
            }),
        }
    }
}

fn verdict(observed: &StoreObservation, findings: &Findings, measurements: &[Measurement]) -> Verdict {
    // A false answer is worse than none, whatever else happened.
    if !findings.injected.is_empty() {
        return Verdict::Scored { score: 0.0, weight: INJECTION };
    }
    if let Some(failure) = observed.ending.failure() {
        return failure;
    }
    let mean = mean(measurements);
    // Speed doesn't make up for what is missing.
    let score = findings.completeness.map_or(mean, |share| mean.min(share));
    let weight = if findings.completeness.is_some() { 1.0 } else { UNCHECKED };
    Verdict::Scored { score, weight }
}

struct Findings {
    missing: Vec<Hash>,
    injected: Vec<Hash>,
    unconfirmed: usize,
    empty_pages: usize,
    completeness: Option<f64>,
}

impl Findings {
    fn of(observed: &StoreObservation) -> Self {
        let reference = &observed.reference;
        let mut returned = BTreeSet::new();
        let mut injected = Vec::new();
        let mut unconfirmed = 0;
        for message in &observed.returned {
            let forged = message.content_hash.is_some_and(|content| content != message.hash);
            // The same message twice is padding: it is counted against the provider as one that doesn't belong there.
            let repeated = !returned.insert(message.hash);
            let known = reference.seen.contains(&message.hash);
            if forged || repeated || !observed.query.asks_for(message) || (reference.complete && !known) {
                injected.push(message.hash);
            } else if !known {
                unconfirmed += 1;
            }
        }
        // What a provider forged doesn't complete its answer.
        for hash in &injected {
            if observed
                .returned
                .iter()
                .any(|message| message.hash == *hash && message.content_hash.is_some_and(|c| c != *hash))
            {
                returned.remove(hash);
            }
        }
        let missing: Vec<_> =
            if observed.exhausted { reference.seen.difference(&returned).copied().collect() } else { Vec::new() };
        let answered = observed.ending == Ending::Answered;
        let completeness = (answered && observed.exhausted && !reference.seen.is_empty())
            .then(|| 1.0 - count(missing.len()) / count(reference.seen.len()));
        // An empty page is only wrong when more was to come.
        let expects = !reference.seen.is_empty();
        let empty_pages = observed
            .pages
            .iter()
            .filter(|page| page.messages == 0 && (page.more || (expects && observed.pages.len() == 1)))
            .count();
        Self { missing, injected, unconfirmed, empty_pages, completeness }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::assess::{ProviderName, ServiceName};

    const TOPIC: &str = "/app/1/chat/proto";

    fn message(byte: u8) -> ReturnedMessage {
        ReturnedMessage {
            hash: [byte; 32],
            content_hash: Some([byte; 32]),
            pubsub_topic: "/waku/2/rs/1/0".into(),
            content_topic: TOPIC.into(),
            timestamp: i64::from(byte),
        }
    }

    fn observed(returned: &[u8], seen: &[u8]) -> StoreObservation {
        StoreObservation {
            id: AssessmentId::new("use-1").unwrap(),
            subject: Subject {
                provider: ProviderName::new("16Uiu2HAmProvider").unwrap(),
                service: ServiceName::new("store").unwrap(),
            },
            at: UnixTime::new(1000).unwrap(),
            query: StoreQuery {
                pubsub_topic: Some("/waku/2/rs/1/0".into()),
                content_topics: vec![TOPIC.into()],
                time_start: Some(0),
                time_end: Some(100),
            },
            pages: vec![PageObserved { latency: Duration::from_millis(50), messages: returned.len(), more: false }],
            returned: returned.iter().copied().map(message).collect(),
            reference: Reference { seen: seen.iter().map(|byte| [*byte; 32]).collect(), complete: true },
            exhausted: true,
            ending: Ending::Answered,
        }
    }

    fn score(observed: &StoreObservation) -> (f64, f64) {
        let assessment = StoreAssessor::default().assess(observed);
        assessment.check().unwrap();
        match assessment.verdict {
            Verdict::Scored { score, weight } => (score, weight),
            other => panic!("not scored: {other:?}"),
        }
    }

    #[test]
    fn a_complete_fast_answer_is_perfect() {
        let (score, weight) = score(&observed(&[1, 2, 3], &[1, 2, 3]));
        assert!((score - 1.0).abs() < 1e-12);
        assert!((weight - 1.0).abs() < 1e-12);
    }

    #[test]
    fn what_is_missing_bounds_the_score() {
        let half = observed(&[1, 2], &[1, 2, 3, 4]);
        let (value, _) = score(&half);
        assert!((value - 0.5).abs() < 1e-12, "{value}");
        let assessment = StoreAssessor::default().assess(&half);
        assert_eq!(assessment.value("missing"), Some(2.0));
        assert_eq!(assessment.evidence["missing"][0], hex::encode([3; 32]));
        let (nothing, _) = score(&observed(&[], &[1, 2]));
        assert!(nothing.abs() < 1e-12, "{nothing}");
    }

    #[test]
    fn an_answer_that_was_not_read_to_its_end_misses_nothing() {
        let mut partial = observed(&[1, 2], &[1, 2, 3, 4]);
        partial.exhausted = false;
        let (value, weight) = score(&partial);
        assert!((value - 1.0).abs() < 1e-12);
        assert!((weight - UNCHECKED).abs() < 1e-12);
    }

    #[test]
    fn each_kind_of_injected_message_fails_the_use() {
        let good = observed(&[1, 2], &[1, 2]);
        let mut cases = Vec::new();
        cases.push(("unknown to a complete reference", observed(&[1, 2, 3], &[1, 2])));
        cases.push(("twice", observed(&[1, 2, 2], &[1, 2])));
        let mut case = good.clone();
        case.returned[0].content_hash = Some([9; 32]);
        cases.push(("content of another hash", case));
        let mut case = good.clone();
        case.returned[0].content_topic = "/other/1/x/proto".into();
        cases.push(("another content topic", case));
        let mut case = good.clone();
        case.returned[0].pubsub_topic = "/waku/2/rs/1/1".into();
        cases.push(("another shard", case));
        let mut case = good.clone();
        case.returned[0].timestamp = 101;
        cases.push(("too late", case));
        let mut case = good;
        case.returned[0].timestamp = -1;
        cases.push(("too early", case));
        for (name, case) in cases {
            let (value, weight) = score(&case);
            assert!(value.abs() < 1e-12, "{name}: {value}");
            assert!((weight - INJECTION).abs() < 1e-12, "{name}");
        }
    }

    #[test]
    fn messages_that_an_incomplete_reference_does_not_know_are_only_noted() {
        let mut case = observed(&[1, 2, 3], &[1, 2]);
        case.reference.complete = false;
        let (value, _) = score(&case);
        assert!((value - 1.0).abs() < 1e-12);
        let assessment = StoreAssessor::default().assess(&case);
        assert_eq!(assessment.value("unconfirmed"), Some(1.0));
    }

    #[test]
    fn slowness_and_empty_pages_cost_a_part() {
        let mut slow = observed(&[1], &[1]);
        slow.pages[0].latency = Duration::from_secs(20);
        let (value, _) = score(&slow);
        assert!((value - 0.8).abs() < 1e-9, "{value}");

        let mut padded = observed(&[1], &[1]);
        let empty = PageObserved { latency: Duration::from_millis(50), messages: 0, more: true };
        padded.pages.insert(0, empty);
        let (value, _) = score(&padded);
        assert!((value - 0.95).abs() < 1e-9, "{value}");
    }

    #[test]
    fn an_empty_last_page_is_in_order() {
        let mut case = observed(&[1], &[1]);
        case.pages.push(PageObserved { latency: Duration::from_millis(50), messages: 0, more: false });
        let (value, _) = score(&case);
        assert!((value - 1.0).abs() < 1e-12);
    }

    #[test]
    fn whose_fault_it_was_is_told_apart() {
        let ending = |ending: Ending| {
            let mut case = observed(&[], &[1]);
            case.pages.clear();
            case.exhausted = false;
            case.ending = ending;
            StoreAssessor::default().assess(&case).verdict
        };
        let failed = |weight| Verdict::Scored { score: 0.0, weight };
        assert_eq!(ending(Ending::FailedAfterPayment { reason: "503".into() }), failed(2.0));
        assert_eq!(ending(Ending::NoAnswer), failed(1.0));
        assert_eq!(ending(Ending::Unreachable { others_reachable: true }), failed(0.5));
        assert!(matches!(ending(Ending::Unreachable { others_reachable: false }), Verdict::NetworkFault { .. }));
        assert!(matches!(ending(Ending::BuyerError { reason: "malformed".into() }), Verdict::BuyerFault { .. }));
        assert!(Ending::NoAnswer.is_fault() && !Ending::Answered.is_fault());
        assert!(!Ending::Unreachable { others_reachable: false }.is_fault());
        assert!(!Ending::BuyerError { reason: "malformed".into() }.is_fault());
    }

    #[test]
    fn evidence_stays_bounded() {
        let returned: Vec<u8> = (0..=99).collect();
        let case = observed(&returned, &[200]);
        let assessment = StoreAssessor::default().assess(&case);
        assessment.check().unwrap();
        assert_eq!(assessment.evidence["injected"].as_array().unwrap().len(), MAX_LISTED);
    }
}
