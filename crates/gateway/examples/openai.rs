//! The OpenAI surface before an OpenAI-compatible server at a fixed address, for the tests with the official client: what goes wrong there is
//! told as it would be of a provider.
//!
//! `openai http://127.0.0.1:PORT TOKEN_FILE` prints one JSON line with the gateway's address, and ends with its standard input.

use std::{path::PathBuf, sync::Arc};

use async_trait::async_trait;
use futures::{StreamExt as _, stream};
use http_body_util::{BodyExt as _, Full, Limited};
use hyper::{
    Method, Request, Response, StatusCode,
    body::{Bytes, Incoming},
    client::conn::http1,
    header::{CONTENT_TYPE, HOST},
};
use hyper_util::rt::TokioIo;
use serde_json::{Map, Value, json};
use tokio::net::TcpStream;
use tributary_gateway::{
    Port, PortSettings, Token,
    openai::{ChatError, ChatEvent, ChatModel, ChatRequest, ChatStream, FinishReason, ModelInfo, OpenAi, TokenUsage},
};
use tributary_market::clock::{Clock, SystemClock};

const MAX_DOCUMENT: usize = 1024 * 1024;

#[derive(Debug)]
struct Behind {
    authority: String,
    clock: SystemClock,
}

fn gone(error: &dyn ToString) -> ChatError {
    ChatError::ProviderGone { reason: error.to_string() }
}

impl Behind {
    async fn ask(&self, method: Method, path: &str, body: Vec<u8>) -> Result<Response<Incoming>, ChatError> {
        let stream = TcpStream::connect(&self.authority).await.map_err(|error| gone(&error))?;
        let (mut sender, connection) = http1::handshake(TokioIo::new(stream)).await.map_err(|error| gone(&error))?;
        tokio::spawn(connection);
        let request = Request::builder()
            .method(method)
            .uri(path)
            .header(HOST, &self.authority)
            .header(CONTENT_TYPE, "application/json")
            .body(Full::new(Bytes::from(body)))
            .map_err(|error| gone(&error))?;
        let answer = sender.send_request(request).await.map_err(|error| gone(&error))?;
        match answer.status() {
            StatusCode::OK => Ok(answer),
            status => Err(refused(status, &document(answer).await?)),
        }
    }
}

async fn document(answer: Response<Incoming>) -> Result<Value, ChatError> {
    let bytes =
        Limited::new(answer.into_body(), MAX_DOCUMENT).collect().await.map_err(|error| gone(&error))?.to_bytes();
    serde_json::from_slice(&bytes).map_err(|error| gone(&error))
}

fn refused(status: StatusCode, said: &Value) -> ChatError {
    let number = |name: &str| u128::from(said[name].as_u64().unwrap_or_default());
    let text = |name: &str| said[name].as_str().unwrap_or_default().to_owned();
    match status {
        StatusCode::PAYMENT_REQUIRED if said.get("needed").is_some() => {
            ChatError::InsufficientFunds { available: number("available"), needed: number("needed") }
        }
        StatusCode::PAYMENT_REQUIRED => ChatError::PaymentRequired { message: text("message") },
        StatusCode::TOO_MANY_REQUESTS => {
            ChatError::CapReached { cap: "--max-per-day", limit: number("limit"), spent: number("spent") }
        }
        StatusCode::NOT_FOUND => ChatError::UnknownModel { model: text("model") },
        StatusCode::SERVICE_UNAVAILABLE => ChatError::Unavailable { reason: text("message") },
        status => ChatError::ProviderFailed { reason: format!("status {status}") },
    }
}

#[async_trait]
impl ChatModel for Behind {
    async fn models(&self) -> Result<Vec<ModelInfo>, ChatError> {
        let known = document(self.ask(Method::GET, "/v1/models", Vec::new()).await?).await?;
        let model = |entry: &Value| ModelInfo {
            id: entry["id"].as_str().unwrap_or_default().to_owned(),
            created: entry["created"].as_u64().unwrap_or_default(),
            owned_by: entry["owned_by"].as_str().unwrap_or_default().to_owned(),
            details: Map::new(),
        };
        Ok(known["data"].as_array().into_iter().flatten().map(model).collect())
    }

    async fn chat(&self, request: ChatRequest) -> Result<ChatStream, ChatError> {
        let mut body = json!(request);
        body["stream"] = true.into();
        body["stream_options"] = json!({ "include_usage": true });
        let answer = self.ask(Method::POST, "/v1/chat/completions", body.to_string().into_bytes()).await?;
        let reading = (answer.into_body(), Vec::new());
        let events = stream::unfold(Some(reading), |reading| async {
            let (mut body, mut waiting): (Incoming, Vec<u8>) = reading?;
            loop {
                if let Some(end) = waiting.windows(2).position(|pair| pair == b"\n\n") {
                    let line: Vec<u8> = waiting.drain(..end + 2).collect();
                    return Some((Ok(events(&line)), Some((body, waiting))));
                }
                match body.frame().await? {
                    Ok(frame) => waiting.extend_from_slice(frame.data_ref().map_or(&[], |data| &data[..])),
                    Err(error) => return Some((Err(gone(&error)), None)),
                }
            }
        });
        let flat = events.flat_map(|events| match events {
            Ok(events) => stream::iter(events.into_iter().map(Ok).collect::<Vec<_>>()),
            Err(error) => stream::iter(vec![Err(error)]),
        });
        Ok(flat.boxed())
    }

    fn clock(&self) -> &dyn Clock {
        &self.clock
    }
}

fn events(line: &[u8]) -> Vec<ChatEvent> {
    let Some(Ok(piece)) = line.strip_prefix(b"data: ").map(serde_json::from_slice::<Value>) else { return Vec::new() };
    let mut events = Vec::new();
    let choice = &piece["choices"][0];
    if let Some(text) = choice["delta"]["content"].as_str().filter(|text| !text.is_empty()) {
        events.push(ChatEvent::Delta(text.to_owned()));
    }
    match choice["finish_reason"].as_str() {
        Some("length") => events.push(ChatEvent::Finish(FinishReason::Length)),
        Some(_) => events.push(ChatEvent::Finish(FinishReason::Stop)),
        None => {}
    }
    if let (Some(prompt), Some(completion)) =
        (piece["usage"]["prompt_tokens"].as_u64(), piece["usage"]["completion_tokens"].as_u64())
    {
        events.push(ChatEvent::Usage(TokenUsage { prompt, completion }));
    }
    events
}

#[tokio::main]
async fn main() -> Result<(), Box<dyn std::error::Error>> {
    let mut arguments = std::env::args().skip(1);
    let (Some(url), Some(token)) = (arguments.next(), arguments.next()) else {
        return Err("usage: openai http://127.0.0.1:PORT TOKEN_FILE".into());
    };
    let authority = url.strip_prefix("http://").ok_or("the server is not at http://")?.to_owned();
    let token = Token::create(PathBuf::from(token))?;
    let surface = OpenAi::new(Arc::new(Behind { authority, clock: SystemClock }));
    let settings = PortSettings { listen: "127.0.0.1:0".parse()?, origins: ["https://app.example".to_owned()].into() };
    let port = Port::open(settings, token.secret(), vec![Arc::new(surface)]).await?;
    println!("{}", json!({ "url": format!("http://{}", port.address()) }));
    port.serve(async {
        let closed = tokio::task::spawn_blocking(|| std::io::copy(&mut std::io::stdin(), &mut std::io::sink()));
        let _ = closed.await;
    })
    .await;
    Ok(())
}
