//! Plays a schedule: each fault is a task of its own, which strikes at its time and mends what it broke (see
//! `strike`).
//!
//! When the schedule's time is over, every fault mends at once what it still holds broken; then everything else is
//! mended too, and the cluster must come to order and serve ([`Run::finish`]). An operator is part of the play: it
//! removes nodes whose disks are lost or rotten and starts new ones in their place, one change at a time.

use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use yakt::env::rt;
use yakt::raft::NodeId;
use yakt::raft::config::RaftOptions;

use super::operator::Operator;
use super::{Schedule, Settings, Target};
use crate::env::SimEnv;
use crate::harness::Violation;
use crate::harness::cluster::{Cluster, host};
use crate::harness::scenarios::Run;
use crate::harness::workload::Workload;
use crate::net::NetConfig;
use crate::world::World;

/// How often the supervisor looks for processes that ended by themselves.
const SUPERVISOR_INTERVAL: Duration = Duration::from_millis(500);

/// How often a fault that lasts looks whether the time is over.
const SLICE: Duration = Duration::from_millis(250);

/// How long faults may take to mend what they broke once the time is over.
const MEND_LIMIT: Duration = Duration::from_mins(1);

impl Settings {
    /// The network that they ask for.
    #[must_use]
    pub fn network(&self) -> NetConfig {
        NetConfig { latency: micros(self.latency_micros), ..NetConfig::default() }
    }

    /// Raft's options that they ask for.
    #[must_use]
    pub fn raft(&self) -> RaftOptions {
        let options = RaftOptions {
            snapshot_entries: self.snapshot_entries,
            log_entries_kept: self.log_entries_kept,
            log_segment_bytes: self.log_segment_bytes,
            snapshot_chunk_bytes: self.snapshot_chunk_bytes,
            ..RaftOptions::DEFAULT
        };
        options.with_heartbeat_interval(Duration::from_millis(self.heartbeat_millis))
    }

    fn set_clocks(&self, world: &World) {
        for (id, (ahead, drift)) in (1..).zip(self.clock_millis.iter().zip(&self.drift_ppm)) {
            jump(world, id, *ahead);
            world.clock(&host(id)).set_drift_ppm(*drift);
        }
    }
}

pub(super) fn micros((low, high): (u64, u64)) -> std::ops::Range<Duration> {
    Duration::from_micros(low)..Duration::from_micros(high)
}

pub(super) fn jump(world: &World, id: NodeId, millis: i64) {
    let by = Duration::from_millis(millis.unsigned_abs());
    let clock = world.clock(&host(id));
    if millis < 0 { clock.jump_back(by) } else { clock.jump_forward(by) }
}

/// Plays `schedule` in `run`, whose world and cluster were made as its settings ask for.
///
/// # Errors
///
/// The first violation.
pub async fn play(run: Run, schedule: Schedule) -> Result<Run, Violation> {
    let Schedule { settings, faults, clients, .. } = schedule;
    let cluster = run.cluster.clone();
    for id in 1..=cluster.size() {
        cluster.world().disk(&host(id)).set_latency(micros(settings.disk_micros));
    }
    cluster.form(cluster.size()).await?;
    let begun = rt::now::<SimEnv>();
    let over = begun + Duration::from_millis(settings.duration_millis);
    let stage = Stage {
        cluster: cluster.clone(),
        operator: Operator::new(cluster.clone()),
        settings: Arc::new(settings),
        crowds: Arc::default(),
        majority_time: Arc::default(),
        over,
    };
    // Cluster time may be where the clocks were before they were set.
    stage.majority_time();
    stage.settings.set_clocks(cluster.world());
    let attendants = [
        madsim::task::spawn(stage.clone().supervise()),
        madsim::task::spawn(stage.clone().replace_rotten()),
        madsim::task::spawn(stage.clone().probe()),
        madsim::task::spawn(stage.clone().watch_time()),
    ];
    let workload = Workload::play(&cluster, clients);
    let playing: Vec<_> = faults
        .into_iter()
        .map(|planned| madsim::task::spawn(stage.clone().act(begun, planned)))
        .collect();
    stage.sleep_until_over().await?;
    stage.mend();
    let mended = async {
        for fault in playing {
            drop(fault.await);
        }
    };
    if rt::timeout::<SimEnv, _>(MEND_LIMIT, mended).await.is_none() && !cluster.is_unrecoverable() {
        let what =
            format!("operations: {} did not end{}", stage.operator.busy_with(), cluster.beliefs());
        return Err(Violation::liveness(what));
    }
    stage.operator.replace_rotten().await;
    let finished = run.finish(workload).await;
    attendants.iter().for_each(madsim::task::JoinHandle::abort);
    finished
}

