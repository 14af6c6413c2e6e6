//! One process a seed, many seeds, and what to say of those that fail.
//!
//! tokio's primitives draw from generators that are seeded by counters of the process, so a run is only
//! the same run again in a process that did nothing before. The runner therefore starts its own executable
//! anew for every run ([`child`] is the other end), which also contains panics, endless loops and memory.
//!
//! What is run follows from the environment:
//!
//! | variable | means |
//! |---|---|
//! | `YAKT_SEED` or `MADSIM_TEST_SEED` | exactly this seed |
//! | `YAKT_SEEDS` | how many seeds a scenario |
//! | `YAKT_SEED_BASE` | the first of them |

#![expect(
    clippy::disallowed_methods,
    reason = "the parent of the simulating processes is real itself"
)]

use std::env;
use std::fmt;
use std::io::Write;
use std::path::{Path, PathBuf};
use std::process::{Command, ExitCode, Stdio};
use std::time::{Duration, Instant};

use super::scenarios::{Scenario, find, world};
use super::{Broken, Summary, Verdict};
use crate::runtime::simulate;

/// Names the run to a process that was started for it: `SCENARIO:SEED`.
const RUN: &str = "YAKT_SIM_RUN";

/// Names the file that the run is to write its trace to.
const TRACE: &str = "YAKT_SIM_TRACE";

/// Exit codes of a run; a panic's is Rust's own, 101.
const EXIT_SAFETY: u8 = 10;
const EXIT_LIVENESS: u8 = 11;

/// How long a run may take before it counts as hanging. Runs take seconds.
const HANG_LIMIT: Duration = Duration::from_mins(3);

/// How often a running child is looked at.
const LOOK_INTERVAL: Duration = Duration::from_millis(5);

/// Lines of a crashed run's output that are shown.
const TAIL_LINES: usize = 30;

/// Which seeds to run.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Seeds {
    base: u64,
    count: u64,
}

impl Seeds {
    /// What the environment asks for, else `count` seeds from 1 on.
    ///
    /// # Panics
    ///
    /// When a variable is set to something that is no number: running something else would be worse.
    #[must_use]
    pub fn from_env(count: u64) -> Self {
        let number = |name: &str| {
            let text = env::var(name).ok()?;
            Some(text.parse().unwrap_or_else(|_| panic!("{name}={text} is not a number")))
        };
        if let Some(base) = number("YAKT_SEED").or_else(|| number("MADSIM_TEST_SEED")) {
            return Self { base, count: 1 };
        }
        Self {
            base: number("YAKT_SEED_BASE").unwrap_or(1),
            count: number("YAKT_SEEDS").unwrap_or(count),
        }
    }

    /// The seeds.
    pub fn iter(&self) -> impl Iterator<Item = u64> + use<> {
        let base = self.base;
        (0..self.count).map(move |step| base.wrapping_add(step))
    }
}

/// If this process was started for a run, plays it and says how to exit.
#[must_use]
pub fn child() -> Option<ExitCode> {
    let run = env::var(RUN).ok()?;
    let (scenario, seed) = run.split_once(':')?;
    let (scenario, seed) = (find(scenario)?, seed.parse().ok()?);
    let trace = env::var_os(TRACE).map(PathBuf::from);
    let (verdict, lines) = simulate(seed, move || async move {
        let world = world(trace.is_some());
        let verdict = scenario.play(world.clone()).await;
        (verdict, trace.map(|path| (path, world.trace().lines())))
    });
    if let Some((path, lines)) = lines
        && let Err(error) = write_lines(&path, &lines)
    {
        eprintln!("cannot write {}: {error}", path.display());
        return Some(ExitCode::FAILURE);
    }
    Some(report(&verdict))
}

fn write_lines(path: &Path, lines: &[String]) -> std::io::Result<()> {
    let mut file = std::io::BufWriter::new(std::fs::File::create(path)?);
    for line in lines {
        writeln!(file, "{line}")?;
    }
    file.flush()
}

fn report(verdict: &Verdict) -> ExitCode {
    match verdict {
        Ok(summary) => {
            let Summary { operations, leaders, trace_hash, trace_events, virtual_time } = summary;
            println!(
                "{operations} {leaders} {trace_hash} {trace_events} {}",
                virtual_time.as_millis()
            );
            ExitCode::SUCCESS
        }
        Err(violation) => {
            println!("{}", violation.what);
            ExitCode::from(match violation.broken {
                Broken::Safety => EXIT_SAFETY,
                Broken::Liveness => EXIT_LIVENESS,
            })
        }
    }
}

/// A run that did not end well.
#[derive(Clone, Debug)]
pub struct Failure {
    /// What was played.
    pub scenario: &'static str,
    /// With which seed.
    pub seed: u64,
    /// How it ended.
    pub kind: FailureKind,
    /// What it said.
    pub output: String,
}

