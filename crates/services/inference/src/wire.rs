//! Messages between buyer and provider, decoded within bounds.

use std::fmt;

use prost::Message as _;
use rand::{CryptoRng, RngCore};
use serde::{Deserialize, Serialize};
use tributary_market::rpc::MAX_LIFETIME;
use tributary_market::sealed::{self, EncryptionKey, EncryptionSecret, SealedError};
use tributary_market::topics::ContentTopic;
use tributary_market::wire::{self, WireError};
use tributary_protocol::UnixTime;

use crate::api::{ChatMessage, ChatRequest, FinishReason, Role, Usage};
use crate::credit::{CreditKey, SignedCredit};
use crate::proto;

/// Messages of one prompt at most.
pub const MAX_MESSAGES: usize = 128;
/// Bytes of a model's name at most.
pub const MAX_MODEL_BYTES: usize = 128;
/// Bytes of all of a prompt's contents at most: what fits a sealed box together with a ticket.
pub const MAX_PROMPT_BYTES: usize = 120 * 1024;
/// Stop texts at most.
pub const MAX_STOPS: usize = 4;
/// Bytes of a stop text at most.
pub const MAX_STOP_BYTES: usize = 64;
/// Highest temperature, thousandths.
pub const MAX_TEMPERATURE_MILLI: u32 = 2000;
/// Highest share of the likeliest tokens, thousandths.
pub const MAX_TOP_P_MILLI: u32 = 1000;
/// Bytes of text in one chunk at most: every chunk fits the smallest sealed box, so all chunks are of one size on the wire.
pub const MAX_CHUNK_TEXT: usize = 768;
/// Chunks in one answer on a direct stream at most.
pub const MAX_CHUNKS: usize = 32;
/// Bytes of a reason at most.
pub const MAX_REASON_BYTES: usize = 256;
/// Seconds that clocks may differ.
const CLOCK_SKEW: u64 = 60;

const REQUEST_CONTEXT: &[u8] = b"tributary.inference.request.v1";
const CHUNK_CONTEXT: &[u8] = b"tributary.inference.chunk.v1";

/// Names one answer. Random, and known to nobody but its buyer and its provider.
#[derive(Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct AnswerId([u8; 16]);

impl AnswerId {
    /// A new one.
    pub fn random<R: RngCore + CryptoRng>(rng: &mut R) -> Self {
        let mut id = [0; 16];
        rng.fill_bytes(&mut id);
        Self(id)
    }

    fn read(bytes: &[u8]) -> Result<Self, WireError> {
        wire::fixed("answer_id", bytes).map(Self)
    }

    fn to_vec(self) -> Vec<u8> {
        self.0.to_vec()
    }
}

impl fmt::Debug for AnswerId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("AnswerId")
    }
}

/// How a prompt or a slice is paid, or what is asked about an answer.
#[derive(Clone, PartialEq)]
pub enum Act {
    /// A `PaidRequest` around a [`Prompt`].
    PaidPrompt(Vec<u8>),
    /// A prompt that a credit pays for.
    CreditedPrompt(Redemption),
    /// A [`Prompt`] from the free tier.
    FreePrompt(Vec<u8>),
    /// A `PaidRequest` around a [`SlicePayment`].
    PaidSlice(Vec<u8>),
    /// Send what is there.
    Resume,
    /// Stop generating.
    Stop,
}

impl fmt::Debug for Act {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::PaidPrompt(_) => "PaidPrompt",
            Self::CreditedPrompt(_) => "CreditedPrompt",
            Self::FreePrompt(_) => "FreePrompt",
            Self::PaidSlice(_) => "PaidSlice",
            Self::Resume => "Resume",
            Self::Stop => "Stop",
        })
    }
}

/// A credit and the prompt that it pays for.
#[derive(Clone, PartialEq, Eq)]
pub struct Redemption {
    /// The credit.
    pub credit: SignedCredit,
    /// By the credit's key.
    pub signature: [u8; 64],
    /// A [`Prompt`], encoded.
    pub prompt: Vec<u8>,
}

impl std::fmt::Debug for Redemption {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Redemption").finish_non_exhaustive()
    }
}

