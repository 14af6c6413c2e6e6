//! Layer 2: the replicated metadata is the same on every node that has applied the same log.
//!
//! - At every applied index, every node gives the same answer to the entry, and cluster time goes forward.
//! - At every index up to a few thousand records, and at ever rarer ones above, the state's digest (over
//!   its canonical bytes) is the same on every node, in every life, whether it got there by the log or by
//!   a snapshot. Snapshots are compared always.
//! - The metadata's own invariants hold in each of these states, and its diffs show what a look at every
//!   record shows.

use std::collections::BTreeMap;

use yakt::codec;
use yakt::metadata::{Audience, State, Timestamp};
use yakt::raft::{EntryId, NodeId, Reply};

use super::failover::FailoverCheck;
use crate::trace::fnv1a;

/// Records for which a state's digest is taken at every index; twice as many halve how often.
const RECORDS_EVERY_INDEX: usize = 64;

/// How many of a state's last changes are looked for in diffs.
const DIFFS_CHECKED: usize = 8;

/// The states that nodes were in.
#[derive(Clone, Debug, Default)]
pub struct StateCheck {
    answers: BTreeMap<u64, (NodeId, u64)>,
    digests: BTreeMap<u64, (NodeId, u64)>,
    stamps: BTreeMap<NodeId, (u64, Timestamp)>,
    failover: FailoverCheck,
    compared: u64,
}

type Checked = Result<(), String>;

impl StateCheck {
    /// How many digests were compared with another node's.
    #[must_use]
    pub fn compared(&self) -> u64 {
        self.compared
    }

    /// `node` applied `id`, answered `reply`, and is in `state`.
    ///
    /// # Errors
    ///
    /// What differs.
    pub fn applied(&mut self, node: NodeId, id: EntryId, reply: &Reply, state: &State) -> Checked {
        let index = id.index;
        let answer = fnv1a(&codec::encode_versioned(reply));
        let (other, known) = *self.answers.entry(index).or_insert((node, answer));
        if known != answer {
            return Err(format!("nodes {other} and {node} answer {id} differently: {reply}"));
        }
        // A node that starts again begins at its snapshot: only steps forward tell.
        let stamp = state.last_stamp();
        if let Some((before, earlier)) = self.stamps.insert(node, (index, stamp))
            && before < index
            && earlier > stamp
        {
            return Err(format!("node {node}: cluster time went back from {earlier} to {stamp}"));
        }
        self.failover.applied(index, state)?;
        let records = state.topic_count() + state.partition_count() + state.producer_count();
        let interval = (records / RECORDS_EVERY_INDEX).max(1) as u64;
        if index.is_multiple_of(interval.next_power_of_two()) {
            self.compare(node, index, state)?;
        }
        Ok(())
    }

    /// Compares the state of `node`, which has applied up to `index`, with what others had there.
    ///
    /// # Errors
    ///
    /// What differs, or what is wrong with this state by itself.
    pub fn compare(&mut self, node: NodeId, index: u64, state: &State) -> Checked {
        let digest = state.digest();
        if let Some((other, known)) = self.digests.get(&index) {
            self.compared += 1;
            if *known != digest {
                return Err(format!(
                    "nodes {other} and {node} have different states at index {index}"
                ));
            }
            return Ok(());
        }
        self.digests.insert(index, (node, digest));
        state
            .check_invariants()
            .and_then(|()| check_changes(state))
            .map_err(|broken| format!("node {node} at index {index}: {broken}"))
    }
}

/// What diffs since the microsecond before each of the last changes, and since the change itself, must show, by
/// looking at every record.
fn check_changes(state: &State) -> Checked {
    let mut stamps: Vec<Timestamp> = state.all_brokers().map(|record| record.timestamp).collect();
    stamps.extend(state.topics().map(|record| record.timestamp));
    stamps.extend(state.partitions().map(|record| record.timestamp));
    stamps.extend(state.producers().map(|record| record.timestamp));
    stamps.sort_unstable();
    for (newer, stamp) in stamps.iter().rev().take(DIFFS_CHECKED).enumerate() {
        let before = Timestamp::from_micros(stamp.micros() - 1);
        let (since, until) = (
            stamps.len() - stamps.partition_point(|other| *other <= before),
            stamps.len() - stamps.partition_point(|other| other <= stamp),
        );
        debug_assert!(newer >= until, "sorted");
        for (offset, expected) in [(before, since), (*stamp, until)] {
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
    use yakt::metadata::{Change, Command};

    use super::*;

    fn id(index: u64) -> EntryId {
        let leader_id = yakt::raft::Leader { term: 1, voted_for: 1 }.to_committed();
        EntryId { leader_id, index }
    }

    /// A state after a tick at `clock`, and the tick's answer.
    fn ticked(clock: u64) -> (State, Reply) {
        let clock = Timestamp::from_micros(clock);
        let mut state = State::new();
        let reply = state.apply(&Command { clock, idempotency: None, change: Change::Tick });
        (state, Reply(Some(reply)))
    }

    #[test]
    fn equal_histories_pass() {
        let mut check = StateCheck::default();
        let (state, reply) = ticked(5);
        assert_eq!(check.applied(1, id(1), &reply, &state), Ok(()));
        assert_eq!(check.applied(2, id(1), &reply, &state), Ok(()));
        assert_eq!(check.compared(), 1);
    }

    #[test]
    fn two_answers_to_one_entry_are_caught() {
        let mut check = StateCheck::default();
        let ((state, reply), (_, other)) = (ticked(5), ticked(6));
        check.applied(1, id(1), &reply, &state).unwrap();
        assert!(check.applied(2, id(1), &other, &state).unwrap_err().contains("differently"));
    }

    #[test]
    fn two_states_at_one_index_are_caught() {
        let mut check = StateCheck::default();
        check.compare(1, 9, &ticked(5).0).unwrap();
        assert!(check.compare(3, 9, &ticked(6).0).unwrap_err().contains("different states"));
    }

    #[test]
    fn time_that_goes_back_is_caught() {
        let mut check = StateCheck::default();
        let ((later, reply), (earlier, other)) = (ticked(6), ticked(5));
        check.applied(1, id(1), &reply, &later).unwrap();
        assert!(check.applied(1, id(2), &other, &earlier).unwrap_err().contains("went back"));
    }
}
