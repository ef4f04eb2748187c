//! The provider's side: prompts are paid, answers streamed, slices counted.

use std::collections::{BTreeMap, HashMap};
use std::fmt;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use futures::StreamExt as _;
use parking_lot::Mutex;
use prost::Message as _;
use rand::rngs::OsRng;
use sha2::{Digest as _, Sha256};
use tokio::sync::{OwnedSemaphorePermit, Semaphore, watch};
use tokio::task::JoinSet;
use tokio::time::Instant;
use tributary_market::clock::Clock;
use tributary_market::offer::{self, ServiceId};
use tributary_market::sealed::{self, EncryptionKey, EncryptionSecret, ReplayGuard};
use tributary_market::ticket::TicketRefusal;
use tributary_market::topics::ContentTopic;
use tributary_market::transport::{Broadcast, Keep};
use tributary_market::wire::WireError;
use tributary_protocol::{Seconds, UnixTime};
use tributary_provider::free::FreeTierLimits;
use tributary_provider::service::{Service, ServiceError};
use tributary_provider::till::{Admission, Till, Use};
use tributary_waku::{Bytes, NodeHandle, NodeKey, PeerId, RequestHandler, ServeLimits};
use zeroize::Zeroizing;

use crate::api::{FinishReason, Usage};
use crate::backend::{Backend, BackendError, Generation, Job, Piece};
use crate::credit::{Credit, CreditError, CreditKey, CreditStore};
use crate::proto;
use crate::sale::{self, Sale};
use crate::wire::{
    Act, AnswerId, Chunk, Event, FailureCode, MAX_CHUNK_TEXT, MAX_CHUNKS, Prompt, Redemption, Request, SlicePayment,
};

/// Requests that are opened and judged at once; more are dropped, and their senders ask again.
const JUDGED_AT_ONCE: usize = 64;
/// Sealed messages that are remembered, so that none counts twice.
const REMEMBERED: usize = 16_384;
/// How long a finished answer can be asked for again, seconds.
const KEPT: u64 = 60;
/// Finished answers that are kept at most.
const MAX_KEPT: usize = 512;
/// How long a request on a direct stream waits for news.
const POLL: Duration = Duration::from_secs(5);
/// How long used credits are remembered after their end, seconds.
const CREDIT_MARGIN: u64 = 86_400;

/// The protocol of direct streams, by service.
#[must_use]
pub(crate) fn protocol(service: &ServiceId) -> String {
    format!("/tributary/inference/1/{service}")
}

/// How a model is sold.
#[derive(Clone, Debug)]
pub struct InferenceConfig {
    /// Id of the service in the offer.
    pub id: ServiceId,
    /// The model, its bounds and its prices.
    pub sale: Sale,
    /// Folder of the credits that were used.
    pub folder: PathBuf,
    /// How long an answer waits for the payment of its next slice.
    pub pay_wait: Duration,
    /// Text is gathered for that long before it is sent, save the first.
    pub gather: Duration,
    /// Answers at work at once.
    pub max_answers: usize,
    /// How long a make-good credit is taken.
    pub credit_lifetime: Seconds,
    /// What is free, to peers on direct streams.
    pub free: FreeTierLimits,
}

impl InferenceConfig {
    /// The usual: answers wait 15 s for a payment, text is gathered for 100 ms, 8 answers at once, credits hold a week, nothing is free.
    #[must_use]
    pub fn new(id: ServiceId, sale: Sale, folder: PathBuf) -> Self {
        Self {
            id,
            sale,
            folder,
            pay_wait: Duration::from_secs(15),
            gather: Duration::from_millis(100),
            max_answers: 8,
            credit_lifetime: Seconds::new(7 * 86_400).unwrap_or(Seconds::MAX),
            free: FreeTierLimits::NONE,
        }
    }
}

/// Why a model can't be sold like this.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("the model can't be sold like this: {0}")]
pub struct InferenceConfigError(#[from] WireError);

impl InferenceConfigError {
    /// The stable code of the error.
    #[must_use]
    pub const fn code(&self) -> &'static str {
        "TRB-N301"
    }
}

/// Sells a model.
pub struct InferenceService {
    node: NodeHandle,
    config: InferenceConfig,
    entry: offer::Service,
    backend: Arc<dyn Backend>,
    clock: Arc<dyn Clock>,
    shop: Mutex<Option<Arc<Shop>>>,
}

