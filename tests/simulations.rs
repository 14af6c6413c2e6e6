//! Every scenario, over several seeds, each run in a process of its own; and schedules that failed once.
//!
//! `cargo test --test simulations NAME` picks scenarios; `YAKT_SEED=N` runs exactly one seed, `YAKT_SEEDS=N` sets how
//! many a scenario, `YAKT_SEED_BASE=N` where they begin. See `yakt_sim::harness::runner`.
//!
//! A schedule in `tests/schedules/` is a bug that was fixed: it must be clean. `cargo sim shrink` makes such files.
//!
//! All trials run at once as far as the test harness lets them, but they share one runner, so that there is
//! never more than one run a core, and the last scenario has all cores for itself.

#![expect(
    clippy::disallowed_methods,
    reason = "the parent of the simulating processes is real itself"
)]

use std::io;
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::sync::Arc;

use libtest_mimic::{Arguments, Failed, Trial};
use yakt_sim::harness::runner::{Piece, Plan, Runner, Seeds, Sweep, Wants, Work, child};
use yakt_sim::harness::scenarios::ALL;
use yakt_sim::harness::schedule::Schedule;

/// Seeds a scenario in a plain `cargo test`.
const SEEDS: u64 = 30;

/// Seeds a scenario that are run twice to compare the traces.
const SEEDS_TWICE: u64 = 3;

/// Scenarios whose runs take seconds each, because they last for hours of virtual time or are under full load.
const LONG: &[&str] = &["hours", "standard", "ten_minutes"];

/// The same two numbers for the scenarios in [`LONG`], so that a plain `cargo test` takes minutes.
const SEEDS_LONG: u64 = 6;
const SEEDS_TWICE_LONG: u64 = 1;

/// Where the schedules are.
const SCHEDULES: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/schedules");

fn main() -> ExitCode {
    if let Some(exit) = child() {
        return exit;
    }
    let arguments = Arguments::from_args();
    match trials() {
        Ok(trials) => libtest_mimic::run(&arguments, trials).exit_code(),
        Err(error) => {
            eprintln!("error: {error}");
            ExitCode::FAILURE
        }
    }
}

fn trials() -> io::Result<Vec<Trial>> {
    let runner = Arc::new(Runner::new()?);
    let mut trials = Vec::new();
    for path in schedules()? {
        let name = path.file_stem().unwrap_or_default().to_string_lossy().into_owned();
        let runner = runner.clone();
        trials.push(Trial::test(format!("schedule::{name}"), move || replay(&runner, &path)));
    }
    for piece in ALL.iter().copied().map(Piece::Scenario) {
        let long = LONG.contains(&piece.name());
        let (many, twice) =
            if long { (SEEDS_LONG, SEEDS_TWICE_LONG) } else { (SEEDS, SEEDS_TWICE) };
        let seeds = Seeds::from_env(many);
        let one = runner.clone();
        trials.push(Trial::test(piece.name(), move || sweep(&one, piece, seeds, 0)));
        let (few, other) = (Seeds::from_env(twice).at_most(twice), runner.clone());
        let name = format!("determinism::{}", piece.name());
        trials.push(Trial::test(name, move || sweep(&other, piece, few, 1)));
    }
    Ok(trials)
}

/// The files in [`SCHEDULES`], if there are any.
fn schedules() -> io::Result<Vec<PathBuf>> {
    let entries = match std::fs::read_dir(SCHEDULES) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(Vec::new()),
        entries => entries?,
    };
    let paths = entries.map(|entry| Ok(entry?.path())).collect::<io::Result<Vec<_>>>()?;
    let mut paths: Vec<_> = paths
        .into_iter()
        .filter(|path| path.extension().is_some_and(|end| end == "json"))
        .collect();
    paths.sort();
    Ok(paths)
}

fn replay(runner: &Runner, path: &Path) -> Result<(), Failed> {
    let schedule: Schedule = serde_json::from_str(&std::fs::read_to_string(path)?)?;
    let run = runner.run(&Work::Schedule(&schedule), Wants::default())?;
    match run.end.failure() {
        None => Ok(()),
        Some(failure) => {
            let (kind, what, path) = (failure.kind, failure.what, path.display());
            Err(format!("{kind}: {what}\n  again: cargo sim replay {path}").into())
        }
    }
}

fn sweep(runner: &Runner, piece: Piece, seeds: Seeds, twice_every: u64) -> Result<(), Failed> {
    let plan = Plan {
        pieces: vec![piece],
        seeds,
        twice_every,
        time: None,
        failures_max: None,
        // Here traces of runs that differ outlive the test, and `cargo clean` removes them.
        traces: PathBuf::from(env!("CARGO_TARGET_TMPDIR")),
    };
    let sweep = runner.sweep(&plan, &mut |_, _| {})?;
    let Sweep { runs, twice, failed, operations, leaders, virtual_time, elapsed, .. } = &sweep;
    println!(
        "{}: {runs} seeds, {twice} twice, {failed} failed, {operations} operations, {leaders} leaders, \
         {:.0} virtual s in {:.1} s",
        piece.name(),
        virtual_time.as_secs_f64(),
        elapsed.as_secs_f64(),
    );
    let failures: Vec<_> = sweep
        .groups
        .iter()
        .map(|(signature, group)| {
            let seeds: Vec<_> = group.cases.iter().map(|case| case.seed.to_string()).collect();
            let command = group.cases.first().map(|case| case.command(signature.kind));
            let (what, output) = (&group.example.what, &group.example.output);
            format!(
                "{} of {runs} runs failed, seeds {}: {signature}\n{what}\n{output}\n  again: {}",
                group.count,
                seeds.join(", "),
                command.unwrap_or_default()
            )
        })
        .collect();
    if failures.is_empty() { Ok(()) } else { Err(failures.join("\n\n").into()) }
}
