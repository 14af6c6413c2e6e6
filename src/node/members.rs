//! What an operator changes about a running cluster: who is a member, and who leads.
//!
//! Both are asked of any node and done by the leader, and both are loops around a linearizable read:
//!
//! 1. The asked node reads the membership as of now. It sees there whether the change is made already, or can
//!    never be made.
//! 2. If neither, it asks the leader to make it. Whatever comes back, or does not, it begins anew: a request to
//!    make what is made already does nothing.
//!
//! So a leader that dies half-way costs another round, and success is what was seen, not what was promised.
//! Half a removal is completed by the next leader (see `duties`), unasked.
//!
//! A member is removed by its id *and* data directory, the one that it had when the request came in. A node that
//! takes its place under the same id while the request is repeated stays.
//!
//! Left out: what becomes of the removed node, which is in `removed`, and adding members, which they ask for
//! themselves, in `join`.

use std::sync::Arc;
use std::time::Duration;

use openraft::ChangeMembers;
use openraft::async_runtime::watch::WatchReceiver;
use openraft::errors::{ClientWriteError, RaftError};
use uuid::Uuid;

use super::join::{RETAIN, caught_up};
use super::propose::leader;
use super::{Node, REQUEST_DEADLINE, RETRY_PAUSE, Running};
use crate::env::{Env, rt};
use crate::raft::network::CallError;
use crate::raft::network::message::{Request, Response};
use crate::raft::{NodeId, Peer};

type Members = openraft::Membership<NodeId, Peer>;

/// How long a request waits for its turn at the leader: as long as one that came before it may take.
const TURN_LIMIT: Duration = Duration::from_millis(1_300);

/// How long the leader works on one request after that. A change that takes longer may be made yet.
const CHANGE_LIMIT: Duration = Duration::from_millis(1_200);

/// How long the leader waits for other nodes to be fit for a change: for a node that is to lead to answer and to
/// catch up, for enough voters to answer a leader that is new. There has to be time for the change itself, within
/// [`CHANGE_LIMIT`].
const FITNESS_LIMIT: Duration = Duration::from_millis(700);

/// How long another node waits for the leader's answer: a little longer than the leader for all of it.
const CHANGE_ANSWER_LIMIT: Duration = Duration::from_millis(2_700);

/// Why a membership or a leadership was not changed.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum MemberError {
    /// There is no such member. Nothing was changed.
    #[error("there is no member {0}")]
    UnknownMember(NodeId),
    /// It is the only voter: without it there would be no cluster. Nothing was changed.
    #[error("node {0} is the last voter")]
    LastVoter(NodeId),
    /// A learner cannot lead. Nothing was changed.
    #[error("node {0} is no voter yet")]
    NotVoter(NodeId),
    /// No leader could be reached before the deadline. Nothing was changed.
    #[error("no leader could be reached")]
    NoLeader,
    /// The leader would not do it as things are; the text says why. Nothing was changed.
    #[error("{0}")]
    NotNow(String),
    /// It may have been made, or may yet be.
    #[error("the outcome is unknown")]
    Unknown,
    /// This node has not opened its directory yet.
    #[error("this node is starting")]
    Starting,
}

/// What a round found.
enum Round<E: Env> {
    /// It is as it should be.
    Done,
    /// The leader is to be asked this.
    Ask(Request<E>),
}

