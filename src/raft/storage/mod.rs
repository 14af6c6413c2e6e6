//! Everything that a node keeps: the log in a `journal`, and a redb file with identity and snapshot.
//!
//! - [`open`](Store::open) checks all files before anything is believed: a foreign file, a newer format
//!   or another node's directory is refused, never overwritten.
//! - All writes of the log pass through the [`writer`], in the order in which Raft made them; what is queued
//!   together is written together. After the first error it refuses everything: a disk that failed
//!   once is not asked again (a failed fsync may have dropped what it was to save).
//! - Snapshots are saved beside it, so that a large one does not hold up the log. Raft purges the log behind a
//!   snapshot only once it is saved.
//! - What rotted on the disk is not taken for what was written: opening checks whole files, and records and
//!   rows carry checksums of their own (see `seal`). A damaged file is refused with an error, and so is one
//!   that makes the storage engine panic.
//! - The log behind the purge point is small by policy, so [`LogStore`] keeps all of it in memory and
//!   reads never wait for the disk.
//!
//! Left out: the state machine's state. It is rebuilt from the snapshot and the log at start. And one kind
//! of rot: when what was written last is damaged, in the journal or (if the process did not stop cleanly, and the log
//! was not purged since) in redb, the damage looks like a write that a power loss tore, and that write is undone as if
//! nobody had been told of it. To tell the two apart, every write would need a second sync.

use std::io;
use std::path::Path;
use std::sync::Arc;

use redb::{Database, ReadableDatabase, ReadableTable, TableDefinition, TableHandle};
use serde::{Deserialize, Serialize};
use uuid::Uuid;

use super::config::RaftOptions;
use super::observe::{Observer, Recovered, Step};
use super::types::{EntryId, NodeId};
use crate::codec;
use crate::env::{Env, catch_panic, rt};

mod entries;
mod journal;
mod log;
mod seal;
mod snapshot;
#[cfg(test)]
mod tests;
pub mod writer;

use journal::{Journal, Outside, Replay, Secret};
pub use log::LogStore;
use seal::{seal, unseal};
use snapshot::Described;
pub use snapshot::{Rows, SnapshotData, SnapshotStore};
use writer::Writer;

/// The name of the redb file in the data directory.
pub const FILE_NAME: &str = "yakt.redb";

/// The name of a file that says that [`FILE_NAME`] once belonged to a node: from then on it must be whole. It is empty until
/// then.
pub const CLAIMED_NAME: &str = "yakt.claimed";

const META: TableDefinition<'_, &str, &[u8]> = TableDefinition::new("meta");
/// Where the log was before it had a [`journal`].
const LOG_OF_OLD: &str = "log";
const SNAPSHOT: TableDefinition<'_, u32, &[u8]> = TableDefinition::new("snapshot");

const KEY_IDENTITY: &str = "identity";
const KEY_SECRET: &str = "secret";
const KEY_SNAPSHOT: &str = "snapshot";

/// Bytes that [`rewrite`] reads and writes at a time.
const REWRITE_BYTES: usize = 1 << 20;

/// Memory that redb may use to cache pages: three of those that hold a row of a snapshot. Half of it is for what is
/// being written, and a row that did not fit into that would be written at once, and read again for its checksum; and
/// to write a row, redb looks at the one before.
const CACHE_BYTES: usize = 3 * RaftOptions::DEFAULT.snapshot_page_bytes();

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
    #[error("the data is damaged or not YAKt's: {0}")]
    Corrupt(String),
    /// A later version of YAKt wrote it.
    #[error("the data was written by a newer version of YAKt: {0}")]
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
    journal: Journal<E::Disk>,
    replay: Replay,
    claimed: Arc<E::Disk>,
    identity: Option<Identity>,
}

