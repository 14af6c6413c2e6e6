//! Every way in which a run can end is noticed by its runner.
//!
//! The runs are [`Selftest`]s, which misbehave on purpose, in processes of the `sim` executable.

#![cfg(madsim)]
#![expect(clippy::unwrap_used, reason = "helpers of tests are tests")]
#![expect(clippy::disallowed_methods, reason = "runners and what they write are real")]

use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use yakt_sim::harness::runner::selftest::Selftest;
use yakt_sim::harness::runner::sweep::{Event, Stopped};
use yakt_sim::harness::runner::{End, Kind, Piece, Plan, Run, Runner, Seeds, Sweep, Wants, Work};
use yakt_sim::harness::{Outcome, Verdict};

/// Much more than a selftest takes, even on a machine with other things to do.
const LONG_ENOUGH: Duration = Duration::from_mins(1);

fn runner() -> Runner {
    Runner::of(env!("CARGO_BIN_EXE_sim")).with_hang_limit(LONG_ENOUGH)
}

fn play(selftest: Selftest, seed: u64) -> Run {
    runner().run(&Work::Seed(Piece::Selftest(selftest), seed), Wants::default()).unwrap()
}

fn outcome(run: &Run) -> &Outcome {
    run.end.outcome().unwrap_or_else(|| panic!("it was not played to its end: {:?}", run.end))
}

/// A fresh directory for one test.
fn scratch(name: &str) -> PathBuf {
    let dir = Path::new(env!("CARGO_TARGET_TMPDIR")).join(name);
    if dir.exists() {
        std::fs::remove_dir_all(&dir).unwrap();
    }
    dir
}

fn plan(selftests: &[Selftest], count: u64, traces: PathBuf) -> Plan {
    Plan {
        pieces: selftests.iter().copied().map(Piece::Selftest).collect(),
        seeds: Seeds { base: 1, count },
        twice_every: 0,
        time: None,
        failures_max: None,
        traces,
    }
}

fn sweep(plan: &Plan) -> Sweep {
    runner().with_jobs(2).sweep(plan, &mut |_, _| {}).unwrap()
}

#[test]
fn a_clean_run_brings_its_outcome_home() {
    let run = play(Selftest::Clean, 7);
    let Outcome { verdict, summary, .. } = outcome(&run);
    assert_eq!(*verdict, Verdict::Clean);
    assert_eq!((summary.operations, summary.trace_events, summary.virtual_millis), (2, 100, 1_000));
    assert_eq!(run.end.failure(), None);
    let again = play(Selftest::Clean, 7);
    assert_eq!(outcome(&again).summary.trace_hash, summary.trace_hash);
    let other = play(Selftest::Clean, 8);
    assert_ne!(outcome(&other).summary.trace_hash, summary.trace_hash);
}

#[test]
fn an_unrecoverable_run_is_no_failure() {
    let run = play(Selftest::Unrecoverable, 7);
    assert_eq!(outcome(&run).verdict, Verdict::Unrecoverable);
    assert_eq!(run.end.failure(), None);
}

#[test]
fn a_violation_is_told_with_its_sort() {
    for (selftest, kind) in [(Selftest::Safety, Kind::Safety), (Selftest::Liveness, Kind::Liveness)]
    {
        let failure = play(selftest, 7).end.failure().unwrap();
        assert_eq!(failure.kind, kind);
        assert!(failure.what.contains("seed 7"), "{failure:?}");
    }
}

#[test]
fn a_panic_is_told_with_its_place() {
    let failure = play(Selftest::Panic, 7).end.failure().unwrap();
    assert_eq!((failure.kind, failure.what.as_str()), (Kind::Crash, "seed 7 panics"));
    let place = failure.place.unwrap();
    assert!(place.contains("selftest.rs:"), "{place}");
    assert!(failure.output.contains("panicked at"), "{}", failure.output);
}

#[test]
fn a_death_without_a_word_is_a_crash() {
    let failure = play(Selftest::Abort, 7).end.failure().unwrap();
    assert_eq!(failure.kind, Kind::Crash);
    assert!(failure.what.contains("signal"), "{failure:?}");
}

#[test]
fn an_endless_loop_is_killed_and_called_a_hang() {
    let limit = Duration::from_millis(500);
    let runner = runner().with_hang_limit(limit);
    let started = Instant::now();
    let work = Work::Seed(Piece::Selftest(Selftest::Hang), 7);
    let run = runner.run(&work, Wants::default()).unwrap();
    assert!(matches!(run.end, End::Hung(after) if after == limit), "{:?}", run.end);
    assert_eq!(run.end.failure().unwrap().kind, Kind::Hang);
    assert!(started.elapsed() < LONG_ENOUGH);
}

#[test]
fn a_run_that_prints_a_lot_does_not_block() {
    assert_eq!(outcome(&play(Selftest::Flood, 7)).verdict, Verdict::Clean);
}

#[test]
fn a_program_that_is_no_child_is_an_error() {
    let runner = Runner::of("/bin/true");
    let work = Work::Seed(Piece::Selftest(Selftest::Clean), 7);
    assert!(runner.run(&work, Wants::default()).is_err());
    assert!(Runner::of("/no/such/program").run(&work, Wants::default()).is_err());
}

#[test]
fn a_trace_and_a_report_are_written() {
    let dir = scratch("files");
    std::fs::create_dir_all(&dir).unwrap();
    let (trace, report) = (dir.join("x.trace"), dir.join("x.html"));
    let wants = Wants { trace: Some(&trace), report: Some(&report), ..Wants::default() };
    runner().run(&Work::Seed(Piece::Selftest(Selftest::Clean), 7), wants).unwrap();
    assert_eq!(std::fs::read_to_string(trace).unwrap().lines().count(), 100);
    assert!(std::fs::read_to_string(report).unwrap().contains("selftest-clean"));
}

