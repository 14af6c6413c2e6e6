//! What one process says never goes back, stale or not.
//!
//! A stale read may be as old as it likes. But a process only applies forward, and every read is of something that it
//! had applied; so of two reads of one process, one after the other, the later shows nothing older. Two answers over
//! one connection come from one process. Across connections the node may have been restarted between the two, on
//! less than it had applied (what is committed is applied again only when a leader says so): nothing is promised
//! then.
//!
//! Writes do not count: they are answered by the leader's word, and the asked node may apply them later.

use std::collections::BTreeMap;

use hyper::{Method, StatusCode};
use serde_json::Value;

use super::mgmt::{self, Broken, micros};
use crate::harness::exchanges::Exchange;

/// What was read over one connection.
#[derive(Debug, Default)]
struct Session {
    /// The latest cluster time that was seen, in microseconds.
    time: u64,
    /// The epochs of brokers, and 0 for each topic, by what a read would ask for.
    seen: BTreeMap<String, u64>,
}

impl Session {
    fn see(&mut self, path: String, epoch: u64) {
        let known = self.seen.entry(path).or_default();
        *known = epoch.max(*known);
    }

    /// Takes note of all that `answer` shows.
    fn learn(&mut self, answer: &Value) {
        for record in mgmt::all_records(answer) {
            let fields = &record["fields"];
            self.time = self.time.max(micros(&record["timestamp"]).unwrap_or(0));
            match record["name"].as_str() {
                Some("TopicRecord") => {
                    let name = fields["name"].as_str().unwrap_or_default();
                    self.see(format!("/get_topic_by_name/{name}"), 0);
                }
                Some("RegisterBrokerRecord") => {
                    let epoch = fields["epoch"].as_u64().unwrap_or(0);
                    let uuid = fields["internalUUID"].as_str().unwrap_or_default();
                    self.see(format!("/get_broker_by_id/{}", fields["brokerId"]), epoch);
                    self.see(format!("/get_broker_by_id/{uuid}"), epoch);
                }
                _ => {}
            }
        }
    }

    /// Judges the next read.
    fn judge(&self, path: &str, status: StatusCode, answer: &Value) -> Result<(), String> {
        if let Some(epoch) = self.seen.get(path) {
            if status == StatusCode::NOT_FOUND {
                return Err(format!("{path} was there, and is unknown"));
            }
            let shown = answer["fields"]["epoch"].as_u64();
            if let Some(shown) = shown.filter(|shown| shown < epoch) {
                return Err(format!("{path} was of epoch {epoch}, and is of {shown}"));
            }
        }
        match micros(&answer["offset"]) {
            Some(offset) if offset < self.time => {
                Err(format!("{path} is as of {offset}, and {} was shown before", self.time))
            }
            _ => Ok(()),
        }
    }
}

/// Judges all reads of a run, connection by connection.
///
/// # Errors
///
/// The first that shows something older than one before it, and how.
pub fn check(exchanges: &[Exchange]) -> Result<(), Broken> {
    let mut sessions: BTreeMap<u64, Session> = BTreeMap::new();
    // A connection carries one request at a time, so that they were made in this order.
    for (number, exchange) in exchanges.iter().enumerate() {
        let (Some(connection), Some(Ok(answer))) = (exchange.connection, &exchange.answer) else {
            continue;
        };
        let is_read = exchange.request.method == Method::GET && exchange.request.refusal.is_none();
        if !is_read || !(answer.status.is_success() || answer.status == StatusCode::NOT_FOUND) {
            continue;
        }
        let session = sessions.entry(connection).or_default();
        let judged = session.judge(exchange.path(), answer.status, &answer.body);
        judged.map_err(|what| (number, format!("{} goes back: {what}", exchange.addr)))?;
        session.time = session.time.max(micros(&answer.body["offset"]).unwrap_or(0));
        session.learn(&answer.body);
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn read(connection: u64, path: &str, status: u16, body: Value) -> Exchange {
        Exchange::answered(connection, &format!("{path}?consistency=stale"), status, body)
    }

    fn topic(connection: u64) -> Exchange {
        let body = json!({ "name": "TopicRecord", "timestamp": 5.0, "fields": { "name": "t" } });
        read(connection, "/get_topic_by_name/t", 200, body)
    }

    fn no_topic(connection: u64) -> Exchange {
        read(connection, "/get_topic_by_name/t", 404, json!({ "code": "unknown_topic" }))
    }

    fn broker(epoch: u64) -> Value {
        json!({ "name": "RegisterBrokerRecord", "timestamp": 5.0,
            "fields": { "brokerId": 1, "internalUUID": "u", "epoch": epoch } })
    }

    #[test]
    fn what_one_process_has_shown_it_does_not_forget() {
        assert_eq!(check(&[no_topic(1), topic(1), topic(1)]), Ok(()));
        assert!(check(&[topic(1), no_topic(1)]).unwrap_err().1.contains("unknown"));
        // Another connection may lead to another life of the node.
        assert_eq!(check(&[topic(1), no_topic(2)]), Ok(()));
    }

    #[test]
    fn a_broker_does_not_grow_younger_by_whatever_name() {
        for path in ["/get_broker_by_id/1", "/get_broker_by_id/u"] {
            let list = json!({ "offset": 6.0, "records": { "RegisterBrokerRecord": [broker(3)] } });
            let listed = read(1, "/get_active_brokers", 200, list);
            assert_eq!(check(&[listed.clone(), read(1, path, 200, broker(3))]), Ok(()));
            let back = [listed, read(1, path, 200, broker(2))];
            assert!(check(&back).unwrap_err().1.contains("epoch 3"), "{path}");
        }
    }

    #[test]
    fn cluster_time_does_not_go_back_in_one_process() {
        let poll = |offset: f64| {
            read(1, "/client_mgmt/0", 200, json!({ "offset": offset, "records": {} }))
        };
        assert_eq!(check(&[poll(7.0), poll(7.0)]), Ok(()));
        assert!(check(&[poll(7.0), poll(6.0)]).unwrap_err().1.contains("before"));
        // What has a time was there at that time.
        assert!(check(&[topic(1), poll(4.0)]).is_err());
    }
}
