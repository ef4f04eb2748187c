//! The real program: a plain node from `init` to SIGTERM, its HTTP port, and what a kill leaves behind.

#[path = "../../waku/tests/support/postgres.rs"]
mod postgres;

use std::io::{BufRead as _, BufReader, Read as _, Write as _};
use std::net::{TcpListener, TcpStream};
use std::os::unix::process::ExitStatusExt as _;
use std::path::Path;
use std::process::{Child, ChildStdout, Command, ExitStatus, Output, Stdio};
use std::time::{Duration, Instant};

use serde_json::Value;
use sqlx::{Connection as _, PgConnection};
use tempfile::TempDir;
use tributary_waku::{
    ArchivedMessage, ClusterId, ContentTopic, LightPushRequest, Node, NodeConfig, NodeHandle, NodeKey, NodeLimits,
    PubsubTopic, ShardIndex, Sharding, StoreQueryRequest, StoreStatus, WakuMessage,
};

/// How long a test waits for something that must come.
const PATIENCE: Duration = Duration::from_secs(60);

fn tributary(home: &Path) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_tributary"));
    command.env_clear().arg("--home").arg(home).stdin(Stdio::null());
    command
}

fn run(command: &mut Command) -> Output {
    command.output().unwrap()
}

/// A home made without password, chain or terminal.
fn node_home(options: &[&str]) -> TempDir {
    let home = tempfile::tempdir().unwrap();
    let made = run(tributary(&home.path().join("home")).args(["--json", "init", "--node"]).args(options));
    assert!(made.status.success(), "{}", String::from_utf8_lossy(&made.stderr));
    home
}

/// Time between two looks.
const LOOK: Duration = Duration::from_millis(10);

struct Daemon {
    child: Child,
    started: Value,
    _stdout: BufReader<ChildStdout>,
}

impl Daemon {
    fn start(home: &TempDir) -> Self {
        let mut child =
            tributary(&home.path().join("home")).args(["node", "run"]).stdout(Stdio::piped()).spawn().unwrap();
        let mut stdout = BufReader::new(child.stdout.take().unwrap());
        let mut line = String::new();
        stdout.read_line(&mut line).unwrap();
        let started: Value = serde_json::from_str(&line).unwrap();
        assert_eq!(started["role"], "node");
        Self { child, started, _stdout: stdout }
    }

    fn http(&self) -> &str {
        self.started["http"].as_str().unwrap().strip_prefix("http://").unwrap()
    }

    fn address(&self) -> &str {
        self.started["addresses"][0].as_str().unwrap()
    }

    /// Status, content type and body.
    fn ask(&self, method: &str, path: &str) -> (u16, String, String) {
        let mut stream = TcpStream::connect(self.http()).unwrap();
        stream.set_read_timeout(Some(PATIENCE)).unwrap();
        write!(stream, "{method} {path} HTTP/1.1\r\nHost: {}\r\n\r\n", self.http()).unwrap();
        let mut text = String::new();
        stream.read_to_string(&mut text).unwrap();
        let (head, body) = text.split_once("\r\n\r\n").unwrap();
        let status = head.split(' ').nth(1).unwrap().parse().unwrap();
        let kind = head.lines().find_map(|line| line.strip_prefix("content-type: ")).unwrap_or_default();
        (status, kind.to_owned(), body.to_owned())
    }

    fn json(&self, path: &str) -> (u16, Value) {
        let (status, kind, body) = self.ask("GET", path);
        assert_eq!(kind, "application/json");
        (status, serde_json::from_str(&body).unwrap())
    }

    fn signal(&self, name: &str) {
        let sent = Command::new("kill").args(["-s", name, &self.child.id().to_string()]).status().unwrap();
        assert!(sent.success());
    }

    fn ended(mut self) -> ExitStatus {
        let until = Instant::now() + PATIENCE;
        loop {
            match self.child.try_wait().unwrap() {
                Some(status) => return status,
                None if Instant::now() > until => panic!("it does not end"),
                None => std::thread::sleep(LOOK),
            }
        }
    }
}

impl Drop for Daemon {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// Looks until it holds.
fn until(what: &str, condition: impl Fn() -> bool) {
    let end = Instant::now() + PATIENCE;
    while !condition() {
        assert!(Instant::now() < end, "never: {what}");
        std::thread::sleep(LOOK);
    }
}

fn check<'a>(ready: &'a Value, name: &str) -> &'a Value {
    ready["checks"].as_array().unwrap().iter().find(|check| check["check"] == name).unwrap()
}

