//! Faults of networks and clocks that need machines of their own. Nodes run in network namespaces,
//! behind firewalls, and with a clock that is wrong.
//!
//! These tests need root, `ip`, `nft` and `faketime`, and are ignored unless asked for. They run in
//! a namespace of their own, so nothing of the machine changes:
//!
//! ```sh
//! unshare --net --mount --propagation private \
//!     sh -c 'ip link set lo up && cargo test --test processes machines -- --ignored'
//! ```

use std::net::{Ipv4Addr, SocketAddr};
use std::process::Command;
use std::sync::Once;
use std::time::{SystemTime, UNIX_EPOCH};

use serde_json::json;

use crate::client::Request;
use crate::cluster::{Cluster, wait_for};
#[cfg(target_os = "linux")]
use crate::name_server::NameServer;
#[cfg(target_os = "linux")]
use crate::peers::{THREADS_MAX, named, threads};
use crate::{scratch_dir, yakt};

/// The Raft port of every machine; HTTP is one above.
const RAFT_PORT: u16 = 5010;

/// Bytes of the largest packet that a black hole lets pass, headers included. Heartbeats are
/// smaller.
const BLACK_HOLE_BYTES: u32 = 600;

/// A topic's name. Several records with names of this length, written at the same time, make an
/// append that does not fit through the black hole.
fn long_name(number: u32) -> String {
    format!("{number:-<240}")
}

fn run(program: &str, args: &[&str]) {
    let output = Command::new(program).args(args).output().expect("the program exists");
    let errors = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{program} {args:?}: {errors}");
}

/// Machines that are joined by a switch. They are network namespaces `yakt-T-N` with the address
/// 10.77.T.N, where T is the network's number.
struct Lan {
    number: u8,
    size: u8,
}

impl Lan {
    fn new(number: u8, size: u8) -> Self {
        static MOUNTED: Once = Once::new();
        let lan = Self { number, size };
        // `ip netns` keeps names below /run/netns. This one belongs to the tests' own mount
        // namespace.
        MOUNTED.call_once(|| run("mount", &["-t", "tmpfs", "tmpfs", "/run"]));
        let switch = format!("switch{number}");
        run("ip", &["link", "add", &switch, "type", "bridge"]);
        run("ip", &["addr", "add", &format!("10.77.{number}.254/24"), "dev", &switch]);
        run("ip", &["link", "set", &switch, "up"]);
        for id in 1..=size {
            let (machine, cable) = (lan.machine(id), format!("cable{number}-{id}"));
            run("ip", &["netns", "add", &machine]);
            let peer = ["type", "veth", "peer", "name", "eth0", "netns", &machine];
            run("ip", &[&["link", "add", &cable][..], &peer[..]].concat());
            run("ip", &["link", "set", &cable, "master", &switch, "up"]);
            let addr = format!("{}/24", lan.addr(id));
            lan.on(id, "ip", &["addr", "add", &addr, "dev", "eth0"]);
            lan.on(id, "ip", &["link", "set", "eth0", "up"]);
            lan.on(id, "ip", &["link", "set", "lo", "up"]);
        }
        lan
    }

    fn machine(&self, id: u8) -> String {
        format!("yakt-{}-{id}", self.number)
    }

    fn addr(&self, id: u8) -> Ipv4Addr {
        Ipv4Addr::new(10, 77, self.number, id)
    }

    /// Runs a program on machine `id`.
    fn on(&self, id: u8, program: &str, args: &[&str]) {
        let machine = self.machine(id);
        run("ip", &[&["netns", "exec", &machine, program][..], args].concat());
    }

    /// Drops the packets that machine `id` sends and that match `matching`.
    fn drop_sent(&self, id: u8, matching: &str) {
        self.on(id, "nft", &["add", "table", "inet", "faults"]);
        let chain = "{ type filter hook output priority 0; }";
        self.on(id, "nft", &["add", "chain", "inet", "faults", "sent", chain]);
        self.on(id, "nft", &["add", "rule", "inet", "faults", "sent", matching, "drop"]);
    }

