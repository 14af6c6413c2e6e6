//! Reading, as fresh as the caller asks.

use std::sync::Arc;
use std::time::Duration;

use super::propose::leader;
use super::{Node, RETRY_PAUSE, Running, clock};
use crate::env::{Env, rt};
use crate::metadata::{Change, Timestamp};
use crate::raft::network::message::{ReadIndex, Request, Response};
use crate::raft::state_machine::Image;

/// How far cluster time, as carried by the newest command, may lag behind the leader's reading of it when
/// it is handed to a client. Past it a [`Change::Tick`] is proposed first.
///
/// An offset must be a stamp from the log, or a later leader with a slower clock could stamp a change
/// before it and a poller would miss that change. Asking for a tick only when someone looks at the time
/// keeps an idle cluster idle; ten milliseconds bound the ticks of a busy poller to a hundred a second.
pub const TIME_RESOLUTION: Duration = Duration::from_millis(10);

/// How long one round of proving leadership may take before it is begun anew: a leader that is cut off
/// does not answer.
const ROUND_LIMIT: Duration = Duration::from_millis(500);

/// How fresh a read must be.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Consistency {
    /// It sees every change that was answered before the read was asked, on whichever node.
    Linearizable,
    /// It sees what the asked node has applied, which may be old.
    Stale,
}

/// Why there is nothing to read.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum ReadError {
    /// No leader proved itself before the deadline.
    #[error("no leader could be reached")]
    NoLeader,
    /// This node has not opened its directory, or not joined a cluster, yet.
    #[error("this node is starting")]
    Starting,
}

pub(super) type Frozen<E> = Arc<Image<rt::Instant<E>>>;

impl<E: Env> Node<E> {
    /// The metadata to read from.
    ///
    /// # Errors
    ///
    /// See [`ReadError`].
    pub async fn read(
        &self,
        consistency: Consistency,
        limit: Duration,
    ) -> Result<Frozen<E>, ReadError> {
        let running = self.running().ok_or(ReadError::Starting)?;
        if consistency == Consistency::Stale {
            return Ok(Arc::clone(&running.images.borrow()));
        }
        let read = async {
            loop {
                if let Some((_, image)) = self.barrier(running).await {
                    return image;
                }
                rt::sleep::<E>(RETRY_PAUSE).await;
            }
        };
        rt::timeout::<E, _>(limit, read).await.ok_or(ReadError::NoLeader)
    }

    /// Like [`read`](Self::read), and cluster time, the image's last stamp, is fresh to within
    /// [`TIME_RESOLUTION`]. A stale read takes the time as this node last heard it.
    ///
    /// # Errors
    ///
    /// See [`ReadError`].
    pub async fn read_with_time(
        &self,
        consistency: Consistency,
        limit: Duration,
    ) -> Result<Frozen<E>, ReadError> {
        if consistency == Consistency::Stale {
            return self.read(consistency, limit).await;
        }
        let running = self.running().ok_or(ReadError::Starting)?;
        let read = async {
            loop {
                if let Some((now, image)) = self.barrier(running).await {
                    let lag = now.micros().saturating_sub(image.state.last_stamp().micros());
                    if u128::from(lag) <= TIME_RESOLUTION.as_micros() {
                        return image;
                    }
                    // A tick goes through the log, so it proves leadership as well as the barrier does.
                    if let Some(stamp) = self.tick().await {
                        return wait(running, |image| image.state.last_stamp() >= stamp).await;
                    }
                }
                rt::sleep::<E>(RETRY_PAUSE).await;
            }
        };
        rt::timeout::<E, _>(limit, read).await.ok_or(ReadError::NoLeader)
    }

    /// Waits until this node has applied all that was committed when it was asked, and returns the
    /// leader's reading of cluster time with what it applied. `None` when no leader proved itself.
    pub(super) async fn barrier(&self, running: &Running<E>) -> Option<(Timestamp, Frozen<E>)> {
        let node = self.clone();
        let round = move || {
            let node = node.clone();
            async move { rt::timeout::<E, _>(ROUND_LIMIT, node.read_index()).await.flatten() }
        };
        let ReadIndex { index, now } = self.inner.read_index.join::<E, _>(round).await?;
        let image =
            wait(running, |image| image.applied.is_some_and(|applied| applied.index() >= index))
                .await;
        Some((now, image))
    }

    /// One round: from this node's Raft if it leads, else from the leader.
    async fn read_index(&self) -> Option<ReadIndex> {
        let running = self.running()?;
        match leader(running)? {
            leader if leader == self.id() => self.read_index_here().await,
            leader => match self.ask_leader(running, leader, Request::ReadIndex, ROUND_LIMIT).await
            {
                Ok(Response::ReadIndex(read_index)) => Some(read_index),
                _ => None,
            },
        }
    }

    /// Proves that this node leads, to a follower, which then waits until it has applied all up to there.
    pub(super) async fn read_index_for_peer(&self) -> Option<ReadIndex> {
        let read_index = self.read_index_here().await?;
        self.running()?.network.announce_commit(read_index.index);
        Some(read_index)
    }

    /// Proves that this node leads: `None` if it could not.
    async fn read_index_here(&self) -> Option<ReadIndex> {
        let running = self.running()?;
        let index = self.prove_leadership(running, ROUND_LIMIT).await?;
        let now = clock::reading(&self.inner.env, &running.images.borrow());
        Some(ReadIndex { index, now })
    }

    /// Carries cluster time forward; the stamp it got, or `None` when that is not known.
    pub(super) async fn tick(&self) -> Option<Timestamp> {
        let node = self.clone();
        let round = move || {
            let node = node.clone();
            async move {
                node.propose(Change::Tick, None, ROUND_LIMIT)
                    .await
                    .ok()
                    .map(|applied| applied.stamp)
            }
        };
        self.inner.ticks.join::<E, _>(round).await
    }
}

/// Waits for an image that is `ready`.
async fn wait<E: Env>(
    running: &Running<E>,
    ready: impl Fn(&Image<rt::Instant<E>>) -> bool,
) -> Frozen<E> {
    let mut images = running.images.clone();
    let waited = images.wait_for(|image| ready(image)).await.map(|image| Arc::clone(&image));
    match waited {
        Ok(image) => image,
        // The state machine stopped: nothing newer will come, and the caller's deadline ends the wait.
        Err(_) => std::future::pending().await,
    }
}
