//! The gateway's OpenAI surface on the market: each prompt is bought from a provider of exactly the model that it names.

use std::collections::BTreeMap;
use std::fmt::Debug;
use std::sync::Arc;
use std::time::{Duration, Instant};

use async_trait::async_trait;
use futures::{StreamExt as _, stream};
use rand::{RngCore as _, rngs::OsRng};
use serde_json::{Map, json};
use sha2::{Digest as _, Sha256};
use tributary_client::ClientError;
use tributary_gateway::openai::{self, ChatError, ChatModel, ModelInfo, TokenUsage};
use tributary_market::clock::Clock;
use tributary_market::ticket::{Reason, Remedy};
use tributary_protocol::UnixTime;
use tributary_reputation::inference::{Digest, Fingerprint, InferenceEnding, InferenceObservation};
use tributary_reputation::{AssessmentId, ProviderName, ServiceName, Subject};
use tributary_wallet::WalletError;

use crate::api::{ChatEvent, ChatMessage, ChatRequest, ChatStream, FinishReason, Role};
use crate::client::InferenceClient;
use crate::error::InferenceError;
use crate::sale::Sale;
use crate::wire::FailureCode;

/// A model as somebody offers it.
#[derive(Debug, Clone)]
pub struct Offered {
    /// What the offer says of it.
    pub sale: Sale,
    /// Price of a ticket there, token base units.
    pub ticket_price: u128,
    /// When the offer was made.
    pub since: UnixTime,
}

/// Finds whom to ask, and learns what came of it.
#[async_trait]
pub trait InferenceMarket: Debug + Send + Sync + 'static {
    /// What is offered now.
    async fn offered(&self) -> Vec<Offered>;

    /// A paid provider of `model`.
    ///
    /// # Errors
    /// [`InferenceError`].
    async fn client(&self, model: &str) -> Result<InferenceClient, InferenceError>;

    /// Takes what was observed of one prompt: for the reputation, and so that a provider that failed is left out of the next choice.
    async fn observed(&self, observation: InferenceObservation);

    /// The time.
    fn clock(&self) -> &dyn Clock;
}

/// Asks through an [`InferenceMarket`], and tells it what came of each prompt.
#[derive(Debug, Clone)]
pub struct Desk {
    market: Arc<dyn InferenceMarket>,
}

impl Desk {
    /// Asks whom `market` finds.
    #[must_use]
    pub const fn new(market: Arc<dyn InferenceMarket>) -> Self {
        Self { market }
    }

    /// Sends a prompt. `expected` is the SHA-256 of the declared model's answer to it, for a probe.
    ///
    /// # Errors
    /// [`InferenceError`]: what keeps the answer from beginning. What happens later comes on the stream, as its last item.
    pub async fn ask(&self, request: ChatRequest, expected: Option<Digest>) -> Result<ChatStream, InferenceError> {
        let client = self.market.client(&request.model).await?;
        let record = Record::begin(Arc::clone(&self.market), &client, expected);
        match client.chat(request).await {
            Ok(events) => {
                let going = Some((events, record));
                Ok(stream::unfold(going, |going| async move {
                    let (mut events, mut record) = going?;
                    match events.next().await {
                        Some(Ok(ChatEvent::Delta(text))) => {
                            record.text(&text);
                            Some((Ok(ChatEvent::Delta(text)), Some((events, record))))
                        }
                        Some(Ok(ChatEvent::Finished { reason, usage, receipt })) => {
                            record.tokens(receipt.tokens);
                            record.end(InferenceEnding::Complete).await;
                            Some((Ok(ChatEvent::Finished { reason, usage, receipt }), None))
                        }
                        Some(Err(error)) => {
                            record.end(ending(&error)).await;
                            Some((Err(error), None))
                        }
                        None => None,
                    }
                })
                .boxed())
            }
            Err(error) => {
                record.end(ending(&error)).await;
                Err(error)
            }
        }
    }
}

/// The models of the market, as the OpenAI surface asks them.
#[derive(Debug)]
pub struct MarketModel {
    desk: Desk,
}

impl MarketModel {
    /// Asks whom `market` finds.
    #[must_use]
    pub const fn new(market: Arc<dyn InferenceMarket>) -> Self {
        Self { desk: Desk::new(market) }
    }
}

