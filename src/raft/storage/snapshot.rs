//! The node's one snapshot: what it covers in a row of the metadata, its bytes in rows of their own.
//!
//! Each row is written in a transaction of its own, beside those of the snapshot before, and the last one says that
//! these are the snapshot now. In one transaction a large snapshot would be synced at once, and the log, which is
//! on the same disk, could not be until that is done: writes stood still for two thirds of a second while five nodes
//! of one machine saved 170 MB each.

use std::fmt::{self, Debug};
use std::io;
use std::ops::{Range, RangeInclusive};
use std::sync::{Arc, Mutex, PoisonError};

use bytes::Bytes;
use redb::{AccessGuard, Database, Durability, ReadOnlyTable, ReadableDatabase, WriteTransaction};
use serde::{Deserialize, Serialize};
use xxhash_rust::xxh3::Xxh3Default;

use super::{KEY_SNAPSHOT, META, OpenError, SNAPSHOT, get, guarded, other, put, unusable};
use crate::codec;
use crate::env::Env;
use crate::raft::observe::{Observer, Step, Stored};
use crate::raft::types::SnapshotMeta;

/// What redb writes beside a row into the page that holds it alone: a header, the row's number, and where it ends.
///
/// Its pages have sizes that are powers of two. A row of a mebibyte would be given two, all of which would be cleared,
/// read, written and synced.
pub(super) const PAGE_OVERHEAD: usize = 12;

/// What is written about a snapshot.
#[derive(Serialize, Deserialize)]
pub(super) struct Described {
    pub(super) meta: SnapshotMeta,
    /// Where its rows begin: they end where the other half of the numbers does.
    first_row: u32,
    /// xxh3 of its data, which is read while the node runs, long after the file was checked.
    pub(super) checksum: u64,
}

/// The node's one snapshot.
#[derive(Clone, Debug)]
pub struct SnapshotStore<E: Env> {
    env: E,
    database: Arc<Database>,
    /// Held while a snapshot is written, row after row.
    saving: Arc<Mutex<()>>,
    observer: Option<Observer>,
    row_bytes: usize,
}

impl<E: Env> SnapshotStore<E> {
    pub(super) fn new(
        env: E,
        database: Arc<Database>,
        observer: Option<Observer>,
        page_bytes: usize,
    ) -> Self {
        let row_bytes = page_bytes.saturating_sub(PAGE_OVERHEAD).max(1);
        Self { env, database, saving: Arc::default(), observer, row_bytes }
    }

    /// The world this store lives in.
    #[must_use]
    pub fn env(&self) -> &E {
        &self.env
    }

    /// Replaces the snapshot by what `write` writes, unless by an older one. On return it is durable.
    ///
    /// # Errors
    ///
    /// When the disk fails. The storage engine refuses everything from then on.
    pub async fn save(
        &self,
        meta: &SnapshotMeta,
        write: impl FnOnce(&mut Rows<'_>) -> io::Result<()> + Send + 'static,
    ) -> io::Result<()> {
        let (database, described) = (Arc::clone(&self.database), meta.clone());
        let (saving, row_bytes) = (Arc::clone(&self.saving), self.row_bytes);
        let observer = self.observer.clone();
        let save = move || {
            let _one_at_a_time = saving.lock().unwrap_or_else(PoisonError::into_inner);
            let stored = [Stored::Snapshot(described.last_log_id)];
            if save_snapshot(&database, described, row_bytes, write)? {
                // Here, and not when the caller has heard of it: of two that are saved at once, the later one is told
                // of last.
                Observer::show(observer.as_ref(), Step::Stored(&stored));
            }
            Ok(())
        };
        let saved =
            self.env.blocking(move || guarded(save).map_err(io::Error::other).flatten()).await;
        saved.flatten().inspect_err(|error| {
            tracing::error!(%error, "a snapshot cannot be saved; this node stops");
        })
    }

    /// Checks the snapshot, and says what it covers and where its bytes are.
    ///
    /// # Errors
    ///
    /// When the disk fails or holds something that was not written.
    pub async fn load(&self) -> io::Result<Option<(SnapshotMeta, SnapshotData<E>)>> {
        self.find_by(load_snapshot).await
    }

    /// As [`load`](Self::load), unchecked.
    ///
    /// # Errors
    ///
    /// As [`load`](Self::load).
    pub async fn find(&self) -> io::Result<Option<(SnapshotMeta, SnapshotData<E>)>> {
        self.find_by(find_snapshot).await
    }

    async fn find_by(
        &self,
        find: impl FnOnce(&Database) -> Result<Option<(SnapshotMeta, Saved)>, OpenError>
        + Send
        + 'static,
    ) -> io::Result<Option<(SnapshotMeta, SnapshotData<E>)>> {
        let database = Arc::clone(&self.database);
        let loaded = self.env.blocking(move || guarded(|| find(&database)).flatten());
        let loaded = loaded.await?.map_err(io::Error::other)?;
        Ok(loaded.map(|(meta, saved)| (meta, SnapshotData::saved(self.env.clone(), saved))))
    }
}

/// The bytes of a snapshot: in memory if they came from a peer, on this node's disk if they are its own, from where
/// they are read a row at a time.
pub struct SnapshotData<E: Env> {
    len: u64,
    /// Read, and not taken yet.
    at_hand: Bytes,
    /// What is to be read yet, unless nothing is: rows that somebody may read take room on the disk.
    rest: Option<Rest<E>>,
}

struct Rest<E: Env> {
    env: E,
    saved: Arc<Saved>,
    /// The row that is read next.
    next: u32,
    /// The checksum of those before it.
    found: Xxh3Default,
}

impl<E: Env> Debug for SnapshotData<E> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("SnapshotData").field("len", &self.len).finish_non_exhaustive()
    }
}

