//! A language model inside the provider: a GGUF file of the llama kind, run by candle on the processor.

mod chat;
mod text;

use std::fmt;
use std::fs::File;
use std::io::{BufReader, Read as _, Seek as _};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use async_trait::async_trait;
use candle_core::quantized::GgmlDType;
use candle_core::quantized::gguf_file::Content;
use candle_core::{Device, Tensor};
use candle_transformers::generation::{LogitsProcessor, Sampling};
use candle_transformers::models::quantized_llama::{MAX_SEQ_LEN, ModelWeights};
use futures::{StreamExt as _, stream};
use rand::RngCore as _;
use rand::rngs::OsRng;
use sha2::{Digest as _, Sha256};
use tokio::runtime::Handle;
use tokio::sync::{OwnedSemaphorePermit, Semaphore, mpsc};
use zeroize::{Zeroize as _, Zeroizing};

use self::chat::Chat;
use self::text::{Assembler, Text};
use super::{Backend, BackendError, Generation, Job, Piece};
use crate::api::{FinishReason, Usage};
use crate::wire::{MAX_MODEL_BYTES, MAX_TEMPERATURE_MILLI};

/// Tokens of a prompt that are worked on at once: whether the answer is still wanted is asked between.
const STEP: usize = 16;
/// Where a request doesn't say it, tokens are drawn from the likeliest that have this probability together, as the makers of SmolLM2 advise.
const NUCLEUS: f64 = 0.9;
/// Bytes that are read at once.
const BLOCK: usize = 1 << 20;

/// Which model, and how much of the machine it gets.
#[derive(Debug, Clone)]
pub struct EmbeddedConfig {
    /// The GGUF file.
    pub path: PathBuf,
    /// What the file's SHA-256 must be; `None` takes any file.
    pub sha256: Option<[u8; 32]>,
    /// The model's id in offers, 1 to 128 bytes; `None` takes the file's name without ending and quantisation.
    pub model: Option<String>,
    /// Tokens of prompt and answer together at most; `None` for as many as model and engine can, at most 4096.
    /// Memory of an answer grows with it: for SmolLM2-135M by 46 KB a token.
    pub context: Option<u32>,
    /// Answers that are generated at once, at least 1. They share the processor.
    pub generations: usize,
    /// Answers that may wait for their turn; more are refused with [`BackendError::Busy`].
    pub waiting: usize,
    /// Temperature where a request names none, thousandths, 0 to 2000.
    pub temperature_milli: u32,
}

impl EmbeddedConfig {
    /// The usual: 2 answers at once, 6 more wait, temperature 0.2.
    #[must_use]
    pub fn new(path: impl Into<PathBuf>) -> Self {
        Self {
            path: path.into(),
            sha256: None,
            model: None,
            context: None,
            generations: 2,
            waiting: 6,
            temperature_milli: 200,
        }
    }
}

/// What an offer can say of a loaded model.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ModelInfo {
    /// Its id.
    pub model: String,
    /// How most of its weights are quantised, say "Q4_1".
    pub quantisation: String,
    /// Tokens of prompt and answer together at most.
    pub context: u32,
}

/// Why a model can't be used.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum EmbeddedError {
    /// The file can't be read.
    #[error("the model {path} can't be read: {reason}", path = path.display())]
    Read {
        /// The file.
        path: PathBuf,
        /// What the system said.
        reason: String,
    },
    /// It is another file than the one that was meant.
    #[error(
        "the model {path} has the SHA-256 {found}, not {expected}: fetch it again, or correct the hash if it is the one that is meant",
        path = path.display()
    )]
    OtherFile {
        /// The file.
        path: PathBuf,
        /// As configured.
        expected: String,
        /// The file's.
        found: String,
    },
    /// It is no model, or of a kind that can't be run.
    #[error("the model {path} can't be run: {reason}; a GGUF file of a llama model with a ChatML template is needed", path = path.display())]
    Unusable {
        /// The file.
        path: PathBuf,
        /// What is wrong with it.
        reason: String,
    },
    /// A setting is out of range.
    #[error("{name} is {value}, it must be from {min} to {max}")]
    Range {
        /// The setting.
        name: &'static str,
        /// As configured.
        value: u64,
        /// The least.
        min: u64,
        /// The most.
        max: u64,
    },
}

impl EmbeddedError {
    /// The stable code of the error.
    #[must_use]
    pub const fn code(&self) -> &'static str {
        match self {
            Self::Read { .. } => "TRB-N221",
            Self::OtherFile { .. } => "TRB-N222",
            Self::Unusable { .. } => "TRB-N223",
            Self::Range { .. } => "TRB-N224",
        }
    }
}

