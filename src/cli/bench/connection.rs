//! One keep-alive connection to a node.

use std::time::Duration;

use http_body_util::{BodyExt, Full};
use hyper::body::Bytes;
use hyper::client::conn::http1::{SendRequest, handshake};
use hyper::{Method, StatusCode};
use hyper_util::rt::TokioIo;
use tokio::net::TcpStream;
use yakt::node::REQUEST_DEADLINE;

/// Longer than a node takes to give up, so that it is the node that says why.
const LIMIT: Duration = REQUEST_DEADLINE.saturating_add(Duration::from_secs(2));

/// A request that got no answer.
#[derive(Debug, thiserror::Error)]
pub(super) enum Lost {
    #[error("no connection")]
    Connect,
    #[error("connection lost")]
    Broken,
    #[error("timeout")]
    Timeout,
}

pub(super) struct Connection {
    addr: String,
    sender: Option<SendRequest<Full<Bytes>>>,
}

impl Connection {
    pub(super) fn new(addr: String) -> Self {
        Self { addr, sender: None }
    }

    /// Sends a request and waits for the whole answer. After an error the next one goes over a new connection.
    pub(super) async fn send(
        &mut self,
        method: Method,
        path: &str,
        body: String,
    ) -> Result<(StatusCode, Bytes), Lost> {
        let sent = tokio::time::timeout(LIMIT, self.try_send(method, path, body)).await;
        let sent = sent.unwrap_or(Err(Lost::Timeout));
        if sent.is_err() {
            self.sender = None;
        }
        sent
    }

    async fn try_send(
        &mut self,
        method: Method,
        path: &str,
        body: String,
    ) -> Result<(StatusCode, Bytes), Lost> {
        if self.sender.is_none() {
            self.sender = Some(connect(&self.addr).await.map_err(|_| Lost::Connect)?);
        }
        let Some(sender) = &mut self.sender else { return Err(Lost::Connect) };
        let request = hyper::Request::builder()
            .method(method)
            .uri(path)
            .header("host", &self.addr)
            .header("content-type", "application/json")
            .body(Full::new(Bytes::from(body)))
            .map_err(|_| Lost::Broken)?;
        sender.ready().await.map_err(|_| Lost::Broken)?;
        let response = sender.send_request(request).await.map_err(|_| Lost::Broken)?;
        let status = response.status();
        let body = response.into_body().collect().await.map_err(|_| Lost::Broken)?.to_bytes();
        Ok((status, body))
    }
}

async fn connect(addr: &str) -> Result<SendRequest<Full<Bytes>>, Box<dyn std::error::Error>> {
    let stream = TcpStream::connect(addr).await?;
    stream.set_nodelay(true)?;
    let (sender, connection) = handshake(TokioIo::new(stream)).await?;
    tokio::spawn(async move {
        // Whoever sends over it hears of its end.
        let _ = connection.await;
    });
    Ok(sender)
}
