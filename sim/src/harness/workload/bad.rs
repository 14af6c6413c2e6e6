//! Requests that break the contract, each with the refusal that the contract has for it.

use hyper::{Method, StatusCode};
use serde_json::{Value, json};
use yakt::http::BODY_BYTES_MAX;

use crate::harness::client::{Refusal, Refuser, Request};

/// How many there are. A number means the same for ever: committed schedules have it.
pub(super) const KINDS: u8 = 33;

/// No broker, topic or node of any plan.
const NOBODY: u32 = 2_000_000_000;

/// The UUID of nothing.
const NOTHING: &str = "00000000-0000-4000-8000-000000000000";

/// The request number `which`.
pub(super) fn bad(which: u8) -> Request {
    if which < 8 {
        return malformed(which);
    }
    match which {
        0..22 => impolite(which),
        22..32 => about_nobody(which),
        _ => refused(
            Request::post("/create_topic", Value::Null)
                .raw(Some("application/json"), &br#"{"name": "never", "name": "ever"}"#[..]),
            StatusCode::BAD_REQUEST,
            "duplicate_key",
        ),
    }
}

fn refused(request: Request, status: StatusCode, code: &'static str) -> Request {
    Request { refusal: Some(Refusal { status, code, by: Refuser::Door }), ..request }
}

/// How many requests [`reuse`] chooses from.
pub(super) const REUSES: u32 = 6;

/// A keyed write's `key` with another request, which must have no effect. `which` chooses the
/// request. Committed schedules contain these numbers, so append new requests and never renumber.
pub(in crate::harness) fn reuse(key: String, which: u32) -> Request {
    let request = match which % REUSES {
        0 => Request::post("/create_topic", json!({ "name": format!("again-{key}") })),
        1 => {
            let body = json!({ "topicUUID": NOTHING, "partitionId": 0 });
            Request::post("/create_partition", body)
        }
        2 => {
            let body = json!({ "brokerId": NOBODY, "brokerHost": "again", "brokerPort": 1 });
            Request::post("/register_broker", body)
        }
        3 => Request::post("/update_broker", json!({ "brokerId": NOBODY, "brokerPort": 1 })),
        4 => {
            let request = Request::get(format!("/unregister_broker/{NOBODY}"));
            Request { method: Method::DELETE, ..request }
        }
        _ => Request::post("/register_producer", json!({ "brokerId": NOBODY })),
    };
    let request = request.keyed(key);
    let (status, code) = (StatusCode::CONFLICT, "idempotency_key_reused");
    Request { refusal: Some(Refusal { status, code, by: Refuser::Cluster }), ..request }
}

/// A keyed write's key and body on another path, `request`, which must have no effect.
pub(super) fn misrouted(request: Request) -> Request {
    let (status, code) = (StatusCode::CONFLICT, "idempotency_key_reused");
    Request { refusal: Some(Refusal { status, code, by: Refuser::Cluster }), ..request }
}

/// A keyed write's `key`, which should be forgotten by now, with another request.
pub(in crate::harness) fn revive(key: String) -> Request {
    let body = json!({ "name": format!("revived-{key}") });
    let request = Request::post("/create_topic", body).keyed(key);
    let (status, code) = (StatusCode::CONFLICT, "idempotency_key_reused");
    Request { refusal: Some(Refusal { status, code, by: Refuser::Memory }), ..request }
}

/// Fields, paths and queries that say what cannot be.
fn malformed(which: u8) -> Request {
    let broker =
        |id: i32, port: u32| json!({ "brokerId": id, "brokerHost": "h", "brokerPort": port });
    let (request, code) = match which {
        0 => (
            Request::post("/create_topic", json!({ "name": "no spaces, please" })),
            "invalid_field",
        ),
        1 => (Request::post("/create_topic", json!({ "title": "x" })), "invalid_field"),
        2 => (Request::post("/register_broker", broker(-1, 1)), "invalid_field"),
        3 => (Request::post("/register_broker", broker(1, 70_000)), "invalid_field"),
        4 => (Request::get("/broker_mgmt/yesterday"), "invalid_path"),
        5 => (Request::get("/client_mgmt/0?mode=backwards"), "invalid_query"),
        6 => {
            let request = Request::post("/get_active_brokers", Value::Null);
            return refused(request, StatusCode::METHOD_NOT_ALLOWED, "method_not_allowed");
        }
        _ => (Request::post("/update_broker", json!(["not", "an", "object"])), "invalid_body"),
    };
    refused(request, StatusCode::BAD_REQUEST, code)
}

/// What no server has to understand.
fn impolite(which: u8) -> Request {
    let json_type = Some("application/json");
    let post = |path: &str| Request::post(path, Value::Null);
    let put = |request: Request| Request { method: Method::PUT, ..request };
    let delete = |request: Request| Request { method: Method::DELETE, ..request };
    let topic = || json!({ "name": "never" });
    let too_large = vec![b' '; BODY_BYTES_MAX + 1];
    let (bad, unsupported) = (StatusCode::BAD_REQUEST, StatusCode::UNSUPPORTED_MEDIA_TYPE);
    let (missing, method) = (StatusCode::NOT_FOUND, StatusCode::METHOD_NOT_ALLOWED);
    match which {
        8 => refused(
            post("/create_topic").raw(json_type, &b"{\"name\": "[..]),
            bad,
            "malformed_json",
        ),
        9 => refused(post("/register_broker").raw(json_type, ""), bad, "malformed_json"),
        10 => refused(
            post("/create_topic").raw(None, topic().to_string()),
            unsupported,
            "unsupported_media_type",
        ),
        11 => refused(
            post("/create_partition").raw(Some("text/plain"), topic().to_string()),
            unsupported,
            "unsupported_media_type",
        ),
        12 => refused(
            post("/create_topic").raw(json_type, too_large),
            StatusCode::PAYLOAD_TOO_LARGE,
            "body_too_large",
        ),
        13 => refused(Request::get("/create_topics"), missing, "unknown_endpoint"),
        14 => refused(put(post("/create_topic")), method, "method_not_allowed"),
        15 => refused(delete(Request::get("/cluster")), method, "method_not_allowed"),
        16 => refused(
            Request::get("/get_topic_by_name/t1?consistency=sometimes"),
            bad,
            "invalid_query",
        ),
        17 => refused(Request::get("/get_broker_by_id/the-first"), bad, "invalid_path"),
        18 => {
            let record = json!({ "name": "TopicRecord", "fields": { "brokerId": 1 } });
            refused(Request::post("/update_broker", record), bad, "wrong_record")
        }
        19 => {
            let request = Request::post("/create_topic", topic()).keyed("k".repeat(256));
            refused(request, bad, "invalid_idempotency_key")
        }
        20 => {
            let body = json!({ "brokerId": 1, "brokerStatus": "SLEEPY" });
            refused(Request::post("/update_broker", body), bad, "invalid_field")
        }
        _ => {
            refused(Request::post("/cluster/leader", json!({ "node": "me" })), bad, "invalid_field")
        }
    }
}

/// What is about somebody or something that does not exist: only the cluster knows.
fn about_nobody(which: u8) -> Request {
    let partition = json!({ "topicUUID": NOTHING, "partitionId": 0 });
    let delete = |path: String| Request { method: Method::DELETE, ..Request::get(path) };
    let (request, code) = match which {
        22 => (
            Request::post("/update_broker", json!({ "brokerId": NOBODY, "brokerPort": 1 })),
            "unknown_broker",
        ),
        23 => (
            Request::post("/update_broker", json!({ "brokerId": NOTHING, "brokerPort": 1 })),
            "unknown_broker",
        ),
        24 => (delete(format!("/unregister_broker/{NOBODY}")), "unknown_broker"),
        25 => {
            (Request::post(format!("/unregister_broker/{NOTHING}"), Value::Null), "unknown_broker")
        }
        26 => (Request::get(format!("/get_broker_by_id/{NOTHING}")), "unknown_broker"),
        27 => {
            (Request::post("/register_producer", json!({ "brokerId": NOBODY })), "unknown_broker")
        }
        28 => (Request::post("/create_partition", partition), "unknown_topic"),
        29 => (Request::get("/get_topic_by_name/no%20spaces"), "unknown_topic"),
        30 => (delete(format!("/cluster/nodes/{NOBODY}")), "unknown_member"),
        _ => (Request::post("/cluster/leader", json!({ "node": NOBODY })), "unknown_member"),
    };
    let refusal = Refusal { status: StatusCode::NOT_FOUND, code, by: Refuser::Cluster };
    Request { refusal: Some(refusal), ..request }
}
