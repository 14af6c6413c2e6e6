//! Layer 3: whether all that clients were told can be true.
//!
//! - Every broker, topic name and partition is linearizable, unknown outcomes included: [`linear`] searches,
//!   [`objects`](super::objects) says what each does.
//! - A keyed request takes effect once, however often it was sent: all its answers are the same, and it is
//!   one operation to the search, from its first sending to its first answer.
//! - No two registrations got one producer id.
//! - What pollers are shown: [`mgmt`].
//! - The last complete poll is one more read of everything: what is there must have been asked for, and what was said to
//!   be made, or not, is as it was said.
//! - Bad requests are refused as such.

use std::collections::BTreeMap;

use hyper::{Method, StatusCode};
use serde_json::Value;

use super::linear::{self, Model, Outcome, Timed};
use super::mgmt;
use super::objects::{Broker, Histories, Partition, Topic};
use crate::harness::client::Answer;
use crate::harness::exchanges::{Effect, Exchange};

/// A broken promise, and the exchanges that show it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Contradiction {
    /// Which promise, and how, in words.
    pub what: String,
    /// Their numbers.
    pub exchanges: Vec<usize>,
}

/// What a check of a sound history found out.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Judged {
    /// Operations that were put in order.
    pub operations: usize,
    /// Topics that somebody saw although every attempt to create them had an unknown outcome.
    pub unknown_effects: usize,
}

/// Requests that were one operation to the client.
#[derive(Debug)]
struct Keyed {
    numbers: Vec<usize>,
}

/// Judges all exchanges of a run.
///
/// # Errors
///
/// The first contradiction.
pub fn check(exchanges: &[Exchange]) -> Result<Judged, Contradiction> {
    let mut keyed: BTreeMap<&str, Keyed> = BTreeMap::new();
    let mut histories = Histories::default();
    for (number, exchange) in exchanges.iter().enumerate() {
        check_server_error(number, exchange)?;
        if exchange.request.is_bad {
            continue;
        }
        match exchange.request.key.as_deref() {
            Some(key) => {
                keyed
                    .entry(key)
                    .or_insert_with(|| Keyed { numbers: Vec::new() })
                    .numbers
                    .push(number);
            }
            None => histories.add(number, exchange, exchange.effect(), exchange.ended),
        }
    }
    // When the operations began that were sent more than once; the other sendings are not operations.
    let mut begun: BTreeMap<usize, Option<u64>> = BTreeMap::new();
    for group in keyed.values() {
        let answered = check_key(exchanges, group)?;
        let first = group.numbers[0];
        let (effect, ended) = match answered {
            Some((number, answer)) => {
                begun.extend(group.numbers.iter().map(|other| (*other, None)));
                begun.insert(number, Some(exchanges[first].begun));
                (Effect::Decided(answer), exchanges[number].ended)
            }
            None => {
                let open =
                    group.numbers.iter().any(|number| exchanges[*number].effect() == Effect::Open);
                (if open { Effect::Open } else { Effect::None }, None)
            }
        };
        histories.add(first, &exchanges[first], effect, ended);
    }
    check_producers(exchanges)?;
    let begun =
        |number: usize| begun.get(&number).copied().unwrap_or(Some(exchanges[number].begun));
    mgmt::check(exchanges, &begun).map_err(|(number, what)| Contradiction {
        what: format!("management contract: {what}"),
        exchanges: vec![number],
    })?;
    if let Some((number, image)) = last_image(exchanges) {
        let exchange = &exchanges[number];
        let during = (exchange.begun, exchange.ended);
        histories.add_image(number, during, image).map_err(|what| Contradiction {
            what: format!("effects: {what}"),
            exchanges: vec![number],
        })?;
    }
    let mut judged = Judged { unknown_effects: histories.unknown_effects(), ..Judged::default() };
    for (id, history) in &histories.brokers {
        search::<Broker>(&format!("broker {id}"), history, &mut judged)?;
    }
    for (name, history) in &histories.topics {
        search::<Topic>(&format!("topic {name}"), history, &mut judged)?;
    }
    for ((topic, number), history) in &histories.partitions {
        search::<Partition>(&format!("partition {number} of topic {topic}"), history, &mut judged)?;
    }
    Ok(judged)
}

/// The last time that somebody was shown all there is, and what that was. Brokers are shown more than clients.
fn last_image(exchanges: &[Exchange]) -> Option<(usize, &Value)> {
    let image = |exchange: &'_ Exchange| match &exchange.answer {
        Some(Ok(answer))
            if exchange.path().starts_with("/broker_mgmt/") && !exchange.is_stale() =>
        {
            answer.body["snapshot"].as_str() == Some("complete")
        }
        _ => false,
    };
    let number = exchanges.iter().rposition(image)?;
    match &exchanges[number].answer {
        Some(Ok(answer)) => Some((number, &answer.body["records"])),
        _ => None,
    }
}

