//! `tributary node`, `publish`, `listen`.

use std::time::{Duration, Instant};

use serde_json::json;
use tributary_client::{ClientStore, SeenMessage};
use tributary_waku::{
    ContentTopic, MAX_PAGE_LIMIT, MessageHash, NodeHandle, NodeKey, PublishError, PubsubTopic, ShardIndex,
    StoreQueryRequest, StoreStatus, WakuMessage,
};

use crate::{
    args::{Listen, Publish},
    context::{Context, Serves, shutdown_signal},
    daemon::{self, Part, Port, announce},
    error::CliError,
};

/// How long a published message waits for a peer that relays its shard.
const PEER_LIMIT: Duration = Duration::from_secs(20);

/// Between two looks for one.
const PEER_INTERVAL: Duration = Duration::from_millis(100);

/// Time for an archive to have what was published, and between two looks.
const ARCHIVE_LIMIT: Duration = Duration::from_secs(10);
const ARCHIVE_INTERVAL: Duration = Duration::from_millis(200);

/// Runs a node until it is asked to stop.
pub(crate) async fn run(context: &Context) -> Result<(), CliError> {
    let stop = daemon::stop(context)?;
    let waku = &context.config.waku;
    let serves = Serves {
        others: true,
        archive: waku.archive.is_on(),
        filter: waku.filter,
        lightpush: waku.lightpush,
        ..Serves::default()
    };
    let Some(node) = context.daemon_node(serves, &stop).await? else { return Ok(()) };
    let port = daemon::open(context, context.watch(&node, Part::Node, &stop)).await?;
    announce(&node, "node", &port);
    stop.requested().await;
    let cut = node.drain(drain_limit(context.config.stop_limit)).await;
    if cut > 0 {
        tracing::warn!(requests = cut, "requests were not answered in time: stop_limit");
    }
    node.shutdown().await;
    Ok(())
}

/// What requests at work get of the time to stop, `stop_limit` in seconds: the archive needs some of it, too.
fn drain_limit(stop_limit: u64) -> Duration {
    Duration::from_secs(stop_limit).mul_f64(0.75)
}

/// Publishes messages.
pub(crate) async fn publish(context: &Context, args: &Publish) -> Result<(), CliError> {
    if args.paid.paid || args.paid.buy {
        return super::paid::publish(context, args).await;
    }
    let topic: ContentTopic = args.content_topic.parse()?;
    let node = context.node(NodeKey::generate(), Serves::default()).await?;
    let pubsub = match args.shard {
        Some(shard) => PubsubTopic::new(node.cluster(), ShardIndex::new(shard)?),
        None => node.pubsub_topic(&topic)?,
    };
    let mut hashes = Vec::new();
    let begun = Instant::now();
    for payload in &args.payloads {
        let message = WakuMessage::new(topic.clone(), payload.clone().into_bytes(), node.now());
        // A peer that relays the shard takes it, also one whose mesh is full.
        let published = loop {
            match node.publish_to(pubsub, message.clone()).await {
                Err(PublishError::NoPeers { .. }) if begun.elapsed() < PEER_LIMIT => {
                    tokio::time::sleep(PEER_INTERVAL).await;
                }
                published => break published?,
            }
        };
        hashes.push(published.hash);
    }
    // A node that stops at once takes what still waits to be sent with it.
    let kept = tokio::time::timeout(ARCHIVE_LIMIT, archived(&node, &hashes)).await.is_ok();
    let text = format!(
        "published {} messages on {topic}; {}",
        hashes.len(),
        if kept { "an archive has them all" } else { "no archive that answers freely confirms them" }
    );
    let hashes: Vec<String> = hashes.iter().map(ToString::to_string).collect();
    context.format.emit(&text, &json!({ "content_topic": topic.to_string(), "hashes": hashes, "archived": kept }));
    node.shutdown().await;
    Ok(())
}

/// Waits until a connected peer's archive has all messages. Bounded by the caller.
async fn archived(node: &NodeHandle, hashes: &[MessageHash]) {
    let mut again = tokio::time::interval(ARCHIVE_INTERVAL);
    loop {
        again.tick().await;
        for peer in node.connected_peers().await {
            let mut found = 0;
            for some in hashes.chunks(usize::try_from(MAX_PAGE_LIMIT).unwrap_or(usize::MAX)) {
                let mut query = StoreQueryRequest::presence(some.iter().copied());
                query.pagination_limit = Some(MAX_PAGE_LIMIT);
                match node.store_query(peer, &query).await {
                    Ok(answer) if answer.status == StoreStatus::OK => found += answer.messages.len(),
                    _ => break,
                }
            }
            if found == hashes.len() {
                return;
            }
        }
    }
}

/// Receives messages and remembers them.
pub(crate) async fn listen(context: &Context, args: &Listen) -> Result<(), CliError> {
    if args.paid.paid || args.paid.buy {
        return super::paid::listen(context, args).await;
    }
    let topics = args.content_topics.iter().map(|topic| topic.parse()).collect::<Result<Vec<ContentTopic>, _>>()?;
    let store = ClientStore::open(&context.file("client.db")).await?;
    let node = context.node(NodeKey::generate(), Serves::default()).await?;
    let mut messages = node.subscribe(topics)?;
    announce(&node, "listener", &Port::none());
    let wanted = args.count.unwrap_or(usize::MAX);
    let mut received = 0;
    let mut seen = 0;
    let deadline = tokio::time::sleep(Duration::from_secs(args.seconds));
    tokio::pin!(deadline);
    while received < wanted {
        let message = tokio::select! {
            () = &mut deadline => break,
            () = shutdown_signal() => break,
            message = messages.recv() => message,
        };
        let Some(message) = message else { break };
        received += 1;
        super::paid::show(context, &message);
        let now = node.now();
        let one = SeenMessage {
            hash: message.hash,
            content_topic: message.message.content_topic.to_string(),
            timestamp: message.message.timestamp.unwrap_or(now).as_nanos(),
        };
        seen += store.put_seen(&[one], u64::try_from(now.as_nanos() / 1_000_000_000).unwrap_or(0)).await?;
    }
    let text = format!("received {received} messages, {seen} of them new");
    context.format.emit(&text, &json!({ "received": received, "new": seen }));
    node.shutdown().await;
    Ok(())
}
