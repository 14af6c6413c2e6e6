//! A host's disk: files that outlive processes, and lose what was not synced when the power fails.
//!
//! Promises:
//!
//! - a write is seen by reads at once and is durable after the next successful `sync_data`;
//! - killing a process loses nothing (the kernel's cache survives it); a power loss
//!   ([`SimDisk::crash`]) leaves of the unsynced changes what [`CrashMode`] and chance allow, down to
//!   single sectors in any order;
//! - a file has one live handle at a time; a second opener gets `WouldBlock`;
//! - handles belong to an incarnation ([`SimDisk::boot`]). Those of an earlier one fail every operation
//!   and change nothing: after a kill, madsim still runs the dead node's `Drop` code, and a storage
//!   engine that finished its commit there would turn the crash into a clean shutdown;
//! - [`SimDisk::inject`] and [`SimDisk::fail_after`] make operations fail, now or in the middle of a
//!   commit; [`SimDisk::rot`] damages what was stored, and [`SimDisk::wipe`] replaces the disk.
//!
//! Left out: directories and renames (a created file exists until the disk is replaced), and time, which
//! [`crate::SimEnv`] adds where work is done on the disk: at one moment, or in part when the power fails
//! meanwhile (see `job`).

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;
use std::future::poll_fn;
use std::io;
use std::ops::Range;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, Weak};
use std::task::{Poll, Waker};
use std::time::Duration;

use rand::Rng;

use crate::rng::{SeededRng, draw_below, draw_duration};
use crate::trace::Trace;

mod file;
mod image;
mod job;
#[cfg(test)]
mod tests;

pub use self::file::SimFile;

use self::image::{Image, SECTOR_BYTES};
use self::job::Job;

/// How long synchronous work on a disk takes, unless set: a fast SSD with the odd hiccup.
const LATENCY_DEFAULT: Range<Duration> = Duration::from_micros(100)..Duration::from_millis(2);

/// What a power loss leaves of changes that were not synced.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum CrashMode {
    /// Nothing.
    LoseUnsynced,
    /// Everything: the cache happened to be written back just before.
    KeepUnsynced,
    /// All changes up to some point, the next one torn.
    Prefix,
    /// Each change as a whole, or not, independently of the others.
    Reordered,
    /// For each sector any of its versions since the last sync; for the length likewise.
    Torn,
    /// One of the above, chosen by the random number generator.
    Any,
}

impl CrashMode {
    const CONCRETE: [Self; 5] =
        [Self::LoseUnsynced, Self::KeepUnsynced, Self::Prefix, Self::Reordered, Self::Torn];
}

/// A way in which a disk fails.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum FaultKind {
    /// Reads fail with an I/O error.
    ReadError,
    /// Writes and changes of length fail with an I/O error and change nothing.
    WriteError,
    /// Syncs fail, and what they should have made durable may be lost for good, as on Linux.
    SyncError,
    /// The disk is full: writes and growth fail with `StorageFull`.
    NoSpace,
    /// Opening a file fails with "too many open files". Files that are already open work.
    NoDescriptors,
    /// The power fails: the operation under way takes effect as far as a crash lets it, every live
    /// handle is fenced, and [`SimDisk::power_failed`] wakes the supervisor, who crashes the host.
    PowerLoss,
}

/// What a disk has been asked to do since it was made.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct DiskStats {
    /// Reads, failed ones included.
    pub reads: u64,
    /// Writes and changes of length, failed ones included.
    pub writes: u64,
    /// Syncs, failed ones included.
    pub syncs: u64,
    /// Bytes read.
    pub bytes_read: u64,
    /// Bytes written.
    pub bytes_written: u64,
    /// Files that were not opened for lack of a descriptor.
    pub opens_refused: u64,
}

/// What a power loss did to the changes that were not synced, judged by the bytes it left.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct CrashReport {
    /// How many changes were not synced.
    pub unsynced: usize,
    /// Whether some of them left a mark.
    pub kept_some: bool,
    /// Whether something of them is missing.
    pub lost_some: bool,
}

