//! The five records the metadata consists of, and their two encodings.
//!
//! In JSON a record is an envelope, `{"type":"metadata","name":NAME,"fields":{…},"timestamp":SECONDS}`.
//! In postcard (log answers, snapshots) it is just the timestamp and the fields. The structs are
//! written in the order in which JSON shows their fields.

use std::sync::Arc;

use serde::de::{DeserializeOwned, Error as _};
use serde::{Deserialize, Deserializer, Serialize, Serializer};
use uuid::Uuid;

use super::{
    BrokerId, BrokerStatus, Epoch, Host, PartitionId, Port, ProducerId, RackId, SecurityProtocol,
    Timestamp, TopicName,
};

/// The `type` of every envelope.
const ENVELOPE_TYPE: &str = "metadata";

/// The fields of a record, under the record's name.
pub trait Fields: Serialize + DeserializeOwned {
    /// The `name` in the envelope, and the list the record stands in.
    const NAME: &'static str;
}

/// A broker, as it is now or as it was when it was closed.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct RegisterBrokerRecord {
    /// This incarnation.
    #[serde(rename = "internalUUID")]
    pub uuid: Uuid,
    /// The operator's number for it.
    pub broker_id: BrokerId,
    /// Where it listens.
    pub broker_host: Host,
    /// Where it listens.
    pub broker_port: Port,
    /// How to talk to it.
    pub security_protocol: SecurityProtocol,
    /// How it is doing.
    pub broker_status: BrokerStatus,
    /// Where it stands.
    pub rack_id: RackId,
    /// How often it changed, counted across incarnations of the id.
    pub epoch: Epoch,
}

/// A topic.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct TopicRecord {
    /// The topic.
    #[serde(rename = "topicUUID")]
    pub uuid: Uuid,
    /// Its name.
    pub name: TopicName,
}

/// A partition of a topic.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct PartitionRecord {
    /// Its number in the topic.
    pub partition_id: PartitionId,
    /// The topic.
    #[serde(rename = "topicUUID")]
    pub topic: Uuid,
    /// The brokers that hold it, the preferred leader first.
    pub replicas: Vec<BrokerId>,
    /// Those of them that are in sync.
    #[serde(rename = "ISR")]
    pub isr: Vec<BrokerId>,
    /// Those of them that a reassignment takes away.
    #[serde(rename = "removingReplicas")]
    pub removing: Vec<BrokerId>,
    /// Those of them that a reassignment brings in.
    #[serde(rename = "addingReplicas")]
    pub adding: Vec<BrokerId>,
    /// The internal UUID of the one that leads; `""` in JSON when nobody does.
    #[serde(with = "uuid_or_empty")]
    pub leader: Option<Uuid>,
    /// How often it changed.
    pub partition_epoch: Epoch,
}

/// A producer id that a broker was given.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct ProducerIdsRecord {
    /// The broker's internal UUID.
    #[serde(rename = "brokerId")]
    pub broker: Uuid,
    /// The broker's epoch at that time.
    pub broker_epoch: Epoch,
    /// The id.
    pub producer_id: ProducerId,
}

/// A change to a broker, and what it was afterwards.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct RegistrationChangeBrokerRecord {
    /// The broker's internal UUID.
    #[serde(rename = "brokerId")]
    pub broker: Uuid,
    /// Where it listens.
    pub broker_host: Host,
    /// Where it listens.
    pub broker_port: Port,
    /// How to talk to it.
    pub security_protocol: SecurityProtocol,
    /// How it is doing.
    pub broker_status: BrokerStatus,
    /// Its epoch.
    pub epoch: Epoch,
}

