//! One process for one data directory, where its members find it.
//!
//! A data directory can be copied: a backup is started by mistake, a virtual machine is cloned. Nothing in the copy says
//! that it is one, and the process on it takes itself for the member. Two such processes would vote twice in one term, and
//! hold different logs under one name. Every process draws a number at its start, its *instance*, so that two processes on
//! copies of one directory can be told apart. A node may also move: the same directory returns under another address.
//!
//! 1. A node whose log has it at another address asks that address for its instance before it votes or stands for election
//!    ([`Candidacy`](crate::raft::candidacy)). If another process answers there as this node, this process runs on a copy:
//!    it tells the other one, which logs that, and stops.
//! 2. A leader that is asked to note an address connects to it first. What answers there must be the asking node, with its
//!    data directory; another member that the membership has at this address does not matter then. So a mistyped address is
//!    never committed, and nodes with exchanged addresses find their places again.
//! 3. At the same time the leader asks the member's former address. If another process answers there as the member, the
//!    leader refuses the move, logs that, and tells the former process.
//! 4. A leader that moved cannot prove its own address: it asks another voter to connect back.
//!
//! 5. Without a leader no address is committed, and without the member's vote there may be no
//!    leader. A member that is asked then looks at both addresses itself, and calls the asking node
//!    where it is, until the membership changes or a call fails there. This is safe because every
//!    connection names the member and its data directory.
//!
//! An address that refuses connections, or at which another node answers, is free. One that does not answer at all may
//! belong to a process that is cut off: a node waits [`GONE_LIMIT`] for it, a leader [`ALIVE_LIMIT`] after its last answer.
//! A leader that was just elected may have no answer from the member yet. It waits [`ALIVE_LIMIT`] from
//! the first request to note an address in its term.
//!
//! Limits: a copy that starts while its original does not run is the node. If the original then returns, the leader refuses
//! it, or the original finds its place taken (see `removed`); in between, both may vote. The same holds for a copy that was
//! made after its original moved and before the new address reached its log: it looks at the old address (found by
//! simulation: swarm, seed 6000000913). A copy that is older than its original lacks what the original acknowledged.

use std::io::ErrorKind;
use std::sync::PoisonError;
use std::time::Duration;

use futures_util::StreamExt;
use futures_util::stream::FuturesUnordered;
use openraft::async_runtime::watch::WatchReceiver;
use openraft::{AsyncRuntime, Instant};
use openraft_rt::Select2;

use super::members::answered;
use super::propose::term;
use super::{Node, RunError, Running};
use crate::env::{Env, rt};
use crate::raft::network::CallError;
use crate::raft::network::client::{Channel, Target};
use crate::raft::network::message::{Request, Response};
use crate::raft::{NodeId, Peer};

/// How long one look at an address takes at most: connecting and one question make two round trips, which are 300 ms
/// between nodes as far apart as they may be.
const LOOK_LIMIT: Duration = Duration::from_millis(500);

/// How long a leader waits for a voter that it asked to look.
const LOOK_ANSWER_LIMIT: Duration = Duration::from_millis(700);

/// Pause between two looks at an address that does not answer.
const LOOK_PAUSE: Duration = Duration::from_millis(250);

/// How long an original may be silent until the node at its new address takes it for gone. Longer than a process stands
/// still for usual reasons; a node that moved with its whole cluster waits as long for its first election.
const GONE_LIMIT: Duration = Duration::from_secs(5);

/// How long after its last answer a member counts as alive although its address does not answer. Longer than a link that
/// lost a packet takes to carry the next one.
const ALIVE_LIMIT: Duration = Duration::from_secs(3);

/// What answers at an address that was asked for a member.
#[derive(Clone, Debug)]
pub(super) enum Found {
    /// The member, in the process with this instance.
    Member(uuid::Uuid),
    /// Not the member, with the reason: nothing listens there, or another node does.
    Other(String),
    /// No answer, with the reason.
    Silence(String),
}

