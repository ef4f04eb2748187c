//! Tickets with proofs that really verify, made in microseconds from a key whose trapdoor the tests know, and a chain that says what
//! the test tells it to.

#![allow(dead_code, unreachable_pub, reason = "each test file uses a part of it")]

use std::collections::HashMap;
use std::path::Path;
use std::sync::Arc;

use ark_bn254::{Fq, G1Affine, G1Projective, G2Affine, G2Projective};
use ark_ec::{AffineRepr, CurveGroup, PrimeGroup};
use ark_ff::{BigInteger, Field, PrimeField, UniformRand, Zero};
use ed25519_dalek::SigningKey;
use parking_lot::Mutex;
use rand::SeedableRng;
use rand::rngs::StdRng;
use tokio::sync::watch;
use tributary_market::clock::ManualClock;
use tributary_market::offer::{OfferId, ServiceId};
use tributary_market::ticket::{PreparedTicket, RootStanding, TicketVerifier};
use tributary_protocol::ticket::{OfferTerms, TicketMessage, TicketNullifier, TicketStatement};
use tributary_protocol::{Amount, Fr, Owner, PoolClock, Price, ProviderDigest, Root, Seconds, Slot, UnixTime};
use tributary_prover::VerifyingKey;
use tributary_provider::batch::BatchLimits;
use tributary_provider::chain::ChainView;
use tributary_provider::check::TicketChecker;
use tributary_provider::free::FreeTierLimits;
use tributary_provider::store::{NullifierStore, OnMissing, StoreOptions};
use tributary_provider::till::Till;

pub const L: u64 = 60;
pub const CARRY: u64 = 20;
/// Start of slot 0 of the tests.
pub const S: u64 = 1_700_000_040;
pub const PROVIDER: &[u8] = b"the provider's peer id";

pub fn at(seconds: u64) -> UnixTime {
    UnixTime::new(seconds).unwrap()
}

pub fn clock() -> PoolClock {
    let [length, notice, margin] = [L, 180, 30].map(|s| Seconds::new(s).unwrap());
    PoolClock::new(length, notice, margin).unwrap()
}

pub fn slot(n: u64) -> Slot {
    clock().slot_at(at(S + n * L)).unwrap()
}

pub fn payee() -> Owner {
    Owner::new(Fr::from(7_u8))
}

pub fn provider() -> ProviderDigest {
    ProviderDigest::of_peer_id(PROVIDER)
}

pub fn root(n: u64) -> Root {
    Root::new(Fr::from(1000 + n))
}

pub fn stopped_root(slot: Slot) -> Root {
    Root::new(Fr::from(slot.start().get() ^ 0xffff))
}

pub fn verifier() -> TicketVerifier {
    TicketVerifier {
        clock: clock(),
        provider: provider(),
        terms: OfferTerms { payee: payee(), price: Price::new(50).unwrap(), min_streamed: Amount::new(400).unwrap() },
        slot_carry: Seconds::new(CARRY).unwrap(),
        root_depth: 2,
    }
}

/// A Groth16 key of 13 public inputs whose exponents are known, so that a proof of any statement can be made without a witness.
pub struct Trapdoor {
    alpha: Fr,
    beta: Fr,
    delta: Fr,
    gamma: Fr,
    ic: Vec<Fr>,
    pub key: Arc<VerifyingKey>,
}

impl Trapdoor {
    pub fn new() -> Self {
        let mut rng = StdRng::seed_from_u64(1);
        let mut fr = || Fr::rand(&mut rng);
        let (alpha, beta, gamma, delta) = (fr(), fr(), fr(), fr());
        let ic: Vec<Fr> = (0..14).map(|_| fr()).collect();
        let g1 = |x: &Fr| (G1Projective::generator() * x).into_affine();
        let g2 = |x: &Fr| (G2Projective::generator() * x).into_affine();
        let points = ic.iter().map(g1).collect();
        let key = VerifyingKey::new(g1(&alpha), g2(&beta), g2(&gamma), g2(&delta), points).unwrap();
        Self { alpha, beta, delta, gamma, ic, key: Arc::new(key) }
    }

    pub fn prove(&self, statement: &TicketStatement, seed: u64) -> [u8; 256] {
        let mut rng = StdRng::seed_from_u64(seed);
        let (a, b) = (Fr::rand(&mut rng), Fr::rand(&mut rng));
        let publics = statement.public_inputs();
        let x: Fr = self.ic[0] + publics.iter().zip(&self.ic[1..]).map(|(x, ic)| *x * ic).sum::<Fr>();
        let c = (a * b - self.alpha * self.beta - x * self.gamma) * self.delta.inverse().unwrap();
        let g1 = |x: Fr| (G1Affine::generator() * x).into_affine();
        let (a, b, c) = (g1(a), (G2Affine::generator() * b).into_affine(), g1(c));
        let mut out = [0; 256];
        let words: [Fq; 8] = [a.x, a.y, b.x.c1, b.x.c0, b.y.c1, b.y.c0, c.x, c.y];
        for (at, word) in out.chunks_mut(32).zip(words) {
            at.copy_from_slice(&word.into_bigint().to_bytes_be());
        }
        out
    }
}