macro_rules! names {
    ($($variant:ident($name:ident)),*) => {
        $(impl Fields for $name {
            const NAME: &'static str = stringify!($name);
        }

        impl From<Arc<Stamped<$name>>> for Record {
            fn from(record: Arc<Stamped<$name>>) -> Self {
                Self::$variant(record)
            }
        })*

        impl Record {
            /// The record's name in the envelope.
            pub const fn name(&self) -> &'static str {
                match self { $(Self::$variant(_) => $name::NAME),* }
            }

            /// The stamp of the command that made the record what it is.
            pub fn timestamp(&self) -> Timestamp {
                match self { $(Self::$variant(record) => record.timestamp),* }
            }

            fn serialize_json<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
                match self { $(Self::$variant(record) => record.serialize(serializer)),* }
            }

            fn from_json(envelope: Envelope<String, serde_json::Value>) -> Result<Self, String> {
                match envelope.name.as_str() {
                    $($name::NAME => {
                        let fields = $name::deserialize(envelope.fields);
                        let fields = fields.map_err(|error| error.to_string())?;
                        Ok(Stamped { timestamp: envelope.timestamp, fields }.into())
                    })*
                    name => Err(format!("{name:?} is no record's name")),
                }
            }
        }
    };
}

names! {
    RegisterBroker(RegisterBrokerRecord),
    Topic(TopicRecord),
    Partition(PartitionRecord),
    ProducerIds(ProducerIdsRecord),
    RegistrationChange(RegistrationChangeBrokerRecord)
}

/// A record: its fields, and the stamp of the command that last changed them.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Stamped<F> {
    /// The stamp of the command that made the fields what they are.
    pub timestamp: Timestamp,
    /// What the record says.
    pub fields: F,
}

/// Any of the five records. Cloning one copies a pointer.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(remote = "Self")]
pub enum Record {
    /// A broker.
    RegisterBroker(Arc<Stamped<RegisterBrokerRecord>>),
    /// A topic.
    Topic(Arc<Stamped<TopicRecord>>),
    /// A partition.
    Partition(Arc<Stamped<PartitionRecord>>),
    /// A producer id.
    ProducerIds(Arc<Stamped<ProducerIdsRecord>>),
    /// A change to a broker.
    RegistrationChange(Arc<Stamped<RegistrationChangeBrokerRecord>>),
}

impl<F> From<Stamped<F>> for Record
where
    Self: From<Arc<Stamped<F>>>,
{
    fn from(record: Stamped<F>) -> Self {
        Self::from(Arc::new(record))
    }
}

/// The JSON form.
#[derive(Serialize, Deserialize)]
struct Envelope<N, F> {
    r#type: N,
    name: N,
    fields: F,
    timestamp: Timestamp,
}

impl<F: Fields> Serialize for Stamped<F> {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        let Self { timestamp, fields } = self;
        if serializer.is_human_readable() {
            let timestamp = *timestamp;
            Envelope { r#type: ENVELOPE_TYPE, name: F::NAME, fields, timestamp }
                .serialize(serializer)
        } else {
            (timestamp, fields).serialize(serializer)
        }
    }
}

impl<'de, F: Fields> Deserialize<'de> for Stamped<F> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        if deserializer.is_human_readable() {
            let envelope = Envelope::<String, F>::deserialize(deserializer)?;
            if envelope.r#type != ENVELOPE_TYPE || envelope.name != F::NAME {
                return Err(D::Error::custom(format!("this is no {}", F::NAME)));
            }
            Ok(Self { timestamp: envelope.timestamp, fields: envelope.fields })
        } else {
            let (timestamp, fields) = Deserialize::deserialize(deserializer)?;
            Ok(Self { timestamp, fields })
        }
    }
}

impl Serialize for Record {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        if serializer.is_human_readable() {
            self.serialize_json(serializer)
        } else {
            Self::serialize(self, serializer)
        }
    }
}

impl<'de> Deserialize<'de> for Record {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        if deserializer.is_human_readable() {
            let envelope = Envelope::deserialize(deserializer)?;
            if envelope.r#type != ENVELOPE_TYPE {
                return Err(D::Error::custom(format!("the type is not {ENVELOPE_TYPE:?}")));
            }
            Self::from_json(envelope).map_err(D::Error::custom)
        } else {
            Self::deserialize(deserializer)
        }
    }
}