    /// Undoes [`Self::drop_sent`].
    fn drop_nothing(&self, id: u8) {
        self.on(id, "nft", &["delete", "table", "inet", "faults"]);
    }

    /// A cluster with a node on each machine.
    fn cluster(&self) -> Cluster {
        let at = |port: u16| move |lan: &Self, id| SocketAddr::from((lan.addr(id), port));
        let places =
            (1..=self.size).map(|id| (at(RAFT_PORT)(self, id), at(RAFT_PORT + 1)(self, id)));
        let mut cluster = Cluster::plan_at(yakt(), scratch_dir(), &places.collect::<Vec<_>>());
        for id in 1..=self.size {
            cluster.run(id.into(), self.command(&cluster, id));
        }
        cluster.wait_until_whole();
        cluster
    }

    fn command(&self, cluster: &Cluster, id: u8) -> Command {
        let node = cluster.command(id.into());
        let mut command = Command::new("ip");
        command.args(["netns", "exec", &self.machine(id)]);
        command.arg(node.get_program()).args(node.get_args());
        command
    }
}

impl Drop for Lan {
    fn drop(&mut self) {
        // Best effort: the namespace of the whole test goes anyway.
        for id in 1..=self.size {
            drop(Command::new("ip").args(["netns", "delete", &self.machine(id)]).output());
        }
        let switch = format!("switch{}", self.number);
        drop(Command::new("ip").args(["link", "delete", &switch]).output());
    }
}

fn narrow(id: u64) -> u8 {
    u8::try_from(id).expect("a small id")
}

/// Heartbeats passed, and appends did not. No write succeeded for as long as that lasted, although
/// four nodes were healthy.
#[test]
#[ignore = "needs root: see the module"]
fn a_leader_behind_a_black_hole_for_large_packets_gives_way() {
    let lan = Lan::new(1, 5);
    let cluster = lan.cluster();
    let leader = cluster.leader();
    let raft = format!("tcp dport {RAFT_PORT} meta length > {BLACK_HOLE_BYTES}");
    lan.drop_sent(narrow(leader), &raft);
    let follower = (1..=5).find(|id| *id != leader).expect("a follower");
    let http = cluster.node(follower).http;
    let mut number = 0;
    wait_for("a write succeeds", || {
        // Several at the same time, so that their append is larger than the largest packet that
        // passes.
        let writes: Vec<_> = (0..8)
            .map(|_| {
                number += 1;
                let create = Request::post("/create_topic", &json!({ "name": long_name(number) }));
                std::thread::spawn(move || {
                    create.send(http).is_ok_and(|answer| answer.status == 201)
                })
            })
            .collect();
        let acknowledged = writes.into_iter().filter_map(|write| write.join().ok());
        (acknowledged.filter(|acknowledged| *acknowledged).count() == 8).then_some(())
    });
    let log = cluster.node(leader).log();
    assert!(log.contains("it steps down"), "{log}");
    assert_ne!(cluster.leader(), leader);
    lan.drop_nothing(narrow(leader));
}

/// The leader reached this follower, and the follower did not reach the leader. The follower said
/// that it was ready, and every read and write failed.
#[test]
#[ignore = "needs root: see the module"]
fn a_follower_that_does_not_reach_its_leader_is_not_ready() {
    let lan = Lan::new(2, 3);
    let mut cluster = lan.cluster();
    let (leader, follower) = (cluster.leader(), cluster.follower().id);
    let way = format!("ip daddr {} tcp dport {RAFT_PORT}", lan.addr(narrow(leader)));
    lan.drop_sent(narrow(follower), &way);
    wait_for("the follower is not ready", || {
        (cluster.node(follower).status("/readyz") == 503).then_some(())
    });
    assert_eq!(cluster.node(follower).status("/get_active_brokers"), 503);
    assert_eq!(cluster.node(follower).status("/healthz"), 200);
    lan.drop_nothing(narrow(follower));
    cluster.wait_until_ready(follower);
    assert_eq!(cluster.node(follower).status("/get_active_brokers"), 200);
}

