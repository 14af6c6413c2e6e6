//! Requests of the plan's writes: their bodies, and the other ways to send them that the contract
//! allows.
//!
//! The references to brokers come from the session, which knows the UUIDs that it was told.

use hyper::Method;
use serde_json::{Map, Value, json};
use yakt::metadata::limits::TOPIC_NAME_CHARS_MAX;

use super::plan::{PROTOCOLS, Placement, STATUSES, Way, What};
use crate::harness::client::Request;

/// A session's knowledge of brokers and topics: how to refer to them, and their last epochs.
pub(super) trait Known {
    /// How a body refers to `broker`.
    fn reference(&self, broker: u32) -> Value;

    /// How a path refers to `broker`.
    fn name(&self, broker: u32) -> String;

    /// The last epoch of `broker` that the client was told.
    fn epoch(&self, broker: u32) -> Option<u64>;

    /// The UUID of `topic`, if the client was told it.
    fn topic(&self, topic: u32) -> Option<String>;
}

/// The name of a topic of [`What::Bulk`]: as long as a name may be.
pub(super) fn long_name(topic: u32) -> String {
    let mut name = format!("t{topic}-");
    name.extend(std::iter::repeat_n('x', TOPIC_NAME_CHARS_MAX - name.len()));
    name
}

fn host(number: u8) -> String {
    format!("host-{number}.example")
}

fn protocol(number: u8) -> &'static str {
    PROTOCOLS[usize::from(number) % PROTOCOLS.len()]
}

/// The request of a write. `None` when the client does not know enough to make it, or when the
/// operation is no write.
pub(super) fn of(what: &What, known: &impl Known) -> Option<Request> {
    Some(match what {
        What::CreateTopic(topic) => {
            Request::post("/create_topic", json!({ "name": format!("t{topic}") }))
        }
        What::CreatePartition { topic, number, replicas } => {
            let replicas: Vec<_> = replicas.iter().map(|broker| known.reference(*broker)).collect();
            let body = json!({ "topicUUID": known.topic(*topic)?, "partitionId": number, "replicas": replicas });
            Request::post("/create_partition", body)
        }
        What::Place(placement) => Request::post("/create_partition", place(placement, known)?),
        What::RegisterBroker { broker, port } => {
            let body = json!({ "brokerId": broker, "brokerHost": "h", "brokerPort": port });
            Request::post("/register_broker", body)
        }
        What::Enlist { broker, port, host: number, rack, protocol: name } => {
            let mut body =
                json!({ "brokerId": broker, "brokerHost": host(*number), "brokerPort": port });
            if let Some(rack) = rack {
                body["rackId"] = json!(format!("rack {rack}"));
            }
            if let Some(name) = name {
                body["securityProtocol"] = json!(protocol(*name));
            }
            Request::post("/register_broker", body)
        }
        What::UpdateBroker { broker, port, fenced, guarded } => {
            let mut body = json!({ "brokerId": known.reference(*broker) });
            if let Some(port) = port {
                body["brokerPort"] = json!(port);
            }
            if let Some(fenced) = fenced {
                body["brokerStatus"] = json!(if *fenced { "FENCED" } else { "ALIVE" });
            }
            if let Some(epoch) = known.epoch(*broker).filter(|_| *guarded) {
                body["epoch"] = json!(epoch);
            }
            Request::post("/update_broker", body)
        }
        What::Alter { broker, host: number, protocol: name, status, guarded } => {
            let mut body = json!({ "brokerId": known.reference(*broker) });
            if let Some(number) = number {
                body["brokerHost"] = json!(host(*number));
            }
            if let Some(name) = name {
                body["securityProtocol"] = json!(protocol(*name));
            }
            if let Some(status) = status {
                body["brokerStatus"] = json!(STATUSES[usize::from(*status) % STATUSES.len()]);
            }
            if let Some(epoch) = known.epoch(*broker).filter(|_| *guarded) {
                body["epoch"] = json!(epoch);
            }
            Request::post("/update_broker", body)
        }
        What::CloseBroker(broker) => {
            Request::post(format!("/unregister_broker/{}", known.name(*broker)), Value::Null)
        }
        What::RegisterProducer(broker) => {
            Request::post("/register_producer", json!({ "brokerId": known.reference(*broker) }))
        }
        What::ProduceAs { broker, producer } => {
            let body = json!({ "brokerId": known.reference(*broker), "producerId": producer });
            Request::post("/register_producer", body)
        }
        _ => return None,
    })
}

