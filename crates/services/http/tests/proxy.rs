//! An upstream sold over the wire and used by curl through the gateway: real nodes, servers and programs on loopback, proofs that really verify.

#[path = "../../../provider/tests/common/mod.rs"]
mod common;
#[path = "../../waku/tests/support/mod.rs"]
mod support;

use std::net::SocketAddr;
use std::path::Path;
use std::process::{Output, Stdio};
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use async_trait::async_trait;
use common::{S, World, at, provider as provider_digest, slot, statement};
use parking_lot::Mutex;
use prost::Message as _;
use sha2::{Digest as _, Sha256};
use support::Source;
use tokio::io::{AsyncBufReadExt as _, AsyncReadExt as _, AsyncWriteExt as _, BufReader};
use tokio::net::{TcpListener, TcpStream};
use tokio::process::{Child, Command};
use tokio::sync::Notify;
use tributary_client::TicketSource as _;
use tributary_gateway::{Port, PortSettings, Token};
use tributary_market::clock::ManualClock as MarketClock;
use tributary_market::offer::ServiceId;
use tributary_market::proto::PaidRequest;
use tributary_market::ticket::Reason;
use tributary_provider::service::Service as _;
use tributary_provider::store::OnMissing;
use tributary_provider::till::Till;
use tributary_reputation::Verdict;
use tributary_reputation::http::{HttpAssessor, HttpEnding, HttpObservation};
use tributary_service_http::proto::{HttpAnswer, HttpCall, HttpHeader, HttpRequest, http_call};
use tributary_service_http::{
    HttpClient, HttpFaultKind, HttpMarket, HttpProperties, HttpService, HttpServiceConfig, HttpServiceConfigError,
    HttpSurface, Rules, SeatError, protocol,
};
use tributary_waku::{
    ClusterId, ManualClock, Multiaddr, Node, NodeConfig, NodeHandle, NodeKey, NodeLimits, PeerId, RequestLimits,
    Sharding, Timestamp,
};

const PATIENCE: Duration = Duration::from_secs(30);
const CHILD: &str = "TRIBUTARY_TEST_PROXY_CHILD";
const LARGE: usize = 2_500_000;

async fn within<T>(what: &str, future: impl Future<Output = T>) -> T {
    tokio::time::timeout(PATIENCE, future).await.unwrap_or_else(|_| panic!("{what} took too long"))
}

fn config(key: NodeKey) -> NodeConfig {
    NodeConfig {
        limits: NodeLimits::shared_address(),
        clock: Arc::new(ManualClock::new(Timestamp::from_secs(S as i64))),
        ..NodeConfig::new(key, ClusterId(42), Sharding::Auto { shards: 8 })
    }
}

async fn listening(key: NodeKey) -> NodeHandle {
    let listen = vec!["/ip4/127.0.0.1/tcp/0".parse().unwrap()];
    Node::spawn(NodeConfig { listen, ..config(key) }).await.unwrap()
}

fn service_id() -> ServiceId {
    "http-test".parse().unwrap()
}

fn large() -> Vec<u8> {
    (0..LARGE).map(|n| u8::try_from(n % 251).unwrap()).collect()
}

/// The operator's server. What was asked is kept as it came.
struct Upstream {
    address: SocketAddr,
    asked: Arc<Mutex<Vec<String>>>,
}

impl Upstream {
    async fn start() -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let asked = Arc::new(Mutex::new(Vec::new()));
        tokio::spawn({
            let asked = Arc::clone(&asked);
            async move {
                while let Ok((stream, _)) = listener.accept().await {
                    tokio::spawn(answer(stream, Arc::clone(&asked)));
                }
            }
        });
        Self { address, asked }
    }

    fn asked(&self) -> Vec<String> {
        self.asked.lock().clone()
    }
}