impl<E: Env> From<Vec<u8>> for SnapshotData<E> {
    fn from(bytes: Vec<u8>) -> Self {
        Self { len: bytes.len() as u64, at_hand: bytes.into(), rest: None }
    }
}

impl<E: Env> SnapshotData<E> {
    fn saved(env: E, saved: Saved) -> Self {
        let (len, next, found) = (saved.len(), saved.rows().start, Xxh3Default::new());
        let any = !saved.rows().is_empty();
        let rest = Rest { env, saved: Arc::new(saved), next, found };
        Self { len, at_hand: Bytes::new(), rest: any.then_some(rest) }
    }

    /// How many bytes there were at first.
    #[expect(clippy::len_without_is_empty, reason = "no snapshot is")]
    pub const fn len(&self) -> u64 {
        self.len
    }

    /// The next bytes, `most` or fewer; none in the end. The last ones are given out only if all are what was written.
    ///
    /// # Errors
    ///
    /// When the disk fails or holds something that was not written.
    pub async fn take(&mut self, most: usize) -> io::Result<Bytes> {
        if self.at_hand.is_empty()
            && let Some(rest) = &mut self.rest
        {
            let (saved, row) = (Arc::clone(&rest.saved), rest.next);
            let read = rest.env.blocking(move || guarded(|| saved.read(row)).flatten());
            let bytes = read.await?.map_err(io::Error::other)?;
            rest.found.update(&bytes);
            rest.next += 1;
            if rest.next == rest.saved.rows().end {
                // What was checked a while ago may have rotted since.
                rest.saved.compare(rest.found.digest()).map_err(io::Error::other)?;
                self.rest = None;
            }
            self.at_hand = bytes;
        }
        Ok(self.at_hand.split_to(most.min(self.at_hand.len())))
    }

    /// All bytes that were not taken.
    ///
    /// # Errors
    ///
    /// When the disk fails.
    pub async fn whole(mut self) -> io::Result<Bytes> {
        if self.rest.is_none() {
            return Ok(self.at_hand);
        }
        let mut whole = Vec::with_capacity(usize::try_from(self.len).unwrap_or_default());
        loop {
            let bytes = self.take(usize::MAX).await?;
            if bytes.is_empty() {
                return Ok(whole.into());
            }
            whole.extend_from_slice(&bytes);
        }
    }
}

/// The numbers of rows have two halves, which snapshots take in turns.
const HALF: u32 = 1 << 31;

/// Says whether it replaced the one that was there. One at a time.
pub(super) fn save_snapshot(
    database: &Database,
    meta: SnapshotMeta,
    row_bytes: usize,
    write: impl FnOnce(&mut Rows<'_>) -> io::Result<()>,
) -> io::Result<bool> {
    let reading = database.begin_read().map_err(other)?.open_table(META).map_err(other)?;
    let present: Option<Described> = get(&reading, KEY_SNAPSHOT).map_err(io::Error::other)?;
    drop(reading);
    // A snapshot that was built slowly may come after a newer one that was installed meanwhile, with which
    // the log it goes with has been purged.
    if present.as_ref().is_some_and(|present| present.meta.last_log_id >= meta.last_log_id) {
        return Ok(false);
    }
    let first_row = present.map_or(0, |present| present.first_row ^ HALF);
    let transaction = begin(database)?;
    // What a save left behind that was cut short.
    remove(&transaction, first_row)?;
    let checksum = Xxh3Default::new();
    let transaction = Some(transaction);
    let mut rows =
        Rows { database, row_bytes, transaction, first: first_row, next: first_row, checksum };
    write(&mut rows)?;
    rows.end(meta)?;
    Ok(true)
}

/// The rows of a snapshot that is being written.
pub struct Rows<'a> {
    database: &'a Database,
    row_bytes: usize,
    /// The one that has the last row. Gone after an error.
    transaction: Option<WriteTransaction>,
    first: u32,
    next: u32,
    checksum: Xxh3Default,
}

