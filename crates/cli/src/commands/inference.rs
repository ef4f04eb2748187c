//! Inference: the model that a provider sells, `tributary ask`, and the gateway's models (docs: inference, gateway).

use std::{
    fs,
    io::{Read as _, Write as _},
    sync::Arc,
    time::Duration,
};

use async_trait::async_trait;
use futures::StreamExt as _;
use serde_json::json;
use tributary_client::{Buyer, ClientError, Load, Sought, SoughtFamily, SpendingCaps as PurchaseCaps, Want};
use tributary_market::{
    clock::{Clock, SystemClock},
    offer::{ServiceId, UseUnit},
    property::{FamilyName, Need, Rule},
};
use tributary_protocol::Seconds;
use tributary_provider::free::FreeTierLimits;
use tributary_reputation::inference::{Digest, InferenceAssessor, InferenceEnding, InferenceObservation};
#[cfg(feature = "embedded")]
use tributary_service_inference::backend::{Embedded, EmbeddedConfig};
use tributary_service_inference::{
    ChatEvent, ChatMessage, ChatRequest, ChatStream, Counter, CreditPurse, Desk, FinishReason, InferenceClient,
    InferenceClientParts, InferenceConfig, InferenceError, InferenceMarket, InferenceService, Offered, Role, Sale,
    SpendingBook, SpendingCaps, Timing, Transport,
    backend::{Backend, HttpBackend, HttpBackendConfig},
    sale::{FAMILY, SERVICE},
};
use tributary_waku::{NodeHandle, PeerId};
use zeroize::Zeroizing;

use crate::{
    args,
    commands::{
        buyer::{parse_peer, preferences},
        gateway::{Asked, Then, as_buyer, bought, caps},
    },
    config::Inference,
    context::{Context, shutdown_signal},
    error::CliError,
    output::Format,
};

/// The folder of credits that were used, in the provider's.
const FOLDER: &str = "provider";
/// What was spent on prompts today.
const BOOK: &str = "inference-spending.json";
/// Make-good credits.
const PURSE: &str = "inference-credits.json";
/// Bytes of a question at most; prompts on the wire hold no more.
const MAX_QUESTION: u64 = 120 * 1024;
/// How long offers are listened for when no model is named.
const LOOK: Duration = Duration::from_secs(10);

fn input(reason: String) -> CliError {
    CliError::Input { reason }
}

fn refused(error: impl std::fmt::Display) -> CliError {
    CliError::Service { reason: error.to_string() }
}

fn family() -> Result<FamilyName, ClientError> {
    Ok(FAMILY.parse()?)
}

fn service_id() -> Result<ServiceId, ClientError> {
    Ok(SERVICE.parse()?)
}

/// The model that a provider sells.
pub(crate) async fn service(
    context: &Context,
    settings: &Inference,
    node: &NodeHandle,
) -> Result<InferenceService, CliError> {
    if settings.model.is_empty() {
        return Err(input("provider.services names inference, and provider.inference.model is empty: name it".into()));
    }
    let mut sale = Sale {
        model: settings.model.clone(),
        quantisation: settings.quantisation.clone(),
        context: settings.context,
        hardware: settings.hardware.clone(),
        loaded: false,
        max_output: settings.max_output,
        slice: settings.slice,
        tickets_in: settings.tickets_in,
        tickets_out: settings.tickets_out,
        direct: settings.direct,
        key: None,
    };
    let backend: Arc<dyn Backend> = match settings.backend.as_str() {
        "http" => Arc::new(http(context, settings)?),
        #[cfg(feature = "embedded")]
        "embedded" => Arc::new(embedded(context, settings, &mut sale).await?),
        other => {
            let built = if cfg!(feature = "embedded") { "http and embedded are" } else { "http is" };
            return Err(input(format!("provider.inference.backend '{other}' is not in this build: {built}")));
        }
    };
    // A server that is started later is found by the first prompt.
    let named = settings.backend_model.as_ref().unwrap_or(&settings.model);
    sale.loaded = match backend.models().await {
        Ok(models) if models.contains(named) => true,
        Ok(models) => {
            let few: Vec<_> = models.iter().take(8).map(String::as_str).collect();
            return Err(input(format!(
                "provider.inference: the server has no model '{named}', it has {}: set backend_model",
                few.join(", ")
            )));
        }
        Err(error) => {
            tracing::warn!(code = error.code(), %error, "the model's server doesn't answer yet");
            false
        }
    };
    let folder = context.file(FOLDER);
    fs::create_dir_all(&folder).map_err(|error| CliError::Write { file: folder.clone(), error })?;
    let free = match settings.free_prompts {
        0 => FreeTierLimits::NONE,
        per_peer => FreeTierLimits { per_peer, total: per_peer.saturating_mul(100), window: 3600 },
    };
    let config =
        InferenceConfig { max_answers: settings.answers, free, ..InferenceConfig::new(service_id()?, sale, folder) };
    InferenceService::new(node.clone(), config, backend, Arc::new(SystemClock)).map_err(refused)
}

