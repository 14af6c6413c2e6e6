//! Draws one fault: which of its family it is, whom it strikes, and how hard.

use rand::RngExt;

use super::{Family, spread};
use crate::harness::scenarios::NODES;
use crate::harness::schedule::{Cut, DiskFault, Fault, Loss, Target};
use crate::rng::SeededRng;

fn target(rng: &mut SeededRng) -> Target {
    match rng.random_range(0..5) {
        0 | 1 => Target::Leader,
        2 => Target::Follower(rng.random_range(1..NODES)),
        _ => Target::Node(rng.random_range(1..=NODES)),
    }
}

fn loss(rng: &mut SeededRng) -> Loss {
    match rng.random_range(0..7) {
        0 => Loss::Unsynced,
        1 => Loss::Nothing,
        2 => Loss::Prefix,
        3 | 4 => Loss::Reordered,
        _ => Loss::Torn,
    }
}

/// How long something is down or lasts: mostly around an election, sometimes minutes.
fn span(rng: &mut SeededRng) -> u64 {
    if rng.random_range(0..12) == 0 { spread(rng, 10_000, 120_000) } else { spread(rng, 20, 6_000) }
}

/// A fault of `family` in a run with so many clients.
pub(super) fn draw(rng: &mut SeededRng, family: Family, clients: usize) -> Fault {
    let target = target(rng);
    match family {
        Family::Process => match rng.random_range(0..9) {
            8 => Fault::ReadersAtElection {
                readers: spread(rng, 8, 128),
                down: spread(rng, 20, 3_000),
            },
            0..5 => Fault::Kill { target, down: span(rng) },
            5 | 6 => Fault::Stop { target, down: span(rng) },
            _ => Fault::RollingRestart { down: spread(rng, 20, 2_000) },
        },
        Family::Power => draw_power(rng, target),
        Family::Pause => match rng.random_range(0..6) {
            0 => Fault::PauseClient {
                client: rng.random_range(1..=clients.max(1)),
                length: spread(rng, 200, 20_000),
            },
            1 => Fault::Pause { target, length: spread(rng, 100, 20_000) },
            _ => Fault::Pause { target: Target::Leader, length: spread(rng, 100, 5_000) },
        },
        Family::Network => draw_network(rng, target, clients),
        Family::Slow => match rng.random_range(0..3) {
            0 => Fault::SlowLink {
                from: target,
                to: Target::Node(rng.random_range(1..=NODES)),
                latency: spread(rng, 5, 800),
                length: span(rng),
            },
            1 => Fault::SlowNode { target, latency: spread(rng, 5, 300), length: span(rng) },
            _ => Fault::SlowDisk {
                target,
                latency: spread(rng, 5, 8_000),
                length: spread(rng, 100, 10_000),
            },
        },
        Family::Disk => {
            let fault = [DiskFault::Read, DiskFault::Write, DiskFault::Sync, DiskFault::Full]
                [rng.random_range(0..4)];
            Fault::Disk { target, fault, length: spread(rng, 50, 8_000) }
        }
        Family::Rot if rng.random_range(0..3) == 0 => {
            Fault::RotLive { target, bits: spread(rng, 1, 64) }
        }
        Family::Rot => {
            Fault::Rot { target, bits: spread(rng, 1, 64), down: spread(rng, 50, 3_000) }
        }
        Family::Clock => {
            let back = rng.random_bool(0.5);
            let millis = i64::try_from(spread(rng, 10, 200_000)).unwrap_or(0);
            Fault::Jump { target, millis: if back { -millis } else { millis } }
        }
        Family::Operator => draw_operation(rng, target),
        Family::Relapse => draw_relapse(rng, target),
        Family::Calendar => Fault::WrongClock {
            target: Target::Node(rng.random_range(1..=NODES)),
            seconds: {
                // From an hour to two centuries: the largest values are beyond the times that are
                // taken for a date.
                let off = i64::try_from(spread(rng, 3_600, 6_400_000_000)).unwrap_or(3_600);
                if rng.random_range(0..4) == 0 { -off } else { off }
            },
            length: span(rng),
        },
        Family::Address => draw_address(rng, target),
        Family::Copy => Fault::Copy {
            target,
            unseen: rng.random_bool(0.5),
            headless: rng.random_range(0..3) == 0,
        },
        Family::Descriptors => Fault::Descriptors { target, length: spread(rng, 50, 20_000) },
        Family::BlackHoles => Fault::BlackHole {
            target: if rng.random_bool(0.5) { Target::Leader } else { target },
            bytes: spread(rng, 150, 4_000),
            length: spread(rng, 2_000, 60_000),
        },
        Family::Refusals => Fault::Refuse {
            target: Target::Follower(rng.random_range(1..NODES)),
            by_all: rng.random_range(0..4) == 0,
            length: spread(rng, 1_000, 60_000),
        },
        Family::Names => Fault::FailNames {
            hangs: rng.random_bool(0.5),
            kill: rng.random_range(0..4) != 0,
            gap: spread(rng, 20, 2_000),
            length: spread(rng, 1_000, 30_000),
        },
        Family::Loss => {
            let down = spread(rng, 100, 5_000);
            match rng.random_range(0..6) {
                0 => Fault::Namesake { target, grown: spread(rng, 1_000, 8_000), down },
                _ => Fault::Lose { target, down },
            }
        }
    }
}

