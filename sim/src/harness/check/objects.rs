//! The sequential behaviour of a broker, a topic and a partition, as the API promises it, for
//! [`linear`](super::linear) to hold histories against. Written from the contract, not from the state machine.

use std::collections::BTreeMap;

use hyper::Method;
use serde_json::Value;

use super::linear::{Model, Timed};
use crate::harness::exchanges::{Effect, Exchange};

/// What came of an operation.
#[derive(Clone, Debug, PartialEq)]
pub enum Came {
    /// It succeeded, with this record.
    Record(Value),
    /// It was refused with this code.
    Refused(String),
    /// Nobody knows.
    Open,
}

/// The present incarnation of a broker id.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Incarnation {
    /// `None` until somebody was told.
    uuid: Option<String>,
    epoch: u64,
    port: String,
    status: String,
}

/// A broker id.
pub struct Broker;

/// What can be done with a broker.
#[derive(Clone, Debug)]
pub struct BrokerOperation {
    what: BrokerAction,
    came: Came,
}

#[derive(Clone, Debug, PartialEq)]
enum BrokerAction {
    Register { port: String },
    Update { port: Option<String>, status: Option<String>, epoch: Option<u64> },
    Produce,
    Read,
}

fn text(value: &Value) -> Option<String> {
    match value {
        Value::String(text) => Some(text.clone()),
        Value::Number(number) => Some(number.to_string()),
        _ => None,
    }
}

const CLOSED: &str = "CLOSED";

impl Incarnation {
    /// This incarnation, with the UUID that `said` gives it, if that is possible.
    fn named(&self, said: &Value) -> Option<Self> {
        let said = said.as_str()?;
        match &self.uuid {
            Some(known) if known != said => None,
            _ => Some(Self { uuid: Some(said.to_owned()), ..self.clone() }),
        }
    }

    /// Whether `fields` show it as it is.
    fn is_shown_by(&self, fields: &Value) -> bool {
        fields["epoch"].as_u64() == Some(self.epoch)
            && text(&fields["brokerPort"]).as_ref() == Some(&self.port)
            && fields["brokerStatus"].as_str() == Some(&self.status)
    }
}

impl Model for Broker {
    type State = Option<Incarnation>;
    type Operation = BrokerOperation;

    fn step(state: &Self::State, operation: &BrokerOperation) -> Option<Self::State> {
        let BrokerOperation { what, came } = operation;
        let refused = |code: &str| match came {
            Came::Refused(said) => (said == code).then(|| state.clone()),
            Came::Open => Some(state.clone()),
            Came::Record(_) => None,
        };
        // What it becomes when it succeeds, and under which name the answer's record knows it.
        let (next, name) = match (what, state) {
            (BrokerAction::Register { .. }, Some(live)) if live.status != CLOSED => {
                return refused("duplicate_broker");
            }
            (BrokerAction::Register { port }, former) => {
                let epoch = former.as_ref().map_or(0, |former| former.epoch + 1);
                let status = "ALIVE".to_owned();
                (Incarnation { uuid: None, epoch, port: port.clone(), status }, "internalUUID")
            }
            (_, None) => return refused("unknown_broker"),
            (BrokerAction::Read, Some(known)) => (known.clone(), "internalUUID"),
            (_, Some(closed)) if closed.status == CLOSED => return refused("broker_closed"),
            (BrokerAction::Update { epoch: Some(expected), .. }, Some(live))
                if *expected != live.epoch =>
            {
                return refused("stale_epoch");
            }
            (BrokerAction::Update { port, status, .. }, Some(live)) => (
                Incarnation {
                    epoch: live.epoch + 1,
                    port: port.clone().unwrap_or_else(|| live.port.clone()),
                    status: status.clone().unwrap_or_else(|| live.status.clone()),
                    uuid: live.uuid.clone(),
                },
                "brokerId",
            ),
            (BrokerAction::Produce, Some(live)) => {
                return match came {
                    Came::Record(record) => {
                        let fields = &record["fields"];
                        let same = fields["brokerEpoch"].as_u64() == Some(live.epoch);
                        same.then(|| live.named(&fields["brokerId"])).flatten().map(Some)
                    }
                    Came::Open => Some(state.clone()),
                    Came::Refused(_) => None,
                };
            }
        };
        match came {
            Came::Record(record) => {
                let fields = &record["fields"];
                next.is_shown_by(fields).then(|| next.named(&fields[name])).flatten().map(Some)
            }
            Came::Refused(_) => None,
            Came::Open if *what == BrokerAction::Read => Some(state.clone()),
            Came::Open => Some(Some(next)),
        }
    }

    /// Every change of a broker, and every new incarnation, has the next epoch.
    fn height(state: &Self::State) -> u64 {
        state.as_ref().map_or(0, |known| known.epoch + 1)
    }

