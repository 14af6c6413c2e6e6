//! From start to stop.

use std::collections::BTreeSet;
use std::future::Future;
use std::time::Duration;

use openraft::AsyncRuntime;
use openraft::async_runtime::watch::WatchReceiver;
use openraft_rt::{Select2, Select3, Select4};

use super::join::Refused;
use super::propose::leader;
use super::{Node, REQUEST_DEADLINE, Running};
use crate::env::{Env, rt};
use crate::raft::candidacy::Candidacy;
use crate::raft::config::raft_config;
use crate::raft::guard::{Breach, Breaches, Guard};
use crate::raft::network::message::{Request, Response};
use crate::raft::network::{Network, server};
use crate::raft::state_machine::StateMachine;
use crate::raft::storage::{Identity, OpenError, Store};
use crate::raft::{NodeId, Raft};

/// How long a leader that stops waits for another to take over.
const HANDOVER_LIMIT: Duration = Duration::from_millis(1_500);

/// How long it gives each follower that it asks to take over.
const HANDOVER_ATTEMPT: Duration = Duration::from_millis(400);

/// The task that accepts connections on the Raft port.
const ACCEPTING: &str = "accepting Raft connections";

/// How long Raft may take to stop.
const SHUTDOWN_LIMIT: Duration = Duration::from_secs(3);

