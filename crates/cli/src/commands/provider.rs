//! `tributary provider`.

use std::{fmt::Display, future::Future, sync::Arc, time::Duration};

use tributary_client::{ClientStore, Directory, RelaySubmitter};
use tributary_ledger::{Ledger, SystemClock as ChainClock};
use tributary_market::{
    clock::SystemClock,
    negotiate::script::ScriptConfig,
    offer::{RateClass, RateClassId},
    relay::RelayClient,
    rpc::{CallPolicy, SealedClient},
};
use tributary_protocol::{AccountKeys, PoolScope, Price, Rate, Seconds};
use tributary_prover::{Circuit, Prover};
use tributary_provider::{
    claims::{ClaimPlan, Claimer},
    daemon::{Provider, ProviderConfig, ProviderParts},
    free::FreeTierLimits,
    offers::{OfferTimes, SaleTerms},
    service::Registry,
};
use tributary_service_http::{HttpService, HttpServiceConfig, Rules};
use tributary_service_waku::{
    FilterService, FilterServiceConfig, LightpushService, LightpushServiceConfig, StoreConfig, StoreService,
};
use tributary_waku::{NodeHandle, ServiceFamilies};
use tributary_wallet::{Origin, Services, Wallet, WalletConfig};

use crate::{
    commands::{relayer::amount, wallet::max_fee},
    config::HttpUpstream,
    context::{Context, Serves},
    daemon::{self, Part, announce, close_protocols},
    error::CliError,
};

/// Time between two looks at the uses that are being served while the provider stops.
const FINISH_INTERVAL: Duration = Duration::from_millis(20);

/// Where the nullifiers are.
const FOLDER: &str = "provider";

/// Sells the node's archive until it is asked to stop.
pub(crate) async fn run(context: &Context) -> Result<(), CliError> {
    let settings = &context.config.provider;
    let stop = daemon::stop(context)?;
    if let Some(script) = &settings.policy_script {
        super::doctor::policy_script(script, settings).map_err(|reason| CliError::Input { reason })?;
    }
    context.config.check_market()?;
    let sold = Sold::read(&settings.services)?;
    if sold.http && settings.http.is_empty() {
        return Err(CliError::Input {
            reason: "provider.services names http, and provider.http is empty: name the servers".into(),
        });
    }
    if sold.filter {
        context.config.check_filter()?;
    }
    let ledger = context.ledger("provider-ledger.db").await?;
    let vault = context.vault()?;
    let keys = vault
        .seed()
        .account(PoolScope { pool: ledger.pool(), account: 0 })
        .map_err(|error| CliError::Input { reason: error.to_string() })?;
    let circuits: &[Circuit] =
        if settings.claim_every == 0 { &[Circuit::Ticket] } else { &[Circuit::Ticket, Circuit::Claim] };
    let prover = context.prover(circuits)?;
    let serves = Serves {
        others: true,
        archive: sold.store,
        filter: sold.filter,
        lightpush: sold.lightpush,
        sells: sold.families(),
    };
    let Some(node) = context.daemon_node(serves, &stop).await? else { return Ok(()) };

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
    config.offers = OfferTimes { lifetime: Seconds::new(settings.offer_ttl)?, interval: Seconds::new(10)? };
    config.script = settings.policy_script.as_ref().map(|program| ScriptConfig {
        time_limit: Duration::from_millis(settings.policy_script_timeout_ms),
        at_once: settings.policy_script_at_once,
        show_peer_id: settings.policy_script_sees_peers,
        ..ScriptConfig::new(program)
    });

    let topics: Vec<String> = node
        .shards()
        .iter()
        .map(|shard| tributary_waku::PubsubTopic::new(node.cluster(), *shard).to_string())
        .collect();
    let mut services = Registry::new();
    let mut store = StoreConfig::new(Seconds::new(settings.store_retention)?, topics.clone());
    store.free = if settings.free_queries == 0 {
        FreeTierLimits::NONE
    } else {
        FreeTierLimits {
            per_peer: settings.free_queries,
            total: settings.free_queries.saturating_mul(100),
            window: 3600,
        }
    };
    if sold.store {
        services.add(Arc::new(StoreService::new(node.clone(), store).map_err(refused)?)).map_err(refused)?;
    }
    if sold.filter {
        let filter = FilterServiceConfig {
            max_leases: settings.filter_leases,
            max_free: settings.filter_free,
            ..FilterServiceConfig::new(topics.clone())
        };
        services.add(Arc::new(FilterService::new(node.clone(), filter).map_err(refused)?)).map_err(refused)?;
    }
    if sold.lightpush {
        let lightpush = LightpushServiceConfig::new(topics);
        services.add(Arc::new(LightpushService::new(node.clone(), lightpush).map_err(refused)?)).map_err(refused)?;
    }
    for service in super::turn::services(&settings.turn, sold.turn, sold.stun).await? {
        services.add(Arc::new(service)).map_err(refused)?;
    }
    if sold.inference {
        let service = super::inference::service(context, &settings.inference, &node).await?;
        services.add(Arc::new(service)).map_err(refused)?;
    }
    for upstream in settings.http.iter().filter(|_| sold.http) {
        services.add(Arc::new(HttpService::new(node.clone(), http(upstream)?).map_err(refused)?)).map_err(refused)?;
    }

    let claimer = if settings.claim_every == 0 {
        None
    } else {
        Some(claimer(context, &ledger, &prover, &node, keys, stop.requested()).await?)
    };
    let provider = Arc::new(
        Provider::start(
            config,
            ProviderParts {
                node: node.clone(),
                ledger: ledger.clone(),
                ticket_key: prover.verifying_key(Circuit::Ticket)?,
                clock: Arc::new(SystemClock),
                services,
                claimer,
            },
        )
        .await?,
    );
    let following = tokio::spawn({
        let (ledger, stopped) = (ledger.clone(), stop.requested());
        async move { ledger.run(stopped).await }
    });
    let part = Part::Provider(Arc::clone(&provider), ledger);
    let port = daemon::open(context, context.watch(&node, part, &stop)).await?;
    announce(&node, "provider", &port);
    let ending = async {
        stop.requested().await;
        close_protocols(&node).await;
        finish(&provider).await;
    };
    provider.run(ending).await;
    if let Err(error) = following.await {
        tracing::warn!(%error, "the ledger's task failed");
    }
    node.shutdown().await;
    Ok(())
}

