//! `tributary gateway`: bought services for ordinary programs (docs: gateway).

use std::{collections::HashMap, fs, hash::Hash, os::unix::fs::DirBuilderExt as _, sync::Arc, time::Duration};

use async_trait::async_trait;
use hyper::StatusCode;
use parking_lot::Mutex;
use serde_json::json;
use tributary_client::{
    Buyer, ClientError, Failure, LeftStreams, Load, Session, Sought, SoughtFamily, SpendingCaps, Want,
};
use tributary_gateway::{Port, PortSettings, Surface, Token, openai::OpenAi};
use tributary_market::offer::{ServiceId, UseUnit};
use tributary_protocol::{Amount, Seconds};
use tributary_prover::Circuit;
use tributary_reputation::{
    Assessment, Verdict,
    http::{HttpAssessor, HttpEnding, HttpObservation},
};
use tributary_service_http::{HttpClient, HttpMarket, HttpSurface, SeatError, family};
use tributary_service_inference::MarketModel;
use tributary_waku::PeerId;
use tributary_wallet::WalletError;

use crate::{
    args,
    commands::{buyer::preferences, inference::Models, relayer::amount, tickets::origin, wallet::max_fee},
    context::{Context, shutdown_signal},
    daemon,
    error::CliError,
};

/// What the process keeps for itself, in the home folder.
const FOLDER: &str = "gateway";
/// The token's file in that folder.
const TOKEN_FILE: &str = "token";
/// How often streams are looked at that pay providers which failed.
const STOP_LEFT_EVERY: Duration = Duration::from_secs(60);
/// Services whose provider is remembered, at most; others are looked for again.
const MAX_SESSIONS: usize = 64;

/// Answers programs until it is asked to stop.
pub(crate) async fn run(context: &Context, args: &args::Gateway) -> Result<(), CliError> {
    let settings = &context.config.gateway;
    let listen = settings.listen.parse().map_err(|_| CliError::Input {
        reason: format!("gateway.listen '{}' is no address with a port: write it like 127.0.0.1:8647", settings.listen),
    })?;
    let origins = settings.origins.iter().map(|text| origin("gateway.origins", text)).collect::<Result<_, _>>()?;
    let stop = daemon::stop(context)?;
    let _lock = context.lock()?;
    let folder = context.file(FOLDER);
    fs::DirBuilder::new()
        .recursive(true)
        .mode(0o700)
        .create(&folder)
        .map_err(|error| CliError::Write { file: folder.clone(), error })?;

    let plan = Plan::read(context, args)?;
    context.format.progress("opening the wallet and reading the proving keys");
    let buyer = context.buyer_for(circuits(args.buying.buy)).await?;
    let following = tokio::spawn({
        let (ledger, stopped) = (buyer.wallet().ledger().clone(), stop.requested());
        async move { ledger.run(stopped).await }
    });
    let hearing = tokio::spawn({
        let (directory, stopped) = (buyer.directory().clone(), stop.requested());
        async move { directory.discover(stopped).await }
    });
    let stopping = tokio::spawn({
        let (buyer, caps) = (buyer.clone(), plan.caps);
        async move {
            let mut looks = tokio::time::interval(STOP_LEFT_EVERY);
            looks.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
            while caps.allow_buying() {
                looks.tick().await;
                if let Err(error) = buyer.stop_left(caps.relay_fee).await {
                    tracing::warn!(code = error.code(), %error, "streams to providers that failed pay on");
                }
            }
        }
    });
    let tell = |line: &str| tracing::info!("{line}");
    let models = Models::open(context, &buyer, &args.buying, None, false, None, tell)?;
    let market = Arc::new(Market { buyer: buyer.clone(), plan, asked: Asked::default() });
    // One line for each family.
    let surfaces: Vec<Arc<dyn Surface>> =
        vec![Arc::new(HttpSurface::new(market)), Arc::new(OpenAi::new(Arc::new(MarketModel::new(Arc::new(models)))))];

    let file = folder.join(TOKEN_FILE);
    let token = Token::create(file.clone()).map_err(|error| CliError::Write { file, error })?;
    let port = Port::open(PortSettings { listen, origins }, token.secret(), surfaces).await?;
    let url = format!("http://{}", port.address());
    println!("{}", json!({ "role": "gateway", "url": url, "token_file": token.file() }));
    port.serve(stop.requested()).await;
    drop(token);
    stopping.abort();
    if args.buying.buy {
        stop_left(context, &buyer).await;
    }
    if let Err(error) = following.await {
        tracing::warn!(%error, "the ledger's task failed");
    }
    match hearing.await {
        Ok(Err(error)) => tracing::warn!(code = error.code(), %error, "offers were not listened for"),
        Err(error) => tracing::warn!(%error, "the task that listens for offers failed"),
        Ok(Ok(_)) => {}
    }
    buyer.node().shutdown().await;
    Ok(())
}

