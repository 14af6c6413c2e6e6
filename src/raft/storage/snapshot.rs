//! The node's one snapshot: what it covers in a row of the metadata, its bytes in rows of their own.

use std::io;
use std::sync::Arc;

use redb::{Database, ReadableDatabase, ReadableTable};
use serde::{Deserialize, Serialize};
use xxhash_rust::xxh3::xxh3_64;

use super::writer::Writer;
use super::{KEY_SNAPSHOT, META, OpenError, SNAPSHOT, get, guarded, unusable};
use crate::env::Env;
use crate::raft::types::SnapshotMeta;

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
    writer: Writer<E>,
}

impl<E: Env> SnapshotStore<E> {
    pub(super) fn new(env: E, database: Arc<Database>, writer: Writer<E>) -> Self {
        Self { env, database, writer }
    }

    /// The world this store lives in.
    #[must_use]
    pub fn env(&self) -> &E {
        &self.env
    }

    /// Replaces the snapshot. On return it is durable.
    ///
    /// # Errors
    ///
    /// When the disk fails.
    pub async fn save(&self, meta: &SnapshotMeta, data: Arc<[u8]>) -> io::Result<()> {
        self.writer.save_snapshot(meta, data).await
    }

    /// Reads the snapshot back.
    ///
    /// # Errors
    ///
    /// When the disk fails or holds something that was not written.
    pub async fn load(&self) -> io::Result<Option<(SnapshotMeta, Arc<[u8]>)>> {
        let database = Arc::clone(&self.database);
        let loaded = self.env.blocking(move || guarded(|| load_snapshot(&database)).flatten());
        loaded.await?.map_err(io::Error::other)
    }
}

pub(super) fn load_snapshot(
    database: &Database,
) -> Result<Option<(SnapshotMeta, Arc<[u8]>)>, OpenError> {
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