/// Why a node stopped, or never started.
#[derive(Debug, thiserror::Error)]
pub enum RunError {
    /// Its data directory cannot be used.
    #[error(transparent)]
    Open(#[from] OpenError),
    /// Its Raft address cannot be bound.
    #[error("cannot listen on {addr}: {source}")]
    Listen {
        /// The address.
        addr: String,
        /// The reason.
        source: std::io::Error,
    },
    /// The cluster will not have it.
    #[error("the cluster refused this node: {0}")]
    Refused(String),
    /// Another process runs as this node: one of the two is on a copy of the other's directory.
    #[error("{}", super::original::running_at(*node, addr))]
    Copy {
        /// This node.
        node: NodeId,
        /// The Raft address of the other process.
        addr: String,
    },
    /// It would found a second cluster: another one has it for a member, on another data directory.
    #[error(
        "cluster {cluster} expects node {node} at {addr} with another data directory: no second cluster is founded here. To \
         bring the node back, remove it there (`yakt remove ADDR --node {node}`) and start it with -e and the address of a \
         member; or found the new cluster at another address"
    )]
    Expected {
        /// This node.
        node: NodeId,
        /// Its Raft address.
        addr: String,
        /// The cluster that expects it.
        cluster: uuid::Uuid,
    },
    /// It is alone in the cluster that it founded, and a node that its options name as a member belongs to
    /// another one.
    #[error(
        "this data directory belongs to cluster {own}, which this node founded and is alone in, and {addr} belongs to \
         cluster {other}. To join that cluster, start with an empty directory: the metadata in this one is not taken \
         over. To keep this cluster, leave -e out"
    )]
    OtherCluster {
        /// This node's cluster.
        own: uuid::Uuid,
        /// The address of the other node.
        addr: String,
        /// The cluster of the other node.
        other: uuid::Uuid,
    },
    /// It was a member, and is no more.
    #[error("node {0} was removed from the cluster; started again, it would ask to join anew")]
    Removed(NodeId),
    /// Its directory is not what the cluster relies on: see [`guard`](crate::raft::guard).
    #[error(transparent)]
    Breach(#[from] Breach),
    /// A task without which the node is no use has panicked: a bug.
    #[error("{0} ended by a panic, which is a bug; its message is on standard error")]
    Task(&'static str),
    /// Raft stopped: its disk failed, or it found a state that must not be.
    #[error("consensus stopped: {0}")]
    Fatal(String),
    /// It was told to stop, and did not wait any longer for what it was writing: its disk takes long. Nothing
    /// that was acknowledged is lost; the next start recovers, as after a crash.
    #[error("stopped without a last flush: the disk takes longer than {SHUTDOWN_LIMIT:?}")]
    StoppedLate,
    /// Its options contradict each other.
    #[error("bad options: {0}")]
    Options(String),
}

impl From<Refused> for RunError {
    fn from(Refused(reason): Refused) -> Self {
        Self::Refused(reason)
    }
}

impl<E: Env> Node<E> {
    /// Runs the node until [`stop`](Self::stop) is called, and then stops it cleanly.
    ///
    /// # Errors
    ///
    /// See [`RunError`]. After an error nothing of the node goes on, and its directory is as safe as after
    /// a crash.
    ///
    /// # Panics
    ///
    /// When called twice.
    pub async fn run(&self) -> Result<(), RunError> {
        let opened = self.unless_stopped(self.open()).await;
        let listener = match opened {
            Some(opened) => opened?,
            None => return Ok(()),
        };
        let running = self.running().expect("open() has just set it");
        let directory = running.identity.directory;
        let candidacy = running.candidacy.clone();
        let local = server::Local {
            node: self.id(),
            directory,
            cluster: running.identity.cluster,
            heard: running.heard.clone(),
            stop: self.inner.stop.subscribe(),
            sent: running.network.sent().clone(),
            expected_by: running.expected_by.clone(),
            raft: running.raft.clone(),
            candidacy: candidacy.clone(),
            guard: Guard::new(running.log.clone(), running.breaches.clone()),
            observer: self.inner.options.observer.clone(),
        };
        let node = self.clone();
        let serving = rt::spawn::<E, _>(self.clone().until_stopped(server::serve(
            listener,
            self.connection_limits().raft,
            local,
            move |request| {
                let node = node.clone();
                async move { node.answer(request).await }
            },
        )));
        running.raft.run();
        let node = self.clone();
        let keeping = rt::spawn::<E, _>(candidacy.keep(async move { node.stopped().await }));

        let mut serving = Box::pin(serving);
        let failed = async {
            match E::Runtime::select3(
                Box::pin(running.breaches.wait()),
                Box::pin(self.fatal(running)),
                Box::pin(self.work(running)),
            )
            .await
            {
                Select3::First(breach) => RunError::Breach(breach),
                // Raft ends of a breach that its storage reported.
                Select3::Second(error) => running.breaches.first().map_or(error, RunError::Breach),
                Select3::Third(error) => error,
            }
        };
        let (stopped, failed) = (Box::pin(self.stopped()), Box::pin(failed));
        let accepting = Box::pin(until_panic(serving.as_mut()));
        let standing = Box::pin(until_panic(keeping));
        let result = match E::Runtime::select4(stopped, failed, accepting, standing).await {
            Select4::First(()) => {
                self.hand_over(running).await;
                Ok(())
            }
            Select4::Second(error) => Err(error),
            Select4::Third(()) => Err(RunError::Task(ACCEPTING)),
            Select4::Fourth(()) => Err(RunError::Task("deciding whether to stand for election")),
        };
        self.inner.stop.send_replace(true);
        let shutdown = rt::timeout::<E, _>(SHUTDOWN_LIMIT, join_raft(running)).await;
        if !matches!(result, Err(RunError::Task(ACCEPTING))) {
            drop(serving.await);
        }
        if result.is_ok() {
            shutdown.ok_or(RunError::StoppedLate)?;
            match rt::timeout::<E, _>(SHUTDOWN_LIMIT, running.log.writer().flush()).await {
                None => return Err(RunError::StoppedLate),
                Some(flushed) => flushed.map_err(|error| RunError::Fatal(error.to_string()))?,
            }
        }
        result
    }

    /// Opens the directory, learns the cluster, and builds everything; Raft does not run yet.
    async fn open(&self) -> Result<E::Listener, RunError> {
        let (env, options) = (&self.inner.env, &self.inner.options);
        let mut store =
            Store::open(env.clone(), &options.data, options.id, options.raft.log_segment_bytes)
                .await?;
        let (listener, identity) = match store.identity() {
            Some(identity) => (self.listen().await?, identity),
            None => {
                let founder = options.ensemble.is_empty();
                let (listener, cluster) = if founder {
                    (self.listen_before_founding().await?, rt::random_uuid::<E>())
                } else {
                    self.wait_for_cluster().await?
                };
                let identity = Identity {
                    cluster,
                    node: options.id,
                    directory: rt::random_uuid::<E>(),
                    founder,
                };
                store.claim(identity).await.map_err(OpenError::Io)?;
                (listener, identity)
            }
        };
        let page_bytes = options.raft.snapshot_page_bytes();
        let (log, snapshots) = store.into_parts(options.observer.clone(), page_bytes).await?;
        let breaches = Breaches::default();
        let (state_machine, images, snapshot_due) = StateMachine::new(
            snapshots,
            options.raft.snapshot_entries,
            log.appended().clone(),
            options.observer.clone(),
            breaches.clone(),
        );
        let network = Network::new(
            self.inner.names.clone(),
            options.id,
            identity.cluster,
            options.raft.snapshot_chunk_bytes,
            options.observer.clone(),
        );
        let config =
            raft_config(&options.raft).map_err(|error| RunError::Options(error.to_string()))?;
        let raft =
            Raft::<E>::build(options.id, config, network.clone(), log.clone(), state_machine)
                .await
                .map_err(|error| RunError::Fatal(error.to_string()))?;
        let running = Running {
            heard: server::LeaderHeard::default(),
            candidacy: Candidacy::new(raft.clone(), options.id, identity.directory),
            copy_lines: std::sync::Mutex::default(),
            first_move: std::sync::Mutex::default(),
            expected_by: tokio::sync::watch::channel(None).0,
            identity,
            raft,
            log,
            network,
            images,
            snapshot_due,
            breaches,
        };
        assert!(self.inner.running.set(running).is_ok(), "a node runs once");
        Ok(listener)
    }

    pub(super) async fn listen(&self) -> Result<E::Listener, RunError> {
        let addr = &self.inner.options.raft_addr;
        let listener = self.inner.env.listen(addr).await;
        listener.map_err(|source| RunError::Listen { addr: addr.clone(), source })
    }

    /// Founds or joins the cluster, and does the leader's duties whenever this node leads.
    async fn work(&self, running: &Running<E>) -> RunError {
        let entering = async {
            match self.enter(running).await {
                Ok(()) => self.stay(running).await,
                Err(error) => error,
            }
        };
        let duties = Box::pin(self.duties(running));
        let snapshots = Box::pin(self.take_due_snapshots(running));
        let expected = Box::pin(self.expected_elsewhere(running));
        let other = Box::pin(self.other_cluster(running));
        let expected = Box::pin(async move { E::Runtime::select2(expected, other).await });
        let progress = Box::pin(self.watch_progress(running));
        let duties = Box::pin(async move { E::Runtime::select2(duties, progress).await });
        match E::Runtime::select4(expected, Box::pin(entering), duties, snapshots).await {
            Select4::First(Select2::First(error) | Select2::Second(error))
            | Select4::Second(error) => error,
            Select4::Third(Select2::First(never) | Select2::Second(never))
            | Select4::Fourth(never) => match never {},
        }
    }

    async fn enter(&self, running: &Running<E>) -> Result<(), RunError> {
        let fatal = |error: &dyn std::fmt::Display| RunError::Fatal(error.to_string());
        if running.identity.founder {
            // The founder may have crashed between claiming its directory and the first entry of its log.
            if !running.raft.is_initialized().await.map_err(|error| fatal(&error))? {
                let member = (self.id(), self.peer(running));
                let members = std::collections::BTreeMap::from([member]);
                running.raft.initialize(members).await.map_err(|error| fatal(&error))?;
            }
        }
        self.join_as_original(running).await
    }

    /// Answers what other nodes ask, Raft's own messages aside.
    async fn answer(&self, request: Request<E>) -> Response<E> {
        match request {
            Request::Propose { change, idempotency } => {
                self.propose_here(change, idempotency, REQUEST_DEADLINE).await
            }
            Request::ReadIndex(reader) => self.read_index_for_peer(reader).await,
            Request::ConfirmLeader(leadership) => self.confirm_leader(leadership).await,
            Request::Identify => match self.running() {
                Some(running) => Response::Cluster(running.identity.cluster),
                None => Response::Unavailable("this node is starting".to_owned()),
            },
            Request::Join { node, peer, passed_on } => self.admit(node, peer, passed_on).await,
            Request::Member { node, directory } => self.answer_doubt(node, directory).await,
            Request::Instance => self.own_instance(),
            Request::Copied { addr } => self.note_copy(&addr),
            Request::Reach { node, peer } => self.reach(node, &peer).await,
            change @ (Request::Remove { .. } | Request::HandOver { .. }) => {
                self.change_here(change).await
            }
            _ => Response::Refused("not a question for a node".to_owned()),
        }
    }

    /// Ends when Raft has, and is joined: what else this node does is dropped as soon as this returns.
    async fn fatal(&self, running: &Running<E>) -> RunError {
        // These change when roles do, and are gone when Raft is. The other metrics change several times in a write, and
        // each change would wake this task for nothing.
        let mut roles = running.raft.server_metrics();
        while roles.changed().await.is_ok() {}
        // It ended already: this only joins it.
        join_raft(running).await;
        let why = running.raft.metrics().borrow_watched().running_state.clone().err();
        RunError::Fatal(why.map_or_else(|| "Raft is gone".to_owned(), |why| why.to_string()))
    }

    /// Makes another voter the leader before this one leaves, so that clients need not wait out an
    /// election timeout (the dissertation §3.10). Best effort: without it the cluster elects as after a crash.
    pub(super) async fn hand_over(&self, running: &Running<E>) {
        let deadline = rt::now::<E>() + HANDOVER_LIMIT;
        let mut tried = BTreeSet::new();
        while leader(running) == Some(self.id()) && rt::now::<E>() < deadline {
            let Some(heir) = self.heir(running, &tried) else { return };
            tried.insert(heir);
            self.hand_over_to(running, heir).await;
        }
    }

    /// Asks `heir` to take over, and gives it [`HANDOVER_ATTEMPT`] for it. From then on this leader takes no
    /// writes and is silent: if the heir does not take over, another voter will, or this one again.
    pub(super) async fn hand_over_to(&self, running: &Running<E>, heir: NodeId) {
        tracing::info!(heir, "handing over");
        if running.raft.trigger().transfer_leader(heir).await.is_err() {
            return;
        }
        let handed_over = async {
            let mut metrics = running.raft.server_metrics();
            while metrics.borrow_watched().current_leader.is_none_or(|known| known == self.id()) {
                if metrics.changed().await.is_err() {
                    return;
                }
            }
        };
        let _ = rt::timeout::<E, _>(HANDOVER_ATTEMPT, handed_over).await;
    }

    /// Of the other voters that were not tried yet, the one with the longest log.
    fn heir(&self, running: &Running<E>, tried: &BTreeSet<NodeId>) -> Option<NodeId> {
        let metrics = running.raft.metrics();
        let metrics = metrics.borrow_watched();
        let replication = metrics.replication.as_ref()?;
        let voters = metrics
            .membership_config
            .membership()
            .voter_ids()
            .filter(|id| *id != self.id() && !tried.contains(id));
        voters.max_by_key(|id| replication.get(id).copied().flatten())
    }

    async fn stopped(&self) {
        let mut stop = self.inner.stop.subscribe();
        // The sender is in `self`, so this ends by a stop only.
        drop(stop.wait_for(|stop| *stop).await);
    }

    async fn unless_stopped<T: Send>(&self, work: impl Future<Output = T> + Send) -> Option<T> {
        match E::Runtime::select2(Box::pin(self.stopped()), Box::pin(work)).await {
            Select2::First(()) => None,
            Select2::Second(output) => Some(output),
        }
    }

    async fn until_stopped(self, work: impl Future<Output = ()> + Send) {
        self.unless_stopped(work).await;
    }
}

/// Ends when `task` panics, and only then.
async fn until_panic<T, P>(task: impl Future<Output = Result<T, P>>) {
    if task.await.is_ok() {
        std::future::pending::<()>().await;
    }
}

/// Stops Raft, or finds it stopped, and joins it: in a task of its own, which goes on when nobody waits for it any more.
///
/// Whoever asks a Raft that has ended waits for the end of its task to learn why. openraft hands that wait to the first
/// who asks, or who shuts it down; if that one is dropped meanwhile, the next one panics ("`RaftCore` should have already
/// quit"). A node that stopped late, on a disk that stood still, had dropped it. (Found by simulation: swarm, seed
/// 2000076.)
async fn join_raft<E: Env>(running: &Running<E>) {
    let raft = running.raft.clone();
    drop(rt::spawn::<E, _>(async move { raft.shutdown().await }).await);
}
