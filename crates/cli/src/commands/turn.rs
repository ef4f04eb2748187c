//! TURN: the provider's server, and `tributary turn`, which buys a relay and keeps it paid (docs: turn).

use std::{net::SocketAddr, sync::Arc, time::Duration};

use serde_json::json;
use tributary_client::{
    Buyer, ClientError, Failure, KeptLease, LeaseHealth, Load, Session, Sought, SoughtFamily, SpendingCaps, Want,
};
use tributary_market::offer::UseUnit;
use tributary_protocol::Seconds;
use tributary_service_turn::{Embedded, EmbeddedConfig, Grant, Limits, OpenRate, TurnService, TurnServiceConfig};

use crate::{
    args,
    commands::{
        buyer::{parse_peer, preferences},
        gateway::{caps, circuits},
    },
    config::Turn,
    context::{Context, shutdown_signal},
    error::CliError,
};

/// All open binding requests together, for each one that a single address has.
const OPEN_BINDINGS: u32 = 100;
/// Between two looks at whether the stream has to be renewed.
const LOOK: Duration = Duration::from_secs(1);

/// The server that a provider sells, listening.
pub(crate) async fn service(settings: &Turn) -> Result<TurnService, CliError> {
    let input = |reason: String| CliError::Input { reason };
    let addresses = |key: &str, texts: &[String]| {
        let address = |text: &String| {
            text.parse::<SocketAddr>().map_err(|_| {
                input(format!("provider.turn.{key} '{text}' is no address with a port: write it like 192.0.2.1:3478"))
            })
        };
        texts.iter().map(address).collect::<Result<Vec<_>, _>>()
    };
    let (udp, tcp) = (addresses("udp", &settings.udp)?, addresses("tcp", &settings.tcp)?);
    let first = udp.first().ok_or_else(|| input("provider.turn.udp is empty: name an address".into()))?;
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
    if settings.first_port < 1024 || settings.last_port < settings.first_port {
        let (first, last) = (settings.first_port, settings.last_port);
        return Err(input(format!(
            "provider.turn.first_port = {first} and last_port = {last} are no range of ports from 1024 to 65535"
        )));
    }
    let allowed = settings.allowed_peers.iter().map(|network| network.parse());
    let config = EmbeddedConfig {
        udp: udp.clone(),
        tcp,
        realm: settings.realm.clone(),
        relay_bind: first.ip(),
        relay_address: public,
        ports: (settings.first_port, settings.last_port),
        allowed_peers: allowed.collect::<Result<_, _>>().map_err(refused)?,
        open_binding: OpenRate {
            per_source: settings.free_bindings,
            total: settings.free_bindings.saturating_mul(OPEN_BINDINGS),
        },
        limits: Limits { bytes_per_second: settings.bytes_per_second, ..Limits::default() },
    };
    let server = Embedded::start(config).await.map_err(refused)?;
    let at = |address: &SocketAddr| {
        let ip = if address.ip().is_unspecified() || settings.public_address.is_some() { public } else { address.ip() };
        SocketAddr::new(ip, address.port())
    };
    let stun = server.udp_addresses().iter().map(|address| format!("stun:{}", at(address)));
    let by_udp = server.udp_addresses().iter().map(|address| format!("turn:{}?transport=udp", at(address)));
    let by_tcp = server.tcp_addresses().iter().map(|address| format!("turn:{}?transport=tcp", at(address)));
    let stun = stun.filter(|_| settings.free_bindings > 0);
    let urls: Vec<String> = by_udp.chain(by_tcp).chain(stun).take(8).collect();
    let transports = [("udp", !settings.udp.is_empty()), ("tcp", !settings.tcp.is_empty())];
    let config = TurnServiceConfig {
        transports: transports.iter().filter(|(_, listens)| *listens).map(|(name, _)| (*name).to_owned()).collect(),
        call_minutes: settings.call_minutes,
        tickets: settings.tickets,
        max_calls: settings.max_calls,
        bytes_per_minute: settings.megabytes_per_minute.saturating_mul(1_000_000),
        bytes_per_second: settings.bytes_per_second,
        grace: Seconds::new(settings.grace)?,
        max_leases: settings.leases,
        ..TurnServiceConfig::new("turn".parse().map_err(refused)?, urls)
    };
    TurnService::new(Arc::new(server), config).map_err(refused)
}

fn refused(error: impl std::fmt::Display) -> CliError {
    CliError::Service { reason: error.to_string() }
}

fn want(context: &Context, args: &args::Turn) -> Result<Want, CliError> {
    let (max_price, preset) = preferences(context, args.buying.max_price, args.buying.preset.as_deref())?;
    Ok(Want {
        service: Sought::Family(SoughtFamily {
            id: "turn".parse().map_err(ClientError::from)?,
            family: "turn".parse().map_err(ClientError::from)?,
            needs: Vec::new(),
            unit: UseUnit::Minute,
            load: Load::Quota(args.calls),
            dialled: true,
        }),
        content_topics: Vec::new(),
        duration: Seconds::new(args.duration.unwrap_or(context.config.gateway.duration))?,
        max_price,
        preset,
        ignore: Vec::new(),
    })
}

/// Buys a relay, shows it, and keeps it paid until it is stopped.
pub(crate) async fn run(context: &Context, args: &args::Turn) -> Result<(), CliError> {
    let _lock = context.lock()?;
    let caps = caps(context, &args.buying)?;
    let provider = args.provider.as_deref().map(parse_peer).transpose()?;
    let want = want(context, args)?;
    context.format.progress("opening the wallet and reading the proving keys");
    let buyer = context.buyer_for(circuits(&args.buying)).await?;
    let following = tokio::spawn({
        let ledger = buyer.wallet().ledger().clone();
        async move { ledger.run(std::future::pending()).await }
    });
    let tell = |line: &str| context.format.progress(line);
    let done = match buyer.session(&want, provider, &caps, &tell).await {
        Ok(session) => keep(context, args, &buyer, session, &caps).await,
        Err(error) => Err(error.into()),
    };
    following.abort();
    buyer.node().shutdown().await;
    done
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

/// Whose fault it is that a slot isn't leased: one who doesn't answer is assessed; who answers may have refused for the buyer's own reasons.
async fn fault(buyer: &tributary_client::LeaseBuyer) -> Failure {
    match buyer.query().await {
        Err(_) => Failure::Unreachable,
        Ok(_) => Failure::Unsuitable,
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
    show(context, &relay, &shown);
    let mut next: Option<Session> = None;
    let mut leased = None;
    let mut look = tokio::time::interval(LOOK);
    look.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
    loop {
        tokio::select! {
            () = &mut end => return Ok(()),
            () = shutdown_signal() => return Ok(()),
            _ = look.tick() => {}
        }
        let now = buyer.wallet().now()?;
        let lease = Arc::clone(relay.lease.buyer());
        let given = lease.watch_grant().borrow().clone();
        if let Some(grant) = given.and_then(|bytes| Grant::decode(&bytes).ok())
            && grant != shown
        {
            // The provider began anew: the old credential is worth nothing.
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
            return Err(ClientError::NoLease { reason }.into());
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
