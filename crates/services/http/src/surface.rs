//! The gateway's surface: `/http/<service id>/path`.

use std::{
    fmt::Debug,
    sync::Arc,
    time::{Duration, Instant},
};

use async_trait::async_trait;
use futures::stream;
use hyper::{
    HeaderMap, Method, Request, StatusCode,
    body::Bytes,
    header::{self, HeaderName, HeaderValue},
};
use rand::{RngCore as _, rngs::OsRng};
use serde_json::json;
use sha2::{Digest as _, Sha256};
use tributary_gateway::{Answer, Broken, Surface, document, empty, streamed};
use tributary_market::{offer::ServiceId, ticket::Remedy};
use tributary_reputation::{
    AssessmentId, ProviderName, ServiceName, Subject,
    http::{HttpEnding, HttpObservation},
};

use crate::{
    client::{HttpAsk, HttpClient, HttpClientError, HttpHeadReceived, HttpPieces},
    fault::HttpFaultKind,
    rules::{MAX_BODY_BYTES, is_hop_by_hop},
};

/// Pieces of one answer at most.
const MAX_PIECES: u64 = 1024;
/// What the body's SHA-256 must be, in hexadecimal digits. It stays here.
const DIGEST: HeaderName = HeaderName::from_static("x-tributary-digest");
/// Megabytes that an answer may cost at most. It stays here.
const MAX_MEGABYTES: HeaderName = HeaderName::from_static("x-tributary-max-megabytes");
/// The product's own stable code.
const CODE: HeaderName = HeaderName::from_static("x-tributary-code");

/// Headers that are sent on. Others could tell one buyer from another, such as a program's version, or are for this port.
const SENT_ON: [HeaderName; 12] = [
    header::ACCEPT,
    header::ACCEPT_ENCODING,
    header::ACCEPT_LANGUAGE,
    header::CACHE_CONTROL,
    header::CONTENT_ENCODING,
    header::CONTENT_TYPE,
    header::IF_MATCH,
    header::IF_MODIFIED_SINCE,
    header::IF_NONE_MATCH,
    header::IF_RANGE,
    header::IF_UNMODIFIED_SINCE,
    header::RANGE,
];

/// Why no provider could be found or paid.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{message}")]
pub struct SeatError {
    /// The HTTP status that it is answered with.
    pub status: StatusCode,
    /// The stable code.
    pub code: &'static str,
    /// What happened and what to do.
    pub message: String,
}

/// Finds whom to ask, and learns what came of it.
#[async_trait]
pub trait HttpMarket: Debug + Send + Sync + 'static {
    /// A provider of `service` that is paid.
    ///
    /// # Errors
    /// [`SeatError`].
    async fn client(&self, service: &ServiceId) -> Result<HttpClient, SeatError>;

    /// Takes what was observed of one request: for the reputation, and so that a provider that failed is left out of the next choice.
    async fn observed(&self, observation: HttpObservation);
}

/// Upstreams of providers under `/http`.
#[derive(Debug)]
pub struct HttpSurface {
    market: Arc<dyn HttpMarket>,
}

impl HttpSurface {
    /// Asks whom `market` finds.
    #[must_use]
    pub const fn new(market: Arc<dyn HttpMarket>) -> Self {
        Self { market }
    }

    async fn answer(&self, request: Request<Bytes>) -> Result<Answer, Failed> {
        let wanted = Wanted::read(request)?;
        let client = self.market.client(&wanted.service).await.map_err(Failed::Seat)?;
        let mut record = Record::begin(Arc::clone(&self.market), &client, &wanted.service, wanted.digest);
        match client.ask(wanted.ask).await {
            Ok((head, pieces)) => {
                record.head(&head);
                Ok(answer(&head, wanted.method == Method::HEAD, wanted.max_pieces, pieces, record))
            }
            Err(error) => {
                record.end(ending(&error)).await;
                Err(Failed::Client(error))
            }
        }
    }
}

#[async_trait]
impl Surface for HttpSurface {
    fn prefix(&self) -> &str {
        "/http"
    }

    fn max_body(&self) -> usize {
        MAX_BODY_BYTES
    }

    async fn handle(&self, request: Request<Bytes>) -> Answer {
        self.answer(request).await.unwrap_or_else(Failed::answer)
    }
}

