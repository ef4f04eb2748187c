//! What a relayer refuses: each with its code, nothing stored, nothing sent.

use alloy::{
    primitives::{Bytes, U256},
    sol_types::SolCall,
};
use tributary_bindings::{StreamPool, TestToken};
use tributary_ledger::Clock as _;
use tributary_protocol::Operation;
use tributary_relayer::{EngineConfig, PoolCall, QuotedTerms, RelayerError, RequestState};
use tributary_wallet::{Intent, SendTerms};

use crate::{
    desk::{CONFIG, Desk, FEE, NOBODY, code, engine, key},
    net::{amount, confirmed, time},
};

/// Nothing of a refused request is left.
async fn nothing_stored(desk: &Desk) {
    assert!(desk.engine.store().accepted(10).await.unwrap().is_empty());
    desk.turn().await;
    assert_eq!(desk.sent().await, 0);
}

#[tokio::test(flavor = "multi_thread")]
async fn calls_that_are_none_of_a_relayers() {
    let desk = Desk::open().await;
    let good = desk.transfer().await.calldata;
    let approve = TestToken::approveCall { spender: NOBODY, value: U256::MAX }.abi_encode();
    assert_eq!(code(desk.submit_call(1, approve.into(), false).await), "unknown_call");
    assert_eq!(code(desk.submit_call(1, Bytes::new(), false).await), "unknown_call");
    let bundle = StreamPool::bundleCall { operation: good.clone(), insertions: vec![] }.abi_encode();
    assert_eq!(code(desk.submit_call(1, bundle.into(), false).await), "unknown_call");
    assert_eq!(code(desk.submit_call(1, good.slice(..good.len() - 1), false).await), "bad_call");
    // The pool would take it: bytes after the arguments change the transaction and not the call.
    let longer = Bytes::from([&good[..], &[0; 32]].concat());
    assert_eq!(code(desk.submit_call(1, longer, false).await), "bad_call");
    // Dirty upper bytes of an address, which the decoder must not overlook.
    let mut call = StreamPool::transactCall::abi_decode(&good).unwrap();
    call.ext.recipient = NOBODY;
    let mut dirty = call.abi_encode();
    let place = dirty.windows(20).position(|bytes| bytes == NOBODY.as_slice()).unwrap();
    dirty[place - 1] = 1;
    assert_eq!(code(desk.submit_call(1, dirty.into(), false).await), "bad_call");

    // The relayer's own tokens would be deposited.
    call.args.amountIn = U256::from(5);
    match desk.submit_call(1, call.abi_encode().into(), false).await {
        Err(RelayerError::TakesFromSender { amount_in }) => assert_eq!(amount_in, U256::from(5)),
        other => panic!("{other:?}"),
    }
    nothing_stored(&desk).await;
    assert_eq!(code(desk.engine.status(key(1)).await), "no_such_request");
}

