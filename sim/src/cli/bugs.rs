//! `cargo sim bugs`: does the simulator catch bugs? Plants known ones, one at a time, and sees.
//!
//! The bugs are in `sim/bugs`, one patch each ([`catalogue`]). For each of them, a copy of the workspace
//! ([`scratch`]) is patched and built, and its own `sim sweep` searches seeds from several bases until one
//! fails. What was found out is remembered ([`results`]), so that an interrupted run goes on where it was, and
//! shown as a table ([`table`]).
//!
//! The first row has no bug and must have no failure: what a sweep says of a bug counts for nothing while it
//! says the same without one. A bug that survives is a hole in the checkers or in the workload, or not a bug.
//!
//! With `--together N`, groups of bugs are planted at the same time first ([`together`]). Most late
//! bugs are then found in a fraction of the time, but not after an exact number of seeds.
//!
//! Left out: which seeds find what when others ran before. Every trial sweeps on its own, so the number of
//! seeds until a bug is caught is exact, and the same on every machine.

#![expect(
    clippy::disallowed_methods,
    reason = "it builds and runs the simulator, and is never simulated itself"
)]

use std::collections::BTreeSet;
use std::fs;
use std::io;
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::time::{Duration, Instant};

mod catalogue;
mod results;
mod scratch;
mod table;
mod together;

use super::output::{print_json, print_line};
use catalogue::Bug;
use results::{Finding, Key, Results, Trial};
use scratch::Scratch;

/// Where the copy of the workspace and the results are, below the workspace.
const DIRECTORY: &str = "target/bugs";

/// The file with the table of an earlier measurement.
const TABLE: &str = "sim/README.md";

/// Seeds between two bases: further apart than any limit.
const BASE_STEP: u64 = 1_000_000;

/// What went wrong, for a person.
type Failure = Box<dyn std::error::Error + Send + Sync>;

/// Plant known bugs, one at a time, and see whether the simulator catches them
#[derive(Debug, clap::Args)]
pub(crate) struct Args {
    /// Only these bugs (files of sim/bugs, without `.patch`); all by default
    #[arg(value_name = "BUG")]
    names: Vec<String>,
    /// Seeds to try from each base
    #[arg(long, value_name = "SEEDS", default_value_t = 200,
          value_parser = clap::value_parser!(u64).range(1..BASE_STEP))]
    limit: u64,
    /// Series of seeds, far from one another
    #[arg(long, value_name = "COUNT", default_value_t = 3,
          value_parser = clap::value_parser!(u64).range(1..1_000))]
    bases: u64,
    /// Plant this many bugs at the same time first, then try each alone on the seeds that failed;
    /// from one base
    #[arg(long, value_name = "COUNT", default_value_t = 1, conflicts_with = "bases",
          value_parser = clap::value_parser!(u64).range(1..20))]
    together: u64,
    /// Begin nothing new after this long (90s, 30m, 2h); the next call goes on from there
    #[arg(long, value_name = "TIME", value_parser = super::text::duration)]
    time: Option<Duration>,
    /// Forget what earlier calls found out
    #[arg(long)]
    fresh: bool,
    /// Print the results as JSON
    #[arg(long)]
    json: bool,
    /// Also write the results into the table between the markers of this file (such as sim/README.md); rows of bugs
    /// that were not tried stay
    #[arg(long, value_name = "FILE")]
    markdown: Option<PathBuf>,
    /// List the bugs, and do nothing
    #[arg(long)]
    list: bool,
}

/// Success when the code without a bug is clean, and no bug that was tried survived.
pub(crate) fn run(args: &Args) -> ExitCode {
    match try_run(args) {
        Ok(true) => ExitCode::SUCCESS,
        Ok(false) => ExitCode::FAILURE,
        Err(error) => {
            eprintln!("sim: {error}");
            ExitCode::FAILURE
        }
    }
}

