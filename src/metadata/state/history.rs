//! The history that a state belongs to: one epoch per leadership, as etcd's and Kafka's leader
//! epochs.
//!
//! Raft names an entry by term and index. After an operator has restored a majority of the nodes
//! from a backup, a new leader may use the same terms and indices again for other commands. These
//! names then no longer tell two histories apart. Cluster time does: each command has its own
//! stamp, and a leader that writes later stamps later. Each epoch therefore gets an id that is a
//! hash of the id before it, of its term and of its first stamp.
//!
//! This module answers two questions:
//!
//! - Did this history issue an offset? Every offset is the stamp of a command. So an offset before
//!   the first epoch, between the end of one epoch and the start of the next, or after the last
//!   stamp was never issued. An offset of another history that falls into an epoch is detected by
//!   the id.
//! - Is another state a prefix of this one? Within one epoch, one leader appended one sequence of
//!   commands. So a state that ends inside an epoch of this history is a prefix of it.
//!
//! Limit: only the last [`EPOCHS_MAX`] epochs are kept. Older offsets count as never issued, which
//! costs their poller one complete snapshot. Older states cannot be judged and pass.

use std::fmt;
use std::str::FromStr;

use imbl::Vector;
use serde::{Deserialize, Serialize};
use xxhash_rust::xxh3::xxh3_64;

use super::State;
use crate::metadata::Timestamp;

/// Former epochs that a state remembers: 32 KiB of a snapshot. A cluster that elects a leader every
/// minute keeps them for 17 hours, much longer than the ten minutes for which a diff is possible.
pub(super) const EPOCHS_MAX: usize = 1_024;

/// The id of one leadership's part of a history. Shown as 16 hexadecimal digits.
///
/// ```
/// use yakt::metadata::HistoryId;
///
/// let id: HistoryId = "00000000000000ff".parse()?;
/// assert_eq!(id.to_string(), "00000000000000ff");
/// assert!("ff".parse::<HistoryId>().is_err());
/// # Ok::<(), yakt::metadata::InvalidHistoryId>(())
/// ```
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct HistoryId(u64);

/// A text that is not a [`HistoryId`].
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("a history id has 16 hexadecimal digits, as an earlier answer gave it")]
pub struct InvalidHistoryId;

impl fmt::Display for HistoryId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:016x}", self.0)
    }
}

impl FromStr for HistoryId {
    type Err = InvalidHistoryId;

    fn from_str(text: &str) -> Result<Self, InvalidHistoryId> {
        let digits = text.len() == 16 && text.bytes().all(|byte| byte.is_ascii_hexdigit());
        let id = u64::from_str_radix(text, 16).ok().filter(|_| digits);
        id.map(Self).ok_or(InvalidHistoryId)
    }
}

/// How far a state has come, and in which history. Nodes compare their positions.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Position {
    /// The epoch of the last command.
    pub history: HistoryId,
    /// The stamp of the last command.
    pub stamp: Timestamp,
}

impl fmt::Display for Position {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} of history {}", self.stamp, self.history)
    }
}

/// An epoch that has ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
struct Former {
    id: HistoryId,
    term: u64,
    first: Timestamp,
    last: Timestamp,
}

/// The epoch of the last command. Its last stamp is the state's last stamp.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
struct Current {
    id: HistoryId,
    term: u64,
    first: Timestamp,
}

/// The epochs of one state.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(from = "Written", into = "Written")]
pub(super) struct History {
    /// The term of the last entry. It may have no command yet.
    term: u64,
    current: Option<Current>,
    /// Oldest first.
    former: Vector<Former>,
}

/// The form in which a [`History`] is written.
#[derive(Serialize, Deserialize)]
struct Written {
    term: u64,
    current: Option<Current>,
    former: Vec<Former>,
}

impl From<History> for Written {
    fn from(History { term, current, former }: History) -> Self {
        Self { term, current, former: former.into_iter().collect() }
    }
}

impl From<Written> for History {
    fn from(Written { term, current, former }: Written) -> Self {
        Self { term, current, former: former.into() }
    }
}

impl History {
    /// Notes that the command after the stamp `last` got the stamp `stamp`.
    pub(super) fn note(&mut self, last: Timestamp, stamp: Timestamp) {
        if self.current.is_some_and(|current| current.term == self.term) {
            return;
        }
        let before = self.current.map_or(0, |current| current.id.0);
        let mut bytes = [0; 24];
        bytes[..8].copy_from_slice(&before.to_le_bytes());
        bytes[8..16].copy_from_slice(&self.term.to_le_bytes());
        bytes[16..].copy_from_slice(&stamp.micros().to_le_bytes());
        let begun = Current { id: HistoryId(xxh3_64(&bytes)), term: self.term, first: stamp };
        if let Some(Current { id, term, first }) = self.current.replace(begun) {
            self.former.push_back(Former { id, term, first, last });
            if self.former.len() > EPOCHS_MAX {
                self.former.pop_front();
            }
        }
    }

    /// The epoch that contains the stamp `at`, in a state whose last stamp is `last`.
    fn epoch_at(&self, at: Timestamp, last: Timestamp) -> Option<HistoryId> {
        if at > last {
            return None;
        }
        let current = self.current?;
        if at >= current.first {
            return Some(current.id);
        }
        let mut former = self.former.iter().rev().skip_while(|epoch| epoch.first > at);
        former.next().filter(|epoch| at <= epoch.last).map(|epoch| epoch.id)
    }

    /// Whether epochs before the first remembered one may have been forgotten.
    fn is_shortened(&self) -> bool {
        self.former.len() == EPOCHS_MAX
    }

