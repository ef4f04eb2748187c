//! TURN: the provider's server, and `tributary turn`, which buys a relay and keeps it paid (docs: turn).

use std::{
    net::{IpAddr, SocketAddr},
    path::PathBuf,
    sync::Arc,
    time::{Duration, Instant},
};

use rand::seq::SliceRandom as _;
use serde_json::json;
use tributary_client::{
    Buyer, ClientError, Failure, KeptLease, LeaseHealth, Load, Session, Sought, SoughtFamily, SpendingCaps, Want,
};
use tributary_market::offer::{Attributes, UseUnit};
use tributary_protocol::Seconds;
use tributary_reputation::{
    Assessment, AssessmentId, ProviderName, ServiceName, Subject, Verdict,
    assess::AssessError,
    store::Ending,
    turn::{StunAssessor, StunObservation, TurnAssessor, TurnEnding, TurnObservation},
};
use tributary_service_turn::{
    Backend, Coturn, CoturnConfig, Embedded, EmbeddedConfig, Grant, Limits, MAX_WITNESSES, OpenRate, StunServiceConfig,
    Trial, TurnService, TurnServiceConfig,
};
use tributary_waku::PeerId;

use crate::{
    args,
    commands::{
        buyer::{parse_peer, preferences},
        gateway::{as_buyer, caps},
    },
    config::{Turn, TurnBackend},
    context::{Context, read_secret, shutdown_signal},
    error::CliError,
};

/// All open binding requests together, for each one that a single address has.
const OPEN_BINDINGS: u32 = 100;
/// Addresses that an offer and a grant have at the most.
const MAX_URLS: usize = 8;
/// Between two trials of a relay that is leased.
const TRIAL_EVERY: Duration = Duration::from_secs(300);
/// Between two looks at whether the stream has to be renewed.
const LOOK: Duration = Duration::from_secs(1);

/// The server, and where clients reach it.
struct Server {
    backend: Arc<dyn Backend>,
    turn: Vec<String>,
    stun: Vec<String>,
}

fn input(reason: String) -> CliError {
    CliError::Input { reason }
}

/// What is sold of the server, which listens if it is wanted at all.
pub(crate) async fn services(settings: &Turn, turn: bool, stun: bool) -> Result<Vec<TurnService>, CliError> {
    if !turn && !stun {
        return Ok(Vec::new());
    }
    let server = server(settings).await?;
    let grace = Seconds::new(settings.grace)?;
    let mut services = Vec::new();
    if turn {
        let free = settings.free_bindings > 0 || settings.backend == TurnBackend::Coturn;
        let stun = server.stun.iter().filter(|_| free);
        let urls = server.turn.iter().chain(stun).take(MAX_URLS).cloned().collect();
        let transports = [("udp", !settings.udp.is_empty()), ("tcp", !settings.tcp.is_empty())];
        let config = TurnServiceConfig {
            transports: transports.iter().filter(|(_, listens)| *listens).map(|(name, _)| (*name).to_owned()).collect(),
            call_minutes: settings.call_minutes,
            tickets: settings.tickets,
            max_calls: settings.max_calls,
            bytes_per_minute: settings.megabytes_per_minute.saturating_mul(1_000_000),
            bytes_per_second: settings.bytes_per_second,
            grace,
            max_leases: settings.leases,
            ..TurnServiceConfig::new("turn".parse().map_err(refused)?, urls)
        };
        services.push(TurnService::new(Arc::clone(&server.backend), config).map_err(refused)?);
    }
    if stun {
        let urls = server.stun.into_iter().take(MAX_URLS).collect();
        let config = StunServiceConfig {
            minutes: settings.stun_minutes,
            tickets: settings.stun_tickets,
            bindings_per_minute: settings.bindings_per_minute,
            grace,
            max_leases: settings.leases,
            ..StunServiceConfig::new("stun".parse().map_err(refused)?, urls)
        };
        services.push(TurnService::stun(server.backend, config).map_err(refused)?);
    }
    Ok(services)
}

