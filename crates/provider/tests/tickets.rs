//! Every bad ticket is refused with its own code, and is not spent by that; every good one is served at most once, whatever happens.

mod common;

use std::io::{BufRead, BufReader};
use std::path::Path;
use std::process::{Command, Stdio};
use std::sync::Arc;
use std::time::Duration;

use common::{CARRY, L, S, World, at, key, nullifier, provider, root, slot, statement, stopped_root};
use prost::Message as _;
use tributary_market::proto;
use tributary_market::ticket::{Reason, TicketRefusal, Verdict};
use tributary_protocol::ticket::{TicketMessage, TicketNullifier, TicketStatement};
use tributary_protocol::{Amount, Owner, Price, ProviderDigest};
use tributary_provider::batch::BatchLimits;
use tributary_provider::check::PaidUse;
use tributary_provider::store::{OnMissing, Recovery};
use tributary_provider::till::{Admission, Use};
use tributary_waku::PeerId;

const REQUEST: &[u8] = b"a query";

async fn admit(world: &World, proof: &[u8]) -> Result<Admission, TicketRefusal> {
    admit_for(world, proof, REQUEST, 1).await
}

async fn admit_for(world: &World, proof: &[u8], request: &[u8], tickets: u64) -> Result<Admission, TicketRefusal> {
    world.till.admit(Some(proof), Use { peer: None, request, tickets }).await
}

async fn serve(world: &World, proof: &[u8]) {
    let admission = admit(world, proof).await.unwrap();
    assert!(admission.is_paid());
    world.till.served(admission).await.unwrap();
}

async fn reason(world: &World, proof: &[u8]) -> Reason {
    admit(world, proof).await.expect_err("the ticket must be refused").reason()
}

async fn world(dir: &tempfile::TempDir) -> World {
    World::open(&dir.path().join("db"), OnMissing::NewPayee, S + 5).await
}

/// Decodes a proof of payment, lets `change` spoil it, and encodes it again.
fn spoil(proof: &[u8], change: impl FnOnce(&mut proto::PaymentProof)) -> Vec<u8> {
    let mut envelope = proto::EligibilityProof::decode(proof).unwrap();
    let mut payment = proto::PaymentProof::decode(&envelope.proof_of_payment.unwrap()[..]).unwrap();
    change(&mut payment);
    envelope.proof_of_payment = Some(payment.encode_to_vec());
    envelope.encode_to_vec()
}

fn spoil_ticket(proof: &[u8], change: impl FnOnce(&mut proto::Ticket)) -> Vec<u8> {
    spoil(proof, |payment| {
        let Some(proto::payment_proof::Proof::Ticket(ticket)) = &mut payment.proof else { panic!("no ticket") };
        change(ticket.ticket.as_mut().unwrap());
    })
}

#[tokio::test]
async fn a_good_ticket_is_served_once_and_its_request_told_afterwards() {
    let dir = tempfile::tempdir().unwrap();
    let w = world(&dir).await;
    let proof = w.pay(1, REQUEST);
    let admission = admit(&w, &proof).await.unwrap();
    assert_eq!(reason(&w, &proof).await, Reason::Unavailable, "while it is being served");
    w.till.served(admission).await.unwrap();
    assert_eq!(reason(&w, &proof).await, Reason::AlreadyServed);

    let proof = w.pay(2, REQUEST);
    w.till.failed(admit(&w, &proof).await.unwrap()).await.unwrap();
    assert_eq!(reason(&w, &proof).await, Reason::SpentUnserved);

    let proof = w.pay(3, REQUEST);
    drop(admit(&w, &proof).await.unwrap());
    assert_eq!(reason(&w, &proof).await, Reason::SpentUnserved, "a service that panicked");

    let counters = w.till.counters();
    assert_eq!((counters.paid, counters.served, counters.failed, counters.refused), (3, 1, 1, 4));
}

