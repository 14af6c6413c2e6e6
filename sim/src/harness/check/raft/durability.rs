//! What is on stable storage, and what a node finds there when it starts.

use std::collections::{BTreeMap, BTreeSet};

use yakt::raft::observe::{Recovered, Stored};
use yakt::raft::{Ballot, EntryId, NodeId};

use super::log::Log;
use super::{Checked, Known, RaftCheck, ensure, rank};

impl RaftCheck {
    /// The disk of `node` is gone, and everything on it.
    pub fn disk_lost(&mut self, node: NodeId) {
        if let Some(known) = self.nodes.remove(&node) {
            self.lost.insert(node, known.disk);
        }
    }

    /// The directory of `node` has forgotten some of its contents.
    pub fn relapsed(&mut self, node: NodeId) {
        if let Some(known) = self.nodes.remove(&node) {
            self.relapsed.insert(node, known);
        }
    }

    /// Whether directories forgot more than Raft can tolerate.
    #[must_use]
    pub fn has_forked(&self) -> bool {
        self.forked
    }

    /// Judges the remaining contents of the directory of `node`, which has forgotten something. The
    /// history may fork in two cases. Either a committed entry is on too few disks for every
    /// majority to have it, or a vote is forgotten whose term may be decided again.
    fn judge_relapse(&mut self, node: NodeId, before: &Known) {
        let Some(now) = self.nodes.get(&node) else { return };
        let last_term = self.leaders.last_key_value().map_or(0, |(term, _)| *term);
        let vote_lost = rank(now.vote) < rank(before.vote) && rank(before.vote).0 >= last_term;
        let holders = |id: EntryId| {
            let holds = |known: &&Known| {
                known.disk.holds(id) || known.snapshot.is_some_and(|last| last.index >= id.index)
            };
            let waiting = self.relapsed.keys().count();
            self.nodes.values().filter(holds).count().saturating_sub(waiting)
        };
        let voters = self.voters().iter().map(BTreeSet::len).max().unwrap_or(1);
        let enough = voters - voters / 2;
        let entry_lost = self.committed.values().any(|committed| holders(committed.entry) < enough);
        self.forked |= vote_lost || entry_lost;
    }

    /// `node` starts and finds this on its disk.
    ///
    /// # Errors
    ///
    /// The promise that is broken.
    pub fn recovered(&mut self, node: NodeId, found: &Recovered) -> Checked {
        let known = self.nodes.get(&node).cloned().unwrap_or_default();
        let relapsed = self.relapsed.remove(&node);
        ensure(rank(found.vote) >= rank(known.vote), || {
            format!(
                "durability: node {node} had saved the vote {:?} and finds {:?}",
                known.vote, found.vote
            )
        })?;
        ensure(found.snapshot.map(|id| id.index) >= known.snapshot.map(|id| id.index), || {
            format!(
                "durability: node {node} had a snapshot up to {:?} and finds one up to {:?}",
                known.snapshot, found.snapshot
            )
        })?;
        let mut disk = Log { purged: found.purged, entries: BTreeMap::new() };
        for entry in &found.entries {
            disk.entries.insert(entry.log_id.index, entry.log_id);
        }
        for (index, id) in &known.disk.entries {
            // The last writes may have reached the disk without anybody having heard of it: a truncation
            // and what was appended after it among them. Only then may an entry have given way.
            let there = disk.holds(*id)
                || disk.entries.get(index).is_some_and(|other| other.leader_id > id.leader_id)
                || self.given_way(node, *id, &disk, known.owed);
            ensure(there, || {
                format!(
                    "durability: node {node} had stored {id} and finds {:?} there",
                    disk.entries.get(index)
                )
            })?;
        }
        for (index, id) in &disk.entries {
            let committed = self.committed.get(index).map(|committed| committed.entry);
            let stale = committed.is_some_and(|committed| committed != *id)
                && known.memory.entries.get(index).is_some_and(|memory| memory != id)
                && known.disk.entries.get(index) != Some(id);
            ensure(!stale, || {
                format!(
                    "durability: node {node} finds {id}, which it had removed, where {committed:?} is committed"
                )
            })?;
        }
        for entry in &found.entries {
            self.note_entry(node, entry, None)?;
        }
        // A ballot may have reached the disk without anybody having heard of it.
        if let Some(ballot) = found.vote.filter(|vote| !vote.committed) {
            self.voted(node, ballot)?;
        }
        let applied = None;
        let committed = found.committed.map(|id| id.index);
        self.nodes.insert(
            node,
            Known {
                memory: disk.clone(),
                disk,
                vote: found.vote,
                snapshot: found.snapshot,
                committed,
                applied,
                owed: None,
            },
        );
        if let Some(before) = relapsed {
            self.judge_relapse(node, &before);
        }
        Ok(())
    }

