//! The planted bugs: `sim/bugs/NAME.patch`, each a patch to `src` with its story in front.
//!
//! ```text
//! # story: what is broken, and what a user would lose
//! # expect: the layer of checkers that should see it
//! # scenario: what to play; "swarm" when the line is left out
//! diff --git a/src/… b/src/…
//! ```

use std::fs;
use std::path::Path;

use yakt_sim::trace::fnv1a;

use super::{Failure, at};

/// Where the patches are, below the workspace.
pub(super) const DIRECTORY: &str = "sim/bugs";

/// What is played unless a patch says otherwise.
const SCENARIO: &str = "swarm";

/// How the names of rows begin that have no bug.
pub(super) const CONTROL: &str = "(none: ";

/// A bug, or the lack of one.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Bug {
    pub(super) name: String,
    pub(super) story: String,
    /// The layer of checkers that should see it.
    pub(super) expected: String,
    pub(super) scenario: String,
    /// The whole file; `None` for the code as it is.
    pub(super) patch: Option<String>,
}

impl Bug {
    /// The code as it is, in `scenario`.
    pub(super) fn none(scenario: String) -> Self {
        Self {
            name: format!("{CONTROL}{scenario})"),
            story: "the code as it is".to_owned(),
            expected: String::new(),
            scenario,
            patch: None,
        }
    }

    /// The bug that `text` describes, or what is missing in it.
    pub(super) fn parse(name: &str, text: &str) -> Result<Self, String> {
        let notes = text.lines().take_while(|line| line.starts_with('#'));
        let note = |what: &str| {
            let mut lines = notes.clone();
            lines.find_map(|line| line.strip_prefix(what)).map(|said| said.trim().to_owned())
        };
        let required = |what: &str| {
            note(what)
                .filter(|said| !said.is_empty())
                .ok_or_else(|| format!("{name}: no line \"{what} …\""))
        };
        Ok(Self {
            name: name.to_owned(),
            story: required("# story:")?,
            expected: required("# expect:")?,
            scenario: note("# scenario:").unwrap_or_else(|| SCENARIO.to_owned()),
            patch: Some(text.to_owned()),
        })
    }

    /// What identifies the patch.
    pub(super) fn digest(&self) -> u64 {
        self.patch.as_ref().map_or(0, |patch| fnv1a(patch.as_bytes()))
    }
}

/// All bugs, by name.
pub(super) fn read(root: &Path) -> Result<Vec<Bug>, Failure> {
    let directory = root.join(DIRECTORY);
    let mut bugs = Vec::new();
    for file in fs::read_dir(&directory).map_err(|error| at(&directory, &error))? {
        let path = file?.path();
        if path.extension().is_none_or(|extension| extension != "patch") {
            continue;
        }
        let name = path.file_stem().unwrap_or_default().to_string_lossy();
        let text = fs::read_to_string(&path).map_err(|error| at(&path, &error))?;
        bugs.push(Bug::parse(&name, &text)?);
    }
    bugs.sort_by(|a, b| a.name.cmp(&b.name));
    Ok(bugs)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_story_and_an_expectation_are_required_and_a_scenario_is_not() {
        let bug = Bug::parse("x", "# story: s: t\n# expect: raft\ndiff\n# scenario: no\n").unwrap();
        assert_eq!((bug.story.as_str(), bug.expected.as_str()), ("s: t", "raft"));
        assert_eq!(bug.scenario, SCENARIO);
        assert!(Bug::parse("x", "# story: s\ndiff\n# expect: raft\n").is_err());
        assert!(Bug::parse("x", "# story:\n# expect: raft\n").is_err());
    }
}
