//! The command line.
//!
//! | command | does |
//! |---|---|
//! | `yakt node` | runs one node |
//! | `yakt up` | runs a whole cluster on this machine |
//! | `yakt status` | shows what a node knows about its cluster |
//! | `yakt remove` | removes a node from its cluster |
//! | `yakt transfer` | makes a node the leader |
//! | `yakt bench` | puts load on a cluster and measures it |
//!
//! All but `node` are programs about nodes, on real tokio; only `node` runs one.

#![expect(clippy::disallowed_methods, reason = "never simulated: it runs and asks real processes")]

use std::process::ExitCode;

use clap::{Parser, Subcommand};
use tokio::runtime::Builder;
use yakt::node::RunError;

mod addr;
mod bench;
mod client;
mod limits;
mod log;
mod members;
mod node;
mod print;
mod status;
mod up;

/// The metadata quorum of a Kafka-like cluster.
#[derive(Parser)]
#[command(version, about, propagate_version = true, arg_required_else_help = true)]
struct Cli {
    #[command(subcommand)]
    command: Command,
}

#[derive(Subcommand)]
enum Command {
    /// Run one node of a cluster
    Node(node::Args),
    /// Run a whole cluster on this machine, one process a node
    Up(up::Args),
    /// Show what a node knows about its cluster
    Status(status::Args),
    /// Remove a node from its cluster
    Remove(members::RemoveArgs),
    /// Make a node the leader of its cluster
    Transfer(members::TransferArgs),
    /// Put load on a cluster and measure it
    Bench(bench::Args),
}

/// How nice threads are that read and write snapshots: a tenth of a processor remains for one when all others are busy.
#[cfg(target_os = "linux")]
const SNAPSHOT_NICENESS: i32 = 10;

/// Exit status of a node that was removed from its cluster. A supervisor must not start it again:
/// it would join anew. 1 stands for all other failures, and 2 for wrong flags.
const REMOVED_STATUS: u8 = 3;

/// What went wrong, for a person.
type Failure = Box<dyn std::error::Error + Send + Sync>;

pub(crate) fn main() -> ExitCode {
    let cli = Cli::parse();
    let runtime = match cli.command {
        Command::Bench(_) => Builder::new_multi_thread().enable_all().build(),
        // A write goes through a dozen tasks, each of which has little to do and wakes the next. On one thread that
        // costs nothing; between threads each is a system call and a switch, and those made most of what a write cost.
        // What takes long has threads of its own (`Env::lane`, `Env::blocking`). See README, "Speed".
        _ => Builder::new_current_thread().enable_all().on_thread_start(give_way).build(),
    };
    let runtime = match runtime {
        Ok(runtime) => runtime,
        Err(error) => return failed(&error.into()),
    };
    let result = match cli.command {
        Command::Node(args) => runtime.block_on(node::run(args)),
        Command::Up(args) => runtime.block_on(up::run(args)),
        Command::Status(args) => runtime.block_on(status::run(args)),
        Command::Remove(args) => runtime.block_on(members::remove(args)),
        Command::Transfer(args) => runtime.block_on(members::transfer(args)),
        Command::Bench(args) => runtime.block_on(bench::run(args)),
    };
    // A disk write under way on another thread is finished or not; either way the file survives it.
    runtime.shutdown_background();
    match result {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => failed(&error),
    }
}

/// Lets other threads go first. The threads that a node's runtime starts read and write snapshots: whatever else a node does is
/// waited for.
fn give_way() {
    // Elsewhere it is a matter of the whole process.
    #[cfg(target_os = "linux")]
    if let Err(error) = rustix::process::nice(SNAPSHOT_NICENESS) {
        tracing::debug!(%error, "snapshots compete with everything else");
    }
}

fn failed(error: &Failure) -> ExitCode {
    print::notice(format_args!("yakt: {error}\n"));
    match error.downcast_ref() {
        Some(RunError::Removed(_)) => ExitCode::from(REMOVED_STATUS),
        _ => ExitCode::FAILURE,
    }
}

/// Ends when the process is asked to stop, by Ctrl-C, SIGTERM or SIGHUP.
async fn asked_to_stop() -> std::io::Result<()> {
    use tokio::signal::unix::{SignalKind, signal};
    let mut terminate = signal(SignalKind::terminate())?;
    let mut interrupt = signal(SignalKind::interrupt())?;
    let hangup = async {
        if ignores_hangup() {
            return std::future::pending().await;
        }
        signal(SignalKind::hangup())?.recv().await;
        std::io::Result::Ok(())
    };
    tokio::select! {
        _ = terminate.recv() => {}
        _ = interrupt.recv() => {}
        listened = hangup => listened?,
    }
    Ok(())
}

/// Whether SIGHUP was ignored when this process started, as `nohup` arranges. A handler would undo
/// that.
fn ignores_hangup() -> bool {
    // Signal N is bit N - 1 of the hexadecimal mask, and SIGHUP is 1. Other systems have no such
    // file.
    let status = std::fs::read_to_string("/proc/self/status").unwrap_or_default();
    let mask = status.lines().find_map(|line| line.strip_prefix("SigIgn:"));
    mask.and_then(|mask| u64::from_str_radix(mask.trim(), 16).ok())
        .is_some_and(|mask| mask & 1 == 1)
}
