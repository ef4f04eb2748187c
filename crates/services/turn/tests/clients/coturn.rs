//! A real coturn, its admin port and credentials of its REST scheme.

use std::net::{SocketAddr, TcpListener, UdpSocket as StdSocket};
use std::path::Path;
use std::process::Stdio;
use std::time::{Duration, Instant, SystemTime};

use hmac::{Hmac, Mac as _};
use sha1::Sha1;
use tokio::process::{Child, Command};
use tributary_protocol::UnixTime;
use tributary_service_turn::{
    Allowance, Backend, BackendError, Coturn, CoturnConfig, Credential, LeaseId, TurnClient, TurnClientError,
};

use crate::{Echo, LOOK, PATIENCE, PLENTY, loopback, uclient, until};

const PASSWORD: &str = "of-the-admin-port";
const SECRET: &str = "of-the-credentials";
const REALM: &str = "tributary";

struct Server {
    turn: SocketAddr,
    admin: SocketAddr,
    _process: Child,
    _folder: tempfile::TempDir,
}

impl Server {
    /// `None` where coturn isn't installed.
    async fn start() -> Option<(Self, Coturn)> {
        let folder = tempfile::tempdir().unwrap();
        let turn = StdSocket::bind(loopback()).unwrap().local_addr().unwrap();
        let admin = TcpListener::bind(loopback()).unwrap().local_addr().unwrap();
        let file = |name: &str| folder.path().join(name).display().to_string();
        let (listen, port, cli) = (turn.ip(), turn.port(), admin.port());
        let settings = format!(
            "listening-ip={listen}\nrelay-ip={listen}\nlistening-port={port}\nuse-auth-secret\nstatic-auth-secret={SECRET}\nrealm={REALM}\n\
             cli-ip={listen}\ncli-port={cli}\ncli-password={PASSWORD}\nallow-loopback-peers\nno-tls\nno-dtls\nno-stdout-log\nlog-file={}\n\
             userdb={}\npidfile={}\n",
            file("log"),
            file("database"),
            file("pid"),
        );
        std::fs::write(file("turnserver.conf"), settings).unwrap();
        let spawned = Command::new("turnserver")
            .args(["-c", &file("turnserver.conf")])
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .kill_on_drop(true)
            .spawn();
        let Ok(process) = spawned else {
            eprintln!("left out: turnserver isn't installed, script/setup js-tests does it");
            return None;
        };
        let server = Self { turn, admin, _process: process, _folder: folder };
        let begun = Instant::now();
        loop {
            match Coturn::start(server.config(PASSWORD)).await {
                Ok(backend) => return Some((server, backend)),
                Err(error) => assert!(begun.elapsed() < PATIENCE, "coturn doesn't start: {error}"),
            }
            tokio::time::sleep(LOOK).await;
        }
    }

    fn config(&self, password: &str) -> CoturnConfig {
        CoturnConfig::new(self.admin, password.into(), SECRET.into(), REALM.into())
    }

    async fn allocate(&self, credential: &Credential) -> Result<TurnClient, TurnClientError> {
        TurnClient::allocate(self.turn, credential.clone(), PATIENCE).await
    }
}

/// The time in so many seconds: coturn knows no other clock.
fn in_seconds(seconds: u64) -> UnixTime {
    let now = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).unwrap().as_secs();
    UnixTime::new(now + seconds).unwrap()
}

/// Looks at coturn, which may take longer for an answer than one look waits while the machine is busy.
async fn look(backend: &Coturn) {
    let begun = Instant::now();
    while let Err(error) = backend.poll().await {
        assert!(error.code() == "TRB-5712" && begun.elapsed() < PATIENCE, "{error}");
        tokio::time::sleep(LOOK).await;
    }
}

/// Waits for what only a look at coturn shows.
async fn until_seen(what: &str, backend: &Coturn, holds: impl Fn(&Coturn) -> bool) -> Duration {
    let begun = Instant::now();
    loop {
        look(backend).await;
        if holds(backend) {
            return begun.elapsed();
        }
        assert!(begun.elapsed() < PATIENCE, "{what} took too long");
        tokio::time::sleep(LOOK).await;
    }
}

