//! What the endpoints answer, asked at a node that does not lead: names and types exactly as they are
//! published.

use std::net::SocketAddr;

use serde_json::{Value, json};

use crate::client::Request;
use crate::shared::{Shared, broker, fresh_id, fresh_name, registration, topic};

/// What a JSON value must be.
#[derive(Clone, Copy, Debug)]
enum Kind {
    Integer,
    Float,
    Text,
    Uuid,
    Integers,
    Object,
    Array,
}
use Kind::{Array, Float, Integer, Integers, Object, Text};

impl Kind {
    fn fits(self, value: &Value) -> bool {
        match self {
            Integer => value.is_u64(),
            Float => value.is_f64(),
            Text => value.is_string(),
            Self::Uuid => value.as_str().is_some_and(|text| uuid::Uuid::try_parse(text).is_ok()),
            Integers => value.as_array().is_some_and(|list| list.iter().all(Value::is_u64)),
            Object => value.is_object(),
            Array => value.is_array(),
        }
    }
}

const BROKER: &[(&str, Kind)] = &[
    ("internalUUID", Kind::Uuid),
    ("brokerId", Integer),
    ("brokerHost", Text),
    ("brokerPort", Text),
    ("securityProtocol", Text),
    ("brokerStatus", Text),
    ("rackId", Text),
    ("epoch", Integer),
];
const TOPIC: &[(&str, Kind)] = &[("topicUUID", Kind::Uuid), ("name", Text)];
const PARTITION: &[(&str, Kind)] = &[
    ("partitionId", Integer),
    ("topicUUID", Kind::Uuid),
    ("replicas", Integers),
    ("ISR", Integers),
    ("removingReplicas", Integers),
    ("addingReplicas", Integers),
    ("leader", Text),
    ("partitionEpoch", Integer),
];
const PRODUCER: &[(&str, Kind)] =
    &[("brokerId", Kind::Uuid), ("brokerEpoch", Integer), ("producerId", Integer)];
const CHANGE: &[(&str, Kind)] = &[
    ("brokerId", Kind::Uuid),
    ("brokerHost", Text),
    ("brokerPort", Text),
    ("securityProtocol", Text),
    ("brokerStatus", Text),
    ("epoch", Integer),
];
const RECORDS: &[(&str, &[(&str, Kind)])] = &[
    ("RegisterBrokerRecord", BROKER),
    ("TopicRecord", TOPIC),
    ("PartitionRecord", PARTITION),
    ("ProducerIdsRecord", PRODUCER),
    ("RegistrationChangeBrokerRecord", CHANGE),
];

/// Claims that `object` has exactly the members `expected`, of their kinds.
fn assert_members(object: &Value, expected: &[(&str, Kind)]) {
    let mut names: Vec<_> =
        object.as_object().expect("an object").keys().map(String::as_str).collect();
    let mut expected_names: Vec<_> = expected.iter().map(|(name, _)| *name).collect();
    names.sort_unstable();
    expected_names.sort_unstable();
    assert_eq!(names, expected_names, "{object}");
    for (name, kind) in expected {
        assert!(kind.fits(&object[*name]), "{name} is no {kind:?} in {object}");
    }
}

/// Claims that `record` is the envelope of a `name`, and returns its fields.
fn fields<'a>(record: &'a Value, name: &str) -> &'a Value {
    assert_members(
        record,
        &[("type", Text), ("name", Text), ("fields", Object), ("timestamp", Float)],
    );
    assert_eq!((&record["type"], &record["name"]), (&json!("metadata"), &json!(name)));
    let (_, expected) = RECORDS.iter().find(|(known, _)| *known == name).expect("a record's name");
    assert_members(&record["fields"], expected);
    &record["fields"]
}

/// Claims that `lists` has a list of good records under every one of `names` and nothing else.
fn assert_lists(lists: &Value, names: &[&str]) {
    let kinds: Vec<_> = names.iter().map(|name| (*name, Array)).collect();
    assert_members(lists, &kinds);
    for (name, list) in lists.as_object().expect("an object") {
        list.as_array()
            .expect("a list")
            .iter()
            .for_each(|record| drop(fields(record, name).clone()));
    }
}

/// The fields of the records under `name` for which `member` is `value`.
fn found<'a>(lists: &'a Value, name: &str, member: &str, value: &Value) -> Vec<&'a Value> {
    let list = lists[name].as_array().map(Vec::as_slice).unwrap_or_default();
    list.iter().map(|record| &record["fields"]).filter(|fields| fields[member] == *value).collect()
}

