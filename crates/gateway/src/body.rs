//! Bodies of answers.

use futures::{Stream, StreamExt as _};
use http_body_util::{BodyExt as _, Full, StreamBody, combinators::UnsyncBoxBody};
use hyper::{
    Response, StatusCode,
    body::{Bytes, Frame},
    header::{CACHE_CONTROL, CONTENT_TYPE, HeaderValue},
};
use serde_json::Value;

/// Why an answer that had begun can't be finished. The connection is cut, so that the program sees that something is missing.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("the answer broke off: {0}")]
pub struct Broken(pub String);

/// An answer's body: whole, or piece by piece as it comes.
pub type Body = UnsyncBoxBody<Bytes, Broken>;

/// An answer.
pub type Answer = Response<Body>;

/// A body that is there already.
#[must_use]
pub fn whole(bytes: impl Into<Bytes>) -> Body {
    Full::new(bytes.into()).map_err(|never| match never {}).boxed_unsync()
}

/// No body.
#[must_use]
pub fn empty() -> Body {
    whole(Bytes::new())
}

/// A body that is sent as it comes, nothing of it kept back.
pub fn streamed(pieces: impl Stream<Item = Result<Bytes, Broken>> + Send + 'static) -> Body {
    StreamBody::new(pieces.map(|piece| piece.map(Frame::data))).boxed_unsync()
}

/// A JSON document.
#[must_use]
pub fn document(status: StatusCode, value: &Value) -> Answer {
    let mut answer = Response::new(whole(value.to_string()));
    *answer.status_mut() = status;
    let headers = answer.headers_mut();
    headers.insert(CONTENT_TYPE, HeaderValue::from_static("application/json"));
    headers.insert(CACHE_CONTROL, HeaderValue::from_static("no-store"));
    answer
}
