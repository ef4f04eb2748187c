//! `tributary wallet`, `deposit`, `streams`, `close`, `claim`, `withdraw`, `insert`, `books`.

use std::time::{Duration, Instant};

use alloy::{
    network::EthereumWallet,
    primitives::{Address, U256},
    providers::{DynProvider, Provider as _, ProviderBuilder},
};
use serde_json::json;
use tributary_bindings::{IERC20Metadata, TokenInfo};
use tributary_client::Buyer;
use tributary_ledger::{EventSeq, PoolEvent};
use tributary_protocol::{Amount, UnixTime};
use tributary_prover::Circuit;
use tributary_wallet::{
    DepositFrom, DirectConfig, DirectSubmitter, Intent, Outcome, PreparedTransaction, SendTerms, StreamState,
    Submitter, Wallet as PoolWallet, prove_insertions, sign_permit,
};

use crate::{
    args::{Claim, Close, Deposit, Wallet, Withdraw},
    commands::relayer::amount,
    context::Context,
    error::CliError,
    output::{Fields, parse_tokens, table, tokens},
};

/// Batches of insertions that one command makes.
const MAX_BATCHES: usize = 8;

pub(crate) async fn run(context: &Context, command: &Wallet) -> Result<(), CliError> {
    let _lock = context.lock()?;
    let wallet = context.wallet(&[]).await?;
    let token = &wallet.ledger().manifest().token;
    match command {
        Wallet::Address => {
            let address = wallet.address().to_string();
            context.format.emit(&address, &json!({ "address": address }));
        }
        Wallet::Balance => {
            let balance = wallet.balance().await?;
            let show = |amount: Amount| tokens(amount.get(), token.decimals, &token.symbol);
            let text = Fields::new()
                .row("available", show(balance.available))
                .row("not in the tree yet", show(balance.queued))
                .row("reserved by pending operations", show(balance.reserved))
                .row("in streams", show(balance.in_streams))
                .row("  accrued to payees", show(balance.accrued))
                .row("  at risk if closed now", show(balance.at_risk))
                .row("  refundable", show(balance.refundable))
                .row("claimable", show(balance.claimable))
                .row("to come", show(balance.to_come))
                .text();
            context.format.emit(&text, &serde_json::to_value(balance).unwrap_or_default());
        }
        Wallet::Notes => {
            let operations = wallet.operations().await?;
            let rows = operations
                .iter()
                .map(|operation| {
                    vec![
                        operation.id.to_string(),
                        operation.intent.kind().to_string(),
                        format!("{:?}", operation.status),
                    ]
                })
                .collect::<Vec<_>>();
            let text = if rows.is_empty() {
                "no pending operations".into()
            } else {
                table(&["operation", "kind", "status"], &rows)
            };
            context.format.emit(&text, &json!({ "operations": operations }));
        }
    }
    Ok(())
}

/// A provider that signs with the keystore's account.
fn account(context: &Context) -> Result<(DynProvider, Address), CliError> {
    let signer = context.signer()?;
    let address = signer.address();
    let url =
        context.config.chain.rpc.parse().map_err(|_| CliError::BadUrl { url: context.config.chain.rpc.clone() })?;
    Ok((ProviderBuilder::new().wallet(EthereumWallet::from(signer)).connect_http(url).erased(), address))
}

/// A submitter that sends from the keystore's account.
pub(crate) fn direct(context: &Context) -> Result<DirectSubmitter, CliError> {
    let (provider, address) = account(context)?;
    Ok(DirectSubmitter::new(provider, address, DirectConfig::default()))
}

/// The highest fee that may be paid to a relayer.
pub(crate) fn max_fee(context: &Context) -> Result<Amount, CliError> {
    amount("buyer.max_relay_fee", &context.config.buyer.max_relay_fee)
}

