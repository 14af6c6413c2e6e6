//! Everything that a node keeps: one redb file with log, vote, committed and purge points, snapshot and
//! identity.
//!
//! - [`open`](Store::open) checks the file before anything else is read: a foreign file, a newer format
//!   or another node's directory is refused, never overwritten.
//! - All writes pass through one task, [`writer`], in the order in which Raft made them; what is queued
//!   together is committed together. After the first error it refuses everything: a disk that failed
//!   once is not asked again (a failed fsync may have dropped what it was to save).
//! - The log behind the purge point is small by policy, so [`LogStore`] keeps all of it in memory and
//!   reads never wait for the disk.
//!
//! Left out: the state machine's state. It is rebuilt from the snapshot and the log at start.

use std::io;
use std::path::Path;
use std::sync::Arc;

use redb::{Database, ReadableDatabase, ReadableTable, TableDefinition};
use serde::{Deserialize, Serialize};
use uuid::Uuid;

use super::types::{Ballot, EntryId, LogEntry, NodeId, SnapshotMeta};
use crate::codec;
use crate::env::Env;

mod log;
pub mod writer;

pub use log::LogStore;
use writer::Writer;

/// The name of the file in the data directory.
pub const FILE_NAME: &str = "yakt.redb";

/// The name of a file that says that [`FILE_NAME`] once belonged to a node: from then on it must be whole.
const CLAIMED_NAME: &str = "yakt.claimed";

const META: TableDefinition<'_, &str, &[u8]> = TableDefinition::new("meta");
const LOG: TableDefinition<'_, u64, &[u8]> = TableDefinition::new("log");
const SNAPSHOT: TableDefinition<'_, u32, &[u8]> = TableDefinition::new("snapshot");

const KEY_IDENTITY: &str = "identity";
const KEY_VOTE: &str = "vote";
const KEY_COMMITTED: &str = "committed";
const KEY_PURGED: &str = "purged";
const KEY_SNAPSHOT: &str = "snapshot";

/// Bytes of a snapshot in one row: redb wants values far below its page-order limit.
const SNAPSHOT_ROW_BYTES: usize = 1 << 20;

/// Memory that redb may use to cache pages. The log is in memory already; what is left to cache is the
/// few pages that every commit touches.
const CACHE_BYTES: usize = 4 << 20;

/// Whose directory this is. Written once, before the node first takes part in anything.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Identity {
    /// The cluster this directory belongs to.
    pub cluster: Uuid,
    /// The node this directory belongs to.
    pub node: NodeId,
    /// This directory itself: see [`Peer::directory`](super::Peer::directory).
    pub directory: Uuid,
    /// Whether the cluster began here. Only then may this node start a log of its own: one that joined and
    /// lost touch before it learned its membership would found a second cluster of the same name.
    pub founder: bool,
}

/// Why a data directory cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum OpenError {
    /// Another process has it open.
    #[error("the data directory is in use by another process")]
    InUse,
    /// It holds something that is not ours, or ours and damaged.
    #[error("{FILE_NAME} is damaged or not a YAKt file: {0}")]
    Corrupt(String),
    /// A later version of YAKt wrote it.
    #[error("{FILE_NAME} was written by a newer version of YAKt: {0}")]
    Newer(String),
    /// It is another node's.
    #[error("the data directory belongs to node {found}, not to node {asked}")]
    OtherNode {
        /// Whose it is.
        found: NodeId,
        /// Who asked.
        asked: NodeId,
    },
    /// The file system failed.
    #[error("cannot use the data directory: {0}")]
    Io(#[from] io::Error),
}

/// An open data directory.
#[derive(Debug)]
pub struct Store<E: Env> {
    env: E,
    database: Arc<Database>,
    claimed: Arc<E::Disk>,
    identity: Option<Identity>,
}

