//! What became of commands that carried an idempotency key.
//!
//! Part of the replicated state, so that a retry is recognised whoever leads by then, and of snapshots.
//! Both bounds, [`IDEMPOTENCY_RETENTION`] and the number of entries, are decided by stamps, so that
//! every node forgets the same.

use std::sync::Arc;

use imbl::OrdMap;
use serde::{Deserialize, Serialize};

use super::Outcome;
use crate::metadata::limits::{IDEMPOTENCY_PRUNE_MAX, IDEMPOTENCY_RETENTION};
use crate::metadata::{IdempotencyKey, Timestamp};

/// One remembered outcome.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub(super) struct Remembered {
    pub(super) stamp: Timestamp,
    pub(super) key: IdempotencyKey,
    pub(super) outcome: Outcome,
}

/// What is known of a key.
pub(super) enum Recall {
    /// Never seen, or too long ago.
    Unknown,
    /// Seen with this very request.
    Known(Outcome),
    /// Seen with another request.
    Reused,
}

/// Two ways to the same entries: stamps are unique, so they serve as names.
#[derive(Clone, Debug, Default, PartialEq)]
pub(super) struct Outcomes {
    by_stamp: OrdMap<Timestamp, Arc<Remembered>>,
    stamps: OrdMap<String, Timestamp>,
}

impl Outcomes {
    pub(super) fn recall(&self, now: Timestamp, key: &IdempotencyKey) -> Recall {
        let stamp = self.stamps.get(key.key());
        // Pruning lags behind (it is bounded), so an entry that is there may be too old all the same.
        match stamp.and_then(|stamp| self.by_stamp.get(stamp)) {
            Some(entry) if is_outdated(now, entry.stamp) => Recall::Unknown,
            Some(entry) if entry.key == *key => Recall::Known(entry.outcome.clone()),
            Some(_) => Recall::Reused,
            None => Recall::Unknown,
        }
    }

    /// Remembers an outcome in place of an outdated one of the same key, and of the oldest when there
    /// would be more than `entries_max`.
    pub(super) fn remember(
        &mut self,
        stamp: Timestamp,
        key: &IdempotencyKey,
        outcome: &Outcome,
        entries_max: usize,
    ) {
        let remembered = Remembered { stamp, key: key.clone(), outcome: outcome.clone() };
        if let Some(outdated) = self.stamps.insert(key.key().to_owned(), stamp) {
            self.by_stamp.remove(&outdated);
        }
        self.by_stamp.insert(stamp, Arc::new(remembered));
        if self.by_stamp.len() > entries_max {
            self.forget_oldest();
        }
    }

    /// Forgets some of what is older than the retention.
    pub(super) fn prune(&mut self, now: Timestamp) {
        for _ in 0..IDEMPOTENCY_PRUNE_MAX {
            match self.by_stamp.get_min() {
                Some((stamp, _)) if is_outdated(now, *stamp) => self.forget_oldest(),
                _ => break,
            }
        }
    }

    fn forget_oldest(&mut self) {
        let (oldest, by_stamp) = self.by_stamp.without_min();
        self.by_stamp = by_stamp;
        if let Some(oldest) = oldest {
            self.stamps.remove(oldest.key.key());
        }
    }

    /// The entries, oldest first.
    pub(super) fn iter(&self) -> impl Iterator<Item = &Remembered> {
        self.by_stamp.values().map(AsRef::as_ref)
    }

    /// The table that holds `entries`.
    pub(super) fn from_entries(entries: Vec<Remembered>) -> Self {
        let mut outcomes = Self::default();
        for entry in entries {
            outcomes.stamps.insert(entry.key.key().to_owned(), entry.stamp);
            outcomes.by_stamp.insert(entry.stamp, Arc::new(entry));
        }
        outcomes
    }

    /// The number of entries, by either way to them.
    pub(super) fn lens(&self) -> (usize, usize) {
        (self.by_stamp.len(), self.stamps.len())
    }
}

fn is_outdated(now: Timestamp, stamp: Timestamp) -> bool {
    now.saturating_since(stamp) > IDEMPOTENCY_RETENTION
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(seconds: u64) -> Timestamp {
        Timestamp::from_micros(seconds * 1_000_000)
    }

    fn key(text: &str) -> IdempotencyKey {
        IdempotencyKey::new(text, 0).unwrap()
    }

    #[test]
    fn the_retention_is_exact() {
        let mut outcomes = Outcomes::default();
        outcomes.remember(at(0), &key("a"), &Ok(None), 10);
        assert!(matches!(outcomes.recall(at(600), &key("a")), Recall::Known(_)));
        assert!(matches!(outcomes.recall(at(600).next(), &key("a")), Recall::Unknown));
        outcomes.prune(at(600));
        assert_eq!(outcomes.lens(), (1, 1));
        outcomes.prune(at(600).next());
        assert_eq!(outcomes.lens(), (0, 0));
    }

    #[test]
    fn the_oldest_is_forgotten_first_when_there_are_too_many() {
        let mut outcomes = Outcomes::default();
        for (second, text) in ["a", "b", "c"].into_iter().enumerate() {
            outcomes.remember(at(second as u64), &key(text), &Ok(None), 2);
        }
        assert_eq!(outcomes.lens(), (2, 2));
        assert!(matches!(outcomes.recall(at(3), &key("a")), Recall::Unknown));
        assert!(matches!(outcomes.recall(at(3), &key("b")), Recall::Known(_)));
    }

    #[test]
    fn an_outdated_outcome_makes_way_for_its_keys_next() {
        let mut outcomes = Outcomes::default();
        outcomes.remember(at(0), &key("a"), &Ok(None), 10);
        outcomes.remember(at(700), &key("a"), &Ok(None), 10);
        assert_eq!(outcomes.lens(), (1, 1));
        assert!(matches!(outcomes.recall(at(1_300), &key("a")), Recall::Known(_)));
    }
}