/// What may be spent: the flags, else the configuration; nothing without leave to buy.
pub(crate) fn caps(context: &Context, buying: &args::Buying) -> Result<SpendingCaps, CliError> {
    if !buying.buy {
        return Ok(SpendingCaps::NOTHING);
    }
    let settings = &context.config.gateway;
    let cap = |flag: Option<u128>, key, text: &str| match flag {
        Some(value) => Ok::<_, CliError>(Amount::new(value)?),
        None => amount(key, text),
    };
    Ok(SpendingCaps {
        purchase: cap(buying.max_purchase, "gateway.max_purchase", &settings.max_purchase)?,
        day: cap(buying.max_per_day, "gateway.max_per_day", &settings.max_per_day)?,
        relay_fee: max_fee(context)?,
    })
}

/// Does something as a buyer whose ledger follows the chain meanwhile. No other command can use the wallet until it is done.
pub(crate) async fn as_buyer(
    context: &Context,
    buying: &args::Buying,
    work: impl AsyncFnOnce(&Buyer) -> Result<(), CliError>,
) -> Result<(), CliError> {
    let _lock = context.lock()?;
    context.format.progress("opening the wallet and reading the proving keys");
    let buyer = context.buyer_for(circuits(buying.buy)).await?;
    let following = tokio::spawn({
        let ledger = buyer.wallet().ledger().clone();
        async move { ledger.run(std::future::pending()).await }
    });
    let done = work(&buyer).await;
    // Streams pay by time: one to a provider that failed is stopped before the command ends.
    if buying.buy {
        stop_left(context, &buyer).await;
    }
    following.abort();
    buyer.node().shutdown().await;
    done
}

/// Stops the streams to providers that failed, and says so. What can't be stopped now is tried again by the next purchase.
pub(crate) async fn stop_left(context: &Context, buyer: &Buyer) {
    let stopping = async { Ok::<_, CliError>(buyer.stop_left(max_fee(context)?).await?) };
    let stopped = tokio::select! {
        stopped = stopping => stopped,
        () = shutdown_signal() => {
            context.format.progress("streams to providers that failed may pay on: the next command with --buy stops them");
            return;
        }
    };
    match stopped {
        Ok(LeftStreams { stopped, paying }) if stopped + paying > 0 => {
            let still = if paying > 0 { format!(", {paying} pay on") } else { String::new() };
            context.format.progress(&format!("{stopped} streams to providers that failed are stopped{still}"));
        }
        Ok(_) => {}
        Err(error) => tracing::warn!(code = error.code(), %error, "streams to providers that failed pay on"),
    }
}

/// A session, bought to its end whoever waits for it: a program that hangs up in the middle of a purchase must not leave notes reserved, or money counted
/// that wasn't spent.
pub(crate) async fn bought(
    buyer: &Buyer,
    want: Want,
    provider: Option<PeerId>,
    caps: SpendingCaps,
    tell: fn(&str),
) -> Result<Session, ClientError> {
    let buyer = buyer.clone();
    let buying = tokio::spawn(async move { buyer.session(&want, provider, &caps, &tell).await });
    buying.await.map_err(|_| ClientError::Interrupted)?
}

/// What becomes of a provider whose use was worth nothing.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Then {
    /// It is asked again, and worse thought of.
    Stay,
    /// Another one is tried; what pays it pays on.
    TryAnother,
    /// It is paid no more.
    Leave,
}

/// Providers that are asked, by what they are asked for.
#[derive(Debug)]
pub(crate) struct Asked<K>(Mutex<HashMap<K, Session>>);

impl<K> Default for Asked<K> {
    fn default() -> Self {
        Self(Mutex::default())
    }
}

impl<K: Eq + Hash> Asked<K> {
    pub(crate) fn remember(&self, key: K, session: Session) {
        let mut sessions = self.0.lock();
        if sessions.len() >= MAX_SESSIONS && !sessions.contains_key(&key) {
            sessions.clear();
        }
        sessions.insert(key, session);
    }

    pub(crate) fn provider(&self, key: &K) -> Option<PeerId> {
        self.0.lock().get(key).map(Session::provider)
    }