#[tokio::test]
async fn a_replay_for_another_request_is_told_apart() {
    let dir = tempfile::tempdir().unwrap();
    let w = world(&dir).await;
    serve(&w, &w.pay(1, REQUEST)).await;
    // The buyer signs another request with the same ticket.
    let other = w.pay(1, b"another query");
    let refusal = admit_for(&w, &other, b"another query", 1).await.unwrap_err();
    assert_eq!(refusal.reason(), Reason::Replayed);
    // Somebody who saw the proof sends it with a request of his own: the signature isn't his.
    let stolen = w.pay(1, REQUEST);
    let refusal = admit_for(&w, &stolen, b"another query", 1).await.unwrap_err();
    assert_eq!(refusal.reason(), Reason::BadSignature);
    // A nullifier under another one-time key, signed by that one: nothing is told of the first request.
    let mut other = statement(1, slot(0));
    other.message = TicketMessage::of_ticket(&key(77).verifying_key().to_bytes(), &provider(), slot(0).start());
    let mut prepared = w.prepared(1, other);
    prepared.key = key(77);
    assert_eq!(reason(&w, &prepared.pay(&provider(), REQUEST)).await, Reason::Replayed);
}

#[tokio::test]
async fn an_unpaid_use_is_told_what_to_pay() {
    let dir = tempfile::tempdir().unwrap();
    let w = world(&dir).await;
    let offer = *w.offer.borrow();
    let empty = proto::EligibilityProof { proof_of_payment: Some(Vec::new()) }.encode_to_vec();
    for proof in [None, Some(&[][..]), Some(&empty[..])] {
        let use_ = Use { peer: Some(PeerId::random()), request: REQUEST, tickets: 1 };
        let refusal = w.till.admit(proof, use_).await.unwrap_err();
        let status = refusal.status();
        assert_eq!(status.status_code, Some(402));
        let read = Verdict::read(402, &status.status_desc.unwrap());
        assert!(
            matches!(read, Verdict::Refused { reason: Reason::PaymentRequired, offer: named, .. } if named == offer)
        );
    }
    assert_eq!(w.till.counters().unpaid, 3);
}

/// What a test changes in a statement before it is proved and signed.
type Change = fn(&mut TicketStatement);

#[tokio::test]
async fn each_wrong_statement_has_its_code_and_is_not_spent() {
    let dir = tempfile::tempdir().unwrap();
    let w = world(&dir).await;
    let changes: [(Change, Reason); 12] = [
        (|s| s.price = Price::new(49).unwrap(), Reason::WrongPrice),
        (|s| s.price = Price::new(51).unwrap(), Reason::WrongPrice),
        (|s| s.price = Price::ZERO, Reason::NotATicket),
        (|s| s.min_streamed = Amount::new(399).unwrap(), Reason::WrongMinStreamed),
        (|s| s.payee = Owner::new(8_u8.into()), Reason::WrongPayee),
        (|s| s.root = root(99), Reason::UnknownRoot),
        (|s| s.root = root(1), Reason::ShallowRoot),
        (|s| s.stopped_root = stopped_root(slot(1)), Reason::WrongStoppedRoot),
        (|s| s.count = 2, Reason::ZeroNullifier),
        (|s| s.nullifiers[2] = nullifier(5), Reason::UnusedNullifier),
        (
            |s| {
                s.count = 2;
                s.nullifiers[1] = s.nullifiers[0];
            },
            Reason::RepeatedNullifier,
        ),
        (|s| s.nullifiers[0] = TicketNullifier::UNUSED, Reason::ZeroNullifier),
    ];
    for (change, expected) in changes {
        let mut wrong = statement(1, slot(0));
        change(&mut wrong);
        assert_eq!(reason(&w, &w.prepared(1, wrong).pay(&provider(), REQUEST)).await, expected);
    }
    assert_eq!(w.checker.store().stored().await.unwrap(), 0);
    // None of the refusals spent the nullifier.
    serve(&w, &w.pay(1, REQUEST)).await;
    let refused = w.checker.counters().refused;
    assert_eq!(refused["wrong_price"], 2);
    assert_eq!(refused.values().sum::<u64>(), 12);
}

