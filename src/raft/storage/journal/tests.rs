//! What was written is read back, whatever becomes of the end of it; and damage is refused.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, PoisonError};

use bytes::Bytes;
use uuid::Uuid;

use super::super::tests::File;
use super::record::SECTOR_BYTES;
use super::*;
use crate::metadata::{self, Command, CreateTopic, Timestamp};
use crate::raft::types::{Ballot, EntryId, LogEntry, Payload, SharedCommand};

const SECRET: Secret = 42;

/// A directory of files in memory.
#[derive(Clone, Default)]
struct Directory {
    files: Arc<Mutex<BTreeMap<usize, File>>>,
    /// Files from this one on cannot be opened.
    descriptors: Arc<Mutex<Option<usize>>>,
    /// Seconds.
    time: Arc<Mutex<u64>>,
}

impl Directory {
    fn file(&self, n: usize) -> File {
        self.files.lock().unwrap_or_else(PoisonError::into_inner).entry(n).or_default().clone()
    }

    fn open(&self) -> Result<(Journal<File>, Replay), OpenError> {
        self.open_sized(16 << 20)
    }

    fn open_sized(&self, segment_bytes: u64) -> Result<(Journal<File>, Replay), OpenError> {
        Journal::open(self.outside(), SECRET, segment_bytes)
    }

    fn outside(&self) -> Outside<File> {
        let (directory, clock) = (self.clone(), self.clone());
        let open = move |n| match *directory.descriptors.lock().expect("no panic") {
            Some(limit) if n >= limit => Err(io::Error::other("too many open files")),
            _ => Ok(directory.file(n)),
        };
        let clock = move || Duration::from_secs(*clock.time.lock().expect("no panic"));
        Outside { open: Box::new(open), clock: Box::new(clock) }
    }

    /// Lets only the files before number `limit` be opened, or all of them; and lets time pass.
    fn limit(&self, limit: Option<usize>) {
        *self.descriptors.lock().expect("no panic") = limit;
        *self.time.lock().expect("no panic") += SPARE_RETRY_INTERVAL.as_secs();
    }

    /// The files that were written, as they are now.
    fn copy(&self) -> Self {
        let files = self.files.lock().unwrap_or_else(PoisonError::into_inner);
        let copy =
            files.iter().map(|(n, file)| (*n, File(Arc::new(Mutex::new(file.bytes().clone())))));
        Self { files: Arc::new(Mutex::new(copy.collect())), ..Self::default() }
    }

    fn used(&self) -> usize {
        let files = self.files.lock().unwrap_or_else(PoisonError::into_inner);
        files.values().filter(|file| !file.bytes().is_empty()).count()
    }
}

fn id(index: u64) -> EntryId {
    EntryId::new_term_index(1, index)
}

fn entry(index: u64) -> LogEntry {
    let change = metadata::Change::CreateTopic(CreateTopic {
        uuid: Uuid::from_u128(u128::from(index)),
        name: format!("topic-{index}").parse().expect("legal"),
    });
    let command = Command { clock: Timestamp::from_micros(index), idempotency: None, change };
    let payload = Payload::Normal(SharedCommand(Arc::new(command)));
    LogEntry { log_id: id(index), payload }
}

fn append(index: u64) -> Op {
    Op::Append(Bytes::from(codec::encode_versioned(&entry(index))))
}

fn seen(replay: &Replay) -> (Head, Vec<u64>) {
    let entries = replay.entries.read(&.., usize::MAX).expect("what was put there");
    (replay.head, entries.iter().map(|entry| entry.log_id.index()).collect())
}

/// Eight records, the last of which is several sectors long, and what is read after each of them.
fn history() -> (Directory, Vec<(Head, Vec<u64>)>) {
    let directory = Directory::default();
    let (mut journal, _) = directory.open().expect("new");
    let mut states = Vec::new();
    let records: [&[Op]; 8] = [
        &[],
        &[Op::Vote(Ballot::new_committed(1, 1)), append(0), append(1)],
        &[append(2)],
        &[append(3), append(4), Op::Committed(id(2))],
        &[Op::TruncateFrom(4)],
        &[append(4), append(5), Op::Committed(id(4))],
        &[Op::Purge(id(2))],
        &(6..90).map(append).collect::<Vec<_>>(),
    ];
    for ops in records {
        journal.write(ops).expect("write");
        states.push(seen(&directory.copy().open().expect("sound").1));
    }
    let (head, entries) = states.last().expect("written");
    assert_eq!((head.next, head.purged, head.committed), (90, Some(id(2)), Some(id(4))));
    assert_eq!((entries.first(), entries.len()), (Some(&3), 87));
    (directory, states)
}

