//! Refuses messages that would make this node forget entries that it has applied or acknowledged.
//!
//! Raft is safe as long as a node's disk holds everything that the node has said that it holds. An
//! operator, or damage, can break that. Examples are a directory that is put back to an older copy,
//! a virtual machine that is rolled back, and a last log record that rots and is taken for torn.
//! Raft has no answer to it, and openraft only asserts. This node stops instead, with an error that
//! says how to recover, in these cases:
//!
//! | case | detected by |
//! |---|---|
//! | a leader's entry differs from one that this node knows to be committed | an append ([`Guard::check_append`]) |
//! | a snapshot's last entry contradicts one that this node knows to be committed | its first message ([`Guard::check_snapshot`]) |
//! | a snapshot's metadata is no continuation of this node's metadata | its installation (`state_machine`) |
//! | this node's metadata is no prefix of the leader's, even if the log's terms and indices agree | a linearizable read or `/readyz` (`node::read`) |
//! | this node lacks an entry that it has acknowledged to this leader | an append, in which the leader names that entry |
//!
//! # Why a node that lost acknowledged entries does not catch up
//!
//! The leader could send the entries again. But until then fewer disks hold them than a majority
//! may have counted on, and this node may have voted for a candidate that lacks them. Its vote may
//! be lost too, and it could vote a second time in one term. A new directory has a new identity
//! (KIP-853) and takes no part in elections before it has caught up, so it is safe. The remedy is
//! therefore always to remove the node and to let it join with an empty directory.
//!
//! Left out: a leader's different entry at a purged index, if its term is not later than that of
//! this node's last committed entry. This node cannot compare ids there and treats the entry as its
//! own. A later linearizable read or `/readyz` on this node detects it if the metadata differs.
//!
//! Left out, too: a node that lost entries which it had acknowledged to an *earlier* leader. The
//! present leader never heard of them. The loss is detected when the entries were committed and
//! another node has applied them.

use std::io;
use std::sync::Arc;

use openraft::raft::AppendEntriesRequest;
use tokio::sync::watch;

use super::storage::LogStore;
use super::types::{Ballot, EntryId, SnapshotMeta, TypeConfig};
use crate::env::Env;
use crate::metadata::Position;

/// How an operator recovers a node that stopped for one of these reasons.
const REMEDY: &str = "Some node was put back to an older copy of its directory, or its disk is damaged. \
    To recover, keep a copy of this directory, remove this node from the cluster (yakt remove) and start it with an \
    empty directory and -e. If a majority was restored from a backup, what was written since that \
    backup is lost, unless it is in this directory";

/// Why this node must not go on with its directory.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Breach {
    /// A leader replaces an entry that was committed.
    #[error(
        "the leader's log has {theirs}, which contradicts the committed entry {ours} of this node: two histories of one cluster. {REMEDY}"
    )]
    Entry {
        /// The committed entry that the leader's entry contradicts: the one at its index, or the
        /// last committed one if that is purged.
        ours: EntryId,
        /// The leader's entry. Its index is at most that of `ours`.
        theirs: EntryId,
    },
    /// Raft wants to remove entries that were committed.
    #[error(
        "Raft removes the log from index {from} on, although it is committed up to {committed}. {REMEDY}"
    )]
    Truncation {
        /// The first index to be removed.
        from: u64,
        /// The last entry that is committed.
        committed: EntryId,
    },
    /// A snapshot ends at a lower index than the last entry that this node knows to be committed,
    /// but in a later term; or at a higher index, but in an earlier term.
    #[error(
        "the leader's snapshot ends at {theirs}, and this node has the log committed up to {ours}: two histories of one cluster. {REMEDY}"
    )]
    Snapshot {
        /// The last entry that this node knows to be committed.
        ours: EntryId,
        /// The last entry in the snapshot.
        theirs: EntryId,
    },
    /// The metadata of the leader, or of its snapshot, does not continue this node's.
    #[error(
        "this node's metadata is as of {}, which the leader's metadata, as of {}, does not continue: two histories of one cluster. {REMEDY}",
        shown(*.ours), shown(*.theirs)
    )]
    Metadata {
        /// The position of this node's metadata.
        ours: Option<Position>,
        /// The position of the leader's metadata, or of its snapshot.
        theirs: Option<Position>,
    },
    /// The log lacks an entry that this node has acknowledged.
    #[error(
        "this node lost entries that it had acknowledged: the leader was told of {acknowledged}, and the log does not have it. {REMEDY}"
    )]
    Lost {
        /// The entry.
        acknowledged: EntryId,
    },
}

