//! What a chain node learns from a wallet that follows the chain and prepares transactions: nothing but that it follows this pool.

use std::{
    collections::BTreeSet,
    sync::{Arc, Mutex},
};

use alloy::providers::{Provider, ProviderBuilder};
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::{TcpListener, TcpStream},
};
use tributary_ledger::{Ledger, LedgerConfig, PoolEvent};
use tributary_wallet::{Intent, Origin, SendTerms, Services, Wallet, prove_insertions};

use crate::net::{L, Net, amount, prover};

/// Passes bytes on to a node and keeps what the client says.
async fn eavesdrop(node: String) -> (String, Arc<Mutex<Vec<u8>>>) {
    let heard = Arc::new(Mutex::new(Vec::new()));
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = format!("http://{}", listener.local_addr().unwrap());
    let kept = Arc::clone(&heard);
    tokio::spawn(async move {
        while let Ok((client, _)) = listener.accept().await {
            let server = TcpStream::connect(&node).await.unwrap();
            let (mut from_client, mut to_client) = client.into_split();
            let (mut from_server, mut to_server) = server.into_split();
            let heard = Arc::clone(&kept);
            tokio::spawn(async move {
                let mut buffer = vec![0; 65_536];
                while let Ok(n) = from_client.read(&mut buffer).await {
                    if n == 0 || to_server.write_all(&buffer[..n]).await.is_err() {
                        break;
                    }
                    heard.lock().unwrap().extend_from_slice(&buffer[..n]);
                }
            });
            tokio::spawn(async move { tokio::io::copy(&mut from_server, &mut to_client).await });
        }
    });
    (address, heard)
}

#[tokio::test(flavor = "multi_thread")]
async fn requests_to_the_chain_node_name_no_leaf_tag_or_note() {
    let net = Net::start().await;
    let (payer, payee) = (net.wallet(1).await, net.wallet(2).await);
    net.deposit(&payer, 0, 1_000_000).await;
    net.run(&payer, 0, Intent::Open(net.stream_to(&payee, 10, 50).await)).await;
    net.run(&payer, 0, Intent::Transfer { to: payee.address(), amount: amount(10) }).await;
    net.advance(L).await;
    net.sync(&[&payer, &payee]).await;
    let claim = payee.prepare_claim(SendTerms::default()).await.unwrap();
    net.send(&payee, 1, &claim).await;
    // Something waits for insertion.
    let prepared = payer.prepare(Intent::Merge, SendTerms::default()).await;
    assert_eq!(crate::net::code(prepared), "TRB-3008");
    net.advance(L).await;

    let (address, heard) = eavesdrop(net.endpoint_host()).await;
    let provider = ProviderBuilder::new().connect_http(address.parse().unwrap()).erased();
    let path = net.dir.path().join("watched.sqlite");
    let ledger = Ledger::open(&path, provider, net.manifest.clone(), LedgerConfig::default()).await.unwrap();
    let scope = payer.keys().scope;
    for seed in [1, 2] {
        let keys = Net::mnemonic(seed).seed("").account(scope).unwrap();
        let services = Services { ledger: ledger.clone(), ..net.services() };
        let database = net.dir.path().join(format!("watched-{seed}.sqlite"));
        let wallet = Wallet::with_keys(&database, keys, services, Default::default(), Origin::Restored).await.unwrap();
        wallet.sync().await.unwrap();
        wallet.balance().await.unwrap();
        if seed == 1 {
            let streams = wallet.payer_streams(true).await.unwrap();
            assert_eq!(streams.len(), 1);
            wallet.prepare(Intent::Close { stream: streams[0].commitment }, SendTerms::default()).await.unwrap();
            let intent = Intent::Withdraw { recipient: net.account(5), amount: amount(1) };
            wallet.prepare(intent, SendTerms::default()).await.unwrap();
        } else {
            wallet.prepare_claim(SendTerms::default()).await.unwrap();
        }
        wallet.sync().await.unwrap();
    }
    prove_insertions(&ledger, &prover(), 8).await.unwrap();

    let heard = String::from_utf8(heard.lock().unwrap().clone()).unwrap().to_lowercase();
    let methods: BTreeSet<&str> =
        heard.split("\"method\":\"").skip(1).map(|rest| rest.split('"').next().unwrap()).collect();
    assert_eq!(methods, BTreeSet::from(["eth_chainid", "eth_getblockbynumber", "eth_getlogs"]));
    let mut names = Vec::new();
    for event in net.events().await {
        names.extend(event.outputs().iter().map(|output| output.commitment.to_string()));
        names.extend(event.nullifiers().iter().map(ToString::to_string));
        if let PoolEvent::Claimed { windows, .. } = event {
            names.extend(windows.iter().map(|window| window.tag.to_string()));
        }
    }
    names.extend(payer.payer_streams(true).await.unwrap().iter().map(|stream| stream.tag.to_string()));
    assert!(names.len() > 10);
    for name in &names {
        assert!(!heard.contains(name.trim_start_matches("0x")), "{name} was named to the chain node");
    }
    assert!(heard.contains(&format!("{:#x}", net.manifest.pool)), "the pool is");
}
