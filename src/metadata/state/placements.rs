//! How partitions are held: a million of them take little memory.
//!
//! A [`PartitionRecord`] has four lists on the heap and two UUIDs. What is held instead is a [`Row`]: the lists of
//! a usual partition as numbers beside each other, the topic as its number, the leader as its place among the
//! replicas. The record is made when somebody asks for it.
//!
//! Rows stand in a vector, because its leaves are full, while those of a map that things are inserted into are half
//! empty; and because whatever else speaks of a partition can say where it stands ([`Slot`]) in four bytes.

use std::num::NonZeroU8;
use std::ops::Deref;
use std::sync::Arc;

use imbl::{OrdMap, Vector};

use super::topics::{TopicNumber, Topics};
use super::{BrokerEntry, packed};
use crate::metadata::{BrokerId, Epoch, PartitionId, PartitionRecord, Stamped, Timestamp};

/// A partition's place in [`Partitions`], in the order in which they were created: the same on every node.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct Slot(u32);

impl Slot {
    fn new(index: usize) -> Self {
        Self(u32::try_from(index).expect("four billion partitions fit into no memory"))
    }

    const fn index(self) -> usize {
        self.0 as usize
    }
}

/// All partitions.
#[derive(Clone, Debug, Default)]
pub(super) struct Partitions {
    rows: Vector<Row>,
    slots: OrdMap<RowKey, Slot>,
}

/// A partition's topic and its number there.
type RowKey = (TopicNumber, PartitionId);

/// The brokers under their ids. A row names its leader by id.
pub(super) type Brokers = OrdMap<BrokerId, BrokerEntry>;

impl Partitions {
    pub(super) fn len(&self) -> usize {
        self.rows.len()
    }

    /// Whether no two have the same key.
    pub(super) fn are_distinct(&self) -> bool {
        self.slots.len() == self.rows.len()
    }

    pub(super) fn slot(&self, key: RowKey) -> Option<Slot> {
        self.slots.get(&key).copied()
    }

    /// What stands at a slot that was given out.
    pub(super) fn row(&self, slot: Slot) -> &Row {
        &self.rows[slot.index()]
    }

    /// Whether what stands at a slot changed then for the last time.
    pub(super) fn is_latest(&self, (stamp, slot): &(Timestamp, Slot)) -> bool {
        self.row(*slot).stamp == *stamp
    }

    /// The slots of partitions of `topics`, in the order of these.
    pub(super) fn slots(
        &self,
        topics: impl Iterator<Item = TopicNumber>,
    ) -> impl Iterator<Item = Slot> {
        topics.flat_map(|topic| slots_of(&self.slots, topic))
    }

    /// As [`slots`](Self::slots), topic by topic. Owns what it needs.
    pub(super) fn into_slots(
        self,
        topics: impl Iterator<Item = TopicNumber>,
    ) -> impl Iterator<Item = Vec<Slot>> {
        topics.map(move |topic| slots_of(&self.slots, topic).collect())
    }

    /// The rows, in the order of their slots.
    pub(super) fn rows(&self) -> impl Iterator<Item = (Slot, &Row)> {
        self.rows.iter().enumerate().map(|(index, row)| (Slot::new(index), row))
    }

    /// Adds a partition that is not there yet.
    pub(super) fn push(&mut self, row: Row) -> Slot {
        let slot = Slot::new(self.rows.len());
        let previous = self.slots.insert(row.key(), slot);
        assert!(previous.is_none(), "there are two partitions {:?}", row.key());
        self.rows.push_back(row);
        slot
    }

    /// Puts a row in the place of what it was before.
    pub(super) fn set(&mut self, slot: Slot, row: Row) {
        assert_eq!(self.row(slot).key(), row.key(), "a partition becomes another");
        self.rows.set(slot.index(), row);
    }
}

/// From rows in the order of their slots. If two have the same key, one is not found again.
impl FromIterator<Row> for Partitions {
    fn from_iter<I: IntoIterator<Item = Row>>(rows: I) -> Self {
        let rows: Vector<_> = rows.into_iter().collect();
        let mut slots: Vec<_> =
            rows.iter().enumerate().map(|(index, row)| (row.key(), Slot::new(index))).collect();
        slots.sort_unstable();
        Self { slots: packed::map(slots.into_iter()), rows }
    }
}

/// The slots of a topic's partitions, in the order of these.
fn slots_of(slots: &OrdMap<RowKey, Slot>, topic: TopicNumber) -> impl Iterator<Item = Slot> {
    slots.range((topic, PartitionId::MIN)..=(topic, PartitionId::MAX)).map(|(_, slot)| *slot)
}

