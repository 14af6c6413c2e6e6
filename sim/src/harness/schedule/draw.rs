//! Draws a schedule from a seed, swarm-style: each seed turns whole families of faults off, and sizes and
//! times the others, so that rare combinations get room (Groce et al., "Swarm testing", 2012).

use std::time::Duration;

use rand::RngExt;
use yakt::raft::config::RaftOptions;

use super::{Cut, Fault, Planned, Schedule, Settings, Target};
use crate::harness::scenarios::NODES;
use crate::harness::workload::plan::{Operation, Shape, What};
use crate::rng::SeededRng;

mod fault;

/// Faults of a run at most.
const FAULTS_MAX: usize = 80;

/// With faults so far apart at most, as a share of the run, they last to its end.
const FAULTS_TO_THE_END: u64 = 60;

/// Of so many runs, one is long.
const LONG_EVERY: u32 = 16;

/// Of so many runs, one has clients that come in rushes.
const RUSH_EVERY: u32 = 3;

/// Operations of all clients in a run with rushes, about.
const RUSH_OPERATIONS: usize = 1_600;

/// Of so many runs, one may lose as many disks as it likes, and so become unrecoverable.
const RUIN_EVERY: u32 = 25;

/// Elsewhere, at least so long passes between two losses of disks: time to replace one before the next.
const LOSS_GAP_MILLIS: u64 = 12_000;

/// Of so many runs in which links break, one ends with a node that was cut off for long.
const ABSENCE_EVERY: u32 = 8;

/// How long that is: TCP tries again ever more seldom, so that a connection that was kept may take as long again.
const ABSENCE_MILLIS: std::ops::Range<u64> = 60_000..180_000;

/// One run in this many has production's sizes and a state of a megabyte. Its log is sent in
/// appends, and its snapshot in chunks, that are as large as they get. Such runs are few, since
/// each takes ten times as long.
const LARGE_EVERY: u32 = 48;

/// Topics of such a state. With names of 249 bytes they are more than a megabyte.
const LARGE_TOPICS: u16 = 4_200;

/// Fewest entries between snapshots of such a state: the work of a snapshot grows with the state.
const LARGE_SNAPSHOT_ENTRIES: u64 = 600;

/// How far cluster time may run ahead of real time in a run: less than keys are remembered for, by the age up to which
/// clients repeat themselves and then some.
const CLUSTER_TIME_AHEAD_MAX_MILLIS: i64 = 500_000;

/// How long runs of a kind are, and what may go wrong in them.
#[derive(Clone, Copy, Debug)]
pub struct Theme {
    /// The scenario's name.
    pub name: &'static str,
    /// How long the faults last, at least and at most; each seed draws its own, and some end in a long absence after it.
    pub duration: (Duration, Duration),
    /// The same of one run in `LONG_EVERY`, if some are to be longer.
    pub duration_long: Option<(Duration, Duration)>,
    /// Operations of one client at most.
    pub operations_max: usize,
    /// The families that may be on.
    pub families: &'static [Family],
    /// Whether every family is on, always.
    pub all_on: bool,
}

/// A family of faults.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Family {
    /// Kills, clean stops, restarts.
    Process,
    /// Power losses.
    Power,
    /// Nodes and clients that stand still.
    Pause,
    /// Links that break.
    Network,
    /// Links and nodes that are slow.
    Slow,
    /// Disks that fail for a while.
    Disk,
    /// Bits that rot.
    Rot,
    /// Clocks that are wrong.
    Clock,
    /// Removals, replacements, transfers.
    Operator,
    /// Disks that are lost.
    Loss,
    /// Addresses that move, swap or are wrong.
    Address,
    /// Copied directories that run beside their originals.
    Copy,
    /// Directories that return to an earlier moment, and last log records that are damaged.
    Relapse,
    /// Clocks that are hours or years off, on one node.
    Calendar,
    /// File descriptors that are used up.
    Descriptors,
    /// Names that do not resolve.
    Names,
    /// Links that drop large packets.
    BlackHoles,
    /// Connections that are refused in one direction.
    Refusals,
}

