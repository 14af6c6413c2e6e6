//! Starts a process for one run, listens to it, and kills it when it hangs.
//!
//! Nothing polls: the runner waits for the process's standard output to end, which it does when the process ends,
//! however it ends.

#![expect(
    clippy::disallowed_methods,
    reason = "the parent of the simulating processes is real itself"
)]

use std::io::{self, BufRead, BufReader, Read, Write};
use std::path::Path;
use std::process::{Command, ExitStatus, Stdio};
use std::sync::mpsc;
use std::time::{Duration, Instant};

use super::end::{Crash, End};
use super::job::{JOB, Job, MARK, Panic, Play, Said, Work};
use super::{Run, Wants};
use crate::harness::Outcome;

/// Bytes of a run's standard error that are remembered: its last.
const COMPLAINT_BYTES_MAX: usize = 64 * 1024;

/// Lines of a crashed run's standard error that are shown.
const COMPLAINT_LINES_MAX: usize = 30;

/// How long a run that hangs may take to write down what it did until then.
pub(super) const LAST_WORDS: Duration = Duration::from_secs(20);

/// How the panic handler's first line is recognized.
const PANICKED: &str = " panicked at ";

/// The variable that asks for backtraces. A thousand crashes print none unless it was set on purpose.
const BACKTRACE: &str = "RUST_BACKTRACE";

/// Asks the allocator to keep what was freed: a run ends soon, and giving memory back and clearing it again took a
/// tenth of its time.
const KEEP_MEMORY: (&str, &str) = ("MIMALLOC_PURGE_DELAY", "-1");

/// Plays `work` in a process of its own.
pub(super) fn run(
    program: &Path,
    limit: Duration,
    work: &Work<'_>,
    wants: Wants<'_>,
) -> io::Result<Run> {
    let started = Instant::now();
    let mut command = Command::new(program);
    command.env(JOB, serde_json::to_string(&job(work, wants))?);
    command.env(KEEP_MEMORY.0, KEEP_MEMORY.1);
    if std::env::var_os(BACKTRACE).is_none() {
        command.env(BACKTRACE, "0");
    }
    command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped());
    let mut process = command.spawn()?;
    let (Some(mut input), Some(output), Some(complaints)) =
        (process.stdin.take(), process.stdout.take(), process.stderr.take())
    else {
        unreachable!("all three are piped");
    };
    let schedule = match work {
        Work::Seed(..) => None,
        Work::Schedule(schedule) => Some(serde_json::to_string(schedule)?),
    };

    std::thread::scope(|scope| {
        // The process ends when its input does, so that stays open as long as this is there.
        let (keep, dropped) = mpsc::channel::<()>();
        scope.spawn(move || {
            if let Some(schedule) = schedule {
                // It may have ended already; how, its other streams say.
                _ = writeln!(input, "{schedule}");
            }
            _ = dropped.recv();
        });
        let (tell, output_ended) = mpsc::channel();
        let listener = scope.spawn(move || {
            let heard = listen(output, wants.echo);
            // The runner waits for this, or has given up.
            _ = tell.send(());
            heard
        });
        let complaints = scope.spawn(move || tail(complaints, wants.echo));

        let hung = output_ended.recv_timeout(limit).is_err();
        if hung {
            drop(keep);
            if wants.report.is_some() {
                // Whether it ends or not, it is killed then.
                _ = output_ended.recv_timeout(2 * LAST_WORDS);
            }
            // It may end by itself in this very moment.
            _ = process.kill();
        }
        let status = process.wait()?;
        let heard = joined(listener.join())?;
        let complaint = excerpt(&joined(complaints.join())?);
        let report = heard.report;
        let end = if hung { End::Hung(limit) } else { ended(status, heard, &complaint)? };
        Ok(Run { end, took: started.elapsed(), report })
    })
}

/// How much processor time the processes took that this one started and that ended; `None` where the operating
/// system does not say.
pub(super) fn cpu_time() -> Option<Duration> {
    let stat = std::fs::read_to_string("/proc/self/stat").ok()?;
    let ticks = waited_ticks(&stat)?;
    Some(TICK * u32::try_from(ticks).ok()?)
}

/// The unit of times in `/proc`, on every Linux that Rust runs on.
const TICK: Duration = Duration::from_millis(10);

/// The fields `cutime` and `cstime`: see proc(5).
fn waited_ticks(stat: &str) -> Option<u64> {
    // The second field is the program's name in parentheses, and may hold anything. `cutime` is the sixteenth.
    let (_, fields) = stat.rsplit_once(')')?;
    let mut fields = fields.split_whitespace().skip(13);
    let mut next = || fields.next()?.parse::<u64>().ok();
    Some(next()? + next()?)
}

fn job(work: &Work<'_>, wants: Wants<'_>) -> Job {
    let play = match work {
        Work::Seed(piece, seed) => Play::Seed { piece: piece.name().to_owned(), seed: *seed },
        Work::Schedule(_) => Play::Schedule,
    };
    Job {
        play,
        trace: wants.trace.map(Path::to_owned),
        report: wants.report.map(Path::to_owned),
        command: wants.command.map(str::to_owned),
    }
}

/// What became of a thread that only reads.
fn joined<T>(result: std::thread::Result<io::Result<T>>) -> io::Result<T> {
    result.unwrap_or_else(|panic| std::panic::resume_unwind(panic))
}

