use std::collections::BTreeMap;

use rand::SeedableRng as _;
use rand::rngs::StdRng;
use tributary_market::choose::{
    Candidate, Choice, Explanation, Judgement, NEWCOMER_SHARE, Preset, Removed, Search, Standing, StandingParts, choose,
};
use tributary_market::negotiate::{StoreWanted, Wanted};
use tributary_market::offer::{Offer, RateClassId, ServiceId, UseUnit};
use tributary_market::sealed::EncryptionSecret;
use tributary_protocol::amount::{Price, Rate};

use crate::common::*;

fn search() -> Search {
    Search {
        service: ServiceId::store(),
        wanted: Wanted::Store(StoreWanted {
            retention: seconds(3600),
            pubsub_topic: SHARD.into(),
            content_topics: Vec::new(),
        }),
        pool: pool(),
        slot_length: seconds(60),
        unit: UseUnit::Page,
        units_per_slot: 3,
        duration: seconds(3600),
        max_unit_price: None,
        max_ticket_price: None,
        max_rate: None,
        min_score: None,
        only: Vec::new(),
        ignore: Vec::new(),
        preset: Preset::Trusted,
    }
}

fn standing(score: f64, latency_ms: f64) -> Standing {
    Standing { score, weight: 10.0, latency_ms: Some(latency_ms), ..Standing::default() }
}

fn candidate(byte: u8, price: u128, standing: Standing) -> Candidate {
    let offer = Offer { ticket_price: Price::new(price).unwrap(), ..offer() };
    Candidate { offer: verified(&offer, &key(byte)), standing }
}

fn draw(candidates: &[Candidate], search: &Search, seed: u64) -> (Option<Choice>, Explanation) {
    choose(candidates, search, now(), &mut StdRng::seed_from_u64(seed))
}

fn probabilities(explanation: &Explanation) -> BTreeMap<String, f64> {
    explanation
        .considered
        .iter()
        .filter_map(|line| match line.judgement {
            Judgement::Scored { probability, .. } => Some((line.provider.to_string(), probability)),
            Judgement::Removed(_) => None,
        })
        .collect()
}

fn name(byte: u8) -> String {
    key(byte).public().to_peer_id().to_string()
}

/// The filter that takes a lone candidate out.
fn removed_by(change: impl FnOnce(&mut Offer, &mut Standing, &mut Search)) -> Removed {
    let (mut offer, mut standing, mut search) = (offer(), standing(0.9, 50.0), search());
    change(&mut offer, &mut standing, &mut search);
    let candidate = Candidate { offer: verified(&offer, &key(1)), standing };
    let (choice, explanation) = draw(&[candidate], &search, 1);
    assert!(choice.is_none());
    assert!(explanation.to_string().contains("nobody passed the filters"));
    match &explanation.considered[0].judgement {
        Judgement::Removed(removed) => removed.clone(),
        other => panic!("not removed: {other:?}"),
    }
}

#[test]
fn each_filter_names_itself_and_the_values() {
    let peer = key(1).public().to_peer_id();
    assert!(matches!(removed_by(|o, _, _| o.pool = other_pool()), Removed::OtherPool { .. }));
    assert!(matches!(removed_by(|_, _, s| s.service = "turn".parse().unwrap()), Removed::NoService { .. }));
    let removed = removed_by(|_, _, s| {
        s.wanted = Wanted::Store(StoreWanted {
            retention: seconds(9_000_000),
            pubsub_topic: SHARD.into(),
            content_topics: Vec::new(),
        });
    });
    assert_eq!(removed.to_string(), "lacks retention 9000000 against 604800");
    assert!(matches!(removed_by(|_, _, s| s.unit = UseUnit::Minute), Removed::NoUnit { .. }));
    let removed = removed_by(|_, _, s| s.max_unit_price = Some(59));
    assert_eq!(removed, Removed::UnitPrice { price: 60, limit: 59 });
    let removed = removed_by(|_, _, s| s.max_ticket_price = Some(Price::new(59).unwrap()));
    assert!(matches!(removed, Removed::TicketPrice { .. }));
    let removed = removed_by(|_, _, s| s.max_rate = Some(Rate::new(9).unwrap()));
    let Removed::NoClass { classes } = removed else { panic!("{removed:?}") };
    assert_eq!(classes, ["class 1 costs 10 a second", "class 2 costs 20 a second"]);
    let removed = removed_by(|_, _, s| s.units_per_slot = 21);
    let Removed::NoClass { classes } = removed else { panic!("{removed:?}") };
    assert_eq!(classes[1], "class 2 pays 20 of 21 tickets a slot");
    assert!(matches!(removed_by(|_, _, s| s.duration = seconds(100)), Removed::NoClass { .. }));
    assert!(matches!(removed_by(|_, k, _| k.suspended = Some("equivocation".into())), Removed::Suspended { .. }));
    assert!(matches!(removed_by(|_, _, s| s.min_score = Some(0.95)), Removed::Score { .. }));
    assert_eq!(removed_by(|_, _, s| s.ignore = vec![peer]), Removed::Excluded);
    let other = key(2).public().to_peer_id();
    assert_eq!(removed_by(|_, _, s| s.only = vec![other]), Removed::Excluded);
}

