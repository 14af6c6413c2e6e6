//! Measures a cluster of five real processes whose metadata is large: what every operation costs then, and whether
//! a snapshot, a restart or a new node is felt by those who write.
//!
//! ```text
//! cargo build --release && cargo run --release --example scale
//! ```
//!
//! It makes 1,000 brokers, 10,000 topics and a million partitions (`--partitions`) of three replicas each, all
//! through HTTP, which takes five minutes, and 8 GiB of memory and disk. Writes are topics of about 300 bytes,
//! created at the leader by `--connections` clients in a closed loop.

#![expect(clippy::disallowed_methods, reason = "it watches real processes from outside")]

mod processes;

use std::net::SocketAddr;
use std::path::Path;
use std::process::ExitCode;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use clap::Parser;
use hdrhistogram::Histogram;
use processes::Place;
use processes::client::{Connection, Request, Response};
use processes::cluster::{self, Cluster, wait_for};
use serde_json::{Value, json};

/// Brokers, and topics that the partitions are spread over.
const BROKERS: u64 = 1_000;
const TOPICS: u64 = 10_000;

/// Brokers that hold a partition.
const REPLICAS: u64 = 3;

/// Connections that fill the cluster.
const FILLERS: u64 = 64;

/// How long one request may take: a complete answer is long.
const PATIENCE: Duration = Duration::from_mins(1);

/// The node that is not of the first five.
const NEW_NODE: u64 = 6;

/// How often what can be repeated is.
const REPEATS: usize = 3;

/// Measure a cluster with large metadata.
#[derive(Parser)]
struct Args {
    /// Partitions to create
    #[arg(long, default_value_t = 1_000_000)]
    partitions: u64,
    /// Clients that write while something else is measured
    #[arg(long, default_value_t = 16, value_parser = clap::value_parser!(u64).range(1..))]
    connections: u64,
    /// How long each measurement of writes takes, in seconds
    #[arg(long, default_value_t = 5)]
    seconds: u64,
    /// Times that writes to it and to a small cluster are measured in turns
    #[arg(long, default_value_t = 10, value_parser = clap::value_parser!(u64).range(1..))]
    rounds: u64,
    #[command(flatten)]
    place: Place,
}

fn main() -> ExitCode {
    let args = Args::parse();
    let (yakt, scratch) = match args.place.find() {
        Ok(found) => found,
        Err(error) => {
            eprintln!("{error}");
            return ExitCode::from(2);
        }
    };
    let mut cluster = start_five(&yakt, &scratch, NEW_NODE);
    let leader = cluster.leader();
    let load = Load::new(&cluster, &args);
    println!("idle: {} MiB a node", mebibytes(&cluster));

    fill_brokers(load.addr);
    let topics = fill_topics(load.addr);
    let before = offset(load.addr);
    fill_partitions(load.addr, &topics, args.partitions);
    println!("{} partitions: {} MiB a node", args.partitions, mebibytes(&cluster));

    wait_until_quiet(&cluster);
    let quiet = load.alone();
    println!("writes: {}", Rate(&quiet, load.measured()));
    long_answer(
        &cluster,
        "diff of all partitions",
        &format!("/broker_mgmt/{before}?mode=diff&consistency=stale"),
        "identity",
    );
    diffs(&cluster, leader);
    snapshots(&cluster, &load, &quiet);
    restarts(&mut cluster);
    complete_answers(&cluster);
    new_node(&mut cluster, &load, &quiet);
    rounds(&cluster, &load, || start_five(&yakt, &scratch, 5));
    ExitCode::SUCCESS
}

/// Five voters of a cluster that is planned for `size` nodes.
fn start_five(yakt: &Path, scratch: &Path, size: u64) -> Cluster {
    let mut cluster = Cluster::plan(yakt, scratch, size);
    (1..=5).for_each(|id| cluster.restart(id));
    (1..=5).for_each(|id| cluster.wait_until_ready(id));
    wait_until_so_many_vote(&cluster, 5);
    cluster
}

fn wait_until_so_many_vote(cluster: &Cluster, voters: usize) {
    wait_for(&format!("{voters} vote"), || {
        let view = cluster.node(1).cluster()?;
        (cluster::voters(&view).len() == voters).then_some(())
    });
}

/// Clients that write.
struct Load<'a> {
    addr: SocketAddr,
    args: &'a Args,
    /// The next topic's number.
    next: AtomicU64,
}

impl<'a> Load<'a> {
    /// Writes to the leader of `cluster`.
    fn new(cluster: &Cluster, args: &'a Args) -> Self {
        Self { addr: cluster.node(cluster.leader()).http, args, next: AtomicU64::new(0) }
    }

    /// The latencies of writes, in microseconds, with nothing else going on.
    fn alone(&self) -> Histogram<u64> {
        self.during(|| thread::sleep(self.measured())).0
    }

