//! Which waiting proof is verified when, and with whose. Has no clock and calls no verifier: the caller says what time it is and what a check
//! showed, so that a test can say it too.
//!
//! Peers are in one of three lanes, which are never mixed in one check:
//!
//! - trusted: enough of their proofs held, and none failed since;
//! - newcomers: nothing is known of them, or too little. A few proofs of each, as many as make it trusted, of more peers at a time while batches
//!   hold; after one that doesn't, of one peer at a time;
//! - apart: they sent a bad proof. One proof at a time.
//!
//! When more than one lane has something waiting, each gets its share of the time that checks take. So what unknown peers send, whatever it is
//! and however many they are, takes from the trusted ones no more than the newcomers' share. Shares hold while trusted peers have more waiting than
//! fits a batch. Else batches could be larger and cost less each, so time isn't scarce: then newcomers have as much of it as the trusted.
//!
//! A batch that fails is divided by peer at once, into parts that are checked in turns with the other lanes. If the part of one peer fails, a proof of
//! it is bad, and all that it has waiting is refused. Which one is bad is found when the peer sends them again after its penalty: apart from others,
//! and one by one, so that the search costs nobody else.

use std::collections::{HashMap, HashSet, VecDeque};
use std::hash::Hash;
use std::time::Duration;

use super::{BatchLimits, Overload, Shares, Verdict};
use crate::conduct::doubled;
use crate::lru::Lru;

/// Who is verified together.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Lane {
    Trusted,
    Newcomers,
    Apart,
}

impl Lane {
    const ALL: [Self; 3] = [Self::Trusted, Self::Newcomers, Self::Apart];
}

impl Shares {
    fn of(&self, lane: Lane) -> u32 {
        match lane {
            Lane::Trusted => self.trusted,
            Lane::Newcomers => self.newcomers,
            Lane::Apart => self.apart,
        }
        .max(1)
    }
}

/// A proof and who sent it.
#[derive(Debug)]
pub(super) struct Entry<P, T> {
    pub(super) peer: Option<P>,
    pub(super) item: T,
}

/// What is verified in one check.
#[derive(Debug)]
pub(super) struct Unit<P, T> {
    pub(super) lane: Lane,
    /// Whether it comes from a batch that failed.
    pub(super) part: bool,
    pub(super) entries: Vec<Entry<P, T>>,
}

/// A proof that is done with, and what became of it.
pub(super) type Settled<T> = (T, Result<Verdict, Overload>);

struct Queue<P, T> {
    /// What waits of each peer; nothing is empty. `None` stands for all whose sender isn't known.
    by_peer: HashMap<Option<P>, VecDeque<T>>,
    /// Those peers, in turns.
    turns: VecDeque<Option<P>>,
    waiting: usize,
    /// Parts of failed batches come before all else.
    parts: VecDeque<Vec<Entry<P, T>>>,
    /// Time that checks took, in nanoseconds over the lane's share.
    used: u128,
}

impl<P: Clone + Eq + Hash, T> Queue<P, T> {
    fn new() -> Self {
        Self { by_peer: HashMap::new(), turns: VecDeque::new(), waiting: 0, parts: VecDeque::new(), used: 0 }
    }

    fn is_empty(&self) -> bool {
        self.waiting == 0 && self.parts.is_empty()
    }

    fn waiting_of(&self, peer: &Option<P>) -> usize {
        self.by_peer.get(peer).map_or(0, VecDeque::len)
    }

    fn push(&mut self, peer: Option<P>, item: T) {
        let own = self.by_peer.entry(peer.clone()).or_default();
        if own.is_empty() {
            self.turns.push_back(peer);
        }
        own.push_back(item);
        self.waiting += 1;
    }

    /// Takes up to `most` proofs of the peer whose turn it is.
    fn take_turn(&mut self, most: usize, into: &mut Vec<Entry<P, T>>) {
        let Some(peer) = self.turns.pop_front() else { return };
        let Some(own) = self.by_peer.get_mut(&peer) else { return };
        let n = own.len().min(most);
        into.extend(own.drain(..n).map(|item| Entry { peer: peer.clone(), item }));
        self.waiting -= n;
        if own.is_empty() {
            self.by_peer.remove(&peer);
        } else {
            self.turns.push_back(peer);
        }
    }

