//! What a sweep says at last.

use std::fmt;
use std::path::PathBuf;

use comfy_table::Table;
use serde::Serialize;
use yakt_sim::harness::coverage::{Coverage, Site};
use yakt_sim::harness::runner::groups::{Case, Group};
use yakt_sim::harness::runner::sweep::Stopped;
use yakt_sim::harness::runner::{Failure, Plan, Signature, Sweep};

use super::list::{align_numbers, table};
use super::text::{grouped, indented, rough};

/// A sweep that is over.
pub(super) struct Summary<'a> {
    pub(super) plan: &'a Plan,
    pub(super) sweep: &'a Sweep,
    pub(super) jobs: usize,
    /// Sites that were due and never fired, if anyone asked.
    pub(super) missing: Vec<Site>,
    /// Points of the HTTP contract that were due and never reached. Empty without `--coverage`.
    pub(super) unasked: Vec<String>,
    /// Files that were written.
    pub(super) reports: Vec<PathBuf>,
    pub(super) exit: u8,
}

#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
pub(super) struct Json<'a> {
    scenarios: Vec<&'static str>,
    base_seed: u64,
    stopped: Stopped,
    runs: u64,
    runs_twice: u64,
    clean: u64,
    unrecoverable: u64,
    failed: u64,
    operations: u64,
    leaders: u64,
    virtual_seconds: f64,
    real_seconds: f64,
    /// Processor time of all runs.
    core_seconds: f64,
    virtual_seconds_per_core_second: f64,
    seeds_per_second: f64,
    jobs: usize,
    coverage: &'a Coverage,
    coverage_missing: Vec<&'static str>,
    contract_missing: &'a [String],
    failures: Vec<JsonGroup<'a>>,
    /// Failures of so many more sorts that they are in no group.
    failures_in_no_group: u64,
    reports: &'a [PathBuf],
    exit_code: u8,
}

/// Failures that have a signature in common.
#[derive(Serialize)]
struct JsonGroup<'a> {
    signature: &'a str,
    count: u64,
    /// The lowest case, which the rest is about.
    #[serde(flatten)]
    case: Option<Case>,
    #[serde(flatten)]
    example: &'a Failure,
    reproduce: Option<String>,
    /// The lowest cases.
    lowest: &'a [Case],
}

/// The command that shows the group's first failure.
fn command(group: &Group) -> Option<String> {
    group.cases.first().map(|case| case.command(group.example.kind))
}

impl Summary<'_> {
    /// For programs.
    pub(super) fn json(&self) -> Json<'_> {
        let Self { plan, sweep, jobs, missing, unasked, reports, exit } = self;
        Json {
            scenarios: plan.pieces.iter().map(|piece| piece.name()).collect(),
            base_seed: plan.seeds.base,
            stopped: sweep.stopped,
            runs: sweep.runs,
            runs_twice: sweep.twice,
            clean: self.clean(),
            unrecoverable: sweep.unrecoverable,
            failed: sweep.failed,
            operations: sweep.operations,
            leaders: sweep.leaders,
            virtual_seconds: sweep.virtual_time.as_secs_f64(),
            real_seconds: sweep.elapsed.as_secs_f64(),
            core_seconds: sweep.core_time.as_secs_f64(),
            virtual_seconds_per_core_second: sweep.virtual_per_core(),
            seeds_per_second: sweep.per_second(),
            jobs: *jobs,
            coverage: &sweep.coverage,
            contract_missing: unasked,
            coverage_missing: missing.iter().map(|site| site.name()).collect(),
            failures: sweep
                .groups
                .iter()
                .map(|(signature, group)| group_json(signature, group))
                .collect(),
            failures_in_no_group: sweep.groups.others(),
            reports,
            exit_code: *exit,
        }
    }

    fn clean(&self) -> u64 {
        let Sweep { runs, failed, unrecoverable, .. } = *self.sweep;
        // An unrecoverable run fails too if its second run differs.
        runs.saturating_sub(failed + unrecoverable)
    }

    fn coverage(&self) -> Table {
        let mut rows = table(&["site", "reached", "fired", "due within"]);
        for &site in Site::ALL {
            let count = self.sweep.coverage.count(site);
            let name = site.name().to_owned();
            rows.add_row([
                name,
                grouped(count.reached),
                grouped(count.fired),
                grouped(site.seeds()),
            ]);
        }
        align_numbers(&mut rows);
        rows
    }
}

/// For people.
impl fmt::Display for Summary<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { plan, sweep, jobs, missing, unasked, reports, .. } = self;
        writeln!(f, "{}\n", self.coverage())?;
        for (signature, group) in sweep.groups.iter() {
            write_group(f, signature, group)?;
        }
        if sweep.groups.others() > 0 {
            writeln!(f, "and {} failures of still other sorts\n", grouped(sweep.groups.others()))?;
        }
        for report in reports {
            writeln!(f, "written: {}", report.display())?;
        }
        for site in missing {
            let (seeds, name) = (grouped(site.seeds()), site.name());
            writeln!(f, "never fired, and was due within {seeds} seeds: {name}")?;
        }
        for point in unasked {
            writeln!(f, "never reached in the HTTP contract: {point}")?;
        }
        let names: Vec<_> = plan.pieces.iter().map(|piece| piece.name()).collect();
        let end = match sweep.stopped {
            Stopped::Done => "",
            Stopped::Time => ", until the time was up",
            Stopped::Failures => ", until enough had failed",
        };
        writeln!(
            f,
            "{}: {} runs, seeds from {}, {} of them played twice{end}",
            names.join(", "),
            grouped(sweep.runs),
            plan.seeds.base,
            grouped(sweep.twice),
        )?;
        writeln!(
            f,
            "  {} clean, {} unrecoverable, {} failed in {} ways",
            grouped(self.clean()),
            grouped(sweep.unrecoverable),
            grouped(sweep.failed),
            sweep.groups.len(),
        )?;
        writeln!(
            f,
            "  {} operations, {} leaders, {} of virtual time",
            grouped(sweep.operations),
            grouped(sweep.leaders),
            rough(sweep.virtual_time),
        )?;
        writeln!(
            f,
            "  {} on {jobs} jobs: {:.1} seeds/s, {:.0} virtual seconds per core-second ({} of \
             processor time)",
            rough(sweep.elapsed),
            sweep.per_second(),
            sweep.virtual_per_core(),
            rough(sweep.core_time),
        )
    }
}

fn group_json<'a>(signature: &'a Signature, group: &'a Group) -> JsonGroup<'a> {
    JsonGroup {
        signature: &signature.text,
        count: group.count,
        case: group.cases.first().copied(),
        example: &group.example,
        reproduce: command(group),
        lowest: &group.cases,
    }
}

fn write_group(f: &mut fmt::Formatter<'_>, signature: &Signature, group: &Group) -> fmt::Result {
    let seeds: Vec<_> = group.cases.iter().map(|case| case.seed.to_string()).collect();
    let seeds = seeds.join(", ");
    writeln!(f, "{signature}")?;
    match group.count {
        1 => writeln!(f, "  1 run, seed {seeds}")?,
        count => {
            let more = if count > group.cases.len() as u64 { ", …" } else { "" };
            writeln!(f, "  {} runs, seeds {seeds}{more}", grouped(count))?;
        }
    }
    f.write_str(&indented(&group.example.what, "    "))?;
    f.write_str(&indented(&group.example.output, "    "))?;
    if let Some(command) = command(group) {
        writeln!(f, "  again: {command}")?;
    }
    writeln!(f)
}
