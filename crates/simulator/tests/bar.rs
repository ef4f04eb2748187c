//! A small market under every attack: the bar of the full one, in seconds.

use tributary_simulator::{Attack, BAR, Plan, Setup, simulate, study};

fn small() -> Setup {
    Setup { providers: 200, buyers: 4_000, ..Setup::default() }
}

#[test]
fn no_attack_alone_or_with_the_others_gets_more_than_the_bar() {
    for network in [1.0, 0.0] {
        let plan = Plan {
            setup: small(),
            attacks: Attack::EVERY.to_vec(),
            burns: vec![100],
            seeds: vec![1],
            networks: vec![network],
            spendings: vec![],
        };
        let report = study(&plan, |_| {}).unwrap();
        assert_eq!(report.cells.len(), Attack::EVERY.len());
        assert!(report.worst <= BAR, "{}", report.text());
    }
}

#[test]
fn the_same_seed_gives_the_same_whatever_the_number_of_threads() {
    let tactic = Attack::All.tactics(5)[1];
    let setup = Setup { days: 10, warm_up: 5, ..small() };
    let run = |threads| {
        let pool = rayon::ThreadPoolBuilder::new().num_threads(threads).build().unwrap();
        pool.install(|| simulate(&setup, &tactic).unwrap())
    };
    let one = run(1);
    assert_eq!(one, run(3));
    assert_ne!(one, simulate(&Setup { seed: 2, ..setup }, &tactic).unwrap());
}

#[test]
fn cheating_pays_before_anybody_knows_and_the_spending_stays_within_the_budget() {
    let outcome = simulate(&small(), &Attack::BallotStuffing.tactics(30)[0]).unwrap();
    let first = &outcome.days[0];
    assert!(first.cheated * 10 > first.purchases, "{first:?}");
    assert!(outcome.spent > 0.05 && outcome.spent < 0.11, "{}", outcome.spent);
    let refused = simulate(&Setup { dishonest: 1.5, ..small() }, &Attack::All.tactics(30)[0]).unwrap_err();
    assert_eq!(refused.code(), "TRB-M690");
}