/// What a buyer sends.
#[derive(Debug, Clone, PartialEq)]
pub struct Request {
    /// The answer that it is about.
    pub answer: AnswerId,
    /// Key that chunks are sealed to.
    pub reply_key: EncryptionKey,
    /// Where chunks are published; `None` on a direct stream.
    pub reply_topic: Option<ContentTopic>,
    /// Dropped after this time.
    pub expires_at: UnixTime,
    /// First chunk that the buyer doesn't have.
    pub next: u32,
    /// What is asked.
    pub act: Act,
}

impl Request {
    /// Seals it to a provider's key.
    ///
    /// # Errors
    /// [`SealedError`].
    pub fn seal<R: RngCore + CryptoRng>(&self, key: &EncryptionKey, rng: &mut R) -> Result<Vec<u8>, SealedError> {
        use proto::request::Act as Wire;
        let act = match &self.act {
            Act::PaidPrompt(paid) => Wire::PaidPrompt(paid.clone()),
            Act::CreditedPrompt(redemption) => Wire::CreditedPrompt(proto::CreditedPrompt {
                credit: Some(redemption.credit.to_proto()),
                signature: redemption.signature.to_vec(),
                prompt: redemption.prompt.clone(),
            }),
            Act::FreePrompt(prompt) => Wire::FreePrompt(prompt.clone()),
            Act::PaidSlice(paid) => Wire::PaidSlice(paid.clone()),
            Act::Resume => Wire::Resume(true),
            Act::Stop => Wire::Stop(true),
        };
        let plain = proto::Request {
            version: 1,
            answer_id: self.answer.to_vec(),
            reply_key: self.reply_key.as_bytes().to_vec(),
            reply_topic: self.reply_topic.as_ref().map(ToString::to_string).unwrap_or_default(),
            expires_at: self.expires_at.get(),
            next: self.next,
            act: Some(act),
        };
        sealed::seal(key, REQUEST_CONTEXT, &plain.encode_to_vec(), rng)
    }

    /// Opens a sealed request at `now`.
    ///
    /// # Errors
    /// [`OpenError`]; the message is dropped then.
    pub fn open(secret: &EncryptionSecret, sealed: &[u8], now: UnixTime) -> Result<Self, OpenError> {
        use proto::request::Act as Wire;
        let plain = secret.open(REQUEST_CONTEXT, sealed)?;
        let request: proto::Request = wire::decode("inference request", &plain, sealed::MAX_MESSAGE)?;
        wire::check_version("inference request", request.version)?;
        let now = now.get();
        wire::in_range(
            "expires_at",
            request.expires_at,
            now.saturating_sub(CLOCK_SKEW),
            now + MAX_LIFETIME + CLOCK_SKEW,
        )?;
        let act = match request.act.ok_or(WireError::Missing { field: "act" })? {
            Wire::PaidPrompt(paid) => Act::PaidPrompt(paid),
            Wire::CreditedPrompt(credited) => Act::CreditedPrompt(Redemption {
                credit: SignedCredit::from_proto(credited.credit.ok_or(WireError::Missing { field: "credit" })?)?,
                signature: wire::fixed("signature", &credited.signature)?,
                prompt: credited.prompt,
            }),
            Wire::FreePrompt(prompt) => Act::FreePrompt(prompt),
            Wire::PaidSlice(paid) => Act::PaidSlice(paid),
            Wire::Resume(_) => Act::Resume,
            Wire::Stop(_) => Act::Stop,
        };
        Ok(Self {
            answer: AnswerId::read(&request.answer_id)?,
            reply_key: EncryptionKey::from_bytes("reply_key", &request.reply_key)?,
            reply_topic: match request.reply_topic.as_str() {
                "" => None,
                topic => Some(ContentTopic::parse_reply(topic)?),
            },
            expires_at: UnixTime::new(request.expires_at).map_err(|error| invalid("expires_at", &error))?,
            next: request.next,
            act,
        })
    }
}

fn invalid(field: &'static str, reason: &dyn fmt::Display) -> WireError {
    WireError::Invalid { field, reason: reason.to_string() }
}

/// Why a sealed message was dropped.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum OpenError {
    /// It can't be opened.
    #[error(transparent)]
    Sealed(#[from] SealedError),
    /// Its content is malformed.
    #[error(transparent)]
    Wire(#[from] WireError),
}

impl OpenError {
    /// The stable code of the error.
    #[must_use]
    pub const fn code(&self) -> &'static str {
        match self {
            Self::Sealed(error) => error.code(),
            Self::Wire(error) => error.code(),
        }
    }
}

