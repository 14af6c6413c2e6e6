//! Nodes on several continents, with heartbeats for it: leaders stay, die, and are replaced as anywhere else.

use std::time::Duration;

use rand::RngExt;
use yakt::raft::config::RaftOptions;

use super::{NODES, Run, Workload};
use crate::harness::Violation;
use crate::harness::cluster::host;

/// One way between two nodes, in milliseconds: with the usual heartbeats such a cluster takes no writes.
const AWAY: std::ops::Range<u64> = 30..100;

/// More than the longest round trip.
const HEARTBEAT_INTERVAL: Duration = Duration::from_millis(250);

pub(super) async fn play(run: Run) -> Result<Run, Violation> {
    let mut run =
        run.with_options(RaftOptions::DEFAULT.with_heartbeat_interval(HEARTBEAT_INTERVAL));
    let net = run.cluster.world().net().clone();
    for (one, other) in (1..=NODES).flat_map(|one| (1..one).map(move |other| (one, other))) {
        let away = Duration::from_millis(run.rng.random_range(AWAY));
        let latency = away..away + away / 8;
        net.set_latency(&host(one), &host(other), latency.clone());
        net.set_latency(&host(other), &host(one), latency);
    }
    run.cluster.form(NODES).await?;
    let workload = Workload::start(&run.cluster, 3, NODES);
    let leaders = run.cluster.watch().leaders();
    run.pause(5_000..20_000).await;
    if run.cluster.watch().leaders() != leaders {
        return Err(Violation::liveness("stability: a healthy cluster elected a new leader"));
    }
    for _ in 0..2 {
        let leader = run.cluster.wait_for_leader().await?;
        run.fell(leader);
        run.pause(0..6_000).await;
        run.cluster.start(leader);
        run.pause(1_000..4_000).await;
    }
    run.finish(workload).await
}