impl<E: Env> Store<E> {
    /// Opens `dir` for `node`, creating it when it is not there.
    ///
    /// # Errors
    ///
    /// See [`OpenError`]. Nothing was changed when it is returned, save that redb repairs a file whose
    /// last writer crashed.
    pub async fn open(env: E, dir: &Path, node: NodeId) -> Result<Self, OpenError> {
        let open = |name| {
            env.open_disk(dir, name).map_err(|error| match error.kind() {
                io::ErrorKind::WouldBlock => OpenError::InUse,
                _ => OpenError::Io(error),
            })
        };
        let (disk, claimed) = (open(FILE_NAME)?, Arc::new(open(CLAIMED_NAME)?));
        let mark = Arc::clone(&claimed);
        let opened = env.blocking(move || open_database(disk, &*mark));
        let (database, identity) = opened.await??;
        if let Some(identity) = identity
            && identity.node != node
        {
            return Err(OpenError::OtherNode { found: identity.node, asked: node });
        }
        Ok(Self { env, database: Arc::new(database), claimed, identity })
    }

    /// Whose directory this is, or `None` when it is new.
    #[must_use]
    pub fn identity(&self) -> Option<Identity> {
        self.identity
    }

    /// Makes a new directory `identity`'s.
    ///
    /// # Errors
    ///
    /// When the disk fails.
    ///
    /// # Panics
    ///
    /// When it is somebody's already.
    pub async fn claim(&mut self, identity: Identity) -> io::Result<()> {
        assert!(self.identity.is_none(), "a directory is claimed once");
        let (database, claimed) = (Arc::clone(&self.database), Arc::clone(&self.claimed));
        let bytes = codec::encode_versioned(&identity);
        let written = self.env.blocking(move || {
            let transaction = database.begin_write().map_err(other)?;
            transaction
                .open_table(META)
                .map_err(other)?
                .insert(KEY_IDENTITY, bytes.as_slice())
                .map_err(other)?;
            transaction.commit().map_err(other)?;
            mark_claimed(&*claimed)
        });
        written.await??;
        self.identity = Some(identity);
        Ok(())
    }

    /// Starts the writer and loads the log.
    ///
    /// # Errors
    ///
    /// When the disk fails, or what it holds cannot be the log that was written.
    pub async fn into_parts(self) -> Result<(LogStore<E>, SnapshotStore<E>), OpenError> {
        let database = Arc::clone(&self.database);
        let loaded = self.env.blocking(move || load(&database)).await??;
        let writer = Writer::start(&self.env, Arc::clone(&self.database));
        let snapshots =
            SnapshotStore { env: self.env, database: self.database, writer: writer.clone() };
        Ok((LogStore::new(loaded, writer), snapshots))
    }
}

/// What a restart finds.
#[derive(Debug, Default)]
struct Loaded {
    vote: Option<Ballot>,
    committed: Option<EntryId>,
    purged: Option<EntryId>,
    entries: Vec<(LogEntry, usize)>,
}

/// Says for good that the database was somebody's.
fn mark_claimed(claimed: &impl redb::StorageBackend) -> io::Result<()> {
    claimed.set_len(1)?;
    claimed.sync_data()
}

/// redb writes its magic number last when it makes a file, and will not open a file without one: a node
/// that lost power in its first moment could never start again. Nothing was ever committed to such a file,
/// so it is made anew; unless it was somebody's, and was damaged since.
fn forget_unfinished_creation(
    disk: &impl redb::StorageBackend,
    claimed: &impl redb::StorageBackend,
) -> Result<(), OpenError> {
    let mut magic = [0; 4];
    let length = disk.len()?;
    if length >= magic.len() as u64 {
        disk.read(0, &mut magic)?;
    }
    if magic != [0; 4] {
        return Ok(());
    }
    if claimed.len()? > 0 {
        return Err(OpenError::Corrupt("it begins with zeros, and was a node's".to_owned()));
    }
    if length >= magic.len() as u64 {
        disk.set_len(0)?;
        disk.sync_data()?;
    }
    Ok(())
}