impl fmt::Debug for InferenceService {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("InferenceService").field("config", &self.config).finish_non_exhaustive()
    }
}

impl InferenceService {
    /// Prepares to sell `backend` on `node`. Nothing changes before [`Service::start`].
    ///
    /// # Errors
    /// [`InferenceConfigError`].
    pub fn new(
        node: NodeHandle,
        config: InferenceConfig,
        backend: Arc<dyn Backend>,
        clock: Arc<dyn Clock>,
    ) -> Result<Self, InferenceConfigError> {
        config.sale.check()?;
        let key = secret(node.key(), &config.id).public();
        let entry = config.sale.entry(config.id.clone(), &key)?;
        Ok(Self { node, config, entry, backend, clock, shop: Mutex::new(None) })
    }
}

/// The key that prompts are sealed to: from the node's key, so it outlives restarts, and one for each service.
fn secret(key: &NodeKey, service: &ServiceId) -> EncryptionSecret {
    let mut hash = Sha256::new();
    hash.update(b"tributary.inference.key.v1");
    hash.update(service.to_string().as_bytes());
    hash.update([0]);
    hash.update(key.to_bytes().as_slice());
    EncryptionSecret::derive(&Zeroizing::new(hash.finalize().into()))
}

#[async_trait]
impl Service for InferenceService {
    fn entry(&self) -> offer::Service {
        self.entry.clone()
    }

    fn free_tier(&self) -> FreeTierLimits {
        self.config.free
    }

    async fn start(&self, till: Till) -> Result<(), ServiceError> {
        let refused = |code, reason| ServiceError { code, service: self.config.id.clone(), reason };
        let path = self.config.folder.join(format!("{}-credits.db", self.config.id.to_string().replace('/', "-")));
        let credits = CreditStore::open(&path).await.map_err(|error| refused(error.code(), error.to_string()))?;
        let secret = secret(self.node.key(), &self.config.id);
        let topic = ContentTopic::requests_of(&secret.public());
        let mut requests =
            Broadcast::subscribe(&self.node, &topic).await.map_err(|error| refused(error.code(), error.to_string()))?;
        let shop = Arc::new(Shop {
            at_work: Arc::new(Semaphore::new(self.config.max_answers.max(1))),
            judging: Arc::new(Semaphore::new(JUDGED_AT_ONCE)),
            node: self.node.clone(),
            config: self.config.clone(),
            backend: Arc::clone(&self.backend),
            clock: Arc::clone(&self.clock),
            secret,
            till,
            credits,
            answers: Mutex::default(),
            guard: Mutex::new(ReplayGuard::new(REMEMBERED)),
            tasks: Mutex::default(),
            pruned: Mutex::default(),
        });
        if self.config.sale.direct {
            let limits = ServeLimits {
                max_request_bytes: (sealed::MAX_MESSAGE + sealed::OVERHEAD + 64) as u64,
                ..ServeLimits::default()
            };
            let handler = Arc::new(Direct(Arc::clone(&shop)));
            self.node
                .serve(&protocol(&self.config.id), limits, handler)
                .await
                .map_err(|error| refused("TRB-N302", error.to_string()))?;
        }
        let listening = Arc::clone(&shop);
        shop.spawn(async move {
            while let Some(sealed) = requests.next().await {
                let Ok(permit) = Arc::clone(&listening.judging).try_acquire_owned() else {
                    tracing::debug!("dropped a prompt: too many at once");
                    continue;
                };
                let shop = Arc::clone(&listening);
                listening.spawn(async move { shop.relayed(&sealed, permit).await });
            }
        });
        if let Some(earlier) = self.shop.lock().replace(shop) {
            earlier.tasks.lock().abort_all();
        }
        Ok(())
    }

    /// Takes no prompts from now on; answers at work end, and their tickets count as failed unless text was delivered.
    async fn stop(&self) {
        self.node.unserve(&protocol(&self.config.id)).await;
        let shop = self.shop.lock().take();
        if let Some(shop) = shop {
            shop.tasks.lock().abort_all();
            shop.credits.close().await;
        }
    }

