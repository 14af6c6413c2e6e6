//! Damage of any kind is never taken for what was written.

use std::sync::atomic::{AtomicUsize, Ordering::SeqCst};
use std::sync::{Mutex, MutexGuard, PoisonError};

use openraft::vote::RaftLeaderId;
use redb::{ReadableTableMetadata, StorageBackend};

use super::snapshot::{PAGE_OVERHEAD, load_snapshot, save_snapshot};
use super::*;
use crate::raft::types::{Leader, Membership, SnapshotMeta};

/// A file in memory that outlives its databases.
#[derive(Clone, Debug, Default)]
pub(super) struct File(pub(super) Arc<Mutex<Vec<u8>>>);

impl File {
    pub(super) fn bytes(&self) -> MutexGuard<'_, Vec<u8>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl StorageBackend for File {
    fn len(&self) -> io::Result<u64> {
        Ok(self.bytes().len() as u64)
    }

    fn read(&self, offset: u64, out: &mut [u8]) -> io::Result<()> {
        let start = usize::try_from(offset).expect("small");
        let bytes = self.bytes();
        let bytes = bytes.get(start..start + out.len()).ok_or(io::ErrorKind::UnexpectedEof)?;
        out.copy_from_slice(bytes);
        Ok(())
    }

    fn set_len(&self, len: u64) -> io::Result<()> {
        self.bytes().resize(usize::try_from(len).expect("small"), 0);
        Ok(())
    }

    fn sync_data(&self) -> io::Result<()> {
        Ok(())
    }

    fn write(&self, offset: u64, data: &[u8]) -> io::Result<()> {
        let start = usize::try_from(offset).expect("small");
        let mut bytes = self.bytes();
        let end = start + data.len();
        assert!(end <= bytes.len(), "files are made longer before they are written");
        bytes[start..end].copy_from_slice(data);
        Ok(())
    }
}

const IDENTITY: Identity =
    Identity { cluster: Uuid::from_u128(1), node: 1, directory: Uuid::from_u128(2), founder: true };

/// Bytes of a row.
const ROW_BYTES: usize = RaftOptions::DEFAULT.snapshot_page_bytes() - PAGE_OVERHEAD;

/// More than one row.
const SNAPSHOT_BYTES: usize = ROW_BYTES + 1_000;

fn id(index: u64) -> EntryId {
    EntryId::new_term_index(1, index)
}

fn open(file: &File, claimed: &File) -> Result<Database, OpenError> {
    guarded(|| open_database(file.clone(), claimed, 42)).flatten().map(|(database, ..)| database)
}

/// A node's file, with something of everything in it, and its claim.
fn written(snapshot_bytes: usize) -> (File, File) {
    let (file, claimed) = (File::default(), File::default());
    let database = open(&file, &claimed).expect("a new file opens");
    let transaction = database.begin_write().expect("begin");
    let mut meta = transaction.open_table(META).expect("table");
    put(&mut meta, KEY_IDENTITY, codec::encode_versioned(&IDENTITY)).expect("put");
    drop(meta);
    transaction.commit().expect("commit");
    mark_claimed(&claimed).expect("mark");
    let meta = SnapshotMeta { last_log_id: Some(id(4)), last_membership: Membership::default() };
    let snapshot = vec![b's'; snapshot_bytes];
    save_snapshot(&database, meta, ROW_BYTES, |rows| rows.push_all(&snapshot)).expect("save");
    drop(database);
    (file, claimed)
}

/// All that a node learns from its file, as text.
fn read(file: &File, claimed: &File) -> Result<String, OpenError> {
    let database = open(file, claimed)?;
    Ok(format!("{:?} {:?}", load(&database)?, whole_snapshot(&database)?))
}

fn whole_snapshot(database: &Database) -> Result<Option<(SnapshotMeta, Vec<u8>)>, OpenError> {
    let Some((meta, saved)) = load_snapshot(database)? else { return Ok(None) };
    let rows = saved.rows().map(|row| saved.read(row)).collect::<Result<Vec<_>, _>>()?;
    let data = rows.concat();
    assert_eq!(data.len() as u64, saved.len());
    Ok(Some((meta, data)))
}