impl<E: Env> Node<E> {
    /// Joins, as [`join`](Self::join) does, once no other process can be this node.
    ///
    /// # Errors
    ///
    /// [`RunError::Copy`] when another process is, and what `join` returns.
    pub(super) async fn join_as_original(&self, running: &Running<E>) -> Result<(), RunError> {
        let begun = rt::now::<E>();
        let former = self.former_peers(running).await;
        let mut free = self.are_free(running, &former).await?;
        if free {
            running.candidacy.clear_doubt().await;
            return Ok(self.join(running).await?);
        }
        let addrs: Vec<_> = former.iter().map(|peer| peer.raft.as_str()).collect();
        tracing::warn!(
            node = self.id(),
            former = addrs.join(", "),
            "the former address does not answer: no vote before a leader has the new one, or {GONE_LIMIT:?} have passed"
        );
        let looking = Box::pin(async {
            while !free && rt::now::<E>() - begun < GONE_LIMIT {
                rt::sleep::<E>(LOOK_PAUSE).await;
                free = self.are_free(running, &former).await?;
            }
            running.candidacy.clear_doubt().await;
            std::future::pending().await
        });
        match E::Runtime::select2(Box::pin(self.join(running)), looking).await {
            Select2::First(joined) => {
                joined?;
                running.candidacy.clear_doubt().await;
                Ok(())
            }
            Select2::Second(copy) => copy,
        }
    }

    /// Where the last memberships in this node's log have it, other than where it is.
    async fn former_peers(&self, running: &Running<E>) -> Vec<Peer> {
        let (id, directory) = (self.id(), running.identity.directory);
        let own = self.inner.options.raft_addr.clone();
        let former = running.raft.with_raft_state(move |state| {
            let members = [state.membership_state.effective(), state.membership_state.committed()];
            let mut former: Vec<Peer> = Vec::new();
            for peer in members.iter().filter_map(|members| members.membership().get_node(&id)) {
                let known = former.iter().any(|other| other.raft == peer.raft);
                if peer.directory == directory && peer.raft != own && !known {
                    former.push(peer.clone());
                }
            }
            former
        });
        // Raft has ended: the node stops for another reason, and does not vote before.
        former.await.unwrap_or_default()
    }

    /// Whether no address of `former` can belong to another process that is this node.
    async fn are_free(&self, running: &Running<E>, former: &[Peer]) -> Result<bool, RunError> {
        let mut free = true;
        for peer in former {
            let channel = self.channel_to(running, self.id(), peer);
            match look::<E>(&channel).await {
                Found::Member(instance) if instance != self.inner.instance => {
                    let addr = self.inner.options.raft_addr.clone();
                    // The other process only logs it.
                    drop(channel.call(Request::Copied { addr }, LOOK_LIMIT).await);
                    return Err(self.copy_of(peer));
                }
                // This process itself, by another name of its address.
                Found::Member(_) | Found::Other(_) => {}
                Found::Silence(reason) => {
                    tracing::debug!(addr = %peer.raft, reason, "a former address is silent");
                    free = false;
                }
            }
        }
        Ok(free)
    }

    fn copy_of(&self, peer: &Peer) -> RunError {
        RunError::Copy { node: self.id(), addr: peer.raft.clone() }
    }

    fn channel_to(&self, running: &Running<E>, node: NodeId, peer: &Peer) -> Channel<E> {
        let target = Target {
            addr: peer.raft.clone(),
            member: Some((node, peer.directory)),
            cluster: Some(running.identity.cluster),
        };
        Channel::new(self.inner.names.clone(), target)
    }

