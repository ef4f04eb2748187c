//! Two prompts of one buyer, and one of another buyer: whatever the two have in common, in what the provider receives, keeps and logs, the third
//! has too.
//!
//! Left out is time, and who is the provider's neighbour in the mesh: between buyers and provider there is a node that relays.

#[allow(dead_code, reason = "the provider's tests use more of it")]
#[path = "../../../../provider/tests/privacy/look.rs"]
mod look;

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use futures::{FutureExt as _, StreamExt as _};
use sha2::{Digest as _, Sha256};
use tokio::runtime::Runtime;
use tracing_subscriber::{EnvFilter, fmt};
use tributary_market::node::connect;
use tributary_market::sealed::EncryptionSecret;
use tributary_service_inference::{SpendingCaps, Transport};
use tributary_waku::{NodeHandle, Subscription, WakuMessage};
use zeroize::Zeroizing;

use self::look::{Log, database, fields};
use super::{
    Shop,
    market::{Buyer, node, service_id, within},
    shop,
};

/// Messages of a `Request` by field numbers: a paid prompt and a paid slice with ticket and payload, and the prompt's own messages.
const NESTED: [&str; 7] = ["7", "7.1", "7.3", "7.3.4", "10", "10.1", "10.3"];

/// What all prompts have in common: versions, what the offer says, the slot and the roots, and times.
const ALIKE: [&str; 15] = [
    "1[0]",
    "5[0]",
    "7.1.1[0]",
    "7.1.2[0]",
    "7.1.3[0]",
    "7.1.4[0]",
    "7.1.5[0]",
    "7.1.6[0]",
    "7.1.7[0]",
    "7.1.8[1]",
    "7.1.8[2]",
    "7.1.8[3]",
    "7.1.11[0]",
    "7.3.3[0]",
    "7.3.5[0]",
];

/// As the service makes it from its node's key.
fn provider_secret(node: &NodeHandle) -> EncryptionSecret {
    let mut hash = Sha256::new();
    hash.update(b"tributary.inference.key.v1");
    hash.update(service_id().to_string().as_bytes());
    hash.update([0]);
    hash.update(node.key().to_bytes().as_slice());
    EncryptionSecret::derive(&Zeroizing::new(hash.finalize().into()))
}

/// What a provider has of one prompt and its answer.
#[derive(Default)]
struct View {
    /// Fields of each request that it opened, by place and number.
    fields: BTreeMap<String, Vec<u8>>,
    /// Everything around what is sealed, on the way to it and back: topics, lengths, times, flags.
    envelopes: Vec<String>,
    /// Rows that are new in its databases.
    rows: BTreeSet<(String, String)>,
    /// Words of its log.
    words: BTreeSet<String>,
}

impl View {
    /// Whatever can be compared.
    fn facts(&self) -> BTreeSet<String> {
        let fields = self.fields.iter().map(|(name, value)| format!("field {name} {}", hex::encode(value)));
        let envelopes = self.envelopes.iter().map(|envelope| format!("envelope {envelope}"));
        let rows = self.rows.iter().map(|(column, value)| format!("row {column} {value}"));
        let words = self.words.iter().map(|word| format!("word {word}"));
        fields.chain(envelopes).chain(rows).chain(words).collect()
    }
}

/// What two have in common and the third has not.
fn links(a: &View, b: &View, other: &View) -> Vec<String> {
    let (a, b, other) = (a.facts(), b.facts(), other.facts());
    a.intersection(&b).filter(|fact| !other.contains(*fact)).cloned().collect()
}

fn envelope(message: &WakuMessage) -> String {
    let WakuMessage { payload, content_topic, version, timestamp, meta, rate_limit_proof, ephemeral } = message;
    format!("{content_topic} {} {version:?} {timestamp:?} {meta:?} {rate_limit_proof:?} {ephemeral:?}", payload.len())
}

/// Read from copies: the provider holds its own to itself.
async fn rows(shop: &Shop) -> BTreeSet<(String, String)> {
    let copies = tempfile::tempdir().unwrap();
    let mut databases = Vec::new();
    for file in std::fs::read_dir(shop.folder.path()).unwrap() {
        let path = file.unwrap().path();
        let copy = copies.path().join(path.file_name().unwrap());
        match path.extension().and_then(|extension| extension.to_str()) {
            Some("db") => databases.push(copy.clone()),
            Some("db-wal") => {}
            _ => continue,
        }
        std::fs::copy(&path, &copy).unwrap();
    }
    let mut rows = BTreeSet::new();
    for path in databases {
        let name = path.file_stem().unwrap().to_string_lossy().into_owned();
        for (column, values) in database(&path).await {
            rows.extend(values.into_iter().map(|value| (format!("{name}.{column}"), value)));
        }
    }
    rows
}

