//! The free tier: what a service gives to those who don't pay, so that unpaid clients work a little and buyers can test small first.

use std::collections::HashMap;

use parking_lot::Mutex;
use serde::{Deserialize, Serialize};
use tributary_waku::PeerId;

/// Bounds of a free tier. All zero means that nothing is free.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct FreeTierLimits {
    /// Uses for one peer in one window.
    pub per_peer: u32,
    /// Uses for all peers together in one window.
    pub total: u32,
    /// Length of a window in seconds; 0 counts as 1.
    pub window: u64,
}

impl FreeTierLimits {
    /// Nothing is free.
    pub const NONE: Self = Self { per_peer: 0, total: 0, window: 60 };
}

impl Default for FreeTierLimits {
    fn default() -> Self {
        Self { per_peer: 5, total: 300, window: 60 }
    }
}

#[derive(Debug, Default)]
struct Window {
    number: u64,
    total: u32,
    by_peer: HashMap<PeerId, u32>,
}

/// Counts unpaid uses by fixed windows. Its memory is bounded by [`FreeTierLimits::total`].
#[derive(Debug)]
pub struct FreeTier {
    limits: FreeTierLimits,
    window: Mutex<Window>,
}

impl FreeTier {
    /// A free tier with these bounds.
    #[must_use]
    pub fn new(limits: FreeTierLimits) -> Self {
        Self { limits, window: Mutex::default() }
    }

    /// Takes one use for `peer` at `now` (unix seconds); false when the peer's or everybody's share of this window is used up.
    ///
    /// A clock that steps back opens no new window.
    pub fn take(&self, peer: PeerId, now: u64) -> bool {
        let number = now / self.limits.window.max(1);
        let mut w = self.window.lock();
        if number > w.number {
            *w = Window { number, ..Window::default() };
        }
        if w.total >= self.limits.total || self.limits.per_peer == 0 {
            return false;
        }
        let used = w.by_peer.entry(peer).or_insert(0);
        if *used >= self.limits.per_peer {
            return false;
        }
        *used += 1;
        w.total += 1;
        true
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn shares_are_kept_apart_and_refilled_by_the_window() {
        let tier = FreeTier::new(FreeTierLimits { per_peer: 2, total: 3, window: 10 });
        let (a, b) = (PeerId::random(), PeerId::random());
        assert!(tier.take(a, 100) && tier.take(a, 109));
        assert!(!tier.take(a, 109), "the peer's share is used up");
        assert!(tier.take(b, 109));
        assert!(!tier.take(b, 109), "everybody's share is used up");
        assert!(tier.take(a, 110));
    }

    #[test]
    fn a_clock_stepped_back_gives_nothing() {
        let tier = FreeTier::new(FreeTierLimits { per_peer: 1, total: 10, window: 10 });
        let a = PeerId::random();
        assert!(tier.take(a, 100));
        assert!(!tier.take(a, 50));
        assert!(!tier.take(a, 100));
        assert!(tier.take(a, 110));
    }

    #[test]
    fn nothing_is_free_when_the_limits_say_so() {
        assert!(!FreeTier::new(FreeTierLimits::NONE).take(PeerId::random(), 1));
    }
}