impl CrashReport {
    /// Whether the disk now holds neither what was synced nor what was written, but something between:
    /// the power loss tore or reordered writes, or cut them off half-way.
    #[must_use]
    pub fn is_partial(&self) -> bool {
        self.kept_some && self.lost_some
    }

    fn and(self, other: Self) -> Self {
        Self {
            unsynced: self.unsynced + other.unsynced,
            kept_some: self.kept_some || other.kept_some,
            lost_some: self.lost_some || other.lost_some,
        }
    }
}

/// `EMFILE`, as Linux numbers it.
const EMFILE: i32 = 24;

/// The error of a process that has used up its file descriptors.
pub(crate) fn too_many_open_files() -> io::Error {
    io::Error::from_raw_os_error(EMFILE)
}

/// A cheap-to-clone handle on one host's disk.
#[derive(Clone)]
pub struct SimDisk {
    host: Arc<str>,
    trace: Trace,
    state: Arc<Mutex<State>>,
}

impl fmt::Debug for SimDisk {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "SimDisk({})", self.host)
    }
}

struct State {
    rng: SeededRng,
    files: BTreeMap<String, Entry>,
    /// The incarnation whose handles work.
    incarnation: u64,
    /// Whether that incarnation runs: booted, and not fenced since.
    live: bool,
    handle_last: u64,
    faults: BTreeSet<FaultKind>,
    /// The fault to inject at the n-th further change or sync.
    fuse: Option<(u64, FaultKind)>,
    powerless: bool,
    power_watchers: Vec<Waker>,
    /// Work that was begun, in that order.
    jobs: Vec<Weak<Job>>,
    job_watchers: Vec<Waker>,
    latency: Range<Duration>,
    stats: DiskStats,
}

#[derive(Default)]
struct Entry {
    image: Image,
    /// The (incarnation, handle) that has the file open.
    owner: Option<(u64, u64)>,
}

/// Which incarnation of a host may use the disk; see [`SimDisk::boot`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct DiskIncarnation(u64);

impl SimDisk {
    /// An empty disk of `host`, whose chances are drawn from `seed`.
    #[must_use]
    pub fn new(host: &str, seed: u64, trace: Trace) -> Self {
        Self {
            host: host.into(),
            trace,
            state: Arc::new(Mutex::new(State {
                rng: SeededRng::new(seed),
                files: BTreeMap::new(),
                incarnation: 0,
                live: false,
                handle_last: 0,
                faults: BTreeSet::new(),
                fuse: None,
                powerless: false,
                power_watchers: Vec::new(),
                jobs: Vec::new(),
                job_watchers: Vec::new(),
                latency: LATENCY_DEFAULT,
                stats: DiskStats::default(),
            })),
        }
    }

    /// Switches the disk on for a new incarnation of its host and fences every earlier one.
    #[must_use]
    pub fn boot(&self) -> DiskIncarnation {
        let mut state = self.lock();
        state.incarnation += 1;
        state.live = true;
        state.powerless = false;
        DiskIncarnation(state.incarnation)
    }

    /// From now on no handle works, until [`Self::boot`]. What was written stays in the cache.
    pub fn fence(&self) {
        let mut state = self.lock();
        state.incarnation += 1;
        state.live = false;
        self.trace.record(format_args!("disk fence {}", self.host));
    }

    /// Fences, decides what the power loss leaves of the unsynced changes, and tells.
    pub fn crash(&self, rng: &mut impl Rng, mode: CrashMode) -> CrashReport {
        self.fence();
        let mut state = self.lock();
        let crashes = state.files.values_mut().map(|entry| entry.image.crash(rng, mode));
        let report = crashes.fold(CrashReport::default(), CrashReport::and);
        // The machine goes with its faults: a fuse set for this incarnation must not hit the next one.
        state.fuse = None;
        state.powerless = false;
        self.trace.record(format_args!("disk crash {} {mode:?} {report:?}", self.host));
        report
    }

