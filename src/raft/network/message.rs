//! What nodes say to each other.

use std::fmt;
use std::sync::Arc;

use openraft::raft::{
    AppendEntriesRequest, SnapshotResponse, StreamAppendResult, TransferLeaderRequest,
    TransferLeaderResponse, VoteRequest, VoteResponse,
};
use serde::{Deserialize, Serialize};
use uuid::Uuid;

use crate::env::Env;
use crate::metadata::{Applied, Change, IdempotencyKey, Position, Timestamp};
use crate::raft::types::{Ballot, EntryId, NodeId, Peer, SnapshotMeta, TypeConfig};

/// The first frame of a connection.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Hello {
    /// The caller's cluster; `None` from a node that has not joined one yet.
    pub cluster: Option<Uuid>,
    /// Whom the caller believes to have reached, and with which data directory; `None` when it only knows
    /// an address.
    pub to: Option<(NodeId, Uuid)>,
}

impl Hello {
    /// The cluster that takes the answering node, `node` of `cluster`, for its own member, if it is another cluster.
    #[must_use]
    pub fn expects_elsewhere(&self, node: NodeId, cluster: Uuid) -> Option<Uuid> {
        let expected = self.cluster.filter(|caller| *caller != cluster)?;
        self.to.is_some_and(|(to, _)| to == node).then_some(expected)
    }
}

/// A numbered question.
#[derive(Debug, Serialize, Deserialize)]
#[serde(bound = "")]
pub struct Call<E: Env> {
    /// Repeated in the answer; the caller's choice, unique on its connection.
    pub number: u64,
    /// The question.
    pub request: Request<E>,
}

/// The answer to the call of the same number.
#[derive(Debug, Serialize, Deserialize)]
#[serde(bound = "")]
pub struct Return<E: Env> {
    /// The call's.
    pub number: u64,
    /// The answer.
    pub response: Response<E>,
}

/// A question.
#[derive(Debug, Serialize, Deserialize)]
#[serde(bound = "")]
pub enum Request<E: Env> {
    /// Raft §5.3.
    Append {
        /// openraft's request.
        request: AppendEntriesRequest<TypeConfig<E>>,
        /// The last entry that the asked node has acknowledged to this leadership. A node that does
        /// not hold it has lost an acknowledged entry: see [`guard`](crate::raft::guard).
        acknowledged: Option<EntryId>,
    },
    /// Raft §5.2.
    Vote(VoteRequest<TypeConfig<E>>),
    /// Raft's dissertation §9.6.
    PreVote(VoteRequest<TypeConfig<E>>),
    /// Raft's dissertation §3.10.
    TransferLeader(TransferLeaderRequest<TypeConfig<E>>),
    /// Starts a snapshot of `bytes` bytes; [`SnapshotChunk`](Self::SnapshotChunk)s follow.
    SnapshotBegin {
        /// The sender's leadership.
        vote: Ballot,
        /// What it covers.
        meta: Box<SnapshotMeta>,
        /// Its size.
        bytes: u64,
    },
    /// The snapshot's next bytes. The chunk that completes it is answered once it is installed.
    SnapshotChunk(Vec<u8>),
    /// A client's change, forwarded to the leader.
    Propose {
        /// What to change.
        change: Change,
        /// See [`IdempotencyKey`].
        idempotency: Option<IdempotencyKey>,
    },
    /// How far a read that starts now must have applied (Raft §6.4).
    ReadIndex(Reader),
    /// Which cluster this is. The only question that a caller without a cluster may ask, besides `Join`.
    Identify,
    /// Make me a voter, or note my new addresses.
    Join {
        /// The asking node.
        node: NodeId,
        /// Where it is.
        peer: Peer,
        /// Whether a member passed this on already: it is passed on once, or two members that each hold the
        /// other for the leader would never stop.
        passed_on: bool,
    },
    /// Where the member with this data directory is, by what is committed now.
    Member {
        /// The node.
        node: NodeId,
        /// Its data directory.
        directory: Uuid,
    },
    /// Make the node with this data directory a member no more. The directory keeps a repeated request from
    /// removing a successor that joined under the same id in between.
    Remove {
        /// The node.
        node: NodeId,
        /// Its data directory.
        directory: Uuid,
    },
    /// Make another node the leader (the dissertation §3.10).
    HandOver {
        /// The leader to be.
        to: NodeId,
    },
    /// Whether the asked voter has gone on to no other ballot than the one that made this leadership (Raft §6.4).
    ConfirmLeader(Ballot),
    /// Which process this is. Two processes on copies of one data directory differ in nothing else.
    Instance,
    /// A process at `addr` runs on a copy of the asked node's data directory, and was refused.
    Copied {
        /// The Raft address of that process.
        addr: String,
    },
    /// Asks a member to connect to another node, and to report the process that answers there.
    Reach {
        /// The node that should be there.
        node: NodeId,
        /// Its Raft address and its data directory.
        peer: Peer,
    },
}

