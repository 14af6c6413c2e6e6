//! The node's one snapshot: what it covers in a row of the metadata, its bytes in rows of their own.
//!
//! Each row is written in a transaction of its own, beside those of the snapshot before, and the last one says that
//! these are the snapshot now. In one transaction a large snapshot would be synced at once, and the log, which is
//! on the same disk, could not be until that is done: writes stood still for two thirds of a second while five nodes
//! of one machine saved 170 MB each.

use std::io;
use std::sync::{Arc, Mutex, PoisonError};

use redb::{Database, Durability, ReadableDatabase, WriteTransaction};
use serde::{Deserialize, Serialize};
use xxhash_rust::xxh3::xxh3_64;

use super::{KEY_SNAPSHOT, META, OpenError, SNAPSHOT, get, guarded, other, put, unusable};
use crate::codec;
use crate::env::Env;
use crate::raft::observe::{Observer, Step, Stored};
use crate::raft::types::{SnapshotBytes, SnapshotMeta};

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
        row_bytes: usize,
    ) -> Self {
        Self { env, database, saving: Arc::default(), observer, row_bytes: row_bytes.max(1) }
    }

    /// The world this store lives in.
    #[must_use]
    pub fn env(&self) -> &E {
        &self.env
    }

    /// Replaces the snapshot, unless by an older one. On return it is durable.
    ///
    /// # Errors
    ///
    /// When the disk fails. The storage engine refuses everything from then on.
    pub async fn save(&self, meta: &SnapshotMeta, data: SnapshotBytes) -> io::Result<()> {
        let (database, described) = (Arc::clone(&self.database), meta.clone());
        let (saving, row_bytes) = (Arc::clone(&self.saving), self.row_bytes);
        let observer = self.observer.clone();
        let save = move || {
            let _one_at_a_time = saving.lock().unwrap_or_else(PoisonError::into_inner);
            let stored = [Stored::Snapshot(described.last_log_id)];
            if save_snapshot(&database, described, &data, row_bytes)? {
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

    /// Reads the snapshot back.
    ///
    /// # Errors
    ///
    /// When the disk fails or holds something that was not written.
    pub async fn load(&self) -> io::Result<Option<(SnapshotMeta, SnapshotBytes)>> {
        let database = Arc::clone(&self.database);
        let loaded = self.env.blocking(move || guarded(|| load_snapshot(&database)).flatten());
        loaded.await?.map_err(io::Error::other)
    }
}

/// The numbers of rows have two halves, which snapshots take in turns.
const HALF: u32 = 1 << 31;

/// Says whether it replaced the one that was there. One at a time.
pub(super) fn save_snapshot(
    database: &Database,
    meta: SnapshotMeta,
    data: &[u8],
    row_bytes: usize,
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
    let mut rows = (first_row..).zip(data.chunks(row_bytes)).peekable();
    let mut transaction = begin(database)?;
    // What a save left behind that was cut short.
    keep(&transaction, first_row ^ HALF)?;
    while let Some((row, chunk)) = rows.next() {
        transaction.open_table(SNAPSHOT).map_err(other)?.insert(row, chunk).map_err(other)?;
        if rows.peek().is_some() {
            transaction.commit().map_err(other)?;
            transaction = begin(database)?;
        }
    }
    keep(&transaction, first_row)?;
    let described = Described { meta, first_row, checksum: xxh3_64(data) };
    let described = codec::encode_versioned(&described);
    put(&mut transaction.open_table(META).map_err(other)?, KEY_SNAPSHOT, described)?;
    transaction.commit().map_err(other)?;
    Ok(true)
}

fn begin(database: &Database) -> io::Result<WriteTransaction> {
    let mut transaction = database.begin_write().map_err(other)?;
    transaction
        .set_durability(Durability::Immediate)
        .map_err(|error| io::Error::other(error.to_string()))?;
    Ok(transaction)
}

/// Removes all rows but those of the half that begins with `first_row`.
fn keep(transaction: &WriteTransaction, first_row: u32) -> io::Result<()> {
    let mut rows = transaction.open_table(SNAPSHOT).map_err(other)?;
    rows.retain(|row, _| row & HALF == first_row).map_err(other)
}

pub(super) fn load_snapshot(
    database: &Database,
) -> Result<Option<(SnapshotMeta, SnapshotBytes)>, OpenError> {
    let reading = database.begin_read().map_err(unusable)?;
    let meta = reading.open_table(META).map_err(unusable)?;
    let Some(Described { meta, first_row, checksum }) = get(&meta, KEY_SNAPSHOT)? else {
        return Ok(None);
    };
    let mut data = Vec::new();
    let rows = reading.open_table(SNAPSHOT).map_err(unusable)?;
    for row in rows.range(first_row..=first_row | (HALF - 1)).map_err(unusable)? {
        data.extend_from_slice(row.map_err(unusable)?.1.value());
    }
    if xxh3_64(&data) != checksum {
        return Err(OpenError::Corrupt("the snapshot is not what was written".to_owned()));
    }
    Ok(Some((meta, data.into())))
}
