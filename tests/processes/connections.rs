//! Connections that do nothing, or nothing good, take no files, no memory and no access from other
//! clients.
//!
//! Nodes run below a small limit on file descriptors, so that a few hundred connections are too
//! many.

use std::io::{Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::process::Command;
use std::time::Duration;

use serde_json::{Value, json};
use uuid::Uuid;
use yakt::raft::config::FRAME_BYTES_MAX;
use yakt::raft::network::frame;
use yakt::raft::network::message::Hello;

use crate::client::{Connection, Request};
use crate::cluster::{Cluster, Node, PATIENCE, wait_for, within};

/// The hard limit on descriptors of a node: 256 of them are reserved, 32 are for HTTP and 32 for
/// peers.
const DESCRIPTORS: u32 = 320;

/// Idle connections: more than a node has descriptors.
const IDLE: usize = 400;

/// Ordinary slots: an idle connection beyond them has none.
const ORDINARY: usize = 32;

/// Bytes of a file of the log, as the binary has it.
const LOG_FILE_BYTES: u64 = 16 << 20;

/// Callers that send half a frame.
const CALLERS: usize = 300;

/// Bytes of memory that a node may have while they do: 64 MiB for frames, and as much again for
/// everything else.
const MEMORY_MAX: u64 = 128 << 20;

/// A node below the limit.
fn limited() -> Cluster {
    let mut cluster = Cluster::plan(crate::yakt(), crate::scratch_dir(), 1);
    let command = cluster.command(1);
    let mut limited = Command::new("sh");
    limited.arg("-c").arg(format!("ulimit -n {DESCRIPTORS}; exec \"$0\" \"$@\""));
    limited.arg(command.get_program()).args(command.get_args());
    cluster.run(1, limited);
    cluster.wait_until_whole();
    cluster
}

/// Connections that ask nothing.
fn idle(addr: SocketAddr, count: usize) -> Vec<TcpStream> {
    (0..count).map(|_| TcpStream::connect(addr).expect("a connection")).collect()
}

/// 1. Idle connections took all descriptors of three nodes out of five.
/// 2. Each of them failed to open its next log file, and stopped as for a broken disk.
#[test]
fn a_node_that_idle_connections_crowd_goes_on_to_its_next_log_file() {
    let cluster = limited();
    let node = cluster.node(1);
    let mut connection = Connection::open(node.http, PATIENCE).expect("a connection");
    let mut create = |path: &str, body: Value| {
        let answer = connection.send(&Request::post(path, &body).limit(PATIENCE));
        answer.expect("an answer").expect(201)["fields"].clone()
    };
    let register = |id| json!({"brokerId": id, "brokerHost": "a", "brokerPort": 9092});
    let brokers: Vec<_> = (0..64)
        .map(|id| create("/register_broker", register(id))["internalUUID"].clone())
        .collect();
    let topic = create("/create_topic", json!({"name": "large"}))["topicUUID"].clone();
    let held = [idle(node.http, IDLE), idle(node.raft, IDLE / 4)];

    let log_bytes = || {
        let files = std::fs::read_dir(&node.data).expect("a directory").filter_map(Result::ok);
        let logs = files.filter(|file| file.file_name().to_string_lossy().starts_with("yakt.log."));
        logs.filter_map(|file| file.metadata().ok()).map(|metadata| metadata.len()).sum::<u64>()
    };
    let mut number = 0;
    while log_bytes() <= LOG_FILE_BYTES + (1 << 20) {
        create(
            "/create_partition",
            json!({"partitionId": number, "topicUUID": topic, "replicas": brokers,
                "ISR": brokers, "removingReplicas": brokers, "addingReplicas": brokers}),
        );
        number += 1;
    }
    drop(held);
    wait_for("the node is ready", || (node.status("/readyz") == 200).then_some(()));
    let warnings = node.log().lines().filter(|line| line.contains("cannot accept")).count();
    assert!(warnings <= 2, "{warnings} lines about one shortage");
}

/// 4,096 idle connections kept all other clients waiting for 30 s, probes included.
#[test]
fn idle_connections_lock_nobody_out() {
    let cluster = limited();
    let node = cluster.node(1);
    let mut kept = Connection::open(node.http, PATIENCE).expect("a connection");
    let read = Request::get("/get_active_brokers");
    kept.send(&read).expect("an answer").expect(200);
    let held = idle(node.http, IDLE);

    // The idle ones have the reserved slots too, for a second.
    wait_for("a probe is answered", || (node.status("/healthz") == 200).then_some(()));
    for path in ["/healthz", "/readyz", "/metrics", "/cluster"] {
        assert_eq!(node.status(path), 200, "{path}");
    }
    let refused = read.ask(node.http);
    assert_eq!(refused.status, 503, "{}", refused.text());
    assert_eq!(refused.header("retry-after"), Some("1"));
    assert_eq!(refused.json()["code"], "overloaded");
    kept.send(&read).expect("an answer").expect(200);
    // Connections without a slot do not wait in silence either.
    for mut stream in held.iter().skip(ORDINARY) {
        stream.set_read_timeout(Some(PATIENCE)).expect("a socket");
        let mut answer = String::new();
        stream.read_to_string(&mut answer).expect("an answer, then the end");
        assert!(answer.starts_with("HTTP/1.1 503 "), "{answer}");
    }
    drop(held);
    wait_for("others are served again", || (read.ask(node.http).status == 200).then_some(()));
}

#[test]
fn a_stranger_that_announces_a_large_hello_is_hung_up_on() {
    let mut cluster = Cluster::plan(crate::yakt(), crate::scratch_dir(), 1);
    cluster.restart(1);
    cluster.wait_until_whole();
    let mut stream = TcpStream::connect(cluster.node(1).raft).expect("a connection");
    stream.write_all(&2_000_u32.to_le_bytes()).expect("a connection");
    // Shorter than the deadline of a hello.
    stream.set_read_timeout(Some(Duration::from_secs(4))).expect("a socket");
    assert_eq!(stream.read(&mut [0]).expect("the end, or it is still waited for"), 0);
}

/// 300 callers that each sent 7 of 8 MiB made a node hold 2.3 GiB.
#[test]
fn callers_that_send_half_a_frame_take_bounded_memory() {
    let mut cluster = Cluster::plan(crate::yakt(), crate::scratch_dir(), 1);
    cluster.restart(1);
    cluster.wait_until_whole();
    let node = cluster.node(1);
    let id: Uuid = {
        let view = node.cluster().expect("an answer");
        view["clusterId"].as_str().and_then(|id| id.parse().ok()).expect("an id")
    };
    let announced = u32::try_from(FRAME_BYTES_MAX).expect("a short frame").to_le_bytes();
    let half_frame = [&announced[..], &vec![0; FRAME_BYTES_MAX - 1]].concat();
    for cluster_id in [None, Some(id)] {
        let hello = frame::encode(&Hello { cluster: cluster_id, to: None }).expect("a hello");
        let bytes = [hello, half_frame.clone()].concat();
        let mut callers: Vec<_> = idle(node.raft, CALLERS)
            .into_iter()
            .map(|stream| {
                stream.set_nonblocking(true).expect("a socket");
                (stream, &bytes[..])
            })
            .collect();
        // Until the node takes no more, or has closed.
        let mut quiet_rounds = 0;
        within(PATIENCE, || {
            let sent: usize = callers.iter_mut().map(send).sum();
            quiet_rounds = if sent == 0 { quiet_rounds + 1 } else { 0 };
            (quiet_rounds > 5).then_some(())
        });
        let memory = resident_bytes(node);
        assert!(memory < MEMORY_MAX, "{} MiB, named: {}", memory >> 20, cluster_id.is_some());
    }
    assert_eq!(Request::get("/get_active_brokers").ask(node.http).status, 200);
}

/// Sends as many of a caller's bytes as the other side takes, and returns their number.
fn send((stream, left): &mut (TcpStream, &[u8])) -> usize {
    let sent = stream.write(left).unwrap_or(0);
    *left = &left[sent..];
    sent
}

/// The resident memory of a node's process, in bytes.
fn resident_bytes(node: &Node) -> u64 {
    let path = format!("/proc/{}/status", node.pid().expect("a node that runs"));
    let status = std::fs::read_to_string(path).expect("Linux");
    let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:")).expect("a size");
    let kibibytes = line.trim().trim_end_matches(" kB").parse::<u64>().expect("a number");
    kibibytes << 10
}
