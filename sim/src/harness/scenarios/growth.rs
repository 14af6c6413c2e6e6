//! One node becomes five while clients write and leaders, or those who join, die.

use super::{NODES, Run, Workload};
use crate::harness::Violation;

pub(super) async fn play(mut run: Run) -> Result<Run, Violation> {
    run.cluster.start(1);
    run.cluster.settle(1).await?;
    let workload = Workload::start(&run.cluster, 3, NODES);
    for joiner in 2..=NODES {
        run.pause(100..1_000).await;
        run.cluster.start(joiner);
        run.pause(0..300).await;
        if run.one_in(2)
            && let Some(leader) = run.cluster.leader()
        {
            run.fell(leader);
            run.pause(0..1_500).await;
            run.cluster.start(leader);
        }
        if run.one_in(4) && run.cluster.running().contains(&joiner) {
            run.fell(joiner);
            run.pause(0..500).await;
            run.cluster.start(joiner);
        }
    }
    run.finish(workload).await
}
