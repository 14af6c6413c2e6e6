//! Everything that a node keeps: one redb file with log, vote, committed and purge points, snapshot and
//! identity.
//!
//! - [`open`](Store::open) checks the file before anything else is read: a foreign file, a newer format
//!   or another node's directory is refused, never overwritten.
//! - All writes pass through one task, [`writer`], in the order in which Raft made them; what is queued
//!   together is committed together. After the first error it refuses everything: a disk that failed
//!   once is not asked again (a failed fsync may have dropped what it was to save).
//! - What rotted on the disk is not taken for what was written: opening checks the whole file, and rows
//!   carry checksums of their own (see `seal`). A damaged file is refused with an error, and so is one
//!   that makes the storage engine panic.
//! - The log behind the purge point is small by policy, so [`LogStore`] keeps all of it in memory and
//!   reads never wait for the disk.
//!
//! Left out: the state machine's state. It is rebuilt from the snapshot and the log at start. And one kind
//! of rot: when what the last transaction wrote is damaged *and* the process did not stop cleanly, the
//! damage looks like a commit that a power loss tore, and that transaction is undone as if nobody had been
//! told of it. To tell the two apart, every commit would need a second sync.

use std::io;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::Path;
use std::sync::Arc;

use redb::{Database, ReadableDatabase, ReadableTable, ReadableTableMetadata, TableDefinition};
use serde::{Deserialize, Serialize};
use uuid::Uuid;

use super::observe::{Observer, Recovered, Step};
use super::types::{Ballot, EntryId, LogEntry, NodeId};
use crate::codec;
use crate::env::Env;

mod log;
mod seal;
mod snapshot;
#[cfg(test)]
mod tests;
pub mod writer;

pub use log::LogStore;
use seal::{seal, unseal};
use snapshot::Described;
pub use snapshot::SnapshotStore;
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

/// Bytes that [`rewrite`] reads and writes at a time.
const REWRITE_BYTES: usize = 1 << 20;

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
    /// See [`OpenError`]. Nothing was changed when it is returned, save that redb notes in the file that it
    /// was checked, and repairs one whose last writer crashed.
    pub async fn open(env: E, dir: &Path, node: NodeId) -> Result<Self, OpenError> {
        let open = |name| {
            env.open_disk(dir, name).map_err(|error| match error.kind() {
                io::ErrorKind::WouldBlock => OpenError::InUse,
                _ => OpenError::Io(error),
            })
        };
        let (disk, claimed) = (open(FILE_NAME)?, Arc::new(open(CLAIMED_NAME)?));
        let mark = Arc::clone(&claimed);
        let opened = env.blocking(move || guarded(|| open_database(disk, &*mark)).flatten());
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
            put(&mut transaction.open_table(META).map_err(other)?, KEY_IDENTITY, bytes)?;
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
    pub async fn into_parts(
        self,
        observer: Option<Observer>,
    ) -> Result<(LogStore<E>, SnapshotStore<E>), OpenError> {
        let database = Arc::clone(&self.database);
        let loaded = self.env.blocking(move || guarded(|| load(&database)).flatten()).await??;
        if observer.is_some() {
            Observer::show(observer.as_ref(), Step::Recovered(&loaded.recovered()));
        }
        let writer = Writer::start(&self.env, Arc::clone(&self.database), observer.clone());
        let snapshots = SnapshotStore::new(self.env, self.database, writer.clone());
        Ok((LogStore::new(loaded, writer, observer), snapshots))
    }
}

/// What a restart finds.
#[derive(Debug, Default)]
struct Loaded {
    vote: Option<Ballot>,
    committed: Option<EntryId>,
    purged: Option<EntryId>,
    snapshot: Option<EntryId>,
    entries: Vec<(LogEntry, usize)>,
}

