//! Which process is which node: the Raft addresses of nodes, and copies of their directories.
//!
//! A node keeps its host. Its Raft address may be another port of the host, the address of another node (which the name
//! service then leads to this host), or a wrong one: an address that leads every caller to itself.
//!
//! A copy of node K's directory runs on host `cK`. Its original guards a run: as soon as a fault strikes the original, the
//! copy is killed ([`Cluster::end_copy`]). Nothing in the directory says which of the two is the original, so a copy that
//! starts while the original is away is the node.

use std::sync::{Arc, Mutex, PoisonError};

use openraft::async_runtime::watch::WatchReceiver;
use yakt::env::rt;
use yakt::node::{Node, NodeOptions, RunError};
use yakt::raft::NodeId;
use yakt::raft::observe::{Observer, Step};

use super::{Cluster, host, http};
use crate::env::SimEnv;
use crate::harness::Violation;
use crate::harness::scenarios::NODES;

/// Ports at which a node that moves listens.
const PORTS: [u16; 3] = [5_010, 6_010, 7_010];

/// How a copy ended by itself.
#[derive(Clone, Debug)]
pub struct End {
    /// Whether the copy itself found its original.
    pub by_itself: bool,
    /// What it said.
    pub how: String,
}

type Ended = Arc<Mutex<Option<End>>>;

/// The host of a copy of node `id`'s directory.
#[must_use]
pub fn copy_host(id: NodeId) -> String {
    format!("c{id}")
}

/// A copy of a node's directory that runs.
#[derive(Clone, Debug)]
pub struct Copy {
    id: NodeId,
    ended: Ended,
}

impl Copy {
    /// The node whose directory it is.
    #[must_use]
    pub fn id(&self) -> NodeId {
        self.id
    }

    /// How it ended, if it did so by itself.
    #[must_use]
    pub fn ended(&self) -> Option<End> {
        self.ended.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }
}

fn split(addr: &str) -> (&str, u16) {
    let (name, port) = addr.rsplit_once(':').unwrap_or((addr, "0"));
    (name, port.parse().unwrap_or(0))
}

impl Cluster {
    /// The Raft address at which node `id` is started next.
    #[must_use]
    pub fn raft_addr(&self, id: NodeId) -> String {
        let inner = self.lock();
        let known = inner.misplaced.get(&id).or_else(|| inner.addrs.get(&id));
        known.cloned().unwrap_or_else(|| format!("{}:{}", host(id), PORTS[0]))
    }

    /// Where its peers find node `id`: not where it wrongly says that it is.
    fn right_addr(&self, id: NodeId) -> String {
        let known = self.lock().addrs.get(&id).cloned();
        known.unwrap_or_else(|| format!("{}:{}", host(id), PORTS[0]))
    }

    /// Whether some node was ever started under another address than its first.
    pub(super) fn has_moved(&self) -> bool {
        !self.lock().addrs.is_empty()
    }

    /// Tells the checkers where node `id` is, unless it does not know itself.
    pub(super) fn note_addr(&self, id: NodeId) {
        if !self.lock().misplaced.contains_key(&id) {
            self.watch.is_at(id, &self.right_addr(id));
        }
    }

    /// From the next start on, node `id` is at another port of its host.
    pub fn relocate(&self, id: NodeId) {
        let taken: Vec<_> = (1..=NODES).map(|id| self.right_addr(id)).collect();
        let ports = PORTS.iter().map(|port| format!("{}:{port}", host(id)));
        if let Some(addr) = ports.into_iter().find(|addr| !taken.contains(addr)) {
            self.readdress(id, addr);
        }
    }

    /// From their next starts on, two nodes have exchanged their addresses.
    pub fn swap(&self, a: NodeId, b: NodeId) {
        let (at_a, at_b) = (self.right_addr(a), self.right_addr(b));
        self.readdress(a, at_b);
        self.readdress(b, at_a);
    }

    fn readdress(&self, id: NodeId, addr: String) {
        self.world.net().redirect(split(&addr), &host(id));
        self.watch.recorder().note(Some(host(id)), "address", || format!("will be at {addr}"));
        self.lock().addrs.insert(id, addr);
    }

    /// From its next start on, node `id` takes an address for its own that leads every caller to itself; with `lost`,
    /// nothing listens at its right address either.
    pub fn misplace(&self, id: NodeId, lost: bool) {
        let right = self.right_addr(id);
        let (_, port) = split(&right);
        let port = if lost { port + 1_000 } else { port };
        let mut inner = self.lock();
        let right = inner.addrs.entry(id).or_insert(right).clone();
        let wrong = format!("127.0.0.1:{port}");
        self.watch
            .recorder()
            .note(Some(host(id)), "address", || format!("will take {right} for {wrong}"));
        inner.misplaced.insert(id, wrong);
    }

    /// From its next start on, node `id` knows its address again.
    pub fn find_place(&self, id: NodeId) {
        self.lock().misplaced.remove(&id);
    }

