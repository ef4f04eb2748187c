//! Makes the development keys of the compiled circuits: `tributary-setup [--artifacts DIR] [circuit ...]`.
//!
//! The keys are INSECURE: their trapdoor follows from a public seed. Circuits whose r1cs file didn't change are skipped. With `--enter ZKEY
//! CIRCUIT` a ceremony's key takes the place of a circuit's development key.

use std::{env, path::Path, process::ExitCode, time::Instant};

use tributary_prover::{
    Artifacts, Circuit, Error, ceremony,
    setup::{Outcome, development_keys},
};

const USAGE: &str = "usage: tributary-setup [--artifacts DIR] [circuit ...]
       tributary-setup [--artifacts DIR] --enter ZKEY circuit
  makes INSECURE development keys in DIR (default build/circuits) for the named circuits, or for all;
  or enters a ceremony's key: use script/ceremony, which verifies it first";

fn main() -> ExitCode {
    match run() {
        Ok(()) => ExitCode::SUCCESS,
        Err(message) => {
            eprintln!("error: {message}");
            ExitCode::FAILURE
        }
    }
}

fn run() -> Result<(), String> {
    let mut dir = "build/circuits".to_owned();
    let mut circuits = Vec::new();
    let mut entered = None;
    let mut args = env::args().skip(1);
    while let Some(arg) = args.next() {
        match arg.as_str() {
            "--artifacts" => dir = args.next().ok_or(USAGE)?,
            "--enter" => entered = Some(args.next().ok_or(USAGE)?),
            "--help" | "-h" => {
                println!("{USAGE}");
                return Ok(());
            }
            name if name.starts_with('-') => return Err(format!("unknown option {name}\n{USAGE}")),
            name => {
                let circuit = Circuit::ALL.into_iter().find(|c| c.name() == name);
                circuits.push(circuit.ok_or_else(|| format!("no circuit is called {name}"))?);
            }
        }
    }
    if let Some(zkey) = entered {
        let [circuit] = circuits[..] else { return Err(USAGE.to_owned()) };
        let transcript = ceremony::enter(&Artifacts::new(dir), circuit, Path::new(&zkey));
        let names = transcript.map_err(|e| describe(&Error::from(e)))?.names;
        println!("{circuit}: {zkey} is its key now; contributions: {}", names.join(", "));
        return Ok(());
    }
    if circuits.is_empty() {
        circuits.extend(Circuit::ALL);
    }
    let mut started = Instant::now();
    development_keys(&Artifacts::new(dir), &circuits, |circuit, outcome| {
        let seconds = started.elapsed().as_secs_f64();
        match outcome {
            Outcome::Unchanged => println!("{circuit}: unchanged"),
            Outcome::Made => println!("{circuit}: INSECURE development key made in {seconds:.1} s"),
        }
        started = Instant::now();
    })
    .map_err(|e| describe(&Error::from(e)))
}

fn describe(e: &Error) -> String {
    format!("{e} [{}]", e.code())
}
