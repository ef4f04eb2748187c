//! Chat completion requests.

use serde::{Deserialize, Serialize};
use serde_json::Value;

use super::ChatError;

/// Messages of a request at most.
const MAX_MESSAGES: usize = 2048;
/// Stop sequences at most, as OpenAI has it, and bytes of each.
const MAX_STOPS: usize = 4;
const MAX_STOP_BYTES: usize = 256;
/// Bytes of a model's id at most.
const MAX_MODEL_BYTES: usize = 128;

/// Who speaks.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Role {
    /// Instructions.
    #[serde(alias = "developer")]
    System,
    /// The user.
    User,
    /// The model.
    Assistant,
}

/// One message.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct ChatMessage {
    /// Who speaks.
    pub role: Role,
    /// What is said.
    pub content: String,
}

/// A prompt, and how it is to be answered.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct ChatRequest {
    /// The model.
    pub model: String,
    /// The conversation so far, at least one message.
    pub messages: Vec<ChatMessage>,
    /// Tokens of the answer at most, at least 1; the model's own limit without.
    pub max_tokens: Option<u32>,
    /// 0 to 2; the model's own without.
    pub temperature: Option<f64>,
    /// Above 0 to 1; the model's own without.
    pub top_p: Option<f64>,
    /// Makes an answer repeatable where the model can.
    pub seed: Option<i64>,
    /// Texts that end the answer, at most 4.
    pub stop: Vec<String>,
}

/// How the answer is sent.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Delivery {
    /// Piece by piece.
    pub(super) stream: bool,
    /// With a last piece that tells the tokens.
    pub(super) usage: bool,
}

#[derive(Debug, Deserialize)]
struct Wire {
    model: String,
    messages: Vec<WireMessage>,
    max_tokens: Option<u64>,
    max_completion_tokens: Option<u64>,
    temperature: Option<f64>,
    top_p: Option<f64>,
    seed: Option<i64>,
    stop: Option<Stop>,
    n: Option<u64>,
    stream: Option<bool>,
    stream_options: Option<StreamOptions>,
    logprobs: Option<bool>,
    top_logprobs: Option<u64>,
    tools: Option<Vec<Value>>,
    functions: Option<Vec<Value>>,
    response_format: Option<Format>,
    modalities: Option<Vec<String>>,
    audio: Option<Value>,
}

#[derive(Debug, Deserialize)]
struct WireMessage {
    role: String,
    content: Option<Content>,
    tool_calls: Option<Vec<Value>>,
}

#[derive(Debug, Deserialize)]
#[serde(untagged)]
enum Content {
    Text(String),
    Parts(Vec<Part>),
}

#[derive(Debug, Deserialize)]
struct Part {
    #[serde(rename = "type")]
    kind: String,
    text: Option<String>,
}

#[derive(Debug, Deserialize)]
#[serde(untagged)]
enum Stop {
    One(String),
    Many(Vec<String>),
}

#[derive(Debug, Deserialize)]
struct StreamOptions {
    include_usage: Option<bool>,
}

#[derive(Debug, Deserialize)]
struct Format {
    #[serde(rename = "type")]
    kind: String,
}

fn invalid(param: &'static str, message: impl Into<String>) -> ChatError {
    ChatError::Invalid { message: message.into(), param: Some(param) }
}

/// Reads a request's body.
pub(super) fn read(body: &[u8]) -> Result<(ChatRequest, Delivery), ChatError> {
    let wire: Wire = serde_json::from_slice(body)
        .map_err(|error| ChatError::Invalid { message: format!("the request can't be read: {error}"), param: None })?;
    wire.refuse_the_impossible()?;
    let delivery = Delivery {
        stream: wire.stream.unwrap_or(false),
        usage: wire.stream_options.as_ref().and_then(|options| options.include_usage).unwrap_or(false),
    };
    Ok((wire.request()?, delivery))
}