    /// What waits of the peer that has most waiting.
    fn most_waiting(&self) -> usize {
        self.by_peer.values().map(VecDeque::len).max().unwrap_or(0)
    }

    /// Takes the last proof of the peer that has most waiting.
    fn drop_of_longest(&mut self) -> Option<T> {
        let own = self.by_peer.values_mut().max_by_key(|own| own.len()).filter(|own| own.len() > 1)?;
        self.waiting -= 1;
        own.pop_back()
    }

    /// Takes all that waits of one peer.
    fn take_all(&mut self, peer: &Option<P>) -> VecDeque<T> {
        let Some(own) = self.by_peer.remove(peer) else { return VecDeque::new() };
        self.turns.retain(|p| p != peer);
        self.waiting -= own.len();
        own
    }
}

/// What is known of a peer.
#[derive(Clone, Copy, Debug, Default)]
struct Record {
    /// Good proofs since the last bad one.
    good: u32,
    /// Times that proofs were bad.
    bad: u32,
    /// Nothing of it is verified before.
    until: Duration,
}

/// Proofs that wait, and what is known of their senders.
pub(super) struct Schedule<P, T> {
    limits: BatchLimits,
    trusted: Queue<P, T>,
    newcomers: Queue<P, T>,
    apart: Queue<P, T>,
    /// Newcomers in the next batch.
    together: usize,
    /// [`Queue::used`] of the lane that was chosen last, before that: a lane that was empty begins there.
    now_used: u128,
    good: Lru<P, Record>,
    spoilers: Lru<P, Record>,
}

impl<P: Clone + Eq + Hash, T> Schedule<P, T> {
    pub(super) fn new(limits: BatchLimits) -> Self {
        Self {
            limits,
            trusted: Queue::new(),
            newcomers: Queue::new(),
            apart: Queue::new(),
            together: 1,
            now_used: 0,
            good: Lru::new(limits.remembered),
            spoilers: Lru::new(limits.remembered),
        }
    }

    fn queue(&mut self, lane: Lane) -> &mut Queue<P, T> {
        match lane {
            Lane::Trusted => &mut self.trusted,
            Lane::Newcomers => &mut self.newcomers,
            Lane::Apart => &mut self.apart,
        }
    }

    /// The lane of a peer.
    pub(super) fn lane(&self, peer: &P) -> Lane {
        if self.spoilers.get(peer).is_some() {
            Lane::Apart
        } else if self.good.get(peer).map_or(0, |r| r.good) >= self.limits.good_to_trust {
            Lane::Trusted
        } else {
            Lane::Newcomers
        }
    }

    #[cfg(test)]
    pub(super) fn waiting(&self) -> usize {
        self.trusted.waiting + self.newcomers.waiting + self.apart.waiting
    }

    /// Whether proofs of this peer are looked at.
    pub(super) fn admissible(&self, peer: &P, now: Duration) -> Result<(), Overload> {
        let left = self.spoilers.get(peer).map_or(Duration::ZERO, |r| r.until.saturating_sub(now));
        if left.is_zero() { Ok(()) } else { Err(Overload::Penalty { left }) }
    }

    /// Whether a proof of this peer would be taken now.
    pub(super) fn room(&self, peer: &Option<P>, now: Duration) -> Result<Lane, Overload> {
        let lane = match peer {
            Some(peer) => {
                self.admissible(peer, now)?;
                self.lane(peer)
            }
            None => Lane::Newcomers,
        };
        let limits = &self.limits;
        let (queue, all, own) = match lane {
            Lane::Trusted => (&self.trusted, limits.waiting, limits.waiting_per_peer),
            Lane::Newcomers => (&self.newcomers, limits.waiting_newcomers, limits.waiting_per_newcomer),
            Lane::Apart => (&self.apart, limits.waiting_apart, limits.waiting_per_spoiler),
        };
        if peer.is_some() && queue.waiting_of(peer) >= own {
            return Err(Overload::Peer { limit: own });
        }
        // A full queue makes room for who has less in it.
        let makes_room = lane != Lane::Trusted && queue.most_waiting() > queue.waiting_of(peer) + 1;
        if queue.waiting >= all && !makes_room {
            return Err(Overload::Queue { limit: all });
        }
        Ok(lane)
    }