fn place(placement: &Placement, known: &impl Known) -> Option<Value> {
    let Placement { topic, number, replicas, isr, removing, adding, leader } = placement;
    let brokers = |brokers: &[u32]| -> Value {
        brokers.iter().map(|broker| known.reference(*broker)).collect::<Vec<_>>().into()
    };
    let mut body = json!({ "topicUUID": known.topic(*topic)?, "partitionId": number, "replicas": brokers(replicas) });
    for (field, list) in [("ISR", isr), ("removingReplicas", removing), ("addingReplicas", adding)]
    {
        if let Some(list) = list {
            body[field] = brokers(list);
        }
    }
    match leader {
        None => {}
        Some(0) => body["leader"] = json!(""),
        Some(broker) => body["leader"] = known.reference(*broker),
    }
    Some(body)
}

/// The record that `path` takes, and the other method that does the same.
fn endpoint(path: &str) -> (&'static str, Option<Method>) {
    match path.split('?').next().unwrap_or_default() {
        "/update_broker" => ("RegistrationChangeBrokerRecord", Some(Method::PUT)),
        "/register_broker" => ("RegisterBrokerRecord", None),
        "/create_topic" => ("TopicRecord", None),
        "/create_partition" => ("PartitionRecord", None),
        "/register_producer" => ("ProducerIdsRecord", None),
        path if path.starts_with("/unregister_broker/") => ("", Some(Method::DELETE)),
        _ => ("", None),
    }
}

/// The optional fields of `record`.
fn optional(record: &str) -> &'static [&'static str] {
    match record {
        "RegistrationChangeBrokerRecord" => &[
            "internalUUID",
            "brokerHost",
            "brokerPort",
            "securityProtocol",
            "brokerStatus",
            "epoch",
        ],
        "RegisterBrokerRecord" => &["securityProtocol", "rackId"],
        "PartitionRecord" => &["replicas", "ISR", "removingReplicas", "addingReplicas", "leader"],
        "ProducerIdsRecord" => &["producerId"],
        _ => &[],
    }
}

/// Fields of `record` that only the server sets, with values that it would never choose.
fn server_set(record: &str) -> Value {
    let nobody = "00000000-0000-4000-8000-000000000000";
    match record {
        "RegisterBrokerRecord" => {
            json!({ "internalUUID": nobody, "brokerStatus": "FENCED", "epoch": 77 })
        }
        "RegistrationChangeBrokerRecord" => json!({ "rackId": "elsewhere" }),
        "TopicRecord" => json!({ "topicUUID": nobody }),
        "PartitionRecord" => json!({ "partitionEpoch": 77 }),
        "ProducerIdsRecord" => json!({ "brokerEpoch": 77 }),
        _ => json!({}),
    }
}

/// `request`, sent in this way. A request that has no such way stays as it is.
pub(super) fn in_way(request: Request, way: Way) -> Request {
    let (record, method) = endpoint(&request.path);
    match way {
        Way::Method => match method {
            Some(method) => Request { method, ..request },
            None => request,
        },
        Way::Gzip => Request { accept_encoding: Some("gzip"), ..request },
        Way::Zstd => Request { accept_encoding: Some("zstd"), ..request },
        Way::Defaults => with_defaults(request),
        // The session handles these.
        Way::Uuid | Way::Foreign => request,
        Way::Envelope | Way::InternalUuid | Way::Text | Way::Nulls | Way::Whole => {
            match request.body {
                Some(Value::Object(fields)) if !record.is_empty() => {
                    let body = Some(with_fields(fields, record, way));
                    Request { body, ..request }
                }
                _ => request,
            }
        }
    }
}

