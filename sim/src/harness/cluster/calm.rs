//! Whether anything is wrong with a cluster, as far as its world knows.

use std::collections::BTreeMap;

use yakt::raft::NodeId;

use super::{Cluster, host};
use crate::harness::scenarios::NODES;

impl Cluster {
    /// The processes that run, by node, each with the number of its host's life.
    #[must_use]
    pub fn lives(&self) -> BTreeMap<NodeId, u64> {
        let inner = self.lock();
        inner.processes.iter().map(|(id, process)| (*id, process.life)).collect()
    }

    /// Whether all nodes but `except` are voters, run, and have sound disks and links. Names may
    /// fail to resolve.
    #[must_use]
    pub fn is_undisturbed(&self, except: Option<NodeId>) -> bool {
        let nodes: Vec<NodeId> = (1..=NODES).filter(|id| Some(*id) != except).collect();
        let hosts: Vec<String> = nodes.iter().map(|id| host(*id)).collect();
        let names: Vec<&str> = hosts.iter().map(String::as_str).collect();
        let all_vote = |node: NodeId| {
            let status = self.node(node).map(|node| node.status());
            status.is_some_and(|status| {
                let voters = status.nodes.iter().filter(|member| member.voter).count();
                u64::try_from(voters) == Ok(NODES)
            })
        };
        let sound = {
            let inner = self.lock();
            nodes.iter().all(|id| {
                inner.processes.contains_key(id)
                    && !inner.holds.any(*id)
                    && !inner.failing.any(*id)
                    && !inner.slow.any(*id)
                    && !inner.rotten.contains(id)
            })
        };
        sound && nodes.into_iter().all(all_vote) && self.world.net().is_whole_between(&names)
    }
}
