//! How much of the HTTP contract a sweep has asked for and seen, compared with
//! `src/http/openapi.json`.
//!
//! The document is read into *points*. A point is one of four things: an operation; a form that a
//! field or parameter of an operation can take (an integer, a UUID, `null`, a value of an
//! enumeration); an answer of an operation; an error code. A run counts the points that its
//! clients' requests and answers show. A sweep with `--coverage` fails if it misses one.
//!
//! Errors that depend on an operation's own rules are counted for each operation: 404 and 409, and
//! 400 with a code of the metadata. All other errors come from code that all operations share, and
//! are counted once.
//!
//! [`EXCEPTIONS`] lists the points that no run reaches, each with the reason.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::LazyLock;

use serde_json::Value;

use super::exchanges::Exchange;

/// The document that the nodes serve.
const DOCUMENT: &str = include_str!("../../../src/http/openapi.json");

/// Seeds of the swarm within which every point must be reached.
pub const SEEDS: u64 = 400;

/// Codes of the metadata with status 400: see `RejectionKind::Invalid`.
const INVALID: [&str; 4] =
    ["invalid_replicas", "invalid_isr", "invalid_leader", "invalid_reassignment"];

/// Points that no run reaches: the end of their names, and the reason.
pub const EXCEPTIONS: [(&str, &str); 9] = [
    ("incomplete_body", "a simulated client that breaks off a body gets no answer any more"),
    ("request_timeout", "simulated clients send a body whole, and a cut link delays the head too"),
    ("invalid_host", "simulated clients send one Host header, as hyper does"),
    ("internal", "a bug: a run in which it comes fails"),
    ("duplicate_uuid", "servers draw UUIDs at random, 122 bits each"),
    ("producer_ids_exhausted", "takes two thousand million registrations"),
    ("overloaded", "takes more requests at the same time than a run has clients"),
    ("last_voter", "the operator of a run keeps at least two voters"),
    (
        "not_a_voter",
        "a learner becomes a voter within milliseconds, before an operator can name it",
    ),
];

/// The points of the document.
static POINTS: LazyLock<Contract> = LazyLock::new(Contract::read);

/// The forms that a field or a parameter can take.
type Forms = BTreeSet<String>;

#[derive(Debug, Default)]
struct Operation {
    /// `GET /a/{b}`
    name: String,
    /// By name, without the envelope.
    fields: BTreeMap<String, Forms>,
    /// By name: those in the query.
    query: BTreeMap<String, Forms>,
    /// The forms of the path's parameter, if there is one.
    path: Option<Forms>,
    takes_key: bool,
    takes_record: bool,
}

#[derive(Debug, Default)]
struct Contract {
    operations: Vec<Operation>,
    points: BTreeSet<String>,
}

/// `schema`, or the one that it refers to.
fn resolve<'a>(document: &'a Value, schema: &'a Value) -> &'a Value {
    let reference = schema["$ref"].as_str().and_then(|reference| reference.strip_prefix('#'));
    reference.and_then(|pointer| document.pointer(pointer)).unwrap_or(schema)
}

/// The forms that `schema` allows.
fn forms(document: &Value, schema: &Value) -> Forms {
    let schema = resolve(document, schema);
    let mut found = Forms::new();
    for choice in schema["anyOf"].as_array().into_iter().flatten() {
        found.extend(forms(document, choice));
    }
    if let Some(values) = schema["enum"].as_array() {
        found.extend(values.iter().filter_map(Value::as_str).map(str::to_owned));
        return found;
    }
    if schema["const"] == "" {
        found.insert("\"\"".to_owned());
    }
    let types: Vec<&str> = match &schema["type"] {
        Value::String(one) => vec![one],
        Value::Array(several) => several.iter().filter_map(Value::as_str).collect(),
        _ => Vec::new(),
    };
    for kind in types {
        match kind {
            "array" => found.extend(forms(document, &schema["items"])),
            "string" if schema["format"] == "uuid" => {
                found.insert("uuid".to_owned());
            }
            kind => {
                found.insert(kind.to_owned());
            }
        }
    }
    found
}

