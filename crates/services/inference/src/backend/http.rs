//! Any server that speaks OpenAI's chat completions, streaming: vLLM, llama.cpp, Ollama and others.

use std::collections::VecDeque;
use std::fmt;
use std::time::Duration;

use async_trait::async_trait;
use futures::StreamExt as _;
use futures::stream;
use reqwest::{Client, Response, Url, header};
use serde::Deserialize;
use serde_json::json;
use zeroize::Zeroizing;

use super::{Backend, BackendError, Generation, Job, Piece};
use crate::api::{FinishReason, Usage};

/// Bytes of one event of a stream at most.
const MAX_EVENT_BYTES: usize = 64 * 1024;
/// Bytes of a list of models, and of an error's text, at most.
const MAX_BODY_BYTES: usize = 256 * 1024;
/// Bytes of a whole answer for each token that was asked for, at most; generous, since each token comes in an event of its own.
const MAX_STREAM_BYTES_A_TOKEN: u64 = 4096;
/// What an answer may have besides.
const STREAM_ALLOWANCE: u64 = 256 * 1024;

/// Where the server is.
#[derive(Clone)]
pub struct HttpBackendConfig {
    /// Base URL up to and with the version, say `http://127.0.0.1:8000/v1`.
    pub base_url: String,
    /// The model's name there, where it isn't the one in the offer.
    pub model: Option<String>,
    /// Sent as a bearer token.
    pub api_key: Option<Zeroizing<String>>,
    /// Time for a connection.
    pub connect_timeout: Duration,
    /// Longest silence before the first piece: the model may have to be loaded.
    pub first_timeout: Duration,
    /// Longest silence between two pieces.
    pub idle_timeout: Duration,
}

impl fmt::Debug for HttpBackendConfig {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("HttpBackendConfig")
            .field("base_url", &self.base_url)
            .field("model", &self.model)
            .finish_non_exhaustive()
    }
}

impl HttpBackendConfig {
    /// The usual times: 5 s to connect, 120 s to the first piece, 30 s between pieces.
    #[must_use]
    pub fn new(base_url: impl Into<String>) -> Self {
        Self {
            base_url: base_url.into(),
            model: None,
            api_key: None,
            connect_timeout: Duration::from_secs(5),
            first_timeout: Duration::from_secs(120),
            idle_timeout: Duration::from_secs(30),
        }
    }
}

/// Why a server can't be used.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum HttpBackendError {
    /// The URL.
    #[error("{url} is no http or https URL: {reason}")]
    Url {
        /// As configured.
        url: String,
        /// What is wrong.
        reason: String,
    },
    /// The client.
    #[error("no HTTP client can be made: {reason}")]
    Client {
        /// What the library said.
        reason: String,
    },
}

impl HttpBackendError {
    /// The stable code of the error.
    #[must_use]
    pub const fn code(&self) -> &'static str {
        match self {
            Self::Url { .. } => "TRB-N211",
            Self::Client { .. } => "TRB-N212",
        }
    }
}

/// An OpenAI-compatible server.
#[derive(Debug)]
pub struct HttpBackend {
    client: Client,
    base: Url,
    config: HttpBackendConfig,
}

impl HttpBackend {
    /// A backend at this server. Nothing is sent before it is used.
    ///
    /// # Errors
    /// [`HttpBackendError`].
    pub fn new(config: HttpBackendConfig) -> Result<Self, HttpBackendError> {
        let refused = |reason: String| HttpBackendError::Url { url: config.base_url.clone(), reason };
        let base = format!("{}/", config.base_url.trim_end_matches('/'));
        let base = Url::parse(&base).map_err(|error| refused(error.to_string()))?;
        if !matches!(base.scheme(), "http" | "https") {
            return Err(refused(format!("its scheme is {}", base.scheme())));
        }
        // A redirect would carry prompts and key to a server that the operator didn't name.
        let client = Client::builder()
            .connect_timeout(config.connect_timeout)
            .redirect(reqwest::redirect::Policy::none())
            .no_proxy()
            .build()
            .map_err(|error| HttpBackendError::Client { reason: error.to_string() })?;
        Ok(Self { client, base, config })
    }

