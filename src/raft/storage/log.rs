//! The Raft log as openraft sees it: all of it in memory, each change queued for the disk.

use std::fmt::Debug;
use std::io;
use std::ops::RangeBounds;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use bytes::Bytes;
use openraft::storage::{IOFlushed, LogState, RaftLogStorage};
use openraft::{OptionalSend, RaftLogReader};

use super::entries::Entries;
use super::journal::{Head, Replay};
use super::writer::Writer;
use crate::codec;
use crate::env::Env;
use crate::raft::config::APPEND_BYTES_MAX;
use crate::raft::guard::Breach;
use crate::raft::observe::{Observer, Step};
use crate::raft::tally::Tally;
use crate::raft::types::{Ballot, EntryId, LogEntry, TypeConfig};

/// The log behind the purge point, and the vote.
///
/// - Memory runs ahead of the disk, never behind: what a reader sees may not be durable yet, and Raft
///   counts it only after the writer's word.
#[derive(Debug)]
struct Cached {
    vote: Option<Ballot>,
    committed: Option<EntryId>,
    purged: Option<EntryId>,
    entries: Entries,
}

impl Cached {
    fn last(&self) -> Option<EntryId> {
        self.entries.last().or(self.purged)
    }
}

/// openraft's log storage, and its reader. Clones share one log.
pub struct LogStore<E: Env> {
    cached: Arc<Mutex<Cached>>,
    appended: Tally,
    writer: Writer<E>,
    observer: Option<Observer>,
}

impl<E: Env> Clone for LogStore<E> {
    fn clone(&self) -> Self {
        Self {
            cached: Arc::clone(&self.cached),
            appended: self.appended.clone(),
            writer: self.writer.clone(),
            observer: self.observer.clone(),
        }
    }
}

impl<E: Env> Debug for LogStore<E> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("LogStore").field("last", &self.cached().last()).finish_non_exhaustive()
    }
}

impl<E: Env> LogStore<E> {
    pub(super) fn new(replay: Replay, writer: Writer<E>, observer: Option<Observer>) -> Self {
        let Replay { head: Head { vote, committed, purged, next: _ }, entries } = replay;
        let appended = Tally::default();
        entries.lengths().for_each(|length| appended.add(length));
        let cached = Cached { vote, committed, purged, entries };
        Self { cached: Arc::new(Mutex::new(cached)), appended, writer, observer }
    }

    /// The entries that the log was given, those that were in it when it was opened included.
    #[must_use]
    pub fn appended(&self) -> &Tally {
        &self.appended
    }

    /// The way to the disk, for a last flush at a clean stop.
    #[must_use]
    pub fn writer(&self) -> &Writer<E> {
        &self.writer
    }

    /// The vote on stable storage.
    #[must_use]
    pub fn vote(&self) -> Option<Ballot> {
        self.cached().vote
    }

    /// The last entry that this node knows to be committed. The node may have applied it.
    #[must_use]
    pub fn committed(&self) -> Option<EntryId> {
        let cached = self.cached();
        cached.committed.max(cached.purged)
    }

    /// The id of the entry at `index`, if the log still has it, or purged it last.
    ///
    /// # Errors
    ///
    /// When the memory does not hold the bytes that were put there.
    pub fn id_at(&self, index: u64) -> io::Result<Option<EntryId>> {
        let cached = self.cached();
        match cached.purged {
            Some(purged) if purged.index == index => Ok(Some(purged)),
            _ => cached.entries.id_at(index),
        }
    }

    /// Whether the log has the entry `id`, or has purged it.
    ///
    /// # Errors
    ///
    /// When the memory does not hold the bytes that were put there.
    pub fn holds(&self, id: EntryId) -> io::Result<bool> {
        let cached = self.cached();
        let is_purged = cached.purged.is_some_and(|purged| id.index < purged.index || id == purged);
        Ok(is_purged || cached.entries.id_at(id.index)? == Some(id))
    }

    fn observe(&self, step: Step<'_>) {
        Observer::show(self.observer.as_ref(), step);
    }

