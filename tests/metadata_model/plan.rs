//! Random commands, drawn from so few names that they keep getting in each other's way.
//!
//! A plan says "the third broker there ever was", not a UUID: what it names is looked up in the model
//! when the plan is carried out, so that most commands mean something, and shrinking keeps their sense.

use proptest::prelude::*;
use yakt::metadata::{
    BrokerId, BrokerRef, BrokerStatus, Change, Command, CreatePartition, CreateTopic, Epoch,
    IdempotencyKey, LeaderChoice, PartitionId, ProducerId, RackId, RegisterBroker,
    RegisterProducer, SecurityProtocol, Timestamp, UnregisterBroker, UpdateBroker, Uuid,
};

use crate::model::Model;

/// One step of a case.
#[derive(Clone, Debug)]
pub(crate) enum Step {
    Apply(Plan),
    /// Compare every view.
    Check,
    /// Go on from a decoded snapshot.
    Restore,
}

/// A command to be.
#[derive(Clone, Debug)]
pub(crate) struct Plan {
    clock: Clock,
    idempotency: Option<(u8, u64)>,
    change: PlannedChange,
}

/// Where the proposer's clock stands, against the last stamp.
#[derive(Clone, Debug)]
enum Clock {
    Ahead(u64),
    Behind(u64),
    Absurd,
}

#[derive(Clone, Debug)]
enum Broker {
    Id(u32),
    /// The n-th incarnation of any broker, counted round.
    Nth(usize),
    Unknown,
}

#[derive(Clone, Debug)]
enum PlannedChange {
    Tick,
    Register { id: u32, reuse_uuid: Option<usize> },
    Update { broker: Broker, port: Option<u16>, status: Option<BrokerStatus>, epoch: Option<u64> },
    Unregister { broker: Broker, epoch: Option<u64> },
    Topic { name: u8, reuse_uuid: Option<usize> },
    Partition(PlannedPartition),
    Producer { broker: Broker, id: Option<u32> },
}

#[derive(Clone, Debug)]
enum Leader {
    Preferred,
    Nobody,
    Broker(Broker),
}

#[derive(Clone, Debug)]
struct PlannedPartition {
    topic: usize,
    id: u32,
    replicas: Vec<Broker>,
    isr: Option<Vec<Broker>>,
    removing: Vec<Broker>,
    adding: Vec<Broker>,
    leader: Leader,
}

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
    let broker = |id| PlannedChange::Register { id, reuse_uuid: None };
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
        5 => (0..4_u32, reuse())
            .prop_map(|(id, reuse_uuid)| PlannedChange::Register { id, reuse_uuid }),
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

impl Plan {
    /// The command, in the situation that `model` is in.
    pub(crate) fn command(&self, model: &Model) -> Command {
        let clock = match self.clock {
            Clock::Ahead(micros) => model.now.saturating_add(micros),
            Clock::Behind(micros) => model.now.saturating_sub(micros),
            Clock::Absurd => u64::MAX,
        };
        Command {
            clock: Timestamp::from_micros(clock),
            idempotency: self
                .idempotency
                .map(|(key, print)| IdempotencyKey::new(format!("key-{key}"), print).unwrap()),
            change: self.change.change(model),
        }
    }
}

impl PlannedChange {
    fn change(&self, model: &Model) -> Change {
        // Stamps are unique and only grow, so they make fresh UUIDs.
        let fresh = Uuid::from_u128(0x1_0000_0000 + u128::from(model.now));
        let uuid = |reuse: Option<usize>, taken: Vec<Uuid>| {
            reuse.and_then(|n| nth(&taken, n)).unwrap_or(fresh)
        };
        match self {
            Self::Tick => Change::Tick,
            Self::Register { id, reuse_uuid } => Change::RegisterBroker(RegisterBroker {
                uuid: uuid(*reuse_uuid, model.broker_uuids()),
                broker_id: BrokerId::try_from(*id).unwrap(),
                host: "host".parse().unwrap(),
                port: "9092".parse().unwrap(),
                security_protocol: SecurityProtocol::default(),
                rack_id: RackId::default(),
            }),
            Self::Update { broker, port, status, epoch } => Change::UpdateBroker(UpdateBroker {
                broker: broker.resolve(model),
                host: port.map(|port| format!("host-{port}").parse().unwrap()),
                port: port.map(|port| port.to_string().parse().unwrap()),
                security_protocol: port.filter(|port| *port == 1).map(|_| "SSL".parse().unwrap()),
                status: *status,
                epoch: epoch.map(|epoch| Epoch::try_from(epoch).unwrap()),
            }),
            Self::Unregister { broker, epoch } => Change::UnregisterBroker(UnregisterBroker {
                broker: broker.resolve(model),
                epoch: epoch.map(|epoch| Epoch::try_from(epoch).unwrap()),
            }),
            Self::Topic { name, reuse_uuid } => Change::CreateTopic(CreateTopic {
                uuid: uuid(*reuse_uuid, model.topic_uuids()),
                name: format!("topic-{name}").parse().unwrap(),
            }),
            Self::Partition(partition) => Change::CreatePartition(partition.change(model)),
            Self::Producer { broker, id } => Change::RegisterProducer(RegisterProducer {
                broker: broker.resolve(model),
                producer_id: id.map(|id| ProducerId::try_from(id).unwrap()),
            }),
        }
    }
}

impl PlannedPartition {
    fn change(&self, model: &Model) -> CreatePartition {
        let resolve =
            |brokers: &Vec<Broker>| brokers.iter().map(|broker| broker.resolve(model)).collect();
        CreatePartition {
            topic: nth(&model.topic_uuids(), self.topic).unwrap_or(Uuid::max()),
            partition_id: PartitionId::try_from(self.id).unwrap(),
            replicas: resolve(&self.replicas),
            isr: self.isr.as_ref().map(resolve),
            removing: resolve(&self.removing),
            adding: resolve(&self.adding),
            leader: match &self.leader {
                Leader::Preferred => LeaderChoice::Preferred,
                Leader::Nobody => LeaderChoice::Nobody,
                Leader::Broker(broker) => LeaderChoice::Broker(broker.resolve(model)),
            },
        }
    }
}

impl Broker {
    fn resolve(&self, model: &Model) -> BrokerRef {
        match self {
            Self::Id(id) => BrokerId::try_from(*id).unwrap().into(),
            Self::Nth(n) => nth(&model.broker_uuids(), *n).unwrap_or(Uuid::max()).into(),
            Self::Unknown => Uuid::nil().into(),
        }
    }
}

fn nth(uuids: &[Uuid], n: usize) -> Option<Uuid> {
    (!uuids.is_empty()).then(|| uuids[n % uuids.len()])
}
