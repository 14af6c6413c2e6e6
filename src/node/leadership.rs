//! Proving that this node leads (Raft §6.4), by a round of questions that only a vote can answer.
//!
//! The leader notes how far it has committed, and asks every voter whether it has gone on to another ballot. Once a
//! majority has not, nobody else can have been elected before the question was asked: whoever was has the ballots of a
//! majority, and the two majorities have a voter in common. Voters keep their ballots over crashes, and the
//! connection says whether the one that answers has the disk that the leader means. So what was committed when
//! the read was asked is in the leader's log.
//!
//! openraft has this built in (`ReadPolicy::ReadIndex`), and in 0.10.0-alpha.37 it can be wrong. It takes the answer to
//! an append for an answer to all appends that end at the same entry, the announcements of a commit too, which carry
//! none. When answers are late, that counts one from before the read, and before an election, as given after it. (Found by
//! reading, shown by simulation: `sim/bugs/read-proved-by-an-older-answer.patch`.)

use std::time::Duration;

use futures_util::StreamExt;
use futures_util::stream::FuturesUnordered;
use openraft::ServerState;

use super::{Node, RETRY_PAUSE, Running, clock};
use crate::env::{Env, rt};
use crate::raft::network::message::{Request, Response};
use crate::raft::{Ballot, Membership, NodeId};

/// Questions that a voter may leave unanswered and still be asked at once.
const UNANSWERED_MAX: usize = 32;

/// What a leader knows when it is asked.
struct Claim {
    leadership: Ballot,
    /// Everything that was committed when it was asked is at or before this index.
    index: u64,
    membership: std::sync::Arc<Membership>,
}

impl<E: Env> Node<E> {
    /// An index at or after everything that was committed when this was called, once a majority has said that
    /// this node leads. `None` if it does not, or not provably.
    pub(super) async fn prove_leadership(
        &self,
        running: &Running<E>,
        limit: Duration,
    ) -> Option<u64> {
        let Claim { leadership, index, membership } = self.claim(running).await?;
        let membership = membership.membership();
        // This node has not voted for another: it leads.
        let mut agreed = vec![self.id()];
        let mut answers: FuturesUnordered<_> = membership
            .voter_ids()
            .filter(|voter| *voter != self.id())
            .map(|voter| {
                let peer = membership.get_node(&voter);
                let channel = peer.map(|peer| running.network.control(voter, peer));
                async move {
                    let channel = channel?;
                    if channel.waiting().is_none_or(|waiting| waiting > UNANSWERED_MAX) {
                        // Connecting may take long, and the others are enough most of the time. Rounds end with the
                        // fastest majority, and a voter that stands still would gather the questions of all of them.
                        rt::sleep::<E>(RETRY_PAUSE).await;
                    }
                    let answer = channel.call(Request::ConfirmLeader(leadership), limit).await;
                    let Ok(Response::LeaderConfirmed { confirmed: true, clock }) = answer else {
                        return None;
                    };
                    let term = leadership.leader_id.term;
                    self.inner.clocks.note(term, voter, clock, rt::now::<E>());
                    Some(voter)
                }
            })
            .collect();
        let configs = membership.get_joint_config();
        let is_majority = |agreed: &[NodeId]| {
            configs.iter().all(|config| {
                let count = agreed.iter().filter(|voter| config.contains(voter)).count();
                count * 2 > config.len()
            })
        };
        while !is_majority(&agreed) {
            agreed.extend(answers.next().await?);
        }
        Some(index)
    }

    async fn claim(&self, running: &Running<E>) -> Option<Claim> {
        let id = self.id();
        let claim = running.raft.with_raft_state(move |state| {
            let leadership = *state.vote_ref();
            // The ballot alone does not say so: a leader that completed its own removal keeps it when it is started
            // again, leads no more, and knows less of what it committed than it did.
            let leads = state.server_state == ServerState::Leader;
            if !leads || !leadership.committed || leadership.leader_id.voted_for != id {
                return None;
            }
            // Until it has committed an entry of its own, a leader does not know how far its predecessors had. Not
            // beyond its log, though (leader completeness, Raft §5.4).
            let committed = state.local_committed().copied();
            let own = committed.filter(|committed| {
                committed.committed_leader_id().term == leadership.leader_id.term
            });
            let index = own.or_else(|| state.log_ids.last().copied())?.index;
            let membership = std::sync::Arc::clone(state.membership_state.effective());
            Some(Claim { leadership, index, membership })
        });
        claim.await.ok().flatten()
    }

    /// Whether this node has not gone on to another ballot than the one that made `leadership`: a voter's end of
    /// [`prove_leadership`](Self::prove_leadership).
    pub(super) async fn confirm_leader(&self, leadership: Ballot) -> Response<E> {
        let unavailable = || Response::Unavailable("consensus does not run".to_owned());
        let Some(running) = self.running() else { return unavailable() };
        // Ballots of one term for different nodes have no order, and then this is false.
        let confirmed = running.raft.with_raft_state(move |state| *state.vote_ref() <= leadership);
        let clock = clock::wall(&self.inner.env);
        confirmed.await.map_or_else(
            |_| unavailable(),
            |confirmed| Response::LeaderConfirmed { confirmed, clock },
        )
    }
}