/// What a process said to its runner.
#[derive(Default)]
struct Heard {
    /// The first panic: later ones follow from it.
    panic: Option<Panic>,
    /// Whether its report is written.
    report: bool,
    outcome: Option<Outcome>,
}

/// Picks what is meant for the runner out of a process's standard output.
fn listen(output: impl Read, echo: bool) -> io::Result<Heard> {
    let mut output = BufReader::new(output);
    let (mut heard, mut line) = (Heard::default(), Vec::new());
    loop {
        line.clear();
        if output.read_until(b'\n', &mut line)? == 0 {
            return Ok(heard);
        }
        let Some(said) = line.strip_prefix(MARK.as_bytes()) else {
            if echo && line != b"\n" {
                io::stderr().write_all(&line)?;
            }
            continue;
        };
        // A process that is killed may leave half a line.
        match serde_json::from_slice(said) {
            Ok(Said::Panic(panic)) => {
                heard.panic.get_or_insert(panic);
            }
            Ok(Said::Report) => heard.report = true,
            Ok(Said::Outcome(outcome)) => heard.outcome = Some(outcome),
            Err(_) => {}
        }
    }
}

/// Reads to the end, and returns the last [`COMPLAINT_BYTES_MAX`].
fn tail(mut stream: impl Read, echo: bool) -> io::Result<Vec<u8>> {
    let (mut kept, mut buffer) = (Vec::new(), [0; 4096]);
    loop {
        let length = stream.read(&mut buffer)?;
        if length == 0 {
            kept.drain(..kept.len().saturating_sub(COMPLAINT_BYTES_MAX));
            return Ok(kept);
        }
        if echo {
            io::stderr().write_all(&buffer[..length])?;
        }
        kept.extend_from_slice(&buffer[..length]);
        if kept.len() > 2 * COMPLAINT_BYTES_MAX {
            kept.drain(..kept.len() - COMPLAINT_BYTES_MAX);
        }
    }
}

/// The lines that matter: from the first panic on, else the last.
fn excerpt(complaint: &[u8]) -> String {
    let text = String::from_utf8_lossy(complaint);
    let lines: Vec<_> = text.trim_end().lines().collect();
    let panic = lines.iter().position(|line| line.contains(PANICKED));
    let start = panic.unwrap_or(lines.len().saturating_sub(COMPLAINT_LINES_MAX));
    lines[start..].iter().take(COMPLAINT_LINES_MAX).copied().collect::<Vec<_>>().join("\n")
}

/// How a process ended that was not killed.
fn ended(status: ExitStatus, heard: Heard, complaint: &str) -> io::Result<End> {
    let crash = |message: String, place: String| {
        End::Crashed(Crash { message, place, output: complaint.to_owned() })
    };
    match (status.code(), heard) {
        (Some(0..=99), Heard { outcome: Some(outcome), .. }) => Ok(End::Played(Box::new(outcome))),
        // `child()` could not even begin, or `program` is something else.
        (Some(code @ 0..=99), Heard { panic: None, .. }) => {
            Err(io::Error::other(format!("a run said nothing and exited with {code}: {complaint}")))
        }
        (_, Heard { panic: Some(Panic { message, place }), .. }) => Ok(crash(message, place)),
        // Without a word: out of memory, a stack overflow, an abort.
        _ => Ok(crash(status.to_string(), "nowhere".to_owned())),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_runner_hears_only_what_is_meant_for_it() {
        let panic = |message: &str| {
            let panic = Panic { message: message.to_owned(), place: "src/x.rs:1:2".to_owned() };
            format!("{MARK}{}\n", serde_json::to_string(&Said::Panic(panic)).unwrap())
        };
        let output =
            format!("a debug print\n{}\u{fffd}{}{MARK}{{\"half", panic("first"), panic("second"));
        let heard = listen(output.as_bytes(), false).unwrap();
        assert_eq!(heard.panic.unwrap().message, "first");
        assert!(heard.outcome.is_none());
    }

    #[test]
    fn processor_time_is_read_behind_any_name() {
        let stat = "7 (a ) b) S 1 7 7 0 -1 4194304 1 2 3 4 50 60 700 80 20 0 1 0";
        assert_eq!(waited_ticks(stat), Some(780));
        assert_eq!(waited_ticks("7 (x) S 1"), None);
    }

    #[test]
    fn of_a_flood_the_end_is_remembered() {
        let mut flood = vec![b'x'; 5 * COMPLAINT_BYTES_MAX];
        flood.extend_from_slice(b"end");
        let kept = tail(flood.as_slice(), false).unwrap();
        assert_eq!(kept.len(), COMPLAINT_BYTES_MAX);
        assert!(kept.ends_with(b"xend"));
    }

    #[test]
    fn an_excerpt_begins_with_the_panic() {
        let mut text =
            "noise\nthread '<unnamed>' (7) panicked at src/x.rs:1:2:\nit broke\n".to_owned();
        text += &"frame\n".repeat(100);
        let shown = excerpt(text.as_bytes());
        assert!(shown.starts_with("thread '<unnamed>'"), "{shown}");
        assert_eq!(shown.lines().count(), COMPLAINT_LINES_MAX);
        assert_eq!(
            excerpt(&"line\n".repeat(100).into_bytes()).lines().count(),
            COMPLAINT_LINES_MAX
        );
        assert_eq!(excerpt(b""), "");
    }
}