    /// Takes a proof to be verified. Returns one that made room for it, of another peer.
    pub(super) fn push(&mut self, peer: Option<P>, item: T, now: Duration) -> Result<Option<Settled<T>>, Overload> {
        let lane = self.room(&peer, now)?;
        let limit = match lane {
            Lane::Trusted => self.limits.waiting,
            Lane::Newcomers => self.limits.waiting_newcomers,
            Lane::Apart => self.limits.waiting_apart,
        };
        let now_used = self.now_used;
        let queue = self.queue(lane);
        if queue.is_empty() {
            // Time that a lane didn't use isn't saved up.
            queue.used = queue.used.max(now_used);
        }
        let displaced = if queue.waiting >= limit { queue.drop_of_longest() } else { None };
        queue.push(peer, item);
        Ok(displaced.map(|item| (item, Err(Overload::Queue { limit }))))
    }

    /// What is to be verified next. Proofs that nobody waits for any more are left out.
    pub(super) fn next(&mut self, wanted: impl Fn(&T) -> bool) -> Option<Unit<P, T>> {
        loop {
            let busy = Lane::ALL.into_iter().filter(|lane| !self.queue(*lane).is_empty()).collect::<Vec<_>>();
            // Of equals the first: trusted before newcomers before those apart.
            let lane = busy.into_iter().min_by_key(|lane| self.queue(*lane).used)?;
            let (batch, together) = (self.limits.batch.max(1), self.together);
            let each = usize::try_from(self.limits.good_to_trust).unwrap_or(usize::MAX).max(1);
            let queue = self.queue(lane);
            let used = queue.used;
            let mut entries = Vec::new();
            let part = queue.parts.pop_front();
            let is_part = part.is_some();
            if let Some(part) = part {
                entries = part;
            } else {
                match lane {
                    Lane::Trusted => {
                        while entries.len() < batch && queue.waiting > 0 {
                            queue.take_turn(1, &mut entries);
                        }
                    }
                    Lane::Newcomers => {
                        for _ in 0..queue.turns.len().min(together) {
                            // Of those that can't be told apart as many as of so many peers.
                            let most = if queue.turns.front() == Some(&None) { together } else { each };
                            queue.take_turn(most.min(batch - entries.len()), &mut entries);
                            if entries.len() >= batch {
                                break;
                            }
                        }
                    }
                    Lane::Apart => queue.take_turn(1, &mut entries),
                }
            }
            self.now_used = self.now_used.max(used);
            entries.retain(|entry| wanted(&entry.item));
            if !entries.is_empty() {
                return Some(Unit { lane, part: is_part, entries });
            }
        }
    }

    /// Takes what a check showed, and how long it took. Returns the proofs that are done with.
    pub(super) fn report(&mut self, unit: Unit<P, T>, holds: bool, took: Duration, now: Duration) -> Vec<Settled<T>> {
        let Unit { lane, part, entries } = unit;
        let plenty = lane == Lane::Newcomers && self.trusted.waiting < self.limits.batch;
        let share = u128::from(self.limits.shares.of(if plenty { Lane::Trusted } else { lane }));
        // At least a microsecond: a lane whose checks were free would never end its turn.
        self.queue(lane).used += took.as_nanos().max(1000) / share;
        let mut settled = Vec::with_capacity(entries.len());
        if holds {
            if lane == Lane::Newcomers && !part && peers_of(&entries) >= self.together {
                self.together = (self.together * 2).min(self.limits.newcomers_together.max(1));
            }
            for Entry { peer, item } in entries {
                if let Some(peer) = peer {
                    self.good(peer);
                }
                settled.push((item, Ok(Verdict::Valid)));
            }
            return settled;
        }
        if lane == Lane::Newcomers {
            self.together = 1;
        }
        let mut parts = by_peer(entries);
        if parts.len() > 1 {
            self.queue(lane).parts.extend(parts);
            return settled;
        }
        let Some(own) = parts.pop() else { return settled };
        let peer = own.first().and_then(|entry| entry.peer.clone());
        let penalty = peer.map(|peer| {
            let penalty = self.spoilt(&peer, now);
            let waiting = Lane::ALL.map(|lane| self.queue(lane).take_all(&Some(peer.clone())));
            settled.extend(waiting.into_iter().flatten().map(|item| (item, Err(penalty))));
            penalty
        });
        let result = match penalty {
            Some(penalty) if own.len() > 1 => Err(penalty),
            _ => Ok(Verdict::Invalid),
        };
        settled.extend(own.into_iter().map(|entry| (entry.item, result)));
        settled
    }