pub(crate) async fn deposit(context: &Context, args: &Deposit) -> Result<(), CliError> {
    let _lock = context.lock()?;
    let wallet = context.wallet(&[Circuit::Transact]).await?;
    let token = wallet.ledger().manifest().token.clone();
    let amount = amount_of(&args.amount, &token)?;
    let (provider, account) = account(context)?;
    let pool = wallet.ledger().pool();
    let until = UnixTime::new(wallet.now()?.get() + 3600)?;
    let signer = context.signer()?;
    let permit = sign_permit(&provider, token.address, pool.address, &signer, amount, until).await?;
    let started = Instant::now();
    let prepared = wallet.prepare_deposit(amount, DepositFrom::Permit(&permit), SendTerms::default()).await?;
    let proving = started.elapsed();
    let submitter = DirectSubmitter::new(provider, account, DirectConfig::default());
    let outcome = wallet.submit(&prepared, &submitter).await?;
    let done = settled(&outcome)?;
    let gas = gas_used(context, &done).await;
    let text = format!(
        "deposited {} from {account} (public) in {}: proof {} ms, gas {gas}",
        tokens(amount.get(), token.decimals, &token.symbol),
        done.transaction,
        proving.as_millis()
    );
    context.format.emit(
        &text,
        &json!({ "amount": amount.get().to_string(), "transaction": done.transaction, "block": done.block, "prove_ms": proving.as_millis() as u64, "gas": gas }),
    );
    Ok(())
}

pub(crate) async fn streams(context: &Context) -> Result<(), CliError> {
    let _lock = context.lock()?;
    let wallet = context.wallet(&[]).await?;
    let token = wallet.ledger().manifest().token.clone();
    let show = |amount: Amount| tokens(amount.get(), token.decimals, &token.symbol);
    let mut rows = Vec::new();
    let mut values = Vec::new();
    for (number, stream) in wallet.payer_streams(true).await?.iter().enumerate() {
        let terms = &stream.note.terms;
        rows.push(vec![
            number.to_string(),
            "pays".into(),
            format!("{:?}", stream.state).to_lowercase(),
            terms.rate().get().to_string(),
            show(terms.deposit()),
            show(stream.accrued),
            show(stream.at_risk),
            show(stream.refundable),
        ]);
        values.push(json!({
            "number": number, "role": "payer", "state": format!("{:?}", stream.state).to_lowercase(),
            "rate": terms.rate().get().to_string(), "start": terms.start().get(), "end": terms.end().get(),
            "deposit": terms.deposit().get().to_string(), "accrued": stream.accrued.get().to_string(),
            "at_risk": stream.at_risk.get().to_string(), "refundable": stream.refundable.get().to_string(),
        }));
    }
    for (number, stream) in wallet.payee_streams(true).await?.iter().enumerate() {
        let terms = &stream.note.terms;
        rows.push(vec![
            number.to_string(),
            "is paid".into(),
            format!("{:?}", stream.state).to_lowercase(),
            terms.rate().get().to_string(),
            show(terms.deposit()),
            show(stream.claimable),
            String::new(),
            String::new(),
        ]);
        values.push(json!({
            "number": number, "role": "payee", "state": format!("{:?}", stream.state).to_lowercase(),
            "rate": terms.rate().get().to_string(), "start": terms.start().get(), "end": terms.end().get(),
            "deposit": terms.deposit().get().to_string(), "claimable": stream.claimable.get().to_string(),
        }));
    }
    let text = if rows.is_empty() {
        "no streams".into()
    } else {
        table(&["no.", "this wallet", "state", "rate", "deposit", "accrued", "at risk", "refundable"], &rows)
    };
    context.format.emit(&text, &json!({ "streams": values }));
    Ok(())
}

