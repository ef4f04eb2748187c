//! Reading a consistent piece of the chain: which blocks are new, whether the chain was replaced, and what the pool logged.

use std::collections::HashMap;

use alloy::{primitives::B256, rpc::types::Log};
use futures::{StreamExt, TryStreamExt, stream};

use crate::{
    LedgerError,
    source::{BlockRef, ChainSource, Header},
    store::RawEvent,
};

/// Requests for headers under way at once.
const CONCURRENT_HEADERS: usize = 8;

/// Headers in one step.
const MOST_HEADERS: u64 = 512;

/// The next step towards the head.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Step {
    /// Nothing is new.
    UpToDate,
    /// The chain was replaced after this block, which is one of those kept.
    RollBack(BlockRef),
    /// The chain was replaced from the first block on that was ever read: all of it is known, so all of it can be undone.
    StartOver,
    /// New blocks.
    Extend(Piece),
}

/// Consecutive blocks after those known, up to `last`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Piece {
    /// Headers of the piece's newest blocks, in order; the last one is the piece's end. Where `joined` is false, older headers
    /// do not connect and are to be forgotten.
    pub(crate) headers: Vec<BlockRef>,
    /// Whether the first header's parent is the last block known.
    pub(crate) joined: bool,
    /// The pool's events, in order.
    pub(crate) events: Vec<RawEvent>,
    /// The head's height when the piece was read.
    pub(crate) head: u64,
}

/// How far back blocks are kept, and how much is asked for at once.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Limits {
    /// Blocks per `eth_getLogs`.
    pub(crate) range: u64,
    /// Least number of newest blocks whose headers are kept.
    pub(crate) depth: u64,
    /// Headers of blocks younger than this are kept too.
    pub(crate) seconds: u64,
    /// Most headers kept.
    pub(crate) max_headers: u64,
}

/// Reads the next piece of the chain after `kept` (ascending; may be empty before the first step).
///
/// # Errors
/// [`LedgerError::Rpc`], [`LedgerError::Inconsistent`] when the node's view changed meanwhile, [`LedgerError::ReorganisationTooDeep`].
pub(crate) async fn next_step(
    source: &dyn ChainSource,
    first_block: u64,
    kept: &[BlockRef],
    limits: Limits,
) -> Result<Step, LedgerError> {
    let head = source.head().await?;
    let Some(tip) = kept.last().copied() else {
        if head.block.number < first_block {
            return Ok(Step::UpToDate);
        }
        return read_piece(source, first_block, None, head, limits).await.map(Step::Extend);
    };
    if head.block.number == tip.number && head.block.hash == tip.hash {
        return Ok(Step::UpToDate);
    }
    if head.block.number == tip.number + 1 && head.block.parent == tip.hash {
        return read_piece(source, head.block.number, Some(tip), head, limits).await.map(Step::Extend);
    }
    let same = |found: &Option<Header>, expected: &BlockRef| found.is_some_and(|h| h.block.hash == expected.hash);
    if head.block.number > tip.number && same(&source.header(tip.number).await?, &tip) {
        return read_piece(source, tip.number + 1, Some(tip), head, limits).await.map(Step::Extend);
    }
    // The tip is gone, or the node is behind us on the same chain: nothing to undo in that case.
    for (back, candidate) in kept.iter().rev().enumerate() {
        if candidate.number > head.block.number {
            continue;
        }
        if same(&source.header(candidate.number).await?, candidate) {
            // A head that is one of our own blocks: the node lags, or its chain was cut and hasn't grown since. Waiting loses
            // nothing, for a replacement shows as soon as it grows.
            let behind = candidate.number == head.block.number;
            return Ok(if behind || back == 0 { Step::UpToDate } else { Step::RollBack(*candidate) });
        }
    }
    let oldest = kept[0];
    if head.block.number < oldest.number {
        // The node is far behind (it may still be syncing); it contradicts nothing.
        return Ok(Step::UpToDate);
    }
    if oldest.number <= first_block {
        return Ok(Step::StartOver);
    }
    Err(LedgerError::ReorganisationTooDeep { oldest: oldest.number, expected: oldest.hash, depth: kept.len() as u64 })
}

