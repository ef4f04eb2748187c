//! HTTP ports: one request a connection, everything bounded. The operator's has `/health`, `/ready` and `/metrics`, for GET and HEAD.

use std::{convert::Infallible, future::Future, net::SocketAddr, sync::Arc, time::Duration};

use http_body_util::Full;
use hyper::{
    Method, Request, Response, StatusCode,
    body::{Bytes, Incoming},
    header::{ALLOW, CACHE_CONTROL, CONTENT_TYPE},
    server::conn::http1,
    service::service_fn,
};
use hyper_util::rt::{TokioIo, TokioTimer};
use serde_json::{Value, json};
use tokio::{net::TcpListener, sync::Semaphore, time::timeout};

use super::watch::Watch;
use crate::error::CliError;

/// Connections at once; further ones wait in the kernel's queue.
const MAX_CONNECTIONS: usize = 16;
/// Time for one connection, from its first byte to its last.
const CONNECTION_LIMIT: Duration = Duration::from_secs(10);
/// Time for a request's head.
const HEAD_LIMIT: Duration = Duration::from_secs(2);
/// Pause after the system refuses a connection, for want of files say.
const PAUSE: Duration = Duration::from_millis(100);
/// Bytes of a request at most; hyper takes no less.
const MAX_REQUEST_BYTES: usize = 8192;
/// Content type of what `prometheus_client` writes.
const OPEN_METRICS: &str = "application/openmetrics-text; version=1.0.0; charset=utf-8";

/// Listens at `address`; returns where (the port may have been 0) and what serves it.
pub(super) async fn serve(
    address: SocketAddr,
    watch: Watch,
) -> Result<(SocketAddr, impl Future<Output = ()> + Send + 'static), CliError> {
    let failed = |error| CliError::MetricsPort { address, error };
    let listener = TcpListener::bind(address).await.map_err(failed)?;
    let bound = listener.local_addr().map_err(failed)?;
    let watch = Arc::new(watch);
    let answering = move |request: Request<Incoming>| {
        let watch = Arc::clone(&watch);
        async move { answer(&request, &watch).await }
    };
    Ok((bound, accept(listener, CONNECTION_LIMIT, std::future::pending(), answering)))
}

/// Takes connections until `stopped`, [`MAX_CONNECTIONS`] at once and each for at most `limit`; then lets those at work end.
pub(crate) async fn accept<A, F>(
    listener: TcpListener,
    limit: Duration,
    stopped: impl Future<Output = ()> + Send,
    answer: A,
) where
    A: Fn(Request<Incoming>) -> F + Clone + Send + 'static,
    F: Future<Output = Response<Full<Bytes>>> + Send + 'static,
{
    let mut stopped = std::pin::pin!(stopped);
    let places = Arc::new(Semaphore::new(MAX_CONNECTIONS));
    let mut connections = tokio::task::JoinSet::new();
    loop {
        while connections.try_join_next().is_some() {}
        let Ok(place) = Arc::clone(&places).acquire_owned().await else { return };
        let accepted = tokio::select! {
            () = &mut stopped => break,
            accepted = listener.accept() => accepted,
        };
        let stream = match accepted {
            Ok((stream, _)) => stream,
            Err(error) => {
                tracing::debug!(%error, "an HTTP port took no connection");
                tokio::time::sleep(PAUSE).await;
                continue;
            }
        };
        let answer = answer.clone();
        connections.spawn(async move {
            let service = service_fn(move |request| {
                let answering = answer(request);
                async move { Ok::<_, Infallible>(answering.await) }
            });
            let serving = http1::Builder::new()
                .timer(TokioTimer::new())
                .header_read_timeout(HEAD_LIMIT)
                .keep_alive(false)
                .max_buf_size(MAX_REQUEST_BYTES)
                .serve_connection(TokioIo::new(stream), service);
            if let Ok(Err(error)) = timeout(limit, serving).await {
                tracing::debug!(%error, "a connection to an HTTP port broke");
            }
            drop(place);
        });
    }
    while connections.join_next().await.is_some() {}
}

async fn answer(request: &Request<Incoming>, watch: &Watch) -> Response<Full<Bytes>> {
    if request.method() != Method::GET && request.method() != Method::HEAD {
        let mut refused = document(StatusCode::METHOD_NOT_ALLOWED, &json!({ "error": "GET only" }));
        refused.headers_mut().insert(ALLOW, hyper::header::HeaderValue::from_static("GET, HEAD"));
        return refused;
    }
    match request.uri().path() {
        "/health" => {
            let (alive, value) = watch.health().await;
            document(status(alive), &value)
        }
        "/ready" => {
            let (ready, value) = watch.ready().await;
            document(status(ready), &value)
        }
        "/metrics" => match watch.metrics().await.text() {
            Ok(text) => response(StatusCode::OK, OPEN_METRICS, text),
            Err(_) => document(StatusCode::INTERNAL_SERVER_ERROR, &json!({ "error": "the metrics can't be written" })),
        },
        _ => document(StatusCode::NOT_FOUND, &json!({ "error": "there are /health, /ready and /metrics" })),
    }
}

const fn status(good: bool) -> StatusCode {
    if good { StatusCode::OK } else { StatusCode::SERVICE_UNAVAILABLE }
}

pub(crate) fn document(status: StatusCode, value: &Value) -> Response<Full<Bytes>> {
    response(status, "application/json", value.to_string())
}

fn response(status: StatusCode, kind: &'static str, body: String) -> Response<Full<Bytes>> {
    let mut response = Response::new(Full::new(Bytes::from(body)));
    *response.status_mut() = status;
    let headers = response.headers_mut();
    headers.insert(CONTENT_TYPE, hyper::header::HeaderValue::from_static(kind));
    headers.insert(CACHE_CONTROL, hyper::header::HeaderValue::from_static("no-store"));
    response
}
