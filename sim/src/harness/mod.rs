//! Runs a whole cluster in the simulated world, under faults and load, and checks what came of it.
//!
//! | module | is |
//! |---|---|
//! | [`cluster`] | five server processes, and what can happen to them |
//! | [`client`] | an HTTP client on a simulated host |
//! | [`workload`] | clients that write and read, and remember what they were told |
//! | [`history`] | what they were told, and whether it can all be true |
//! | [`safety`] | what Raft promises, checked at every step of every node |
//! | [`scenarios`] | what goes wrong when |
//! | [`runner`] | one process a seed, many seeds, reports |
//!
//! A run is one [`scenarios::Scenario`] and one seed. It ends in a [`Verdict`]; the first violation found ends it
//! early. Checkers return violations, they never panic: a panic in a run is a crash of the code under test.

use std::fmt;

pub mod client;
pub mod cluster;
pub mod history;
pub mod runner;
pub mod safety;
pub mod scenarios;
pub mod workload;

/// How a run ended.
pub type Verdict = Result<Summary, Violation>;

/// What a clean run did.
#[derive(Clone, Debug, Default)]
pub struct Summary {
    /// Client operations that were answered.
    pub operations: u64,
    /// Leaders that were elected.
    pub leaders: u64,
    /// The hash of the trace.
    pub trace_hash: u64,
    /// Events in the trace.
    pub trace_events: u64,
    /// Virtual time that passed.
    pub virtual_time: std::time::Duration,
}

/// What sort of promise was broken.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Broken {
    /// Something happened that must never happen.
    Safety,
    /// Something did not happen in time that must.
    Liveness,
}

/// A broken promise.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Violation {
    /// Its sort.
    pub broken: Broken,
    /// What happened, in words.
    pub what: String,
}

impl Violation {
    /// A thing that must never happen.
    pub fn safety(what: impl Into<String>) -> Self {
        Self { broken: Broken::Safety, what: what.into() }
    }

    /// A thing that did not happen in time.
    pub fn liveness(what: impl Into<String>) -> Self {
        Self { broken: Broken::Liveness, what: what.into() }
    }
}

impl fmt::Display for Violation {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let sort = match self.broken {
            Broken::Safety => "safety",
            Broken::Liveness => "liveness",
        };
        write!(f, "{sort}: {}", self.what)
    }
}
