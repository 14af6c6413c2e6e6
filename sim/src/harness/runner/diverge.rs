//! Where two runs of one seed part.
//!
//! A sweep notices by the hashes of the traces, which say no more than that. So both runs are played again with
//! their traces written to files, and the files are compared. The files stay: a person will want to see more.

#![expect(clippy::disallowed_methods, reason = "traces are compared outside of any simulation")]

use std::collections::VecDeque;
use std::fs::File;
use std::io::{self, BufRead, BufReader};
use std::path::Path;

use super::end::{Failure, Kind};
use super::{End, Piece, Run, Runner, Wants, Work};

/// Events that are shown before the first difference.
const BEFORE: usize = 5;

/// Events of each run that are shown from the first difference on.
const AFTER: usize = 5;

/// The first event that two traces do not have in common.
#[derive(Debug, PartialEq, Eq)]
struct Difference {
    /// Its number, counting from 0.
    event: u64,
    /// The last events in common.
    before: Vec<String>,
    /// How the first run goes on.
    first: Vec<String>,
    /// How the second run goes on.
    second: Vec<String>,
}

/// What two runs of one seed, `first` and `second`, show beyond how `first` fails by itself.
///
/// A run that hung was cut off by the real clock: the two can be neither called the same nor different, and the pair
/// fails as a hang, whichever of them it was.
pub(super) fn failure(first: &End, second: &End) -> Option<Failure> {
    let (kind, what) = match (first, second) {
        // That is a failure of its own.
        (End::Hung(_), _) => return None,
        (_, End::Hung(limit)) => {
            let first = in_short(first);
            let what = format!(
                "no end after {limit:?} of real time, where an earlier run had one: {first}"
            );
            (Kind::Hang, what)
        }
        _ if first.agrees_with(second) => return None,
        _ => {
            let (first, second) = (in_short(first), in_short(second));
            (Kind::NonDeterminism, format!("two runs of one seed differ: {first} and {second}"))
        }
    };
    Some(Failure { kind, what, place: None, output: String::new() })
}

fn in_short(end: &End) -> String {
    let how = end
        .failure()
        .map_or_else(|| "no failure".to_owned(), |failure| failure.signature().to_string());
    end.outcome().map_or(how.clone(), |outcome| {
        let summary = &outcome.summary;
        format!("{how} with trace {:016x} of {} events", summary.trace_hash, summary.trace_events)
    })
}

/// Plays `seed` twice more with traces in `dir`, and says where they part.
pub(super) fn explain(runner: &Runner, piece: Piece, seed: u64, dir: &Path) -> io::Result<String> {
    std::fs::create_dir_all(dir)?;
    let play = |turn: u32| {
        let path = dir.join(format!("{}-{seed}-{turn}.trace", piece.name()));
        let wants = Wants { trace: Some(&path), ..Wants::default() };
        let Run { end, .. } = runner.run(&Work::Seed(piece, seed), wants)?;
        io::Result::Ok((path, end))
    };
    let ((first_path, first), (second_path, second)) = (play(1)?, play(2)?);
    if first.outcome().is_none() || second.outcome().is_none() {
        return Ok(format!(
            "played again: {} and {}; a run that is not played to its end leaves no trace",
            in_short(&first),
            in_short(&second)
        ));
    }
    let open = |path: &Path| io::Result::Ok(BufReader::new(File::open(path)?));
    let difference = first_difference(open(&first_path)?, open(&second_path)?)?;
    let (first_path, second_path) = (first_path.display(), second_path.display());
    let files = format!("whole traces: {first_path} {second_path}");
    Ok(match difference {
        Some(difference) => format!("{difference}{files}"),
        None if first.agrees_with(&second) => format!(
            "played again, with their traces kept, two runs agree: {}\n{files}",
            in_short(&first)
        ),
        None => format!(
            "played again, two runs have the same trace and end differently: {} and {}\n{files}",
            in_short(&first),
            in_short(&second)
        ),
    })
}