/// A partition.
#[derive(Clone, Debug)]
pub(super) struct Row {
    topic: TopicNumber,
    stamp: Timestamp,
    epoch: Epoch,
    placement: Placement,
    partition_id: PartitionId,
}

/// The most replicas that a usual partition has.
const USUAL_REPLICAS_MAX: usize = 5;

#[derive(Clone, Debug)]
enum Placement {
    /// Few replicas, the ISR in their order, and no reassignment going on.
    Usual {
        /// How many of `ids` count.
        replicas: u8,
        /// A bit for each replica, the first one's is the lowest.
        in_sync: u8,
        /// The leader's place among the replicas, counted from one.
        leader: Option<NonZeroU8>,
        ids: [BrokerId; USUAL_REPLICAS_MAX],
    },
    Unusual(Arc<Unusual>),
}

#[derive(Debug)]
struct Unusual {
    replicas: Vec<BrokerId>,
    isr: Vec<BrokerId>,
    removing: Vec<BrokerId>,
    adding: Vec<BrokerId>,
    leader: Option<BrokerId>,
}

/// A row's lists, and its leader.
pub(super) struct Lists<'a> {
    pub(super) replicas: &'a [BrokerId],
    pub(super) isr: InSync<'a>,
    pub(super) removing: &'a [BrokerId],
    pub(super) adding: &'a [BrokerId],
    pub(super) leader: Option<BrokerId>,
}

/// The brokers that are in sync.
pub(super) enum InSync<'a> {
    /// The first so many.
    Few([BrokerId; USUAL_REPLICAS_MAX], usize),
    Listed(&'a [BrokerId]),
}

impl Deref for InSync<'_> {
    type Target = [BrokerId];

    fn deref(&self) -> &[BrokerId] {
        match self {
            Self::Few(ids, count) => &ids[..*count],
            Self::Listed(ids) => ids,
        }
    }
}

impl Row {
    /// A partition of `topic`, led by the broker with the id `leader`.
    pub(super) fn new(
        topic: TopicNumber,
        stamp: Timestamp,
        fields: &PartitionRecord,
        leader: Option<BrokerId>,
    ) -> Self {
        Self {
            topic,
            stamp,
            epoch: fields.partition_epoch,
            placement: Placement::new(fields, leader),
            partition_id: fields.partition_id,
        }
    }

    pub(super) const fn key(&self) -> RowKey {
        (self.topic, self.partition_id)
    }

    /// When it changed last.
    pub(super) const fn stamp(&self) -> Timestamp {
        self.stamp
    }

    pub(super) const fn epoch(&self) -> Epoch {
        self.epoch
    }

    pub(super) fn lists(&self) -> Lists<'_> {
        match &self.placement {
            Placement::Usual { replicas, in_sync, leader, ids } => {
                let (mut isr, mut count) = ([BrokerId::MIN; USUAL_REPLICAS_MAX], 0);
                for (place, id) in ids.iter().enumerate() {
                    if in_sync & bit(place) != 0 {
                        isr[count] = *id;
                        count += 1;
                    }
                }
                Lists {
                    replicas: &ids[..usize::from(*replicas)],
                    isr: InSync::Few(isr, count),
                    removing: &[],
                    adding: &[],
                    leader: leader.map(|place| ids[usize::from(place.get()) - 1]),
                }
            }
            Placement::Unusual(unusual) => {
                let Unusual { replicas, isr, removing, adding, leader } = &**unusual;
                Lists { replicas, isr: InSync::Listed(isr), removing, adding, leader: *leader }
            }
        }
    }

    /// The record. A leader is named by the UUID of its incarnation, and that is the latest one of its id: a broker
    /// that closes leads nothing.
    pub(super) fn record(&self, topics: &Topics, brokers: &Brokers) -> Stamped<PartitionRecord> {
        let Lists { replicas, isr, removing, adding, leader } = self.lists();
        let uuid = |id| brokers.get(&id).expect("a broker is never forgotten").fields.uuid;
        let fields = PartitionRecord {
            partition_id: self.partition_id,
            topic: topics[self.topic].fields.uuid,
            replicas: replicas.to_vec(),
            isr: isr.to_vec(),
            removing: removing.to_vec(),
            adding: adding.to_vec(),
            leader: leader.map(uuid),
            partition_epoch: self.epoch,
        };
        Stamped { timestamp: self.stamp, fields }
    }
}

/// The bit of a replica. There are at most eight.
const fn bit(place: usize) -> u8 {
    1 << place
}

