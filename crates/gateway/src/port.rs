//! The port: who may ask, and which surface answers.
//!
//! Web pages reach loopback ports too, with the user's browser as their arm. So a request must bear the token, name the port as its host (or
//! a name bound to 127.0.0.1 would do), and have no origin but those in the configuration.

use std::{collections::HashSet, convert::Infallible, fmt::Debug, net::SocketAddr, sync::Arc, time::Duration};

use async_trait::async_trait;
use http_body_util::{BodyExt as _, LengthLimitError, Limited};
use hyper::{
    HeaderMap, Method, Request, StatusCode,
    body::{Bytes, Incoming},
    header::{self, HeaderName, HeaderValue},
    server::conn::http1,
    service::service_fn,
};
use hyper_util::rt::{TokioIo, TokioTimer};
use serde_json::json;
use sha2::{Digest as _, Sha256};
use tokio::{
    net::TcpListener,
    sync::{Semaphore, watch},
    task::JoinSet,
    time::timeout,
};

use crate::body::{Answer, document, empty};

/// Connections at once; further ones wait in the kernel's queue.
const MAX_CONNECTIONS: usize = 64;
/// Time for a request's head, and for which a connection may stay open without one.
const HEAD_LIMIT: Duration = Duration::from_secs(30);
/// Time for a request's body.
const BODY_LIMIT: Duration = Duration::from_secs(30);
/// Time for one connection with all its requests.
const CONNECTION_LIMIT: Duration = Duration::from_secs(3600);
/// Pause after the system refuses a connection, for want of files say.
const PAUSE: Duration = Duration::from_millis(100);
/// Bytes of a request's head at most.
const MAX_HEAD_BYTES: usize = 32 * 1024;
/// Headers of a request at most.
const MAX_HEADERS: usize = 64;
/// Bytes that a browser's page may name of headers that it wants to send.
const MAX_WANTED_HEADERS: usize = 1024;
/// How long a browser may remember what it may ask, seconds.
const PREFLIGHT_AGE: HeaderValue = HeaderValue::from_static("600");
const ALLOW_PRIVATE_NETWORK: HeaderName = HeaderName::from_static("access-control-allow-private-network");

/// What one family of services looks like to programs of the buyer.
#[async_trait]
pub trait Surface: Debug + Send + Sync + 'static {
    /// The path under which it lies, such as `/v1`; each of a port's surfaces has its own.
    fn prefix(&self) -> &str;

    /// Bytes of a request's body at most.
    fn max_body(&self) -> usize {
        1024 * 1024
    }

    /// Answers a request. Its path begins with the prefix; the token is checked and taken out. When the program goes away, the future or
    /// the answer's body is dropped: nothing more may be paid then.
    async fn handle(&self, request: Request<Bytes>) -> Answer;

    /// How the port's own refusals look here.
    fn refuse(&self, error: &PortError) -> Answer {
        plain(error)
    }
}

/// Why the port doesn't do what was asked.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum PortError {
    /// No token, or another one.
    #[error("the token is missing or wrong: send 'Authorization: Bearer' and the content of the token's file")]
    Unauthorised,
    /// The request names another host than this port.
    #[error("the request is for host '{host}': use the address that the process printed")]
    ForeignHost {
        /// The host, cut.
        host: String,
    },
    /// A web page asks that isn't named in the configuration.
    #[error("pages of {origin} may not ask here: add it to gateway.origins if you trust them with your money")]
    ForeignOrigin {
        /// Its origin, cut.
        origin: String,
    },
    /// The request's target is a whole address, as for a forward proxy.
    #[error("the request's target is a whole address: this is no forward proxy, ask for a path")]
    WholeAddress,
    /// No surface has this path.
    #[error("there is nothing at this path; there are {known}")]
    NotFound {
        /// The surfaces' prefixes.
        known: String,
    },
    /// The body is too long.
    #[error("the body is longer than {max} bytes")]
    TooLarge {
        /// Bytes at most.
        max: usize,
    },
    /// The body didn't come in time.
    #[error("the body did not come within {} s", BODY_LIMIT.as_secs())]
    Late,
    /// The body can't be read.
    #[error("the body can't be read: {reason}")]
    BadBody {
        /// Why.
        reason: String,
    },
    /// The address isn't on this machine.
    #[error("{address} is no loopback address: the port spends money and is for programs of this machine alone")]
    NotLoopback {
        /// The address.
        address: SocketAddr,
    },
    /// The address can't be listened on.
    #[error("{address} can't be listened on: {reason}")]
    Listen {
        /// The address.
        address: SocketAddr,
        /// What the system says.
        reason: String,
    },
    /// Two surfaces under one prefix.
    #[error("two surfaces have the path {prefix}: give each its own")]
    SamePrefix {
        /// The path.
        prefix: String,
    },
}

