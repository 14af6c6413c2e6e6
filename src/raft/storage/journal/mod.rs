//! The log on disk: an append-only journal in a few files that are written over in turn.
//!
//! A write of the log is a [record](record) with all that Raft wanted written since the last one, and one sync.
//! The files are filled with zeros before they are used and used again when all of their entries are purged, so
//! that most syncs write the record's own bytes and nothing else: no tree, no free list, no file system journal.
//! (redb, which held the log before, wrote three to four pages and took about three times the processor time for an
//! entry of 300 bytes.)
//!
//! - Records are numbered without gaps, and each is synced before the next is written. So the last record may be
//!   torn by a power loss, and no other: a whole record with a higher number than the last readable one shows that
//!   what lies between was damaged, and the journal is refused.
//! - Each file begins with a [`Head`]: what of the files before it still matters, their entries aside.
//! - A file is free when every entry in it and before it is purged, and that purge is itself on the disk. Whatever is
//!   left in it has lower numbers than what is written over it.
//!
//! - A record's checksum is seeded with a secret of the directory. Entries hold bytes that clients chose, and files are
//!   searched for whole records at every sector: nobody can plant one who does not know the secret. Nor are files of an
//!   earlier life of the directory taken for this one's.
//!
//! A spare file is open before it is needed. A process can run out of file descriptors at any time.
//! Idle connections did that, and three nodes of five stopped when they opened their next file. So:
//!
//! 1. After each record the journal makes sure that a free file is open. A failure to open one is
//!    no error: it is reported and tried again after [`SPARE_RETRY_INTERVAL`].
//! 2. When the active file is full and there is still no spare, the active file grows beyond its
//!    size, up to [`OVERFLOW_BYTES_MAX`].
//! 3. Only then does a write fail.
//!
//! Left out: telling a last record that rotted from one that was torn. It is taken for torn, and what it held is
//! gone as if nobody had been told of it. To tell the two apart, every write would need a second sync.

use std::collections::VecDeque;
use std::io;
use std::time::Duration;

use redb::StorageBackend;

use super::OpenError;
use super::decode;
use crate::codec;
use crate::quiet::Quiet;
use crate::raft::config::LOG_SEGMENT_BYTES;

mod record;
mod replay;
mod segment;
#[cfg(test)]
mod tests;

pub(super) use replay::{Head, Op, Replay};
use segment::{Scanned, Segment};

/// What seeds the checksums of a directory's records. It never leaves the directory.
pub(super) type Secret = u64;

/// Opens the journal's `n`-th file, creating it when it is not there.
pub(super) type OpenFile<D> = Box<dyn Fn(usize) -> io::Result<D> + Send + Sync>;

/// Monotonic time since some origin.
pub(super) type Clock = Box<dyn Fn() -> Duration + Send + Sync>;

/// The source of a journal's files and time.
pub(super) struct Outside<D> {
    pub(super) open: OpenFile<D>,
    pub(super) clock: Clock,
}

/// Pause between two attempts to open a spare file. It is short enough for a shortage of a few
/// seconds, and long enough to cost nothing.
const SPARE_RETRY_INTERVAL: Duration = Duration::from_secs(1);

/// Largest size of a file that holds more than one record, in bytes. A file grows beyond the size
/// of a segment only while no other file can be opened. Four segments of the usual size are minutes
/// of writes, and are read at a start without delay.
const OVERFLOW_BYTES_MAX: u64 = 64 << 20;

const _: () = assert!(OVERFLOW_BYTES_MAX >= 4 * LOG_SEGMENT_BYTES);

/// As many of the last entries as this part of a file holds are in memory decoded: half a mebibyte, and in a simulation,
/// whose files are small, so few that those which are not are read too.
const DECODED_PART: u64 = 32;

/// The name of the journal's `n`-th file.
pub(super) fn file_name(n: usize) -> String {
    format!("yakt.log.{n}")
}

/// An open journal.
pub(super) struct Journal<D> {
    outside: Outside<D>,
    secret: Secret,
    /// Bytes of a file, unless a single record is larger.
    segment_bytes: u64,
    segments: Vec<Segment<D>>,
    /// Where the next record goes; none in a new journal.
    active: Option<usize>,
    /// The next record's number.
    number: u64,
    head: Head,
    /// When the last attempt to open a spare file failed.
    spare_missed: Option<Duration>,
    warnings: Quiet<Duration>,
}

/// The place of a record that does not fit into the active file.
enum Next {
    /// The beginning of another file.
    Other(usize),
    /// The active file all the same: no other file can be opened.
    Overflow(usize),
}

impl<D> std::fmt::Debug for Journal<D> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Journal")
            .field("number", &self.number)
            .field("head", &self.head)
            .finish_non_exhaustive()
    }
}