/// Where a schedule is played.
#[derive(Clone)]
pub(super) struct Stage {
    pub(super) cluster: Cluster,
    pub(super) operator: Operator,
    pub(super) settings: Arc<Settings>,
    /// How many crowds of clients have come: each is a host of its own.
    crowds: Arc<AtomicU64>,
    /// The latest time that the clocks of a majority have reached, and when that was computed.
    pub(super) majority_time: Arc<Mutex<Option<(Duration, rt::Instant<SimEnv>)>>>,
    /// When the faults end.
    pub(super) over: rt::Instant<SimEnv>,
}

impl Stage {
    pub(super) fn is_over(&self) -> bool {
        rt::now::<SimEnv>() >= self.over
    }

    /// Lets `millis` pass, or what is left of the time.
    pub(super) async fn last(&self, millis: u64) {
        let until = self.over.min(rt::now::<SimEnv>() + Duration::from_millis(millis));
        let left = until.saturating_duration_since(rt::now::<SimEnv>());
        rt::sleep::<SimEnv>(left).await;
    }

    /// Waits until the time is over, or a promise is broken.
    async fn sleep_until_over(&self) -> Result<(), Violation> {
        while !self.is_over() {
            if let Some(violation) = self.cluster.watch().violation() {
                return Err(violation);
            }
            let left = self.over.saturating_duration_since(rt::now::<SimEnv>());
            rt::sleep::<SimEnv>(left.min(SLICE)).await;
        }
        Ok(())
    }

    pub(super) fn next_crowd(&self) -> u64 {
        self.crowds.fetch_add(1, Ordering::Relaxed)
    }

    pub(super) fn world(&self) -> &World {
        self.cluster.world()
    }

    pub(super) fn resolve(&self, target: Target) -> NodeId {
        let size = self.cluster.size();
        let leader = self.cluster.leader().unwrap_or(1);
        match target {
            Target::Node(id) => (id.max(1) - 1) % size + 1,
            Target::Leader => leader,
            Target::Follower(behind) => (leader - 1 + behind) % size + 1,
        }
    }

    pub(super) fn note(&self, kind: &str, node: Option<NodeId>, text: impl FnOnce() -> String) {
        self.cluster.watch().recorder().note(node.map(host), kind, text);
    }

    /// Starts processes that ended by themselves.
    async fn supervise(self) {
        loop {
            rt::sleep::<SimEnv>(SUPERVISOR_INTERVAL).await;
            for id in self.cluster.take_ended() {
                self.cluster.start(id);
            }
        }
    }

    /// Has rotten nodes replaced. Apart from the supervisor, whose processes a replacement may need.
    async fn replace_rotten(self) {
        loop {
            rt::sleep::<SimEnv>(SUPERVISOR_INTERVAL).await;
            self.operator.replace_rotten().await;
        }
    }

    /// Mends all that nobody else does.
    fn mend(&self) {
        self.world().net().heal();
        self.world().net().reset_latencies();
        self.note("heal", None, || "the faults are over".to_owned());
        for id in 1..=self.cluster.size() {
            self.world().disk(&host(id)).set_latency(micros(self.settings.disk_micros));
        }
    }
}
