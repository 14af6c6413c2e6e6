//! What each fault does, and how it mends it.

use std::time::Duration;

use futures_util::StreamExt;
use futures_util::stream::FuturesUnordered;
use yakt::env::rt;
use yakt::raft::NodeId;

use super::cut::links;
use super::play::{Stage, micros};
use super::{Cut, DiskFault, Fault, Loss, Planned, Target};
use crate::disk::{CrashMode, FaultKind, SimDisk};
use crate::env::SimEnv;
use crate::harness::cluster::host;
use crate::harness::coverage::Site;
use crate::harness::workload;

/// How long a power failure in the middle of a write may wait for that write.
const WRITE_LIMIT: Duration = Duration::from_secs(5);

/// How long a power loss waits for a write to fall into.
const IDLE_LIMIT: Duration = Duration::from_millis(200);

/// Writes that are asked for just before a power loss.
const CROWD_AT_CRASH: u64 = 6;

/// How long a reset waits for a frame to fall into: a few heartbeats.
const FRAME_LIMIT: Duration = Duration::from_millis(300);

/// How long the reset of a client waits for it to ask: clients pause, and have other nodes to ask.
const REQUEST_LIMIT: Duration = Duration::from_secs(2);

/// How often they look.
const FRAME_LOOK_INTERVAL: Duration = Duration::from_millis(1);

/// How long an operator asks for a removal that is not urgent.
pub(super) const REMOVAL_LIMIT: Duration = Duration::from_secs(20);

/// How long a node that is part of a rolling restart may take to be ready before the next one is stopped.
const READY_LIMIT: Duration = Duration::from_secs(10);

fn around(millis: u64) -> std::ops::Range<Duration> {
    Duration::from_millis(millis / 4)..Duration::from_millis(millis)
}

impl Loss {
    pub(super) fn mode(self) -> CrashMode {
        match self {
            Self::Unsynced => CrashMode::LoseUnsynced,
            Self::Nothing => CrashMode::KeepUnsynced,
            Self::Prefix => CrashMode::Prefix,
            Self::Reordered => CrashMode::Reordered,
            Self::Torn => CrashMode::Torn,
        }
    }
}

impl DiskFault {
    fn kind(self) -> FaultKind {
        match self {
            Self::Read => FaultKind::ReadError,
            Self::Write => FaultKind::WriteError,
            Self::Sync => FaultKind::SyncError,
            Self::Full => FaultKind::NoSpace,
        }
    }
}

impl Stage {
    /// Lets `planned` happen at its time.
    pub(super) async fn act(self, begun: rt::Instant<SimEnv>, planned: Planned) {
        let at = begun + Duration::from_millis(planned.at);
        rt::sleep::<SimEnv>(at.saturating_duration_since(rt::now::<SimEnv>())).await;
        if !self.is_over() {
            self.strike(planned.fault).await;
        }
    }

