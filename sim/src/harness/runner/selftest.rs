//! Runs that fail on purpose: tests of the runner, not of yakt.
//!
//! They are no scenarios and in no list. `cargo sim run --scenario selftest-panic --seed 1` shows what a crash
//! looks like; `sim/tests/` uses them to show that every sort of failure is noticed. Each records a hundred
//! events and does its mischief in the middle of them.

use std::time::Duration;

use crate::harness::coverage::{Coverage, Site};
use crate::harness::record::{Recorder, frame, verdict};
use crate::harness::scenarios::{self, Played};
use crate::harness::schedule::Schedule;
use crate::harness::{Outcome, Summary, Verdict, Violation};
use crate::report::recording::Recording;
use crate::runtime::simulate;
use crate::trace::Trace;

/// Events that every selftest records.
const EVENTS: u64 = 100;

/// When it does its mischief.
const MISCHIEF_AT: u64 = 50;

/// Lines that [`Selftest::Flood`] prints to each stream: more than a pipe holds.
const FLOOD_LINES: u64 = 20_000;

macro_rules! selftests {
    ($($(#[$doc:meta])* $name:ident = $text:literal,)*) => {
        /// What goes wrong.
        #[derive(Clone, Copy, Debug, PartialEq, Eq)]
        pub enum Selftest { $($(#[$doc])* $name),* }

        impl Selftest {
            /// Every one.
            pub const ALL: &[Self] = &[$(Self::$name),*];

            /// What it is called.
            #[must_use]
            pub const fn name(self) -> &'static str {
                match self { $(Self::$name => concat!("selftest-", $text)),* }
            }
        }
    };
}

selftests! {
    /// Nothing.
    Clean = "clean",
    /// Nobody could keep what was promised.
    Unrecoverable = "unrecoverable",
    /// It breaks a promise.
    Safety = "safety",
    /// It does not keep one in time.
    Liveness = "liveness",
    /// It breaks a promise whenever a fault meets an operation in its schedule, the only one that there is.
    Meeting = "meeting",
    /// It panics.
    Panic = "panic",
    /// It ends without a word.
    Abort = "abort",
    /// It never ends.
    Hang = "hang",
    /// It prints a lot, to both streams.
    Flood = "flood",
    /// It depends on more than its seed.
    Diverge = "diverge",
    /// It does so only while nobody looks.
    DivergeUnseen = "diverge-unseen",
}

impl Selftest {
    /// The one that is called `name`.
    #[must_use]
    pub fn find(name: &str) -> Option<Self> {
        Self::ALL.iter().copied().find(|selftest| selftest.name() == name)
    }

    /// What `seed` draws, if it draws anything.
    pub(super) fn draw(self, seed: u64) -> Option<Schedule> {
        let drawn = match self {
            // It draws some of every fault.
            Self::Meeting => scenarios::find("standard")?.draw(seed)?,
            _ => return None,
        };
        Some(Schedule { scenario: self.name().to_owned(), ..drawn })
    }

    /// Plays it.
    pub(super) fn play(
        self,
        seed: u64,
        schedule: Option<&Schedule>,
        trace_lines: bool,
        recorder: &Recorder,
    ) -> Played {
        let events = recorder.clone();
        let trace = simulate(seed, move || async move {
            let trace = Trace::new();
            if trace_lines {
                trace.keep_lines();
            }
            for event in 0..EVENTS {
                madsim::time::sleep(Duration::from_millis(10)).await;
                if event == MISCHIEF_AT {
                    self.misbehave(seed, &trace, trace_lines);
                }
                events.note(None, "note", || format!("event {event} of seed {seed}"));
                trace.record(format_args!("event {event} of seed {seed}"));
            }
            trace
        });
        let outcome = match self {
            Self::Safety => Verdict::Violated(Violation::safety(format!(
                "seeds are kept: seed {seed} was lost"
            ))),
            Self::Liveness => {
                Verdict::Violated(Violation::liveness(format!("seed {seed} grows: it did not")))
            }
            Self::Meeting => meeting(schedule),
            Self::Unrecoverable => Verdict::Unrecoverable,
            _ => Verdict::Clean,
        };
        let coverage = Coverage::default();
        coverage.fire(Site::Recovery);
        let summary = Summary {
            operations: 2,
            leaders: 1,
            trace_hash: trace.hash(),
            trace_events: trace.events(),
            virtual_millis: 10 * EVENTS,
        };
        let said = match &outcome {
            Verdict::Clean => verdict("clean", ""),
            Verdict::Unrecoverable => verdict("unrecoverable", ""),
            Verdict::Violated(violation) => verdict(&violation.broken.to_string(), &violation.what),
        };
        let frame = Recording { verdict: said, ..frame(self.name(), seed, String::new()) };
        Played {
            outcome: Outcome { verdict: outcome, summary, coverage },
            trace: trace.lines(),
            recording: recorder.is_on().then(|| recorder.finish(frame, &[], &[])),
        }
    }

    fn misbehave(self, seed: u64, trace: &Trace, trace_lines: bool) {
        match self {
            Self::Panic => panic!("seed {seed} panics"),
            Self::Abort => std::process::abort(),
            Self::Hang => loop {
                std::hint::spin_loop();
            },
            Self::Flood => {
                for line in 0..FLOOD_LINES {
                    println!("line {line} of the flood");
                    eprintln!("line {line} of the flood");
                }
            }
            Self::Diverge => trace.record(format_args!("process {}", std::process::id())),
            Self::DivergeUnseen if !trace_lines => {
                trace.record(format_args!("process {}", std::process::id()));
            }
            _ => {}
        }
    }
}

/// What becomes of [`Selftest::Meeting`] with this schedule.
fn meeting(schedule: Option<&Schedule>) -> Verdict {
    let Some(schedule) = schedule else { return Verdict::Clean };
    let operations: usize = schedule.clients.iter().map(Vec::len).sum();
    match (schedule.faults.len(), operations) {
        (0, _) | (_, 0) => Verdict::Clean,
        (faults, operations) => Verdict::Violated(Violation::safety(format!(
            "faults meet nobody: {faults} met {operations} operations"
        ))),
    }
}
