//! Answers to operators, compared with the real events of the run.
//!
//! - A removal that succeeded, or that finds an unknown member: at some moment of the request, the
//!   last committed membership did not contain that node.
//! - A removal of which every request was answered "nothing was changed" did not happen.
//! - A transfer that succeeded: the named node was the leader at some moment of the request.
//! - A snapshot that was taken is on the node's disk, and contains all that the node had applied
//!   when it was asked.
//!
//! The time between an answer and its arrival is part of the request. It widens the set of accepted
//! answers, and never narrows it.

use hyper::{Method, StatusCode};
use yakt::raft::NodeId;

use super::facts::Facts;
use super::mgmt::Broken;
use crate::harness::exchanges::{Effect, Exchange};

/// No two moments of exchanges are the same. Simultaneous ones are noted a nanosecond apart, so
/// some are noted later than they were.
pub(super) const SLACK_NANOS: u64 = 1_000_000;

/// The node that `exchange` asks to remove.
fn removed_by(exchange: &Exchange) -> Option<NodeId> {
    let id = exchange.path().strip_prefix("/cluster/nodes/")?;
    (exchange.request.method == Method::DELETE).then(|| id.parse().ok()).flatten()
}

/// The node of `addr`, which is `nID:PORT`.
pub(super) fn node_of(addr: &str) -> Option<NodeId> {
    addr.strip_prefix('n')?.split(':').next()?.parse().ok()
}

fn span(exchange: &Exchange) -> (u64, u64) {
    let ended = exchange.ended.unwrap_or(u64::MAX - SLACK_NANOS);
    (exchange.begun.saturating_sub(SLACK_NANOS), ended + SLACK_NANOS)
}

fn judge(exchange: &Exchange, facts: &Facts) -> Result<(), String> {
    let Effect::Decided(answer) = exchange.effect() else { return Ok(()) };
    let (from, until) = span(exchange);
    let succeeded = answer.status.is_success();
    if let Some(node) = removed_by(exchange) {
        let claims = succeeded || answer.body["code"] == "unknown_member";
        let lacks =
            facts.members_between(from, until).any(|members| !members.nodes.contains(&node));
        if claims && !lacks && !facts.committed.is_empty() {
            return Err(format!(
                "node {node} is said to be gone ({}), and is a member",
                answer.status
            ));
        }
    }
    match exchange.path() {
        "/cluster/leader" if succeeded => {
            let asked = exchange.request.body.as_ref().and_then(|body| body["node"].as_u64());
            match asked {
                Some(node) if !facts.led_between(node, from, until) => {
                    Err(format!("node {node} is said to lead, and does not"))
                }
                _ => Ok(()),
            }
        }
        "/cluster/snapshot" if answer.status == StatusCode::NO_CONTENT => {
            let Some(life) = node_of(&exchange.addr).and_then(|node| facts.lives.get(&node)) else {
                return Ok(());
            };
            let applied = life.applied_at(exchange.begun.saturating_sub(SLACK_NANOS)).unwrap_or(0);
            let stored = life.snapshots.iter().rev().find(|(at, _)| *at <= until);
            let stored = stored.map_or(0, |(_, index)| *index);
            // A process that starts in between loads a snapshot that was stored before.
            if stored < applied && !life.is_started_between(from, until) {
                return Err(format!(
                    "{} had applied {applied}, and its snapshot holds {stored}",
                    exchange.addr
                ));
            }
            Ok(())
        }
        _ => Ok(()),
    }
}

/// Judges removals that happened although every request for them was answered that nothing was
/// changed.
fn judge_refusals(exchanges: &[Exchange], facts: &Facts) -> Result<(), Broken> {
    let pairs = facts.committed.iter().zip(facts.committed.iter().skip(1));
    for ((.., before), (at, _, after)) in pairs {
        for node in before.nodes.difference(&after.nodes) {
            let asks = exchanges.iter().enumerate().filter(|(_, exchange)| {
                removed_by(exchange) == Some(*node)
                    && exchange.begun <= at + SLACK_NANOS
                    // A request that never left its client asks for nothing.
                    && !matches!(exchange.answer, Some(Err(crate::harness::client::NoAnswer::NotSent)))
            });
            let asks: Vec<_> = asks.collect();
            // A refusal is certain that it changed nothing. A request that finds the node gone did
            // not remove it.
            let may = |exchange: &Exchange| match exchange.effect() {
                Effect::None => false,
                Effect::Decided(answer) => answer.status.is_success(),
                Effect::Open => true,
            };
            if let Some((number, exchange)) = asks.last()
                && !asks.iter().any(|(_, exchange)| may(exchange))
            {
                let what = format!(
                    "node {node} was removed, and {} said that nothing was changed",
                    exchange.addr
                );
                return Err((*number, what));
            }
        }
    }
    Ok(())
}