/// Waits until an allocation is cut: coturn does it soon after it took the order.
async fn until_cut(call: &mut TurnClient, backend: &Coturn) -> Duration {
    let begun = Instant::now();
    loop {
        match call.refresh(Duration::from_secs(60)).await {
            Err(error) => {
                assert_eq!(error.refusal(), Some(437), "{error}");
                return begun.elapsed();
            }
            Ok(()) => assert!(begun.elapsed() < PATIENCE, "it is never cut"),
        }
        look(backend).await;
        tokio::time::sleep(LOOK).await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn coturns_credential_ends_with_its_lease_a_renewal_keeps_the_call_up_and_its_end_cuts_it() {
    let Some((server, backend)) = Server::start().await else { return };
    let echo = Echo::start().await;
    let lease = LeaseId::random();
    let first = backend.issue(lease, in_seconds(6));
    backend.allow(lease, PLENTY);
    let _call = uclient(server.turn, &echo, &first, &["-n", "100000", "-l", "200"]).spawn().unwrap();
    until("the call", || echo.seen() > 20).await;

    // The first slot is over, the second one is paid.
    let second = backend.issue(lease, in_seconds(60));
    let begun = Instant::now();
    let refused = loop {
        match server.allocate(&first).await {
            // The system gave this socket the port of one before, whose allocation coturn still has: it is given back a second after it is asked to.
            Err(error) if error.refusal() == Some(437) => {}
            Err(error) => break error,
            Ok(mut client) => {
                let _ = client.refresh(Duration::ZERO).await;
            }
        }
        assert!(begun.elapsed() < PATIENCE, "an old credential is good for ever");
        tokio::time::sleep(10 * LOOK).await;
    };
    assert_eq!((refused.code(), refused.refusal()), ("TRB-5733", Some(401)), "{refused}");
    drop(server.allocate(&second).await.unwrap());
    let seen = echo.seen();
    look(&backend).await;
    until("more of the call", || echo.seen() > seen + 50).await;
    assert!(backend.list().iter().all(|session| session.lease == lease && session.client.is_some()));

    // What is live of a revoked lease is ended by each look, should this one have no answer.
    if backend.revoke(lease).await.is_err() {
        look(&backend).await;
    }
    let took = until_seen("the cut", &backend, |backend| backend.list().is_empty()).await;
    assert!(took <= Duration::from_secs(2), "cut after {took:?}");
    // The client still sends a packet every 20 ms: none of them gets through.
    echo.still(Duration::from_millis(500)).await;
    // The credential itself is good for a minute still; what it allocates is ended by the next look.
    let mut again = server.allocate(&second).await.unwrap();
    until_cut(&mut again, &backend).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn coturns_calls_are_cut_when_their_bytes_are_used_and_when_they_are_too_many() {
    let Some((server, backend)) = Server::start().await else { return };
    let echo = Echo::start().await;
    let lease = LeaseId::random();
    let credential = backend.issue(lease, in_seconds(60));
    backend.allow(lease, Allowance { bytes: 1_000_000, allocations: 2, bindings: 0 });
    let mut call = server.allocate(&credential).await.unwrap();
    call.bind_channel(0x4001, echo.address).await.unwrap();
    let mut second = server.allocate(&credential).await.unwrap();
    until_seen("two calls", &backend, |backend| backend.list().len() == 2).await;
    // coturn counts age in seconds.
    tokio::time::sleep(Duration::from_millis(1100)).await;
    let mut third = server.allocate(&credential).await.unwrap();
    until_cut(&mut third, &backend).await;
    until_seen("the newest's end", &backend, |backend| backend.list().len() == 2).await;
    for other in [&mut call, &mut second] {
        other.refresh(Duration::from_secs(60)).await.expect("no other is cut");
    }

    // It tells what was used after each 2048 packets: until then the call goes on.
    let payload = [7; 1000];
    let begun = Instant::now();
    while backend.usage(lease).bytes < 1_000_000 {
        for _ in 0..50 {
            call.send(echo.address, &payload).await.unwrap();
        }
        look(&backend).await;
        assert!(begun.elapsed() < PATIENCE, "{} bytes", backend.usage(lease).bytes);
        tokio::time::sleep(Duration::from_millis(1)).await;
    }
    let took = until_seen("the cut", &backend, |backend| backend.list().is_empty()).await;
    assert!(took <= Duration::from_secs(2), "cut after {took:?}");
    until_cut(&mut call, &backend).await;
    assert!(backend.usage(lease).bytes < 1_000_000 + 2 * 2048 * 1100, "{} bytes", backend.usage(lease).bytes);
}

#[tokio::test(flavor = "multi_thread")]
async fn coturns_leftovers_of_an_earlier_run_are_ended_and_other_users_left_alone() {
    let Some((server, before)) = Server::start().await else { return };
    let lease = LeaseId::random();
    let credential = before.issue(lease, in_seconds(60));
    before.allow(lease, PLENTY);
    let mut call = server.allocate(&credential).await.unwrap();
    let username = format!("{}:guest", in_seconds(60).get());
    let mut mac = Hmac::<Sha1>::new_from_slice(SECRET.as_bytes()).unwrap();
    mac.update(username.as_bytes());
    let password = base64(&mac.finalize().into_bytes());
    let mut other = server.allocate(&Credential { username, password }).await.unwrap();

    let now = Coturn::start(server.config(PASSWORD)).await.unwrap();
    until_cut(&mut call, &now).await;
    other.refresh(Duration::from_secs(60)).await.unwrap();
    now.stop().await;
    other.refresh(Duration::from_secs(60)).await.unwrap();

    let refused = Coturn::start(server.config("wrong-one")).await.unwrap_err();
    assert!(matches!(refused, BackendError::Admin { .. }) && refused.code() == "TRB-5712", "{refused}");
    assert!(refused.to_string().contains("password is not taken"), "{refused}");
    let log = logged(server._folder.path());
    for shown in [format!("{refused} {:?} {now:?}", server.config(PASSWORD)), log] {
        assert!(![PASSWORD, SECRET, "wrong-one"].iter().any(|secret| shown.contains(secret)), "{shown}");
    }
}

/// All that coturn logged.
fn logged(folder: &Path) -> String {
    let files = std::fs::read_dir(folder).unwrap().filter_map(Result::ok);
    let logs = files.filter(|file| file.file_name().to_string_lossy().starts_with("log"));
    logs.map(|file| String::from_utf8_lossy(&std::fs::read(file.path()).unwrap()).into_owned()).collect()
}

fn base64(bytes: &[u8]) -> String {
    const DIGITS: &[u8; 64] = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/";
    // 20 bytes: six groups of three, and one of two.
    let mut text = String::new();
    for group in bytes.chunks(3) {
        let word = group.iter().enumerate().fold(0_u32, |word, (at, byte)| word | u32::from(*byte) << (16 - 8 * at));
        text.extend((0..=group.len()).map(|at| char::from(DIGITS[(word >> (18 - 6 * at)) as usize & 63])));
    }
    text + "="
}
