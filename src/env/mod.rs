//! The only door to the outside: network, clock, disk, randomness and tasks.
//!
//! A node is generic over one parameter, [`Env`]. Everything that a process could learn from or do to
//! the world goes through it, so the same node runs on real tokio in production ([`TokioEnv`]) and on
//! a deterministic simulator in tests (`yakt_sim::SimEnv`), where a seed decides every outcome.
//!
//! openraft already abstracts tasks, timers, channels and randomness as
//! [`AsyncRuntime`]; an `Env` names the runtime it belongs to and adds what that lacks:
//!
//! | what | how |
//! |---|---|
//! | tasks, timers, channels, randomness | [`Env::Runtime`] |
//! | network | [`Env::listen`], [`Env::connect`] give byte streams; [`Env::lookup`] resolves names |
//! | wall clock | [`Env::wall_clock`] |
//! | disk | [`Env::open_disk`] gives the file under the storage engine |
//! | slow synchronous work | [`Env::blocking`], and [`Env::lane`] for much of it |
//!
//! Nothing else in this crate calls tokio's runtime, `std::time`, `std::fs` or a random number
//! generator; `clippy.toml` makes the compiler say so. (`yakt up` and `yakt status` are programs
//! *about* nodes, not nodes, and use tokio directly.)

use std::fmt::{Debug, Display};
use std::future::Future;
use std::io;
use std::path::Path;
use std::time::Duration;

use openraft::AsyncRuntime;
use tokio::io::{AsyncRead, AsyncWrite};

mod caught;
mod named_file;
mod tokio_env;

pub use caught::{catch_panic, panic_message, panics_are_caught};
pub use named_file::NamedFile;
pub use tokio_env::TokioEnv;

/// A connected, ordered, reliable byte stream: a TCP connection or its simulation.
pub trait Stream: AsyncRead + AsyncWrite + Unpin + Send + Sync + 'static {}

impl<T: AsyncRead + AsyncWrite + Unpin + Send + Sync + 'static> Stream for T {}

/// A bound address that yields connections.
pub trait Listener: Send + Sync + 'static {
    /// What [`accept`](Self::accept) yields.
    type Stream: Stream;

    /// Waits for the next connection. Returns it and its client's address without the port. A
    /// socket for both IP versions writes an IPv4 address as such. A simulated client is named by
    /// its host.
    ///
    /// # Errors
    ///
    /// An error concerns one connection (the peer gave up, too many open files), not the listener:
    /// the caller goes on accepting.
    fn accept(&self) -> impl Future<Output = io::Result<(Self::Stream, String)>> + Send;

    /// The bound address, with the port that was really taken when port 0 was asked for.
    ///
    /// # Errors
    ///
    /// The operating system's, when the socket is gone.
    fn local_addr(&self) -> io::Result<String>;
}

/// The world as one node sees it. See the [module documentation](self).
///
/// Contract, checked against every implementation by `tests/env_contract.rs`:
///
/// - bytes arrive in order and unaltered, or the stream ends with an error or end of file;
/// - nobody listening means that `connect` fails or hangs, never that it succeeds;
/// - what was written before a successful `sync_data` is read back after a crash;
/// - a timer never fires early; the monotonic clock never goes back (the wall clock may);
/// - `blocking` runs its closure exactly once, even when the caller stops waiting;
/// - a lane hands on what came of its work.
pub trait Env: Clone + Debug + Send + Sync + 'static {
    /// Tasks, timers, channels and randomness.
    type Runtime: AsyncRuntime;
    /// What [`listen`](Self::listen) gives.
    type Listener: Listener<Stream = Self::Stream>;
    /// What [`connect`](Self::connect) gives.
    type Stream: Stream;
    /// An address that [`lookup`](Self::lookup) returns. Connecting to it needs no name service.
    type Address: Clone + Debug + Display + PartialEq + Send + Sync + 'static;
    /// The storage engine's file.
    type Disk: redb::StorageBackend;
    /// What [`lane`](Self::lane) gives.
    type Lane: Lane;

    /// Binds `addr`, a `HOST:PORT`.
    fn listen(&self, addr: &str) -> impl Future<Output = io::Result<Self::Listener>> + Send;

    /// Resolves `addr`, a `HOST:PORT`, to one or several addresses. May hang for as long as the
    /// name service does, but never blocks the threads that run tasks or the work of
    /// [`blocking`](Self::blocking). If no name service is needed, as for `127.0.0.1:5010`, the
    /// future is ready at its first poll.
    fn lookup(&self, addr: &str) -> impl Future<Output = io::Result<Vec<Self::Address>>> + Send;

    /// Opens a connection to `addr`. May hang for as long as the network does: callers bring their
    /// own deadline.
    fn connect(
        &self,
        addr: &Self::Address,
    ) -> impl Future<Output = io::Result<Self::Stream>> + Send;

    /// Time since the Unix epoch by this machine's clock, which may be wrong and may jump.
    fn wall_clock(&self) -> Duration;

    /// Opens, or creates, the file `name` in directory `dir` for exclusive use.
    ///
    /// # Errors
    ///
    /// [`io::ErrorKind::WouldBlock`] when another process holds it; else the file system's.
    fn open_disk(&self, dir: &Path, name: &str) -> io::Result<Self::Disk>;

    /// Runs `work`, which may block on the disk, where it does not hold up other tasks.
    ///
    /// # Errors
    ///
    /// When `work` panicked or the process is shutting down, so that its outcome is unknown.
    fn blocking<T: Send + 'static>(
        &self,
        work: impl FnOnce() -> T + Send + 'static,
    ) -> impl Future<Output = io::Result<T>> + Send;

    /// A new [`Lane`]. `name` is what tools that show threads call it.
    ///
    /// # Errors
    ///
    /// When there can be no more threads.
    fn lane(&self, name: &str) -> io::Result<Self::Lane>;
}

