//! Making a change.

use std::time::Duration;

use openraft::async_runtime::watch::WatchReceiver;
use openraft::errors::{ClientWriteError, RaftError};

use super::{Node, RETRY_PAUSE, Running};
use crate::env::{Env, rt};
use crate::metadata::{Applied, Change, Command, IdempotencyKey};
use crate::raft::network::CallError;
use crate::raft::network::message::{Request, Response};
use crate::raft::{NodeId, SharedCommand, Term};

/// Why a change has no outcome.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum ProposeError {
    /// No leader could take it before the deadline. It was not made.
    #[error("no leader could be reached")]
    NoLeader,
    /// This node has more under way than it can hope to finish. It was not made.
    #[error("too many requests are under way")]
    Overloaded,
    /// It may have been made, or may yet be. With an idempotency key it can be tried again safely.
    #[error("the outcome is unknown")]
    Unknown,
}

/// How one attempt at one leader ended.
enum Attempt {
    Applied(Applied),
    /// Nothing was done: another attempt is safe.
    NotTaken,
    Unknown,
}

impl<E: Env> Node<E> {
    /// Makes `change` through the leader, wherever that is, and returns what came of it. By then a
    /// majority has it on stable storage.
    ///
    /// With `idempotency`, an attempt whose outcome is unknown is repeated: the key keeps it from being
    /// made twice. Without one it is reported.
    ///
    /// # Errors
    ///
    /// See [`ProposeError`]. A change that the metadata's rules reject is not an error here: it was
    /// decided by the cluster, and is in [`Applied`].
    pub async fn propose(
        &self,
        change: Change,
        idempotency: Option<IdempotencyKey>,
        limit: Duration,
    ) -> Result<Applied, ProposeError> {
        let Ok(_permit) = self.inner.proposals.try_acquire() else {
            return Err(ProposeError::Overloaded);
        };
        let deadline = rt::now::<E>() + limit;
        let mut error = ProposeError::NoLeader;
        loop {
            let left = deadline - rt::now::<E>().min(deadline);
            if left.is_zero() {
                return Err(error);
            }
            match self.attempt(&change, idempotency.as_ref(), left).await {
                Attempt::Applied(applied) => return Ok(applied),
                Attempt::NotTaken => {}
                Attempt::Unknown if idempotency.is_some() => error = ProposeError::Unknown,
                Attempt::Unknown => return Err(ProposeError::Unknown),
            }
            rt::sleep::<E>(RETRY_PAUSE.min(left)).await;
        }
    }

    /// Makes `change` if this node leads: the leader's end of [`propose`](Self::propose).
    pub(super) async fn propose_here(
        &self,
        change: Change,
        idempotency: Option<IdempotencyKey>,
        limit: Duration,
    ) -> Response<E> {
        let Some(running) = self.running() else { return Response::NotLeader(None) };
        match self.write(running, change, idempotency, limit).await {
            Attempt::Applied(applied) => Response::Applied(applied.into()),
            Attempt::NotTaken => Response::NotLeader(leader(running)),
            Attempt::Unknown => Response::Unknown,
        }
    }

    async fn attempt(
        &self,
        change: &Change,
        idempotency: Option<&IdempotencyKey>,
        limit: Duration,
    ) -> Attempt {
        let Some(running) = self.running() else { return Attempt::NotTaken };
        match leader(running) {
            None => Attempt::NotTaken,
            Some(leader) if leader == self.id() => {
                self.write(running, change.clone(), idempotency.cloned(), limit).await
            }
            // A leader that is silent for longer than an election takes is gone, or does not reach
            // this node. A request that is sent to it on a hanging connection needlessly has an
            // unknown outcome.
            Some(_) if !self.knows_live_leader(running) => Attempt::NotTaken,
            Some(leader) => {
                let request =
                    Request::Propose { change: change.clone(), idempotency: idempotency.cloned() };
                match self.ask_leader(running, leader, request, limit).await {
                    Ok(Response::Applied(applied)) => Attempt::Applied((*applied).clone()),
                    Ok(
                        Response::NotLeader(_) | Response::Refused(_) | Response::Unavailable(_),
                    )
                    | Err(CallError::NotSent(_)) => Attempt::NotTaken,
                    Ok(_) | Err(CallError::Lost(_) | CallError::Timeout) => Attempt::Unknown,
                }
            }
        }
    }

    async fn write(
        &self,
        running: &Running<E>,
        change: Change,
        idempotency: Option<IdempotencyKey>,
        limit: Duration,
    ) -> Attempt {
        let clock = self.cluster_time(running);
        let command = Command { clock, idempotency, change };
        let write = running.raft.client_write(SharedCommand(command.into()));
        match rt::timeout::<E, _>(limit, write).await {
            Some(Ok(response)) => response.data.0.map_or(Attempt::Unknown, Attempt::Applied),
            // openraft refused it before it entered the log.
            Some(Err(RaftError::APIError(ClientWriteError::ForwardToLeader(_)))) => {
                Attempt::NotTaken
            }
            Some(Err(_)) | None => Attempt::Unknown,
        }
    }

    /// Asks `leader`, until it answers, `limit` passes, or this node hears of another leader: a leader
    /// that lost its place behind a partition may never answer.
    pub(super) async fn ask_leader(
        &self,
        running: &Running<E>,
        leader: NodeId,
        request: Request<E>,
        limit: Duration,
    ) -> Result<Response<E>, CallError> {
        use openraft::AsyncRuntime;
        use openraft_rt::Select2;

        let not_sent = || CallError::NotSent(std::io::ErrorKind::NotConnected.into());
        let channel = {
            let metrics = running.raft.metrics();
            let metrics = metrics.borrow_watched();
            let member = metrics.membership_config.membership().get_node(&leader);
            running.network.control(leader, member.ok_or_else(not_sent)?)
        };
        let call = Box::pin(channel.call(request, limit));
        let deposed = Box::pin(self.leader_is_not(running, leader));
        match E::Runtime::select2(call, deposed).await {
            // Whoever answers at the leader's address is another: a new node on a new disk, say. That is this
            // node's mistake, and no answer to whom it asks for.
            Select2::First(Ok(Response::Misdirected(_))) => Err(not_sent()),
            Select2::First(answer) => answer,
            Select2::Second(()) => {
                Err(CallError::Lost(std::io::ErrorKind::ConnectionAborted.into()))
            }
        }
    }

    /// Waits until another node than `leader` is known to lead.
    async fn leader_is_not(&self, running: &Running<E>, leader: NodeId) {
        let mut metrics = running.raft.server_metrics();
        loop {
            let other =
                metrics.borrow_watched().current_leader.is_some_and(|known| known != leader);
            if other || metrics.changed().await.is_err() {
                return;
            }
        }
    }
}

/// This node's Raft term.
pub(super) fn term<E: Env>(running: &Running<E>) -> Term {
    running.raft.server_metrics().borrow_watched().vote.leader_id.term
}

/// The node that leads, as far as this one knows.
pub(super) fn leader<E: Env>(running: &Running<E>) -> Option<NodeId> {
    running.raft.server_metrics().borrow_watched().current_leader
}
