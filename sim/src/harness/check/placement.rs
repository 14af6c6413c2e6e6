//! Whether a new partition is as it was asked for.
//!
//! - Its replicas, adding and removing replicas are those of the request, in this order. A list
//!   that the request omits is empty.
//! - An ISR and a leader that the request names are taken as they are. Otherwise the ISR contains
//!   only replicas, and the first replica that is in the ISR leads.
//! - A request that contradicts itself is refused. A request that does not contradict itself is not
//!   refused as if it did.
//!
//! Whether its brokers were there is judged with the brokers.

use std::collections::BTreeSet;

use serde_json::Value;
use yakt::metadata::limits::REPLICAS_MAX;

use super::mgmt::Broken;
use super::objects::Histories;
use crate::harness::exchanges::{Effect, Exchange};

/// The contents of a request, with brokers by their ids.
#[derive(Debug)]
struct Asked {
    replicas: Vec<u64>,
    isr: Option<Vec<u64>>,
    removing: Vec<u64>,
    adding: Vec<u64>,
    leader: Option<Leader>,
}

#[derive(Debug, PartialEq, Eq)]
enum Leader {
    Nobody,
    Broker(u64),
}

impl Asked {
    /// `None` when the request names a broker by a UUID that no answer shows.
    fn of(body: &Value, brokers: &Histories) -> Option<Self> {
        let id = |reference: &Value| brokers.broker(reference).map(|(id, _)| id);
        let list = |name: &str| match &body[name] {
            Value::Array(list) => list.iter().map(id).collect::<Option<Vec<u64>>>().map(Some),
            _ => Some(None),
        };
        let leader = match &body["leader"] {
            Value::Null => None,
            Value::String(empty) if empty.is_empty() => Some(Leader::Nobody),
            reference => Some(Leader::Broker(id(reference)?)),
        };
        Some(Self {
            replicas: list("replicas")?.unwrap_or_default(),
            isr: list("ISR")?,
            removing: list("removingReplicas")?.unwrap_or_default(),
            adding: list("addingReplicas")?.unwrap_or_default(),
            leader,
        })
    }

    /// The codes with which this request may be refused for its own contents.
    fn contradictions(&self) -> BTreeSet<&'static str> {
        let repeats = |list: &[u64]| list.iter().collect::<BTreeSet<_>>().len() < list.len();
        let strays = |list: &[u64]| list.iter().any(|id| !self.replicas.contains(id));
        let is_wrong = |list: &[u64]| repeats(list) || strays(list) || list.len() > REPLICAS_MAX;
        let mut codes = BTreeSet::new();
        if repeats(&self.replicas) || self.replicas.len() > REPLICAS_MAX {
            codes.insert("invalid_replicas");
        }
        if self.isr.as_deref().is_some_and(is_wrong) {
            codes.insert("invalid_isr");
        }
        if is_wrong(&self.removing) || is_wrong(&self.adding) {
            codes.insert("invalid_reassignment");
        }
        if let Some(Leader::Broker(leader)) = &self.leader
            && !self.isr.as_ref().unwrap_or(&self.replicas).contains(leader)
        {
            codes.insert("invalid_leader");
        }
        codes
    }

    fn judge(&self, fields: &Value, brokers: &Histories) -> Result<(), String> {
        let shown = |name: &str| -> Vec<u64> {
            fields[name].as_array().into_iter().flatten().filter_map(Value::as_u64).collect()
        };
        let lists = [
            ("replicas", &self.replicas),
            ("removingReplicas", &self.removing),
            ("addingReplicas", &self.adding),
        ];
        for (name, asked) in lists {
            if fields[name].is_array() && shown(name) != *asked {
                return Err(format!("{name} are {:?}, and were to be {asked:?}", shown(name)));
            }
        }
        let isr = shown("ISR");
        match &self.isr {
            Some(asked) if *asked != isr => {
                return Err(format!("the ISR is {isr:?}, and was to be {asked:?}"));
            }
            _ => {}
        }
        if let Some(stranger) = isr.iter().find(|id| !self.replicas.contains(id)) {
            return Err(format!("broker {stranger} is in sync, and no replica"));
        }
        let leads = match fields["leader"].as_str() {
            None | Some("") => None,
            Some(_) => match brokers.broker(&fields["leader"]) {
                Some((id, _)) => Some(id),
                // No answer shows which broker has that UUID.
                None => return Ok(()),
            },
        };
        let expected = match &self.leader {
            Some(Leader::Nobody) => None,
            Some(Leader::Broker(id)) => Some(*id),
            None => self.replicas.iter().copied().find(|id| isr.contains(id)),
        };
        if leads != expected {
            return Err(format!("broker {leads:?} leads, and {expected:?} was to"));
        }
        Ok(())
    }
}

