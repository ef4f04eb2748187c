//! The buyer's side.

use std::{sync::Arc, time::Duration};

use prost::Message as _;
use tributary_client::{ClientError, RequestTickets, TicketSource};
use tributary_market::{
    node::connect,
    offer::{ServiceId, UseUnit, VerifiedOffer},
    ticket::{MAX_PAID_REQUEST_OVERHEAD, PreparedTicket, Reason, Verdict},
};
use tributary_protocol::UnixTime;
use tributary_waku::{Multiaddr, NodeHandle, PeerId, RequestLimits};

use crate::{
    fault::{HttpFault, HttpFaultKind},
    proto,
    rules::{MAX_BODY_BYTES, MAX_HEADERS, plain_path},
    service::MAX_CALL_BYTES,
    wire::{ANSWER_OVERHEAD, NAME_BYTES, PIECE_BYTES, protocol},
};

/// How often one call is sent with another ticket, or again: the provider can't judge it yet.
const MAX_TRIES: u32 = 8;
/// Time for one piece of an answer.
const PIECE_LIMIT: Duration = Duration::from_secs(80);

/// Why a request isn't answered, or not to its end.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum HttpClientError {
    /// The provider says what is wrong.
    #[error("the provider answered: {0}")]
    Fault(#[from] HttpFault),
    /// The provider wants no such payment.
    #[error("the provider refused the payment: {description}")]
    Payment {
        /// Its reason.
        reason: Reason,
        /// In its words.
        description: String,
    },
    /// The provider is away, or broke off. The ticket of this call may be spent; nothing more is paid.
    #[error("the provider is gone: {reason}")]
    Gone {
        /// How it showed.
        reason: String,
    },
    /// The provider's answer is none.
    #[error("the provider's answer can't be read: {reason}")]
    Malformed {
        /// What is wrong with it.
        reason: &'static str,
    },
    /// No ticket could be made, say.
    #[error(transparent)]
    Client(#[from] ClientError),
}

impl HttpClientError {
    /// The stable code of the error.
    #[must_use]
    pub fn code(&self) -> &'static str {
        match self {
            Self::Fault(fault) => fault.code(),
            Self::Payment { reason, .. } => reason.code(),
            Self::Gone { .. } => "TRB-H041",
            Self::Malformed { .. } => "TRB-H042",
            Self::Client(error) => error.code(),
        }
    }
}

/// A request.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct HttpAsk {
    /// Method, in upper case.
    pub method: String,
    /// Path and query.
    pub target: String,
    /// Headers, names in lower case.
    pub headers: Vec<(String, Vec<u8>)>,
    /// Body.
    pub body: Vec<u8>,
}

/// The head of an answer.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct HttpHeadReceived {
    /// Status, 100 to 999.
    pub status: u16,
    /// Headers.
    pub headers: Vec<(String, Vec<u8>)>,
    /// Bytes of the whole body, where the upstream said so.
    pub length: Option<u64>,
}

/// Buys from one provider.
#[derive(Debug, Clone)]
pub struct HttpClient {
    node: NodeHandle,
    provider: PeerId,
    addresses: Vec<Multiaddr>,
    service: ServiceId,
    tickets: Arc<dyn TicketSource>,
    /// For a request, and for each further piece.
    price: (u8, u8),
}

impl HttpClient {
    /// Buys `service` as `offer` sells it, paid by `tickets`. The provider is looked for at `addresses`.
    ///
    /// # Errors
    /// [`ClientError::NotSold`].
    pub fn new(
        node: NodeHandle,
        offer: &VerifiedOffer,
        service: ServiceId,
        addresses: Vec<Multiaddr>,
        tickets: Arc<dyn TicketSource>,
    ) -> Result<Self, ClientError> {
        let price = |unit| {
            let sold = offer.service(&service).and_then(|sold| sold.price_of(unit));
            sold.and_then(|price| u8::try_from(price.tickets).ok())
                .ok_or_else(|| ClientError::NotSold { what: format!("{service} by {unit:?}") })
        };
        let price = (price(UseUnit::Request)?, price(UseUnit::Megabyte)?);
        Ok(Self::with_price(node, offer.peer_id(), service, addresses, tickets, price))
    }

    /// [`Self::new`] for prices that are known: tickets for a request, and for each further megabyte.
    #[must_use]
    pub fn with_price(
        node: NodeHandle,
        provider: PeerId,
        service: ServiceId,
        addresses: Vec<Multiaddr>,
        tickets: Arc<dyn TicketSource>,
        price: (u8, u8),
    ) -> Self {
        Self { node, provider, addresses, service, tickets, price }
    }

    /// Who is paid.
    #[must_use]
    pub const fn provider(&self) -> PeerId {
        self.provider
    }

    /// The time, as tickets count it.
    ///
    /// # Errors
    /// [`ClientError::Range`].
    pub fn now(&self) -> Result<UnixTime, ClientError> {
        self.tickets.now()
    }

