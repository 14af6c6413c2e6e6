//! Applies committed entries to the metadata, publishes the result, and takes and installs snapshots.
//!
//! - The metadata lives in memory and is cheap to clone: each batch of applied entries is published as a
//!   new [`Image`], which readers hold as long as they like without holding anything up.
//! - A snapshot is the encoded metadata. It is encoded away from the runtime's threads, from a frozen
//!   clone, and is durable before Raft may purge the log behind it.
//! - At start openraft installs the last snapshot and applies the log behind it again, up to the last
//!   commit point that this node is sure of.

use std::io;
use std::sync::Arc;

use futures_util::{Stream, StreamExt};
use openraft::storage::{EntryResponder, RaftStateMachine, Snapshot};
use openraft::{EntryPayload, OptionalSend, RaftSnapshotBuilder};
use tokio::sync::watch;

use super::cluster_clock::ClusterClock;
use super::config::SNAPSHOT_LOG_BYTES;
use super::guard::{Breach, Breaches};
use super::observe::{Observer, Step};
use super::storage::{Rows, SnapshotData, SnapshotStore};
use super::tally::Tally;
use super::types::{EntryId, Membership, NodeId, Peer, Reply, SnapshotMeta, TypeConfig};
use crate::env::{Env, rt};
use crate::metadata::{State, Timestamp};

/// A snapshot as openraft hands it around.
pub type NodeSnapshot<E> = Snapshot<super::CommittedLeader, NodeId, Peer, SnapshotData<E>>;

/// The metadata as of one log position. Immutable.
#[derive(Clone, Debug)]
pub struct Image<I> {
    /// The last entry that is in `state`.
    pub applied: Option<EntryId>,
    /// The membership as of `applied`.
    pub membership: Membership,
    /// The metadata.
    pub state: State,
    /// How cluster time goes on from here, as this node reckons it.
    pub clock: ClusterClock<I>,
}

/// The newest image, to be read or waited for.
pub type Images<E> = watch::Receiver<Arc<Image<rt::Instant<E>>>>;

/// Changes whenever a snapshot is due.
pub type SnapshotDue = watch::Receiver<()>;

/// A snapshot is due when so many entries were applied since the last one as this part of what it would hold, or
/// [`snapshot_entries`](super::config::RaftOptions::snapshot_entries) if that is more. So the cost of writing all of a
/// large state is spread over more entries. It is due too when they have [`SNAPSHOT_LOG_BYTES`].
const DUE_PART: usize = 4;

/// Entries that a snapshot of so many objects is taken after.
fn entries_between_snapshots(snapshot_entries: u64, objects: usize) -> u64 {
    snapshot_entries.max((objects / DUE_PART) as u64)
}

/// openraft's state machine.
#[derive(Debug)]
pub struct StateMachine<E: Env> {
    observer: Option<Observer>,
    breaches: Breaches,
    snapshots: SnapshotStore<E>,
    current: Image<rt::Instant<E>>,
    published: watch::Sender<Arc<Image<rt::Instant<E>>>>,
    snapshot_entries: u64,
    /// The index behind the last entry that is in a snapshot, or will be when the one being taken is there.
    snapshotted: u64,
    /// The entries that the log was given.
    appended: Tally,
    /// How many bytes that were then.
    appended_then: u64,
    due: watch::Sender<()>,
}

impl<E: Env> StateMachine<E> {
    /// An empty state machine, the view of what it will publish, and when it wants a snapshot to be taken.
    #[must_use]
    pub fn new(
        snapshots: SnapshotStore<E>,
        snapshot_entries: u64,
        appended: Tally,
        observer: Option<Observer>,
        breaches: Breaches,
    ) -> (Self, Images<E>, SnapshotDue) {
        let current = Image {
            applied: None,
            membership: Membership::default(),
            state: State::default(),
            clock: ClusterClock::new(Timestamp::ZERO, rt::now::<E>()),
        };
        let (published, images) = watch::channel(Arc::new(current.clone()));
        let (due, snapshot_due) = watch::channel(());
        let machine = Self {
            observer,
            breaches,
            snapshots,
            current,
            published,
            snapshot_entries,
            snapshotted: 0,
            appended,
            appended_then: 0,
            due,
        };
        (machine, images, snapshot_due)
    }

    /// The index behind the last applied entry.
    fn next(&self) -> u64 {
        self.current.applied.map_or(0, |applied| applied.index() + 1)
    }

    fn is_snapshot_due(&self) -> bool {
        let objects = self.current.state.object_count();
        self.appended.bytes() - self.appended_then >= SNAPSHOT_LOG_BYTES
            || self.next() - self.snapshotted
                >= entries_between_snapshots(self.snapshot_entries, objects)
    }

    /// All that is applied is in a snapshot, or will be.
    fn note_snapshot(&mut self) {
        self.snapshotted = self.next();
        self.appended_then = self.appended.bytes();
    }

    fn observe(&self, step: Step<'_>) {
        Observer::show(self.observer.as_ref(), step);
    }

