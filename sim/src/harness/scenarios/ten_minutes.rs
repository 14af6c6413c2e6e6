//! The ten-minute rule: exact, in cluster time, whatever the nodes' own clocks say.

use std::time::Duration;

use rand::RngExt;
use serde_json::{Value, json};
use yakt::env::rt;
use yakt::metadata::Timestamp;
use yakt::raft::config::RaftOptions;

use super::{NODES, Run, Workload};
use crate::env::SimEnv;
use crate::harness::Violation;
use crate::harness::client::{Client, Request};
use crate::harness::cluster::{Cluster, host, http};

const MICROS_PER_SECOND: u64 = 1_000_000;

/// What the clocks of the nodes are like.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Clocks {
    /// All right.
    Right,
    /// The first leader's is right, all others' are minutes behind.
    SuccessorsBehind,
    /// Each is off by up to five minutes, and drifts.
    Apart,
}

/// Hours pass in this one: heartbeats as on a slow network keep it cheap.
const OPTIONS: RaftOptions = RaftOptions {
    heartbeat_interval: Duration::from_secs(1),
    election_timeout_min: Duration::from_millis(2_500),
    election_timeout_max: Duration::from_secs(5),
    ..RaftOptions::DEFAULT
};

pub(super) async fn play(run: Run) -> Result<Run, Violation> {
    let mut run = run.with_options(OPTIONS);
    run.cluster.form(NODES).await?;
    let clocks =
        [Clocks::Right, Clocks::SuccessorsBehind, Clocks::Apart][run.rng.random_range(0..3)];
    let leader = run.cluster.wait_for_leader().await?;
    set_clocks(&mut run, clocks, leader);

    let mut workload = Workload::start(&run.cluster, 1, NODES);
    run.pause(500..1_000).await;
    workload.stop().await?;
    let poller = Poller { cluster: run.cluster.clone() };

    poller.closes_a_broker().await?;
    for endpoint in ["broker_mgmt", "client_mgmt"] {
        let change_leader = run.one_in(2);
        let begun = rt::now::<SimEnv>();
        let offset = poller.poll(endpoint, 0, "").await?.offset;
        if change_leader {
            let leader = run.cluster.wait_for_leader().await?;
            run.cluster.kill(leader);
            run.cluster.wait_for_leader().await?;
            run.cluster.start(leader);
        }
        for (second, expected) in [(599, "current"), (600, ""), (601, "complete")] {
            sleep_until(begun + Duration::from_secs(second)).await;
            let poll = poller.poll(endpoint, offset, "").await?;
            // A leader whose clock is ahead of its predecessor's may have taken the time ahead with it; then
            // only the answer's own offset says how old the offset is, and layer 3 checks that.
            let told_early = clocks == Clocks::Apart && second == 599;
            if !expected.is_empty() && poll.kind != expected && !told_early {
                let what =
                    format!("{endpoint}: {second} s after an offset a {} snapshot came", poll.kind);
                return Err(Violation::safety(what));
            }
            check_contents(endpoint, &poll)?;
        }
        // The offset of ten minutes ago must not fall between two leaders, when no offset was
        // issued.
        rt::sleep::<SimEnv>(Duration::from_mins(1)).await;
        poller.exact_boundary(endpoint).await?;
    }
    poller.idle_hour().await?;
    poller.foreign_offset().await?;
    run.finish(workload).await
}

fn set_clocks(run: &mut Run, clocks: Clocks, leader: u64) {
    for id in 1..=NODES {
        let clock = run.cluster.world().clock(&host(id));
        match clocks {
            Clocks::Right => {}
            Clocks::SuccessorsBehind if id == leader => {}
            Clocks::SuccessorsBehind => {
                clock.jump_back(Duration::from_secs(run.rng.random_range(60..600)));
            }
            Clocks::Apart => {
                let skew = Duration::from_secs(run.rng.random_range(0..300));
                if run.one_in(2) {
                    clock.jump_back(skew);
                } else {
                    clock.jump_forward(skew);
                }
                clock.set_drift_ppm(run.rng.random_range(-200..200));
            }
        }
    }
}

async fn sleep_until(moment: rt::Instant<SimEnv>) {
    let left = moment.saturating_duration_since(rt::now::<SimEnv>());
    rt::sleep::<SimEnv>(left).await;
}

/// What a poll was answered.
#[derive(Debug)]
struct Poll {
    /// In microseconds of cluster time.
    offset: u64,
    kind: String,
    body: Value,
}

/// A patient poller: it asks one node after the other until one answers.
struct Poller {
    cluster: Cluster,
}

impl Poller {
    async fn get(&self, path: String) -> Result<Value, Violation> {
        self.send(Request::get(path)).await
    }

    /// Sends `request` from a host of its own until it succeeds.
    async fn send(&self, request: Request) -> Result<Value, Violation> {
        let exchanges = self.cluster.exchanges().clone();
        let asked = self.cluster.world().start("poller", move |env| async move {
            let mut client = Client::new(env).noting(exchanges);
            for _ in 0..100 {
                for node in 1..=NODES {
                    match client.send(&http(node), &request).await {
                        Ok(answer) if answer.status.is_success() => return Ok(answer.body),
                        _ => rt::sleep::<SimEnv>(Duration::from_millis(20)).await,
                    }
                }
            }
            Err(Violation::liveness(format!("nobody answers {request:?}")))
        });
        asked.await.map_err(|_| Violation::liveness("the poller did not end"))?
    }