    async fn turn(&self) {
        let shop = self.shop.lock().clone();
        if let Some(shop) = shop {
            shop.care().await;
        }
    }
}

/// A service that is open.
struct Shop {
    node: NodeHandle,
    config: InferenceConfig,
    backend: Arc<dyn Backend>,
    clock: Arc<dyn Clock>,
    secret: EncryptionSecret,
    till: Till,
    credits: CreditStore,
    answers: Mutex<HashMap<AnswerId, Arc<Answer>>>,
    guard: Mutex<ReplayGuard>,
    at_work: Arc<Semaphore>,
    judging: Arc<Semaphore>,
    tasks: Mutex<JoinSet<()>>,
    pruned: Mutex<Option<UnixTime>>,
}

impl fmt::Debug for Shop {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Shop").field("config", &self.config).finish_non_exhaustive()
    }
}

/// One answer, from its prompt's arrival until it is forgotten.
struct Answer {
    id: AnswerId,
    /// Of the prompt with its payment: the same prompt that is sent again is answered as before.
    digest: [u8; 32],
    state: Mutex<State>,
    /// Counts changes, and wakes who waits for them.
    changes: watch::Sender<u64>,
}

#[derive(Default)]
struct State {
    events: Vec<Event>,
    over_at: Option<UnixTime>,
    stopped: bool,
    /// The slice that is to be paid now.
    awaited: Option<u32>,
    /// Whether its payment is being judged.
    judging: bool,
    /// Its payment.
    paid: Option<Admission>,
}

impl Answer {
    fn new(id: AnswerId, digest: [u8; 32]) -> Self {
        Self { id, digest, state: Mutex::default(), changes: watch::channel(0).0 }
    }

    fn change<T>(&self, change: impl FnOnce(&mut State) -> T) -> T {
        let out = change(&mut self.state.lock());
        self.changes.send_modify(|count| *count += 1);
        out
    }

    fn push(&self, event: Event) {
        self.change(|state| state.events.push(event));
    }

    fn end(&self, event: Event, now: UnixTime) {
        self.change(|state| {
            state.events.push(event);
            state.over_at = Some(now);
        });
    }

    /// Events from `next` on, at most [`MAX_CHUNKS`], and whether no more will come after them.
    fn since(&self, next: u32) -> (Vec<Event>, bool) {
        let state = self.state.lock();
        let from = (next as usize).min(state.events.len());
        let to = (from + MAX_CHUNKS).min(state.events.len());
        (state.events[from..to].to_vec(), state.over_at.is_some() && to == state.events.len())
    }

    /// Resolves when the buyer doesn't want more.
    async fn stopped(&self) {
        let mut changes = self.changes.subscribe();
        while !self.state.lock().stopped {
            if changes.changed().await.is_err() {
                return;
            }
        }
    }
}

/// What a request leads to.
enum Reply {
    /// Of an answer that it began.
    Begun(Arc<Answer>),
    /// Of an answer that was there.
    Answer(Arc<Answer>),
    Event(Event),
}

/// What paid for a prompt or a slice.
struct Payment {
    admission: Option<Admission>,
    tickets: u32,
}

/// Why a prompt isn't answered.
enum Refusal {
    Payment(TicketRefusal),
    Credit(CreditError),
    BadPrompt(String),
}

impl From<TicketRefusal> for Refusal {
    fn from(refusal: TicketRefusal) -> Self {
        Self::Payment(refusal)
    }
}

impl From<WireError> for Refusal {
    fn from(error: WireError) -> Self {
        Self::BadPrompt(error.to_string())
    }
}

impl Refusal {
    fn event(&self) -> Event {
        match self {
            Self::Payment(refusal) => refused(refusal),
            Self::Credit(error) => {
                Event::Failed { code: FailureCode::BadPrompt, reason: error.to_string(), credit: None }
            }
            Self::BadPrompt(reason) => {
                Event::Failed { code: FailureCode::BadPrompt, reason: reason.clone(), credit: None }
            }
        }
    }
}

fn refused(refusal: &TicketRefusal) -> Event {
    let status = refusal.status();
    Event::Refused {
        status: status.status_code.unwrap_or_default(),
        description: status.status_desc.unwrap_or_default(),
    }
}

