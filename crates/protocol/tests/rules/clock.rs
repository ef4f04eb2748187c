use proptest::prelude::*;
use tributary_protocol::{ErrorCode, PoolClock, UnixTime, error::SlotError, slot::RatingCrowd};

use crate::support::{L, T, clock, seconds, time};

#[test]
fn a_clock_needs_notice_of_two_slots_and_the_margin() {
    let new = |l, n, m| PoolClock::new(seconds(l), seconds(n), seconds(m));
    assert!(new(60, 150, 30).is_ok());
    for (slot_length, notice, margin) in [(60, 149, 30), (0, 150, 30), (60, 120, 1)] {
        let refused = SlotError::BadClock { slot_length, notice, margin };
        assert_eq!(refused.code(), "TRB-1501");
        assert_eq!(new(slot_length, notice, margin), Err(refused));
    }
    assert!(serde_json::from_str::<PoolClock>(r#"{"slot_length":60,"notice":100,"margin":30}"#).is_err());
}

#[test]
fn slots_are_cut_at_multiples() {
    let clock = clock();
    let slot = clock.slot_of(time(T + 59)).unwrap();
    assert_eq!((slot.start(), slot.end()), (time(T), time(T + L)));
    assert_eq!(clock.slot_of(time(T + 60)).unwrap().start(), time(T + 60));
    assert_eq!(clock.next(slot), clock.slot_at(time(T + 60)));
    assert_eq!(clock.slot_at(time(T + 1)), Err(SlotError::NotOnBoundary { time: T + 1, slot_length: L }));
    assert_eq!(clock.slot_of_ticket(time(T), time(T + L)), Ok(slot));
    for end in [T, T + 59, T + 61, T + 120] {
        let refused = SlotError::NotOneSlot { start: T, end, slot_length: L };
        assert_eq!(clock.slot_of_ticket(time(T), time(end)), Err(refused));
    }
    assert_eq!(clock.slot_of(UnixTime::MAX).unwrap_err().code(), "TRB-1504");
}

#[test]
fn a_close_stops_at_the_first_boundary_after_notice_and_a_slot() {
    let clock = clock();
    // NOTICE + L = 210 s: the boundary is 210 s away exactly when now is 30 s into a slot.
    for (now, stop) in [(T, T + 240), (T + 29, T + 240), (T + 30, T + 240), (T + 31, T + 300)] {
        let times = clock.stop_times(time(now)).unwrap();
        assert_eq!((times.stop, times.deadline), (time(stop), time(stop - 150)), "now {}", now - T);
    }
    assert_eq!(clock.stop_times(UnixTime::MAX).unwrap_err().code(), "TRB-1504");
}

#[test]
fn an_open_must_arrive_in_time() {
    let clock = clock();
    let check = |start, end, deadline, now| clock.check_open(time(start), time(end), time(deadline), time(now));
    assert_eq!(check(T, T + 60, T + 120, T - 600), Ok(()));
    assert_eq!(check(T, T + 60, T + 700, T + 580), Ok(()), "a stream that started in the past");
    assert_eq!(
        check(T, T + 60, T + 121, T - 600),
        Err(SlotError::DeadlineTooLate { deadline: T + 121, latest: T + 120 })
    );
    assert_eq!(check(T + 1, T + 60, T, T), Err(SlotError::NotOnBoundary { time: T + 1, slot_length: L }));
    assert_eq!(check(T, T + 61, T, T), Err(SlotError::NotOnBoundary { time: T + 61, slot_length: L }));
}

#[test]
fn a_list_is_final_the_margin_after_its_boundary_block() {
    let clock = clock();
    let slot = clock.slot_at(time(T)).unwrap();
    assert_eq!(clock.boundary(slot), time(T + L - 150));
    let boundary_block = Some(time(T - 88));
    assert!(!clock.is_list_final(None, time(T + 1000)), "a stalled chain: no block, no finality");
    assert!(!clock.is_list_final(boundary_block, time(T - 59)));
    assert!(clock.is_list_final(boundary_block, time(T - 58)));
}

#[test]
fn roots_are_taken_a_slot_early() {
    let clock = clock();
    assert_eq!(clock.root_cutoff(clock.slot_at(time(T)).unwrap()), time(T - L));
}

#[test]
fn ratings_hide_in_the_largest_crowd() {
    let clock = clock();
    let day = T - T % 86_400;
    let rating =
        |start: u64, until: u64| clock.rating_slot(time(start), time(until)).map(|r| (r.slot.start().get(), r.crowd));
    assert_eq!(rating(day, day + 60), Ok((day, RatingCrowd::Day)));
    assert_eq!(rating(day - 86_400, day + 59), Ok((day - 86_400, RatingCrowd::Day)), "today's first slot is not over");
    assert_eq!(rating(day + 60, day + 3660), Ok((day + 3600, RatingCrowd::Hour)));
    assert_eq!(rating(day + 60, day + 3659), Ok((day + 3000, RatingCrowd::TenMinutes)));
    assert_eq!(rating(day + 60, day + 659), Ok((day + 540, RatingCrowd::Slot)));
    assert_eq!(rating(day + 60, day + 120), Ok((day + 60, RatingCrowd::Slot)));
    assert_eq!(rating(day + 60, day + 119), Err(SlotError::NoFullSlot));
    assert_eq!(rating(day + 60, 30), Err(SlotError::NoFullSlot));
    assert_eq!(SlotError::NoFullSlot.code(), "TRB-1505");
}

/// Clocks whose slots do not divide a day, or are longer than a period.
#[test]
fn ratings_of_unusual_clocks() {
    let rating = |l: u64, start: u64, until: u64| {
        let clock = PoolClock::new(seconds(l), seconds(2 * l), seconds(0)).unwrap();
        clock.rating_slot(time(start), time(until)).map(|r| (r.slot.start().get(), r.crowd))
    };
    // 7 s: the second day's first slot is 86401..86408, which is over at 86408 only.
    assert_eq!(rating(7, 0, 86_408), Ok((86_401, RatingCrowd::Day)));
    assert_eq!(rating(7, 0, 86_407), Ok((0, RatingCrowd::Day)));
    assert_eq!(rating(7, 7, 86_407), Ok((82_803, RatingCrowd::Hour)));
    // A day and an hour: each slot is the first after a day began.
    assert_eq!(rating(90_000, 0, 450_001), Ok((360_000, RatingCrowd::Day)));
    assert_eq!(rating(90_000, 450_000, 500_000), Err(SlotError::NoFullSlot));
    assert_eq!(rating(1 << 38, 0, 1 << 39), Ok((1 << 38, RatingCrowd::Day)), "no loop runs for ages");
}

prop_compose! {
    fn any_clock()(l in 1..7200_u64, extra in 0..4000_u64, margin in 0..600_u64) -> PoolClock {
        PoolClock::new(seconds(l), seconds(2 * l + margin + extra), seconds(margin)).unwrap()
    }
}

proptest! {
    /// The contract takes the close whenever it is mined by the deadline, and the wait is bounded (P8): at most
    /// NOTICE + 2L.
    #[test]
    fn a_close_is_valid_until_its_deadline(clock in any_clock(), now in 0..(1_u64 << 39)) {
        let times = clock.stop_times(time(now)).unwrap();
        let (l, notice) = (clock.slot_length().get(), clock.notice().get());
        prop_assert_eq!(times.stop.get() % l, 0);
        prop_assert_eq!(times.deadline.get() + notice, times.stop.get());
        prop_assert!(times.deadline.get() >= now + l, "at least a slot to reach the chain");
        prop_assert!(times.stop.get() - now < notice + 2 * l);
    }

    /// No stop that is mined after a list became final falls into it: P8 rests on this.
    #[test]
    fn later_stops_miss_a_final_list(clock in any_clock(), settled in 20_000..(1_u64 << 39), later in 0..100_000_u64) {
        let slot = clock.latest_final_slot(time(settled)).unwrap();
        let boundary_block = time(settled);
        prop_assert!(boundary_block >= clock.boundary(slot));
        prop_assert!(clock.is_list_final(Some(boundary_block), time(settled + clock.margin().get())));
        let mined = settled + later;
        prop_assert!(mined + clock.notice().get() >= slot.end().get(), "the contract asks for stop >= now + NOTICE");
        let next = clock.next(slot).unwrap();
        prop_assert!(settled < clock.boundary(next).get(), "and it is the latest such slot");
    }

    /// A rating's slot is a slot of the clock, over, and covered by the stream.
    #[test]
    fn a_rating_slot_is_covered(clock in any_clock(), start in 0..(1_u64 << 33), length in 0..400_000_u64) {
        let (start, until) = (clock.floor(time(start)), time(start + length));
        match clock.rating_slot(start, until) {
            Ok(rating) => {
                prop_assert!(rating.slot.start() >= start && rating.slot.end() <= until);
                prop_assert!(clock.check_boundary(rating.slot.start()).is_ok());
            }
            Err(error) => {
                prop_assert_eq!(error, SlotError::NoFullSlot);
                prop_assert!(until.since(start) < clock.slot_length());
            }
        }
    }
}
