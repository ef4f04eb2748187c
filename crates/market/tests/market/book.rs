use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use tributary_market::book::{Collector, Equivocation, Insertion, OfferBook, OfferObserver, SharedBook};
use tributary_market::clock::ManualClock;
use tributary_market::offer::{Offer, SignedOffer};
use tributary_market::topics::ContentTopic;
use tributary_market::transport::{Broadcast as _, Keep, LocalBus};
use tributary_protocol::amount::Price;

use crate::common::*;

fn numbered(sequence: u64) -> Offer {
    Offer { sequence, ..offer() }
}

fn signed(offer: &Offer) -> SignedOffer {
    offer.sign(&key(1)).unwrap()
}

/// The same number, another price.
fn contradiction() -> Offer {
    Offer { ticket_price: Price::new(61).unwrap(), ..offer() }
}

#[test]
fn the_newest_sequence_number_wins() {
    let mut book = OfferBook::new(8);
    let put = |book: &mut OfferBook, sequence| book.insert(verify(&signed(&numbered(sequence))), now());
    assert_eq!(put(&mut book, 7), Insertion::New);
    assert_eq!(put(&mut book, 7), Insertion::Known);
    assert_eq!(put(&mut book, 9), Insertion::Newer { replaced: 7, payee_changed: false });
    assert_eq!(put(&mut book, 8), Insertion::Stale { have: 9 });
    assert_eq!(book.len(), 1);
    let peer = key(1).public().to_peer_id();
    assert_eq!(book.get(peer, pool(), now()).unwrap().sequence, 9);
}

#[test]
fn a_change_of_payee_is_told() {
    let mut book = OfferBook::new(8);
    assert_eq!(book.insert(verify(&signed(&offer())), now()), Insertion::New);
    let moved = Offer { payee: payee(1), ..numbered(8) };
    let insertion = book.insert(verify(&signed(&moved)), now());
    assert_eq!(insertion, Insertion::Newer { replaced: 7, payee_changed: true });
}

#[test]
fn pools_are_numbered_apart() {
    let mut book = OfferBook::new(8);
    let other = Offer { pool: other_pool(), ..offer() };
    assert_eq!(book.insert(verify(&signed(&offer())), now()), Insertion::New);
    assert_eq!(book.insert(verify(&signed(&other)), now()), Insertion::New);
    assert_eq!(book.live(now()).count(), 2);
}

#[test]
fn two_offers_with_one_number_prove_misbehaviour() {
    let mut book = OfferBook::new(8);
    let (first, second) = (signed(&offer()), signed(&contradiction()));
    let elsewhere = Offer { pool: other_pool(), ..offer() };
    assert_eq!(book.insert(verify(&signed(&elsewhere)), now()), Insertion::New);
    assert_eq!(book.insert(verify(&first), now()), Insertion::New);
    let Insertion::Equivocation(evidence) = book.insert(verify(&second), now()) else {
        panic!("not noticed");
    };
    assert_eq!(Equivocation::prove(&evidence.first, &evidence.second).unwrap(), *evidence);
    assert_eq!(evidence.provider, key(1).public().to_peer_id());
    // Its offers are gone, in every pool, and none is taken any more.
    assert!(book.is_empty());
    assert_eq!(book.insert(verify(&signed(&numbered(8))), now()), Insertion::Distrusted);
}

#[test]
fn what_proves_nothing_is_told_apart() {
    let first = signed(&offer());
    let code = |second: &SignedOffer| Equivocation::prove(&first, second).map(|_| ()).map_err(|e| e.code());
    assert_eq!(code(&first), Err("TRB-M111"));
    assert_eq!(code(&signed(&numbered(8))), Err("TRB-M111"));
    assert_eq!(code(&signed(&Offer { pool: other_pool(), ..contradiction() })), Err("TRB-M111"));
    assert_eq!(code(&contradiction().sign(&key(2)).unwrap()), Err("TRB-M111"));
    assert_eq!(code(&SignedOffer::from_bytes(vec![1, 2, 3])), Err("TRB-M002"));
    assert_eq!(code(&signed(&contradiction())), Ok(()));
}

