//! What is done to nodes and their disks, and what may come of it.

use std::collections::BTreeSet;

use yakt::raft::NodeId;

use super::{Cluster, host};
use crate::disk::{CrashMode, FaultKind};
use crate::harness::coverage::Site;

impl Cluster {
    /// `kill -9`.
    pub fn kill(&self, id: NodeId) {
        self.end_copy(id);
        self.forget(id);
        self.watch.recorder().note(Some(host(id)), "kill", || "is killed".to_owned());
        self.world.kill(&host(id));
    }

    /// Power failure.
    pub fn crash(&self, id: NodeId, mode: CrashMode) {
        self.end_copy(id);
        self.forget(id);
        self.watch.recorder().note(Some(host(id)), "crash", || format!("loses power: {mode:?}"));
        let report = self.world.crash(&host(id), mode);
        self.watch.coverage().reach(Site::TornWrite, report.is_partial());
        if report.is_partial() {
            self.lock().torn.insert(id);
        }
    }

    /// The disk of node `id` begins to fail: its process may end by itself before it is crashed.
    pub fn begin_failing(&self, id: NodeId) {
        self.end_copy(id);
        let mut inner = self.lock();
        inner.failing.begin(id);
        if let Some(process) = inner.processes.get_mut(&id) {
            process.may_fail = true;
        }
    }

    /// The disk of node `id` works again. A process that has met its failure may still end of it.
    pub fn end_failing(&self, id: NodeId) {
        self.lock().failing.end(id);
    }

    /// Node `id` has no file descriptor left: it opens no file and no connection, and accepts none.
    /// A process that runs goes on; one that starts may end by itself.
    pub fn begin_exhausted(&self, id: NodeId) {
        self.lock().exhausted.begin(id);
        self.world.disk(&host(id)).inject(FaultKind::NoDescriptors);
        self.world.net().exhaust(&host(id));
    }

    /// Whether node `id` has no file descriptor left.
    #[must_use]
    pub fn is_exhausted(&self, id: NodeId) -> bool {
        self.lock().exhausted.any(id)
    }

    /// Undoes one [`begin_exhausted`](Self::begin_exhausted).
    pub fn end_exhausted(&self, id: NodeId) {
        let is_last = {
            let mut inner = self.lock();
            inner.exhausted.end(id);
            !inner.exhausted.any(id)
        };
        if is_last {
            self.world.disk(&host(id)).clear(FaultKind::NoDescriptors);
            self.world.net().replenish(&host(id));
        }
    }

    /// Node `id` or its disk is slow from now on: told to stop, its process may give up waiting.
    pub fn begin_slow(&self, id: NodeId) {
        self.end_copy(id);
        let mut inner = self.lock();
        inner.slow.begin(id);
        if let Some(process) = inner.processes.get_mut(&id) {
            process.may_stop_late = true;
        }
    }

    /// Node `id` is no slower than others any more. What its process began before may still take long.
    pub fn end_slow(&self, id: NodeId) {
        self.lock().slow.end(id);
    }

    /// Bits of node `id`'s data have flipped.
    pub fn begin_rotten(&self, id: NodeId) {
        self.lock().rotten.insert(id);
    }

    /// Whether some node runs on rotted data. It may notice that at any time.
    #[must_use]
    pub fn has_rotten(&self) -> bool {
        !self.lock().rotten.is_empty()
    }

    /// The directory of node `id` has forgotten some of the data that the node had acknowledged.
    /// The node, or another one that notices, may stop.
    pub fn relapse(&self, id: NodeId) {
        let what = || "its directory returns to an earlier moment".to_owned();
        self.watch.recorder().note(Some(host(id)), "disk", what);
        self.watch.relapsed(id);
        self.lock().relapsed.insert(id);
    }

    /// The number of the disk that node `id` is on.
    #[must_use]
    pub fn generation(&self, id: NodeId) -> u64 {
        self.lock().generations.get(&id).copied().unwrap_or_default()
    }

    /// Nodes that refused to start on their rotten data.
    #[must_use]
    pub fn refused(&self) -> Option<NodeId> {
        self.lock().refused.first().copied()
    }

    /// The power of node `id` fails and its disk is lost: nothing on it comes back.
    pub fn destroy(&self, id: NodeId) {
        self.crash(id, CrashMode::LoseUnsynced);
        self.world.disk(&host(id)).wipe();
        self.watch.recorder().note(Some(host(id)), "disk", || "its disk is lost".to_owned());
        self.watch.disk_lost(id);
        let mut inner = self.lock();
        *inner.generations.entry(id).or_default() += 1;
        inner.rotten.remove(&id);
        inner.torn.remove(&id);
        inner.refused.remove(&id);
        inner.destroyed.insert(id);
        inner.replaced.insert(id);
    }

    /// The nodes that ended by themselves since this was asked last, as they may, and could be started again.
    #[must_use]
    pub fn take_ended(&self) -> BTreeSet<NodeId> {
        std::mem::take(&mut self.lock().ended)
    }

    /// The operator has removed node `id` from the cluster: what its disk held binds nobody any more.
    pub fn note_removed(&self, id: NodeId) {
        self.lock().destroyed.remove(&id);
    }

    /// Node `id` may find, from now on, that it is no member any more.
    pub fn expect_removal(&self, id: NodeId) {
        self.end_copy(id);
        self.lock().leaving.insert(id);
    }

    /// Whether what was lost with disks is more than a majority can make up for.
    ///
    /// Who refused its rotten data has lost it. A ghost, whose former disk was made a member again, is on another disk by
    /// now, which is no voter's until it holds a log: then that disk counts, and what became of the former one does not.
    #[must_use]
    pub fn is_unrecoverable(&self) -> bool {
        let (rotten, replaced) = {
            let inner = self.lock();
            let (rotten, ghosts): (BTreeSet<_>, BTreeSet<_>) =
                inner.refused.iter().copied().partition(|id| inner.rotten.contains(id));
            (rotten, &ghosts | &inner.destroyed)
        };
        self.watch.has_forked() || self.watch.is_unrecoverable(&rotten, &replaced)
    }
}
