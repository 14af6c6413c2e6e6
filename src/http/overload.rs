//! Connections beyond the ordinary slots: one request each, or a refusal.

use std::io::Cursor;
use std::time::Duration;

use axum::Router;
use axum::body::Body;
use axum::http::Request;
use axum::response::{IntoResponse, Response};
use http_body_util::{BodyExt, Limited};
use hyper::body::Incoming;
use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper_util::rt::TokioIo;
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};
use tower::util::ServiceExt;

use super::problem::Problem;
use super::{BODY_BYTES_MAX, HEAD_BYTES_MAX};
use crate::env::{Env, rt};
use crate::node::REQUEST_DEADLINE;

/// How long a connection in a reserved slot may take to send its request. Probes and operators send
/// it immediately, and 64 idle connections give their slots back after a second.
const REQUEST_LIMIT: Duration = Duration::from_secs(1);

/// How long such a connection may take in total, including the time to read the answer.
const ANSWER_LIMIT: Duration = Duration::from_secs(10);

const _: () = assert!(
    ANSWER_LIMIT.as_secs() >= REQUEST_LIMIT.as_secs() + 2 * REQUEST_DEADLINE.as_secs(),
    "a reserved slot outlasts the requests that it is for"
);

/// How long a refused client may take to read its answer and close the connection.
const FAREWELL_LIMIT: Duration = Duration::from_secs(1);

/// How long the server may take to write a refusal to a connection without a slot. It takes
/// microseconds.
const BRIEF_LIMIT: Duration = Duration::from_millis(100);

/// Bytes of a refused request that are read, so that the refusal is not lost. A system that closes
/// a connection with unread bytes resets it, and the client may then never see the answer.
const FAREWELL_BYTES_MAX: u64 = (HEAD_BYTES_MAX + BODY_BYTES_MAX) as u64;

/// The end of a request's head.
const HEAD_END: &[u8] = b"\r\n\r\n";

/// Whether slots are reserved for requests to `path`: for those that watch a node or repair its
/// cluster.
fn is_privileged(path: &str) -> bool {
    matches!(path, "/healthz" | "/readyz" | "/metrics" | "/cluster")
        || path.starts_with("/cluster/")
}

fn overloaded() -> Problem {
    Problem::unavailable(
        "overloaded",
        "this node has no connection slot left; nothing was changed; retry later, keep connections \
         open between requests, or ask another node",
    )
}

/// Serves one request of a connection in a reserved slot.
pub(super) async fn serve_one<E: Env>(stream: E::Stream, router: Router) {
    let begun = rt::now::<E>();
    let (mut reader, writer) = tokio::io::split(stream);
    let head = rt::timeout::<E, _>(REQUEST_LIMIT, read_head(&mut reader)).await;
    let Some(Ok(head)) = head else {
        return refuse::<E>(tokio::io::join(reader, writer)).await;
    };
    let left = REQUEST_LIMIT.saturating_sub(rt::now::<E>() - begun);
    let service = service_fn(|request| {
        let router = router.clone();
        async move { Ok::<_, std::convert::Infallible>(answer::<E>(router, request, left).await) }
    });
    let stream = tokio::io::join(Cursor::new(head).chain(reader), writer);
    let connection = http1::Builder::new()
        .keep_alive(false)
        .max_buf_size(HEAD_BYTES_MAX)
        .half_close(true)
        .serve_connection(TokioIo::new(stream), service);
    if let Some(Err(error)) = rt::timeout::<E, _>(ANSWER_LIMIT, connection).await {
        tracing::debug!(%error, "an HTTP connection in a reserved slot broke");
    }
}

/// Reads a request's head, and the bytes that came with it.
async fn read_head(stream: &mut (impl AsyncRead + Unpin)) -> std::io::Result<Vec<u8>> {
    let mut head = Vec::new();
    while head.len() < HEAD_BYTES_MAX && !head.windows(HEAD_END.len()).any(|end| end == HEAD_END) {
        if stream.read_buf(&mut head).await? == 0 {
            return Err(std::io::ErrorKind::UnexpectedEof.into());
        }
    }
    Ok(head)
}

