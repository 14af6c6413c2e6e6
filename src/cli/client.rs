//! A little HTTP client: enough to ask a node something.

use std::time::Duration;

use http_body_util::{BodyExt, Full};
use hyper::Method;
use hyper::body::Bytes;
use hyper_util::rt::TokioIo;
use tokio::net::TcpStream;
use uuid::Uuid;
use yakt::http::INSTANCE_HEADER;
use yakt::node::{ClusterStatus, REQUEST_DEADLINE};
use yakt::raft::NodeId;

use super::Failure;

/// How long to wait for an answer that takes a node no time.
const LIMIT: Duration = Duration::from_secs(2);

/// How long to wait for a change: longer than the node, so that it is the node that gives up first.
const CHANGE_LIMIT: Duration = REQUEST_DEADLINE.saturating_add(LIMIT);

/// What the node at `addr` says at `/cluster`.
pub(super) async fn cluster(addr: &str) -> Result<ClusterStatus, Failure> {
    let body = get(addr, "/cluster").await?.body;
    Ok(serde_json::from_slice(&body)?)
}

/// As [`cluster`], if it is the process `instance` that answers; `None` otherwise.
pub(super) async fn cluster_of(addr: &str, instance: Uuid) -> Option<ClusterStatus> {
    let answer = get(addr, "/cluster").await.ok()?;
    serde_json::from_slice(&answer.body).ok().filter(|_| answer.instance == Some(instance))
}

/// Whether the process `instance` answers at `addr`, and is ready.
pub(super) async fn ready(addr: &str, instance: Uuid) -> bool {
    get(addr, "/readyz").await.is_ok_and(|answer| answer.instance == Some(instance))
}

/// Removes the member `node`, through the node at `addr`; what that says at `/cluster` then.
pub(super) async fn remove(addr: &str, node: NodeId) -> Result<ClusterStatus, Failure> {
    let path = format!("/cluster/nodes/{node}");
    let body = ask(Method::DELETE, addr, &path, String::new(), CHANGE_LIMIT).await?.body;
    Ok(serde_json::from_slice(&body)?)
}

/// Makes `node` the leader, through the node at `addr`; what that says at `/cluster` then.
pub(super) async fn transfer(addr: &str, node: NodeId) -> Result<ClusterStatus, Failure> {
    let request = serde_json::json!({ "node": node }).to_string();
    let body = ask(Method::POST, addr, "/cluster/leader", request, CHANGE_LIMIT).await?.body;
    Ok(serde_json::from_slice(&body)?)
}

/// A successful answer.
struct Answer {
    /// The process that answered, if the answer names it.
    instance: Option<Uuid>,
    body: Bytes,
}

async fn get(addr: &str, path: &str) -> Result<Answer, Failure> {
    ask(Method::GET, addr, path, String::new(), LIMIT).await
}

async fn ask(
    method: Method,
    addr: &str,
    path: &str,
    body: String,
    limit: Duration,
) -> Result<Answer, Failure> {
    let asked = async {
        let stream = TcpStream::connect(addr).await?;
        let (mut sender, connection) =
            hyper::client::conn::http1::handshake(TokioIo::new(stream)).await?;
        let driving = tokio::spawn(connection);
        let request = hyper::Request::builder()
            .method(method)
            .uri(path)
            .header("host", addr)
            .header("content-type", "application/json")
            .body(Full::new(Bytes::from(body)))?;
        let response = sender.send_request(request).await?;
        let status = response.status();
        let instance =
            response.headers().get(INSTANCE_HEADER).and_then(|value| value.to_str().ok());
        let instance = instance.and_then(|instance| instance.parse().ok());
        let body = response.into_body().collect().await?.to_bytes();
        driving.abort();
        if status.is_success() {
            Ok(Answer { instance, body })
        } else {
            Err(refusal(path, status, &body).into())
        }
    };
    tokio::time::timeout(limit, asked).await.map_err(|_| format!("{addr} does not answer"))?
}

/// A refusal in the server's own words, if it said any.
fn refusal(path: &str, status: hyper::StatusCode, body: &[u8]) -> String {
    let problem: serde_json::Value = serde_json::from_slice(body).unwrap_or_default();
    match (problem["detail"].as_str(), problem["code"].as_str()) {
        (Some(detail), Some(code)) => format!("{detail} ({code})"),
        _ => format!("{path} is answered with {status}"),
    }
}
