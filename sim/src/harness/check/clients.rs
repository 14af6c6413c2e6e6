//! Layer 3: whether all that clients were told can be true.
//!
//! - Every broker, topic name and partition is linearizable, unknown outcomes included: [`linear`] searches,
//!   [`objects`](super::objects) says what each does.
//! - A keyed request takes effect once, however often it was sent: all its answers are the same, and it is
//!   one operation to the search, from its first sending to its first answer.
//! - Ids of producers: [`producers`]. Keys that are used again: [`keys`]. Places of partitions:
//!   [`placement`].
//! - What pollers are shown: [`mgmt`].
//! - The last complete poll is one more read of everything: what is there must have been asked for, and what was said to
//!   be made, or not, is as it was said.
//! - What one process says never goes back: [`sessions`].
//! - What nodes say about themselves makes sense: [`looks`].
//! - Bad requests are refused, each as the contract says.

use std::collections::BTreeMap;

use hyper::StatusCode;
use serde_json::Value;

use super::linear::{self, Model, Outcome, Timed};
use super::objects::{Broker, Histories, Partition, Topic};
use super::{keys, looks, mgmt, placement, producers, sessions};
use crate::harness::client::{Answer, Refusal, Refuser};
use crate::harness::exchanges::{Effect, Exchange, is_without_effect};

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
    let mut histories = Histories::of(exchanges);
    for (number, exchange) in exchanges.iter().enumerate() {
        check_server_error(number, exchange)?;
        if let Some(refusal) = &exchange.request.refusal {
            check_refusal(number, exchange, refusal)?;
            if refusal.by == Refuser::Memory && !keys::is_refused(exchange) {
                histories.add(number, exchange, exchange.effect(), exchange.ended);
            }
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
    let blame = |promise: &str| {
        let promise = promise.to_owned();
        move |(number, what): (usize, String)| Contradiction {
            what: format!("{promise}: {what}"),
            exchanges: vec![number],
        }
    };
    looks::check(exchanges).map_err(blame("a node about itself"))?;
    sessions::check(exchanges).map_err(blame("monotonic reads"))?;
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
    producers::check(exchanges)?;
    keys::check(exchanges).map_err(blame("idempotency keys"))?;
    let begun =
        |number: usize| begun.get(&number).copied().unwrap_or(Some(exchanges[number].begun));
    mgmt::check(exchanges, &begun).map_err(blame("management contract"))?;
    histories.add_lists(exchanges).map_err(blame("effects"))?;
    if let Some((number, image)) = last_image(exchanges) {
        let exchange = &exchanges[number];
        let during = (exchange.begun, exchange.ended);
        let added = histories.add_image(number, during, image);
        added.map_err(|what| blame("effects")((number, what)))?;
    }
    histories.forget_unseen_details();
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
    placement::check(exchanges, &histories).map_err(blame("placement"))?;
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
    Ok(())
}

/// A bad request is refused as the contract says. Only what the cluster has to decide may be put off.
fn check_refusal(
    number: usize,
    exchange: &Exchange,
    refusal: &Refusal,
) -> Result<(), Contradiction> {
    let Some(Ok(answer)) = &exchange.answer else { return Ok(()) };
    let refused = answer.status == refusal.status && answer.body["code"] == refusal.code;
    let put_off = answer.status.is_server_error() && refusal.by != Refuser::Door;
    // `keys` judges whether the request's key is still known.
    if refusal.by == Refuser::Memory && answer.status.is_success() {
        return Ok(());
    }
    // Its body came too slowly to be looked at.
    let has_body = exchange.request.body.is_some() || exchange.request.raw.is_some();
    if refused || put_off || (has_body && is_without_effect(answer.status)) {
        return Ok(());
    }
    let what = format!(
        "errors: {} is to refuse a bad request as {} {}, and answers {} {}: {:?}",
        exchange.addr, refusal.status, refusal.code, answer.status, answer.body, exchange.request
    );
    Err(Contradiction { what, exchanges: vec![number] })
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

#[cfg(test)]
mod tests;
