//! Members are removed, replaced and brought back; leadership goes where it is asked to.

use std::process::Command;

use serde_json::{Value, json};

use crate::client::{Request, Response};
use crate::cluster::{Cluster, voters, wait_for};
use crate::writers::{Writers, assert_kept};

/// Writes that must succeed before and after each change.
const PROGRESS: usize = 100;

/// What a removed node says when it stops.
const FAREWELL: &str = "was removed from the cluster";

/// Asks node `asked` to remove node `id`.
fn remove(cluster: &Cluster, asked: u64, id: u64) -> Response {
    Request::new("DELETE", &format!("/cluster/nodes/{id}")).ask(cluster.node(asked).http)
}

/// Asks node `asked` to make node `to` the leader.
fn transfer(cluster: &Cluster, asked: u64, to: u64) -> Response {
    Request::post("/cluster/leader", &json!({"node": to})).ask(cluster.node(asked).http)
}

/// The ids of all members in a `/cluster` answer, voters or not.
fn members(view: &Value) -> Vec<u64> {
    let nodes = view["nodes"].as_array().map(Vec::as_slice).unwrap_or_default();
    nodes.iter().filter_map(|node| node["id"].as_u64()).collect()
}

fn code(answer: &Response) -> (u16, String) {
    (answer.status, answer.json()["code"].as_str().unwrap_or_default().to_owned())
}

/// Waits until those who run, and nobody else, are the members, all of them voters.
fn wait_until_agreed(cluster: &Cluster) {
    let running: Vec<_> = cluster.up().map(|node| node.id).collect();
    wait_for(&format!("{running:?} are the members"), || {
        let views: Option<Vec<_>> = cluster.up().map(super::cluster::Node::cluster).collect();
        let agreed = |view: &Value| {
            voters(view) == running && members(view) == running && view["leader"].is_u64()
        };
        views?.iter().all(agreed).then_some(())
    });
}

/// Starts node `id` on an empty directory, with node `asked` to find the cluster by.
fn start_empty(cluster: &mut Cluster, id: u64, asked: u64) {
    std::fs::remove_dir_all(&cluster.node(id).data).expect("a directory");
    let mut command = Command::new(crate::yakt());
    let (raft, ensemble) = (cluster.node(id).raft, cluster.node(asked).raft);
    command.args(["node", "-i", &id.to_string(), "-a", &raft.to_string()]);
    command.args(["-e", &format!("{asked}/{ensemble}"), "--data"]).arg(&cluster.node(id).data);
    cluster.run(id, command);
}

/// Waits until node `id`, which was removed, has stopped and said why.
fn assert_stops(cluster: &mut Cluster, id: u64) {
    let status = cluster.wait(id);
    assert_eq!(status.code(), Some(3), "node {id}: {status}");
    let log = cluster.node(id).log();
    assert!(log.contains(&format!("yakt: node {id} {FAREWELL}")), "{log}");
}

#[test]
fn a_dead_voter_is_replaced_under_its_id() {
    let mut cluster = crate::five();
    let writers = Writers::start("replaced", &cluster.addrs());
    writers.wait_for_progress(PROGRESS);
    let (leader, dead) = (cluster.leader(), cluster.follower().id);
    let asked = cluster.up().map(|node| node.id).find(|id| ![leader, dead].contains(id));
    let asked = asked.expect("another follower");
    cluster.kill(dead);

    let view = remove(&cluster, asked, dead).expect(200);
    assert!(!members(&view).contains(&dead), "{view}");
    wait_until_agreed(&cluster);
    assert_eq!(code(&remove(&cluster, asked, dead)), (404, "unknown_member".to_owned()));
    writers.wait_for_progress(PROGRESS);

    start_empty(&mut cluster, dead, asked);
    cluster.wait_until_whole();
    writers.wait_for_progress(PROGRESS);
    assert_kept(&cluster, &writers.finish());
}

#[test]
fn leadership_goes_where_it_is_asked_to() {
    let cluster = crate::five();
    let writers = Writers::start("transfer", &cluster.addrs());
    for to in 1..=5 {
        writers.wait_for_progress(PROGRESS);
        let view = transfer(&cluster, to % 5 + 1, to).expect(200);
        assert_eq!(view["leader"], to);
        // To the one that leads already.
        transfer(&cluster, to, to).expect(200);
    }
    writers.wait_for_progress(PROGRESS);
    assert_kept(&cluster, &writers.finish());
}

