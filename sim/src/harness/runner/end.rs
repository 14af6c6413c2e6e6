//! How runs end, and which failures are one and the same.

use std::fmt;
use std::time::Duration;

use serde::{Deserialize, Serialize};

use crate::harness::{Broken, Outcome, Verdict};

/// The shortest word of hexadecimal digits that is taken for an id.
const ID_LENGTH_MIN: usize = 8;

/// Characters of a signature's text: a panic's message may be a whole state.
const SIGNATURE_LENGTH_MAX: usize = 200;

/// How a run ended.
#[derive(Clone, Debug)]
pub enum End {
    /// It was played to its end, whatever that was.
    Played(Box<Outcome>),
    /// Its process died.
    Crashed(Crash),
    /// It had not ended after so much real time, and was killed.
    Hung(Duration),
}

/// How a process died.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Crash {
    /// The panic's message, or the signal.
    pub message: String,
    /// Where it panicked: file, line and column.
    pub place: String,
    /// Its last words on standard error.
    pub output: String,
}

/// How a run fails, the gravest first.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Kind {
    /// Something happened that must never happen.
    Safety,
    /// Its process died, by a panic or otherwise.
    Crash,
    /// The same seed gave another run.
    NonDeterminism,
    /// It went on for ever without simulated time passing.
    Hang,
    /// Something did not happen in time.
    Liveness,
}

impl Kind {
    /// What `cargo sim` exits with.
    #[must_use]
    pub const fn exit_code(self) -> u8 {
        match self {
            Self::Safety => 10,
            Self::Liveness => 11,
            Self::Crash => 12,
            Self::Hang => 13,
            Self::NonDeterminism => 14,
        }
    }
}

impl fmt::Display for Kind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Safety => "safety",
            Self::Crash => "crash",
            Self::NonDeterminism => "non-determinism",
            Self::Hang => "hang",
            Self::Liveness => "liveness",
        })
    }
}

/// How a run failed.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Failure {
    /// The sort of failure.
    pub kind: Kind,
    /// What happened, in words.
    pub what: String,
    /// Where, for a crash.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub place: Option<String>,
    /// What else there is to show: a crash's last words, two traces' first difference.
    #[serde(skip_serializing_if = "String::is_empty")]
    pub output: String,
}

/// What failures of the same cause have in common.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize)]
pub struct Signature {
    /// The sort of failure.
    pub kind: Kind,
    /// The promise that was broken, or a panic's message and place, without what differs from run to run.
    pub text: String,
}

impl fmt::Display for Signature {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}: {}", self.kind, self.text)
    }
}

impl End {
    /// The outcome, if the run was played to its end.
    #[must_use]
    pub fn outcome(&self) -> Option<&Outcome> {
        match self {
            Self::Played(outcome) => Some(outcome),
            Self::Crashed(_) | Self::Hung(_) => None,
        }
    }

    /// How it failed, if it did.
    #[must_use]
    pub fn failure(&self) -> Option<Failure> {
        match self {
            Self::Played(outcome) => {
                let Verdict::Violated(violation) = &outcome.verdict else { return None };
                let kind = match violation.broken {
                    Broken::Safety => Kind::Safety,
                    Broken::Liveness => Kind::Liveness,
                };
                let output = match violation.exchanges.as_slice() {
                    [] => String::new(),
                    exchanges => format!("shown by the exchanges {exchanges:?}"),
                };
                Some(Failure { kind, what: violation.what.clone(), place: None, output })
            }
            Self::Crashed(Crash { message, place, output }) => Some(Failure {
                kind: Kind::Crash,
                what: message.clone(),
                place: Some(place.clone()),
                output: output.clone(),
            }),
            Self::Hung(limit) => Some(Failure {
                kind: Kind::Hang,
                what: format!("no end after {limit:?} of real time"),
                place: None,
                output: String::new(),
            }),
        }
    }

    /// Whether two runs of one seed were the same run. What hung was cut off by the real clock and agrees with nothing,
    /// not even with another that hung: nobody knows what either would have come to.
    #[must_use]
    pub fn agrees_with(&self, other: &Self) -> bool {
        match (self, other) {
            (Self::Played(one), Self::Played(other)) => {
                one.verdict == other.verdict && one.summary == other.summary
            }
            (Self::Crashed(one), Self::Crashed(other)) => {
                (&one.message, &one.place) == (&other.message, &other.place)
            }
            (Self::Played(_), Self::Crashed(_))
            | (Self::Crashed(_), Self::Played(_))
            | (Self::Hung(_), _)
            | (_, Self::Hung(_)) => false,
        }
    }
}