    /// Flips up to `bits` different bits at random places, in what programs read from the cache as well
    /// as in what a crash leaves; returns how many. Only stored, settled data rots:
    ///
    /// - sectors with unsynced changes are left alone, as a sync would heal them, and so are those that the
    ///   last two syncs wrote: rot takes time, and a storage engine that finds rot in its last transaction
    ///   after a crash can do no better than to take it for torn by that crash;
    /// - sectors of zeros are left alone: a file that grew without being written has a hole there, which is
    ///   stored nowhere. This spares files that say something by their length alone, too.
    ///
    /// All other sectors of all files are as likely as each other, whatever they mean to their owner.
    pub fn rot(&self, rng: &mut impl Rng, bits: u64) -> u64 {
        let mut state = self.lock();
        let mut places = Vec::new();
        for (file, entry) in state.files.values().enumerate() {
            places.extend(entry.image.settled_sectors().map(|sector| (file, sector)));
        }
        let mut flipped = BTreeSet::new();
        for _ in 0..if places.is_empty() { 0 } else { bits } {
            let place = usize::try_from(draw_below(rng, places.len() as u64)).unwrap_or(0);
            let bit = usize::try_from(draw_below(rng, SECTOR_BYTES as u64 * 8)).unwrap_or(0);
            flipped.insert((places[place], bit));
        }
        for ((file, sector), bit) in &flipped {
            if let Some((path, entry)) = state.files.iter_mut().nth(*file) {
                entry.image.flip(*sector, *bit);
                self.trace.record(format_args!("disk rot {}:{path} {sector}/{bit}", self.host));
            }
        }
        flipped.len() as u64
    }

    /// Flips one bit of the data that the last sync of the log wrote, as a cell that was just
    /// written may lose it. Returns whether there was anything to damage.
    pub fn rot_tail(&self, rng: &mut impl Rng) -> bool {
        let mut state = self.lock();
        let logs = state.files.iter_mut().filter(|(path, _)| path.contains("yakt.log."));
        let mut places = Vec::new();
        for (path, entry) in logs {
            places.extend(entry.image.newest_sectors().map(|sector| (path.clone(), sector)));
        }
        if places.is_empty() {
            return false;
        }
        let place = usize::try_from(draw_below(rng, places.len() as u64)).unwrap_or(0);
        let bit = usize::try_from(draw_below(rng, SECTOR_BYTES as u64 * 8)).unwrap_or(0);
        let (path, sector) = &places[place];
        if let Some(entry) = state.files.get_mut(path) {
            entry.image.flip(*sector, bit);
        }
        self.trace.record(format_args!("disk rot {}:{path} {sector}/{bit}", self.host));
        true
    }

    /// Replaces the disk by a new, empty one: files, faults, fuse and set latency are gone. Counters go on.
    ///
    /// # Panics
    ///
    /// If an incarnation uses the disk: [`Self::fence`] or [`Self::crash`] it first.
    pub fn wipe(&self) {
        let mut state = self.lock();
        assert!(!state.live, "{}'s disk is in use: nobody pulls it out", self.host);
        state.files.clear();
        state.faults.clear();
        state.fuse = None;
        state.powerless = false;
        state.latency = LATENCY_DEFAULT;
        self.trace.record(format_args!("disk wipe {}", self.host));
    }

    /// Replaces all files by copies of those on `other`, as programs there read them now.
    ///
    /// # Panics
    ///
    /// If an incarnation uses this disk.
    pub fn copy_from(&self, other: &Self) {
        let files: BTreeMap<_, _> = {
            let state = other.lock();
            let copied = |(path, entry): (&String, &Entry)| {
                (path.clone(), Entry { image: entry.image.copied(), owner: None })
            };
            state.files.iter().map(copied).collect()
        };
        let mut state = self.lock();
        assert!(!state.live, "{}'s disk is in use: its files are not replaced", self.host);
        state.files = files;
        self.trace.record(format_args!("disk copy {} from {}", self.host, other.host));
    }

