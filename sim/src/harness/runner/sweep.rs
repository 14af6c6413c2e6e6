//! Many seeds, in parallel, some of them twice.
//!
//! A sweep goes on after failures, so that a rare one is not hidden by a common one, and ends when every seed was
//! played, when its time is up, or when enough runs have failed. Seeds are begun in order, each on all its pieces
//! before the next. A run that was begun is always played to its end.

#![expect(
    clippy::disallowed_methods,
    reason = "the parent of the simulating processes is real itself"
)]

use std::io;
use std::path::PathBuf;
use std::sync::atomic::{AtomicBool, AtomicU32, AtomicU64, Ordering};
use std::sync::mpsc::{self, RecvTimeoutError};
use std::time::{Duration, Instant};

use serde::Serialize;

use super::groups::{Case, Groups};
use super::{End, Failure, Kind, Piece, Run, Runner, Seeds, Wants, Work, diverge, process};
use crate::harness::Verdict;
use crate::harness::coverage::{Coverage, Site};

/// Failures of determinism that are looked into in a sweep: each takes two more runs, and room for their traces.
const EXPLANATIONS_MAX: u32 = 5;

/// Ended runs that wait to be counted.
const QUEUE: usize = 64;

/// How often a watcher hears of a sweep in which nothing ends.
const TICK: Duration = Duration::from_millis(500);

/// What a sweep plays.
#[derive(Clone, Debug)]
pub struct Plan {
    /// What the seeds are played on: each on all of them.
    pub pieces: Vec<Piece>,
    /// The seeds.
    pub seeds: Seeds,
    /// Every so many seeds, one is played twice and the traces are compared; 0 for none. The first is one of them.
    pub twice_every: u64,
    /// How long to begin new runs.
    pub time: Option<Duration>,
    /// How many runs may fail before no new ones begin.
    pub failures_max: Option<u64>,
    /// Where the traces of runs that differ are written. It is made when it is needed.
    pub traces: PathBuf,
}

/// Why a sweep ended.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum Stopped {
    /// Every seed was played.
    #[default]
    Done,
    /// Its time was up.
    Time,
    /// Enough runs had failed.
    Failures,
}

/// What came of a sweep, so far.
#[derive(Clone, Debug, Default)]
pub struct Sweep {
    /// Runs, each seed on each piece counted once.
    pub runs: u64,
    /// How many of them were played twice.
    pub twice: u64,
    /// How many of them failed.
    pub failed: u64,
    /// How many of them were unrecoverable.
    pub unrecoverable: u64,
    /// Client operations that were answered in them.
    pub operations: u64,
    /// Terms that had a leader in them.
    pub leaders: u64,
    /// Virtual time that passed in them.
    pub virtual_time: Duration,
    /// Virtual time that passed in all processes, second runs included.
    pub virtual_time_played: Duration,
    /// Processor time of all processes that this one started meanwhile; where it is not known, the real time that
    /// they took, added up.
    pub core_time: Duration,
    process_time: Duration,
    /// Real time that the sweep took.
    pub elapsed: Duration,
    /// The rare things that happened in them.
    pub coverage: Coverage,
    /// The failures.
    pub groups: Groups,
    /// Why it ended.
    pub stopped: Stopped,
}

/// What a watcher hears.
#[derive(Debug)]
pub enum Event<'a> {
    /// Some time passed.
    Tick,
    /// A run ended.
    Ended,
    /// A run failed as none before did.
    Failed(Case, &'a Failure),
}

/// A run, and its second one.
struct Attempt {
    case: Case,
    first: Run,
    second: Option<Run>,
    /// What the two show that the first does not show alone.
    difference: Option<Failure>,
}

impl Plan {
    /// How many runs there are in it.
    pub fn runs(&self) -> u64 {
        self.seeds.count.saturating_mul(self.pieces.len() as u64)
    }

    /// The run at this place, and whether it is played twice.
    fn pick(&self, place: u64) -> Option<(Piece, u64, bool)> {
        if place >= self.runs() {
            return None;
        }
        let pieces = self.pieces.len() as u64;
        let step = place / pieces;
        let piece = self.pieces[usize::try_from(place % pieces).ok()?];
        Some((piece, self.seeds.at(step), step.checked_rem(self.twice_every) == Some(0)))
    }
}

