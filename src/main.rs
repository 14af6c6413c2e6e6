//! The `yakt` command: see [`cli`].

mod cli;

use std::process::ExitCode;

/// A write allocates on several threads and is freed on others, which costs far more with glibc's.
#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

fn main() -> ExitCode {
    cli::main()
}
