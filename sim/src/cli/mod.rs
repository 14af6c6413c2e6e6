//! The command line: arguments, and which command does what.
//!
//! | module | is |
//! |---|---|
//! | `run` | one run, of a seed or of a file |
//! | `sweep` | many seeds |
//! | `progress` | what a sweep says while it runs |
//! | `summary` | what it says at last |
//! | `shrink` | a failing run, made smaller |
//! | `list` | what there is |
//! | `bugs` | planted bugs: which does the simulator catch? |
//! | `output` | standard output, also when nobody reads it |
//! | `text` | durations and numbers, read and written |
//!
//! Results go to standard output; progress and complaints to standard error.

#![warn(clippy::print_stdout, reason = "see `output`")]

use std::error::Error;
use std::path::PathBuf;
use std::process::ExitCode;
use std::time::Duration;

use clap::{Args, Parser, Subcommand};
use yakt_sim::harness::runner::{HANG_LIMIT, Kind, Piece, Runner};
use yakt_sim::harness::scenarios;
use yakt_sim::harness::schedule::Schedule;

mod bugs;
mod list;
mod output;
mod progress;
mod run;
mod shrink;
mod summary;
mod sweep;
mod text;

/// A sweep was clean, but a rare thing that was due never happened in it.
const EXIT_COVERAGE: u8 = 15;

/// What was asked for makes no sense. clap says the same with the same code.
const EXIT_USAGE: u8 = 2;

/// The scenario that is meant when none is named.
const DEFAULT_SCENARIO: &str = "swarm";

/// Where files go that nobody named a place for: reports of failures, and what belongs to them. It is below the current
/// directory, which is the project's root for `cargo sim`.
const DEFAULT_DIR: &str = "target/sim";

/// What a command comes to: an exit code, or why it could not be done.
type Done = Result<u8, Box<dyn Error>>;

/// Simulates yakt: a cluster, its clients, and everything that can go wrong, all decided by a seed.
#[derive(Parser)]
#[command(name = "cargo sim", bin_name = "cargo sim", version, after_help = EXIT_CODES)]
struct Arguments {
    #[command(subcommand)]
    command: Command,
}

const EXIT_CODES: &str = "\
Exit codes, the gravest first where there are several:
  10  safety: something happened that must never happen
  12  crash: something panicked, or a process died
  14  non-determinism: the same seed gave another run
  13  hang: a run did not end in real time
  11  liveness: something did not happen in time
  15  coverage: a rare thing that was due never happened (sweep --coverage)
   0  clean
   2  the command makes no sense
   1  the command could not be carried out";

#[derive(Subcommand)]
enum Command {
    /// Plays one seed
    Run(run::Run),
    /// Plays many seeds, in parallel, some of them twice
    Sweep(sweep::Sweep),
    /// Plays a schedule from a file
    Replay(run::Replay),
    /// Makes a failing run smaller, as long as it fails in the same way
    Shrink(shrink::Shrink),
    /// Plants known bugs, one at a time, and counts the seeds until each is caught
    Bugs(bugs::Args),
    /// Lists the scenarios, and the rare things that sweeps count
    List(list::List),
    /// Prints the schedule that a seed draws
    Schedule(list::Draw),
}

/// How processes are run, whatever they play.
#[derive(Args)]
struct Limits {
    /// Kills a run that has not ended after so much real time
    #[arg(long, value_name = "TIME", value_parser = text::duration, default_value = HANG_DEFAULT)]
    hang_after: Duration,
}

/// [`HANG_LIMIT`], as it is written on the command line.
const HANG_DEFAULT: &str = "3m";
const _: () = assert!(HANG_LIMIT.as_secs() == 3 * 60, "the default is written as a text");

impl Limits {
    fn runner(&self) -> Result<Runner, Box<dyn Error>> {
        Ok(Runner::new()?.with_hang_limit(self.hang_after))
    }
}

/// Parses the arguments and does what they say.
pub(crate) fn main() -> ExitCode {
    let done = match Arguments::parse().command {
        Command::Run(run) => run.run(),
        Command::Sweep(sweep) => sweep.run(),
        Command::Replay(replay) => replay.run(),
        Command::Shrink(shrink) => shrink.run(),
        Command::List(list) => list.run(),
        Command::Schedule(draw) => draw.run(),
        Command::Bugs(bugs) => return bugs::run(&bugs),
    };
    match done {
        Ok(code) => ExitCode::from(code),
        Err(error) => {
            eprintln!("error: {error}");
            ExitCode::from(if error.is::<Senseless>() { EXIT_USAGE } else { 1 })
        }
    }
}