/// A prompt as it is paid for.
#[derive(Clone, PartialEq)]
pub struct Prompt {
    /// The answer that it asks for.
    pub answer: AnswerId,
    /// What is asked.
    pub request: ChatRequest,
    /// Tokens of the answer at most.
    pub max_tokens: u32,
    /// Whom a credit is made out to.
    pub credit_key: CreditKey,
}

impl fmt::Debug for Prompt {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Prompt")
    }
}

impl Prompt {
    /// Its bytes.
    #[must_use]
    pub fn encode(&self) -> Vec<u8> {
        let message = |message: &ChatMessage| proto::Message {
            role: message.role.as_str().to_owned(),
            content: message.content.clone(),
        };
        proto::Prompt {
            version: 1,
            answer_id: self.answer.to_vec(),
            model: self.request.model.clone(),
            messages: self.request.messages.iter().map(message).collect(),
            max_tokens: self.max_tokens,
            temperature_milli: self.request.temperature_milli,
            top_p_milli: self.request.top_p_milli,
            seed: self.request.seed,
            stop: self.request.stop.clone(),
            credit_key: self.credit_key.as_bytes().to_vec(),
        }
        .encode_to_vec()
    }

    /// Reads a prompt and checks its bounds.
    ///
    /// # Errors
    /// [`WireError`].
    pub fn decode(bytes: &[u8]) -> Result<Self, WireError> {
        let prompt: proto::Prompt = wire::decode("prompt", bytes, sealed::MAX_MESSAGE)?;
        wire::check_version("prompt", prompt.version)?;
        let message = |message: proto::Message| {
            let role = Role::from_name(&message.role).ok_or_else(|| invalid("role", &"no known role"))?;
            Ok(ChatMessage { role, content: message.content })
        };
        let messages = prompt.messages.into_iter().map(message).collect::<Result<Vec<_>, WireError>>()?;
        let decoded = Self {
            answer: AnswerId::read(&prompt.answer_id)?,
            request: ChatRequest {
                model: prompt.model,
                messages,
                max_tokens: Some(prompt.max_tokens),
                temperature_milli: prompt.temperature_milli,
                top_p_milli: prompt.top_p_milli,
                seed: prompt.seed,
                stop: prompt.stop,
            },
            max_tokens: prompt.max_tokens,
            credit_key: CreditKey::from_bytes(&prompt.credit_key)?,
        };
        check(&decoded.request)?;
        wire::in_range("max_tokens", decoded.max_tokens.into(), 1, u32::MAX.into())?;
        Ok(decoded)
    }
}

/// Checks the bounds of a chat request.
///
/// # Errors
/// [`WireError`].
pub fn check(request: &ChatRequest) -> Result<(), WireError> {
    wire::in_range("messages", request.messages.len() as u64, 1, MAX_MESSAGES as u64)?;
    wire::in_range("model", request.model.len() as u64, 1, MAX_MODEL_BYTES as u64)?;
    let bytes: usize = request.messages.iter().map(|message| message.content.len()).sum();
    wire::in_range("content", bytes as u64, 0, MAX_PROMPT_BYTES as u64)?;
    wire::in_range("stop", request.stop.len() as u64, 0, MAX_STOPS as u64)?;
    for stop in &request.stop {
        wire::in_range("stop", stop.len() as u64, 1, MAX_STOP_BYTES as u64)?;
    }
    let temperature = request.temperature_milli.unwrap_or_default();
    wire::in_range("temperature_milli", temperature.into(), 0, MAX_TEMPERATURE_MILLI.into())?;
    if let Some(top_p) = request.top_p_milli {
        wire::in_range("top_p_milli", top_p.into(), 1, MAX_TOP_P_MILLI.into())?;
    }
    Ok(())
}

/// What pays for a slice.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct SlicePayment {
    /// The answer.
    pub answer: AnswerId,
    /// The slice: 1 is the one after the prompt's own.
    pub slice: u32,
}