    /// How long each measurement takes.
    const fn measured(&self) -> Duration {
        Duration::from_secs(self.args.seconds)
    }

    /// The latencies of writes that are made while `work` is done, and what came of it.
    fn during<T>(&self, work: impl FnOnce() -> T) -> (Histogram<u64>, T) {
        let stop = AtomicBool::new(false);
        thread::scope(|scope| {
            let writers: Vec<_> = (0..self.args.connections)
                .map(|_| scope.spawn(|| self.write_until(&stop)))
                .collect();
            let done = work();
            stop.store(true, Ordering::Relaxed);
            let mut all = histogram();
            for writer in writers {
                all.add(writer.join().expect("a writer")).expect("the same bounds");
            }
            (all, done)
        })
    }

    fn write_until(&self, stop: &AtomicBool) -> Histogram<u64> {
        let mut connection = Connection::open(self.addr, PATIENCE).expect("a connection");
        let mut latencies = histogram();
        while !stop.load(Ordering::Relaxed) {
            let name = format!("scale-{}-{:x<200}", self.next.fetch_add(1, Ordering::Relaxed), "");
            let request = Request::post("/create_topic", &json!({ "name": name }));
            let begun = Instant::now();
            let answer = connection.send(&request).expect("an answer");
            assert_eq!(answer.status, 201, "{}", answer.text());
            latencies.saturating_record(micros(begun.elapsed()));
        }
        latencies
    }
}

fn histogram() -> Histogram<u64> {
    Histogram::new_with_bounds(1, 60_000_000, 3).expect("good bounds")
}

fn fill_brokers(addr: SocketAddr) {
    fill(addr, BROKERS, |number| {
        let broker = json!({"brokerId": number, "brokerHost": "10.0.0.1", "brokerPort": 9092});
        Request::post("/register_broker", &broker)
    });
}

/// Creates the topics; their UUIDs.
fn fill_topics(addr: SocketAddr) -> Vec<String> {
    let answers = fill(addr, TOPICS, |number| {
        Request::post("/create_topic", &json!({ "name": format!("topic-{number}") }))
    });
    let uuid = |answer: Value| answer["fields"]["topicUUID"].as_str().expect("a UUID").to_owned();
    answers.into_iter().map(|answer| uuid(answer.json())).collect()
}

fn fill_partitions(addr: SocketAddr, topics: &[String], partitions: u64) {
    let begun = Instant::now();
    let topic = |number: u64| &topics[usize::try_from(number % TOPICS).expect("it fits")];
    let created = fill(addr, partitions, |number| {
        // Topics whose partitions begin at different brokers.
        let first = number % TOPICS + number / TOPICS;
        let replicas: Vec<_> = (first..first + REPLICAS).map(|broker| broker % BROKERS).collect();
        let partition = json!({"partitionId": number / TOPICS, "topicUUID": topic(number), "replicas": replicas});
        Request::post("/create_partition", &partition)
    });
    let seconds = begun.elapsed().as_secs_f64();
    println!("{} partitions in {seconds:.0} s", created.len());
}

/// Sends `count` requests, and returns the answers, of which none is an error.
fn fill(addr: SocketAddr, count: u64, request: impl Fn(u64) -> Request + Sync) -> Vec<Response> {
    let (next, request) = (&AtomicU64::new(0), &request);
    thread::scope(|scope| {
        let filler = || {
            let mut connection = Connection::open(addr, PATIENCE).expect("a connection");
            let mut answers = Vec::new();
            loop {
                let number = next.fetch_add(1, Ordering::Relaxed);
                if number >= count {
                    return answers;
                }
                let answer = connection.send(&request(number)).expect("an answer");
                assert_eq!(answer.status, 201, "{}", answer.text());
                // Only topics are looked at, and there are few.
                answers.push(answer);
            }
        };
        let fillers: Vec<_> = (0..FILLERS).map(|_| scope.spawn(filler)).collect();
        fillers.into_iter().flat_map(|filler| filler.join().expect("a filler")).collect()
    })
}

/// Writes to a new cluster of the brokers alone, and then to the large one, again and again: what is compared was seen
/// within seconds, as the speed of a machine varies over minutes. While one is written to the other is idle.
fn rounds(cluster: &Cluster, load: &Load<'_>, new_cluster: impl Fn() -> Cluster) {
    let (mut all_small, mut all_large) = (0, 0);
    for round in 1..=load.args.rounds {
        let small_cluster = new_cluster();
        let small = Load::new(&small_cluster, load.args);
        fill_brokers(small.addr);
        let measure = |load: &Load<'_>| {
            wait_until_quiet(&small_cluster);
            wait_until_quiet(cluster);
            load.alone()
        };
        let (small, large) = (measure(&small), measure(load));
        let ratio = float(large.len()) / float(small.len());
        let rate = |latencies| Rate(latencies, load.measured());
        println!("round {round}, {BROKERS} records: {}", rate(&small));
        println!(
            "round {round}, {} partitions: {}: {ratio:.2}",
            load.args.partitions,
            rate(&large)
        );
        all_small += small.len();
        all_large += large.len();
    }
    println!(
        "writes in all rounds: {:.2} of those to {BROKERS} records",
        float(all_large) / float(all_small)
    );
}

