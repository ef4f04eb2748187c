//! Whole messages, byte for byte: `vectors.json` beside this file. `TRIBUTARY_WRITE_VECTORS=1` writes it anew.

use std::path::PathBuf;

use rand::SeedableRng as _;
use rand::rngs::StdRng;
use serde_json::{Value, json};
use tributary_market::lease::{Lease, LeaseReason, LeaseRefusal, LeaseRequest, LeaseResponse, LeaseTerms, LeasedSlot};
use tributary_market::negotiate::{QuoteRequest, RequestId, Source, Terms, Wanted};
use tributary_market::offer::{OfferId, RateClassId, ServiceId};
use tributary_market::sealed::{self, EncryptionSecret};
use tributary_market::ticket::Reason;
use tributary_market::topics::ContentTopic;
use tributary_protocol::amount::{Price, Rate};
use zeroize::Zeroizing;

use crate::{common::*, negotiate::provider};

/// Requests for quotes, and what a provider of the tests' offer answers at the tests' time: the same bytes to a peer and to a sealed request.
fn negotiation(quoted: &QuoteRequest) -> Value {
    let dear = QuoteRequest { max_ticket_price: Price::new(59).unwrap(), ..quoted.clone() };
    let crowded = QuoteRequest { load: 1000, min_load: 1000, ..quoted.clone() };
    let late = QuoteRequest { round: 4, ..quoted.clone() };
    let requests = [
        ("quote", quoted.encode()),
        ("price_too_high", dear.encode()),
        ("load", crowded.encode()),
        ("too_many_rounds", late.encode()),
        ("malformed", b"nonsense".to_vec()),
    ];
    let runtime = tokio::runtime::Builder::new_current_thread().build().unwrap();
    let answered = requests.map(|(name, request)| {
        // A provider for each, as if nobody had asked before.
        let [directly, sealed] = [Source::Peer(key(50).public().to_peer_id()), Source::Sealed]
            .map(|source| runtime.block_on(provider().negotiator.answer(source, &request)).unwrap());
        assert_eq!(directly, sealed, "{name}: the way that a request takes changes nothing");
        json!({ "case": name, "request": hex::encode(request), "answer": hex::encode(directly) })
    });
    json!({ "now": NOW, "answers": answered })
}