/// Why a request isn't answered.
enum Failed {
    Bad { code: &'static str, message: String },
    Seat(SeatError),
    Client(HttpClientError),
}

impl Failed {
    fn answer(self) -> Answer {
        let (status, code, message) = match self {
            Self::Bad { code, message } => (StatusCode::BAD_REQUEST, code, message),
            Self::Seat(error) => (error.status, error.code, error.message),
            Self::Client(error) => {
                let status = match &error {
                    HttpClientError::Fault(fault) => match fault.kind {
                        HttpFaultKind::Method => StatusCode::METHOD_NOT_ALLOWED,
                        HttpFaultKind::Path => StatusCode::FORBIDDEN,
                        HttpFaultKind::TooLarge => StatusCode::PAYLOAD_TOO_LARGE,
                        HttpFaultKind::Busy => StatusCode::SERVICE_UNAVAILABLE,
                        kind if kind.is_the_buyers() => StatusCode::BAD_REQUEST,
                        _ => StatusCode::BAD_GATEWAY,
                    },
                    HttpClientError::Payment { .. } => StatusCode::PAYMENT_REQUIRED,
                    HttpClientError::Gone { .. } | HttpClientError::Malformed { .. } => StatusCode::BAD_GATEWAY,
                    HttpClientError::Client(_) => StatusCode::SERVICE_UNAVAILABLE,
                };
                (status, error.code(), error.to_string())
            }
        };
        tracing::debug!(code, message, "a request was not answered");
        let mut answer = document(status, &json!({ "error": code, "message": message }));
        answer.headers_mut().insert(CODE, HeaderValue::from_static(code));
        answer
    }
}

/// What a program asks for.
struct Wanted {
    service: ServiceId,
    method: Method,
    ask: HttpAsk,
    digest: Option<[u8; 32]>,
    max_pieces: u64,
}

impl Wanted {
    fn read(request: Request<Bytes>) -> Result<Self, Failed> {
        let bad = |code, message: String| Failed::Bad { code, message };
        let (head, body) = request.into_parts();
        let target = head.uri.path_and_query().map_or("/", |target| target.as_str());
        let rest = target.strip_prefix("/http/").unwrap_or_default();
        let (service, path) = rest.find(['/', '?']).map_or((rest, "/"), |at| rest.split_at(at));
        let service: ServiceId = service
            .parse()
            .map_err(|_| bad("TRB-H051", "write /http/, a service's id as offers name it, and its path".into()))?;
        let target = if path.starts_with('?') { format!("/{path}") } else { path.to_owned() };
        let digest = match head.headers.get(DIGEST) {
            None => None,
            Some(value) => Some(
                value
                    .to_str()
                    .ok()
                    .and_then(|digits| hex::decode(digits).ok()?.try_into().ok())
                    .ok_or_else(|| bad("TRB-H052", format!("{DIGEST} is no SHA-256 in 64 hexadecimal digits")))?,
            ),
        };
        let max_pieces = match head.headers.get(MAX_MEGABYTES) {
            None => MAX_PIECES,
            Some(value) => value
                .to_str()
                .ok()
                .and_then(|digits| digits.parse().ok())
                .filter(|max| (1..=MAX_PIECES).contains(max))
                .ok_or_else(|| bad("TRB-H053", format!("{MAX_MEGABYTES} is no number from 1 to {MAX_PIECES}")))?,
        };
        let ask =
            HttpAsk { method: head.method.to_string(), target, headers: sent_on(&head.headers), body: body.to_vec() };
        Ok(Self { service, method: head.method, ask, digest, max_pieces })
    }
}

fn sent_on(headers: &HeaderMap) -> Vec<(String, Vec<u8>)> {
    headers
        .iter()
        .filter(|(name, _)| SENT_ON.contains(name))
        .map(|(name, value)| (name.as_str().to_owned(), value.as_bytes().to_vec()))
        .collect()
}

fn answer(head: &HttpHeadReceived, bodiless: bool, max_pieces: u64, pieces: HttpPieces, record: Record) -> Answer {
    let checked = record.is_checked();
    let going = Going { pieces, record: Some(record), left: max_pieces };
    let body = if bodiless { drained(going) } else { streamed(stream::unfold(Some(going), Going::step)) };
    let mut answer = Answer::new(body);
    *answer.status_mut() = StatusCode::from_u16(head.status).unwrap_or(StatusCode::BAD_GATEWAY);
    for (name, value) in &head.headers {
        // What a provider sends is anything; what isn't a header of an answer is left out.
        let Ok(name) = HeaderName::from_bytes(name.as_bytes()) else { continue };
        let Ok(value) = HeaderValue::from_bytes(value) else { continue };
        let own = name == header::CONTENT_LENGTH || name.as_str().starts_with("access-control-") || name == CODE;
        if !own && !is_hop_by_hop(&name) {
            answer.headers_mut().append(name, value);
        }
    }
    // With a length the program would be content before the digest is known.
    if let Some(length) = head.length.filter(|_| !bodiless && !checked) {
        answer.headers_mut().insert(header::CONTENT_LENGTH, HeaderValue::from(length));
    }
    answer
}

/// The body of an answer that has none. What was observed is told all the same.
fn drained(mut going: Going) -> tributary_gateway::Body {
    if let Some(record) = going.record.take() {
        tokio::spawn(async move { record.end(HttpEnding::Complete).await });
    }
    empty()
}

struct Going {
    pieces: HttpPieces,
    record: Option<Record>,
    left: u64,
}

impl Going {
    async fn step(going: Option<Self>) -> Option<(Result<Bytes, Broken>, Option<Self>)> {
        let mut going = going?;
        let mut record = going.record.take()?;
        if going.left == 0 {
            record.end(HttpEnding::Dropped).await;
            return Some((Err(Broken("it costs more megabytes than it may [TRB-H054]".into())), None));
        }
        going.left -= 1;
        match going.pieces.piece().await {
            Ok(Some(piece)) => {
                record.piece(&piece);
                // A server doesn't ask for what comes after the promised length.
                if going.pieces.is_over() && !record.is_checked() {
                    record.end(HttpEnding::Complete).await;
                    return Some((Ok(Bytes::from(piece)), None));
                }
                going.record = Some(record);
                Some((Ok(Bytes::from(piece)), Some(going)))
            }
            Ok(None) => {
                let false_answer = record.is_false();
                record.end(HttpEnding::Complete).await;
                let broken = Broken("its SHA-256 is another than was told [TRB-H055]".into());
                false_answer.then_some((Err(broken), None))
            }
            Err(error) => {
                tracing::debug!(code = error.code(), %error, "an answer broke off");
                let broken = Broken(format!("{error} [{}]", error.code()));
                record.end(ending(&error)).await;
                Some((Err(broken), None))
            }
        }
    }
}

/// What a failure says of the provider.
fn ending(error: &HttpClientError) -> HttpEnding {
    let reason = error.to_string();
    match error {
        HttpClientError::Fault(fault) if fault.kind == HttpFaultKind::Busy => HttpEnding::Unavailable { reason },
        HttpClientError::Fault(fault) if !fault.kind.is_the_buyers() => HttpEnding::FailedAfterPayment { reason },
        HttpClientError::Payment { reason: why, .. } => match why.remedy() {
            Remedy::SendAgain => HttpEnding::Unavailable { reason },
            // A ticket that was made by the offer, and verified before it was sent, is refused: the stream pays for nothing.
            Remedy::Spent | Remedy::ReadOffer | Remedy::Report => HttpEnding::FailedAfterPayment { reason },
            Remedy::NewTicket => HttpEnding::BuyerError { reason },
        },
        HttpClientError::Gone { .. } => HttpEnding::NoAnswer,
        HttpClientError::Malformed { .. } => HttpEnding::FailedAfterPayment { reason },
        HttpClientError::Fault(_) | HttpClientError::Client(_) => HttpEnding::BuyerError { reason },
    }
}

/// What is observed of one request, told once; at the latest when it is dropped.
struct Record {
    market: Arc<dyn HttpMarket>,
    observation: Option<HttpObservation>,
    begun: Instant,
    hash: Sha256,
}

impl Record {
    fn begin(
        market: Arc<dyn HttpMarket>,
        client: &HttpClient,
        service: &ServiceId,
        reference: Option<[u8; 32]>,
    ) -> Self {
        let mut id = [0; 16];
        OsRng.fill_bytes(&mut id);
        let subject = || -> Option<Subject> {
            let provider = ProviderName::new(client.provider().to_string()).ok()?;
            Some(Subject { provider, service: ServiceName::new(service.as_str()).ok()? })
        };
        let observation = (|| {
            Some(HttpObservation {
                id: AssessmentId::new(hex::encode(id)).ok()?,
                subject: subject()?,
                at: client.now().ok()?,
                status: None,
                first: None,
                whole: Duration::ZERO,
                bytes: 0,
                promised: None,
                digest: None,
                reference,
                ending: HttpEnding::Dropped,
            })
        })();
        Self { market, observation, begun: Instant::now(), hash: Sha256::new() }
    }