    fn height_before(operation: &BrokerOperation) -> Option<u64> {
        let Came::Record(record) = &operation.came else { return None };
        match operation.what {
            BrokerAction::Register { .. } | BrokerAction::Update { .. } => {
                record["fields"]["epoch"].as_u64()
            }
            BrokerAction::Read => record["fields"]["epoch"].as_u64().map(|epoch| epoch + 1),
            BrokerAction::Produce => {
                record["fields"]["brokerEpoch"].as_u64().map(|epoch| epoch + 1)
            }
        }
    }
}

/// A topic's name: it is free, or some topic's for ever.
pub struct Topic;

/// What can be done with a topic's name.
#[derive(Clone, Debug)]
pub struct TopicOperation {
    creates: bool,
    came: Came,
}

impl Model for Topic {
    /// `Some(None)`: created, and nobody was told its UUID yet.
    type State = Option<Option<String>>;
    type Operation = TopicOperation;

    fn step(state: &Self::State, operation: &TopicOperation) -> Option<Self::State> {
        let said = match &operation.came {
            Came::Record(record) => Some(record["fields"]["topicUUID"].as_str()?.to_owned()),
            _ => None,
        };
        let refused = |code: &str| match &operation.came {
            Came::Refused(said) => (said == code).then(|| state.clone()),
            Came::Open => Some(state.clone()),
            Came::Record(_) => None,
        };
        match (operation.creates, state) {
            (true, None) if matches!(operation.came, Came::Refused(_)) => None,
            (true, None) => Some(Some(said)),
            (true, Some(_)) => refused("duplicate_topic"),
            (false, None) => refused("unknown_topic"),
            (false, Some(uuid)) => match &operation.came {
                Came::Record(_) if uuid.is_none() || *uuid == said => Some(Some(said)),
                Came::Open => Some(state.clone()),
                _ => None,
            },
        }
    }
}

/// A partition's number in a topic: it is free, or taken for ever.
pub struct Partition;

/// An attempt to create a partition, or a look for it.
#[derive(Clone, Debug)]
pub struct PartitionOperation {
    creates: bool,
    came: Came,
}

impl Model for Partition {
    /// Whether it exists.
    type State = bool;
    type Operation = PartitionOperation;

    fn step(state: &bool, operation: &PartitionOperation) -> Option<bool> {
        if !operation.creates {
            return (matches!(operation.came, Came::Record(_)) == *state).then_some(*state);
        }
        match (&operation.came, state) {
            (Came::Record(_), false) | (Came::Open, _) => Some(true),
            (Came::Refused(code), true) if code == "duplicate_partition" => Some(true),
            // About its replicas, which are brokers: judged there.
            (Came::Refused(code), _)
                if code != "duplicate_partition" && code != "unknown_topic" =>
            {
                Some(*state)
            }
            _ => None,
        }
    }
}

/// The history of each object.
#[derive(Debug, Default)]
pub struct Histories {
    /// By broker id.
    pub brokers: BTreeMap<u64, Vec<Timed<BrokerOperation>>>,
    /// By name.
    pub topics: BTreeMap<String, Vec<Timed<TopicOperation>>>,
    /// By topic UUID and number.
    pub partitions: BTreeMap<(String, u64), Vec<Timed<PartitionOperation>>>,
}

impl Histories {
    /// How many topics came to be although nobody was ever told that creating them succeeded.
    pub fn unknown_effects(&self) -> usize {
        let told = |timed: &Timed<TopicOperation>| match (
            &timed.operation.came,
            timed.operation.creates,
        ) {
            (Came::Record(_), false) => true,
            (Came::Refused(code), true) => code == "duplicate_topic",
            _ => false,
        };
        let created = |timed: &Timed<TopicOperation>| {
            timed.operation.creates && matches!(timed.operation.came, Came::Record(_))
        };
        let unknown = |history: &&Vec<_>| history.iter().any(told) && !history.iter().any(created);
        self.topics.values().filter(unknown).count()
    }

