//! How nodes behave under an operator: signals, removal, and addresses.

use std::process::Command;

use crate::client::Request;
use crate::cluster::{Cluster, Process, wait_for};
use crate::scratch::{Directory, Ports};
use crate::{scratch_dir, yakt};

/// SIGHUP killed a node without a handover: a closed terminal cost the cluster an election timeout.
#[test]
fn a_hangup_stops_a_node_cleanly() {
    let mut cluster = Cluster::plan(yakt(), scratch_dir(), 3);
    for id in 1..=3 {
        // This test may run under `nohup` itself.
        let node = cluster.command(id);
        let mut command = Command::new("env");
        command.arg("--default-signal=HUP").arg(node.get_program()).args(node.get_args());
        cluster.run(id, command);
    }
    cluster.wait_until_whole();
    let leader = cluster.leader();
    cluster.node(leader).signal("HUP");
    let status = cluster.wait(leader);
    assert!(status.success(), "{status}");
    let log = cluster.node(leader).log();
    assert!(log.contains("handing over"), "{log}");
}

/// `nohup` makes a process ignore SIGHUP, and a node keeps it so.
#[test]
fn a_hangup_that_is_ignored_stops_no_node() {
    let mut cluster = Cluster::plan(yakt(), scratch_dir(), 1);
    let node = cluster.command(1);
    let mut command = Command::new("sh");
    command.args(["-c", "trap '' HUP; exec \"$@\"", "sh"]);
    command.arg(node.get_program()).args(node.get_args());
    cluster.run(1, command);
    cluster.wait_until_ready(1);
    cluster.node(1).signal("HUP");
    // Signals that are ignored are gone when the next one arrives.
    let status = cluster.terminate(1);
    assert!(status.success(), "{status}");
    let log = cluster.node(1).log();
    assert_eq!(log.matches("stopping").count(), 1, "{log}");
}

/// `yakt up --restart` started a removed node again, which then joined anew within seconds.
#[test]
fn a_removed_node_is_not_started_again() {
    let (ports, directory) = (Ports::new(), Directory::new(scratch_dir()));
    let mut command = Command::new(yakt());
    command.args([
        "up",
        "--restart",
        "--nodes",
        "3",
        "--port",
        &ports.first().to_string(),
        "--data",
    ]);
    command.arg(directory.path().join("data"));
    let mut up = Process::start(&mut command, &directory.path().join("up.log"));
    wait_for("three nodes are up", || up.log().contains("up: 1 2 3").then_some(()));
    Request::new("DELETE", "/cluster/nodes/3").ask(ports.http(1)).expect(200);
    wait_for("node 3 ends", || {
        up.log().contains("node 3 ended: it was removed from the cluster").then_some(())
    });
    // A node that dies is started again after the same pause that node 3 would have had. Node 2
    // dies later, so node 3 would be back first.
    let log = std::fs::read_to_string(directory.path().join("data/node-3.log")).expect("a log");
    assert!(log.contains("was removed from the cluster"), "{log}");
    let pid = up
        .log()
        .lines()
        .find_map(|line| line.split_once("node 2: pid ")?.1.split_once(',')?.0.parse::<u32>().ok());
    let kill = format!("kill -9 {}", pid.expect("a process id"));
    assert!(Command::new("sh").args(["-c", &kill]).status().expect("a shell").success());
    wait_for("node 2 is back", || up.log().contains("starting node 2 again").then_some(()));
    assert!(!up.log().contains("starting node 3 again"), "{}", up.log());
    up.terminate();
    assert!(up.wait().success(), "{}", up.log());
}

#[test]
fn a_node_that_serves_http_everywhere_advertises_its_own_host() {
    let mut cluster = Cluster::plan(yakt(), scratch_dir(), 1);
    let http = cluster.node(1).http;
    let mut command = cluster.command(1);
    command.args(["--http", &format!("0.0.0.0:{}", http.port())]);
    cluster.run(1, command);
    cluster.wait_until_ready(1);
    let view = cluster.node(1).cluster().expect("an answer");
    assert_eq!(view["nodes"][0]["http"], http.to_string());
}

/// A node panicked wherever it logged. One with a full standard error died at its first line. One
/// with a closed pipe ignored SIGTERM and never called a restarted follower.
#[test]
fn a_node_whose_log_cannot_be_written_works_and_stops_as_any_other() {
    let mut cluster = Cluster::plan(yakt(), scratch_dir(), 3);
    for id in 1..=3 {
        let line = cluster.command(id);
        let mut command = Command::new("bash");
        let sink = ["2>/dev/full", "2> >(head -n 1 >/dev/null)", "2>&-"]
            [usize::try_from(id - 1).unwrap_or(0)];
        command.arg("-c").arg(format!("exec \"$@\" {sink}")).arg("bash");
        command.arg(line.get_program()).args(line.get_args());
        cluster.run(id, command);
    }
    cluster.wait_until_whole();
    let leader = cluster.leader();
    let follower = cluster.follower().id;
    cluster.kill(follower);
    cluster.restart(follower);
    cluster.wait_until_ready(follower);
    assert!(cluster.terminate(leader).success());
}