fn vectors() -> Value {
    let provider = key(1);
    let signed = offer().sign(&provider).unwrap();
    let verified = verify(&signed);
    let terms = Terms {
        offer_id: verified.id(),
        service: ServiceId::store(),
        rate_class: RateClassId(1),
        duration: seconds(3600),
        start_deadline: time(NOW + 300),
        load_cap: 10,
    };
    let mut rng = StdRng::seed_from_u64(1);
    let request = QuoteRequest {
        request_id: RequestId::random(&mut rng),
        offer_id: verified.id(),
        service: ServiceId::store(),
        wanted: Wanted::Anything,
        rate_class: RateClassId(1),
        start: now(),
        duration: seconds(3600),
        load: 10,
        min_load: 1,
        max_ticket_price: Price::new(60).unwrap(),
        max_rate: Rate::new(1000).unwrap(),
        round: 0,
    };
    let identity = Zeroizing::new([7; 32]);
    let secret = EncryptionSecret::derive(&identity);
    let sealed_box = sealed::seal(&secret.public(), b"context", b"message", &mut rng).unwrap();
    assert_eq!(secret.open(b"context", &sealed_box).unwrap(), b"message");
    let lease = LeaseTerms {
        peer: provider.public().to_peer_id(),
        service: ServiceId::filter(),
        slot_start: time(NOW),
        quota: 10,
    };
    let buy = LeaseRequest::Buy { terms: lease.clone(), eligibility_proof: b"proof".to_vec() };
    let query = LeaseRequest::Query { service: ServiceId::filter() };
    let slots = [(NOW, 10, 4), (NOW + 60, 20, 0)].map(|(at, quota, used)| LeasedSlot { start: time(at), quota, used });
    let granted =
        Lease { service: ServiceId::filter(), slots: slots.to_vec(), until: time(NOW + 135), grace: seconds(15) };
    let response = LeaseResponse::new(None, Some(granted), time(NOW + 5));
    let refused = LeaseResponse::new(Some(&LeaseRefusal::Full { max: 75 }), None, time(NOW + 5));
    assert_eq!(LeaseResponse::decode(&refused.encode()).unwrap(), refused);
    // What a buyer's program in another language goes by.
    let tickets = Reason::ALL
        .map(|r| json!({ "status": r.status_code(), "reason": r.name(), "code": r.code(), "remedy": r.remedy() }));
    let terms_of_leases =
        LeaseReason::ALL.map(|r| json!({ "status": r.status_code(), "reason": r.name(), "code": r.code() }));
    for request in [&buy, &query] {
        assert_eq!(LeaseRequest::decode(&request.encode()).unwrap(), *request);
    }
    assert_eq!(LeaseResponse::decode(&response.encode()).unwrap(), response);
    json!({
        "lease": {
            "peer_id": lease.peer.to_string(),
            "service": "filter",
            "slot_start": NOW,
            "quota": 10,
            "signed": hex::encode(lease.signing_bytes()),
            "eligibility_proof": hex::encode(b"proof"),
            "buy": hex::encode(buy.encode()),
            "query": hex::encode(query.encode()),
            "response": hex::encode(response.encode()),
            "refused": hex::encode(refused.encode()),
            "refusals": { "tickets": tickets, "terms": terms_of_leases },
        },
        "offer": {
            "ed25519_secret": hex::encode([1; 32]),
            "peer_id": provider.public().to_peer_id().to_string(),
            "envelope": hex::encode(signed.as_bytes()),
            "offer_id": verified.id().to_string(),
        },
        "terms": {
            "offer_id": verified.id().to_string(),
            "service": "store",
            "rate_class": 1,
            "duration": 3600,
            "start_deadline": NOW + 300,
            "load_cap": 10,
            "hash": hex::encode(terms.hash()),
        },
        "quote_request": hex::encode(request.encode()),
        "negotiation": negotiation(&request),
        "sealed": {
            "identity_secret": hex::encode(*identity),
            "public_key": hex::encode(secret.public().as_bytes()),
            "request_topic": ContentTopic::requests_of(&secret.public()).to_string(),
            "context": hex::encode(b"context"),
            "message": hex::encode(b"message"),
            "box": hex::encode(sealed_box),
        },
    })
}

#[test]
fn messages_keep_their_bytes() {
    let path = PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("tests/market/vectors.json");
    let fresh = vectors();
    if std::env::var_os("TRIBUTARY_WRITE_VECTORS").is_some() {
        std::fs::write(&path, serde_json::to_string_pretty(&fresh).unwrap() + "\n").unwrap();
    }
    let committed: Value = serde_json::from_slice(&std::fs::read(&path).unwrap()).unwrap();
    assert_eq!(committed, fresh, "if the change is wanted, it needs a new version on the wire");

    // What stands in the file opens, whoever wrote it.
    let bytes = |pointer: &str| hex::decode(committed.pointer(pointer).unwrap().as_str().unwrap()).unwrap();
    let signed = tributary_market::offer::SignedOffer::from_bytes(bytes("/offer/envelope"));
    let verified = verify(&signed);
    assert_eq!(verified.offer(), &offer());
    assert_eq!(verified.id(), OfferId::from_bytes(&bytes("/offer/offer_id")).unwrap());
    let mut identity = Zeroizing::new([0; 32]);
    identity.copy_from_slice(&bytes("/sealed/identity_secret"));
    let opened = EncryptionSecret::derive(&identity).open(&bytes("/sealed/context"), &bytes("/sealed/box"));
    assert_eq!(opened.unwrap(), bytes("/sealed/message"));
}

/// A second implementation, in another language, written from the specification.
#[test]
fn another_implementation_reads_the_committed_messages() {
    let script = PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("tests/market/vectors.mjs");
    let output = std::process::Command::new("node").arg(script).output().expect("Node.js runs");
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
}
