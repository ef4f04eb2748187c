//! Peers whose requests are refused at the door, because too many of their recent ones were.
//!
//! A request that is refused costs its sender nothing and the provider a signature check at worst. So a peer has a bucket of refusals; when it
//! is empty nothing of the peer is judged for a while, and that while doubles with each time it happens again. Kept in memory only, and bounded.

use std::hash::Hash;
use std::time::Duration;

use tributary_waku::{Rate, TokenBucket};

use crate::lru::Lru;

/// Bounds of a [`Conduct`].
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct ConductLimits {
    /// Refusals of one peer that go without consequence.
    pub refusals: Rate,
    /// For how long nothing of a peer is judged after it exceeded them; doubles each time.
    pub pause: Duration,
    /// The longest such time. A peer that stays within its refusals for as long begins anew.
    pub pause_max: Duration,
    /// Peers remembered.
    pub peers: usize,
}

impl Default for ConductLimits {
    fn default() -> Self {
        Self {
            refusals: Rate::new(4.0, 40.0),
            pause: Duration::from_secs(1),
            pause_max: Duration::from_secs(60),
            peers: 4096,
        }
    }
}

/// Counts refusals by peer.
#[derive(Debug)]
pub struct Conduct<P> {
    limits: ConductLimits,
    records: Lru<P, Record>,
}

#[derive(Clone, Debug)]
struct Record {
    bucket: TokenBucket,
    pauses: u32,
    until: Duration,
}

impl<P: Clone + Eq + Hash> Conduct<P> {
    /// Nobody is known.
    #[must_use]
    pub fn new(limits: ConductLimits) -> Self {
        Self { limits, records: Lru::new(limits.peers) }
    }

    /// For how long nothing of this peer is judged yet; `None` when its requests are.
    #[must_use]
    pub fn pause(&self, peer: &P, now: Duration) -> Option<Duration> {
        let left = self.records.get(peer)?.until.saturating_sub(now);
        (!left.is_zero()).then_some(left)
    }

    /// Counts a request of this peer that was judged and refused.
    pub fn refused(&mut self, peer: &P, now: Duration) {
        let limits = &self.limits;
        let fresh = || Record { bucket: TokenBucket::new(limits.refusals, now), pauses: 0, until: Duration::ZERO };
        let mut record = self.records.remove(peer).unwrap_or_else(fresh);
        // Requests that were under way when a pause began don't make it longer.
        if !record.bucket.take(1.0, now) && record.until <= now {
            if now.saturating_sub(record.until) >= limits.pause_max {
                record.pauses = 0;
            }
            record.until = now + doubled(limits.pause, record.pauses, limits.pause_max);
            record.pauses = record.pauses.saturating_add(1);
        }
        self.records.insert(peer.clone(), record);
    }
}

/// `first`, doubled so many times, up to `most`.
pub(crate) fn doubled(first: Duration, times: u32, most: Duration) -> Duration {
    first.saturating_mul(1 << times.min(31)).min(most)
}

#[cfg(test)]
mod tests {
    use super::*;

    const S: Duration = Duration::from_secs(1);

    fn limits() -> ConductLimits {
        ConductLimits { refusals: Rate::new(1.0, 3.0), pause: S, pause_max: 4 * S, peers: 2 }
    }

    #[test]
    fn who_exceeds_the_refusals_is_paused_and_comes_back() {
        let mut conduct = Conduct::new(limits());
        for _ in 0..3 {
            conduct.refused(&'a', S);
            assert_eq!(conduct.pause(&'a', S), None);
        }
        conduct.refused(&'a', S);
        assert_eq!(conduct.pause(&'a', S), Some(S));
        assert_eq!(conduct.pause(&'b', S), None, "another's refusals are its own affair");
        assert_eq!(conduct.pause(&'a', 2 * S), None);
        conduct.refused(&'a', 2 * S);
        assert_eq!(conduct.pause(&'a', 2 * S), None, "what the bucket regained is there");
    }

    #[test]
    fn pauses_double_up_to_their_bound_and_are_forgotten() {
        let mut conduct = Conduct::new(limits());
        let mut now = S;
        let mut exceed = |now: Duration| {
            for _ in 0..8 {
                conduct.refused(&'a', now);
            }
            conduct.pause(&'a', now).unwrap()
        };
        for expected in [1, 2, 4, 4] {
            let pause = exceed(now);
            assert_eq!(pause, expected * S);
            now += pause;
        }
        assert_eq!(exceed(now + 4 * S), S);
    }

    #[test]
    fn memory_is_bounded() {
        let mut conduct = Conduct::new(limits());
        for peer in ['a', 'b', 'c'] {
            for _ in 0..4 {
                conduct.refused(&peer, S);
            }
        }
        let paused = ['a', 'b', 'c'].map(|peer| conduct.pause(&peer, S).is_some());
        assert_eq!(paused, [false, true, true]);
    }
}
