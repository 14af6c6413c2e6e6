//! Everything that must hold between two commands, checked from scratch.
//!
//! For tests, the simulator and snapshots that come from outside; too slow for every command. Two
//! invariants of [`State`] relate states to each other (epochs grow, stamps increase) and are asserted
//! while a command is applied.

use std::collections::{BTreeMap, BTreeSet};

use uuid::Uuid;

use super::State;
use super::index::Index;
use crate::metadata::limits::{ID_MAX, IDEMPOTENCY_ENTRIES_MAX, REPLICAS_MAX, STAMP_MAX_MICROS};
use crate::metadata::{
    BrokerId, BrokerStatus, Epoch, PartitionRecord, Record, RegisterBrokerRecord, Stamped,
    Timestamp, TopicRecord,
};

type Check = Result<(), String>;

/// Fails with the message unless the condition holds.
macro_rules! ensure {
    ($condition:expr, $($message:tt)+) => {
        if !$condition {
            return Err(format!($($message)+));
        }
    };
}

impl State {
    /// Checks every invariant that can be seen in one state.
    ///
    /// # Errors
    ///
    /// A description of the first one that is broken.
    pub fn check_invariants(&self) -> Result<(), String> {
        self.check_all_but_partitions()?;
        for partition in self.partitions() {
            self.check_partition(&partition)?;
        }
        let index = self.index.clone().tidied(&self.partitions);
        ensure!(Index::rebuild(self) == index, "the index does not belong to the state");
        self.check_places()
    }

    /// Checks everything but the records of partitions and the index. Decoding a snapshot does
    /// this.
    pub(super) fn check_all_but_partitions(&self) -> Check {
        ensure!(
            self.last_stamp.micros() <= STAMP_MAX_MICROS,
            "cluster time {} is beyond the limit",
            self.last_stamp
        );
        self.history.check(self.last_stamp)?;
        self.check_brokers()?;
        self.check_registration_changes()?;
        self.check_topics()?;
        self.check_creation()?;
        self.check_awaited()?;
        self.check_leaderless()?;
        self.check_producers()?;
        self.check_outcomes()
    }

    fn check_stamp(&self, what: &str, stamp: Timestamp) -> Check {
        ensure!(stamp <= self.last_stamp, "{what} is of {stamp}, which is yet to come");
        ensure!(stamp > Timestamp::ZERO, "{what} is older than the first command");
        Ok(())
    }

    fn check_brokers(&self) -> Check {
        let mut uuids = BTreeSet::new();
        for broker in self.all_brokers() {
            let RegisterBrokerRecord { uuid, broker_id, broker_status, .. } = &broker.fields;
            self.check_stamp("a broker", broker.timestamp)?;
            ensure!(uuids.insert(*uuid), "two brokers are {uuid}");
            ensure!(*broker_status != BrokerStatus::Init, "broker {broker_id} is INIT");
        }
        let mut epochs = BTreeSet::new();
        for former in self.former_brokers.values() {
            let RegisterBrokerRecord { uuid, broker_id, broker_status, epoch, .. } = former.fields;
            ensure!(broker_status == BrokerStatus::Closed, "{uuid} was replaced while live");
            ensure!(epochs.insert((broker_id, epoch)), "two brokers {broker_id} were at {epoch}");
            let Some(latest) = self.brokers.get(&broker_id) else {
                return Err(format!("{uuid} was replaced by nothing"));
            };
            ensure!(epoch < latest.fields.epoch, "the epoch of broker {broker_id} fell");
            ensure!(former.timestamp < latest.timestamp, "{uuid} closed after its successor came");
        }
        Ok(())
    }

    fn check_registration_changes(&self) -> Check {
        let mut last = Timestamp::ZERO;
        let mut latest = BTreeMap::<Uuid, _>::new();
        for change in &self.registration_changes {
            self.check_stamp("a registration change", change.timestamp)?;
            ensure!(change.timestamp > last, "registration changes are out of order");
            last = change.timestamp;
            let previous = latest.insert(change.fields.broker, change);
            ensure!(
                previous.is_none_or(|previous| previous.fields.epoch < change.fields.epoch),
                "the epoch of {} fell",
                change.fields.broker
            );
        }
        for (uuid, change) in latest {
            let Some(broker) = self.broker(&uuid.into()) else {
                return Err(format!("a registration change is of an unknown broker {uuid}"));
            };
            let same = broker.timestamp == change.timestamp
                && broker.fields.epoch == change.fields.epoch
                && broker.fields.broker_status == change.fields.broker_status;
            ensure!(same, "broker {uuid} is not what its last change made of it");
        }
        Ok(())
    }

    fn check_topics(&self) -> Check {
        let mut last = Timestamp::ZERO;
        for topic in self.topics.created() {
            self.check_stamp("a topic", topic.timestamp)?;
            ensure!(topic.timestamp > last, "topics are out of order");
            last = topic.timestamp;
        }
        ensure!(self.topics.are_distinct(), "two topics have the same UUID or name");
        Ok(())
    }

    /// Partitions stand in the order in which they were created, as far as that can be seen: one that never changed is of
    /// the time of its creation, and the others are younger than those before them were then. And none is older than its
    /// topic.
    fn check_creation(&self) -> Check {
        ensure!(self.partitions.are_distinct(), "two partitions have the same number");
        let mut created = Timestamp::ZERO;
        for (_, row) in self.partitions.rows() {
            let ((topic, _), stamp) = (row.key(), row.stamp());
            let Some(topic) = self.topics.get(topic) else {
                return Err("a partition has no topic".to_owned());
            };
            ensure!(stamp > topic.timestamp, "a partition is older than its topic");
            ensure!(stamp > created, "partitions are out of order");
            if row.epoch() == Epoch::ZERO {
                created = stamp;
            }
        }
        Ok(())
    }

