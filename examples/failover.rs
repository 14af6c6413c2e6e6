//! Measures how long a cluster of five real processes is without a leader after `kill -9`, and whether it
//! loses anything.
//!
//! ```text
//! cargo build --release && cargo run --release --example failover
//! ```
//!
//! In every round there is one writer at each surviving node. It creates topics in a closed loop, each under
//! a new name, gives every attempt 100 ms, and waits 5 ms after one that failed. The leader is killed while
//! they write. The time that is reported runs from the kill to the success that ends the longest gap between
//! two successes: what a client sees, detection and election included. Its resolution is the 100 ms.
//!
//! In the end every topic that was acknowledged must be found exactly once by a linearizable read through
//! every node, or this exits with 1.

#![expect(clippy::disallowed_methods, reason = "it watches real processes from outside")]

mod processes;

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::process::ExitCode;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::sleep;
use std::time::{Duration, Instant};

use clap::Parser;
use processes::Place;
use processes::client::{Connection, Request};
use processes::cluster::Cluster;
use serde_json::json;

/// How long one attempt to write may take.
const ATTEMPT_LIMIT: Duration = Duration::from_millis(100);

/// Pause after an attempt that failed.
const RETRY_PAUSE: Duration = Duration::from_millis(5);

/// How long writers write before the kill, so that there is something to interrupt.
const BEFORE: Duration = Duration::from_millis(1_500);

/// How long they go on after it, so that the longest gap is over.
const AFTER: Duration = Duration::from_secs(5);

/// Measure failover on real processes.
#[derive(Parser)]
struct Args {
    /// Leaders to kill
    #[arg(long, default_value_t = 10, value_parser = clap::value_parser!(u32).range(1..))]
    kills: u32,
    /// Nodes in the cluster
    #[arg(long, default_value_t = 5, value_parser = clap::value_parser!(u64).range(3..=6))]
    nodes: u64,
    #[command(flatten)]
    place: Place,
}

/// What a writer saw: the names that were acknowledged, and when.
type Successes = Vec<(Instant, String)>;

fn main() -> ExitCode {
    let args = Args::parse();
    let (yakt, scratch) = match args.place.find() {
        Ok(found) => found,
        Err(error) => {
            eprintln!("{error}");
            return ExitCode::from(2);
        }
    };
    let mut cluster = Cluster::start(&yakt, &scratch, args.nodes);
    println!(
        "{} nodes of {} in {}",
        args.nodes,
        yakt.display(),
        cluster.directory.path().display()
    );

    let mut acknowledged = Vec::new();
    let mut outages = Vec::new();
    for round in 1..=args.kills {
        let leader = cluster.leader();
        let (killed, successes) = kill_under_load(&mut cluster, leader, round);
        match outage(killed, &successes) {
            Some(outage) => {
                println!(
                    "kill {round:2}: node {leader}, {:4.0} ms, {} writes",
                    millis(outage),
                    successes.len()
                );
                outages.push(outage);
            }
            None => println!("kill {round:2}: node {leader}, no write succeeded any more"),
        }
        acknowledged.extend(successes.into_iter().map(|(_, name)| name));
        cluster.restart(leader);
        cluster.wait_until_whole();
    }
    report(&mut outages);
    let recovered = outages.len() == usize::try_from(args.kills).unwrap_or(0);
    if verify(&cluster, &acknowledged) && recovered { ExitCode::SUCCESS } else { ExitCode::FAILURE }
}

/// Kills `leader` while writers write at all the others; when that was, and what succeeded.
fn kill_under_load(cluster: &mut Cluster, leader: u64, round: u32) -> (Instant, Successes) {
    let survivors: Vec<_> =
        cluster.up().filter(|node| node.id != leader).map(|node| (node.id, node.http)).collect();
    let stop = AtomicBool::new(false);
    std::thread::scope(|scope| {
        let writer = |(id, addr)| {
            let prefix = format!("r{round}-n{id}");
            let stop = &stop;
            scope.spawn(move || write_until(stop, &prefix, addr))
        };
        let writers: Vec<_> = survivors.into_iter().map(writer).collect();
        sleep(BEFORE);
        let killed = Instant::now();
        cluster.kill(leader);
        sleep(AFTER);
        stop.store(true, Ordering::Relaxed);
        let mut successes: Successes =
            writers.into_iter().flat_map(|writer| writer.join().expect("a writer")).collect();
        successes.sort_unstable();
        (killed, successes)
    })
}

fn write_until(stop: &AtomicBool, prefix: &str, addr: SocketAddr) -> Successes {
    let mut successes = Successes::new();
    let mut connection = None;
    for number in 0.. {
        if stop.load(Ordering::Relaxed) {
            break;
        }
        let name = format!("{prefix}-{number}");
        let request = Request::post("/create_topic", &json!({"name": name})).limit(ATTEMPT_LIMIT);
        let answer = match connection.take() {
            Some(open) => Ok(open),
            None => Connection::open(addr, ATTEMPT_LIMIT),
        }
        .and_then(|mut open| {
            let answer = open.send(&request)?;
            connection = Some(open);
            Ok(answer)
        });
        match answer {
            Ok(answer) if answer.status == 201 => successes.push((Instant::now(), name)),
            Ok(_) | Err(_) => sleep(RETRY_PAUSE),
        }
    }
    successes
}

/// From the kill to the success that ends the longest gap, of those that end after the kill. Needs sorted
/// successes.
fn outage(killed: Instant, successes: &[(Instant, String)]) -> Option<Duration> {
    let mut previous = killed;
    let mut longest: Option<(Duration, Instant)> = None;
    for &(at, _) in successes {
        if at > killed {
            let gap = at - previous;
            if longest.is_none_or(|(known, _)| gap > known) {
                longest = Some((gap, at));
            }
        }
        previous = at;
    }
    longest.map(|(_, end)| end - killed)
}

fn report(outages: &mut [Duration]) {
    outages.sort_unstable();
    let (Some(min), Some(max)) = (outages.first(), outages.last()) else { return };
    let middle = outages.len() / 2;
    let median = if outages.len() % 2 == 1 {
        outages[middle]
    } else {
        (outages[middle - 1] + outages[middle]) / 2
    };
    println!(
        "min {:.0} ms, median {:.0} ms, max {:.0} ms",
        millis(*min),
        millis(median),
        millis(*max)
    );
}

/// Whether every acknowledged topic is found exactly once through every node.
fn verify(cluster: &Cluster, acknowledged: &[String]) -> bool {
    let mut kept = true;
    for node in cluster.nodes() {
        let answer = Request::get("/client_mgmt/0").ask(node.http).expect(200);
        let mut copies = BTreeMap::<&str, usize>::new();
        for record in
            answer["records"]["TopicRecord"].as_array().map(Vec::as_slice).unwrap_or_default()
        {
            *copies.entry(record["fields"]["name"].as_str().unwrap_or_default()).or_default() += 1;
        }
        for name in acknowledged {
            let copies = copies.get(name.as_str()).copied().unwrap_or(0);
            if copies != 1 {
                kept = false;
                println!("node {}: {copies} copies of the acknowledged topic {name}", node.id);
            }
        }
    }
    let verdict =
        if kept { "all are there, once each, on every node" } else { "NOT ALL ARE THERE ONCE" };
    println!("{} acknowledged writes: {verdict}", acknowledged.len());
    kept
}

fn millis(duration: Duration) -> f64 {
    duration.as_secs_f64() * 1e3
}
