//! [`SimFile`]: a process's handle on one file, as a storage engine's backend.

use std::fmt;
use std::io;

use redb::StorageBackend;

use super::{DiskIncarnation, FaultKind, SimDisk, State};

/// An exclusively open file. Dropping it lets others open the file.
pub struct SimFile {
    disk: SimDisk,
    path: String,
    incarnation: DiskIncarnation,
    handle: u64,
}

impl fmt::Debug for SimFile {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "SimFile({}:{}, {:?})", self.disk.host, self.path, self.incarnation)
    }
}

fn eio(what: &str) -> io::Error {
    io::Error::other(format!("injected {what} error"))
}

fn to_index(offset: u64) -> io::Result<usize> {
    usize::try_from(offset).map_err(|_| io::ErrorKind::FileTooLarge.into())
}

impl SimFile {
    pub(super) fn new(
        disk: SimDisk,
        path: String,
        incarnation: DiskIncarnation,
        handle: u64,
    ) -> Self {
        Self { disk, path, incarnation, handle }
    }

    /// Runs `act` if this handle's process is alive and still holds the file.
    fn with<R>(&self, act: impl FnOnce(&mut State) -> io::Result<R>) -> io::Result<R> {
        let mut state = self.disk.lock();
        state.check_live(self.incarnation)?;
        let owner = state.files.get(&self.path).and_then(|entry| entry.owner);
        if owner != Some((self.incarnation.0, self.handle)) {
            return Err(io::Error::other("this file handle was closed"));
        }
        act(&mut state)
    }

    /// A write or change of length: `change` gets the cached image unless a fault forbids it.
    fn change(
        &self,
        bytes: u64,
        end: u64,
        change: impl FnOnce(&mut super::Image),
    ) -> io::Result<()> {
        self.with(|state| {
            state.stats.writes += 1;
            let blown = state.burn_fuse();
            let image = state.files.get_mut(&self.path).map(|entry| &mut entry.image);
            let image = image.ok_or(io::ErrorKind::NotFound)?;
            if state.faults.contains(&FaultKind::WriteError) {
                return Err(eio("write"));
            }
            let grows = bytes > 0 || end > image.len() as u64;
            if grows && state.faults.contains(&FaultKind::NoSpace) {
                return Err(io::ErrorKind::StorageFull.into());
            }
            change(image);
            if blown == Some(FaultKind::PowerLoss) {
                self.trace_power_loss();
                return Err(io::Error::other("the power failed"));
            }
            state.stats.bytes_written += bytes;
            Ok(())
        })
    }

    fn trace_power_loss(&self) {
        self.disk.trace.record(format_args!("disk power loss {}", self.disk.host));
    }

    fn release(&self) {
        let mut state = self.disk.lock();
        if let Some(entry) = state.files.get_mut(&self.path) {
            entry.owner.take_if(|owner| *owner == (self.incarnation.0, self.handle));
        }
    }
}

impl StorageBackend for SimFile {
    fn len(&self) -> io::Result<u64> {
        self.with(|state| {
            Ok(state.files.get(&self.path).map_or(0, |entry| entry.image.len() as u64))
        })
    }

    fn read(&self, offset: u64, out: &mut [u8]) -> io::Result<()> {
        let offset = to_index(offset)?;
        self.with(|state| {
            state.stats.reads += 1;
            if state.faults.contains(&FaultKind::ReadError) {
                return Err(eio("read"));
            }
            let image = state.files.get(&self.path).map(|entry| &entry.image);
            let bytes = image.and_then(|image| image.read(offset, out.len()));
            out.copy_from_slice(bytes.ok_or(io::ErrorKind::UnexpectedEof)?);
            state.stats.bytes_read += out.len() as u64;
            Ok(())
        })
    }

    fn set_len(&self, len: u64) -> io::Result<()> {
        let index = to_index(len)?;
        self.change(0, len, |image| image.set_len(index))
    }

    fn sync_data(&self) -> io::Result<()> {
        let result = self.with(|state| {
            state.stats.syncs += 1;
            let blown = state.burn_fuse();
            let State { files, faults, rng, .. } = state;
            let image = files.get_mut(&self.path).map(|entry| &mut entry.image);
            let image = image.ok_or(io::ErrorKind::NotFound)?;
            if blown == Some(FaultKind::PowerLoss) {
                self.trace_power_loss();
                return Err(io::Error::other("the power failed"));
            }
            if faults.contains(&FaultKind::SyncError) {
                image.sync_in_vain(rng);
                return Err(eio("sync"));
            }
            image.sync();
            Ok(())
        });
        if result.is_ok() {
            self.disk.trace.record(format_args!("disk sync {}:{}", self.disk.host, self.path));
        }
        result
    }

    fn write(&self, offset: u64, data: &[u8]) -> io::Result<()> {
        let index = to_index(offset)?;
        let bytes = data.len() as u64;
        self.change(bytes, offset.saturating_add(bytes), |image| {
            image.write(index, data);
        })
    }

    fn close(&self) -> io::Result<()> {
        self.release();
        Ok(())
    }
}

impl Drop for SimFile {
    fn drop(&mut self) {
        self.release();
    }
}
