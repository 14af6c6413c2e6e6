//! The state as bytes.
//!
//! The encoding is canonical: equal states give equal bytes on every node, whatever way they came to be
//! equal. Topics and partitions stand in the order in which they were created, which is a part of the state: it is how
//! they are numbered, and it is the order in which they stand in memory. What is derived is left out.
//!
//! [`State::decode`] takes nothing on trust: the bytes must be the very ones that their state encodes to, and the state
//! must keep its invariants.

use std::sync::Arc;

use imbl::{OrdMap, OrdSet, Vector};
use serde::ser::SerializeSeq;
use serde::{Deserialize, Serialize, Serializer};
use xxhash_rust::xxh3::xxh3_64;

use super::history::History;
use super::index::Index;
use super::outcomes::{Outcomes, Remembered};
use super::placements::{Lists, Partitions, Row};
use super::topics::{TopicNumber, Topics};
use super::{
    BrokerEntry, PartitionKey, ProducerEntry, RegistrationChangeEntry, State, TopicEntry, packed,
};
use crate::codec::{DecodeError, Parts, encode_versioned, encode_versioned_in_pieces, encodes_to};
use crate::metadata::{BrokerId, Epoch, PartitionId, PartitionRecord, Stamped, Timestamp};

/// What is written. Keys are not: every entry knows its own.
#[derive(Serialize)]
struct Written<'a> {
    last_stamp: Timestamp,
    history: &'a History,
    brokers: Vec<&'a BrokerEntry>,
    former_brokers: Vec<&'a BrokerEntry>,
    registration_changes: Vec<&'a RegistrationChangeEntry>,
    topics: Vec<&'a TopicEntry>,
    #[serde(serialize_with = "partitions_of")]
    partitions: &'a Partitions,
    awaited: Vec<&'a (BrokerId, PartitionKey)>,
    producers: Vec<&'a ProducerEntry>,
    producer_id_next: u32,
    outcomes: Vec<&'a Remembered>,
}

/// A partition as it is written: it names its topic and its brokers by their numbers, as it is held.
#[derive(Serialize)]
struct WrittenPartition<'a> {
    timestamp: Timestamp,
    topic: TopicNumber,
    partition_id: PartitionId,
    epoch: Epoch,
    replicas: &'a [BrokerId],
    isr: &'a [BrokerId],
    removing: &'a [BrokerId],
    adding: &'a [BrokerId],
    leader: Option<BrokerId>,
}

/// As it is read: the same fields in the same order.
#[derive(Deserialize)]
struct ReadPartition {
    timestamp: Timestamp,
    topic: TopicNumber,
    partition_id: PartitionId,
    epoch: Epoch,
    replicas: Vec<BrokerId>,
    isr: Vec<BrokerId>,
    removing: Vec<BrokerId>,
    adding: Vec<BrokerId>,
    leader: Option<BrokerId>,
}

fn partitions_of<S: Serializer>(partitions: &Partitions, serializer: S) -> Result<S::Ok, S::Error> {
    let mut written = serializer.serialize_seq(Some(partitions.len()))?;
    for (_, row) in partitions.rows() {
        let (topic, partition_id) = row.key();
        let Lists { replicas, isr, removing, adding, leader } = row.lists();
        written.serialize_element(&WrittenPartition {
            timestamp: row.stamp(),
            topic,
            partition_id,
            epoch: row.epoch(),
            replicas,
            isr: &isr,
            removing,
            adding,
            leader,
        })?;
    }
    written.end()
}

/// What is read before the partitions: the same fields in the same order.
#[derive(Deserialize)]
struct Before {
    last_stamp: Timestamp,
    history: History,
    brokers: Vec<BrokerEntry>,
    former_brokers: Vec<BrokerEntry>,
    registration_changes: Vec<RegistrationChangeEntry>,
    topics: Vec<TopicEntry>,
    partitions: u64,
}

/// And behind them.
#[derive(Deserialize)]
struct Behind {
    awaited: Vec<(BrokerId, PartitionKey)>,
    producers: Vec<ProducerEntry>,
    producer_id_next: u32,
    outcomes: Vec<Remembered>,
}

impl State {
    /// The whole state: history, counters and remembered outcomes included.
    pub fn encode(&self) -> Vec<u8> {
        encode_versioned(&self.written())
    }

    /// What [`encode`](Self::encode) gives, handed over in pieces of so many bytes.
    ///
    /// # Errors
    ///
    /// The first that `take` returns.
    pub fn encode_in_pieces<E>(
        &self,
        piece_bytes: usize,
        take: impl FnMut(&[u8]) -> Result<(), E>,
    ) -> Result<(), E> {
        encode_versioned_in_pieces(&self.written(), piece_bytes, take)
    }