    #[expect(clippy::too_many_lines, reason = "a table: each fault, and the function that does it")]
    async fn strike(&self, fault: Fault) {
        let node = |target| self.resolve(target);
        match fault {
            Fault::Kill { target, down } => self.kill(node(target), down).await,
            Fault::Stop { target, down } => self.stop(node(target), down).await,
            Fault::RollingRestart { down } => self.rolling_restart(down).await,
            Fault::Crash { target, loss, down } => self.crash(&[node(target)], loss, down).await,
            Fault::CrashInWrite { target, writes, loss, down } => {
                self.crash_in_write(node(target), writes, loss, down).await;
            }
            Fault::CrashMany { first, count, loss, down } => {
                let size = self.cluster.size();
                let nth = |step| (first - 1 + step) % size + 1;
                let felled: Vec<NodeId> = (0..count.min(size)).map(nth).collect();
                self.crash(&felled, loss, down).await;
            }
            Fault::CrashLoop { target, loss, times, up, down } => {
                let id = node(target);
                for _ in 0..times {
                    self.crash(&[id], loss, down).await;
                    self.last(up).await;
                }
            }
            Fault::Pause { target, length } => self.pause(node(target), length).await,
            Fault::PauseClient { client, length } => {
                let client = workload::host(client);
                self.world().pause(&client);
                self.last(length).await;
                self.world().resume(&client);
            }
            Fault::CutClient { client, target, deaf, length } => {
                self.cut_client(client, node(target), deaf, length).await;
            }
            Fault::ResetClient { client, target } => {
                self.reset_client(client, node(target)).await;
            }
            Fault::Cut { target, cut, length } => self.cut(node(target), cut, length).await,
            Fault::Contest { first, second, crowd, purged } => {
                self.contest((first, second), crowd, purged).await;
            }
            Fault::Belated { latency, writes, gap } => {
                self.belated(latency, writes, gap).await;
            }
            Fault::Flap { from, to, times, on, off } => {
                self.flap((node(from), node(to)), times, on, off).await;
            }
            Fault::SlowLink { from, to, latency, length } => {
                let (from, to) = (host(node(from)), host(node(to)));
                self.slow(&[(from.clone(), to.clone()), (to, from)], latency, length).await;
            }
            Fault::SlowNode { target, latency, length } => {
                self.slow_node(node(target), latency, length).await;
            }
            Fault::Reset { a, b } => self.reset(node(a), node(b)).await,
            Fault::Disk { target, fault, length } => {
                self.fail_disk(node(target), fault, length).await;
            }
            Fault::Descriptors { target, length } => self.exhaust(node(target), length).await,
            Fault::SlowDisk { target, latency, length } => {
                self.slow_disk(node(target), latency, length).await;
            }
            Fault::Rot { target, bits, down } => self.rot(node(target), bits, down).await,
            Fault::Restore { first, count, age, down, alone } => {
                self.restore(first, count, age, down, alone).await;
            }
            Fault::DamageTail { target, down } => self.damage_tail(node(target), down).await,
            Fault::WrongClock { target, seconds, length } => {
                self.wrong_clock(node(target), seconds, length).await;
            }
            Fault::Jump { target, millis } => self.jump_clock(node(target), millis),
            Fault::LameDuck { target, gap, after } => {
                self.lame_duck(node(target), gap, after).await;
            }
            Fault::Namesake { target, grown, down } => {
                self.namesake(node(target), grown, down).await;
            }
            Fault::Lose { target, down } => self.lose(node(target), down).await,
            Fault::Remove { target, away, wiped, again, unheard } => {
                let id = node(target);
                self.remove(id, away, wiped).await;
                self.fall_on_return(id, again, unheard).await;
            }
            Fault::Outrun { target, away, back, disk } => {
                self.outrun(node(target), (away, back), disk).await;
            }
            Fault::Move { target, down } => self.relocate(node(target), down).await,
            Fault::Swap { a, b, down } => self.swap(node(a), node(b), down).await,
            Fault::Misplace { target, length, lost } => {
                self.misplace(node(target), lost, length).await;
            }
            Fault::Copy { target, unseen, headless } => {
                self.copy(node(target), unseen, headless).await;
            }
            Fault::FailNames { hangs, kill, gap, length } => {
                self.fail_names(hangs, kill, gap, length).await;
            }
            Fault::BlackHole { target, bytes, length } => {
                self.black_hole(node(target), bytes, length).await;
            }
            Fault::Refuse { target, by_all, length } => {
                self.refuse(node(target), by_all, length).await;
            }
            Fault::Transfer { to } => self.operator.transfer(node(Target::Node(to))).await,
            Fault::Snapshot { target } => self.operator.snapshot(node(target)).await,
            Fault::CrashInPurge { target, writes, loss, down } => {
                self.crash_in_purge(node(target), writes, loss, down).await;
            }
            Fault::RejoinAtElection { target, wiped, down } => {
                self.rejoin_at_election(node(target), wiped, down).await;
            }
            Fault::ReadersAtElection { readers, down } => {
                self.readers_at_election(readers, down).await;
            }
            Fault::RotLive { target, bits } => self.rot_live(node(target), bits),
        }
    }

    fn jump_clock(&self, id: NodeId, millis: i64) {
        self.note("clock", Some(id), || format!("the clock jumps by {millis} ms"));
        self.jump(id, millis);
    }

    /// Power losses, all at once. Half of them come when somebody has just asked for writes, and strike as soon as one of
    /// the nodes begins to: a disk that nobody writes to has nothing to lose.
    async fn crash(&self, felled: &[NodeId], loss: Loss, down: u64) {
        for id in felled {
            self.cluster.hold(*id);
        }
        let disks: Vec<_> = felled.iter().map(|id| self.world().disk(&host(*id))).collect();
        let mut writes = None;
        if self.world().draw().is_multiple_of(2) {
            writes = Some(self.crowd(self.resolve(Target::Leader), CROWD_AT_CRASH));
            let mut busy: FuturesUnordered<_> = disks.iter().map(SimDisk::busy).collect();
            rt::timeout::<SimEnv, _>(IDLE_LIMIT, busy.next()).await;
        }
        for id in felled {
            self.cluster.crash(*id, loss.mode());
        }
        self.last(down).await;
        for id in felled {
            self.cluster.release(*id);
        }
        if let Some(writes) = writes {
            drop(writes.await);
        }
    }

    async fn flap(&self, (from, to): (NodeId, NodeId), times: u64, on: u64, off: u64) {
        self.note("network", Some(from), || format!("the link to n{to} comes and goes"));
        for _ in 0..times {
            self.world().net().block(&host(from), &host(to));
            self.last(off).await;
            self.world().net().unblock(&host(from), &host(to));
            self.last(on).await;
        }
    }

