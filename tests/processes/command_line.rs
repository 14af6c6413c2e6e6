//! `yakt up`, `yakt status`, `yakt bench`, and flags that make no sense.

use std::path::Path;
use std::process::{Command, Output};

use serde_json::{Value, json};

use crate::client::Request;
use crate::cluster::{Process, voters, wait_for};
use crate::scratch::{Directory, Ports};
use crate::shared::Shared;

/// Runs `yakt` to its end.
fn run(args: &[&str]) -> Output {
    Command::new(crate::yakt()).args(args).output().expect("the binary")
}

fn stdout(output: &Output) -> String {
    String::from_utf8_lossy(&output.stdout).into_owned()
}

fn stderr(output: &Output) -> String {
    String::from_utf8_lossy(&output.stderr).into_owned()
}

/// Starts `yakt up` and waits until it says that so many nodes are ready; their process ids too.
fn up(directory: &Path, port: u16, count: usize, log: &str) -> (Process, Vec<u32>) {
    let log = directory.join(log);
    let mut command = Command::new(crate::yakt());
    command
        .args(["up", "--nodes", "5", "--port", &port.to_string(), "--data"])
        .arg(directory.join("data"));
    let mut process = Process::start(&mut command, &log);
    let pids = wait_for("`yakt up` is up", || {
        assert!(process.ended().is_none(), "yakt up ended: {}", process.log());
        let log = process.log();
        let pid = |line: &str| line.split_once(": pid ")?.1.split_once(',')?.0.parse().ok();
        let pids: Vec<u32> = log.lines().filter_map(pid).collect();
        (pids.len() == count && log.contains("leader: node")).then_some(pids)
    });
    (process, pids)
}

fn assert_gone(pids: &[u32]) {
    for pid in pids {
        assert!(!Path::new(&format!("/proc/{pid}")).exists(), "process {pid} is left over");
    }
}

#[test]
fn a_cluster_that_is_upped_again_is_the_same_cluster() {
    let (ports, directory) = (Ports::new(), Directory::new(crate::scratch_dir()));
    let cluster = |id| Request::get("/cluster").ask(ports.http(id)).expect(200);

    let (mut process, pids) = up(directory.path(), ports.first(), 5, "first.log");
    wait_for("all are voters", || (voters(&cluster(1)) == [1, 2, 3, 4, 5]).then_some(()));
    let cluster_id = cluster(1)["clusterId"].clone();
    let record =
        Request::post("/create_topic", &json!({"name": "kept"})).ask(ports.http(5)).expect(201);

    let addr = ports.http(3).to_string();
    // As `yakt up` prints it.
    assert!(process.log().contains(&format!("http://{addr}")), "{}", process.log());
    let table = run(&["status", &format!("http://{addr}/")]);
    assert!(table.status.success(), "{}", stderr(&table));
    let text = stdout(&table);
    for word in [cluster_id.as_str().expect("an id"), "leader", "follower", "voter"] {
        assert!(text.contains(word), "no {word} in\n{text}");
    }
    for id in 1..=5 {
        assert!(text.contains(&ports.http(id).to_string()), "no node {id} in\n{text}");
    }
    let answer = run(&["status", &addr, "--json"]);
    let answer: Value = serde_json::from_str(&stdout(&answer)).expect("JSON");
    assert_eq!(answer["clusterId"], cluster_id);

    process.terminate();
    let status = process.wait();
    assert!(status.success(), "{status}: {}", process.log());
    assert_gone(&pids);

    let (mut process, pids) = up(directory.path(), ports.first(), 5, "second.log");
    for id in 1..=5 {
        assert_eq!(cluster(id)["clusterId"], cluster_id);
        assert_eq!(Request::get("/get_topic_by_name/kept").ask(ports.http(id)).expect(200), record);
    }
    // Whoever kills `yakt up` itself is left with no nodes either.
    process.kill();
    wait_for("its nodes stop", || pids.iter().all(|pid| !is_running(*pid)).then_some(()));
}

