//! The world of a storage engine alone: a disk, and nobody else.

use std::future::Future;
use std::io;
use std::path::Path;
use std::time::Duration;

use openraft_rt_tokio::TokioRuntime;
use tokio::io::DuplexStream;
use yakt::env::{Env, Listener, TaskLane};

use super::disk::{Disk, Handle};

/// Always the same time of day, and one that clients may believe.
pub const WALL_CLOCK: Duration = Duration::from_secs(1_700_000_000);

/// [`Env`] with a disk only.
#[derive(Clone, Debug)]
pub struct DiskEnv {
    /// The disk.
    pub disk: Disk,
    /// The life that [`Disk::boot`] began.
    pub life: u32,
}

/// A listener to which nobody comes.
#[derive(Debug)]
pub struct Silence;

impl Listener for Silence {
    type Stream = DuplexStream;

    async fn accept(&self) -> io::Result<(DuplexStream, String)> {
        std::future::pending().await
    }

    fn local_addr(&self) -> io::Result<String> {
        Err(io::ErrorKind::Unsupported.into())
    }
}

impl Env for DiskEnv {
    type Runtime = TokioRuntime;
    type Listener = Silence;
    type Stream = DuplexStream;
    type Address = String;
    type Disk = Handle;
    type Lane = TaskLane<Self>;

    async fn listen(&self, _: &str) -> io::Result<Silence> {
        Ok(Silence)
    }

    async fn lookup(&self, addr: &str) -> io::Result<Vec<String>> {
        Ok(vec![addr.to_owned()])
    }

    async fn connect(&self, _: &String) -> io::Result<DuplexStream> {
        Err(io::ErrorKind::ConnectionRefused.into())
    }

    fn wall_clock(&self) -> Duration {
        WALL_CLOCK
    }

    fn open_disk(&self, _: &Path, name: &str) -> io::Result<Handle> {
        Ok(self.disk.open(self.life, name))
    }

    /// On the spot: a panic in `work` is one of the target.
    fn blocking<T: Send + 'static>(
        &self,
        work: impl FnOnce() -> T + Send + 'static,
    ) -> impl Future<Output = io::Result<T>> + Send {
        let output = work();
        async move { Ok(output) }
    }

    fn lane(&self, _: &str) -> io::Result<TaskLane<Self>> {
        Ok(TaskLane(self.clone()))
    }
}
