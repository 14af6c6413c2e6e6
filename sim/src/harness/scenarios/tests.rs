//! What is judged at the end of a run, on short runs that deserve it.

use std::sync::Arc;

use axum::body::{Body, to_bytes};
use axum::extract::Request as HttpRequest;
use axum::middleware::{self, Next};
use axum::response::Response;
use yakt::node::Node;

use super::*;
use crate::harness::Broken;
use crate::harness::client::Answer;
use crate::harness::schedule::{Fault, Planned, Target, play};

/// A quiet second of a cluster that nobody asks anything, but for `faults` at its start.
fn short(faults: Vec<Fault>) -> Schedule {
    let drawn = STANDARD.draw(1);
    Schedule {
        settings: crate::harness::schedule::Settings {
            duration_millis: 1_000,
            clock_millis: vec![],
            drift_ppm: vec![],
            ..drawn.settings
        },
        faults: faults.into_iter().map(|fault| Planned { at: 100, fault }).collect(),
        clients: Vec::new(),
        ..drawn
    }
}

fn verdict_of(subject: Subject, faults: Vec<Fault>) -> Verdict {
    let script = Script::Schedule(Box::new(short(faults)));
    play_with(subject, script, Wants::default()).outcome.verdict
}

/// The violation that `verdict` is.
fn violation(verdict: Verdict) -> Violation {
    match verdict {
        Verdict::Violated(violation) => violation,
        other => panic!("it is {other:?}"),
    }
}

fn lose(id: NodeId) -> Fault {
    Fault::Lose { target: Target::Node(id), down: 100 }
}

#[test]
fn a_quiet_run_is_clean_and_a_minority_of_lost_disks_is_made_up_for() {
    assert_eq!(verdict_of(Subject::default(), vec![]), Verdict::Clean);
    assert_eq!(verdict_of(Subject::default(), vec![lose(2), lose(3)]), Verdict::Clean);
}

#[test]
fn a_majority_of_lost_disks_is_unrecoverable() {
    let lost = verdict_of(Subject::default(), vec![lose(1), lose(3), lose(4)]);
    assert_eq!(lost, Verdict::Unrecoverable);
}

#[test]
fn a_healed_node_that_does_not_serve_is_caught() {
    let dumb = |node: Node<SimEnv>| match node.id() {
        4 => axum::Router::new(),
        _ => yakt::http::router(node),
    };
    let subject = Subject { service: Arc::new(dumb), ..Subject::default() };
    let Violation { broken, what, .. } = violation(verdict_of(subject, vec![]));
    assert_eq!(broken, Broken::Liveness);
    assert!(what.starts_with("service: healed node 4 answers"), "{what}");
}

#[test]
fn what_a_subjects_own_judge_finds_ends_the_run() {
    let broken = Violation::safety("mine: it was broken");
    let found = broken.clone();
    let judge: crate::harness::subject::Judge = Arc::new(move |_| Err(found.clone()));
    let subject = Subject { judge, ..Subject::default() };
    assert_eq!(violation(verdict_of(subject, vec![])), broken);
}

/// Plays a loss of node 2's disk in a cluster to which `act` is done just before it.
fn played_while(act: impl FnOnce(Cluster) + Send + 'static) -> Result<(), Violation> {
    simulate(1, || async move {
        let world = World::new(WorldConfig::default());
        let watch = Watch::new(world.trace().clone(), Coverage::default(), Recorder::new(false));
        let schedule = short(vec![lose(2)]);
        let cluster = Cluster::new(world, schedule.settings.raft(), watch);
        let acting = cluster.clone();
        drop(madsim::task::spawn(async move {
            let formed = acting.settle(NODES).await;
            formed.expect("five healthy nodes");
            act(acting);
        }));
        play::play(Run::new(cluster), schedule).await.map(drop)
    })
}

#[test]
fn an_operation_that_does_not_end_though_a_majority_has_its_disks_is_caught() {
    assert_eq!(played_while(drop), Ok(()));
    // Nodes that never come back, though their disks are whole: nobody can remove node 2.
    let stuck = played_while(|cluster| {
        for id in 3..=5 {
            cluster.hold(id);
            cluster.kill(id);
        }
    });
    let Violation { broken, what, .. } = stuck.expect_err("it cannot end");
    assert_eq!(broken, Broken::Liveness);
    assert!(what.starts_with("operations: replaces node 2 did not end"), "{what}");
}

