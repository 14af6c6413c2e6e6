//! The Raft port of a node that does not belong to a cluster yet.

use std::convert::Infallible;
use std::future::Future;
use std::sync::Arc;
use std::time::Duration;

use openraft::AsyncRuntime;
use tokio::sync::{Semaphore, mpsc};

use crate::env::{Env, Listener, rt};

/// Callers that are heard at the same time. A cluster has only a few members, and strangers must
/// not take all of the node's memory.
const CALLERS_MAX: usize = 32;

/// How long one caller is heard. Members that call again connect again.
const HEAR_LIMIT: Duration = Duration::from_secs(5);

/// Accepts callers for ever, and hears each with `hear` in a task of its own. These tasks end when
/// the returned future is dropped.
pub(super) async fn hear_callers<E, F>(
    listener: &E::Listener,
    hear: impl Fn(E::Stream) -> F,
) -> Infallible
where
    E: Env,
    F: Future<Output = ()> + Send + 'static,
{
    let (alive, _ends_tasks) = mpsc::channel::<Infallible>(1);
    let room = Arc::new(Semaphore::new(CALLERS_MAX));
    loop {
        let Ok(permit) = Arc::clone(&room).acquire_owned().await else {
            // Only a closed semaphore refuses, and this one is never closed.
            return std::future::pending().await;
        };
        let Ok((stream, _)) = listener.accept().await else {
            rt::sleep::<E>(super::RETRY_PAUSE).await;
            continue;
        };
        let hearing = rt::timeout::<E, _>(HEAR_LIMIT, hear(stream));
        let (alive, hearing) = (alive.clone(), Box::pin(hearing));
        drop(rt::spawn::<E, _>(async move {
            E::Runtime::select2(Box::pin(alive.closed()), hearing).await;
            drop(permit);
        }));
    }
}
