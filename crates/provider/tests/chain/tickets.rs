//! Tickets of real streams, under roots and lists of a real chain.

use futures::StreamExt as _;
use rand::SeedableRng as _;
use tributary_market::lease::{self, LeaseRequest, LeaseResponse, LeaseTerms, LeaseVerdict};
use tributary_market::negotiate::buyer::Answer;
use tributary_market::negotiate::{self, QuoteRequest, RequestId, StoreWanted, Wanted};
use tributary_market::offer::{OfferContext, RateClassId, ServiceId, SignedOffer};
use tributary_market::ticket::{Reason, TicketRefusal};
use tributary_market::topics::ContentTopic;
use tributary_market::transport::{Broadcast, Exchange};
use tributary_protocol::{Price, Rate, Seconds};
use tributary_provider::daemon::Provider;
use tributary_provider::store::OnMissing;
use tributary_provider::till::{Admission, Till, Use};
use tributary_wallet::Intent;
use tributary_wallet::tickets::TicketError;

use crate::net::{L, MARGIN};
use crate::shop::{PATIENCE, Shop, node, pay};

const REQUEST: &[u8] = b"a query";

async fn admit(till: &Till, proof: &[u8]) -> Result<Admission, TicketRefusal> {
    till.admit(Some(proof), Use { peer: None, request: REQUEST, tickets: 1 }).await
}

async fn serve(till: &Till, proof: &[u8]) {
    till.served(admit(till, proof).await.unwrap()).await.unwrap();
}

async fn reason(till: &Till, proof: &[u8]) -> Reason {
    admit(till, proof).await.expect_err("the ticket must be refused").reason()
}