impl<E: Env> Node<E> {
    /// Makes `node` a member no more, voter or not, wherever this is asked. By the time that this returns, a
    /// majority of those who remain has it on stable storage.
    ///
    /// The leader removes itself only after it has handed over: so there is somebody who leads while the change
    /// is made, and no moment without a leader after it (the dissertation §4.2.2).
    ///
    /// A node that was removed already is an unknown member. After [`MemberError::Unknown`] that is good news.
    ///
    /// # Errors
    ///
    /// See [`MemberError`], within [`REQUEST_DEADLINE`].
    pub async fn remove_member(&self, node: NodeId) -> Result<(), MemberError> {
        let mut meant = None;
        self.until_done(|members, _| {
            let known = members.get_node(&node).map(|peer| peer.directory);
            let directory = match meant {
                None => *meant.insert(known.ok_or(MemberError::UnknownMember(node))?),
                Some(meant) if known != Some(meant) => return Ok(Round::Done),
                Some(meant) => meant,
            };
            if members.voter_ids().eq([node]) {
                return Err(MemberError::LastVoter(node));
            }
            Ok(Round::Ask(Request::Remove { node, directory }))
        })
        .await
    }

    /// Makes `to` the leader, wherever this is asked (the dissertation §3.10). Clients notice a pause of some
    /// milliseconds.
    ///
    /// # Errors
    ///
    /// See [`MemberError`], within [`REQUEST_DEADLINE`].
    pub async fn transfer_leader(&self, to: NodeId) -> Result<(), MemberError> {
        self.until_done(|members, leader| {
            if leader == Some(to) {
                return Ok(Round::Done);
            }
            if members.get_node(&to).is_none() {
                return Err(MemberError::UnknownMember(to));
            }
            if !members.voter_ids().any(|voter| voter == to) {
                return Err(MemberError::NotVoter(to));
            }
            Ok(Round::Ask(Request::HandOver { to }))
        })
        .await
    }

    /// Looks at the members and the leader, and asks the leader what is to be asked, until there is nothing to.
    async fn until_done(
        &self,
        mut look: impl FnMut(&Members, Option<NodeId>) -> Result<Round<E>, MemberError> + Send,
    ) -> Result<(), MemberError> {
        let running = self.running().ok_or(MemberError::Starting)?;
        let deadline = rt::now::<E>() + REQUEST_DEADLINE;
        let left = || deadline - rt::now::<E>().min(deadline);
        let mut error = MemberError::NoLeader;
        while !left().is_zero() {
            let read = rt::timeout::<E, _>(left(), self.barrier(running)).await;
            if let Some(Some(image)) = read {
                let request = match look(image.membership.membership(), leader(running))? {
                    Round::Done => return Ok(()),
                    Round::Ask(request) => request,
                };
                let itself = matches!(request, Request::Remove { node, .. } if node == self.id());
                match self.ask_for_change(running, request, left()).await {
                    // Nobody will tell a removed node of its removal: it can only believe it.
                    Response::Done if itself => return Ok(()),
                    // This node waits until it has applied the change, so that its next answer shows
                    // it. If another change has removed this node, no leader sends it the entries,
                    // and the outcome stays unknown here.
                    Response::Done => {
                        error = MemberError::Unknown;
                        continue;
                    }
                    // The leader waited already for as long as there was hope. But a refusal does not tell what
                    // became of an earlier attempt.
                    Response::Refused(reason) | Response::Unavailable(reason)
                        if error != MemberError::Unknown =>
                    {
                        return Err(MemberError::NotNow(reason));
                    }
                    Response::NotLeader(_) => {}
                    _ => error = MemberError::Unknown,
                }
            }
            rt::sleep::<E>(RETRY_PAUSE.min(left())).await;
        }
        Err(error)
    }

    async fn ask_for_change(
        &self,
        running: &Running<E>,
        request: Request<E>,
        limit: Duration,
    ) -> Response<E> {
        match leader(running) {
            None => Response::NotLeader(None),
            Some(leader) if leader == self.id() => {
                let change = Box::pin(self.change_here(request));
                rt::timeout::<E, _>(limit, change).await.unwrap_or(Response::Unknown)
            }
            Some(leader) => {
                let limit = limit.min(CHANGE_ANSWER_LIMIT);
                match self.ask_leader(running, leader, request, limit).await {
                    Ok(response) => response,
                    Err(CallError::NotSent(_)) => Response::NotLeader(Some(leader)),
                    Err(CallError::Lost(_) | CallError::Timeout) => Response::Unknown,
                }
            }
        }
    }

