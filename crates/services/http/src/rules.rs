//! What may be asked of an upstream.
//!
//! The host is the operator's and never the buyer's, so a request can't be turned to another one. What is left is the path: one that climbs out of
//! what is served, or that proxy and upstream read differently, is refused and never repaired.

use hyper::{
    Method,
    header::{self, HeaderMap, HeaderName, HeaderValue},
};

use crate::{
    fault::{HttpFault, HttpFaultKind},
    proto,
};

/// Bytes of a request's body at most.
pub const MAX_BODY_BYTES: usize = 256 * 1024;
/// Bytes of a target at most.
const MAX_TARGET_BYTES: usize = 4096;
/// Headers at most, each way.
pub(crate) const MAX_HEADERS: usize = 64;
/// Bytes of all headers at most, each way.
pub(crate) const MAX_HEADER_BYTES: usize = 16 * 1024;

/// Headers that concern one connection, and must not be passed on.
pub(crate) fn is_hop_by_hop(name: &HeaderName) -> bool {
    const NAMES: [&str; 5] =
        ["keep-alive", "proxy-connection", "proxy-authenticate", "proxy-authorization", "http2-settings"];
    matches!(*name, header::CONNECTION | header::TE | header::TRAILER | header::TRANSFER_ENCODING | header::UPGRADE)
        || NAMES.contains(&name.as_str())
}

/// Headers that tell a server where a request goes, how long it is, or whence it came.
fn is_the_proxys(name: &HeaderName) -> bool {
    const NAMES: [&str; 4] = ["x-real-ip", "x-client-ip", "true-client-ip", "via"];
    matches!(*name, header::HOST | header::CONTENT_LENGTH | header::FORWARDED | header::EXPECT)
        || name.as_str().starts_with("x-forwarded-")
        || NAMES.contains(&name.as_str())
}

/// What an operator lets be asked.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Rules {
    /// Methods.
    pub methods: Vec<String>,
    /// Paths, each with what lies below it; `/` for all.
    pub paths: Vec<String>,
}

/// A request that may be sent on.
#[derive(Debug)]
pub(crate) struct Allowed {
    pub(crate) method: Method,
    pub(crate) target: String,
    pub(crate) headers: HeaderMap,
    pub(crate) body: Vec<u8>,
}

impl Rules {
    /// Whether a path that is plain lies in what is served.
    #[must_use]
    pub fn serves(&self, path: &str) -> bool {
        self.paths.iter().any(|served| {
            let served = served.trim_end_matches('/');
            path.strip_prefix(served).is_some_and(|rest| rest.is_empty() || rest.starts_with('/'))
        })
    }

    pub(crate) fn check(&self, request: proto::HttpRequest) -> Result<Allowed, HttpFault> {
        let fault = |kind, reason: String| HttpFault::new(kind, reason);
        if !self.methods.contains(&request.method) {
            let served = self.methods.join(", ");
            return Err(fault(HttpFaultKind::Method, format!("the method is not served here: {served} are")));
        }
        let method = Method::from_bytes(request.method.as_bytes())
            .map_err(|_| fault(HttpFaultKind::Method, "the method is none".to_owned()))?;
        let path = plain_path(&request.target)?;
        if !self.serves(path) {
            let served = self.paths.join(" ");
            return Err(fault(HttpFaultKind::Path, format!("the path is not served here: {served} are")));
        }
        let (got, max) = (request.body.len(), MAX_BODY_BYTES);
        if got > max {
            return Err(fault(HttpFaultKind::TooLarge, format!("the body has {got} bytes, at most {max} are taken")));
        }
        Ok(Allowed { method, target: request.target, headers: headers(request.headers)?, body: request.body })
    }
}

