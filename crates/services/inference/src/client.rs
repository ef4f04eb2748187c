//! The buyer's side: pays for prompts, reads answers, pays for slices while they come.

use std::collections::{BTreeMap, VecDeque};
use std::fmt;
use std::sync::Arc;
use std::time::{Duration, Instant};

use ed25519_dalek::SigningKey;
use futures::StreamExt as _;
use futures::stream;
use prost::Message as _;
use rand::rngs::OsRng;
use serde::{Deserialize, Serialize};
use tokio::sync::mpsc;
use tributary_client::{RequestTickets, TicketSource};
use tributary_market::node;
use tributary_market::offer::{ServiceId, VerifiedOffer};
use tributary_market::sealed::{EncryptionKey, EncryptionSecret};
use tributary_market::ticket::{PreparedTicket, Reason, Verdict};
use tributary_market::topics::ContentTopic;
use tributary_market::transport::{Broadcast, Keep, Subscription, TransportError};
use tributary_market::wire::{self as market_wire, WireError};
use tributary_protocol::Seconds;
use tributary_waku::{Multiaddr, NodeHandle, PeerId, PublicKey, RequestError, RequestLimits};
use tributary_wallet::tickets::MadeTicket;

use crate::api::{ChatEvent, ChatRequest, ChatStream, FinishReason, Usage};
use crate::credit::{CreditKey, SignedCredit, public_key_of};
use crate::error::InferenceError;
use crate::proto;
use crate::provider::protocol;
use crate::purse::CreditPurse;
use crate::sale::{MAX_TICKETS, Sale, metered_tokens};
use crate::spending::{SpendingBook, SpendingCaps};
use crate::wire::{
    self, Act, AnswerId, Chunk, Event, FailureCode, MAX_CHUNKS, Prompt, Redemption, Request, SlicePayment,
};

/// How often one payment is tried: the provider can't judge its ticket yet, or is busy.
const MAX_TRIES: u32 = 8;
/// Chunks that came before their turn and are kept.
const MAX_EARLY: usize = 1024;
/// Wait for a chunk that others have overtaken.
const GAP: Duration = Duration::from_millis(500);
/// Largest answer to one request on a direct stream, bytes.
const MAX_RESPONSE: u64 = 64 * 1024;
/// Events that wait for their reader.
const EVENTS: usize = 64;

/// How prompts travel.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Transport {
    /// Over Waku relay: the provider learns no address, and nothing that links two prompts.
    Relay,
    /// Over a stream of a direct connection: the provider sees the buyer's address and PeerId.
    Direct,
}

/// How long a buyer waits.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Timing {
    /// For a sign of life, before it is asked for again.
    pub silence: Duration,
    /// How often it is asked for in vain before the provider counts as gone.
    pub attempts: u32,
    /// For the next chunk, while the provider gives signs of life.
    pub patience: Duration,
}

impl Default for Timing {
    fn default() -> Self {
        Self { silence: Duration::from_secs(4), attempts: 4, patience: Duration::from_secs(180) }
    }
}

/// Whose inference is bought.
#[derive(Debug, Clone)]
pub struct Counter {
    /// The provider.
    pub provider: PeerId,
    /// Where it can be dialled.
    pub addresses: Vec<Multiaddr>,
    /// The service's id in its offer.
    pub service: ServiceId,
    /// What the offer says.
    pub sale: Sale,
}

impl Counter {
    /// The service of this id in an offer.
    ///
    /// # Errors
    /// [`InferenceError::NotSold`].
    pub fn of_offer(offer: &VerifiedOffer, service: &ServiceId) -> Result<Self, InferenceError> {
        let not_sold = |reason: String| InferenceError::NotSold { service: service.to_string(), reason };
        let entry = offer.service(service).ok_or_else(|| not_sold("the offer has no such service".to_owned()))?;
        let sale = Sale::read(entry).map_err(|error| not_sold(error.to_string()))?;
        Ok(Self { provider: offer.peer_id(), addresses: offer.multiaddrs.clone(), service: service.clone(), sale })
    }
}