/// Where one thing's slow synchronous work is done: a thread of its own, if the environment has threads. Work wakes
/// it at the cost of one system call; a pool's costs several, which is much for whoever writes a few hundred bytes to a disk
/// and waits for it.
///
/// Pieces that are handed in before the last is done may be done in any order.
pub trait Lane: Send + Sync + 'static {
    /// Runs `work`, which may block on the disk, and hands what came of it to `then`, which does not block, where
    /// it ended: nobody has to be woken in between. Neither runs if the process is shutting down.
    fn run<T: Send + 'static>(
        &self,
        work: impl FnOnce() -> T + Send + 'static,
        then: impl FnOnce(io::Result<T>) + Send + 'static,
    );
}

/// The lane of an environment that has no threads: tasks, which do not wait for each other.
#[derive(Clone, Debug)]
pub struct TaskLane<E>(pub E);

impl<E: Env> Lane for TaskLane<E> {
    fn run<T: Send + 'static>(
        &self,
        work: impl FnOnce() -> T + Send + 'static,
        then: impl FnOnce(io::Result<T>) + Send + 'static,
    ) {
        let env = self.0.clone();
        // The task goes on by itself.
        drop(rt::spawn::<E, _>(async move { then(env.blocking(work).await) }));
    }
}

/// Shorthands for the runtime of an [`Env`], so that callers read like plain async code.
pub mod rt {
    use std::future::Future;
    use std::io;
    use std::time::Duration;

    use openraft::AsyncRuntime;
    use rand::Rng;
    use uuid::Uuid;

    use super::Env;

    /// A reading of the environment's monotonic clock.
    pub type Instant<E> = <<E as Env>::Runtime as AsyncRuntime>::Instant;
    /// The handle of a task spawned with [`spawn`].
    pub type JoinHandle<E, T> = <<E as Env>::Runtime as AsyncRuntime>::JoinHandle<T>;

    /// Starts a task; it goes on when the handle is dropped.
    pub fn spawn<E: Env, F>(future: F) -> JoinHandle<E, F::Output>
    where
        F: Future + Send + 'static,
        F::Output: Send + 'static,
    {
        E::Runtime::spawn(future)
    }

    /// Resolves `addr`, a `HOST:PORT`, and opens a connection to the first address that accepts
    /// one.
    ///
    /// For callers that connect once. Callers that connect again and again share a
    /// [`Names`](crate::raft::network::Names), which outlives a failure of the name service.
    ///
    /// # Errors
    ///
    /// The error of the lookup, or of the last address tried.
    pub async fn dial<E: Env>(env: &E, addr: &str) -> io::Result<E::Stream> {
        let mut failed = io::Error::new(io::ErrorKind::NotFound, format!("{addr} has no address"));
        for address in env.lookup(addr).await? {
            match env.connect(&address).await {
                Ok(stream) => return Ok(stream),
                Err(error) => failed = error,
            }
        }
        Err(failed)
    }

    /// Waits for at least `duration`.
    pub async fn sleep<E: Env>(duration: Duration) {
        E::Runtime::sleep(duration).await;
    }

    /// The environment's monotonic clock.
    #[must_use]
    pub fn now<E: Env>() -> Instant<E> {
        <Instant<E> as openraft::Instant>::now()
    }

    /// `future`'s output, or `None` when it took longer than `limit`.
    pub async fn timeout<E: Env, F: Future + Send>(
        limit: Duration,
        future: F,
    ) -> Option<F::Output> {
        E::Runtime::timeout(limit, future).await.ok()
    }

    /// A random (version 4) UUID.
    #[must_use]
    pub fn random_uuid<E: Env>() -> Uuid {
        let bits = u128::from(random::<E>()) << 64 | u128::from(random::<E>());
        uuid::Builder::from_random_bytes(bits.to_be_bytes()).into_uuid()
    }

    /// A UUID that begins with the time, by the wall clock in milliseconds, and is random behind it (version 7). Maps by
    /// such grow at their ends: whoever makes many touches the same memory again and again.
    #[must_use]
    pub fn time_ordered_uuid<E: Env>(env: &E) -> Uuid {
        let millis = u64::try_from(env.wall_clock().as_millis()).unwrap_or(u64::MAX);
        let mut bytes = [0; 10];
        bytes[..8].copy_from_slice(&random::<E>().to_be_bytes());
        bytes[8..].copy_from_slice(&random::<E>().to_be_bytes()[..2]);
        uuid::Builder::from_unix_timestamp_millis(millis, &bytes).into_uuid()
    }

    /// 64 random bits.
    #[must_use]
    pub fn random<E: Env>() -> u64 {
        E::Runtime::thread_rng().next_u64()
    }
}
