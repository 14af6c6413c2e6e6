//! Layer 2: the replicated metadata is the same on every node that has applied the same log.
//!
//! - At every applied index, every node gives the same answer to the entry, and cluster time goes forward.
//! - At every index while there are few records, then at every second, fourth and so on, the state's digest (over
//!   its canonical bytes) is the same on every node, in every life, whether it got there by the log or by
//!   a snapshot. Snapshots are compared always.
//! - At every index without exception, what the entry changed is the same on every node that applied it: every
//!   record that its diff shows, byte for byte, and how many there are of each kind. Whoever started from the same
//!   state and changed the same is in the same state. What no diff shows (remembered outcomes, the next producer
//!   id) and what changed without a stamp of its own is left to the digests.
//! - The metadata's own invariants hold in each of the states whose digest is taken, and its diffs show what a look at
//!   every record shows.

use std::collections::BTreeMap;

use yakt::codec;
use yakt::metadata::{Audience, Changes, State, Timestamp};
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
    /// What the entry at an index changed.
    deltas: BTreeMap<u64, (NodeId, u64)>,
    /// Where each node was last, and its cluster time there.
    stamps: BTreeMap<NodeId, (u64, Timestamp)>,
    failover: FailoverCheck,
    compared: u64,
}

type Checked = Result<(), String>;

/// A state, as far as it is looked at here. A trait, because no command leads to a state that breaks its own
/// promises, and this checker's tests need some.
pub trait Judged {
    /// See [`State::digest`].
    fn digest(&self) -> u64;

    /// See [`State::check_invariants`].
    ///
    /// # Errors
    ///
    /// The invariant that is broken.
    fn check_invariants(&self) -> Checked;

    /// See [`State::last_stamp`].
    fn last_stamp(&self) -> Timestamp;

    /// How many things there are of each kind, found without looking at them.
    fn counts(&self) -> [usize; 4];

    /// When each record that a diff can show was last changed, by looking at every one.
    fn changed_at(&self) -> Vec<Timestamp>;

    /// What a broker is shown: see [`State::changes_since`].
    fn changes_since(&self, offset: Timestamp) -> Option<Changes>;
}

impl Judged for State {
    fn digest(&self) -> u64 {
        self.digest()
    }

    fn check_invariants(&self) -> Checked {
        self.check_invariants()
    }

    fn last_stamp(&self) -> Timestamp {
        self.last_stamp()
    }

    fn counts(&self) -> [usize; 4] {
        [self.object_count(), self.topic_count(), self.partition_count(), self.producer_count()]
    }

    fn changed_at(&self) -> Vec<Timestamp> {
        let brokers = self.all_brokers().map(|record| record.timestamp);
        let topics = self.topics().map(|record| record.timestamp);
        let partitions = self.partitions().map(|record| record.timestamp);
        let producers = self.producers().map(|record| record.timestamp);
        brokers.chain(topics).chain(partitions).chain(producers).collect()
    }

