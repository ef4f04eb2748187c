//! Many runs: each attack's best tactic, over burns and seeds, with and without ratings, and the curve of spending against share.

use std::fmt::Write as _;

use serde::Serialize;

use crate::model::{Attack, Setup, SetupError};
use crate::run::{Outcome, simulate};

/// The bar: the highest allowed share of judged purchases that are cheated.
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

/// One attack at one burn and weight of ratings: the worst over tactics and seeds, by the share of purchases that were cheated.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Cell {
    /// The attack.
    pub attack: Attack,
    /// The burn, of 10,000.
    pub burn_bps: u32,
    /// How much buyers weigh the ratings of others.
    pub network: f64,
    /// The tactic that worked best.
    pub tactic: &'static str,
    /// The seed that it worked best with.
    pub seed: u64,
    /// What came of that run.
    pub outcome: Outcome,
    /// The highest share of purchases at cheating providers, of every tactic and seed. One that cheats one use in ten counts with all ten.
    pub widest: f64,
    /// The tactic of that.
    pub widest_tactic: &'static str,
}

/// A point of the curve.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Point {
    /// Spending, as a share of honest spending.
    pub spending: f64,
    /// How much buyers weigh the ratings of others.
    pub network: f64,
    /// The tactic that worked best.
    pub tactic: &'static str,
    /// Share of judged purchases that were cheated.
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
    /// The highest cheated share of all cells.
    pub worst: f64,
    /// The bar.
    pub bar: f64,
}

/// Runs a plan; `tell` hears of each finished cell.
///
/// # Errors
/// [`SetupError`] when a number lies outside its range.
pub fn study(plan: &Plan, mut tell: impl FnMut(&Cell)) -> Result<Report, SetupError> {
    let mut cells = Vec::new();
    for &network in &plan.networks {
        for &burn_bps in &plan.burns {
            for &attack in &plan.attacks {
                let setup = Setup { network, burn_bps, ..plan.setup };
                if let Some(cell) = worst(&setup, attack, &plan.seeds)? {
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
            if let Some(cell) = worst(&setup, Attack::All, seeds)? {
                tell(&cell);
                curve.push(Point { spending, network, tactic: cell.tactic, cheated: cell.outcome.cheated });
            }
        }
    }
    let worst = cells.iter().map(|cell| cell.outcome.cheated).fold(0.0, f64::max);
    Ok(Report { plan: plan.clone(), cells, curve, worst, bar: BAR })
}

fn worst(setup: &Setup, attack: Attack, seeds: &[u64]) -> Result<Option<Cell>, SetupError> {
    let mut runs = Vec::new();
    for tactic in attack.tactics(setup.warm_up) {
        for &seed in seeds {
            runs.push((tactic.name, seed, simulate(&Setup { seed, ..*setup }, &tactic)?));
        }
    }
    let Some((widest_tactic, widest)) =
        runs.iter().map(|(name, _, outcome)| (*name, outcome.share)).max_by(|(_, a), (_, b)| a.total_cmp(b))
    else {
        return Ok(None);
    };
    let (burn_bps, network) = (setup.burn_bps, setup.network);
    Ok(runs.into_iter().max_by(|(_, _, a), (_, _, b)| a.cheated.total_cmp(&b.cheated)).map(
        |(tactic, seed, outcome)| Cell { attack, burn_bps, network, tactic, seed, outcome, widest, widest_tactic },
    ))
}

impl Report {
    /// The report as a table.
    #[must_use]
    pub fn text(&self) -> String {
        let mut out = String::new();
        let _ = writeln!(
            out,
            "{:<18} {:>5} {:>7} {:>7} {:>9} {:>9} {:>7}  tactic with the most cheated (seed); the widest",
            "attack", "burn", "ratings", "cheated", "worst day", "at cheats", "widest"
        );
        for cell in &self.cells {
            let outcome = &cell.outcome;
            let _ = writeln!(
                out,
                "{:<18} {:>5} {:>7} {:>6.2}% {:>8.2}% {:>8.2}% {:>6.2}%  {} ({}); {}",
                cell.attack.to_string(),
                cell.burn_bps,
                cell.network,
                outcome.cheated * 100.0,
                outcome.worst_day * 100.0,
                outcome.share * 100.0,
                cell.widest * 100.0,
                cell.tactic,
                cell.seed,
                cell.widest_tactic,
            );
        }
        for point in &self.curve {
            let _ = writeln!(
                out,
                "spending {:>6.1}% of honest spending, ratings {}: cheated {:.2}% ({})",
                point.spending * 100.0,
                point.network,
                point.cheated * 100.0,
                point.tactic
            );
        }
        let verdict = if self.worst <= self.bar { "within" } else { "OVER" };
        let _ = write!(out, "most cheated {:.2}%, {verdict} the bar of {:.0}%", self.worst * 100.0, self.bar * 100.0);
        out
    }
}
