//! The entries of the log, in memory.

use std::collections::VecDeque;
use std::io;
use std::ops::{Bound, RangeBounds};

use bytes::Bytes;

use crate::codec;
use crate::raft::types::{EntryId, LogEntry};

/// Entries without holes.
///
/// Raft reads each entry a few times while it is new, for each follower and to apply it, and then hardly ever again; and
/// a log that waits for the snapshot of a million partitions has more than a hundred thousand. So the last ones are
/// decoded, and the others are kept as they are on the disk. One that creates a partition takes a third of the memory then,
/// one that creates a topic about as much as before: decoded, it shares a name with the record that it made.
#[derive(Debug)]
pub(super) struct Entries {
    /// Encoded bytes of those that are decoded, at most, unless there is only one.
    decoded_bytes_max: usize,
    /// The index of the first one. Says nothing if there is none.
    first: u64,
    encoded: VecDeque<Box<[u8]>>,
    /// Those behind them: not empty unless both are.
    decoded: VecDeque<(LogEntry, Bytes)>,
    /// Encoded bytes of those.
    decoded_bytes: usize,
}

impl Entries {
    /// None yet. Of the last ones, those that have `decoded_bytes_max` encoded will be decoded, but one at least.
    pub(super) fn new(decoded_bytes_max: usize) -> Self {
        let (encoded, decoded) = (VecDeque::new(), VecDeque::new());
        Self { decoded_bytes_max, first: 0, encoded, decoded, decoded_bytes: 0 }
    }

    pub(super) fn len(&self) -> usize {
        self.encoded.len() + self.decoded.len()
    }

    /// The index of the first one.
    pub(super) fn first_index(&self) -> Option<u64> {
        (self.len() > 0).then_some(self.first)
    }

    pub(super) fn last(&self) -> Option<EntryId> {
        self.decoded.back().map(|(entry, _)| entry.log_id)
    }

    /// The id of the entry with this index, if it is there.
    ///
    /// # Errors
    ///
    /// When the memory does not hold the bytes that were put there.
    pub(super) fn id_at(&self, index: u64) -> io::Result<Option<EntryId>> {
        let Some(position) =
            self.positions(&(index..=index)).next().filter(|_| index >= self.first)
        else {
            return Ok(None);
        };
        Ok(Some(match position.checked_sub(self.encoded.len()) {
            None => decode(&self.encoded[position])?.log_id,
            Some(position) => self.decoded[position].0.log_id,
        }))
    }

    /// How many bytes each is encoded.
    pub(super) fn lengths(&self) -> impl Iterator<Item = usize> {
        let encoded = self.encoded.iter().map(|bytes| bytes.len());
        encoded.chain(self.decoded.iter().map(|(_, bytes)| bytes.len()))
    }

    /// Adds `entry`, which follows the last one and is encoded as `bytes`.
    pub(super) fn push(&mut self, entry: LogEntry, bytes: Bytes) {
        if self.len() == 0 {
            self.first = entry.log_id.index();
        }
        self.decoded_bytes += bytes.len();
        self.decoded.push_back((entry, bytes));
        while self.decoded_bytes > self.decoded_bytes_max && self.decoded.len() > 1 {
            if let Some((_, bytes)) = self.decoded.pop_front() {
                self.decoded_bytes -= bytes.len();
                self.encoded.push_back(Box::from(&*bytes));
            }
        }
    }

    /// Those with indices in `range`, as many of the first as have `bytes_max` encoded, but one at least.
    ///
    /// # Errors
    ///
    /// When the memory does not hold what was put there.
    pub(super) fn read(
        &self,
        range: &impl RangeBounds<u64>,
        bytes_max: usize,
    ) -> io::Result<Vec<LogEntry>> {
        let mut read = Vec::new();
        let mut bytes_left = bytes_max;
        for position in self.positions(range) {
            let length = self.length(position);
            if length > bytes_left && !read.is_empty() {
                break;
            }
            bytes_left = bytes_left.saturating_sub(length);
            read.push(match position.checked_sub(self.encoded.len()) {
                None => decode(&self.encoded[position])?,
                Some(position) => self.decoded[position].0.clone(),
            });
        }
        Ok(read)
    }

    /// Removes those with indices below `first`.
    pub(super) fn forget_below(&mut self, first: u64) {
        let forgotten = self.positions(&(..first)).len();
        let encoded = forgotten.min(self.encoded.len());
        self.encoded.drain(..encoded);
        for (_, bytes) in self.decoded.drain(..forgotten - encoded) {
            self.decoded_bytes -= bytes.len();
        }
        self.first += forgotten as u64;
    }

    /// Removes those with indices of `index` and above.
    ///
    /// # Errors
    ///
    /// When the memory does not hold what was put there.
    pub(super) fn truncate_from(&mut self, index: u64) -> io::Result<()> {
        let kept = self.positions(&(..index)).len();
        while self.len() > kept {
            match self.decoded.pop_back() {
                Some((_, bytes)) => self.decoded_bytes -= bytes.len(),
                None => drop(self.encoded.pop_back()),
            }
        }
        if self.decoded.is_empty()
            && let Some(bytes) = self.encoded.back()
        {
            let entry = decode(bytes)?;
            self.decoded_bytes = bytes.len();
            self.decoded.push_back((entry, Bytes::copy_from_slice(bytes)));
            self.encoded.pop_back();
        }
        Ok(())
    }

