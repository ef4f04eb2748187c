//! `tributary tickets run`: tickets for leases, for other programs of the buyer on the same machine (docs: market, the local ticket port).
//!
//! Whoever may spend tickets here is whoever can read the token's file. Web pages reach loopback ports too, with the user's browser as their
//! arm: so a request must bear the token, name the port as its host (or a name bound to 127.0.0.1 would do), and have no origin but those in the
//! configuration.

use std::{
    collections::HashSet, fs, net::SocketAddr, os::unix::fs::DirBuilderExt as _, path::PathBuf, sync::Arc,
    time::Duration,
};

use alloy::{
    hex,
    primitives::{B256, keccak256},
};
use http_body_util::{BodyExt as _, Full, Limited};
use hyper::{
    HeaderMap, Method, Request, Response, StatusCode,
    body::{Bytes, Incoming},
    header::{self, HeaderName, HeaderValue},
};
use rand::{RngCore as _, rngs::OsRng};
use serde::{Deserialize, Serialize};
use serde_json::json;
use tokio::{net::TcpListener, time::timeout};
use tributary_client::{
    BoundTickets, ClientError, ClientStore, DeskError, DeskLimits, TicketDesk, TicketOrder, WhichSlot,
};
use tributary_ledger::SystemClock;
use tributary_market::offer::ServiceId;
use tributary_protocol::{PoolScope, UnixTime};
use tributary_prover::Circuit;
use tributary_waku::PeerId;
use tributary_wallet::{Origin, Services, TicketMaker, Wallet, WalletConfig, WalletFolder};

use crate::{
    context::{Context, write_new},
    daemon::{self, http},
    error::CliError,
};

/// What the process keeps for itself, in the home folder: it works beside the wallet's commands.
const FOLDER: &str = "tickets";
/// The token's file in that folder.
const TOKEN_FILE: &str = "token";
/// The one path.
const PATH: &str = "/v1/lease-tickets";
/// Bytes of an order at most. The longest that can be served has some 400.
const MAX_BODY: usize = 1024;
/// Time for an order's body.
const BODY_LIMIT: Duration = Duration::from_secs(2);
/// Time for one connection: the proofs of those before it, and its own.
const CONNECTION_LIMIT: Duration = Duration::from_secs(60);
/// How long a browser may remember what it may ask, seconds.
const PREFLIGHT_AGE: &str = "600";
const ALLOW_PRIVATE_NETWORK: HeaderName = HeaderName::from_static("access-control-allow-private-network");

/// Hands out tickets until it is asked to stop.
pub(crate) async fn run(context: &Context) -> Result<(), CliError> {
    let settings = &context.config.tickets;
    let address = loopback(&settings.listen)?;
    let origins =
        settings.origins.iter().map(|text| origin("tickets.origins", text)).collect::<Result<HashSet<_>, _>>()?;
    let stop = daemon::stop(context)?;
    let folder = context.file(FOLDER);
    fs::DirBuilder::new()
        .recursive(true)
        .mode(0o700)
        .create(&folder)
        .map_err(|error| CliError::Write { file: folder.clone(), error })?;
    let _lock = context.lock_file("tickets/lock")?;

    let desk = Arc::new(desk(context).await?);
    let failed = |error| CliError::TicketPort { address, error };
    let listener = TcpListener::bind(address).await.map_err(failed)?;
    let bound = listener.local_addr().map_err(failed)?;
    let token = Token::create(folder.join(TOKEN_FILE))?;
    let gate = Arc::new(Gate::new(bound, origins, &token.text));

    let following = tokio::spawn({
        let (ledger, stopped) = (desk.ledger().clone(), stop.requested());
        async move { ledger.run(stopped).await }
    });
    println!("{}", json!({ "role": "tickets", "url": format!("http://{bound}"), "token_file": token.file }));
    let answering = move |request: Request<Incoming>| {
        let (gate, desk) = (Arc::clone(&gate), Arc::clone(&desk));
        async move { answer(request, &gate, &desk).await }
    };
    http::accept(listener, CONNECTION_LIMIT, stop.requested(), answering).await;
    drop(token);
    if let Err(error) = following.await {
        tracing::warn!(%error, "the ledger's task failed");
    }
    Ok(())
}

