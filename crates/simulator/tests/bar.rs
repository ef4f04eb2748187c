//! A small market under every attack: the bar of the full one, in seconds.

use std::path::Path;

use tributary_simulator::{Attack, BAR, Plan, Setup, simulate, study, write_plots};

/// No attack gets more than the bar where nothing is served, and where a part is served no more than its share of the providers; and the
/// figures in the docs are what comes out.
#[test]
fn no_attack_alone_or_with_the_others_gets_more_than_the_bar() {
    let plan = Plan::small();
    let report = study(&plan, |_| {}).unwrap();
    assert_eq!(report.cells.len(), 2 * Attack::EVERY.len());
    assert!(report.most_dishonest <= BAR, "{}", report.text());
    assert!(report.most_cheated <= BAR, "{}", report.text());
    assert!(report.most_in_part <= plan.setup.dishonest, "{}", report.text());
    // Whoever only changes names stays within it however it cheats.
    let whitewashing = report.cells.iter().filter(|cell| cell.attack == Attack::Whitewashing);
    assert!(whitewashing.clone().count() == 2 && whitewashing.clone().all(|cell| cell.in_part_share() <= BAR));
    // The least reliable honest providers have their share.
    for cell in &report.cells {
        assert!(
            cell.dishonest.outcome.least_reliable > 0.4,
            "{}: {:?}",
            cell.attack,
            cell.dishonest.outcome.least_reliable
        );
    }

    let fresh = tempfile::tempdir().unwrap();
    write_plots(&report, fresh.path()).unwrap();
    let shown = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../docs/src/simulation/small");
    for entry in std::fs::read_dir(fresh.path()).unwrap() {
        let entry = entry.unwrap();
        let have = std::fs::read_to_string(shown.join(entry.file_name())).unwrap_or_default();
        let want = std::fs::read_to_string(entry.path()).unwrap();
        // Not shown whole: a figure has many thousand characters.
        assert!(
            have == want,
            "{:?} is out of date; draw it by: study docs/src/simulation/small small",
            entry.file_name()
        );
    }
}

#[test]
fn the_same_seed_gives_the_same_whatever_the_number_of_threads() {
    let tactic = Attack::All.tactics(5)[1];
    let setup = Setup { days: 10, warm_up: 5, ..Plan::small().setup };
    let run = |threads| {
        let pool = rayon::ThreadPoolBuilder::new().num_threads(threads).build().unwrap();
        pool.install(|| simulate(&setup, &tactic).unwrap())
    };
    let one = run(1);
    assert_eq!(one, run(3));
    assert_ne!(one, simulate(&Setup { seed: 2, ..setup }, &tactic).unwrap());
    // More names than a book holds: each thousand buyers has a book of its own.
    let setup = Setup { sybils: 2_000, days: 4, warm_up: 2, ..setup };
    let outcome = simulate(&setup, &tactic).unwrap();
    assert_eq!(outcome.days.iter().map(|day| day.purchases).sum::<u64>(), 4 * u64::from(setup.buyers));
}

#[test]
fn cheating_pays_before_anybody_knows_and_the_spending_stays_within_the_budget() {
    let setup = Plan::small().setup;
    let outcome = simulate(&setup, &Attack::BallotStuffing.tactics(30)[0]).unwrap();
    let first = &outcome.days[0];
    assert!(first.cheated * 10 > first.purchases, "{first:?}");
    assert!(outcome.spent > 0.05 && outcome.spent < 0.11, "{}", outcome.spent);
    let refused = simulate(&Setup { dishonest: 1.5, ..setup }, &Attack::All.tactics(30)[0]).unwrap_err();
    assert_eq!(refused.code(), "TRB-M690");
}
