//! Which process is which node: copied directories, addresses that move, founders that are expected elsewhere.

use std::path::Path;
use std::process::Command;

use serde_json::{Value, json};
use uuid::Uuid;
use yakt::env::TokioEnv;
use yakt::raft::Peer;
use yakt::raft::network::Names;
use yakt::raft::network::client::{Channel, Target};
use yakt::raft::network::message::{Request as RaftRequest, Response};

use crate::client::Request;
use crate::cluster::{Cluster, Node, PATIENCE, Process, voters, wait_for};

fn three() -> Cluster {
    Cluster::start(crate::yakt(), crate::scratch_dir(), 3)
}

/// The Raft address of member `id` in a `/cluster` answer.
fn raft_addr(view: &Value, id: u64) -> Option<String> {
    let mut nodes = view["nodes"].as_array()?.iter();
    let node = nodes.find(|node| node["id"] == id)?;
    node["raft"].as_str().map(str::to_owned)
}

/// Node `id` on directory `data`, at the Raft address of node `place`.
fn command_at(cluster: &Cluster, id: u64, place: u64, data: &Path) -> Command {
    let mut command = Command::new(crate::yakt());
    let raft = cluster.ports.raft(place).to_string();
    command.args(["node", "-i", &id.to_string(), "-a", &raft, "--data"]).arg(data);
    command
}

/// Copies a directory of plain files.
fn copy(from: &Path, to: &Path) {
    std::fs::create_dir(to).expect("a directory");
    for file in std::fs::read_dir(from).expect("a directory") {
        let file = file.expect("a file");
        std::fs::copy(file.path(), to.join(file.file_name())).expect("a copy");
    }
}

/// The story: the copy asked the leader to note its address. The leader called the copy from then on, and the original,
/// which ran and was whole, was never called again. No log mentioned it.
#[test]
fn a_copied_directory_is_refused_while_its_original_runs() {
    let mut cluster = three();
    for id in [cluster.leader(), cluster.follower().id] {
        let (raft, data) = (cluster.node(id).raft, cluster.node(id).data.clone());
        let place = cluster.directory.path().join(format!("copy-{id}"));
        copy(&data, &place);
        let mut command = command_at(&cluster, id, 6, &place);
        let other = id % 3 + 1;
        let ensemble = format!("{other}/{}", cluster.node(other).raft);
        command.args(["-e", &ensemble, "--stop-with-stdin"]);
        let log = cluster.directory.path().join(format!("copy-{id}.log"));
        let mut process = Process::start(&mut command, &log);
        let status = process.wait();
        assert_eq!(status.code(), Some(1), "{status}: {}", process.log());
        let refusal = format!("yakt: node {id} already runs at {raft}");
        assert!(process.log().contains(&refusal), "{}", process.log());

        let warning = "runs on a copy of this node's data directory";
        let log = cluster.node(id).log();
        assert!(log.contains(warning) && log.contains(&cluster.ports.raft(6).to_string()), "{log}");
        cluster.wait_until_whole();
        for node in cluster.nodes() {
            let view = node.cluster().expect("an answer");
            assert_eq!(raft_addr(&view, id), Some(raft.to_string()), "{view}");
        }
    }
}

/// A node that moved reaches its own former address by another name: `localhost`.
#[test]
fn a_node_is_not_taken_for_a_copy_of_itself() {
    let mut cluster = three();
    let moved = cluster.follower().id;
    cluster.kill(moved);
    let data = cluster.node(moved).data.clone();
    let (raft, http) = (cluster.node(moved).raft, cluster.node(moved).http);
    let mut command = Command::new(crate::yakt());
    let localhost = format!("localhost:{}", raft.port());
    command.args(["node", "-i", &moved.to_string(), "-a", &localhost]);
    command.args(["--http", &http.to_string(), "--data"]).arg(&data);
    cluster.run(moved, command);
    cluster.wait_until_whole();
    wait_for("the new name is committed", || {
        let view = cluster.node(moved).cluster()?;
        (raft_addr(&view, moved)? == localhost).then_some(())
    });
}

/// The story: the leader refused each of the two, because the other one was recorded at its address.
#[test]
fn nodes_that_return_with_exchanged_addresses_are_found() {
    let mut cluster = three();
    let (a, b) = (2, 3);
    cluster.kill(a);
    cluster.kill(b);
    for (id, place) in [(a, b), (b, a)] {
        let data = cluster.node(id).data.clone();
        let mut command = command_at(&cluster, id, place, &data);
        // So that this test finds it: the address of its HTTP port stays.
        command.args(["--http", &cluster.node(id).http.to_string()]);
        cluster.run(id, command);
    }
    cluster.wait_until_whole();
    wait_for("both addresses are committed everywhere", || {
        let views: Option<Vec<_>> = cluster.nodes().iter().map(Node::cluster).collect();
        let exchanged = |view: &Value| {
            raft_addr(view, a) == Some(cluster.ports.raft(b).to_string())
                && raft_addr(view, b) == Some(cluster.ports.raft(a).to_string())
        };
        views?.iter().all(exchanged).then_some(())
    });
    let topic = json!({"name": "exchanged"});
    Request::post("/create_topic", &topic).ask(cluster.node(a).http).expect(201);
}

