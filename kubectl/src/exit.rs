//! Exit codes and errors of the program.

use std::fmt;
use std::io::{self, Write};
use std::process::ExitCode;

use anstream::ColorChoice;

use crate::display_text::printable_lines;
use crate::style;

/// Exit code of the program.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Exit {
    /// 0: done; with `--until-done`, the release ended healthy.
    Done,
    /// 1: refused by the API server or by the controller; with `--until-done`, the release was
    /// aborted.
    Refused,
    /// 2: wrong arguments or input, or the named object does not exist.
    Usage,
    /// 3: no outcome within the timeout; the command remains in place.
    TimedOut,
    /// 4: the API server or Prometheus could not be reached or returned an error.
    Api,
}

impl Exit {
    /// The numeric exit code.
    pub const fn code(self) -> u8 {
        match self {
            Self::Done => 0,
            Self::Refused => 1,
            Self::Usage => 2,
            Self::TimedOut => 3,
            Self::Api => 4,
        }
    }
}

impl From<Exit> for ExitCode {
    fn from(exit: Exit) -> Self {
        Self::from(exit.code())
    }
}

/// An error with its exit code and hints.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct CliError {
    /// The exit code.
    pub exit: Exit,
    /// The problem, in one sentence.
    pub message: String,
    /// Possible fixes, one per line.
    pub hints: Vec<String>,
}

impl CliError {
    /// Creates an error without hints.
    pub fn new(exit: Exit, message: impl Into<String>) -> Self {
        Self {
            exit,
            message: message.into(),
            hints: Vec::new(),
        }
    }

    /// Adds a hint.
    #[must_use]
    pub fn hint(mut self, hint: impl Into<String>) -> Self {
        self.hints.push(hint.into());
        self
    }
}

impl fmt::Display for CliError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.message)?;
        self.hints
            .iter()
            .try_for_each(|hint| write!(f, "\n  {hint}"))
    }
}

impl std::error::Error for CliError {}

/// A closed reader (`kubectl serin list | head -1`) is not an error. Any other output error is.
impl From<io::Error> for CliError {
    fn from(error: io::Error) -> Self {
        let exit = if error.kind() == io::ErrorKind::BrokenPipe {
            Exit::Done
        } else {
            Exit::Usage
        };
        Self::new(exit, format!("cannot write the output: {error}"))
    }
}

/// Prints the error to stderr unless it stands for success, and returns the exit code.
pub fn report_error(failure: &CliError, color: ColorChoice) -> Exit {
    if failure.exit != Exit::Done {
        let mut out = anstream::AutoStream::new(io::stderr().lock(), color);
        // If stderr is closed, the exit code is all that is left.
        let text = failure.to_string();
        let _ = writeln!(out, "{} {}", style::error("error:"), printable_lines(&text));
    }
    failure.exit
}

/// Prints help, version or a usage error from clap and returns the exit code.
pub fn report_usage(usage: &clap::Error) -> ExitCode {
    // If the stream is closed, the exit code is all that is left.
    let _ = usage.print();
    if usage.use_stderr() {
        Exit::Usage.into()
    } else {
        Exit::Done.into()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_broken_pipe_is_success() {
        assert_eq!(
            CliError::from(io::Error::from(io::ErrorKind::BrokenPipe)).exit,
            Exit::Done
        );
        assert_eq!(
            CliError::from(io::Error::from(io::ErrorKind::StorageFull)).exit,
            Exit::Usage
        );
    }

    #[test]
    fn each_hint_is_on_its_own_line() {
        let failure = CliError::new(Exit::Refused, "no")
            .hint("first")
            .hint("second");
        assert_eq!(failure.to_string(), "no\n  first\n  second");
    }
}