/// The path of a target that proxy and upstream can't read differently.
pub(crate) fn plain_path(target: &str) -> Result<&str, HttpFault> {
    let refused = |reason: &str| Err(HttpFault::new(HttpFaultKind::Target, format!("the target {reason}")));
    if target.len() > MAX_TARGET_BYTES {
        return refused("is longer than 4096 bytes");
    }
    if !target.starts_with('/') {
        return refused("is no path: it must begin with a slash, and name no scheme and no host");
    }
    if !target.bytes().all(|byte| byte.is_ascii_graphic() && !matches!(byte, b'\\' | b'#' | b'"' | b'<' | b'>')) {
        return refused("has characters that must be escaped");
    }
    let path = target.split_once('?').map_or(target, |(path, _)| path);
    let mut escapes = path.split('%');
    escapes.next();
    for escape in escapes {
        let byte = escape.get(..2).and_then(|digits| u8::from_str_radix(digits, 16).ok());
        match byte {
            None => return refused("has a percent sign that escapes nothing"),
            Some(b'.' | b'/' | b'\\' | b'%' | 0..=0x1f | 0x7f) => {
                return refused("escapes a dot, a slash, a percent sign or a control character");
            }
            Some(_) => {}
        }
    }
    let mut segments = path[1..].split('/').peekable();
    while let Some(segment) = segments.next() {
        if matches!(segment, "." | "..") {
            return refused("climbs: '.' and '..' are not taken");
        }
        if segment.is_empty() && segments.peek().is_some() {
            return refused("has an empty part");
        }
    }
    Ok(path)
}

fn headers(list: Vec<proto::HttpHeader>) -> Result<HeaderMap, HttpFault> {
    let fault = |reason: String| HttpFault::new(HttpFaultKind::Header, reason);
    let bytes: usize = list.iter().map(|header| header.name.len() + header.value.len()).sum();
    if list.len() > MAX_HEADERS || bytes > MAX_HEADER_BYTES {
        return Err(fault(format!(
            "there are {} headers of {bytes} bytes, at most {MAX_HEADERS} of {MAX_HEADER_BYTES} are taken",
            list.len()
        )));
    }
    let mut map = HeaderMap::new();
    for header in list {
        let name = HeaderName::from_lowercase(header.name.as_bytes())
            .map_err(|_| fault("a header's name is none, or not in lower case".into()))?;
        let value = HeaderValue::from_bytes(&header.value)
            .map_err(|_| fault(format!("the value of {name} has control characters")))?;
        if is_hop_by_hop(&name) || is_the_proxys(&name) {
            return Err(fault(format!("{name} is the proxy's own business: leave it out")));
        }
        map.append(name, value);
    }
    Ok(map)
}

/// An upstream's headers without those of its connection to the proxy, cut to the bounds.
pub(crate) fn passed_back(headers: &HeaderMap) -> Vec<proto::HttpHeader> {
    let named: Vec<String> = headers
        .get_all(header::CONNECTION)
        .iter()
        .filter_map(|value| value.to_str().ok())
        .flat_map(|value| value.split(','))
        .map(|name| name.trim().to_ascii_lowercase())
        .collect();
    let mut room = MAX_HEADER_BYTES;
    headers
        .iter()
        .filter(|(name, _)| !is_hop_by_hop(name) && !named.iter().any(|own| own == name.as_str()))
        .filter(|(name, _)| !matches!(**name, header::CONTENT_LENGTH))
        .take(MAX_HEADERS)
        .map_while(|(name, value)| {
            room = room.checked_sub(name.as_str().len() + value.len())?;
            Some(proto::HttpHeader { name: name.as_str().to_owned(), value: value.as_bytes().to_vec() })
        })
        .collect()
}

#[cfg(test)]
mod tests {
    use super::{HttpFaultKind, MAX_BODY_BYTES, Rules, passed_back, plain_path, proto};

    fn rules() -> Rules {
        let list = |texts: &[&str]| texts.iter().map(|&text| text.to_owned()).collect();
        Rules { methods: list(&["GET", "POST"]), paths: list(&["/data", "/open/"]) }
    }

    fn request(method: &str, target: &str, headers: &[(&str, &str)]) -> proto::HttpRequest {
        proto::HttpRequest {
            method: method.into(),
            target: target.into(),
            headers: headers
                .iter()
                .map(|(name, value)| proto::HttpHeader { name: (*name).into(), value: value.as_bytes().to_vec() })
                .collect(),
            body: Vec::new(),
        }
    }

    fn kind(request: proto::HttpRequest) -> Option<HttpFaultKind> {
        rules().check(request).err().map(|fault| fault.kind)
    }