    fn url(&self, path: &str) -> Result<Url, BackendError> {
        self.base.join(path).map_err(|_| BackendError::Unreachable)
    }

    fn authorised(&self, request: reqwest::RequestBuilder) -> reqwest::RequestBuilder {
        match &self.config.api_key {
            Some(key) => request.bearer_auth(key.as_str()),
            None => request,
        }
    }

    async fn send(&self, request: reqwest::RequestBuilder) -> Result<Response, BackendError> {
        let limit = self.config.first_timeout;
        let response = tokio::time::timeout(limit, self.authorised(request).send())
            .await
            .map_err(|_| BackendError::Silent { limit })?
            .map_err(|error| if error.is_connect() { BackendError::Unreachable } else { BackendError::CutOff })?;
        let status = response.status().as_u16();
        match status {
            200 => Ok(response),
            400 | 413 | 422 => {
                Err(BackendError::BadPrompt { reason: format!("the backend refused it with status {status}") })
            }
            _ => Err(BackendError::Status { status }),
        }
    }
}

#[derive(Deserialize)]
struct ModelList {
    data: Vec<Model>,
}

#[derive(Deserialize)]
struct Model {
    id: String,
}

#[async_trait]
impl Backend for HttpBackend {
    async fn models(&self) -> Result<Vec<String>, BackendError> {
        let mut response = self.send(self.client.get(self.url("models")?)).await?;
        let limit = self.config.idle_timeout;
        let mut body = Vec::new();
        while let Some(chunk) = next(&mut response, limit).await? {
            if body.len() + chunk.len() > MAX_BODY_BYTES {
                return Err(BackendError::Malformed { reason: "the list of models is too long" });
            }
            body.extend_from_slice(&chunk);
        }
        let list: ModelList = serde_json::from_slice(&body)
            .map_err(|_| BackendError::Malformed { reason: "the list of models is no such JSON" })?;
        Ok(list.data.into_iter().map(|model| model.id).collect())
    }

    async fn generate(&self, job: Job) -> Result<Generation, BackendError> {
        let request = &job.request;
        let messages: Vec<_> = request
            .messages
            .iter()
            .map(|message| json!({ "role": message.role.as_str(), "content": message.content }))
            .collect();
        let mut body = json!({
            "model": self.config.model.as_deref().unwrap_or(&request.model),
            "messages": messages,
            "max_tokens": job.max_tokens,
            "stream": true,
            "stream_options": { "include_usage": true },
        });
        if let Some(milli) = request.temperature_milli {
            body["temperature"] = json!(f64::from(milli) / 1000.0);
        }
        if let Some(milli) = request.top_p_milli {
            body["top_p"] = json!(f64::from(milli) / 1000.0);
        }
        if let Some(seed) = request.seed {
            body["seed"] = json!(seed);
        }
        if !request.stop.is_empty() {
            body["stop"] = json!(request.stop);
        }
        let sent = self
            .client
            .post(self.url("chat/completions")?)
            .header(header::CONTENT_TYPE, "application/json")
            .header(header::ACCEPT, "text/event-stream")
            .body(body.to_string());
        let response = self.send(sent).await?;
        let left = u64::from(job.max_tokens) * MAX_STREAM_BYTES_A_TOKEN + STREAM_ALLOWANCE;
        let config = &self.config;
        let reading = Reading {
            response,
            buffer: Vec::new(),
            pieces: VecDeque::new(),
            finish: None,
            usage: Usage::default(),
            tokens: 0,
            left,
            wait: config.first_timeout,
            idle: config.idle_timeout,
            over: false,
        };
        Ok(stream::unfold(reading, |mut reading| async move {
            if reading.over {
                return None;
            }
            let piece = reading.next().await;
            reading.over = !matches!(piece, Ok(Piece::Delta { .. }));
            Some((piece, reading))
        })
        .boxed())
    }
}

async fn next(response: &mut Response, limit: Duration) -> Result<Option<Vec<u8>>, BackendError> {
    match tokio::time::timeout(limit, response.chunk()).await {
        Err(_) => Err(BackendError::Silent { limit }),
        Ok(Err(_)) => Err(BackendError::CutOff),
        Ok(Ok(chunk)) => Ok(chunk.map(|bytes| bytes.to_vec())),
    }
}

