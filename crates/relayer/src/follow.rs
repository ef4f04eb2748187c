//! What became of transactions: mined, reverted, lost, taken back.

use alloy::{
    providers::Provider,
    rpc::types::{Filter, Log, TransactionReceipt},
    sol_types::SolEventInterface,
};
use tributary_bindings::{NOT_QUEUED, StreamPool::StreamPoolEvents};
use tributary_protocol::Commitment;

use crate::{
    RelayerError,
    call::PoolCall,
    engine::Inner,
    send::chain,
    store::{Done, SentTransaction},
};

impl Inner {
    /// Looks at each transaction that is not deep yet.
    pub(crate) async fn follow(&self) -> Result<(), RelayerError> {
        let head = self.chain.get_block_number().await.map_err(chain)?;
        // Asked before the receipts: what a block takes in between must not look lost.
        let next = self.chain.get_transaction_count(self.account).await.map_err(chain)?;
        let unsettled = self.store.unsettled().await?;
        self.unexplained.lock().retain(|nonce| unsettled.iter().any(|sent| sent.nonce == *nonce));
        for versions in unsettled.chunk_by(|a, b| a.nonce == b.nonce) {
            self.follow_nonce(versions, head, next).await?;
        }
        let inserted = self.ledger.inserted();
        for request in self.store.not_inserted().await? {
            if request.leaves_until.is_some_and(|until| until <= inserted) {
                self.store.inserted(request.id).await?;
            }
        }
        Ok(())
    }

    /// Looks at the transactions of one nonce, oldest first: of these at most one is ever mined.
    async fn follow_nonce(&self, versions: &[SentTransaction], head: u64, next: u64) -> Result<(), RelayerError> {
        for sent in versions {
            if let Some(receipt) = self.chain.get_transaction_receipt(sent.hash).await.map_err(chain)? {
                self.unexplained.lock().remove(&sent.nonce);
                return self.mined(sent, &receipt, head).await;
            }
        }
        let Some(newest) = versions.last() else { return Ok(()) };
        if versions.iter().any(|sent| sent.mined_block.is_some()) {
            tracing::warn!(transaction = %newest.hash, "a reorganisation took a transaction back: it is sent again");
            self.store.taken_back(newest).await?;
        }
        if next > newest.nonce {
            // An endpoint may count a block's transactions before it has their receipts.
            if self.unexplained.lock().insert(newest.nonce) {
                return Ok(());
            }
            self.unexplained.lock().remove(&newest.nonce);
            tracing::warn!(nonce = newest.nonce, "another transaction of the account has this nonce: sending anew");
            return self.store.lost(newest).await;
        }
        if self.clock.now() >= newest.signed_at.saturating_add(self.config.replace_after) {
            return self.replace(newest).await;
        }
        self.broadcast(newest).await;
        Ok(())
    }

    async fn mined(&self, sent: &SentTransaction, receipt: &TransactionReceipt, head: u64) -> Result<(), RelayerError> {
        if !receipt.status() {
            tracing::warn!(transaction = %sent.hash, gas = receipt.gas_used, "a transaction reverted on chain");
            self.store.reverted(sent).await?;
            self.counters.reverted(receipt.gas_used, receipt.effective_gas_price);
            return Ok(());
        }
        let block = receipt.block_number.unwrap_or(head);
        if sent.mined_block != Some(block) {
            let (until, inserted) = effects(receipt.logs());
            self.store.mined(sent, block, until, inserted >= until).await?;
        }
        if head >= block.saturating_add(self.config.confirmations) {
            self.store.settled(sent).await?;
            let inserted = effects(receipt.logs()).1 > 0;
            self.counters.settled(receipt.gas_used, receipt.effective_gas_price, inserted);
        }
        Ok(())
    }

    /// The transaction that carried out this call, whoever sent it. Its first commitment tells: nobody else can open it.
    pub(crate) async fn done_already(&self, call: &PoolCall) -> Result<Option<Done>, RelayerError> {
        self.ledger.sync().await?;
        let Some(commitment) = call.commitments.first().and_then(|leaf| Commitment::try_from(*leaf).ok()) else {
            return Ok(None);
        };
        let Some(leaf) = self.ledger.leaf(commitment).await? else { return Ok(None) };
        let filter = Filter::new().address(self.ledger.pool().address).from_block(leaf.block).to_block(leaf.block);
        let logs = self.chain.get_logs(&filter).await.map_err(chain)?;
        let position = u64::from(leaf.position);
        let carried = logs.iter().find(|log| queued(log).is_some_and(|(from, _)| from == position));
        Ok(carried.and_then(|log| {
            let (from, leaves) = queued(log)?;
            Some(Done { transaction: log.transaction_hash?, block: leaf.block, leaves_until: from + leaves })
        }))
    }
}

/// Up to which leaf a transaction's own commitments reach, and up to which its insertions.
fn effects(logs: &[Log]) -> (u64, u64) {
    let (mut until, mut inserted) = (0, 0);
    for log in logs {
        if let Some((from, leaves)) = queued(log) {
            until = from + leaves;
        } else if let Ok(StreamPoolEvents::Inserted(event)) =
            StreamPoolEvents::decode_log(&log.inner).map(|log| log.data)
        {
            inserted = event.leafCount;
        }
    }
    (until, inserted)
}

/// The place in the queue and the number of the leaves that an operation's event queued.
fn queued(log: &Log) -> Option<(u64, u64)> {
    let (position, leaves) = match StreamPoolEvents::decode_log(&log.inner).ok()?.data {
        StreamPoolEvents::Transacted(event) => (event.position, 2),
        StreamPoolEvents::Closed(event) => (event.position, 2),
        StreamPoolEvents::Claimed(event) => (event.position, 1),
        _ => return None,
    };
    (position != NOT_QUEUED).then_some((position, leaves))
}