/// A model in this process. It has the one model, whatever name a request gives it.
///
/// Prompts are wiped from the memory that this crate has of them; the engine's own is only freed.
pub struct Embedded {
    engine: Arc<Engine>,
    temperature_milli: u32,
    places: Arc<Semaphore>,
    turns: Arc<Semaphore>,
    room: usize,
}

impl fmt::Debug for Embedded {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Embedded").field("info", &self.engine.info).finish_non_exhaustive()
    }
}

impl Embedded {
    /// Checks and loads a model. It takes the time to read the file, and then as long as a short prompt.
    ///
    /// # Errors
    /// [`EmbeddedError`].
    pub async fn open(config: EmbeddedConfig) -> Result<Self, EmbeddedError> {
        let within = |name, value: u64, min, max| match (min..=max).contains(&value) {
            true => Ok(()),
            false => Err(EmbeddedError::Range { name, value, min, max }),
        };
        let many = Semaphore::MAX_PERMITS as u64 / 2;
        within("generations", config.generations as u64, 1, many)?;
        within("waiting", config.waiting as u64, 0, many)?;
        within("temperature_milli", config.temperature_milli.into(), 0, MAX_TEMPERATURE_MILLI.into())?;
        if let Some(model) = &config.model {
            within("bytes of the model's id", model.len() as u64, 1, MAX_MODEL_BYTES as u64)?;
        }
        let room = config.generations + config.waiting;
        let (generations, temperature_milli) = (config.generations, config.temperature_milli);
        let path = config.path.clone();
        let engine = tokio::task::spawn_blocking(move || Engine::load(&config)).await.unwrap_or_else(|_| {
            Err(EmbeddedError::Unusable { path, reason: "the engine broke down on it".to_owned() })
        })?;
        Ok(Self {
            engine: Arc::new(engine),
            temperature_milli,
            places: Arc::new(Semaphore::new(room)),
            turns: Arc::new(Semaphore::new(generations)),
            room,
        })
    }

    /// What an offer can say of it.
    #[must_use]
    pub fn info(&self) -> &ModelInfo {
        &self.engine.info
    }

    /// Tokens of answers that were generated since it was opened, also of those that nobody took.
    #[must_use]
    pub fn generated(&self) -> u64 {
        self.engine.generated.load(Ordering::Relaxed)
    }

    /// Answers at work and waiting.
    #[must_use]
    pub fn at_work(&self) -> usize {
        self.room - self.places.available_permits()
    }
}

#[async_trait]
impl Backend for Embedded {
    async fn models(&self) -> Result<Vec<String>, BackendError> {
        Ok(vec![self.engine.info.model.clone()])
    }

    async fn generate(&self, mut job: Job) -> Result<Generation, BackendError> {
        let waiting = self.room;
        let place = Arc::clone(&self.places).try_acquire_owned().map_err(|_| BackendError::Busy { waiting })?;
        let engine = Arc::clone(&self.engine);
        let request = &mut job.request;
        let messages = std::mem::take(&mut request.messages);
        let prompt = blocking(move || {
            let mut messages = messages;
            let prompt = engine.chat.prompt(&messages);
            messages.iter_mut().for_each(|message| message.content.zeroize());
            prompt.map_err(|reason| BackendError::Engine { reason })
        })
        .await?;
        // An answer has one token at least.
        let max = self.engine.info.context as usize - 1;
        let tokens = prompt.len();
        if tokens > max {
            return Err(BackendError::TooLong { tokens, max });
        }
        let turn = Arc::clone(&self.turns)
            .acquire_owned()
            .await
            .map_err(|_| BackendError::Engine { reason: "it is closed".to_owned() })?;
        let milli = request.temperature_milli.unwrap_or(self.temperature_milli);
        let sampling = match milli {
            0 => Sampling::ArgMax,
            _ => {
                let p = request.top_p_milli.map_or(NUCLEUS, |milli| f64::from(milli) / 1000.0);
                Sampling::TopP { p, temperature: f64::from(milli) / 1000.0 }
            }
        };
        let seed = request.seed.unwrap_or_else(|| OsRng.next_u64());
        let (sender, receiver) = mpsc::channel(1);
        let run = Run {
            engine: Arc::clone(&self.engine),
            prompt,
            limit: usize::try_from(job.max_tokens).unwrap_or(usize::MAX).min(max + 1 - tokens),
            sampler: LogitsProcessor::from_sampling(seed, sampling),
            text: Assembler::new(&request.stop),
            sender,
            _held: (place, turn),
        };
        let handle = Handle::current();
        tokio::task::spawn_blocking(move || run.run(&handle));
        Ok(stream::unfold(receiver, |mut receiver| async move { Some((receiver.recv().await?, receiver)) }).boxed())
    }
}

