//! What the examples share with the tests of real processes, and the program that they run.

#[allow(dead_code, reason = "the tests use the rest")]
#[path = "../../tests/processes/client.rs"]
pub(crate) mod client;
#[allow(dead_code, reason = "the tests use the rest")]
#[path = "../../tests/processes/cluster.rs"]
pub(crate) mod cluster;
#[allow(dead_code, reason = "the tests use the rest")]
#[path = "../../tests/processes/scratch.rs"]
mod scratch;

use std::path::PathBuf;

/// What both examples are told.
#[derive(clap::Args)]
pub(crate) struct Place {
    /// The yakt binary [default: the one that was built beside this program]
    #[arg(long, value_name = "PATH")]
    yakt: Option<PathBuf>,
    /// Where the nodes' data is while this runs [default: the system's directory for such things]
    #[arg(long, value_name = "DIR")]
    data: Option<PathBuf>,
}

impl Place {
    /// The yakt binary and the directory, or why there is no binary.
    pub(crate) fn find(&self) -> Result<(PathBuf, PathBuf), &'static str> {
        let yakt = self.yakt.clone().or_else(sibling).ok_or(
            "there is no yakt binary beside this program: run `cargo build --release`, or give --yakt PATH",
        )?;
        Ok((yakt, self.data.clone().unwrap_or_else(std::env::temp_dir)))
    }
}

/// `target/PROFILE/yakt`, as seen from `target/PROFILE/examples/NAME`.
fn sibling() -> Option<PathBuf> {
    let profile = std::env::current_exe().ok()?.parent()?.parent()?.join("yakt");
    profile.is_file().then_some(profile)
}
