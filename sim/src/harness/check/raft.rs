//! Layer 1: what Raft promises, checked at every step of every node (Raft §5, figure 3).
//!
//! The checker keeps a model of each node's log, in memory and on disk, from the steps that the node's
//! observer shows; nothing is asked of the node. The promises:
//!
//! - **Election safety**: no two nodes lead in one term.
//! - **Log matching**: an entry is determined by its term and index, and so is the one before it.
//! - **Leader completeness**: a leader's log has everything that was committed in the terms before.
//! - **Commitment**: when an entry is first said to be committed, a majority of the voters hold it on
//!   stable storage, by the membership it falls under or a later one that is in the log already.
//! - **Immutability**: what was committed at an index is never another entry, and is never truncated.
//! - **Monotony**: a node's vote, commit, applied and purge points never go back within a life; the vote
//!   and the log never across lives.
//! - **Durability**: a restart finds all that was reported stable, and no entries that were reported gone.
//!   A granted vote is on disk before it is answered.
//! - **Order**: purged ≤ snapshot ≤ applied ≤ committed ≤ last, at every step.

use std::collections::btree_map::Entry;
use std::collections::{BTreeMap, BTreeSet};

use openraft::EntryPayload;
use yakt::codec;
use yakt::raft::observe::{Recovered, Stored};
use yakt::raft::{Ballot, EntryId, LogEntry, NodeId, Term};

use crate::trace::fnv1a;

/// A log as far as it matters here: which entry is at which index.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
struct Log {
    purged: Option<EntryId>,
    entries: BTreeMap<u64, EntryId>,
}

impl Log {
    fn last_index(&self) -> Option<u64> {
        let last = self.entries.last_key_value().map(|(index, _)| *index);
        last.max(self.purged.map(|purged| purged.index))
    }

    fn purge(&mut self, upto: EntryId) {
        self.purged = self.purged.max(Some(upto));
        self.entries = self.entries.split_off(&(upto.index + 1));
    }

    /// Whether the log has `id`, or has forgotten that index.
    fn holds(&self, id: EntryId) -> bool {
        self.purged.is_some_and(|purged| purged.index >= id.index)
            || self.entries.get(&id.index) == Some(&id)
    }
}

/// What the checker knows of one node.
#[derive(Clone, Debug, Default)]
struct Known {
    memory: Log,
    disk: Log,
    vote: Option<Ballot>,
    snapshot: Option<EntryId>,
    committed: Option<u64>,
    applied: Option<u64>,
}

/// Who may vote, at a place in the log.
#[derive(Clone, Debug)]
struct Voters {
    entry: EntryId,
    /// One set, or two during a change (Raft §6): a majority of each is needed.
    sets: Vec<Vec<NodeId>>,
}

/// An entry that was said to be committed.
#[derive(Clone, Copy, Debug)]
struct Committed {
    entry: EntryId,
    /// The term of whoever said so first: no smaller than the one it was committed in.
    in_term: Term,
}

/// All nodes' logs, past and present.
#[derive(Clone, Debug, Default)]
pub struct RaftCheck {
    nodes: BTreeMap<NodeId, Known>,
    leaders: BTreeMap<Term, NodeId>,
    /// What is known of each entry: a digest of its contents, and the entry before it.
    entries: BTreeMap<EntryId, (u64, Option<EntryId>)>,
    committed: BTreeMap<u64, Committed>,
    voters: BTreeMap<u64, Voters>,
    /// What was on disks that were lost and have no successor yet. An entry is committed once a majority has stored
    /// it, whatever becomes of their disks afterwards; the leader may hear of it later than of the loss.
    lost: BTreeMap<NodeId, Log>,
}

type Checked = Result<(), String>;

/// A vote's place in the order of votes: a later term, then an elected leader over a candidate.
fn rank(vote: Option<Ballot>) -> (Term, bool) {
    vote.map_or((0, false), |vote| (vote.leader_id.term, vote.committed))
}

fn ensure(holds: bool, what: impl FnOnce() -> String) -> Checked {
    if holds { Ok(()) } else { Err(what()) }
}

impl RaftCheck {
    /// How many terms had a leader.
    #[must_use]
    pub fn leaders(&self) -> u64 {
        self.leaders.len() as u64
    }

