//! Many runs: each attack's best tactic, over burns and seeds, with and without ratings, and the curve of spending against share.

use std::fmt::Write as _;

use serde::Serialize;

use crate::model::{Attack, Setup, SetupError, Tactic};
use crate::run::{Outcome, simulate};

/// The bar: the highest allowed share of judged purchases that go to dishonest providers.
pub const BAR: f64 = 0.05;

/// What is run.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Plan {
    /// The market; seed, burn, spending and weight of ratings are set for each run.
    pub setup: Setup,
    /// Attacks.
    pub attacks: Vec<Attack>,
    /// Burns, of 10,000.
    pub burns: Vec<u32>,
    /// Seeds.
    pub seeds: Vec<u64>,
    /// Weights of ratings.
    pub networks: Vec<f64>,
    /// Points of the curve, as shares of honest spending; run for all attacks together with the first burn and seed.
    pub spendings: Vec<f64>,
}

impl Plan {
    /// The full study, with seeds 1 to this one: every attack, burns of 1% and 3%, with and without ratings of others, and the curve.
    #[must_use]
    pub fn full(seeds: u64) -> Self {
        Self {
            setup: Setup::default(),
            attacks: Attack::EVERY.to_vec(),
            burns: vec![100, 300],
            seeds: (1..=seeds).collect(),
            networks: vec![1.0, 0.0],
            spendings: vec![0.0, 0.01, 0.05, 0.1, 0.2, 0.5, 1.0],
        }
    }

    /// The same attacks on a market of a tenth of the providers and a twenty-fifth of the buyers, in seconds.
    #[must_use]
    pub fn small() -> Self {
        let setup = Setup { providers: 100, buyers: 4_000, ..Setup::default() };
        Self { setup, burns: vec![100], spendings: Vec::new(), ..Self::full(1) }
    }
}

/// The highest of a figure over tactics and seeds.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Worst {
    /// The share of judged purchases.
    pub share: f64,
    /// The tactic that worked best.
    pub tactic: &'static str,
    /// The seed that it worked best with.
    pub seed: u64,
    /// What came of that run.
    pub outcome: Outcome,
}

/// One attack at one burn and weight of ratings.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Cell {
    /// The attack.
    pub attack: Attack,
    /// The burn, of 10,000.
    pub burn_bps: u32,
    /// How much buyers weigh the ratings of others.
    pub network: f64,
    /// The most purchases at dishonest providers, where these serve nothing once they cheat.
    pub dishonest: Worst,
    /// The most purchases at dishonest providers, served or not, where these cheat in a part of the uses; `None` without such a tactic.
    pub in_part: Option<Worst>,
    /// The most purchases that were cheated, of all tactics.
    pub cheated: Worst,
}

/// A point of the curve.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Point {
    /// Spending, as a share of honest spending.
    pub spending: f64,
    /// How much buyers weigh the ratings of others.
    pub network: f64,
    /// Highest share of judged purchases at dishonest providers that serve nothing once they cheat.
    pub dishonest: f64,
    /// The same at those that cheat in a part of the uses.
    pub in_part: f64,
    /// Highest share of judged purchases that were cheated.
    pub cheated: f64,
}

/// What came of a plan.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Report {
    /// What was run.
    pub plan: Plan,
    /// Each attack.
    pub cells: Vec<Cell>,
    /// Spending against share.
    pub curve: Vec<Point>,
    /// The highest share of purchases at dishonest providers that serve nothing once they cheat, of all cells.
    pub most_dishonest: f64,
    /// The same at those that cheat in a part of the uses.
    pub most_in_part: f64,
    /// The highest share of cheated purchases, of all cells.
    pub most_cheated: f64,
    /// The bar.
    pub bar: f64,
}

/// Runs a plan; `tell` hears of each finished cell.
///
/// # Errors
/// [`SetupError`] when a number lies outside its range.
pub fn study(plan: &Plan, mut tell: impl FnMut(&Cell)) -> Result<Report, SetupError> {
    let mut runs = Runs::default();
    let mut cells = Vec::new();
    for &network in &plan.networks {
        for &burn_bps in &plan.burns {
            for &attack in &plan.attacks {
                let setup = Setup { network, burn_bps, ..plan.setup };
                if let Some(cell) = runs.worst(&setup, attack, &plan.seeds)? {
                    tell(&cell);
                    cells.push(cell);
                }
            }
        }
    }
    let mut curve = Vec::new();
    let (burns, seeds) = (plan.burns.first(), plan.seeds.get(..1).unwrap_or_default());
    for &network in &plan.networks {
        for &spending in &plan.spendings {
            let burn_bps = burns.copied().unwrap_or(plan.setup.burn_bps);
            let setup = Setup { network, spending, burn_bps, ..plan.setup };
            if let Some(cell) = runs.worst(&setup, Attack::All, seeds)? {
                tell(&cell);
                let (dishonest, cheated, in_part) = (cell.dishonest.share, cell.cheated.share, cell.in_part_share());
                curve.push(Point { spending, network, dishonest, in_part, cheated });
            }
        }
    }
    let most = |share: fn(&Cell) -> f64| cells.iter().map(share).fold(0.0, f64::max);
    let (most_dishonest, most_cheated) = (most(|cell| cell.dishonest.share), most(|cell| cell.cheated.share));
    let most_in_part = most(Cell::in_part_share);
    Ok(Report { plan: plan.clone(), cells, curve, most_dishonest, most_in_part, most_cheated, bar: BAR })
}

