//! One member of the cluster: storage, Raft and metadata wired together, from start to stop.
//!
//! - [`Node::run`] opens the data directory, finds or founds the cluster, and serves its peers until it is
//!   told to stop or its disk fails.
//! - [`Node::propose`] makes a change, wherever it is asked: on the leader directly, elsewhere by asking the
//!   leader. [`Node::read`] gives the metadata to read from.
//! - [`Node::status`] is what it knows about the cluster.
//! - [`Node::remove_member`], [`Node::transfer_leader`] and [`Node::take_snapshot`] are what an operator asks for.
//!   Members join by themselves, when they start.
//!
//! A `Node` answers before, while and after it runs; without a cluster to speak of it says so.

use std::path::PathBuf;
use std::sync::{Arc, OnceLock};
use std::time::Duration;

use tokio::sync::{Mutex, watch};
use uuid::Uuid;

use crate::env::{Env, rt};
use crate::metadata::Timestamp;
use crate::quiet::Quiet;
use crate::raft::candidacy::Candidacy;
use crate::raft::config::RaftOptions;
use crate::raft::guard::Breaches;
use crate::raft::network::server::LeaderHeard;
use crate::raft::network::{Names, Network, message::ReadIndex};
use crate::raft::observe::Observer;
use crate::raft::state_machine::{Image, Images, SnapshotDue};
use crate::raft::storage::{Identity, LogStore};
use crate::raft::{NodeId, Peer, Raft, Tally};

mod answers;
mod callers;
mod clock;
mod coalesce;
mod connections;
mod duties;
mod ensemble;
mod founding;
mod join;
mod leadership;
mod lifecycle;
mod members;
mod original;
mod peers;
mod propose;
mod read;
mod removed;
mod snapshot;
mod stall;
mod status;

pub use clock::CLOCK_LEAD_MAX;
use coalesce::Coalesce;
pub use connections::{ConnectionLimits, HTTP_CONNECTIONS_MAX, RAFT_CONNECTIONS_MAX};
pub use lifecycle::RunError;
pub use members::MemberError;
pub use propose::ProposeError;
pub use read::{Consistency, ReadError, TIME_RESOLUTION};
pub use snapshot::SnapshotError;
pub use status::{ClusterStatus, MemberStatus, Role};

/// How long a client's request may take before it is answered, whatever the cluster does. An election
/// fits in several times over, and once where heartbeats are as seldom as they may be.
pub const REQUEST_DEADLINE: Duration = Duration::from_secs(3);

/// Proposals that a node has under way at once. Past it new ones are turned away: they would only wait.
pub const PROPOSALS_MAX: usize = 8_192;

/// Pause between two attempts when the leader is unknown or has just changed.
const RETRY_PAUSE: Duration = Duration::from_millis(20);

/// A node's settings.
#[derive(Clone, Debug)]
pub struct NodeOptions {
    /// Its id, 1 or more, unique in the cluster.
    pub id: NodeId,
    /// `HOST:PORT` that its peers reach it at, and that it listens on.
    pub raft_addr: String,
    /// `HOST:PORT` that its clients reach it at.
    pub http_addr: String,
    /// Addresses of members of the cluster to join; empty to found one in a new directory.
    pub ensemble: Vec<String>,
    /// Its data directory.
    pub data: PathBuf,
    /// Raft's settings.
    pub raft: RaftOptions,
    /// Who is shown every step of this node, if anyone.
    pub observer: Option<Observer>,
    /// Limits on the connections that the node accepts.
    pub connections: ConnectionLimits,
    /// A name for this process, which the answers of `/cluster` and `/readyz` carry. `None` draws
    /// one. By this name, a program that starts a node can tell its own process from another one at
    /// the same address.
    pub instance: Option<Uuid>,
}

/// A member of the cluster. Clones are the same node.
pub struct Node<E: Env> {
    inner: Arc<Inner<E>>,
}