impl Sweep {
    fn count(&mut self, attempt: Attempt, watch: &mut dyn FnMut(&Self, Event<'_>)) {
        let Attempt { case, first, second, difference } = attempt;
        self.runs += 1;
        self.twice += u64::from(second.is_some());
        for run in std::iter::once(&first).chain(&second) {
            self.process_time += run.took;
            let millis = run.end.outcome().map_or(0, |outcome| outcome.summary.virtual_millis);
            self.virtual_time_played += Duration::from_millis(millis);
        }
        if let Some(outcome) = first.end.outcome() {
            self.unrecoverable += u64::from(outcome.verdict == Verdict::Unrecoverable);
            self.operations += outcome.summary.operations;
            self.leaders += outcome.summary.leaders;
            self.virtual_time += Duration::from_millis(outcome.summary.virtual_millis);
            self.coverage.merge(&outcome.coverage);
        }
        let failures: Vec<_> = first.end.failure().into_iter().chain(difference).collect();
        self.failed += u64::from(!failures.is_empty());
        for failure in failures {
            if self.groups.add(case, failure.clone()) {
                watch(self, Event::Failed(case, &failure));
            }
        }
    }

    /// The rare things that should have happened in a sweep of so many seeds and did not.
    #[must_use]
    pub fn missing(&self, plan: &Plan) -> Vec<Site> {
        self.coverage.missing(self.runs / (plan.pieces.len() as u64).max(1))
    }

    /// The points of the HTTP contract that a sweep of this many seeds should have reached and did
    /// not.
    #[must_use]
    pub fn missing_of_contract(&self, plan: &Plan) -> Vec<String> {
        self.coverage.missing_of_contract(self.runs / (plan.pieces.len() as u64).max(1))
    }

    /// Runs for each second of real time, second runs not counted.
    #[expect(clippy::cast_precision_loss, reason = "it is a rate for people")]
    pub fn per_second(&self) -> f64 {
        self.runs as f64 / self.elapsed.as_secs_f64().max(1e-3)
    }

    /// Virtual seconds for each second of a core.
    #[expect(clippy::cast_precision_loss, reason = "it is a rate for people")]
    pub fn virtual_per_core(&self) -> f64 {
        let millis = |duration: Duration| duration.as_millis() as f64;
        millis(self.virtual_time_played) / millis(self.core_time).max(1.0)
    }
}

/// What the threads of a sweep share.
struct Field<'a> {
    runner: &'a Runner,
    plan: &'a Plan,
    started: Instant,
    /// [`process::cpu_time`] when it started.
    cpu_time_before: Option<Duration>,
    next: AtomicU64,
    stop: AtomicBool,
    explained: AtomicU32,
}

impl Field<'_> {
    fn time_is_up(&self) -> bool {
        self.plan.time.is_some_and(|time| self.started.elapsed() >= time)
    }

    /// The next run, unless there is none.
    fn next(&self) -> Option<io::Result<Attempt>> {
        if self.stop.load(Ordering::Relaxed) || self.time_is_up() {
            return None;
        }
        let place = self.next.fetch_add(1, Ordering::Relaxed);
        let (piece, seed, twice) = self.plan.pick(place)?;
        Some(self.attempt(Case { place, scenario: piece.name(), seed }, piece, twice))
    }

    fn attempt(&self, case: Case, piece: Piece, twice: bool) -> io::Result<Attempt> {
        let play = || self.runner.run(&Work::Seed(piece, case.seed), Wants::default());
        let first = play()?;
        let second = if twice { Some(play()?) } else { None };
        let difference = match &second {
            Some(second) => self.difference(case, piece, &first.end, &second.end)?,
            None => None,
        };
        Ok(Attempt { case, first, second, difference })
    }

    fn difference(
        &self,
        case: Case,
        piece: Piece,
        first: &End,
        second: &End,
    ) -> io::Result<Option<Failure>> {
        let Some(mut failure) = diverge::failure(first, second) else { return Ok(None) };
        if failure.kind == Kind::NonDeterminism
            && self.explained.fetch_add(1, Ordering::Relaxed) < EXPLANATIONS_MAX
        {
            failure.output = diverge::explain(self.runner, piece, case.seed, &self.plan.traces)?;
        }
        Ok(Some(failure))
    }
}

impl Runner {
    /// Plays all that is in `plan`, and tells `watch` about it as it goes.
    ///
    /// # Errors
    ///
    /// When a process cannot be started or listened to, or a trace not be written. Failing runs are no errors.
    pub fn sweep(
        &self,
        plan: &Plan,
        watch: &mut dyn FnMut(&Sweep, Event<'_>),
    ) -> io::Result<Sweep> {
        let field = Field {
            runner: self,
            plan,
            started: Instant::now(),
            cpu_time_before: process::cpu_time(),
            next: AtomicU64::new(0),
            stop: AtomicBool::new(false),
            explained: AtomicU32::new(0),
        };
        std::thread::scope(|scope| {
            let (sender, attempts) = mpsc::sync_channel(QUEUE);
            for _ in 0..self.jobs() {
                let (field, sender) = (&field, sender.clone());
                scope.spawn(move || {
                    while let Some(attempt) = field.next() {
                        if sender.send(attempt).is_err() {
                            return;
                        }
                    }
                });
            }
            // The channel ends with the last thread.
            drop(sender);
            let sweep = field.collect(&attempts, watch);
            // Nobody counts any more, for an error: nothing new begins.
            field.stop.store(true, Ordering::Relaxed);
            sweep
        })
    }
}

impl Field<'_> {
    fn core_time(&self) -> Option<Duration> {
        process::cpu_time()?.checked_sub(self.cpu_time_before?)
    }