/// What a buyer works with.
#[derive(Debug)]
pub struct InferenceClientParts {
    /// Its node.
    pub node: NodeHandle,
    /// Whom it buys from.
    pub counter: Counter,
    /// What pays.
    pub tickets: Arc<dyn TicketSource>,
    /// What it spends at most.
    pub caps: SpendingCaps,
    /// What it spent today.
    pub book: Arc<SpendingBook>,
    /// Its credits; without a purse none are kept.
    pub purse: Option<Arc<CreditPurse>>,
    /// How prompts travel.
    pub transport: Transport,
    /// How long it waits.
    pub timing: Timing,
}

/// What an answer cost, and how it came.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Receipt {
    /// Tickets that the provider has seen: it may have spent them all.
    pub tickets: u64,
    /// Whether a credit paid for the prompt.
    pub credit: bool,
    /// Slices that were paid after the first.
    pub slices: u32,
    /// Tokens that came, as the provider counted them.
    pub tokens: u64,
    /// From sending the prompt to its first text.
    pub first_text: Option<Duration>,
    /// From sending the prompt to the end.
    pub total: Duration,
}

/// Buys answers from one provider.
#[derive(Debug, Clone)]
pub struct InferenceClient {
    parts: Arc<InferenceClientParts>,
    key: EncryptionKey,
    signer: PublicKey,
}

impl InferenceClient {
    /// A client of this provider. Nothing is sent before the first prompt.
    ///
    /// # Errors
    /// [`InferenceError::NotSold`] when the offer names no key, or the provider's id doesn't hold its public key.
    pub fn new(parts: InferenceClientParts) -> Result<Self, InferenceError> {
        let service = parts.counter.service.to_string();
        let not_sold = |reason: &str| InferenceError::NotSold { service: service.clone(), reason: reason.to_owned() };
        let key = parts.counter.sale.key.ok_or_else(|| not_sold("it names no key for prompts"))?;
        let signer = public_key_of(&parts.counter.provider).ok_or_else(|| not_sold("its id holds no public key"))?;
        if parts.transport == Transport::Direct && !parts.counter.sale.direct {
            return Err(not_sold("it serves no direct streams"));
        }
        Ok(Self { parts: Arc::new(parts), key, signer })
    }

    /// What the offer says.
    #[must_use]
    pub fn sale(&self) -> &Sale {
        &self.parts.counter.sale
    }

    /// Whom it buys from.
    #[must_use]
    pub fn counter(&self) -> &Counter {
        &self.parts.counter
    }

    /// Proves tickets for `prompts` prompts of the running slot ahead of time, and tells how many wait.
    ///
    /// # Errors
    /// [`InferenceError::Client`].
    pub async fn prepare(&self, request: &ChatRequest, prompts: usize) -> Result<usize, InferenceError> {
        let slot = self.parts.tickets.current_slot()?;
        let count = self.prompt_tickets(request)?;
        Ok(self.parts.tickets.prepare(slot, count, prompts).await?)
    }