impl SlicePayment {
    /// Its bytes.
    #[must_use]
    pub fn encode(self) -> Vec<u8> {
        proto::SlicePayment { version: 1, answer_id: self.answer.to_vec(), slice: self.slice }.encode_to_vec()
    }

    /// Reads it.
    ///
    /// # Errors
    /// [`WireError`].
    pub fn decode(bytes: &[u8]) -> Result<Self, WireError> {
        let payment: proto::SlicePayment = wire::decode("slice payment", bytes, 64)?;
        wire::check_version("slice payment", payment.version)?;
        Ok(Self { answer: AnswerId::read(&payment.answer_id)?, slice: payment.slice })
    }
}

/// What went wrong at the provider.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum FailureCode {
    /// The backend answered with an error.
    BackendFailed,
    /// The backend said nothing for too long.
    BackendSilent,
    /// The backend's answer ended in the middle.
    CutOff,
    /// The backend's answer was empty.
    Empty,
    /// The prompt can't be answered as it is.
    BadPrompt,
    /// Too many answers are at work; nothing was spent.
    Busy,
    /// The provider itself.
    Internal,
}

impl FailureCode {
    const ALL: [Self; 7] = [
        Self::BackendFailed,
        Self::BackendSilent,
        Self::CutOff,
        Self::Empty,
        Self::BadPrompt,
        Self::Busy,
        Self::Internal,
    ];

    /// Its number on the wire.
    #[must_use]
    pub fn to_wire(self) -> u32 {
        Self::ALL.iter().position(|code| *code == self).map_or(7, |at| at as u32 + 1)
    }

    /// The code of this number; unknown ones count as [`Self::Internal`].
    #[must_use]
    pub fn from_wire(number: u32) -> Self {
        (number as usize).checked_sub(1).and_then(|at| Self::ALL.get(at)).copied().unwrap_or(Self::Internal)
    }

    /// A name for people and programs.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::BackendFailed => "backend_failed",
            Self::BackendSilent => "backend_silent",
            Self::CutOff => "cut_off",
            Self::Empty => "empty",
            Self::BadPrompt => "bad_prompt",
            Self::Busy => "busy",
            Self::Internal => "internal",
        }
    }
}

impl fmt::Display for FailureCode {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

/// What a chunk says.
#[derive(Clone, PartialEq, Eq)]
pub enum Event {
    /// The payment was taken.
    Accepted {
        /// Tickets that were spent.
        tickets: u32,
    },
    /// More text.
    Text {
        /// The text, at most [`MAX_CHUNK_TEXT`] bytes.
        text: String,
        /// Tokens that it stands for.
        tokens: u32,
    },
    /// The next slice is to be paid.
    SliceEnd {
        /// Its number.
        slice: u32,
        /// Its tickets.
        tickets: u32,
        /// How long the provider waits, seconds.
        wait: u32,
    },
    /// The answer is complete.
    Finished {
        /// Why.
        reason: FinishReason,
        /// What was counted.
        usage: Usage,
    },
    /// The payment was refused.
    Refused {
        /// As in `EligibilityStatus`.
        status: u32,
        /// As in `EligibilityStatus`.
        description: String,
    },
    /// No whole answer comes.
    Failed {
        /// Why.
        code: FailureCode,
        /// In words.
        reason: String,
        /// For tickets that were spent in vain.
        credit: Option<SignedCredit>,
    },
    /// Nothing new yet.
    Pending,
    /// The answer isn't known here.
    Unknown,
}

impl Event {
    /// Whether nothing follows it.
    #[must_use]
    pub const fn is_last(&self) -> bool {
        matches!(self, Self::Finished { .. } | Self::Refused { .. } | Self::Failed { .. } | Self::Unknown)
    }
}

impl fmt::Debug for Event {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Accepted { .. } => "Accepted",
            Self::Text { .. } => "Text",
            Self::SliceEnd { .. } => "SliceEnd",
            Self::Finished { .. } => "Finished",
            Self::Refused { .. } => "Refused",
            Self::Failed { .. } => "Failed",
            Self::Pending => "Pending",
            Self::Unknown => "Unknown",
        })
    }
}

/// A piece of an answer on the wire.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Chunk {
    /// The answer.
    pub answer: AnswerId,
    /// Its place; of [`Event::Pending`] the next one's.
    pub index: u32,
    /// What it says.
    pub event: Event,
}

