//! `/cluster` and `/metrics`, compared with the real events of the run.
//!
//! - The leader that a node names for a term is the one that was elected.
//! - The members that it shows stood in some log, with these voters.
//! - An index that it reports as committed was known as committed by then.
//! - The index that it reports as applied is no lower than the one that it had applied when it was
//!   asked. It is no higher than the one that it had applied when the answer came.
//! - The amounts of metadata and the cluster time are those of the index that it has applied.

use std::collections::BTreeMap;

use hyper::{Method, StatusCode};
use openraft::Membership;
use serde_json::Value;
use yakt::node::ClusterStatus;
use yakt::raft::{NodeId, Peer};

use super::facts::{Facts, Members};
use super::mgmt::Broken;
use super::operators::{SLACK_NANOS, node_of};
use crate::harness::exchanges::Exchange;

/// A node may publish that an entry is committed a moment before it takes the step.
const COMMIT_SLACK_NANOS: u64 = 1_000_000_000;

/// How long a process on a slow disk may take to replay its log.
const START_NANOS: u64 = 10_000_000_000;

/// The largest error of a cluster time that an answer carries as a float, in seconds.
const TIME_PRECISION: f64 = 2e-6;

fn judge_cluster(status: &Value, until: u64, facts: &Facts) -> Result<(), String> {
    if let (Some(leader), Some(term)) = (status["leader"].as_u64(), status["term"].as_u64())
        && let Some((_, elected)) = facts.leaders.get(&term)
        && *elected != leader
    {
        return Err(format!("it names {leader} as the leader of term {term}, and {elected} was"));
    }
    let committed = status["committed"].as_u64().unwrap_or(0);
    let known = facts.committed_until(until + COMMIT_SLACK_NANOS);
    if committed > known {
        return Err(format!("{committed} is said to be committed, and {known} was"));
    }
    let nodes = status["nodes"].as_array().map(Vec::as_slice).unwrap_or_default();
    let ids = |votes: bool| {
        let chosen = nodes.iter().filter(move |node| !votes || node["voter"] == true);
        chosen.filter_map(|node| node["id"].as_u64()).collect()
    };
    let shown = Members { nodes: ids(false), voters: ids(true) };
    if !nodes.is_empty() && !facts.known.is_empty() && !facts.known.contains(&shown) {
        return Err(format!("no log ever had the members {shown:?}"));
    }
    Ok(())
}

fn judge_metrics(text: &str, exchange: &Exchange, until: u64, facts: &Facts) -> Result<(), String> {
    let samples = text.lines().filter(|line| !line.starts_with('#'));
    let samples: BTreeMap<&str, f64> = samples
        .filter_map(|line| line.rsplit_once(' '))
        .filter_map(|(name, value)| Some((name, value.parse().ok()?)))
        .collect();
    let sample = |name: &str| samples.get(name).copied().unwrap_or(-1.0);
    #[expect(
        clippy::cast_possible_truncation,
        clippy::cast_sign_loss,
        reason = "an index of a run is small"
    )]
    let applied = sample("yakt_raft_applied_index").max(0.0) as u64;
    let life = node_of(&exchange.addr).and_then(|node| facts.lives.get(&node));
    if let Some(life) = life {
        let begun = exchange.begun.saturating_sub(SLACK_NANOS);
        // A process replays its log before it shows anything of it.
        let is_starting =
            applied == 0 && life.is_started_between(begun.saturating_sub(START_NANOS), until);
        let is_new = is_starting || life.is_started_between(begun, until);
        let before = life.applied_at(begun).filter(|_| !is_new);
        if before.is_some_and(|before| applied < before) {
            return Err(format!("it has applied {applied}, and had applied {before:?} before"));
        }
        let most = life.applied_until(until);
        if applied > most {
            return Err(format!("it has applied {applied}, and had come to {most}"));
        }
    }
    let Some(amounts) = facts.amounts.get(&applied) else { return Ok(()) };
    #[expect(clippy::cast_precision_loss, reason = "a run's numbers are small")]
    let float = |count: usize| count as f64;
    let mut expected: Vec<(String, f64)> = Vec::new();
    for (name, count) in
        ["yakt_topics", "yakt_partitions", "yakt_producers"].iter().zip(amounts.counts)
    {
        expected.push(((*name).to_owned(), float(count)));
    }
    for status in ["FENCED", "UNFENCED", "ALIVE"] {
        let known = amounts.brokers.iter().find(|(known, _)| known.to_string() == status);
        let count = known.map_or(0, |(_, count)| *count);
        expected.push((format!("yakt_brokers{{status=\"{status}\"}}"), float(count)));
    }
    for (name, count) in expected {
        let shown = sample(&name);
        if (shown - count).abs() > f64::EPSILON {
            return Err(format!("{name} is {shown} at index {applied}, and {count} there are"));
        }
    }
    #[expect(clippy::cast_precision_loss, reason = "microseconds since 1970 are exact")]
    let time = amounts.time as f64 / 1e6;
    let shown = sample("yakt_cluster_time_seconds");
    if (shown - time).abs() > TIME_PRECISION {
        return Err(format!("cluster time is {shown} at index {applied}, and was {time}"));
    }
    Ok(())
}

/// Compares the members that a node shows with the membership in its log. The harness calls this after
/// every change; clients seldom look at that moment.
///
/// # Errors
///
/// How they differ.
pub fn check_members(
    status: &ClusterStatus,
    membership: &Membership<NodeId, Peer>,
) -> Result<(), String> {
    let voters = status.nodes.iter().filter(|member| member.voter);
    let shown = Members {
        nodes: status.nodes.iter().map(|member| member.id).collect(),
        voters: voters.map(|member| member.id).collect(),
    };
    let real = Members::of(membership);
    if shown == real {
        Ok(())
    } else {
        Err(format!("{shown:?} are shown, and {real:?} in its log"))
    }
}

