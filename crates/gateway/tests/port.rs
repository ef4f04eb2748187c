//! The port before a surface that says what it was asked: real connections on loopback.

use std::{net::SocketAddr, sync::Arc, time::Duration};

use async_trait::async_trait;
use hyper::{Request, StatusCode, body::Bytes};
use serde_json::{Value, json};
use tokio::{
    io::{AsyncReadExt as _, AsyncWriteExt as _},
    net::TcpStream,
    sync::oneshot,
};
use tributary_gateway::{Answer, Port, PortError, PortSettings, Surface, Token, document};

const PATIENCE: Duration = Duration::from_secs(20);
const ORIGIN: &str = "https://app.example";

/// Tells what it was asked.
#[derive(Debug)]
struct Echo(&'static str);

#[async_trait]
impl Surface for Echo {
    fn prefix(&self) -> &str {
        self.0
    }

    fn max_body(&self) -> usize {
        100
    }

    async fn handle(&self, request: Request<Bytes>) -> Answer {
        let headers: Vec<&str> = request.headers().keys().map(hyper::http::HeaderName::as_str).collect();
        let body = String::from_utf8_lossy(request.body());
        let asked = json!({ "path": request.uri().path(), "headers": headers, "body": body, "surface": self.0 });
        document(StatusCode::OK, &asked)
    }
}

struct Running {
    address: SocketAddr,
    token: Token,
    stop: Option<oneshot::Sender<()>>,
    serving: tokio::task::JoinHandle<()>,
    _dir: tempfile::TempDir,
}

fn settings(listen: &str) -> PortSettings {
    PortSettings { listen: listen.parse().unwrap(), origins: [ORIGIN.to_owned()].into() }
}

async fn running() -> Running {
    let dir = tempfile::tempdir().unwrap();
    let token = Token::create(dir.path().join("token")).unwrap();
    let surfaces: Vec<Arc<dyn Surface>> = vec![Arc::new(Echo("/a")), Arc::new(Echo("/b"))];
    let port = Port::open(settings("127.0.0.1:0"), token.secret(), surfaces).await.unwrap();
    let address = port.address();
    let (stop, stopped) = oneshot::channel::<()>();
    let serving = tokio::spawn(port.serve(async {
        let _ = stopped.await;
    }));
    Running { address, token, stop: Some(stop), serving, _dir: dir }
}

impl Running {
    /// Status, head and document of the answer to these lines.
    async fn say(&self, first: &str, headers: &[(&str, &str)], body: &str) -> (u16, String, Value) {
        let mut request = format!("{first} HTTP/1.1\r\nConnection: close\r\n");
        for (name, value) in headers {
            request.push_str(&format!("{name}: {value}\r\n"));
        }
        request.push_str(&format!("\r\n{body}"));
        let mut stream = TcpStream::connect(self.address).await.unwrap();
        stream.write_all(request.as_bytes()).await.unwrap();
        let mut said = Vec::new();
        tokio::time::timeout(PATIENCE, stream.read_to_end(&mut said)).await.expect("an answer in time").unwrap();
        let said = String::from_utf8(said).unwrap();
        let (head, body) = said.split_once("\r\n\r\n").unwrap_or((&said, ""));
        let status = head.split(' ').nth(1).and_then(|status| status.parse().ok()).unwrap_or(0);
        (status, head.to_ascii_lowercase(), serde_json::from_str(body).unwrap_or(Value::Null))
    }

    fn bearer(&self) -> String {
        format!("Bearer {}", self.token.secret())
    }

    async fn refused(&self, status: u16, code: &str, first: &str, headers: &[(&str, &str)], body: &str) {
        let (got, head, document) = self.say(first, headers, body).await;
        assert_eq!((got, document["error"].as_str()), (status, Some(code)), "{first} {headers:?}: {head}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn each_surface_gets_what_lies_below_its_path_and_never_the_token() {
    let port = running().await;
    let (host, bearer) = (port.address.to_string(), port.bearer());
    let headers = [("Host", host.as_str()), ("Authorization", bearer.as_str()), ("Content-Length", "5")];
    let (status, _, document) = port.say("POST /a/x?y", &headers, "hello").await;
    assert_eq!(
        (status, &document["surface"], &document["path"], &document["body"]),
        (200, &json!("/a"), &json!("/a/x"), &json!("hello"))
    );
    assert!(!document["headers"].as_array().unwrap().contains(&json!("authorization")), "{document}");
    let local = format!("localhost:{}", port.address.port());
    let (status, _, document) = port.say("GET /b", &[("Host", &local), ("Authorization", &bearer)], "").await;
    assert_eq!((status, &document["surface"]), (200, &json!("/b")));
    port.refused(404, "TRB-G005", "GET /ab", &headers[..2], "").await;
    port.refused(404, "TRB-G005", "GET /", &headers[..2], "").await;
}

#[tokio::test(flavor = "multi_thread")]
async fn nobody_is_served_without_token_host_and_leave() {
    let port = running().await;
    let (host, bearer) = (port.address.to_string(), port.bearer());
    let (host, bearer) = (("Host", host.as_str()), ("Authorization", bearer.as_str()));
    port.refused(401, "TRB-G001", "GET /a", &[host], "").await;
    port.refused(401, "TRB-G001", "GET /a", &[host, ("Authorization", &format!("Bearer {}", "0".repeat(64)))], "")
        .await;
    port.refused(401, "TRB-G001", "GET /a", &[host, bearer, bearer], "").await;
    port.refused(401, "TRB-G001", "GET /nothing", &[host], "").await;
    let evil = format!("evil.example:{}", port.address.port());
    port.refused(421, "TRB-G002", "GET /a", &[("Host", &evil), bearer], "").await;
    port.refused(421, "TRB-G002", "GET /a", &[host, host, bearer], "").await;
    port.refused(403, "TRB-G003", "GET /a", &[host, bearer, ("Origin", "https://evil.example")], "").await;
    port.refused(403, "TRB-G003", "OPTIONS /a", &[host, ("Origin", "null")], "").await;
    port.refused(400, "TRB-G004", "GET http://evil.example/a", &[host, bearer], "").await;
    port.refused(413, "TRB-G006", "POST /a", &[host, bearer, ("Content-Length", "101")], &"x".repeat(101)).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_page_that_is_named_may_ask_with_the_token() {
    let port = running().await;
    let (host, bearer) = (port.address.to_string(), port.bearer());
    let (host, bearer) = (("Host", host.as_str()), ("Authorization", bearer.as_str()));
    let wanted = ("Access-Control-Request-Headers", "authorization, x-stainless-os");
    let (status, head, _) = port.say("OPTIONS /a", &[host, ("Origin", ORIGIN), wanted], "").await;
    assert_eq!(status, 204);
    assert!(head.contains("access-control-allow-headers: authorization, x-stainless-os"), "{head}");
    let (status, head, _) = port.say("GET /a", &[host, bearer, ("Origin", ORIGIN)], "").await;
    assert_eq!(status, 200);
    assert!(head.contains(&format!("access-control-allow-origin: {ORIGIN}")), "{head}");
    port.refused(401, "TRB-G001", "GET /a", &[host, ("Origin", ORIGIN)], "").await;
}

#[tokio::test(flavor = "multi_thread")]
async fn two_lengths_of_one_request_never_make_two_requests() {
    let port = running().await;
    let (host, bearer) = (port.address.to_string(), port.bearer());
    let smuggled = format!("0\r\n\r\nGET /b HTTP/1.1\r\nHost: {host}\r\nAuthorization: {bearer}\r\n\r\n");
    let length = smuggled.len().to_string();
    let headers = [
        ("Host", host.as_str()),
        ("Authorization", bearer.as_str()),
        ("Content-Length", length.as_str()),
        ("Transfer-Encoding", "chunked"),
    ];
    let (_, head, document) = port.say("POST /a", &headers, &smuggled).await;
    assert_eq!(head.matches("http/1.1 ").count(), 1, "{head}");
    assert_ne!(document["surface"], json!("/b"));
}

#[tokio::test(flavor = "multi_thread")]
async fn the_port_is_of_this_machine_alone_and_surfaces_share_no_path() {
    let open = |listen, paths: &[&'static str]| {
        let surfaces = paths.iter().map(|path| Arc::new(Echo(path)) as Arc<dyn Surface>).collect();
        async move { Port::open(settings(listen), "token", surfaces).await.err().as_ref().map(PortError::code) }
    };
    assert_eq!(open("0.0.0.0:0", &["/a"]).await, Some("TRB-G009"));
    assert_eq!(open("127.0.0.1:0", &["/a", "/a"]).await, Some("TRB-G011"));
    let port = running().await;
    assert_eq!(open(Box::leak(port.address.to_string().into_boxed_str()), &["/a"]).await, Some("TRB-G010"));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_port_that_stops_lets_go_of_connections_without_a_request() {
    let mut port = running().await;
    let idle = TcpStream::connect(port.address).await.unwrap();
    port.say("GET /a", &[("Host", &port.address.to_string())], "").await;
    port.stop.take().unwrap().send(()).unwrap();
    tokio::time::timeout(PATIENCE, &mut port.serving).await.expect("it ends in time").unwrap();
    drop(idle);
}
