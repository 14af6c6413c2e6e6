//! The real world: tokio's sockets, the system clock, a file.

#![expect(clippy::disallowed_methods, reason = "this is the door that all the others go through")]

use std::fs::{self, OpenOptions};
use std::future::Future;
use std::io;
use std::net::{SocketAddr, ToSocketAddrs};
use std::path::Path;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::mpsc;
use std::thread;
use std::time::Duration;

use openraft_rt_tokio::TokioRuntime;
use socket2::{SockRef, TcpKeepalive};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::oneshot;

use super::named_file::name;
use super::{Env, Lane, Listener, NamedFile, catch_panic};

/// After how long a silent peer is asked whether it is still there, and how often then. A peer that lost power says nothing
/// when it goes; whoever only listens to it would keep the connection for ever.
const KEEPALIVE: TcpKeepalive =
    TcpKeepalive::new().with_time(Duration::from_secs(30)).with_interval(Duration::from_secs(10));

/// How long a peer may leave unacknowledged what it is sent, where that can be set: nobody asks it anything meanwhile. As long
/// as Linux asks a silent one.
#[cfg(target_os = "linux")]
const UNACKNOWLEDGED_LIMIT: Duration = Duration::from_mins(2);

/// Largest number of name lookups that one process runs at the same time. Each occupies a thread
/// until the name service answers or the system gives up, by default after 10 to 30 s. [`Names`]
/// keeps at most one per peer under way; a cluster has far fewer members.
///
/// [`Names`]: crate::raft::network::Names
const LOOKUPS_MAX: usize = 32;

/// The number of lookups under way.
static LOOKUPS: AtomicUsize = AtomicUsize::new(0);

/// A place among the [`LOOKUPS_MAX`], given back when this is dropped.
struct LookupPermit;

impl LookupPermit {
    fn acquire() -> io::Result<Self> {
        let more = |under_way: usize| (under_way < LOOKUPS_MAX).then_some(under_way + 1);
        let counted = LOOKUPS.fetch_update(Ordering::Relaxed, Ordering::Relaxed, more);
        counted.map(|_| Self).map_err(|under_way| {
            let message = format!("{under_way} name lookups are under way, the most allowed");
            io::Error::new(io::ErrorKind::ResourceBusy, message)
        })
    }
}

impl Drop for LookupPermit {
    fn drop(&mut self) {
        LOOKUPS.fetch_sub(1, Ordering::Relaxed);
    }
}

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

/// Creates `dir` and its missing parent directories. They survive a power loss. An error names the
/// directory.
fn create_dir(dir: &Path) -> io::Result<()> {
    if dir.is_dir() {
        return Ok(());
    }
    let parent = dir.parent().filter(|parent| !parent.as_os_str().is_empty());
    if let Some(parent) = parent {
        create_dir(parent)?;
    }
    match fs::create_dir(dir) {
        Err(error) if error.kind() != io::ErrorKind::AlreadyExists => return Err(name(dir, error)),
        _ => {}
    }
    sync_dir(parent.unwrap_or(Path::new(".")))
}

/// Makes the names of the files in `dir` survive a power loss. An error names the directory.
fn sync_dir(dir: &Path) -> io::Result<()> {
    fs::File::open(dir).and_then(|dir| dir.sync_all()).map_err(|error| name(dir, error))
}

impl Env for TokioEnv {
    type Runtime = TokioRuntime;
    type Listener = TcpListener;
    type Stream = TcpStream;
    type Address = SocketAddr;
    type Disk = NamedFile;
    type Lane = ThreadLane;

    async fn listen(&self, addr: &str) -> io::Result<TcpListener> {
        TcpListener::bind(&self.lookup(addr).await?[..]).await
    }

    /// Runs on a thread of its own: the system's resolver blocks, for 10 s and more when the name
    /// service does not answer. In tokio's blocking pool such threads would pile up beside those
    /// that serve the disk.
    async fn lookup(&self, addr: &str) -> io::Result<Vec<SocketAddr>> {
        if let Ok(literal) = addr.parse() {
            return Ok(vec![literal]);
        }
        let permit = LookupPermit::acquire()?;
        let (answer, answered) = oneshot::channel();
        let addr = addr.to_owned();
        let work = move || {
            let resolved = addr.to_socket_addrs().map(Vec::from_iter);
            // The caller may have given up.
            drop(answer.send(resolved));
            drop(permit);
        };
        thread::Builder::new().name("yakt-lookup".to_owned()).spawn(work)?;
        answered.await.map_err(io::Error::other)?
    }

    async fn connect(&self, addr: &SocketAddr) -> io::Result<TcpStream> {
        let stream = TcpStream::connect(addr).await?;
        prepare(&stream)?;
        Ok(stream)
    }

    fn wall_clock(&self) -> Duration {
        std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH).unwrap_or_default()
    }

    fn open_disk(&self, dir: &Path, file_name: &str) -> io::Result<NamedFile> {
        create_dir(dir)?;
        let path = dir.join(file_name);
        let mut options = OpenOptions::new();
        options.read(true).write(true).create(true).truncate(false);
        let file = options.open(&path).map_err(|error| name(&path, error))?;
        match file.try_lock() {
            Ok(()) => {}
            Err(fs::TryLockError::WouldBlock) => {
                return Err(name(&path, io::ErrorKind::WouldBlock.into()));
            }
            Err(fs::TryLockError::Error(error)) => return Err(name(&path, error)),
        }
        // The new file's name must survive a crash as surely as its bytes.
        sync_dir(dir)?;
        NamedFile::new(path, file)
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
            // The panic is an error of the work, as it is for tokio's tasks: no code uses the data
            // that it left half changed.
            let outcome = catch_panic(work);
            then(outcome.map_err(|panic| io::Error::other(format!("the work panicked: {panic}"))));
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
        let connecting = super::super::rt::dial(&TokioEnv, &addr);
        let (accepted, connected) = tokio::join!(accepting, connecting);
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

    #[tokio::test]
    async fn an_ip_address_needs_no_lookup_and_a_name_gets_one() {
        use futures_util::FutureExt;
        for literal in ["127.0.0.1:5010", "[::1]:5010"] {
            let resolved =
                TokioEnv.lookup(literal).now_or_never().expect("ready when polled first");
            assert_eq!(resolved.expect("an address")[0].to_string(), literal);
        }
        let resolved = TokioEnv.lookup("localhost:5010").await.expect("every machine has it");
        assert!(resolved.iter().all(|addr| addr.ip().is_loopback() && addr.port() == 5010));
        for bad in ["localhost", "localhost:x", "localhost:65536", ":", ""] {
            assert!(TokioEnv.lookup(bad).await.is_err(), "{bad:?}");
        }
    }

    #[test]
    fn the_lookups_under_way_are_bounded() {
        // Other tests of this process may hold some permits.
        let held: Vec<_> = (0..=LOOKUPS_MAX).map_while(|_| LookupPermit::acquire().ok()).collect();
        assert!(held.len() <= LOOKUPS_MAX);
        let error = LookupPermit::acquire().err().expect("no more");
        assert_eq!(error.kind(), io::ErrorKind::ResourceBusy);
        drop(held);
        drop(LookupPermit::acquire().expect("room again"));
    }
}
