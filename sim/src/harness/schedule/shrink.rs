//! Makes a failing schedule smaller: delta debugging (Zeller and Hildebrandt, 2002) over its faults and its
//! clients' operations, then over its settings.

use super::{Schedule, Settings};

/// What can be tried on a schedule's way down.
pub trait Trial {
    /// Whether `schedule` still fails as the first one did.
    fn fails(&mut self, schedule: &Schedule) -> bool;

    /// Whether to go on: shrinking takes as long as it is given.
    fn goes_on(&self) -> bool;
}

/// The smallest schedule found that still fails.
pub fn shrink(schedule: &Schedule, trial: &mut impl Trial) -> Schedule {
    let mut best = schedule.clone();
    loop {
        let before = size(&best);
        shrink_clients(&mut best, trial);
        let faults = minimal(best.faults.clone(), trial, |faults, trial| {
            trial.fails(&Schedule { faults: faults.to_vec(), ..best.clone() })
        });
        best.faults = faults;
        for client in 0..best.clients.len() {
            let operations = minimal(best.clients[client].clone(), trial, |operations, trial| {
                let mut candidate = best.clone();
                candidate.clients[client] = operations.to_vec();
                trial.fails(&candidate)
            });
            best.clients[client] = operations;
        }
        shrink_settings(&mut best, trial);
        if size(&best) >= before || !trial.goes_on() {
            return best;
        }
    }
}

/// How much there is in a schedule: faults, operations, and how long it lasts.
#[must_use]
pub fn size(schedule: &Schedule) -> (usize, usize, u64) {
    let operations = schedule.clients.iter().map(Vec::len).sum();
    (schedule.faults.len(), operations, schedule.settings.duration_millis)
}

/// Without whole clients. Their places stay, so that the others keep their names.
fn shrink_clients(best: &mut Schedule, trial: &mut impl Trial) {
    for client in 0..best.clients.len() {
        if best.clients[client].is_empty() {
            continue;
        }
        let mut candidate = best.clone();
        candidate.clients[client].clear();
        if trial.goes_on() && trial.fails(&candidate) {
            *best = candidate;
        }
    }
}

/// Settings one by one as they are when nothing is drawn, and a shorter run.
fn shrink_settings(best: &mut Schedule, trial: &mut impl Trial) {
    let plain: [fn(&mut Settings); 6] = [
        |settings| settings.clock_millis.fill(0),
        |settings| settings.drift_ppm.fill(0),
        |settings| settings.latency_micros = (1_000, 1_000),
        |settings| settings.disk_micros = (100, 1_000),
        |settings| settings.heartbeat_millis = 40,
        |settings| settings.founder_only = false,
    ];
    for simplify in plain {
        let mut candidate = best.clone();
        simplify(&mut candidate.settings);
        if candidate != *best && trial.goes_on() && trial.fails(&candidate) {
            *best = candidate;
        }
    }
    while trial.goes_on() && best.settings.duration_millis > 100 {
        let mut candidate = best.clone();
        candidate.settings.duration_millis /= 2;
        if !trial.fails(&candidate) {
            return;
        }
        *best = candidate;
    }
}

/// A subset of `items` that still fails, and of which no part that was tried can be left out.
fn minimal<T: Clone, R: Trial>(
    mut items: Vec<T>,
    trial: &mut R,
    mut fails: impl FnMut(&[T], &mut R) -> bool,
) -> Vec<T> {
    if items.is_empty() || (trial.goes_on() && fails(&[], trial)) {
        return Vec::new();
    }
    let mut parts = 2;
    while items.len() > 1 && trial.goes_on() {
        let length = items.len().div_ceil(parts);
        let mut smaller = None;
        for start in (0..items.len()).step_by(length) {
            let end = (start + length).min(items.len());
            let rest: Vec<T> = items[..start].iter().chain(&items[end..]).cloned().collect();
            if trial.goes_on() && fails(&rest, trial) {
                smaller = Some(rest);
                break;
            }
        }
        match smaller {
            Some(rest) => {
                items = rest;
                parts = (parts - 1).max(2);
            }
            None if length == 1 => break,
            None => parts = (2 * parts).min(items.len()),
        }
    }
    items
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;
    use crate::harness::schedule::Fault;
    use crate::harness::schedule::draw::{Family, Theme};
    use crate::harness::workload::plan::What;

    /// Fails while there is a pause of the leader among the faults and a read among the operations.
    struct PauseAndRead {
        runs: usize,
    }

    impl Trial for PauseAndRead {
        fn fails(&mut self, schedule: &Schedule) -> bool {
            self.runs += 1;
            let pauses =
                schedule.faults.iter().any(|planned| matches!(planned.fault, Fault::Pause { .. }));
            let mut operations = schedule.clients.iter().flatten();
            pauses && operations.any(|operation| matches!(operation.what, What::ReadBroker(_)))
        }

        fn goes_on(&self) -> bool {
            self.runs < 10_000
        }
    }

    #[test]
    fn what_does_not_matter_is_left_out() {
        let theme = Theme {
            name: "swarm",
            duration: (Duration::from_mins(1), Duration::from_mins(2)),
            duration_long: None,
            operations_max: 200,
            families: Family::ALL,
            all_on: true,
        };
        let mut trial = PauseAndRead { runs: 0 };
        let failing =
            (0..1_000).map(|seed| theme.draw(seed)).find(|schedule| trial.fails(schedule)).unwrap();
        let smallest = shrink(&failing, &mut trial);
        assert!(trial.fails(&smallest));
        let (faults, operations, duration) = size(&smallest);
        assert_eq!((faults, operations), (1, 1));
        assert!(duration <= 100, "{duration}");
    }

    #[test]
    fn a_trial_that_ends_ends_the_search() {
        struct Never;
        impl Trial for Never {
            fn fails(&mut self, _: &Schedule) -> bool {
                true
            }
            fn goes_on(&self) -> bool {
                false
            }
        }
        let theme = Theme {
            name: "swarm",
            duration: (Duration::from_secs(20), Duration::from_secs(30)),
            duration_long: None,
            operations_max: 10,
            families: Family::ALL,
            all_on: true,
        };
        let schedule = theme.draw(1);
        assert_eq!(shrink(&schedule, &mut Never), schedule);
    }
}