    #[test]
    fn plain_paths_below_what_is_served_pass() {
        for target in ["/data", "/data/", "/data/a/b?x=../..&y=%2e", "/open/x", "/open", "/data/%C3%A4"] {
            assert_eq!(kind(request("GET", target, &[])), None, "{target}");
        }
        for target in ["/", "/database", "/dat", "/private/data"] {
            assert_eq!(kind(request("GET", target, &[])), Some(HttpFaultKind::Path), "{target}");
        }
        assert_eq!(kind(request("DELETE", "/data", &[])), Some(HttpFaultKind::Method));
        assert_eq!(kind(request("get", "/data", &[])), Some(HttpFaultKind::Method));
    }

    #[test]
    fn targets_that_climb_name_a_host_or_can_be_misread_are_refused() {
        for target in [
            "",
            "data",
            "http://other/data",
            "//other/data",
            "/data/../private",
            "/data/..",
            "/data/./x",
            "/data//x",
            "/data/%2e%2e/private",
            "/data/%2E./x",
            "/data%2f..%2fprivate",
            "/data/%5c..",
            "/data\\..\\x",
            "/data/%252e%252e",
            "/data/%00",
            "/data/%0d%0aHost:other",
            "/data/%zz",
            "/data/%2",
            "/data/a b",
            "/data/\r\nX: y",
            "/data/#x",
            "/dät",
        ] {
            assert_eq!(plain_path(target).err().map(|fault| fault.kind), Some(HttpFaultKind::Target), "{target:?}");
        }
    }

    #[test]
    fn headers_of_a_connection_of_the_proxy_or_with_line_ends_are_refused() {
        for (name, value) in [
            ("connection", "close"),
            ("transfer-encoding", "chunked"),
            ("content-length", "3"),
            ("host", "other"),
            ("te", "trailers"),
            ("upgrade", "websocket"),
            ("proxy-authorization", "x"),
            ("keep-alive", "1"),
            ("x-forwarded-for", "192.0.2.1"),
            ("forwarded", "for=192.0.2.1"),
            ("x-real-ip", "192.0.2.1"),
            ("via", "1.1 x"),
            ("expect", "100-continue"),
            ("x-a", "b\r\nhost: other"),
            ("x a", "b"),
            ("Accept", "b"),
            ("", "b"),
            ("x:a", "b"),
        ] {
            assert_eq!(
                kind(request("GET", "/data", &[(name, value)])),
                Some(HttpFaultKind::Header),
                "{name}: {value:?}"
            );
        }
        assert_eq!(kind(request("GET", "/data", &[("accept", "text/plain"), ("x-key", "1")])), None);
        let many: Vec<(&str, &str)> = (0..65).map(|_| ("x-a", "b")).collect();
        assert_eq!(kind(request("GET", "/data", &many)), Some(HttpFaultKind::Header));
        let long = "x".repeat(17 * 1024);
        assert_eq!(kind(request("GET", "/data", &[("x-a", &long)])), Some(HttpFaultKind::Header));
    }

    #[test]
    fn a_body_beyond_the_bound_is_refused() {
        let body = |len| proto::HttpRequest { body: vec![0; len], ..request("POST", "/data", &[]) };
        assert_eq!(kind(body(MAX_BODY_BYTES)), None);
        assert_eq!(kind(body(MAX_BODY_BYTES + 1)), Some(HttpFaultKind::TooLarge));
    }

    #[test]
    fn an_upstreams_own_connection_is_not_passed_back() {
        let mut headers = hyper::HeaderMap::new();
        for (name, value) in [
            ("connection", "x-own, close"),
            ("x-own", "1"),
            ("transfer-encoding", "chunked"),
            ("content-length", "3"),
            ("keep-alive", "1"),
            ("content-type", "text/plain"),
        ] {
            headers
                .insert(hyper::header::HeaderName::from_static(name), hyper::header::HeaderValue::from_static(value));
        }
        let names: Vec<String> = passed_back(&headers).into_iter().map(|header| header.name).collect();
        assert_eq!(names, ["content-type"]);
    }
}