#[tokio::test]
async fn each_wrong_encoding_has_its_code_and_is_not_spent() {
    let dir = tempfile::tempdir().unwrap();
    let w = world(&dir).await;
    let good = w.pay(1, REQUEST);
    let mut cases: Vec<(Vec<u8>, Reason)> = vec![
        (vec![0xff; 40], Reason::Malformed),
        (good[..good.len() - 1].to_vec(), Reason::Malformed),
        ([&good[..], &[0; 600]].concat(), Reason::TooLarge),
        (spoil(&good, |p| p.version = 2), Reason::BadVersion),
        (spoil(&good, |p| p.proof = None), Reason::Malformed),
        (spoil_ticket(&good, |t| t.version = 0), Reason::BadVersion),
        (spoil_ticket(&good, |t| t.count = 0), Reason::OverSpent),
        (spoil_ticket(&good, |t| t.count = 5), Reason::OverSpent),
        (spoil_ticket(&good, |t| t.count = 257), Reason::OverSpent),
        (spoil_ticket(&good, |t| t.slot_start += 1), Reason::WrongSlot),
        (spoil_ticket(&good, |t| t.slot_start = u64::MAX), Reason::Malformed),
        (spoil_ticket(&good, |t| t.nullifiers.push(vec![0; 32])), Reason::Malformed),
        (spoil_ticket(&good, |t| t.nullifiers[0].truncate(31)), Reason::Malformed),
        (spoil_ticket(&good, |t| t.proof.truncate(255)), Reason::Malformed),
        (spoil_ticket(&good, |t| t.price = vec![0, 50]), Reason::Malformed),
        (spoil_ticket(&good, |t| t.price = vec![1; 13]), Reason::Malformed),
        (spoil_ticket(&good, |t| t.proof = vec![0; 256]), Reason::InvalidProof),
        (spoil_ticket(&good, |t| t.proof = vec![0xff; 256]), Reason::InvalidProof),
        (spoil_ticket(&good, |t| t.proof[255] ^= 1), Reason::InvalidProof),
        (spoil_ticket(&good, |t| t.public_key = vec![0; 32]), Reason::BadSignature),
        (spoil_ticket(&good, |t| t.public_key = key(2).verifying_key().to_bytes().to_vec()), Reason::BadSignature),
    ];
    // The same elements a second time, plus the field's order.
    let honest = statement(1, slot(0));
    let twice = common::not_canonical(&honest.root.to_fr()).to_vec();
    cases.push((spoil_ticket(&good, |t| t.root = twice), Reason::Malformed));
    let twice = common::not_canonical(&honest.nullifiers[0].to_fr()).to_vec();
    cases.push((spoil_ticket(&good, |t| t.nullifiers[0] = twice), Reason::Malformed));
    let flipped = spoil(&good, |p| {
        let Some(proto::payment_proof::Proof::Ticket(t)) = &mut p.proof else { panic!("no ticket") };
        t.signature[10] ^= 1;
    });
    cases.push((flipped, Reason::BadSignature));
    for (n, (proof, expected)) in cases.iter().enumerate() {
        assert_eq!(reason(&w, proof).await, *expected, "case {n}");
    }
    assert_eq!(w.checker.store().stored().await.unwrap(), 0);
    serve(&w, &good).await;
}

#[tokio::test]
async fn a_proof_pays_only_for_its_own_statement() {
    let dir = tempfile::tempdir().unwrap();
    let w = world(&dir).await;
    let honest = w.prepared(1, statement(1, slot(0)));
    // Each public input that the sender chooses, changed after proving; the rest is the verifier's own.
    let changes: [fn(&mut proto::Ticket); 3] = [
        |t| t.nullifiers[0] = nullifier(2).to_be_bytes().to_vec(),
        |t| {
            t.count = 2;
            t.nullifiers[1] = nullifier(2).to_be_bytes().to_vec();
        },
        |t| t.root = root(2).to_be_bytes().to_vec(),
    ];
    w.chain.roots.lock().insert(root(2), 9);
    for (n, change) in changes.into_iter().enumerate() {
        let mut proof = spoil_ticket(&honest.pay(&provider(), REQUEST), change);
        // Signed anew, as a cheating buyer would.
        proof = spoil(&proof, |p| {
            let Some(proto::payment_proof::Proof::Ticket(t)) = &mut p.proof else { panic!("no ticket") };
            let nf = &t.ticket.as_ref().unwrap().nullifiers[0];
            let nf = TicketNullifier::try_from_be_bytes(nf[..].try_into().unwrap()).unwrap();
            let message = tributary_protocol::ticket::request_signing_bytes(&provider(), nf, REQUEST);
            t.signature = ed25519_dalek::Signer::sign(&key(1), &message).to_vec();
        });
        assert_eq!(reason(&w, &proof).await, Reason::InvalidProof, "change {n}");
    }
    // The slot moved on: same money, next minute.
    let moved = spoil_ticket(&honest.pay(&provider(), REQUEST), |t| {
        t.slot_start += L;
        t.stopped_root = stopped_root(slot(1)).to_be_bytes().to_vec();
    });
    assert_eq!(reason(&w, &moved).await, Reason::InvalidProof);
    // A ticket for another provider with this payee: its message is another one.
    let elsewhere = ProviderDigest::of_peer_id(b"another peer id");
    let mut foreign = statement(1, slot(0));
    foreign.message = TicketMessage::of_ticket(&key(1).verifying_key().to_bytes(), &elsewhere, slot(0).start());
    assert_eq!(reason(&w, &w.prepared(1, foreign.clone()).pay(&provider(), REQUEST)).await, Reason::InvalidProof);
    assert_eq!(reason(&w, &w.prepared(1, foreign).pay(&elsewhere, REQUEST)).await, Reason::BadSignature);
    assert_eq!(w.checker.store().stored().await.unwrap(), 0);
}

