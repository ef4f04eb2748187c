//! `tributary discover`, `providers`, `choose`, `quote`, `open`, `buy`, `query`, `assess`.

use std::time::Duration;

use serde_json::json;
use tributary_client::{
    AgreedTerms, Buyer, ClientError, Failure, Opened, Sought, SpendingCaps, Want, unpaid, verdict_score,
};
use tributary_market::{
    choose::{Choice, Explanation, Preset},
    offer::{RateClassId, ServiceId, UseUnit, VerifiedOffer},
    relay::RelayOperation,
    ticket::Verdict,
};
use tributary_protocol::{Amount, Price, Seconds};
use tributary_waku::{ContentTopic, PeerId, StoreQueryRequest};
use tributary_wallet::Outcome;

use crate::{
    args::{self, Assess, Buy, Choose, Discover, Need, Open, Query, Quote},
    commands::{
        gateway::{as_buyer, caps},
        paid::pays_on,
        relayer::amount,
        wallet::{Done, direct, gas_used, max_fee},
    },
    context::Context,
    error::CliError,
    output::{Fields, table, tokens},
};

/// Pages or messages a slot that a buyer asks for when it says nothing else.
const LOAD: u64 = 10;

/// How long a purchase looks for somebody to buy from: offers and announcements are repeated well within it.
const FIND_LIMIT: Duration = Duration::from_secs(30);

/// How long a stream's leaf may take to get into the tree.
pub(crate) const INSERTION_LIMIT: Duration = Duration::from_secs(120);

pub(crate) async fn discover(context: &Context, args: &Discover) -> Result<(), CliError> {
    let buyer = context.buyer_for(&[]).await?;
    let limit = Duration::from_secs(args.seconds);
    let found = match args.at_least {
        Some(offers) => buyer.directory().discover_at_least(offers, limit).await?,
        None => buyer.directory().discover(tokio::time::sleep(limit)).await?,
    };
    buyer.report_evidence().await?;
    let published = buyer.publish_ratings().await?;
    let offers = buyer.directory().offers();
    let relayers = buyer.directory().relayers();
    let token = buyer.wallet().ledger().manifest().token.clone();
    let mut text = vec![format!(
        "{} providers and {} relayers are known; {} messages were news, {} of them from archives; {} were refused",
        offers.len(),
        relayers.len(),
        found.offers + found.relayers,
        found.from_archive,
        found.refused
    )];
    text.push(offers_table(&offers));
    for relayer in &relayers {
        let fee = relayer.fee(RelayOperation::Transact, true).map_or(0, tributary_protocol::Amount::get);
        text.push(format!(
            "relayer {}: {} a transaction with insertion",
            relayer.peer_id(),
            tokens(fee, token.decimals, &token.symbol)
        ));
    }
    let value = json!({
        "offers": offers.iter().map(|offer| json!({
            "provider": offer.peer_id().to_string(), "id": offer.id().to_string(),
            "ticket_price": offer.ticket_price.get().to_string(), "sequence": offer.sequence,
            "rates": offer.rate_classes.iter().map(|class| class.rate.get().to_string()).collect::<Vec<_>>(),
        })).collect::<Vec<_>>(),
        "relayers": relayers.iter().map(|relayer| relayer.peer_id().to_string()).collect::<Vec<_>>(),
        "new": found.offers, "ratings": found.ratings, "published_ratings": published, "refused": found.refused, "from_archive": found.from_archive,
    });
    context.format.emit(&text.join("\n"), &value);
    buyer.node().shutdown().await;
    Ok(())
}

pub(crate) fn offers_table(offers: &[std::sync::Arc<VerifiedOffer>]) -> String {
    let rows: Vec<Vec<String>> = offers
        .iter()
        .map(|offer| {
            let services: Vec<String> = offer
                .services
                .iter()
                .map(|service| {
                    let page = service
                        .price_of(UseUnit::Page)
                        .map_or(String::new(), |price| format!(", {} a page", price.tickets));
                    format!("{}{page}", service.id)
                })
                .collect();
            let rates: Vec<String> = offer.rate_classes.iter().map(|class| class.rate.get().to_string()).collect();
            vec![
                offer.peer_id().to_string(),
                services.join("; "),
                offer.ticket_price.get().to_string(),
                rates.join(", "),
            ]
        })
        .collect();
    if rows.is_empty() {
        "no offers".into()
    } else {
        table(&["provider", "sells (tickets)", "ticket", "rates a second"], &rows)
    }
}