/// It founded a second cluster, alone, while the four others went on with the first.
#[test]
fn a_first_node_without_its_directory_founds_no_second_cluster() {
    let (ports, directory) = (Ports::new(), Directory::new(crate::scratch_dir()));
    let cluster = |id| Request::get("/cluster").ask(ports.http(id)).expect(200);
    let (mut process, _) = up(directory.path(), ports.first(), 5, "first.log");
    let cluster_id = cluster(2)["clusterId"].clone();
    process.terminate();
    assert!(process.wait().success(), "{}", process.log());

    std::fs::remove_dir_all(directory.path().join("data/node-1")).expect("a directory");
    // The second time it has a directory again, which is no member's.
    for log in ["second.log", "third.log"] {
        let (mut process, _) = up(directory.path(), ports.first(), 4, log);
        assert!(process.log().contains("node 1 did not start"), "{}", process.log());
        assert!(process.log().contains("remove that member first"), "{}", process.log());
        if log == "third.log" {
            let removed = run(&["remove", &ports.http(2).to_string(), "--node", "1"]);
            assert!(removed.status.success(), "{}", stderr(&removed));
        }
        process.terminate();
        assert!(process.wait().success(), "{}", process.log());
    }
    let (_process, _) = up(directory.path(), ports.first(), 5, "fourth.log");
    for id in 1..=5 {
        assert_eq!(cluster(id)["clusterId"], cluster_id);
    }
}

/// Whether a process that is no child of ours runs: one that has ended and was not collected does not.
fn is_running(pid: u32) -> bool {
    let stat = std::fs::read_to_string(format!("/proc/{pid}/stat")).unwrap_or_default();
    stat.rsplit_once(") ").is_some_and(|(_, rest)| !rest.starts_with('Z'))
}

#[test]
fn a_cluster_whose_port_is_taken_does_not_come_up() {
    let (ports, directory) = (Ports::new(), Directory::new(crate::scratch_dir()));
    let taken = std::net::TcpListener::bind(ports.raft(2)).expect("a port");
    let data = directory.path().join("data").display().to_string();
    let output =
        run(&["up", "--nodes", "2", "--port", &ports.first().to_string(), "--data", &data]);
    assert_eq!(output.status.code(), Some(1));
    assert!(stderr(&output).contains("node 2 did not start"), "{}", stderr(&output));
    assert!(stderr(&output).contains("cannot listen on"), "{}", stderr(&output));
    drop(taken);
}

#[test]
fn bad_flags_are_refused_with_help() {
    let cases: &[&[&str]] = &[
        &[],
        &["nonsense"],
        &["node"],
        &["node", "-i", "1"],
        &["node", "-a", "127.0.0.1:5010"],
        &["node", "-i", "0", "-a", "127.0.0.1:5010"],
        &["node", "-i", "-1", "-a", "127.0.0.1:5010"],
        &["node", "-i", "one", "-a", "127.0.0.1:5010"],
        &["node", "-i", "1", "-a", "nonsense"],
        &["node", "-i", "1", "-a", ":5010"],
        &["node", "-i", "1", "-a", "127.0.0.1:0"],
        &["node", "-i", "1", "-a", "127.0.0.1:65536"],
        &["node", "-i", "1", "-a", "127.0.0.1:5010", "-e", "x/127.0.0.1:5020"],
        &["node", "-i", "1", "-a", "127.0.0.1:5010", "-e", "0/127.0.0.1:5020"],
        &["node", "-i", "1", "-a", "127.0.0.1:5010", "-e", "2/127.0.0.1"],
        &["node", "-i", "1", "-a", "127.0.0.1:5010", "-e", "2/127.0.0.1:5020,,"],
        &["node", "-i", "1", "-a", "0.0.0.0:5010"],
        &["node", "-i", "1", "-a", "[::]:5010"],
        &["node", "-i", "1", "-a", "0:5010"],
        &["node", "-i", "1", "-a", "224.0.0.1:5010"],
        &["node", "-i", "1", "-a", "255.255.255.255:5010"],
        &["node", "-i", "1", "-a", "127.0.0.1:5010", "--http", "224.0.0.1:5011"],
        &["node", "-i", "1", "-a", "127.0.0.1:5010", "-e", "2@127.0.0.1:5020"],
        &["node", "-i", "1", "-a", "127.0.0.1:5010", "-e", "http://127.0.0.1:5020"],
        &["node", "-i", "1", "-a", "127.0.0.1:5010", "-e", "2/http://127.0.0.1:5020"],
        &["node", "-i", "1", "-a", "127.0.0.1:5010", "-e", "2/0.0.0.0:5020"],
        &["status", "https://127.0.0.1:5011"],
        &["node", "-i", "1", "-a", "127.0.0.1:5010", "--http", "5011"],
        &["node", "-i", "1", "-a", "127.0.0.1:5010", "--heartbeat-interval", "39"],
        &["node", "-i", "1", "-a", "127.0.0.1:5010", "--heartbeat-interval", "151"],
        &["node", "-i", "1", "-a", "127.0.0.1:5010", "--nonsense"],
        &["up", "--nodes", "0"],
        &["up", "--nodes", "100"],
        &["up", "--port", "0"],
        &["up", "--port", "x"],
        &["status", "--nonsense"],
        &["remove", "127.0.0.1:5011"],
        &["remove", "127.0.0.1:5011", "--node", "0"],
        &["transfer", "127.0.0.1:5011", "--node", "x"],
    ];
    for args in cases {
        let output = run(args);
        assert_eq!(output.status.code(), Some(2), "{args:?}: {}", stderr(&output));
        let text = stderr(&output);
        assert!(text.contains("--help") || text.contains("Usage:"), "{args:?}: {text}");
    }
}