fn get(addr: SocketAddr, path: &str) -> Value {
    let answer = Request::get(path).ask(addr);
    assert_eq!(answer.header("content-type"), Some("application/json"), "{path}");
    answer.expect(200)
}

fn envelope(name: &str, fields: &Value) -> Value {
    json!({"type": "metadata", "name": name, "fields": fields, "timestamp": 1.5})
}

#[test]
fn a_broker_is_registered_from_a_flat_body_or_an_envelope() {
    let shared = Shared::new();
    let addr = shared.follower();
    let flat = json!({"brokerId": fresh_id(), "brokerHost": "host", "brokerPort": 9092});
    let inner = json!({"brokerId": fresh_id(), "brokerHost": "::1", "brokerPort": "65535",
        "securityProtocol": "SASL_SSL", "rackId": "rack 1", "epoch": 77, "brokerStatus": "FENCED"});
    for (body, sent) in [(flat.clone(), &flat), (envelope("RegisterBrokerRecord", &inner), &inner)]
    {
        let answer = Request::post("/register_broker", &body).ask(addr);
        assert_eq!(answer.header("content-type"), Some("application/json"));
        let record = answer.expect(201);
        let fields = fields(&record, "RegisterBrokerRecord");
        assert_eq!(fields["brokerId"], sent["brokerId"]);
        assert_eq!(fields["brokerHost"], sent["brokerHost"]);
        let port = sent["brokerPort"]
            .as_str()
            .map_or_else(|| sent["brokerPort"].to_string(), str::to_owned);
        assert_eq!(fields["brokerPort"], port);
        assert_eq!(
            fields["securityProtocol"],
            *sent.get("securityProtocol").unwrap_or(&json!("PLAINTEXT"))
        );
        assert_eq!(fields["rackId"], *sent.get("rackId").unwrap_or(&json!("")));
        // The server's to set, whatever the client says.
        assert_eq!((&fields["brokerStatus"], &fields["epoch"]), (&json!("ALIVE"), &json!(0)));

        for name in [
            fields["brokerId"].to_string(),
            fields["internalUUID"].as_str().expect("a UUID").to_owned(),
        ] {
            assert_eq!(get(addr, &format!("/get_broker_by_id/{name}")), record);
        }
        let active = get(addr, "/get_active_brokers");
        assert_members(&active, &[("offset", Float), ("records", Object)]);
        assert_lists(&active["records"], &["RegisterBrokerRecord"]);
        assert_eq!(
            found(&active["records"], "RegisterBrokerRecord", "brokerId", &sent["brokerId"]),
            [fields]
        );
    }
}

#[test]
fn a_broker_is_updated_by_post_and_put_and_unregistered_by_delete_and_post() {
    let shared = Shared::new();
    let addr = shared.follower();
    for (update, unregister, by_uuid) in [("POST", "DELETE", false), ("PUT", "POST", true)] {
        let broker = broker(addr);
        let (id, uuid) = (&broker["brokerId"], &broker["internalUUID"]);
        let name = if by_uuid { uuid } else { id };
        let path = format!("/get_broker_by_id/{id}");

        let body = json!({"brokerId": name, "brokerHost": "elsewhere", "brokerStatus": "FENCED", "epoch": 0});
        let body = if by_uuid { envelope("RegistrationChangeBrokerRecord", &body) } else { body };
        let record = Request::json(update, "/update_broker", &body).ask(addr).expect(200);
        let change = fields(&record, "RegistrationChangeBrokerRecord");
        let expected = json!({"brokerId": uuid, "brokerHost": "elsewhere", "brokerPort": "9092",
            "securityProtocol": "PLAINTEXT", "brokerStatus": "FENCED", "epoch": 1});
        assert_eq!(*change, expected);
        let now = get(addr, &path);
        assert_eq!(fields(&now, "RegisterBrokerRecord")["brokerStatus"], "FENCED");
        assert_eq!(now["fields"]["brokerHost"], "elsewhere");
        assert_eq!(now["fields"]["epoch"], 1);
        let active = get(addr, "/get_active_brokers");
        assert!(found(&active["records"], "RegisterBrokerRecord", "brokerId", id).is_empty());

        let name = name.as_str().map_or_else(|| name.to_string(), str::to_owned);
        let record =
            Request::new(unregister, &format!("/unregister_broker/{name}")).ask(addr).expect(200);
        let change = fields(&record, "RegistrationChangeBrokerRecord");
        assert_eq!((&change["brokerStatus"], &change["epoch"]), (&json!("CLOSED"), &json!(2)));
        assert_eq!(get(addr, &path)["fields"]["brokerStatus"], "CLOSED");

        // The id may be registered again: another broker, and the epoch goes on.
        let again = json!({"brokerId": id, "brokerHost": "h", "brokerPort": 1});
        let again = Request::post("/register_broker", &again).ask(addr).expect(201);
        assert_eq!(again["fields"]["epoch"], 3);
        assert_ne!(again["fields"]["internalUUID"], *uuid);
        let uuid = uuid.as_str().expect("a UUID");
        assert_eq!(
            get(addr, &format!("/get_broker_by_id/{uuid}"))["fields"]["brokerStatus"],
            "CLOSED"
        );
        assert_eq!(get(addr, &path), again);
    }
}

