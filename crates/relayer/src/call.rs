//! The pool's calls that a relayer sends: decoded, so that nothing is sent that was not understood.

use alloy::{
    primitives::{Address, Bytes, U256},
    sol_types::{SolCall, SolInterface},
};
use tributary_bindings::StreamPool;
use tributary_protocol::Operation;

use crate::RelayerError;

/// A pool call and what a relayer has to know of it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PoolCall {
    /// Which operation it is.
    pub operation: Operation,
    /// The call data as it came: what the proof's owner prepared is what is sent.
    pub data: Bytes,
    /// Who gets the fee.
    pub relayer: Address,
    /// The fee in base units.
    pub fee: U256,
    /// The last block timestamp at which the pool takes it, in Unix seconds.
    pub deadline: U256,
    /// What only one of all calls can use up: nullifiers, and a claim's commitment, so that the same claim does not wait twice. Claims and
    /// closes of one stream do not exclude each other (P5), nor do claims of successive windows; a window that was paid meanwhile shows
    /// when the call is simulated.
    pub exclusive: Vec<U256>,
    /// The commitments that it queues.
    pub commitments: Vec<U256>,
}

impl PoolCall {
    /// Decodes call data.
    ///
    /// # Errors
    /// [`RelayerError::UnknownCall`] for any other function, [`RelayerError::BadCall`] for arguments that do not decode or are not in
    /// their canonical encoding, [`RelayerError::TakesFromSender`] for a deposit from whoever sends it.
    pub fn decode(data: &Bytes) -> Result<Self, RelayerError> {
        use StreamPool::{claimCall, closeCall, transactCall, transactWithAuthorizationCall};
        let selector: [u8; 4] = data
            .get(..4)
            .and_then(|bytes| bytes.try_into().ok())
            .ok_or_else(|| RelayerError::UnknownCall { selector: format!("{data}") })?;
        match selector {
            transactCall::SELECTOR => {
                let call: transactCall = decode("transact", data)?;
                if !call.args.amountIn.is_zero() {
                    return Err(RelayerError::TakesFromSender { amount_in: call.args.amountIn });
                }
                Ok(Self::new(
                    Operation::Transact,
                    data,
                    &call.ext,
                    call.args.nullifiers.to_vec(),
                    call.args.commitments.to_vec(),
                ))
            }
            transactWithAuthorizationCall::SELECTOR => {
                let call: transactWithAuthorizationCall = decode("transactWithAuthorization", data)?;
                Ok(Self::new(
                    Operation::Transact,
                    data,
                    &call.ext,
                    call.args.nullifiers.to_vec(),
                    call.args.commitments.to_vec(),
                ))
            }
            closeCall::SELECTOR => {
                let call: closeCall = decode("close", data)?;
                Ok(Self::new(
                    Operation::Close,
                    data,
                    &call.ext,
                    vec![call.args.nullifier],
                    call.args.commitments.to_vec(),
                ))
            }
            claimCall::SELECTOR => {
                let call: claimCall = decode("claim", data)?;
                let commitment = vec![call.args.commitment];
                Ok(Self::new(Operation::Claim, data, &call.ext, commitment.clone(), commitment))
            }
            _ => Err(RelayerError::UnknownCall { selector: alloy::hex::encode_prefixed(selector) }),
        }
    }

    fn new(
        operation: Operation,
        data: &Bytes,
        ext: &StreamPool::Ext,
        exclusive: Vec<U256>,
        commitments: Vec<U256>,
    ) -> Self {
        Self {
            operation,
            data: data.clone(),
            relayer: ext.relayer,
            fee: ext.fee,
            deadline: ext.deadline,
            exclusive,
            commitments,
        }
    }
}

/// Decodes and encodes again: bytes that the decoder overlooks would let one transaction pass as two.
fn decode<C: SolCall>(call: &'static str, data: &Bytes) -> Result<C, RelayerError> {
    let decoded =
        C::abi_decode_validate(data).map_err(|error| RelayerError::BadCall { call, reason: error.to_string() })?;
    if decoded.abi_encode() != **data {
        return Err(RelayerError::BadCall { call, reason: "the encoding is not canonical".into() });
    }
    Ok(decoded)
}

/// The contract's error in words, or the raw data.
#[must_use]
pub fn revert_reason(data: &[u8]) -> String {
    StreamPool::StreamPoolErrors::abi_decode(data)
        .map_or_else(|_| alloy::hex::encode_prefixed(data), |error| format!("{error:?}"))
}

/// The name of an operation in messages.
#[must_use]
pub const fn operation_name(operation: Operation) -> &'static str {
    match operation {
        Operation::Transact => "transact",
        Operation::Close => "close",
        Operation::Claim => "claim",
    }
}
