//! A node for tests of other programs: settings as JSON on the command line, commands as JSON lines on standard input,
//! events as JSON lines on standard output. It ends when its input does.
//!
//! Settings: `listen`, `peers` (lists of addresses), `cluster`, `shards` (all of an autosharded network), `relayed`
//! (the shards that it joins, by default all), `key` (32 bytes, hexadecimal), `archive` (a file) and `records` (node
//! records to begin discovery with; without it there is no discovery).
//! Commands: `{"publish": {"topic": .., "payload": ..}}`, `{"mesh": {"shard": .., "peers": ..}}` (answers when the mesh
//! is that large), `{"found": {"peer": ..}}` (answers when discovery found that peer), `"flush"` (answers when the archive
//! has everything). Each is answered by one line.

use std::{error::Error, io::BufRead as _, time::Duration};

use serde::Deserialize;
use serde_json::{Value, json};
use tokio::sync::mpsc;
use tributary_waku::{
    ArchiveConfig, ClusterId, DiscoveryConfig, DiscoveryLimits, FilterConfig, LightPushConfig, Node, NodeConfig,
    NodeHandle, NodeKey, NodeLimits, NodeRecord, PubsubTopic, ShardIndex, Sharding, WakuMessage,
};

/// How long a mesh may take to form, or a peer to be found.
const LIMIT: Duration = Duration::from_secs(120);

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Settings {
    listen: Vec<String>,
    #[serde(default)]
    peers: Vec<String>,
    cluster: u16,
    shards: u16,
    relayed: Option<Vec<u16>>,
    key: Option<String>,
    archive: Option<String>,
    records: Option<Vec<String>>,
}

#[derive(Deserialize)]
#[serde(rename_all = "lowercase", deny_unknown_fields)]
enum Command {
    Publish { topic: String, payload: String },
    Mesh { shard: u16, peers: usize },
    Found { peer: String },
    Flush,
}

fn config(settings: &Settings) -> Result<NodeConfig, Box<dyn Error>> {
    let key = match &settings.key {
        Some(key) => {
            let bytes: [u8; 32] = hex::decode(key)?.try_into().map_err(|_| "a key has 32 bytes")?;
            NodeKey::from_bytes(bytes)?
        }
        None => NodeKey::generate(),
    };
    let sharding = Sharding::Auto { shards: settings.shards };
    let mut config = NodeConfig::new(key, ClusterId::new(settings.cluster), sharding);
    if let Some(relayed) = &settings.relayed {
        config.shards = relayed.iter().map(|shard| ShardIndex::new(*shard)).collect::<Result<_, _>>()?;
    }
    config.listen = settings.listen.iter().map(|address| address.parse()).collect::<Result<_, _>>()?;
    config.static_peers = settings.peers.iter().map(|address| address.parse()).collect::<Result<_, _>>()?;
    config.archive = settings.archive.as_ref().map(|file| ArchiveConfig::new(std::path::PathBuf::from(file)));
    config.lightpush = Some(LightPushConfig::default());
    config.filter = Some(FilterConfig::default());
    if let Some(records) = &settings.records {
        let records: Result<Vec<NodeRecord>, _> = records.iter().map(|record| record.parse()).collect();
        config.discovery = Some(DiscoveryConfig {
            limits: DiscoveryLimits::shared_address(),
            ..DiscoveryConfig::new(Some("127.0.0.1:0".parse()?), records?)
        });
    }
    config.limits = NodeLimits { subscription_messages: 100_000, ..NodeLimits::shared_address() };
    Ok(config)
}

async fn obey(node: &NodeHandle, command: Command) -> Result<Value, Box<dyn Error>> {
    match command {
        Command::Publish { topic, payload } => {
            let message = WakuMessage::new(topic.parse()?, payload.into_bytes(), node.now());
            Ok(json!({ "published": node.publish(message).await?.hash.to_string() }))
        }
        Command::Mesh { shard, peers } => {
            let topic = PubsubTopic::new(node.cluster(), ShardIndex::new(shard)?);
            node.wait_for_mesh(topic, peers, LIMIT).await?;
            Ok(json!({ "mesh": peers }))
        }
        Command::Found { peer } => {
            let wanted = peer.parse()?;
            let mut found = node.watch_found_peers()?;
            let find = async {
                while let Some(found) = found.next().await {
                    if found.record.peer_id() == wanted {
                        return Ok(());
                    }
                }
                Err("the node ended")
            };
            tokio::time::timeout(LIMIT, find).await??;
            Ok(json!({ "found": peer }))
        }
        Command::Flush => {
            node.flush_archive().await;
            Ok(json!({ "flushed": true }))
        }
    }
}

#[tokio::main]
async fn main() -> Result<(), Box<dyn Error>> {
    let settings: Settings = serde_json::from_str(&std::env::args().nth(1).ok_or("settings are missing")?)?;
    let node = Node::spawn(config(&settings)?).await?;
    let addresses: Vec<String> = node.listen_addrs().iter().map(ToString::to_string).collect();
    let record = node.record().map(|record| record.to_string());
    println!("{}", json!({ "peer_id": node.peer_id().to_string(), "addresses": addresses, "record": record }));
    let mut received = node.subscribe_all()?;
    let (lines, mut input) = mpsc::channel(1024);
    std::thread::spawn(move || {
        for line in std::io::stdin().lock().lines().map_while(Result::ok) {
            if lines.blocking_send(line).is_err() {
                return;
            }
        }
    });
    loop {
        tokio::select! {
            message = received.recv() => {
                let Some(message) = message else { break };
                println!("{}", json!({ "received": message.hash.to_string() }));
            }
            line = input.recv() => {
                let Some(line) = line else { break };
                let answer = match serde_json::from_str(&line) {
                    Ok(command) => obey(&node, command).await,
                    Err(e) => Err(e.into()),
                };
                println!("{}", answer.unwrap_or_else(|e| json!({ "error": e.to_string() })));
            }
        }
    }
    node.shutdown().await;
    Ok(())
}
