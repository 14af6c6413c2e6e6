//! A log as the checker remembers it.

use std::collections::BTreeMap;

use yakt::raft::EntryId;

/// A log as far as it matters here: which entry is at which index.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Log {
    pub(super) purged: Option<EntryId>,
    pub(super) entries: BTreeMap<u64, EntryId>,
}

impl Log {
    pub(super) fn last_index(&self) -> Option<u64> {
        let last = self.entries.last_key_value().map(|(index, _)| *index);
        last.max(self.purged.map(|purged| purged.index))
    }

    pub(super) fn purge(&mut self, upto: EntryId) {
        self.purged = self.purged.max(Some(upto));
        self.entries = self.entries.split_off(&(upto.index + 1));
    }

    /// Whether the log has `id`, or has forgotten that index.
    pub(super) fn holds(&self, id: EntryId) -> bool {
        self.purged.is_some_and(|purged| purged.index >= id.index)
            || self.entries.get(&id.index) == Some(&id)
    }

    /// The entries at `from` to `to`.
    pub(super) fn clone_range(&self, from: u64, to: u64) -> Vec<(u64, EntryId)> {
        if from > to {
            return Vec::new();
        }
        self.entries.range(from..=to).map(|(index, id)| (*index, *id)).collect()
    }
}