async fn blocking<T: Send + 'static>(
    work: impl FnOnce() -> Result<T, BackendError> + Send + 'static,
) -> Result<T, BackendError> {
    let broken = |_| BackendError::Engine { reason: "it broke down".to_owned() };
    tokio::task::spawn_blocking(work).await.map_err(broken)?
}

/// A loaded model.
struct Engine {
    info: ModelInfo,
    chat: Chat,
    /// Never run itself: each answer runs a copy, which shares the weights.
    weights: ModelWeights,
    /// What conversations without instructions begin with, and the model as it is behind that.
    opening: Vec<u32>,
    opened: ModelWeights,
    generated: AtomicU64,
}

impl Engine {
    fn load(config: &EmbeddedConfig) -> Result<Self, EmbeddedError> {
        let path = &config.path;
        let unread = |error: std::io::Error| EmbeddedError::Read { path: path.clone(), reason: error.to_string() };
        let unusable = |reason: String| EmbeddedError::Unusable { path: path.clone(), reason };
        let broken = |error: candle_core::Error| unusable(error.to_string());
        let mut file = File::open(path).map_err(unread)?;
        if let Some(expected) = &config.sha256 {
            let found = sha256(&mut file).map_err(unread)?;
            if found != *expected {
                let (expected, found) = (hex::encode(expected), hex::encode(found));
                return Err(EmbeddedError::OtherFile { path: path.clone(), expected, found });
            }
            file.rewind().map_err(unread)?;
        }
        let mut reader = BufReader::with_capacity(BLOCK, file);
        let content = Content::read(&mut reader).map_err(broken)?;
        let number = |key: &str| content.metadata.get(key).and_then(|value| value.to_u32().ok());
        let kind = content.metadata.get("general.architecture").and_then(|value| value.to_string().ok());
        if kind.map(String::as_str) != Some("llama") {
            return Err(unusable(format!("it is a model of the kind {}", kind.map_or("unknown", String::as_str))));
        }
        let chat = Chat::read(&content).map_err(unusable)?;
        let quantisation = quantisation(&content);
        // The engine's table of positions ends there.
        let engine_max = u32::try_from(MAX_SEQ_LEN).unwrap_or(u32::MAX);
        let most = number("llama.context_length").unwrap_or(engine_max).min(engine_max);
        let context = config.context.unwrap_or(most);
        if !(2..=most).contains(&context) {
            return Err(EmbeddedError::Range { name: "context", value: context.into(), min: 2, max: most.into() });
        }
        let model = match &config.model {
            Some(model) => model.clone(),
            None => id_of(path, &quantisation),
        };
        let weights = ModelWeights::from_gguf(content, &mut reader, &Device::Cpu).map_err(broken)?;
        let opening = chat.opening().map_err(unusable)?;
        let mut opened = weights.clone();
        for (at, tokens) in opening.chunks(STEP).enumerate() {
            forward(&mut opened, tokens, at * STEP).map_err(broken)?;
        }
        let info = ModelInfo { model, quantisation, context };
        Ok(Self { info, chat, weights, opening, opened, generated: AtomicU64::new(0) })
    }

    /// A model that has read what `prompt` begins with, and how many tokens that is.
    fn begin(&self, prompt: &[u32]) -> (ModelWeights, usize) {
        // One token at least must be left to read: what follows it is the answer.
        match prompt.strip_prefix(self.opening.as_slice()) {
            Some([_, ..]) => (self.opened.clone(), self.opening.len()),
            _ => (self.weights.clone(), 0),
        }
    }
}

/// Reads tokens from `position` on, and gives the weights of what may follow the last.
fn forward(model: &mut ModelWeights, tokens: &[u32], position: usize) -> candle_core::Result<Tensor> {
    let input = Tensor::new(tokens, &Device::Cpu)?.unsqueeze(0)?;
    model.forward(&input, position)?.squeeze(0)
}

fn sha256(file: &mut File) -> std::io::Result<[u8; 32]> {
    let (mut hash, mut block) = (Sha256::new(), vec![0; BLOCK]);
    loop {
        match file.read(&mut block)? {
            0 => return Ok(hash.finalize().into()),
            read => hash.update(&block[..read]),
        }
    }
}

/// The kind that most weights have.
fn quantisation(content: &Content) -> String {
    let mut sizes: Vec<(GgmlDType, usize)> = Vec::new();
    for tensor in content.tensor_infos.values() {
        let (kind, size) = (tensor.ggml_dtype, tensor.shape.elem_count());
        match sizes.iter_mut().find(|(other, _)| *other == kind) {
            Some((_, sum)) => *sum += size,
            None => sizes.push((kind, size)),
        }
    }
    let most = sizes.into_iter().max_by_key(|(_, size)| *size);
    // Q4K is written Q4_K elsewhere.
    most.map_or_else(|| "none".to_owned(), |(kind, _)| format!("{kind:?}").replace('K', "_K"))
}

