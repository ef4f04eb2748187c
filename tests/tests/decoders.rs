//! The fuzz targets' decoders on mutated seeds, in the ordinary build: a bounded run for every change. (Those of Waku have the same in their crate.)

#![allow(unreachable_pub, reason = "shared with the fuzz targets")]

#[path = "../../fuzz/src/market.rs"]
mod market;
#[path = "../../crates/protocol/tests/support/decoders.rs"]
mod protocol;
#[path = "../../fuzz/src/provider.rs"]
mod provider;

use rand::rngs::StdRng;
use rand::{Rng as _, SeedableRng as _};

/// A decoder: its target's name, its reading of bytes (whether they were understood), and bytes that it understands.
type Decoder = (&'static str, fn(&[u8]) -> bool, fn() -> Vec<Vec<u8>>);

const ROUNDS: usize = 300;

fn mutate(valid: &[u8], rng: &mut StdRng) -> Vec<u8> {
    let mut bytes = valid.to_vec();
    for _ in 0..rng.gen_range(1..4) {
        let at = rng.gen_range(0..=bytes.len());
        match rng.gen_range(0..6) {
            0 => bytes.truncate(at),
            1 => bytes.insert(at, rng.r#gen()),
            2 => bytes.extend_from_within(at..),
            _ if at < bytes.len() => bytes[at] ^= 1 << rng.gen_range(0..8),
            _ => {}
        }
    }
    bytes
}

#[test]
fn mutated_bytes_do_not_panic() {
    let mut rng = StdRng::seed_from_u64(8);
    for (name, read, seeds) in [market::DECODERS, protocol::DECODERS, provider::DECODERS].concat() {
        for (n, seed) in seeds().iter().enumerate() {
            assert!(read(seed), "{name} doesn't understand its seed {n}");
            let refused = (0..ROUNDS).filter(|_| !read(&mutate(seed, &mut rng))).count();
            assert!(refused > 0, "{name} refuses nothing");
        }
    }
}
