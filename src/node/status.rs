//! What a node knows about its cluster.

use openraft::async_runtime::watch::WatchReceiver;
use openraft::{Instant, LogIdOptionExt, Membership, RaftMetrics, ServerState};
use serde::Serialize;
use uuid::Uuid;

use super::{Node, Running};
use crate::env::{Env, rt};
use crate::raft::network::health::Unreachable;
use crate::raft::{NodeId, Peer, TypeConfig};

/// How long a leader may be silent and still count as known, in longest election timeouts: by then its
/// followers have elected another, if they can.
const LEADER_SILENCE_MAX: u32 = 3;

/// The cluster from one node's own knowledge: what `/cluster` answers.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, serde::Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct ClusterStatus {
    /// The cluster, once this node knows it.
    pub cluster_id: Option<Uuid>,
    /// The answering node.
    pub node: NodeId,
    /// Who leads.
    pub leader: Option<NodeId>,
    /// The answering node's term.
    pub term: u64,
    /// The highest log index known to be committed.
    pub committed: u64,
    /// The members, by id.
    pub nodes: Vec<MemberStatus>,
}

/// One member as another sees it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, serde::Deserialize)]
pub struct MemberStatus {
    /// Its id.
    pub id: NodeId,
    /// Its Raft address.
    pub raft: String,
    /// Its HTTP address.
    pub http: String,
    /// What it does. Only its own candidacy is known to a node.
    pub role: Role,
    /// Whether the cluster counts on its vote. During a change of members, the majorities of both the
    /// old and the new configuration decide (Raft §6). A member that votes in only one of them is not
    /// shown as a voter: its vote cannot replace a failed one in the other.
    pub voter: bool,
    /// The last log index that it is known to hold; a leader knows this of everyone, others of themselves.
    pub matched: Option<u64>,
    /// Why and since when the answering node does not reach it; absent while it does.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub unreachable: Option<Unreachable>,
}

/// Raft's roles (§5.1), and learners, which do not vote.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, serde::Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Role {
    /// Decides the order of changes.
    Leader,
    /// Follows the leader.
    Follower,
    /// Wants to lead.
    Candidate,
    /// Follows, but does not vote.
    Learner,
}

impl<E: Env> Node<E> {
    /// What this node knows.
    #[must_use]
    pub fn status(&self) -> ClusterStatus {
        let Some(running) = self.running() else {
            return ClusterStatus {
                cluster_id: None,
                node: self.id(),
                leader: None,
                term: 0,
                committed: 0,
                nodes: Vec::new(),
            };
        };
        let metrics = running.raft.metrics();
        let metrics = metrics.borrow_watched();
        let membership = metrics.membership_config.membership();
        let leader = self.live_leader(running, &metrics);
        let nodes = membership.nodes().map(|(&id, peer)| {
            let voter = votes(membership, id);
            let role = match metrics.state {
                ServerState::Candidate if id == self.id() => Role::Candidate,
                _ if leader == Some(id) => Role::Leader,
                _ if voter => Role::Follower,
                _ => Role::Learner,
            };
            let matched = match &metrics.replication {
                _ if id == self.id() => metrics.last_log_index,
                Some(replication) => replication
                    .get(&id)
                    .and_then(|matched| matched.as_ref())
                    .map(openraft::LogId::index),
                None => None,
            };
            MemberStatus {
                id,
                raft: peer.raft.clone(),
                http: peer.http.clone(),
                role,
                voter,
                matched,
                unreachable: running.network.health().unreachable(id),
            }
        });
        // openraft publishes its metrics at the end of a round, in which it may apply entries and then wait for the disk.
        let committed = metrics.local_committed.max(running.images.borrow().applied);
        ClusterStatus {
            cluster_id: Some(running.identity.cluster),
            node: self.id(),
            leader,
            term: metrics.current_term,
            committed: committed.index().unwrap_or(0),
            nodes: nodes.collect(),
        }
    }

    /// Whether this node can serve: it knows a leader, and has applied all that was committed as far as it
    /// knew when it was asked.
    #[must_use]
    pub fn is_ready(&self) -> bool {
        let Some(running) = self.running() else { return false };
        let metrics = running.raft.metrics();
        let metrics = metrics.borrow_watched();
        let member = metrics.membership_config.membership().get_node(&self.id()).is_some();
        let known = metrics.cluster_committed.max(metrics.local_committed);
        let applied = running.images.borrow().applied;
        let leader = self.live_leader(running, &metrics);
        member && leader.is_some() && applied.is_some() && applied >= known
    }

    /// The leader, if it gave a sign of life lately: a follower heard it, or, if it is this node itself, a
    /// majority answered it.
    fn live_leader(
        &self,
        running: &Running<E>,
        metrics: &RaftMetrics<TypeConfig<E>>,
    ) -> Option<NodeId> {
        let leader = metrics.current_leader?;
        let sign = if leader == self.id() {
            let alone = metrics.membership_config.membership().voter_ids().count() == 1;
            let acked = metrics.last_quorum_acked.as_ref().map(|acked| **acked);
            if alone { Some(rt::now::<E>()) } else { acked }
        } else {
            running.heard.of(metrics.current_term)
        };
        let silence = rt::now::<E>().saturating_duration_since(sign?);
        (silence <= self.inner.options.raft.election_timeout_max * LEADER_SILENCE_MAX)
            .then_some(leader)
    }

    /// Whether a leader gave a sign of life lately.
    pub(super) fn knows_live_leader(&self, running: &Running<E>) -> bool {
        let metrics = running.raft.metrics();
        let metrics = metrics.borrow_watched();
        self.live_leader(running, &metrics).is_some()
    }
}

/// Whether `node` votes in every majority that decides now.
fn votes(membership: &Membership<NodeId, Peer>, node: NodeId) -> bool {
    membership.get_joint_config().iter().all(|voters| voters.contains(&node))
}

#[cfg(test)]
mod tests {
    use std::collections::{BTreeMap, BTreeSet};

    use super::*;

    /// A test waited until all nodes showed three voters, and killed one. The old configuration, two
    /// voters with the dead one among them, still decided too, so no election succeeded.
    #[test]
    fn a_member_that_a_change_makes_a_voter_is_none_before_its_end() {
        let shown = |configs: Vec<BTreeSet<NodeId>>| -> Vec<NodeId> {
            let membership =
                Membership::new(configs, BTreeMap::from([1, 2, 3].map(|id| (id, peer()))))
                    .expect("every voter has an address");
            (1..=3).filter(|id| votes(&membership, *id)).collect()
        };
        let (two, three) = (BTreeSet::from([1, 2]), BTreeSet::from([1, 2, 3]));
        assert_eq!(shown(vec![two.clone()]), [1, 2]);
        assert_eq!(shown(vec![two.clone(), three.clone()]), [1, 2]);
        assert_eq!(shown(vec![three.clone()]), [1, 2, 3]);
        assert_eq!(shown(vec![three, two]), [1, 2]);
    }

    fn peer() -> Peer {
        let addr = "127.0.0.1:1".to_owned();
        Peer { raft: addr.clone(), http: addr, directory: Uuid::nil() }
    }
}
