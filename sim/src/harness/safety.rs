//! What Raft promises, checked at every step of every node.
//!
//! - **Election safety** (Raft §5.2): no two nodes lead in one term.
//! - **State machine safety** (§5.4.3): the entry that a node applies at an index is the one that every
//!   node applies there, in every life of that node.
//! - **Determinism**: nodes that have applied the same log have the same state, also when one got there by
//!   a snapshot. Digests are compared at every [`DIGEST_INTERVAL`]th index and at every snapshot.
//! - **The metadata's own invariants** hold in each of these states.
//!
//! The first violation is kept; the scenario asks for it.

use std::collections::BTreeMap;
use std::collections::btree_map::Entry;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use yakt::codec;
use yakt::metadata::{Audience, State, Timestamp};
use yakt::raft::state_machine::{Observer, Step};
use yakt::raft::{EntryId, LogEntry, NodeId, Term};

use super::Violation;
use crate::trace::Trace;

/// Indices between two digests. A digest encodes the whole state, so not every index gets one.
pub const DIGEST_INTERVAL: u64 = 16;

/// How many of a state's last changes are looked for in diffs.
const DIFFS_CHECKED: usize = 8;

/// What all nodes together have done so far. Clones share it.
#[derive(Clone, Debug)]
pub struct Safety {
    trace: Trace,
    seen: Arc<Mutex<Seen>>,
}

#[derive(Debug, Default)]
struct Seen {
    leaders: BTreeMap<Term, NodeId>,
    applied: BTreeMap<u64, (EntryId, Vec<u8>)>,
    digests: BTreeMap<u64, (NodeId, u64)>,
    stamps: BTreeMap<NodeId, (u64, Timestamp)>,
    installs: u64,
    violation: Option<Violation>,
}

impl Safety {
    /// Nothing seen yet.
    #[must_use]
    pub fn new(trace: Trace) -> Self {
        Self { trace, seen: Arc::default() }
    }

    /// Watches the state machine of `node` through one life.
    #[must_use]
    pub fn observer(&self, node: NodeId) -> Observer {
        let safety = self.clone();
        let begun = AtomicBool::new(false);
        Observer(Arc::new(move |step, state| {
            // A life that begins with a snapshot found it on its own disk.
            let restored = !begun.swap(true, Ordering::Relaxed);
            match step {
                Step::Applied(entry) => safety.applied(node, entry, state),
                Step::Installed(last) => safety.installed(node, last, state, restored),
            }
        }))
    }

    /// `node` leads `term`.
    pub fn leads(&self, node: NodeId, term: Term) {
        let mut seen = self.lock();
        match seen.leaders.entry(term) {
            Entry::Vacant(vacant) => {
                vacant.insert(node);
                self.trace.record(format_args!("n{node} leads term {term}"));
            }
            Entry::Occupied(known) if *known.get() == node => {}
            Entry::Occupied(known) => {
                let what = format!("node {} and node {node} both led term {term}", known.get());
                seen.report(Violation::safety(what));
            }
        }
    }

    /// The first violation, if any.
    #[must_use]
    pub fn violation(&self) -> Option<Violation> {
        self.lock().violation.clone()
    }

    /// How many terms had a leader.
    #[must_use]
    pub fn leaders(&self) -> u64 {
        self.lock().leaders.len() as u64
    }

    /// How many snapshots were installed, those that nodes found on their own disks aside.
    #[must_use]
    pub fn installs(&self) -> u64 {
        self.lock().installs
    }

    /// Notes a violation that another checker found.
    pub fn report(&self, violation: Violation) {
        self.lock().report(violation);
    }

    fn applied(&self, node: NodeId, entry: &LogEntry, state: &State) {
        let index = entry.log_id.index();
        let encoded = codec::encode_versioned(&entry.payload);
        let mut seen = self.lock();
        if let Some((id, known)) = seen.applied.get(&index) {
            if *id != entry.log_id || *known != encoded {
                let what =
                    format!("node {node} applied {} at index {index}, others {id}", entry.log_id);
                seen.report(Violation::safety(what));
            }
        } else {
            seen.applied.insert(index, (entry.log_id, encoded));
        }
        // A node that starts again begins at its snapshot: only steps forward tell.
        if let Some((before, stamp)) = seen.stamps.insert(node, (index, state.last_stamp()))
            && before < index
            && stamp > state.last_stamp()
        {
            let what = format!(
                "node {node}: cluster time went back from {stamp} to {}",
                state.last_stamp()
            );
            seen.report(Violation::safety(what));
        }
        if index.is_multiple_of(DIGEST_INTERVAL) {
            seen.compare_digest(node, index, state);
        }
        drop(seen);
        self.trace.record(format_args!("n{node} applied {}", entry.log_id));
    }

