//! The plain case: nothing breaks.

use super::{NODES, Run, Workload};
use crate::harness::Violation;

pub(super) async fn play(mut run: Run) -> Result<Run, Violation> {
    run.cluster.form(NODES).await?;
    let workload = Workload::start(&run.cluster, 3, NODES);
    run.pause(3_000..6_000).await;
    let leaders = run.cluster.watch().leaders();
    let run = run.finish(workload).await?;
    // Nothing happened that could justify an election.
    if run.cluster.watch().leaders() != leaders {
        return Err(Violation::liveness("stability: a healthy cluster elected a new leader"));
    }
    Ok(run)
}
