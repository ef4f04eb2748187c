//! The provider's side.

use std::{
    collections::HashMap,
    fmt,
    sync::{Arc, OnceLock},
    time::{Duration, Instant},
};

use async_trait::async_trait;
use parking_lot::Mutex;
use prost::Message as _;
use rand::{RngCore as _, rngs::OsRng};
use tributary_market::{
    offer::{Service as OfferService, ServiceId, UsePrice, UseUnit},
    proto::PaidRequest,
    ticket::{MAX_PAID_REQUEST_OVERHEAD, TicketRefusal},
    wire::WireError,
};
use tributary_provider::{
    free::FreeTierLimits,
    service::{Service, ServiceError},
    till::{Admission, Till, Use},
};
use tributary_waku::{Bytes, NodeHandle, PeerId, RequestHandler, ServeLimits};

use crate::{
    fault::{HttpFault, HttpFaultKind},
    properties::HttpProperties,
    proto,
    rules::{Allowed, MAX_BODY_BYTES, MAX_HEADER_BYTES, Rules, passed_back, plain_path},
    upstream::{Reading, Upstream},
    wire::{ANSWER_OVERHEAD, NAME_BYTES, PIECE_BYTES, protocol},
};

/// Answers that are kept for their next piece, at most, and for how long.
const MAX_HELD: usize = 64;
const HELD_FOR: Duration = Duration::from_secs(60);
/// Bytes of a call at most.
pub(crate) const MAX_CALL_BYTES: usize = MAX_BODY_BYTES + MAX_HEADER_BYTES + 16 * 1024;
/// Time for a call: longer than an upstream may take, so that each admitted use is settled.
const HANDLER_LIMIT: Duration = Duration::from_secs(75);

/// How an upstream is sold.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct HttpServiceConfig {
    /// Id of the service in the offer. It stands in the buyer's address, so it has no slash.
    pub id: ServiceId,
    /// The upstream.
    pub upstream: Upstream,
    /// What may be asked of it.
    pub rules: Rules,
    /// What it is, for a person.
    pub title: Option<String>,
    /// Tickets for a request and the first megabyte of its answer, 1 to 4 (a proof holds no more).
    pub tickets_per_request: u32,
    /// Tickets for each further megabyte, 1 to 4.
    pub tickets_per_megabyte: u32,
    /// What is free.
    pub free: FreeTierLimits,
}

impl HttpServiceConfig {
    /// The usual: GET and HEAD of everything, a ticket for a request and for each further megabyte, nothing free.
    #[must_use]
    pub fn new(id: ServiceId, upstream: Upstream) -> Self {
        Self {
            id,
            upstream,
            rules: Rules { methods: vec!["GET".into(), "HEAD".into()], paths: vec!["/".into()] },
            title: None,
            tickets_per_request: 1,
            tickets_per_megabyte: 1,
            free: FreeTierLimits::NONE,
        }
    }
}

/// Why an upstream can't be sold like this.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum HttpServiceConfigError {
    /// The id can't stand in an address.
    #[error("the id '{id}' has a slash: it stands in the buyer's address, write it without")]
    Id {
        /// The id.
        id: ServiceId,
    },
    /// A number is out of range.
    #[error("{field} is {got}, possible are 1 to 4: a proof holds no more tickets")]
    Tickets {
        /// The setting.
        field: &'static str,
        /// The value.
        got: u32,
    },
    /// A method isn't one that can be sold.
    #[error("the method '{method}' can't be sold: GET, HEAD, POST, PUT, PATCH, DELETE and OPTIONS can")]
    Method {
        /// The method.
        method: String,
    },
    /// A path isn't plain.
    #[error("the path '{path}' can't be sold: {reason}")]
    Path {
        /// The path.
        path: String,
        /// Why.
        reason: String,
    },
    /// The offer can't hold it.
    #[error(transparent)]
    Offer(#[from] WireError),
}

impl HttpServiceConfigError {
    /// The stable code of the error.
    #[must_use]
    pub const fn code(&self) -> &'static str {
        match self {
            Self::Id { .. } => "TRB-H021",
            Self::Tickets { .. } => "TRB-H022",
            Self::Method { .. } => "TRB-H023",
            Self::Path { .. } => "TRB-H024",
            Self::Offer(error) => error.code(),
        }
    }
}

/// Sells one upstream.
pub struct HttpService {
    node: NodeHandle,
    config: HttpServiceConfig,
    entry: OfferService,
    desk: OnceLock<Arc<Desk>>,
}

impl fmt::Debug for HttpService {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("HttpService").field("config", &self.config).finish_non_exhaustive()
    }
}

