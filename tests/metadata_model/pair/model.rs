//! The metadata again, written as plainly as possible: lists, searched from end to end, that know no
//! index, no sharing and no newtypes, and answer in JSON.

use serde_json::{Value, json};
use yakt::metadata::{
    BrokerRef, BrokerStatus, Change, Command, CreatePartition, LeaderChoice, RegisterBroker,
    UpdateBroker, Uuid,
};

/// A JSON record, nothing, or the code of a rejection.
pub(crate) type Answer = Result<Option<Value>, &'static str>;

const RETENTION: u64 = 600_000_000;
const CLOCK_MAX: u64 = (1 << 32) * 1_000_000 - (1 << 40);

#[derive(Clone)]
struct Broker {
    uuid: Uuid,
    id: u32,
    host: String,
    port: String,
    protocol: String,
    status: String,
    rack: String,
    epoch: u64,
    stamp: u64,
}

struct Partition {
    topic: Uuid,
    id: u32,
    replicas: Vec<u32>,
    isr: Vec<u32>,
    removing: Vec<u32>,
    adding: Vec<u32>,
    leader: Option<Uuid>,
    epoch: u64,
    stamp: u64,
    awaits: Option<u32>,
}

#[derive(Default)]
pub(crate) struct Model {
    pub(crate) now: u64,
    /// Every incarnation, in the order of registration.
    brokers: Vec<Broker>,
    changes: Vec<Value>,
    /// UUID, name, stamp.
    topics: Vec<(Uuid, String, u64)>,
    partitions: Vec<Partition>,
    /// Id, record.
    producers: Vec<(u32, Value)>,
    /// Stamp, key, fingerprint, answer. Never forgotten, only ignored.
    answers: Vec<(u64, String, u64, Answer)>,
}

fn envelope(name: &str, fields: &Value, stamp: u64) -> Value {
    #[expect(clippy::cast_precision_loss, reason = "exact below 2^53 µs")]
    let timestamp = stamp as f64 / 1e6;
    json!({"type": "metadata", "name": name, "fields": fields, "timestamp": timestamp})
}

impl Broker {
    fn good(&self) -> bool {
        self.status == "ALIVE" || self.status == "UNFENCED"
    }

    fn record(&self) -> Value {
        let fields = json!({
            "internalUUID": self.uuid, "brokerId": self.id, "brokerHost": self.host,
            "brokerPort": self.port, "securityProtocol": self.protocol,
            "brokerStatus": self.status, "rackId": self.rack, "epoch": self.epoch,
        });
        envelope("RegisterBrokerRecord", &fields, self.stamp)
    }

    fn change_record(&self) -> Value {
        let fields = json!({
            "brokerId": self.uuid, "brokerHost": self.host, "brokerPort": self.port,
            "securityProtocol": self.protocol, "brokerStatus": self.status, "epoch": self.epoch,
        });
        envelope("RegistrationChangeBrokerRecord", &fields, self.stamp)
    }
}

impl Partition {
    fn record(&self) -> Value {
        let leader = self.leader.map(|leader| leader.to_string()).unwrap_or_default();
        let fields = json!({
            "partitionId": self.id, "topicUUID": self.topic, "replicas": self.replicas,
            "ISR": self.isr, "removingReplicas": self.removing, "addingReplicas": self.adding,
            "leader": leader, "partitionEpoch": self.epoch,
        });
        envelope("PartitionRecord", &fields, self.stamp)
    }
}

fn topic_record((uuid, name, stamp): &(Uuid, String, u64)) -> Value {
    envelope("TopicRecord", &json!({"topicUUID": uuid, "name": name}), *stamp)
}

impl Model {
    pub(crate) fn broker_uuids(&self) -> Vec<Uuid> {
        self.brokers.iter().map(|broker| broker.uuid).collect()
    }

    pub(crate) fn topic_uuids(&self) -> Vec<Uuid> {
        self.topics.iter().map(|topic| topic.0).collect()
    }

    pub(crate) fn apply(&mut self, command: &Command) -> Answer {
        let clock = command.clock.micros();
        self.now = if clock > self.now && clock <= CLOCK_MAX { clock } else { self.now + 1 };
        let Some(key) = &command.idempotency else { return self.change(&command.change) };
        let known = self.answers.iter().rev().find(|known| known.1 == key.key()).cloned();
        match known {
            Some((stamp, _, print, answer)) if self.now - stamp <= RETENTION => {
                if print == key.fingerprint() { answer } else { Err("idempotency_key_reused") }
            }
            _ => {
                let answer = self.change(&command.change);
                let entry = (self.now, key.key().to_owned(), key.fingerprint(), answer.clone());
                self.answers.push(entry);
                answer
            }
        }
    }

