use std::collections::BTreeSet;

use alloy_primitives::U256;
use ark_ff::{One, Zero};
use proptest::prelude::*;
use tributary_protocol::{
    Commitment, ErrorCode, FieldElement, Fr, MerkleTree, RecordTag, Root, StopEntry, StopSchedule, StoppedList,
    error::ListError,
    poseidon::{Tag, hash},
};

use crate::support::{fr, time};

fn entry(stop: u64, tag: Fr) -> StopEntry {
    StopEntry { stop: time(stop), tag: RecordTag::new(tag) }
}

fn power(bit: usize) -> Fr {
    Fr::try_from_u256(U256::from(1_u8) << bit).unwrap()
}

fn highest() -> Fr {
    power(248) - Fr::one()
}

/// The definition: leaves in order of (stop, tag), each pointing to the next larger value, in the ordinary tree.
fn naive_root(entries: &BTreeSet<StopEntry>, slot_end: u64) -> Root {
    let mask = (U256::from(1_u8) << 248) - U256::from(1_u8);
    let mut values = vec![U256::ZERO];
    for entry in entries.iter().filter(|entry| entry.stop < time(slot_end)) {
        let value = entry.tag.to_u256() & mask;
        if value != mask && !values.contains(&value) {
            values.push(value);
        }
    }
    let leaves = values.iter().map(|low| {
        let next = values.iter().filter(|v| *v > low).min().copied().unwrap_or(mask);
        let element = |value| Fr::try_from_u256(value).unwrap();
        Commitment::new(hash(Tag::List, &[element(*low), element(next)]))
    });
    MerkleTree::from_leaves(leaves.collect::<Vec<_>>()).unwrap().root()
}

#[test]
fn sentinels_and_repeated_values_are_skipped() {
    let tag = fr("stopped.tag");
    let same_low = Fr::from(7_u8) + power(250);
    let entries = [
        entry(1, Fr::zero()),
        entry(1, Fr::from(7_u8)),
        entry(1, highest()),
        entry(1, highest() + power(249)), // its low 248 bits are the upper sentinel
        entry(2, tag),
        entry(3, same_low),
    ];
    let list = StoppedList::from_entries(entries).unwrap();
    assert_eq!(list.len(), 3, "the sentinel, 7 and the tag");
    assert_eq!(list.root(), naive_root(&entries.into_iter().collect(), 10));
    assert!(list.contains(RecordTag::new(same_low)));
    assert_eq!(list.absence(RecordTag::new(same_low)), Err(ListError::Present { position: 1 }));
    assert_eq!(list.absence(RecordTag::new(tag)), Err(ListError::Present { position: 2 }));
    for sentinel in [Fr::zero(), highest(), power(248), power(250) + highest()] {
        assert_eq!(list.absence(RecordTag::new(sentinel)), Err(ListError::Sentinel));
    }
    assert_eq!(ListError::Present { position: 1 }.code(), "TRB-1412");
    assert_eq!(ListError::Sentinel.code(), "TRB-1414");
}

/// Tags at the ends of the list and right beside stopped ones can still be proved absent.
#[test]
fn neighbours_and_ends_are_absent() {
    let stopped = Fr::from(1000_u64);
    let list =
        StoppedList::from_entries([entry(1, Fr::one()), entry(1, highest() - Fr::one()), entry(2, stopped)]).unwrap();
    for tag in [Fr::from(2_u8), stopped - Fr::one(), stopped + Fr::one(), highest() - Fr::from(2_u8), -Fr::one()] {
        let witness = list.absence(RecordTag::new(tag)).unwrap();
        assert!(witness.shows_absence(RecordTag::new(tag), list.root()));
        // The same leaf shows nothing about its own ends, nor under another root.
        assert!(!witness.shows_absence(RecordTag::new(witness.low), list.root()));
        assert!(!witness.shows_absence(RecordTag::new(witness.next), list.root()));
        assert!(!witness.shows_absence(RecordTag::new(tag), StoppedList::new().root()));
    }
}

/// The list's order is that of the integers, whatever the field's inner representation.
#[test]
fn entries_order_as_integers() {
    let mut entries: Vec<StopEntry> = (0..50).map(|i| entry(i / 10, fr(&format!("stopped.order.{i}")))).collect();
    entries.sort();
    assert!(entries.windows(2).all(|w| (w[0].stop, w[0].tag.to_u256()) < (w[1].stop, w[1].tag.to_u256())));
}

