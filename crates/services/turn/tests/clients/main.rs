//! The embedded server with clients that are not ours, and coturn behind our interface: both are coturn's (Debian package coturn, which
//! `script/setup js-tests` installs). And what a buyer tries of a server.

mod coturn;
mod trial;

use std::net::SocketAddr;
use std::process::{Output, Stdio};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use tokio::net::UdpSocket;
use tokio::process::{Child, Command};
use tributary_protocol::UnixTime;
use tributary_service_turn::{Allowance, Backend, Credential, Embedded, EmbeddedConfig, LeaseId};

const PATIENCE: Duration = Duration::from_secs(30);
/// Between two looks at what a client or the server has done meanwhile.
const LOOK: Duration = Duration::from_millis(20);
const PLENTY: Allowance = Allowance { bytes: u64::MAX, allocations: 8, bindings: 100 };

fn loopback() -> SocketAddr {
    "127.0.0.1:0".parse().unwrap()
}

async fn server(allowed: &[&str]) -> Embedded {
    let config = EmbeddedConfig {
        udp: vec![loopback()],
        tcp: vec![loopback()],
        relay_bind: loopback().ip(),
        relay_address: loopback().ip(),
        allowed_peers: allowed.iter().map(|network| network.parse().unwrap()).collect(),
        ..EmbeddedConfig::new(loopback())
    };
    Embedded::start(config).await.unwrap()
}

/// Sends back what comes, and counts it.
struct Echo {
    address: SocketAddr,
    seen: Arc<AtomicU64>,
}

impl Echo {
    async fn start() -> Self {
        // Not the relay's own address: nobody may reach what else listens there.
        let socket = UdpSocket::bind("127.0.0.2:0").await.unwrap();
        let address = socket.local_addr().unwrap();
        let seen = Arc::new(AtomicU64::new(0));
        let counted = Arc::clone(&seen);
        tokio::spawn(async move {
            let mut packet = [0; 2048];
            while let Ok((len, from)) = socket.recv_from(&mut packet).await {
                counted.fetch_add(1, Ordering::Relaxed);
                let _ = socket.send_to(&packet[..len], from).await;
            }
        });
        Self { address, seen }
    }

    fn seen(&self) -> u64 {
        self.seen.load(Ordering::Relaxed)
    }

    /// Waits until nothing has come for this long.
    async fn still(&self, quiet: Duration) {
        let begun = Instant::now();
        let (mut seen, mut since) = (self.seen(), begun);
        while since.elapsed() < quiet {
            assert!(begun.elapsed() < PATIENCE, "packets still come");
            tokio::time::sleep(LOOK).await;
            if self.seen() != seen {
                (seen, since) = (self.seen(), Instant::now());
            }
        }
    }
}

fn uclient(turn: SocketAddr, echo: &Echo, credential: &Credential, arguments: &[&str]) -> Command {
    let mut command = Command::new("turnutils_uclient");
    command.args(["-c", "-u", &credential.username, "-w", &credential.password]);
    command.args(["-e", &echo.address.ip().to_string(), "-r", &echo.address.port().to_string()]);
    command.args(["-p", &turn.port().to_string()]).args(arguments).arg(turn.ip().to_string());
    command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped()).kill_on_drop(true);
    command
}

async fn finished(mut command: Command) -> String {
    let output = tokio::time::timeout(PATIENCE, command.output()).await.expect("the client ends");
    said(&output.expect("coturn's clients are installed: apt-get install coturn"))
}

fn said(output: &Output) -> String {
    [&output.stdout[..], &output.stderr[..]].map(String::from_utf8_lossy).concat()
}

async fn until(what: &str, mut holds: impl FnMut() -> bool) -> Duration {
    let begun = Instant::now();
    while !holds() {
        assert!(begun.elapsed() < PATIENCE, "{what} took too long");
        tokio::time::sleep(LOOK).await;
    }
    begun.elapsed()
}

fn issue(server: &Embedded, allowance: Allowance) -> (LeaseId, Credential) {
    let lease = LeaseId::random();
    let credential = server.issue(lease, UnixTime::MAX);
    server.allow(lease, allowance);
    (lease, credential)
}

#[tokio::test(flavor = "multi_thread")]
async fn a_binding_request_is_answered_with_the_clients_address() {
    let server = server(&[]).await;
    let turn = server.udp_addresses()[0];
    let mut command = Command::new("turnutils_stunclient");
    command.args(["-p", &turn.port().to_string(), &turn.ip().to_string()]);
    let said = finished(command).await;
    assert!(said.contains("UDP reflexive addr: 127.0.0.1:"), "{said}");
}