    /// The index up to which `node` has forgotten its log; 0 if it has all of it.
    #[must_use]
    pub fn purge_point(&self, node: NodeId) -> u64 {
        self.nodes.get(&node).and_then(|known| known.memory.purged).map_or(0, |purged| purged.index)
    }

    /// The disk of `node` is gone, and everything on it.
    pub fn disk_lost(&mut self, node: NodeId) {
        if let Some(known) = self.nodes.remove(&node) {
            self.lost.insert(node, known.disk);
        }
    }

    /// The highest index that was said to be committed.
    #[must_use]
    pub fn committed(&self) -> Option<u64> {
        self.committed.last_key_value().map(|(index, _)| *index)
    }

    /// Who may vote: by the last membership that is committed, and by those behind it that some node has in its log.
    /// Each of the sets needs a majority for the cluster to go on.
    #[must_use]
    pub fn voters(&self) -> Vec<BTreeSet<NodeId>> {
        let committed = self.committed().unwrap_or(0);
        let last = self.voters.range(..=committed).next_back().map(|(_, voters)| voters);
        let later = self.voters.range(committed + 1..).map(|(_, voters)| voters);
        let later = later
            .filter(|voters| self.nodes.values().any(|known| known.memory.holds(voters.entry)));
        let sets = last.into_iter().chain(later).flat_map(|voters| &voters.sets);
        sets.map(|set| set.iter().copied().collect()).collect()
    }

    /// `node` leads `term`. Says whether that is news.
    ///
    /// # Errors
    ///
    /// The promise that is broken.
    pub fn leads(&mut self, node: NodeId, term: Term) -> Result<bool, String> {
        match self.leaders.entry(term) {
            Entry::Occupied(known) if *known.get() == node => return Ok(false),
            Entry::Occupied(known) => {
                return Err(format!(
                    "election safety: node {} and node {node} both led term {term}",
                    known.get()
                ));
            }
            Entry::Vacant(vacant) => drop(vacant.insert(node)),
        }
        let log = &self.nodes.entry(node).or_default().memory;
        let before = self.committed.values().rev().find(|committed| committed.in_term < term);
        if let Some(Committed { entry, .. }) = before {
            ensure(log.holds(*entry), || {
                format!(
                    "leader completeness: node {node} leads term {term} without {entry}, which was committed before"
                )
            })?;
        }
        Ok(true)
    }

