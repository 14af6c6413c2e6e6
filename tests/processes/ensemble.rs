//! Mistakes in `-e`, and nodes that wait for a cluster.

use std::process::Command;

use crate::client::Request;
use crate::cluster::{Cluster, Process, wait_for};
use crate::scratch::{Directory, Ports};
use crate::{scratch_dir, yakt};

/// Starts node `id` of `cluster` with `ensemble` for `-e`.
fn start_with(cluster: &mut Cluster, id: u64, ensemble: &str) {
    let node = cluster.node(id);
    let mut command = Command::new(yakt());
    command.args(["node", "-i", &id.to_string(), "-a", &node.raft.to_string(), "-e", ensemble]);
    command.arg("--data").arg(&node.data);
    cluster.run(id, command);
}

/// Waits until a line of node `id` that says that it waits contains `answer`.
fn wait_for_answer(cluster: &Cluster, id: u64, answer: &str) {
    wait_for(answer, || {
        let log = cluster.node(id).log();
        let mut lines = log.lines().filter(|line| line.contains("waiting for a cluster to join"));
        lines.any(|line| line.contains(answer)).then_some(())
    });
}

/// In all of these cases the node waited without a word.
#[test]
fn a_waiting_node_logs_each_address_and_its_answer() {
    let mut cluster = Cluster::plan(yakt(), scratch_dir(), 3);
    cluster.restart(1);
    cluster.wait_until_ready(1);
    let http = cluster.node(1).http;
    let unused = cluster.ports.raft(4);
    start_with(&mut cluster, 2, &format!("1/{http},4/{unused},5/no-such-host.invalid:5010"));
    wait_for_answer(
        &cluster,
        2,
        &format!("{http}: the peer answers in HTTP: this is not a Raft port"),
    );
    wait_for_answer(&cluster, 2, &format!("{unused}: Connection refused"));
    wait_for_answer(&cluster, 2, "the name in no-such-host.invalid:5010 cannot be resolved");
    // A line every few seconds, not one for each attempt.
    let lines = cluster.node(2).log_lines();
    assert!(lines < 40, "{}", cluster.node(2).log());
}

/// Nodes that all named each other waited for ever, and each believed that the others were down.
#[test]
fn nodes_that_wait_for_each_other_say_so() {
    let mut cluster = Cluster::plan(yakt(), scratch_dir(), 2);
    let [first, second] = [1, 2].map(|id| cluster.node(id).raft);
    start_with(&mut cluster, 1, &format!("2/{second}"));
    start_with(&mut cluster, 2, &format!("1/{first}"));
    wait_for_answer(&cluster, 1, &format!("{second}: node 2 waits for a cluster itself"));
    wait_for_answer(&cluster, 2, &format!("{first}: node 1 waits for a cluster itself"));
    assert!(cluster.node(1).log().contains("start one node without -e"));
    // The remedy that the line names.
    assert!(cluster.terminate(1).success());
    cluster.restart(1);
    cluster.wait_until_whole();
}

/// A directory that was founded by a forgotten `-e` stayed alone, whatever `-e` said later. It took
/// writes that no other node ever saw.
#[test]
fn a_lone_founder_stops_when_a_named_node_belongs_to_another_cluster() {
    let mut cluster = Cluster::plan(yakt(), scratch_dir(), 2);
    for id in [1, 2] {
        let node = cluster.node(id);
        let mut command = Command::new(yakt());
        command.args(["node", "-i", &id.to_string(), "-a", &node.raft.to_string()]);
        command.arg("--data").arg(&node.data);
        cluster.run(id, command);
        cluster.wait_until_ready(id);
    }
    assert!(cluster.terminate(2).success());
    // The same node, as its operator meant it.
    cluster.restart(2);
    let status = cluster.wait(2);
    assert_eq!(status.code(), Some(1));
    let log = cluster.node(2).log();
    let addr = cluster.node(1).raft;
    assert!(log.contains(&format!("is alone in, and {addr} belongs to cluster")), "{log}");
    std::fs::remove_dir_all(&cluster.node(2).data).expect("its directory");
    cluster.restart(2);
    cluster.wait_until_whole();
}

/// As long as no named node belongs to another cluster, the founder serves: the others may be about
/// to join.
#[test]
fn a_lone_founder_serves_while_named_nodes_are_down_and_says_so() {
    let mut cluster = Cluster::plan(yakt(), scratch_dir(), 2);
    cluster.restart(1);
    cluster.wait_until_ready(1);
    assert!(cluster.terminate(1).success());
    let second = cluster.node(2).raft;
    start_with(&mut cluster, 1, &format!("2/{second}"));
    wait_for("a warning", || {
        let log = cluster.node(1).log();
        log.contains("this node is alone in the cluster that it founded").then_some(())
    });
    cluster.wait_until_ready(1);
    cluster.restart(2);
    cluster.wait_until_whole();
}

/// The second `yakt up` asked the nodes of the first cluster, and said "3 nodes are ready".
#[test]
fn a_second_up_on_used_ports_fails_and_names_the_address() {
    let (ports, directory) = (Ports::new(), Directory::new(scratch_dir()));
    let up = |name: &str| {
        let mut command = Command::new(yakt());
        command.args(["up", "--nodes", "3", "--port", &ports.first().to_string(), "--data"]);
        command.arg(directory.path().join(name));
        Process::start(&mut command, &directory.path().join(format!("{name}.log")))
    };
    let mut first = up("first");
    wait_for("three nodes are up", || first.log().contains("up: 1 2 3").then_some(()));
    let mut second = up("second");
    assert_eq!(second.wait().code(), Some(1), "{}", second.log());
    let log = second.log();
    assert!(log.contains("cannot listen on 127.0.0.1:"), "{log}");
    assert!(!log.contains("nodes are ready"), "{log}");
    // The first cluster has noticed nothing.
    assert_eq!(Request::get("/readyz").ask(ports.http(1)).status, 200);
    first.terminate();
    assert!(first.wait().success(), "{}", first.log());
}
