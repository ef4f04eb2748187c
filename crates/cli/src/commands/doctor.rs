//! `tributary doctor`: looks at everything a command needs and names what is wrong.

use std::{
    io::ErrorKind,
    path::Path,
    time::{SystemTime, UNIX_EPOCH},
};

use alloy::{
    eips::BlockNumberOrTag,
    primitives::keccak256,
    providers::{DynProvider, Provider as _},
};
use serde_json::json;
use tokio::net::TcpListener;
use tributary_bindings::{DeploymentManifest, IGroth16Verifier, StreamPool};
use tributary_prover::{Circuit, Prover};
use tributary_waku::{ArchiveError, NodeKey};
use tributary_wallet::WalletFolder;

use crate::{
    commands::relayer::{DATABASE, amount, low_balance},
    config::{Metrics, Provider, Relayer},
    context::{Context, Serves},
    daemon::address,
    error::CliError,
};

/// Seconds by which this machine's clock and the chain's may differ.
const MAX_SKEW: u64 = 60;

/// Chains on which development keys may guard a pool: local ones.
const DEVELOPMENT_CHAINS: [u64; 2] = [31_337, 1_337];

struct Check {
    name: &'static str,
    result: Result<String, String>,
}

/// Runs all checks.
pub(crate) async fn run(context: &Context) -> Result<(), CliError> {
    let mut checks = vec![Check { name: "metrics", result: metrics_port(&context.config.metrics).await }];
    if let Some(script) = &context.config.provider.policy_script {
        let result = policy_script(script, &context.config.provider);
        checks.push(Check { name: "script", result });
    }
    checks.push(Check { name: "relayer", result: relayer(&context.config.relayer).map_err(|error| error.to_string()) });
    if context.config.waku.archive.is_on() {
        checks.push(Check { name: "archive", result: archive(context).await });
    }
    let provided = &context.config.provider.services;
    if provided.iter().any(|service| service == "filter") {
        let result = context.config.check_filter().map(|()| "there is room for all leases".to_owned());
        checks.push(Check { name: "filter", result: result.map_err(|error| error.to_string()) });
    }
    if WalletFolder::new(context.home.clone()).seed().exists() {
        pool(context, &mut checks).await;
    } else {
        let result = Ok("none: a plain node, which needs neither chain nor circuits".to_owned());
        checks.push(Check { name: "wallet", result });
    }
    let mut check = |name, result: Result<String, String>| checks.push(Check { name, result });
    if !context.config.waku.bootstrap.is_empty() {
        match context.node(NodeKey::generate(), Serves::default()).await {
            Ok(node) => {
                let peers = node.connected_peers().await.len();
                let wanted = context.config.waku.bootstrap.len();
                check(
                    "peers",
                    if peers > 0 {
                        Ok(format!("{peers} of {wanted} bootstrap peers answer"))
                    } else {
                        Err(format!("none of {wanted} bootstrap peers answers: check waku.bootstrap"))
                    },
                );
                node.shutdown().await;
            }
            Err(error) => check("peers", Err(error.to_string())),
        }
    }

    let failed = checks.iter().filter(|check| check.result.is_err()).count();
    let lines: Vec<String> = checks
        .iter()
        .map(|check| match &check.result {
            Ok(detail) => format!("ok    {:<10} {detail}", check.name),
            Err(problem) => format!("FAIL  {:<10} {problem}", check.name),
        })
        .collect();
    let values: Vec<_> = checks
        .iter()
        .map(|check| json!({ "check": check.name, "ok": check.result.is_ok(), "detail": check.result.as_ref().unwrap_or_else(|problem| problem) }))
        .collect();
    context.format.emit(&lines.join("\n"), &json!({ "checks": values }));
    if failed > 0 { Err(CliError::Unhealthy { failed, checks: checks.len() }) } else { Ok(()) }
}

/// The message archive: whether it opens, and what is in it. Its tables are made if they aren't there, as the daemon would.
async fn archive(context: &Context) -> Result<String, String> {
    let location = context.archive();
    let failed = |error: ArchiveError| format!("{location}: {error}; check waku.archive");
    let archive = location.open().await.map_err(failed)?;
    let messages = archive.count().await.map_err(failed)?;
    archive.close().await;
    Ok(format!("{location} has {messages} messages"))
}

