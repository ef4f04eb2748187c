//! The real program: a plain node from `init` to SIGTERM, its HTTP port, and what a kill leaves behind.

use std::io::{BufRead as _, BufReader, Read as _, Write as _};
use std::net::{TcpListener, TcpStream};
use std::os::unix::process::ExitStatusExt as _;
use std::path::Path;
use std::process::{Child, ChildStdout, Command, ExitStatus, Output, Stdio};
use std::time::{Duration, Instant};

use serde_json::Value;
use tempfile::TempDir;

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

/// A daemon that is held up: it dials a peer that takes the connection and says nothing.
fn held_up(config: &str) -> (TempDir, TcpListener, TcpStream, Child) {
    let id = {
        let home = node_home(&[]);
        Daemon::start(&home).started["peer_id"].as_str().unwrap().to_owned()
    };
    let mute = TcpListener::bind("127.0.0.1:0").unwrap();
    let peer = format!("/ip4/127.0.0.1/tcp/{}/p2p/{id}", mute.local_addr().unwrap().port());
    let home = node_home(&[]);
    let file = home.path().join("home/tributary.toml");
    std::fs::write(file, format!("{config}\n[waku]\nbootstrap = [\"{peer}\"]\n")).unwrap();
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
fn a_second_signal_ends_a_daemon_at_once() {
    let (_home, _mute, _connection, mut child) = held_up("stop_limit = 600");
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

#[test]
fn a_daemon_that_does_not_stop_in_time_is_ended() {
    let (_home, _mute, _connection, child) = held_up("stop_limit = 1");
    terminate(&child);
    let output = child.wait_with_output().unwrap();
    assert_eq!(output.status.code(), Some(1));
    let log = String::from_utf8_lossy(&output.stderr);
    assert!(log.contains("TRB-X017"), "{log}");
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
