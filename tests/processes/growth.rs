//! The original system's start lines.

use std::process::Command;

use serde_json::json;

use crate::client::Request;
use crate::cluster::{Cluster, voters, wait_for};

/// `yakt node -i ID -a ADDR [-e 1/ADDR,…]`: as the original was started, with every earlier node in `-e`
/// and the data where it is by default.
fn start_line(cluster: &Cluster, id: u64) -> Command {
    let mut command = Command::new(crate::yakt());
    command.current_dir(cluster.directory.path());
    command.args(["node", "-i", &id.to_string(), "-a", &cluster.ports.raft(id).to_string()]);
    let ensemble: Vec<_> = (1..id).map(|id| format!("{id}/{}", cluster.ports.raft(id))).collect();
    if !ensemble.is_empty() {
        command.args(["-e", &ensemble.join(",")]);
    }
    command
}

fn assert_agreed(cluster: &Cluster, size: u64) {
    let members: Vec<_> = (1..=size).collect();
    wait_for(&format!("all see {size} voters"), || {
        let views: Option<Vec<_>> = cluster.up().map(super::cluster::Node::cluster).collect();
        let views = views?;
        let leader = views[0]["leader"].as_u64()?;
        let agreed = views.iter().all(|view| voters(view) == members && view["leader"] == leader);
        agreed.then_some(())
    });
    for node in cluster.up() {
        let view = node.cluster().expect("an answer");
        assert_eq!(view["clusterId"], cluster.node(1).cluster().expect("an answer")["clusterId"]);
        assert_eq!(view["node"], node.id);
        for (member, id) in view["nodes"].as_array().expect("a list").iter().zip(1..) {
            assert_eq!(member["id"], id);
            assert_eq!(member["raft"], cluster.node(id).raft.to_string());
            assert_eq!(member["http"], cluster.node(id).http.to_string());
        }
    }
}

#[test]
fn the_originals_five_start_lines_grow_one_cluster() {
    let mut cluster = Cluster::plan(crate::yakt(), crate::scratch_dir(), 5);
    for id in 1..=5 {
        let command = start_line(&cluster, id);
        cluster.run(id, command);
        cluster.wait_until_ready(id);
        assert_agreed(&cluster, id);
        let topic = json!({"name": format!("with-{id}")});
        Request::post("/create_topic", &topic).ask(cluster.node(id).http).expect(201);
    }
    for node in cluster.nodes() {
        for size in 1..=5 {
            Request::get(&format!("/get_topic_by_name/with-{size}")).ask(node.http).expect(200);
        }
    }

    // On a directory that belongs to the cluster, the same line brings the node back.
    cluster.kill(4);
    let command = start_line(&cluster, 4);
    cluster.run(4, command);
    cluster.wait_until_ready(4);
    assert_agreed(&cluster, 5);
}

#[test]
fn a_node_that_is_early_waits_for_its_ensemble_and_says_so() {
    let mut cluster = Cluster::plan(crate::yakt(), crate::scratch_dir(), 2);
    cluster.restart(2);
    let early = cluster.node(2).http;
    wait_for("the early node serves", || Request::get("/healthz").send(early).ok());
    let answer = Request::get("/readyz").ask(early);
    assert_eq!((answer.status, answer.json()["code"].as_str()), (503, Some("not_ready")));
    for query in ["", "?consistency=stale"] {
        let answer = Request::get(&format!("/get_active_brokers{query}")).ask(early);
        assert_eq!(
            (answer.status, answer.json()["code"].as_str()),
            (503, Some("starting")),
            "{query}"
        );
    }
    assert_eq!(Request::post("/create_topic", &json!({"name": "early"})).ask(early).status, 503);
    cluster.restart(1);
    cluster.wait_until_whole();
    assert_eq!(Request::get("/get_topic_by_name/early").ask(early).status, 404);
}