    /// Sends a prompt with its payment, and returns when the provider has taken it. The answer follows on the stream, and its slices are paid as
    /// they come, within the caps.
    ///
    /// # Errors
    /// [`InferenceError`]: what keeps the answer from beginning. What happens later comes on the stream, as its last item.
    pub async fn chat(&self, request: ChatRequest) -> Result<ChatStream, InferenceError> {
        wire::check(&request).map_err(InferenceError::Request)?;
        let sale = self.sale();
        if request.model != sale.model {
            return Err(InferenceError::OtherModel { asked: request.model, sold: sale.model.clone() });
        }
        let tickets = self.prompt_tickets(&request)?;
        let max_tokens = request.max_tokens.unwrap_or(u32::MAX).min(sale.max_output);
        let max_tokens = max_tokens.min(self.parts.caps.tokens_per_prompt);
        if max_tokens == 0 {
            let error = WireError::Range { field: "max_tokens", got: 0, min: 1, max: sale.max_output.into() };
            return Err(InferenceError::Request(error));
        }
        let answer = AnswerId::random(&mut OsRng);
        let credit_key = SigningKey::generate(&mut OsRng);
        let prompt = Prompt { answer, request, max_tokens, credit_key: CreditKey::of(&credit_key) }.encode();
        let (own, receipt) = (RequestTickets::default(), Receipt::default());
        let asking = Asking { client: self.clone(), answer, credit_key, prompt, tickets, own, receipt };
        let (talk, receipt, asking) = asking.begin().await?;
        if max_tokens > self.sale().slice {
            self.prepare_slice(&asking.receipt);
        }
        let (events, incoming) = mpsc::channel(EVENTS);
        tokio::spawn(Reading { asking, talk, receipt, events, slice: 0, bytes: 0 }.run());
        Ok(stream::unfold(incoming, |mut incoming| async move { Some((incoming.recv().await?, incoming)) }).boxed())
    }

    fn prompt_tickets(&self, request: &ChatRequest) -> Result<u8, InferenceError> {
        let sale = self.sale();
        let tokens = metered_tokens(request);
        let tickets = sale.prompt_tickets(tokens);
        if tickets > MAX_TICKETS || tokens > sale.max_input() {
            return Err(InferenceError::PromptTooLong { tokens, max: sale.max_input() });
        }
        Ok(u8::try_from(tickets).unwrap_or(u8::MAX))
    }

    /// Tickets for one request, counted as spent: a provider that has seen them can keep them, whatever it says. Those that it has seen with this
    /// very request go out again and are not counted again.
    async fn take(
        &self,
        own: &mut RequestTickets,
        receipt: &mut Receipt,
        tickets: u8,
    ) -> Result<MadeTicket, InferenceError> {
        let source = &self.parts.tickets;
        let slot = source.current_slot()?;
        if let Some(ticket) = own.again(slot, tickets) {
            return Ok(ticket);
        }
        let (caps, asked, spent) = (self.parts.caps, u64::from(tickets), receipt.tickets);
        if spent + asked > caps.tickets_per_prompt {
            return Err(InferenceError::PromptCap { spent, asked, cap: caps.tickets_per_prompt });
        }
        // Before any is made: proving takes a while.
        self.parts.book.spend(asked, caps.tickets_per_day, source.now()?)?;
        match source.take(slot, tickets).await {
            Ok(ticket) => {
                receipt.tickets += asked;
                Ok(ticket)
            }
            Err(error) => {
                self.parts.book.give_back(asked)?;
                Err(error.into())
            }
        }
    }

    /// Proves the ticket of the next slice while this one is read: the answer doesn't wait for the proof then.
    fn prepare_slice(&self, receipt: &Receipt) {
        let tickets = self.sale().slice_tickets();
        if receipt.tickets + tickets > self.parts.caps.tickets_per_prompt {
            return;
        }
        let source = Arc::clone(&self.parts.tickets);
        let count = u8::try_from(tickets).unwrap_or(u8::MAX);
        tokio::spawn(async move {
            let Ok(slot) = source.current_slot() else { return };
            if let Err(error) = source.prepare(slot, count, 1).await {
                tracing::debug!(code = error.code(), %error, "no ticket was made ahead");
            }
        });
    }

    fn paid(&self, ticket: &MadeTicket, payload: Vec<u8>) -> Vec<u8> {
        let prepared =
            PreparedTicket { statement: ticket.statement.clone(), proof: ticket.proof, key: ticket.key.clone() };
        prepared.pay_payload(&self.parts.tickets.provider(), payload).encode_to_vec()
    }
}

