//! Many failures, by what they have in common.
//!
//! A group keeps how many there were, the lowest of their seeds, and the whole failure of the very lowest, so that
//! a sweep says the same whatever the order in which its runs ended.
//!
//! # Invariants
//!
//! - There are at most [`GROUPS_MAX`] groups of at most [`SEEDS_MAX`] seeds; the rest is only counted.
//! - A group's seeds ascend, and its example is of the first.

use std::collections::BTreeMap;

use serde::Serialize;

use super::end::{Failure, Kind, Signature};

/// Groups that are kept. So many different failures mean that signatures do not fit; nobody reads on.
pub const GROUPS_MAX: usize = 200;

/// Seeds that a group keeps.
pub const SEEDS_MAX: usize = 10;

/// A run, by name.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize)]
pub struct Case {
    /// The number of the seed in its sweep.
    #[serde(skip)]
    pub place: u64,
    /// What was played.
    pub scenario: &'static str,
    /// With which seed.
    pub seed: u64,
}

/// Failures that have a signature in common.
#[derive(Clone, Debug)]
pub struct Group {
    /// How many.
    pub count: u64,
    /// The lowest cases.
    pub cases: Vec<Case>,
    /// How the first of them failed.
    pub example: Failure,
}

/// Failures by signature.
#[derive(Clone, Debug, Default)]
pub struct Groups {
    groups: BTreeMap<Signature, Group>,
    /// Failures of further signatures.
    others: u64,
    gravest: Option<Kind>,
}

impl Groups {
    /// Adds a failure, and says whether it is the first with its signature.
    pub fn add(&mut self, case: Case, failure: Failure) -> bool {
        self.gravest = Some(self.gravest.map_or(failure.kind, |kind| kind.min(failure.kind)));
        let signature = failure.signature();
        if let Some(group) = self.groups.get_mut(&signature) {
            group.add(case, failure);
            return false;
        }
        if self.groups.len() == GROUPS_MAX {
            self.others += 1;
            return false;
        }
        self.groups.insert(signature, Group { count: 1, cases: vec![case], example: failure });
        true
    }

    /// The groups, the gravest first.
    pub fn iter(&self) -> impl Iterator<Item = (&Signature, &Group)> {
        self.groups.iter()
    }

    /// How many groups there are.
    pub fn len(&self) -> usize {
        self.groups.len()
    }

    /// Whether nothing failed.
    pub fn is_empty(&self) -> bool {
        self.groups.is_empty()
    }

    /// How many failures were in no group, because there were too many.
    pub fn others(&self) -> u64 {
        self.others
    }

    /// The gravest sort of failure that there was.
    pub fn gravest(&self) -> Option<Kind> {
        self.gravest
    }
}

impl Group {
    fn add(&mut self, case: Case, failure: Failure) {
        self.count += 1;
        let place = self.cases.partition_point(|known| *known < case);
        if place == 0 {
            self.example = failure;
        }
        if place < SEEDS_MAX {
            self.cases.insert(place, case);
            self.cases.truncate(SEEDS_MAX);
        }
        assert!(self.cases.is_sorted(), "a group's seeds ascend");
    }
}

impl Case {
    /// The command that shows the failure again. A difference between two runs of one seed takes two runs.
    #[must_use]
    pub fn command(&self, kind: Kind) -> String {
        let Self { scenario, seed, .. } = self;
        match kind {
            Kind::NonDeterminism => {
                format!(
                    "cargo sim sweep --scenario {scenario} --from {seed} --seeds 1 --twice-every 1"
                )
            }
            _ => format!("cargo sim run --scenario {scenario} --seed {seed}"),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn failure(kind: Kind, what: String) -> Failure {
        Failure { kind, what, place: None, output: String::new() }
    }

    fn case(seed: u64) -> Case {
        Case { place: seed, scenario: "swarm", seed }
    }

    #[test]
    fn a_group_keeps_its_lowest_seeds_whatever_came_first() {
        let mut groups = Groups::default();
        for seed in [30, 7, 12, 50, 9, 40, 41, 42, 43, 44, 45, 46, 8] {
            let first =
                groups.add(case(seed), failure(Kind::Safety, format!("promise: seed {seed}")));
            assert_eq!(first, seed == 30);
        }
        let (signature, group) = groups.iter().next().unwrap();
        assert_eq!(signature.to_string(), "safety: promise");
        assert_eq!((groups.len(), group.count), (1, 13));
        let seeds: Vec<_> = group.cases.iter().map(|case| case.seed).collect();
        assert_eq!(seeds, [7, 8, 9, 12, 30, 40, 41, 42, 43, 44]);
        assert_eq!(group.example.what, "promise: seed 7");
    }

    #[test]
    fn the_gravest_comes_first() {
        let mut groups = Groups::default();
        assert_eq!(groups.gravest(), None);
        groups.add(case(1), failure(Kind::Liveness, "a".to_owned()));
        assert_eq!(groups.gravest(), Some(Kind::Liveness));
        groups.add(case(2), failure(Kind::Safety, "b".to_owned()));
        groups.add(case(3), failure(Kind::Crash, "c".to_owned()));
        assert_eq!(groups.gravest(), Some(Kind::Safety));
        let kinds: Vec<_> = groups.iter().map(|(signature, _)| signature.kind).collect();
        assert_eq!(kinds, [Kind::Safety, Kind::Crash, Kind::Liveness]);
    }

    #[test]
    fn what_is_remembered_is_bounded() {
        let mut groups = Groups::default();
        for seed in 0..1_000 {
            let name = "x".repeat(usize::try_from(seed).unwrap() % 250);
            groups.add(case(seed), failure(Kind::Safety, name));
        }
        assert_eq!(groups.len(), GROUPS_MAX);
        let grouped: u64 = groups.iter().map(|(_, group)| group.count).sum();
        assert_eq!(grouped + groups.others(), 1_000);
    }

    #[test]
    fn a_command_shows_the_failure_again() {
        assert_eq!(case(7).command(Kind::Hang), "cargo sim run --scenario swarm --seed 7");
        assert!(case(7).command(Kind::NonDeterminism).contains("--twice-every 1"));
    }
}