    fn good(&mut self, peer: P) {
        if let Some(mut record) = self.spoilers.remove(&peer) {
            record.good = record.good.saturating_add(1);
            if record.good < self.limits.good_to_forgive {
                self.spoilers.insert(peer, record);
            } else {
                self.good.insert(peer.clone(), Record { good: record.good, ..Record::default() });
                self.move_waiting(peer, Lane::Apart);
            }
            return;
        }
        let mut record = self.good.remove(&peer).unwrap_or_default();
        record.good = record.good.saturating_add(1);
        self.good.insert(peer.clone(), record);
        if record.good == self.limits.good_to_trust {
            self.move_waiting(peer, Lane::Newcomers);
        }
    }

    /// Moves what waits of a peer from a lane to its present one.
    fn move_waiting(&mut self, peer: P, from: Lane) {
        let to = self.lane(&peer);
        if to == from {
            return;
        }
        let peer = Some(peer);
        let now_used = self.now_used;
        let items = self.queue(from).take_all(&peer);
        let queue = self.queue(to);
        if queue.is_empty() {
            queue.used = queue.used.max(now_used);
        }
        items.into_iter().for_each(|item| queue.push(peer.clone(), item));
    }

    /// Notes that a peer sent a bad proof.
    fn spoilt(&mut self, peer: &P, now: Duration) -> Overload {
        self.good.remove(peer);
        let bad = self.spoilers.remove(peer).map_or(0, |record| record.bad);
        let left = doubled(self.limits.penalty, bad, self.limits.penalty_max);
        self.spoilers.insert(peer.clone(), Record { good: 0, bad: bad.saturating_add(1), until: now + left });
        Overload::Penalty { left }
    }
}

/// How many peers sent these. Those that aren't known count as one each.
fn peers_of<P: Eq + Hash, T>(entries: &[Entry<P, T>]) -> usize {
    let known: HashSet<&P> = entries.iter().filter_map(|entry| entry.peer.as_ref()).collect();
    known.len() + entries.iter().filter(|entry| entry.peer.is_none()).count()
}