/// The story: all three came back at other ports. None found a voter where the membership has it, and none was elected.
#[test]
fn a_majority_that_moves_at_the_same_time_finds_itself() {
    let mut cluster = three();
    for id in 1..=3 {
        cluster.kill(id);
    }
    for id in 1..=3 {
        let data = cluster.node(id).data.clone();
        let mut command = command_at(&cluster, id, id + 3, &data);
        command.args(["--http", &cluster.node(id).http.to_string()]);
        let others = (1..=3).filter(|other| *other != id);
        let others: Vec<_> =
            others.map(|other| format!("{other}/{}", cluster.ports.raft(other + 3))).collect();
        command.args(["-e", &others.join(",")]);
        cluster.run(id, command);
    }
    cluster.wait_until_whole();
}

/// The story: a node with a mistyped address, or one that only its own machine reaches, was made a member there. Nothing
/// can be sent to such a member, and the node waited without a word.
#[test]
fn an_address_at_which_the_asking_node_does_not_answer_is_not_committed() {
    let cluster = three();
    let closed = cluster.ports.raft(6).to_string();
    let other = cluster.node(cluster.follower().id).raft.to_string();
    let target = Target { addr: cluster.node(1).raft.to_string(), member: None, cluster: None };
    let runtime = tokio::runtime::Runtime::new().expect("a runtime");
    for raft in [closed, other] {
        let peer = Peer { raft: raft.clone(), http: raft.clone(), directory: Uuid::from_u128(7) };
        let answer = runtime.block_on(async {
            let channel = Channel::new(Names::new(TokioEnv), target.clone());
            let request = RaftRequest::Join { node: 4, peer, passed_on: false };
            channel.call(request, PATIENCE).await.expect("an answer")
        });
        let reason = match answer {
            Response::Unavailable(reason) => reason,
            other => panic!("{raft}: {other:?}"),
        };
        assert!(reason.starts_with(&format!("node 4 cannot be reached at {raft}: ")), "{reason}");
        for node in cluster.nodes() {
            let view = node.cluster().expect("an answer");
            assert_eq!(raft_addr(&view, 4), None, "{view}");
            assert_eq!(voters(&view), [1, 2, 3]);
        }
    }
}

/// Starts node 1 with its own command line on an empty directory.
fn empty_the_founder(cluster: &mut Cluster) {
    std::fs::remove_dir_all(&cluster.node(1).data).expect("a directory");
    cluster.restart(1);
}

/// Waits until node 1 has stopped because the cluster of the others expects it.
fn assert_expected(cluster: &mut Cluster, cluster_id: &Value) {
    let status = cluster.wait(1);
    let log = cluster.node(1).log();
    assert_eq!(status.code(), Some(1), "{status}: {log}");
    let id = cluster_id.as_str().expect("an id");
    assert!(log.contains(&format!("yakt: cluster {id} expects node 1")), "{log}");
}

/// The story: node 1 founded a second cluster and took writes, while the others went on without it.
#[test]
fn an_emptied_founder_stops_when_its_cluster_runs() {
    let mut cluster = three();
    let cluster_id = cluster.node(2).cluster().expect("an answer")["clusterId"].clone();
    cluster.kill(1);
    wait_for("the others have a leader", || {
        let view = cluster.node(2).cluster()?;
        view["leader"].as_u64().filter(|leader| *leader != 1)
    });
    empty_the_founder(&mut cluster);
    assert_expected(&mut cluster, &cluster_id);
    assert!(!cluster.node(1).log().contains("yakt: cannot"), "{}", cluster.node(1).log());
}

/// The other members were down when node 1 founded its second cluster, and come back.
#[test]
fn an_emptied_founder_that_is_alone_stops_when_its_cluster_returns() {
    let mut cluster = three();
    let cluster_id = cluster.node(2).cluster().expect("an answer")["clusterId"].clone();
    for id in 1..=3 {
        cluster.kill(id);
    }
    empty_the_founder(&mut cluster);
    cluster.wait_until_ready(1);
    cluster.restart(2);
    cluster.restart(3);
    assert_expected(&mut cluster, &cluster_id);
}
