//! The name service goes away. Meanwhile leaders die and connections break, and the cluster goes
//! on.

use std::time::Duration;

use rand::RngExt;
use yakt::env::rt;

use super::{NODES, Run, Workload};
use crate::env::SimEnv;
use crate::harness::Violation;
use crate::harness::cluster::host;

/// How long the nodes run before the outage. Nodes look up the names of new members at once.
const BEFORE_MILLIS: std::ops::Range<u64> = 100..15_000;

/// How long the cluster may be without a leader: elections take half a second.
const ELECTION_LIMIT: Duration = Duration::from_secs(10);

pub(super) async fn play(run: Run) -> Result<Run, Violation> {
    // A node that is told where all are looks all of them up by itself.
    let mut run = Run { cluster: run.cluster.knowing_founder_only(true), ..run };
    run.cluster.form(NODES).await?;
    let workload = Workload::start(&run.cluster, 3, NODES);
    run.pause(BEFORE_MILLIS).await;
    let hangs = run.one_in(2);
    for id in 1..=NODES {
        run.cluster.world().net().fail_names(&host(id), hangs);
    }
    let mut dead = Vec::new();
    for _ in 0..2 {
        run.pause(0..3_000).await;
        let leader = run.cluster.wait_for_leader().await?;
        run.fell(leader);
        dead.push(leader);
        wait_for_leader(&run).await?;
        // Every connection between two survivors breaks: all have to be made anew.
        run.pause(0..1_000).await;
        for one in 1..=NODES {
            for other in (1..one).filter(|other| !dead.contains(other) && !dead.contains(&one)) {
                run.cluster.world().net().reset_connections(&host(one), &host(other));
            }
        }
        run.pause(0..2_000).await;
        wait_for_leader(&run).await?;
    }
    for id in 1..=NODES {
        run.cluster.world().net().restore_names(&host(id));
    }
    let first = run.rng.random_range(0..dead.len());
    dead.swap(0, first);
    for id in dead {
        run.cluster.start(id);
        run.pause(0..2_000).await;
    }
    run.finish(workload).await
}

/// Waits for a leader that a majority follows.
async fn wait_for_leader(run: &Run) -> Result<(), Violation> {
    let deadline = rt::now::<SimEnv>() + ELECTION_LIMIT;
    loop {
        // A leader that lost its connections a moment ago still believes that it leads. The other
        // nodes have to believe so too.
        let running = run.cluster.running();
        let known = running.iter().filter_map(|id| run.cluster.node(*id)?.status().leader);
        let known: Vec<_> = known.collect();
        let agreed = known.len() == running.len() && known.windows(2).all(|two| two[0] == two[1]);
        if agreed && known.iter().all(|leader| running.contains(leader)) {
            return Ok(());
        }
        if let Some(violation) = run.cluster.watch().violation() {
            return Err(violation);
        }
        if rt::now::<SimEnv>() > deadline {
            let beliefs = run.cluster.beliefs();
            return Err(Violation::liveness(format!(
                "names: nobody leads {ELECTION_LIMIT:?} after a leader died while names do not resolve{beliefs}"
            )));
        }
        rt::sleep::<SimEnv>(Duration::from_millis(50)).await;
    }
}