async fn server(settings: &Turn) -> Result<Server, CliError> {
    let addresses = |key: &str, texts: &[String]| {
        let address = |text: &String| {
            text.parse::<SocketAddr>().map_err(|_| {
                input(format!("provider.turn.{key} '{text}' is no address with a port: write it like 192.0.2.1:3478"))
            })
        };
        texts.iter().map(address).collect::<Result<Vec<_>, _>>()
    };
    let (udp, tcp) = (addresses("udp", &settings.udp)?, addresses("tcp", &settings.tcp)?);
    let first = *udp.first().ok_or_else(|| input("provider.turn.udp is empty: name an address".into()))?;
    let public = match &settings.public_address {
        Some(text) => {
            text.parse().map_err(|_| input(format!("provider.turn.public_address '{text}' is no IP address")))?
        }
        None => first.ip(),
    };
    if public.is_unspecified() {
        return Err(input(format!(
            "provider.turn.udp is {first}, which nobody can connect to: set provider.turn.public_address to what clients reach"
        )));
    }
    let (backend, udp, tcp): (Arc<dyn Backend>, _, _) = match settings.backend {
        TurnBackend::Embedded => {
            let server = embedded(settings, udp, tcp, public).await?;
            let (udp, tcp) = (server.udp_addresses().to_vec(), server.tcp_addresses().to_vec());
            (Arc::new(server), udp, tcp)
        }
        TurnBackend::Coturn => (Arc::new(coturn(settings).await?), udp, tcp),
    };
    let at = |address: &SocketAddr| {
        let ip = if address.ip().is_unspecified() || settings.public_address.is_some() { public } else { address.ip() };
        SocketAddr::new(ip, address.port())
    };
    let by_udp = udp.iter().map(|address| format!("turn:{}?transport=udp", at(address)));
    let by_tcp = tcp.iter().map(|address| format!("turn:{}?transport=tcp", at(address)));
    let stun = udp.iter().map(|address| format!("stun:{}", at(address))).collect();
    Ok(Server { backend, turn: by_udp.chain(by_tcp).collect(), stun })
}

async fn embedded(
    settings: &Turn,
    udp: Vec<SocketAddr>,
    tcp: Vec<SocketAddr>,
    public: IpAddr,
) -> Result<Embedded, CliError> {
    if settings.first_port < 1024 || settings.last_port < settings.first_port {
        let (first, last) = (settings.first_port, settings.last_port);
        return Err(input(format!(
            "provider.turn.first_port = {first} and last_port = {last} are no range of ports from 1024 to 65535"
        )));
    }
    let allowed = settings.allowed_peers.iter().map(|network| network.parse());
    let config = EmbeddedConfig {
        relay_bind: udp.first().map_or(public, SocketAddr::ip),
        udp,
        tcp,
        realm: settings.realm.clone(),
        relay_address: public,
        ports: (settings.first_port, settings.last_port),
        allowed_peers: allowed.collect::<Result<_, _>>().map_err(refused)?,
        open_binding: OpenRate {
            per_source: settings.free_bindings,
            total: settings.free_bindings.saturating_mul(OPEN_BINDINGS),
        },
        limits: Limits { bytes_per_second: settings.bytes_per_second, ..Limits::default() },
    };
    Embedded::start(config).await.map_err(refused)
}

async fn coturn(settings: &Turn) -> Result<Coturn, CliError> {
    let admin = &settings.coturn_admin;
    let secret = |key: &str, file: &Option<PathBuf>| {
        let file = file.as_ref().ok_or_else(|| input(format!("provider.turn.{key} is empty: name the file")))?;
        read_secret(file)
    };
    let admin =
        admin.parse().map_err(|_| input(format!("provider.turn.coturn_admin '{admin}' is no address with a port")))?;
    let password = secret("coturn_password_file", &settings.coturn_password_file)?;
    let secret = secret("coturn_secret_file", &settings.coturn_secret_file)?;
    Coturn::start(CoturnConfig::new(admin, password, secret, settings.realm.clone())).await.map_err(refused)
}

fn refused(error: impl std::fmt::Display) -> CliError {
    CliError::Service { reason: error.to_string() }
}