impl Shop {
    fn spawn(&self, task: impl Future<Output = ()> + Send + 'static) {
        let mut tasks = self.tasks.lock();
        while tasks.try_join_next().is_some() {}
        tasks.spawn(task);
    }

    /// A sealed message from the topic.
    async fn relayed(self: Arc<Self>, sealed: &[u8], permit: OwnedSemaphorePermit) {
        let Some(request) = self.open(sealed) else { return };
        let (key, next, id) = (request.reply_key, request.next, request.answer);
        let Some(topic) = request.reply_topic.clone() else {
            tracing::debug!("dropped a prompt that names no topic for its answer");
            return;
        };
        match self.act(request, None, permit).await {
            Reply::Begun(answer) => self.follow(&answer, &key, &topic).await,
            Reply::Answer(answer) => {
                let (events, _) = answer.since(next);
                self.publish(id, next, &events, &key, &topic).await;
                if events.is_empty() {
                    self.publish(id, next, &[Event::Pending], &key, &topic).await;
                }
            }
            Reply::Event(event) => self.publish(id, next, &[event], &key, &topic).await,
        }
    }

    /// Publishes an answer as it grows, until it is complete.
    async fn follow(&self, answer: &Answer, key: &EncryptionKey, topic: &ContentTopic) {
        let mut changes = answer.changes.subscribe();
        let mut next = 0;
        loop {
            changes.mark_unchanged();
            let (events, over) = answer.since(next);
            self.publish(answer.id, next, &events, key, topic).await;
            next += u32::try_from(events.len()).unwrap_or(u32::MAX);
            if over {
                return;
            }
            if events.is_empty() && changes.changed().await.is_err() {
                return;
            }
        }
    }

    async fn publish(&self, id: AnswerId, next: u32, events: &[Event], key: &EncryptionKey, topic: &ContentTopic) {
        for (index, event) in (next..).zip(events) {
            let chunk = Chunk { answer: id, index, event: event.clone() };
            let sealed = match chunk.seal(key, &mut OsRng) {
                Ok(sealed) => sealed,
                Err(error) => {
                    tracing::debug!(code = error.code(), %error, "an answer can't be sealed");
                    return;
                }
            };
            if let Err(error) = Broadcast::publish(&self.node, topic, sealed, Keep::Ephemeral).await {
                // The buyer asks again for what it misses. The topic is the buyer's secret and stays out of the log.
                tracing::debug!(code = error.code(), "a chunk was not published");
            }
        }
    }

    fn open(&self, sealed: &[u8]) -> Option<Request> {
        match Request::open(&self.secret, sealed, self.clock.now()) {
            Ok(request) if self.guard.lock().is_new(sealed) => Some(request),
            Ok(_) => None,
            Err(error) => {
                tracing::debug!(code = error.code(), "dropped a sealed request");
                None
            }
        }
    }

    fn find(&self, id: AnswerId) -> Option<Arc<Answer>> {
        self.answers.lock().get(&id).cloned()
    }

    async fn act(self: &Arc<Self>, request: Request, peer: Option<PeerId>, permit: OwnedSemaphorePermit) -> Reply {
        let Request { answer: id, act, .. } = request;
        match act {
            Act::PaidPrompt(_) | Act::CreditedPrompt(_) | Act::FreePrompt(_) => self.prompted(id, act, peer, permit),
            Act::PaidSlice(paid) => {
                let Some(answer) = self.find(id) else { return Reply::Event(Event::Unknown) };
                self.pay_slice(&answer, &paid, peer).await;
                Reply::Answer(answer)
            }
            Act::Resume => self.find(id).map_or(Reply::Event(Event::Unknown), Reply::Answer),
            Act::Stop => {
                let Some(answer) = self.find(id) else { return Reply::Event(Event::Unknown) };
                answer.change(|state| state.stopped = true);
                Reply::Answer(answer)
            }
        }
    }

