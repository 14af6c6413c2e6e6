use hyper::Method;
use serde_json::json;

use super::*;
use crate::harness::client::{NoAnswer, Request};
use crate::harness::workload::bad;

struct History(Vec<Exchange>);

impl History {
    fn new() -> Self {
        Self(Vec::new())
    }

    fn at(
        mut self,
        begun: u64,
        ended: u64,
        request: Request,
        answer: Result<(u16, Value), NoAnswer>,
    ) -> Self {
        let answer = answer
            .map(|(status, body)| Answer { status: StatusCode::from_u16(status).unwrap(), body });
        self.0.push(Exchange {
            client: "c1".to_owned(),
            addr: "n1:5011".to_owned(),
            request,
            begun,
            ended: Some(ended),
            connection: None,
            answer: Some(answer),
        });
        self
    }

    fn broken(self) -> String {
        check(&self.0).unwrap_err().what
    }

    fn sound(self) -> Judged {
        check(&self.0).unwrap()
    }
}

fn create(name: &str) -> Request {
    Request::post("/create_topic", json!({ "name": name }))
}

fn look(name: &str) -> Request {
    Request::get(format!("/get_topic_by_name/{name}"))
}

fn topic(uuid: &str) -> (u16, Value) {
    (201, json!({ "name": "TopicRecord", "fields": { "topicUUID": uuid, "name": "t" } }))
}

/// A complete poll that shows these topics.
fn image(topics: &[&str]) -> (u16, Value) {
    let records = topics.iter().map(|name| {
        json!({ "name": "TopicRecord", "timestamp": 1.0,
            "fields": { "topicUUID": name, "name": name } })
    });
    let records = json!({ "TopicRecord": records.collect::<Vec<_>>() });
    (200, json!({ "snapshot": "complete", "offset": 1_000.0, "records": records }))
}

#[test]
fn what_is_there_in_the_end_must_have_been_made_and_what_was_made_must_be_there() {
    let everything = Request::get("/broker_mgmt/0");
    let created = |name: &str| {
        let (status, mut body) = topic(name);
        body["fields"]["name"] = json!(name);
        body["timestamp"] = json!(1.0);
        (status, body)
    };
    let history = || History::new().at(0, 1, create("a"), Ok(created("a")));
    history().at(2, 3, everything.clone(), Ok(image(&["a"]))).sound();
    let gone = history().at(2, 3, everything.clone(), Ok(image(&[])));
    assert!(!gone.broken().is_empty());
    // It was said that nothing came of it, or nobody asked for it at all.
    let refused = Ok((503, json!({ "code": "no_leader" })));
    let denied = history().at(0, 1, create("b"), refused);
    assert!(denied.at(2, 3, everything, Ok(image(&["a", "b"]))).broken().contains("topic b"));
}

fn refused(status: u16, code: &str) -> (u16, Value) {
    (status, json!({ "code": code }))
}

#[test]
fn a_plain_history_is_sound() {
    let judged = History::new()
        .at(0, 1, look("t"), Ok(refused(404, "unknown_topic")))
        .at(2, 3, create("t"), Ok(topic("u")))
        .at(4, 5, create("t"), Ok(refused(409, "duplicate_topic")))
        .at(6, 7, look("t"), Ok(topic("u")))
        .sound();
    assert_eq!(judged, Judged { operations: 4, unknown_effects: 0 });
}

#[test]
fn a_stale_read_is_caught() {
    let history = History::new().at(0, 1, create("t"), Ok(topic("u"))).at(
        2,
        3,
        look("t"),
        Ok(refused(404, "unknown_topic")),
    );
    assert!(history.broken().starts_with("linearizability"));
}

#[test]
fn a_lost_and_a_doubled_write_are_caught() {
    let lost =
        History::new().at(0, 1, create("t"), Ok(topic("u"))).at(2, 3, create("t"), Ok(topic("v")));
    assert!(lost.broken().starts_with("linearizability"));
    let register = || Request::post("/register_broker", json!({ "brokerId": 1, "brokerPort": 1 }));
    let update = || Request::post("/update_broker", json!({ "brokerId": 1, "brokerPort": 2 }));
    let registered = json!({ "fields": { "internalUUID": "b", "epoch": 0, "brokerPort": "1", "brokerStatus": "ALIVE" } });
    let updated = |epoch: u64| json!({ "fields": { "brokerId": "b", "epoch": epoch, "brokerPort": "2", "brokerStatus": "ALIVE" } });
    let base = || History::new().at(0, 1, register(), Ok((201, registered.clone())));
    assert!(
        base().at(2, 3, update(), Ok((200, updated(2)))).broken().starts_with("linearizability")
    );
    base().at(2, 3, update(), Ok((200, updated(1)))).sound();
    // An update that nobody knows of may be the reason.
    base()
        .at(2, 9, update(), Err(NoAnswer::Lost))
        .at(3, 4, update(), Ok((200, updated(2))))
        .sound();
    // One that was certainly not made may not.
    let unmade = base().at(2, 9, update(), Ok(refused(503, "no_leader"))).at(
        3,
        4,
        update(),
        Ok((200, updated(2))),
    );
    assert!(unmade.broken().starts_with("linearizability"));
}

