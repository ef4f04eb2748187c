//! The book of experience: persistence, decay with injected time, suspension, bounds.

use serde_json::json;
use tributary_protocol::time::{Seconds, UnixTime};
use tributary_reputation::{
    Assessment, AssessmentId, Config, Decay, Fault, FaultKind, Measurement, ProviderName, Reputation, ServiceName,
    Subject, Verdict,
};

const NOW: u64 = 1_800_000_000;
const DAY: u64 = 86_400;

fn time(seconds: u64) -> UnixTime {
    UnixTime::new(seconds).unwrap()
}

fn subject(provider: &str) -> Subject {
    Subject { provider: ProviderName::new(provider).unwrap(), service: ServiceName::new("store").unwrap() }
}

fn assessment(provider: &str, id: &str, score: f64, at: u64) -> Assessment {
    Assessment {
        id: AssessmentId::new(id).unwrap(),
        subject: subject(provider),
        at: time(at),
        measurements: vec![Measurement {
            name: "latency".into(),
            value: 80.0,
            unit: "ms".into(),
            score: Some(1.0),
            weight: 0.2,
        }],
        verdict: Verdict::Scored { score, weight: 1.0 },
        evidence: json!({ "id": id }),
    }
}

fn fault(provider: &str, digest: u8, at: u64) -> Fault {
    Fault {
        provider: ProviderName::new(provider).unwrap(),
        kind: FaultKind::Equivocation,
        at: time(at),
        evidence: vec![digest; 100],
        digest: [digest; 32],
    }
}

struct Book {
    directory: tempfile::TempDir,
}

impl Book {
    fn new() -> Self {
        Self { directory: tempfile::tempdir().unwrap() }
    }

    async fn open(&self) -> Reputation {
        let config = Config {
            decay: Decay { half_life: Seconds::new(10 * DAY).unwrap() },
            kept_assessments: 20,
            kept_faults: 5,
            ..Config::default()
        };
        Reputation::open(&self.directory.path().join("reputation.db"), config).await.unwrap()
    }
}

#[tokio::test]
async fn new_beats_known_bad_and_loses_to_known_good() {
    let book = Book::new();
    let reputation = book.open().await;
    for n in 0..5 {
        let good = assessment("good", &format!("good-{n}"), 1.0, NOW);
        let bad = assessment("bad", &format!("bad-{n}"), 0.0, NOW);
        assert!(reputation.record(&good).await.unwrap());
        assert!(reputation.record(&bad).await.unwrap());
    }
    let value = async |name| reputation.score(&subject(name), time(NOW)).await.unwrap();
    let (good, new, bad) = (value("good").await, value("new").await, value("bad").await);
    assert!(good.value > new.value && new.value > bad.value);
    assert!(new.is_newcomer() && !bad.is_newcomer());
    assert!((new.value - 0.5).abs() < 1e-12);
    assert!((good.experience.latency_ms().unwrap() - 80.0).abs() < 1e-9);
    let names: Vec<_> = reputation
        .scores(&ServiceName::new("store").unwrap(), time(NOW))
        .await
        .unwrap()
        .into_iter()
        .map(|score| score.subject.provider.to_string())
        .collect();
    assert_eq!(names, ["good", "bad"]);
}

#[tokio::test]
async fn experience_survives_a_restart_and_fades_with_time() {
    let book = Book::new();
    let reputation = book.open().await;
    for n in 0..8 {
        let good = assessment("p", &format!("id-{n}"), 1.0, NOW);
        reputation.record(&good).await.unwrap();
    }
    let before = reputation.score(&subject("p"), time(NOW)).await.unwrap();
    reputation.close().await;

    let reputation = book.open().await;
    let after = reputation.score(&subject("p"), time(NOW)).await.unwrap();
    assert_eq!(before, after);
    assert!((after.value - 0.9).abs() < 1e-9, "{}", after.value);

    let later = reputation.score(&subject("p"), time(NOW + 30 * DAY)).await.unwrap();
    assert!((later.experience.weight() - 1.0).abs() < 1e-9);
    assert!((later.value - 2.0 / 3.0).abs() < 1e-9);
    let history = reputation.history(&subject("p"), 3).await.unwrap();
    assert_eq!(history.len(), 3);
    assert_eq!(history[0].evidence["id"], "id-0");
}

#[tokio::test]
async fn an_assessment_counts_once_even_after_a_restart() {
    let book = Book::new();
    let reputation = book.open().await;
    let one = assessment("p", "same", 0.0, NOW);
    assert!(reputation.record(&one).await.unwrap());
    let before = reputation.score(&subject("p"), time(NOW)).await.unwrap();
    assert!(!reputation.record(&one).await.unwrap());
    reputation.close().await;
    let reputation = book.open().await;
    assert!(!reputation.record(&one).await.unwrap());
    let after = reputation.score(&subject("p"), time(NOW)).await.unwrap();
    assert_eq!(before, after);
}

#[tokio::test]
async fn faults_of_network_and_buyer_change_no_score() {
    let book = Book::new();
    let reputation = book.open().await;
    for (id, verdict) in [
        ("network", Verdict::NetworkFault { reason: "offline".into() }),
        ("buyer", Verdict::BuyerFault { reason: "malformed".into() }),
    ] {
        let mut assessment = assessment("p", id, 0.0, NOW);
        assessment.verdict = verdict;
        assert!(!reputation.record(&assessment).await.unwrap());
    }
    let score = reputation.score(&subject("p"), time(NOW)).await.unwrap();
    assert!(score.is_newcomer());
    assert_eq!(reputation.history(&subject("p"), 9).await.unwrap().len(), 2);
}