impl Placement {
    fn new(fields: &PartitionRecord, leader: Option<BrokerId>) -> Self {
        Self::usual(fields, leader).unwrap_or_else(|| {
            let PartitionRecord { replicas, isr, removing, adding, .. } = fields.clone();
            Self::Unusual(Arc::new(Unusual { replicas, isr, removing, adding, leader }))
        })
    }

    /// Unless it is unusual.
    fn usual(fields: &PartitionRecord, leader: Option<BrokerId>) -> Option<Self> {
        let PartitionRecord { replicas, isr, removing, adding, .. } = fields;
        if !removing.is_empty() || !adding.is_empty() {
            return None;
        }
        let mut ids = [BrokerId::MIN; USUAL_REPLICAS_MAX];
        ids.get_mut(..replicas.len())?.copy_from_slice(replicas);
        let place = |id: &BrokerId| replicas.iter().position(|replica| replica == id);
        let mut in_sync = 0;
        for id in isr {
            let bit = bit(place(id)?);
            if bit <= in_sync {
                return None;
            }
            in_sync |= bit;
        }
        let leader = match &leader {
            Some(id) => Some(u8::try_from(place(id)?).ok()?),
            None => None,
        };
        let leader = leader.and_then(|place| NonZeroU8::MIN.checked_add(place));
        Some(Self::Usual { replicas: u8::try_from(replicas.len()).ok()?, in_sync, leader, ids })
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;
    use uuid::Uuid;

    use super::*;
    use crate::metadata::{
        BrokerStatus, RackId, RegisterBrokerRecord, SecurityProtocol, TopicRecord,
    };

    const TOPIC: Uuid = Uuid::from_u128(99);

    fn id(id: u32) -> BrokerId {
        BrokerId::try_from(id).unwrap()
    }

    fn brokers() -> Brokers {
        let broker = |number| RegisterBrokerRecord {
            uuid: Uuid::from_u128(number),
            broker_id: id(u32::try_from(number).unwrap()),
            broker_host: "h".parse().unwrap(),
            broker_port: "1".parse().unwrap(),
            security_protocol: SecurityProtocol::default(),
            broker_status: BrokerStatus::Alive,
            rack_id: RackId::default(),
            epoch: Epoch::ZERO,
        };
        let entry = |fields| Arc::new(Stamped { timestamp: Timestamp::ZERO, fields });
        (0..10).map(|n| (id(u32::try_from(n).unwrap()), entry(broker(n)))).collect()
    }

    /// Some of `ids`, in some order.
    fn some_of(ids: Vec<BrokerId>) -> impl Strategy<Value = Vec<BrokerId>> {
        let all = 0..=ids.len();
        proptest::sample::subsequence(ids, all).prop_shuffle()
    }

    fn fields() -> impl Strategy<Value = PartitionRecord> {
        some_of((0..10).map(id).collect()).prop_flat_map(|replicas| {
            let in_order = proptest::sample::subsequence(replicas.clone(), 0..=replicas.len());
            let isr = prop_oneof![in_order, some_of(replicas.clone())];
            let empty = Just(Vec::new());
            let few = prop_oneof![empty, some_of(replicas.clone())];
            let leader = any::<proptest::sample::Index>();
            (Just(replicas), isr, few.clone(), few, any::<bool>(), leader).prop_map(
                |(replicas, isr, removing, adding, led, leader)| PartitionRecord {
                    partition_id: PartitionId::MAX,
                    topic: TOPIC,
                    leader: (led && !isr.is_empty())
                        .then(|| Uuid::from_u128(leader.get(&isr).get().into())),
                    replicas,
                    isr,
                    removing,
                    adding,
                    partition_epoch: Epoch::ZERO.next(),
                },
            )
        })
    }

    #[test]
    fn a_row_is_small() {
        assert_eq!(size_of::<Row>(), 48);
    }

    proptest! {
        #[test]
        fn a_record_comes_back_from_its_row(fields in fields()) {
            let topic = TopicRecord { uuid: TOPIC, name: "t".parse().unwrap() };
            let topic = Arc::new(Stamped { timestamp: Timestamp::ZERO, fields: topic });
            let topics = Topics::of(vec![topic]);
            let stamp = Timestamp::from_micros(7);
            let leader = fields.leader.map(|uuid| id(u32::try_from(uuid.as_u128()).unwrap()));
            let row = Row::new(TopicNumber::new(0), stamp, &fields, leader);
            prop_assert_eq!(&*row.lists().isr, &*fields.isr);
            prop_assert_eq!(row.record(&topics, &brokers()), Stamped { timestamp: stamp, fields });
        }
    }
}
