//! Becoming a member, and making others members.
//!
//! A new node first asks any member which cluster this is, writes that down, and starts with an empty log.
//! Then it asks to join until it is a voter: the leader adds it as a learner, waits until it has caught up,
//! and makes it a voter (Raft §6; the dissertation §4.2). Asking again is harmless, so a leader that dies half-way is
//! no trouble. A member that starts under other addresses makes them known in the same way, and so does one
//! that was removed while it did not run: it keeps its log, and becomes a member again. The leader connects to an
//! address before it commits it, and asks a member's former address first (see `original`).
//!
//! # A new directory under an old id
//!
//! As long as a node is a member with one data directory, nobody joins under its id with another: the vote that
//! it may have given in this term is in the old one, and an emptied node could give it a second time. Once its
//! removal is committed (see `members`), the id is free, and safe to take, because no vote is counted twice:
//!
//! 1. The removal is in the logs of a majority of the old voters, and its end in those of the new ones. A
//!    candidate that knows nothing of it is refused by them for its shorter log (Raft §5.4.1), so nobody wins an
//!    election by a vote of the old directory any more.
//! 2. The new directory votes only as a voter, which it becomes after it has caught up: by then it has seen the
//!    term of the leader that admits it, and grants its vote in later terms only.
//! 3. It stands for election only as a voter too: what it reads of the old directory's times, when its id was a voter
//!    and perhaps the only one, does not count (see [`candidacy`](crate::raft::candidacy)).
//! 4. Should a process on the old directory still run, it is not taken for the new one: members' connections say
//!    which directory they mean, and it refuses them. If it asks to join, it is refused in turn.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use openraft::ChangeMembers;
use openraft::async_runtime::watch::WatchReceiver;

use super::answers::{Answers, describe};
use super::members::answered_since;
use super::original::running_at;
use super::propose::leader;
use super::{Node, RETRY_PAUSE, Running};
use crate::env::{Env, rt};
use crate::raft::network::client::{Channel, Target};
use crate::raft::network::message::{Request, Response};
use crate::raft::{NodeId, Peer};

/// How long the leader works on one request to join. A node that has not caught up by then asks again, and
/// finds itself a learner that has come closer.
pub(super) const ADMIT_LIMIT: Duration = Duration::from_millis(1_200);

/// How long a member waits for the leader that it passed a request to join on to: a little longer than the
/// leader takes to answer.
const PASS_ON_LIMIT: Duration = Duration::from_millis(1_600);

/// How long a joining node waits for the answer. No longer: whoever it asked may have lost power, and will
/// never say so.
const JOIN_LIMIT: Duration = Duration::from_secs(2);

/// Pause between two attempts to join.
pub(super) const JOIN_PAUSE: Duration = Duration::from_millis(100);

/// How long a node that was a member when it stopped waits for a leader to call before it asks: longer than a
/// leader's pause between two attempts at a node that is away.
const CALL_LIMIT: Duration = Duration::from_secs(1);

/// Attempts in a row at noting its own address after which a leader hands over. Followers call the address that is
/// committed, so they cannot pass requests on to a leader whose address no member reaches.
const UNNOTED_MAX: u32 = 3;

/// Whether a voter that a change leaves out goes on as a learner: never. No change here takes a voter's vote and
/// keeps the node.
pub(super) const RETAIN: bool = false;

/// A request that will never be granted.
#[derive(Clone, Debug, thiserror::Error)]
#[error("{0}")]
pub(super) struct Refused(pub(super) String);

