//! The full study, without the rest of the product: `cargo run -p tributary-simulator --example study -- FOLDER [SEEDS]`.

use std::path::PathBuf;

use tributary_simulator::{Attack, Plan, Setup, study, write_plots};

fn main() -> Result<(), Box<dyn std::error::Error>> {
    let mut args = std::env::args().skip(1);
    let folder = PathBuf::from(args.next().ok_or("name the folder of the figures")?);
    let seeds: u64 = args.next().map_or(Ok(5), |text| text.parse())?;
    let plan = Plan {
        setup: Setup::default(),
        attacks: Attack::EVERY.to_vec(),
        burns: vec![100, 300],
        seeds: (1..=seeds).collect(),
        networks: vec![1.0, 0.0],
        spendings: vec![0.0, 0.01, 0.05, 0.1, 0.2, 0.5, 1.0],
    };
    let report = study(&plan, |cell| {
        eprintln!(
            "{}, burn {}, ratings {}: dishonest {:.2}%, cheated {:.2}%",
            cell.attack,
            cell.burn_bps,
            cell.network,
            cell.dishonest.share * 100.0,
            cell.cheated.share * 100.0
        );
    })?;
    write_plots(&report, &folder)?;
    println!("{}", report.text());
    Ok(())
}
