//! Directories that were put back to an older copy, and offsets that this history never issued.

use std::fs;
use std::path::Path;

use serde_json::{Value, json};

use crate::client::Request;
use crate::cluster::{Cluster, wait_for};
use crate::shared::Shared;
use crate::writers::{Told, create};

/// Writes that an old copy of a directory lacks.
const WRITES: usize = 20;

/// Leaders of the restored nodes: more than the lost history had.
const TRANSFERS: u64 = 12;

fn copy(from: &Path, to: &Path) {
    let _ = fs::remove_dir_all(to);
    fs::create_dir_all(to).expect("a directory");
    for file in fs::read_dir(from).expect("a directory") {
        let file = file.expect("a file");
        fs::copy(file.path(), to.join(file.file_name())).expect("a copy");
    }
}

fn write(cluster: &Cluster, id: u64, prefix: &str) {
    for n in 0..WRITES {
        let (addr, name) = (cluster.node(id).http, format!("{prefix}-{n}"));
        wait_for("a write succeeds", || {
            (create(addr, &name, Some(&name)) == Told::Created).then_some(())
        });
    }
}

/// Nodes 4 and 5 truncated entries that they had applied, kept the old state, and served it:
///
/// 1. Five nodes write and are stopped.
/// 2. Nodes 1 to 3 are put back to clean copies from before the writes.
/// 3. They start, elect a leader in a term that was used before, and write at indices that were
///    used.
/// 4. Nodes 4 and 5 start. Even an entry of the same term and index may be another one.
#[test]
fn a_node_whose_applied_entries_were_replaced_stops_and_says_how_to_recover() {
    let mut cluster = crate::five();
    let backup = |id: u64, cluster: &Cluster| {
        let to = cluster.directory.path().join(format!("backup-{id}"));
        (cluster.node(id).data.clone(), to)
    };
    for id in 1..=5 {
        assert!(cluster.terminate(id).success());
    }
    for id in 1..=3 {
        let (data, to) = backup(id, &cluster);
        copy(&data, &to);
    }
    cluster.restart_all();
    cluster.wait_until_whole();
    write(&cluster, 1, "lost");
    for id in 1..=5 {
        assert!(cluster.terminate(id).success());
    }
    for id in 1..=3 {
        let (data, to) = backup(id, &cluster);
        copy(&to, &data);
    }
    for id in 1..=3 {
        cluster.restart(id);
    }
    for id in 1..=3 {
        cluster.wait_until_ready(id);
    }
    write(&cluster, 2, "restored");
    // The terms of the lost history are over: otherwise node 4 could be elected, and nodes 1 to 3
    // would stop.
    for n in 0..TRANSFERS {
        let next = json!({"node": n % 2 + 1});
        Request::post("/cluster/leader", &next).ask(cluster.node(3).http).expect(200);
    }
    write(&cluster, 3, "transferred");
    for id in [4, 5] {
        cluster.restart(id);
        let status = cluster.wait(id);
        assert_eq!(status.code(), Some(1), "{}", cluster.node(id).log());
        let log = cluster.node(id).log();
        assert!(log.contains("two histories of one cluster"), "{log}");
        assert!(log.contains("yakt remove"), "{log}");
    }
    // The others go on, and take the nodes back on empty directories.
    write(&cluster, 3, "later");
    for id in [4, 5] {
        let path = format!("/cluster/nodes/{id}");
        Request::new("DELETE", &path).ask(cluster.node(1).http).expect(200);
        fs::remove_dir_all(&cluster.node(id).data).expect("a directory");
        cluster.restart(id);
    }
    cluster.wait_until_whole();
}

