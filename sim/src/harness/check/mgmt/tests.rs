use hyper::StatusCode;
use serde_json::json;

use super::*;
use crate::harness::client::{Answer, Request};

fn exchange(request: Request, begun: u64, body: Value) -> Exchange {
    Exchange {
        client: "c1".to_owned(),
        addr: "n1:5011".to_owned(),
        request,
        begun,
        ended: Some(begun + 1),
        connection: None,
        answer: Some(Ok(Answer { status: StatusCode::OK, body })),
    }
}

fn topic(uuid: &str, stamp: f64) -> Value {
    json!({ "type": "metadata", "name": "TopicRecord", "timestamp": stamp,
        "fields": { "topicUUID": uuid, "name": uuid } })
}

fn created(begun: u64, uuid: &str, stamp: f64) -> Exchange {
    exchange(Request::post("/create_topic", json!({ "name": uuid })), begun, topic(uuid, stamp))
}

fn poll(begun: u64, previous: f64, kind: &str, offset: f64, topics: &[(&str, f64)]) -> Exchange {
    let topics: Vec<_> = topics.iter().map(|(uuid, stamp)| topic(uuid, *stamp)).collect();
    let part = if kind == "diff" { "upserted" } else { "records" };
    let mode = if kind == "diff" { "?mode=diff" } else { "" };
    let body = json!({ "snapshot": kind, "offset": offset, part: { "TopicRecord": topics } });
    exchange(Request::get(format!("/client_mgmt/{previous}{mode}")), begun, body)
}

fn judge(exchanges: &[Exchange]) -> Result<(), String> {
    check(exchanges, &|number| Some(exchanges[number].begun)).map_err(|(_, what)| what)
}

#[test]
fn a_poller_that_is_told_everything_once_passes() {
    let history = [
        created(0, "a", 1.0),
        poll(2, 0.0, "current", 2.0, &[("a", 1.0)]),
        created(4, "b", 3.0),
        poll(6, 2.0, "diff", 4.0, &[("b", 3.0)]),
        poll(8, 4.0, "diff", 4.0, &[]),
    ];
    assert_eq!(judge(&history), Ok(()));
}

#[test]
fn a_missed_and_a_repeated_change_are_caught() {
    let missed = [created(0, "a", 1.0), poll(2, 0.5, "diff", 2.0, &[])];
    assert!(judge(&missed).unwrap_err().contains("missing"));
    let again = [created(0, "a", 1.0), poll(2, 1.0, "diff", 2.0, &[("a", 1.0)])];
    assert!(judge(&again).is_err());
}

#[test]
fn a_poll_behind_what_was_answered_is_caught() {
    let stale = [created(0, "a", 5.0), poll(2, 0.0, "current", 4.0, &[])];
    assert!(judge(&stale).unwrap_err().contains("went back"));
    let write = [poll(0, 0.0, "current", 4.0, &[]), created(2, "a", 4.0)];
    assert!(judge(&write).unwrap_err().contains("went back"));
    // Side by side, they may be in either order.
    let mut together = stale.clone();
    together[0].ended = Some(9);
    assert_eq!(judge(&together), Ok(()));
}

#[test]
fn the_wrong_kind_for_the_age_is_caught() {
    assert!(judge(&[poll(0, 0.0, "current", 600.000_001, &[])]).is_err());
    let issued = poll(0, 0.0, "complete", 700.0, &[]);
    assert!(judge(&[issued.clone(), poll(2, 700.0, "complete", 1_300.0, &[])]).is_err());
    assert_eq!(judge(&[issued.clone(), poll(2, 700.0, "current", 1_300.0, &[])]), Ok(()));
    // An offset that was never issued may get everything; an offset from the future must.
    assert_eq!(judge(&[issued.clone(), poll(2, 699.0, "complete", 1_200.0, &[])]), Ok(()));
    assert_eq!(judge(&[poll(0, 900.0, "complete", 700.0, &[])]), Ok(()));
    for kind in ["current", "diff"] {
        assert!(judge(&[poll(0, 900.0, kind, 700.0, &[])]).is_err(), "{kind}");
    }
    assert!(judge(&[poll(0, 0.0, "diff", 600.000_001, &[])]).is_err());
    assert_eq!(judge(&[poll(0, 0.0, "current", 600.0, &[])]), Ok(()));
}

