//! `cargo sim`: simulations from the command line.
//!
//! See `cargo sim --help`. The runs themselves are played by processes that this program starts of itself: it is
//! [`yakt_sim::harness::runner`] with a face.

use std::process::ExitCode;

use yakt_sim::harness::runner::child;

mod cli;

fn main() -> ExitCode {
    child().unwrap_or_else(cli::main)
}
