//! What pollers see: the live image, the complete metadata, and what changed since an offset.
//!
//! Views borrow from the state. To serve one while commands go on, clone the [`State`] first: that is
//! cheap and freezes it.

use std::sync::Arc;

use imbl::{OrdMap, Vector};
use serde::ser::SerializeMap;
use serde::{Serialize, Serializer};

use super::index::after;
use super::placements::Slot;
use super::{BrokerEntry, State};
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

/// [`Changes`] that are read one after the other, as they may be as many as there are things.
pub struct Diff {
    /// The upserted: for each kind of which there is any, its records in the order of their last change.
    pub upserted: Vec<(&'static str, Records)>,
    /// See [`Changes::deleted`].
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
        let Diff { upserted, deleted } = self.diff_since(offset, audience)?;
        let mut upserted: Vec<_> = upserted.into_iter().flat_map(|(_, records)| records).collect();
        // What changed at once stays in the order of its kinds.
        upserted.sort_by_key(Record::timestamp);
        Some(Changes { upserted, deleted })
    }

    /// As [`changes_since`](Self::changes_since), but costs by the changes of brokers until it is read. Commands may go on
    /// meanwhile.
    pub fn diff_since(&self, offset: Timestamp, audience: Audience) -> Option<Diff> {
        if self.last_stamp.saturating_since(offset) > HISTORY_WINDOW {
            return None;
        }
        let (mut brokers, mut deleted) = (Vec::new(), Vec::new());
        for uuid in self.index.brokers_changed_after(offset) {
            let Some(broker) = self.broker(&uuid.into()) else { continue };
            if broker.fields.broker_status == BrokerStatus::Closed {
                let broker_id = broker.fields.broker_id;
                deleted.push(DeletedBroker { broker_id, uuid });
            } else {
                brokers.push(broker.clone());
            }
        }
        let topics = after(self.topics.created(), offset, |topic| topic.timestamp);
        let changes = self.index.partition_changes_after(offset);
        let producers = match audience {
            Audience::Broker => self.index.producers_after(offset),
            Audience::Client => Vector::new(),
        };
        let mut upserted: Vec<(&'static str, Records)> = Vec::new();
        if !brokers.is_empty() {
            let records = brokers.into_iter().map(Record::from);
            upserted.push((RegisterBrokerRecord::NAME, Box::new(records)));
        }
        if !topics.is_empty() {
            upserted.push((TopicRecord::NAME, Box::new(topics.into_iter().map(Record::from))));
        }
        if !changes.is_empty() {
            upserted.push((PartitionRecord::NAME, Box::new(self.clone().changed(changes))));
        }
        if !producers.is_empty() {
            let records = producers.into_iter().map(Record::from);
            upserted.push((ProducerIdsRecord::NAME, Box::new(records)));
        }
        Some(Diff { upserted, deleted })
    }

    /// The partitions whose latest changes are among `changes`, in their order.
    fn changed(self, changes: Vector<(Timestamp, Slot)>) -> impl Iterator<Item = Record> {
        changes.into_iter().filter_map(move |change| {
            let is_latest = self.partitions.is_latest(&change);
            is_latest.then(|| self.partition(change.1).into())
        })
    }
}

/// The records of one kind in an image or a diff, one after the other. Owns what it needs: commands may go on meanwhile.
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
