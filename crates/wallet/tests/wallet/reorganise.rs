//! The chain is replaced, three blocks deep, after each step of a stream's life.

use tributary_protocol::UnixTime;
use tributary_wallet::{Balance, Intent, OperationStatus, PreparedTransaction, SendTerms, StreamState, Wallet};

use crate::net::{L, Net, amount, confirmed};

/// What both wallets see, apart from what time alone changes.
async fn picture(wallets: &[&Wallet]) -> Vec<String> {
    let mut text = Vec::new();
    for wallet in wallets {
        wallet.sync().await.unwrap();
        let Balance { available, queued, reserved, .. } = wallet.balance().await.unwrap();
        text.push(format!("{available} {queued} {reserved}"));
        for stream in wallet.payer_streams(true).await.unwrap() {
            // One whose transaction is gone is remembered, as missing.
            if stream.state == StreamState::Missing {
                continue;
            }
            text.push(format!("{} {:?} {:?}", stream.commitment, stream.position, stream.record));
        }
        for stream in wallet.payee_streams(true).await.unwrap() {
            if stream.state == StreamState::Missing {
                continue;
            }
            text.push(format!("{} {:?} {:?}", stream.commitment, stream.position, stream.record));
        }
    }
    text
}

/// Sends, sees it on chain; the chain forgets it, and so do the wallets; sends the very same transaction again.
async fn through_a_reorganisation(
    net: &Net,
    wallets: &[&Wallet],
    wallet: &Wallet,
    n: usize,
    prepared: &PreparedTransaction,
) {
    let before = picture(wallets).await;
    confirmed(&wallet.submit(prepared, &net.direct(n)).await.unwrap());
    net.mine(2).await;
    let during = picture(wallets).await;
    assert_ne!(before, during, "{}", prepared.kind);
    let status = wallet.operation(prepared.operation).await.unwrap().status;
    assert!(matches!(status, OperationStatus::Confirmed { depth: 3, .. }), "{}: {status:?}", prepared.kind);
    net.check_books(wallets).await;

    net.reorganise(3).await;
    let report = net.ledger.sync().await.unwrap();
    assert_eq!(report.rolled_back, 3);
    assert_eq!(picture(wallets).await, before, "{}: as if it had never been", prepared.kind);
    let status = wallet.operation(prepared.operation).await.unwrap().status;
    assert_eq!(status, OperationStatus::Sent, "{}", prepared.kind);
    net.check_books(wallets).await;

    confirmed(&wallet.submit(prepared, &net.direct(n)).await.unwrap());
    assert_eq!(picture(wallets).await, during, "{}: and again", prepared.kind);
    net.check_books(wallets).await;

    // The insertion is taken back as well.
    let queued = net.ledger.inserted();
    net.insert().await;
    net.mine(2).await;
    net.reorganise(3).await;
    net.ledger.sync().await.unwrap();
    assert_eq!(net.ledger.inserted(), queued);
    net.insert().await;
    net.check_books(wallets).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn each_step_survives_a_reorganisation_of_depth_three() {
    let net = Net::start().await;
    let (payer, payee) = (net.wallet(1).await, net.wallet(2).await);
    let both = [&payer, &payee];
    let step = async |wallet: &Wallet, n, prepared: PreparedTransaction| {
        through_a_reorganisation(&net, &both, wallet, n, &prepared).await;
    };
    let direct = SendTerms::default();

    let (token, pool) = (net.manifest.token.address, net.manifest.pool);
    tributary_wallet::approve(&net.provider, token, pool, net.account(0), amount(1_000_000)).await.unwrap();
    net.mine(3).await; // the approval stays
    step(&payer, 0, payer.prepare(Intent::Deposit { amount: amount(1_000_000) }, direct).await.unwrap()).await;
    step(&payer, 0, payer.prepare(Intent::Transfer { to: payee.address(), amount: amount(5) }, direct).await.unwrap())
        .await;
    let stream = net.stream_to(&payee, 100, 30).await;
    step(&payer, 0, payer.prepare_open(stream, direct).await.unwrap()).await;
    net.advance(L).await;
    net.sync(&both).await;
    step(&payee, 1, payee.prepare_claim(direct).await.unwrap()).await;
    let opened = payer.payer_streams(false).await.unwrap()[0].commitment;
    let end = UnixTime::new(net.now().await / L * L + 40 * L).unwrap();
    let reopen =
        Intent::Reopen { stream: opened, payee: payee.address(), rate: crate::net::rate(150), end, offer: None };
    step(&payer, 0, payer.prepare(reopen, direct).await.unwrap()).await;
    let streams = payer.payer_streams(false).await.unwrap();
    assert_eq!(streams.len(), 2);
    let (old, new) = (&streams[0], &streams[1]);
    assert_eq!(old.record.stop, Some(new.note.terms.start()), "the new stream begins where the old one stops");
    step(&payer, 0, payer.prepare(Intent::Close { stream: new.commitment }, direct).await.unwrap()).await;
    let left = payer.balance().await.unwrap().available;
    step(
        &payer,
        0,
        payer.prepare(Intent::Withdraw { recipient: net.account(5), amount: amount(1) }, direct).await.unwrap(),
    )
    .await;
    assert_eq!(payer.balance().await.unwrap().available.get(), left.get() - 1);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_note_made_in_a_block_that_is_gone_is_not_spent() {
    let net = Net::start().await;
    let payer = net.wallet(1).await;
    let (token, pool) = (net.manifest.token.address, net.manifest.pool);
    tributary_wallet::approve(&net.provider, token, pool, net.account(0), amount(1_000)).await.unwrap();
    net.mine(3).await;
    let prepared = payer.prepare(Intent::Deposit { amount: amount(1_000) }, SendTerms::default()).await.unwrap();
    confirmed(&payer.submit(&prepared, &net.direct(0)).await.unwrap());
    net.insert().await;
    payer.sync().await.unwrap();
    let intent = Intent::Withdraw { recipient: net.account(5), amount: amount(1_000) };
    let withdrawal = payer.prepare(intent.clone(), SendTerms::default()).await.unwrap();
    net.reorganise(3).await;
    payer.sync().await.unwrap();
    assert_eq!(crate::net::code(payer.prepare(intent, SendTerms::default()).await), "TRB-3006");
    let outcome = payer.submit(&withdrawal, &net.direct(1)).await.unwrap();
    assert_eq!(crate::net::refused_by_pool(&outcome), "StreamPool_RootUnknown");
    // Proved again after everything was mined again, it goes through.
    confirmed(&payer.submit(&prepared, &net.direct(0)).await.unwrap());
    net.insert().await;
    payer.sync().await.unwrap();
    let again = payer.prepare_again(withdrawal.operation, SendTerms::default()).await.unwrap();
    assert_eq!(again.nullifiers[0], withdrawal.nullifiers[0]);
    net.send(&payer, 1, &again).await;
    assert_eq!(net.tokens(net.account(5)).await, 1_000);
}
