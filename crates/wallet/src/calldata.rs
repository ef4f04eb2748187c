//! Statements and proofs as calls of the pool.

use alloy::{
    primitives::{B256, Bytes, U256},
    sol_types::SolCall,
};
use tributary_bindings::StreamPool;
use tributary_protocol::{
    ClaimStatement, CloseStatement, ExternalData, FieldElement, Fr, InsertStatement, SealedMemo, Statement,
    TransactStatement,
    statement::{CLAIM_LANES, SealedOutput},
};

/// How tokens come into the pool.
#[derive(Clone, Debug)]
pub(crate) enum TokensFrom {
    /// From the sender, who has approved them.
    Sender,
    /// From the sender, by EIP-2612.
    Permit(StreamPool::Permit),
    /// From the signer, by EIP-3009.
    Authorization(StreamPool::Authorization),
}

fn proof(bytes: &[u8; 256]) -> StreamPool::Proof {
    let word = |i: usize| {
        let mut word = [0; 32];
        word.copy_from_slice(&bytes[32 * i..32 * (i + 1)]);
        U256::from_be_bytes(word)
    };
    StreamPool::Proof { a: [word(0), word(1)], b: [[word(2), word(3)], [word(4), word(5)]], c: [word(6), word(7)] }
}

fn memo(memo: &SealedMemo) -> StreamPool::SealedMemo {
    let [ex, ey, c0, c1, c2] = memo.elements().map(|e: Fr| e.to_u256());
    StreamPool::SealedMemo { ex, ey, c0, c1, c2 }
}

fn external(data: &ExternalData) -> StreamPool::Ext {
    StreamPool::Ext {
        recipient: data.terms.recipient,
        relayer: data.terms.relayer,
        fee: data.terms.fee.into(),
        deadline: data.terms.deadline.into(),
        mayDropOutputs: data.terms.may_drop_outputs,
        memo: data.memo_bytes(),
    }
}

fn commitments(outputs: &[SealedOutput; 2]) -> [U256; 2] {
    [outputs[0].commitment.into(), outputs[1].commitment.into()]
}

pub(crate) fn transact(
    statement: &TransactStatement,
    data: &ExternalData,
    bytes: &[u8; 256],
    from: TokensFrom,
) -> Bytes {
    let args = StreamPool::TransactArgs {
        proof: proof(bytes),
        digest: statement.digest().to_u256(),
        root: statement.root.into(),
        amountIn: statement.amount_in.into(),
        amountOut: statement.amount_out.into(),
        nullifiers: [statement.nullifiers[0].into(), statement.nullifiers[1].into()],
        commitments: commitments(&statement.outputs),
        memos: [memo(&statement.outputs[0].memo), memo(&statement.outputs[1].memo)],
    };
    let ext = external(data);
    match from {
        TokensFrom::Sender => StreamPool::transactCall { args, ext }.abi_encode(),
        TokensFrom::Permit(permit) => StreamPool::transactWithPermitCall { args, ext, permit }.abi_encode(),
        TokensFrom::Authorization(authorization) => {
            StreamPool::transactWithAuthorizationCall { args, ext, authorization }.abi_encode()
        }
    }
    .into()
}

pub(crate) fn close(statement: &CloseStatement, data: &ExternalData, bytes: &[u8; 256]) -> Bytes {
    let args = StreamPool::CloseArgs {
        proof: proof(bytes),
        digest: statement.digest().to_u256(),
        root: statement.root.into(),
        tag: statement.tag.into(),
        stop: statement.stop.into(),
        amountOut: statement.amount_out.into(),
        nullifier: statement.nullifier.into(),
        commitments: commitments(&statement.outputs),
        memos: [memo(&statement.outputs[0].memo), memo(&statement.outputs[1].memo)],
    };
    StreamPool::closeCall { args, ext: external(data) }.abi_encode().into()
}

pub(crate) fn claim(statement: &ClaimStatement, data: &ExternalData, bytes: &[u8; 256]) -> Bytes {
    let empty = || StreamPool::ClaimLane { tag: U256::ZERO, until: U256::ZERO };
    let mut lanes: [StreamPool::ClaimLane; CLAIM_LANES] = std::array::from_fn(|_| empty());
    for (lane, window) in lanes.iter_mut().zip(&statement.lanes) {
        *lane = StreamPool::ClaimLane { tag: window.tag.into(), until: window.t1.into() };
    }
    let args = StreamPool::ClaimArgs {
        proof: proof(bytes),
        digest: statement.digest().to_u256(),
        root: statement.root.into(),
        amountOut: statement.amount_out.into(),
        commitment: statement.output.commitment.into(),
        memo: memo(&statement.output.memo),
        lanes,
    };
    StreamPool::claimCall { args, ext: external(data) }.abi_encode().into()
}

pub(crate) fn insert(statement: &InsertStatement, from: u64, bytes: &[u8; 256]) -> StreamPool::InsertArgs {
    StreamPool::InsertArgs {
        proof: proof(bytes),
        digest: statement.digest().to_u256(),
        oldRoot: statement.old_root.into(),
        newRoot: statement.new_root.into(),
        from: U256::from(from),
        leaves: statement.leaves.iter().map(|leaf| leaf.to_u256()).collect(),
    }
}

/// The nonce of a deposit by EIP-3009: alpha before reduction.
pub(crate) fn authorization_nonce(statement: &TransactStatement) -> B256 {
    statement.binding_hash()
}