impl HttpService {
    /// Prepares to sell an upstream through `node`. Nothing changes before [`Service::start`].
    ///
    /// # Errors
    /// [`HttpServiceConfigError`].
    pub fn new(node: NodeHandle, config: HttpServiceConfig) -> Result<Self, HttpServiceConfigError> {
        if config.id.as_str().contains('/') {
            return Err(HttpServiceConfigError::Id { id: config.id });
        }
        for (field, got) in
            [("tickets_per_request", config.tickets_per_request), ("tickets_per_megabyte", config.tickets_per_megabyte)]
        {
            if !(1..=4).contains(&got) {
                return Err(HttpServiceConfigError::Tickets { field, got });
            }
        }
        const METHODS: [&str; 7] = ["GET", "HEAD", "POST", "PUT", "PATCH", "DELETE", "OPTIONS"];
        if let Some(method) = config.rules.methods.iter().find(|method| !METHODS.contains(&method.as_str())) {
            return Err(HttpServiceConfigError::Method { method: method.clone() });
        }
        for path in &config.rules.paths {
            let wrong = |reason: String| HttpServiceConfigError::Path { path: path.clone(), reason };
            plain_path(path).map_err(|fault| wrong(fault.description))?;
            if path.contains('?') {
                return Err(wrong("it has a query".into()));
            }
        }
        let price = |unit, tickets| UsePrice { unit, quantity: 1, tickets };
        let properties = HttpProperties {
            methods: config.rules.methods.clone(),
            paths: config.rules.paths.clone(),
            max_body: MAX_BODY_BYTES as u64,
            title: config.title.clone(),
        };
        let entry = OfferService {
            id: config.id.clone(),
            uses: vec![
                price(UseUnit::Request, config.tickets_per_request),
                price(UseUnit::Megabyte, config.tickets_per_megabyte),
            ],
            attributes: properties.attributes()?,
        };
        Ok(Self { node, config, entry, desk: OnceLock::new() })
    }
}

#[async_trait]
impl Service for HttpService {
    fn entry(&self) -> OfferService {
        self.entry.clone()
    }

    fn free_tier(&self) -> FreeTierLimits {
        self.config.free
    }

    async fn start(&self, till: Till) -> Result<(), ServiceError> {
        let desk = self.desk.get_or_init(|| {
            Arc::new(Desk {
                till,
                upstream: self.config.upstream.clone(),
                rules: self.config.rules.clone(),
                tickets: (u64::from(self.config.tickets_per_request), u64::from(self.config.tickets_per_megabyte)),
                held: Mutex::default(),
            })
        });
        let limits = ServeLimits {
            max_request_bytes: (MAX_CALL_BYTES + MAX_PAID_REQUEST_OVERHEAD) as u64,
            max_response_bytes: (PIECE_BYTES + ANSWER_OVERHEAD) as u64,
            handler_timeout: HANDLER_LIMIT,
            write_timeout: Duration::from_secs(60),
            ..ServeLimits::default()
        };
        let handler = Arc::clone(desk) as Arc<dyn RequestHandler>;
        self.node.serve(&protocol(&self.config.id), limits, handler).await.map_err(|error| ServiceError {
            code: "TRB-H025",
            service: self.config.id.clone(),
            reason: error.to_string(),
        })
    }

    async fn stop(&self) {
        let _ = self.node.unserve(&protocol(&self.config.id)).await;
        if let Some(desk) = self.desk.get() {
            desk.held.lock().clear();
        }
    }

    async fn turn(&self) {
        if let Some(desk) = self.desk.get() {
            desk.held.lock().retain(|_, held| held.since.elapsed() < HELD_FOR);
        }
    }
}

/// An answer that waits for its next piece to be paid.
struct Held {
    reading: Reading,
    since: Instant,
}

/// Between the node and the upstream.
struct Desk {
    till: Till,
    upstream: Upstream,
    rules: Rules,
    /// For a request, and for each further piece.
    tickets: (u64, u64),
    held: Mutex<HashMap<[u8; NAME_BYTES], Held>>,
}

impl fmt::Debug for Desk {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Desk").field("rules", &self.rules).finish_non_exhaustive()
    }
}

/// A call that nothing speaks against but that it isn't paid yet.
enum Call {
    First(Box<Allowed>),
    Next([u8; NAME_BYTES]),
}

/// Why a call gets no body.
enum Refused {
    Payment(TicketRefusal),
    Fault(HttpFault),
}

impl From<HttpFault> for Refused {
    fn from(fault: HttpFault) -> Self {
        Self::Fault(fault)
    }
}