#[test]
fn flags_that_contradict_each_other_are_refused() {
    let directory = Directory::new(crate::scratch_dir());
    let data = directory.path().join("data").display().to_string();
    let cases: &[(&[&str], &str)] = &[
        (&["node", "-i", "1", "-a", "127.0.0.1:65535", "--data", &data], "--http"),
        (
            &["node", "-i", "1", "-a", "127.0.0.1:5010", "-e", "1/127.0.0.1:5010", "--data", &data],
            "only this node",
        ),
        (
            &["node", "-i", "1", "-a", "127.0.0.1:5010", "-e", "127.0.0.1:5010", "--data", &data],
            "only this node",
        ),
        (&["up", "--nodes", "9", "--port", "65500", "--data", &data], "would need port"),
        // Port 1 of the loopback interface: nobody serves there.
        (&["status", "127.0.0.1:1"], "127.0.0.1:1"),
        (&["status", "nonsense"], "nonsense"),
        (&["remove", "127.0.0.1:1", "--node", "1"], "127.0.0.1:1"),
        (&["transfer", "nonsense", "--node", "1"], "nonsense"),
    ];
    for (args, message) in cases {
        let output = run(args);
        assert_eq!(output.status.code(), Some(1), "{args:?}: {}", stderr(&output));
        assert!(stderr(&output).starts_with("yakt: "), "{args:?}: {}", stderr(&output));
        assert!(stderr(&output).contains(message), "{args:?}: {}", stderr(&output));
    }
    assert!(!Path::new(&data).exists(), "a refused command made {data}");
}

#[test]
fn every_command_explains_itself() {
    for args in [
        &["--help"][..],
        &["node", "--help"],
        &["up", "--help"],
        &["status", "--help"],
        &["remove", "--help"],
        &["transfer", "--help"],
        &["--version"],
    ] {
        let output = run(args);
        assert!(output.status.success(), "{args:?}: {}", stderr(&output));
        assert!(!output.stdout.is_empty(), "{args:?}");
    }
}

/// A load of everything, and what `yakt bench` says of it: all of it was answered, and is there.
#[test]
fn a_bench_measures_and_finds_what_was_acknowledged() {
    let shared = Shared::new();
    let addr = shared.follower().to_string();
    let output = run(&[
        "bench",
        "--connections",
        "8",
        "--duration",
        "1",
        "--preload",
        "50",
        "--mix",
        "writes=2,reads=2,mgmt=1",
        "--json",
        &addr,
    ]);
    assert!(output.status.success(), "{}", stderr(&output));
    let report: Value = serde_json::from_slice(&output.stdout).expect("JSON");
    let kinds: Vec<_> = report["kinds"].as_array().expect("kinds").iter().collect();
    let names: Vec<_> = kinds.iter().map(|kind| kind["kind"].as_str().expect("a name")).collect();
    assert_eq!(names, ["writes", "reads", "mgmt"]);
    for kind in kinds {
        assert!(kind["answered"].as_u64() > Some(0), "{report}");
        assert!(kind["p50"].as_f64() > Some(0.0), "{report}");
        assert!(kind["p50"].as_f64() <= kind["max"].as_f64(), "{report}");
    }
    assert_eq!(report["errors"], json!({}), "{report}");
    let sanity = &report["sanity"];
    assert!(sanity["acknowledged"].as_u64() > Some(50), "{report}");
    assert_eq!(sanity["missing"], 0, "{report}");
}

#[test]
fn a_bench_of_nobody_fails_and_says_so() {
    // Held to the end: otherwise another test would start a node there.
    let ports = Ports::new();
    let addr = ports.http(1).to_string();
    let output = run(&["bench", "--duration", "0.2", "--preload", "1", &addr]);
    assert_eq!(output.status.code(), Some(1));
    assert!(stderr(&output).contains("no connection"), "{}", stderr(&output));
    let output = run(&["bench", "--duration", "0.2", &addr]);
    assert_eq!(output.status.code(), Some(1), "{}", stderr(&output));
    assert!(stderr(&output).contains(&format!("{addr}: no connection")), "{}", stderr(&output));
    let output = run(&["bench", "--mix", "writes=0", &addr]);
    assert!(stderr(&output).contains("nothing would be asked"), "{}", stderr(&output));
}