    fn change(&mut self, change: &Change) -> Answer {
        match change {
            Change::Tick => Ok(None),
            Change::RegisterBroker(change) => self.register(change),
            Change::UpdateBroker(change) => self.update(change),
            Change::UnregisterBroker(change) => self.update(&UpdateBroker {
                broker: change.broker,
                host: None,
                port: None,
                security_protocol: None,
                status: Some(BrokerStatus::Closed),
                epoch: change.epoch,
            }),
            Change::CreateTopic(change) => {
                if self.topics.iter().any(|topic| topic.1 == change.name.as_str()) {
                    return Err("duplicate_topic");
                }
                if self.topic_uuids().contains(&change.uuid) {
                    return Err("duplicate_uuid");
                }
                self.topics.push((change.uuid, change.name.to_string(), self.now));
                Ok(self.topics.last().map(topic_record))
            }
            Change::CreatePartition(change) => self.create_partition(change),
            Change::RegisterProducer(change) => {
                let broker = self.live(&change.broker)?;
                let taken = |id: u32| self.producers.iter().any(|producer| producer.0 == id);
                let id = match change.producer_id {
                    Some(id) if taken(id.get()) => return Err("duplicate_producer"),
                    Some(id) => id.get(),
                    None => (0..=u32::MAX).find(|id| !taken(*id)).unwrap(),
                };
                let fields = json!({
                    "brokerId": broker.uuid, "brokerEpoch": broker.epoch, "producerId": id,
                });
                let record = envelope("ProducerIdsRecord", &fields, self.now);
                self.producers.push((id, record.clone()));
                Ok(Some(record))
            }
        }
    }

    fn position(&self, broker: &BrokerRef) -> Option<usize> {
        self.brokers.iter().rposition(|known| match broker {
            BrokerRef::Id(id) => known.id == id.get(),
            BrokerRef::Uuid(uuid) => known.uuid == *uuid,
        })
    }

    pub(crate) fn broker(&self, broker: &BrokerRef) -> Option<Value> {
        self.position(broker).map(|at| self.brokers[at].record())
    }

