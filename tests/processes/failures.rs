//! Nodes are killed, stopped and started again; what was acknowledged stays.

use std::time::Duration;

use serde_json::json;

use crate::client::Request;
use crate::cluster::{Cluster, PATIENCE, wait_for, within};
use crate::writers::{Ledger, Told, Writers, assert_kept, create};

/// Leaders killed in one test.
const LEADER_KILLS: u32 = 3;

/// Writes that must succeed before and after each kill.
const PROGRESS: usize = 100;

#[test]
fn no_acknowledged_write_is_lost_when_leaders_are_killed() {
    let mut cluster = crate::five();
    let writers = Writers::start("kill", &cluster.addrs());
    for _ in 0..LEADER_KILLS {
        writers.wait_for_progress(PROGRESS);
        let leader = cluster.leader();
        cluster.kill(leader);
        writers.wait_for_progress(PROGRESS);
        cluster.restart(leader);
        cluster.wait_until_ready(leader);
    }
    cluster.wait_until_whole();
    assert_kept(&cluster, &writers.finish());
}

#[test]
fn no_acknowledged_write_is_lost_when_all_nodes_are_killed_at_once() {
    let mut cluster = crate::five();
    let writers = Writers::start("all", &cluster.addrs());
    writers.wait_for_progress(PROGRESS);
    let before = cluster.leader();
    let cluster_id = cluster.node(before).cluster().expect("an answer")["clusterId"].clone();
    for id in 1..=5 {
        cluster.kill(id);
    }
    let ledger = writers.finish();
    cluster.restart_all();
    cluster.wait_until_whole();
    assert_kept(&cluster, &ledger);
    for node in cluster.nodes() {
        assert_eq!(node.cluster().expect("an answer")["clusterId"], cluster_id);
    }
}

#[test]
fn three_nodes_of_five_serve_and_two_do_not() {
    let mut cluster = crate::five();
    let mut ledger = Ledger::new();

    let leader = cluster.leader();
    let follower = cluster.follower().id;
    cluster.kill(leader);
    cluster.kill(follower);
    for node in cluster.up() {
        write(&cluster, node.id, "with-three", &mut ledger);
    }
    assert_kept(&cluster, &ledger);

    let leader = cluster.leader();
    cluster.kill(leader);
    let mut refused = Ledger::new();
    for node in cluster.up() {
        let name = format!("with-two-{}", node.id);
        let write = Request::post("/create_topic", &json!({"name": name}));
        // The node may have heard of the dead leader a moment ago, and may have handed it the write.
        let told = create(node.http, &name, None);
        assert_ne!(told, Told::Created, "two nodes of five took {name}");
        refused.insert(name, told);

        for request in [write, Request::get("/get_active_brokers"), Request::get("/client_mgmt/0")]
        {
            let answer = request.ask(node.http);
            assert_eq!(answer.status, 503, "{request:?}: {}", answer.text());
            assert_eq!(answer.header("content-type"), Some("application/problem+json"));
            assert_eq!(answer.header("retry-after"), Some("1"));
            assert_eq!(answer.json()["code"], "no_leader");
        }
        for path in ["/get_active_brokers", "/client_mgmt/0", "/get_topic_by_name/with-three-0"] {
            let stale = Request::get(&format!("{path}?consistency=stale")).ask(node.http);
            assert!(matches!(stale.status, 200 | 404), "{path}: {} {}", stale.status, stale.text());
        }
        assert_eq!(node.status("/healthz"), 200);
        assert_eq!(node.status("/cluster"), 200);
    }
    ledger.extend(refused);

    cluster.restart_all();
    cluster.wait_until_whole();
    assert_kept(&cluster, &ledger);
    write(&cluster, 1, "with-five", &mut ledger);
    assert_kept(&cluster, &ledger);
}

