//! One file's bytes, cached and durable, and what a power loss can make of them.
//!
//! `cached` is what the operating system shows: every write at once. `durable` is what the platter
//! holds for sure. `unsynced` lists, in order, what turns one into the other.
//!
//! Sectors of [`SECTOR_BYTES`] are written atomically and in any order; a sector that was overwritten
//! several times since the last sync may hold any of those versions.

use std::collections::{BTreeMap, BTreeSet};
use std::ops::Range;

use rand::Rng;

use super::{CrashMode, CrashReport};
use crate::rng::{draw_below, draw_bool};

/// What disks promise to write as a whole.
pub(super) const SECTOR_BYTES: usize = 512;

/// A change that has not been synced.
#[derive(Debug)]
enum Change {
    Write { offset: usize, data: Vec<u8> },
    SetLen(usize),
}

#[derive(Debug, Default)]
pub(super) struct Image {
    cached: Vec<u8>,
    durable: Vec<u8>,
    unsynced: Vec<Change>,
    /// The sectors that the last two syncs wrote, the newer first.
    fresh: [BTreeSet<usize>; 2],
}

fn resize_to_hold(bytes: &mut Vec<u8>, end: usize) {
    if bytes.len() < end {
        bytes.resize(end, 0);
    }
}

fn write_at(bytes: &mut Vec<u8>, offset: usize, data: &[u8]) {
    resize_to_hold(bytes, offset + data.len());
    bytes[offset..offset + data.len()].copy_from_slice(data);
}

impl Change {
    fn apply(&self, bytes: &mut Vec<u8>) {
        match self {
            Self::Write { offset, data } => write_at(bytes, *offset, data),
            Self::SetLen(len) => bytes.resize(*len, 0),
        }
    }

    /// The sectors it writes.
    fn sectors(&self) -> Range<usize> {
        match self {
            Self::Write { offset, data } => {
                offset / SECTOR_BYTES..(offset + data.len()).div_ceil(SECTOR_BYTES)
            }
            Self::SetLen(_) => 0..0,
        }
    }

    /// The length of the file after this change.
    fn len_after(&self, before: usize) -> usize {
        match self {
            Self::Write { offset, data } => before.max(offset + data.len()),
            Self::SetLen(len) => *len,
        }
    }
}

impl Image {
    /// A copy of what programs read, all of it durable.
    pub(super) fn copied(&self) -> Self {
        Self { cached: self.cached.clone(), durable: self.cached.clone(), ..Self::default() }
    }

    pub(super) fn len(&self) -> usize {
        self.cached.len()
    }

    /// The cached bytes `offset..offset + len`, or `None` beyond the end.
    pub(super) fn read(&self, offset: usize, len: usize) -> Option<&[u8]> {
        self.cached.get(offset..offset.checked_add(len)?)
    }

    pub(super) fn write(&mut self, offset: usize, data: &[u8]) {
        write_at(&mut self.cached, offset, data);
        self.unsynced.push(Change::Write { offset, data: data.to_vec() });
    }

    pub(super) fn set_len(&mut self, len: usize) {
        self.cached.resize(len, 0);
        self.unsynced.push(Change::SetLen(len));
    }

    /// Everything written is durable.
    pub(super) fn sync(&mut self) {
        let mut written = BTreeSet::new();
        for change in self.unsynced.drain(..) {
            change.apply(&mut self.durable);
            written.extend(change.sectors());
        }
        // A sync that has nothing to do makes nothing older.
        if !written.is_empty() {
            self.fresh.rotate_right(1);
            self.fresh[0] = written;
        }
    }

    /// A sync failed. As on Linux, the kernel tried once and now takes the pages for clean: some reached
    /// the disk, the others never will, though reads show them until the power fails.
    pub(super) fn sync_in_vain(&mut self, rng: &mut impl Rng) {
        let unsynced = std::mem::take(&mut self.unsynced);
        self.tear(&unsynced, rng);
        // Sizes travel in the file system's journal, not in the pages.
        self.durable.resize(self.cached.len(), 0);
    }

    /// The whole sectors that a crash would leave as they are, that no recent sync wrote, and that are not
    /// all zeros.
    pub(super) fn settled_sectors(&self) -> impl Iterator<Item = usize> {
        let mut len = self.cached.len().min(self.durable.len());
        let mut changing = BTreeSet::new();
        for change in &self.unsynced {
            changing.extend(change.sectors());
            if let Change::SetLen(new) = change {
                len = len.min(*new);
            }
        }
        let whole = self.durable[..len].chunks_exact(SECTOR_BYTES).enumerate();
        whole
            .filter(|(_, bytes)| bytes.iter().any(|byte| *byte != 0))
            .map(|(sector, _)| sector)
            .filter(move |sector| {
                !changing.contains(sector) && !self.fresh.iter().any(|fresh| fresh.contains(sector))
            })
    }