fn search<M: Model>(
    name: &str,
    history: &[Timed<M::Operation>],
    judged: &mut Judged,
) -> Result<(), Contradiction> {
    judged.operations += history.len();
    match linear::check::<M>(history) {
        Outcome::Linearizable => Ok(()),
        // Nobody knows whether it is right: that is no pass.
        Outcome::Undecided => Err(Contradiction {
            what: format!(
                "undecided: the search for an order of the {} operations of {name} was given up",
                history.len()
            ),
            exchanges: Vec::new(),
        }),
        Outcome::Illegal { stuck, explained, state } => {
            let operation = history.iter().find(|timed| timed.id == stuck);
            let told = operation.map(|timed| format!("{:?}", timed.operation)).unwrap_or_default();
            Err(Contradiction {
                what: format!(
                    "linearizability of {name}: no order of its {} operations explains the answers. The longest that does explains {explained} and leaves it as {state}, which contradicts {told}",
                    history.len()
                ),
                exchanges: vec![stuck],
            })
        }
    }
}

/// A server says "try later" or "outcome unknown", and nothing else is its own fault.
fn check_server_error(number: usize, exchange: &Exchange) -> Result<(), Contradiction> {
    let Some(Ok(answer)) = &exchange.answer else { return Ok(()) };
    let allowed = [StatusCode::SERVICE_UNAVAILABLE, StatusCode::GATEWAY_TIMEOUT];
    if answer.status.is_server_error() && !allowed.contains(&answer.status) {
        let what = format!(
            "errors: {} answers {} to {} {}: {}",
            exchange.addr,
            answer.status,
            exchange.request.method,
            exchange.request.path,
            answer.body
        );
        return Err(Contradiction { what, exchanges: vec![number] });
    }
    if exchange.request.is_bad
        && !answer.status.is_client_error()
        && !answer.status.is_server_error()
    {
        let what = format!(
            "errors: {} takes a bad request: {:?} is answered {}",
            exchange.addr, exchange.request, answer.status
        );
        return Err(Contradiction { what, exchanges: vec![number] });
    }
    Ok(())
}

/// The first answer to a key, if there is any; all others must be the same.
fn check_key<'a>(
    exchanges: &'a [Exchange],
    group: &Keyed,
) -> Result<Option<(usize, &'a Answer)>, Contradiction> {
    let mut first: Option<(usize, &Answer)> = None;
    let mut answered: Vec<usize> = group.numbers.clone();
    answered.sort_by_key(|number| exchanges[*number].ended);
    for number in answered {
        let Effect::Decided(answer) = exchanges[number].effect() else { continue };
        match first {
            None => first = Some((number, answer)),
            Some((_, known)) if known == answer => {}
            Some((earlier, known)) => {
                let key = exchanges[number].request.key.as_deref().unwrap_or_default();
                let what = format!(
                    "exactly once: the request with key {key} was answered {} {}, and then {} {}",
                    known.status, known.body, answer.status, answer.body
                );
                return Err(Contradiction { what, exchanges: vec![earlier, number] });
            }
        }
    }
    Ok(first)
}

fn check_producers(exchanges: &[Exchange]) -> Result<(), Contradiction> {
    let mut ids: BTreeMap<u64, (usize, String)> = BTreeMap::new();
    for (number, exchange) in exchanges.iter().enumerate() {
        let Effect::Decided(answer) = exchange.effect() else { continue };
        if exchange.request.method == Method::GET || exchange.path() != "/register_producer" {
            continue;
        }
        let Some(id) = answer.body["fields"]["producerId"].as_u64() else { continue };
        let name = exchange.request.key.clone().unwrap_or_else(|| format!("#{number}"));
        let (first, known) = ids.entry(id).or_insert_with(|| (number, name.clone()));
        if *known != name {
            let what = format!("unique ids: two registrations got producer id {id}");
            return Err(Contradiction { what, exchanges: vec![*first, number] });
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;
    use crate::harness::client::{NoAnswer, Request};

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
            let answer = answer.map(|(status, body)| Answer {
                status: StatusCode::from_u16(status).unwrap(),
                body,
            });
            self.0.push(Exchange {
                client: "c1".to_owned(),
                addr: "n1:5011".to_owned(),
                request,
                begun,
                ended: Some(ended),
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
        let lost = History::new().at(0, 1, create("t"), Ok(topic("u"))).at(
            2,
            3,
            create("t"),
            Ok(topic("v")),
        );
        assert!(lost.broken().starts_with("linearizability"));
        let register =
            || Request::post("/register_broker", json!({ "brokerId": 1, "brokerPort": 1 }));
        let update = || Request::post("/update_broker", json!({ "brokerId": 1, "brokerPort": 2 }));
        let registered = json!({ "fields": { "internalUUID": "b", "epoch": 0, "brokerPort": "1", "brokerStatus": "ALIVE" } });
        let updated = |epoch: u64| json!({ "fields": { "brokerId": "b", "epoch": epoch, "brokerPort": "2", "brokerStatus": "ALIVE" } });
        let base = || History::new().at(0, 1, register(), Ok((201, registered.clone())));
        assert!(
            base()
                .at(2, 3, update(), Ok((200, updated(2))))
                .broken()
                .starts_with("linearizability")
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
        let given =
            (201, json!({ "fields": { "producerId": 7, "brokerId": "b", "brokerEpoch": 0 } }));
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
        let bad = Request { is_bad: true, ..create("") };
        assert!(History::new().at(0, 1, bad, Ok(topic("u"))).broken().starts_with("errors"));
    }
}