/// `/readyz` said 200 for as long as two nodes of five were left: openraft's metrics name the last leader of
/// the term until another is elected.
#[test]
fn a_node_without_a_leader_is_not_ready() {
    let mut cluster = crate::five();
    let leader = cluster.leader();
    let others: Vec<_> = cluster.up().map(|node| node.id).filter(|id| *id != leader).collect();
    for id in [leader, others[0], others[1]] {
        cluster.kill(id);
    }
    for node in cluster.up() {
        wait_for("a node without a leader is not ready", || {
            (node.status("/readyz") == 503).then_some(())
        });
    }
    cluster.restart_all();
    cluster.wait_until_whole();
}

/// A leader tried to reach a dead follower thousands of times a second, with a line in its log for each
/// attempt: openraft waits out its backoff when the request stream is polled, and the network polled it only
/// once it was connected.
#[test]
fn a_leader_does_not_flood_its_log_while_a_follower_is_down() {
    const WATCHED: Duration = Duration::from_secs(2);
    // The leader says once that the follower is gone; each attempt used to write a line, 27 a
    // second.
    const LINES_MAX: usize = 10;
    let mut cluster = crate::five();
    let (leader, follower) = (cluster.leader(), cluster.follower().id);
    let before = cluster.node(leader).log_lines();
    cluster.kill(follower);
    std::thread::sleep(WATCHED);
    let lines = cluster.node(leader).log_lines() - before;
    assert!(lines < LINES_MAX, "{lines} lines in {WATCHED:?}");
}

#[test]
fn a_leader_that_lost_its_majority_acknowledges_nothing() {
    let mut cluster = crate::five();
    let mut ledger = Ledger::new();
    write(&cluster, 1, "before", &mut ledger);

    let leader = cluster.leader();
    let others: Vec<_> = cluster.up().map(|node| node.id).filter(|id| *id != leader).collect();
    others.into_iter().take(3).for_each(|id| cluster.kill(id));
    for node in cluster.up() {
        let name = format!("alone-{}", node.id);
        let request = Request::post("/create_topic", &json!({"name": name})).key(&name);
        let answer = request.ask(node.http);
        assert!(matches!(answer.status, 503 | 504), "{}: {}", answer.status, answer.text());
        assert_eq!(answer.header("retry-after"), Some("1"));
        ledger.insert(name, if answer.status == 503 { Told::Refused } else { Told::Unknown });
        assert_eq!(Request::get("/get_active_brokers").ask(node.http).status, 503);
    }

    cluster.restart_all();
    cluster.wait_until_whole();
    assert_kept(&cluster, &ledger);
    // The same key makes an unknown outcome known.
    for name in ledger.clone().into_keys().filter(|name| name.starts_with("alone")) {
        let told = create(cluster.follower().http, &name, Some(&name));
        assert_eq!(told, Told::Created, "{name}");
        ledger.insert(name, told);
    }
    assert_kept(&cluster, &ledger);
}

#[test]
fn a_leader_that_is_asked_to_stop_hands_over_and_exits_with_zero() {
    let mut cluster = crate::five();
    let writers = Writers::start("term", &cluster.addrs());
    for _ in 0..2 {
        writers.wait_for_progress(PROGRESS);
        let leader = cluster.leader();
        let status = cluster.terminate(leader);
        assert!(status.success(), "node {leader}: {status}");
        writers.wait_for_progress(PROGRESS);
        assert_ne!(cluster.leader(), leader);
        cluster.restart(leader);
        cluster.wait_until_ready(leader);
    }
    assert_kept(&cluster, &writers.finish());
}

/// Creates a topic through node `id`, again and again if a node or an election refuses it.
fn write(cluster: &Cluster, id: u64, prefix: &str, ledger: &mut Ledger) {
    let addr = cluster.node(id).http;
    let mut attempts = 0;
    let created = within(PATIENCE, || {
        let name = format!("{prefix}-{id}-{attempts}");
        attempts += 1;
        let told = create(addr, &name, None);
        ledger.insert(name, told);
        (told == Told::Created).then_some(())
    });
    assert!(created.is_some(), "no write through node {id} succeeds");
}
