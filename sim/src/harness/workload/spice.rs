//! What is asked seldom: other ways to ask the same, looks at a node, keys used twice, and the rarer bad requests.
//!
//! It is drawn after everything else and from what was drawn, not from the run's generator: the mix, and all that is
//! drawn after it, stay what they were without it.

use rand::RngExt;

use super::bad;
use super::plan::{Look, Operation, Shape, Way, What};
use crate::rng::SeededRng;

/// Of so many operations, one is asked in another way, if it has one.
const OTHERWISE_EVERY: u32 = 8;

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
        operation.what = vary(operation.what, &mut rng);
        let extra = draw_extra(shape, &operation, &mut rng);
        spiced.push(operation);
        spiced.extend(extra);
    }
    spiced
}

fn vary(what: What, rng: &mut SeededRng) -> What {
    if matches!(what, What::Bad(_)) {
        return What::Bad(rng.random_range(0..bad::KINDS));
    }
    if rng.random_range(0..OTHERWISE_EVERY) != 0 {
        return what;
    }
    let by_uuid = rng.random_bool(0.5);
    let way = match &what {
        What::UpdateBroker { .. } | What::CloseBroker(_) if !by_uuid => Way::Method,
        What::ReadBroker(_) | What::UpdateBroker { .. } | What::CloseBroker(_) => Way::Uuid,
        What::RegisterProducer(_) | What::CreatePartition { .. } if by_uuid => Way::Uuid,
        What::CreateTopic(_)
        | What::RegisterBroker { .. }
        | What::RegisterProducer(_)
        | What::CreatePartition { .. } => Way::Envelope,
        _ => return what,
    };
    What::Otherwise(way, Box::new(what))
}

fn draw_extra(shape: &Shape, before: &Operation, rng: &mut SeededRng) -> Option<Operation> {
    if rng.random_range(0..EXTRA_EVERY) != 0 {
        return None;
    }
    let what = match rng.random_range(0..16) {
        0..4 => What::Reuse(rng.random_range(0..4)),
        4..7 => What::Look(Look::Metrics),
        7..9 => What::Look(Look::Ready),
        9 => What::Look(Look::Healthy),
        // It is long.
        10 if rng.random_range(0..4) == 0 => What::Look(Look::Openapi),
        _ => What::Look(Look::Cluster),
    };
    // Who repeats nothing has no keys to use twice, and who breaks no rule does not break this one.
    let is_reuse = matches!(what, What::Reuse(_));
    if is_reuse && (shape.weights[7] == 0 || shape.weights[8] == 0) {
        return None;
    }
    let node = if rng.random_bool(0.5) { before.node } else { rng.random_range(1..=shape.nodes) };
    Some(Operation { pause: 0, not_before: 0, node, keyed: false, stale: false, what })
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
        for way in [Way::Method, Way::Uuid, Way::Envelope] {
            let asked = |what: &What| matches!(what, What::Otherwise(other, _) if *other == way);
            assert!(count(&asked) > 20, "{way:?}");
        }
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
