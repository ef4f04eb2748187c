//! The surface.

use std::sync::Arc;

use async_trait::async_trait;
use futures::{StreamExt as _, stream};
use hyper::{
    Method, Request, StatusCode,
    body::Bytes,
    header::{CACHE_CONTROL, CONTENT_TYPE, HeaderValue},
};
use rand::{RngCore as _, rngs::OsRng};
use serde_json::{Value, json};

use super::{
    ChatError, ChatEvent, ChatModel, ChatStream, FinishReason, ModelInfo, TokenUsage, error,
    request::{self, Delivery},
};
use crate::{
    body::{Answer, Broken, document, streamed},
    port::{PortError, Surface},
};

/// Bytes of a request's body at most. A prompt that fills the longest contexts has about a megabyte.
const MAX_BODY: usize = 4 * 1024 * 1024;
/// Bytes of an answer that is gathered before it is sent, at most.
const MAX_ANSWER_BYTES: usize = 8 * 1024 * 1024;

/// An OpenAI-compatible server under `/v1`.
#[derive(Debug)]
pub struct OpenAi {
    model: Arc<dyn ChatModel>,
}

impl OpenAi {
    /// Answers by `model`.
    #[must_use]
    pub const fn new(model: Arc<dyn ChatModel>) -> Self {
        Self { model }
    }

    async fn answer(&self, request: &Request<Bytes>) -> Result<Answer, ChatError> {
        let path = request.uri().path();
        let rest = path.strip_prefix(self.prefix()).unwrap_or(path);
        let take = |path, allowed: Method, name| {
            if *request.method() == allowed { Ok(()) } else { Err(ChatError::Method { path, allowed: name }) }
        };
        match rest {
            "/models" => {
                take("models", Method::GET, "GET")?;
                let data: Vec<Value> = self.model.models().await?.iter().map(shown).collect();
                Ok(document(StatusCode::OK, &json!({ "object": "list", "data": data })))
            }
            "/chat/completions" => {
                take("chat/completions", Method::POST, "POST")?;
                self.chat(request.body()).await
            }
            _ => {
                let id = rest.strip_prefix("/models/").ok_or(ChatError::NoSuchPath)?;
                take("models", Method::GET, "GET")?;
                let id = percent_decoded(id).ok_or(ChatError::NoSuchPath)?;
                let known = self.model.models().await?.into_iter().find(|model| model.id == id);
                Ok(document(StatusCode::OK, &shown(&known.ok_or(ChatError::UnknownModel { model: id })?)))
            }
        }
    }

    async fn chat(&self, body: &[u8]) -> Result<Answer, ChatError> {
        let (request, delivery) = request::read(body)?;
        let head = Head::new(request.model.clone(), self.model.clock().now().get());
        let mut events = self.model.chat(request).await?;
        if !delivery.stream {
            return Ok(document(StatusCode::OK, &gather(&head, events).await?));
        }
        // What fails before the first piece can still have a status of its own.
        let first = events.next().await.unwrap_or_else(|| Err(broken_off()))?;
        let events = stream::iter([Ok(first)]).chain(events).boxed();
        let mut answer = Answer::new(streamed(pieces(head, delivery, events)));
        let headers = answer.headers_mut();
        headers.insert(CONTENT_TYPE, HeaderValue::from_static("text/event-stream; charset=utf-8"));
        headers.insert(CACHE_CONTROL, HeaderValue::from_static("no-store"));
        Ok(answer)
    }
}

#[async_trait]
impl Surface for OpenAi {
    fn prefix(&self) -> &str {
        "/v1"
    }

    fn max_body(&self) -> usize {
        MAX_BODY
    }

    async fn handle(&self, request: Request<Bytes>) -> Answer {
        self.answer(&request).await.unwrap_or_else(|error| {
            tracing::debug!(code = error.code(), %error, "a prompt was not answered");
            error.answer()
        })
    }

    fn refuse(&self, error: &PortError) -> Answer {
        error::of_port(error)
    }
}

fn broken_off() -> ChatError {
    ChatError::ProviderGone { reason: "the answer ended before its end".into() }
}

fn shown(model: &ModelInfo) -> Value {
    json!({
        "id": model.id, "object": "model", "created": model.created, "owned_by": model.owned_by, "tributary": model.details,
    })
}

/// What all pieces of one answer have in common.
struct Head {
    id: String,
    created: u64,
    model: String,
}

impl Head {
    fn new(model: String, created: u64) -> Self {
        let mut id = [0; 12];
        OsRng.fill_bytes(&mut id);
        Self { id: format!("chatcmpl-{}", hex::encode(id)), created, model }
    }