#[test]
fn a_key_that_takes_effect_twice_is_caught() {
    let keyed = || create("t").keyed("k");
    let twice = History::new().at(0, 1, keyed(), Ok(topic("u"))).at(
        2,
        3,
        keyed(),
        Ok(refused(409, "duplicate_topic")),
    );
    assert!(twice.broken().starts_with("exactly once"));
    History::new()
        .at(0, 1, keyed(), Err(NoAnswer::Lost))
        .at(2, 3, keyed(), Ok(topic("u")))
        .at(4, 5, keyed(), Ok(topic("u")))
        .sound();
}

#[test]
fn a_producer_id_given_twice_is_caught() {
    let produce = || Request::post("/register_producer", json!({ "brokerId": 1 }));
    let given = (201, json!({ "fields": { "producerId": 7, "brokerId": "b", "brokerEpoch": 0 } }));
    let twice =
        History::new().at(0, 1, produce(), Ok(given.clone())).at(2, 3, produce(), Ok(given));
    assert!(twice.broken().starts_with("unique ids"));
}

#[test]
fn server_errors_and_bad_requests_taken_for_good_are_caught() {
    assert!(
        History::new()
            .at(0, 1, look("t"), Ok(refused(500, "internal")))
            .broken()
            .starts_with("errors")
    );
    let refusal =
        Refusal { status: StatusCode::BAD_REQUEST, code: "invalid_field", by: Refuser::Door };
    let bad = || Request { refusal: Some(refusal), ..create("") };
    assert!(History::new().at(0, 1, bad(), Ok(topic("u"))).broken().starts_with("errors"));
    History::new().at(0, 1, bad(), Ok(refused(400, "invalid_field"))).sound();
    // Another status or another code is not what the contract says, and the node needs nobody to say it.
    for answer in [(404, "invalid_field"), (400, "invalid_body"), (503, "no_leader")] {
        let history = History::new().at(0, 1, bad(), Ok(refused(answer.0, answer.1)));
        assert!(history.broken().starts_with("errors"), "{answer:?}");
    }
}

#[test]
fn a_key_under_another_request_is_refused_or_put_off_and_is_no_answer_to_the_first() {
    let keyed = || create("t").keyed("k");
    let base = || History::new().at(0, 1, keyed(), Ok(topic("u")));
    let again = || bad::reuse("k".to_owned(), 0);
    for answer in [(409, "idempotency_key_reused"), (503, "no_leader"), (504, "outcome_unknown")] {
        base().at(2, 3, again(), Ok(refused(answer.0, answer.1))).sound();
    }
    base().at(2, 3, again(), Err(NoAnswer::Lost)).sound();
    // Taken for the first request, or for a new one.
    assert!(base().at(2, 3, again(), Ok(topic("u"))).broken().starts_with("errors"));
    let taken = base().at(2, 3, again(), Ok(refused(409, "duplicate_topic")));
    assert!(taken.broken().starts_with("errors"));
    // What nobody was told of shows in the end.
    let everything = Request::get("/broker_mgmt/0");
    let lost = History::new().at(0, 1, again(), Err(NoAnswer::Lost));
    let shown = lost.at(2, 3, everything, Ok(image(&["again-k"])));
    assert!(shown.broken().contains("nobody can have made it"));
}

fn register() -> Request {
    Request::post("/register_broker", json!({ "brokerId": 1, "brokerPort": 1 }))
}

fn broker(uuid: &str, epoch: u64, status: &str) -> Value {
    json!({ "name": "RegisterBrokerRecord", "timestamp": 1.0, "fields": { "internalUUID": uuid,
        "brokerId": 1, "epoch": epoch, "brokerPort": "1", "brokerStatus": status } })
}

fn change(uuid: &str, epoch: u64, status: &str) -> Value {
    json!({ "fields": { "brokerId": uuid, "epoch": epoch, "brokerPort": "1",
        "brokerStatus": status } })
}

/// Broker 1 registers, closes, and registers again: `a`, then `b`.
fn twice_registered() -> History {
    let close = || Request::post("/unregister_broker/1", Value::Null);
    let mut second = broker("b", 2, "ALIVE");
    second["timestamp"] = json!(3.0);
    History::new()
        .at(0, 1, register(), Ok((201, broker("a", 0, "ALIVE"))))
        .at(2, 3, close(), Ok((200, change("a", 1, "CLOSED"))))
        .at(4, 5, register(), Ok((201, second)))
}

