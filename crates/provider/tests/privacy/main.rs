//! The same history twice, paid by one stream and then by another: what a provider can see, keep or log differs only where a list allows it.
//!
//! Needs the circuits' artefacts (`./script/setup`) and the pinned JavaScript tools (`npm ci`).

#[allow(dead_code, reason = "the wallet's tests use more of it")]
#[path = "../../../wallet/tests/wallet/net.rs"]
mod net;
#[allow(dead_code, reason = "the tests on a chain use more of it")]
#[path = "../chain/shop.rs"]
mod shop;

mod look;

use std::collections::{BTreeMap, BTreeSet};

use tracing_subscriber::EnvFilter;
use tributary_provider::till::{Till, Use};
use tributary_waku::PeerId;
use tributary_wallet::tickets::{PayingStream, TicketMaker};
use tributary_wallet::{Intent, OpenStream};

use crate::look::{Log, database, fields, files};
use crate::net::MARGIN;
use crate::shop::{Shop, pay};

/// Nested messages in an `EligibilityProof`, by field numbers: payment proof, ticket proof, ticket.
const NESTED: [&str; 3] = ["1", "1.2", "1.2.1"];

/// What may differ on the wire: signature, the used nullifier, proof, one-time key.
const WIRE_MAY_DIFFER: [&str; 4] = ["1.2.2", "1.2.1.8[0]", "1.2.1.9", "1.2.1.10"];

/// What may differ in the database: the nullifier, and the digest of one-time key and signed request.
const DATABASE_MAY_DIFFER: [&str; 2] = ["nullifiers.nullifier", "nullifiers.request"];

fn wire(proof: &[u8]) -> BTreeMap<String, Vec<u8>> {
    let mut out = BTreeMap::new();
    fields(proof, "", &NESTED, &mut out);
    // Fields that come once have no place in the lists.
    let repeated = out.keys().any(|key| key == "1.2.1.8[1]");
    assert!(repeated, "the four nullifiers");
    out.into_iter()
        .map(|(key, value)| {
            (if key.starts_with("1.2.1.8[") { key } else { key.trim_end_matches("[0]").to_owned() }, value)
        })
        .collect()
}

/// What a provider saw, kept and said in one run of the history.
struct Seen {
    proofs: Vec<BTreeMap<String, Vec<u8>>>,
    answers: Vec<String>,
    database: BTreeMap<String, Vec<String>>,
    files: BTreeMap<String, Option<Vec<u8>>>,
    log: Vec<String>,
    nullifiers: Vec<String>,
}

/// Takes one ticket, refuses a replay of it, fails with another one, refuses a third for a bad signature, and stops.
async fn history(
    shop: &Shop,
    maker: &TicketMaker,
    stream: &PayingStream,
    folder: &str,
    peer: PeerId,
    log: &Log,
) -> Seen {
    log.clear();
    let mut config = shop.config();
    config.folder = shop.path(folder).join("provider");
    let (provider, counter) = shop.open_with(config.clone(), None).await.unwrap();
    provider.turn().await.unwrap();
    let till = counter.till();
    let slot = shop.slot();
    let mut proofs = Vec::new();
    let mut nullifiers = Vec::new();
    let mut answers = Vec::new();
    for _ in 0..3 {
        let ticket = maker.take(stream, slot, 1).await.unwrap();
        nullifiers.push(ticket.statement.nullifiers[0].to_string());
        proofs.push(pay(shop, &ticket, b"a query"));
    }
    let ask = async |till: &Till, proof: &[u8], request: &[u8]| {
        till.admit(Some(proof), Use { peer: Some(peer), request, tickets: 1 }).await
    };
    till.served(ask(&till, &proofs[0], b"a query").await.unwrap()).await.unwrap();
    answers.push(ask(&till, &proofs[0], b"a query").await.unwrap_err().status());
    till.failed(ask(&till, &proofs[1], b"a query").await.unwrap()).await.unwrap();
    answers.push(ask(&till, &proofs[1], b"a query").await.unwrap_err().status());
    answers.push(ask(&till, &proofs[2], b"another query").await.unwrap_err().status());
    drop(till);
    provider.stop().await;
    drop((provider, counter));

    Seen {
        proofs: proofs.iter().map(|proof| wire(proof)).collect(),
        answers: answers.iter().map(|status| format!("{status:?}")).collect(),
        database: database(&config.folder.join("nullifiers.db")).await,
        files: files(&config.folder),
        log: log.lines(),
        nullifiers,
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_provider_can_not_tell_which_stream_pays() {
    let log = Log::default();
    tracing_subscriber::fmt()
        .with_env_filter(EnvFilter::new("off,tributary_provider=trace,tributary_market=trace,tributary_ledger=trace"))
        .without_time()
        .with_ansi(false)
        .with_thread_ids(false)
        .with_writer(log.clone())
        .init();

    let shop = Shop::new().await;
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
    let peer = PeerId::random();
    let mut seen = Vec::new();
    for (stream, folder) in shop.payer.payer_streams(false).await.unwrap().iter().zip(["first", "second"]) {
        let stream = shop.payer.paying_stream(stream.commitment, shop.offer(), shop.digest(), 1).await.unwrap();
        seen.push(history(&shop, &maker, &stream, folder, peer, &log).await);
    }
    let [first, second] = &seen[..] else { panic!("two runs") };

    let mut differing = BTreeSet::new();
    for (a, b) in first.proofs.iter().zip(&second.proofs) {
        assert_eq!(a.keys().collect::<Vec<_>>(), b.keys().collect::<Vec<_>>());
        differing.extend(a.keys().filter(|key| a[*key] != b[*key]).map(String::as_str));
        // Lengths are seen too.
        assert!(a.keys().all(|key| a[key].len() == b[key].len()));
    }
    assert_eq!(differing, BTreeSet::from(WIRE_MAY_DIFFER), "fields on the wire");

    assert_eq!(first.database.keys().collect::<Vec<_>>(), second.database.keys().collect::<Vec<_>>());
    let differing: BTreeSet<_> =
        first.database.keys().filter(|key| first.database[*key] != second.database[*key]).map(String::as_str).collect();
    assert_eq!(differing, BTreeSet::from(DATABASE_MAY_DIFFER), "columns of the database");
    assert_eq!(first.database["nullifiers.nullifier"].len(), 2);
    assert_eq!(first.files, second.files, "files beside the database");

    assert_eq!(first.answers, second.answers, "answers");
    assert!(first.log.len() > 3, "something is logged: {:?}", first.log);
    assert_eq!(first.log, second.log, "log lines");
    // Nothing of what may differ is in the log either, nor the peer's identity anywhere.
    let told = first.log.join("\n");
    assert!(first.nullifiers.iter().all(|nullifier| !told.contains(nullifier.trim_start_matches("0x"))));
    assert!(!told.contains(&peer.to_string()));
    let peer_hex: String = peer.to_bytes().iter().map(|b| format!("{b:02X}")).collect();
    assert!(first.database.values().flatten().all(|value| !value.contains(&peer_hex)));
}
