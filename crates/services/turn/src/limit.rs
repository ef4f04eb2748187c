//! Rates for addresses that nobody vouches for.

use std::collections::HashMap;
use std::net::{IpAddr, Ipv6Addr};
use std::time::Instant;

use serde::{Deserialize, Serialize};

/// Sources that are told apart at once. While the table is full, sources that aren't in it are refused.
const MAX_SOURCES: usize = 1 << 16;

/// How many requests are answered without a credential.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct OpenRate {
    /// For one address (IPv6: one /64) in a second; 0 answers none.
    pub per_source: u32,
    /// For all in a second.
    pub total: u32,
}

#[derive(Debug)]
struct Bucket {
    tokens: f64,
    at: Instant,
}

impl Bucket {
    fn take(&mut self, rate: u32, now: Instant) -> bool {
        // Two seconds' worth may come at once.
        let rate = f64::from(rate);
        self.tokens = (self.tokens + now.saturating_duration_since(self.at).as_secs_f64() * rate).min(2.0 * rate);
        self.at = now;
        let there = self.tokens >= 1.0;
        if there {
            self.tokens -= 1.0;
        }
        there
    }

    fn is_full(&self, rate: u32, now: Instant) -> bool {
        self.tokens + now.saturating_duration_since(self.at).as_secs_f64() * f64::from(rate) >= 2.0 * f64::from(rate)
    }
}

/// Counts by source.
#[derive(Debug)]
pub(crate) struct Limiter {
    rate: OpenRate,
    all: Bucket,
    sources: HashMap<IpAddr, Bucket>,
    swept: Instant,
}

impl Limiter {
    pub(crate) fn new(rate: OpenRate, now: Instant) -> Self {
        let all = Bucket { tokens: 2.0 * f64::from(rate.total), at: now };
        Self { rate, all, sources: HashMap::new(), swept: now }
    }

    /// Takes one for `ip`.
    pub(crate) fn take(&mut self, ip: IpAddr, now: Instant) -> bool {
        if self.rate.per_source == 0 {
            return false;
        }
        let source = source(ip);
        if self.sources.len() >= MAX_SOURCES && !self.sources.contains_key(&source) {
            // At most once a second, because it looks at all of them.
            if now.saturating_duration_since(self.swept).as_secs() >= 1 {
                self.swept = now;
                self.sources.retain(|_, bucket| !bucket.is_full(self.rate.per_source, now));
            }
            if self.sources.len() >= MAX_SOURCES {
                return false;
            }
        }
        let full = Bucket { tokens: 2.0 * f64::from(self.rate.per_source), at: now };
        self.sources.entry(source).or_insert(full).take(self.rate.per_source, now)
            && self.all.take(self.rate.total, now)
    }
}

/// What one source is: an IPv4 address, or the /64 of an IPv6 one.
pub(crate) fn source(ip: IpAddr) -> IpAddr {
    match ip {
        IpAddr::V4(_) => ip,
        IpAddr::V6(v6) => match v6.to_ipv4_mapped() {
            Some(v4) => v4.into(),
            None => Ipv6Addr::from_bits(v6.to_bits() >> 64 << 64).into(),
        },
    }
}

#[cfg(test)]
mod tests {
    use std::net::{IpAddr, Ipv4Addr};
    use std::time::{Duration, Instant};

    use super::{Limiter, MAX_SOURCES, OpenRate};

    #[test]
    fn a_source_has_its_rate_and_all_have_theirs() {
        let start = Instant::now();
        let mut limiter = Limiter::new(OpenRate { per_source: 2, total: 3 }, start);
        let ip = |n: u32| IpAddr::from(Ipv4Addr::from_bits(n));
        let taken = (0..10).filter(|_| limiter.take(ip(1), start)).count();
        assert_eq!(taken, 4);
        let taken = (0..10).filter(|n| limiter.take(ip(10 + n), start)).count();
        assert_eq!(taken, 2, "of the six of all");
        assert!(limiter.take(ip(1), start + Duration::from_secs(1)));
        let mut none = Limiter::new(OpenRate { per_source: 0, total: 3 }, start);
        assert!(!none.take(ip(1), start));
        let (a, b) = ("2606:4700::1".parse().unwrap(), "2606:4700::ffff:2".parse().unwrap());
        assert_eq!(super::source(a), super::source(b));
    }

    #[test]
    fn the_table_is_bounded_and_empties_again() {
        let start = Instant::now();
        let mut limiter = Limiter::new(OpenRate { per_source: 1, total: u32::MAX }, start);
        let ip = |n: usize| IpAddr::from(Ipv4Addr::from_bits(u32::try_from(n).unwrap()));
        for n in 0..MAX_SOURCES {
            assert!(limiter.take(ip(n), start));
        }
        assert!(!limiter.take(ip(MAX_SOURCES), start));
        assert_eq!(limiter.sources.len(), MAX_SOURCES);
        assert!(limiter.take(ip(MAX_SOURCES), start + Duration::from_secs(3)));
        assert_eq!(limiter.sources.len(), 1);
    }
}