    /// The whole sectors that the last sync wrote, and that are not all zeros.
    pub(super) fn newest_sectors(&self) -> impl Iterator<Item = usize> {
        let written = self.fresh[0].iter().copied();
        written.filter(|sector| {
            let bytes = self.durable.get(sector * SECTOR_BYTES..(sector + 1) * SECTOR_BYTES);
            bytes.is_some_and(|bytes| bytes.iter().any(|byte| *byte != 0))
        })
    }

    /// Flips one bit of a sector that is whole.
    pub(super) fn flip(&mut self, sector: usize, bit: usize) {
        for bytes in [&mut self.cached, &mut self.durable] {
            bytes[sector * SECTOR_BYTES + bit / 8] ^= 1 << (bit % 8);
        }
    }

    /// The power fails: what `mode` and chance leave is from now on both cached and durable.
    pub(super) fn crash(&mut self, rng: &mut impl Rng, mode: CrashMode) -> CrashReport {
        let changes = std::mem::take(&mut self.unsynced);
        if changes.is_empty() {
            self.cached.clone_from(&self.durable);
            return CrashReport::default();
        }
        let nothing = self.durable.clone();
        let mut everything = nothing.clone();
        for change in &changes {
            change.apply(&mut everything);
        }
        self.settle(&changes, rng, mode);
        self.cached.clone_from(&self.durable);
        CrashReport {
            unsynced: changes.len(),
            kept_some: self.durable != nothing,
            lost_some: self.durable != everything,
        }
    }

    /// Makes durable what `mode` and chance leave of `changes`.
    fn settle(&mut self, changes: &[Change], rng: &mut impl Rng, mode: CrashMode) {
        match mode {
            CrashMode::LoseUnsynced => {}
            CrashMode::KeepUnsynced => self.keep(changes),
            CrashMode::Reordered => {
                self.keep(changes.iter().filter(|_| draw_bool(rng)));
            }
            CrashMode::Prefix => self.keep_prefix(changes, rng),
            CrashMode::Torn => self.tear(changes, rng),
            CrashMode::Any => {
                let mode = CrashMode::CONCRETE[usize::try_from(draw_below(rng, 5)).unwrap_or(0)];
                self.settle(changes, rng, mode);
            }
        }
    }

    fn keep<'a>(&mut self, changes: impl IntoIterator<Item = &'a Change>) {
        for change in changes {
            change.apply(&mut self.durable);
        }
    }

    /// Keeps the changes up to some point, the last of them torn.
    fn keep_prefix(&mut self, changes: &[Change], rng: &mut impl Rng) {
        let kept = draw_below(rng, changes.len() as u64 + 1);
        let (kept, rest) = changes.split_at(usize::try_from(kept).unwrap_or(0));
        self.keep(kept);
        if let Some(last) = rest.first() {
            self.tear(std::slice::from_ref(last), rng);
        }
    }

    /// Chooses a version of the length, and of each sector, independently.
    fn tear(&mut self, changes: &[Change], rng: &mut impl Rng) {
        let mut lens = vec![self.durable.len()];
        let mut versions: BTreeMap<usize, Vec<usize>> = BTreeMap::new();
        for (index, change) in changes.iter().enumerate() {
            let before = lens[lens.len() - 1];
            lens.push(change.len_after(before));
            for sector in change.sectors() {
                versions.entry(sector).or_default().push(index);
            }
        }
        let len = lens[usize::try_from(draw_below(rng, lens.len() as u64)).unwrap_or(0)];
        for (sector, writes) in versions {
            let kept = usize::try_from(draw_below(rng, writes.len() as u64 + 1)).unwrap_or(0);
            for index in &writes[..kept] {
                self.apply_to_sector(&changes[*index], sector);
            }
        }
        self.durable.resize(len, 0);
    }

    fn apply_to_sector(&mut self, change: &Change, sector: usize) {
        let Change::Write { offset, data } = change else {
            return;
        };
        let start = (sector * SECTOR_BYTES).max(*offset);
        let end = ((sector + 1) * SECTOR_BYTES).min(offset + data.len());
        write_at(&mut self.durable, start, &data[start - offset..end - offset]);
    }
}
