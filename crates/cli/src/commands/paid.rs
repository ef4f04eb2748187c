//! `tributary publish --paid` and `listen --paid`: lightpush and Filter of a provider, paid by a stream that may be bought on the way.

use std::time::{Duration, Instant};

use serde_json::json;
use tributary_client::{Buyer, ClientError, FilterWatch, LeaseHealth, Want};
use tributary_market::offer::{ServiceId, VerifiedOffer};
use tributary_reputation::store::Ending;
use tributary_waku::{ContentTopic, FilterHealth, LightPushRequest, PeerId, ReceivedMessage, WakuMessage};
use tributary_wallet::PayerStream;

use crate::{
    args::{Choose, Listen, Need, Paid, Publish},
    commands::{
        buyer::{Bought, INSERTION_LIMIT, parse_peer, purchase, want},
        gateway::{circuits, stop_left},
    },
    context::{Context, shutdown_signal},
    daemon::{Port, announce},
    error::CliError,
};

/// What is wanted, from the options that `publish` and `listen` share.
fn wanted(context: &Context, service: &str, args: &Paid, topics: &[String], load: u32) -> Result<Want, CliError> {
    let choose = Choose {
        service: service.to_owned(),
        need: Need { topics: topics.to_vec(), load: Some(load) },
        preset: args.preset.clone(),
        max_price: args.max_price,
        explain: args.explain,
    };
    want(context, &choose, args.duration)
}

/// A stream that pays for `service`: one that is open, or with --buy a new one. `None` when a purchase was only shown.
async fn stream(
    context: &Context,
    buyer: &Buyer,
    args: &Paid,
    service: &ServiceId,
    want: &Want,
) -> Result<Option<PeerId>, CliError> {
    let provider = args.provider.as_deref().map(parse_peer).transpose()?;
    let (stream, offer) = match buyer.stream_for(provider, Some(service)).await {
        Ok((_, stream, offer)) => {
            context.format.progress(&format!("a stream to {} is open", offer.peer_id()));
            (stream, offer)
        }
        Err(ClientError::NoStream { .. }) if args.buy => {
            match purchase(context, buyer, want, args.explain, args.dry_run).await? {
                Bought::Opened(_) => {}
                Bought::Shown => return Ok(None),
            }
            let (_, stream, offer) = buyer.stream_for(None, Some(service)).await?;
            (stream, offer)
        }
        Err(error) => return Err(error.into()),
    };
    ready(context, buyer, &stream, &offer).await?;
    if let Err(error) = buyer.connect(&offer).await {
        failed(context, buyer, args, offer.peer_id(), service, &error).await?;
        return Err(error.into());
    }
    Ok(Some(offer.peer_id()))
}

/// After an error: says what it means for the provider, if it is that one's fault.
async fn failed(
    context: &Context,
    buyer: &Buyer,
    args: &Paid,
    provider: PeerId,
    service: &ServiceId,
    error: &ClientError,
) -> Result<(), CliError> {
    let Some(ending) = buyer.ending_of(provider, error).await else { return Ok(()) };
    if ending.is_fault() {
        leave(buyer, args, provider, service).await?;
    }
    buyer.used(provider, service, &ending).await?;
    if ending.is_fault() {
        give_up(context, buyer, args, provider).await;
    }
    Ok(())
}

/// With --buy: notes that the stream to a provider that failed shall pay no longer. Before anything else is done about the failure.
async fn leave(buyer: &Buyer, args: &Paid, provider: PeerId, service: &ServiceId) -> Result<(), CliError> {
    if args.buy
        && let Ok((_, stream, _)) = buyer.stream_for(Some(provider), Some(service)).await
    {
        buyer.leave(stream.commitment).await?;
    }
    Ok(())
}

/// With --buy what was left is stopped, for it would pay on; else the user is told how.
async fn give_up(context: &Context, buyer: &Buyer, args: &Paid, provider: PeerId) {
    if args.buy {
        stop_left(context, buyer).await;
    } else {
        context.format.progress(&pays_on(provider));
    }
}

/// What is told of a stream that only its user may stop.
pub(crate) fn pays_on(provider: PeerId) -> String {
    format!("the stream to {provider} pays on: `tributary streams` shows its number, `tributary close` stops it")
}

