//! Every planted bug (`sim/bugs`, see `cargo sim bugs`) is described, and its patch still fits the code.
//!
//! Whether the simulator catches them is another question, and takes hours.

#![expect(clippy::disallowed_methods, reason = "it looks at the repository, and asks git")]

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

/// Bugs that there are at least: fewer say little about the checkers.
const BUGS_MIN: usize = 25;

/// The layers of checkers, and crashes, which need none.
const LAYERS: [&str; 6] = ["raft", "state", "clients", "mgmt", "liveness", "crash"];

fn root() -> PathBuf {
    let package = Path::new(env!("CARGO_MANIFEST_DIR"));
    package.parent().expect("the package is in the workspace").to_owned()
}

/// Name and text of every patch.
fn patches() -> Vec<(PathBuf, String)> {
    let files = fs::read_dir(root().join("sim/bugs")).expect("sim/bugs can be read");
    let paths = files.map(|file| file.expect("sim/bugs can be listed").path());
    let paths = paths.filter(|path| path.extension().is_some_and(|extension| extension == "patch"));
    paths.map(|path| (path.clone(), fs::read_to_string(path).expect("a patch is text"))).collect()
}

#[test]
fn there_are_enough_bugs() {
    assert!(patches().len() >= BUGS_MIN, "there are only {}", patches().len());
}

#[test]
fn every_bug_says_what_is_broken_and_who_should_see_it() {
    for (path, text) in patches() {
        let note = |line: usize, what: &str| {
            let said = text.lines().nth(line).and_then(|line| line.strip_prefix(what));
            let said = said.unwrap_or_else(|| {
                panic!("{}: line {} is not \"{what}…\"", path.display(), line + 1)
            });
            said.trim()
        };
        assert!(note(0, "# story: ").len() > 40, "{}: that is no story", path.display());
        let layer = note(1, "# expect: ");
        assert!(LAYERS.contains(&layer), "{}: {layer} is none of {LAYERS:?}", path.display());
    }
}

#[test]
fn every_bug_changes_the_code_of_the_library_only() {
    for (path, text) in patches() {
        let files: Vec<_> = text.lines().filter_map(|line| line.strip_prefix("+++ ")).collect();
        assert!(!files.is_empty(), "{} changes nothing", path.display());
        for file in files {
            assert!(file.starts_with("b/src/"), "{} changes {file}", path.display());
        }
    }
}

#[test]
fn every_bug_applies_to_the_code_as_it_is() {
    for (path, _) in patches() {
        // Inside of another repository git would skip every file, and call that a success.
        let root = root();
        let ceiling = root.parent().unwrap_or(&root);
        let checked = Command::new("git")
            .args(["apply", "--check"])
            .arg(&path)
            .current_dir(&root)
            .env("GIT_CEILING_DIRECTORIES", ceiling)
            .env_remove("GIT_DIR")
            .env_remove("GIT_WORK_TREE")
            .env_remove("GIT_INDEX_FILE")
            .output()
            .unwrap_or_else(|error| {
                panic!("this test needs git, to check that patches apply: {error}")
            });
        let complaint = String::from_utf8_lossy(&checked.stderr);
        assert!(
            checked.status.success(),
            "{} no longer applies; make it anew for the code as it is:\n{complaint}",
            path.display()
        );
    }
}