pub(crate) fn want(context: &Context, args: &Choose, duration: u64) -> Result<Want, CliError> {
    let content_topics: Vec<ContentTopic> =
        args.need.topics.iter().map(|topic| topic.parse()).collect::<Result<_, _>>()?;
    let load = args.need.load;
    let service = match args.service.as_str() {
        "store" => Sought::Store { retention: Seconds::ZERO, pages: load.map_or(LOAD, u64::from) },
        "lightpush" => Sought::Lightpush { messages: load.map_or(LOAD, u64::from), payload: 0 },
        "filter" => {
            let named = u32::try_from(content_topics.len()).unwrap_or(u32::MAX);
            Sought::Filter { topics: load.unwrap_or(named).max(1) }
        }
        other => return Err(ClientError::UnknownService { name: other.to_owned() }.into()),
    };
    let (max_price, preset) = preferences(context, args.max_price, args.preset.as_deref())?;
    Ok(Want { service, content_topics, duration: Seconds::new(duration)?, max_price, preset, ignore: Vec::new() })
}

/// Highest price and weighing: the flags, else the configuration.
pub(crate) fn preferences(
    context: &Context,
    max_price: Option<u128>,
    preset: Option<&str>,
) -> Result<(Option<Price>, Preset), CliError> {
    let settings = &context.config.buyer;
    let configured = settings.max_price.as_deref().map(|text| amount("buyer.max_price", text)).transpose()?;
    let max_price = max_price.or(configured.map(Amount::get)).map(Price::new).transpose()?;
    let preset = preset.unwrap_or(&settings.preset).parse().map_err(|reason| CliError::Input { reason })?;
    Ok((max_price, preset))
}

pub(crate) async fn choose(context: &Context, args: &Choose) -> Result<(), CliError> {
    let buyer = context.buyer_for(&[]).await?;
    let want = want(context, args, 600)?;
    let (choice, explanation) = buyer.choose(&want).await?;
    show_choice(context, args.explain, choice.as_ref(), &explanation)?;
    buyer.node().shutdown().await;
    Ok(())
}

fn show_choice(
    context: &Context,
    explain: bool,
    choice: Option<&Choice>,
    explanation: &Explanation,
) -> Result<(), CliError> {
    let chosen = choice.map(|choice| choice.offer.peer_id().to_string());
    let mut text = Vec::new();
    // When nobody passes, everybody is shown with the filter that removed them.
    if explain || choice.is_none() {
        text.push(explanation.to_string());
    }
    if let (Some(provider), false) = (&chosen, explain) {
        text.push(format!("chosen: {provider}"));
    }
    context.format.emit(&text.join("\n"), &json!({ "chosen": chosen, "explanation": explanation }));
    if choice.is_none() {
        return Err(ClientError::NoCandidate { candidates: explanation.considered.len() }.into());
    }
    Ok(())
}

pub(crate) async fn quote(context: &Context, args: &Quote) -> Result<(), CliError> {
    let buyer = context.buyer_for(&[]).await?;
    let (provider, service) = match &args.provider {
        Some(text) => (parse_peer(text)?, "store".to_owned()),
        None => buyer.store().last_choice_and_service().await?.ok_or(ClientError::NoProvider)?,
    };
    let offer = buyer.directory().offer(provider)?;
    let defaults = Choose {
        service: args.service.clone().unwrap_or(service),
        need: Need { topics: args.need.topics.clone(), load: args.need.load },
        preset: None,
        max_price: args.max_price,
        explain: false,
    };
    let want = want(context, &defaults, args.duration)?;
    let class = cheapest_class(&buyer, &offer, &want)?;
    let terms = buyer.negotiate(&offer, class, &want, false).await?;
    context.format.emit(&terms_text(&terms), &json!(terms));
    buyer.node().shutdown().await;
    Ok(())
}

/// The lowest class that pays for what is wanted.
fn cheapest_class(buyer: &Buyer, offer: &VerifiedOffer, want: &Want) -> Result<RateClassId, CliError> {
    let length = buyer.wallet().ledger().clock().slot_length();
    let needed = u64::from(want.service.tickets_per_slot(offer, length)?);
    offer
        .rate_classes
        .iter()
        .filter(|class| class.allows(want.duration) && class.tickets_per_slot(offer.ticket_price, length) >= needed)
        .min_by_key(|class| class.rate)
        .map(|class| class.id)
        .ok_or_else(|| {
            ClientError::NotSold { what: format!("a class with {needed} tickets a slot for {} s", want.duration.get()) }
                .into()
        })
}

