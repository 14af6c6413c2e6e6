//! [`SimEnv`]: the world as one process on one simulated host sees it.

use std::fmt;
use std::future::Future;
use std::io;
use std::path::Path;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use madsim::time::TimeHandle;
use openraft::AsyncRuntime;
use yakt::env::{Env, TaskLane};

use crate::clock::HostClock;
use crate::disk::{DiskIncarnation, SimDisk, SimFile};
use crate::net::{Interface, SimListener, SimStream};
use crate::rng::{SeededRng, draw_duration};
use crate::runtime::{SimRuntime, SimSleep};

/// [`Env`] of one process. Made by [`World::start`](crate::World::start); once that process is dead,
/// everything reached through it is fenced.
#[derive(Clone)]
pub struct SimEnv {
    interface: Interface,
    disk: SimDisk,
    incarnation: DiskIncarnation,
    clock: HostClock,
    rng: Arc<Mutex<SeededRng>>,
}

impl fmt::Debug for SimEnv {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "SimEnv({:?})", self.interface)
    }
}

impl SimEnv {
    pub(crate) fn new(
        interface: Interface,
        disk: SimDisk,
        clock: HostClock,
        rng: SeededRng,
    ) -> Self {
        Self { incarnation: disk.boot(), interface, disk, clock, rng: Arc::new(Mutex::new(rng)) }
    }

    /// The name of the host, which is also its address.
    #[must_use]
    pub fn host(&self) -> &str {
        self.interface.host()
    }
}

impl Env for SimEnv {
    type Runtime = SimRuntime;
    type Listener = SimListener;
    type Stream = SimStream;
    type Address = String;
    type Disk = SimFile;
    type Lane = TaskLane<Self>;

    async fn listen(&self, addr: &str) -> io::Result<SimListener> {
        self.interface.listen(addr)
    }

    /// Returns the name itself, to which the simulated network delivers, unless
    /// [`Network::fail_names`](crate::Network::fail_names) is on for this host.
    async fn lookup(&self, addr: &str) -> io::Result<Vec<String>> {
        self.interface.lookup(addr).await
    }

    async fn connect(&self, addr: &String) -> io::Result<SimStream> {
        self.interface.connect(addr).await
    }

    fn wall_clock(&self) -> Duration {
        self.clock.now()
    }

    fn open_disk(&self, dir: &Path, name: &str) -> io::Result<SimFile> {
        self.disk.open(self.incarnation, &dir.join(name).to_string_lossy())
    }

    /// Runs `work` in a task of its own, in no time, some way into the time that the host's disk takes:
    /// a process may die before the work was done, or after it and before anybody learned of it; and when
    /// the power fails before, some of the work may have been done. A panic in `work` ends the simulation,
    /// like any other.
    fn blocking<T: Send + 'static>(
        &self,
        work: impl FnOnce() -> T + Send + 'static,
    ) -> impl Future<Output = io::Result<T>> + Send {
        let latency = self.disk.draw_latency();
        let before = {
            let mut rng = self.rng.lock().unwrap_or_else(PoisonError::into_inner);
            draw_duration(&mut *rng, &(Duration::ZERO..latency))
        };
        let output = Arc::new(Mutex::new(None));
        let job = self.disk.begin(self.incarnation, {
            let output = Arc::clone(&output);
            move || {
                let done = work();
                *output.lock().unwrap_or_else(PoisonError::into_inner) = Some(done);
            }
        });
        let task = SimRuntime::spawn(async move {
            let time = TimeHandle::current();
            let start = time.now_instant();
            SimSleep::until_exactly(&time, start + before).await;
            job.run();
            SimSleep::until_exactly(&time, start + latency).await;
            output.lock().unwrap_or_else(PoisonError::into_inner).take()
        });
        async move {
            let output = task.await.map_err(io::Error::other)?;
            output.ok_or_else(|| io::Error::other("the power failed in the midst of it"))
        }
    }

    fn lane(&self, _: &str) -> io::Result<TaskLane<Self>> {
        Ok(TaskLane(self.clone()))
    }
}