/// One of the two families, as it is wanted.
fn want(
    context: &Context,
    family: &str,
    quota: u32,
    duration: Option<u64>,
    buying: &args::Buying,
) -> Result<Want, CliError> {
    let (max_price, preset) = preferences(context, buying.max_price, buying.preset.as_deref())?;
    Ok(Want {
        service: Sought::Family(SoughtFamily {
            id: family.parse().map_err(ClientError::from)?,
            family: family.parse().map_err(ClientError::from)?,
            needs: Vec::new(),
            unit: UseUnit::Minute,
            load: Load::Quota(quota),
            dialled: true,
        }),
        content_topics: Vec::new(),
        duration: Seconds::new(duration.unwrap_or(context.config.gateway.duration))?,
        max_price,
        preset,
        ignore: Vec::new(),
    })
}

/// Servers of other providers that answer bindings for nothing: those that name an address, and no name to be looked up.
fn witnesses(buyer: &Buyer, provider: PeerId) -> Vec<SocketAddr> {
    let mut found = Vec::new();
    for offer in buyer.directory().offers() {
        for service in offer.services.iter().filter(|_| offer.peer_id() != provider) {
            let Attributes::Family(family) = &service.attributes else { continue };
            if !matches!(family.name.as_str(), "turn" | "stun") {
                continue;
            }
            let mut urls = family.properties.texts("urls").iter();
            found.extend(urls.find_map(|url| url.strip_prefix("stun:")?.parse::<SocketAddr>().ok()));
        }
    }
    found.shuffle(&mut rand::thread_rng());
    found.dedup();
    found.truncate(MAX_WITNESSES);
    found
}

/// Records what a trial found; says what it was worth, if that says anything of the provider.
async fn record(buyer: &Buyer, assessment: Assessment) -> Option<f64> {
    let assessment = buyer.judged(assessment).await;
    if let Err(error) = buyer.reputation().record(&assessment).await {
        tracing::warn!(code = error.code(), %error, "an assessment was not kept");
    }
    match assessment.verdict {
        Verdict::Scored { score, .. } => Some(score),
        Verdict::NetworkFault { .. } | Verdict::BuyerFault { .. } => None,
    }
}

fn subject(session: &Session) -> Result<(AssessmentId, Subject), CliError> {
    let named = |error: AssessError| CliError::Service { reason: error.to_string() };
    let id = AssessmentId::new(format!("trial-{:032x}", rand::random::<u128>())).map_err(named)?;
    let provider = ProviderName::new(session.provider().to_string()).map_err(named)?;
    let service = ServiceName::new(session.service().as_str()).map_err(named)?;
    Ok((id, Subject { provider, service }))
}

/// What is wrong with a server, in words.
fn wrong(ending: &TurnEnding) -> String {
    match ending {
        TurnEnding::Complete => "what it relays is lost, or the address that it says is false".into(),
        TurnEnding::Refused { what, code } => format!("it refuses {what} with {code}"),
        TurnEnding::Cut { after_ms } => format!("it ended an allocation after {after_ms} ms"),
        TurnEnding::Invalid { reason } => format!("its answer is {reason}"),
        TurnEnding::Silent { .. } => "it doesn't answer, and others do".into(),
        TurnEnding::BuyerError { reason } => reason.clone(),
    }
}

/// Tries the leased relay, and records what came of it; says it in words. An error for a relay that is worth nothing.
async fn try_relay(buyer: &Buyer, session: &Session, grant: &Grant) -> Result<String, CliError> {
    let (id, subject) = subject(session)?;
    let tried = Trial::default().turn(grant, &witnesses(buyer, session.provider())).await;
    if tried.is_occupied() {
        return Ok("the relay was not tried: all its allocations are in use".into());
    }
    let observed = TurnObservation {
        id,
        subject,
        at: buyer.wallet().now()?,
        allocation: tried.allocation,
        mapped: tried.mapped,
        sent: tried.sent,
        round_trips: tried.round_trips,
        ending: tried.ending,
    };
    match record(buyer, TurnAssessor::default().assess(&observed)).await {
        Some(0.0) => {
            let (provider, reason) = (session.provider(), wrong(&observed.ending));
            Err(CliError::Service { reason: format!("the relay of {provider} doesn't work: {reason}") })
        }
        Some(score) => {
            let (back, sent) = (observed.round_trips.len(), observed.sent);
            Ok(format!("the relay works: {back} of {sent} packets came back, score {score:.2}"))
        }
        None => Ok("the relay was tried, and nothing can be said of it".into()),
    }
}