#[test]
fn topics_partitions_and_producers_are_created() {
    let shared = Shared::new();
    let addr = shared.follower();
    let name = fresh_name("contract");
    let record = Request::post("/create_topic", &json!({"name": name})).ask(addr).expect(201);
    let uuid = fields(&record, "TopicRecord")["topicUUID"].clone();
    assert_eq!(record["fields"]["name"], name);
    assert_eq!(get(addr, &format!("/get_topic_by_name/{name}")), record);
    let wrapped = envelope("TopicRecord", &json!({"name": fresh_name("wrapped")}));
    let wrapped = Request::post("/create_topic", &wrapped).ask(addr).expect(201);
    fields(&wrapped, "TopicRecord");

    let (one, two) = (broker(addr), broker(addr));
    let ids = json!([one["brokerId"], two["brokerId"]]);
    let create = |body: &Value| {
        let record = Request::post("/create_partition", body).ask(addr).expect(201);
        fields(&record, "PartitionRecord").clone()
    };
    let partition = create(&json!({"partitionId": 0, "topicUUID": uuid, "replicas": ids}));
    let expected = json!({"partitionId": 0, "topicUUID": uuid, "replicas": ids, "ISR": ids,
        "removingReplicas": [], "addingReplicas": [], "leader": one["internalUUID"], "partitionEpoch": 0});
    assert_eq!(partition, expected);
    let partition = create(&json!({"partitionId": 1, "topicUUID": uuid}));
    assert_eq!((&partition["replicas"], &partition["leader"]), (&json!([]), &json!("")));
    let chosen = json!({"partitionId": 2, "topicUUID": uuid, "replicas": [one["internalUUID"], two["brokerId"]],
        "ISR": [two["brokerId"]], "removingReplicas": [one["brokerId"]], "addingReplicas": [two["internalUUID"]],
        "leader": two["internalUUID"]});
    let partition = create(&envelope("PartitionRecord", &chosen));
    let expected = json!({"partitionId": 2, "topicUUID": uuid, "replicas": ids, "ISR": [two["brokerId"]],
        "removingReplicas": [one["brokerId"]], "addingReplicas": [two["brokerId"]],
        "leader": two["internalUUID"], "partitionEpoch": 0});
    assert_eq!(partition, expected);
    let nobody = json!({"partitionId": 3, "topicUUID": uuid, "replicas": ids, "leader": ""});
    assert_eq!(create(&nobody)["leader"], "");

    for broker in [&one["brokerId"], &one["internalUUID"]] {
        let record =
            Request::post("/register_producer", &json!({"brokerId": broker})).ask(addr).expect(201);
        let producer = fields(&record, "ProducerIdsRecord");
        assert_eq!(
            (&producer["brokerId"], &producer["brokerEpoch"]),
            (&one["internalUUID"], &json!(0))
        );
    }
    let given = json!({"brokerId": two["brokerId"], "producerId": fresh_id()});
    let record = envelope("ProducerIdsRecord", &given);
    let record = Request::post("/register_producer", &record).ask(addr).expect(201);
    assert_eq!(fields(&record, "ProducerIdsRecord")["producerId"], given["producerId"]);
}

const CLIENT: &[&str] = &["RegisterBrokerRecord", "TopicRecord", "PartitionRecord"];
const CURRENT: &[&str] =
    &["RegisterBrokerRecord", "TopicRecord", "PartitionRecord", "ProducerIdsRecord"];
const COMPLETE: &[&str] = &[
    "RegisterBrokerRecord",
    "TopicRecord",
    "PartitionRecord",
    "ProducerIdsRecord",
    "RegistrationChangeBrokerRecord",
];

