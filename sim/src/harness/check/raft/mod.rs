//! Layer 1: what Raft promises, checked at every step of every node (Raft §5, figure 3).
//!
//! The checker keeps a model of each node's log, in memory and on disk, from the steps that the node's
//! observer shows; nothing is asked of the node. The promises:
//!
//! - **Election safety**: no two nodes lead in one term, and whoever leads has the ballots of a majority of the voters, by
//!   the last membership in its log, on their disks.
//! - **Log matching**: an entry is determined by its term and index, and so is the one before it.
//! - **Leader completeness**: a leader's log has everything that was committed in the terms before.
//! - **Commitment**: when an entry is first said to be committed, a majority of the voters hold it on
//!   stable storage, by the membership it falls under or a later one that is in the log already.
//! - **Immutability**: what was committed at an index is never another entry, and is never truncated, save in favour
//!   of a snapshot that has it (see [`RaftCheck::truncated`]).
//! - **Monotony**: a node's vote, commit, applied and purge points never go back within a life; the vote
//!   and the log never across lives.
//! - **Durability**: a restart finds all that was reported stable, and no entries that were reported gone.
//!   A granted vote is on disk before it is answered.
//! - **Snapshots** name the last members that were committed by their last entry.
//! - **Order**: purged ≤ snapshot ≤ applied ≤ committed ≤ last, at every step.

use std::collections::btree_map::Entry;
use std::collections::{BTreeMap, BTreeSet};

use openraft::EntryPayload;
use yakt::codec;
use yakt::raft::{Ballot, EntryId, LogEntry, NodeId, Peer, Term};

use self::log::Log;
use crate::trace::fnv1a;

mod commitment;
mod durability;
mod election;
mod log;
#[cfg(test)]
mod tests;

/// What the checker knows of one node.
#[derive(Clone, Debug, Default)]
struct Known {
    memory: Log,
    disk: Log,
    vote: Option<Ballot>,
    snapshot: Option<EntryId>,
    committed: Option<u64>,
    applied: Option<u64>,
    /// What it truncated although it was committed, from and to: the snapshot that has it must come next.
    owed: Option<(u64, u64)>,
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
    /// Every membership that was in a log, by index and term: what never was committed too.
    voters: BTreeMap<(u64, Term), Voters>,
    /// Who has cast a ballot for whom, by term and candidate.
    ballots: BTreeMap<(Term, NodeId), BTreeSet<NodeId>>,
    /// What was on disks that were lost and have no successor yet. An entry is committed once a majority has stored
    /// it, whatever becomes of their disks afterwards; the leader may hear of it later than of the loss.
    lost: BTreeMap<NodeId, Log>,
    /// Nodes whose directories have forgotten something and were not read since, each with its
    /// state before that.
    relapsed: BTreeMap<NodeId, Known>,
    forked: bool,
}

type Checked = Result<(), String>;

/// The first word of a violation that nothing excuses: a node silently replaces entries that it has
/// applied.
pub const HISTORY: &str = "history";

/// A vote's place in the order of votes: a later term, then an elected leader over a candidate.
fn rank(vote: Option<Ballot>) -> (Term, bool) {
    vote.map_or((0, false), |vote| (vote.leader_id.term, vote.committed))
}

/// The sets of voters of a membership, each in order.
fn voter_sets(membership: &openraft::Membership<NodeId, Peer>) -> Vec<Vec<NodeId>> {
    membership.get_joint_config().iter().map(|set| set.iter().copied().collect()).collect()
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
        self.owes_nothing(node)?;
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
            if let Some(known) = self.nodes.get_mut(&node) {
                ensure(known.owed.is_none_or(|(_, to)| to < id.index), || {
                    format!(
                        "immutability: node {node} truncated what was committed, and appends {id} instead of it"
                    )
                })?;
                known.memory.entries.insert(id.index, id);
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
            let sets = voter_sets(membership);
            self.voters.insert((id.index, id.leader_id.term), Voters { entry: id, sets });
        }
        Ok(())
    }

    /// `node` removed its log from index `from` on, in memory.
    ///
    /// Raft has a follower remove what conflicts and what is behind it. openraft removes a little more, before it
    /// installs a snapshot whose last entry is another than the node's own at that index: everything that the node does
    /// not know to be committed, and so perhaps entries that are. (Found by simulation: swarm, seed 400000027.) That is
    /// safe. The last entry of a snapshot is committed, by a majority that the node is no part of, since it holds
    /// another entry there; whoever is elected needs a vote of that majority, and has all that the node gave up. So it
    /// is allowed on these conditions: a majority without the node holds what is removed, the node did not know it to be
    /// committed, and a snapshot makes up for it before the node appends anything in its place, leads, or comes to rest.
    ///
    /// # Errors
    ///
    /// The promise that is broken.
    pub fn truncated(&mut self, node: NodeId, from: u64) -> Checked {
        let known = self.nodes.entry(node).or_default();
        ensure(known.applied < Some(from), || {
            format!(
                "{HISTORY}: node {node} truncates from {from} on, and has applied {:?}",
                known.applied
            )
        })?;
        let removed = known.memory.entries.split_off(&from);
        let known_committed = known.committed;
        for (index, id) in removed {
            let committed =
                self.committed.get(&index).is_some_and(|committed| committed.entry == id);
            if !committed {
                continue;
            }
            ensure(known_committed < Some(index), || {
                format!("immutability: node {node} truncates {id}, which it knew to be committed")
            })?;
            self.check_quorum(node, id, Some(node)).map_err(|lack| {
                format!("immutability: node {node} truncates {id}, which was committed; without it, {lack}")
            })?;
            let known = self.nodes.entry(node).or_default();
            let (first, last) = known.owed.unwrap_or((from, index));
            known.owed = Some((first.min(from), last.max(index)));
        }
        Ok(())
    }

    /// `node` leads or has come to rest: by then a snapshot must have made up for all that it gave up.
    ///
    /// # Errors
    ///
    /// The promise that is broken.
    pub fn owes_nothing(&self, node: NodeId) -> Checked {
        let owed = self.nodes.get(&node).and_then(|known| known.owed);
        ensure(owed.is_none(), || {
            format!(
                "immutability: node {node} truncated {owed:?}, of which some was committed, and no snapshot came"
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
}