fn open_database(
    disk: impl redb::StorageBackend,
    claimed: &impl redb::StorageBackend,
) -> Result<(Database, Option<Identity>), OpenError> {
    forget_unfinished_creation(&disk, claimed)?;
    let database = Database::builder()
        .set_cache_size(CACHE_BYTES)
        .create_with_backend(disk)
        .map_err(|error| match error {
            redb::DatabaseError::DatabaseAlreadyOpen => OpenError::InUse,
            redb::DatabaseError::UpgradeRequired(version) => {
                OpenError::Newer(format!("redb file format {version}"))
            }
            error => OpenError::Corrupt(error.to_string()),
        })?;
    // Creating the tables makes a new file whole at once; on an old one it changes nothing.
    let transaction = database.begin_write().map_err(other)?;
    transaction.open_table(META).map_err(corrupt)?;
    transaction.open_table(LOG).map_err(corrupt)?;
    transaction.open_table(SNAPSHOT).map_err(corrupt)?;
    transaction.commit().map_err(other)?;

    let reading = database.begin_read().map_err(other)?;
    let identity = get(&reading.open_table(META).map_err(corrupt)?, KEY_IDENTITY)?;
    if identity.is_some() && claimed.len()? == 0 {
        // It lost power between the two.
        mark_claimed(claimed)?;
    }
    Ok((database, identity))
}

fn load(database: &Database) -> Result<Loaded, OpenError> {
    let reading = database.begin_read().map_err(other)?;
    let meta = reading.open_table(META).map_err(corrupt)?;
    let purged: Option<EntryId> = get(&meta, KEY_PURGED)?;
    let mut entries = Vec::new();
    let first = purged.map_or(0, |purged| purged.index() + 1);
    let log = reading.open_table(LOG).map_err(corrupt)?;
    for (expected, row) in (first..).zip(log.iter().map_err(other)?) {
        let (index, bytes) = row.map_err(other)?;
        let entry: LogEntry = decode(bytes.value(), "log entry")?;
        if index.value() != expected || entry.log_id.index() != expected {
            let found = entry.log_id.index();
            return Err(OpenError::Corrupt(format!(
                "log entry {expected} is missing, found {found}"
            )));
        }
        entries.push((entry, bytes.value().len()));
    }
    Ok(Loaded {
        vote: get(&meta, KEY_VOTE)?,
        committed: get(&meta, KEY_COMMITTED)?,
        purged,
        entries,
    })
}

/// The node's one snapshot.
#[derive(Clone, Debug)]
pub struct SnapshotStore<E: Env> {
    env: E,
    database: Arc<Database>,
    writer: Writer<E>,
}

impl<E: Env> SnapshotStore<E> {
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
        self.env.blocking(move || load_snapshot(&database)).await?.map_err(io::Error::other)
    }
}

fn load_snapshot(database: &Database) -> Result<Option<(SnapshotMeta, Arc<[u8]>)>, OpenError> {
    let reading = database.begin_read().map_err(other)?;
    let Some(meta) = get(&reading.open_table(META).map_err(corrupt)?, KEY_SNAPSHOT)? else {
        return Ok(None);
    };
    let mut data = Vec::new();
    for row in reading.open_table(SNAPSHOT).map_err(corrupt)?.iter().map_err(other)? {
        data.extend_from_slice(row.map_err(other)?.1.value());
    }
    Ok(Some((meta, data.into())))
}

fn get<T: serde::de::DeserializeOwned>(
    table: &impl ReadableTable<&'static str, &'static [u8]>,
    key: &'static str,
) -> Result<Option<T>, OpenError> {
    let Some(bytes) = table.get(key).map_err(other)? else {
        return Ok(None);
    };
    decode(bytes.value(), key).map(Some)
}

fn decode<T: serde::de::DeserializeOwned>(bytes: &[u8], what: &str) -> Result<T, OpenError> {
    codec::decode_versioned(bytes).map_err(|error| match error {
        codec::DecodeError::NewerVersion { .. } => OpenError::Newer(format!("{what}: {error}")),
        codec::DecodeError::Corrupt { .. } => OpenError::Corrupt(format!("{what}: {error}")),
    })
}

#[expect(clippy::needless_pass_by_value, reason = "so that it fits `map_err`")]
fn corrupt(error: redb::TableError) -> OpenError {
    OpenError::Corrupt(error.to_string())
}

/// redb's errors as the I/O errors that openraft understands.
fn other(error: impl Into<redb::Error>) -> io::Error {
    match error.into() {
        redb::Error::Io(error) => error,
        error => io::Error::other(error),
    }
}
