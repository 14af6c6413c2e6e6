//! Layer 2, from one state to the next: what becomes of a partition when its brokers come and go.
//!
//! - A partition that has a leader keeps one as long as anybody is in sync.
//! - Nobody enters an ISR but into an empty one, and then only who was among the last to leave it: anybody
//!   else may lack what the partition holds (no unclean leader election, KIP-966).
//! - Its epoch goes up whenever it changes.
//!
//! Followed along the log by whichever node applies an entry first: that the others get the same state there is
//! [`state`](super::state)'s to check.

use std::collections::BTreeMap;

use uuid::Uuid;
use yakt::metadata::{BrokerId, PartitionId, PartitionRecord, Stamped, State};

type Key = (Uuid, PartitionId);

/// The partitions at the last index that any node has applied.
#[derive(Clone, Debug, Default)]
pub struct FailoverCheck {
    index: u64,
    partitions: BTreeMap<Key, Stamped<PartitionRecord>>,
    /// Who was in sync just before nobody was.
    last_in_sync: BTreeMap<Key, Vec<BrokerId>>,
}

type Checked = Result<(), String>;

impl FailoverCheck {
    /// Applying the entry at `index` led to `state`.
    ///
    /// # Errors
    ///
    /// What must not happen to a partition.
    pub fn applied(&mut self, index: u64, state: &State) -> Checked {
        if index <= self.index {
            return Ok(());
        }
        // With a gap (the log began with a snapshot) there is nothing to compare with.
        let follows = index == self.index + 1;
        self.index = index;
        for partition in state.partitions() {
            let key = (partition.fields.topic, partition.fields.partition_id);
            let before = self.partitions.get(&key);
            if before.is_some_and(|before| before.timestamp == partition.timestamp) {
                continue;
            }
            if let Some(before) = before {
                let (before, after) = (&before.fields, &partition.fields);
                if follows {
                    let last = self.last_in_sync.get(&key).map(Vec::as_slice);
                    step(before, after, last)
                        .map_err(|what| format!("partition {key:?} at index {index}: {what}"))?;
                }
                if after.isr.is_empty() && !before.isr.is_empty() {
                    self.last_in_sync.insert(key, before.isr.clone());
                }
            }
            self.partitions.insert(key, partition);
        }
        Ok(())
    }
}

