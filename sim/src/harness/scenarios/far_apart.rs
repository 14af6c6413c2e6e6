//! Nodes on several continents, with heartbeats for it: leaders stay, leave, die, and are replaced as anywhere else.

use std::time::Duration;

use rand::RngExt;
use yakt::raft::config::{HEARTBEAT_INTERVAL_MAX, RaftOptions};

use super::{NODES, Run, Workload};
use crate::harness::Violation;
use crate::harness::cluster::host;

/// One way between two nodes, in milliseconds, by an eighth more now and then. There and back takes longer than the usual
/// heartbeats allow, and a little less than the longest do.
const AWAY: std::ops::Range<u64> = 25..63;

pub(super) async fn play(run: Run) -> Result<Run, Violation> {
    let options = RaftOptions::DEFAULT.with_heartbeat_interval(HEARTBEAT_INTERVAL_MAX);
    let mut run = run.with_options(options);
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
    for _ in 0..4 {
        let leader = run.cluster.wait_for_leader().await?;
        if run.one_in(2) {
            // It hands over first.
            run.cluster.stop_and_wait(leader).await?;
        } else {
            run.fell(leader);
        }
        run.pause(0..4_000).await;
        run.cluster.start(leader);
        run.pause(1_000..4_000).await;
    }
    run.finish(workload).await
}
