//! What the journal's records amount to.

use bytes::Bytes;
use serde::{Deserialize, Serialize};

use super::super::entries::Entries;
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
#[derive(Debug)]
pub(in super::super) struct Replay {
    pub(in super::super) head: Head,
    /// In the middle, those before the first record are missing.
    pub(in super::super) entries: Entries,
}

impl Replay {
    /// Nothing yet.
    pub(super) fn new(decoded_bytes_max: usize) -> Self {
        Self { head: Head::default(), entries: Entries::new(decoded_bytes_max) }
    }

    pub(super) fn apply(&mut self, op: &Op) -> Result<(), OpenError> {
        match op {
            // Only the first says something new.
            Op::Head(head) => {
                let (found, none) = (&self.head, self.entries.len() == 0);
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
                self.entries.push(entry, bytes.clone());
            }
            Op::TruncateFrom(index) => self.entries.truncate_from(*index)?,
            Op::Purge(_) | Op::Vote(_) | Op::Committed(_) => {}
        }
        self.head.note(op);
        self.entries.forget_below(self.head.first());
        Ok(())
    }

    /// Checks that every entry that should be there is.
    pub(super) fn finish(self) -> Result<Self, OpenError> {
        let (first, next) = (self.head.first(), self.head.next);
        let (expected, found) = (next.checked_sub(first), self.entries.len());
        let begins = self.entries.first_index().is_none_or(|index| index == first);
        if expected == Some(found as u64) && begins {
            return Ok(self);
        }
        Err(OpenError::Corrupt(format!(
            "of the log entries {first} to {next}, only {found} are there"
        )))
    }
}
