//! What a store of ratings keeps, and what gives way.

use tempfile::TempDir;
use tributary_protocol::amount::Amount;
use tributary_protocol::ticket::RatingTier;
use tributary_protocol::time::UnixTime;
use tributary_reputation::{
    Assessment, AssessmentId, Config, Kept, Place, ProviderName, RatingBounds, RatingValue, Ratings, Reputation,
    ServiceName, Subject, Verdict, VerifiedRating,
};

fn time(seconds: u64) -> UnixTime {
    UnixTime::new(seconds).unwrap()
}

fn name(provider: &str) -> ProviderName {
    ProviderName::new(provider).unwrap()
}

fn subject(provider: &str, service: &str) -> Subject {
    Subject { provider: name(provider), service: ServiceName::new(service).unwrap() }
}

/// A rating of a stream, of a tier, made at an hour.
fn rating(stream: u8, provider: &str, paid: u128, made_at: u64) -> VerifiedRating {
    VerifiedRating {
        nullifier: [stream; 32],
        subject: subject(provider, "store"),
        value: RatingValue::new(0.9).unwrap(),
        tier: RatingTier::of(Amount::new(paid).unwrap()).unwrap(),
        slot_end: time(1000 + made_at),
        place: Place { made_at: time(made_at), revision: 0, digest: [stream; 32] },
    }
}

async fn open(dir: &TempDir, bounds: RatingBounds) -> (Reputation, Ratings) {
    let reputation = Reputation::open(&dir.path().join("reputation.sqlite"), Config::default()).await.unwrap();
    let ratings = reputation.ratings(bounds);
    (reputation, ratings)
}

async fn nullifiers(ratings: &Ratings) -> Vec<u8> {
    let mut kept: Vec<u8> = ratings.places().await.unwrap().into_iter().map(|(nullifier, _)| nullifier[0]).collect();
    kept.sort_unstable();
    kept
}

#[tokio::test]
async fn the_newest_of_a_stream_replaces_the_others_in_any_order() {
    let dir = tempfile::tempdir().unwrap();
    let (_reputation, ratings) = open(&dir, RatingBounds::default()).await;
    let first = rating(1, "a", 64, 3600);
    let by_hour = VerifiedRating { subject: subject("b", "filter"), ..rating(1, "a", 128, 7200) };
    let by_revision = VerifiedRating { place: Place { revision: 1, ..by_hour.place }, ..by_hour.clone() };
    let by_hash = VerifiedRating { place: Place { digest: [9; 32], ..by_revision.place }, ..by_revision.clone() };
    assert_eq!(ratings.put(std::slice::from_ref(&first)).await.unwrap(), [Kept::New]);
    assert_eq!(ratings.put(std::slice::from_ref(&first)).await.unwrap(), [Kept::Older]);
    let newer = [by_hour.clone(), by_revision, by_hash.clone()];
    assert_eq!(ratings.put(&newer).await.unwrap(), [Kept::Replaced; 3]);
    assert_eq!(ratings.put(&[first, by_hour]).await.unwrap(), [Kept::Older; 2]);
    let all = ratings.all().await.unwrap();
    assert_eq!(all.len(), 1);
    assert_eq!((&all[0].subject, all[0].paid.get(), all[0].at), (&by_hash.subject, 128, by_hash.slot_end));
}

#[tokio::test]
async fn a_full_store_forgets_low_tiers_first_and_then_old_ones() {
    let dir = tempfile::tempdir().unwrap();
    let bounds = RatingBounds { per_subject: 3, per_provider: 4, total: 6, ..RatingBounds::default() };
    let (_reputation, ratings) = open(&dir, bounds).await;
    let put = async |rating: VerifiedRating| ratings.put(&[rating]).await.unwrap()[0];
    for stream in 1..=3 {
        assert_eq!(put(rating(stream, "a", 1024, u64::from(stream) * 3600)).await, Kept::New);
    }
    // Dust pushes nothing out, however much of it there is; more paid does, and the oldest of the least goes.
    assert_eq!(put(rating(4, "a", 512, 36_000)).await, Kept::NoRoom);
    assert_eq!(put(rating(5, "a", 2048, 0)).await, Kept::New);
    assert_eq!(nullifiers(&ratings).await, [2, 3, 5]);
    // A provider with many services has no more room for it.
    let elsewhere =
        |stream, service: &str| VerifiedRating { subject: subject("a", service), ..rating(stream, "a", 4096, 3600) };
    for (stream, service) in [(6, "filter"), (7, "turn"), (8, "x")] {
        assert_eq!(put(elsewhere(stream, service)).await, Kept::New);
    }
    assert_eq!(nullifiers(&ratings).await, [5, 6, 7, 8]);
    // And many providers have no more than all.
    assert_eq!(put(rating(10, "b", 1, 3600)).await, Kept::New);
    assert_eq!(put(rating(11, "c", 2, 3600)).await, Kept::New);
    assert_eq!(put(rating(12, "d", 2, 7200)).await, Kept::New);
    assert_eq!(nullifiers(&ratings).await, [5, 6, 7, 8, 11, 12]);
    assert_eq!(ratings.forget_before(time(5000)).await.unwrap(), 5, "slots that ended before");
    assert_eq!(nullifiers(&ratings).await, [12]);
}

#[tokio::test]
async fn payees_are_bounded_and_those_of_known_providers_stay_longest() {
    let dir = tempfile::tempdir().unwrap();
    let bounds = RatingBounds { payees_per_provider: 2, payees: 4, ..RatingBounds::default() };
    let (reputation, ratings) = open(&dir, bounds).await;
    let known = async || {
        let mut pairs: Vec<_> = ratings
            .payees()
            .await
            .unwrap()
            .into_iter()
            .map(|(provider, payee)| (String::from(provider), payee[0]))
            .collect();
        pairs.sort();
        pairs
    };
    for (payee, at) in [(1, 10), (2, 20), (3, 30)] {
        ratings.put_payee(&name("rated"), &[payee; 32], time(at)).await.unwrap();
    }
    assert_eq!(known().await, [("rated".into(), 2), ("rated".into(), 3)], "the newest of a provider");
    ratings.put(&[rating(1, "rated", 64, 3600)]).await.unwrap();
    let assessment = Assessment {
        id: AssessmentId::new("use").unwrap(),
        subject: subject("used", "store"),
        at: time(1),
        measurements: Vec::new(),
        verdict: Verdict::Scored { score: 1.0, weight: 1.0 },
        evidence: serde_json::Value::Null,
    };
    reputation.record(&assessment).await.unwrap();
    ratings.put_payee(&name("used"), &[4; 32], time(5)).await.unwrap();
    for stranger in 0..50_u8 {
        let provider = name(&format!("stranger-{stranger:02}"));
        ratings.put_payee(&provider, &[stranger; 32], time(100 + u64::from(stranger))).await.unwrap();
    }
    let kept = known().await;
    assert_eq!(kept.len(), 4);
    for pair in [("rated", 2), ("rated", 3), ("used", 4), ("stranger-49", 49)] {
        assert!(kept.contains(&(pair.0.into(), pair.1)), "{pair:?} in {kept:?}");
    }
}
