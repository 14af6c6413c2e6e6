//! The one task that writes to the disk.
//!
//! Raft's writes queue up while a commit is under way; the next commit takes all that have queued, in
//! order, in one redb transaction: one sync for a batch of appends, votes and purges alike. A caller
//! hears of its write only after that sync.

use std::io;
use std::sync::{Arc, Mutex};

use openraft::storage::IOFlushed;
use redb::{Database, Durability};
use tokio::sync::{mpsc, oneshot};
use xxhash_rust::xxh3::xxh3_64;

use super::{
    Described, KEY_COMMITTED, KEY_PURGED, KEY_SNAPSHOT, KEY_VOTE, LOG, META, SNAPSHOT,
    SNAPSHOT_ROW_BYTES, get, guarded, other, put, seal,
};
use crate::codec;
use crate::env::{Env, rt};
use crate::raft::observe::{Observer, Step, Stored};
use crate::raft::types::{Ballot, EntryId, SnapshotMeta, TypeConfig};

/// Writes in one transaction at most.
const BATCH_WRITES_MAX: usize = 1_024;

/// Writes that may wait. Raft's own windows keep far below it; a full queue holds Raft up.
const QUEUE_WRITES_MAX: usize = 4_096;

/// One change of the file. Values are encoded already.
pub(super) enum Change {
    Append(Vec<(EntryId, Vec<u8>)>),
    Vote(Ballot),
    TruncateFrom(u64),
    Purge(EntryId),
    Snapshot {
        meta: Box<SnapshotMeta>,
        data: Arc<[u8]>,
    },
    /// Nothing but what is pending: used to flush at a clean stop.
    Flush,
}

impl Change {
    /// What observers are told of it once it is durable.
    fn stored(&self) -> Option<Stored> {
        Some(match self {
            Self::Append(entries) => Stored::Entries(entries.iter().map(|(id, _)| *id).collect()),
            Self::Vote(vote) => Stored::Vote(*vote),
            Self::TruncateFrom(index) => Stored::TruncatedFrom(*index),
            Self::Purge(upto) => Stored::Purged(*upto),
            Self::Snapshot { meta, .. } => Stored::Snapshot(meta.last_log_id),
            Self::Flush => return None,
        })
    }
}

/// Whom to tell when it is on stable storage.
enum Done<E: Env> {
    Raft(IOFlushed<TypeConfig<E>>),
    Caller(oneshot::Sender<io::Result<()>>),
}

impl<E: Env> Done<E> {
    fn tell(self, result: &Result<(), Failure>) {
        let result = result.clone().map_err(io::Error::from);
        match self {
            Self::Raft(callback) => callback.io_completed(result),
            // A caller that no longer waits was stopped with its node.
            Self::Caller(sender) => drop(sender.send(result)),
        }
    }
}

/// The first error, kept: it answers every later write.
#[derive(Clone, Debug)]
struct Failure(io::ErrorKind, Arc<str>);

impl From<Failure> for io::Error {
    fn from(Failure(kind, message): Failure) -> Self {
        Self::new(kind, message.to_string())
    }
}

/// A handle on the writing task. The task ends when the last handle is dropped.
pub struct Writer<E: Env> {
    queue: mpsc::Sender<(Change, Done<E>)>,
    committed: Arc<Mutex<Option<Vec<u8>>>>,
}

impl<E: Env> Clone for Writer<E> {
    fn clone(&self) -> Self {
        Self { queue: self.queue.clone(), committed: Arc::clone(&self.committed) }
    }
}

impl<E: Env> std::fmt::Debug for Writer<E> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Writer")
    }
}

impl<E: Env> Writer<E> {
    pub(super) fn start(env: &E, database: Arc<Database>, observer: Option<Observer>) -> Self {
        let (queue, waiting) = mpsc::channel(QUEUE_WRITES_MAX);
        let committed = Arc::default();
        let noted = Arc::clone(&committed);
        drop(rt::spawn::<E, _>(run(env.clone(), database, waiting, noted, observer)));
        Self { queue, committed }
    }

    /// Queues encoded entries; `flushed` is called once they are durable.
    pub(super) async fn append(
        &self,
        entries: Vec<(EntryId, Vec<u8>)>,
        flushed: IOFlushed<TypeConfig<E>>,
    ) -> io::Result<()> {
        let queued = self.queue.send((Change::Append(entries), Done::Raft(flushed))).await;
        queued.map_err(|_| gone())
    }

    pub(super) async fn save_vote(&self, vote: Ballot) -> io::Result<()> {
        self.write(Change::Vote(vote)).await
    }

    pub(super) async fn truncate_from(&self, index: u64) -> io::Result<()> {
        self.write(Change::TruncateFrom(index)).await
    }

    pub(super) async fn purge(&self, upto: EntryId) -> io::Result<()> {
        self.write(Change::Purge(upto)).await
    }