    /// The leader's end of a change.
    pub(super) async fn change_here(&self, request: Request<E>) -> Response<E> {
        let Some(running) = self.running() else { return Response::NotLeader(None) };
        let turn = rt::timeout::<E, _>(TURN_LIMIT, self.inner.membership.lock()).await;
        let Some(_one_at_a_time) = turn else { return another_change() };
        let change = Box::pin(async {
            match request {
                Request::Remove { node, directory } => {
                    self.remove_here(running, node, directory).await
                }
                Request::HandOver { to } => self.hand_over_here(running, to).await,
                _ => Response::Refused("not a change of members".to_owned()),
            }
        });
        rt::timeout::<E, _>(CHANGE_LIMIT, change).await.unwrap_or(Response::Unknown)
    }

    async fn remove_here(
        &self,
        running: &Running<E>,
        node: NodeId,
        directory: Uuid,
    ) -> Response<E> {
        let began = rt::now::<E>();
        if self.barrier(running).await.is_none() || leader(running) != Some(self.id()) {
            return Response::NotLeader(leader(running));
        }
        let is_there = |members: &Members| {
            members.get_node(&node).is_some_and(|peer| peer.directory == directory)
        };
        if !is_there(running.images.borrow().membership.membership()) {
            return Response::Done;
        }
        if node == self.id() {
            self.hand_over(running).await;
            return Response::NotLeader(leader(running));
        }
        if !self.may_change_members(running).await {
            let stays = change_is_under_way(running) && leader(running) == Some(self.id());
            return if stays { another_change() } else { Response::NotLeader(None) };
        }
        // What was half-way may have been this removal.
        let image = Arc::clone(&running.images.borrow());
        let members = image.membership.membership();
        if !is_there(members) {
            return Response::Done;
        }
        if change_is_under_way(running) {
            return another_change();
        }
        let change = if members.voter_ids().any(|voter| voter == node) {
            let fit = async {
                while self.danger_without(running, members, node, began).is_some() {
                    rt::sleep::<E>(RETRY_PAUSE).await;
                }
            };
            if rt::timeout::<E, _>(FITNESS_LIMIT, fit).await.is_none()
                && let Some(danger) = self.danger_without(running, members, node, began)
            {
                return Response::Unavailable(danger);
            }
            ChangeMembers::RemoveVoters([node].into())
        } else {
            ChangeMembers::RemoveNodes([node].into())
        };
        match running.raft.change_membership(change, RETAIN).await {
            Ok(_) => {
                tracing::info!(member = node, "removed");
                Response::Done
            }
            Err(RaftError::APIError(ClientWriteError::ChangeMembershipError(refused))) => {
                Response::Unavailable(refused.to_string())
            }
            // Of the two steps of a change (Raft §6), the first may have been made.
            Err(_) => Response::Unknown,
        }
    }

    /// Whether this leader may change members, once a change that was half-way is completed. To be asked in its turn
    /// (`Inner::membership`) and after a [`barrier`](Self::barrier): by then Raft has done all that it was asked before.
    ///
    /// It may not when it is no member. A node whose removal is half-way is still a voter of the joint membership, and
    /// may be elected. It then completes its own removal, and openraft lets it lead for another 150 ms, to hand over
    /// in; but changing members, an assertion of openraft fails. (Found by simulation: swarm, seed 1000138.) Nor may
    /// another change complete this one on its way, as openraft would: its second step comes after the removal.
    pub(super) async fn may_change_members(&self, running: &Running<E>) -> bool {
        let completed = self.complete_change(running).await;
        let metrics = running.raft.metrics();
        let metrics = metrics.borrow_watched();
        let membership = &metrics.membership_config;
        let is_committed = membership.log_id() <= &metrics.local_committed;
        completed && is_committed && membership.membership().get_node(&self.id()).is_some()
    }

