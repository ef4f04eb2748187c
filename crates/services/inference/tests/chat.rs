//! Prompts bought over Waku relay and over direct streams: real nodes, a real HTTP server behind the provider, proofs that really verify.

#[path = "../../../provider/tests/common/mod.rs"]
mod common;
mod market;
#[path = "unlinkable/mod.rs"]
mod unlinkable;

use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use futures::StreamExt as _;
use market::{Buyer, node, within};
use parking_lot::Mutex;
use serde_json::{Value, json};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::{TcpListener, TcpStream};
use tributary_service_inference::backend::{HttpBackend, HttpBackendConfig};
use tributary_service_inference::{
    ChatEvent, ChatRequest, FailureCode, FinishReason, InferenceError, Sale, SpendingCaps, Transport, Usage,
};

const MODEL: &str = "counting-model";
/// Tokens of one slice.
const SLICE: u32 = 8;

/// An OpenAI-compatible server that counts: a prompt "count 20" is answered by twenty words, a piece each. What it is asked is kept.
struct Model {
    address: SocketAddr,
    asked: Arc<Mutex<Vec<Value>>>,
    sent: Arc<AtomicU64>,
}

impl Model {
    async fn start() -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let (asked, sent) = (Arc::new(Mutex::new(Vec::new())), Arc::new(AtomicU64::new(0)));
        tokio::spawn({
            let (asked, sent) = (Arc::clone(&asked), Arc::clone(&sent));
            async move {
                while let Ok((stream, _)) = listener.accept().await {
                    tokio::spawn(answer(stream, Arc::clone(&asked), Arc::clone(&sent)));
                }
            }
        });
        Self { address, asked, sent }
    }
}

async fn answer(mut stream: TcpStream, asked: Arc<Mutex<Vec<Value>>>, sent: Arc<AtomicU64>) -> Option<()> {
    let mut bytes = Vec::new();
    let body = loop {
        let mut more = [0; 4096];
        let read = stream.read(&mut more).await.ok().filter(|read| *read > 0)?;
        bytes.extend_from_slice(&more[..read]);
        let Some(head) = bytes.windows(4).position(|four| four == b"\r\n\r\n") else { continue };
        let text = String::from_utf8_lossy(&bytes[..head]).to_ascii_lowercase();
        let length = text.lines().find_map(|line| line.strip_prefix("content-length: ")?.parse::<usize>().ok());
        if bytes.len() >= head + 4 + length.unwrap_or(0) {
            break bytes.split_off(head + 4);
        }
    };
    let request: Value = serde_json::from_slice(&body).unwrap_or(Value::Null);
    asked.lock().push(request.clone());
    let prompt = request["messages"].as_array()?.last()?["content"].as_str()?.to_owned();
    if prompt == "fail" {
        let body = r#"{"error":{"message":"out of memory"}}"#;
        let head = format!(
            "HTTP/1.1 500 Internal Server Error\r\nContent-Length: {}\r\nConnection: close\r\n\r\n{body}",
            body.len()
        );
        return stream.write_all(head.as_bytes()).await.ok();
    }
    let head = "HTTP/1.1 200 OK\r\nContent-Type: text/event-stream\r\nConnection: close\r\n\r\n";
    stream.write_all(head.as_bytes()).await.ok()?;
    let words: u64 = prompt.strip_prefix("count ").and_then(|n| n.parse().ok()).unwrap_or(0);
    let words = words.min(request["max_tokens"].as_u64().unwrap_or(u64::MAX));
    for n in 0..words {
        let event =
            json!({ "choices": [{ "index": 0, "delta": { "content": format!("w{n} ") }, "finish_reason": null }] });
        stream.write_all(format!("data: {event}\n\n").as_bytes()).await.ok()?;
        sent.fetch_add(1, Ordering::SeqCst);
        if prompt == "count 1000000" {
            tokio::time::sleep(Duration::from_millis(2)).await;
        }
    }
    let end = json!({ "choices": [{ "index": 0, "delta": {}, "finish_reason": "stop" }] });
    let usage = json!({ "choices": [], "usage": { "prompt_tokens": 3, "completion_tokens": words } });
    stream.write_all(format!("data: {end}\n\ndata: {usage}\n\ndata: [DONE]\n\n").as_bytes()).await.ok()
}

