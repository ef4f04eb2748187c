//! The bindings' shapes that other crates rely on.

use alloy::{
    primitives::U256,
    sol_types::{SolCall, SolError, SolEvent, SolInterface},
};
use tributary_bindings::{StreamPool, TestToken};

#[test]
fn calls_events_and_errors_of_the_pool_are_bound() {
    let args = StreamPool::ClaimArgs {
        proof: StreamPool::Proof { a: [U256::ZERO; 2], b: [[U256::ZERO; 2]; 2], c: [U256::ZERO; 2] },
        digest: U256::from(1),
        root: U256::from(2),
        amountOut: U256::from(3),
        commitment: U256::from(4),
        memo: StreamPool::SealedMemo { ex: U256::ZERO, ey: U256::ZERO, c0: U256::ZERO, c1: U256::ZERO, c2: U256::ZERO },
        lanes: std::array::from_fn(|_| StreamPool::ClaimLane { tag: U256::ZERO, until: U256::ZERO }),
    };
    let ext = StreamPool::Ext::default();
    let call = StreamPool::claimCall { args, ext };
    let data = call.abi_encode();
    // The digest follows the selector, the external data's offset is the last word of the head.
    assert_eq!(U256::from_be_slice(&data[4 + 8 * 32..4 + 9 * 32]), U256::from(1));
    assert_eq!(StreamPool::claimCall::abi_decode(&data).unwrap(), call);

    assert_eq!(StreamPool::Inserted::SIGNATURE, "Inserted(uint256,uint64)");
    let error = StreamPool::StreamPool_NullifierSpent { nullifier: U256::from(9) };
    let decoded = StreamPool::StreamPoolErrors::abi_decode(&error.abi_encode()).unwrap();
    assert_eq!(decoded, StreamPool::StreamPoolErrors::StreamPool_NullifierSpent(error));
    assert_eq!(TestToken::mintCall::SIGNATURE, "mint(address,uint256)");
}