fn with_fields(mut fields: Map<String, Value>, record: &str, way: Way) -> Value {
    match way {
        Way::Envelope => {
            return json!({ "type": "metadata", "name": record, "fields": fields, "timestamp": 1.5 });
        }
        Way::InternalUuid
            if record == "RegistrationChangeBrokerRecord" && fields["brokerId"].is_string() =>
        {
            let uuid = fields.remove("brokerId").unwrap_or_default();
            fields.insert("internalUUID".to_owned(), uuid);
            fields.insert("brokerId".to_owned(), Value::Null);
        }
        Way::Text => {
            if let Some(port) = fields.get_mut("brokerPort").filter(|port| port.is_number()) {
                *port = json!(port.to_string());
            }
        }
        Way::Nulls => {
            for field in optional(record) {
                let value = fields.entry(*field).or_insert(Value::Null);
                if value.as_array().is_some_and(Vec::is_empty) && *field == "replicas" {
                    *value = Value::Null;
                }
            }
        }
        Way::Whole => {
            if let Value::Object(set) = server_set(record) {
                for (name, value) in set {
                    fields.entry(name).or_insert(value);
                }
            }
        }
        _ => {}
    }
    fields.into()
}

/// A read with a query that states the defaults.
fn with_defaults(request: Request) -> Request {
    let path = request.path.as_str();
    if request.method != Method::GET {
        return request;
    }
    let mut defaults = Vec::new();
    let reads = ["/get_active_brokers", "/get_broker_by_id/", "/get_topic_by_name/"];
    let polls = ["/broker_mgmt/", "/client_mgmt/"];
    let is = |starts: &[&str]| starts.iter().any(|start| path.starts_with(start));
    if (is(&reads) || is(&polls)) && !path.contains("consistency=") {
        defaults.push("consistency=linearizable");
    }
    if is(&polls) && !path.contains("mode=") {
        defaults.push("mode=snapshot");
    }
    if defaults.is_empty() {
        return request;
    }
    let separator = if path.contains('?') { "&" } else { "?" };
    let path = format!("{path}{separator}{}", defaults.join("&"));
    Request { path, ..request }
}

/// The key and the body of the keyed `request` on another path that takes such a body, if there is
/// one. It must have no effect while the key is known.
pub(super) fn elsewhere(request: &Request) -> Option<Request> {
    let path = request.path.as_str();
    if let Some(broker) = path.strip_prefix("/unregister_broker/") {
        let other = if broker == "1" { "2" } else { "1" };
        return Some(Request { path: format!("/unregister_broker/{other}"), ..request.clone() });
    }
    let is_flat = request.body.as_ref()?["fields"].is_null();
    let has_id = request.body.as_ref()?.get("brokerId").is_some_and(|id| !id.is_null());
    let (method, other) = match path {
        "/register_broker" | "/update_broker" => (Method::POST, "/register_producer"),
        "/register_producer" => (Method::PUT, "/update_broker"),
        _ => return None,
    };
    (is_flat && has_id).then(|| Request { method, path: other.to_owned(), ..request.clone() })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_body_has_every_form_that_the_contract_allows() {
        let update =
            || Request::post("/update_broker", json!({ "brokerId": "u", "brokerPort": 7 }));
        let body = |way| in_way(update(), way).body.unwrap_or_default();
        assert_eq!(in_way(update(), Way::Method).method, Method::PUT);
        assert_eq!(body(Way::Text)["brokerPort"], "7");
        assert_eq!(body(Way::InternalUuid)["internalUUID"], "u");
        assert!(body(Way::InternalUuid)["brokerId"].is_null());
        assert_eq!(body(Way::Envelope)["fields"]["brokerId"], "u");
        assert!(body(Way::Nulls).get("brokerStatus").is_some_and(Value::is_null));
        assert_eq!(body(Way::Whole)["rackId"], "elsewhere");
        let poll = in_way(Request::get("/broker_mgmt/0"), Way::Defaults);
        assert_eq!(poll.path, "/broker_mgmt/0?consistency=linearizable&mode=snapshot");
        let diff = in_way(Request::get("/broker_mgmt/0?mode=diff"), Way::Defaults);
        assert_eq!(diff.path, "/broker_mgmt/0?mode=diff&consistency=linearizable");
        assert_eq!(long_name(7).len(), TOPIC_NAME_CHARS_MAX);
    }

    #[test]
    fn a_body_that_two_paths_take_is_sent_to_the_other() {
        let close = Request::post("/unregister_broker/1", Value::Null);
        assert_eq!(elsewhere(&close).map(|other| other.path), Some("/unregister_broker/2".into()));
        let produce = Request::post("/register_producer", json!({ "brokerId": 1 }));
        assert_eq!(elsewhere(&produce).map(|other| other.path), Some("/update_broker".into()));
        let topic = Request::post("/create_topic", json!({ "name": "t" }));
        assert!(elsewhere(&topic).is_none());
    }
}
