//! What trials found, remembered from call to call.
//!
//! A trial is one sweep: of one bug, in the code as it was, over so many seeds from one base. Its result is
//! written down at once, and holds until the code, the patch or the number of seeds changes.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;
use std::fs;
use std::io;
use std::path::{Path, PathBuf};
use std::time::Duration;

use serde::{Deserialize, Serialize};

use super::catalogue::Bug;
use super::{Failure, at};

/// What `sim sweep --json` says, as far as it is asked here.
#[derive(Debug, Deserialize)]
pub(super) struct Sweep {
    /// Runs that were played to their end.
    runs: u64,
    failures: Vec<Caught>,
}

/// A run that failed.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Caught {
    /// The sort of failure: `safety`, `crash` and so on.
    pub(super) kind: String,
    /// The promise that was broken, or the panic.
    pub(super) signature: String,
    /// What happened, in words.
    pub(super) what: String,
    pub(super) seed: u64,
    /// The lowest runs that failed in the same way.
    #[serde(default, skip_serializing)]
    lowest: Vec<Run>,
}

/// One run of a sweep.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize)]
struct Run {
    seed: u64,
}

impl Sweep {
    /// The seeds that failed, in order, as far as the sweep names them.
    pub(super) fn failed_seeds(&self) -> BTreeSet<u64> {
        let lowest = self.failures.iter().flat_map(|caught| &caught.lowest);
        lowest.map(|run| run.seed).chain(self.failures.iter().map(|caught| caught.seed)).collect()
    }
}

/// What came of one sweep.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Trial {
    /// The first seed.
    pub(super) base: u64,
    /// Seeds until the bug was caught, that one included; `None` when it was not.
    pub(super) seeds: Option<u64>,
    /// Whether an earlier seed may fail too: a group of bugs found this one (see
    /// [`together`](super::together)).
    #[serde(default)]
    pub(super) at_most: bool,
    /// The first run that failed.
    pub(super) caught: Option<Caught>,
    /// Runs that were played.
    pub(super) runs: u64,
    pub(super) millis: u64,
    /// The commit that was checked out, if git knew one; earlier calls did not note it.
    #[serde(default)]
    pub(super) at: Option<String>,
}

impl Trial {
    pub(super) fn new(sweep: Sweep, base: u64, took: Duration) -> Self {
        // Seeds are begun in order and played to their end: the lowest that failed is the first one.
        let caught = sweep.failures.into_iter().min_by_key(|failure| failure.seed);
        let seeds = caught.as_ref().map(|caught| caught.seed.saturating_sub(base) + 1);
        let millis = u64::try_from(took.as_millis()).unwrap_or(u64::MAX);
        Self { base, seeds, at_most: false, caught, runs: sweep.runs, millis, at: None }
    }

    /// The same, made at `revision`.
    pub(super) fn at(self, revision: Option<String>) -> Self {
        Self { at: revision, ..self }
    }
}

impl fmt::Display for Trial {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { runs, millis, .. } = self;
        match (&self.caught, self.seeds) {
            (Some(caught), Some(seeds)) => write!(f, "{caught} in seed {seeds}")?,
            _ => write!(f, "nothing in {runs} runs")?,
        }
        write!(f, " ({:.1} s)", Duration::from_millis(*millis).as_secs_f64())
    }
}

impl fmt::Display for Caught {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { kind, signature, .. } = self;
        // Some signatures begin with their kind.
        let text = signature.strip_prefix(kind.as_str()).unwrap_or(signature);
        write!(f, "{kind}: {}", text.trim_start_matches([':', ' ']))
    }
}

/// What came of all trials of a bug.
#[derive(Clone, Debug, Serialize)]
pub(super) struct Finding {
    pub(super) name: String,
    pub(super) story: String,
    pub(super) expected: String,
    pub(super) scenario: String,
    /// Whether this row is the code without a bug.
    pub(super) control: bool,
    pub(super) status: Status,
    pub(super) trials: Vec<Trial>,
    /// Seeds until it is caught, in the middle one of the trials.
    pub(super) median: Option<u64>,
    /// Why it could not be tried.
    pub(super) error: Option<String>,
}

/// What became of a bug.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "kebab-case")]
pub(super) enum Status {
    /// At least one trial caught it.
    Caught,
    /// All trials were made, and none did.
    Survived,
    /// Not all trials were made.
    Untried,
    /// The patch does not apply or the code does not build.
    Broken,
}

impl Finding {
    /// What `trials`, of `bases` that there should be, say about `bug`.
    pub(super) fn new(bug: Bug, trials: Vec<Trial>, bases: usize, error: Option<String>) -> Self {
        let status = match trials.iter().any(|trial| trial.caught.is_some()) {
            _ if error.is_some() => Status::Broken,
            true => Status::Caught,
            false if trials.len() < bases => Status::Untried,
            false => Status::Survived,
        };
        let mut seeds: Vec<_> =
            trials.iter().map(|trial| trial.seeds.unwrap_or(u64::MAX)).collect();
        seeds.sort_unstable();
        let middle = seeds.get(seeds.len().saturating_sub(1) / 2).copied();
        Self {
            control: bug.patch.is_none(),
            name: bug.name,
            story: bug.story,
            expected: bug.expected,
            scenario: bug.scenario,
            status,
            median: middle.filter(|seeds| *seeds < u64::MAX),
            trials,
            error,
        }
    }