#[test]
fn a_leader_that_is_removed_hands_over_and_stops() {
    let mut cluster = crate::five();
    let writers = Writers::start("leader", &cluster.addrs());
    writers.wait_for_progress(PROGRESS);

    // Asked of itself, and of another.
    for itself in [true, false] {
        let leader = cluster.leader();
        let asked = if itself { leader } else { cluster.follower().id };
        remove(&cluster, asked, leader).expect(200);
        assert_stops(&mut cluster, leader);
        wait_until_agreed(&cluster);
        writers.wait_for_progress(PROGRESS);
    }
    cluster.restart_all();
    cluster.wait_until_whole();
    assert_kept(&cluster, &writers.finish());
}

#[test]
fn a_follower_that_is_removed_stops_and_joins_again_when_it_is_started() {
    let mut cluster = crate::five();
    let follower = cluster.follower().id;
    let leader = cluster.leader();
    let view = remove(&cluster, follower, follower);
    assert_eq!(view.status, 200, "{}", view.text());
    assert_stops(&mut cluster, follower);
    wait_until_agreed(&cluster);
    let topic = json!({"name": "meanwhile"});
    Request::post("/create_topic", &topic).ask(cluster.node(leader).http).expect(201);

    cluster.restart(follower);
    cluster.wait_until_whole();
    Request::get("/get_topic_by_name/meanwhile").ask(cluster.node(follower).http).expect(200);
}

/// The founder is started without `-e`, so nothing but its own log leads it back to the cluster.
#[test]
fn a_founder_that_was_removed_while_it_was_down_joins_again() {
    let mut cluster = crate::five();
    let cluster_id = cluster.node(2).cluster().expect("an answer")["clusterId"].clone();
    cluster.kill(1);
    remove(&cluster, 2, 1).expect(200);
    wait_until_agreed(&cluster);
    cluster.restart(1);
    cluster.wait_until_whole();
    assert_eq!(cluster.node(1).cluster().expect("an answer")["clusterId"], cluster_id);
}

#[test]
fn the_old_directory_of_a_replaced_node_is_refused() {
    let mut cluster = crate::five();
    let (leader, replaced) = (cluster.leader(), cluster.follower().id);
    cluster.kill(replaced);
    remove(&cluster, leader, replaced).expect(200);
    let old = cluster.directory.path().join("old");
    std::fs::rename(&cluster.node(replaced).data, &old).expect("a directory");
    std::fs::create_dir(&cluster.node(replaced).data).expect("a directory");
    start_empty(&mut cluster, replaced, leader);
    cluster.wait_until_whole();

    let log = cluster.directory.path().join("old.log");
    let mut command = Command::new(crate::yakt());
    let raft = cluster.ports.raft(6).to_string();
    command.args(["node", "-i", &replaced.to_string(), "-a", &raft, "--stop-with-stdin"]);
    let mut process = super::cluster::Process::start(command.arg("--data").arg(&old), &log);
    let status = process.wait();
    assert_eq!(status.code(), Some(1), "{status}: {}", process.log());
    assert!(process.log().contains("is a member with another data directory"), "{}", process.log());
    cluster.wait_until_whole();
}

#[test]
fn changes_that_cannot_be_are_refused() {
    let mut cluster = crate::five();
    let addr = cluster.node(3).http;
    assert_eq!(code(&remove(&cluster, 3, 9)), (404, "unknown_member".to_owned()));
    assert_eq!(code(&transfer(&cluster, 3, 9)), (404, "unknown_member".to_owned()));
    for path in ["/cluster/nodes/x", "/cluster/nodes/-1", "/cluster/nodes/1.5"] {
        let answer = Request::new("DELETE", path).ask(addr);
        assert_eq!(code(&answer), (400, "invalid_path".to_owned()), "{path}");
    }
    let bodies = [
        (json!([]), "invalid_body"),
        (json!({}), "invalid_field"),
        (json!({"node": "x"}), "invalid_field"),
    ];
    for (body, expected) in bodies {
        let answer = Request::post("/cluster/leader", &body).ask(addr);
        assert_eq!(code(&answer), (400, expected.to_owned()), "{body}");
    }

    // Two of five are dead: without a third, three of the four that remain would be needed, and two answer.
    let leader = cluster.leader();
    let others: Vec<_> = (1..=5).filter(|id| *id != leader).collect();
    cluster.kill(others[0]);
    cluster.kill(others[1]);
    assert_eq!(code(&remove(&cluster, leader, others[2])), (503, "not_now".to_owned()));
    assert_eq!(code(&transfer(&cluster, leader, others[0])), (503, "not_now".to_owned()));
    for dead in &others[..2] {
        remove(&cluster, others[2], *dead).expect(200);
    }
    wait_until_agreed(&cluster);
    cluster.restart_all();
    cluster.wait_until_whole();
}