#[async_trait]
impl ChatModel for MarketModel {
    async fn models(&self) -> Result<Vec<ModelInfo>, ChatError> {
        let mut models: BTreeMap<String, Vec<Offered>> = BTreeMap::new();
        for offered in self.desk.market.offered().await {
            models.entry(offered.sale.model.clone()).or_default().push(offered);
        }
        Ok(models.into_iter().map(|(id, offers)| shown(id, &offers)).collect())
    }

    async fn chat(&self, request: openai::ChatRequest) -> Result<openai::ChatStream, ChatError> {
        let model = request.model.clone();
        let events = self.desk.ask(read(request), None).await.map_err(|error| told(&error, &model))?;
        let events = events.flat_map(move |event| {
            stream::iter(match event {
                Ok(ChatEvent::Delta(text)) => vec![Ok(openai::ChatEvent::Delta(text))],
                Ok(ChatEvent::Finished { reason, usage, receipt }) => {
                    let completion = u64::from(usage.completion_tokens).max(receipt.tokens);
                    let usage = TokenUsage { prompt: usage.prompt_tokens.into(), completion };
                    let finish = match reason {
                        FinishReason::Stop | FinishReason::Cancelled => openai::FinishReason::Stop,
                        FinishReason::Length | FinishReason::Unpaid => openai::FinishReason::Length,
                        FinishReason::ContentFilter => openai::FinishReason::ContentFilter,
                    };
                    vec![Ok(openai::ChatEvent::Finish(finish)), Ok(openai::ChatEvent::Usage(usage))]
                }
                Err(error) => vec![Err(told(&error, &model))],
            })
        });
        Ok(events.boxed())
    }

    fn clock(&self) -> &dyn Clock {
        self.desk.market.clock()
    }
}

/// One model of all who offer it.
fn shown(id: String, offers: &[Offered]) -> ModelInfo {
    let cheapest = offers.iter().map(|offer| offer.ticket_price).min().unwrap_or_default();
    let mut quantisations: Vec<&str> = offers.iter().map(|offer| offer.sale.quantisation.as_str()).collect();
    quantisations.sort_unstable();
    quantisations.dedup();
    let mut details = Map::new();
    details.insert("providers".into(), json!(offers.len()));
    details.insert("quantisations".into(), json!(quantisations));
    details.insert("context".into(), json!(offers.iter().map(|offer| offer.sale.context).max()));
    details.insert("max_output".into(), json!(offers.iter().map(|offer| offer.sale.max_output).max()));
    details.insert("loaded".into(), json!(offers.iter().any(|offer| offer.sale.loaded)));
    details.insert("lowest_ticket_price".into(), json!(cheapest.to_string()));
    let created = offers.iter().map(|offer| offer.since.get()).min().unwrap_or_default();
    ModelInfo { id, created, owned_by: "market".into(), details }
}

/// The surface's request as it is sent to a provider.
fn read(request: openai::ChatRequest) -> ChatRequest {
    let role = |role| match role {
        openai::Role::System => Role::System,
        openai::Role::User => Role::User,
        openai::Role::Assistant => Role::Assistant,
    };
    ChatRequest {
        model: request.model,
        messages: request
            .messages
            .into_iter()
            .map(|message| ChatMessage { role: role(message.role), content: message.content })
            .collect(),
        max_tokens: request.max_tokens,
        temperature_milli: request.temperature.map(thousandths),
        // A share so small that it rounds to nothing means the likeliest token alone.
        top_p_milli: request.top_p.map(|share| thousandths(share).max(1)),
        seed: request.seed.map(i64::cast_unsigned),
        stop: request.stop,
    }
}

#[allow(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "the surface admits 0 to 2")]
fn thousandths(value: f64) -> u32 {
    (value * 1000.0).round() as u32
}

