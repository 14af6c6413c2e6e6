//! What pollers see: the live image, the complete metadata, and what changed since an offset.
//!
//! Views borrow from the state. To serve one while commands go on, clone the [`State`] first: that is
//! cheap and freezes it.

use std::collections::BTreeMap;
use std::sync::Arc;

use imbl::OrdMap;
use imbl::shared_ptr::DefaultSharedPtr;
use imbl::vector::Focus;
use serde::ser::SerializeMap;
use serde::{Serialize, Serializer};

use super::index::after;
use super::placements::Slot;
use super::{BrokerEntry, State, TopicEntry};
use crate::metadata::limits::HISTORY_WINDOW;
use crate::metadata::{
    BrokerId, BrokerStatus, Fields, PartitionRecord, ProducerIdsRecord, Record,
    RegisterBrokerRecord, RegistrationChangeBrokerRecord, SnapshotKind, Stamped, Timestamp,
    TopicRecord, Uuid,
};

/// Who asks.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Audience {
    /// A broker: sees everything.
    Broker,
    /// A client: sees strictly topics, partitions and brokers.
    Client,
}

/// A snapshot for an audience. Serialises as `{NAME:[RECORD…]}`, with a list, perhaps an empty one, for
/// every kind of record it may contain.
#[derive(Clone, Copy, Debug)]
pub struct Image<'a> {
    state: &'a State,
    kind: SnapshotKind,
    audience: Audience,
}

/// What changed in the live image after an offset. Apply the deletions first: an id whose broker was
/// closed may be among the upserted again.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Changes {
    /// What is new or different, as it is now, in the order of its last change.
    pub upserted: Vec<Record>,
    /// Brokers that were closed. Some may have come and gone since the offset.
    pub deleted: Vec<DeletedBroker>,
}

/// A broker that left the live image. Nothing else can.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct DeletedBroker {
    /// Its id, which may be in use again.
    pub broker_id: BrokerId,
    /// The incarnation that is gone.
    #[serde(rename = "internalUUID")]
    pub uuid: Uuid,
}

impl State {
    /// Brokers that are not closed, by id.
    pub fn brokers(&self) -> impl Iterator<Item = &Arc<Stamped<RegisterBrokerRecord>>> {
        self.brokers.values().filter(|broker| broker.fields.broker_status != BrokerStatus::Closed)
    }

    /// Brokers whose status is ALIVE, by id.
    pub fn active_brokers(&self) -> impl Iterator<Item = &Arc<Stamped<RegisterBrokerRecord>>> {
        self.brokers.values().filter(|broker| broker.fields.broker_status == BrokerStatus::Alive)
    }

    /// Every incarnation of every broker: the latest by id, then those that were replaced.
    pub fn all_brokers(&self) -> impl Iterator<Item = &Arc<Stamped<RegisterBrokerRecord>>> {
        self.brokers.values().chain(self.former_brokers.values())
    }

    /// Every topic, by UUID.
    pub fn topics(&self) -> impl Iterator<Item = &Arc<Stamped<TopicRecord>>> {
        self.topics.by_uuid()
    }

    /// Every partition, by topic and number.
    pub fn partitions(&self) -> impl Iterator<Item = Stamped<PartitionRecord>> {
        self.partitions.slots(self.topics.numbers()).map(|slot| self.partition(slot))
    }

    /// Every producer, by id.
    pub fn producers(&self) -> impl Iterator<Item = &Arc<Stamped<ProducerIdsRecord>>> {
        self.producers.values()
    }

    /// Every change to a registered broker, in the order in which they happened.
    pub fn registration_changes(
        &self,
    ) -> impl Iterator<Item = &Arc<Stamped<RegistrationChangeBrokerRecord>>> {
        self.registration_changes.iter()
    }

    /// How many things a snapshot holds. Costs nothing, as do the other counts.
    pub fn object_count(&self) -> usize {
        let brokers = self.brokers.len() + self.former_brokers.len();
        let changes = self.registration_changes.len();
        brokers + changes + self.topic_count() + self.partition_count() + self.producer_count()
    }

    /// How many topics there are.
    pub fn topic_count(&self) -> usize {
        self.topics.len()
    }

    /// How many partitions there are.
    pub fn partition_count(&self) -> usize {
        self.partitions.len()
    }

    /// How many producers there are.
    pub fn producer_count(&self) -> usize {
        self.producers.len()
    }

