//! Times proving and verification on the real circuits and prints one JSON object: `prover-bench [--root DIR] [--quick] [--no-snarkjs]`.
//!
//! A proof's time is witness and proof together, keys loaded. Names and bars are those of `script/bench`, which calls this.

use std::{
    env, fs,
    path::{Path, PathBuf},
    process::{Command, ExitCode},
    time::Instant,
};

use serde_json::{Map, Value, json};
use tributary_protocol::witness::{CircuitInputs, Witness};
use tributary_prover::{Artifacts, Circuit, Error, Fr, Proof, Prover, constraint_count, sample::SamplePool};

const USAGE: &str = "usage: prover-bench [--root DIR] [--quick] [--no-snarkjs]
  prints proving and verification times as JSON; --quick takes a tenth of the runs, --no-snarkjs leaves the comparison out";

/// How many runs a median is taken of.
struct Runs {
    proofs: usize,
    slow_proofs: usize,
    snarkjs: usize,
    verifications: usize,
}

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
    let mut root = PathBuf::from(".");
    let mut runs = Runs { proofs: 30, slow_proofs: 10, snarkjs: 10, verifications: 20 };
    let mut compare = true;
    let mut args = env::args().skip(1);
    while let Some(arg) = args.next() {
        match arg.as_str() {
            "--root" => root = args.next().ok_or(USAGE)?.into(),
            "--quick" => runs = Runs { proofs: 3, slow_proofs: 1, snarkjs: 1, verifications: 5 },
            "--no-snarkjs" => compare = false,
            "--help" | "-h" => {
                println!("{USAGE}");
                return Ok(());
            }
            other => return Err(format!("unknown argument {other}\n{USAGE}")),
        }
    }
    let report = measure(&root, &runs, compare)?;
    println!("{}", serde_json::to_string_pretty(&report).map_err(|e| e.to_string())?);
    Ok(())
}

struct Case {
    circuit: Circuit,
    publics: Vec<Fr>,
    inputs: CircuitInputs,
}

fn case<W: Witness>(witness: &W) -> Result<Case, String> {
    let prepared = witness.prepare().map_err(|e| format!("{}: {e}", W::CIRCUIT))?;
    Ok(Case { circuit: prepared.circuit, publics: prepared.public_inputs, inputs: prepared.inputs })
}

fn describe(e: &Error) -> String {
    format!("{e} [{}]", e.code())
}

fn measure(root: &Path, runs: &Runs, compare: bool) -> Result<Value, String> {
    let artifacts = Artifacts::new(root.join("build/circuits"));
    let pool = SamplePool::default();
    let ticket = case(&pool.ticket(1, 0))?;
    let transact = case(&pool.open(false))?;
    let close = case(&pool.close(false))?;
    let claim = case(&pool.claim(16, true, false))?;
    let insert = case(&pool.insert(256, 64))?;

    let mut out = Map::new();
    // A buyer's circuits first, so that the memory's peak is a buyer's.
    let buyer = [Circuit::Ticket, Circuit::Transact, Circuit::Close];
    let started = Instant::now();
    let prover = Prover::load(artifacts.dir(), &buyer).map_err(|e| describe(&e))?;
    for circuit in buyer {
        prover.warm(circuit).map_err(|e| describe(&e))?;
    }
    out.insert("buyer_keys_load_ms".into(), milliseconds(started).into());
    let ticket_ms = prove(&prover, &ticket, runs.proofs)?;
    let transact_ms = prove(&prover, &transact, runs.proofs)?;
    out.insert("ticket_prove_ms".into(), ticket_ms.into());
    out.insert("transact_prove_ms".into(), transact_ms.into());
    out.insert("close_prove_ms".into(), prove(&prover, &close, runs.proofs)?.into());
    out.insert("ticket_witness_ms".into(), witness(&prover, &ticket, runs.proofs)?.into());
    out.insert("transact_witness_ms".into(), witness(&prover, &transact, runs.proofs)?.into());
    verification(&prover, &ticket, runs, &mut out)?;
    out.insert("buyer_prover_peak_mib".into(), peak_mib()?.into());

    if compare {
        let theirs = snarkjs(root, &artifacts, &[&ticket, &transact], runs.snarkjs)?;
        // The same run: ours again right after theirs, in case the machine's load changed.
        let ours = [prove(&prover, &ticket, runs.proofs)?, prove(&prover, &transact, runs.proofs)?];
        for (name, theirs, ours) in
            [("ticket", theirs[0], ticket_ms.max(ours[0])), ("transact", theirs[1], transact_ms.max(ours[1]))]
        {
            out.insert(format!("{name}_snarkjs_ms"), theirs.into());
            out.insert(format!("{name}_vs_snarkjs"), (theirs / ours).into());
        }
    }

    let prover = Prover::load(artifacts.dir(), &[Circuit::Claim, Circuit::Insert]).map_err(|e| describe(&e))?;
    for case in [&claim, &insert] {
        prover.warm(case.circuit).map_err(|e| describe(&e))?;
    }
    out.insert("claim_16_prove_ms".into(), prove(&prover, &claim, runs.slow_proofs)?.into());
    out.insert("insert_64_prove_ms".into(), prove(&prover, &insert, runs.slow_proofs)?.into());

    let mut constraints = Map::new();
    for circuit in Circuit::ALL {
        let count = constraint_count(&artifacts.r1cs(circuit)).map_err(|e| describe(&e))?;
        constraints.insert(circuit.name().into(), count.into());
    }
    out.insert("constraints".into(), constraints.into());
    Ok(Value::Object(out))
}

