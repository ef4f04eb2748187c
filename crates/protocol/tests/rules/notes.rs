use proptest::prelude::*;
use tributary_protocol::{Amount, ErrorCode, Owner, Rate, StreamTerms, UnixTime, error::NoteError, note::PayerSecret};

use crate::support::{World, fr, rate, time};

fn terms(per_second: u128, start: u64, end: u64) -> Result<StreamTerms, NoteError> {
    StreamTerms::new(Owner::new(fr("notes.payee")), rate(per_second), time(start), time(end))
}

#[test]
fn terms_that_no_note_has_are_refused() {
    assert_eq!(terms(1, 5, 5), Err(NoteError::EmptyStream { start: 5, end: 5 }));
    assert_eq!(terms(1, 6, 5), Err(NoteError::EmptyStream { start: 6, end: 5 }));
    let seconds = 1 << 24;
    let max = Rate::MAX.get();
    assert_eq!(terms(max, 0, seconds).map(|t| t.deposit().get()), Ok(max << 24));
    assert_eq!(terms(max, 0, seconds + 1), Err(NoteError::DepositTooLarge { rate: max, seconds: seconds + 1 }));
    assert_eq!(terms(1 << 95, 0, 1 << 25), Err(NoteError::DepositTooLarge { rate: 1 << 95, seconds: 1 << 25 }));
    assert_eq!(NoteError::EmptyStream { start: 5, end: 5 }.code(), "TRB-1301");
    assert_eq!(NoteError::DepositTooLarge { rate: 1, seconds: 1 }.code(), "TRB-1302");
    let json = serde_json::to_string(&terms(1, 5, 6).unwrap()).unwrap().replace("\"end\":6", "\"end\":5");
    assert!(serde_json::from_str::<StreamTerms>(&json).is_err(), "serde checks too");
}

#[test]
fn two_streams_with_one_secret_have_their_own_records() {
    let mut world = World::new();
    world.add_stream(10, 60, 120, "notes.twin");
    let (first, secret, _) = world.streams[0].clone();
    let mut second = world.streams[3].0;
    second.payer_tag = secret.tag();
    assert_ne!(first.record_tag(), second.record_tag());
    assert_eq!(PayerSecret::new(*secret.expose()).tag(), first.payer_tag);
}

prop_compose! {
    fn any_terms()(start in 0..(1_u64 << 39), length in 1..(1_u64 << 24), per_second in 1..(1_u128 << 96)) -> StreamTerms {
        terms(per_second, start, start + length).unwrap()
    }
}

proptest! {
    /// P1: whatever the stop, refund and payout up to it are exactly the deposit.
    #[test]
    fn refund_and_payout_share_the_deposit(terms in any_terms(), stop in 0..(1_u64 << 40)) {
        let (stop, never) = (time(stop), UnixTime::ZERO);
        let paid = terms.payout(never, stop);
        prop_assert_eq!(paid.checked_add(terms.refund(stop)), Ok(terms.deposit()));
    }

    /// Claiming in many windows pays what claiming once does.
    #[test]
    fn windows_add_up(terms in any_terms(), mut cuts in prop::collection::vec(0..(1_u64 << 40), 1..6)) {
        cuts.sort_unstable();
        let times: Vec<UnixTime> = std::iter::once(0).chain(cuts).map(time).collect();
        let parts = Amount::checked_sum(times.windows(2).map(|w| terms.payout(w[0], w[1])));
        prop_assert_eq!(parts, Ok(terms.payout(times[0], *times.last().unwrap())));
    }
}