/// Leases a slot of a STUN server, and asks it once.
pub(crate) async fn ask(context: &Context, args: &args::Stun) -> Result<(), CliError> {
    let args::Using { provider, duration, buying } = &args.using;
    let caps = caps(context, buying)?;
    let provider = provider.as_deref().map(parse_peer).transpose()?;
    let want = want(context, "stun", 1, *duration, buying)?;
    as_buyer(context, buying, async |buyer| {
        let tell = |line: &str| context.format.progress(line);
        let session = buyer.session(&want, provider, &caps, &tell).await?;
        ask_once(context, buyer, session).await
    })
    .await
}

async fn ask_once(context: &Context, buyer: &Buyer, session: Session) -> Result<(), CliError> {
    let (relay, grant) = Relay::begin(session, 1).await?;
    let session = &relay.session;
    let tried = Trial::default().stun(&grant, &witnesses(buyer, session.provider())).await;
    let (id, subject) = subject(session)?;
    let (address, others) = (tried.mapped.here, tried.mapped.elsewhere.clone());
    let observed = StunObservation {
        id,
        subject,
        at: buyer.wallet().now()?,
        binding: tried.binding,
        mapped: tried.mapped,
        ending: tried.ending,
    };
    let score = record(buyer, StunAssessor::default().assess(&observed)).await;
    let Some(address) = address.filter(|_| score != Some(0.0)) else {
        let ended = if score == Some(0.0) { Failure::Assessed } else { Failure::Unsuitable };
        session.failed(&ended).await?;
        let (provider, reason) = (session.provider(), wrong(&observed.ending));
        return Err(CliError::Service { reason: format!("the STUN server of {provider} doesn't work: {reason}") });
    };
    let provider = session.provider().to_string();
    context.format.emit(
        &address.to_string(),
        &json!({ "role": "stun", "provider": provider, "address": address, "others_say": others }),
    );
    Ok(())
}

/// Buys a relay, shows it, and keeps it paid until it is stopped.
pub(crate) async fn run(context: &Context, args: &args::Turn) -> Result<(), CliError> {
    let args::Using { provider, duration, buying } = &args.using;
    let caps = caps(context, buying)?;
    let provider = provider.as_deref().map(parse_peer).transpose()?;
    let want = want(context, "turn", args.calls, *duration, buying)?;
    as_buyer(context, buying, async |buyer| {
        let tell = |line: &str| context.format.progress(line);
        let session = buyer.session(&want, provider, &caps, &tell).await?;
        keep(context, args, buyer, session, &caps).await
    })
    .await
}

/// A lease that is kept up, with the session that pays for it.
#[derive(Debug)]
struct Relay {
    session: Session,
    lease: KeptLease,
}

impl Relay {
    /// Buys the running slot. A provider that doesn't give what it sells is left out by the next choice.
    async fn begin(session: Session, calls: u32) -> Result<(Self, Grant), CliError> {
        match Self::lease(&session, calls).await {
            Ok((lease, grant)) => Ok((Self { session, lease }, grant)),
            Err((error, failure)) => {
                session.failed(&failure).await?;
                Err(error)
            }
        }
    }

    async fn lease(session: &Session, calls: u32) -> Result<(KeptLease, Grant), (CliError, Failure)> {
        let unsuitable = |error: ClientError| (error.into(), Failure::Unsuitable);
        let buyer = Arc::new(session.lease(calls).map_err(unsuitable)?);
        let lease = match KeptLease::begin(Arc::clone(&buyer)).await {
            Ok(lease) => lease,
            Err(error) => return Err((error.into(), fault(&buyer).await)),
        };
        let given = buyer.watch_grant().borrow().clone();
        let grant = given
            .ok_or("the provider gave no credential")
            .and_then(|bytes| Grant::decode(&bytes).map_err(|_| "the provider gave a credential that can't be used"));
        let broken = |reason: &str| {
            (CliError::Service { reason: reason.to_owned() }, Failure::Broken { reason: reason.to_owned() })
        };
        Ok((lease, grant.map_err(broken)?))
    }
}

/// Whose fault it is that a slot isn't leased.
async fn fault(buyer: &tributary_client::LeaseBuyer) -> Failure {
    match buyer.ending().await {
        Some(Ending::NoAnswer | Ending::Unreachable { .. }) => Failure::Unreachable,
        Some(Ending::FailedAfterPayment { reason }) => Failure::Broken { reason },
        Some(Ending::Unavailable { reason }) => Failure::Unavailable { reason },
        Some(Ending::BuyerError { .. } | Ending::Answered) | None => Failure::Unsuitable,
    }
}