fn http(context: &Context, settings: &Inference) -> Result<HttpBackend, CliError> {
    let api_key = match &settings.api_key_file {
        None => None,
        Some(path) => {
            let file = if path.is_absolute() { path.clone() } else { context.file(&path.to_string_lossy()) };
            let text = fs::read_to_string(&file).map_err(|error| CliError::Read { file, error })?;
            Some(Zeroizing::new(text.trim().to_owned()))
        }
    };
    let config = HttpBackendConfig {
        model: settings.backend_model.clone(),
        api_key,
        ..HttpBackendConfig::new(settings.base_url.clone())
    };
    HttpBackend::new(config).map_err(refused)
}

/// The model of a file. What the file says of itself is offered.
#[cfg(feature = "embedded")]
async fn embedded(context: &Context, settings: &Inference, sale: &mut Sale) -> Result<Embedded, CliError> {
    let path = settings.weights.as_ref().ok_or_else(|| {
        input(
            "provider.inference.backend is embedded, and provider.inference.weights is empty: name a GGUF file".into(),
        )
    })?;
    let path = if path.is_absolute() { path.clone() } else { context.file(&path.to_string_lossy()) };
    let sha256 = settings.weights_sha256.as_deref().map(|text| {
        let bytes = hex::decode(text).ok().and_then(|bytes| bytes.try_into().ok());
        bytes.ok_or_else(|| input("provider.inference.weights_sha256 takes 64 hexadecimal digits".into()))
    });
    let generations = settings.generations.max(1);
    let config = EmbeddedConfig {
        sha256: sha256.transpose()?,
        model: Some(settings.model.clone()),
        generations,
        // Each answer that is let in is paid: none may find the queue full.
        waiting: settings.answers.saturating_sub(generations),
        ..EmbeddedConfig::new(path)
    };
    let model = Embedded::open(config).await.map_err(refused)?;
    sale.quantisation.clone_from(&model.info().quantisation);
    sale.context = sale.context.min(model.info().context);
    sale.max_output = sale.max_output.min(sale.context);
    Ok(model)
}

/// Providers of models, found, paid and judged.
#[derive(Debug)]
pub(crate) struct Models {
    buyer: Buyer,
    want: Want,
    provider: Option<PeerId>,
    purchases: PurchaseCaps,
    caps: SpendingCaps,
    transport: Transport,
    book: Arc<SpendingBook>,
    purse: Arc<CreditPurse>,
    clock: SystemClock,
    /// Who is asked, by model.
    asked: Asked<String>,
    tell: fn(&str),
}

impl Models {
    /// Reads what may be spent, and opens the books.
    pub(crate) fn open(
        context: &Context,
        buyer: &Buyer,
        buying: &args::Buying,
        duration: Option<u64>,
        direct: bool,
        provider: Option<PeerId>,
        tell: fn(&str),
    ) -> Result<Self, CliError> {
        let settings = &context.config.gateway;
        let (max_price, preset) = preferences(context, buying.max_price, buying.preset.as_deref())?;
        let direct = direct || settings.direct;
        let want = Want {
            service: Sought::Family(SoughtFamily {
                id: service_id()?,
                family: family()?,
                needs: Vec::new(),
                unit: UseUnit::KilotokenOut,
                load: Load::Uses { uses: settings.prompts.max(1), units: 1 },
                dialled: direct,
            }),
            content_topics: Vec::new(),
            duration: Seconds::new(duration.unwrap_or(settings.duration))?,
            max_price,
            preset,
            ignore: Vec::new(),
        };
        Ok(Self {
            buyer: buyer.clone(),
            want,
            provider,
            purchases: caps(context, buying)?,
            caps: SpendingCaps {
                tickets_per_prompt: settings.prompt_tickets,
                tickets_per_day: settings.day_tickets,
                tokens_per_prompt: settings.answer_tokens,
            },
            transport: if direct { Transport::Direct } else { Transport::Relay },
            book: Arc::new(SpendingBook::open(&context.file(BOOK))?),
            purse: Arc::new(CreditPurse::open(&context.file(PURSE))?),
            clock: SystemClock,
            asked: Asked::default(),
            tell,
        })
    }