    fn head(&mut self, head: &HttpHeadReceived) {
        let first = self.begun.elapsed();
        if let Some(observation) = &mut self.observation {
            observation.status = Some(head.status);
            observation.first = Some(first);
            observation.promised = head.length;
        }
    }

    fn piece(&mut self, piece: &[u8]) {
        self.hash.update(piece);
        if let Some(observation) = &mut self.observation {
            observation.bytes = observation.bytes.saturating_add(piece.len() as u64);
        }
    }

    fn reference(&self) -> Option<[u8; 32]> {
        self.observation.as_ref().and_then(|observation| observation.reference)
    }

    fn is_checked(&self) -> bool {
        self.reference().is_some()
    }

    fn is_false(&self) -> bool {
        let digest: [u8; 32] = self.hash.clone().finalize().into();
        self.reference().is_some_and(|told| told != digest)
    }

    fn take(&mut self, ending: HttpEnding) -> Option<HttpObservation> {
        let complete = ending == HttpEnding::Complete;
        let mut observation = self.observation.take()?;
        observation.ending = ending;
        observation.whole = self.begun.elapsed();
        observation.digest = complete.then(|| self.hash.clone().finalize().into());
        Some(observation)
    }

    async fn end(mut self, ending: HttpEnding) {
        if let Some(observation) = self.take(ending) {
            self.market.observed(observation).await;
        }
    }
}

impl Drop for Record {
    fn drop(&mut self) {
        if let (Some(observation), Ok(runtime)) =
            (self.take(HttpEnding::Dropped), tokio::runtime::Handle::try_current())
        {
            let market = Arc::clone(&self.market);
            runtime.spawn(async move { market.observed(observation).await });
        }
    }
}

#[cfg(test)]
mod tests {
    use tributary_market::ticket::Reason;

