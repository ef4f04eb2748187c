//! No bytes from elsewhere make a decoder panic, and what is understood means the same when it is written again.

#![allow(unreachable_pub, reason = "shared with the fuzz targets")]

#[path = "support/decoders.rs"]
mod decoders;

use rand::{Rng as _, SeedableRng as _};
use rand_chacha::ChaCha8Rng;

/// Changes, flips, cuts, lengthens or repeats parts of valid bytes.
fn mutate(valid: &[u8], rng: &mut ChaCha8Rng) -> Vec<u8> {
    let mut bytes = valid.to_vec();
    for _ in 0..rng.gen_range(1..4) {
        let at = rng.gen_range(0..=bytes.len());
        match rng.gen_range(0..8) {
            0 => bytes.truncate(at),
            1 => bytes.insert(at, rng.r#gen()),
            2 => bytes.extend_from_within(at..),
            3 if at < bytes.len() => bytes[at] = rng.r#gen(),
            _ if at < bytes.len() => bytes[at] ^= 1 << rng.gen_range(0..8),
            _ => {}
        }
    }
    bytes
}

#[test]
fn mutated_bytes_do_not_panic() {
    let mut rng = ChaCha8Rng::seed_from_u64(3);
    for (name, read, seeds) in decoders::DECODERS {
        for seed in seeds() {
            assert!(read(&seed), "{name} reads its seed");
            let refused = (0..3000).filter(|_| !read(&mutate(&seed, &mut rng))).count();
            assert!(refused > 300, "{name} refuses {refused} of 3000");
        }
    }
}
