//! What becomes of what a relayer took.

use alloy::{
    eips::BlockNumberOrTag,
    network::TransactionBuilder,
    primitives::{B256, U256},
    providers::{Provider, ext::AnvilApi},
    rpc::types::TransactionRequest,
};
use tributary_relayer::{EngineConfig, RequestCounts, RequestState};
use tributary_wallet::{OperationStatus, SendTerms};

use crate::{
    desk::{CONFIG, Desk, FEE, NOBODY},
    net::{amount, confirmed},
};

async fn receipt(desk: &Desk, hash: B256) -> Option<alloy::rpc::types::TransactionReceipt> {
    desk.net.provider.get_transaction_receipt(hash).await.unwrap()
}

/// The transactions of the newest block in their order.
async fn newest_block(desk: &Desk) -> Vec<B256> {
    let block = desk.net.provider.get_block_by_number(BlockNumberOrTag::Latest).await.unwrap().unwrap();
    block.transactions.hashes().collect()
}

#[tokio::test(flavor = "multi_thread")]
async fn operation_and_insertion_go_in_one_call_and_the_fee_is_paid() {
    let desk = Desk::open().await;
    let transfer = desk.transfer().await;
    assert_eq!(desk.submit(1, &transfer, true).await.unwrap(), RequestState::Accepted);
    desk.turn().await;
    desk.turn().await;
    let RequestState::Confirmed { transaction, block, inserted: true } = desk.state(1).await else {
        panic!("{:?}", desk.state(1).await)
    };
    assert_eq!(receipt(&desk, transaction).await.unwrap().block_number, Some(block));
    assert_eq!((desk.sent().await, desk.earned().await), (1, FEE));
    desk.net.sync(&[&desk.payer, &desk.payee]).await;
    assert_eq!(desk.net.ledger.inserted(), desk.net.ledger.queued());
    assert_eq!(desk.payee.balance().await.unwrap().available, amount(1_000), "it can be spent at once");
    let operation = desk.payer.operation(transfer.operation).await.unwrap();
    assert!(matches!(operation.status, OperationStatus::Confirmed { .. }));

    // Asked for again, the answer is the same and nothing is sent.
    desk.net.mine(CONFIG.confirmations).await;
    desk.turn().await;
    assert!(desk.engine.store().unsettled().await.unwrap().is_empty(), "deep enough to be done with");
    let receipt = receipt(&desk, transaction).await.unwrap();
    let numbers = desk.engine.snapshot().await.unwrap();
    assert_eq!((numbers.settled, numbers.insertions, numbers.reverted, numbers.replaced), (1, 1, 0, 0));
    assert_eq!(
        (numbers.gas, numbers.gas_wei),
        (receipt.gas_used, u128::from(receipt.gas_used) * receipt.effective_gas_price)
    );
    assert_eq!(numbers.requests, RequestCounts { inserted: 1, ..RequestCounts::default() });
    assert!(matches!(desk.submit(1, &transfer, true).await.unwrap(), RequestState::Confirmed { .. }));
    desk.turn().await;
    assert_eq!(desk.sent().await, 1);
}

#[tokio::test(flavor = "multi_thread")]
async fn without_insertion_the_leaves_wait_until_they_are_old() {
    let desk = Desk::with(EngineConfig { insert_after: 600, ..CONFIG }).await;
    desk.submit(1, &desk.transfer().await, false).await.unwrap();
    desk.turn().await;
    desk.turn().await;
    assert!(matches!(desk.state(1).await, RequestState::Confirmed { inserted: false, .. }));
    assert_eq!(desk.net.ledger.queued(), desk.net.ledger.inserted() + 2);
    desk.clock.advance(599);
    desk.turn().await;
    assert_eq!(desk.sent().await, 1);
    desk.clock.advance(1);
    desk.turn().await;
    desk.turn().await;
    assert_eq!(desk.sent().await, 2);
    assert_eq!(desk.net.ledger.queued(), desk.net.ledger.inserted());
}