async fn answer(mut stream: TcpStream, asked: Arc<Mutex<Vec<String>>>) {
    let mut bytes = Vec::new();
    let head = loop {
        let mut more = [0; 4096];
        let read = stream.read(&mut more).await.unwrap_or(0);
        bytes.extend_from_slice(&more[..read]);
        if let Some(end) = bytes.windows(4).position(|four| four == b"\r\n\r\n") {
            break end + 4;
        }
        if read == 0 {
            return;
        }
    };
    let text = String::from_utf8_lossy(&bytes[..head]).to_ascii_lowercase();
    let length = text.lines().find_map(|line| line.strip_prefix("content-length: ")?.parse::<usize>().ok());
    while bytes.len() < head + length.unwrap_or(0) {
        let mut more = [0; 4096];
        match stream.read(&mut more).await {
            Ok(read) if read > 0 => bytes.extend_from_slice(&more[..read]),
            _ => return,
        }
    }
    let whole = String::from_utf8_lossy(&bytes).into_owned();
    asked.lock().push(whole.clone());
    let target = whole.split(' ').nth(1).unwrap_or_default().to_owned();
    let body = match target.as_str() {
        "/base/data/large" | "/base/data/stalls" => large(),
        "/base/data/breaks" => {
            let _ = stream.write_all(b"HTTP/1.1 200 OK\r\nContent-Length: 10\r\n\r\nhalf").await;
            return;
        }
        "/base/data/fails" => {
            let _ = stream
                .write_all(b"HTTP/1.1 503 Unavailable\r\nContent-Length: 4\r\nConnection: close\r\n\r\noops")
                .await;
            return;
        }
        _ => format!("you asked for {target}").into_bytes(),
    };
    let head = format!(
        "HTTP/1.1 200 OK\r\nContent-Type: text/plain\r\nX-Upstream: yes\r\nConnection: close, X-Own\r\nX-Own: secret\r\nContent-Length: {}\r\n\r\n",
        body.len()
    );
    let _ = stream.write_all(head.as_bytes()).await;
    if whole.starts_with("HEAD") {
        return;
    }
    if target == "/base/data/stalls" {
        let _ = stream.write_all(&body[..1_100_000]).await;
        tokio::time::sleep(PATIENCE).await;
    }
    let _ = stream.write_all(&body).await;
}

fn sold(upstream: SocketAddr) -> HttpServiceConfig {
    let list = |texts: &[&str]| texts.iter().map(|&text| text.to_owned()).collect();
    HttpServiceConfig {
        rules: Rules { methods: list(&["GET", "HEAD", "POST"]), paths: list(&["/data"]) },
        title: Some("a test".into()),
        ..HttpServiceConfig::new(service_id(), format!("http://{upstream}/base").parse().unwrap())
    }
}

/// Sells the upstream at `node`.
async fn sell(world: &World, node: &NodeHandle, upstream: SocketAddr) -> (HttpService, Till) {
    let service = HttpService::new(node.clone(), sold(upstream)).unwrap();
    let till = Till::new(service_id(), Arc::clone(&world.checker), service.free_tier(), world.offer.subscribe());
    service.start(till.clone()).await.unwrap();
    (service, till)
}

/// Everybody buys here.
#[derive(Debug)]
struct OneProvider {
    client: HttpClient,
    seen: Mutex<Vec<HttpObservation>>,
    told: Notify,
}

impl OneProvider {
    /// The next observation: it may be told after the program has its answer.
    async fn observed(&self) -> HttpObservation {
        within("an observation", async {
            loop {
                if let Some(seen) = self.seen.lock().pop() {
                    return seen;
                }
                self.told.notified().await;
            }
        })
        .await
    }
}

#[async_trait]
impl HttpMarket for OneProvider {
    async fn client(&self, service: &ServiceId) -> Result<HttpClient, SeatError> {
        if *service == service_id() {
            return Ok(self.client.clone());
        }
        let message = format!("nothing pays for {service}: start the gateway with --buy");
        Err(SeatError { status: hyper::StatusCode::PAYMENT_REQUIRED, code: "TRB-C008", message })
    }

    async fn observed(&self, observation: HttpObservation) {
        self.seen.lock().push(observation);
        self.told.notify_one();
    }
}

/// A buyer with a gateway.
struct Buyer {
    node: NodeHandle,
    tickets: Arc<Source>,
    market: Arc<OneProvider>,
    token: Token,
    url: String,
    _dir: tempfile::TempDir,
}

static BUYERS: AtomicUsize = AtomicUsize::new(1);