/// How power fails.
fn draw_power(rng: &mut SeededRng, target: Target) -> Fault {
    let loss = loss(rng);
    match rng.random_range(0..9) {
        0 | 1 => Fault::Crash { target, loss, down: span(rng) },
        8 => Fault::CrashInPurge {
            target,
            writes: spread(rng, 1, 12),
            loss,
            down: spread(rng, 20, 3_000),
        },
        2..5 => Fault::CrashInWrite { target, writes: spread(rng, 1, 200), loss, down: span(rng) },
        5 | 6 => Fault::CrashMany {
            first: rng.random_range(1..=NODES),
            count: rng.random_range(2..=NODES),
            loss,
            down: spread(rng, 20, 3_000),
        },
        _ => Fault::CrashLoop {
            target,
            loss,
            times: rng.random_range(2..5),
            up: spread(rng, 5, 1_000),
            down: spread(rng, 5, 500),
        },
    }
}

/// Draws a fault in which directories return to an earlier moment.
fn draw_relapse(rng: &mut SeededRng, target: Target) -> Fault {
    if rng.random_range(0..3) == 0 {
        return Fault::DamageTail { target, down: spread(rng, 20, 3_000) };
    }
    let first = rng.random_range(1..=NODES);
    // If a majority is restored to older directories, the run ends as unrecoverable.
    let count = [1, 1, 1, 1, 2, 2, 2, 3][rng.random_range(0..8)];
    // A majority must lose several entries, so its copies are at least 1.5 s old. A killed node may
    // not know that its last entry was committed, and may then replace it without an error.
    let (age_min, alone) = if count == 3 { (1_500, spread(rng, 500, 5_000)) } else { (100, 0) };
    let (age, down) = (spread(rng, age_min, 10_000), spread(rng, 20, 3_000));
    Fault::Restore { first, count, age, down, alone }
}

/// How addresses change.
fn draw_address(rng: &mut SeededRng, target: Target) -> Fault {
    match rng.random_range(0..6) {
        0 | 1 => Fault::Swap {
            a: target,
            b: Target::Node(rng.random_range(1..=NODES)),
            down: spread(rng, 20, 3_000),
        },
        2 | 3 => Fault::Misplace {
            target,
            length: spread(rng, 1_000, 15_000),
            lost: rng.random_bool(0.5),
        },
        _ => Fault::Move { target, down: spread(rng, 20, 3_000) },
    }
}

/// How links break.
fn draw_network(rng: &mut SeededRng, target: Target, clients: usize) -> Fault {
    let client = |rng: &mut SeededRng| rng.random_range(1..=clients.max(1));
    match rng.random_range(0..11) {
        0 => Fault::Flap {
            from: target,
            to: Target::Node(rng.random_range(1..=NODES)),
            times: rng.random_range(2..12),
            on: spread(rng, 5, 800),
            off: spread(rng, 5, 800),
        },
        2 => Fault::Contest {
            first: spread(rng, 100, 8_000),
            second: spread(rng, 100, 8_000),
            crowd: spread(rng, 4, 64),
            purged: rng.random_bool(0.5),
        },
        8 => Fault::Belated {
            latency: rng.random_range(600..1_500),
            writes: spread(rng, 2, 16),
            gap: spread(rng, 5, 100),
        },
        1 => Fault::Reset { a: target, b: Target::Node(rng.random_range(1..=NODES)) },
        9 => Fault::CutClient {
            client: client(rng),
            target,
            deaf: rng.random_bool(0.5),
            length: span(rng),
        },
        7 | 10 => Fault::ResetClient { client: client(rng), target },
        which => {
            let cuts =
                [Cut::Alone, Cut::Pair, Cut::Deaf, Cut::Mute, Cut::Bridge, Cut::Ring, Cut::OneLink];
            let cut = if which == 3 { Cut::Alone } else { cuts[rng.random_range(0..cuts.len())] };
            Fault::Cut { target, cut, length: span(rng) }
        }
    }
}

/// What an operator does.
fn draw_operation(rng: &mut SeededRng, target: Target) -> Fault {
    match rng.random_range(0..11) {
        10 => Fault::RejoinAtElection {
            target,
            wiped: rng.random_bool(0.5),
            down: spread(rng, 100, 3_000),
        },
        0 | 1 => Fault::Transfer { to: rng.random_range(1..=NODES) },
        2 => Fault::Snapshot { target },
        5 | 6 => Fault::LameDuck {
            target: Target::Follower(rng.random_range(1..NODES)),
            gap: spread(rng, 2, 20),
            // It sees at once that it is out, and leads on until the last announcement is answered.
            after: spread(rng, 5, 80),
        },
        3 | 4 => Fault::Outrun {
            target,
            away: spread(rng, 200, 5_000),
            back: spread(rng, 10, 400),
            disk: spread(rng, 20, 500),
        },
        _ => {
            let (away, wiped) = (spread(rng, 100, 5_000), rng.random_range(0..3) == 0);
            // Sooner than it asks to join, or about when it is let in: it asks one member after the other.
            let up = |rng: &mut SeededRng| match rng.random_range(0..3) {
                0 => spread(rng, 20, 2_000),
                _ => rng.random_range(1_000..6_000),
            };
            let times = if rng.random_range(0..4) == 0 { 0 } else { rng.random_range(1..=2) };
            let again = (0..times).map(|_| up(rng)).collect();
            Fault::Remove { target, away, wiped, again, unheard: rng.random_range(0..3) != 0 }
        }
    }
}
