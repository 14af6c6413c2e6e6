//! `cargo sim`: simulations from the command line.
//!
//! See `cargo sim --help`. The runs themselves are played by processes that this program starts of itself: it is
//! [`yakt_sim::harness::runner`] with a face.

use std::process::ExitCode;

use yakt_sim::harness::runner::child;

mod cli;

/// A run makes and drops futures and messages without pause: the allocator is a good part of its cost.
#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

fn main() -> ExitCode {
    child().unwrap_or_else(cli::main)
}
