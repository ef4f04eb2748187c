//! `tributary bench`: what script/bench measures of a whole purchase. The process is the buyer's, so its peak memory is a buyer's.

use std::time::{Duration, Instant};

use serde_json::json;
use tributary_client::{Sought, Want, unpaid};
use tributary_market::{choose::Preset, offer::RateClassId};
use tributary_protocol::Seconds;
use tributary_waku::{ContentTopic, StoreQueryRequest, StoreStatus};

use crate::{args::Bench, commands::wallet::max_fee, context::Context, error::CliError};

/// Time for the stream's leaf to get into the tree.
const INSERTION_LIMIT: Duration = Duration::from_secs(60);

pub(crate) async fn run(context: &Context, args: &Bench) -> Result<(), CliError> {
    let _lock = context.lock()?;
    let topic: ContentTopic = args.content_topic.parse()?;
    let buyer = context.buyer().await?;
    let ledger = buyer.wallet().ledger().clone();
    let following = tokio::spawn({
        let ledger = ledger.clone();
        async move { ledger.run(std::future::pending()).await }
    });
    let pubsub = buyer.node().pubsub_topic(&topic)?;
    let page = || {
        let mut request = StoreQueryRequest::by_topics(pubsub, [topic.clone()]);
        request.pagination_limit = Some(20);
        request
    };

    let started = Instant::now();
    let want = Want {
        // And the first page.
        service: Sought::Store { retention: Seconds::ZERO, pages: u64::from(args.requests) + 1 },
        content_topics: vec![topic.clone()],
        duration: Seconds::new(300)?,
        max_price: None,
        preset: Preset::Trusted,
        ignore: Vec::new(),
    };
    let (choice, explanation) = buyer.choose(&want).await?;
    let Some(choice) = choice else {
        return Err(CliError::Input { reason: explanation.to_string() });
    };
    let class: RateClassId = choice.rate_class;
    buyer.negotiate(&choice.offer, class, &want, false).await?;
    let opened = buyer.open(&buyer.relayed(max_fee(context)?), true).await?;
    buyer.wait_until_usable(opened.commitment, u64::from(choice.offer.root_depth), INSERTION_LIMIT).await?;
    let (paid, offer) = buyer.paid_store(None).await?;
    buyer.connect(&offer).await?;
    paid.page(page()).await?;
    let buy_to_first_page = started.elapsed();

    // One slot's tickets, made ahead; the provider carries the slot for a while after its end.
    let slot = paid.tickets().current_slot()?;
    let wanted = usize::try_from(args.requests).unwrap_or(usize::MAX);
    let ready = paid.tickets().prepare(slot, 1, wanted).await?;
    if ready < wanted {
        return Err(CliError::Input { reason: format!("one slot pays for {ready} requests, {wanted} were asked for") });
    }
    let (mut with, mut without, mut own) = (Vec::new(), Vec::new(), Vec::new());
    for _ in 0..wanted {
        let sent = Instant::now();
        let (answer, _) = unpaid(buyer.node(), offer.peer_id(), &page()).await?;
        without.push(sent.elapsed());
        if answer.status != StoreStatus::OK {
            return Err(CliError::Input { reason: format!("a free request was refused: {}", answer.status_desc) });
        }
        let answered = paid.page_in(page(), Some(slot)).await?;
        with.push(answered.latency);
        own.push(answered.payment);
    }
    following.abort();
    let (with, without, own) = (median(with), median(without), median(own));
    let value = json!({
        "buy_to_first_page_s": buy_to_first_page.as_secs_f64(),
        "request_extra_buyer_ms": own,
        "request_extra_provider_ms": with - without,
        "request_paid_ms": with,
        "request_free_ms": without,
        "requests": wanted,
        "buyer_peak_mib": peak_mib(),
    });
    context.format.emit(&value.to_string(), &value);
    buyer.node().shutdown().await;
    Ok(())
}

/// Median in milliseconds; 0 of nothing.
fn median(mut times: Vec<Duration>) -> f64 {
    times.sort();
    times.get(times.len() / 2).map_or(0.0, |time| time.as_secs_f64() * 1e3)
}

/// The process's peak resident memory (`VmHWM`).
fn peak_mib() -> Option<f64> {
    let status = std::fs::read_to_string("/proc/self/status").ok()?;
    let line = status.lines().find_map(|line| line.strip_prefix("VmHWM:"))?;
    let kib: f64 = line.split_whitespace().next()?.parse().ok()?;
    Some(kib / 1024.0)
}
