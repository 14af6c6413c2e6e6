//! File descriptors that are used up for a while.
//!
//! A process that runs has its files and connections open. It can do without new ones, so it must
//! go on. Idle connections once stopped three of five nodes, because the log treated a failure to
//! open its next file as fatal.

use yakt::raft::NodeId;

use super::play::Stage;
use crate::harness::cluster::host;
use crate::harness::coverage::Site;

impl Stage {
    /// Node `id` has no file descriptor left for `length` milliseconds.
    pub(super) async fn exhaust(&self, id: NodeId, length: u64) {
        let disk = self.world().disk(&host(id));
        let refused = disk.stats().opens_refused;
        self.note("descriptors", Some(id), || format!("no file descriptor for {length} ms"));
        self.cluster.begin_exhausted(id);
        self.last(length).await;
        let was_refused = disk.stats().opens_refused > refused;
        let goes_on = was_refused && self.cluster.node(id).is_some();
        self.cluster.end_exhausted(id);
        self.cluster.watch().coverage().reach(Site::DescriptorsUsedUp, goes_on);
    }
}