#[tokio::test(flavor = "multi_thread")]
async fn a_streams_tickets_are_taken_up_to_what_it_pays() {
    let shop = Shop::new().await;
    let (provider, counter) = shop.open().await;
    let stream = shop.stream().await;
    let maker = shop.maker().await;
    let slot = shop.slot();
    let till = counter.till();
    // 600 a slot pay for six tickets of 100.
    let mut last = Vec::new();
    for _ in 0..6 {
        last = pay(&shop, &maker.take(&stream, slot, 1).await.unwrap(), REQUEST);
        serve(&till, &last).await;
    }
    assert!(matches!(maker.take(&stream, slot, 1).await, Err(TicketError::SlotUsedUp { .. })));
    assert_eq!(reason(&till, &last).await, Reason::AlreadyServed);
    // A wallet that lost its counter makes the first ticket again: the same nullifier.
    let again = tributary_wallet::tickets::TicketMaker::open(
        &shop.path("tickets-fresh.sqlite"),
        shop.net.ledger.clone(),
        crate::net::prover(),
        None,
    )
    .await
    .unwrap();
    let first = again.take(&stream, slot, 1).await.unwrap();
    assert_eq!(reason(&till, &pay(&shop, &first, REQUEST)).await, Reason::Replayed);
    assert_eq!(provider.snapshot().services["store"].served, 6);

    // The next slot pays anew, and its four tickets travel in one proof.
    let next = shop.net.ledger.clock().next(slot).unwrap();
    let four = maker.take(&stream, next, 4).await.unwrap();
    let proof = pay(&shop, &four, REQUEST);
    let admission = till.admit(Some(&proof), Use { peer: None, request: REQUEST, tickets: 4 }).await.unwrap();
    till.served(admission).await.unwrap();
    assert_eq!(provider.snapshot().tickets.tickets, 10);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_root_must_be_known_deep_and_still_on_the_chain() {
    let shop = Shop::new().await;
    let (_provider, counter) = shop.open().await;
    let stream = shop.stream().await;
    let maker = shop.maker().await;
    let slot = shop.slot();
    // A newer root in the head block, which nobody else uses yet.
    shop.net.deposit(&shop.payer, 0, 5).await;
    let newest = shop.net.ledger.newest_root();
    assert_eq!(shop.net.ledger.depth(newest.block), 1);
    let shallow = tributary_wallet::tickets::PayingStream { root_depth: 0, ..stream.clone() };
    let ticket = maker.take(&shallow, slot, 1).await.unwrap();
    let till = counter.till();
    let proof = pay(&shop, &ticket, REQUEST);
    if ticket.statement.root == newest.root {
        assert_eq!(reason(&till, &proof).await, Reason::ShallowRoot);
        // The chain loses the insertion: the root never was.
        shop.net.reorganise(1).await;
        shop.net.sync(&[&shop.payer]).await;
        assert_eq!(reason(&till, &proof).await, Reason::UnknownRoot);
        shop.net.insert().await;
        shop.net.mine(1).await;
        shop.net.sync(&[&shop.payer]).await;
    }
    // The very same ticket: a refusal didn't spend it.
    serve(&till, &proof).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_stopped_stream_pays_until_its_stop_and_no_further() {
    let shop = Shop::new().await;
    let (_provider, counter) = shop.open().await;
    let stream = shop.stream().await;
    let maker = shop.maker().await;
    let commitment = shop.payer.payer_streams(false).await.unwrap()[0].commitment;
    shop.net.run(&shop.payer, 0, Intent::Close { stream: commitment }).await;
    let stop = shop.payer.payer_stream(commitment).await.unwrap().record.stop.unwrap();
    // To the last slot that it pays.
    let clock = shop.net.ledger.clock();
    let last = clock.slot_at(stop.checked_sub(clock.slot_length()).unwrap()).unwrap();
    while shop.slot() < last {
        shop.advance(L / 2).await;
    }
    let till = counter.till();
    serve(&till, &pay(&shop, &maker.take(&stream, last, 1).await.unwrap(), REQUEST)).await;
    // The list of the next slot is final, and has its tag: no proof can be made.
    let next = clock.next(last).unwrap();
    shop.advance(MARGIN).await;
    assert!(shop.net.ledger.is_final(next));
    let refused = maker.take(&stream, next, 1).await;
    assert!(refused.is_err(), "a ticket of a slot that the stream doesn't pay");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_restarted_provider_remembers_and_a_lost_store_is_noticed() {
    let shop = Shop::new().await;
    let stream = shop.stream().await;
    let maker = shop.maker().await;
    let slot = shop.slot();
    let (provider, counter) = shop.open().await;
    provider.turn().await.unwrap();
    assert_eq!(provider.snapshot().offer_published, None, "nobody is there to hear it");
    let proof = pay(&shop, &maker.take(&stream, slot, 1).await.unwrap(), REQUEST);
    serve(&counter.till(), &proof).await;
    provider.stop().await;
    drop(provider);

    let (provider, counter) = shop.open().await;
    assert_eq!(reason(&counter.till(), &proof).await, Reason::AlreadyServed);
    provider.stop().await;
    drop((provider, counter));

    let folder = shop.config().folder;
    for name in ["nullifiers.db", "nullifiers.db-wal", "nullifiers.db.witness"] {
        let _ = std::fs::remove_file(folder.join(name));
    }
    let error = shop.open_with(shop.config(), None).await.unwrap_err();
    assert_eq!(error.code(), "TRB-5001", "{error}");
    // The operator says that it is lost: nothing that can have been sold is sold again.
    let mut config = shop.config();
    config.on_missing = OnMissing::Lost;
    let (_provider, counter) = shop.open_with(config, None).await.unwrap();
    assert_eq!(reason(&counter.till(), &proof).await, Reason::StaleSlot);
}

#[tokio::test(flavor = "multi_thread")]
async fn leases_are_sold_over_the_node_until_the_provider_stops() {
    let shop = Shop::new().await;
    let (provider, counter) = shop.open().await;
    let stream = shop.stream().await;
    let maker = shop.maker().await;
    let buyer = node().await;
    buyer.dial_within(&shop.node.listen_addrs()[0], PATIENCE).await.unwrap();
    let ask = async |request: Vec<u8>| {
        let answer = Exchange::request(&buyer, shop.node.peer_id(), &[], lease::PROTOCOL, request).await?;
        Ok::<_, tributary_market::transport::TransportError>(LeaseResponse::decode(&answer).unwrap())
    };
    let running = shop.slot();
    let next = shop.net.ledger.clock().next(running).unwrap();
    // Renewed ahead of its end, as soon as the next slot's tickets can be made.
    for (slot, quota) in [(running, 2), (next, 3)] {
        let terms = LeaseTerms { peer: buyer.peer_id(), service: ServiceId::store(), slot_start: slot.start(), quota };
        let ticket = maker.take(&stream, slot, u8::try_from(quota).unwrap()).await.unwrap();
        let eligibility_proof = pay(&shop, &ticket, &terms.signing_bytes());
        let answer = ask(LeaseRequest::Buy { terms, eligibility_proof }.encode()).await.unwrap();
        assert_eq!(answer.verdict(), LeaseVerdict::Granted);
        assert_eq!(answer.lease.unwrap().until, slot.end().saturating_add(Seconds::new(10).unwrap()));
    }
    let snapshot = provider.snapshot();
    assert_eq!((snapshot.leases["store"].granted, snapshot.leases["store"].held), (2, 1));
    assert_eq!((snapshot.services["store"].served, snapshot.tickets.tickets), (2, 5));
    provider.turn().await.unwrap();
    assert_eq!(counter.turns(), 1);
    let query = LeaseRequest::Query { service: ServiceId::store() }.encode();
    assert_eq!(ask(query.clone()).await.unwrap().lease.unwrap().slots.len(), 2);
    provider.stop().await;
    assert!(ask(query).await.is_err());
}

#[tokio::test(flavor = "multi_thread")]
async fn offers_and_quotes_go_over_the_node() {
    let shop = Shop::new().await;
    let (provider, _counter) = shop.open().await;
    let buyer = node().await;
    buyer.dial_within(&shop.node.listen_addrs()[0], PATIENCE).await.unwrap();
    let mut offers = Broadcast::subscribe(&buyer, &ContentTopic::offers()).await.unwrap();
    let shard = buyer.pubsub_topic(&tributary_waku::ContentTopic::opaque(ContentTopic::offers().as_str())).unwrap();
    shop.node.wait_for_mesh(shard, 1, PATIENCE).await.unwrap();
    assert_eq!(provider.snapshot().offer, None);
    provider.turn().await.unwrap();
    assert_eq!(provider.snapshot().offer_published, Some(shop.clock().now()));
    let bytes = tokio::time::timeout(PATIENCE, offers.next()).await.unwrap().unwrap();
    let now = shop.clock().now();
    let pools = [shop.net.ledger.pool()];
    let offer = SignedOffer::from_bytes(bytes).verify(&OfferContext { now, pools: &pools }).unwrap();
    assert_eq!(offer.peer_id(), shop.node.peer_id());
    assert_eq!(Some(offer.id()), provider.snapshot().offer);

    let request = QuoteRequest {
        request_id: RequestId::random(&mut rand::rngs::StdRng::seed_from_u64(1)),
        offer_id: offer.id(),
        service: ServiceId::store(),
        wanted: Wanted::Store(StoreWanted {
            retention: Seconds::new(60).unwrap(),
            pubsub_topic: "/waku/2/rs/42/7".to_owned(),
            content_topics: vec![],
        }),
        rate_class: RateClassId(1),
        start: now,
        duration: Seconds::new(600).unwrap(),
        load: 5,
        min_load: 1,
        max_ticket_price: Price::new(100).unwrap(),
        max_rate: Rate::new(10).unwrap(),
        round: 0,
    };
    let answer =
        Exchange::request(&buyer, shop.node.peer_id(), &offer.multiaddrs, negotiate::PROTOCOL, request.encode())
            .await
            .unwrap();
    match negotiate::buyer::verify_answer(&answer, &request, &offer, now).unwrap() {
        Answer::Quote(agreed) => assert_eq!(agreed.quote().terms.load_cap, 5),
        Answer::Refusal(refusal) => panic!("{refusal:?}"),
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_provider_refuses_what_does_not_belong_together() {
    let shop = Shop::new().await;
    let code =
        async |config| shop.open_with(config, None).await.map(|_: (Provider, _)| ()).unwrap_err().code().to_owned();
    let mut config = shop.config();
    config.terms.pool.chain_id = 1;
    assert_eq!(code(config).await, "TRB-5502");
    let mut config = shop.config();
    config.terms.rate_classes.clear();
    // It starts, but no offer can be made of this.
    let (provider, _counter) = shop.open_with(config, None).await.unwrap();
    assert!(provider.turn().await.is_err());
    provider.stop().await;
    let mut config = shop.config();
    config.terms.payee = shop.payer.address();
    assert_eq!(code(config).await, "TRB-5002");
}
