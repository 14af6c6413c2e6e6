//! The metadata and a plain model of it, side by side: the judge of random histories, whoever makes them.
//!
//! `tests/metadata_model` draws them, and the fuzz target `commands` reads them from bytes. It has this folder by its
//! path, so nothing here may know which of the two it is a part of.

use std::collections::BTreeMap;

use serde_json::Value;
use yakt::codec::{decode_versioned, encode_versioned};
use yakt::metadata::{
    Applied, Audience, BrokerId, Change, Command, Record, SnapshotKind, State, Timestamp, limits,
};

use self::model::Model;
use self::plan::Step;

pub(crate) mod model;
pub(crate) mod plan;

/// The two implementations, side by side.
#[derive(Default)]
pub(crate) struct Pair {
    pub(crate) state: State,
    pub(crate) model: Model,
    log: Vec<Command>,
    /// What was seen at each check: the offset, the image, and the state as it was.
    seen: Vec<(Timestamp, Value, State)>,
}

impl Pair {
    /// Takes a step, and compares what can be compared at once.
    pub(crate) fn step(&mut self, step: &Step) {
        match step {
            Step::Apply(plan) => self.apply(plan.command(&self.model)),
            Step::Check => self.check(),
            Step::Restore => self.restore(),
        }
    }

    fn apply(&mut self, command: Command) {
        assert_eq!(decode_versioned::<Command>(&encode_versioned(&command)).as_ref(), Ok(&command));
        let before = self.state.clone();
        let applied = self.state.apply(&command);
        let expected = self.model.apply(&command);
        assert!(applied.stamp > before.last_stamp() && applied.stamp == self.state.last_stamp());
        assert_eq!(applied.stamp.micros(), self.model.now);
        let outcome = match &applied.outcome {
            Ok(record) => Ok(record.as_ref().map(json)),
            Err(rejection) => Err(rejection.code.as_str()),
        };
        assert_eq!(outcome, expected, "the outcome of {command:?}");
        assert_eq!(decode_versioned::<Applied>(&encode_versioned(&applied)).as_ref(), Ok(&applied));
        self.state.check_invariants().unwrap();
        if applied.outcome.is_err() && command.idempotency.is_none() {
            let mut idle = before;
            idle.apply(&Command { change: Change::Tick, ..command.clone() });
            assert!(self.state == idle, "a rejected command left more than its stamp: {command:?}");
        }
        self.log.push(command);
    }

    fn check(&mut self) {
        let (state, model) = (&self.state, &self.model);
        let listed = state.all_brokers().count()
            + state.registration_changes().count()
            + state.topics().count()
            + state.partitions().count()
            + state.producers().count();
        assert_eq!(state.object_count(), listed);
        let current = json(state.image(SnapshotKind::Current, Audience::Broker));
        assert_eq!(current, model.image(false), "the live image");
        let complete = json(state.image(SnapshotKind::Complete, Audience::Broker));
        assert_eq!(complete, model.image(true), "the complete metadata");
        for (kind, full) in [(SnapshotKind::Current, &current), (SnapshotKind::Complete, &complete)]
        {
            let client = json(state.image(kind, Audience::Client));
            assert_eq!(client, for_clients(full), "the client's image");
        }
        let active = state.active_brokers().map(json).collect::<Vec<_>>();
        let mut alive = list(&current, "RegisterBrokerRecord").clone();
        alive.retain(|broker| broker["fields"]["brokerStatus"] == "ALIVE");
        assert_eq!(active, alive);
        let ids = (0..5).map(|id| BrokerId::try_from(id).unwrap().into());
        for broker in ids.chain(model.broker_uuids().into_iter().map(Into::into)) {
            assert_eq!(state.broker(&broker).map(json), model.broker(&broker), "{broker}");
        }
        for topic in list(&current, "TopicRecord") {
            let name = topic["fields"]["name"].as_str().unwrap();
            assert_eq!(state.topic_by_name(name).map(json).as_ref(), Some(topic));
        }
        self.seen.push((state.last_stamp(), current, state.clone()));
        for (offset, image, _) in &self.seen {
            check_diff(state, *offset, image);
        }
    }

