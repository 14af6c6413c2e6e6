//! A little HTTP client: enough to ask a node something.

use std::time::Duration;

use http_body_util::{BodyExt, Empty};
use hyper::body::Bytes;
use hyper_util::rt::TokioIo;
use tokio::net::TcpStream;
use yakt::node::ClusterStatus;

use super::Failure;

/// How long to wait for an answer that takes a node no time.
const LIMIT: Duration = Duration::from_secs(2);

/// What the node at `addr` says at `/cluster`.
pub(super) async fn cluster(addr: &str) -> Result<ClusterStatus, Failure> {
    let body = get(addr, "/cluster").await?;
    Ok(serde_json::from_slice(&body)?)
}

/// Whether the node at `addr` is ready.
pub(super) async fn ready(addr: &str) -> bool {
    get(addr, "/readyz").await.is_ok()
}

async fn get(addr: &str, path: &str) -> Result<Bytes, Failure> {
    let asked = async {
        let stream = TcpStream::connect(addr).await?;
        let (mut sender, connection) =
            hyper::client::conn::http1::handshake(TokioIo::new(stream)).await?;
        let driving = tokio::spawn(connection);
        let request = hyper::Request::get(path).header("host", addr).body(Empty::<Bytes>::new())?;
        let response = sender.send_request(request).await?;
        let status = response.status();
        let body = response.into_body().collect().await?.to_bytes();
        driving.abort();
        if status.is_success() {
            Ok(body)
        } else {
            Err(format!("{addr}{path} answered {status}").into())
        }
    };
    tokio::time::timeout(LIMIT, asked).await.map_err(|_| format!("{addr} does not answer"))?
}
