//! The buyer's side: asks, verifies, follows acceptable counter-offers, within bounds.

use async_trait::async_trait;
use rand::RngCore;
use tributary_protocol::amount::{Price, Rate};
use tributary_protocol::time::{Seconds, UnixTime};

use super::{
    AgreedQuote, CounterOffer, MAX_RESPONSE_BYTES, MAX_ROUNDS, PROTOCOL, QuoteError, QuoteRequest, Refusal, RequestId,
    Wanted, verify_quote,
};
use crate::clock::Clock;
use crate::envelope::{self, PayloadType};
use crate::offer::{RateClassId, ServiceId, VerifiedOffer};
use crate::proto;
use crate::rpc::{RpcError, SealedClient};
use crate::transport::{Exchange, TransportError};
use crate::wire;

/// What a buyer wants, and how far it will go.
#[derive(Debug, Clone)]
pub struct Wish {
    /// The service.
    pub service: ServiceId,
    /// Needed attributes.
    pub wanted: Wanted,
    /// The class to ask for first.
    pub rate_class: RateClassId,
    /// When the stream shall begin.
    pub start: UnixTime,
    /// The latest start that will do.
    pub latest_start: UnixTime,
    /// How long it shall run.
    pub duration: Seconds,
    /// The shortest duration that will do.
    pub min_duration: Seconds,
    /// The longest duration that will do.
    pub max_duration: Seconds,
    /// Tickets a slot.
    pub load: u32,
    /// The fewest tickets a slot that will do.
    pub min_load: u32,
    /// Highest ticket price.
    pub max_ticket_price: Price,
    /// Highest rate.
    pub max_rate: Rate,
    /// Requests at most, 1 to [`MAX_ROUNDS`].
    pub max_rounds: u32,
}

impl Wish {
    fn accepts(&self, counter: &CounterOffer, offer: &VerifiedOffer) -> bool {
        offer.rate_class(counter.rate_class).is_some_and(|class| class.rate <= self.max_rate)
            && counter.start <= self.latest_start
            && (self.min_duration..=self.max_duration).contains(&counter.duration)
            && counter.load >= self.min_load.max(1)
    }
}

/// Why no agreement was reached.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum NegotiationError {
    /// The network failed.
    #[error(transparent)]
    Transport(#[from] TransportError),
    /// A sealed call failed.
    #[error(transparent)]
    Sealed(RpcError),
    /// The offer names no key for sealed requests.
    #[error("the offer takes no sealed requests; negotiate directly")]
    NoSealedRequests,
    /// The provider's answer isn't acceptable.
    #[error("{error}")]
    Answer {
        /// Why.
        error: QuoteError,
        /// The answer as it came: evidence, if [`QuoteError::is_proof_of_fault`].
        answer: Vec<u8>,
    },
    /// The provider refused, and offered nothing that will do.
    #[error("refused after {rounds} rounds: {refusal}")]
    Refused {
        /// The last refusal.
        refusal: Box<Refusal>,
        /// Requests made.
        rounds: u32,
    },
}

impl NegotiationError {
    /// Stable code of the error.
    #[must_use]
    pub const fn code(&self) -> &'static str {
        match self {
            Self::Transport(error) => error.code(),
            Self::Sealed(error) => error.code(),
            Self::NoSealedRequests => "TRB-M241",
            Self::Answer { error, .. } => error.code(),
            Self::Refused { refusal, .. } => refusal.code.code(),
        }
    }
}

/// A way to ask a provider.
#[async_trait]
pub trait QuoteChannel: Send + Sync {
    /// Sends an encoded request to the offer's provider and returns its encoded answer.
    ///
    /// # Errors
    /// Failures of the way, not of the provider's judgement.
    async fn ask(&self, offer: &VerifiedOffer, request: Vec<u8>) -> Result<Vec<u8>, NegotiationError>;
}

/// Asks over a direct connection: the provider sees the buyer's address.
#[derive(Debug, Clone)]
pub struct Direct<T>(pub T);

