//! The real world: tokio's sockets, the system clock, a file.

#![expect(clippy::disallowed_methods, reason = "this is the door that all the others go through")]

use std::fs::{self, OpenOptions};
use std::future::Future;
use std::io;
use std::path::Path;
use std::time::Duration;

use openraft_rt_tokio::TokioRuntime;
use redb::backends::FileBackend;
use tokio::net::{TcpListener, TcpStream};

use super::{Env, Listener};

/// [`Env`] on real tokio. All methods must run inside a tokio runtime.
#[derive(Clone, Copy, Debug, Default)]
pub struct TokioEnv;

impl Listener for TcpListener {
    type Stream = TcpStream;

    async fn accept(&self) -> io::Result<TcpStream> {
        let (stream, _) = TcpListener::accept(self).await?;
        stream.set_nodelay(true)?;
        Ok(stream)
    }

    fn local_addr(&self) -> io::Result<String> {
        TcpListener::local_addr(self).map(|addr| addr.to_string())
    }
}

impl Env for TokioEnv {
    type Runtime = TokioRuntime;
    type Listener = TcpListener;
    type Stream = TcpStream;
    type Disk = FileBackend;

    async fn listen(&self, addr: &str) -> io::Result<TcpListener> {
        TcpListener::bind(addr).await
    }

    async fn connect(&self, addr: &str) -> io::Result<TcpStream> {
        let stream = TcpStream::connect(addr).await?;
        // Raft messages are small and each waits for an answer: Nagle's algorithm would hold them back.
        stream.set_nodelay(true)?;
        Ok(stream)
    }

    fn wall_clock(&self) -> Duration {
        std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH).unwrap_or_default()
    }

    fn open_disk(&self, dir: &Path, name: &str) -> io::Result<FileBackend> {
        fs::create_dir_all(dir)?;
        let file = OpenOptions::new()
            .read(true)
            .write(true)
            .create(true)
            .truncate(false)
            .open(dir.join(name))?;
        match file.try_lock() {
            Ok(()) => {}
            Err(fs::TryLockError::WouldBlock) => return Err(io::ErrorKind::WouldBlock.into()),
            Err(fs::TryLockError::Error(error)) => return Err(error),
        }
        // The new file's name must survive a crash as surely as its bytes.
        fs::File::open(dir)?.sync_all()?;
        FileBackend::new(file).map_err(io::Error::other)
    }

    fn blocking<T: Send + 'static>(
        &self,
        work: impl FnOnce() -> T + Send + 'static,
    ) -> impl Future<Output = io::Result<T>> + Send {
        let task = tokio::task::spawn_blocking(work);
        async move { task.await.map_err(io::Error::other) }
    }
}