/// What was asked for makes no sense, for a reason that clap does not see.
#[derive(Debug)]
struct Senseless(String);

impl std::fmt::Display for Senseless {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(&self.0)
    }
}

impl Error for Senseless {}

/// What a run exits with.
fn exit_code(failure: Option<Kind>) -> u8 {
    failure.map_or(0, Kind::exit_code)
}

/// The schedule that `seed` draws on `piece`.
fn draw(piece: Piece, seed: u64) -> Result<Schedule, Senseless> {
    piece.draw(seed).ok_or_else(|| {
        let name = piece.name();
        Senseless(format!("{name} is scripted: its seeds draw no schedules"))
    })
}

/// Reads a schedule.
#[expect(clippy::disallowed_methods, reason = "it is an argument of the command")]
fn read_schedule(path: &PathBuf) -> Result<Schedule, Senseless> {
    let of_file = |error: &dyn std::fmt::Display| Senseless(format!("{}: {error}", path.display()));
    let text = std::fs::read_to_string(path).map_err(|error| of_file(&error))?;
    serde_json::from_str(&text).map_err(|error| of_file(&error))
}

/// What files about a run are called, up to the dot. A scenario's name may come from a file, and leads nowhere else.
fn file_stem(scenario: &str, seed: u64) -> String {
    let allowed = |char: char| char.is_ascii_alphanumeric() || "-_".contains(char);
    let name = scenario.replace(|char| !allowed(char), "_");
    format!("{name}-{seed}")
}

/// The scenarios that a name stands for: one, or all.
#[derive(Clone)]
struct Pieces(Vec<Piece>);

fn pieces(name: &str) -> Result<Pieces, String> {
    let all = || scenarios::ALL.iter().copied().map(Piece::Scenario).collect();
    Ok(Pieces(if name == "all" { all() } else { vec![name.parse()?] }))
}

#[cfg(test)]
mod tests {
    use clap::CommandFactory;

    use super::*;

    fn parse(line: &str) -> Result<Command, clap::Error> {
        let words = std::iter::once("sim").chain(line.split_whitespace());
        Arguments::try_parse_from(words).map(|arguments| arguments.command)
    }

    #[test]
    fn the_commands_are_well_formed() {
        Arguments::command().debug_assert();
    }

    #[test]
    fn the_swarm_is_what_is_played_by_default() {
        let Ok(Command::Run(run)) = parse("run --seed 7") else { panic!("not parsed") };
        assert_eq!((run.piece.name(), run.seed), (DEFAULT_SCENARIO, 7));
        let Ok(Command::Sweep(sweep)) = parse("sweep --seeds 5") else { panic!("not parsed") };
        assert_eq!(sweep.pieces.0.len(), 1);
        assert_eq!(sweep.plan().seeds.count, 5);
    }

    #[test]
    fn all_means_every_scenario() {
        let Ok(Command::Sweep(sweep)) = parse("sweep --scenario all") else { panic!("not parsed") };
        assert_eq!(sweep.pieces.0.len(), scenarios::ALL.len());
    }

    #[test]
    fn a_sweep_by_time_has_no_last_seed() {
        let Ok(Command::Sweep(sweep)) = parse("sweep --time 10m") else { panic!("not parsed") };
        assert_eq!(sweep.plan().seeds.count, u64::MAX);
        let Ok(Command::Sweep(sweep)) = parse("sweep --time 10m --seeds 9") else {
            panic!("not parsed")
        };
        assert_eq!(sweep.plan().seeds.count, 9);
    }

    #[test]
    fn files_stay_where_they_belong() {
        assert_eq!(file_stem("elect_write_read", 7), "elect_write_read-7");
        assert_eq!(file_stem("../../etc/x y", u64::MAX), "______etc_x_y-18446744073709551615");
    }

    #[test]
    fn nonsense_is_a_usage_error() {
        for line in ["run", "run --seed x", "run --seed 1 --scenario no_such", "sweep --time ten"] {
            let Err(error) = parse(line) else { panic!("{line} was accepted") };
            assert_eq!(error.exit_code(), i32::from(EXIT_USAGE), "{line}");
        }
        let both = "shrink --seed 1 --file x.json";
        assert!(parse(both).is_err() && parse("shrink").is_err());
    }
}