    /// Whether `id` may be missing from `disk` because it was truncated: it was never committed or was `owed`, and a
    /// truncation that was under way when the node died may have reached the disk.
    fn given_way(&self, node: NodeId, id: EntryId, disk: &Log, owed: Option<(u64, u64)>) -> bool {
        let committed =
            self.committed.get(&id.index).is_some_and(|committed| committed.entry == id);
        let owed = owed.is_some_and(|(from, to)| (from..=to).contains(&id.index));
        let was_truncated = self.nodes.get(&node).is_none_or(|known| !known.memory.holds(id));
        (!committed && was_truncated || owed) && disk.last_index() < Some(id.index)
    }

    /// `changes` of `node` are on stable storage.
    ///
    /// # Errors
    ///
    /// The promise that is broken.
    pub fn stored(&mut self, node: NodeId, changes: &[Stored]) -> Checked {
        let known = self.nodes.entry(node).or_default();
        let mut ballots = Vec::new();
        for change in changes {
            match change {
                Stored::Entries(ids) => {
                    self.lost.remove(&node);
                    known.disk.entries.extend(ids.iter().map(|id| (id.index, *id)));
                }
                Stored::Vote(vote) => {
                    ensure(rank(Some(*vote)) >= rank(known.vote), || {
                        format!("monotony: node {node} voted {:?} and now {vote}", known.vote)
                    })?;
                    // A candidate that lost follows the winner of the same term: that is no second vote.
                    let changed = !vote.committed
                        && known.vote.is_some_and(|before| {
                            before.leader_id.term == vote.leader_id.term
                                && before.leader_id.voted_for != vote.leader_id.voted_for
                        });
                    ensure(!changed, || {
                        format!(
                            "election safety: node {node} voted {:?} and {vote} in one term",
                            known.vote
                        )
                    })?;
                    known.vote = Some(*vote);
                    ballots.push(*vote);
                }
                Stored::TruncatedFrom(index) => drop(known.disk.entries.split_off(index)),
                Stored::Purged(upto) => known.disk.purge(*upto),
                Stored::Snapshot(last) => {
                    ensure(last.map(|id| id.index) > known.snapshot.map(|id| id.index), || {
                        format!(
                            "monotony: node {node} replaced its snapshot up to {:?} by one up to {last:?}",
                            known.snapshot
                        )
                    })?;
                    known.snapshot = *last;
                }
            }
        }
        ballots.into_iter().try_for_each(|ballot| self.voted(node, ballot))
    }

    /// `node` answered a request for its vote.
    ///
    /// # Errors
    ///
    /// The promise that is broken.
    pub fn vote_answered(&mut self, node: NodeId, vote: Ballot, granted: bool) -> Checked {
        let saved = self.nodes.entry(node).or_default().vote;
        ensure(!granted || rank(saved) >= rank(Some(vote)), || {
            format!(
                "durability: node {node} grants its vote to {vote}, and has only {saved:?} on disk"
            )
        })
    }
}