/// A prompt that is being paid.
struct Asking {
    client: InferenceClient,
    answer: AnswerId,
    credit_key: SigningKey,
    prompt: Vec<u8>,
    tickets: u8,
    own: RequestTickets,
    receipt: Receipt,
}

impl Asking {
    async fn begin(mut self) -> Result<(Talk, Started, Self), InferenceError> {
        let mut tries = 0;
        loop {
            tries += 1;
            let (act, ticket) = self.payment().await?;
            let started = Instant::now();
            // Keys and topic are new at each try: what is left of an earlier one can't be taken for an answer.
            let mut talk = Talk::new(&self.client, self.answer).await?;
            talk.ask(act);
            match talk.event(0).await? {
                Event::Accepted { .. } => {
                    self.receipt.credit = ticket.is_none();
                    return Ok((talk, Started(started), self));
                }
                Event::Refused { status, description } => {
                    let reason = refusal(status, &description)?;
                    let again = ticket.is_some_and(|ticket| self.own.refused(ticket, reason));
                    if !again || tries >= MAX_TRIES {
                        return Err(InferenceError::Refused { reason, description });
                    }
                }
                Event::Failed { code, reason, credit } => {
                    let credited = credit.is_some_and(|credit| self.keep(&credit));
                    let again = match ticket {
                        Some(ticket) => code == FailureCode::Busy && self.own.refused(ticket, Reason::Unavailable),
                        None => true,
                    };
                    if !again || tries >= MAX_TRIES {
                        return Err(InferenceError::Failed { code, description: reason, credited });
                    }
                }
                _ => return Err(protocol_error("event", "an answer begins with its acceptance")),
            }
            self.client.parts.tickets.next_try().await;
        }
    }

    /// A credit if there is one, or a ticket; what the provider has seen with this prompt first.
    async fn payment(&mut self) -> Result<(Act, Option<MadeTicket>), InferenceError> {
        let Counter { provider, service, .. } = &self.client.parts.counter;
        if !self.own.waits()
            && let Some(purse) = &self.client.parts.purse
        {
            let now = self.client.parts.tickets.now()?;
            if let Some(own) = purse.take(*provider, service, self.tickets.into(), now)? {
                let signature = own.signed.redeem(&own.key, &self.prompt);
                let redemption = Redemption { credit: own.signed, signature, prompt: self.prompt.clone() };
                return Ok((Act::CreditedPrompt(redemption), None));
            }
        }
        let ticket = self.client.take(&mut self.own, &mut self.receipt, self.tickets).await?;
        Ok((Act::PaidPrompt(self.client.paid(&ticket, self.prompt.clone())), Some(ticket)))
    }

    /// Keeps a credit, if it is one.
    fn keep(&self, signed: &SignedCredit) -> bool {
        let Counter { provider, service, .. } = &self.client.parts.counter;
        let Some(purse) = &self.client.parts.purse else { return false };
        match signed.verify(&self.client.signer) {
            Ok(credit) if credit.service == *service && credit.key == CreditKey::of(&self.credit_key) => {
                match purse.put(*provider, &credit, signed, &self.credit_key) {
                    Ok(()) => true,
                    Err(error) => {
                        tracing::warn!(code = error.code(), %error, "a credit can't be kept");
                        false
                    }
                }
            }
            Ok(_) => false,
            Err(error) => {
                tracing::debug!(code = error.code(), %error, "the provider gave a credit that is none");
                false
            }
        }
    }
}

/// When the prompt was sent.
struct Started(Instant);

fn protocol_error(field: &'static str, reason: &str) -> InferenceError {
    InferenceError::Protocol(WireError::Invalid { field, reason: reason.to_owned() })
}

fn refusal(status: u32, description: &str) -> Result<Reason, InferenceError> {
    match Verdict::read(status, description) {
        Verdict::Refused { reason, .. } => Ok(reason),
        _ => Err(protocol_error("status_code", "no known reason")),
    }
}