#[test]
fn entries_must_ascend() {
    let (a, b) = (fr("stopped.a"), fr("stopped.b"));
    let (low, high) = if a.to_u256() < b.to_u256() { (a, b) } else { (b, a) };
    let mut list = StoppedList::from_entries([entry(5, high)]).unwrap();
    assert_eq!(list.extend([entry(4, low)]), Err(ListError::OutOfOrder { stop: 4, previous: 5 }));
    assert_eq!(list.extend([entry(5, low)]), Err(ListError::OutOfOrder { stop: 5, previous: 5 }));
    assert_eq!(list.extend([entry(5, high), entry(6, low)]), Ok(()), "the same entry again is skipped");
    assert_eq!(list.len(), 3);
    assert_eq!(ListError::OutOfOrder { stop: 4, previous: 5 }.code(), "TRB-1411");
}

#[test]
fn a_stop_at_the_slots_end_belongs_to_the_next_list() {
    let mut schedule = StopSchedule::new();
    let stop = entry(120, fr("stopped.edge"));
    schedule.insert(stop);
    assert!(!schedule.list(time(120)).unwrap().contains(stop.tag));
    assert!(schedule.list(time(121)).unwrap().contains(stop.tag));
    assert!(schedule.list(time(180)).unwrap().contains(stop.tag));
}

#[test]
fn a_list_once_handed_out_never_changes() {
    let mut schedule = StopSchedule::new();
    schedule.insert(entry(10, fr("stopped.0")));
    let early = schedule.list(time(60)).unwrap();
    let (root, tag) = (early.root(), RecordTag::new(fr("stopped.1")));
    let witness = early.absence(tag).unwrap();
    schedule.insert(entry(20, fr("stopped.1")));
    let late = schedule.list(time(60)).unwrap();
    assert_ne!(late.root(), root);
    assert_eq!((early.root(), early.absence(tag)), (root, Ok(witness)));
    assert!(late.contains(tag) && !early.contains(tag));
}

#[derive(Clone, Debug)]
enum Step {
    Stop(u64, u8),
    Undo(usize),
    List(u64),
}

fn steps() -> impl Strategy<Value = Vec<Step>> {
    let step = prop_oneof![
        4 => (0..400_u64, any::<u8>()).prop_map(|(stop, tag)| Step::Stop(stop, tag)),
        1 => any::<usize>().prop_map(Step::Undo),
        2 => (0..8_u64).prop_map(|slot| Step::List(60 * slot)),
    ];
    prop::collection::vec(step, 1..40)
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(60))]

    /// Stops in any order, reorganisations and lists asked for in between: each list is the definition's.
    #[test]
    fn any_history_gives_the_defined_list(steps in steps()) {
        let mut schedule = StopSchedule::new();
        let mut entries: BTreeSet<StopEntry> = BTreeSet::new();
        for step in steps {
            match step {
                Step::Stop(stop, tag) => {
                    let entry = entry(stop, fr(&format!("stopped.any.{tag}")));
                    prop_assert_eq!(schedule.insert(entry), entries.insert(entry));
                }
                Step::Undo(i) => {
                    if let Some(entry) = entries.iter().nth(i % entries.len().max(1)).copied() {
                        entries.remove(&entry);
                        prop_assert!(schedule.remove(&entry));
                    }
                }
                Step::List(slot_end) => {
                    let list = schedule.list(time(slot_end)).unwrap();
                    prop_assert_eq!(list.root(), naive_root(&entries, slot_end));
                    let tag = RecordTag::new(fr("stopped.other"));
                    prop_assert!(list.absence(tag).unwrap().shows_absence(tag, list.root()));
                }
            }
        }
        prop_assert_eq!(schedule.len(), entries.len());
    }
}

#[test]
fn few_lists_are_remembered_and_forgotten_ones_come_back_the_same() {
    let mut schedule = StopSchedule::new();
    for i in 0..200_u64 {
        schedule.insert(entry(60 * i, fr(&format!("stopped.many.{i}"))));
    }
    let first = schedule.list(time(60)).unwrap().root();
    for i in 2..200 {
        schedule.list(time(60 * i)).unwrap();
    }
    assert_eq!(schedule.list(time(60)).unwrap().root(), first);
}
