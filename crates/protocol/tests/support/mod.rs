//! A small deterministic world that tests and vectors share: three accounts, a pool, a tree with notes and streams.

#![allow(dead_code, reason = "each test binary uses a part")]

use alloy_primitives::{Address, address, keccak256};
use rand_chacha::{ChaCha20Rng, rand_core::SeedableRng};
use tributary_protocol::{
    AccountKeys, Amount, Fr, MerkleTree, Mnemonic, Note, Nullifier, PayerSecret, PoolClock, PoolId, PoolScope, Rate,
    Rho, Root, Seconds, StopEntry, StopSchedule, StreamNote, StreamTerms, UnixTime, ValueNote,
    field::reduce,
    statement::ExternalTerms,
    witness::{Dummy, StreamInput, ValueInput},
};

pub(crate) const CHAIN_ID: u64 = 31_337;
pub(crate) const POOL: Address = address!("5fbdb2315678afecb367f032d93f642f64180aa3");
pub(crate) const RECIPIENT: Address = address!("70997970c51812dc3a010c7d01b50e0d17dc79c8");
pub(crate) const RELAYER: Address = address!("3c44cdddb6a900fa2b585dd299e03d12fa4293bc");
pub(crate) const PHRASE: &str =
    "abandon abandon abandon abandon abandon abandon abandon abandon abandon abandon abandon about";
/// 2023-11-14T22:14:00Z, a multiple of a minute.
pub(crate) const T: u64 = 1_700_000_040;
pub(crate) const L: u64 = 60;

/// A field element that is fixed by a label.
pub(crate) fn fr(label: &str) -> Fr {
    reduce(keccak256(label))
}

pub(crate) fn rng(label: &str) -> ChaCha20Rng {
    ChaCha20Rng::from_seed(keccak256(label).0)
}

pub(crate) fn amount(value: u128) -> Amount {
    Amount::new(value).unwrap()
}

pub(crate) fn rate(value: u128) -> Rate {
    Rate::new(value).unwrap()
}

pub(crate) fn time(value: u64) -> UnixTime {
    UnixTime::new(value).unwrap()
}

pub(crate) fn seconds(value: u64) -> Seconds {
    Seconds::new(value).unwrap()
}

pub(crate) fn clock() -> PoolClock {
    PoolClock::new(seconds(L), seconds(150), seconds(30)).unwrap()
}

pub(crate) fn scope(account: u32) -> PoolScope {
    PoolScope { pool: PoolId { chain_id: CHAIN_ID, address: POOL }, account }
}

pub(crate) fn keys(account: u32) -> AccountKeys {
    Mnemonic::parse(PHRASE).unwrap().seed("").account(scope(account)).unwrap()
}

pub(crate) fn direct() -> ExternalTerms {
    ExternalTerms {
        recipient: Address::ZERO,
        relayer: Address::ZERO,
        fee: Amount::ZERO,
        deadline: time(T + 600),
        may_drop_outputs: false,
    }
}

pub(crate) fn relayed(fee: u128) -> ExternalTerms {
    ExternalTerms { recipient: RECIPIENT, relayer: RELAYER, fee: amount(fee), ..direct() }
}

/// Alice pays, Bob is the provider, Carol is somebody else. The tree holds filler leaves around the notes.
pub(crate) struct World {
    pub(crate) alice: AccountKeys,
    pub(crate) bob: AccountKeys,
    pub(crate) carol: AccountKeys,
    pub(crate) tree: MerkleTree,
    pub(crate) values: Vec<(ValueNote, u32)>,
    pub(crate) streams: Vec<(StreamNote, PayerSecret, u32)>,
    pub(crate) stops: StopSchedule,
}

impl World {
    /// Two value notes of Alice (1000 and 77), three of her streams to Bob, one of them stopped.
    pub(crate) fn new() -> Self {
        let mut world = Self {
            alice: keys(0),
            bob: keys(1),
            carol: keys(2),
            tree: MerkleTree::new(),
            values: Vec::new(),
            streams: Vec::new(),
            stops: StopSchedule::new(),
        };
        world.fill(5);
        world.add_value(1000, "world.value.0");
        world.fill(62);
        world.add_value(77, "world.value.1");
        world.add_stream(10, T, T + 3600, "world.stream.0");
        world.fill(1);
        world.add_stream(7, T - 600, T + 600, "world.stream.1");
        world.add_stream(1 << 60, T + 120, T + 240, "world.stream.2");
        for (i, stop) in [T - 60, T, T, T + 60, T + 60, T + 300].into_iter().enumerate() {
            world.stop(stop, &format!("world.stop.{i}"));
        }
        world
    }

    pub(crate) fn root(&self) -> Root {
        self.tree.root()
    }

    pub(crate) fn fill(&mut self, n: usize) {
        let from = self.tree.len();
        let leaves = (from..from + n as u64).map(|i| fr(&format!("world.filler.{i}")).into());
        self.tree.append(leaves.collect::<Vec<_>>()).unwrap();
    }

    fn push(&mut self, note: Note) -> u32 {
        let index = u32::try_from(self.tree.len()).unwrap();
        self.tree.append([note.commitment()]).unwrap();
        index
    }

    pub(crate) fn add_value(&mut self, value: u128, label: &str) {
        let note = ValueNote { amount: amount(value), owner: self.alice.owner(), rho: Rho::new(fr(label)) };
        let index = self.push(Note::Value(note));
        self.values.push((note, index));
    }

    pub(crate) fn add_stream(&mut self, per_second: u128, start: u64, end: u64, label: &str) {
        let secret = PayerSecret::derive(&self.alice.payer, Nullifier::new(fr(&format!("{label}.nf_0"))));
        let terms = StreamTerms::new(self.bob.owner(), rate(per_second), time(start), time(end)).unwrap();
        let note = StreamNote { terms, payer_tag: secret.tag(), rho: Rho::new(fr(label)) };
        let index = self.push(Note::Stream(note));
        self.streams.push((note, secret, index));
    }

    pub(crate) fn stop(&mut self, stop: u64, label: &str) {
        self.stops.insert(StopEntry { stop: time(stop), tag: fr(label).into() });
    }

    pub(crate) fn value_input(&self, i: usize) -> ValueInput {
        let (note, index) = &self.values[i];
        ValueInput::spend(&self.alice, note, *index, self.tree.path(*index).unwrap()).unwrap()
    }

    pub(crate) fn stream_input(&self, i: usize) -> StreamInput {
        let (note, secret, index) = &self.streams[i];
        StreamInput { note: *note, secret: secret.clone(), index: *index, path: self.tree.path(*index).unwrap() }
    }
}

pub(crate) fn dummy(label: &str) -> ValueInput {
    ValueInput::dummy(&Dummy::random(&mut rng(label)))
}
