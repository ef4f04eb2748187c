//! Writes calls of the pool with real proofs for the contract tests: `tributary-fixtures [--root DIR]`.
//!
//! The form of `build/fixtures/pool.json` is defined by `contracts/test/fixtures/README.md`. When neither the keys nor what is proved
//! changed, the file is left as it is.

use std::{
    env, fs,
    path::{Path, PathBuf},
    process::{Command, ExitCode},
    time::Instant,
};

use alloy_primitives::{U256, keccak256};
use serde_json::{Map, Value, json};
use sha2::{Digest, Sha256};
use tributary_protocol::{
    ClaimStatement, CloseStatement, ExternalData, FieldElement, InsertStatement, SealedMemo, Statement,
    TransactStatement,
    statement::CLAIM_LANES,
    witness::{CircuitInputs, Witness},
};
use tributary_prover::{
    Artifacts, Circuit, Error, Proof, Prover,
    sample::{self, BURN_BPS, LEAVES, MARGIN, NOTICE, NOW, REPEAT_AFTER, SLOT_LENGTH, SamplePool},
};

const USAGE: &str = "usage: tributary-fixtures [--root DIR]
  writes DIR/build/fixtures/pool.json (DIR is the repository, default the current folder)";

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
    let mut args = env::args().skip(1);
    while let Some(arg) = args.next() {
        match arg.as_str() {
            "--root" => root = args.next().ok_or(USAGE)?.into(),
            "--help" | "-h" => {
                println!("{USAGE}");
                return Ok(());
            }
            other => return Err(format!("unknown argument {other}\n{USAGE}")),
        }
    }
    let started = Instant::now();
    let artifacts = Artifacts::new(root.join("build/circuits"));
    let operations = operations(&SamplePool::default())?;
    let stamp = stamp(&artifacts, &operations)?;
    let path = root.join("build/fixtures/pool.json");
    if is_current(&path, &stamp) {
        println!("fixtures: unchanged");
        return Ok(());
    }
    let file = prove_all(&root, &artifacts, &operations, &stamp)?;
    let text = serde_json::to_vec_pretty(&file).map_err(|e| e.to_string())?;
    let store = || {
        fs::create_dir_all(path.parent().unwrap_or(Path::new(".")))?;
        let temporary = path.with_extension("partial");
        fs::write(&temporary, text)?;
        fs::rename(&temporary, &path)
    };
    store().map_err(|e| format!("{}: {e}", path.display()))?;
    println!("fixtures: {} calls in {:.1} s", operations.len() + 1, started.elapsed().as_secs_f64());
    Ok(())
}

/// One call, but for its proof.
struct Operation {
    name: &'static str,
    timestamp: u64,
    circuit: Circuit,
    inputs: CircuitInputs,
    /// The calldata with a given proof.
    call: Calldata,
}

type Calldata = Box<dyn Fn(&Proof) -> Vec<u8>>;

fn operations(pool: &SamplePool) -> Result<Vec<Operation>, String> {
    let later = NOW + REPEAT_AFTER;
    Ok(vec![
        operation("transact_deposit", NOW, &pool.deposit(), |w| transact(w.external.clone()))?,
        operation("transact_open", NOW, &pool.open(false), |w| transact(w.external.clone()))?,
        operation("transact_open_fee", NOW, &pool.open(true), |w| transact(w.external.clone()))?,
        operation("transact_withdraw", NOW, &pool.withdraw(), |w| transact(w.external.clone()))?,
        operation("close", NOW, &pool.close(false), |w| close(w.external.clone()))?,
        operation("close_reopen", NOW, &pool.close(true), |w| close(w.external.clone()))?,
        operation("claim_16_first", NOW, &pool.claim(16, false, false), |w| claim(w.external.clone()))?,
        operation("claim_16_repeat", later, &pool.claim(16, true, false), |w| claim(w.external.clone()))?,
        operation("claim_1", NOW, &pool.claim(1, false, true), |w| claim(w.external.clone()))?,
        operation("insert_64", NOW, &pool.insert(LEAVES as u64, 64), |_| insert())?,
        operation("insert_partial", NOW, &pool.insert(LEAVES as u64, 30), |_| insert())?,
        operation("insert_resume", NOW, &pool.insert(LEAVES as u64 + 30, 64), |_| insert())?,
    ])
}

