//! A whole server: a node and its HTTP API. What the binary runs, and what a simulated process runs.

use std::time::Duration;

use axum::Router;
use openraft::AsyncRuntime;
use openraft_rt::Select2;
use tokio::sync::watch;

use crate::env::{Env, Listener, rt};
use crate::http;
use crate::node::{Node, RunError};

/// How long the HTTP side may take to stop after the node.
const DRAIN_LIMIT: Duration = Duration::from_secs(5);

/// Runs `node` and its HTTP API until the node stops.
///
/// HTTP answers from the first moment on, so that a node that waits for its ensemble can say so, and goes
/// on answering while a leader hands over.
///
/// # Errors
///
/// See [`RunError`].
pub async fn run<E: Env>(node: Node<E>, http_addr: &str) -> Result<(), RunError> {
    let listener = node.env().listen(http_addr).await;
    let listener =
        listener.map_err(|source| RunError::Listen { addr: http_addr.to_owned(), source })?;
    run_on(node, listener).await
}

/// Like [`run`], on an address bound already.
///
/// # Errors
///
/// See [`RunError`].
pub async fn run_on<E: Env>(node: Node<E>, listener: E::Listener) -> Result<(), RunError> {
    let router = http::router(node.clone());
    run_router(node, listener, router).await
}

/// Like [`run_on`], with a router of the caller's own: a service that embeds a node serves its own routes
/// beside the API. They live as long as the node, and in whatever environment it does.
///
/// ```no_run
/// # async fn embed(
/// #     node: yakt::node::Node<yakt::env::TokioEnv>,
/// #     listener: <yakt::env::TokioEnv as yakt::env::Env>::Listener,
/// # ) -> Result<(), yakt::node::RunError> {
/// let greeting = axum::routing::get(|| async { "hello\n" });
/// let router = yakt::http::router(node.clone()).route("/hello", greeting);
/// yakt::server::run_router(node, listener, router).await
/// # }
/// ```
///
/// # Errors
///
/// See [`RunError`].
pub async fn run_router<E: Env>(
    node: Node<E>,
    listener: E::Listener,
    router: Router,
) -> Result<(), RunError> {
    if let Ok(addr) = listener.local_addr() {
        tracing::info!(node = node.id(), %addr, "serving HTTP");
    }
    let (stop, stopped) = watch::channel(false);
    let connections_max = node.connection_limits().http;
    let serving =
        rt::spawn::<E, _>(http::server::serve::<E>(listener, router, connections_max, stopped));
    let (mut running, mut serving) = (Box::pin(node.run()), Box::pin(serving));
    let result = match E::Runtime::select2(running.as_mut(), serving.as_mut()).await {
        Select2::First(result) => result,
        // HTTP is served until the server is told to stop. It was not told, so it panicked.
        Select2::Second(_) => {
            node.stop();
            running.await?;
            return Err(RunError::Task("serving HTTP"));
        }
    };
    stop.send_replace(true);
    match E::Runtime::select2(Box::pin(rt::sleep::<E>(DRAIN_LIMIT)), serving).await {
        Select2::First(()) | Select2::Second(_) => {}
    }
    result
}
