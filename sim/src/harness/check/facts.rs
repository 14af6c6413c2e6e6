//! The real events of a run, step by step. The answers of nodes about themselves are compared with
//! them.
//!
//! The events come from the observers of all nodes, with the virtual time of each step. Nothing is
//! judged here: see [`operators`](super::operators) and [`reports`](super::reports).

use std::collections::{BTreeMap, BTreeSet};

use openraft::EntryPayload;
use yakt::metadata::{BrokerStatus, State};
use yakt::raft::observe::{Step, Stored};
use yakt::raft::{LogEntry, NodeId, Term};

/// The members of a cluster, and which of them vote.
#[derive(Clone, Debug, Default, PartialEq, Eq, PartialOrd, Ord)]
pub struct Members {
    /// All of them.
    pub nodes: BTreeSet<NodeId>,
    /// Those whose vote counts; in a joint membership, those that vote in both halves.
    pub voters: BTreeSet<NodeId>,
}

impl Members {
    /// The members and voters of a membership entry in a log.
    #[must_use]
    pub fn of(membership: &openraft::Membership<NodeId, yakt::raft::Peer>) -> Self {
        let votes = |id: &NodeId| membership.get_joint_config().iter().all(|set| set.contains(id));
        Self {
            nodes: membership.nodes().map(|(id, _)| *id).collect(),
            voters: membership.voter_ids().filter(votes).collect(),
        }
    }
}

/// How much metadata there was at an index.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Amounts {
    /// Topics, partitions and producers.
    pub counts: [usize; 3],
    /// Live brokers, by status.
    pub brokers: BTreeMap<BrokerStatus, usize>,
    /// Cluster time, in microseconds.
    pub time: u64,
}

impl Amounts {
    fn of(state: &State) -> Self {
        let mut brokers = BTreeMap::new();
        for broker in state.brokers() {
            *brokers.entry(broker.fields.broker_status).or_default() += 1;
        }
        let counts = [state.topic_count(), state.partition_count(), state.producer_count()];
        Self { counts, brokers, time: state.last_stamp().micros() }
    }
}

/// The events of one node, with virtual times in nanoseconds, in order.
#[derive(Clone, Debug, Default)]
pub struct Life {
    /// When it was started.
    pub starts: Vec<u64>,
    /// Each index up to which it had applied, with the time.
    pub applied: Vec<(u64, u64)>,
    /// The last index of each snapshot that it stored, or found on its disk.
    pub snapshots: Vec<(u64, u64)>,
}

impl Life {
    /// The index up to which it had applied at `moment`. `None` if it was not yet started then, or
    /// had applied nothing since its last start.
    #[must_use]
    pub fn applied_at(&self, moment: u64) -> Option<u64> {
        let start = *self.starts.iter().rev().find(|start| **start <= moment)?;
        let last = self.applied.partition_point(|(at, _)| *at <= moment).checked_sub(1)?;
        let (at, index) = self.applied[last];
        (at >= start).then_some(index)
    }

    /// Whether it was started between these moments.
    #[must_use]
    pub fn is_started_between(&self, from: u64, until: u64) -> bool {
        self.starts.iter().any(|start| (from..=until).contains(start))
    }

    /// The highest index that it had applied by `moment`, in any life.
    #[must_use]
    pub fn applied_until(&self, moment: u64) -> u64 {
        let until = self.applied.iter().take_while(|(at, _)| *at <= moment);
        until.map(|(_, index)| *index).max().unwrap_or(0)
    }
}

/// The events of a run.
#[derive(Clone, Debug, Default)]
pub struct Facts {
    /// The time at which each term got its leader, and that leader's id.
    pub leaders: BTreeMap<Term, (u64, NodeId)>,
    /// The memberships in the order of their commits. Each has its index and the time at which a
    /// node first applied it.
    pub committed: Vec<(u64, u64, Members)>,
    /// Every membership that any node ever had in its log.
    pub known: BTreeSet<Members>,
    /// The highest index that any node knew as committed: for each rise, the time and the index.
    pub commits: Vec<(u64, u64)>,
    /// By index.
    pub amounts: BTreeMap<u64, Amounts>,
    /// By node.
    pub lives: BTreeMap<NodeId, Life>,
}

impl Facts {
    /// `node` leads `term` at `now`.
    pub fn leads(&mut self, now: u64, node: NodeId, term: Term) {
        self.leaders.entry(term).or_insert((now, node));
    }

    /// A process of `node` was started at `now`. It answers before it has opened its directory.
    pub fn starts(&mut self, now: u64, node: NodeId) {
        self.lives.entry(node).or_default().starts.push(now);
    }