/// The desk, with a ledger and a view of the wallet of its own. Only the ticket counters and the purchases are shared with the other commands;
/// both are databases that several processes may use.
async fn desk(context: &Context) -> Result<TicketDesk, CliError> {
    let settings = &context.config.tickets;
    let vault = context.vault()?;
    let ledger = context.ledger("tickets/ledger.db").await?;
    let scope = PoolScope { pool: ledger.pool(), account: 0 };
    let keys = vault.seed().account(scope).map_err(|error| CliError::Input { reason: error.to_string() })?;
    let counters = WalletFolder::new(context.home.clone()).tickets(&scope);
    if !counters.exists() {
        // Never made here: the wallet would not notice that they had been lost.
        return Err(ClientError::NoStream { provider: "any".into() }.into());
    }
    let prover = context.prover(&[Circuit::Ticket])?;
    let services = Services { ledger: ledger.clone(), prover: Arc::clone(&prover), clock: Arc::new(SystemClock) };
    let config = WalletConfig { root_depth: 1, ..WalletConfig::default() };
    let view = context.file("tickets/wallet.db");
    let wallet = Wallet::with_keys(&view, keys, services, config, Origin::Restored).await?;
    wallet.scan().await?;
    // The counters know themselves which slots are left out after a restore.
    let tickets = TicketMaker::open(&counters, ledger, prover, None).await.map_err(ClientError::from)?;
    let store = ClientStore::open(&context.file("client.db")).await?;
    let limits = DeskLimits { per_lease: settings.max_per_lease, total: settings.max_total };
    Ok(TicketDesk::new(wallet, tickets, store, Arc::new(SystemClock), limits))
}

fn loopback(listen: &str) -> Result<SocketAddr, CliError> {
    let wrong = || CliError::Input {
        reason: format!("tickets.listen '{listen}' is no loopback address with a port: write it like 127.0.0.1:8646"),
    };
    listen.parse().ok().filter(|address: &SocketAddr| address.ip().is_loopback()).ok_or_else(wrong)
}

/// An origin as browsers write it: scheme, host and port if it isn't the scheme's own, in lower case, nothing else.
pub(crate) fn origin(key: &str, text: &str) -> Result<String, CliError> {
    let host = text.split_once("://").map(|(_, host)| host).unwrap_or_default();
    let canonical = !host.is_empty()
        && !host.contains(['/', '@', '?', '#', '*'])
        && text.bytes().all(|byte| byte.is_ascii_graphic() && !byte.is_ascii_uppercase());
    if canonical {
        return Ok(text.to_owned());
    }
    Err(CliError::Input {
        reason: format!("{key} '{text}' is no origin: write it like https://app.example, without a path"),
    })
}

/// A token that is good as long as the process lives.
#[derive(Debug)]
struct Token {
    file: PathBuf,
    text: String,
}

impl Token {
    fn create(file: PathBuf) -> Result<Self, CliError> {
        let mut secret = [0; 32];
        OsRng.fill_bytes(&mut secret);
        let text = hex::encode(secret);
        match fs::remove_file(&file) {
            Err(error) if error.kind() != std::io::ErrorKind::NotFound => {
                return Err(CliError::Write { file, error });
            }
            _ => {}
        }
        write_new(&file, &text, 0o600)?;
        Ok(Self { file, text })
    }
}

impl Drop for Token {
    fn drop(&mut self) {
        let _ = fs::remove_file(&self.file);
    }
}

