//! HTTP/1.1 over an environment's byte streams.
//!
//! `axum::serve` would spawn its connections on tokio; this drives hyper itself, so the same bytes are
//! parsed by the same code over real and simulated sockets.

use std::future::Future;
use std::marker::PhantomData;
use std::pin::Pin;
use std::sync::{Arc, Mutex, PoisonError};
use std::task::{Context, Poll};
use std::time::Duration;

use axum::Router;
use hyper::server::conn::http1;
use hyper_util::rt::TokioIo;
use hyper_util::service::TowerToHyperService;
use openraft::AsyncRuntime;
use openraft_rt::Select2;
use tokio::sync::{Semaphore, watch};
use tower::util::MapRequest;

use super::{CONNECTIONS_MAX, HEAD_BYTES_MAX};
use crate::env::{Env, Listener, rt};

/// How long a connection may take to finish its last answer when the server stops.
const DRAIN_LIMIT: Duration = Duration::from_secs(4);

/// How long a connection may be without a request's head, idle time between two requests included: a
/// client that is gone must not keep its place for ever.
const HEAD_LIMIT: Duration = Duration::from_secs(30);

/// How long to wait after a failed accept: the usual cause is a lack of file descriptors.
const ACCEPT_BACKOFF: Duration = Duration::from_millis(50);

/// Serves `router` on `listener` until `stop` turns true, and then until the answers under way are out.
pub async fn serve<E: Env>(listener: E::Listener, router: Router, mut stop: watch::Receiver<bool>) {
    let room = Arc::new(Semaphore::new(CONNECTIONS_MAX));
    let accepting = async {
        loop {
            let Ok(permit) = Arc::clone(&room).acquire_owned().await else { return };
            match listener.accept().await {
                Ok((stream, _)) => {
                    let connection = connection::<E>(stream, router.clone(), stop.clone());
                    drop(rt::spawn::<E, _>(async move {
                        connection.await;
                        drop(permit);
                    }));
                }
                Err(error) => {
                    tracing::warn!(%error, "cannot accept an HTTP connection");
                    rt::sleep::<E>(ACCEPT_BACKOFF).await;
                }
            }
        }
    };
    E::Runtime::select2(Box::pin(until_true(&mut stop.clone())), Box::pin(accepting)).await;
    until_true(&mut stop).await;
    // Every connection gives its permit back when it is done.
    let all = u32::try_from(CONNECTIONS_MAX).unwrap_or(u32::MAX);
    drop(rt::timeout::<E, _>(DRAIN_LIMIT, room.acquire_many(all)).await);
}

async fn connection<E: Env>(stream: E::Stream, router: Router, mut stop: watch::Receiver<bool>) {
    let service = TowerToHyperService::new(MapRequest::new(
        router,
        |request: hyper::Request<hyper::body::Incoming>| request.map(axum::body::Body::new),
    ));
    let connection = http1::Builder::new()
        .timer(HeadTimer::<E>::default())
        .header_read_timeout(HEAD_LIMIT)
        .max_buf_size(HEAD_BYTES_MAX)
        .half_close(true)
        .serve_connection(TokioIo::new(stream), service);
    let mut connection = std::pin::pin!(connection);
    let stopping = Box::pin(until_true(&mut stop));
    let ended = match E::Runtime::select2(stopping, connection.as_mut()).await {
        Select2::First(()) => {
            connection.as_mut().graceful_shutdown();
            connection.await
        }
        Select2::Second(ended) => ended,
    };
    if let Err(error) = ended {
        tracing::debug!(%error, "an HTTP connection broke");
    }
}

/// Ends when `flag` is true, or can no longer become so.
async fn until_true(flag: &mut watch::Receiver<bool>) {
    drop(flag.wait_for(|flag| *flag).await.map(|_| ()));
}

/// hyper's timer in the world `E`.
struct HeadTimer<E>(PhantomData<fn() -> E>);

impl<E> Default for HeadTimer<E> {
    fn default() -> Self {
        Self(PhantomData)
    }
}

impl<E: Env> hyper::rt::Timer for HeadTimer<E> {
    fn sleep(&self, duration: Duration) -> Pin<Box<dyn hyper::rt::Sleep>> {
        Box::pin(HeadSleep(Mutex::new(Box::pin(rt::sleep::<E>(duration)))))
    }

    fn sleep_until(&self, deadline: std::time::Instant) -> Pin<Box<dyn hyper::rt::Sleep>> {
        self.sleep(deadline.saturating_duration_since(self.now()))
    }
}

/// A timer as hyper wants it: `Sync`, which the mutex is for; it is never locked.
struct HeadSleep(Mutex<Pin<Box<dyn Future<Output = ()> + Send>>>);

impl Future for HeadSleep {
    type Output = ();

    fn poll(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<()> {
        self.0.get_mut().unwrap_or_else(PoisonError::into_inner).as_mut().poll(context)
    }
}

impl hyper::rt::Sleep for HeadSleep {}
