//! A node on loopback that finds others by discv5: for trying discovery against other implementations.
//!
//! `discover <cluster> <shards> [record..]`, the shards with commas between them. Prints `own enr:..`, then
//! `found enr:..` for each peer found and `connected <peer id>` for each one connected, until its input ends. A record
//! that isn't valid ends it with the error's code.

use std::{error::Error, io::Read as _, time::Duration};

use tributary_waku::{
    ClusterId, DiscoveryConfig, DiscoveryLimits, Node, NodeConfig, NodeKey, NodeLimits, NodeRecord, ServiceFamilies,
    ShardIndex, Sharding,
};

#[tokio::main]
async fn main() -> Result<(), Box<dyn Error>> {
    let mut arguments = std::env::args().skip(1);
    let (Some(cluster), Some(shards)) = (arguments.next(), arguments.next()) else {
        return Err("usage: discover <cluster> <shard,shard,..> [record..]".into());
    };
    let shards = shards.split(',').map(|shard| Ok(ShardIndex::new(shard.parse()?)?));
    let bootstrap: Result<Vec<NodeRecord>, _> = arguments.map(|record| record.parse()).collect();
    let bootstrap = bootstrap.map_err(|e| format!("{}: {e}", e.code()))?;
    let node = Node::spawn(NodeConfig {
        listen: vec!["/ip4/127.0.0.1/tcp/0".parse()?],
        shards: shards.collect::<Result<_, Box<dyn Error>>>()?,
        limits: NodeLimits::shared_address(),
        discovery: Some(DiscoveryConfig {
            sells: ServiceFamilies::STORE,
            limits: DiscoveryLimits::shared_address(),
            ..DiscoveryConfig::new(Some("127.0.0.1:0".parse()?), bootstrap)
        }),
        ..NodeConfig::new(NodeKey::generate(), ClusterId(cluster.parse()?), Sharding::Static)
    })
    .await?;
    println!("own {}", node.record().ok_or("no record")?);
    let mut found = node.watch_found_peers()?;
    let (end, mut ended) = tokio::sync::oneshot::channel::<()>();
    std::thread::spawn(move || {
        let _ = std::io::stdin().read_to_end(&mut Vec::new());
        drop(end);
    });
    let mut connected = Vec::new();
    let mut look = tokio::time::interval(Duration::from_millis(200));
    loop {
        tokio::select! {
            _ = &mut ended => break,
            Some(peer) = found.next() => println!("found {}", peer.record),
            _ = look.tick() => for peer in node.connected_peers().await {
                if !connected.contains(&peer) {
                    println!("connected {peer}");
                    connected.push(peer);
                }
            },
        }
    }
    node.shutdown().await;
    Ok(())
}
