//! HTTP/1.1 over an environment's byte streams.
//!
//! `axum::serve` would spawn its connections on tokio; this drives hyper itself, so the same bytes are
//! parsed by the same code over real and simulated sockets.

use std::future::Future;
use std::marker::PhantomData;
use std::pin::Pin;
use std::sync::{Mutex, PoisonError};
use std::task::{Context, Poll};
use std::time::Duration;

use axum::Router;
use hyper::server::conn::http1;
use hyper_util::rt::TokioIo;
use hyper_util::service::TowerToHyperService;
use openraft::AsyncRuntime;
use openraft_rt::Select2;
use tokio::sync::{mpsc, watch};
use tower::util::MapRequest;

use super::HEAD_BYTES_MAX;
use super::overload::{refuse, refuse_briefly, serve_one};
use super::slots::{Slot, Slots};
use crate::env::{Env, Listener, rt};
use crate::quiet::Quiet;

/// How long a connection may take to finish its last answer when the server stops.
const DRAIN_LIMIT: Duration = Duration::from_secs(4);

/// How long a connection may be without a request's head, idle time between two requests included: a
/// client that is gone must not keep its place for ever.
const HEAD_LIMIT: Duration = Duration::from_secs(30);

/// How long to wait after a failed accept: the usual cause is a lack of file descriptors.
const ACCEPT_BACKOFF: Duration = Duration::from_millis(50);

/// Serves `router` on `listener`, on up to `connections_max` ordinary connections, until `stop`
/// turns true, and then until the answers under way are sent, for `DRAIN_LIMIT` at most.
pub async fn serve<E: Env>(
    listener: E::Listener,
    router: Router,
    connections_max: usize,
    mut stop: watch::Receiver<bool>,
) {
    // Each connection holds a sender. The receiver is notified when the last sender is gone.
    let (alive, mut all_done) = mpsc::channel::<()>(1);
    let accepting = accept_all::<E>(&listener, router, connections_max, alive, stop.clone());
    E::Runtime::select2(Box::pin(until_true(&mut stop.clone())), Box::pin(accepting)).await;
    until_true(&mut stop).await;
    let _ = rt::timeout::<E, _>(DRAIN_LIMIT, all_done.recv()).await;
}

/// Accepts connections for ever, and serves each as its slot allows.
async fn accept_all<E: Env>(
    listener: &E::Listener,
    router: Router,
    connections_max: usize,
    alive: mpsc::Sender<()>,
    stop: watch::Receiver<bool>,
) {
    let slots = Slots::new(connections_max);
    let (mut failures, mut shortages) = (Quiet::default(), Quiet::default());
    loop {
        let (stream, address) = match listener.accept().await {
            Ok(accepted) => accepted,
            Err(error) => {
                if let Some(unwritten) = failures.note(rt::now::<E>()) {
                    tracing::warn!(%error, unwritten, "cannot accept an HTTP connection; trying again");
                }
                rt::sleep::<E>(ACCEPT_BACKOFF).await;
                continue;
            }
        };
        let slot = slots.admit(address.clone());
        if !matches!(slot, Slot::Ordinary(_))
            && let Some(unwritten) = shortages.note(rt::now::<E>())
        {
            tracing::warn!(%address, connections_max, unwritten, "no ordinary HTTP connection is free");
        }
        let (router, stop, alive) = (router.clone(), stop.clone(), alive.clone());
        match slot {
            Slot::Ordinary(guard) => drop(rt::spawn::<E, _>(async move {
                connection::<E>(stream, router, stop).await;
                drop((guard, alive));
            })),
            Slot::Reserved(guard) => drop(rt::spawn::<E, _>(async move {
                serve_one::<E>(stream, router).await;
                drop((guard, alive));
            })),
            Slot::Farewell(guard) => drop(rt::spawn::<E, _>(async move {
                refuse::<E>(stream).await;
                drop((guard, alive));
            })),
            Slot::None => refuse_briefly::<E>(stream).await,
        }
    }
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