    fn want(&self, model: &str) -> Result<Want, ClientError> {
        let mut want = self.want.clone();
        if let Sought::Family(sought) = &mut want.service {
            sought.needs = vec![Need::new("model", Rule::Text(model.to_owned()))?];
            if self.transport == Transport::Direct {
                sought.needs.push(Need::new("modes", Rule::Text("direct".into()))?);
            }
        }
        Ok(want)
    }

    /// The only model that can be had: that of an open stream, else of the offers.
    async fn only_model(&self) -> Result<String, CliError> {
        let service = service_id()?;
        if let Ok((_, _, offer)) = self.buyer.stream_for(self.provider, Some(&service)).await
            && let Some(Ok(sale)) = offer.service(&service).map(Sale::read)
        {
            return Ok(sale.model);
        }
        if self.offered().await.is_empty() {
            self.buyer.directory().discover_at_least(1, LOOK).await?;
        }
        let mut models: Vec<_> = self.offered().await.into_iter().map(|offered| offered.sale.model).collect();
        models.sort_unstable();
        models.dedup();
        match models.as_slice() {
            [one] => Ok(one.clone()),
            [] => Err(ClientError::NoProvider.into()),
            several => Err(input(format!("{} are on offer: name one by --model", several.join(", ")))),
        }
    }
}

#[async_trait]
impl InferenceMarket for Models {
    async fn offered(&self) -> Vec<Offered> {
        let Ok(service) = service_id() else { return Vec::new() };
        let offers = self.buyer.directory().offers();
        let read = |offer: &Arc<tributary_market::offer::VerifiedOffer>| {
            if self.provider.is_some_and(|provider| provider != offer.peer_id()) {
                return None;
            }
            let sale = Sale::read(offer.service(&service)?).ok()?;
            Some(Offered { sale, ticket_price: offer.ticket_price.get(), since: offer.issued_at })
        };
        offers.iter().filter_map(read).collect()
    }

    async fn client(&self, model: &str) -> Result<InferenceClient, InferenceError> {
        let want = self.want(model)?;
        let session = bought(&self.buyer, want, self.provider, self.purchases, self.tell).await?;
        let service = session.service();
        let mut counter = Counter::of_offer(&session.offer, &service)?;
        counter.addresses.clone_from(&session.addresses);
        let parts = InferenceClientParts {
            node: self.buyer.node().clone(),
            counter,
            tickets: Arc::clone(&session.tickets),
            caps: self.caps,
            book: Arc::clone(&self.book),
            purse: Some(Arc::clone(&self.purse)),
            transport: self.transport,
            timing: Timing::default(),
        };
        self.asked.remember(model.to_owned(), session);
        InferenceClient::new(parts)
    }

    async fn observed(&self, observation: InferenceObservation) {
        // Who is busy, or made good what failed, may have another turn.
        let then = match observation.ending {
            InferenceEnding::Unavailable { .. } | InferenceEnding::FailedAfterPayment { credited: true, .. } => {
                Then::TryAnother
            }
            _ => Then::Leave,
        };
        self.asked.judge(&self.buyer, InferenceAssessor::default().assess(&observation), then).await;
    }

    fn clock(&self) -> &dyn Clock {
        &self.clock
    }
}

