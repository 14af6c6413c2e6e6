//! One process a run, many runs, and what to say of those that fail.
//!
//! tokio's primitives draw from generators that are seeded by counters of the process, so a run is only
//! the same run again in a process that did nothing before. A [`Runner`] therefore starts its executable
//! anew for every run, which also contains panics, endless loops and memory.
//!
//! | module | is |
//! |---|---|
//! | [`job`] | what a process is told to play, and what it says of it |
//! | [`child`](mod@child) | the process that plays: a program that has a runner calls [`child()`] first |
//! | [`program`](mod@program) | the whole of a program that plays a service of one's own |
//! | `process` | starts such a process, listens to it, and kills it when it hangs |
//! | [`end`] | how runs end, and which failures are one and the same |
//! | [`groups`] | many failures, by what they have in common |
//! | [`sweep`] | many seeds, in parallel, some of them twice |
//! | `diverge` | where two runs of one seed part |
//! | [`seeds`] | which seeds, by the environment |
//! | [`selftest`] | runs that fail on purpose, to test all this |
//!
//! # Promises
//!
//! - However a run ends, its runner learns of it: by an outcome, a panic's message and place, a signal, or by the
//!   clock. A run that does not end is killed after [`Runner::hang_limit`] of real time.
//! - A process whose runner is gone ends, even in the middle of an endless loop.
//! - At most [`Runner::jobs`] processes of one runner are alive at a time, however many threads ask it for runs.
//! - What a sweep remembers is bounded, however many runs fail and whatever they print.
//!
//! # Left out
//!
//! Memory limits: a run that takes all memory is killed by the operating system, and counts as a crash. Runs on
//! more than one machine: give each its own seeds.

use std::io;
use std::path::{Path, PathBuf};
use std::sync::{Condvar, Mutex, PoisonError};
use std::time::Duration;

pub mod child;
mod diverge;
pub mod end;
pub mod groups;
pub mod job;
mod process;
pub mod program;
pub mod seeds;
pub mod selftest;
pub mod sweep;

pub use self::child::{child, child_of};
pub use self::end::{End, Failure, Kind, Signature};
pub use self::job::{Piece, Work};
pub use self::program::program;
pub use self::seeds::Seeds;
pub use self::sweep::{Plan, Sweep};

/// How long a run may take before it counts as hanging. Runs take seconds.
pub const HANG_LIMIT: Duration = Duration::from_mins(3);

/// Starts processes that play, each one run.
#[derive(Debug)]
pub struct Runner {
    program: PathBuf,
    hang_limit: Duration,
    jobs: usize,
    running: Mutex<usize>,
    ended: Condvar,
}

/// What a run leaves behind.
#[derive(Clone, Copy, Debug, Default)]
pub struct Wants<'a> {
    /// The file that its trace goes to, a line an event.
    pub trace: Option<&'a Path>,
    /// The file that its report goes to: see [`report`](crate::report). A panic and a hang leave one too, of what
    /// happened until then; a process that dies without a word leaves none.
    pub report: Option<&'a Path>,
    /// The command that the report names, where the scenario and the seed do not make the run.
    pub command: Option<&'a str>,
    /// Whether what it prints is printed, to standard error.
    pub echo: bool,
}

/// A run that ended.
#[derive(Clone, Debug)]
pub struct Run {
    /// How.
    pub end: End,
    /// How much real time it took.
    pub took: Duration,
    /// Whether its report was written.
    pub report: bool,
}

impl Runner {
    /// A runner of this very executable, whose `main` calls [`child()`] first.
    ///
    /// # Errors
    ///
    /// When the executable cannot be found.
    pub fn new() -> io::Result<Self> {
        Ok(Self::of(std::env::current_exe()?))
    }

    /// A runner of `program`, whose `main` calls [`child()`] first.
    #[must_use]
    pub fn of(program: impl Into<PathBuf>) -> Self {
        Self {
            program: program.into(),
            hang_limit: HANG_LIMIT,
            jobs: std::thread::available_parallelism().map_or(1, usize::from),
            running: Mutex::new(0),
            ended: Condvar::new(),
        }
    }

    /// The same, killing a run that has not ended after `limit` of real time, instead of [`HANG_LIMIT`].
    #[must_use]
    pub fn with_hang_limit(self, limit: Duration) -> Self {
        Self { hang_limit: limit, ..self }
    }

    /// The same, with at most `jobs` processes at a time (and at least one), instead of one a core.
    #[must_use]
    pub fn with_jobs(self, jobs: usize) -> Self {
        Self { jobs: jobs.max(1), ..self }
    }

    /// How much real time a run may take.
    pub fn hang_limit(&self) -> Duration {
        self.hang_limit
    }

    /// How many processes may run at a time.
    pub fn jobs(&self) -> usize {
        self.jobs
    }

    /// Plays `work` in a process of its own, as soon as one of [`Self::jobs`] is free.
    ///
    /// # Errors
    ///
    /// When the process cannot be started, or says nothing that a [`child()`] says. However a run ends, it is no
    /// error.
    pub fn run(&self, work: &Work<'_>, wants: Wants<'_>) -> io::Result<Run> {
        let _slot = self.slot();
        process::run(&self.program, self.hang_limit, work, wants)
    }

    /// Waits until one more process may run.
    fn slot(&self) -> Slot<'_> {
        let running = self.running.lock().unwrap_or_else(PoisonError::into_inner);
        let mut running = self
            .ended
            .wait_while(running, |running| *running >= self.jobs)
            .unwrap_or_else(PoisonError::into_inner);
        *running += 1;
        Slot(self)
    }
}

/// The right to run one process.
struct Slot<'a>(&'a Runner);

impl Drop for Slot<'_> {
    fn drop(&mut self) {
        *self.0.running.lock().unwrap_or_else(PoisonError::into_inner) -= 1;
        self.0.ended.notify_one();
    }
}
