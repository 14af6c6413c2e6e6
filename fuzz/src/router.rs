//! An HTTP request, answered by a node that has not started.
//!
//! The input is the request as it would stand on the wire, without the version: `METHOD TARGET`, lines
//! of `NAME: VALUE`, an empty line, the body. Such a node has nothing to serve, so what is exercised is
//! everything before that: routing, parsing, limits, errors.

use axum::body::Body;
use axum::http::{Request, StatusCode};
use http_body_util::BodyExt as _;
use tower::ServiceExt as _;
use yakt::env::TokioEnv;
use yakt::node::{Node, NodeOptions};
use yakt::raft::config::RaftOptions;

/// Runs the target.
///
/// # Panics
///
/// When something is wrong.
pub fn run(data: &[u8]) {
    let Some(request) = parse(data) else { return };
    // Time is paused: waiting for a leader until the deadline takes none.
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_time()
        .start_paused(true)
        .build()
        .expect("a runtime");
    runtime.block_on(answer(request));
}

async fn answer(request: Request<Body>) {
    let shown = format!("{} {}", request.method(), request.uri());
    let response = yakt::http::router(node()).oneshot(request).await.expect("infallible");
    let (head, body) = response.into_parts();
    let body = body.collect().await.expect("the body is whole").to_bytes();
    assert_ne!(head.status, StatusCode::INTERNAL_SERVER_ERROR, "{shown}: {body:?}");
    if head.status.as_u16() < 400 {
        return;
    }
    let kind = head.headers.get("content-type").and_then(|kind| kind.to_str().ok());
    assert_eq!(kind, Some("application/problem+json"), "{shown}: {} {body:?}", head.status);
    if shown.starts_with("HEAD ") {
        return;
    }
    let problem: serde_json::Value = serde_json::from_slice(&body).expect("a problem is JSON");
    assert!(problem["code"].is_string(), "{shown}: {problem} has no code");
    assert_eq!(problem["status"], head.status.as_u16(), "{shown}");
}

fn node() -> Node<TokioEnv> {
    Node::new(
        TokioEnv,
        NodeOptions {
            id: 1,
            raft_addr: "127.0.0.1:5010".into(),
            http_addr: "127.0.0.1:5011".into(),
            ensemble: Vec::new(),
            data: "unused".into(),
            raft: RaftOptions::default(),
            observer: None,
        },
    )
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
    request.body(Body::from(body.to_vec())).ok()
}
