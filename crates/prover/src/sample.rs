//! A fixed state of a pool and honest transactions over it, for benchmarks, contract fixtures and tests.
//!
//! Everything comes from seeded generators and is the same at every run: nothing here is for money.

use alloy_primitives::Address;
use ark_ff::AdditiveGroup;
use rand::{SeedableRng, rngs::StdRng};
use sha2::{Digest, Sha256};
use tributary_protocol::{
    AccountKeys, Amount, Commitment, Fr, MerkleTree, Nullifier, PayerSecret, PoolClock, PoolId, PoolScope, Price,
    ProviderDigest, Rate, Rho, Root, Seconds, Seed, StoppedList, StreamNote, StreamTerms, TicketMessage, UnixTime,
    ValueNote,
    statement::ExternalTerms,
    witness::{
        ClaimLane, ClaimRequest, ClaimWitness, CloseRequest, CloseWitness, Dummy, InsertWitness, Output, StreamInput,
        TicketWitness, TransactRequest, TransactWitness, ValueInput,
    },
};

/// When the sample's transactions are sent, unless they say otherwise: a multiple of the slot length.
pub const NOW: u64 = 1_800_000_000;
/// How much later the second claim of the same streams is.
pub const REPEAT_AFTER: u64 = 3_600;
/// NOTICE in seconds.
pub const NOTICE: u64 = 180;
/// The slot length in seconds.
pub const SLOT_LENGTH: u64 = 60;
/// The finality margin in seconds.
pub const MARGIN: u64 = 30;
/// The burn in hundredths of a per cent.
pub const BURN_BPS: u16 = 100;
/// Leaves in the tree.
pub const LEAVES: usize = 256;
/// Leaves queued behind the tree.
pub const QUEUED: usize = 64;
/// Streams that can be claimed at once.
pub const STREAMS: usize = 16;

const DAY: u64 = 86_400;
/// Base units of a token with six decimals.
const UNIT: u128 = 1_000_000;
const FEE: u128 = 150_000;
const NOTES: [(u128, usize); 2] = [(2_000 * UNIT, 7), (345_678_901, 130)];
const FIRST_STREAM: usize = 64;
const CLOSING_STREAM: usize = 201;

/// A pool with 256 leaves in its tree, among them two notes of a payer, 16 streams to a payee and one to another.
#[derive(Clone, Debug)]
pub struct SamplePool {
    pool: PoolId,
    payer: AccountKeys,
    payee: AccountKeys,
    tree: MerkleTree,
    queued: Vec<Commitment>,
    notes: Vec<(ValueNote, u32)>,
    streams: Vec<(StreamNote, PayerSecret, u32)>,
}

impl SamplePool {
    /// The pool at `address` on chain `chain_id`.
    #[must_use]
    pub fn new(pool: PoolId) -> Self {
        let account = |label: &str| {
            let mut seed = [0; 64];
            seed[..32].copy_from_slice(&Sha256::digest(label));
            let scope = PoolScope { pool, account: 0 };
            Seed::new(seed).account(scope).unwrap_or_else(|e| unreachable!("a fixed seed: {e}"))
        };
        let (payer, payee) = (account("sample payer"), account("sample payee"));
        let mut leaves: Vec<Commitment> =
            (0..LEAVES + QUEUED).map(|i| Commitment::new(element(&format!("leaf {i}")))).collect();

        let mut notes = Vec::new();
        for (value, index) in NOTES {
            let rho = Rho::new(element(&format!("note {index}")));
            let note = ValueNote { amount: amount(value), owner: payer.owner(), rho };
            leaves[index] = note.commitment();
            notes.push((note, index as u32));
        }
        let mut streams = Vec::new();
        for i in 0..=STREAMS {
            let index = if i < STREAMS { FIRST_STREAM + 3 * i } else { CLOSING_STREAM };
            let nf_0 = Nullifier::new(element(&format!("stream nullifier {i}")));
            let secret = PayerSecret::derive(&payer.payer, nf_0);
            let terms = StreamTerms::new(
                payee.owner(),
                rate(1_000 + 37 * i as u128),
                time(NOW - 2 * 3_600 - SLOT_LENGTH * i as u64),
                time(NOW + 30 * DAY),
            );
            let note = StreamNote {
                terms: terms.unwrap_or_else(|e| unreachable!("fixed terms: {e}")),
                payer_tag: secret.tag(),
                rho: Rho::new(element(&format!("stream {i}"))),
            };
            leaves[index] = note.commitment();
            streams.push((note, secret, index as u32));
        }
        let queued = leaves.split_off(LEAVES);
        let tree = MerkleTree::from_leaves(leaves).unwrap_or_else(|e| unreachable!("few leaves: {e}"));
        Self { pool, payer, payee, tree, queued, notes, streams }
    }

    /// The pool.
    #[must_use]
    pub const fn pool(&self) -> PoolId {
        self.pool
    }

    /// The leaves in the tree.
    #[must_use]
    pub fn leaves(&self) -> Vec<Commitment> {
        self.tree.leaves().collect()
    }

