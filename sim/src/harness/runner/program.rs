//! The whole of a program that plays a service of one's own: `PROGRAM [SCENARIO [SEED]]`.
//!
//! - Without a seed it plays [`SEEDS`] of the scenario, or of the swarm and of all scenarios that the subject has of its
//!   own, and names the command that plays a failed one again: itself, with the scenario and the seed.
//! - With a seed it plays that one, and writes `SCENARIO-SEED.html`, which shows the run and names the same command.
//!
//! Left out: everything else that `cargo sim` can do. A program that wants it has a [`Runner`], as `cargo sim` does.

use std::env;
use std::ops::RangeInclusive;
use std::path::PathBuf;
use std::process::ExitCode;
use std::sync::Arc;

use super::{Piece, Runner, Wants, Work, child_of};
use crate::harness::subject::Subject;

/// The seeds that are played when none is given.
pub const SEEDS: RangeInclusive<u64> = 1..=20;

/// Exits with 0 when all runs were clean, 1 when one was not, 2 when the arguments make no sense.
#[must_use]
pub fn program(mut subject: Subject) -> ExitCode {
    if subject.again.is_none() {
        let program = env::current_exe().unwrap_or_else(|_| "PROGRAM".into()).display().to_string();
        subject.again = Some(Arc::new(move |name, seed| format!("{program} {name} {seed}")));
    }
    child_of(subject.clone()).unwrap_or_else(|| {
        let args: Vec<_> = env::args().skip(1).collect();
        let played = Wanted::parse(&args, &subject).and_then(|wanted| wanted.play(&subject));
        match played {
            Ok(true) => ExitCode::SUCCESS,
            Ok(false) => ExitCode::FAILURE,
            Err(error) => {
                eprintln!("{error}");
                ExitCode::from(2)
            }
        }
    })
}

/// What is to be played.
#[derive(Debug)]
struct Wanted {
    pieces: Vec<Piece>,
    seeds: RangeInclusive<u64>,
    report: Option<PathBuf>,
}

impl Wanted {
    fn parse(args: &[String], subject: &Subject) -> Result<Self, String> {
        let piece = |name: &str| {
            let scenario = subject.scenario(name).map(Piece::Scenario);
            scenario.ok_or_else(|| format!("there is no scenario {name}"))
        };
        match args {
            [] => {
                let own = subject.scenarios.iter().copied().map(Piece::Scenario);
                let pieces = [piece("swarm")?].into_iter().chain(own).collect();
                Ok(Self { pieces, seeds: SEEDS, report: None })
            }
            [name] => Ok(Self { pieces: vec![piece(name)?], seeds: SEEDS, report: None }),
            [name, seed] => {
                let seed = seed.parse().map_err(|_| format!("{seed} is no seed"))?;
                let report = Some(format!("{name}-{seed}.html").into());
                Ok(Self { pieces: vec![piece(name)?], seeds: seed..=seed, report })
            }
            _ => Err("arguments: [SCENARIO [SEED]]".to_owned()),
        }
    }

    /// Whether all runs were clean.
    fn play(self, subject: &Subject) -> Result<bool, String> {
        let runner = Runner::new().map_err(|error| error.to_string())?;
        let wants = Wants { report: self.report.as_deref(), ..Wants::default() };
        let mut clean = true;
        for piece in self.pieces {
            for seed in self.seeds.clone() {
                let run = runner.run(&Work::Seed(piece, seed), wants);
                let end = run.map_err(|error| error.to_string())?.end;
                let name = piece.name();
                let Some(failure) = end.failure() else {
                    println!("{name} {seed}: clean");
                    continue;
                };
                clean = false;
                println!("{name} {seed}: {}: {}", failure.kind, failure.what);
                println!("  again: {}", subject.command(name, seed));
            }
        }
        Ok(clean)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::harness::scenarios::{Scenario, find};

    #[test]
    fn without_a_scenario_the_swarm_and_those_of_ones_own_are_played() {
        let own =
            Scenario::drawn("own", "the swarm", |seed| find("swarm").unwrap().draw(seed).unwrap());
        let subject = Subject { scenarios: vec![own], ..Subject::default() };
        let wanted = |args: &[&str]| {
            let args: Vec<_> = args.iter().map(|arg| (*arg).to_owned()).collect();
            Wanted::parse(&args, &subject)
        };
        let names =
            |wanted: Wanted| wanted.pieces.iter().map(|piece| piece.name()).collect::<Vec<_>>();
        assert_eq!(names(wanted(&[]).unwrap()), ["swarm", "own"]);
        let one = wanted(&["own", "7"]).unwrap();
        assert_eq!((one.seeds.clone(), one.report.clone()), (7..=7, Some("own-7.html".into())));
        assert_eq!(names(one), ["own"]);
        assert!(wanted(&["unknown"]).is_err() && wanted(&["own", "x"]).is_err());
        assert!(wanted(&["own", "7", "8"]).is_err());
    }
}