/// Changes a row behind the node's back, as redb does that adds a row to a page that rotted: with page
/// checksums that are right.
fn replace<K: redb::Key>(
    database: &Database,
    table: TableDefinition<'_, K, &'static [u8]>,
    key: K::SelfType<'_>,
    row: Option<&[u8]>,
) {
    let transaction = database.begin_write().expect("begin");
    {
        let mut table = transaction.open_table(table).expect("table");
        match row {
            Some(row) => drop(table.insert(key, row).expect("insert")),
            None => drop(table.remove(key).expect("remove")),
        }
    }
    transaction.commit().expect("commit");
}

fn row<K: redb::Key>(
    database: &Database,
    table: TableDefinition<'static, K, &'static [u8]>,
    key: K::SelfType<'_>,
) -> Vec<u8> {
    let reading = database.begin_read().expect("begin");
    let table = reading.open_table(table).expect("table");
    table.get(key).expect("get").expect("present").value().to_vec()
}

fn assert_corrupt<T: std::fmt::Debug>(found: &Result<T, OpenError>, what: &str) {
    assert!(matches!(found, Err(OpenError::Corrupt(_))), "{what}: {found:?}");
}

/// 1. A bit of the identity flips on the disk, while the node runs.
/// 2. A snapshot is described in the same page: redb reads it, adds a row, and writes it with a new
///    checksum of all of it.
/// 3. The node restarts. Every page has the checksum it should have.
/// 4. It once believed to be another node.
#[test]
fn a_row_that_rotted_before_its_page_was_written_again_is_refused() {
    let (file, claimed) = written(SNAPSHOT_BYTES);
    let database = open(&file, &claimed).expect("sound");
    for key in [KEY_IDENTITY, KEY_SECRET, KEY_SNAPSHOT] {
        let good = row(&database, META, key);
        for at in 0..good.len() {
            let mut bad = good.clone();
            bad[at] ^= 1 << (at % 8);
            replace(&database, META, key, Some(&bad));
            assert_corrupt(&load(&database), &format!("{key}, byte {at}"));
        }
        replace(&database, META, key, Some(&good));
    }
    load(&database).expect("sound again");
}

/// A snapshot under a key that rotted was as good as none: the log behind it is purged.
#[test]
fn a_row_whose_key_rotted_is_refused() {
    let (file, claimed) = written(SNAPSHOT_BYTES);
    let database = open(&file, &claimed).expect("sound");
    let described = row(&database, META, KEY_SNAPSHOT);
    replace(&database, META, KEY_SNAPSHOT, None);
    replace(&database, META, "snapshOt", Some(&described));
    assert_corrupt(&load(&database), "a key");
}

/// The last commit rotted, redb fell back to the one before, and the log began in the middle of nowhere.
#[test]
fn a_snapshot_older_than_the_purge_point_is_refused() {
    let id = |index| Some(EntryId::new(Leader { term: 1, voted_for: 1 }.to_committed(), index));
    for (snapshot, purged) in [(None, id(0)), (id(3), id(4))] {
        assert_corrupt(&check_snapshot(snapshot, purged), "a gap");
    }
    for (snapshot, purged) in [(None, None), (id(0), None), (id(4), id(4)), (id(5), id(4))] {
        check_snapshot(snapshot, purged).expect("whole");
    }
}

/// A snapshot that rotted under a running node went to a learner, which took it for the metadata.
#[test]
fn a_snapshot_that_rotted_is_not_handed_out() {
    for bad in [Some(vec![b't'; 1_000]), Some(vec![b's'; 999]), None] {
        let (file, claimed) = written(SNAPSHOT_BYTES);
        let database = open(&file, &claimed).expect("sound");
        whole_snapshot(&database).expect("sound").expect("saved");
        replace(&database, SNAPSHOT, 1, bad.as_deref());
        assert_corrupt(&whole_snapshot(&database), "a snapshot");
    }
}

/// A file whose syncs fail once so many were done.
#[derive(Debug)]
struct Failing {
    file: File,
    syncs_left: Arc<AtomicUsize>,
}

impl StorageBackend for Failing {
    fn len(&self) -> io::Result<u64> {
        self.file.len()
    }

    fn read(&self, offset: u64, out: &mut [u8]) -> io::Result<()> {
        self.file.read(offset, out)
    }

    fn set_len(&self, len: u64) -> io::Result<()> {
        self.file.set_len(len)
    }

