//! The full study, or that of the small market, without the rest of the product:
//! `cargo run -p tributary-simulator --example study -- FOLDER [SEEDS | small]`.

use std::path::PathBuf;

use tributary_simulator::{Plan, study, write_plots};

fn main() -> Result<(), Box<dyn std::error::Error>> {
    let mut args = std::env::args().skip(1);
    let folder = PathBuf::from(args.next().ok_or("name the folder of the figures")?);
    let plan = match args.next().as_deref() {
        None => Plan::full(5),
        Some("small") => Plan::small(),
        Some(seeds) => Plan::full(seeds.parse()?),
    };
    let report = study(&plan, |cell| {
        eprintln!(
            "{}, burn {}, ratings {}: dishonest {:.2}%, in part {:.2}%, cheated {:.2}%",
            cell.attack,
            cell.burn_bps,
            cell.network,
            cell.dishonest.share * 100.0,
            cell.in_part_share() * 100.0,
            cell.cheated.share * 100.0
        );
    })?;
    write_plots(&report, &folder)?;
    println!("{}", report.text());
    Ok(())
}