/// Runs that are done. Where nothing that differs can change what comes out, one run serves for several cells.
#[derive(Default)]
struct Runs {
    done: Vec<(Setup, Tactic, Outcome)>,
}

impl Runs {
    fn run(&mut self, setup: Setup, tactic: Tactic) -> Result<Outcome, SetupError> {
        setup.check()?;
        let (mut setup, mut tactic) = (setup, Tactic { name: "", ..tactic });
        if setup.network <= 0.0 {
            // Nobody listens to what is bought.
            (tactic.praise, tactic.slander) = (0.0, 0.0);
        }
        if tactic.praise <= 0.0 && tactic.slander <= 0.0 {
            (setup.spending, setup.burn_bps, tactic.focus, tactic.saves) = (0.0, 0, 1.0, false);
        }
        if let Some((.., outcome)) = self.done.iter().find(|(one, other, _)| *one == setup && *other == tactic) {
            return Ok(outcome.clone());
        }
        let outcome = simulate(&setup, &tactic)?;
        self.done.push((setup, tactic, outcome.clone()));
        Ok(outcome)
    }

    fn worst(&mut self, setup: &Setup, attack: Attack, seeds: &[u64]) -> Result<Option<Cell>, SetupError> {
        let mut runs = Vec::new();
        for tactic in attack.tactics(setup.warm_up) {
            for &seed in seeds {
                runs.push((tactic, seed, self.run(Setup { seed, ..*setup }, tactic)?));
            }
        }
        let worst = |counts: fn(&Tactic) -> bool, share: fn(&Outcome) -> f64| {
            let runs = runs.iter().filter(|(tactic, ..)| counts(tactic));
            let (tactic, seed, outcome) = runs.max_by(|(.., a), (.., b)| share(a).total_cmp(&share(b)))?;
            Some(Worst { share: share(outcome), tactic: tactic.name, seed: *seed, outcome: outcome.clone() })
        };
        let dishonest = worst(|tactic| !tactic.serves_in_part(), |outcome| outcome.dishonest);
        let in_part = worst(Tactic::serves_in_part, |outcome| outcome.dishonest);
        let cheated = worst(|_| true, |outcome| outcome.cheated);
        let (burn_bps, network) = (setup.burn_bps, setup.network);
        Ok(dishonest.zip(cheated).map(|(dishonest, cheated)| Cell {
            attack,
            burn_bps,
            network,
            dishonest,
            in_part,
            cheated,
        }))
    }
}

impl Cell {
    /// The share of [`Self::in_part`], 0 without one.
    #[must_use]
    pub fn in_part_share(&self) -> f64 {
        self.in_part.as_ref().map_or(0.0, |worst| worst.share)
    }
}

impl Report {
    /// The report as a table.
    #[must_use]
    pub fn text(&self) -> String {
        let mut out = String::new();
        let _ = writeln!(
            out,
            "{:<18} {:>5} {:>7} {:>9} {:>7} {:>7}  {:<76} in part",
            "attack", "burn", "ratings", "dishonest", "in part", "cheated", "worst tactic (seed): dishonest"
        );
        for cell in &self.cells {
            let Cell { dishonest, in_part, cheated, .. } = cell;
            let named = |worst: &Worst| format!("{} ({})", worst.tactic, worst.seed);
            let _ = writeln!(
                out,
                "{:<18} {:>5} {:>7} {:>8.2}% {:>6.2}% {:>6.2}%  {:<76} {}",
                cell.attack.to_string(),
                cell.burn_bps,
                cell.network,
                dishonest.share * 100.0,
                cell.in_part_share() * 100.0,
                cheated.share * 100.0,
                named(dishonest),
                in_part.as_ref().map_or(String::new(), named),
            );
        }
        for point in &self.curve {
            let _ = writeln!(
                out,
                "spending {:>6.1}% of honest spending, ratings {}: dishonest {:.2}%, in part {:.2}%, cheated {:.2}%",
                point.spending * 100.0,
                point.network,
                point.dishonest * 100.0,
                point.in_part * 100.0,
                point.cheated * 100.0,
            );
        }
        for (what, most) in [
            ("purchases at dishonest providers that serve nothing", self.most_dishonest),
            ("purchases at dishonest providers that serve in part", self.most_in_part),
            ("cheated purchases", self.most_cheated),
        ] {
            let verdict = if most <= self.bar { "within" } else { "OVER" };
            let _ = writeln!(out, "most {what}: {:.2}%, {verdict} the bar of {:.0}%", most * 100.0, self.bar * 100.0);
        }
        out.truncate(out.trim_end().len());
        out
    }
}
