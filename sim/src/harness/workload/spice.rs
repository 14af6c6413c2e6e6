//! What is asked seldom: other ways to ask the same, looks at a node, keys used twice, and the rarer bad requests.
//!
//! It is drawn after everything else and from what was drawn, not from the run's generator: the mix, and all that is
//! drawn after it, stay what they were without it.

use rand::RngExt;

use super::bad;
use super::plan::{Look, Operation, Placement, Shape, Way, What};
use crate::rng::SeededRng;

/// Of so many operations, one is asked in another way, if it has one.
const OTHERWISE_EVERY: u32 = 5;

/// After so many operations, one comes that is here only to be seldom.
const EXTRA_EVERY: u32 = 30;

/// `operations`, spiced.
pub(super) fn add(shape: &Shape, operations: Vec<Operation>) -> Vec<Operation> {
    // FNV-1a's, over words.
    let mix = |seed: u64, word: u64| (seed ^ word).wrapping_mul(0x100_0000_01b3);
    let words = operations.iter().flat_map(|operation| [operation.pause, operation.node]);
    let mut rng = SeededRng::new(words.fold(0xcbf2_9ce4_8422_2325, mix));
    let mut spiced = Vec::with_capacity(operations.len());
    for mut operation in operations {
        operation.what = vary(shape, operation.what, &mut rng);
        operation.once = operation.keyed && rng.random_range(0..ONCE_EVERY) == 0;
        let extra = draw_extra(shape, &operation, &mut rng);
        spiced.push(operation);
        spiced.extend(extra);
    }
    spiced
}

/// One keyed write in this many is sent only once.
const ONCE_EVERY: u32 = 6;

/// The operation as it is, with fields that are otherwise omitted, or asked in another way.
fn vary(shape: &Shape, what: What, rng: &mut SeededRng) -> What {
    if matches!(what, What::Bad(_)) {
        return What::Bad(rng.random_range(0..bad::KINDS));
    }
    let what = if rng.random_bool(0.4) { widen(shape, what, rng) } else { what };
    if rng.random_range(0..OTHERWISE_EVERY) != 0 {
        return what;
    }
    let ways: &[Way] = match &what {
        What::UpdateBroker { .. } | What::Alter { .. } => &[
            Way::Method,
            Way::Method,
            Way::Uuid,
            Way::Uuid,
            Way::InternalUuid,
            Way::Envelope,
            Way::Text,
            Way::Nulls,
            Way::Whole,
        ],
        What::CloseBroker(_) => &[Way::Method, Way::Uuid],
        What::ReadBroker(_) => &[Way::Uuid, Way::Uuid, Way::Defaults],
        What::RegisterProducer(_)
        | What::ProduceAs { .. }
        | What::CreatePartition { .. }
        | What::Place(_) => &[Way::Uuid, Way::Envelope, Way::Nulls, Way::Whole],
        What::RegisterBroker { .. } | What::Enlist { .. } => {
            &[Way::Envelope, Way::Text, Way::Nulls, Way::Whole]
        }
        What::CreateTopic(_) => &[Way::Envelope, Way::Envelope, Way::Whole],
        What::Repeat(_) => &[Way::Method],
        What::ActiveBrokers | What::ReadTopic(_) => &[Way::Defaults],
        What::Poll { .. } => &[Way::Gzip, Way::Zstd, Way::Defaults, Way::Foreign],
        _ => return what,
    };
    let way = ways[rng.random_range(0..ways.len())];
    let what = What::Otherwise(way, Box::new(what));
    // Another method can be combined with every other way.
    let has_method = ways.contains(&Way::Method) && way != Way::Method;
    if has_method && rng.random_bool(0.4) {
        return What::Otherwise(Way::Method, Box::new(what));
    }
    what
}

/// The operation with fields that are otherwise omitted.
fn widen(shape: &Shape, what: What, rng: &mut SeededRng) -> What {
    match what {
        What::RegisterBroker { broker, port } => What::Enlist {
            broker,
            port,
            host: rng.random_range(0..4),
            rack: rng.random_bool(0.7).then(|| rng.random_range(0..4)),
            protocol: rng.random_bool(0.7).then(|| rng.random_range(0..3)),
        },
        What::UpdateBroker { broker, guarded, .. } => What::Alter {
            broker,
            host: rng.random_bool(0.4).then(|| rng.random_range(0..4)),
            protocol: rng.random_bool(0.4).then(|| rng.random_range(0..3)),
            // Mostly a change between fenced and unfenced: INIT is refused, and CLOSED is the end.
            status: rng
                .random_bool(0.7)
                .then(|| [1, 1, 1, 2, 2, 2, 3, 3, 3, 0, 4][rng.random_range(0..11)]),
            guarded,
        },
        What::RegisterProducer(broker) => {
            What::ProduceAs { broker, producer: rng.random_range(0..PRODUCERS) }
        }
        What::CreatePartition { topic, number, replicas } => {
            What::Place(Box::new(placement(shape.brokers, (topic, number), replicas, rng)))
        }
        what => what,
    }
}

/// Producer ids that clients choose: few, so that they meet those that the server chooses.
const PRODUCERS: u32 = 48;

/// One placement in this many contradicts itself.
const ABSURD_EVERY: u32 = 8;

