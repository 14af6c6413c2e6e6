//! Nodes that come back elsewhere, and directories that exist twice.
//!
//! Voters find each other where they were, so a majority must not move at the same time. These faults wait for nothing: if
//! an earlier move is not committed yet, they do not strike.

use std::time::Duration;

use yakt::env::rt;
use yakt::raft::NodeId;

use super::play::Stage;
use crate::env::SimEnv;
use crate::harness::Violation;
use crate::harness::cluster::{Copy, copy_host, host};
use crate::harness::coverage::Site;

/// How long a node that moved is waited for until the leader has its new address, in milliseconds.
const FOUND_LIMIT_MILLIS: u64 = 10_000;

/// How often it is looked for.
const LOOK_MILLIS: u64 = 20;

/// How long a copy of a directory may run while its original is undisturbed: it opens the directory, which may take many
/// slow accesses to the disk, and asks the original once.
const COPY_LIMIT: Duration = Duration::from_secs(5);

/// How long a copy runs that does not reach its original: less than a node waits until it takes such an original for gone.
const UNSEEN_LIMIT: Duration = Duration::from_secs(4);

/// How long a copy runs while its original has no file descriptors. A new leader gives an original
/// that accepts no connection 3 s, and admits the copy then.
const SILENT_LIMIT: Duration = Duration::from_millis(2_500);

/// How long a leader is down that is killed as a copy starts: the copy would stand for election meanwhile, and another node
/// leads when the copy asks again.
const LEADER_DOWN_MILLIS: u64 = 1_000;

/// How often a copy is looked at.
const COPY_LOOK_INTERVAL: Duration = Duration::from_millis(1);

impl Stage {
    /// Whether `count` nodes may move now without making a majority of the voters hard to find.
    fn may_move(&self, count: usize) -> bool {
        !self.is_over() && self.cluster.settled_voters().is_some_and(|voters| 2 * count < voters)
    }

    /// Kills node `id`; it comes back at another port after `down`.
    pub(super) async fn relocate(&self, id: NodeId, down: u64) {
        if !self.may_move(1) {
            return;
        }
        self.cluster.hold(id);
        self.cluster.kill(id);
        self.cluster.relocate(id);
        self.last(down).await;
        self.cluster.release(id);
        self.until_found(&[id], Site::Moved).await;
    }

    /// Kills two nodes; they come back with their addresses exchanged after `down`.
    pub(super) async fn swap(&self, a: NodeId, b: NodeId, down: u64) {
        if a == b || !self.may_move(2) {
            return;
        }
        for id in [a, b] {
            self.cluster.hold(id);
            self.cluster.kill(id);
        }
        self.cluster.swap(a, b);
        self.last(down).await;
        for id in [a, b] {
            self.cluster.release(id);
        }
        self.until_found(&[a, b], Site::Swapped).await;
    }

    async fn until_found(&self, ids: &[NodeId], site: Site) {
        let found = || ids.iter().all(|id| self.cluster.is_found(*id));
        for _ in 0..FOUND_LIMIT_MILLIS / LOOK_MILLIS {
            if found() || self.is_over() {
                break;
            }
            self.last(LOOK_MILLIS).await;
        }
        self.cluster.watch().coverage().reach(site, found());
    }

    /// Restarts node `id` with an address that leads others elsewhere, and after `length` with its right one.
    pub(super) async fn misplace(&self, id: NodeId, lost: bool, length: u64) {
        if !self.may_move(1) || !self.cluster.is_sound(id) {
            return;
        }
        self.cluster.misplace(id, lost);
        self.kill(id, 0).await;
        self.last(length).await;
        self.cluster.watch().coverage().reach(Site::Misplaced, self.cluster.node(id).is_some());
        self.cluster.find_place(id);
        self.kill(id, 0).await;
    }

    /// Starts a copy of node `id`'s directory while the node runs. With `unseen`, the copy does not reach the node; with
    /// `headless`, the leader is killed at the same time, if it is another node.
    pub(super) async fn copy(&self, id: NodeId, unseen: bool, headless: bool) {
        // The copy looks for its original at the address that its log has: see the limits in
        // `yakt::node`.
        let is_found = self.cluster.is_found(id);
        if self.is_over() || !is_found || (unseen && !self.cluster.is_well_connected(id)) {
            return;
        }
        let leader = self.cluster.leader().filter(|leader| headless && *leader != id);
        let Some(copy) = self.cluster.start_copy(id) else { return };
        let beheading = leader.map(|leader| {
            let stage = self.clone();
            madsim::task::spawn(async move { stage.kill(leader, LEADER_DOWN_MILLIS).await })
        });
        let links = [(copy_host(id), host(id)), (host(id), copy_host(id))];
        let links = if unseen { &links[..] } else { &[] };
        for (from, to) in links {
            self.world().net().block(from, to);
        }
        self.watch_copy(&copy, unseen).await;
        self.cluster.watch().coverage().reach(Site::CopyEnded, copy.ended().is_some());
        self.cluster.end_copy(id);
        for (from, to) in links {
            self.world().net().unblock(from, to);
        }
        if let Some(beheading) = beheading {
            drop(beheading.await);
        }
    }

    /// Waits until `copy` has ended or may run no longer, and judges it.
    async fn watch_copy(&self, copy: &Copy, unseen: bool) {
        let id = copy.id();
        let limit = if unseen { UNSEEN_LIMIT } else { COPY_LIMIT };
        let begun = rt::now::<SimEnv>();
        let deadline = begun + limit;
        let mut silent = self.cluster.is_exhausted(id);
        while copy.ended().is_none()
            && self.cluster.is_guarded(copy)
            && rt::now::<SimEnv>() < deadline
            && !self.is_over()
            && (!unseen || self.cluster.is_well_connected(id))
            && (!silent || rt::now::<SimEnv>() < begun + SILENT_LIMIT)
        {
            rt::sleep::<SimEnv>(COPY_LOOK_INTERVAL).await;
            silent |= self.cluster.is_exhausted(id);
        }
        // An original that accepts no connection cannot tell the copy that it is one. The leader can.
        if unseen || silent || !self.cluster.is_guarded(copy) {
            return;
        }
        let guilty = match copy.ended() {
            // It was another node that told it: until then it took itself for the member, and may have voted.
            Some(end) => (!end.by_itself).then_some(end.how),
            None => (rt::now::<SimEnv>() >= deadline).then(|| format!("it runs for {limit:?}")),
        };
        if let Some(how) = guilty {
            self.cluster.watch().report(Violation::safety(format!(
                "identity: a copy of node {id}'s directory does not find the original: {how}"
            )));
        }
    }
}