    fn of(&self, object: &str, choices: &Value) -> Value {
        json!({ "id": self.id, "object": object, "created": self.created, "model": self.model, "choices": choices })
    }

    fn piece(&self, delta: &Value, finish: Option<FinishReason>) -> Value {
        let choice = json!({ "index": 0, "delta": delta, "logprobs": null, "finish_reason": finish });
        self.of("chat.completion.chunk", &json!([choice]))
    }
}

fn usage(usage: TokenUsage) -> Value {
    json!({
        "prompt_tokens": usage.prompt, "completion_tokens": usage.completion,
        "total_tokens": usage.prompt.saturating_add(usage.completion),
    })
}

async fn gather(head: &Head, mut events: ChatStream) -> Result<Value, ChatError> {
    let mut text = String::new();
    let mut finish = None;
    let mut counted = None;
    while let Some(event) = events.next().await {
        match event? {
            ChatEvent::Delta(more) => text.push_str(&more),
            ChatEvent::Usage(tokens) => counted = Some(tokens),
            ChatEvent::Finish(reason) => finish = Some(reason),
        }
        if text.len() > MAX_ANSWER_BYTES {
            let reason = format!("its answer is longer than {MAX_ANSWER_BYTES} bytes");
            return Err(ChatError::ProviderFailed { reason });
        }
    }
    let finish = finish.ok_or_else(broken_off)?;
    let message = json!({ "role": "assistant", "content": text, "refusal": null });
    let choice = json!({ "index": 0, "message": message, "logprobs": null, "finish_reason": finish });
    let mut whole = head.of("chat.completion", &json!([choice]));
    if let Some(tokens) = counted {
        whole["usage"] = usage(tokens);
    }
    Ok(whole)
}

/// Where a streamed answer is.
struct Going {
    head: Head,
    delivery: Delivery,
    events: ChatStream,
    counted: Option<TokenUsage>,
    finished: bool,
    begun: bool,
}

fn pieces(
    head: Head,
    delivery: Delivery,
    events: ChatStream,
) -> impl futures::Stream<Item = Result<Bytes, Broken>> + Send + 'static {
    let going = Going { head, delivery, events, counted: None, finished: false, begun: false };
    stream::unfold(Some(going), |going| async move {
        let mut going = going?;
        let mut out = String::new();
        if !going.begun {
            going.begun = true;
            write(&mut out, &going.head.piece(&json!({ "role": "assistant", "content": "" }), None));
        }
        loop {
            match going.events.next().await {
                Some(Ok(ChatEvent::Delta(text))) => {
                    write(&mut out, &going.head.piece(&json!({ "content": text }), None));
                    return Some((Ok(Bytes::from(out)), Some(going)));
                }
                Some(Ok(ChatEvent::Finish(reason))) => {
                    going.finished = true;
                    write(&mut out, &going.head.piece(&json!({}), Some(reason)));
                    return Some((Ok(Bytes::from(out)), Some(going)));
                }
                Some(Ok(ChatEvent::Usage(tokens))) => going.counted = Some(tokens),
                Some(Err(error)) => return Some((Ok(failed(out, &error)), None)),
                None if !going.finished => return Some((Ok(failed(out, &broken_off())), None)),
                None => {
                    if going.delivery.usage {
                        let mut last = going.head.of("chat.completion.chunk", &json!([]));
                        last["usage"] = going.counted.map_or(Value::Null, usage);
                        write(&mut out, &last);
                    }
                    out.push_str("data: [DONE]\n\n");
                    return Some((Ok(Bytes::from(out)), None));
                }
            }
        }
    })
}

fn failed(mut out: String, error: &ChatError) -> Bytes {
    tracing::debug!(code = error.code(), %error, "an answer broke off");
    write(&mut out, &error.body());
    Bytes::from(out)
}

fn write(out: &mut String, value: &Value) {
    out.push_str("data: ");
    out.push_str(&value.to_string());
    out.push_str("\n\n");
}

fn percent_decoded(text: &str) -> Option<String> {
    let mut bytes = Vec::with_capacity(text.len());
    let mut rest = text.as_bytes();
    while let Some((&first, after)) = rest.split_first() {
        if first == b'%' {
            let digits = std::str::from_utf8(after.get(..2)?).ok()?;
            bytes.push(u8::from_str_radix(digits, 16).ok()?);
            rest = &after[2..];
        } else {
            bytes.push(first);
            rest = after;
        }
    }
    String::from_utf8(bytes).ok()
}