/// Why the port does not do what was asked.
#[derive(Debug, thiserror::Error)]
enum PortError {
    #[error("the token is missing or wrong: send 'Authorization: Bearer' and the content of the token's file")]
    Unauthorised,
    #[error("the request is for host '{host}': use the address that the process printed")]
    ForeignHost { host: String },
    #[error("pages of {origin} may not ask here: add it to tickets.origins if you trust them with tickets")]
    ForeignOrigin { origin: String },
    #[error("there is {PATH} alone")]
    NotFound,
    #[error("{PATH} takes POST")]
    Method,
    #[error("the body's type must be application/json")]
    Type,
    #[error("the body is longer than {MAX_BODY} bytes")]
    TooLarge,
    #[error("the body did not come within {} s", BODY_LIMIT.as_secs())]
    Late,
    #[error("the order can't be read: {reason}")]
    Malformed { reason: String },
    #[error(transparent)]
    Desk(#[from] DeskError),
}

impl PortError {
    fn code(&self) -> &'static str {
        match self {
            Self::Unauthorised => "TRB-L001",
            Self::ForeignHost { .. } => "TRB-L002",
            Self::ForeignOrigin { .. } => "TRB-L003",
            Self::NotFound => "TRB-L004",
            Self::Method => "TRB-L005",
            Self::Type => "TRB-L006",
            Self::TooLarge => "TRB-L007",
            Self::Late => "TRB-L008",
            Self::Malformed { .. } => "TRB-L009",
            Self::Desk(error) => error.code(),
        }
    }

    fn status(&self) -> StatusCode {
        match self {
            Self::Unauthorised => StatusCode::UNAUTHORIZED,
            Self::ForeignHost { .. } => StatusCode::MISDIRECTED_REQUEST,
            Self::ForeignOrigin { .. } => StatusCode::FORBIDDEN,
            Self::NotFound => StatusCode::NOT_FOUND,
            Self::Method => StatusCode::METHOD_NOT_ALLOWED,
            Self::Type => StatusCode::UNSUPPORTED_MEDIA_TYPE,
            Self::TooLarge => StatusCode::PAYLOAD_TOO_LARGE,
            Self::Late => StatusCode::REQUEST_TIMEOUT,
            Self::Malformed { .. } => StatusCode::BAD_REQUEST,
            Self::Desk(DeskError::Client(error)) => match **error {
                ClientError::NoStream { .. } => StatusCode::NOT_FOUND,
                ClientError::NotSold { .. } | ClientError::LeaseTooLarge { .. } => StatusCode::UNPROCESSABLE_ENTITY,
                _ => StatusCode::SERVICE_UNAVAILABLE,
            },
            // The limits.
            Self::Desk(_) => StatusCode::TOO_MANY_REQUESTS,
        }
    }
}

/// Who may ask.
#[derive(Debug)]
struct Gate {
    hosts: [String; 2],
    origins: HashSet<String>,
    /// Hashes are compared, so that the time this takes says nothing of the token.
    token: B256,
}

impl Gate {
    fn new(bound: SocketAddr, origins: HashSet<String>, token: &str) -> Self {
        let hosts = [bound.to_string(), format!("localhost:{}", bound.port())];
        Self { hosts, origins, token: keccak256(token) }
    }

    /// The origin that may read the answer, if the request has one.
    fn origin(&self, headers: &HeaderMap) -> Result<Option<HeaderValue>, PortError> {
        let shown = |value: &HeaderValue| value.to_str().unwrap_or("?").chars().take(128).collect::<String>();
        let host = only(headers, &header::HOST);
        if !host.is_some_and(|host| self.hosts.iter().any(|own| host == own.as_str())) {
            return Err(PortError::ForeignHost { host: host.map(shown).unwrap_or_default() });
        }
        if !headers.contains_key(header::ORIGIN) {
            return Ok(None);
        }
        let origin = only(headers, &header::ORIGIN);
        match origin.and_then(|origin| origin.to_str().ok()) {
            Some(known) if self.origins.contains(known) => Ok(origin.cloned()),
            _ => Err(PortError::ForeignOrigin { origin: origin.map(shown).unwrap_or_default() }),
        }
    }