/// Reads an answer and pays for it.
struct Reading {
    asking: Asking,
    talk: Talk,
    receipt: Started,
    events: mpsc::Sender<Result<ChatEvent, InferenceError>>,
    slice: u32,
    /// Bytes of text that came.
    bytes: u64,
}

impl Reading {
    async fn run(mut self) {
        let events = self.events.clone();
        let outcome = tokio::select! {
            outcome = self.read() => outcome,
            () = events.closed() => {
                self.talk.stop().await;
                return;
            }
        };
        let last = match outcome {
            Ok((reason, usage)) => {
                self.asking.receipt.total = self.receipt.0.elapsed();
                Ok(ChatEvent::Finished { reason, usage, receipt: self.asking.receipt })
            }
            Err(error) => {
                if !matches!(error, InferenceError::ProviderGone { .. } | InferenceError::Failed { .. }) {
                    self.talk.stop().await;
                }
                Err(error)
            }
        };
        let _ = self.events.send(last).await;
    }

    async fn read(&mut self) -> Result<(FinishReason, Usage), InferenceError> {
        loop {
            let tokens = self.asking.receipt.tokens;
            match self.talk.event(tokens).await? {
                Event::Text { text, tokens } => {
                    let receipt = &mut self.asking.receipt;
                    receipt.first_text.get_or_insert_with(|| self.receipt.0.elapsed());
                    receipt.tokens = receipt.tokens.saturating_add(tokens.into());
                    self.bytes += text.len() as u64;
                    // Each token of text has a byte at least: a count above that is made up.
                    if receipt.tokens > self.bytes {
                        return Err(protocol_error("tokens", "more than the text has bytes"));
                    }
                    if self.events.send(Ok(ChatEvent::Delta(text))).await.is_err() {
                        return Ok((FinishReason::Cancelled, Usage::default()));
                    }
                }
                Event::SliceEnd { slice, tickets, .. } => self.pay(slice, tickets).await?,
                Event::Finished { reason, usage } => return Ok((reason, usage)),
                Event::Failed { code, reason, credit } => {
                    let credited = credit.is_some_and(|credit| self.asking.keep(&credit));
                    return Err(InferenceError::Failed { code, description: reason, credited });
                }
                Event::Refused { status, description } => {
                    let reason = refusal(status, &description)?;
                    return Err(InferenceError::Refused { reason, description });
                }
                Event::Accepted { .. } | Event::Pending | Event::Unknown => {
                    return Err(protocol_error("event", "out of place"));
                }
            }
        }
    }

    /// Pays for the next slice, if the last one was delivered.
    async fn pay(&mut self, slice: u32, tickets: u32) -> Result<(), InferenceError> {
        let client = self.asking.client.clone();
        let sale = client.sale();
        if slice != self.slice + 1 || u64::from(tickets) != sale.slice_tickets() {
            return Err(protocol_error("slice_end", "not the slice that the offer sells"));
        }
        if self.asking.receipt.tokens < u64::from(sale.slice) * u64::from(slice) {
            return Err(protocol_error("slice_end", "the slice before wasn't delivered"));
        }
        let count = u8::try_from(tickets).unwrap_or(u8::MAX);
        let payload = SlicePayment { answer: self.asking.answer, slice }.encode();
        let mut own = RequestTickets::default();
        for _ in 0..MAX_TRIES {
            let ticket = client.take(&mut own, &mut self.asking.receipt, count).await?;
            self.talk.ask(Act::PaidSlice(client.paid(&ticket, payload.clone())));
            let tokens = self.asking.receipt.tokens;
            let event = self.talk.event(tokens).await?;
            let Event::Refused { status, description } = event else {
                self.talk.put_back(event);
                self.slice = slice;
                self.asking.receipt.slices = slice;
                client.prepare_slice(&self.asking.receipt);
                return Ok(());
            };
            let reason = refusal(status, &description)?;
            if !own.refused(ticket, reason) {
                return Err(InferenceError::Refused { reason, description });
            }
            client.parts.tickets.next_try().await;
        }
        Err(protocol_error("slice", "refused again and again"))
    }
}

