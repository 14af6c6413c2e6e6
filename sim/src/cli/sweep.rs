//! Many seeds.

#![expect(clippy::disallowed_methods, reason = "reports are written for people")]

use std::error::Error;
use std::path::{Path, PathBuf};
use std::time::Duration;

use clap::Args;
use yakt_sim::harness::runner::sweep::Event;
use yakt_sim::harness::runner::{self, Plan, Runner, Seeds, Wants, Work};

use super::output::{print, print_json};
use super::progress::Progress;
use super::summary::Summary;
use super::{
    DEFAULT_DIR, DEFAULT_SCENARIO, Done, EXIT_COVERAGE, Limits, Pieces, file_stem, pieces, text,
};

/// Seeds in a sweep that has neither `--seeds` nor `--time`.
const SEEDS: u64 = 100;

/// Groups of failures that get a report.
const REPORTS_MAX: usize = 20;

/// `cargo sim sweep`.
#[derive(Args)]
pub(super) struct Sweep {
    /// How many seeds [default: 100, or as many as fit into --time]
    #[arg(long, value_name = "N")]
    seeds: Option<u64>,
    /// The first of them
    #[arg(long, value_name = "SEED", default_value_t = 1)]
    from: u64,
    /// What each is played on: see `cargo sim list`; `all` for all of it
    #[arg(long = "scenario", value_name = "NAME", value_parser = pieces, default_value = DEFAULT_SCENARIO)]
    pub(super) pieces: Pieces,
    /// How many runs at a time [default: the number of cores]
    #[arg(long, value_name = "N")]
    jobs: Option<usize>,
    /// Begins no new runs after so much time, such as 10m
    #[arg(long, value_name = "TIME", value_parser = text::duration)]
    time: Option<Duration>,
    /// Plays every so many seeds twice and compares the traces; 0 for none
    #[arg(long, value_name = "N", default_value_t = 20)]
    twice_every: u64,
    /// Begins no new runs when so many have failed
    #[arg(long, value_name = "N")]
    stop_after_failures: Option<u64>,
    /// Fails if a rare thing never happened that should have within so many seeds of the swarm
    #[arg(long)]
    coverage: bool,
    /// Prints the result as JSON
    #[arg(long)]
    json: bool,
    /// Writes a page and a schedule for each sort of failure into this directory
    #[arg(long, value_name = "DIR", default_value = DEFAULT_DIR)]
    report_dir: PathBuf,
    /// Writes neither pages nor schedules
    #[arg(long, conflicts_with = "report_dir")]
    no_report: bool,
    #[command(flatten)]
    limits: Limits,
}

impl Sweep {
    /// What the arguments ask for.
    pub(super) fn plan(&self) -> Plan {
        let by_default = if self.time.is_some() { u64::MAX } else { SEEDS };
        Plan {
            pieces: self.pieces.0.clone(),
            seeds: Seeds { base: self.from, count: self.seeds.unwrap_or(by_default) },
            twice_every: self.twice_every,
            time: self.time,
            failures_max: self.stop_after_failures,
            // They are looked at after the sweep, as the pages are.
            traces: self.report_dir.clone(),
        }
    }

    pub(super) fn run(self) -> Done {
        let plan = self.plan();
        let runner = self.limits.runner()?;
        let runner = match self.jobs {
            Some(jobs) => runner.with_jobs(jobs),
            None => runner,
        };
        let mut progress = Progress::new(&plan);
        let sweep = runner.sweep(&plan, &mut |sweep, event| match event {
            Event::Tick | Event::Ended => progress.show(sweep),
            Event::Failed(case, failure) => progress.say(case, failure),
        })?;
        progress.finish();
        let reports = if self.no_report || sweep.groups.is_empty() {
            Vec::new()
        } else {
            write_reports(&runner, &plan, &sweep, &self.report_dir)?
        };

        let missing = if self.coverage { sweep.missing(&plan) } else { Vec::new() };
        let unasked = if self.coverage { sweep.missing_of_contract(&plan) } else { Vec::new() };
        let exit = match sweep.groups.gravest() {
            Some(kind) => kind.exit_code(),
            None if missing.is_empty() && unasked.is_empty() => 0,
            None => EXIT_COVERAGE,
        };
        let summary = Summary {
            plan: &plan,
            sweep: &sweep,
            jobs: runner.jobs(),
            missing,
            unasked,
            reports,
            exit,
        };
        if self.json {
            print_json(&summary.json())?;
        } else {
            print(&summary)?;
        }
        Ok(exit)
    }
}

/// Plays the first case of each group again, to write what there is to see of it.
fn write_reports(
    runner: &Runner,
    plan: &Plan,
    sweep: &runner::Sweep,
    dir: &Path,
) -> Result<Vec<PathBuf>, Box<dyn Error>> {
    std::fs::create_dir_all(dir)?;
    let mut written = Vec::new();
    for (_, group) in sweep.groups.iter().take(REPORTS_MAX) {
        let Some(case) = group.cases.first() else { continue };
        let Some(&piece) = plan.pieces.iter().find(|piece| piece.name() == case.scenario) else {
            continue;
        };
        let stem = file_stem(case.scenario, case.seed);
        let file = |end: &str| dir.join(format!("{stem}{end}"));
        if let Some(schedule) = piece.draw(case.seed) {
            let path = file(".json");
            std::fs::write(&path, serde_json::to_string_pretty(&schedule)? + "\n")?;
            written.push(path);
        }
        let path = file(".html");
        let wants = Wants { report: Some(&path), ..Wants::default() };
        let run = runner.run(&Work::Seed(piece, case.seed), wants)?;
        if run.report {
            written.push(path);
        }
    }
    written.sort();
    written.dedup();
    Ok(written)
}
