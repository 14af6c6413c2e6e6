//! Partitions: who holds them, who is in sync, who leads.
//!
//! A fenced or closed broker leaves every ISR and leads nothing; the next leader is the first replica,
//! in replica order, that is still in the ISR (KRaft's preferred order).
//!
//! A broker that leaves as the last of an ISR is *awaited*: only it is known to hold everything, so when
//! exactly that broker may lead again, it becomes the ISR and the leader ("last known ELR" in
//! KIP-966). The broker is meant by its id, since the id names the disks the replica is on, and a
//! restart is a new incarnation of it. A partition created while all its replicas are fenced holds
//! nothing yet, so it awaits its first replica.
//!
//! Nothing else re-enters an ISR. In Kafka a replica catches up and its leader then asks for it with
//! `AlterPartition`, for which the ten endpoints have no call.

use uuid::Uuid;

use super::placements::{Row, Slot};
use super::topics::TopicNumber;
use super::{PartitionKey, State};
use crate::metadata::limits::REPLICAS_MAX;
use crate::metadata::{
    BrokerId, BrokerRef, CreatePartition, Epoch, LeaderChoice, PartitionId, PartitionRecord,
    Record, Rejection, RejectionCode, Stamped, Timestamp,
};

impl State {
    pub(super) fn create_partition(
        &mut self,
        stamp: Timestamp,
        change: &CreatePartition,
    ) -> Result<Record, Rejection> {
        let key = (change.topic, change.partition_id);
        let Some(topic) = self.topics.number(&change.topic) else {
            let message = format!("there is no topic {}", change.topic);
            return Err(Rejection::new(RejectionCode::UnknownTopic, message));
        };
        if self.partitions.slot((topic, change.partition_id)).is_some() {
            let message = format!("the topic has a partition {} already", change.partition_id);
            return Err(Rejection::new(RejectionCode::DuplicatePartition, message));
        }
        let replicas =
            self.distinct(&change.replicas, RejectionCode::InvalidReplicas, "replicas")?;
        let isr = match &change.isr {
            Some(isr) => self.given_isr(isr, &replicas)?,
            None => replicas.iter().copied().filter(|id| self.may_lead(*id)).collect(),
        };
        let leader = self.chosen_leader(change.leader, &replicas, &isr)?;
        let fields = PartitionRecord {
            partition_id: change.partition_id,
            topic: change.topic,
            removing: self.reassigned(&change.removing, &replicas, "removing replicas")?,
            adding: self.reassigned(&change.adding, &replicas, "adding replicas")?,
            replicas,
            isr,
            leader,
            partition_epoch: Epoch::ZERO,
        };
        if change.isr.is_none()
            && fields.isr.is_empty()
            && let Some(first) = fields.replicas.first()
        {
            self.awaited.insert((*first, key));
        }
        let row = self.row(topic, stamp, &fields);
        let slot = self.partitions.push(row);
        self.index.partition_changed(slot, &self.partitions);
        for id in &fields.isr {
            self.index.entered_isr(*id, slot);
        }
        Ok(Stamped { timestamp: stamp, fields }.into())
    }

    /// Takes a broker that was fenced or closed out of every ISR.
    pub(super) fn leave_partitions(&mut self, stamp: Timestamp, id: BrokerId, uuid: Uuid) {
        for slot in self.index.leave_isrs(id) {
            let mut next = self.partition(slot).fields;
            next.isr.retain(|in_sync| *in_sync != id);
            if next.leader == Some(uuid) {
                next.leader = self.preferred_leader(&next.replicas, &next.isr);
            }
            if next.isr.is_empty() {
                self.awaited.insert((id, self.key(slot)));
            }
            next.partition_epoch = next.partition_epoch.next();
            self.change_partition(stamp, slot, &next);
        }
    }

    /// Makes a broker that may lead again the leader wherever it was the last in sync.
    pub(super) fn lead_awaiting_partitions(&mut self, stamp: Timestamp, id: BrokerId) {
        for (slot, key) in self.partitions_awaiting(id) {
            self.awaited.remove(&(id, key));
            let mut next = self.partition(slot).fields;
            next.isr = vec![id];
            next.leader = self.preferred_leader(&next.replicas, &next.isr);
            next.partition_epoch = next.partition_epoch.next();
            self.change_partition(stamp, slot, &next);
            self.index.entered_isr(id, slot);
        }
    }

    /// In the order of their slots.
    fn partitions_awaiting(&self, broker: BrokerId) -> Vec<(Slot, PartitionKey)> {
        let first = (broker, (Uuid::nil(), PartitionId::MIN));
        let last = (broker, (Uuid::max(), PartitionId::MAX));
        let keys = self.awaited.range(first..=last).map(|(_, key)| *key);
        let mut awaiting: Vec<_> = keys.filter_map(|key| Some((self.slot(&key)?, key))).collect();
        awaiting.sort_unstable();
        awaiting
    }

    /// Where a partition stands, if there is one of that key.
    pub(super) fn slot(&self, key: &PartitionKey) -> Option<Slot> {
        let (topic, partition_id) = key;
        self.partitions.slot((self.topics.number(topic)?, *partition_id))
    }