    fn admit<B>(&self, request: &Request<B>) -> Result<(), PortError> {
        let bearer = only(request.headers(), &header::AUTHORIZATION)
            .and_then(|value| value.to_str().ok())
            .and_then(|value| value.strip_prefix("Bearer "));
        if bearer.map(keccak256) != Some(self.token) {
            return Err(PortError::Unauthorised);
        }
        if request.uri().path() != PATH {
            return Err(PortError::NotFound);
        }
        if request.method() != Method::POST {
            return Err(PortError::Method);
        }
        let json = only(request.headers(), &header::CONTENT_TYPE)
            .and_then(|value| value.to_str().ok())
            .is_some_and(|kind| kind.split(';').next().unwrap_or_default().trim() == "application/json");
        if json { Ok(()) } else { Err(PortError::Type) }
    }
}

/// A header's value, if it is there exactly once.
fn only<'a>(headers: &'a HeaderMap, name: &HeaderName) -> Option<&'a HeaderValue> {
    let mut values = headers.get_all(name).iter();
    values.next().filter(|_| values.next().is_none())
}

#[derive(Debug, Deserialize)]
#[serde(rename_all = "snake_case")]
enum SlotName {
    Running,
    Next,
}

/// An order as it comes.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct OrderBody {
    provider: String,
    peer_id: String,
    service: String,
    quota: u32,
    slot: SlotName,
    #[serde(default)]
    attempt: u8,
}

impl OrderBody {
    fn read(bytes: &[u8]) -> Result<TicketOrder, PortError> {
        let malformed = |reason: String| PortError::Malformed { reason };
        let body: Self = serde_json::from_slice(bytes).map_err(|error| malformed(error.to_string()))?;
        let peer = |field: &str, text: &str| {
            text.parse::<PeerId>().map_err(|error| malformed(format!("{field} is no peer id: {error}")))
        };
        Ok(TicketOrder {
            provider: peer("provider", &body.provider)?,
            peer: peer("peer_id", &body.peer_id)?,
            service: body.service.parse::<ServiceId>().map_err(|error| malformed(error.to_string()))?,
            quota: body.quota,
            slot: match body.slot {
                SlotName::Running => WhichSlot::Running,
                SlotName::Next => WhichSlot::Next,
            },
            attempt: body.attempt,
        })
    }
}

/// What an order is answered with.
#[derive(Debug, Serialize)]
struct OrderAnswer {
    now: UnixTime,
    slot_start: UnixTime,
    slot_end: UnixTime,
    tickets: u8,
    eligibility_proof: String,
}

async fn answer(request: Request<Incoming>, gate: &Gate, desk: &TicketDesk) -> Response<Full<Bytes>> {
    let origin = match gate.origin(request.headers()) {
        Ok(origin) => origin,
        Err(error) => return refusal(&error),
    };
    let mut response = if request.method() == Method::OPTIONS && origin.is_some() {
        preflight()
    } else {
        match serve(request, gate, desk).await {
            Ok(answer) => http::document(StatusCode::OK, &json!(answer)),
            Err(error) => refusal(&error),
        }
    };
    let headers = response.headers_mut();
    headers.insert(header::VARY, HeaderValue::from_static("Origin"));
    if let Some(origin) = origin {
        headers.insert(header::ACCESS_CONTROL_ALLOW_ORIGIN, origin);
    }
    response
}