    fn length(&self, position: usize) -> usize {
        match position.checked_sub(self.encoded.len()) {
            None => self.encoded[position].len(),
            Some(position) => self.decoded[position].1.len(),
        }
    }

    /// The positions of the indices in `range` that are there.
    fn positions(&self, range: &impl RangeBounds<u64>) -> std::ops::Range<usize> {
        let start = match range.start_bound() {
            Bound::Included(&index) => index,
            Bound::Excluded(&index) => index.saturating_add(1),
            Bound::Unbounded => 0,
        };
        let end = match range.end_bound() {
            Bound::Included(&index) => index.saturating_add(1),
            Bound::Excluded(&index) => index,
            Bound::Unbounded => u64::MAX,
        };
        let position = |index: u64| {
            usize::try_from(index.saturating_sub(self.first))
                .map_or(self.len(), |n| n.min(self.len()))
        };
        let (start, end) = (position(start), position(end));
        start..end.max(start)
    }
}

fn decode(bytes: &[u8]) -> io::Result<LogEntry> {
    codec::decode_versioned(bytes)
        .map_err(|error| io::Error::new(io::ErrorKind::InvalidData, error))
}

#[cfg(test)]
mod tests {
    use openraft::EntryPayload;
    use openraft::vote::RaftLeaderId;
    use proptest::prelude::*;

    use super::*;
    use crate::raft::types::Leader;

    fn entry(index: u64) -> LogEntry {
        let leader = Leader { term: 7, voted_for: 1 }.to_committed();
        LogEntry { log_id: EntryId::new(leader, index), payload: EntryPayload::Blank }
    }

    fn encoded(entry: &LogEntry) -> Bytes {
        codec::encode_versioned(entry).into()
    }

    #[derive(Clone, Debug)]
    enum Step {
        Push(u64),
        Forget(u64),
        Truncate(u64),
        /// Forgets all, and goes on so far behind them, as a log does after a snapshot from elsewhere.
        Jump(u64),
        Read(u64, u64, usize),
    }

    /// Indices are counted from ten before the first entry.
    fn step() -> impl Strategy<Value = Step> {
        prop_oneof![
            (0..50_u64).prop_map(Step::Push),
            (0..60_u64).prop_map(Step::Forget),
            (0..60_u64).prop_map(Step::Truncate),
            (0..60_u64).prop_map(Step::Jump),
            (0..60_u64, 0..60_u64, 0..200_usize)
                .prop_map(|(start, end, bytes)| Step::Read(start, end, bytes)),
        ]
    }

    proptest! {
        #[test]
        fn they_are_what_was_pushed_and_not_removed(
            decoded_bytes_max in 0..100_usize,
            begin in 10..300_u64,
            steps in proptest::collection::vec(step(), 1..40),
        ) {
            let mut entries = Entries::new(decoded_bytes_max);
            let mut expected: VecDeque<LogEntry> = VecDeque::new();
            let mut next = begin;
            for step in steps {
                let first = expected.front().map_or(next, |entry| entry.log_id.index());
                let before = first - 10;
                match step {
                    Step::Push(count) => for _ in 0..count {
                        entries.push(entry(next), encoded(&entry(next)));
                        expected.push_back(entry(next));
                        next += 1;
                    },
                    Step::Forget(below) => {
                        entries.forget_below(before + below);
                        expected.retain(|entry| entry.log_id.index() >= before + below);
                    }
                    Step::Truncate(from) => {
                        entries.truncate_from(before + from)?;
                        expected.retain(|entry| entry.log_id.index() < before + from);
                        next = next.min(first.max(before + from));
                    }
                    Step::Jump(further) => {
                        next += further;
                        entries.forget_below(next);
                        expected.clear();
                    }
                    Step::Read(start, end, bytes_max) => {
                        let (start, end) = (before + start, before + end);
                        let mut bytes = 0;
                        let within = expected
                            .iter()
                            .filter(|entry| (start..end).contains(&entry.log_id.index()))
                            .take_while(|entry| {
                                let none = bytes == 0;
                                bytes += encoded(entry).len();
                                none || bytes <= bytes_max
                            });
                        let within: Vec<_> = within.cloned().collect();
                        prop_assert_eq!(entries.read(&(start..end), bytes_max)?, within.clone());
                        if end > start {
                            prop_assert_eq!(entries.read(&(start..=end - 1), bytes_max)?, within);
                        }
                    }
                }
                prop_assert_eq!(entries.len(), expected.len());
                prop_assert_eq!(entries.last(), expected.back().map(|entry| entry.log_id));
                let first = expected.front().map(|entry| entry.log_id.index());
                prop_assert_eq!(entries.first_index(), first);
                for index in before..next + 2 {
                    let id = expected.iter().map(|entry| entry.log_id).find(|id| id.index == index);
                    prop_assert_eq!(entries.id_at(index)?, id);
                }
                let lengths: Vec<_> = expected.iter().map(|entry| encoded(entry).len()).collect();
                prop_assert_eq!(entries.lengths().collect::<Vec<_>>(), lengths);
                prop_assert_eq!(Vec::from(expected.clone()), entries.read(&.., usize::MAX)?);
                let decoded: usize = entries.decoded.iter().map(|(_, bytes)| bytes.len()).sum();
                prop_assert_eq!(entries.decoded_bytes, decoded);
                prop_assert!(decoded <= decoded_bytes_max || entries.decoded.len() == 1);
            }
        }
    }
}
