//! Verifies ticket proofs in batches, without making a lone ticket wait.
//!
//! There is no batch window: the worker takes what waits at the moment it is free. A lone ticket is verified at once; under load the tickets that
//! arrive during one verification form the next batch. Whose proofs are verified together, and in which order, is the schedule's business: peers
//! whose proofs held before, peers that nothing is known of, and peers that sent a bad one are never mixed, and each of these lanes has its share
//! of the time that verification takes. For a while after a bad proof nothing of its sender is verified at all, and that while doubles with each
//! further one: finding a bad proof costs more than making one.

mod schedule;

use std::fmt;
use std::hash::Hash;
use std::sync::Arc;
use std::time::Duration;

use parking_lot::Mutex;
use tokio::sync::{Notify, oneshot};
use tokio::time::Instant;
use tracing::error;

use self::schedule::{Lane, Schedule, Unit};

/// Verifies proofs. Called outside the async runtime; may take milliseconds.
pub trait ProofVerifier: Send + Sync + 'static {
    /// A proof with its public inputs.
    type Item: Send + 'static;

    /// Whether this one proof holds.
    fn verify_one(&self, item: &Self::Item) -> bool;

    /// Whether all of these proofs hold (up to a soundness error of 2^-100 or less).
    fn verify_all(&self, items: &[&Self::Item]) -> bool;
}

/// How the time for verification is divided while more than one lane has something waiting, and trusted peers more than a batch. What a lane doesn't
/// use, the others have.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Shares {
    /// Of peers whose proofs held before; 0 counts as 1, here as below.
    pub trusted: u32,
    /// Of all peers together that nothing is known of.
    pub newcomers: u32,
    /// Of all peers together that sent a bad proof.
    pub apart: u32,
}

/// Bounds of a [`Batcher`].
#[derive(Clone, Copy, Debug)]
pub struct BatchLimits {
    /// Proofs in one batch at most.
    pub batch: usize,
    /// Newcomers in one batch at most.
    pub newcomers_together: usize,
    /// How time is divided.
    pub shares: Shares,
    /// Proofs of trusted peers waiting at most.
    pub waiting: usize,
    /// Proofs of one trusted peer waiting at most.
    pub waiting_per_peer: usize,
    /// Proofs of newcomers waiting at most; who has most of them makes room for who has less. Each holds one of the requests that a node serves at the same time, so keep it well below that bound.
    pub waiting_newcomers: usize,
    /// Proofs of one newcomer waiting at most.
    pub waiting_per_newcomer: usize,
    /// Proofs waiting at most of peers that sent a bad one.
    pub waiting_apart: usize,
    /// Proofs waiting at most of one peer that sent a bad one.
    pub waiting_per_spoiler: usize,
    /// Good proofs after which a newcomer is trusted. As many of its proofs are looked at together.
    pub good_to_trust: u32,
    /// Good proofs after which a peer that sent a bad one is trusted again.
    pub good_to_forgive: u32,
    /// Peers remembered for good proofs, and as many for bad ones. In memory only.
    pub remembered: usize,
    /// For how long nothing of a peer is verified after its first bad proof; doubles with each further one.
    pub penalty: Duration,
    /// The longest such time.
    pub penalty_max: Duration,
}

impl Default for BatchLimits {
    fn default() -> Self {
        Self {
            batch: 64,
            newcomers_together: 16,
            shares: Shares { trusted: 16, newcomers: 3, apart: 1 },
            waiting: 1024,
            waiting_per_peer: 128,
            waiting_newcomers: 32,
            waiting_per_newcomer: 16,
            waiting_apart: 8,
            waiting_per_spoiler: 4,
            good_to_trust: 4,
            good_to_forgive: 64,
            remembered: 4096,
            penalty: Duration::from_secs(1),
            penalty_max: Duration::from_secs(60),
        }
    }
}

/// What became of a proof.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Verdict {
    /// The proof holds.
    Valid,
    /// The proof doesn't hold.
    Invalid,
}