    /// Begins an answer, unless this very prompt is answered already.
    fn prompted(self: &Arc<Self>, id: AnswerId, act: Act, peer: Option<PeerId>, permit: OwnedSemaphorePermit) -> Reply {
        let digest = digest(&act);
        let answer = {
            let mut answers = self.answers.lock();
            if let Some(answer) = answers.get(&id) {
                let same = answer.digest == digest;
                return if same { Reply::Answer(Arc::clone(answer)) } else { Reply::Event(Event::Unknown) };
            }
            let Ok(place) = Arc::clone(&self.at_work).try_acquire_owned() else {
                let reason = "too many answers are at work; nothing was spent, ask again in a while".to_owned();
                return Reply::Event(Event::Failed { code: FailureCode::Busy, reason, credit: None });
            };
            let answer = Arc::new(Answer::new(id, digest));
            answers.insert(id, Arc::clone(&answer));
            let (shop, working) = (Arc::clone(self), Arc::clone(&answer));
            self.spawn(async move {
                shop.work(&working, act, peer).await;
                drop((permit, place));
            });
            answer
        };
        Reply::Begun(answer)
    }

    async fn work(&self, answer: &Answer, act: Act, peer: Option<PeerId>) {
        match self.admit(answer, act, peer).await {
            Ok((prompt, payment)) => {
                answer.push(Event::Accepted { tickets: payment.tickets });
                self.generate(answer, prompt, payment).await;
            }
            Err(refusal) => {
                // It isn't kept: the ticket may be good a little later.
                self.answers.lock().remove(&answer.id);
                answer.end(refusal.event(), self.clock.now());
            }
        }
    }

    async fn admit(&self, answer: &Answer, act: Act, peer: Option<PeerId>) -> Result<(Prompt, Payment), Refusal> {
        match act {
            Act::PaidPrompt(paid) => {
                let decoded = self.till.checker().verifier().decode_paid_request(&paid, sealed::MAX_MESSAGE);
                let (presented, payload) = match decoded {
                    Ok(decoded) => decoded,
                    // The till refuses it too, and counts it.
                    Err(refusal) => {
                        let counted = self.till.admit_request(&paid, sealed::MAX_MESSAGE, 1, peer).await;
                        return Err(counted.err().unwrap_or(refusal).into());
                    }
                };
                let (prompt, tickets) = self.read(answer, &payload)?;
                let use_ = Use { peer, request: &payload, tickets };
                let admission = self.till.admit_presented(&presented, use_).await?;
                let tickets = u32::from(presented.count());
                Ok((prompt, Payment { admission: Some(admission), tickets }))
            }
            Act::FreePrompt(payload) => {
                let (prompt, tickets) = self.read(answer, &payload)?;
                let admission = self.till.admit(None, Use { peer, request: &payload, tickets }).await?;
                Ok((prompt, Payment { admission: Some(admission), tickets: 0 }))
            }
            Act::CreditedPrompt(redemption) => {
                let (prompt, needed) = self.read(answer, &redemption.prompt)?;
                let credit = self.redeem(&redemption, needed).await.map_err(Refusal::Credit)?;
                Ok((prompt, Payment { admission: None, tickets: credit.tickets }))
            }
            Act::PaidSlice(_) | Act::Resume | Act::Stop => Err(Refusal::BadPrompt("no prompt".to_owned())),
        }
    }

    /// Checks a prompt, and says how many tickets it takes.
    fn read(&self, answer: &Answer, payload: &[u8]) -> Result<(Prompt, u64), Refusal> {
        let prompt = Prompt::decode(payload)?;
        let sale = &self.config.sale;
        if prompt.answer != answer.id {
            return Err(Refusal::BadPrompt("the prompt is of another answer".to_owned()));
        }
        if prompt.request.model != sale.model {
            return Err(Refusal::BadPrompt(format!("the model here is {}", sale.model)));
        }
        if prompt.max_tokens > sale.max_output {
            return Err(Refusal::BadPrompt(format!("an answer has at most {} tokens here", sale.max_output)));
        }
        let tokens = sale::metered_tokens(&prompt.request);
        if tokens > sale.max_input() {
            let max = sale.max_input();
            return Err(Refusal::BadPrompt(format!("the prompt counts {tokens} tokens, at most {max} are taken")));
        }
        Ok((prompt, sale.prompt_tickets(tokens)))
    }