    /// The key of the partition that stands there.
    pub(super) fn key(&self, slot: Slot) -> PartitionKey {
        let (topic, partition_id) = self.partitions.row(slot).key();
        (self.topics[topic].fields.uuid, partition_id)
    }

    /// The record of a partition.
    pub(super) fn partition(&self, slot: Slot) -> Stamped<PartitionRecord> {
        self.partitions.row(slot).record(&self.topics, &self.brokers)
    }

    fn change_partition(&mut self, stamp: Timestamp, slot: Slot, next: &PartitionRecord) {
        let previous = self.partitions.row(slot);
        let (topic, key) = (previous.key().0, self.key(slot));
        let (epoch, changed) = (previous.epoch(), previous.stamp());
        assert!(next.partition_epoch >= epoch, "{key:?}: the epoch fell from {epoch}");
        assert!(stamp > changed, "{key:?} changed at {stamp}, before {changed}");
        let row = self.row(topic, stamp, next);
        self.partitions.set(slot, row);
        self.index.partition_changed(slot, &self.partitions);
    }

    /// What is held of a partition. Asserts the cheap invariants.
    fn row(&self, topic: TopicNumber, stamp: Timestamp, fields: &PartitionRecord) -> Row {
        for id in &fields.isr {
            assert!(fields.replicas.contains(id), "{fields:?}: {id} is in sync, but no replica");
            assert!(self.may_lead(*id), "{fields:?}: {id} is in sync, but fenced");
        }
        let leader = fields.leader.map(|uuid| {
            let id = self.index.broker_ids.get(&uuid).filter(|id| fields.isr.contains(id));
            *id.unwrap_or_else(|| panic!("{fields:?}: its leader is not in sync"))
        });
        Row::new(topic, stamp, fields, leader)
    }

    /// Whether the latest incarnation of an id may be in an ISR.
    pub(super) fn may_lead(&self, id: BrokerId) -> bool {
        self.brokers.get(&id).is_some_and(|broker| broker.fields.broker_status.may_lead())
    }

    /// The first in-sync replica.
    fn preferred_leader(&self, replicas: &[BrokerId], isr: &[BrokerId]) -> Option<Uuid> {
        let id = replicas.iter().find(|id| isr.contains(id))?;
        self.brokers.get(id).map(|broker| broker.fields.uuid)
    }

    /// The ids of live, distinct brokers, or why they are not.
    fn distinct(
        &self,
        brokers: &[BrokerRef],
        code: RejectionCode,
        what: &str,
    ) -> Result<Vec<BrokerId>, Rejection> {
        if brokers.len() > REPLICAS_MAX {
            let message = format!("there may be at most {REPLICAS_MAX} {what}");
            return Err(Rejection::new(code, message));
        }
        let mut ids = Vec::with_capacity(brokers.len());
        for broker in brokers {
            let id = self.live_broker(broker)?.fields.broker_id;
            if ids.contains(&id) {
                let message = format!("broker {broker} stands twice in the {what}");
                return Err(Rejection::new(code, message));
            }
            ids.push(id);
        }
        Ok(ids)
    }

    /// As [`distinct`](Self::distinct), and among the replicas.
    fn among(
        &self,
        replicas: &[BrokerId],
        brokers: &[BrokerRef],
        code: RejectionCode,
        what: &str,
    ) -> Result<Vec<BrokerId>, Rejection> {
        let ids = self.distinct(brokers, code, what)?;
        if let Some(id) = ids.iter().find(|id| !replicas.contains(id)) {
            let message = format!("broker {id} of the {what} is no replica");
            return Err(Rejection::new(code, message));
        }
        Ok(ids)
    }

    fn given_isr(
        &self,
        isr: &[BrokerRef],
        replicas: &[BrokerId],
    ) -> Result<Vec<BrokerId>, Rejection> {
        let isr = self.among(replicas, isr, RejectionCode::InvalidIsr, "ISR")?;
        if let Some(id) = isr.iter().find(|id| !self.may_lead(**id)) {
            let message = format!("broker {id} is fenced and cannot be in sync");
            return Err(Rejection::new(RejectionCode::BrokerFenced, message));
        }
        Ok(isr)
    }

    fn reassigned(
        &self,
        brokers: &[BrokerRef],
        replicas: &[BrokerId],
        what: &str,
    ) -> Result<Vec<BrokerId>, Rejection> {
        self.among(replicas, brokers, RejectionCode::InvalidReassignment, what)
    }