    /// Whether [`encode`](Self::encode) would write `bytes`.
    fn encodes_to(&self, bytes: &[u8]) -> bool {
        encodes_to(&self.written(), bytes)
    }

    fn written(&self) -> Written<'_> {
        Written {
            last_stamp: self.last_stamp,
            history: &self.history,
            brokers: self.brokers.values().collect(),
            former_brokers: self.former_brokers.values().collect(),
            registration_changes: self.registration_changes.iter().collect(),
            topics: self.topics.created().iter().collect(),
            partitions: &self.partitions,
            awaited: self.awaited.iter().collect(),
            producers: self.producers.values().collect(),
            producer_id_next: self.producer_id_next,
            outcomes: self.outcomes.iter().collect(),
        }
    }

    /// The state that [`encode`](Self::encode) wrote.
    ///
    /// # Errors
    ///
    /// [`DecodeError::NewerVersion`] when a newer release wrote it, [`DecodeError::Corrupt`] when the
    /// bytes are no state, not the canonical ones, or break an invariant.
    pub fn decode(bytes: &[u8]) -> Result<Self, DecodeError> {
        let mut parts = Parts::of(bytes)?;
        let before: Before = parts.take()?;
        let partitions = before.partitions;
        let mut state = Self::from(before);
        state.partitions = (0..partitions)
            .map(|_| state.row_of(parts.take()?).map_err(DecodeError::corrupt))
            .collect::<Result<_, DecodeError>>()?;
        let behind: Behind = parts.take()?;
        parts.end()?;
        state.awaited = OrdSet::from(behind.awaited);
        state.producers = keyed(&behind.producers, |producer| producer.fields.producer_id);
        state.producer_id_next = behind.producer_id_next;
        state.outcomes = Outcomes::from_entries(behind.outcomes);
        state.index = Index::rebuild(&state);
        state.check_all_but_partitions().map_err(DecodeError::corrupt)?;
        // Entries out of order or twice, and padded integers, decode to a state all the same. Two nodes
        // must not take different bytes for the same snapshot, and this one check sees all of it.
        if !state.encodes_to(bytes) {
            return Err(DecodeError::corrupt("the state is not in its canonical form"));
        }
        Ok(state)
    }

    /// What is held of a partition that was read, or which invariant it breaks: not all of it would fit into a row.
    fn row_of(&self, read: ReadPartition) -> Result<Row, String> {
        let topic = self.topics.get(read.topic).ok_or("a partition has no topic")?;
        let leader = match read.leader {
            None => None,
            Some(id) => Some(self.brokers.get(&id).ok_or("a partition's leader is unknown")?),
        };
        let fields = PartitionRecord {
            partition_id: read.partition_id,
            topic: topic.fields.uuid,
            replicas: read.replicas,
            isr: read.isr,
            removing: read.removing,
            adding: read.adding,
            leader: leader.map(|broker| broker.fields.uuid),
            partition_epoch: read.epoch,
        };
        let partition = Stamped { timestamp: read.timestamp, fields };
        let leader = self.check_partition(&partition)?;
        Ok(Row::new(read.topic, partition.timestamp, &partition.fields, leader))
    }

    /// A hash of the whole state. Equal on two nodes that applied the same commands, also when one of
    /// them started from the other's snapshot. Costs as much as a snapshot.
    pub fn digest(&self) -> u64 {
        xxh3_64(&self.encode())
    }
}

/// All that partitions refer to.
impl From<Before> for State {
    fn from(before: Before) -> Self {
        let brokers = keyed(&before.brokers, |broker| broker.fields.broker_id);
        Self {
            last_stamp: before.last_stamp,
            history: before.history,
            former_brokers: keyed(&before.former_brokers, |broker| broker.fields.uuid),
            registration_changes: Vector::from(before.registration_changes),
            topics: Topics::of(before.topics),
            index: Index::of_brokers(&brokers),
            brokers,
            ..Self::default()
        }
    }
}