#[test]
fn the_age_of_the_offset_decides_between_current_and_complete() {
    let shared = Shared::new();
    let addr = shared.follower();
    let closed = broker(addr);
    Request::new("DELETE", &format!("/unregister_broker/{}", closed["brokerId"]))
        .ask(addr)
        .expect(200);
    let live = broker(addr);
    let uuid = &topic(addr)["topicUUID"];
    let partition = json!({"partitionId": 0, "topicUUID": uuid, "replicas": [live["brokerId"]]});
    Request::post("/create_partition", &partition).ask(addr).expect(201);
    let producer = json!({"brokerId": live["brokerId"]});
    Request::post("/register_producer", &producer).ask(addr).expect(201);

    for endpoint in ["broker_mgmt", "client_mgmt"] {
        let offset = || get(addr, &format!("/{endpoint}/0"))["offset"].as_f64().expect("an offset");
        let (first, now) = (offset(), offset());
        let poll = |previous: f64| {
            let answer = get(addr, &format!("/{endpoint}/{previous}"));
            assert_members(
                &answer,
                &[("snapshot", Text), ("history", Text), ("offset", Float), ("records", Object)],
            );
            // The answer's own offset says how old the given one was when it was decided.
            let age = answer["offset"].as_f64().expect("an offset") - previous;
            let is_issued = previous >= first && age >= 0.0;
            let expected = if age <= 600.0 && is_issued { "current" } else { "complete" };
            assert_eq!(answer["snapshot"], expected, "{endpoint} at the age of {age}");
            answer
        };
        for previous in [first, now] {
            let answer = poll(previous);
            let records = &answer["records"];
            assert_lists(records, if endpoint == "broker_mgmt" { CURRENT } else { CLIENT });
            assert_eq!(
                found(records, "RegisterBrokerRecord", "brokerId", &live["brokerId"]),
                [&live]
            );
            assert!(
                found(records, "RegisterBrokerRecord", "brokerId", &closed["brokerId"]).is_empty()
            );
            assert_eq!(found(records, "TopicRecord", "topicUUID", uuid).len(), 1);
            assert_eq!(found(records, "PartitionRecord", "topicUUID", uuid).len(), 1);
        }
        for previous in [now - 601.0, 0.0, -1.0, now + 3_600.0, 1e15] {
            let answer = poll(previous);
            assert_eq!(answer["snapshot"], "complete");
            let records = &answer["records"];
            assert_lists(records, if endpoint == "broker_mgmt" { COMPLETE } else { CLIENT });
            let found = found(records, "RegisterBrokerRecord", "brokerId", &closed["brokerId"]);
            assert_eq!(found.len(), 1);
            assert_eq!(found[0]["brokerStatus"], "CLOSED");
        }
    }
    let complete = get(addr, "/broker_mgmt/0");
    let changes = found(
        &complete["records"],
        "RegistrationChangeBrokerRecord",
        "brokerId",
        &closed["internalUUID"],
    );
    assert_eq!(changes.len(), 1);
    let producers =
        found(&complete["records"], "ProducerIdsRecord", "brokerId", &live["internalUUID"]);
    assert_eq!(producers.len(), 1);
}

