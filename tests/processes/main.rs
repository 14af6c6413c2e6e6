//! The built binary, as real processes on real sockets and disks.
//!
//! What the simulations cannot show is shown here: that `kill -9`, SIGTERM, command lines, directories and
//! bytes from the network have the effects that they are said to have. Every test is a claim, and none is
//! about speed: whatever is waited for has all the time that a busy machine may need, and no more.
//!
//! | file | claims about |
//! |---|---|
//! | `contract` | what the endpoints answer |
//! | `bad_input` | what they refuse, and that nothing harms a node |
//! | `large` | answers longer than a page |
//! | `connections` | connections that use up descriptors, slots or memory |
//! | `failures` | killed, stopped and restarted nodes |
//! | `members` | removed, replaced and moved nodes; transferred leadership |
//! | `peers` | peers that are gone, and peers that are known by name |
//! | `ensemble` | mistakes in `-e`, and used ports |
//! | `growth` | the original's start lines |
//! | `operation` | signals, removed nodes under `yakt up`, advertised addresses |
//! | `directories` | what a node refuses to start on |
//! | `histories` | directories that were put back to an older copy, and foreign offsets |
//! | `identity` | copied directories, addresses that move, founders that are expected elsewhere |
//! | `machines` | networks that drop packets, and wrong clocks; needs root, so only on request |
//! | `command_line` | `yakt up`, `yakt status`, `yakt bench`, bad flags |
//!
//! Tests run side by side, and several runs of this binary may too: see [`scratch`]. Whatever a test
//! starts ends with it.

#![expect(clippy::disallowed_methods, reason = "about real processes on a real network and disk")]

mod bad_input;
#[allow(dead_code, reason = "examples/failover.rs uses the rest")]
mod client;
mod cluster;
mod command_line;
mod connections;
mod contract;
mod directories;
mod ensemble;
mod failures;
mod growth;
mod histories;
mod identity;
mod large;
mod machines;
mod members;
mod name_server;
mod operation;
mod peers;
mod scratch;
mod shared;
mod writers;

use std::path::Path;

use cluster::Cluster;

/// The binary under test.
fn yakt() -> &'static Path {
    Path::new(env!("CARGO_BIN_EXE_yakt"))
}

/// Where scratch directories are: on the disk that cargo builds on, not in memory.
fn scratch_dir() -> &'static Path {
    Path::new(env!("CARGO_TARGET_TMPDIR"))
}

/// A cluster of five, whole and ready.
fn five() -> Cluster {
    Cluster::start(yakt(), scratch_dir(), 5)
}
