//! [`World`]: the hosts of a simulation, the processes on them, and their ends.
//!
//! A host has a disk, a clock and a place on the network, which all outlive its processes. At most one
//! process runs on a host at a time; starting it again is a new incarnation: a new madsim node, with new
//! handles on disk and network, because madsim's own restart leaves old handles usable.
//!
//! The ways a process can end:
//!
//! | | page cache | peers learn |
//! |---|---|---|
//! | its main function returns | stays | at once, from its kernel |
//! | [`World::kill`], as by `kill -9` | stays | at once, from its kernel |
//! | [`World::crash`], as by a power cut | unsynced writes lost or torn | when the host is back |
//!
//! In all three the process's handles are fenced **before** its tasks are dropped. The order matters:
//!
//! 1. madsim kills a node by dropping its futures, one by one, some time after the call;
//! 2. their `Drop` code runs, and would close a database cleanly and say goodbye to peers;
//! 3. so the crash under test would never have happened.

use std::collections::BTreeMap;
use std::fmt;
use std::future::Future;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use madsim::runtime::Handle;
use madsim::task::{JoinHandle, NodeId};
use rand::Rng;

use crate::clock::HostClock;
use crate::disk::{CrashMode, CrashReport, SimDisk};
use crate::env::SimEnv;
use crate::net::{HostName, NetConfig, Network};
use crate::rng::{SeededRng, SimRng};
use crate::trace::Trace;

#[cfg(test)]
mod tests;

/// What a world is like at the start.
#[derive(Clone, Debug, Default)]
pub struct WorldConfig {
    /// The network when nothing is broken.
    pub net: NetConfig,
    /// Whether the trace keeps its lines, not only their hash.
    pub trace_lines: bool,
}

/// A cheap-to-clone handle on everything outside the nodes of one simulation.
#[derive(Clone)]
pub struct World {
    handle: Handle,
    net: Network,
    trace: Trace,
    state: Arc<Mutex<State>>,
}

struct State {
    rng: SeededRng,
    hosts: BTreeMap<HostName, Host>,
}

struct Host {
    disk: SimDisk,
    clock: HostClock,
    process: Option<Process>,
    starts: u64,
}

#[derive(Clone, Copy)]
struct Process {
    node: NodeId,
    paused: bool,
}

impl fmt::Debug for World {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("World").field("trace", &self.trace).finish_non_exhaustive()
    }
}

impl World {
    /// A world without hosts. Must be called inside a simulation, whose seed it draws from.
    #[must_use]
    pub fn new(config: WorldConfig) -> Self {
        let trace = Trace::new();
        if config.trace_lines {
            trace.keep_lines();
        }
        Self {
            handle: Handle::current(),
            net: Network::new(config.net, trace.clone()),
            trace,
            state: Arc::new(Mutex::new(State {
                rng: SeededRng::fork(&mut SimRng),
                hosts: BTreeMap::new(),
            })),
        }
    }

    /// The network, to break and heal.
    #[must_use]
    pub fn net(&self) -> &Network {
        &self.net
    }

    /// The trace of everything that happened.
    #[must_use]
    pub fn trace(&self) -> &Trace {
        &self.trace
    }

    /// `host`'s disk, which survives its processes. An unknown host is added, switched off.
    #[must_use]
    pub fn disk(&self, host: &str) -> SimDisk {
        self.with_host(host, |host, _| host.disk.clone())
    }

    /// `host`'s wall clock. An unknown host is added, switched off.
    #[must_use]
    pub fn clock(&self, host: &str) -> HostClock {
        self.with_host(host, |host, _| host.clock.clone())
    }

    /// Whether a process runs on `host`.
    #[must_use]
    pub fn is_running(&self, host: &str) -> bool {
        self.lock().hosts.get(host).is_some_and(|host| host.process.is_some())
    }

    /// The host of the process whose task runs now. `None` outside of processes.
    pub(crate) fn current_host(&self) -> Option<HostName> {
        let node = madsim::plugin::node();
        // A line may be logged in the middle of a change of the world, while the lock is held.
        let state = self.state.try_lock().ok()?;
        let of = |host: &Host| host.process.is_some_and(|process| process.node == node);
        state.hosts.iter().find(|(_, host)| of(host)).map(|(name, _)| name.clone())
    }

