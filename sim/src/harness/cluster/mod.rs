//! Server processes in the simulated world, and what can happen to them.
//!
//! Node `K` runs on host `nK`, talks Raft on port 5010 and HTTP on 5011. Node 1 founds the cluster; the others
//! join it. A process that ends by itself, without having been killed or stopped, is a violation: nothing
//! that a scenario does to its surroundings may make a server give up, save a failing disk or its removal.
//! Whoever plays the supervisor starts it again ([`Cluster::take_ended`]).
//!
//! Several faults may keep one node down at the same time. Each takes a [`hold`](Cluster::hold) on it and
//! [`release`](Cluster::release)s it; the node starts when the last hold is gone.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use yakt::node::Node;
use yakt::raft::NodeId;
use yakt::raft::config::RaftOptions;

use super::check::Watch;
use super::exchanges::Exchanges;
use super::scenarios::NODES;
use super::subject::Subject;
use crate::env::SimEnv;
use crate::world::World;

mod calm;
mod damage;
mod identity;
mod look;
mod process;
#[cfg(test)]
mod tests;

pub use identity::{Copy, copy_host};

/// How often waiting looks again.
const LOOK_INTERVAL: Duration = Duration::from_millis(50);

/// A cluster. Clones are the same cluster.
#[derive(Clone)]
pub struct Cluster {
    world: World,
    watch: Watch,
    exchanges: Exchanges,
    raft: RaftOptions,
    /// Whether nodes are told only where the founder is, or where all are.
    founder_only: bool,
    subject: Subject,
    inner: Arc<Mutex<Inner>>,
}

#[derive(Default)]
struct Inner {
    /// The processes that run.
    processes: BTreeMap<NodeId, Process>,
    lives: BTreeMap<NodeId, u64>,
    /// How many faults keep a node down.
    holds: Counts,
    /// How many faults make the disk of a node fail now.
    failing: Counts,
    /// How many faults leave a node without file descriptors now.
    exhausted: Counts,
    /// How many faults make a node slow now, or let it stand still.
    slow: Counts,
    /// Nodes whose data has rotted: they may end at any time, and need not come back.
    rotten: BTreeSet<NodeId>,
    /// Nodes whose disks hold what a power loss left half-way.
    torn: BTreeSet<NodeId>,
    /// Nodes that found their data rotten, or their former disk a member again, and await replacement.
    refused: BTreeSet<NodeId>,
    /// Nodes whose disk was lost, and whose former disk nobody has removed from the cluster for certain yet.
    destroyed: BTreeSet<NodeId>,
    /// Nodes that an operator has asked to remove. For good: a request that was lost on its way, or in a node that
    /// stood still, may remove a node that has come back since (swarm, seed 5000116).
    leaving: BTreeSet<NodeId>,
    /// Nodes that are not on their first disk any more.
    replaced: BTreeSet<NodeId>,
    /// Nodes whose directories returned to an earlier moment, or lost their last log record.
    relapsed: BTreeSet<NodeId>,
    /// How many disks each node has lost.
    generations: BTreeMap<NodeId, u64>,
    /// Nodes that ended by themselves, and may be started again.
    ended: BTreeSet<NodeId>,
    /// The Raft addresses of nodes that moved.
    addrs: BTreeMap<NodeId, String>,
    /// The wrong addresses that nodes take for their own.
    misplaced: BTreeMap<NodeId, String>,
    /// Nodes of whose directories a copy runs.
    copies: BTreeSet<NodeId>,
    /// Who led last.
    leader: Option<NodeId>,
}

/// How many faults are on for each node.
#[derive(Default)]
struct Counts(BTreeMap<NodeId, u64>);

impl Counts {
    fn begin(&mut self, id: NodeId) {
        *self.0.entry(id).or_default() += 1;
    }

    fn end(&mut self, id: NodeId) {
        if let Some(count) = self.0.get_mut(&id) {
            *count = count.saturating_sub(1);
        }
    }

    fn any(&self, id: NodeId) -> bool {
        self.0.get(&id).is_some_and(|count| *count > 0)
    }
}

/// A server process.
struct Process {
    node: Node<SimEnv>,
    /// Which life of the host this is.
    life: u64,
    /// Whether it was told to end.
    ended: bool,
    /// Whether it may end by itself, with an error.
    may_fail: bool,
    /// Whether it may take long to stop.
    may_stop_late: bool,
}

impl std::fmt::Debug for Cluster {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "Cluster({:?} running)", self.running())
    }
}

/// The host of node `id`.
#[must_use]
pub fn host(id: NodeId) -> String {
    format!("n{id}")
}

/// The HTTP address of node `id`.
#[must_use]
pub fn http(id: NodeId) -> String {
    format!("n{id}:5011")
}

impl Cluster {
    /// No nodes yet.
    #[must_use]
    pub fn new(world: World, raft: RaftOptions, watch: Watch) -> Self {
        Self {
            world,
            watch,
            exchanges: Exchanges::default(),
            raft,
            founder_only: false,
            subject: Subject::default(),
            inner: Arc::default(),
        }
    }

    /// The same cluster of something else, before anything was started.
    #[must_use]
    pub fn serving(self, subject: Subject) -> Self {
        Self { subject, ..self }
    }

    /// What is simulated.
    #[must_use]
    pub fn subject(&self) -> &Subject {
        &self.subject
    }

    /// The options with which its nodes are started.
    #[must_use]
    pub fn raft_options(&self) -> &RaftOptions {
        &self.raft
    }

    /// The same cluster with other settings, before anything was started.
    #[must_use]
    pub fn with_options(self, raft: RaftOptions) -> Self {
        Self { raft, ..self }
    }

    /// The same cluster whose nodes are told only where the founder is, before anything was started.
    #[must_use]
    pub fn knowing_founder_only(self, founder_only: bool) -> Self {
        Self { founder_only, ..self }
    }

    /// The world it is in.
    #[must_use]
    pub fn world(&self) -> &World {
        &self.world
    }

    /// The checkers of its nodes.
    #[must_use]
    pub fn watch(&self) -> &Watch {
        &self.watch
    }

    /// What its clients ask and are answered.
    #[must_use]
    pub fn exchanges(&self) -> &Exchanges {
        &self.exchanges
    }

    /// How many nodes it has when all is well.
    #[must_use]
    pub fn size(&self) -> NodeId {
        NODES
    }

    fn lock(&self) -> MutexGuard<'_, Inner> {
        self.inner.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