impl std::fmt::Display for Difference {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let Self { event, before, first, second } = self;
        writeln!(f, "played again, they part at event {event}, after")?;
        for line in before {
            writeln!(f, "      {line}")?;
        }
        for (name, lines) in [("the first run", first), ("the second run", second)] {
            writeln!(f, "  {name} goes on")?;
            for line in lines {
                writeln!(f, "      {line}")?;
            }
            if lines.is_empty() {
                writeln!(f, "      not at all")?;
            }
        }
        Ok(())
    }
}

/// The first difference between two traces, reading no more of them than needed.
fn first_difference(first: impl BufRead, second: impl BufRead) -> io::Result<Option<Difference>> {
    let (mut first, mut second) = (first.lines(), second.lines());
    let (mut event, mut before) = (0, VecDeque::new());
    loop {
        let (one, other) = (first.next().transpose()?, second.next().transpose()?);
        if one != other {
            let rest =
                |next: Option<String>, lines: &mut dyn Iterator<Item = io::Result<String>>| {
                    next.map(Ok).into_iter().chain(lines).take(AFTER).collect::<io::Result<_>>()
                };
            return Ok(Some(Difference {
                event,
                before: before.into(),
                first: rest(one, &mut first)?,
                second: rest(other, &mut second)?,
            }));
        }
        let Some(line) = one else { return Ok(None) };
        event += 1;
        before.push_back(line);
        if before.len() > BEFORE {
            before.pop_front();
        }
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;
    use crate::harness::coverage::Coverage;
    use crate::harness::{Outcome, Summary, Verdict};

    fn trace(events: impl IntoIterator<Item = u64>) -> String {
        let lines: Vec<_> = events.into_iter().map(|event| format!("event {event}")).collect();
        lines.join("\n")
    }

    fn played(trace_hash: u64) -> End {
        let summary = Summary { trace_hash, ..Summary::default() };
        let (verdict, coverage) = (Verdict::Clean, Coverage::default());
        End::Played(Box::new(Outcome { verdict, summary, coverage }))
    }

    #[test]
    fn two_runs_that_differ_are_a_failure_and_two_that_agree_are_none() {
        assert_eq!(failure(&played(1), &played(1)), None);
        assert_eq!(failure(&played(1), &played(2)).unwrap().kind, Kind::NonDeterminism);
    }

    /// A second run that hung once counted as the same run as a first one that was clean: nobody heard of it.
    #[test]
    fn a_pair_of_which_one_hung_fails_as_a_hang_and_once() {
        let hung = End::Hung(Duration::from_mins(3));
        let kinds = |first: &End, second: &End| {
            let failures = first.failure().into_iter().chain(failure(first, second));
            failures.map(|failure| failure.kind).collect::<Vec<_>>()
        };
        assert_eq!(kinds(&played(1), &hung), [Kind::Hang]);
        assert_eq!(kinds(&hung, &played(1)), [Kind::Hang]);
        assert_eq!(kinds(&hung, &hung), [Kind::Hang]);
        let second = failure(&played(1), &hung).unwrap();
        assert_eq!(second.signature(), hung.failure().unwrap().signature());
    }

    fn difference(first: &str, second: &str) -> Option<Difference> {
        first_difference(first.as_bytes(), second.as_bytes()).unwrap()
    }

    #[test]
    fn the_first_difference_is_shown_in_its_context() {
        let found = difference(&trace(0..20), &trace((0..10).chain(100..102))).unwrap();
        assert_eq!(found.event, 10);
        assert_eq!(found.before, ["event 5", "event 6", "event 7", "event 8", "event 9"]);
        assert_eq!(found.first, ["event 10", "event 11", "event 12", "event 13", "event 14"]);
        assert_eq!(found.second, ["event 100", "event 101"]);
        let text = found.to_string();
        assert!(text.contains("they part at event 10"), "{text}");
    }

    #[test]
    fn a_trace_that_ends_early_differs() {
        let found = difference(&trace(0..3), &trace(0..2)).unwrap();
        assert_eq!((found.event, found.second.len()), (2, 0));
        assert!(found.to_string().contains("not at all"));
    }

    #[test]
    fn equal_traces_do_not_differ() {
        assert_eq!(difference(&trace(0..50), &trace(0..50)), None);
        assert_eq!(difference("", ""), None);
    }
}