#[test]
fn a_node_alone_lives_reports_and_stops_in_good_order() {
    let home = node_home(&["--archive"]);
    let node = Daemon::start(&home);

    let (status, health) = node.json("/health");
    assert_eq!((status, &health["alive"], &health["role"]), (200, &Value::Bool(true), &Value::from("node")));

    // It has no peer, and says what to do.
    let (status, ready) = node.json("/ready");
    assert_eq!((status, &ready["ready"]), (503, &Value::Bool(false)));
    assert_eq!(check(&ready, "listening")["ok"], true);
    assert!(check(&ready, "peers")["reason"].as_str().unwrap().contains("metrics.min_peers"), "{ready}");

    let (status, kind, text) = node.ask("GET", "/metrics");
    assert_eq!(status, 200);
    assert!(kind.starts_with("application/openmetrics-text"), "{kind}");
    assert!(text.ends_with("# EOF\n"));
    for line in [
        "tributary_node_peers 0",
        "tributary_ready 0",
        "tributary_node_archive_messages 0",
        "tributary_node_requests_total{protocol=\"store\",outcome=\"answered\"} 0",
    ] {
        assert!(text.lines().any(|l| l == line), "no '{line}' in\n{text}");
    }

    assert_eq!(node.ask("POST", "/metrics").0, 405);
    assert_eq!(node.ask("GET", "/metrics/..").0, 404);
    let (status, _, body) = node.ask("HEAD", "/health");
    assert_eq!((status, body.as_str()), (200, ""));

    node.signal("TERM");
    let status = node.ended();
    assert_eq!(status.code(), Some(0), "{status}");
}

#[test]
fn peers_make_a_node_ready_and_stand_in_no_metric() {
    let first_home = node_home(&["--archive"]);
    let first = Daemon::start(&first_home);
    let second_home = node_home(&["--bootstrap", first.address()]);
    let second = Daemon::start(&second_home);
    for node in [&first, &second] {
        until("a node with a peer is ready", || node.json("/ready").0 == 200);
        let (_, _, text) = node.ask("GET", "/metrics");
        assert!(text.lines().any(|line| line == "tributary_node_peers 1"), "{text}");
        for other in [&first, &second] {
            let id = other.started["peer_id"].as_str().unwrap();
            assert!(!text.contains(id), "a peer id in\n{text}");
        }
        assert!(!text.contains("/ip4/") && !text.contains("127.0.0.1"), "an address in\n{text}");
    }
    second.signal("INT");
    assert_eq!(second.ended().code(), Some(0));
    until("the other noticed", || first.json("/ready").0 == 503);
}

#[test]
fn a_killed_node_starts_again_under_its_name() {
    let home = node_home(&["--archive"]);
    let mut node = Daemon::start(&home);
    let id = node.started["peer_id"].clone();
    node.child.kill().unwrap();
    assert_eq!(node.ended().signal(), Some(9));
    let again = Daemon::start(&home);
    assert_eq!(again.started["peer_id"], id);
    assert_eq!(again.json("/health").0, 200);
    again.signal("TERM");
    assert_eq!(again.ended().code(), Some(0));
}

/// A daemon whose bootstrap peer takes the connection and says nothing.
fn dialing() -> (TempDir, TcpListener, TcpStream, Child) {
    let id = {
        let home = node_home(&[]);
        Daemon::start(&home).started["peer_id"].as_str().unwrap().to_owned()
    };
    let mute = TcpListener::bind("127.0.0.1:0").unwrap();
    let peer = format!("/ip4/127.0.0.1/tcp/{}/p2p/{id}", mute.local_addr().unwrap().port());
    let home = node_home(&[]);
    let file = home.path().join("home/tributary.toml");
    std::fs::write(file, format!("stop_limit = 600\n[waku]\nbootstrap = [\"{peer}\"]\n")).unwrap();
    let child = tributary(&home.path().join("home"))
        .args(["node", "run"])
        .stdout(Stdio::null())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    let (connection, _) = mute.accept().unwrap();
    (home, mute, connection, child)
}

fn terminate(child: &Child) {
    assert!(Command::new("kill").args(["-s", "TERM", &child.id().to_string()]).status().unwrap().success());
}

#[test]
fn a_daemon_that_dials_is_stopped_at_once() {
    let (_home, _mute, _connection, mut child) = dialing();
    let begun = Instant::now();
    terminate(&child);
    let status = child.wait().unwrap();
    assert_eq!(status.code(), Some(0), "{status}");
    // Half of the time that the dial would have.
    assert!(begun.elapsed() < Duration::from_secs(5), "{:?}", begun.elapsed());
}