fn try_run(args: &Args) -> Result<bool, Failure> {
    let root = workspace()?;
    let all = catalogue::read(&root)?;
    let names: BTreeSet<_> = all.iter().map(|bug| bug.name.clone()).collect();
    let bugs = chosen(args, all)?;
    if args.list {
        for bug in &bugs {
            print_line(format_args!("{} ({}): {}", bug.name, bug.expected, bug.story))?;
        }
        return Ok(true);
    }
    let directory = root.join(DIRECTORY);
    let scratch = Scratch::new(&root, &directory.join("tree"))?;
    let mut results = Results::open(&directory.join("results.json"), args.fresh)?;
    let deadline = args.time.map(|time| Instant::now() + time);
    let revision = revision(&root);

    let (results, revision) = (&mut results, revision.as_deref());
    let mut search = Search { args, scratch: &scratch, results, deadline, revision };
    let mut findings = Vec::new();
    if args.together > 1 {
        let table = root.join(TABLE);
        let table = fs::read_to_string(&table).map_err(|error| at(&table, &error))?;
        let size = usize::try_from(args.together)?;
        for group in together::groups(bugs, size, &together::medians(&table)) {
            findings.extend(search.search_together(group)?);
        }
    } else {
        for (position, bug) in with_controls(bugs).into_iter().enumerate() {
            findings.push(search.search(position, bug)?);
        }
    }
    scratch.restore()?;

    if let Some(path) = &args.markdown {
        let old = fs::read_to_string(path).map_err(|error| at(path, &error))?;
        let new = table::replace(&old, &findings, &names, args.limit).ok_or_else(|| {
            format!("{} has no {} … {}", path.display(), table::BEGIN, table::END)
        })?;
        fs::write(path, new).map_err(|error| at(path, &error))?;
    }
    if args.json {
        print_json(&findings)?;
    } else {
        print_line(table::terminal(&findings, args.limit))?;
    }
    Ok(findings.iter().all(Finding::is_as_it_should_be))
}

/// The workspace that this program was built from.
fn workspace() -> Result<PathBuf, Failure> {
    let package = Path::new(env!("CARGO_MANIFEST_DIR"));
    let root = package.parent().ok_or("the package yakt-sim has no workspace")?;
    if !root.join(catalogue::DIRECTORY).is_dir() {
        return Err(format!("there is no {} in {}", catalogue::DIRECTORY, root.display()).into());
    }
    Ok(root.to_owned())
}

fn chosen(args: &Args, mut bugs: Vec<Bug>) -> Result<Vec<Bug>, Failure> {
    if let Some(unknown) = args.names.iter().find(|name| bugs.iter().all(|bug| bug.name != **name))
    {
        return Err(format!("there is no bug {unknown}: see cargo sim bugs --list").into());
    }
    bugs.retain(|bug| args.names.is_empty() || args.names.contains(&bug.name));
    Ok(bugs)
}

/// The bugs, after a row without a bug for every scenario that is to find one.
fn with_controls(bugs: Vec<Bug>) -> Vec<Bug> {
    let scenarios: BTreeSet<_> = bugs.iter().map(|bug| bug.scenario.clone()).collect();
    scenarios.into_iter().map(Bug::none).chain(bugs).collect()
}

/// One row's trials.
struct Search<'a> {
    args: &'a Args,
    scratch: &'a Scratch,
    results: &'a mut Results,
    deadline: Option<Instant>,
    revision: Option<&'a str>,
}