/// Waits until what was paid for is served; what bounds it is the daemon's time to stop.
async fn finish(provider: &Provider) {
    let mut look = tokio::time::interval(FINISH_INTERVAL);
    while provider.at_work() > 0 {
        look.tick().await;
    }
}

/// How a server of the operator's is sold.
fn http(upstream: &HttpUpstream) -> Result<HttpServiceConfig, CliError> {
    Ok(HttpServiceConfig {
        rules: Rules { methods: upstream.methods.clone(), paths: upstream.paths.clone() },
        title: upstream.title.clone(),
        tickets_per_request: upstream.tickets_per_request,
        tickets_per_megabyte: upstream.tickets_per_megabyte,
        ..HttpServiceConfig::new(upstream.id.parse().map_err(refused)?, upstream.upstream.parse().map_err(refused)?)
    })
}

fn refused(error: impl Display) -> CliError {
    CliError::Service { reason: error.to_string() }
}

/// What `provider.services` names.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
struct Sold {
    store: bool,
    filter: bool,
    lightpush: bool,
    http: bool,
    turn: bool,
    inference: bool,
    stun: bool,
}

impl Sold {
    fn read(names: &[String]) -> Result<Self, CliError> {
        let mut sold = Self::default();
        for name in names {
            *match name.as_str() {
                "store" => &mut sold.store,
                "filter" => &mut sold.filter,
                "lightpush" => &mut sold.lightpush,
                "http" => &mut sold.http,
                "turn" => &mut sold.turn,
                "inference" => &mut sold.inference,
                "stun" => &mut sold.stun,
                other => {
                    return Err(CliError::Input {
                        reason: format!(
                            "provider.services names '{other}': store, filter, lightpush, http, turn, stun and inference can be sold"
                        ),
                    });
                }
            } = true;
        }
        if sold == Self::default() {
            return Err(CliError::Input { reason: "provider.services is empty: name what is sold".into() });
        }
        Ok(sold)
    }

    fn families(self) -> ServiceFamilies {
        let bit = |sold, family| if sold { family } else { ServiceFamilies::default() };
        bit(self.store, ServiceFamilies::STORE)
            | bit(self.filter, ServiceFamilies::FILTER)
            | bit(self.lightpush, ServiceFamilies::LIGHTPUSH)
            | bit(self.turn, ServiceFamilies::TURN)
            | bit(self.inference, ServiceFamilies::INFERENCE)
            | bit(self.http, ServiceFamilies::OTHER)
            | bit(self.stun, ServiceFamilies::STUN)
    }
}

/// Claims through the relayers that the node hears of. Its wallet is one of its own with the same keys, read from the chain, so that the
/// wallet's commands can be used beside it.
async fn claimer(
    context: &Context,
    ledger: &Ledger,
    prover: &Arc<Prover>,
    node: &NodeHandle,
    keys: AccountKeys,
    stopped: impl Future<Output = ()> + Send + 'static,
) -> Result<Arc<Claimer>, CliError> {
    let settings = &context.config.provider;
    let clock = Arc::new(SystemClock);
    let folder = context.file(FOLDER);
    std::fs::create_dir_all(&folder).map_err(|error| CliError::Write { file: folder.clone(), error })?;
    let services = Services { ledger: ledger.clone(), prover: Arc::clone(prover), clock: Arc::new(ChainClock) };
    let config = WalletConfig { root_depth: 1, ..WalletConfig::default() };
    let wallet = Wallet::with_keys(&folder.join("wallet.db"), keys, services, config, Origin::Restored).await?;

    let market = ClientStore::open(&folder.join("market.db")).await?;
    let directory = Directory::open(node.clone(), market, clock.clone(), ledger.pool()).await?;
    tokio::spawn({
        let directory = directory.clone();
        async move {
            if let Err(error) = directory.discover(stopped).await {
                tracing::warn!(code = error.code(), %error, "relayers are not looked for any more");
            }
        }
    });
    let sealed = SealedClient::new(Arc::new(node.clone()), clock.clone(), CallPolicy::default());
    let client = RelayClient::new(sealed, clock.clone());
    let submitter = Arc::new(RelaySubmitter::new(client, directory, max_fee(context)?, true));
    let plan = ClaimPlan {
        interval: Some(Seconds::new(settings.claim_every)?),
        least_gain: amount("provider.least_claim", &settings.least_claim)?,
        ..ClaimPlan::default()
    };
    let price = Price::new(amount("provider.ticket_price", &settings.ticket_price)?.get())?;
    Ok(Arc::new(Claimer::new(wallet, submitter, clock, plan, price, folder.join("last-claim"))))
}
