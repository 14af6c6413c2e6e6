//! Directories that return to an earlier moment, damage in the last record of a log, and clocks
//! that are years off. A client also asks every node whether it is ready, and then tests whether
//! that is true.

use std::collections::BTreeMap;
use std::sync::PoisonError;
use std::time::Duration;

use yakt::env::rt;
use yakt::node::CLOCK_LEAD_MAX;
use yakt::raft::NodeId;

use super::play::{Stage, jump};
use crate::disk::CrashMode;
use crate::env::SimEnv;
use crate::harness::Violation;
use crate::harness::client::{Client, Request};
use crate::harness::cluster::{host, http};
use crate::harness::coverage::Site;

/// Pause between two questions to a node.
const PROBE_INTERVAL: Duration = Duration::from_secs(2);

/// The same in heartbeat intervals, where these are long and runs last for hours.
const PROBE_HEARTBEATS: u64 = 50;

/// Wrong answers in a row that a node may give: the state that it knows may be over a moment later.
const WRONG_ANSWERS_MAX: u32 = 3;

/// Pause between two looks at cluster time.
const TIME_LOOK_INTERVAL: Duration = Duration::from_millis(500);

/// How far cluster time may be ahead of the clocks of a majority, beyond [`CLOCK_LEAD_MAX`]. The
/// reasons are the drift of clocks, and clocks that jump back.
const TIME_SLACK: Duration = Duration::from_secs(10);

impl Stage {
    /// Puts the directories of `count` nodes back to their contents of `age` milliseconds before. If
    /// `alone` is 0, the other nodes keep running. Otherwise they are killed too, and start `alone`
    /// milliseconds after the restored nodes.
    ///
    /// A restored majority that runs alone elects a leader, which writes different entries at indices
    /// that the others have applied. Nodes that kept running would win the election, because their
    /// logs are longer.
    pub(super) async fn restore(&self, first: NodeId, count: u64, age: u64, down: u64, alone: u64) {
        let size = self.cluster.size();
        let ids: Vec<_> = (0..count.min(size)).map(|step| (first - 1 + step) % size + 1).collect();
        let is_sound = || ids.iter().all(|id| self.cluster.is_sound(*id));
        if !is_sound() {
            return;
        }
        let backup = |id: NodeId| self.world().disk(&format!("backup-{id}"));
        let generations: Vec<_> = ids.iter().map(|id| self.cluster.generation(*id)).collect();
        for id in &ids {
            backup(*id).copy_from(&self.world().disk(&host(*id)));
        }
        self.last(age).await;
        let same = ids.iter().map(|id| self.cluster.generation(*id)).eq(generations);
        if self.is_over() || !same || !is_sound() {
            return;
        }
        let others = (1..=size).filter(|id| alone > 0 && !ids.contains(id));
        let others: Vec<_> = others.collect();
        for id in ids.iter().chain(&others) {
            self.cluster.hold(*id);
            self.cluster.kill(*id);
        }
        for id in &ids {
            self.world().disk(&host(*id)).copy_from(&backup(*id));
            self.cluster.relapse(*id);
        }
        self.cluster.watch().coverage().fire(Site::Restored);
        self.last(down).await;
        for id in &ids {
            self.cluster.release(*id);
        }
        self.last(alone).await;
        for id in &others {
            self.cluster.release(*id);
        }
    }

    /// A power loss, after which the last record of the log is found damaged.
    pub(super) async fn damage_tail(&self, id: NodeId, down: u64) {
        if !self.cluster.is_sound(id) {
            return;
        }
        self.cluster.hold(id);
        self.cluster.crash(id, CrashMode::LoseUnsynced);
        if self.world().disk(&host(id)).rot_tail(&mut self.world().fork_rng()) {
            self.cluster.begin_rotten(id);
            self.cluster.relapse(id);
            self.cluster.watch().coverage().fire(Site::TailDamaged);
        }
        self.last(down).await;
        self.cluster.release(id);
    }