fn terms_text(terms: &AgreedTerms) -> String {
    Fields::new()
        .row("provider", &terms.provider)
        .row("service", &terms.service)
        .row("rate", format!("{} base units a second (class {})", terms.rate, terms.rate_class))
        .row("ticket price", terms.ticket_price)
        .row("duration", format!("{} s", terms.duration))
        .row("load cap", format!("{} tickets a slot", terms.load_cap))
        .row("start by", terms.start_deadline)
        .row("valid until", terms.valid_until)
        .text()
}

pub(crate) async fn open(context: &Context, args: &Open) -> Result<(), CliError> {
    let _lock = context.lock()?;
    let buyer = context.buyer().await?;
    let opened = open_stream(context, &buyer, args.direct, args.now).await?;
    report_opened(context, &buyer, &opened).await;
    buyer.node().shutdown().await;
    Ok(())
}

async fn open_stream(context: &Context, buyer: &Buyer, send_direct: bool, hurry: bool) -> Result<Opened, CliError> {
    context.format.progress("proving the transaction and handing it over");
    let opened = if send_direct {
        buyer.open(&direct(context)?, hurry).await?
    } else {
        buyer.open_relayed(max_fee(context)?, hurry, &|line| context.format.progress(line)).await?
    };
    context.format.progress(&format!(
        "proved in {} ms, mined {} ms after that; waiting until the stream's leaf is in the tree, deep enough",
        opened.proving.as_millis(),
        opened.sending.as_millis()
    ));
    let depth = buyer.stream(None).await.map_or(1, |(_, _, offer)| u64::from(offer.root_depth));
    buyer.wait_until_usable(opened.commitment, depth, INSERTION_LIMIT).await?;
    Ok(opened)
}

/// What came of a purchase.
pub(crate) enum Bought {
    /// A stream was opened, and its tickets count.
    Opened(Opened),
    /// Only shown.
    Shown,
}

/// Steps 1 to 4: finds somebody, unless enough is known, chooses, agrees and opens. With `dry_run` it stops after the quote and prints it.
pub(crate) async fn purchase(
    context: &Context,
    buyer: &Buyer,
    want: &Want,
    explain: bool,
    dry_run: bool,
) -> Result<Bought, CliError> {
    let tell = |line: &str| context.format.progress(line);
    tell(&format!("looking for providers of {} and for relayers", want.service.id()));
    buyer.find(want, false, FIND_LIMIT).await?;
    buyer.publish_ratings().await?;
    tell(&format!("{} providers and {} relayers are known", buyer.directory().offers().len(), buyer.relayers().len()));
    let (agreed, explanation) = buyer.agree(want, &tell).await?;
    let Some((choice, terms)) = agreed else {
        show_choice(context, true, None, &explanation)?;
        return Err(ClientError::NoCandidate { candidates: explanation.considered.len() }.into());
    };
    if explain {
        tell(&explanation.to_string());
    }
    tell(&format!("chosen, and agreed with: {}", choice.offer.peer_id()));
    if dry_run {
        let value = json!({ "dry_run": true, "terms": terms, "explanation": explain.then_some(&explanation) });
        context.format.emit(&terms_text(&terms), &value);
        return Ok(Bought::Shown);
    }
    let opened = open_stream(context, buyer, false, true).await?;
    tell("the stream is open");
    Ok(Bought::Opened(opened))
}

async fn report_opened(context: &Context, buyer: &Buyer, opened: &Opened) {
    let token = &buyer.wallet().ledger().manifest().token;
    let (transaction, block) = match &opened.outcome {
        Outcome::Confirmed { tx_hash, block } => (tx_hash.to_string(), *block),
        _ => (String::new(), 0),
    };
    let gas = gas_used(context, &Done { transaction: transaction.clone(), block }).await;
    let text = Fields::new()
        .row(
            "opened",
            format!("{} base units a second from {} to {}", opened.rate.get(), opened.start.get(), opened.end.get()),
        )
        .row("deposit", tokens(opened.deposit.get(), token.decimals, &token.symbol))
        .row("fee", tokens(opened.fee.get(), token.decimals, &token.symbol))
        .row("proof", format!("{} ms", opened.proving.as_millis()))
        .row("sent and mined in", format!("{} ms", opened.sending.as_millis()))
        .row("transaction", format!("{transaction} (block {block}, gas {gas}, insertion included)"))
        .text();
    context.format.emit(
        &text,
        &json!({
            "commitment": opened.commitment.to_string(), "rate": opened.rate.get().to_string(), "start": opened.start.get(), "end": opened.end.get(),
            "deposit": opened.deposit.get().to_string(), "fee": opened.fee.get().to_string(),
            "prove_ms": opened.proving.as_millis() as u64, "send_ms": opened.sending.as_millis() as u64,
            "transaction": transaction, "block": block, "gas": gas,
        }),
    );
}

