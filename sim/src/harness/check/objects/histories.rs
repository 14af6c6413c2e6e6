//! What was done with each object, sorted out of what clients asked and were answered.

use std::collections::{BTreeMap, BTreeSet};

use hyper::Method;
use serde_json::Value;

use super::super::linear::Timed;
use super::super::mgmt;
use super::{
    BrokerAction, BrokerOperation, CLOSED, Came, Details, PROTOCOL, PartitionOperation,
    TopicOperation, text,
};
use crate::harness::exchanges::{Effect, Exchange};

/// The history of each object.
#[derive(Debug, Default)]
pub struct Histories {
    /// By broker id.
    pub brokers: BTreeMap<u64, Vec<Timed<BrokerOperation>>>,
    /// By name.
    pub topics: BTreeMap<String, Vec<Timed<TopicOperation>>>,
    /// By topic UUID and number.
    pub partitions: BTreeMap<(String, u64), Vec<Timed<PartitionOperation>>>,
    /// The broker ids of the internal UUIDs that anybody was told of.
    broker_ids: BTreeMap<String, u64>,
}

impl Histories {
    /// Nothing yet, and what `exchanges` say of who is who.
    #[must_use]
    pub fn of(exchanges: &[Exchange]) -> Self {
        let mut broker_ids = BTreeMap::new();
        for exchange in exchanges {
            let Some(Ok(answer)) = &exchange.answer else { continue };
            for record in mgmt::all_records(&answer.body) {
                let fields = &record["fields"];
                let named = fields["internalUUID"].as_str().zip(fields["brokerId"].as_u64());
                broker_ids.extend(named.map(|(uuid, id)| (uuid.to_owned(), id)));
            }
        }
        Self { broker_ids, ..Self::default() }
    }

    /// The id of the broker that a request calls `reference`, and its incarnation if that is what it calls it by.
    pub fn broker(&self, reference: &Value) -> Option<(u64, Option<String>)> {
        let text = text(reference)?;
        match text.parse() {
            Ok(id) => Some((id, None)),
            Err(_) => self.broker_ids.get(&text).map(|id| (*id, Some(text))),
        }
    }

    /// How many topics came to be although nobody was ever told that creating them succeeded.
    pub fn unknown_effects(&self) -> usize {
        let told = |timed: &Timed<TopicOperation>| match (
            &timed.operation.came,
            timed.operation.creates,
        ) {
            (Came::Record(_), false) => true,
            (Came::Refused(code), true) => code == "duplicate_topic",
            _ => false,
        };
        let created = |timed: &Timed<TopicOperation>| {
            timed.operation.creates && matches!(timed.operation.came, Came::Record(_))
        };
        let unknown = |history: &&Vec<_>| history.iter().any(told) && !history.iter().any(created);
        self.topics.values().filter(unknown).count()
    }

    /// Takes every list of active brokers that is not stale for a look at each broker: who is missing is closed, fenced
    /// or unfenced, or was never there.
    ///
    /// # Errors
    ///
    /// Who is listed although nobody can have registered it, and where.
    pub fn add_lists(&mut self, exchanges: &[Exchange]) -> Result<(), (usize, String)> {
        for (id, exchange) in exchanges.iter().enumerate() {
            let Some(Ok(answer)) = &exchange.answer else { continue };
            let is_list = exchange.path() == "/get_active_brokers" && answer.status.is_success();
            if !is_list || exchange.is_stale() || exchange.request.refusal.is_some() {
                continue;
            }
            let listed = answer.body["records"]["RegisterBrokerRecord"].as_array();
            let listed: BTreeMap<u64, &Value> = listed
                .into_iter()
                .flatten()
                .map(|record| (record["fields"]["brokerId"].as_u64().unwrap_or_default(), record))
                .collect();
            if let Some(unmade) = listed.keys().find(|broker| !self.brokers.contains_key(broker)) {
                let what = format!("broker {unmade} is listed, and nobody can have registered it");
                return Err((id, what));
            }
            for (broker, history) in &mut self.brokers {
                let came = listed.get(broker).map_or_else(
                    || Came::Refused("inactive".to_owned()),
                    |record| Came::Record((*record).clone()),
                );
                let operation = BrokerOperation { what: BrokerAction::List, named: None, came };
                let (begun, ended) = (exchange.begun, exchange.ended);
                history.push(Timed { id, operation, begun, ended });
            }
        }
        Ok(())
    }