async fn serve(request: Request<Incoming>, gate: &Gate, desk: &TicketDesk) -> Result<OrderAnswer, PortError> {
    gate.admit(&request)?;
    let body = timeout(BODY_LIMIT, Limited::new(request.into_body(), MAX_BODY).collect()).await;
    let body = match body {
        Err(_) => return Err(PortError::Late),
        Ok(Err(error)) if error.is::<http_body_util::LengthLimitError>() => return Err(PortError::TooLarge),
        Ok(Err(error)) => return Err(PortError::Malformed { reason: error.to_string() }),
        Ok(Ok(body)) => body.to_bytes(),
    };
    let BoundTickets { slot, count, eligibility_proof } = desk.order(&OrderBody::read(&body)?).await?;
    Ok(OrderAnswer {
        now: desk.now().map_err(DeskError::from)?,
        slot_start: slot.start(),
        slot_end: slot.end(),
        tickets: count,
        eligibility_proof: hex::encode(eligibility_proof),
    })
}

fn refusal(error: &PortError) -> Response<Full<Bytes>> {
    tracing::debug!(code = error.code(), %error, "an order for tickets was refused");
    http::document(error.status(), &json!({ "error": error.code(), "message": error.to_string() }))
}

fn preflight() -> Response<Full<Bytes>> {
    let mut response = Response::new(Full::new(Bytes::new()));
    *response.status_mut() = StatusCode::NO_CONTENT;
    for (name, value) in [
        (header::ACCESS_CONTROL_ALLOW_METHODS, "POST"),
        (header::ACCESS_CONTROL_ALLOW_HEADERS, "authorization, content-type"),
        (header::ACCESS_CONTROL_MAX_AGE, PREFLIGHT_AGE),
        (ALLOW_PRIVATE_NETWORK, "true"),
    ] {
        response.headers_mut().insert(name, HeaderValue::from_static(value));
    }
    response
}

#[cfg(test)]
mod tests {
    use super::*;

    const TOKEN: &str = "00112233";

    fn gate() -> Gate {
        let origins = HashSet::from(["https://app.example".to_owned()]);
        Gate::new("127.0.0.1:8646".parse().unwrap(), origins, TOKEN)
    }

    fn request(changes: &[(&str, &str)]) -> Request<()> {
        let mut request = Request::post(PATH).body(()).unwrap();
        let usual =
            [("host", "127.0.0.1:8646"), ("authorization", "Bearer 00112233"), ("content-type", "application/json")];
        for (name, value) in usual.iter().filter(|(name, _)| !changes.iter().any(|(other, _)| other == name)) {
            request.headers_mut().append(*name, HeaderValue::from_static(value));
        }
        for (name, value) in changes.iter().filter(|(_, value)| !value.is_empty()) {
            request.headers_mut().append(name.parse::<HeaderName>().unwrap(), value.parse().unwrap());
        }
        request
    }

    fn judged(request: &Request<()>) -> Result<Option<HeaderValue>, (u16, &'static str)> {
        let gate = gate();
        let judged = gate.origin(request.headers()).and_then(|origin| gate.admit(request).map(|()| origin));
        judged.map_err(|error| (error.status().as_u16(), error.code()))
    }

    #[test]
    fn only_who_has_the_token_may_ask() {
        assert_eq!(judged(&request(&[])), Ok(None));
        for wrong in ["", "Bearer", "Bearer ", "Bearer 0011223", "Bearer 001122334", "Basic 00112233", "00112233"] {
            assert_eq!(judged(&request(&[("authorization", wrong)])), Err((401, "TRB-L001")), "{wrong}");
        }
        let twice = [("authorization", "Bearer 00112233"), ("authorization", "Bearer 00112233")];
        assert_eq!(judged(&request(&twice)), Err((401, "TRB-L001")));
    }

    #[test]
    fn a_name_that_is_bound_to_loopback_is_no_host() {
        assert_eq!(judged(&request(&[("host", "localhost:8646")])), Ok(None));
        for wrong in
            ["", "evil.example:8646", "evil.example", "127.0.0.1", "127.0.0.1:80", "localhost.evil.example:8646"]
        {
            assert_eq!(judged(&request(&[("host", wrong)])), Err((421, "TRB-L002")), "{wrong}");
        }
        let twice = [("host", "127.0.0.1:8646"), ("host", "evil.example")];
        assert_eq!(judged(&request(&twice)), Err((421, "TRB-L002")));
    }