fn milliseconds(since: Instant) -> f64 {
    since.elapsed().as_secs_f64() * 1e3
}

fn median(mut times: Vec<f64>) -> f64 {
    times.sort_by(f64::total_cmp);
    match times.len() {
        0 => 0.0,
        n if n % 2 == 1 => times[n / 2],
        n => f64::midpoint(times[n / 2 - 1], times[n / 2]),
    }
}

fn time<T>(runs: usize, mut f: impl FnMut() -> Result<T, String>) -> Result<f64, String> {
    let mut times = Vec::with_capacity(runs);
    for _ in 0..runs {
        let started = Instant::now();
        std::hint::black_box(f()?);
        times.push(milliseconds(started));
    }
    Ok(median(times))
}

fn prove(prover: &Prover, case: &Case, runs: usize) -> Result<f64, String> {
    time(runs, || prover.prove(case.circuit, &case.inputs).map_err(|e| describe(&e)))
}

fn witness(prover: &Prover, case: &Case, runs: usize) -> Result<f64, String> {
    time(runs, || prover.witness(case.circuit, &case.inputs).map_err(|e| describe(&e)))
}

/// From bytes to a verdict: 64 tickets one by one and 64 at once, in turn, so that whatever else the machine does falls on both.
fn verification(prover: &Prover, ticket: &Case, runs: &Runs, out: &mut Map<String, Value>) -> Result<(), String> {
    const BATCH: usize = 64;
    let key = prover.verifying_key(ticket.circuit).map_err(|e| describe(&e))?;
    let proofs = (0..4)
        .map(|_| prover.prove(ticket.circuit, &ticket.inputs).map(|proof| proof.to_bytes()).map_err(|e| describe(&e)))
        .collect::<Result<Vec<_>, _>>()?;
    let parse = |i: usize| Proof::from_bytes(&proofs[i % proofs.len()]).map_err(|e| e.to_string());
    let (mut one_by_one, mut at_once) = (Vec::new(), Vec::new());
    for _ in 0..runs.verifications {
        let started = Instant::now();
        for i in 0..BATCH {
            key.verify(&ticket.publics, &parse(i)?).map_err(|e| e.to_string())?;
        }
        one_by_one.push(milliseconds(started) / BATCH as f64);
        let started = Instant::now();
        let batch =
            (0..BATCH).map(|i| Ok((ticket.publics.as_slice(), parse(i)?))).collect::<Result<Vec<_>, String>>()?;
        key.verify_batch(&batch).map_err(|e| e.to_string())?;
        at_once.push(milliseconds(started) / BATCH as f64);
    }
    let (one, all) = (median(one_by_one), median(at_once));
    out.insert("ticket_verify_ms".into(), one.into());
    out.insert("ticket_verify_batch64_ms".into(), all.into());
    out.insert("batch64_vs_single".into(), (one / all).into());
    Ok(())
}

/// The largest resident size of this process so far.
fn peak_mib() -> Result<f64, String> {
    let status = fs::read_to_string("/proc/self/status").map_err(|e| format!("/proc/self/status: {e}"))?;
    let line = status.lines().find_map(|line| line.strip_prefix("VmHWM:"));
    let kib = line.and_then(|line| line.trim().strip_suffix(" kB")).and_then(|n| n.trim().parse::<f64>().ok());
    kib.map(|kib| kib / 1024.0).ok_or_else(|| "/proc/self/status has no VmHWM".into())
}

/// Medians of snarkjs' fullProve, warm, with the same keys.
fn snarkjs(root: &Path, artifacts: &Artifacts, cases: &[&Case], runs: usize) -> Result<Vec<f64>, String> {
    let jobs: Vec<Value> = cases
        .iter()
        .map(|case| {
            json!({
                "inputs": case.inputs.to_json(),
                "wasm": artifacts.wasm(case.circuit),
                "zkey": artifacts.zkey(case.circuit),
                "runs": runs,
            })
        })
        .collect();
    let file = artifacts.dir().join(format!("bench-{}.json", std::process::id()));
    fs::write(&file, Value::Array(jobs).to_string()).map_err(|e| format!("{}: {e}", file.display()))?;
    let out = Command::new("node").arg(root.join("crates/prover/snarkjs.mjs")).arg("time").arg(&file).output();
    let _ = fs::remove_file(&file);
    let out = out.map_err(|e| format!("node: {e}"))?;
    if !out.status.success() {
        return Err(format!("snarkjs: {}", String::from_utf8_lossy(&out.stderr)));
    }
    let answers: Vec<Vec<f64>> = serde_json::from_slice(&out.stdout).map_err(|e| format!("snarkjs: {e}"))?;
    Ok(answers.into_iter().map(median).collect())
}
