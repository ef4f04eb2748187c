//! Tickets: numbers never used twice, roots, stops, restarts.

use std::{collections::HashSet, path::Path};

use tokio::sync::watch;
use tributary_protocol::{
    Circuit, Price, ProviderDigest, Slot,
    ticket::{OfferTerms, RatingTier},
};
use tributary_prover::Proof;
use tributary_wallet::{
    Intent, Wallet,
    tickets::{Demand, MadeTicket, PayingStream, TicketError, TicketMaker},
};

use crate::net::{L, MARGIN, Net, amount, code, prover};

struct Buyer {
    net: Net,
    payer: Wallet,
    payee: Wallet,
    stream: PayingStream,
}

impl Buyer {
    /// A stream of 10 base units a second, so 600 a slot, that started two slots ago; a ticket costs 100.
    async fn start() -> Self {
        let net = Net::start().await;
        let (payer, payee) = (net.wallet(1).await, net.wallet(2).await);
        net.deposit(&payer, 0, 1_000_000).await;
        let offer =
            OfferTerms { payee: payee.address().owner(), price: Price::new(100).unwrap(), min_streamed: amount(600) };
        let stream = tributary_wallet::OpenStream { offer: Some(offer), ..net.stream_to(&payee, 10, 60).await };
        net.run(&payer, 0, Intent::Open(stream)).await;
        let commitment = payer.payer_streams(false).await.unwrap()[0].commitment;
        net.advance(MARGIN).await;
        net.advance(MARGIN).await;
        net.sync(&[&payer, &payee]).await;
        let provider = ProviderDigest::of_peer_id(b"a provider");
        let stream = payer.paying_stream(commitment, offer, provider, 1).await.unwrap();
        Self { net, payer, payee, stream }
    }

    fn path(&self) -> std::path::PathBuf {
        self.net.dir.path().join("tickets.sqlite")
    }

    async fn maker(&self, path: &Path) -> TicketMaker {
        self.payer.tickets(path).await.unwrap()
    }

    fn slot(&self) -> Slot {
        self.net.ledger.clock().slot_of(self.net.ledger.head_time().unwrap()).unwrap()
    }

