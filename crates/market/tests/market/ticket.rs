use ed25519_dalek::SigningKey;
use prost::Message as _;
use tributary_market::offer::OfferId;
use tributary_market::proto;
use tributary_market::ticket::{
    self, PreparedTicket, PresentedTicket, Reason, Remedy, RootStanding, TicketRefusal, TicketVerifier, Verdict,
};
use tributary_protocol::amount::{Amount, Price};
use tributary_protocol::field::{Fr, Root};
use tributary_protocol::ticket::{OfferTerms, ProviderDigest, TicketMessage, TicketNullifier, TicketStatement};

use crate::common::*;

const REQUEST: &[u8] = b"a store query";
/// A multiple of 60.
const SLOT: u64 = NOW;

fn provider(byte: u8) -> ProviderDigest {
    ProviderDigest::of_peer_id(&key(byte).public().to_peer_id().to_bytes())
}

fn verifier() -> TicketVerifier {
    TicketVerifier {
        clock: clock(),
        provider: provider(1),
        terms: OfferTerms {
            payee: payee(0).owner(),
            price: Price::new(60).unwrap(),
            min_streamed: Amount::new(600).unwrap(),
        },
        slot_carry: seconds(30),
        root_depth: 2,
    }
}

fn root(value: u64) -> Root {
    Root::new(Fr::from(value))
}

fn nullifier(value: u64) -> TicketNullifier {
    TicketNullifier::new(Fr::from(value))
}

pub(crate) fn prepared(provider_byte: u8) -> PreparedTicket {
    let signing = SigningKey::from_bytes(&[9; 32]);
    let slot_start = time(SLOT);
    PreparedTicket {
        statement: TicketStatement {
            root: root(5),
            stopped_root: root(6),
            payee: payee(0).owner(),
            price: Price::new(60).unwrap(),
            slot_start,
            slot_end: time(SLOT + 60),
            count: 2,
            min_streamed: Amount::new(600).unwrap(),
            message: TicketMessage::of_ticket(
                &signing.verifying_key().to_bytes(),
                &provider(provider_byte),
                slot_start,
            ),
            nullifiers: [nullifier(11), nullifier(12), TicketNullifier::UNUSED, TicketNullifier::UNUSED],
        },
        // These tests end before the proof is looked at.
        proof: [3; 256],
        key: signing,
    }
}

/// Every check that needs no proof, in the documented order.
fn judge(eligibility_proof: &[u8], request: &[u8]) -> Result<PresentedTicket, TicketRefusal> {
    let verifier = verifier();
    let ticket = verifier.decode(eligibility_proof)?;
    let slot = verifier.check_terms(&ticket)?;
    verifier.check_slot(slot, time(SLOT + 10), None)?;
    verifier.check_stopped_root(&ticket, Some(root(6)), time(SLOT + 10))?;
    verifier.check_root(&ticket, RootStanding::Known { depth: 2 })?;
    verifier.check_signature(&ticket, request)?;
    Ok(ticket)
}

fn reason(result: Result<impl std::fmt::Debug, TicketRefusal>) -> Reason {
    let refusal = result.unwrap_err();
    assert_eq!(refusal.code(), refusal.reason().code());
    refusal.reason()
}

/// The refusal of a proof that was changed on the wire.
fn changed(change: impl FnOnce(&mut proto::Ticket)) -> Reason {
    reason(judge(&rewritten(change), REQUEST))
}

fn rewritten(change: impl FnOnce(&mut proto::Ticket)) -> Vec<u8> {
    let bytes = prepared(1).pay(&provider(1), REQUEST);
    let envelope = proto::EligibilityProof::decode(bytes.as_slice()).unwrap();
    let mut payment = proto::PaymentProof::decode(envelope.proof_of_payment.unwrap().as_slice()).unwrap();
    let Some(proto::payment_proof::Proof::Ticket(ticket)) = &mut payment.proof else { unreachable!() };
    change(ticket.ticket.as_mut().unwrap());
    proto::EligibilityProof { proof_of_payment: Some(payment.encode_to_vec()) }.encode_to_vec()
}