/// Writes went on over open connections. When the leader died, no election succeeded until names
/// resolved again, and every node grew from 4 threads to 300 meanwhile.
#[test]
#[cfg(target_os = "linux")]
#[ignore = "needs root: see the module"]
fn an_election_succeeds_while_no_name_resolves() {
    let mut cluster = Cluster::plan(yakt(), scratch_dir(), 3);
    let names = NameServer::start(cluster.directory.path());
    let host = |id| format!("node-{id}.yakt.test");
    for id in 1..=3 {
        let command = named(&cluster, id, host);
        cluster.run(id, command);
    }
    cluster.wait_until_whole();
    assert!(names.questions() > 0, "the nodes ask another name service");
    let leader = cluster.leader();
    let http = cluster.follower().http;
    let create = |name: &str| Request::post("/create_topic", &json!({ "name": name }));
    create("before").ask(http).expect(201);
    names.set_silent(true);
    create("meanwhile").ask(http).expect(201);
    cluster.kill(leader);
    let mut number = 0;
    wait_for("a write succeeds", || {
        number += 1;
        let answer = create(&format!("after-{number}")).send(http).ok()?;
        (answer.status == 201).then_some(())
    });
    // The dead node is called again and again, by a name that does not resolve.
    let before = names.questions();
    wait_for("the name is looked up", || (names.questions() > before + 1).then_some(()));
    for node in cluster.up() {
        let threads = threads(node.pid().expect("it runs"));
        assert!(threads <= THREADS_MAX, "node {} has {threads} threads", node.id);
    }
    names.set_silent(false);
    let command = named(&cluster, leader, host);
    cluster.run(leader, command);
    cluster.wait_until_whole();
}

/// One command of a leader whose clock said 2200 clamped cluster time to 2106, for good. Offsets
/// did not age, and idempotency keys did not expire.
#[test]
#[ignore = "needs faketime: see the module"]
fn a_leader_whose_clock_is_centuries_ahead_does_not_move_cluster_time() {
    let mut cluster = Cluster::plan(yakt(), scratch_dir(), 3);
    for id in 1..=3 {
        let mut command = cluster.command(id);
        if id == 1 {
            wrong_clock(&mut command);
        }
        cluster.run(id, command);
    }
    cluster.wait_until_whole();
    let http = cluster.node(1).http;
    Request::post("/cluster/leader", &json!({ "node": 1 })).ask(http).expect(200);
    Request::post("/create_topic", &json!({ "name": "t" })).ask(http).expect(201);
    let offset = || Request::get("/client_mgmt/0").ask(http).expect(200)["offset"].clone();
    let first = offset().as_f64().expect("an offset");
    let now = SystemTime::now().duration_since(UNIX_EPOCH).expect("after 1970").as_secs_f64();
    assert!((first - now).abs() < 120.0, "cluster time is {first}, and the time is {now}");
    wait_for("the node says that its clock is wrong", || {
        cluster.node(1).log().contains("this node's clock is ahead").then_some(())
    });
    wait_for("cluster time goes on", || {
        (offset().as_f64().expect("an offset") > first + 1.0).then_some(())
    });
    // With its clock corrected, the node goes on as any other.
    assert!(cluster.terminate(1).success());
    cluster.restart(1);
    cluster.wait_until_whole();
    assert!(offset().as_f64().expect("an offset") < first + 600.0);
}

/// Makes `command` see a wall clock that says 2200. The wrapper `faketime` is not used: it would
/// get the signals that are meant for the node.
fn wrong_clock(command: &mut Command) {
    let libraries = std::fs::read_dir("/usr/lib").expect("a directory of libraries");
    let library = libraries
        .filter_map(|place| Some(place.ok()?.path().join("faketime/libfaketime.so.1")))
        .find(|library| library.exists());
    command.env("LD_PRELOAD", library.expect("libfaketime"));
    command.env("FAKETIME", "@2200-01-01 00:00:00");
    command.env("FAKETIME_DONT_FAKE_MONOTONIC", "1");
}
