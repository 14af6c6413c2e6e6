//! The leader dies, again and again, now and then with a follower, and comes back soon or late.

use super::{NODES, Run, Workload};
use crate::harness::Violation;

pub(super) async fn play(mut run: Run) -> Result<Run, Violation> {
    run.cluster.form(NODES).await?;
    let workload = Workload::start(&run.cluster, 4, NODES);
    for _ in 0..6 {
        run.pause(100..3_000).await;
        let leader = run.cluster.wait_for_leader().await?;
        let mut felled = vec![leader];
        if run.one_in(3) {
            felled.push(leader % NODES + 1);
        }
        for id in &felled {
            run.fell(*id);
        }
        // Sooner than an election, in the middle of one, or after it.
        run.pause(0..1_500).await;
        for id in felled {
            run.cluster.start(id);
            if run.one_in(3) {
                // It falls again, perhaps while it votes.
                run.pause(0..400).await;
                run.fell(id);
                run.pause(0..400).await;
                run.cluster.start(id);
            }
        }
    }
    run.finish(workload).await
}