impl Family {
    /// Every family.
    pub const ALL: &[Self] = &[
        Self::Process,
        Self::Power,
        Self::Pause,
        Self::Network,
        Self::Slow,
        Self::Disk,
        Self::Rot,
        Self::Clock,
        Self::Operator,
        Self::Loss,
        Self::Address,
        Self::Copy,
        Self::Relapse,
        Self::Calendar,
        Self::Descriptors,
        Self::Names,
        Self::BlackHoles,
        Self::Refusals,
    ];
}

/// A number between `low` and `high` whose logarithm is even: as many small ones as large ones.
fn spread(rng: &mut SeededRng, low: u64, high: u64) -> u64 {
    let doublings = u64::from((high / low.max(1)).max(1).ilog2());
    let base = low << rng.random_range(0..=doublings);
    rng.random_range(base..=(2 * base).min(high.max(base)))
}

impl Theme {
    /// The schedule of `seed`.
    #[must_use]
    pub fn draw(&self, seed: u64) -> Schedule {
        let mut rng = SeededRng::new(seed ^ 0x5eed_0f5c_4ed1_e000);
        let millis = |duration: Duration| u64::try_from(duration.as_millis()).unwrap_or(u64::MAX);
        let long = self.duration_long.filter(|_| rng.random_range(0..LONG_EVERY) == 0);
        let (shortest, longest) = long.unwrap_or(self.duration);
        let duration = spread(&mut rng, millis(shortest), millis(longest));
        let on: Vec<Family> = {
            let mut on: Vec<_> = self.families.to_vec();
            // From rare to nearly always: each seed has its own idea of how much is on.
            let chance = rng.random_range(15..85);
            on.retain(|_| self.all_on || rng.random_range(0..100) < chance);
            on
        };
        // Where everything is on, runs are as long as they are asked to be: they are compared with each other.
        let ends_in_absence = !self.all_on && on.contains(&Family::Network);
        let absence = if ends_in_absence && rng.random_range(0..ABSENCE_EVERY) == 0 {
            rng.random_range(ABSENCE_MILLIS)
        } else {
            0
        };
        let whole = duration + absence;
        let mut settings = draw_settings(&mut rng, whole, on.contains(&Family::Clock));
        let rushes = draw_rushes(&mut rng, whole);
        let mut clients = self.draw_clients(&mut rng, whole, &rushes);
        let mut faults = draw_faults(&mut rng, duration, &on, clients.len());
        hurry(&mut rng, &mut faults, &rushes);
        if absence > 0 {
            be_absent(&mut rng, &mut faults, (duration, absence));
        }
        bound_jumps(&mut faults, &settings);
        keep_calendars(&mut faults);
        if rng.random_range(0..RUIN_EVERY) != 0 {
            space_losses(&mut faults);
        }
        if !self.all_on && long.is_none() && rng.random_range(0..LARGE_EVERY) == 0 {
            enlarge(&mut rng, &mut settings, &mut clients);
        }
        // A node that waits for the founder alone does not find it after it moved.
        let moves = |planned: &Planned| {
            matches!(
                planned.fault,
                Fault::Move { .. } | Fault::Swap { .. } | Fault::Misplace { .. }
            )
        };
        settings.founder_only = rng.random_bool(0.5) && !faults.iter().any(moves);
        Schedule { scenario: self.name.to_owned(), seed, settings, faults, clients }
    }

    fn draw_clients(
        &self,
        rng: &mut SeededRng,
        duration: u64,
        rushes: &[u64],
    ) -> Vec<Vec<Operation>> {
        let weights = std::array::from_fn(|family| {
            // Each family of operations is off in a quarter of the runs, topics and reads aside.
            let off = family != 0 && family != 5 && rng.random_range(0..4) == 0;
            if off { 0 } else { rng.random_range(1..10) }
        });
        let crowd = rng.random_range(8..=24);
        let (clients, pause, operations_max) = if rushes.is_empty() {
            (rng.random_range(1..=5), spread(rng, 2_000, 200_000), self.operations_max)
        } else {
            (crowd, spread(rng, 100, 4_000), (RUSH_OPERATIONS / crowd).max(rushes.len()))
        };
        let shape = Shape {
            clients,
            duration: duration * 1_000,
            pause,
            operations_max,
            nodes: NODES,
            rushes: rushes.iter().map(|at| at * 1_000).collect(),
            brokers: u32::try_from(spread(rng, 1, 12)).unwrap_or(12),
            weights,
            keyed: rng.random_range(0..=100),
            stale: rng.random_range(0..40),
        };
        let mut clients = shape.draw(rng);
        clients.push(draw_poller(rng, duration));
        clients
    }
}

