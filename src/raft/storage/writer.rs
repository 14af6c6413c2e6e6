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

use super::{
    KEY_COMMITTED, KEY_PURGED, KEY_SNAPSHOT, KEY_VOTE, LOG, META, SNAPSHOT, SNAPSHOT_ROW_BYTES,
    get, other,
};
use crate::codec;
use crate::env::{Env, rt};
use crate::raft::types::{EntryId, SnapshotMeta, TypeConfig};

/// Writes in one transaction at most.
const BATCH_WRITES_MAX: usize = 1_024;

/// Writes that may wait. Raft's own windows keep far below it; a full queue holds Raft up.
const QUEUE_WRITES_MAX: usize = 4_096;

/// One change of the file. Values are encoded already.
enum Change {
    Append(Vec<(u64, Vec<u8>)>),
    Vote(Vec<u8>),
    TruncateFrom(u64),
    Purge {
        upto: u64,
        point: Vec<u8>,
    },
    Snapshot {
        last: Option<EntryId>,
        meta: Vec<u8>,
        data: Arc<[u8]>,
    },
    /// Nothing but what is pending: used to flush at a clean stop.
    Flush,
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
    pub(super) fn start(env: &E, database: Arc<Database>) -> Self {
        let (queue, waiting) = mpsc::channel(QUEUE_WRITES_MAX);
        let committed = Arc::default();
        drop(rt::spawn::<E, _>(run(env.clone(), database, waiting, Arc::clone(&committed))));
        Self { queue, committed }
    }

    /// Queues encoded entries; `flushed` is called once they are durable.
    pub(super) async fn append(
        &self,
        entries: Vec<(u64, Vec<u8>)>,
        flushed: IOFlushed<TypeConfig<E>>,
    ) -> io::Result<()> {
        let queued = self.queue.send((Change::Append(entries), Done::Raft(flushed))).await;
        queued.map_err(|_| gone())
    }

    pub(super) async fn save_vote(&self, vote: Vec<u8>) -> io::Result<()> {
        self.write(Change::Vote(vote)).await
    }

    pub(super) async fn truncate_from(&self, index: u64) -> io::Result<()> {
        self.write(Change::TruncateFrom(index)).await
    }

    pub(super) async fn purge(&self, upto: u64, point: Vec<u8>) -> io::Result<()> {
        self.write(Change::Purge { upto, point }).await
    }

    pub(super) async fn save_snapshot(
        &self,
        meta: &SnapshotMeta,
        data: Arc<[u8]>,
    ) -> io::Result<()> {
        self.write(Change::Snapshot {
            last: meta.last_log_id,
            meta: codec::encode_versioned(meta),
            data,
        })
        .await
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
) {
    let mut batch = Vec::new();
    let mut state = Ok(());
    while waiting.recv_many(&mut batch, BATCH_WRITES_MAX).await > 0 {
        let (changes, dones): (Vec<_>, Vec<_>) = batch.drain(..).unzip();
        if state.is_ok() {
            let database = Arc::clone(&database);
            let committed =
                committed.lock().unwrap_or_else(std::sync::PoisonError::into_inner).take();
            let written = env.blocking(move || commit(&database, changes, committed)).await;
            state = written.and_then(|result| result).map_err(|error| {
                tracing::error!(%error, "the disk failed; this node stops");
                Failure(error.kind(), format!("the disk failed: {error}").into())
            });
        }
        for done in dones {
            done.tell(&state);
        }
    }
}

fn commit(database: &Database, changes: Vec<Change>, committed: Option<Vec<u8>>) -> io::Result<()> {
    let mut transaction = database.begin_write().map_err(other)?;
    transaction
        .set_durability(Durability::Immediate)
        .map_err(|error| io::Error::other(error.to_string()))?;
    {
        let mut meta = transaction.open_table(META).map_err(other)?;
        let mut log = transaction.open_table(LOG).map_err(other)?;
        if let Some(committed) = committed {
            meta.insert(KEY_COMMITTED, committed.as_slice()).map_err(other)?;
        }
        for change in changes {
            match change {
                Change::Append(entries) => {
                    for (index, bytes) in entries {
                        log.insert(index, bytes.as_slice()).map_err(other)?;
                    }
                }
                Change::Vote(vote) => {
                    meta.insert(KEY_VOTE, vote.as_slice()).map_err(other)?;
                }
                Change::TruncateFrom(index) => {
                    log.retain_in(index.., |_, _| false).map_err(other)?;
                }
                Change::Purge { upto, point } => {
                    meta.insert(KEY_PURGED, point.as_slice()).map_err(other)?;
                    log.retain_in(..=upto, |_, _| false).map_err(other)?;
                }
                Change::Snapshot { last, meta: described, data } => {
                    let present: Option<SnapshotMeta> =
                        get(&meta, KEY_SNAPSHOT).map_err(io::Error::other)?;
                    // A snapshot that was built slowly may come after a newer one that was installed
                    // meanwhile, with which the log it goes with has been purged.
                    if present.is_some_and(|present| present.last_log_id >= last) {
                        continue;
                    }
                    let mut rows = transaction.open_table(SNAPSHOT).map_err(other)?;
                    rows.retain(|_, _| false).map_err(other)?;
                    for (row, chunk) in (0..).zip(data.chunks(SNAPSHOT_ROW_BYTES)) {
                        rows.insert(row, chunk).map_err(other)?;
                    }
                    meta.insert(KEY_SNAPSHOT, described.as_slice()).map_err(other)?;
                }
                Change::Flush => {}
            }
        }
    }
    transaction.commit().map_err(other)
}