impl Loaded {
    fn recovered(&self) -> Recovered {
        Recovered {
            vote: self.vote,
            committed: self.committed,
            purged: self.purged,
            entries: self.entries.iter().map(|(entry, _)| entry.clone()).collect(),
            snapshot: self.snapshot,
        }
    }
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

/// Writes the whole file again as it reads, and syncs it: only then is what it reads on the disk.
///
/// It may not be. After a failed sync the kernel takes the pages that it could not write for clean, and shows them
/// to whoever reads (the lesson that `PostgreSQL` learned in 2018). So, without this:
///
/// 1. a sync fails, and the node stops, as it must;
/// 2. its supervisor starts it again. It reads the entries that were never written from the kernel's cache, and
///    counts as holding them;
/// 3. the power fails. The entries are gone, or the file is damaged by a commit of which a part is.
///
/// (Simulation found it: swarm, seed 2117.) A cut in the middle of this leaves a mixture of what the cache and the
/// disk held, which is what the failed commit itself may have left: redb recovers from that.
fn rewrite(disk: &impl redb::StorageBackend) -> io::Result<()> {
    let length = disk.len()?;
    let mut chunk = vec![0; REWRITE_BYTES];
    for offset in (0..length).step_by(REWRITE_BYTES) {
        let bytes = usize::try_from(length - offset).unwrap_or(REWRITE_BYTES).min(REWRITE_BYTES);
        disk.read(offset, &mut chunk[..bytes])?;
        disk.write(offset, &chunk[..bytes])?;
    }
    disk.sync_data()
}

fn open_database(
    disk: impl redb::StorageBackend,
    claimed: &impl redb::StorageBackend,
) -> Result<(Database, Option<Identity>), OpenError> {
    rewrite(&disk)?;
    forget_unfinished_creation(&disk, claimed)?;
    let database = Database::builder()
        .set_cache_size(CACHE_BYTES)
        // Without it redb trusts what was closed cleanly, and panics on it or believes it when it is wrong.
        .set_check_integrity_on_open(true)
        .create_with_backend(disk)
        .map_err(|error| match error {
            redb::DatabaseError::DatabaseAlreadyOpen => OpenError::InUse,
            redb::DatabaseError::UpgradeRequired(version) => {
                OpenError::Newer(format!("redb file format {version}"))
            }
            error => unusable(error),
        })?;
    // Creating the tables makes a new file whole at once; on an old one it changes nothing.
    let transaction = database.begin_write().map_err(unusable)?;
    transaction.open_table(META).map_err(unusable)?;
    transaction.open_table(LOG).map_err(unusable)?;
    transaction.open_table(SNAPSHOT).map_err(unusable)?;
    transaction.commit().map_err(unusable)?;

    let reading = database.begin_read().map_err(unusable)?;
    let identity = get(&reading.open_table(META).map_err(unusable)?, KEY_IDENTITY)?;
    match (identity.is_some(), claimed.len()? > 0) {
        // It lost power between the two.
        (true, false) => mark_claimed(claimed)?,
        // The mark is made when the identity is durable already.
        (false, true) => return Err(OpenError::Corrupt("it does not say whose it is".to_owned())),
        (true, true) | (false, false) => {}
    }
    Ok((database, identity))
}

/// Runs `work`, and takes a panic in it for damage of the file: redb asserts, rather than checks, some of
/// what it reads.
///
/// Whatever a panic left half-done is not used any more: a file that does not open is given up, and after
/// a commit that fails the writer refuses all others.
fn guarded<T>(work: impl FnOnce() -> T) -> Result<T, OpenError> {
    catch_unwind(AssertUnwindSafe(work)).map_err(|panic| {
        let message = panic.downcast_ref::<String>().map(String::as_str);
        let message = message.or_else(|| panic.downcast_ref::<&str>().copied());
        OpenError::Corrupt(format!("the storage engine panicked: {}", message.unwrap_or("?")))
    })
}

fn load(database: &Database) -> Result<Loaded, OpenError> {
    let reading = database.begin_read().map_err(unusable)?;
    let meta = reading.open_table(META).map_err(unusable)?;
    check_meta(&meta)?;
    let purged: Option<EntryId> = get(&meta, KEY_PURGED)?;
    let mut entries = Vec::new();
    let first = purged.map_or(0, |purged| purged.index() + 1);
    let log = reading.open_table(LOG).map_err(unusable)?;
    for (expected, row) in (first..).zip(log.iter().map_err(unusable)?) {
        let (index, row) = row.map_err(unusable)?;
        let bytes = unseal(&index.value().to_le_bytes(), row.value(), "log entry")?;
        let entry: LogEntry = decode(bytes, "log entry")?;
        if index.value() != expected || entry.log_id.index() != expected {
            let found = entry.log_id.index();
            return Err(OpenError::Corrupt(format!(
                "log entry {expected} is missing, found {found}"
            )));
        }
        entries.push((entry, bytes.len()));
    }
    check_count(log.len().map_err(unusable)?, entries.len(), "log entries")?;
    Ok(Loaded {
        vote: get(&meta, KEY_VOTE)?,
        committed: get(&meta, KEY_COMMITTED)?,
        purged,
        snapshot: get::<Described>(&meta, KEY_SNAPSHOT)?.and_then(|saved| saved.meta.last_log_id),
        entries,
    })
}

/// Checks every row, known or not: one whose key is damaged would else be as good as absent.
fn check_meta(meta: &impl ReadableTable<&'static str, &'static [u8]>) -> Result<(), OpenError> {
    let mut found = 0;
    for row in meta.iter().map_err(unusable)? {
        let (key, row) = row.map_err(unusable)?;
        unseal(key.value().as_bytes(), row.value(), key.value())?;
        found += 1;
    }
    check_count(meta.len().map_err(unusable)?, found, "rows")
}

fn check_count(expected: u64, found: usize, what: &str) -> Result<(), OpenError> {
    if expected == found as u64 {
        return Ok(());
    }
    Err(OpenError::Corrupt(format!("{expected} {what} were written, {found} are there")))
}

fn get<T: serde::de::DeserializeOwned>(
    table: &impl ReadableTable<&'static str, &'static [u8]>,
    key: &'static str,
) -> Result<Option<T>, OpenError> {
    let Some(row) = table.get(key).map_err(unusable)? else {
        return Ok(None);
    };
    decode(unseal(key.as_bytes(), row.value(), key)?, key).map(Some)
}

fn put(
    table: &mut redb::Table<'_, &'static str, &'static [u8]>,
    key: &'static str,
    bytes: Vec<u8>,
) -> io::Result<()> {
    table.insert(key, seal(key.as_bytes(), bytes).as_slice()).map_err(other)?;
    Ok(())
}

fn decode<T: serde::de::DeserializeOwned>(bytes: &[u8], what: &str) -> Result<T, OpenError> {
    codec::decode_versioned(bytes).map_err(|error| match error {
        codec::DecodeError::NewerVersion { .. } => OpenError::Newer(format!("{what}: {error}")),
        codec::DecodeError::Corrupt { .. } => OpenError::Corrupt(format!("{what}: {error}")),
    })
}

/// redb's errors while it opens or reads a file.
fn unusable(error: impl Into<redb::Error>) -> OpenError {
    match error.into() {
        // So redb says that there is no database, or less of one than there should be.
        redb::Error::Io(error)
            if matches!(
                error.kind(),
                io::ErrorKind::InvalidData | io::ErrorKind::UnexpectedEof
            ) =>
        {
            OpenError::Corrupt(error.to_string())
        }
        redb::Error::Io(error) => OpenError::Io(error),
        error @ redb::Error::PreviousIo => OpenError::Io(io::Error::other(error)),
        error => OpenError::Corrupt(error.to_string()),
    }
}

/// redb's errors as the I/O errors that openraft understands.
fn other(error: impl Into<redb::Error>) -> io::Error {
    match error.into() {
        redb::Error::Io(error) => error,
        error => io::Error::other(error),
    }
}
