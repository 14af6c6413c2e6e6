//! What clients were told, and whether it can all be true.
//!
//! The workload makes only things whose history can be judged as it happens, one answer at a time:
//!
//! - **Facts**: a topic, once created, exists for ever under one UUID. From the moment that anyone was told so, by
//!   the answer to the write or by a read, every linearizable read that begins later must say so too.
//! - **Counters**: a broker's epoch counts its changes. A linearizable read must not show less than was
//!   certain when it began, nor more than was attempted when it ended.
//! - **Offsets**: cluster time never goes back between two linearizable polls of which one ended before the
//!   other began, and each poll's snapshot is of the kind that its age asks for.
//!
//! An answer that never came leaves a thing possible: it may show up, or not, but only once.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use yakt::env::rt;

use super::Violation;
use crate::env::SimEnv;

type Instant = rt::Instant<SimEnv>;

/// The age up to which a poll gets the current image.
const CURRENT_AGE_MAX: Duration = Duration::from_mins(10);

/// Everything that clients were told. Clones share it.
#[derive(Clone, Debug, Default)]
pub struct History {
    told: Arc<Mutex<Told>>,
}

#[derive(Debug, Default)]
struct Told {
    facts: BTreeMap<String, Fact>,
    counters: BTreeMap<String, Counter>,
    offsets: Vec<(Instant, u64)>,
    operations: u64,
    violation: Option<Violation>,
}

#[derive(Debug, Default)]
struct Fact {
    attempted: bool,
    acknowledged: bool,
    certain_since: Option<Instant>,
    value: Option<String>,
}

#[derive(Debug, Default)]
struct Counter {
    attempts: u64,
    acknowledged: u64,
    certain: Vec<(Instant, u64)>,
}

impl Told {
    fn report(&mut self, what: String) {
        self.violation.get_or_insert(Violation::safety(what));
    }
}

/// The largest value that was certain before `begun`.
fn floor(certain: &[(Instant, u64)], begun: Instant) -> Option<u64> {
    certain.iter().filter(|(since, _)| *since < begun).map(|(_, value)| *value).max()
}

impl History {
    fn lock(&self) -> MutexGuard<'_, Told> {
        self.told.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The first violation, if any.
    #[must_use]
    pub fn violation(&self) -> Option<Violation> {
        self.lock().violation.clone()
    }

    /// Notes a violation that was found elsewhere.
    pub fn report(&self, what: impl Into<String>) {
        self.lock().report(what.into());
    }

    /// How many operations were answered.
    #[must_use]
    pub fn operations(&self) -> u64 {
        self.lock().operations
    }

    /// Notes that an operation was answered.
    pub fn answered(&self) {
        self.lock().operations += 1;
    }

    /// Someone begins to make `name` true.
    pub fn attempt_fact(&self, name: &str) {
        self.lock().facts.entry(name.to_owned()).or_default().attempted = true;
    }

    /// A write or read, begun at `begun` and answered now, says that `name` is true, with `value`.
    pub fn told_fact(&self, name: &str, value: &str, by_write: bool) {
        let mut told = self.lock();
        let fact = told.facts.entry(name.to_owned()).or_default();
        fact.acknowledged |= by_write;
        fact.certain_since.get_or_insert_with(rt::now::<SimEnv>);
        let attempted = fact.attempted;
        let known = fact.value.get_or_insert_with(|| value.to_owned()).clone();
        if known != value {
            told.report(format!("{name} was {known} and is now {value}"));
        }
        if !attempted {
            told.report(format!("{name} was never written, and is {value}"));
        }
    }

    /// A linearizable read that began at `begun` says that `name` is not true.
    pub fn told_absent(&self, name: &str, begun: Instant) {
        let mut told = self.lock();
        let certain = told.facts.get(name).and_then(|fact| fact.certain_since);
        if certain.is_some_and(|since| since < begun) {
            told.report(format!(
                "{name} was certain, and a later linearizable read did not see it"
            ));
        }
    }

    /// The names of the facts that were acknowledged to their writers, with their values.
    #[must_use]
    pub fn acknowledged_facts(&self) -> Vec<(String, String)> {
        let told = self.lock();
        let acknowledged = told.facts.iter().filter(|(_, fact)| fact.acknowledged);
        acknowledged.filter_map(|(name, fact)| Some((name.clone(), fact.value.clone()?))).collect()
    }

    /// Whether anyone ever tried to make `name` true.
    #[must_use]
    pub fn attempted_fact(&self, name: &str) -> bool {
        self.lock().facts.get(name).is_some_and(|fact| fact.attempted)
    }

    /// Someone begins to count `name` up by one.
    pub fn attempt_count(&self, name: &str) {
        self.lock().counters.entry(name.to_owned()).or_default().attempts += 1;
    }