#[tokio::test(flavor = "multi_thread")]
async fn foreign_leaves_come_first_so_the_bundle_reverts_and_the_operation_goes_alone() {
    let desk = Desk::open().await;
    let (ours, foreign) = (desk.transfer().await, desk.transfer_on(SendTerms::default()).await);
    desk.submit(1, &ours, true).await.unwrap();
    desk.hold_blocks().await;
    desk.engine.turn().await.unwrap();
    let bundle = desk.pending(1).await;

    // Somebody pays more to be first in the block.
    let request = TransactionRequest::default()
        .with_from(desk.net.account(0))
        .with_to(desk.net.manifest.pool)
        .with_input(foreign.calldata.clone())
        .with_gas_limit(1_000_000)
        .with_max_fee_per_gas(500_000_000_000)
        .with_max_priority_fee_per_gas(100_000_000_000);
    let first = *desk.net.provider.send_transaction(request).await.unwrap().tx_hash();
    desk.mine().await;
    assert_eq!(newest_block(&desk).await, [first, bundle]);
    assert!(!receipt(&desk, bundle).await.unwrap().status(), "the bundle's insertion does not fit any more");
    assert_eq!(desk.earned().await, 0);

    // The next turn sees it and sends the operation alone, the one after that inserts what was paid for.
    desk.engine.turn().await.unwrap();
    let alone = desk.pending(1).await;
    assert_ne!(alone, bundle);
    desk.mine().await;
    desk.engine.turn().await.unwrap();
    assert!(matches!(desk.state(1).await, RequestState::Confirmed { inserted: false, .. }));
    assert_eq!(desk.earned().await, FEE);
    desk.mine().await;
    desk.engine.turn().await.unwrap();
    let RequestState::Confirmed { transaction, inserted: true, .. } = desk.state(1).await else {
        panic!("{:?}", desk.state(1).await)
    };
    assert_eq!(transaction, alone);
    assert_eq!(desk.net.ledger.queued(), desk.net.ledger.inserted());
    assert_eq!(desk.sent().await, 3);
    desk.net.check_books(&[&desk.payer, &desk.payee]).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn another_transaction_takes_the_nonce() {
    let desk = Desk::open().await;
    desk.submit(1, &desk.transfer().await, false).await.unwrap();
    desk.hold_blocks().await;
    desk.engine.turn().await.unwrap();
    let lost = desk.pending(1).await;
    let nonce = desk.sent().await;

    // The operator uses the account for something else meanwhile, at a higher price.
    let other = TransactionRequest::default()
        .with_from(desk.engine.account())
        .with_to(NOBODY)
        .with_value(U256::from(1))
        .with_nonce(nonce)
        .with_gas_limit(21_000)
        .with_max_fee_per_gas(500_000_000_000)
        .with_max_priority_fee_per_gas(100_000_000_000);
    let _ = desk.net.provider.send_transaction(other).await.unwrap();
    desk.mine().await;
    assert!(receipt(&desk, lost).await.is_none());

    // At the first look its receipt might just be late.
    desk.engine.turn().await.unwrap();
    assert_eq!(desk.pending(1).await, lost);
    desk.engine.turn().await.unwrap();
    let again = desk.pending(1).await;
    assert_ne!(again, lost);
    desk.mine().await;
    desk.engine.turn().await.unwrap();
    assert!(matches!(desk.state(1).await, RequestState::Confirmed { transaction, .. } if transaction == again));
    assert_eq!((desk.sent().await, desk.earned().await), (nonce + 2, FEE));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_stuck_transaction_is_sent_again_at_a_higher_price_and_counts_once() {
    let desk = Desk::open().await;
    desk.submit(1, &desk.transfer().await, false).await.unwrap();
    desk.hold_blocks().await;
    desk.engine.turn().await.unwrap();
    let first = desk.pending(1).await;

    // Blocks become dearer than it pays.
    desk.net.provider.anvil_set_next_block_base_fee_per_gas(50_000_000_000).await.unwrap();
    desk.mine().await;
    assert!(receipt(&desk, first).await.is_none());
    desk.clock.advance(CONFIG.replace_after - 1);
    desk.engine.turn().await.unwrap();
    assert_eq!(desk.pending(1).await, first, "not yet");
    desk.clock.advance(1);
    desk.engine.turn().await.unwrap();
    let second = desk.pending(1).await;
    assert_ne!(second, first);
    let versions = desk.engine.store().unsettled().await.unwrap();
    assert_eq!(versions.iter().map(|sent| (sent.nonce, sent.hash)).collect::<Vec<_>>(), [(0, first), (0, second)]);
    desk.mine().await;
    desk.engine.turn().await.unwrap();
    assert!(matches!(desk.state(1).await, RequestState::Confirmed { transaction, .. } if transaction == second));
    assert_eq!((desk.sent().await, desk.earned().await), (1, FEE));
    desk.net.mine(CONFIG.confirmations).await;
    desk.engine.turn().await.unwrap();
    assert!(desk.engine.store().unsettled().await.unwrap().is_empty(), "both versions are done with");
    let numbers = desk.engine.snapshot().await.unwrap();
    assert_eq!((numbers.replaced, numbers.settled, numbers.insertions), (1, 1, 0));
    assert_eq!(numbers.requests, RequestCounts { mined: 1, ..RequestCounts::default() });
}

#[tokio::test(flavor = "multi_thread")]
async fn a_transaction_is_not_replaced_at_any_price() {
    let desk = Desk::with(EngineConfig { max_gas_price: 40_000_000_000, ..CONFIG }).await;
    desk.submit(1, &desk.transfer().await, false).await.unwrap();
    desk.hold_blocks().await;
    desk.engine.turn().await.unwrap();
    let first = desk.pending(1).await;
    desk.net.provider.anvil_set_next_block_base_fee_per_gas(50_000_000_000).await.unwrap();
    desk.mine().await;
    desk.clock.advance(CONFIG.replace_after);
    desk.engine.turn().await.unwrap();
    assert_eq!(desk.pending(1).await, first, "it waits for blocks to become cheaper");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_reorganisation_takes_a_confirmed_transaction_back_and_it_is_sent_again() {
    let desk = Desk::open().await;
    desk.submit(1, &desk.transfer().await, true).await.unwrap();
    desk.turn().await;
    desk.turn().await;
    let RequestState::Confirmed { transaction, .. } = desk.state(1).await else { panic!() };
    desk.net.mine(2).await;
    desk.turn().await;

    desk.net.reorganise(3).await;
    assert_eq!((desk.sent().await, desk.earned().await), (0, 0), "as if it had never been");
    desk.hold_blocks().await;
    desk.engine.turn().await.unwrap();
    assert_eq!(desk.pending(1).await, transaction, "the very same transaction");
    desk.mine().await;
    desk.engine.turn().await.unwrap();
    assert!(matches!(desk.state(1).await, RequestState::Confirmed { inserted: true, .. }));
    assert_eq!((desk.sent().await, desk.earned().await), (1, FEE));
    desk.net.check_books(&[&desk.payer, &desk.payee]).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn somebody_else_sends_the_same_call_first() {
    let desk = Desk::open().await;
    let transfer = desk.transfer().await;
    desk.submit(1, &transfer, false).await.unwrap();
    confirmed(&desk.payer.submit(&transfer, &desk.net.direct(0)).await.unwrap());
    let theirs = newest_block(&desk).await[0];
    desk.turn().await;
    let state = desk.state(1).await;
    assert!(matches!(state, RequestState::Confirmed { transaction, .. } if transaction == theirs), "{state:?}");
    assert_eq!((desk.sent().await, desk.earned().await), (0, FEE), "paid all the same, without gas");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_request_whose_note_was_spent_otherwise_is_refused_when_its_turn_comes() {
    let desk = Desk::open().await;
    let transfer = desk.transfer().await;
    desk.submit(1, &transfer, false).await.unwrap();
    desk.payer.abandon(transfer.operation).await.unwrap();
    let other = desk.transfer_on(SendTerms::default()).await;
    assert!(other.nullifiers.iter().any(|nullifier| transfer.nullifiers.contains(nullifier)));
    confirmed(&desk.payer.submit(&other, &desk.net.direct(0)).await.unwrap());
    desk.turn().await;
    match desk.state(1).await {
        RequestState::Rejected { code, reason } => {
            assert_eq!(code, "reverts");
            assert!(reason.contains("NullifierSpent"), "{reason}");
        }
        other => panic!("{other:?}"),
    }
    assert_eq!(desk.sent().await, 0, "no gas was spent on it");
}
