//! `tributary sim`: markets that don't exist.

use serde_json::to_value;
use tributary_simulator::{Attack, Plan, Setup, study, write_plots};

use crate::{
    args::{Cli, SimReputation},
    error::CliError,
    output::Format,
};

/// Spending of the curve, as shares of honest spending.
const CURVE: [f64; 7] = [0.0, 0.01, 0.05, 0.1, 0.2, 0.5, 1.0];

pub(crate) fn reputation(cli: &Cli, args: &SimReputation) -> Result<(), CliError> {
    let format = if cli.json { Format::Json } else { Format::Text };
    let plan = Plan {
        setup: Setup {
            providers: args.providers,
            buyers: args.buyers,
            sybils: args.sybils,
            spending: args.spending,
            ..Setup::default()
        },
        attacks: Attack::EVERY.to_vec(),
        burns: args.burn.clone(),
        seeds: (1..=args.seeds).collect(),
        networks: vec![1.0, 0.0],
        spendings: if args.no_curve { Vec::new() } else { CURVE.to_vec() },
    };
    let report = study(&plan, |cell| {
        format.progress(&format!(
            "{}, burn {}, ratings {}: {:.2}% at dishonest providers, {:.2}% cheated",
            cell.attack,
            cell.burn_bps,
            cell.network,
            cell.dishonest.share * 100.0,
            cell.cheated.share * 100.0
        ));
    })
    .map_err(|error| CliError::Input { reason: format!("{error} [{}]", error.code()) })?;
    if let Some(folder) = &args.out {
        write_plots(&report, folder)
            .map_err(|error| CliError::Input { reason: format!("{error} [{}]", error.code()) })?;
    }
    let value = to_value(&report).map_err(|error| CliError::Input { reason: error.to_string() })?;
    format.emit(&report.text(), &value);
    Ok(())
}