#[async_trait]
impl RequestHandler for Desk {
    async fn handle(&self, peer: PeerId, request: Bytes) -> Option<Bytes> {
        let answer = match self.answer(peer, &request).await {
            Ok(answer) => answer,
            Err(Refused::Payment(refusal)) => {
                let status = refusal.status();
                proto::HttpAnswer {
                    payment_code: status.status_code.unwrap_or_default(),
                    payment_description: status.status_desc.unwrap_or_default(),
                    ..proto::HttpAnswer::default()
                }
            }
            Err(Refused::Fault(fault)) => {
                tracing::debug!(code = fault.code(), %fault, "a call was not served");
                let failure = proto::HttpFailure { kind: fault.kind.number(), description: fault.description };
                proto::HttpAnswer { failure: Some(failure), ..proto::HttpAnswer::default() }
            }
        };
        Some(answer.encode_to_vec().into())
    }
}

impl Desk {
    async fn answer(&self, peer: PeerId, request: &[u8]) -> Result<proto::HttpAnswer, Refused> {
        let malformed = || HttpFault::new(HttpFaultKind::Malformed, "the call can't be decoded");
        let paid = PaidRequest::decode(request).map_err(|_| malformed())?;
        let call = self.read(&paid.payload)?;
        let tickets = match &call {
            Call::First(_) => self.tickets.0,
            Call::Next(_) => self.tickets.1,
        };
        let admission = if paid.ticket.is_some() {
            let admitted = self.till.admit_request(request, MAX_CALL_BYTES, tickets, Some(peer)).await;
            admitted.map(|(admission, _)| admission)
        } else {
            self.till.admit(None, Use { peer: Some(peer), request: &paid.payload, tickets }).await
        };
        let admission = admission.map_err(Refused::Payment)?;
        match self.serve(call).await {
            Ok(answer) => {
                self.till.served(admission).await.map_err(|error| {
                    tracing::warn!(code = error.code(), %error, "a use could not be settled");
                    HttpFault::new(HttpFaultKind::Busy, "the provider can't keep its books now")
                })?;
                Ok(answer)
            }
            Err(fault) => {
                self.fail(admission).await;
                Err(fault.into())
            }
        }
    }

    async fn fail(&self, admission: Admission) {
        if let Err(error) = self.till.failed(admission).await {
            tracing::warn!(code = error.code(), %error, "a failed use could not be settled");
        }
    }

    fn read(&self, payload: &[u8]) -> Result<Call, HttpFault> {
        let malformed = || HttpFault::new(HttpFaultKind::Malformed, "the call can't be decoded");
        let call = proto::HttpCall::decode(payload).map_err(|_| malformed())?.call.ok_or_else(malformed)?;
        let held = self.held.lock();
        match call {
            proto::http_call::Call::Request(request) => {
                let allowed = self.rules.check(request)?;
                if held.len() >= MAX_HELD {
                    return Err(HttpFault::new(
                        HttpFaultKind::Busy,
                        "too many answers are being read; try again in a minute",
                    ));
                }
                Ok(Call::First(Box::new(allowed)))
            }
            proto::http_call::Call::Next(next) => {
                let name = <[u8; NAME_BYTES]>::try_from(next.answer.as_slice()).map_err(|_| malformed())?;
                if held.contains_key(&name) { Ok(Call::Next(name)) } else { Err(no_such_answer()) }
            }
        }
    }

    async fn serve(&self, call: Call) -> Result<proto::HttpAnswer, HttpFault> {
        let (mut reading, head) = match call {
            Call::Next(name) => (self.held.lock().remove(&name).ok_or_else(no_such_answer)?.reading, None),
            Call::First(allowed) => {
                let answered = self.upstream.send(*allowed).await?;
                let head = proto::HttpHead {
                    status: u32::from(answered.status.as_u16()),
                    headers: passed_back(&answered.headers),
                    length: answered.length,
                };
                (answered.reading, Some(head))
            }
        };
        let (body, more) = reading.piece().await?;
        let next = if more { self.hold(reading)?.to_vec() } else { Vec::new() };
        let (payment_code, payment_description) = (200, "OK".to_owned());
        Ok(proto::HttpAnswer { payment_code, payment_description, failure: None, head, body, next })
    }

    fn hold(&self, reading: Reading) -> Result<[u8; NAME_BYTES], HttpFault> {
        let mut name = [0; NAME_BYTES];
        OsRng.fill_bytes(&mut name);
        let mut held = self.held.lock();
        // Others came in between; the bound is soft by as many as are served at once.
        if held.len() >= 2 * MAX_HELD {
            return Err(HttpFault::new(HttpFaultKind::Busy, "too many answers are being read; try again in a minute"));
        }
        held.insert(name, Held { reading, since: Instant::now() });
        Ok(name)
    }
}

fn no_such_answer() -> HttpFault {
    HttpFault::new(HttpFaultKind::NoSuchAnswer, "there is no such answer any more: ask for the whole again")
}
