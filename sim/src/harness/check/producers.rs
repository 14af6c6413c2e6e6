//! Producers' ids, as the contract promises them.
//!
//! - An id is given once, to one registration.
//! - A client that chooses an id gets that one, or `duplicate_producer`.
//! - An id is refused as taken only if some other registration may have got it before.

use std::collections::BTreeMap;

use super::clients::Contradiction;
use crate::harness::exchanges::{Effect, Exchange};

/// The producer id that `exchange` asks for, if it chooses one.
fn chosen(exchange: &Exchange) -> Option<u64> {
    let sent = exchange.request.body.as_ref()?;
    let body = if sent["fields"].is_object() { &sent["fields"] } else { sent };
    body["producerId"].as_u64()
}

/// The registration that `exchange` is a part of: all requests with one key are one registration.
fn registration(number: usize, exchange: &Exchange) -> String {
    exchange.request.key.clone().unwrap_or_else(|| format!("#{number}"))
}

fn is_registration(exchange: &Exchange) -> bool {
    exchange.path() == "/register_producer" && exchange.request.refusal.is_none()
}

/// Judges all registrations of producers.
///
/// # Errors
///
/// The first contradiction.
pub fn check(exchanges: &[Exchange]) -> Result<(), Contradiction> {
    let mut ids: BTreeMap<u64, (usize, String)> = BTreeMap::new();
    let all = || exchanges.iter().enumerate().filter(|(_, exchange)| is_registration(exchange));
    for (number, exchange) in all() {
        let Effect::Decided(answer) = exchange.effect() else { continue };
        let Some(id) = answer.body["fields"]["producerId"].as_u64() else { continue };
        if let Some(chosen) = chosen(exchange).filter(|chosen| *chosen != id) {
            let what = format!("chosen ids: producer id {chosen} was asked for, and {id} came");
            return Err(Contradiction { what, exchanges: vec![number] });
        }
        let name = registration(number, exchange);
        let (first, known) = ids.entry(id).or_insert_with(|| (number, name.clone()));
        if *known != name {
            let what = format!("unique ids: two registrations got producer id {id}");
            return Err(Contradiction { what, exchanges: vec![*first, number] });
        }
    }
    for (number, exchange) in all() {
        let Effect::Decided(answer) = exchange.effect() else { continue };
        if answer.body["code"] != "duplicate_producer" {
            continue;
        }
        let wanted = chosen(exchange);
        let may_have_it = |(other, before): (usize, &Exchange)| {
            let is_earlier = exchange.ended.is_none_or(|ended| before.begun < ended);
            let is_other = registration(other, before) != registration(number, exchange);
            let got = match before.effect() {
                Effect::Decided(answer) => answer.body["fields"]["producerId"].as_u64() == wanted,
                Effect::Open => chosen(before).is_none_or(|chosen| Some(chosen) == wanted),
                Effect::None => false,
            };
            is_earlier && is_other && got
        };
        if wanted.is_none() || !all().any(may_have_it) {
            let what =
                format!("chosen ids: producer id {wanted:?} is refused as taken, and is free");
            return Err(Contradiction { what, exchanges: vec![number] });
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use hyper::StatusCode;
    use serde_json::{Value, json};

    use super::*;
    use crate::harness::client::{Answer, NoAnswer, Request};

    fn produce(begun: u64, id: Option<u64>, answer: Result<(u16, Value), NoAnswer>) -> Exchange {
        let body = json!({ "brokerId": 1, "producerId": id });
        let answer = answer
            .map(|(status, body)| Answer { status: StatusCode::from_u16(status).unwrap(), body });
        Exchange {
            request: Request::post("/register_producer", body),
            begun,
            ended: Some(begun + 1),
            answer: Some(answer),
            ..Exchange::answered(1, "", 200, Value::Null)
        }
    }

    fn got(id: u64) -> (u16, Value) {
        (201, json!({ "fields": { "producerId": id } }))
    }

    fn taken() -> (u16, Value) {
        (409, json!({ "code": "duplicate_producer" }))
    }

    #[test]
    fn a_chosen_id_is_given_or_is_taken() {
        assert_eq!(check(&[produce(0, Some(7), Ok(got(7))), produce(2, None, Ok(got(1)))]), Ok(()));
        assert_eq!(
            check(&[produce(0, Some(7), Ok(got(7))), produce(2, Some(7), Ok(taken()))]),
            Ok(())
        );
        let other = check(&[produce(0, Some(7), Ok(got(8)))]).unwrap_err();
        assert!(other.what.starts_with("chosen ids"), "{}", other.what);
    }

    #[test]
    fn a_free_id_that_is_refused_is_caught_unless_an_unknown_outcome_may_have_taken_it() {
        let free = check(&[produce(0, Some(6), Ok(got(6))), produce(2, Some(7), Ok(taken()))]);
        assert!(free.unwrap_err().what.contains("is free"));
        for before in [Some(7), None] {
            let lost = produce(0, before, Err(NoAnswer::Lost));
            assert_eq!(check(&[lost, produce(2, Some(7), Ok(taken()))]), Ok(()));
        }
        let later = check(&[produce(2, Some(7), Ok(taken())), produce(4, Some(7), Ok(got(7)))]);
        assert!(later.is_err());
    }

    #[test]
    fn an_id_that_the_server_chose_twice_is_caught() {
        let twice = check(&[produce(0, Some(7), Ok(got(7))), produce(2, None, Ok(got(7)))]);
        assert!(twice.unwrap_err().what.starts_with("unique ids"));
    }
}
