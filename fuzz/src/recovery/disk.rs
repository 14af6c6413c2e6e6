//! A disk in memory that loses power at a chosen operation and keeps chosen sectors.
//!
//! `cached` is what programs see; `durable` with some of the `unsynced` pieces is what a crash leaves. A
//! piece is a part of a write inside one sector, or a change of length.

use std::collections::BTreeMap;
use std::io;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use redb::StorageBackend;

/// What disks write as a whole.
const SECTOR_BYTES: usize = 512;

/// A sector that was never written.
const ZEROS: [u8; SECTOR_BYTES] = [0; SECTOR_BYTES];

/// Which of the pieces that were not synced a power loss leaves.
#[derive(Clone, Copy, Debug)]
pub enum Survivors {
    /// None.
    None,
    /// All.
    All,
    /// The first so many.
    First(usize),
    /// All but the one with this number.
    AllBut(usize),
    /// Only the one with this number.
    Only(usize),
    /// A subset, the one of this number.
    Subset(u64),
}

#[derive(Debug)]
enum Piece {
    Write { offset: usize, data: Vec<u8> },
    Length(usize),
}

#[derive(Debug, Default)]
struct File {
    cached: Vec<u8>,
    durable: Vec<u8>,
    unsynced: Vec<Piece>,
}

#[derive(Debug, Default)]
struct State {
    files: BTreeMap<String, File>,
    /// The handles of this life work, those of earlier ones are dead.
    life: u32,
    /// Changes and syncs until the power fails.
    fuse: Option<u32>,
    powerless: bool,
}

/// A handle on the disk.
#[derive(Clone, Debug, Default)]
pub struct Disk(Arc<Mutex<State>>);

impl Piece {
    fn apply(&self, bytes: &mut Vec<u8>) {
        match self {
            Self::Write { offset, data } => {
                let end = offset + data.len();
                if bytes.len() < end {
                    bytes.resize(end, 0);
                }
                bytes[*offset..end].copy_from_slice(data);
            }
            Self::Length(length) => bytes.resize(*length, 0),
        }
    }
}

impl Survivors {
    fn include(self, piece: usize, of: usize) -> bool {
        match self {
            Self::None => false,
            Self::All => true,
            Self::First(count) => piece < count % of,
            Self::AllBut(one) => piece != one % of,
            Self::Only(one) => piece == one % of,
            // SplitMix64 of the two numbers.
            Self::Subset(subset) => {
                let mut z = (piece as u64 + 1).wrapping_mul(0x9e37_79b9_7f4a_7c15) ^ subset;
                z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
                z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
                (z ^ (z >> 31)) & 1 == 1
            }
        }
    }
}

impl Disk {
    /// Starts a life: the handles of earlier ones die.
    pub fn boot(&self) -> u32 {
        let mut state = self.lock();
        state.life += 1;
        state.life
    }

    /// Lets the power fail at the `n`-th further change or sync, from 0.
    pub fn fail_after(&self, n: u32) {
        self.lock().fuse = Some(n);
    }

    /// Whether the power has failed.
    pub fn is_powerless(&self) -> bool {
        self.lock().powerless
    }

    /// The power fails, if it has not; and is back. The handles die.
    pub fn crash(&self, survivors: Survivors) {
        let mut state = self.lock();
        state.life += 1;
        state.powerless = false;
        state.fuse = None;
        for file in state.files.values_mut() {
            let pieces = std::mem::take(&mut file.unsynced);
            for (number, piece) in pieces.iter().enumerate() {
                if survivors.include(number, pieces.len()) {
                    piece.apply(&mut file.durable);
                }
            }
            file.cached.clone_from(&file.durable);
        }
    }