    /// Starts a process on `host` (switching the host on if need be): `main` gets its environment. The
    /// handle yields what `main` returned, or an error when the process was killed first. When `main`
    /// returns, the process ends, and with it all tasks it spawned.
    ///
    /// # Panics
    ///
    /// If a process already runs on `host`.
    pub fn start<F>(
        &self,
        host: &str,
        main: impl FnOnce(SimEnv) -> F + Send + 'static,
    ) -> JoinHandle<F::Output>
    where
        F: Future + Send + 'static,
        F::Output: Send + 'static,
    {
        let name: HostName = host.into();
        let (env, node, start) = self.with_host(host, |host, rng| {
            assert!(host.process.is_none(), "a process already runs on {name}");
            host.starts += 1;
            let interface = self.net.boot(&name);
            let env =
                SimEnv::new(interface, host.disk.clone(), host.clock.clone(), SeededRng::fork(rng));
            let node = self.handle.create_node().name(format!("{name}#{}", host.starts)).build();
            host.process = Some(Process { node: node.id(), paused: false });
            (env, node, host.starts)
        });
        self.trace.record(format_args!("start {name}#{start}"));
        let world = self.clone();
        node.spawn(async move {
            let output = main(env).await;
            world.trace.record(format_args!("exit {name}#{start}"));
            world.end_process(&name);
            output
        })
    }

    /// `kill -9`: the process on `host` is gone; its kernel stays and closes its connections. Nothing
    /// happens when none runs.
    pub fn kill(&self, host: &str) {
        self.trace.record(format_args!("kill {host}"));
        self.end_process(&host.into());
    }

    /// The power of `host` fails, and what was not synced is lost as `mode` says. The host stays dark
    /// until [`Self::start`].
    #[expect(clippy::must_use_candidate, reason = "it is called for what it does")]
    pub fn crash(&self, host: &str, mode: CrashMode) -> CrashReport {
        self.trace.record(format_args!("crash {host}"));
        let (disk, process, mut rng) = self.with_host(host, |host, rng| {
            (host.disk.clone(), host.process.take(), SeededRng::fork(rng))
        });
        disk.interrupt(&mut rng);
        let report = disk.crash(&mut rng, mode);
        self.net.crash_host(host);
        self.drop_tasks(process);
        report
    }

    /// Stops the process on `host` where it is, as `SIGSTOP` or a long garbage collection would. Its
    /// kernel goes on: connections to it succeed, and what is sent to it is buffered.
    pub fn pause(&self, host: &str) {
        self.trace.record(format_args!("pause {host}"));
        self.set_paused(host, true);
    }

    /// Undoes [`Self::pause`].
    pub fn resume(&self, host: &str) {
        self.trace.record(format_args!("resume {host}"));
        self.set_paused(host, false);
    }

    /// A number drawn from the seed, for a scenario's own choices.
    #[must_use]
    pub fn draw(&self) -> u64 {
        self.lock().rng.next_u64()
    }

    /// A generator drawn from the seed, for a scenario's own choices.
    #[must_use]
    pub fn fork_rng(&self) -> SeededRng {
        SeededRng::fork(&mut self.lock().rng)
    }

    fn set_paused(&self, host: &str, paused: bool) {
        let process = self.with_host(host, |host, _| {
            let process = host.process.as_mut()?;
            process.paused = paused;
            Some(process.node)
        });
        match (process, paused) {
            (Some(node), true) => self.handle.pause(node),
            (Some(node), false) => self.handle.resume(node),
            (None, _) => {}
        }
    }

    fn end_process(&self, name: &HostName) {
        let process = self.with_host(name, |host, _| {
            if host.process.is_some() {
                host.disk.fence();
            }
            host.process.take()
        });
        if process.is_some() {
            self.net.kill_process(name);
        }
        self.drop_tasks(process);
    }

    fn drop_tasks(&self, process: Option<Process>) {
        let Some(process) = process else { return };
        if process.paused {
            // Killing a paused node drops its tasks inside madsim's own lock and in the supervisor's
            // context, where `Drop` code may deadlock or spawn on the wrong node.
            self.handle.resume(process.node);
        }
        self.handle.kill(process.node);
    }

    fn with_host<R>(&self, name: &str, act: impl FnOnce(&mut Host, &mut SeededRng) -> R) -> R {
        let State { rng, hosts } = &mut *self.lock();
        if !hosts.contains_key(name) {
            let host = Host {
                disk: SimDisk::new(name, rng.next_u64(), self.trace.clone()),
                clock: HostClock::new(),
                process: None,
                starts: 0,
            };
            hosts.insert(name.into(), host);
        }
        let host = hosts.get_mut(name).expect("inserted above");
        act(host, rng)
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
