//! Random histories, drawn from so few names that they keep getting in each other's way.

use proptest::prelude::*;
use yakt::metadata::BrokerStatus;

use crate::pair::plan::{Broker, Clock, Leader, Plan, PlannedChange, PlannedPartition, Step};

pub(crate) fn steps() -> impl Strategy<Value = Vec<Step>> {
    let step = prop_oneof![
        20 => plan().prop_map(Step::Apply),
        1 => Just(Step::Check),
        1 => Just(Step::Restore),
    ];
    // Most cases start with a small cluster: from nothing, most commands would name unknown things.
    let settled = prop::bool::weighted(0.9);
    (settled, prop::collection::vec(step, 1..35)).prop_map(|(settled, steps)| {
        if settled { small_cluster().chain(steps).collect() } else { steps }
    })
}

fn small_cluster() -> impl Iterator<Item = Step> {
    let broker = |id| PlannedChange::Register { id, rack: false, reuse_uuid: None };
    let changes =
        [broker(0), broker(1), broker(2), PlannedChange::Topic { name: 0, reuse_uuid: None }];
    let plan = |change| Plan { clock: Clock::Ahead(1_000_000), idempotency: None, change };
    changes.into_iter().map(move |change| Step::Apply(plan(change)))
}

fn plan() -> impl Strategy<Value = Plan> {
    let key = prop::option::weighted(0.2, (0..4_u8, prop_oneof![3 => Just(0), 1 => Just(1_u64)]));
    (clock(), key, change()).prop_map(|(clock, idempotency, change)| Plan {
        clock,
        idempotency,
        change,
    })
}

fn clock() -> impl Strategy<Value = Clock> {
    const WINDOW: u64 = 600_000_000;
    prop_oneof![
        16 => (0..5_000_000_u64).prop_map(Clock::Ahead),
        4 => prop::sample::select(vec![1, 0, WINDOW / 2, WINDOW - 1, WINDOW, WINDOW + 1])
            .prop_map(Clock::Ahead),
        1 => Just(Clock::Ahead(WINDOW * 7)),
        3 => (0..WINDOW * 2).prop_map(Clock::Behind),
        1 => prop::bool::weighted(0.1)
            .prop_map(|absurd| if absurd { Clock::Absurd } else { Clock::Behind(u64::MAX) }),
    ]
}

fn broker() -> impl Strategy<Value = Broker> {
    prop_oneof![
        12 => (0..4_u32).prop_map(Broker::Id),
        6 => (0..8_usize).prop_map(Broker::Nth),
        1 => Just(Broker::Unknown),
    ]
}

fn brokers() -> impl Strategy<Value = Vec<Broker>> {
    // Mostly distinct ids, so that most partitions come to be; sometimes anything.
    prop_oneof![
        6 => prop::sample::subsequence(vec![0, 1, 2_u32], 0..=3).prop_shuffle()
            .prop_map(|ids| ids.into_iter().map(Broker::Id).collect()),
        1 => prop::collection::vec(broker(), 0..4),
    ]
}

fn few_brokers() -> impl Strategy<Value = Vec<Broker>> {
    prop_oneof![6 => Just(vec![]), 1 => prop::collection::vec(broker(), 1..3)]
}

fn status() -> impl Strategy<Value = BrokerStatus> {
    use BrokerStatus::{Alive, Closed, Fenced, Init, Unfenced};
    prop_oneof![
        1 => Just(Init),
        12 => Just(Fenced),
        6 => Just(Unfenced),
        6 => Just(Alive),
        2 => Just(Closed),
    ]
}

fn change() -> impl Strategy<Value = PlannedChange> {
    let epoch = || prop::option::weighted(0.2, 0..4_u64);
    let reuse = || prop::option::weighted(0.08, 0..6_usize);
    prop_oneof![
        1 => Just(PlannedChange::Tick),
        5 => (0..4_u32, any::<bool>(), reuse())
            .prop_map(|(id, rack, reuse_uuid)| PlannedChange::Register { id, rack, reuse_uuid }),
        8 => (broker(), prop::option::weighted(0.3, 1..=3_u16),
              prop::option::weighted(0.8, status()), epoch())
            .prop_map(|(broker, port, status, epoch)| {
                PlannedChange::Update { broker, port, status, epoch }
            }),
        3 => (broker(), epoch())
            .prop_map(|(broker, epoch)| PlannedChange::Unregister { broker, epoch }),
        2 => (0..3_u8, reuse())
            .prop_map(|(name, reuse_uuid)| PlannedChange::Topic { name, reuse_uuid }),
        9 => partition().prop_map(PlannedChange::Partition),
        3 => (broker(), prop::option::weighted(0.5, 0..4_u32))
            .prop_map(|(broker, id)| PlannedChange::Producer { broker, id }),
    ]
}

fn partition() -> impl Strategy<Value = PlannedPartition> {
    let leader = prop_oneof![
        6 => Just(Leader::Preferred),
        1 => Just(Leader::Nobody),
        2 => broker().prop_map(Leader::Broker),
    ];
    let isr = prop::option::weighted(0.3, brokers());
    (0..3_usize, 0..6_u32, brokers(), isr, few_brokers(), few_brokers(), leader).prop_map(
        |(topic, id, replicas, isr, removing, adding, leader)| PlannedPartition {
            topic,
            id,
            replicas,
            isr,
            removing,
            adding,
            leader,
        },
    )
}
