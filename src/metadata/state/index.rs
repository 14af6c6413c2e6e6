//! What can be found without a search. Derived: rebuilt from a snapshot, never part of one.

use std::cmp::Ordering;
use std::collections::BTreeMap;

use imbl::{OrdMap, OrdSet, Vector};
use uuid::Uuid;

use super::placements::{Brokers, Partitions, Slot};
use super::{PartitionKey, State, packed};
use crate::metadata::{BrokerId, ProducerId, Timestamp, TopicName};

/// Something that is created, perhaps changes, and perhaps leaves the live image.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Object {
    /// An incarnation of a broker. A closed one is its own tombstone: its record stays, with the stamp
    /// of its closing.
    Broker(Uuid),
    Topic(Uuid),
    Partition(PartitionKey, Slot),
    Producer(ProducerId),
}

/// So few outdated changes of partitions are worth no search for them.
const OUTDATED_CHANGES_MIN: usize = 1_000;

#[derive(Clone, Debug, Default, PartialEq)]
pub(super) struct Index {
    /// The id of each latest incarnation.
    pub(super) broker_ids: OrdMap<Uuid, BrokerId>,
    pub(super) topic_uuids: OrdMap<TopicName, Uuid>,
    /// The partitions whose ISR a broker is in, in the order in which it came to be. A broker leaves all of them at
    /// once, so nothing is ever taken out of a list.
    in_sync: OrdMap<BrokerId, Vector<Slot>>,
    /// Every object that is no partition under its last change. One entry an object, moved when it changes: diffs
    /// need nothing more, and it cannot outgrow the objects, so nothing has to be pruned.
    changes: OrdSet<(Timestamp, Object)>,
    /// Partitions, which are many, in the order of their changes. One that changed again stands here twice, and only
    /// under its last change does it count ([`Partitions::is_latest`]). The others are dropped when they are the most.
    partition_changes: Vector<(Timestamp, Slot)>,
}

impl Index {
    /// The index that belongs to a state of brokers alone.
    pub(super) fn of_brokers(brokers: &Brokers) -> Self {
        let ids = brokers.values().map(|b| (b.fields.uuid, b.fields.broker_id));
        Self { broker_ids: ids.collect(), ..Self::default() }
    }

    /// The index that belongs to what `state` holds.
    pub(super) fn rebuild(state: &State) -> Self {
        let brokers = state.all_brokers().map(|b| (b.timestamp, Object::Broker(b.fields.uuid)));
        let topics = state.topics.values().map(|t| (t.timestamp, Object::Topic(t.fields.uuid)));
        let producers = state.producers.iter();
        let producers = producers.map(|(id, p)| (p.timestamp, Object::Producer(*id)));
        let names = state.topics.values().map(|t| (t.fields.name.clone(), t.fields.uuid));
        let mut in_sync = BTreeMap::<_, Vector<_>>::new();
        for (slot, row) in state.partitions.rows() {
            for broker in row.isr() {
                in_sync.entry(broker).or_default().push_back(slot);
            }
        }
        let mut changes: Vec<_> =
            state.partitions.rows().map(|(slot, row)| (row.stamp(), slot)).collect();
        changes.sort_unstable();
        Self {
            topic_uuids: names.collect(),
            in_sync: in_sync.into_iter().collect(),
            changes: packed::set(brokers.chain(topics).chain(producers)),
            partition_changes: changes.into(),
            ..Self::of_brokers(&state.brokers)
        }
    }

    /// The same, without what does not count, and in the order in which it is rebuilt.
    pub(super) fn tidied(mut self, partitions: &Partitions) -> Self {
        let lists = self.in_sync.into_iter().map(|(broker, mut slots)| {
            slots.sort();
            (broker, slots)
        });
        self.in_sync = lists.collect();
        self.partition_changes = latest(&self.partition_changes, partitions);
        self.partition_changes.sort();
        self
    }

    /// Notes that an object, which is no partition, changed at `stamp`, and before that at `previous`.
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

    /// Notes that a partition changed, as `partitions` has it now.
    pub(super) fn partition_changed(&mut self, slot: Slot, partitions: &Partitions) {
        let changes = &mut self.partition_changes;
        changes.push_back((partitions.row(slot).stamp(), slot));
        if changes.len() > OUTDATED_CHANGES_MIN + 2 * partitions.len() {
            *changes = latest(changes, partitions);
        }
    }

