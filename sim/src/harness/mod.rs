//! Runs a whole cluster in the simulated world, under faults and load, and checks what came of it.
//!
//! | module | is |
//! |---|---|
//! | [`cluster`] | server processes, and what can happen to them |
//! | [`client`] | an HTTP client on a simulated host |
//! | [`workload`] | clients that write, read and poll, as planned |
//! | [`schedule`] | a run as data: drawn from a seed, played, made smaller |
//! | [`scenarios`] | which runs there are |
//! | [`subject`] | what is simulated: yakt, or a service that embeds it |
//! | [`check`] | what must hold, in four layers |
//! | [`contract`] | how much of the HTTP contract was asked for and seen |
//! | [`coverage`] | rare things, and how often they happened |
//! | [`exchanges`], [`record`] | what was asked and answered, and what a report shows |
//! | [`runner`] | one process a run, many runs, and what to say of those that fail |
//!
//! A run is a scenario and a seed, or a [`schedule::Schedule`] from a file. It ends in an [`Outcome`]; the first
//! violation found ends it early. Checkers return violations, they never panic: a panic in a run is a crash of
//! the code under test.

use std::fmt;

use serde::{Deserialize, Serialize};

use self::coverage::Coverage;

pub mod check;
pub mod client;
pub mod cluster;
pub mod contract;
pub mod coverage;
pub mod exchanges;
mod lines;
pub mod record;
pub mod runner;
pub mod scenarios;
pub mod schedule;
pub mod subject;
pub mod workload;

/// What came of a run.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Outcome {
    /// How it ended.
    pub verdict: Verdict,
    /// What it did.
    pub summary: Summary,
    /// The rare things that happened in it.
    pub coverage: Coverage,
}

/// How a run ended.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Verdict {
    /// Everything that must hold held.
    Clean,
    /// A majority of the voters lost their disks: nobody could keep what was promised.
    Unrecoverable,
    /// A promise was broken.
    Violated(Violation),
}

/// What a run did.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Summary {
    /// Client operations that were answered.
    pub operations: u64,
    /// Terms that had a leader.
    pub leaders: u64,
    /// The hash of the trace.
    pub trace_hash: u64,
    /// Events in the trace.
    pub trace_events: u64,
    /// Virtual time that passed.
    pub virtual_millis: u64,
}

/// What sort of promise was broken.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Broken {
    /// Something happened that must never happen.
    Safety,
    /// Something did not happen in time that must.
    Liveness,
}

/// A broken promise.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Violation {
    /// Its sort.
    pub broken: Broken,
    /// What happened, in words: the promise, a colon, and how it was broken.
    pub what: String,
    /// The client's exchanges that show it, by number.
    #[serde(default)]
    pub exchanges: Vec<usize>,
}

impl Violation {
    /// A thing that must never happen.
    pub fn safety(what: impl Into<String>) -> Self {
        Self { broken: Broken::Safety, what: what.into(), exchanges: Vec::new() }
    }

    /// A thing that did not happen in time.
    pub fn liveness(what: impl Into<String>) -> Self {
        Self { broken: Broken::Liveness, what: what.into(), exchanges: Vec::new() }
    }
}

impl fmt::Display for Broken {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Safety => "safety",
            Self::Liveness => "liveness",
        })
    }
}

impl fmt::Display for Violation {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}: {}", self.broken, self.what)
    }
}
