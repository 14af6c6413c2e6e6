//! A copy of the workspace, to be patched, built and run.
//!
//! - It is made once and then kept up to date: a file whose contents are right is not touched, and one that is
//!   written gets a new modification time. cargo goes by that, so it builds again what changed and nothing else.
//! - Whatever state it was left in, [`restore`](Scratch::restore) makes it the workspace again.
//! - It is built with a target directory of its own, which stays.

use std::collections::BTreeSet;
use std::env;
use std::fs;
use std::io::{self, Write};
use std::path::{Path, PathBuf};
use std::process::{Command, Output, Stdio};
use std::time::Instant;

use yakt_sim::trace::fnv1a;

use super::catalogue::Bug;
use super::results::{Sweep, Trial};
use super::{Failure, at};

/// What goes into the program that plays: nothing else makes a result outdated.
const SOURCES: &[&str] = &[
    ".cargo/",
    "Cargo.lock",
    "Cargo.toml",
    "rust-toolchain",
    "sim/Cargo.toml",
    "sim/src/",
    "src/",
];

/// Of these, what only judges results.
const JUDGES: &str = "sim/src/cli/bugs";

/// Lines of a failed build that are shown.
const TAIL_LINES: usize = 30;

#[derive(Debug)]
pub(super) struct Scratch {
    root: PathBuf,
    tree: PathBuf,
    /// Relative to the workspace, and sorted.
    files: Vec<PathBuf>,
    digest: u64,
}

/// git, without what a hook or a caller may have told it about another repository.
pub(super) fn git(directory: &Path) -> Command {
    let mut command = Command::new("git");
    command.current_dir(directory).stdin(Stdio::null());
    for variable in ["GIT_DIR", "GIT_WORK_TREE", "GIT_INDEX_FILE", "GIT_PREFIX"] {
        command.env_remove(variable);
    }
    command
}

fn text(bytes: &[u8]) -> String {
    String::from_utf8_lossy(bytes).trim().to_owned()
}

fn tail(text: &str) -> String {
    let lines: Vec<_> = text.lines().collect();
    lines[lines.len().saturating_sub(TAIL_LINES)..].join("\n")
}

impl Scratch {
    /// The copy of the workspace `root` in `tree`. Nothing is copied yet.
    pub(super) fn new(root: &Path, tree: &Path) -> Result<Self, Failure> {
        let files = tracked(root)?;
        let mut sum = Vec::new();
        for file in &files {
            let name = file.to_string_lossy();
            if SOURCES.iter().any(|source| name.starts_with(source)) && !name.starts_with(JUDGES) {
                let path = root.join(file);
                sum.extend_from_slice(name.as_bytes());
                sum.extend_from_slice(&fs::read(&path).map_err(|error| at(&path, &error))?);
            }
        }
        let digest = fnv1a(&sum);
        Ok(Self { root: root.to_owned(), tree: tree.to_owned(), files, digest })
    }

    /// What identifies the code without a bug.
    pub(super) fn digest(&self) -> u64 {
        self.digest
    }

    /// Makes the copy equal to the workspace.
    pub(super) fn restore(&self) -> Result<(), Failure> {
        for file in &self.files {
            let (from, to) = (self.root.join(file), self.tree.join(file));
            let wanted = fs::read(&from).map_err(|error| at(&from, &error))?;
            if fs::read(&to).is_ok_and(|present| present == wanted) {
                continue;
            }
            if let Some(parent) = to.parent() {
                fs::create_dir_all(parent).map_err(|error| at(parent, &error))?;
            }
            fs::write(&to, wanted).map_err(|error| at(&to, &error))?;
        }
        let wanted: BTreeSet<_> = self.files.iter().map(|file| self.tree.join(file)).collect();
        for source in ["src", "sim"] {
            remove_others(&self.tree.join(source), &wanted)?;
        }
        Ok(())
    }