impl<E: Env> Node<E> {
    /// Asks to be a voter under this node's present addresses until it is one.
    ///
    /// That its own log says so is not enough: it may have been removed since. A member is called by its leader
    /// soon after it starts; one that is not has to ask.
    pub(super) async fn join(&self, running: &Running<E>) -> Result<(), Refused> {
        let peer = self.peer(running);
        if self.is_member_as(running, &peer) {
            let called = async {
                while !self.knows_live_leader(running) {
                    rt::sleep::<E>(RETRY_PAUSE).await;
                }
            };
            let _ = rt::timeout::<E, _>(CALL_LIMIT, called).await;
        }
        let (mut answers, mut unnoted) = (Answers::<E>::new(), 0);
        // One connection to each address, however often it is asked.
        let mut channels: BTreeMap<String, Channel<E>> = BTreeMap::new();
        loop {
            if self.is_member_as(running, &peer) && self.knows_live_leader(running) {
                return Ok(());
            }
            if leader(running) == Some(self.id()) {
                // A leader that moved: no other node can note it.
                match self.admit_here(running, self.id(), peer.clone()).await {
                    Response::Joined => {}
                    Response::Refused(reason) => return Err(Refused(reason)),
                    answer => {
                        answers.note("this node", describe(answer));
                        unnoted += 1;
                        if unnoted >= UNNOTED_MAX {
                            self.hand_over(running).await;
                        }
                    }
                }
            } else {
                unnoted = 0;
            }
            for addr in self.member_addrs(running) {
                let channel = channels.entry(addr.clone()).or_insert_with(|| {
                    let cluster = Some(running.identity.cluster);
                    let target = Target { addr: addr.clone(), member: None, cluster };
                    Channel::new(self.inner.names.clone(), target)
                });
                let request =
                    Request::Join { node: self.id(), peer: peer.clone(), passed_on: false };
                match channel.call(request, JOIN_LIMIT).await {
                    Ok(Response::Joined) => return Ok(()),
                    Ok(Response::Refused(reason)) => return Err(Refused(reason)),
                    // Somebody else is at the address of a member. A node that knows members by its log goes on to the
                    // next, and will find them when they are there.
                    Ok(Response::Misdirected(reason)) if !knows_members(running) => {
                        return Err(Refused(reason));
                    }
                    Ok(answer) => answers.note(&addr, describe(answer)),
                    Err(error) => answers.note(&addr, error.to_string()),
                }
            }
            answers.write("not joined yet; asking again");
            rt::sleep::<E>(JOIN_PAUSE).await;
        }
    }

    /// Whether this node is a voter at these addresses, and that for good: what is not committed may be
    /// undone by the next leader.
    fn is_member_as(&self, running: &Running<E>, peer: &Peer) -> bool {
        let image = running.images.borrow();
        let membership = image.membership.membership();
        is_voter(membership, self.id()) && membership.get_node(&self.id()) == Some(peer)
    }

    /// The leader's address first, if known, then where other members may be.
    pub(super) fn member_addrs(&self, running: &Running<E>) -> Vec<String> {
        let metrics = running.raft.metrics();
        let metrics = metrics.borrow_watched();
        let members = metrics.membership_config.membership();
        let mut addrs = Vec::new();
        addrs.extend(
            metrics
                .current_leader
                .and_then(|id| members.get_node(&id))
                .map(|peer| peer.raft.clone()),
        );
        addrs.extend(self.inner.options.ensemble.iter().cloned());
        addrs.extend(members.nodes().map(|(_, peer)| peer.raft.clone()));
        addrs.retain(|addr| *addr != self.inner.options.raft_addr);
        let mut seen = std::collections::BTreeSet::new();
        addrs.retain(|addr| seen.insert(addr.clone()));
        addrs
    }

    /// Answers a request to join: here if this node leads, else by asking who does.
    pub(super) async fn admit(&self, node: NodeId, peer: Peer, passed_on: bool) -> Response<E> {
        let Some(running) = self.running() else { return Response::NotLeader(None) };
        if leader(running) == Some(self.id()) {
            return self.admit_here(running, node, peer).await;
        }
        let noted = async {
            // The leader that this node knows of may be gone, and the asking node's vote may be what a new one lacks.
            if !self.knows_live_leader(running)
                // One at a time, as at a leader: this node connects to an address of the caller's choice.
                && let Ok(_turn) = self.inner.membership.try_lock()
            {
                self.note_move(running, node, &peer).await;
            }
        };
        let answer = async {
            match leader(running) {
                Some(leader) if !passed_on => {
                    let request = Request::Join { node, peer: peer.clone(), passed_on: true };
                    let asked = self.ask_leader(running, leader, request, PASS_ON_LIMIT).await;
                    asked.unwrap_or(Response::NotLeader(Some(leader)))
                }
                leader => Response::NotLeader(leader),
            }
        };
        futures_util::future::join(noted, answer).await.1
    }