/// The forms of `allowed` that `value` takes.
fn forms_of(value: &Value, allowed: &Forms) -> Forms {
    let one = |form: &str| Forms::from([form.to_owned()]);
    match value {
        Value::Null => one("null"),
        Value::Number(_) if allowed.contains("integer") => one("integer"),
        Value::Number(_) => one("number"),
        Value::String(text) if text.is_empty() => one("\"\""),
        Value::String(text) if allowed.contains(text) => one(text),
        Value::String(text) if allowed.contains("uuid") && uuid::Uuid::parse_str(text).is_ok() => {
            one("uuid")
        }
        Value::String(_) => one("string"),
        Value::Array(items) => items.iter().flat_map(|item| forms_of(item, allowed)).collect(),
        Value::Bool(_) | Value::Object(_) => Forms::new(),
    }
}

/// The properties of a request's flat form.
fn properties<'a>(document: &'a Value, body: &'a Value) -> (Option<&'a Value>, bool) {
    let schema = resolve(document, &body["content"]["application/json"]["schema"]);
    let choices = schema["anyOf"].as_array();
    let is_envelope = |choice: &&Value| choice["properties"]["fields"].is_object();
    let takes_record = choices.is_some_and(|choices| choices.iter().any(|one| is_envelope(&one)));
    let flat = choices.and_then(|choices| choices.iter().find(|choice| !is_envelope(choice)));
    let flat = flat.map_or(schema, |flat| resolve(document, flat));
    (Some(&flat["properties"]).filter(|properties| properties.is_object()), takes_record)
}

impl Contract {
    fn read() -> Self {
        let document: Value = serde_json::from_str(DOCUMENT).unwrap_or_default();
        let mut contract = Self::default();
        for (path, methods) in document["paths"].as_object().into_iter().flatten() {
            for (method, described) in methods.as_object().into_iter().flatten() {
                contract.add(&document, &format!("{} {path}", method.to_uppercase()), described);
            }
        }
        let codes = &document["components"]["schemas"]["Problem"]["properties"]["code"]["enum"];
        let codes = codes.as_array().into_iter().flatten().filter_map(Value::as_str);
        contract.points.extend(codes.map(|code| format!("code {code}")));
        contract
    }

    fn add(&mut self, document: &Value, name: &str, described: &Value) {
        let mut operation = Operation { name: name.to_owned(), ..Operation::default() };
        for parameter in described["parameters"].as_array().into_iter().flatten() {
            let parameter = resolve(document, parameter);
            let forms = forms(document, &parameter["schema"]);
            let parameter_name = parameter["name"].as_str().unwrap_or_default().to_owned();
            match parameter["in"].as_str() {
                Some("path") => operation.path = Some(forms),
                Some("query") => {
                    operation.query.insert(parameter_name, forms);
                }
                _ => operation.takes_key = true,
            }
        }
        let (fields, takes_record) = properties(document, &described["requestBody"]);
        operation.takes_record = takes_record;
        for (field, schema) in fields.and_then(Value::as_object).into_iter().flatten() {
            operation.fields.insert(field.clone(), forms(document, schema));
        }
        self.points.extend(operation.points());
        for (status, answer) in described["responses"].as_object().into_iter().flatten() {
            let answer = resolve(document, answer);
            if status.starts_with('2') {
                self.points.insert(format!("{name} answers {status}"));
            }
            let text = answer["description"].as_str().unwrap_or_default();
            // Codes stand between backticks.
            for code in text.split('`').skip(1).step_by(2) {
                self.points.extend(error_point(name, status, code));
            }
        }
        self.operations.push(operation);
    }

    /// The operation that a request of `method` and `path` asks for, and the path's parameter.
    fn operation<'a>(&self, method: &str, path: &'a str) -> Option<(&Operation, Option<&'a str>)> {
        self.operations.iter().find_map(|operation| {
            let (known, template) = operation.name.split_once(' ')?;
            let (start, is_template) = match template.split_once('{') {
                Some((start, _)) => (start, true),
                None => (template, false),
            };
            let rest = path.strip_prefix(start).filter(|_| known == method)?;
            let fits =
                if is_template { !rest.is_empty() && !rest.contains('/') } else { rest.is_empty() };
            fits.then_some((operation, is_template.then_some(rest)))
        })
    }
}