impl<D: StorageBackend> Journal<D> {
    /// Reads the journal. Nothing in it is changed before it is known to be sound.
    pub(super) fn open(
        outside: Outside<D>,
        secret: Secret,
        segment_bytes: u64,
    ) -> Result<(Self, Replay), OpenError> {
        let mut segments = Vec::new();
        let mut files = Vec::new();
        loop {
            let segment = Segment::free((outside.open)(segments.len())?)?;
            let is_new = segment.is_new();
            if !is_new {
                files.push(segment.scan(secret)?);
            }
            segments.push(segment);
            // Files are begun in order: behind one that was never used there is none.
            if is_new {
                break;
            }
        }
        let chain = chain(&files)?;
        let decoded_bytes_max = usize::try_from(segment_bytes / DECODED_PART).unwrap_or(usize::MAX);
        let mut replay = Replay::new(decoded_bytes_max);
        for n in &chain {
            for record in files[*n].records(secret) {
                let ops: Vec<Op> = decode(record.body, "journal record")?;
                for op in ops {
                    segments[*n].note(&op, &replay.head);
                    replay.apply(&op)?;
                }
            }
        }
        let replay = replay.finish()?;
        let (active, mut number) = (chain.back().copied(), 1);
        if let Some(n) = active {
            segments[n].resume(&files[n])?;
            number = files[n].numbers.map_or(1, |(_, last)| last + 1);
        }
        let mut journal = Self {
            outside,
            secret,
            segment_bytes,
            segments,
            active,
            number,
            head: replay.head,
            spare_missed: None,
            warnings: Quiet::default(),
        };
        journal.keep_spare();
        Ok((journal, replay))
    }

    /// Whether nothing was ever written.
    pub(super) fn is_new(&self) -> bool {
        self.active.is_none()
    }

    /// Writes `ops`, and says how many bytes that took. On return they are durable.
    ///
    /// After an error nothing more may be written: what is on the disk is not known.
    pub(super) fn write(&mut self, ops: &[Op]) -> io::Result<usize> {
        let (secret, number) = (self.secret, self.number);
        let body = |ops: &[Op]| {
            record::encode(secret, number, |bytes| codec::encode_versioned_to(bytes, ops))
        };
        let mut record = body(ops);
        let fits = |segment: &Segment<D>| segment.used + record.len() as u64 <= self.segment_bytes;
        let active = match self.active.filter(|n| fits(&self.segments[*n])) {
            Some(active) => active,
            None => match self.next_segment(record.len())? {
                Next::Other(next) => {
                    record = body(&[&[Op::Head(self.head)], ops].concat());
                    self.begin_segment(next);
                    next
                }
                Next::Overflow(active) => active,
            },
        };
        self.segments[active].write(&record)?;
        self.active = Some(active);
        self.number += 1;
        for op in ops {
            self.segments[active].note(op, &self.head);
            self.head.note(op);
        }
        self.keep_spare();
        Ok(record.len())
    }

    /// The place of a record of `record_bytes` that does not fit into the active file.
    fn next_segment(&mut self, record_bytes: usize) -> io::Result<Next> {
        if let Some(spare) = self.spare() {
            return Ok(Next::Other(spare));
        }
        let has_room =
            |n: &usize| self.segments[*n].used + record_bytes as u64 <= OVERFLOW_BYTES_MAX;
        match self.active.filter(has_room) {
            Some(active) if !self.is_spare_due() => Ok(Next::Overflow(active)),
            Some(active) => Ok(self.open_spare().map_or(Next::Overflow(active), Next::Other)),
            None => self.open_spare().map(Next::Other),
        }
    }

    /// A file other than the active one that may be written over from its beginning.
    fn spare(&self) -> Option<usize> {
        let first = self.head.first();
        let free = |segment: &Segment<D>| segment.last_index.is_none_or(|last| last < first);
        (0..self.segments.len()).find(|n| self.active != Some(*n) && free(&self.segments[*n]))
    }

    fn open_spare(&mut self) -> io::Result<usize> {
        let number = self.segments.len();
        let opened = (self.outside.open)(number).and_then(Segment::free);
        let now = (self.outside.clock)();
        match opened {
            Ok(segment) => {
                self.spare_missed = None;
                self.segments.push(segment);
                Ok(number)
            }
            Err(error) => {
                self.spare_missed = Some(now);
                if let Some(unwritten) = self.warnings.note(now) {
                    let name = file_name(number);
                    tracing::warn!(%error, %name, unwritten, "cannot open the next file of the log; trying again");
                }
                Err(error)
            }
        }
    }

    /// Opens a spare file unless one is there, or the last attempt has just failed.
    fn keep_spare(&mut self) {
        if self.is_spare_due() && self.spare().is_none() {
            // `open_spare` reports a failure, which matters only once the active file is full.
            drop(self.open_spare());
        }
    }

    fn is_spare_due(&self) -> bool {
        let now = (self.outside.clock)();
        self.spare_missed.is_none_or(|missed| now.saturating_sub(missed) >= SPARE_RETRY_INTERVAL)
    }

    /// Prepares file `n` for its first record.
    fn begin_segment(&mut self, n: usize) {
        self.segments[n].used = 0;
        self.segments[n].last_index = None;
        self.segments[n].note(&Op::Head(self.head), &self.head);
    }
}

/// The files that make up the journal, oldest first: the one with the last record, and those that lead up to it
/// without a gap.
fn chain(files: &[Scanned]) -> Result<VecDeque<usize>, OpenError> {
    let ends = |n: &usize| files[*n].numbers.map(|(_, last)| last);
    let mut chain = VecDeque::new();
    let newest = (0..files.len()).filter(|n| ends(n).is_some()).max_by_key(ends);
    let highest = files.iter().filter_map(|file| file.highest).max();
    if highest > newest.and_then(|n| ends(&n)) {
        return Err(OpenError::Corrupt("a record in the middle of the log is damaged".to_owned()));
    }
    let mut next = newest;
    while let Some(n) = next {
        chain.push_front(n);
        let before = files[n].numbers.and_then(|(first, _)| first.checked_sub(1));
        next = (0..files.len()).find(|n| before.is_some() && ends(n) == before);
    }
    Ok(chain)
}