/// Judges every creation of a partition.
///
/// # Errors
///
/// The first that is not as it was asked for.
pub fn check(exchanges: &[Exchange], brokers: &Histories) -> Result<(), Broken> {
    for (number, exchange) in exchanges.iter().enumerate() {
        let is_creation = exchange.path() == "/create_partition";
        if !is_creation || exchange.request.refusal.is_some() {
            continue;
        }
        let Effect::Decided(answer) = exchange.effect() else { continue };
        let Some(sent) = &exchange.request.body else { continue };
        let body = if sent["fields"].is_object() { &sent["fields"] } else { sent };
        let Some(asked) = Asked::of(body, brokers) else { continue };
        let contradictions = asked.contradictions();
        let fault = if answer.status.is_success() {
            match contradictions.first() {
                Some(code) => Err(format!("it is {code}, and was made")),
                None => asked.judge(&answer.body["fields"], brokers),
            }
        } else {
            let code = answer.body["code"].as_str().unwrap_or_default();
            // If the request names no ISR, the replicas in sync depend on which brokers are fenced.
            let depends = code == "invalid_leader" && asked.isr.is_none() && asked.leader.is_some();
            let is_claimed = code.starts_with("invalid_") && !depends;
            if is_claimed && !contradictions.contains(code) {
                Err(format!("it is refused as {code}, and says nothing of the kind"))
            } else {
                Ok(())
            }
        };
        fault.map_err(|what| (number, format!("partition {body}: {what}: {}", answer.body)))?;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;
    use crate::harness::client::Request;

    fn judged(asked: Value, status: u16, answer: Value) -> Result<(), String> {
        let broker = |id: u64| {
            let fields = json!({ "brokerId": id, "internalUUID": format!("u{id}") });
            Exchange::answered(1, "/get_broker_by_id/1", 200, json!({ "fields": fields }))
        };
        let known = [broker(1), broker(2), broker(3)];
        let answered = Exchange::answered(1, "", status, answer);
        let creation = Exchange { request: Request::post("/create_partition", asked), ..answered };
        check(&[creation], &Histories::of(&known)).map_err(|(_, what)| what)
    }

    fn made(asked: Value, replicas: &[u64], isr: &[u64], leader: &str) -> Result<(), String> {
        let lists = (asked["removingReplicas"].clone(), asked["addingReplicas"].clone());
        let or_none = |list: Value| if list.is_null() { json!([]) } else { list };
        let fields = json!({ "replicas": replicas, "ISR": isr, "leader": leader,
            "removingReplicas": or_none(lists.0), "addingReplicas": or_none(lists.1) });
        judged(asked, 201, json!({ "fields": fields }))
    }

    #[test]
    fn a_partition_as_it_was_asked_for_passes() {
        let plain = || json!({ "replicas": [2, 1] });
        assert_eq!(made(plain(), &[2, 1], &[2, 1], "u2"), Ok(()));
        assert_eq!(made(plain(), &[2, 1], &[1], "u1"), Ok(()));
        assert_eq!(made(plain(), &[2, 1], &[], ""), Ok(()));
        let all = json!({ "replicas": ["u2", 1, 3], "ISR": [1, 3], "leader": 3,
            "addingReplicas": [1], "removingReplicas": [3] });
        assert_eq!(made(all, &[2, 1, 3], &[1, 3], "u3"), Ok(()));
        let nobody = json!({ "replicas": [1], "ISR": [1], "leader": "" });
        assert_eq!(made(nobody, &[1], &[1], ""), Ok(()));
    }

    #[test]
    fn a_partition_that_is_not_as_it_was_asked_for_is_caught() {
        let plain = || json!({ "replicas": [2, 1] });
        assert!(made(plain(), &[1, 2], &[], "").unwrap_err().contains("replicas"));
        assert!(made(plain(), &[2, 1], &[2, 1], "u1").unwrap_err().contains("leads"));
        assert!(made(plain(), &[2, 1], &[2, 1], "").unwrap_err().contains("leads"));
        assert!(made(plain(), &[2, 1], &[3], "u3").unwrap_err().contains("no replica"));
        let isr = || json!({ "replicas": [2, 1], "ISR": [1] });
        assert!(made(isr(), &[2, 1], &[2, 1], "u2").unwrap_err().contains("ISR"));
        let leader = json!({ "replicas": [2, 1], "leader": 1 });
        assert!(made(leader, &[2, 1], &[2, 1], "u2").unwrap_err().contains("leads"));
        let adding = json!({ "replicas": [2, 1], "addingReplicas": [1] });
        let lost = json!({ "fields": { "replicas": [2, 1], "ISR": [2, 1], "leader": "u2",
            "addingReplicas": [] } });
        assert!(judged(adding, 201, lost).unwrap_err().contains("addingReplicas"));
    }

    #[test]
    fn what_contradicts_itself_is_refused_and_nothing_else() {
        let twice = || json!({ "replicas": [1, 1] });
        assert!(made(twice(), &[1, 1], &[], "").unwrap_err().contains("was made"));
        let refused = |code: &str| json!({ "code": code });
        assert_eq!(judged(twice(), 400, refused("invalid_replicas")), Ok(()));
        let sound = || json!({ "replicas": [1], "ISR": [1], "leader": 1 });
        for code in ["invalid_replicas", "invalid_isr", "invalid_leader", "invalid_reassignment"] {
            assert!(judged(sound(), 400, refused(code)).is_err(), "{code}");
        }
        assert_eq!(judged(sound(), 409, refused("broker_fenced")), Ok(()));
        // Broker 1 may be fenced.
        let leader = json!({ "replicas": [1], "leader": 1 });
        assert_eq!(judged(leader, 400, refused("invalid_leader")), Ok(()));
    }
}