/// The point of an error that is counted for each operation; `None` for any other error.
fn error_point(operation: &str, status: &str, code: &str) -> Option<String> {
    let is_own = matches!(status, "404" | "409") || INVALID.contains(&code);
    is_own.then(|| format!("{operation} answers {status} {code}"))
}

impl Operation {
    /// The points that a request of this operation can show.
    fn points(&self) -> Vec<String> {
        let name = &self.name;
        let mut points = vec![format!("{name} is asked")];
        if self.takes_key {
            points.push(format!("{name} with a key"));
        }
        if self.takes_record {
            points.push(format!("{name} in an envelope"));
        }
        for form in self.path.iter().flatten() {
            points.push(format!("{name} by {form}"));
        }
        for (parameter, forms) in &self.query {
            points.extend(forms.iter().map(|form| format!("{name} with {parameter}={form}")));
        }
        for (field, forms) in &self.fields {
            points.extend(forms.iter().map(|form| format!("{name} with {field}: {form}")));
        }
        points
    }

    /// The points that this request of the operation shows.
    fn points_of(&self, exchange: &Exchange, parameter: Option<&str>) -> BTreeSet<String> {
        let name = &self.name;
        let request = &exchange.request;
        let mut points = BTreeSet::from([format!("{name} is asked")]);
        if request.key.is_some() {
            points.insert(format!("{name} with a key"));
        }
        if let (Some(allowed), Some(parameter)) = (&self.path, parameter) {
            let value = match parameter.parse::<f64>() {
                Ok(number) => Value::from(number),
                Err(_) => Value::from(parameter),
            };
            points.extend(forms_of(&value, allowed).iter().map(|form| format!("{name} by {form}")));
        }
        let query = request.path.split_once('?').map(|(_, query)| query).unwrap_or_default();
        for (parameter, value) in query.split('&').filter_map(|pair| pair.split_once('=')) {
            let Some(allowed) = self.query.get(parameter) else { continue };
            let forms = forms_of(&Value::from(value), allowed);
            points.extend(forms.iter().map(|form| format!("{name} with {parameter}={form}")));
        }
        let Some(body) = &request.body else { return points };
        let is_envelope = self.takes_record && body["fields"].is_object();
        if is_envelope {
            points.insert(format!("{name} in an envelope"));
        }
        let fields = if is_envelope { &body["fields"] } else { body };
        for (field, allowed) in &self.fields {
            if let Some(value) = fields.get(field) {
                let forms = forms_of(value, allowed);
                points.extend(forms.iter().map(|form| format!("{name} with {field}: {form}")));
            }
        }
        points
    }
}

/// The points that `exchanges` show.
#[must_use]
pub fn reached(exchanges: &[Exchange]) -> BTreeSet<String> {
    let mut reached = BTreeSet::new();
    for exchange in exchanges {
        let method = exchange.request.method.as_str();
        let operation = POINTS.operation(method, exchange.path());
        // A request that breaks the contract on purpose shows no field.
        let is_sound = exchange.request.refusal.is_none();
        if let Some((operation, parameter)) = operation.filter(|_| is_sound) {
            reached.extend(operation.points_of(exchange, parameter));
        }
        let Some(Ok(answer)) = &exchange.answer else { continue };
        let status = answer.status.as_str();
        if let Some(code) = answer.body["code"].as_str() {
            reached.insert(format!("code {code}"));
            if let Some((operation, _)) = operation {
                reached.extend(error_point(&operation.name, status, code));
            }
        } else if let Some((operation, _)) = operation {
            reached.insert(format!("{} answers {status}", operation.name));
        }
    }
    reached.retain(|point| POINTS.points.contains(point));
    reached
}