/// Waits until a stream's tickets count.
async fn ready(context: &Context, buyer: &Buyer, stream: &PayerStream, offer: &VerifiedOffer) -> Result<(), CliError> {
    buyer.wait_until_usable(stream.commitment, u64::from(offer.root_depth), INSERTION_LIMIT).await?;
    let first = buyer.first_slot(stream, offer)?;
    let now = buyer.wallet().now()?;
    if now < first.start() {
        let seconds = first.start().since(now).get();
        context.format.progress(&format!("the stream's first slot begins in {seconds} s: waiting"));
        tokio::time::sleep(Duration::from_secs(seconds)).await;
    }
    Ok(())
}

/// Publishes through a provider, a ticket for each message.
pub(crate) async fn publish(context: &Context, args: &Publish) -> Result<(), CliError> {
    let _lock = context.lock()?;
    let started = Instant::now();
    let topic: ContentTopic = args.content_topic.parse()?;
    let messages = u32::try_from(args.payloads.len()).unwrap_or(u32::MAX);
    let mut want = wanted(context, "lightpush", &args.paid, std::slice::from_ref(&args.content_topic), messages)?;
    let longest = args.payloads.iter().map(String::len).max().unwrap_or(0);
    want.service = tributary_client::Sought::Lightpush {
        messages: u64::from(messages),
        payload: u32::try_from(longest).unwrap_or(u32::MAX),
    };
    context.format.progress("opening the wallet and reading the proving keys");
    let buyer = context.buyer_for(circuits(args.paid.buy)).await?;
    let following = follow(&buyer);
    let Some(provider) = stream(context, &buyer, &args.paid, &ServiceId::lightpush(), &want).await? else {
        buyer.node().shutdown().await;
        return Ok(());
    };
    let ready = started.elapsed();
    let (paid, _) = buyer.paid_lightpush(Some(provider)).await?;
    let pubsub = buyer.node().pubsub_topic(&topic)?;
    context.format.progress("making a ticket for each message");
    let mut pushed = Vec::new();
    let mut failure = None;
    for payload in &args.payloads {
        let message = WakuMessage::new(topic.clone(), payload.clone().into_bytes(), buyer.node().now());
        let hash = message.hash(pubsub);
        match paid.push(LightPushRequest::new(Some(pubsub), message)).await {
            Ok(answer) => {
                context.format.progress("published");
                pushed.push((hash, answer));
            }
            Err(error) => {
                failure = Some(error);
                break;
            }
        }
    }
    let ending = match &failure {
        Some(error) => buyer.ending_of(provider, error).await,
        None => Some(Ending::Answered),
    };
    if let Some(ending) = ending {
        let failed = ending.is_fault();
        if failed {
            leave(&buyer, &args.paid, provider, &ServiceId::lightpush()).await?;
        }
        buyer.pushes_ended(provider, &pushed, ending).await?;
        if failed {
            give_up(context, &buyer, &args.paid, provider).await;
        }
    }
    following.abort();
    let text = format!(
        "{provider} published {} of {} messages on {topic}, {} ms after the start",
        pushed.len(),
        args.payloads.len(),
        started.elapsed().as_millis()
    );
    context.format.emit(
        &text,
        &json!({
            "content_topic": topic.to_string(), "provider": provider.to_string(),
            "hashes": pushed.iter().map(|(hash, _)| hash.to_string()).collect::<Vec<_>>(),
            "messages": pushed.iter().map(|(_, push)| json!({
                "relay_peers": push.pushed.relay_peers, "latency_ms": push.latency.as_secs_f64() * 1e3,
            })).collect::<Vec<_>>(),
            "ready_ms": ready.as_millis() as u64, "total_ms": started.elapsed().as_millis() as u64,
        }),
    );
    buyer.node().shutdown().await;
    failure.map_or(Ok(()), |error| Err(error.into()))
}