impl Rows<'_> {
    /// How long every row but the last one should be.
    pub const fn row_bytes(&self) -> usize {
        self.row_bytes
    }

    /// Writes a row. On return those before it are durable.
    ///
    /// # Errors
    ///
    /// When the disk fails.
    pub fn push(&mut self, row: &[u8]) -> io::Result<()> {
        let mut transaction = self.take_transaction()?;
        if self.next > self.first {
            transaction.commit().map_err(other)?;
            transaction = begin(self.database)?;
        }
        transaction.open_table(SNAPSHOT).map_err(other)?.insert(self.next, row).map_err(other)?;
        self.checksum.update(row);
        self.next += 1;
        self.transaction = Some(transaction);
        Ok(())
    }

    /// Writes all rows.
    ///
    /// # Errors
    ///
    /// When the disk fails.
    pub fn push_all(&mut self, bytes: &[u8]) -> io::Result<()> {
        bytes.chunks(self.row_bytes).try_for_each(|row| self.push(row))
    }

    fn take_transaction(&mut self) -> io::Result<WriteTransaction> {
        self.transaction.take().ok_or_else(|| io::Error::other("an earlier row was not written"))
    }

    /// Makes of the rows the snapshot, and removes the one before.
    fn end(mut self, meta: SnapshotMeta) -> io::Result<()> {
        let transaction = self.take_transaction()?;
        remove(&transaction, self.first ^ HALF)?;
        let described = Described { meta, first_row: self.first, checksum: self.checksum.digest() };
        let described = codec::encode_versioned(&described);
        put(&mut transaction.open_table(META).map_err(other)?, KEY_SNAPSHOT, described)?;
        transaction.commit().map_err(other)
    }
}

fn begin(database: &Database) -> io::Result<WriteTransaction> {
    let mut transaction = database.begin_write().map_err(other)?;
    transaction
        .set_durability(Durability::Immediate)
        .map_err(|error| io::Error::other(error.to_string()))?;
    Ok(transaction)
}

/// Removes all rows of the half that begins with `first_row`.
fn remove(transaction: &WriteTransaction, first_row: u32) -> io::Result<()> {
    let mut rows = transaction.open_table(SNAPSHOT).map_err(other)?;
    rows.retain_in(half(first_row), |_, _| false).map_err(other)
}

/// The numbers of the half that begins with `first_row`.
const fn half(first_row: u32) -> RangeInclusive<u32> {
    first_row..=first_row | (HALF - 1)
}

/// The rows of a snapshot, as they were when it was found: they stay for as long as somebody may read them.
pub(super) struct Saved {
    table: ReadOnlyTable<u32, &'static [u8]>,
    rows: Range<u32>,
    len: u64,
    checksum: u64,
}

impl Saved {
    pub(super) fn rows(&self) -> Range<u32> {
        self.rows.clone()
    }

    pub(super) const fn len(&self) -> u64 {
        self.len
    }

    pub(super) fn read(&self, row: u32) -> Result<Bytes, OpenError> {
        Ok(Bytes::copy_from_slice(self.row(row)?.value()))
    }

    fn row(&self, row: u32) -> Result<AccessGuard<'_, &'static [u8]>, OpenError> {
        let row = self.table.get(row).map_err(unusable)?;
        row.ok_or_else(|| corrupt("a row of the snapshot is missing"))
    }

    /// Reads all of it.
    fn check(&self) -> Result<(), OpenError> {
        let (mut found, mut len) = (Xxh3Default::new(), 0);
        for row in self.rows() {
            let row = self.row(row)?;
            found.update(row.value());
            len += row.value().len() as u64;
        }
        if len != self.len {
            return Err(corrupt("the snapshot is not as long as was written"));
        }
        self.compare(found.digest())
    }

    /// Whether all rows are what was written, going by the checksum that was found.
    fn compare(&self, found: u64) -> Result<(), OpenError> {
        if found != self.checksum {
            return Err(corrupt("the snapshot is not what was written"));
        }
        Ok(())
    }
}