/// An answer.
#[derive(Debug, Serialize, Deserialize)]
#[serde(bound = "")]
pub enum Response<E: Env> {
    /// To `Append`.
    Append(StreamAppendResult<TypeConfig<E>>),
    /// To `Vote` and `PreVote`.
    Vote(VoteResponse<TypeConfig<E>>),
    /// To `TransferLeader`.
    TransferLeader(TransferLeaderResponse<TypeConfig<E>>),
    /// To `SnapshotBegin`, and to each chunk but the last.
    SnapshotReceived,
    /// To the snapshot's last chunk.
    SnapshotInstalled(SnapshotResponse<TypeConfig<E>>),
    /// To `Propose`: applied, with this outcome.
    Applied(Arc<Applied>),
    /// To `ReadIndex`.
    ReadIndex(ReadIndex),
    /// To `ReadIndex`: the reader's metadata is no prefix of the leader's, whose position this is.
    /// See [`guard`](crate::raft::guard).
    OtherHistory(Option<Position>),
    /// To `Identify`.
    Cluster(Uuid),
    /// To `Join`: the node is a voter.
    Joined,
    /// The asked node does not lead, and nothing was done.
    NotLeader(Option<NodeId>),
    /// Whether it was or will be done, nobody knows.
    Unknown,
    /// It will not be done, and asking again does not help: the text says why.
    Refused(String),
    /// It was not done, and asking again later may help: the text says why.
    Unavailable(String),
    /// To `Member`: the member's addresses; `None` for a node that is no member.
    Member(Option<Peer>),
    /// To `Remove`, `HandOver` and `Copied`: it is so.
    Done,
    /// The asked node is not whom the caller took it for (see [`Hello`]), and nothing was done: the text says who
    /// it is.
    Misdirected(String),
    /// To `ConfirmLeader`.
    LeaderConfirmed {
        /// Whether the asking node leads, as far as this voter is concerned.
        confirmed: bool,
        /// The voter's wall clock.
        clock: Timestamp,
    },
    /// To `Instance` and `Reach`: a number that the process drew at its start.
    Instance(Uuid),
}

/// The progress of a node that wants to read.
#[derive(Clone, Copy, Debug, Serialize, Deserialize)]
pub struct Reader {
    /// The last log index that it has applied.
    pub applied: u64,
    /// The position of its metadata in its history, if it has applied any command.
    pub position: Option<Position>,
}

/// Where a linearizable read may start.
#[derive(Clone, Copy, Debug, Serialize, Deserialize)]
pub struct ReadIndex {
    /// The log index that must have been applied.
    pub index: u64,
    /// The leader's reading of cluster time.
    pub now: Timestamp,
    /// Whether the leader commits the entries that it appends. A leader that cannot will step down:
    /// see `stall` in [`crate::node`].
    pub commits: bool,
}

impl<E: Env> Request<E> {
    /// What it is called where messages are counted or shown.
    #[must_use]
    pub fn kind(&self) -> &'static str {
        match self {
            Self::Append { request, .. } if request.entries.is_empty() => "heartbeat",
            Self::Append { .. } => "append",
            Self::Vote(_) => "vote",
            Self::PreVote(_) => "pre-vote",
            Self::TransferLeader(_) => "transfer",
            Self::SnapshotBegin { .. } => "snapshot",
            Self::SnapshotChunk(_) => "chunk",
            Self::Propose { .. } => "propose",
            Self::ReadIndex(_) => "read-index",
            Self::ConfirmLeader(_) => "confirm-leader",
            Self::Identify => "identify",
            Self::Join { .. } => "join",
            Self::Member { .. } => "member",
            Self::Remove { .. } => "remove",
            Self::HandOver { .. } => "hand-over",
            Self::Instance => "instance",
            Self::Copied { .. } => "copied",
            Self::Reach { .. } => "reach",
        }
    }
}

impl<E: Env> fmt::Display for Request<E> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Append { request, .. } => write!(f, "{request}"),
            Self::Vote(vote) | Self::PreVote(vote) => write!(f, "{vote}"),
            Self::ConfirmLeader(leadership) => write!(f, "{leadership}"),
            Self::SnapshotChunk(chunk) => write!(f, "{} bytes", chunk.len()),
            Self::Propose { change, .. } => write!(f, "{change:?}"),
            other => write!(f, "{other:?}"),
        }
    }
}

impl<E: Env> fmt::Display for Response<E> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Vote(vote) => write!(f, "{vote}"),
            other => write!(f, "{other:?}"),
        }
    }
}
