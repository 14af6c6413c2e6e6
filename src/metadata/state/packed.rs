//! Persistent maps and sets of entries that are all known beforehand.
//!
//! imbl splits a leaf that is full into halves, and what is inserted in order never comes back to the left one: a map that
//! was read from a snapshot would have every leaf half empty.
//! So every other entry is inserted first, in order, and then those between them, which fill up the leaves. In order both
//! times: to insert a million entries here and there takes several times as long.

use imbl::{OrdMap, OrdSet};

/// The map of `entries`, which are sorted.
pub(super) fn map<K: Ord + Clone, V: Clone>(
    entries: impl Iterator<Item = (K, V)> + Clone,
) -> OrdMap<K, V> {
    let mut map: OrdMap<K, V> = entries.clone().step_by(2).collect();
    map.extend(entries.skip(1).step_by(2));
    map
}

/// The set of `entries`, in whatever order.
pub(super) fn set<T: Ord + Clone>(entries: impl Iterator<Item = T>) -> OrdSet<T> {
    let mut entries: Vec<_> = entries.collect();
    entries.sort_unstable();
    let mut set: OrdSet<T> = entries.iter().step_by(2).cloned().collect();
    set.extend(entries.iter().skip(1).step_by(2).cloned());
    set
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn nothing_is_left_out() {
        for count in [0_u32, 1, 2, 3, 15, 16, 17, 1_000] {
            let entries = (0..count).map(|number| (number, 2 * number));
            assert!(map(entries.clone()).into_iter().eq(entries));
            assert!(set((0..count).rev()).into_iter().eq(0..count));
        }
    }
}