pub(crate) async fn buy(context: &Context, args: &Buy) -> Result<(), CliError> {
    let _lock = context.lock()?;
    let buyer = context.buyer().await?;
    let want = want(context, &args.choose, args.duration)?;
    if let Bought::Opened(opened) = purchase(context, &buyer, &want, args.choose.explain, args.dry_run).await? {
        report_opened(context, &buyer, &opened).await;
    }
    buyer.node().shutdown().await;
    Ok(())
}

pub(crate) async fn query(context: &Context, args: &Query) -> Result<(), CliError> {
    let topics = args.content_topics.iter().map(|topic| topic.parse()).collect::<Result<Vec<ContentTopic>, _>>()?;
    let caps = caps(context, &args.using.buying)?;
    as_buyer(context, &args.using.buying, async |buyer| query_as(context, args, buyer, topics, &caps).await).await
}

/// Store, paid by an open stream or, with --buy, by one that is bought if it must be.
async fn query_as(
    context: &Context,
    args: &Query,
    buyer: &Buyer,
    topics: Vec<ContentTopic>,
    caps: &SpendingCaps,
) -> Result<(), CliError> {
    let args::Using { provider, duration, buying } = &args.using;
    let provider = provider.as_deref().map(parse_peer).transpose()?;
    let pubsub = buyer.node().pubsub_topic(&topics[0])?;
    let mut request = StoreQueryRequest::by_topics(pubsub, topics.clone());
    request.pagination_limit = Some(args.page_size);
    request.pagination_forward = true;
    if args.unpaid {
        return ask_unpaid(context, buyer, provider, &request).await;
    }
    let mut session = None;
    let paid = if buying.buy {
        let (max_price, preset) = preferences(context, buying.max_price, buying.preset.as_deref())?;
        let want = Want {
            service: Sought::Store { retention: Seconds::ZERO, pages: u64::from(args.max_pages) },
            content_topics: topics,
            duration: Seconds::new(duration.unwrap_or(context.config.gateway.duration))?,
            max_price,
            preset,
            ignore: Vec::new(),
        };
        let tell = |line: &str| context.format.progress(line);
        session.insert(buyer.session(&want, provider, caps, &tell).await?).store()?
    } else {
        let (paid, offer) = buyer.paid_store(provider).await?;
        if let Err(error) = buyer.connect(&offer).await {
            buyer.unreachable(offer.peer_id(), &request).await?;
            context.format.progress(&pays_on(offer.peer_id()));
            return Err(error.into());
        }
        paid
    };
    context.format.progress("making a ticket");
    let (delivery, pages, failure) = paid.query(request, args.max_pages).await;
    if delivery.ending.is_fault() {
        // Noted before anything else is done about it.
        match &session {
            Some(session) => session.failed(&Failure::Assessed).await?,
            None => context.format.progress(&pays_on(parse_peer(&delivery.provider)?)),
        }
    }
    buyer.delivered(&delivery).await?;
    let mut lines = Vec::new();
    for (number, page) in pages.iter().enumerate() {
        lines.push(format!(
            "page {}: {} messages in {:.1} ms, ticket in {:.1} ms{}",
            number + 1,
            page.response.messages.len(),
            page.latency.as_secs_f64() * 1e3,
            page.payment.as_secs_f64() * 1e3,
            if page.ticket.young { " (newest root: the stream is young)" } else { "" }
        ));
    }
    let messages: Vec<_> = pages
        .iter()
        .flat_map(|page| &page.response.messages)
        .map(|entry| {
            let payload =
                entry.data.as_ref().map(|(_, message)| String::from_utf8_lossy(&message.payload).into_owned());
            json!({ "hash": entry.hash.to_string(), "payload": payload })
        })
        .collect();
    lines.push(format!(
        "{} messages, {}",
        messages.len(),
        if delivery.exhausted { "all there are" } else { "more follow" }
    ));
    let replay = match (&failure, args.replay, pages.last()) {
        (None, true, Some(page)) => {
            let verdict = paid.replay(page).await?;
            lines.push(format!("the last ticket used again, for another request: {}", verdict_text(&verdict)));
            Some(verdict_json(&verdict))
        }
        _ => None,
    };
    context.format.emit(
        &lines.join("\n"),
        &json!({
            "delivery": delivery.id, "provider": delivery.provider, "messages": messages, "exhausted": delivery.exhausted,
            "pages": pages.iter().map(|page| json!({
                "messages": page.response.messages.len(), "latency_ms": page.latency.as_secs_f64() * 1e3,
                "ticket_ms": page.payment.as_secs_f64() * 1e3, "young": page.ticket.young,
            })).collect::<Vec<_>>(),
            "replay": replay,
        }),
    );
    failure.map_or(Ok(()), |error| Err(error.into()))
}