/// A stream of events that is being read. Dropping it closes the connection, and the server stops.
struct Reading {
    response: Response,
    buffer: Vec<u8>,
    pieces: VecDeque<(String, u32)>,
    finish: Option<FinishReason>,
    usage: Usage,
    tokens: u32,
    left: u64,
    wait: Duration,
    idle: Duration,
    over: bool,
}

#[derive(Deserialize)]
struct StreamEvent {
    #[serde(default)]
    choices: Vec<Choice>,
    #[serde(default)]
    usage: Option<StreamUsage>,
    #[serde(default)]
    error: Option<serde_json::Value>,
}

#[derive(Deserialize)]
struct Choice {
    #[serde(default)]
    delta: Delta,
    #[serde(default)]
    finish_reason: Option<String>,
}

#[derive(Deserialize, Default)]
struct Delta {
    #[serde(default)]
    content: Option<String>,
}

#[derive(Deserialize)]
struct StreamUsage {
    #[serde(default)]
    prompt_tokens: u32,
    #[serde(default)]
    completion_tokens: u32,
}

/// What an event of the stream was.
enum Read {
    More,
    Done,
}

impl Reading {
    async fn next(&mut self) -> Result<Piece, BackendError> {
        loop {
            if let Some((text, tokens)) = self.pieces.pop_front() {
                return Ok(Piece::Delta { text, tokens });
            }
            if let Some(line) = self.line()? {
                if let Read::Done = self.event(&line)? {
                    return self.finished();
                }
                continue;
            }
            let Some(chunk) = next(&mut self.response, self.wait).await? else {
                // Some servers close after the last event without saying that it was the last.
                return self.finished();
            };
            self.left = self
                .left
                .checked_sub(chunk.len() as u64)
                .ok_or(BackendError::Malformed { reason: "the answer is too long" })?;
            self.buffer.extend_from_slice(&chunk);
        }
    }

    fn finished(&self) -> Result<Piece, BackendError> {
        let reason = self.finish.ok_or(BackendError::CutOff)?;
        let mut usage = self.usage;
        if usage.completion_tokens == 0 {
            usage.completion_tokens = self.tokens;
        }
        Ok(Piece::Finished { reason, usage })
    }

    fn line(&mut self) -> Result<Option<Vec<u8>>, BackendError> {
        let Some(end) = self.buffer.iter().position(|byte| *byte == b'\n') else {
            if self.buffer.len() > MAX_EVENT_BYTES {
                return Err(BackendError::Malformed { reason: "an event is too long" });
            }
            return Ok(None);
        };
        let mut line: Vec<u8> = self.buffer.drain(..=end).collect();
        while line.last().is_some_and(|byte| matches!(byte, b'\n' | b'\r')) {
            line.pop();
        }
        Ok(Some(line))
    }

    fn event(&mut self, line: &[u8]) -> Result<Read, BackendError> {
        let Some(data) = line.strip_prefix(b"data:") else {
            // Comments keep the connection open; empty lines end events.
            return Ok(Read::More);
        };
        let data = data.trim_ascii();
        if data == b"[DONE]" {
            return Ok(Read::Done);
        }
        let event: StreamEvent =
            serde_json::from_slice(data).map_err(|_| BackendError::Malformed { reason: "an event is no such JSON" })?;
        if event.error.is_some() {
            return Err(BackendError::Engine { reason: "it broke off with an error".to_owned() });
        }
        if let Some(usage) = event.usage {
            self.usage = Usage { prompt_tokens: usage.prompt_tokens, completion_tokens: usage.completion_tokens };
        }
        if let Some(choice) = event.choices.into_iter().next() {
            if let Some(text) = choice.delta.content.filter(|text| !text.is_empty()) {
                self.wait = self.idle;
                self.tokens = self.tokens.saturating_add(1);
                self.pieces.push_back((text, 1));
            }
            match choice.finish_reason.as_deref() {
                None => {}
                Some("length") => self.finish = Some(FinishReason::Length),
                Some("content_filter") => self.finish = Some(FinishReason::ContentFilter),
                Some(_) => self.finish = Some(FinishReason::Stop),
            }
        }
        Ok(Read::More)
    }
}