#[tokio::test(flavor = "multi_thread")]
async fn packets_are_relayed_without_loss_over_udp_and_tcp_by_channel_and_indication() {
    let server = server(&["127.0.0.0/8"]).await;
    let echo = Echo::start().await;
    let (lease, credential) = issue(&server, PLENTY);
    let (udp, tcp) = (server.udp_addresses()[0], server.tcp_addresses()[0]);
    for (turn, arguments) in [
        (udp, &["-n", "50", "-l", "1200"][..]),
        (udp, &["-s", "-n", "50", "-l", "200"]),
        (tcp, &["-t", "-n", "50", "-l", "1200"]),
    ] {
        let before = echo.seen();
        let said = finished(uclient(turn, &echo, &credential, arguments)).await;
        assert!(said.contains("Total lost packets 0 (0.000000%)"), "{arguments:?}: {said}");
        assert!(echo.seen() - before >= 50, "the peer saw {} packets", echo.seen() - before);
    }
    server.poll().await.unwrap();
    let least = 2 * 50 * (1200 + 200 + 1200);
    assert!(
        server.usage(lease).bytes >= least,
        "{} bytes are counted, {least} were relayed",
        server.usage(lease).bytes
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn a_wrong_password_and_a_lease_without_allowance_get_no_allocation() {
    let server = server(&["127.0.0.0/8"]).await;
    let echo = Echo::start().await;
    let (_, mut credential) = issue(&server, PLENTY);
    credential.password.push('x');
    let said = finished(uclient(server.udp_addresses()[0], &echo, &credential, &["-n", "1"])).await;
    assert!(said.contains("Cannot complete Allocation"), "{said}");

    let (_, unpaid) = issue(&server, Allowance::NONE);
    let said = finished(uclient(server.udp_addresses()[0], &echo, &unpaid, &["-n", "1"])).await;
    assert!(said.contains("Cannot complete Allocation"), "{said}");
    assert_eq!((echo.seen(), server.list().len()), (0, 0));
}

/// A relay is no way into the provider's own network.
#[tokio::test(flavor = "multi_thread")]
async fn peers_on_loopback_are_forbidden_unless_the_operator_allows_them() {
    let server = server(&[]).await;
    let echo = Echo::start().await;
    let (_, credential) = issue(&server, PLENTY);
    let said = finished(uclient(server.udp_addresses()[0], &echo, &credential, &["-n", "5"])).await;
    assert!(said.contains("403"), "{said}");
    assert_eq!(echo.seen(), 0, "nothing reached the peer");
}

/// Less than the largest packet is a quota too: it is used to its end.
#[tokio::test(flavor = "multi_thread")]
async fn a_small_quota_is_not_ended_before_it_is_used() {
    let server = server(&["127.0.0.0/8"]).await;
    let echo = Echo::start().await;
    let (lease, credential) = issue(&server, Allowance { bytes: 3_000, ..PLENTY });
    server.poll().await.unwrap();
    let _call = call(&server, &echo, &credential);
    until("the quota", || server.usage(lease).bytes > 3_000 - 200).await;
    until("the cut", || server.list().is_empty()).await;
    // A renewal gives room again.
    server.allow(lease, Allowance { bytes: 6_000, ..PLENTY });
    let _call = call(&server, &echo, &credential);
    until("the renewed quota", || server.usage(lease).bytes > 6_000 - 200).await;
}

/// A client whose call goes on until it is cut.
fn call(server: &Embedded, echo: &Echo, credential: &Credential) -> Child {
    uclient(server.udp_addresses()[0], echo, credential, &["-n", "100000", "-l", "200"]).spawn().unwrap()
}

#[tokio::test(flavor = "multi_thread")]
async fn a_live_call_is_cut_at_once_when_its_lease_ends() {
    let server = server(&["127.0.0.0/8"]).await;
    let echo = Echo::start().await;
    let (lease, credential) = issue(&server, PLENTY);
    let (other_lease, other) = issue(&server, PLENTY);
    let _calls = [call(&server, &echo, &credential), call(&server, &echo, &other)];
    let theirs = |lease| server.list().iter().filter(|session| session.lease == lease).count();
    until("two calls", || theirs(lease) >= 1 && theirs(other_lease) >= 1 && echo.seen() > 20).await;

    let others = server.list().len() - theirs(lease);
    server.cut(lease).await.unwrap();
    let took = until("the cut", || theirs(lease) == 0).await;
    assert!(took <= Duration::from_secs(2), "cut after {took:?}");
    let before = echo.seen();
    until("the other call", || echo.seen() > before + 20).await;
    assert_eq!(server.list().len(), others, "the other call goes on");
    let used = server.usage(lease).bytes;
    let before = echo.seen();
    until("more of the other call", || echo.seen() > before + 20).await;
    assert_eq!(server.usage(lease).bytes, used, "nothing more is relayed for the lease that ended");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_call_is_cut_when_its_bytes_are_used_and_not_by_much_more() {
    let server = server(&["127.0.0.0/8"]).await;
    let echo = Echo::start().await;
    let quota = 20_000;
    let (lease, credential) = issue(&server, Allowance { bytes: quota, ..PLENTY });
    let _call = call(&server, &echo, &credential);
    until("the quota", || server.usage(lease).bytes >= quota - 200).await;
    let took = until("the cut", || server.list().is_empty()).await;
    assert!(took <= Duration::from_secs(2), "cut after {took:?}");
    let used = server.usage(lease).bytes;
    assert!(used <= quota + 2 * 200, "{used} bytes were relayed of {quota}");
}
