//! Times of the hot paths: `cargo run -p tributary-protocol --example hot_paths`.

use std::{hint::black_box, time::Instant};

use ark_ff::PrimeField;
use light_poseidon::{Poseidon, PoseidonHasher};
use rand_chacha::{ChaCha20Rng, rand_core::SeedableRng};
use tributary_protocol::{
    Amount, FieldElement, Fr, MerkleTree, Note, Rho, SealedMemo, StopEntry, StopSchedule, UnixTime, ValueNote,
    babyjub::{Scalar, ViewingKey},
    keys::ViewSecret,
    memo::EphemeralSecret,
    poseidon::{Tag, node, poseidon, sponge},
};

fn time<T>(what: &str, n: u32, mut run: impl FnMut() -> T) {
    black_box(run());
    let start = Instant::now();
    for _ in 0..n {
        black_box(run());
    }
    println!("{what:<58} {:>12.2} us", start.elapsed().as_secs_f64() * 1e6 / f64::from(n));
}

fn main() {
    let mut rng = ChaCha20Rng::seed_from_u64(1);
    let elements: Vec<Fr> = (0..100_000).map(|_| Fr::random(&mut rng)).collect();

    for n in [2, 4, 5, 12] {
        let inputs = &elements[..n];
        time(&format!("poseidon of {n} inputs"), 2000, || poseidon(inputs));
        let mut plain = Poseidon::<Fr>::new_circom(n).expect("a width that exists");
        time("  the same, plain rounds (light-poseidon)", 500, || plain.hash(inputs));
    }
    let children = [elements[0], elements[1], elements[2], elements[3]];
    time("tree node", 2000, || node(&children));
    time("statement digest of a claim (58 elements)", 500, || sponge(Tag::Claim, &elements[..58]));

    let leaves = |from: usize, to: usize| elements[from..to].iter().copied().map(Into::into);
    time("tree: append 10,000 leaves at once", 3, || MerkleTree::from_leaves(leaves(0, 10_000)));
    let mut tree = MerkleTree::from_leaves(leaves(0, 99_000)).expect("room");
    let mut at = 99_000;
    time("tree of 99,000: append 2 leaves", 400, || {
        tree.append(leaves(at, at + 2)).expect("room");
        at += 2;
    });
    time("tree: root at an earlier size", 500, || tree.root_at(70_001));
    time("tree: path at an earlier size", 500, || tree.path_at(12_345, 70_001));

    let secret =
        |element: &Fr| ViewSecret::try_new(Scalar::from_be_bytes_mod_order(&element.to_be_bytes())).expect("not 0");
    let (view, stranger) = (secret(&elements[2]), secret(&elements[3]));
    let note = Note::Value(ValueNote { amount: Amount::ZERO, owner: elements[0].into(), rho: Rho::new(elements[1]) });
    let esk = EphemeralSecret::random(&mut rng);
    let memo = SealedMemo::seal(&note, &view.public(), 0, &esk);
    time("seal a memo", 200, || SealedMemo::seal(&note, &view.public(), 0, &esk));
    let (owner, cm) = (elements[0].into(), note.commitment());
    time("open somebody else's memo", 200, || memo.open(&stranger, owner, 0, cm));
    time("check a viewing key", 200, || ViewingKey::new(*view.public().point()));

    let entries: Vec<StopEntry> = elements[..10_000]
        .iter()
        .enumerate()
        .map(|(i, tag)| StopEntry { stop: UnixTime::new(60 * (i as u64 / 10)).expect("small"), tag: (*tag).into() })
        .collect();
    let mut schedule = StopSchedule::new();
    for entry in &entries {
        schedule.insert(*entry);
    }
    let start = Instant::now();
    let mut list = schedule.list(UnixTime::new(60 * 900).expect("small")).expect("room");
    black_box(list.root());
    println!("{:<58} {:>12.2} us", "stopped list of 9,000 from nothing", start.elapsed().as_secs_f64() * 1e6);
    let mut slot = 900;
    time("stopped list of 9,000: next slot with 10 more, root", 90, || {
        slot += 1;
        list = schedule.list(UnixTime::new(60 * slot).expect("small")).expect("room");
        list.root()
    });
    time("absence witness", 500, || list.absence(elements[50_000].into()));
}
