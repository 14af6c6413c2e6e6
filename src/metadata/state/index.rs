//! What can be found without a search. Derived: rebuilt from a snapshot, never part of one.

use std::cmp::Ordering;
use std::collections::BTreeMap;

use imbl::{OrdMap, OrdSet, Vector};
use uuid::Uuid;

use super::placements::{Brokers, Partitions, Slot};
use super::{ProducerEntry, State, packed};
use crate::metadata::{BrokerId, Timestamp};

/// So few outdated changes of partitions are worth no search for them.
const OUTDATED_CHANGES_MIN: usize = 1_000;

#[derive(Clone, Debug, Default, PartialEq)]
pub(super) struct Index {
    /// The id of each latest incarnation.
    pub(super) broker_ids: OrdMap<Uuid, BrokerId>,
    /// The partitions whose ISR a broker is in, in the order in which it came to be. A broker leaves all of them at
    /// once, so nothing is ever taken out of a list.
    in_sync: OrdMap<BrokerId, Vector<Slot>>,
    /// Every incarnation of a broker under its last change. One entry each, moved when it changes: diffs need nothing more,
    /// and it cannot outgrow the brokers, so nothing has to be pruned. (A closed one is its own tombstone: its record
    /// stays, with the stamp of its closing.)
    broker_changes: OrdSet<(Timestamp, Uuid)>,
    /// Producers in the order in which they were registered. As topics, they do not change, nor go.
    producers: Vector<ProducerEntry>,
    /// Partitions, which are many, in the order of their changes; those that changed at once, of their slots. One that
    /// changed again stands here twice, and only under its last change does it count ([`Partitions::is_latest`]). The others
    /// are dropped when they are the most.
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
        let brokers = state.all_brokers().map(|b| (b.timestamp, b.fields.uuid));
        let mut producers: Vec<_> = state.producers.values().cloned().collect();
        producers.sort_by_key(|producer| producer.timestamp);
        let mut in_sync = BTreeMap::<_, Vector<_>>::new();
        for (slot, row) in state.partitions.rows() {
            for broker in &*row.lists().isr {
                in_sync.entry(*broker).or_default().push_back(slot);
            }
        }
        let mut changes: Vec<_> =
            state.partitions.rows().map(|(slot, row)| (row.stamp(), slot)).collect();
        changes.sort_unstable();
        Self {
            in_sync: in_sync.into_iter().collect(),
            broker_changes: packed::set(brokers),
            producers: producers.into(),
            partition_changes: changes.into(),
            ..Self::of_brokers(&state.brokers)
        }
    }

    /// The same, without what does not count, and with lists in the order in which they are rebuilt.
    pub(super) fn tidied(mut self, partitions: &Partitions) -> Self {
        let lists = self.in_sync.into_iter().map(|(broker, mut slots)| {
            slots.sort();
            (broker, slots)
        });
        self.in_sync = lists.collect();
        self.partition_changes = latest(&self.partition_changes, partitions);
        self
    }

    /// Notes that a broker changed at `stamp`, and before that at `previous`.
    pub(super) fn broker_changed(
        &mut self,
        uuid: Uuid,
        previous: Option<Timestamp>,
        stamp: Timestamp,
    ) {
        if let Some(previous) = previous {
            assert!(stamp > previous, "broker {uuid} changed at {stamp}, before {previous}");
            let known = self.broker_changes.remove(&(previous, uuid));
            assert!(known.is_some(), "the change of broker {uuid} at {previous} was not noted");
        }
        self.broker_changes.insert((stamp, uuid));
    }

    /// Notes a new producer.
    pub(super) fn producer_registered(&mut self, producer: ProducerEntry) {
        self.producers.push_back(producer);
    }

    /// Notes that a partition changed, as `partitions` has it now. Those that change at once are noted in the order of
    /// their slots.
    pub(super) fn partition_changed(&mut self, slot: Slot, partitions: &Partitions) {
        let changes = &mut self.partition_changes;
        let change = (partitions.row(slot).stamp(), slot);
        assert!(changes.last().is_none_or(|last| *last < change), "{change:?} is noted too late");
        changes.push_back(change);
        if changes.len() > OUTDATED_CHANGES_MIN + 2 * partitions.len() {
            *changes = latest(changes, partitions);
        }
    }

    /// Notes that a broker entered the ISR of a partition.
    pub(super) fn entered_isr(&mut self, broker: BrokerId, slot: Slot) {
        self.in_sync.entry(broker).or_default().push_back(slot);
    }

    /// The partitions whose ISR a broker is in, and henceforth is not, in the order of their slots.
    pub(super) fn leave_isrs(&mut self, broker: BrokerId) -> Vec<Slot> {
        let slots = self.in_sync.remove(&broker).unwrap_or_default();
        let mut slots: Vec<_> = slots.into_iter().collect();
        slots.sort_unstable();
        slots
    }

    /// The brokers that changed after `offset`, closed ones too, in the order of their changes.
    pub(super) fn brokers_changed_after(&self, offset: Timestamp) -> impl Iterator<Item = Uuid> {
        self.broker_changes.range((offset.next(), Uuid::nil())..).map(|(_, uuid)| *uuid)
    }

    /// The producers that were registered after `offset`, in that order.
    pub(super) fn producers_after(&self, offset: Timestamp) -> Vector<ProducerEntry> {
        after(&self.producers, offset, |producer| producer.timestamp)
    }

    /// The changes of partitions after `offset`, in their order. Only those count that are [`Partitions::is_latest`]: one for
    /// each partition that changed.
    pub(super) fn partition_changes_after(&self, offset: Timestamp) -> Vector<(Timestamp, Slot)> {
        after(&self.partition_changes, offset, |change| change.0)
    }
}

/// Those of `entries`, which stand in the order of their stamps, that are of after `offset`.
pub(super) fn after<T: Clone>(
    entries: &Vector<T>,
    offset: Timestamp,
    stamp: impl Fn(&T) -> Timestamp,
) -> Vector<T> {
    let first = entries.binary_search_by(|entry| {
        if stamp(entry) > offset { Ordering::Greater } else { Ordering::Less }
    });
    entries.clone().split_off(first.unwrap_or_else(|first| first))
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
        assert_eq!(state.index.partition_changes_after(before).len(), 10);
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
        assert!(state.index.partition_changes_after(before).len() > 10);
        assert!(state.index.partition_changes_after(state.last_stamp()).is_empty());
    }
}
