//! Processes begin and end.

use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use openraft::ServerState;
use openraft::async_runtime::watch::WatchReceiver;
use yakt::env::{Env, rt};
use yakt::node::{ConnectionLimits, Node, NodeOptions, RunError};
use yakt::raft::NodeId;
use yakt::raft::storage::OpenError;

use super::{Cluster, LOOK_INTERVAL, Process, host, http};
use crate::env::SimEnv;
use crate::harness::Violation;
use crate::harness::coverage::{Count, Site};
use crate::harness::scenarios::NODES;

/// How long a node that was told to stop may take: the sum of the limits of its parts.
const STOP_LIMIT: Duration = Duration::from_secs(20);

/// What a node is told that comes with an empty disk under the id of a member.
const GHOST: &str = "is a member with another data directory; remove that member first";

impl Cluster {
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

    /// Starts node `id`, for the first time or again, unless it runs or something keeps it down.
    pub fn start(&self, id: NodeId) {
        if self.lock().holds.any(id) || self.world.is_running(&host(id)) {
            return;
        }
        if self.lock().torn.remove(&id) {
            self.watch.coverage().fire(Site::TornRecovery);
        }
        let options = self.options(id);
        self.note_addr(id);
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
        // The founder finds the others by its log; once they move, its operator has to say where they are.
        let told = match (is_founder, id) {
            (true, _) if !self.has_moved() => 0,
            (false, 2..) if self.founder_only && !self.has_moved() => 1,
            _ => NODES,
        };
        let others = (1..=told).filter(|other| *other != id);
        let ensemble = others.map(|other| self.raft_addr(other)).collect();
        NodeOptions {
            id,
            raft_addr: self.raft_addr(id),
            http_addr: http(id),
            ensemble,
            data: PathBuf::from("/data"),
            raft: self.raft.clone(),
            observer: Some(self.watch.observer(id)),
            connections: ConnectionLimits::default(),
            instance: None,
        }
    }

    async fn serve(&self, node: Node<SimEnv>) -> Result<(), RunError> {
        let addr = http(node.id());
        let listener = node.env().listen(&addr).await;
        let listener = listener.map_err(|source| RunError::Listen { addr, source })?;
        let router = (self.subject.service)(node.clone());
        Box::pin(yakt::server::run_router(node, listener, router)).await
    }

    fn born(&self, id: NodeId, node: Node<SimEnv>) -> u64 {
        self.watch.started(id);
        let mut inner = self.lock();
        let life = inner.lives.entry(id).or_default();
        *life += 1;
        let life = *life;
        // A node that cannot open its files does not start. One that has opened them goes on.
        let may_fail =
            inner.failing.any(id) || inner.exhausted.any(id) || inner.rotten.contains(&id);
        let may_stop_late = inner.slow.any(id);
        let process = Process { node, life, ended: false, may_fail, may_stop_late };
        inner.processes.insert(id, process);
        life
    }

    fn died(&self, id: NodeId, life: u64, result: &Result<(), RunError>) {
        self.end_copy(id);
        let expected = {
            let mut inner = self.lock();
            let Some(process) = inner.processes.get(&id).filter(|process| process.life == life)
            else {
                return;
            };
            // What it asked for on its old disk was still under way when that was removed, and made it a member
            // again. Its operator has to remove it once more. (Found by simulation: swarm, seed 800000877.)
            let has_ghost = inner.replaced.contains(&id)
                && matches!(result, Err(RunError::Refused(why)) if why.contains(GHOST));
            let expected = match &result {
                Ok(()) => process.ended,
                Err(RunError::StoppedLate) if process.ended && process.may_stop_late => true,
                Err(RunError::Removed(_)) => inner.leaving.contains(&id),
                // A new node on a new disk, before the old one is removed.
                Err(RunError::Refused(_)) => inner.destroyed.contains(&id) || has_ghost,
                // Its own directory, or the leader's, has forgotten something.
                Err(RunError::Breach(_)) => !inner.relapsed.is_empty(),
                Err(_) => process.may_fail,
            };
            inner.processes.remove(&id);
            if matches!(result, Err(RunError::Open(OpenError::Corrupt(_))))
                && inner.rotten.contains(&id)
            {
                inner.refused.insert(id);
                self.watch.coverage().add(Site::BitRotRefused, Count { reached: 0, fired: 1 });
            } else if has_ghost {
                inner.refused.insert(id);
            } else if expected && matches!(result, Err(RunError::Breach(_))) {
                // Its operator removes it, like a node whose data has rotted.
                inner.rotten.insert(id);
                inner.refused.insert(id);
                self.watch.coverage().fire(Site::BreachStop);
            } else if expected && let Err(error) = &result {
                inner.ended.insert(id);
                let is_other = matches!(
                    error,
                    RunError::Removed(_) | RunError::Refused(_) | RunError::StoppedLate
                );
                self.watch.coverage().reach(Site::DiskFaultStop, !is_other);
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
    pub(super) fn forget(&self, id: NodeId) {
        self.lock().processes.remove(&id);
    }

    /// A clean stop; the process ends by itself when it is done.
    pub fn stop(&self, id: NodeId) {
        self.end_copy(id);
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
        self.lock().holds.begin(id);
    }

    /// Undoes one [`hold`](Self::hold), and starts the node if it was the last.
    pub fn release(&self, id: NodeId) {
        self.lock().holds.end(id);
        self.start(id);
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
}

/// Tells the checkers of every role that a node takes on in one life, and of all members that it
/// shows.
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
        let membership = Arc::clone(&metrics.borrow_watched().membership_config);
        cluster.watch.shows(&node.status(), membership.membership());
        if metrics.changed().await.is_err() {
            return;
        }
    }
}