#[async_trait]
impl<T: Exchange> QuoteChannel for Direct<T> {
    async fn ask(&self, offer: &VerifiedOffer, request: Vec<u8>) -> Result<Vec<u8>, NegotiationError> {
        Ok(self.0.request(offer.peer_id(), &offer.multiaddrs, PROTOCOL, request).await?)
    }
}

#[async_trait]
impl QuoteChannel for SealedClient {
    async fn ask(&self, offer: &VerifiedOffer, request: Vec<u8>) -> Result<Vec<u8>, NegotiationError> {
        let key = offer.encryption_key.ok_or(NegotiationError::NoSealedRequests)?;
        self.call(&key, &request).await.map_err(NegotiationError::Sealed)
    }
}

/// An answer whose signature and binding were checked.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Answer {
    /// A quote that keeps to the offer and the request.
    Quote(Box<AgreedQuote>),
    /// A refusal.
    Refusal(Box<Refusal>),
}

/// Verifies an encoded answer against its request and the gossiped offer.
///
/// # Errors
/// The first check that fails.
pub fn verify_answer(
    answer: &[u8],
    request: &QuoteRequest,
    offer: &VerifiedOffer,
    now: UnixTime,
) -> Result<Answer, QuoteError> {
    let kinds = [PayloadType::Quote, PayloadType::Refusal];
    let (kind, opened) = envelope::open_any(&kinds, answer, MAX_RESPONSE_BYTES)?;
    if opened.signer != *offer.provider() {
        return Err(QuoteError::ForeignSigner {
            signer: Box::new(opened.signer.to_peer_id()),
            provider: Box::new(offer.peer_id()),
        });
    }
    if kind == PayloadType::Quote {
        let quote = wire::decode("quote", &opened.payload, MAX_RESPONSE_BYTES)?;
        return Ok(Answer::Quote(Box::new(AgreedQuote {
            quote: verify_quote(&quote, request, offer, now)?,
            provider: offer.peer_id(),
            signed: answer.to_vec(),
        })));
    }
    let refusal: proto::Refusal = wire::decode("refusal", &opened.payload, MAX_RESPONSE_BYTES)?;
    wire::check_version("refusal", refusal.version)?;
    if refusal.request_id != request.request_id.0 {
        return Err(QuoteError::OtherRequest);
    }
    Ok(Answer::Refusal(Box::new(Refusal::from_proto(&refusal)?)))
}

/// Negotiates with an offer's provider: asks, and follows counter-offers that the wish accepts, at most `max_rounds` requests in all.
///
/// # Errors
/// [`NegotiationError`].
pub async fn negotiate<C, R>(
    channel: &C,
    offer: &VerifiedOffer,
    wish: &Wish,
    clock: &dyn Clock,
    rng: &mut R,
) -> Result<AgreedQuote, NegotiationError>
where
    C: QuoteChannel + ?Sized,
    R: RngCore + Send,
{
    let mut asked =
        CounterOffer { rate_class: wish.rate_class, start: wish.start, duration: wish.duration, load: wish.load };
    let rounds = wish.max_rounds.clamp(1, MAX_ROUNDS);
    let mut round = 0;
    loop {
        let request = QuoteRequest {
            request_id: RequestId::random(rng),
            offer_id: offer.id(),
            service: wish.service.clone(),
            wanted: wish.wanted.clone(),
            rate_class: asked.rate_class,
            start: asked.start,
            duration: asked.duration,
            load: asked.load,
            min_load: wish.min_load.min(asked.load),
            max_ticket_price: wish.max_ticket_price,
            max_rate: wish.max_rate,
            round,
        };
        let answer = channel.ask(offer, request.encode()).await?;
        round += 1;
        let verified = verify_answer(&answer, &request, offer, clock.now())
            .map_err(|error| NegotiationError::Answer { error, answer })?;
        let refusal = match verified {
            Answer::Quote(quote) => return Ok(*quote),
            Answer::Refusal(refusal) => refusal,
        };
        match refusal.counter {
            // A counter-offer that repeats the request leads nowhere.
            Some(counter) if round < rounds && counter != asked && wish.accepts(&counter, offer) => {
                asked = counter;
            }
            _ => {
                return Err(NegotiationError::Refused { refusal, rounds: round });
            }
        }
    }
}