/// The file's name without ending and quantisation.
fn id_of(path: &Path, quantisation: &str) -> String {
    let name = path.file_stem().map(|name| name.to_string_lossy().into_owned()).unwrap_or_default();
    let cut = name.to_ascii_uppercase().strip_suffix(quantisation).map(str::len);
    let name = name.get(..cut.unwrap_or(name.len())).unwrap_or_default().trim_end_matches(['.', '-', '_']);
    let mut id: String = name.chars().filter(|c| !c.is_control()).collect();
    while id.len() > MAX_MODEL_BYTES {
        id.pop();
    }
    if id.is_empty() { "model".to_owned() } else { id }
}

/// One answer.
struct Run {
    engine: Arc<Engine>,
    prompt: Zeroizing<Vec<u32>>,
    limit: usize,
    sampler: LogitsProcessor,
    text: Assembler,
    sender: mpsc::Sender<Result<Piece, BackendError>>,
    _held: (OwnedSemaphorePermit, OwnedSemaphorePermit),
}

/// Nobody takes the answer any more.
struct Gone;

/// Why an answer isn't generated to its end.
enum Stop {
    Gone,
    Engine(candle_core::Error),
}

impl From<candle_core::Error> for Stop {
    fn from(error: candle_core::Error) -> Self {
        Self::Engine(error)
    }
}

impl From<Gone> for Stop {
    fn from(_: Gone) -> Self {
        Self::Gone
    }
}

impl Run {
    fn run(mut self, handle: &Handle) {
        let last = match self.generate(handle) {
            Ok(finished) => Ok(finished),
            Err(Stop::Engine(error)) => Err(BackendError::Engine { reason: error.to_string() }),
            Err(Stop::Gone) => return,
        };
        let _ = handle.block_on(self.sender.send(last));
    }

    fn generate(&mut self, handle: &Handle) -> Result<Piece, Stop> {
        let Self { engine, prompt, limit, sampler, text, sender, .. } = self;
        let (mut model, mut position) = engine.begin(prompt);
        let mut logits = None;
        while position < prompt.len() {
            if sender.is_closed() {
                return Err(Stop::Gone);
            }
            let end = (position + STEP).min(prompt.len());
            logits = Some(forward(&mut model, &prompt[position..end], position)?);
            position = end;
        }
        let mut logits = logits.ok_or_else(|| candle_core::Error::Msg("the prompt is empty".to_owned()))?;
        let mut exit = Exit { sender, handle, place: None, unsent: 0 };
        let mut tokens = 0;
        let (reason, rest) = loop {
            let token = sampler.sample(&logits)?;
            if engine.chat.is_end(token) {
                break (FinishReason::Stop, text.end());
            }
            tokens += 1;
            exit.unsent += 1;
            engine.generated.fetch_add(1, Ordering::Relaxed);
            let ready = match text.push(engine.chat.bytes(token)) {
                Text::Ready(ready) => ready,
                Text::Stopped(rest) => break (FinishReason::Stop, rest),
            };
            if tokens >= *limit {
                break (FinishReason::Length, ready + &text.end());
            }
            exit.send(ready)?;
            // Not before the last piece was taken: an answer that isn't paid on is not generated on.
            exit.wait()?;
            logits = forward(&mut model, &[token], position)?;
            position += 1;
        };
        exit.send(rest)?;
        let count = |tokens: usize| u32::try_from(tokens).unwrap_or(u32::MAX);
        Ok(Piece::Finished {
            reason,
            usage: Usage { prompt_tokens: count(prompt.len()), completion_tokens: count(tokens) },
        })
    }
}

/// Where an answer's text goes.
struct Exit<'a> {
    sender: &'a mpsc::Sender<Result<Piece, BackendError>>,
    handle: &'a Handle,
    /// Room for the next piece, when there is some.
    place: Option<mpsc::Permit<'a, Result<Piece, BackendError>>>,
    /// Tokens that are generated and whose text isn't sent.
    unsent: u32,
}

impl Exit<'_> {
    /// Waits for room, and whether the answer is wanted still.
    fn wait(&mut self) -> Result<(), Gone> {
        if self.sender.is_closed() {
            return Err(Gone);
        }
        if self.place.is_none() {
            self.place = Some(self.handle.block_on(self.sender.reserve()).map_err(|_| Gone)?);
        }
        Ok(())
    }

    fn send(&mut self, text: String) -> Result<(), Gone> {
        if !text.is_empty() {
            self.wait()?;
            if let Some(place) = self.place.take() {
                place.send(Ok(Piece::Delta { text, tokens: std::mem::take(&mut self.unsent) }));
            }
        }
        Ok(())
    }
}