    /// Why this leader does not note that `node`, which is `known` at another address or not at all, is at `peer`.
    pub(super) async fn objection_to_move(
        &self,
        running: &Running<E>,
        node: NodeId,
        peer: &Peer,
        known: Option<&Peer>,
    ) -> Option<Response<E>> {
        let first_asked = first_asked(running);
        let new = async {
            if node == self.id() {
                self.look_from_elsewhere(running, peer).await
            } else {
                look::<E>(&self.channel_to(running, node, peer)).await
            }
        };
        // A leader has asked its own former address when it started.
        let former = known.filter(|_| node != self.id());
        let former = former.map(|former| (former, self.channel_to(running, node, former)));
        let old = async {
            match &former {
                Some((_, channel)) => Some(look::<E>(channel).await),
                None => None,
            }
        };
        let (new, old) = futures_util::future::join(new, old).await;
        let (addr, instance) = match new {
            Found::Member(instance) => (&peer.raft, instance),
            Found::Other(reason) | Found::Silence(reason) => {
                return Some(Response::Unavailable(format!(
                    "node {node} cannot be reached at {}: {reason}; check its -a",
                    peer.raft
                )));
            }
        };
        let (former, channel) = former?;
        match old? {
            Found::Member(other) if other != instance => {
                tracing::warn!(
                    member = node,
                    original = former.raft,
                    copy = addr,
                    "refused a copy of a member's data directory: the member answers at its address"
                );
                let addr = addr.clone();
                // A task of its own: the copy waits for its answer.
                drop(rt::spawn::<E, _>(async move {
                    drop(channel.call(Request::Copied { addr }, LOOK_LIMIT).await);
                }));
                Some(Response::Refused(running_at(node, &former.raft)))
            }
            Found::Member(_) | Found::Other(_) => None,
            Found::Silence(reason) => {
                let last = answered(running, node).unwrap_or(first_asked);
                let silent = rt::now::<E>().saturating_duration_since(last);
                (silent < ALIVE_LIMIT).then(|| {
                    Response::Unavailable(format!(
                        "node {node} may be alive at {}, where it has not answered for {} ms: {reason}",
                        former.raft,
                        silent.as_millis()
                    ))
                })
            }
        }
    }

    /// Has the other voters look for this node at `peer`: what they find, or what the last of them says. A node without
    /// other voters is where it says.
    async fn look_from_elsewhere(&self, running: &Running<E>, peer: &Peer) -> Found {
        let mut answers: FuturesUnordered<_> = {
            let image = running.images.borrow();
            let members = image.membership.membership();
            let others = members.voter_ids().filter(|voter| *voter != self.id());
            let channels = others.filter_map(|voter| {
                Some((voter, running.network.control(voter, members.get_node(&voter)?)))
            });
            let request = || Request::Reach { node: self.id(), peer: peer.clone() };
            channels
                .map(|(voter, channel)| {
                    let request = request();
                    async move { (voter, channel.call(request, LOOK_ANSWER_LIMIT).await) }
                })
                .collect()
        };
        let mut last = Found::Member(self.inner.instance);
        while let Some((voter, answer)) = answers.next().await {
            last = match answer {
                Ok(Response::Instance(instance)) => return Found::Member(instance),
                Ok(Response::Unavailable(reason)) => {
                    Found::Other(format!("node {voter} says: {reason}"))
                }
                Ok(other) => Found::Silence(format!("node {voter} answers {other}")),
                Err(error) => Found::Silence(format!("node {voter}: {error}")),
            };
        }
        last
    }

    /// A member's end of [`look_from_elsewhere`](Self::look_from_elsewhere).
    pub(super) async fn reach(&self, node: NodeId, peer: &Peer) -> Response<E> {
        let Some(running) = self.running() else {
            return Response::Unavailable("this node is starting".to_owned());
        };
        match look::<E>(&self.channel_to(running, node, peer)).await {
            Found::Member(instance) => Response::Instance(instance),
            Found::Other(reason) | Found::Silence(reason) => Response::Unavailable(reason),
        }
    }