    async fn redeem(&self, redemption: &Redemption, needed: u64) -> Result<Credit, CreditError> {
        let Redemption { credit: signed, signature, prompt } = redemption;
        let credit = signed.verify(&self.node.key().public())?;
        if credit.service != self.config.id {
            let expected = self.config.id.clone();
            return Err(CreditError::OtherService { found: credit.service, expected });
        }
        let now = self.clock.now();
        if credit.expires_at <= now {
            return Err(CreditError::Expired { expires_at: credit.expires_at, now });
        }
        if u64::from(credit.tickets) < needed {
            return Err(CreditError::TooSmall { tickets: credit.tickets, needed });
        }
        signed.check_redemption(&credit.key, signature, prompt)?;
        self.credits.spend(&credit).await?;
        Ok(credit)
    }

    async fn pay_slice(&self, answer: &Answer, paid: &[u8], peer: Option<PeerId>) {
        let decoded = self.till.checker().verifier().decode_paid_request(paid, 2048);
        let refusal = match decoded {
            Ok((presented, payload)) => {
                let awaited = {
                    let mut state = answer.state.lock();
                    let wanted = state.awaited.map(|slice| SlicePayment { answer: answer.id, slice }.encode());
                    // One that comes again changes nothing, and neither does one that nobody waits for.
                    let awaited = wanted.as_ref() == Some(&payload) && !state.judging && state.paid.is_none();
                    state.judging |= awaited;
                    awaited
                };
                if !awaited {
                    return;
                }
                let tickets = self.config.sale.slice_tickets();
                let result = self.till.admit_presented(&presented, Use { peer, request: &payload, tickets }).await;
                let refusal = answer.change(|state| {
                    state.judging = false;
                    match result {
                        Ok(admission) => {
                            state.paid = Some(admission);
                            None
                        }
                        Err(refusal) => Some(refusal),
                    }
                });
                match refusal {
                    None => return,
                    Some(refusal) => refusal,
                }
            }
            Err(refusal) => refusal,
        };
        if answer.state.lock().awaited.is_some() {
            answer.push(refused(&refusal));
        }
    }

    /// Waits until the next slice is paid; `None` when it isn't.
    async fn next_slice(&self, answer: &Answer, slice: u32) -> Option<Admission> {
        let wait = self.config.pay_wait;
        let tickets = u32::try_from(self.config.sale.slice_tickets()).unwrap_or(u32::MAX);
        let seconds = u32::try_from(wait.as_secs()).unwrap_or(u32::MAX);
        answer.change(|state| {
            state.awaited = Some(slice);
            state.events.push(Event::SliceEnd { slice, tickets, wait: seconds });
        });
        let mut changes = answer.changes.subscribe();
        let paid = tokio::time::timeout(wait, async {
            loop {
                {
                    let mut state = answer.state.lock();
                    if let Some(paid) = state.paid.take() {
                        return Some(paid);
                    }
                    if state.stopped {
                        return None;
                    }
                }
                changes.changed().await.ok()?;
            }
        })
        .await
        .ok()
        .flatten();
        answer.change(|state| {
            state.awaited = None;
            // A payment whose proof was still being checked when time ran out buys nothing more; dropped, it counts as failed.
            paid.or_else(|| state.paid.take())
        })
    }

