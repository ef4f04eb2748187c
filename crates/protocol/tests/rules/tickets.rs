use tributary_protocol::{
    ErrorCode, Fr, Owner, Price, ProviderDigest, Root, TicketMessage, TicketNullifier, TicketStatement,
    error::{SlotError, TicketError},
    ticket::{OfferTerms, request_signing_bytes},
};

use crate::support::{L, T, amount, clock, fr, time};

const KEY: [u8; 32] = [5; 32];

fn provider() -> ProviderDigest {
    ProviderDigest::of_peer_id(b"tickets.provider")
}

fn offer() -> OfferTerms {
    OfferTerms { payee: fr("tickets.payee").into(), price: Price::new(100).unwrap(), min_streamed: amount(600) }
}

fn stopped_root() -> Root {
    fr("tickets.stopped").into()
}

fn nullifier(i: u8) -> TicketNullifier {
    TicketNullifier::new(Fr::from(i))
}

fn ticket() -> TicketStatement {
    TicketStatement {
        root: fr("tickets.root").into(),
        stopped_root: stopped_root(),
        payee: offer().payee,
        price: offer().price,
        slot_start: time(T),
        slot_end: time(T + L),
        count: 2,
        min_streamed: offer().min_streamed,
        message: TicketMessage::of_ticket(&KEY, &provider(), time(T)),
        nullifiers: [nullifier(1), nullifier(2), TicketNullifier::UNUSED, TicketNullifier::UNUSED],
    }
}

fn refused(change: impl FnOnce(&mut TicketStatement)) -> TicketError {
    let mut ticket = ticket();
    change(&mut ticket);
    ticket.check_ticket(&clock(), &offer(), stopped_root()).unwrap_err()
}

#[test]
fn a_good_ticket_passes() {
    let slot = ticket().check_ticket(&clock(), &offer(), stopped_root()).unwrap();
    assert_eq!(slot, clock().slot_at(time(T)).unwrap());
    assert_eq!(ticket().check_message(&KEY, &provider()), Ok(()));
    assert_eq!(ticket().used_nullifiers(), [nullifier(1), nullifier(2)]);
}

#[test]
fn each_fault_has_its_own_error() {
    let slot_length = L;
    let faults = [
        (refused(|t| t.count = 0), TicketError::Count { found: 0 }, "TRB-1601"),
        (refused(|t| t.count = 5), TicketError::Count { found: 5 }, "TRB-1601"),
        (refused(|t| t.count = 255), TicketError::Count { found: 255 }, "TRB-1601"),
        (refused(|t| t.nullifiers[2] = nullifier(3)), TicketError::UnusedNullifier { position: 3 }, "TRB-1602"),
        (refused(|t| t.count = 1), TicketError::UnusedNullifier { position: 2 }, "TRB-1602"),
        (refused(|t| t.count = 3), TicketError::ZeroNullifier { position: 3 }, "TRB-1603"),
        (
            refused(|t| t.nullifiers[0] = TicketNullifier::UNUSED),
            TicketError::ZeroNullifier { position: 1 },
            "TRB-1603",
        ),
        (
            refused(|t| t.nullifiers[1] = nullifier(1)),
            TicketError::RepeatedNullifier { first: 1, second: 2 },
            "TRB-1604",
        ),
        (
            refused(|t| t.slot_start = time(T + 1)),
            TicketError::Slot(SlotError::NotOnBoundary { time: T + 1, slot_length }),
            "TRB-1605",
        ),
        (
            refused(|t| t.slot_end = time(T + 2 * L)),
            TicketError::Slot(SlotError::NotOneSlot { start: T, end: T + 2 * L, slot_length }),
            "TRB-1605",
        ),
        (refused(|t| t.price = Price::ZERO), TicketError::WrongPurpose { price: 0 }, "TRB-1611"),
        (
            refused(|t| t.price = Price::new(99).unwrap()),
            TicketError::WrongPrice { found: 99, expected: 100 },
            "TRB-1607",
        ),
        (
            refused(|t| t.min_streamed = amount(599)),
            TicketError::WrongMinStreamed { found: 599, expected: 600 },
            "TRB-1608",
        ),
        (refused(|t| t.stopped_root = fr("tickets.other").into()), TicketError::WrongStoppedRoot, "TRB-1609"),
    ];
    for (error, expected, code) in faults {
        assert_eq!(error, expected);
        assert_eq!(error.code(), code);
    }
    let other = Owner::new(fr("tickets.other"));
    let error = refused(|t| t.payee = other);
    let expected = TicketError::WrongPayee { found: other.to_string(), expected: offer().payee.to_string() };
    assert_eq!((error.code(), error), ("TRB-1606", expected));
}

#[test]
fn the_message_binds_key_provider_and_slot() {
    let wrong = Err(TicketError::WrongMessage);
    assert_eq!(ticket().check_message(&[6; 32], &provider()), wrong);
    assert_eq!(ticket().check_message(&KEY, &ProviderDigest::of_peer_id(b"another")), wrong);
    let mut later = ticket();
    later.slot_start = time(T + L);
    assert_eq!(later.check_message(&KEY, &provider()), wrong);
    let mut rating = ticket();
    rating.message = TicketMessage::of_rating(b"a rating");
    assert_eq!(rating.check_message(&KEY, &provider()), wrong);
    assert_eq!(TicketError::WrongMessage.code(), "TRB-1610");
}

#[test]
fn ratings_have_their_own_rules() {
    let rating = TicketStatement {
        price: Price::ZERO,
        count: 1,
        nullifiers: [nullifier(1), TicketNullifier::UNUSED, TicketNullifier::UNUSED, TicketNullifier::UNUSED],
        message: TicketMessage::of_rating(b"a rating"),
        ..ticket()
    };
    let check = |rating: &TicketStatement, now: u64| {
        rating.check_rating(&clock(), offer().payee, offer().min_streamed, stopped_root(), time(now))
    };
    assert!(check(&rating, T + L).is_ok());
    let early = check(&rating, T + L - 1).unwrap_err();
    assert_eq!(early, TicketError::FutureRating { slot_end: T + L, now: T + L - 1 });
    assert_eq!(early.code(), "TRB-1612");
    assert_eq!(check(&ticket(), T + L), Err(TicketError::WrongPurpose { price: 100 }));
    let two = TicketStatement { price: Price::ZERO, ..ticket() };
    assert_eq!(check(&two, T + L), Err(TicketError::Count { found: 2 }));
}

#[test]
fn a_signature_covers_provider_ticket_and_request() {
    let bytes = |provider: &[u8], nf, request: &[u8]| {
        request_signing_bytes(&ProviderDigest::of_peer_id(provider), nullifier(nf), request)
    };
    let base = bytes(b"a", 1, b"request");
    assert_eq!(base.len(), "tributary.request.v1".len() + 96);
    for other in [bytes(b"b", 1, b"request"), bytes(b"a", 2, b"request"), bytes(b"a", 1, b"Request")] {
        assert_ne!(base, other);
    }
}
