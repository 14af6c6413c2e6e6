//! What the nodes look like, and waiting for it.

use std::sync::Arc;
use std::time::Duration;

use openraft::ServerState;
use openraft::async_runtime::watch::WatchReceiver;
use yakt::env::rt;
use yakt::node::Node;
use yakt::raft::state_machine::Image;
use yakt::raft::{EntryId, NodeId};

use super::{Cluster, LOOK_INTERVAL, host};
use crate::env::SimEnv;
use crate::harness::Violation;
use crate::harness::check::liveness::{RECOVERY_LIMIT, View, disorder};
use crate::harness::scenarios::NODES;

impl Cluster {
    /// The nodes whose processes run.
    #[must_use]
    pub fn running(&self) -> Vec<NodeId> {
        let hosts = (1..=NODES).filter(|id| self.world.is_running(&host(*id)));
        hosts.collect()
    }

    /// The node with this id, if it runs.
    #[must_use]
    pub fn node(&self, id: NodeId) -> Option<Node<SimEnv>> {
        self.lock().processes.get(&id).map(|process| process.node.clone())
    }

    /// How far node `id` has applied.
    #[must_use]
    pub fn applied(&self, id: NodeId) -> Option<EntryId> {
        self.node(id)?.image()?.applied
    }

    /// The node that believes to lead, in the highest term.
    #[must_use]
    pub fn leader(&self) -> Option<NodeId> {
        let inner = self.lock();
        let leading = inner.processes.iter().filter_map(|(id, process)| {
            let metrics = process.node.raft()?.metrics();
            let metrics = metrics.borrow_watched();
            (metrics.state == ServerState::Leader).then_some((metrics.current_term, *id))
        });
        leading.max().map(|(_, id)| id)
    }

    /// Waits for a leader.
    ///
    /// # Errors
    ///
    /// A liveness violation when that takes too long.
    pub async fn wait_for_leader(&self) -> Result<NodeId, Violation> {
        self.wait_for(RECOVERY_LIMIT, || self.leader().ok_or_else(|| "nobody leads".to_owned()))
            .await
    }

    /// Waits until nodes 1 to `size` all run, agree on one leader and on `size` voters, and have applied the same.
    ///
    /// # Errors
    ///
    /// A liveness violation when that takes longer than [`RECOVERY_LIMIT`]; a safety violation found meanwhile.
    pub async fn settle(&self, size: NodeId) -> Result<(), Violation> {
        self.wait_for(RECOVERY_LIMIT, || self.in_order(size, true)).await?;
        for (id, image) in self.images() {
            if let Some(applied) = image.applied {
                self.watch.at_rest(id, applied.index(), &image.state);
            }
        }
        self.watch.violation().map_or(Ok(()), Err)
    }

    /// Waits until nodes 1 to `size` all run, agree on one leader and on `size` voters, and are ready.
    ///
    /// # Errors
    ///
    /// As [`settle`](Self::settle).
    pub async fn settle_under_load(&self, size: NodeId) -> Result<(), Violation> {
        self.wait_for(RECOVERY_LIMIT, || self.in_order(size, false)).await
    }

    fn in_order(&self, size: NodeId, idle: bool) -> Result<(), String> {
        disorder(&self.views(), &(1..=size).collect(), idle).map_or(Ok(()), Err)
    }

    fn views(&self) -> Vec<View> {
        let inner = self.lock();
        inner
            .processes
            .iter()
            .map(|(id, process)| {
                let (node, status) = (&process.node, process.node.status());
                let voters =
                    status.nodes.iter().filter(|member| member.voter).map(|member| member.id);
                let image = node.image();
                View {
                    id: *id,
                    ready: node.is_ready(),
                    leader: status.leader,
                    voters: voters.collect(),
                    applied: image.and_then(|image| image.applied),
                }
            })
            .collect()
    }

    fn images(&self) -> Vec<(NodeId, Arc<Image<rt::Instant<SimEnv>>>)> {
        let inner = self.lock();
        inner
            .processes
            .iter()
            .filter_map(|(id, process)| Some((*id, process.node.image()?)))
            .collect()
    }

    /// Looks until `look` finds what it looks for, which it must within `limit`.
    ///
    /// # Errors
    ///
    /// A liveness violation when it does not; a violation found meanwhile.
    pub async fn wait_for<T>(
        &self,
        limit: Duration,
        mut look: impl FnMut() -> Result<T, String>,
    ) -> Result<T, Violation> {
        let deadline = rt::now::<SimEnv>() + limit;
        loop {
            let why = match look() {
                Ok(found) => return Ok(found),
                Err(why) => why,
            };
            if let Some(violation) = self.watch.violation() {
                return Err(violation);
            }
            if rt::now::<SimEnv>() > deadline {
                let views = self.beliefs();
                return Err(Violation::liveness(format!(
                    "convergence: after {limit:?}, {why}{views}"
                )));
            }
            rt::sleep::<SimEnv>(LOOK_INTERVAL).await;
        }
    }

    /// Checks that no two nodes that are ready have applied different entries under one index.
    ///
    /// # Errors
    ///
    /// The two nodes.
    pub fn serve_one_history(&self) -> Result<(), Violation> {
        let ready = |id: &NodeId| self.node(*id).is_some_and(|node| node.is_ready());
        let images: Vec<_> = self.images().into_iter().filter(|(id, _)| ready(id)).collect();
        for (n, (a, one)) in images.iter().enumerate() {
            for (b, other) in &images[n + 1..] {
                let same = one.applied.map(|id| id.index) == other.applied.map(|id| id.index);
                if same && one.state.digest() != other.state.digest() {
                    return Err(Violation::safety(format!(
                        "history: nodes {a} and {b} are ready, and differ at {:?}",
                        one.applied
                    )));
                }
            }
        }
        Ok(())
    }

    /// What each running node believes, for a person who wonders why nothing happens.
    #[must_use]
    pub fn beliefs(&self) -> String {
        self.lock().processes.iter().map(|(id, process)| belief(*id, &process.node)).collect()
    }
}

/// What `node` believes, in a line.
fn belief(id: NodeId, node: &Node<SimEnv>) -> String {
    let Some(raft) = node.raft() else { return format!("\n  n{id}: not joined") };
    let metrics = raft.metrics();
    let metrics = metrics.borrow_watched();
    let voters: Vec<_> = metrics.membership_config.membership().voter_ids().collect();
    let index = |id: Option<EntryId>| id.map(|id| id.index());
    format!(
        "\n  n{id}: {:?}, term {}, leader {:?}, last {:?}, committed {:?}, applied {:?}, voters {voters:?}",
        metrics.state,
        metrics.current_term,
        metrics.current_leader,
        metrics.last_log_index,
        index(metrics.local_committed),
        index(metrics.last_applied),
    )
}