    /// A snapshot of one of the two kinds.
    pub const fn image(&self, kind: SnapshotKind, audience: Audience) -> Image<'_> {
        Image { state: self, kind, audience }
    }

    /// What changed after `offset`, strictly, or nothing when that is longer than [`HISTORY_WINDOW`]
    /// before the last stamp. Costs by the changes that were made.
    pub fn changes_since(&self, offset: Timestamp, audience: Audience) -> Option<Changes> {
        if self.last_stamp.saturating_since(offset) > HISTORY_WINDOW {
            return None;
        }
        let mut changes = Changes::default();
        for uuid in self.index.brokers_changed_after(offset) {
            let Some(broker) = self.broker(&uuid.into()) else { continue };
            if broker.fields.broker_status == BrokerStatus::Closed {
                let broker_id = broker.fields.broker_id;
                changes.deleted.push(DeletedBroker { broker_id, uuid });
            } else {
                changes.upserted.push(broker.clone().into());
            }
        }
        let mut partitions: Vec<_> = self
            .partitions_changed_after(offset)
            .map(|(stamp, slot)| (*stamp, self.key(*slot), *slot))
            .collect();
        partitions.sort();
        let upserted = &mut changes.upserted;
        upserted.extend(self.topics_after(offset).into_iter().cloned().map(Record::from));
        upserted.extend(partitions.into_iter().map(|(_, _, slot)| self.partition(slot).into()));
        if audience == Audience::Broker {
            upserted.extend(self.index.producers_after(offset).cloned().map(Record::from));
        }
        // What changed at once stays in the order of its kinds and keys.
        upserted.sort_by_key(Record::timestamp);
        Some(changes)
    }

    /// Whether there were more than `count` changes after `offset`. The diff may have fewer: in it a partition that
    /// changed twice stands once. Costs by `count`.
    pub fn has_more_changes(&self, offset: Timestamp, count: usize) -> bool {
        let others = self.index.count_after(offset) + self.topics_after(offset).len();
        others + self.index.brokers_changed_after(offset).take(count + 1).count() > count
    }

    /// The topics that were created after `offset`, in that order.
    fn topics_after(&self, offset: Timestamp) -> Focus<'_, TopicEntry, DefaultSharedPtr> {
        after(self.topics.created(), offset, |topic| topic.timestamp)
    }

    fn partitions_changed_after(
        &self,
        offset: Timestamp,
    ) -> impl Iterator<Item = &(Timestamp, Slot)> {
        let changed = self.index.partitions_changed_after(offset);
        changed.filter(|change| self.partitions.is_latest(change))
    }
}

/// The records of one kind in an image, one after the other. Owns what it needs: commands may go on meanwhile.
pub type Records = Box<dyn Iterator<Item = Record> + Send + Sync>;

impl Image<'_> {
    /// Which snapshot this is.
    pub const fn kind(&self) -> SnapshotKind {
        self.kind
    }

    /// What the image serialises as, list by list, for whoever cannot hold all of it as text at once.
    pub fn lists(&self) -> Vec<(&'static str, Records)> {
        fn all<K, T>(map: &OrdMap<K, Arc<T>>) -> Records
        where
            K: Ord + Clone + Send + Sync + 'static,
            T: Send + Sync + 'static,
            Record: From<Arc<T>>,
        {
            Box::new(map.clone().into_iter().map(|(_, entry)| entry.into()))
        }
        let Self { state, kind, audience } = self;
        let former = match kind {
            SnapshotKind::Current => OrdMap::new(),
            SnapshotKind::Complete => state.former_brokers.clone(),
        };
        let live = |broker: &BrokerEntry| broker.fields.broker_status != BrokerStatus::Closed;
        let (latest, kind) = (state.brokers.clone(), *kind);
        let brokers = latest
            .into_iter()
            .map(|(_, broker)| broker)
            .filter(move |broker| kind == SnapshotKind::Complete || live(broker))
            .chain(former.into_iter().map(|(_, broker)| broker));
        let frozen = State::clone(state);
        let topics = frozen.topics.clone().into_numbers();
        let slots = frozen.partitions.clone().into_slots(topics).flatten();
        let partitions = slots.map(move |slot| frozen.partition(slot).into());
        let mut lists: Vec<(&'static str, Records)> = vec![
            (RegisterBrokerRecord::NAME, Box::new(brokers.map(Record::from))),
            (TopicRecord::NAME, Box::new(state.topics.clone().into_entries().map(Record::from))),
            (PartitionRecord::NAME, Box::new(partitions)),
        ];
        if *audience == Audience::Broker {
            lists.push((ProducerIdsRecord::NAME, all(&state.producers)));
            if kind == SnapshotKind::Complete {
                let changes = state.registration_changes.clone().into_iter().map(Record::from);
                lists.push((RegistrationChangeBrokerRecord::NAME, Box::new(changes)));
            }
        }
        lists
    }
}

impl Serialize for Image<'_> {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        let Self { state, kind, audience } = self;
        let mut map = serializer.serialize_map(None)?;
        match kind {
            SnapshotKind::Current => {
                map.serialize_entry(RegisterBrokerRecord::NAME, &List(|| state.brokers()))?;
            }
            SnapshotKind::Complete => {
                map.serialize_entry(RegisterBrokerRecord::NAME, &List(|| state.all_brokers()))?;
            }
        }
        map.serialize_entry(TopicRecord::NAME, &List(|| state.topics()))?;
        map.serialize_entry(PartitionRecord::NAME, &List(|| state.partitions()))?;
        if *audience == Audience::Broker {
            map.serialize_entry(ProducerIdsRecord::NAME, &List(|| state.producers()))?;
            if *kind == SnapshotKind::Complete {
                map.serialize_entry(
                    RegistrationChangeBrokerRecord::NAME,
                    &List(|| state.registration_changes()),
                )?;
            }
        }
        map.end()
    }
}

/// Serialises as the list of what the iterators that it makes yield.
struct List<F>(F);

impl<F: Fn() -> I, I: Iterator<Item: Serialize>> Serialize for List<F> {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_seq((self.0)())
    }
}

impl Changes {
    /// The upserted records under their names, as snapshots show them.
    pub fn upserted_by_name(&self) -> BTreeMap<&'static str, Vec<&Record>> {
        let mut lists = BTreeMap::<_, Vec<_>>::new();
        for record in &self.upserted {
            lists.entry(record.name()).or_default().push(record);
        }
        lists
    }
}