    /// The count of `name` was acknowledged.
    pub fn acknowledged_count(&self, name: &str) {
        self.lock().counters.entry(name.to_owned()).or_default().acknowledged += 1;
    }

    /// A write or a linearizable read that began at `begun` says that `name` stands at `value`.
    pub fn told_count(&self, name: &str, value: u64, begun: Instant) {
        let mut told = self.lock();
        let counter = told.counters.entry(name.to_owned()).or_default();
        let (floor, ceiling) = (floor(&counter.certain, begun), counter.attempts);
        counter.certain.push((rt::now::<SimEnv>(), value));
        if floor.is_some_and(|floor| value < floor) {
            told.report(format!(
                "{name} stood at {floor:?}, and a later linearizable read saw {value}"
            ));
        }
        if value > ceiling {
            told.report(format!("{name} stands at {value} after {ceiling} attempts"));
        }
    }

    /// The counters: name, acknowledged counts, attempted counts.
    #[must_use]
    pub fn counters(&self) -> Vec<(String, u64, u64)> {
        let told = self.lock();
        let counters = told.counters.iter();
        counters
            .map(|(name, counter)| (name.clone(), counter.acknowledged, counter.attempts))
            .collect()
    }

    /// A linearizable poll that began at `begun` with offset `previous` got a snapshot of `kind` at `offset`
    /// (both in microseconds).
    pub fn told_poll(&self, begun: Instant, previous: u64, offset: u64, kind: &str) {
        let mut told = self.lock();
        let floor = floor(&told.offsets, begun);
        told.offsets.push((rt::now::<SimEnv>(), offset));
        if floor.is_some_and(|floor| offset < floor) {
            told.report(format!("cluster time went back from {floor:?} to {offset}"));
        }
        let age = Duration::from_micros(offset.saturating_sub(previous));
        let expected = if age <= CURRENT_AGE_MAX { "current" } else { "complete" };
        if kind != "diff" && kind != expected {
            told.report(format!("an offset of age {age:?} was answered with a {kind} snapshot"));
        }
        if kind == "diff" && age > CURRENT_AGE_MAX {
            told.report(format!("an offset of age {age:?} was answered with a diff"));
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::runtime::simulate;

    /// Runs `tell` on a fresh history in a simulation, and says whether it found a violation.
    fn violates(tell: impl FnOnce(&History) + Send + 'static) -> bool {
        simulate(1, move || async move {
            let history = History::default();
            tell(&history);
            history.violation().is_some()
        })
    }

    fn later() -> Instant {
        rt::now::<SimEnv>() + Duration::from_secs(1)
    }

    #[test]
    fn a_fact_that_vanishes_is_caught() {
        let tell = |begun: fn() -> Instant| {
            move |history: &History| {
                history.attempt_fact("t");
                history.told_fact("t", "u", true);
                history.told_absent("t", begun());
            }
        };
        assert!(violates(tell(later)));
        // A read that began before the answer may be from before.
        assert!(!violates(tell(rt::now::<SimEnv>)));
    }

    #[test]
    fn a_fact_that_changes_or_was_never_written_is_caught() {
        assert!(violates(|history| {
            history.attempt_fact("t");
            history.told_fact("t", "u", true);
            history.told_fact("t", "v", false);
        }));
        assert!(violates(|history| history.told_fact("t", "u", false)));
    }

    #[test]
    fn a_counter_that_goes_back_or_counts_twice_is_caught() {
        assert!(violates(|history| {
            history.attempt_count("b");
            history.told_count("b", 1, rt::now::<SimEnv>());
            history.told_count("b", 0, later());
        }));
        assert!(violates(|history| {
            history.attempt_count("b");
            history.told_count("b", 2, rt::now::<SimEnv>());
        }));
        assert!(!violates(|history| {
            history.attempt_count("b");
            history.told_count("b", 1, rt::now::<SimEnv>());
            history.told_count("b", 1, later());
        }));
    }

    #[test]
    fn time_that_goes_back_and_a_wrong_snapshot_are_caught() {
        assert!(violates(|history| {
            history.told_poll(rt::now::<SimEnv>(), 0, 9, "current");
            history.told_poll(later(), 0, 8, "current");
        }));
        assert!(violates(|history| history.told_poll(
            rt::now::<SimEnv>(),
            0,
            600_000_001,
            "current"
        )));
        assert!(violates(|history| history.told_poll(
            rt::now::<SimEnv>(),
            0,
            600_000_000,
            "complete"
        )));
        assert!(!violates(|history| {
            history.told_poll(rt::now::<SimEnv>(), 0, 600_000_000, "current");
            history.told_poll(later(), 0, 600_000_001, "complete");
        }));
    }
}