impl PortError {
    /// The stable code of the error.
    #[must_use]
    pub const fn code(&self) -> &'static str {
        match self {
            Self::Unauthorised => "TRB-G001",
            Self::ForeignHost { .. } => "TRB-G002",
            Self::ForeignOrigin { .. } => "TRB-G003",
            Self::WholeAddress => "TRB-G004",
            Self::NotFound { .. } => "TRB-G005",
            Self::TooLarge { .. } => "TRB-G006",
            Self::Late => "TRB-G007",
            Self::BadBody { .. } => "TRB-G008",
            Self::NotLoopback { .. } => "TRB-G009",
            Self::Listen { .. } => "TRB-G010",
            Self::SamePrefix { .. } => "TRB-G011",
        }
    }

    /// The HTTP status that it is answered with.
    #[must_use]
    pub const fn status(&self) -> StatusCode {
        match self {
            Self::Unauthorised => StatusCode::UNAUTHORIZED,
            Self::ForeignHost { .. } => StatusCode::MISDIRECTED_REQUEST,
            Self::ForeignOrigin { .. } => StatusCode::FORBIDDEN,
            Self::WholeAddress | Self::BadBody { .. } => StatusCode::BAD_REQUEST,
            Self::NotFound { .. } => StatusCode::NOT_FOUND,
            Self::TooLarge { .. } => StatusCode::PAYLOAD_TOO_LARGE,
            Self::Late => StatusCode::REQUEST_TIMEOUT,
            Self::NotLoopback { .. } | Self::Listen { .. } | Self::SamePrefix { .. } => {
                StatusCode::INTERNAL_SERVER_ERROR
            }
        }
    }
}

fn plain(error: &PortError) -> Answer {
    document(error.status(), &json!({ "error": error.code(), "message": error.to_string() }))
}

/// How a port is set up.
#[derive(Debug, Clone)]
pub struct PortSettings {
    /// Where to listen, on loopback; port 0 takes a free one.
    pub listen: SocketAddr,
    /// Origins of web pages that may ask too, as browsers write them.
    pub origins: HashSet<String>,
}

/// A port that listens and doesn't answer yet.
#[derive(Debug)]
pub struct Port {
    listener: TcpListener,
    bound: SocketAddr,
    gate: Gate,
    surfaces: Vec<Arc<dyn Surface>>,
}

impl Port {
    /// Listens for requests that bear `token`.
    ///
    /// # Errors
    /// [`PortError::NotLoopback`], [`PortError::Listen`], [`PortError::SamePrefix`].
    pub async fn open(settings: PortSettings, token: &str, surfaces: Vec<Arc<dyn Surface>>) -> Result<Self, PortError> {
        let address = settings.listen;
        if !address.ip().is_loopback() {
            return Err(PortError::NotLoopback { address });
        }
        for (at, surface) in surfaces.iter().enumerate() {
            if surfaces[..at].iter().any(|other| other.prefix() == surface.prefix()) {
                return Err(PortError::SamePrefix { prefix: surface.prefix().to_owned() });
            }
        }
        let failed = |error: std::io::Error| PortError::Listen { address, reason: error.to_string() };
        let listener = TcpListener::bind(address).await.map_err(failed)?;
        let bound = listener.local_addr().map_err(failed)?;
        let gate = Gate::new(bound, settings.origins, token);
        Ok(Self { listener, bound, gate, surfaces })
    }

