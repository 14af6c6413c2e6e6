//! Who votes for whom, and whether that makes a leader.

use yakt::raft::{Ballot, NodeId};

use super::{Checked, RaftCheck, Voters, ensure};

impl RaftCheck {
    /// `ballot` of `node` is on stable storage: its vote, or that it leads.
    ///
    /// # Errors
    ///
    /// The promise that is broken.
    pub(super) fn voted(&mut self, node: NodeId, ballot: Ballot) -> Checked {
        let (term, candidate) = (ballot.leader_id.term, ballot.leader_id.voted_for);
        if !ballot.committed {
            self.ballots.entry((term, candidate)).or_default().insert(node);
            return Ok(());
        }
        if candidate != node {
            return Ok(());
        }
        let voted = self.ballots.get(&(term, node)).cloned().unwrap_or_default();
        let voters = self.last_voters(node);
        let won = voters.is_some_and(|voters| {
            voters.sets.iter().all(|set| {
                let count = set.iter().filter(|voter| voted.contains(voter)).count();
                2 * count > set.len()
            })
        });
        ensure(won, || {
            format!(
                "election safety: node {node} leads term {term} by the votes of {voted:?}, and the voters are {:?}",
                voters.map(|voters| (voters.entry, &voters.sets))
            )
        })
    }

    /// The last membership in the log of `node`, in memory: the one that it counts votes by.
    fn last_voters(&self, node: NodeId) -> Option<&Voters> {
        let log = &self.nodes.get(&node)?.memory;
        let purged = log.purged.map(|purged| purged.index);
        let is_there = |voters: &&Voters| {
            let id = voters.entry;
            if purged >= Some(id.index) {
                self.committed.get(&id.index).is_some_and(|known| known.entry == id)
            } else {
                log.entries.get(&id.index) == Some(&id)
            }
        };
        self.voters.values().rev().find(is_there)
    }
}