    /// Calls member `node` at `peer` from now on, if it answers there, and no other process does at its former address.
    pub(super) async fn note_move(&self, running: &Running<E>, node: NodeId, peer: &Peer) {
        let known = {
            let metrics = running.raft.metrics();
            let metrics = metrics.borrow_watched();
            metrics.membership_config.membership().get_node(&node).cloned()
        };
        let Some(known) = known.filter(|known| known.directory == peer.directory) else { return };
        // A member asks several times a second until it is called, mostly from where it is known to be.
        if running.network.actual(node, &known) == *peer {
            return;
        }
        let (new, old) =
            (self.channel_to(running, node, peer), self.channel_to(running, node, &known));
        let (new, old) = futures_util::future::join(look::<E>(&new), look::<E>(&old)).await;
        let is_there = match (new, old) {
            (Found::Member(new), Found::Member(old)) => new == old,
            // After silence, the asking node does not vote before it has waited itself.
            (Found::Member(_), Found::Other(_) | Found::Silence(_)) => true,
            (Found::Other(_) | Found::Silence(_), _) => false,
        };
        if is_there {
            running.network.note_move(node, &known, peer);
        }
    }

    /// Answers a process that asks which process this is.
    pub(super) fn own_instance(&self) -> Response<E> {
        match self.running() {
            Some(_) => Response::Instance(self.inner.instance),
            None => Response::Unavailable("this node is starting".to_owned()),
        }
    }

    /// Logs that a process at `addr` runs on a copy of this node's directory.
    pub(super) fn note_copy(&self, addr: &str) -> Response<E> {
        let Some(running) = self.running() else { return Response::Done };
        let mut lines = running.copy_lines.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(unwritten) = lines.note(rt::now::<E>()) {
            tracing::warn!(
                node = self.id(),
                copy = addr,
                unwritten,
                "a process runs on a copy of this node's data directory, and is refused: delete the copy"
            );
        }
        Response::Done
    }

    /// This node's membership is at `peer`, where the node did not ask for it: another process did, while this one was
    /// cut off. If that process is there, it is the member now. Otherwise this node takes its place back.
    pub(super) async fn reclaim(&self, running: &Running<E>, peer: &Peer) -> Result<(), RunError> {
        match look::<E>(&self.channel_to(running, self.id(), peer)).await {
            Found::Member(instance) if instance != self.inner.instance => Err(self.copy_of(peer)),
            _ => Ok(self.join(running).await?),
        }
    }

    /// Whether this node is asked, by a process on a copy of its directory, to note that it is at `peer`.
    pub(super) fn is_own_copy(&self, running: &Running<E>, node: NodeId, peer: &Peer) -> bool {
        node == self.id()
            && peer.directory == running.identity.directory
            && peer.raft != self.inner.options.raft_addr
    }
}

/// When this leader was first asked, in its term, to note an address.
fn first_asked<E: Env>(running: &Running<E>) -> rt::Instant<E> {
    let (term, now) = (term(running), rt::now::<E>());
    let mut first = running.first_move.lock().unwrap_or_else(PoisonError::into_inner);
    match *first {
        Some((asked, at)) if asked == term => at,
        _ => {
            *first = Some((term, now));
            now
        }
    }
}

/// What a process on a copy is told.
pub(super) fn running_at(node: NodeId, addr: &str) -> String {
    format!(
        "node {node} already runs at {addr} on this data directory, or on the one that this is a copy of; stop one of them for good"
    )
}

/// Asks for the instance of the member that `channel` leads to.
async fn look<E: Env>(channel: &Channel<E>) -> Found {
    match channel.call(Request::Instance, LOOK_LIMIT).await {
        Ok(Response::Instance(instance)) => Found::Member(instance),
        Ok(Response::Misdirected(reason)) => Found::Other(reason),
        Err(CallError::NotSent(error)) if error.kind() == ErrorKind::ConnectionRefused => {
            Found::Other("connection refused".to_owned())
        }
        Ok(other) => Found::Silence(format!("it answers {other}")),
        Err(error) => Found::Silence(error.to_string()),
    }
}