/// Chain, contract, keys and circuits.
async fn pool(context: &Context, checks: &mut Vec<Check>) {
    let mut check = |name, result: Result<String, String>| checks.push(Check { name, result });
    let manifest = context.manifest();
    check(
        "manifest",
        manifest.as_ref().map(|m| format!("pool {} on chain {}", m.pool, m.chain_id)).map_err(ToString::to_string),
    );
    let chain = context.chain();
    if let (Ok(chain), Ok(manifest)) = (&chain, &manifest) {
        let id = chain.get_chain_id().await;
        check(
            "chain",
            match id {
                Ok(id) if id == manifest.chain_id => Ok(format!("chain {id} answers")),
                Ok(id) => Err(format!(
                    "the endpoint is chain {id}, the manifest chain {}: set chain.rpc or chain.manifest",
                    manifest.chain_id
                )),
                Err(error) => Err(format!("the endpoint does not answer: {error}; check chain.rpc")),
            },
        );
        let code = chain.get_code_at(manifest.pool).await;
        check(
            "contract",
            match code {
                Ok(code) if !code.is_empty() => Ok(format!("{} bytes at {}", code.len(), manifest.pool)),
                Ok(_) => Err(format!(
                    "there is no contract at {}: the manifest is of another chain or an old local one",
                    manifest.pool
                )),
                Err(error) => Err(error.to_string()),
            },
        );
        if let Ok(Some(block)) = chain.get_block_by_number(BlockNumberOrTag::Latest).await {
            let now = SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |elapsed| elapsed.as_secs());
            let skew = now.abs_diff(block.header.timestamp);
            check(
                "clock",
                if skew <= MAX_SKEW {
                    Ok(format!("{skew} s from the newest block"))
                } else {
                    Err(format!(
                        "this machine's clock and the newest block differ by {skew} s (at most {MAX_SKEW}): set the clock, or the chain stands still"
                    ))
                },
            );
        }
    }
    if let (Ok(chain), Ok(manifest)) = (&chain, &manifest) {
        check("verifiers", verifiers(chain, manifest).await);
    }
    for circuit in Circuit::ALL {
        let wanted = manifest.as_ref().ok().map(|m| match circuit {
            Circuit::Transact => m.vk_hashes.transact,
            Circuit::Close => m.vk_hashes.close,
            Circuit::Claim => m.vk_hashes.claim,
            Circuit::Insert => m.vk_hashes.insert,
            Circuit::Ticket => m.vk_hashes.ticket,
        });
        let found =
            Prover::load(&context.config.artifacts, &[circuit]).and_then(|prover| prover.verifying_key(circuit));
        check(
            circuit.name(),
            match (found, wanted) {
                (Ok(key), Some(wanted)) if key.hash() == wanted.0 => Ok("the key is the pool's".into()),
                (Ok(_), Some(wanted)) => {
                    Err(format!("the key is not the pool's ({wanted}): run script/setup, or get this pool's artefacts"))
                }
                (Ok(_), None) => Err("there is no manifest to compare it with".into()),
                (Err(error), _) => Err(error.to_string()),
            },
        );
    }
    if let Some(keystore) = &context.config.chain.keystore {
        check(
            "keystore",
            if keystore.exists() {
                Ok(keystore.display().to_string())
            } else {
                Err(format!("{} does not exist: check chain.keystore", keystore.display()))
            },
        );
    }
    if let (Some(_), Some(_), Ok(chain)) = (&context.config.chain.keystore, &context.config.chain.password_file, &chain)
    {
        check("balance", balance(context, chain).await);
    }
}

/// The account that pays gas can be opened, and has some.
async fn balance(context: &Context, chain: &DynProvider) -> Result<String, String> {
    let account = context.signer().map_err(|error| error.to_string())?.address();
    let balance = chain.get_balance(account).await.map_err(|error| format!("its balance can't be asked: {error}"))?;
    let floor = low_balance(&context.config.relayer.low_balance).map_err(|error| error.to_string())?;
    // Others pay gas now and then: for a deposit, say.
    if context.file(DATABASE).exists() && balance < floor {
        return Err(format!("{account} has {balance} wei, relayer.low_balance is {floor}: send ether to it"));
    }
    Ok(format!("{account} has {balance} wei"))
}