/// How a run fails.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum FailureKind {
    /// Something happened that must never happen.
    Safety,
    /// Something did not happen in time.
    Liveness,
    /// Something panicked.
    Crash,
    /// It went on for ever without simulated time passing.
    Hang,
}

impl fmt::Display for Failure {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { scenario, seed, kind, output } = self;
        writeln!(f, "{scenario}, seed {seed}: {kind:?}")?;
        for line in output.lines() {
            writeln!(f, "    {line}")?;
        }
        write!(f, "  to see it again: YAKT_SEED={seed} cargo test --test simulations {scenario}")
    }
}

/// Plays `scenario` with `seed` in a process of its own. With `trace`, its trace is written there.
///
/// # Errors
///
/// How it failed.
pub fn run(scenario: Scenario, seed: u64, trace: Option<&Path>) -> Result<Summary, Failure> {
    let failure = |kind, output: String| Failure { scenario: scenario.name, seed, kind, output };
    let crash = |error: &dyn fmt::Display| failure(FailureKind::Crash, error.to_string());
    let mut command = Command::new(env::current_exe().map_err(|error| crash(&error))?);
    command
        .env(RUN, format!("{}:{seed}", scenario.name))
        .env_remove(TRACE)
        .env("RUST_BACKTRACE", "0");
    if let Some(trace) = trace {
        command.env(TRACE, trace);
    }
    let spawned =
        command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped()).spawn();
    let mut process = spawned.map_err(|error| crash(&error))?;

    let started = Instant::now();
    let hung = loop {
        match process.try_wait() {
            Ok(Some(_)) => break false,
            Ok(None) if started.elapsed() > HANG_LIMIT => {
                // It may end by itself in this very moment.
                drop(process.kill());
                break true;
            }
            Ok(None) => std::thread::sleep(LOOK_INTERVAL),
            Err(error) => return Err(crash(&error)),
        }
    };
    let output = process.wait_with_output().map_err(|error| crash(&error))?;
    let said = String::from_utf8_lossy(&output.stdout).trim().to_owned();
    if hung {
        return Err(failure(FailureKind::Hang, format!("no end after {HANG_LIMIT:?}")));
    }
    match output.status.code() {
        Some(0) => parse_summary(&said).ok_or_else(|| crash(&format!("it said {said:?}"))),
        Some(code) if code == i32::from(EXIT_SAFETY) => Err(failure(FailureKind::Safety, said)),
        Some(code) if code == i32::from(EXIT_LIVENESS) => Err(failure(FailureKind::Liveness, said)),
        _ => {
            let complaint = String::from_utf8_lossy(&output.stderr);
            let lines: Vec<_> = complaint.lines().collect();
            let tail = lines[lines.len().saturating_sub(TAIL_LINES)..].join("\n");
            Err(failure(FailureKind::Crash, tail))
        }
    }
}

fn parse_summary(said: &str) -> Option<Summary> {
    let mut numbers = said.split(' ').map(str::parse::<u64>);
    let mut next = || numbers.next()?.ok();
    Some(Summary {
        operations: next()?,
        leaders: next()?,
        trace_hash: next()?,
        trace_events: next()?,
        virtual_time: Duration::from_millis(next()?),
    })
}

/// Plays `scenario` twice with `seed`, in two fresh processes, and compares the traces byte for byte.
///
/// # Errors
///
/// How a run failed, or where the two differ.
pub fn run_twice(scenario: Scenario, seed: u64, dir: &Path) -> Result<Summary, String> {
    let path = |turn: u32| dir.join(format!("{}-{seed}-{turn}.trace", scenario.name));
    let mut traces = Vec::new();
    let mut summary = Summary::default();
    for turn in [1, 2] {
        summary = run(scenario, seed, Some(&path(turn))).map_err(|failure| failure.to_string())?;
        traces.push(std::fs::read_to_string(path(turn)).map_err(|error| error.to_string())?);
        drop(std::fs::remove_file(path(turn)));
    }
    if traces[0] == traces[1] {
        return Ok(summary);
    }
    let lines = traces[0].lines().zip(traces[1].lines());
    let common = lines.clone().take_while(|(first, second)| first == second).count();
    let context = |trace: &str| {
        trace.lines().skip(common.saturating_sub(3)).take(5).collect::<Vec<_>>().join("\n    ")
    };
    Err(format!(
        "{}, seed {seed}: two runs differ from event {common} on\n  first:\n    {}\n  second:\n    {}",
        scenario.name,
        context(&traces[0]),
        context(&traces[1])
    ))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_summary_survives_the_pipe() {
        let summary = parse_summary("1 2 3 4 5000").unwrap();
        assert_eq!((summary.operations, summary.leaders, summary.trace_hash), (1, 2, 3));
        assert_eq!((summary.trace_events, summary.virtual_time), (4, Duration::from_secs(5)));
        assert!(parse_summary("1 2 3 4").is_none());
        assert!(parse_summary("").is_none());
    }
}