fn shown(position: Option<Position>) -> String {
    position.map_or_else(|| "the beginning".to_owned(), |position| position.to_string())
}

/// The first breach of one node, for the task that must stop the node. Clones share it.
#[derive(Clone, Debug)]
pub struct Breaches(Arc<watch::Sender<Option<Breach>>>);

impl Default for Breaches {
    fn default() -> Self {
        Self(Arc::new(watch::Sender::new(None)))
    }
}

impl Breaches {
    /// Notes `breach`; the first one counts. This node stops.
    pub fn report(&self, breach: &Breach) {
        let is_first = self.0.send_if_modified(|first| {
            let is_first = first.is_none();
            first.get_or_insert_with(|| breach.clone());
            is_first
        });
        if is_first {
            tracing::error!("{breach}");
        }
    }

    /// The first breach, if there was one.
    #[must_use]
    pub fn first(&self) -> Option<Breach> {
        self.0.borrow().clone()
    }

    /// Waits for the first breach.
    pub async fn wait(&self) -> Breach {
        let mut first = self.0.subscribe();
        loop {
            if let Some(breach) = first.borrow_and_update().clone() {
                return breach;
            }
            // The sender is in `self`.
            if first.changed().await.is_err() {
                std::future::pending::<()>().await;
            }
        }
    }
}

/// Judges the messages of leaders before Raft sees them. Clones share one log.
#[derive(Clone, Debug)]
pub struct Guard<E: Env> {
    log: LogStore<E>,
    breaches: Breaches,
}

impl<E: Env> Guard<E> {
    /// The guard of `log`.
    #[must_use]
    pub fn new(log: LogStore<E>, breaches: Breaches) -> Self {
        Self { log, breaches }
    }

    /// Checks that `request` replaces no committed entry, and that the log has the entry that this
    /// node has `acknowledged` to this leader. Reports a breach.
    ///
    /// # Errors
    ///
    /// Why Raft must not see the request.
    pub fn check_append(
        &self,
        request: &AppendEntriesRequest<TypeConfig<E>>,
        acknowledged: Option<EntryId>,
    ) -> io::Result<()> {
        if self.is_deposed(&request.vote) {
            return Ok(());
        }
        if let Some(acknowledged) = acknowledged
            && !self.log.holds(acknowledged)?
        {
            return self.refuse(Breach::Lost { acknowledged });
        }
        let Some(committed) = self.log.committed() else { return Ok(()) };
        let sent = request.prev_log_id.into_iter().chain(request.entries.iter().map(|e| e.log_id));
        for theirs in sent.take_while(|id| id.index <= committed.index) {
            let ours = self.log.id_at(theirs.index)?.filter(|ours| *ours != theirs);
            // The log keeps no id of an entry below the last purged one. Terms never decrease
            // along a log (Raft §5.3). So an entry of a later term than the last committed one
            // cannot be at or before its index. Without this check, openraft accepted such an
            // entry as one that it had purged (found by simulation: swarm, seed 7000000585).
            let contradicted = ours.or((theirs > committed).then_some(committed));
            if let Some(ours) = contradicted {
                return self.refuse(Breach::Entry { ours, theirs });
            }
        }
        Ok(())
    }

    /// Checks that the snapshot that `meta` describes, of the leadership `vote`, contradicts no
    /// committed entry. Reports a breach.
    ///
    /// # Errors
    ///
    /// Why Raft must not see the snapshot.
    pub fn check_snapshot(&self, vote: &Ballot, meta: &SnapshotMeta) -> io::Result<()> {
        let (Some(ours), Some(theirs)) = (self.log.committed(), meta.last_log_id) else {
            return Ok(());
        };
        if self.is_deposed(vote) {
            return Ok(());
        }
        let known = self.log.id_at(theirs.index)?.filter(|_| theirs.index <= ours.index);
        let contradicts = known.is_some_and(|known| known != theirs)
            || (theirs.index > ours.index) != (theirs > ours);
        if contradicts && theirs != ours {
            return self.refuse(Breach::Snapshot { ours, theirs });
        }
        Ok(())
    }

    /// Whether this node has gone on to a later ballot: Raft refuses messages of `vote`.
    fn is_deposed(&self, vote: &Ballot) -> bool {
        self.log.vote().is_some_and(|ours| ours > *vote)
    }

    fn refuse(&self, breach: Breach) -> io::Result<()> {
        self.breaches.report(&breach);
        Err(io::Error::other(breach))
    }
}