/// Why a proof was not looked at.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Overload {
    /// The queue of the peer's lane is full.
    Queue {
        /// Proofs that may wait.
        limit: usize,
    },
    /// This peer's share of the queue is full.
    Peer {
        /// Proofs of this peer that may wait.
        limit: usize,
    },
    /// This peer sent a bad proof lately.
    Penalty {
        /// How long nothing of it is verified.
        left: Duration,
    },
    /// The batcher was stopped, or its verifier panicked on this batch.
    Stopped,
}

/// What the batcher did so far.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct BatchCounters {
    /// Batches taken (of one proof or more).
    pub batches: u64,
    /// Proofs verified in them.
    pub proofs: u64,
    /// Batches that failed and were divided.
    pub splits: u64,
    /// Proofs that did not hold.
    pub invalid: u64,
    /// Checks: of batches and of parts of those that failed.
    pub checks: u64,
    /// Time that checks took.
    pub busy: Duration,
}

struct Waiting<I> {
    item: I,
    reply: oneshot::Sender<Result<Verdict, Overload>>,
}

struct State<I, P> {
    schedule: Schedule<P, Waiting<I>>,
    counters: BatchCounters,
    stopped: bool,
}

struct Inner<V: ProofVerifier, P> {
    verifier: V,
    started: Instant,
    state: Mutex<State<V::Item, P>>,
    wake: Notify,
}

/// A bounded queue of proofs and the worker that verifies them. Dropping the last handle stops the worker.
pub struct Batcher<V: ProofVerifier, P> {
    inner: Arc<Inner<V, P>>,
}

impl<V: ProofVerifier, P> fmt::Debug for Batcher<V, P> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Batcher").finish_non_exhaustive()
    }
}

impl<V: ProofVerifier, P> Drop for Batcher<V, P> {
    fn drop(&mut self) {
        self.inner.state.lock().stopped = true;
        self.inner.wake.notify_one();
    }
}

impl<V, P> Batcher<V, P>
where
    V: ProofVerifier,
    P: Clone + Eq + Hash + Send + 'static,
{
    /// Starts the worker on the current tokio runtime; verification itself runs on its blocking threads.
    pub fn start(verifier: V, limits: BatchLimits) -> Self {
        let state = State { schedule: Schedule::new(limits), counters: BatchCounters::default(), stopped: false };
        let inner =
            Arc::new(Inner { verifier, started: Instant::now(), state: Mutex::new(state), wake: Notify::new() });
        tokio::spawn(work(Arc::clone(&inner)));
        Self { inner }
    }

    /// Queues a proof and waits for its verdict. `peer` is who sent it, where that is known.
    ///
    /// # Errors
    /// [`Overload`] when it was not looked at: the ticket isn't spent and may be sent again.
    pub async fn verify(&self, item: V::Item, peer: Option<P>) -> Result<Verdict, Overload> {
        let (reply, verdict) = oneshot::channel();
        {
            let mut state = self.inner.state.lock();
            if state.stopped {
                return Err(Overload::Stopped);
            }
            let now = self.inner.now();
            let displaced = state.schedule.push(peer, Waiting { item, reply }, now)?;
            if let Some((waiting, result)) = displaced {
                let _ = waiting.reply.send(result);
            }
        }
        self.inner.wake.notify_one();
        verdict.await.unwrap_or(Err(Overload::Stopped))
    }

    /// Whether proofs of this peer are looked at now: a cheap question before dear checks.
    ///
    /// # Errors
    /// [`Overload::Penalty`] when they aren't.
    pub fn admissible(&self, peer: &P) -> Result<(), Overload> {
        self.inner.state.lock().schedule.admissible(peer, self.inner.now())
    }

    /// Whether a proof of this peer would be queued now: asked before what a proof costs besides.
    ///
    /// # Errors
    /// [`Overload`] when it wouldn't.
    pub fn room(&self, peer: &Option<P>) -> Result<(), Overload> {
        self.inner.state.lock().schedule.room(peer, self.inner.now()).map(|_| ())
    }

    /// Whether a peer is batched apart for a bad proof.
    pub fn is_apart(&self, peer: &P) -> bool {
        self.inner.state.lock().schedule.lane(peer) == Lane::Apart
    }

    /// What the batcher did so far.
    #[must_use]
    pub fn counters(&self) -> BatchCounters {
        self.inner.state.lock().counters
    }
}