/// An error as the surface tells it.
fn told(error: &InferenceError, model: &str) -> ChatError {
    let message = || format!("{error} [{}]", error.code());
    match error {
        InferenceError::Request(_) => ChatError::Invalid { message: message(), param: None },
        InferenceError::NotSold { .. } | InferenceError::OtherModel { .. } => {
            ChatError::UnknownModel { model: model.to_owned() }
        }
        InferenceError::PromptTooLong { tokens, max } => ChatError::ContextLength { wanted: *tokens, limit: *max },
        InferenceError::PromptCap { spent, asked, cap } => ChatError::CapReached {
            cap: "gateway.prompt_tickets",
            limit: (*cap).into(),
            spent: u128::from(*spent) + u128::from(*asked),
        },
        InferenceError::DayCap { spent, cap, .. } => {
            ChatError::CapReached { cap: "gateway.day_tickets", limit: (*cap).into(), spent: (*spent).into() }
        }
        InferenceError::Refused { reason: Reason::PaymentRequired, .. } => {
            ChatError::PaymentRequired { message: message() }
        }
        InferenceError::Refused { reason, .. } if reason.remedy() == Remedy::SendAgain => {
            ChatError::Unavailable { reason: message() }
        }
        InferenceError::Failed { code: FailureCode::BadPrompt, .. } => {
            ChatError::Invalid { message: message(), param: Some("messages") }
        }
        InferenceError::Failed { code: FailureCode::Busy, .. } => ChatError::Unavailable { reason: message() },
        InferenceError::Refused { .. } | InferenceError::Failed { .. } | InferenceError::Protocol(_) => {
            ChatError::ProviderFailed { reason: message() }
        }
        InferenceError::ProviderGone { .. } => ChatError::ProviderGone { reason: message() },
        InferenceError::Client(error) => of_client(error, model),
        InferenceError::Transport(_) => ChatError::Unavailable { reason: message() },
        InferenceError::Sealed(_) | InferenceError::Book { .. } => ChatError::Internal { reason: message() },
    }
}

fn of_client(error: &ClientError, model: &str) -> ChatError {
    let message = format!("{error} [{}]", error.code());
    match error {
        ClientError::NoStream { .. } => ChatError::PaymentRequired {
            message: format!("{message}, or start `tributary gateway --buy`, which buys within its caps"),
        },
        ClientError::Wallet(WalletError::InsufficientFunds { needed, available, .. }) => {
            ChatError::InsufficientFunds { available: available.get(), needed: needed.get() }
        }
        ClientError::PurchaseCap { needed, cap } => {
            ChatError::CapReached { cap: "--max-purchase", limit: *cap, spent: *needed }
        }
        ClientError::DayCap { spent, cap, .. } => {
            ChatError::CapReached { cap: "--max-per-day", limit: *cap, spent: *spent }
        }
        ClientError::NoCandidate { .. } | ClientError::NoProvider | ClientError::NotSold { .. } => {
            ChatError::UnknownModel { model: model.to_owned() }
        }
        ClientError::Away { .. } => ChatError::ProviderGone { reason: message },
        _ => ChatError::Unavailable { reason: message },
    }
}

/// What a failure says of the provider.
fn ending(error: &InferenceError) -> InferenceEnding {
    let reason = error.to_string();
    let failed = |credited| InferenceEnding::FailedAfterPayment { reason: reason.clone(), credited };
    match error {
        InferenceError::ProviderGone { .. } => InferenceEnding::NoAnswer,
        InferenceError::Failed { code: FailureCode::Busy, .. } => InferenceEnding::Unavailable { reason },
        InferenceError::Failed { code: FailureCode::BadPrompt, .. } => InferenceEnding::BuyerError { reason },
        InferenceError::Failed { credited, .. } => failed(*credited),
        InferenceError::Protocol(_) => failed(false),
        InferenceError::Refused { reason: why, .. } => match why.remedy() {
            Remedy::SendAgain => InferenceEnding::Unavailable { reason },
            // A ticket that was made by the offer, and verified before it was sent, is refused: the stream pays for nothing.
            Remedy::Spent | Remedy::ReadOffer | Remedy::Report => failed(false),
            Remedy::NewTicket => InferenceEnding::BuyerError { reason },
        },
        InferenceError::Transport(_) => InferenceEnding::NetworkError { reason },
        _ => InferenceEnding::BuyerError { reason },
    }
}

/// What is observed of one prompt, told once; at the latest when it is dropped.
struct Record {
    market: Arc<dyn InferenceMarket>,
    observation: Option<InferenceObservation>,
    begun: Instant,
    expected: Option<Digest>,
    hash: Sha256,
}