    /// Asks; pays for the request and the first megabyte of its answer. A request is sent to the upstream once at the most: what is lost is not
    /// asked again, for it may have done something.
    ///
    /// # Errors
    /// [`HttpClientError`].
    pub async fn ask(&self, ask: HttpAsk) -> Result<(HttpHeadReceived, HttpPieces), HttpClientError> {
        plain_path(&ask.target)?;
        if ask.body.len() > MAX_BODY_BYTES {
            let description = format!("the body has {} bytes, at most {MAX_BODY_BYTES} are taken", ask.body.len());
            return Err(HttpFault::new(HttpFaultKind::TooLarge, description).into());
        }
        let request = proto::HttpRequest {
            method: ask.method,
            target: ask.target,
            headers: ask.headers.into_iter().map(|(name, value)| proto::HttpHeader { name, value }).collect(),
            body: ask.body,
        };
        let answer = self.call(proto::http_call::Call::Request(request), self.price.0).await?;
        let malformed = |reason| HttpClientError::Malformed { reason };
        let head = answer.head.ok_or(malformed("it has no head"))?;
        let status = u16::try_from(head.status).ok().filter(|status| (200..=999).contains(status));
        if head.headers.len() > MAX_HEADERS {
            return Err(malformed("it has too many headers"));
        }
        let head = HttpHeadReceived {
            status: status.ok_or(malformed("its status is none"))?,
            headers: head.headers.into_iter().map(|header| (header.name, header.value)).collect(),
            length: head.length,
        };
        let next = next(&answer.next)?;
        Ok((head, HttpPieces { client: self.clone(), ready: Some(answer.body), next }))
    }

    /// One call, paid with `tickets`.
    async fn call(&self, call: proto::http_call::Call, tickets: u8) -> Result<proto::HttpAnswer, HttpClientError> {
        let payload = proto::HttpCall { call: Some(call) }.encode_to_vec();
        let limits = RequestLimits {
            max_request_bytes: (MAX_CALL_BYTES + MAX_PAID_REQUEST_OVERHEAD) as u64,
            max_response_bytes: (PIECE_BYTES + ANSWER_OVERHEAD) as u64,
            timeout: PIECE_LIMIT,
        };
        let gone = |reason: String| HttpClientError::Gone { reason };
        let (mut own, mut tries) = (RequestTickets::default(), 0);
        loop {
            tries += 1;
            connect(&self.node, self.provider, &self.addresses).await.map_err(|error| gone(error.to_string()))?;
            let slot = self.tickets.current_slot()?;
            let made = own.take(&*self.tickets, slot, tickets).await?;
            let ticket = PreparedTicket { statement: made.statement.clone(), proof: made.proof, key: made.key.clone() };
            let request = ticket.pay_payload(&self.tickets.provider(), payload.clone()).encode_to_vec();
            let answer = self.node.request(self.provider, &protocol(&self.service), request, limits).await;
            let answer = answer.map_err(|error| gone(error.to_string()))?;
            let answer = proto::HttpAnswer::decode(&answer[..])
                .map_err(|_| HttpClientError::Malformed { reason: "it can't be decoded" })?;
            if let Some(failure) = answer.failure {
                let kind = HttpFaultKind::from_number(failure.kind)
                    .ok_or(HttpClientError::Malformed { reason: "its failure is of no known kind" })?;
                // The ticket may be unspent, but the provider has seen it with this request: with another one it would link the two.
                let description = failure.description.chars().filter(|c| !c.is_control()).take(512).collect();
                return Err(HttpFault { kind, description }.into());
            }
            match Verdict::read(answer.payment_code, &answer.payment_description) {
                Verdict::Accepted => return Ok(answer),
                Verdict::Unknown { .. } => {
                    return Err(HttpClientError::Malformed { reason: "it says nothing known of the payment" });
                }
                Verdict::Refused { reason, description, .. } => {
                    if !own.refused(made, reason) || tries >= MAX_TRIES {
                        return Err(HttpClientError::Payment { reason, description });
                    }
                    self.tickets.next_try().await;
                }
            }
        }
    }
}

fn next(name: &[u8]) -> Result<Option<[u8; NAME_BYTES]>, HttpClientError> {
    if name.is_empty() {
        return Ok(None);
    }
    let wrong = HttpClientError::Malformed { reason: "the name of what follows has another length" };
    name.try_into().map(Some).map_err(|_| wrong)
}

/// An answer's body, piece by piece. Each further piece is paid when it is asked for, and never before.
#[derive(Debug)]
pub struct HttpPieces {
    client: HttpClient,
    ready: Option<Vec<u8>>,
    next: Option<[u8; NAME_BYTES]>,
}

impl HttpPieces {
    /// The next piece; `None` after the last.
    ///
    /// # Errors
    /// [`HttpClientError`]; nothing follows it, and nothing more is paid.
    pub async fn piece(&mut self) -> Result<Option<Vec<u8>>, HttpClientError> {
        if let Some(ready) = self.ready.take() {
            return Ok(Some(ready));
        }
        let Some(name) = self.next.take() else { return Ok(None) };
        let call = proto::http_call::Call::Next(proto::HttpNext { answer: name.to_vec() });
        let answer = self.client.call(call, self.client.price.1).await?;
        self.next = next(&answer.next)?;
        Ok(Some(answer.body))
    }

    /// Whether the whole answer was given.
    #[must_use]
    pub const fn is_over(&self) -> bool {
        self.ready.is_none() && self.next.is_none()
    }
}
