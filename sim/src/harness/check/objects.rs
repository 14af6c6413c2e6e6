//! The sequential behaviour of a broker, a topic and a partition, as the API promises it, for
//! [`linear`](super::linear) to hold histories against. Written from the contract, not from the state machine.

use std::collections::BTreeMap;

use hyper::Method;
use serde_json::Value;

use super::linear::{Model, Timed};
use super::mgmt;
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
    /// The incarnation that it is about; else whichever is the present one.
    named: Option<String>,
    came: Came,
}

#[derive(Clone, Debug, PartialEq)]
enum BrokerAction {
    Register {
        port: String,
    },
    Update {
        port: Option<String>,
        status: Option<String>,
        epoch: Option<u64>,
    },
    Produce,
    Read,
    /// A look at who is active: the record if it is, a refusal if not.
    List,
}

fn text(value: &Value) -> Option<String> {
    match value {
        Value::String(text) => Some(text.clone()),
        Value::Number(number) => Some(number.to_string()),
        _ => None,
    }
}

const ALIVE: &str = "ALIVE";

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

/// An operation on an incarnation that is not `present`: it was closed for good, since somebody was told of it.
fn step_former(
    present: &Incarnation,
    operation: &BrokerOperation,
    former: &str,
) -> Option<Incarnation> {
    let possible = match (&operation.what, &operation.came) {
        (_, Came::Open) => true,
        (BrokerAction::Read, Came::Record(record)) => {
            let fields = &record["fields"];
            fields["internalUUID"] == former
                && fields["brokerStatus"] == CLOSED
                && fields["epoch"].as_u64().is_some_and(|epoch| epoch < present.epoch)
        }
        (BrokerAction::Read, Came::Refused(_)) | (_, Came::Record(_)) => false,
        (_, Came::Refused(code)) => code == "broker_closed",
    };
    possible.then(|| present.clone())
}

impl Model for Broker {
    type State = Option<Incarnation>;
    type Operation = BrokerOperation;

