//! The same purchase twice, paid by one stream and then by another: a real Store is queried page by page over the wire, and whatever the
//! provider receives, keeps and logs differs only where a list allows it.
//!
//! Needs the circuits' artefacts and the pinned JavaScript tools: run `./script/setup` first.

#[allow(dead_code, reason = "the provider's tests use more of it")]
#[path = "../../../crates/provider/tests/privacy/look.rs"]
mod look;
#[allow(dead_code, reason = "the wallet's tests use more of it")]
#[path = "../../../crates/wallet/tests/wallet/net.rs"]
mod net;
#[allow(dead_code, reason = "the provider's tests use more of it")]
#[path = "../../../crates/provider/tests/chain/shop.rs"]
mod shop;

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::Arc,
    time::Duration,
};

use tracing_subscriber::EnvFilter;
use tributary_client::{PagePrice, PaidPage, PaidStore, StreamTickets, unpaid};
use tributary_market::ticket::Verdict;
use tributary_protocol::{Circuit, Seconds};
use tributary_provider::{
    daemon::{Provider, ProviderParts},
    service::Registry,
};
use tributary_service_waku::{StoreConfig, StoreService};
use tributary_waku::{
    ArchiveConfig, ArchivedMessage, ClusterId, ContentTopic, Node, NodeConfig, NodeHandle, NodeKey, NodeLimits,
    PubsubTopic, Sharding, StoreQueryRequest, Timestamp, WakuMessage,
};
use tributary_wallet::{
    Intent, OpenStream,
    tickets::{PayingStream, TicketMaker},
};

use crate::{
    look::{Log, database, fields, files},
    net::{MARGIN, prover},
    shop::Shop,
};

const PATIENCE: Duration = Duration::from_secs(30);

/// Messages of a `StoreQueryRequest` by field numbers: eligibility proof, payment proof, ticket proof, ticket.
const NESTED: [&str; 4] = ["30", "30.1", "30.1.2", "30.1.2.1"];

/// What may differ in a request: its random id, signature, the used nullifier, proof, one-time key.
const WIRE_MAY_DIFFER: [&str; 5] = ["1", "30.1.2.1.10", "30.1.2.1.8[0]", "30.1.2.1.9", "30.1.2.2"];

/// What may differ in the database: the nullifier, and the digest of one-time key and signed request.
const DATABASE_MAY_DIFFER: [&str; 2] = ["nullifiers.nullifier", "nullifiers.request"];

fn shard() -> PubsubTopic {
    "/waku/2/rs/42/7".parse().unwrap()
}

fn topic() -> ContentTopic {
    "/app/20/sometopic/someencoding".parse().unwrap()
}

/// A node with 45 messages in its archive.
async fn archive(shop: &Shop) -> NodeHandle {
    let node = Node::spawn(NodeConfig {
        listen: vec!["/ip4/127.0.0.1/tcp/0".parse().unwrap()],
        limits: NodeLimits::shared_address(),
        archive: Some(ArchiveConfig::new(shop.path("archive.sqlite"))),
        ..NodeConfig::new(NodeKey::generate(), ClusterId(42), Sharding::Auto { shards: 8 })
    })
    .await
    .unwrap();
    let now =
        Timestamp::from_secs(i64::try_from(tributary_ledger::Clock::now(&tributary_ledger::SystemClock)).unwrap());
    let messages: Vec<_> = (0..45_u64)
        .map(|n| {
            let message = WakuMessage::new(topic(), format!("{n}"), now.saturating_add(Duration::from_millis(n)));
            ArchivedMessage { hash: message.hash(shard()), pubsub_topic: shard(), message: message.into() }
        })
        .collect();
    assert_eq!(node.archive().unwrap().insert(&messages).await.unwrap(), 45);
    node
}

/// Fields of a request as they travel.
fn wire(request: &StoreQueryRequest) -> BTreeMap<String, Vec<u8>> {
    let mut out = BTreeMap::new();
    fields(&request.encode(), "", &NESTED, &mut out);
    let place = |key: String| match key.strip_suffix("[0]") {
        // Fields that come once have no place in the lists.
        Some(name) if !out.contains_key(&format!("{name}[1]")) => name.to_owned(),
        _ => key,
    };
    out.iter().map(|(key, value)| (place(key.clone()), value.clone())).collect()
}

/// What a provider saw, kept and said in one run of the history.
struct Seen {
    requests: Vec<BTreeMap<String, Vec<u8>>>,
    answers: Vec<String>,
    database: BTreeMap<String, Vec<String>>,
    archive: BTreeMap<String, Vec<String>>,
    files: BTreeMap<String, Option<Vec<u8>>>,
    log: Vec<String>,
}