#[test]
fn a_broker_called_by_its_uuid_is_that_incarnation() {
    let read = |uuid: &str| Request::get(format!("/get_broker_by_id/{uuid}"));
    let mut closed = broker("a", 1, "CLOSED");
    closed["timestamp"] = json!(2.0);
    let mut present = broker("b", 2, "ALIVE");
    present["timestamp"] = json!(3.0);
    let base = || {
        twice_registered().at(6, 7, read("a"), Ok((200, closed.clone()))).at(
            8,
            9,
            read("b"),
            Ok((200, present.clone())),
        )
    };
    base().sound();
    let linearizability = |history: History| {
        let what = history.broken();
        assert!(what.starts_with("linearizability"), "{what}");
    };
    // The first one is not unknown, not alive again, and is not the second.
    linearizability(base().at(10, 11, read("a"), Ok(refused(404, "unknown_broker"))));
    let mut risen = broker("a", 1, "ALIVE");
    risen["timestamp"] = json!(2.5);
    linearizability(base().at(10, 11, read("a"), Ok((200, risen))));
    linearizability(base().at(10, 11, read("a"), Ok((200, present.clone()))));
    let update = |uuid: &str| Request {
        method: Method::PUT,
        ..Request::post("/update_broker", json!({ "brokerId": uuid, "brokerStatus": "ALIVE" }))
    };
    base()
        .at(10, 11, update("a"), Ok(refused(409, "broker_closed")))
        .at(12, 13, update("b"), Ok((200, change("b", 3, "ALIVE"))))
        .sound();
    linearizability(base().at(10, 11, update("a"), Ok((200, change("a", 2, "ALIVE")))));
    linearizability(base().at(10, 11, update("b"), Ok(refused(409, "broker_closed"))));
    // In an envelope it is the same update.
    let body = json!({ "name": "RegistrationChangeBrokerRecord", "fields": { "brokerId": "b" } });
    let enveloped = || Request::post("/update_broker", body.clone());
    base().at(10, 11, enveloped(), Ok((200, change("b", 3, "ALIVE")))).sound();
    linearizability(base().at(10, 11, enveloped(), Ok((200, change("b", 4, "ALIVE")))));
}

#[test]
fn a_list_of_active_brokers_shows_who_is_alive_and_nobody_else() {
    let list = |brokers: Vec<Value>| {
        (200, json!({ "offset": 9.0, "records": { "RegisterBrokerRecord": brokers } }))
    };
    let active = || Request::get("/get_active_brokers");
    let base = || History::new().at(0, 1, register(), Ok((201, broker("a", 0, "ALIVE"))));
    base().at(2, 3, active(), Ok(list(vec![broker("a", 0, "ALIVE")]))).sound();
    let missing = base().at(2, 3, active(), Ok(list(vec![])));
    assert!(missing.broken().starts_with("linearizability of broker 1"));
    let nobody = json!({ "offset": 0.5, "records": { "RegisterBrokerRecord": [] } });
    let before = History::new().at(0, 1, active(), Ok((200, nobody)));
    before.at(2, 3, register(), Ok((201, broker("a", 0, "ALIVE")))).sound();
    let fence = || {
        let body = json!({ "brokerId": 1, "brokerStatus": "FENCED" });
        Request::post("/update_broker", body)
    };
    let fenced = || base().at(2, 3, fence(), Ok((200, change("a", 1, "FENCED"))));
    fenced().at(4, 5, active(), Ok(list(vec![]))).sound();
    let still = fenced().at(4, 5, active(), Ok(list(vec![broker("a", 0, "ALIVE")])));
    assert!(still.broken().starts_with("linearizability of broker 1"));
    // It may have been fenced, or not.
    let unsure = || base().at(2, 3, fence(), Err(NoAnswer::Lost));
    unsure().at(4, 5, active(), Ok(list(vec![]))).sound();
    unsure().at(4, 5, active(), Ok(list(vec![broker("a", 0, "ALIVE")]))).sound();
    let unmade = History::new().at(0, 1, active(), Ok(list(vec![broker("a", 0, "ALIVE")])));
    assert!(unmade.broken().contains("nobody can have registered it"));
}

#[test]
fn a_partition_is_held_by_the_brokers_that_were_asked_for() {
    let create = || {
        let body = json!({ "topicUUID": "u", "partitionId": 0, "replicas": [2, 1] });
        Request::post("/create_partition", body)
    };
    let held = |replicas: &[u64], epoch: u64| {
        json!({ "name": "PartitionRecord", "timestamp": 1.0, "fields": { "topicUUID": "u",
            "partitionId": 0, "replicas": replicas, "ISR": [], "leader": "",
            "partitionEpoch": epoch } })
    };
    let made = |record: Value| History::new().at(0, 1, create(), Ok((201, record)));
    let everything = Request::get("/broker_mgmt/0");
    let image = |record: Value| {
        let records = json!({ "PartitionRecord": [record] });
        Ok((200, json!({ "snapshot": "complete", "offset": 1_000.0, "records": records })))
    };
    made(held(&[2, 1], 0)).at(2, 3, everything.clone(), image(held(&[2, 1], 0))).sound();
    for wrong in [held(&[1, 2], 0), held(&[2], 0), held(&[2, 1], 1)] {
        assert!(
            made(wrong.clone()).broken().starts_with("linearizability of partition"),
            "{wrong}"
        );
    }
    // Nobody was told of its creation.
    let unknown = || History::new().at(0, 1, create(), Err(NoAnswer::Lost));
    unknown().at(2, 3, everything.clone(), image(held(&[2, 1], 0))).sound();
    let other = unknown().at(2, 3, everything, image(held(&[2], 0)));
    assert!(other.broken().starts_with("linearizability of partition"));
}
