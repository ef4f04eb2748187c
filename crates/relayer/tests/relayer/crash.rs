//! kill -9 between writing a transaction down and sending it.

use std::{path::PathBuf, process::Stdio};

use alloy::{
    consensus::TxEnvelope,
    eips::eip2718::Decodable2718 as _,
    providers::{Provider, ProviderBuilder},
};
use tokio::{
    io::{AsyncBufReadExt as _, AsyncReadExt as _, AsyncWriteExt as _, BufReader},
    net::{TcpListener, TcpStream},
    sync::Notify,
};
use tributary_bindings::DeploymentManifest;
use tributary_ledger::{Ledger, LedgerConfig, ManualClock};
use tributary_relayer::{Engine, RelayerStore, RequestState};

use crate::{
    desk::{CONFIG, Desk, FEE, RELAYER, database, engine, key},
    net::prover,
};

const CHILD: &str = "TRIBUTARY_TEST_RELAYER_CHILD";

/// Not a test by itself: the process that [`a_killed_relayer_sends_what_it_wrote_down_once`] kills. It sends what waits in its database.
#[tokio::test(flavor = "multi_thread")]
async fn child_that_is_killed() {
    let Ok(settings) = std::env::var(CHILD) else { return };
    let mut settings = settings.split('|');
    let mut next = || settings.next().unwrap().to_owned();
    let (endpoint, dir, signer, now) = (next(), PathBuf::from(next()), next(), next());
    let chain = ProviderBuilder::new().disable_recommended_fillers().connect_http(endpoint.parse().unwrap()).erased();
    let manifest = DeploymentManifest::read(dir.join("manifest.json")).unwrap();
    let ledger =
        Ledger::open(&dir.join("child.sqlite"), chain.clone(), manifest, LedgerConfig::default()).await.unwrap();
    let store = RelayerStore::open(&dir.join("relayer.sqlite")).await.unwrap();
    let clock = std::sync::Arc::new(ManualClock::new(now.parse().unwrap()));
    let engine = Engine::new(chain, signer.parse().unwrap(), ledger, prover(), store, CONFIG, clock);
    engine.turn().await.unwrap();
}

/// Passes requests on to the chain node, but holds a raw transaction back for ever and tells that it came.
async fn holding_back(node: String) -> (String, std::sync::Arc<Notify>) {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = format!("http://{}", listener.local_addr().unwrap());
    let held = std::sync::Arc::new(Notify::new());
    let tell = std::sync::Arc::clone(&held);
    tokio::spawn(async move {
        while let Ok((client, _)) = listener.accept().await {
            let (node, tell) = (node.clone(), std::sync::Arc::clone(&tell));
            tokio::spawn(async move {
                let _ = pass_on(client, &node, &tell).await;
            });
        }
    });
    (address, held)
}

async fn pass_on(client: TcpStream, node: &str, held: &Notify) -> std::io::Result<()> {
    let mut server = BufReader::new(TcpStream::connect(node).await?);
    let mut client = BufReader::new(client);
    loop {
        let request = message(&mut client).await?;
        if request.windows(22).any(|bytes| bytes == b"eth_sendRawTransaction") {
            held.notify_one();
            std::future::pending::<()>().await;
        }
        server.write_all(&request).await?;
        let answer = message(&mut server).await?;
        client.write_all(&answer).await?;
    }
}

/// One HTTP message with a body of a known length.
async fn message(stream: &mut BufReader<TcpStream>) -> std::io::Result<Vec<u8>> {
    let mut bytes = Vec::new();
    let mut length = 0;
    loop {
        let start = bytes.len();
        if stream.read_until(b'\n', &mut bytes).await? == 0 {
            return Err(std::io::ErrorKind::UnexpectedEof.into());
        }
        let line = String::from_utf8_lossy(&bytes[start..]).to_lowercase();
        if let Some(value) = line.strip_prefix("content-length:") {
            length = value.trim().parse().unwrap();
        }
        if line.trim().is_empty() {
            let start = bytes.len();
            bytes.resize(start + length, 0);
            stream.read_exact(&mut bytes[start..]).await?;
            return Ok(bytes);
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_killed_relayer_sends_what_it_wrote_down_once() {
    let desk = Desk::open().await;
    desk.submit(1, &desk.transfer().await, true).await.unwrap();
    let (proxy, held) = holding_back(desk.net.endpoint_host()).await;
    let dir = desk.net.dir.path();
    std::fs::write(dir.join("manifest.json"), serde_json::to_vec(&desk.net.manifest).unwrap()).unwrap();
    let signer = alloy::hex::encode(desk.net.signer(RELAYER).to_bytes());
    let now = tributary_ledger::Clock::now(&desk.clock);
    let mut child = tokio::process::Command::new(std::env::current_exe().unwrap())
        .args(["--exact", "crash::child_that_is_killed", "--nocapture"])
        .env(CHILD, format!("{proxy}|{}|{signer}|{now}", dir.display()))
        .stdout(Stdio::null())
        .kill_on_drop(true)
        .spawn()
        .unwrap();
    tokio::select! {
        () = held.notified() => {}
        status = child.wait() => panic!("the relayer ended before it sent: {status:?}"),
    }
    child.kill().await.unwrap();

    // Written down, never sent.
    let store = RelayerStore::open(&database(&desk.net)).await.unwrap();
    let [written] = &store.unsettled().await.unwrap()[..] else { panic!("one transaction is written down") };
    let envelope = TxEnvelope::decode_2718(&mut written.raw.as_ref()).unwrap();
    assert_eq!(*envelope.tx_hash(), written.hash);
    assert_eq!(desk.sent().await, 0);
    assert!(matches!(store.find(key(1)).await.unwrap().state, RequestState::Pending { .. }));

    let after = engine(&desk.net, desk.net.provider.clone(), CONFIG, desk.clock.clone()).await;
    after.turn().await.unwrap();
    desk.mined().await;
    after.turn().await.unwrap();
    let state = after.status(key(1)).await.unwrap();
    let RequestState::Confirmed { transaction, inserted: true, .. } = state else { panic!("{state:?}") };
    assert_eq!(transaction, written.hash, "the very transaction that was written down");
    assert_eq!((desk.sent().await, desk.earned().await), (1, FEE));
}