/// The points for which `is_reached` returns false, without the [`EXCEPTIONS`].
pub fn missing(is_reached: impl Fn(&str) -> bool) -> Vec<String> {
    let is_due = |point: &&String| !EXCEPTIONS.iter().any(|(end, _)| point.ends_with(end));
    POINTS.points.iter().filter(is_due).filter(|point| !is_reached(point)).cloned().collect()
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;
    use crate::harness::client::Request;
    use crate::harness::scenarios::{self, Script, Wants, play};
    use crate::harness::schedule::{Fault, Planned, Schedule, Target};
    use crate::harness::workload::plan::Shape;
    use crate::harness::{Verdict, coverage::Coverage};
    use crate::rng::SeededRng;

    #[test]
    fn the_document_has_points_of_every_sort() {
        for point in [
            "POST /create_partition with replicas: uuid",
            "POST /create_partition with leader: \"\"",
            "PUT /update_broker with brokerStatus: UNFENCED",
            "PUT /update_broker with internalUUID: uuid",
            "POST /register_broker with brokerPort: string",
            "POST /register_broker in an envelope",
            "GET /get_broker_by_id/{broker_id} by uuid",
            "GET /client_mgmt/{previous_offset} with mode=diff",
            "DELETE /unregister_broker/{broker_id} with a key",
            "POST /create_partition answers 400 invalid_isr",
            "POST /cluster/snapshot answers 204",
            "code outcome_unknown",
        ] {
            assert!(POINTS.points.contains(point), "{point} is not in {:#?}", POINTS.points);
        }
    }

    #[test]
    fn every_exception_is_of_some_point() {
        for (end, _) in EXCEPTIONS {
            assert!(POINTS.points.iter().any(|point| point.ends_with(end)), "{end}");
        }
    }

    #[test]
    fn a_request_shows_its_fields_and_an_answer_its_code() {
        let body = serde_json::json!({ "fields": { "brokerId": 1, "brokerStatus": "FENCED" } });
        let problem = serde_json::json!({ "code": "stale_epoch" });
        let answered = Exchange::answered(1, "", 409, problem);
        let update = Exchange { request: Request::post("/update_broker", body), ..answered };
        let reached = reached(&[update]);
        for point in [
            "POST /update_broker is asked",
            "POST /update_broker in an envelope",
            "POST /update_broker with brokerId: integer",
            "POST /update_broker with brokerStatus: FENCED",
            "POST /update_broker answers 409 stale_epoch",
            "code stale_epoch",
        ] {
            assert!(reached.contains(point), "{point} is not in {reached:?}");
        }
        assert_eq!(reached.len(), 6, "{reached:?}");
        assert!(missing(|point| reached.contains(point)).contains(&"code no_leader".to_owned()));
    }

    /// A steady mix without faults, but with an operator.
    fn calm(seed: u64) -> Schedule {
        let drawn =
            scenarios::find("swarm").and_then(|swarm| swarm.draw(seed)).expect("it is drawn");
        let duration = Duration::from_secs(40);
        let micros = u64::try_from(duration.as_micros()).expect("it is short");
        let shape = Shape::steady(5, micros, scenarios::NODES);
        let clients = shape.draw(&mut SeededRng::new(seed));
        let faults = [
            Fault::Snapshot { target: Target::Leader },
            Fault::Transfer { to: 3 },
            Fault::Remove {
                target: Target::Node(5),
                away: 100,
                wiped: true,
                again: Vec::new(),
                unheard: false,
            },
        ];
        let faults = (1..).zip(faults).map(|(at, fault)| Planned { at: 5_000 * at, fault });
        let mut settings = drawn.settings;
        settings.duration_millis = micros / 1_000;
        settings.clock_millis.clear();
        settings.drift_ppm.clear();
        settings.latency_micros = (50, 200);
        settings.disk_micros = (50, 200);
        settings.heartbeat_millis = 100;
        Schedule { settings, faults: faults.collect(), clients, ..drawn }
    }

    #[test]
    fn clients_send_every_operation_and_field_of_the_document() {
        let coverage = Coverage::default();
        for seed in 1..=3 {
            let script = Script::Schedule(Box::new(calm(seed)));
            let played = play(script, Wants::default());
            assert_eq!(played.outcome.verdict, Verdict::Clean);
            coverage.merge(&played.outcome.coverage);
        }
        let is_sent = |point: &String| {
            point.contains(" with ")
                || point.contains(" by ")
                || point.ends_with(" is asked")
                || point.ends_with(" in an envelope")
        };
        let missing: Vec<_> = coverage.missing_of_contract(SEEDS);
        let unsent: Vec<_> = missing.into_iter().filter(is_sent).collect();
        assert!(unsent.is_empty(), "clients never send: {unsent:#?}");
    }
}