#[test]
fn a_good_ticket_passes_every_check() {
    let prepared = prepared(1);
    let proof = prepared.pay(&provider(1), REQUEST);
    assert!(proof.len() < 768, "{}", proof.len());
    let ticket = judge(&proof, REQUEST).unwrap();
    assert_eq!(ticket.statement(), &prepared.statement);
    assert_eq!(ticket.proof(), &prepared.proof);
    assert_eq!(ticket.nullifiers(), &prepared.statement.nullifiers[..2]);
    let verifier = verifier();
    verifier.check_count(&ticket, 2).unwrap();
    assert_eq!(reason(verifier.check_count(&ticket, 3)), Reason::TooFewTickets);
}

#[test]
fn no_payment_is_answered_with_402_and_the_offer() {
    assert_eq!(reason(judge(&[], REQUEST)), Reason::PaymentRequired);
    let empty = proto::EligibilityProof { proof_of_payment: None }.encode_to_vec();
    assert_eq!(reason(judge(&empty, REQUEST)), Reason::PaymentRequired);
    let empty = proto::EligibilityProof { proof_of_payment: Some(Vec::new()) }.encode_to_vec();
    assert_eq!(reason(judge(&empty, REQUEST)), Reason::PaymentRequired);

    let offer = OfferId::of_payload(b"offer");
    let status = TicketRefusal::PaymentRequired { offer: Some(offer) }.status();
    assert_eq!(status.status_code, Some(402));
    let read = Verdict::read(402, status.status_desc.as_deref().unwrap());
    assert!(matches!(read, Verdict::Refused { reason: Reason::PaymentRequired, offer: Some(id), .. } if id == offer));
}

#[test]
fn malformed_proofs_are_refused() {
    assert_eq!(reason(judge(&[0xff; 3], REQUEST)), Reason::Malformed);
    assert_eq!(reason(judge(&[0; 1025], REQUEST)), Reason::TooLarge);
    let garbage = proto::EligibilityProof { proof_of_payment: Some(vec![0xff; 20]) }.encode_to_vec();
    assert_eq!(reason(judge(&garbage, REQUEST)), Reason::Malformed);
    let none = proto::PaymentProof { version: 1, proof: None }.encode_to_vec();
    let none = proto::EligibilityProof { proof_of_payment: Some(none) }.encode_to_vec();
    assert_eq!(reason(judge(&none, REQUEST)), Reason::Malformed);
    let newer = proto::PaymentProof { version: 2, proof: None }.encode_to_vec();
    let newer = proto::EligibilityProof { proof_of_payment: Some(newer) }.encode_to_vec();
    assert_eq!(reason(judge(&newer, REQUEST)), Reason::BadVersion);
    assert_eq!(changed(|t| t.version = 2), Reason::BadVersion);
    assert_eq!(changed(|t| t.root = vec![1; 31]), Reason::Malformed);
    assert_eq!(changed(|t| t.root = vec![0xff; 32]), Reason::Malformed);
    assert_eq!(changed(|t| t.stopped_root = vec![0xff; 32]), Reason::Malformed);
    assert_eq!(changed(|t| t.nullifiers[0] = vec![0xff; 32]), Reason::Malformed);
    assert_eq!(changed(|t| t.nullifiers.truncate(2)), Reason::Malformed);
    assert_eq!(changed(|t| t.nullifiers.push(vec![0; 32])), Reason::Malformed);
    assert_eq!(changed(|t| t.proof.truncate(255)), Reason::Malformed);
    assert_eq!(changed(|t| t.public_key.push(0)), Reason::Malformed);
    assert_eq!(changed(|t| t.payee = vec![0xff; 32]), Reason::Malformed);
    assert_eq!(changed(|t| t.price = vec![0, 60]), Reason::Malformed);
    assert_eq!(changed(|t| t.price = vec![1; 13]), Reason::Malformed);
    assert_eq!(changed(|t| t.min_streamed = vec![1; 16]), Reason::Malformed);
    assert_eq!(changed(|t| t.slot_start = u64::MAX), Reason::Malformed);
}

