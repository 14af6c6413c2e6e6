//! What nodes say about themselves, each from its own knowledge: `/cluster`, `/healthz`, `/readyz`, `/metrics` and
//! `/openapi.json`.
//!
//! - They are always answered, whatever the cluster is like; only `/readyz` may say no.
//! - A node knows its own name, and names at most one leader, who is a member.
//! - No two nodes ever name two leaders of one term (Raft §5.2, Election Safety, as operators see it).
//! - Terms, indexes, cluster time and what is never deleted do not go down in one process. Two answers over one connection
//!   come from one process; over two, the disk may have been lost between them.

use std::collections::{BTreeMap, BTreeSet};

use hyper::{Method, StatusCode};
use serde_json::Value;

use super::mgmt::Broken;
use crate::harness::client::Answer;
use crate::harness::exchanges::Exchange;

/// The metrics that only grow while a process lives.
const GROWING: [&str; 9] = [
    "yakt_raft_term",
    "yakt_raft_committed_index",
    "yakt_raft_applied_index",
    "yakt_raft_snapshot_index",
    "yakt_raft_purged_index",
    "yakt_cluster_time_seconds",
    "yakt_topics",
    "yakt_partitions",
    "yakt_producers",
];

/// The endpoints that the document must have, whatever else it has.
const DOCUMENTED: [&str; 4] =
    ["/create_topic", "/broker_mgmt/{previous_offset}", "/cluster", "/healthz"];

/// What was said before.
#[derive(Debug, Default)]
struct Said {
    /// By connection and name, the highest.
    highest: BTreeMap<(u64, &'static str), f64>,
    /// By term.
    leaders: BTreeMap<u64, u64>,
}

impl Said {
    /// Notes `value` of what only grows.
    fn grow(&mut self, connection: u64, name: &'static str, value: f64) -> Result<(), String> {
        let highest = self.highest.entry((connection, name)).or_insert(value);
        if value < *highest {
            return Err(format!("{name} was {highest}, and is {value}"));
        }
        *highest = value;
        Ok(())
    }

    fn judge_cluster(&mut self, connection: u64, addr: &str, status: &Value) -> Result<(), String> {
        let number =
            |name: &str| status[name].as_u64().ok_or_else(|| format!("no {name} in {status}"));
        let (node, term, committed) = (number("node")?, number("term")?, number("committed")?);
        if !addr.starts_with(&format!("n{node}:")) {
            return Err(format!("it takes itself for node {node}"));
        }
        let nodes = status["nodes"].as_array().ok_or_else(|| format!("no nodes in {status}"))?;
        let ids: BTreeSet<_> = nodes.iter().filter_map(|node| node["id"].as_u64()).collect();
        if ids.len() != nodes.len() {
            return Err(format!("a member twice, or without an id, in {status}"));
        }
        for member in nodes.iter().filter(|member| member["role"] == "leader") {
            if member["id"] != status["leader"] {
                return Err(format!(
                    "{} leads, and {} does, in {status}",
                    member["id"], status["leader"]
                ));
            }
        }
        if let Some(leader) = status["leader"].as_u64() {
            let known = *self.leaders.entry(term).or_insert(leader);
            if known != leader {
                return Err(format!("term {term} was led by {known}, and by {leader}"));
            }
        }
        #[expect(clippy::cast_precision_loss, reason = "a run's terms and indexes are small")]
        let float = |count: u64| count as f64;
        self.grow(connection, "term", float(term))?;
        self.grow(connection, "committed", float(committed))
    }