    /// `node` starts and finds this on its disk.
    ///
    /// # Errors
    ///
    /// The promise that is broken.
    pub fn recovered(&mut self, node: NodeId, found: &Recovered) -> Checked {
        let known = self.nodes.get(&node).cloned().unwrap_or_default();
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
                || self.given_way(*id, &disk);
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
            },
        );
        Ok(())
    }

    /// Whether `id` may be missing from `disk` because it was truncated: it was never committed, and a
    /// truncation that was under way when the node died may have reached the disk.
    fn given_way(&self, id: EntryId, disk: &Log) -> bool {
        let committed =
            self.committed.get(&id.index).is_some_and(|committed| committed.entry == id);
        !committed && disk.last_index() < Some(id.index)
    }

    /// `node` appended `entries` in memory.
    ///
    /// # Errors
    ///
    /// The promise that is broken.
    pub fn appended(&mut self, node: NodeId, entries: &[LogEntry]) -> Checked {
        for entry in entries {
            let log = &self.nodes.entry(node).or_default().memory;
            let id = entry.log_id;
            let before = match id.index.checked_sub(1) {
                Some(index) => log
                    .entries
                    .get(&index)
                    .copied()
                    .or(log.purged.filter(|purged| purged.index == index)),
                None => None,
            };
            ensure(log.last_index().map_or(0, |last| last + 1) == id.index, || {
                format!(
                    "log matching: node {node} appends {id} to a log that ends at {:?}",
                    log.last_index()
                )
            })?;
            self.note_entry(node, entry, before)?;
            if let Some(log) = self.nodes.get_mut(&node) {
                log.memory.entries.insert(id.index, id);
            }
        }
        Ok(())
    }

    fn note_entry(&mut self, node: NodeId, entry: &LogEntry, before: Option<EntryId>) -> Checked {
        let id = entry.log_id;
        let digest = fnv1a(&codec::encode_versioned(&entry.payload));
        let (known, previous) = self.entries.entry(id).or_insert((digest, before));
        ensure(*known == digest, || {
            format!("log matching: node {node} has another entry {id} than others")
        })?;
        if let (Some(previous), Some(before)) = (*previous, before) {
            ensure(previous == before, || {
                format!("log matching: before {id}, node {node} has {before} and others {previous}")
            })?;
        }
        *previous = previous.or(before);
        if let EntryPayload::Membership(membership) = &entry.payload {
            let sets = membership.get_joint_config().iter();
            let sets = sets.map(|set| set.iter().copied().collect()).collect();
            self.voters.insert(id.index, Voters { entry: id, sets });
        }
        Ok(())
    }

    /// `node` removed its log from index `from` on, in memory.
    ///
    /// # Errors
    ///
    /// The promise that is broken.
    pub fn truncated(&mut self, node: NodeId, from: u64) -> Checked {
        let known = self.nodes.entry(node).or_default();
        let removed = known.memory.entries.split_off(&from);
        for (index, id) in removed {
            let committed =
                self.committed.get(&index).is_some_and(|committed| committed.entry == id);
            ensure(!committed, || {
                format!("immutability: node {node} truncates {id}, which was committed")
            })?;
        }
        Ok(())
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
        known.committed = Some(id.index);
        let in_term = known.vote.map_or(0, |vote| vote.leader_id.term);
        let log = known.memory.clone_range(
            self.committed.last_key_value().map_or(0, |(index, _)| index + 1),
            id.index,
        );
        if let Some(other) = self.committed.get(&id.index) {
            return ensure(other.entry == id, || {
                format!(
                    "immutability: node {node} holds {id} for committed, others {}",
                    other.entry
                )
            });
        }
        for (index, entry) in log {
            self.check_quorum(node, entry)?;
            self.committed.insert(index, Committed { entry, in_term });
        }
        Ok(())
    }

    /// Whether enough voters hold `entry` on stable storage.
    fn check_quorum(&self, node: NodeId, entry: EntryId) -> Checked {
        let valid = |voters: &&Voters| {
            voters.sets.iter().all(|set| {
                let holders = set.iter().filter(|voter| {
                    let had = self.lost.get(voter).is_some_and(|disk| disk.holds(entry));
                    had || self.nodes.get(voter).is_some_and(|known| {
                        known.disk.holds(entry)
                            || known.snapshot.is_some_and(|snapshot| snapshot.index >= entry.index)
                    })
                });
                2 * holders.count() > set.len()
            })
        };
        let mut candidates = self
            .voters
            .range(..=entry.index)
            .next_back()
            .map(|(_, voters)| voters)
            .into_iter()
            .chain(self.voters.range(entry.index + 1..).map(|(_, voters)| voters))
            .peekable();
        if candidates.peek().is_none() {
            // The first membership of all is written before there is a log to speak of.
            return Ok(());
        }
        ensure(candidates.any(|voters| valid(&voters)), || {
            let holders: Vec<_> = self
                .nodes
                .iter()
                .filter(|(_, known)| known.disk.holds(entry))
                .map(|(id, _)| *id)
                .collect();
            let voters = self
                .voters
                .range(..=entry.index)
                .next_back()
                .map(|(_, voters)| (&voters.entry, &voters.sets));
            format!(
                "commitment: node {node} holds {entry} for committed, which only the disks of {holders:?} have (voters {voters:?})"
            )
        })
    }

    /// `node` forgot its log up to `upto`.
    ///
    /// # Errors
    ///
    /// The promise that is broken.
    pub fn purged(&mut self, node: NodeId, upto: EntryId) -> Checked {
        let known = self.nodes.entry(node).or_default();
        ensure(known.snapshot.is_some_and(|snapshot| snapshot.index >= upto.index), || {
            format!(
                "order: node {node} purges up to {upto}, and its snapshot ends at {:?}",
                known.snapshot
            )
        })?;
        known.memory.purge(upto);
        Ok(())
    }

    /// `changes` of `node` are on stable storage.
    ///
    /// # Errors
    ///
    /// The promise that is broken.
    pub fn stored(&mut self, node: NodeId, changes: &[Stored]) -> Checked {
        let known = self.nodes.entry(node).or_default();
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
                }
                Stored::TruncatedFrom(index) => drop(known.disk.entries.split_off(index)),
                Stored::Purged(upto) => known.disk.purge(*upto),
                Stored::Snapshot(last) => {
                    if last.map(|id| id.index) > known.snapshot.map(|id| id.index) {
                        known.snapshot = *last;
                    }
                }
            }
        }
        Ok(())
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

