//! `tributary provider`.

use std::{sync::Arc, time::Duration};

use tributary_market::clock::SystemClock;
use tributary_market::offer::{RateClass, RateClassId};
use tributary_protocol::{PoolScope, Price, Rate, Seconds};
use tributary_prover::Circuit;
use tributary_provider::{
    daemon::{Provider, ProviderConfig, ProviderParts},
    free::FreeTierLimits,
    offers::{OfferTimes, SaleTerms},
    service::Registry,
    store::OnMissing,
};
use tributary_service_waku::{StoreConfig, StoreService};

use crate::{
    commands::{node::announce, relayer::amount, wallet},
    context::{Context, shutdown_signal},
    error::CliError,
};

/// Where the nullifiers are.
const FOLDER: &str = "provider";

/// Sells the node's archive until it is asked to stop.
pub(crate) async fn run(context: &Context) -> Result<(), CliError> {
    let settings = &context.config.provider;
    let ledger = context.ledger("provider-ledger.db").await?;
    let vault = context.vault()?;
    let keys = vault
        .seed()
        .account(PoolScope { pool: ledger.pool(), account: 0 })
        .map_err(|error| CliError::Input { reason: error.to_string() })?;
    let prover = context.prover(&[Circuit::Ticket])?;
    let node = context.node(context.node_key()?, true).await?;

    let rates = settings
        .rates
        .iter()
        .zip(1..)
        .map(|(rate, id)| {
            Ok(RateClass {
                id: RateClassId(id),
                rate: Rate::new(amount("provider.rates", rate)?.get())?,
                min_duration: ledger.clock().slot_length(),
                max_duration: None,
            })
        })
        .collect::<Result<Vec<_>, CliError>>()?;
    let terms = SaleTerms {
        payee: keys.address(),
        pool: ledger.pool(),
        ticket_price: Price::new(amount("provider.ticket_price", &settings.ticket_price)?.get())?,
        min_streamed: amount("provider.min_streamed", &settings.min_streamed)?,
        rate_classes: rates,
        slot_carry: Seconds::new(settings.carry)?,
        root_depth: u32::try_from(settings.root_depth).unwrap_or(u32::MAX),
    };
    let folder = context.file(FOLDER);
    let mut config = ProviderConfig::new(folder.clone(), terms);
    // A payee key that never took a ticket has no store yet; once there is one, its loss must be noticed.
    config.on_missing = if folder.exists() { OnMissing::Refuse } else { OnMissing::NewPayee };
    config.offers = OfferTimes { lifetime: Seconds::new(settings.offer_ttl)?, interval: Seconds::new(10)? };

    let topics = node
        .shards()
        .iter()
        .map(|shard| tributary_waku::PubsubTopic::new(node.cluster(), *shard).to_string())
        .collect();
    let mut store = StoreConfig::new(Seconds::new(settings.store_retention)?, topics);
    store.free = if settings.free_queries == 0 {
        FreeTierLimits::NONE
    } else {
        FreeTierLimits {
            per_peer: settings.free_queries,
            total: settings.free_queries.saturating_mul(100),
            window: 3600,
        }
    };
    let service =
        StoreService::new(node.clone(), store).map_err(|error| CliError::Service { reason: error.to_string() })?;
    let mut services = Registry::new();
    services.add(Arc::new(service)).map_err(|error| CliError::Service { reason: error.to_string() })?;

    let provider = Provider::start(
        config,
        ProviderParts {
            node: node.clone(),
            ledger: ledger.clone(),
            ticket_key: prover.verifying_key(Circuit::Ticket)?,
            clock: Arc::new(SystemClock),
            services,
            claimer: None,
        },
    )
    .await?;
    let (stop, stopped) = tokio::sync::watch::channel(false);
    let until = |mut stopped: tokio::sync::watch::Receiver<bool>| async move {
        let _ = stopped.wait_for(|stop| *stop).await;
    };
    let following = tokio::spawn({
        let (ledger, stopped) = (ledger.clone(), stopped.clone());
        async move { ledger.run(until(stopped)).await }
    });
    announce(&node, "provider");
    let claims = claim_regularly(context, settings.claim_every);
    let serving = provider.run(until(stopped));
    let ending = async {
        shutdown_signal().await;
        stop.send_replace(true);
    };
    tokio::select! {
        ((), ()) = async { tokio::join!(serving, ending) } => {}
        () = claims => {}
    }
    let _ = following.await;
    node.shutdown().await;
    Ok(())
}

/// Claims every so often; never ends.
async fn claim_regularly(context: &Context, every: u64) {
    if every == 0 {
        return std::future::pending().await;
    }
    let mut ticks = tokio::time::interval(Duration::from_secs(every));
    ticks.tick().await;
    loop {
        ticks.tick().await;
        match wallet::claim_once(context, false).await {
            Ok(claimed) => tracing::info!(streams = claimed, "claimed"),
            Err(error) => tracing::warn!(code = error.code(), %error, "a claim failed and is tried again"),
        }
    }
}