impl Failure {
    /// What it has in common with others of the same cause.
    #[must_use]
    pub fn signature(&self) -> Signature {
        let text = match (&self.place, self.kind) {
            (Some(place), _) => {
                let message = self.what.lines().next().unwrap_or_default();
                // The place's digits tell crashes apart.
                format!("{} at {place}", without_numbers(message))
            }
            (None, Kind::Hang) => "no end".to_owned(),
            (None, _) => {
                let promise = self.what.split(':').next().unwrap_or_default();
                without_numbers(promise.trim())
            }
        };
        Signature { kind: self.kind, text }
    }
}

/// `text`, shortened, with `#` for every number and every id.
fn without_numbers(text: &str) -> String {
    let mut short = String::new();
    let word_part = |char: char| char.is_alphanumeric() || char == '-';
    for word in text.split_inclusive(|char| !word_part(char)) {
        let end = word.trim_end_matches(|char| !word_part(char)).len();
        let (word, separator) = word.split_at(end);
        if is_id(word) {
            short.push('#');
        } else {
            push_without_digits(&mut short, word);
        }
        short.push_str(separator);
    }
    short.chars().take(SIGNATURE_LENGTH_MAX).collect()
}

fn is_id(word: &str) -> bool {
    word.len() >= ID_LENGTH_MIN
        && word.contains(|char: char| char.is_ascii_digit())
        && word.chars().all(|char| char.is_ascii_hexdigit() || char == '-')
}

fn push_without_digits(short: &mut String, word: &str) {
    let mut in_number = false;
    for char in word.chars() {
        let digit = char.is_ascii_digit();
        match (digit, in_number) {
            (true, true) => {}
            (true, false) => short.push('#'),
            (false, _) => short.push(char),
        }
        in_number = digit;
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::harness::coverage::Coverage;
    use crate::harness::{Summary, Violation};

    fn played(verdict: Verdict, trace_hash: u64) -> End {
        let summary = Summary { trace_hash, ..Summary::default() };
        End::Played(Box::new(Outcome { verdict, summary, coverage: Coverage::default() }))
    }

    fn violated(what: &str) -> Failure {
        played(Verdict::Violated(Violation::safety(what)), 0).failure().unwrap()
    }

    fn crash(message: &str, place: &str) -> End {
        let (message, place) = (message.to_owned(), place.to_owned());
        End::Crashed(Crash { message, place, output: String::new() })
    }

    #[test]
    fn failures_of_the_same_promise_are_the_same() {
        let one = violated("one leader a term: n1 and n2 both lead term 7");
        let other = violated("one leader a term: n3 and n5 both lead term 12");
        assert_eq!(one.signature(), other.signature());
        assert_eq!(one.signature().to_string(), "safety: one leader a term");
        assert_ne!(one.signature(), violated("acknowledged writes stay: t7").signature());
        let late = played(Verdict::Violated(Violation::liveness("one leader a term: x")), 0);
        assert_ne!(one.signature(), late.failure().unwrap().signature());
    }

    #[test]
    fn numbers_and_ids_do_not_tell_failures_apart() {
        let text =
            "topic t17 (0190f7c2-77aa-7bbb-8ccc-123456789abc) of node 3, hash deadbeef01, decade";
        assert_eq!(without_numbers(text), "topic t# (#) of node #, hash #, decade");
        assert_eq!(without_numbers(""), "");
        assert_eq!(without_numbers(&"ä".repeat(300)).chars().count(), SIGNATURE_LENGTH_MAX);
    }

    #[test]
    fn crashes_are_told_apart_by_their_place() {
        let signature = |end: End| end.failure().unwrap().signature();
        let one = signature(crash("index 7 out of bounds\nof something", "src/x.rs:10:5"));
        assert_eq!(one.to_string(), "crash: index # out of bounds at src/x.rs:10:5");
        assert_eq!(one, signature(crash("index 9 out of bounds\nof more", "src/x.rs:10:5")));
        assert_ne!(one, signature(crash("index 7 out of bounds", "src/x.rs:11:5")));
    }

    #[test]
    fn runs_agree_when_their_traces_do() {
        assert!(played(Verdict::Clean, 1).agrees_with(&played(Verdict::Clean, 1)));
        assert!(!played(Verdict::Clean, 1).agrees_with(&played(Verdict::Clean, 2)));
        assert!(!played(Verdict::Clean, 1).agrees_with(&played(Verdict::Unrecoverable, 1)));
        assert!(!played(Verdict::Clean, 1).agrees_with(&crash("x", "y")));
        assert!(crash("x", "y").agrees_with(&crash("x", "y")));
        assert!(!crash("x", "y").agrees_with(&crash("x", "z")));
        let hung = End::Hung(Duration::from_secs(1));
        assert!(!played(Verdict::Clean, 1).agrees_with(&hung));
        assert!(!hung.agrees_with(&crash("x", "y")) && !hung.agrees_with(&hung));
    }

    #[test]
    fn clean_and_unrecoverable_runs_do_not_fail() {
        assert_eq!(played(Verdict::Clean, 1).failure(), None);
        assert_eq!(played(Verdict::Unrecoverable, 1).failure(), None);
    }
}
