//! The power of the whole room fails, in the middle of writes, and what was not synced is lost or torn.

use std::ops::Range;
use std::time::Duration;

use rand::RngExt;
use rand::seq::SliceRandom;

use super::{NODES, Run, Workload};
use crate::disk::{CrashMode, FaultKind};
use crate::harness::Violation;
use crate::harness::cluster::host;

/// Operations on a disk within which its power fails: a commit has about ten.
const OPERATIONS_LEFT_MAX: u64 = 40;

/// How long a slow disk takes: longer than the network, so that what is acknowledged before it is on the
/// disk is still not there when the power fails.
const SLOW: Range<Duration> = Duration::from_millis(20)..Duration::from_millis(80);

/// How long a fast disk takes.
const FAST: Range<Duration> = Duration::from_micros(100)..Duration::from_millis(2);

pub(super) async fn play(mut run: Run) -> Result<Run, Violation> {
    run.cluster.form(NODES).await?;
    let workload = Workload::start(&run.cluster, 5, NODES);
    for _ in 0..3 {
        let (all_slow, fuses) = (run.one_in(2), run.one_in(2));
        for id in 1..=NODES {
            let slow = all_slow || run.one_in(2);
            run.cluster.world().disk(&host(id)).set_latency(if slow { SLOW } else { FAST });
        }
        run.pause(300..3_000).await;
        // Some disks lose power at an operation of their own, as likely as not inside a commit; whatever
        // has not by then loses it with the rest.
        for id in 1..=NODES {
            if fuses && run.one_in(2) {
                let left = run.rng.random_range(0..OPERATIONS_LEFT_MAX);
                run.cluster.begin_failing(id);
                run.cluster.world().disk(&host(id)).fail_after(left, FaultKind::PowerLoss);
            }
        }
        run.pause(0..100).await;
        for id in 1..=NODES {
            run.cluster.crash(id, CrashMode::Any);
        }
        run.pause(0..2_000).await;
        let mut order: Vec<_> = (1..=NODES).collect();
        order.shuffle(&mut run.rng);
        for id in order {
            run.pause(0..500).await;
            run.cluster.start(id);
        }
        run.cluster.wait_for_leader().await?;
    }
    run.finish(workload).await
}
