//! Nodes die while they vote, and the new leader in its first moment, before its term is in anyone's log: what they
//! promised is on their disks or nowhere.

use std::time::Duration;

use rand::RngExt;
use rand::seq::SliceRandom;
use yakt::env::rt;

use super::{NODES, Run, Workload};
use crate::env::SimEnv;
use crate::harness::Violation;
use crate::harness::cluster::host;

/// How long an election is waited for; a split one takes longer than this and is as good.
const ELECTION_LIMIT: Duration = Duration::from_millis(1_500);

pub(super) async fn play(mut run: Run) -> Result<Run, Violation> {
    run.cluster.form(NODES).await?;
    let workload = Workload::start(&run.cluster, 2, NODES);
    for _ in 0..8 {
        run.pause(50..500).await;
        for id in 1..=NODES {
            // A vote is on its way to a slow disk for longer than its answer is on its way to the candidate,
            // if the answer does not wait for the disk.
            let latency = if run.one_in(2) { 15_000..60_000 } else { 100..2_000 };
            let latency = Duration::from_micros(latency.start)..Duration::from_micros(latency.end);
            run.cluster.world().disk(&host(id)).set_latency(latency);
        }
        let old = run.cluster.wait_for_leader().await?;
        run.fell(old);
        let new = if run.one_in(2) {
            first_moment(&run).await
        } else {
            // Followers miss a leader after 280 to 400 ms.
            run.pause(270..450).await;
            None
        };
        let mut felled: Vec<_> = run.cluster.running();
        felled.retain(|id| Some(*id) == new || !run.one_in(4));
        for id in &felled {
            run.fell(*id);
        }
        felled.shuffle(&mut run.rng);
        for id in felled.into_iter().filter(|id| Some(*id) != new) {
            let pause = Duration::from_micros(run.rng.random_range(0..20_000));
            rt::sleep::<SimEnv>(pause).await;
            run.cluster.start(id);
        }
        run.cluster.start(old);
        // Whoever was elected stays away until the others have elected again.
        run.cluster.wait_for_leader().await?;
        if let Some(new) = new {
            run.cluster.start(new);
        }
    }
    run.finish(workload).await
}

/// The node that leads, in the very millisecond in which it begins to, or `None` when that takes too long.
async fn first_moment(run: &Run) -> Option<u64> {
    let deadline = rt::now::<SimEnv>() + ELECTION_LIMIT;
    while rt::now::<SimEnv>() < deadline {
        if let Some(leader) = run.cluster.leader() {
            return Some(leader);
        }
        rt::sleep::<SimEnv>(Duration::from_micros(200)).await;
    }
    None
}