/// The messages about one answer.
struct Talk {
    client: InferenceClient,
    answer: AnswerId,
    secret: EncryptionSecret,
    /// On relay.
    topic: Option<(ContentTopic, Subscription)>,
    /// The chunk that comes next.
    next: u32,
    early: BTreeMap<u32, Event>,
    /// What is asked for until a new chunk shows that it was heard.
    asked: Act,
    to_send: bool,
    back: Option<Event>,
    /// On a direct stream: chunks that came together.
    queue: VecDeque<Chunk>,
}

impl fmt::Debug for Talk {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Talk").field("next", &self.next).finish_non_exhaustive()
    }
}

impl Talk {
    async fn new(client: &InferenceClient, answer: AnswerId) -> Result<Self, InferenceError> {
        let topic = match client.parts.transport {
            Transport::Relay => {
                let topic = ContentTopic::one_time_reply(&mut OsRng);
                let subscription = Broadcast::subscribe(&client.parts.node, &topic).await?;
                Some((topic, subscription))
            }
            Transport::Direct => None,
        };
        Ok(Self {
            client: client.clone(),
            answer,
            secret: EncryptionSecret::random(&mut OsRng),
            topic,
            next: 0,
            early: BTreeMap::new(),
            asked: Act::Resume,
            to_send: false,
            back: None,
            queue: VecDeque::new(),
        })
    }

    fn ask(&mut self, act: Act) {
        (self.asked, self.to_send) = (act, true);
    }

    fn put_back(&mut self, event: Event) {
        self.back = Some(event);
    }

    /// The next event. `tokens` came so far.
    async fn event(&mut self, tokens: u64) -> Result<Event, InferenceError> {
        if let Some(event) = self.back.take() {
            return Ok(event);
        }
        let timing = self.client.parts.timing;
        let since = Instant::now();
        let mut heard = since;
        let mut silent = 0;
        loop {
            if let Some(event) = self.early.remove(&self.next) {
                self.next += 1;
                // The provider goes on: what was asked for was heard.
                self.asked = Act::Resume;
                return Ok(event);
            }
            let gone = InferenceError::ProviderGone { tokens, seconds: heard.elapsed().as_secs() };
            if silent > timing.attempts || since.elapsed() > timing.patience {
                return Err(gone);
            }
            let round = match self.topic {
                Some(_) => self.relay_round(timing.silence).await,
                None => self.direct_round(timing.silence).await,
            };
            match round? {
                Heard::Nothing => {
                    silent += 1;
                    self.to_send = true;
                }
                Heard::Life => {
                    silent = 0;
                    heard = Instant::now();
                }
                Heard::Unknown => return Err(gone),
            }
        }
    }

    fn request(&self) -> Result<Vec<u8>, InferenceError> {
        let now = self.client.parts.tickets.now()?;
        let request = Request {
            answer: self.answer,
            reply_key: self.secret.public(),
            reply_topic: self.topic.as_ref().map(|(topic, _)| topic.clone()),
            expires_at: now.saturating_add(Seconds::TEN_MINUTES),
            next: self.next,
            act: self.asked.clone(),
        };
        Ok(request.seal(&self.client.key, &mut OsRng)?)
    }

    fn take(&mut self, chunk: Chunk) -> Heard {
        match chunk.event {
            Event::Unknown => Heard::Unknown,
            Event::Pending => Heard::Life,
            event => {
                if chunk.index >= self.next && self.early.len() < MAX_EARLY {
                    self.early.entry(chunk.index).or_insert(event);
                }
                Heard::Life
            }
        }
    }

