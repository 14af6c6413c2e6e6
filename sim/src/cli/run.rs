//! One run: of a seed, or of a schedule in a file.

use std::fmt;
use std::path::PathBuf;
use std::time::Duration;

use clap::Args;
use serde::Serialize;
use yakt_sim::harness::runner::{self, End, Failure, Piece, Wants, Work};
use yakt_sim::harness::{Outcome, Verdict};

use super::text::{grouped, indented, rough};
use super::{DEFAULT_SCENARIO, Done, Limits, exit_code, read_schedule};

/// `cargo sim run`.
#[derive(Args)]
pub(super) struct Run {
    /// The seed
    #[arg(long, value_name = "N")]
    pub(super) seed: u64,
    /// What is played: see `cargo sim list`
    #[arg(long = "scenario", value_name = "NAME", default_value = DEFAULT_SCENARIO)]
    pub(super) piece: Piece,
    #[command(flatten)]
    show: Show,
    #[command(flatten)]
    limits: Limits,
}

/// `cargo sim replay`.
#[derive(Args)]
pub(super) struct Replay {
    /// The schedule: see `cargo sim schedule` and `cargo sim shrink`
    file: PathBuf,
    #[command(flatten)]
    show: Show,
    #[command(flatten)]
    limits: Limits,
}

/// What is to be seen of a run. A crash leaves neither a report nor a trace.
#[derive(Args)]
struct Show {
    /// Writes a page that shows the run, to be opened in a browser
    #[arg(long, value_name = "FILE.html")]
    report: Option<PathBuf>,
    /// Writes what happened, a line an event
    #[arg(long, value_name = "FILE")]
    trace: Option<PathBuf>,
    /// Prints the result as JSON
    #[arg(long)]
    json: bool,
}

impl Run {
    pub(super) fn run(self) -> Done {
        let Self { seed, piece, show, limits } = self;
        let command = format!("cargo sim run --scenario {} --seed {seed}", piece.name());
        show.play(&limits, &Work::Seed(piece, seed), piece.name(), seed, command)
    }
}

impl Replay {
    pub(super) fn run(self) -> Done {
        let Self { file, show, limits } = self;
        let schedule = read_schedule(&file)?;
        let command = format!("cargo sim replay {}", file.display());
        let work = Work::Schedule(&schedule);
        show.play(&limits, &work, &schedule.scenario, schedule.seed, command)
    }
}

impl Show {
    fn play(
        &self,
        limits: &Limits,
        work: &Work<'_>,
        scenario: &str,
        seed: u64,
        command: String,
    ) -> Done {
        let wants = Wants {
            trace: self.trace.as_deref(),
            report: self.report.as_deref(),
            command: Some(&command),
            // What a crash says is printed as it is said, and not once more at the end.
            echo: true,
        };
        let runner::Run { end, took } = limits.runner()?.run(work, wants)?;
        let failure = end.failure();
        let exit = exit_code(failure.as_ref().map(|failure| failure.kind));
        let result = Result { scenario, seed, failure, outcome: end.outcome(), took, command };
        if self.json {
            println!("{}", serde_json::to_string_pretty(&result.json())?);
        } else {
            print!("{result}");
            self.name_files(&end);
        }
        Ok(exit)
    }

    fn name_files(&self, end: &End) {
        for (name, file) in [("report", &self.report), ("trace", &self.trace)] {
            match (file, end.outcome()) {
                (None, _) => {}
                (Some(file), Some(_)) => println!("  {name}: {}", file.display()),
                (Some(_), None) => println!("  {name}: none, the run was not played to its end"),
            }
        }
    }
}

/// What a run came to.
struct Result<'a> {
    scenario: &'a str,
    seed: u64,
    failure: Option<Failure>,
    outcome: Option<&'a Outcome>,
    took: Duration,
    command: String,
}

#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct Json<'a> {
    scenario: &'a str,
    seed: u64,
    /// `clean`, `unrecoverable`, or the sort of failure.
    result: String,
    exit_code: u8,
    #[serde(skip_serializing_if = "Option::is_none")]
    failure: Option<&'a Failure>,
    #[serde(skip_serializing_if = "Option::is_none")]
    outcome: Option<&'a Outcome>,
    real_seconds: f64,
    reproduce: &'a str,
}

impl Result<'_> {
    /// In a word.
    fn word(&self) -> String {
        match (&self.failure, self.outcome.map(|outcome| &outcome.verdict)) {
            (Some(failure), _) => failure.kind.to_string(),
            (None, Some(Verdict::Unrecoverable)) => "unrecoverable".to_owned(),
            (None, _) => "clean".to_owned(),
        }
    }

    fn json(&self) -> Json<'_> {
        Json {
            scenario: self.scenario,
            seed: self.seed,
            result: self.word(),
            exit_code: exit_code(self.failure.as_ref().map(|failure| failure.kind)),
            failure: self.failure.as_ref(),
            outcome: self.outcome,
            real_seconds: self.took.as_secs_f64(),
            reproduce: &self.command,
        }
    }
}

impl fmt::Display for Result<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        writeln!(f, "{}, seed {}: {}", self.scenario, self.seed, self.word())?;
        if let Some(failure) = &self.failure {
            f.write_str(&indented(&failure.what, "    "))?;
            match &failure.place {
                // Its output was echoed.
                Some(place) => writeln!(f, "    at {place}")?,
                None => f.write_str(&indented(&failure.output, "    "))?,
            }
        }
        if let Some(outcome) = self.outcome {
            let summary = &outcome.summary;
            writeln!(
                f,
                "  {} operations, {} leaders, {} of virtual time in {}",
                grouped(summary.operations),
                grouped(summary.leaders),
                rough(Duration::from_millis(summary.virtual_millis)),
                rough(self.took),
            )?;
            let (hash, events) = (summary.trace_hash, grouped(summary.trace_events));
            writeln!(f, "  trace {hash:016x}, {events} events")?;
        }
        writeln!(f, "  again: {}", self.command)
    }
}