#[test]
fn a_broker_whose_id_was_taken_up_again_is_gone_though_nobody_was_told() {
    let registered = |begun: u64, uuid: &str, stamp: f64| {
        let record = json!({ "name": "RegisterBrokerRecord", "timestamp": stamp, "fields":
            { "internalUUID": uuid, "brokerId": 1, "brokerStatus": "ALIVE", "epoch": 0 } });
        exchange(Request::post("/register_broker", json!({ "brokerId": 1 })), begun, record)
    };
    let (former, present) = (registered(0, "u", 1.0), registered(2, "v", 2.0));
    let poll = |offset: f64, shown: &[&Exchange]| {
        let shown = shown.iter().filter_map(|exchange| match &exchange.answer {
            Some(Ok(answer)) => Some(answer.body.clone()),
            _ => None,
        });
        let records = json!({ "RegisterBrokerRecord": shown.collect::<Vec<_>>() });
        let body = json!({ "snapshot": "current", "offset": offset, "records": records });
        exchange(Request::get("/client_mgmt/0"), 4, body)
    };
    let judge = |poll: Exchange| judge(&[former.clone(), present.clone(), poll]);
    assert_eq!(judge(poll(3.0, &[&present])), Ok(()));
    assert!(judge(poll(3.0, &[&former, &present])).is_err());
    assert!(judge(poll(3.0, &[])).unwrap_err().contains("missing"));
}

#[test]
fn a_poll_that_is_refused_or_shows_something_twice_is_caught() {
    let mut refused = poll(0, 0.0, "current", 1.0, &[]);
    if let Some(Ok(answer)) = &mut refused.answer {
        answer.status = StatusCode::NOT_FOUND;
        answer.body = Value::Null;
    }
    assert!(judge(&[refused]).unwrap_err().contains("refused"));
    let twice = [created(0, "a", 1.0), poll(2, 0.0, "current", 2.0, &[("a", 1.0), ("a", 1.0)])];
    assert!(judge(&twice).unwrap_err().contains("twice"));
}

#[test]
fn an_answer_of_another_kind_than_was_asked_for_is_caught() {
    let issued = poll(0, 0.0, "current", 1.0, &[]);
    let mut complete = poll(2, 1.0, "diff", 2.0, &[]);
    if let Some(Ok(answer)) = &mut complete.answer {
        answer.body = json!({ "snapshot": "complete", "offset": 2.0, "records": {} });
    }
    assert!(judge(&[issued, complete]).unwrap_err().contains("asks for diff"));
}

#[test]
fn a_record_that_changes_without_a_stamp_is_caught() {
    let mut other = created(4, "a", 1.0);
    if let Some(Ok(answer)) = &mut other.answer {
        answer.body["fields"]["name"] = json!("z");
    }
    assert!(judge(&[created(0, "a", 1.0), other]).unwrap_err().contains("was shown as"));
}

#[test]
fn a_broker_that_closes_is_deleted_from_diffs_and_gone_from_snapshots() {
    let broker = |name: &str, key: &str, stamp: f64, status: &str| {
        json!({ "name": name, "timestamp": stamp,
            "fields": { key: "u", "brokerStatus": status, "epoch": 0 } })
    };
    let registered = exchange(
        Request::post("/register_broker", json!({ "brokerId": 1 })),
        0,
        broker("RegisterBrokerRecord", "internalUUID", 1.0, "ALIVE"),
    );
    let closed = exchange(
        Request::post("/unregister_broker/1", Value::Null),
        2,
        broker("RegistrationChangeBrokerRecord", "brokerId", 2.0, "CLOSED"),
    );
    let identified = |registered: &Exchange| {
        let mut registered = registered.clone();
        if let Some(Ok(answer)) = &mut registered.answer {
            answer.body["fields"]["brokerId"] = json!(1);
        }
        registered
    };
    let diff = |deleted: Value| {
        let body = json!({ "snapshot": "diff", "offset": 3.0, "upserted": {}, "deleted": deleted });
        exchange(Request::get("/client_mgmt/1.5?mode=diff"), 4, body)
    };
    let told = diff(json!({ "RegisterBrokerRecord": [{ "brokerId": 1, "internalUUID": "u" }] }));
    assert_eq!(judge(&[registered.clone(), closed.clone(), told]), Ok(()));
    let gone = json!({ "RegisterBrokerRecord": [{ "brokerId": 1, "internalUUID": "u" }] });
    assert!(judge(&[registered.clone(), diff(gone)]).unwrap_err().contains("is deleted"));
    // Somebody who never heard of it may have closed it, until somebody is shown everything.
    let mut unheard = closed.clone();
    unheard.answer = None;
    let gone = json!({ "RegisterBrokerRecord": [{ "brokerId": 1, "internalUUID": "u" }] });
    let told = [identified(&registered), unheard.clone(), diff(gone)];
    assert_eq!(judge(&told), Ok(()));
    let everything =
        json!({ "RegisterBrokerRecord": [identified(&registered).answer.unwrap().unwrap().body] });
    let body = json!({ "snapshot": "complete", "offset": 1_000.0, "records": everything });
    let complete = exchange(Request::get("/client_mgmt/0"), 6, body);
    let [first, second, third] = told;
    assert!(judge(&[first, second, third, complete]).unwrap_err().contains("is deleted"));
    let untold = judge(&[registered.clone(), closed.clone(), diff(json!({}))]);
    assert!(untold.unwrap_err().contains("not deleted"));
    let records = json!({ "RegisterBrokerRecord": [broker("RegisterBrokerRecord", "internalUUID", 1.0, "ALIVE")] });
    let body = json!({ "snapshot": "current", "offset": 3.0, "records": records });
    let ghost = exchange(Request::get("/client_mgmt/1.5"), 4, body);
    assert!(judge(&[registered, closed, ghost]).is_err());
}