async fn ask_unpaid(
    context: &Context,
    buyer: &Buyer,
    provider: Option<PeerId>,
    request: &StoreQueryRequest,
) -> Result<(), CliError> {
    let provider = match provider {
        Some(peer) => peer,
        None => buyer.store().last_choice().await?.ok_or(ClientError::NoProvider)?,
    };
    let offer = buyer.directory().offer(provider)?;
    buyer.connect(&offer).await?;
    let (response, verdict) = unpaid(buyer.node(), provider, request).await?;
    let text =
        format!("status {}: {}; {} messages", response.status.0, verdict_text(&verdict), response.messages.len());
    context.format.emit(
        &text,
        &json!({ "status": response.status.0, "verdict": verdict_json(&verdict), "messages": response.messages.len() }),
    );
    Ok(())
}

fn verdict_text(verdict: &Verdict) -> String {
    match verdict {
        Verdict::Accepted => "accepted".into(),
        Verdict::Refused { reason, description, .. } => {
            format!("refused with {} [{}]: {description}", reason.status_code(), reason.code())
        }
        Verdict::Unknown { code, description } => format!("answered {code}: {description}"),
    }
}

fn verdict_json(verdict: &Verdict) -> serde_json::Value {
    match verdict {
        Verdict::Accepted => json!({ "accepted": true }),
        Verdict::Refused { reason, description, offer } => json!({
            "accepted": false, "status": reason.status_code(), "code": reason.code(), "description": description,
            "offer": offer.map(|id| id.to_string()),
        }),
        Verdict::Unknown { code, description } => {
            json!({ "accepted": false, "status": code, "description": description })
        }
    }
}

pub(crate) async fn assess(context: &Context, args: &Assess) -> Result<(), CliError> {
    let buyer = context.buyer_for(&[]).await?;
    let provider = args.provider.as_deref().map(parse_peer).transpose()?;
    let service = match &args.service {
        Some(service) => service.parse().map_err(ClientError::from)?,
        None => newest(&buyer, provider).await?,
    };
    let (assessment, counted, score) = if service == ServiceId::store() {
        buyer.assess(provider).await?
    } else {
        buyer.assess_service(provider, &service).await?
    };
    let rows: Vec<Vec<String>> = assessment
        .measurements
        .iter()
        .map(|m| {
            vec![
                m.name.clone(),
                format!("{:.3} {}", m.value, m.unit),
                m.score.map_or(String::new(), |score| format!("{score:.3}")),
                format!("{:.2}", m.weight),
            ]
        })
        .collect();
    let verdict =
        verdict_score(&assessment).map_or("says nothing of the provider".into(), |score| format!("{score:.3}"));
    let text = format!(
        "{}\nassessment: {verdict}{}\nreputation now: {score}",
        table(&["measured", "value", "score", "weight"], &rows),
        if counted { "" } else { " (counted before)" }
    );
    context.format.emit(
        &text,
        &json!({ "assessment": assessment, "counted": counted, "score": score.value, "experience": score.experience }),
    );
    buyer.node().shutdown().await;
    Ok(())
}

/// The service that was used last.
async fn newest(buyer: &Buyer, provider: Option<PeerId>) -> Result<ServiceId, CliError> {
    let delivered = buyer.store().last_delivery(provider).await?.map(|(_, delivery)| delivery.at);
    Ok(match buyer.store().last_use(provider, None).await? {
        Some((_, at, record)) if delivered.is_none_or(|delivered| at >= delivered) => {
            record.subject().service.as_str().parse().map_err(ClientError::from)?
        }
        _ => ServiceId::store(),
    })
}

pub(crate) fn parse_peer(text: &str) -> Result<PeerId, CliError> {
    text.parse().map_err(|_| CliError::Input { reason: format!("'{text}' is no peer id") })
}