    /// Where it listens.
    #[must_use]
    pub const fn address(&self) -> SocketAddr {
        self.bound
    }

    /// Answers until `stopped`; answers at work may finish, connections without one are closed.
    pub async fn serve(self, stopped: impl Future<Output = ()> + Send) {
        let mut stopped = std::pin::pin!(stopped);
        let places = Arc::new(Semaphore::new(MAX_CONNECTIONS));
        let desk = Arc::new(Desk { gate: self.gate, surfaces: self.surfaces });
        let (ending, ended) = watch::channel(false);
        let mut connections = JoinSet::new();
        loop {
            while connections.try_join_next().is_some() {}
            let accepted = async {
                let place = Arc::clone(&places).acquire_owned().await;
                (place, self.listener.accept().await)
            };
            let (place, accepted) = tokio::select! {
                () = &mut stopped => break,
                accepted = accepted => accepted,
            };
            let (stream, _) = match accepted {
                Ok(accepted) => accepted,
                Err(error) => {
                    tracing::debug!(%error, "the gateway took no connection");
                    tokio::time::sleep(PAUSE).await;
                    continue;
                }
            };
            // Each piece of an answer goes out by itself.
            let _ = stream.set_nodelay(true);
            let (desk, mut ended) = (Arc::clone(&desk), ended.clone());
            connections.spawn(async move {
                let answering = service_fn(move |request| {
                    let desk = Arc::clone(&desk);
                    async move { Ok::<_, Infallible>(desk.answer(request).await) }
                });
                let serving = http1::Builder::new()
                    .timer(TokioTimer::new())
                    .header_read_timeout(HEAD_LIMIT)
                    .max_buf_size(MAX_HEAD_BYTES)
                    .max_headers(MAX_HEADERS)
                    .serve_connection(TokioIo::new(stream), answering);
                let mut serving = std::pin::pin!(serving);
                let work = async {
                    tokio::select! {
                        done = serving.as_mut() => return done,
                        _ = ended.wait_for(|ended| *ended) => {}
                    }
                    serving.as_mut().graceful_shutdown();
                    serving.await
                };
                if let Ok(Err(error)) = timeout(CONNECTION_LIMIT, work).await {
                    tracing::debug!(%error, "a connection to the gateway broke");
                }
                drop(place);
            });
        }
        let _ = ending.send(true);
        while connections.join_next().await.is_some() {}
    }
}

#[derive(Debug)]
struct Desk {
    gate: Gate,
    surfaces: Vec<Arc<dyn Surface>>,
}

impl Desk {
    fn surface(&self, path: &str) -> Option<&Arc<dyn Surface>> {
        self.surfaces.iter().find(|surface| {
            path.strip_prefix(surface.prefix()).is_some_and(|rest| rest.is_empty() || rest.starts_with('/'))
        })
    }

    async fn answer(&self, request: Request<Incoming>) -> Answer {
        let surface = self.surface(request.uri().path());
        let refuse = |error: &PortError| {
            tracing::debug!(code = error.code(), %error, "the gateway refused a request");
            surface.map_or_else(|| plain(error), |surface| surface.refuse(error))
        };
        let origin = match self.gate.origin(request.headers()) {
            Ok(origin) => origin,
            Err(error) => return refuse(&error),
        };
        let mut answer = if request.method() == Method::OPTIONS && origin.is_some() {
            preflight(request.headers())
        } else {
            match self.admit(request, surface).await {
                Ok((surface, request)) => surface.handle(request).await,
                Err(error) => refuse(&error),
            }
        };
        if let Some(origin) = origin {
            let headers = answer.headers_mut();
            headers.append(header::VARY, HeaderValue::from_static("Origin"));
            headers.insert(header::ACCESS_CONTROL_ALLOW_ORIGIN, origin);
        }
        answer
    }