    fn installed(&self, node: NodeId, last: EntryId, state: &State, restored: bool) {
        self.trace
            .record(format_args!("n{node} installed a snapshot up to {last}, restored={restored}"));
        let mut seen = self.lock();
        seen.installs += u64::from(!restored);
        seen.compare_digest(node, last.index(), state);
    }

    /// Compares the state of `node`, which has applied up to `index`, with what others had there.
    pub fn compare(&self, node: NodeId, index: u64, state: &State) {
        self.lock().compare_digest(node, index, state);
    }

    fn lock(&self) -> MutexGuard<'_, Seen> {
        self.seen.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Seen {
    fn report(&mut self, violation: Violation) {
        self.violation.get_or_insert(violation);
    }

    fn compare_digest(&mut self, node: NodeId, index: u64, state: &State) {
        if let Err(broken) = state.check_invariants() {
            self.report(Violation::safety(format!("node {node} at index {index}: {broken}")));
        }
        if let Err(broken) = check_changes(state) {
            self.report(Violation::safety(format!("node {node} at index {index}: {broken}")));
        }
        let digest = state.digest();
        let (other, known) = *self.digests.entry(index).or_insert((node, digest));
        if known != digest {
            let what = format!("nodes {other} and {node} have different states at index {index}");
            self.report(Violation::safety(what));
        }
    }
}

/// What diffs since the microsecond before each of the last changes, and since the change itself, must show, by
/// looking at every record.
fn check_changes(state: &State) -> Result<(), String> {
    let mut stamps: Vec<Timestamp> = state.all_brokers().map(|record| record.timestamp).collect();
    stamps.extend(state.topics().map(|record| record.timestamp));
    stamps.extend(state.partitions().map(|record| record.timestamp));
    stamps.extend(state.producers().map(|record| record.timestamp));
    stamps.sort_unstable();
    for (newer, stamp) in stamps.iter().rev().take(DIFFS_CHECKED).enumerate() {
        let before = Timestamp::from_micros(stamp.micros() - 1);
        for (offset, expected) in [(before, newer + 1), (*stamp, newer)] {
            let Some(changes) = state.changes_since(offset, Audience::Broker) else { continue };
            let found = changes.upserted.len() + changes.deleted.len();
            if found != expected {
                return Err(format!("a diff since {offset} shows {found} changes of {expected}"));
            }
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use openraft::vote::RaftLeaderId;
    use yakt::metadata::{Change, Command, Timestamp};
    use yakt::raft::{Payload, SharedCommand};

    use super::*;

    fn entry(term: u64, index: u64, clock: u64) -> (LogEntry, State) {
        let command = Command {
            clock: Timestamp::from_micros(clock),
            idempotency: None,
            change: Change::Tick,
        };
        let mut state = State::new();
        state.apply(&command);
        let leader = yakt::raft::Leader { term, voted_for: 1 }.to_committed();
        let payload = Payload::Normal(SharedCommand(command.into()));
        (LogEntry { log_id: EntryId::new(leader, index), payload }, state)
    }

    #[test]
    fn two_leaders_of_one_term_are_caught() {
        let safety = Safety::new(Trace::new());
        safety.leads(1, 7);
        safety.leads(1, 7);
        safety.leads(2, 8);
        assert_eq!(safety.violation(), None);
        safety.leads(3, 7);
        assert!(safety.violation().is_some());
    }

    #[test]
    fn two_entries_at_one_index_are_caught() {
        let safety = Safety::new(Trace::new());
        let (first, state) = entry(1, 1, 5);
        safety.applied(1, &first, &state);
        safety.applied(2, &first, &state);
        assert_eq!(safety.violation(), None);
        let (other, state) = entry(1, 1, 6);
        safety.applied(3, &other, &state);
        assert!(safety.violation().is_some());
    }

    #[test]
    fn two_states_at_one_index_are_caught() {
        let safety = Safety::new(Trace::new());
        let (_, state) = entry(1, 1, 5);
        safety.compare(1, 9, &state);
        safety.compare(2, 9, &state.clone());
        assert_eq!(safety.violation(), None);
        let (_, other) = entry(1, 1, 6);
        safety.compare(3, 9, &other);
        assert!(safety.violation().is_some());
    }
}