    /// Makes all ports, hosts, protocols and racks that no answer shows equal: no answer depends on
    /// them. Operations of unknown outcome that differ only in them become equal, and the search
    /// tries them in one order only.
    pub fn forget_unseen_details(&mut self) {
        for history in self.brokers.values_mut() {
            let shown = |name: &str| -> BTreeSet<String> {
                let records = history.iter().filter_map(|timed| match &timed.operation.came {
                    Came::Record(record) => text(&record["fields"][name]),
                    Came::Refused(_) | Came::Open => None,
                });
                records.collect()
            };
            let (ports, hosts) = (shown("brokerPort"), shown("brokerHost"));
            let (protocols, racks) = (shown("securityProtocol"), shown("rackId"));
            let forget = |value: &mut String, shown: &BTreeSet<String>| {
                if !shown.contains(value) {
                    value.clear();
                }
            };
            for BrokerOperation { what, came, .. } in
                history.iter_mut().map(|timed| &mut timed.operation)
            {
                match what {
                    _ if *came != Came::Open => {}
                    BrokerAction::Register { port, details } => {
                        forget(port, &ports);
                        forget(&mut details.host, &hosts);
                        forget(&mut details.protocol, &protocols);
                        forget(&mut details.rack, &racks);
                    }
                    BrokerAction::Update { port, host, protocol, .. } => {
                        let changed = [(port, &ports), (host, &hosts), (protocol, &protocols)];
                        for (value, shown) in changed {
                            if let Some(value) = value {
                                forget(value, shown);
                            }
                        }
                    }
                    BrokerAction::Produce { .. } | BrokerAction::Read | BrokerAction::List => {}
                }
            }
        }
    }

    /// Takes the image that a complete poll was shown for one more read of every object.
    ///
    /// # Errors
    ///
    /// What is there although nobody can have made it.
    pub fn add_image(
        &mut self,
        id: usize,
        (begun, ended): (u64, Option<u64>),
        records: &Value,
    ) -> Result<(), String> {
        let of = |name: &str| records[name].as_array().into_iter().flatten();
        let mut topics: BTreeMap<String, &Value> = BTreeMap::new();
        for record in of("TopicRecord") {
            topics.insert(text(&record["fields"]["name"]).unwrap_or_default(), record);
        }
        let mut brokers: BTreeMap<u64, &Value> = BTreeMap::new();
        for record in of("RegisterBrokerRecord") {
            let broker = record["fields"]["brokerId"].as_u64().unwrap_or_default();
            let latest = brokers.entry(broker).or_insert(record);
            if latest["fields"]["epoch"].as_u64() < record["fields"]["epoch"].as_u64() {
                *latest = record;
            }
        }
        let mut partitions: BTreeMap<(String, u64), &Value> = BTreeMap::new();
        for record in of("PartitionRecord") {
            let fields = &record["fields"];
            let topic = text(&fields["topicUUID"]).unwrap_or_default();
            partitions.insert((topic, fields["partitionId"].as_u64().unwrap_or_default()), record);
        }
        let unmade = topics.keys().find(|name| !self.topics.contains_key(*name)).cloned();
        let unmade = unmade.map(|name| format!("topic {name}"));
        let unmade = unmade.or_else(|| {
            let unmade = brokers.keys().find(|broker| !self.brokers.contains_key(broker));
            unmade.map(|broker| format!("broker {broker}"))
        });
        let unmade = unmade.or_else(|| {
            let unmade = partitions.keys().find(|key| !self.partitions.contains_key(*key));
            unmade.map(|(topic, number)| format!("partition {number} of topic {topic}"))
        });
        if let Some(unmade) = unmade {
            return Err(format!("{unmade} is there, and nobody can have made it"));
        }
        let came = |record: Option<&&Value>, unknown: &str| {
            record.map_or_else(
                || Came::Refused(unknown.to_owned()),
                |record| Came::Record((*record).clone()),
            )
        };
        for (name, history) in &mut self.topics {
            let came = came(topics.get(name), "unknown_topic");
            let operation = TopicOperation { creates: false, came };
            history.push(Timed { id, operation, begun, ended });
        }
        for (broker, history) in &mut self.brokers {
            let came = came(brokers.get(broker), "unknown_broker");
            let operation = BrokerOperation { what: BrokerAction::Read, named: None, came };
            history.push(Timed { id, operation, begun, ended });
        }
        for (key, history) in &mut self.partitions {
            let came = came(partitions.get(key), "unknown_partition");
            let operation = PartitionOperation { creates: None, came };
            history.push(Timed { id, operation, begun, ended });
        }
        Ok(())
    }

