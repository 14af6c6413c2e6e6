//! The process that plays.

#![expect(
    clippy::disallowed_methods,
    reason = "around the simulation, the process is real: it writes files and hears when its runner is gone"
)]

use std::env;
use std::error::Error;
use std::fs::File;
use std::io::{self, BufRead, BufReader, BufWriter, Read, Write};
use std::panic::{self, AssertUnwindSafe};
use std::path::Path;
use std::process::ExitCode;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, mpsc};

use super::job::{EXIT_LIVENESS, EXIT_SAFETY, JOB, Job, MARK, Panic, Piece, Play, Said};
use super::process::LAST_WORDS;
use super::selftest::Selftest;
use crate::harness::record::{Recorder, frame};
use crate::harness::scenarios::{Played, Script, play_recorded};
use crate::harness::schedule::Schedule;
use crate::harness::subject::Subject;
use crate::harness::{Broken, Verdict};
use crate::report::recording::Recording;
use crate::report::render;

/// What the report of a run says that was cut off.
const HUNG: &str =
    "the run did not end in the real time that it was given: what is here happened before";

/// Bytes of a panic's message that are passed on.
const MESSAGE_BYTES_MAX: usize = 4096;

/// If this process was started for a run, plays it and says how to exit.
///
/// A program that has a [`Runner`](super::Runner) of itself calls this before anything else.
#[must_use]
pub fn child() -> Option<ExitCode> {
    child_of(Subject::default())
}

/// The same, with `subject` in the place of yakt as it is.
#[must_use]
pub fn child_of(subject: Subject) -> Option<ExitCode> {
    let job = env::var(JOB).ok()?;
    Some(play(&job, subject).unwrap_or_else(|error| {
        eprintln!("cannot play {job}: {error}");
        ExitCode::FAILURE
    }))
}

fn play(job: &str, subject: Subject) -> Result<ExitCode, Box<dyn Error>> {
    let job: Job = serde_json::from_str(job)?;
    let recorder = Recorder::new(job.report.is_some());
    tell_of_panics(recorder.clone());
    let last_words = LastWords::default();
    let first_line = follow_runner(last_words.clone());
    let part = match &job.play {
        Play::Seed { piece, seed } => match piece_of(&subject, piece)? {
            Piece::Scenario(scenario) => Part::Script(Script::Seed(scenario, *seed)),
            Piece::Selftest(selftest) => Part::Selftest(selftest, *seed, selftest.draw(*seed)),
        },
        Play::Schedule => {
            let schedule: Schedule = serde_json::from_str(&first_line.recv()?)?;
            match Selftest::find(&schedule.scenario) {
                Some(selftest) => Part::Selftest(selftest, schedule.seed, Some(schedule)),
                None => Part::Script(Script::Schedule(Box::new(schedule))),
            }
        }
    };
    let (name, seed) = part.name();
    let trace_lines = job.trace.is_some();
    let command = subject.command(&name, seed);
    let hung = {
        let (job, recorder) = (job.clone(), recorder.clone());
        let frame = frame(&name, seed, command.clone());
        move || recorder.finish_hung(frame, HUNG).map_or(Ok(()), |page| report(&job, page))
    };
    *last_words.lock() = Some(Box::new(hung));
    let play = || part.play(subject, trace_lines, recorder.clone());
    // All that is looked at after a panic is the recorder, which is made for that.
    let played = panic::catch_unwind(AssertUnwindSafe(play)).unwrap_or_else(|panic| {
        let _nobody_else = last_words.withdrawn();
        if let Some(recording) = recorder.finish_crashed(frame(&name, seed, command))
            && let Err(error) = report(&job, recording)
        {
            eprintln!("no report: {error}");
        }
        panic::resume_unwind(panic)
    });
    let Played { outcome, trace, recording } = played;
    if let Some(path) = &job.trace {
        write_lines(path, &trace)?;
    }
    if let Some(recording) = recording {
        let _nobody_else = last_words.withdrawn();
        report(&job, recording)?;
    }
    let exit = match &outcome.verdict {
        Verdict::Clean | Verdict::Unrecoverable => ExitCode::SUCCESS,
        Verdict::Violated(violation) => ExitCode::from(match violation.broken {
            Broken::Safety => EXIT_SAFETY,
            Broken::Liveness => EXIT_LIVENESS,
        }),
    };
    say(&Said::Outcome(outcome))?;
    Ok(exit)
}

