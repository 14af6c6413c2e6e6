//! The one task that writes the journal.
//!
//! Raft's writes queue up while a record is written; the next record takes all that have queued, in order: one
//! sync for a batch of appends, votes and purges alike. A caller hears of its write only after that sync.

use std::io;
use std::sync::{Arc, Mutex};

use bytes::Bytes;
use openraft::storage::IOFlushed;
use tokio::sync::{mpsc, oneshot};

use super::journal::{Journal, Op};
use crate::env::{Env, rt};
use crate::raft::observe::{Observer, Step, Stored};
use crate::raft::types::{Ballot, EntryId, TypeConfig};

/// Writes in one record at most.
const BATCH_WRITES_MAX: usize = 1_024;

/// Writes that may wait. Raft's own windows keep far below it; a full queue holds Raft up.
const QUEUE_WRITES_MAX: usize = 4_096;

/// One change of the log.
pub(super) enum Change {
    /// Entries, encoded.
    Append(Vec<(EntryId, Bytes)>),
    Vote(Ballot),
    TruncateFrom(u64),
    Purge(EntryId),
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
            Self::Flush => return None,
        })
    }

    fn append_to(self, ops: &mut Vec<Op>) {
        match self {
            Self::Append(entries) => {
                ops.extend(entries.into_iter().map(|(_, bytes)| Op::Append(bytes)));
            }
            Self::Vote(vote) => ops.push(Op::Vote(vote)),
            Self::TruncateFrom(index) => ops.push(Op::TruncateFrom(index)),
            Self::Purge(upto) => ops.push(Op::Purge(upto)),
            Self::Flush => {}
        }
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
    committed: Arc<Mutex<Option<EntryId>>>,
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
    pub(super) fn start(env: &E, journal: Journal<E::Disk>, observer: Option<Observer>) -> Self {
        let (queue, waiting) = mpsc::channel(QUEUE_WRITES_MAX);
        let committed = Arc::default();
        let noted = Arc::clone(&committed);
        drop(rt::spawn::<E, _>(run(env.clone(), journal, waiting, noted, observer)));
        Self { queue, committed }
    }

    /// Queues encoded entries; `flushed` is called once they are durable.
    pub(super) async fn append(
        &self,
        entries: Vec<(EntryId, Bytes)>,
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

    /// Notes how far the log is committed, to be written along with the next write.
    ///
    /// It saves no sync of its own because nothing is lost with it: a restarted node learns it again
    /// from the leader, or by winning an election.
    pub(super) fn note_committed(&self, committed: EntryId) {
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
    journal: Journal<E::Disk>,
    mut waiting: mpsc::Receiver<(Change, Done<E>)>,
    committed: Arc<Mutex<Option<EntryId>>>,
    observer: Option<Observer>,
) {
    let mut batch = Vec::new();
    let mut state = Ok(journal);
    while waiting.recv_many(&mut batch, BATCH_WRITES_MAX).await > 0 {
        let (changes, dones): (Vec<_>, Vec<_>) = batch.drain(..).unzip();
        if let Ok(mut journal) = state {
            let observed = observer.is_some().then(|| changes.iter().filter_map(Change::stored));
            let stored: Vec<_> = observed.into_iter().flatten().collect();
            let mut ops = Vec::new();
            let committed =
                committed.lock().unwrap_or_else(std::sync::PoisonError::into_inner).take();
            ops.extend(committed.map(Op::Committed));
            for change in changes {
                change.append_to(&mut ops);
            }
            let written = env
                .blocking(move || {
                    if !ops.is_empty() {
                        journal.write(&ops)?;
                    }
                    Ok(journal)
                })
                .await;
            state = written.flatten().map_err(|error: io::Error| {
                tracing::error!(%error, "the disk failed; this node stops");
                Failure(error.kind(), format!("the disk failed: {error}").into())
            });
            if state.is_ok() {
                Observer::show(observer.as_ref(), Step::Stored(&stored));
            }
        }
        let result = state.as_ref().map(drop).map_err(Clone::clone);
        for done in dones {
            done.tell(&result);
        }
    }
}
