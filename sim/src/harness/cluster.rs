//! Server processes in the simulated world, and what can happen to them.
//!
//! Node `K` runs on host `nK`, talks Raft on port 5010 and HTTP on 5011. Node 1 founds the cluster; the others
//! join it. A process that ends by itself, without having been killed or stopped, is a violation: nothing
//! that a scenario does to its surroundings may make a server give up, save a failing disk.

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use openraft::ServerState;
use openraft::async_runtime::watch::WatchReceiver;
use yakt::env::rt;
use yakt::node::{Node, NodeOptions};
use yakt::raft::NodeId;
use yakt::raft::config::RaftOptions;
use yakt::raft::state_machine::Image;

use super::Violation;
use super::safety::Safety;
use super::scenarios::NODES;
use crate::disk::CrashMode;
use crate::env::SimEnv;
use crate::world::World;

/// How long a healthy cluster may take to be in order again after the last fault: elections, a node that
/// backs off from a peer, a snapshot.
pub const RECOVERY_LIMIT: Duration = Duration::from_secs(30);

/// How often waiting looks again.
const LOOK_INTERVAL: Duration = Duration::from_millis(50);

/// A cluster. Clones are the same cluster.
#[derive(Clone)]
pub struct Cluster {
    world: World,
    safety: Safety,
    raft: RaftOptions,
    processes: Arc<Mutex<BTreeMap<NodeId, Process>>>,
}

/// A server process, running or not.
struct Process {
    node: Node<SimEnv>,
    /// Which life of the host this is.
    life: u64,
    /// Whether it was told to end.
    ended: bool,
    /// Whether its disk is about to fail, which it may notice before the power is gone.
    failing: bool,
}

/// What a node shows of itself.
struct View {
    id: NodeId,
    leader: Option<NodeId>,
    image: Arc<Image<rt::Instant<SimEnv>>>,
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

fn raft_addr(id: NodeId) -> String {
    format!("n{id}:5010")
}

impl Cluster {
    /// No nodes yet.
    #[must_use]
    pub fn new(world: World, raft: RaftOptions) -> Self {
        let safety = Safety::new(world.trace().clone());
        Self { world, safety, raft, processes: Arc::default() }
    }

    /// The world it is in.
    #[must_use]
    pub fn world(&self) -> &World {
        &self.world
    }

    /// The checkers of its nodes.
    #[must_use]
    pub fn safety(&self) -> &Safety {
        &self.safety
    }

    /// Starts node `id`, for the first time or again.
    pub fn start(&self, id: NodeId) {
        let ensemble = if id == 1 { Vec::new() } else { (1..id).map(raft_addr).collect() };
        let options = NodeOptions {
            id,
            raft_addr: raft_addr(id),
            http_addr: http(id),
            ensemble,
            data: PathBuf::from("/data"),
            raft: self.raft.clone(),
            observer: Some(self.safety.observer(id)),
        };
        let cluster = self.clone();
        drop(self.world.start(&host(id), move |env| {
            let node = Node::new(env, options);
            let life = cluster.born(id, node.clone());
            async move {
                drop(rt::spawn::<SimEnv, _>(watch_leadership(
                    node.clone(),
                    cluster.safety.clone(),
                )));
                let result = Box::pin(yakt::server::run(node, &http(id))).await;
                cluster.died(id, life, result);
            }
        }));
    }

    /// Starts nodes 1 to `size` and waits until all are voters and ready.
    ///
    /// # Errors
    ///
    /// A liveness violation when that takes too long.
    pub async fn form(&self, size: NodeId) -> Result<(), Violation> {
        for id in 1..=size {
            self.start(id);
        }
        self.settle(size).await
    }

    /// `kill -9`.
    pub fn kill(&self, id: NodeId) {
        self.forget(id);
        self.world.kill(&host(id));
    }

    /// Power failure.
    pub fn crash(&self, id: NodeId, mode: CrashMode) {
        self.forget(id);
        self.world.crash(&host(id), mode);
    }

    /// The disk of node `id` will fail: its process may end by itself before it is crashed.
    pub fn expect_power_loss(&self, id: NodeId) {
        if let Some(process) = self.lock().get_mut(&id) {
            process.failing = true;
        }
    }

    /// A clean stop; the process ends by itself when it is done.
    pub fn stop(&self, id: NodeId) {
        if let Some(process) = self.lock().get_mut(&id) {
            process.ended = true;
            process.node.stop();
        }
    }

    /// The nodes whose processes run.
    #[must_use]
    pub fn running(&self) -> Vec<NodeId> {
        let hosts = (1..=NODES).filter(|id| self.world.is_running(&host(*id)));
        hosts.collect()
    }