    /// Whether this is no reason for alarm.
    pub(super) fn is_as_it_should_be(&self) -> bool {
        let wanted = if self.control { Status::Survived } else { Status::Caught };
        self.status == wanted || self.status == Status::Untried
    }

    /// Where it was measured, each revision once: a result that still holds may be older than the commit of today.
    pub(super) fn revisions(&self) -> Vec<&str> {
        let mut revisions: Vec<_> =
            self.trials.iter().map(|trial| trial.at.as_deref().unwrap_or("–")).collect();
        revisions.dedup();
        revisions
    }

    /// How it was caught, each way once.
    pub(super) fn ways(&self) -> Vec<String> {
        let mut ways: Vec<_> = self
            .trials
            .iter()
            .filter_map(|trial| Some(trial.caught.as_ref()?.to_string()))
            .collect();
        ways.sort();
        ways.dedup();
        ways
    }
}

/// What identifies a trial.
pub(super) struct Key<'a> {
    /// The code's digest.
    pub(super) tree: u64,
    pub(super) bug: &'a Bug,
    pub(super) base: u64,
    pub(super) limit: u64,
}

impl fmt::Display for Key<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { tree, bug, base, limit } = self;
        write!(f, "{tree:016x} {:016x} {} {base}+{limit}", bug.digest(), bug.scenario)
    }
}

/// The trials of this call and of earlier ones, in a file.
#[derive(Debug)]
pub(super) struct Results {
    path: PathBuf,
    trials: BTreeMap<String, Trial>,
}

impl Results {
    /// What is in the file at `path`, if there is one, unless everything is to be found out `fresh`.
    pub(super) fn open(path: &Path, fresh: bool) -> Result<Self, Failure> {
        let trials = match fs::read(path) {
            Ok(bytes) if !fresh => serde_json::from_slice(&bytes)
                .map_err(|error| format!("{}: {error} (--fresh begins anew)", path.display()))?,
            Ok(_) => BTreeMap::new(),
            Err(error) if error.kind() == io::ErrorKind::NotFound => BTreeMap::new(),
            Err(error) => return Err(at(path, &error)),
        };
        Ok(Self { path: path.to_owned(), trials })
    }

    pub(super) fn get(&self, key: &Key<'_>) -> Option<&Trial> {
        self.trials.get(&key.to_string())
    }

    /// Remembers a trial, whatever happens next.
    pub(super) fn insert(&mut self, key: &Key<'_>, trial: Trial) -> Result<(), Failure> {
        self.trials.insert(key.to_string(), trial);
        let next = self.path.with_extension("json.next");
        let bytes = serde_json::to_vec_pretty(&self.trials)?;
        fs::write(&next, bytes).map_err(|error| at(&next, &error))?;
        fs::rename(&next, &self.path).map_err(|error| at(&self.path, &error))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn trial(base: u64, failed: &[u64]) -> Trial {
        let failures = failed.iter().map(|seed| {
            let (kind, signature) = ("safety".to_owned(), "safety: durability".to_owned());
            Caught { kind, signature, what: String::new(), seed: *seed, lowest: Vec::new() }
        });
        let sweep = Sweep { runs: 9, failures: failures.collect() };
        Trial::new(sweep, base, Duration::from_secs(1))
    }

    fn found(trials: Vec<Trial>) -> Finding {
        let bug = Bug::parse("x", "# story: s\n# expect: raft\n").unwrap();
        Finding::new(bug, trials, 3, None)
    }

    #[test]
    fn the_lowest_seed_that_failed_counts() {
        let trial = trial(100, &[107, 104, 109]);
        assert_eq!((trial.seeds, trial.runs), (Some(5), 9));
        assert_eq!(trial.to_string(), "safety: durability in seed 5 (1.0 s)");
    }

    #[test]
    fn a_result_from_before_revisions_were_noted_is_still_read() {
        let old = r#"{"base":1,"seeds":null,"caught":null,"runs":9,"millis":1000}"#;
        let old: Trial = serde_json::from_str(old).unwrap();
        assert_eq!(old, trial(1, &[]));
        let new = trial(1, &[]).at(Some("abc".to_owned()));
        assert_eq!(found(vec![old, new.clone(), new]).revisions(), ["–", "abc"]);
    }

    #[test]
    fn the_median_counts_trials_that_caught_nothing_as_endless() {
        let finding = found(vec![trial(1, &[3]), trial(1, &[]), trial(1, &[8])]);
        assert_eq!((finding.status, finding.median), (Status::Caught, Some(8)));
        let finding = found(vec![trial(1, &[]), trial(1, &[]), trial(1, &[8])]);
        assert_eq!((finding.status, finding.median), (Status::Caught, None));
    }

    #[test]
    fn a_bug_survives_only_when_everything_was_tried() {
        assert_eq!(found(vec![]).status, Status::Untried);
        assert_eq!(found(vec![trial(1, &[]); 2]).status, Status::Untried);
        assert_eq!(found(vec![trial(1, &[]); 3]).status, Status::Survived);
        assert!(!found(vec![trial(1, &[]); 3]).is_as_it_should_be());
        let control = Finding::new(Bug::none("swarm".to_owned()), vec![trial(1, &[4])], 1, None);
        assert!(!control.is_as_it_should_be());
    }
}
