//! Proofs off the asynchronous threads.

use std::sync::Arc;

use tributary_protocol::witness::Witness;
use tributary_prover::Prover;

use crate::WalletError;

/// Checks a witness natively, then proves it on a blocking thread. Answers the statement and the proof as on the wire.
pub(crate) async fn prove<W>(prover: &Arc<Prover>, witness: W) -> Result<(W::Statement, [u8; 256]), WalletError>
where
    W: Witness + Send + 'static,
    W::Statement: Send + 'static,
{
    let prover = Arc::clone(prover);
    let task = tokio::task::spawn_blocking(move || {
        let prepared = witness.prepare()?;
        let proof = prover.prove(prepared.circuit, &prepared.inputs)?;
        Ok::<_, WalletError>((prepared.statement, proof.to_bytes()))
    });
    match task.await {
        Ok(result) => result,
        Err(error) => match error.try_into_panic() {
            Ok(panic) => std::panic::resume_unwind(panic),
            Err(_) => Err(WalletError::Interrupted),
        },
    }
}
