//! The `yakt` command: see [`cli`].

mod cli;

use std::process::ExitCode;

/// What a write allocates on one thread is freed on another, which cost far more with glibc's when a node had
/// several threads. Since it has one, and one for its log, the two were not compared.
#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

fn main() -> ExitCode {
    cli::main()
}
