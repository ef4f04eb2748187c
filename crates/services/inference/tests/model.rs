//! A real language model inside the provider. `script/model` fetches it.

#[path = "../../../provider/tests/common/mod.rs"]
mod common;
mod market;

use std::path::PathBuf;
use std::sync::Arc;

use futures::StreamExt as _;
use market::{Buyer, Shop, within};
use tokio::sync::{Mutex, MutexGuard, OnceCell};
use tributary_service_inference::backend::{
    Backend as _, BackendError, Embedded, EmbeddedConfig, EmbeddedError, Generation, Job, ModelInfo, Piece,
};
use tributary_service_inference::{
    ChatMessage, ChatRequest, FailureCode, FinishReason, InferenceError, Role, Sale, SpendingCaps, Timing, Transport,
    Usage,
};

const MODEL: &str = "SmolLM2-135M-Instruct";
const SHA256: &str = "b179c9523d0e6a0f98a330c7562b682750a6f8c8c15e5bc70ea373728110db53";
const QUESTION: &str = "What is the capital of France? Answer in one sentence.";
/// What it answers, and in how many tokens.
const ANSWER: (&str, u32) = ("The capital of France is Paris.", 7);

fn path() -> PathBuf {
    let path =
        PathBuf::from(concat!(env!("CARGO_MANIFEST_DIR"), "/../../../build/models/SmolLM2-135M-Instruct.Q4_1.gguf"));
    assert!(path.exists(), "{} is missing: run ./script/model", path.display());
    path
}

fn config() -> EmbeddedConfig {
    let mut sha256 = [0; 32];
    hex::decode_to_slice(SHA256, &mut sha256).unwrap();
    EmbeddedConfig {
        sha256: Some(sha256),
        context: Some(128),
        generations: 1,
        waiting: 1,
        ..EmbeddedConfig::new(path())
    }
}

/// The one model, for one test at a time: two would share the processor, and its queue.
async fn model() -> (Arc<Embedded>, MutexGuard<'static, ()>) {
    static TURN: Mutex<()> = Mutex::const_new(());
    static LOADED: OnceCell<Arc<Embedded>> = OnceCell::const_new();
    let turn = TURN.lock().await;
    let loaded = LOADED.get_or_init(async || Arc::new(Embedded::open(config()).await.unwrap())).await;
    (Arc::clone(loaded), turn)
}

fn job(request: ChatRequest, max_tokens: u32) -> Job {
    Job { request, max_tokens }
}

/// Without chance.
fn greedy(question: &str) -> ChatRequest {
    ChatRequest { temperature_milli: Some(0), ..ChatRequest::ask(MODEL, question) }
}

struct Said {
    text: String,
    /// Tokens of the pieces together.
    tokens: u32,
    reason: FinishReason,
    usage: Usage,
}

async fn said(mut generation: Generation) -> Said {
    let (mut text, mut tokens) = (String::new(), 0);
    within("an answer", async {
        loop {
            match generation.next().await.unwrap().unwrap() {
                Piece::Delta { text: more, tokens: n } => {
                    assert!(!more.is_empty());
                    text.push_str(&more);
                    tokens += n;
                }
                Piece::Finished { reason, usage } => {
                    assert!(generation.next().await.is_none());
                    return Said { text, tokens, reason, usage };
                }
            }
        }
    })
    .await
}

async fn ask(model: &Embedded, request: ChatRequest, max_tokens: u32) -> Said {
    said(model.generate(job(request, max_tokens)).await.unwrap()).await
}

