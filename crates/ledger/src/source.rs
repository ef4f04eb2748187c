//! Where blocks and logs come from.

use alloy::{
    eips::BlockNumberOrTag,
    primitives::{Address, B256, Bloom, BloomInput},
    providers::{DynProvider, Provider},
    rpc::types::{Filter, Log},
    transports::TransportError,
};
use async_trait::async_trait;

use crate::LedgerError;

/// A block's place in the chain.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct BlockRef {
    /// Height.
    pub number: u64,
    /// Hash.
    pub hash: B256,
    /// Hash of the block before it.
    pub parent: B256,
    /// Unix seconds.
    pub timestamp: u64,
}

/// A header as far as the ledger needs it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Header {
    /// The block's place in the chain.
    pub block: BlockRef,
    /// Whether the block's bloom filter says that the pool may have logged something. Only ever used to ask again: some chains leave the filter empty.
    pub may_have_logs: bool,
}

/// A chain, seen through one pool. The only questions are whole block ranges of the pool's events and headers: nothing that names a leaf, a tag or a note.
#[async_trait]
pub trait ChainSource: Send + Sync + std::fmt::Debug {
    /// The chain id.
    ///
    /// # Errors
    /// [`LedgerError::Rpc`], [`LedgerError::Refused`].
    async fn chain_id(&self) -> Result<u64, LedgerError>;

    /// The newest block.
    ///
    /// # Errors
    /// [`LedgerError::Rpc`], [`LedgerError::Refused`].
    async fn head(&self) -> Result<Header, LedgerError>;

    /// The block of that height on the node's present chain, if it has one.
    ///
    /// # Errors
    /// [`LedgerError::Rpc`], [`LedgerError::Refused`].
    async fn header(&self, number: u64) -> Result<Option<Header>, LedgerError>;

    /// All of the pool's logs in blocks `from..=to`, in chain order.
    ///
    /// # Errors
    /// [`LedgerError::Rpc`], [`LedgerError::Refused`].
    async fn logs(&self, from: u64, to: u64) -> Result<Vec<Log>, LedgerError>;

    /// All of the pool's logs in the block with that hash, in order.
    ///
    /// # Errors
    /// [`LedgerError::Rpc`], [`LedgerError::Refused`].
    async fn logs_of(&self, hash: B256) -> Result<Vec<Log>, LedgerError>;
}

/// A chain node spoken to by JSON-RPC.
#[derive(Clone, Debug)]
pub struct RpcSource {
    provider: DynProvider,
    pool: Address,
}

impl RpcSource {
    /// Follows `pool` through `provider`.
    #[must_use]
    pub const fn new(provider: DynProvider, pool: Address) -> Self {
        Self { provider, pool }
    }

    fn shorten(&self, header: &alloy::rpc::types::Header) -> Header {
        let bloom: Bloom = header.inner.logs_bloom;
        Header {
            block: BlockRef {
                number: header.inner.number,
                hash: header.hash,
                parent: header.inner.parent_hash,
                timestamp: header.inner.timestamp,
            },
            may_have_logs: bloom.contains_input(BloomInput::Raw(self.pool.as_slice())),
        }
    }
}

/// Endpoints often carry a key in their address, and transport errors quote the address.
fn rpc(method: &'static str) -> impl Fn(TransportError) -> LedgerError {
    move |error| match error.as_error_resp() {
        Some(response) => LedgerError::Refused { method, error: response.code, message: response.message.to_string() },
        None if error.is_deser_error() => {
            LedgerError::Rpc { method, reason: "the answer could not be read".to_owned() }
        }
        None => LedgerError::Rpc { method, reason: "no answer".to_owned() },
    }
}

#[async_trait]
impl ChainSource for RpcSource {
    async fn chain_id(&self) -> Result<u64, LedgerError> {
        self.provider.get_chain_id().await.map_err(rpc("eth_chainId"))
    }

    async fn head(&self) -> Result<Header, LedgerError> {
        let block =
            self.provider.get_block_by_number(BlockNumberOrTag::Latest).await.map_err(rpc("eth_getBlockByNumber"))?;
        block.map(|b| self.shorten(&b.header)).ok_or_else(|| LedgerError::Rpc {
            method: "eth_getBlockByNumber",
            reason: "the node has no latest block".to_owned(),
        })
    }

    async fn header(&self, number: u64) -> Result<Option<Header>, LedgerError> {
        let block = self.provider.get_block_by_number(number.into()).await.map_err(rpc("eth_getBlockByNumber"))?;
        Ok(block.map(|b| self.shorten(&b.header)))
    }

    async fn logs(&self, from: u64, to: u64) -> Result<Vec<Log>, LedgerError> {
        let filter = Filter::new().address(self.pool).from_block(from).to_block(to);
        self.provider.get_logs(&filter).await.map_err(rpc("eth_getLogs"))
    }

    async fn logs_of(&self, hash: B256) -> Result<Vec<Log>, LedgerError> {
        let filter = Filter::new().address(self.pool).at_block_hash(hash);
        self.provider.get_logs(&filter).await.map_err(rpc("eth_getLogs"))
    }
}
