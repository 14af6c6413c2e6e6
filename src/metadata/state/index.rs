//! What can be found without a search. Derived: rebuilt from a snapshot, never part of one.

use imbl::{OrdMap, OrdSet};
use uuid::Uuid;

use super::{PartitionKey, State, packed};
use crate::metadata::{
    BrokerId, PartitionId, PartitionRecord, ProducerId, Stamped, Timestamp, TopicName,
};

/// Something that is created, perhaps changes, and perhaps leaves the live image.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Object {
    /// An incarnation of a broker. A closed one is its own tombstone: its record stays, with the stamp
    /// of its closing.
    Broker(Uuid),
    Topic(Uuid),
    Partition(PartitionKey),
    Producer(ProducerId),
}

#[derive(Clone, Debug, Default, PartialEq)]
pub(super) struct Index {
    /// The id of each latest incarnation.
    pub(super) broker_ids: OrdMap<Uuid, BrokerId>,
    pub(super) topic_uuids: OrdMap<TopicName, Uuid>,
    /// The partitions whose ISR a broker is in.
    pub(super) in_sync: OrdSet<(BrokerId, PartitionKey)>,
    /// Every object under its last change. One entry an object, moved when it changes: diffs need
    /// nothing more, and it cannot outgrow the objects, so nothing has to be pruned.
    pub(super) changes: OrdSet<(Timestamp, Object)>,
}

impl Index {
    /// The index that belongs to what `state` holds.
    pub(super) fn rebuild(state: &State) -> Self {
        let brokers = state.all_brokers().map(|b| (b.timestamp, Object::Broker(b.fields.uuid)));
        let topics = state.topics.values().map(|t| (t.timestamp, Object::Topic(t.fields.uuid)));
        let partitions = state.partitions.iter();
        let partitions = partitions.map(|(key, p)| (p.timestamp, Object::Partition(*key)));
        let producers = state.producers.iter();
        let producers = producers.map(|(id, p)| (p.timestamp, Object::Producer(*id)));
        let in_sync = state
            .partitions
            .iter()
            .flat_map(|(key, partition)| partition.fields.isr.iter().map(|broker| (*broker, *key)));
        let names = state.topics.values().map(|t| (t.fields.name.clone(), t.fields.uuid));
        let ids = state.brokers.values().map(|b| (b.fields.uuid, b.fields.broker_id));
        Self {
            broker_ids: ids.collect(),
            topic_uuids: names.collect(),
            in_sync: packed::set(in_sync),
            changes: packed::set(brokers.chain(topics).chain(partitions).chain(producers)),
        }
    }

    /// Notes that an object changed at `stamp`, and before that at `previous`.
    pub(super) fn changed(
        &mut self,
        object: Object,
        previous: Option<Timestamp>,
        stamp: Timestamp,
    ) {
        if let Some(previous) = previous {
            assert!(stamp > previous, "{object:?} changed at {stamp}, before {previous}");
            let known = self.changes.remove(&(previous, object));
            assert!(known.is_some(), "the change of {object:?} at {previous} was not noted");
        }
        self.changes.insert((stamp, object));
    }

    /// Notes that a partition became `next`.
    pub(super) fn partition_changed(
        &mut self,
        key: PartitionKey,
        previous: Option<&Stamped<PartitionRecord>>,
        next: &Stamped<PartitionRecord>,
    ) {
        for broker in previous.iter().flat_map(|previous| &previous.fields.isr) {
            self.in_sync.remove(&(*broker, key));
        }
        for broker in &next.fields.isr {
            self.in_sync.insert((*broker, key));
        }
        let previous = previous.map(|previous| previous.timestamp);
        self.changed(Object::Partition(key), previous, next.timestamp);
    }
}

/// The partitions that `set` holds under `broker`.
pub(super) fn partitions_of(
    set: &OrdSet<(BrokerId, PartitionKey)>,
    broker: BrokerId,
) -> Vec<PartitionKey> {
    let first = (broker, (Uuid::nil(), PartitionId::MIN));
    let last = (broker, (Uuid::max(), PartitionId::MAX));
    set.range(first..=last).map(|(_, key)| *key).collect()
}
