//! How the program ends: exit codes with a meaning, and failures told in plain words.

use std::fmt;
use std::io::{self, Write};
use std::process::ExitCode;

use anstream::ColorChoice;

use crate::paint;

/// What the exit code says.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Exit {
    /// 0: it was done, or shown; with `--until-done`: the release ended healthy.
    Done,
    /// 1: it was refused, by the API server or by the controller; with `--until-done`: the release
    /// was aborted.
    Refused,
    /// 2: the arguments or the input are wrong, or they name something that does not exist.
    Usage,
    /// 3: the outcome did not come in time; the request stands.
    TimedOut,
    /// 4: the API server could not be reached, or answered with an error.
    Api,
}

impl Exit {
    /// The number that the shell sees.
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

/// Why it did not work, and what would help.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Failure {
    /// The exit code.
    pub exit: Exit,
    /// What happened, in a sentence.
    pub message: String,
    /// What to do about it, a line each.
    pub hints: Vec<String>,
}

impl Failure {
    /// A failure without a hint.
    pub fn new(exit: Exit, message: impl Into<String>) -> Self {
        Self {
            exit,
            message: message.into(),
            hints: Vec::new(),
        }
    }

    /// The same with one more hint.
    #[must_use]
    pub fn hint(mut self, hint: impl Into<String>) -> Self {
        self.hints.push(hint.into());
        self
    }
}

impl fmt::Display for Failure {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.message)?;
        self.hints
            .iter()
            .try_for_each(|hint| write!(f, "\n  {hint}"))
    }
}

impl std::error::Error for Failure {}

/// A reader that has gone away (`kubectl serin list | head -1`) is not a failure; any other trouble
/// with output is.
impl From<io::Error> for Failure {
    fn from(error: io::Error) -> Self {
        let exit = if error.kind() == io::ErrorKind::BrokenPipe {
            Exit::Done
        } else {
            Exit::Usage
        };
        Self::new(exit, format!("cannot write the output: {error}"))
    }
}

/// Tells the failure on stderr, unless it is none, and gives its exit code.
pub fn told(failure: &Failure, colour: ColorChoice) -> Exit {
    if failure.exit != Exit::Done {
        let mut out = anstream::AutoStream::new(io::stderr().lock(), colour);
        // Where stderr is closed nobody can be told; the exit code still says it.
        let _ = writeln!(out, "{} {failure}", paint::bad("error:"));
    }
    failure.exit
}

/// Prints clap's answer (help, version or a usage error) and gives its exit code.
pub fn after_usage(usage: &clap::Error) -> ExitCode {
    // Where the stream is closed nobody can be told; the exit code still says it.
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
            Failure::from(io::Error::from(io::ErrorKind::BrokenPipe)).exit,
            Exit::Done
        );
        assert_eq!(
            Failure::from(io::Error::from(io::ErrorKind::StorageFull)).exit,
            Exit::Usage
        );
    }

    #[test]
    fn hints_follow_the_message_on_lines_of_their_own() {
        let failure = Failure::new(Exit::Refused, "no")
            .hint("ask")
            .hint("ask again");
        assert_eq!(failure.to_string(), "no\n  ask\n  ask again");
    }
}