/// What the end of a run finds of five healthy nodes to which `act` is done just before it.
fn finished_after(act: impl FnOnce(&Cluster) + Send + 'static) -> Result<(), Violation> {
    simulate(1, || async move {
        let world = World::new(WorldConfig::default());
        let watch = Watch::new(world.trace().clone(), Coverage::default(), Recorder::new(false));
        let cluster = Cluster::new(world, RaftOptions::default(), watch);
        cluster.form(NODES).await.expect("five healthy nodes");
        act(&cluster);
        let workload = Workload::play(&cluster, Vec::new());
        Run::new(cluster).finish(workload).await.map(drop)
    })
}

#[test]
fn what_clients_were_told_is_judged_at_the_end() {
    assert_eq!(finished_after(|_| ()), Ok(()));
    let lied = finished_after(|cluster| {
        let read = Request::get("/get_topic_by_name/ghost");
        let answer = Answer {
            status: StatusCode::OK,
            body: json!({ "type": "metadata", "name": "TopicRecord",
                "fields": { "topicUUID": uuid::Uuid::nil(), "name": "ghost" }, "timestamp": 1.0 }),
        };
        let number = cluster.exchanges().begin("c1", &http(1), &read, 0);
        cluster.exchanges().end(number, Some(0), &Ok(answer), 0);
    });
    let Violation { broken, what, exchanges } = lied.expect_err("nobody made that topic");
    assert_eq!(broken, Broken::Safety);
    assert!(what.contains(&uuid::Uuid::nil().to_string()) && !exchanges.is_empty(), "{what}");
}

#[test]
fn a_last_client_that_does_not_end_is_caught() {
    let killed = finished_after(|cluster| {
        let world = cluster.world().clone();
        drop(madsim::task::spawn(async move {
            while !world.is_running("checker") {
                rt::sleep::<SimEnv>(Duration::from_millis(1)).await;
            }
            world.kill("checker");
        }));
    });
    let Violation { broken, what, .. } = killed.expect_err("it was killed");
    assert_eq!((broken, what.as_str()), (Broken::Liveness, "service: the last client did not end"));
}

/// Plays the scenario called `name` on nodes that serve what `service` makes of yakt's router.
fn violated(
    name: &str,
    service: impl Fn(Node<SimEnv>) -> axum::Router + Send + Sync + 'static,
) -> String {
    let subject = Subject { service: Arc::new(service), ..Subject::default() };
    let script = Script::Seed(find(name).unwrap(), 1);
    violation(play_with(subject, script, Wants::default()).outcome.verdict).what
}

#[test]
fn a_snapshot_of_the_wrong_kind_is_caught_by_the_ten_minutes_themselves() {
    let what = violated("ten_minutes", |node| {
        let wrong = async |request: HttpRequest, next: Next| -> Response {
            let (head, body) = next.run(request).await.into_parts();
            let body = to_bytes(body, usize::MAX).await.unwrap();
            let body = String::from_utf8_lossy(&body);
            let mut answer = Response::new(Body::from(
                body.replace("\"snapshot\":\"current\"", "\"snapshot\":\"complete\""),
            ));
            *answer.status_mut() = head.status;
            answer
        };
        yakt::http::router(node).layer(middleware::from_fn(wrong))
    });
    assert!(what.ends_with("s after an offset a complete snapshot came"), "{what}");
}

#[test]
fn an_election_in_a_healthy_cluster_is_caught() {
    // Whoever asks node 3 for the active brokers, as the last client does, makes another node the leader.
    let what = violated("elect_write_read", |node| {
        let restless = node.clone();
        let elect = move |request: HttpRequest, next: Next| {
            let node = restless.clone();
            async move {
                if node.id() == 3 && request.uri().path() == "/get_active_brokers" {
                    let leader = node.status().leader.unwrap_or_default();
                    _ = node.transfer_leader(leader % NODES + 1).await;
                }
                next.run(request).await
            }
        };
        yakt::http::router(node).layer(middleware::from_fn(elect))
    });
    assert_eq!(what, "stability: a healthy cluster elected a new leader");
}

#[test]
fn a_healed_cluster_that_does_not_come_to_order_is_caught() {
    // Nothing is asked of it, so that it is nobody's operation that does not end.
    let held = finished_after(|cluster| {
        cluster.hold(5);
        cluster.kill(5);
        assert!(!cluster.world().is_running(&host(5)));
    });
    let what = held.expect_err("node 5 is held").what;
    assert!(what.starts_with("convergence") && what.contains("node 5 does not run"), "{what}");
}
