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
use std::path::PathBuf;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use openraft::ServerState;
use openraft::async_runtime::watch::WatchReceiver;
use yakt::env::{Env, rt};
use yakt::node::{Node, NodeOptions, RunError};
use yakt::raft::config::RaftOptions;
use yakt::raft::state_machine::Image;
use yakt::raft::storage::OpenError;
use yakt::raft::{EntryId, NodeId};

use super::Violation;
use super::check::Watch;
use super::check::liveness::{RECOVERY_LIMIT, View, disorder};
use super::coverage::Site;
use super::exchanges::Exchanges;
use super::scenarios::NODES;
use super::subject::Subject;
use crate::disk::CrashMode;
use crate::env::SimEnv;
use crate::world::World;

/// How often waiting looks again.
const LOOK_INTERVAL: Duration = Duration::from_millis(50);

/// How long a node that was told to stop may take: the sum of the limits of its parts.
const STOP_LIMIT: Duration = Duration::from_secs(20);

/// A cluster. Clones are the same cluster.
#[derive(Clone)]
pub struct Cluster {
    world: World,
    watch: Watch,
    exchanges: Exchanges,
    raft: RaftOptions,
    subject: Subject,
    inner: Arc<Mutex<Inner>>,
}

#[derive(Default)]
struct Inner {
    /// The processes that run.
    processes: BTreeMap<NodeId, Process>,
    lives: BTreeMap<NodeId, u64>,
    /// How many faults keep a node down.
    holds: BTreeMap<NodeId, u64>,
    /// How many faults make the disk of a node fail now.
    failing: BTreeMap<NodeId, u64>,
    /// Nodes whose data has rotted: they may end at any time, and need not come back.
    rotten: BTreeSet<NodeId>,
    /// Nodes that found their data rotten and await replacement.
    refused: BTreeSet<NodeId>,
    /// Nodes that were voters when their disk was lost, and have not been replaced yet.
    destroyed: BTreeSet<NodeId>,
    /// Nodes that an operator has asked to remove. For good: a request that was lost on its way, or in a node that
    /// stood still, may remove a node that has come back since (swarm, seed 5000116).
    leaving: BTreeSet<NodeId>,
    /// Nodes that are not on their first disk any more.
    replaced: BTreeSet<NodeId>,
    /// Nodes that ended by themselves, and may be started again.
    ended: BTreeSet<NodeId>,
    /// Who led last.
    leader: Option<NodeId>,
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

fn raft_addr(id: NodeId) -> String {
    format!("n{id}:5010")
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

    /// The same cluster with other settings, before anything was started.
    #[must_use]
    pub fn with_options(self, raft: RaftOptions) -> Self {
        Self { raft, ..self }
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

    /// Starts node `id`, for the first time or again, unless it runs or something keeps it down.
    pub fn start(&self, id: NodeId) {
        if self.lock().is_held(id) || self.world.is_running(&host(id)) {
            return;
        }
        let options = self.options(id);
        let cluster = self.clone();
        self.watch.recorder().note(Some(host(id)), "start", || "starts".to_owned());
        drop(self.world.start(&host(id), move |env| {
            let node = Node::new(env, options);
            let life = cluster.born(id, node.clone());
            async move {
                drop(rt::spawn::<SimEnv, _>(watch_leadership(node.clone(), cluster.clone())));
                let result = cluster.serve(node).await;
                cluster.died(id, life, &result);
            }
        }));
    }

    /// What node `id` is started with. Node 1 founds the cluster once: on a new disk it has to join like anyone.
    fn options(&self, id: NodeId) -> NodeOptions {
        let is_founder = id == 1 && !self.lock().replaced.contains(&id);
        let ensemble = if is_founder {
            Vec::new()
        } else {
            (1..=NODES).filter(|other| *other != id).map(raft_addr).collect()
        };
        NodeOptions {
            id,
            raft_addr: raft_addr(id),
            http_addr: http(id),
            ensemble,
            data: PathBuf::from("/data"),
            raft: self.raft.clone(),
            observer: Some(self.watch.observer(id)),
        }
    }

    async fn serve(&self, node: Node<SimEnv>) -> Result<(), RunError> {
        let addr = http(node.id());
        let listener = node.env().listen(&addr).await;
        let listener = listener.map_err(|source| RunError::Listen { addr, source })?;
        let router = (self.subject.service)(node.clone());
        Box::pin(yakt::server::run_router(node, listener, router)).await
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
        self.watch.recorder().note(Some(host(id)), "kill", || "is killed".to_owned());
        self.world.kill(&host(id));
    }

    /// Power failure.
    pub fn crash(&self, id: NodeId, mode: CrashMode) {
        self.forget(id);
        self.watch.recorder().note(Some(host(id)), "crash", || format!("loses power: {mode:?}"));
        let report = self.world.crash(&host(id), mode);
        self.watch.coverage().reach(Site::TornWrite, report.is_partial());
    }

    /// The disk of node `id` begins to fail: its process may end by itself before it is crashed.
    pub fn begin_failing(&self, id: NodeId) {
        let mut inner = self.lock();
        *inner.failing.entry(id).or_default() += 1;
        if let Some(process) = inner.processes.get_mut(&id) {
            process.may_fail = true;
        }
    }

    /// The disk of node `id` works again. A process that has met its failure may still end of it.
    pub fn end_failing(&self, id: NodeId) {
        if let Some(faults) = self.lock().failing.get_mut(&id) {
            *faults = faults.saturating_sub(1);
        }
    }

    /// Bits of node `id`'s data have flipped.
    pub fn begin_rotten(&self, id: NodeId) {
        self.lock().rotten.insert(id);
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
        inner.rotten.remove(&id);
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
        self.lock().leaving.insert(id);
    }

    /// Whether what was lost with disks is more than a majority can make up for.
    #[must_use]
    pub fn is_unrecoverable(&self) -> bool {
        let destroyed: BTreeSet<NodeId> = {
            let inner = self.lock();
            inner.destroyed.union(&inner.refused).copied().collect()
        };
        self.watch.is_unrecoverable(&destroyed)
    }

    /// A clean stop; the process ends by itself when it is done.
    pub fn stop(&self, id: NodeId) {
        if let Some(process) = self.lock().processes.get_mut(&id) {
            process.ended = true;
            process.node.stop();
        }
    }

    /// A clean stop; waits until the process is gone.
    ///
    /// # Errors
    ///
    /// A liveness violation when it does not go.
    pub async fn stop_and_wait(&self, id: NodeId) -> Result<(), Violation> {
        let Some(life) = self.lock().processes.get(&id).map(|process| process.life) else {
            return Ok(());
        };
        self.stop(id);
        let deadline = rt::now::<SimEnv>() + STOP_LIMIT;
        while self.lock().processes.get(&id).is_some_and(|process| process.life == life) {
            if rt::now::<SimEnv>() > deadline {
                return Err(Violation::liveness(format!(
                    "stop: node {id} was told to stop and goes on"
                )));
            }
            rt::sleep::<SimEnv>(LOOK_INTERVAL).await;
        }
        Ok(())
    }

    /// Keeps node `id` from starting.
    pub fn hold(&self, id: NodeId) {
        *self.lock().holds.entry(id).or_default() += 1;
    }

    /// Undoes one [`hold`](Self::hold), and starts the node if it was the last.
    pub fn release(&self, id: NodeId) {
        if let Some(holds) = self.lock().holds.get_mut(&id) {
            *holds = holds.saturating_sub(1);
        }
        self.start(id);
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
                self.watch.compare(id, applied.index(), &image.state);
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
                View {
                    id: *id,
                    ready: node.is_ready(),
                    leader: status.leader,
                    voters: voters.collect(),
                    applied: node.image().and_then(|image| image.applied),
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

    /// What each running node believes, for a person who wonders why nothing happens.
    #[must_use]
    pub fn beliefs(&self) -> String {
        self.lock().processes.iter().map(|(id, process)| belief(*id, &process.node)).collect()
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

    fn born(&self, id: NodeId, node: Node<SimEnv>) -> u64 {
        let mut inner = self.lock();
        let life = inner.lives.entry(id).or_default();
        *life += 1;
        let life = *life;
        let may_fail =
            inner.failing.get(&id).is_some_and(|faults| *faults > 0) || inner.rotten.contains(&id);
        let process = Process { node, life, ended: false, may_fail };
        inner.processes.insert(id, process);
        life
    }

    fn died(&self, id: NodeId, life: u64, result: &Result<(), RunError>) {
        let expected = {
            let mut inner = self.lock();
            let Some(process) = inner.processes.get(&id).filter(|process| process.life == life)
            else {
                return;
            };
            let expected = match &result {
                Ok(()) => process.ended,
                Err(RunError::Removed(_)) => inner.leaving.contains(&id),
                // A new node on a new disk, before the old one is removed.
                Err(RunError::Refused(_)) => inner.destroyed.contains(&id),
                Err(_) => process.may_fail,
            };
            inner.processes.remove(&id);
            if matches!(result, Err(RunError::Open(OpenError::Corrupt(_))))
                && inner.rotten.contains(&id)
            {
                inner.refused.insert(id);
                self.watch.coverage().fire(Site::BitRotRefused);
            } else if expected && let Err(error) = &result {
                inner.ended.insert(id);
                self.watch
                    .coverage()
                    .reach(Site::DiskFaultStop, !matches!(error, RunError::Removed(_)));
            }
            expected
        };
        let how = match &result {
            Ok(()) => "ended".to_owned(),
            Err(error) => format!("ended: {error}"),
        };
        self.watch.recorder().note(Some(host(id)), "exit", || how.clone());
        if !expected {
            self.watch.report(Violation::safety(format!(
                "endurance: node {id} stopped by itself: {how}"
            )));
        }
    }

    /// A process that is about to be killed must not report its own end.
    fn forget(&self, id: NodeId) {
        self.lock().processes.remove(&id);
    }

    /// Notes that `node` leads, and whether its clock is behind its predecessor's.
    fn leads(&self, node: NodeId, term: u64) {
        if !self.watch.leads(node, term) {
            return;
        }
        let Some(former) = self.lock().leader.replace(node) else { return };
        if former != node {
            let clock = |id| self.world.clock(&host(id)).now();
            self.watch.coverage().reach(Site::ClockBehind, clock(node) < clock(former));
        }
    }

    fn lock(&self) -> MutexGuard<'_, Inner> {
        self.inner.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Inner {
    fn is_held(&self, id: NodeId) -> bool {
        self.holds.get(&id).is_some_and(|holds| *holds > 0)
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

/// Tells the checkers of every role that a node takes on in one life.
async fn watch_leadership(node: Node<SimEnv>, cluster: Cluster) {
    while node.raft().is_none() {
        rt::sleep::<SimEnv>(Duration::from_millis(1)).await;
    }
    let Some(raft) = node.raft() else { return };
    let mut metrics = raft.server_metrics();
    let mut known = None;
    loop {
        let (state, term) = {
            let metrics = metrics.borrow_watched();
            (metrics.state, metrics.vote.leader_id().term)
        };
        if known.replace((state, term)) != Some((state, term)) {
            let role = format!("{state:?}").to_lowercase();
            cluster.watch.recorder().role(node.id(), &role, term);
        }
        if state == ServerState::Leader {
            cluster.leads(node.id(), term);
        }
        if metrics.changed().await.is_err() {
            return;
        }
    }
}