/// Cluster time.
fn offset(addr: SocketAddr) -> String {
    Request::get("/get_active_brokers").ask(addr).expect(200)["offset"].to_string()
}

/// What ten changes cost a poller that had all but them.
fn diffs(cluster: &Cluster, leader: u64) {
    let addr = cluster.node(leader).http;
    let offset = offset(addr);
    for number in 0..10 {
        let topic = json!({ "name": format!("changed-{number}") });
        assert_eq!(Request::post("/create_topic", &topic).ask(addr).status, 201);
    }
    for consistency in ["stale", "linearizable"] {
        let path = format!("/broker_mgmt/{offset}?mode=diff&consistency={consistency}");
        let mut connection = Connection::open(addr, PATIENCE).expect("a connection");
        let mut latencies = histogram();
        for _ in 0..200 {
            let begun = Instant::now();
            let answer = connection.send(&Request::get(&path)).expect("an answer").expect(200);
            latencies.saturating_record(micros(begun.elapsed()));
            assert_eq!(answer["snapshot"], "diff");
            assert_eq!(answer["upserted"]["TopicRecord"].as_array().map(Vec::len), Some(10));
        }
        println!("diff of 10 changes, {consistency}: {}", Quantiles(&latencies));
    }
}

/// Snapshots, on one quiet node and then on all while others write.
fn snapshots(cluster: &Cluster, load: &Load<'_>, quiet: &Histogram<u64>) {
    let follower = cluster.follower();
    let pid = follower.pid().expect("a node that runs");
    for _ in 0..REPEATS {
        // So that there is something new to take one of.
        let topic =
            json!({ "name": format!("before-{}", load.next.fetch_add(1, Ordering::Relaxed)) });
        assert_eq!(Request::post("/create_topic", &topic).ask(load.addr).status, 201);
        thread::sleep(Duration::from_millis(200));
        let (begun, cpu) = (Instant::now(), processor_time(pid));
        take_snapshot(follower.http);
        let (took, cpu) = (begun.elapsed(), processor_time(pid).saturating_sub(cpu));
        println!("snapshot: {:.2} s of CPU, {:.2} s in all", cpu.as_secs_f64(), took.as_secs_f64());
    }
    wait_until_quiet(cluster);
    let (latencies, took) = load.during(|| {
        let begun = Instant::now();
        for _ in 0..REPEATS {
            thread::scope(|scope| {
                for node in cluster.up() {
                    scope.spawn(|| take_snapshot(node.http));
                }
            });
        }
        begun.elapsed()
    });
    let rate = Rate(&latencies, took);
    println!("writes while all nodes take snapshots: {rate}, {}", Times(&latencies, quiet));
}

/// Waits until no node has anything to do.
fn wait_until_quiet(cluster: &Cluster) {
    let pids: Vec<_> = cluster.up().filter_map(cluster::Node::pid).collect();
    let used = || pids.iter().map(|pid| processor_time(*pid)).sum::<Duration>();
    wait_for("all nodes are idle", || {
        let before = used();
        thread::sleep(Duration::from_secs(1));
        (used().saturating_sub(before) < Duration::from_millis(400)).then_some(())
    });
}

/// Has a node take a snapshot of all that it has applied, however long that takes.
fn take_snapshot(addr: SocketAddr) {
    let goal = metric(addr, "yakt_raft_applied_index");
    // The answer does not wait for as long as it may take.
    let _ = Request::new("POST", "/cluster/snapshot").ask(addr);
    wait_for("a snapshot is taken", || {
        (metric(addr, "yakt_raft_snapshot_index") >= goal).then_some(())
    });
}

/// A number of `/metrics`.
fn metric(addr: SocketAddr, name: &str) -> u64 {
    let text = Request::get("/metrics").ask(addr).text();
    let line = text.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(' '));
    line.and_then(|value| value.parse().ok()).expect("a metric")
}