/// What is called `name`: one of the subject's own scenarios first.
fn piece_of(subject: &Subject, name: &str) -> Result<Piece, String> {
    subject.scenario(name).map_or_else(|| name.parse(), |scenario| Ok(Piece::Scenario(scenario)))
}

/// Has panics told to the runner and to `recorder`, besides being printed.
fn tell_of_panics(recorder: Recorder) {
    let print = panic::take_hook();
    panic::set_hook(Box::new(move |info| {
        let panic = panic_of(info);
        let what = format!("{}\nat {}", panic.message, panic.place);
        // Whoever would read it may be gone.
        _ = say(&Said::Panic(panic));
        recorder.crash(&what);
        print(info);
    }));
}

/// What is played.
enum Part {
    Script(Script),
    Selftest(Selftest, u64, Option<Schedule>),
}

impl Part {
    /// What it is called, and its seed.
    fn name(&self) -> (String, u64) {
        match self {
            Self::Script(script) => script.name(),
            Self::Selftest(selftest, seed, _) => (selftest.name().to_owned(), *seed),
        }
    }

    fn play(self, subject: Subject, trace_lines: bool, recorder: Recorder) -> Played {
        match self {
            Self::Script(script) => play_recorded(subject, script, trace_lines, recorder),
            Self::Selftest(selftest, seed, schedule) => {
                selftest.play(seed, schedule.as_ref(), trace_lines, &recorder)
            }
        }
    }
}

/// Writes `recording` as a page where the job wants it, if it wants one.
fn report(job: &Job, mut recording: Recording) -> io::Result<()> {
    let Some(path) = &job.report else { return Ok(()) };
    if let Some(command) = &job.command {
        recording.command.clone_from(command);
    }
    std::fs::write(path, render(&recording))?;
    say(&Said::Report)
}

/// What is still to be done once the runner waits no longer.
type Speech = Box<dyn FnOnce() -> io::Result<()> + Send>;

/// The [`Speech`], if there is one. Whoever writes the report holds the lock: a run that was given up may come to its end
/// after all meanwhile.
#[derive(Clone, Default)]
struct LastWords(Arc<Mutex<Option<Speech>>>);

impl LastWords {
    fn lock(&self) -> MutexGuard<'_, Option<Speech>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// There are none any more; waits for ever if they are being spoken, as the process ends with them.
    fn withdrawn(&self) -> MutexGuard<'_, Option<Speech>> {
        let mut speech = self.lock();
        *speech = None;
        speech
    }
}

/// Ends the process when standard input ends: then the runner is gone or waits no longer, and a run that hangs would go on
/// for ever. Has the last words before, unless they do not end either. Returns where its first line will come.
fn follow_runner(last_words: LastWords) -> mpsc::Receiver<String> {
    let (sender, receiver) = mpsc::channel();
    std::thread::spawn(move || {
        let mut input = BufReader::new(io::stdin());
        let mut line = String::new();
        if input.read_line(&mut line).is_ok_and(|length| length > 0) {
            _ = sender.send(line);
            while input.read(&mut [0; 64]).is_ok_and(|length| length > 0) {}
        }
        std::thread::spawn(move || {
            let mut speech = last_words.lock();
            if let Some(Err(error)) = speech.take().map(|speak| speak()) {
                eprintln!("no report: {error}");
            }
            // Still locked.
            std::process::exit(1);
        });
        std::thread::sleep(LAST_WORDS);
        std::process::exit(1);
    });
    receiver
}

fn say(said: &Said) -> io::Result<()> {
    let line = serde_json::to_string(said)?;
    let mut output = io::stdout().lock();
    // In a line of its own, even after a print without a line's end.
    writeln!(output, "\n{MARK}{line}")?;
    output.flush()
}

fn panic_of(info: &panic::PanicHookInfo<'_>) -> Panic {
    let mut message = info.payload_as_str().unwrap_or("(no message)").to_owned();
    if message.len() > MESSAGE_BYTES_MAX {
        message.truncate(message.floor_char_boundary(MESSAGE_BYTES_MAX));
        message.push('…');
    }
    let place = info.location().map_or_else(|| "nowhere".to_owned(), ToString::to_string);
    Panic { message, place }
}

fn write_lines(path: &Path, lines: &[String]) -> io::Result<()> {
    let mut file = BufWriter::new(File::create(path)?);
    for line in lines {
        writeln!(file, "{line}")?;
    }
    file.flush()
}