#[test]
fn a_torn_end_is_as_if_it_had_not_been_written() {
    let (directory, states) = history();
    let scanned = Scanned::new(SECRET, directory.file(0).bytes().clone());
    let [.., begin, end] = scanned.offsets[..] else { panic!("records") };
    let sectors = (end - begin) / SECTOR_BYTES;
    assert!(sectors > 4);
    for lost in 0..sectors {
        let copy = directory.copy();
        let from = begin + lost * SECTOR_BYTES;
        copy.file(0).bytes()[from..from + SECTOR_BYTES].fill(0);
        let (mut journal, replay) = copy.open().expect("a torn end");
        assert_eq!(seen(&replay), states[states.len() - 2], "sector {lost}");
        // What is left of it does not come back when something shorter is written in its place.
        journal.write(&[append(6)]).expect("write");
        let (_, replay) = copy.open().expect("sound");
        assert_eq!(replay.head.next, 7);
    }
}

#[test]
fn a_flipped_bit_is_refused_or_takes_the_last_record_or_changes_nothing() {
    let (directory, states) = history();
    let (whole, without_last) = (&states[states.len() - 1], &states[states.len() - 2]);
    let scanned = Scanned::new(SECRET, directory.file(0).bytes().clone());
    let [.., begin, end] = scanned.offsets[..] else { panic!("records") };
    let mut refused = 0;
    for at in 0..end + SECTOR_BYTES {
        let copy = directory.copy();
        copy.file(0).bytes()[at] ^= 1 << (at % 8);
        match copy.open() {
            Ok((_, replay)) if at >= begin => {
                assert!([whole, without_last].contains(&&seen(&replay)), "byte {at}");
            }
            Ok((_, replay)) => assert_eq!(&seen(&replay), whole, "byte {at}"),
            Err(OpenError::Corrupt(_)) => {
                assert!(at < begin, "byte {at}");
                refused += 1;
            }
            Err(error) => panic!("byte {at}: {error}"),
        }
    }
    // What is behind the bodies, up to the next sector, is the rest.
    assert!(refused > 400, "{refused} of {begin}");
}

#[test]
fn entries_that_run_over_several_files_are_read_back_and_missed() {
    let directory = Directory::default();
    let (mut journal, _) = directory.open().expect("new");
    let name = "x".repeat(200);
    let padded = |index: u64| {
        let mut entry = entry(index);
        let change = metadata::Change::CreateTopic(CreateTopic {
            uuid: Uuid::from_u128(1),
            name: name.parse().expect("legal"),
        });
        let command = Command { clock: Timestamp::ZERO, idempotency: None, change };
        entry.payload = Payload::Normal(SharedCommand(Arc::new(command)));
        Op::Append(Bytes::from(codec::encode_versioned(&entry)))
    };
    let batch = 10_000;
    for round in 0..20 {
        let ops: Vec<_> = (round * batch..(round + 1) * batch).map(padded).collect();
        journal.write(&ops).expect("write");
    }
    assert!(directory.used() >= 3);
    let (_, replay) = directory.open().expect("sound");
    assert_eq!((replay.head.next, replay.entries.len()), (20 * batch, 200_000));

    for n in 0..directory.used() - 1 {
        let copy = directory.copy();
        let length = copy.file(n).bytes().len();
        copy.file(n).bytes()[..length].fill(0);
        assert!(matches!(copy.open(), Err(OpenError::Corrupt(_))), "file {n} is gone");
    }

    // Purged, the first file is not needed any more, and the next one is written over it.
    journal.write(&[Op::Purge(id(199_990))]).expect("write");
    let before = directory.used();
    for round in 20..24 {
        let ops: Vec<_> = (round * batch..(round + 1) * batch).map(padded).collect();
        journal.write(&ops).expect("write");
    }
    assert_eq!(directory.used(), before);
    let (_, replay) = directory.open().expect("sound");
    assert_eq!((replay.head.next, replay.entries.len()), (24 * batch, 40_009));
}

#[test]
fn a_hole_or_an_entry_out_of_place_is_refused() {
    for ops in [vec![append(1)], vec![append(0), append(2)], vec![append(0), append(0)]] {
        let directory = Directory::default();
        let (mut journal, _) = directory.open().expect("new");
        journal.write(&ops).expect("write");
        assert!(matches!(directory.open(), Err(OpenError::Corrupt(_))), "{ops:?}");
    }
}

