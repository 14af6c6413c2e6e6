//! One run: of a seed, or of a schedule in a file.
//!
//! Nobody asks for a report of a run that they expect to be clean, and writing everything down takes longer than the run.
//! So a run that failed is played once more, to show how: it is the same run again.

#![expect(clippy::disallowed_methods, reason = "reports are written for people")]

use std::fmt;
use std::io;
use std::path::{Path, PathBuf};
use std::time::Duration;

use clap::Args;
use serde::Serialize;
use yakt_sim::harness::runner::{self, End, Failure, Kind, Piece, Runner, Wants, Work};
use yakt_sim::harness::{Outcome, Verdict};

use super::output::{print, print_json};
use super::text::{grouped, indented, rough};
use super::{DEFAULT_DIR, DEFAULT_SCENARIO, Done, Limits, exit_code, file_stem, read_schedule};

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

/// What is to be seen of a run. A crash and a hang leave a report and no trace.
#[derive(Args)]
struct Show {
    /// Writes a page that shows the run, to be opened in a browser [default: none of a clean run, and of one that
    /// fails target/sim/SCENARIO-SEED.html]
    #[arg(long, value_name = "FILE.html")]
    report: Option<PathBuf>,
    /// Writes no page, even if the run fails
    #[arg(long, conflicts_with = "report")]
    no_report: bool,
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
        let runner = limits.runner()?;
        let runner::Run { end, took, report } = runner.run(work, wants)?;
        let report = match &self.report {
            Some(file) => report.then(|| file.clone()),
            None if self.no_report => None,
            None => show_failure(&runner, work, &end, &command, &file_stem(scenario, seed))?,
        };
        let trace = self.trace.as_deref().filter(|_| end.outcome().is_some());
        let failure = end.failure();
        let exit = exit_code(failure.as_ref().map(|failure| failure.kind));
        let outcome = end.outcome();
        let report = report.as_deref();
        let result = Result { scenario, seed, failure, outcome, took, command, report, trace };
        if self.json {
            print_json(&result.json())?;
        } else {
            print(&result)?;
            for (name, wanted, file) in
                [("report", &self.report, report), ("trace", &self.trace, trace)]
            {
                if wanted.is_some() && file.is_none() {
                    print(format_args!("  {name}: none, the run was not played to its end\n"))?;
                }
            }
        }
        Ok(exit)
    }
}

/// Plays `work`, which ended as `end`, once more for a page that shows how it failed, if it did. `stem` is the page's
/// name, without `.html`.
fn show_failure(
    runner: &Runner,
    work: &Work<'_>,
    end: &End,
    command: &str,
    stem: &str,
) -> io::Result<Option<PathBuf>> {
    let Some(failure) = end.failure() else { return Ok(None) };
    std::fs::create_dir_all(DEFAULT_DIR)?;
    let file = Path::new(DEFAULT_DIR).join(format!("{stem}.html"));
    let wants = Wants { report: Some(&file), command: Some(command), ..Wants::default() };
    let again = runner.run(work, wants)?;
    let hung_both = failure.kind == Kind::Hang && matches!(again.end, End::Hung(_));
    if !hung_both && !again.end.agrees_with(end) {
        eprintln!(
            "played again for its report, the run was another: sweep --twice-every 1 looks into that"
        );
    }
    Ok(again.report.then_some(file))
}

/// What a run came to.
struct Result<'a> {
    scenario: &'a str,
    seed: u64,
    failure: Option<Failure>,
    outcome: Option<&'a Outcome>,
    took: Duration,
    command: String,
    /// Files that were written.
    report: Option<&'a Path>,
    trace: Option<&'a Path>,
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
    #[serde(skip_serializing_if = "Option::is_none")]
    report: Option<&'a Path>,
    #[serde(skip_serializing_if = "Option::is_none")]
    trace: Option<&'a Path>,
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
            report: self.report,
            trace: self.trace,
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
        writeln!(f, "  again: {}", self.command)?;
        for (name, file) in [("report", self.report), ("trace", self.trace)] {
            if let Some(file) = file {
                writeln!(f, "  {name}: {}", file.display())?;
            }
        }
        Ok(())
    }
}