#[tokio::test(flavor = "multi_thread")]
async fn calls_that_the_quote_does_not_cover() {
    let desk = Desk::open().await;
    let good = desk.transfer().await;
    let now = desk.clock.now();
    let quote = desk.quote(false);
    let submit = async |quote: QuotedTerms, operation, insertion, call: &Bytes| {
        desk.engine.submit(key(1), quote, operation, insertion, call.clone()).await
    };
    let transact = Operation::Transact;
    assert_eq!(code(submit(quote, Operation::Close, false, &good.calldata).await), "wrong_operation");
    assert_eq!(code(submit(quote, transact, true, &good.calldata).await), "quote_for_other");
    let other = QuotedTerms { operation: Operation::Claim, ..quote };
    assert_eq!(code(submit(other, transact, false, &good.calldata).await), "quote_for_other");
    // A proof takes a while, so a quote's end is not the last second; half a minute later it is.
    let old = QuotedTerms { valid_until: now - 31, ..quote };
    match submit(old, transact, false, &good.calldata).await {
        Err(RelayerError::QuoteExpired { valid_until, now: at }) => assert_eq!((valid_until, at), (now - 31, now)),
        other => panic!("{other:?}"),
    }
    let dearer = QuotedTerms { fee: FEE + 1, ..quote };
    match submit(dearer, transact, false, &good.calldata).await {
        Err(RelayerError::FeeTooLow { bound, quoted }) => {
            assert_eq!((bound, quoted), (U256::from(FEE), U256::from(FEE + 1)));
        }
        other => panic!("{other:?}"),
    }
    nothing_stored(&desk).await;
    let rejected = desk.engine.snapshot().await.unwrap().rejected;
    assert_eq!((rejected["quote_for_other"], rejected["wrong_operation"], rejected.values().sum()), (2, 1, 5u64));
    desk.payer.abandon(good.operation).await.unwrap();

    let elsewhere = desk.transfer_on(SendTerms { relayer: NOBODY, ..desk.terms() }).await;
    match submit(quote, transact, false, &elsewhere.calldata).await {
        Err(RelayerError::FeeBoundElsewhere { bound, expected }) => {
            assert_eq!((bound, expected), (NOBODY, desk.engine.account()));
        }
        other => panic!("{other:?}"),
    }
    desk.payer.abandon(elsewhere.operation).await.unwrap();

    let soon = desk.net.now().await + 9;
    let hasty = desk.transfer_on(SendTerms { deadline: Some(time(soon)), ..desk.terms() }).await;
    match submit(quote, transact, false, &hasty.calldata).await {
        Err(RelayerError::DeadlineTooNear { deadline, margin, .. }) => assert_eq!((deadline, margin), (soon, 10)),
        other => panic!("{other:?}"),
    }
    nothing_stored(&desk).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn calls_that_the_pool_refuses_or_that_do_not_pay() {
    let desk = Desk::open().await;
    let spent = desk.transfer().await;
    confirmed(&desk.payer.submit(&spent, &desk.net.direct(0)).await.unwrap());
    match desk.submit(1, &spent, false).await {
        Err(RelayerError::Reverts { reason }) => assert!(reason.contains("NullifierSpent"), "{reason}"),
        other => panic!("{other:?}"),
    }
    desk.net.insert().await;
    desk.payer.sync().await.unwrap();

    let good = desk.transfer().await;
    let with = async |config: EngineConfig| {
        let engine = engine(&desk.net, desk.net.provider.clone(), config, desk.clock.clone()).await;
        engine.submit(key(1), desk.quote(false), Operation::Transact, false, good.calldata.clone()).await
    };
    match with(EngineConfig { wei_per_base_unit: 1, ..CONFIG }).await {
        Err(RelayerError::DoesNotPay { worth, cost }) => {
            assert_eq!(worth, U256::from(FEE));
            assert!(cost > worth);
        }
        other => panic!("{other:?}"),
    }
    assert_eq!(code(with(EngineConfig { max_gas_price: 1, ..CONFIG }).await), "gas_too_dear");
    match with(EngineConfig { max_waiting: 0, ..CONFIG }).await {
        Err(RelayerError::Full { pending, max }) => assert_eq!((pending, max), (0, 0)),
        other => panic!("{other:?}"),
    }
    nothing_stored(&desk).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn one_key_is_one_call_and_one_nullifier_is_one_request() {
    let desk = Desk::open().await;
    let first = desk.transfer().await;
    assert_eq!(desk.submit(1, &first, false).await.unwrap(), RequestState::Accepted);
    assert_eq!(desk.submit(1, &first, false).await.unwrap(), RequestState::Accepted, "asked twice, taken once");
    assert_eq!(desk.engine.store().accepted(10).await.unwrap().len(), 1);
    assert_eq!(code(desk.submit(1, &first, true).await), "idempotency_key_reused");
    assert_eq!(code(desk.submit(2, &first, false).await), "nullifier_under_way");

    let other = desk.transfer().await;
    assert_ne!(first.nullifiers, other.nullifiers);
    assert_eq!(code(desk.submit(1, &other, false).await), "idempotency_key_reused");

    // The same note in another transaction.
    desk.payer.abandon(first.operation).await.unwrap();
    let again = desk.transfer().await;
    assert!(again.nullifiers.iter().any(|nullifier| first.nullifiers.contains(nullifier)));
    match desk.submit(2, &again, false).await {
        Err(RelayerError::NullifierUnderWay { nullifier }) => {
            let shared = first.nullifiers.iter().any(|known| {
                let known: U256 = (*known).into();
                nullifier == format!("{known:#066x}")
            });
            assert!(shared, "{nullifier}");
        }
        other => panic!("{other:?}"),
    }
    desk.turn().await;
    desk.turn().await;
    assert!(matches!(desk.state(1).await, RequestState::Confirmed { .. }));
    assert_eq!(desk.sent().await, 1);
}

#[tokio::test(flavor = "multi_thread")]
async fn the_same_claim_waits_once() {
    let desk = Desk::open().await;
    let stream = desk.net.stream_to(&desk.payee, 1_000, 20).await;
    let prepared = desk.payer.prepare_open(stream, SendTerms::default()).await.unwrap();
    desk.net.send(&desk.payer, 0, &prepared).await;
    desk.net.advance(300).await;
    desk.clock.set(desk.net.now().await);
    desk.net.sync(&[&desk.payee]).await;
    let claim = desk.payee.prepare_claim(desk.terms()).await.unwrap();
    let call = PoolCall::decode(&claim.calldata).unwrap();
    assert_eq!(call.exclusive, call.commitments);

    let quote = QuotedTerms { operation: Operation::Claim, ..desk.quote(false) };
    let submit =
        async |byte| desk.engine.submit(key(byte), quote, Operation::Claim, false, claim.calldata.clone()).await;
    assert_eq!(submit(1).await.unwrap(), RequestState::Accepted);
    assert_eq!(code(submit(2).await), "nullifier_under_way");
    desk.turn().await;
    desk.turn().await;
    assert!(matches!(desk.state(1).await, RequestState::Confirmed { .. }));
    assert_eq!(desk.earned().await, FEE);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_claim_and_a_close_of_one_stream_pass_each_other() {
    let desk = Desk::open().await;
    let stream = desk.net.stream_to(&desk.payee, 1_000, 20).await;
    let prepared = desk.payer.prepare_open(stream, SendTerms::default()).await.unwrap();
    desk.net.send(&desk.payer, 0, &prepared).await;
    desk.net.advance(300).await;
    desk.clock.set(desk.net.now().await);
    desk.net.sync(&[&desk.payer, &desk.payee]).await;
    let commitment = desk.payer.payer_streams(false).await.unwrap()[0].commitment;
    let claim = desk.payee.prepare_claim(desk.terms()).await.unwrap();
    let close = desk.payer.prepare(Intent::Close { stream: commitment }, desk.terms()).await.unwrap();

    let submit = async |byte, operation, call: &Bytes| {
        let quote = QuotedTerms { operation, ..desk.quote(true) };
        desk.engine.submit(key(byte), quote, operation, true, call.clone()).await
    };
    assert_eq!(submit(1, Operation::Close, &close.calldata).await.unwrap(), RequestState::Accepted);
    assert_eq!(submit(2, Operation::Claim, &claim.calldata).await.unwrap(), RequestState::Accepted);
    for _ in 0..3 {
        desk.turn().await;
    }
    for byte in [1, 2] {
        let state = desk.state(byte).await;
        assert!(matches!(state, RequestState::Confirmed { inserted: true, .. }), "{byte}: {state:?}");
    }
    assert_eq!(desk.earned().await, 2 * FEE);
    desk.net.check_books(&[&desk.payer, &desk.payee]).await;
    assert!(desk.payee.balance().await.unwrap().available > amount(0));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_finished_request_is_forgotten_in_time_and_a_waiting_one_never() {
    let desk = Desk::open().await;
    let (first, second) = (desk.transfer().await, desk.transfer().await);
    desk.submit(1, &first, false).await.unwrap();
    desk.turn().await;
    desk.net.mine(CONFIG.confirmations).await;
    desk.turn().await;
    desk.submit(2, &second, false).await.unwrap();

    let store = desk.engine.store();
    store.forget(desk.clock.now()).await.unwrap();
    assert!(matches!(desk.state(1).await, RequestState::Confirmed { .. }), "not old enough");
    store.forget(desk.clock.now() + 1).await.unwrap();
    assert_eq!(code(desk.engine.status(key(1)).await), "no_such_request");
    assert_eq!(desk.state(2).await, RequestState::Accepted);
}