pub(crate) async fn close(context: &Context, args: &Close) -> Result<(), CliError> {
    let _lock = context.lock()?;
    let buyer = context.buyer().await?;
    let wallet = buyer.wallet();
    let number = usize::try_from(args.stream).unwrap_or(usize::MAX);
    let stream =
        wallet.payer_streams(true).await?.into_iter().nth(number).ok_or_else(|| CliError::Input {
            reason: format!("there is no stream {number}: see `tributary streams`"),
        })?;
    let before = wallet.balance().await?;
    let sent = send(context, &buyer, Intent::Close { stream: stream.commitment }, args.direct).await?;
    wallet.sync().await?;
    let after = wallet.balance().await?;
    let token = &wallet.ledger().manifest().token;
    let back =
        (after.available.get() + after.queued.get()).saturating_sub(before.available.get() + before.queued.get());
    let text = format!(
        "closed stream {number} in {}: proof {} ms, gas {}, fee {}, back (less the fee) {}",
        sent.done.transaction,
        sent.prove_ms,
        sent.gas,
        tokens(sent.fee, token.decimals, &token.symbol),
        tokens(back, token.decimals, &token.symbol)
    );
    context.format.emit(&text, &sent.json(json!({ "stream": number, "back": back.to_string() })));
    buyer.node().shutdown().await;
    Ok(())
}

pub(crate) async fn claim(context: &Context, args: &Claim) -> Result<(), CliError> {
    let _lock = context.lock()?;
    let buyer = context.buyer_for(&[Circuit::Claim]).await?;
    let wallet = buyer.wallet();
    if let Some(least) = &args.least {
        let least = amount_of(least, &wallet.ledger().manifest().token)?;
        wait_for_claimable(wallet, least, Duration::from_secs(args.wait)).await?;
    }
    let streams = wallet.worth_claiming().await?;
    let count = streams.len();
    let before = wallet.balance().await?;
    let sent = send(context, &buyer, Intent::Claim { streams }, args.direct).await?;
    wallet.sync().await?;
    let after = wallet.balance().await?;
    let token = &wallet.ledger().manifest().token;
    let got = (after.available.get() + after.queued.get()).saturating_sub(before.available.get() + before.queued.get());
    let text = format!(
        "claimed {count} streams in {}: proof {} ms, gas {}, fee {}, received {}",
        sent.done.transaction,
        sent.prove_ms,
        sent.gas,
        tokens(sent.fee, token.decimals, &token.symbol),
        tokens(got, token.decimals, &token.symbol)
    );
    context.format.emit(&text, &sent.json(json!({ "streams": count, "received": got.to_string() })));
    buyer.node().shutdown().await;
    Ok(())
}

/// Waits, block by block, until `least` can be claimed.
async fn wait_for_claimable(wallet: &PoolWallet, least: Amount, limit: Duration) -> Result<(), CliError> {
    let mut poll = tokio::time::interval(Duration::from_millis(500));
    let mut claimable = Amount::ZERO;
    let enough = async {
        loop {
            poll.tick().await;
            wallet.sync().await?;
            claimable = wallet.balance().await?.claimable;
            if claimable >= least {
                return Ok(());
            }
        }
    };
    let waited = tokio::time::timeout(limit, enough).await;
    waited.unwrap_or_else(|_| {
        Err(CliError::Input {
            reason: format!(
                "{} base units can be claimed after {} s, {} were wanted: wait longer or claim less",
                claimable.get(),
                limit.as_secs(),
                least.get()
            ),
        })
    })
}

pub(crate) async fn withdraw(context: &Context, args: &Withdraw) -> Result<(), CliError> {
    let _lock = context.lock()?;
    let buyer = context.buyer().await?;
    let wallet = buyer.wallet();
    let token = wallet.ledger().manifest().token.clone();
    let recipient: Address = args
        .recipient
        .parse()
        .map_err(|_| CliError::Input { reason: format!("'{}' is no Ethereum address", args.recipient) })?;
    let amount = if args.amount == "all" {
        let fee = if args.direct { 0 } else { relay_fee(&buyer, max_fee(context)?) };
        Amount::new(wallet.balance().await?.available.get().saturating_sub(fee))?
    } else {
        amount_of(&args.amount, &token)?
    };
    let sent = send(context, &buyer, Intent::Withdraw { recipient, amount }, args.direct).await?;
    let text = format!(
        "withdrew {} to {recipient} (public) in {}: proof {} ms, gas {}, fee {}",
        tokens(amount.get(), token.decimals, &token.symbol),
        sent.done.transaction,
        sent.prove_ms,
        sent.gas,
        tokens(sent.fee, token.decimals, &token.symbol)
    );
    context.format.emit(&text, &sent.json(json!({ "amount": amount.get().to_string(), "recipient": recipient })));
    buyer.node().shutdown().await;
    Ok(())
}