/// Puts the directory of one follower of three back by `damage`, after the follower acknowledged
/// more to the leader. The follower stops, and the cluster takes it back on an empty directory.
fn loses_what_it_acknowledged(damage: impl Fn(&Path, &Path)) {
    let mut cluster = Cluster::start(crate::yakt(), crate::scratch_dir(), 3);
    let (leader, follower) = (cluster.leader(), cluster.follower().id);
    let (data, old) =
        (cluster.node(follower).data.clone(), cluster.directory.path().join("old-copy"));
    assert!(cluster.terminate(follower).success());
    copy(&data, &old);
    cluster.restart(follower);
    cluster.wait_until_ready(follower);
    write(&cluster, follower, "acknowledged");
    cluster.kill(follower);
    damage(&data, &old);
    assert_eq!(cluster.leader(), leader, "another leader knows of nothing that was acknowledged");
    cluster.restart(follower);
    assert_eq!(cluster.wait(follower).code(), Some(1), "{}", cluster.node(follower).log());
    let log = cluster.node(follower).log();
    assert!(log.contains("this node lost entries that it had acknowledged"), "{log}");

    let path = format!("/cluster/nodes/{follower}");
    Request::new("DELETE", &path).ask(cluster.node(leader).http).expect(200);
    fs::remove_dir_all(&data).expect("a directory");
    let mut command = std::process::Command::new(crate::yakt());
    let node = cluster.node(follower);
    command.args(["node", "-i", &follower.to_string(), "-a", &node.raft.to_string()]);
    command.arg("--data").arg(&data);
    command.args(["-e", &cluster.node(leader).raft.to_string()]);
    cluster.run(follower, command);
    cluster.wait_until_whole();
}

/// The leader sent the same append 9,000 times a second, and said nothing.
#[test]
fn a_follower_on_an_old_copy_of_its_directory_stops() {
    loses_what_it_acknowledged(|data, old| copy(old, data));
}

/// The last record of a log that rotted is taken for torn by a power loss.
#[test]
fn a_follower_whose_last_log_record_rotted_stops() {
    loses_what_it_acknowledged(|data, _| {
        let file = data.join("yakt.log.0");
        let mut bytes = fs::read(&file).expect("the log");
        let last = bytes.iter().rposition(|byte| *byte != 0).expect("a record");
        bytes[last] ^= 1;
        fs::write(&file, bytes).expect("the log");
    });
}

fn poll(offset: f64, query: &str) -> Value {
    let shared = Shared::new();
    let path = format!("/broker_mgmt/{offset}?{query}");
    Request::get(&path).ask(shared.follower()).expect(200)
}

/// Such a poller was answered with an empty diff for ever, and kept records that were gone.
#[test]
fn an_offset_that_this_history_never_issued_gets_the_complete_snapshot() {
    let _held = Shared::new();
    let first = poll(0.0, "");
    let offset = first["offset"].as_f64().expect("an offset");
    let history = first["history"].as_str().expect("a history").to_owned();
    for foreign in [offset * 1_000.0, offset + 3_600.0, offset - 599.0 * 86_400.0, 1.0] {
        for query in ["mode=diff", "mode=snapshot", "mode=diff&consistency=stale"] {
            assert_eq!(poll(foreign, query)["snapshot"], "complete", "{foreign} {query}");
        }
    }
    assert_eq!(poll(offset, &format!("mode=diff&history={history}"))["snapshot"], "diff");
    assert_eq!(poll(offset, "mode=diff")["snapshot"], "diff");
    assert_eq!(poll(offset, "mode=diff&history=0123456789abcdef")["snapshot"], "complete");
    assert_eq!(poll(offset, "history=0123456789abcdef")["snapshot"], "complete");
    let shared = Shared::new();
    let refused = Request::get("/broker_mgmt/0?history=x").ask(shared.follower());
    assert_eq!((refused.status, &refused.json()["code"]), (400, &json!("invalid_query")));
}

/// Every poll of an idle cluster appended an entry to the log.
#[test]
fn polls_of_an_idle_cluster_append_an_entry_a_second_at_most() {
    const POLLS: u64 = 300;
    let mut cluster = Cluster::start(crate::yakt(), crate::scratch_dir(), 1);
    cluster.wait_until_whole();
    let addr = cluster.node(1).http;
    let committed = || cluster.node(1).cluster().expect("an answer")["committed"].as_u64();
    let begun = std::time::Instant::now();
    let before = committed().expect("an index");
    for _ in 0..POLLS {
        Request::get("/broker_mgmt/0").ask(addr).expect(200);
    }
    let appended = committed().expect("an index") - before;
    let seconds = begun.elapsed().as_secs();
    assert!(appended <= 2 * (seconds + 1), "{appended} entries for {POLLS} polls in {seconds} s");
}
