//! What becomes of a node that was removed.
//!
//! A leader stops calling a node as soon as its removal is in the leader's log, so a removed node seldom sees the
//! entry that removed it. All it notices is that no leader calls any more; and that happens to members too, when
//! the network is cut or there is no leader. What its own log says is no help either: a node that was removed
//! and has come back reads of its old removal while it catches up. So a node in doubt asks, and any member that
//! can prove to know what is committed (Raft §6.4) may answer.
//!
//! - A node that is told that it is no member stops, with [`RunError::Removed`](super::RunError). Started again on
//!   its directory it asks to join, like any node that starts (see `join`); so whoever removes a node for good
//!   stops it for good. The founder is no exception: its log is not empty, so it founds nothing again.
//! - A node that can reach nobody goes on as it is, and does no harm. Its elections come to nothing: it has no
//!   majority to vote for it, and a pre-vote (the dissertation §9.6) changes no term anywhere. Reads and writes end
//!   at their deadlines, without a leader.
//! - A node that is told that it is a member elsewhere has lost its place to another process: see `original`.
//! - A node that has not joined yet asks to join and nothing else.

use std::time::Duration;

use uuid::Uuid;

use super::propose::leader;
use super::{Node, RunError, Running};
use crate::env::{Env, rt};
use crate::raft::network::client::{Channel, Target};
use crate::raft::network::message::{Request, Response};
use crate::raft::state_machine::Image;
use crate::raft::{NodeId, Peer};

/// How often a node looks whether it has reason to doubt that it is a member.
const LOOK_PAUSE: Duration = Duration::from_millis(500);

/// How long a member takes to find out what is committed, at most: a round or two with its leader.
const MEMBER_LIMIT: Duration = Duration::from_millis(800);

/// How long a node in doubt waits for its answer: a little longer than that.
const MEMBER_ANSWER_LIMIT: Duration = Duration::from_secs(1);

impl<E: Env> Node<E> {
    /// Keeps this node, which had joined, a voter. Ends when it is known to be a member no more.
    ///
    /// It may find itself a learner:
    ///
    /// 1. it is removed, and never learns of it;
    /// 2. it is started again, asks to join, and is stopped before the answer. The leader has made it a learner;
    /// 3. it is started again. Its old log says that it is a voter, and the leader calls it, as it calls learners:
    ///    so it takes itself for joined.
    ///
    /// Then it asks for the rest. (Simulation found it: swarm, seed 778.)
    pub(super) async fn stay(&self, running: &Running<E>) -> RunError {
        loop {
            rt::sleep::<E>(LOOK_PAUSE).await;
            if self.is_in_doubt(running)
                && let Err(error) = self.resolve_doubt(running).await
            {
                return error;
            }
            if self.is_learner(running)
                && let Err(refused) = self.join(running).await
            {
                return refused.into();
            }
        }
    }

    fn is_learner(&self, running: &Running<E>) -> bool {
        let image = running.images.borrow();
        let membership = image.membership.membership();
        is_member(&image, self.id(), running.identity.directory)
            && membership.voter_ids().all(|voter| voter != self.id())
    }

    fn is_in_doubt(&self, running: &Running<E>) -> bool {
        let directory = running.identity.directory;
        !self.knows_live_leader(running)
            || !is_member(&running.images.borrow(), self.id(), directory)
    }

    /// Asks the members that this node knows of, until one knows where this node is. A member that is elsewhere lost its
    /// place to another process (see `original`).
    async fn resolve_doubt(&self, running: &Running<E>) -> Result<(), RunError> {
        let (node, directory) = (self.id(), running.identity.directory);
        for addr in self.member_addrs(running) {
            let target = Target { addr, member: None, cluster: Some(running.identity.cluster) };
            let channel = Channel::new(self.inner.names.clone(), target);
            let request = Request::Member { node, directory };
            match channel.call(request, MEMBER_ANSWER_LIMIT).await {
                Ok(Response::Member(None)) => return Err(RunError::Removed(node)),
                Ok(Response::Member(Some(peer))) if peer.raft != self.inner.options.raft_addr => {
                    return self.reclaim(running, &peer).await;
                }
                Ok(Response::Member(Some(_))) => return Ok(()),
                Ok(answer) => tracing::debug!(?answer, "still in doubt"),
                Err(error) => tracing::debug!(%error, "still in doubt"),
            }
        }
        Ok(())
    }

    /// Answers a node that is in doubt.
    pub(super) async fn answer_doubt(&self, node: NodeId, directory: Uuid) -> Response<E> {
        let Some(running) = self.running() else { return Response::NotLeader(None) };
        match rt::timeout::<E, _>(MEMBER_LIMIT, self.barrier(running)).await {
            Some(Some(image)) => Response::Member(member(&image, node, directory).cloned()),
            _ => Response::NotLeader(leader(running)),
        }
    }
}

fn member<I>(image: &Image<I>, node: NodeId, directory: Uuid) -> Option<&Peer> {
    let member = image.membership.membership().get_node(&node);
    member.filter(|peer| peer.directory == directory)
}

fn is_member<I>(image: &Image<I>, node: NodeId, directory: Uuid) -> bool {
    member(image, node, directory).is_some()
}