    /// Notes that a broker entered the ISR of a partition.
    pub(super) fn entered_isr(&mut self, broker: BrokerId, slot: Slot) {
        self.in_sync.entry(broker).or_default().push_back(slot);
    }

    /// The partitions whose ISR a broker is in, and henceforth is not.
    pub(super) fn leave_isrs(&mut self, broker: BrokerId) -> Vector<Slot> {
        self.in_sync.remove(&broker).unwrap_or_default()
    }

    /// What changed after `offset` and is no partition, in the order of its change.
    pub(super) fn changed_after(
        &self,
        offset: Timestamp,
    ) -> impl Iterator<Item = &(Timestamp, Object)> {
        // The least of what changed in the microsecond after `offset`: brokers sort first.
        self.changes.range((offset.next(), Object::Broker(Uuid::nil()))..)
    }

    /// The partitions that changed after `offset`, in the order of their changes; once for each, so that only those
    /// count that are [`Partitions::is_latest`].
    pub(super) fn partitions_changed_after(
        &self,
        offset: Timestamp,
    ) -> impl Iterator<Item = &(Timestamp, Slot)> {
        self.partition_changes.focus().narrow(self.first_after(offset)..).into_iter()
    }

    /// How many changes of partitions there were after `offset`, at least.
    pub(super) fn count_partition_changes_after(&self, offset: Timestamp) -> usize {
        self.partition_changes.len() - self.first_after(offset)
    }

    /// Where the changes of partitions after `offset` begin.
    fn first_after(&self, offset: Timestamp) -> usize {
        let first = self.partition_changes.binary_search_by(|(stamp, _)| {
            if *stamp > offset { Ordering::Greater } else { Ordering::Less }
        });
        first.unwrap_or_else(|first| first)
    }
}

/// The changes that count.
fn latest(
    changes: &Vector<(Timestamp, Slot)>,
    partitions: &Partitions,
) -> Vector<(Timestamp, Slot)> {
    changes.iter().filter(|change| partitions.is_latest(change)).copied().collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::metadata::{
        Audience, BrokerStatus, Change, Command, CreatePartition, CreateTopic, LeaderChoice,
        PartitionId, RackId, RegisterBroker, SecurityProtocol, UpdateBroker,
    };

    fn apply(state: &mut State, change: Change) {
        let command = Command { clock: Timestamp::ZERO, idempotency: None, change };
        state.apply(&command).outcome.unwrap();
    }

    #[test]
    fn a_partition_that_changes_all_the_time_takes_no_more_memory() {
        let (mut state, topic) = (State::new(), Uuid::from_u128(9));
        let broker = RegisterBroker {
            uuid: Uuid::from_u128(1),
            broker_id: BrokerId::MIN,
            host: "host".parse().unwrap(),
            port: "1".parse().unwrap(),
            security_protocol: SecurityProtocol::default(),
            rack_id: RackId::default(),
        };
        apply(&mut state, Change::RegisterBroker(broker));
        let name = "t".parse().unwrap();
        apply(&mut state, Change::CreateTopic(CreateTopic { uuid: topic, name }));
        let before = state.last_stamp();
        for partition in 0..10 {
            let partition = CreatePartition {
                topic,
                partition_id: PartitionId::try_from(partition).unwrap(),
                replicas: vec![BrokerId::MIN.into()],
                isr: None,
                removing: vec![],
                adding: vec![],
                leader: LeaderChoice::Preferred,
            };
            apply(&mut state, Change::CreatePartition(partition));
        }
        assert!(state.has_more_changes(before, 9) && !state.has_more_changes(before, 10));
        let before = state.last_stamp();
        let mut lengths = Vec::new();
        for status in [BrokerStatus::Fenced, BrokerStatus::Alive].into_iter().cycle().take(400) {
            let change = UpdateBroker {
                broker: BrokerId::MIN.into(),
                host: None,
                port: None,
                security_protocol: None,
                status: Some(status),
                epoch: None,
            };
            apply(&mut state, Change::UpdateBroker(change));
            lengths.push(state.index.partition_changes.len());
        }
        assert!(lengths.iter().all(|length| *length <= OUTDATED_CHANGES_MIN + 20));
        assert!(!lengths.is_sorted(), "nothing was ever dropped");
        state.check_invariants().unwrap();
        let changes = state.changes_since(before, Audience::Broker).unwrap();
        assert_eq!(changes.upserted.len(), 11);
        assert!(state.has_more_changes(before, 10));
        assert!(!state.has_more_changes(state.last_stamp(), 0));
    }
}