/// The dearest fee among the relayers that may be chosen: what `all` must leave.
fn relay_fee(buyer: &Buyer, limit: Amount) -> u128 {
    use tributary_market::relay::RelayOperation;
    buyer
        .relayers()
        .iter()
        .filter_map(|relayer| relayer.fee(RelayOperation::Transact, true))
        .filter(|fee| *fee <= limit)
        .map(Amount::get)
        .max()
        .unwrap_or(0)
}

pub(crate) async fn insert(context: &Context) -> Result<(), CliError> {
    let _lock = context.lock()?;
    let wallet = context.wallet(&[Circuit::Insert]).await?;
    let ledger = wallet.ledger();
    let waiting = ledger.queued() - ledger.inserted();
    if waiting == 0 {
        context.format.emit("all leaves are in the tree", &json!({ "inserted": 0 }));
        return Ok(());
    }
    let started = Instant::now();
    let insertions = prove_insertions(ledger, wallet.prover(), MAX_BATCHES).await?;
    let proving = started.elapsed();
    let outcome = direct(context)?.insert(ledger.pool().address, &insertions).await;
    let done = settled(&outcome)?;
    let gas = gas_used(context, &done).await;
    let text = format!(
        "inserted {waiting} leaves in {}: {} proofs in {} ms, gas {gas}",
        done.transaction,
        insertions.len(),
        proving.as_millis()
    );
    context.format.emit(
        &text,
        &json!({ "inserted": waiting, "transaction": done.transaction, "prove_ms": proving.as_millis() as u64, "gas": gas }),
    );
    Ok(())
}

/// What of the pool's balance this wallet can account for. Over all wallets the parts sum to the balance: notes, what streams have not paid
/// yet (counted by the payer), and what claims burnt (counted by the payee).
pub(crate) async fn books(context: &Context) -> Result<(), CliError> {
    let _lock = context.lock()?;
    let wallet = context.wallet(&[]).await?;
    let ledger = wallet.ledger();
    let balance = wallet.balance().await?;
    let notes = balance.available.get() + balance.queued.get() + balance.reserved.get();
    let mut unpaid = 0;
    for stream in wallet.payer_streams(true).await? {
        if stream.state == StreamState::Missing {
            continue;
        }
        let terms = &stream.note.terms;
        let until = stream.record.stop.map_or(terms.end(), |stop| stop.min(terms.end()));
        unpaid += terms.payout(stream.record.claimed_until.max(terms.start()), until).get();
    }
    let burnt = burnt(&wallet).await?;
    let chain = context.chain()?;
    let token = &ledger.manifest().token;
    let held: U256 = IERC20Metadata::new(token.address, chain)
        .balanceOf(ledger.pool().address)
        .call()
        .await
        .map_err(|error| CliError::Chain(error.to_string()))?;
    let show = |amount: u128| tokens(amount, token.decimals, &token.symbol);
    let text = Fields::new()
        .row("the pool holds", show(u128::try_from(held).unwrap_or(u128::MAX)))
        .row("this wallet's notes", show(notes))
        .row("this wallet's streams, not paid yet", show(unpaid))
        .row("burnt by this wallet's claims", show(burnt))
        .text();
    context.format.emit(
        &text,
        &json!({ "pool_balance": held.to_string(), "notes": notes.to_string(), "streams_unpaid": unpaid.to_string(), "burnt": burnt.to_string() }),
    );
    Ok(())
}

