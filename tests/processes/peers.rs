//! The reports of a node about the peers that it does not reach, and its lookups of peers by name.

use std::process::Command;
use std::time::{Duration, Instant};

use serde_json::Value;

use crate::client::Request;
use crate::cluster::{Cluster, Node, wait_for};

/// The entry of member `id` at `/cluster` of `node`.
fn member(node: &Node, id: u64) -> Value {
    let cluster = node.cluster().expect("an answer");
    let members = cluster["nodes"].as_array().expect("a list").clone();
    members.into_iter().find(|member| member["id"] == id).expect("a member")
}

fn is_reachable(node: &Node, id: u64) -> bool {
    member(node, id).get("unreachable").is_none()
}

fn metric(node: &Node, id: u64) -> String {
    let text = Request::get("/metrics").ask(node.http).text();
    let name = format!("yakt_raft_peer_reachable{{peer=\"{id}\"}} ");
    let line = text.lines().find_map(|line| line.strip_prefix(&name));
    line.unwrap_or_else(|| panic!("no {name}in {text}")).to_owned()
}

fn status(node: &Node) -> String {
    let output = Command::new(crate::yakt()).args(["status", &node.http.to_string()]).output();
    let output = output.expect("a process");
    assert!(output.status.success(), "{output:?}");
    String::from_utf8_lossy(&output.stdout).into_owned()
}

/// One dead follower cost 27 lines a second, 625 MiB a day. Nothing said which peer was gone, since
/// when, and why.
#[test]
fn a_dead_follower_costs_one_line_and_is_shown_until_it_is_back() {
    let mut cluster = crate::five();
    let (leader, dead) = (cluster.leader(), cluster.follower().id);
    for node in cluster.up() {
        let others = (1..=5).filter(|id| *id != node.id);
        assert!(others.into_iter().all(|id| metric(node, id) == "1"), "node {}", node.id);
    }
    let before = cluster.node(leader).log_lines();
    cluster.kill(dead);
    wait_for("the leader misses it", || (!is_reachable(cluster.node(leader), dead)).then_some(()));

    let node = cluster.node(leader);
    // Each attempt had a line. It takes less than the minute after which a second line is due.
    wait_for("many calls have failed", || {
        let failures = member(node, dead)["unreachable"]["failures"].as_u64();
        failures.filter(|failures| *failures >= 20)
    });
    let shown = member(node, dead)["unreachable"].clone();
    assert!(shown["since"].as_f64().is_some_and(|since| since > 1e9), "{shown}");
    assert!(shown["seconds"].is_u64(), "{shown}");
    assert!(shown["reason"].as_str().is_some_and(|why| why.contains("refused")), "{shown}");
    assert_eq!(metric(node, dead), "0");
    let table = status(node);
    assert!(
        table.contains(&format!("node {dead} has been unreachable from node {leader}")),
        "{table}"
    );
    assert!(table.contains("refused"), "{table}");
    let log = node.log();
    let lines: Vec<_> = log.lines().skip(before).collect();
    let said = lines.iter().filter(|line| line.contains("a peer is unreachable")).count();
    assert_eq!(said, 1, "{lines:?}");
    assert!(lines.len() <= 3, "{lines:?}");
    assert_eq!(cluster.leader(), leader, "the count is of a leader");

    cluster.restart(dead);
    cluster.wait_until_whole();
    for node in cluster.up() {
        wait_for("every node reaches it again", || {
            (1..=5).all(|id| is_reachable(node, id)).then_some(())
        });
    }
    let log = cluster.node(leader).log();
    assert_eq!(log.lines().filter(|line| line.contains("a peer answers again")).count(), 1);
    assert!(!status(cluster.node(leader)).contains("unreachable"));
}

/// A follower calls others only in elections. It would have considered a peer unreachable for ever.
#[test]
fn a_follower_learns_that_a_peer_is_back() {
    let mut cluster = crate::five();
    let leader = cluster.leader();
    cluster.kill(leader);
    let missing = |node: &Node| !is_reachable(node, leader);
    // Those that stood for election called it.
    let noticed = wait_for("nodes miss the former leader", || {
        let noticed: Vec<_> =
            cluster.up().filter(|node| missing(node)).map(|node| node.id).collect();
        (!noticed.is_empty()).then_some(noticed)
    });
    cluster.restart(leader);
    cluster.wait_until_whole();
    for id in noticed {
        let node = cluster.node(id);
        wait_for("the node reaches it again", || is_reachable(node, leader).then_some(()));
    }
}

/// The most threads that a node may have: those that its runtime starts for the disk, and a few of
/// its own.
#[cfg(target_os = "linux")]
pub(crate) const THREADS_MAX: usize = 48;

/// The threads of process `pid`.
#[cfg(target_os = "linux")]
pub(crate) fn threads(pid: u32) -> usize {
    std::fs::read_dir(format!("/proc/{pid}/task")).expect("a process").count()
}

/// The command line of node `id` that gives every node by the name of its host.
pub(crate) fn named(cluster: &Cluster, id: u64, host: impl Fn(u64) -> String) -> Command {
    let place = |id: u64| format!("{}:{}", host(id), cluster.node(id).raft.port());
    let mut command = Command::new(crate::yakt());
    command.args(["node", "-i", &id.to_string(), "-a", &place(id)]);
    command.args(["--http", &cluster.node(id).http.to_string()]);
    command.arg("--data").arg(&cluster.node(id).data);
    if id > 1 {
        command.args(["-e", &format!("1/{}", place(1))]);
    }
    command
}

/// Names need lookups, which were made in the pool of threads that serves the disk.
#[test]
fn nodes_that_know_each_other_by_name_elect_and_keep_few_threads() {
    let mut cluster = Cluster::plan(crate::yakt(), crate::scratch_dir(), 5);
    let localhost = |_| "localhost".to_owned();
    for id in 1..=5 {
        let command = named(&cluster, id, localhost);
        cluster.run(id, command);
    }
    cluster.wait_until_whole();
    for _ in 0..2 {
        let leader = cluster.leader();
        cluster.kill(leader);
        // Dozens of calls to a name at which nothing listens.
        let node = wait_for("another leads", || {
            cluster.up().find(|node| {
                let known = node.cluster().map(|status| status["leader"].clone());
                known.is_some_and(|known| known.is_u64() && known != leader)
            })
        });
        let begun = Instant::now();
        while begun.elapsed() < Duration::from_secs(2) {
            #[cfg(target_os = "linux")]
            for node in cluster.up() {
                let threads = threads(node.pid().expect("it runs"));
                assert!(threads <= THREADS_MAX, "node {} has {threads} threads", node.id);
            }
            assert!(Request::get("/get_active_brokers").send(node.http).is_ok());
            std::thread::sleep(Duration::from_millis(100));
        }
        let command = named(&cluster, leader, localhost);
        cluster.run(leader, command);
        cluster.wait_until_whole();
    }
}