    fn sync_data(&self) -> io::Result<()> {
        let left = self.syncs_left.fetch_update(SeqCst, SeqCst, |left| left.checked_sub(1));
        left.map(drop).map_err(|_| io::Error::other("on purpose"))
    }

    fn write(&self, offset: u64, data: &[u8]) -> io::Result<()> {
        self.file.write(offset, data)
    }
}

/// A snapshot is saved row by row. Until the last one is there the one before is the snapshot, and what was left behind
/// is in nobody's way.
#[test]
fn a_save_that_is_cut_short_leaves_a_whole_snapshot() {
    const ROW: usize = 1_000;
    let save = |database: &Database, index: u64, byte: u8, bytes: usize| {
        let last_membership = Membership::default();
        let meta = SnapshotMeta { last_log_id: Some(id(index)), last_membership };
        save_snapshot(database, meta, ROW, |rows| rows.push_all(&vec![byte; bytes]))
    };
    let loaded = |database: &Database| {
        let (meta, data) = whole_snapshot(database).expect("sound").expect("saved");
        assert!(data.iter().all(|byte| *byte == data[0]), "a mixture");
        (meta.last_log_id.expect("an entry").index, data[0], data.len())
    };
    for syncs in 0.. {
        let (file, claimed) = written(5 * ROW);
        let syncs_left = Arc::new(AtomicUsize::new(usize::MAX));
        let failing = Failing { file: file.clone(), syncs_left: Arc::clone(&syncs_left) };
        let (database, ..) = open_database(failing, &claimed, 42).expect("sound");
        syncs_left.store(syncs, SeqCst);
        let saved = save(&database, 5, b't', 4 * ROW);
        drop(database);
        let database = open(&file, &claimed).expect("sound");
        let (before, after) = ((4, b's', 5 * ROW), (5, b't', 4 * ROW));
        match saved {
            Ok(_) => {
                assert_eq!(loaded(&database), after);
                assert!(syncs >= 4, "rows were saved in {syncs} syncs");
                return;
            }
            // The last commit may be there although its sync failed.
            Err(_) => assert!([before, after].contains(&loaded(&database))),
        }
        // Shorter than what was left behind.
        assert!(save(&database, 6, b'u', 2 * ROW).expect("saved"));
        assert_eq!(loaded(&database), (6, b'u', 2 * ROW));
        let reading = database.begin_read().expect("begin");
        let rows = reading.open_table(SNAPSHOT).expect("table").len().expect("a length");
        assert_eq!(rows, 2, "something was left behind");
    }
}

#[test]
fn a_file_with_a_flipped_bit_is_refused_or_holds_what_was_written() {
    let (file, claimed) = written(1_000);
    let good = file.bytes().clone();
    let expected = read(&file, &claimed).expect("sound");
    // Most of the file is unused space, zeros, and the map of it, ones.
    let free = [0, 0xff];
    let places: Vec<usize> = (0..good.len()).filter(|at| !free.contains(&good[*at])).collect();
    let mut refused = 0;
    for at in places.iter().step_by(places.len() / 500) {
        let mut bad = good.clone();
        bad[*at] ^= 1 << (at % 8);
        match read(&File(Arc::new(Mutex::new(bad))), &claimed) {
            Ok(found) => assert!(found == expected, "byte {at} gave {found}"),
            Err(OpenError::Corrupt(_) | OpenError::Newer(_)) => refused += 1,
            Err(error) => panic!("byte {at}: {error}"),
        }
    }
    assert!(refused > 50, "{refused} refused of {}", places.len());
}

/// The identity is durable before the claim is, so one without the other is damage: of the transaction that
/// wrote it, say, which a crash made look unfinished.
#[test]
fn a_claimed_file_that_does_not_say_whose_it_is_is_refused() {
    let (file, claimed) = (File::default(), File::default());
    drop(open(&file, &claimed).expect("a new file opens"));
    mark_claimed(&claimed).expect("mark");
    assert_corrupt(&open(&file, &claimed), "nobody's");
}

#[test]
fn a_panic_of_the_storage_engine_is_damage() {
    let error = guarded(|| -> () { panic!("page {} is no page", 7) }).expect_err("a panic");
    assert!(error.to_string().contains("page 7 is no page"), "{error}");
}