    fn judge_metrics(&mut self, connection: u64, text: &str) -> Result<(), String> {
        let samples = text.lines().filter(|line| !line.starts_with('#'));
        let mut values = BTreeMap::new();
        for line in samples {
            let sample = line.rsplit_once(' ');
            let sample = sample.and_then(|(name, value)| Some((name, value.parse::<f64>().ok()?)));
            let (name, value) = sample.ok_or_else(|| format!("no sample: {line:?}"))?;
            if values.insert(name, value).is_some() {
                return Err(format!("{name} twice"));
            }
        }
        for name in GROWING {
            let value = values.get(name).ok_or_else(|| format!("no {name}"))?;
            self.grow(connection, name, *value)?;
        }
        let [applied, committed] =
            ["yakt_raft_applied_index", "yakt_raft_committed_index"].map(|name| values.get(name));
        if applied > committed {
            return Err(format!("{applied:?} applied and {committed:?} committed"));
        }
        Ok(())
    }
}

/// Judges an answer about a node itself; whatever else it is, it is fine.
fn judge(
    said: &mut Said,
    exchange: &Exchange,
    connection: u64,
    answer: &Answer,
) -> Result<(), String> {
    let Answer { status, body } = answer;
    let is_ok = *status == StatusCode::OK;
    match (exchange.path(), is_ok) {
        ("/healthz" | "/readyz", true) if body == "ok\n" => Ok(()),
        ("/readyz", false)
            if *status == StatusCode::SERVICE_UNAVAILABLE && body["code"] == "not_ready" =>
        {
            Ok(())
        }
        ("/cluster", true) => said.judge_cluster(connection, &exchange.addr, body),
        ("/metrics", true) => said.judge_metrics(connection, body.as_str().unwrap_or_default()),
        ("/openapi.json", true)
            if DOCUMENTED.iter().all(|path| body["paths"][path].is_object()) =>
        {
            Ok(())
        }
        ("/healthz" | "/readyz" | "/cluster" | "/metrics" | "/openapi.json", _) => {
            Err(format!("{status} {body}"))
        }
        _ => Ok(()),
    }
}

/// Judges all that nodes said about themselves in a run.
///
/// # Errors
///
/// The first that makes no sense, and why.
pub fn check(exchanges: &[Exchange]) -> Result<(), Broken> {
    let mut said = Said::default();
    for (number, exchange) in exchanges.iter().enumerate() {
        let (Some(connection), Some(Ok(answer))) = (exchange.connection, &exchange.answer) else {
            continue;
        };
        let is_look = exchange.request.method == Method::GET && exchange.request.refusal.is_none();
        if is_look && let Err(what) = judge(&mut said, exchange, connection, answer) {
            let what = format!("{} answers {}: {what}", exchange.addr, exchange.path());
            return Err((number, what));
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn broken(looks: &[Exchange]) -> String {
        check(looks).unwrap_err().1
    }

    fn status(node: u64, leader: Option<u64>, term: u64) -> Value {
        let role = |id: u64| if leader == Some(id) { "leader" } else { "follower" };
        let nodes: Vec<_> = [1, 2].map(|id| json!({ "id": id, "role": role(id) })).into();
        json!({ "node": node, "leader": leader, "term": term, "committed": term, "nodes": nodes })
    }

    fn cluster(connection: u64, status: Value) -> Exchange {
        Exchange::answered(connection, "/cluster", 200, status)
    }

    fn metrics(connection: u64, change: impl Fn(&str) -> u64) -> Exchange {
        let lines = GROWING.map(|name| format!("# HELP {name}\n{name} {}\n", change(name)));
        Exchange::answered(connection, "/metrics", 200, json!(lines.concat()))
    }

    #[test]
    fn a_node_that_serves_says_so_and_one_that_is_not_ready_may_say_so() {
        let ok = || json!("ok\n");
        let refused = |code: &str| json!({ "code": code });
        assert_eq!(
            check(&[
                Exchange::answered(1, "/healthz", 200, ok()),
                Exchange::answered(1, "/readyz", 200, ok())
            ]),
            Ok(())
        );
        assert_eq!(check(&[Exchange::answered(1, "/readyz", 503, refused("not_ready"))]), Ok(()));
        assert!(
            broken(&[Exchange::answered(1, "/healthz", 503, refused("not_ready"))])
                .contains("/healthz")
        );
        assert!(
            broken(&[Exchange::answered(1, "/readyz", 503, refused("starting"))])
                .contains("/readyz")
        );
        assert!(broken(&[Exchange::answered(1, "/readyz", 404, Value::Null)]).contains("/readyz"));
        assert!(
            broken(&[Exchange::answered(1, "/openapi.json", 200, json!({ "paths": {} }))])
                .contains("openapi")
        );
    }

    #[test]
    fn a_term_has_one_leader_and_does_not_go_back_in_one_process() {
        let sound = [cluster(1, status(1, Some(2), 3)), cluster(1, status(1, None, 4))];
        assert_eq!(check(&sound), Ok(()));
        let two = [cluster(1, status(1, Some(2), 3)), cluster(2, status(1, Some(1), 3))];
        assert!(broken(&two).contains("term 3"));
        let back =
            |connection| [cluster(1, status(1, None, 3)), cluster(connection, status(1, None, 2))];
        assert!(broken(&back(1)).contains("term was 3"));
        assert_eq!(check(&back(2)), Ok(()));
    }

    #[test]
    fn a_node_that_takes_itself_for_another_or_names_two_leaders_is_caught() {
        assert!(broken(&[cluster(1, status(2, None, 1))]).contains("node 2"));
        let mut two = status(1, Some(2), 1);
        two["nodes"][0]["role"] = json!("leader");
        assert!(broken(&[cluster(1, two)]).contains("leads"));
        let mut twice = status(1, Some(2), 1);
        twice["nodes"][0]["id"] = json!(2);
        assert!(broken(&[cluster(1, twice)]).contains("twice"));
    }

    #[test]
    fn metrics_that_shrink_or_are_missing_are_caught() {
        assert_eq!(check(&[metrics(1, |_| 7), metrics(1, |_| 7)]), Ok(()));
        for name in GROWING {
            let fallen = metrics(1, |other| if other == name { 6 } else { 7 });
            assert!(broken(&[metrics(1, |_| 7), fallen]).contains(name), "{name}");
        }
        let ahead = metrics(1, |name| if name == "yakt_raft_applied_index" { 8 } else { 7 });
        assert!(broken(&[ahead]).contains("applied"));
        assert!(
            broken(&[Exchange::answered(1, "/metrics", 200, json!("yakt_topics 1\n"))])
                .contains("no yakt")
        );
        assert!(
            broken(&[Exchange::answered(1, "/metrics", 200, json!("yakt_topics\n"))])
                .contains("no sample")
        );
    }
}
