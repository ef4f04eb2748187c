//! Verifies ticket proofs in batches, without making a lone ticket wait.
//!
//! There is no batch window: the worker takes what waits at the moment it is free. A lone ticket is verified at once; under load the tickets that
//! arrive during one verification form the next batch. A batch that fails is split until the bad proofs are found, and the peers that sent them are
//! batched apart from then on, so that they slow down themselves. For a while after a bad proof nothing of its sender is verified at all, and that
//! while doubles with each further one: finding a bad proof in a batch costs more than making one.

use std::collections::{HashMap, VecDeque};
use std::fmt;
use std::hash::Hash;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use parking_lot::Mutex;
use tokio::sync::{Notify, oneshot};
use tokio::time::Instant;
use tracing::error;

/// Verifies proofs. Called outside the async runtime; may take milliseconds.
pub trait ProofVerifier: Send + Sync + 'static {
    /// A proof with its public inputs.
    type Item: Send + 'static;

    /// Whether this one proof holds.
    fn verify_one(&self, item: &Self::Item) -> bool;

    /// Whether all of these proofs hold (up to a soundness error of 2^-100 or less).
    fn verify_all(&self, items: &[&Self::Item]) -> bool;
}

/// Bounds of a [`Batcher`].
#[derive(Clone, Copy, Debug)]
pub struct BatchLimits {
    /// Proofs in one batch at most.
    pub batch: usize,
    /// Proofs waiting at most.
    pub waiting: usize,
    /// Proofs of one peer waiting at most.
    pub waiting_per_peer: usize,
    /// Proofs waiting at most of a peer that sent a bad one.
    pub waiting_per_spoiler: usize,
    /// Peers remembered for having sent a bad proof.
    pub spoilers: usize,
    /// Good proofs after which a spoiler is batched with the others again.
    pub good_to_forgive: u32,
    /// For how long nothing of a peer is verified after its first bad proof; doubles with each further one.
    pub penalty: Duration,
    /// The longest such time.
    pub penalty_max: Duration,
}

impl BatchLimits {
    /// For how long nothing of a peer is verified after its `bad`th bad proof.
    fn penalty_after(&self, bad: u32) -> Duration {
        let doublings = bad.saturating_sub(1).min(31);
        self.penalty.saturating_mul(1 << doublings).min(self.penalty_max)
    }
}

impl Default for BatchLimits {
    fn default() -> Self {
        Self {
            batch: 64,
            waiting: 1024,
            waiting_per_peer: 128,
            waiting_per_spoiler: 4,
            spoilers: 4096,
            good_to_forgive: 64,
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
    /// The whole queue is full.
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
    /// Batches that had to be split.
    pub splits: u64,
    /// Proofs that did not hold.
    pub invalid: u64,
}

struct Waiting<I, P> {
    item: I,
    peer: Option<P>,
    reply: oneshot::Sender<Result<Verdict, Overload>>,
}

struct Queues<I, P> {
    clean: VecDeque<Waiting<I, P>>,
    /// Proofs of peers that sent a bad one before, in turns with the clean ones.
    apart: VecDeque<Waiting<I, P>>,
    by_peer: HashMap<P, usize>,
    spoilers: HashMap<P, Spoiler>,
    tick: u64,
    apart_next: bool,
    stopped: bool,
}

struct Spoiler {
    good_since: u32,
    touched: u64,
    /// Bad proofs until it is forgiven.
    bad: u32,
    /// Nothing of it is verified before.
    until: Instant,
}

impl Spoiler {
    fn penalty(&self) -> Option<Overload> {
        let left = self.until.saturating_duration_since(Instant::now());
        (!left.is_zero()).then_some(Overload::Penalty { left })
    }
}

struct Inner<V: ProofVerifier, P> {
    verifier: V,
    limits: BatchLimits,
    queues: Mutex<Queues<V::Item, P>>,
    wake: Notify,
    batches: AtomicU64,
    proofs: AtomicU64,
    splits: AtomicU64,
    invalid: AtomicU64,
}

/// A bounded queue of proofs and the worker that verifies them. Dropping the last handle stops the worker.
pub struct Batcher<V: ProofVerifier, P> {
    inner: Arc<Inner<V, P>>,
}

impl<V: ProofVerifier, P> fmt::Debug for Batcher<V, P> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Batcher").field("limits", &self.inner.limits).finish_non_exhaustive()
    }
}