    fn changes_since(&self, offset: Timestamp) -> Option<Changes> {
        self.changes_since(offset, Audience::Broker)
    }
}

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
        if let Some((before, earlier)) = self.stamps.insert(node, (index, stamp)) {
            if before < index && earlier > stamp {
                return Err(format!(
                    "node {node}: cluster time went back from {earlier} to {stamp}"
                ));
            }
            if before + 1 == index {
                self.compare_delta(node, index, earlier, state)?;
            }
        }
        self.failover.applied(index, state)?;
        let records = state.topic_count() + state.partition_count() + state.producer_count();
        let interval = (records / RECORDS_EVERY_INDEX).max(1) as u64;
        if index.is_multiple_of(interval.next_power_of_two()) {
            self.compare(node, index, state)?;
        }
        Ok(())
    }

    /// Compares what the entry at `index` changed on `node`, where cluster time was `earlier` before, with what it
    /// changed on others. Costs by what it changed.
    fn compare_delta(
        &mut self,
        node: NodeId,
        index: u64,
        earlier: Timestamp,
        state: &impl Judged,
    ) -> Checked {
        // No diff goes back further than ten minutes. One entry can take cluster time that far, on every node alike.
        let changes = state.changes_since(earlier);
        let changes = changes.as_ref().map(|changes| (&changes.upserted, &changes.deleted));
        let delta = codec::encode_versioned(&(changes, state.counts(), state.last_stamp()));
        let delta = fnv1a(&delta);
        let (other, known) = *self.deltas.entry(index).or_insert((node, delta));
        if known != delta {
            return Err(format!(
                "the entry at index {index} changed nodes {other} and {node} differently"
            ));
        }
        Ok(())
    }

    /// Compares the state of `node`, which has applied up to `index` or has installed a snapshot that ends there, with
    /// what others had there.
    ///
    /// # Errors
    ///
    /// What differs, or what is wrong with this state by itself.
    pub fn compare(&mut self, node: NodeId, index: u64, state: &impl Judged) -> Checked {
        self.stamps.insert(node, (index, state.last_stamp()));
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
fn check_changes(state: &impl Judged) -> Checked {
    let mut stamps = state.changed_at();
    stamps.sort_unstable();
    for (newer, stamp) in stamps.iter().rev().take(DIFFS_CHECKED).enumerate() {
        let before = Timestamp::from_micros(stamp.micros() - 1);
        let (since, until) = (
            stamps.len() - stamps.partition_point(|other| *other <= before),
            stamps.len() - stamps.partition_point(|other| other <= stamp),
        );
        debug_assert!(newer >= until, "sorted");
        for (offset, expected) in [(before, since), (*stamp, until)] {
            let Some(changes) = state.changes_since(offset) else { continue };
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
    use uuid::Uuid;
    use yakt::metadata::{Change, Command, CreateTopic, DeletedBroker};

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

    /// What no command leads to: a state whose promises are broken at will.
    #[derive(Clone, Default)]
    struct Forged {
        digest: u64,
        broken: Option<&'static str>,
        changed_at: Vec<u64>,
        /// How many changes each diff leaves out.
        hidden: usize,
        /// How many changes each diff shows too much.
        invented: usize,
    }

    impl Judged for Forged {
        fn digest(&self) -> u64 {
            self.digest
        }

        fn check_invariants(&self) -> Checked {
            self.broken.map_or(Ok(()), |broken| Err(broken.to_owned()))
        }

        fn last_stamp(&self) -> Timestamp {
            Timestamp::from_micros(self.changed_at.iter().copied().max().unwrap_or(0))
        }

        fn counts(&self) -> [usize; 4] {
            [self.changed_at.len(); 4]
        }

        fn changed_at(&self) -> Vec<Timestamp> {
            self.changed_at.iter().copied().map(Timestamp::from_micros).collect()
        }

        fn changes_since(&self, offset: Timestamp) -> Option<Changes> {
            let later = self.changed_at().iter().filter(|stamp| **stamp > offset).count();
            let shown = (later + self.invented).saturating_sub(self.hidden);
            let broker = DeletedBroker { broker_id: 1.try_into().unwrap(), uuid: Uuid::nil() };
            Some(Changes { upserted: Vec::new(), deleted: vec![broker; shown] })
        }
    }

    #[test]
    fn a_state_that_breaks_an_invariant_is_caught() {
        let sound = Forged { changed_at: vec![5, 5, 7], ..Forged::default() };
        assert_eq!(StateCheck::default().compare(1, 9, &sound), Ok(()));
        let forged = Forged { broken: Some("two brokers are one"), ..sound };
        let broken = StateCheck::default().compare(1, 9, &forged).unwrap_err();
        assert_eq!(broken, "node 1 at index 9: two brokers are one");
    }

    #[test]
    fn a_diff_that_shows_too_little_or_too_much_is_caught() {
        let sound = Forged { changed_at: vec![5, 5, 7], ..Forged::default() };
        let caught = |forged: &Forged| StateCheck::default().compare(1, 9, forged).unwrap_err();
        assert!(caught(&Forged { hidden: 1, ..sound.clone() }).contains("shows 0 changes of 1"));
        assert!(caught(&Forged { invented: 1, ..sound }).contains("shows 2 changes of 1"));
    }

    fn creation(name: &str, uuid: u128) -> Change {
        let name = name.parse().unwrap();
        Change::CreateTopic(CreateTopic { uuid: Uuid::from_u128(uuid), name })
    }

    /// Applies `change` to `state`, and gives the index of the entry, which is the microsecond of its stamp.
    fn change(state: &mut State, change: Change) -> u64 {
        let clock = Timestamp::from_micros(state.last_stamp().micros() + 1);
        state.apply(&Command { clock, idempotency: None, change });
        clock.micros()
    }

    /// So many topics that only every fourth digest is taken, and the check of a node that has seen it.
    fn crowded() -> (StateCheck, State) {
        let (mut check, mut state) = (StateCheck::default(), State::new());
        let topics = 4 * RECORDS_EVERY_INDEX;
        for topic in 0..topics {
            let index = change(&mut state, creation(&format!("t{topic}"), topic as u128 + 1));
            for node in [1, 2] {
                check.applied(node, id(index), &Reply(None), &state).unwrap();
            }
        }
        (check, state)
    }

    #[test]
    fn a_difference_at_an_index_without_a_digest_is_caught() {
        let (mut check, mut state) = crowded();
        let (mut other, compared) = (state.clone(), check.compared());
        let index = change(&mut state, creation("one", 1_000));
        change(&mut other, creation("two", 1_000));
        check.applied(1, id(index), &Reply(None), &state).unwrap();
        let mut restarted = check.clone();
        let caught = check.applied(2, id(index), &Reply(None), &other).unwrap_err();
        assert!(caught.contains("differently"), "{caught}");
        assert_eq!(check.compared(), compared, "there is no digest at {index}");
        // A node that is new there has changed nothing.
        assert_eq!(restarted.applied(3, id(index), &Reply(None), &other), Ok(()));
    }

    #[test]
    fn a_node_that_begins_at_a_snapshot_changes_what_others_changed() {
        let (mut check, mut state) = crowded();
        let snapshot = state.clone();
        let index = change(&mut state, creation("one", 1_000));
        check.applied(1, id(index), &Reply(None), &state).unwrap();
        check.compare(3, index - 1, &snapshot).unwrap();
        let mut broken = check.clone();
        assert_eq!(check.applied(3, id(index), &Reply(None), &state), Ok(()));
        let mut other = snapshot;
        change(&mut other, Change::Tick);
        let caught = broken.applied(3, id(index), &Reply(None), &other).unwrap_err();
        assert!(caught.contains("differently"), "{caught}");
    }

    #[test]
    fn an_entry_that_takes_cluster_time_far_ahead_passes() {
        let (mut check, mut state) = crowded();
        let index = state.last_stamp().micros() + 1;
        let clock = Timestamp::from_micros(3_600_000_000);
        state.apply(&Command { clock, idempotency: None, change: Change::Tick });
        for node in [1, 2] {
            assert_eq!(check.applied(node, id(index), &Reply(None), &state), Ok(()));
        }
    }
}