    /// The node that believes to lead, in the highest term.
    #[must_use]
    pub fn leader(&self) -> Option<NodeId> {
        let processes = self.lock();
        let leading = processes.iter().filter_map(|(id, process)| {
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
        self.wait_for("a leader", || self.leader()).await
    }

    /// Waits until nodes 1 to `size` all run, agree on one leader and on `size` voters, and have applied the same.
    ///
    /// # Errors
    ///
    /// A liveness violation when that takes longer than [`RECOVERY_LIMIT`]; a safety violation found meanwhile.
    pub async fn settle(&self, size: NodeId) -> Result<(), Violation> {
        self.wait_for("the cluster to be in order", || self.settled(size).then_some(())).await
    }

    /// Waits until nodes 1 to `size` all run, agree on one leader and on `size` voters, and are ready.
    ///
    /// # Errors
    ///
    /// As [`settle`](Self::settle).
    pub async fn settle_under_load(&self, size: NodeId) -> Result<(), Violation> {
        self.wait_for("the cluster to agree", || self.views_in_order(size).map(drop)).await
    }

    /// The views of nodes 1 to `size`, if all are ready, see `size` voters, and agree on the leader.
    fn views_in_order(&self, size: NodeId) -> Option<Vec<View>> {
        let processes = self.lock();
        let mut views: Vec<View> = Vec::new();
        for id in 1..=size {
            let node = &processes.get(&id)?.node;
            let status = node.status();
            let voters = status.nodes.iter().filter(|member| member.voter).count() as u64;
            if !node.is_ready()
                || voters != size
                || views.first().is_some_and(|first| first.leader != status.leader)
            {
                return None;
            }
            views.push(View { id, leader: status.leader, image: node.image()? });
        }
        Some(views)
    }

    /// Whether it is as [`settle`](Self::settle) wants it; compares the states if it is.
    fn settled(&self, size: NodeId) -> bool {
        let Some(views) = self.views_in_order(size) else { return false };
        let Some(applied) = views.first().and_then(|first| first.image.applied) else {
            return false;
        };
        if views.iter().any(|view| view.image.applied != Some(applied)) {
            return false;
        }
        for view in &views {
            self.safety.compare(view.id, applied.index(), &view.image.state);
        }
        true
    }

    async fn wait_for<T>(
        &self,
        what: &str,
        mut look: impl FnMut() -> Option<T>,
    ) -> Result<T, Violation> {
        let deadline = rt::now::<SimEnv>() + RECOVERY_LIMIT;
        loop {
            if let Some(found) = look() {
                return Ok(found);
            }
            if let Some(violation) = self.safety.violation() {
                return Err(violation);
            }
            if rt::now::<SimEnv>() > deadline {
                return Err(Violation::liveness(format!(
                    "waited {RECOVERY_LIMIT:?} for {what}:{}",
                    self.views()
                )));
            }
            rt::sleep::<SimEnv>(LOOK_INTERVAL).await;
        }
    }

    /// What each running node believes, for a person who wonders why nothing happens.
    #[must_use]
    pub fn views(&self) -> String {
        self.lock().iter().map(|(id, process)| view(*id, &process.node)).collect()
    }

    /// The metadata of node `id`.
    #[must_use]
    pub fn node(&self, id: NodeId) -> Option<Node<SimEnv>> {
        self.lock().get(&id).map(|process| process.node.clone())
    }

    fn born(&self, id: NodeId, node: Node<SimEnv>) -> u64 {
        let mut processes = self.lock();
        let life = processes.get(&id).map_or(0, |process| process.life + 1);
        processes.insert(id, Process { node, life, ended: false, failing: false });
        life
    }

    fn died(&self, id: NodeId, life: u64, result: Result<(), yakt::node::RunError>) {
        let mut processes = self.lock();
        let Some(process) = processes.get(&id).filter(|process| process.life == life) else {
            return;
        };
        let expected =
            if process.failing { result.is_err() } else { process.ended && result.is_ok() };
        processes.remove(&id);
        drop(processes);
        if !expected {
            let how =
                result.map_or_else(|error| error.to_string(), |()| "for no reason".to_owned());
            self.safety.report(Violation::safety(format!("node {id} stopped by itself: {how}")));
        }
    }

    /// A process that is about to be killed must not report its own end.
    fn forget(&self, id: NodeId) {
        self.lock().remove(&id);
    }

    fn lock(&self) -> MutexGuard<'_, BTreeMap<NodeId, Process>> {
        self.processes.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// What `node` believes, in a line.
fn view(id: NodeId, node: &Node<SimEnv>) -> String {
    let Some(raft) = node.raft() else { return format!("\n  n{id}: not joined") };
    let metrics = raft.metrics();
    let metrics = metrics.borrow_watched();
    let voters: Vec<_> = metrics.membership_config.membership().voter_ids().collect();
    let index = |id: Option<yakt::raft::EntryId>| id.map(|id| id.index());
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

/// Tells the checkers of every leadership of one life.
async fn watch_leadership(node: Node<SimEnv>, safety: Safety) {
    while node.raft().is_none() {
        rt::sleep::<SimEnv>(Duration::from_millis(1)).await;
    }
    let Some(raft) = node.raft() else { return };
    let mut metrics = raft.server_metrics();
    loop {
        let (leads, term) = {
            let metrics = metrics.borrow_watched();
            (metrics.state == ServerState::Leader, *metrics.vote.leader_id())
        };
        if leads {
            safety.leads(node.id(), term.term);
        }
        if metrics.changed().await.is_err() {
            return;
        }
    }
}