    pub(super) async fn save_snapshot(
        &self,
        meta: &SnapshotMeta,
        data: Arc<[u8]>,
    ) -> io::Result<()> {
        self.write(Change::Snapshot { meta: Box::new(meta.clone()), data }).await
    }

    /// Notes how far the log is committed, to be written along with the next write.
    ///
    /// It saves no sync of its own because nothing is lost with it: a restarted node learns it again
    /// from the leader, or by winning an election.
    pub(super) fn note_committed(&self, committed: Vec<u8>) {
        *self.committed.lock().unwrap_or_else(std::sync::PoisonError::into_inner) = Some(committed);
    }

    /// Waits until everything queued before, and the noted commit point, is durable.
    ///
    /// # Errors
    ///
    /// The disk's.
    pub async fn flush(&self) -> io::Result<()> {
        self.write(Change::Flush).await
    }

    async fn write(&self, change: Change) -> io::Result<()> {
        let (done, told) = oneshot::channel();
        self.queue.send((change, Done::Caller(done))).await.map_err(|_| gone())?;
        told.await.map_err(|_| gone())?
    }
}

fn gone() -> io::Error {
    io::Error::new(io::ErrorKind::BrokenPipe, "the storage writer has stopped")
}

async fn run<E: Env>(
    env: E,
    database: Arc<Database>,
    mut waiting: mpsc::Receiver<(Change, Done<E>)>,
    committed: Arc<Mutex<Option<Vec<u8>>>>,
    observer: Option<Observer>,
) {
    let mut batch = Vec::new();
    let mut state = Ok(());
    while waiting.recv_many(&mut batch, BATCH_WRITES_MAX).await > 0 {
        let (changes, dones): (Vec<_>, Vec<_>) = batch.drain(..).unzip();
        if state.is_ok() {
            let observed = observer.is_some().then(|| changes.iter().filter_map(Change::stored));
            let stored: Vec<_> = observed.into_iter().flatten().collect();
            let database = Arc::clone(&database);
            let committed =
                committed.lock().unwrap_or_else(std::sync::PoisonError::into_inner).take();
            let commit = move || commit(&database, changes, committed);
            let written =
                env.blocking(move || guarded(commit).map_err(io::Error::other).flatten()).await;
            state = written.and_then(|result| result).map_err(|error| {
                tracing::error!(%error, "the disk failed; this node stops");
                Failure(error.kind(), format!("the disk failed: {error}").into())
            });
            if state.is_ok() {
                Observer::show(observer.as_ref(), Step::Stored(&stored));
            }
        }
        for done in dones {
            done.tell(&state);
        }
    }
}

pub(super) fn commit(
    database: &Database,
    changes: Vec<Change>,
    committed: Option<Vec<u8>>,
) -> io::Result<()> {
    let mut transaction = database.begin_write().map_err(other)?;
    transaction
        .set_durability(Durability::Immediate)
        .map_err(|error| io::Error::other(error.to_string()))?;
    {
        let mut meta = transaction.open_table(META).map_err(other)?;
        let mut log = transaction.open_table(LOG).map_err(other)?;
        if let Some(committed) = committed {
            put(&mut meta, KEY_COMMITTED, committed)?;
        }
        for change in changes {
            match change {
                Change::Append(entries) => {
                    for (id, bytes) in entries {
                        let row = seal(&id.index().to_le_bytes(), bytes);
                        log.insert(id.index(), row.as_slice()).map_err(other)?;
                    }
                }
                Change::Vote(vote) => {
                    put(&mut meta, KEY_VOTE, codec::encode_versioned(&vote))?;
                }
                Change::TruncateFrom(index) => {
                    log.retain_in(index.., |_, _| false).map_err(other)?;
                }
                Change::Purge(upto) => {
                    put(&mut meta, KEY_PURGED, codec::encode_versioned(&upto))?;
                    log.retain_in(..=upto.index(), |_, _| false).map_err(other)?;
                }
                Change::Snapshot { meta: described, data } => {
                    let present: Option<Described> =
                        get(&meta, KEY_SNAPSHOT).map_err(io::Error::other)?;
                    // A snapshot that was built slowly may come after a newer one that was installed
                    // meanwhile, with which the log it goes with has been purged.
                    let present = present.map(|present| present.meta.last_log_id);
                    if present.is_some_and(|present| present >= described.last_log_id) {
                        continue;
                    }
                    let mut rows = transaction.open_table(SNAPSHOT).map_err(other)?;
                    rows.retain(|_, _| false).map_err(other)?;
                    for (row, chunk) in (0..).zip(data.chunks(SNAPSHOT_ROW_BYTES)) {
                        rows.insert(row, chunk).map_err(other)?;
                    }
                    let described = Described { meta: *described, checksum: xxh3_64(&data) };
                    put(&mut meta, KEY_SNAPSHOT, codec::encode_versioned(&described))?;
                }
                Change::Flush => {}
            }
        }
    }
    transaction.commit().map_err(other)
}