/// A chain that says what it is told.
#[derive(Debug)]
pub struct TestChain {
    pub head: Mutex<UnixTime>,
    pub roots: Mutex<HashMap<Root, u32>>,
    pub final_until: Mutex<Slot>,
}

impl TestChain {
    pub fn new() -> Arc<Self> {
        Arc::new(Self {
            head: Mutex::new(at(S)),
            roots: Mutex::new(HashMap::from([(root(0), 10), (root(1), 1)])),
            final_until: Mutex::new(slot(1)),
        })
    }
}

impl ChainView for TestChain {
    fn clock(&self) -> PoolClock {
        clock()
    }
    fn head_time(&self) -> Option<UnixTime> {
        Some(*self.head.lock())
    }
    fn root_standing(&self, root: Root) -> RootStanding {
        self.roots.lock().get(&root).map_or(RootStanding::Unknown, |&depth| RootStanding::Known { depth })
    }
    fn final_stopped_root(&self, slot: Slot) -> Option<Root> {
        (slot <= *self.final_until.lock()).then(|| stopped_root(slot))
    }
    fn latest_final_slot(&self) -> Option<Slot> {
        Some(*self.final_until.lock())
    }
}

pub fn nullifier(n: u64) -> TicketNullifier {
    TicketNullifier::new(Fr::from(0xabc_0000_0000 + n))
}

pub fn key(n: u64) -> SigningKey {
    let mut seed = [9; 32];
    seed[..8].copy_from_slice(&n.to_be_bytes());
    SigningKey::from_bytes(&seed)
}

/// Ticket `n` of a slot: one nullifier, as the offer wants it.
pub fn statement(n: u64, slot: Slot) -> TicketStatement {
    let terms = verifier().terms;
    TicketStatement {
        root: root(0),
        stopped_root: stopped_root(slot),
        payee: terms.payee,
        price: terms.price,
        slot_start: slot.start(),
        slot_end: slot.end(),
        count: 1,
        min_streamed: terms.min_streamed,
        message: TicketMessage::of_ticket(&key(n).verifying_key().to_bytes(), &provider(), slot.start()),
        nullifiers: [nullifier(n), TicketNullifier::UNUSED, TicketNullifier::UNUSED, TicketNullifier::UNUSED],
    }
}

pub struct World {
    pub trapdoor: Trapdoor,
    pub chain: Arc<TestChain>,
    pub clock: ManualClock,
    pub checker: Arc<TicketChecker>,
    pub till: Till,
    pub offer: watch::Sender<Option<OfferId>>,
}

impl World {
    pub async fn open(path: &Path, on_missing: OnMissing, now: u64) -> Self {
        Self::open_with(path, on_missing, now, BatchLimits::default()).await
    }

    pub async fn open_with(path: &Path, on_missing: OnMissing, now: u64, limits: BatchLimits) -> Self {
        let trapdoor = Trapdoor::new();
        let chain = TestChain::new();
        *chain.head.lock() = at(now);
        *chain.final_until.lock() = slot((now.max(S) - S) / L + 1);
        let clock = ManualClock::new(at(now));
        let horizon = chain.latest_final_slot().unwrap().start();
        let store = NullifierStore::open(path, payee(), StoreOptions::new(on_missing, at(now), horizon)).await.unwrap();
        let checker = TicketChecker::new(
            verifier(),
            Arc::clone(&trapdoor.key),
            Arc::clone(&chain) as Arc<dyn ChainView>,
            store,
            Arc::new(clock.clone()),
            limits,
        )
        .unwrap();
        let checker = Arc::new(checker);
        let (offer, current) = watch::channel(Some(OfferId::of_payload(b"the offer")));
        let till = Till::new(ServiceId::store(), Arc::clone(&checker), FreeTierLimits::NONE, current);
        Self { trapdoor, chain, clock, checker, till, offer }
    }

    pub fn prepared(&self, n: u64, statement: TicketStatement) -> PreparedTicket {
        let proof = self.trapdoor.prove(&statement, n);
        PreparedTicket { statement, proof, key: key(n) }
    }

    /// Ticket `n` of slot 0, paying for `request`.
    pub fn pay(&self, n: u64, request: &[u8]) -> Vec<u8> {
        self.prepared(n, statement(n, slot(0))).pay(&provider(), request)
    }

    /// Moves clock and chain to `now`, and with them what is final.
    pub fn go_to(&self, now: u64) {
        self.clock.set(at(now));
        *self.chain.head.lock() = at(now);
        *self.chain.final_until.lock() = slot((now - S) / L + 1);
    }
}

/// `x + r` in 32 bytes: another encoding of the same element.
pub fn not_canonical(element: &Fr) -> [u8; 32] {
    let mut x = element.into_bigint();
    assert!(!x.add_with_carry(&Fr::MODULUS), "fits 256 bits");
    x.to_bytes_be().try_into().unwrap()
}

pub fn is_zero(element: &Fr) -> bool {
    element.is_zero()
}