#[test]
fn expired_offers_are_not_chosen() {
    let candidates = [candidate(1, 60, standing(0.9, 50.0))];
    let (choice, explanation) = choose(&candidates, &search(), time(NOW + 3600), &mut rng());
    assert!(choice.is_none());
    assert!(matches!(explanation.considered[0].judgement, Judgement::Removed(Removed::Expired { .. })));
    let (choice, explanation) = choose(&[], &search(), now(), &mut rng());
    assert!(choice.is_none());
    assert!(explanation.to_string().contains("no offers are known"));
}

#[test]
fn the_cheapest_class_that_pays_for_the_use_is_taken() {
    let candidates = [candidate(1, 60, standing(0.9, 50.0))];
    let (choice, _) = draw(&candidates, &search(), 1);
    let choice = choice.unwrap();
    assert_eq!((choice.rate_class, choice.tickets_per_slot, choice.unit_price), (RateClassId(1), 3, 60));
    let more = Search { units_per_slot: 11, ..search() };
    assert_eq!(draw(&candidates, &more, 1).0.unwrap().rate_class, RateClassId(2));
}

#[test]
fn the_same_seed_draws_the_same_whatever_the_order_of_candidates() {
    let mut candidates: Vec<_> = (1..=8).map(|byte| candidate(byte, 60, standing(0.9, 50.0))).collect();
    let forward: Vec<_> = (0..50).map(|seed| draw(&candidates, &search(), seed).1.chosen).collect();
    candidates.reverse();
    let backward: Vec<_> = (0..50).map(|seed| draw(&candidates, &search(), seed).1.chosen).collect();
    assert_eq!(forward, backward);
    let mut distinct = forward;
    distinct.sort_unstable();
    distinct.dedup();
    assert!(distinct.len() >= 6, "the draw spreads: {}", distinct.len());
}

#[test]
fn draws_follow_the_probabilities_shown() {
    let candidates = [
        candidate(1, 60, standing(0.95, 50.0)),
        candidate(2, 60, standing(0.90, 50.0)),
        candidate(3, 60, standing(0.20, 50.0)),
        candidate(4, 60, Standing::default()),
    ];
    let shown = probabilities(&draw(&candidates, &search(), 0).1);
    assert!((shown.values().sum::<f64>() - 1.0).abs() < 1e-9);
    let mut drawn: BTreeMap<String, f64> = BTreeMap::new();
    const DRAWS: u32 = 4000;
    let mut rng = rng();
    for _ in 0..DRAWS {
        let (choice, _) = choose(&candidates, &search(), now(), &mut rng);
        *drawn.entry(choice.unwrap().offer.peer_id().to_string()).or_default() += 1.0 / f64::from(DRAWS);
    }
    for (provider, probability) in shown {
        let share = drawn.get(&provider).copied().unwrap_or_default();
        assert!((share - probability).abs() < 0.03, "{provider}: shown {probability}, drawn {share}");
    }
}

#[test]
fn new_beats_known_bad_and_gets_some_work_beside_known_good() {
    let known_bad = candidate(1, 60, standing(0.2, 50.0));
    let newcomer = candidate(2, 60, Standing::default());
    let known_good = candidate(3, 60, standing(0.95, 50.0));
    let shown = probabilities(&draw(&[known_bad.clone(), newcomer.clone()], &search(), 1).1);
    assert_eq!((shown[&name(1)], shown[&name(2)]), (0.0, 1.0));
    let shown = probabilities(&draw(&[known_bad, newcomer, known_good], &search(), 1).1);
    assert_eq!(shown[&name(1)], 0.0);
    assert!((shown[&name(2)] - NEWCOMER_SHARE).abs() < 1e-9);
    assert!((shown[&name(3)] - (1.0 - NEWCOMER_SHARE)).abs() < 1e-9);
}