fn show(context: &Context, relay: &Relay, grant: &Grant) {
    let server = grant.ice_server();
    let provider = relay.session.provider().to_string();
    context.format.emit(&server.to_string(), &json!({ "role": "turn", "provider": provider, "ice_server": server }));
}

async fn keep(
    context: &Context,
    args: &args::Turn,
    buyer: &Buyer,
    session: Session,
    caps: &SpendingCaps,
) -> Result<(), CliError> {
    let tell = |line: &str| context.format.progress(line);
    let end = async {
        match args.minutes {
            Some(minutes) => tokio::time::sleep(Duration::from_secs(60 * minutes)).await,
            None => std::future::pending().await,
        }
    };
    tokio::pin!(end);
    let slot = buyer.wallet().ledger().clock().slot_length();
    let ahead = Seconds::new(slot.get().saturating_mul(2))?;
    let (mut relay, mut shown) = Relay::begin(session, args.calls).await?;
    match try_relay(buyer, &relay.session, &shown).await {
        Ok(line) => tell(&line),
        Err(error) => {
            relay.session.failed(&Failure::Assessed).await?;
            return Err(error);
        }
    }
    let mut trials: tokio::task::JoinSet<Result<String, CliError>> = tokio::task::JoinSet::new();
    let mut tried = Instant::now();
    show(context, &relay, &shown);
    let mut next: Option<Session> = None;
    let mut leased = None;
    let mut look = tokio::time::interval(LOOK);
    look.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
    loop {
        tokio::select! {
            () = &mut end => return Ok(()),
            () = shutdown_signal() => return Ok(()),
            Some(done) = trials.join_next() => {
                match done {
                    Ok(Ok(line)) => tell(&line),
                    // It is assessed, and paid no more.
                    Ok(Err(error)) => {
                        relay.session.failed(&Failure::Assessed).await?;
                        return Err(error);
                    }
                    Err(error) => tracing::warn!(%error, "a trial broke off"),
                }
                continue;
            }
            _ = look.tick() => {}
        }
        if tried.elapsed() >= TRIAL_EVERY && trials.is_empty() {
            tried = Instant::now();
            let (buyer, session, grant) = (buyer.clone(), relay.session.clone(), shown.clone());
            trials.spawn(async move { try_relay(&buyer, &session, &grant).await });
        }
        let now = buyer.wallet().now()?;
        let lease = Arc::clone(relay.lease.buyer());
        let given = lease.watch_grant().borrow().clone();
        if let Some(grant) = given.and_then(|bytes| Grant::decode(&bytes).ok())
            && grant != shown
        {
            // The provider began anew and the old credential is worth nothing, or its server wants another one for each slot.
            show(context, &relay, &grant);
            shown = grant;
        }
        let health = lease.watch_health().borrow().clone();
        if let LeaseHealth::Held { until } = health
            && leased != Some(until)
        {
            leased = Some(until);
            if args.until {
                context.format.emit(&format!("leased until {}", until.get()), &json!({ "leased_until": until.get() }));
            } else {
                tell(&format!("leased until {}", until.get()));
            }
        }
        if let LeaseHealth::Missed { reason, .. } = health
            && next.is_none()
        {
            relay.session.failed(&fault(&lease).await).await?;
            let ending = lease.ending().await.unwrap_or(Ending::NoAnswer);
            return Err(ClientError::NoLease { reason, ending }.into());
        }
        if next.is_none() && caps.allow_buying() && relay.session.is_due(ahead)? {
            tell("the stream ends soon: buying another");
            next = tokio::select! {
                () = &mut end => return Ok(()),
                () = shutdown_signal() => return Ok(()),
                renewed = relay.session.renew(caps, &tell) => Some(renewed?),
            };
        }
        // The old stream pays until then, and its grace bridges the hand-over.
        if let Some(session) = next.take_if(|session| session.pays_from() <= now) {
            let (begun, grant) = Relay::begin(session, args.calls).await?;
            relay = begun;
            if grant != shown {
                show(context, &relay, &grant);
                shown = grant;
            }
        }
    }
}