    /// Flips a bit of `file`, of those sectors that are not all zeros: `place` counts their bytes, around.
    pub fn flip(&self, file: &str, place: usize, bit: u8) {
        let mut state = self.lock();
        let Some(File { cached, durable, .. }) = state.files.get_mut(file) else { return };
        let sectors = durable.chunks(SECTOR_BYTES).enumerate();
        let sectors: Vec<usize> =
            sectors.filter(|(_, bytes)| **bytes != ZEROS[..bytes.len()]).map(|(n, _)| n).collect();
        if sectors.is_empty() {
            return;
        }
        let sector = sectors[place / SECTOR_BYTES % sectors.len()];
        for bytes in [durable, cached] {
            if let Some(byte) = bytes.get_mut(sector * SECTOR_BYTES + place % SECTOR_BYTES) {
                *byte ^= 1 << (bit % 8);
            }
        }
    }

    /// Opens `path` for the life that `boot` began.
    pub fn open(&self, life: u32, path: &str) -> Handle {
        self.lock().files.entry(path.to_owned()).or_default();
        Handle { disk: self.clone(), life, path: path.to_owned() }
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// An open file.
#[derive(Debug)]
pub struct Handle {
    disk: Disk,
    life: u32,
    path: String,
}

fn dead() -> io::Error {
    io::Error::other("no power")
}

impl Handle {
    fn with<R>(&self, act: impl FnOnce(&mut File) -> io::Result<R>) -> io::Result<R> {
        let mut state = self.disk.lock();
        if state.powerless || state.life != self.life {
            return Err(dead());
        }
        act(state.files.get_mut(&self.path).expect("made when it was opened"))
    }

    fn change(&self, act: impl FnOnce(&mut File)) -> io::Result<()> {
        if self.burn()? {
            return Err(dead());
        }
        self.with(|file| {
            act(file);
            Ok(())
        })
    }

    /// Whether the power fails now.
    fn burn(&self) -> io::Result<bool> {
        let mut state = self.disk.lock();
        if state.powerless || state.life != self.life {
            return Err(dead());
        }
        let Some(fuse) = &mut state.fuse else { return Ok(false) };
        if let Some(left) = fuse.checked_sub(1) {
            *fuse = left;
            return Ok(false);
        }
        state.powerless = true;
        Ok(true)
    }
}

fn index(number: u64) -> usize {
    usize::try_from(number).expect("files are small")
}

impl StorageBackend for Handle {
    fn len(&self) -> io::Result<u64> {
        self.with(|file| Ok(file.cached.len() as u64))
    }

    fn read(&self, offset: u64, out: &mut [u8]) -> io::Result<()> {
        self.with(|file| {
            let start = usize::try_from(offset).map_err(io::Error::other)?;
            let bytes = start.checked_add(out.len()).and_then(|end| file.cached.get(start..end));
            out.copy_from_slice(bytes.ok_or(io::ErrorKind::UnexpectedEof)?);
            Ok(())
        })
    }

    fn set_len(&self, len: u64) -> io::Result<()> {
        if len > 1 << 30 {
            return Err(io::ErrorKind::StorageFull.into());
        }
        self.change(|file| {
            let piece = Piece::Length(index(len));
            piece.apply(&mut file.cached);
            file.unsynced.push(piece);
        })
    }

    fn sync_data(&self) -> io::Result<()> {
        self.change(|file| {
            for piece in std::mem::take(&mut file.unsynced) {
                piece.apply(&mut file.durable);
            }
        })
    }

    fn write(&self, offset: u64, data: &[u8]) -> io::Result<()> {
        if offset.saturating_add(data.len() as u64) > 1 << 30 {
            return Err(io::ErrorKind::StorageFull.into());
        }
        self.change(|file| {
            let (mut offset, mut data) = (index(offset), data);
            while !data.is_empty() {
                let room = SECTOR_BYTES - offset % SECTOR_BYTES;
                let (now, later) = data.split_at(room.min(data.len()));
                let piece = Piece::Write { offset, data: now.to_vec() };
                piece.apply(&mut file.cached);
                file.unsynced.push(piece);
                (offset, data) = (offset + now.len(), later);
            }
        })
    }
}