/// Three paid pages, a ticket shown twice, and a query without one.
async fn history(
    shop: &Shop,
    node: &NodeHandle,
    client: &NodeHandle,
    maker: &TicketMaker,
    stream: PayingStream,
    name: &str,
    log: &Log,
) -> Seen {
    log.clear();
    let mut config = shop.config();
    config.folder = shop.path(name).join("provider");
    let mut services = Registry::new();
    let store = StoreConfig::new(Seconds::new(3600).unwrap(), vec![shard().to_string()]);
    services.add(Arc::new(StoreService::new(node.clone(), store).unwrap())).unwrap();
    let parts = ProviderParts {
        node: node.clone(),
        ledger: shop.net.ledger.clone(),
        ticket_key: prover().verifying_key(Circuit::Ticket).unwrap(),
        clock: shop.clock(),
        services,
        claimer: None,
    };
    let provider = Provider::start(config.clone(), parts).await.unwrap();
    provider.turn().await.unwrap();

    shop.net.clock.set(shop.net.now().await);
    let clock = Arc::new(shop.net.clock.clone());
    let price = PagePrice { tickets: 1, page_size: 20 };
    let tickets = Arc::new(StreamTickets::new(maker.clone(), shop.net.ledger.clone(), clock, stream));
    let paid = PaidStore::new(client.clone(), node.peer_id(), tickets, price);
    let query = StoreQueryRequest { pagination_forward: true, ..StoreQueryRequest::by_topics(shard(), [topic()]) };
    let (delivery, pages, error) = paid.query(query.clone(), 10).await;
    assert!(error.is_none(), "{error:?}");
    assert!(delivery.exhausted);
    assert_eq!((delivery.messages.len(), pages.len()), (45, 3));
    let mut answers: Vec<String> = pages.iter().map(answer).collect();
    let replayed = paid.replay(&pages[0]).await.unwrap();
    assert!(matches!(replayed, Verdict::Refused { .. }), "{replayed:?}");
    let (_, refused) = unpaid(client, node.peer_id(), &query).await.unwrap();
    answers.push(spare_nullifier(&format!("{replayed:?}")));
    answers.push(format!("{refused:?}"));
    provider.stop().await;

    Seen {
        requests: pages.iter().map(|page| wire(&page.request)).collect(),
        answers,
        database: database(&config.folder.join("nullifiers.db")).await,
        archive: database(&shop.path("archive.sqlite")).await,
        files: files(&config.folder),
        log: log.lines(),
    }
}

/// A page's answer without its random request id.
fn answer(page: &PaidPage) -> String {
    assert_eq!(page.response.request_id, page.request.request_id);
    let mut response = page.response.clone();
    response.request_id = String::new();
    format!("{response:?}")
}

/// The buyer is told which of its nullifiers was used before; nobody else is.
fn spare_nullifier(text: &str) -> String {
    text.split(' ').map(|word| if word.len() >= 64 { "nullifier" } else { word }).collect::<Vec<_>>().join(" ")
}

#[tokio::test(flavor = "multi_thread")]
async fn a_store_can_not_tell_which_stream_pays_for_a_query() {
    let log = Log::default();
    let programs = ["client", "ledger", "market", "provider", "service_waku", "waku"];
    let filter = programs.map(|name| format!("tributary_{name}=trace")).join(",");
    tracing_subscriber::fmt()
        .with_env_filter(EnvFilter::new(format!("off,{filter}")))
        .without_time()
        .with_ansi(false)
        .with_thread_ids(false)
        .with_writer(log.clone())
        .init();

    let mut shop = Shop::new().await;
    shop.node = archive(&shop).await;
    let node = shop.node.clone();
    let terms = shop.net.stream_to(&shop.payee, 10, 60).await;
    for _ in 0..2 {
        let stream = OpenStream { offer: Some(shop.offer()), ..terms };
        shop.net.run(&shop.payer, 0, Intent::Open(stream)).await;
    }
    // Both are old enough for everybody's root.
    for _ in 0..6 {
        shop.advance(MARGIN).await;
    }
    let maker = shop.maker().await;
    let client = Node::spawn(NodeConfig {
        relay: false,
        limits: NodeLimits::shared_address(),
        ..NodeConfig::new(NodeKey::generate(), ClusterId(42), Sharding::Auto { shards: 8 })
    })
    .await
    .unwrap();
    client.dial_within(&node.listen_addrs().remove(0), PATIENCE).await.unwrap();

    let mut seen = Vec::new();
    for (stream, name) in shop.payer.payer_streams(false).await.unwrap().iter().zip(["first", "second"]) {
        let stream = shop.payer.paying_stream(stream.commitment, shop.offer(), shop.digest(), 1).await.unwrap();
        seen.push(history(&shop, &node, &client, &maker, stream, name, &log).await);
    }
    let [first, second] = &seen[..] else { panic!("two runs") };

    let mut differing = BTreeSet::new();
    for (a, b) in first.requests.iter().zip(&second.requests) {
        assert_eq!(a.keys().collect::<Vec<_>>(), b.keys().collect::<Vec<_>>());
        differing.extend(a.keys().filter(|key| a[*key] != b[*key]).map(String::as_str));
        // Lengths are seen too.
        assert!(a.keys().all(|key| a[key].len() == b[key].len()));
    }
    assert_eq!(differing, BTreeSet::from(WIRE_MAY_DIFFER), "fields on the wire");
    assert_eq!(first.answers, second.answers, "answers");

    for (what, a, b, may) in [
        ("nullifiers", &first.database, &second.database, &DATABASE_MAY_DIFFER[..]),
        ("archive", &first.archive, &second.archive, &[]),
    ] {
        assert_eq!(a.keys().collect::<Vec<_>>(), b.keys().collect::<Vec<_>>());
        let differing: Vec<_> = a.keys().filter(|key| a[*key] != b[*key]).map(String::as_str).collect();
        assert_eq!(differing, may, "columns of the database of {what}");
    }
    assert_eq!(first.database["nullifiers.nullifier"].len(), 3);
    assert_eq!(first.files, second.files, "files beside the database");

    assert!(first.log.iter().any(|line| line.contains("ticket refused")), "refusals are logged: {:?}", first.log);
    assert_eq!(first.log, second.log, "log lines");
    let told = first.log.join("\n").to_lowercase();
    let nullifiers = &first.database["nullifiers.nullifier"];
    let hex = |value: &String| value.trim_matches(|c| c == 'X' || c == '\'').to_lowercase();
    assert!(nullifiers.iter().all(|nullifier| !told.contains(&hex(nullifier))), "no nullifier in a log");
}
