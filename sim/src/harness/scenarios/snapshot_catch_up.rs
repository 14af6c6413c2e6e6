//! A node is away until the others have purged what it lacks.

use yakt::env::rt;
use yakt::raft::config::RaftOptions;

use super::{NODES, Run, Workload};
use crate::env::SimEnv;
use crate::harness::Violation;

/// Snapshots early and often, in chunks so small that every snapshot takes many.
const OPTIONS: RaftOptions = RaftOptions {
    snapshot_entries: 120,
    log_entries_kept: 20,
    snapshot_chunk_bytes: 1_000,
    ..RaftOptions::DEFAULT
};

pub(super) async fn play(run: Run) -> Result<Run, Violation> {
    let mut run = run.with_options(OPTIONS);
    run.cluster.form(NODES).await?;
    let workload = Workload::start(&run.cluster, 6, NODES);
    for _ in 0..2 {
        run.pause(200..1_000).await;
        let leader = run.cluster.wait_for_leader().await?;
        let away = if run.one_in(3) { leader } else { leader % NODES + 1 };
        let last = run.cluster.applied(away).map_or(0, |id| id.index());
        run.fell(away);
        wait_for_purge(&run, last).await?;
        run.cluster.start(away);
        if run.one_in(2) {
            // It falls while it receives or installs.
            run.pause(0..600).await;
            run.fell(away);
            run.pause(0..600).await;
            run.cluster.start(away);
        }
        run.pause(500..2_000).await;
    }
    let run = run.finish(workload).await?;
    if run.cluster.watch().installs() == 0 {
        return Err(Violation::liveness(
            "reach: nobody was sent a snapshot, the scenario shows nothing",
        ));
    }
    Ok(run)
}

/// Waits until no running node has entry `last + 1` any more.
async fn wait_for_purge(run: &Run, last: u64) -> Result<(), Violation> {
    let deadline = rt::now::<SimEnv>() + std::time::Duration::from_mins(1);
    loop {
        let running = run.cluster.running();
        if running.iter().all(|id| run.cluster.watch().purged(*id) > last) {
            return Ok(());
        }
        if rt::now::<SimEnv>() > deadline {
            return Err(Violation::liveness(format!(
                "the log was not purged past {last}:{}",
                run.cluster.beliefs()
            )));
        }
        rt::sleep::<SimEnv>(std::time::Duration::from_millis(100)).await;
    }
}
