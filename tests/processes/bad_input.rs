//! What the endpoints refuse, in which words, and that no bytes from the network harm a node.
//!
//! Every test ends by asking every node for its health and for a write.

use std::io::{Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::time::Duration;

use serde_json::{Value, json};

use crate::client::{Connection, PATIENCE, Request, Response};
use crate::shared::{Shared, broker, fresh_id, fresh_name, registration, topic};

/// Bytes of a body at most, as the API says.
const BODY_BYTES_MAX: usize = 64 << 10;

/// A UUID that nothing has.
const NOBODY: &str = "00000000-0000-4000-8000-000000000000";

/// An endpoint that takes a body.
struct Endpoint {
    method: &'static str,
    path: &'static str,
    record: &'static str,
    /// A good body, if what it names is there.
    good: Value,
    required: &'static [&'static str],
    /// Fields with values that they cannot have.
    bad: Vec<(&'static str, Vec<Value>)>,
}

impl Endpoint {
    fn send(&self, addr: SocketAddr, body: impl Into<Vec<u8>>) -> Response {
        self.request().header("content-type", "application/json").body(body).ask(addr)
    }

    fn request(&self) -> Request {
        Request::new(self.method, self.path)
    }

    /// The good body with one field changed.
    fn with(&self, field: &str, value: &Value) -> Value {
        let mut body = self.good.clone();
        body[field] = value.clone();
        body
    }
}

fn bad_ids() -> Vec<Value> {
    [json!(-1), json!(1.5), json!(2_147_483_648_u64), json!(u64::MAX), json!(1e300), json!(true)]
        .into_iter()
        .chain([json!([]), json!({}), json!("x"), json!("")])
        .collect()
}

fn bad_uuids() -> Vec<Value> {
    vec![json!(1), json!("x"), json!(""), json!(null), json!([]), json!({}), json!("0".repeat(33))]
}

fn bad_lists() -> Vec<Value> {
    vec![json!(1), json!("x"), json!({}), json!(["x"]), json!([-1]), json!([null]), json!([[1]])]
}

fn bad_hosts() -> Vec<Value> {
    vec![json!(5), json!(""), json!("a b"), json!("a\u{0}"), json!([]), json!("h".repeat(256))]
}

fn bad_ports() -> Vec<Value> {
    let numbers = [json!(0), json!(65_536), json!(-1), json!(1.5), json!(true), json!([])];
    let texts = ["0", "65536", "-1", "+1", "", "x", "9092 ", "1e3"].map(Value::from);
    numbers.into_iter().chain(texts).collect()
}

fn endpoints() -> Vec<Endpoint> {
    let mut broker_refs = bad_ids();
    broker_refs.push(json!("1"));
    let protocols = vec![json!(1), json!(""), json!("a b"), json!("p".repeat(65)), json!({})];
    let update = |method| Endpoint {
        method,
        path: "/update_broker",
        record: "RegistrationChangeBrokerRecord",
        good: json!({"brokerId": NOBODY}),
        required: &["brokerId"],
        bad: vec![
            ("brokerId", broker_refs.clone()),
            ("brokerHost", bad_hosts()),
            ("brokerPort", bad_ports()),
            ("securityProtocol", protocols.clone()),
            ("brokerStatus", vec![json!("alive"), json!("GONE"), json!(""), json!(1), json!([])]),
            ("epoch", vec![json!(-1), json!("0"), json!(1.5), json!(1_u64 << 53), json!([])]),
        ],
    };
    vec![
        Endpoint {
            method: "POST",
            path: "/register_broker",
            record: "RegisterBrokerRecord",
            good: registration(),
            required: &["brokerId", "brokerHost", "brokerPort"],
            bad: vec![
                ("brokerId", [bad_ids(), vec![json!(null), json!("1"), json!(NOBODY)]].concat()),
                ("brokerHost", [bad_hosts(), vec![json!(null)]].concat()),
                ("brokerPort", [bad_ports(), vec![json!(null)]].concat()),
                ("securityProtocol", protocols.clone()),
                ("rackId", vec![json!(1), json!([]), json!("a\nb"), json!("r".repeat(256))]),
            ],
        },
        update("POST"),
        update("PUT"),
        Endpoint {
            method: "POST",
            path: "/create_topic",
            record: "TopicRecord",
            good: json!({"name": fresh_name("unused")}),
            required: &["name"],
            bad: vec![(
                "name",
                [
                    json!(1),
                    json!(null),
                    json!([]),
                    json!({}),
                    json!("n".repeat(250)),
                    json!("n".repeat(50_000)),
                ]
                .into_iter()
                .chain(["", ".", "..", "a b", "a/b", "é", "a\u{0}", "\u{202e}"].map(Value::from))
                .collect(),
            )],
        },
        Endpoint {
            method: "POST",
            path: "/create_partition",
            record: "PartitionRecord",
            good: json!({"partitionId": 0, "topicUUID": NOBODY}),
            required: &["partitionId", "topicUUID"],
            bad: vec![
                ("partitionId", [bad_ids(), vec![json!(null), json!("1")]].concat()),
                ("topicUUID", bad_uuids()),
                ("replicas", bad_lists()),
                ("ISR", bad_lists()),
                ("removingReplicas", bad_lists()),
                ("addingReplicas", bad_lists()),
                ("leader", vec![json!(-1), json!("x"), json!(true), json!([]), json!({})]),
            ],
        },
        Endpoint {
            method: "POST",
            path: "/register_producer",
            record: "ProducerIdsRecord",
            good: json!({"brokerId": NOBODY}),
            required: &["brokerId"],
            bad: vec![
                ("brokerId", [broker_refs, vec![json!(null)]].concat()),
                ("producerId", bad_ids()),
            ],
        },
    ]
}

/// Claims that `answer` is a problem of this status and code (RFC 9457).
#[track_caller]
fn assert_problem(answer: &Response, status: u16, code: &str) {
    let of = format!("{} {}", answer.status, answer.text());
    assert_eq!(answer.status, status, "{of}");
    assert_eq!(answer.header("content-type"), Some("application/problem+json"), "{of}");
    let problem = answer.json();
    assert_eq!((&problem["status"], &problem["code"]), (&json!(status), &json!(code)), "{of}");
    assert!(problem["type"].is_string() && problem["title"].is_string(), "{of}");
    assert!(problem["detail"].as_str().is_some_and(|detail| !detail.is_empty()), "{of}");
}

/// Claims that every node serves and takes writes.
fn assert_all_well(shared: &Shared) {
    for node in shared.cluster().nodes() {
        assert_eq!(node.status("/healthz"), 200, "node {}", node.id);
        topic(node.http);
    }
}

#[test]
fn a_body_that_is_no_json_object_is_refused() {
    let shared = Shared::new();
    let addr = shared.follower();
    let nested = format!("{}{}", "[".repeat(30_000), "]".repeat(30_000));
    let deep = format!("{}1{}", r#"{"a":"#.repeat(5_000), "}".repeat(5_000));
    let texts = [
        "{",
        "",
        "{\"a\":1,}",
        "nonsense",
        "{} {}",
        "'{}'",
        "{\"a\":NaN}",
        "\u{feff}{}",
        &nested,
        &deep,
    ];
    for endpoint in endpoints() {
        for text in texts {
            assert_problem(&endpoint.send(addr, text), 400, "malformed_json");
        }
        for bytes in [&b"\xff\xfe{}"[..], b"{\"name\":\"\xc3\x28\"}", b"\0", b"{\"name\":\"a\0b\"}"]
        {
            assert_problem(&endpoint.send(addr, bytes), 400, "malformed_json");
        }
        for text in ["[]", "1", "\"x\"", "null", "true", "[{}]", "1e400"] {
            let code = if text == "1e400" { "malformed_json" } else { "invalid_body" };
            assert_problem(&endpoint.send(addr, text), 400, code);
        }
    }
    assert_all_well(&shared);
}

#[test]
fn a_field_that_is_missing_or_of_a_wrong_type_is_refused() {
    let shared = Shared::new();
    let addr = shared.follower();
    for endpoint in endpoints() {
        for field in endpoint.required {
            let mut body = endpoint.good.clone();
            body.as_object_mut().expect("an object").remove(*field);
            assert_problem(&endpoint.send(addr, body.to_string()), 400, "invalid_field");
        }
        for (field, values) in &endpoint.bad {
            for value in values {
                let answer = endpoint.send(addr, endpoint.with(field, value).to_string());
                let code = answer.json()["code"].clone();
                assert_eq!(
                    (answer.status, code),
                    (400, json!("invalid_field")),
                    "{} {field} {value}",
                    endpoint.path
                );
                assert_problem(&answer, 400, "invalid_field");
            }
        }
        let other = json!({"name": "NoSuchRecord", "fields": endpoint.good});
        assert_problem(&endpoint.send(addr, other.to_string()), 400, "wrong_record");
        let empty = json!({"type": "metadata", "name": endpoint.record, "fields": {}});
        assert_problem(&endpoint.send(addr, empty.to_string()), 400, "invalid_field");
        let twice =
            endpoint.good.to_string().replacen('{', "{\"brokerId\":1,\"brokerId\":\"x\",", 1);
        let answer = endpoint.send(addr, twice);
        assert!((400..500).contains(&answer.status) || answer.status == 201, "{answer:?}");
    }
    assert_all_well(&shared);
}

#[test]
fn a_body_that_is_too_large_is_refused() {
    let shared = Shared::new();
    let addr = shared.follower();
    for endpoint in endpoints() {
        let large = endpoint.with("padding", &json!("x".repeat(BODY_BYTES_MAX))).to_string();
        assert_problem(&endpoint.send(addr, large.clone()), 413, "body_too_large");

        let head = format!(
            "{} {} HTTP/1.1\r\nhost: x\r\ncontent-type: application/json\r\n",
            endpoint.method, endpoint.path
        );
        let chunked = format!(
            "{head}transfer-encoding: chunked\r\n\r\n{:x}\r\n{large}\r\n0\r\n\r\n",
            large.len()
        );
        assert_problem(&exchange(addr, chunked.as_bytes()), 413, "body_too_large");
        let endless = format!(
            "{head}transfer-encoding: chunked\r\n\r\n{}",
            format!("400\r\n{}\r\n", "x".repeat(1_024)).repeat(80)
        );
        assert_problem(&exchange(addr, endless.as_bytes()), 413, "body_too_large");
        // Refused by its announcement alone: nothing of it is sent.
        let announced = format!("{head}content-length: 1000000000000\r\n\r\n");
        assert_problem(&exchange(addr, announced.as_bytes()), 413, "body_too_large");

        // The largest that is allowed gets as far as its fields.
        let mut body = endpoint.good.clone();
        body.as_object_mut().expect("an object").remove(endpoint.required[0]);
        let rest = body.to_string().len() + r#","padding":"""#.len();
        body["padding"] = json!("x".repeat(BODY_BYTES_MAX - rest));
        let exact = body.to_string();
        assert!(
            exact.len() <= BODY_BYTES_MAX && exact.len() + 2 > BODY_BYTES_MAX,
            "{}",
            exact.len()
        );
        assert_problem(&endpoint.send(addr, exact), 400, "invalid_field");
    }
    assert_all_well(&shared);
}

#[test]
fn a_body_of_another_content_type_is_refused() {
    let shared = Shared::new();
    let addr = shared.follower();
    for endpoint in endpoints() {
        let request = endpoint.request().body(endpoint.good.to_string());
        assert_problem(&request.ask(addr), 415, "unsupported_media_type");
        for other in [
            "text/plain",
            "application/x-www-form-urlencoded",
            "application/jsonx",
            "",
            "json",
            ";",
        ] {
            let answer = request.clone().header("content-type", other).ask(addr);
            assert_problem(&answer, 415, "unsupported_media_type");
        }
        let mut incomplete = endpoint.good.clone();
        incomplete.as_object_mut().expect("an object").remove(endpoint.required[0]);
        for json in
            ["application/json; charset=utf-8", "Application/JSON", " application/json ;x=y"]
        {
            let request = endpoint.request().body(incomplete.to_string());
            assert_problem(&request.header("content-type", json).ask(addr), 400, "invalid_field");
        }
    }
    assert_all_well(&shared);
}

/// A compressed body was parsed as JSON, and refused as malformed.
#[test]
fn a_compressed_body_is_refused_as_an_unsupported_encoding() {
    let shared = Shared::new();
    let addr = shared.follower();
    let json = |endpoint: &Endpoint| endpoint.request().header("content-type", "application/json");
    for endpoint in endpoints() {
        let mut incomplete = endpoint.good.clone();
        incomplete.as_object_mut().expect("an object").remove(endpoint.required[0]);
        for coding in ["gzip", "GZIP", "br", "zstd", "identity, gzip", "x", "compress,identity"] {
            let request = json(&endpoint).header("content-encoding", coding);
            // The bytes do not matter: legal JSON, or the encoding that the header names.
            for body in [endpoint.good.to_string().into_bytes(), b"\x1f\x8b\x08\0".to_vec()] {
                let answer = request.clone().body(body).ask(addr);
                assert_problem(&answer, 415, "unsupported_media_type");
                assert!(answer.text().contains("Content-Encoding"), "{}", answer.text());
            }
        }
        for coding in ["identity", "Identity", "", "identity, identity"] {
            let request = json(&endpoint).header("content-encoding", coding);
            let answer = request.body(incomplete.to_string()).ask(addr);
            assert_problem(&answer, 400, "invalid_field");
        }
    }
    assert_all_well(&shared);
}

/// The last of two values was used, where a proxy may have judged the first.
#[test]
fn an_object_with_a_key_twice_is_refused_and_the_key_named() {
    let shared = Shared::new();
    let addr = shared.follower();
    for endpoint in endpoints() {
        let field = endpoint.required[0];
        let value = &endpoint.good[field];
        let good = endpoint.good.to_string();
        let members = good.strip_prefix('{').expect("an object");
        let envelope = |fields: &str| {
            format!(r#"{{"name":"{}","fields":{fields},"timestamp":1}}"#, endpoint.record)
        };
        let flat = format!(r#"{{"{field}":{value},{members}"#);
        let other = format!(r#"{{"unknown":[{{"{field}":1,"{field}":2}}],{members}"#);
        for body in [flat.clone(), other, envelope(&flat)] {
            let answer = endpoint.send(addr, body);
            assert_problem(&answer, 400, "duplicate_key");
            assert!(answer.json()["detail"].to_string().contains(field), "{}", answer.text());
        }
        let twice = envelope(&good).replace(r#""timestamp""#, r#""fields":{},"timestamp""#);
        let answer = endpoint.send(addr, twice);
        assert_problem(&answer, 400, "duplicate_key");
        assert!(answer.json()["detail"].to_string().contains("fields"), "{}", answer.text());
    }
    let body = r#"{"node":1,"node":2}"#;
    let transfer =
        Request::new("POST", "/cluster/leader").header("content-type", "application/json");
    assert_problem(&transfer.body(body).ask(addr), 400, "duplicate_key");
    assert_all_well(&shared);
}

/// Requests without a Host and with two were served, against RFC 9112 §3.2.
#[test]
fn a_request_has_one_host() {
    let shared = Shared::new();
    let addr = shared.follower();
    let body = json!({"name": fresh_name("unused")}).to_string();
    let post =
        format!("content-type: application/json\r\ncontent-length: {}\r\n\r\n{body}", body.len());
    let paths = ["GET /cluster", "GET /healthz", "GET /no_such_path", "PATCH /cluster"];
    for line in paths {
        for (version, hosts) in [
            ("1.1", ""),
            ("1.1", "host: x\r\nhost: x\r\n"),
            ("1.1", "host: x\r\nhost: y\r\n"),
            ("1.1", "host: a b\r\n"),
            ("1.1", "host: user@x\r\n"),
            ("1.0", "host: x\r\nhost: y\r\n"),
        ] {
            let answer = exchange(addr, format!("{line} HTTP/{version}\r\n{hosts}\r\n").as_bytes());
            assert_problem(&answer, 400, "invalid_host");
        }
    }
    for hosts in ["", "host: x\r\nHost: x\r\n"] {
        let request = format!("POST /create_topic HTTP/1.1\r\n{hosts}{post}");
        assert_problem(&exchange(addr, request.as_bytes()), 400, "invalid_host");
    }
    for (version, hosts) in [
        ("1.0", ""),
        ("1.0", "host: x\r\n"),
        ("1.1", "host: x\r\n"),
        ("1.1", "host: [::1]:5011\r\n"),
        ("1.1", "host:\r\n"),
    ] {
        let request = format!("GET /healthz HTTP/{version}\r\n{hosts}\r\n");
        assert_eq!(exchange(addr, request.as_bytes()).status, 200, "{request:?}");
    }
    assert_all_well(&shared);
}

#[test]
fn an_unknown_thing_is_not_found() {
    let shared = Shared::new();
    let addr = shared.follower();
    let unknown = fresh_id();
    let uuid = topic(addr)["topicUUID"].clone();
    for name in [json!(unknown), json!(NOBODY)] {
        let text = name.as_str().map_or_else(|| name.to_string(), str::to_owned);
        let partition = |field: &str| json!({"partitionId": 0, "topicUUID": uuid, field: [name]});
        let requests = [
            Request::get(&format!("/get_broker_by_id/{text}")),
            Request::get(&format!("/get_broker_by_id/{text}?consistency=stale")),
            Request::new("DELETE", &format!("/unregister_broker/{text}")),
            Request::new("POST", &format!("/unregister_broker/{text}")),
            Request::json("POST", "/update_broker", &json!({"brokerId": name})),
            Request::json("PUT", "/update_broker", &json!({"brokerId": name, "epoch": 3})),
            Request::post("/register_producer", &json!({"brokerId": name})),
            Request::post("/create_partition", &partition("replicas")),
            Request::post("/create_partition", &partition("ISR")),
        ];
        for request in requests {
            assert_problem(&request.ask(addr), 404, "unknown_broker");
        }
    }
    let partition = json!({"partitionId": 0, "topicUUID": NOBODY});
    assert_problem(&Request::post("/create_partition", &partition).ask(addr), 404, "unknown_topic");
    for name in [fresh_name("none"), "%00".to_owned(), "%F0%9F%A6%80".to_owned(), "n".repeat(5_000)]
    {
        let answer = Request::get(&format!("/get_topic_by_name/{name}")).ask(addr);
        assert_problem(&answer, 404, "unknown_topic");
    }
    assert_all_well(&shared);
}

#[test]
fn a_conflict_is_refused() {
    let shared = Shared::new();
    let addr = shared.follower();
    let post = |path: &str, body: &Value| Request::post(path, body).ask(addr);

    let live = broker(addr);
    let (id, uuid) = (&live["brokerId"], &live["internalUUID"]);
    let again = json!({"brokerId": id, "brokerHost": "other", "brokerPort": 1});
    assert_problem(&post("/register_broker", &again), 409, "duplicate_broker");
    let topic = topic(addr);
    assert_problem(&post("/create_topic", &json!({"name": topic["name"]})), 409, "duplicate_topic");
    let partition = json!({"partitionId": 7, "topicUUID": topic["topicUUID"], "replicas": [id]});
    post("/create_partition", &partition).expect(201);
    assert_problem(&post("/create_partition", &partition), 409, "duplicate_partition");
    let producer = json!({"brokerId": id, "producerId": fresh_id()});
    post("/register_producer", &producer).expect(201);
    assert_problem(&post("/register_producer", &producer), 409, "duplicate_producer");

    let update = |change: Value| {
        let mut body = change;
        body["brokerId"] = uuid.clone();
        post("/update_broker", &body)
    };
    assert_problem(&update(json!({"epoch": 1})), 409, "stale_epoch");
    update(json!({"epoch": 0, "brokerStatus": "FENCED"})).expect(200);
    assert_problem(&update(json!({"epoch": 0, "brokerHost": "late"})), 409, "stale_epoch");
    assert_problem(&update(json!({"brokerStatus": "INIT"})), 409, "illegal_status");
    let in_sync =
        json!({"partitionId": 8, "topicUUID": topic["topicUUID"], "replicas": [id], "ISR": [id]});
    assert_problem(&post("/create_partition", &in_sync), 409, "broker_fenced");

    for (field, ids, code) in [
        ("replicas", json!([id, id]), "invalid_replicas"),
        ("ISR", json!([id]), "invalid_isr"),
        ("removingReplicas", json!([id]), "invalid_reassignment"),
        ("addingReplicas", json!([id]), "invalid_reassignment"),
    ] {
        let body = json!({"partitionId": 9, "topicUUID": topic["topicUUID"], field: ids});
        assert_problem(&post("/create_partition", &body), 400, code);
    }
    let leader = json!({"partitionId": 9, "topicUUID": topic["topicUUID"], "leader": id});
    assert_problem(&post("/create_partition", &leader), 400, "invalid_leader");

    Request::new("DELETE", &format!("/unregister_broker/{id}")).ask(addr).expect(200);
    for method in ["DELETE", "POST"] {
        let answer = Request::new(method, &format!("/unregister_broker/{id}")).ask(addr);
        assert_problem(&answer, 409, "broker_closed");
    }
    assert_problem(&update(json!({})), 409, "broker_closed");
    assert_problem(&post("/register_producer", &json!({"brokerId": id})), 409, "broker_closed");
    let body = json!({"partitionId": 9, "topicUUID": topic["topicUUID"], "replicas": [uuid]});
    assert_problem(&post("/create_partition", &body), 409, "broker_closed");
    assert_all_well(&shared);
}

const GETS: &[&str] = &[
    "/get_active_brokers",
    "/get_broker_by_id/1",
    "/get_topic_by_name/x",
    "/broker_mgmt/0",
    "/client_mgmt/0",
    "/cluster",
    "/healthz",
    "/readyz",
];

#[test]
fn a_wrong_method_or_path_is_refused() {
    let shared = Shared::new();
    let addr = shared.follower();
    for path in GETS {
        for method in ["POST", "PUT", "DELETE", "PATCH", "OPTIONS", "NONSENSE"] {
            let answer = Request::json(method, path, &json!({})).ask(addr);
            assert_problem(&answer, 405, "method_not_allowed");
            assert!(
                answer.header("allow").is_some_and(|allow| allow.contains("GET")),
                "{answer:?}"
            );
        }
    }
    for endpoint in endpoints() {
        for method in ["GET", "DELETE", "PATCH", "NONSENSE"] {
            let answer = Request::new(method, endpoint.path).ask(addr);
            assert_problem(&answer, 405, "method_not_allowed");
            assert!(
                answer.header("allow").is_some_and(|allow| allow.contains(endpoint.method)),
                "{answer:?}"
            );
        }
    }
    for method in ["GET", "PUT", "PATCH"] {
        assert_problem(
            &Request::new(method, "/unregister_broker/1").ask(addr),
            405,
            "method_not_allowed",
        );
    }
    let paths = [
        "/",
        "/nonsense",
        "/register_broker/",
        "/register_broker/1",
        "/GET_ACTIVE_BROKERS",
        "//cluster",
    ];
    for path in paths.into_iter().chain([
        "/broker_mgmt",
        "/broker_mgmt/",
        "/broker_mgmt/0/1",
        "/get_topic_by_name/a/b",
    ]) {
        for method in ["GET", "POST"] {
            assert_problem(
                &Request::json(method, path, &json!({})).ask(addr),
                404,
                "unknown_endpoint",
            );
        }
    }
    assert_all_well(&shared);
}

#[test]
fn a_bad_path_or_query_is_refused() {
    let shared = Shared::new();
    let addr = shared.follower();
    for endpoint in ["broker_mgmt", "client_mgmt"] {
        for offset in [
            "x", "nan", "NaN", "-nan", "inf", "-inf", "infinity", "1e999", "-1e999", "%20",
            "1%202", "0x1", "%FF",
        ] {
            for query in ["", "?mode=diff", "?consistency=stale"] {
                let answer = Request::get(&format!("/{endpoint}/{offset}{query}")).ask(addr);
                assert_problem(&answer, 400, "invalid_path");
            }
        }
        for query in ["mode=x", "mode=", "mode=diff&mode=diff", "mode=DIFF"] {
            assert_problem(
                &Request::get(&format!("/{endpoint}/0?{query}")).ask(addr),
                400,
                "invalid_query",
            );
        }
        // Odd, but numbers.
        for offset in ["0", "-1", "1e300", "-1e300", "1e-300", ".5", "5.", "00"] {
            Request::get(&format!("/{endpoint}/{offset}")).ask(addr).expect(200);
        }
    }
    for id in [
        "x",
        "-1",
        "+1",
        "1.0",
        "2147483648",
        "99999999999999999999",
        "%31%FF",
        "%20",
        "0x1",
        "1e3",
    ] {
        for (method, path) in [
            ("GET", "get_broker_by_id"),
            ("DELETE", "unregister_broker"),
            ("POST", "unregister_broker"),
        ] {
            let answer = Request::new(method, &format!("/{path}/{id}")).ask(addr);
            assert_eq!(answer.status, 400, "{method} {path} {id}: {}", answer.text());
            assert_problem(&answer, 400, "invalid_path");
        }
    }
    assert_problem(&Request::get("/get_topic_by_name/%FF").ask(addr), 400, "invalid_path");
    for path in &GETS[..5] {
        for query in [
            "consistency=x",
            "consistency=",
            "consistency=stale&consistency=stale",
            "consistency=%FF",
        ] {
            assert_problem(
                &Request::get(&format!("{path}?{query}")).ask(addr),
                400,
                "invalid_query",
            );
        }
    }
    assert_all_well(&shared);
}

#[test]
fn a_bad_idempotency_key_is_refused() {
    let shared = Shared::new();
    let addr = shared.follower();
    for endpoint in endpoints() {
        let request = Request::json(endpoint.method, endpoint.path, &endpoint.good);
        for key in ["", " ", &"k".repeat(256), &"k".repeat(10_000), "ключ", "a\tb"] {
            assert_problem(&request.clone().key(key).ask(addr), 400, "invalid_idempotency_key");
        }
        assert_problem(
            &request.clone().key("a").key("a").ask(addr),
            400,
            "invalid_idempotency_key",
        );
    }
    let path = format!("/unregister_broker/{}", fresh_id());
    for method in ["DELETE", "POST"] {
        let answer = Request::new(method, &path).key(&"k".repeat(256)).ask(addr);
        assert_problem(&answer, 400, "invalid_idempotency_key");
    }

    let longest = format!("{:k<255}", fresh_name("longest"));
    let body = json!({"name": fresh_name("keyed")});
    let record = Request::post("/create_topic", &body).key(&longest).ask(addr).expect(201);
    assert_eq!(Request::post("/create_topic", &body).key(&longest).ask(addr).expect(201), record);
    assert_all_well(&shared);
}

#[test]
fn a_key_belongs_to_one_request() {
    let shared = Shared::new();
    let addr = shared.follower();
    let (key, body) = (fresh_name("key"), json!({"name": fresh_name("first")}));
    let record = Request::post("/create_topic", &body).key(&key).ask(addr).expect(201);
    let live = broker(addr);
    let unregister = Request::new("DELETE", &format!("/unregister_broker/{}", live["brokerId"]));
    let others = [
        Request::post("/create_topic", &json!({"name": fresh_name("second")})),
        Request::post("/create_topic", &json!({"name": body["name"], "more": 1})),
        Request::post("/register_broker", &registration()),
        Request::post("/register_producer", &json!({"brokerId": live["brokerId"]})),
        unregister,
    ];
    for other in others {
        assert_problem(&other.key(&key).ask(addr), 409, "idempotency_key_reused");
    }
    assert_eq!(Request::post("/create_topic", &body).key(&key).ask(addr).expect(201), record);

    // A refusal is remembered like a success.
    let key = fresh_name("key");
    let name = json!(fresh_id());
    let update = Request::post("/update_broker", &json!({"brokerId": name})).key(&key);
    let refusal = update.ask(addr);
    assert_problem(&refusal, 404, "unknown_broker");
    let register = json!({"brokerId": name, "brokerHost": "h", "brokerPort": 1});
    Request::post("/register_broker", &register).ask(addr).expect(201);
    assert_eq!(update.ask(addr).json(), refusal.json());
    assert_all_well(&shared);
}

fn exchange(addr: SocketAddr, bytes: &[u8]) -> Response {
    let mut connection = Connection::open(addr, PATIENCE).expect("a connection");
    connection.exchange(bytes, PATIENCE).expect("an answer")
}

#[test]
fn a_head_that_is_no_http_is_refused_or_cut_off() {
    let shared = Shared::new();
    let long = "x".repeat(40_000);
    let many: Vec<_> = (0..500).map(|number| format!("x-{number}: y\r\n")).collect();
    let many = many.concat();
    let heads = [
        format!("GET /cluster HTTP/1.1\r\nhost: x\r\nlong: {long}\r\n\r\n"),
        format!("GET /cluster HTTP/1.1\r\nhost: x\r\n{long}: long\r\n\r\n"),
        format!("GET /{long} HTTP/1.1\r\nhost: x\r\n\r\n"),
        format!("GET /cluster HTTP/1.1\r\nhost: x\r\n{many}\r\n"),
        "GET /cluster HTTP/9.9\r\n\r\n".to_owned(),
        "GET  HTTP/1.1\r\n\r\n".to_owned(),
        "\r\n\r\n\0\0\0\0\r\n\r\n".to_owned(),
        "PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n".to_owned(),
        "GET /cluster HTTP/1.1\r\nno colon\r\n\r\n".to_owned(),
        "POST /create_topic HTTP/1.1\r\nhost: x\r\ncontent-length: -1\r\n\r\n{}".to_owned(),
        "POST /create_topic HTTP/1.1\r\nhost: x\r\ncontent-length: 1\r\ncontent-length: 2\r\n\r\n{}".to_owned(),
        "POST /create_topic HTTP/1.1\r\nhost: x\r\ncontent-length: 99999999999999999999999\r\n\r\n{}".to_owned(),
        "POST /create_topic HTTP/1.1\r\nhost: x\r\ntransfer-encoding: nonsense\r\n\r\n{}".to_owned(),
    ];
    for addr in shared.cluster().addrs() {
        for head in &heads {
            let mut connection = Connection::open(addr, PATIENCE).expect("a connection");
            // hyper answers what it can still answer; a connection that is simply closed is fine as well.
            if let Ok(answer) = connection.exchange(head.as_bytes(), PATIENCE) {
                assert!((400..600).contains(&answer.status) && answer.status != 500, "{answer:?}");
            }
        }
    }
    assert_all_well(&shared);
}

#[test]
fn a_body_that_breaks_off_is_no_write() {
    let shared = Shared::new();
    let addr = shared.follower();
    let name = fresh_name("broken");
    let body = json!({"name": name}).to_string();
    let head = "POST /create_topic HTTP/1.1\r\nhost: x\r\ncontent-type: application/json\r\n";
    let sent = [
        format!("{head}content-length: {}\r\n\r\n{body}", body.len() + 1),
        format!("{head}transfer-encoding: chunked\r\n\r\n{:x}\r\n{body}", body.len() + 1),
        format!("{head}transfer-encoding: chunked\r\n\r\n{:x}\r\n{body}\r\n", body.len()),
        format!("{head}transfer-encoding: chunked\r\n\r\nzz\r\n{body}\r\n"),
    ];
    for bytes in sent {
        let mut stream = TcpStream::connect(addr).expect("a connection");
        stream.write_all(bytes.as_bytes()).expect("room");
        stream.shutdown(std::net::Shutdown::Write).expect("a connection");
        stream.set_read_timeout(Some(PATIENCE)).expect("a limit");
        let mut answer = Vec::new();
        let _ = stream.read_to_end(&mut answer);
        let answer = String::from_utf8_lossy(&answer);
        assert!(answer.is_empty() || answer.starts_with("HTTP/1.1 400"), "{answer}");
    }
    assert_eq!(Request::get(&format!("/get_topic_by_name/{name}")).ask(addr).status, 404);
    assert_all_well(&shared);
}

/// Bytes without a meaning, the same in every run (xorshift64).
fn noise(seed: u64, length: usize) -> Vec<u8> {
    let mut state = seed | 1;
    let mut next = || {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        state.to_le_bytes()[3]
    };
    (0..length).map(|_| next()).collect()
}

#[test]
fn garbage_on_either_port_harms_nobody() {
    let shared = Shared::new();
    let frame = |length: u32, body: &[u8]| [&length.to_le_bytes()[..], body].concat();
    let mut garbage = vec![
        Vec::new(),
        vec![0],
        vec![0; 4],
        vec![0xff; 100_000],
        b"GET / HTTP/1.1\r\n\r\n".to_vec(),
        frame(u32::MAX, b""),
        frame(u32::MAX, &[0; 1_000]),
        // Legal lengths, of which the body never comes, or is not a message.
        frame(8 << 20, b"x"),
        frame((8 << 20) + 1, b"x"),
        frame(1, b"\x01"),
        frame(9, b"\x01\xff\xff\xff\xff\xff\xff\xff\xff"),
        frame(0, b""),
    ];
    for seed in 1..20 {
        let body = noise(seed, 300);
        garbage.push(frame(300, &body));
        // The version that nodes speak, and then noise.
        garbage.push(frame(300, &[&[1], &body[1..]].concat()));
        garbage.push(noise(seed, 5_000));
    }
    let mut open = Vec::new();
    for node in shared.cluster().nodes() {
        for bytes in &garbage {
            for addr in [node.raft, node.http] {
                let mut stream = TcpStream::connect_timeout(&addr, PATIENCE).expect("a connection");
                stream.set_write_timeout(Some(PATIENCE)).expect("a limit");
                // The node may close before it has all.
                let _ = stream.write_all(bytes);
                open.push(stream);
            }
        }
        // While all these hang, and then cut off.
        assert_eq!(node.status("/healthz"), 200);
        topic(node.http);
        open.clear();
    }
    assert_all_well(&shared);
}

#[test]
fn a_frame_that_is_too_long_is_cut_off() {
    let shared = Shared::new();
    for node in shared.cluster().nodes() {
        let mut stream = TcpStream::connect_timeout(&node.raft, PATIENCE).expect("a connection");
        stream.write_all(&u32::MAX.to_le_bytes()).expect("room");
        stream.set_read_timeout(Some(Duration::from_secs(30))).expect("a limit");
        let mut answer = [0; 16];
        let read = stream.read(&mut answer);
        let cut_off = match &read {
            Ok(bytes) => *bytes == 0,
            Err(error) => error.kind() == std::io::ErrorKind::ConnectionReset,
        };
        assert!(cut_off, "node {} waits for 4 GiB: {read:?}", node.id);
    }
    assert_all_well(&shared);
}