#[test]
fn a_list_of_active_brokers_is_of_its_time_however_stale() {
    let record = |uuid: &str, status: &str, stamp: f64| {
        json!({ "name": "RegisterBrokerRecord", "timestamp": stamp, "fields":
            { "internalUUID": uuid, "brokerId": 1, "brokerStatus": status, "epoch": 0 } })
    };
    let registered = |begun, uuid, stamp| {
        let request = Request::post("/register_broker", json!({ "brokerId": 1 }));
        exchange(request, begun, record(uuid, "ALIVE", stamp))
    };
    let list = |offset: f64, brokers: Vec<Value>| {
        let body = json!({ "offset": offset, "records": { "RegisterBrokerRecord": brokers } });
        exchange(Request::get("/get_active_brokers?consistency=stale"), 9, body)
    };
    let change = json!({ "name": "RegistrationChangeBrokerRecord", "timestamp": 3.0,
        "fields": { "brokerId": "u", "brokerStatus": "FENCED" } });
    let fenced = exchange(Request::post("/update_broker", Value::Null), 2, change);
    let judge = |list: Exchange| judge(&[registered(0, "u", 1.0), fenced.clone(), list]);
    assert_eq!(judge(list(2.0, vec![record("u", "ALIVE", 1.0)])), Ok(()));
    assert_eq!(judge(list(4.0, vec![])), Ok(()));
    assert!(judge(list(4.0, vec![record("u", "ALIVE", 1.0)])).unwrap_err().contains("listed"));
    assert!(judge(list(4.0, vec![record("u", "FENCED", 3.0)])).unwrap_err().contains("active"));
    let both = vec![record("u", "ALIVE", 1.0), record("v", "ALIVE", 2.0)];
    assert!(judge(list(2.0, both)).unwrap_err().contains("listed"));
}

#[test]
fn a_partition_that_moves_or_is_led_by_a_stranger_is_caught() {
    let partition = |stamp: f64, replicas: &[u64], in_sync: &[u64], leader: &str| {
        let record = json!({ "name": "PartitionRecord", "timestamp": stamp, "fields": { "topicUUID":
            "t", "partitionId": 0, "replicas": replicas, "ISR": in_sync, "leader": leader } });
        exchange(Request::post("/create_partition", Value::Null), 0, record)
    };
    let made = || partition(1.0, &[1, 2], &[1, 2], "u");
    let judge = |later: Exchange| judge(&[made(), Exchange { begun: 2, ended: Some(3), ..later }]);
    assert_eq!(judge(partition(2.0, &[1, 2], &[2], "v")), Ok(()));
    assert!(judge(partition(2.0, &[1, 3], &[1], "u")).unwrap_err().contains("was held by"));
    assert!(judge(partition(2.0, &[1, 2], &[3], "u")).unwrap_err().contains("no replica"));
    assert!(judge(partition(2.0, &[1, 2], &[], "u")).unwrap_err().contains("not in sync"));
}