fn corrupt(what: &str) -> OpenError {
    OpenError::Corrupt(what.to_owned())
}

pub(super) fn load_snapshot(
    database: &Database,
) -> Result<Option<(SnapshotMeta, Saved)>, OpenError> {
    let found = find_snapshot(database)?;
    if let Some((_, saved)) = &found {
        saved.check()?;
    }
    Ok(found)
}

fn find_snapshot(database: &Database) -> Result<Option<(SnapshotMeta, Saved)>, OpenError> {
    let reading = database.begin_read().map_err(unusable)?;
    let meta = reading.open_table(META).map_err(unusable)?;
    let Some(Described { meta, first_row, checksum }) = get(&meta, KEY_SNAPSHOT)? else {
        return Ok(None);
    };
    let table = reading.open_table(SNAPSHOT).map_err(unusable)?;
    let mut rows = table.range(half(first_row)).map_err(unusable)?;
    let (end, len) = match (rows.next().transpose().map_err(unusable)?, rows.next_back()) {
        (None, _) => (first_row, 0),
        (Some((_, only)), None) => (first_row.saturating_add(1), only.value().len() as u64),
        (Some((_, first)), Some(last)) => {
            let (last, bytes) = last.map_err(unusable)?;
            let before = u64::from(last.value() - first_row) * first.value().len() as u64;
            (last.value().saturating_add(1), before + bytes.value().len() as u64)
        }
    };
    drop(rows);
    Ok(Some((meta, Saved { table, rows: first_row..end, len, checksum })))
}

#[cfg(test)]
mod tests {
    use openraft::vote::RaftLeaderId;
    use redb::backends::InMemoryBackend;

    use super::*;
    use crate::env::TokioEnv;
    use crate::raft::types::{EntryId, Leader, Membership};

    /// So many bytes, ten to a row.
    fn saved(bytes: usize) -> Saved {
        let database = database_with(bytes, 10);
        find_snapshot(&database).unwrap().unwrap().1
    }

    /// Holds a snapshot of so many bytes, in rows of so many.
    fn database_with(bytes: usize, row_bytes: usize) -> Database {
        let database = Database::builder().create_with_backend(InMemoryBackend::new()).unwrap();
        let transaction = begin(&database).unwrap();
        transaction.open_table(META).unwrap();
        transaction.open_table(SNAPSHOT).unwrap();
        transaction.commit().unwrap();
        let leader_id = Leader { term: 1, voted_for: 1 }.to_committed();
        let meta = SnapshotMeta {
            last_log_id: Some(EntryId { leader_id, index: 1 }),
            last_membership: Membership::default(),
        };
        save_snapshot(&database, meta, row_bytes, |rows| rows.push_all(&vec![7; bytes])).unwrap();
        database
    }

    #[test]
    fn rows_fill_the_pages_that_redb_gives_them() {
        const PAGE: usize = 64 << 10;
        let unused = |row_bytes: usize| {
            let database = database_with(10 * row_bytes, row_bytes);
            let stats = begin(&database).unwrap().stats().unwrap();
            stats.fragmented_bytes()
        };
        // redb's own tables take some.
        assert!(unused(PAGE - PAGE_OVERHEAD) < 2 * PAGE as u64);
        assert!(unused(PAGE - PAGE_OVERHEAD + 1) > 9 * PAGE as u64, "more than that fits");
    }

    #[tokio::test]
    async fn all_bytes_are_taken_row_by_row() {
        let mut data = SnapshotData::saved(TokioEnv, saved(25));
        let mut lengths = Vec::new();
        for most in [4, 100, 100, 100, 100] {
            lengths.push(data.take(most).await.unwrap().len());
        }
        assert_eq!((data.len(), lengths), (25, vec![4, 6, 10, 5, 0]));
        assert!(data.rest.is_none(), "the rows are kept on the disk");
        for bytes in [0, 1, 10, 11, 25] {
            let saved = saved(bytes);
            saved.check().unwrap();
            let data = SnapshotData::saved(TokioEnv, saved);
            assert_eq!(data.whole().await.unwrap(), vec![7; bytes]);
        }
    }

    #[tokio::test]
    async fn what_rotted_since_it_was_checked_is_not_given_out() {
        let rotten = || {
            let mut saved = saved(25);
            saved.checksum ^= 1;
            SnapshotData::saved(TokioEnv, saved)
        };
        let mut data = rotten();
        assert_eq!(data.take(100).await.unwrap().len(), 10);
        assert_eq!(data.take(100).await.unwrap().len(), 10);
        assert!(data.take(100).await.is_err());
        assert!(rotten().whole().await.is_err());
    }
}