/// Judges all answers to operators in a run.
///
/// # Errors
///
/// The first answer that is not true.
pub fn check(exchanges: &[Exchange], facts: &Facts) -> Result<(), Broken> {
    for (number, exchange) in exchanges.iter().enumerate() {
        if exchange.request.refusal.is_none() {
            judge(exchange, facts).map_err(|what| (number, what))?;
        }
    }
    judge_refusals(exchanges, facts)
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};

    use super::super::facts::{Life, Members};
    use super::*;
    use crate::harness::client::{NoAnswer, Request};

    const MS: u64 = 1_000_000;

    fn members(ids: &[NodeId]) -> Members {
        let ids = || ids.iter().copied().collect();
        Members { nodes: ids(), voters: ids() }
    }

    /// Nodes 1 to 3, without node 3 from 100 ms on; node 1 leads, node 2 from 50 ms on.
    fn facts() -> Facts {
        let committed = vec![(0, 1, members(&[1, 2, 3])), (100 * MS, 2, members(&[1, 2]))];
        let mut facts = Facts { committed, ..Facts::default() };
        facts.leads(0, 1, 1);
        facts.leads(50 * MS, 2, 2);
        facts.lives.insert(
            1,
            Life {
                starts: vec![0],
                applied: vec![(10 * MS, 5), (60 * MS, 9)],
                snapshots: vec![(20 * MS, 5), (70 * MS, 9)],
            },
        );
        facts
    }

    fn at(begun: u64, ended: u64, request: Request, status: u16, code: &str) -> Exchange {
        let body = if code.is_empty() { Value::Null } else { json!({ "code": code }) };
        let answered = Exchange::answered(1, "", status, body);
        Exchange { request, begun: begun * MS, ended: Some(ended * MS), ..answered }
    }

    fn removal() -> Request {
        Request { method: Method::DELETE, ..Request::get("/cluster/nodes/3") }
    }

    fn judged(exchanges: &[Exchange]) -> String {
        check(exchanges, &facts()).err().map(|(_, what)| what).unwrap_or_default()
    }

    #[test]
    fn a_removal_that_is_said_to_be_done_and_is_not_is_caught() {
        assert_eq!(judged(&[at(90, 110, removal(), 200, "")]), "");
        assert!(judged(&[at(80, 90, removal(), 200, "")]).contains("is a member"));
        assert!(judged(&[at(80, 90, removal(), 404, "unknown_member")]).contains("is a member"));
        let later =
            [at(90, 110, removal(), 200, ""), at(120, 130, removal(), 404, "unknown_member")];
        assert_eq!(judged(&later), "");
    }

    #[test]
    fn a_removal_that_is_said_to_have_changed_nothing_and_did_is_caught() {
        let refused = || at(80, 90, removal(), 503, "not_now");
        assert!(judged(&[refused()]).contains("nothing was changed"));
        // Another request, whose outcome is unknown, explains it.
        assert_eq!(judged(&[refused(), at(80, 90, removal(), 504, "outcome_unknown")]), "");
        let lost = Exchange { answer: Some(Err(NoAnswer::Lost)), ..refused() };
        assert_eq!(judged(&[refused(), lost]), "");
    }

    #[test]
    fn a_transfer_to_a_node_that_does_not_lead_is_caught() {
        let transfer = |node: u64| Request::post("/cluster/leader", json!({ "node": node }));
        assert_eq!(judged(&[at(40, 60, transfer(2), 200, "")]), "");
        assert!(judged(&[at(60, 70, transfer(1), 200, "")]).contains("said to lead"));
        assert!(judged(&[at(30, 40, transfer(2), 200, "")]).contains("said to lead"));
    }

    #[test]
    fn a_snapshot_that_lacks_what_was_applied_is_caught() {
        let snapshot = || Request::post("/cluster/snapshot", Value::Null);
        assert_eq!(judged(&[at(15, 25, snapshot(), 204, "")]), "");
        assert!(judged(&[at(15, 18, snapshot(), 204, "")]).contains("its snapshot holds 0"));
        assert!(judged(&[at(65, 68, snapshot(), 204, "")]).contains("its snapshot holds 5"));
    }
}