/// Parts of one peer each, in the order of their first proofs. Proofs whose sender isn't known are parts by themselves.
fn by_peer<P: Clone + Eq + Hash, T>(entries: Vec<Entry<P, T>>) -> Vec<Vec<Entry<P, T>>> {
    let mut places: HashMap<P, usize> = HashMap::new();
    let mut parts: Vec<Vec<Entry<P, T>>> = Vec::new();
    for entry in entries {
        let place = match &entry.peer {
            Some(peer) => *places.entry(peer.clone()).or_insert(parts.len()),
            None => parts.len(),
        };
        if place == parts.len() {
            parts.push(Vec::new());
        }
        parts[place].push(entry);
    }
    parts
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use super::*;

    const MS: Duration = Duration::from_millis(1);
    const S: Duration = Duration::from_secs(1);

    #[derive(Clone, Copy, Debug, PartialEq, Eq)]
    struct Proof {
        id: u32,
        good: bool,
    }

    /// One worker whose checks take a millisecond and a quarter for each proof, by its own clock.
    struct Desk {
        schedule: Schedule<u32, Proof>,
        now: Duration,
        ids: u32,
        /// Each check: its lane, and whose proofs.
        checks: Vec<(Lane, Vec<Option<u32>>)>,
        settled: BTreeMap<u32, Result<Verdict, Overload>>,
        time: [Duration; 3],
    }

    impl Desk {
        fn new(limits: BatchLimits) -> Self {
            Self {
                schedule: Schedule::new(limits),
                now: S,
                ids: 0,
                checks: Vec::new(),
                settled: BTreeMap::new(),
                time: [Duration::ZERO; 3],
            }
        }

        /// A peer that was trusted before: its record is made by good proofs, as any other.
        fn trust(&mut self, peer: u32) {
            while self.schedule.lane(&peer) != Lane::Trusted {
                self.push(peer, true).unwrap();
                self.run();
            }
            self.checks.clear();
            self.settled.clear();
            self.time = [Duration::ZERO; 3];
        }

        fn push(&mut self, peer: u32, good: bool) -> Result<u32, Overload> {
            self.ids += 1;
            let proof = Proof { id: self.ids, good };
            let displaced = self.schedule.push(Some(peer), proof, self.now)?;
            if let Some((displaced, result)) = displaced {
                assert!(self.settled.insert(displaced.id, result).is_none(), "a proof was settled twice");
            }
            Ok(proof.id)
        }

        fn step(&mut self) -> bool {
            let Some(unit) = self.schedule.next(|_| true) else { return false };
            let lane = unit.lane;
            self.checks.push((lane, unit.entries.iter().map(|e| e.peer).collect()));
            let took = MS + MS / 4 * u32::try_from(unit.entries.len()).unwrap();
            self.now += took;
            self.time[lane as usize] += took;
            let holds = unit.entries.iter().all(|e| e.item.good);
            for (proof, result) in self.schedule.report(unit, holds, took, self.now) {
                if let Ok(verdict) = result {
                    assert_eq!(verdict == Verdict::Valid, proof.good, "a wrong verdict");
                }
                assert!(self.settled.insert(proof.id, result).is_none(), "a proof was settled twice");
            }
            true
        }

        fn run(&mut self) {
            while self.step() {}
        }

        fn of_lane(&self, lane: Lane) -> Vec<Vec<u32>> {
            let of = |peers: &Vec<Option<u32>>| peers.iter().map(|p| p.unwrap()).collect();
            self.checks.iter().filter(|(l, _)| *l == lane).map(|(_, peers)| of(peers)).collect()
        }
    }

    fn penalised(result: &Result<Verdict, Overload>) -> bool {
        matches!(result, Err(Overload::Penalty { .. }))
    }

    #[test]
    fn newcomers_are_verified_in_batches_of_more_peers_while_they_hold() {
        let mut desk = Desk::new(BatchLimits { waiting_newcomers: 40, ..BatchLimits::default() });
        for peer in 0..40 {
            desk.push(peer, true).unwrap();
        }
        desk.run();
        let sizes: Vec<_> = desk.of_lane(Lane::Newcomers).iter().map(Vec::len).collect();
        assert_eq!(sizes, [1, 2, 4, 8, 16, 9]);
    }

    #[test]
    fn a_newcomers_turn_is_what_makes_it_trusted() {
        let limits = BatchLimits { good_to_trust: 3, waiting_per_newcomer: 5, ..BatchLimits::default() };
        let mut desk = Desk::new(limits);
        for peer in [7, 7, 7, 7, 7, 8] {
            desk.push(peer, true).unwrap();
        }
        desk.run();
        let expected = [(Lane::Newcomers, vec![7, 7, 7]), (Lane::Trusted, vec![7, 7]), (Lane::Newcomers, vec![8])];
        let checks: Vec<_> = desk.checks.iter().map(|(l, p)| (*l, p.iter().flatten().copied().collect())).collect();
        assert_eq!(checks, expected);
    }

    #[test]
    fn after_a_bad_proof_of_a_newcomer_they_are_verified_one_by_one() {
        let mut desk = Desk::new(BatchLimits::default());
        for peer in 0..31 {
            desk.push(peer, true).unwrap();
        }
        desk.run();
        desk.checks.clear();
        for peer in 40..44 {
            desk.push(peer, peer != 42).unwrap();
        }
        desk.run();
        // The batch failed, each was looked at by itself, and the next batches begin small.
        assert_eq!(desk.of_lane(Lane::Newcomers), [vec![40, 41, 42, 43], vec![40], vec![41], vec![42], vec![43]]);
        desk.checks.clear();
        for peer in 50..53 {
            desk.push(peer, true).unwrap();
        }
        desk.run();
        assert_eq!(desk.of_lane(Lane::Newcomers), [vec![50], vec![51, 52]]);
        let lanes = [40, 41, 42, 43].map(|peer| desk.schedule.lane(&peer));
        assert_eq!(lanes, [Lane::Newcomers, Lane::Newcomers, Lane::Apart, Lane::Newcomers]);
    }

    #[test]
    fn a_failed_batch_is_divided_by_peer_and_only_the_spoiler_is_punished() {
        let mut desk = Desk::new(BatchLimits::default());
        for peer in 1..=5 {
            desk.trust(peer);
        }
        for peer in 1..=5 {
            for n in 0..4 {
                desk.push(peer, !(peer == 3 && n == 2)).unwrap();
            }
        }
        desk.run();
        let own = |peer| vec![peer; 4];
        let trusted = desk.of_lane(Lane::Trusted);
        assert_eq!(trusted[0].len(), 20);
        assert_eq!(trusted[1..], [own(1), own(2), own(3), own(4), own(5)]);
        assert_eq!(desk.settled.values().filter(|r| **r == Ok(Verdict::Valid)).count(), 16);
        assert_eq!(desk.settled.values().filter(|r| penalised(r)).count(), 4, "the spoiler's own");
        for peer in 1..=5 {
            let expected = if peer == 3 { Lane::Apart } else { Lane::Trusted };
            assert_eq!(desk.schedule.lane(&peer), expected, "peer {peer}");
            assert_eq!(desk.push(peer, true).is_ok(), peer != 3, "peer {peer}");
        }
        // The spoiler sends its four again: one by one now, apart, until the bad one.
        desk.run();
        desk.checks.clear();
        desk.now += S;
        let again: Vec<_> = (0..4).map(|n| desk.push(3, n != 2).unwrap()).collect();
        desk.run();
        assert_eq!(desk.of_lane(Lane::Apart), vec![vec![3]; 3]);
        let results: Vec<_> = again.iter().map(|id| desk.settled[id]).collect();
        assert_eq!(results[..3], [Ok(Verdict::Valid), Ok(Verdict::Valid), Ok(Verdict::Invalid)]);
        assert!(penalised(&results[3]), "{results:?}");
    }

    #[test]
    fn what_waits_of_a_spoiler_is_refused_as_soon_as_its_part_fails() {
        let limits = BatchLimits { batch: 4, ..BatchLimits::default() };
        let mut desk = Desk::new(limits);
        desk.trust(1);
        desk.trust(2);
        let bad: Vec<_> = (0..10).map(|_| desk.push(1, false).unwrap()).collect();
        let good: Vec<_> = (0..4).map(|_| desk.push(2, true).unwrap()).collect();
        // The batch (two of each), then the spoiler's part.
        desk.step();
        desk.step();
        assert!(bad.iter().all(|id| penalised(&desk.settled[id])));
        assert!(good.iter().all(|id| !desk.settled.contains_key(id)));
        desk.run();
        assert!(good.iter().all(|id| desk.settled[id] == Ok(Verdict::Valid)));
        assert_eq!(desk.checks.len(), 4, "{:?}", desk.checks);
    }

    #[test]
    fn a_peer_with_one_bad_proof_recovers_after_its_penalty() {
        let mut desk = Desk::new(BatchLimits::default());
        desk.trust(1);
        desk.push(1, false).unwrap();
        desk.run();
        let begun = desk.now;
        assert_eq!(desk.push(1, true), Err(Overload::Penalty { left: S }));
        desk.now = begun + S - MS;
        assert_eq!(desk.push(1, true), Err(Overload::Penalty { left: MS }));
        desk.now = begun + S;
        // At first it may have few waiting, and is verified by itself.
        for n in 0..64 {
            assert_eq!(desk.schedule.lane(&1), Lane::Apart, "after {n}");
            let id = desk.push(1, true).unwrap();
            desk.run();
            assert_eq!(desk.settled[&id], Ok(Verdict::Valid));
        }
        assert_eq!(desk.schedule.lane(&1), Lane::Trusted);
        // All is forgotten: the next penalty is a first one.
        desk.push(1, false).unwrap();
        desk.run();
        assert_eq!(desk.push(1, true), Err(Overload::Penalty { left: S }));
    }

    #[test]
    fn penalties_double_up_to_their_bound() {
        let mut desk = Desk::new(BatchLimits::default());
        let mut seconds = Vec::new();
        for _ in 0..8 {
            desk.push(1, false).unwrap();
            desk.run();
            let Err(Overload::Penalty { left }) = desk.push(1, true) else { panic!("no penalty") };
            seconds.push(left.as_secs());
            desk.now += left;
        }
        assert_eq!(seconds, [1, 2, 4, 8, 16, 32, 60, 60]);
    }

    #[test]
    fn peers_that_nothing_is_known_of_get_their_share_of_time_and_no_more() {
        let mut desk = Desk::new(BatchLimits::default());
        for peer in 1..=4 {
            desk.trust(peer);
        }
        // More of both than can be verified; each bad proof from a new name, so that no penalty ever hits.
        let mut sybil = 1000;
        let end = desk.now + 20 * S;
        while desk.now < end {
            for peer in 1..=4 {
                while desk.push(peer, true).is_ok() {}
            }
            while desk.push(sybil, false).is_ok() {
                sybil += 1;
            }
            desk.step();
        }
        let [trusted, newcomers, _] = desk.time.map(|t| t.as_secs_f64() / 20.0);
        assert!((0.14..0.17).contains(&(newcomers / (trusted + newcomers))), "{trusted} {newcomers}");
        for peer in 1..=4 {
            assert_eq!(desk.schedule.lane(&peer), Lane::Trusted, "punished for another's proofs");
        }
        assert!(desk.of_lane(Lane::Trusted).iter().flatten().all(|peer| *peer < 1000), "lanes were mixed");
    }

    #[test]
    fn a_newcomer_among_many_false_ones_is_soon_trusted_while_time_is_not_scarce() {
        // 600 good proofs a second of trusted peers, and 100 new names a second with bad proofs.
        let mut desk = Desk::new(BatchLimits::default());
        for peer in 1..=10 {
            desk.trust(peer);
        }
        let (begun, mut sent) = (desk.now, 0_u32);
        let mut known = Vec::new();
        while sent < 700 * 10 {
            while begun + S * sent / 700 <= desk.now {
                match sent % 7 {
                    0 => drop(desk.push(1000 + sent, false)),
                    _ => known.push(desk.push(1 + sent % 10, true).expect("a good proof was turned away")),
                }
                if sent == 5000 {
                    assert!((0..4).all(|_| desk.push(500, true).is_ok()));
                }
                sent += 1;
            }
            if !desk.step() {
                desk.now += MS / 10;
            }
            if sent > 5100 {
                assert_eq!(desk.schedule.lane(&500), Lane::Trusted, "not after a seventh of a second");
            }
        }
        desk.run();
        assert!(known.iter().all(|id| desk.settled[id] == Ok(Verdict::Valid)));
    }

    #[test]
    fn a_lane_that_was_idle_has_saved_nothing_up() {
        let mut desk = Desk::new(BatchLimits { batch: 1, ..BatchLimits::default() });
        desk.trust(1);
        for _ in 0..50 {
            for _ in 0..100 {
                desk.push(1, true).unwrap();
            }
            desk.run();
        }
        desk.checks.clear();
        for _ in 0..100 {
            desk.push(1, true).unwrap();
        }
        for peer in 100..120 {
            desk.push(peer, false).unwrap();
        }
        for _ in 0..40 {
            desk.step();
        }
        let newcomers = desk.of_lane(Lane::Newcomers).len();
        assert!((6..=7).contains(&newcomers), "{newcomers} of 40 checks; three of nineteen are theirs");
    }

    #[test]
    fn the_flood_of_twenty_peers_takes_little_of_the_time() {
        // 600 good proofs a second of ten peers that nothing is known of at first, 100 bad ones a second of each of twenty others.
        let mut desk = Desk::new(BatchLimits::default());
        let (mut sent, mut good) = (0_u64, Vec::new());
        let begun = desk.now;
        while sent < 60 * 2600 {
            while begun + S * u32::try_from(sent).unwrap() / 2600 <= desk.now && sent < 60 * 2600 {
                let (turn, n) = (u32::try_from(sent % 13).unwrap(), u32::try_from(sent / 13).unwrap());
                if turn < 3 {
                    good.push(desk.push((n * 3 + turn) % 10, true).expect("a good proof was turned away"));
                } else {
                    let _ = desk.push(100 + (n * 10 + turn) % 20, false);
                }
                sent += 1;
            }
            if !desk.step() {
                desk.now += MS / 10;
            }
        }
        desk.run();
        assert!(good.iter().all(|id| desk.settled[id] == Ok(Verdict::Valid)));
        let wasted = desk.of_lane(Lane::Apart).len()
            + desk.of_lane(Lane::Newcomers).iter().filter(|peers| peers.iter().any(|peer| *peer >= 100)).count();
        // One at first, and after 1, 2, 4, 8, 16 and 32 s; and one or two in batches with others.
        assert!((20 * 6..=20 * 9).contains(&wasted), "{wasted} checks of bad proofs");
        assert!((0..10).all(|peer| desk.schedule.lane(&peer) == Lane::Trusted));
    }

    #[test]
    fn a_full_queue_of_newcomers_makes_room_for_who_has_less() {
        let mut desk =
            Desk::new(BatchLimits { waiting_newcomers: 6, waiting_per_newcomer: 8, ..BatchLimits::default() });
        let first: Vec<_> = (0..6).map(|_| desk.push(1, true).unwrap()).collect();
        assert_eq!(desk.push(1, true), Err(Overload::Queue { limit: 6 }));
        for n in 0..3 {
            desk.push(2, true).unwrap();
            assert_eq!(
                desk.settled.get(&first[5 - n]),
                Some(&Err(Overload::Queue { limit: 6 })),
                "its last goes first"
            );
        }
        // Three and three: neither has less.
        assert_eq!(desk.push(1, true), Err(Overload::Queue { limit: 6 }));
        assert_eq!(desk.push(2, true), Err(Overload::Queue { limit: 6 }));
        desk.push(3, true).unwrap();
        assert_eq!(desk.schedule.waiting(), 6);
        desk.run();
        assert_eq!(desk.settled.values().filter(|r| **r == Ok(Verdict::Valid)).count(), 6);
    }

    #[test]
    fn newcomers_fill_only_their_own_queue() {
        let mut desk =
            Desk::new(BatchLimits { waiting_newcomers: 6, waiting_per_newcomer: 4, ..BatchLimits::default() });
        desk.trust(1);
        let newcomer = |desk: &mut Desk, peer| desk.push(peer, true).map(|_| ());
        for _ in 0..4 {
            newcomer(&mut desk, 2).unwrap();
        }
        assert_eq!(newcomer(&mut desk, 2), Err(Overload::Peer { limit: 4 }));
        for peer in 3..=7 {
            newcomer(&mut desk, peer).unwrap();
        }
        assert_eq!(newcomer(&mut desk, 8), Err(Overload::Queue { limit: 6 }), "everybody has one");
        desk.push(1, true).unwrap();
    }

    #[test]
    fn the_memory_of_peers_is_bounded() {
        let mut desk = Desk::new(BatchLimits { remembered: 2, ..BatchLimits::default() });
        for peer in 1..=3 {
            desk.push(peer, false).unwrap();
            desk.run();
        }
        assert_eq!([1, 2, 3].map(|peer| desk.schedule.lane(&peer)), [Lane::Newcomers, Lane::Apart, Lane::Apart]);
        for peer in 11..=13 {
            desk.trust(peer);
        }
        assert_eq!([11, 12, 13].map(|peer| desk.schedule.lane(&peer)), [Lane::Newcomers, Lane::Trusted, Lane::Trusted]);
    }

    #[test]
    fn proofs_of_unknown_senders_are_verified_and_nobody_is_punished_for_them() {
        let mut schedule: Schedule<u32, Proof> = Schedule::new(BatchLimits::default());
        for id in 0..20 {
            schedule.push(None, Proof { id, good: id != 11 }, S).unwrap();
        }
        let mut verdicts = BTreeMap::new();
        let mut sizes = Vec::new();
        while let Some(unit) = schedule.next(|_| true) {
            sizes.push(unit.entries.len());
            let holds = unit.entries.iter().all(|e| e.item.good);
            let settled = schedule.report(unit, holds, MS, S);
            verdicts.extend(settled.into_iter().map(|(proof, result)| (proof.id, result)));
        }
        assert_eq!(sizes[..5], [1, 2, 4, 8, 1], "the fourth has number 11");
        for id in 0..20 {
            assert_eq!(verdicts[&id], Ok(if id == 11 { Verdict::Invalid } else { Verdict::Valid }));
        }
    }
}
