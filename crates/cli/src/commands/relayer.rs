//! `tributary relayer`.

use std::{collections::BTreeMap, sync::Arc, time::Duration};

use alloy::primitives::U256;
use tributary_ledger::SystemClock;
use tributary_market::{
    clock::SystemClock as MarketClock,
    node::encryption_secret,
    relay::{RelayFee, RelayOperation},
};
use tributary_protocol::Amount;
use tributary_prover::Circuit;
use tributary_relayer::{Engine, EngineConfig, RelayerService, RelayerStore, ServiceConfig};

use crate::{
    context::{Context, Serves},
    daemon::{self, Part, announce},
    error::CliError,
};

/// What a relayer must not forget.
pub(crate) const DATABASE: &str = "relayer.db";

/// How long an announcement holds, and how often it is made again.
const ANNOUNCEMENT: (Duration, Duration) = (Duration::from_secs(300), Duration::from_secs(30));

/// Runs a relayer until it is asked to stop.
pub(crate) async fn run(context: &Context) -> Result<(), CliError> {
    let settings = &context.config.relayer;
    let stop = daemon::stop(context)?;
    super::doctor::relayer(settings)?;
    context.config.check_market()?;
    let signer = context.signer()?;
    let prover = context.prover(&[Circuit::Insert])?;
    prover.warm(Circuit::Insert)?;
    let ledger = context.ledger("relayer-ledger.db").await?;
    let store = RelayerStore::open(&context.file(DATABASE)).await?;
    let config = EngineConfig {
        max_gas_price: u128::from(settings.max_gas_price),
        wei_per_base_unit: u128::from(settings.wei_per_base_unit),
        low_balance: low_balance(&settings.low_balance)?,
        replace_after: settings.replace_after,
        remember: settings.remember,
        confirmations: settings.confirmations,
        insert_after: settings.insert_after,
        poll: Duration::from_millis(context.config.chain.poll_ms),
        ..EngineConfig::default()
    };
    let engine = Engine::new(context.chain()?, signer, ledger.clone(), prover, store, config, Arc::new(SystemClock));
    let serves = Serves { others: true, ..Serves::default() };
    let Some(node) = context.daemon_node(serves, &stop).await? else { return Ok(()) };
    let fee = RelayFee {
        alone: amount("relayer.fee", &settings.fee)?,
        with_insertion: amount("relayer.fee_with_insertion", &settings.fee_with_insertion)?,
    };
    let fees = [RelayOperation::Transact, RelayOperation::Close, RelayOperation::Claim]
        .into_iter()
        .map(|operation| (operation, fee))
        .collect::<BTreeMap<_, _>>();
    let service = RelayerService::new(
        engine.clone(),
        Arc::new(node.clone()),
        Arc::new(node.key().clone()),
        encryption_secret(node.key()),
        Arc::new(MarketClock),
        ServiceConfig {
            pool: ledger.pool(),
            fees,
            announcement_lifetime: ANNOUNCEMENT.0,
            announce_every: ANNOUNCEMENT.1,
        },
    );
    let port = daemon::open(context, context.watch(&node, Part::Relayer(engine.clone(), ledger), &stop)).await?;
    announce(&node, "relayer", &port);
    let served = service.run(stop.requested()).await;
    node.shutdown().await;
    engine.store().close().await;
    served?;
    Ok(())
}

/// The balance below which a relayer warns and is not ready.
pub(crate) fn low_balance(text: &str) -> Result<U256, CliError> {
    text.parse().map_err(|_| CliError::Input { reason: format!("relayer.low_balance '{text}' is no number of wei") })
}

/// An amount of base units from the configuration.
pub(crate) fn amount(key: &str, text: &str) -> Result<Amount, CliError> {
    let value: u128 =
        text.parse().map_err(|_| CliError::Input { reason: format!("{key} '{text}' is no number of base units") })?;
    Ok(Amount::new(value)?)
}
