//! The provider's side: judges requests by its policies and signs the answer.

use std::fmt;
use std::sync::{Arc, PoisonError, RwLock};

use async_trait::async_trait;
use prost::Message as _;
use tributary_protocol::slot::PoolClock;
use tributary_protocol::time::Seconds;

use super::policy::{Ask, Draft, Policy};
use super::{
    Compared, MAX_REQUEST_BYTES, MAX_ROUNDS, Quote, QuoteRequest, Refusal, RefusalCode, RequestId, Source, Terms,
};
use crate::clock::Clock;
use crate::envelope::{self, PayloadType, Signer};
use crate::offer::VerifiedOffer;
use crate::proto;
use crate::rpc::SealedHandler;
use crate::wire::{self, WireError};

/// How long quotes hold.
#[derive(Debug, Clone, Copy)]
pub struct QuoteTimes {
    /// How long a quote may be acted upon.
    pub validity: Seconds,
    /// How long after the start asked for (or now, if later) the stream must have begun. Capacity is held until then.
    pub start_grace: Seconds,
}

/// Answers requests for quotes.
pub struct Negotiator {
    signer: Arc<dyn Signer>,
    offer: RwLock<Option<Arc<VerifiedOffer>>>,
    policies: Vec<Box<dyn Policy>>,
    pool_clock: PoolClock,
    clock: Arc<dyn Clock>,
    times: QuoteTimes,
}

impl fmt::Debug for Negotiator {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Negotiator").field("policies", &self.policies).finish_non_exhaustive()
    }
}

impl Negotiator {
    /// A negotiator that asks `policies` in this order. It refuses everything until it has an offer.
    #[must_use]
    pub fn new(
        signer: Arc<dyn Signer>,
        pool_clock: PoolClock,
        clock: Arc<dyn Clock>,
        times: QuoteTimes,
        policies: Vec<Box<dyn Policy>>,
    ) -> Self {
        Self { signer, offer: RwLock::new(None), policies, pool_clock, clock, times }
    }

    /// Sets the offer that was published last; `None` sells nothing.
    pub fn set_offer(&self, offer: Option<Arc<VerifiedOffer>>) {
        *self.offer.write().unwrap_or_else(PoisonError::into_inner) = offer;
    }

    /// Answers an encoded request with an encoded, signed quote or refusal. `None` only if the node's key can't sign.
    pub async fn answer(&self, source: Source, request: &[u8]) -> Option<Vec<u8>> {
        let (kind, payload) = match self.judge(source, request).await {
            Ok((request_id, quote)) => (PayloadType::Quote, quote.to_proto(request_id).encode_to_vec()),
            Err((request_id, refusal)) => {
                tracing::debug!(code = refusal.code.code(), policy = %refusal.policy, "refused a quote");
                let refusal = refusal.to_proto(request_id).encode_to_vec();
                (PayloadType::Refusal, refusal)
            }
        };
        match envelope::seal(&*self.signer, kind, payload) {
            Ok(answer) => Some(answer),
            Err(error) => {
                tracing::error!(code = error.code(), %error, "an answer wasn't signed");
                None
            }
        }
    }

    async fn judge(
        &self,
        source: Source,
        bytes: &[u8],
    ) -> Result<(RequestId, Quote), (Option<RequestId>, Box<Refusal>)> {
        let decoded = wire::decode::<proto::QuoteRequest>("quote request", bytes, MAX_REQUEST_BYTES);
        let wire_request = decoded.map_err(|error| (None, malformed(&error)))?;
        let id = RequestId::from_bytes(&wire_request.request_id).ok();
        let request = wire::check_version("quote request", wire_request.version)
            .and_then(|()| QuoteRequest::from_proto(&wire_request))
            .map_err(|error| (id, malformed(&error)))?;
        match self.quote(source, &request).await {
            Ok(quote) => Ok((request.request_id, quote)),
            Err(refusal) => Err((id, refusal)),
        }
    }

