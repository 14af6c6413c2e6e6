//! The log of `yakt node`, on standard error: best effort.
//!
//! Standard error may be full (`2>/dev/full`), closed (`2> >(head)`), or a pipe that its reader
//! does not empty. None of these may panic, block or stop a node. So a thread of its own writes the
//! lines and ignores errors. A line that finds [`LINES_MAX`] others waiting is dropped.
//!
//! A panic that the storage engine's caller does not expect ends the process: a node never goes on
//! without one of its tasks.

use std::io::{self, IsTerminal, Write};
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::mpsc::{SyncSender, TrySendError, sync_channel};
use std::time::{Duration, Instant};

use tracing_subscriber::EnvFilter;
use tracing_subscriber::fmt::MakeWriter;

/// Lines that may wait to be written: about a megabyte.
const LINES_MAX: usize = 4_096;

/// How long writing the last lines of a process may take.
const FLUSH_LIMIT: Duration = Duration::from_secs(1);

/// Pause between two checks whether they are written.
const FLUSH_PAUSE: Duration = Duration::from_millis(5);

/// The exit status after a panic: Rust's own.
const PANIC_STATUS: i32 = 101;

/// Sends lines to the thread that writes them. Clones share it.
#[derive(Clone)]
pub(super) struct Log {
    lines: SyncSender<Vec<u8>>,
    /// Lines that are not written yet.
    waiting: Arc<AtomicUsize>,
}

impl Log {
    /// Logs as `RUST_LOG` or `default_filter` asks for, and ends the process after a panic.
    pub(super) fn start(default_filter: &str) -> io::Result<Self> {
        let log = Self::to(io::stderr())?;
        let filter = EnvFilter::try_from_default_env();
        tracing_subscriber::fmt()
            .with_env_filter(filter.unwrap_or_else(|_| EnvFilter::new(default_filter)))
            .with_ansi(io::stderr().is_terminal())
            .with_writer(log.clone())
            .init();
        let last_words = log.clone();
        std::panic::set_hook(Box::new(move |panic| {
            if !yakt::env::panics_are_caught() {
                last_words
                    .line(&format!("yakt: {panic}\n{}", std::backtrace::Backtrace::capture()));
                std::process::exit(PANIC_STATUS);
            }
        }));
        Ok(log)
    }

    fn to(mut output: impl Write + Send + 'static) -> io::Result<Self> {
        let (lines, queue) = sync_channel::<Vec<u8>>(LINES_MAX);
        let waiting = Arc::new(AtomicUsize::new(0));
        let written = Arc::clone(&waiting);
        let work = move || {
            for line in queue {
                let _ = output.write_all(&line).and_then(|()| output.flush());
                written.fetch_sub(1, Ordering::Release);
            }
        };
        std::thread::Builder::new().name("yakt-log".to_owned()).spawn(work)?;
        Ok(Self { lines, waiting })
    }

    fn queue(&self, line: &[u8]) {
        self.waiting.fetch_add(1, Ordering::Acquire);
        if let Err(TrySendError::Full(_) | TrySendError::Disconnected(_)) =
            self.lines.try_send(line.to_vec())
        {
            self.waiting.fetch_sub(1, Ordering::Release);
        }
    }

    /// Writes `text`, and waits for [`FLUSH_LIMIT`] at most until all lines are written.
    pub(super) fn line(&self, text: &str) {
        self.queue(format!("{text}\n").as_bytes());
        self.flush();
    }

    /// Waits for [`FLUSH_LIMIT`] at most until all lines are written.
    pub(super) fn flush(&self) {
        let deadline = Instant::now() + FLUSH_LIMIT;
        while self.waiting.load(Ordering::Acquire) > 0 && Instant::now() < deadline {
            std::thread::sleep(FLUSH_PAUSE);
        }
    }
}

/// Each event is one write.
impl Write for Log {
    fn write(&mut self, line: &[u8]) -> io::Result<usize> {
        self.queue(line);
        Ok(line.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

impl MakeWriter<'_> for Log {
    type Writer = Self;

    fn make_writer(&self) -> Self {
        self.clone()
    }
}

#[cfg(test)]
mod tests {
    use std::sync::mpsc;

    use super::*;

    /// Passes each written line on, and fails or waits as the test tells it.
    struct Output(mpsc::Receiver<io::Result<()>>, mpsc::Sender<Vec<u8>>);

    impl Write for Output {
        fn write(&mut self, line: &[u8]) -> io::Result<usize> {
            self.0.recv().unwrap_or(Ok(()))?;
            let _ = self.1.send(line.to_vec());
            Ok(line.len())
        }

        fn flush(&mut self) -> io::Result<()> {
            Ok(())
        }
    }

    #[test]
    fn lines_after_a_failure_are_written_and_a_stuck_output_blocks_nothing() {
        let (permit, permits) = mpsc::channel();
        let (written, lines) = mpsc::channel();
        let mut log = Log::to(Output(permits, written)).unwrap();
        for line in ["first\n", "second\n"] {
            log.write_all(line.as_bytes()).unwrap();
        }
        permit.send(Err(io::ErrorKind::BrokenPipe.into())).unwrap();
        permit.send(Ok(())).unwrap();
        assert_eq!(lines.recv().unwrap(), b"second\n");
        for _ in 0..3 * LINES_MAX {
            log.write_all(b"dropped or kept\n").unwrap();
        }
        assert!(log.waiting.load(Ordering::Relaxed) <= LINES_MAX + 1);
        drop(permit);
    }
}