#[test]
fn a_reencoded_envelope_is_no_contradiction() {
    // Anybody can append an unknown field to somebody's envelope; the signature still verifies.
    let mut book = OfferBook::new(8);
    let first = signed(&offer());
    let mut bytes = first.as_bytes().to_vec();
    bytes.extend_from_slice(&[0x78, 0x01]);
    assert_eq!(book.insert(verify(&first), now()), Insertion::New);
    assert_eq!(book.insert(verify(&SignedOffer::from_bytes(bytes)), now()), Insertion::Known);
}

#[test]
fn expired_offers_are_neither_shown_nor_in_the_way() {
    let mut book = OfferBook::with_seed(2, 3);
    let soon = Offer { expires_at: time(NOW + 10), ..offer() };
    for byte in [1, 2] {
        let which = if byte == 1 { &soon } else { &offer() };
        assert_eq!(book.insert(verify(&which.sign(&key(byte)).unwrap()), now()), Insertion::New);
    }
    let later = time(NOW + 10);
    assert_eq!(book.live(now()).count(), 2);
    assert_eq!(book.live(later).count(), 1);
    assert_eq!(book.insert(verify(&offer().sign(&key(3)).unwrap()), later), Insertion::New);
    assert_eq!(book.len(), 2);
    assert_eq!(book.live(later).count(), 2);
}

#[test]
fn a_full_book_stays_bounded_and_keeps_whom_the_user_deals_with() {
    let mut book = OfferBook::with_seed(10, 5);
    let friend = key(1).public().to_peer_id();
    assert_eq!(book.insert(verify(&signed(&offer())), now()), Insertion::New);
    book.pin(friend);
    for byte in 2..=20 {
        assert_eq!(book.insert(verify(&offer().sign(&key(byte)).unwrap()), now()), Insertion::New);
        assert!(book.len() <= 10);
    }
    assert!(book.get(friend, pool(), now()).is_some());
    let known = |byte: u8| book.get(key(byte).public().to_peer_id(), pool(), now()).is_some();
    // Room is made by drawing: the last always came in, and some of the first are still there.
    assert!(known(20));
    assert!((2..=10).any(known));
}

#[tokio::test]
async fn a_collector_fills_the_book_from_the_topic() {
    #[derive(Default)]
    struct Observer(AtomicUsize);
    impl OfferObserver for Observer {
        fn equivocation(&self, evidence: &Equivocation) {
            assert_eq!(evidence.sequence, 7);
            self.0.fetch_add(1, Ordering::SeqCst);
        }
    }

    let bus = LocalBus::new();
    let book = SharedBook::new(OfferBook::new(8));
    let observer = Arc::new(Observer::default());
    let collector = Collector::new(book.clone(), [pool()], Arc::new(ManualClock::new(now())), observer.clone());
    let offers = collector.listen(&bus).await.unwrap();
    let task = tokio::spawn(async move { collector.run(offers).await });
    let topic = ContentTopic::offers();
    let publish = async |payload: Vec<u8>| bus.publish(&topic, payload, Keep::Stored).await.unwrap();

    // Garbage, and offers for pools that nobody here knows, change nothing.
    publish(vec![0; 100]).await;
    publish(Offer { pool: other_pool(), ..offer() }.sign(&key(3)).unwrap().as_bytes().to_vec()).await;
    publish(offer().sign(&key(2)).unwrap().as_bytes().to_vec()).await;
    let found = book.wait_for(|book| book.live(now()).next().cloned()).await;
    assert_eq!(found.peer_id(), key(2).public().to_peer_id());
    assert_eq!(book.lock().len(), 1);

    publish(signed(&offer()).as_bytes().to_vec()).await;
    book.wait_for(|book| (book.len() == 2).then_some(())).await;
    publish(signed(&contradiction()).as_bytes().to_vec()).await;
    book.wait_for(|book| (book.len() == 1).then_some(())).await;
    // The observer is told after the book has changed.
    while observer.0.load(Ordering::SeqCst) == 0 {
        tokio::task::yield_now().await;
    }
    task.abort();
}