fn sale() -> Sale {
    Sale {
        model: MODEL.into(),
        quantisation: "none".into(),
        context: 2_000_000,
        hardware: "a test".into(),
        loaded: true,
        max_output: 2_000_000,
        slice: SLICE,
        tickets_in: 0,
        tickets_out: 1,
        direct: true,
        key: None,
    }
}

struct Shop {
    model: Model,
    market: market::Shop,
}

impl std::ops::Deref for Shop {
    type Target = market::Shop;
    fn deref(&self) -> &market::Shop {
        &self.market
    }
}

async fn shop() -> Shop {
    shop_with(8).await
}

/// With room for so many answers at once.
async fn shop_with(max_answers: usize) -> Shop {
    let model = Model::start().await;
    let backend = HttpBackend::new(HttpBackendConfig::new(format!("http://{}/v1", model.address))).unwrap();
    let market = market::Shop::open(Arc::new(backend), sale(), max_answers).await;
    Shop { model, market }
}

fn counted(words: u64) -> String {
    (0..words).map(|n| format!("w{n} ")).collect()
}

async fn an_answer_is_paid_slice_by_slice(transport: Transport) {
    let shop = shop().await;
    let buyer = Buyer::of(&shop, transport, SpendingCaps::default()).await;
    let answer = buyer.ask("count 20").await.unwrap();
    assert_eq!((answer.text.as_str(), answer.reason), (counted(20).as_str(), FinishReason::Stop));
    assert_eq!(answer.usage, Usage { prompt_tokens: 3, completion_tokens: 20 });
    // Twenty tokens are three slices of eight.
    assert_eq!((answer.receipt.tickets, answer.receipt.slices, answer.receipt.credit), (3, 2, false));
    assert_eq!((buyer.used(), shop.till.counters().paid, shop.till.counters().failed), (3, 3, 0));
    assert_eq!(shop.model.asked.lock().len(), 1, "one generation, whatever it is paid in");
}