    /// A partition that is of this state, or is to be; who leads it.
    pub(super) fn check_partition(
        &self,
        partition: &Stamped<PartitionRecord>,
    ) -> Result<Option<BrokerId>, String> {
        self.check_stamp("a partition", partition.timestamp)?;
        let PartitionRecord { topic, partition_id, .. } = &partition.fields;
        let placed = self.check_placement(&partition.fields);
        placed.map_err(|e| format!("partition {partition_id} of topic {topic}: {e}"))
    }

    /// Topics and partitions are where they are looked for.
    fn check_places(&self) -> Check {
        for topic in self.topics.created() {
            let TopicRecord { uuid, name } = &topic.fields;
            let found = self.topics.number(uuid).and_then(|number| self.topics.get(number));
            ensure!(found == Some(topic), "topic {uuid} is looked for elsewhere");
            let found = self.topics.named(name.as_str());
            ensure!(found == Some(topic), "topic {name} is looked for elsewhere");
        }
        for (slot, row) in self.partitions.rows() {
            let (key, found) = (row.key(), self.partitions.slot(row.key()));
            ensure!(found == Some(slot), "{key:?} is looked for at {found:?}, and is at {slot:?}");
        }
        Ok(())
    }

    fn check_placement(&self, partition: &PartitionRecord) -> Result<Option<BrokerId>, String> {
        let PartitionRecord { replicas, isr, removing, adding, leader, .. } = partition;
        ensure!(replicas.len() <= REPLICAS_MAX, "it has {} replicas", replicas.len());
        check_distinct(replicas)?;
        for some in [isr, removing, adding] {
            ensure!(some.len() <= replicas.len(), "{} of its replicas", some.len());
            check_distinct(some)?;
            let among = some.iter().all(|id| replicas.contains(id));
            ensure!(among, "{some:?} is not among its replicas");
        }
        let mut leader_id = None;
        for id in replicas {
            let broker = self.brokers.get(id);
            let Some(broker) = broker else { return Err(format!("its replica {id} is unknown")) };
            if isr.contains(id) {
                let may_lead = broker.fields.broker_status.may_lead();
                ensure!(may_lead, "broker {id} is in sync, but fenced or closed");
                leader_id = leader_id.or((*leader == Some(broker.fields.uuid)).then_some(*id));
            }
        }
        if let (Some(leader), None) = (leader, leader_id) {
            return Err(format!("its leader {leader} is not in sync"));
        }
        Ok(leader_id)
    }

    fn check_awaited(&self) -> Check {
        let mut keys = BTreeSet::new();
        for (id, key) in &self.awaited {
            ensure!(keys.insert(key), "partition {key:?} awaits two brokers");
            ensure!(!self.may_lead(*id), "partition {key:?} awaits broker {id}, which is there");
            let Some(slot) = self.slot(key) else {
                return Err(format!("broker {id} is awaited by no partition, {key:?}"));
            };
            let partition = self.partition(slot);
            ensure!(partition.fields.isr.is_empty(), "partition {key:?} awaits, yet has an ISR");
            ensure!(partition.fields.replicas.contains(id), "{key:?} awaits a stranger, {id}");
        }
        Ok(())
    }

    /// A partition whose ISR became empty awaits a broker; otherwise it never gets a leader again.
    /// A partition that was created with an empty ISR holds nothing, and may await no broker.
    fn check_leaderless(&self) -> Check {
        let awaiting: BTreeSet<_> = self.awaited.iter().map(|(_, key)| key).collect();
        for (slot, row) in self.partitions.rows() {
            let was_in_sync = row.epoch() != Epoch::ZERO;
            if was_in_sync && row.lists().isr.is_empty() {
                let key = self.key(slot);
                ensure!(
                    awaiting.contains(&key),
                    "partition {key:?} has no ISR, and awaits no broker"
                );
            }
        }
        Ok(())
    }

    fn check_producers(&self) -> Check {
        ensure!(self.producer_id_next <= ID_MAX + 1, "the producer id counter ran away");
        let passed = self.producers.keys().filter(|id| id.get() < self.producer_id_next).count();
        ensure!(
            u32::try_from(passed) == Ok(self.producer_id_next),
            "a producer id below {} is free",
            self.producer_id_next
        );
        for (id, producer) in &self.producers {
            self.check_stamp("a producer", producer.timestamp)?;
            let Some(broker) = self.broker(&producer.fields.broker.into()) else {
                return Err(format!("producer {id} has no broker"));
            };
            let epoch = producer.fields.broker_epoch;
            ensure!(epoch <= broker.fields.epoch, "producer {id} is ahead of its broker's epoch");
        }
        Ok(())
    }

    fn check_outcomes(&self) -> Check {
        let (stamped, keyed) = self.outcomes.lens();
        ensure!(stamped == keyed, "{stamped} outcomes have {keyed} keys");
        ensure!(stamped <= IDEMPOTENCY_ENTRIES_MAX, "{stamped} outcomes are remembered");
        for entry in self.outcomes.iter() {
            self.check_stamp("an outcome", entry.stamp)?;
            if let Ok(Some(record)) = &entry.outcome {
                ensure!(Record::timestamp(record) == entry.stamp, "an outcome is another's");
            }
        }
        Ok(())
    }
}

/// Without a set: a million lists are checked in which there are three.
fn check_distinct(ids: &[BrokerId]) -> Check {
    let repeated = ids.iter().enumerate().any(|(n, id)| ids[..n].contains(id));
    ensure!(!repeated, "{ids:?} repeats a broker");
    Ok(())
}