    fn cached(&self) -> MutexGuard<'_, Cached> {
        // The guarded steps below cannot panic half-way; a poisoned lock is still a whole log.
        self.cached.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl<E: Env> RaftLogReader<TypeConfig<E>> for LogStore<E> {
    async fn try_get_log_entries<RB>(&mut self, range: RB) -> io::Result<Vec<LogEntry>>
    where
        RB: RangeBounds<u64> + Clone + Debug + OptionalSend,
    {
        self.cached().entries.read(&range, usize::MAX)
    }

    async fn read_vote(&mut self) -> io::Result<Option<Ballot>> {
        Ok(self.cached().vote)
    }

    async fn limited_get_log_entries(&mut self, start: u64, end: u64) -> io::Result<Vec<LogEntry>> {
        self.cached().entries.read(&(start..end), APPEND_BYTES_MAX)
    }
}

impl<E: Env> RaftLogStorage<TypeConfig<E>> for LogStore<E> {
    type LogReader = Self;

    async fn get_log_state(&mut self) -> io::Result<LogState<TypeConfig<E>>> {
        let cached = self.cached();
        Ok(LogState { last_purged_log_id: cached.purged, last_log_id: cached.last() })
    }

    async fn get_log_reader(&mut self) -> Self {
        self.clone()
    }

    async fn save_vote(&mut self, vote: &Ballot) -> io::Result<()> {
        self.writer.save_vote(*vote).await?;
        // Readers see a vote only once it is durable: openraft answers from what it reads here.
        self.cached().vote = Some(*vote);
        Ok(())
    }

    async fn save_committed(&mut self, committed: Option<EntryId>) -> io::Result<()> {
        if let Some(committed) = committed {
            self.cached().committed = Some(committed);
            self.observe(Step::Committed(committed));
            self.writer.note_committed(committed);
        }
        Ok(())
    }

    async fn read_committed(&mut self) -> io::Result<Option<EntryId>> {
        let cached = self.cached();
        // It is written along with the next batch, so it may name an entry that a later truncation in the
        // same batch removed, but never one past the log's end that was committed: cap it all the same.
        Ok(cached.committed.min(cached.last()))
    }

    async fn append<I>(&mut self, entries: I, callback: IOFlushed<TypeConfig<E>>) -> io::Result<()>
    where
        I: IntoIterator<Item = LogEntry> + OptionalSend,
        I::IntoIter: OptionalSend,
    {
        let entries: Vec<_> = entries.into_iter().collect();
        self.observe(Step::Appended(&entries));
        let mut encoded = Vec::with_capacity(entries.len());
        {
            let mut cached = self.cached();
            for entry in entries {
                let index = entry.log_id.index();
                let expected = cached.last().map_or(0, |last| last.index() + 1);
                assert_eq!(index, expected, "openraft appends without holes, after truncating");
                let bytes = Bytes::from(codec::encode_versioned(&entry));
                self.appended.add(bytes.len());
                encoded.push((entry.log_id, bytes.clone()));
                cached.entries.push(entry, bytes);
            }
        }
        self.writer.append(encoded, callback).await
    }

    async fn truncate_after(&mut self, last: Option<EntryId>) -> io::Result<()> {
        let from = last.map_or(0, |last| last.index() + 1);
        {
            let mut cached = self.cached();
            // `guard` refuses the request before Raft sees it; this is the last line of defence.
            if let Some(committed) = cached.committed.max(cached.purged)
                && from <= committed.index
            {
                return Err(io::Error::other(Breach::Truncation { from, committed }));
            }
            cached.entries.truncate_from(from)?;
        }
        self.observe(Step::Truncated(from));
        self.writer.truncate_from(from).await
    }

    async fn purge(&mut self, upto: EntryId) -> io::Result<()> {
        {
            let mut cached = self.cached();
            cached.entries.forget_below(upto.index() + 1);
            cached.purged = cached.purged.max(Some(upto));
        }
        self.observe(Step::Purged(upto));
        self.writer.purge(upto).await
    }
}