    fn restore(&mut self) {
        let bytes = self.state.encode();
        let restored = State::decode(&bytes).unwrap();
        assert!(restored == self.state, "a snapshot restores another state");
        assert!(restored.encode() == bytes, "a restored state encodes differently");
        assert_eq!(restored.digest(), self.state.digest());
        self.state = restored;
    }

    /// What can only be seen in hindsight.
    pub(crate) fn finish(&mut self) {
        self.check();
        self.restore();
        let mut replayed = State::new();
        let mut frozen = self.seen.iter().peekable();
        for command in &self.log {
            while let Some((_, _, state)) = frozen.next_if(|seen| seen.0 == replayed.last_stamp()) {
                assert_eq!(state.digest(), replayed.digest(), "a frozen image has changed");
            }
            replayed.apply(command);
        }
        assert!(replayed == self.state, "a replay without snapshots ends elsewhere");
        assert_eq!(replayed.digest(), self.state.digest());
    }
}

/// A diff must turn the image at its offset into the current one, and say nothing needless.
fn check_diff(state: &State, offset: Timestamp, image: &Value) {
    let Some(changes) = state.changes_since(offset, Audience::Broker) else {
        let age = state.last_stamp().saturating_since(offset);
        assert!(age > limits::HISTORY_WINDOW, "no diff at an age of {age:?}");
        return;
    };
    assert!(state.last_stamp().saturating_since(offset) <= limits::HISTORY_WINDOW);
    assert!(changes.upserted.is_sorted_by_key(Record::timestamp));
    let mut patched = by_key(image);
    for broker in &changes.deleted {
        patched.remove(&format!("RegisterBrokerRecord {}", json(broker.uuid)));
        let record = state.broker(&broker.uuid.into()).unwrap();
        assert_eq!(record.fields.broker_id, broker.broker_id);
    }
    for record in &changes.upserted {
        assert!(record.timestamp() > offset, "{record:?} is not newer than {offset}");
        let record = json(record);
        patched.insert(key(&record), record);
    }
    let current = json(state.image(SnapshotKind::Current, Audience::Broker));
    assert_eq!(patched, by_key(&current), "the diff from {offset}");

    let client = state.changes_since(offset, Audience::Client).unwrap();
    let mut upserted = changes.upserted.clone();
    upserted.retain(|record| record.name() != "ProducerIdsRecord");
    assert_eq!((client.upserted, client.deleted), (upserted, changes.deleted));
}

fn json(value: impl serde::Serialize) -> Value {
    serde_json::to_value(value).unwrap()
}

fn list<'a>(image: &'a Value, name: &str) -> &'a Vec<Value> {
    image[name].as_array().unwrap()
}

fn for_clients(image: &Value) -> Value {
    let mut image = image.clone();
    let lists = image.as_object_mut().unwrap();
    lists.remove("ProducerIdsRecord");
    lists.remove("RegistrationChangeBrokerRecord");
    image
}

/// What makes a record the same thing at two times.
fn key(record: &Value) -> String {
    let name = record["name"].as_str().unwrap();
    let fields = &record["fields"];
    match name {
        "RegisterBrokerRecord" => format!("{name} {}", fields["internalUUID"]),
        "TopicRecord" => format!("{name} {}", fields["topicUUID"]),
        "PartitionRecord" => format!("{name} {} {}", fields["topicUUID"], fields["partitionId"]),
        "ProducerIdsRecord" => format!("{name} {}", fields["producerId"]),
        _ => panic!("{name} has no place in the live image"),
    }
}

fn by_key(image: &Value) -> BTreeMap<String, Value> {
    let lists = image.as_object().unwrap().values();
    let records = lists.flat_map(|list| list.as_array().unwrap());
    records.map(|record| (key(record), record.clone())).collect()
}