/// `Option<Uuid>` as the original system wrote it in JSON: `""` for none.
mod uuid_or_empty {
    use serde::de::Error as _;
    use serde::{Deserialize, Deserializer, Serialize, Serializer};
    use uuid::Uuid;

    #[expect(clippy::ref_option, reason = "serde's signature")]
    pub(super) fn serialize<S: Serializer>(
        uuid: &Option<Uuid>,
        serializer: S,
    ) -> Result<S::Ok, S::Error> {
        match uuid {
            None if serializer.is_human_readable() => serializer.serialize_str(""),
            Some(uuid) if serializer.is_human_readable() => uuid.serialize(serializer),
            _ => uuid.serialize(serializer),
        }
    }

    pub(super) fn deserialize<'de, D: Deserializer<'de>>(
        deserializer: D,
    ) -> Result<Option<Uuid>, D::Error> {
        if !deserializer.is_human_readable() {
            return Option::deserialize(deserializer);
        }
        match String::deserialize(deserializer)? {
            text if text.is_empty() => Ok(None),
            text => Uuid::try_parse(&text).map(Some).map_err(D::Error::custom),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::codec::{decode_versioned, encode_versioned};

    fn partition(leader: Option<Uuid>) -> Record {
        let fields = PartitionRecord {
            partition_id: PartitionId::MIN,
            topic: Uuid::from_u128(1),
            replicas: vec![BrokerId::MIN],
            isr: vec![],
            removing: vec![],
            adding: vec![],
            leader,
            partition_epoch: Epoch::ZERO,
        };
        Stamped { timestamp: Timestamp::from_micros(1_500_000), fields }.into()
    }

    #[test]
    fn the_json_envelope_is_exact() {
        assert_eq!(
            serde_json::to_string(&partition(None)).unwrap(),
            concat!(
                r#"{"type":"metadata","name":"PartitionRecord","fields":{"partitionId":0,"#,
                r#""topicUUID":"00000000-0000-0000-0000-000000000001","replicas":[0],"ISR":[],"#,
                r#""removingReplicas":[],"addingReplicas":[],"leader":"","partitionEpoch":0},"#,
                r#""timestamp":1.5}"#
            )
        );
        let broker = RegisterBrokerRecord {
            uuid: Uuid::from_u128(2),
            broker_id: BrokerId::MAX,
            broker_host: "h".parse().unwrap(),
            broker_port: "9092".parse().unwrap(),
            security_protocol: SecurityProtocol::default(),
            broker_status: BrokerStatus::Alive,
            rack_id: RackId::default(),
            epoch: Epoch::ZERO,
        };
        assert_eq!(
            serde_json::to_string(&Stamped { timestamp: Timestamp::ZERO, fields: broker }).unwrap(),
            concat!(
                r#"{"type":"metadata","name":"RegisterBrokerRecord","fields":{"#,
                r#""internalUUID":"00000000-0000-0000-0000-000000000002","brokerId":2147483647,"#,
                r#""brokerHost":"h","brokerPort":"9092","securityProtocol":"PLAINTEXT","#,
                r#""brokerStatus":"ALIVE","rackId":"","epoch":0},"timestamp":0.0}"#
            )
        );
    }

    #[test]
    fn records_survive_both_encodings() {
        for record in [partition(None), partition(Some(Uuid::from_u128(9)))] {
            let json = serde_json::to_string(&record).unwrap();
            assert_eq!(serde_json::from_str::<Record>(&json).unwrap(), record);
            let bytes = encode_versioned(&record);
            assert_eq!(decode_versioned::<Record>(&bytes).unwrap(), record);
        }
        let unknown = r#"{"type":"metadata","name":"X","fields":{},"timestamp":0}"#;
        assert!(serde_json::from_str::<Record>(unknown).is_err());
    }
}