/// A node joins that has nothing, and leaves again.
fn new_node(cluster: &mut Cluster, load: &Load<'_>, quiet: &Histogram<u64>) {
    wait_until_quiet(cluster);
    let (latencies, took) = load.during(|| {
        let begun = Instant::now();
        cluster.restart(NEW_NODE);
        cluster.wait_until_ready(NEW_NODE);
        begun.elapsed()
    });
    let rate = Rate(&latencies, took);
    println!(
        "a new node was ready after {:.1} s; writes meanwhile: {rate}, {}",
        took.as_secs_f64(),
        Times(&latencies, quiet)
    );
    // A sixth vote costs what five do not. A node that is removed before it votes would ask to join again.
    wait_until_so_many_vote(cluster, 6);
    let path = format!("/cluster/nodes/{NEW_NODE}");
    Request::new("DELETE", &path).limit(PATIENCE).ask(load.addr).expect(200);
    cluster.wait(NEW_NODE);
}

fn restarts(cluster: &mut Cluster) {
    let follower = cluster.follower().id;
    for how in ["SIGTERM", "SIGKILL"] {
        for _ in 0..REPEATS {
            if how == "SIGTERM" {
                cluster.terminate(follower);
            } else {
                cluster.kill(follower);
            }
            wait_until_quiet(cluster);
            let begun = Instant::now();
            cluster.restart(follower);
            cluster.wait_until_ready(follower);
            println!("restart after {how}: ready in {:.2} s", begun.elapsed().as_secs_f64());
        }
    }
}

/// Complete answers, as text and compressed.
fn complete_answers(cluster: &Cluster) {
    for encoding in ["identity", "gzip", "zstd"] {
        let path = "/broker_mgmt/0?consistency=stale";
        long_answer(cluster, &format!("complete answer, {encoding}"), path, encoding);
    }
}

/// A long answer, and what the node that gives it needs for it.
fn long_answer(cluster: &Cluster, what: &str, path: &str, encoding: &str) {
    let follower = cluster.follower();
    let pid = follower.pid().expect("a node that runs");
    let before = resident(pid);
    let (begun, cpu) = (Instant::now(), processor_time(pid));
    let request = Request::get(path).header("accept-encoding", encoding).limit(PATIENCE);
    let answer = request.ask(follower.http);
    assert_eq!(answer.status, 200);
    println!(
        "{what}: {} MB in {:.1} s, {:.1} s of CPU, {} KiB more memory",
        answer.body.len() / 1_000_000,
        begun.elapsed().as_secs_f64(),
        processor_time(pid).saturating_sub(cpu).as_secs_f64(),
        resident(pid).saturating_sub(before) >> 10
    );
}

struct Rate<'a>(&'a Histogram<u64>, Duration);

impl std::fmt::Display for Rate<'_> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{:.0}/s, {}", float(self.0.len()) / self.1.as_secs_f64(), Quantiles(self.0))
    }
}

struct Quantiles<'a>(&'a Histogram<u64>);

impl std::fmt::Display for Quantiles<'_> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let at = |quantile| float(self.0.value_at_quantile(quantile)) / 1e3;
        write!(f, "p50 {:.2} ms, p99 {:.2} ms, max {:.2} ms", at(0.5), at(0.99), at(1.0))
    }
}

/// How many times what is usual.
struct Times<'a>(&'a Histogram<u64>, &'a Histogram<u64>);

impl std::fmt::Display for Times<'_> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let at = |latencies: &Histogram<u64>| float(latencies.value_at_quantile(0.99));
        write!(f, "p99 {:.1} times the quiet one", at(self.0) / at(self.1))
    }
}

/// The memory that each running node has, the largest first.
fn mebibytes(cluster: &Cluster) -> String {
    let mut each: Vec<_> =
        cluster.up().filter_map(|node| Some(resident(node.pid()?) >> 20)).collect();
    each.sort_unstable_by(|a, b| b.cmp(a));
    each.iter().map(u64::to_string).collect::<Vec<_>>().join(" ")
}

/// Bytes of memory that a process has.
fn resident(pid: u32) -> u64 {
    let status = std::fs::read_to_string(format!("/proc/{pid}/status")).expect("a process");
    let line = status.lines().find(|line| line.starts_with("VmRSS:")).expect("its memory");
    let kibibytes = line.split_whitespace().nth(1).and_then(|number| number.parse::<u64>().ok());
    kibibytes.expect("a number") << 10
}

/// The processor time that a process has used. In hundredths of a second, as Linux counts for programs.
fn processor_time(pid: u32) -> Duration {
    let stat = std::fs::read_to_string(format!("/proc/{pid}/stat")).expect("a process");
    let (_, fields) = stat.rsplit_once(')').expect("a name");
    let ticks = fields.split_whitespace().skip(11).take(2);
    Duration::from_millis(10 * ticks.map(|ticks| ticks.parse::<u64>().expect("ticks")).sum::<u64>())
}

/// A count that is small enough to be exact.
fn float(count: u64) -> f64 {
    u32::try_from(count).map_or(f64::INFINITY, f64::from)
}

fn micros(duration: Duration) -> u64 {
    u64::try_from(duration.as_micros()).unwrap_or(u64::MAX)
}