#[test]
fn the_last_voter_stays() {
    let mut cluster = Cluster::plan(crate::yakt(), crate::scratch_dir(), 2);
    cluster.restart_all();
    cluster.wait_until_whole();
    remove(&cluster, 1, 2).expect(200);
    assert_stops(&mut cluster, 2);
    assert_eq!(code(&remove(&cluster, 1, 1)), (409, "last_voter".to_owned()));
    let topic = json!({"name": "alone"});
    Request::post("/create_topic", &topic).ask(cluster.node(1).http).expect(201);
}

/// openraft keeps its connections to a member whose address changes: a leader went on calling the old one.
#[test]
fn a_member_that_moved_is_found() {
    let mut cluster = Cluster::plan(crate::yakt(), crate::scratch_dir(), 3);
    cluster.restart_all();
    cluster.wait_until_whole();
    let (leader, moved) = (cluster.leader(), cluster.follower().id);
    cluster.kill(moved);
    let http = cluster.ports.http(6);
    let mut command = Command::new(crate::yakt());
    let raft = cluster.ports.raft(6).to_string();
    command.args(["node", "-i", &moved.to_string(), "-a", &raft]);
    command.arg("--data").arg(&cluster.node(moved).data);
    cluster.run(moved, command);
    let topic = json!({"name": "after-the-move"});
    Request::post("/create_topic", &topic).ask(cluster.node(leader).http).expect(201);
    wait_for("the leader calls the node where it is now", || {
        let stale = "/get_topic_by_name/after-the-move?consistency=stale";
        (Request::get(stale).send(http).ok()?.status == 200).then_some(())
    });
    assert_eq!(cluster.leader(), leader, "an election would have hidden it");
}

#[test]
fn a_snapshot_is_taken_when_it_is_asked_for() {
    let mut cluster = Cluster::plan(crate::yakt(), crate::scratch_dir(), 1);
    cluster.restart_all();
    cluster.wait_until_whole();
    let addr = cluster.node(1).http;
    Request::post("/create_topic", &json!({"name": "kept"})).ask(addr).expect(201);
    for _ in 0..2 {
        let answer = Request::new("POST", "/cluster/snapshot").ask(addr);
        assert_eq!((answer.status, answer.text()), (204, String::new()));
    }
    let metrics = Request::get("/metrics").ask(addr).text();
    let index = metrics.lines().find_map(|line| line.strip_prefix("yakt_raft_snapshot_index "));
    let index = index.and_then(|index| index.parse::<u64>().ok());
    assert!(index.is_some_and(|index| index > 0), "{metrics}");
    cluster.kill(1);
    cluster.restart(1);
    cluster.wait_until_whole();
    Request::get("/get_topic_by_name/kept").ask(addr).expect(200);
}

#[test]
fn the_command_line_removes_and_transfers() {
    let run = |args: &[&str]| Command::new(crate::yakt()).args(args).output().expect("the binary");
    let mut cluster = Cluster::plan(crate::yakt(), crate::scratch_dir(), 3);
    cluster.restart_all();
    cluster.wait_until_whole();
    let addr = cluster.node(1).http.to_string();

    let output = run(&["transfer", &addr, "--node", "3"]);
    let text = String::from_utf8_lossy(&output.stdout).into_owned();
    assert!(output.status.success() && text.contains("node 3 leads"), "{output:?}");
    assert_eq!(cluster.leader(), 3);

    let output = run(&["remove", &addr, "--node", "2"]);
    let text = String::from_utf8_lossy(&output.stdout).into_owned();
    assert!(output.status.success() && text.contains("node 2 is removed"), "{output:?}");
    assert_stops(&mut cluster, 2);
    wait_until_agreed(&cluster);

    let output = run(&["remove", &addr, "--node", "2"]);
    let text = String::from_utf8_lossy(&output.stderr).into_owned();
    assert_eq!(output.status.code(), Some(1));
    assert!(text.starts_with("yakt: ") && text.contains("unknown_member"), "{text}");
}