    /// Applies the bug's patch, if there is one, to a restored copy.
    pub(super) fn plant(&self, bug: &Bug) -> Result<(), Failure> {
        let Some(patch) = &bug.patch else { return Ok(()) };
        let mut apply = git(&self.tree);
        // The copy is inside of a repository that ignores it: git would silently apply nothing there.
        if let Some(parent) = self.tree.parent() {
            apply.env("GIT_CEILING_DIRECTORIES", parent);
        }
        apply
            .args(["apply", "-"])
            .stdin(Stdio::piped())
            .stdout(Stdio::null())
            .stderr(Stdio::piped());
        let mut apply = apply.spawn().map_err(|error| format!("git: {error}"))?;
        if let Some(mut input) = apply.stdin.take() {
            input.write_all(patch.as_bytes())?;
        }
        let output = apply.wait_with_output()?;
        if !output.status.success() {
            return Err(format!("the patch does not apply: {}", text(&output.stderr)).into());
        }
        let changed = |file: &PathBuf| {
            Some(fs::read(self.root.join(file)).ok()? != fs::read(self.tree.join(file)).ok()?)
        };
        if !self.files.iter().any(|file| changed(file) == Some(true)) {
            return Err("the patch changes nothing".into());
        }
        Ok(())
    }

    /// Builds the simulator in the copy, in the development profile: optimised enough, and built in half a minute
    /// where a release takes two. Most bugs are caught in less time than that.
    pub(super) fn build(&self) -> Result<(), Failure> {
        let cargo = env::var_os("CARGO").unwrap_or_else(|| "cargo".into());
        let mut build = Command::new(cargo);
        build
            .current_dir(&self.tree)
            .args(["build", "--quiet", "--package", "yakt-sim", "--bin", "sim"])
            .arg("--target-dir")
            .arg(self.target());
        let output = output(&mut build)?;
        if !output.status.success() {
            return Err(format!("it does not build:\n{}", tail(&text(&output.stderr))).into());
        }
        Ok(())
    }

    /// Sweeps `limit` seeds from `base`, until one fails.
    pub(super) fn sweep(&self, scenario: &str, base: u64, limit: u64) -> Result<Trial, Failure> {
        let started = Instant::now();
        let said = self.sweep_until(scenario, base, limit, 1)?;
        Ok(Trial::new(said, base, started.elapsed()))
    }

    /// Sweeps `limit` seeds from `base`, until `failures` of them have failed.
    pub(super) fn sweep_until(
        &self,
        scenario: &str,
        base: u64,
        limit: u64,
        failures: u64,
    ) -> Result<Sweep, Failure> {
        let mut sweep = Command::new(self.target().join("debug/sim"));
        sweep
            .current_dir(&self.tree)
            // A report is another run, and a trial is timed.
            .args(["sweep", "--json", "--no-report", "--twice-every", "0"])
            .args(["--stop-after-failures", &failures.to_string(), "--scenario", scenario])
            .args(["--from", &base.to_string(), "--seeds", &limit.to_string()]);
        let output = output(&mut sweep)?;
        serde_json::from_slice(&output.stdout).map_err(|error| {
            format!(
                "the sweep said no JSON ({error}), but {}\n{}",
                text(&output.stdout),
                tail(&text(&output.stderr))
            )
            .into()
        })
    }

    fn target(&self) -> PathBuf {
        self.tree.join("target")
    }
}

fn output(command: &mut Command) -> Result<Output, Failure> {
    let program = command.get_program().to_string_lossy().into_owned();
    command.stdin(Stdio::null()).output().map_err(|error| format!("{program}: {error}").into())
}

/// The files that belong to the workspace: those that git tracks, and those that are new.
fn tracked(root: &Path) -> Result<Vec<PathBuf>, Failure> {
    let list = ["ls-files", "-z", "--cached", "--others", "--exclude-standard"];
    let output = output(git(root).args(list))?;
    if !output.status.success() {
        return Err(
            format!("git cannot say which files there are: {}", text(&output.stderr)).into()
        );
    }
    let names = text(&output.stdout);
    // One that was deleted and not committed is listed still.
    let files = names.split('\0').filter(|name| !name.is_empty()).map(PathBuf::from);
    let files: BTreeSet<_> = files.filter(|file| root.join(file).is_file()).collect();
    Ok(files.into_iter().collect())
}

/// Removes every file below `directory` that is not `wanted`.
fn remove_others(directory: &Path, wanted: &BTreeSet<PathBuf>) -> io::Result<()> {
    for entry in fs::read_dir(directory)? {
        let path = entry?.path();
        if path.is_dir() {
            remove_others(&path, wanted)?;
        } else if !wanted.contains(&path) {
            fs::remove_file(&path)?;
        }
    }
    Ok(())
}
