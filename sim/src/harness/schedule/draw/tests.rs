use super::*;

const THEME: Theme = Theme {
    name: "swarm",
    duration: (Duration::from_secs(20), Duration::from_mins(1)),
    duration_long: None,
    operations_max: 100,
    families: Family::ALL,
    all_on: false,
};

#[test]
fn a_schedule_follows_from_its_seed_and_survives_json() {
    let schedule = THEME.draw(7);
    assert_eq!(schedule, THEME.draw(7));
    assert_ne!(schedule.faults, THEME.draw(8).faults);
    let json = serde_json::to_string(&schedule).unwrap();
    assert_eq!(serde_json::from_str::<Schedule>(&json).unwrap(), schedule);
}

#[test]
fn a_hundred_seeds_draw_every_kind_of_fault_and_leave_families_out() {
    let schedules: Vec<_> = (0..100).map(|seed| THEME.draw(seed)).collect();
    let kinds: std::collections::BTreeSet<String> = schedules
        .iter()
        .flat_map(|schedule| &schedule.faults)
        .filter_map(|planned| serde_json::to_value(&planned.fault).ok())
        .filter_map(|fault| fault.as_object().and_then(|fault| fault.keys().next().cloned()))
        .collect();
    assert_eq!(kinds.len(), 44, "{kinds:?}");
    assert!(schedules.iter().any(|schedule| schedule.faults.len() < 3));
}

#[test]
fn faults_last_to_the_end_of_long_runs() {
    let long = Duration::from_hours(2);
    let theme = Theme { duration: (long, long), ..THEME };
    let schedules: Vec<_> = (0..100).map(|seed| theme.draw(seed)).collect();
    let struck = schedules.iter().filter(|schedule| schedule.faults.len() > 10);
    let last = struck.map(|schedule| schedule.faults.iter().map(|fault| fault.at).max().unwrap());
    let last: Vec<_> = last.collect();
    let late = last.iter().filter(|at| **at > 7_200_000 * 2 / 3).count();
    assert!(last.len() > 80 && late * 10 > last.len() * 9, "{late} of {}", last.len());
}

#[test]
fn clocks_do_not_run_ahead_of_what_keys_are_remembered_for() {
    let ahead = |schedule: Schedule| {
        let clocks = schedule.settings.clock_millis.clone();
        let apart = clocks.iter().max().unwrap() - clocks.iter().min().unwrap();
        let jumps = schedule.faults.iter().map(|planned| match planned.fault {
            Fault::Jump { millis, .. } => millis.max(0),
            _ => 0,
        });
        apart + jumps.sum::<i64>()
    };
    let most = (0..300).map(|seed| ahead(THEME.draw(seed))).max().unwrap();
    // A millisecond for every jump that comes when nothing is left.
    let bound = CLUSTER_TIME_AHEAD_MAX_MILLIS + i64::try_from(FAULTS_MAX).unwrap();
    assert!((CLUSTER_TIME_AHEAD_MAX_MILLIS..=bound).contains(&most), "{most}");
}

#[test]
fn spans_spread_over_their_whole_range() {
    let mut rng = SeededRng::new(1);
    let drawn: Vec<_> = (0..1_000).map(|_| spread(&mut rng, 10, 10_000)).collect();
    assert!(drawn.iter().all(|span| (10..=10_000).contains(span)));
    assert!(drawn.iter().filter(|span| **span < 100).count() > 150);
    assert!(drawn.iter().filter(|span| **span > 1_000).count() > 150);
}
