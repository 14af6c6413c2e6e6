//! What the journal's records amount to.

use bytes::Bytes;
use serde::{Deserialize, Serialize};

use super::super::{OpenError, decode};
use crate::raft::types::{Ballot, EntryId, LogEntry};

/// One change of the log or of what goes with it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(in super::super) enum Op {
    /// What held when a segment was begun: the segments before it may be written over once their entries are
    /// purged.
    Head(Head),
    /// An entry, encoded.
    Append(Bytes),
    /// Removes every entry from this index on.
    TruncateFrom(u64),
    /// Forgets every entry up to this one.
    Purge(EntryId),
    Vote(Ballot),
    Committed(EntryId),
}

/// All but the entries.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub(in super::super) struct Head {
    pub(in super::super) vote: Option<Ballot>,
    pub(in super::super) committed: Option<EntryId>,
    pub(in super::super) purged: Option<EntryId>,
    /// The index that the next entry gets.
    pub(in super::super) next: u64,
}

impl Head {
    /// The first index that is not purged.
    pub(super) fn first(&self) -> u64 {
        self.purged.map_or(0, |purged| purged.index() + 1)
    }

    /// What holds after `op`.
    pub(super) fn note(&mut self, op: &Op) {
        match op {
            Op::Head(head) => *self = *head,
            Op::Append(_) => self.next += 1,
            Op::TruncateFrom(index) => self.next = self.next.min(*index),
            Op::Purge(upto) => {
                self.purged = self.purged.max(Some(*upto));
                self.next = self.next.max(self.first());
            }
            Op::Vote(vote) => self.vote = Some(*vote),
            Op::Committed(committed) => self.committed = Some(*committed),
        }
    }
}

/// Applies operations in the order in which they were written.
#[derive(Debug, Default)]
pub(in super::super) struct Replay {
    pub(in super::super) head: Head,
    /// The entries, with their encoded lengths. In the middle, those before the first record are missing.
    pub(in super::super) entries: std::collections::VecDeque<(LogEntry, usize)>,
}

impl Replay {
    pub(super) fn apply(&mut self, op: &Op) -> Result<(), OpenError> {
        match op {
            // Only the first says something new.
            Op::Head(head) => {
                let (found, none) = (&self.head, self.entries.is_empty());
                if head != found && !(none && *found == Head::default()) {
                    return Err(OpenError::Corrupt(format!("{head:?} follows {found:?}")));
                }
            }
            Op::Append(bytes) => {
                let entry: LogEntry = decode(bytes, "log entry")?;
                let (index, next) = (entry.log_id.index(), self.head.next);
                if index != next {
                    return Err(OpenError::Corrupt(format!("entry {index} is where {next} goes")));
                }
                self.entries.push_back((entry, bytes.len()));
            }
            Op::TruncateFrom(index) => {
                while self.entries.back().is_some_and(|(last, _)| last.log_id.index() >= *index) {
                    self.entries.pop_back();
                }
            }
            Op::Purge(_) | Op::Vote(_) | Op::Committed(_) => {}
        }
        self.head.note(op);
        self.forget_purged();
        Ok(())
    }

    fn forget_purged(&mut self) {
        let first = self.head.first();
        while self.entries.front().is_some_and(|(entry, _)| entry.log_id.index() < first) {
            self.entries.pop_front();
        }
    }

    /// Checks that every entry that should be there is.
    pub(super) fn finish(self) -> Result<Self, OpenError> {
        let (first, next) = (self.head.first(), self.head.next);
        let (expected, found) = (next.checked_sub(first), self.entries.len());
        let begins = self.entries.front().is_none_or(|(entry, _)| entry.log_id.index() == first);
        if expected == Some(found as u64) && begins {
            return Ok(self);
        }
        Err(OpenError::Corrupt(format!(
            "of the log entries {first} to {next}, only {found} are there"
        )))
    }
}
