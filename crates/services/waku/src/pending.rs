//! Paid uses between their admission and their answer.

use std::collections::HashMap;
use std::time::{Duration, Instant};

use parking_lot::Mutex;
use tributary_provider::till::{Admission, Till};
use tributary_waku::Bytes;

/// Uses at work at most. The node answers fewer at a time; more means that answers were lost.
const MAX_PENDING: usize = 1024;
/// After this long an answer isn't coming any more: longer than the node lets a request run.
const PENDING_TIME: Duration = Duration::from_secs(120);

/// Admitted uses whose answer is being made, by their proof: a proof is admitted once.
#[derive(Debug, Default)]
pub(crate) struct PendingUses(Mutex<HashMap<Bytes, Pending>>);

#[derive(Debug)]
struct Pending {
    admission: Admission,
    since: Instant,
}

impl PendingUses {
    pub(crate) fn keep(&self, proof: &Bytes, admission: Admission) {
        let now = Instant::now();
        let mut pending = self.0.lock();
        if pending.len() >= MAX_PENDING {
            // Dropping an admission marks its ticket as failed.
            pending.retain(|_, p| now.duration_since(p.since) < PENDING_TIME);
        }
        if pending.len() < MAX_PENDING {
            pending.insert(proof.clone(), Pending { admission, since: now });
        }
    }

    /// Writes down what became of a use.
    pub(crate) async fn settle(&self, till: &Till, proof: &Bytes, served: bool) {
        let Some(Pending { admission, .. }) = self.0.lock().remove(proof) else { return };
        let settled = if served { till.served(admission).await } else { till.failed(admission).await };
        if let Err(error) = settled {
            tracing::error!(code = error.code(), %error, "what became of a paid use could not be written");
        }
    }
}
