//! The concrete types that openraft is instantiated with.

use std::fmt;
use std::marker::PhantomData;
use std::sync::Arc;

use openraft::RaftTypeConfig;
use openraft::impls::leader_id_std::LeaderId;
use openraft::impls::{BoxedErrorSource, InlineBatch, ProgressResponder, Vote};
use openraft::vote::RaftLeaderId;
use openraft::{Entry, EntryPayload, LogId, OptionalSend};
use serde::{Deserialize, Serialize};
use uuid::Uuid;

use crate::env::Env;
use crate::metadata::{Applied, Command};

/// A node's id: `-i` on the command line, 1 or more, unique in the cluster.
pub type NodeId = u64;
/// A Raft term (Raft §5.1).
pub type Term = u64;
/// Standard Raft leaders: at most one a term, so that "who led term 7" has one answer.
pub type Leader = LeaderId<Term, NodeId>;
/// What of a [`Leader`] is stored in log ids: its term.
pub type CommittedLeader = <Leader as RaftLeaderId>::Committed;
/// The position of an entry: term and index.
pub type EntryId = LogId<CommittedLeader>;
/// What an entry holds: nothing, a command or a membership.
pub type Payload = EntryPayload<SharedCommand, NodeId, Peer>;
/// One entry of the replicated log.
pub type LogEntry = Entry<CommittedLeader, Payload>;
/// A membership and the log position that set it.
pub type Membership = openraft::StoredMembership<CommittedLeader, NodeId, Peer>;
/// What a snapshot covers.
pub type SnapshotMeta = openraft::SnapshotMeta<CommittedLeader, NodeId, Peer>;
/// A ballot, or a leadership once `committed` (Raft §5.2).
pub type Ballot = Vote<Leader>;

/// Where a member of the cluster is found, and which disk it keeps its vote on.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Peer {
    /// `HOST:PORT` of its Raft listener.
    pub raft: String,
    /// `HOST:PORT` of its HTTP listener.
    pub http: String,
    /// The identity of its data directory (KIP-853's directory id). A node that lost its disk comes
    /// back with another one, and must not take up the old one's votes.
    pub directory: Uuid,
}

/// A command as the log holds it. Shared, because one entry is in the log's cache, in the requests
/// to four followers and in the state machine's queue at the same time.
#[derive(Clone, Debug, PartialEq)]
pub struct SharedCommand(pub Arc<Command>);

impl fmt::Display for SharedCommand {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:?}", self.0.change)
    }
}

impl Serialize for SharedCommand {
    fn serialize<S: serde::Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        self.0.serialize(serializer)
    }
}

impl<'de> Deserialize<'de> for SharedCommand {
    fn deserialize<D: serde::Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        Command::deserialize(deserializer).map(|command| Self(Arc::new(command)))
    }
}

/// What applying an entry answers: a command's outcome, or nothing for entries that are Raft's own.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Reply(pub Option<Applied>);

impl fmt::Display for Reply {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:?}", self.0)
    }
}

/// openraft's type configuration for a node in the world `E`.
pub struct TypeConfig<E>(PhantomData<fn() -> E>);

/// The Raft handle of a node in the world `E`.
pub type Raft<E> = openraft::Raft<TypeConfig<E>, super::state_machine::StateMachine<E>>;

impl<E: Env> RaftTypeConfig for TypeConfig<E> {
    type D = SharedCommand;
    type R = Reply;
    type NodeId = NodeId;
    type Node = Peer;
    type Term = Term;
    type LeaderId = Leader;
    type Vote = Ballot;
    type Payload = Payload;
    type Entry = LogEntry;
    type AsyncRuntime = E::Runtime;
    type Responder<T>
        = ProgressResponder<Self, T>
    where
        T: OptionalSend + 'static;
    type Batch<T>
        = InlineBatch<T>
    where
        T: OptionalSend + 'static;
    type ErrorSource = BoxedErrorSource;
}

// Derives would ask the same of `E`, which is only a name here.

impl<E> Clone for TypeConfig<E> {
    fn clone(&self) -> Self {
        *self
    }
}

impl<E> Copy for TypeConfig<E> {}

impl<E> fmt::Debug for TypeConfig<E> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("TypeConfig")
    }
}

impl<E> Default for TypeConfig<E> {
    fn default() -> Self {
        Self(PhantomData)
    }
}

impl<E> PartialEq for TypeConfig<E> {
    fn eq(&self, _: &Self) -> bool {
        true
    }
}

impl<E> Eq for TypeConfig<E> {}

impl<E> PartialOrd for TypeConfig<E> {
    fn partial_cmp(&self, other: &Self) -> Option<std::cmp::Ordering> {
        Some(self.cmp(other))
    }
}

impl<E> Ord for TypeConfig<E> {
    fn cmp(&self, _: &Self) -> std::cmp::Ordering {
        std::cmp::Ordering::Equal
    }
}
