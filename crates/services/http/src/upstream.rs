//! The operator's server behind the proxy.

use std::{fmt, str::FromStr, time::Duration};

use http_body_util::{BodyExt as _, Full};
use hyper::{
    HeaderMap, Request, StatusCode,
    body::{Bytes, Incoming},
    client::conn::http1,
    header::{self, HeaderValue},
};
use hyper_util::rt::TokioIo;
use tokio::{net::TcpStream, task::AbortHandle, time::timeout};

use crate::{
    fault::{HttpFault, HttpFaultKind},
    rules::{Allowed, MAX_HEADERS, plain_path},
    wire::PIECE_BYTES,
};

/// Time for a connection.
const CONNECT_LIMIT: Duration = Duration::from_secs(5);
/// Time for the head of an answer, and for each piece.
const PIECE_LIMIT: Duration = Duration::from_secs(30);
/// Bytes of an answer's head at most.
const MAX_HEAD_BYTES: usize = 64 * 1024;

/// Where an upstream is: `http://host:port` and a path that everything lies below.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Upstream {
    authority: String,
    dial: String,
    base: String,
}

/// Why a text names no upstream.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum UpstreamError {
    /// Not `http`.
    #[error(
        "the upstream '{url}' is not reached by plain http: write http://host:port/path, and put a proxy before a server that wants TLS"
    )]
    Scheme {
        /// The text.
        url: String,
    },
    /// No host, or a user or a query.
    #[error("the upstream '{url}' is no http://host:port/path")]
    Malformed {
        /// The text.
        url: String,
    },
}

impl FromStr for Upstream {
    type Err = UpstreamError;

    fn from_str(url: &str) -> Result<Self, UpstreamError> {
        let rest = url.strip_prefix("http://").ok_or_else(|| UpstreamError::Scheme { url: url.to_owned() })?;
        let malformed = || UpstreamError::Malformed { url: url.to_owned() };
        let (authority, base) = rest.find('/').map_or((rest, ""), |at| rest.split_at(at));
        let parsed: hyper::http::uri::Authority = authority.parse().map_err(|_| malformed())?;
        let plain = base.is_empty() || (plain_path(base).is_ok() && !base.contains('?'));
        if parsed.host().is_empty() || authority.contains('@') || !plain {
            return Err(malformed());
        }
        let port = parsed.port_u16().unwrap_or(80);
        let dial = format!("{}:{port}", parsed.host());
        Ok(Self { authority: authority.to_owned(), dial, base: base.trim_end_matches('/').to_owned() })
    }
}

impl fmt::Display for Upstream {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "http://{}{}", self.authority, self.base)
    }
}

/// An answer that is being read. The connection ends with it.
#[derive(Debug)]
pub(crate) struct Reading {
    body: Incoming,
    over: Vec<u8>,
    connection: AbortHandle,
}

impl Drop for Reading {
    fn drop(&mut self) {
        self.connection.abort();
    }
}

/// An answer's head.
#[derive(Debug)]
pub(crate) struct Answered {
    pub(crate) status: StatusCode,
    pub(crate) headers: HeaderMap,
    pub(crate) length: Option<u64>,
    pub(crate) reading: Reading,
}

fn down(reason: impl fmt::Display) -> HttpFault {
    // The operator's addresses are nobody else's business.
    tracing::warn!(%reason, "an upstream can't be reached");
    HttpFault::new(HttpFaultKind::UpstreamDown, "the provider's own server can't be reached; another provider may do")
}

fn failed(reason: impl fmt::Display) -> HttpFault {
    tracing::warn!(%reason, "an upstream failed");
    HttpFault::new(
        HttpFaultKind::UpstreamFailed,
        "the provider's own server broke off or was too slow; another provider may do",
    )
}

impl Upstream {
    /// Sends a request; gives the answer's head.
    pub(crate) async fn send(&self, allowed: Allowed) -> Result<Answered, HttpFault> {
        let stream = match timeout(CONNECT_LIMIT, TcpStream::connect(&self.dial)).await {
            Ok(Ok(stream)) => stream,
            Ok(Err(error)) => return Err(down(error)),
            Err(_) => return Err(down("no connection in time")),
        };
        let shaken = http1::Builder::new()
            .max_buf_size(MAX_HEAD_BYTES)
            .max_headers(2 * MAX_HEADERS)
            .handshake::<_, Full<Bytes>>(TokioIo::new(stream))
            .await;
        let (mut sender, connection) = shaken.map_err(failed)?;
        let connection = tokio::spawn(async move {
            let _ = connection.await;
        })
        .abort_handle();
        let Allowed { method, target, mut headers, body } = allowed;
        let host = HeaderValue::from_str(&self.authority).map_err(failed)?;
        headers.insert(header::HOST, host);
        let is_head = method == hyper::Method::HEAD;
        let mut request = Request::new(Full::new(Bytes::from(body)));
        *request.method_mut() = method;
        *request.uri_mut() = format!("{}{target}", self.base).parse().map_err(failed)?;
        *request.headers_mut() = headers;
        let answer = match timeout(PIECE_LIMIT, sender.send_request(request)).await {
            Ok(Ok(answer)) => answer,
            Ok(Err(error)) => {
                connection.abort();
                return Err(failed(error));
            }
            Err(_) => {
                connection.abort();
                return Err(failed("no answer in time"));
            }
        };
        let (head, body) = answer.into_parts();
        let length = head.headers.get(header::CONTENT_LENGTH).and_then(|value| value.to_str().ok()?.parse().ok());
        Ok(Answered {
            status: head.status,
            // Neither has the body whose length it may tell.
            length: length.filter(|_| !is_head && head.status != StatusCode::NOT_MODIFIED),
            headers: head.headers,
            reading: Reading { body, over: Vec::new(), connection },
        })
    }
}

impl Reading {
    /// Up to [`PIECE_BYTES`] of the body, and whether more follows.
    pub(crate) async fn piece(&mut self) -> Result<(Vec<u8>, bool), HttpFault> {
        timeout(PIECE_LIMIT, self.read()).await.unwrap_or_else(|_| Err(failed("no piece in time")))
    }

    async fn read(&mut self) -> Result<(Vec<u8>, bool), HttpFault> {
        let mut piece = std::mem::take(&mut self.over);
        // One byte beyond the piece tells that more follows.
        while piece.len() <= PIECE_BYTES {
            let Some(frame) = self.body.frame().await else { return Ok((piece, false)) };
            if let Ok(data) = frame.map_err(failed)?.into_data() {
                piece.extend_from_slice(&data);
            }
        }
        self.over = piece.split_off(PIECE_BYTES);
        Ok((piece, true))
    }
}

#[cfg(test)]
mod tests {
    use super::{Upstream, UpstreamError};

    #[test]
    fn an_upstream_is_a_plain_http_address() {
        for (url, shown) in [
            ("http://127.0.0.1:8080", "http://127.0.0.1:8080"),
            ("http://backend/base/", "http://backend/base"),
            ("http://[::1]:8080/", "http://[::1]:8080"),
        ] {
            assert_eq!(url.parse::<Upstream>().unwrap().to_string(), shown);
        }
        for url in ["https://backend", "ftp://backend", "backend:80", ""] {
            assert_eq!(url.parse::<Upstream>(), Err(UpstreamError::Scheme { url: url.into() }));
        }
        for url in [
            "http://",
            "http://user:word@backend",
            "http:///x",
            "http://a b",
            "http://backend/a/../b",
            "http://backend/a?b",
        ] {
            assert_eq!(url.parse::<Upstream>(), Err(UpstreamError::Malformed { url: url.into() }));
        }
    }
}