    async fn poll(&self, endpoint: &str, previous: u64, query: &str) -> Result<Poll, Violation> {
        let seconds = Timestamp::from_micros(previous).seconds_f64();
        let body = self.get(format!("/{endpoint}/{seconds}{query}")).await?;
        let offset =
            body["offset"].as_f64().and_then(Timestamp::from_seconds_f64).map(Timestamp::micros);
        let offset =
            offset.ok_or_else(|| Violation::safety(format!("a poll without an offset: {body}")))?;
        let kind = body["snapshot"].as_str().unwrap_or_default().to_owned();
        Ok(Poll { offset, kind, body })
    }

    /// Registers a broker and closes it again: the complete metadata shows it, the live image does not.
    async fn closes_a_broker(&self) -> Result<(), Violation> {
        let body = json!({ "brokerId": 4_000, "brokerHost": "h", "brokerPort": 1 });
        self.send(Request::post("/register_broker", body).keyed("closing-1")).await?;
        let producer = json!({ "brokerId": 4_000 });
        self.send(Request::post("/register_producer", producer).keyed("closing-2")).await?;
        self.send(Request::post("/unregister_broker/4000", json!({})).keyed("closing-3")).await?;
        Ok(())
    }

    /// Ten minutes to the microsecond, on a node whose time stands still between two ticks.
    async fn exact_boundary(&self, endpoint: &str) -> Result<(), Violation> {
        const WINDOW: u64 = 600 * MICROS_PER_SECOND;
        let mut checked = 0;
        for _ in 0..50 {
            let now = self.poll(endpoint, 0, "?consistency=stale").await?.offset;
            for (age, expected) in [(WINDOW, "current"), (WINDOW + 1, "complete")] {
                let poll = self.poll(endpoint, now - age, "?consistency=stale").await?;
                if poll.offset != now {
                    continue; // something happened in between
                }
                checked += 1;
                if poll.kind != expected {
                    let what = format!("{endpoint}: age {age} us gives a {} snapshot", poll.kind);
                    return Err(Violation::safety(what));
                }
            }
            if checked >= 4 {
                return Ok(());
            }
        }
        Err(Violation::liveness("cluster time never stood still between two polls"))
    }

    /// Nobody asks anything for an hour; a poller that looks every five minutes stays current throughout.
    async fn idle_hour(&self) -> Result<(), Violation> {
        let mut offset = self.poll("broker_mgmt", 0, "").await?.offset;
        for _ in 0..6 {
            rt::sleep::<SimEnv>(Duration::from_mins(5)).await;
            let poll = self.poll("broker_mgmt", offset, "").await?;
            if poll.kind != "current" {
                return Err(Violation::safety(format!(
                    "after five idle minutes a {} snapshot came",
                    poll.kind
                )));
            }
            offset = poll.offset;
        }
        rt::sleep::<SimEnv>(Duration::from_mins(30)).await;
        for query in ["", "?mode=diff", "?consistency=stale"] {
            let poll = self.poll("broker_mgmt", offset, query).await?;
            if poll.kind != "complete" {
                let what =
                    format!("after an idle half hour a {} snapshot came ({query})", poll.kind);
                return Err(Violation::safety(what));
            }
        }
        Ok(())
    }

    /// An offset that was never issued gets everything. Such an offset is from the future, in
    /// milliseconds, from before the cluster was founded, or of another history.
    async fn foreign_offset(&self) -> Result<(), Violation> {
        let now = self.poll("client_mgmt", 0, "").await?.offset;
        let foreign = [
            (now + 3_600 * MICROS_PER_SECOND, ""),
            (now * 1_000, ""),
            (1, ""),
            (now, "history=0123456789abcdef"),
        ];
        for (offset, query) in foreign {
            for mode in ["snapshot", "diff"] {
                let query = format!("?mode={mode}&{query}");
                let poll = self.poll("client_mgmt", offset, &query).await?;
                if poll.kind != "complete" {
                    return Err(Violation::safety(format!(
                        "the foreign offset {offset} ({query}) gives {poll:?}"
                    )));
                }
            }
        }
        Ok(())
    }
}

/// What a snapshot of its kind must and must not show.
fn check_contents(endpoint: &str, poll: &Poll) -> Result<(), Violation> {
    let records = &poll.body["records"];
    let brokers = records["RegisterBrokerRecord"].as_array().map(Vec::as_slice).unwrap_or_default();
    let closed = brokers.iter().any(|broker| broker["fields"]["brokerStatus"] == "CLOSED");
    let complete = poll.kind == "complete";
    let changes = records.get("RegistrationChangeBrokerRecord").is_some();
    let producers = records.get("ProducerIdsRecord").is_some();
    let for_brokers = endpoint == "broker_mgmt";
    if closed != complete || changes != (complete && for_brokers) || producers != for_brokers {
        let names: Vec<_> =
            records.as_object().map(|records| records.keys().collect()).unwrap_or_default();
        let what =
            format!("a {} snapshot of {endpoint} shows closed={closed} {names:?}", poll.kind);
        return Err(Violation::safety(what));
    }
    Ok(())
}
