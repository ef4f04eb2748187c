//! Signing and sending: each transaction is written down before it leaves.

use alloy::{
    consensus::{Transaction as _, TxEnvelope},
    eips::{
        eip1559::Eip1559Estimation,
        eip2718::{Decodable2718 as _, Encodable2718},
    },
    network::{Ethereum, NetworkTransactionBuilder, TransactionBuilder},
    primitives::Bytes,
    providers::Provider,
    rpc::types::TransactionRequest,
    transports::{RpcError, TransportErrorKind},
};

use crate::{RelayerError, StoredRequest, call::revert_reason, engine::Inner, store::SentTransaction};

impl Inner {
    /// Gas of a call that succeeds.
    pub(crate) async fn simulate(&self, data: &Bytes) -> Result<u64, RelayerError> {
        let request = self.request(data);
        self.chain.estimate_gas(request).await.map_err(|error| match revert_data(&error) {
            Some(data) => RelayerError::Reverts { reason: revert_reason(&data) },
            None => chain(error),
        })
    }

    /// Signs, writes down, sends.
    pub(crate) async fn send(&self, data: Bytes, request: Option<&StoredRequest>) -> Result<(), RelayerError> {
        let fees = self.chain.estimate_eip1559_fees().await.map_err(chain)?;
        if fees.max_fee_per_gas > self.config.max_gas_price {
            return Err(RelayerError::GasTooDear { price: fees.max_fee_per_gas, max: self.config.max_gas_price });
        }
        let balance = self.chain.get_balance(self.account).await.map_err(chain)?;
        if balance < self.config.low_balance {
            tracing::warn!(%balance, low = %self.config.low_balance, "the relayer's gas runs low: send ether to its account");
        }
        let gas = self.simulate(&data).await?;
        let stored = self.store.unsettled().await?.iter().map(|sent| sent.nonce + 1).max().unwrap_or(0);
        let nonce = self.chain.get_transaction_count(self.account).await.map_err(chain)?.max(stored);
        // Insertions read the ring, whose slots may be cold by then.
        let sent = self.sign(data, nonce, gas + gas / 5, fees, request.map(|request| request.id)).await?;
        self.store.sending(&sent).await?;
        self.broadcast(&sent).await;
        Ok(())
    }

    /// The same transaction with a higher gas price, if the price is still one that is paid.
    pub(crate) async fn replace(&self, stuck: &SentTransaction) -> Result<(), RelayerError> {
        let old = TxEnvelope::decode_2718(&mut stuck.raw.as_ref())
            .map_err(|error| RelayerError::BadCall { call: "a stored transaction", reason: error.to_string() })?;
        let now = self.chain.estimate_eip1559_fees().await.map_err(chain)?;
        let fees = Eip1559Estimation {
            max_fee_per_gas: now.max_fee_per_gas.max(raised(old.max_fee_per_gas())),
            max_priority_fee_per_gas: now
                .max_priority_fee_per_gas
                .max(raised(old.max_priority_fee_per_gas().unwrap_or_default())),
        };
        if fees.max_fee_per_gas > self.config.max_gas_price {
            tracing::warn!(
                transaction = %stuck.hash, price = fees.max_fee_per_gas, max = self.config.max_gas_price,
                "a transaction waits for a lower gas price"
            );
            self.broadcast(stuck).await;
            return Ok(());
        }
        let sent = self.sign(old.input().clone(), stuck.nonce, old.gas_limit(), fees, stuck.request).await?;
        tracing::info!(old = %stuck.hash, new = %sent.hash, price = fees.max_fee_per_gas, "a stuck transaction is sent again");
        self.store.sending(&sent).await?;
        self.counters.replaced();
        self.broadcast(&sent).await;
        Ok(())
    }

    async fn sign(
        &self,
        data: Bytes,
        nonce: u64,
        gas: u64,
        fees: Eip1559Estimation,
        request: Option<i64>,
    ) -> Result<SentTransaction, RelayerError> {
        let transaction = self
            .request(&data)
            .with_nonce(nonce)
            .with_chain_id(self.chain_id)
            .with_gas_limit(gas)
            .with_max_fee_per_gas(fees.max_fee_per_gas)
            .with_max_priority_fee_per_gas(fees.max_priority_fee_per_gas);
        let signed = NetworkTransactionBuilder::<Ethereum>::build(transaction, &self.wallet)
            .await
            .map_err(|error| RelayerError::Chain(error.to_string()))?;
        Ok(SentTransaction {
            nonce,
            hash: *signed.tx_hash(),
            raw: signed.encoded_2718().into(),
            request,
            mined_block: None,
            signed_at: self.clock.now(),
        })
    }

    /// Sends a transaction that is written down. A node that does not take it now (it knows it already, its price is too low for the next block,
    /// the account has too little gas) is asked again at the next turn.
    pub(crate) async fn broadcast(&self, sent: &SentTransaction) {
        if let Err(error) = self.chain.send_raw_transaction(&sent.raw).await {
            let known = error.as_error_resp().is_some_and(|response| {
                response.message.contains("already") || response.message.contains("nonce too low")
            });
            if !known {
                tracing::warn!(transaction = %sent.hash, %error, "the node did not take a transaction: it is sent again");
            }
        }
    }

    fn request(&self, data: &Bytes) -> TransactionRequest {
        TransactionRequest::default()
            .with_from(self.account)
            .with_to(self.ledger.pool().address)
            .with_input(data.clone())
    }
}

/// At least the eighth more that nodes ask of a replacement.
const fn raised(price: u128) -> u128 {
    price.saturating_add(price / 8).saturating_add(1)
}

fn revert_data(error: &RpcError<TransportErrorKind>) -> Option<Bytes> {
    error.as_error_resp().and_then(alloy::rpc::json_rpc::ErrorPayload::as_revert_data)
}

#[allow(clippy::needless_pass_by_value, reason = "used as a function in map_err")]
pub(crate) fn chain(error: RpcError<TransportErrorKind>) -> RelayerError {
    RelayerError::Chain(error.to_string())
}