    fn chosen_leader(
        &self,
        choice: LeaderChoice,
        replicas: &[BrokerId],
        isr: &[BrokerId],
    ) -> Result<Option<Uuid>, Rejection> {
        match choice {
            LeaderChoice::Preferred => Ok(self.preferred_leader(replicas, isr)),
            LeaderChoice::Nobody => Ok(None),
            LeaderChoice::Broker(broker) => {
                let leader = self.live_broker(&broker)?;
                if !isr.contains(&leader.fields.broker_id) {
                    let message = format!("broker {broker} is not in sync and cannot lead");
                    return Err(Rejection::new(RejectionCode::InvalidLeader, message));
                }
                Ok(Some(leader.fields.uuid))
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::metadata::{
        BrokerStatus, Change, Command, CreateTopic, RackId, RegisterBroker, SecurityProtocol,
        UpdateBroker,
    };

    const TOPIC: Uuid = Uuid::from_u128(99);

    fn id(id: u32) -> BrokerId {
        BrokerId::try_from(id).unwrap()
    }

    fn apply(state: &mut State, change: Change) {
        let command = Command { clock: Timestamp::ZERO, idempotency: None, change };
        state.apply(&command).outcome.unwrap();
        state.check_invariants().unwrap();
    }

    fn register(state: &mut State, broker: u32, uuid: u128) {
        let change = RegisterBroker {
            uuid: Uuid::from_u128(uuid),
            broker_id: id(broker),
            host: "host".parse().unwrap(),
            port: "1".parse().unwrap(),
            security_protocol: SecurityProtocol::default(),
            rack_id: RackId::default(),
        };
        apply(state, Change::RegisterBroker(change));
    }

    fn set(state: &mut State, broker: u32, status: BrokerStatus) {
        let change = UpdateBroker {
            broker: id(broker).into(),
            host: None,
            port: None,
            security_protocol: None,
            status: Some(status),
            epoch: None,
        };
        apply(state, Change::UpdateBroker(change));
    }

    /// A partition on the brokers 2 and 1, in this order.
    fn placed() -> State {
        let mut state = State::new();
        register(&mut state, 1, 1);
        register(&mut state, 2, 2);
        apply(
            &mut state,
            Change::CreateTopic(CreateTopic { uuid: TOPIC, name: "t".parse().unwrap() }),
        );
        create(&mut state, 0);
        state
    }

    fn create(state: &mut State, partition: u32) {
        let change = CreatePartition {
            topic: TOPIC,
            partition_id: PartitionId::try_from(partition).unwrap(),
            replicas: vec![id(2).into(), id(1).into()],
            isr: None,
            removing: vec![],
            adding: vec![],
            leader: LeaderChoice::Preferred,
        };
        apply(state, Change::CreatePartition(change));
    }

    /// The last partition's ISR, leader and epoch.
    fn seen(state: &State) -> (Vec<u32>, Option<u128>, u64) {
        let fields = state.partitions().last().unwrap().fields;
        let isr = fields.isr.iter().map(|id| id.get()).collect();
        (isr, fields.leader.map(|leader| leader.as_u128()), fields.partition_epoch.get())
    }

    #[test]
    fn a_fenced_broker_leads_nothing_and_does_not_return_by_itself() {
        let mut state = placed();
        assert_eq!(seen(&state), (vec![2, 1], Some(2), 0));
        set(&mut state, 2, BrokerStatus::Fenced);
        assert_eq!(seen(&state), (vec![1], Some(1), 1));
        set(&mut state, 2, BrokerStatus::Alive);
        assert_eq!(seen(&state), (vec![1], Some(1), 1));
    }

    #[test]
    fn exactly_the_broker_that_left_last_leads_again() {
        let mut state = placed();
        set(&mut state, 2, BrokerStatus::Fenced);
        set(&mut state, 1, BrokerStatus::Fenced);
        assert_eq!(seen(&state), (vec![], None, 2));
        set(&mut state, 2, BrokerStatus::Alive);
        assert_eq!(seen(&state), (vec![], None, 2));
        set(&mut state, 1, BrokerStatus::Unfenced);
        assert_eq!(seen(&state), (vec![1], Some(1), 3));
    }

    #[test]
    fn a_closed_broker_that_left_last_leads_again_as_its_next_incarnation() {
        let mut state = placed();
        set(&mut state, 2, BrokerStatus::Closed);
        set(&mut state, 1, BrokerStatus::Closed);
        register(&mut state, 1, 11);
        assert_eq!(seen(&state), (vec![1], Some(11), 3));
        assert_eq!(state.broker(&id(1).into()).unwrap().fields.epoch.get(), 2);
    }

    /// Such a partition would never get a leader again. (Found by a property test of damaged
    /// snapshots, once the invariant was checked at all.)
    #[test]
    fn a_snapshot_in_which_a_lost_partition_awaits_no_broker_is_refused() {
        let mut state = placed();
        set(&mut state, 2, BrokerStatus::Fenced);
        set(&mut state, 1, BrokerStatus::Fenced);
        assert!(State::decode(&state.encode()).is_ok());
        state.awaited.clear();
        assert!(State::decode(&state.encode()).is_err());
    }

    #[test]
    fn a_partition_born_without_an_isr_awaits_its_first_replica() {
        let mut state = placed();
        set(&mut state, 1, BrokerStatus::Fenced);
        set(&mut state, 2, BrokerStatus::Fenced);
        create(&mut state, 1);
        assert_eq!(seen(&state), (vec![], None, 0));
        set(&mut state, 1, BrokerStatus::Alive);
        assert_eq!(seen(&state), (vec![], None, 0));
        set(&mut state, 2, BrokerStatus::Alive);
        assert_eq!(seen(&state), (vec![2], Some(2), 1));
    }
}