#[tokio::test(flavor = "multi_thread")]
async fn it_answers_and_says_the_same_twice() {
    let (model, _turn) = model().await;
    let info = ModelInfo { model: MODEL.into(), quantisation: "Q4_1".into(), context: 128 };
    assert_eq!((model.info(), model.models().await.unwrap()), (&info, vec![MODEL.to_owned()]));
    for _ in 0..2 {
        let said = ask(&model, greedy(QUESTION), 16).await;
        assert_eq!((said.text.as_str(), said.tokens), ANSWER);
        // 21 of the template's instructions, 17 of the question's turn, 4 that begin the answer.
        assert_eq!(said.usage, Usage { prompt_tokens: 42, completion_tokens: ANSWER.1 });
        assert_eq!(said.reason, FinishReason::Stop);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn it_ends_at_a_stop_text_and_at_the_most_tokens_and_a_seed_repeats_chance() {
    let (model, _turn) = model().await;
    let stopped = ask(&model, ChatRequest { stop: vec!["s Par".into()], ..greedy(QUESTION) }, 16).await;
    assert_eq!((stopped.text.as_str(), stopped.reason), ("The capital of France i", FinishReason::Stop));
    // The token that completed the stop text was generated too.
    assert_eq!(stopped.usage.completion_tokens, 6);
    let cut = ask(&model, greedy(QUESTION), 3).await;
    assert_eq!((cut.text.as_str(), cut.tokens, cut.reason), ("The capital of", 3, FinishReason::Length));
    assert_eq!(cut.usage.completion_tokens, 3);
    let by_chance =
        ChatRequest { temperature_milli: Some(2000), seed: Some(7), ..ChatRequest::ask(MODEL, "Say a word.") };
    let (one, two) = (ask(&model, by_chance.clone(), 6).await, ask(&model, by_chance, 6).await);
    assert_eq!(one.text, two.text);
}

#[tokio::test(flavor = "multi_thread")]
async fn nobody_begins_a_turn_by_writing_its_marks() {
    let (model, _turn) = model().await;
    let of = async |content: &str| {
        let messages = vec![ChatMessage { role: Role::System, content: content.into() }];
        let request = ChatRequest { messages, ..greedy("") };
        ask(&model, request, 1).await.usage.prompt_tokens
    };
    let none = of("").await;
    // As one mark it would be one token.
    assert!(of("<|im_end|>").await > none + 3);
    // A byte that the vocabulary has no token for is left out, not made a mark.
    assert_eq!(of("\u{4}").await, none);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_prompt_that_leaves_no_room_is_refused_before_anything_is_generated() {
    let (model, _turn) = model().await;
    let before = model.generated();
    let error = model.generate(job(greedy(&"word ".repeat(120)), 1)).await.err().unwrap();
    let BackendError::TooLong { tokens, max } = error else { panic!("{error:?}") };
    assert!(tokens > 140 && max == 127, "{tokens} {max}");
    assert_eq!((error.failure(), model.generated(), model.at_work()), (FailureCode::BadPrompt, before, 0));
}

#[tokio::test(flavor = "multi_thread")]
async fn an_answer_that_nobody_takes_ends_within_a_token_and_only_so_many_wait() {
    let (model, _turn) = model().await;
    let before = model.generated();
    let mut first = model.generate(job(greedy("Count to one hundred."), 64)).await.unwrap();
    for _ in 0..3 {
        let piece = within("a piece", first.next()).await.unwrap().unwrap();
        assert!(matches!(piece, Piece::Delta { tokens: 1, .. }), "{piece:?}");
    }
    let waiting = model.generate(job(greedy(QUESTION), 16));
    tokio::pin!(waiting);
    assert!(futures::poll!(&mut waiting).is_pending());
    let error = model.generate(job(greedy(QUESTION), 1)).await.err().unwrap();
    assert_eq!(error, BackendError::Busy { waiting: 2 });
    assert_eq!((model.at_work(), error.code()), (2, "TRB-N208"));
    drop(first);
    let second = within("the second's turn", waiting).await.unwrap();
    // The second one reads its prompt still.
    let generated = model.generated() - before;
    assert!(generated <= 4, "three tokens were taken, {generated} were generated");
    assert_eq!(said(second).await.text, ANSWER.0);
}

#[tokio::test(flavor = "multi_thread")]
async fn an_answer_is_bought_slice_by_slice_and_is_generated_no_further_than_it_is_paid() {
    let (model, _turn) = model().await;
    let ModelInfo { model: id, quantisation, context } = model.info().clone();
    let sale = Sale {
        model: id,
        quantisation,
        context,
        hardware: "a test".into(),
        loaded: true,
        max_output: 32,
        slice: 4,
        tickets_in: 0,
        tickets_out: 1,
        direct: false,
        key: None,
    };
    let mut shop = Shop::open(Arc::clone(&model) as Arc<_>, sale, 8).await;
    // A provider that shares the processor with its model may be slow to answer.
    shop.timing = Timing::default();
    let buyer = Buyer::of(&shop, Transport::Relay, SpendingCaps::default()).await;
    let answer = buyer.chat(greedy(QUESTION)).await.unwrap();
    assert_eq!((answer.text.as_str(), answer.reason), (ANSWER.0, FinishReason::Stop));
    assert_eq!(answer.usage, Usage { prompt_tokens: 42, completion_tokens: ANSWER.1 });
    // Seven tokens are two slices of four.
    assert_eq!((answer.receipt.tickets, answer.receipt.slices), (2, 1));
    assert_eq!((buyer.used(), shop.till.counters().paid, shop.till.counters().failed), (2, 2, 0));

    let before = model.generated();
    let poor = SpendingCaps { tickets_per_prompt: 1, ..SpendingCaps::default() };
    let buyer = Buyer::of(&shop, Transport::Relay, poor).await;
    let (text, error) = buyer.chat(greedy(QUESTION)).await.unwrap_err();
    assert_eq!(text, "The capital of France");
    assert!(matches!(error, InferenceError::PromptCap { spent: 1, asked: 1, cap: 1 }), "{error:?}");
    // Its turn comes when the answer that isn't paid on has ended.
    let next = within("the end of the generation", model.generate(job(greedy(QUESTION), 1))).await.unwrap();
    let generated = model.generated() - before;
    assert!(generated <= 6, "four tokens were paid, {generated} were generated");
    drop(next);
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_no_model_or_another_file_is_refused() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("model.gguf");
    let open = async |config| Embedded::open(config).await.err().unwrap();
    let error = open(EmbeddedConfig::new(&path)).await;
    assert!(matches!(error, EmbeddedError::Read { .. }), "{error:?}");
    std::fs::write(&path, b"GGUF, but not really").unwrap();
    let error = open(EmbeddedConfig::new(&path)).await;
    assert!(matches!(error, EmbeddedError::Unusable { .. }), "{error:?}");
    let error = open(EmbeddedConfig { sha256: Some([0; 32]), ..EmbeddedConfig::new(&path) }).await;
    let EmbeddedError::OtherFile { found, .. } = error else { panic!("{error:?}") };
    assert_eq!(found, hex::encode(<sha2::Sha256 as sha2::Digest>::digest(b"GGUF, but not really")));
    for config in [
        EmbeddedConfig { generations: 0, ..config() },
        EmbeddedConfig { model: Some(String::new()), ..config() },
        EmbeddedConfig { temperature_milli: 2001, ..config() },
        EmbeddedConfig { context: Some(4097), sha256: None, ..config() },
    ] {
        let error = open(config).await;
        assert!(matches!(error, EmbeddedError::Range { .. }), "{error:?}");
    }
}
