//! What a leader proposes and every node applies.
//!
//! A command carries everything that could differ between nodes: the proposer's clock reading and the
//! ids it drew. Applying it is then a pure function. Commands are stored in the log (postcard); the
//! HTTP layer builds them from request bodies of its own.

use serde::{Deserialize, Serialize};
use uuid::Uuid;

use super::limits::IDEMPOTENCY_KEY_BYTES_MAX;
use super::{
    BrokerId, BrokerRef, BrokerStatus, Epoch, Host, InvalidValue, PartitionId, Port, ProducerId,
    RackId, SecurityProtocol, Timestamp, TopicName,
};

/// One entry of the replicated log, as far as the metadata is concerned.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Command {
    /// The proposing leader's clock. Only a wish: the stamp is what
    /// [`State::apply`](super::State::apply) makes of it.
    pub clock: Timestamp,
    /// Makes a retry of this command harmless.
    pub idempotency: Option<IdempotencyKey>,
    /// What to do.
    pub change: Change,
}

/// The client's name for one intended change, and what that change was.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(try_from = "(String, u64)", into = "(String, u64)")]
pub struct IdempotencyKey {
    key: String,
    fingerprint: u64,
}

impl IdempotencyKey {
    /// A key of 1 to 255 bytes without control characters, and a hash of the request it was sent with:
    /// the same key with another request is a client's mistake that must not be answered with the
    /// first request's record.
    ///
    /// # Errors
    ///
    /// When the key is empty, too long or has control characters.
    pub fn new(key: impl Into<String>, fingerprint: u64) -> Result<Self, InvalidValue> {
        const WHAT: &str = "an idempotency key";
        let key = key.into();
        if key.is_empty() || key.len() > IDEMPOTENCY_KEY_BYTES_MAX {
            let problem = format!("must have 1 to {IDEMPOTENCY_KEY_BYTES_MAX} bytes");
            return Err(InvalidValue::new(WHAT, problem));
        }
        if key.chars().any(char::is_control) {
            return Err(InvalidValue::new(WHAT, "must not contain control characters"));
        }
        Ok(Self { key, fingerprint })
    }

    /// The key.
    pub fn key(&self) -> &str {
        &self.key
    }

    /// The hash of the request.
    pub const fn fingerprint(&self) -> u64 {
        self.fingerprint
    }
}

impl TryFrom<(String, u64)> for IdempotencyKey {
    type Error = InvalidValue;

    fn try_from((key, fingerprint): (String, u64)) -> Result<Self, InvalidValue> {
        Self::new(key, fingerprint)
    }
}

impl From<IdempotencyKey> for (String, u64) {
    fn from(key: IdempotencyKey) -> Self {
        (key.key, key.fingerprint)
    }
}

/// What a command does to the metadata.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Change {
    /// Nothing but carry cluster time forward (KRaft's `NoOpRecord`, KIP-835).
    Tick,
    /// See [`RegisterBroker`].
    RegisterBroker(RegisterBroker),
    /// See [`UpdateBroker`].
    UpdateBroker(UpdateBroker),
    /// See [`UnregisterBroker`].
    UnregisterBroker(UnregisterBroker),
    /// See [`CreateTopic`].
    CreateTopic(CreateTopic),
    /// See [`CreatePartition`].
    CreatePartition(CreatePartition),
    /// See [`RegisterProducer`].
    RegisterProducer(RegisterProducer),
}

/// Brings a broker in, ALIVE.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct RegisterBroker {
    /// The new incarnation's internal UUID, drawn by the proposer.
    pub uuid: Uuid,
    /// The operator's number for it.
    pub broker_id: BrokerId,
    /// Where it listens.
    pub host: Host,
    /// Where it listens.
    pub port: Port,
    /// How to talk to it.
    pub security_protocol: SecurityProtocol,
    /// Where it stands.
    pub rack_id: RackId,
}

/// Changes a live broker. What is `None` stays as it is.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct UpdateBroker {
    /// Which broker.
    pub broker: BrokerRef,
    /// Where it listens.
    pub host: Option<Host>,
    /// Where it listens.
    pub port: Option<Port>,
    /// How to talk to it.
    pub security_protocol: Option<SecurityProtocol>,
    /// How it is doing. CLOSED unregisters it.
    pub status: Option<BrokerStatus>,
    /// The epoch the sender believes the broker to have; the change is refused when it is another.
    pub epoch: Option<Epoch>,
}

/// Closes a live broker for good.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct UnregisterBroker {
    /// Which broker.
    pub broker: BrokerRef,
    /// As in [`UpdateBroker::epoch`].
    pub epoch: Option<Epoch>,
}

/// Creates a topic without partitions.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct CreateTopic {
    /// The topic's UUID, drawn by the proposer.
    pub uuid: Uuid,
    /// Its name.
    pub name: TopicName,
}

/// Creates one partition of a topic.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct CreatePartition {
    /// The topic's UUID.
    pub topic: Uuid,
    /// The partition's number in the topic.
    pub partition_id: PartitionId,
    /// The brokers that hold it, the preferred leader first. None at all is a partition not yet
    /// placed.
    pub replicas: Vec<BrokerRef>,
    /// Which of them are in sync. By default those that are not fenced.
    pub isr: Option<Vec<BrokerRef>>,
    /// Which of them a reassignment takes away.
    pub removing: Vec<BrokerRef>,
    /// Which of them a reassignment brings in. As in KRaft, `replicas` contains them already.
    pub adding: Vec<BrokerRef>,
    /// Which of the in-sync ones leads.
    pub leader: LeaderChoice,
}

/// Who is to lead a new partition.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub enum LeaderChoice {
    /// The first replica that is in sync, or nobody when none is.
    #[default]
    Preferred,
    /// Nobody.
    Nobody,
    /// This one.
    Broker(BrokerRef),
}

/// Gives a broker a producer id.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct RegisterProducer {
    /// Which broker.
    pub broker: BrokerRef,
    /// Which id; by default the next free one.
    pub producer_id: Option<ProducerId>,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_idempotency_key_is_bounded() {
        assert!(IdempotencyKey::new("k".repeat(255), 0).is_ok());
        for bad in [String::new(), "k".repeat(256), "a\nb".to_owned()] {
            assert!(IdempotencyKey::new(bad, 0).is_err());
        }
    }
}