    async fn relay_round(&mut self, silence: Duration) -> Result<Heard, InferenceError> {
        let sealed = if self.to_send { Some(self.request()?) } else { None };
        let Some((_, subscription)) = &mut self.topic else { return Ok(Heard::Nothing) };
        if let Some(sealed) = sealed {
            let topic = ContentTopic::requests_of(&self.client.key);
            match Broadcast::publish(&self.client.parts.node, &topic, sealed, Keep::Ephemeral).await {
                Ok(()) => self.to_send = false,
                Err(TransportError::Closed) => return Err(TransportError::Closed.into()),
                // Nobody is connected yet who would take it; the wait below bounds how often that is tried.
                Err(error) => tracing::debug!(code = error.code(), "a prompt was not published"),
            }
        }
        let wait = if self.early.is_empty() { silence } else { GAP.min(silence) };
        match tokio::time::timeout(wait, subscription.next()).await {
            Err(_) => Ok(Heard::Nothing),
            Ok(None) => Err(TransportError::Closed.into()),
            Ok(Some(sealed)) => match Chunk::open(&self.secret, self.answer, &sealed) {
                Ok(chunk) => Ok(self.take(chunk)),
                Err(error) => {
                    tracing::debug!(code = error.code(), "skipped a message on an answer's topic");
                    Ok(Heard::Life)
                }
            },
        }
    }

    async fn direct_round(&mut self, silence: Duration) -> Result<Heard, InferenceError> {
        if let Some(chunk) = self.queue.pop_front() {
            return Ok(self.take(chunk));
        }
        let Counter { provider, addresses, service, .. } = &self.client.parts.counter;
        let node = &self.client.parts.node;
        if let Err(error) = node::connect(node, *provider, addresses).await {
            if error == TransportError::Closed {
                return Err(error.into());
            }
            tokio::time::sleep(silence.min(Duration::from_millis(500))).await;
            return Ok(Heard::Nothing);
        }
        let limits = RequestLimits {
            max_response_bytes: MAX_RESPONSE,
            // The provider waits up to 5 s for news.
            timeout: silence + Duration::from_secs(6),
            ..RequestLimits::default()
        };
        match node.request(*provider, &protocol(service), self.request()?, limits).await {
            Err(RequestError::Stopped) => Err(TransportError::Closed.into()),
            Err(error) => {
                tracing::debug!(%error, "a request for an answer failed");
                tokio::time::sleep(silence.min(Duration::from_millis(200))).await;
                Ok(Heard::Nothing)
            }
            Ok(bytes) => {
                let chunks: proto::Chunks =
                    market_wire::decode("chunks", &bytes, MAX_RESPONSE as usize).map_err(InferenceError::Protocol)?;
                for sealed in chunks.sealed.iter().take(MAX_CHUNKS) {
                    match Chunk::open(&self.secret, self.answer, sealed) {
                        Ok(chunk) => self.queue.push_back(chunk),
                        Err(error) => tracing::debug!(code = error.code(), "skipped a chunk that can't be opened"),
                    }
                }
                Ok(self.queue.pop_front().map_or(Heard::Nothing, |chunk| self.take(chunk)))
            }
        }
    }

    /// Tells the provider to stop. It also stops when nothing is paid any more, so this may get lost.
    async fn stop(&mut self) {
        self.asked = Act::Stop;
        let Ok(sealed) = self.request() else { return };
        let Counter { provider, service, .. } = &self.client.parts.counter;
        let node = &self.client.parts.node;
        if self.topic.is_some() {
            let topic = ContentTopic::requests_of(&self.client.key);
            let _ = Broadcast::publish(node, &topic, sealed, Keep::Ephemeral).await;
        } else {
            let limits = RequestLimits { timeout: Duration::from_secs(2), ..RequestLimits::default() };
            let _ = node.request(*provider, &protocol(service), sealed, limits).await;
        }
    }
}

/// What a round brought.
enum Heard {
    Nothing,
    Life,
    Unknown,
}
