//! A file whose errors name it.

use std::fs::File;
use std::io;
use std::path::{Path, PathBuf};

use redb::StorageBackend;
use redb::backends::FileBackend;

/// A file in a data directory. Every error names the operation and the path: "No space left on
/// device" alone does not tell an operator which file system is full.
///
/// It does not pass on redb's range locks: [`TokioEnv`](super::TokioEnv) locks the whole file.
#[derive(Debug)]
pub struct NamedFile {
    file: FileBackend,
    path: PathBuf,
}

impl NamedFile {
    pub(super) fn new(path: PathBuf, file: File) -> io::Result<Self> {
        match FileBackend::new(file) {
            Ok(file) => Ok(Self { file, path }),
            Err(error) => Err(name(&path, io::Error::other(error))),
        }
    }

    fn named(&self, verb: &'static str) -> impl FnOnce(io::Error) -> io::Error + '_ {
        move |error| {
            let path = self.path.display();
            io::Error::new(error.kind(), format!("cannot {verb} {path}: {error}"))
        }
    }
}

/// Adds the path to an error, and keeps its kind.
#[expect(clippy::needless_pass_by_value, reason = "for `map_err`")]
pub(super) fn name(path: &Path, error: io::Error) -> io::Error {
    io::Error::new(error.kind(), format!("{}: {error}", path.display()))
}

impl StorageBackend for NamedFile {
    fn len(&self) -> io::Result<u64> {
        self.file.len().map_err(self.named("measure"))
    }

    fn read(&self, offset: u64, out: &mut [u8]) -> io::Result<()> {
        self.file.read(offset, out).map_err(self.named("read"))
    }

    fn set_len(&self, len: u64) -> io::Result<()> {
        self.file.set_len(len).map_err(self.named("resize"))
    }

    fn sync_data(&self) -> io::Result<()> {
        self.file.sync_data().map_err(self.named("sync"))
    }

    fn write(&self, offset: u64, data: &[u8]) -> io::Result<()> {
        self.file.write(offset, data).map_err(self.named("write"))
    }

    fn close(&self) -> io::Result<()> {
        self.file.close().map_err(self.named("close"))
    }
}