    /// Checks that epochs follow each other, in a state whose last stamp is `last`.
    pub(super) fn check(&self, last: Timestamp) -> Result<(), String> {
        let mut before = Timestamp::ZERO;
        let mut term = None;
        for epoch in &self.former {
            if epoch.first <= before || epoch.last < epoch.first || Some(epoch.term) <= term {
                return Err(format!("{epoch:?} does not follow {before} of term {term:?}"));
            }
            (before, term) = (epoch.last, Some(epoch.term));
        }
        match self.current {
            Some(current) if current.first > before && current.first <= last => {
                let follows = Some(current.term) > term && current.term <= self.term;
                follows.then_some(()).ok_or(format!("{current:?} does not follow term {term:?}"))
            }
            None if last == Timestamp::ZERO && self.former.is_empty() => Ok(()),
            current => Err(format!("{current:?} does not end at {last}, after {before}")),
        }
    }
}

impl State {
    /// Notes the Raft term of the entries that follow: a leadership begins.
    pub fn enter_term(&mut self, term: u64) {
        self.history.term = term;
    }

    /// Where this state is in its history; `None` before the first command.
    pub fn position(&self) -> Option<Position> {
        let history = self.history.current?.id;
        Some(Position { history, stamp: self.last_stamp })
    }

    /// Whether this history may have issued `offset`. If the poller names a leadership `history`,
    /// that leadership must have issued it. A poller for whose offset this is false gets the
    /// complete snapshot.
    pub fn has_issued(&self, offset: Timestamp, history: Option<HistoryId>) -> bool {
        let epoch = self.history.epoch_at(offset, self.last_stamp);
        epoch.is_some() && history.is_none_or(|history| epoch == Some(history))
    }

    /// Whether a state at `earlier` is a prefix of this one. Also true when the epoch is too old to
    /// be remembered.
    pub fn continues(&self, earlier: Position) -> bool {
        let History { former, .. } = &self.history;
        let is_forgotten = self.history.is_shortened()
            && former.front().is_some_and(|oldest| earlier.stamp < oldest.first);
        let epoch = self.history.epoch_at(earlier.stamp, self.last_stamp);
        is_forgotten || epoch == Some(earlier.history)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::metadata::{Change, Command};

    fn at(micros: u64) -> Timestamp {
        Timestamp::from_micros(micros)
    }

    fn tick(state: &mut State, clock: u64) {
        state.apply(&Command { clock: at(clock), idempotency: None, change: Change::Tick });
    }

    /// Terms 1 and 3, with commands from 1,000 to 1,010 and from 2,000 to 2,010.
    fn two_terms() -> State {
        let mut state = State::new();
        for (term, clock) in [(1, 1_000), (3, 2_000)] {
            state.enter_term(term);
            tick(&mut state, clock);
            tick(&mut state, clock + 10);
        }
        state
    }

    #[test]
    fn an_offset_that_was_never_issued_is_known_as_such() {
        let state = two_terms();
        for issued in [1_000, 1_005, 1_010, 2_000, 2_010] {
            assert!(state.has_issued(at(issued), None), "{issued}");
        }
        for foreign in [0, 999, 1_011, 1_999, 2_011, u64::MAX] {
            assert!(!state.has_issued(at(foreign), None), "{foreign}");
        }
        assert!(!State::new().has_issued(at(0), None));
    }

    #[test]
    fn an_offset_is_issued_by_one_leadership_only() {
        let mut state = State::new();
        state.enter_term(1);
        tick(&mut state, 1_000);
        let first = state.position().unwrap();
        state.enter_term(2);
        tick(&mut state, 2_000);
        let second = state.position().unwrap();
        assert!(state.has_issued(first.stamp, Some(first.history)));
        assert!(state.has_issued(second.stamp, Some(second.history)));
        assert!(!state.has_issued(first.stamp, Some(second.history)));
        assert!(!state.has_issued(second.stamp, Some(first.history)));
    }

    /// 1. A cluster writes in terms 1 and 2.
    /// 2. A majority is restored to a backup from term 1.
    /// 3. It elects a leader in term 2 again and writes at the same indices, later in real time.
    #[test]
    fn a_history_that_forks_in_the_same_term_is_no_continuation() {
        let mut backup = State::new();
        backup.enter_term(1);
        tick(&mut backup, 1_000);
        let [mut lost, mut restored] = [backup.clone(), backup.clone()];
        for (state, clock) in [(&mut lost, 2_000), (&mut restored, 5_000)] {
            state.enter_term(2);
            tick(state, clock);
        }
        assert!(restored.continues(backup.position().unwrap()));
        assert!(restored.continues(restored.position().unwrap()));
        assert!(!restored.continues(lost.position().unwrap()));
        // The lost command came within term 1, after the backup was made.
        let mut lost = backup.clone();
        tick(&mut lost, 2_000);
        assert!(!restored.continues(lost.position().unwrap()));
        assert!(!backup.continues(lost.position().unwrap()));
    }

    #[test]
    fn a_restored_state_has_the_same_history() {
        let state = two_terms();
        let restored = State::decode(&state.encode()).unwrap();
        assert_eq!(restored.position(), state.position());
        assert!(restored.has_issued(at(1_010), None) && !restored.has_issued(at(1_011), None));
    }

    #[test]
    fn epochs_are_forgotten_oldest_first_and_then_pass() {
        let mut state = State::new();
        let mut positions = Vec::new();
        for term in 1..=EPOCHS_MAX as u64 + 10 {
            state.enter_term(term);
            tick(&mut state, term * 100);
            positions.extend(state.position());
        }
        let (first, last) = (positions[0], positions[positions.len() - 1]);
        assert!(!state.has_issued(first.stamp, None) && state.continues(first));
        assert!(state.has_issued(last.stamp, Some(last.history)) && state.continues(last));
        state.check_invariants().unwrap();
    }
}