impl Log {
    fn clone_range(&self, from: u64, to: u64) -> Vec<(u64, EntryId)> {
        if from > to {
            return Vec::new();
        }
        self.entries.range(from..=to).map(|(index, id)| (*index, *id)).collect()
    }
}

#[cfg(test)]
mod tests {
    use openraft::vote::RaftLeaderId;
    use yakt::metadata::{Change, Command, Timestamp};
    use yakt::raft::{Leader, Payload, SharedCommand};

    use super::*;

    fn id(term: u64, index: u64) -> EntryId {
        EntryId { leader_id: Leader { term, voted_for: 1 }.to_committed(), index }
    }

    fn ballot(term: u64, node: u64) -> Ballot {
        Ballot::new(term, node)
    }

    fn entry(term: u64, index: u64, clock: u64) -> LogEntry {
        let clock = Timestamp::from_micros(clock);
        let command = Command { clock, idempotency: None, change: Change::Tick };
        LogEntry {
            log_id: id(term, index),
            payload: Payload::Normal(SharedCommand(command.into())),
        }
    }

    fn members(index: u64, voters: &[u64]) -> LogEntry {
        let peer = |name: &str| yakt::raft::Peer {
            raft: name.to_owned(),
            http: name.to_owned(),
            directory: yakt::metadata::Uuid::nil(),
        };
        let nodes: BTreeMap<_, _> = voters.iter().map(|id| (*id, peer("n"))).collect();
        let set: BTreeSet<_> = voters.iter().copied().collect();
        let membership = openraft::Membership::new(vec![set], nodes).unwrap();
        LogEntry { log_id: id(1, index), payload: EntryPayload::Membership(membership) }
    }

    /// Three voters whose logs hold the membership and one entry, on the disks of `stored`.
    fn cluster(stored: &[u64]) -> RaftCheck {
        let mut check = RaftCheck::default();
        for node in 1..=3 {
            check.appended(node, &[members(0, &[1, 2, 3]), entry(1, 1, 5)]).unwrap();
        }
        for node in stored {
            check.stored(*node, &[Stored::Entries(vec![id(1, 0), id(1, 1)])]).unwrap();
        }
        check
    }

    #[test]
    fn a_healthy_history_passes() {
        let mut check = cluster(&[1, 2]);
        check.stored(1, &[Stored::Vote(ballot(1, 1))]).unwrap();
        check.vote_answered(1, ballot(1, 1), true).unwrap();
        check.leads(1, 1).unwrap();
        check.committed_at(1, id(1, 1)).unwrap();
        check.applied(1, id(1, 0)).unwrap();
        check.applied(1, id(1, 1)).unwrap();
        check.stored(1, &[Stored::Snapshot(Some(id(1, 1)))]).unwrap();
        check.purged(1, id(1, 0)).unwrap();
        check.leads(2, 2).unwrap();
    }

    #[test]
    fn two_leaders_of_one_term_are_caught() {
        let mut check = RaftCheck::default();
        assert_eq!(check.leads(1, 7), Ok(true));
        assert_eq!(check.leads(1, 7), Ok(false));
        assert!(check.leads(3, 7).unwrap_err().starts_with("election safety"));
    }

    #[test]
    fn a_commit_without_a_majority_on_disk_is_caught() {
        assert!(cluster(&[1]).committed_at(1, id(1, 1)).unwrap_err().starts_with("commitment"));
        assert_eq!(cluster(&[1, 3]).committed_at(1, id(1, 1)), Ok(()));
    }