/// A home whose archive is the database.
fn postgres_home(config: &str, url: &str) -> TempDir {
    let home = node_home(&[]);
    let file = home.path().join("home/tributary.toml");
    std::fs::write(file, format!("{config}\n[waku]\narchive = \"{url}\"\n")).unwrap();
    home
}

/// Takes a lock in the database, until the connection goes.
async fn lock(url: &str, table: &str, mode: &str) -> PgConnection {
    let mut connection = PgConnection::connect(url).await.unwrap();
    let statement = format!("BEGIN; LOCK TABLE {table} IN {mode} MODE");
    sqlx::raw_sql(sqlx::AssertSqlSafe(statement)).execute(&mut connection).await.unwrap();
    connection
}

/// Waits until a statement in the database waits for a lock.
async fn until_blocked(url: &str) {
    let mut connection = PgConnection::connect(url).await.unwrap();
    let blocked = async {
        loop {
            let waiting: i64 = sqlx::query_scalar(
                "SELECT COUNT(*) FROM pg_stat_activity WHERE datname = current_database() AND wait_event_type = 'Lock'",
            )
            .fetch_one(&mut connection)
            .await
            .unwrap();
            if waiting > 0 {
                return;
            }
            tokio::time::sleep(LOOK).await;
        }
    };
    tokio::time::timeout(PATIENCE, blocked).await.expect("nothing waits for the lock");
}

/// A daemon that is held up: its archive's retention waits for somebody else's lock.
async fn held_up(config: &str) -> (TempDir, PgConnection, Child) {
    let url = postgres::Server::shared().database().await;
    let home = postgres_home(config, &url);
    // Makes the tables.
    let daemon = Daemon::start(&home);
    daemon.signal("TERM");
    assert_eq!(daemon.ended().code(), Some(0));
    let held = lock(&url, "tributary_archive", "EXCLUSIVE").await;
    let child = tributary(&home.path().join("home"))
        .args(["node", "run"])
        .stdout(Stdio::null())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    until_blocked(&url).await;
    (home, held, child)
}