/// A placement on some of `brokers` brokers, mostly one that makes sense.
fn placement(
    brokers: u32,
    (topic, number): (u32, u32),
    mut replicas: Vec<u32>,
    rng: &mut SeededRng,
) -> Placement {
    // Any number of them, in any order.
    let first = rng.random_range(1..=brokers);
    for step in 0..rng.random_range(0..=brokers) {
        let broker = (first + step - 1) % brokers + 1;
        if !replicas.contains(&broker) {
            replicas.insert(rng.random_range(0..=replicas.len()), broker);
        }
    }
    let some = |rng: &mut SeededRng, chance: f64| {
        let chosen = || replicas.iter().copied();
        rng.random_bool(chance)
            .then(|| chosen().filter(|_| rng.random_bool(0.6)).collect::<Vec<u32>>())
    };
    let isr = some(rng, 0.6);
    let (removing, adding) = (some(rng, 0.5), some(rng, 0.5));
    let leader = rng.random_bool(0.5).then(|| {
        let in_sync = isr.as_ref().unwrap_or(&replicas);
        // Now and then the request asks for no leader.
        let place = rng.random_range(0..=in_sync.len());
        in_sync.get(place).copied().unwrap_or(0)
    });
    let mut placement = Placement { topic, number, replicas, isr, removing, adding, leader };
    if rng.random_range(0..ABSURD_EVERY) == 0 {
        spoil(&mut placement, brokers, rng);
    }
    placement
}

/// Makes `placement` contradict itself.
fn spoil(placement: &mut Placement, brokers: u32, rng: &mut SeededRng) {
    let stranger = brokers + 1;
    let first = placement.replicas.first().copied().unwrap_or(1);
    match rng.random_range(0..6) {
        0 => placement.replicas.push(first),
        1 => placement.isr = Some(vec![first, first]),
        2 => placement.adding = Some(vec![first, first]),
        3 => placement.removing = Some(vec![first, first]),
        4 => placement.leader = Some(stranger),
        _ => {
            placement.isr = Some(Vec::new());
            placement.leader = Some(first);
        }
    }
}

fn draw_extra(shape: &Shape, before: &Operation, rng: &mut SeededRng) -> Option<Operation> {
    if rng.random_range(0..EXTRA_EVERY) != 0 {
        return None;
    }
    let what = match rng.random_range(0..16) {
        0..2 => What::Reuse(rng.random_range(0..bad::REUSES)),
        2 => What::Misroute(rng.random_range(0..8)),
        3 => What::Revive,
        4..7 => What::Look(Look::Metrics),
        7..9 => What::Look(Look::Ready),
        9 => What::Look(Look::Healthy),
        // It is long.
        10 if rng.random_range(0..4) == 0 => What::Look(Look::Openapi),
        _ => What::Look(Look::Cluster),
    };
    // Who repeats nothing has no keys to use twice, and who breaks no rule does not break this one.
    let is_reuse = matches!(what, What::Reuse(_) | What::Misroute(_) | What::Revive);
    if is_reuse && (shape.weights[7] == 0 || shape.weights[8] == 0) {
        return None;
    }
    let node = if rng.random_bool(0.5) { before.node } else { rng.random_range(1..=shape.nodes) };
    Some(Operation { pause: 0, not_before: 0, node, keyed: false, once: false, stale: false, what })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn plan(seed: u64) -> Vec<Operation> {
        let shape = Shape::steady(1, 200_000_000, 5);
        shape.draw(&mut SeededRng::new(seed)).remove(0)
    }

    #[test]
    fn everything_that_is_seldom_is_asked_now_and_then() {
        let plan = plan(7);
        let count = |is: &dyn Fn(&What) -> bool| {
            plan.iter().filter(|operation| is(&operation.what)).count()
        };
        for look in [Look::Cluster, Look::Healthy, Look::Ready, Look::Metrics, Look::Openapi] {
            assert!(count(&|what| *what == What::Look(look)) > 0, "{look:?}");
        }
        for way in [Way::Method, Way::Uuid, Way::Envelope, Way::InternalUuid, Way::Text]
            .into_iter()
            .chain([Way::Nulls, Way::Whole, Way::Defaults, Way::Gzip, Way::Zstd, Way::Foreign])
        {
            let asked = |what: &What| match what {
                What::Otherwise(outer, inner) => {
                    *outer == way || matches!(**inner, What::Otherwise(other, _) if other == way)
                }
                _ => false,
            };
            assert!(count(&asked) > 5, "{way:?}");
        }
        assert!(plan.iter().filter(|operation| operation.once).count() > 20);
        assert!(count(&|what| matches!(what, What::Misroute(_))) > 5);
        assert!(count(&|what| matches!(what, What::Revive)) > 5);
        assert!(count(&|what| matches!(what, What::Reuse(_))) > 10);
        assert!(count(&|what| matches!(what, What::Bad(8..))) > 10);
        let seldom = count(&|what| matches!(what, What::Look(_) | What::Reuse(_)));
        assert!(seldom * 20 < plan.len(), "{seldom} of {}", plan.len());
    }

    #[test]
    fn what_old_schedules_say_is_read_as_ever_and_what_is_new_is_read_back() {
        let old = r#"{"pause":1,"node":2,"what":{"bad":3}}"#;
        let old: Operation = serde_json::from_str(old).unwrap();
        assert_eq!(old.what, What::Bad(3));
        let new = What::Otherwise(Way::Uuid, Box::new(What::CloseBroker(3)));
        for what in [new, What::Reuse(1), What::Look(Look::Openapi)] {
            let text = serde_json::to_string(&what).unwrap();
            assert_eq!(serde_json::from_str::<What>(&text).unwrap(), what, "{text}");
        }
    }
}
