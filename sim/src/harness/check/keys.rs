//! Idempotency keys that are used again: a key is remembered for ten minutes of cluster time, and
//! then forgotten.
//!
//! A client sends a key that it used long ago with another request. Timestamps show whether the
//! outcome was right:
//!
//! - The request was taken for a new change at `T`: the key's first change is older than ten
//!   minutes at `T`.
//! - The request was refused as reused: the key's first change is not older than that. The time of
//!   a refusal is not known, but it is later than the offset of every poll that was answered before
//!   the request was sent.

use std::collections::BTreeMap;

use super::mgmt::{Broken, micros};
use crate::harness::client::Refuser;
use crate::harness::exchanges::{Effect, Exchange};

/// How long a key is remembered, in microseconds of cluster time.
const REMEMBERED_MICROS: u64 = 600 * 1_000_000;

fn is_again(exchange: &Exchange) -> bool {
    exchange.request.refusal.is_some_and(|refusal| refusal.by == Refuser::Memory)
}

/// Whether `exchange` was refused because its key is still known.
#[must_use]
pub fn is_refused(exchange: &Exchange) -> bool {
    matches!(exchange.effect(), Effect::Decided(answer) if answer.body["code"] == "idempotency_key_reused")
}

/// Judges all keys that were used again after a long time.
///
/// # Errors
///
/// The first key that was forgotten too early or remembered too long.
pub fn check(exchanges: &[Exchange]) -> Result<(), Broken> {
    if !exchanges.iter().any(is_again) {
        return Ok(());
    }
    let mut first: BTreeMap<&str, u64> = BTreeMap::new();
    // Each cluster time that an answer showed, with the time at which that answer came.
    let mut shown: Vec<(u64, u64)> = Vec::new();
    for exchange in exchanges {
        let Effect::Decided(answer) = exchange.effect() else { continue };
        let Some(ended) = exchange.ended else { continue };
        shown.extend(micros(&answer.body["offset"]).map(|offset| (ended, offset)));
        let Some(key) = exchange.request.key.as_deref().filter(|_| !is_again(exchange)) else {
            continue;
        };
        if let Some(stamp) = micros(&answer.body["timestamp"]) {
            first.entry(key).or_insert(stamp);
        }
    }
    for (number, exchange) in exchanges.iter().enumerate().filter(|(_, other)| is_again(other)) {
        let Effect::Decided(answer) = exchange.effect() else { continue };
        let key = exchange.request.key.as_deref().unwrap_or_default();
        let Some(known) = first.get(key) else { continue };
        if is_refused(exchange) {
            let before = shown.iter().filter(|(ended, _)| *ended < exchange.begun);
            let least = before.map(|(_, offset)| *offset).max().unwrap_or(0);
            if least > known + REMEMBERED_MICROS {
                let what = format!(
                    "key {key} of {known} is remembered, and cluster time was {least} before"
                );
                return Err((number, what));
            }
        } else if let Some(stamp) = micros(&answer.body["timestamp"])
            && stamp <= known + REMEMBERED_MICROS
        {
            let what = format!("key {key} of {known} is forgotten at {stamp}");
            return Err((number, what));
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};

    use super::*;
    use crate::harness::client::Request;
    use crate::harness::workload::bad;

    fn at(begun: u64, request: Request, status: u16, body: Value) -> Exchange {
        let answered = Exchange::answered(1, "", status, body);
        Exchange { request, begun, ended: Some(begun + 1), ..answered }
    }

    fn keyed() -> Exchange {
        let request = Request::post("/create_topic", json!({ "name": "t" })).keyed("k");
        at(0, request, 201, json!({ "timestamp": 1.0 }))
    }

    fn again(status: u16, body: Value) -> Exchange {
        at(9, bad::revive("k".to_owned()), status, body)
    }

    fn poll(offset: f64) -> Exchange {
        at(5, Request::get("/client_mgmt/0"), 200, json!({ "offset": offset }))
    }

    #[test]
    fn a_key_that_is_forgotten_too_early_is_caught() {
        let created = |stamp: f64| again(201, json!({ "timestamp": stamp }));
        assert_eq!(check(&[keyed(), created(601.5)]), Ok(()));
        assert!(check(&[keyed(), created(601.0)]).unwrap_err().1.contains("forgotten"));
    }

    #[test]
    fn a_key_that_is_remembered_too_long_is_caught() {
        let refused = || again(409, json!({ "code": "idempotency_key_reused" }));
        assert_eq!(check(&[keyed(), poll(600.0), refused()]), Ok(()));
        assert!(check(&[keyed(), poll(601.5), refused()]).unwrap_err().1.contains("remembered"));
    }
}