async fn read_piece(
    source: &dyn ChainSource,
    from: u64,
    tip: Option<BlockRef>,
    head: Header,
    limits: Limits,
) -> Result<Piece, LedgerError> {
    let newest = head.block.number;
    // Of old blocks only the events are read, of those near the head every header as well.
    let near = newest.saturating_sub(limits.depth.clamp(1, limits.max_headers) - 1);
    if from < near && !young(source, from, head, limits).await? {
        let mut to = from.saturating_add(limits.range.max(1) - 1).min(near - 1);
        while to > from && young(source, to, head, limits).await? {
            to = from + (to - from) / 2;
        }
        return read_old(source, from, to, newest).await;
    }
    let to = from.saturating_add(limits.range.clamp(1, MOST_HEADERS) - 1).min(newest);
    let headers: Vec<Header> = stream::iter(from..=to)
        .map(|number| async move {
            if number == newest {
                return Ok(head);
            }
            source
                .header(number)
                .await?
                .ok_or(LedgerError::Inconsistent { number, what: "a block below the head is missing" })
        })
        .buffered(CONCURRENT_HEADERS)
        .try_collect()
        .await?;
    for pair in headers.windows(2) {
        if pair[1].block.parent != pair[0].block.hash {
            return Err(LedgerError::Inconsistent {
                number: pair[1].block.number,
                what: "its parent is not the block before",
            });
        }
    }
    let joined = tip.is_some_and(|t| t.number + 1 == from);
    if let Some(tip) = tip
        && joined
        && headers[0].block.parent != tip.hash
    {
        return Err(LedgerError::Inconsistent { number: from, what: "its parent is not the last block known" });
    }
    let mut logs: HashMap<u64, Vec<Log>> = HashMap::new();
    for log in source.logs(from, to).await? {
        logs.entry(log.block_number.unwrap_or_default()).or_default().push(log);
    }
    let mut events = Vec::new();
    for header in &headers {
        let block = header.block;
        let mut found = logs.remove(&block.number).unwrap_or_default();
        if found.is_empty() && header.may_have_logs {
            // Nodes behind one address may lag behind each other and leave out the newest logs.
            found = source.logs_of(block.hash).await?;
        }
        for log in found {
            events.push(raw(log, block.number, Some(block.hash), block.timestamp)?);
        }
    }
    if let Some(number) = logs.keys().copied().next() {
        return Err(LedgerError::Inconsistent { number, what: "logs of a block outside the range asked for" });
    }
    let end = headers.last().map_or(head.block, |h| h.block);
    let again = if to == newest { source.header(to).await? } else { Some(headers[headers.len() - 1]) };
    if again.is_none_or(|h| h.block.hash != end.hash) {
        return Err(LedgerError::Inconsistent { number: to, what: "it was replaced while its logs were read" });
    }
    in_order(&events)?;
    Ok(Piece { headers: headers.into_iter().map(|h| h.block).collect(), joined, events, head: newest })
}

/// Whether the block is young enough for its header to be kept.
async fn young(source: &dyn ChainSource, number: u64, head: Header, limits: Limits) -> Result<bool, LedgerError> {
    if head.block.number - number >= limits.max_headers {
        return Ok(false);
    }
    let header = source
        .header(number)
        .await?
        .ok_or(LedgerError::Inconsistent { number, what: "a block below the head is missing" })?;
    Ok(header.block.timestamp + limits.seconds >= head.block.timestamp)
}

async fn read_old(source: &dyn ChainSource, from: u64, to: u64, newest: u64) -> Result<Piece, LedgerError> {
    let logs = source.logs(from, to).await?;
    let mut events = Vec::with_capacity(logs.len());
    let mut last: Option<BlockRef> = None;
    for log in logs {
        let number = log.block_number.unwrap_or_default();
        if number < from || number > to {
            return Err(LedgerError::Inconsistent { number, what: "logs of a block outside the range asked for" });
        }
        let block = match last.filter(|b| b.number == number) {
            Some(block) => block,
            None => {
                source
                    .header(number)
                    .await?
                    .ok_or(LedgerError::Inconsistent { number, what: "a block with logs is missing" })?
                    .block
            }
        };
        last = Some(block);
        events.push(raw(log, number, Some(block.hash), block.timestamp)?);
    }
    let end = source
        .header(to)
        .await?
        .ok_or(LedgerError::Inconsistent { number: to, what: "a block below the head is missing" })?;
    in_order(&events)?;
    Ok(Piece { headers: vec![end.block], joined: false, events, head: newest })
}

fn raw(log: Log, number: u64, hash: Option<B256>, timestamp: u64) -> Result<RawEvent, LedgerError> {
    let missing = |what| LedgerError::Inconsistent { number, what };
    if log.removed {
        return Err(missing("a log that was taken back"));
    }
    let block_hash = log.block_hash.ok_or(missing("a log without its block's hash"))?;
    if hash.is_some_and(|h| h != block_hash) {
        return Err(missing("its logs are of another version of it"));
    }
    let data = log.inner.data;
    let topic = *data.topics().first().ok_or(missing("a log without a topic"))?;
    Ok(RawEvent {
        block: number,
        block_hash,
        timestamp,
        log_index: log.log_index.ok_or(missing("a log without an index"))?,
        tx_hash: log.transaction_hash.ok_or(missing("a log without its transaction"))?,
        topic,
        data: data.data.to_vec(),
    })
}

fn in_order(events: &[RawEvent]) -> Result<(), LedgerError> {
    for pair in events.windows(2) {
        if (pair[0].block, pair[0].log_index) >= (pair[1].block, pair[1].log_index) {
            return Err(LedgerError::Inconsistent { number: pair[1].block, what: "its logs are out of order" });
        }
    }
    Ok(())
}