    /// Whether the leader has applied a membership with every node where it is. Says how many voters there are then.
    #[must_use]
    pub fn settled_voters(&self) -> Option<usize> {
        let node = self.node(self.leader()?)?;
        let image = node.image()?;
        let members = image.membership.membership();
        let settled = members.nodes().all(|(id, peer)| peer.raft == self.right_addr(*id));
        let calm = {
            let inner = self.lock();
            inner.misplaced.is_empty() && inner.destroyed.is_empty() && inner.refused.is_empty()
        };
        let whole = members.get_joint_config().len() == 1;
        (settled && calm && whole).then(|| members.voter_ids().count())
    }

    /// Whether the leader has applied a membership with node `id` where it is.
    #[must_use]
    pub fn is_found(&self, id: NodeId) -> bool {
        let members = self.leader().and_then(|leader| self.node(leader)?.image());
        members.is_some_and(|image| {
            let peer = image.membership.membership().get_node(&id);
            peer.is_some_and(|peer| peer.raft == self.right_addr(id))
        })
    }

    /// Whether node `id` runs, serves, and nothing is broken about it or about to be.
    #[must_use]
    pub fn is_sound(&self, id: NodeId) -> bool {
        let Some(node) = self.node(id) else { return false };
        let voter = node.raft().is_some_and(|raft| {
            let metrics = raft.metrics();
            let metrics = metrics.borrow_watched();
            metrics.membership_config.membership().voter_ids().any(|voter| voter == id)
        });
        let inner = self.lock();
        voter
            && node.is_ready()
            && !inner.holds.any(id)
            && !inner.slow.any(id)
            && !inner.failing.any(id)
            && !inner.rotten.contains(&id)
            && !inner.leaving.contains(&id)
            && !inner.misplaced.contains_key(&id)
    }

    /// Whether node `id` and every other node hear each other in time.
    #[must_use]
    pub fn is_well_connected(&self, id: NodeId) -> bool {
        (1..=NODES).filter(|other| *other != id).all(|other| {
            !self.lock().slow.any(other)
                && (!self.world.is_running(&host(other))
                    || self.world.net().is_plain_between(&host(id), &host(other)))
        })
    }

    /// Starts a copy of node `id`'s directory, as it is now, on another host. `None` if the node is not sound, or has a
    /// copy that runs.
    pub fn start_copy(&self, id: NodeId) -> Option<Copy> {
        let place = copy_host(id);
        if !self.is_sound(id) || self.world.is_running(&place) {
            return None;
        }
        self.world.disk(&place).copy_from(&self.world.disk(&host(id)));
        let options = NodeOptions {
            id,
            raft_addr: format!("{place}:{}", PORTS[0]),
            http_addr: http(id),
            ensemble: (1..=NODES)
                .filter(|other| *other != id)
                .map(|other| self.right_addr(other))
                .collect(),
            data: std::path::PathBuf::from("/data"),
            raft: self.raft.clone(),
            connections: yakt::node::ConnectionLimits::default(),
            instance: None,
            observer: Some(self.copy_observer(id)),
        };
        let copy = Copy { id, ended: Ended::default() };
        self.watch.recorder().note(Some(host(id)), "copy", || format!("a copy starts on {place}"));
        self.lock().copies.insert(id);
        let (cluster, ended) = (self.clone(), Arc::clone(&copy.ended));
        drop(self.world.start(&place, move |env| async move {
            let node: Node<SimEnv> = Node::new(env, options);
            let result = Box::pin(node.run()).await;
            let by_itself = matches!(result, Err(RunError::Copy { .. }));
            let how = result.map_or_else(|error| error.to_string(), |()| "it stopped".to_owned());
            cluster.watch.recorder().note(Some(host(id)), "copy", || format!("ends: {how}"));
            *ended.lock().unwrap_or_else(PoisonError::into_inner) = Some(End { by_itself, how });
        }));
        Some(copy)
    }

    /// Kills the copy of node `id`'s directory, if one runs: the original cannot answer for itself any more.
    pub fn end_copy(&self, id: NodeId) {
        if self.lock().copies.remove(&id) {
            self.world.kill(&copy_host(id));
        }
    }

    /// Whether `copy` was not killed.
    #[must_use]
    pub fn is_guarded(&self, copy: &Copy) -> bool {
        self.lock().copies.contains(&copy.id)
    }

    /// Reports every step of a copy that counts in an election: its original may take the same step with another result.
    fn copy_observer(&self, id: NodeId) -> Observer {
        let cluster = self.clone();
        Observer(Arc::new(move |step| {
            let what = match step {
                Step::VoteAnswered { granted: true, .. } => "votes",
                Step::Sent(message) if matches!(message.kind, "vote" | "pre-vote") => "stands",
                _ => return,
            };
            let at = rt::now::<SimEnv>();
            cluster.watch.report(Violation::safety(format!(
                "identity: a copy of node {id}'s directory {what} in an election while the original runs ({at:?})"
            )));
        }))
    }
}
