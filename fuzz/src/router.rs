//! An HTTP request, answered by the leader of a cluster of one that has some brokers and topics.
//!
//! The input is the request as it would stand on the wire, without the version: `METHOD TARGET`, lines
//! of `NAME: VALUE`, an empty line, the body. What must hold of the answer:
//!
//! - there is one, with a status that `/openapi.json` has for that path and method, and below 500: a leader that has a
//!   majority, namely itself, has no excuse;
//! - from 400 on it is a problem, in JSON, with a code;
//! - the node goes on, with all of its invariants intact.

use std::cell::RefCell;

use axum::body::Body;
use axum::http::{HeaderMap, Method, Request, StatusCode};

use self::contract::Contract;
use self::host::Host;

mod contract;
pub mod host;

/// The code of a refusal that no path documents, because every path may answer with it.
const INVALID_HOST: &[u8] = b"\"invalid_host\"";

thread_local! {
    /// The node that answered the last request, if that request left no trace in its log.
    ///
    /// Most requests are turned away or read, thousands a second; a start takes about five milliseconds. So a
    /// node answers on until something was written, be it an entry that was rejected, and then a new one takes over.
    /// Each input finds the same metadata, whatever came before it. What may differ is the virtual time since the
    /// start, and what the runtime draws: election timeouts, and UUIDs of what is made.
    static HOST: RefCell<Option<Host>> = const { RefCell::new(None) };

    /// What answers may look like.
    static CONTRACT: Contract = Contract::read();
}

/// Runs the target.
///
/// # Panics
///
/// When something is wrong.
pub fn run(data: &[u8]) {
    let Some(request) = parse(data) else { return };
    let shown = format!("{} {}", request.method(), request.uri());
    let (method, path) = (request.method().clone(), request.uri().path().to_owned());
    // Taken out: a node that saw a panic answers nobody again.
    let host = HOST.take().unwrap_or_else(Host::start);
    let (status, headers, body) = host.ask(request);
    assert!(status.as_u16() < 500, "{shown}: {status} {body:?}");
    if status.as_u16() >= 400 {
        check_problem(&shown, &method, status, &headers, &body);
    }
    // Any path may refuse a request for its Host header.
    if !body.windows(INVALID_HOST.len()).any(|window| window == INVALID_HOST) {
        CONTRACT.with(|contract| contract.check(&method, &path, status));
    }
    host.check();
    if !host.has_written() {
        HOST.set(Some(host));
    }
}

fn check_problem(shown: &str, method: &Method, status: StatusCode, head: &HeaderMap, body: &[u8]) {
    let kind = head.get("content-type").and_then(|kind| kind.to_str().ok());
    assert_eq!(kind, Some("application/problem+json"), "{shown}: {status} {body:?}");
    if method == Method::HEAD {
        return;
    }
    let problem: serde_json::Value = serde_json::from_slice(body).expect("a problem is JSON");
    assert!(problem["code"].is_string(), "{shown}: {problem} has no code");
    assert_eq!(problem["status"], status.as_u16(), "{shown}");
}

fn parse(data: &[u8]) -> Option<Request<Body>> {
    let (head, body) = match data.windows(2).position(|window| window == b"\n\n") {
        Some(end) => (&data[..end], &data[end + 2..]),
        None => (data, &[][..]),
    };
    let mut lines = head.split(|byte| *byte == b'\n');
    let mut start = lines.next()?.splitn(2, |byte| *byte == b' ');
    let mut request = Request::builder().method(start.next()?).uri(start.next()?);
    for line in lines {
        let colon = line.iter().position(|byte| *byte == b':')?;
        request = request.header(&line[..colon], line[colon + 1..].trim_ascii());
    }
    if !request.headers_ref()?.contains_key("host") {
        request = request.header("host", "node");
    }
    request.body(Body::from(body.to_vec())).ok()
}