/// The entries under their keys. They stand in the order of these, or the state will not be in its canonical form.
fn keyed<K: Ord + Clone, T>(entries: &[Arc<T>], key: impl Fn(&T) -> K + Copy) -> OrdMap<K, Arc<T>> {
    packed::map(entries.iter().map(|entry| (key(entry), Arc::clone(entry))))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::metadata::{
        Change, Command, CreatePartition, CreateTopic, LeaderChoice, RackId, RegisterBroker,
        SecurityProtocol, TopicRecord, Uuid,
    };

    #[test]
    fn an_empty_state_survives() {
        let state = State::new();
        assert_eq!(State::decode(&state.encode()).unwrap(), state);
    }

    #[test]
    fn padded_integers_are_refused() {
        let mut bytes = State::new().encode();
        assert_eq!(bytes[1], 0);
        bytes.splice(1..2, [0x80, 0x00]);
        assert!(matches!(State::decode(&bytes), Err(DecodeError::Corrupt { .. })));
    }

    #[test]
    fn a_newer_version_is_no_corruption() {
        let mut bytes = State::new().encode();
        bytes[0] = 200;
        assert_eq!(State::decode(&bytes), Err(DecodeError::NewerVersion { found: 200 }));
    }
    /// A broker, two topics and two partitions of the first one.
    fn placed() -> State {
        let mut state = State::new();
        let broker = RegisterBroker {
            uuid: Uuid::from_u128(1),
            broker_id: BrokerId::MIN,
            host: "host".parse().unwrap(),
            port: "1".parse().unwrap(),
            security_protocol: SecurityProtocol::default(),
            rack_id: RackId::default(),
        };
        let topic = |n: u128| CreateTopic {
            uuid: Uuid::from_u128(n),
            name: format!("t-{n}").parse().unwrap(),
        };
        let partition = |n: u32| CreatePartition {
            topic: Uuid::from_u128(7),
            partition_id: PartitionId::try_from(n).unwrap(),
            replicas: vec![BrokerId::MIN.into()],
            isr: None,
            removing: vec![],
            adding: vec![],
            leader: LeaderChoice::Preferred,
        };
        for change in [
            Change::RegisterBroker(broker),
            Change::CreateTopic(topic(7)),
            Change::CreateTopic(topic(8)),
            Change::CreatePartition(partition(0)),
            Change::CreatePartition(partition(1)),
        ] {
            let command = Command { clock: Timestamp::ZERO, idempotency: None, change };
            state.apply(&command).outcome.unwrap();
        }
        state
    }

    /// `state` with other topics.
    fn with_topics(state: &State, topics: &[&TopicEntry]) -> State {
        let topics = topics.iter().map(|topic| TopicEntry::clone(topic)).collect();
        State { topics: Topics::of(topics), ..state.clone() }
    }

    /// `state` with other partitions.
    fn with_rows<'a>(state: &State, rows: impl IntoIterator<Item = &'a Row>) -> State {
        State { partitions: rows.into_iter().cloned().collect(), ..state.clone() }
    }

    #[test]
    fn a_state_that_cannot_be_is_refused() {
        let state = placed();
        assert_eq!(State::decode(&state.encode()).unwrap(), state);
        let rows: Vec<_> = state.partitions.rows().map(|(_, row)| row.clone()).collect();
        let [first, second] = &rows[..] else { panic!("two partitions") };
        let topics: Vec<_> = state.topics.created().iter().collect();
        let [one, other] = topics[..] else { panic!("two topics") };
        let renamed = |uuid, name| {
            let fields = TopicRecord { uuid, name };
            Arc::new(Stamped { timestamp: other.timestamp, fields })
        };
        let same_uuid = renamed(one.fields.uuid, other.fields.name.clone());
        let same_name = renamed(other.fields.uuid, one.fields.name.clone());
        let record = state.partitions().next().unwrap();
        let of_topic = |topic, stamp| Row::new(topic, stamp, &record.fields, Some(BrokerId::MIN));
        let nobodys = of_topic(TopicNumber::new(2), second.stamp());
        let too_old = of_topic(TopicNumber::new(1), other.timestamp);
        let stranger = BrokerId::try_from(5).unwrap();
        let unknown = PartitionRecord {
            replicas: vec![stranger],
            isr: vec![stranger],
            ..record.fields.clone()
        };
        let unknown = Row::new(TopicNumber::new(0), first.stamp(), &unknown, Some(stranger));
        let twice = of_topic(TopicNumber::new(0), second.stamp());
        for (what, broken) in [
            ("topics are out of order", with_topics(&state, &[other, one])),
            ("two topics have the same", with_topics(&state, &[one, &same_uuid])),
            ("two topics have the same", with_topics(&state, &[one, &same_name])),
            ("has no topic", with_topics(&state, &[])),
            ("has no topic", with_rows(&state, [first, &nobodys])),
            ("partitions are out of order", with_rows(&state, [second, first])),
            ("two partitions have the same", with_rows(&state, [first, first])),
            ("two partitions have the same", with_rows(&state, [first, &twice])),
            ("older than its topic", with_rows(&state, [&too_old, second])),
            ("leader is unknown", with_rows(&state, [&unknown, second])),
        ] {
            let error = State::decode(&broken.encode()).unwrap_err();
            assert!(error.to_string().contains(what), "{what}: {error}");
        }
    }
}