impl Wire {
    /// What would change the answer's meaning or form, and isn't offered. Options that only tune it are left out silently (docs: gateway).
    fn refuse_the_impossible(&self) -> Result<(), ChatError> {
        let not_offered = |param, what: &str| Err(invalid(param, format!("{what} not offered: leave {param} out")));
        if let Some(n) = self.n.filter(|n| *n != 1) {
            return Err(invalid("n", format!("n is {n}: one answer is given, ask again for another one")));
        }
        if self.logprobs == Some(true) || self.top_logprobs.is_some_and(|top| top > 0) {
            return not_offered("logprobs", "log probabilities are");
        }
        if self.tools.as_ref().is_some_and(|tools| !tools.is_empty()) {
            return not_offered("tools", "tools are");
        }
        if self.functions.as_ref().is_some_and(|functions| !functions.is_empty()) {
            return not_offered("functions", "functions are");
        }
        if self.response_format.as_ref().is_some_and(|format| format.kind != "text") {
            return not_offered("response_format", "formats other than text are");
        }
        if self.audio.is_some() || self.modalities.as_ref().is_some_and(|all| all.iter().any(|one| one != "text")) {
            return not_offered("modalities", "answers other than text are");
        }
        Ok(())
    }

    fn request(self) -> Result<ChatRequest, ChatError> {
        if self.model.is_empty() || self.model.len() > MAX_MODEL_BYTES {
            return Err(invalid(
                "model",
                format!("model has {} bytes, possible are 1 to {MAX_MODEL_BYTES}", self.model.len()),
            ));
        }
        if self.messages.is_empty() || self.messages.len() > MAX_MESSAGES {
            let count = self.messages.len();
            return Err(invalid("messages", format!("there are {count} messages, possible are 1 to {MAX_MESSAGES}")));
        }
        let in_range = |param, value: Option<f64>, max: f64| match value {
            Some(value) if !(0.0..=max).contains(&value) => {
                Err(invalid(param, format!("{param} is {value}, possible are 0 to {max}")))
            }
            value => Ok(value),
        };
        let (param, tokens) = match self.max_completion_tokens {
            Some(tokens) => ("max_completion_tokens", Some(tokens)),
            None => ("max_tokens", self.max_tokens),
        };
        let max_tokens = tokens.map(|tokens| match u32::try_from(tokens) {
            Ok(tokens) if tokens > 0 => Ok(tokens),
            _ => Err(invalid(param, format!("{param} is {tokens}, possible are 1 to {}", u32::MAX))),
        });
        let stop = match self.stop {
            None => Vec::new(),
            Some(Stop::One(text)) => vec![text],
            Some(Stop::Many(texts)) => texts,
        };
        if stop.len() > MAX_STOPS || stop.iter().any(|text| text.is_empty() || text.len() > MAX_STOP_BYTES) {
            let message = format!("stop may be up to {MAX_STOPS} texts of 1 to {MAX_STOP_BYTES} bytes each");
            return Err(invalid("stop", message));
        }
        Ok(ChatRequest {
            model: self.model,
            messages: self.messages.into_iter().map(WireMessage::message).collect::<Result<_, _>>()?,
            max_tokens: max_tokens.transpose()?,
            temperature: in_range("temperature", self.temperature, 2.0)?,
            top_p: in_range("top_p", self.top_p, 1.0)?,
            seed: self.seed,
            stop,
        })
    }
}

