//! What is judged at the end of a run, on short runs that deserve it.

use std::sync::Arc;

use super::*;
use crate::harness::schedule::{Fault, Planned, Target, play};
use crate::harness::{Broken, cluster};

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
    let dumb = |node: yakt::node::Node<SimEnv>| match node.id() {
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

#[test]
fn a_healed_cluster_that_does_not_come_to_order_is_caught() {
    // Nothing is asked of it, so that it is nobody's operation that does not end.
    let held = simulate(1, || async move {
        let world = World::new(WorldConfig::default());
        let watch = Watch::new(world.trace().clone(), Coverage::default(), Recorder::new(false));
        let cluster = Cluster::new(world, RaftOptions::default(), watch);
        cluster.form(NODES).await.expect("five healthy nodes");
        cluster.hold(5);
        cluster.kill(5);
        assert!(!cluster.world().is_running(&cluster::host(5)));
        let workload = Workload::play(&cluster, Vec::new());
        Run::new(cluster).finish(workload).await.map(drop)
    });
    let what = held.expect_err("node 5 is held").what;
    assert!(what.starts_with("convergence") && what.contains("node 5 does not run"), "{what}");
}