/// The daemons' HTTP port can be opened, and strangers can't reach it.
async fn metrics_port(settings: &Metrics) -> Result<String, String> {
    if settings.listen.is_empty() {
        return Ok("off".to_owned());
    }
    let address = address(&settings.listen).map_err(|error| error.to_string())?;
    if !address.ip().is_loopback() {
        return Err(format!(
            "metrics.listen {address} is not on loopback, and has no password: whoever reaches it reads how much is sold"
        ));
    }
    match TcpListener::bind(address).await {
        Ok(_) => Ok(format!("{address} is free")),
        Err(error) if error.kind() == ErrorKind::AddrInUse => {
            Ok(format!("{address} is in use: by this daemon, or by another"))
        }
        Err(error) => Err(format!("{address} can't be listened on: {error}; set metrics.listen")),
    }
}

/// The script is there and may be run.
pub(super) fn policy_script(script: &Path, settings: &Provider) -> Result<String, String> {
    use std::os::unix::fs::PermissionsExt as _;
    let name = script.display();
    let metadata = script.metadata().map_err(|error| format!("{name}: {error}; check provider.policy_script"))?;
    if !metadata.is_file() || metadata.permissions().mode() & 0o111 == 0 {
        return Err(format!("{name} is no executable file: chmod +x, or check provider.policy_script"));
    }
    if settings.policy_script_timeout_ms == 0 || settings.policy_script_at_once == 0 {
        return Err("policy_script_timeout_ms and policy_script_at_once must be at least 1".to_owned());
    }
    Ok(format!("{name}, {} at once, {} ms each", settings.policy_script_at_once, settings.policy_script_timeout_ms))
}

/// The relayer's numbers.
pub(super) fn relayer(settings: &Relayer) -> Result<String, CliError> {
    let alone = amount("relayer.fee", &settings.fee)?;
    let with_insertion = amount("relayer.fee_with_insertion", &settings.fee_with_insertion)?;
    let floor = low_balance(&settings.low_balance)?;
    let wrong = |reason: &str| Err(CliError::Input { reason: reason.to_owned() });
    if with_insertion < alone {
        return wrong("relayer.fee_with_insertion is below relayer.fee, and covers more work");
    }
    if settings.replace_after == 0 {
        return wrong(
            "relayer.replace_after is 0: each transaction would be sent again at once; give a block time to pass",
        );
    }
    if settings.confirmations == 0 {
        return wrong("relayer.confirmations is 0: a reorganisation of one block would lose transactions");
    }
    Ok(format!("fees {alone} and {with_insertion}, low balance {floor} wei"))
}

/// The pool asks the verifiers that its manifest names, and these hold the keys that it names (protocol.md §9).
async fn verifiers(chain: &DynProvider, manifest: &DeploymentManifest) -> Result<String, String> {
    let pool = StreamPool::new(manifest.pool, chain);
    let failed = |error: alloy::contract::Error| format!("the pool's verifiers can't be asked: {error}");
    let of_pool = [
        pool.TRANSACT_VERIFIER().call().await.map_err(failed)?,
        pool.CLOSE_VERIFIER().call().await.map_err(failed)?,
        pool.CLAIM_VERIFIER().call().await.map_err(failed)?,
        pool.INSERT_VERIFIER().call().await.map_err(failed)?,
    ];
    let (addresses, hashes) = (&manifest.verifiers, &manifest.vk_hashes);
    let named = [
        (Circuit::Transact, addresses.transact, hashes.transact),
        (Circuit::Close, addresses.close, hashes.close),
        (Circuit::Claim, addresses.claim, hashes.claim),
        (Circuit::Insert, addresses.insert, hashes.insert),
    ];
    let mut development = false;
    for ((circuit, address, hash), asked) in named.into_iter().zip(of_pool) {
        if asked != address {
            return Err(format!(
                "for {circuit} the pool asks {asked}, the manifest names {address}: do not use this pool"
            ));
        }
        let verifier = IGroth16Verifier::new(address, chain);
        let key = keccak256(verifier.verifyingKey().call().await.map_err(failed)?);
        if key != hash {
            return Err(format!("the {circuit} verifier's key is {key}, the manifest's {hash}: do not use this pool"));
        }
        development |= verifier.isDevelopmentKey().call().await.map_err(failed)?;
    }
    match (development, DEVELOPMENT_CHAINS.contains(&manifest.chain_id)) {
        (false, _) => Ok("they are the manifest's, with its keys".into()),
        (true, true) => Ok("they are the manifest's; development keys: not for money".into()),
        (true, false) => Err("development keys guard this pool, anybody can empty it: do not use it".into()),
    }
}