impl<V: ProofVerifier, P> Drop for Batcher<V, P> {
    fn drop(&mut self) {
        self.inner.queues.lock().stopped = true;
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
        let inner = Arc::new(Inner {
            verifier,
            limits,
            queues: Mutex::new(Queues {
                clean: VecDeque::new(),
                apart: VecDeque::new(),
                by_peer: HashMap::new(),
                spoilers: HashMap::new(),
                tick: 0,
                apart_next: false,
                stopped: false,
            }),
            wake: Notify::new(),
            batches: AtomicU64::new(0),
            proofs: AtomicU64::new(0),
            splits: AtomicU64::new(0),
            invalid: AtomicU64::new(0),
        });
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
            let mut q = self.inner.queues.lock();
            if q.stopped {
                return Err(Overload::Stopped);
            }
            let limits = &self.inner.limits;
            if q.clean.len() + q.apart.len() >= limits.waiting {
                return Err(Overload::Queue { limit: limits.waiting });
            }
            let mut apart = false;
            if let Some(peer) = &peer {
                q.tick += 1;
                let tick = q.tick;
                let mut limit = limits.waiting_per_peer;
                if let Some(s) = q.spoilers.get_mut(peer) {
                    s.touched = tick;
                    if let Some(penalty) = s.penalty() {
                        return Err(penalty);
                    }
                    apart = true;
                    limit = limits.waiting_per_spoiler;
                }
                let waiting = q.by_peer.entry(peer.clone()).or_insert(0);
                if *waiting >= limit {
                    return Err(Overload::Peer { limit });
                }
                *waiting += 1;
            }
            let waiting = Waiting { item, peer, reply };
            if apart {
                q.apart.push_back(waiting);
            } else {
                q.clean.push_back(waiting);
            }
        }
        self.inner.wake.notify_one();
        verdict.await.unwrap_or(Err(Overload::Stopped))
    }

    /// Whether a peer is batched apart for a bad proof.
    pub fn is_apart(&self, peer: &P) -> bool {
        self.inner.queues.lock().spoilers.contains_key(peer)
    }

    /// What the batcher did so far.
    #[must_use]
    pub fn counters(&self) -> BatchCounters {
        let get = |a: &AtomicU64| a.load(Ordering::Relaxed);
        BatchCounters {
            batches: get(&self.inner.batches),
            proofs: get(&self.inner.proofs),
            splits: get(&self.inner.splits),
            invalid: get(&self.inner.invalid),
        }
    }
}

async fn work<V, P>(inner: Arc<Inner<V, P>>)
where
    V: ProofVerifier,
    P: Clone + Eq + Hash + Send + 'static,
{
    loop {
        let (batch, stopped) = inner.take();
        if batch.is_empty() {
            if inner.has_waiting() {
                continue;
            }
            if stopped {
                return;
            }
            inner.wake.notified().await;
            continue;
        }
        let at_work = Arc::clone(&inner);
        if let Err(e) = tokio::task::spawn_blocking(move || at_work.run(batch)).await {
            error!(error = %e, "verifying a batch failed; its tickets are refused as overload and are not spent");
        }
    }
}