#[test]
fn counts_and_nullifiers_have_their_own_codes() {
    assert_eq!(changed(|t| t.count = 0), Reason::OverSpent);
    assert_eq!(changed(|t| t.count = 5), Reason::OverSpent);
    assert_eq!(changed(|t| t.count = u32::MAX), Reason::OverSpent);
    assert_eq!(changed(|t| t.count = 258), Reason::OverSpent);
    assert_eq!(changed(|t| t.count = 1), Reason::UnusedNullifier);
    assert_eq!(changed(|t| t.count = 3), Reason::ZeroNullifier);
    assert_eq!(changed(|t| t.nullifiers[1] = t.nullifiers[0].clone()), Reason::RepeatedNullifier);
}

#[test]
fn the_public_offer_decides_payee_price_and_minimum() {
    let foreign = payee(1).owner();
    assert_eq!(changed(|t| t.payee = foreign.to_be_bytes().to_vec()), Reason::WrongPayee);
    assert_eq!(changed(|t| t.price = vec![61]), Reason::WrongPrice);
    assert_eq!(changed(|t| t.price = vec![59]), Reason::WrongPrice);
    assert_eq!(changed(|t| t.price = Vec::new()), Reason::NotATicket);
    assert_eq!(changed(|t| t.min_streamed = vec![2, 87]), Reason::WrongMinStreamed);
    assert_eq!(changed(|t| t.min_streamed = vec![2, 89]), Reason::WrongMinStreamed);
}

#[test]
fn only_slots_of_the_pools_clock_are_taken_and_only_in_time() {
    assert_eq!(changed(|t| t.slot_start += 1), Reason::WrongSlot);
    let verifier = verifier();
    let ticket = verifier.decode(&prepared(1).pay(&provider(1), REQUEST)).unwrap();
    let slot = verifier.check_terms(&ticket).unwrap();
    let at = |now, floor: Option<u64>| verifier.check_slot(slot, time(now), floor.map(time));
    assert_eq!(at(SLOT - 100, None), Ok(()));
    assert_eq!(at(SLOT + 89, None), Ok(()));
    assert_eq!(reason(at(SLOT + 90, None)), Reason::StaleSlot);
    // Below the floor even a clock that was set back helps nobody.
    assert_eq!(reason(at(SLOT, Some(SLOT))), Reason::StaleSlot);
    assert_eq!(reason(at(0, Some(SLOT + 60))), Reason::StaleSlot);
    assert_eq!(at(SLOT, Some(SLOT - 60)), Ok(()));
}

#[test]
fn roots_are_checked_against_the_chain() {
    let verifier = verifier();
    let ticket = verifier.decode(&prepared(1).pay(&provider(1), REQUEST)).unwrap();
    let stopped = |list| verifier.check_stopped_root(&ticket, list, now());
    assert_eq!(stopped(Some(root(6))), Ok(()));
    assert_eq!(reason(stopped(None)), Reason::SlotNotFinal);
    assert_eq!(reason(stopped(Some(root(7)))), Reason::WrongStoppedRoot);
    let known = |standing| verifier.check_root(&ticket, standing);
    assert_eq!(known(RootStanding::Known { depth: 2 }), Ok(()));
    assert_eq!(reason(known(RootStanding::Known { depth: 1 })), Reason::ShallowRoot);
    assert_eq!(reason(known(RootStanding::Unknown)), Reason::UnknownRoot);
    // None of these spends the ticket, and none asks for another root.
    for reason in [Reason::SlotNotFinal, Reason::ShallowRoot, Reason::UnknownRoot, Reason::WrongStoppedRoot] {
        assert_eq!(reason.remedy(), Remedy::SendAgain);
    }
}

#[test]
fn a_signature_holds_for_one_request_one_provider_and_one_ticket() {
    let proof = prepared(1).pay(&provider(1), REQUEST);
    assert_eq!(reason(judge(&proof, b"another query")), Reason::BadSignature);
    // Signed for another provider: what it took can't be taken here.
    let elsewhere = prepared(2).pay(&provider(2), REQUEST);
    assert_eq!(reason(judge(&elsewhere, REQUEST)), Reason::BadSignature);
    assert_eq!(changed(|t| t.nullifiers[0] = nullifier(13).to_be_bytes().to_vec()), Reason::BadSignature);
    assert_eq!(
        changed(|t| t.public_key = SigningKey::from_bytes(&[8; 32]).verifying_key().to_bytes().to_vec()),
        Reason::BadSignature
    );
    // A key of small order would verify any signature of a forger's choice.
    assert_eq!(changed(|t| t.public_key = [&[1][..], &[0; 31]].concat()), Reason::BadSignature);
}

