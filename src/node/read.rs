//! Reading, as fresh as the caller asks.

use std::sync::Arc;
use std::time::Duration;

use super::propose::{leader, term};
use super::{Node, RETRY_PAUSE, Running, clock};
use crate::env::{Env, rt};
use crate::metadata::{Change, Timestamp};
use crate::raft::guard::Breach;
use crate::raft::network::message::{ReadIndex, Reader, Request, Response};
use crate::raft::state_machine::Image;

/// How far cluster time, as carried by the newest command, may lag behind the leader's reading of it when
/// it is handed to a client. Past it a [`Change::Tick`] is proposed first.
///
/// An offset must be a stamp from the log. Otherwise a later leader with a slower clock could stamp a
/// change before it, and a poller would miss that change. One second bounds the log entries that pollers
/// of an idle cluster cause to one a second, however many there are.
pub const TIME_RESOLUTION: Duration = Duration::from_secs(1);

/// How long a stale read waits for a time that another node has handed out: a follower learns of a
/// commit within milliseconds.
const OVERTAKEN_LIMIT: Duration = Duration::from_millis(500);

/// How far ahead of this node such a time may be. A time further ahead was never handed out.
const OVERTAKEN_MAX: Duration = Duration::from_mins(1);

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
                if let Some(image) = self.barrier(running).await {
                    return image;
                }
                rt::sleep::<E>(RETRY_PAUSE).await;
            }
        };
        rt::timeout::<E, _>(limit, read).await.ok_or(ReadError::NoLeader)
    }

    /// Like [`read`](Self::read), and cluster time, the image's last stamp, is fresh to within
    /// [`TIME_RESOLUTION`].
    ///
    /// # Errors
    ///
    /// See [`ReadError`].
    pub async fn read_with_time(
        &self,
        consistency: Consistency,
        limit: Duration,
    ) -> Result<Frozen<E>, ReadError> {
        self.read_at(consistency, limit, Timestamp::ZERO, |_, _| true).await
    }

    /// Like [`read_with_time`](Self::read_with_time), for a caller that was given the time
    /// `earlier` and decides something by the present time. `agree` says whether two times give the
    /// same decision. Cluster time is carried forward if the image's time and the leader's time do
    /// not.
    ///
    /// A stale read takes the time as this node last heard it. It waits a moment if another node
    /// has handed out a later time.
    ///
    /// # Errors
    ///
    /// See [`ReadError`].
    pub async fn read_at(
        &self,
        consistency: Consistency,
        limit: Duration,
        earlier: Timestamp,
        agree: impl Fn(Timestamp, Timestamp) -> bool + Send + Sync,
    ) -> Result<Frozen<E>, ReadError> {
        let running = self.running().ok_or(ReadError::Starting)?;
        if consistency == Consistency::Stale {
            let image = Arc::clone(&running.images.borrow());
            let ahead = earlier.saturating_since(image.state.last_stamp());
            if ahead.is_zero() || ahead > OVERTAKEN_MAX {
                return Ok(image);
            }
            let overtaking = wait(running, |image| image.state.last_stamp() >= earlier);
            let overtaken = rt::timeout::<E, _>(OVERTAKEN_LIMIT, overtaking).await;
            return Ok(overtaken.unwrap_or(image));
        }
        let read = async {
            loop {
                if let Some((ReadIndex { now, .. }, image)) = self.barrier_index(running).await {
                    let last = image.state.last_stamp();
                    let lag = now.saturating_since(last);
                    if lag <= TIME_RESOLUTION && agree(last, now.max(last)) {
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

    /// Whether this node would serve a request now: it is a member, and a leader that commits its
    /// entries has just proved itself to this node. The check is one round of a linearizable read,
    /// shared by all callers that ask at the same time.
    pub async fn serves(&self, limit: Duration) -> bool {
        let Some(running) = self.running().filter(|_| self.is_ready()) else { return false };
        let proved = rt::timeout::<E, _>(limit, self.barrier_index(running)).await.flatten();
        proved.is_some_and(|(read_index, _)| read_index.commits)
    }

    /// How many seconds cluster time, as this node reckons it, is ahead of this node's wall clock; less
    /// than 0 if it is behind. 0 before this node has applied a command.
    #[must_use]
    pub fn cluster_time_ahead(&self) -> f64 {
        let Some(image) = self.image().filter(|image| image.state.position().is_some()) else {
            return 0.0;
        };
        let cluster = image.clock.reading(rt::now::<E>());
        cluster.seconds_f64() - clock::wall(&self.inner.env).seconds_f64()
    }

    /// Cluster time now, if this node leads.
    pub(super) fn cluster_time(&self, running: &Running<E>) -> Timestamp {
        let term = term(running);
        let image = running.images.borrow();
        clock::reading(&self.inner.env, self.id(), term, &image, &self.inner.clocks)
    }

    /// Waits until this node has applied every entry that was committed at the time of the call,
    /// and returns the resulting image. `None` when no leader proved itself.
    pub(super) async fn barrier(&self, running: &Running<E>) -> Option<Frozen<E>> {
        self.barrier_index(running).await.map(|(_, image)| image)
    }

    /// As [`barrier`](Self::barrier), with the answer of the leader.
    async fn barrier_index(&self, running: &Running<E>) -> Option<(ReadIndex, Frozen<E>)> {
        let node = self.clone();
        let round = move || {
            let node = node.clone();
            async move { rt::timeout::<E, _>(ROUND_LIMIT, node.read_index()).await.flatten() }
        };
        let read_index = self.inner.read_index.join::<E, _>(round).await?;
        let image = wait(running, |image| applied(image) >= Some(read_index.index)).await;
        Some((read_index, image))
    }

    /// One round: from this node's Raft if it leads, otherwise from the leader.
    async fn read_index(&self) -> Option<ReadIndex> {
        let running = self.running()?;
        let leader = leader(running)?;
        if leader == self.id() {
            return self.read_index_here().await;
        }
        let reader = {
            let image = running.images.borrow();
            Reader { applied: applied(&image).unwrap_or(0), position: image.state.position() }
        };
        let request = Request::ReadIndex(reader);
        match self.ask_leader(running, leader, request, ROUND_LIMIT).await {
            Ok(Response::ReadIndex(read_index)) => Some(read_index),
            Ok(Response::OtherHistory(theirs)) => {
                running.breaches.report(&Breach::Metadata { ours: reader.position, theirs });
                None
            }
            _ => None,
        }
    }

    /// Proves that this node leads, to a follower, which then waits until it has applied all up to there.
    /// A follower whose metadata is no prefix of this node's is told so instead.
    pub(super) async fn read_index_for_peer(&self, reader: Reader) -> Response<E> {
        let (Some(read_index), Some(running)) = (self.read_index_here().await, self.running())
        else {
            return Response::NotLeader(None);
        };
        running.network.announce_commit(read_index.index);
        let Some(position) = reader.position else { return Response::ReadIndex(read_index) };
        // The follower has applied only entries that were committed before it asked.
        let index = reader.applied.min(read_index.index);
        let caught_up = wait(running, |image| applied(image) >= Some(index));
        let Some(image) = rt::timeout::<E, _>(ROUND_LIMIT, caught_up).await else {
            return Response::NotLeader(None);
        };
        if reader.applied > read_index.index || !image.state.continues(position) {
            return Response::OtherHistory(image.state.position());
        }
        Response::ReadIndex(read_index)
    }

    /// Proves that this node leads: `None` if it could not.
    async fn read_index_here(&self) -> Option<ReadIndex> {
        let running = self.running()?;
        let index = self.prove_leadership(running, ROUND_LIMIT).await?;
        let now = self.cluster_time(running);
        Some(ReadIndex { index, now, commits: self.inner.progress.commits() })
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

/// The last log index that is in `image`.
fn applied<I>(image: &Image<I>) -> Option<u64> {
    image.applied.map(|applied| applied.index())
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
