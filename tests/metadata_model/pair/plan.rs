//! Commands to be.
//!
//! A plan says "the third broker there ever was", not a UUID: what it names is looked up in the model
//! when the plan is carried out, so that most commands mean something, and shrinking or cutting a history keeps
//! their sense.

use yakt::metadata::{
    BrokerId, BrokerRef, BrokerStatus, Change, Command, CreatePartition, CreateTopic, Epoch,
    IdempotencyKey, LeaderChoice, PartitionId, ProducerId, RackId, RegisterBroker,
    RegisterProducer, SecurityProtocol, Timestamp, UnregisterBroker, UpdateBroker, Uuid,
};

use super::model::Model;

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
    pub(crate) clock: Clock,
    pub(crate) idempotency: Option<(u8, u64)>,
    pub(crate) change: PlannedChange,
}

/// Where the proposer's clock stands, against the last stamp.
#[derive(Clone, Debug)]
pub(crate) enum Clock {
    Ahead(u64),
    Behind(u64),
    Absurd,
}

#[derive(Clone, Debug)]
pub(crate) enum Broker {
    Id(u32),
    /// The n-th incarnation of any broker, counted round.
    Nth(usize),
    Unknown,
}

#[derive(Clone, Debug)]
pub(crate) enum PlannedChange {
    Tick,
    Register { id: u32, rack: bool, reuse_uuid: Option<usize> },
    Update { broker: Broker, port: Option<u16>, status: Option<BrokerStatus>, epoch: Option<u64> },
    Unregister { broker: Broker, epoch: Option<u64> },
    Topic { name: u8, reuse_uuid: Option<usize> },
    Partition(PlannedPartition),
    Producer { broker: Broker, id: Option<u32> },
}

#[derive(Clone, Debug)]
pub(crate) enum Leader {
    Preferred,
    Nobody,
    Broker(Broker),
}

#[derive(Clone, Debug)]
pub(crate) struct PlannedPartition {
    pub(crate) topic: usize,
    pub(crate) id: u32,
    pub(crate) replicas: Vec<Broker>,
    pub(crate) isr: Option<Vec<Broker>>,
    pub(crate) removing: Vec<Broker>,
    pub(crate) adding: Vec<Broker>,
    pub(crate) leader: Leader,
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
            Self::Register { id, rack, reuse_uuid } => Change::RegisterBroker(RegisterBroker {
                uuid: uuid(*reuse_uuid, model.broker_uuids()),
                broker_id: BrokerId::try_from(*id).unwrap(),
                host: "host".parse().unwrap(),
                port: "9092".parse().unwrap(),
                security_protocol: SecurityProtocol::default(),
                rack_id: if *rack { "rack".parse().unwrap() } else { RackId::default() },
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
