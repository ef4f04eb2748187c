//! How a daemon ends: at the first signal in good order and within a time limit, at the second at once.

use std::{process, time::Duration};

use tokio::signal::unix::{Signal, SignalKind, signal};
use tokio_util::sync::CancellationToken;

use crate::error::CliError;

/// A wish to stop. Clones share it.
#[derive(Debug, Clone)]
pub(crate) struct Stop(CancellationToken);

impl Stop {
    /// Listens for SIGINT and SIGTERM from now on. A daemon that still runs `limit` after the first of them is ended with status 1; the
    /// second ends it at once, with the status that shells give to that signal.
    pub(crate) fn install(limit: Duration) -> Result<Self, CliError> {
        let failed = |error| CliError::Signals { error };
        let mut interrupt = signal(SignalKind::interrupt()).map_err(failed)?;
        let mut terminate = signal(SignalKind::terminate()).map_err(failed)?;
        let token = CancellationToken::new();
        tokio::spawn({
            let token = token.clone();
            async move {
                either(&mut interrupt, &mut terminate).await;
                token.cancel();
                tokio::select! {
                    status = either(&mut interrupt, &mut terminate) => process::exit(status),
                    () = tokio::time::sleep(limit) => {
                        tracing::error!(code = "TRB-X017", seconds = limit.as_secs(), "the daemon did not stop in time: stop_limit");
                        process::exit(1);
                    }
                }
            }
        });
        Ok(Self(token))
    }

    /// Done when the daemon shall stop.
    pub(crate) fn requested(&self) -> impl Future<Output = ()> + Send + 'static {
        self.0.clone().cancelled_owned()
    }

    /// Whether it shall stop.
    pub(crate) fn is_requested(&self) -> bool {
        self.0.is_cancelled()
    }
}

/// The next signal, as an exit status.
async fn either(interrupt: &mut Signal, terminate: &mut Signal) -> i32 {
    tokio::select! {
        _ = interrupt.recv() => 128 + SignalKind::interrupt().as_raw_value(),
        _ = terminate.recv() => 128 + SignalKind::terminate().as_raw_value(),
    }
}
