//! Whatever arrives is refused or understood, and never ends the program. What is understood means the same when it is written again.

use prost::Message as _;
use rand::Rng as _;
use rand::rngs::StdRng;
use tributary_market::envelope::{self, PayloadType};
use tributary_market::lease::{Lease, LeaseRequest, LeaseResponse, LeaseTerms, LeasedSlot};
use tributary_market::negotiate::buyer::verify_answer;
use tributary_market::negotiate::{QuoteRequest, RequestId, Wanted};
use tributary_market::offer::{OfferContext, RateClassId, ServiceId, SignedOffer};
use tributary_market::proto;
use tributary_market::relay::{RelayContext, RelayQuote, VerifiedAnnouncement};
use tributary_market::ticket::TicketVerifier;
use tributary_protocol::amount::{Amount, Price, Rate};
use tributary_protocol::ticket::{OfferTerms, ProviderDigest};

use crate::common::*;

const ROUNDS: usize = 3000;

/// Changes a few bytes, cuts, repeats, or inserts.
fn mutate(bytes: &[u8], rng: &mut StdRng) -> Vec<u8> {
    let mut bytes = bytes.to_vec();
    for _ in 0..rng.gen_range(1..4) {
        let at = rng.gen_range(0..=bytes.len());
        match rng.gen_range(0..5) {
            0 => bytes.truncate(at),
            1 => bytes.insert(at, rng.r#gen()),
            2 if at < bytes.len() => bytes[at] ^= 1 << rng.gen_range(0..8),
            3 if at < bytes.len() => {
                bytes.remove(at);
            }
            _ => bytes.extend_from_within(at..),
        }
        bytes.truncate(6000);
    }
    bytes
}

/// Runs `read` on changed payloads under valid signatures, and on changed envelopes. Says how often it understood.
fn payloads(kind: PayloadType, signed: &[u8], mut read: impl FnMut(&[u8]) -> bool) -> usize {
    let mut rng = rng();
    assert!(read(signed), "the original is understood");
    let payload = envelope::open(kind, signed, 8192).unwrap().payload;
    let mut understood = 0;
    for _ in 0..ROUNDS {
        let changed = envelope::seal(&key(1), kind, mutate(&payload, &mut rng)).unwrap();
        understood += usize::from(read(&changed));
        read(&mutate(signed, &mut rng));
    }
    understood
}

#[test]
fn offers() {
    let signed = offer().sign(&key(1)).unwrap();
    let understood = payloads(PayloadType::Offer, signed.as_bytes(), |bytes| {
        let context = OfferContext { now: now(), pools: &[pool()] };
        let Ok(read) = SignedOffer::from_bytes(bytes.to_vec()).verify(&context) else { return false };
        let again = read.offer().sign(&key(1)).unwrap().verify(&context).unwrap();
        assert_eq!(again.offer(), read.offer());
        true
    });
    // Some changes hit numbers that may well be others.
    assert!(understood > 0);
}

#[test]
fn announcements_and_relay_quotes() {
    let secret = tributary_market::sealed::EncryptionSecret::random(&mut rng());
    let signed = crate::relay::announcement(secret.public(), 100).sign(&key(1)).unwrap();
    payloads(PayloadType::RelayerAnnouncement, &signed, |bytes| {
        let context = RelayContext { now: now(), pools: &[pool()] };
        let Ok(read) = VerifiedAnnouncement::verify(bytes, &context) else { return false };
        let again = read.announcement().sign(&key(1)).unwrap();
        assert_eq!(VerifiedAnnouncement::verify(&again, &context).unwrap(), read);
        true
    });
    let quote = RelayQuote {
        quote_id: [7; 16],
        pool: pool(),
        operation: tributary_market::relay::RelayOperation::Transact,
        with_insertion: true,
        fee: Amount::new(100).unwrap(),
        account: alloy_primitives::Address::repeat_byte(1),
        valid_until: time(NOW + 10),
    };
    payloads(PayloadType::RelayQuote, &quote.sign(&key(1)).unwrap(), |bytes| {
        let Ok(read) = RelayQuote::verify(bytes, &key(1).public(), now()) else { return false };
        let again = read.sign(&key(1)).unwrap();
        assert_eq!(RelayQuote::verify(&again, &key(1).public(), now()).unwrap(), read);
        true
    });
}

#[test]
fn quotes() {
    let offer = verified(&offer(), &key(1));
    let request = QuoteRequest {
        request_id: RequestId::random(&mut rng()),
        offer_id: offer.id(),
        service: ServiceId::store(),
        wanted: Wanted::Anything,
        rate_class: RateClassId(1),
        start: now(),
        duration: seconds(3600),
        load: 10,
        min_load: 1,
        max_ticket_price: Price::new(60).unwrap(),
        max_rate: Rate::new(10).unwrap(),
        round: 0,
    };
    let id = proto::QuoteRequest::decode(request.encode().as_slice()).unwrap().request_id;
    let refusal = proto::Refusal { version: 1, request_id: id, code: 10, policy: "load".into(), ..Default::default() };
    let signed = envelope::seal(&key(1), PayloadType::Refusal, refusal.encode_to_vec()).unwrap();
    payloads(PayloadType::Refusal, &signed, |bytes| verify_answer(bytes, &request, &offer, now()).is_ok());
}

#[test]
fn tickets() {
    let verifier = TicketVerifier {
        clock: clock(),
        provider: ProviderDigest::of_peer_id(b"provider"),
        terms: OfferTerms {
            payee: payee(0).owner(),
            price: Price::new(60).unwrap(),
            min_streamed: Amount::new(600).unwrap(),
        },
        slot_carry: seconds(30),
        root_depth: 1,
    };
    let proof = crate::ticket::prepared(1).pay(&verifier.provider, b"request");
    let mut rng = rng();
    let mut understood = 0;
    for _ in 0..ROUNDS {
        let changed = mutate(&proof, &mut rng);
        if let Ok(ticket) = verifier.decode(&changed) {
            understood += 1;
            // The verifier's own values stay the verifier's own.
            assert_eq!(ticket.statement().payee, verifier.terms.payee);
            assert!((1..=4).contains(&ticket.count()));
            let _ = verifier.check_terms(&ticket);
            let _ = verifier.check_signature(&ticket, b"request");
        }
        let _ = verifier.decode_paid_request(&changed, 1 << 16);
    }
    assert!(understood > 0);
}

#[test]
fn leases() {
    let (peer, service) = (key(1).public().to_peer_id(), ServiceId::filter());
    let terms = LeaseTerms { peer, service: service.clone(), slot_start: now(), quota: 10 };
    let request = LeaseRequest::Buy { terms, eligibility_proof: vec![7; 650] }.encode();
    let slots = vec![LeasedSlot { start: now(), quota: 10, used: 1 }];
    let lease = Lease { service, slots, until: time(NOW + 75), grace: seconds(15) };
    let response = LeaseResponse::new(None, Some(lease), now()).encode();
    let mut rng = rng();
    let mut understood = [0; 2];
    for _ in 0..ROUNDS {
        match LeaseRequest::decode(&mutate(&request, &mut rng)) {
            Ok(read) => {
                understood[0] += 1;
                assert_eq!(LeaseRequest::decode(&read.encode()).unwrap(), read);
            }
            Err(refusal) => assert!(["TRB-M451", "TRB-M452"].contains(&refusal.code())),
        }
        if let Ok(read) = LeaseResponse::decode(&mutate(&response, &mut rng)) {
            understood[1] += 1;
            let _ = read.verdict();
            assert_eq!(LeaseResponse::decode(&read.encode()).unwrap(), read);
        }
    }
    assert!(understood.iter().all(|n| *n > 0), "{understood:?}");
}
