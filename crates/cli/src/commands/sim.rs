//! `tributary sim`: markets that don't exist.

use serde_json::to_value;
use tributary_simulator::{Plan, Setup, study, write_plots};

use crate::{
    args::{Cli, SimReputation},
    error::CliError,
    output::Format,
};

pub(crate) fn reputation(cli: &Cli, args: &SimReputation) -> Result<(), CliError> {
    let format = if cli.json { Format::Json } else { Format::Text };
    let full = Plan::full(args.seeds);
    let plan = Plan {
        setup: Setup {
            providers: args.providers,
            buyers: args.buyers,
            sybils: args.sybils,
            spending: args.spending,
            ..full.setup
        },
        burns: args.burn.clone(),
        spendings: if args.no_curve { Vec::new() } else { full.spendings },
        ..full
    };
    let report = study(&plan, |cell| {
        format.progress(&format!(
            "{}, burn {}, ratings {}: {:.2}% at dishonest providers, {:.2}% at those that serve in part, {:.2}% cheated",
            cell.attack,
            cell.burn_bps,
            cell.network,
            cell.dishonest.share * 100.0,
            cell.in_part_share() * 100.0,
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
