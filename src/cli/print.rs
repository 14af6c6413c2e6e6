//! Output that cannot end the program.
//!
//! `println!` and `eprintln!` panic when the reader of a pipe is gone or a disk is full.

use std::fmt::Display;
use std::io::{ErrorKind, Write};

use super::Failure;

/// Writes `result`, the purpose of the command, to standard output. A reader that closed the pipe
/// has read enough: that is no failure.
pub(super) fn result(result: impl Display) -> Result<(), Failure> {
    let mut out = std::io::stdout().lock();
    match writeln!(out, "{result}").and_then(|()| out.flush()) {
        Err(error) if error.kind() != ErrorKind::BrokenPipe => {
            Err(format!("cannot write to standard output: {error}").into())
        }
        _ => Ok(()),
    }
}

/// Reports the command's progress on standard output, if that can be written.
pub(super) fn news(line: impl Display) {
    let _ = writeln!(std::io::stdout(), "{line}");
}

/// Reports the command's progress or failure on standard error, if that can be written.
pub(super) fn notice(text: impl Display) {
    let mut out = std::io::stderr().lock();
    let _ = write!(out, "{text}").and_then(|()| out.flush());
}