    #[test]
    fn a_lost_disk_counts_for_what_it_had_until_its_successor_stores() {
        let mut check = cluster(&[1, 3]);
        check.disk_lost(3);
        assert_eq!(check.clone().committed_at(1, id(1, 1)), Ok(()));
        check.appended(3, &[members(0, &[1, 2, 3])]).unwrap();
        check.stored(3, &[Stored::Entries(vec![id(1, 0)])]).unwrap();
        assert!(check.committed_at(1, id(1, 1)).unwrap_err().starts_with("commitment"));
    }

    #[test]
    fn two_entries_of_one_name_are_caught() {
        let mut check = cluster(&[]);
        let other = check
            .appended(1, &[entry(1, 2, 6)])
            .and_then(|()| check.appended(2, &[entry(1, 2, 7)]));
        assert!(other.unwrap_err().starts_with("log matching"));
    }

    #[test]
    fn a_hole_in_a_log_is_caught() {
        assert!(
            cluster(&[]).appended(1, &[entry(1, 3, 6)]).unwrap_err().starts_with("log matching")
        );
    }

    #[test]
    fn a_leader_without_what_was_committed_is_caught() {
        let mut check = cluster(&[1, 2]);
        check.stored(1, &[Stored::Vote(ballot(1, 1))]).unwrap();
        check.committed_at(1, id(1, 1)).unwrap();
        check.disk_lost(3);
        assert!(check.leads(3, 2).unwrap_err().starts_with("leader completeness"));
    }

    #[test]
    fn truncating_or_replacing_what_was_committed_is_caught() {
        let mut check = cluster(&[1, 2]);
        check.committed_at(1, id(1, 1)).unwrap();
        let mut other = check.clone();
        assert!(check.truncated(2, 1).unwrap_err().starts_with("immutability"));
        assert!(other.committed_at(3, id(2, 1)).unwrap_err().starts_with("immutability"));
    }

    #[test]
    fn a_forgotten_vote_log_or_snapshot_is_caught() {
        let mut check = cluster(&[1, 2]);
        check.stored(1, &[Stored::Vote(ballot(3, 1))]).unwrap();
        let whole = Recovered {
            vote: Some(ballot(3, 1)),
            entries: vec![members(0, &[1, 2, 3]), entry(1, 1, 5)],
            ..Recovered::default()
        };
        assert_eq!(check.clone().recovered(1, &whole), Ok(()));
        let votes = Recovered { vote: Some(ballot(2, 1)), ..whole.clone() };
        assert!(check.clone().recovered(1, &votes).unwrap_err().starts_with("durability"));
        check.committed_at(1, id(1, 1)).unwrap();
        let short = Recovered { entries: vec![members(0, &[1, 2, 3])], ..whole };
        assert!(check.recovered(1, &short).unwrap_err().starts_with("durability"));
    }

    #[test]
    fn a_vote_that_is_answered_before_it_is_saved_is_caught() {
        let mut check = cluster(&[]);
        assert!(check.vote_answered(2, ballot(4, 1), true).unwrap_err().starts_with("durability"));
        assert_eq!(check.vote_answered(2, ballot(4, 1), false), Ok(()));
    }

    #[test]
    fn two_votes_in_one_term_are_caught() {
        let mut check = cluster(&[]);
        check.stored(2, &[Stored::Vote(ballot(4, 1))]).unwrap();
        assert!(check.stored(2, &[Stored::Vote(ballot(4, 3))]).is_err());
        assert!(
            check.stored(2, &[Stored::Vote(ballot(3, 1))]).unwrap_err().starts_with("monotony")
        );
    }

    #[test]
    fn steps_out_of_order_are_caught() {
        let mut check = cluster(&[1, 2]);
        assert!(check.clone().applied(1, id(1, 1)).unwrap_err().starts_with("order"));
        check.committed_at(1, id(1, 1)).unwrap();
        assert!(check.clone().purged(1, id(1, 0)).unwrap_err().starts_with("order"));
        assert!(check.clone().installed(1, id(1, 1)).unwrap_err().starts_with("order"));
        check.applied(1, id(1, 1)).unwrap();
        assert!(check.applied(1, id(1, 1)).unwrap_err().starts_with("monotony"));
    }
}
