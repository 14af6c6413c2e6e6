//! A failing run, made smaller.

#![expect(
    clippy::disallowed_methods,
    reason = "the search takes real time, and its result is a file"
)]

use std::io::{self, IsTerminal};
use std::path::PathBuf;
use std::time::{Duration, Instant};

use clap::Args;
use indicatif::{ProgressBar, ProgressDrawTarget};
use yakt_sim::harness::runner::{Piece, Runner, Signature, Wants, Work};
use yakt_sim::harness::schedule::Schedule;
use yakt_sim::harness::schedule::shrink::{self, Trial};

use super::text::{self, rough};
use super::{DEFAULT_SCENARIO, Done, Limits, Senseless, draw, read_schedule};

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
        println!("{signature}\n  before: {}", size(&schedule));
        let mut search = Search::new(&runner, signature, started, self.time, &schedule);
        let smallest = shrink::shrink(&schedule, &mut search);
        search.bar.finish_and_clear();
        if let Some(error) = search.error {
            return Err(error.into());
        }

        let named = || format!("{}-{}.min.json", schedule.scenario, schedule.seed).into();
        let out = self.out.unwrap_or_else(named);
        std::fs::write(&out, serde_json::to_string_pretty(&smallest)? + "\n")?;
        let end = if started.elapsed() >= self.time { ", until the time was up" } else { "" };
        let (runs, took) = (search.runs, rough(started.elapsed()));
        println!("  after:  {} ({runs} runs in {took}{end})", size(&smallest));
        println!("  again:  cargo sim replay {}", out.display());
        Ok(0)
    }
}

/// How `schedule` fails, if it does.
fn signature(runner: &Runner, schedule: &Schedule) -> io::Result<Option<Signature>> {
    let run = runner.run(&Work::Schedule(schedule), Wants::default())?;
    Ok(run.end.failure().map(|failure| failure.signature()))
}

fn size(schedule: &Schedule) -> String {
    let (faults, operations, millis) = shrink::size(schedule);
    let time = rough(Duration::from_millis(millis));
    format!("faults: {faults}, operations: {operations}, time: {time}")
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
        let smallest = size(schedule);
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
            self.smallest = size(schedule);
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
