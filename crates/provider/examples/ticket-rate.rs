//! How long a lone ticket takes a provider, and how many it takes in a second: `cargo run --workspace --example ticket-rate`.

#[path = "../tests/common/mod.rs"]
mod common;

use std::sync::Arc;
use std::time::{Duration, Instant};

use common::{S, World};
use tributary_provider::check::PaidUse;
use tributary_provider::store::OnMissing;
use tributary_waku::PeerId;

const REQUEST: &[u8] = b"a query";

async fn take(world: &World, proof: &[u8], peer: PeerId) -> Duration {
    let start = Instant::now();
    let ticket = world.checker.take(PaidUse { proof, request: REQUEST, tickets: 1, peer: Some(peer) }).await.unwrap();
    ticket.served().await.unwrap();
    start.elapsed()
}

#[tokio::main(worker_threads = 2)]
async fn main() {
    let dir = tempfile::tempdir().unwrap();
    let world = Arc::new(World::open(&dir.path().join("db"), OnMissing::NewPayee, S + 5).await);

    let proofs: Vec<_> = (0..300).map(|n| world.pay(n, REQUEST)).collect();
    let peers: Vec<_> = (0..20).map(|_| PeerId::random()).collect();
    let mut times = Vec::new();
    for (proof, peer) in proofs.iter().zip(peers.iter().cycle()) {
        times.push(take(&world, proof, *peer).await);
    }
    times.sort();
    println!("lone ticket, all checks, durable, settled: median {:?}, p95 {:?}", times[150], times[285]);

    const MANY: u64 = 3000;
    let proofs: Vec<_> = (1000..1000 + MANY).map(|n| world.pay(n, REQUEST)).collect();
    let start = Instant::now();
    let commits = world.checker.store().commits();
    let workers: Vec<_> = proofs
        .chunks(10)
        .zip(peers.into_iter().cycle())
        .map(|(chunk, peer)| {
            let (world, chunk) = (Arc::clone(&world), chunk.to_vec());
            tokio::spawn(async move {
                for proof in &chunk {
                    take(&world, proof, peer).await;
                }
            })
        })
        .collect();
    for w in workers {
        w.await.unwrap();
    }
    let counters = world.checker.counters();
    println!(
        "{MANY} tickets from {} at a time: {:.0} tickets/s, {} commits, {} batches",
        MANY / 10,
        MANY as f64 / start.elapsed().as_secs_f64(),
        world.checker.store().commits() - commits,
        counters.batches - 300
    );
}