    /// Completes a change whose leader died between its two steps (Raft §6), if there is one: until someone does, every
    /// decision needs a majority of the old and of the new voters. Says whether none is left half-way.
    pub(super) async fn complete_change(&self, running: &Running<E>) -> bool {
        let half_way = {
            let metrics = running.raft.metrics();
            let metrics = metrics.borrow_watched();
            let membership = &metrics.membership_config;
            let configs = membership.membership().get_joint_config();
            // The first step of the change is not committed yet. Raft would refuse the second one,
            // and log an error each time.
            if configs.len() > 1 && membership.log_id() > &metrics.local_committed {
                return false;
            }
            configs.last().filter(|_| configs.len() > 1).cloned()
        };
        let Some(voters) = half_way else { return true };
        let completed = running.raft.change_membership(voters, RETAIN).await.is_ok();
        if !completed {
            tracing::debug!("the membership stays joint for now");
        }
        completed
    }

    /// Why the cluster might stand still without the voter `node`, if so: removing it would need the voices of
    /// voters that do not answer, and until they do nothing could be committed, not even the way back. An
    /// operator with one dead voter who removes a live one by mistake is kept from it (etcd's strict check of
    /// reconfigurations). Only answers to what was sent after `began` count: a voter may have died just now.
    fn danger_without(
        &self,
        running: &Running<E>,
        members: &Members,
        node: NodeId,
        began: rt::Instant<E>,
    ) -> Option<String> {
        let others: Vec<_> = members.voter_ids().filter(|voter| *voter != node).collect();
        let answers =
            |voter: &NodeId| *voter == self.id() || answered(running, *voter) > Some(began);
        let answering = others.iter().filter(|voter| answers(voter)).count();
        (answering * 2 <= others.len()).then(|| {
            let others = others.len();
            format!("only {answering} of the {others} voters that would remain answer")
        })
    }

    /// A leader that hands over takes no writes and is silent. So the heir has to be there, now and not only
    /// lately, and to have caught up before that begins.
    async fn hand_over_here(&self, running: &Running<E>, to: NodeId) -> Response<E> {
        if leader(running) == Some(self.id()) && to != self.id() {
            let ready = async {
                answered_since(running, to, rt::now::<E>()).await;
                caught_up(running, to).await;
            };
            if rt::timeout::<E, _>(FITNESS_LIMIT, ready).await.is_none() {
                let reason = format!("node {to} does not answer, or has not caught up");
                return Response::Unavailable(reason);
            }
            self.hand_over_to(running, to).await;
        }
        match leader(running) {
            Some(leader) if leader == to => Response::Done,
            // This one too, if nobody took over: it takes no writes until the next election.
            _ => Response::NotLeader(None),
        }
    }
}

/// When the last request that `node` answered this leader was sent.
pub(super) fn answered<E: Env>(running: &Running<E>, node: NodeId) -> Option<rt::Instant<E>> {
    let metrics = running.raft.metrics();
    let metrics = metrics.borrow_watched();
    let answered = metrics.heartbeat.as_ref()?.get(&node).copied().flatten();
    answered.map(|at| *at)
}

/// Waits until `node` has answered a request that this leader sent after `began`.
pub(super) async fn answered_since<E: Env>(
    running: &Running<E>,
    node: NodeId,
    began: rt::Instant<E>,
) {
    let mut metrics = running.raft.metrics();
    while answered(running, node) <= Some(began) {
        if metrics.changed().await.is_err() {
            return;
        }
    }
}

fn another_change<E: Env>() -> Response<E> {
    Response::Unavailable("another change of members is under way".to_owned())
}

/// Whether the membership that counts is not committed yet: openraft takes no other before it is.
fn change_is_under_way<E: Env>(running: &Running<E>) -> bool {
    let metrics = running.raft.server_metrics();
    let metrics = metrics.borrow_watched();
    metrics.membership_config.log_id() != metrics.committed_membership_config.log_id()
}