    #[test]
    fn web_pages_may_not_ask_unless_they_are_named() {
        let named = judged(&request(&[("origin", "https://app.example")])).unwrap();
        assert_eq!(named.unwrap(), "https://app.example");
        for wrong in [
            "null",
            "https://evil.example",
            "http://app.example",
            "https://app.example.evil.example",
            "http://127.0.0.1:8646",
        ] {
            assert_eq!(judged(&request(&[("origin", wrong)])), Err((403, "TRB-L003")), "{wrong}");
        }
        let twice = [("origin", "https://app.example"), ("origin", "https://evil.example")];
        assert_eq!(judged(&request(&twice)), Err((403, "TRB-L003")));
        // What a form can send, without asking the browser's leave before, is no order.
        for wrong in ["", "text/plain", "application/x-www-form-urlencoded", "multipart/form-data; boundary=x"] {
            assert_eq!(judged(&request(&[("content-type", wrong)])), Err((415, "TRB-L006")), "{wrong}");
        }
    }

    #[test]
    fn origins_in_the_configuration_are_origins() {
        for good in ["https://app.example", "http://localhost:5173", "moz-extension://0a-1b"] {
            assert_eq!(origin("tickets.origins", good).unwrap(), good);
        }
        for bad in [
            "",
            "*",
            "null",
            "app.example",
            "https://",
            "https://app.example/",
            "https://*.example",
            "https://APP.example",
        ] {
            assert_eq!(origin("tickets.origins", bad).unwrap_err().code(), "TRB-X011", "{bad}");
        }
    }

    #[test]
    fn the_port_is_on_loopback() {
        assert!(loopback("127.0.0.1:0").is_ok() && loopback("[::1]:8646").is_ok());
        for bad in ["", "0.0.0.0:8646", "192.168.1.2:8646", "[::]:0", "127.0.0.1"] {
            assert_eq!(loopback(bad).unwrap_err().code(), "TRB-X011", "{bad}");
        }
    }

    #[test]
    fn orders_that_say_something_else_are_refused() {
        let peer = "16Uiu2HAmSHbuDjAS5VGTRy5yh3jEFWfUBgYbYqtyqGnGYJzYUmyD";
        let good = json!({ "provider": peer, "peer_id": peer, "service": "filter", "quota": 1, "slot": "next" });
        let read = OrderBody::read(good.to_string().as_bytes()).unwrap();
        assert_eq!((read.slot, read.attempt, read.quota), (WhichSlot::Next, 0, 1));
        let changes = [
            ("provider", json!("someone")),
            ("peer_id", json!("")),
            ("service", json!("Filter!")),
            ("quota", json!(-1)),
            ("slot", json!("later")),
            ("attempt", json!(256)),
            ("count", json!(4)),
        ];
        for (field, value) in changes {
            let mut order = good.clone();
            order[field] = value;
            let refused = OrderBody::read(order.to_string().as_bytes()).unwrap_err();
            assert_eq!((refused.code(), refused.status().as_u16()), ("TRB-L009", 400), "{order}");
        }
    }

    #[test]
    fn a_token_is_new_each_time_and_its_owners_alone() {
        use std::os::unix::fs::PermissionsExt as _;
        let folder = tempfile::tempdir().unwrap();
        let file = folder.path().join("token");
        let first = Token::create(file.clone()).unwrap();
        let second = Token::create(file.clone()).unwrap();
        assert_ne!(first.text, second.text);
        assert_eq!(second.text.len(), 64);
        assert_eq!(fs::read_to_string(&file).unwrap(), second.text);
        assert_eq!(fs::metadata(&file).unwrap().permissions().mode() & 0o777, 0o600);
        drop(second);
        assert!(!file.exists());
    }
}
