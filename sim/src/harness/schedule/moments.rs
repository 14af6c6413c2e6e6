//! Faults at moments that chance hardly ever hits: each brings two rare events together.

use std::time::Duration;

use futures_util::future::join_all;
use hyper::Method;
use yakt::env::rt;
use yakt::raft::NodeId;

use super::play::Stage;
use super::strike::REMOVAL_LIMIT;
use super::{Loss, Target};
use crate::disk::CrashMode;
use crate::env::SimEnv;
use crate::harness::client::{Client, Request};
use crate::harness::cluster::{host, http};
use crate::harness::coverage::Site;

/// How long a power failure among the writes of a purge may wait for its write.
const PURGE_LIMIT: Duration = Duration::from_secs(2);

/// Writes that a leader is asked for just before it dies. Its successor has these entries, and has
/// not applied them.
const UNAPPLIED: u64 = 16;

/// Pause between two looks for a new leader. There are at most [`LOOKS_MAX`] of them.
const LOOK: Duration = Duration::from_millis(1);
/// See [`LOOK`].
const LOOKS_MAX: u32 = 5_000;

impl Stage {
    /// A node takes a snapshot, purges its log, and loses power in one of the first writes. The
    /// record of the purge may go to the file that the purged entries leave.
    pub(super) async fn crash_in_purge(&self, id: NodeId, writes: u64, loss: Loss, down: u64) {
        // Entries to purge, and entries that are appended meanwhile.
        let busy = self.crowd(self.resolve(Target::Leader), UNAPPLIED);
        let exchanges = self.cluster.exchanges().clone();
        let number = self.next_crowd();
        let asked = self.world().start(&format!("crowd{number}"), move |env| async move {
            let request = Request { method: Method::POST, ..Request::get("/cluster/snapshot") };
            drop(Client::new(env).noting(exchanges).send(&http(id), &request).await);
        });
        let stored = self.cluster.watch().snapshot_of(id);
        for _ in 0..LOOKS_MAX {
            if self.is_over() {
                break;
            }
            if self.cluster.watch().snapshot_of(id) > stored {
                let struck = self.lose_power_in_write(id, writes, PURGE_LIMIT, loss, down).await;
                self.cluster.watch().coverage().reach(Site::PowerLossInPurge, struck);
                break;
            }
            rt::sleep::<SimEnv>(LOOK).await;
        }
        drop(asked.await);
        drop(busy.await);
    }

    /// The leader dies as soon as a removal is made and clients have asked it for writes. The
    /// removed node asks to join at the same time. The next leader judges that request by a log
    /// that it has not applied yet.
    pub(super) async fn rejoin_at_election(&self, id: NodeId, wiped: bool, down: u64) {
        let deadline = self.over.min(rt::now::<SimEnv>() + REMOVAL_LIMIT);
        if !self.operator.remove(id, wiped, deadline).await {
            return;
        }
        let leader = self.resolve(Target::Leader);
        let busy = self.crowd(leader, UNAPPLIED);
        if leader == id {
            self.return_removed(id, wiped);
        } else {
            self.cluster.hold(leader);
            self.cluster.crash(leader, CrashMode::LoseUnsynced);
            self.return_removed(id, wiped);
            let successor = self.next_leader(leader).await;
            self.cluster.watch().coverage().reach(Site::JoinAtElection, successor.is_some());
            self.last(down).await;
            self.cluster.release(leader);
        }
        drop(busy.await);
    }

    /// The leader dies. In the first moment of the next leader, many clients look for the writes
    /// that were acknowledged last.
    pub(super) async fn readers_at_election(&self, readers: u64, down: u64) {
        let former = self.resolve(Target::Leader);
        let writes: Vec<_> = (0..UNAPPLIED).map(|_| self.write(former)).collect();
        self.last(self.settings.heartbeat_millis).await;
        self.kill_now(former);
        let acknowledged: Vec<_> =
            join_all(writes).await.into_iter().filter_map(Result::ok).flatten().collect();
        let successor = self.next_leader(former).await;
        self.cluster.watch().coverage().reach(Site::ReadersAtElection, successor.is_some());
        if let Some(successor) = successor {
            let names = acknowledged.iter().rev().cycle();
            let size = self.cluster.size();
            // Half of them ask the new leader; the others are spread over the nodes.
            let at = |nth: u64| if nth.is_multiple_of(2) { successor } else { nth % size + 1 };
            let looks = (0..readers).zip(names).map(|(nth, name)| self.look(at(nth), name.clone()));
            join_all(looks).await;
        }
        self.last(down).await;
        self.cluster.release(former);
    }

    fn kill_now(&self, id: NodeId) {
        self.cluster.hold(id);
        self.cluster.kill(id);
    }

    /// The next leader other than `former`, in its first millisecond.
    async fn next_leader(&self, former: NodeId) -> Option<NodeId> {
        for _ in 0..LOOKS_MAX {
            let leader = self.cluster.leader().filter(|leader| *leader != former);
            if leader.is_some() || self.is_over() {
                return leader;
            }
            rt::sleep::<SimEnv>(LOOK).await;
        }
        None
    }

    /// Bits flip in cold data while the node runs. The node may not notice for a long time; when it
    /// does, it stops.
    pub(super) fn rot_live(&self, id: NodeId, bits: u64) {
        // Its process may meet the damage at any time from now on, and may end because of it.
        self.cluster.begin_failing(id);
        let flipped = self.world().disk(&host(id)).rot(&mut self.world().fork_rng(), bits);
        self.note("disk", Some(id), || format!("{flipped} bits have rotted while it runs"));
        if flipped > 0 {
            self.cluster.watch().coverage().fire(Site::RotWhileRunning);
            self.cluster.begin_rotten(id);
        }
        self.cluster.end_failing(id);
    }
}
