//! The operator of a simulated cluster: removes, replaces, hands over, over HTTP like anyone.

use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use hyper::Method;
use serde_json::json;
use yakt::env::rt;
use yakt::raft::NodeId;

use crate::env::SimEnv;
use crate::harness::client::{Answer, Client, Request};
use crate::harness::cluster::{Cluster, http};
use crate::harness::coverage::Site;

/// Where the operator sits.
const HOST: &str = "operator";

/// Pause before it asks again.
const RETRY_PAUSE: Duration = Duration::from_millis(200);

/// How long it asks for one thing before it looks whether that makes sense still.
const PATIENCE: Duration = Duration::from_secs(5);

/// How long a target may take to lead after leadership was handed to it.
const TRANSFER_LIMIT: Duration = Duration::from_secs(2);

/// An operator. Clones are the same one: it does one thing at a time.
#[derive(Clone)]
pub(super) struct Operator {
    cluster: Cluster,
    turn: Arc<tokio::sync::Mutex<()>>,
    busy: Arc<Mutex<String>>,
}

impl Operator {
    pub(super) fn new(cluster: Cluster) -> Self {
        Self { cluster, turn: Arc::default(), busy: Arc::default() }
    }

    /// What it is at, for a person who wonders why it does not end.
    pub(super) fn busy_with(&self) -> String {
        self.busy.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    fn note(&self, what: String) {
        self.cluster.watch().recorder().note(None, "operator", || what.clone());
        *self.busy.lock().unwrap_or_else(PoisonError::into_inner) = what;
    }

    /// Asks one node after the other until `done` likes an answer, at most until `deadline`.
    async fn ask(
        &self,
        request: Request,
        deadline: rt::Instant<SimEnv>,
        done: fn(&Answer) -> bool,
    ) -> bool {
        let size = self.cluster.size();
        // A process of its own: what it asks outlives nothing. The world allows one a host at a time, and the
        // operator's turn sees to that.
        let exchanges = self.cluster.exchanges().clone();
        let asked = self.cluster.world().start(HOST, move |env| async move {
            let mut client = Client::new(env).noting(exchanges);
            for node in (1..=size).cycle() {
                if client.send(&http(node), &request).await.is_ok_and(|answer| done(&answer)) {
                    return true;
                }
                if rt::now::<SimEnv>() >= deadline {
                    break;
                }
                rt::sleep::<SimEnv>(RETRY_PAUSE).await;
            }
            false
        });
        asked.await.unwrap_or(false)
    }

    /// What removes node `id`.
    pub(super) fn removal(id: NodeId) -> Request {
        Request { method: Method::DELETE, ..Request::get(format!("/cluster/nodes/{id}")) }
    }

    /// Removes node `id` by `deadline`; with `killed`, it is killed before and held. Says whether it is certainly
    /// removed; if not, it is released.
    pub(super) async fn remove(
        &self,
        id: NodeId,
        killed: bool,
        deadline: rt::Instant<SimEnv>,
    ) -> bool {
        let _turn = self.turn.lock().await;
        if rt::now::<SimEnv>() >= deadline {
            return false;
        }
        self.note(format!("removes node {id}"));
        self.cluster.expect_removal(id);
        if killed {
            self.cluster.hold(id);
            self.cluster.kill(id);
        }
        let removed = self.ask(Self::removal(id), deadline, is_removed).await;
        self.cluster.watch().coverage().reach(Site::Removal, removed);
        if killed && !removed {
            self.cluster.release(id);
        }
        removed
    }

    /// Removes node `id`, whose disk is gone and which is held, and starts a new one in its place. Does not give up
    /// while there is a majority to ask.
    pub(super) async fn replace(&self, id: NodeId) {
        let _turn = self.turn.lock().await;
        self.note(format!("replaces node {id}"));
        self.cluster.expect_removal(id);
        while !self.cluster.is_unrecoverable() {
            let soon = rt::now::<SimEnv>() + PATIENCE;
            if self.ask(Self::removal(id), soon, is_removed).await {
                self.cluster.note_removed(id);
                self.cluster.watch().coverage().fire(Site::Replacement);
                break;
            }
        }
        self.cluster.release(id);
    }

    /// Replaces nodes that will not start on their rotten data.
    pub(super) async fn replace_rotten(&self) {
        while let Some(id) = self.cluster.refused() {
            if self.cluster.is_unrecoverable() {
                return;
            }
            self.cluster.hold(id);
            self.cluster.destroy(id);
            self.replace(id).await;
        }
    }

    /// Hands leadership to node `to`.
    pub(super) async fn transfer(&self, to: NodeId) {
        let _turn = self.turn.lock().await;
        self.note(format!("hands over to node {to}"));
        let request = Request::post("/cluster/leader", json!({ "node": to }));
        if !self.ask(request, rt::now::<SimEnv>(), |answer| answer.status.is_success()).await {
            return;
        }
        let deadline = rt::now::<SimEnv>() + TRANSFER_LIMIT;
        while self.cluster.leader() != Some(to) && rt::now::<SimEnv>() < deadline {
            rt::sleep::<SimEnv>(RETRY_PAUSE).await;
        }
        self.cluster.watch().coverage().reach(Site::Transfer, self.cluster.leader() == Some(to));
    }

    /// Has node `id` take a snapshot.
    pub(super) async fn snapshot(&self, id: NodeId) {
        let _turn = self.turn.lock().await;
        self.note(format!("has node {id} take a snapshot"));
        let request = Request { method: Method::POST, ..Request::get("/cluster/snapshot") };
        let exchanges = self.cluster.exchanges().clone();
        let asked = self.cluster.world().start(HOST, move |env| async move {
            Client::new(env).noting(exchanges).send(&http(id), &request).await.is_ok()
        });
        drop(asked.await);
    }
}

/// Whether the node is gone: removed now, or nobody knows it.
fn is_removed(answer: &Answer) -> bool {
    answer.status.is_success() || answer.body["code"] == "unknown_member"
}
