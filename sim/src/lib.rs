//! The simulated world in which yakt nodes are tested: a seed decides every outcome.
//!
//! A node is generic over [`yakt::env::Env`]; [`SimEnv`] implements it on [madsim], so the node's own
//! code runs unchanged while everything outside it (network, disk, clock, randomness, scheduling) is a
//! model that a scenario can break on purpose. The parts, from the outside in:
//!
//! | module | is | breaks by |
//! |---|---|---|
//! | [`world`] | hosts and the processes on them | kill, power loss, pause |
//! | [`mod@env`] | what one process on one host sees | being fenced off when it dies |
//! | [`net`] | TCP between hosts | partitions, one-way blocks, resets, half-open connections |
//! | [`disk`] | files under a storage engine | lost and torn writes, failing operations, full disks, bit rot |
//! | [`clock`] | one host's wall clock | offset, drift, jumps |
//! | [`runtime`] | openraft's runtime on madsim | scheduling order, drawn from the seed |
//! | [`trace`] | what happened, line by line, and its hash | |
//!
//! Of madsim only the executor, its nodes, time and randomness are used. Its network and file system
//! are kinder than real ones (a cut-off peer refuses at once, death is an instant end of file, nothing
//! unsynced is ever lost), which is why [`net`] and [`disk`] are our own.
//!
//! # Determinism
//!
//! The same seed gives the same run, byte for byte ([`trace::Trace::hash`] says so), provided that
//! **one operating system process runs one simulation**: tokio's `watch` and `select!` draw from
//! generators seeded by process-global counters. Inside a process, run a simulation on a thread of its
//! own, because madsim seeds the thread's hash maps.
//!
//! # Left out
//!
//! One monotonic clock serves all hosts: only wall clocks are wrong. Bandwidth is unlimited. CPU time
//! is free: a node that computes for a second does so in no time.

#[cfg(not(madsim))]
compile_error!(
    "yakt-sim needs `--cfg madsim`, which `.cargo/config.toml` at the workspace root passes to every \
     build (and `rustdocflags` to documentation). A RUSTFLAGS or RUSTDOCFLAGS environment variable \
     replaces that setting: unset it, or add `--cfg madsim` to it. (It is inert in crates that do not depend on madsim.)"
);

#[cfg(madsim)]
pub mod clock;
#[cfg(madsim)]
pub mod disk;
#[cfg(madsim)]
pub mod env;
#[cfg(madsim)]
pub mod harness;
#[cfg(madsim)]
pub mod net;
#[cfg(madsim)]
pub mod report;
#[cfg(madsim)]
pub mod rng;
#[cfg(madsim)]
pub mod runtime;
#[cfg(madsim)]
pub mod trace;
#[cfg(madsim)]
pub mod world;

#[cfg(madsim)]
pub use self::{
    clock::HostClock,
    disk::{CrashMode, CrashReport, FaultKind, SimDisk, SimFile},
    env::SimEnv,
    net::{Network, SimListener, SimStream},
    runtime::{SimRuntime, simulate},
    trace::Trace,
    world::{World, WorldConfig},
};