    /// Opens, or creates, the file at `path` for exclusive use by `incarnation`.
    ///
    /// # Errors
    ///
    /// `WouldBlock` when a live handle holds it; `EMFILE` under [`FaultKind::NoDescriptors`]; an
    /// error when the incarnation is fenced.
    pub fn open(&self, incarnation: DiskIncarnation, path: &str) -> io::Result<SimFile> {
        let mut state = self.lock();
        state.check_live(incarnation)?;
        if state.faults.contains(&FaultKind::NoDescriptors) {
            state.stats.opens_refused += 1;
            self.trace.record(format_args!("disk no descriptor {}:{path}", self.host));
            return Err(too_many_open_files());
        }
        state.handle_last += 1;
        let handle = state.handle_last;
        let entry = state.files.entry(path.to_owned()).or_default();
        if entry.owner.is_some_and(|(owner, _)| owner == incarnation.0) {
            return Err(io::ErrorKind::WouldBlock.into());
        }
        entry.owner = Some((incarnation.0, handle));
        Ok(SimFile::new(self.clone(), path.to_owned(), incarnation, handle))
    }

    /// Turns a fault on until [`Self::clear`].
    pub fn inject(&self, fault: FaultKind) {
        self.trace.record(format_args!("disk fault {} {fault:?}", self.host));
        self.lock().inject(fault);
    }

    /// Turns a fault off.
    pub fn clear(&self, fault: FaultKind) {
        self.trace.record(format_args!("disk clear {} {fault:?}", self.host));
        self.lock().faults.remove(&fault);
    }

    /// Injects `fault` at the `n`-th further write, change of length or sync (1 is the next one), which
    /// is the first to suffer from it. Replaces an earlier such order; a crash cancels it.
    pub fn fail_after(&self, n: u64, fault: FaultKind) {
        self.lock().fuse = Some((n.max(1), fault));
    }

    /// Waits until [`FaultKind::PowerLoss`] strikes.
    pub async fn power_failed(&self) {
        poll_fn(|cx| {
            let mut state = self.lock();
            if state.powerless {
                return Poll::Ready(());
            }
            if !state.power_watchers.iter().any(|waker| waker.will_wake(cx.waker())) {
                state.power_watchers.push(cx.waker().clone());
            }
            Poll::Pending
        })
        .await;
    }

    /// Whether [`FaultKind::PowerLoss`] struck and the host has not been crashed or booted since.
    #[must_use]
    pub fn is_powerless(&self) -> bool {
        self.lock().powerless
    }

    /// Sets how long synchronous work on this disk takes.
    pub fn set_latency(&self, latency: Range<Duration>) {
        self.lock().latency = latency;
    }

    /// How long the next piece of synchronous work takes.
    #[must_use]
    pub fn draw_latency(&self) -> Duration {
        let State { rng, latency, .. } = &mut *self.lock();
        draw_duration(rng, latency)
    }

    /// Counters since the disk was made.
    #[must_use]
    pub fn stats(&self) -> DiskStats {
        self.lock().stats
    }

    /// The names of all files.
    #[must_use]
    pub fn files(&self) -> Vec<String> {
        self.lock().files.keys().cloned().collect()
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl State {
    fn check_live(&self, incarnation: DiskIncarnation) -> io::Result<()> {
        if self.powerless {
            return Err(io::Error::other("the power failed"));
        }
        if self.incarnation != incarnation.0 {
            return Err(io::Error::other("this process is dead: its disk handles are fenced"));
        }
        Ok(())
    }

    fn inject(&mut self, fault: FaultKind) {
        if fault == FaultKind::PowerLoss {
            self.powerless = true;
            // Waking schedules a task and runs nothing: safe under the lock.
            self.power_watchers.drain(..).for_each(Waker::wake);
        } else {
            self.faults.insert(fault);
        }
    }

    /// Counts one change or sync towards [`SimDisk::fail_after`].
    fn burn_fuse(&mut self) -> Option<FaultKind> {
        let (left, fault) = self.fuse.as_mut()?;
        *left -= 1;
        if *left > 0 {
            return None;
        }
        let fault = *fault;
        self.fuse = None;
        self.inject(fault);
        Some(fault)
    }
}