/// What this payee's claims have burnt: floor(sum * burn_bps / 10000) of each.
async fn burnt(wallet: &PoolWallet) -> Result<u128, CliError> {
    let streams = wallet.payee_streams(true).await?;
    let bps = u128::from(wallet.ledger().manifest().burn_bps);
    let mut burnt = 0;
    let mut after = EventSeq(0);
    loop {
        let events = wallet.ledger().events_after(after, 1000).await?;
        let Some(last) = events.last() else { return Ok(burnt) };
        after = last.seq;
        for event in &events {
            let PoolEvent::Claimed { windows, .. } = &event.event else { continue };
            let sum: u128 = windows
                .iter()
                .filter_map(|window| {
                    let stream = streams.iter().find(|stream| stream.tag == window.tag)?;
                    Some(stream.note.terms.payout(window.from, window.until).get())
                })
                .sum();
            burnt += sum * bps / 10_000;
        }
    }
}

/// A confirmed transaction.
#[derive(Debug, Clone)]
pub(crate) struct Done {
    /// Hash.
    pub(crate) transaction: String,
    /// Block.
    pub(crate) block: u64,
}

/// What sending an operation came to.
#[derive(Debug, Clone)]
pub(crate) struct Sent {
    pub(crate) done: Done,
    pub(crate) prove_ms: u64,
    pub(crate) fee: u128,
    pub(crate) gas: u64,
}

impl Sent {
    fn json(&self, mut extra: serde_json::Value) -> serde_json::Value {
        if let Some(object) = extra.as_object_mut() {
            object.insert("transaction".into(), json!(self.done.transaction));
            object.insert("block".into(), json!(self.done.block));
            object.insert("prove_ms".into(), json!(self.prove_ms));
            object.insert("fee".into(), json!(self.fee.to_string()));
            object.insert("gas".into(), json!(self.gas));
        }
        extra
    }
}

/// Prepares an operation and sends it, through a relayer or directly.
async fn send(context: &Context, buyer: &Buyer, intent: Intent, send_direct: bool) -> Result<Sent, CliError> {
    let direct_submitter;
    let relay_submitter;
    let submitter: &dyn Submitter = if send_direct {
        direct_submitter = direct(context)?;
        &direct_submitter
    } else {
        relay_submitter = buyer.relayed(max_fee(context)?);
        &relay_submitter
    };
    let terms = submitter.terms(intent.kind()).await.map_err(rejected)?;
    let started = Instant::now();
    let prepared: PreparedTransaction = buyer.wallet().prepare(intent, terms).await?;
    let prove_ms = started.elapsed().as_millis() as u64;
    let outcome = buyer.wallet().submit(&prepared, submitter).await?;
    let done = settled(&outcome)?;
    let gas = gas_used(context, &done).await;
    Ok(Sent { done, prove_ms, fee: terms.fee.get(), gas })
}

fn rejected(rejection: tributary_wallet::Rejection) -> CliError {
    tributary_client::ClientError::RelayRejected { code: rejection.code, description: rejection.reason }.into()
}

fn settled(outcome: &Outcome) -> Result<Done, CliError> {
    match outcome {
        Outcome::Confirmed { tx_hash, block } => Ok(Done { transaction: tx_hash.to_string(), block: *block }),
        Outcome::Rejected(rejection) => Err(rejected(rejection.clone())),
        Outcome::Unknown { reason, .. } => {
            Err(tributary_client::ClientError::RelayUnknown { description: reason.clone() }.into())
        }
    }
}

/// Gas of a mined transaction, 0 when the endpoint does not tell.
pub(crate) async fn gas_used(context: &Context, done: &Done) -> u64 {
    let (Ok(chain), Ok(hash)) = (context.chain(), done.transaction.parse()) else { return 0 };
    chain.get_transaction_receipt(hash).await.ok().flatten().map_or(0, |receipt| receipt.gas_used)
}

fn amount_of(text: &str, token: &TokenInfo) -> Result<Amount, CliError> {
    let value = parse_tokens(text, token.decimals).map_err(|reason| CliError::Input { reason })?;
    Ok(Amount::new(value)?)
}
