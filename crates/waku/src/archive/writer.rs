//! The queue between relay and archive: relay never waits for the disk, and one transaction takes many messages.

use std::{
    sync::{
        Arc,
        atomic::{AtomicU64, AtomicUsize, Ordering},
    },
    time::{Duration, Instant},
};

use tokio::{
    sync::{mpsc, oneshot},
    time::sleep,
};
use tokio_util::sync::CancellationToken;

use super::{Archive, ArchiveError, ArchivedMessage};

/// Messages that may wait.
const MAX_QUEUED: usize = 8192;

/// Their payloads together.
const MAX_QUEUED_BYTES: usize = 64 << 20;

/// Messages in one transaction.
const MAX_BATCH: usize = 256;

/// How long a batch is tried again while the database is away. Meanwhile messages queue.
const RETRY_LIMIT: Duration = Duration::from_secs(60);

/// First and longest pause between two tries.
const RETRY_PAUSE: (Duration, Duration) = (Duration::from_millis(50), Duration::from_secs(2));

enum Job {
    Keep(ArchivedMessage),
    Flush(oneshot::Sender<()>),
}

/// Feeds an archive from a bounded queue.
#[derive(Clone, Debug)]
pub(crate) struct ArchiveWriter {
    jobs: mpsc::Sender<Job>,
    state: Arc<State>,
}

#[derive(Debug, Default)]
struct State {
    queued_bytes: AtomicUsize,
    lost: AtomicU64,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Enqueued {
    Yes,
    QueueFull,
}

impl ArchiveWriter {
    /// Starts the writing task; it ends when all writers are dropped and the queue is empty. From `shutdown` on nothing is
    /// tried again.
    pub(crate) fn start(archive: Arc<dyn Archive>, shutdown: CancellationToken) -> (Self, tokio::task::JoinHandle<()>) {
        let (jobs, receiver) = mpsc::channel(MAX_QUEUED);
        let state = Arc::<State>::default();
        let task = tokio::spawn(run(archive, receiver, state.clone(), shutdown));
        (Self { jobs, state }, task)
    }

    pub(crate) fn enqueue(&self, message: ArchivedMessage) -> Enqueued {
        let size = size(&message);
        let queued = self.state.queued_bytes.fetch_add(size, Ordering::SeqCst);
        if queued + size <= MAX_QUEUED_BYTES && self.jobs.try_send(Job::Keep(message)).is_ok() {
            return Enqueued::Yes;
        }
        self.state.queued_bytes.fetch_sub(size, Ordering::SeqCst);
        self.state.lost.fetch_add(1, Ordering::Relaxed);
        Enqueued::QueueFull
    }

    /// Waits until everything queued before is durable, or given up.
    pub(crate) async fn flush(&self) {
        let (done, wait) = oneshot::channel();
        if self.jobs.send(Job::Flush(done)).await.is_ok() {
            let _ = wait.await;
        }
    }

    /// Messages that were not archived because the queue was full or the database failed.
    pub(crate) fn lost(&self) -> u64 {
        self.state.lost.load(Ordering::Relaxed)
    }
}

fn size(message: &ArchivedMessage) -> usize {
    message.message.payload.len() + message.message.content_topic.as_str().len() + 256
}

/// Keeps a batch, again and again while the database is only away.
async fn keep(
    archive: &dyn Archive,
    batch: &[ArchivedMessage],
    shutdown: &CancellationToken,
) -> Result<u64, ArchiveError> {
    let begun = Instant::now();
    let mut pause = RETRY_PAUSE.0;
    loop {
        match archive.insert(batch).await {
            Err(e) if e.is_transient() && begun.elapsed() < RETRY_LIMIT && !shutdown.is_cancelled() => {
                tracing::warn!(code = e.code(), error = %e, messages = batch.len(), "the archive is tried again");
            }
            result => return result,
        }
        tokio::select! {
            () = sleep(pause) => {}
            () = shutdown.cancelled() => {}
        }
        pause = (pause * 2).min(RETRY_PAUSE.1);
    }
}

async fn run(archive: Arc<dyn Archive>, mut jobs: mpsc::Receiver<Job>, state: Arc<State>, shutdown: CancellationToken) {
    let mut received = Vec::with_capacity(MAX_BATCH);
    while jobs.recv_many(&mut received, MAX_BATCH).await > 0 {
        let mut batch = Vec::with_capacity(received.len());
        let mut flushes = Vec::new();
        for job in received.drain(..) {
            match job {
                Job::Keep(message) => batch.push(message),
                Job::Flush(done) => flushes.push(done),
            }
        }
        if !batch.is_empty() {
            if let Err(e) = keep(archive.as_ref(), &batch, &shutdown).await {
                state.lost.fetch_add(batch.len() as u64, Ordering::Relaxed);
                tracing::error!(code = e.code(), error = %e, messages = batch.len(), "messages were not archived");
            }
            state.queued_bytes.fetch_sub(batch.iter().map(size).sum(), Ordering::SeqCst);
        }
        for done in flushes {
            let _ = done.send(());
        }
    }
}
