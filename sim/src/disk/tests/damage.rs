//! Disks that fill up, rot, are replaced, or lose power in the middle: what is damaged, and what is said.

use super::*;

/// A file of `sectors` synced sectors of `x`.
fn stored(disk: &SimDisk, sectors: usize) -> SimFile {
    let file = open(disk);
    file.write(0, &vec![b'x'; sectors * SECTOR_BYTES]).expect("write");
    file.sync_data().expect("sync");
    file
}

/// Such a file, and behind it two sectors of zeros that were synced later, one by one.
fn settled(disk: &SimDisk, sectors: usize) -> SimFile {
    let file = stored(disk, sectors);
    for later in 0..2 {
        file.write(((sectors + later) * SECTOR_BYTES) as u64, &[0; SECTOR_BYTES]).expect("write");
        file.sync_data().expect("sync");
    }
    file
}

fn bits_flipped(bytes: &[u8]) -> u64 {
    bytes.iter().map(|byte| u64::from((byte ^ b'x').count_ones())).sum()
}

#[test]
fn rot_flips_as_many_stored_bits_as_it_says_and_no_crash_heals_them() {
    for seed in 0..64 {
        let disk = disk(seed);
        let mut rng = SeededRng::new(seed);
        let file = settled(&disk, 4);
        let flipped = disk.rot(&mut rng, 16);
        assert!((1..=16).contains(&flipped));
        let seen = read(&file, 0, 4 * SECTOR_BYTES).expect("read");
        assert_eq!(bits_flipped(&seen), flipped);
        disk.crash(&mut rng, CrashMode::Any);
        assert_eq!(read(&open(&disk), 0, 4 * SECTOR_BYTES).expect("read"), seen);
    }
}

#[test]
fn rot_spares_sectors_that_are_being_written_and_those_that_never_were() {
    for seed in 0..64 {
        let disk = disk(seed);
        let mut rng = SeededRng::new(seed);
        let file = settled(&disk, 4);
        file.set_len(64 * SECTOR_BYTES as u64).expect("grow");
        file.sync_data().expect("sync");
        file.write(SECTOR_BYTES as u64 - 1, b"xx").expect("write to the first two sectors");
        file.set_len(3 * SECTOR_BYTES as u64).expect("cut the fourth off");
        file.set_len(64 * SECTOR_BYTES as u64).expect("grow");
        let flipped = disk.rot(&mut rng, 100);
        assert!(flipped > 0);
        let bytes = read(&file, 0, 64 * SECTOR_BYTES).expect("read");
        assert_eq!(bits_flipped(&bytes[2 * SECTOR_BYTES..3 * SECTOR_BYTES]), flipped);
        assert_eq!(bits_flipped(&bytes[..2 * SECTOR_BYTES]), 0);
        assert!(bytes[3 * SECTOR_BYTES..].iter().all(|byte| *byte == 0));
    }
}

#[test]
fn what_was_written_a_moment_ago_does_not_rot_yet() {
    let disk = disk(1);
    let file = stored(&disk, 1);
    let mut rng = SeededRng::new(1);
    for sector in 1..=2 {
        assert_eq!(disk.rot(&mut rng, 8), 0, "at most two syncs ago");
        file.write(sector * SECTOR_BYTES as u64, &[0; SECTOR_BYTES]).expect("write");
        file.sync_data().expect("sync");
        file.sync_data().expect("for nothing");
    }
    assert!(disk.rot(&mut rng, 8) > 0);
}

#[test]
fn nothing_rots_on_a_disk_that_holds_nothing() {
    let disk = disk(1);
    assert_eq!(disk.rot(&mut SeededRng::new(1), 8), 0);
    let file = open(&disk);
    file.write(0, &[b'x'; SECTOR_BYTES]).expect("write");
    assert_eq!(disk.rot(&mut SeededRng::new(1), 8), 0, "unsynced");
}

#[test]
fn a_replaced_disk_has_neither_the_files_nor_the_faults_of_the_old_one() {
    let disk = disk(1);
    let old = stored(&disk, 1);
    disk.inject(FaultKind::WriteError);
    disk.fail_after(1, FaultKind::SyncError);
    disk.set_latency(Duration::from_secs(1)..Duration::from_secs(2));
    disk.fence();
    disk.wipe();
    assert!(disk.files().is_empty());
    assert!(disk.draw_latency() < LATENCY_DEFAULT.end);
    let new = open(&disk);
    assert_eq!(new.len().expect("len"), 0);
    new.write(0, b"new").expect("write");
    new.sync_data().expect("sync");
    assert!(old.write(0, b"old").is_err(), "its process is dead");
    disk.crash(&mut SeededRng::new(1), CrashMode::LoseUnsynced);
    assert_eq!(read(&open(&disk), 0, 3).expect("read"), b"new");
}