#[tokio::test]
async fn slots_are_taken_from_finality_until_their_carry_is_over() {
    let dir = tempfile::tempdir().unwrap();
    let w = world(&dir).await;
    let pay = |n: u64, at: u64| w.prepared(n, statement(n, slot(at))).pay(&provider(), REQUEST);
    // Slot 1 is final already, slot 2 isn't.
    serve(&w, &pay(1, 1)).await;
    assert_eq!(reason(&w, &pay(2, 2)).await, Reason::SlotNotFinal);
    w.go_to(S + L);
    serve(&w, &pay(2, 2)).await;
    w.go_to(S + L + CARRY - 1);
    serve(&w, &pay(3, 0)).await;
    w.go_to(S + L + CARRY);
    assert_eq!(reason(&w, &pay(4, 0)).await, Reason::StaleSlot);
    assert_eq!(reason(&w, &pay(5, 4)).await, Reason::SlotNotFinal);
}

#[tokio::test]
async fn uses_take_as_many_tickets_as_they_cost() {
    let dir = tempfile::tempdir().unwrap();
    let w = world(&dir).await;
    let mut three = statement(1, slot(0));
    three.count = 3;
    three.nullifiers[1] = nullifier(2);
    three.nullifiers[2] = nullifier(3);
    let proof = w.prepared(1, three).pay(&provider(), REQUEST);
    let refusal = admit_for(&w, &proof, REQUEST, 4).await.unwrap_err();
    assert_eq!(refusal, TicketRefusal::TooFewTickets { count: 3, needed: 4 });
    let admission = admit_for(&w, &proof, REQUEST, 3).await.unwrap();
    w.till.served(admission).await.unwrap();
    // Each of its nullifiers is spent.
    for n in 1..=3 {
        assert_eq!(reason(&w, &w.pay(n, b"x")).await, Reason::BadSignature);
        let again = w.prepared(n, statement(n, slot(0))).pay(&provider(), REQUEST);
        assert!(matches!(reason(&w, &again).await, Reason::Replayed | Reason::AlreadyServed), "nullifier {n}");
    }
    assert_eq!(w.checker.counters().tickets, 3);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn of_requests_that_race_with_one_nullifier_exactly_one_is_served() {
    let dir = tempfile::tempdir().unwrap();
    let w = Arc::new(world(&dir).await);
    for n in 0..8 {
        let mut racers = Vec::new();
        for racer in 0..6_u8 {
            let w = Arc::clone(&w);
            // Half of them send the very same request, half one of their own.
            let request = [b"q", &[racer / 2][..]].concat();
            racers.push(tokio::spawn(async move {
                let proof = w.pay(n, &request);
                match admit_for(&w, &proof, &request, 1).await {
                    Ok(admission) => {
                        w.till.served(admission).await.unwrap();
                        true
                    }
                    Err(refusal) => {
                        let expected = [Reason::Replayed, Reason::AlreadyServed, Reason::Unavailable];
                        assert!(expected.contains(&refusal.reason()), "{refusal}");
                        false
                    }
                }
            }));
        }
        let mut served = 0;
        for r in racers {
            served += u32::from(r.await.unwrap());
        }
        assert_eq!(served, 1, "ticket {n}");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn a_bad_proof_in_a_batch_costs_the_others_nothing() {
    let dir = tempfile::tempdir().unwrap();
    // All are trusted, so that they are batched together.
    let limits = BatchLimits { good_to_trust: 0, ..BatchLimits::default() };
    let w = Arc::new(World::open_with(&dir.path().join("db"), OnMissing::NewPayee, S + 5, limits).await);
    let mut all = Vec::new();
    for n in 0..40_u64 {
        let w = Arc::clone(&w);
        let bad = n % 13 == 5;
        // Each from another: further proofs of a peer that sent a bad one aren't looked at.
        let peer = PeerId::random();
        let mut proof = w.pay(n, REQUEST);
        if bad {
            // A proof of another statement: well-formed points that don't verify.
            let other = w.trapdoor.prove(&statement(n + 100, slot(0)), 3);
            proof = spoil_ticket(&proof, |t| t.proof = other.to_vec());
        }
        all.push(tokio::spawn(async move {
            let use_ = Use { peer: Some(peer), request: REQUEST, tickets: 1 };
            (bad, w.till.admit(Some(&proof), use_).await)
        }));
    }
    for one in all {
        let (bad, result) = one.await.unwrap();
        match result {
            Ok(admission) => {
                assert!(!bad);
                w.till.served(admission).await.unwrap();
            }
            Err(refusal) => {
                assert!(bad, "{refusal}");
                assert_eq!(refusal.reason(), Reason::InvalidProof);
            }
        }
    }
    assert_eq!(w.checker.store().stored().await.unwrap(), 37);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn a_flood_from_one_peer_leaves_room_for_the_others() {
    let dir = tempfile::tempdir().unwrap();
    let limits = BatchLimits { batch: 8, waiting: 64, waiting_per_peer: 8, ..BatchLimits::default() };
    let w = Arc::new(World::open_with(&dir.path().join("db"), OnMissing::NewPayee, S + 5, limits).await);
    let send = |n: u64, peer: PeerId| {
        let w = Arc::clone(&w);
        let proof = w.pay(n, REQUEST);
        async move {
            let result =
                w.checker.take(PaidUse { proof: &proof, request: REQUEST, tickets: 1, peer: Some(peer) }).await;
            match result {
                Ok(ticket) => ticket.served().await.map(|()| None).unwrap(),
                Err(refusal) => Some(refusal.reason()),
            }
        }
    };
    let flooder = PeerId::random();
    let flood: Vec<_> = (0..200).map(|n| send(n, flooder)).collect();
    let others: Vec<_> = (1000..1020).map(|n| send(n, PeerId::random())).collect();
    let flood = tokio::spawn(futures::future::join_all(flood));
    let others = tokio::spawn(futures::future::join_all(others));
    assert!(others.await.unwrap().iter().all(Option::is_none), "an honest peer was turned away");
    let flood = flood.await.unwrap();
    let turned_away: Vec<_> = flood.iter().flatten().collect();
    assert!(turned_away.len() > 100, "only {} of the flood were turned away", turned_away.len());
    assert!(turned_away.iter().all(|r| **r == Reason::Unavailable));
}

async fn reason_for(world: &World, proof: &[u8], peer: PeerId) -> Option<Reason> {
    let use_ = Use { peer: Some(peer), request: REQUEST, tickets: 1 };
    match world.till.admit(Some(proof), use_).await {
        Ok(admission) => world.till.served(admission).await.map(|()| None).unwrap(),
        Err(refusal) => Some(refusal.reason()),
    }
}

/// Until a peer is listened to, which must be so within the longest pause.
async fn wait_until_admissible(world: &World, peer: PeerId) {
    let listened_to = async {
        while let Err(refusal) = world.checker.admissible(Some(peer)) {
            assert_eq!(refusal.reason(), Reason::Unavailable);
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    };
    tokio::time::timeout(Duration::from_secs(60), listened_to).await.expect("the peer is never listened to again");
}

#[tokio::test]
async fn who_has_too_many_requests_refused_is_not_listened_to_for_a_while() {
    let dir = tempfile::tempdir().unwrap();
    let w = world(&dir).await;
    let (rude, honest) = (PeerId::random(), PeerId::random());
    let mut refused = 0;
    let ended = loop {
        let reason = reason_for(&w, b"garbage", rude).await;
        if reason != Some(Reason::Malformed) {
            break reason;
        }
        refused += 1;
        assert!(refused < 10_000, "refusals have no end");
    };
    assert_eq!(ended, Some(Reason::Unavailable), "the request is decoded all the same");
    assert!(refused >= 40, "an honest mistake or two ({refused}) must go without consequence");
    assert_eq!(reason_for(&w, b"garbage", honest).await, Some(Reason::Malformed));
    assert_eq!(reason_for(&w, &w.pay(2, REQUEST), honest).await, None, "another peer is none the worse for it");
    wait_until_admissible(&w, rude).await;
    assert_eq!(reason_for(&w, &w.pay(3, REQUEST), rude).await, None);
}

#[tokio::test]
async fn what_may_be_right_a_little_later_is_not_held_against_its_sender() {
    let dir = tempfile::tempdir().unwrap();
    let w = world(&dir).await;
    let peer = PeerId::random();
    // The provider is behind: it doesn't know the root yet.
    let proof = w.pay(1, REQUEST);
    let standing = w.chain.roots.lock().remove(&root(0)).unwrap();
    for _ in 0..200 {
        assert_eq!(reason_for(&w, &proof, peer).await, Some(Reason::UnknownRoot));
    }
    w.chain.roots.lock().insert(root(0), standing);
    assert_eq!(reason_for(&w, &proof, peer).await, None);
}

#[tokio::test]
async fn a_peer_with_one_bad_proof_is_served_again_after_its_penalty() {
    let dir = tempfile::tempdir().unwrap();
    let limits = BatchLimits { penalty: Duration::from_secs(3), ..BatchLimits::default() };
    let w = World::open_with(&dir.path().join("db"), OnMissing::NewPayee, S + 5, limits).await;
    let (peer, other) = (PeerId::random(), PeerId::random());
    let foreign = w.trapdoor.prove(&statement(100, slot(0)), 3);
    let bad = spoil_ticket(&w.pay(1, REQUEST), |t| t.proof = foreign.to_vec());
    let good = w.pay(2, REQUEST);
    assert_eq!(reason_for(&w, &bad, peer).await, Some(Reason::InvalidProof));
    assert_eq!(reason_for(&w, &good, peer).await, Some(Reason::Unavailable));
    assert_eq!(reason_for(&w, &w.pay(3, REQUEST), other).await, None);
    wait_until_admissible(&w, peer).await;
    assert_eq!(reason_for(&w, &good, peer).await, None, "what was refused meanwhile isn't spent");
}

#[tokio::test]
async fn pruned_slots_stay_closed_whatever_the_clock_says() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("db");
    let w = world(&dir).await;
    let proof = w.pay(1, REQUEST);
    serve(&w, &proof).await;
    w.go_to(S + L + CARRY - 1);
    w.checker.prune().await.unwrap();
    assert_eq!(w.checker.counters().floor, Some(at(S - L)), "slot 0 still pays");
    w.go_to(S + L + CARRY);
    w.checker.prune().await.unwrap();
    assert_eq!(w.checker.counters().floor, Some(at(S)));
    w.checker.store().close().await;
    drop(w);

    // The clock steps back to the middle of slot 0.
    let w = World::open(&path, OnMissing::Refuse, S + 5).await;
    assert_eq!(reason(&w, &proof).await, Reason::StaleSlot);
    assert_eq!(reason(&w, &w.pay(2, REQUEST)).await, Reason::StaleSlot);
    // Rows go in small steps between other work.
    while w.checker.store().stored().await.unwrap() > 0 {
        tokio::task::yield_now().await;
    }
}

#[tokio::test]
async fn a_clock_that_runs_ahead_closes_no_slot_that_still_pays() {
    let dir = tempfile::tempdir().unwrap();
    let w = world(&dir).await;
    w.clock.set(at(S + 1000 * L));
    w.checker.prune().await.unwrap();
    w.clock.set(at(S + 5));
    serve(&w, &w.pay(1, REQUEST)).await;
}

#[tokio::test]
async fn a_restored_backup_takes_no_ticket_twice() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("db");
    let w = world(&dir).await;
    serve(&w, &w.pay(1, REQUEST)).await;
    w.checker.store().close().await;
    let backup = dir.path().join("backup");
    std::fs::copy(&path, &backup).unwrap();
    drop(w);

    let w = World::open(&path, OnMissing::Refuse, S + 6).await;
    serve(&w, &w.pay(2, REQUEST)).await;
    w.checker.store().close().await;
    std::fs::copy(&backup, &path).unwrap();
    drop(w);

    let w = World::open(&path, OnMissing::Refuse, S + 7).await;
    assert_eq!(w.checker.store().recovery(), Some(Recovery::RestoredDatabase));
    for n in 1..=2 {
        assert_eq!(reason(&w, &w.pay(n, REQUEST)).await, Reason::StaleSlot, "ticket {n}");
    }
    // The next slot sells again.
    serve(&w, &w.prepared(3, statement(3, slot(1))).pay(&provider(), REQUEST)).await;
}

const CHILD: &str = "TRIBUTARY_TEST_CHECKER_CHILD";

/// Not a test by itself: the provider that [`a_killed_provider_serves_at_most_once_and_says_what_happened`] kills.
#[tokio::test]
async fn child_provider() {
    let Ok(path) = std::env::var(CHILD) else { return };
    let w = World::open(Path::new(&path), OnMissing::NewPayee, S + 5).await;
    serve(&w, &w.pay(1, REQUEST)).await;
    let _stored = admit(&w, &w.pay(2, REQUEST)).await.unwrap();
    println!("\nstored");
    std::future::pending::<()>().await;
}

#[tokio::test]
async fn a_killed_provider_serves_at_most_once_and_says_what_happened() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("db");
    let mut child = Command::new(std::env::current_exe().unwrap())
        .args(["--exact", "child_provider", "--nocapture"])
        .env(CHILD, &path)
        .stdout(Stdio::piped())
        .spawn()
        .unwrap();
    let mut lines = BufReader::new(child.stdout.take().unwrap()).lines();
    assert!(lines.any(|line| line.unwrap() == "stored"));
    child.kill().unwrap();
    child.wait().unwrap();

    let w = World::open(&path, OnMissing::Refuse, S + 6).await;
    assert_eq!(w.checker.store().recovery(), None);
    assert_eq!(reason(&w, &w.pay(1, REQUEST)).await, Reason::AlreadyServed);
    assert_eq!(reason(&w, &w.pay(2, REQUEST)).await, Reason::SpentUnserved);
    // Both stay spent for any other request.
    for n in 1..=2 {
        let refusal = admit_for(&w, &w.pay(n, b"other"), b"other", 1).await.unwrap_err();
        assert_eq!(refusal.reason(), Reason::Replayed);
    }
    serve(&w, &w.pay(3, REQUEST)).await;
}

#[tokio::test]
async fn who_goes_away_while_the_ticket_is_stored_finds_it_spent() {
    let dir = tempfile::tempdir().unwrap();
    let w = world(&dir).await;
    for n in 0..20_u64 {
        let proof = w.pay(n, REQUEST);
        let taking = w.checker.take(PaidUse { proof: &proof, request: REQUEST, tickets: 1, peer: None });
        // Polled a number of times, then dropped: at some n the drop falls between the write and the answer.
        let mut taking = Box::pin(taking);
        for _ in 0..n {
            if futures::poll!(&mut taking).is_ready() {
                break;
            }
            tokio::task::yield_now().await;
        }
        drop(taking);
    }
    w.checker.store().close().await;
    drop(w);
    let w = World::open(&dir.path().join("db"), OnMissing::Refuse, S + 6).await;
    for n in 0..20 {
        // Either it was not stored, and is good, or it is spent and says so. Never is it stuck.
        let proof = w.pay(n, REQUEST);
        match admit(&w, &proof).await {
            Ok(admission) => w.till.served(admission).await.unwrap(),
            Err(refusal) => assert_eq!(refusal.reason(), Reason::SpentUnserved, "ticket {n}"),
        }
    }
}
