//! The node's one snapshot: what it covers in a row of the metadata, its bytes in rows of their own.

use std::io;
use std::sync::Arc;

use redb::{Database, Durability, ReadableDatabase, ReadableTable};
use serde::{Deserialize, Serialize};
use xxhash_rust::xxh3::xxh3_64;

use super::{
    KEY_SNAPSHOT, META, OpenError, SNAPSHOT, SNAPSHOT_ROW_BYTES, get, guarded, other, put, unusable,
};
use crate::codec;
use crate::env::Env;
use crate::raft::observe::{Observer, Step, Stored};
use crate::raft::types::{SnapshotBytes, SnapshotMeta};

/// What is written about a snapshot.
#[derive(Serialize, Deserialize)]
pub(super) struct Described {
    pub(super) meta: SnapshotMeta,
    /// xxh3 of its data, which is read while the node runs, long after the file was checked.
    pub(super) checksum: u64,
}

/// The node's one snapshot.
#[derive(Clone, Debug)]
pub struct SnapshotStore<E: Env> {
    env: E,
    database: Arc<Database>,
    observer: Option<Observer>,
}

impl<E: Env> SnapshotStore<E> {
    pub(super) fn new(env: E, database: Arc<Database>, observer: Option<Observer>) -> Self {
        Self { env, database, observer }
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
        let observer = self.observer.clone();
        let save = move || {
            let stored = [Stored::Snapshot(described.last_log_id)];
            if save_snapshot(&database, described, &data)? {
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

/// Says whether it replaced the one that was there.
pub(super) fn save_snapshot(
    database: &Database,
    described: SnapshotMeta,
    data: &[u8],
) -> io::Result<bool> {
    let mut transaction = database.begin_write().map_err(other)?;
    transaction
        .set_durability(Durability::Immediate)
        .map_err(|error| io::Error::other(error.to_string()))?;
    {
        let mut meta = transaction.open_table(META).map_err(other)?;
        let present: Option<Described> = get(&meta, KEY_SNAPSHOT).map_err(io::Error::other)?;
        // A snapshot that was built slowly may come after a newer one that was installed meanwhile, with which
        // the log it goes with has been purged.
        let present = present.map(|present| present.meta.last_log_id);
        if present.is_some_and(|present| present >= described.last_log_id) {
            return Ok(false);
        }
        let mut rows = transaction.open_table(SNAPSHOT).map_err(other)?;
        rows.retain(|_, _| false).map_err(other)?;
        for (row, chunk) in (0..).zip(data.chunks(SNAPSHOT_ROW_BYTES)) {
            rows.insert(row, chunk).map_err(other)?;
        }
        let described = Described { meta: described, checksum: xxh3_64(data) };
        put(&mut meta, KEY_SNAPSHOT, codec::encode_versioned(&described))?;
    }
    transaction.commit().map_err(other)?;
    Ok(true)
}

pub(super) fn load_snapshot(
    database: &Database,
) -> Result<Option<(SnapshotMeta, SnapshotBytes)>, OpenError> {
    let reading = database.begin_read().map_err(unusable)?;
    let meta = reading.open_table(META).map_err(unusable)?;
    let Some(Described { meta, checksum }) = get(&meta, KEY_SNAPSHOT)? else {
        return Ok(None);
    };
    let mut data = Vec::new();
    for row in reading.open_table(SNAPSHOT).map_err(unusable)?.iter().map_err(unusable)? {
        data.extend_from_slice(row.map_err(unusable)?.1.value());
    }
    if xxh3_64(&data) != checksum {
        return Err(OpenError::Corrupt("the snapshot is not what was written".to_owned()));
    }
    Ok(Some((meta, data.into())))
}