    async fn slow_node(&self, id: NodeId, latency: u64, length: u64) {
        let others = (1..=self.cluster.size()).filter(|other| *other != id).map(host);
        let links: Vec<_> =
            others.flat_map(|other| [(host(id), other.clone()), (other, host(id))]).collect();
        self.begin_slow_disk(id, latency);
        self.slow(&links, latency, length).await;
        self.outlast_slow_disk(id, latency).await;
    }

    async fn slow_disk(&self, id: NodeId, latency: u64, length: u64) {
        self.begin_slow_disk(id, latency);
        self.last(length).await;
        self.outlast_slow_disk(id, latency).await;
    }

    /// Mends the disk, and waits for the accesses that were under way: they take as long as the disk
    /// took when they began. The node may stand still until then, and a leader lose its term.
    async fn outlast_slow_disk(&self, id: NodeId, latency: u64) {
        self.world().disk(&host(id)).set_latency(micros(self.settings.disk_micros));
        rt::sleep::<SimEnv>(around(latency).end).await;
        self.end_slow_disk(id);
    }

    pub(super) fn begin_slow_disk(&self, id: NodeId, latency: u64) {
        self.cluster.begin_slow(id);
        self.note("disk", Some(id), || format!("the disk takes up to {latency} ms"));
        self.world().disk(&host(id)).set_latency(around(latency));
    }

    pub(super) fn end_slow_disk(&self, id: NodeId) {
        self.cluster.end_slow(id);
        self.world().disk(&host(id)).set_latency(micros(self.settings.disk_micros));
    }

    /// Resets the connections between two nodes, in the middle of a frame if one comes soon.
    async fn reset(&self, a: NodeId, b: NodeId) {
        let under_way = self.reset_connections(&host(a), &host(b), FRAME_LIMIT).await;
        self.cluster.watch().coverage().reach(Site::ResetMidFrame, under_way);
        self.note("network", Some(a), || format!("connections with n{b} are reset"));
    }

    async fn reset_client(&self, client: usize, id: NodeId) {
        let client = workload::host(client);
        let under_way = self.reset_connections(&client, &host(id), REQUEST_LIMIT).await;
        self.cluster.watch().coverage().reach(Site::ClientReset, under_way);
        self.note("network", Some(id), || format!("connections with {client} are reset"));
    }

    /// Resets the connections between two hosts as soon as something is under way, at last after `limit`. Says whether
    /// something was.
    async fn reset_connections(&self, a: &str, b: &str, limit: Duration) -> bool {
        let deadline = rt::now::<SimEnv>() + limit;
        while !self.world().net().is_busy_between(a, b) && rt::now::<SimEnv>() < deadline {
            rt::sleep::<SimEnv>(FRAME_LOOK_INTERVAL).await;
        }
        self.world().net().reset_connections(a, b)
    }

    async fn cut_client(&self, client: usize, id: NodeId, deaf: bool, length: u64) {
        let (client, node) = (workload::host(client), host(id));
        let links = [(&node, &client), (&client, &node)];
        let links = if deaf { &links[..1] } else { &links[..] };
        self.note("network", Some(id), || format!("{client} is cut off, deaf: {deaf}"));
        for (from, to) in links {
            self.world().net().block(from, to);
        }
        self.last(length).await;
        for (from, to) in links {
            self.world().net().unblock(from, to);
        }
        self.note("heal", Some(id), || format!("{client} is back"));
    }

    pub(super) async fn lose(&self, id: NodeId, down: u64) {
        self.cluster.hold(id);
        self.cluster.destroy(id);
        self.last(down).await;
        self.operator.replace(id).await;
    }

    pub(super) async fn kill(&self, id: NodeId, down: u64) {
        self.cluster.hold(id);
        self.cluster.kill(id);
        self.last(down).await;
        self.cluster.release(id);
    }

    async fn stop(&self, id: NodeId, down: u64) {
        self.cluster.hold(id);
        if let Err(violation) = self.cluster.stop_and_wait(id).await {
            // A node that stands still or waits for its disk cannot stop either; a supervisor kills it.
            self.note("note", Some(id), || violation.what.clone());
            self.cluster.kill(id);
        }
        self.last(down).await;
        self.cluster.release(id);
    }

    async fn rolling_restart(&self, down: u64) {
        for id in 1..=self.cluster.size() {
            self.stop(id, down).await;
            let ready = || match self.cluster.node(id) {
                Some(node) if node.is_ready() || self.is_over() => Ok(()),
                _ if self.is_over() => Ok(()),
                _ => Err("not ready".to_owned()),
            };
            // As an operator in a hurry would, it goes on after a while all the same.
            drop(self.cluster.wait_for(READY_LIMIT, ready).await);
        }
    }