/// Prints messages that a provider pushes, on a lease that is renewed slot by slot.
pub(crate) async fn listen(context: &Context, args: &Listen) -> Result<(), CliError> {
    let _lock = context.lock()?;
    let topics = args.content_topics.iter().map(|topic| topic.parse()).collect::<Result<Vec<ContentTopic>, _>>()?;
    let count = u32::try_from(topics.len()).unwrap_or(u32::MAX);
    let want = wanted(context, "filter", &args.paid, &args.content_topics, count)?;
    context.format.progress("opening the wallet and reading the proving keys");
    let buyer = context.buyer_for(circuits(args.paid.buy)).await?;
    let pubsub = buyer.node().pubsub_topic(&topics[0])?;
    for other in &topics {
        if buyer.node().pubsub_topic(other)? != pubsub {
            return Err(ClientError::SeveralShards { first: topics[0].to_string(), other: other.to_string() }.into());
        }
    }
    let following = follow(&buyer);
    let Some(provider) = stream(context, &buyer, &args.paid, &ServiceId::filter(), &want).await? else {
        buyer.node().shutdown().await;
        return Ok(());
    };
    context.format.progress("buying the lease");
    let mut watch = FilterWatch::new(provider, pubsub, topics.clone(), buyer.node().now());
    let mut filter = match buyer.paid_filter(Some(provider), pubsub, topics).await {
        Ok(filter) => filter,
        Err(error) => {
            failed(context, &buyer, &args.paid, provider, &ServiceId::filter(), &error).await?;
            return Err(error.into());
        }
    };
    let mut health = filter.lease().buyer().watch_health();
    announce(buyer.node(), "listener", &Port::none());
    let most = args.count.unwrap_or(usize::MAX);
    let mut received = 0;
    let deadline = tokio::time::sleep(Duration::from_secs(args.seconds));
    tokio::pin!(deadline);
    tell_lease(context, &health.borrow_and_update());
    while received < most {
        tokio::select! {
            () = &mut deadline => break,
            () = shutdown_signal() => break,
            Ok(()) = health.changed() => {
                let lease = health.borrow_and_update().clone();
                tell_lease(context, &lease);
                // Who may buy goes to another provider; others wait for this one.
                let gone = matches!(lease, LeaseHealth::Missed { .. }) && matches!(filter.health(), FilterHealth::Lost { .. });
                if gone && args.paid.buy {
                    break;
                }
            }
            message = filter.recv() => {
                let Some(message) = message else { break };
                received += 1;
                watch.delivered(&message, buyer.node().now());
                show(context, &message);
            }
        }
    }
    let missed = *filter.lease().buyer().watch_missed().borrow();
    let lost = match filter.health() {
        FilterHealth::Lost { reason } => Some(ClientError::PushesEnded { provider, reason }),
        FilterHealth::Subscribed => None,
    };
    let ending = match &lost {
        None => Ending::Answered,
        // Without a ticket, or without a network, nobody could push.
        Some(_) => match (filter.lease().buyer().ending().await, buyer.unanswered(provider).await) {
            (Some(own @ Ending::BuyerError { .. }), _) => own,
            (_, offline @ Ending::Unreachable { others_reachable: false }) => offline,
            _ => Ending::FailedAfterPayment { reason: "the subscription was lost".into() },
        },
    };
    let failed = ending.is_fault();
    if failed {
        leave(&buyer, &args.paid, provider, &ServiceId::filter()).await?;
    }
    buyer.filter_ended(watch, missed, ending, buyer.node().now()).await?;
    if failed {
        give_up(context, &buyer, &args.paid, provider).await;
    }
    if let Err(error) = filter.close().await {
        tracing::debug!(code = error.code(), %error, "the subscription was not ended by the provider");
    }
    following.abort();
    let text = format!("received {received} messages from {provider}; {missed} slots were not paid");
    context
        .format
        .emit(&text, &json!({ "received": received, "provider": provider.to_string(), "missed_slots": missed }));
    buyer.node().shutdown().await;
    lost.map_or(Ok(()), |error| Err(error.into()))
}

fn tell_lease(context: &Context, health: &LeaseHealth) {
    match health {
        LeaseHealth::None => {}
        LeaseHealth::Held { until } => context.format.progress(&format!("leased until {}", until.get())),
        LeaseHealth::Missed { slot_start, reason } => {
            context.format.progress(&format!("the slot from {} is not leased: {reason}", slot_start.get()));
        }
    }
}

/// Prints a message.
pub(crate) fn show(context: &Context, received: &ReceivedMessage) {
    let payload = String::from_utf8_lossy(&received.message.payload);
    context.format.emit(
        &format!("{} {payload}", received.message.content_topic),
        &json!({
            "hash": received.hash.to_string(), "content_topic": received.message.content_topic.to_string(),
            "payload": payload, "payload_hex": alloy::hex::encode(&received.message.payload),
        }),
    );
}

/// Keeps the ledger at the chain's head.
fn follow(buyer: &Buyer) -> tokio::task::JoinHandle<()> {
    let ledger = buyer.wallet().ledger().clone();
    tokio::spawn(async move { ledger.run(std::future::pending()).await })
}