/// Asks one question, and prints the answer as it comes.
pub(crate) async fn ask(context: &Context, args: &args::Ask) -> Result<(), CliError> {
    let args::Using { provider, duration, buying } = &args.using;
    let provider = provider.as_deref().map(parse_peer).transpose()?;
    let expected = args.expect.as_deref().map(digest).transpose()?;
    let temperature_milli = args.temperature.map(thousandths).transpose()?;
    let question = question(&args.question)?;
    let tell: fn(&str) = match context.format {
        Format::Text => |line| Format::Text.progress(line),
        Format::Json => |_| {},
    };
    as_buyer(context, buying, async |buyer| {
        let models = Arc::new(Models::open(context, buyer, buying, *duration, args.direct, provider, tell)?);
        let model = match &args.model {
            Some(model) => model.clone(),
            None => models.only_model().await?,
        };
        let mut messages = Vec::new();
        messages.extend(args.system.iter().map(|text| ChatMessage { role: Role::System, content: text.clone() }));
        messages.push(ChatMessage::user(question));
        let request = ChatRequest {
            messages,
            max_tokens: args.max_tokens,
            temperature_milli,
            seed: args.seed,
            ..ChatRequest::ask(&*model, "")
        };
        let asking = async {
            let answer = Desk::new(models.clone()).ask(request, expected).await?;
            print(context.format, &models, &model, answer).await
        };
        tokio::select! {
            done = asking => done,
            () = shutdown_signal() => Ok(()),
        }
    })
    .await
}

async fn print(format: Format, models: &Models, model: &String, mut answer: ChatStream) -> Result<(), CliError> {
    let mut whole = String::new();
    let text = format == Format::Text;
    while let Some(event) = answer.next().await {
        match event {
            Ok(ChatEvent::Delta(piece)) if text => {
                print!("{}", printable(&piece));
                std::io::stdout().flush().ok();
            }
            Ok(ChatEvent::Delta(piece)) => whole.push_str(&piece),
            Ok(ChatEvent::Finished { reason, usage, receipt }) => {
                let provider = models.asked.provider(model).map(|provider| provider.to_string());
                let milliseconds = |time: Option<Duration>| time.map(|time| time.as_millis().to_string());
                if text {
                    println!();
                    format.progress(&format!(
                        "{} tokens for {} tickets{}; first after {} ms{}",
                        receipt.tokens,
                        receipt.tickets,
                        if receipt.credit { " and a credit" } else { "" },
                        milliseconds(receipt.first_text).unwrap_or_else(|| "-".into()),
                        if reason == FinishReason::Length { "; cut at the limit of tokens" } else { "" },
                    ));
                } else {
                    println!(
                        "{}",
                        json!({ "text": whole, "finish_reason": reason, "usage": usage, "receipt": receipt, "provider": provider })
                    );
                }
                return Ok(());
            }
            Err(error) => {
                if text {
                    println!();
                }
                return Err(error.into());
            }
        }
    }
    Err(ClientError::Interrupted.into())
}

/// Without what steers a terminal: a provider could move its cursor, set its title or fill its clipboard.
fn printable(text: &str) -> String {
    let steers = |c: &char| c.is_control() && !matches!(c, '\n' | '\t');
    text.chars().filter(|c| !steers(c)).collect()
}

fn question(text: &str) -> Result<String, CliError> {
    if text != "-" {
        return Ok(text.to_owned());
    }
    let mut read = String::new();
    std::io::stdin()
        .take(MAX_QUESTION + 1)
        .read_to_string(&mut read)
        .map_err(|error| CliError::Read { file: "standard input".into(), error })?;
    Ok(read)
}

fn digest(text: &str) -> Result<Digest, CliError> {
    let bytes = hex::decode(text).ok().and_then(|bytes| bytes.try_into().ok());
    bytes.ok_or_else(|| input("--expect takes the 64 hexadecimal digits of a SHA-256".into()))
}

#[allow(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "0 to 2000 after the check")]
fn thousandths(value: f64) -> Result<u32, CliError> {
    if (0.0..=2.0).contains(&value) {
        Ok((value * 1000.0).round() as u32)
    } else {
        Err(input(format!("--temperature {value} is out of range: 0 to 2")))
    }
}

#[cfg(test)]
mod tests {
    use super::printable;

    #[test]
    fn an_answer_steers_no_terminal() {
        let hostile = "Paris\u{1b}]52;c;cm0gLXJm\u{7}\u{1b}[2J\r\u{9b}31m\n\tis it.\u{8}\0";
        assert_eq!(printable(hostile), "Paris]52;c;cm0gLXJm[2J31m\n\tis it.");
    }
}