    use super::*;

    fn wanted(target: &str, headers: &[(&str, &str)]) -> Result<Wanted, &'static str> {
        let mut request = Request::builder().method("GET").uri(target);
        for (name, value) in headers {
            request = request.header(*name, *value);
        }
        Wanted::read(request.body(Bytes::new()).unwrap()).map_err(|failed| match failed {
            Failed::Bad { code, .. } => code,
            _ => "another failure",
        })
    }

    #[test]
    fn an_address_names_a_service_and_its_path() {
        for (address, service, target) in [
            ("/http/tides/", "tides", "/"),
            ("/http/tides", "tides", "/"),
            ("/http/tides/a/b?c=d", "tides", "/a/b?c=d"),
            ("/http/tides?c=d", "tides", "/?c=d"),
        ] {
            let read = wanted(address, &[]).ok().unwrap();
            assert_eq!((read.service.as_str(), read.ask.target.as_str()), (service, target));
        }
        for address in ["/http", "/http/", "/http/UPPER/x", "/http//x"] {
            assert_eq!(wanted(address, &[]).err(), Some("TRB-H051"), "{address}");
        }
    }

    #[test]
    fn a_refusal_of_what_the_offer_sells_is_the_providers() {
        let refused = |reason| {
            let payment = HttpClientError::Payment { reason, description: "x".into() };
            ending(&payment)
        };
        for reason in [Reason::InvalidProof, Reason::WrongPrice, Reason::PaymentRequired, Reason::SpentUnserved] {
            assert!(matches!(refused(reason), HttpEnding::FailedAfterPayment { .. }), "{reason:?}");
        }
        assert!(matches!(refused(Reason::UnknownRoot), HttpEnding::Unavailable { .. }));
        assert!(matches!(refused(Reason::StaleSlot), HttpEnding::BuyerError { .. }));
    }

    #[test]
    fn what_tells_one_buyer_from_another_is_not_sent_on() {
        let read = wanted(
            "/http/tides/",
            &[
                ("accept", "text/plain"),
                ("user-agent", "curl/8"),
                ("cookie", "a=b"),
                ("referer", "http://x"),
                ("host", "127.0.0.1:1"),
                ("x-forwarded-for", "192.0.2.1"),
                ("connection", "keep-alive"),
                ("range", "bytes=0-1"),
                ("x-tributary-max-megabytes", "3"),
            ],
        )
        .ok()
        .unwrap();
        let names: Vec<&str> = read.ask.headers.iter().map(|(name, _)| name.as_str()).collect();
        assert_eq!(names, ["accept", "range"]);
        assert_eq!(read.max_pieces, 3);
    }

    #[test]
    fn what_the_program_tells_of_the_answer_is_checked() {
        assert_eq!(wanted("/http/a/", &[("x-tributary-digest", "12")]).err(), Some("TRB-H052"));
        assert_eq!(wanted("/http/a/", &[("x-tributary-max-megabytes", "0")]).err(), Some("TRB-H053"));
    }
}