    async fn quote(&self, source: Source, request: &QuoteRequest) -> Result<Quote, Box<Refusal>> {
        let now = self.clock.now();
        let offer = self.offer.read().unwrap_or_else(PoisonError::into_inner).clone();
        let Some(offer) = offer.filter(|offer| !offer.is_expired(now)) else {
            return Err(refusal(RefusalCode::Unavailable, "nothing is offered at the moment"));
        };
        if request.round >= MAX_ROUNDS {
            let mut refusal = refusal(RefusalCode::TooManyRounds, "the negotiation took too many rounds");
            refusal.compared = vec![Compared::new("round", request.round, MAX_ROUNDS - 1)];
            return Err(refusal);
        }
        if request.offer_id != offer.id() {
            let mut refusal = refusal(RefusalCode::UnknownOffer, "another offer is current; read it and ask again");
            refusal.compared = vec![Compared::new("offer", request.offer_id, offer.id())];
            return Err(refusal);
        }
        let Some(service) = offer.service(&request.service) else {
            let mut refusal = refusal(RefusalCode::UnknownService, "the offer has no such service");
            let known: Vec<_> = offer.services.iter().map(|s| s.id.as_str()).take(3).collect();
            refusal.compared = vec![Compared::new("service", &request.service, known.join(" "))];
            return Err(refusal);
        };
        let Some(class) = offer.rate_class(request.rate_class) else {
            let mut refusal = refusal(RefusalCode::UnknownClass, "the offer has no such rate class");
            let known: Vec<_> = offer.rate_classes.iter().map(|c| c.id.to_string()).collect();
            refusal.compared = vec![Compared::new("rate_class", request.rate_class, known.join(" "))];
            return Err(refusal);
        };
        let ask = Ask { source, request, offer: &offer, service, class, clock: &self.pool_clock, now };
        let widest = Draft {
            load_cap: request.load,
            start_deadline: request.start.max(now).saturating_add(self.times.start_grace),
            valid_until: now.saturating_add(self.times.validity).min(offer.expires_at),
        };
        let mut draft = widest;
        for policy in &self.policies {
            policy.judge(&ask, &mut draft).await.map_err(|mut refusal| {
                // No policy can invent a class.
                refusal.counter = refusal.counter.filter(|counter| offer.rate_class(counter.rate_class).is_some());
                refusal
            })?;
        }
        // Policies narrow; one that widened is overruled.
        draft.load_cap = draft.load_cap.min(widest.load_cap);
        draft.start_deadline = draft.start_deadline.min(widest.start_deadline);
        draft.valid_until = draft.valid_until.min(widest.valid_until);
        for policy in &self.policies {
            policy.agreed(&ask, &draft);
        }
        Ok(Quote {
            terms: Terms {
                offer_id: offer.id(),
                service: request.service.clone(),
                rate_class: class.id,
                duration: request.duration,
                start_deadline: draft.start_deadline,
                load_cap: draft.load_cap,
            },
            payee: offer.payee,
            pool: offer.pool,
            ticket_price: offer.ticket_price,
            rate: class.rate,
            valid_until: draft.valid_until,
            issued_at: now,
        })
    }
}

#[async_trait]
impl SealedHandler for Negotiator {
    async fn handle(&self, body: Vec<u8>) -> Option<Vec<u8>> {
        self.answer(Source::Sealed, &body).await
    }
}

fn refusal(code: RefusalCode, description: &str) -> Box<Refusal> {
    Box::new(Refusal {
        code,
        policy: "request".into(),
        compared: Vec::new(),
        description: description.into(),
        counter: None,
        retry_at: None,
    })
}

fn malformed(error: &WireError) -> Box<Refusal> {
    let code = match error {
        WireError::Version { .. } => RefusalCode::BadVersion,
        _ => RefusalCode::Malformed,
    };
    let description: String = error.to_string().chars().take(256).collect();
    refusal(code, &description)
}