impl Record {
    fn begin(market: Arc<dyn InferenceMarket>, client: &InferenceClient, expected: Option<Digest>) -> Self {
        let mut id = [0; 16];
        OsRng.fill_bytes(&mut id);
        let counter = client.counter();
        let observation = (|| {
            let provider = ProviderName::new(counter.provider.to_string()).ok()?;
            Some(InferenceObservation {
                id: AssessmentId::new(hex::encode(id)).ok()?,
                subject: Subject { provider, service: ServiceName::new(counter.service.as_str()).ok()? },
                at: market.clock().now(),
                first_text: None,
                whole: Duration::ZERO,
                tokens: 0,
                fingerprint: None,
                ending: InferenceEnding::Dropped,
            })
        })();
        Self { market, observation, begun: Instant::now(), expected, hash: Sha256::new() }
    }

    fn text(&mut self, text: &str) {
        self.hash.update(text.as_bytes());
        if let Some(observation) = &mut self.observation {
            observation.first_text.get_or_insert_with(|| self.begun.elapsed());
        }
    }

    fn tokens(&mut self, tokens: u64) {
        if let Some(observation) = &mut self.observation {
            observation.tokens = tokens;
        }
    }

    fn take(&mut self, ending: InferenceEnding) -> Option<InferenceObservation> {
        let mut observation = self.observation.take()?;
        let complete = ending == InferenceEnding::Complete;
        observation.ending = ending;
        observation.whole = self.begun.elapsed();
        observation.fingerprint = self
            .expected
            .filter(|_| complete)
            .map(|expected| Fingerprint { answer: self.hash.clone().finalize().into(), expected });
        Some(observation)
    }

    async fn end(mut self, ending: InferenceEnding) {
        if let Some(observation) = self.take(ending) {
            self.market.observed(observation).await;
        }
    }
}

impl Drop for Record {
    fn drop(&mut self) {
        if let (Some(observation), Ok(runtime)) =
            (self.take(InferenceEnding::Dropped), tokio::runtime::Handle::try_current())
        {
            let market = Arc::clone(&self.market);
            runtime.spawn(async move { market.observed(observation).await });
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_request_of_the_surface_is_sent_as_it_is() {
        let asked = openai::ChatRequest {
            model: "m".into(),
            messages: vec![openai::ChatMessage { role: openai::Role::System, content: "Be brief.".into() }],
            max_tokens: Some(5),
            temperature: Some(0.7),
            top_p: Some(0.000_1),
            seed: Some(-1),
            stop: vec!["END".into()],
        };
        let sent = read(asked);
        assert_eq!((sent.temperature_milli, sent.top_p_milli, sent.seed), (Some(700), Some(1), Some(u64::MAX)));
        assert_eq!((sent.messages[0].role, sent.max_tokens), (Role::System, Some(5)));
    }

    #[test]
    fn each_failure_has_its_status_and_names_whose_it_is() {
        let status = |error: InferenceError| told(&error, "m").status().as_u16();
        let failed = |code| InferenceError::Failed { code, description: "x".into(), credited: false };
        assert_eq!(status(InferenceError::ProviderGone { tokens: 3, seconds: 20 }), 502);
        assert_eq!(status(failed(FailureCode::BackendFailed)), 502);
        assert_eq!(status(failed(FailureCode::Busy)), 503);
        assert_eq!(status(failed(FailureCode::BadPrompt)), 400);
        assert_eq!(status(InferenceError::PromptCap { spent: 1, asked: 1, cap: 1 }), 429);
        assert_eq!(status(InferenceError::DayCap { spent: 1, asked: 1, cap: 1 }), 429);
        assert_eq!(status(InferenceError::PromptTooLong { tokens: 9, max: 8 }), 400);
        let client = |error: ClientError| status(error.into());
        assert_eq!(client(ClientError::NoStream { provider: "any".into() }), 402);
        assert_eq!(client(ClientError::NoCandidate { candidates: 2 }), 404);
        assert_eq!(client(ClientError::PurchaseCap { needed: 2, cap: 1 }), 429);
        let refused = |reason| InferenceError::Refused { reason, description: "x".into() };
        assert_eq!(status(refused(Reason::PaymentRequired)), 402);
        assert_eq!(status(refused(Reason::Unavailable)), 503);
        assert_eq!(status(refused(Reason::SpentUnserved)), 502);
        assert_eq!(
            ending(&refused(Reason::SpentUnserved)),
            InferenceEnding::FailedAfterPayment { reason: "the provider refused: x".into(), credited: false }
        );
        assert!(matches!(ending(&failed(FailureCode::BadPrompt)), InferenceEnding::BuyerError { .. }));
    }
}
