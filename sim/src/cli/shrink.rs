//! A failing run, made smaller.

#![expect(
    clippy::disallowed_methods,
    reason = "the search takes real time, and its result is a file"
)]

use std::fmt;
use std::io::{self, IsTerminal};
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use clap::Args;
use indicatif::{ProgressBar, ProgressDrawTarget};
use serde::Serialize;
use yakt_sim::harness::runner::{Piece, Runner, Signature, Wants, Work};
use yakt_sim::harness::schedule::Schedule;
use yakt_sim::harness::schedule::shrink::{self, Trial};

use super::output::{print_json, print_line};
use super::text::{self, rough};
use super::{DEFAULT_SCENARIO, Done, Limits, Senseless, draw, file_stem, read_schedule};

/// How often a spinner turns.
const TURN: Duration = Duration::from_millis(200);

/// `cargo sim shrink`.
#[derive(Args)]
pub(super) struct Shrink {
    /// The seed that fails
    #[arg(long, value_name = "N", required_unless_present = "file", conflicts_with = "file")]
    seed: Option<u64>,
    /// Whose seed it is: see `cargo sim list`
    #[arg(long = "scenario", value_name = "NAME", default_value = DEFAULT_SCENARIO)]
    piece: Piece,
    /// A schedule that fails, instead of a seed
    #[arg(long, value_name = "FILE")]
    file: Option<PathBuf>,
    /// Where the smaller schedule goes [default: SCENARIO-SEED.min.json]
    #[arg(long, value_name = "FILE")]
    out: Option<PathBuf>,
    /// How long to search
    #[arg(long, value_name = "TIME", value_parser = text::duration, default_value = "5m")]
    time: Duration,
    /// Prints the result as JSON
    #[arg(long)]
    json: bool,
    #[command(flatten)]
    limits: Limits,
}

impl Shrink {
    pub(super) fn run(self) -> Done {
        let schedule = match (&self.file, self.seed) {
            (Some(file), _) => read_schedule(file)?,
            (None, Some(seed)) => draw(self.piece, seed)?,
            (None, None) => unreachable!("clap asks for one of them"),
        };
        let runner = self.limits.runner()?;
        let started = Instant::now();
        let Some(signature) = signature(&runner, &schedule)? else {
            return Err(
                Senseless("it does not fail: there is nothing to make smaller".into()).into()
            );
        };
        if !self.json {
            print_line(format_args!("{signature}\n  before: {}", Size::of(&schedule)))?;
        }
        let mut search = Search::new(&runner, signature.clone(), started, self.time, &schedule);
        let smallest = shrink::shrink(&schedule, &mut search);
        search.bar.finish_and_clear();
        if let Some(error) = search.error {
            return Err(error.into());
        }

        let named = || format!("{}.min.json", file_stem(&schedule.scenario, schedule.seed)).into();
        let out = self.out.unwrap_or_else(named);
        std::fs::write(&out, serde_json::to_string_pretty(&smallest)? + "\n")?;
        let took = started.elapsed();
        let shrunk = Shrunk {
            scenario: &schedule.scenario,
            seed: schedule.seed,
            signature: &signature,
            before: Size::of(&schedule),
            after: Size::of(&smallest),
            runs: search.runs,
            real_seconds: took.as_secs_f64(),
            time_was_up: took >= self.time,
            reproduce: format!("cargo sim replay {}", out.display()),
            file: &out,
        };
        if self.json {
            print_json(&shrunk)?;
        } else {
            let Shrunk { after, runs, reproduce, .. } = &shrunk;
            let end = if shrunk.time_was_up { ", until the time was up" } else { "" };
            print_line(format_args!("  after:  {after} ({runs} runs in {}{end})", rough(took)))?;
            print_line(format_args!("  again:  {reproduce}"))?;
        }
        Ok(0)
    }
}

/// What came of it.
#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct Shrunk<'a> {
    scenario: &'a str,
    seed: u64,
    /// How the schedule fails, before and after.
    signature: &'a Signature,
    before: Size,
    after: Size,
    runs: u64,
    real_seconds: f64,
    /// Whether there may be a smaller one, for which there was no time.
    time_was_up: bool,
    file: &'a Path,
    reproduce: String,
}

/// How much there is in a schedule.
#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct Size {
    faults: usize,
    operations: usize,
    duration_millis: u64,
}

impl Size {
    fn of(schedule: &Schedule) -> Self {
        let (faults, operations, duration_millis) = shrink::size(schedule);
        Self { faults, operations, duration_millis }
    }
}

impl fmt::Display for Size {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { faults, operations, duration_millis } = self;
        let time = rough(Duration::from_millis(*duration_millis));
        write!(f, "faults: {faults}, operations: {operations}, time: {time}")
    }
}

/// How `schedule` fails, if it does.
fn signature(runner: &Runner, schedule: &Schedule) -> io::Result<Option<Signature>> {
    let run = runner.run(&Work::Schedule(schedule), Wants::default())?;
    Ok(run.end.failure().map(|failure| failure.signature()))
}

/// A search for a smaller schedule that fails in the same way.
struct Search<'a> {
    runner: &'a Runner,
    signature: Signature,
    started: Instant,
    time: Duration,
    runs: u64,
    smallest: String,
    /// Why it could not go on.
    error: Option<io::Error>,
    /// Hidden where there is no terminal.
    bar: ProgressBar,
}

impl<'a> Search<'a> {
    fn new(
        runner: &'a Runner,
        signature: Signature,
        started: Instant,
        time: Duration,
        schedule: &Schedule,
    ) -> Self {
        let bar = if io::stderr().is_terminal() {
            ProgressBar::new_spinner()
        } else {
            ProgressBar::with_draw_target(None, ProgressDrawTarget::hidden())
        };
        bar.enable_steady_tick(TURN);
        let smallest = Size::of(schedule).to_string();
        Self { runner, signature, started, time, runs: 1, smallest, error: None, bar }
    }
}

impl Trial for Search<'_> {
    fn fails(&mut self, schedule: &Schedule) -> bool {
        self.runs += 1;
        let fails = match signature(self.runner, schedule) {
            Ok(found) => found.as_ref() == Some(&self.signature),
            Err(error) => {
                self.error.get_or_insert(error);
                false
            }
        };
        if fails {
            self.smallest = Size::of(schedule).to_string();
            if self.bar.is_hidden() {
                eprintln!("run {}: {}", self.runs, self.smallest);
            }
        }
        self.bar.set_message(format!("run {}, so far {}", self.runs, self.smallest));
        fails
    }

    fn goes_on(&self) -> bool {
        self.error.is_none() && self.started.elapsed() < self.time
    }
}