    async fn generate(&self, answer: &Answer, prompt: Prompt, payment: Payment) {
        let sale = &self.config.sale;
        // A credit is good once, also for an answer that fails again: else a prompt made to fail would be served for ever.
        let at_stake = if payment.admission.is_some() { payment.tickets } else { 0 };
        let mut writer = Writer {
            shop: self,
            answer,
            credit_key: prompt.credit_key,
            admission: payment.admission,
            at_stake,
            text: String::new(),
            text_tokens: 0,
            tokens: 0,
            delivered: false,
        };
        let job = Job { max_tokens: prompt.max_tokens, request: prompt.request };
        let mut generation: Generation = tokio::select! {
            generation = self.backend.generate(job) => match generation {
                Ok(generation) => generation,
                Err(error) => return writer.failed(&error, true).await,
            },
            () = answer.stopped() => return writer.end(FinishReason::Cancelled).await,
        };
        let stopped = answer.stopped();
        tokio::pin!(stopped);
        let mut paid_tokens = u64::from(sale.slice);
        let mut slice = 0;
        let mut flush_at = Instant::now();
        loop {
            let piece = tokio::select! {
                piece = generation.next() => piece.unwrap_or(Err(BackendError::CutOff)),
                () = &mut stopped => return writer.end(FinishReason::Cancelled).await,
                () = tokio::time::sleep_until(flush_at), if !writer.text.is_empty() => {
                    if writer.flush().await.is_err() {
                        return;
                    }
                    continue;
                }
            };
            match piece {
                Ok(Piece::Delta { text, tokens }) => {
                    if writer.tokens >= paid_tokens {
                        if writer.flush().await.is_err() {
                            return;
                        }
                        slice += 1;
                        let Some(paid) = self.next_slice(answer, slice).await else {
                            let stopped = answer.state.lock().stopped;
                            let reason = if stopped { FinishReason::Cancelled } else { FinishReason::Unpaid };
                            return writer.end(reason).await;
                        };
                        writer.admission = Some(paid);
                        writer.at_stake = u32::try_from(sale.slice_tickets()).unwrap_or(u32::MAX);
                        paid_tokens += u64::from(sale.slice);
                    }
                    if writer.text.is_empty() {
                        // The first words go out at once; so do those after a pause.
                        flush_at = if writer.delivered { Instant::now() + self.config.gather } else { Instant::now() };
                    }
                    writer.add(&text, tokens);
                    let full = writer.text.len() >= MAX_CHUNK_TEXT;
                    if (full || flush_at <= Instant::now()) && writer.flush().await.is_err() {
                        return;
                    }
                }
                Ok(Piece::Finished { reason, usage }) => return writer.finished(reason, usage).await,
                Err(error) => {
                    let owed = writer.tokens < paid_tokens;
                    return writer.failed(&error, owed).await;
                }
            }
        }
    }

    /// Forgets what is over.
    async fn care(&self) {
        let now = self.clock.now();
        {
            let mut answers = self.answers.lock();
            let age = |answer: &Answer| answer.state.lock().over_at.map(|at| now.since(at.min(now)).get());
            answers.retain(|_, answer| age(answer).is_none_or(|age| age < KEPT));
            let mut over: BTreeMap<(UnixTime, AnswerId), ()> = BTreeMap::new();
            for answer in answers.values() {
                if let Some(at) = answer.state.lock().over_at {
                    over.insert((at, answer.id), ());
                }
            }
            for ((_, id), ()) in over.iter().take(over.len().saturating_sub(MAX_KEPT)) {
                answers.remove(id);
            }
        }
        let due = {
            let mut pruned = self.pruned.lock();
            let due = pruned.is_none_or(|at| now < at || now.since(at).get() >= 3600);
            if due {
                *pruned = Some(now);
            }
            due
        };
        if due && let Err(error) = self.credits.prune(now, CREDIT_MARGIN).await {
            tracing::warn!(code = error.code(), %error, "used credits were not pruned");
        }
    }
}

fn digest(act: &Act) -> [u8; 32] {
    let mut hash = Sha256::new();
    match act {
        Act::PaidPrompt(bytes) | Act::FreePrompt(bytes) | Act::PaidSlice(bytes) => hash.update(bytes),
        Act::CreditedPrompt(Redemption { credit, signature, prompt }) => {
            hash.update(credit.encode());
            hash.update(signature);
            hash.update(prompt);
        }
        Act::Resume | Act::Stop => {}
    }
    hash.finalize().into()
}

/// Nothing more can be written: the answer was ended.
struct Ended;

/// Writes one answer's events.
struct Writer<'a> {
    shop: &'a Shop,
    answer: &'a Answer,
    credit_key: CreditKey,
    /// The payment of the running slice, until something of it is delivered.
    admission: Option<Admission>,
    /// Tickets of the running slice.
    at_stake: u32,
    text: String,
    text_tokens: u32,
    /// Tokens of the whole answer so far.
    tokens: u64,
    delivered: bool,
}