#[tokio::test(flavor = "multi_thread")]
async fn an_answer_over_relay_is_paid_slice_by_slice() {
    an_answer_is_paid_slice_by_slice(Transport::Relay).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn an_answer_on_a_direct_stream_is_paid_slice_by_slice() {
    an_answer_is_paid_slice_by_slice(Transport::Direct).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_cap_for_one_prompt_stops_the_payment_and_the_generation() {
    let shop = shop().await;
    let caps = SpendingCaps { tickets_per_prompt: 2, ..SpendingCaps::default() };
    let buyer = Buyer::of(&shop, Transport::Direct, caps).await;
    let (text, error) = buyer.ask("count 1000000").await.unwrap_err();
    assert!(matches!(error, InferenceError::PromptCap { spent: 2, asked: 1, cap: 2 }), "{error:?}");
    assert_eq!((text, buyer.used()), (counted(16), 2));
    // The server is cut off: what it sends stops growing.
    within("the end of the generation", async {
        loop {
            let before = shop.model.sent.load(Ordering::SeqCst);
            tokio::time::sleep(Duration::from_millis(300)).await;
            if shop.model.sent.load(Ordering::SeqCst) == before {
                return;
            }
        }
    })
    .await;
    assert!(shop.model.sent.load(Ordering::SeqCst) < 1_000_000);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_failed_and_an_empty_answer_are_made_good_once() {
    let shop = shop().await;
    let buyer = Buyer::of(&shop, Transport::Direct, SpendingCaps::default()).await;
    for question in ["fail", "count 0"] {
        let (text, error) = buyer.ask(question).await.unwrap_err();
        assert!(matches!(error, InferenceError::Failed { credited: true, .. }), "{question}: {error:?}");
        assert_eq!(text, "");
        let paid = buyer.used();
        let good = buyer.ask("count 5").await.unwrap();
        assert_eq!((good.text, good.receipt.credit, good.receipt.tickets), (counted(5), true, 0));
        assert_eq!(buyer.used(), paid, "the credit paid");
        let good = buyer.ask("count 5").await.unwrap();
        assert_eq!((good.receipt.credit, good.receipt.tickets), (false, 1), "a credit is good once");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn the_cap_of_a_day_outlives_the_program() {
    let shop = shop().await;
    let caps = SpendingCaps { tickets_per_day: 2, ..SpendingCaps::default() };
    let mut buyer = Buyer::of(&shop, Transport::Direct, caps).await;
    buyer.ask("count 5").await.unwrap();
    let node = node().await;
    let tickets = Arc::clone(&buyer.tickets);
    buyer.client = Buyer::client(&shop, node, tickets, buyer.folder.path(), Transport::Direct, caps);
    buyer.ask("count 5").await.unwrap();
    let (_, error) = buyer.ask("count 5").await.unwrap_err();
    assert!(matches!(error, InferenceError::DayCap { spent: 2, asked: 1, cap: 2 }), "{error:?}");
    assert_eq!(buyer.used(), 2);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_provider_that_falls_silent_is_paid_no_further() {
    let shop = shop().await;
    let buyer = Buyer::of(&shop, Transport::Direct, SpendingCaps::default()).await;
    let mut stream = buyer.client.chat(ChatRequest::ask(MODEL, "count 1000000")).await.unwrap();
    let first = within("the first text", stream.next()).await.unwrap();
    assert!(matches!(first, Ok(ChatEvent::Delta(_))), "{first:?}");
    shop.node.shutdown().await;
    let error = within("the end", async {
        loop {
            if let Some(Err(error)) = stream.next().await {
                return error;
            }
        }
    })
    .await;
    assert!(matches!(error, InferenceError::ProviderGone { .. } | InferenceError::Transport(_)), "{error:?}");
    let used = buyer.used();
    let (_, error) = buyer.ask("count 5").await.unwrap_err();
    assert!(matches!(error, InferenceError::ProviderGone { .. } | InferenceError::Transport(_)), "{error:?}");
    assert!(buyer.used() <= used + 1, "one ticket for the prompt that nobody took");
}

#[tokio::test(flavor = "multi_thread")]
async fn another_model_than_the_offers_is_refused_before_anything_is_spent() {
    let shop = shop().await;
    let buyer = Buyer::of(&shop, Transport::Direct, SpendingCaps::default()).await;
    let error = buyer.client.chat(ChatRequest::ask("another", "count 5")).await.err().unwrap();
    assert!(matches!(error, InferenceError::OtherModel { .. }), "{error:?}");
    assert_eq!((buyer.used(), shop.model.asked.lock().len()), (0, 0));
}

/// A provider that sees one ticket with two prompts knows that they are of one buyer: it could refuse for that alone.
#[tokio::test(flavor = "multi_thread")]
async fn a_ticket_that_was_refused_with_one_prompt_is_never_shown_with_another() {
    let shop = shop_with(1).await;
    let (busy, buyer) = (
        Buyer::of(&shop, Transport::Direct, SpendingCaps::default()).await,
        Buyer::of(&shop, Transport::Direct, SpendingCaps { tickets_per_day: 2, ..SpendingCaps::default() }).await,
    );
    let long = busy.client.chat(ChatRequest::ask(MODEL, "count 1000000")).await.unwrap();
    let (_, error) = buyer.ask("count 1").await.unwrap_err();
    assert!(matches!(error, InferenceError::Failed { code: FailureCode::Busy, .. }), "{error:?}");
    assert_eq!(buyer.used(), 1, "tried again with the ticket that it was refused with");
    drop(long);
    within("room for another answer", async {
        loop {
            match buyer.ask("count 2").await {
                Ok(answer) => return assert_eq!(answer.text, counted(2)),
                Err((_, InferenceError::Failed { code: FailureCode::Busy, .. })) => {}
                // What the provider has seen counts, whatever it says of it.
                Err((_, InferenceError::DayCap { spent: 2, cap: 2, .. })) => return,
                Err(other) => panic!("{other:?}"),
            }
        }
    })
    .await;
    assert_eq!(buyer.used(), 2, "a ticket of its own for the second prompt");
}

/// Else a buyer could have prompts that fail, which it can choose (an own stop text), answered for ever for one ticket.
#[tokio::test(flavor = "multi_thread")]
async fn an_answer_that_a_credit_paid_and_that_fails_is_not_made_good_again() {
    let shop = shop().await;
    let buyer = Buyer::of(&shop, Transport::Direct, SpendingCaps::default()).await;
    for credited in [true, false] {
        let (_, error) = buyer.ask("count 0").await.unwrap_err();
        assert!(matches!(error, InferenceError::Failed { code: FailureCode::Empty, credited: c, .. } if c == credited));
    }
    let asked = shop.model.asked.lock().len();
    assert_eq!((asked, buyer.used()), (2, 1), "two answers for one ticket, and no more");
    buyer.ask("count 1").await.unwrap();
    assert_eq!(buyer.used(), 2, "the next one is paid");
}