impl Chunk {
    /// Seals it to a reply key.
    ///
    /// # Errors
    /// [`SealedError`].
    pub fn seal<R: RngCore + CryptoRng>(&self, key: &EncryptionKey, rng: &mut R) -> Result<Vec<u8>, SealedError> {
        use proto::chunk::Event as Wire;
        let event = match &self.event {
            Event::Accepted { tickets } => Wire::Accepted(proto::Accepted { tickets: *tickets }),
            Event::Text { text, tokens } => Wire::Text(proto::Text { text: text.clone(), tokens: *tokens }),
            Event::SliceEnd { slice, tickets, wait } => {
                Wire::SliceEnd(proto::SliceEnd { slice: *slice, tickets: *tickets, wait: *wait })
            }
            Event::Finished { reason, usage } => Wire::Finished(proto::Finished {
                reason: reason.to_wire(),
                prompt_tokens: usage.prompt_tokens,
                completion_tokens: usage.completion_tokens,
            }),
            Event::Refused { status, description } => {
                Wire::Refused(proto::Refused { status_code: *status, status_desc: bounded(description) })
            }
            Event::Failed { code, reason, credit } => Wire::Failed(proto::Failed {
                code: code.to_wire(),
                reason: bounded(reason),
                credit: credit.as_ref().map(SignedCredit::to_proto),
            }),
            Event::Pending => Wire::Pending(true),
            Event::Unknown => Wire::Unknown(true),
        };
        let plain = proto::Chunk { version: 1, answer_id: self.answer.to_vec(), index: self.index, event: Some(event) };
        sealed::seal(key, CHUNK_CONTEXT, &plain.encode_to_vec(), rng)
    }

    /// Opens a sealed chunk of this answer.
    ///
    /// # Errors
    /// [`OpenError`]; the message is skipped then.
    pub fn open(secret: &EncryptionSecret, answer: AnswerId, sealed: &[u8]) -> Result<Self, OpenError> {
        use proto::chunk::Event as Wire;
        let plain = secret.open(CHUNK_CONTEXT, sealed)?;
        let chunk: proto::Chunk = wire::decode("answer chunk", &plain, sealed::MAX_MESSAGE)?;
        wire::check_version("answer chunk", chunk.version)?;
        if AnswerId::read(&chunk.answer_id)? != answer {
            return Err(invalid("answer_id", &"of another answer").into());
        }
        let event = match chunk.event.ok_or(WireError::Missing { field: "event" })? {
            Wire::Accepted(accepted) => Event::Accepted { tickets: accepted.tickets },
            Wire::Text(text) => {
                wire::in_range("text", text.text.len() as u64, 0, MAX_CHUNK_TEXT as u64)?;
                Event::Text { text: text.text, tokens: text.tokens }
            }
            Wire::SliceEnd(end) => Event::SliceEnd { slice: end.slice, tickets: end.tickets, wait: end.wait },
            Wire::Finished(finished) => Event::Finished {
                reason: FinishReason::from_wire(finished.reason)
                    .ok_or_else(|| invalid("reason", &"no known reason"))?,
                usage: Usage { prompt_tokens: finished.prompt_tokens, completion_tokens: finished.completion_tokens },
            },
            Wire::Refused(refused) => Event::Refused {
                status: refused.status_code,
                description: wire::text("status_desc", &refused.status_desc, MAX_REASON_BYTES)?,
            },
            Wire::Failed(failed) => Event::Failed {
                code: FailureCode::from_wire(failed.code),
                reason: wire::text("reason", &failed.reason, MAX_REASON_BYTES)?,
                credit: failed.credit.map(SignedCredit::from_proto).transpose()?,
            },
            Wire::Pending(_) => Event::Pending,
            Wire::Unknown(_) => Event::Unknown,
        };
        Ok(Self { answer, index: chunk.index, event })
    }
}

/// At most [`MAX_REASON_BYTES`] of a text, without control characters.
fn bounded(text: &str) -> String {
    let mut out = String::new();
    for c in text.chars().filter(|c| !c.is_control()) {
        if out.len() + c.len_utf8() > MAX_REASON_BYTES {
            break;
        }
        out.push(c);
    }
    out
}
