//! An HTTP client on a simulated host: hyper over simulated TCP, one kept connection a server.

use std::collections::BTreeMap;
use std::io::{self, Read};
use std::time::Duration;

use http_body_util::{BodyExt, Full};
use hyper::body::Bytes;
use hyper::client::conn::http1::{self, SendRequest};
use hyper::{Method, StatusCode};
use hyper_util::rt::TokioIo;
use serde_json::Value;
use yakt::env::rt;

use super::exchanges::Exchanges;
use crate::env::SimEnv;

/// How long a client waits for an answer: longer than a server may take, so that only a lost connection or
/// a stopped server makes it give up.
pub const PATIENCE: Duration = Duration::from_secs(6);

/// How long a client waits for a connection. A host without power never answers, and a client that waited for it
/// as long as for an answer would do nothing else.
pub const CONNECT_PATIENCE: Duration = Duration::from_secs(1);

/// One client.
pub struct Client {
    env: SimEnv,
    connections: BTreeMap<String, Connection>,
    patience: Duration,
    exchanges: Exchanges,
}

/// A connection, and its number in the history.
struct Connection {
    number: u64,
    sender: SendRequest<Full<Bytes>>,
}

/// What a server answered.
#[derive(Clone, Debug, PartialEq)]
pub struct Answer {
    /// The status.
    pub status: StatusCode,
    /// The body: a string when it is not JSON, `Null` when there is none.
    pub body: Value,
}

/// Why there is no answer. The server may have acted all the same, unless nothing was sent.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum NoAnswer {
    /// There was no connection to send on.
    NotSent,
    /// It was sent, and then the connection broke or the client's patience ended.
    Lost,
}

/// A request.
#[derive(Clone, Debug)]
pub struct Request {
    /// GET, POST, …
    pub method: Method,
    /// Path and query.
    pub path: String,
    /// The JSON body, if any.
    pub body: Option<Value>,
    /// The `Idempotency-Key`, if any.
    pub key: Option<String>,
    /// A body as it is, in place of a JSON one.
    pub raw: Option<Raw>,
    /// How it must be refused, if it breaks the contract on purpose.
    pub refusal: Option<Refusal>,
    /// The `Accept-Encoding`, if any. Callers receive the decoded answer.
    pub accept_encoding: Option<&'static str>,
}

/// A body that need not be JSON.
#[derive(Clone, PartialEq, Eq)]
pub struct Raw {
    /// The `Content-Type`, if any.
    pub content_type: Option<&'static str>,
    /// What is sent.
    pub bytes: Bytes,
}

impl std::fmt::Debug for Raw {
    /// A body that is too large for a server is too large for a report.
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{} bytes of {:?}", self.bytes.len(), self.content_type)
    }
}

/// What the contract says to a request that breaks it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Refusal {
    /// The status.
    pub status: StatusCode,
    /// The problem's code.
    pub code: &'static str,
    /// Who says so.
    pub by: Refuser,
}

/// Who refuses a request.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Refuser {
    /// The asked node, which need not know anything: it has no other answer.
    Door,
    /// The cluster, which may not be there.
    Cluster,
    /// The cluster, if it still knows the request's key: see [`keys`](super::check::keys).
    Memory,
}

impl Request {
    /// GET `path`.
    pub fn get(path: impl Into<String>) -> Self {
        Self {
            method: Method::GET,
            path: path.into(),
            body: None,
            key: None,
            raw: None,
            refusal: None,
            accept_encoding: None,
        }
    }

    /// POST `body` to `path`.
    pub fn post(path: impl Into<String>, body: Value) -> Self {
        Self { method: Method::POST, body: Some(body), ..Self::get(path) }
    }

    /// With an `Idempotency-Key`.
    #[must_use]
    pub fn keyed(self, key: impl Into<String>) -> Self {
        Self { key: Some(key.into()), ..self }
    }

    /// With a body that need not be JSON.
    #[must_use]
    pub fn raw(self, content_type: Option<&'static str>, bytes: impl Into<Bytes>) -> Self {
        Self { body: None, raw: Some(Raw { content_type, bytes: bytes.into() }), ..self }
    }
}

impl Client {
    /// A client on the host of `env`.
    #[must_use]
    pub fn new(env: SimEnv) -> Self {
        let exchanges = Exchanges::default();
        Self { env, connections: BTreeMap::new(), patience: PATIENCE, exchanges }
    }

    /// The same client, which notes what it asks and is answered in `exchanges`.
    #[must_use]
    pub fn noting(self, exchanges: Exchanges) -> Self {
        Self { exchanges, ..self }
    }

    /// The world it lives in.
    #[must_use]
    pub fn env(&self) -> &SimEnv {
        &self.env
    }

    /// Sends `request` to `addr` and waits for the answer.
    ///
    /// # Errors
    ///
    /// See [`NoAnswer`].
    pub async fn send(&mut self, addr: &str, request: &Request) -> Result<Answer, NoAnswer> {
        let number = self.exchanges.begin(self.env.host(), addr, request, nanos());
        let (connection, answer) = match self.send_unnoted(addr, request).await {
            Ok((connection, answer)) => (Some(connection), Ok(answer)),
            Err(error) => (None, Err(error)),
        };
        self.exchanges.end(number, connection, &answer, nanos());
        answer
    }