#[test]
fn a_sweep_goes_on_after_failures_and_groups_them() {
    let selftests = [Selftest::Clean, Selftest::Safety, Selftest::Panic, Selftest::Unrecoverable];
    let mut news = 0;
    let plan = plan(&selftests, 12, scratch("groups"));
    let sweep = runner()
        .with_jobs(2)
        .sweep(&plan, &mut |_, event| news += u32::from(matches!(event, Event::Failed(..))))
        .unwrap();
    assert_eq!((sweep.runs, sweep.failed, sweep.unrecoverable), (48, 24, 12));
    assert_eq!((sweep.stopped, news), (Stopped::Done, 2));
    let found: Vec<_> =
        sweep.groups.iter().map(|(signature, group)| (signature.kind, group.count)).collect();
    assert_eq!(found, [(Kind::Safety, 12), (Kind::Crash, 12)]);
    for (_, group) in sweep.groups.iter() {
        let seeds: Vec<_> = group.cases.iter().map(|case| case.seed).collect();
        assert_eq!(seeds, (1..=10).collect::<Vec<_>>());
        assert!(group.example.what.contains("seed 1 "), "{:?}", group.example);
    }
    // Panics have no outcome.
    assert_eq!(sweep.operations, 36 * 2);
}

#[test]
fn a_sweep_ends_when_enough_have_failed() {
    let plan =
        Plan { failures_max: Some(3), ..plan(&[Selftest::Safety], 1_000, scratch("enough")) };
    let sweep = sweep(&plan);
    assert_eq!(sweep.stopped, Stopped::Failures);
    assert!((3..200).contains(&sweep.runs), "{} runs", sweep.runs);
}

#[test]
fn a_sweep_ends_when_its_time_is_up() {
    let time = Some(Duration::from_millis(300));
    let plan = Plan { time, ..plan(&[Selftest::Clean], u64::MAX, scratch("time")) };
    let sweep = sweep(&plan);
    assert_eq!(sweep.stopped, Stopped::Time);
    assert!(sweep.failed == 0 && sweep.elapsed < LONG_ENOUGH, "{sweep:?}");
}

#[test]
fn a_run_that_depends_on_its_process_is_caught_and_explained() {
    let dir = scratch("diverge");
    let plan = Plan { twice_every: 2, ..plan(&[Selftest::Diverge], 4, dir.clone()) };
    let sweep = sweep(&plan);
    assert_eq!((sweep.runs, sweep.twice, sweep.failed), (4, 2, 2));
    let (signature, group) = sweep.groups.iter().next().unwrap();
    assert_eq!((signature.kind, group.count), (Kind::NonDeterminism, 2));
    let explanation = &group.example.output;
    assert!(explanation.contains("they part at event 50"), "{explanation}");
    assert!(explanation.contains("event 49 of seed 1"), "{explanation}");
    assert_eq!(explanation.matches(" process ").count(), 2, "{explanation}");
    assert!(dir.join("selftest-diverge-1-2.trace").exists());
}

#[test]
fn a_difference_that_hides_from_observers_is_said_to_hide() {
    let unseen = plan(&[Selftest::DivergeUnseen], 1, scratch("unseen"));
    let sweep = sweep(&Plan { twice_every: 1, ..unseen });
    let (signature, group) = sweep.groups.iter().next().unwrap();
    assert_eq!(signature.kind, Kind::NonDeterminism);
    assert!(group.example.output.contains("two runs agree"), "{:?}", group.example);
}

/// Two runs that were cut off agree on nothing, and fail as one that was cut off does.
#[test]
fn a_run_that_hangs_twice_is_a_hang() {
    let runner = runner().with_hang_limit(Duration::from_millis(300)).with_jobs(2);
    let plan = Plan { twice_every: 1, ..plan(&[Selftest::Hang], 1, scratch("hang-twice")) };
    let sweep = runner.sweep(&plan, &mut |_, _| {}).unwrap();
    let found: Vec<_> =
        sweep.groups.iter().map(|(signature, group)| (signature.kind, group.count)).collect();
    assert_eq!((found, sweep.twice), (vec![(Kind::Hang, 1)], 1));
}

#[test]
fn a_panic_and_a_hang_leave_a_report() {
    let dir = scratch("crash-report");
    std::fs::create_dir_all(&dir).unwrap();
    let runner = runner().with_hang_limit(Duration::from_secs(2));
    for (selftest, expected) in
        [(Selftest::Panic, true), (Selftest::Abort, false), (Selftest::Hang, true)]
    {
        let report = dir.join(format!("{}.html", selftest.name()));
        let wants = Wants { report: Some(&report), ..Wants::default() };
        let run = runner.run(&Work::Seed(Piece::Selftest(selftest), 7), wants).unwrap();
        assert_eq!((run.report, report.exists()), (expected, expected), "{}", selftest.name());
    }
}

#[test]
fn runs_that_fail_the_same_way_twice_are_no_difference() {
    let selftests = [Selftest::Clean, Selftest::Safety, Selftest::Panic];
    let sweep = sweep(&Plan { twice_every: 1, ..plan(&selftests, 3, scratch("same")) });
    assert_eq!((sweep.twice, sweep.failed), (9, 6));
    assert!(sweep.groups.iter().all(|(signature, _)| signature.kind != Kind::NonDeterminism));
}