    async fn admit_here(&self, running: &Running<E>, node: NodeId, peer: Peer) -> Response<E> {
        if self.is_own_copy(running, node, &peer) {
            self.note_copy(&peer.raft);
            return Response::Refused(running_at(node, &self.inner.options.raft_addr));
        }
        let admitted = Box::pin(async {
            let _one_at_a_time = self.inner.membership.lock().await;
            self.admit_now(running, node, peer).await
        });
        let late = || Response::Unavailable(format!("node {node} did not catch up in time"));
        rt::timeout::<E, _>(ADMIT_LIMIT, admitted).await.unwrap_or_else(late)
    }

    /// The next step towards node `node` being a voter at `peer`, as far as it is not one already. What
    /// counts is what is committed: another leader may undo the rest.
    async fn admit_now(&self, running: &Running<E>, node: NodeId, peer: Peer) -> Response<E> {
        // What a new leader has not applied yet may be the removal of the node that it would refuse the id for.
        if self.barrier(running).await.is_none() {
            // The asking node's answers may be what the proof lacks.
            self.note_move(running, node, &peer).await;
            return Response::NotLeader(leader(running));
        }
        if !self.may_change_members(running).await {
            return Response::NotLeader(leader(running));
        }
        let image = Arc::clone(&running.images.borrow());
        let (known, voter) = {
            let membership = image.membership.membership();
            (membership.get_node(&node).cloned(), is_voter(membership, node))
        };
        if let Some(known) = &known
            && known.directory != peer.directory
        {
            // Its vote and its log are gone with its old directory; letting it vote again under the same id
            // could elect two leaders in a term (KIP-853).
            return Response::Refused(format!(
                "node {node} is a member with another data directory; remove that member first, or give the new node an id of its own"
            ));
        }
        if known.as_ref().is_none_or(|known| known.raft != peer.raft)
            && let Some(objection) =
                self.objection_to_move(running, node, &peer, known.as_ref()).await
        {
            return objection;
        }
        let steps = async {
            match known {
                // Not blocking: it would wait for a node that may be dead by now.
                None => drop(running.raft.add_learner(node, peer, false).await?),
                Some(known) if known != peer => {
                    let moved = ChangeMembers::SetNodes(BTreeMap::from([(node, peer.clone())]));
                    drop(running.raft.change_membership(moved, RETAIN).await?);
                    drop(running.network.control(node, &peer));
                }
                // That it moved may be in the log since a request that was given up.
                Some(_) => drop(running.network.control(node, &peer)),
            }
            if !voter {
                // It held enough when it was heard last. A voter that is gone by now could keep the others from
                // committing anything, its own removal included.
                answered_since(running, node, rt::now::<E>()).await;
                caught_up(running, node).await;
                let promoted = ChangeMembers::AddVoterIds([node].into());
                drop(running.raft.change_membership(promoted, RETAIN).await?);
            }
            Ok::<_, openraft::errors::RaftError<_, openraft::errors::ClientWriteError<_>>>(())
        };
        match steps.await {
            Ok(()) => Response::Joined,
            Err(error) => Response::Unavailable(error.to_string()),
        }
    }
}

/// Whether this node has ever applied who the members are.
fn knows_members<E: Env>(running: &Running<E>) -> bool {
    running.images.borrow().membership.membership().voter_ids().next().is_some()
}

/// Whether `node` is a voter and no change of membership is half-way.
fn is_voter(membership: &openraft::Membership<NodeId, Peer>, node: NodeId) -> bool {
    membership.get_joint_config().len() == 1 && membership.voter_ids().any(|id| id == node)
}

/// Waits until `node` holds all that was committed when it was asked about: voting with less, it would hold
/// up every commit until it had (the dissertation §4.2.1).
pub(super) async fn caught_up<E: Env>(running: &Running<E>, node: NodeId) {
    let mut metrics = running.raft.metrics();
    let goal = metrics.borrow_watched().local_committed;
    loop {
        let matched = {
            let metrics = metrics.borrow_watched();
            metrics
                .replication
                .as_ref()
                .and_then(|replication| replication.get(&node).copied().flatten())
        };
        if matched >= goal || metrics.changed().await.is_err() {
            return;
        }
    }
}
