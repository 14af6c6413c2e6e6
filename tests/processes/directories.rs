//! What a node refuses to start on. It must not touch what it refuses.

use std::path::Path;

use crate::cluster::{Cluster, Process};

fn plan() -> Cluster {
    Cluster::plan(crate::yakt(), crate::scratch_dir(), 2)
}

/// Runs node `id` on `data` until it ends by itself; its exit and its log.
fn refused(cluster: &Cluster, id: u64, data: &Path) -> String {
    let log = cluster.directory.path().join("refused.log");
    let _ = std::fs::remove_file(&log);
    // No -e: the node must not be waiting for anybody.
    let mut command = std::process::Command::new(crate::yakt());
    let raft = cluster.ports.raft(6).to_string();
    command
        .args(["node", "-i", &id.to_string(), "-a", &raft, "--stop-with-stdin", "--data"])
        .arg(data);
    let mut process = Process::start(&mut command, &log);
    let status = process.wait();
    assert_eq!(status.code(), Some(1), "{status}: {}", process.log());
    process.log()
}

#[test]
fn another_nodes_directory_is_refused() {
    let mut cluster = plan();
    cluster.restart(1);
    cluster.wait_until_ready(1);
    assert!(cluster.terminate(1).success());
    let data = cluster.node(1).data.clone();
    let log = refused(&cluster, 2, &data);
    assert!(log.contains("yakt: the data directory belongs to node 1, not to node 2"), "{log}");
    cluster.restart(1);
    cluster.wait_until_ready(1);
}

#[test]
fn a_directory_in_use_is_refused() {
    let mut cluster = plan();
    cluster.restart(1);
    cluster.wait_until_ready(1);
    let data = cluster.node(1).data.clone();
    let log = refused(&cluster, 1, &data);
    assert!(log.contains("yakt: the data directory is in use by another process"), "{log}");
    assert_eq!(cluster.node(1).status("/readyz"), 200);
}

#[test]
fn a_file_that_is_not_ours_is_refused_and_left_alone() {
    let cluster = plan();
    let data = cluster.directory.path().join("foreign");
    std::fs::create_dir_all(&data).expect("a directory");
    let file = data.join("yakt.redb");
    for garbage in [b"not a database".to_vec(), vec![0xa5; 100_000], vec![0; 1]] {
        std::fs::write(&file, &garbage).expect("a file");
        let log = refused(&cluster, 1, &data);
        assert!(log.contains("yakt: the data is damaged or not YAKt"), "{log}");
        assert_eq!(std::fs::read(&file).expect("the file"), garbage, "the file was changed");
    }
}

#[test]
fn a_data_directory_that_is_a_file_is_refused() {
    let cluster = plan();
    let data = cluster.directory.path().join("file");
    std::fs::write(&data, "a file").expect("a file");
    let log = refused(&cluster, 1, &data);
    assert!(log.contains("yakt: cannot use the data directory"), "{log}");
}

#[test]
fn an_address_in_use_is_refused() {
    let cluster = plan();
    let data = cluster.directory.path().join("data");
    let taken = std::net::TcpListener::bind(cluster.ports.raft(6)).expect("a port");
    let log = refused(&cluster, 1, &data);
    assert!(log.contains(&format!("yakt: cannot listen on {}", cluster.ports.raft(6))), "{log}");
    drop(taken);
    let taken = std::net::TcpListener::bind(cluster.ports.http(6)).expect("a port");
    let log = refused(&cluster, 1, &data);
    assert!(log.contains(&format!("yakt: cannot listen on {}", cluster.ports.http(6))), "{log}");
    drop(taken);
}

/// redb takes a file that begins with zeros for one whose creation was interrupted: a node whose file was
/// zeroed would come back as the founder of another cluster.
#[test]
fn a_file_of_zeros_is_refused() {
    let mut cluster = Cluster::plan(crate::yakt(), crate::scratch_dir(), 1);
    cluster.restart_all();
    cluster.wait_until_whole();
    cluster.kill(1);
    let data = cluster.node(1).data.clone();
    let file = data.join("yakt.redb");
    let length = std::fs::metadata(&file).expect("the file").len();
    std::fs::write(&file, vec![0; usize::try_from(length).expect("a length")]).expect("a file");
    let log = refused(&cluster, 1, &data);
    assert!(log.contains("yakt: the data is damaged or not YAKt"), "{log}");
}

/// A node that came back without its log would vote a second time in a term, and count as holding nothing.
#[test]
fn a_log_that_is_gone_is_refused() {
    let mut cluster = Cluster::plan(crate::yakt(), crate::scratch_dir(), 1);
    cluster.restart_all();
    cluster.wait_until_whole();
    cluster.kill(1);
    let data = cluster.node(1).data.clone();
    std::fs::remove_file(data.join("yakt.log.0")).expect("the log");
    let log = refused(&cluster, 1, &data);
    assert!(log.contains("there is no log, and was one"), "{log}");
}

/// The story:
///
/// 1. Node 3 loses its directory and starts again under its id and address.
/// 2. Before it has asked to join, the leader's next append reaches it, and it answers that it has nothing.
/// 3. openraft's leader does not expect a follower's log to shrink: its debug assertion stops the leader.
#[test]
fn an_emptied_node_is_refused_under_its_old_id() {
    let mut cluster = Cluster::plan(crate::yakt(), crate::scratch_dir(), 3);
    cluster.restart_all();
    cluster.wait_until_whole();
    cluster.kill(3);
    std::fs::remove_dir_all(&cluster.node(3).data).expect("a directory");
    let log = cluster.directory.path().join("emptied.log");
    let mut command = cluster.command(3);
    let mut process = Process::start(command.arg("--stop-with-stdin"), &log);
    let status = process.wait();
    assert_eq!(status.code(), Some(1), "{status}: {}", process.log());
    assert!(process.log().contains("is a member with another data directory"), "{}", process.log());
}