    async fn crash_in_write(&self, id: NodeId, writes: u64, loss: Loss, down: u64) {
        let struck = self.lose_power_in_write(id, writes, WRITE_LIMIT, loss, down).await;
        self.cluster.watch().coverage().reach(Site::PowerLossInCommit, struck);
    }

    /// Node `id` loses power in its write number `writes` from now on, or after `limit`, and is
    /// back after `down`. Says whether it was in that write.
    pub(super) async fn lose_power_in_write(
        &self,
        id: NodeId,
        writes: u64,
        limit: Duration,
        loss: Loss,
        down: u64,
    ) -> bool {
        let disk = self.world().disk(&host(id));
        self.cluster.hold(id);
        self.cluster.begin_failing(id);
        disk.fail_after(writes, FaultKind::PowerLoss);
        let struck = rt::timeout::<SimEnv, _>(limit, disk.power_failed()).await.is_some();
        self.cluster.crash(id, loss.mode());
        self.cluster.end_failing(id);
        self.last(down).await;
        self.cluster.release(id);
        struck
    }

    async fn pause(&self, id: NodeId, length: u64) {
        let leads = self.cluster.leader() == Some(id);
        self.note("pause", Some(id), || format!("stands still for {length} ms"));
        self.cluster.begin_slow(id);
        self.world().pause(&host(id));
        self.last(length).await;
        if leads {
            let other = self.cluster.leader().is_some_and(|leader| leader != id);
            self.cluster.watch().coverage().reach(Site::LeaseExpiredInPause, other);
        }
        self.note("resume", Some(id), || "goes on".to_owned());
        self.world().resume(&host(id));
        self.cluster.end_slow(id);
    }

    async fn slow(&self, links: &[(String, String)], latency: u64, length: u64) {
        self.note("network", None, || format!("{} links take up to {latency} ms", links.len()));
        for (from, to) in links {
            self.world().net().set_latency(from, to, around(latency));
        }
        self.last(length).await;
        for (from, to) in links {
            self.world().net().reset_latency(from, to);
        }
    }

    async fn cut(&self, id: NodeId, cut: Cut, length: u64) {
        let links = links(cut, id, self.cluster.size());
        let others = |links: &[(NodeId, NodeId)]| {
            let mut others: Vec<_> =
                links.iter().flat_map(|(from, to)| [host(*from), host(*to)]).collect();
            others.sort();
            others.dedup();
            others
        };
        let recorder = self.cluster.watch().recorder();
        recorder.event(
            Some(host(id)),
            "network",
            || format!("{cut:?}: {links:?} are cut"),
            |event| event.others = others(&links),
        );
        for (from, to) in &links {
            self.world().net().block(&host(*from), &host(*to));
        }
        self.last(length).await;
        for (from, to) in &links {
            self.world().net().unblock(&host(*from), &host(*to));
        }
        recorder.event(
            Some(host(id)),
            "heal",
            || format!("{cut:?} is mended"),
            |event| event.others = others(&links),
        );
    }

    async fn fail_disk(&self, id: NodeId, fault: DiskFault, length: u64) {
        let disk = self.world().disk(&host(id));
        self.note("disk", Some(id), || format!("{fault:?} fails for {length} ms"));
        self.cluster.begin_failing(id);
        disk.inject(fault.kind());
        self.last(length).await;
        disk.clear(fault.kind());
        self.cluster.end_failing(id);
        if fault == DiskFault::Full {
            self.cluster.watch().coverage().reach(Site::DiskFull, self.cluster.node(id).is_none());
        }
    }

    async fn rot(&self, id: NodeId, bits: u64, down: u64) {
        self.cluster.hold(id);
        self.cluster.crash(id, CrashMode::LoseUnsynced);
        let flipped = self.world().disk(&host(id)).rot(&mut self.world().fork_rng(), bits);
        self.note("disk", Some(id), || format!("{flipped} bits have rotted"));
        if flipped > 0 {
            self.cluster.watch().coverage().reach(Site::BitRotRefused, false);
            self.cluster.begin_rotten(id);
        }
        self.last(down).await;
        self.cluster.release(id);
    }

    async fn remove(&self, id: NodeId, away: u64, wiped: bool) {
        let deadline = self.over.min(rt::now::<SimEnv>() + REMOVAL_LIMIT);
        if !self.operator.remove(id, wiped, deadline).await {
            return;
        }
        self.last(away).await;
        self.return_removed(id, wiped);
    }

    /// A removed node comes back, on an empty disk if `wiped`.
    pub(super) fn return_removed(&self, id: NodeId, wiped: bool) {
        if wiped {
            self.cluster.destroy(id);
            self.cluster.note_removed(id);
            self.cluster.release(id);
        } else {
            // It may have learned of its removal and ended, or not. Started again it asks to join.
            self.cluster.hold(id);
            self.cluster.kill(id);
            self.cluster.release(id);
        }
    }
}
