//! The sequential behaviour of a broker, a topic and a partition, as the API promises it, for
//! [`linear`](super::linear) to hold histories against. Written from the contract, not from the state machine.

use serde_json::Value;

use super::linear::Model;

mod histories;

pub use self::histories::Histories;

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
    details: Details,
}

/// The other fields of a broker. An answer that omits one of them says nothing about it.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
struct Details {
    host: String,
    protocol: String,
    rack: String,
}

impl Details {
    fn are_shown_by(&self, fields: &Value) -> bool {
        [("brokerHost", &self.host), ("securityProtocol", &self.protocol), ("rackId", &self.rack)]
            .into_iter()
            .all(|(name, known)| fields[name].as_str().is_none_or(|shown| shown == known))
    }
}

/// The protocol of a broker that names none.
const PROTOCOL: &str = "PLAINTEXT";

/// A broker id.
pub struct Broker;

/// What can be done with a broker.
#[derive(Clone, Debug, PartialEq)]
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
        details: Details,
    },
    Update {
        port: Option<String>,
        host: Option<String>,
        protocol: Option<String>,
        status: Option<String>,
        epoch: Option<u64>,
    },
    /// A producer's registration, and whether the client chose the id.
    Produce {
        chosen: bool,
    },
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

/// The status that no broker can get.
const INIT: &str = "INIT";

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
            && self.details.are_shown_by(fields)
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
            (BrokerAction::Register { port, details }, former) => {
                let epoch = former.as_ref().map_or(0, |former| former.epoch + 1);
                let status = ALIVE.to_owned();
                let (port, details) = (port.clone(), details.clone());
                (Incarnation { uuid: None, epoch, port, status, details }, "internalUUID")
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
            (BrokerAction::Update { status: Some(status), .. }, Some(_)) if status == INIT => {
                return refused("illegal_status");
            }
            (BrokerAction::Update { port, host, protocol, status, .. }, Some(live)) => {
                let or =
                    |new: &Option<String>, old: &String| new.clone().unwrap_or_else(|| old.clone());
                let details = Details {
                    host: or(host, &live.details.host),
                    protocol: or(protocol, &live.details.protocol),
                    rack: live.details.rack.clone(),
                };
                let (port, status) = (or(port, &live.port), or(status, &live.status));
                let (epoch, uuid) = (live.epoch + 1, live.uuid.clone());
                (Incarnation { uuid, epoch, port, status, details }, "brokerId")
            }
            (BrokerAction::Produce { chosen }, Some(live)) => {
                return match came {
                    Came::Record(record) => {
                        let fields = &record["fields"];
                        let same = fields["brokerEpoch"].as_u64() == Some(live.epoch);
                        same.then(|| live.named(&fields["brokerId"])).flatten().map(Some)
                    }
                    Came::Open => Some(state.clone()),
                    // `producers` judges which registration has the id.
                    Came::Refused(code) if *chosen && code == "duplicate_producer" => {
                        Some(state.clone())
                    }
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
            BrokerAction::Produce { .. } => {
                record["fields"]["brokerEpoch"].as_u64().map(|epoch| epoch + 1)
            }
        }
    }
}

/// A topic's name: it is free, or some topic's for ever.
pub struct Topic;

/// What can be done with a topic's name.
#[derive(Clone, Debug, PartialEq)]
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
#[derive(Clone, Debug, PartialEq)]
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