    /// Sorts `attempts` by object. Each is a logical operation: its first request, what came of it, and when.
    /// Stale reads and polls are judged elsewhere.
    pub fn add(&mut self, id: usize, exchange: &Exchange, effect: Effect<'_>, ended: Option<u64>) {
        let came = match effect {
            Effect::None => return,
            Effect::Open => Came::Open,
            Effect::Decided(answer) if answer.status.is_success() => {
                Came::Record(answer.body.clone())
            }
            Effect::Decided(answer) => {
                Came::Refused(answer.body["code"].as_str().unwrap_or_default().to_owned())
            }
        };
        let is_read = exchange.request.method == Method::GET;
        if is_read && (exchange.is_stale() || came == Came::Open) {
            return;
        }
        let ended = if came == Came::Open { None } else { ended };
        let begun = exchange.begun;
        let sent = exchange.request.body.clone().unwrap_or_default();
        // Flat, or in a record's envelope.
        let body = if sent["fields"].is_object() { &sent["fields"] } else { &sent };
        let broker = |histories: &mut Self, reference: &Value, what| {
            let Some((broker, named)) = histories.broker(reference) else { return };
            let operation = BrokerOperation { what, named, came: came.clone() };
            histories.brokers.entry(broker).or_default().push(Timed {
                id,
                operation,
                begun,
                ended,
            });
        };
        let mut parts = exchange.path().trim_start_matches('/').split('/');
        match (parts.next().unwrap_or_default(), parts.next()) {
            ("register_broker", _) => {
                let port = text(&body["brokerPort"]).unwrap_or_default();
                let details = Details {
                    host: text(&body["brokerHost"]).unwrap_or_default(),
                    protocol: text(&body["securityProtocol"]).unwrap_or_else(|| PROTOCOL.into()),
                    rack: text(&body["rackId"]).unwrap_or_default(),
                };
                broker(self, &body["brokerId"], BrokerAction::Register { port, details });
            }
            ("update_broker", _) => {
                let what = BrokerAction::Update {
                    port: text(&body["brokerPort"]),
                    host: text(&body["brokerHost"]),
                    protocol: text(&body["securityProtocol"]),
                    status: text(&body["brokerStatus"]),
                    epoch: body["epoch"].as_u64(),
                };
                let named = |name: &str| Some(&body[name]).filter(|value| !value.is_null());
                let reference = named("brokerId").or_else(|| named("internalUUID"));
                broker(self, reference.unwrap_or(&Value::Null), what);
            }
            ("unregister_broker", Some(id)) => {
                let what = BrokerAction::Update {
                    port: None,
                    host: None,
                    protocol: None,
                    status: Some(CLOSED.to_owned()),
                    epoch: None,
                };
                broker(self, &id.into(), what);
            }
            ("register_producer", _) => {
                let chosen = body["producerId"].is_u64();
                broker(self, &body["brokerId"], BrokerAction::Produce { chosen });
            }
            ("get_broker_by_id", Some(id)) => broker(self, &id.into(), BrokerAction::Read),
            (path @ ("create_topic" | "get_topic_by_name"), name) => {
                let creates = path == "create_topic";
                let name = if creates { text(&body["name"]) } else { name.map(str::to_owned) };
                let Some(name) = name else { return };
                let operation = TopicOperation { creates, came };
                self.topics.entry(name).or_default().push(Timed { id, operation, begun, ended });
            }
            ("create_partition", _) => {
                let key = text(&body["topicUUID"]).zip(body["partitionId"].as_u64());
                let Some(key) = key else { return };
                let replicas = body["replicas"].as_array().into_iter().flatten();
                let replicas = replicas.filter_map(|replica| self.broker(replica));
                let creates = Some(replicas.map(|(broker, _)| broker).collect());
                let operation = PartitionOperation { creates, came };
                self.partitions.entry(key).or_default().push(Timed { id, operation, begun, ended });
            }
            _ => {}
        }
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn updates_of_unknown_outcome_that_differ_in_unseen_ports_alone_become_equal() {
        let update = |port: &str, came| {
            let port = Some(port.to_owned());
            let what = BrokerAction::Update {
                port,
                host: None,
                protocol: None,
                status: None,
                epoch: None,
            };
            let operation = BrokerOperation { what, named: None, came };
            Timed { id: 0, operation, begun: 0, ended: None }
        };
        let shown = Came::Record(json!({ "fields": { "brokerPort": "7" } }));
        let history = vec![
            update("5", Came::Open),
            update("6", Came::Open),
            update("7", Came::Open),
            update("8", Came::Refused("broker_closed".to_owned())),
            update("7", shown),
        ];
        let mut histories =
            Histories { brokers: [(1, history.clone())].into(), ..Histories::default() };
        histories.forget_unseen_details();
        let forgotten: Vec<_> = histories.brokers[&1].iter().map(|t| t.operation.clone()).collect();
        assert_eq!(forgotten[0], forgotten[1]);
        assert_ne!(forgotten[1], forgotten[2]);
        let kept = |place: usize| forgotten[place] == history[place].operation;
        assert_eq!([0, 1, 2, 3, 4].map(kept), [false, false, true, true, true]);
    }
}