    /// A clock is wrong by `seconds` for a while.
    pub(super) async fn wrong_clock(&self, id: NodeId, seconds: i64, length: u64) {
        self.note("clock", Some(id), || format!("the clock is {seconds} s off"));
        self.jump(id, seconds * 1_000);
        self.last(length).await;
        self.jump(id, -seconds * 1_000);
        self.note("clock", Some(id), || "the clock is set".to_owned());
    }

    /// Asks each node whether it is ready, and then to serve a linearizable read. A node that
    /// several times in a row says yes and serves nothing lies.
    pub(super) async fn probe(self) {
        let cluster = self.cluster.clone();
        let heartbeats = Duration::from_millis(self.settings.heartbeat_millis * PROBE_HEARTBEATS);
        let pause = PROBE_INTERVAL.max(heartbeats);
        let probing = self.world().start("probe", move |env| async move {
            let mut client = Client::new(env);
            let mut wrong: BTreeMap<NodeId, u32> = BTreeMap::new();
            loop {
                for id in 1..=cluster.size() {
                    let ready = client.send(&http(id), &Request::get("/readyz")).await;
                    let ready = ready.is_ok_and(|answer| answer.status.is_success());
                    let read = Request::get("/get_active_brokers");
                    let refused = ready
                        && client
                            .send(&http(id), &read)
                            .await
                            .is_ok_and(|answer| matches!(answer.status.as_u16(), 503 | 504));
                    let wrong = wrong.entry(id).or_default();
                    *wrong = if refused { *wrong + 1 } else { 0 };
                    if *wrong > WRONG_ANSWERS_MAX {
                        cluster.watch().report(Violation::safety(format!(
                            "readiness: node {id} says that it is ready, and refuses every read"
                        )));
                    }
                }
                rt::sleep::<SimEnv>(pause).await;
            }
        });
        drop(probing.await);
    }

    /// Lets the clock of node `id` jump.
    pub(super) fn jump(&self, id: NodeId, millis: i64) {
        self.majority_time();
        jump(self.world(), id, millis);
        self.majority_time();
    }

    /// The latest time that the clocks of a majority of the voters have reached, gone on since.
    ///
    /// Must be called before and after each jump, because nodes remember a clock that was right for
    /// a moment. All memberships since the last call count, also that of a voter that was alone for
    /// a moment.
    pub(super) fn majority_time(&self) -> Duration {
        let now = rt::now::<SimEnv>();
        let mut reached = self.majority_time.lock().unwrap_or_else(PoisonError::into_inner);
        let mut time = reached.map_or(Duration::ZERO, |(time, at)| time + (now - at));
        let since = reached.map_or(now, |(_, at)| at);
        for voters in self.cluster.watch().voters_since(now - since) {
            let mut clocks: Vec<_> =
                voters.iter().map(|id| self.world().clock(&host(*id)).now()).collect();
            clocks.sort_unstable_by(|a, b| b.cmp(a));
            time = time.max(clocks.get(clocks.len() / 2).copied().unwrap_or_default());
        }
        *reached = Some((time, now));
        time
    }

    /// Checks that cluster time follows the clocks of a majority and no others.
    pub(super) async fn watch_time(self) {
        loop {
            let bound = self.majority_time();
            let limit = bound + CLOCK_LEAD_MAX + TIME_SLACK;
            for id in self.cluster.running() {
                let Some(image) = self.cluster.node(id).and_then(|node| node.image()) else {
                    continue;
                };
                let stamp = Duration::from_micros(image.state.last_stamp().micros());
                if stamp > limit {
                    self.cluster.watch().report(Violation::safety(format!(
                        "cluster time: node {id} is at {stamp:?}, and a majority's clocks at {bound:?}"
                    )));
                    return;
                }
            }
            rt::sleep::<SimEnv>(TIME_LOOK_INTERVAL).await;
        }
    }
}