    /// The leaves that wait behind them.
    #[must_use]
    pub fn queued(&self) -> &[Commitment] {
        &self.queued
    }

    /// The tree's root.
    #[must_use]
    pub fn root(&self) -> Root {
        self.tree.root()
    }

    /// The pool's clock.
    #[must_use]
    pub fn clock(&self) -> PoolClock {
        let seconds = |s| Seconds::new(s).unwrap_or_else(|e| unreachable!("a few seconds: {e}"));
        PoolClock::new(seconds(SLOT_LENGTH), seconds(NOTICE), seconds(MARGIN))
            .unwrap_or_else(|e| unreachable!("a fixed clock: {e}"))
    }

    /// A deposit with two dummies.
    #[must_use]
    pub fn deposit(&self) -> TransactWitness {
        let mut rng = generator("deposit");
        let dummies = [Dummy::random(&mut rng), Dummy::random(&mut rng)];
        self.transact(
            &TransactRequest {
                root: self.root(),
                inputs: dummies.each_ref().map(ValueInput::dummy),
                amount_in: amount(1_500 * UNIT),
                amount_out: Amount::ZERO,
                outputs: [self.to_payer(1_500 * UNIT), self.to_payer(0)],
                external: external(NOW + 120),
            },
            &mut rng,
        )
    }

    /// A transact that opens a stream of 30 days from both notes, with a fee to a relayer or none.
    #[must_use]
    pub fn open(&self, with_fee: bool) -> TransactWitness {
        let mut rng = generator(if with_fee { "open with fee" } else { "open" });
        let fee = if with_fee { FEE } else { 0 };
        let (start, seconds, per_second) = (NOW + SLOT_LENGTH, 7 * DAY, 2_500);
        let total: u128 = NOTES.iter().map(|(value, _)| value).sum();
        let mut external = external(NOW + 120);
        if with_fee {
            external.fee = amount(fee);
            external.relayer = account("relayer");
        }
        self.transact(
            &TransactRequest {
                root: self.root(),
                inputs: [self.note(0), self.note(1)],
                amount_in: Amount::ZERO,
                amount_out: amount(fee),
                outputs: [
                    Output::Stream {
                        payee: self.payee.address(),
                        rate: rate(per_second),
                        start: time(start),
                        end: time(start + seconds),
                    },
                    self.to_payer(total - fee - per_second * u128::from(seconds)),
                ],
                external,
            },
            &mut rng,
        )
    }

    /// A withdrawal from one note, without fee.
    #[must_use]
    pub fn withdraw(&self) -> TransactWitness {
        let mut rng = generator("withdraw");
        let dummy = Dummy::random(&mut rng);
        let mut external = external(NOW + 120);
        external.recipient = account("recipient");
        self.transact(
            &TransactRequest {
                root: self.root(),
                inputs: [self.note(0), ValueInput::dummy(&dummy)],
                amount_in: Amount::ZERO,
                amount_out: amount(700 * UNIT),
                outputs: [self.to_payer(NOTES[0].0 - 700 * UNIT), self.to_payer(0)],
                external,
            },
            &mut rng,
        )
    }

    /// A close of a running stream, its refund to a note or mostly to a new stream.
    #[must_use]
    pub fn close(&self, reopen: bool) -> CloseWitness {
        let mut rng = generator(if reopen { "reopen" } else { "close" });
        let stop = NOW + NOTICE + SLOT_LENGTH;
        let (note, _, _) = &self.streams[STREAMS];
        let refund = note.terms.refund(time(stop)).get();
        let dummy = Dummy::random(&mut rng);
        let (input, outputs) = if reopen {
            let (seconds, per_second) = (5 * DAY, 2_000);
            let stream = Output::Stream {
                payee: self.payee.address(),
                rate: rate(per_second),
                start: time(stop),
                end: time(stop + seconds),
            };
            let rest = refund + NOTES[0].0 - per_second * u128::from(seconds);
            (self.note(0), [stream, self.to_payer(rest)])
        } else {
            (ValueInput::dummy(&dummy), [self.to_payer(refund), self.to_payer(0)])
        };
        CloseRequest {
            root: self.root(),
            stream: self.stream(STREAMS),
            stop: time(stop),
            input,
            amount_out: Amount::ZERO,
            outputs,
            external: external(stop - NOTICE),
        }
        .build(&self.payer, &mut rng)
        .unwrap_or_else(|e| unreachable!("a fixed close: {e}"))
    }

    /// A claim of the first `lanes` of the 16 streams: their first, or one an hour later; with a fee paid out to a relayer, or none.
    ///
    /// # Panics
    /// When `lanes` is more than 16.
    #[must_use]
    pub fn claim(&self, lanes: usize, repeated: bool, with_fee: bool) -> ClaimWitness {
        let mut rng = generator(&format!("claim {lanes} {repeated} {with_fee}"));
        let (t0, t1) = if repeated { (NOW, NOW + REPEAT_AFTER) } else { (0, NOW) };
        let lanes = self.streams[..STREAMS][..lanes].iter().map(|(note, _, index)| ClaimLane {
            note: *note,
            index: *index,
            path: self.path(*index),
            t0: time(t0),
            t1: time(t1),
        });
        let mut external = external(t1 + 120);
        let mut amount_out = 0;
        if with_fee {
            amount_out = 2 * FEE;
            external.fee = amount(FEE);
            external.relayer = account("relayer");
            external.recipient = account("recipient");
        }
        ClaimRequest {
            root: self.root(),
            lanes: lanes.collect(),
            burn_bps: BURN_BPS,
            amount_out: amount(amount_out),
            external,
        }
        .build(&self.payee, &mut rng)
    }