impl Search<'_> {
    fn search(&mut self, position: usize, bug: Bug) -> Result<Finding, Failure> {
        let mut trials: Vec<Trial> = Vec::new();
        let (mut built, mut error) = (false, None);
        for base in (0..self.bases()).map(|step| 1 + step * BASE_STEP) {
            let key = Key { tree: self.scratch.digest(), bug: &bug, base, limit: self.args.limit };
            if let Some(known) = self.results.get(&key) {
                trials.push(known.clone());
                continue;
            }
            if self.is_late() {
                break;
            }
            if !built {
                eprint!("{position:>3} {}: building", bug.name);
                if let Err(failed) = self.build(&bug) {
                    eprintln!(": {failed}");
                    error = Some(failed.to_string());
                    break;
                }
                eprintln!();
                built = true;
            }
            let trial = self.scratch.sweep(&bug.scenario, base, self.args.limit)?;
            let trial = trial.at(self.revision.map(str::to_owned));
            eprintln!("    from {base}: {trial}");
            self.results.insert(&key, trial.clone())?;
            trials.push(trial);
        }
        Ok(Finding::new(bug, trials, usize::try_from(self.bases())?, error))
    }

    /// The number of bases from which seeds are tried.
    fn bases(&self) -> u64 {
        if self.args.together > 1 { 1 } else { self.args.bases }
    }

    /// Tries `group` in one tree, then each bug of it alone on the seeds that failed. A bug that
    /// fails on none of them alone is searched for as usual.
    fn search_together(&mut self, group: Vec<Bug>) -> Result<Vec<Finding>, Failure> {
        let failed = if self.is_late() { BTreeSet::new() } else { self.seeds_of(&group)? };
        let mut findings = Vec::new();
        for (position, bug) in group.into_iter().enumerate() {
            let trial = if self.is_late() { None } else { self.try_seeds(&bug, &failed)? };
            findings.push(match trial {
                Some(trial) => Finding::new(bug, vec![trial], 1, None),
                None => self.search(position, bug)?,
            });
        }
        Ok(findings)
    }

    /// The seeds that fail with all bugs of `group` that can be planted together.
    fn seeds_of(&self, group: &[Bug]) -> Result<BTreeSet<u64>, Failure> {
        let Some(first) = group.first() else { return Ok(BTreeSet::new()) };
        self.scratch.restore()?;
        let mut planted = Vec::new();
        for bug in group {
            // Two patches of the same lines do not fit together: the second one is tried alone.
            if self.scratch.plant(bug).is_ok() {
                planted.push(bug.name.as_str());
            }
        }
        eprintln!("together: {}", planted.join(", "));
        if let Err(failed) = self.scratch.build() {
            eprintln!("    {failed}");
            return Ok(BTreeSet::new());
        }
        let enough = together::SEEDS_PER_BUG * u64::try_from(planted.len())?;
        let sweep = self.scratch.sweep_until(&first.scenario, 1, self.args.limit, enough)?;
        let seeds = sweep.failed_seeds();
        eprintln!("    {} seeds fail", seeds.len());
        Ok(seeds)
    }

    /// The first of `seeds` that fails with `bug` alone.
    fn try_seeds(&self, bug: &Bug, seeds: &BTreeSet<u64>) -> Result<Option<Trial>, Failure> {
        if seeds.is_empty() || self.build(bug).is_err() {
            return Ok(None);
        }
        for seed in seeds {
            let trial = self.scratch.sweep(&bug.scenario, *seed, 1)?;
            if trial.caught.is_some() {
                eprintln!("    {} alone: {trial}", bug.name);
                let trial = Trial { base: 1, seeds: Some(*seed), at_most: true, ..trial };
                return Ok(Some(trial.at(self.revision.map(str::to_owned))));
            }
        }
        Ok(None)
    }

    fn build(&self, bug: &Bug) -> Result<(), Failure> {
        self.scratch.restore()?;
        self.scratch.plant(bug)?;
        self.scratch.build()
    }

    fn is_late(&self) -> bool {
        self.deadline.is_some_and(|deadline| Instant::now() >= deadline)
    }
}

/// The commit that is checked out, as far as git knows one, and whether the files differ from it.
fn revision(root: &Path) -> Option<String> {
    // No tag has a name like that: what counts is the commit.
    let describe = ["describe", "--always", "--dirty", "--exclude", "*"];
    let described = scratch::git(root).args(describe).output().ok()?;
    let text = String::from_utf8_lossy(&described.stdout).trim().to_owned();
    (described.status.success() && !text.is_empty()).then_some(text)
}

fn at(path: &Path, error: &io::Error) -> Failure {
    format!("{}: {error}", path.display()).into()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_scenario_is_tried_without_a_bug_first() {
        let bug = |name: &str, scenario: &str| {
            let text = format!("# story: s\n# expect: raft\n# scenario: {scenario}\n--- a/src/x\n");
            Bug::parse(name, &text).unwrap()
        };
        let rows = with_controls(vec![bug("a", "swarm"), bug("b", "other"), bug("c", "swarm")]);
        let names: Vec<_> = rows.iter().map(|row| row.name.as_str()).collect();
        assert_eq!(names, ["(none: other)", "(none: swarm)", "a", "b", "c"]);
    }
}