/// Asks, and collects what the provider has of it.
async fn view(
    shop: &Shop,
    log: &Log,
    travelled: &mut Subscription,
    outside: &Runtime,
    buyer: &Arc<Buyer>,
    prompt: &str,
) -> View {
    let before = rows(shop).await;
    log.clear();
    let answer = outside.spawn({
        let (buyer, prompt) = (Arc::clone(buyer), prompt.to_owned());
        async move { buyer.ask(&prompt).await.unwrap() }
    });
    let answer = answer.await.unwrap();
    assert_eq!((answer.receipt.tickets, answer.receipt.slices), (2, 1));
    within("the provider's books", async {
        while rows(shop).await.len() < before.len() + 2 {
            tokio::task::yield_now().await;
        }
    })
    .await;
    let mut view = View { rows: rows(shop).await.difference(&before).cloned().collect(), ..View::default() };
    let secret = provider_secret(&shop.node);
    let mut requests = 0;
    let mut nullifiers = Vec::new();
    while let Some(Some(received)) = travelled.next().now_or_never() {
        view.envelopes.push(envelope(&received.message));
        let Ok(plain) = secret.open(b"tributary.inference.request.v1", &received.message.payload) else { continue };
        let mut found = BTreeMap::new();
        fields(&plain, "", &NESTED, &mut found);
        nullifiers.extend(found.get("7.1.8[0]").cloned());
        view.fields.extend(found.into_iter().map(|(name, value)| (format!("{requests}:{name}"), value)));
        requests += 1;
    }
    assert_eq!(requests, 2, "the prompt and a slice came over relay");
    let told = log.lines().join("\n");
    for nullifier in nullifiers {
        assert!(!told.to_lowercase().contains(&hex::encode(nullifier)), "no nullifier in a log");
    }
    assert!(!told.contains(prompt), "no prompt in a log");
    let words = told.split(|c: char| !c.is_alphanumeric());
    view.words = words.filter(|word| word.len() >= 6).map(str::to_owned).collect();
    view
}

/// A buyer who is connected to `hub` alone.
async fn buyer(shop: &Shop, hub: &NodeHandle) -> Arc<Buyer> {
    let node = node().await;
    connect(&node, hub.peer_id(), &hub.listen_addrs()).await.unwrap();
    Arc::new(Buyer::at(shop, node, Transport::Relay, SpendingCaps::default()))
}

/// The provider's part of the log is that of this thread: buyers and the node between run on others.
#[tokio::test(flavor = "current_thread")]
async fn nothing_links_two_prompts_of_one_buyer() {
    let log = Log::default();
    let programs = ["service_inference", "provider", "market", "waku", "client"];
    let filter = programs.map(|name| format!("tributary_{name}=trace")).join(",");
    let subscriber = fmt()
        .with_env_filter(EnvFilter::new(format!("off,{filter}")))
        .without_time()
        .with_ansi(false)
        .with_writer(log.clone())
        .finish();
    let _guard = tracing::subscriber::set_default(subscriber);

    let outside = tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build().unwrap();
    let shop = Arc::new(shop().await);
    let (hub, mut travelled) = outside
        .spawn({
            let shop = Arc::clone(&shop);
            async move {
                let hub = node().await;
                connect(&hub, shop.node.peer_id(), &shop.node.listen_addrs()).await.unwrap();
                let travelled = hub.subscribe_all().unwrap();
                (hub, travelled)
            }
        })
        .await
        .unwrap();
    let mut buyers = Vec::new();
    for _ in 0..2 {
        let (shop, hub) = (Arc::clone(&shop), hub.clone());
        buyers.push(outside.spawn(async move { buyer(&shop, &hub).await }).await.unwrap());
    }
    let [one, another] = &buyers[..] else { panic!("two buyers") };
    let mut views = Vec::new();
    for (buyer, prompt) in [(one, "count 10"), (one, "count 11"), (another, "count 12")] {
        views.push(view(&shop, &log, &mut travelled, &outside, buyer, prompt).await);
    }
    let [first, second, other] = &views[..] else { panic!("three prompts") };
    assert_eq!(links(first, second, other), Vec::<String>::new());
    // What is compared is there, and a link would be found.
    assert!(links(first, first, other).len() > 20);
    let alike: BTreeSet<_> = first
        .fields
        .iter()
        .filter(|(name, value)| name.starts_with("0:") && second.fields.get(*name) == Some(value))
        .map(|(name, _)| name.trim_start_matches("0:"))
        .collect();
    let roles: BTreeSet<_> = ["7.3.1[0]", "7.3.4.1[0]"].into();
    assert_eq!(alike, &BTreeSet::from(ALIKE) | &roles, "fields of a prompt that tell nothing");
    let lengths = |view: &View| {
        let lengths = view.envelopes.iter().filter_map(|line| line.split(' ').nth(1).map(str::to_owned));
        lengths.collect::<BTreeSet<_>>()
    };
    assert_eq!(lengths(first), lengths(other), "padded to steps");
    drop(hub);
    outside.shutdown_background();
}
