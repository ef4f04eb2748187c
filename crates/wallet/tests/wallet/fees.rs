//! Fees, deadlines, coin selection, claims of many streams.

use alloy::primitives::Address;
use tributary_wallet::{Intent, SendTerms};

use crate::net::{L, Net, amount, code, confirmed, refused_by_pool, time};

#[tokio::test(flavor = "multi_thread")]
async fn a_fee_is_paid_to_the_relayer_that_the_proof_names() {
    let net = Net::start().await;
    let (payer, payee) = (net.wallet(1).await, net.wallet(2).await);
    net.deposit(&payer, 0, 1_000_000).await;
    let relayer = net.account(3);
    let terms = SendTerms { relayer, fee: amount(500), deadline: None };
    let before = net.tokens(relayer).await;

    let prepared = payer.prepare(Intent::Transfer { to: payee.address(), amount: amount(1_000) }, terms).await.unwrap();
    net.send(&payer, 3, &prepared).await;
    let stream = net.stream_to(&payee, 10, 50).await;
    let prepared = payer.prepare_open(stream, terms).await.unwrap();
    // Whoever sends it, the relayer that the proof names is paid.
    net.send(&payer, 2, &prepared).await;
    let prepared =
        payer.prepare(Intent::Withdraw { recipient: net.account(5), amount: amount(2_000) }, terms).await.unwrap();
    net.send(&payer, 3, &prepared).await;
    assert_eq!(net.tokens(net.account(5)).await, 2_000, "the fee comes on top");
    assert_eq!(net.tokens(relayer).await, before + 1_500);
    assert_eq!(
        payer.balance().await.unwrap().available.get(),
        1_000_000 - 1_000 - 10 * 50 * u128::from(L) - 2_000 - 1_500
    );

    // A close pays from the refund, a claim from what accrued.
    let commitment = payer.payer_streams(false).await.unwrap()[0].commitment;
    net.advance(L).await;
    net.sync(&[&payer, &payee]).await;
    let prepared = payee.prepare_claim(SendTerms { fee: amount(100), ..terms }).await.unwrap();
    net.send(&payee, 3, &prepared).await;
    let prepared = payer.prepare(Intent::Close { stream: commitment }, terms).await.unwrap();
    net.send(&payer, 3, &prepared).await;
    assert_eq!(net.tokens(relayer).await, before + 2_100);
    net.check_books(&[&payer, &payee]).await;

    // Fees that eat everything.
    let dear = SendTerms { relayer, fee: amount(10_000_000), deadline: None };
    assert_eq!(code(payer.prepare(Intent::Deposit { amount: amount(5) }, dear).await), "TRB-3009");
    assert_eq!(
        code(payer.prepare(Intent::Transfer { to: payee.address(), amount: amount(5) }, dear).await),
        "TRB-3006"
    );
    net.advance(10).await;
    net.sync(&[&payee]).await;
    assert_eq!(code(payee.prepare_claim(dear).await), "TRB-3009");
    assert!(payer.operations().await.unwrap().iter().all(|op| op.latest.is_some()), "nothing stays reserved");
}

