//! Standard output, as every command writes it.
//!
//! Whoever reads it may have seen enough before all is said (`cargo sim list | head -1`). That is no failure: the rest
//! is said to nobody, and the command ends as it would have ended. `println!` panics instead.

use std::fmt::Display;
use std::io::{self, ErrorKind, Write};

use serde::Serialize;

/// Prints `text` as it is.
pub(super) fn print(text: impl Display) -> io::Result<()> {
    print_to(&mut io::stdout().lock(), text)
}

/// Prints `text` and ends the line.
pub(super) fn print_line(text: impl Display) -> io::Result<()> {
    print(format_args!("{text}\n"))
}

/// Prints `value` for programs.
pub(super) fn print_json(value: &impl Serialize) -> io::Result<()> {
    print_line(serde_json::to_string_pretty(value)?)
}

fn print_to(output: &mut impl Write, text: impl Display) -> io::Result<()> {
    match write!(output, "{text}").and_then(|()| output.flush()) {
        Err(error) if error.kind() == ErrorKind::BrokenPipe => Ok(()),
        result => result,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Fails at every write.
    struct Failing(ErrorKind);

    impl Write for Failing {
        fn write(&mut self, _: &[u8]) -> io::Result<usize> {
            Err(self.0.into())
        }

        fn flush(&mut self) -> io::Result<()> {
            Ok(())
        }
    }

    #[test]
    fn a_reader_that_has_gone_is_no_failure_but_a_full_disk_is() {
        assert!(print_to(&mut Failing(ErrorKind::BrokenPipe), "x").is_ok());
        assert!(print_to(&mut Failing(ErrorKind::StorageFull), "x").is_err());
    }
}
