//! A history of commands, applied to the metadata and to the plain model that the property tests judge it by:
//! `tests/metadata_model/pair`. Outcomes and invariants are compared after every command, everything else at the
//! steps that say so and at the end.
//!
//! The input is a row of [`STEP_BYTES`]-byte steps, so that cutting, repeating and splicing bytes cuts,
//! repeats and splices history. Ids, names and UUIDs come from small pools: most steps mean something.

use yakt::metadata::BrokerStatus;

use self::pair::Pair;
use self::pair::plan::{Broker, Clock, Leader, Plan, PlannedChange, PlannedPartition, Step};

#[path = "../../tests/metadata_model/pair/mod.rs"]
mod pair;

/// Bytes of a step: what, when, under which idempotency key, and five arguments.
pub const STEP_BYTES: usize = 8;

/// A history has so many steps at most. Every check looks back at all before it.
const STEPS_MAX: usize = 128;

/// Broker ids in play.
const BROKERS: u8 = 5;

/// Topics, names of topics, and values of an epoch and a producer id in play.
const FEW: u8 = 8;

/// Runs the target.
///
/// # Panics
///
/// When something is wrong.
pub fn run(data: &[u8]) {
    let mut pair = Pair::default();
    for bytes in data.as_chunks::<STEP_BYTES>().0.iter().take(STEPS_MAX) {
        pair.step(&step(*bytes));
    }
    pair.finish();
}

fn step([what, when, key, a, b, c, d, e]: [u8; STEP_BYTES]) -> Step {
    let change = match what % 9 {
        0 => return Step::Restore,
        1 => PlannedChange::Register { id: id(a), rack: b & 1 != 0, reuse_uuid: reused(c) },
        2 => update(a, b, c, d),
        3 => PlannedChange::Unregister { broker: broker(a), epoch: few(b).map(u64::from) },
        4 => PlannedChange::Topic { name: a % FEW, reuse_uuid: reused(b) },
        5 => PlannedChange::Partition(partition(a, [b, c, d, e])),
        6 => PlannedChange::Producer { broker: broker(a), id: few(b).map(u32::from) },
        7 => return Step::Check,
        _ => PlannedChange::Tick,
    };
    let idempotency = (key >= 128).then(|| (key % 8, u64::from(key >> 6)));
    Step::Apply(Plan { clock: clock(when), idempotency, change })
}

/// Mostly a little later; sometimes earlier, or so much later that remembered outcomes are forgotten.
fn clock(when: u8) -> Clock {
    match when {
        0..=191 => Clock::Ahead(u64::from(when) << 10),
        192..=223 => Clock::Behind(1 << (when - 192)),
        224..=253 => Clock::Ahead(1 << (when - 210)),
        254 => Clock::Behind(u64::MAX),
        255 => Clock::Absurd,
    }
}

fn update(who: u8, status: u8, port: u8, epoch: u8) -> PlannedChange {
    use BrokerStatus::{Alive, Closed, Fenced, Init, Unfenced};
    const STATUSES: [Option<BrokerStatus>; 6] =
        [None, Some(Fenced), Some(Unfenced), Some(Alive), Some(Closed), Some(Init)];
    PlannedChange::Update {
        broker: broker(who),
        port: few(port).map(u16::from).filter(|port| *port > 0),
        status: STATUSES[usize::from(status) % STATUSES.len()],
        epoch: few(epoch).map(u64::from),
    }
}

fn partition(which: u8, [replicas, isr, moving, leader]: [u8; 4]) -> PlannedPartition {
    PlannedPartition {
        topic: usize::from(which % FEW),
        id: u32::from(which >> 4),
        replicas: brokers(replicas),
        isr: (isr > 0).then(|| brokers(isr)),
        removing: if moving & 0x80 == 0 { Vec::new() } else { brokers(moving & 0x1f) },
        adding: if moving & 0x40 == 0 { Vec::new() } else { brokers(moving & 0x1f) },
        leader: match leader {
            0..=127 => Leader::Preferred,
            128..=159 => Leader::Nobody,
            160.. => Leader::Broker(broker(leader)),
        },
    }
}

/// The brokers whose bits are set, from any of them on; with the highest bit, one of them twice.
fn brokers(bits: u8) -> Vec<Broker> {
    let mut ids: Vec<u8> = (0..BROKERS).filter(|id| bits & (1 << id) != 0).collect();
    if let (Some(&first), true) = (ids.first(), bits & 0x80 != 0) {
        ids.push(first);
    }
    let turns = usize::from(bits >> BROKERS & 3).min(ids.len());
    ids.rotate_left(turns);
    ids.into_iter().map(|id| Broker::Id(u32::from(id))).collect()
}

/// By its id; with the second-highest bit by its UUID, or by one that nobody has.
fn broker(byte: u8) -> Broker {
    match byte & 0x40 {
        0 => Broker::Id(id(byte)),
        _ if byte & 0x3f == 0x3f => Broker::Unknown,
        _ => Broker::Nth(usize::from(byte & 0x0f)),
    }
}

fn id(byte: u8) -> u32 {
    u32::from(byte % BROKERS)
}

/// Mostly none; else the UUID of one that was there before.
fn reused(byte: u8) -> Option<usize> {
    (byte >= 192).then(|| usize::from(byte & 0x0f))
}

fn few(byte: u8) -> Option<u8> {
    (byte > 0).then_some(byte % FEW)
}