impl Writer<'_> {
    fn add(&mut self, text: &str, tokens: u32) {
        self.text.push_str(text);
        self.text_tokens = self.text_tokens.saturating_add(tokens);
        self.tokens = self.tokens.saturating_add(tokens.into());
    }

    /// Sends the text that was gathered.
    async fn flush(&mut self) -> Result<(), Ended> {
        if self.text.is_empty() {
            return Ok(());
        }
        if let Some(admission) = self.admission.take()
            && let Err(error) = self.shop.till.served(admission).await
        {
            tracing::warn!(code = error.code(), %error, "an answer is held back: its ticket can't be marked");
            self.end_failed(FailureCode::Internal, "the provider can't keep its books now".to_owned(), true);
            return Err(Ended);
        }
        let text = std::mem::take(&mut self.text);
        let mut tokens = std::mem::take(&mut self.text_tokens);
        self.delivered = true;
        let mut rest = text.as_str();
        while !rest.is_empty() {
            let mut end = rest.len().min(MAX_CHUNK_TEXT);
            while !rest.is_char_boundary(end) {
                end -= 1;
            }
            let (head, tail) = rest.split_at(end);
            // All of them are counted in the first part.
            self.answer.push(Event::Text { text: head.to_owned(), tokens: std::mem::take(&mut tokens) });
            rest = tail;
        }
        Ok(())
    }

    async fn finished(mut self, reason: FinishReason, usage: Usage) {
        if !self.delivered && self.text.is_empty() {
            self.fail_admission().await;
            self.end_failed(FailureCode::Empty, "the model answered with nothing".to_owned(), true);
            return;
        }
        if self.flush().await.is_ok() {
            self.finish(reason, usage);
        }
    }

    /// Ends an answer that the buyer, or the want of payment, stops.
    async fn end(mut self, reason: FinishReason) {
        if self.flush().await.is_err() {
            return;
        }
        self.fail_admission().await;
        let completion_tokens = u32::try_from(self.tokens).unwrap_or(u32::MAX);
        self.finish(reason, Usage { prompt_tokens: 0, completion_tokens });
    }

    async fn failed(mut self, error: &BackendError, owed: bool) {
        tracing::warn!(code = error.code(), %error, "an answer failed");
        if self.flush().await.is_err() {
            return;
        }
        self.fail_admission().await;
        self.end_failed(error.failure(), error.to_string(), owed);
    }

    async fn fail_admission(&mut self) {
        if let Some(admission) = self.admission.take()
            && let Err(error) = self.shop.till.failed(admission).await
        {
            tracing::warn!(code = error.code(), %error, "a ticket can't be marked as failed");
        }
    }

    fn finish(&self, reason: FinishReason, usage: Usage) {
        self.answer.end(Event::Finished { reason, usage }, self.shop.clock.now());
    }

    fn end_failed(&self, code: FailureCode, reason: String, owed: bool) {
        let now = self.shop.clock.now();
        let credit = (owed && self.at_stake > 0).then(|| {
            let credit = Credit {
                service: self.shop.config.id.clone(),
                key: self.credit_key,
                tickets: self.at_stake,
                expires_at: now.saturating_add(self.shop.config.credit_lifetime),
            };
            credit.sign(self.shop.node.key())
        });
        self.answer.end(Event::Failed { code, reason, credit }, now);
    }
}

/// Serves direct streams: the same sealed messages, news by long polling.
struct Direct(Arc<Shop>);

impl fmt::Debug for Direct {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

#[async_trait]
impl RequestHandler for Direct {
    async fn handle(&self, peer: PeerId, request: Bytes) -> Option<Bytes> {
        let permit = Arc::clone(&self.0.judging).try_acquire_owned().ok()?;
        let request = self.0.open(&request)?;
        let (key, next, id) = (request.reply_key, request.next, request.answer);
        let events = match self.0.act(request, Some(peer), permit).await {
            Reply::Event(event) => vec![event],
            Reply::Begun(answer) | Reply::Answer(answer) => {
                let mut changes = answer.changes.subscribe();
                let deadline = Instant::now() + POLL;
                loop {
                    changes.mark_unchanged();
                    let (events, over) = answer.since(next);
                    if !events.is_empty() || over {
                        break events;
                    }
                    if !matches!(tokio::time::timeout_at(deadline, changes.changed()).await, Ok(Ok(()))) {
                        break vec![Event::Pending];
                    }
                }
            }
        };
        let seal = |(index, event)| Chunk { answer: id, index, event }.seal(&key, &mut OsRng).ok();
        let sealed = (next..).zip(events).map(seal).collect::<Option<Vec<_>>>()?;
        Some(proto::Chunks { sealed }.encode_to_vec().into())
    }
}