    fn check(&self, ticket: &MadeTicket) {
        let list = self.net.ledger.stopped_list(ticket.slot).unwrap();
        ticket.statement.check_ticket(&self.net.ledger.clock(), &self.stream.terms, list.root()).unwrap();
        let key = prover().verifying_key(Circuit::Ticket).unwrap();
        key.verify(&ticket.statement.public_inputs(), &Proof::from_bytes(&ticket.proof).unwrap()).unwrap();
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_number_is_never_used_twice_even_over_restarts() {
    let buyer = Buyer::start().await;
    let slot = buyer.slot();
    let mut seen = HashSet::new();
    let mut taken = 0;
    // Three processes, each ends with a ticket made and not taken.
    for _ in 0..2 {
        let maker = buyer.maker(&buyer.path()).await;
        assert_eq!(maker.prepare(&buyer.stream, slot, 1, 2).await.unwrap(), 2);
        let ticket = maker.take_ready(&buyer.stream, slot, 1).unwrap();
        buyer.check(&ticket);
        assert!(seen.insert(ticket.statement.nullifiers[0]));
        taken += 1;
    }
    let maker = buyer.maker(&buyer.path()).await;
    // 600 pay for 6; 4 are used.
    let pair = maker.take(&buyer.stream, slot, 2).await.unwrap();
    buyer.check(&pair);
    assert!(pair.statement.used_nullifiers().iter().all(|nf| seen.insert(*nf)));
    taken += 2;
    let error = maker.take(&buyer.stream, slot, 1).await.unwrap_err();
    assert!(matches!(error, TicketError::SlotUsedUp { used: 6, capacity: 6, .. }), "{error:?}");
    assert_eq!(seen.len(), taken);
    // The next slot has its own.
    let next = buyer.net.ledger.clock().next(slot).unwrap();
    let ticket = maker.take(&buyer.stream, next, 4).await.unwrap();
    assert!(ticket.statement.used_nullifiers().iter().all(|nf| seen.insert(*nf)));
    // Many at once.
    let further = buyer.net.ledger.clock().next(next).unwrap();
    assert!(buyer.net.ledger.is_final(further) || buyer.net.ledger.latest_final_slot() == Some(next));
    buyer.net.advance(L).await;
    buyer.net.sync(&[&buyer.payer]).await;
    let (a, b, c) = tokio::join!(
        maker.take(&buyer.stream, further, 1),
        maker.take(&buyer.stream, further, 1),
        maker.take(&buyer.stream, further, 1)
    );
    for ticket in [a, b, c] {
        assert!(seen.insert(ticket.unwrap().statement.nullifiers[0]));
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_ticket_that_waits_is_taken_at_once_and_stays_as_it_is() {
    let buyer = Buyer::start().await;
    let maker = buyer.maker(&buyer.path()).await;
    let slot = buyer.slot();
    maker.prepare(&buyer.stream, slot, 1, 3).await.unwrap();
    let started = std::time::Instant::now();
    let first = maker.take_ready(&buyer.stream, slot, 1).unwrap();
    assert!(started.elapsed() < std::time::Duration::from_millis(1), "{:?}", started.elapsed());
    // A newer root changes nothing about those that wait.
    buyer.net.deposit(&buyer.payer, 0, 5).await;
    let second = maker.take_ready(&buyer.stream, slot, 1).unwrap();
    assert_eq!(second.statement.root, first.statement.root);
    assert_ne!(second.statement.nullifiers[0], first.statement.nullifiers[0], "none is given twice");
    assert_eq!(maker.ready(&buyer.stream, slot, 1), 1);
}

#[tokio::test(flavor = "multi_thread")]
async fn young_streams_use_the_newest_root_and_later_everybodys() {
    let buyer = Buyer::start().await;
    let maker = buyer.maker(&buyer.path()).await;
    let ticket = maker.take(&buyer.stream, buyer.slot(), 1).await.unwrap();
    assert!(ticket.young);
    assert_eq!(ticket.statement.root, buyer.net.ledger.newest_root().root);
    buyer.net.advance(2 * L).await;
    buyer.net.deposit(&buyer.payer, 0, 5).await;
    buyer.net.mine(1).await;
    buyer.net.sync(&[&buyer.payer]).await;
    let ticket = maker.take(&buyer.stream, buyer.slot(), 1).await.unwrap();
    assert!(!ticket.young);
    assert_eq!(ticket.statement.root, buyer.net.ledger.root_of_slot(buyer.slot()).root);
    assert_ne!(ticket.statement.root, buyer.net.ledger.newest_root().root);
    buyer.check(&ticket);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_stopped_stream_has_tickets_until_its_stop() {
    let buyer = Buyer::start().await;
    let maker = buyer.maker(&buyer.path()).await;
    let commitment = buyer.stream.note.commitment();
    buyer.net.run(&buyer.payer, 0, Intent::Close { stream: commitment }).await;
    let stop = buyer.payer.payer_stream(commitment).await.unwrap().record.stop.unwrap();
    let clock = buyer.net.ledger.clock();
    let last = clock.slot_of(stop.checked_sub(clock.slot_length()).unwrap()).unwrap();
    let first_without = clock.slot_at(stop).unwrap();
    let error = maker.take(&buyer.stream, first_without, 1).await.unwrap_err();
    assert_eq!(error.code(), "TRB-2010", "nobody knows that slot's list yet: {error}");
    buyer.net.advance(stop.get() - buyer.net.now().await).await;
    buyer.net.advance(MARGIN).await;
    buyer.net.sync(&[&buyer.payer]).await;
    let ticket = maker.take(&buyer.stream, last, 1).await.unwrap();
    buyer.check(&ticket);
    let error = maker.take(&buyer.stream, first_without, 1).await.unwrap_err();
    assert!(
        matches!(
            error,
            TicketError::Witness(tributary_protocol::WitnessError::List(
                tributary_protocol::error::ListError::Present { .. }
            ))
        ),
        "its tag is in the list: {error:?}"
    );
    buyer.net.check_books(&[&buyer.payer, &buyer.payee]).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn lost_counters_leave_out_the_slots_that_may_be_paid() {
    let buyer = Buyer::start().await;
    let slot = buyer.slot();
    let maker = buyer.maker(&buyer.path()).await;
    maker.take(&buyer.stream, slot, 1).await.unwrap();
    drop(maker);
    // Only the counters are gone.
    let elsewhere = buyer.net.dir.path().join("lost.sqlite");
    let maker = buyer.maker(&elsewhere).await;
    let error = maker.take(&buyer.stream, slot, 1).await.unwrap_err();
    assert!(matches!(error, TicketError::LeftOutAfterRestore { .. }), "{error:?}");
    // The whole wallet is gone.
    let restored = buyer.net.restored(1, "restored").await;
    restored.sync().await.unwrap();
    let maker = restored.tickets(&buyer.net.dir.path().join("fresh.sqlite")).await.unwrap();
    let clock = buyer.net.ledger.clock();
    let next = clock.next(slot).unwrap();
    for slot in [slot, next] {
        let error = maker.take(&buyer.stream, slot, 1).await.unwrap_err();
        assert!(matches!(error, TicketError::LeftOutAfterRestore { .. }), "{error:?}");
    }
    buyer.net.advance(2 * L).await;
    buyer.net.sync(&[&restored]).await;
    let stream = restored
        .paying_stream(buyer.stream.note.commitment(), buyer.stream.terms, buyer.stream.provider, 1)
        .await
        .unwrap();
    buyer.check(&maker.take(&stream, clock.next(next).unwrap(), 1).await.unwrap());
}

#[tokio::test(flavor = "multi_thread")]
async fn tickets_are_made_ahead_in_the_background() {
    let buyer = Buyer::start().await;
    let maker = buyer.maker(&buyer.path()).await;
    let (demand, demands) = watch::channel(Vec::new());
    let (stop, stopped) = tokio::sync::oneshot::channel::<()>();
    let running = {
        let maker = maker.clone();
        tokio::spawn(async move { maker.run(demands, async { drop(stopped.await) }).await })
    };
    demand.send(vec![Demand { stream: buyer.stream.clone(), count: 1, wanted: 2 }]).unwrap();
    let slot = buyer.slot();
    let next = buyer.net.ledger.clock().next(slot).unwrap();
    assert!(buyer.net.ledger.is_final(next));
    while maker.ready(&buyer.stream, next, 1) < 2 {
        tokio::task::yield_now().await;
    }
    assert_eq!(maker.ready(&buyer.stream, slot, 1), 2);
    stop.send(()).unwrap();
    running.await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn an_offer_that_grows_dearer_is_not_paid() {
    let buyer = Buyer::start().await;
    let commitment = buyer.stream.note.commitment();
    let offer = buyer.stream.terms;
    let bind = async |offer| code(buyer.payer.bind_offer(commitment, &offer).await);
    assert_eq!(bind(OfferTerms { price: Price::new(101).unwrap(), ..offer }).await, "TRB-3021");
    assert_eq!(bind(OfferTerms { min_streamed: amount(601), ..offer }).await, "TRB-3021");
    assert_eq!(bind(OfferTerms { payee: buyer.payer.address().owner(), ..offer }).await, "TRB-3022");
    assert_eq!(bind(OfferTerms { price: Price::new(99).unwrap(), ..offer }).await, "no error");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_rating_is_proved_for_a_slot_that_is_over() {
    let buyer = Buyer::start().await;
    let maker = buyer.maker(&buyer.path()).await;
    buyer.net.advance(2 * L).await;
    buyer.net.sync(&[&buyer.payer]).await;
    let rating = maker.rate(&buyer.stream, b"five stars").await.unwrap();
    let clock = buyer.net.ledger.clock();
    let slot = clock.slot_at(rating.statement.slot_start).unwrap();
    let list = buyer.net.ledger.stopped_list(slot).unwrap();
    let now = buyer.net.ledger.head_time().unwrap();
    let terms = &buyer.stream.note.terms;
    let tier = RatingTier::reached(terms.rate().times(slot.end().since(terms.start()))).unwrap();
    rating.statement.check_rating(&clock, buyer.stream.terms.payee, tier.amount(), list.root(), now).unwrap();
    let key = prover().verifying_key(Circuit::Ticket).unwrap();
    key.verify(&rating.statement.public_inputs(), &Proof::from_bytes(&rating.proof).unwrap()).unwrap();
    let again = maker.rate(&buyer.stream, b"one star").await.unwrap();
    assert_eq!(again.statement.nullifiers, rating.statement.nullifiers, "one rating for each stream");
}
