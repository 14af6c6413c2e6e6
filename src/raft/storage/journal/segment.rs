//! One file of the journal: records from its beginning on, then zeros or what is left of an earlier use.

use std::io;

use redb::StorageBackend;

use super::record::{self, Record, SECTOR_BYTES};
use super::{Head, Op, Secret};

/// Bytes that a file grows by. They are written, not only reserved: a sync that has to allocate writes the file
/// system's own journal too, and takes nearly twice as long.
const GROWTH_BYTES: usize = 256 << 10;

#[derive(Debug)]
pub(super) struct Segment<D> {
    disk: D,
    /// The file's length.
    length: u64,
    /// Where the next record goes.
    pub(super) used: u64,
    /// The largest index of the entries in it and before it: once that is purged, it may be written over.
    pub(super) last_index: Option<u64>,
}

/// What a file holds.
#[derive(Debug, Default)]
pub(super) struct Scanned {
    /// Numbers of its first and last record, which follow each other without a gap.
    pub(super) numbers: Option<(u64, u64)>,
    /// Where each begins, and where the last one ends.
    pub(super) offsets: Vec<usize>,
    /// The highest number of a whole record anywhere.
    pub(super) highest: Option<u64>,
    pub(super) bytes: Vec<u8>,
}

impl Scanned {
    pub(super) fn new(secret: Secret, bytes: Vec<u8>) -> Self {
        let mut scanned = Self::default();
        let mut at = 0;
        while let Some(Record { number, bytes: length, .. }) = record::decode(secret, &bytes[at..])
        {
            match &mut scanned.numbers {
                None => scanned.numbers = Some((number, number)),
                Some((_, last)) if number == *last + 1 => *last = number,
                // Left from when the file was used before.
                Some(_) => break,
            }
            scanned.offsets.push(at);
            at = (at + length).min(bytes.len());
        }
        scanned.highest = scanned.numbers.map(|(_, last)| last);
        scanned.offsets.push(at);
        while at < bytes.len() {
            if let Some(Record { number, .. }) = record::decode(secret, &bytes[at..]) {
                scanned.highest = scanned.highest.max(Some(number));
            }
            at += SECTOR_BYTES;
        }
        scanned.bytes = bytes;
        scanned
    }

    /// Its records, in order.
    pub(super) fn records(&self, secret: Secret) -> impl Iterator<Item = Record<'_>> {
        let count = self.offsets.len() - 1;
        self.offsets[..count]
            .iter()
            .filter_map(move |at| record::decode(secret, &self.bytes[*at..]))
    }
}

impl<D: StorageBackend> Segment<D> {
    /// A file with nothing in it that counts.
    pub(super) fn free(disk: D) -> io::Result<Self> {
        let length = disk.len()?;
        Ok(Self { disk, length, used: 0, last_index: None })
    }

    pub(super) fn is_new(&self) -> bool {
        self.length == 0
    }

    /// That `op` is written to it, where `head` holds.
    pub(super) fn note(&mut self, op: &Op, head: &Head) {
        let last = match op {
            // Without an entry of its own it is freed no earlier than the file before it: what leads up to the last
            // record must have no gap.
            Op::Head(head) => head.next.checked_sub(1),
            Op::Append(_) => Some(head.next),
            Op::TruncateFrom(_) | Op::Purge(_) | Op::Vote(_) | Op::Committed(_) => None,
        };
        self.last_index = self.last_index.max(last);
    }

    pub(super) fn scan(&self, secret: Secret) -> io::Result<Scanned> {
        let length = usize::try_from(self.length).map_err(io::Error::other)?;
        let mut bytes = vec![0; length];
        self.disk.read(0, &mut bytes)?;
        Ok(Scanned::new(secret, bytes))
    }

    /// Goes on behind the records in `scanned`: writes the last of them again, and zeros over whatever follows.
    ///
    /// Reading does not show what is on the disk. After a failed sync the kernel takes the pages that it could not
    /// write for clean, and shows them to whoever reads (the lesson that `PostgreSQL` learned in 2018). So, without
    /// this:
    ///
    /// 1. a sync fails, and the node stops, as it must;
    /// 2. its supervisor starts it again. It reads the entries that were never written from the kernel's cache, and
    ///    counts as holding them;
    /// 3. the power fails, and the entries are gone.
    ///
    /// (Simulation found it: swarm, seed 2117.) The records before the last one were synced before it was written.
    pub(super) fn resume(&mut self, scanned: &Scanned) -> io::Result<()> {
        let [.., begin, end] = scanned.offsets[..] else { return Ok(()) };
        self.used = end as u64;
        self.disk.write(begin as u64, &scanned.bytes[begin..end])?;
        let rest = &scanned.bytes[end..];
        if rest.iter().any(|byte| *byte != 0) {
            self.disk.write(self.used, &vec![0; rest.len()])?;
        }
        self.disk.sync_data()
    }

    /// Appends a record and syncs it.
    pub(super) fn write(&mut self, record: &[u8]) -> io::Result<()> {
        let end = self.used + record.len() as u64;
        if end > self.length {
            let length = end.next_multiple_of(GROWTH_BYTES as u64);
            self.disk.set_len(length)?;
            let zeros = vec![0; GROWTH_BYTES];
            let mut at = end;
            while at < length {
                let count = zeros.len().min(usize::try_from(length - at).unwrap_or(usize::MAX));
                self.disk.write(at, &zeros[..count])?;
                at += count as u64;
            }
            self.length = length;
        }
        self.disk.write(self.used, record)?;
        self.disk.sync_data()?;
        self.used = end;
        Ok(())
    }
}