async fn work<V, P>(inner: Arc<Inner<V, P>>)
where
    V: ProofVerifier,
    P: Clone + Eq + Hash + Send + 'static,
{
    loop {
        let (unit, stopped) = {
            let mut state = inner.state.lock();
            (state.schedule.next(|waiting| !waiting.reply.is_closed()), state.stopped)
        };
        let Some(unit) = unit else {
            if stopped {
                return;
            }
            inner.wake.notified().await;
            continue;
        };
        let at_work = Arc::clone(&inner);
        if let Err(e) = tokio::task::spawn_blocking(move || at_work.check(unit)).await {
            error!(error = %e, "verifying a batch failed; its tickets are refused as overload and are not spent");
        }
    }
}

impl<V, P> Inner<V, P>
where
    V: ProofVerifier,
    P: Clone + Eq + Hash + Send + 'static,
{
    fn now(&self) -> Duration {
        self.started.elapsed()
    }

    fn check(&self, unit: Unit<P, Waiting<V::Item>>) {
        let begun = Instant::now();
        let items: Vec<&V::Item> = unit.entries.iter().map(|entry| &entry.item.item).collect();
        let holds = match items[..] {
            [one] => self.verifier.verify_one(one),
            _ => self.verifier.verify_all(&items),
        };
        let took = begun.elapsed();
        let mut state = self.state.lock();
        let State { schedule, counters, .. } = &mut *state;
        let n = unit.entries.len();
        counters.checks += 1;
        counters.busy += took;
        if !unit.part {
            counters.batches += 1;
            counters.proofs += n as u64;
            counters.splits += u64::from(!holds && n > 1);
        }
        let settled = schedule.report(unit, holds, took, self.now());
        counters.invalid += settled.iter().filter(|(_, result)| *result == Ok(Verdict::Invalid)).count() as u64;
        drop(state);
        for (waiting, result) in settled {
            let _ = waiting.reply.send(result);
        }
    }
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::{AtomicUsize, Ordering};
    use std::sync::{Condvar, Mutex as StdMutex};

    use super::*;

    /// Counts calls; `true` items hold. A gate can hold the worker inside a call.
    #[derive(Default)]
    struct Scripted {
        /// Sizes of everything verified, in order.
        order: StdMutex<Vec<usize>>,
        closed: StdMutex<bool>,
        opened: Condvar,
        entered: AtomicUsize,
    }

    impl Scripted {
        fn pass(&self) {
            self.entered.fetch_add(1, Ordering::SeqCst);
            let mut closed = self.closed.lock().unwrap();
            while *closed {
                closed = self.opened.wait(closed).unwrap();
            }
        }
        fn shut(&self) {
            *self.closed.lock().unwrap() = true;
        }
        fn open(&self) {
            *self.closed.lock().unwrap() = false;
            self.opened.notify_all();
        }
    }

    impl ProofVerifier for Arc<Scripted> {
        type Item = bool;
        fn verify_one(&self, item: &bool) -> bool {
            self.order.lock().unwrap().push(1);
            self.pass();
            *item
        }
        fn verify_all(&self, items: &[&bool]) -> bool {
            self.order.lock().unwrap().push(items.len());
            self.pass();
            items.iter().all(|b| **b)
        }
    }

    /// Everybody is trusted from the start, and no penalty lasts.
    fn limits() -> BatchLimits {
        BatchLimits { good_to_trust: 0, good_to_forgive: 2, penalty: Duration::ZERO, ..BatchLimits::default() }
    }

    async fn until(what: impl Fn() -> bool) {
        while !what() {
            tokio::task::yield_now().await;
        }
    }

    type Verdicts = Vec<Result<Verdict, Overload>>;

    /// Holds the worker in a first proof while `items` queue up behind it.
    async fn queued(
        b: &Arc<Batcher<Arc<Scripted>, u8>>,
        v: &Arc<Scripted>,
        items: Vec<(bool, Option<u8>)>,
    ) -> Verdicts {
        let before = v.entered.load(Ordering::SeqCst);
        v.shut();
        let first = tokio::spawn({
            let b = Arc::clone(b);
            async move { b.verify(true, None).await }
        });
        until(|| v.entered.load(Ordering::SeqCst) > before).await;
        let mut tasks = Vec::new();
        for (n, (good, peer)) in items.into_iter().enumerate() {
            let task = tokio::spawn({
                let b = Arc::clone(b);
                async move { b.verify(good, peer).await }
            });
            until(|| b.inner.state.lock().schedule.waiting() == n + 1).await;
            tasks.push(task);
        }
        v.open();
        assert_eq!(first.await.unwrap(), Ok(Verdict::Valid));
        let mut out = Vec::new();
        for t in tasks {
            out.push(t.await.unwrap());
        }
        out
    }

    #[tokio::test(flavor = "multi_thread", worker_threads = 2)]
    async fn a_lone_proof_is_verified_alone_and_at_once() {
        let v = Arc::new(Scripted::default());
        let b = Batcher::<_, u8>::start(Arc::clone(&v), limits());
        assert_eq!(b.verify(true, None).await, Ok(Verdict::Valid));
        assert_eq!(b.verify(false, None).await, Ok(Verdict::Invalid));
        assert_eq!(*v.order.lock().unwrap(), [1, 1]);
    }

    #[tokio::test(flavor = "multi_thread", worker_threads = 2)]
    async fn what_waits_is_one_batch() {
        let v = Arc::new(Scripted::default());
        let b = Arc::new(Batcher::start(Arc::clone(&v), limits()));
        let got = queued(&b, &v, vec![(true, Some(1)); 10]).await;
        assert_eq!(got, vec![Ok(Verdict::Valid); 10]);
        assert_eq!(*v.order.lock().unwrap(), [1, 10]);
        let BatchCounters { batches, proofs, splits, invalid, checks, .. } = b.counters();
        assert_eq!((batches, proofs, splits, invalid, checks), (2, 11, 0, 0, 2));
    }

    #[tokio::test(flavor = "multi_thread", worker_threads = 2)]
    async fn a_bad_proof_spoils_only_itself_and_its_peer_is_batched_apart() {
        let v = Arc::new(Scripted::default());
        let b = Arc::new(Batcher::start(Arc::clone(&v), limits()));
        let mut items = vec![(true, Some(1)); 9];
        items.insert(4, (false, Some(66)));
        let got = queued(&b, &v, items.clone()).await;
        for (i, verdict) in got.iter().enumerate() {
            assert_eq!(*verdict, Ok(if i == 4 { Verdict::Invalid } else { Verdict::Valid }), "proof {i}");
        }
        assert!(b.is_apart(&66) && !b.is_apart(&1));
        let BatchCounters { batches, proofs, splits, invalid, checks, .. } = b.counters();
        assert_eq!((batches, proofs, splits, invalid, checks), (2, 11, 1, 1, 4));

        // Again: now the others' batch holds nine good proofs and is not split.
        v.order.lock().unwrap().clear();
        let got = queued(&b, &v, items).await;
        assert_eq!(got[4], Ok(Verdict::Invalid));
        assert!(v.order.lock().unwrap().contains(&9));
        assert_eq!(b.counters().splits, 1);
    }

    #[tokio::test(flavor = "multi_thread", worker_threads = 2)]
    async fn what_nobody_waits_for_any_more_is_not_verified() {
        let v = Arc::new(Scripted::default());
        let b = Arc::new(Batcher::<_, u8>::start(Arc::clone(&v), limits()));
        v.shut();
        let spawn = |peer: u8| {
            tokio::spawn({
                let b = Arc::clone(&b);
                async move { b.verify(true, Some(peer)).await }
            })
        };
        let held = spawn(0);
        until(|| v.entered.load(Ordering::SeqCst) == 1).await;
        let (gone, stays) = (spawn(1), spawn(2));
        until(|| b.inner.state.lock().schedule.waiting() == 2).await;
        gone.abort();
        assert!(gone.await.unwrap_err().is_cancelled());
        v.open();
        assert_eq!(held.await.unwrap(), Ok(Verdict::Valid));
        assert_eq!(stays.await.unwrap(), Ok(Verdict::Valid));
        assert_eq!(*v.order.lock().unwrap(), [1, 1], "the proof of the peer that went away was verified");
    }

    #[tokio::test(flavor = "multi_thread", worker_threads = 2)]
    async fn a_flooding_peer_fills_only_its_share() {
        let v = Arc::new(Scripted::default());
        let limits = BatchLimits { waiting: 8, waiting_per_peer: 3, ..limits() };
        let b = Arc::new(Batcher::<_, u8>::start(Arc::clone(&v), limits));
        v.shut();
        let spawn = |peer: u8| {
            tokio::spawn({
                let b = Arc::clone(&b);
                async move { b.verify(true, Some(peer)).await }
            })
        };
        let held = spawn(0);
        until(|| v.entered.load(Ordering::SeqCst) == 1).await;
        let mut waiting = Vec::new();
        for n in 1..=3 {
            waiting.push(spawn(1));
            until(|| b.inner.state.lock().schedule.waiting() == n).await;
        }
        assert_eq!(b.verify(true, Some(1)).await, Err(Overload::Peer { limit: 3 }));
        assert_eq!((b.room(&Some(1)), b.room(&Some(2))), (Err(Overload::Peer { limit: 3 }), Ok(())));
        for peer in 2..=6 {
            waiting.push(spawn(peer));
            until(|| b.inner.state.lock().schedule.waiting() == 3 + usize::from(peer) - 1).await;
        }
        assert_eq!(b.verify(true, Some(9)).await, Err(Overload::Queue { limit: 8 }));
        v.open();
        assert_eq!(held.await.unwrap(), Ok(Verdict::Valid));
        for w in waiting {
            assert_eq!(w.await.unwrap(), Ok(Verdict::Valid));
        }
    }

    #[tokio::test(flavor = "multi_thread", worker_threads = 2)]
    async fn after_a_bad_proof_nothing_of_its_sender_is_verified_for_a_while() {
        let v = Arc::new(Scripted::default());
        let hour = Duration::from_secs(3600);
        let limits = BatchLimits { penalty: hour, penalty_max: hour, ..limits() };
        let b = Arc::new(Batcher::<_, u8>::start(Arc::clone(&v), limits));
        assert_eq!(b.admissible(&1), Ok(()));
        assert_eq!(b.verify(false, Some(1)).await, Ok(Verdict::Invalid));
        let verified = b.counters().checks;
        let refused = b.verify(true, Some(1)).await;
        assert!(matches!(refused, Err(Overload::Penalty { left }) if left <= hour), "{refused:?}");
        assert!(matches!(b.admissible(&1), Err(Overload::Penalty { .. })));
        assert_eq!(b.counters().checks, verified, "it was verified all the same");
        assert_eq!(b.verify(true, Some(2)).await, Ok(Verdict::Valid), "others aren't hit");
    }

    /// Panics on a bad item.
    struct Brittle;

    impl ProofVerifier for Brittle {
        type Item = bool;
        fn verify_one(&self, item: &bool) -> bool {
            assert!(*item, "a bad item");
            true
        }
        fn verify_all(&self, items: &[&bool]) -> bool {
            items.iter().all(|item| self.verify_one(item))
        }
    }

    #[tokio::test]
    async fn a_verifier_that_panics_refuses_one_batch_and_goes_on() {
        let b = Batcher::<_, u8>::start(Brittle, limits());
        assert_eq!(b.verify(false, Some(1)).await, Err(Overload::Stopped));
        assert_eq!(b.verify(true, Some(1)).await, Ok(Verdict::Valid));
    }
}
