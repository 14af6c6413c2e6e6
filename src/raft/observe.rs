//! What checkers see of a node: every step that Raft's promises are about, when it happens.
//!
//! A node in production has no observer and pays for none. In simulation the checkers keep, from these
//! steps alone, a model of every node's log in memory and on disk, and compare it with what Raft promises
//! (Raft §5, figure 3). Steps are reported on the task that takes them, and the next one waits.

use std::fmt;
use std::sync::Arc;

use super::types::{Ballot, EntryId, LogEntry, NodeId, Reply, SnapshotMeta};
use crate::metadata::State;

/// One step of a node.
#[derive(Clone, Copy)]
pub enum Step<'a> {
    /// It opened its directory and found this.
    Recovered(&'a Recovered),
    /// It appended these entries to its log in memory. They are not durable yet.
    Appended(&'a [LogEntry]),
    /// It removed every entry from this index on from its log in memory.
    Truncated(u64),
    /// It learned that the log is committed up to here.
    Committed(EntryId),
    /// It forgot the log up to here.
    Purged(EntryId),
    /// These changes are on stable storage, all of them, since now.
    Stored(&'a [Stored]),
    /// It applied this entry, with this answer, and the metadata is this now.
    Applied(&'a LogEntry, &'a Reply, &'a State),
    /// It begins to replace its metadata by a snapshot that ends here.
    Installing(Option<EntryId>),
    /// It replaced its metadata by this snapshot: a leader's, or at start its own.
    Installed(&'a SnapshotMeta, &'a State),
    /// It begins to take a snapshot of its own that ends here.
    SnapshotBegun(Option<EntryId>),
    /// It answered a request for its vote, or for its pre-vote.
    VoteAnswered {
        /// What it voted for, or knows better.
        vote: Ballot,
        /// Whether the vote was granted.
        granted: bool,
        /// Whether it was only a pre-vote, which binds nobody.
        pre: bool,
    },
    /// It sent a request.
    Sent(Message<'a>),
    /// It heard the answer to a request that it sent, or that none will come.
    Heard(Message<'a>),
}

/// A request of one node to another, or the answer to it.
#[derive(Clone, Copy)]
pub struct Message<'a> {
    /// Equal for a request and its answer, and for nothing else from this node in one life.
    pub number: u64,
    /// The other node.
    pub peer: NodeId,
    /// `append`, `vote` and so on.
    pub kind: &'static str,
    /// What was said.
    pub what: &'a dyn fmt::Display,
}

/// What a node finds in its directory when it starts.
#[derive(Clone, Debug, Default)]
pub struct Recovered {
    /// The last vote that it saved.
    pub vote: Option<Ballot>,
    /// How far it knew the log to be committed.
    pub committed: Option<EntryId>,
    /// The last entry that it forgot.
    pub purged: Option<EntryId>,
    /// The entries behind that.
    pub entries: Vec<LogEntry>,
    /// The last entry in its snapshot.
    pub snapshot: Option<EntryId>,
}

/// A change that reached stable storage.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Stored {
    /// These entries.
    Entries(Vec<EntryId>),
    /// A vote.
    Vote(Ballot),
    /// The end of the log from this index on is gone.
    TruncatedFrom(u64),
    /// The beginning of the log up to here is gone.
    Purged(EntryId),
    /// A snapshot up to here.
    Snapshot(Option<EntryId>),
}

/// Called with every [`Step`].
#[derive(Clone)]
pub struct Observer(pub Arc<dyn Fn(Step<'_>) + Send + Sync>);

impl Observer {
    /// Shows `step` to `observer`, if there is one.
    pub(crate) fn show(observer: Option<&Self>, step: Step<'_>) {
        if let Some(Self(observe)) = observer {
            observe(step);
        }
    }
}

impl fmt::Debug for Observer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Observer")
    }
}