/// Judges all answers of nodes about themselves in a run.
///
/// # Errors
///
/// The first answer that is not true.
pub fn check(exchanges: &[Exchange], facts: &Facts) -> Result<(), Broken> {
    for (number, exchange) in exchanges.iter().enumerate() {
        let (Some(Ok(answer)), Some(ended)) = (&exchange.answer, exchange.ended) else { continue };
        let is_look = exchange.request.method == Method::GET && exchange.request.refusal.is_none();
        if !is_look || answer.status != StatusCode::OK {
            continue;
        }
        let until = ended + SLACK_NANOS;
        let judged = match exchange.path() {
            "/cluster" => judge_cluster(&answer.body, until, facts),
            "/metrics" => {
                let text = answer.body.as_str().unwrap_or_default();
                judge_metrics(text, exchange, until, facts)
            }
            _ => Ok(()),
        };
        judged.map_err(|what| {
            (number, format!("{} answers {}: {what}", exchange.addr, exchange.path()))
        })?;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use serde_json::json;
    use yakt::metadata::BrokerStatus;
    use yakt::node::{MemberStatus, Role};

    use super::super::facts::{Amounts, Life};
    use super::*;

    const MS: u64 = 1_000_000;

    #[test]
    fn members_are_shown_as_they_are_in_the_log() {
        let peer = |id: u64| {
            let addr = format!("n{id}:5010");
            (id, Peer { raft: addr.clone(), http: addr, directory: uuid::Uuid::nil() })
        };
        let change = vec![[1].into(), [1, 2].into()];
        let joint = Membership::new(change, BTreeMap::from([1, 2].map(peer))).expect("addresses");
        let show = |voters: &[u64]| ClusterStatus {
            cluster_id: None,
            node: 1,
            leader: None,
            term: 0,
            committed: 0,
            nodes: [1, 2]
                .map(|id| MemberStatus {
                    id,
                    raft: String::new(),
                    http: String::new(),
                    role: Role::Learner,
                    voter: voters.contains(&id),
                    matched: None,
                    unreachable: None,
                })
                .into(),
        };
        assert_eq!(check_members(&show(&[1]), &joint), Ok(()));
        assert!(check_members(&show(&[1, 2]), &joint).is_err());
    }

    /// Node 1 leads term 1, and has applied 5 at 10 ms and 7 at 100 ms.
    fn facts() -> Facts {
        let mut facts = Facts::default();
        facts.leads(0, 1, 1);
        facts.commits = vec![(10 * MS, 5), (100 * MS, 7)];
        facts.known.insert(Members { nodes: [1, 2].into(), voters: [1].into() });
        let applied = vec![(10 * MS, 5), (100 * MS, 7)];
        facts.lives.insert(1, Life { starts: vec![0], applied, ..Life::default() });
        let brokers = [(BrokerStatus::Alive, 2)].into();
        let amounts = Amounts { counts: [3, 4, 5], brokers, time: 1_500_000 };
        facts.amounts.insert(5, amounts);
        facts
    }

    fn at(path: &str, body: Value) -> String {
        let answered = Exchange::answered(1, path, 200, body);
        let look = Exchange { begun: 20 * MS, ended: Some(30 * MS), ..answered };
        check(&[look], &facts()).err().map(|(_, what)| what).unwrap_or_default()
    }

    fn status(leader: u64, committed: u64, voters: &[u64]) -> Value {
        let node = |id: u64| json!({ "id": id, "voter": voters.contains(&id) });
        json!({ "leader": leader, "term": 1, "committed": committed, "nodes": [node(1), node(2)] })
    }

    fn metrics(change: impl Fn(&str, f64) -> f64) -> Value {
        let lines = [
            ("yakt_raft_applied_index", 5.0),
            ("yakt_topics", 3.0),
            ("yakt_partitions", 4.0),
            ("yakt_producers", 5.0),
            ("yakt_brokers{status=\"FENCED\"}", 0.0),
            ("yakt_brokers{status=\"UNFENCED\"}", 0.0),
            ("yakt_brokers{status=\"ALIVE\"}", 2.0),
            ("yakt_cluster_time_seconds", 1.5),
        ];
        lines.map(|(name, value)| format!("{name} {}\n", change(name, value))).concat().into()
    }

    #[test]
    fn a_leader_a_member_or_a_commit_that_never_was_is_caught() {
        assert_eq!(at("/cluster", status(1, 5, &[1])), "");
        assert!(at("/cluster", status(2, 5, &[1])).contains("as the leader of term 1"));
        assert!(at("/cluster", status(1, 8, &[1])).contains("committed"));
        assert!(at("/cluster", status(1, 5, &[1, 2])).contains("no log ever had"));
    }

    #[test]
    fn metrics_that_are_not_those_of_their_index_are_caught() {
        assert_eq!(at("/metrics", metrics(|_, value| value)), "");
        for wrong in [
            "yakt_topics",
            "yakt_partitions",
            "yakt_producers",
            "yakt_cluster_time_seconds",
            "yakt_brokers{status=\"ALIVE\"}",
            "yakt_brokers{status=\"FENCED\"}",
        ] {
            let off = metrics(|name, value| if name == wrong { value + 1.0 } else { value });
            assert!(!at("/metrics", off).is_empty(), "{wrong}");
        }
        for applied in [4.0, 7.0] {
            let off = |name: &str, value| if name.contains("applied") { applied } else { value };
            assert!(at("/metrics", metrics(off)).contains("it has applied"), "{applied}");
        }
    }
}
