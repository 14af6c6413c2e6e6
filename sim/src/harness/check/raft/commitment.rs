//! What is committed, on whose disks, and what is made of it.

use std::collections::BTreeSet;

use yakt::raft::{EntryId, Membership, NodeId, Term};

use super::super::liveness::is_unrecoverable;
use super::{Checked, Committed, RaftCheck, Voters, ensure, voter_sets};

impl RaftCheck {
    /// Who may vote: by the last membership that is committed, and by those behind it that some node has in its log and
    /// that may be committed still. Each of the sets needs a majority for the cluster to go on.
    ///
    /// An entry of an older term than what is committed before it never will be: whoever leads has what is committed, and
    /// the terms of a log only rise (Raft §5.4). Were it counted, what a deposed leader has left on one node could excuse
    /// a cluster whose voters all have their disks.
    #[must_use]
    pub fn voters(&self) -> Vec<BTreeSet<NodeId>> {
        let last = self.committed.last_key_value();
        let (committed, leader) =
            last.map_or((0, None), |(index, last)| (*index, Some(last.entry.leader_id)));
        let last = self.voters_up_to(committed, None);
        let later = self.voters.range((committed + 1, 0)..).map(|(_, voters)| voters);
        let later = later
            .filter(|voters| Some(voters.entry.leader_id) >= leader)
            .filter(|voters| self.nodes.values().any(|known| known.memory.holds(voters.entry)));
        let sets = last.into_iter().chain(later).flat_map(|voters| &voters.sets);
        sets.map(|set| set.iter().copied().collect()).collect()
    }

    /// Whether no majority of some set of voters is left: those in `rotten` cannot read their disks, and those in
    /// `replaced` have lost theirs. Who was replaced counts again as soon as its new disk holds anything of the log: only
    /// members are sent that, and voters are not made of others.
    #[must_use]
    pub fn is_unrecoverable(&self, rotten: &BTreeSet<NodeId>, replaced: &BTreeSet<NodeId>) -> bool {
        let has_nothing = |id: &&NodeId| {
            self.nodes
                .get(id)
                .is_none_or(|known| known.disk.last_index().is_none() && known.snapshot.is_none())
        };
        let replaced = replaced.iter().filter(has_nothing);
        let destroyed = rotten.iter().chain(replaced).copied().collect();
        self.voters().iter().any(|voters| is_unrecoverable(voters, &destroyed))
    }

    /// The last committed membership up to `index`, if `entry` is not one itself. What a deposed leader appended there
    /// counts for nothing. (Found by simulation: swarm, seed 710000073.)
    fn voters_up_to(&self, index: u64, entry: Option<EntryId>) -> Option<&Voters> {
        let is_committed = |id: EntryId| {
            entry == Some(id)
                || self.committed.get(&id.index).is_some_and(|known| known.entry == id)
        };
        let before = self.voters.range(..=(index, Term::MAX)).rev().map(|(_, voters)| voters);
        before.into_iter().find(|voters| is_committed(voters.entry))
    }

    /// The highest index that was said to be committed.
    #[must_use]
    pub fn committed(&self) -> Option<u64> {
        self.committed.last_key_value().map(|(index, _)| *index)
    }

    /// `node` learned that the log is committed up to `id`.
    ///
    /// # Errors
    ///
    /// The promise that is broken.
    pub fn committed_at(&mut self, node: NodeId, id: EntryId) -> Checked {
        let known = self.nodes.entry(node).or_default();
        ensure(known.committed <= Some(id.index), || {
            format!(
                "monotony: node {node}'s commit index goes back from {:?} to {id}",
                known.committed
            )
        })?;
        let is_there = known.memory.holds(id)
            || known.snapshot.is_some_and(|snapshot| snapshot.index >= id.index);
        known.committed = Some(id.index);
        let in_term = known.vote.map_or(0, |vote| vote.leader_id.term);
        let log = known.memory.clone_range(
            self.committed.last_key_value().map_or(0, |(index, _)| index + 1),
            id.index,
        );
        let is_new = match self.committed.get(&id.index) {
            Some(other) if other.entry != id => {
                let other = other.entry;
                return Err(format!(
                    "immutability: node {node} holds {id} for committed, others {other}"
                ));
            }
            other => other.is_none(),
        };
        ensure(is_there, || format!("order: node {node} commits {id}, which is not in its log"))?;
        if !is_new {
            return Ok(());
        }
        for (index, entry) in log {
            self.check_quorum(node, entry, None)?;
            self.committed.insert(index, Committed { entry, in_term });
        }
        Ok(())
    }

