//! Token buckets: rates per peer and overall, in bounded memory.

use std::{
    collections::HashMap,
    hash::Hash,
    sync::{Mutex, PoisonError},
    time::Duration,
};

/// A sustained rate and the burst above it.
#[derive(Clone, Copy, Debug, PartialEq, serde::Serialize, serde::Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Rate {
    /// Tokens a second, sustained.
    pub per_second: f64,
    /// Tokens that can be used at once after a pause; at least 1.
    pub burst: f64,
}

impl Rate {
    /// `per_second` tokens a second, `burst` at once.
    #[must_use]
    pub const fn new(per_second: f64, burst: f64) -> Self {
        Self { per_second, burst }
    }
}

/// One bucket, counted by the time that its user passes in.
#[derive(Clone, Debug)]
pub struct TokenBucket {
    rate: Rate,
    tokens: f64,
    updated: Duration,
}

impl TokenBucket {
    /// A full bucket at time `now`.
    #[must_use]
    pub const fn new(rate: Rate, now: Duration) -> Self {
        Self { rate, tokens: rate.burst, updated: now }
    }

    /// Takes `amount` tokens if they are there.
    pub fn take(&mut self, amount: f64, now: Duration) -> bool {
        self.refill(now);
        let enough = self.tokens >= amount;
        if enough {
            self.tokens -= amount;
        }
        enough
    }

    fn refill(&mut self, now: Duration) {
        let elapsed = now.saturating_sub(self.updated).as_secs_f64();
        self.tokens = elapsed.mul_add(self.rate.per_second, self.tokens).min(self.rate.burst);
        self.updated = self.updated.max(now);
    }

    fn is_full(&mut self, now: Duration) -> bool {
        self.refill(now);
        self.tokens >= self.rate.burst
    }
}

/// A bucket for everybody and one for each key. Knows at most `capacity` keys: full buckets are forgotten first,
/// since a new one is the same; while there is none to forget, unknown keys are refused.
#[derive(Debug)]
pub struct KeyedLimiter<K> {
    state: Mutex<State<K>>,
    per_key: Option<Rate>,
    capacity: usize,
}

#[derive(Debug)]
struct State<K> {
    total: Option<TokenBucket>,
    keys: HashMap<K, TokenBucket>,
}

/// Which bucket was empty.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Exhausted {
    /// This key's own.
    Key,
    /// Everybody's.
    Total,
}

impl<K: Eq + Hash + Clone> KeyedLimiter<K> {
    /// A limiter with full buckets at time `now`; `None` means unlimited.
    #[must_use]
    pub fn new(per_key: Option<Rate>, total: Option<Rate>, capacity: usize, now: Duration) -> Self {
        Self {
            state: Mutex::new(State { total: total.map(|rate| TokenBucket::new(rate, now)), keys: HashMap::new() }),
            per_key,
            capacity,
        }
    }

    /// Takes `amount` tokens of `key` and of everybody. A key that exceeds its own rate uses up nobody else's.
    ///
    /// # Errors
    /// Which bucket was empty; then no token of the common bucket is gone.
    pub fn take(&self, key: &K, amount: f64, now: Duration) -> Result<(), Exhausted> {
        let mut state = self.state.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(rate) = self.per_key {
            if state.keys.len() >= self.capacity && !state.keys.contains_key(key) {
                state.keys.retain(|_, bucket| !bucket.is_full(now));
                if state.keys.len() >= self.capacity {
                    return Err(Exhausted::Total);
                }
            }
            let bucket = state.keys.entry(key.clone()).or_insert_with(|| TokenBucket::new(rate, now));
            if !bucket.take(amount, now) {
                return Err(Exhausted::Key);
            }
        }
        if state.total.as_mut().is_none_or(|total| total.take(amount, now)) { Ok(()) } else { Err(Exhausted::Total) }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const S: Duration = Duration::from_secs(1);

    #[test]
    fn bucket_refills_to_its_burst() {
        let mut bucket = TokenBucket::new(Rate::new(2.0, 4.0), S);
        assert!((0..4).all(|_| bucket.take(1.0, S)));
        assert!(!bucket.take(1.0, S));
        assert!(bucket.take(2.0, 2 * S));
        assert!(!bucket.take(1.0, 2 * S));
        assert!(bucket.take(4.0, 1000 * S));
        assert!(!bucket.take(0.5, 1000 * S));
        assert!(!bucket.take(1.0, Duration::ZERO), "time going back gives nothing");
    }

    #[test]
    fn one_key_does_not_starve_another() {
        let limiter = KeyedLimiter::new(Some(Rate::new(1.0, 2.0)), Some(Rate::new(1.0, 3.0)), 10, S);
        assert_eq!(limiter.take(&'a', 1.0, S), Ok(()));
        assert_eq!(limiter.take(&'a', 1.0, S), Ok(()));
        for _ in 0..100 {
            assert_eq!(limiter.take(&'a', 1.0, S), Err(Exhausted::Key));
        }
        assert_eq!(limiter.take(&'b', 1.0, S), Ok(()));
        assert_eq!(limiter.take(&'c', 1.0, S), Err(Exhausted::Total));
    }

    #[test]
    fn keys_are_bounded_and_limited_ones_not_forgotten() {
        let limiter = KeyedLimiter::new(Some(Rate::new(1.0, 1.0)), None, 2, S);
        assert_eq!(limiter.take(&1, 1.0, S), Ok(()));
        assert_eq!(limiter.take(&2, 1.0, S), Ok(()));
        assert_eq!(limiter.take(&3, 1.0, S), Err(Exhausted::Total));
        assert_eq!(limiter.take(&1, 1.0, S), Err(Exhausted::Key));
        assert_eq!(limiter.take(&3, 1.0, 3 * S), Ok(()));
    }
}
