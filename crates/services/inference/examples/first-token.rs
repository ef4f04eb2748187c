//! How much later the first word of an answer comes over the market than from the backend itself: a buyer and a provider on loopback, Waku relay,
//! a ticket that is checked and written down before the answer. The tickets are ready, and the model is the embedded one.
//!
//! `cargo run --workspace --example first-token --features tributary-service-inference/embedded`, after `script/model`.

#[path = "../../../provider/tests/common/mod.rs"]
mod common;
#[path = "../tests/market/mod.rs"]
mod market;

use std::sync::Arc;
use std::time::{Duration, Instant};

use futures::StreamExt as _;
use market::{Buyer, Shop};
use tributary_service_inference::backend::{Backend, Embedded, EmbeddedConfig, Job, ModelInfo, Piece};
use tributary_service_inference::{ChatEvent, ChatRequest, Sale, SpendingCaps, Timing, Transport};

const MODEL: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/../../../build/models/SmolLM2-135M-Instruct.Q4_1.gguf");
const TRIES: usize = 20;
const TOKENS: u32 = 2;
/// Longer than it may be later (ms, p50).
const BAR: f64 = 100.0;

#[tokio::main]
async fn main() {
    let backend = match Embedded::open(EmbeddedConfig::new(MODEL)).await {
        Ok(backend) => Arc::new(backend),
        Err(error) => {
            eprintln!("{}: {error}; ./script/model fetches it", error.code());
            std::process::exit(1);
        }
    };
    let ModelInfo { model, quantisation, context } = backend.info().clone();
    let request =
        ChatRequest { temperature_milli: Some(0), max_tokens: Some(TOKENS), ..ChatRequest::ask(&*model, "Say yes.") };
    let sale = Sale {
        model,
        quantisation,
        context,
        hardware: "this machine".into(),
        loaded: true,
        max_output: 32,
        slice: 32,
        tickets_in: 0,
        tickets_out: 1,
        direct: true,
        key: None,
    };
    let mut shop = Shop::open(Arc::clone(&backend) as Arc<dyn Backend>, sale, 8).await;
    shop.timing = Timing::default();
    let caps = SpendingCaps { tickets_per_day: 1000, ..SpendingCaps::default() };
    let relay = Buyer::of(&shop, Transport::Relay, caps).await;
    let stream = Buyer::of(&shop, Transport::Direct, caps).await;
    let (mut alone, mut relayed, mut direct) = (Vec::new(), Vec::new(), Vec::new());
    // The first of each is not counted: connections, meshes and caches.
    for _ in 0..=TRIES {
        alone.push(from_backend(&*backend, request.clone()).await);
        relayed.push(from_market(&relay, request.clone()).await);
        direct.push(from_market(&stream, request.clone()).await);
    }
    println!("first token, {TRIES} tries each, ms                p50      p95");
    let shown = |name: &str, times: &mut Vec<Duration>| {
        times.remove(0);
        times.sort_unstable();
        let at = |share: f64| times[((TRIES as f64 * share).ceil() as usize).clamp(1, TRIES) - 1].as_secs_f64() * 1e3;
        println!("{name:<44} {:>7.1} {:>8.1}", at(0.5), at(0.95));
        at(0.5)
    };
    let base = shown("the backend itself", &mut alone);
    let by_relay = shown("bought over Waku relay", &mut relayed);
    let by_stream = shown("bought over a direct stream", &mut direct);
    println!("relay later by (bar: {BAR} ms)                 {:>7.1}", by_relay - base);
    println!("direct stream later by                       {:>7.1}", by_stream - base);
    shop.node.shutdown().await;
}

async fn from_backend(backend: &dyn Backend, request: ChatRequest) -> Duration {
    let begun = Instant::now();
    let mut generation = backend.generate(Job { request, max_tokens: TOKENS }).await.expect("the backend works");
    let mut first = None;
    while let Some(piece) = generation.next().await {
        if let Piece::Delta { .. } = piece.expect("the backend works") {
            first.get_or_insert_with(|| begun.elapsed());
        }
    }
    first.expect("the answer has text")
}

async fn from_market(buyer: &Buyer, request: ChatRequest) -> Duration {
    let begun = Instant::now();
    let mut answer = buyer.client.chat(request).await.expect("the prompt is taken");
    let mut first = None;
    while let Some(event) = answer.next().await {
        if let ChatEvent::Delta(_) = event.expect("the prompt is answered") {
            first.get_or_insert_with(|| begun.elapsed());
        }
    }
    first.expect("the answer has text")
}