    fn live(&self, broker: &BrokerRef) -> Result<&Broker, &'static str> {
        let broker = &self.brokers[self.position(broker).ok_or("unknown_broker")?];
        if broker.status == "CLOSED" { Err("broker_closed") } else { Ok(broker) }
    }

    fn register(&mut self, change: &RegisterBroker) -> Answer {
        let id = change.broker_id.get();
        let last = self.brokers.iter().rfind(|broker| broker.id == id);
        if last.is_some_and(|last| last.status != "CLOSED") {
            return Err("duplicate_broker");
        }
        if self.broker_uuids().contains(&change.uuid) {
            return Err("duplicate_uuid");
        }
        let broker = Broker {
            uuid: change.uuid,
            id,
            host: change.host.to_string(),
            port: change.port.to_string(),
            protocol: change.security_protocol.to_string(),
            status: "ALIVE".to_owned(),
            rack: change.rack_id.to_string(),
            epoch: last.map_or(0, |last| last.epoch + 1),
            stamp: self.now,
        };
        self.brokers.push(broker.clone());
        self.broker_came(&broker);
        Ok(Some(broker.record()))
    }

    fn update(&mut self, change: &UpdateBroker) -> Answer {
        let mut broker = self.live(&change.broker)?.clone();
        let was_good = broker.good();
        if change.epoch.is_some_and(|epoch| epoch.get() != broker.epoch) {
            return Err("stale_epoch");
        }
        if change.status == Some(BrokerStatus::Init) {
            return Err("illegal_status");
        }
        let text = |new: Option<String>, old: String| new.unwrap_or(old);
        broker.host = text(change.host.as_ref().map(ToString::to_string), broker.host);
        broker.port = text(change.port.map(|port| port.to_string()), broker.port);
        let protocol = change.security_protocol.as_ref();
        broker.protocol = text(protocol.map(ToString::to_string), broker.protocol);
        broker.status = text(change.status.map(|status| status.to_string()), broker.status);
        broker.epoch += 1;
        broker.stamp = self.now;
        let at = self.position(&change.broker).unwrap();
        self.brokers[at] = broker.clone();
        self.changes.push(broker.change_record());
        if was_good && !broker.good() {
            self.broker_went(&broker);
        }
        if !was_good && broker.good() {
            self.broker_came(&broker);
        }
        Ok(Some(broker.change_record()))
    }

    fn broker_went(&mut self, broker: &Broker) {
        let uuids: Vec<(u32, Uuid)> = self.brokers.iter().map(|b| (b.id, b.uuid)).collect();
        for partition in &mut self.partitions {
            if !partition.isr.contains(&broker.id) {
                continue;
            }
            partition.isr.retain(|id| *id != broker.id);
            if partition.leader == Some(broker.uuid) {
                let next = partition.replicas.iter().find(|id| partition.isr.contains(id));
                partition.leader =
                    next.map(|next| uuids.iter().rev().find(|known| known.0 == *next).unwrap().1);
            }
            if partition.isr.is_empty() {
                partition.awaits = Some(broker.id);
            }
            partition.epoch += 1;
            partition.stamp = self.now;
        }
    }

    fn broker_came(&mut self, broker: &Broker) {
        for partition in &mut self.partitions {
            if partition.awaits == Some(broker.id) {
                partition.awaits = None;
                partition.isr = vec![broker.id];
                partition.leader = Some(broker.uuid);
                partition.epoch += 1;
                partition.stamp = self.now;
            }
        }
    }

    fn ids(
        &self,
        brokers: &[BrokerRef],
        among: Option<&[u32]>,
        code: &'static str,
    ) -> Result<Vec<u32>, &'static str> {
        let mut ids = vec![];
        for broker in brokers {
            let id = self.live(broker)?.id;
            if ids.contains(&id) {
                return Err(code);
            }
            ids.push(id);
        }
        let all_known = among.is_none_or(|among| ids.iter().all(|id| among.contains(id)));
        if all_known { Ok(ids) } else { Err(code) }
    }

    fn create_partition(&mut self, change: &CreatePartition) -> Answer {
        let id = change.partition_id.get();
        if !self.topic_uuids().contains(&change.topic) {
            return Err("unknown_topic");
        }
        if self.partitions.iter().any(|known| known.topic == change.topic && known.id == id) {
            return Err("duplicate_partition");
        }
        let replicas = self.ids(&change.replicas, None, "invalid_replicas")?;
        let good = |id: &u32| self.brokers.iter().rfind(|broker| broker.id == *id).unwrap().good();
        let isr = match &change.isr {
            None => replicas.iter().copied().filter(|id| good(id)).collect(),
            Some(isr) => {
                let isr = self.ids(isr, Some(&replicas), "invalid_isr")?;
                if !isr.iter().all(good) {
                    return Err("broker_fenced");
                }
                isr
            }
        };
        let leader = match change.leader {
            LeaderChoice::Nobody => None,
            LeaderChoice::Preferred => replicas
                .iter()
                .find(|id| isr.contains(id))
                .map(|id| self.brokers.iter().rfind(|broker| broker.id == *id).unwrap().uuid),
            LeaderChoice::Broker(leader) => {
                let leader = self.live(&leader)?;
                if !isr.contains(&leader.id) {
                    return Err("invalid_leader");
                }
                Some(leader.uuid)
            }
        };
        let removing = self.ids(&change.removing, Some(&replicas), "invalid_reassignment")?;
        let adding = self.ids(&change.adding, Some(&replicas), "invalid_reassignment")?;
        let awaits = match change.isr {
            None if isr.is_empty() => replicas.first().copied(),
            _ => None,
        };
        let (topic, stamp) = (change.topic, self.now);
        let partition = Partition {
            topic,
            id,
            replicas,
            isr,
            removing,
            adding,
            leader,
            epoch: 0,
            stamp,
            awaits,
        };
        let record = partition.record();
        self.partitions.push(partition);
        Ok(Some(record))
    }

    /// The snapshot as `broker_mgmt` shows it.
    pub(crate) fn image(&self, complete: bool) -> Value {
        let mut brokers: Vec<_> = self.brokers.iter().collect();
        let last = |broker: &Broker| {
            self.position(&BrokerRef::Id(broker.id.try_into().unwrap()))
                == self.position(&broker.uuid.into())
        };
        brokers.retain(|broker| complete || broker.status != "CLOSED");
        brokers.sort_by_key(|broker| {
            if last(broker) { (0, broker.id, Uuid::nil()) } else { (1, 0, broker.uuid) }
        });
        let mut topics: Vec<_> = self.topics.iter().collect();
        topics.sort();
        let mut partitions: Vec<_> = self.partitions.iter().collect();
        partitions.sort_by_key(|partition| (partition.topic, partition.id));
        let mut producers: Vec<_> = self.producers.iter().collect();
        producers.sort_by_key(|producer| producer.0);
        let mut image = json!({
            "RegisterBrokerRecord": brokers.into_iter().map(Broker::record).collect::<Value>(),
            "TopicRecord": topics.into_iter().map(topic_record).collect::<Value>(),
            "PartitionRecord": partitions.into_iter().map(Partition::record).collect::<Value>(),
            "ProducerIdsRecord": producers.into_iter().map(|p| p.1.clone()).collect::<Value>(),
        });
        if complete {
            image["RegistrationChangeBrokerRecord"] = self.changes.clone().into();
        }
        image
    }
}