#[tokio::test(flavor = "multi_thread")]
async fn deadlines_keep_the_rules() {
    let net = Net::start().await;
    let (payer, payee) = (net.wallet(1).await, net.wallet(2).await);
    net.deposit(&payer, 0, 1_000_000).await;
    let now = net.now().await;
    let at = |deadline: u64| SendTerms { deadline: Some(time(deadline)), ..SendTerms::default() };
    let transfer = Intent::Transfer { to: payee.address(), amount: amount(5) };
    assert_eq!(code(payer.prepare(transfer.clone(), at(now - 1)).await), "TRB-3011");

    // An open: max(start, now) + 2 L at the latest.
    let stream = net.stream_to(&payee, 10, 50).await;
    let latest = now + 2 * L;
    assert_eq!(code(payer.prepare_open(stream, at(latest + 1)).await), "TRB-3011");
    let prepared = payer.prepare_open(stream, at(latest)).await.unwrap();
    net.mine_at(latest + 1).await;
    payer.sync().await.unwrap();
    let outcome = payer.submit(&prepared, &net.direct(0)).await.unwrap();
    assert_eq!(refused_by_pool(&outcome), "StreamPool_DeadlinePassed");
    payer.abandon(prepared.operation).await.unwrap();
    let prepared = payer.prepare_open(stream, SendTerms::default()).await.unwrap();
    assert!(prepared.external.deadline.get() <= net.now().await + 2 * L);
    net.send(&payer, 0, &prepared).await;

    // Streams begin and end on slots.
    let odd = tributary_wallet::OpenStream { start: time(stream.start.get() + 1), ..stream };
    assert_eq!(code(payer.prepare_open(odd, SendTerms::default()).await), "TRB-1502");
    let odd = tributary_wallet::OpenStream { end: stream.start, ..stream };
    assert_eq!(code(payer.prepare_open(odd, SendTerms::default()).await).split_at(6).0, "TRB-13");

    // A close: not later than its stop less the notice.
    let commitment = payer.payer_streams(false).await.unwrap()[0].commitment;
    let close = Intent::Close { stream: commitment };
    assert_eq!(code(payer.prepare(close.clone(), at(net.now().await + 4 * L)).await), "TRB-3011");
    let prepared = payer.prepare(close, SendTerms::default()).await.unwrap();
    let deadline = prepared.external.deadline.get();
    net.provider_next_block_at(deadline).await;
    confirmed(&payer.submit(&prepared, &net.direct(0)).await.unwrap());
    payer.sync().await.unwrap();
    let stop = payer.payer_stream(commitment).await.unwrap().record.stop.unwrap();
    assert_eq!(stop.get(), deadline + crate::net::NOTICE, "mined in the last second of its deadline");

    assert_eq!(
        code(payer.prepare(Intent::Transfer { to: payee.address(), amount: amount(0) }, SendTerms::default()).await),
        "TRB-3010"
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn notes_are_chosen_merged_and_run_out() {
    let net = Net::start().await;
    let wallet = net.wallet(1).await;
    for value in [100, 200, 400] {
        net.deposit(&wallet, 0, value).await;
    }
    let recipient = net.account(5);
    let withdraw = |value| Intent::Withdraw { recipient, amount: amount(value) };
    assert_eq!(code(wallet.prepare(withdraw(701), SendTerms::default()).await), "TRB-3006");
    let error = wallet.prepare(withdraw(650), SendTerms::default()).await.unwrap_err();
    assert!(
        matches!(
            &error,
            tributary_wallet::WalletError::TooManyNotes { needed, reachable, available, inputs: 2 }
                if (needed.get(), reachable.get(), available.get()) == (650, 600, 700)
        ),
        "{error:?}"
    );
    net.run(&wallet, 0, Intent::Merge).await;
    net.run(&wallet, 0, withdraw(650)).await;
    assert_eq!(wallet.balance().await.unwrap().available, amount(50));
    assert_eq!(code(wallet.prepare(Intent::Merge, SendTerms::default()).await), "TRB-3008");
    let refused =
        wallet.prepare(Intent::Withdraw { recipient: Address::ZERO, amount: amount(1) }, SendTerms::default()).await;
    assert_eq!(code(refused).split_at(6).0, "TRB-17", "nobody is paid at the zero address");
    assert_eq!(wallet.balance().await.unwrap().available, amount(50), "nothing stays reserved");

    // Two operations at once take different notes.
    net.deposit(&wallet, 0, 60).await;
    let (a, b) = tokio::join!(
        wallet.prepare(withdraw(40), SendTerms::default()),
        wallet.prepare(withdraw(45), SendTerms::default())
    );
    let (a, b) = (a.unwrap(), b.unwrap());
    assert!(a.nullifiers.iter().all(|nf| !b.nullifiers.contains(nf)));
    net.send(&wallet, 0, &a).await;
    net.send(&wallet, 0, &b).await;
    assert_eq!(net.tokens(recipient).await, 650 + 85);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_claim_takes_sixteen_streams_and_the_next_the_rest() {
    let net = Net::start().await;
    let (payer, payee) = (net.wallet(1).await, net.wallet(2).await);
    net.deposit(&payer, 0, 100_000_000).await;
    for n in 1..=18 {
        let stream = net.stream_to(&payee, n, 60).await;
        let prepared = payer.prepare_open(stream, SendTerms::default()).await.unwrap();
        net.send(&payer, 0, &prepared).await;
    }
    net.advance(2 * L).await;
    net.sync(&[&payer, &payee]).await;
    let first = payee.prepare_claim(SendTerms::default()).await.unwrap();
    assert_eq!(first.tags.len(), 16);
    // A second claim, before the first is mined, has only what the first left.
    let second = payee.prepare_claim(SendTerms::default()).await.unwrap();
    assert_eq!(second.tags.len(), 2);
    assert_eq!(code(payee.prepare_claim(SendTerms::default()).await), "TRB-3016");
    // P5: a close in between harms neither.
    let closed = payer.payer_streams(false).await.unwrap()[3].commitment;
    net.run(&payer, 0, Intent::Close { stream: closed }).await;
    net.send(&payee, 1, &second).await;
    net.send(&payee, 1, &first).await;
    net.check_books(&[&payer, &payee]).await;
    let streams = payee.payee_streams(false).await.unwrap();
    assert_eq!(streams.len(), 18);
    assert!(streams.iter().all(|stream| stream.record.claimed_until.get() > 0));
    // The same claim again has nothing new.
    let outcome = net.direct(1).call(net.manifest.pool, first.calldata.clone()).await;
    assert_eq!(refused_by_pool(&outcome), "StreamPool_WindowEmpty");
    // Claimed streams can be claimed again at once.
    net.advance(L).await;
    payee.sync().await.unwrap();
    let third = payee.prepare_claim(SendTerms::default()).await.unwrap();
    assert_eq!(third.tags.len(), 16);
    net.send(&payee, 1, &third).await;
    net.check_books(&[&payer, &payee]).await;
}