#[test]
fn praised_strangers_share_the_trials_once_somebody_is_known_to_be_good() {
    let praised = |byte| candidate(byte, 60, Standing { score: 0.75, ..Standing::default() });
    let known = candidate(1, 60, standing(0.55, 50.0));
    let shown = probabilities(&draw(&[known, praised(2), praised(3)], &search(), 1).1);
    assert!((shown[&name(1)] - (1.0 - NEWCOMER_SHARE)).abs() < 1e-9);
    assert!((shown[&name(2)] - NEWCOMER_SHARE / 2.0).abs() < 1e-9);
    // Nobody known is good: then what others say decides.
    let known = candidate(1, 60, standing(0.45, 50.0));
    let plain = candidate(4, 60, Standing::default());
    let shown = probabilities(&draw(&[known, praised(2), praised(3), plain], &search(), 1).1);
    assert_eq!(shown[&name(1)], 0.0);
    assert!((shown[&name(2)] - (1.0 - NEWCOMER_SHARE) / 2.0).abs() < 1e-9);
    assert!((shown[&name(4)] - NEWCOMER_SHARE).abs() < 1e-9);
}

#[test]
fn a_quarter_that_dumps_prices_makes_nobody_else_dear() {
    let usual = |byte| candidate(byte, 60, Standing::default());
    let candidates = [candidate(1, 1, Standing::default()), usual(2), usual(3), usual(4)];
    let shown = probabilities(&draw(&candidates, &search(), 1).1);
    for byte in 1..=4 {
        assert!((shown[&name(byte)] - 0.25).abs() < 1e-9, "{shown:?}");
    }
}

#[test]
fn many_dear_newcomers_get_nothing_and_many_cheap_ones_share() {
    let mut candidates = vec![candidate(1, 60, standing(0.95, 50.0))];
    candidates.extend((2..=50).map(|byte| candidate(byte, 121, Standing::default())));
    let shown = probabilities(&draw(&candidates, &search(), 1).1);
    assert!((shown[&name(1)] - 1.0).abs() < 1e-9);
    candidates.truncate(1);
    candidates.extend((2..=50).map(|byte| candidate(byte, 60, Standing::default())));
    // Whoever makes fifty identities gets no more than one newcomer would.
    let shown = probabilities(&draw(&candidates, &search(), 1).1);
    assert!((shown[&name(1)] - (1.0 - NEWCOMER_SHARE)).abs() < 1e-9);
}

#[test]
fn presets_prefer_what_they_say() {
    let cheap = candidate(1, 30, standing(0.6, 2000.0));
    let fast = candidate(2, 90, standing(0.7, 60.0));
    let trusted = candidate(3, 90, standing(0.99, 900.0));
    let best = |preset| {
        let candidates = [cheap.clone(), fast.clone(), trusted.clone()];
        draw(&candidates, &Search { preset, ..search() }, 1).1.considered[0].provider.to_string()
    };
    assert_eq!(best(Preset::Cheapest), name(1));
    assert_eq!(best(Preset::Fastest), name(2));
    assert_eq!(best(Preset::Trusted), name(3));
}

#[test]
fn the_private_preset_draws_evenly_and_prefers_sealed_requests() {
    let sealed = |byte, price| {
        let offer = Offer {
            ticket_price: Price::new(price).unwrap(),
            encryption_key: Some(EncryptionSecret::random(&mut rng()).public()),
            ..offer()
        };
        Candidate { offer: verified(&offer, &key(byte)), standing: standing(0.9, 50.0) }
    };
    let candidates = [sealed(1, 60), sealed(2, 70), candidate(3, 60, standing(0.9, 50.0))];
    let search = Search { preset: Preset::Private, ..search() };
    let shown = probabilities(&draw(&candidates, &search, 1).1);
    assert!((shown[&name(1)] - 0.5).abs() < 1e-9);
    assert!((shown[&name(2)] - 0.5).abs() < 1e-9);
    assert_eq!(shown[&name(3)], 0.0);
}

#[test]
fn an_explanation_shows_every_candidate_to_people_and_machines() {
    let candidates = [
        candidate(1, 60, standing(0.9, 50.0)),
        candidate(2, 61, standing(0.8, 50.0)),
        Candidate {
            standing: Standing { suspended: Some("equivocation".into()), ..standing(0.9, 50.0) },
            ..candidate(3, 60, Standing::default())
        },
    ];
    let (_, explanation) = draw(&candidates, &search(), 1);
    let text = explanation.to_string();
    assert_eq!(text.lines().count(), 5);
    assert!(text.contains("removed: suspended: equivocation"), "{text}");
    assert!(text.contains("chosen: "), "{text}");
    let json = serde_json::to_value(&explanation).unwrap();
    assert_eq!(json["considered"].as_array().unwrap().len(), 3);
    assert_eq!(json["considered"][2]["judgement"]["removed"]["filter"], "suspended");
    assert_eq!(json["considered"][0]["judgement"]["scored"]["score"]["reputation"], 0.9);
    assert_eq!(json["chosen"], explanation.chosen.unwrap().to_string());
}