struct Inner<E: Env> {
    env: E,
    /// Names this process: see [`original`].
    instance: Uuid,
    /// Resolves names for every connection to another node, before and after this node joins.
    names: Names<E>,
    options: NodeOptions,
    running: OnceLock<Running<E>>,
    stop: watch::Sender<bool>,
    proposals: tokio::sync::Semaphore,
    read_index: Coalesce<Option<ReadIndex>>,
    ticks: Coalesce<Option<Timestamp>>,
    /// The voters' clocks, as they were reported to this node while it led.
    clocks: clock::Clocks<rt::Instant<E>>,
    /// Whether this node, as leader, commits the entries that it appends: see `stall`.
    progress: stall::Progress,
    /// Held by the leader over a membership change: one at a time (Raft §6).
    membership: Mutex<()>,
}

/// What exists once the directory is open and the cluster known.
struct Running<E: Env> {
    identity: Identity,
    raft: Raft<E>,
    log: LogStore<E>,
    network: Network<E>,
    images: Images<E>,
    snapshot_due: SnapshotDue,
    heard: LeaderHeard<E>,
    breaches: Breaches,
    candidacy: Candidacy<E>,
    /// Lines about a copy of this node's directory.
    copy_lines: std::sync::Mutex<Quiet<rt::Instant<E>>>,
    /// The last term in which this node led and was asked to note an address, and the time of the
    /// first such request.
    first_move: std::sync::Mutex<Option<(crate::raft::Term, rt::Instant<E>)>>,
    /// Another cluster that expects this node: see [`founding`].
    expected_by: watch::Sender<Option<Uuid>>,
}

impl<E: Env> Clone for Node<E> {
    fn clone(&self) -> Self {
        Self { inner: Arc::clone(&self.inner) }
    }
}

impl<E: Env> std::fmt::Debug for Node<E> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Node").field("id", &self.id()).finish_non_exhaustive()
    }
}

impl<E: Env> Node<E> {
    /// A node that does nothing until it is [`run`](Self::run).
    #[must_use]
    pub fn new(env: E, options: NodeOptions) -> Self {
        let inner = Inner {
            instance: options.instance.unwrap_or_else(rt::random_uuid::<E>),
            names: Names::new(env.clone()),
            env,
            options,
            running: OnceLock::new(),
            stop: watch::channel(false).0,
            proposals: tokio::sync::Semaphore::new(PROPOSALS_MAX),
            read_index: Coalesce::default(),
            ticks: Coalesce::default(),
            clocks: clock::Clocks::default(),
            progress: stall::Progress::default(),
            membership: Mutex::default(),
        };
        Self { inner: Arc::new(inner) }
    }

    /// The world it lives in.
    #[must_use]
    pub fn env(&self) -> &E {
        &self.inner.env
    }

    /// Its id.
    #[must_use]
    pub fn id(&self) -> NodeId {
        self.inner.options.id
    }

    /// The name of this process: [`NodeOptions::instance`].
    #[must_use]
    pub fn instance(&self) -> Uuid {
        self.inner.instance
    }

    /// Asks it to stop: a leader hands over first. [`run`](Self::run) returns when it has.
    pub fn stop(&self) {
        self.inner.stop.send_replace(true);
    }

    /// The metadata that this node has applied, or `None` before it has opened its directory.
    #[must_use]
    pub fn image(&self) -> Option<Arc<Image<rt::Instant<E>>>> {
        self.running().map(|running| Arc::clone(&running.images.borrow()))
    }

    /// The Raft of this node, for checkers and benchmarks.
    #[must_use]
    pub fn raft(&self) -> Option<&Raft<E>> {
        self.running().map(|running| &running.raft)
    }

    /// The log of this node, for checkers.
    #[must_use]
    pub fn log(&self) -> Option<&LogStore<E>> {
        self.running().map(|running| &running.log)
    }

    /// Limits on the connections that this node accepts.
    #[must_use]
    pub fn connection_limits(&self) -> ConnectionLimits {
        self.inner.options.connections
    }

    /// The frames that this node sent to its peers.
    #[must_use]
    pub fn sent(&self) -> Option<&Tally> {
        self.running().map(|running| running.network.sent())
    }

    fn running(&self) -> Option<&Running<E>> {
        self.inner.running.get()
    }

    /// Where this node says it is.
    fn peer(&self, running: &Running<E>) -> Peer {
        let options = &self.inner.options;
        Peer {
            raft: options.raft_addr.clone(),
            http: options.http_addr.clone(),
            directory: running.identity.directory,
        }
    }
}