    async fn send_unnoted(
        &mut self,
        addr: &str,
        request: &Request,
    ) -> Result<(u64, Answer), NoAnswer> {
        let deadline = rt::now::<SimEnv>() + self.patience;
        let mut connection = match self.connections.remove(addr) {
            Some(kept) if kept.sender.is_ready() => kept,
            _ => {
                let connected =
                    rt::timeout::<SimEnv, _>(CONNECT_PATIENCE, connect(&self.env, addr)).await;
                let sender = connected.flatten().ok_or(NoAnswer::NotSent)?;
                Connection { number: self.exchanges.connect(), sender }
            }
        };
        let left = deadline.saturating_duration_since(rt::now::<SimEnv>());
        let exchanged =
            rt::timeout::<SimEnv, _>(left, exchange(&mut connection.sender, addr, request)).await;
        let (answer, encoding) = exchanged.flatten().ok_or(NoAnswer::Lost)?;
        if let Some(encoding) = encoding {
            self.exchanges.decoded(encoding);
        }
        let number = connection.number;
        self.connections.insert(addr.to_owned(), connection);
        Ok((number, answer))
    }
}

/// Virtual time since the start.
fn nanos() -> u64 {
    u64::try_from(madsim::time::TimeHandle::current().elapsed().as_nanos()).unwrap_or(u64::MAX)
}

async fn connect(env: &SimEnv, addr: &str) -> Option<SendRequest<Full<Bytes>>> {
    let stream = rt::dial(env, addr).await.ok()?;
    let (sender, connection) = http1::handshake(TokioIo::new(stream)).await.ok()?;
    // Ends with the connection; what it has to say, the sender says too.
    drop(rt::spawn::<SimEnv, _>(async move { drop(connection.await) }));
    Some(sender)
}

async fn exchange(
    connection: &mut SendRequest<Full<Bytes>>,
    addr: &str,
    request: &Request,
) -> Option<(Answer, Option<String>)> {
    let mut builder =
        hyper::Request::builder().method(&request.method).uri(&request.path).header("host", addr);
    if let Some(key) = &request.key {
        builder = builder.header("idempotency-key", key);
    }
    if let Some(encoding) = request.accept_encoding {
        builder = builder.header("accept-encoding", encoding);
    }
    let (content_type, body) = match (&request.raw, &request.body) {
        (Some(raw), _) => (raw.content_type, raw.bytes.clone()),
        (None, Some(body)) => (Some("application/json"), Bytes::from(body.to_string())),
        (None, None) => (None, Bytes::new()),
    };
    if let Some(content_type) = content_type {
        builder = builder.header("content-type", content_type);
    }
    let response = connection.send_request(builder.body(Full::new(body)).ok()?).await.ok()?;
    let status = response.status();
    let encoding = response.headers().get("content-encoding").cloned();
    let encoding = encoding.and_then(|encoding| encoding.to_str().ok().map(str::to_owned));
    let bytes = response.into_body().collect().await.ok()?.to_bytes();
    let body = match decode(&bytes, encoding.as_deref(), request.accept_encoding) {
        Ok(bytes) => parse(&bytes),
        // No JSON: a checker that looks for an answer in it finds none, and its report shows these
        // words.
        Err(why) => Value::String(format!("the body cannot be decoded: {why}")),
    };
    Some((Answer { status, body }, encoding))
}

/// A body as it was before it was compressed. An encoding that was not asked for is an error.
fn decode(bytes: &Bytes, encoding: Option<&str>, accepted: Option<&str>) -> io::Result<Bytes> {
    let mut decoded = Vec::new();
    match encoding {
        None => return Ok(bytes.clone()),
        Some(other) if Some(other) != accepted => {
            return Err(io::Error::other(format!("{other} was not accepted, but {accepted:?}")));
        }
        Some("gzip") => {
            flate2::read::GzDecoder::new(&bytes[..]).read_to_end(&mut decoded)?;
        }
        Some("zstd") => {
            zstd::stream::copy_decode(&bytes[..], &mut decoded)?;
        }
        Some(other) => return Err(io::Error::other(format!("{other} is unknown here"))),
    }
    Ok(decoded.into())
}

fn parse(bytes: &[u8]) -> Value {
    let text = || Value::String(String::from_utf8_lossy(bytes).into_owned());
    if bytes.is_empty() {
        Value::Null
    } else {
        serde_json::from_slice(bytes).unwrap_or_else(|_| text())
    }
}

#[cfg(test)]
mod tests {
    use std::io::Write;

    use super::*;

    #[test]
    fn a_compressed_answer_is_read_and_one_that_was_not_asked_for_or_is_damaged_is_not() {
        let text = b"{\"offset\":1.0}".repeat(99);
        let mut gzip = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::fast());
        gzip.write_all(&text).unwrap();
        let gzip = Bytes::from(gzip.finish().unwrap());
        let zstd = Bytes::from(zstd::stream::encode_all(&text[..], 1).unwrap());
        for (bytes, encoding) in [(&gzip, "gzip"), (&zstd, "zstd")] {
            let read = decode(bytes, Some(encoding), Some(encoding)).unwrap();
            assert_eq!(read, text);
            assert!(decode(bytes, Some(encoding), None).is_err());
            let half = bytes.slice(..bytes.len() / 2);
            assert!(decode(&half, Some(encoding), Some(encoding)).is_err());
        }
        assert_eq!(decode(&gzip, None, Some("gzip")).unwrap(), gzip);
    }
}