#[test]
fn a_diff_has_what_changed_since_the_offset_and_what_is_gone() {
    let shared = Shared::new();
    let addr = shared.follower();
    let (closed, changed, before) = (broker(addr), broker(addr), topic(addr));
    for endpoint in ["broker_mgmt", "client_mgmt"] {
        let since = get(addr, &format!("/{endpoint}/0"))["offset"].clone();
        let after = topic(addr);
        let update = json!({"brokerId": changed["brokerId"], "rackId": "ignored"});
        Request::post("/update_broker", &update).ask(addr).expect(200);
        Request::post("/register_producer", &json!({"brokerId": changed["brokerId"]}))
            .ask(addr)
            .expect(201);
        if endpoint == "broker_mgmt" {
            Request::new("POST", &format!("/unregister_broker/{}", closed["brokerId"]))
                .ask(addr)
                .expect(200);
        }
        let diff = get(addr, &format!("/{endpoint}/{since}?mode=diff"));
        let members = [
            ("snapshot", Text),
            ("history", Text),
            ("offset", Float),
            ("upserted", Object),
            ("deleted", Object),
        ];
        assert_members(&diff, &members);
        assert_eq!(diff["snapshot"], "diff");
        let upserted = &diff["upserted"];
        for (name, list) in upserted.as_object().expect("an object") {
            assert!(CURRENT.contains(&name.as_str()), "{name}");
            list.as_array()
                .expect("a list")
                .iter()
                .for_each(|record| drop(fields(record, name).clone()));
        }
        assert_eq!(found(upserted, "TopicRecord", "name", &after["name"]), [&after]);
        assert!(found(upserted, "TopicRecord", "name", &before["name"]).is_empty());
        assert_eq!(
            found(upserted, "RegisterBrokerRecord", "brokerId", &changed["brokerId"]).len(),
            1
        );
        assert!(
            found(upserted, "RegisterBrokerRecord", "brokerId", &closed["brokerId"]).is_empty()
        );
        let producers = found(upserted, "ProducerIdsRecord", "brokerId", &changed["internalUUID"]);
        assert_eq!(
            producers.len(),
            usize::from(endpoint == "broker_mgmt"),
            "clients do not see producers"
        );
        let deleted =
            diff["deleted"]["RegisterBrokerRecord"].as_array().cloned().unwrap_or_default();
        let gone = json!({"brokerId": closed["brokerId"], "internalUUID": closed["internalUUID"]});
        assert_eq!(deleted.contains(&gone), endpoint == "broker_mgmt", "{diff}");

        // What the next poll asks with is this answer's offset, and nothing has happened since but what
        // other tests did.
        let next = get(addr, &format!("/{endpoint}/{}?mode=diff", diff["offset"]));
        assert!(found(&next["upserted"], "TopicRecord", "name", &after["name"]).is_empty());
        assert_eq!(get(addr, &format!("/{endpoint}/0?mode=diff"))["snapshot"], "complete");
    }
}

#[test]
fn an_offset_is_before_every_later_change() {
    let shared = Shared::new();
    let nodes = shared.cluster().addrs();
    for round in 0..20 {
        let (here, there) = (nodes[round % 5], nodes[(round * 3 + 1) % 5]);
        let since = get(here, "/client_mgmt/0")["offset"].clone();
        let after = topic(there);
        let diff = get(here, &format!("/client_mgmt/{since}?mode=diff"));
        assert_eq!(
            found(&diff["upserted"], "TopicRecord", "name", &after["name"]).len(),
            1,
            "{since}: {diff}"
        );
    }
}

#[test]
fn a_write_through_one_node_is_read_at_once_through_every_other() {
    let shared = Shared::new();
    let nodes = shared.cluster().addrs();
    for &writer in &nodes {
        let topic = topic(writer);
        let path = format!("/get_topic_by_name/{}", topic["name"].as_str().expect("a name"));
        for &reader in &nodes {
            assert_eq!(get(reader, &path)["fields"], topic);
        }
    }
}

#[test]
fn a_request_with_a_key_is_made_once_wherever_it_is_repeated() {
    let shared = Shared::new();
    let key = fresh_name("key");
    let body = registration();
    let nodes = shared.cluster().addrs();
    let first = Request::post("/register_broker", &body).key(&key).ask(nodes[0]).expect(201);
    // The same JSON in another order.
    let text = format!(
        r#"{{ "brokerPort":{}, "brokerId":{}, "brokerHost":{} }}"#,
        body["brokerPort"], body["brokerId"], body["brokerHost"]
    );
    for addr in nodes {
        assert_eq!(Request::post("/register_broker", &body).key(&key).ask(addr).expect(201), first);
        let reordered =
            Request::new("POST", "/register_broker").header("content-type", "application/json");
        assert_eq!(reordered.body(text.clone()).key(&key).ask(addr).expect(201), first);
    }
}

#[test]
fn the_cluster_is_described_by_every_node() {
    let shared = Shared::new();
    for node in shared.cluster().nodes() {
        let view = get(node.http, "/cluster");
        let members = [
            ("clusterId", Kind::Uuid),
            ("node", Integer),
            ("leader", Integer),
            ("term", Integer),
            ("committed", Integer),
            ("nodes", Array),
        ];
        assert_members(&view, &members);
        assert_eq!(view["node"], node.id);
        for member in view["nodes"].as_array().expect("a list") {
            let mut member = member.clone();
            assert!(
                member["voter"] == true
                    && (member["matched"].is_u64() || member["matched"].is_null())
            );
            for extra in ["voter", "matched"] {
                member.as_object_mut().expect("an object").remove(extra);
            }
            assert_members(
                &member,
                &[("id", Integer), ("raft", Text), ("http", Text), ("role", Text)],
            );
            assert!(matches!(member["role"].as_str(), Some("leader" | "follower")), "{member}");
        }
        for path in ["/healthz", "/readyz"] {
            assert_eq!(node.status(path), 200, "{path}");
        }
    }
}