    fn publish(&mut self) {
        self.current.clock.observe(self.current.state.last_stamp(), rt::now::<E>());
        self.published.send_replace(Arc::new(self.current.clone()));
    }
}

impl<E: Env> RaftStateMachine<TypeConfig<E>> for StateMachine<E> {
    type SnapshotData = SnapshotData<E>;
    type SnapshotBuilder = SnapshotBuilder<E>;

    async fn applied_state(&mut self) -> io::Result<(Option<EntryId>, Membership)> {
        Ok((self.current.applied, self.current.membership.clone()))
    }

    async fn apply<S>(&mut self, mut entries: S) -> io::Result<()>
    where
        S: Stream<Item = io::Result<EntryResponder<TypeConfig<E>>>> + Unpin + OptionalSend,
    {
        let mut answers = Vec::new();
        while let Some(next) = entries.next().await {
            let (entry, responder) = next?;
            assert_eq!(
                entry.log_id.index(),
                self.next(),
                "entries are applied in log order, each once"
            );
            self.current.applied = Some(entry.log_id);
            self.current.state.enter_term(entry.log_id.committed_leader_id().term);
            let reply = match &entry.payload {
                EntryPayload::Blank => Reply(None),
                EntryPayload::Normal(command) => Reply(Some(self.current.state.apply(&command.0))),
                EntryPayload::Membership(membership) => {
                    self.current.membership =
                        Membership::new(Some(entry.log_id), membership.clone());
                    Reply(None)
                }
            };
            self.observe(Step::Applied(&entry, &reply, &self.current.state));
            if let Some(responder) = responder {
                answers.push((responder, reply));
            }
        }
        // Publish before answering: whoever hears of its write can read it here at once.
        self.publish();
        for (responder, reply) in answers {
            responder.send(reply);
        }
        if self.is_snapshot_due() {
            self.due.send_replace(());
        }
        Ok(())
    }

    async fn get_snapshot_builder(&mut self) -> SnapshotBuilder<E> {
        self.observe(Step::SnapshotBegun(self.current.applied));
        self.note_snapshot();
        SnapshotBuilder { snapshots: self.snapshots.clone(), image: self.current.clone() }
    }

    async fn install_snapshot(
        &mut self,
        meta: &SnapshotMeta,
        data: SnapshotData<E>,
    ) -> io::Result<()> {
        self.observe(Step::Installing(meta.last_log_id));
        let data = data.whole().await?;
        let bytes = data.clone();
        let decoded = self.snapshots.env().blocking(move || State::decode(&bytes)).await?;
        let state = decoded.map_err(|error| io::Error::new(io::ErrorKind::InvalidData, error))?;
        if let Some(ours) = self.current.state.position()
            && !state.continues(ours)
        {
            let breach = Breach::Metadata { ours: Some(ours), theirs: state.position() };
            self.breaches.report(&breach);
            return Err(io::Error::other(breach));
        }
        self.snapshots.save(meta, move |rows| rows.push_all(&data)).await?;
        self.current.applied = meta.last_log_id;
        self.current.membership = meta.last_membership.clone();
        self.current.state = state;
        self.note_snapshot();
        self.observe(Step::Installed(meta, &self.current.state));
        self.publish();
        Ok(())
    }

    async fn get_current_snapshot(&mut self) -> io::Result<Option<NodeSnapshot<E>>> {
        let loaded = self.snapshots.load().await?;
        Ok(loaded.map(|(meta, snapshot)| Snapshot { meta, snapshot }))
    }
}

/// Takes one snapshot of one frozen image.
#[derive(Debug)]
pub struct SnapshotBuilder<E: Env> {
    snapshots: SnapshotStore<E>,
    image: Image<rt::Instant<E>>,
}

impl<E: Env> RaftSnapshotBuilder<TypeConfig<E>> for SnapshotBuilder<E> {
    type SnapshotData = SnapshotData<E>;

    async fn build_snapshot(&mut self) -> io::Result<NodeSnapshot<E>> {
        let meta = SnapshotMeta {
            last_log_id: self.image.applied,
            last_membership: self.image.membership.clone(),
        };
        let state = self.image.state.clone();
        // Row by row, so that the node does not have to hold all of it, which is half as large as the state.
        let encode = move |rows: &mut Rows<'_>| {
            state.encode_in_pieces(rows.row_bytes(), |piece| rows.push(piece))
        };
        self.snapshots.save(&meta, encode).await?;
        let saved = self.snapshots.find().await?;
        let (meta, snapshot) = saved.ok_or_else(|| io::Error::other("what was saved is gone"))?;
        Ok(Snapshot { meta, snapshot })
    }
}

#[cfg(test)]
mod tests {
    use super::entries_between_snapshots;

    #[test]
    fn a_large_state_is_written_less_often() {
        assert_eq!(entries_between_snapshots(100_000, 0), 100_000);
        assert_eq!(entries_between_snapshots(100_000, 400_000), 100_000);
        assert_eq!(entries_between_snapshots(100_000, 1_000_000), 250_000);
    }
}