#[tokio::test(flavor = "multi_thread")]
async fn a_second_signal_ends_a_daemon_at_once() {
    let (_home, _held, mut child) = held_up("stop_limit = 600").await;
    // Signals that come before the last one is taken count as one.
    let end = Instant::now() + PATIENCE;
    let status = loop {
        if let Some(status) = child.try_wait().unwrap() {
            break status;
        }
        assert!(Instant::now() < end, "it does not end");
        terminate(&child);
        std::thread::sleep(LOOK);
    };
    assert_eq!(status.code(), Some(128 + 15), "{status}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_daemon_that_does_not_stop_in_time_is_ended() {
    let (_home, _held, child) = held_up("stop_limit = 1").await;
    terminate(&child);
    let output = child.wait_with_output().unwrap();
    assert_eq!(output.status.code(), Some(1));
    let log = String::from_utf8_lossy(&output.stderr);
    assert!(log.contains("TRB-X017"), "{log}");
    assert!(!log.contains(postgres::PASSWORD) && !log.contains("correct%20horse"), "{log}");
}

fn topic() -> ContentTopic {
    "/daemon/1/test/proto".parse().unwrap()
}

/// A light client of the daemon's network, connected to it.
async fn client(daemon: &Daemon, sharding: Sharding) -> (NodeHandle, tributary_waku::PeerId) {
    let config = NodeConfig {
        relay: false,
        limits: NodeLimits::shared_address(),
        ..NodeConfig::new(NodeKey::generate(), ClusterId(42), sharding)
    };
    let client = Node::spawn(config).await.unwrap();
    let peer = client.dial_within(&daemon.address().parse().unwrap(), PATIENCE).await.unwrap();
    (client, peer)
}

#[tokio::test(flavor = "multi_thread")]
async fn a_node_with_postgres_answers_what_it_was_asked_before_it_stops() {
    let url = postgres::Server::shared().database().await;
    let home = postgres_home("stop_limit = 600", &url);
    let mut daemon = Daemon::start(&home);
    let (client, peer) = client(&daemon, Sharding::Auto { shards: 8 }).await;
    let kept = WakuMessage::new(topic(), "kept", client.now());
    let shard = client.pubsub_topic(&topic()).unwrap();
    let archived = ArchivedMessage { hash: kept.hash(shard), pubsub_topic: shard, message: kept.into() };
    let archive = tributary_waku::ArchiveLocation::from(url.parse::<tributary_waku::PostgresUrl>().unwrap());
    archive.open().await.unwrap().insert(std::slice::from_ref(&archived)).await.unwrap();

    let held = lock(&url, "tributary_message", "ACCESS EXCLUSIVE").await;
    let asked = tokio::spawn({
        let client = client.clone();
        async move { client.store_query(peer, &StoreQueryRequest::by_topics(shard, [topic()])).await }
    });
    until_blocked(&url).await;
    daemon.signal("TERM");
    until("it is stopping", || check(&daemon.json("/ready").1, "running")["ok"] == false);
    let (_, ready) = daemon.json("/ready");
    assert_eq!(check(&ready, "archive")["ok"], true, "{ready}");
    assert!(daemon.child.try_wait().unwrap().is_none(), "a query is at work");
    // Others are not begun.
    let refused = client.store_query(peer, &StoreQueryRequest::new()).await.unwrap_err();
    assert_eq!(refused.code(), "TRB-W302", "{refused}");
    let metrics = daemon.ask("GET", "/metrics").2;
    for told in [ready.to_string(), daemon.json("/health").1.to_string(), metrics] {
        assert!(!told.contains("horse") && !told.contains("postgres"), "{told}");
    }

    drop(held);
    let answer = asked.await.unwrap().unwrap();
    assert_eq!(answer.status, StoreStatus::OK);
    assert_eq!(answer.messages.iter().map(|entry| entry.hash).collect::<Vec<_>>(), [archived.hash]);
    assert_eq!(daemon.ended().code(), Some(0));
}

#[tokio::test(flavor = "multi_thread")]
async fn doctor_looks_at_a_postgres_archive_and_tells_no_password() {
    let server = postgres::Server::shared();
    let url = server.database().await;
    let name = url.rsplit('/').next().unwrap();
    for (url, ok) in [(url.clone(), true), (server.url(postgres::USER, "hunter2", name), false)] {
        let home = postgres_home("", &url);
        let output = run(tributary(&home.path().join("home")).args(["--json", "--log", "debug", "doctor"]));
        assert_eq!(output.status.code(), Some(i32::from(!ok)));
        let checks: Value = serde_json::from_slice(&output.stdout).unwrap();
        let archive = check(&checks, "archive");
        assert_eq!(archive["ok"], ok, "{archive}");
        assert!(archive["detail"].as_str().unwrap().contains(&format!("/{name}")), "{archive}");
        for told in [output.stdout, output.stderr] {
            let told = String::from_utf8_lossy(&told).into_owned();
            assert!(!told.contains("horse") && !told.contains("hunter2"), "{told}");
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_node_of_static_shards_relays_them_and_counts_what_it_publishes() {
    let homes = [node_home(&["--archive"]), node_home(&[])];
    let set = |home: &TempDir, more: &str| {
        let text = format!("[waku]\nstatic_shards = [3, 700]\n{more}\n");
        std::fs::write(home.path().join("home/tributary.toml"), text).unwrap();
    };
    set(&homes[0], "archive = true");
    let first = Daemon::start(&homes[0]);
    set(&homes[1], &format!("bootstrap = [\"{}\"]", first.address()));
    let second = Daemon::start(&homes[1]);
    let (client, peer) = client(&second, Sharding::Static).await;
    let shard = PubsubTopic::new(ClusterId(42), ShardIndex::new(700).unwrap());
    let other = PubsubTopic::new(ClusterId(42), ShardIndex::new(4).unwrap());
    // Any text is a content topic here.
    let message = WakuMessage::new(ContentTopic::opaque("not structured"), "x", client.now());
    let push = async |shard| client.lightpush(peer, &LightPushRequest::new(Some(shard), message.clone())).await;
    assert!(push(other).await.is_err());
    let sent = |daemon: &Daemon, outcome: &str, n: u32| {
        let line = format!("tributary_node_published_messages_total{{outcome=\"{outcome}\"}} {n}");
        daemon.ask("GET", "/metrics").2.lines().any(|l| l == line)
    };
    assert!(sent(&second, "sent", 0));
    // The second node's mesh forms after it connected.
    let end = Instant::now() + PATIENCE;
    while let Err(error) = push(shard).await {
        assert!(Instant::now() < end, "{error}");
        tokio::time::sleep(LOOK).await;
    }
    assert!(sent(&second, "sent", 1) && sent(&first, "sent", 0));
    let storing = client.dial_within(&first.address().parse().unwrap(), PATIENCE).await.unwrap();
    let metadata = client.peers_metadata().await.into_iter().find(|(id, _)| *id == storing).unwrap().1.unwrap();
    assert_eq!(metadata.shards.iter().map(|shard| shard.get()).collect::<Vec<_>>(), [3, 700]);
    let query = StoreQueryRequest::by_topics(shard, [message.content_topic.clone()]);
    let end = Instant::now() + PATIENCE;
    while client.store_query(storing, &query).await.unwrap().messages.is_empty() {
        assert!(Instant::now() < end, "the message is not archived");
        tokio::time::sleep(LOOK).await;
    }

    // Whatever belongs to the market needs autosharding.
    let home = homes[1].path().join("home");
    let refused = run(tributary(&home).args(["--json", "relayer", "run"]));
    let error: Value = serde_json::from_slice(&refused.stderr).unwrap_or_default();
    assert_eq!((refused.status.code(), &error["error"]), (Some(2), &Value::from("TRB-X011")), "{error}");
    assert!(error["message"].as_str().unwrap().contains("waku.static_shards"), "{error}");
}

#[test]
fn many_idle_connections_leave_the_port_usable() {
    let home = node_home(&[]);
    let node = Daemon::start(&home);
    // More than it serves at once; each is cut after its time.
    let idle: Vec<_> = (0..40).map(|_| TcpStream::connect(node.http()).unwrap()).collect();
    assert_eq!(node.json("/health").0, 200);
    drop(idle);
    // A request head beyond the bound is refused, not collected.
    let mut stream = TcpStream::connect(node.http()).unwrap();
    stream.set_read_timeout(Some(PATIENCE)).unwrap();
    let _ = write!(stream, "GET /health HTTP/1.1\r\nX: {}\r\n\r\n", "x".repeat(1 << 20));
    let mut answer = String::new();
    let _ = stream.read_to_string(&mut answer);
    assert!(answer.is_empty() || answer.starts_with("HTTP/1.1 431"), "{answer}");
    assert_eq!(node.json("/health").0, 200);
}

#[test]
fn the_port_is_off_when_no_address_is_configured_and_a_taken_one_is_named() {
    let home = node_home(&[]);
    let set = |listen: &str| {
        let file = home.path().join("home/tributary.toml");
        std::fs::write(file, format!("[metrics]\nlisten = \"{listen}\"\n")).unwrap();
    };
    set("");
    let node = Daemon::start(&home);
    assert_eq!(node.started["http"], Value::Null);
    node.signal("TERM");
    assert_eq!(node.ended().code(), Some(0));

    let taken = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = taken.local_addr().unwrap().to_string();
    set(&address);
    let refused = run(tributary(&home.path().join("home")).args(["--json", "node", "run"]));
    assert_eq!(refused.status.code(), Some(2));
    let error: Value = serde_json::from_slice(&refused.stderr).unwrap();
    assert_eq!(error["error"], "TRB-X019");
    assert!(error["message"].as_str().unwrap().contains(&address), "{error}");
}

#[test]
fn doctor_finds_a_plain_node_in_order_and_names_wrong_keys() {
    let home = node_home(&[]);
    let file = home.path().join("home/tributary.toml");
    let doctor = || {
        let output = run(tributary(&home.path().join("home")).args(["--json", "doctor"]));
        (output.status.code(), serde_json::from_slice::<Value>(&output.stdout).unwrap())
    };
    let (code, checks) = doctor();
    assert_eq!(code, Some(0), "{checks}");
    std::fs::write(
        &file,
        "[metrics]\nlisten = \"0.0.0.0:0\"\n[provider]\npolicy_script = \"absent\"\n[relayer]\nreplace_after = 0\n",
    )
    .unwrap();
    let (code, checks) = doctor();
    assert_eq!(code, Some(1), "{checks}");
    for (name, word) in [("metrics", "loopback"), ("script", "policy_script"), ("relayer", "replace_after")] {
        let failed = check(&checks, name);
        assert_eq!(failed["ok"], false, "{failed}");
        assert!(failed["detail"].as_str().unwrap().contains(word), "{failed}");
    }
    std::fs::write(&file, "[metrics]\nlissten = \"\"\n").unwrap();
    let refused = run(tributary(&home.path().join("home")).arg("doctor"));
    assert_eq!(refused.status.code(), Some(2));
    assert!(String::from_utf8_lossy(&refused.stderr).contains("did you mean `metrics.listen`?"));
}