    fn step(state: &Self::State, operation: &BrokerOperation) -> Option<Self::State> {
        let BrokerOperation { what, named, came } = operation;
        let mut identified = None;
        if let (Some(present), Some(name)) = (state, named) {
            // Nobody may have been told of the present one yet. Then it is the one that is named if it answers as such,
            // or if what was asked may have had an effect: what had none needs no explanation.
            let is_former = match (&present.uuid, came) {
                (Some(uuid), _) => uuid != name,
                (None, Came::Record(record)) if *what == BrokerAction::Read => {
                    !present.is_shown_by(&record["fields"])
                }
                (None, Came::Refused(code)) => code == "broker_closed",
                (None, Came::Record(_) | Came::Open) => false,
            };
            if is_former {
                return step_former(present, operation, name).map(Some);
            }
            let uuid = if let Came::Refused(_) = came { &present.uuid } else { named };
            identified = Some(Incarnation { uuid: uuid.clone(), ..present.clone() });
        }
        let state = if identified.is_some() { &identified } else { state };
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
                let status = ALIVE.to_owned();
                (Incarnation { uuid: None, epoch, port: port.clone(), status }, "internalUUID")
            }
            (BrokerAction::List, known) => {
                let live = known.as_ref().filter(|known| known.status == ALIVE);
                return match (came, live) {
                    (Came::Record(record), Some(live)) => {
                        let fields = &record["fields"];
                        let shown = live.is_shown_by(fields);
                        shown.then(|| live.named(&fields["internalUUID"])).flatten().map(Some)
                    }
                    (Came::Refused(_), None) | (Came::Open, _) => Some(state.clone()),
                    _ => None,
                };
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
            // What is shown may be a former one, and the present one be any higher.
            BrokerAction::Read if operation.named.is_some() => None,
            BrokerAction::Read | BrokerAction::List => {
                record["fields"]["epoch"].as_u64().map(|epoch| epoch + 1)
            }
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

/// A partition's number in a topic: it is free, or taken for ever by a partition on certain brokers.
pub struct Partition;

/// An attempt to create a partition, or a look for it.
#[derive(Clone, Debug)]
pub struct PartitionOperation {
    /// The brokers that are to hold it, if it is an attempt.
    creates: Option<Vec<u64>>,
    came: Came,
}

/// Whether `fields` show a partition that is held by `replicas`.
fn is_held_by(fields: &Value, replicas: &[u64]) -> bool {
    let shown = fields["replicas"].as_array().into_iter().flatten().map(Value::as_u64);
    shown.eq(replicas.iter().copied().map(Some))
}

impl Model for Partition {
    /// Who holds it, if it exists.
    type State = Option<Vec<u64>>;
    type Operation = PartitionOperation;

    fn step(state: &Self::State, operation: &PartitionOperation) -> Option<Self::State> {
        let Some(asked) = &operation.creates else {
            let possible = match (&operation.came, state) {
                (Came::Record(record), Some(replicas)) => is_held_by(&record["fields"], replicas),
                (Came::Record(_), None) => false,
                (_, state) => state.is_none(),
            };
            return possible.then(|| state.clone());
        };
        match (&operation.came, state) {
            (Came::Record(record), None) => {
                let fields = &record["fields"];
                let is_new = fields["partitionEpoch"].as_u64() == Some(0);
                (is_new && is_held_by(fields, asked)).then(|| Some(asked.clone()))
            }
            (Came::Open, None) => Some(Some(asked.clone())),
            (Came::Open, Some(_)) => Some(state.clone()),
            (Came::Refused(code), Some(_)) if code == "duplicate_partition" => Some(state.clone()),
            // About its replicas, which are brokers: judged there.
            (Came::Refused(code), _)
                if code != "duplicate_partition" && code != "unknown_topic" =>
            {
                Some(state.clone())
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
    /// The broker ids of the internal UUIDs that anybody was told of.
    broker_ids: BTreeMap<String, u64>,
}

impl Histories {
    /// Nothing yet, and what `exchanges` say of who is who.
    #[must_use]
    pub fn of(exchanges: &[Exchange]) -> Self {
        let mut broker_ids = BTreeMap::new();
        for exchange in exchanges {
            let Some(Ok(answer)) = &exchange.answer else { continue };
            for record in mgmt::all_records(&answer.body) {
                let fields = &record["fields"];
                let named = fields["internalUUID"].as_str().zip(fields["brokerId"].as_u64());
                broker_ids.extend(named.map(|(uuid, id)| (uuid.to_owned(), id)));
            }
        }
        Self { broker_ids, ..Self::default() }
    }

    /// The id of the broker that a request calls `reference`, and its incarnation if that is what it calls it by.
    fn broker(&self, reference: &Value) -> Option<(u64, Option<String>)> {
        let text = text(reference)?;
        match text.parse() {
            Ok(id) => Some((id, None)),
            Err(_) => self.broker_ids.get(&text).map(|id| (*id, Some(text))),
        }
    }

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

    /// Takes every list of active brokers that is not stale for a look at each broker: who is missing is closed, fenced
    /// or unfenced, or was never there.
    ///
    /// # Errors
    ///
    /// Who is listed although nobody can have registered it, and where.
    pub fn add_lists(&mut self, exchanges: &[Exchange]) -> Result<(), (usize, String)> {
        for (id, exchange) in exchanges.iter().enumerate() {
            let Some(Ok(answer)) = &exchange.answer else { continue };
            let is_list = exchange.path() == "/get_active_brokers" && answer.status.is_success();
            if !is_list || exchange.is_stale() || exchange.request.refusal.is_some() {
                continue;
            }
            let listed = answer.body["records"]["RegisterBrokerRecord"].as_array();
            let listed: BTreeMap<u64, &Value> = listed
                .into_iter()
                .flatten()
                .map(|record| (record["fields"]["brokerId"].as_u64().unwrap_or_default(), record))
                .collect();
            if let Some(unmade) = listed.keys().find(|broker| !self.brokers.contains_key(broker)) {
                let what = format!("broker {unmade} is listed, and nobody can have registered it");
                return Err((id, what));
            }
            for (broker, history) in &mut self.brokers {
                let came = listed.get(broker).map_or_else(
                    || Came::Refused("inactive".to_owned()),
                    |record| Came::Record((*record).clone()),
                );
                let operation = BrokerOperation { what: BrokerAction::List, named: None, came };
                let (begun, ended) = (exchange.begun, exchange.ended);
                history.push(Timed { id, operation, begun, ended });
            }
        }
        Ok(())
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
            let operation = BrokerOperation { what: BrokerAction::Read, named: None, came };
            history.push(Timed { id, operation, begun, ended });
        }
        for (key, history) in &mut self.partitions {
            let came = came(partitions.get(key), "unknown_partition");
            let operation = PartitionOperation { creates: None, came };
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
        let sent = exchange.request.body.clone().unwrap_or_default();
        // Flat, or in a record's envelope.
        let body = if sent["fields"].is_object() { &sent["fields"] } else { &sent };
        let broker = |histories: &mut Self, reference: &Value, what| {
            let Some((broker, named)) = histories.broker(reference) else { return };
            let operation = BrokerOperation { what, named, came: came.clone() };
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
                broker(self, &body["brokerId"], BrokerAction::Register { port });
            }
            ("update_broker", _) => {
                let what = BrokerAction::Update {
                    port: text(&body["brokerPort"]),
                    status: text(&body["brokerStatus"]),
                    epoch: body["epoch"].as_u64(),
                };
                broker(self, &body["brokerId"], what);
            }
            ("unregister_broker", Some(id)) => {
                let what = BrokerAction::Update {
                    port: None,
                    status: Some(CLOSED.to_owned()),
                    epoch: None,
                };
                broker(self, &id.into(), what);
            }
            ("register_producer", _) => broker(self, &body["brokerId"], BrokerAction::Produce),
            ("get_broker_by_id", Some(id)) => broker(self, &id.into(), BrokerAction::Read),
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
                let replicas = body["replicas"].as_array().into_iter().flatten();
                let replicas = replicas.filter_map(|replica| self.broker(replica));
                let creates = Some(replicas.map(|(broker, _)| broker).collect());
                let operation = PartitionOperation { creates, came };
                self.partitions.entry(key).or_default().push(Timed { id, operation, begun, ended });
            }
            _ => {}
        }
    }
}