/// Gives a run production's sizes, and a client that fills the state.
fn enlarge(rng: &mut SeededRng, settings: &mut Settings, clients: &mut Vec<Vec<Operation>>) {
    settings.log_segment_bytes = RaftOptions::DEFAULT.log_segment_bytes;
    settings.snapshot_chunk_bytes = RaftOptions::DEFAULT.snapshot_chunk_bytes;
    settings.snapshot_entries = settings.snapshot_entries.max(LARGE_SNAPSHOT_ENTRIES);
    for operation in clients.iter_mut().flatten() {
        // A poll that returns everything keeps a copy of the whole state in the history each time.
        if let What::Poll { diff, .. } = &mut operation.what {
            *diff = true;
        }
    }
    let first = BULK_FIRST;
    clients.push(vec![Operation {
        pause: 0,
        not_before: 0,
        node: rng.random_range(1..=NODES),
        keyed: false,
        once: false,
        stale: false,
        what: What::Bulk { first, count: LARGE_TOPICS },
    }]);
}

/// The number of a bulk's first topic: higher than that of any other.
const BULK_FIRST: u32 = 4_000_000;

/// When many clients come at once, if they do in this run. A log that was written to fast, and by a leader that is
/// just being cut off, is where entries are that no other node has.
fn draw_rushes(rng: &mut SeededRng, duration: u64) -> Vec<u64> {
    if rng.random_range(0..RUSH_EVERY) != 0 {
        return Vec::new();
    }
    let count = spread(rng, 3, 40);
    let mut rushes: Vec<_> = (0..count).map(|_| rng.random_range(0..duration)).collect();
    rushes.sort_unstable();
    rushes
}

/// Lets many of the faults strike in the middle of a rush.
fn hurry(rng: &mut SeededRng, faults: &mut [Planned], rushes: &[u64]) {
    if rushes.is_empty() {
        return;
    }
    for fault in &mut *faults {
        if rng.random_range(0..3) != 0 {
            let rush = rushes[rng.random_range(0..rushes.len())];
            let gap = spread(rng, 1, 200);
            // A leader is cut off first and asked then.
            let before = matches!(
                fault.fault,
                Fault::Cut { .. }
                    | Fault::Flap { .. }
                    | Fault::Contest { .. }
                    | Fault::Belated { .. }
            );
            fault.at = if before { rush.saturating_sub(gap) } else { rush + gap };
        }
    }
    faults.sort_by_key(|planned| planned.at);
}

/// A client that does nothing but follow the changes, from seconds to many minutes apart.
fn draw_poller(rng: &mut SeededRng, duration: u64) -> Vec<Operation> {
    let (mut operations, mut elapsed) = (Vec::new(), 0);
    let brokers = rng.random_bool(0.5);
    while elapsed < duration && operations.len() < 200 {
        let pause = spread(rng, 500, 900_000.min(duration / 2).max(1_000));
        elapsed += pause;
        operations.push(Operation {
            pause: pause * 1_000,
            not_before: 0,
            node: rng.random_range(1..=NODES),
            keyed: false,
            once: false,
            stale: rng.random_range(0..6) == 0,
            what: What::Poll { brokers, diff: rng.random_range(0..10) != 0 },
        });
    }
    operations
}