impl Buyer {
    async fn of(peer: PeerId, address: Multiaddr) -> Self {
        let dir = tempfile::tempdir().unwrap();
        let node = Node::spawn(NodeConfig { relay: false, ..config(NodeKey::generate()) }).await.unwrap();
        let first = 100_000 * BUYERS.fetch_add(1, Ordering::SeqCst) as u64;
        let tickets = Arc::new(Source::new(MarketClock::new(at(S + 5)), first));
        let client = HttpClient::with_price(node.clone(), peer, service_id(), vec![address], tickets.clone(), (1, 1));
        let market = Arc::new(OneProvider { client, seen: Mutex::default(), told: Notify::new() });
        let token = Token::create(dir.path().join("token")).unwrap();
        let surface = Arc::new(HttpSurface::new(market.clone()));
        let settings = PortSettings { listen: "127.0.0.1:0".parse().unwrap(), origins: Default::default() };
        let port = Port::open(settings, token.secret(), vec![surface]).await.unwrap();
        let url = format!("http://{}", port.address());
        tokio::spawn(port.serve(std::future::pending()));
        Self { node, tickets, market, token, url, _dir: dir }
    }

    fn used(&self) -> u64 {
        self.tickets.next() % 100_000
    }

    async fn curl(&self, path: &str, more: &[&str]) -> Curled {
        let output = Command::new("curl")
            .args(["--silent", "--include", "--path-as-is", "--max-time", "60"])
            .args(["--header", &format!("Authorization: Bearer {}", self.token.secret())])
            .args(more)
            .arg(format!("{}{path}", self.url))
            .output();
        Curled::read(&within("curl", output).await.expect("curl is installed"))
    }

    async fn refused(&self, status: u16, code: &str, path: &str, more: &[&str]) {
        let answer = self.curl(path, more).await;
        let document: serde_json::Value = serde_json::from_slice(&answer.body).unwrap_or_default();
        assert_eq!((answer.status, document["error"].as_str()), (status, Some(code)), "{path} {more:?}: {document}");
    }
}

struct Curled {
    /// 0 when the answer came whole.
    exit: i32,
    status: u16,
    head: String,
    body: Vec<u8>,
}

impl Curled {
    fn read(output: &Output) -> Self {
        let end =
            output.stdout.windows(4).position(|four| four == b"\r\n\r\n").map_or(output.stdout.len(), |at| at + 4);
        let head = String::from_utf8_lossy(&output.stdout[..end]).to_ascii_lowercase();
        let status = head.split(' ').nth(1).and_then(|status| status.parse().ok()).unwrap_or(0);
        Self { exit: output.status.code().unwrap_or(-1), status, head, body: output.stdout[end..].to_vec() }
    }
}

struct Shop {
    world: World,
    upstream: Upstream,
    node: NodeHandle,
    service: HttpService,
    till: Till,
    buyer: Buyer,
    _dir: tempfile::TempDir,
}

async fn shop() -> Shop {
    let dir = tempfile::tempdir().unwrap();
    let world = World::open(&dir.path().join("nullifiers.db"), OnMissing::NewPayee, S + 5).await;
    let upstream = Upstream::start().await;
    let node = listening(NodeKey::generate()).await;
    let (service, till) = sell(&world, &node, upstream.address).await;
    let buyer = Buyer::of(node.peer_id(), node.listen_addrs().remove(0)).await;
    Shop { world, upstream, node, service, till, buyer, _dir: dir }
}

impl Shop {
    /// A call as it is, not made by the client.
    async fn call(&self, request: &PaidRequest) -> HttpAnswer {
        let buyer = &self.buyer.node;
        if !buyer.is_connected(self.node.peer_id()).await {
            buyer.dial_within(&self.node.listen_addrs()[0], PATIENCE).await.unwrap();
        }
        let limits = RequestLimits { max_response_bytes: 2_000_000, ..RequestLimits::default() };
        let protocol = protocol(&service_id());
        let answer = buyer.request(self.node.peer_id(), &protocol, request.encode_to_vec(), limits);
        HttpAnswer::decode(within("an answer", answer).await.unwrap()).unwrap()
    }

    /// Ticket `n`, paying for `payload`.
    fn paid(&self, n: u64, payload: Vec<u8>) -> PaidRequest {
        self.world.prepared(n, statement(n, slot(0))).pay_payload(&provider_digest(), payload)
    }
}

fn get(target: &str, headers: &[(&str, &str)]) -> Vec<u8> {
    let headers =
        headers.iter().map(|(name, value)| HttpHeader { name: (*name).into(), value: value.as_bytes().into() });
    let request =
        HttpRequest { method: "GET".into(), target: target.into(), headers: headers.collect(), body: Vec::new() };
    HttpCall { call: Some(http_call::Call::Request(request)) }.encode_to_vec()
}