    /// The insertion that takes the tree from `from` leaves to leaf `m` of that batch, `from` at least 256.
    #[must_use]
    pub fn insert(&self, from: u64, m: u8) -> InsertWitness {
        let mut tree = self.tree.clone();
        tree.append(self.queued.iter().copied()).unwrap_or_else(|e| unreachable!("few leaves: {e}"));
        InsertWitness(tree.insertion(from, m).unwrap_or_else(|e| unreachable!("a batch of the queue: {e}")))
    }

    /// A proof of `count` tickets from the first stream, for the slot that starts now; `j` were used before.
    #[must_use]
    pub fn ticket(&self, count: u8, j: u32) -> TicketWitness {
        let stream = self.stream(0);
        let stopped = StoppedList::new();
        let slot = self.clock().slot_at(time(NOW)).unwrap_or_else(|e| unreachable!("a slot's start: {e}"));
        TicketWitness {
            root: self.root(),
            absence: stopped.absence(stream.record_tag()).unwrap_or_else(|e| unreachable!("an empty list: {e}")),
            stopped_root: stopped.root(),
            slot,
            price: Price::new(1_000).unwrap_or_else(|e| unreachable!("a small price: {e}")),
            min_streamed: amount(600_000),
            j,
            count,
            message: TicketMessage::of_ticket(
                &Sha256::digest(b"ephemeral").into(),
                &ProviderDigest::of_peer_id(b"sample provider"),
                slot.start(),
            ),
            stream,
        }
    }

    /// A rating by the first stream.
    #[must_use]
    pub fn rating(&self) -> TicketWitness {
        TicketWitness {
            price: Price::new(0).unwrap_or_else(|e| unreachable!("a rating's price: {e}")),
            message: TicketMessage::of_rating(b"good"),
            ..self.ticket(1, 0)
        }
    }

    fn transact(&self, request: &TransactRequest, rng: &mut StdRng) -> TransactWitness {
        request.build(&self.payer, rng).unwrap_or_else(|e| unreachable!("a fixed transaction: {e}"))
    }

    fn to_payer(&self, value: u128) -> Output {
        Output::Value { to: self.payer.address(), amount: amount(value) }
    }

    fn path(&self, index: u32) -> tributary_protocol::Path {
        self.tree.path(index).unwrap_or_else(|e| unreachable!("a leaf of the tree: {e}"))
    }

    fn note(&self, i: usize) -> ValueInput {
        let (note, index) = &self.notes[i];
        ValueInput::spend(&self.payer, note, *index, self.path(*index))
            .unwrap_or_else(|e| unreachable!("the payer's note: {e}"))
    }

    fn stream(&self, i: usize) -> StreamInput {
        let (note, secret, index) = &self.streams[i];
        StreamInput { note: *note, secret: secret.clone(), index: *index, path: self.path(*index) }
    }
}

impl Default for SamplePool {
    /// The pool that the contracts' tests deploy.
    fn default() -> Self {
        let mut address = *b"TributaryStreamPool\0";
        address[19] = 0;
        Self::new(PoolId { chain_id: 31_337, address: Address::from(address) })
    }
}

/// The seeded generator of one operation, also for its proof's blinding scalars: one operation's draws don't shift another's.
#[must_use]
pub fn generator(label: &str) -> StdRng {
    StdRng::from_seed(Sha256::digest(format!("tributary sample: {label}")).into())
}

fn element(label: &str) -> Fr {
    // 31 bytes are always below the field's order.
    let digest = Sha256::digest(label);
    digest[..31].iter().fold(Fr::ZERO, |acc, b| acc * Fr::from(256u64) + Fr::from(*b))
}

fn account(label: &str) -> Address {
    Address::from_slice(&Sha256::digest(label)[..20])
}

fn amount(value: u128) -> Amount {
    Amount::new(value).unwrap_or_else(|e| unreachable!("a small amount: {e}"))
}

fn rate(value: u128) -> Rate {
    Rate::new(value).unwrap_or_else(|e| unreachable!("a small rate: {e}"))
}

fn time(value: u64) -> UnixTime {
    UnixTime::new(value).unwrap_or_else(|e| unreachable!("a time of this millennium: {e}"))
}

fn external(deadline: u64) -> ExternalTerms {
    ExternalTerms {
        recipient: Address::ZERO,
        relayer: Address::ZERO,
        fee: Amount::ZERO,
        deadline: time(deadline),
        may_drop_outputs: false,
    }
}