    /// Whether enough voters hold `entry` on stable storage; or, if it is to be safe `without` one of them, enough others
    /// that are not giving it up themselves.
    pub(super) fn check_quorum(
        &self,
        node: NodeId,
        entry: EntryId,
        without: Option<NodeId>,
    ) -> Checked {
        let valid = |voters: &&Voters| {
            voters.sets.iter().all(|set| {
                let others = set.iter().filter(|voter| Some(**voter) != without);
                let holders = others.filter(|voter| {
                    let had = self.lost.get(voter).is_some_and(|disk| disk.holds(entry))
                        || self.relapsed.get(voter).is_some_and(|known| known.disk.holds(entry));
                    had || self.nodes.get(voter).is_some_and(|known| {
                        let stays = without.is_none() || known.memory.holds(entry);
                        stays && known.disk.holds(entry)
                            || known.snapshot.is_some_and(|snapshot| snapshot.index >= entry.index)
                    })
                });
                2 * holders.count() > set.len()
            })
        };
        let before = self.voters_up_to(entry.index, Some(entry));
        // A leader counts votes by the last membership in its log, which is of no earlier term.
        let after = self.voters.range((entry.index + 1, 0)..).map(|(_, voters)| voters);
        let after = after.filter(|voters| voters.entry.leader_id >= entry.leader_id);
        let mut candidates = before.into_iter().chain(after);
        ensure(candidates.any(|voters| valid(&voters)), || {
            let holders: Vec<_> = self
                .nodes
                .iter()
                .filter(|(_, known)| known.disk.holds(entry))
                .map(|(id, _)| *id)
                .collect();
            let voters = before.map(|voters| (&voters.entry, &voters.sets));
            format!(
                "commitment: node {node} holds {entry} for committed, which only the disks of {holders:?} have (voters {voters:?})"
            )
        })
    }

    /// `node` applied `id`.
    ///
    /// # Errors
    ///
    /// The promise that is broken.
    pub fn applied(&mut self, node: NodeId, id: EntryId) -> Checked {
        let known = self.nodes.entry(node).or_default();
        ensure(known.applied.is_none_or(|applied| applied + 1 == id.index), || {
            format!("monotony: node {node} applies {id} after {:?}", known.applied)
        })?;
        known.applied = Some(id.index);
        ensure(known.committed >= Some(id.index), || {
            format!(
                "order: node {node} applies {id} and holds only {:?} for committed",
                known.committed
            )
        })?;
        ensure(known.memory.holds(id), || {
            format!("order: node {node} applies {id}, which is not in its log")
        })?;
        match self.committed.get(&id.index) {
            Some(committed) => ensure(committed.entry == id, || {
                format!(
                    "immutability: node {node} applies {id} where {} was committed",
                    committed.entry
                )
            }),
            None => Err(format!("order: node {node} applies {id}, which nobody has committed")),
        }
    }

    /// The snapshot that `node` installed says who the members are: by the last membership that it covers.
    ///
    /// # Errors
    ///
    /// The promise that is broken.
    pub fn installed_members(&self, node: NodeId, last: EntryId, members: &Membership) -> Checked {
        let told = (members.log_id(), voter_sets(members.membership()));
        let known = self.voters_up_to(last.index, None);
        let known = known.map(|voters| (Some(voters.entry), voters.sets.clone()));
        ensure(known.as_ref() == Some(&(told.0.to_owned(), told.1.clone())), || {
            format!(
                "snapshot: node {node} installs one of {last} with the membership {told:?}, and the last before was {known:?}"
            )
        })
    }

    /// `node` replaced its metadata by a snapshot that ends at `last`.
    ///
    /// # Errors
    ///
    /// The promise that is broken.
    pub fn installed(&mut self, node: NodeId, last: EntryId) -> Checked {
        let known = self.nodes.entry(node).or_default();
        ensure(known.applied <= Some(last.index), || {
            format!(
                "monotony: node {node} had applied {:?} and installs a snapshot of {last}",
                known.applied
            )
        })?;
        known.applied = Some(last.index);
        known.committed = known.committed.max(Some(last.index));
        known.owed = known.owed.filter(|(_, to)| *to > last.index);
        ensure(known.snapshot.is_some_and(|snapshot| snapshot.index >= last.index), || {
            format!("order: node {node} works with a snapshot of {last} that is not on its disk")
        })?;
        match self.committed.get(&last.index) {
            Some(committed) => ensure(committed.entry == last, || {
                format!(
                    "immutability: node {node} installs a snapshot of {last} where {} was committed",
                    committed.entry
                )
            }),
            None => Err(format!(
                "order: node {node} installs a snapshot of {last}, which nobody has committed"
            )),
        }
    }
}