#[tokio::test(flavor = "multi_thread")]
async fn curl_gets_what_a_ticket_pays_for_and_the_upstream_learns_nothing_of_it() {
    let shop = shop().await;
    let answer = shop
        .buyer
        .curl("/http/http-test/data/a?b=c", &["--header", "Cookie: me=1", "--header", "Accept: text/plain"])
        .await;
    assert_eq!((answer.exit, answer.status), (0, 200), "{}", answer.head);
    assert_eq!(answer.body, b"you asked for /base/data/a?b=c");
    assert!(
        answer.head.contains("x-upstream: yes") && answer.head.contains("content-type: text/plain"),
        "{}",
        answer.head
    );
    assert!(!answer.head.contains("x-own"), "what concerns the upstream's connection stays there: {}", answer.head);
    let asked = shop.upstream.asked().remove(0).to_ascii_lowercase();
    let mut lines: Vec<&str> = asked.lines().filter(|line| !line.is_empty()).collect();
    lines.sort_unstable();
    assert_eq!(
        lines,
        ["accept: text/plain", "get /base/data/a?b=c http/1.1", &format!("host: {}", shop.upstream.address)]
    );

    let answer =
        shop.buyer.curl("/http/http-test/data/", &["--data", "words", "--header", "Content-Type: text/x"]).await;
    assert_eq!(answer.status, 200);
    let asked = shop.upstream.asked().remove(1);
    assert!(asked.starts_with("POST /base/data/ ") && asked.ends_with("\r\n\r\nwords"), "{asked}");
    let answer = shop.buyer.curl("/http/http-test/data", &["--head"]).await;
    assert_eq!((answer.exit, answer.status, answer.body.len()), (0, 200, 0));

    let counters = shop.till.counters();
    assert_eq!((counters.paid, counters.served, counters.failed), (3, 3, 0));
    assert_eq!(shop.buyer.used(), 3);
    let observed = shop.buyer.market.observed().await;
    assert_eq!((observed.status, &observed.ending), (Some(200), &HttpEnding::Complete));
    assert!(matches!(HttpAssessor::default().assess(&observed).verdict, Verdict::Scored { score, .. } if score > 0.5));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_long_answer_is_paid_by_the_megabyte_and_checked_against_its_digest() {
    let shop = shop().await;
    let digest = hex::encode(Sha256::digest(large()));
    let answer =
        shop.buyer.curl("/http/http-test/data/large", &["--header", &format!("X-Tributary-Digest: {digest}")]).await;
    assert_eq!((answer.exit, answer.status), (0, 200), "{}", answer.head);
    assert!(answer.body == large(), "{} bytes", answer.body.len());
    assert_eq!((shop.buyer.used(), shop.till.counters().served), (3, 3));
    assert_eq!(shop.buyer.market.observed().await.digest, Some(Sha256::digest(large()).into()));

    let other = format!("X-Tributary-Digest: {}", "0".repeat(64));
    let answer = shop.buyer.curl("/http/http-test/data/large", &["--header", &other]).await;
    assert_ne!(answer.exit, 0, "a false answer never counts as a whole one");
    let assessed = HttpAssessor::default().assess(&shop.buyer.market.observed().await);
    assert!(
        matches!(assessed.verdict, Verdict::Scored { score, weight } if score == 0.0 && weight == 4.0),
        "{assessed:?}"
    );

    let answer = shop.buyer.curl("/http/http-test/data/large", &["--header", "X-Tributary-Max-Megabytes: 1"]).await;
    assert_ne!(answer.exit, 0);
    assert_eq!(shop.buyer.used(), 7, "the cap holds: three, three and one");
}

#[tokio::test(flavor = "multi_thread")]
async fn nothing_is_given_without_a_ticket_or_for_one_that_was_used() {
    let shop = shop().await;
    let unpaid = shop.call(&PaidRequest { ticket: None, signature: Vec::new(), payload: get("/data", &[]) }).await;
    assert_eq!((unpaid.payment_code, unpaid.body.len(), unpaid.head), (402, 0, None));
    assert!(unpaid.payment_description.contains("offer="), "{}", unpaid.payment_description);

    let first = shop.paid(1, get("/data", &[]));
    let answer = shop.call(&first).await;
    assert_eq!((answer.payment_code, answer.head.unwrap().status), (200, 200));
    let another = shop.call(&shop.paid(1, get("/data/other", &[]))).await;
    assert_eq!((another.payment_code, another.body.len()), (40_218, 0));
    let again = shop.call(&first).await;
    assert_eq!((again.payment_code, again.body.len()), (Reason::AlreadyServed.status_code(), 0));
    let mut changed = shop.paid(2, get("/data", &[]));
    changed.payload = get("/data/other", &[]);
    assert_eq!(shop.call(&changed).await.payment_code, Reason::BadSignature.status_code());
    assert_eq!(shop.upstream.asked().len(), 1, "the upstream is asked once");
}

#[tokio::test(flavor = "multi_thread")]
async fn paths_that_climb_other_hosts_and_smuggled_headers_are_refused_before_anything_is_spent() {
    let shop = shop().await;
    let buyer = &shop.buyer;
    for path in
        ["/data/../secret", "/data/%2e%2e/secret", "/data/..%2fsecret", "//other/data", "/data/%0d%0ahost:other"]
    {
        buyer.refused(400, "TRB-H003", &format!("/http/http-test{path}"), &[]).await;
    }
    buyer.refused(400, "TRB-G004", "/", &["--request-target", "http://other.example/data"]).await;
    buyer.refused(400, "TRB-H051", "/http/http:%2f%2fother/data", &[]).await;
    buyer.refused(402, "TRB-C008", "/http/other/data", &[]).await;
    buyer.refused(401, "TRB-G001", "/http/http-test/data", &["--header", "Authorization: Bearer 0"]).await;
    assert_eq!(buyer.used(), 0);

    // What the buyer's side would not even send.
    for (n, kind, payload) in [
        (10, HttpFaultKind::Target, get("http://other.example/data", &[])),
        (11, HttpFaultKind::Target, get("/data/../secret", &[])),
        (12, HttpFaultKind::Path, get("/secret", &[])),
        (13, HttpFaultKind::Header, get("/data", &[("transfer-encoding", "chunked")])),
        (14, HttpFaultKind::Header, get("/data", &[("content-length", "5")])),
        (15, HttpFaultKind::Header, get("/data", &[("host", "other.example")])),
        (16, HttpFaultKind::Header, get("/data", &[("x-a", "b\r\nhost: other")])),
        (17, HttpFaultKind::Header, get("/data", &[("x-forwarded-for", "192.0.2.1")])),
        (18, HttpFaultKind::Malformed, b"no call".to_vec()),
    ] {
        let failure = shop.call(&shop.paid(n, payload)).await.failure.expect("it is refused");
        assert_eq!(failure.kind, kind.number(), "{n}: {}", failure.description);
    }
    buyer.refused(405, "TRB-H002", "/http/http-test/data", &["--request", "DELETE"]).await;
    buyer.refused(403, "TRB-H004", "/http/http-test/secret", &[]).await;
    assert_eq!(shop.till.counters().paid, 0, "nothing was spent");
    assert!(shop.upstream.asked().is_empty(), "the upstream saw nothing of it");
}

#[tokio::test(flavor = "multi_thread")]
async fn an_upstream_that_is_down_or_breaks_off_is_a_failed_use_and_a_typed_error() {
    let shop = shop().await;
    shop.buyer.refused(502, "TRB-H008", "/http/http-test/data/breaks", &[]).await;
    let observed = shop.buyer.market.observed().await;
    assert!(matches!(observed.ending, HttpEnding::FailedAfterPayment { .. }), "{observed:?}");
    let answer = shop.buyer.curl("/http/http-test/data/fails", &[]).await;
    assert_eq!((answer.status, &answer.body[..]), (503, &b"oops"[..]), "what the upstream says is passed on");
    let assessed = HttpAssessor::default().assess(&shop.buyer.market.observed().await);
    assert!(matches!(assessed.verdict, Verdict::Scored { score, .. } if score == 0.0), "{assessed:?}");

    let free = TcpListener::bind("127.0.0.1:0").await.unwrap().local_addr().unwrap();
    shop.service.stop().await;
    let (_service, till) = sell(&shop.world, &shop.node, free).await;
    shop.buyer.refused(502, "TRB-H007", "/http/http-test/data", &[]).await;
    assert_eq!((till.counters().paid, till.counters().failed, till.counters().served), (1, 1, 0));
    assert_eq!((shop.till.counters().failed, shop.till.counters().served), (1, 1));
}

/// Not a test by itself: the provider that [`a_provider_killed_in_mid_answer_is_a_broken_answer_and_is_paid_no_more`] kills.
#[tokio::test(flavor = "multi_thread")]
async fn child_that_is_killed() {
    let Ok(settings) = std::env::var(CHILD) else { return };
    let (folder, upstream) = settings.split_once('|').unwrap();
    let world = World::open(&Path::new(folder).join("nullifiers.db"), OnMissing::NewPayee, S + 5).await;
    let node = listening(NodeKey::from_bytes([7; 32]).unwrap()).await;
    let _selling = sell(&world, &node, upstream.parse().unwrap()).await;
    println!("\nlistening {}", node.listen_addrs()[0]);
    std::future::pending::<()>().await;
}

async fn child(folder: &Path, upstream: SocketAddr) -> (Child, Multiaddr) {
    let mut child = Command::new(std::env::current_exe().unwrap())
        .args(["--exact", "child_that_is_killed", "--nocapture"])
        .env(CHILD, format!("{}|{upstream}", folder.display()))
        .stdout(Stdio::piped())
        .kill_on_drop(true)
        .spawn()
        .unwrap();
    let mut lines = BufReader::new(child.stdout.take().unwrap()).lines();
    let address = within("the provider's start", async {
        while let Some(line) = lines.next_line().await.unwrap() {
            if let Some(address) = line.strip_prefix("listening ") {
                return address.parse().unwrap();
            }
        }
        panic!("the provider ended early");
    })
    .await;
    (child, address)
}

#[tokio::test(flavor = "multi_thread")]
async fn a_provider_killed_in_mid_answer_is_a_broken_answer_and_is_paid_no_more() {
    let dir = tempfile::tempdir().unwrap();
    let upstream = Upstream::start().await;
    let (mut killed, address) = child(dir.path(), upstream.address).await;
    let buyer = Buyer::of(NodeKey::from_bytes([7; 32]).unwrap().peer_id(), address).await;
    let reading = buyer.curl("/http/http-test/data/stalls", &[]);
    let kill = async {
        // The first megabyte is there, and the second one is asked for.
        while buyer.used() < 2 {
            buyer.tickets.next_try().await;
        }
        killed.kill().await.unwrap();
    };
    let (answer, ()) = within("the end", async { tokio::join!(reading, kill) }).await;
    assert_eq!(answer.exit, 18, "curl sees that something is missing");
    assert_eq!(answer.body, large()[..1_000_000]);
    assert_eq!(buyer.market.observed().await.ending, HttpEnding::NoAnswer);
    buyer.refused(502, "TRB-H041", "/http/http-test/data", &[]).await;
    assert_eq!(buyer.market.observed().await.ending, HttpEnding::NoAnswer);
    assert_eq!(buyer.used(), 2, "nothing more is paid");
}

#[tokio::test(flavor = "multi_thread")]
async fn the_offer_says_what_is_sold_and_what_can_not_be_sold_is_refused() {
    let node = listening(NodeKey::generate()).await;
    let upstream: SocketAddr = "127.0.0.1:1".parse().unwrap();
    let entry = HttpService::new(node.clone(), sold(upstream)).unwrap().entry();
    let properties = HttpProperties::of(&entry).unwrap();
    assert_eq!((properties.paths, properties.title), (vec!["/data".to_owned()], Some("a test".to_owned())));
    let code = |change: &dyn Fn(&mut HttpServiceConfig)| {
        let mut config = sold(upstream);
        change(&mut config);
        HttpService::new(node.clone(), config).err().as_ref().map(HttpServiceConfigError::code)
    };
    assert_eq!(code(&|config| config.id = "http/a".parse().unwrap()), Some("TRB-H021"));
    assert_eq!(code(&|config| config.tickets_per_request = 5), Some("TRB-H022"));
    assert_eq!(code(&|config| config.tickets_per_megabyte = 0), Some("TRB-H022"));
    assert_eq!(code(&|config| config.rules.methods.push("CONNECT".into())), Some("TRB-H023"));
    assert_eq!(code(&|config| config.rules.paths.push("/a/../b".into())), Some("TRB-H024"));
}