    async fn admit<'a>(
        &self,
        mut request: Request<Incoming>,
        surface: Option<&'a Arc<dyn Surface>>,
    ) -> Result<(&'a Arc<dyn Surface>, Request<Bytes>), PortError> {
        self.gate.admit(request.headers())?;
        if request.uri().authority().is_some() || request.uri().scheme().is_some() {
            return Err(PortError::WholeAddress);
        }
        let surface = surface.ok_or_else(|| {
            let known: Vec<&str> = self.surfaces.iter().map(|surface| surface.prefix()).collect();
            PortError::NotFound { known: known.join(" ") }
        })?;
        request.headers_mut().remove(header::AUTHORIZATION);
        let max = surface.max_body();
        let (head, body) = request.into_parts();
        let body = match timeout(BODY_LIMIT, Limited::new(body, max).collect()).await {
            Err(_) => return Err(PortError::Late),
            Ok(Err(error)) if error.is::<LengthLimitError>() => return Err(PortError::TooLarge { max }),
            Ok(Err(error)) => return Err(PortError::BadBody { reason: error.to_string() }),
            Ok(Ok(body)) => body.to_bytes(),
        };
        Ok((surface, Request::from_parts(head, body)))
    }
}

/// Who may ask.
#[derive(Debug)]
pub struct Gate {
    hosts: [String; 2],
    origins: HashSet<String>,
    /// Hashes are compared, so that the time this takes says nothing of the token.
    token: [u8; 32],
}

impl Gate {
    /// The gate of the port at `bound`.
    #[must_use]
    pub fn new(bound: SocketAddr, origins: HashSet<String>, token: &str) -> Self {
        let hosts = [bound.to_string(), format!("localhost:{}", bound.port())];
        Self { hosts, origins, token: Sha256::digest(token).into() }
    }

    /// The origin that may read the answer, if the request has one.
    ///
    /// # Errors
    /// [`PortError::ForeignHost`], [`PortError::ForeignOrigin`].
    pub fn origin(&self, headers: &HeaderMap) -> Result<Option<HeaderValue>, PortError> {
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

    /// Whether a request bears the token.
    ///
    /// # Errors
    /// [`PortError::Unauthorised`].
    pub fn admit(&self, headers: &HeaderMap) -> Result<(), PortError> {
        let bearer = only(headers, &header::AUTHORIZATION)
            .and_then(|value| value.to_str().ok())
            .and_then(|value| value.strip_prefix("Bearer "));
        let hash = bearer.map(|bearer| <[u8; 32]>::from(Sha256::digest(bearer)));
        if hash == Some(self.token) { Ok(()) } else { Err(PortError::Unauthorised) }
    }
}

/// A header's value, if it is there exactly once.
fn only<'a>(headers: &'a HeaderMap, name: &HeaderName) -> Option<&'a HeaderValue> {
    let mut values = headers.get_all(name).iter();
    values.next().filter(|_| values.next().is_none())
}

/// What a page of a known origin may send.
fn preflight(asked: &HeaderMap) -> Answer {
    let mut answer = Answer::new(empty());
    *answer.status_mut() = StatusCode::NO_CONTENT;
    let wanted = only(asked, &header::ACCESS_CONTROL_REQUEST_HEADERS).filter(|names| names.len() <= MAX_WANTED_HEADERS);
    let wanted = wanted.cloned().unwrap_or_else(|| HeaderValue::from_static("authorization, content-type"));
    for (name, value) in [
        (header::ACCESS_CONTROL_ALLOW_METHODS, HeaderValue::from_static("GET, HEAD, POST, PUT, PATCH, DELETE")),
        (header::ACCESS_CONTROL_ALLOW_HEADERS, wanted),
        (header::ACCESS_CONTROL_MAX_AGE, PREFLIGHT_AGE),
        (ALLOW_PRIVATE_NETWORK, HeaderValue::from_static("true")),
    ] {
        answer.headers_mut().insert(name, value);
    }
    answer
}
