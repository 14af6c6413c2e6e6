//! A service that embeds yakt, simulated: a route of its own on every node, a client that asks for it, and a judge of
//! what it was told.
//!
//! `/topics` counts topics, linearizably. Topics are never deleted, so of two answers of which one came before the
//! other was asked for, the later must not be smaller.
//!
//! `cargo run --release -p yakt-sim --example own_service` plays twenty seeds under every kind of fault, and twenty of a
//! scenario of its own, in which nodes are killed and nothing else happens. With `-- kills 7` behind it, it plays that
//! one, and writes a report.

use std::process::ExitCode;
use std::sync::Arc;
use std::time::Duration;

use axum::http::StatusCode;
use axum::routing::get;
use yakt::env::rt;
use yakt::node::{Consistency, Node, REQUEST_DEADLINE};
use yakt_sim::SimEnv;
use yakt_sim::harness::Violation;
use yakt_sim::harness::client::{Client, Request};
use yakt_sim::harness::cluster::http;
use yakt_sim::harness::exchanges::{Effect, Exchange};
use yakt_sim::harness::runner::program;
use yakt_sim::harness::scenarios::{Scenario, find};
use yakt_sim::harness::schedule::{Fault, Schedule};
use yakt_sim::harness::subject::Subject;

async fn count(node: Node<SimEnv>) -> Result<String, StatusCode> {
    let image = node.read(Consistency::Linearizable, REQUEST_DEADLINE).await;
    let image = image.map_err(|_| StatusCode::SERVICE_UNAVAILABLE)?;
    Ok(image.state.topic_count().to_string())
}

async fn visit(mut client: Client) {
    for node in (1..=5).cycle() {
        // What comes of it is noted; the judge looks at all of it.
        let _ = client.send(&http(node), &Request::get("/topics")).await;
        rt::sleep::<SimEnv>(Duration::from_millis(50)).await;
    }
}

fn judge(exchanges: &[Exchange]) -> Result<(), Violation> {
    let mut asked =
        exchanges.iter().enumerate().filter(|(_, exchange)| exchange.path() == "/topics");
    // One client asks, one question after the other.
    asked.try_fold(0, |known, (number, exchange)| {
        let Effect::Decided(answer) = exchange.effect() else { return Ok(known) };
        let count = answer.body.as_u64().unwrap_or_default();
        let what = || Violation::safety(format!("topic count: it was {known} and is {count}"));
        if count < known { Err(Violation { exchanges: vec![number], ..what() }) } else { Ok(count) }
    })?;
    Ok(())
}

/// The swarm's runs, but of its faults those only that kill a node.
fn kills(seed: u64) -> Schedule {
    let mut schedule = find("swarm").and_then(|swarm| swarm.draw(seed)).expect("it is drawn");
    schedule.faults.retain(|planned| matches!(planned.fault, Fault::Kill { .. }));
    schedule
}

fn main() -> ExitCode {
    let service = |node: Node<SimEnv>| {
        yakt::http::router(node.clone()).route("/topics", get(move || count(node)))
    };
    let visit = |client| Box::pin(visit(client)) as _;
    program(Subject {
        service: Arc::new(service),
        visit: Some(Arc::new(visit)),
        judge: Arc::new(judge),
        scenarios: vec![Scenario::drawn("kills", "nodes are killed", kills)],
        ..Subject::default()
    })
}