/// 1. An entry is written to the first file, and then votes and nothing else, for three files.
/// 2. The file between, which has no entry in it, was taken for free and written over.
/// 3. The node is started again. What leads up to the last record has a gap, and the entry is behind it.
#[test]
fn a_file_without_entries_is_kept_as_long_as_the_one_before_it() {
    let directory = Directory::default();
    let (mut journal, _) = directory.open_sized(4 << 10).expect("new");
    journal.write(&[append(0)]).expect("write");
    for term in 1..60 {
        journal.write(&[Op::Vote(Ballot::new(term, 1))]).expect("write");
        let (_, replay) = directory.copy().open_sized(4 << 10).expect("sound");
        assert_eq!(seen(&replay).1, [0], "in term {term}");
    }
    // Once it is purged, it holds up nothing any more.
    journal.write(&[Op::Purge(id(0))]).expect("write");
    let used = directory.used();
    for term in 60..200 {
        journal.write(&[Op::Vote(Ballot::new(term, 1))]).expect("write");
        directory.copy().open_sized(4 << 10).expect("sound");
    }
    assert!(directory.used() <= used + 1, "{} files", directory.used());
}

/// 1. A client has bytes logged that are a whole record with a number far ahead, and makes them fall on a sector.
/// 2. The file is used again, and ends before them. Nothing has written over them yet.
/// 3. The node is started again. A whole record with a higher number than the last was taken for a sign of damage.
#[test]
fn a_record_that_a_client_made_up_is_none() {
    let directory = Directory::default();
    let (mut journal, _) = directory.open().expect("new");
    journal.write(&[append(0)]).expect("write");
    let forged = |secret| record::encode(secret, 1_000_000, |bytes| bytes);
    let at = 64 * SECTOR_BYTES;
    let plant = |record: Vec<u8>| {
        let copy = directory.copy();
        copy.file(0).bytes()[at..at + record.len()].copy_from_slice(&record);
        copy.open().map(|(_, replay)| seen(&replay).1)
    };
    assert_eq!(plant(forged(SECRET ^ 1)).expect("sound"), [0]);
    // Whoever knew the secret could.
    assert!(matches!(plant(forged(SECRET)), Err(OpenError::Corrupt(_))));
}

/// What an earlier life of a directory left there, whose database was deleted, is not this life's vote and log.
#[test]
fn files_of_an_earlier_life_are_written_over() {
    let (directory, _) = history();
    let reopen = || Journal::open(directory.outside(), SECRET + 1, 16 << 20);
    let (mut journal, replay) = reopen().expect("nothing that counts");
    assert!(journal.is_new());
    assert_eq!(seen(&replay), (Head::default(), vec![]));
    journal.write(&[append(0)]).expect("write");
    assert_eq!(seen(&reopen().expect("sound").1).1, [0]);
}

/// 1. Idle connections used up the descriptors of three nodes out of five.
/// 2. Each opened the next file of its log when the active one was full, and failed.
/// 3. The failure counted as a failure of the disk, and all three stopped.
#[test]
fn a_journal_that_cannot_open_its_next_file_goes_on() {
    let directory = Directory::default();
    let (mut journal, _) = directory.open_sized(4 << 10).expect("new");
    journal.write(&[append(0)]).expect("write");
    // The spare is open already: file 1 is used, and file 2 is missing.
    directory.limit(Some(2));
    for index in 1..200 {
        journal.write(&[append(index)]).expect("write");
        directory.limit(Some(2));
        assert!(directory.used() <= 2);
        let (_, replay) = directory.copy().open_sized(4 << 10).expect("sound");
        assert_eq!(replay.head.next, index + 1);
    }
    assert!(directory.file(1).bytes().len() > 3 * (4 << 10));
    // The next file is used again once it can be opened.
    directory.limit(None);
    let used = directory.used();
    for index in 200..220 {
        journal.write(&[append(index)]).expect("write");
    }
    assert!(directory.used() > used);
    let (_, replay) = directory.open_sized(4 << 10).expect("sound");
    assert_eq!((replay.head.next, replay.entries.len()), (220, 220));
}

#[test]
fn a_journal_without_a_next_file_fails_once_the_active_one_is_as_large_as_it_may_be() {
    let directory = Directory::default();
    let (mut journal, _) = directory.open_sized(4 << 10).expect("new");
    directory.limit(Some(1));
    let large = || Op::Append(Bytes::from(vec![0; 4 << 20]));
    let written = (0..1_000_000).take_while(|_| journal.write(&[large()]).is_ok()).count();
    let bytes = directory.file(0).bytes().len() as u64;
    assert!(bytes <= OVERFLOW_BYTES_MAX && written >= 12, "{written} writes, {bytes} bytes");
}