    /// Keeps an assessment as the user would have it. `then` says what becomes of a provider whose use was worth nothing.
    pub(crate) async fn judge(&self, buyer: &Buyer, assessment: Assessment, then: Then) {
        let mut assessment = buyer.judged(assessment).await;
        // Nothing can be said of who isn't heard when nobody is.
        if matches!(assessment.verdict, Verdict::Scored { score: 0.0, .. })
            && buyer.node().connected_peers().await.is_empty()
        {
            assessment.verdict = Verdict::NetworkFault { reason: "no peer is connected".into() };
        }
        if let Err(error) = buyer.reputation().record(&assessment).await {
            tracing::warn!(code = error.code(), %error, "an assessment was not kept");
        }
        if !matches!(assessment.verdict, Verdict::Scored { score: 0.0, .. }) {
            return;
        }
        let is_subject = |session: &&Session| {
            session.provider().to_string() == assessment.subject.provider.as_str()
                && session.service().as_str() == assessment.subject.service.as_str()
        };
        let failed = self.0.lock().values().find(is_subject).cloned();
        let failure = match then {
            Then::Stay => return,
            Then::TryAnother => Failure::Unsuitable,
            Then::Leave => Failure::Assessed,
        };
        if let Some(session) = failed
            && let Err(error) = session.failed(&failure).await
        {
            tracing::warn!(code = error.code(), %error, "a provider that failed is not left out");
        }
    }
}

/// What buying proves, stopping a stream to one who failed included, or using open streams alone.
pub(crate) const fn circuits(buying: bool) -> &'static [Circuit] {
    if buying { &[Circuit::Transact, Circuit::Close, Circuit::Ticket] } else { &[Circuit::Ticket] }
}

/// What may be bought, and how.
#[derive(Debug)]
struct Plan {
    caps: SpendingCaps,
    want: Want,
}

impl Plan {
    fn read(context: &Context, args: &args::Gateway) -> Result<Self, CliError> {
        let settings = &context.config.gateway;
        let caps = caps(context, &args.buying)?;
        let (max_price, preset) = preferences(context, args.buying.max_price, args.buying.preset.as_deref())?;
        let want = Want {
            service: Sought::Family(SoughtFamily {
                id: "http".parse().map_err(ClientError::from)?,
                family: family(),
                needs: Vec::new(),
                unit: UseUnit::Request,
                load: Load::Uses { uses: settings.http_requests.max(1), units: 1 },
                dialled: true,
            }),
            content_topics: Vec::new(),
            duration: Seconds::new(settings.duration)?,
            max_price,
            preset,
            ignore: Vec::new(),
        };
        Ok(Self { caps, want })
    }

    fn http(&self, service: &ServiceId) -> Want {
        let mut want = self.want.clone();
        if let Sought::Family(sought) = &mut want.service {
            sought.id = service.clone();
        }
        want
    }
}

/// Sessions with providers, one a service.
#[derive(Debug)]
struct Market {
    buyer: Buyer,
    plan: Plan,
    asked: Asked<ServiceId>,
}

#[async_trait]
impl HttpMarket for Market {
    async fn client(&self, service: &ServiceId) -> Result<HttpClient, SeatError> {
        let tell = |line: &str| tracing::info!("{line}");
        let session = bought(&self.buyer, self.plan.http(service), None, self.plan.caps, tell)
            .await
            .map_err(|error| seat(&error))?;
        let (node, tickets) = (self.buyer.node().clone(), Arc::clone(&session.tickets));
        let client = HttpClient::new(node, &session.offer, service.clone(), session.addresses.clone(), tickets);
        self.asked.remember(service.clone(), session);
        client.map_err(|error| seat(&error))
    }

    async fn observed(&self, observation: HttpObservation) {
        let then = match observation.ending {
            // The server's own error, passed on as it is: it may be the path that was asked for.
            HttpEnding::Complete if observation.status.is_some_and(|status| status >= 500) => Then::Stay,
            HttpEnding::Unavailable { .. } => Then::TryAnother,
            _ => Then::Leave,
        };
        self.asked.judge(&self.buyer, HttpAssessor::default().assess(&observation), then).await;
    }
}

/// What a program is told when nobody can be asked.
fn seat(error: &ClientError) -> SeatError {
    let (code, mut message) = (error.code(), error.to_string());
    let status = match error {
        ClientError::NoStream { .. } => {
            message.push_str(", or start `tributary gateway --buy`, which buys within its caps");
            StatusCode::PAYMENT_REQUIRED
        }
        ClientError::Wallet(WalletError::InsufficientFunds { .. }) => StatusCode::PAYMENT_REQUIRED,
        ClientError::PurchaseCap { .. } | ClientError::DayCap { .. } => StatusCode::TOO_MANY_REQUESTS,
        ClientError::NoCandidate { .. } | ClientError::NoProvider | ClientError::NotSold { .. } => {
            StatusCode::NOT_FOUND
        }
        ClientError::Away { .. } | ClientError::Transport(_) => StatusCode::BAD_GATEWAY,
        _ => StatusCode::SERVICE_UNAVAILABLE,
    };
    SeatError { status, code, message }
}