    /// `node` took `step` at `now`.
    pub fn observe(&mut self, now: u64, node: NodeId, step: Step<'_>) {
        let life = self.lives.entry(node).or_default();
        match step {
            Step::Recovered(found) => {
                // A lost disk has none any more.
                life.snapshots.push((now, found.snapshot.map_or(0, |id| id.index())));
                self.known_from(&found.entries);
            }
            Step::Appended(entries) => self.known_from(entries),
            Step::Committed(id) => self.commit(now, id.index()),
            Step::Stored(changes) => {
                let snapshots = changes.iter().filter_map(|change| match change {
                    Stored::Snapshot(Some(id)) => Some((now, id.index())),
                    _ => None,
                });
                life.snapshots.extend(snapshots);
            }
            Step::Applied(entry, _, state) => {
                let index = entry.log_id.index();
                life.applied.push((now, index));
                self.commit(now, index);
                if let EntryPayload::Membership(membership) = &entry.payload {
                    self.change(now, index, Members::of(membership));
                }
                self.amounts.entry(index).or_insert_with(|| Amounts::of(state));
            }
            Step::Installed(meta, state) => {
                let Some(last) = meta.last_log_id else { return };
                life.applied.push((now, last.index()));
                self.commit(now, last.index());
                self.known.insert(Members::of(meta.last_membership.membership()));
                self.amounts.entry(last.index()).or_insert_with(|| Amounts::of(state));
            }
            _ => {}
        }
    }

    fn known_from(&mut self, entries: &[LogEntry]) {
        let memberships = entries.iter().filter_map(|entry| match &entry.payload {
            EntryPayload::Membership(membership) => Some(Members::of(membership)),
            _ => None,
        });
        self.known.extend(memberships);
    }

    fn commit(&mut self, now: u64, index: u64) {
        if self.commits.last().is_none_or(|(_, highest)| *highest < index) {
            self.commits.push((now, index));
        }
    }

    fn change(&mut self, now: u64, index: u64, members: Members) {
        if self.committed.last().is_none_or(|(_, last, _)| *last < index) {
            self.committed.push((now, index, members));
        }
    }

    /// The memberships that were the last committed one at some moment between these two.
    pub fn members_between(&self, from: u64, until: u64) -> impl Iterator<Item = &Members> {
        let first = self.committed.partition_point(|(at, ..)| *at <= from).saturating_sub(1);
        let begun = self.committed.iter().skip(first).take_while(move |(at, ..)| *at <= until);
        begun.map(|(.., members)| members)
    }

    /// Whether `node` was the last elected leader at some moment between these two.
    #[must_use]
    pub fn led_between(&self, node: NodeId, from: u64, until: u64) -> bool {
        let mut terms = self.leaders.values().peekable();
        while let Some((since, leader)) = terms.next() {
            let ended = terms.peek().map_or(u64::MAX, |(next, _)| *next);
            if *leader == node && *since <= until && ended >= from {
                return true;
            }
        }
        false
    }

    /// The highest index that any node knew as committed by `moment`.
    #[must_use]
    pub fn committed_until(&self, moment: u64) -> u64 {
        let known = self.commits.partition_point(|(at, _)| *at <= moment);
        known.checked_sub(1).map_or(0, |last| self.commits[last].1)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_leader_leads_until_the_next_one_is_elected() {
        let mut facts = Facts::default();
        facts.leads(10, 1, 1);
        facts.leads(20, 2, 2);
        assert!(facts.led_between(1, 15, 16) && facts.led_between(1, 5, 10));
        assert!(!facts.led_between(1, 21, 30) && !facts.led_between(1, 1, 9));
        assert!(facts.led_between(2, 25, 30) && facts.led_between(2, 19, 20));
    }

    #[test]
    fn members_are_those_that_were_committed_last() {
        let members = |ids: &[NodeId]| Members {
            nodes: ids.iter().copied().collect(),
            voters: ids.iter().copied().collect(),
        };
        let mut facts = Facts::default();
        facts.change(10, 1, members(&[1, 2]));
        facts.change(20, 2, members(&[1]));
        // Another node applies the first one later.
        facts.change(25, 1, members(&[1, 2]));
        let between = |from, until| facts.members_between(from, until).count();
        assert_eq!((between(11, 12), between(15, 20), between(21, 30)), (1, 2, 1));
    }

    #[test]
    fn what_a_node_had_applied_is_of_its_present_life() {
        let life = Life {
            starts: vec![1, 50],
            applied: vec![(10, 7), (20, 9), (60, 8)],
            ..Life::default()
        };
        assert_eq!(life.applied_at(15), Some(7));
        assert_eq!(life.applied_at(55), None);
        assert_eq!(life.applied_at(70), Some(8));
        assert_eq!(life.applied_until(70), 9);
        assert!(life.is_started_between(40, 50) && !life.is_started_between(2, 49));
    }
}