impl WireMessage {
    fn message(self) -> Result<ChatMessage, ChatError> {
        let role = match self.role.as_str() {
            "system" | "developer" => Role::System,
            "user" => Role::User,
            "assistant" => Role::Assistant,
            other => {
                return Err(invalid(
                    "messages",
                    format!("the role '{other}' is not offered: system, developer, user, assistant are"),
                ));
            }
        };
        if self.tool_calls.is_some_and(|calls| !calls.is_empty()) {
            return Err(invalid("messages", "a message has tool_calls: tools are not offered"));
        }
        let content = match self.content {
            None => return Err(invalid("messages", "a message has no content")),
            Some(Content::Text(text)) => text,
            Some(Content::Parts(parts)) => {
                let mut whole = String::new();
                for part in parts {
                    match (part.kind.as_str(), part.text) {
                        ("text", Some(text)) => whole.push_str(&text),
                        (kind, _) => {
                            return Err(invalid(
                                "messages",
                                format!("a part of type '{kind}' can't be sent: text alone"),
                            ));
                        }
                    }
                }
                whole
            }
        };
        Ok(ChatMessage { role, content })
    }
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};

    use super::{ChatError, Role, read};

    fn asked(change: &Value) -> Result<(super::ChatRequest, super::Delivery), ChatError> {
        let mut body = json!({ "model": "m", "messages": [{ "role": "user", "content": "hello" }] });
        for (name, value) in change.as_object().unwrap() {
            body[name] = value.clone();
        }
        read(body.to_string().as_bytes())
    }

    fn refused(change: &Value) -> Option<&'static str> {
        match asked(change) {
            Err(error @ ChatError::Invalid { .. }) => error.param(),
            other => panic!("{change} gave {other:?}"),
        }
    }

    #[test]
    fn options_are_read_and_the_newer_name_of_a_limit_counts() {
        let (request, delivery) = asked(&json!({
            "max_tokens": 5, "max_completion_tokens": 7, "temperature": 0.5, "top_p": 0.9, "seed": -3, "stop": "END", "n": 1,
            "stream": true, "stream_options": { "include_usage": true }, "user": "u", "presence_penalty": 1, "logprobs": false,
            "tools": [], "response_format": { "type": "text" }, "store": false,
        }))
        .unwrap();
        assert_eq!((request.max_tokens, request.seed, request.stop), (Some(7), Some(-3), vec!["END".to_owned()]));
        assert_eq!((request.temperature, request.top_p), (Some(0.5), Some(0.9)));
        assert!(delivery.stream && delivery.usage);
        let (request, delivery) = asked(&json!({})).unwrap();
        assert_eq!((request.max_tokens, request.temperature, request.stop.len()), (None, None, 0));
        assert!(!delivery.stream && !delivery.usage);
    }

    #[test]
    fn text_parts_are_joined_and_developers_are_systems() {
        let (request, _) = asked(&json!({ "messages": [
            { "role": "developer", "content": [{ "type": "text", "text": "a" }, { "type": "text", "text": "b" }] },
        ]}))
        .unwrap();
        assert_eq!((request.messages[0].role, request.messages[0].content.as_str()), (Role::System, "ab"));
    }

    #[test]
    fn what_can_not_be_done_is_refused_with_its_field() {
        assert_eq!(refused(&json!({ "n": 2 })), Some("n"));
        assert_eq!(refused(&json!({ "logprobs": true })), Some("logprobs"));
        assert_eq!(refused(&json!({ "tools": [{}] })), Some("tools"));
        assert_eq!(refused(&json!({ "functions": [{}] })), Some("functions"));
        assert_eq!(refused(&json!({ "response_format": { "type": "json_object" } })), Some("response_format"));
        assert_eq!(refused(&json!({ "modalities": ["text", "audio"] })), Some("modalities"));
        assert_eq!(refused(&json!({ "max_tokens": 0 })), Some("max_tokens"));
        assert_eq!(refused(&json!({ "max_completion_tokens": 1_u64 << 32 })), Some("max_completion_tokens"));
        assert_eq!(refused(&json!({ "temperature": 2.1 })), Some("temperature"));
        assert_eq!(refused(&json!({ "top_p": -0.1 })), Some("top_p"));
        assert_eq!(refused(&json!({ "stop": ["1", "2", "3", "4", "5"] })), Some("stop"));
        assert_eq!(refused(&json!({ "messages": [] })), Some("messages"));
        assert_eq!(refused(&json!({ "messages": [{ "role": "tool", "content": "x" }] })), Some("messages"));
        let image = json!([{ "type": "image_url", "image_url": { "url": "data:" } }]);
        assert_eq!(refused(&json!({ "messages": [{ "role": "user", "content": image }] })), Some("messages"));
        assert_eq!(refused(&json!({ "model": "" })), Some("model"));
        assert_eq!(refused(&json!({ "temperature": "hot" })), None);
    }
}