#[test]
fn message_and_slot_end_are_the_verifiers_own() {
    let verifier = verifier();
    let elsewhere = verifier.decode(&prepared(2).pay(&provider(2), REQUEST)).unwrap();
    // The statement that the proof must satisfy names this provider: a ticket for another can't verify.
    assert_ne!(elsewhere.statement().message, prepared(2).statement.message);
    assert_eq!(elsewhere.statement().message, prepared(1).statement.message);
    assert_eq!(elsewhere.statement().slot_end, time(SLOT + 60));
}

#[test]
fn paid_requests_carry_ticket_signature_and_payload() {
    let request = prepared(1).pay_payload(&provider(1), b"prompt".to_vec());
    let bytes = request.encode_to_vec();
    let verifier = verifier();
    let (ticket, payload) = verifier.decode_paid_request(&bytes, 4096).unwrap();
    assert_eq!(payload, b"prompt");
    verifier.check_signature(&ticket, &payload).unwrap();
    assert_eq!(reason(verifier.check_signature(&ticket, b"Prompt")), Reason::BadSignature);
    assert_eq!(reason(verifier.decode_paid_request(&bytes, bytes.len() - 1)), Reason::TooLarge);
    let unpaid = proto::PaidRequest { ticket: None, ..request }.encode_to_vec();
    assert_eq!(reason(verifier.decode_paid_request(&unpaid, 4096)), Reason::PaymentRequired);
}

#[test]
fn every_reason_has_a_number_a_name_and_a_code_of_its_own() {
    let mut numbers: Vec<_> = Reason::ALL.iter().map(|reason| reason.status_code()).collect();
    let mut names: Vec<_> = Reason::ALL.iter().map(|reason| reason.name()).collect();
    let mut codes: Vec<_> = Reason::ALL.iter().map(|reason| reason.code()).collect();
    numbers.sort_unstable();
    numbers.dedup();
    names.sort_unstable();
    names.dedup();
    codes.sort_unstable();
    codes.dedup();
    assert_eq!([numbers.len(), names.len(), codes.len()], [Reason::ALL.len(); 3]);
    for reason in Reason::ALL {
        assert_eq!(Reason::from_status_code(reason.status_code()), Some(reason));
        let json = serde_json::to_string(&reason).unwrap();
        assert_eq!(json, format!("\"{}\"", reason.name()));
    }
    assert_eq!(Reason::from_status_code(200), None);
}

#[test]
fn a_buyer_reads_verdicts_and_is_not_fooled_by_their_words() {
    let status = ticket::accepted();
    assert_eq!(Verdict::read(status.status_code.unwrap(), ""), Verdict::Accepted);
    let refusal = TicketRefusal::WrongPrice { found: Price::new(59).unwrap(), expected: Price::new(60).unwrap() };
    let status = refusal.status();
    let description = status.status_desc.unwrap();
    assert_eq!(description, "wrong_price: the ticket's price is 59, the offer's 60");
    let read = Verdict::read(status.status_code.unwrap(), &description);
    assert_eq!(read, Verdict::Refused { reason: Reason::WrongPrice, offer: None, description });
    let Verdict::Unknown { code, description } = Verdict::read(777, &format!("\u{1b}[31m{}", "x".repeat(10_000)))
    else {
        panic!("unknown codes are told apart");
    };
    assert_eq!(code, 777);
    assert_eq!(description.len(), 512);
    assert!(!description.contains('\u{1b}'));
}

#[test]
fn debug_output_shows_no_key_and_no_nullifier() {
    let prepared = prepared(1);
    let shown = format!("{prepared:?} {:?}", verifier().decode(&prepared.pay(&provider(1), REQUEST)).unwrap());
    assert!(!shown.contains("09, 9") && !shown.contains(&hex::encode([9; 32])));
    assert!(!shown.contains(&nullifier(11).to_string()));
}
