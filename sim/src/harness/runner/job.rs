//! What a process is told to play, and what it says of it.
//!
//! The job is JSON in the environment variable `YAKT_SIM_JOB`. A schedule, which may be larger than a variable may
//! be, comes as the first line of standard input instead; the rest of standard input only says, by ending, that the
//! runner is gone or waits no longer: the process then writes its report of what there was until then, if it is to write
//! one, and ends. The process prints lines of `MARK` and JSON to standard output, among whatever else is printed there: each
//! panic as it happens, that the report is written, and the outcome at last. Its exit code says the same in short:
//!
//! | code | means |
//! |---|---|
//! | 0 | clean, or unrecoverable |
//! | 10 | safety was violated |
//! | 11 | liveness was violated |
//! | 101 | something panicked |
//! | 1 | it could not play |

use std::fmt;
use std::path::PathBuf;
use std::str::FromStr;

use serde::{Deserialize, Serialize};

use super::selftest::Selftest;
use crate::harness::Outcome;
use crate::harness::scenarios::{self, Scenario};
use crate::harness::schedule::Schedule;

/// The variable that holds the job.
pub(super) const JOB: &str = "YAKT_SIM_JOB";

/// What the lines begin with that are meant for the runner.
pub(super) const MARK: &str = "yakt-sim> ";

/// Exit codes; a panic's is Rust's own.
pub(super) const EXIT_SAFETY: u8 = 10;
pub(super) const EXIT_LIVENESS: u8 = 11;

/// What a seed is played on.
#[derive(Clone, Copy)]
pub enum Piece {
    /// A scenario.
    Scenario(Scenario),
    /// A run that misbehaves on purpose: see [`selftest`](super::selftest).
    Selftest(Selftest),
}

impl Piece {
    /// What it is called.
    pub fn name(self) -> &'static str {
        match self {
            Self::Scenario(scenario) => scenario.name,
            Self::Selftest(selftest) => selftest.name(),
        }
    }

    /// The schedule that `seed` draws, if it draws one.
    pub fn draw(self, seed: u64) -> Option<Schedule> {
        match self {
            Self::Scenario(scenario) => scenario.draw(seed),
            Self::Selftest(selftest) => selftest.draw(seed),
        }
    }
}

impl fmt::Debug for Piece {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

impl FromStr for Piece {
    type Err = String;

    fn from_str(name: &str) -> Result<Self, String> {
        let scenario = scenarios::find(name).map(Self::Scenario);
        let piece = scenario.or_else(|| Selftest::find(name).map(Self::Selftest));
        piece.ok_or_else(|| {
            let names: Vec<_> = scenarios::ALL.iter().map(|scenario| scenario.name).collect();
            format!("no scenario is called that; there are {}", names.join(", "))
        })
    }
}

/// What is to be played.
#[derive(Clone, Copy, Debug)]
pub enum Work<'a> {
    /// What a seed makes of a piece.
    Seed(Piece, u64),
    /// Exactly this.
    Schedule(&'a Schedule),
}

/// What the process is told.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub(super) struct Job {
    pub(super) play: Play,
    #[serde(default)]
    pub(super) trace: Option<PathBuf>,
    #[serde(default)]
    pub(super) report: Option<PathBuf>,
    #[serde(default)]
    pub(super) command: Option<String>,
}

/// What it is to play.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub(super) enum Play {
    Seed { piece: String, seed: u64 },
    Schedule,
}

/// What the process says.
#[derive(Debug, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub(super) enum Said {
    Panic(Panic),
    /// Its report is written.
    Report,
    Outcome(Outcome),
}

/// A panic.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Panic {
    /// What it said.
    pub message: String,
    /// File, line and column.
    pub place: String,
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::harness::coverage::{Coverage, Site};
    use crate::harness::{Summary, Verdict, Violation};

    #[test]
    fn pieces_are_found_by_name() {
        for scenario in scenarios::ALL {
            assert_eq!(scenario.name.parse::<Piece>().unwrap().name(), scenario.name);
        }
        let hidden: Piece = "selftest-panic".parse().unwrap();
        assert!(matches!(hidden, Piece::Selftest(Selftest::Panic)));
        assert!("no_such".parse::<Piece>().unwrap_err().contains(scenarios::ALL[0].name));
    }

    #[test]
    fn an_outcome_survives_the_pipe() {
        let coverage = Coverage::default();
        coverage.fire(Site::TornWrite);
        let summary = Summary {
            operations: 1,
            leaders: 2,
            // More than a floating point number holds.
            trace_hash: u64::MAX - 1,
            trace_events: 4,
            virtual_millis: 5_000,
        };
        let mut violation = Violation::safety("acknowledged writes stay: \"t7\"\nis gone");
        violation.exchanges = vec![3, 4];
        for verdict in [Verdict::Clean, Verdict::Unrecoverable, Verdict::Violated(violation)] {
            let outcome = Outcome { verdict, summary: summary.clone(), coverage: coverage.clone() };
            let line = serde_json::to_string(&Said::Outcome(outcome.clone())).unwrap();
            assert!(!line.contains('\n'), "an outcome is one line");
            let Said::Outcome(read) = serde_json::from_str(&line).unwrap() else {
                panic!("{line}")
            };
            assert_eq!((read.verdict, read.summary), (outcome.verdict, outcome.summary));
            assert_eq!(read.coverage.count(Site::TornWrite), coverage.count(Site::TornWrite));
        }
    }
}