impl<V, P> Inner<V, P>
where
    V: ProofVerifier,
    P: Clone + Eq + Hash + Send + 'static,
{
    /// The next batch: clean proofs and those of spoilers in turns, never mixed.
    fn take(&self) -> (Vec<Waiting<V::Item, P>>, bool) {
        let mut guard = self.queues.lock();
        let q = &mut *guard;
        let from_apart = !q.apart.is_empty() && (q.apart_next || q.clean.is_empty());
        q.apart_next = !from_apart;
        let mut batch = Vec::new();
        if from_apart {
            // One spoiler at a time: another's good proofs must not be split because of this one's bad ones.
            let first = q.apart.front().and_then(|w| w.peer.clone());
            let mut rest = VecDeque::with_capacity(q.apart.len());
            for w in q.apart.drain(..) {
                if w.peer == first && batch.len() < self.limits.batch {
                    batch.push(w);
                } else {
                    rest.push_back(w);
                }
            }
            q.apart = rest;
        } else {
            let n = q.clean.len().min(self.limits.batch);
            batch.extend(q.clean.drain(..n));
        }
        for w in &batch {
            if let Some(peer) = &w.peer
                && let Some(n) = q.by_peer.get_mut(peer)
            {
                *n -= 1;
                if *n == 0 {
                    q.by_peer.remove(peer);
                }
            }
        }
        // What a peer queued before its bad proof was found isn't looked at either.
        let mut kept = Vec::with_capacity(batch.len());
        for w in batch {
            match w.peer.as_ref().and_then(|peer| q.spoilers.get(peer)).and_then(Spoiler::penalty) {
                Some(penalty) => {
                    let _ = w.reply.send(Err(penalty));
                }
                None => kept.push(w),
            }
        }
        (kept, q.stopped)
    }

    fn has_waiting(&self) -> bool {
        let q = self.queues.lock();
        !q.clean.is_empty() || !q.apart.is_empty()
    }

    fn run(&self, batch: Vec<Waiting<V::Item, P>>) {
        self.batches.fetch_add(1, Ordering::Relaxed);
        self.proofs.fetch_add(batch.len() as u64, Ordering::Relaxed);
        let items: Vec<&V::Item> = batch.iter().map(|w| &w.item).collect();
        let mut valid = vec![true; items.len()];
        let all = match items[..] {
            [one] => self.verifier.verify_one(one),
            _ => self.verifier.verify_all(&items),
        };
        if !all {
            if items.len() > 1 {
                self.splits.fetch_add(1, Ordering::Relaxed);
            }
            self.find_bad(&items, &mut valid);
        }
        for (w, valid) in batch.into_iter().zip(valid) {
            if let Some(peer) = &w.peer {
                self.remember(peer, valid);
            }
            if !valid {
                self.invalid.fetch_add(1, Ordering::Relaxed);
            }
            let _ = w.reply.send(Ok(if valid { Verdict::Valid } else { Verdict::Invalid }));
        }
    }

    /// Marks the bad proofs of a batch that is known to fail as a whole.
    fn find_bad(&self, items: &[&V::Item], valid: &mut [bool]) {
        if items.len() == 1 {
            valid[0] = false;
            return;
        }
        let half = items.len() / 2;
        let holds = |items: &[&V::Item]| match items {
            [one] => self.verifier.verify_one(one),
            _ => self.verifier.verify_all(items),
        };
        let left = holds(&items[..half]);
        if !left {
            self.find_bad(&items[..half], &mut valid[..half]);
        }
        // A good left half leaves the fault in the right one; no need to ask again.
        if left || !holds(&items[half..]) {
            self.find_bad(&items[half..], &mut valid[half..]);
        }
    }

    fn remember(&self, peer: &P, valid: bool) {
        let mut guard = self.queues.lock();
        let q = &mut *guard;
        q.tick += 1;
        if valid {
            if let Some(s) = q.spoilers.get_mut(peer) {
                s.good_since += 1;
                s.touched = q.tick;
                if s.good_since >= self.limits.good_to_forgive {
                    q.spoilers.remove(peer);
                }
            }
            return;
        }
        let bad = q.spoilers.get(peer).map_or(1, |s| s.bad.saturating_add(1));
        let until = Instant::now() + self.limits.penalty_after(bad);
        q.spoilers.insert(peer.clone(), Spoiler { good_since: 0, touched: q.tick, bad, until });
        if q.spoilers.len() > self.limits.spoilers
            && let Some(oldest) = q.spoilers.iter().min_by_key(|(_, s)| s.touched).map(|(p, _)| p.clone())
        {
            q.spoilers.remove(&oldest);
        }
    }
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::AtomicUsize;
    use std::sync::{Condvar, Mutex as StdMutex};

    use super::*;

    /// Counts calls; `true` items hold. A gate can hold the worker inside a call.
    #[derive(Default)]
    struct Scripted {
        singles: AtomicUsize,
        batches: StdMutex<Vec<usize>>,
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
            self.singles.fetch_add(1, Ordering::SeqCst);
            self.order.lock().unwrap().push(1);
            self.pass();
            *item
        }
        fn verify_all(&self, items: &[&bool]) -> bool {
            self.batches.lock().unwrap().push(items.len());
            self.order.lock().unwrap().push(items.len());
            self.pass();
            items.iter().all(|b| **b)
        }
    }

    fn limits() -> BatchLimits {
        BatchLimits { good_to_forgive: 2, penalty: Duration::ZERO, ..BatchLimits::default() }
    }

    async fn until(what: impl Fn() -> bool) {
        while !what() {
            tokio::task::yield_now().await;
        }
    }

    #[tokio::test(flavor = "multi_thread", worker_threads = 2)]
    async fn a_lone_proof_is_verified_alone_and_at_once() {
        let v = Arc::new(Scripted::default());
        let b = Batcher::<_, u8>::start(Arc::clone(&v), limits());
        assert_eq!(b.verify(true, None).await, Ok(Verdict::Valid));
        assert_eq!(b.verify(false, None).await, Ok(Verdict::Invalid));
        assert_eq!(v.singles.load(Ordering::SeqCst), 2);
        assert!(v.batches.lock().unwrap().is_empty());
    }

    /// Holds the worker in a first proof while `items` queue up behind it.
    async fn queued(
        b: &Arc<Batcher<Arc<Scripted>, u8>>,
        v: &Arc<Scripted>,
        items: Vec<(bool, Option<u8>)>,
    ) -> Vec<Verdict> {
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
            until(|| {
                let q = b.inner.queues.lock();
                q.clean.len() + q.apart.len() == n + 1
            })
            .await;
            tasks.push(task);
        }
        v.open();
        assert_eq!(first.await.unwrap(), Ok(Verdict::Valid));
        let mut out = Vec::new();
        for t in tasks {
            out.push(t.await.unwrap().unwrap());
        }
        out
    }

    #[tokio::test(flavor = "multi_thread", worker_threads = 2)]
    async fn what_waits_is_one_batch() {
        let v = Arc::new(Scripted::default());
        let b = Arc::new(Batcher::start(Arc::clone(&v), limits()));
        let got = queued(&b, &v, vec![(true, Some(1)); 10]).await;
        assert_eq!(got, vec![Verdict::Valid; 10]);
        assert_eq!(*v.batches.lock().unwrap(), vec![10]);
    }

    #[tokio::test(flavor = "multi_thread", worker_threads = 2)]
    async fn a_bad_proof_spoils_only_itself_and_its_peer_is_batched_apart() {
        let v = Arc::new(Scripted::default());
        let b = Arc::new(Batcher::start(Arc::clone(&v), limits()));
        let mut items = vec![(true, Some(1)); 9];
        items.insert(4, (false, Some(66)));
        let got = queued(&b, &v, items.clone()).await;
        for (i, verdict) in got.iter().enumerate() {
            assert_eq!(*verdict, if i == 4 { Verdict::Invalid } else { Verdict::Valid }, "proof {i}");
        }
        assert!(b.is_apart(&66) && !b.is_apart(&1));
        assert_eq!(b.counters().splits, 1);

        // Again: now the clean batch holds nine good proofs and is not split.
        v.batches.lock().unwrap().clear();
        let got = queued(&b, &v, items).await;
        assert_eq!(got[4], Verdict::Invalid);
        assert_eq!(*v.batches.lock().unwrap(), vec![9]);
        assert_eq!(b.counters().splits, 1);
    }

    #[tokio::test(flavor = "multi_thread", worker_threads = 2)]
    async fn spoilers_take_turns_with_the_others() {
        let v = Arc::new(Scripted::default());
        let b = Arc::new(Batcher::start(Arc::clone(&v), limits()));
        for peer in 60..64 {
            assert_eq!(b.verify(false, Some(peer)).await, Ok(Verdict::Invalid));
        }
        v.order.lock().unwrap().clear();
        let spoilers = (60..64).map(|peer| (true, Some(peer)));
        let items: Vec<_> = spoilers.chain([(true, Some(1)); 5]).collect();
        assert_eq!(queued(&b, &v, items).await, vec![Verdict::Valid; 9]);
        let order = v.order.lock().unwrap().clone();
        // The proof that held the worker, then the batch of five among the first two, then the spoilers one by one.
        assert_eq!(order.len(), 6, "{order:?}");
        assert!(order[1..=2].contains(&5), "{order:?}");
    }

    #[tokio::test(flavor = "multi_thread", worker_threads = 2)]
    async fn good_proofs_bring_a_spoiler_back() {
        let v = Arc::new(Scripted::default());
        let b = Batcher::<_, u8>::start(Arc::clone(&v), limits());
        assert_eq!(b.verify(false, Some(5)).await, Ok(Verdict::Invalid));
        assert!(b.is_apart(&5));
        for _ in 0..2 {
            assert_eq!(b.verify(true, Some(5)).await, Ok(Verdict::Valid));
        }
        assert!(!b.is_apart(&5));
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
            until(|| b.inner.queues.lock().clean.len() == n).await;
        }
        assert_eq!(b.verify(true, Some(1)).await, Err(Overload::Peer { limit: 3 }));
        for peer in 2..=6 {
            waiting.push(spawn(peer));
            until(|| b.inner.queues.lock().clean.len() == 3 + usize::from(peer) - 1).await;
        }
        assert_eq!(b.verify(true, Some(9)).await, Err(Overload::Queue { limit: 8 }));
        v.open();
        assert_eq!(held.await.unwrap(), Ok(Verdict::Valid));
        for w in waiting {
            assert_eq!(w.await.unwrap(), Ok(Verdict::Valid));
        }
        assert!(b.inner.queues.lock().by_peer.is_empty());
    }

    #[tokio::test(flavor = "multi_thread", worker_threads = 2)]
    async fn the_memory_of_spoilers_is_bounded() {
        let v = Arc::new(Scripted::default());
        let b = Batcher::<_, u8>::start(Arc::clone(&v), BatchLimits { spoilers: 2, ..limits() });
        for peer in 1..=3 {
            assert_eq!(b.verify(false, Some(peer)).await, Ok(Verdict::Invalid));
        }
        assert!(!b.is_apart(&1) && b.is_apart(&2) && b.is_apart(&3));
    }

    #[tokio::test(flavor = "multi_thread", worker_threads = 2)]
    async fn after_a_bad_proof_nothing_of_its_sender_is_verified_for_a_while() {
        let v = Arc::new(Scripted::default());
        let hour = Duration::from_secs(3600);
        let limits = BatchLimits { penalty: hour, penalty_max: hour, ..limits() };
        let b = Arc::new(Batcher::<_, u8>::start(Arc::clone(&v), limits));
        assert_eq!(b.verify(false, Some(1)).await, Ok(Verdict::Invalid));
        let verified = b.counters().proofs;
        let refused = b.verify(true, Some(1)).await;
        assert!(matches!(refused, Err(Overload::Penalty { left }) if left <= hour), "{refused:?}");
        assert_eq!(b.counters().proofs, verified, "it was verified all the same");
        assert_eq!(b.verify(true, Some(2)).await, Ok(Verdict::Valid), "others aren't hit");
    }

    #[test]
    fn penalties_double_up_to_their_bound() {
        let limits = BatchLimits::default();
        let seconds = [1, 2, 3, 6, 7, 40, u32::MAX].map(|bad| limits.penalty_after(bad).as_secs());
        assert_eq!(seconds, [1, 2, 4, 32, 60, 60, 60]);
    }
}