/// The answer to `request`, whose body may take `limit` to arrive.
async fn answer<E: Env>(router: Router, request: Request<Incoming>, limit: Duration) -> Response {
    let (head, body) = request.into_parts();
    let collected = rt::timeout::<E, _>(limit, Limited::new(body, BODY_BYTES_MAX).collect()).await;
    if !is_privileged(head.uri.path()) {
        return overloaded().into_response();
    }
    match collected {
        None => {
            let detail =
                format!("a reserved connection sends its request within {REQUEST_LIMIT:?}");
            Problem::request_timeout(detail).into_response()
        }
        Some(Err(_)) => {
            let detail = format!("a request's body has at most {BODY_BYTES_MAX} bytes");
            Problem::body_too_large(detail).into_response()
        }
        Some(Ok(body)) => {
            let request = Request::from_parts(head, Body::from(body.to_bytes()));
            router.oneshot(request).await.into_response()
        }
    }
}

/// Tells a client that there is no slot for it, and gives it time to read the answer.
pub(super) async fn refuse<E: Env>(mut stream: impl AsyncRead + AsyncWrite + Unpin + Send) {
    let refusing = async {
        stream.write_all(&refusal()).await?;
        stream.shutdown().await?;
        let mut rest = (&mut stream).take(FAREWELL_BYTES_MAX);
        tokio::io::copy(&mut rest, &mut tokio::io::sink()).await
    };
    // A client that does not read its answer in time loses its claim to it.
    drop(rt::timeout::<E, _>(FAREWELL_LIMIT, refusing).await);
}

/// Tells a client that there is no slot for it, and does not wait until the client has read that.
/// The task that accepts connections calls this, so it takes [`BRIEF_LIMIT`] at most.
pub(super) async fn refuse_briefly<E: Env>(mut stream: impl AsyncWrite + Unpin + Send) {
    let refusing = async {
        // The buffer of a new connection takes the whole answer.
        stream.write_all(&refusal()).await?;
        stream.shutdown().await
    };
    drop(rt::timeout::<E, _>(BRIEF_LIMIT, refusing).await);
}

/// A complete answer, for a request that is not read.
fn refusal() -> Vec<u8> {
    let body = overloaded().to_json();
    let head = format!(
        "HTTP/1.1 503 Service Unavailable\r\ncontent-type: application/problem+json\r\n\
         retry-after: {}\r\nconnection: close\r\ncontent-length: {}\r\n\r\n",
        super::problem::RETRY_AFTER_SECONDS,
        body.len()
    );
    [head.into_bytes(), body].concat()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::env::TokioEnv;

    async fn ask(request: &[u8]) -> String {
        let router = Router::new()
            .route("/healthz", axum::routing::get(|| async { "fine" }))
            .route("/get_active_brokers", axum::routing::get(|| async { "none" }));
        let listener = TokioEnv.listen("127.0.0.1:0").await.expect("a port");
        let addr = crate::env::Listener::local_addr(&listener).expect("an address");
        let server = async {
            let (stream, _) = crate::env::Listener::accept(&listener).await.expect("a client");
            serve_one::<TokioEnv>(stream, router).await;
        };
        let client = async {
            let mut stream = rt::dial(&TokioEnv, &addr).await.expect("a server");
            stream.write_all(request).await.expect("a connection");
            let mut answer = String::new();
            stream.read_to_string(&mut answer).await.expect("an answer, then the end");
            answer
        };
        tokio::join!(server, client).1
    }

    #[tokio::test]
    async fn a_reserved_slot_serves_probes_and_refuses_the_rest() {
        let answer = ask(b"GET /healthz HTTP/1.1\r\nhost: a\r\n\r\n").await;
        assert!(answer.starts_with("HTTP/1.1 200 ") && answer.ends_with("fine"), "{answer}");
        assert!(answer.contains("connection: close"), "{answer}");
        let answer = ask(b"GET /get_active_brokers HTTP/1.1\r\nhost: a\r\n\r\n").await;
        assert!(
            answer.starts_with("HTTP/1.1 503 ") && answer.contains("retry-after: 1"),
            "{answer}"
        );
        assert!(answer.contains("\"overloaded\""), "{answer}");
    }

    #[tokio::test]
    async fn a_reserved_slot_answers_a_client_that_asks_nothing() {
        for request in [&b""[..], b"GET /healthz HT"] {
            let answer = ask(request).await;
            assert!(answer.starts_with("HTTP/1.1 503 "), "{answer}");
            assert!(answer.ends_with('}'), "{answer}");
        }
    }
}