fn draw_settings(rng: &mut SeededRng, duration: u64, clocks: bool) -> Settings {
    // Beyond ten minutes, heartbeats as on a slow network keep the run cheap.
    let heartbeat_millis =
        if duration > 700_000 { 1_000 } else { [40, 40, 40, 100, 250][rng.random_range(0..5)] };
    let snapshot_entries = spread(rng, 10, 800);
    let latency = spread(rng, 50, 8_000);
    let disk = spread(rng, 50, 6_000);
    let mut clock = |limit: i64| {
        let off = clocks && rng.random_bool(0.5);
        if off { rng.random_range(-limit..=limit) } else { 0 }
    };
    let clock_millis = (0..NODES).map(|_| clock(240_000)).collect();
    let drift_ppm = (0..NODES).map(|_| i32::try_from(clock(300)).unwrap_or(0)).collect();
    Settings {
        duration_millis: duration,
        heartbeat_millis,
        snapshot_entries,
        // None in many runs: all that is behind a snapshot is gone, and whoever lacks it needs the snapshot.
        log_entries_kept: if rng.random_bool(0.4) {
            0
        } else {
            rng.random_range(0..=snapshot_entries)
        },
        log_segment_bytes: spread(rng, 1 << 10, 1 << 20),
        snapshot_chunk_bytes: usize::try_from(spread(rng, 512, 65_536)).unwrap_or(65_536),
        latency_micros: (latency / 4, latency),
        disk_micros: (disk / 8, disk),
        clock_millis,
        drift_ppm,
        founder_only: false,
    }
}

fn draw_faults(rng: &mut SeededRng, duration: u64, on: &[Family], clients: usize) -> Vec<Planned> {
    let mut faults = Vec::new();
    if on.is_empty() {
        return faults;
    }
    // As close as they are in a short run, all faults would be over in the first minute of a long one.
    let gap = spread(rng, 300, 20_000).max(duration / FAULTS_TO_THE_END);
    let mut at = rng.random_range(0..=gap);
    while at < duration && faults.len() < FAULTS_MAX {
        let family = on[rng.random_range(0..on.len())];
        faults.push(Planned { at, fault: fault::draw(rng, family, clients) });
        // Faults come in crowds as well as alone.
        at += if rng.random_range(0..4) == 0 {
            rng.random_range(0..=gap / 8)
        } else {
            rng.random_range(0..=2 * gap)
        };
    }
    faults
}

/// Cuts a follower off from `at` on for `length`. Other cuts that end meanwhile leave it alone: blocks of a link add up.
fn be_absent(rng: &mut SeededRng, faults: &mut Vec<Planned>, (at, length): (u64, u64)) {
    let target = Target::Follower(rng.random_range(1..NODES));
    faults.push(Planned { at, fault: Fault::Cut { target, cut: Cut::Alone, length } });
    faults.sort_by_key(|planned| planned.at);
}

/// Makes jumps forward smaller, so that cluster time, which follows the clock that is most ahead, stays close enough to
/// real time for clients to know that a key is remembered still.
fn bound_jumps(faults: &mut [Planned], settings: &Settings) {
    let clocks = &settings.clock_millis;
    let apart = clocks.iter().max().zip(clocks.iter().min()).map_or(0, |(max, min)| max - min);
    let mut left = CLUSTER_TIME_AHEAD_MAX_MILLIS - apart;
    for planned in faults {
        if let Fault::Jump { millis, .. } = &mut planned.fault {
            *millis = (*millis).min(left.max(1));
            left -= (*millis).max(0);
        }
    }
}

/// Restricts clocks that are far off to one node, a minority. If a node may be the whole cluster
/// for a while, its clock is a majority: then every clock stays right.
fn keep_calendars(faults: &mut Vec<Planned>) {
    let alone = faults.iter().any(|planned| matches!(planned.fault, Fault::Namesake { .. }));
    faults.retain(|planned| !(alone && matches!(planned.fault, Fault::WrongClock { .. })));
    let mut first = None;
    for planned in faults {
        if let Fault::WrongClock { target, .. } = &mut planned.fault {
            *target = *first.get_or_insert(match *target {
                Target::Node(id) => Target::Node(id),
                _ => Target::Node(1),
            });
        }
    }
}

/// Leaves out losses of disks that come too soon after another.
fn space_losses(faults: &mut Vec<Planned>) {
    let mut earliest = 0;
    faults.retain(|planned| {
        let gap = match planned.fault {
            Fault::Lose { .. }
            | Fault::Rot { .. }
            | Fault::RotLive { .. }
            | Fault::DamageTail { .. } => LOSS_GAP_MILLIS,
            Fault::Restore { .. } => 3 * LOSS_GAP_MILLIS,
            // It takes a while to come to its loss.
            Fault::Namesake { .. } => 4 * LOSS_GAP_MILLIS,
            _ => return true,
        };
        let kept = planned.at >= earliest;
        if kept {
            earliest = planned.at + gap;
        }
        kept
    });
}

#[cfg(test)]
mod tests;