#[tokio::test]
async fn malformed_assessments_are_refused_and_change_nothing() {
    let book = Book::new();
    let reputation = book.open().await;
    let code = async |change: fn(&mut Assessment)| {
        let mut assessment = assessment("p", "x", 0.5, NOW);
        change(&mut assessment);
        reputation.record(&assessment).await.unwrap_err().code()
    };
    assert_eq!(code(|a| a.verdict = Verdict::Scored { score: 1.1, weight: 1.0 }).await, "TRB-M602");
    assert_eq!(code(|a| a.verdict = Verdict::Scored { score: f64::NAN, weight: 1.0 }).await, "TRB-M602");
    assert_eq!(code(|a| a.verdict = Verdict::Scored { score: 1.0, weight: 0.0 }).await, "TRB-M602");
    assert_eq!(code(|a| a.verdict = Verdict::Scored { score: 1.0, weight: 1000.0 }).await, "TRB-M602");
    assert_eq!(code(|a| a.evidence = json!("x".repeat(20_000))).await, "TRB-M603");
    assert_eq!(code(|a| a.measurements = vec![a.measurements[0].clone(); 33]).await, "TRB-M603");
    assert!(reputation.history(&subject("p"), 9).await.unwrap().is_empty());
    assert_eq!(ProviderName::new("").unwrap_err().code(), "TRB-M601");
    assert_eq!(ProviderName::new("a b").unwrap_err().code(), "TRB-M601");
    assert_eq!(ProviderName::new("x".repeat(129)).unwrap_err().code(), "TRB-M601");
}

#[tokio::test]
async fn a_hard_fault_suspends_until_its_time_and_longer_when_repeated() {
    let book = Book::new();
    let reputation = book.open().await;
    let name = ProviderName::new("p").unwrap();
    let first = reputation.report(&fault("p", 1, NOW)).await.unwrap();
    assert_eq!(first.until, time(NOW + 30 * DAY));
    // The same evidence again is no second fault.
    let same = reputation.report(&fault("p", 1, NOW + DAY)).await.unwrap();
    assert_eq!((same.until, same.faults), (first.until, 1));
    let second = reputation.report(&fault("p", 2, NOW)).await.unwrap();
    assert_eq!((second.until, second.faults), (time(NOW + 60 * DAY), 2));
    reputation.close().await;

    let reputation = book.open().await;
    let score = reputation.score(&subject("p"), time(NOW)).await.unwrap();
    assert_eq!(score.suspension.as_ref(), Some(&second));
    assert!(score.to_string().contains("suspended: equivocation"));
    assert_eq!(reputation.suspension(&name, time(NOW + 60 * DAY)).await.unwrap(), None);
    assert_eq!(reputation.suspensions(time(NOW)).await.unwrap(), [second]);
    let faults = reputation.faults(&name).await.unwrap();
    assert_eq!(faults.len(), 2);
    assert!(faults.iter().any(|found| found.evidence == vec![2; 100]));

    reputation.pardon(&name, time(NOW + 1)).await.unwrap();
    assert_eq!(reputation.suspension(&name, time(NOW + 1)).await.unwrap(), None);
    assert_eq!(reputation.faults(&name).await.unwrap().len(), 2);
}

#[tokio::test]
async fn suspension_never_exceeds_its_bound() {
    let book = Book::new();
    let reputation = book.open().await;
    let mut last = None;
    for digest in 0..60 {
        last = Some(reputation.report(&fault("p", digest, NOW)).await.unwrap());
    }
    assert_eq!(last.unwrap().until, time(NOW + 365 * DAY));
    let mut large = fault("p", 99, NOW);
    large.evidence = vec![0; 16 * 1024 + 1];
    assert_eq!(reputation.report(&large).await.unwrap_err().code(), "TRB-M603");
}

#[tokio::test]
async fn assessments_are_kept_within_bounds() {
    let book = Book::new();
    let reputation = book.open().await;
    for n in 0..30u64 {
        let one = assessment("p", &format!("id-{n:03}"), 1.0, NOW + n);
        assert!(reputation.record(&one).await.unwrap());
        let mut failed = assessment("q", &format!("net-{n}"), 1.0, NOW + n);
        failed.verdict = Verdict::NetworkFault { reason: "offline".into() };
        assert!(!reputation.record(&failed).await.unwrap());
    }
    let history = reputation.history(&subject("p"), 1000).await.unwrap();
    assert_eq!(history.len(), 20);
    assert_eq!(history[0].evidence["id"], "id-029");
    let score = reputation.score(&subject("p"), time(NOW)).await.unwrap();
    assert_eq!(score.experience.assessments, 30);
    let failures = reputation.history(&subject("q"), 1000).await.unwrap();
    assert_eq!(failures.len(), 20);
}

#[tokio::test]
async fn strangers_faults_do_not_push_out_what_was_suffered() {
    let book = Book::new();
    let reputation = book.open().await;
    let used = assessment("used", "id", 1.0, NOW);
    reputation.record(&used).await.unwrap();
    reputation.report(&fault("used", 1, NOW)).await.unwrap();
    for digest in 10..40 {
        let stranger = fault(&format!("stranger-{digest}"), digest, NOW + u64::from(digest));
        reputation.report(&stranger).await.unwrap();
    }
    let suspended = reputation.suspensions(time(NOW + 100)).await.unwrap();
    assert_eq!(suspended.len(), 5);
    assert!(suspended.iter().any(|s| s.provider.as_str() == "used"));
    assert!(suspended.iter().any(|s| s.provider.as_str() == "stranger-39"));
}