impl<E: Env> Store<E> {
    /// Opens `dir` for `node`, creating it when it is not there. Files of the log are `log_segment_bytes` long.
    ///
    /// # Errors
    ///
    /// See [`OpenError`]. Nothing was changed when it is returned, save that redb notes in the file that it
    /// was checked, and repairs one whose last writer crashed.
    pub async fn open(
        env: E,
        dir: &Path,
        node: NodeId,
        log_segment_bytes: u64,
    ) -> Result<Self, OpenError> {
        let open = {
            let (env, dir) = (env.clone(), dir.to_owned());
            move |name: &str| env.open_disk(&dir, name)
        };
        let disk = open(FILE_NAME).map_err(|error| match error.kind() {
            io::ErrorKind::WouldBlock => OpenError::InUse,
            _ => OpenError::Io(error),
        })?;
        let claimed = Arc::new(open(CLAIMED_NAME)?);
        let (mark, fresh) = (Arc::clone(&claimed), rt::random::<E>());
        let opened = env.blocking(move || {
            let (database, identity, secret) =
                guarded(|| open_database(disk, &*mark, fresh)).flatten()?;
            let begun = rt::now::<E>();
            let outside = Outside {
                open: Box::new(move |n| open(&journal::file_name(n))),
                clock: Box::new(move || rt::now::<E>() - begun),
            };
            let (mut journal, replay) = Journal::open(outside, secret, log_segment_bytes)?;
            match (journal.is_new(), identity) {
                (true, Some(_)) => {
                    return Err(OpenError::Corrupt("there is no log, and was one".to_owned()));
                }
                // From here on there is a log, even if an empty one, before the directory is anybody's.
                (true, None) => drop(journal.write(&[])?),
                (false, _) => {}
            }
            Ok((database, identity, journal, replay))
        });
        let (database, identity, journal, replay) = opened.await??;
        if let Some(identity) = identity
            && identity.node != node
        {
            return Err(OpenError::OtherNode { found: identity.node, asked: node });
        }
        Ok(Self { env, database: Arc::new(database), journal, replay, claimed, identity })
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

    /// Starts the writer and loads the log. Snapshots will be written in rows that fill a page of
    /// `snapshot_page_bytes`, if that is a power of two.
    ///
    /// # Errors
    ///
    /// When the disk fails, or what it holds cannot be the log that was written.
    pub async fn into_parts(
        self,
        observer: Option<Observer>,
        snapshot_page_bytes: usize,
    ) -> Result<(LogStore<E>, SnapshotStore<E>), OpenError> {
        let database = Arc::clone(&self.database);
        let snapshot = self.env.blocking(move || guarded(|| load(&database)).flatten()).await??;
        check_snapshot(snapshot, self.replay.head.purged)?;
        if observer.is_some() {
            let Replay { head, entries } = &self.replay;
            let recovered = Recovered {
                vote: head.vote,
                committed: head.committed,
                purged: head.purged,
                entries: entries.read(&.., usize::MAX)?,
                snapshot,
            };
            Observer::show(observer.as_ref(), Step::Recovered(&recovered));
        }
        let lane = self.env.lane("yakt-journal")?;
        let writer = Writer::new(lane, self.journal, observer.clone());
        let snapshots =
            SnapshotStore::new(self.env, self.database, observer.clone(), snapshot_page_bytes);
        Ok((LogStore::new(self.replay, writer, observer), snapshots))
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
/// 1. the sync of a snapshot fails, and the node stops, as it must;
/// 2. its supervisor starts it again. It reads the snapshot that was never written from the kernel's cache, and
///    purges its log behind it;
/// 3. the power fails. The snapshot is gone, or the file is damaged by a commit of which a part is.
///
/// (Simulation found the like when the log was here too: swarm, seed 2117.) A cut in the middle of this leaves a
/// mixture of what the cache and the disk held, which is what the failed commit itself may have left: redb recovers from
/// that.
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
    fresh: Secret,
) -> Result<(Database, Option<Identity>, Secret), OpenError> {
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
    // Creating the tables and the secret makes a new file whole at once; on an old one it changes nothing.
    let transaction = database.begin_write().map_err(unusable)?;
    if transaction.list_tables().map_err(unusable)?.any(|table| table.name() == LOG_OF_OLD) {
        return Err(OpenError::Corrupt("it is of a build before 0.1.0".to_owned()));
    }
    let secret = {
        let mut meta = transaction.open_table(META).map_err(unusable)?;
        let known = get(&meta, KEY_SECRET)?;
        if known.is_none() {
            put(&mut meta, KEY_SECRET, codec::encode_versioned(&fresh))?;
        }
        known.unwrap_or(fresh)
    };
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
    Ok((database, identity, secret))
}

/// Runs `work`, and takes a panic in it for damage of the file: redb asserts, rather than checks, some of
/// what it reads.
///
/// Whatever a panic left half-done is not used any more: a file that does not open is given up, and after
/// a commit that fails the writer refuses all others.
fn guarded<T>(work: impl FnOnce() -> T) -> Result<T, OpenError> {
    catch_panic(work)
        .map_err(|panic| OpenError::Corrupt(format!("the storage engine panicked: {panic}")))
}

/// Checks what redb holds, and says where the snapshot ends.
fn load(database: &Database) -> Result<Option<EntryId>, OpenError> {
    let reading = database.begin_read().map_err(unusable)?;
    let meta = reading.open_table(META).map_err(unusable)?;
    check_meta(&meta)?;
    Ok(get::<Described>(&meta, KEY_SNAPSHOT)?.and_then(|saved| saved.meta.last_log_id))
}

/// Checks that nothing is missing between the snapshot and the log: the log is purged behind a snapshot that is saved.
/// One that is gone since, or an older one in its place, is damage: redb takes a last commit that rotted for one that
/// was torn.
fn check_snapshot(snapshot: Option<EntryId>, purged: Option<EntryId>) -> Result<(), OpenError> {
    let index = |id: Option<EntryId>| id.map(|id| id.index());
    if index(snapshot) >= index(purged) {
        return Ok(());
    }
    Err(OpenError::Corrupt(format!(
        "the log is purged up to {:?}, and the snapshot ends at {:?}",
        index(purged),
        index(snapshot)
    )))
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
