//! What the disk promises, above all that redb recovers from every crash it can produce.

use redb::{Database, ReadableDatabase, ReadableTable, StorageBackend, TableDefinition};

use super::image::SECTOR_BYTES;
use super::*;

mod damage;

const TABLE: TableDefinition<'_, u64, &[u8]> = TableDefinition::new("table");
const VERSION: u64 = u64::MAX;

fn disk(seed: u64) -> SimDisk {
    SimDisk::new("n1", seed, Trace::new())
}

fn open(disk: &SimDisk) -> SimFile {
    disk.open(disk.boot(), "db").expect("open")
}

fn read(file: &SimFile, offset: u64, len: usize) -> io::Result<Vec<u8>> {
    let mut bytes = vec![0; len];
    file.read(offset, &mut bytes)?;
    Ok(bytes)
}

#[test]
fn synced_bytes_survive_a_crash_and_unsynced_ones_may_not() {
    let disk = disk(1);
    let file = open(&disk);
    file.write(0, b"kept").expect("write");
    file.sync_data().expect("sync");
    file.write(4, b"lost").expect("write");
    assert_eq!(read(&file, 0, 8).expect("reads see unsynced writes"), b"keptlost");
    disk.crash(&mut SeededRng::new(1), CrashMode::LoseUnsynced);
    let file = open(&disk);
    assert_eq!(file.len().expect("len"), 4);
    assert_eq!(read(&file, 0, 4).expect("read"), b"kept");
}

#[test]
fn a_killed_process_leaves_its_unsynced_writes_in_the_cache() {
    let disk = disk(2);
    let file = open(&disk);
    file.write(0, b"cached").expect("write");
    disk.fence();
    let file = open(&disk);
    assert_eq!(read(&file, 0, 6).expect("read"), b"cached");
    drop(file);
    disk.crash(&mut SeededRng::new(2), CrashMode::LoseUnsynced);
    assert_eq!(open(&disk).len().expect("len"), 0, "cached is not durable");
}

#[test]
fn a_copy_has_what_programs_read_and_lives_a_life_of_its_own() {
    let [disk, copy] = [5, 6].map(disk);
    let file = open(&disk);
    file.write(0, b"before").expect("write");
    copy.copy_from(&disk);
    file.write(0, b"behind").expect("write");
    copy.crash(&mut SeededRng::new(1), CrashMode::LoseUnsynced);
    let copied = open(&copy);
    assert_eq!(read(&copied, 0, 6).expect("read"), b"before");
    copied.write(0, b"beside").expect("write");
    assert_eq!(read(&file, 0, 6).expect("read"), b"behind");
}

#[test]
fn fenced_handles_fail_and_change_nothing() {
    let disk = disk(3);
    let old = open(&disk);
    old.write(0, b"before").expect("write");
    let new = open(&disk);
    assert!(old.write(0, b"ghost!").is_err());
    assert!(old.set_len(0).is_err());
    assert!(old.sync_data().is_err());
    assert!(read(&old, 0, 6).is_err());
    assert!(old.len().is_err());
    drop(old);
    assert_eq!(read(&new, 0, 6).expect("read"), b"before");
    let other = disk.open(new_incarnation(&disk), "db");
    assert_eq!(
        other.expect_err("held").kind(),
        io::ErrorKind::WouldBlock,
        "the ghost released nothing"
    );
}

fn new_incarnation(disk: &SimDisk) -> DiskIncarnation {
    DiskIncarnation(disk.lock().incarnation)
}

#[test]
fn a_torn_write_is_torn_between_sectors_not_inside_them() {
    let (mut whole, mut torn) = (0, 0);
    for seed in 0..64 {
        let disk = disk(seed);
        let file = open(&disk);
        file.write(0, &[b'-'; 4 * SECTOR_BYTES]).expect("write");
        file.sync_data().expect("sync");
        file.write(0, &[b'x'; 4 * SECTOR_BYTES]).expect("write");
        disk.crash(&mut SeededRng::new(seed), CrashMode::Torn);
        let bytes = read(&open(&disk), 0, 4 * SECTOR_BYTES).expect("read");
        let sectors: BTreeSet<u8> = bytes
            .chunks(SECTOR_BYTES)
            .map(|sector| {
                assert!(sector.iter().all(|byte| *byte == sector[0]));
                sector[0]
            })
            .collect();
        if sectors.len() == 1 {
            whole += 1;
        } else {
            torn += 1;
        }
    }
    assert!(whole > 0 && torn > whole, "{whole} whole, {torn} torn");
}

#[test]
fn injected_faults_strike_until_cleared() {
    let disk = disk(4);
    let file = open(&disk);
    file.write(0, b"data").expect("write");
    for (fault, kind) in [
        (FaultKind::ReadError, io::ErrorKind::Other),
        (FaultKind::WriteError, io::ErrorKind::Other),
        (FaultKind::NoSpace, io::ErrorKind::StorageFull),
    ] {
        disk.inject(fault);
        let result = if fault == FaultKind::ReadError {
            read(&file, 0, 4).map(drop)
        } else {
            file.write(0, b"more")
        };
        assert_eq!(result.expect_err("injected").kind(), kind);
        disk.clear(fault);
        assert_eq!(read(&file, 0, 4).expect("read"), b"data");
    }
}