    /// Takes the image that a complete poll was shown for one more read of every object.
    ///
    /// # Errors
    ///
    /// What is there although nobody can have made it.
    pub fn add_image(
        &mut self,
        id: usize,
        (begun, ended): (u64, Option<u64>),
        records: &Value,
    ) -> Result<(), String> {
        let of = |name: &str| records[name].as_array().into_iter().flatten();
        let mut topics: BTreeMap<String, &Value> = BTreeMap::new();
        for record in of("TopicRecord") {
            topics.insert(text(&record["fields"]["name"]).unwrap_or_default(), record);
        }
        let mut brokers: BTreeMap<u64, &Value> = BTreeMap::new();
        for record in of("RegisterBrokerRecord") {
            let broker = record["fields"]["brokerId"].as_u64().unwrap_or_default();
            let latest = brokers.entry(broker).or_insert(record);
            if latest["fields"]["epoch"].as_u64() < record["fields"]["epoch"].as_u64() {
                *latest = record;
            }
        }
        let mut partitions: BTreeMap<(String, u64), &Value> = BTreeMap::new();
        for record in of("PartitionRecord") {
            let fields = &record["fields"];
            let topic = text(&fields["topicUUID"]).unwrap_or_default();
            partitions.insert((topic, fields["partitionId"].as_u64().unwrap_or_default()), record);
        }
        let unmade = topics.keys().find(|name| !self.topics.contains_key(*name)).cloned();
        let unmade = unmade.map(|name| format!("topic {name}"));
        let unmade = unmade.or_else(|| {
            let unmade = brokers.keys().find(|broker| !self.brokers.contains_key(broker));
            unmade.map(|broker| format!("broker {broker}"))
        });
        let unmade = unmade.or_else(|| {
            let unmade = partitions.keys().find(|key| !self.partitions.contains_key(*key));
            unmade.map(|(topic, number)| format!("partition {number} of topic {topic}"))
        });
        if let Some(unmade) = unmade {
            return Err(format!("{unmade} is there, and nobody can have made it"));
        }
        let came = |record: Option<&&Value>, unknown: &str| {
            record.map_or_else(
                || Came::Refused(unknown.to_owned()),
                |record| Came::Record((*record).clone()),
            )
        };
        for (name, history) in &mut self.topics {
            let came = came(topics.get(name), "unknown_topic");
            let operation = TopicOperation { creates: false, came };
            history.push(Timed { id, operation, begun, ended });
        }
        for (broker, history) in &mut self.brokers {
            let came = came(brokers.get(broker), "unknown_broker");
            let operation = BrokerOperation { what: BrokerAction::Read, came };
            history.push(Timed { id, operation, begun, ended });
        }
        for (key, history) in &mut self.partitions {
            let came = came(partitions.get(key), "unknown_partition");
            let operation = PartitionOperation { creates: false, came };
            history.push(Timed { id, operation, begun, ended });
        }
        Ok(())
    }

    /// Sorts `attempts` by object. Each is a logical operation: its first request, what came of it, and when.
    /// Stale reads and polls are judged elsewhere.
    pub fn add(&mut self, id: usize, exchange: &Exchange, effect: Effect<'_>, ended: Option<u64>) {
        let came = match effect {
            Effect::None => return,
            Effect::Open => Came::Open,
            Effect::Decided(answer) if answer.status.is_success() => {
                Came::Record(answer.body.clone())
            }
            Effect::Decided(answer) => {
                Came::Refused(answer.body["code"].as_str().unwrap_or_default().to_owned())
            }
        };
        let is_read = exchange.request.method == Method::GET;
        if is_read && (exchange.is_stale() || came == Came::Open) {
            return;
        }
        let ended = if came == Came::Open { None } else { ended };
        let begun = exchange.begun;
        let body = exchange.request.body.clone().unwrap_or_default();
        let broker = |histories: &mut Self, broker: Option<u64>, what| {
            let Some(broker) = broker else { return };
            let operation = BrokerOperation { what, came: came.clone() };
            histories.brokers.entry(broker).or_default().push(Timed {
                id,
                operation,
                begun,
                ended,
            });
        };
        let mut parts = exchange.path().trim_start_matches('/').split('/');
        match (parts.next().unwrap_or_default(), parts.next()) {
            ("register_broker", _) => {
                let port = text(&body["brokerPort"]).unwrap_or_default();
                broker(self, body["brokerId"].as_u64(), BrokerAction::Register { port });
            }
            ("update_broker", _) => {
                let what = BrokerAction::Update {
                    port: text(&body["brokerPort"]),
                    status: text(&body["brokerStatus"]),
                    epoch: body["epoch"].as_u64(),
                };
                broker(self, body["brokerId"].as_u64(), what);
            }
            ("unregister_broker", Some(id)) => {
                let what = BrokerAction::Update {
                    port: None,
                    status: Some(CLOSED.to_owned()),
                    epoch: None,
                };
                broker(self, id.parse().ok(), what);
            }
            ("register_producer", _) => {
                broker(self, body["brokerId"].as_u64(), BrokerAction::Produce);
            }
            ("get_broker_by_id", Some(id)) => broker(self, id.parse().ok(), BrokerAction::Read),
            (path @ ("create_topic" | "get_topic_by_name"), name) => {
                let creates = path == "create_topic";
                let name = if creates { text(&body["name"]) } else { name.map(str::to_owned) };
                let Some(name) = name else { return };
                let operation = TopicOperation { creates, came };
                self.topics.entry(name).or_default().push(Timed { id, operation, begun, ended });
            }
            ("create_partition", _) => {
                let key = text(&body["topicUUID"]).zip(body["partitionId"].as_u64());
                let Some(key) = key else { return };
                let operation = PartitionOperation { creates: true, came };
                self.partitions.entry(key).or_default().push(Timed { id, operation, begun, ended });
            }
            _ => {}
        }
    }
}