    fn collect(
        &self,
        attempts: &mpsc::Receiver<io::Result<Attempt>>,
        watch: &mut dyn FnMut(&Sweep, Event<'_>),
    ) -> io::Result<Sweep> {
        let mut sweep = Sweep::default();
        loop {
            let attempt = attempts.recv_timeout(TICK);
            sweep.elapsed = self.started.elapsed();
            match attempt {
                Ok(attempt) => {
                    sweep.count(attempt?, watch);
                    sweep.core_time = self.core_time().unwrap_or(sweep.process_time);
                    watch(&sweep, Event::Ended);
                }
                Err(RecvTimeoutError::Timeout) => watch(&sweep, Event::Tick),
                Err(RecvTimeoutError::Disconnected) => break,
            }
            if self.plan.failures_max.is_some_and(|max| sweep.failed >= max) {
                self.stop.store(true, Ordering::Relaxed);
            }
        }
        sweep.stopped = if sweep.runs == self.plan.runs() {
            Stopped::Done
        } else if self.stop.load(Ordering::Relaxed) {
            Stopped::Failures
        } else {
            Stopped::Time
        };
        Ok(sweep)
    }
}

#[cfg(test)]
mod tests {
    use super::super::selftest::Selftest;
    use super::*;
    use crate::harness::{Outcome, Summary, Violation};

    fn plan(twice_every: u64) -> Plan {
        Plan {
            pieces: vec![Piece::Selftest(Selftest::Clean), Piece::Selftest(Selftest::Panic)],
            seeds: Seeds { base: 10, count: 5 },
            twice_every,
            time: None,
            failures_max: None,
            traces: PathBuf::new(),
        }
    }

    #[test]
    fn every_seed_is_played_on_every_subject() {
        let picked: Vec<_> = (0..).map_while(|place| plan(0).pick(place)).collect();
        assert_eq!(picked.len(), 10);
        let names: Vec<_> = picked.iter().map(|(piece, seed, _)| (piece.name(), *seed)).collect();
        assert_eq!(
            names[..3],
            [("selftest-clean", 10), ("selftest-panic", 10), ("selftest-clean", 11)]
        );
        assert!(picked.iter().all(|(_, _, twice)| !twice));
    }

    #[test]
    fn a_share_of_the_seeds_is_played_twice() {
        let plan = plan(2);
        let twice = (0..).map_while(|place| plan.pick(place)).filter(|(_, _, twice)| *twice);
        let seeds: Vec<_> = twice.map(|(_, seed, _)| seed).collect();
        assert_eq!(seeds, [10, 10, 12, 12, 14, 14]);
    }

    #[test]
    fn a_sweep_adds_up_its_runs() {
        let run = |verdict| {
            let summary =
                Summary { operations: 3, leaders: 2, virtual_millis: 500, ..Summary::default() };
            let outcome = Outcome { verdict, summary, coverage: Coverage::default() };
            let took = Duration::from_millis(100);
            Run { end: End::Played(Box::new(outcome)), took, report: false }
        };
        let mut sweep = Sweep::default();
        let mut news = 0;
        for seed in 0..4 {
            let verdict = match seed {
                0 => Verdict::Clean,
                1 => Verdict::Unrecoverable,
                _ => Verdict::Violated(Violation::safety("a promise: broken")),
            };
            let attempt = Attempt {
                case: Case { place: seed, scenario: "swarm", seed },
                first: run(verdict.clone()),
                second: (seed == 0).then(|| run(verdict)),
                difference: None,
            };
            sweep.count(attempt, &mut |_, event| {
                news += u32::from(matches!(event, Event::Failed(..)));
            });
        }
        assert_eq!((sweep.runs, sweep.twice, sweep.failed, sweep.unrecoverable), (4, 1, 2, 1));
        assert_eq!((sweep.operations, sweep.leaders, news), (12, 8, 1));
        assert_eq!(sweep.virtual_time, Duration::from_secs(2));
        assert_eq!(sweep.process_time, Duration::from_millis(500));
        sweep.core_time = sweep.process_time;
        assert!((sweep.virtual_per_core() - 5.0).abs() < 1e-9);
    }
}