#[test]
fn a_failed_sync_may_lose_bytes_that_a_later_sync_does_not_bring_back() {
    let lost = (0..32).filter(|seed| {
        let disk = disk(*seed);
        let file = open(&disk);
        file.write(0, b"data").expect("write");
        disk.inject(FaultKind::SyncError);
        assert!(file.sync_data().is_err());
        disk.clear(FaultKind::SyncError);
        assert_eq!(read(&file, 0, 4).expect("still cached"), b"data");
        file.sync_data().expect("the second sync lies");
        disk.crash(&mut SeededRng::new(*seed), CrashMode::KeepUnsynced);
        read(&open(&disk), 0, 4).expect("read") != b"data"
    });
    let lost = lost.count();
    assert!(0 < lost && lost < 32, "lost {lost} of 32");
}

#[test]
fn the_power_fails_at_exactly_the_nth_change() {
    let disk = disk(5);
    let file = open(&disk);
    disk.fail_after(3, FaultKind::PowerLoss);
    file.write(0, b"1").expect("first");
    file.sync_data().expect("second");
    assert!(!disk.is_powerless());
    assert!(file.write(1, b"3").is_err());
    assert!(disk.is_powerless());
    assert!(file.len().is_err(), "fenced");
    disk.crash(&mut SeededRng::new(5), CrashMode::KeepUnsynced);
    assert_eq!(
        read(&open(&disk), 0, 2).expect("read"),
        b"13",
        "the write under way may have made it"
    );
}

/// A database whose table holds the version under [`VERSION`], and `version`-dependent entries.
fn write_version(db: &Database, version: u64, rng: &mut SeededRng) -> Result<(), redb::Error> {
    let txn = db.begin_write()?;
    {
        let mut table = txn.open_table(TABLE)?;
        for _ in 0..8 {
            let len = usize::try_from(rng.next_u64() % 60_000).unwrap_or(0);
            table.insert(rng.next_u64() % 64, vec![version.to_le_bytes()[0]; len].as_slice())?;
        }
        table.remove(rng.next_u64() % 64)?;
        table.insert(VERSION, version.to_le_bytes().as_slice())?;
    }
    txn.commit()?;
    Ok(())
}

fn contents(db: &Database) -> Result<BTreeMap<u64, Vec<u8>>, redb::Error> {
    let mut contents = BTreeMap::new();
    match db.begin_read()?.open_table(TABLE) {
        Ok(table) => {
            for entry in table.iter()? {
                let (key, value) = entry?;
                contents.insert(key.value(), value.value().to_vec());
            }
        }
        Err(redb::TableError::TableDoesNotExist(_)) => {}
        Err(error) => return Err(error.into()),
    }
    Ok(contents)
}

/// The version that `contents` are of; 0 before the first commit.
fn version(contents: &BTreeMap<u64, Vec<u8>>) -> u64 {
    let version = contents.get(&VERSION);
    version.map_or(0, |bytes| u64::from_le_bytes(bytes.as_slice().try_into().expect("eight bytes")))
}

/// The contents after `version` commits of the generator seeded with `seed`.
fn expected(seed: u64, version: u64) -> BTreeMap<u64, Vec<u8>> {
    let db = Database::builder()
        .create_with_backend(redb::backends::InMemoryBackend::new())
        .expect("create");
    let mut rng = SeededRng::new(seed);
    for version in 1..=version {
        write_version(&db, version, &mut rng).expect("commit");
    }
    contents(&db).expect("read")
}

/// The one image that redb 4.6 does not open by itself:
///
/// 1. it creates a database by growing the file, writing and syncing, and writes its magic number last,
///    so that a file with the number is complete;
/// 2. the power fails in between;
/// 3. opening finds a file that is neither empty nor a database: "magic number mismatch".
///
/// Nothing was ever committed to such a file, so whoever opens it may empty it.
fn forget_unfinished_creation(file: &SimFile) {
    if read(file, 0, 4).is_ok_and(|magic| magic == [0; 4]) {
        file.set_len(0).expect("set length");
        file.sync_data().expect("sync");
    }
}

/// Creates a database and commits until the power fails at a random operation, then lets it fail again
/// during the repair, and checks that redb finds the last acknowledged commit or the one under way.
fn crash_redb(seed: u64) {
    let disk = disk(seed);
    let mut chance = SeededRng::new(seed ^ 0x00c0_ffee);
    let mut content_rng = SeededRng::new(seed);
    let (mut acknowledged, mut attempted) = (0, 0);
    let commits = || -> Result<(), redb::Error> {
        let file = open(&disk);
        disk.fail_after(1 + chance.next_u64() % 200, FaultKind::PowerLoss);
        let db = Database::builder().create_with_backend(file)?;
        loop {
            attempted += 1;
            write_version(&db, attempted, &mut content_rng)?;
            acknowledged = attempted;
        }
    };
    let error = { commits }().expect_err("the power fails");
    assert!(disk.is_powerless(), "seed {seed}: only for that reason: {error}");
    disk.crash(&mut chance, CrashMode::Any);

    disk.fail_after(1 + chance.next_u64() % 6, FaultKind::PowerLoss);
    drop(Database::builder().create_with_backend(open(&disk)));
    disk.crash(&mut chance, CrashMode::Any);

    let file = open(&disk);
    if attempted == 0 {
        forget_unfinished_creation(&file);
    }
    let db = Database::builder().create_with_backend(file);
    let db = db.unwrap_or_else(|error| panic!("seed {seed}: redb does not recover: {error}"));
    let found = contents(&db).unwrap_or_else(|error| panic!("seed {seed}: unreadable: {error}"));
    let version = version(&found);
    assert!(
        (acknowledged..=attempted).contains(&version),
        "seed {seed}: {version} is not in {acknowledged}..={attempted}"
    );
    assert_eq!(
        found,
        expected(seed, version),
        "seed {seed}: version {version} is not what was committed"
    );
}

#[test]
fn redb_recovers_every_acknowledged_commit_from_every_crash() {
    for seed in 0..400 {
        crash_redb(seed);
    }
}