fn operation<W, C>(name: &'static str, timestamp: u64, witness: &W, call: impl Fn(&W) -> C) -> Result<Operation, String>
where
    W: Witness,
    W::Statement: 'static,
    C: Fn(&W::Statement, &Proof) -> Vec<u8> + 'static,
{
    let prepared = witness.prepare().map_err(|e| format!("{name}: {e}"))?;
    let (call, statement) = (call(witness), prepared.statement);
    Ok(Operation {
        name,
        timestamp,
        circuit: prepared.circuit,
        inputs: prepared.inputs,
        call: Box::new(move |proof| call(&statement, proof)),
    })
}

/// A hash of the keys and of everything that is proved.
fn stamp(artifacts: &Artifacts, operations: &[Operation]) -> Result<String, String> {
    let mut h = Sha256::new();
    let manifest = artifacts.manifest();
    h.update(fs::read(&manifest).map_err(|e| format!("{}: {e}; run ./script/setup", manifest.display()))?);
    for operation in operations {
        h.update(operation.name);
        h.update(operation.timestamp.to_be_bytes());
        h.update(operation.inputs.to_json().to_string());
    }
    Ok(hex(&h.finalize()))
}

fn is_current(path: &Path, stamp: &str) -> bool {
    let known = fs::read(path).ok().and_then(|text| serde_json::from_slice::<Value>(&text).ok());
    known.is_some_and(|file| file["stamp"] == stamp)
}

fn prove_all(root: &Path, artifacts: &Artifacts, operations: &[Operation], stamp: &str) -> Result<Value, String> {
    let describe = |e: &Error| format!("{e} [{}]", e.code());
    let circuits = [Circuit::Transact, Circuit::Close, Circuit::Claim, Circuit::Insert];
    let prover = Prover::load(artifacts.dir(), &circuits).map_err(|e| describe(&e))?;
    let mut calls = Map::new();
    for operation in operations {
        let mut rng = sample::generator(&format!("proof of {}", operation.name));
        let proof = prover
            .prove_with(operation.circuit, &operation.inputs, &mut rng)
            .map_err(|e| format!("{}: {}", operation.name, describe(&e)))?;
        calls.insert(operation.name.to_owned(), entry(operation, &proof));
    }
    if let Some(open) = operations.iter().find(|operation| operation.name == "transact_open") {
        let proof = snarkjs_proof(root, artifacts, open)?;
        calls.insert("transact_open_snarkjs".to_owned(), entry(open, &proof));
    }
    let pool = SamplePool::default();
    let leaves: Vec<String> = pool.leaves().iter().map(|leaf| leaf.to_fr().to_hex()).collect();
    let queued: Vec<String> = pool.queued().iter().map(|leaf| leaf.to_fr().to_hex()).collect();
    Ok(json!({
        "stamp": stamp,
        "chainId": pool.pool().chain_id,
        "pool": pool.pool().address.to_checksum(None),
        "notice": NOTICE,
        "slotLength": SLOT_LENGTH,
        "margin": MARGIN,
        "burnBps": BURN_BPS,
        "leaves": leaves,
        "root": pool.root().to_fr().to_hex(),
        "queuedLeaves": queued,
        "operations": calls,
    }))
}

fn entry(operation: &Operation, proof: &Proof) -> Value {
    json!({ "timestamp": operation.timestamp, "calldata": format!("0x{}", hex(&(operation.call)(proof))) })
}

/// The proof that snarkjs makes of the same inputs.
fn snarkjs_proof(root: &Path, artifacts: &Artifacts, operation: &Operation) -> Result<Proof, String> {
    let jobs = json!([{
        "inputs": operation.inputs.to_json(),
        "wasm": artifacts.wasm(operation.circuit),
        "zkey": artifacts.zkey(operation.circuit),
    }]);
    let file = artifacts.dir().join(format!("snarkjs-{}.json", std::process::id()));
    fs::write(&file, jobs.to_string()).map_err(|e| format!("{}: {e}", file.display()))?;
    let out = Command::new("node").arg(root.join("crates/prover/snarkjs.mjs")).arg("prove").arg(&file).output();
    let _ = fs::remove_file(&file);
    let out = out.map_err(|e| format!("node: {e}"))?;
    if !out.status.success() {
        return Err(format!("snarkjs: {}", String::from_utf8_lossy(&out.stderr)));
    }
    let answer: Value = serde_json::from_slice(&out.stdout).map_err(|e| format!("snarkjs: {e}"))?;
    Proof::from_snarkjs(&answer[0]["proof"]).map_err(|e| format!("snarkjs: {e}"))
}

// ABI encoding, by the types in contracts/src/types/DataTypes.sol.

const PROOF: &str = "(uint256[2],uint256[2][2],uint256[2])";
const MEMO: &str = "(uint256,uint256,uint256,uint256,uint256)";
const EXT: &str = "(address,address,uint256,uint256,bool,bytes)";

fn transact(external: ExternalData) -> impl Fn(&TransactStatement, &Proof) -> Vec<u8> {
    move |s, proof| {
        let mut args = head(proof, s);
        args.extend([word(s.root), word(s.amount_in), word(s.amount_out)]);
        args.extend(s.nullifiers.map(word));
        args.extend(s.outputs.iter().map(|output| word(output.commitment)));
        s.outputs.iter().for_each(|output| push_memo(&mut args, &output.memo));
        let types = format!("{PROOF},uint256,uint256,uint256,uint256,uint256[2],uint256[2],{MEMO}[2]");
        with_external("transact", &types, &args, &external)
    }
}

fn close(external: ExternalData) -> impl Fn(&CloseStatement, &Proof) -> Vec<u8> {
    move |s, proof| {
        let mut args = head(proof, s);
        args.extend([word(s.root), word(s.tag), word(s.stop), word(s.amount_out), word(s.nullifier)]);
        args.extend(s.outputs.iter().map(|output| word(output.commitment)));
        s.outputs.iter().for_each(|output| push_memo(&mut args, &output.memo));
        let types = format!("{PROOF},uint256,uint256,uint256,uint256,uint256,uint256,uint256[2],{MEMO}[2]");
        with_external("close", &types, &args, &external)
    }
}

fn claim(external: ExternalData) -> impl Fn(&ClaimStatement, &Proof) -> Vec<u8> {
    move |s, proof| {
        let mut args = head(proof, s);
        args.extend([word(s.root), word(s.amount_out), word(s.output.commitment)]);
        push_memo(&mut args, &s.output.memo);
        for lane in 0..CLAIM_LANES {
            let window = s.lanes.get(lane);
            args.push(window.map_or(U256::ZERO, |w| word(w.tag)));
            args.push(window.map_or(U256::ZERO, |w| word(w.t1)));
        }
        let types = format!("{PROOF},uint256,uint256,uint256,uint256,{MEMO},(uint256,uint256)[{CLAIM_LANES}]");
        with_external("claim", &types, &args, &external)
    }
}

fn insert() -> impl Fn(&InsertStatement, &Proof) -> Vec<u8> {
    |s, proof| {
        let mut args = head(proof, s);
        let from = u64::from(s.batch_index) * 64 + u64::from(s.k);
        args.extend([word(s.old_root), word(s.new_root), U256::from(from)]);
        // The leaves' place, counted from the beginning of the arguments' tuple, which itself is dynamic.
        args.push(U256::from(32 * (args.len() + 1)));
        args.push(U256::from(s.leaves.len()));
        args.extend(s.leaves.iter().map(|leaf| word(*leaf)));
        args.insert(0, U256::from(32));
        let signature = format!("insert(({PROOF},uint256,uint256,uint256,uint256,uint256[]))");
        encode(&signature, &args, &[])
    }
}

fn word(x: impl Into<U256>) -> U256 {
    x.into()
}

fn head(proof: &Proof, statement: &impl Statement) -> Vec<U256> {
    let mut words: Vec<U256> = proof.to_bytes().chunks_exact(32).map(U256::from_be_slice).collect();
    words.push(statement.digest().to_u256());
    words
}

fn push_memo(words: &mut Vec<U256>, memo: &SealedMemo) {
    words.extend(memo.elements().map(|x| x.to_u256()));
}

/// A static tuple, then the external data, which is dynamic because of its memo.
fn with_external(name: &str, types: &str, args: &[U256], external: &ExternalData) -> Vec<u8> {
    let memo = external.memo_bytes();
    let mut words = args.to_vec();
    words.push(U256::from(32 * (args.len() + 1)));
    words.extend([
        external.terms.recipient.into_word().into(),
        external.terms.relayer.into_word().into(),
        external.terms.fee.into(),
        external.terms.deadline.into(),
        U256::from(external.terms.may_drop_outputs),
        U256::from(6 * 32),
        U256::from(memo.len()),
    ]);
    encode(&format!("{name}(({types}),{EXT})"), &words, &memo)
}

/// Selector, words, and a tail of whole words.
fn encode(signature: &str, words: &[U256], tail: &[u8]) -> Vec<u8> {
    let mut out = keccak256(signature)[..4].to_vec();
    out.extend(words.iter().flat_map(U256::to_be_bytes::<32>));
    out.extend_from_slice(tail);
    out.resize(4 + (out.len() - 4).next_multiple_of(32), 0);
    out
}

fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|b| format!("{b:02x}")).collect()
}
