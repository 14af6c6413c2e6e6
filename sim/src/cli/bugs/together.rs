//! Several bugs in one tree: a cheap first look at many of them.
//!
//! A sweep of one bug plays up to `--limit` seeds. Most of them only show that a late bug is not
//! early. A group of bugs shares these seeds: all its patches are planted together, and one sweep
//! collects the seeds that fail. Then each bug is built alone, and plays only those seeds. A bug
//! that none of them shows is searched for as usual.
//!
//! A run ends at its first failure, so an early bug hides a late one. A group therefore holds bugs
//! that were caught after similar numbers of seeds, according to the table of an earlier
//! measurement ([`medians`]).
//!
//! A number of seeds that was found in this way is an upper bound: an earlier seed may fail with
//! the bug alone.

use std::collections::BTreeMap;

use super::catalogue::Bug;
use super::table::{BEGIN, END};

/// The largest number of failing seeds that are collected for each bug of a group.
pub(super) const SEEDS_PER_BUG: u64 = 4;

/// The column of the median in the table of a file. The name of the bug is column 0.
const MEDIAN_COLUMN: usize = 4;

/// The median number of seeds until each bug was caught, according to the table in `text`.
pub(super) fn medians(text: &str) -> BTreeMap<String, u64> {
    let between = text.split_once(BEGIN).and_then(|(_, rest)| rest.split_once(END));
    let rows = between.map(|(rows, _)| rows).unwrap_or_default().lines();
    rows.filter_map(|row| {
        let cells: Vec<_> = row.trim_matches('|').split(" | ").map(str::trim).collect();
        Some(((*cells.first()?).to_owned(), cells.get(MEDIAN_COLUMN)?.parse().ok()?))
    })
    .collect()
}

/// `bugs` in groups of at most `size`, each of one scenario, with the late bugs first. A bug
/// without a known median counts as late.
pub(super) fn groups(
    mut bugs: Vec<Bug>,
    size: usize,
    medians: &BTreeMap<String, u64>,
) -> Vec<Vec<Bug>> {
    let median = |bug: &Bug| medians.get(&bug.name).copied().unwrap_or(u64::MAX);
    bugs.sort_by(|a, b| {
        a.scenario.cmp(&b.scenario).then(median(b).cmp(&median(a))).then(a.name.cmp(&b.name))
    });
    let of_a_scenario = bugs.chunk_by(|a, b| a.scenario == b.scenario);
    of_a_scenario.flat_map(|bugs| bugs.chunks(size.max(1))).map(<[Bug]>::to_vec).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn bug(name: &str, scenario: &str) -> Bug {
        let text = format!("# story: s\n# expect: raft\n# scenario: {scenario}\n--- a/src/x\n");
        Bug::parse(name, &text).unwrap()
    }

    #[test]
    fn bugs_that_are_caught_about_as_late_stand_together() {
        let table = format!(
            "{BEGIN}\n| bug | caught | by | seeds until caught | median | time | at |\n\
             | --- | --- | --- | --- | --- | --- | --- |\n\
             | a | yes | x | 1, 1, 2 | 1 | 3 s | abc |\n\
             | b | yes | x | 90, 80, 9 | 80 | 3 s | abc |\n\
             | c | 2 of 3 | x | 7, –, 6 | 7 | 3 s | abc |\n{END}"
        );
        let medians = medians(&table);
        assert_eq!(medians, [("a", 1), ("b", 80), ("c", 7)].map(|(n, m)| (n.to_owned(), m)).into());
        let bugs = ["a", "b", "c", "new"].map(|name| bug(name, "swarm"));
        let other = bug("d", "hours");
        let all: Vec<_> = bugs.into_iter().chain([other]).collect();
        let names: Vec<Vec<_>> = groups(all, 2, &medians)
            .iter()
            .map(|group| group.iter().map(|bug| bug.name.clone()).collect())
            .collect();
        assert_eq!(names, [vec!["d"], vec!["new", "b"], vec!["c", "a"]]);
    }
}