#[test]
fn who_failed_lately_is_chosen_only_when_nobody_else_passes() {
    let failing = candidate(2, 60, Standing { failing: Some("no answer".into()), ..standing(0.95, 50.0) });
    let other = candidate(3, 119, Standing::default());
    for seed in 0..50 {
        let mut rng = StdRng::seed_from_u64(seed);
        let (choice, explanation) = choose(&[failing.clone(), other.clone()], &search(), now(), &mut rng);
        assert_eq!(choice.unwrap().offer.peer_id(), other.offer.peer_id());
        assert!(explanation.to_string().contains("failed lately, and others are there: no answer"), "{explanation}");
    }
    let (choice, _) = choose(std::slice::from_ref(&failing), &search(), now(), &mut StdRng::seed_from_u64(0));
    assert_eq!(choice.unwrap().offer.peer_id(), failing.offer.peer_id());
}

#[test]
fn who_is_outdone_is_left_for_the_known_good_then_for_strangers_and_taken_when_nobody_else_is_there() {
    let outdone = |byte| {
        let reason = Some("it failed more often than a new provider is expected to".to_owned());
        candidate(byte, 60, Standing { outdone: reason, ..standing(0.88, 50.0) })
    };
    let (known, stranger) = (candidate(2, 60, standing(0.6, 50.0)), candidate(3, 60, Standing::default()));
    let (_, explanation) = draw(&[outdone(1), known, stranger.clone()], &search(), 1);
    let shown = probabilities(&explanation);
    assert_eq!(shown[&name(1)], 0.0);
    assert!((shown[&name(2)] - (1.0 - NEWCOMER_SHARE)).abs() < 1e-9);
    assert!(explanation.to_string().contains("others are preferred: it failed more often"), "{explanation}");
    let shown = probabilities(&draw(&[outdone(1), stranger.clone()], &search(), 1).1);
    assert_eq!((shown[&name(1)], shown[&name(3)]), (0.0, 1.0));
    let shown = probabilities(&draw(&[outdone(1), outdone(2)], &search(), 1).1);
    assert!((shown[&name(1)] - 0.5).abs() < 1e-9);
    // To whom the price matters most it makes no difference.
    let cheapest = Search { preset: Preset::Cheapest, ..search() };
    let shown = probabilities(&draw(&[outdone(1), stranger], &cheapest, 1).1);
    assert!((shown[&name(1)] - (1.0 - NEWCOMER_SHARE)).abs() < 1e-9);
}

#[test]
fn of_the_known_good_the_more_reliable_is_drawn_much_oftener_and_strangers_of_whom_bad_is_said_get_no_trial() {
    let said = Some("ratings say that it is clearly worse than the usual provider".to_owned());
    let candidates = [
        candidate(1, 60, standing(0.96, 50.0)),
        candidate(2, 60, standing(0.92, 50.0)),
        candidate(3, 60, Standing { outdone: said, ..Standing::default() }),
        candidate(4, 60, Standing::default()),
    ];
    let shown = probabilities(&draw(&candidates, &search(), 1).1);
    let times = shown[&name(1)] / shown[&name(2)];
    assert!((8.0..9.0).contains(&times), "half the failures, drawn {times} times as often");
    assert_eq!(shown[&name(3)], 0.0);
    assert!((shown[&name(4)] - NEWCOMER_SHARE).abs() < 1e-9);
}

#[test]
fn an_explanation_shows_what_a_reputation_is_made_of() {
    let parts = StandingParts {
        own: 0.5,
        own_weight: 0.0,
        network: 0.83,
        network_weight: 1.5,
        ratings: 12,
        paid: 4096.0,
        agreement: 1.0,
    };
    let rated = candidate(2, 60, Standing { parts: Some(parts), ..Standing::default() });
    let (_, explanation) = choose(&[rated], &search(), now(), &mut StdRng::seed_from_u64(0));
    let text = explanation.to_string();
    assert!(text.contains("own 0.50 from 0.0 uses, ratings 0.83 worth 1.5: 12, 4096 paid, agreement 1.00"), "{text}");
}
