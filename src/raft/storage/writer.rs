//! Writes the journal: one record at a time, with all that Raft wanted written since the last one.
//!
//! Raft's writes queue up while a record is written; the next record takes all that have queued, in order: one
//! sync for a batch of appends, votes and purges alike. A caller hears of its write only after that sync, from
//! whoever did it: no task waits for the disk in order to pass the word on, which would cost every commit of a quiet
//! cluster two more wake-ups on each node.

use std::collections::VecDeque;
use std::io;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use bytes::Bytes;
use openraft::storage::IOFlushed;
use tokio::sync::{OwnedSemaphorePermit, Semaphore, oneshot};

use super::journal::{Journal, Op};
use crate::env::{Env, Lane};
use crate::raft::observe::{Observer, Step, Stored};
use crate::raft::tally::Tally;
use crate::raft::types::{Ballot, EntryId, TypeConfig};

/// Writes in one record at most.
const BATCH_WRITES_MAX: usize = 1_024;

/// Appends that may wait or be under way. Beyond that Raft is held up: the leader of followers that are faster than its own
/// disk would else go on for as long as it has memory. (Everything but appends Raft waits for anyway.)
const APPENDS_MAX: usize = 4_096;

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
    Raft(IOFlushed<TypeConfig<E>>, OwnedSemaphorePermit),
    Caller(oneshot::Sender<io::Result<()>>),
}

impl<E: Env> Done<E> {
    fn tell(self, result: &Result<(), Failure>) {
        let result = result.clone().map_err(io::Error::from);
        match self {
            Self::Raft(callback, _room) => callback.io_completed(result),
            // A caller that no longer waits was stopped with its node.
            Self::Caller(sender) => drop(sender.send(result)),
        }
    }
}

/// Answers the writes that failed and those that still wait. Every vote, truncation, purge and flush
/// gets the error, but of the appends only the first one does. openraft logs a line for each append
/// that fails, up to [`APPENDS_MAX`] of them, and the first error already stops it.
fn refuse<E: Env>(writes: impl Iterator<Item = Done<E>>, failure: &Failure) {
    let mut raft_knows = false;
    for done in writes {
        if matches!(done, Done::Raft(..)) && std::mem::replace(&mut raft_knows, true) {
            continue;
        }
        done.tell(&Err(failure.clone()));
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

/// The journal, and what waits to be written. Clones share both. The files are closed with the last clone, or after
/// the write that is under way then.
pub struct Writer<E: Env>(Arc<Shared<E>>);

struct Shared<E: Env> {
    lane: E::Lane,
    observer: Option<Observer>,
    written: Tally,
    /// A place for each append that is not written yet.
    room: Arc<Semaphore>,
    state: Mutex<State<E>>,
}

struct State<E: Env> {
    disk: Disk<E>,
    waiting: VecDeque<(Change, Done<E>)>,
    /// How far the log is committed, if that is to be written yet.
    committed: Option<EntryId>,
}

enum Disk<E: Env> {
    Idle(Journal<E::Disk>),
    /// A record is being written. Whoever writes it writes the next one too, if anything waits by then.
    Busy,
    Failed(Failure),
}

impl<E: Env> Clone for Writer<E> {
    fn clone(&self) -> Self {
        Self(Arc::clone(&self.0))
    }
}

impl<E: Env> std::fmt::Debug for Writer<E> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Writer")
    }
}

impl<E: Env> Writer<E> {
    pub(super) fn new(
        lane: E::Lane,
        journal: Journal<E::Disk>,
        observer: Option<Observer>,
    ) -> Self {
        let state = State { disk: Disk::Idle(journal), waiting: VecDeque::new(), committed: None };
        let room = Arc::new(Semaphore::new(APPENDS_MAX));
        let written = Tally::default();
        Self(Arc::new(Shared { lane, observer, written, room, state: Mutex::new(state) }))
    }

    /// The records written, with a sync each.
    #[must_use]
    pub fn written_records(&self) -> &Tally {
        &self.0.written
    }

    /// Queues encoded entries; `flushed` is called once they are durable. Waits for room.
    pub(super) async fn append(
        &self,
        entries: Vec<(EntryId, Bytes)>,
        flushed: IOFlushed<TypeConfig<E>>,
    ) -> io::Result<()> {
        let room = Arc::clone(&self.0.room).acquire_owned().await.map_err(io::Error::other)?;
        self.submit(Change::Append(entries), Done::Raft(flushed, room));
        Ok(())
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
        self.state().committed = Some(committed);
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
        self.submit(change, Done::Caller(done));
        // Untold only if the process is shutting down.
        told.await.map_err(|_| io::ErrorKind::BrokenPipe)?
    }

    fn submit(&self, change: Change, done: Done<E>) {
        let mut state = self.state();
        match std::mem::replace(&mut state.disk, Disk::Busy) {
            Disk::Idle(journal) => {
                state.waiting.push_back((change, done));
                self.write_next(state, journal);
            }
            Disk::Busy => state.waiting.push_back((change, done)),
            Disk::Failed(failure) => {
                state.disk = Disk::Failed(failure.clone());
                drop(state);
                done.tell(&Err(failure));
            }
        }
    }

    /// Writes what waits, unless nothing does.
    fn write_next(&self, mut state: MutexGuard<'_, State<E>>, mut journal: Journal<E::Disk>) {
        if state.waiting.is_empty() {
            state.disk = Disk::Idle(journal);
            return;
        }
        let count = state.waiting.len().min(BATCH_WRITES_MAX);
        let (changes, dones): (Vec<_>, Vec<_>) = state.waiting.drain(..count).unzip();
        let mut ops = Vec::with_capacity(changes.len() + 1);
        ops.extend(state.committed.take().map(Op::Committed));
        drop(state);

        let observed = self.0.observer.is_some().then(|| changes.iter().filter_map(Change::stored));
        let stored: Vec<_> = observed.into_iter().flatten().collect();
        for change in changes {
            change.append_to(&mut ops);
        }
        let tally = self.0.written.clone();
        let work = move || {
            if !ops.is_empty() {
                tally.add(journal.write(&ops)?);
            }
            Ok(journal)
        };
        let writer = self.clone();
        self.0.lane.run(work, move |written| writer.written(written, &stored, dones));
    }

    fn written(
        &self,
        written: io::Result<io::Result<Journal<E::Disk>>>,
        stored: &[Stored],
        dones: Vec<Done<E>>,
    ) {
        match written.flatten() {
            Ok(journal) => {
                Observer::show(self.0.observer.as_ref(), Step::Stored(stored));
                // Before the next write begins: openraft hears of its writes in order.
                for done in dones {
                    done.tell(&Ok(()));
                }
                self.write_next(self.state(), journal);
            }
            Err(error) => {
                tracing::error!(%error, "the disk failed; this node stops");
                let failure = Failure(error.kind(), format!("the disk failed: {error}").into());
                let mut state = self.state();
                state.disk = Disk::Failed(failure.clone());
                let waiting = std::mem::take(&mut state.waiting);
                drop(state);
                refuse(
                    dones.into_iter().chain(waiting.into_iter().map(|(_, done)| done)),
                    &failure,
                );
            }
        }
    }

    fn state(&self) -> MutexGuard<'_, State<E>> {
        // No step that holds it can panic half-way.
        self.0.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