fn step(before: &PartitionRecord, after: &PartitionRecord, last: Option<&[BrokerId]>) -> Checked {
    if before.leader.is_some() && after.leader.is_none() && !after.isr.is_empty() {
        return Err(format!("its leader is gone, and none of {:?} leads now", after.isr));
    }
    let may_enter =
        if before.isr.is_empty() { last.unwrap_or(&after.replicas) } else { &before.isr };
    if let Some(stranger) = after.isr.iter().find(|id| !may_enter.contains(id)) {
        return Err(format!("broker {stranger} is in sync now; of {may_enter:?} it could be said"));
    }
    // A broker that comes back as another incarnation leaves and returns in one step.
    if after.partition_epoch <= before.partition_epoch {
        return Err(format!(
            "it changed, and its epoch goes from {} to {}",
            before.partition_epoch, after.partition_epoch
        ));
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use yakt::metadata::{
        BrokerStatus, Change, Command, CreatePartition, CreateTopic, Epoch, LeaderChoice, RackId,
        RegisterBroker, SecurityProtocol, Timestamp, UpdateBroker,
    };

    use super::*;

    const TOPIC: Uuid = Uuid::from_u128(9);

    fn id(id: u32) -> BrokerId {
        BrokerId::try_from(id).unwrap()
    }

    fn partition(leader: Option<u128>, isr: &[u32], epoch: Epoch) -> PartitionRecord {
        PartitionRecord {
            partition_id: PartitionId::try_from(0).unwrap(),
            topic: TOPIC,
            replicas: vec![id(1), id(2), id(3)],
            isr: isr.iter().copied().map(id).collect(),
            removing: Vec::new(),
            adding: Vec::new(),
            leader: leader.map(Uuid::from_u128),
            partition_epoch: epoch,
        }
    }

    /// The first two epochs.
    fn epochs() -> (Epoch, Epoch) {
        (Epoch::ZERO, Epoch::try_from(1).unwrap())
    }

    #[test]
    fn a_partition_without_a_leader_but_with_replicas_in_sync_is_caught() {
        let (first, second) = epochs();
        let before = partition(Some(1), &[1, 2], first);
        assert_eq!(step(&before, &partition(Some(2), &[2], second), None), Ok(()));
        assert_eq!(step(&before, &partition(None, &[], second), None), Ok(()));
        let broken = step(&before, &partition(None, &[2], second), None);
        assert!(broken.unwrap_err().contains("none of"));
    }

    #[test]
    fn an_unclean_leader_is_caught() {
        let (first, second) = epochs();
        let empty = partition(None, &[], first);
        let last = [id(2)];
        assert_eq!(step(&empty, &partition(Some(2), &[2], second), Some(&last)), Ok(()));
        let broken = step(&empty, &partition(Some(1), &[1], second), Some(&last));
        assert!(broken.unwrap_err().contains("broker 1 is in sync"));
        let before = partition(Some(2), &[2], first);
        let broken = step(&before, &partition(Some(2), &[2, 3], second), None);
        assert!(broken.unwrap_err().contains("broker 3 is in sync"));
    }

    #[test]
    fn an_epoch_that_stands_still_is_caught() {
        let (first, second) = epochs();
        let before = partition(Some(1), &[1, 2], second);
        for epoch in [first, second] {
            let broken = step(&before, &partition(Some(2), &[2], epoch), None);
            assert!(broken.unwrap_err().contains("epoch"));
        }
    }

    /// Applies `change` as the next entry, and shows it to `check` as that at `index`.
    fn apply(state: &mut State, check: &mut FailoverCheck, index: u64, change: Change) -> Checked {
        let command = Command { clock: Timestamp::ZERO, idempotency: None, change };
        state.apply(&command).outcome.unwrap();
        check.applied(index, state)
    }

    fn register(broker: u32) -> Change {
        Change::RegisterBroker(RegisterBroker {
            uuid: Uuid::from_u128(broker.into()),
            broker_id: id(broker),
            host: "host".parse().unwrap(),
            port: "1".parse().unwrap(),
            security_protocol: SecurityProtocol::default(),
            rack_id: RackId::default(),
        })
    }

    fn set(broker: u32, status: BrokerStatus) -> Change {
        Change::UpdateBroker(UpdateBroker {
            broker: id(broker).into(),
            host: None,
            port: None,
            security_protocol: None,
            status: Some(status),
            epoch: None,
        })
    }

    #[test]
    fn states_are_followed_along_the_log() {
        let (mut state, mut check) = (State::new(), FailoverCheck::default());
        let history = [
            register(1),
            register(2),
            Change::CreateTopic(CreateTopic { uuid: TOPIC, name: "t".parse().unwrap() }),
            Change::CreatePartition(CreatePartition {
                topic: TOPIC,
                partition_id: PartitionId::try_from(0).unwrap(),
                replicas: vec![id(1).into(), id(2).into()],
                isr: None,
                removing: vec![],
                adding: vec![],
                leader: LeaderChoice::Preferred,
            }),
            set(1, BrokerStatus::Fenced),
            set(1, BrokerStatus::Alive),
            set(2, BrokerStatus::Fenced),
            set(2, BrokerStatus::Alive),
        ];
        for (index, change) in (1..).zip(history) {
            assert_eq!(apply(&mut state, &mut check, index, change), Ok(()), "at {index}");
        }
        assert_eq!(check.last_in_sync.values().next(), Some(&vec![id(2)]));

        // A checker that believed broker 1 to be the last in sync finds fault with the same history.
        check.last_in_sync.values_mut().for_each(|last| *last = vec![id(1)]);
        apply(&mut state, &mut check, 9, set(2, BrokerStatus::Fenced)).unwrap();
        check.last_in_sync.values_mut().for_each(|last| *last = vec![id(1)]);
        let broken = apply(&mut state, &mut check, 10, set(2, BrokerStatus::Alive));
        assert!(broken.unwrap_err().contains("broker 2 is in sync"));
    }
}