#[test]
fn a_disk_that_lost_power_may_be_replaced_once_it_was_crashed() {
    let disk = disk(1);
    let file = open(&disk);
    disk.fail_after(1, FaultKind::PowerLoss);
    assert!(file.write(0, b"x").is_err());
    disk.crash(&mut SeededRng::new(1), CrashMode::KeepUnsynced);
    disk.wipe();
    assert_eq!(open(&disk).len().expect("len"), 0);
}

#[test]
#[should_panic(expected = "in use")]
fn a_disk_in_use_is_not_replaced() {
    let disk = disk(1);
    let _file = stored(&disk, 1);
    disk.wipe();
}

/// A crash with two writes of a sector each that are not synced.
fn crash(seed: u64, mode: CrashMode) -> CrashReport {
    let disk = disk(seed);
    let file = stored(&disk, 2);
    file.write(0, &[b'a'; SECTOR_BYTES]).expect("write");
    file.write(SECTOR_BYTES as u64, &[b'b'; SECTOR_BYTES]).expect("write");
    let report = disk.crash(&mut SeededRng::new(seed), mode);
    let left = read(&open(&disk), 0, 2 * SECTOR_BYTES).expect("read");
    let kept = [left[0] == b'a', left[SECTOR_BYTES] == b'b'];
    assert_eq!(report.unsynced, 2);
    assert_eq!(report.kept_some, kept.contains(&true));
    assert_eq!(report.lost_some, kept.contains(&false));
    report
}

#[test]
fn a_crash_says_what_it_kept_and_what_it_lost() {
    for seed in 0..32 {
        let lost = crash(seed, CrashMode::LoseUnsynced);
        assert!(!lost.kept_some && lost.lost_some && !lost.is_partial());
        let kept = crash(seed, CrashMode::KeepUnsynced);
        assert!(kept.kept_some && !kept.lost_some && !kept.is_partial());
    }
    for mode in [CrashMode::Prefix, CrashMode::Reordered, CrashMode::Torn, CrashMode::Any] {
        let partial = (0..32).filter(|seed| crash(*seed, mode).is_partial()).count();
        assert!((1..32).contains(&partial), "{mode:?}: {partial} of 32");
    }
}

#[test]
fn a_crash_between_two_files_is_partial_and_one_without_unsynced_writes_is_not() {
    let between = (0..32).filter(|seed| {
        let disk = disk(*seed);
        let mut rng = SeededRng::new(*seed);
        let incarnation = disk.boot();
        for path in ["a", "b"] {
            disk.open(incarnation, path).expect("open").write(0, b"x").expect("write");
        }
        let report = disk.crash(&mut rng, CrashMode::Reordered);
        assert_eq!(report.unsynced, 2);
        assert_eq!(disk.crash(&mut rng, CrashMode::Any), CrashReport::default());
        report.is_partial()
    });
    assert!((1..32).contains(&between.count()));
}

#[test]
fn a_full_disk_still_syncs_shrinks_and_reads() {
    let disk = disk(1);
    let file = stored(&disk, 2);
    file.write(0, b"y").expect("write");
    disk.inject(FaultKind::NoSpace);
    let grown = file.set_len(3 * SECTOR_BYTES as u64).expect_err("full");
    assert_eq!(grown.kind(), io::ErrorKind::StorageFull);
    file.sync_data().expect("sync");
    file.set_len(1).expect("shrink");
    assert_eq!(read(&file, 0, 1).expect("read"), b"y");
}

/// A database that ran into a full disk and was opened again after room was made.
fn fill_up_redb(seed: u64) {
    let disk = disk(seed);
    let mut chance = SeededRng::new(seed ^ 0x00c0_ffee);
    let mut content_rng = SeededRng::new(seed);
    let (mut acknowledged, mut attempted) = (0, 0);
    let commits = || -> Result<(), redb::Error> {
        let db = Database::builder().create_with_backend(open(&disk))?;
        disk.fail_after(1 + chance.next_u64() % 100, FaultKind::NoSpace);
        loop {
            attempted += 1;
            write_version(&db, attempted, &mut content_rng)?;
            acknowledged = attempted;
        }
    };
    let error = { commits }().expect_err("the disk fills up");
    assert!(
        matches!(&error, redb::Error::Io(io) if io.kind() == io::ErrorKind::StorageFull),
        "{error}"
    );
    disk.clear(FaultKind::NoSpace);
    let db = Database::builder().create_with_backend(open(&disk)).expect("there is room again");
    let version = version(&contents(&db).expect("readable"));
    assert!((acknowledged..=attempted).contains(&version), "seed {seed}");
    assert_eq!(contents(&db).expect("readable"), expected(seed, version), "seed {seed}");
    write_version(&db, version + 1, &mut content_rng).expect("it goes on");
}

#[test]
fn redb_goes_on_once_a_full_disk_has_room_again() {
    for seed in 0..40 {
        fill_up_redb(seed);
    }
}
