//! Every scenario, over several seeds, each seed in a process of its own.
//!
//! `cargo test --test simulations NAME` picks scenarios; `YAKT_SEED=N` runs exactly one seed, `YAKT_SEEDS=N` sets how
//! many a scenario, `YAKT_SEED_BASE=N` where they begin. See `yakt_sim::harness::runner`.

#![expect(
    clippy::disallowed_methods,
    reason = "the parent of the simulating processes is real itself"
)]

use std::process::ExitCode;
use std::time::Instant;

use libtest_mimic::{Arguments, Failed, Trial};
use yakt_sim::harness::Summary;
use yakt_sim::harness::runner::{Seeds, child, run, run_twice};
use yakt_sim::harness::scenarios::{ALL, Scenario};

/// Seeds a scenario in a plain `cargo test`.
const SEEDS: u64 = 30;

/// Seeds a scenario that are run twice to compare the traces.
const SEEDS_TWICE: u64 = 3;

fn main() -> ExitCode {
    if let Some(exit) = child() {
        return exit;
    }
    let arguments = Arguments::from_args();
    let mut trials = Vec::new();
    for &scenario in ALL {
        trials.push(Trial::test(scenario.name, move || sweep(scenario)));
    }
    for &scenario in ALL {
        trials.push(Trial::test(format!("determinism::{}", scenario.name), move || {
            determinism(scenario)
        }));
    }
    libtest_mimic::run(&arguments, trials).exit_code()
}

fn sweep(scenario: Scenario) -> Result<(), Failed> {
    let (started, mut total, mut runs, mut failures) =
        (Instant::now(), Summary::default(), 0, Vec::new());
    for seed in Seeds::from_env(SEEDS).iter() {
        match run(scenario, seed, None) {
            Ok(summary) => {
                total.operations += summary.operations;
                total.leaders += summary.leaders;
                total.virtual_time += summary.virtual_time;
            }
            Err(failure) => failures.push(failure.to_string()),
        }
        runs += 1;
    }
    println!(
        "{}: {runs} seeds, {} failed, {} operations, {} leaders, {:.0} virtual s in {:.1} s",
        scenario.name,
        failures.len(),
        total.operations,
        total.leaders,
        total.virtual_time.as_secs_f64(),
        started.elapsed().as_secs_f64(),
    );
    if failures.is_empty() { Ok(()) } else { Err(failures.join("\n").into()) }
}

fn determinism(scenario: Scenario) -> Result<(), Failed> {
    let dir = std::env::temp_dir().join(format!("yakt-{}-{}", scenario.name, std::process::id()));
    std::fs::create_dir_all(&dir)?;
    let differences: Vec<_> = Seeds::from_env(SEEDS_TWICE)
        .iter()
        .take(usize::try_from(SEEDS_TWICE)?)
        .filter_map(|seed| run_twice(scenario, seed, &dir).err())
        .collect();
    std::fs::remove_dir_all(&dir)?;
    if differences.is_empty() { Ok(()) } else { Err(differences.join("\n").into()) }
}
