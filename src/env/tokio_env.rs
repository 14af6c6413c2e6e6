//! The real world: tokio's sockets, the system clock, a file.

#![expect(clippy::disallowed_methods, reason = "this is the door that all the others go through")]

use std::fs::{self, OpenOptions};
use std::future::Future;
use std::io;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::Path;
use std::sync::mpsc;
use std::thread;
use std::time::Duration;

use openraft_rt_tokio::TokioRuntime;
use redb::backends::FileBackend;
use socket2::{SockRef, TcpKeepalive};
use tokio::net::{TcpListener, TcpStream};

use super::{Env, Lane, Listener};

/// After how long a silent peer is asked whether it is still there, and how often then. A peer that lost power says nothing
/// when it goes; whoever only listens to it would keep the connection for ever.
const KEEPALIVE: TcpKeepalive =
    TcpKeepalive::new().with_time(Duration::from_secs(30)).with_interval(Duration::from_secs(10));

/// How long a peer may leave unacknowledged what it is sent, where that can be set: nobody asks it anything meanwhile. As long
/// as Linux asks a silent one.
#[cfg(target_os = "linux")]
const UNACKNOWLEDGED_LIMIT: Duration = Duration::from_mins(2);

fn prepare(stream: &TcpStream) -> io::Result<()> {
    // Messages are small and each waits for an answer: Nagle's algorithm would hold them back.
    stream.set_nodelay(true)?;
    let socket = SockRef::from(stream);
    #[cfg(target_os = "linux")]
    socket.set_tcp_user_timeout(Some(UNACKNOWLEDGED_LIMIT))?;
    socket.set_tcp_keepalive(&KEEPALIVE)
}

/// [`Env`] on real tokio. All methods must run inside a tokio runtime.
#[derive(Clone, Copy, Debug, Default)]
pub struct TokioEnv;

impl Listener for TcpListener {
    type Stream = TcpStream;

    async fn accept(&self) -> io::Result<(TcpStream, String)> {
        let (stream, addr) = TcpListener::accept(self).await?;
        prepare(&stream)?;
        Ok((stream, addr.ip().to_canonical().to_string()))
    }

    fn local_addr(&self) -> io::Result<String> {
        TcpListener::local_addr(self).map(|addr| addr.to_string())
    }
}

/// Creates `dir` and the directories that it is in, as far as they are not there. They survive a power loss.
fn create_dir(dir: &Path) -> io::Result<()> {
    if dir.is_dir() {
        return Ok(());
    }
    let parent = dir.parent().filter(|parent| !parent.as_os_str().is_empty());
    if let Some(parent) = parent {
        create_dir(parent)?;
    }
    match fs::create_dir(dir) {
        Err(error) if error.kind() != io::ErrorKind::AlreadyExists => return Err(error),
        _ => {}
    }
    fs::File::open(parent.unwrap_or(Path::new(".")))?.sync_all()
}

impl Env for TokioEnv {
    type Runtime = TokioRuntime;
    type Listener = TcpListener;
    type Stream = TcpStream;
    type Disk = FileBackend;
    type Lane = ThreadLane;

    async fn listen(&self, addr: &str) -> io::Result<TcpListener> {
        TcpListener::bind(addr).await
    }

    async fn connect(&self, addr: &str) -> io::Result<TcpStream> {
        let stream = TcpStream::connect(addr).await?;
        prepare(&stream)?;
        Ok(stream)
    }

    fn wall_clock(&self) -> Duration {
        std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH).unwrap_or_default()
    }

    fn open_disk(&self, dir: &Path, name: &str) -> io::Result<FileBackend> {
        create_dir(dir)?;
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

    fn lane(&self, name: &str) -> io::Result<ThreadLane> {
        let (jobs, queue) = mpsc::channel::<Job>();
        let work = move || queue.into_iter().for_each(|job| job());
        thread::Builder::new().name(name.to_owned()).spawn(work)?;
        Ok(ThreadLane(jobs))
    }
}

type Job = Box<dyn FnOnce() + Send>;

/// A [`Lane`] that is a thread. It ends with this, or after what it has to do then.
#[derive(Debug)]
pub struct ThreadLane(mpsc::Sender<Job>);

impl Lane for ThreadLane {
    fn run<T: Send + 'static>(
        &self,
        work: impl FnOnce() -> T + Send + 'static,
        then: impl FnOnce(io::Result<T>) + Send + 'static,
    ) {
        let job = move || {
            // As tokio takes it when somebody waits: what a panic left half-done, nobody sees.
            let outcome = catch_unwind(AssertUnwindSafe(work));
            then(outcome.map_err(|_| io::Error::other("the work panicked")));
        };
        // The thread goes on as long as this does.
        drop(self.0.send(Box::new(job)));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn both_ends_ask_whether_the_other_is_there() {
        let listener = TokioEnv.listen("127.0.0.1:0").await.expect("a port");
        let addr = Listener::local_addr(&listener).expect("an address");
        let accepting = Listener::accept(&listener);
        let (accepted, connected) = tokio::join!(accepting, TokioEnv.connect(&addr));
        for stream in [accepted.expect("a client").0, connected.expect("a server")] {
            let socket = SockRef::from(&stream);
            assert!(socket.tcp_nodelay().expect("a socket"));
            assert!(socket.keepalive().expect("a socket"));
            #[cfg(target_os = "linux")]
            {
                let time = socket.tcp_keepalive_time().expect("a socket");
                let interval = socket.tcp_keepalive_interval().expect("a socket");
                let retries = socket.tcp_keepalive_retries().expect("a socket");
                assert_eq!(time + retries * interval, UNACKNOWLEDGED_LIMIT);
                let limit = socket.tcp_user_timeout().expect("a socket");
                assert_eq!(limit, Some(UNACKNOWLEDGED_LIMIT));
            }
        }
    }
}
